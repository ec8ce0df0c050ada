package perf

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// kernelEvent is one of <linux/perf_event.h>'s enum perf_sw_ids.
func kernelEvent(name string, config uint64, bits uint64) *Event {
	return &Event{Name: name, Alias: name, PMU: "software", Scale: 1, Encodings: []Encoding{
		{Attr: unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: config, Bits: bits}},
	}}
}

// TestProbe: what the kernel counts without any hardware is found to count,
// and what cannot happen, or not in the way asked for, is not.
func TestProbe(t *testing.T) {
	files := openEvents(t)
	type want struct {
		event   *Event
		outcome Outcome
		atLeast uint64
	}
	list := []want{
		{kernelEvent("cpu-clock", unix.PERF_COUNT_SW_CPU_CLOCK, 0), Counts, 100_000},
		{kernelEvent("task-clock", unix.PERF_COUNT_SW_TASK_CLOCK, 0), Counts, 100_000},
		{kernelEvent("page-faults", unix.PERF_COUNT_SW_PAGE_FAULTS, 0), Counts, 256},
		{kernelEvent("minor-faults", unix.PERF_COUNT_SW_PAGE_FAULTS_MIN, 0), Counts, 256},
		{kernelEvent("context-switches", unix.PERF_COUNT_SW_CONTEXT_SWITCHES, 0), Counts, 4},
		{kernelEvent("dummy", unix.PERF_COUNT_SW_DUMMY, 0), StayedZero, 0},
		// Its context switches are made in the kernel.
		{kernelEvent("context-switches:u", unix.PERF_COUNT_SW_CONTEXT_SWITCHES, unix.PerfBitExcludeKernel), StayedZero, 0},
		{kernelEvent("nonsense", 1<<20, 0), NotSupported, 0},
		{&Event{Name: "nothing"}, NotSupported, 0},
	}
	if runtime.GOARCH == "amd64" || runtime.GOARCH == "arm64" {
		// These CPUs do it themselves.
		list = append(list, want{kernelEvent("alignment-faults", unix.PERF_COUNT_SW_ALIGNMENT_FAULTS, 0), StayedZero, 0})
	}
	var cpus unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cpus); err != nil {
		t.Fatal(err)
	}
	if cpus.Count() > 1 {
		list = append(list, want{kernelEvent("cpu-migrations", unix.PERF_COUNT_SW_CPU_MIGRATIONS, 0), Counts, 1})
	}
	var events []*Event
	for _, w := range list {
		events = append(events, w.event)
	}
	for i, v := range (FS{Root: "/"}).Probe(events) {
		w := list[i]
		if os.Geteuid() != 0 && (v.UserOnly || isDenied(v.Err)) {
			t.Logf("%s: %+v, as user %d", w.event.Name, v, os.Geteuid())
			continue
		}
		if v.Outcome != w.outcome || v.Value < w.atLeast || w.outcome == StayedZero && v.Value != 0 {
			t.Errorf("%s: %+v, want %q and at least %d", w.event.Name, v, w.outcome, w.atLeast)
		}
		if (w.outcome == Counts || w.outcome == StayedZero) && (v.Err != nil || v.Running == 0 || v.Running > v.Enabled) {
			t.Errorf("%s: %+v", w.event.Name, v)
		}
		if w.outcome == NotSupported && !errors.Is(v.Err, errors.ErrUnsupported) {
			t.Errorf("%s: %v does not wrap ErrUnsupported", w.event.Name, v.Err)
		}
	}
	if n := openEvents(t); n != files {
		t.Errorf("%d events open before, %d after", files, n)
	}
}

// TestProbeUnprivileged: who may not count in the kernel gets what user mode
// shows, and no zero that means nothing.
func TestProbeUnprivileged(t *testing.T) {
	data, err := os.ReadFile("/proc/sys/kernel/perf_event_paranoid")
	if err != nil {
		t.Fatal(err)
	}
	level, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	clock, switches := Verdict{Outcome: Counts}, Verdict{Outcome: Counts}
	switch {
	case level > 2: // of Debian and Ubuntu
		clock = Verdict{Outcome: CouldNotTell, Err: unix.EACCES}
		switches = clock
	case level == 2:
		clock = Verdict{Outcome: Counts, UserOnly: true}
		switches = Verdict{Outcome: CouldNotTell, UserOnly: true, Err: unix.EACCES}
	}
	events := []*Event{kernelEvent("task-clock", unix.PERF_COUNT_SW_TASK_CLOCK, 0), kernelEvent("context-switches", unix.PERF_COUNT_SW_CONTEXT_SWITCHES, 0)}
	verdicts := make([]Verdict, len(events))
	if initErr := onThread(func(p *prober) {
		// Capabilities are the thread's. What is permitted stays.
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var held [2]unix.CapUserData
		if err = unix.Capget(&header, &held[0]); err != nil {
			return
		}
		none := held
		none[0].Effective, none[1].Effective = 0, 0
		if err = unix.Capset(&header, &none[0]); err != nil {
			return
		}
		p.probe(events, verdicts)
		err = unix.Capset(&header, &held[0])
	}); initErr != nil || err != nil {
		t.Fatal(initErr, err)
	}
	for i, want := range []Verdict{clock, switches} {
		v := verdicts[i]
		if v.Outcome != want.Outcome || v.UserOnly != want.UserOnly || !errors.Is(v.Err, want.Err) {
			t.Errorf("%s at perf_event_paranoid %d: %+v, want %+v", events[i].Name, level, v, want)
		}
	}
}

// TestProbeKinds: an event of several kinds of CPUs is as good as on the worst
// of them, and the caller's threads run where they ran before.
func TestProbeKinds(t *testing.T) {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	cpu := 0
	for !all.IsSet(cpu) {
		cpu++
	}
	encoding := func(config uint64, cpus ...int) Encoding {
		return Encoding{CPUs: cpus, Attr: unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: config, Bits: unix.PerfBitExcludeHv}}
	}
	const absent = 1023
	verdicts := (FS{}).Probe([]*Event{
		{Name: "same", Encodings: []Encoding{encoding(unix.PERF_COUNT_SW_TASK_CLOCK, cpu), encoding(unix.PERF_COUNT_SW_TASK_CLOCK)}},
		{Name: "dummy", Encodings: []Encoding{encoding(unix.PERF_COUNT_SW_TASK_CLOCK, cpu), encoding(unix.PERF_COUNT_SW_DUMMY)}},
		{Name: "elsewhere", Encodings: []Encoding{encoding(unix.PERF_COUNT_SW_TASK_CLOCK, cpu), encoding(unix.PERF_COUNT_SW_TASK_CLOCK, absent)}},
		{Name: "refused", Encodings: []Encoding{encoding(1<<20, cpu), encoding(unix.PERF_COUNT_SW_TASK_CLOCK, absent)}},
	})
	for i, want := range []struct {
		outcome Outcome
		err     string
	}{
		{Counts, ""}, {StayedZero, ""},
		{CouldNotTell, "on cpus 1023: this process may not run on cpus 1023"},
		{NotSupported, fmt.Sprintf("on cpus %d: ", cpu)},
	} {
		v := verdicts[i]
		if v.Outcome != want.outcome || (v.Err == nil) != (want.err == "") || v.Err != nil && !strings.HasPrefix(v.Err.Error(), want.err) {
			t.Errorf("%d: %+v, want %q %q", i, v, want.outcome, want.err)
		}
	}
	for range 2 * runtime.NumCPU() {
		if err := onThread(func(p *prober) {
			if p.all != all {
				t.Error("a thread may run on other CPUs than before")
			}
		}); err != nil {
			t.Error(err)
		}
	}
}

// TestJudge: outcomes that this host's events don't have.
func TestJudge(t *testing.T) {
	loadFailed := errors.New("out of memory")
	for _, c := range []struct {
		name string
		t    trial
		load error
		want Outcome
	}{
		{"counted", trial{Verdict: Verdict{Value: 1, Enabled: 2, Running: 1}}, nil, Counts},
		{"counted, though the load failed", trial{Verdict: Verdict{Value: 1, Enabled: 2, Running: 1}}, loadFailed, Counts},
		{"zero", trial{Verdict: Verdict{Enabled: 2, Running: 2}}, nil, StayedZero},
		{"zero after no load", trial{Verdict: Verdict{Enabled: 2, Running: 2}}, loadFailed, CouldNotTell},
		{"no counter", trial{Verdict: Verdict{Enabled: 2}}, nil, NeverRan},
		{"reserved", trial{fd: -1, Verdict: Verdict{Err: unix.EBUSY}}, nil, NeverRan},
		{"user mode zero", trial{Verdict: Verdict{Enabled: 2, Running: 2, UserOnly: true}}, nil, CouldNotTell},
		{"denied", trial{fd: -1, Verdict: Verdict{Err: unix.EACCES}}, nil, CouldNotTell},
		{"no PMU", trial{fd: -1, Verdict: Verdict{Err: fmt.Errorf("x: %w", errors.ErrUnsupported)}}, nil, NotSupported},
		{"failed read", trial{fd: 3, Verdict: Verdict{Err: unix.EOPNOTSUPP}}, nil, CouldNotTell},
	} {
		c.t.judge(c.load)
		if c.t.Outcome != c.want {
			t.Errorf("%s: %q, want %q", c.name, c.t.Outcome, c.want)
		}
		if explained := c.t.Err != nil; explained != (c.want != Counts && c.want != StayedZero) {
			t.Errorf("%s: error %v", c.name, c.t.Err)
		}
	}
}

// TestRoom: as many as the PMU says, or no PMU.
func TestRoom(t *testing.T) {
	rooms, err := (FS{Root: "/"}).Room()
	if err != nil {
		if !errors.Is(err, errors.ErrUnsupported) && !isDenied(err) {
			t.Fatal(err)
		}
		t.Logf("no hardware counters: %v", err)
		return
	}
	for _, r := range rooms {
		if r.Fit < 1 || r.Fit >= maxRoom || r.Free < 0 || r.Free > r.Fit {
			t.Errorf("%+v", r)
		}
	}
}

func TestEncodingString(t *testing.T) {
	for _, c := range []struct {
		e    Encoding
		want string
	}{
		{Encoding{}, "type 0 config 0x0"},
		{Encoding{Attr: unix.PerfEventAttr{Type: unix.PERF_TYPE_RAW, Config: 0x140014a3}}, "type 4 config 0x140014a3"},
		{Encoding{CPUs: []int{0, 1, 2, 8}, Attr: unix.PerfEventAttr{Type: 10, Config: 1, Ext1: 0x3f, Ext2: 2, Bits: unix.PerfBitExcludeKernel | unix.PerfBitExcludeHv}},
			"type 10 config 0x1 config1 0x3f config2 0x2 exclude_kernel exclude_hv cpus 0-2,8"},
	} {
		if got := c.e.String(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func TestFormatCPUs(t *testing.T) {
	for _, s := range []string{"", "0", "0-3", "1,3,5", "0-1,7-9,1023"} {
		cpus, err := parseCPUs(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := FormatCPUs(cpus); got != s {
			t.Errorf("%v: %q, want %q", cpus, got, s)
		}
	}
}

func openEvents(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(slices.DeleteFunc(names, func(e os.DirEntry) bool {
		link, err := os.Readlink("/proc/self/fd/" + e.Name())
		return err != nil || !strings.Contains(link, "perf_event")
	}))
}

// BenchmarkProbe is one batch and its load.
func BenchmarkProbe(b *testing.B) {
	events := []*Event{kernelEvent("task-clock", unix.PERF_COUNT_SW_TASK_CLOCK, unix.PerfBitExcludeKernel)}
	for b.Loop() {
		if v := (FS{}).Probe(events)[0]; v.Outcome != Counts {
			b.Fatal(v)
		}
	}
}
