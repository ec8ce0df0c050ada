package act

import (
	"time"

	"github.com/owca-project/owca"
)

// Options say how an Actor acts. They may change while it runs, but for StateDir.
type Options struct {
	Units
	StateDir string
	// Keep: at the end values stay as they are, and the next agent adopts the leases; otherwise they are
	// restored then, or by the next agent if this one could not.
	Keep bool
	// DryRun: nothing is written, nor leased.
	DryRun bool
	// Guardian is the command of the guardian process; empty = none.
	Guardian []string
	// DefaultL3 and DefaultMB are schemata of the default group of resctrl; nil = as they are.
	DefaultL3, DefaultMB *string
}

// Actor acts on one host. One goroutine at a time may use it, but for Start.
type Actor struct{}

// New returns an Actor of the host below root. It does no I/O.
func New(root string) *Actor { panic("D") }

// Start takes the journal, and restores or adopts what an earlier agent left. It may be called again while the Actor is in use, with
// other options, to see whether they will do: only StateDir may not differ. Errors: those of [OpenJournal], fs.ErrPermission
// where limits cannot be written.
func (a *Actor) Start(o Options) error { panic("D") }

// SetOptions makes o those of the next Apply.
func (a *Actor) SetOptions(o Options) { panic("D") }

// SetGroups gives it resctrl, as of this tick; nil = there is none.
func (a *Actor) SetGroups(g Groups) { panic("D") }

// Observe looks at the leases, before anything is decided: those whose cgroup is gone end, and those whose value somebody
// else changed. It fills the Allocations of tasks.
func (a *Actor) Observe(now time.Time, tasks []owca.TaskData) { panic("D") }

// Decided is what one allocator decided.
type Decided struct {
	Owner       string
	Allocations map[owca.TaskID]owca.Allocations
}

// Apply makes decisions true, later ones winning by kind, along with all that was decided in earlier calls and is not in effect,
// as after a restart of a container. With an error nothing of these decisions is kept (see [Plan]).
func (a *Actor) Apply(now time.Time, tasks []owca.TaskData, decided []Decided) (Report, error) {
	panic("D")
}

// Report is what one Apply did.
type Report struct {
	// Changes that were made, or would have been with DryRun.
	Changes []Change
	// Failed are those that the kernel refused, with its errors.
	Failed  []Failure
	Refused []Refusal
}

// Failure is a change that could not be made.
type Failure struct {
	Change
	Err error
}

// KeepOwners restores the leases, and forgets the decisions, of all owners but these.
func (a *Actor) KeepOwners(owners []string) { panic("D") }

// Leases returns what is held, in the order of its making.
func (a *Actor) Leases() []*Lease { panic("D") }

// Stats are counted since the start.
type Stats struct {
	Changes, Failed, Refused, Invalid uint64
	Ended                             map[End]uint64
	JournalErrors                     uint64
	Guardian                          bool // it runs
}

// Stats returns them.
func (a *Actor) Stats() Stats { panic("D") }

// Close restores what is leased, or keeps it, dismisses the guardian and gives up the journal. The error joins what could not be
// restored.
func (a *Actor) Close() error { panic("D") }
