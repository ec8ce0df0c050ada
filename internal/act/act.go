// Package act makes what was decided true of the host, and undoes it.
//
// [Plan] is pure: what is wanted and the state of the host go in, an ordered list of changes comes
// out. An [Actor] gathers that state, writes each change into its [Journal] as a lease before
// it makes it, reads back what took effect, and gives everything back at the end.
// [Restore] does that for an agent that cannot any more, and a [Guardian] process calls it
// when the agent is killed.
package act

import (
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/resctrl"
)

// Target is what can be leased, once at a time.
type Target struct {
	// Cgroup is a path, and Knob its limit; or, if Cgroup is "", it is resctrl's: Group is
	// the directory of a control group (its schemata, and that it exists), and Task a task
	// that is in one.
	Cgroup string `json:",omitempty"`
	Knob   cgroup.Knob
	Group  string      `json:",omitempty"`
	Task   owca.TaskID `json:",omitempty"`
}

// Change is one step of a plan.
type Change struct {
	Target
	For    owca.TaskID // the task that it is made for
	Kind   owca.AllocationKind
	Owner  string // the allocator
	Reason string
	ID     string // [cgroup.Control.ID] of Cgroup and Knob

	// Old is the value before, and New what will be in effect, in the form of the Knob; of
	// a Release New is the value from before the lease. Of resctrl they are for people:
	// schemata, "" of a group that is not there, and groups by name, "/" the default one.
	Old, New string
	Release  bool
	// Note says what New has other than was asked for, and why; "" = nothing.
	Note string

	// Resctrl is the change if Cgroup is "". Undo marks one that is to be undone (Tree.Undo).
	Resctrl *resctrl.Change
	Undo    bool
	// Cgroups are those of the task, of a MoveTask.
	Cgroups []string
}

// Lease is a change that was made and has to be undone some day.
type Lease struct {
	Seq uint64 // of the journal; later ones are undone first
	Change
	// First is the value from before the first change under this lease, which is what will
	// be restored; Change.Old is the one before the last change.
	First string
	// Before, of resctrl, is what Change.Resctrl was before the last change, which is what
	// is found if that was not made; nil if that was the first one. Change.Resctrl undoes
	// all changes under this lease.
	Before *resctrl.Change `json:",omitempty"`

	Since time.Time
	// Last is when it was last changed.
	Last time.Time
	// Yielded: it is no lease any more. Somebody else has changed the value, which stays as
	// long as that which was decided does.
	Yielded bool `json:",omitempty"`
}

// End is how a lease ended.
type End string

// The ways.
const (
	EndReleased End = "released" // the allocator gave it back
	EndRestored End = "restored" // at the end of the agent, or by owca restore
	EndForeign  End = "foreign"  // somebody else changed the value, which stays
	EndGone     End = "gone"     // the cgroup or the group does not exist any more
)

// Units are how allocations are counted; see docs/allocation.md.
type Units struct {
	// QuotaPeriod of cpu_quota, in µs; 0 = that which the cgroup has.
	QuotaPeriod int
	SharesUnit  int // cpu.shares of a cpu_shares of 1
}
