package run

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/measure"
)

// funcNode is a Node made of a function.
type funcNode struct {
	f func(context.Context) ([]owca.Task, error)
}

func (n *funcNode) Tasks(ctx context.Context) ([]owca.Task, error) { return n.f(ctx) }

func nodeFunc(f func(context.Context) ([]owca.Task, error)) owca.Node { return &funcNode{f} }

func noTasks(context.Context) ([]owca.Task, error) { return nil, nil }

// memory is a Storage that keeps the lines of every batch.
type memory struct {
	mu      sync.Mutex
	batches [][]string
	err     error
	block   chan struct{} // Store waits for it to close, if not nil
	stored  chan struct{} // gets a value after each Store, if not nil
}

func (s *memory) Store(ctx context.Context, metrics []owca.Metric) error {
	if s.block != nil {
		select {
		case <-s.block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	lines := make([]string, len(metrics))
	for i, m := range metrics {
		lines[i] = m.String()
	}
	s.mu.Lock()
	s.batches = append(s.batches, lines)
	s.mu.Unlock()
	if s.stored != nil {
		s.stored <- struct{}{}
	}
	return s.err
}

// find returns the value of the first series of the last batch that begins with prefix.
func (s *memory) find(prefix string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.batches) == 0 {
		return "", false
	}
	for _, line := range s.batches[len(s.batches)-1] {
		if strings.HasPrefix(line, prefix) {
			return line[strings.LastIndexByte(line, ' ')+1:], true
		}
	}
	return "", false
}

func runner(node owca.Node, interval time.Duration, storages ...owca.Storage) Runner {
	r := Runner{Node: node, Interval: interval, CommonLabels: CommonLabels}
	for i, s := range storages {
		r.Storages = append(r.Storages, Storage{Name: fmt.Sprintf("storage-%d", i), Storage: s})
	}
	return r
}

// start runs a loop until the test ends, or until the returned function is called.
func start(t *testing.T, l *Loop, r Runner) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		l.Run(ctx, r)
		close(done)
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func newLoop(observe func(*owca.Snapshot)) *Loop {
	return New(measure.Open("/"), nil, Build{Version: "v1.2.3", GoVersion: "go1"}, observe)
}

func TestOnceStoresPlatformAndAgent(t *testing.T) {
	s := &memory{}
	l := newLoop(nil)
	r := runner(nodeFunc(noTasks), time.Second, s)
	r.ExtraLabels = map[string]string{"host": "mine", "own_ip": "10.0.0.1"}
	if err := l.Once(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if len(s.batches) != 1 {
		t.Fatalf("%d batches stored, want 1", len(s.batches))
	}
	for _, prefix := range []string{"owca_platform_info{", "owca_platform_memory_total_bytes{", "owca_up{", "owca_process_resident_memory_bytes{", "owca_tick_duration_seconds{"} {
		v, ok := s.find(prefix)
		if !ok || v == "0" {
			t.Errorf("%s…} is %q, %v", prefix, v, ok)
		}
	}
	for _, line := range s.batches[0] {
		if !strings.Contains(line, `host="mine"`) || !strings.Contains(line, `own_ip="10.0.0.1"`) || !strings.Contains(line, `owca_version="v1.2.3"`) {
			t.Fatalf("a metric without the common and extra labels, or where the extra one did not win: %s", line)
		}
	}
}

func TestTaskLabelsPrecedence(t *testing.T) {
	l := newLoop(nil)
	l.runner = Runner{ExtraLabels: map[string]string{"a": "extra"}}
	l.labels.common = map[string]string{"a": "common", "b": "common", "c": "common"}
	got := l.taskLabels(owca.Task{ID: "id", Name: "n", Labels: map[string]string{"a": "task", "b": "task", "task_id": "fake"}, Resources: map[string]float64{"cpus": 1.5}}).Text()
	want := `a="extra",b="task",c="common",initial_task_cpu_assignment="1.5",task_id="id",task_name="n"`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestTickSurvives(t *testing.T) {
	good := &memory{stored: make(chan struct{}, 100)}
	bad := &memory{err: errors.New("disk full")}
	calls := 0
	node := nodeFunc(func(context.Context) ([]owca.Task, error) {
		calls++
		switch calls {
		case 1:
			return []owca.Task{{ID: "a", Cgroups: []string{"/owca-test-does-not-exist"}}}, nil
		case 2:
			panic("a bug")
		case 3:
			return nil, errors.New("agent is away")
		}
		return []owca.Task{{ID: "b"}}, errors.New("half an answer")
	})
	l := newLoop(nil)
	stop := start(t, l, runner(node, 50*time.Millisecond, good, panicking{}, bad))
	want := []string{`"a"`, `"a"`, `"a"`, `"b"`}
	for i := range 4 {
		<-good.stored
		if up, ok := good.find("owca_task_up"); !ok || up != "0" {
			t.Errorf("tick %d: task_up of a task whose cgroup does not exist is %q, %v", i, up, ok)
		}
		good.mu.Lock()
		all := strings.Join(good.batches[i], "\n")
		good.mu.Unlock()
		if !strings.Contains(all, `task_id=`+want[i]) {
			t.Errorf("tick %d: task %s is not there: an error must not lose the tasks known", i, want[i])
		}
	}
	stop()
	if n := l.stages[stageDiscover].errors; n < 3 {
		t.Errorf("%d errors of discovery counted, want at least 3", n)
	}
	for i, q := range l.queues {
		if n := q.errors.Load(); (n > 0) != (i > 0) {
			t.Errorf("storage %d: %d errors counted", i, n)
		}
	}
}

type panicking struct{}

func (panicking) Store(context.Context, []owca.Metric) error { panic("a bug") }

func TestBlockedStorageDelaysNothing(t *testing.T) {
	blocked := &memory{block: make(chan struct{})}
	good := &memory{stored: make(chan struct{}, 100)}
	l := newLoop(nil)
	stop := start(t, l, runner(nodeFunc(noTasks), 50*time.Millisecond, blocked, good))
	for range 8 {
		<-good.stored
	}
	dropped, ok := good.find(`owca_storage_dropped_metrics_total`)
	if !ok || dropped == "0" {
		t.Errorf("dropped metrics of the blocked storage: %q, %v", dropped, ok)
	}
	close(blocked.block)
	stop()
	if n := len(blocked.batches); n < depth || n > depth+1 {
		t.Errorf("%d batches were kept for the blocked storage, want %d", n, depth)
	}
}

func TestOverrunsAreCountedAndNeverOverlap(t *testing.T) {
	var running atomic.Int32
	node := nodeFunc(func(context.Context) ([]owca.Task, error) {
		if running.Add(1) > 1 {
			t.Error("two ticks at once")
		}
		time.Sleep(120 * time.Millisecond)
		running.Add(-1)
		return nil, nil
	})
	s := &memory{stored: make(chan struct{}, 100)}
	l := newLoop(nil)
	stop := start(t, l, runner(node, 50*time.Millisecond, s))
	for range 3 {
		<-s.stored
	}
	stop()
	if l.self.overruns < 4 {
		t.Errorf("%d overruns after ticks of more than two intervals each", l.self.overruns)
	}
}

func TestSwap(t *testing.T) {
	kept := &memory{stored: make(chan struct{}, 1000), err: errors.New("always")} // its name is read when it fails
	old := &memory{}
	l := newLoop(nil)
	tasks := []owca.Task{{ID: "a"}}
	stop := start(t, l, runner(nodeFunc(func(context.Context) ([]owca.Task, error) { return tasks, nil }), time.Hour, kept, old))
	<-kept.stored
	fresh := &memory{stored: make(chan struct{}, 1000)}
	r := runner(nodeFunc(noTasks), 50*time.Millisecond, fresh, kept)
	r.ExtraLabels = map[string]string{"new": "yes"}
	if err := l.Swap(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	// A shorter interval holds at once, not after the hour.
	<-fresh.stored
	<-kept.stored
	stop()
	old.mu.Lock()
	defer old.mu.Unlock()
	if len(old.batches) != 1 {
		t.Errorf("the storage that went got %d batches, want 1", len(old.batches))
	}
	if _, ok := fresh.find(`owca_task_up`); ok {
		t.Error("the tasks of the old node are still there")
	}
	if line := fresh.batches[0][0]; !strings.Contains(line, `new="yes"`) {
		t.Errorf("the new labels are missing: %s", line)
	}
}

func TestDerivedOnRequest(t *testing.T) {
	for _, derived := range []bool{false, true} {
		s := &memory{stored: make(chan struct{}, 100)}
		r := runner(nodeFunc(noTasks), 50*time.Millisecond, s)
		r.Derived = derived
		stop := start(t, newLoop(nil), r)
		<-s.stored
		<-s.stored
		stop()
		if _, ok := s.find("owca_platform_cpu_usage_cores"); ok != derived {
			t.Errorf("derived %v: owca_platform_cpu_usage_cores there: %v", derived, ok)
		}
	}
}
