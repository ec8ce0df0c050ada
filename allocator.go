package owca

import "context"

// An Allocator looks at what a tick measured and decides on limits.
type Allocator interface {
	// Allocate returns what it wants changed; what it does not mention stays.
	Allocate(context.Context, *Snapshot) (Decision, error)
}

// Decision is what an Allocator wants.
type Decision struct {
	// Allocations by task, then by kind ("cpu_quota", "cpu_shares", …), in
	// the units of the original: cpu_quota 1.0 is the whole host.
	Allocations map[TaskID]map[string]float64
	Anomalies   []Anomaly
	Metrics     []Metric
}
