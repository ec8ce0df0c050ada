package componenttest

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/owca-project/owca"
)

// Detector checks what every [owca.Detector] promises: it copes with any snapshot, changes none
// and keeps nothing of one, and what it returns is well-formed. For each check open makes
// one, starts it, and has the test's cleanup close it. An error is allowed wherever the
// test says nothing of it: the loop takes it.
func Detector(t *testing.T, open func(t *testing.T) owca.Detector) {
	eachHost(t, func(t *testing.T) func(context.Context, *owca.Snapshot) {
		d := open(t)
		return func(ctx context.Context, s *owca.Snapshot) {
			anomalies, metrics, err := d.Detect(ctx, s)
			if err != nil && ctx.Err() == nil {
				t.Logf("Detect: %v", err)
			}
			checkAnomalies(t, s, anomalies)
			checkMetrics(t, metrics)
		}
	})
}

// Allocator checks what every [owca.Allocator] promises, as [Detector] does.
func Allocator(t *testing.T, open func(t *testing.T) owca.Allocator) {
	eachHost(t, func(t *testing.T) func(context.Context, *owca.Snapshot) {
		a := open(t)
		return func(ctx context.Context, s *owca.Snapshot) {
			decision, err := a.Allocate(ctx, s)
			if err != nil && ctx.Err() == nil {
				t.Logf("Allocate: %v", err)
			}
			checkAllocations(t, s, decision.Allocations)
			checkAnomalies(t, s, decision.Anomalies)
			checkMetrics(t, decision.Metrics)
		}
	})
}

// eachHost calls what open returns with the ticks of made-up hosts.
func eachHost(t *testing.T, open func(t *testing.T) func(context.Context, *owca.Snapshot)) {
	many := names("task", 40)
	tests := []struct {
		name  string
		ticks [][]owca.TaskID // tasks of each tick
		edit  func(tick int, s *owca.Snapshot)
	}{
		{name: "no tasks", ticks: [][]owca.TaskID{nil, nil, nil}},
		{name: "no host", ticks: [][]owca.TaskID{nil, many}, edit: func(_ int, s *owca.Snapshot) { s.Platform = &owca.Platform{} }},
		{name: "one task", ticks: slices.Repeat([][]owca.TaskID{many[:1]}, 5)},
		{name: "many ticks", ticks: slices.Repeat([][]owca.TaskID{many}, 200)},
		{name: "tasks come and go", ticks: [][]owca.TaskID{many[:12], many[5:], nil, many, many[:1], many[20:], many[:20]}},
		{name: "order changes", ticks: [][]owca.TaskID{many, reversed(many), many}},
		{name: "no measurements", ticks: slices.Repeat([][]owca.TaskID{many}, 5), edit: func(_ int, s *owca.Snapshot) {
			s.Platform.Measurements = nil
			for i := range s.Tasks {
				s.Tasks[i].Measurements = nil
			}
		}},
		{name: "measurements come and go", ticks: slices.Repeat([][]owca.TaskID{many}, 20), edit: func(tick int, s *owca.Snapshot) {
			if tick%3 == 1 {
				s.Platform.Measurements = nil
			}
			for i := range s.Tasks {
				if (tick+i)%2 == 0 {
					s.Tasks[i].Measurements = nil
				}
			}
		}},
		{name: "no resctrl", ticks: slices.Repeat([][]owca.TaskID{many}, 3), edit: func(_ int, s *owca.Snapshot) { s.Platform.RDT = nil }},
		{name: "bare tasks", ticks: slices.Repeat([][]owca.TaskID{many}, 3), edit: func(_ int, s *owca.Snapshot) {
			for i, task := range s.Tasks {
				s.Tasks[i] = owca.TaskData{Task: owca.Task{ID: task.ID}}
			}
		}},
		{name: "counters start anew", ticks: slices.Repeat([][]owca.TaskID{many}, 6), edit: func(tick int, s *owca.Snapshot) {
			if tick < 3 {
				return
			}
			s.Platform.Measurements[0].Value = owca.Int(0)
			for i := range s.Tasks {
				s.Tasks[i].Measurements[0].Value = owca.Int(uint64(tick))
			}
		}},
		{name: "numbers that are none", ticks: slices.Repeat([][]owca.TaskID{many}, 6), edit: func(tick int, s *owca.Snapshot) {
			odd := []owca.Value{owca.Float(math.NaN()), owca.Float(math.Inf(1)), owca.Float(math.Inf(-1)), owca.Int(math.MaxUint64)}
			for i := range s.Platform.Measurements {
				s.Platform.Measurements[i].Value = odd[(i+tick)%len(odd)]
			}
			for i := range s.Tasks {
				for j := range s.Tasks[i].Measurements {
					s.Tasks[i].Measurements[j].Value = odd[(i+j+tick)%len(odd)]
				}
			}
		}},
		{name: "the clock stands, and jumps", ticks: slices.Repeat([][]owca.TaskID{many}, 6), edit: func(tick int, s *owca.Snapshot) {
			jumps := []time.Duration{0, 0, -time.Hour, 1000 * time.Hour, 0, -time.Minute}
			s.Time = start.Add(jumps[tick%len(jumps)])
		}},
		{name: "hostile labels", ticks: slices.Repeat([][]owca.TaskID{many}, 3), edit: func(_ int, s *owca.Snapshot) {
			for i := range s.Tasks {
				value := hostile[i%len(hostile)]
				s.Tasks[i].Name = value
				s.Tasks[i].Labels = map[string]string{"type": value, "app": strings.Repeat(value, 1000), "workload_instance": "a\"b\\c\n" + value}
			}
		}},
		{name: "hostile ids", ticks: slices.Repeat([][]owca.TaskID{hostileIDs()}, 3)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			call := open(t)
			// As in the loop, buffers are used again. Nothing of what was in them is
			// valid in the next tick.
			var s owca.Snapshot
			for tick, ids := range test.ticks {
				scribble(&s)
				fill(&s, tick, ids)
				if test.edit != nil {
					test.edit(tick, &s)
				}
				before := dump(&s)
				call(t.Context(), &s)
				if after := dump(&s); after != before {
					t.Fatalf("tick %d: the snapshot was changed", tick)
				}
			}
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		call := open(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var s owca.Snapshot
		for tick := range 3 {
			fill(&s, tick, many)
			start := time.Now()
			call(ctx, &s)
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("it took %v after the end of its context", took)
			}
		}
		call(t.Context(), &s) // it still works
	})
}

// dump is all that can be changed of a snapshot, as text.
func dump(s *owca.Snapshot) string {
	return fmt.Sprintf("%+v %+v %+v", *s, *s.Platform, s.Platform.RDT)
}

var (
	start   = time.Unix(1_700_000_000, 0)
	hostile = []string{"", "best_efforts", "\x00", "\xff\xfe", "../../etc", "{{.}}", "\n# HELP", `"`, "best_efforts\n", "ﷺ", "%s%n"}
)

func names(prefix string, n int) []owca.TaskID {
	list := make([]owca.TaskID, n)
	for i := range list {
		list[i] = owca.TaskID(fmt.Sprintf("%s-%02d", prefix, i))
	}
	return list
}

func hostileIDs() []owca.TaskID {
	list := names("task", 12)
	for _, text := range hostile[1:] {
		list = append(list, owca.TaskID(text))
	}
	return list
}

func reversed(list []owca.TaskID) []owca.TaskID {
	list = slices.Clone(list)
	slices.Reverse(list)
	return list
}

// fill makes s a plausible tick of a host of 8 cpus, whose load comes and goes.
func fill(s *owca.Snapshot, tick int, ids []owca.TaskID) {
	if s.Platform == nil {
		s.Platform = &owca.Platform{}
	}
	s.Time = start.Add(time.Duration(tick) * time.Second)
	counts := func(perSecond float64) owca.Value { return owca.Int(uint64(perSecond * float64(tick+1))) }
	*s.Platform = owca.Platform{
		Host: "host", KernelVersion: "6.1.0", CPUModel: "a model", Sockets: 1, Cores: 4, CPUs: 8, NUMANodes: 1,
		RDT: &owca.RDT{
			CacheMonitoring: true, BandwidthMonitoring: true, CacheControl: true, BandwidthControl: true,
			RMIDs: 64, CLOSIDs: 16, CBMMask: 0x7ff, MinCBMBits: 1, MinBandwidth: 10, BandwidthGranularity: 10,
		},
		Measurements: s.Platform.Measurements[:0],
	}
	busy := 90.0 // of 100 USER_HZ a second
	if tick/20%2 == 1 {
		busy = 20
	}
	for cpu := range 8 {
		s.Platform.Measurements = append(s.Platform.Measurements,
			owca.Reading{Desc: owca.PlatformCPUUsage, Label: fmt.Sprint(cpu), Value: counts(busy)})
	}
	s.Tasks = slices.Grow(s.Tasks[:0], len(ids))[:len(ids)]
	for i, id := range ids {
		kind := "best_efforts"
		if i%3 == 0 {
			kind = "latency_critical"
		}
		labels := map[string]string{"type": kind, "app": fmt.Sprintf("app%d", i%4), "workload_instance": string(id)}
		s.Tasks[i] = owca.TaskData{
			Task: owca.Task{
				ID: id, Name: "name of " + string(id), Cgroups: []string{fmt.Sprintf("/test/%d", i)},
				Labels: labels, Resources: map[string]float64{"cpus": 1, "mem": 1 << 30},
			},
			MetricLabels: owca.NewLabels(labels),
			Measurements: append(s.Tasks[i].Measurements[:0],
				owca.Reading{Desc: owca.TaskCPUUsage, Value: counts(float64(i+1) * 1e7)},
				owca.Reading{Desc: owca.TaskMemoryUsage, Value: owca.Int(uint64(i+1) << 20)},
			),
			Allocations: owca.Allocations{owca.CPUQuota: {Number: 1}, owca.CPUShares: {Number: 1}},
		}
	}
}

// scribble makes what was in the snapshot nonsense, for who kept it.
func scribble(s *owca.Snapshot) {
	s.Time = time.Time{}
	if s.Platform != nil {
		for i := range s.Platform.Measurements {
			s.Platform.Measurements[i] = owca.Reading{Desc: owca.AgentUp, Value: owca.Float(math.NaN())}
		}
		s.Platform.Host, s.Platform.CPUs = "scribbled", -1
	}
	for i := range s.Tasks {
		t := &s.Tasks[i]
		t.ID, t.Name = "scribbled", "scribbled"
		for j := range t.Cgroups {
			t.Cgroups[j] = "/scribbled"
		}
		for name := range t.Labels {
			t.Labels[name] = "scribbled"
		}
		clear(t.Resources)
		for j := range t.Measurements {
			t.Measurements[j] = owca.Reading{Desc: owca.AgentUp, Value: owca.Float(math.NaN())}
		}
		clear(t.Allocations)
	}
}

func known(s *owca.Snapshot) map[owca.TaskID]bool {
	ids := make(map[owca.TaskID]bool, len(s.Tasks))
	for i := range s.Tasks {
		ids[s.Tasks[i].ID] = true
	}
	return ids
}

var resources = []owca.ContendedResource{
	owca.MemoryBandwidth, owca.LastLevelCache, owca.CPUs, owca.ThermalDesignPower, owca.UnknownResource,
}

func checkAnomalies(t *testing.T, s *owca.Snapshot, anomalies []owca.Anomaly) {
	t.Helper()
	ids := known(s)
	for _, a := range anomalies {
		if !slices.Contains(resources, a.Resource) {
			t.Errorf("unknown resource %q", a.Resource)
		}
		if !ids[a.Contended] {
			t.Errorf("the contended task %q is not in the snapshot", a.Contended)
		}
		for i, id := range a.Contending {
			switch {
			case !ids[id]:
				t.Errorf("the contending task %q is not in the snapshot", id)
			case id == a.Contended:
				t.Errorf("task %q contends with itself", id)
			case slices.Contains(a.Contending[:i], id):
				t.Errorf("task %q is named twice", id)
			}
		}
		checkMetrics(t, a.Metrics)
	}
}

func checkMetrics(t *testing.T, metrics []owca.Metric) {
	t.Helper()
	for _, m := range metrics {
		switch {
		case m.Desc == nil:
			t.Error("a metric without Desc")
			continue
		case owca.SanitizeLabelName(m.Desc.Name) != m.Desc.Name:
			t.Errorf("%q cannot be the name of a metric", m.Desc.Name)
		case m.Desc.Kind == owca.Counter && !strings.HasSuffix(m.Desc.Name, "_total"):
			t.Errorf("the counter %q does not end in _total", m.Desc.Name)
		case m.Desc.Help == "":
			t.Errorf("%q has no help", m.Desc.Name)
		case (m.Label != "") != (m.Desc.Label != ""):
			t.Errorf("%q: label %q, its Desc names %q", m.Desc.Name, m.Label, m.Desc.Label)
		}
		if v := m.Value.Float(m.Desc.Scale); math.IsNaN(v) || math.IsInf(v, 0) {
			t.Errorf("%q is %v", m.Desc.Name, v)
		}
	}
}

func checkAllocations(t *testing.T, s *owca.Snapshot, decided map[owca.TaskID]owca.Allocations) {
	t.Helper()
	ids := known(s)
	for _, id := range slices.Sorted(maps.Keys(decided)) {
		if !ids[id] {
			t.Errorf("task %q is not in the snapshot", id)
		}
		for kind, a := range decided[id] {
			if err := checkAllocation(kind, a); err != nil {
				t.Errorf("task %q, %s: %v", id, kind, err)
			}
		}
	}
}
