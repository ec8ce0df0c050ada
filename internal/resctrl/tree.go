package resctrl

// Tree is one mount of resctrl, as long as it lasts. One goroutine at a time may
// use it.
type Tree struct {
	mount Mount
	info  *Info
}

// Open opens a mount and reads what it can do.
func (m Mount) Open() (*Tree, error) { panic("B") }

// Mount returns what was opened.
func (t *Tree) Mount() Mount { return t.mount }

// Info returns what it can do.
func (t *Tree) Info() *Info { return t.info }

// Alive returns nil if the mount is still the one that was opened, [ErrGone] if it
// was unmounted, or another one is mounted there now. It costs one system call or
// two.
func (t *Tree) Alive() error { panic("B") }

// Close closes all that the tree and its groups have open, without which the file
// system cannot be unmounted. The groups stay.
func (t *Tree) Close() error { panic("B") }

// Groups appends all groups to buf, sorted: the default group first, each control
// group before its monitoring groups.
func (t *Tree) Groups(buf []Name) ([]Name, error) { panic("B") }

// Create makes a group. Errors: fs.ErrExist, [ErrNoCLOSID], [ErrNoRMID],
// [ErrLimbo], fs.ErrPermission, unix.EROFS.
func (t *Tree) Create(n Name) error { panic("B") }

// Remove removes a group that is ours; fs.ErrPermission if it is not. Its threads
// go to the default group, those of a monitoring group to its control group. A
// group that does not exist is no error.
func (t *Tree) Remove(n Name) error { panic("B") }

// RemoveAll removes every group, whoever made it.
func (t *Tree) RemoveAll() error { panic("B") }

// Rename moves a monitoring group, with its threads and counts, into another
// control group (Linux 6.4). errors.ErrUnsupported where the kernel cannot.
func (t *Tree) Rename(from, to Name) error { panic("B") }

// Schemata reads those of a control group; nil where nothing can be allocated.
func (t *Tree) Schemata(control string) (Schemata, error) { panic("B") }

// SetSchemata writes all lines at once, so that all or none of them take effect,
// and returns what is in effect then. Nothing is checked before.
func (t *Tree) SetSchemata(control string, s Schemata) (effect Schemata, err error) { panic("B") }

// Threads appends the thread ids in a group itself, without those of its monitoring
// groups, to buf. The kernel looks at every thread of the host for it.
func (t *Tree) Threads(n Name, buf []int) ([]int, error) { panic("B") }

// Add moves threads into a group, in as few writes as the kernel takes (several ids
// a write since 6.7). A thread that has ended is skipped. A thread of another user
// is written as euid 0, on a thread of its own, if this process may (CAP_SETUID).
// Into a monitoring group only threads of its control group can be moved: Add moves
// them there before. It returns how many were moved; the error joins the reasons of
// the others, at most a few.
func (t *Tree) Add(n Name, tids []int) (moved int, err error) { panic("B") }

// Locate returns the group that a thread is in (/proc/TID/cpu_resctrl_groups).
// fs.ErrNotExist if it has ended; errors.ErrUnsupported where the kernel does not
// tell.
func (t *Tree) Locate(tid int) (Name, error) { panic("B") }
