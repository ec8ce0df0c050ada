package perf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/hosttest"
)

// The tests in this file need a PMU of a certain kind, or none, or CPUs that
// may be unplugged; test/vm/run-arm64 boots a machine for each.

// A session counts the events of a plan in cgroups.
type session struct {
	Counter
	t    *testing.T
	plan *Plan
}

// newSession counts everything requested, which this host must be able to.
func newSession(t *testing.T, b Backend, requests ...string) *session {
	t.Helper()
	plan := mustPlan(t, requests...)
	for _, o := range plan.Omitted {
		t.Fatalf("%s is omitted: %v", o.Name, o.Err)
	}
	return openSession(t, b, plan)
}

func mustPlan(t *testing.T, requests ...string) *Plan {
	t.Helper()
	parsed, err := ParseRequests(requests)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := FS{}.Plan(parsed)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func openSession(t *testing.T, b Backend, plan *Plan) *session {
	t.Helper()
	c, err := FS{}.Open(plan, b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return &session{Counter: c, t: t, plan: plan}
}

// add starts to count a cgroup.
func (s *session) add(c *hosttest.Cgroup) Cgroup {
	s.t.Helper()
	g, err := s.Add(c.PerfDir())
	if err != nil {
		s.t.Fatal(err)
	}
	return g
}

func (s *session) refresh() {
	s.t.Helper()
	if err := s.Refresh(); err != nil {
		s.t.Fatal(err)
	}
}

// read returns the counts of a cgroup, by Alias.
func (s *session) read(g Cgroup) map[string]Count {
	s.t.Helper()
	events := s.plan.Events()
	counts := make([]Count, len(events))
	if err := g.Read(counts); err != nil {
		s.t.Fatal(err)
	}
	m := make(map[string]Count, len(events))
	for i, e := range events {
		m[e.Alias] = counts[i]
	}
	return m
}

// want checks the number of instructions that a cgroup executed, and that they
// did not have to be estimated.
func (s *session) want(g Cgroup, what string, instructions uint64) {
	s.t.Helper()
	got := s.read(g)["instructions_u"]
	if got.Value != instructions || got.Running != got.Enabled {
		s.t.Errorf("%s: %+v, not %d instructions", what, got, instructions)
	}
}

// counters is how many events this CPU counts at once, besides cycles.
const counters = 6

// TestExact: with one CPU, QEMU counts an instruction in user mode when it was
// executed and nothing else, interrupts or not (-icount: the counter is the
// number of instructions translated to run, and interrupts are taken between
// them). Kernel mode is left out, because what it does for a task is not
// known. So the counts are those of the loops to the instruction, whatever the
// kernel does in between.
func TestExact(t *testing.T) {
	hosttest.Need(t, "root", "exact")
	for _, b := range Backends {
		for _, test := range []struct {
			name string
			run  func(*testing.T, Backend)
		}{
			{"rounds", testExactRounds},
			{"tasks", testExactTasks},
			{"tree", testExactTree},
			{"idle", testExactIdle},
			{"moved", testExactMoved},
			{"added again", testExactAgain},
			{"removed", testExactRemoved},
			{"multiplexed", testExactMultiplexed},
			{"stays 0", testExactStaysZero},
		} {
			t.Run(string(b)+"/"+test.name, func(t *testing.T) {
				t.Cleanup(func() { countersFree(t) }) // after the test's own
				test.run(t, b)
			})
		}
	}
	t.Run("agree", testExactAgree)
	t.Run("group", testExactGroup)
	countersFree(t) // BPF's last
	t.Run("starved", testExactStarved)
	t.Run("default", testExactDefault)
}

// countersFree waits until nobody holds one of the CPU's counters, which is a
// moment after Close: BPF's maps are freed when no program can be in them any
// more (bpf_map_free_deferred, kernel/bpf/syscall.c). A group that needs all of
// them, of a thread, has to wait as long as an event of the whole CPU has one.
func countersFree(t *testing.T) {
	t.Helper()
	if !countersGetFree(t, 10*time.Second) {
		t.Error("counters are held after Close")
	}
}

// countersGetFree waits no longer than that.
func countersGetFree(t *testing.T, wait time.Duration) bool {
	t.Helper()
	var events []*Event
	for _, name := range append([]string{"cycles:u"}, slices.Repeat([]string{"instructions:u"}, counters)...) {
		e, err := FS{}.Resolve(name)
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fds := make([]int32, len(events))
	if _, err := openGroup(fds, events, 0, 0, -1, 0); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := closeGroup(fds); err != nil {
			t.Error(err)
		}
	}()
	if err := enableGroup(int(fds[0])); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 8*(3+len(events)))
	running := func() uint64 {
		if n, err := unix.Read(int(fds[0]), b); err != nil || n != len(b) {
			t.Fatalf("%d bytes: %v", n, err)
		}
		return binary.NativeEndian.Uint64(b[16:])
	}
	before := running() // as long as it was smaller, it may have run
	for deadline := time.Now().Add(wait); time.Now().Before(deadline); {
		if running() > before {
			return true
		}
	}
	return false
}

func testExactRounds(t *testing.T, b Backend) {
	s := newSession(t, b, "{cycles:u,instructions:u}")
	c := hosttest.NewCgroup(t, nil, "exact")
	x := hosttest.StartExact(t, c)
	g := s.add(c)
	s.refresh()
	s.want(g, "before", 0)
	var sum uint64
	for _, n := range []uint64{1, 2, 1_000, 1, 3_000_000} {
		sum += x.Loop(n)
		s.refresh()
		s.want(g, fmt.Sprintf("round of %d", n), sum)
	}
	counts := s.read(g)
	cycles, instructions := counts["cycles_u"], counts["instructions_u"]
	if cycles.Enabled != instructions.Enabled || cycles.Running != instructions.Running || cycles.Running == 0 {
		t.Errorf("one group, two times: %+v, %+v", cycles, instructions)
	}
	// QEMU's clock ticks at 1 GHz and advances by 2^shift ns an instruction
	// (-icount shift=1), so this is the ratio of every period in user mode.
	if cycles.Value != 2*instructions.Value {
		t.Errorf("%d cycles for %d instructions", cycles.Value, instructions.Value)
	}
}

// testExactTasks: each gets its own, however often they were switched.
func testExactTasks(t *testing.T, b Backend) {
	s := newSession(t, b, "instructions:u")
	var tasks []*hosttest.Exact
	var groups []Cgroup
	for _, name := range []string{"one", "two"} {
		c := hosttest.NewCgroup(t, nil, name)
		tasks = append(tasks, hosttest.StartExact(t, c))
		groups = append(groups, s.add(c))
	}
	var sums [2]uint64
	for range 3 {
		for i, x := range tasks {
			x.Begin(10_000_000 + 77_777*uint64(i))
		}
		for i, x := range tasks {
			sums[i] += x.End()
		}
		s.refresh()
		for i, g := range groups {
			s.want(g, fmt.Sprintf("task %d", i), sums[i])
		}
	}
	for i, x := range tasks {
		if switches(t, x.Pid, "nonvoluntary_ctxt_switches") == 0 {
			t.Errorf("task %d was never preempted: they did not share the CPU", i)
		}
	}
}

// switches reads a line of /proc/PID/status.
func switches(t *testing.T, pid int, name string) uint64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s", name)
	return 0
}

// testExactTree: a cgroup counts all below it, whether that is counted itself
// or not, and added before it or after it.
func testExactTree(t *testing.T, b Backend) {
	s := newSession(t, b, "instructions:u")
	top := hosttest.NewCgroup(t, nil, "top")
	left := hosttest.NewCgroup(t, top, "left")
	right := hosttest.NewCgroup(t, top, "right")
	below := hosttest.NewCgroup(t, left, "below")
	uncounted := hosttest.NewCgroup(t, below, "uncounted")

	var tasks []*hosttest.Exact
	for _, c := range []*hosttest.Cgroup{top, left, right, below, uncounted} {
		tasks = append(tasks, hosttest.StartExact(t, c))
	}
	belowGroup := s.add(below)
	topGroup := s.add(top)
	leftGroup, rightGroup := s.add(left), s.add(right)
	sums := make([]uint64, len(tasks))
	for round := range uint64(3) {
		for i, x := range tasks {
			x.Begin(1_000_000<<i + round)
		}
		for i, x := range tasks {
			sums[i] += x.End()
		}
	}
	s.refresh()
	s.want(topGroup, "top", sums[0]+sums[1]+sums[2]+sums[3]+sums[4])
	s.want(leftGroup, "left", sums[1]+sums[3]+sums[4])
	s.want(rightGroup, "right", sums[2])
	s.want(belowGroup, "below", sums[3]+sums[4])

	// Of a cgroup that is made later.
	late := hosttest.NewCgroup(t, right, "late")
	lateRound := hosttest.StartExact(t, late).Loop(12_345)
	s.refresh()
	s.want(rightGroup, "right", sums[2]+lateRound)
	s.want(leftGroup, "left", sums[1]+sums[3]+sums[4])
}

// testExactIdle: what does not run counts nothing and has no time.
func testExactIdle(t *testing.T, b Backend) {
	s := newSession(t, b, "instructions:u", "context-switches", "task-clock")
	idle, busy := hosttest.NewCgroup(t, nil, "idle"), hosttest.NewCgroup(t, nil, "busy")
	hosttest.StartExact(t, idle)
	x := hosttest.StartExact(t, busy)
	idleGroup, busyGroup := s.add(idle), s.add(busy)
	var sum uint64
	for range 5 {
		sum += x.Loop(1_000_000)
		s.refresh()
	}
	s.want(busyGroup, "busy", sum)
	for alias, count := range s.read(idleGroup) {
		if count != (Count{}) {
			t.Errorf("%s of an idle cgroup: %+v", alias, count)
		}
	}
}

// testExactMoved: what a process executes belongs to the cgroup that it is in.
func testExactMoved(t *testing.T, b Backend) {
	s := newSession(t, b, "instructions:u")
	from, to := hosttest.NewCgroup(t, nil, "from"), hosttest.NewCgroup(t, nil, "to")
	x := hosttest.StartExact(t, from)
	fromGroup, toGroup := s.add(from), s.add(to)
	before := x.Loop(1_000)
	to.Add(x.Pid)
	after := x.Loop(50_000)
	s.refresh()
	s.want(fromGroup, "the old cgroup", before)
	s.want(toGroup, "the new cgroup", after)
}

// testExactAgain: counting begins at 0 with Add, also if it was counted before,
// and by itself in the meantime.
func testExactAgain(t *testing.T, b Backend) {
	s := newSession(t, b, "instructions:u")
	c, other := hosttest.NewCgroup(t, nil, "exact"), hosttest.NewCgroup(t, nil, "other")
	x := hosttest.StartExact(t, c)
	otherGroup := s.add(other)
	x.Loop(1_000)
	for range 3 {
		g := s.add(c)
		want := x.Loop(2_000)
		s.refresh()
		s.want(g, "added", want)
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
		x.Loop(3_000)
	}
	s.refresh()
	s.want(otherGroup, "the other", 0)
}

// testExactRemoved: a removed cgroup keeps what it counted, read before or not,
// and the others don't notice.
func testExactRemoved(t *testing.T, b Backend) {
	s := newSession(t, b, "instructions:u")
	stays, gone := hosttest.NewCgroup(t, nil, "stays"), hosttest.NewCgroup(t, nil, "gone")
	x, y := hosttest.StartExact(t, stays), hosttest.StartExact(t, gone)
	staysGroup, goneGroup := s.add(stays), s.add(gone)
	sum, last := x.Loop(1_000), y.Loop(2_000)
	gone.Remove()
	s.refresh()
	s.want(goneGroup, "removed", last)
	sum += x.Loop(3_000)
	s.refresh()
	s.want(goneGroup, "removed", last)
	s.want(staysGroup, "the other", sum)
	if err := goneGroup.Close(); err != nil {
		t.Error(err)
	}
	s.refresh()
	s.want(staysGroup, "the other", sum)
}

// testExactMultiplexed: more groups than counters take turns, and the estimates
// are good.
func testExactMultiplexed(t *testing.T, b Backend) {
	e, err := FS{}.Resolve("instructions:u")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{counters, 8, 12} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			plan := &Plan{}
			for i := range n {
				e := *e
				e.Name = fmt.Sprintf("%s,name=e%d", e.Name, i)
				e.Alias = fmt.Sprintf("e%d", i)
				plan.Groups = append(plan.Groups, []*Event{&e})
			}
			s := openSession(t, b, plan)
			c := hosttest.NewCgroup(t, nil, "exact")
			x := hosttest.StartExact(t, c)
			g := s.add(c)
			want := float64(x.Loop(multiplexedSteps))
			s.refresh()
			worst, share := 0.0, 0.0
			for alias, count := range s.read(g) {
				estimate := float64(count.Value) * float64(count.Enabled) / float64(count.Running)
				off := math.Abs(estimate/want - 1)
				worst, share = max(worst, off), share+float64(count.Running)/float64(count.Enabled)/float64(n)
				switch {
				case n <= counters && (float64(count.Value) != want || count.Running != count.Enabled):
					t.Errorf("%s has a counter of its own: %+v, not %.0f", alias, count, want)
				case n > counters && (count.Running == 0 || count.Running >= count.Enabled):
					t.Errorf("%s took no turns: %+v", alias, count)
				case !(off < 0.003):
					t.Errorf("%s: %+v: %.0f, not %.0f", alias, count, estimate, want)
				}
			}
			if fair := min(1, counters/float64(n)); math.Abs(share-fair) > 0.03 {
				t.Errorf("they ran %.3f of the time, not %.3f", share, fair)
			}
			t.Logf("%d events: ran %.3f of the time, estimates are off by %.3f %% at most", n, share, 100*worst)
		})
	}
}

// multiplexedSteps take some hundred turns of perf_event_mux_interval_ms (4).
const multiplexedSteps = 200_000_000

// testExactStaysZero: this CPU accepts events that it does not count. That is
// no failure, but the trial says so.
func testExactStaysZero(t *testing.T, b Backend) {
	s := newSession(t, b, "instructions:u", "zero__r0000", "armv8_pmuv3/event=0x03,name=l1d_refill/", "armv8_pmuv3/event=0x11,name=raw_cycles/u")
	c := hosttest.NewCgroup(t, nil, "exact")
	x := hosttest.StartExact(t, c)
	g := s.add(c)
	want := x.Loop(1_000_000)
	s.refresh()
	s.want(g, "instructions", want)
	counts := s.read(g)
	for _, alias := range []string{"zero", "l1d_refill"} {
		if got := counts[alias]; got.Value != 0 || got.Running == 0 {
			t.Errorf("%s: %+v", alias, got)
		}
	}
	if got := counts["raw_cycles"]; got.Value != 2*want {
		t.Errorf("raw cycles: %+v, not %d", got, 2*want)
	}
	events := s.plan.Events()
	for i, v := range (FS{}).Probe(events) {
		outcome := Counts
		if events[i].Alias == "zero" || events[i].Alias == "l1d_refill" {
			outcome = StayedZero
		}
		if v.Outcome != outcome || v.Err != nil {
			t.Errorf("trial of %s: %+v", events[i].Name, v)
		}
	}
}

// testExactAgree: both backends at once, and each is exact.
func testExactAgree(t *testing.T) {
	c, other := hosttest.NewCgroup(t, nil, "exact"), hosttest.NewCgroup(t, nil, "other")
	x, y := hosttest.StartExact(t, c), hosttest.StartExact(t, other)
	var sessions []*session
	var groups []Cgroup
	for _, b := range Backends {
		s := newSession(t, b, "{instructions:u,cycles:u}")
		sessions = append(sessions, s)
		groups = append(groups, s.add(c))
	}
	var sum uint64
	for range 20 {
		x.Begin(700_001)
		y.Begin(900_001)
		sum += x.End()
		y.End()
		for i, s := range sessions {
			s.refresh()
			s.want(groups[i], string(Backends[i]), sum)
		}
	}
}

// testExactGroup: a group that is too big is refused with how many would fit,
// one that is not is counted whole. This CPU has six counters and one for
// cycles.
func testExactGroup(t *testing.T) {
	group := func(n int) []string {
		events := []string{"cycles:u"}
		for i := range n - 1 {
			events = append(events, fmt.Sprintf("armv8_pmuv3/event=0x08,name=i%d/u", i))
		}
		return []string{"{" + strings.Join(events, ",") + "}"}
	}
	for _, n := range []int{8, 12} {
		requests, err := ParseRequests(group(n))
		if err != nil {
			t.Fatal(err)
		}
		_, err = FS{}.Plan(requests)
		if err == nil || errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "7") || !strings.Contains(err.Error(), strconv.Itoa(n)) {
			t.Errorf("%d events: %v", n, err)
		}
		t.Log(err)
	}
	plan := mustPlan(t, group(7)...)
	if len(plan.Groups) != 1 || len(plan.Groups[0]) != 7 || len(plan.Omitted) != 0 {
		t.Fatalf("7 events: %+v", plan)
	}
	c := hosttest.NewCgroup(t, nil, "exact")
	x := hosttest.StartExact(t, c)
	for _, b := range Backends {
		s := openSession(t, b, plan)
		g := s.add(c)
		want := x.Loop(100_000)
		s.refresh()
		for alias, count := range s.read(g) {
			if alias == "cycles_u" {
				want *= 2
			}
			if count.Value != want || count.Running != count.Enabled {
				t.Errorf("%s: %s: %+v, not %d", b, alias, count, want)
			}
			if alias == "cycles_u" {
				want /= 2
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// testExactStarved: a group that fits is said to be starved as long as somebody
// else holds one of its counters, and the room is one smaller.
func testExactStarved(t *testing.T) {
	const text = "{cycles:u,r8,r8:u,r8:k,r11,r11:u,r11:k}" // all counters
	holder, err := FS{}.Resolve("r8")
	if err != nil {
		t.Fatal(err)
	}
	fds := []int32{-1}
	for _, held := range []bool{false, true, false} {
		wait := 10 * time.Second
		if held {
			if _, err := openGroup(fds, []*Event{holder}, unix.PerfBitPinned, -1, 0, 0); err != nil {
				t.Fatal(err)
			}
			wait = 100 * time.Millisecond
		}
		if countersGetFree(t, wait) == held {
			t.Errorf("a counter is held: %v; all got free: %v", held, held)
		}
		plan := mustPlan(t, text, "instructions:u", "task-clock")
		if layout(plan) != text+" {instructions:u} {task-clock}" || len(plan.Omitted) != 0 {
			t.Errorf("held %v: %s, omitted %v", held, layout(plan), plan.Omitted)
		}
		switch {
		case !held && len(plan.Starved) != 0,
			held && (len(plan.Starved) != 1 || !strings.Contains(plan.Starved[0].Error(), text+" fits, but is not counted while others hold counters, which are enough for 6 of 7 events now")):
			t.Errorf("held %v: starved %v", held, plan.Starved)
		}
		rooms, err := FS{}.Room()
		free := counters + 1
		if held {
			free--
		}
		if err != nil || len(rooms) != 1 || rooms[0].CPUs != nil || rooms[0].Fit != counters+1 || rooms[0].Free != free {
			t.Errorf("held %v: room %+v, %v, want %d of %d", held, rooms, err, free, counters+1)
		}
		if err := closeGroup(fds); err != nil {
			t.Fatal(err)
		}
	}
}

// testExactDefault: of the default events this CPU has two, in one group; no
// others are asked of it.
func testExactDefault(t *testing.T) {
	plan := mustPlan(t, DefaultEvents...)
	if len(plan.Groups) != 1 {
		t.Errorf("%d groups", len(plan.Groups))
	}
	wantEvents(t, plan, []string{"cycles", "instructions"}, []string{"cache_misses", "cache_references", "stalls_mem_load"})
}

// wantEvents checks what of the requests a plan counts and what it omits, with
// a reason.
func wantEvents(t *testing.T, plan *Plan, counted, omitted []string) {
	t.Helper()
	var aliases, names []string
	for _, e := range plan.Events() {
		aliases = append(aliases, e.Alias)
	}
	for _, o := range plan.Omitted {
		names = append(names, o.Name)
		t.Logf("omitted: %s: %v", o.Name, o.Err)
		if !errors.Is(o.Err, errors.ErrUnsupported) || o.Err.Error() == errors.ErrUnsupported.Error() {
			t.Errorf("%s is omitted without a reason: %v", o.Name, o.Err)
		}
	}
	slices.Sort(aliases)
	slices.Sort(names)
	if !slices.Equal(aliases, counted) || !slices.Equal(names, omitted) {
		t.Errorf("counted: %v, omitted: %v; not %v, %v", aliases, names, counted, omitted)
	}
}

// TestNoPMU: a host without hardware events says so of each and counts what
// the kernel itself knows.
func TestNoPMU(t *testing.T) {
	hosttest.Need(t, "root", "no-pmu")
	plan := mustPlan(t, append([]string{"task-clock", "r11", "L1-dcache-load-misses"}, DefaultEvents...)...)
	wantEvents(t, plan, []string{"task_clock"}, slices.Sorted(slices.Values(append([]string{"r11", "L1-dcache-load-misses"}, DefaultEvents...))))
	testPartly(t, plan, "task_clock")
}

// TestNoInstructions: one event that is missing does not take along the others
// of the default.
func TestNoInstructions(t *testing.T) {
	hosttest.Need(t, "root", "no-instructions")
	plan := mustPlan(t, DefaultEvents...)
	wantEvents(t, plan, []string{"cycles"}, []string{"cache_misses", "cache_references", "instructions", "stalls_mem_load"})
	testPartly(t, plan, "cycles")
}

// testPartly: the event that is left is counted.
func testPartly(t *testing.T, plan *Plan, alias string) {
	for _, b := range Backends {
		t.Run(string(b), func(t *testing.T) {
			s := openSession(t, b, plan)
			c := hosttest.NewCgroup(t, nil, "partly")
			g := s.add(c)
			c.Start("spin 20ms").Done()
			s.refresh()
			if got := s.read(g)[alias]; got.Value < 1e6 || got.Running == 0 {
				t.Errorf("%s of 20 ms: %+v", alias, got)
			}
		})
	}
}

// TestRunning: what a thread does that has a CPU to itself is seen while it
// runs.
func TestRunning(t *testing.T) {
	hosttest.Need(t, "root", "pmu", "smp")
	for _, b := range Backends {
		t.Run(string(b), func(t *testing.T) {
			s := newSession(t, b, "cycles:u", "task-clock")
			c := hosttest.NewCgroup(t, nil, "running")
			g := s.add(c)
			pid := startLoop(t, c)
			apart(t, pid)
			// No thread of the kernel's own goes before it.
			attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}
			if err := unix.SchedSetAttr(pid, &attr, 0); err != nil {
				t.Fatal(err)
			}
			seen := func() (map[string]Count, uint64) {
				s.refresh()
				return s.read(g), switches(t, pid, "voluntary_ctxt_switches") + switches(t, pid, "nonvoluntary_ctxt_switches")
			}
			// But RT throttling does, 50 ms of each second.
			for range 100 {
				before, switched := seen()
				time.Sleep(10 * time.Millisecond)
				after, again := seen()
				if switched != again {
					continue
				}
				for alias := range before {
					if after[alias].Value <= before[alias].Value || after[alias].Running <= before[alias].Running {
						t.Errorf("%s: %+v, then %+v", alias, before[alias], after[alias])
					}
				}
				return
			}
			t.Fatal("the thread is switched out all the time")
		})
	}
}

// startLoop starts a process that has one thread, which never sleeps; Go's
// loads have others beside the one that works.
func startLoop(t *testing.T, c *hosttest.Cgroup) int {
	t.Helper()
	cmd := exec.Command("sh", "-c", "while :; do :; done")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	c.Add(cmd.Process.Pid)
	return cmd.Process.Pid
}

// apart gives CPU 1 to a process's threads and the other CPUs to this one's.
func apart(t *testing.T, pid int) {
	t.Helper()
	var all, one, others unix.CPUSet
	if err := unix.SchedGetaffinity(os.Getpid(), &all); err != nil {
		t.Fatal(err)
	}
	one.Set(1)
	others = all
	others.Clear(1)
	setAffinity(t, os.Getpid(), &others)
	t.Cleanup(func() { setAffinity(t, os.Getpid(), &all) })
	setAffinity(t, pid, &one)
}

// setAffinity is for all threads of a process.
func setAffinity(t *testing.T, pid int, cpus *unix.CPUSet) {
	t.Helper()
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		tid, err := strconv.Atoi(thread.Name())
		if err == nil {
			err = unix.SchedSetaffinity(tid, cpus)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) {
			t.Fatal(err)
		}
	}
}

// TestHotplug: a CPU goes and comes again. Sums never fall, and what runs on it
// afterwards is counted.
func TestHotplug(t *testing.T) {
	hosttest.Need(t, "root", "hotplug")
	t.Run("software", func(t *testing.T) { testHotplug(t, "{task-clock,cpu-clock}") })
	t.Run("hardware", func(t *testing.T) {
		hosttest.Need(t, "pmu")
		testHotplug(t, "{cycles:u,cycles}", "task-clock")
	})
}

func testHotplug(t *testing.T, requests ...string) {
	for _, b := range Backends {
		t.Run(string(b), func(t *testing.T) { testBackendHotplug(t, b, requests) })
	}
}

func testBackendHotplug(t *testing.T, b Backend, requests []string) {
	s := newSession(t, b, requests...)
	c := hosttest.NewCgroup(t, nil, "hotplug")
	g := s.add(c)
	pid := startLoop(t, c)
	apart(t, pid)

	last := make(map[string]Count)
	check := func(when string) {
		t.Helper()
		now := s.read(g)
		for alias, count := range now {
			if l := last[alias]; count.Value < l.Value || count.Enabled < l.Enabled || count.Running < l.Running {
				t.Errorf("%s: %s fell from %+v to %+v", when, alias, l, count)
			}
		}
		last = now
	}
	// grows waits until the spinning thread is counted.
	grows := func(when string) {
		t.Helper()
		before := s.read(g)
		for range 500 {
			time.Sleep(10 * time.Millisecond)
			s.refresh()
			check(when)
			grown := 0
			for alias, count := range last {
				if count.Value >= before[alias].Value+1_000_000 {
					grown++
				}
			}
			if grown == len(last) {
				return
			}
		}
		t.Fatalf("%s: nothing is counted: %+v, then %+v", when, before, last)
	}
	files := s.Files()
	grows("on CPU 1")
	for range 3 {
		plug(t, 1, false)
		// Before the Counter knows, it may fail, but not count less.
		counts := make([]Count, len(s.plan.Events()))
		if err := g.Read(counts); err == nil {
			check("just unplugged")
		}
		s.refresh()
		check("unplugged")
		if n := s.Files(); n >= files {
			t.Errorf("%d files of %d are open without CPU 1", n, files)
		}
		grows("moved to another CPU")
		plug(t, 1, true)
		s.refresh()
		check("plugged in")
		if n := s.Files(); n != files {
			t.Errorf("%d files of %d are open with CPU 1 again", n, files)
		}
		restoreCpuset(t, c)
		var one unix.CPUSet
		one.Set(1)
		setAffinity(t, pid, &one)
		grows("on CPU 1 again")
	}
	// Gone and back between two calls of Refresh.
	plug(t, 1, false)
	plug(t, 1, true)
	s.refresh()
	check("plugged in unseen")
	grows("unseen")
}

// restoreCpuset gives a cgroup all CPUs again: a v1 cpuset forgets one that
// goes offline.
func restoreCpuset(t *testing.T, c *hosttest.Cgroup) {
	t.Helper()
	dir := c.Dir("cpuset")
	if dir == "" {
		return
	}
	const file = "cpuset.cpus"
	cpus, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, file), cpus, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// plug makes a CPU online or offline, and online at the end of the test.
func plug(t *testing.T, cpu int, online bool) {
	t.Helper()
	file := fmt.Sprintf("/sys/devices/system/cpu/cpu%d/online", cpu)
	value := []byte("0")
	if online {
		value = []byte("1")
	}
	if err := os.WriteFile(file, value, 0); err != nil {
		t.Fatal(err)
	}
	if !online {
		t.Cleanup(func() {
			if err := os.WriteFile(file, []byte("1"), 0); err != nil {
				t.Error(err)
			}
		})
	}
}
