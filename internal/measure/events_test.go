package measure

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/hosttest"
	"github.com/owca-project/owca/internal/perf"
)

// fakeCounter counts what the test says.
type fakeCounter struct {
	counts  map[string][]perf.Count // by directory of the cgroup
	groups  int
	room    int // cgroups that fit, 0: any number
	adds    int
	refresh error
	read    error
	closed  bool
}

func (c *fakeCounter) Add(dir string) (perf.Cgroup, error) {
	c.adds++
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	if c.room > 0 && c.groups == c.room {
		return nil, &perf.LimitError{Need: 10, Open: 1000, Limit: 1009}
	}
	c.groups++
	return &fakeCgroup{c, dir, false}, nil
}

func (c *fakeCounter) Refresh() error { return c.refresh }
func (c *fakeCounter) Files() int     { return 10 * c.groups }
func (c *fakeCounter) Close() error   { c.closed = true; return nil }

type fakeCgroup struct {
	of     *fakeCounter
	dir    string
	closed bool
}

func (g *fakeCgroup) Read(counts []perf.Count) error {
	if g.closed || g.of.closed {
		return fs.ErrClosed
	}
	clear(counts)
	copy(counts, g.of.counts[g.dir])
	return g.of.read
}

func (g *fakeCgroup) Close() error {
	if !g.closed {
		g.closed = true
		g.of.groups--
	}
	return nil
}

// ran is a count that was never without a counter.
func ran(values ...uint64) []perf.Count {
	var list []perf.Count
	for _, v := range values {
		list = append(list, perf.Count{Value: v, Enabled: v, Running: v})
	}
	return list
}

// testEvents makes a plan of events, those of the original with hardware.
func testEvents(aliases ...string) *perf.Plan {
	p := &perf.Plan{}
	for _, a := range aliases {
		p.Groups = append(p.Groups, []*perf.Event{{Name: a, Alias: a, Original: a, PMU: "hardware", Scale: 1}})
	}
	return p
}

// fakeBackends opens a counter for each of those given.
type fakeBackends map[perf.Backend]any // *fakeCounter or error

func (f fakeBackends) open(b perf.Backend) (perf.Counter, error) {
	switch v := f[b].(type) {
	case *fakeCounter:
		v.closed, v.groups = false, 0
		return v, nil
	case error:
		return nil, v
	}
	return nil, fmt.Errorf("%s: %w", b, errors.ErrUnsupported)
}

func fakeCounters(t testing.TB, p *perf.Plan, b perf.Backend, f fakeBackends) *Counters {
	t.Helper()
	c, err := newCounters(p, b, f.open)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// testLog collects what is logged until the test ends.
func testLog(t *testing.T) *bytes.Buffer {
	t.Helper()
	old := slog.Default()
	b := new(bytes.Buffer)
	slog.SetDefault(slog.New(slog.NewTextHandler(b, nil)))
	t.Cleanup(func() { slog.SetDefault(old) })
	return b
}

func logged(t *testing.T, b *bytes.Buffer, text string, times int) {
	t.Helper()
	if n := strings.Count(b.String(), text); n != times {
		t.Errorf("%q was logged %d times, want %d:\n%s", text, n, times, b)
	}
}

func missing(t testing.TB, d owca.TaskData, descs ...*owca.Desc) {
	t.Helper()
	for _, desc := range descs {
		if v, ok := d.Measurements.Get(desc); ok {
			t.Errorf("%s of %s is %v, want absent", desc.Name, d.ID, v)
		}
	}
}

func counts(t testing.TB, d owca.TaskData, desc *owca.Desc, want uint64) {
	t.Helper()
	v, ok := d.Measurements.Get(desc)
	if n, isInt := v.IsInt(); !ok || !isInt || n != want {
		t.Errorf("%s of %s is %v (there: %v), want %d", desc.Name, d.ID, v, ok, want)
	}
}

func TestEventCount(t *testing.T) {
	const big = 1 << 62
	type step struct {
		count perf.Count
		value uint64
		held  bool
	}
	for name, steps := range map[string][]step{
		"alone":  {{perf.Count{Value: 7, Enabled: 10, Running: 10}, 7, false}, {perf.Count{Value: 9, Enabled: 11, Running: 11}, 9, false}},
		"idle":   {{perf.Count{}, 0, false}, {perf.Count{}, 0, false}},
		"shared": {{perf.Count{Value: 100, Enabled: 300, Running: 100}, 300, false}, {perf.Count{Value: 150, Enabled: 400, Running: 200}, 350, false}},
		// The totals alone would say 100·101/100 = 101, less than before.
		"no fall":   {{perf.Count{Value: 10, Enabled: 100, Running: 10}, 100, false}, {perf.Count{Value: 10, Enabled: 200, Running: 110}, 100, false}},
		"rounded":   {{perf.Count{Value: 1, Enabled: 5, Running: 3}, 2, false}, {perf.Count{Value: 2, Enabled: 9, Running: 6}, 3, false}},
		"starved":   {{perf.Count{Enabled: 100}, 0, true}, {perf.Count{Enabled: 200}, 0, true}, {perf.Count{Value: 5, Enabled: 300, Running: 100}, 15, false}},
		"held":      {{perf.Count{Value: 5, Enabled: 5, Running: 5}, 5, false}, {perf.Count{Value: 5, Enabled: 15, Running: 5}, 5, true}, {perf.Count{Value: 15, Enabled: 25, Running: 15}, 25, false}},
		"backwards": {{perf.Count{Value: 5, Enabled: 5, Running: 5}, 5, false}, {perf.Count{Value: 4, Enabled: 6, Running: 6}, 5, true}, {perf.Count{Value: 6, Enabled: 7, Running: 7}, 6, false}},
		"skewed":    {{perf.Count{Value: 5, Enabled: 9, Running: 10}, 5, false}},
		"128 bits":  {{perf.Count{Value: big, Enabled: 6 * big / 2, Running: big}, 3 * big, false}},
		"no time":   {{perf.Count{Value: 5}, 5, false}, {perf.Count{Value: 5}, 5, false}, {perf.Count{Value: 9, Enabled: 4, Running: 4}, 9, false}},
		"too much":  {{perf.Count{Value: big, Enabled: 3 * big, Running: 2}, 0, true}},
	} {
		t.Run(name, func(t *testing.T) {
			var e eventCount
			for i, s := range steps {
				before := e.value
				grew := e.take(s.count)
				if e.value != s.value || e.held != s.held || grew != e.value-before {
					t.Errorf("step %d: value %d (grew %d), held %v; want %d, %v", i, e.value, grew, e.held, s.value, s.held)
				}
			}
		})
	}
}

// TestDoubtfulTimes: an event without a counter is held only while its cgroup runs.
func TestDoubtfulTimes(t *testing.T) {
	c := fakeCounters(t, testEvents("cycles"), "", nil)
	n := &memberCounts{of: &counting{Counters: c, proof: make([]proof, 1)}, events: make([]eventCount, 1), cpu: 5e9}
	e := &n.events[0]
	e.cpu = n.cpu
	for i, s := range []struct {
		cpu   uint64
		count perf.Count
		value uint64
		held  bool
	}{
		{5e9, perf.Count{Enabled: 1e9}, 0, false},                               // it did not run at all
		{5e9, perf.Count{Enabled: 2e9}, 0, false},                               //
		{5e9 + 1e7, perf.Count{Value: 7, Enabled: 1e7, Running: 1e7}, 7, false}, // it runs, and the kernel is right again
		{6e9, perf.Count{Value: 7, Enabled: 1e9, Running: 1e7}, 7, true},        // it runs without a counter
		{6e9, perf.Count{Value: 7, Enabled: 1e9, Running: 1e7}, 7, true},
		{6e9 + 10, perf.Count{Value: 8, Enabled: 1e9 + 10, Running: 1e7 + 990000010}, 8, false},
	} {
		n.cpu = s.cpu
		n.take([]perf.Count{s.count})
		if e.value != s.value || e.held != s.held {
			t.Errorf("step %d: value %d, held %v; want %d, %v", i, e.value, e.held, s.value, s.held)
		}
	}
}

// FuzzEventCount: whatever the readings are, values never fall, and without
// multiplexing nothing is added to them.
func FuzzEventCount(f *testing.F) {
	f.Add(uint64(1), uint64(2), uint64(1), uint64(5), uint64(9), uint64(6))
	f.Add(uint64(1), uint64(1), uint64(1), uint64(0), uint64(math.MaxUint64), uint64(2))
	f.Fuzz(func(t *testing.T, v1, e1, r1, v2, e2, r2 uint64) {
		var e eventCount
		e.take(perf.Count{Value: v1, Enabled: e1, Running: r1})
		first := e.value
		second := perf.Count{Value: v2, Enabled: e2, Running: r2}
		grew := e.take(second)
		if e.value-first != grew || grew > math.MaxUint64-first && !e.held {
			t.Skip() // more than 64 bits of counts
		}
		if e.held && (grew != 0 || e.base == second && second != (perf.Count{})) {
			t.Errorf("held, but it grew by %d", grew)
		}
		if !e.held && r1 >= e1 && r2 >= e2 && e2-e1 <= r2-r1 && r2 > r1 && r1 > 0 && e.value != v2 {
			t.Errorf("%d, want %d: it always ran", e.value, v2)
		}
	})
}

func TestDescribeEvents(t *testing.T) {
	p := &perf.Plan{Groups: [][]*perf.Event{{
		{Name: "cycles", Alias: "cycles", Original: "cycles", PMU: "hardware", Scale: 1},
		{Name: "task-clock", Alias: "task_clock", Original: "task_clock", PMU: "software", Unit: "ns", Scale: 1},
		{Name: "page-faults", Alias: "page_faults", Original: "page_faults", PMU: "software", Scale: 1},
		{Name: "power/energy-pkg/", Alias: "energy_pkg", Original: "energy_pkg", PMU: "power", Unit: "Joules", Scale: 0.25},
		{Name: "2x__r1100", Alias: "2x", Original: "2x__r1100", PMU: "raw", Scale: 1},
		{Name: "stalls__r1100", Alias: "stalls", Original: "stalls__r1100", PMU: "raw", Scale: 1},
		{Name: "stalls_mem_load__r14A3", Alias: "stalls_mem_load", Original: "stalls_mem_load__r14A3", PMU: "raw", Scale: 1},
	}}}
	c, err := newCounters(p, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.events[0].desc != owca.TaskCycles || c.at[inCycles] != 0 || c.at[inInstructions] != -1 {
		t.Errorf("cycles is %+v, inputs %v", c.events[0].desc, c.at)
	}
	for i, want := range []owca.Desc{
		{Name: "owca_task_task_clock_seconds_total", Unit: "seconds", Scale: owca.Nano, Original: "task_clock", OriginalPerUnit: 1e9},
		{Name: "owca_task_page_faults_total", Original: "page_faults"},
		{Name: "owca_task_energy_pkg_joules_total", Unit: "joules", Original: "energy_pkg"},
		{Name: "owca_task_2x_total"},
		{Name: "owca_task_stalls_total", Original: "stalls__r1100"},
	} {
		d := *c.events[i+1].desc
		if d.Help == "" || d.Source == "" {
			t.Errorf("%s: no help or source", d.Name)
		}
		d.Help, d.Source = "", ""
		if want.Kind = owca.Counter; d != want {
			t.Errorf("%+v\nwant %+v", d, want)
		}
	}
	// What the input is called does not make it another one.
	want := *owca.TaskMemoryStalls
	want.Original = "stalls_mem_load__r14A3"
	if c.at[inStalls] != 6 || *c.events[6].desc != want {
		t.Errorf("stalls are input %d, %+v", c.at[inStalls], *c.events[6].desc)
	}
	if v := c.events[3].value(6); v != owca.Float(1.5) {
		t.Errorf("6 × 0.25 J is %v", v)
	}
	if v := c.events[1].value(6); v != owca.Int(6) {
		t.Errorf("6 ns is %v", v)
	}
}

func TestEventNamesThatAreTaken(t *testing.T) {
	for _, tc := range []struct {
		aliases []string
		want    string // "": fine
	}{
		{[]string{"instructions", "cycles"}, ""},
		{[]string{"cpu_usage_per_task"}, "the metric owca_task_cpu_usage_seconds_total"},
		{[]string{"ipc"}, "the metric owca_task_instructions_per_cycle"},
		{[]string{"up"}, "the metric owca_task_up"},
		{[]string{"memory_faults"}, "the metric owca_task_memory_faults_total"},
		{[]string{"owca_up"}, "the metric owca_up"},
		{[]string{"x", "x_total"}, "the event x"},
		{[]string{"stalls_mem_load", "memory_stall_cycles"}, "the event stalls_mem_load"},
	} {
		_, err := newCounters(testEvents(tc.aliases...), "", nil)
		if (err != nil) != (tc.want != "") || err != nil && !strings.Contains(err.Error(), "which is the name of "+tc.want) {
			t.Errorf("%v: %v, want %q", tc.aliases, err, tc.want)
		}
		if err != nil && !errors.As(err, new(*perf.RequestError)) {
			t.Errorf("%v is not an error of the configuration", err)
		}
	}
}

func TestCountsSumAndCarry(t *testing.T) {
	a, b := hosttest.NewCgroup(t, nil, "a"), hosttest.NewCgroup(t, nil, "b")
	f := &fakeCounter{counts: map[string][]perf.Count{a.PerfDir(): ran(100, 10), b.PerfDir(): ran(20, 2)}}
	m := newTasks(t, everything)
	m.SetCounters(fakeCounters(t, testEvents("instructions", "other"), perf.Descriptors, fakeBackends{perf.Descriptors: f}))
	other := m.counting.events[1].desc
	both := func() owca.Task { return owca.Task{ID: "pod", Cgroups: []string{a.Path, b.Path}} }
	one := func() owca.Task { return owca.Task{ID: "pod", Cgroups: []string{a.Path}} }
	expect := func(when string, task owca.Task, instructions, others uint64) {
		t.Helper()
		d := read(t, m, task)[0]
		counts(t, d, owca.TaskInstructions, instructions)
		counts(t, d, other, others)
		if t.Failed() {
			t.Fatal(when)
		}
	}
	expect("both", both(), 120, 12)
	if backend, cgroups, files := m.Counting(); backend != "cgroup" || cgroups != 2 || files != 20 {
		t.Errorf("counting by %s in %d cgroups with %d files", backend, cgroups, files)
	}
	// What came after the last tick is read when it is listed no longer.
	f.counts[b.PerfDir()] = ran(25, 3)
	for range 3 {
		expect("without b", one(), 125, 13)
		if f.groups != 1 {
			t.Errorf("%d cgroups are counted, want 1", f.groups)
		}
		f.counts[b.PerfDir()] = ran(0, 0) // a new count begins at 0
		expect("with b again", both(), 125, 13)
		f.counts[b.PerfDir()] = nil
	}
	f.counts[b.PerfDir()] = ran(5, 1)
	expect("b goes on", both(), 130, 14)
	f.counts[b.PerfDir()] = ran(6, 1)
	b.Remove()
	expect("b has ended", both(), 131, 14)
	expect("and is not listed", one(), 131, 14)
	hosttest.NewCgroup(t, nil, "b")
	f.counts[b.PerfDir()] = ran(1000, 100)
	read(t, m, both())
	for range 3 { // the look for the new one backs off
		read(t, m, both())
	}
	expect("another b", both(), 1131, 114)

	a.Remove()
	b.Remove()
	d := read(t, m, both())[0]
	missing(t, d, owca.TaskInstructions, other)
	if f.groups != 0 {
		t.Errorf("%d cgroups are still counted", f.groups)
	}
}

func TestCountsThatAreMissing(t *testing.T) {
	a, b := hosttest.NewCgroup(t, nil, "a"), hosttest.NewCgroup(t, nil, "b")
	f := &fakeCounter{counts: map[string][]perf.Count{
		a.PerfDir(): {{Value: 0, Enabled: 100}, {Value: 5, Enabled: 100, Running: 50}},
		b.PerfDir(): {},
	}}
	m := newTasks(t, everything)
	m.SetCounters(fakeCounters(t, testEvents("instructions", "cycles"), perf.Descriptors, fakeBackends{perf.Descriptors: f}))
	pod := owca.Task{ID: "pod", Cgroups: []string{a.Path, b.Path}}
	d := read(t, m, task(a), task(b), pod)
	missing(t, d[0], owca.TaskInstructions) // never ran
	counts(t, d[0], owca.TaskCycles, 10)
	within(t, "scaling", value(t, d[0], owca.TaskPerfScalingMax), 2, 2)
	counts(t, d[1], owca.TaskInstructions, 0) // idle
	missing(t, d[1], owca.TaskPerfScalingAvg, owca.TaskPerfScalingMax)
	missing(t, d[2], owca.TaskInstructions)
	counts(t, d[2], owca.TaskCycles, 10)

	f.counts[a.PerfDir()] = []perf.Count{{Value: 3, Enabled: 300, Running: 100}, {Value: 25, Enabled: 300, Running: 250}}
	d = read(t, m, task(a), task(b), pod)
	counts(t, d[0], owca.TaskInstructions, 9)
	counts(t, d[2], owca.TaskInstructions, 9)
	within(t, "scaling, mean", value(t, d[0], owca.TaskPerfScalingAvg), 2, 2) // of 3 and 1
	within(t, "scaling, most", value(t, d[0], owca.TaskPerfScalingMax), 3, 3)
	missing(t, d[0], owca.TaskInstructionsPerCycle) // instructions of another stretch of time

	f.read = errors.New("no luck")
	data, err := m.Read(time.Now(), time.Now(), []owca.Task{task(a), task(b), pod})
	if err == nil || !strings.Contains(err.Error(), "performance counters: no luck") {
		t.Errorf("error %v", err)
	}
	for _, d := range data {
		missing(t, d, owca.TaskInstructions, owca.TaskCycles, owca.TaskPerfScalingAvg)
		value(t, d, owca.TaskCPUUsage) // the rest is there
	}
	f.read, f.refresh = nil, errors.New("half of it")
	data, err = m.Read(time.Now(), time.Now(), []owca.Task{task(a)})
	if err == nil || !strings.Contains(err.Error(), "half of it") {
		t.Errorf("error %v", err)
	}
	counts(t, data[0], owca.TaskInstructions, 9) // old, but not wrong
}

func TestDerivedCounts(t *testing.T) {
	c := hosttest.NewCgroup(t, nil, "derived")
	f := &fakeCounter{counts: map[string][]perf.Count{c.PerfDir(): ran(1000, 1000, 100, 10, 50)}}
	m := newTasks(t, everything)
	m.SetCounters(fakeCounters(t, testEvents("instructions", "cycles", "cache_references", "cache_misses", "stalls_mem_load"), perf.Descriptors, fakeBackends{perf.Descriptors: f}))
	all := []*owca.Desc{
		owca.TaskInstructionsPerCycle, owca.TaskCyclesPerInstruction, owca.TaskInstructionRate, owca.TaskCacheHitRatio,
		owca.TaskCacheMissesPerKiloInstruction, owca.TaskMemoryStallsPerKiloInstruction,
	}
	now := time.Now()
	tick := func() owca.TaskData {
		now = now.Add(2 * time.Second)
		data, err := m.Read(now, now, []owca.Task{task(c)})
		if err != nil {
			t.Fatal(err)
		}
		return data[0]
	}
	missing(t, tick(), all...)
	f.counts[c.PerfDir()] = ran(4000, 2500, 400, 40, 350)
	d := tick()
	for i, want := range []float64{2, 0.5, 1500, 0.9, 10, 100} {
		within(t, all[i].Name, value(t, d, all[i]), want-1e-9, want+1e-9)
	}
	d = tick() // idle
	missing(t, d, owca.TaskInstructionsPerCycle, owca.TaskCyclesPerInstruction, owca.TaskCacheHitRatio, owca.TaskCacheMissesPerKiloInstruction, owca.TaskMemoryStallsPerKiloInstruction)
	within(t, "rate", value(t, d, owca.TaskInstructionRate), 0, 0)
	f.counts[c.PerfDir()] = ran(5000, 2500, 401, 50, 350) // misses come out greater than references
	d = tick()
	within(t, "hit ratio", value(t, d, owca.TaskCacheHitRatio), 0, 0)
	missing(t, d, owca.TaskInstructionsPerCycle)
}

// TestAutoBackend: descriptors up to a number of cgroups, and then BPF for good;
// the counts go on.
func TestAutoBackend(t *testing.T) {
	log := testLog(t)
	var all []owca.Task
	descriptors, bpf := &fakeCounter{counts: map[string][]perf.Count{}}, &fakeCounter{counts: map[string][]perf.Count{}}
	var dirs []string
	for i := range fewCgroups + 1 {
		c := hosttest.NewCgroup(t, nil, fmt.Sprint("auto", i))
		all = append(all, task(c))
		dirs = append(dirs, c.PerfDir())
		descriptors.counts[c.PerfDir()] = ran(uint64(100 * (i + 1)))
	}
	few := append([]owca.Task(nil), all[:fewCgroups]...)
	backends := fakeBackends{perf.Descriptors: descriptors, perf.BPF: fmt.Errorf("no type information: %w", errors.ErrUnsupported)}
	m := newTasks(t, TaskOptions{})
	m.SetCounters(fakeCounters(t, testEvents("instructions"), "", backends))
	using := func(want string, cgroups int) {
		t.Helper()
		if got, n, _ := m.Counting(); got != want || n != cgroups {
			t.Fatalf("counting by %q in %d cgroups, want %q in %d", got, n, want, cgroups)
		}
	}
	read(t, m, few...)
	using("cgroup", fewCgroups)
	logged(t, log, "backend=bpf", 0)
	for range 3 {
		read(t, m, all...)
		using("cgroup", fewCgroups+1)
	}
	logged(t, log, "cannot be counted in this way", 1)
	logged(t, log, "no type information", 1)

	// A reload tries again.
	backends[perf.BPF] = bpf
	m.SetCounters(fakeCounters(t, testEvents("instructions"), "", backends))
	descriptors.counts[dirs[0]] = ran(107) // since the last tick
	d := read(t, m, append([]owca.Task(nil), all...)...)
	using("bpf", fewCgroups+1)
	if !descriptors.closed || descriptors.groups != 0 {
		t.Errorf("the descriptors are still open: %+v", descriptors)
	}
	counts(t, d[0], owca.TaskInstructions, 107)
	counts(t, d[1], owca.TaskInstructions, 200)
	bpf.counts[dirs[0]] = ran(5)
	d = read(t, m, few...)
	using("bpf", fewCgroups)
	counts(t, d[0], owca.TaskInstructions, 112)
	d = read(t, m, all[:1]...)
	using("bpf", 1)
	counts(t, d[0], owca.TaskInstructions, 112)

	// The user says which.
	m.SetCounters(fakeCounters(t, testEvents("instructions"), perf.Descriptors, backends))
	descriptors.counts[dirs[0]] = ran(1)
	d = read(t, m, all[0])
	using("cgroup", 1)
	counts(t, d[0], owca.TaskInstructions, 113)
	logged(t, log, "counting performance events", 3)

	// Other events begin anew.
	m.SetCounters(fakeCounters(t, testEvents("cycles", "instructions"), perf.Descriptors, backends))
	descriptors.counts[dirs[0]] = ran(3, 4)
	d = read(t, m, all[0])
	counts(t, d[0], owca.TaskCycles, 3)
	counts(t, d[0], owca.TaskInstructions, 4)
	m.SetCounters(nil)
	missing(t, read(t, m, all[0])[0], owca.TaskCycles, owca.TaskInstructions)
	using("", 0)
}

// TestOpenBeside: a backend that takes its time does not keep a tick waiting, what
// is there counts on meanwhile, and one that comes too late is closed.
func TestOpenBeside(t *testing.T) {
	testLog(t)
	c := hosttest.NewCgroup(t, nil, "beside")
	all := []owca.Task{task(c)}
	for i := range fewCgroups {
		all = append(all, task(hosttest.NewCgroup(t, nil, fmt.Sprint("beside", i))))
	}
	dir := c.PerfDir()
	descriptors := &fakeCounter{counts: map[string][]perf.Count{dir: ran(100)}}
	bpf := &fakeCounter{counts: map[string][]perf.Count{}}
	backends := fakeBackends{perf.Descriptors: descriptors, perf.BPF: bpf}
	opens, late := make(chan perf.Backend, 10), make(chan struct{})
	counters, err := newCounters(testEvents("instructions"), "", func(b perf.Backend) (perf.Counter, error) {
		opens <- b
		if b == perf.BPF {
			<-late
		}
		return backends.open(b)
	})
	if err != nil {
		t.Fatal(err)
	}
	m := newTasks(t, TaskOptions{})
	m.OpenBeside()
	m.SetCounters(counters)
	read(t, m, all[:1]...)
	descriptors.counts[dir] = ran(105)
	counts(t, read(t, m, all...)[0], owca.TaskInstructions, 105)
	for range 3 {
		read(t, m, all...)
	}
	if backend, n, _ := m.Counting(); backend != "cgroup" || n != len(all) {
		t.Fatalf("counting by %q in %d cgroups while BPF is opened", backend, n)
	}
	close(late)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		d := read(t, m, all...)
		if backend, _, _ := m.Counting(); backend == "bpf" {
			counts(t, d[0], owca.TaskInstructions, 105)
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("BPF was opened and is not used")
		}
	}
	if close(opens); len(opens) != 2 {
		t.Errorf("%d opens, want one of each", len(opens))
	}

	// One that nobody waits for any more.
	begun, closed := make(chan struct{}), make(chan struct{})
	counters, err = newCounters(testEvents("cycles"), perf.BPF, func(perf.Backend) (perf.Counter, error) {
		<-begun
		return closeTold{&fakeCounter{}, closed}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	m.SetCounters(counters)
	read(t, m, all...)
	m.SetCounters(nil)
	close(begun)
	<-closed
}

// closeTold tells when it is closed.
type closeTold struct {
	*fakeCounter
	closed chan<- struct{}
}

func (c closeTold) Close() error {
	close(c.closed)
	return nil
}

func TestBackendsThatFail(t *testing.T) {
	log := testLog(t)
	c := hosttest.NewCgroup(t, nil, "fails")
	f := &fakeCounter{counts: map[string][]perf.Count{c.PerfDir(): ran(1)}}
	backends := fakeBackends{perf.Descriptors: syscall.EACCES, perf.BPF: f}
	m := newTasks(t, TaskOptions{})
	m.SetCounters(fakeCounters(t, testEvents("cycles"), "", backends))
	counts(t, read(t, m, task(c))[0], owca.TaskCycles, 1) // what works is taken
	m.SetCounters(nil)

	// What may pass is tried again, what may not is not.
	backends[perf.BPF] = syscall.ENOMEM
	m.SetCounters(fakeCounters(t, testEvents("cycles"), "", backends))
	for range retryTicks {
		missing(t, read(t, m, task(c))[0], owca.TaskCycles)
	}
	backends[perf.BPF], backends[perf.Descriptors] = f, f
	counts(t, read(t, m, task(c))[0], owca.TaskCycles, 1)
	if backend, _, _ := m.Counting(); backend != "bpf" {
		t.Errorf("counting by %q", backend)
	}
	logged(t, log, "cannot allocate memory", 1)
	logged(t, log, "permission denied", 2) // once for each configuration

	// The user wants one that does not work: nothing is counted, the rest is read.
	backends[perf.Descriptors] = syscall.EPERM
	m.SetCounters(fakeCounters(t, testEvents("cycles"), perf.Descriptors, backends))
	d := read(t, m, task(c))[0]
	missing(t, d, owca.TaskCycles)
	value(t, d, owca.TaskCPUUsage)
	if !f.closed {
		t.Error("the other backend is still open")
	}
}

// TestLostCounts: a count that is lost begins anew, and the value stays. Where it
// is lost each time, that is tried less and less often.
func TestLostCounts(t *testing.T) {
	c := hosttest.NewCgroup(t, nil, "lost")
	f := &fakeCounter{counts: map[string][]perf.Count{c.PerfDir(): ran(100)}}
	m := newTasks(t, TaskOptions{})
	m.SetCounters(fakeCounters(t, testEvents("cycles"), perf.Descriptors, fakeBackends{perf.Descriptors: f}))
	counts(t, read(t, m, task(c))[0], owca.TaskCycles, 100)
	tick := func() (owca.TaskData, error) {
		data, err := m.Read(time.Now(), time.Now(), []owca.Task{task(c)})
		return data[0], err
	}
	f.read = fmt.Errorf("a CPU went: %w", perf.ErrLost)
	d, err := tick()
	missing(t, d, owca.TaskCycles)
	if !errors.Is(err, perf.ErrLost) || f.groups != 0 {
		t.Errorf("%v; %d cgroups are counted", err, f.groups)
	}
	f.read = nil
	f.counts[c.PerfDir()] = ran(7)
	counts(t, read(t, m, task(c))[0], owca.TaskCycles, 107)
	if _, n, _ := m.Counting(); n != 1 || f.adds != 2 {
		t.Errorf("%d cgroups are counted after %d attempts", n, f.adds)
	}

	failed := 0
	f.adds = 0
	for i := range 64 {
		f.read = nil
		if f.groups == 1 && i > 0 { // since the last tick
			f.read = perf.ErrLost
		}
		if _, err := tick(); err != nil {
			failed++
		}
	}
	if f.adds < 5 || f.adds > 8 || failed < 5 || failed > 8 {
		t.Errorf("%d attempts and %d errors in 64 ticks", f.adds, failed)
	}
}

// TestNoRoomForCPU: a CPU came, and there is no room for its files. The other
// backend is tried, and where it does not work, that is told once.
func TestNoRoomForCPU(t *testing.T) {
	c := hosttest.NewCgroup(t, nil, "cpu")
	limit := &perf.LimitError{Need: 10, Open: 1000, Limit: 1009}
	for _, tc := range []struct {
		name    string
		backend perf.Backend
		bpf     any
		using   string
	}{
		{"auto", "", &fakeCounter{counts: map[string][]perf.Count{c.PerfDir(): ran(5)}}, "bpf"},
		{"no bpf", "", fmt.Errorf("no type information: %w", errors.ErrUnsupported), "cgroup"},
		{"descriptors", perf.Descriptors, nil, "cgroup"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			log := testLog(t)
			f := &fakeCounter{counts: map[string][]perf.Count{c.PerfDir(): ran(100)}}
			m := newTasks(t, TaskOptions{})
			m.SetCounters(fakeCounters(t, testEvents("cycles"), tc.backend, fakeBackends{perf.Descriptors: f, perf.BPF: tc.bpf}))
			counts(t, read(t, m, task(c))[0], owca.TaskCycles, 100)
			f.refresh, f.read = limit, fmt.Errorf("not counted on CPU 1: %w", limit)
			missing(t, read(t, m, task(c))[0], owca.TaskCycles)
			want, warnings := uint64(100), 1
			if tc.using == "bpf" {
				counts(t, read(t, m, task(c))[0], owca.TaskCycles, 105)
				want, warnings = 105, 0
			} else {
				for range 3 {
					missing(t, read(t, m, task(c))[0], owca.TaskCycles)
				}
			}
			f.refresh, f.read = nil, nil
			counts(t, read(t, m, task(c))[0], owca.TaskCycles, want)
			if using, n, _ := m.Counting(); using != tc.using || n != 1 {
				t.Errorf("counting by %s in %d cgroups", using, n)
			}
			logged(t, log, "no more files for performance counters", warnings)
		})
	}
}

func TestNoRoomForCounters(t *testing.T) {
	log := testLog(t)
	var tasks []owca.Task
	var cgroups []*hosttest.Cgroup
	f := &fakeCounter{counts: map[string][]perf.Count{}, room: 2}
	for i := range 4 {
		c := hosttest.NewCgroup(t, nil, fmt.Sprint("room", i))
		cgroups, tasks = append(cgroups, c), append(tasks, task(c))
		f.counts[c.PerfDir()] = ran(uint64(i + 1))
	}
	m := newTasks(t, TaskOptions{})
	m.SetCounters(fakeCounters(t, testEvents("cycles"), perf.Descriptors, fakeBackends{perf.Descriptors: f}))
	for range 3 {
		d := read(t, m, tasks...)
		counts(t, d[0], owca.TaskCycles, 1)
		counts(t, d[1], owca.TaskCycles, 2)
		missing(t, d[2], owca.TaskCycles)
		missing(t, d[3], owca.TaskCycles)
	}
	if f.adds != 3 {
		t.Errorf("%d attempts to add cgroups, want 3: it is known that there is no room", f.adds)
	}
	logged(t, log, "no more files for performance counters", 1)
	logged(t, log, "10 more files are needed, 1000 of at most 1009 are open", 1)
	logged(t, log, "cgroups=2 of=4", 1)
	cgroups[0].Remove()
	read(t, m, tasks...)
	d := read(t, m, tasks...)
	counts(t, d[2], owca.TaskCycles, 3)
	missing(t, d[3], owca.TaskCycles)

	// Left to itself the agent takes the backend that needs fewer.
	bpf := &fakeCounter{counts: f.counts}
	m.SetCounters(fakeCounters(t, testEvents("cycles"), "", fakeBackends{perf.Descriptors: f, perf.BPF: bpf}))
	read(t, m, tasks[1:]...)
	d = read(t, m, tasks[1:]...)
	for i := range 3 {
		value(t, d[i], owca.TaskCycles)
	}
	if backend, n, _ := m.Counting(); backend != "bpf" || n != 3 {
		t.Errorf("counting by %q in %d cgroups", backend, n)
	}
	logged(t, log, "no more files for performance counters", 1)
}

func TestSilentEvents(t *testing.T) {
	log := testLog(t)
	c := hosttest.NewCgroup(t, nil, "silent")
	f := &fakeCounter{}
	tick := func(instructions, silent, soft, starved uint64) {
		t.Helper()
		f.counts = map[string][]perf.Count{c.PerfDir(): {
			{Value: instructions, Enabled: instructions, Running: instructions},
			{Value: silent, Enabled: instructions, Running: instructions},
			{Value: soft, Enabled: instructions, Running: instructions},
			{Value: 0, Enabled: instructions, Running: starved},
			{Value: instructions, Enabled: instructions, Running: instructions},
		}}
	}
	m := newTasks(t, TaskOptions{})
	p := testEvents("instructions", "silent", "soft", "starved", "loud")
	p.Groups[2][0].PMU = "software"
	m.SetCounters(fakeCounters(t, p, perf.Descriptors, fakeBackends{perf.Descriptors: f}))
	for i := range uint64(10) {
		tick(i*2e8, 0, 0, 0)
		read(t, m, task(c))
		if i < 6 {
			logged(t, log, "stayed 0", 0)
		}
	}
	logged(t, log, "stayed 0", 1)
	logged(t, log, "events=silent\n", 1)
}

// TestStarvedEvents: events that never have a counter while tasks run are told
// of once, those that only wait for their turn are not.
func TestStarvedEvents(t *testing.T) {
	log := testLog(t)
	a, b := hosttest.NewCgroup(t, nil, "a"), hosttest.NewCgroup(t, nil, "b")
	f := &fakeCounter{counts: map[string][]perf.Count{}}
	m := newTasks(t, TaskOptions{})
	m.SetCounters(fakeCounters(t, testEvents("instructions", "starved", "elsewhere", "late"), perf.Descriptors, fakeBackends{perf.Descriptors: f}))
	tick := func(enabled, late uint64) {
		t.Helper()
		f.counts[a.PerfDir()] = []perf.Count{{Enabled: enabled}, {Enabled: enabled}, {Enabled: enabled}, {Enabled: enabled, Running: late}}
		f.counts[b.PerfDir()] = []perf.Count{{Enabled: enabled}, {Enabled: enabled}, {Enabled: enabled, Running: 1}, {Enabled: enabled}}
		read(t, m, task(a), task(b))
	}
	const never = "never had a counter"
	for i := range uint64(2 * starvedTicks) { // in many ticks, but hardly at all
		tick(1000*(i+1), 0)
	}
	for range 2 * starvedTicks { // for long, but only once
		tick(starvedTime/2, 0)
	}
	logged(t, log, never, 0)
	for i := range uint64(3) {
		tick(starvedTime+i, 1)
	}
	logged(t, log, never, 1)
	logged(t, log, `events="instructions starved"`, 1)
	for i := range uint64(2 * starvedTicks) {
		tick(2*starvedTime+1e9*i, 1)
	}
	logged(t, log, never, 1)

	// Busy for a second at once: they may be about to have their turn.
	m.SetCounters(fakeCounters(t, testEvents("cycles"), perf.Descriptors, fakeBackends{perf.Descriptors: f}))
	for i := range uint64(starvedTicks) {
		logged(t, log, "events=cycles", 0)
		tick(1e10*(i+1), 0)
	}
	logged(t, log, "events=cycles", 1)
}

// softwareCounters are events that every host counts.
func softwareCounters(t *testing.T, m *Tasks, b perf.Backend) *Counters {
	t.Helper()
	requests, err := perf.ParseRequests([]string{"task-clock", "page-faults", "context-switches"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := m.host.PlanCounters(requests, b)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Omitted()) > 0 {
		t.Fatalf("not counted: %v", c.Omitted())
	}
	return c
}

// needBackend skips the test where the kernel lacks it.
func needBackend(t *testing.T, m *Tasks, b perf.Backend) {
	t.Helper()
	counter, err := softwareCounters(t, m, b).open(b)
	switch {
	case errors.Is(err, errors.ErrUnsupported) && !slices.Contains(strings.Split(os.Getenv("OWCA_TEST_REQUIRE"), ","), string(b)):
		t.Skip(err)
	case err != nil:
		t.Fatal(err)
	}
	if err := counter.Close(); err != nil {
		t.Error(err)
	}
}

// eventDesc is that of an event by its alias.
func eventDesc(t *testing.T, m *Tasks, alias string) *owca.Desc {
	t.Helper()
	for _, e := range m.counting.events {
		if e.alias == alias {
			return e.desc
		}
	}
	t.Fatalf("no event %s", alias)
	return nil
}

// TestRealCounts: known loads, with each way to count.
func TestRealCounts(t *testing.T) {
	hosttest.Need(t, "root")
	for _, backend := range perf.Backends {
		t.Run(string(backend), func(t *testing.T) {
			m := newTasks(t, everything)
			needBackend(t, m, backend)
			spin, touch, idle := hosttest.NewCgroup(t, nil, "spin"), hosttest.NewCgroup(t, nil, "touch"), hosttest.NewCgroup(t, nil, "idle")
			m.SetCounters(softwareCounters(t, m, backend))
			pod := owca.Task{ID: "pod", Cgroups: []string{spin.Path, touch.Path}}
			list := []owca.Task{task(spin), task(touch), task(idle), pod}
			clock, faults, switches := eventDesc(t, m, "task_clock"), eventDesc(t, m, "page_faults"), eventDesc(t, m, "context_switches")
			for _, d := range read(t, m, list...) {
				for _, desc := range []*owca.Desc{clock, faults, switches} {
					counts(t, d, desc, 0)
				}
			}
			before := hosttest.Stolen(t).Seconds()
			busy, filled := spin.Start("spin 500ms"), touch.Start("touch 32")
			busy.Done()
			filled.Done()
			d := read(t, m, list...)
			used := value(t, d[0], owca.TaskCPUUsage)
			slack := 0.015 + hosttest.Stolen(t).Seconds() - before // a tick of /proc/stat included
			within(t, "task-clock of a loop", value(t, d[0], clock), 0.97*used-slack, 1.03*used+slack)
			pages := float64(32 << 20 / os.Getpagesize())
			within(t, "page faults of 32 MiB", value(t, d[1], faults), pages, 1.5*pages)
			if n := value(t, d[1], switches); n == 0 {
				t.Error("no context switches")
			}
			counts(t, d[2], clock, 0)
			within(t, "page faults of both", value(t, d[3], faults), value(t, d[0], faults)+value(t, d[1], faults), value(t, d[0], faults)+value(t, d[1], faults)+200)
			within(t, "scaling of what needs no counter", value(t, d[0], owca.TaskPerfScalingMax), 1, 1.01)
			got, n, files := m.Counting()
			if got != string(backend) || n != 5 || files == 0 {
				t.Errorf("counting by %q in %d cgroups with %d files", got, n, files)
			}

			// A cgroup that has gone has counted what it has counted.
			busy.Kill()
			spin.Remove()
			gone := read(t, m, list...)
			missing(t, gone[0], clock)
			within(t, "page faults of the pod", value(t, gone[3], faults), value(t, d[3], faults), value(t, d[3], faults)+200)
			within(t, "task-clock of the pod", value(t, gone[3], clock), value(t, d[3], clock), value(t, d[3], clock)+0.2)
		})
	}
}

// TestRealChangeOver: from descriptors to BPF under load, as auto does it.
// TestIdleAfterRestart: an agent that ended while a task ran, and one that starts
// when it no longer does.
func TestIdleAfterRestart(t *testing.T) {
	hosttest.Need(t, "root")
	busy := hosttest.NewCgroup(t, nil, "restart")
	load := busy.Start("spin 1h")
	for range 5 {
		m := newTasks(t, TaskOptions{})
		m.SetCounters(softwareCounters(t, m, perf.Descriptors))
		read(t, m, task(busy))
		time.Sleep(20 * time.Millisecond)
		read(t, m, task(busy))
		m.Close()
	}
	load.Kill()
	m := newTasks(t, TaskOptions{})
	m.SetCounters(softwareCounters(t, m, perf.Descriptors))
	for range 4 {
		d := read(t, m, task(busy))[0]
		counts(t, d, eventDesc(t, m, "page_faults"), 0)
		time.Sleep(100 * time.Millisecond)
	}
}

func TestRealChangeOver(t *testing.T) {
	hosttest.Need(t, "root")
	m := newTasks(t, TaskOptions{})
	needBackend(t, m, perf.BPF)
	busy := hosttest.NewCgroup(t, nil, "busy")
	m.SetCounters(softwareCounters(t, m, ""))
	clock, faults := eventDesc(t, m, "task_clock"), eventDesc(t, m, "page_faults")
	tasks := []owca.Task{task(busy)}
	d := read(t, m, tasks...)
	counts(t, d[0], faults, 0)
	before := hosttest.Stolen(t).Seconds()
	load := busy.Start("spin 800ms")
	var last float64
	for range 5 {
		time.Sleep(50 * time.Millisecond)
		now := value(t, read(t, m, tasks...)[0], clock)
		within(t, "task-clock", now, last, math.Inf(1))
		last = now
	}
	if backend, _, _ := m.Counting(); backend != "cgroup" {
		t.Fatalf("counting by %q", backend)
	}
	tasks = slices.Clone(tasks)
	for i := range fewCgroups {
		tasks = append(tasks, task(hosttest.NewCgroup(t, nil, fmt.Sprint("more", i))))
	}
	now := value(t, read(t, m, tasks...)[0], clock)
	within(t, "task-clock at the change", now, last, math.Inf(1))
	if backend, _, _ := m.Counting(); backend != "bpf" {
		t.Fatalf("counting by %q", backend)
	}
	load.Done()
	d = read(t, m, tasks...)
	used := value(t, d[0], owca.TaskCPUUsage)
	slack := 0.015 + hosttest.Stolen(t).Seconds() - before // a tick of /proc/stat included
	within(t, "task-clock after all", value(t, d[0], clock), 0.95*used-0.005-slack, 1.02*used+slack)
	value(t, d[0], faults)
}

func TestRealCountsDoNotAllocate(t *testing.T) {
	hosttest.Need(t, "root")
	for _, backend := range perf.Backends {
		t.Run(string(backend), func(t *testing.T) {
			m := newTasks(t, TaskOptions{})
			needBackend(t, m, backend)
			m.SetCounters(softwareCounters(t, m, backend))
			var tasks []owca.Task
			for i := range 5 {
				c := hosttest.NewCgroup(t, nil, fmt.Sprint("alloc", i))
				c.Start("sleep")
				tasks = append(tasks, task(c))
			}
			now := time.Now()
			tick := func() {
				now = now.Add(time.Second)
				if _, err := m.Read(now, now, tasks); err != nil {
					t.Fatal(err)
				}
			}
			tick()
			tick()
			if n := testing.AllocsPerRun(20, tick); n > 0 {
				t.Errorf("%v allocations a tick", n)
			}
		})
	}
}

func TestCountingDoesNotAllocate(t *testing.T) {
	f := &fakeCounter{counts: map[string][]perf.Count{}}
	m := newTasks(t, TaskOptions{})
	m.SetCounters(fakeCounters(t, testEvents("instructions", "cycles", "cache_references", "cache_misses", "x"), perf.Descriptors, fakeBackends{perf.Descriptors: f}))
	var tasks []owca.Task
	var dirs []string
	for i := range 5 {
		c := hosttest.NewCgroup(t, nil, fmt.Sprint("alloc", i))
		tasks, dirs = append(tasks, task(c)), append(dirs, c.PerfDir())
		f.counts[c.PerfDir()] = ran(1, 1, 1, 1, 1)
	}
	now := time.Now()
	tick := func() {
		now = now.Add(time.Second)
		for _, dir := range dirs {
			for i := range f.counts[dir] {
				e := &f.counts[dir][i]
				e.Value, e.Enabled, e.Running = e.Value+7, e.Enabled+100, e.Running+50
			}
		}
		if _, err := m.Read(now, now, tasks); err != nil {
			t.Fatal(err)
		}
	}
	tick()
	tick()
	if n := testing.AllocsPerRun(20, tick); n > 0 {
		t.Errorf("%v allocations a tick", n)
	}
}
