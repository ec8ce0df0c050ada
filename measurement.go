package owca

import "time"

// A Reading is one value read at one time: of a task, or of the platform.
type Reading struct {
	Desc *Desc
	// Label is the value of the label that Desc.Label names, "" if it names none.
	Label string
	Value Value
}

// Measurements are the readings of one task or of the platform in one tick,
// in no particular order, each (Desc, Label) at most once. What could not be
// read is not in it.
type Measurements []Reading

// Get returns the reading of d that has no label of its own.
func (m Measurements) Get(d *Desc) (Value, bool) { return m.GetLabel(d, "") }

// GetLabel returns the reading of d whose label d.Label has the value label.
func (m Measurements) GetLabel(d *Desc, label string) (Value, bool) {
	for i := range m {
		if m[i].Desc == d && m[i].Label == label {
			return m[i].Value, true
		}
	}
	return Value{}, false
}

// Float returns the reading of d in d's base unit (seconds, bytes, …).
func (m Measurements) Float(d *Desc) (float64, bool) {
	v, ok := m.Get(d)
	if !ok {
		return 0, false
	}
	return v.Float(d.Scale), true
}

// Platform is the host: what it is, and its measurements.
type Platform struct {
	Host          string // host name
	KernelVersion string // /proc/sys/kernel/osrelease
	CPUModel      string // "model name" of /proc/cpuinfo
	Sockets       int    // of the online cpus; 0 = not known, as below
	Cores         int    // physical cores of the online cpus
	CPUs          int    // online cpus (hardware threads)
	NUMANodes     int
	RDT           *RDT // nil: resctrl is not mounted, or not in use
	Measurements  Measurements
}

// RDT is what resctrl can monitor and control on a host (Intel RDT, AMD PQoS, Arm
// MPAM). Its owner makes a new one when it changes.
type RDT struct {
	CacheMonitoring     bool // llc_occupancy
	BandwidthMonitoring bool // mbm_total_bytes or mbm_local_bytes
	CacheControl        bool // of L3, with CDP of its code and data apart
	BandwidthControl    bool // MB

	RMIDs   int // groups that can be monitored, control groups included; 0 = none
	CLOSIDs int // control groups, the default one included: the minimum over all resources; 0 = none

	// Of L3; 0 without CacheControl.
	CBMMask    uint64 // all ways
	MinCBMBits int
	// Of MB, in the unit of its schemata; 0 without BandwidthControl.
	MinBandwidth         uint64
	BandwidthGranularity uint64
}

// TaskData is what one tick knows of one task.
type TaskData struct {
	Task
	// MetricLabels are what the task's metrics carry: its labels, task_id and
	// the common labels. The same pointer as long as none of them changes.
	MetricLabels *Labels
	Measurements Measurements
	// Allocations are those in effect, as far as they are known: cpu_quota and
	// cpu_shares of every task, and every kind that owca has changed. Nil where
	// nothing is decided.
	Allocations Allocations
}

// Snapshot is what one tick saw.
type Snapshot struct {
	Time     time.Time
	Platform *Platform
	Tasks    []TaskData
}
