package decide

import (
	"math"
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
	held := 1.0
	for i, step := range []struct{ usage, quota float64 }{
		{0.5, 1}, {0.9, 0.5}, {0.9, 0.25}, {1, 0.1}, {1, 0.1}, {0.8, 0.2}, {0.5, 0.3}, {0.5, 0.4}, {0.9, 0.2}, {0.9, 0.1}, {0.1, 0.2},
		{0, 0.3}, {0, 0.4}, {0, 0.5}, {0, 0.6}, {0, 0.7}, {0, 0.8}, {0, 0.9}, {0, 1}, {0, 1},
	} {
		a := tick(step.usage).Allocations["batch"][owca.CPUQuota]
		got := a.Number
		if a.Release {
			got = 1
		}
		if got < step.quota-1e-9 || got > step.quota+1e-9 || a.Release != (step.quota == 1) || a.Reason == "" {
			t.Errorf("step %d, usage %v: %+v, want %v", i, step.usage, a, step.quota)
		}
		if change := math.Abs(got - held); change != 0 && change <= 0.05 {
			t.Errorf("step %d from %v to %v is none that the agent makes", i, held, got)
		}
		held = got
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

// Whatever is the least, the way there is of changes that the agent makes.
func TestExampleReachesTheLeast(t *testing.T) {
	for _, least := range []float64{0.001, 0.01, 0.05, 0.1, 0.12, 0.2, 0.3, 0.49, 0.8} {
		e := NewExample()
		e.Least = least
		s := snapshotOf(owca.Task{ID: "batch", Labels: map[string]string{"type": "best_efforts"}})
		held := 1.0
		for i := range 12 {
			s.Time = time.Unix(int64(1000+i), 0)
			s.Platform.Measurements = owca.Measurements{{Desc: owca.PlatformCPUUsage, Label: "0", Value: owca.Int(uint64(200 * i))}}
			d, err := e.Allocate(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			if a, ok := d.Allocations["batch"][owca.CPUQuota]; ok {
				if a.Number != held && held-a.Number <= 0.05 {
					t.Errorf("least %v: %v after %v is none that the agent makes", least, a.Number, held)
				}
				held = a.Number
			}
		}
		if held != least {
			t.Errorf("least %v: it ends at %v", least, held)
		}
	}
}
