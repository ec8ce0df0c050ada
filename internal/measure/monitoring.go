package measure

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/resctrl"
)

// ResctrlOptions say how tasks are monitored by resctrl.
type ResctrlOptions struct {
	// Mount: mount resctrl if nobody has; what was mounted so is unmounted at the end.
	Mount        bool
	MountOptions resctrl.MountOptions
	// First: of the tasks that there are not enough RMIDs for, those whose labels all
	// match come first. Expressions are anchored at the start.
	First map[string]*regexp.Regexp
	// Control: tasks may be moved to control groups (see [Tasks.Control]). A host that
	// can only allocate will do then; control groups that are left from before are
	// whoever's that uses it.
	Control bool
	// RemoveAll, with Control: remove every group, whoever made it, before the first is made.
	RemoveAll bool
	// ReadOnly: nothing is written, and nothing claimed, so that it works beside an agent;
	// [Control] tells what there is. It is of a Tasks from its beginning to its end.
	ReadOnly bool
}

// Resctrl is how tasks are monitored. It never changes; whoever wants it otherwise
// plans anew.
type Resctrl struct {
	options ResctrlOptions
	fs      resctrlFS
	made    *resctrl.Mount // by PlanResctrl, and nobody's yet
	rdt     *owca.RDT
}

// resctrlFS, resctrlTree and resctrlWatch are what is used of package resctrl; tests
// have others, for what the kernel does not do when it is asked to.
type resctrlFS interface {
	Mounted() (resctrl.Mount, error)
	Mount(resctrl.MountOptions) (resctrl.Mount, error)
	Unmount(resctrl.Mount) error
	Open(resctrl.Mount) (resctrlTree, error)
}

type resctrlTree interface {
	Info() *resctrl.Info
	Claim() error
	Unknown() error
	limitFiles(int)
	Alive() error
	Groups([]resctrl.Name) ([]resctrl.Name, error)
	Threads(resctrl.Name, []int) ([]int, error)
	Remove(resctrl.Name) error
	RemoveAll() error
	ControlGroups() ([]resctrl.ControlGroup, error)
	Schemata(string) (resctrl.Schemata, error)
	Do(resctrl.Change) (resctrl.Schemata, error)
	Undo(resctrl.Change) error
	Watch([]string, []resctrl.Name, resctrl.Lister) (resctrlWatch, error)
	Close() error
}

type resctrlWatch interface {
	Name() resctrl.Name
	Monitor() error
	Unmonitor() error
	Move(string, resctrl.Lister) error
	Follow(resctrl.Lister, bool) (resctrl.Followed, error)
	Read([]resctrl.Usage) ([]resctrl.Usage, error)
	Epoch() int
	Close() error
}

type hostResctrl struct{ resctrl.FS }

func (hostResctrl) Open(m resctrl.Mount) (resctrlTree, error) {
	t, err := m.Open()
	if err != nil {
		return nil, err
	}
	return hostTree{t}, nil
}

type hostTree struct{ *resctrl.Tree }

func (t hostTree) limitFiles(n int) { t.KeepFiles = n }

func (t hostTree) Watch(paths []string, groups []resctrl.Name, threads resctrl.Lister) (resctrlWatch, error) {
	w, err := t.Tree.Watch(paths, groups, threads)
	if err != nil {
		return nil, err
	}
	return w, nil
}

// PlanResctrl looks for resctrl, and mounts it if that is wanted and nobody has; what
// it mounts is the Tasks' that it is given to, or of [Resctrl.Discard]. The Resctrl is
// nil only where the kernel has no resctrl, or the host not what an option is for;
// with any other error it waits for what is missing. Errors: errors.ErrUnsupported, also,
// without Control, for a host that can only allocate, and monitor nothing;
// [resctrl.ErrNotMounted]; [resctrl.ErrInUse] by another process; fs.ErrPermission if
// groups cannot be made, or syscall.EROFS.
func (h *Host) PlanResctrl(o ResctrlOptions) (*Resctrl, error) {
	return h.planResctrl(hostResctrl{resctrl.FS{Root: h.Proc.Root}}, o)
}

func (h *Host) planResctrl(f resctrlFS, o ResctrlOptions) (*Resctrl, error) {
	r := &Resctrl{options: o, fs: f}
	m, err := f.Mounted()
	if o.Mount && !o.ReadOnly && errors.Is(err, resctrl.ErrNotMounted) {
		if m, err = f.Mount(o.MountOptions); err == nil {
			r.made = &m
		}
	}
	if errors.Is(err, errors.ErrUnsupported) {
		return nil, err
	}
	if err == nil {
		err = h.usableResctrl(r, m)
	}
	return r, err
}

// RDT returns what the host could do when it was planned, for requirements; nil if
// resctrl could not be opened.
func (r *Resctrl) RDT() *owca.RDT {
	if r == nil {
		return nil
	}
	return r.rdt
}

// usableResctrl says whether groups can be made in a mount.
func (h *Host) usableResctrl(r *Resctrl, m resctrl.Mount) error {
	// What is asked here is not to refuse a Tasks that looks for it now.
	h.resctrl.Lock()
	defer h.resctrl.Unlock()
	t, err := r.fs.Open(m)
	if err != nil {
		return err
	}
	r.rdt = newRDT(t.Info())
	switch {
	case r.rdt.RMIDs == 0 && !r.options.Control:
		err = fmt.Errorf("%w: this host has no monitoring ids (RMIDs): no task can be monitored", errors.ErrUnsupported)
	case r.options.ReadOnly:
		return t.Close()
	case m.ReadOnly:
		err = fmt.Errorf("%s is mounted read only: no group can be made: %w", m.Dir, syscall.EROFS)
	case !h.claimed:
		err = t.Claim()
	}
	if err := errors.Join(err, t.Close()); err != nil {
		return err
	}
	var dirs []string
	if r.rdt.RMIDs > 0 {
		dirs = append(dirs, m.Dir+"/mon_groups")
	}
	if r.options.Control {
		dirs = append(dirs, m.Dir)
	}
	const (
		cwd       = -100  // AT_FDCWD
		writable  = 2     // W_OK
		effective = 0x200 // AT_EACCESS
	)
	for _, dir := range dirs {
		if err := syscall.Faccessat(cwd, dir, writable, effective); err != nil {
			return fmt.Errorf("%s cannot be written to: %w", dir, err)
		}
	}
	return nil
}

// Discard unmounts what PlanResctrl mounted, if no Tasks has taken it.
func (r *Resctrl) Discard() {
	if r == nil || r.made == nil {
		return
	}
	if err := r.fs.Unmount(*r.made); err != nil {
		slog.Warn("resctrl stays mounted", "component", "measure", "error", err)
	}
	r.made = nil
}

// The states of a task.
const (
	stateMonitored = iota
	stateWaiting   // for an RMID
	stateForeign   // threads are in somebody else's monitoring group
	stateOverlap   // a thread can be counted for one task only
	stateError
	numStates
)

var stateNames = [numStates]string{"monitored", "waiting", "foreign", "overlap", "error"}

// fullPace is how often the kernel is asked for all threads of a group, which is
// what tells that somebody moved one away. With many tasks it is slower: a
// second has room for time.Second/fullEach of them.
const (
	fullPace = 10 * time.Second
	fullEach = 25 * time.Millisecond
)

// followTime bounds the time in a tick to make groups and to move threads. The tasks
// whose turn it was not are the first of the next tick.
const followTime = 50 * time.Millisecond

// monitoring is Resctrl at work.
type monitoring struct {
	*Resctrl
	tree     resctrlTree // nil: there is none now
	mount    resctrl.Mount
	mountNow bool           // if nobody has, once
	made     *resctrl.Mount // to be unmounted at the end, and not opened yet
	rdt      *owca.RDT
	monitors bool // it has RMIDs
	yielded  int  // files that the cgroups keep open less for it
	absent   string
	missing  error // why there is no tree, if it was looked for
	search   backoff
	control  *Control // nil: nobody has asked for it
	cleared  bool     // of all groups, as RemoveAll has it

	tidied  bool // what is left without a task was looked at
	untidy  bool // some could not be removed, and it was told
	tidying backoff
	looked  bool // what an earlier agent left was told

	listed bool // the list of tasks changed
	groups []resctrl.Name
	fresh  bool // groups are of this tick
	list   []resctrl.Usage
	start  [numUrgencies]int // in order: who is followed first
	until  time.Time         // when to stop; zero = not at all

	budget budget

	states                 [numStates]uint64
	moved, errors, refused uint64
	denied                 bool // permission is missing, and it was told
	foreign                bool // so was that
	nested                 bool // and that tasks overlap
	lost                   bool // and that a group was removed

	failed  int // in this tick
	failure error

	readings owca.Measurements
}

// backoff is when to try again what failed, later and later.
type backoff struct{ tick, wait uint64 }

func (b *backoff) due(tick uint64) bool { return tick >= b.tick }

func (b *backoff) failed(tick, most uint64) {
	b.wait = min(max(1, 2*b.wait), most)
	b.tick = tick + b.wait
}

func (b *backoff) reset() { *b = backoff{} }

// watching is resctrl's side of one task.
type watching struct {
	watch   resctrlWatch // nil: not watched
	threads resctrl.Lister
	overlap bool
	inner   []*taskState // with overlap: those whose the threads are that are not its
	same    bool         // all are: its cgroups are those of the others

	from  string // the control group that it was moved from
	moved bool   // it was

	epoch    int
	followed bool // all threads that there were are in the group
	again    bool // there may be more
	foreign  bool // somebody else has some
	err      error
	retry    backoff

	urgency  int    // of this tick
	pids     uint64 // of the task when it was last followed
	havePids bool
	full     time.Time // when the next full pass is due; zero = at once
	empty    int       // full passes on end that found none of the threads it has

	claim claim
}

// monitored says whether there is a monitoring group.
func (w *watching) monitored() bool { return w.watch != nil && w.watch.Name().Monitor != "" }

func (w *watching) state() int {
	switch {
	case w.overlap:
		return stateOverlap
	case w.err != nil:
		return stateError
	case !w.monitored():
		return stateWaiting
	case w.foreign:
		return stateForeign
	}
	return stateMonitored
}

// SetResctrl makes t monitor its tasks, or with nil end it and undo what it did. Groups
// and counters go on, unless resctrl has to be mounted with other options; then the
// counters do. What owca mounted is unmounted at the end.
func (t *Tasks) SetResctrl(n *Resctrl) {
	if n == nil {
		t.stopMonitoring()
		return
	}
	made := n.made
	n.made = nil
	c := t.monitoring
	if c == nil {
		t.monitoring = &monitoring{Resctrl: n, made: made, mountNow: n.options.Mount && !n.options.ReadOnly, listed: true}
		return
	}
	before := c.options
	c.Resctrl = n
	c.budget.ranked, c.denied = false, false
	c.search.reset()
	if made != nil {
		c.made = made
	}
	if c.tree != nil && !c.monitors && before.Control != n.options.Control {
		t.reopenResctrl()
	}
	if c.tree == nil || made != nil {
		// The tree was unmounted, if there is one, which the next tick notices.
		c.mountNow = n.options.Mount
		return
	}
	if !n.options.Mount || before.Mount && before.MountOptions == n.options.MountOptions || mountedWith(c.mount, n.options.MountOptions) {
		return
	}
	if !c.mount.Ours {
		c.tellOptions(nil)
		return
	}
	made = t.endMonitoring()
	t.monitoring = &monitoring{
		Resctrl: n, made: made, mountNow: true, listed: true,
		moved: c.moved, errors: c.errors, refused: c.refused,
	}
}

// reopenResctrl has the next tick open resctrl anew, with a claim or without: where nothing
// can be monitored it is only used, and claimed, for control.
func (t *Tasks) reopenResctrl() {
	c := t.monitoring
	for _, k := range t.known {
		t.unwatch(k)
	}
	if c.made == nil && c.mount.Ours {
		m := c.mount
		c.made = &m
	}
	if err := t.closeResctrl(c); err != nil {
		slog.Warn("closing resctrl", "component", "measure", "error", err)
	}
	c.listed = true
}

// stopMonitoring removes our monitoring groups, and unmounts what we mounted.
func (t *Tasks) stopMonitoring() {
	c := t.monitoring
	if c == nil {
		return
	}
	made := t.endMonitoring()
	for _, k := range t.known {
		k.usage = taskUsage{}
	}
	if made == nil {
		return
	}
	if err := c.fs.Unmount(*made); err != nil {
		if !errors.Is(err, resctrl.ErrGone) {
			slog.Warn("resctrl was mounted by owca and stays so", "component", "measure", "dir", made.Dir, "error", err)
		}
		return
	}
	slog.Info("resctrl unmounted", "component", "measure", "dir", made.Dir)
}

// endMonitoring removes our monitoring groups and returns the mount that is ours to
// unmount, nil if none is.
func (t *Tasks) endMonitoring() *resctrl.Mount {
	c := t.monitoring
	for _, k := range t.known {
		t.unwatch(k)
	}
	t.monitoring = nil
	if c.tree == nil {
		return c.made
	}
	alive := c.tree.Alive() == nil && !c.options.ReadOnly
	kept := alive && c.mount.Ours && c.options.Control && c.keptControl()
	if err := t.closeResctrl(c); err != nil {
		slog.Warn("closing resctrl", "component", "measure", "error", err)
	}
	switch {
	case kept:
		slog.Info("resctrl was mounted by owca and stays so: control groups of tasks are kept in it", "component", "measure", "dir", c.mount.Dir)
		return nil
	case alive && c.mount.Ours:
		return &c.mount
	}
	return c.made
}

// keptControl says whether there is a control group of ours, or may be, which would end with
// the mount.
func (c *monitoring) keptControl() bool {
	groups, err := c.tree.Groups(nil)
	if err != nil {
		slog.Warn("the groups of resctrl cannot be listed: there may be control groups that are to be kept", "component", "measure", "dir", c.mount.Dir, "error", err)
		return true
	}
	return slices.ContainsFunc(groups, func(n resctrl.Name) bool { return n.Monitor == "" && n.Ours() })
}

// closeResctrl closes the tree, which ends the claim, and gives the files back.
func (t *Tasks) closeResctrl(c *monitoring) error {
	t.host.resctrl.Lock()
	defer t.host.resctrl.Unlock()
	t.host.claimed = false
	err := c.tree.Close()
	c.tree, c.rdt = nil, nil
	if t.host.Cgroups != nil {
		t.host.Cgroups.KeepFiles += c.yielded
	}
	c.yielded = 0
	return err
}

// unwatch removes the monitoring group of a task, which has ended or is not to be
// monitored any more.
func (t *Tasks) unwatch(k *taskState) {
	w := &k.watch
	if w.watch == nil {
		return
	}
	c := t.monitoring
	if w.monitored() && !c.options.ReadOnly {
		if err := w.watch.Unmonitor(); err != nil && !errors.Is(err, resctrl.ErrGone) {
			c.errors++
			slog.Warn("a monitoring group of resctrl stays", "component", "measure", "task", k.ID, "group", w.watch.Name(), "error", err)
			c.tidied = false
		} else {
			c.budget.freed(t.tick)
		}
	}
	_ = w.watch.Close() // only read
	*w = watching{}
}

// RDT returns what resctrl can do here; nil if it is not in use now.
func (t *Tasks) RDT() *owca.RDT {
	if t.monitoring == nil {
		return nil
	}
	return t.monitoring.rdt
}

// Monitoring returns what the agent tells of resctrl: nothing if it is not in use.
// The result belongs to t, which reuses it.
func (t *Tasks) Monitoring() owca.Measurements {
	c := t.monitoring
	if c == nil {
		return nil
	}
	c.readings = c.readings[:0]
	put := func(d *owca.Desc, label string, n uint64) {
		c.readings = append(c.readings, owca.Reading{Desc: d, Label: label, Value: owca.Int(n)})
	}
	if c.tree != nil && c.monitors {
		for i, n := range c.states {
			put(owca.AgentResctrlTasks, stateNames[i], n)
		}
		put(owca.AgentResctrlRMIDs, "", uint64(c.rdt.RMIDs))
	}
	put(owca.AgentResctrlRefused, "", c.refused)
	put(owca.AgentResctrlMoved, "", c.moved)
	put(owca.AgentResctrlErrors, "", c.errors)
	return c.readings
}

// monitor is a tick of resctrl: all groups are read, then tasks get groups and their
// threads get there. The error is the first of those that nobody was told of.
func (t *Tasks) monitor(now, listed time.Time) error {
	c := t.monitoring
	if c == nil {
		return nil
	}
	c.failed, c.failure, c.fresh = 0, nil, false
	if !t.openResctrl() || c.options.ReadOnly || !c.monitors && !c.options.Control {
		for _, k := range t.order {
			k.usage.none()
		}
		return c.failure
	}
	for _, k := range t.order {
		t.readUsage(k)
	}
	if err := c.tree.Unknown(); err != nil {
		slog.Warn("a reading of resctrl is none that this version knows, and absent", "component", "measure", "error", err)
	}
	if c.listed {
		t.overlaps()
		c.listed = false
	}
	c.until = time.Time{}
	if t.beside {
		c.until = time.Now().Add(followTime)
	}
	all := true
	for _, k := range t.order {
		if k.watch.watch == nil && t.newWatch(k) && c.late() {
			all = false // as far as it is known
			break
		}
	}
	if all && !c.tidied && !listed.IsZero() && c.tidying.due(t.tick) {
		t.tidy()
	}
	if c.monitors {
		t.share()
	}
	t.followAll(now)

	clear(c.states[:])
	for _, k := range t.order {
		if k.alive > 0 || k.watch.watch != nil {
			c.states[k.watch.state()]++
		}
	}
	c.tellForeign(t)
	if c.failed > 1 {
		return fmt.Errorf("%d tasks cannot be monitored in full; the first: %w", c.failed, c.failure)
	}
	return c.failure
}

// late says whether this tick has spent enough on groups and threads.
func (c *monitoring) late() bool { return !c.until.IsZero() && !time.Now().Before(c.until) }

// fail counts an error of a task. Missing permission is told once, with advice.
func (c *monitoring) fail(k *taskState, err error) {
	c.errors++
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		if !c.denied {
			c.denied = true
			slog.Warn("not every task can be monitored by resctrl: "+resctrlAdvice(err), "component", "measure", "task", k.ID, "error", err)
		}
		return
	}
	if c.failed++; c.failure == nil {
		c.failure = fmt.Errorf("task %s: %w", k.ID, err)
	}
}

// resctrlAdvice says what to do about missing permission.
func resctrlAdvice(err error) string {
	if errors.Is(err, syscall.EROFS) {
		return "it is mounted read only; groups that exist are read"
	}
	return "the agent needs CAP_DAC_OVERRIDE to make groups, and CAP_SETUID to move threads of other users"
}

// openResctrl makes sure that the tree is the one that is mounted.
func (t *Tasks) openResctrl() bool {
	c := t.monitoring
	if c.tree != nil {
		err := c.tree.Alive()
		if err == nil {
			return true
		}
		if !errors.Is(err, resctrl.ErrGone) {
			c.errors++
			c.failure = err
			return false
		}
		t.loseResctrl()
	}
	if !c.search.due(t.tick) {
		return false
	}
	err := t.findResctrl()
	if c.missing = err; err == nil {
		c.search.reset()
		c.absent = ""
		slog.Info("resctrl is in use", "component", "measure", "dir", c.mount.Dir, "options", strings.Join(c.mount.Options, ","),
			"rmids", c.rdt.RMIDs, "closids", c.rdt.CLOSIDs)
		return true
	}
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		c.search.tick = math.MaxUint64 // until the next configuration
	default:
		c.search.failed(t.tick, 16)
	}
	if text := err.Error(); text != c.absent {
		c.absent = text
		switch {
		case errors.Is(err, resctrl.ErrInUse):
			slog.Warn("no cache and memory bandwidth monitoring until the process ends that uses resctrl; there can be one", "component", "measure", "error", err)
		case errors.Is(err, errors.ErrUnsupported) || errors.Is(err, resctrl.ErrNotMounted):
			slog.Info("no cache and memory bandwidth monitoring until resctrl is there", "component", "measure", "error", err)
		default:
			slog.Warn("no cache and memory bandwidth monitoring: resctrl cannot be opened", "component", "measure", "error", err)
		}
	}
	return false
}

// loseResctrl is for a tree that was unmounted: all groups went with it.
func (t *Tasks) loseResctrl() {
	c := t.monitoring
	for _, k := range t.known {
		if k.watch.watch != nil {
			_ = k.watch.watch.Close() // there is nothing behind it
		}
		k.watch = watching{}
	}
	_ = t.closeResctrl(c) // as there
	c.tidied, c.looked, c.listed = false, false, true
	c.tidying = backoff{}
	c.budget = budget{}
	c.search.reset()
	slog.Warn("resctrl was unmounted; monitoring begins anew when it is back", "component", "measure", "dir", c.mount.Dir)
}

// findResctrl opens what is mounted and claims it, after mounting it if that is wanted.
func (t *Tasks) findResctrl() error {
	c := t.monitoring
	m, err := c.fs.Mounted()
	var stays error
	if c.mountNow {
		if err == nil && m.Ours && !mountedWith(m, c.options.MountOptions) {
			// By an agent that ran before, or with the configuration before this one.
			if stays = c.fs.Unmount(m); stays == nil {
				slog.Info("resctrl unmounted, to be mounted with other options", "component", "measure", "dir", m.Dir)
				c.made, err = nil, resctrl.ErrNotMounted
			}
		}
		if errors.Is(err, resctrl.ErrNotMounted) {
			if m, err = c.fs.Mount(c.options.MountOptions); err == nil {
				c.made = &m
			}
		}
	}
	if err != nil {
		return err
	}
	tree, err := t.claimResctrl(m)
	if err != nil {
		return err
	}
	c.tree, c.mount, c.made = tree, m, nil
	if c.mountNow && !mountedWith(m, c.options.MountOptions) {
		c.tellOptions(stays)
	}
	c.mountNow = false
	if c.options.Control && c.options.RemoveAll && !c.options.ReadOnly && !c.cleared {
		c.clear()
	}
	c.rdt = newRDT(tree.Info())
	c.monitors = c.rdt.RMIDs > 0
	t.yieldFiles()
	return nil
}

// clear removes all groups, once.
func (c *monitoring) clear() {
	c.cleared = true
	groups, err := c.tree.Groups(nil)
	if err == nil {
		err = c.tree.RemoveAll()
	}
	switch {
	case err != nil:
		slog.Warn("remove_all_resctrl_groups: groups stay", "component", "measure", "error", err)
	case len(groups) > 1:
		slog.Info("removed all resctrl groups, as remove_all_resctrl_groups has it", "component", "measure", "groups", len(groups)-1)
	}
}

// claimResctrl opens a mount and, if there is anything to monitor or to control, makes sure
// that no other agent does: what one makes the other would remove.
func (t *Tasks) claimResctrl(m resctrl.Mount) (resctrlTree, error) {
	t.host.resctrl.Lock()
	defer t.host.resctrl.Unlock()
	tree, err := t.monitoring.fs.Open(m)
	o := &t.monitoring.options
	if err != nil || o.ReadOnly || tree.Info().RMIDs() == 0 && !o.Control {
		return tree, err
	}
	if err := tree.Claim(); err != nil {
		return nil, errors.Join(err, tree.Close())
	}
	t.host.claimed = true
	return tree, nil
}

// tellOptions logs that what is mounted is used although it has other options than it
// should. stays is why it cannot be unmounted, if owca mounted it.
func (c *monitoring) tellOptions(stays error) {
	log := slog.With("component", "measure", "dir", c.mount.Dir, "options", strings.Join(c.mount.Options, ","))
	if c.mount.Ours {
		log.Warn("resctrl was mounted by owca, with other options than resctrl_mount_options, and cannot be unmounted; it is used as it is", "error", stays)
		return
	}
	log.Warn("resctrl was mounted by somebody else, with other options than resctrl_mount_options; it is used as it is")
}

// yieldFiles shares the files that may stay open with the cgroups.
func (t *Tasks) yieldFiles() {
	c := t.monitoring
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return // then the first that cannot be opened tells
	}
	cgroups := t.host.Cgroups
	if cgroups == nil {
		return // no task is measured
	}
	keep, yield := resctrlFiles(int(min(limit.Cur, 1<<30)), cgroups.KeepFiles)
	c.tree.limitFiles(keep)
	cgroups.KeepFiles -= yield
	c.yielded = yield
}

// resctrlFiles returns how many files the groups of resctrl may keep open in a process
// that may open limit, and how many less than before cgroups may then. A task has
// about 20 files of its cgroup, and three in each domain of its group. What neither
// keeps is for performance counters and all else, as it was.
func resctrlFiles(limit, cgroups int) (keep, yield int) {
	const most = 1 << 16
	reserve := min(max(1024, limit/16), limit/2) // what cgroup.Tree leaves
	spare := max(0, limit-reserve-cgroups)
	keep = min(max(1, cgroups/4, spare/4), most)
	return keep, min(max(0, keep-spare), cgroups)
}

func mountedWith(m resctrl.Mount, o resctrl.MountOptions) bool {
	return slices.Contains(m.Options, "cdp") == o.CDP &&
		slices.Contains(m.Options, "cdpl2") == o.CDPL2 &&
		slices.Contains(m.Options, "mba_MBps") == o.MBps
}

// newRDT puts what resctrl says into the words of package owca.
func newRDT(in *resctrl.Info) *owca.RDT {
	r := &owca.RDT{
		CacheMonitoring:     in.Has("llc_occupancy"),
		BandwidthMonitoring: in.Has("mbm_total_bytes") || in.Has("mbm_local_bytes"),
		RMIDs:               in.RMIDs(), CLOSIDs: in.CLOSIDs(),
	}
	l3 := in.Resource("L3")
	if l3 == nil {
		l3 = in.Resource("L3CODE")
	}
	if l3 != nil {
		r.CacheControl, r.CBMMask, r.MinCBMBits = true, l3.Bits, l3.MinBits
	}
	if mb := in.Resource("MB"); mb != nil {
		r.BandwidthControl, r.MinBandwidth, r.BandwidthGranularity = true, mb.Min, mb.Granularity
	}
	return r
}

// readUsage reads the group of a task.
func (t *Tasks) readUsage(k *taskState) {
	c, w := t.monitoring, &k.watch
	if !w.monitored() || !w.followed {
		k.usage.none()
		return
	}
	var err error
	if c.list, err = w.watch.Read(c.list); err != nil {
		k.usage.none()
		w.again = true
		if !errors.Is(err, resctrl.ErrGone) {
			c.fail(k, err)
		} else if !c.lost {
			c.lost = true
			slog.Warn("monitoring groups are removed by somebody else; they are made anew", "component", "measure", "task", k.ID)
		}
		return
	}
	fresh := w.watch.Epoch() != w.epoch
	w.epoch = w.watch.Epoch()
	k.usage.take(c.list, fresh)
	if w.foreign || w.err != nil {
		// Not all of the task; what is counted goes on.
		k.usage.none()
		return
	}
	k.usage.add()
}

// newWatch begins to watch a task whose cgroups exist. tried: it took time.
func (t *Tasks) newWatch(k *taskState) (tried bool) {
	c, w := t.monitoring, &k.watch
	if w.overlap && (!c.options.Control || w.same) || k.alive == 0 || !w.retry.due(t.tick) {
		return false
	}
	if err := c.listGroups(); err != nil {
		w.failed(c, k, t.tick, err)
		return true
	}
	if w.threads == nil {
		w.threads = func(buf []int) ([]int, error) { return t.appendThreads(buf, k) }
		if w.overlap {
			w.threads = func(buf []int) ([]int, error) { return t.appendOuterThreads(buf, k) }
		}
	}
	groups := c.groups
	if w.overlap {
		groups = nil // one by its name is another's
	}
	paths := make([]string, len(k.members))
	for i, m := range k.members {
		paths[i] = m.path
	}
	watch, err := c.tree.Watch(paths, groups, w.threads)
	if err != nil {
		w.failed(c, k, t.tick, err)
		return true
	}
	w.watch, w.epoch, w.err = watch, watch.Epoch(), nil
	w.retry.reset()
	w.claim = claim{since: t.tick}
	return true
}

// listGroups makes groups those of this tick.
func (c *monitoring) listGroups() (err error) {
	if !c.fresh {
		c.groups, err = c.tree.Groups(c.groups[:0])
		c.fresh = err == nil
	}
	return err
}

func (w *watching) failed(c *monitoring, k *taskState, tick uint64, err error) {
	w.err = err
	w.retry.failed(tick, 16)
	c.fail(k, err)
}

// Why a task is to be followed; what comes first is done first.
const (
	urgencyNew     = iota // nothing of it is counted until then
	urgencyChanged        // it may have threads that are not
	urgencyFull           // a full pass is due; most find nothing
	numUrgencies
)

// followAll moves threads into the groups of their tasks, as long as there is time. Of
// each urgency one task at least has its turn in every tick.
func (t *Tasks) followAll(now time.Time) {
	c := t.monitoring
	var some [numUrgencies]bool
	for _, k := range t.order {
		if k.watch.urgency = t.urgency(k, now); k.watch.urgency < numUrgencies {
			some[k.watch.urgency] = true
		}
	}
	n := len(t.order)
	for u := range numUrgencies {
		first := c.start[u]
		c.start[u] = 0
		for i := 0; some[u] && i < n; i++ {
			at := (first + i) % n
			k := t.order[at]
			if k.watch.urgency != u {
				continue
			}
			due := !now.Before(k.watch.full)
			t.follow(k, now, due && u != urgencyChanged || u == urgencyFull)
			if u == urgencyChanged && due && c.keeps(&k.watch) && k.watch.err == nil {
				k.watch.urgency, some[urgencyFull] = urgencyFull, true
			}
			if c.late() {
				c.start[u] = at + 1
				break
			}
		}
	}
}

// keeps says whether the threads of a task are kept in a group.
func (c *monitoring) keeps(w *watching) bool {
	return w.monitored() || c.options.Control && w.controlled()
}

// urgency says whether a task is to be followed, numUrgencies if not: where nothing
// forks the number of threads stays the same, and children of threads in the group
// are born there. A process that moves in as another one ends is found by the
// next full pass.
func (t *Tasks) urgency(k *taskState, now time.Time) int {
	w := &k.watch
	if w.watch == nil || !w.again && !t.monitoring.keeps(w) || !w.retry.due(t.tick) {
		return numUrgencies
	}
	pids, have := k.sum.Get(cgroup.PIDsCurrent)
	switch {
	case w.err != nil:
		return urgencyFull // threads that were refused are tried again then
	case !w.followed && t.monitoring.keeps(w):
		return urgencyNew
	case w.again || !have || !w.havePids || pids != w.pids:
		return urgencyChanged
	case !now.Before(w.full):
		return urgencyFull
	}
	return numUrgencies
}

// follow looks for threads of a task that are not in its group.
func (t *Tasks) follow(k *taskState, now time.Time, full bool) {
	c, w := t.monitoring, &k.watch
	pids, have := k.sum.Get(cgroup.PIDsCurrent)
	f, err := w.watch.Follow(w.threads, full)
	c.moved += uint64(max(0, f.Moved))
	if f.Strangers > 0 && !w.monitored() {
		// Of those that it knew one may have gone to another task in the same group.
		for _, o := range t.order {
			if o != k && o.watch.watch != nil && o.watch.watch.Name().Control == w.watch.Name().Control {
				o.watch.look()
			}
		}
	}
	if err != nil {
		switch {
		case errors.Is(err, resctrl.ErrNoRMID):
			// Of a group to be made anew: it waits for that as the others do.
			w.again, w.followed = false, false
			if err := w.watch.Unmonitor(); err != nil {
				w.failed(c, k, t.tick, err)
			}
			c.refuse(t.tick, err)
		case errors.Is(err, resctrl.ErrGone):
			w.again = true // what is left is seen in the next tick
		default:
			w.failed(c, k, t.tick, err)
		}
		return
	}
	if w.err = nil; f.Refused > 0 {
		w.failed(c, k, t.tick, fmt.Errorf("%d of %d threads cannot be moved to its monitoring group", f.Refused, f.Threads))
		return
	}
	w.retry.reset()
	if full {
		if w.empty++; f.Threads > 0 || !have || pids == 0 || w.overlap {
			w.empty = 0
		}
		if w.empty > 1 { // once, it may just be ending
			w.failed(c, k, t.tick, fmt.Errorf("%w: it has %d threads, but none with an id here: they are zombies, or the agent must be in the host's pid namespace (hostPID: true, --pid=host)", fs.ErrInvalid, pids))
			return
		}
		pace := max(fullPace, time.Duration(len(t.order))*fullEach)
		if w.full.IsZero() {
			w.full = now.Add(pace - k.phase()%pace)
		} else if !now.Before(w.full) {
			w.full = w.full.Add((now.Sub(w.full)/pace + 1) * pace)
		}
	}
	w.pids, w.havePids = pids, have
	// Where a thread was moved one may have been in the middle of being forked by it.
	w.again = !f.Stable || f.Moved > 0
	w.foreign = f.Foreign > 0
	if !w.followed && c.keeps(w) {
		w.followed = true
		t.readUsage(k)
	}
}

// tellForeign logs when somebody begins to move threads of tasks, and when all are back.
func (c *monitoring) tellForeign(t *Tasks) {
	n := c.states[stateForeign]
	switch {
	case n > 0 && !c.foreign:
		i := slices.IndexFunc(t.order, func(k *taskState) bool { return k.watch.state() == stateForeign })
		slog.Warn("another program has put threads of tasks into resctrl monitoring groups of its own; such tasks are not measured until it gives them back",
			"component", "measure", "tasks", n, "first", t.order[i].ID)
	case n == 0 && c.foreign:
		slog.Info("no thread of a task is in another program's monitoring group any more", "component", "measure")
	}
	c.foreign = n > 0
}

// overlaps finds the tasks whose threads are another's, too. The kernel counts a
// thread in one group, so that of two the inner one is monitored, and of the same
// cgroup the one that is listed first.
func (t *Tasks) overlaps() {
	owner := make(map[string]*taskState, t.members)
	over := make(map[*taskState][]*taskState)
	for _, k := range t.order {
		for _, m := range k.members {
			if owner[m.path] == nil {
				owner[m.path] = k
			} else if owner[m.path] != k {
				over[k] = append(over[k], owner[m.path])
			}
		}
	}
	for _, k := range t.order {
		for _, m := range k.members {
			for dir := m.path; dir != "/" && dir != ""; {
				if dir = dir[:max(0, strings.LastIndexByte(dir, '/'))]; dir == "" {
					dir = "/"
				}
				if outer := owner[dir]; outer != nil && outer != k {
					over[outer] = append(over[outer], k)
				}
			}
		}
	}
	if c := t.monitoring; len(over) > 0 && !c.nested {
		c.nested = true
		i := slices.IndexFunc(t.order, func(k *taskState) bool { return over[k] != nil })
		slog.Info("tasks have the same threads: of nested cgroups the innermost task is monitored by resctrl, of the same cgroup the first",
			"component", "measure", "not_monitored", len(over), "first", t.order[i].ID)
	}
	for _, k := range t.order {
		w := &k.watch
		if (over[k] != nil) != w.overlap {
			t.unwatch(k)
			w.overlap, w.threads = over[k] != nil, nil
		}
		w.inner = over[k]
		w.same = w.overlap && !slices.ContainsFunc(k.members, func(m *member) bool { return owner[m.path] == k })
		if w.same {
			t.unwatch(k)
			w.overlap, w.inner, w.same = true, over[k], true
		}
	}
}

// tidy removes what an agent left that was killed, and what this one could not remove:
// monitoring groups of tasks that have ended, and control groups without a thread.
func (t *Tasks) tidy() {
	c := t.monitoring
	groups, err := c.tree.Groups(nil)
	if err != nil {
		return // the next tick tries again
	}
	c.tidied = true
	watched, named := make(map[resctrl.Name]bool), make(map[string]bool)
	for _, k := range t.order {
		switch {
		case k.watch.watch != nil:
			watched[k.watch.watch.Name()] = true
		case !k.watch.overlap:
			for _, m := range k.members {
				named[resctrl.MonitorName(m.path)] = true // it may be watched later
			}
		}
	}
	kept := func(n resctrl.Name) bool { return watched[n] || named[n.Monitor] }
	removed, failed := 0, error(nil)
	remove := func(n resctrl.Name) {
		if err := c.tree.Remove(n); err != nil {
			c.errors++
			failed = errors.Join(failed, err)
			return
		}
		removed++
	}
	for _, n := range resctrl.Orphans(groups, kept) {
		remove(n)
	}
	var used []string
	for _, n := range groups {
		if n.Monitor != "" || !n.Ours() || c.options.Control {
			continue
		}
		if c.empty(groups, n, kept) {
			remove(n)
		} else {
			used = append(used, n.Control)
		}
	}
	c.budget.counted, c.fresh = 0, false
	switch {
	case removed == 0:
	case c.looked:
		slog.Info("removed resctrl groups that could not be removed before", "component", "measure", "groups", removed)
	default:
		slog.Info("removed resctrl groups that an earlier agent left", "component", "measure", "groups", removed)
	}
	if failed != nil {
		if !c.untidy {
			slog.Warn("resctrl groups without a task could not all be removed; it is tried again", "component", "measure", "error", failed)
		}
		c.tidied = false
		c.tidying.failed(t.tick, 64)
	} else {
		c.tidying.reset()
	}
	c.untidy = failed != nil
	if used != nil && !c.looked {
		slog.Warn("control groups that an earlier agent left have threads in them and stay; owca resctrl clean removes them",
			"component", "measure", "groups", strings.Join(used, " "))
	}
	c.looked = true
}

// empty says whether nothing is in a control group.
func (c *monitoring) empty(groups []resctrl.Name, n resctrl.Name, kept func(resctrl.Name) bool) bool {
	for _, g := range groups {
		if g.Control == n.Control && g.Monitor != "" && (!g.Ours() || kept(g)) {
			return false
		}
	}
	threads, err := c.tree.Threads(n, nil)
	return err == nil && len(threads) == 0
}
