package owca

import "context"

// An Allocator looks at what a tick measured and decides on limits.
type Allocator interface {
	// Allocate returns what it wants changed; what it does not mention stays as it
	// decided before. The Snapshot and all in it is only to be read, and only until
	// Allocate returns. A call that takes longer than the tick is not waited for: ctx
	// ends, its result is dropped, and there is no other call before it has returned.
	// An error is logged and counted; a Decision beside it holds if its Allocations are
	// not nil, otherwise it is dropped, and what was decided before stays.
	Allocate(context.Context, *Snapshot) (Decision, error)
}

// Decision is what an Allocator wants.
type Decision struct {
	// Allocations by task. All of them are dropped if one is invalid.
	Allocations map[TaskID]Allocations
	Anomalies   []Anomaly
	Metrics     []Metric
}

// Allocations are what one task gets of each kind.
type Allocations map[AllocationKind]Allocation

// AllocationKind is one thing that a task can be given more or less of.
type AllocationKind string

// The kinds, with the field of [Allocation] that holds the value.
const (
	// CPUQuota, Number: CPU time, as a part of the whole host: 0.5 is half of all
	// online CPUs; 1 and more is no limit. The containers of a pod share it.
	CPUQuota AllocationKind = "cpu_quota"
	// CPUShares, Number: weight against others under contention, in units of
	// cpu_shares_unit (of cpu.shares; v2 cpu.weight as the kernel converts it).
	CPUShares AllocationKind = "cpu_shares"
	// CPUBurst, Number: CPU time beyond the quota that may be saved up, as a part of
	// the whole host in one period, as CPUQuota.
	CPUBurst AllocationKind = "cpu_burst"
	// CPUIdle, Number 0 or 1: SCHED_IDLE against all other cgroups. Linux 5.15.
	CPUIdle AllocationKind = "cpu_idle"
	// CPUSetCPUs and CPUSetMems, Text: a list as "0-3,8".
	CPUSetCPUs AllocationKind = "cpuset_cpus"
	CPUSetMems AllocationKind = "cpuset_mems"
	// MemoryHigh and MemoryLow, Number in bytes, or Text "max". Cgroup v2.
	MemoryHigh AllocationKind = "memory_high"
	MemoryLow  AllocationKind = "memory_low"
	// IOWeight, Number 1 to 10000: 100 is what a cgroup begins with.
	IOWeight AllocationKind = "io_weight"
	// IOMax, IO: limits of devices.
	IOMax AllocationKind = "io_max"
	// RDTGroup, RDT: caches and memory bandwidth.
	RDTGroup AllocationKind = "rdt"
)

// LeastChange is what a CPUQuota or CPUShares that is held has to change by: one that changes
// by that or less stays as it is, as in the original.
const LeastChange = 0.05

// AllocationKinds are all kinds, in the order in which they are shown.
var AllocationKinds = []AllocationKind{
	CPUQuota, CPUShares, CPUBurst, CPUIdle, CPUSetCPUs, CPUSetMems, MemoryHigh, MemoryLow, IOWeight, IOMax, RDTGroup,
}

// Allocation is the value of one kind: one of Number, Text, IO and RDT, as the
// kind says, or Release.
type Allocation struct {
	Number float64
	Text   string
	IO     map[string]IOLimit // by device: "8:0", or a path as "/dev/sda"
	RDT    *RDTAllocation
	// Release gives back what this allocator had of the kind: the value from before
	// is restored. Nothing happens if it has nothing.
	Release bool
	// Reason is for people: why. It is in the log, in the journal, and in owca leases.
	Reason string
}

// IOLimit is what a task may read and write of a device: 0 is no limit.
type IOLimit struct {
	ReadBytes, WriteBytes           uint64 // per second
	ReadOperations, WriteOperations uint64 // per second
}

// RDTAllocation is a control group of resctrl, and what it gets.
type RDTAllocation struct {
	// Name of the group: nil is one of the task's own, "" the default group. Tasks
	// with the same name share one.
	Name *string
	// L3 and MB as in schemata, "L3:0=ff;1=ff" and "MB:0=50"; "" = as it is.
	L3, MB string
}
