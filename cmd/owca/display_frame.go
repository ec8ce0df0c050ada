package main

import (
	"math"
	"time"

	"github.com/owca-project/owca"
)

// absent is the value of what could not be read.
var absent = math.NaN()

// The values of a task that the display shows or computes from.
const (
	valueCPU = iota
	valueThrottled
	valueCPUWait
	valueMemoryWait
	valueIOWait
	valueWorkingSet
	valueMemory
	valueMemoryLimit
	valueRead
	valueWrite
	valueMinorFaults
	valueMajorFaults
	valuePIDs
	valueIPC
	valueInstructions
	valueLLC
	valueBandwidth
	numValues
)

var taskValues = [numValues]*owca.Desc{
	valueCPU:         owca.TaskCPUUsageCores,
	valueThrottled:   owca.TaskCPUThrottledRatio,
	valueCPUWait:     owca.TaskCPUPressureSomeRatio,
	valueMemoryWait:  owca.TaskMemoryPressureSomeRatio,
	valueIOWait:      owca.TaskIOPressureSomeRatio,
	valueWorkingSet:  owca.TaskMemoryWorkingSet,
	valueMemory:      owca.TaskMemoryUsage,
	valueMemoryLimit: owca.TaskMemoryMax,
	valueRead:        owca.TaskIOReadRate,
	valueWrite:       owca.TaskIOWriteRate,
	valueMinorFaults: owca.TaskMemoryMinorFaultRate,
	valueMajorFaults: owca.TaskMemoryMajorFaultRate,
	valuePIDs:        owca.TaskPIDs,
	valueIPC:         owca.TaskInstructionsPerCycle,

	// There is no ratio of a task that did not run; this tells whether there
	// can be one.
	valueInstructions: owca.TaskInstructions,

	valueLLC:       owca.TaskLLCOccupancy,
	valueBandwidth: owca.TaskMemoryBandwidthRate,
}

// The values of the platform.
const (
	hostCPU = iota
	hostMemoryTotal
	hostMemoryAvailable
	hostCPUWait
	hostMemoryWait
	hostIOWait
	numHostValues
)

var hostValues = [numHostValues]*owca.Desc{
	hostCPU:             owca.PlatformCPUUsageCores,
	hostMemoryTotal:     owca.PlatformMemoryTotal,
	hostMemoryAvailable: owca.PlatformMemoryAvailable,
	hostCPUWait:         owca.PlatformCPUPressureSomeRatio,
	hostMemoryWait:      owca.PlatformMemoryPressureSomeRatio,
	hostIOWait:          owca.PlatformIOPressureSomeRatio,
}

// frame is what is shown of one tick.
type frame struct {
	time  time.Time
	took  time.Duration // the tick, until observe
	ticks uint64        // so far; the first has no rates
	host  string
	cpus  int  // 0 = not known
	perf  bool // some task has performance counters
	rdt   bool // resctrl tells something of some task
	value [numHostValues]float64
	rows  []row
}

// row is one task. name and kind are anybody's text.
type row struct {
	name, kind string
	value      [numValues]float64
}

// memory is the working set, or all that is charged where that is not known.
func (r *row) memory() float64 {
	if w := r.value[valueWorkingSet]; !math.IsNaN(w) {
		return w
	}
	return r.value[valueMemory]
}

// faults are minor and major ones a second; absent if either is.
func (r *row) faults() float64 { return r.value[valueMinorFaults] + r.value[valueMajorFaults] }

// wait is the worst of the pressures.
func (r *row) wait() float64 {
	return most(r.value[valueCPUWait], most(r.value[valueMemoryWait], r.value[valueIOWait]))
}

// io is what is read and written a second.
func (r *row) io() float64 {
	read, write := r.value[valueRead], r.value[valueWrite]
	if math.IsNaN(read) {
		return write
	}
	if math.IsNaN(write) {
		return read
	}
	return read + write
}

// most is the greater one of what is known.
func most(a, b float64) float64 {
	if math.IsNaN(a) || b > a {
		return b
	}
	return a
}

// memoryUsed is what is not available to new work.
func (f *frame) memoryUsed() float64 {
	return f.value[hostMemoryTotal] - f.value[hostMemoryAvailable]
}

// capture copies snapshots. It remembers where in the measurements a reading
// was, which is nearly always the same place in the next task and tick.
type capture struct {
	ticks     uint64
	taskHints [numValues]int
	hostHints [numHostValues]int
}

func (c *capture) read(f *frame, s *owca.Snapshot) {
	f.time, f.ticks = s.Time, c.ticks
	p := s.Platform
	f.host, f.cpus = p.Host, p.CPUs
	for i, d := range hostValues {
		f.value[i] = find(p.Measurements, d, &c.hostHints[i])
	}
	if cap(f.rows) < len(s.Tasks) {
		f.rows = make([]row, len(s.Tasks), len(s.Tasks)+len(s.Tasks)/4)
	}
	f.rows = f.rows[:len(s.Tasks)]
	f.perf, f.rdt = false, false
	for i := range s.Tasks {
		t, r := &s.Tasks[i], &f.rows[i]
		if r.name = t.Name; r.name == "" {
			r.name = string(t.ID)
		}
		r.kind = t.Labels["kind"]
		for v, d := range taskValues {
			r.value[v] = find(t.Measurements, d, &c.taskHints[v])
		}
		f.perf = f.perf || !math.IsNaN(r.value[valueInstructions])
		f.rdt = f.rdt || !math.IsNaN(r.value[valueLLC]) || !math.IsNaN(r.value[valueBandwidth])
	}
}

func find(m owca.Measurements, d *owca.Desc, hint *int) float64 {
	if i := *hint; i < len(m) && m[i].Desc == d {
		return m[i].Value.Float(d.Scale)
	}
	for i := range m {
		if m[i].Desc.Name == d.Name { // of a raw event by the name of a known one it is another Desc
			*hint = i
			return m[i].Value.Float(d.Scale)
		}
	}
	return absent
}
