package perf

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Plan resolves requests on this host and forms groups, which it tries out by
// opening them for a moment on one CPU of each kind. An event that is asked for
// twice by the same name is counted once.
//
// Events that this host does not count are not an error, they are in
// [Plan.Omitted]: all of them, on a host without a PMU. Errors are, all of them
// at once, an [*UnknownError] for each unknown name, different names of the
// same event, and groups that do not fit; and [fs.ErrPermission] if this user
// may not count.
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
			err := p.try([]*Event{e}, 0).err
			switch {
			case err == nil:
				counted = append(counted, e)
			case errors.Is(err, unix.EINVAL):
				p.omit(e.Name, fmt.Errorf("%w%w", err, unsupported{}))
			case errors.Is(err, errors.ErrUnsupported):
				p.omit(e.Name, err)
			default:
				return nil, fmt.Errorf("%s: %w", e.Name, err) // it is not about this event
			}
		}
		switch {
		case len(counted) == 0:
		case !w.group:
			single = append(single, counted...)
		default:
			if err := p.fits(counted); err != nil {
				problems = append(problems, fmt.Errorf("%s: %w", w.text, err))
			}
			p.plan.Groups = append(p.plan.Groups, counted)
		}
	}
	if problems != nil {
		return nil, errors.Join(problems...)
	}
	return p.plan, p.pack(single)
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
		case errors.Is(err, errors.ErrUnsupported), errors.Is(err, fs.ErrPermission):
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
	return wishes, errors.Join(problems...)
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

// fits says why events, each of which can be opened alone, are no group.
func (p *planner) fits(events []*Event) error {
	r := p.try(events, 0)
	if r.err == nil {
		return nil
	}
	if !errors.Is(r.err, unix.EINVAL) {
		return r.err
	}
	e := events[r.opened]
	for _, other := range events[:r.opened] {
		if err := p.try([]*Event{other, e}, 0).err; err != nil {
			return fmt.Errorf("%s and %s cannot be counted together, they are of different PMUs or need the same counter: put them into different groups", other.Name, e.Name)
		}
	}
	room := slices.Clone(events[:r.opened])
	for _, e := range events[r.opened+1:] {
		if p.try(append(slices.Clone(room), e), 0).err == nil {
			room = append(room, e)
		}
	}
	return fmt.Errorf("%d events, but this PMU counts %d at once (%s fit): split the group", len(events), len(room), names(room))
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
		case r.err != nil && !errors.Is(r.err, unix.EINVAL):
			return nil, fmt.Errorf("%s: %w", bundle[0].Name, r.err)
		}
	}
	if len(bundle) > 1 {
		r := p.try(bundle, unix.PerfBitPinned)
		if r.err != nil && !errors.Is(r.err, unix.EINVAL) {
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

// isSoftware says whether an event is of a PMU without counters, those of
// perf_sw_context (kernel/events/core.c).
func isSoftware(e *Event) bool {
	return !slices.ContainsFunc(e.Encodings, func(enc Encoding) bool {
		return enc.Attr.Type != unix.PERF_TYPE_SOFTWARE && enc.Attr.Type != unix.PERF_TYPE_TRACEPOINT
	})
}
