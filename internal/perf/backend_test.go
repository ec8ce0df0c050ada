package perf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/hosttest"
)

// What every Counter does, checked for each of Backends on real cgroups with
// software events, which every host has.

// The events of softwarePlan.
const (
	taskClock = iota
	contextSwitches
	migrations
	pageFaults
	softwareCount
)

func softwareEvent(name string, config uint64) *Event {
	return &Event{
		Name: name, Alias: strings.ReplaceAll(name, "-", "_"), PMU: "software", Scale: 1,
		Encodings: []Encoding{{Attr: unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: config}}},
	}
}

// softwarePlan has a group of three events and one of one.
func softwarePlan() *Plan {
	return &Plan{Groups: [][]*Event{{
		softwareEvent("task-clock", unix.PERF_COUNT_SW_TASK_CLOCK),
		softwareEvent("context-switches", unix.PERF_COUNT_SW_CONTEXT_SWITCHES),
		softwareEvent("cpu-migrations", unix.PERF_COUNT_SW_CPU_MIGRATIONS),
	}, {
		softwareEvent("page-faults", unix.PERF_COUNT_SW_PAGE_FAULTS),
	}}}
}

// eachBackend runs a test for every backend. One that the kernel does not
// support is skipped, if the kernel really lacks what it needs.
func eachBackend(t *testing.T, test func(t *testing.T, b Backend)) {
	hosttest.Need(t, "root")
	for _, b := range Backends {
		t.Run(string(b), func(t *testing.T) {
			if b == BPF {
				hosttest.Need(t, "bpf")
			}
			test(t, b)
		})
	}
}

func openCounter(t testing.TB, f FS, b Backend) Counter {
	t.Helper()
	c, err := f.Open(softwarePlan(), b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func add(t testing.TB, c Counter, cg *hosttest.Cgroup) Cgroup {
	t.Helper()
	g, err := c.Add(cg.PerfDir())
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func refresh(t testing.TB, c Counter) {
	t.Helper()
	if err := c.Refresh(); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, g Cgroup) []Count {
	t.Helper()
	counts := make([]Count, softwareCount)
	if err := g.Read(counts); err != nil {
		t.Fatal(err)
	}
	return counts
}

func inVM() bool { return os.Getenv("OWCA_TEST_VM") != "" }

// schedulerDir is the cgroup's directory in the hierarchy that cpuTime reads.
func schedulerDir(cg *hosttest.Cgroup) string {
	if cg.Has("cpuacct", "cpuacct.usage") {
		return cg.Dir("cpuacct")
	}
	return cg.Dir("unified")
}

// cpuTime is what the scheduler says that a cgroup used.
func cpuTime(t testing.TB, cg *hosttest.Cgroup) uint64 {
	t.Helper()
	if cg.Has("cpuacct", "cpuacct.usage") {
		data, err := os.ReadFile(filepath.Join(cg.Dir("cpuacct"), "cpuacct.usage"))
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	data, err := os.ReadFile(filepath.Join(cg.Dir("unified"), "cpu.stat"))
	if err != nil {
		t.Fatal(err)
	}
	var n uint64
	if _, err := fmt.Sscanf(string(data), "usage_usec %d", &n); err != nil {
		t.Fatal(err)
	}
	return n * 1000
}

// near says whether two counts differ by at most 1 %, and a little that does
// not grow with them.
func near(a, b, slack uint64) bool {
	return max(a, b)-min(a, b) <= max(a, b)/100+slack
}

func filesOpen(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestKnownLoads(t *testing.T) {
	eachBackend(t, func(t *testing.T, b Backend) {
		c := openCounter(t, FS{}, b)
		spin, touch := hosttest.NewCgroup(t, nil, "spin"), hosttest.NewCgroup(t, nil, "touch")
		sw, idle := hosttest.NewCgroup(t, nil, "switch"), hosttest.NewCgroup(t, nil, "idle")
		s, p, w, i := add(t, c, spin), add(t, c, touch), add(t, c, sw), add(t, c, idle)

		before := uint64(hosttest.Stolen(t))
		load := spin.Start("spin 500ms")
		load.Done()
		load.Kill() // nothing must run between the reads
		refresh(t, c)
		got := read(t, s)
		slack := uint64(2e6) + uint64(hosttest.Stolen(t)) - before
		if inVM() { // there a switch takes long, which each clock sees in its way
			slack += 5e7
		}
		if want := cpuTime(t, spin); want < 5e8 || !near(got[taskClock].Value, want, slack) {
			t.Errorf("task-clock %d ns, the scheduler says %d", got[taskClock].Value, want)
		}
		for e, n := range got {
			// A software event always has its counter.
			if n.Enabled != n.Running || !near(n.Enabled, got[taskClock].Value, slack) {
				t.Errorf("event %d was enabled for %d ns and ran for %d, of %d", e, n.Enabled, n.Running, got[taskClock].Value)
			}
		}

		const mib = 16
		pages := uint64(mib << 20 / os.Getpagesize())
		touch.Start(fmt.Sprintf("touch %d", mib)).Done()
		refresh(t, c)
		// Go's runtime faults a few of its own.
		if n := read(t, p)[pageFaults].Value; n < pages || n > pages+2000 {
			t.Errorf("%d page faults of %d pages", n, pages)
		}

		const sleeps = 500
		sw.Start(fmt.Sprintf("switch %d", sleeps)).Done()
		refresh(t, c)
		if n := read(t, w)[contextSwitches].Value; n < sleeps || n > 10*sleeps {
			t.Errorf("%d context switches of %d sleeps", n, sleeps)
		}

		for e, n := range read(t, i) {
			if n != (Count{}) {
				t.Errorf("event %d of an empty cgroup: %+v", e, n)
			}
		}
	})
}

func TestIdle(t *testing.T) {
	eachBackend(t, func(t *testing.T, b Backend) {
		c := openCounter(t, FS{}, b)
		cg := hosttest.NewCgroup(t, nil, "idle")
		p := cg.Start("threads 4")
		p.Done()
		p.WaitBlocked()
		g := add(t, c, cg)
		refresh(t, c)
		// What else runs on the host is not the cgroup's.
		other := hosttest.NewCgroup(t, nil, "other")
		other.Start("spin 100ms").Done()
		refresh(t, c)
		// Go's monitor may wake now and then, the blocked threads do not.
		if n := read(t, g); n[pageFaults].Value > 10 || n[taskClock].Value > 1e7 {
			t.Errorf("counts of blocked threads: %+v", n)
		}
	})
}

func TestParentIsSumOfChildren(t *testing.T) {
	eachBackend(t, func(t *testing.T, b Backend) {
		c := openCounter(t, FS{}, b)
		parent := hosttest.NewCgroup(t, nil, "parent")
		left, right := hosttest.NewCgroup(t, parent, "left"), hosttest.NewCgroup(t, parent, "right")
		deep := hosttest.NewCgroup(t, right, "deep") // not counted itself
		p, l, r := add(t, c, parent), add(t, c, left), add(t, c, right)
		procs := []*hosttest.Process{left.Start("spin 200ms"), right.Start("touch 8"), deep.Start("switch 200")}
		for _, proc := range procs {
			proc.Done()
			proc.WaitBlocked()
		}
		for _, proc := range procs { // nothing must run between the reads
			proc.Kill()
		}
		refresh(t, c)
		whole, one, two := read(t, p), read(t, l), read(t, r)
		for e := range whole {
			sum := one[e].Value + two[e].Value
			// Clocks are stopped one after the other; events happen once for all.
			if e == taskClock && !near(whole[e].Value, sum, 1e5) || e != taskClock && whole[e].Value != sum {
				t.Errorf("event %d: parent %d, children %d + %d", e, whole[e].Value, one[e].Value, two[e].Value)
			}
		}
		if one[taskClock].Value < 2e8 || two[contextSwitches].Value < 200 || two[pageFaults].Value < 8<<20/uint64(os.Getpagesize()) {
			t.Errorf("children %+v and %+v", one, two)
		}
	})
}

// TestRunningThread reads what a thread counted that does not leave its CPU.
func TestRunningThread(t *testing.T) {
	eachBackend(t, func(t *testing.T, b Backend) {
		c := openCounter(t, FS{}, b)
		cg := hosttest.NewCgroup(t, nil, "running")
		g := add(t, c, cg)
		before := uint64(hosttest.Stolen(t))
		cg.Start("spin 1h")
		var last uint64
		for range 5 {
			for end := cpuTime(t, cg) + 2e7; cpuTime(t, cg) < end; time.Sleep(time.Millisecond) {
			}
			used := cpuTime(t, cg)
			refresh(t, c)
			got := read(t, g)[taskClock].Value
			after := cpuTime(t, cg)
			// The scheduler's own number is as of the last tick.
			tick := uint64(2e7) + uint64(hosttest.Stolen(t)) - before
			if got+tick+used/100 < used || got > after+tick+after/100 || got <= last {
				t.Errorf("task-clock %d after %d, the scheduler says %d to %d", got, last, used, after)
			}
			last = got
		}
	})
}

// TestMovedWhileRunning: what a task did before it was moved is not its new
// cgroup's, even if it has not left its CPU since. It is moved in one hierarchy
// after the other, so that each cgroup is compared with what the kernel's own
// events count in the same one at the same time; the scheduler's hierarchy, if it
// is another, agrees on the sum.
func TestMovedWhileRunning(t *testing.T) {
	eachBackend(t, func(t *testing.T, b Backend) {
		cgroups := [2]*hosttest.Cgroup{hosttest.NewCgroup(t, nil, "from"), hosttest.NewCgroup(t, nil, "to")}
		c := openCounter(t, FS{}, b)
		kernel := openCounter(t, FS{}, Descriptors)
		var counted, own [2]Cgroup
		for i, cg := range cgroups {
			counted[i], own[i] = add(t, c, cg), add(t, kernel, cg)
		}
		clock := func(g Cgroup) uint64 { return read(t, g)[taskClock].Value }
		await := func(g Cgroup, ns uint64) { // sees what runs without a Refresh
			for end := clock(g) + ns; clock(g) < end; time.Sleep(time.Millisecond) {
			}
		}
		slack := uint64(25e6)
		if inVM() {
			slack += 6e7 // there a switch takes long, and so does moving
		}
		for range 3 {
			var start, startOwn, used [2]uint64
			refresh(t, c)
			for i, cg := range cgroups {
				start[i], startOwn[i], used[i] = clock(counted[i]), clock(own[i]), cpuTime(t, cg)
			}
			lost := uint64(hosttest.Stolen(t))
			p := cgroups[0].Start("spin 1h")
			await(own[0], 2e8)
			cgroups[1].Add(p.Pid)
			await(own[1], 3e7)
			p.Kill()
			refresh(t, c)
			lost = uint64(hosttest.Stolen(t)) - lost
			var sum, sumUsed uint64
			for i, cg := range cgroups {
				got, want := clock(counted[i])-start[i], clock(own[i])-startOwn[i]
				used[i] = cpuTime(t, cg) - used[i]
				sum, sumUsed = sum+got, sumUsed+used[i]
				if !near(got, want, slack) {
					t.Errorf("%s: task-clock %d, by the kernel's own event %d", cg.Path, got, want)
				}
				if schedulerDir(cg) == cg.PerfDir() && !near(got, used[i], slack+lost) {
					t.Errorf("%s: task-clock %d, the scheduler says %d", cg.Path, got, used[i])
				}
			}
			if !near(sum, sumUsed, slack+lost) {
				t.Errorf("task-clock %d in both cgroups, the scheduler says %d", sum, sumUsed)
			}
		}
	})
}

func TestRemovedCgroup(t *testing.T) {
	eachBackend(t, func(t *testing.T, b Backend) {
		c := openCounter(t, FS{}, b)
		cg := hosttest.NewCgroup(t, nil, "removed")
		g := add(t, c, cg)
		p := cg.Start("spin 50ms")
		p.Done()
		p.Kill()
		refresh(t, c)
		before := read(t, g)
		cg.Remove()
		for range 3 {
			refresh(t, c)
			if after := read(t, g); !slices.Equal(after, before) {
				t.Errorf("counts %+v became %+v when the cgroup was removed", before, after)
			}
		}
		if before[taskClock].Value < 5e7 {
			t.Errorf("counts %+v", before)
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		if _, err := c.Add(cg.PerfDir()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Add of a removed cgroup: %v", err)
		}
	})
}

func TestAddRefused(t *testing.T) {
	eachBackend(t, func(t *testing.T, b Backend) {
		c := openCounter(t, FS{}, b)
		before, files := filesOpen(t), c.Files()
		if _, err := c.Add(filepath.Join(hosttest.NewCgroup(t, nil, "refused").PerfDir(), "missing")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a missing directory: %v", err)
		}
		if g, err := c.Add(t.TempDir()); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a directory that is no cgroup: %v, %v", g, err)
		}
		if filesOpen(t) != before || c.Files() != files {
			t.Errorf("%d files open after %d, Files %d after %d", filesOpen(t), before, c.Files(), files)
		}
	})
}

func TestAddAgain(t *testing.T) {
	eachBackend(t, func(t *testing.T, b Backend) {
		c := openCounter(t, FS{}, b)
		cg := hosttest.NewCgroup(t, nil, "again")
		for range 3 {
			g := add(t, c, cg)
			before, lost := cpuTime(t, cg), uint64(hosttest.Stolen(t))
			p := cg.Start("spin 30ms")
			p.Done()
			p.Kill() // so that nothing of it is left for the next round
			refresh(t, c)
			used := cpuTime(t, cg) - before + uint64(hosttest.Stolen(t)) - lost
			if n := read(t, g)[taskClock].Value; n < 3e7 || n > used+used/100+25e6 {
				t.Errorf("task-clock %d, want that of one load, which used %d", n, used)
			}
			if err := g.Close(); err != nil {
				t.Fatal(err)
			}
			p = cg.Start("spin 300ms") // while it is not counted
			p.Done()
			p.Kill()
			refresh(t, c)
		}
	})
}

// TestSameCgroupTwice counts one cgroup twice at a time, each since it was added.
func TestSameCgroupTwice(t *testing.T) {
	eachBackend(t, func(t *testing.T, b Backend) {
		c := openCounter(t, FS{}, b)
		cg := hosttest.NewCgroup(t, nil, "twice")
		first := add(t, c, cg)
		cg.Start("spin 100ms").Done()
		refresh(t, c)
		second := add(t, c, cg)
		p := cg.Start("spin 50ms")
		p.Done()
		p.Kill()
		refresh(t, c)
		one, two := read(t, first)[taskClock].Value, read(t, second)[taskClock].Value
		if one < 15e7 || two < 5e7 || two+9e7 > one {
			t.Errorf("task-clock %d since the first Add, %d since the second", one, two)
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		refresh(t, c)
		if n := read(t, second)[taskClock].Value; n < two {
			t.Errorf("task-clock fell from %d to %d when the other was closed", two, n)
		}
	})
}

func TestClosed(t *testing.T) {
	eachBackend(t, func(t *testing.T, b Backend) {
		before := filesOpen(t)
		c, err := FS{}.Open(softwarePlan(), b)
		if err != nil {
			t.Fatal(err)
		}
		cg := hosttest.NewCgroup(t, nil, "closed")
		g, left := add(t, c, cg), add(t, c, cg)
		counts := make([]Count, softwareCount)
		for range 2 {
			if err := g.Close(); err != nil {
				t.Errorf("Close of a cgroup: %v", err)
			}
		}
		if err := g.Read(counts); err == nil {
			t.Error("a closed cgroup can be read")
		}
		if err := left.Read(counts[1:]); err == nil {
			t.Error("counts with too little room are filled")
		}
		for range 2 {
			if err := c.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
		if err := left.Read(counts); err == nil {
			t.Error("a cgroup of a closed counter can be read")
		}
		if err := left.Close(); err != nil {
			t.Errorf("Close of a cgroup of a closed counter: %v", err)
		}
		if _, err := c.Add(cg.PerfDir()); err == nil {
			t.Error("a closed counter takes cgroups")
		}
		if err := c.Refresh(); err == nil {
			t.Error("a closed counter can be refreshed")
		}
		if after := filesOpen(t); after != before || c.Files() != 0 {
			t.Errorf("%d files open, before %d; Files %d", after, before, c.Files())
		}
	})
}

func TestChurn(t *testing.T) {
	n := 200
	if inVM() {
		n = 20
	}
	eachBackend(t, func(t *testing.T, b Backend) {
		c := openCounter(t, FS{}, b)
		before, files := filesOpen(t), c.Files()
		top := hosttest.NewCgroup(t, nil, "churn")
		var groups []Cgroup
		for i := range n {
			dir := filepath.Join(top.PerfDir(), strconv.Itoa(i))
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			g, err := c.Add(dir)
			if err != nil {
				t.Fatal(err)
			}
			groups = append(groups, g)
		}
		refresh(t, c)
		for _, g := range groups {
			read(t, g)
		}
		if opened := filesOpen(t) - before; opened != c.Files()-files {
			t.Errorf("%d files were opened, Files says %d", opened, c.Files()-files)
		}
		for i, g := range groups {
			if i%2 == 0 { // removed before or after it is closed
				if err := os.Remove(filepath.Join(top.PerfDir(), strconv.Itoa(i))); err != nil {
					t.Fatal(err)
				}
			}
			if err := g.Close(); err != nil {
				t.Fatal(err)
			}
		}
		refresh(t, c)
		if filesOpen(t) != before || c.Files() != files {
			t.Errorf("%d files open after %d, Files %d after %d", filesOpen(t), before, c.Files(), files)
		}
	})
}

// TestMonotone reads under load; no count may fall, whatever it waits for.
func TestMonotone(t *testing.T) {
	n := 2000
	if inVM() {
		n = 100
	}
	eachBackend(t, func(t *testing.T, b Backend) {
		c := openCounter(t, FS{}, b)
		cg := hosttest.NewCgroup(t, nil, "monotone")
		g := add(t, c, cg)
		cg.Start("spin 1h")
		cg.Start("switch 100000000")
		last, now := make([]Count, softwareCount), make([]Count, softwareCount)
		for i := range n {
			refresh(t, c)
			if err := g.Read(now); err != nil {
				t.Fatal(err)
			}
			for e := range now {
				if now[e].Value < last[e].Value || now[e].Enabled < last[e].Enabled || now[e].Running < last[e].Running || now[e].Running > now[e].Enabled {
					t.Fatalf("read %d, event %d: %+v after %+v", i, e, now[e], last[e])
				}
			}
			last, now = now, last
		}
		if last[taskClock].Value == 0 {
			t.Errorf("counts %+v", last)
		}
	})
}

// TestBackendsAgree counts the same cgroups with all backends at once. While they
// run, what BPF counted when it was refreshed lies between what descriptors said
// just before and just after, whenever that was.
func TestBackendsAgree(t *testing.T) {
	hosttest.Need(t, "root", "bpf")
	cgroups := [2]*hosttest.Cgroup{hosttest.NewCgroup(t, nil, "spin"), hosttest.NewCgroup(t, nil, "mixed")}
	d, b := openCounter(t, FS{}, Descriptors), openCounter(t, FS{}, BPF)
	var byDescriptors, byBPF [2]Cgroup
	for i, cg := range cgroups {
		byDescriptors[i], byBPF[i] = add(t, d, cg), add(t, b, cg)
	}
	switches := 10_000 // of which 1 % is more than any constant
	if inVM() {
		switches = 2000
	}
	loads := []*hosttest.Process{
		cgroups[0].Start("spin 1200ms"), cgroups[0].Start("spin 600ms"),
		cgroups[1].Start("touch 64"), cgroups[1].Start("spin 600ms"),
		cgroups[1].Start(fmt.Sprint("switch ", switches)), cgroups[1].Start(fmt.Sprint("switch ", switches)),
	}
	// allowTime is beside 1 %: while they run, descriptors are read one CPU after the
	// other.
	between := func(when string, allowTime uint64) {
		t.Helper()
		var low, got, high [2][]Count
		for i, g := range byDescriptors {
			low[i] = read(t, g)
		}
		refresh(t, b)
		for i, g := range byBPF {
			got[i] = read(t, g)
		}
		for i, g := range byDescriptors {
			high[i] = read(t, g)
		}
		for i, cg := range cgroups {
			for e, n := range got[i] {
				// Each begins to count at another time of a switch. Where a host
				// with much to do does not run the program at one (see openBPF),
				// whose the time was is an estimate.
				allow := uint64(20)
				if e == taskClock {
					allow = allowTime
				}
				l, h := low[i][e], high[i][e]
				if !inside(n.Value, l.Value, h.Value, allow) {
					t.Errorf("%s, %s, event %d: BPF counts %d, descriptors %d to %d", when, cg.Path, e, n.Value, l.Value, h.Value)
				}
				if !inside(n.Enabled, l.Enabled, h.Enabled, allowTime) || !inside(n.Running, l.Running, h.Running, allowTime) {
					t.Errorf("%s, %s, event %d: times by BPF %+v, by descriptors %+v to %+v", when, cg.Path, e, n, l, h)
				}
			}
		}
	}
	for i := range 10 {
		time.Sleep(50 * time.Millisecond)
		between(fmt.Sprint("while they run, ", i), 25e6)
	}
	for _, p := range loads {
		p.Done()
	}
	for _, p := range loads { // nothing must run between the reads
		p.Kill()
	}
	between("after the end", 5e6)
	if n := read(t, byDescriptors[1])[contextSwitches].Value; n < 2*uint64(switches) {
		t.Errorf("%d context switches of %d sleeps", n, 2*switches)
	}
}

// inside says whether n is between two counts, as near allows.
func inside(n, low, high, slack uint64) bool {
	return (n >= low || near(n, low, slack)) && (n <= high || near(n, high, slack))
}

// limitFiles returns what sets RLIMIT_NOFILE until the test ends; 0 is what it was.
func limitFiles(t testing.TB) (set func(n int)) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	set = func(n int) {
		cur := uint64(n)
		if n == 0 {
			cur = limit.Cur
		}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: cur, Max: limit.Max}); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { set(0) })
	return set
}

func TestFileLimit(t *testing.T) {
	eachBackend(t, func(t *testing.T, b Backend) {
		c := openCounter(t, FS{}, b)
		cg := hosttest.NewCgroup(t, nil, "limit")
		first := c.Files()
		if err := add(t, c, cg).Close(); err != nil {
			t.Fatal(err)
		}
		g := add(t, c, cg)
		need := c.Files() - first
		open := filesOpen(t) - 1 // without the directory being read
		lower := limitFiles(t)
		lower(open + fileReserve + need)
		more, err := c.Add(cg.PerfDir())
		if err != nil {
			t.Fatalf("there is room for %d more files: %v", need, err)
		}
		if err := more.Close(); err != nil {
			t.Fatal(err)
		}
		if need > 0 {
			lower(open + fileReserve + need - 1)
			_, err := c.Add(cg.PerfDir())
			var limited *LimitError
			if !errors.As(err, &limited) || *limited != (LimitError{Need: need, Open: open, Limit: open + fileReserve + need - 1}) {
				t.Errorf("with %d files open and %d needed: %v", open, need, err)
			}
		}
		lower(0)
		if now := filesOpen(t) - 1; now != open || c.Files() != first+need {
			t.Errorf("%d files open after %d, Files %d after %d", now, open, c.Files(), first+need)
		}
		refresh(t, c)
		read(t, g)
	})
}

func TestReadAllocates(t *testing.T) {
	eachBackend(t, func(t *testing.T, b Backend) {
		c := openCounter(t, FS{}, b)
		cg := hosttest.NewCgroup(t, nil, "allocs")
		cg.Start("spin 1h")
		g := add(t, c, cg)
		refresh(t, c)
		counts := make([]Count, softwareCount)
		if n := testing.AllocsPerRun(100, func() {
			if err := g.Read(counts); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("a Read allocates %v times", n)
		}
		if n := testing.AllocsPerRun(100, func() { refresh(t, c) }); n != 0 {
			t.Errorf("a Refresh allocates %v times", n)
		}
	})
}

// TestPermission counts as an ordinary user, in a process of its own.
func TestPermission(t *testing.T) {
	hosttest.Need(t, "root")
	data, err := os.ReadFile("/proc/sys/kernel/perf_event_paranoid")
	if err != nil {
		t.Fatal(err)
	}
	paranoid := strings.TrimSpace(string(data))
	if root, err := os.Stat("/"); err != nil || root.Mode().Perm()&1 == 0 {
		t.Skipf("ordinary users may not go through the root directory: %v, %v", root.Mode(), err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	cmd.Env = append(os.Environ(), childVariable+"="+hosttest.NewCgroup(t, nil, "permission").PerfDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := []string{"permission", "kernel.perf_event_paranoid is " + paranoid, "CAP_PERFMON"}
	if n, err := strconv.Atoi(paranoid); err != nil || n <= 0 {
		want = []string{"counted"} // everybody may
	}
	for _, w := range want {
		if !strings.Contains(string(out), w) {
			t.Errorf("an ordinary user is told\n%swithout %q", out, w)
		}
	}
}

func countAsChild(dir string) string {
	c, err := FS{}.Open(softwarePlan(), Descriptors)
	if err == nil {
		defer c.Close()
		_, err = c.Add(dir)
	}
	switch {
	case err == nil:
		return "counted"
	case errors.Is(err, fs.ErrPermission):
		return "permission: " + err.Error()
	}
	return err.Error()
}

// onlineFile makes a list of online CPUs of the test's own, to be written by plug.
func onlineFile(t testing.TB) (f FS, plug func(cpus string)) {
	t.Helper()
	f.Root = t.TempDir()
	file := filepath.Join(f.Root, "sys/devices/system/cpu/online")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	return f, func(cpus string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(cpus+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHotplugByFile takes a CPU away in a list of online CPUs of the test's
// own. The CPU itself goes on, so that what is no longer counted can be seen.
func TestHotplugByFile(t *testing.T) {
	hosttest.Need(t, "smp")
	eachBackend(t, func(t *testing.T, b Backend) {
		root, plug := onlineFile(t)
		plug("0-1")
		c := openCounter(t, root, b)
		cg := hosttest.NewCgroup(t, nil, "hotplug")
		p := cg.Start("spin 1h")
		pinTo(t, p.Pid, 1)
		before, files := filesOpen(t), c.Files()
		g := add(t, c, cg)
		with := c.Files()
		wait := func() []Count {
			for end := cpuTime(t, cg) + 5e7; cpuTime(t, cg) < end; time.Sleep(time.Millisecond) {
			}
			refresh(t, c)
			return read(t, g)
		}
		all := wait()
		plug("0")
		refresh(t, c)
		left := read(t, g)
		rest := wait()
		if left[taskClock].Value < all[taskClock].Value || left[contextSwitches].Value < all[contextSwitches].Value ||
			left[taskClock].Running < all[taskClock].Running {
			t.Errorf("counts fell from %+v to %+v with the CPU", all, left)
		}
		if rest[taskClock].Value > left[taskClock].Value+1e7 {
			t.Errorf("%+v became %+v: a CPU that is offline is counted", left, rest)
		}
		if c.Files() >= with || filesOpen(t)-before != c.Files()-files {
			t.Errorf("Files %d with two CPUs, %d with one; %d open", with, c.Files(), filesOpen(t)-before)
		}
		late := add(t, c, cg) // while the CPU is away
		plug("0-1")
		refresh(t, c)
		again := wait()
		if again[taskClock].Value < rest[taskClock].Value+4e7 {
			t.Errorf("%+v became %+v after the CPU came again", rest, again)
		}
		if n := read(t, late)[taskClock].Value; n < 4e7 {
			t.Errorf("task-clock %d of a cgroup added before the CPU came", n)
		}
		if err := late.Close(); err != nil {
			t.Fatal(err)
		}
		if c.Files() != with {
			t.Errorf("Files %d, before the CPU went %d", c.Files(), with)
		}
		plug("nonsense")
		if err := c.Refresh(); err == nil || !strings.Contains(err.Error(), filepath.Join(root.Root, "sys/devices/system/cpu/online")) {
			t.Errorf("a list that cannot be read: %v", err)
		}
		if n := read(t, g); n[taskClock].Value < again[taskClock].Value {
			t.Errorf("%+v after %+v", n, again)
		}
		plug("0-1")
		refresh(t, c)
	})
}

// pinTo pins all threads of a process to a CPU.
func pinTo(t testing.TB, pid, cpu int) {
	t.Helper()
	var set unix.CPUSet
	set.Set(cpu)
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.SchedSetaffinity(tid, &set); err != nil && err != unix.ESRCH {
			t.Fatal(err)
		}
	}
}
