package perf

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Plan resolves requests on this host and forms groups, which it tries out by
// opening them for a moment on one CPU of each kind. An event that is asked for
// twice by the same name is counted once.
//
// Events that this host does not count are not an error, they are in
// [Plan.Omitted]: all of them, on a host without a PMU. A [*RequestError] is one
// of whoever asked, with all of them at once: an [*UnknownError] for each unknown
// name, events that are written wrong, different names of the same event, and
// groups that do not fit. Other errors are the host's and may pass, as a
// [*LimitError]; [fs.ErrPermission] if this user may not count.
func (f FS) Plan(requests []Request) (*Plan, error) {
	cpus, err := f.onlineCPUs()
	if err != nil {
		return nil, err
	}
	p := planner{plan: &Plan{}, cpus: cpus, resolve: f.Resolve}
	return p.make(requests)
}

type planner struct {
	plan    *Plan
	cpus    []int // online
	resolve func(name string) (*Event, error)
}

// A wish is a request that was resolved.
type wish struct {
	text   string // as the user wrote it
	events []*Event
	group  bool
}

func (p *planner) make(requests []Request) (*Plan, error) {
	wishes, err := p.resolveAll(requests)
	if err != nil {
		return nil, err
	}
	var problems []error
	var single []*Event
	for _, w := range wishes {
		var counted []*Event
		for _, e := range w.events {
			err := withoutPMU(e, p.try([]*Event{e}, 0).err)
			why := omission(err)
			switch {
			case err == nil:
				counted = append(counted, e)
			case why != nil:
				p.omit(e.Name, why)
			default:
				return nil, fmt.Errorf("%s: %w", e.Name, err) // it is not about this event
			}
		}
		if !w.group {
			single = append(single, counted...)
			continue
		}
		if len(counted) == 0 {
			continue
		}
		misfit, err := p.fits(counted)
		switch {
		case errors.Is(err, unix.EBUSY):
			for _, e := range counted {
				p.omit(e.Name, err)
			}
		case err != nil:
			return nil, fmt.Errorf("%s: %w", w.text, err)
		case misfit != nil:
			problems = append(problems, fmt.Errorf("%s: %w", w.text, misfit))
		default:
			p.plan.Groups = append(p.plan.Groups, counted)
		}
	}
	if problems != nil {
		return nil, &RequestError{errors.Join(problems...)}
	}
	if err := p.pack(single); err != nil {
		return nil, err
	}
	for _, g := range p.plan.Groups {
		if err := p.starved(g); err != nil {
			p.plan.Starved = append(p.plan.Starved, err)
		}
	}
	return p.plan, nil
}

// omission is the reason to do without an event that could not be opened alone,
// nil if the error is not about this event.
func omission(err error) error {
	switch {
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w%w", err, unsupported{})
	case errors.Is(err, errors.ErrUnsupported), errors.Is(err, unix.EBUSY):
		return err
	}
	return nil
}

func (p *planner) omit(name string, err error) {
	p.plan.Omitted = append(p.plan.Omitted, Omission{Name: name, Err: err})
}

// resolveAll resolves every name once. Names in groups come first: what is
// also asked for alone is counted in its group.
func (p *planner) resolveAll(requests []Request) ([]wish, error) {
	wishes := make([]wish, len(requests))
	var problems []error
	names := map[string]int{}      // the request that an event is counted in
	aliases := map[string]string{} // the name that has an alias
	take := func(i int, name string) {
		if first, again := names[name]; again {
			if first != i && requests[i].Group {
				problems = append(problems, fmt.Errorf("%s: in more than one group, but it is counted once", name))
			}
			return
		}
		names[name] = i
		e, err := p.resolve(name)
		switch {
		case err == nil:
		case !isMistake(err):
			p.omit(name, err) // a tracepoint whose number this user may not read is no reason to do without the others
			return
		default:
			problems = append(problems, err)
			return
		}
		if other, again := aliases[e.Alias]; again {
			problems = append(problems, fmt.Errorf("%s: it would be called %s, as %s is: leave one out, or give it another name with name= or NAME__r", name, e.Alias, other))
			return
		}
		aliases[e.Alias] = name
		wishes[i].events = append(wishes[i].events, e)
	}
	for _, groups := range []bool{true, false} {
		for i, r := range requests {
			if r.Group != groups {
				continue
			}
			wishes[i].group = r.Group
			wishes[i].text = strings.Join(r.Events, ",")
			if r.Group {
				wishes[i].text = "{" + wishes[i].text + "}"
			}
			for _, name := range r.Events {
				take(i, name)
			}
		}
	}
	if problems != nil {
		return nil, &RequestError{errors.Join(problems...)}
	}
	return wishes, nil
}

// A result is that of trying a group.
type result struct {
	opened int // events that could be opened, on the CPU where it was fewest
	err    error
	// denied: every event opened, but something that goes first (the NMI
	// watchdog, another's pinned events) left too few counters for the group.
	denied bool
}

// try opens events as a group on one CPU of each kind, and closes them. They
// count: Arm's PMUs leave out disabled events when they validate a group
// (validate_event, drivers/perf/arm_pmu.c). With PerfBitPinned among bits the
// result's denied is known: a pinned group that does not get its counters at
// once never does, and reads as nothing.
func (p *planner) try(events []*Event, bits uint64) result {
	r := result{opened: len(events)}
	fds := make([]int32, len(events))
	var buf [(groupHeader + 1) * 8]byte
	for _, cpu := range kinds(p.cpus, events) {
		failed, err := openGroup(fds, events, bits, -1, cpu, 0)
		if err != nil {
			if r.err == nil || failed < r.opened {
				r.opened, r.err = failed, err
			}
			continue
		}
		if leader := leaderOf(fds); leader >= 0 && bits&unix.PerfBitPinned != 0 {
			// Too small a buffer for the group is ENOSPC, but only for one that counts.
			n, err := unix.Read(int(fds[leader]), buf[:])
			r.denied = r.denied || err == nil && n == 0
		}
		_ = closeGroup(fds)
	}
	return r
}

// kinds returns one CPU for each set of encodings that CPUs have of the events.
func kinds(cpus []int, events []*Event) []int {
	var list []int
	seen := map[string]bool{}
	var kind []byte
	for _, cpu := range cpus {
		kind = kind[:0]
		for _, e := range events {
			kind = append(kind, byte(e.indexOn(cpu)))
		}
		if !seen[string(kind)] {
			seen[string(kind)] = true
			list = append(list, cpu)
		}
	}
	return list
}

// fits says why events, each of which can be opened alone, are no group: misfit.
// Whether others leave it counters is no matter. err is what kept it from telling.
func (p *planner) fits(events []*Event) (misfit, err error) {
	r := p.try(events, 0)
	if !errors.Is(r.err, unix.EINVAL) {
		return nil, r.err
	}
	e := events[r.opened]
	for _, other := range events[:r.opened] {
		switch err := p.try([]*Event{other, e}, 0).err; {
		case errors.Is(err, unix.EINVAL):
			return fmt.Errorf("%s and %s cannot be counted together, they are of different PMUs or need the same counter: put them into different groups", other.Name, e.Name), nil
		case err != nil:
			return nil, err
		}
	}
	room := slices.Clone(events[:r.opened])
	for _, e := range events[r.opened+1:] {
		if p.try(append(slices.Clone(room), e), 0).err == nil {
			room = append(room, e)
		}
	}
	return fmt.Errorf("%d events, but this PMU counts %d at once (%s fit): split the group", len(events), len(room), names(room)), nil
}

// starved says that others leave a group too few counters. validate_group of
// the PMU's driver, which decides what fits, looks at the group alone.
func (p *planner) starved(events []*Event) error {
	denied := func(events []*Event) bool {
		r := p.try(events, unix.PerfBitPinned)
		return r.err == nil && r.denied // whoever opens the group meets the error, if it does not pass
	}
	n := len(events)
	for n > 0 && denied(events[:n]) {
		n--
	}
	if n == len(events) {
		return nil
	}
	return fmt.Errorf("{%s} fits, but is not counted while others hold counters, which are enough for %d of %d events now: find who does (kernel.nmi_watchdog=0 frees one; perf; another agent), or ask for smaller groups", names(events), n, len(events))
}

func names(events []*Event) string {
	list := make([]string, len(events))
	for i, e := range events {
		list[i] = e.Name
	}
	return strings.Join(list, ",")
}

// together are events whose ratio is of interest, by the names of the original
// (aliases), in the order in which they get a place.
var together = [...][]string{{"cycles", "instructions"}, {"cache_references", "cache_misses"}, {"stalls_mem_load"}}

// pack forms groups of events that nobody grouped: as few as the PMU takes.
// What belongs together goes into the first group that has room for all of it.
// Software events, which need no counters, are a group of their own.
func (p *planner) pack(events []*Event) error {
	var bundles [][]*Event
	rest := slices.Clone(events)
	for _, aliases := range together {
		var bundle []*Event
		rest = slices.DeleteFunc(rest, func(e *Event) bool {
			if !slices.Contains(aliases, e.Alias) {
				return false
			}
			bundle = append(bundle, e)
			return true
		})
		slices.SortFunc(bundle, func(a, b *Event) int {
			return slices.Index(aliases, a.Alias) - slices.Index(aliases, b.Alias)
		})
		bundles = append(bundles, bundle)
	}
	for _, e := range rest {
		bundles = append(bundles, []*Event{e})
	}
	var hardware, software [][]*Event
	for _, bundle := range bundles {
		if len(bundle) == 0 {
			continue
		}
		groups := &hardware
		if isSoftware(bundle[0]) {
			groups = &software
		}
		var err error
		if *groups, err = p.place(*groups, bundle); err != nil {
			return err
		}
	}
	p.plan.Groups = slices.Concat(p.plan.Groups, hardware, software)
	return nil
}

// place adds a bundle to the first group that has room for it, or to groups of
// its own.
func (p *planner) place(groups [][]*Event, bundle []*Event) ([][]*Event, error) {
	for i, g := range groups {
		bigger := slices.Concat(g, bundle)
		r := p.try(bigger, unix.PerfBitPinned)
		switch {
		case r.err == nil && !r.denied:
			groups[i] = bigger
			return groups, nil
		case r.err != nil && !doesNotFit(r.err):
			return nil, fmt.Errorf("%s: %w", bundle[0].Name, r.err)
		}
	}
	if len(bundle) > 1 {
		r := p.try(bundle, unix.PerfBitPinned)
		if r.err != nil && !doesNotFit(r.err) {
			return nil, fmt.Errorf("%s: %w", bundle[0].Name, r.err)
		}
		if r.err != nil || r.denied {
			for i := range bundle {
				var err error
				if groups, err = p.place(groups, bundle[i:i+1]); err != nil {
					return nil, err
				}
			}
			return groups, nil
		}
	}
	return append(groups, bundle), nil
}

// doesNotFit says whether an error is one of a group, not of its events, which
// can be opened alone.
func doesNotFit(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EBUSY)
}

// isSoftware says whether an event is of a PMU without counters, those of
// perf_sw_context (kernel/events/core.c).
func isSoftware(e *Event) bool {
	return !slices.ContainsFunc(e.Encodings, func(enc Encoding) bool {
		return enc.Attr.Type != unix.PERF_TYPE_SOFTWARE && enc.Attr.Type != unix.PERF_TYPE_TRACEPOINT
	})
}
