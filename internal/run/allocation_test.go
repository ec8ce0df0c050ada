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
	hosttest.Need(t, "cgroup1")
	t.Fatal("v1 without the cpu controller")
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
	report, err := l.Plan(t.Context(), r, nil)
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
	report, err = New(measure.Open("/"), act.New("/"), Build{}, nil).Plan(t.Context(), r, nil)
	if err == nil || len(report.Changes) != 0 {
		t.Errorf("a plan that is invalid has the error %v and changes %v", err, report.Changes)
	}
}

// TestPlanGivesBack: a plan begins with what an agent holds, and shows what that would give back.
func TestPlanGivesBack(t *testing.T) {
	c := newLimited(t, "plan-back")
	before := c.quota(t)
	r := runner(c.node(), time.Minute)
	r.Act = acts(t)
	decides := func(name string, q float64) Allocator {
		return allocator(name, func(context.Context, *owca.Snapshot) (owca.Decision, error) {
			if q == 0 {
				return owca.Decision{Allocations: map[owca.TaskID]owca.Allocations{}}, nil
			}
			return quota("t", q), nil
		})
	}
	r.Allocators = []Allocator{decides("A", 0.25)}
	l := startActor(t, r.Act)
	l.adopt(r)
	l.tick(t.Context(), time.Now())
	held := c.quota(t)
	defer func() {
		if err := l.close(); err != nil || c.quota(t) != before {
			t.Errorf("at the end it is %q, want %q: %v", c.quota(t), before, err)
		}
	}()
	for _, tc := range []struct {
		name      string
		allocator Allocator
		changes   int
		release   bool
	}{
		{"the same", decides("A", 0.25), 0, false},
		{"almost the same", decides("A", 0.29), 0, false},
		{"another", decides("A", 0.5), 1, false},
		{"none any more", decides("A", 0), 1, true},
		{"of another allocator", decides("B", 0.5), 1, false},
		{"without the allocator", decides("B", 0), 1, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			leases, _, _, err := act.ReadJournal(r.Act.StateDir)
			if err != nil || len(leases) != 1 {
				t.Fatalf("leases %v, %v", leases, err)
			}
			r := r
			r.Allocators = []Allocator{tc.allocator}
			report, err := New(measure.Open("/"), act.New("/"), Build{}, nil).Plan(t.Context(), r, leases)
			if err != nil || len(report.Changes) != tc.changes {
				t.Fatalf("planned is %+v, %v", report.Changes, err)
			}
			if tc.changes > 0 && (report.Changes[0].Release != tc.release || tc.release && !leases[0].Knob.Equal(report.Changes[0].New, leases[0].First)) {
				t.Errorf("planned is %+v", report.Changes[0])
			}
			if got := c.quota(t); got != held {
				t.Errorf("it was %q and is %q", held, got)
			}
		})
	}
	leases, _, _, _ := act.ReadJournal(r.Act.StateDir)
	leases[0].New = "1000 100000" // meanwhile the agent has set another one
	if _, err := New(measure.Open("/"), act.New("/"), Build{}, nil).Plan(t.Context(), r, leases); err != nil {
		t.Errorf("with a lease that is not what the host has: %v", err)
	}
}

// TestErrorsOfAComponent: a tick in which anything of a component is wrong counts, once.
func TestErrorsOfAComponent(t *testing.T) {
	s := &direct{}
	r := runner(tasksNamed("t"), time.Minute, s)
	r.CommonLabels = nil
	r.Act = acts(t)
	r.Act.DryRun = true
	var decision owca.Decision
	var failure error
	invalid, valid := quota("nobody", 0.5), owca.Decision{Allocations: map[owca.TaskID]owca.Allocations{}}
	strange := []owca.Anomaly{{Contended: "nobody"}}
	r.Allocators = []Allocator{
		allocator("A", func(context.Context, *owca.Snapshot) (owca.Decision, error) { return decision, failure }),
		allocator("B", func(context.Context, *owca.Snapshot) (owca.Decision, error) { return valid, nil }),
	}
	l := startActor(t, r.Act)
	l.adopt(r)
	defer func() { _ = l.close() }()
	want := 0
	for _, tc := range []struct {
		name     string
		decision owca.Decision
		err      error
		counts   bool
	}{
		{"nothing", owca.Decision{}, nil, false},
		{"an error", owca.Decision{}, errors.New("x"), true},
		{"valid", valid, nil, false},
		{"an invalid allocation", invalid, nil, true},
		{"an invalid anomaly", owca.Decision{Anomalies: strange}, nil, true},
		{"an invalid anomaly and allocation", owca.Decision{Allocations: invalid.Allocations, Anomalies: strange}, nil, true},
		{"all three", owca.Decision{Allocations: invalid.Allocations, Anomalies: strange}, errors.New("x"), true},
		{"an error beside", valid, errors.New("x"), true},
	} {
		if tc.counts {
			want++
		}
		decision, failure = tc.decision, tc.err
		l.tick(t.Context(), time.Now())
		l.tick(t.Context(), time.Now()) // whose metrics are of the tick before at the latest
		if tc.counts {
			want++
		}
		got := []uint64{l.allocators[0].errors, l.allocators[1].errors}
		if diff := cmp.Diff([]uint64{uint64(want), 0}, got); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
	}
	if got := grep(s.last(), "owca_component_errors_total{component=\"A\"}"); len(got) != 1 || !strings.HasSuffix(got[0], " "+strconv.Itoa(want)) {
		t.Errorf("the metric is %v, want %d", got, want)
	}
}

// TestEveryKindHasAMetric: a lease of any kind is in the metrics, under a name of its own.
func TestEveryKindHasAMetric(t *testing.T) {
	l := New(measure.Open("/"), act.New("/"), Build{}, nil)
	seen := map[*owca.Desc]owca.AllocationKind{}
	for _, kind := range owca.AllocationKinds {
		if kind == owca.RDTGroup {
			continue // by describeGroups: TestResctrlAllocations
		}
		a := owca.Allocation{Number: 1, Text: "0-3,8"}
		if kind == owca.IOMax {
			a = owca.Allocation{IO: map[string]owca.IOLimit{"8:0": {ReadBytes: 1}}}
		}
		l.acting.metrics = nil
		l.describe(kind, a, map[string]string{"allocation_type": string(kind)})
		if len(l.acting.metrics) == 0 {
			t.Errorf("%s has no metric", kind)
		}
		for _, m := range l.acting.metrics {
			if of, ok := seen[m.Desc]; ok && of != kind {
				t.Errorf("%s and %s have the same metric %s", kind, of, m.Desc.Name)
			}
			seen[m.Desc] = kind
		}
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
