package perf

import (
	"errors"
	"fmt"
	"slices"
)

// A Listed event is one that the host offers by name.
type Listed struct {
	Name        string
	Kind        string // one of Kinds
	PMU         string // as of an Event, "" if Err is not nil and no PMU is known
	Description string // "" if only the kernel or the CPU's manual knows
	Event       *Event // nil if Err is not
	Err         error  // why it cannot be resolved, as of Resolve
}

// Kinds are the kinds of Listed events, in the order of the list: the
// original's names, the generic ones, those that PMUs have in sysfs, and the
// tracepoints.
var Kinds = []string{"original", "hardware", "cache", "software", "pmu", "tracepoint"}

// Events lists what the host offers by name, without asking the kernel to
// count it; of tracepoints, of which there are thousands, only if they are
// wanted. Generic events have one name each. An error is about a part that is
// missing, the rest is there.
func (f FS) Events(tracepoints bool) ([]Listed, error) {
	h, err := f.host()
	if err != nil {
		return nil, err // without knowing the PMUs the encodings would be guesses
	}
	var list []Listed
	var errs []error
	for _, name := range originals() {
		l := h.listed("original", name)
		switch g := findGeneric(hardwareEvents, fold(name)); {
		case g != nil:
			l.Description = g.help
		case l.Err == nil:
			l.Description = "Cycles stalled by loads from memory."
			if event, err := h.resolveStalls(&Event{}); err == nil {
				l.Description = "Cycles stalled by loads from memory: " + event + "."
			}
		}
		list = append(list, l)
	}
	for _, g := range hardwareEvents {
		if slices.ContainsFunc(originals(), func(name string) bool { return fold(name) == g.name }) {
			continue
		}
		l := h.listed("hardware", g.name)
		l.Description = g.help
		list = append(list, l)
	}
	for e := range cacheEvents() {
		list = append(list, h.listed("cache", e.String()))
	}
	for _, g := range softwareEvents {
		l := h.listed("software", g.name)
		l.Description = g.help
		list = append(list, l)
	}
	for i := range h.pmus {
		p := &h.pmus[i]
		names, err := f.events(p)
		if err != nil {
			errs = append(errs, err)
		}
		for _, name := range names {
			l := h.listed("pmu", p.name+"/"+name+"/")
			l.PMU = p.name
			list = append(list, l)
		}
	}
	if tracepoints {
		l, err := h.listedTracepoints()
		list = append(list, l...)
		if err != nil {
			errs = append(errs, err)
		}
	}
	return list, errors.Join(errs...)
}

// originals are the original's five names, sorted.
func originals() []string { return slices.Sorted(slices.Values(DefaultEvents)) }

func (h *host) listed(kind, name string) Listed {
	l := Listed{Name: name, Kind: kind}
	s, err := parseSpec(name)
	if err != nil {
		l.Err = fmt.Errorf("event %q: %w", name, err)
		return l
	}
	if l.Event, l.Err = h.resolve(name, &s); l.Err == nil {
		l.PMU = l.Event.PMU
	}
	return l
}

func (h *host) listedTracepoints() ([]Listed, error) {
	dir, err := h.fs.tracepoints()
	if err != nil {
		return nil, fmt.Errorf("tracepoints: %w", err)
	}
	names, err := h.fs.allTracepoints(dir)
	list := make([]Listed, len(names))
	for i, name := range names {
		list[i] = h.listed("tracepoint", name)
		list[i].PMU = "tracepoint"
	}
	return list, err
}
