package perf

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A pmu is a device of /sys/bus/event_source/devices
// (Documentation/ABI/testing/sysfs-bus-event_source-devices*).
type pmu struct {
	name string
	kind uint32 // the type of perf_event_attr
	// core: it counts what threads execute, on cpus if that is not nil. Only
	// core PMUs of hosts that have several kinds of CPUs have the file cpus
	// on x86, all of them on Arm (drivers/perf/arm_pmu.c).
	core bool
	cpus []int
	// system: it counts for a socket or the whole host, as its file cpumask
	// tells, and so knows no threads or cgroups.
	system bool
	err    error // its files don't tell what it is; kind and cpus are not known
}

// A fileError says that a file of this host is not as the kernel's are: who
// asks for an event did nothing wrong.
type fileError struct {
	file string
	err  error
}

func (e *fileError) Error() string { return e.file + ": " + e.err.Error() }
func (e *fileError) Unwrap() error { return e.err }

// isFileError also knows files that cannot be read.
func isFileError(err error) bool {
	_, content := errors.AsType[*fileError](err)
	_, access := errors.AsType[*fs.PathError](err)
	return content || access
}

func (f FS) notNumber(name, text string) error {
	return &fileError{f.path(name), fmt.Errorf("%q is not a number", text)}
}

const devices = "sys/bus/event_source/devices"

// pmus reads which PMUs the host has, sorted by name; none without sysfs. What
// is wrong with one is its err: the others are not to suffer for it.
func (f FS) pmus() ([]pmu, error) {
	entries, err := os.ReadDir(f.path(devices))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list := make([]pmu, 0, len(entries))
	for _, entry := range entries {
		p, err := f.pmu(entry.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		list = append(list, p)
	}
	return list, nil
}

// pmu reads one; after an error what it returns says at least whether it is a
// core PMU.
func (f FS) pmu(name string) (pmu, error) {
	p := pmu{name: name, core: name == "cpu"}
	dir := devices + "/" + name
	text, err := f.line(dir + "/type")
	if err == nil {
		kind, parseErr := strconv.ParseUint(text, 10, 32)
		if parseErr != nil {
			err = f.notNumber(dir+"/type", text)
		}
		p.kind = uint32(kind)
	}
	p.err = err
	switch text, err = f.line(dir + "/cpus"); {
	case err == nil:
		p.core = true
		p.cpus, err = parseCPUs(text)
		if err != nil {
			p.err = cmp.Or[error](p.err, &fileError{f.path(dir + "/cpus"), err})
		}
		if p.cpus == nil {
			p.cpus = []int{} // all of its kind are offline; nil would be all CPUs
		}
	case !errors.Is(err, fs.ErrNotExist):
		p.core, p.err = true, cmp.Or(p.err, err) // the others must not be taken for all that there are
	}
	switch _, err = os.Stat(f.path(dir + "/cpumask")); {
	case err == nil:
		p.system = !p.core
	case !errors.Is(err, fs.ErrNotExist):
		p.err = cmp.Or(p.err, err)
	}
	return p, p.err
}

// line reads a file of one line.
func (f FS) line(name string) (string, error) {
	data, err := os.ReadFile(f.path(name))
	return strings.TrimSuffix(string(data), "\n"), err
}

// A sysfsEvent is what the files of an event in a PMU's events/ say.
type sysfsEvent struct {
	file  string // its path; "" if it is from a table of ours
	terms []term
	unit  string
	scale float64
}

// event reads an event of the PMU; an error that wraps fs.ErrNotExist means
// that it has none of this name.
func (f FS) event(p *pmu, name string) (sysfsEvent, error) {
	if isAttribute(name) {
		return sysfsEvent{}, fs.ErrNotExist
	}
	file := devices + "/" + p.name + "/events/" + name
	text, err := f.line(file)
	if err != nil {
		return sysfsEvent{}, err
	}
	e := sysfsEvent{file: f.path(file), scale: 1}
	if e.terms, err = parseSysfsEvent(text); err != nil {
		return sysfsEvent{}, &fileError{f.path(file), err}
	}
	switch text, err = f.line(file + ".scale"); {
	case err == nil:
		if e.scale, err = strconv.ParseFloat(text, 64); err != nil {
			return sysfsEvent{}, f.notNumber(file+".scale", text)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return sysfsEvent{}, err
	}
	if e.unit, err = f.line(file + ".unit"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return sysfsEvent{}, err
	}
	return e, nil
}

// isAttribute says whether a file in events/ tells about an event and is none.
func isAttribute(name string) bool {
	for _, suffix := range []string{".scale", ".unit", ".per-pkg", ".snapshot"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}

// events lists the events of the PMU, sorted.
func (f FS) events(p *pmu) ([]string, error) {
	names, err := f.names(devices + "/" + p.name + "/events")
	return slices.DeleteFunc(names, isAttribute), err
}

// formats lists the terms of the PMU, sorted.
func (f FS) formats(p *pmu) ([]string, error) {
	return f.names(devices + "/" + p.name + "/format")
}

// names lists a directory, sorted; nothing if there is none.
func (f FS) names(dir string) ([]string, error) {
	entries, err := os.ReadDir(f.path(dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, entry := range entries {
		names[i] = entry.Name()
	}
	return names, nil
}

// parseSysfsEvent parses a file of events/: "event=0xcd,umask=0x1,ldlat=3",
// "event=0x3c,any=?".
func parseSysfsEvent(text string) ([]term, error) {
	var terms []term
	for part := range strings.SplitSeq(text, ",") {
		t, err := parseTerm(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		terms = append(terms, t)
	}
	return terms, nil
}

// A format says into which bits of which field of perf_event_attr the value of
// a term goes: the lowest bit of the value into the lowest of the mask, and so
// on.
type format struct {
	field int // of configs
	mask  uint64
}

// configs are the fields of perf_event_attr that say what is counted.
var configs = []string{"config", "config1", "config2"}

// parseFormat parses a file of format/: "config:0-7,32-35", "config1:23".
func parseFormat(text string) (format, error) {
	field, ranges, _ := strings.Cut(text, ":")
	f := format{field: slices.Index(configs, field)}
	list, err := parseCPUs(ranges) // the same kind of list
	if f.field < 0 || err != nil || len(list) == 0 || list[len(list)-1] > 63 {
		return format{}, fmt.Errorf("%q is not bits of config, config1 or config2 as \"config:0-7,32-35\"", text)
	}
	for _, bit := range list {
		f.mask |= 1 << bit
	}
	return f, nil
}

// put adds the value of a term to an attr.
func (f format) put(attr *unix.PerfEventAttr, value uint64) error {
	if n := bits.OnesCount64(f.mask); bits.Len64(value) > n {
		return fmt.Errorf("%#x does not fit in its bits, of which there are %d", value, n)
	}
	*field(attr, f.field) |= scatter(value, f.mask)
	return nil
}

func field(attr *unix.PerfEventAttr, n int) *uint64 {
	return [...]*uint64{&attr.Config, &attr.Ext1, &attr.Ext2}[n]
}

// encode puts the terms of an event of the PMU into an attr. The event of
// sysfs that is among the terms, if one is, is returned with its name.
func (h *host) encode(p *pmu, terms []term) (attr unix.PerfEventAttr, event sysfsEvent, name string, err error) {
	attr.Type = p.kind
	event.scale = 1
	for _, t := range terms {
		known, err := h.put(p, &attr, t)
		if err != nil {
			return attr, event, "", err
		}
		if known {
			continue
		}
		if !t.flag {
			return attr, event, "", h.unknownTerm(p, t.name)
		}
		e, err := h.fs.event(p, t.name) // after the terms, as perf does
		switch {
		case errors.Is(err, fs.ErrNotExist):
			config, ok, err := parseRawCode(t.name)
			if err == nil && !ok {
				err = h.unknownTerm(p, t.name)
			}
			if err != nil {
				return attr, event, "", err
			}
			attr.Config |= config
			continue
		case err != nil:
			return attr, event, "", err
		case name != "":
			return attr, event, "", fmt.Errorf("%s and %s are two events", name, t.name)
		}
		event, name = e, t.name
		if err := h.putEvent(p, &attr, &e, terms); err != nil {
			return attr, event, "", err
		}
	}
	return attr, event, name, nil
}

// put adds a term if it is one and not an event.
func (h *host) put(p *pmu, attr *unix.PerfEventAttr, t term) (known bool, err error) {
	file := devices + "/" + p.name + "/format/" + t.name
	text, err := h.fs.line(file)
	if err == nil {
		f, err := parseFormat(text)
		if err != nil {
			return false, &fileError{h.fs.path(file), err}
		}
		if err := f.put(attr, t.value); err != nil {
			return false, fmt.Errorf("%s: %w", t.name, err)
		}
		return true, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	n := slices.Index(configs, t.name)
	if n < 0 || t.flag {
		return false, nil
	}
	*field(attr, n) |= t.value
	return true, nil
}

// putEvent adds the terms of an event of sysfs; the values that it leaves open
// are among the given terms.
func (h *host) putEvent(p *pmu, attr *unix.PerfEventAttr, e *sysfsEvent, given []term) error {
	file := cmp.Or(e.file, p.name)
	for _, t := range e.terms {
		fromUser := t.param
		if fromUser {
			i := slices.IndexFunc(given, func(g term) bool { return g.name == t.name && !g.flag })
			if i < 0 {
				return fmt.Errorf("%s=N must be given, the event leaves it open", t.name)
			}
			t = given[i]
		}
		known, err := h.put(p, attr, t)
		switch {
		case err != nil && fromUser:
			return err
		case err != nil:
			return &fileError{file, err}
		case !known:
			return &fileError{file, fmt.Errorf("the event in sysfs has the term %s, which is not in format/ of %s", t.name, p.name)}
		}
	}
	return nil
}

func (h *host) unknownTerm(p *pmu, name string) error {
	formats, err := h.fs.formats(p)
	if err != nil {
		return err
	}
	events, err := h.fs.events(p)
	if err != nil {
		return err
	}
	formats = append(formats, configs...)
	return &UnknownError{
		Reason:  fmt.Sprintf("%s has no event or term %q; terms are %s", p.name, name, strings.Join(formats, " ")),
		Nearest: nearest(name, append(events, formats...)),
	}
}
