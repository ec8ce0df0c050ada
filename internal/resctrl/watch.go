package resctrl

// Watch keeps the threads of one task together: in a control group and, as long as
// it is monitored, in a monitoring group of their own in that.
type Watch struct {
	tree *Tree
	name Name
}

// Lister appends the thread ids of a task to buf. One that has just ended may be
// among them.
type Lister func(buf []int) ([]int, error)

// Watch begins to keep the threads of a task together. paths are the task's cgroups:
// a monitoring group that is named after one of them is adopted wherever it is, with
// what it counted (see [MonitorName]); otherwise the task is where most of its
// threads are: in the default group, or where another program put it. Nothing is
// written.
func (t *Tree) Watch(paths []string, groups []Name, threads Lister) (*Watch, error) { panic("C") }

// MonitorName is the directory of the monitoring group of a task with this cgroup:
// Prefix and the path with "-" for "/", as the original named its, a hash of the path
// added where that is ambiguous, or longer than a file name may be.
func MonitorName(path string) string { panic("C") }

// Name returns the group that the threads are kept in.
func (w *Watch) Name() Name { return w.name }

// Monitor gives the task a monitoring group, if it has none. Errors: those of
// [Tree.Create].
func (w *Watch) Monitor() error { panic("C") }

// Unmonitor removes the monitoring group; the threads stay in the control group.
func (w *Watch) Unmonitor() error { panic("C") }

// Move moves the task to another control group, which exists, with its monitoring
// group: its counts go on where the kernel can rename it, and begin anew where not.
func (w *Watch) Move(control string) error { panic("C") }

// Followed is what one Follow did.
type Followed struct {
	Threads int // of the task
	Moved   int // into the group
	// Foreign is how many threads are in another group that somebody else put them
	// in since. They are left there; what the group counts is not all of the task.
	Foreign int
	// Stable: a pass found nothing more to move.
	Stable bool
}

// Follow moves the threads of the task that are not in its group there: those that
// were moved into its cgroups from elsewhere. Threads and children of threads in
// the group are born in it. It lists the threads until a pass finds none to move, at
// most a few times. A thread that it knows is not looked at again unless full, where
// the kernel is asked which threads are in the group: that finds those that
// somebody moved away.
//
// A task in a control group that Follow did not put it in and that is not ours
// stays there: its monitoring group moves to it.
func (w *Watch) Follow(threads Lister, full bool) (Followed, error) { panic("C") }

// Read is [Group.Read] of the monitoring group; nil without one. Where the group was
// removed by somebody, it is made again by the next Follow, and the error is
// [ErrGone].
func (w *Watch) Read(list []Usage) ([]Usage, error) { panic("C") }

// Epoch changes whenever the counts began anew: with a new monitoring group.
func (w *Watch) Epoch() int { panic("C") }

// Close closes the files and leaves all groups and threads as they are.
func (w *Watch) Close() error { panic("C") }
