package decide

import (
	"testing"
	"time"

	"github.com/owca-project/owca"
)

func TestExample(t *testing.T) {
	e := NewExample()
	used, at := 0.0, time.Unix(1000, 0)
	tick := func(usage float64) owca.Decision {
		t.Helper()
		used += usage * 4 // seconds of 4 cpus
		at = at.Add(time.Second)
		s := snapshotOf(
			owca.Task{ID: "batch", Labels: map[string]string{"type": "best_efforts"}},
			owca.Task{ID: "web", Labels: map[string]string{"type": "latency_critical"}},
		)
		s.Time, s.Platform.CPUs = at, 4
		for _, cpu := range []string{"0", "1", "2", "3"} {
			s.Platform.Measurements = append(s.Platform.Measurements,
				owca.Reading{Desc: owca.PlatformCPUUsage, Label: cpu, Value: owca.Int(uint64(used * 100 / 4))})
		}
		d, err := e.Allocate(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := d.Allocations["web"]; ok {
			t.Error("a latency-critical task is limited")
		}
		return d
	}
	if d := tick(1); d.Allocations != nil {
		t.Errorf("one sample is no rate: %v", d.Allocations)
	}
	for i, step := range []struct{ usage, quota float64 }{
		{0.5, 1}, {0.9, 0.5}, {0.9, 0.25}, {1, 0.125}, {1, 0.1}, {1, 0.1}, {0.8, 0.2}, {0.5, 0.3}, {0.9, 0.15}, {0.1, 0.25},
		{0, 0.35}, {0, 0.45}, {0, 0.55}, {0, 0.65}, {0, 0.75}, {0, 0.85}, {0, 0.95}, {0, 1}, {0, 1},
	} {
		a := tick(step.usage).Allocations["batch"][owca.CPUQuota]
		got := a.Number
		if a.Release {
			got = 1
		}
		if got < step.quota-1e-9 || got > step.quota+1e-9 || a.Release != (step.quota == 1) || a.Reason == "" {
			t.Errorf("step %d, usage %v: %+v, want %v", i, step.usage, a, step.quota)
		}
	}
	// Without a reading, or when CPU time goes back, nothing is decided.
	used = 0
	if d := tick(0); d.Allocations != nil {
		t.Errorf("decided on %v", d.Allocations)
	}
	if d, err := e.Allocate(t.Context(), snapshotOf(owca.Task{ID: "batch", Labels: map[string]string{"type": "best_efforts"}})); err != nil || d.Allocations != nil {
		t.Errorf("decided on nothing: %v, error %v", d.Allocations, err)
	}
}
