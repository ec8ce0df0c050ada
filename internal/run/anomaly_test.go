package run

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/owca-project/owca"
)

func TestAnomalyID(t *testing.T) {
	const want = "4a0e6059-72ec-173c-cc80-3c5a0dba906a" // of the original
	for _, ids := range [][]owca.TaskID{{"task1", "task2", "task3"}, {"task3", "task1", "task2"}} {
		if got := anomalyID(ids); got != want {
			t.Errorf("%v: %s, want %s", ids, got, want)
		}
	}
}

func TestAnomalyMetrics(t *testing.T) {
	tasks := []owca.Task{
		{ID: "task1", Name: "web", Labels: map[string]string{"team": "a\"b\\c\nd{}\xff", "uuid": "the user's own"}},
		{ID: "task2", Labels: map[string]string{"workload_instance": "batch/7"}},
		{ID: "task3"},
	}
	context7 := owca.Metric{Desc: &owca.Desc{Name: "model_threshold", Label: "quantile"}, Label: "0.9", Value: owca.Float(1.5), Labels: owca.NewLabels(map[string]string{"model": "m1", "own_ip": "spoofed"})}
	anomaly := owca.Anomaly{Resource: owca.MemoryBandwidth, Contended: "task1", Contending: []owca.TaskID{"task3", "task2"}, Metrics: []owca.Metric{context7}}
	s := &direct{}
	r := runner(nodeFunc(func(context.Context) ([]owca.Task, error) { return tasks, nil }), time.Minute, s)
	r.CommonLabels, r.ExtraLabels = nil, map[string]string{"own_ip": "10.0.0.1"}
	// The same from two detectors is one.
	again := finds([]owca.Anomaly{anomaly}, context7)
	again.Name = "again"
	r.Detectors = []Detector{finds([]owca.Anomaly{anomaly, {Resource: "coffee", Contended: "task2"}}), again}
	l := ticking(t, r)
	l.tick(t.Context(), time.UnixMilli(5))

	const victim = `own_ip="10.0.0.1",resource="memory bandwidth",task_id="task1",task_name="web",team="a\"b\\c\nd{}` + "\uFFFD" + `",type="contention",uuid="4a0e6059-72ec-173c-cc80-3c5a0dba906a"`
	want := []string{
		`owca_anomaly{contended_task_id="task1",contending_task_id="task3",contending_workload_instance="workload not found",` + victim + `} 1`,
		`owca_anomaly{contended_task_id="task1",contending_task_id="task2",contending_workload_instance="batch/7",` + victim + `} 1`,
		`owca_anomaly{contended_task_id="task2",own_ip="10.0.0.1",resource="unknown resource",task_id="task2",type="contention",uuid="` + anomalyID([]owca.TaskID{"task2"}) + `",workload_instance="batch/7"} 1`,
	}
	if diff := cmp.Diff(want, grep(s.last(), "owca_anomaly{")); diff != "" {
		t.Error(diff)
	}
	want = []string{
		`model_threshold{model="m1",own_ip="10.0.0.1",quantile="0.9",type="anomaly",uuid="4a0e6059-72ec-173c-cc80-3c5a0dba906a"} 1.5`,
		`model_threshold{model="m1",own_ip="10.0.0.1",quantile="0.9"} 1.5`,
	}
	if diff := cmp.Diff(want, grep(s.last(), "model_threshold{")); diff != "" {
		t.Error(diff)
	}
	for prefix, want := range map[string]string{
		"owca_anomalies_total": "2", "owca_anomaly_last_occurrence_timestamp_seconds": "0.005",
	} {
		if got, _ := s.find(prefix); got != want {
			t.Errorf("%s is %s, want %s", prefix, got, want)
		}
	}
	tasks = tasks[1:]
	l.tick(t.Context(), time.UnixMilli(6))
	if err := l.stages[stageDetect].err; err == nil || !strings.Contains(err.Error(), `"task1", which does not exist`) {
		t.Errorf("after the victim has gone: %v", err)
	}
	if got := grep(s.last(), "owca_anomaly{"); len(got) != 1 {
		t.Errorf("after the victim has gone: %v", got)
	}
}

// TestLabelsOfComponentsAreKept: those that a component uses again are not made anew, and
// those it does not use are forgotten.
func TestLabelsOfComponentsAreKept(t *testing.T) {
	l := labels{common: map[string]string{"host": "h"}}
	kept := owca.NewLabels(map[string]string{"a": "1"})
	first := l.with(kept, nil)
	if want := `a="1",host="h"`; first.Text() != want {
		t.Errorf("%s, want %s", first.Text(), want)
	}
	for range 3 {
		l.age()
		if l.with(kept, nil) != first {
			t.Error("made anew")
		}
	}
	for i := range 10 {
		l.age()
		l.with(owca.NewLabels(map[string]string{"a": fmt.Sprint(i)}), nil)
	}
	if n := len(l.merged) + len(l.before); n != 2 {
		t.Errorf("%d are kept", n)
	}
}

func TestRoutes(t *testing.T) {
	a, b, c := &direct{}, &direct{}, &memory{stored: make(chan struct{}, 10)}
	all := map[string]owca.Storage{"a": a, "b": b, "c": c}
	batches := map[string]*memory{"a": &a.memory, "b": &b.memory, "c": c}
	list := func(names string) (list []Storage) {
		if names == "-" {
			return []Storage{}
		}
		for _, name := range strings.Fields(names) {
			list = append(list, Storage{name, all[name]})
		}
		return list
	}
	// What is found here is that which only the part has.
	parts := map[string]string{"m": "owca_up{", "f": "owca_anomaly{", "s": "owca_anomalies_total{", "x": "extra{"}
	for _, tc := range []struct {
		storages, anomalies, allocations string
		want                             string // what each gets: measured, found, its statistics, extra
	}{
		{"a", "", "", "a:mfsx"},
		{"a b", "", "", "a:mfsx b:mfsx"},
		{"a", "b", "", "a:m b:fsx"},
		{"a", "b", "c", "a:m b:fsx c:"},
		{"a", "a", "b", "a:mfsx b:"}, // not adjacent
		{"a", "b", "a", "a:m b:fsx"},
		{"a", "b", "b", "a:m b:fsx"},
		{"a", "a b", "", "a:mfsx b:fsx"},
		{"c", "c", "c", "c:mfsx"},
		{"a", "-", "-", "a:m"},
	} {
		name := fmt.Sprintf("%s|%s|%s", tc.storages, tc.anomalies, tc.allocations)
		for _, m := range batches {
			m.batches = nil
		}
		l := newLoop(nil)
		r := runner(tasksNamed("a", "b"), time.Minute)
		r.Storages, r.Anomalies, r.Allocations = list(tc.storages), list(tc.anomalies), list(tc.allocations)
		r.Detectors = []Detector{finds([]owca.Anomaly{{Contended: "a"}}, owca.Metric{Desc: &owca.Desc{Name: "extra"}, Value: owca.Int(1)})}
		if err := l.Once(t.Context(), r); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var got []string
		for _, name := range []string{"a", "b", "c"} {
			m := batches[name]
			if len(m.batches) > 1 {
				t.Errorf("%s was stored to %d times", name, len(m.batches))
			}
			if len(m.batches) == 0 {
				continue
			}
			line := name + ":"
			for _, part := range []string{"m", "f", "s", "x"} {
				switch n := len(grep(m.batches[0], parts[part])); n {
				case 0:
				case 1:
					line += part
				default:
					t.Errorf("%v: %s gets %s %d times", tc, name, parts[part], n)
				}
			}
			got = append(got, line)
		}
		if got := strings.Join(got, " "); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}

// TestReroute: a storage that stays in any list keeps its queue.
func TestReroute(t *testing.T) {
	a, b := &memory{}, &memory{}
	r := runner(nodeFunc(noTasks), time.Minute, a)
	r.Anomalies = []Storage{{"b", b}}
	l := ticking(t, r)
	before := slices.Clone(l.queues)
	r.Storages, r.Anomalies = []Storage{{"b now", b}}, nil
	left := l.adopt(r)
	if len(left.queues) != 1 || left.queues[0] != before[0] {
		t.Errorf("the queues that left are %v", left.queues)
	}
	if len(l.queues) != 1 || l.queues[0] != before[1] || l.queues[0].name != "b now" {
		t.Errorf("the queue that stays is not the same, or has not its new name")
	}
	l.retire(left)
}
