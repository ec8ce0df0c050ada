package perf

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Resolve encodes an event for this host, without asking the kernel to count
// it. The error is a [*RequestError] of an event that is written wrong, with an
// [*UnknownError] if there is no such event; it wraps [errors.ErrUnsupported] if
// this host does not have it; others are of this host's files.
func (f FS) Resolve(text string) (*Event, error) {
	text = strings.TrimSpace(text)
	s, err := parseSpec(text)
	if err != nil {
		return nil, &RequestError{fmt.Errorf("event %q: %w", text, err)}
	}
	h, err := f.host()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", text, err)
	}
	e, err := h.resolve(text, &s)
	if isMistake(err) {
		err = &RequestError{err}
	}
	return e, err
}

// isMistake says whether whoever asked is to ask for something else: an error
// of resolve that is not the host's.
func isMistake(err error) bool {
	return err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrPermission) && !isFileError(err)
}

// A host is what events are resolved against.
type host struct {
	fs    FS
	pmus  []pmu
	cores []*pmu // those of pmus that are core PMUs
	known []int  // as of Event
}

func (f FS) host() (*host, error) {
	pmus, err := f.pmus()
	if err != nil {
		return nil, err
	}
	h := &host{fs: f, pmus: pmus}
	for i := range pmus {
		if pmus[i].core {
			h.cores = append(h.cores, &pmus[i])
		}
	}
	if len(h.cores) > 1 {
		// On x86 a PMU's cpus are those online, on Arm all of its kind.
		if h.known, err = f.onlineCPUs(); err != nil {
			return nil, err
		}
		for _, p := range h.cores {
			h.known = append(h.known, p.cpus...)
		}
		slices.Sort(h.known)
		h.known = slices.Compact(h.known)
	}
	return h, nil
}

func (h *host) resolve(text string, s *spec) (*Event, error) {
	e := &Event{Name: text, Scale: 1}
	var err error
	switch {
	case s.subsystem != "":
		err = h.resolveTracepoint(e, s)
	case s.pmu != "":
		err = h.resolvePMU(e, s)
	case s.raw:
		err = h.resolveRaw(e, s)
	default:
		err = h.resolveName(e, s.name)
	}
	if unknown, ok := errors.AsType[*UnknownError](err); ok {
		unknown.Name = text
		return nil, unknown
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", text, err)
	}
	if s.alias != "" {
		e.Alias = sanitise(s.alias)
	} else {
		e.Alias = strings.ToLower(sanitise(e.Alias)) + s.modifiers.suffix()
	}
	e.Original = e.Alias
	if s.raw && s.alias != "" {
		e.Original = sanitise(s.name) // the original took it whole
	}
	e.Encodings = slices.DeleteFunc(e.Encodings, func(enc Encoding) bool { return enc.CPUs != nil && len(enc.CPUs) == 0 })
	if len(e.Encodings) == 0 {
		return nil, fmt.Errorf("%s: no CPU of %s is online: %w", text, e.PMU, errors.ErrUnsupported)
	}
	exclude := s.modifiers.exclude()
	for i := range e.Encodings {
		enc := &e.Encodings[i]
		if exclude != 0 && isClock(&enc.Attr) {
			return nil, fmt.Errorf("%s: the kernel counts the clocks in all modes, whatever the modifiers are: leave %q out", text, s.modifiers)
		}
		enc.Attr.Bits |= exclude
		if enc.CPUs != nil {
			e.Known = h.known
		}
	}
	return e, nil
}

func (h *host) resolveTracepoint(e *Event, s *spec) error {
	id, err := h.fs.tracepoint(s.subsystem, s.name)
	if err != nil {
		return err
	}
	e.PMU, e.Alias = "tracepoint", s.subsystem+"_"+s.name
	e.Encodings = []Encoding{{Attr: unix.PerfEventAttr{Type: unix.PERF_TYPE_TRACEPOINT, Config: id}}}
	return nil
}

// resolveRaw encodes a code that the user gives, for all CPUs: a host with
// several core PMUs gets one encoding for each, otherwise it has the type RAW.
func (h *host) resolveRaw(e *Event, s *spec) (err error) {
	e.Alias = fmt.Sprintf("r%x", s.config)
	e.PMU = h.coreNames()
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_RAW, Config: s.config, Ext1: s.config1}
	e.Encodings, err = h.onCores(attr, func(attr *unix.PerfEventAttr, p *pmu) { attr.Type = p.kind })
	return err
}

// coreNames is the PMU of an event that all core PMUs count.
func (h *host) coreNames() string {
	if len(h.cores) == 0 {
		return "cpu"
	}
	names := make([]string, len(h.cores))
	for i, p := range h.cores {
		names[i] = p.name
	}
	return strings.Join(names, ",")
}

// onCores returns the encodings of an event that all CPUs count, adapted to
// each PMU if there are several.
func (h *host) onCores(attr unix.PerfEventAttr, adapt func(*unix.PerfEventAttr, *pmu)) ([]Encoding, error) {
	for _, p := range h.cores {
		if p.err != nil {
			return nil, p.err
		}
	}
	if len(h.cores) < 2 {
		return []Encoding{{Attr: attr}}, nil
	}
	list := make([]Encoding, len(h.cores))
	for i, p := range h.cores {
		list[i] = Encoding{CPUs: p.cpus, Attr: attr}
		adapt(&list[i].Attr, p)
	}
	return list, nil
}

// cpusOf returns the CPUs of an encoding for one PMU.
func (h *host) cpusOf(p *pmu) []int {
	if p.core && len(h.cores) > 1 {
		return p.cpus
	}
	return nil
}

// extend tells a generic event which of several PMUs is meant: by
// PERF_PMU_TYPE_SHIFT of include/uapi/linux/perf_event.h, since Linux 5.13,
// which is older than no x86 kernel that knows several kinds of cores. On Arm
// the kernel finds the PMU by the CPU that the event is opened on, and only
// since 6.6 by its type.
func extend(attr *unix.PerfEventAttr, p *pmu) {
	if strings.HasPrefix(p.name, "cpu_") {
		attr.Config |= uint64(p.kind) << 32
	}
}

func (h *host) resolveName(e *Event, name string) error {
	folded := fold(name)
	if folded == fold(stallsName) {
		_, err := h.resolveStalls(e)
		return err
	}
	g, ok, err := findCoreEvent(folded)
	if err != nil {
		return err
	}
	if ok {
		e.PMU, e.Alias = g.kind, g.alias
		e.Encodings, err = h.onCores(g.attr, extend)
		return err
	}
	if g := findGeneric(softwareEvents, folded); g != nil {
		e.PMU, e.Alias = "software", fold(g.name)
		if g.inNanos {
			e.Unit = "ns"
		}
		e.Encodings = []Encoding{{Attr: unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: g.config}}}
		return nil
	}
	if why := uncounted(folded); why != "" {
		return fmt.Errorf("%s: %w", why, errors.ErrUnsupported)
	}
	return h.resolveSysfs(e, name)
}

// A coreEvent is a generic event that core PMUs count.
type coreEvent struct {
	kind  string // "hardware" or "cache"
	alias string
	attr  unix.PerfEventAttr
}

// findCoreEvent looks up a folded name. The error is an [*UnknownError]: of a
// cache that does not do that.
func findCoreEvent(folded string) (e coreEvent, ok bool, err error) {
	if g := findGeneric(hardwareEvents, folded); g != nil {
		return coreEvent{"hardware", fold(g.name), unix.PerfEventAttr{Type: unix.PERF_TYPE_HARDWARE, Config: g.config}}, true, nil
	}
	c, ok := findCache(folded)
	if !ok {
		return coreEvent{}, false, nil
	}
	if !cacheHas(c.cache, c.op) {
		return coreEvent{}, false, &UnknownError{
			Reason: fmt.Sprintf("there is no event for %s of %s", cacheOps[c.op][1], cacheNames[c.cache][0]),
		}
	}
	return coreEvent{"cache", c.String(), unix.PerfEventAttr{Type: unix.PERF_TYPE_HW_CACHE, Config: c.config()}}, true, nil
}

// resolveSysfs looks an event up by the name that it has in the events/ of its
// PMU: of all core PMUs, otherwise of the one other that has it.
func (h *host) resolveSysfs(e *Event, name string) error {
	var others []*pmu
	for i := range h.pmus {
		p := &h.pmus[i]
		_, err := h.fs.event(p, name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return err
		case !p.core:
			others = append(others, p)
			continue
		case p.err != nil:
			return p.err
		}
		attr, event, _, err := h.encode(p, []term{{name: name, value: 1, flag: true}})
		if err != nil {
			return err
		}
		if e.PMU != "" {
			e.PMU += ","
		}
		e.PMU += p.name
		e.Alias, e.Unit, e.Scale = name, event.unit, event.scale
		e.Encodings = append(e.Encodings, Encoding{CPUs: h.cpusOf(p), Attr: attr})
	}
	countable := slices.DeleteFunc(slices.Clone(others), func(p *pmu) bool { return p.system })
	broken := slices.IndexFunc(others, func(p *pmu) bool { return p.err != nil })
	switch {
	case len(e.Encodings) > 0:
		return nil
	case broken >= 0:
		return others[broken].err
	case len(countable) == 1:
		return h.resolveTerms(e, countable[0], []term{{name: name, value: 1, flag: true}})
	case len(countable) > 1:
		return fmt.Errorf("%s and %s have it: write PMU/%s/", countable[0].name, countable[1].name, name)
	case len(others) > 0:
		return systemWide(others[0])
	}
	known := genericNames()
	for i := range h.pmus {
		events, err := h.fs.events(&h.pmus[i])
		if err != nil {
			return err
		}
		known = append(known, events...)
	}
	reason := "there is no such event"
	if strings.Contains(name, "__r") {
		reason = "there is no such event; a raw one ends in __rEEUU[CC], in hexadecimal digits"
	}
	return &UnknownError{Reason: reason, Nearest: nearest(name, known)}
}

func systemWide(p *pmu) error {
	return fmt.Errorf("%s counts for a whole socket or the whole host (it has a cpumask), not for a cgroup: %w", p.name, errors.ErrUnsupported)
}

func (h *host) resolvePMU(e *Event, s *spec) error {
	i := slices.IndexFunc(h.pmus, func(p pmu) bool { return p.name == s.pmu })
	switch {
	case i >= 0 && h.pmus[i].err != nil:
		return h.pmus[i].err
	case i >= 0 && h.pmus[i].system:
		return systemWide(&h.pmus[i])
	case i >= 0 && len(s.terms) > 0:
		return h.resolveTerms(e, &h.pmus[i], s.terms)
	case i >= 0:
		return errors.New("only a name is between the slashes: event terms are missing")
	}
	// perf's "cycles/name=x/".
	if named, err := parseSpec(s.pmu); err == nil && len(s.terms) == 0 && (named.raw || isGeneric(named.name)) {
		if named.raw {
			return h.resolveRaw(e, &named)
		}
		return h.resolveName(e, named.name)
	}
	switch {
	case s.pmu == "cpu" && len(h.cores) > 0:
		return fmt.Errorf("the CPUs of this host have the PMU %s, not cpu: %w", h.coreNames(), errors.ErrUnsupported)
	case len(h.cores) == 0:
		return fmt.Errorf("this host has no PMU %s, nor another one of its CPUs (a virtual machine without?): %w", s.pmu, errors.ErrUnsupported)
	}
	return fmt.Errorf("this host has no PMU %s (see %s): %w", s.pmu, h.fs.path(devices), errors.ErrUnsupported)
}

// resolveTerms encodes pmu/terms/.
func (h *host) resolveTerms(e *Event, p *pmu, terms []term) error {
	e.PMU = p.name
	attr, event, name, err := h.encode(p, terms)
	if _, unknown := errors.AsType[*UnknownError](err); unknown && p.core && len(terms) == 1 && terms[0].flag {
		// As perf, "cpu_core/cycles/": a generic event on some of the CPUs.
		if g, ok, _ := findCoreEvent(fold(terms[0].name)); ok {
			if len(h.cores) > 1 {
				extend(&g.attr, p)
			}
			e.Alias = h.qualify(p, g.alias)
			e.Encodings = []Encoding{{CPUs: h.cpusOf(p), Attr: g.attr}}
			return nil
		}
	}
	if err != nil {
		return err
	}
	e.Unit, e.Scale = event.unit, event.scale
	e.Encodings = []Encoding{{CPUs: h.cpusOf(p), Attr: attr}}
	if name == "" || len(terms) > 1 {
		e.Alias = p.name + termsAlias(terms)
		return nil
	}
	if g, ok, _ := findCoreEvent(fold(name)); ok && p.core {
		name = g.alias
	}
	e.Alias = h.qualify(p, name)
	return nil
}

// qualify adds to the name of an event that of its PMU, unless that is the
// only one it can mean.
func (h *host) qualify(p *pmu, name string) string {
	if p.core && len(h.cores) == 1 {
		return name
	}
	return p.name + "_" + name
}

// termsAlias makes a name of terms that does not depend on their order or on
// how their values are written.
func termsAlias(terms []term) string {
	rank := func(t term) int { return slices.Index([]string{"umask", "event"}, t.name) }
	terms = slices.SortedFunc(slices.Values(terms), func(a, b term) int {
		if d := rank(b) - rank(a); d != 0 {
			return d
		}
		return strings.Compare(a.name, b.name)
	})
	s := ""
	for _, t := range terms {
		switch {
		case t.flag, t.value == 1 && rank(t) < 0: // "edge" and "edge=1"
			s += "_" + t.name
		case t.value != 0:
			s += fmt.Sprintf("_%s_%#x", t.name, t.value)
		}
	}
	if s == "" {
		return "_0"
	}
	return s
}
