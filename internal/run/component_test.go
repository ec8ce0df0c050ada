package run

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/owca-project/owca"
)

// detectorFunc is a Detector made of a function.
type detectorFunc struct {
	f func(context.Context, *owca.Snapshot) ([]owca.Anomaly, []owca.Metric, error)
}

func (d *detectorFunc) Detect(ctx context.Context, s *owca.Snapshot) ([]owca.Anomaly, []owca.Metric, error) {
	return d.f(ctx, s)
}

func detector(name string, f func(context.Context, *owca.Snapshot) ([]owca.Anomaly, []owca.Metric, error)) Detector {
	return Detector{name, &detectorFunc{f}}
}

// finds is a detector that always finds the same.
func finds(anomalies []owca.Anomaly, metrics ...owca.Metric) Detector {
	return detector("D", func(context.Context, *owca.Snapshot) ([]owca.Anomaly, []owca.Metric, error) {
		return anomalies, metrics, nil
	})
}

// tasksNamed is a node with tasks whose cgroups do not exist.
func tasksNamed(ids ...owca.TaskID) owca.Node {
	var tasks []owca.Task
	for _, id := range ids {
		tasks = append(tasks, owca.Task{ID: id, Labels: map[string]string{"workload_instance": "instance of " + string(id)}})
	}
	return nodeFunc(func(context.Context) ([]owca.Task, error) { return tasks, nil })
}

// ticking is a loop whose ticks the test runs.
func ticking(t *testing.T, r Runner) *Loop {
	l := newLoop(nil)
	l.adopt(r)
	t.Cleanup(func() {
		if err := l.close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func (s *memory) last() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.batches) == 0 {
		return nil
	}
	return s.batches[len(s.batches)-1]
}

// grep returns the lines that begin with prefix.
func grep(lines []string, prefix string) (found []string) {
	for _, line := range lines {
		if strings.HasPrefix(line, prefix) {
			found = append(found, line)
		}
	}
	return found
}

// direct is a memory that is written to from the tick itself.
type direct struct{ memory }

func (*direct) NonBlocking() {}

func TestComponentsAreAskedInOrder(t *testing.T) {
	var order []string
	step := func(name string) Detector {
		return detector(name, func(_ context.Context, s *owca.Snapshot) ([]owca.Anomaly, []owca.Metric, error) {
			order = append(order, fmt.Sprintf("%s sees %d", name, len(s.Tasks)))
			return nil, []owca.Metric{{Desc: &owca.Desc{Name: name}, Value: owca.Int(1)}}, nil
		})
	}
	s := &direct{}
	tasks := 0
	r := runner(nodeFunc(func(context.Context) ([]owca.Task, error) {
		order = append(order, "discovery")
		tasks++
		return make([]owca.Task, tasks), nil
	}), time.Minute, s)
	r.Detectors = []Detector{step("first"), step("second")}
	l := ticking(t, r)
	for range 2 {
		l.tick(t.Context(), time.Now())
	}
	want := []string{"discovery", "first sees 1", "second sees 1", "discovery", "first sees 1", "second sees 1"}
	if diff := cmp.Diff(want, order); diff != "" {
		t.Error(diff)
	}
	for _, prefix := range []string{"first{", "second{", `owca_tick_duration_seconds{`, "owca_errors_total{"} {
		if grep(s.last(), prefix) == nil {
			t.Errorf("%s…} is not there", prefix)
		}
	}
	all := strings.Join(s.last(), "\n")
	if !strings.Contains(all, `stage="detect"`) || strings.Contains(all, `stage="decide"`) || strings.Contains(all, `stage="act"`) {
		t.Error("the stages are not those that are configured")
	}
}

func TestTurns(t *testing.T) {
	began := time.Now()
	const interval = time.Second
	for _, tc := range []struct {
		name  string
		after time.Duration // when the first is asked
		n     int
		want  []time.Duration // the deadline of each
	}{
		{"alone", 0, 1, []time.Duration{900 * time.Millisecond}},
		{"alone in a late tick", 700 * time.Millisecond, 1, []time.Duration{1200 * time.Millisecond}},
		{"three", 300 * time.Millisecond, 3, []time.Duration{700 * time.Millisecond, 800 * time.Millisecond, 900 * time.Millisecond}},
	} {
		turns := newTurns(began, began.Add(tc.after), interval, tc.n)
		for i, want := range tc.want {
			if got := turns.next().Sub(began); got != want {
				t.Errorf("%s: the deadline of number %d is %v, want %v", tc.name, i, got, want)
			}
		}
	}
}

// TestOverrun: one that does not return keeps nobody waiting, is not called again meanwhile,
// and what it was given stays as it was.
func TestOverrun(t *testing.T) {
	gate, late := make(chan struct{}), make(chan string, 1)
	var calls, others atomic.Int32 // on a busy host even the quick ones may be late
	slow := detector("slow", func(ctx context.Context, s *owca.Snapshot) ([]owca.Anomaly, []owca.Metric, error) {
		if calls.Add(1) > 1 {
			return nil, nil, nil
		}
		before := fmt.Sprint(s.Time, s.Platform.Measurements, s.Tasks)
		<-ctx.Done()
		<-gate
		if after := fmt.Sprint(s.Time, s.Platform.Measurements, s.Tasks); after != before {
			late <- fmt.Sprintf("the snapshot was\n%s\nand became\n%s", before, after)
		} else {
			late <- ""
		}
		return []owca.Anomaly{{Contended: "a", Contending: []owca.TaskID{"b"}}}, nil, nil
	})
	s := &direct{}
	r := runner(tasksNamed("a", "b"), 2*time.Second, s)
	r.Detectors = []Detector{slow, detector("other", func(_ context.Context, s *owca.Snapshot) ([]owca.Anomaly, []owca.Metric, error) {
		others.Add(1)
		if len(s.Tasks) != 2 || len(s.Platform.Measurements) == 0 {
			t.Errorf("the other one sees %d tasks and %d measurements of the platform", len(s.Tasks), len(s.Platform.Measurements))
		}
		return nil, nil, nil
	})}
	l := ticking(t, r)
	for range 3 {
		l.tick(t.Context(), time.Now())
	}
	if calls.Load() != 1 || others.Load() != 3 {
		t.Errorf("the slow one was called %d times and the other one %d times in 3 ticks, want 1 and 3", calls.Load(), others.Load())
	}
	if err := l.stages[stageDetect].err; err == nil || !strings.Contains(err.Error(), "slow has run past the end of its tick") {
		t.Errorf("the stage says: %v", err)
	}
	if got := grep(s.last(), "owca_component_overruns_total{"); len(got) != 2 || !strings.HasSuffix(got[0], " 3") || !strings.HasSuffix(got[1], " 0") {
		t.Errorf("overruns: %v", got)
	}
	close(gate)
	if text := <-late; text != "" {
		t.Error(text)
	}
	for calls.Load() < 2 { // the goroutine may take a moment to end
		l.tick(t.Context(), time.Now())
		if grep(s.last(), "owca_anomaly{") != nil {
			t.Fatal("the late result was taken")
		}
	}
	for !l.components[0].returned() {
		time.Sleep(time.Millisecond)
	}
	l.tick(t.Context(), time.Now())
	if err := l.stages[stageDetect].err; err != nil {
		t.Errorf("an error remains: %v", err)
	}
}

func TestComponentsThatFail(t *testing.T) {
	for _, tc := range []struct {
		name string
		f    func(context.Context, *owca.Snapshot) ([]owca.Anomaly, []owca.Metric, error)
		want string
	}{
		{"error", func(context.Context, *owca.Snapshot) ([]owca.Anomaly, []owca.Metric, error) {
			return []owca.Anomaly{{Contended: "a"}}, nil, errors.New("no model")
		}, "broken: no model"},
		{"panic", func(_ context.Context, s *owca.Snapshot) ([]owca.Anomaly, []owca.Metric, error) {
			return nil, nil, errors.New(string(s.Tasks[100].ID))
		}, "broken: panic: runtime error: index out of range"},
		{"end of the goroutine", func(context.Context, *owca.Snapshot) ([]owca.Anomaly, []owca.Metric, error) {
			runtime.Goexit()
			return nil, nil, nil
		}, "broken: it ended its goroutine"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := &direct{}
			r := runner(tasksNamed("a"), time.Minute, s)
			r.Detectors = []Detector{detector("broken", tc.f), finds([]owca.Anomaly{{Contended: "a", Resource: owca.CPUs}})}
			l := ticking(t, r)
			for range 2 {
				l.tick(t.Context(), time.Now())
			}
			if err := l.stages[stageDetect].err; err == nil || !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("the error is %v, want %s", err, tc.want)
			}
			if n := l.stages[stageDetect].errors; n != 2 {
				t.Errorf("%d errors are counted in 2 ticks", n)
			}
			if got := grep(s.last(), "owca_anomaly{"); len(got) != 1 {
				t.Errorf("beside the other one there are %d anomalies: %v", len(got), got)
			}
		})
	}
}

// TestEndOfTimeIsAnOverrun: a component that returns the error of its context is as late
// as one that does not return, and can be called again at once.
func TestEndOfTimeIsAnOverrun(t *testing.T) {
	calls := 0
	r := runner(nodeFunc(noTasks), 200*time.Millisecond)
	r.Detectors = []Detector{detector("D", func(ctx context.Context, _ *owca.Snapshot) ([]owca.Anomaly, []owca.Metric, error) {
		calls++
		<-ctx.Done()
		return nil, nil, fmt.Errorf("asking the model: %w", ctx.Err())
	})}
	l := ticking(t, r)
	for range 2 {
		l.tick(t.Context(), time.Now())
		if err := l.stages[stageDetect].err; err == nil || err.Error() != l.components[0].late().Error() {
			t.Errorf("the error is %v", err)
		}
		for !l.components[0].returned() { // its goroutine may take a moment to end
			time.Sleep(time.Millisecond)
		}
	}
	if c := l.components[0]; c.overruns != 2 || c.errors != 0 || calls != 2 {
		t.Errorf("after 2 ticks there are %d overruns, %d errors and %d calls", c.overruns, c.errors, calls)
	}
}

// TestEndWhileAComponentHangs: neither Run nor Swap waits for long.
func TestEndWhileAComponentHangs(t *testing.T) {
	gate := make(chan struct{})
	defer close(gate)
	called := make(chan struct{}, 10)
	hangs := func() Detector {
		return detector("hangs", func(context.Context, *owca.Snapshot) ([]owca.Anomaly, []owca.Metric, error) {
			called <- struct{}{}
			<-gate
			return nil, nil, nil
		})
	}
	l := newLoop(nil)
	r := runner(nodeFunc(noTasks), 50*time.Millisecond)
	r.Detectors = []Detector{hangs()}
	stop := start(t, l, r)
	<-called
	r.Detectors = []Detector{hangs()}
	if err := l.Swap(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	<-called
	stop()
}

// TestEndEndsComponents: the context of a component that is asked ends with the agent, which
// then waits for it.
func TestEndEndsComponents(t *testing.T) {
	asked := make(chan struct{})
	ended := false
	r := runner(nodeFunc(noTasks), time.Hour)
	r.Detectors = []Detector{detector("D", func(ctx context.Context, _ *owca.Snapshot) ([]owca.Anomaly, []owca.Metric, error) {
		close(asked)
		<-ctx.Done()
		ended = true
		return nil, nil, ctx.Err()
	})}
	l := newLoop(nil)
	stop := start(t, l, r)
	<-asked
	stop()
	if !ended {
		t.Error("the loop has ended before the component")
	}
	if s := &l.stages[stageDetect]; s.errors != 0 {
		t.Errorf("the end of the agent counts as an error: %v", s.err)
	}
}

// TestSwapKeepsComponents: a component that is in both runners is the same to the loop,
// whatever its name, so that it is not called while it runs.
func TestSwapKeepsComponents(t *testing.T) {
	var mu sync.Mutex
	running, most := 0, 0
	gate := make(chan struct{})
	defer close(gate)
	d := detector("D", func(context.Context, *owca.Snapshot) ([]owca.Anomaly, []owca.Metric, error) {
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
		<-gate
		return nil, nil, nil
	})
	r := runner(nodeFunc(noTasks), time.Second)
	r.Detectors = []Detector{finds(nil), d}
	l := ticking(t, r)
	l.tick(t.Context(), time.Now())
	d.Name = "D-2"
	r.Detectors = []Detector{d}
	left := l.adopt(r)
	if len(left.components) != 1 || left.components[0].name != "D" || left.components[0].busy {
		t.Errorf("what left is %+v, want the one that finds nothing", left.components)
	}
	l.tick(t.Context(), time.Now())
	mu.Lock()
	defer mu.Unlock()
	if most != 1 {
		t.Errorf("it was called %d times at once", most)
	}
	if len(l.components) != 1 || l.components[0].overruns != 2 || l.components[0].name != "D-2" {
		t.Errorf("it lost its state: %+v", l.components[0])
	}
}

func TestNonsense(t *testing.T) {
	tasks := tasksNamed("a", "b")
	many := slices.Repeat([]owca.Anomaly{{Contended: "a", Resource: owca.CPUs, Contending: []owca.TaskID{"b"}}}, 10_000)
	var floods []owca.Metric
	for i := range 20_000 {
		floods = append(floods, owca.Metric{Desc: &owca.Desc{Name: "flood"}, Value: owca.Int(uint64(i))})
	}
	metric := func(d *owca.Desc, v float64) []owca.Metric { return []owca.Metric{{Desc: d, Value: owca.Float(v)}} }
	for _, tc := range []struct {
		name      string
		anomalies []owca.Anomaly
		metrics   []owca.Metric
		rejected  uint64
		says      string
		lines     int // of anomalies and of metrics
	}{
		{"unknown victim", []owca.Anomaly{{Contended: "z", Contending: []owca.TaskID{"b"}}, {Contended: "a"}}, nil, 1, `task "z", which does not exist`, 1},
		{"unknown suspect", []owca.Anomaly{{Contended: "a", Contending: []owca.TaskID{"z", "b"}}}, nil, 1, `task "z", which does not exist, as a suspect`, 1},
		{"suspect of itself", []owca.Anomaly{{Contended: "a", Contending: []owca.TaskID{"a", "b"}}}, nil, 1, "its own contention", 1},
		{"suspect twice", []owca.Anomaly{{Contended: "a", Contending: []owca.TaskID{"b", "b"}}}, nil, 1, "twice", 1},
		{"10 000 anomalies", many, nil, 9000, "10000 anomalies in one tick are too many: only the first 1000 are taken", 1},
		{"too many suspects", slices.Repeat([]owca.Anomaly{{Contended: "a", Contending: slices.Repeat([]owca.TaskID{"b"}, 6000)}}, 3), nil, 5999 + 2, "twice", 1},
		{"20 000 metrics", nil, floods, 10_000, "more than 10000 metrics in one tick are too many", 10_000},
		{"12 000 metrics of anomalies", []owca.Anomaly{{Contended: "a", Metrics: floods[:6000]}, {Contended: "b", Metrics: floods[:6000]}}, nil, 2000, "more than 10000 metrics", 10_002},
		{"no description", nil, []owca.Metric{{}}, 1, "without a description", 0},
		{"name", nil, metric(&owca.Desc{Name: "a{b"}, 1), 1, `"a{b" is not the name of one`, 0},
		{"no name", nil, metric(&owca.Desc{}, 1), 1, `"" is not the name of one`, 0},
		{"long name", nil, metric(&owca.Desc{Name: strings.Repeat("x", 1<<20)}, 1), 1, "xxx", 0},
		{"label", nil, metric(&owca.Desc{Name: "flood", Label: "a=b"}, 1), 1, `flood: "a=b" is not the name of a label`, 0},
		{"NaN", nil, metric(&owca.Desc{Name: "flood"}, math.NaN()), 1, "flood is not a number", 0},
		{"infinite is none", nil, metric(&owca.Desc{Name: "flood"}, math.Inf(1)), 0, "", 1},
		{"context", []owca.Anomaly{{Contended: "a", Metrics: metric(&owca.Desc{Name: "flood"}, math.NaN())}}, nil, 1, "flood is not a number", 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := &direct{}
			r := runner(tasks, time.Minute, s)
			r.Detectors = []Detector{finds(tc.anomalies, tc.metrics...)}
			l := ticking(t, r)
			for range 2 {
				l.tick(t.Context(), time.Now())
			}
			err := l.stages[stageDetect].err
			if (err != nil) != (tc.rejected > 0) || err != nil && (!strings.Contains(err.Error(), tc.says) || len(err.Error()) > 400) {
				t.Errorf("the error is %v, want: %s", err, tc.says)
			}
			if got := l.components[0].rejected; got != 2*tc.rejected {
				t.Errorf("%d are rejected in 2 ticks, want 2 × %d", got, tc.rejected)
			}
			if got := len(grep(s.last(), "owca_anomaly{")) + len(grep(s.last(), "flood{")); got != tc.lines {
				t.Errorf("%d lines are stored, want %d", got, tc.lines)
			}
		})
	}
}

// TestViewCopiesWithoutAllocating: what measuring reuses is copied, into the same memory.
func TestViewCopiesWithoutAllocating(t *testing.T) {
	s := &owca.Snapshot{Platform: &owca.Platform{Measurements: owca.Measurements{{Desc: owca.PlatformLoad1, Value: owca.Int(1)}}}}
	for i := range 100 {
		s.Tasks = append(s.Tasks, owca.TaskData{
			Task:         owca.Task{ID: owca.TaskID(fmt.Sprint(i))},
			Measurements: owca.Measurements{{Desc: owca.TaskUp, Value: owca.Int(uint64(i))}, {Desc: owca.TaskCPUUsage, Value: owca.Int(7)}},
		})
	}
	var v view
	v.fill(s)
	if diff := cmp.Diff(s, &v.Snapshot, cmp.Comparer(func(a, b owca.Value) bool { return a == b }), cmp.Comparer(func(a, b *owca.Desc) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	v.Tasks[0].Measurements = append(v.Tasks[0].Measurements, owca.Reading{Desc: owca.TaskUp, Value: owca.Int(99)})
	if n, _ := v.Tasks[1].Measurements.Get(owca.TaskUp); n != owca.Int(1) {
		t.Errorf("appending to one task's measurements changed the next one's to %v", n)
	}
	s.Tasks[5].Measurements[0].Value = owca.Int(1000)
	if n, _ := v.Tasks[5].Measurements.Get(owca.TaskUp); n != owca.Int(5) {
		t.Errorf("a change of the original is one of the copy: %v", n)
	}
	if n := testing.AllocsPerRun(10, func() { v.fill(s) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	s.Tasks = s.Tasks[:10]
	v.fill(s)
	if len(v.Tasks) != 10 || v.Tasks[:11][10].ID != "" {
		t.Error("tasks that are gone are kept")
	}
}
