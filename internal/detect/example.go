package detect

import (
	"context"
	"hash/fnv"
	"log/slog"

	"github.com/owca-project/owca"
)

// Example makes contention up, in fixed phases, to try storages, dashboards and allocators
// without a contended host. It measures nothing.
//
// A cycle has CycleLength ticks and is divided into six phases of the same length. Tasks are
// counted in the order of the snapshot, from 0:
//
//	phase  contended  resource          contending
//	0      –
//	1      0          memory bandwidth  1
//	2      2          cache             3, 4
//	3      0          memory bandwidth  5, 6
//	       1          cpus              7
//	4      2          cache             8, 9
//	       3          cache             8, 9
//	5      4          unknown resource  –
//
// Cycles shorter than six ticks leave phases out.
type Example struct {
	CycleLength int  `yaml:"cycle_length" range:"1..100000" help:"Ticks of a cycle of made-up contention."`
	Skew        bool `yaml:"skew" help:"Begin the cycle at a point that depends on the host and the time, so that hosts differ."`

	ticks, offset int
	told          bool // that there are too few tasks
}

// NewExample returns one with the original's defaults.
func NewExample() *Example { return &Example{CycleLength: 90} }

// exampleTasks is how many tasks the phases speak of.
const exampleTasks = 10

type contention struct {
	resource   owca.ContendedResource
	contended  int
	contending []int
}

var examplePhases = [...][]contention{
	{},
	{{owca.MemoryBandwidth, 0, []int{1}}},
	{{owca.LastLevelCache, 2, []int{3, 4}}},
	{{owca.MemoryBandwidth, 0, []int{5, 6}}, {owca.CPUs, 1, []int{7}}},
	{{owca.LastLevelCache, 2, []int{8, 9}}, {owca.LastLevelCache, 3, []int{8, 9}}},
	{{owca.UnknownResource, 4, nil}},
}

// What Example adds to anomalies as their context, and says of itself.
var (
	ExampleSeverity = &owca.Desc{
		Name: "owca_example_contention_ratio", Unit: "ratio",
		Help:   "How bad the contention is that ExampleDetector makes up: it grows from 0 to 1 in each phase.",
		Source: "made up",
	}
	ExamplePhase = &owca.Desc{
		Name:   "owca_example_phase",
		Help:   "Phase of ExampleDetector's cycle, 0 to 5; see docs/detection.md.",
		Source: "ticks",
	}
)

// Detect returns the anomalies of this phase; none with fewer than ten tasks.
func (e *Example) Detect(_ context.Context, s *owca.Snapshot) ([]owca.Anomaly, []owca.Metric, error) {
	if e.ticks == 0 && e.Skew {
		h := fnv.New32a()
		if s.Platform != nil {
			_, _ = h.Write([]byte(s.Platform.Host)) // cannot fail
		}
		e.offset = int((uint64(h.Sum32()) + uint64(s.Time.Unix())) % uint64(e.CycleLength))
	}
	position := (e.offset + e.ticks) % e.CycleLength
	e.ticks = (e.ticks + 1) % e.CycleLength
	if e.ticks == 0 {
		e.ticks = e.CycleLength // 0 is only before the first
	}
	phase := position * len(examplePhases) / e.CycleLength
	metrics := []owca.Metric{{Desc: ExamplePhase, Value: owca.Int(uint64(phase)), Time: s.Time.UnixMilli()}}
	if len(s.Tasks) < exampleTasks {
		if !e.told {
			slog.Info("ExampleDetector makes nothing up for fewer than 10 tasks", "component", "detect", "tasks", len(s.Tasks))
			e.told = true
		}
		return nil, metrics, nil
	}
	// The ticks [first, end) of the cycle are this phase's.
	n, length := len(examplePhases), e.CycleLength
	first, end := (phase*length+n-1)/n, ((phase+1)*length+n-1)/n
	severity := float64(position-first+1) / float64(end-first)
	anomalies := make([]owca.Anomaly, 0, len(examplePhases[phase]))
	for _, c := range examplePhases[phase] {
		a := owca.Anomaly{
			Resource: c.resource, Contended: s.Tasks[c.contended].ID,
			Metrics: []owca.Metric{{Desc: ExampleSeverity, Value: owca.Float(severity), Time: s.Time.UnixMilli()}},
		}
		for _, i := range c.contending {
			a.Contending = append(a.Contending, s.Tasks[i].ID)
		}
		anomalies = append(anomalies, a)
	}
	return anomalies, metrics, nil
}
