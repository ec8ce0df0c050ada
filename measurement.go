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
	Measurements  Measurements
}

// TaskData is what one tick knows of one task.
type TaskData struct {
	Task
	// MetricLabels are what the task's metrics carry: its labels, task_id and
	// the common labels. The same pointer as long as none of them changes.
	MetricLabels *Labels
	Measurements Measurements
}

// Snapshot is what one tick saw.
type Snapshot struct {
	Time     time.Time
	Platform *Platform
	Tasks    []TaskData
}
