package resctrl

// ControlGroup is one that exists, with what it may use.
type ControlGroup struct {
	Name     string // directory; "" = the default group
	Schemata Schemata
	Tasks    int // threads in it, those of its monitoring groups included
}

// ControlGroups reads all of them, the default group first.
func (t *Tree) ControlGroups() ([]ControlGroup, error) { panic("D") }

// Allocation is what is wanted for one task.
type Allocation struct {
	Task string // its id, for messages and changes
	// Group is the control group that it shall be in, as users name it: "" is the
	// default group. A group that exists under that name is shared, whoever made it;
	// otherwise it is made, as [Prefix] + Group.
	Group string
	// Now is the directory of the control group that it is in.
	Now string
	// Schemata is what that group shall have; nil or a resource or domain that is not
	// in it stays as it is.
	Schemata Schemata
}

// ChangeKind is what a change does. A plan has them in this order.
type ChangeKind uint8

// The kinds of changes.
const (
	CreateGroup ChangeKind = iota
	SetSchemata
	MoveTask
	RemoveGroup // ours, and without a task after the moves; refused while threads are in it
)

// Change is one step of a plan, with what it takes to undo it.
type Change struct {
	Kind     ChangeKind
	Group    string   // directory of the control group; of MoveTask the new one
	Task     string   // of MoveTask
	From     string   // of MoveTask: directory of the old group
	Old, New Schemata // of SetSchemata: only what changes; New is what will be in effect
	Rounded  []Rounding
}

// String is a line for a review: `set group gold: L3:0=7ff → L3:0=f`.
func (c Change) String() string { panic("D") }

// Plan is pure. It returns the changes that make allocations true of groups, which
// are all that exist; tasks that are in no allocation stay where they are, and keep
// their group alive. Schemata of a group are written once, with what changed only;
// two tasks that want different values of one group get those of the later one.
// Allocations are validated whole: the error joins all problems (each with
// its task), and there are no changes then: an unknown resource or domain, a value
// that [Info.Check] refuses, a name that cannot be a directory, more groups than
// CLOSIDs. others is how many tasks that are in no allocation each directory has.
func (in *Info) Plan(groups []ControlGroup, allocations []Allocation, others map[string]int) ([]Change, error) {
	panic("D")
}

// Do makes a change that is not a MoveTask, which is up to the task's [Watch]. What is
// in effect then is returned for SetSchemata.
func (t *Tree) Do(c Change) (effect Schemata, err error) { panic("D") }

// Undo undoes a change that was made, as far as the host is still as the change left
// it: schemata that somebody changed since stay.
func (t *Tree) Undo(c Change) error { panic("D") }

// SetDefaults writes what the default group shall have of L3 and MB ("" = all of
// it), as the original did at its start.
func (t *Tree) SetDefaults(l3, mb string) (changes []Change, err error) { panic("D") }
