package owca

import "context"

// A Detector looks at what a tick measured and names the anomalies in it.
type Detector interface {
	// Detect returns the anomalies of this tick and metrics of its own. What
	// [Allocator] says of the Snapshot and of time holds here, too.
	Detect(context.Context, *Snapshot) ([]Anomaly, []Metric, error)
}

// ContendedResource is what tasks compete for, by the original's names.
type ContendedResource string

// The resources that the original names.
const (
	MemoryBandwidth    ContendedResource = "memory bandwidth"
	LastLevelCache     ContendedResource = "cache"
	CPUs               ContendedResource = "cpus"
	ThermalDesignPower ContendedResource = "thermal design power"
	UnknownResource    ContendedResource = "unknown resource"
)

// Anomaly says that a task suffers contention on a resource, and from whom.
type Anomaly struct {
	Resource   ContendedResource
	Contended  TaskID   // the victim
	Contending []TaskID // the suspects, most likely first; may be empty
	Metrics    []Metric // context: what the verdict rests on
}
