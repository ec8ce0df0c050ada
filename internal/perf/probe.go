package perf

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An Outcome says whether an event counts here.
type Outcome string

// The outcomes of [FS.Probe].
const (
	// Counts: it counted something.
	Counts Outcome = "yes"
	// StayedZero: it had a counter all the time and counted nothing. Either
	// what it counts is rare, or the CPU, or the hypervisor, does not count it.
	StayedZero Outcome = "stayed 0"
	// NeverRan: others have all the counters: the NMI watchdog, pinned events,
	// another user of the PMU.
	NeverRan Outcome = "no free counter"
	// NotSupported: the kernel refuses it; Err wraps [errors.ErrUnsupported].
	NotSupported Outcome = "not supported"
	// CouldNotTell: permissions, or something failed.
	CouldNotTell Outcome = "could not tell"
)

// A Verdict is what a trial of an event showed.
type Verdict struct {
	Outcome Outcome
	// Value is what was counted, Enabled and Running how long, in ns.
	Value, Enabled, Running uint64
	// UserOnly: this user may not count in the kernel; the trial was of user
	// mode alone.
	UserOnly bool
	// Err is why it does not count, nil of Counts and StayedZero.
	Err error
}

// Probe tries whether events really count: that they can be opened proves
// nothing. Each counts a thread of this process for some milliseconds, in which
// that executes instructions, mispredicts branches, misses caches and TLBs,
// faults pages in, sleeps and moves to another CPU. On a host with several
// kinds of CPUs it is tried on all, and the worst one counts. It opens few
// events at a time, so that they need not share counters. The verdicts are in
// the order of the events.
func (f FS) Probe(events []*Event) []Verdict {
	verdicts := make([]Verdict, len(events))
	if err := onThread(func(p *prober) { p.probe(events, verdicts) }); err != nil {
		for i := range verdicts {
			verdicts[i] = Verdict{Outcome: CouldNotTell, Err: err}
		}
	}
	return verdicts
}

// onThread runs f on an OS thread that nothing else uses meanwhile. If that
// cannot be given back as it was, it ends.
func onThread(f func(*prober)) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		p := prober{}
		if err = p.init(); err == nil {
			f(&p)
			if p.close() != nil {
				return
			}
		}
		runtime.UnlockOSThread()
	}()
	<-done
	return err
}

// A trial is one encoding of an event.
type trial struct {
	event    int // which
	encoding *Encoding
	fd       int
	Verdict
}

// batchSize is how many events other than software's are tried at a time: CPUs
// with two threads a core have four counters for each.
const batchSize = 4

// A prober is the thread that is counted.
type prober struct {
	all  unix.CPUSet // where the thread may run
	data []byte      // for cache misses
	sum  uint64      // of everything computed, so that it is
}

func (p *prober) init() error {
	if err := unix.SchedGetaffinity(0, &p.all); err != nil {
		return fmt.Errorf("sched_getaffinity: %w", err)
	}
	var err error
	p.data, err = unix.Mmap(-1, 0, 256<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	return nil
}

// close fails if the thread cannot be given back as it was.
func (p *prober) close() error {
	return errors.Join(unix.Munmap(p.data), unix.SchedSetaffinity(0, &p.all))
}

func (p *prober) probe(events []*Event, verdicts []Verdict) {
	var trials []*trial
	for i, e := range events {
		if len(e.Encodings) == 0 {
			verdicts[i] = Verdict{Outcome: NotSupported, Err: fmt.Errorf("no CPU of this host counts %s: %w", e.Name, errors.ErrUnsupported)}
		}
		for j := range e.Encodings {
			trials = append(trials, &trial{event: i, encoding: &e.Encodings[j], fd: -1})
		}
	}
	rest := slices.Clone(trials)
	for len(rest) > 0 {
		// A batch is on the same CPUs; software events need no counters.
		cpus, counters := rest[0].encoding.CPUs, 0
		var batch, later []*trial
		for _, t := range rest {
			software := t.encoding.Attr.Type == unix.PERF_TYPE_SOFTWARE
			if !slices.Equal(t.encoding.CPUs, cpus) || !software && counters == batchSize {
				later = append(later, t)
				continue
			}
			if !software {
				counters++
			}
			batch = append(batch, t)
		}
		rest = later
		p.try(batch, cpus, 1)
		for _, t := range batch {
			// It had to share, or had no luck: again, alone, and for longer
			// than the kernel's turns (perf_event_mux_interval_ms, 4).
			if t.Err == nil && t.Value == 0 && t.Running < t.Enabled || t.Outcome == NeverRan {
				p.try([]*trial{t}, cpus, 8)
			}
		}
	}
	for _, t := range trials {
		v := &verdicts[t.event]
		if e := events[t.event]; len(e.Encodings) > 1 && t.Err != nil {
			t.Err = fmt.Errorf("on cpus %s: %w", FormatCPUs(t.encoding.CPUs), t.Err)
		}
		if severity(t.Outcome) > severity(v.Outcome) {
			v.Outcome, v.Err = t.Outcome, t.Err
		}
		v.Value += t.Value
		v.Enabled += t.Enabled
		v.Running += t.Running
		v.UserOnly = v.UserOnly || t.UserOnly
	}
}

func severity(o Outcome) int {
	return slices.Index([]Outcome{"", Counts, StayedZero, NeverRan, CouldNotTell, NotSupported}, o)
}

// pin keeps the thread on these CPUs (nil: on all that it may run on) and
// returns those of them that it may run on.
func (p *prober) pin(cpus []int) (unix.CPUSet, error) {
	set := p.all
	if cpus != nil {
		set.Zero()
		for _, cpu := range cpus {
			if p.all.IsSet(cpu) {
				set.Set(cpu)
			}
		}
	}
	if set.Count() == 0 {
		return set, fmt.Errorf("this process may not run on cpus %s", FormatCPUs(cpus))
	}
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return set, fmt.Errorf("sched_setaffinity: %w", err)
	}
	return set, nil
}

// try counts up to so many rounds of the load, until all have counted.
func (p *prober) try(batch []*trial, cpus []int, rounds int) {
	set, err := p.pin(cpus)
	if err != nil {
		for _, t := range batch {
			t.Verdict = Verdict{Outcome: CouldNotTell, Err: err}
		}
		return
	}
	defer func() {
		for _, t := range batch {
			t.close()
		}
	}()
	for _, t := range batch {
		t.open(-1)
	}
	for zero := true; zero && rounds > 0; rounds-- {
		if err = p.load(&set); err != nil {
			break
		}
		zero = false
		for _, t := range batch {
			t.read()
			zero = zero || t.Err == nil && t.Value == 0
		}
	}
	for _, t := range batch {
		t.judge(err)
	}
}

// open opens the event for this thread, in user mode only if it may not count
// in the kernel. It counts at once: Arm's PMUs leave out events that are
// disabled when they validate a group (drivers/perf/arm_pmu.c, validate_event).
func (t *trial) open(leader int) {
	t.Verdict = Verdict{}
	attr := t.encoding.Attr
	attr.Read_format = unix.PERF_FORMAT_TOTAL_TIME_ENABLED | unix.PERF_FORMAT_TOTAL_TIME_RUNNING
	t.fd, t.Err = openProbe(attr, leader)
	if isDenied(t.Err) && attr.Bits&(unix.PerfBitExcludeUser|unix.PerfBitExcludeKernel) == 0 {
		attr.Bits |= unix.PerfBitExcludeKernel | unix.PerfBitExcludeHv
		switch fd, err := openProbe(attr, leader); {
		case err == nil:
			t.fd, t.Err, t.UserOnly = fd, nil, true
		case errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, unix.EINVAL):
			t.Err = err // nobody may; EINVAL can be of a PMU that does not tell modes apart
		}
	}
}

func openProbe(attr unix.PerfEventAttr, leader int) (int, error) {
	fd, err := openEvent(attr, 0, -1, leader, 0)
	if leader < 0 && errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("%w%w", err, unsupported{}) // alone, it is no matter of room
	}
	return fd, err
}

func isDenied(err error) bool { return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) }

func (t *trial) read() {
	if t.Err != nil {
		return
	}
	var b [24]byte // struct read_format: value, time_enabled, time_running
	n, err := unix.Read(t.fd, b[:])
	if err == nil && n != len(b) {
		// 0 of an event in error state: pinned, but put off its counter.
		err = fmt.Errorf("read %d bytes of %d of an event", n, len(b))
	}
	t.Err = err
	t.Value = binary.NativeEndian.Uint64(b[:])
	t.Enabled = binary.NativeEndian.Uint64(b[8:])
	t.Running = binary.NativeEndian.Uint64(b[16:])
}

func (t *trial) close() {
	if t.fd >= 0 {
		_ = unix.Close(t.fd) // of what was only read
		t.fd = -1
	}
}

// judge sets the outcome, err being what went wrong with the load.
func (t *trial) judge(err error) {
	switch {
	case errors.Is(t.Err, unix.EBUSY):
		t.Outcome = NeverRan
	case t.Err != nil && t.fd < 0 && errors.Is(t.Err, errors.ErrUnsupported):
		t.Outcome = NotSupported
	case t.Err != nil:
		t.Outcome = CouldNotTell
	case t.Value > 0:
		t.Outcome = Counts
	case err != nil:
		t.Outcome, t.Err = CouldNotTell, err
	case t.Running == 0:
		t.Outcome, t.Err = NeverRan, errors.New("it was enabled, but never got a counter: others have them all (the NMI watchdog, kernel.nmi_watchdog; perf; another agent)")
	case t.UserOnly:
		t.Outcome, t.Err = CouldNotTell, fmt.Errorf("nothing was counted in user mode, and this user may not count in the kernel: %w", unix.EACCES)
	default:
		t.Outcome = StayedZero
	}
}

// load makes this thread, which may run on these CPUs, do some of everything,
// for about 3 ms.
func (p *prober) load(cpus *unix.CPUSet) error {
	// Branches that nothing predicts, integers and floating point.
	x, y := uint64(88172645463325252), 1.0
	for range 50_000 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		for i := x & 3; i > 0; i-- {
			y = y*0.75 + float64(i)
		}
	}
	p.sum += x + uint64(y)

	// Loads and stores that no cache holds.
	const line = 64
	flush(unsafe.Pointer(&p.data[0]), uintptr(len(p.data)))
	for i := 0; i < len(p.data); i += line {
		p.sum += uint64(p.data[i])
	}
	flush(unsafe.Pointer(&p.data[0]), uintptr(len(p.data)))
	for i := 0; i < len(p.data); i += line {
		p.data[i]++
	}

	// Pages that no TLB knows, read and written: two faults each. Unmapping
	// that many flushes the TLBs, of instructions, too.
	pages, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	_ = unix.Madvise(pages, unix.MADV_NOHUGEPAGE) // those would be faulted in at once; a kernel without them refuses
	for i := 0; i < len(pages); i += 4096 {
		p.sum += uint64(pages[i])
	}
	for i := 0; i < len(pages); i += 4096 {
		pages[i] = 1
	}
	if err := unix.Munmap(pages); err != nil {
		return fmt.Errorf("munmap: %w", err)
	}

	// Context switches, and so switches between cgroups.
	for range 4 {
		short := unix.Timespec{Nsec: 10_000}
		_ = unix.Nanosleep(&short, nil) // it may be interrupted: that is a switch, too
	}
	return p.migrate(cpus)
}

// migrate visits two of the CPUs, if there are two.
func (p *prober) migrate(cpus *unix.CPUSet) error {
	if cpus.Count() < 2 {
		return nil
	}
	visited := 0
	for cpu := 0; visited < 2; cpu++ {
		if !cpus.IsSet(cpu) {
			continue
		}
		visited++
		var one unix.CPUSet
		one.Set(cpu)
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			return fmt.Errorf("sched_setaffinity: %w", err)
		}
	}
	if err := unix.SchedSetaffinity(0, cpus); err != nil {
		return fmt.Errorf("sched_setaffinity: %w", err)
	}
	return nil
}

// A Room is how many hardware events the CPUs of one kind count at a time.
type Room struct {
	CPUs []int // nil = all
	Fit  int   // the largest group that the kernel accepts
	Free int   // the largest that got counters just now: fewer where others hold some
}

// Room finds out by trial, with copies of the event cycles, which any counter
// of a CPU counts. The error wraps [errors.ErrUnsupported] without a PMU.
func (f FS) Room() ([]Room, error) {
	cycles, err := f.Resolve("cycles")
	if err != nil {
		return nil, err
	}
	rooms := make([]Room, len(cycles.Encodings))
	initErr := onThread(func(p *prober) {
		for i := range cycles.Encodings {
			if rooms[i], err = p.room(&cycles.Encodings[i]); err != nil {
				return
			}
		}
	})
	if err := cmp.Or(initErr, err); err != nil {
		return nil, err
	}
	return rooms, nil
}

// maxRoom is more counters than any CPU has.
const maxRoom = 64

func (p *prober) room(e *Encoding) (Room, error) {
	r := Room{CPUs: e.CPUs}
	set, err := p.pin(e.CPUs)
	if err != nil {
		return r, err
	}
	var group []*trial
	closeAll := func() {
		for _, t := range group {
			t.close()
		}
		group = nil
	}
	defer closeAll()
	fill := func(n int) error {
		closeAll()
		for leader := -1; len(group) < n; leader = group[0].fd {
			t := &trial{encoding: e}
			if t.open(leader); t.Err != nil {
				return t.Err
			}
			group = append(group, t)
		}
		return nil
	}
	// The member that does not fit is EINVAL (validate_group of the PMU).
	if err := fill(maxRoom); err != nil && (len(group) == 0 || !errors.Is(err, unix.EINVAL)) {
		return r, err
	}
	r.Fit = len(group)
	for r.Free = r.Fit; r.Free > 0; r.Free-- {
		if err := fill(r.Free); err != nil {
			return r, err
		}
		// The smaller groups, out of which this one grew, may have run.
		t := group[0]
		if t.read(); t.Err != nil {
			return r, t.Err
		}
		before := t.Running
		for range 4 {
			if err := p.load(&set); err != nil {
				return r, err
			}
			if t.read(); t.Err != nil {
				return r, t.Err
			}
			if t.Running > before {
				return r, nil
			}
		}
	}
	return r, nil
}

// String names what the kernel is told as `perf stat -vv` does.
func (e *Encoding) String() string {
	a := &e.Attr
	b := fmt.Appendf(nil, "type %d config %#x", a.Type, a.Config)
	if a.Ext1 != 0 {
		b = fmt.Appendf(b, " config1 %#x", a.Ext1)
	}
	if a.Ext2 != 0 {
		b = fmt.Appendf(b, " config2 %#x", a.Ext2)
	}
	for _, flag := range []struct {
		bit  uint64
		name string
	}{
		{unix.PerfBitExcludeUser, "user"}, {unix.PerfBitExcludeKernel, "kernel"}, {unix.PerfBitExcludeHv, "hv"},
		{unix.PerfBitExcludeHost, "host"}, {unix.PerfBitExcludeGuest, "guest"},
	} {
		if a.Bits&flag.bit != 0 {
			b = append(append(b, " exclude_"...), flag.name...)
		}
	}
	if e.CPUs != nil {
		b = append(append(b, " cpus "...), FormatCPUs(e.CPUs)...)
	}
	return string(b)
}

// FormatCPUs formats CPUs in ascending order as the kernel does: "0-3,8".
func FormatCPUs(cpus []int) string {
	var b []byte
	for i := 0; i < len(cpus); {
		last := i
		for last+1 < len(cpus) && cpus[last+1] == cpus[last]+1 {
			last++
		}
		if len(b) > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(cpus[i]), 10)
		if last > i {
			b = strconv.AppendInt(append(b, '-'), int64(cpus[last]), 10)
		}
		i = last + 1
	}
	return string(b)
}
