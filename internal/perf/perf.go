// Package perf counts performance events in cgroups: hardware, cache, raw and
// software events and tracepoints, with descriptors of the kernel's own cgroup
// events or with counters of whole CPUs that a BPF program shares out.
//
// [ParseRequests] checks what a user asks for, [FS.Plan] finds out what this
// host can count of it and in which groups, [FS.Open] starts a [Counter] and
// [Counter.Add] the counting of a cgroup:
//
//	plan, err := perf.FS{Root: "/"}.Plan(requests)
//	…
//	counter, err := perf.FS{Root: "/"}.Open(plan, perf.BPF)
//	…
//	group, err := counter.Add("/sys/fs/cgroup/system.slice")
//	…
//	counts := make([]perf.Count, len(plan.Events()))
//	for range time.Tick(time.Second) {
//		if err := counter.Refresh(); err != nil {
//			…
//		}
//		err := group.Read(counts)
//		…
//	}
package perf

import (
	"golang.org/x/sys/unix"
)

// FS is where sysfs, procfs and tracefs are read. The events themselves are
// always those of the running kernel.
type FS struct {
	Root string // "/" (also if empty), or where the host's root is mounted, as "/host"
}

// DefaultEvents are those of the original, by its names.
var DefaultEvents = []string{"instructions", "cycles", "cache_references", "cache_misses", "stalls_mem_load"}

// An Event is something to count, encoded for this host.
type Event struct {
	// Name is what the user wrote.
	Name string
	// Alias is a name of letters, digits and underscores: what perf's name=
	// term or the part before "__r" says, otherwise made from Name in lower
	// case. The same event in perf's spelling ("cache-misses") and in the
	// original's ("cache_misses") has the same Alias.
	Alias string
	// Original is its name in the original: the whole of NAME__rEEUU[CC][config1],
	// of which Alias is only NAME; otherwise Alias.
	Original string
	// PMU is the device of /sys/bus/event_source/devices that counts it, or
	// "software", "tracepoint", "hardware" and "cache" for the generic ones;
	// "cpu_atom,cpu_core" if each of several counts it on its CPUs.
	PMU string
	// Unit and Scale are what one count is: of sysfs' NAME.unit and
	// NAME.scale; "ns" and 1 for the clocks; "" and 1 for a plain count.
	Unit  string
	Scale float64
	// Encodings are what to tell the kernel, one for each kind of CPU that the
	// host has; a CPU that is in none of them does not count the event.
	Encodings []Encoding
	// Known are the CPUs that were looked at for Encodings; nil = all. How
	// another one, that came online later, counts the event is not known, so
	// that it is an error to count there, and not nothing.
	Known []int
}

// An Encoding is an event for the kernel, on some CPUs.
type Encoding struct {
	CPUs []int // nil = all
	// Attr has Type, Config, Ext1 (config1), Ext2 (config2) and the exclude
	// bits of Bits; whoever opens it adds Size, Read_format and the rest.
	Attr unix.PerfEventAttr
}

// A Request is what the user asks for: an event, or a group of events in
// braces, which are to be counted together.
type Request struct {
	Events []string
	Group  bool // written as a group: it must fit, or it is an error
}

// A Plan is what to count on this host.
type Plan struct {
	// Groups are events that the kernel counts together or not at all, so
	// that ratios between them are sound.
	Groups [][]*Event
	// Omitted are events that were asked for and that this host does not
	// count, each with the reason, which wraps errors.ErrUnsupported;
	// fs.ErrPermission if this user may not look its number up; EBUSY if
	// somebody holds the PMU for himself; or says which file of this host does
	// not tell how to encode it.
	Omitted []Omission
	// Starved are groups that fit, but that others leave too few counters for,
	// as it was when the plan was made. The kernel schedules a group together
	// or not at all: until the others let go, nothing of these is counted.
	Starved []error
}

// A RequestError says that what is asked for can be counted on no host, or not
// on this one in these groups: who asked has to ask for something else.
type RequestError struct {
	Err error // of all requests, joined; an [*UnknownError] for each unknown name
}

func (e *RequestError) Error() string { return e.Err.Error() }
func (e *RequestError) Unwrap() error { return e.Err }

// An Omission is an event that cannot be counted here.
type Omission struct {
	Name string
	Err  error
}

// Events returns the events of all groups, in order: that of the counts.
func (p *Plan) Events() []*Event {
	var list []*Event
	for _, g := range p.Groups {
		list = append(list, g...)
	}
	return list
}

// A Count is what one event counted in one cgroup and all below it since it
// was added, summed over the CPUs, those that went offline included.
type Count struct {
	Value uint64
	// Enabled is how long it was to be counted, in ns: the time the cgroup
	// ran; Running how long it was. If there are more groups than counters,
	// Running is less, and Value×Enabled/Running an estimate.
	Enabled, Running uint64
}

// A Counter counts the events of a Plan in any number of cgroups. One
// goroutine at a time may use it and its cgroups.
type Counter interface {
	// Add starts to count the cgroup in this directory of the hierarchy that
	// perf_event belongs to: its own on v1, otherwise that of v2. The error
	// wraps [fs.ErrNotExist] if there is none, and is a [*LimitError] if there
	// is no room for its files.
	Add(dir string) (Cgroup, error)
	// Refresh is called once before a round of Reads: it makes visible what
	// the running threads counted so far and follows CPUs that come and go.
	// After an error the counts may be old, but not wrong.
	Refresh() error
	// Files returns how many descriptors are open.
	Files() int
	// Close ends all counting. Closing a Cgroup after it does nothing.
	Close() error
}

// A Cgroup is one that is counted.
type Cgroup interface {
	// Read fills counts, one for each event of the plan, in its order. A
	// count that could not be read from every CPU is an error, not a smaller
	// sum: it wraps [ErrLost] if that is for good, and a [*LimitError] while
	// there is no room for the files of a CPU that came. It goes on working after
	// the cgroup was removed.
	Read(counts []Count) error
	// Close ends the counting.
	Close() error
}
