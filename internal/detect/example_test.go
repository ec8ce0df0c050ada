package detect

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/componenttest"
)

func TestDetectors(t *testing.T) {
	t.Run("Example", func(t *testing.T) {
		componenttest.Detector(t, func(*testing.T) owca.Detector { return NewExample() })
	})
	t.Run("Example, skewed, short", func(t *testing.T) {
		componenttest.Detector(t, func(*testing.T) owca.Detector { return &Example{CycleLength: 1, Skew: true} })
	})
	t.Run("NOP", func(t *testing.T) {
		componenttest.Detector(t, func(*testing.T) owca.Detector { return NewNOP() })
	})
}

// cycle returns the anomalies of one tick after the other, as text.
func cycle(t *testing.T, e *Example, s *owca.Snapshot, ticks int) []string {
	t.Helper()
	var list []string
	for range ticks {
		anomalies, metrics, err := e.Detect(t.Context(), s)
		if err != nil || len(metrics) != 1 {
			t.Fatalf("metrics %v, error %v", metrics, err)
		}
		text := metrics[0].Value.String() + ":"
		for _, a := range anomalies {
			text += fmt.Sprintf(" %s %s %v", a.Contended, a.Resource, a.Contending)
		}
		list = append(list, text)
	}
	return list
}

func hostOf(tasks int) *owca.Snapshot {
	s := &owca.Snapshot{Time: time.Unix(1000, 0), Platform: &owca.Platform{Host: "a"}}
	for i := range tasks {
		s.Tasks = append(s.Tasks, owca.TaskData{Task: owca.Task{ID: owca.TaskID(fmt.Sprint(i))}})
	}
	return s
}

func TestExamplePhases(t *testing.T) {
	phases := []string{
		"0:",
		"1: 0 memory bandwidth [1]",
		"2: 2 cache [3 4]",
		"3: 0 memory bandwidth [5 6] 1 cpus [7]",
		"4: 2 cache [8 9] 3 cache [8 9]",
		"5: 4 unknown resource []",
	}
	var want []string
	for range 2 {
		for _, phase := range phases {
			want = append(want, phase, phase)
		}
	}
	if diff := cmp.Diff(want, cycle(t, &Example{CycleLength: 12}, hostOf(12), 24)); diff != "" {
		t.Error(diff)
	}
	if got := cycle(t, NewExample(), hostOf(9), 90); slices.ContainsFunc(got, func(s string) bool { return len(s) > 2 }) {
		t.Errorf("anomalies of nine tasks: %v", got)
	}
}

func TestExampleSkew(t *testing.T) {
	straight := cycle(t, &Example{CycleLength: 90}, hostOf(10), 180)
	skewed := func(host string, at int64) int {
		s := hostOf(10)
		s.Platform.Host, s.Time = host, time.Unix(at, 0)
		got := cycle(t, &Example{CycleLength: 90, Skew: true}, s, 90)
		for offset := range 90 {
			if slices.Equal(got, straight[offset:offset+90]) {
				return offset - offset%15 // phases have 15 ticks: all offsets within the first match none but themselves
			}
		}
		t.Fatalf("host %s at %d: not a cycle that begins elsewhere: %v", host, at, got)
		return 0
	}
	begins := make(map[int]bool)
	for i := range 20 {
		begins[skewed(fmt.Sprint("host", i), 1000)] = true
		begins[skewed("host", 1000+int64(i)*37)] = true
	}
	if len(begins) < 4 {
		t.Errorf("40 hosts and times begin in %d phases", len(begins))
	}
}

// The context of an anomaly grows to 1 in each phase, whatever the length of the cycle.
func TestExampleSeverity(t *testing.T) {
	for _, length := range []int{1, 5, 6, 7, 90, 1000} {
		e, s := &Example{CycleLength: length}, hostOf(10)
		before, phaseBefore := 0.0, uint64(0)
		for tick := range 2 * length {
			anomalies, metrics, _ := e.Detect(t.Context(), s)
			phase, _ := metrics[0].Value.IsInt()
			if phase != phaseBefore && phaseBefore != 0 && before != 1 {
				t.Errorf("length %d, tick %d: phase %d ended at %v", length, tick, phaseBefore, before)
			}
			if phase != phaseBefore {
				before = 0
			}
			for _, a := range anomalies {
				now := a.Metrics[0].Value.Float(owca.One)
				if now < before || now <= 0 || now > 1 {
					t.Errorf("length %d, tick %d: %v after %v", length, tick, now, before)
				}
				before = now
			}
			phaseBefore = phase
		}
	}
}
