package act

import (
	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/resctrl"
)

// Wanted is one allocation that shall be in effect, or be released.
type Wanted struct {
	Task  owca.TaskID
	Kind  owca.AllocationKind
	Owner string
	owca.Allocation
}

// State is all that Plan knows of the host: what the kinds that are wanted need, of the tasks
// that they are wanted for.
type State struct {
	Units
	CPUs    int    // online
	CPUList string // the same as a list; "" = not known
	MemList string // NUMA nodes with memory
	// Tasks that exist.
	Tasks map[owca.TaskID]*TaskState
	// Cgroups by path: those of the tasks, and their ancestors as far as they have limits.
	Cgroups map[string]*CgroupState
	// Leases that are held.
	Leases map[Target]*Lease
	// Devices are the numbers, "8:0", of the devices that are named by path; absent: there is none.
	Devices map[string]string

	// Resctrl is nil where nothing can be allocated; NoResctrl says why.
	Resctrl   *resctrl.Info
	NoResctrl error
	Groups    []resctrl.ControlGroup
	Others    map[string]int // tasks per control group that Tasks does not have
}

// TaskState is one task.
type TaskState struct {
	Cgroups []string
	QoS     string // Kubernetes' class, "" = no pod
	// Exclusive are cpus that the kubelet's static CPU manager gave to it alone, as a list.
	Exclusive string
	Control   string // directory of its control group in resctrl
}

// CgroupState is one cgroup.
type CgroupState struct {
	ID     string
	Values map[cgroup.Knob]string
	// Errors of the knobs that could not be read; [cgroup.ErrGone] if it is gone.
	Errors map[cgroup.Knob]error
	// LargestBelow is the highest CPUMax of the cgroups below it, "" if none has a limit; and BelowPath its path.
	LargestBelow, BelowPath string
	// V1: the CPU controller is v1's, where a child may not have more quota than its parent.
	V1 bool
}

// Planned is the outcome of Plan.
type Planned struct {
	// Changes in the order in which they are to be made.
	Changes []Change
	// Refused is what this host does not allow, as opposed to what is invalid anywhere.
	Refused []Refusal
}

// Refusal is an allocation that cannot be made here, and why. The others are.
type Refusal struct {
	Task   owca.TaskID
	Kind   owca.AllocationKind
	Reason string
	// Gone: the cgroup was removed, so that there is nothing to tell.
	Gone bool
}

// Invalid is one allocation that no host would take.
type Invalid struct {
	Task   owca.TaskID
	Kind   owca.AllocationKind
	Reason string
}

// Error names the task, the kind and the reason.
func (e *Invalid) Error() string { panic("B") }

// Plan returns the changes that make what is wanted true: only what differs, each target once, parents
// before children where a limit is raised and children before parents where it is lowered. It is pure.
//
// The error joins an [Invalid] for each allocation that is invalid anywhere: an unknown task or kind, a number that is
// not finite or out of range, a list that is none, more groups of resctrl than CLOSIDs; there are no changes then.
func Plan(s *State, wanted []Wanted) (Planned, error) { panic("B") }

// Current returns the allocation that a knob's value is, of one cgroup, in the units of [owca.AllocationKind].
func Current(u Units, cpus int, k cgroup.Knob, value string) (owca.AllocationKind, owca.Allocation, bool) {
	panic("B")
}

// Knobs are those that an allocation of a kind may change, for [State] to have them.
func Knobs(kind owca.AllocationKind) []cgroup.Knob { panic("B") }
