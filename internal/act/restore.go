package act

import (
	"context"

	"github.com/owca-project/owca/internal/resctrl"
)

// Outcome is what became of one lease in a restore.
type Outcome struct {
	Lease
	How End
	Err error // the value could not be restored; the lease is still held
}

// Restore undoes the leases of a journal without an agent, in reverse order, and returns what became of each. A value that is
// neither what the agent wrote nor what was before stays: it is somebody else's. Errors: those of [OpenJournal];
// those of single leases are in the outcomes.
func Restore(ctx context.Context, root, dir string) (outcomes []Outcome, told []string, err error) {
	panic("C")
}

// Groups is what act needs of resctrl. Package measure has one, because the same groups monitor the
// tasks; restore has its own.
type Groups interface {
	// Info returns nil if nothing can be allocated now; then Err says why.
	Info() *resctrl.Info
	Err() error
	// Control returns all control groups, and the directory of that of each task.
	Control() (groups []resctrl.ControlGroup, tasks map[string]string, err error)
	// Do makes a change, a MoveTask included, and returns the schemata in effect of a SetSchemata. What
	// a change needs freed of monitoring groups is freed.
	Do(resctrl.Change) (resctrl.Schemata, error)
	// Undo undoes one, a MoveTask included.
	Undo(resctrl.Change) error
}
