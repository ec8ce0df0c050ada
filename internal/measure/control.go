package measure

import "github.com/owca-project/owca/internal/resctrl"

// Control changes what the tasks may use of caches and memory bandwidth: the control groups of
// resctrl. It is of one Tasks, and used in the same goroutine, after its Read.
type Control struct{ tasks *Tasks }

// Control returns what it takes to allocate by resctrl; nil if there is no resctrl in use.
func (t *Tasks) Control() *Control { panic("E") }

// Info returns what can be allocated; nil if nothing can be now.
func (c *Control) Info() *resctrl.Info { panic("E") }

// Err says why Info is nil.
func (c *Control) Err() error { panic("E") }

// Control returns all control groups, the default one first, and the directory of that of each task, by its id.
func (c *Control) Control() (groups []resctrl.ControlGroup, tasks map[string]string, err error) {
	panic("E")
}

// Do makes a change. A MoveTask moves the task with its monitoring group; a CreateGroup for which there
// is no RMID takes one from the task that needs it least. It returns the schemata in effect of a SetSchemata.
func (c *Control) Do(change resctrl.Change) (resctrl.Schemata, error) { panic("E") }

// Undo undoes one.
func (c *Control) Undo(change resctrl.Change) error { panic("E") }
