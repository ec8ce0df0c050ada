package run

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/act"
	"github.com/owca-project/owca/internal/hosttest"
	"github.com/owca-project/owca/internal/measure"
)

// allocatorFunc is an Allocator made of a function.
type allocatorFunc struct {
	f func(context.Context, *owca.Snapshot) (owca.Decision, error)
}

func (a *allocatorFunc) Allocate(ctx context.Context, s *owca.Snapshot) (owca.Decision, error) {
	return a.f(ctx, s)
}

func allocator(name string, f func(context.Context, *owca.Snapshot) (owca.Decision, error)) Allocator {
	return Allocator{name, &allocatorFunc{f}}
}

// quota decides on the cpu_quota of one task.
func quota(id owca.TaskID, q float64) owca.Decision {
	return owca.Decision{Allocations: map[owca.TaskID]owca.Allocations{id: {owca.CPUQuota: {Number: q, Reason: "test"}}}}
}

// limited is a cgroup whose CPU quota a test changes.
type limited struct {
	*hosttest.Cgroup
	file string
}

func newLimited(t *testing.T, name string) limited {
	hosttest.Need(t, "root")
	c := hosttest.NewCgroup(t, nil, name)
	for controller, file := range map[string]string{"cpu": "cpu.cfs_quota_us", "unified": "cpu.max"} {
		if c.Has(controller, file) {
			return limited{c, filepath.Join(c.Dir(controller), file)}
		}
	}
	t.Fatal("this host has no CPU controller")
	return limited{}
}

func (c limited) quota(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(c.file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func (c limited) node() owca.Node {
	tasks := []owca.Task{{ID: "t", Cgroups: []string{c.Path}}}
	return nodeFunc(func(context.Context) ([]owca.Task, error) { return tasks, nil })
}

func acts(t *testing.T) act.Options {
	return act.Options{Units: act.Units{SharesUnit: 1000}, StateDir: t.TempDir()}
}

// startActor returns a loop with an actor that is started.
func startActor(t *testing.T, o act.Options) *Loop {
	t.Helper()
	a := act.New("/")
	if err := a.Start(o); err != nil {
		t.Fatal(err)
	}
	return New(measure.Open("/"), a, Build{}, nil)
}

func TestAllocations(t *testing.T) {
	c := newLimited(t, "alloc")
	before := c.quota(t)
	var decide func(*owca.Snapshot) (owca.Decision, error)
	var other owca.Decision
	s, anomalies := &direct{}, &direct{}
	r := runner(c.node(), time.Minute, s)
	r.CommonLabels, r.ExtraLabels = nil, map[string]string{"own_ip": "10.0.0.1"}
	r.Anomalies = []Storage{{"anomalies", anomalies}}
	r.Act = acts(t)
	r.Allocators = []Allocator{
		allocator("A", func(_ context.Context, s *owca.Snapshot) (owca.Decision, error) { return decide(s) }),
		allocator("B", func(context.Context, *owca.Snapshot) (owca.Decision, error) { return other, nil }),
	}
	l := startActor(t, r.Act)
	l.adopt(r)
	closed := false
	defer func() {
		if !closed {
			_ = l.close()
		}
	}()
	tick := func(f func(*owca.Snapshot) (owca.Decision, error)) {
		decide = f
		l.tick(t.Context(), time.Now())
	}
	value := func(prefix, want string) {
		t.Helper()
		if got, ok := s.find(prefix); got != want {
			t.Errorf("%s is %q, %v, want %q", prefix, got, ok, want)
		}
	}

	tick(func(s *owca.Snapshot) (owca.Decision, error) {
		d := quota("t", 0.25)
		d.Anomalies = []owca.Anomaly{{Contended: "t", Resource: owca.CPUs}}
		d.Metrics = []owca.Metric{{Desc: &owca.Desc{Name: "model_score"}, Value: owca.Float(0.5)}}
		return d, nil
	})
	limited := c.quota(t)
	if limited == before {
		t.Fatalf("nothing has changed: %q; %v", limited, l.stages[stageAct].err)
	}
	want := []string{`owca_allocation_cpu_quota_ratio{allocation_type="cpu_quota",container_name="` + c.Path + `",own_ip="10.0.0.1",task="t"} 0.25`}
	if diff := cmp.Diff(want, grep(s.last(), "owca_allocation_cpu")); diff != "" {
		t.Error(diff)
	}
	leases, _ := s.find("owca_agent_leases")
	for prefix, want := range map[string]string{
		"owca_allocations_total": "1", "owca_allocation_errors_total": "0", "owca_agent_changes_total": "1",
		`owca_agent_lease_ends_total{how="foreign"`: "0", "owca_agent_guardian_up": "0",
	} {
		value(prefix, want)
	}
	if _, ok := s.find("owca_agent_planned_changes"); ok {
		t.Error("there are planned changes without dry_run")
	}
	if len(grep(anomalies.last(), "owca_anomaly{")) != 1 || len(grep(anomalies.last(), "model_score{")) != 1 {
		t.Errorf("what an allocator finds is not there: %v", anomalies.last())
	}

	// What is in effect is seen by the next, and stays although nothing is decided.
	tick(func(s *owca.Snapshot) (owca.Decision, error) {
		if got := s.Tasks[0].Allocations[owca.CPUQuota].Number; math.Abs(got-0.25) > 1e-9 {
			t.Errorf("the snapshot says that cpu_quota is %v", got)
		}
		return owca.Decision{}, nil
	})
	value("owca_agent_leases", leases)

	// An allocator that goes mad changes nothing, and takes no other one along.
	other = owca.Decision{Allocations: map[owca.TaskID]owca.Allocations{"t": {owca.CPUShares: {Number: 2}}}}
	for i, nonsense := range []owca.Decision{quota("t", math.NaN()), quota("t", -1), quota("nobody", 0.5), {Allocations: map[owca.TaskID]owca.Allocations{"t": {"coffee": {Number: 1}}}}} {
		tick(func(*owca.Snapshot) (owca.Decision, error) { return nonsense, nil })
		if got := c.quota(t); got != limited {
			t.Errorf("nonsense %d made it %q", i, got)
		}
		if err := l.stages[stageAct].err; err == nil || !strings.HasPrefix(err.Error(), "what A decided is dropped: ") || strings.Contains(err.Error(), "what B") {
			t.Errorf("nonsense %d: %v", i, err)
		}
		value("owca_allocation_cpu_quota_ratio", "0.25")
		text, _ := s.find("owca_allocation_cpu_shares")
		if got, err := strconv.ParseFloat(text, 64); err != nil || math.Abs(got-2) > 0.01 { // a v2 weight has fewer steps
			t.Errorf("owca_allocation_cpu_shares is %s, want 2", text)
		}
	}
	value("owca_allocation_errors_total", "4")
	value("owca_allocations_total", "5")

	// So does one that panics.
	tick(func(*owca.Snapshot) (owca.Decision, error) { panic("a bug") })
	if got := c.quota(t); got != limited {
		t.Errorf("a panic made it %q", got)
	}
	if err := l.stages[stageDecide].err; err == nil || !strings.HasPrefix(err.Error(), "A: panic: a bug") {
		t.Errorf("a panic: %v", err)
	}
	value("owca_allocation_errors_total", "5")

	// An agent that ends begins nothing.
	ctx, cancel := context.WithCancel(t.Context())
	decide = func(*owca.Snapshot) (owca.Decision, error) { cancel(); return quota("t", 0.5), nil }
	l.tick(ctx, time.Now())
	if got := c.quota(t); got != limited {
		t.Errorf("it was made %q while the agent ended", got)
	}

	// An allocator that has gone has nothing any more.
	r.Allocators = r.Allocators[1:]
	l.retire(l.adopt(r))
	if got := c.quota(t); got != before {
		t.Errorf("without its allocator it is %q, and was %q", got, before)
	}
	tick(nil)
	if got := grep(s.last(), "owca_allocation_cpu"); len(got) != 1 || !strings.HasPrefix(got[0], "owca_allocation_cpu_shares") {
		t.Errorf("left are %v", got)
	}
	r.Allocators = nil
	l.retire(l.adopt(r))
	tick(nil)
	if got := grep(s.last(), "owca_allocation_"); len(got) != 1 { // errors
		t.Errorf("without allocators there are %v", got)
	}
	closed = true
	if err := l.close(); err != nil {
		t.Error(err)
	}
}

func TestOnceUndoesOrKeeps(t *testing.T) {
	c := newLimited(t, "once")
	before := c.quota(t)
	r := runner(c.node(), time.Minute)
	during := ""
	r.Allocators = []Allocator{allocator("A", func(context.Context, *owca.Snapshot) (owca.Decision, error) { return quota("t", 0.25), nil })}
	r.Storages = []Storage{{"during", &storageFunc{func() { during = c.quota(t) }}}}
	for _, keep := range []bool{false, true} {
		during = ""
		r.Act = acts(t)
		r.Act.Keep = keep
		if err := startActor(t, r.Act).Once(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if during == "" || during == before {
			t.Errorf("keep %v: during the tick it was %q", keep, during)
		}
		want := before
		if keep {
			want = during
		}
		if got := c.quota(t); got != want {
			t.Errorf("keep %v: afterwards it is %q, want %q", keep, got, want)
		}
	}
}

// storageFunc calls a function instead of storing.
type storageFunc struct{ f func() }

func (*storageFunc) NonBlocking() {}

func (s *storageFunc) Store(context.Context, []owca.Metric) error { s.f(); return nil }

// TestPlan: nothing is written, anywhere.
func TestPlan(t *testing.T) {
	c := newLimited(t, "plan")
	before := c.quota(t)
	r := runner(c.node(), time.Minute, &direct{})
	stored := r.Storages[0].Storage.(*direct)
	r.Act = acts(t)
	r.Allocators = []Allocator{allocator("A", func(context.Context, *owca.Snapshot) (owca.Decision, error) { return quota("t", 0.25), nil })}
	l := New(measure.Open("/"), act.New("/"), Build{}, nil)
	report, err := l.Plan(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Changes) != 1 || report.Changes[0].For != "t" || report.Changes[0].Owner != "A" || report.Changes[0].Reason != "test" {
		t.Errorf("planned is %+v", report.Changes)
	}
	if got := c.quota(t); got != before {
		t.Errorf("it was %q and is %q", before, got)
	}
	if len(stored.batches) != 0 {
		t.Error("the plan was stored")
	}
	if list, err := os.ReadDir(r.Act.StateDir); err != nil || len(list) != 0 {
		t.Errorf("in state_dir there are %v, %v", list, err)
	}

	r.Allocators = []Allocator{allocator("A", func(context.Context, *owca.Snapshot) (owca.Decision, error) { return quota("nobody", 0.25), nil })}
	report, err = New(measure.Open("/"), act.New("/"), Build{}, nil).Plan(t.Context(), r)
	if err == nil || len(report.Changes) != 0 {
		t.Errorf("a plan that is invalid has the error %v and changes %v", err, report.Changes)
	}
}

// TestSuccession: what an allocator decided that is another one since a reload, by its name
// the same, is given back with the first thing that its successor decides.
func TestSuccession(t *testing.T) {
	c := newLimited(t, "succession")
	before := c.quota(t)
	first := func(context.Context, *owca.Snapshot) (owca.Decision, error) { return quota("t", 0.25), nil }
	nothing := func(context.Context, *owca.Snapshot) (owca.Decision, error) { return owca.Decision{}, nil }
	// then calls f once, and decides nothing afterwards.
	then := func(f func() (owca.Decision, error)) func(context.Context, *owca.Snapshot) (owca.Decision, error) {
		called := false
		return func(context.Context, *owca.Snapshot) (owca.Decision, error) {
			if called {
				return owca.Decision{}, nil
			}
			called = true
			return f()
		}
	}
	once := func(name string) Allocator {
		return allocator(name, then(func() (owca.Decision, error) { return quota("t", 0.25), nil }))
	}
	same, one, another := once("A"), once("A"), allocator("B", nothing)
	renamed := func(name string, a Allocator) Allocator { return Allocator{name, a.Allocator} }
	for _, tc := range []struct {
		name     string
		old, now []Allocator
		kept     int // ticks in which it is still limited
	}{
		{"the same", []Allocator{same}, []Allocator{same}, 3},
		{"decides nothing", []Allocator{allocator("A", first)}, []Allocator{allocator("A", nothing)}, 0},
		{"decides what is invalid", []Allocator{allocator("A", first)}, []Allocator{allocator("A", then(func() (owca.Decision, error) {
			return quota("nobody", 0.25), nil
		}))}, 1},
		{"decides what is invalid beside another one", []Allocator{allocator("A", first)}, []Allocator{another, allocator("A", then(func() (owca.Decision, error) {
			return quota("t", math.NaN()), nil
		}))}, 1},
		{"fails", []Allocator{allocator("A", first)}, []Allocator{allocator("A", then(func() (owca.Decision, error) {
			return owca.Decision{}, errors.New("no model")
		}))}, 1},
		{"panics", []Allocator{allocator("A", first)}, []Allocator{allocator("A", then(func() (owca.Decision, error) { panic("a bug") }))}, 1},
		{"has another name", []Allocator{allocator("A", first)}, []Allocator{allocator("C", nothing)}, 0},
		{"has the other's name", []Allocator{one, another}, []Allocator{renamed("B", one), renamed("A", another)}, 0},
		{"none", []Allocator{allocator("A", first)}, nil, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := runner(c.node(), time.Minute)
			r.Act = acts(t)
			r.Allocators = tc.old
			l := startActor(t, r.Act)
			l.adopt(r)
			defer func() {
				if err := l.close(); err != nil {
					t.Error(err)
				}
			}()
			l.tick(t.Context(), time.Now())
			if c.quota(t) == before {
				t.Fatalf("nothing has changed: %v", l.stages[stageAct].err)
			}
			r.Allocators = tc.now
			l.retire(l.adopt(r))
			for i := range 3 {
				l.tick(t.Context(), time.Now())
				if limited := c.quota(t) != before; limited != (i < tc.kept) {
					t.Errorf("tick %d: limited %v", i, limited)
				}
			}
		})
	}
}

// TestAllocatorsOfTheSame: of two that decide on the same the later wins, also in a tick in
// which it fails or is late, and whatever a third one does.
func TestAllocatorsOfTheSame(t *testing.T) {
	c := newLimited(t, "same")
	before := c.quota(t)
	var second func(context.Context) (owca.Decision, error)
	s := &direct{}
	r := runner(c.node(), time.Second, s)
	r.CommonLabels = nil
	r.Act = acts(t)
	r.Allocators = []Allocator{
		allocator("A", func(context.Context, *owca.Snapshot) (owca.Decision, error) { return quota("t", 0.25), nil }),
		allocator("B", func(ctx context.Context, _ *owca.Snapshot) (owca.Decision, error) { return second(ctx) }),
		allocator("C", func(context.Context, *owca.Snapshot) (owca.Decision, error) { return quota("t", -1), nil }),
	}
	l := startActor(t, r.Act)
	l.adopt(r)
	defer func() {
		if err := l.close(); err != nil {
			t.Error(err)
		}
		if got := c.quota(t); got != before {
			t.Errorf("at the end it is %q, and was %q", got, before)
		}
	}()
	tick := func(what, ratio, changes string, f func(context.Context) (owca.Decision, error)) {
		t.Helper()
		second = f
		l.tick(t.Context(), time.Now())
		for prefix, want := range map[string]string{"owca_allocation_cpu_quota_ratio": ratio, "owca_agent_changes_total": changes} {
			if got, ok := s.find(prefix); got != want {
				t.Errorf("%s: %s is %q, %v, want %q", what, prefix, got, ok, want)
			}
		}
	}
	decides := func(context.Context) (owca.Decision, error) { return quota("t", 0.5), nil }

	tick("both decide", "0.5", "1", decides)
	tick("again", "0.5", "1", decides)
	if err := l.stages[stageAct].err; err == nil || !strings.HasPrefix(err.Error(), "what C decided is dropped: ") || strings.Contains(err.Error(), "what A") {
		t.Errorf("of the third: %v", err)
	}
	tick("the second fails", "0.5", "1", func(context.Context) (owca.Decision, error) { return owca.Decision{}, errors.New("broken") })
	tick("it panics", "0.5", "1", func(context.Context) (owca.Decision, error) { panic("a bug") })
	tick("it is late", "0.5", "1", func(ctx context.Context) (owca.Decision, error) { <-ctx.Done(); return quota("t", 1), ctx.Err() })
	for !l.allocators[1].returned() {
		time.Sleep(time.Millisecond)
	}
	tick("it mentions nothing", "0.5", "1", func(context.Context) (owca.Decision, error) { return owca.Decision{}, nil })
	// An error beside allocations is told, and they hold.
	tick("an error beside", "0.75", "2", func(context.Context) (owca.Decision, error) { return quota("t", 0.75), errors.New("half broken") })
	if err := l.stages[stageDecide].err; err == nil || err.Error() != "B: half broken" {
		t.Errorf("the error beside is %v", err)
	}
	// In 7 ticks A decided 7 times and B 3 times; C was dropped 7 times, and B had no answer 3 times.
	for prefix, want := range map[string]string{"owca_allocations_total": "10", "owca_allocation_errors_total": "10"} {
		if got, _ := s.find(prefix); got != want {
			t.Errorf("%s is %s, want %s", prefix, got, want)
		}
	}
	tick("it releases", "0.25", "3", func(context.Context) (owca.Decision, error) {
		return owca.Decision{Allocations: map[owca.TaskID]owca.Allocations{"t": {owca.CPUQuota: {Release: true}}}}, nil
	})
}

// TestBurstMetric: a burst is told as a part of the host, for which it takes the period of
// another file.
func TestBurstMetric(t *testing.T) {
	c := newLimited(t, "burst")
	_, err := os.Stat(filepath.Join(filepath.Dir(c.file), map[string]string{"cpu.cfs_quota_us": "cpu.cfs_burst_us", "cpu.max": "cpu.max.burst"}[filepath.Base(c.file)]))
	s := &direct{}
	r := runner(c.node(), time.Minute, s)
	r.Act = acts(t)
	r.Allocators = []Allocator{allocator("A", func(context.Context, *owca.Snapshot) (owca.Decision, error) {
		return owca.Decision{Allocations: map[owca.TaskID]owca.Allocations{"t": {owca.CPUQuota: {Number: 0.5}, owca.CPUBurst: {Number: 0.125}}}}, nil
	})}
	l := startActor(t, r.Act)
	l.adopt(r)
	defer func() { _ = l.close() }()
	l.tick(t.Context(), time.Now())
	got, ok := s.find("owca_allocation_cpu_burst_ratio")
	if want := err == nil; ok != want || want && got != "0.125" { // before Linux 5.14 there is none
		t.Errorf("the burst is %q, %v, where the kernel has one: %v; %v", got, ok, want, l.stages[stageAct].err)
	}
}
