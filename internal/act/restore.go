package act

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/resctrl"
)

// Outcome is what became of one lease in a restore.
type Outcome struct {
	Lease
	How End   // "" with an Err
	Err error // the value could not be restored; the lease is still held
}

// ErrLost is that leases are lost, as some of the journal cannot be read.
var ErrLost = errors.New("the journal was damaged")

// Restore undoes the leases of a journal without an agent, in reverse order, and returns
// what became of each. A value that is neither what the agent wrote nor what was before
// stays: it is somebody else's. Errors: those of [OpenJournal], and, when all others were
// restored, ErrLost; those of single leases are in the outcomes. A disk that is full or
// read-only is no obstacle; told says then that the ends of the leases could not be written
// down. A dir that does not exist, or that no agent has used, has no leases, and is left alone.
func Restore(ctx context.Context, root, dir string) (outcomes []Outcome, told []string, err error) {
	if err := wasUsed(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	} else if err != nil {
		return nil, nil, err
	}
	j, told, err := openJournal(dir, asRestorer)
	if err != nil {
		return nil, nil, err
	}
	if j.void > 0 {
		told = append(told, fmt.Sprintf("%d leases of an earlier boot are void", j.void))
	}
	outcomes, err = j.restore(ctx, root)
	// What cannot be written is no failure: the next to read it finds the old values in place.
	if err := j.Close(); err != nil {
		told = append(told, err.Error())
	}
	if err == nil {
		err = j.lost
	}
	return outcomes, told, err
}

// restore undoes all leases; the error is that the host's cgroups are not found.
func (j *Journal) restore(ctx context.Context, root string) ([]Outcome, error) {
	leases := j.Leases()
	if len(leases) == 0 {
		return nil, nil
	}
	tree, err := cgroup.FS{Root: root}.Tree()
	if err != nil {
		return nil, err
	}
	groups := &hostGroups{root: root, tree: tree, leases: leases}
	defer groups.close()
	r := newRestorer(tree, groups)
	var outcomes []Outcome
	r.undoAll(ctx, leases, func(l *Lease, how End, err error) {
		outcomes = append(outcomes, Outcome{*l, how, err})
		if err == nil {
			j.End(l.Target, how)
		}
	})
	return outcomes, nil
}

// Groups is what act needs of resctrl. Package measure has one, because the same groups
// monitor the tasks; restore has its own.
type Groups interface {
	// Info returns nil if nothing can be allocated now; then Err says why.
	Info() *resctrl.Info
	Err() error
	// Control returns all control groups, and the directory of that of each task.
	Control() (groups []resctrl.ControlGroup, tasks map[string]string, err error)
	// Do makes a change, a MoveTask included, and returns the schemata in effect of a
	// SetSchemata. What a change needs freed of monitoring groups is freed.
	Do(resctrl.Change) (resctrl.Schemata, error)
	// Undo undoes one, a MoveTask included.
	Undo(resctrl.Change) error
}

// restorer undoes leases. It lists resctrl once: make one for each occasion.
type restorer struct {
	tree   *cgroup.Tree
	groups Groups

	listed   bool // controls and tasks are
	controls map[string]resctrl.Schemata
	tasks    map[string]string
	listErr  error
}

func newRestorer(tree *cgroup.Tree, groups Groups) *restorer {
	return &restorer{tree: tree, groups: groups}
}

// undoAll undoes leases, the last one first, and calls each for every one of them, with how
// it ended or why it could not be. What the kernel refuses is tried again after the others,
// as long as some can be: a parent may have to be restored before its child (v1: EINVAL,
// EBUSY).
func (r *restorer) undoAll(ctx context.Context, leases []*Lease, each func(*Lease, End, error)) {
	rest := slices.SortedFunc(slices.Values(leases), func(a, b *Lease) int { return bySeq(b, a) })
	widened := false
	for patience := removalPatience; ; {
		var (
			again    []*Lease
			failures []error
		)
		for _, l := range rest {
			how, err := End(""), ctx.Err()
			if err == nil {
				how, err = r.undo(l)
			}
			if err != nil {
				again, failures = append(again, l), append(failures, err)
				continue
			}
			each(l, how, nil)
		}
		if len(again) > 0 && len(again) == len(rest) && patience > 0 && againLater(again, failures) && ctx.Err() == nil {
			patience -= removalPace
			select {
			case <-ctx.Done():
			case <-time.After(removalPace):
			}
			continue
		}
		if len(again) > 0 && len(again) == len(rest) && !widened && ctx.Err() == nil {
			if widened = true; r.widen(again, failures) {
				continue
			}
		}
		if len(again) == 0 || len(again) == len(rest) || ctx.Err() != nil {
			for i, l := range again {
				each(l, "", failures[i])
			}
			return
		}
		rest = again
	}
}

// V1 compares a quota with those of cgroups below that were removed until RCU has done with
// them (walk_tg_tree_from, kernel/sched/core.c): what it refuses may be possible then.
const (
	removalPatience = 100 * time.Millisecond
	removalPace     = 10 * time.Millisecond
)

// undo restores what was before one lease, unless it is somebody else's now, or gone.
func (r *restorer) undo(l *Lease) (End, error) {
	if l.Cgroup == "" {
		return r.undoResctrl(l)
	}
	c, err := r.tree.Control(l.Cgroup)
	if errors.Is(err, fs.ErrNotExist) {
		return EndGone, nil
	}
	if err != nil {
		return "", err
	}
	defer c.Close()
	now, err := c.Get(l.Knob)
	switch {
	case goneFile(err):
		return EndGone, nil
	case err != nil:
		return "", err
	case c.ID(l.Knob) != l.ID:
		return EndGone, nil
	case l.Knob.Equal(now, l.First):
		return EndRestored, nil
	case l.ours(now):
	case hiddenWeight(c, l.Knob):
		// It has no weight to be seen, and none can be set: cpu.idle is to be undone first.
		return "", fmt.Errorf("%s back to %s: the cgroup is idle: %w", c.File(l.Knob), l.First, syscall.EINVAL)
	default:
		return EndForeign, nil
	}
	if err := setBack(c, l.Knob, l.First); err != nil {
		if goneFile(err) {
			return EndGone, nil
		}
		return "", fmt.Errorf("%s back to %s: %w", c.File(l.Knob), l.First, err)
	}
	return EndRestored, nil
}

// ours says whether a value is one that we may have left: that before the last change, which
// may not have been made, what it was to be, or what is between them.
func (l *Lease) ours(value string) bool {
	return l.Knob.Mixes(value, l.First, l.Old, l.New) || value != "" && value == l.widened(l.New)
}

// widen has cpusets that cannot become what they were, because of those below them, which
// cannot either because of them (v1: EBUSY, EACCES), have both for a moment.
func (r *restorer) widen(leases []*Lease, failures []error) (done bool) {
	for i, l := range leases {
		wide := l.widened(l.New)
		if wide == "" || !errors.Is(failures[i], syscall.EBUSY) {
			continue
		}
		c, err := r.tree.Control(l.Cgroup)
		if err != nil {
			continue // the next look at it tells
		}
		done = c.Set(l.Knob, wide) == nil || done
		_ = c.Close()
	}
	return done
}

// widened is the list of First and another value; "" of what is no list.
func (l *Lease) widened(value string) string {
	if l.Knob != cgroup.CPUSetCPUList && l.Knob != cgroup.CPUSetMemList || l.First == "" || value == "" {
		return ""
	}
	set, err := parseSet(l.First + "," + value)
	if err != nil {
		return ""
	}
	return set.String()
}

func againLater(leases []*Lease, failures []error) bool {
	for i, l := range leases {
		if l.Cgroup != "" && l.Knob == cgroup.CPUMax && errors.Is(failures[i], syscall.EINVAL) {
			return true
		}
	}
	return false
}

// setBack sets a knob to what was before. Limits of disks that there are not any more are left
// out.
func setBack(c *cgroup.Control, k cgroup.Knob, first string) error {
	err := c.Set(k, first)
	if k != cgroup.IOMaxLimits || !errors.Is(err, syscall.ENODEV) {
		return err
	}
	now, err := c.Get(k)
	if err != nil {
		return err
	}
	var left []string
	for line := range strings.SplitSeq(first, "\n") {
		device, _, _ := strings.Cut(line, " ")
		others := slices.DeleteFunc(strings.Split(now, "\n"), func(l string) bool {
			return l == "" || strings.HasPrefix(l, device+" ")
		})
		if err := c.Set(k, strings.Join(append(others, line), "\n")); !errors.Is(err, syscall.ENODEV) {
			left = append(left, line) // another error comes again
		}
	}
	return c.Set(k, strings.Join(left, "\n"))
}

// hiddenWeight says whether a knob is the weight of a cgroup that is idle.
func hiddenWeight(c *cgroup.Control, k cgroup.Knob) bool {
	if k != cgroup.CPUSharesV1 && k != cgroup.CPUWeightV2 {
		return false
	}
	idle, err := c.Get(cgroup.CPUIdleFlag)
	return err == nil && idle == "1"
}

// goneFile says whether an error is that the cgroup, or its controller, is not there any more.
func goneFile(err error) bool {
	return errors.Is(err, cgroup.ErrGone) || errors.Is(err, errors.ErrUnsupported)
}

func (r *restorer) undoResctrl(l *Lease) (End, error) {
	if !r.listed {
		r.list()
	}
	if goneResctrl(r.listErr) {
		return EndGone, nil
	}
	if r.listErr != nil {
		return "", r.listErr
	}
	c, before := *l.Resctrl, resctrl.Change{Group: l.Resctrl.Group}
	if l.Before != nil {
		before = *l.Before
	}
	now, exists := r.controls[c.Group]
	how := EndRestored
	switch {
	case c.Kind == resctrl.MoveTask:
		at, ok := r.tasks[c.Task]
		switch {
		case !ok && c.From == "" && !exists && !r.isGroup(before.Group):
			return EndRestored, nil // where the kernel moved it
		case !ok && slices.ContainsFunc(l.Cgroups, r.exists):
			return "", fmt.Errorf("task %s back to group %s: %w", c.Task, resctrl.Name{Control: c.From}, r.whyNot(c.Task))
		case !ok:
			return EndGone, nil
		case at == c.From:
			return EndRestored, nil
		case at == c.Group, at == before.Group, at == "" && !exists: // where the kernel moved it
		default:
			return EndForeign, nil
		}
		if _, ok := r.controls[c.From]; !ok {
			c.From = "" // where it would be
		}
		if at == c.From {
			return EndRestored, nil
		}
		c.Group = at // of a move that was not made, where it is from
	case !exists:
		return EndGone, nil
	case c.Kind == resctrl.SetSchemata && foreignSchemata(now, c.Old, c.New, before.New):
		how = EndForeign // those values; the others are restored
	}
	err := r.groups.Undo(c)
	if err == nil && c.Kind == resctrl.SetSchemata && len(before.New) > 0 {
		c.New = before.New
		err = r.groups.Undo(c)
	}
	switch {
	case errors.Is(err, resctrl.ErrGone), errors.Is(err, cgroup.ErrGone):
		return EndGone, nil
	case err != nil:
		return "", err
	}
	if c.Kind == resctrl.CreateGroup {
		delete(r.controls, c.Group)
	}
	return how, nil
}

func (r *restorer) isGroup(dir string) bool {
	_, ok := r.controls[dir]
	return ok
}

// whyNot is why a task is not in the list of who has the groups.
func (r *restorer) whyNot(task string) error {
	if g, ok := r.groups.(*hostGroups); ok && g.failed[task] != nil {
		return g.failed[task]
	}
	return errNoTask
}

// exists says whether there is a cgroup of this path.
func (r *restorer) exists(path string) bool {
	c, err := r.tree.Control(path)
	return err == nil && c.Close() == nil
}

func (r *restorer) list() {
	r.listed = true
	if r.groups.Info() == nil {
		r.listErr = r.groups.Err()
		return
	}
	var groups []resctrl.ControlGroup
	if groups, r.tasks, r.listErr = r.groups.Control(); r.listErr != nil {
		return
	}
	r.controls = make(map[string]resctrl.Schemata, len(groups))
	for _, g := range groups {
		r.controls[g.Name] = g.Schemata
	}
}

// goneResctrl says whether an error of listing the groups is that there is no resctrl: with
// the mount, all groups are gone.
func goneResctrl(err error) bool {
	return errors.Is(err, resctrl.ErrGone) || errors.Is(err, resctrl.ErrNotMounted) || errors.Is(err, errors.ErrUnsupported)
}

// foreignSchemata says whether a value that is leased, one of old, is now neither that nor
// any that we wrote. Domains that are offline are nobody's.
func foreignSchemata(now, old resctrl.Schemata, ours ...resctrl.Schemata) bool {
	for _, line := range old {
		for _, d := range line.Domains {
			is, ok := now.Get(line.Resource, d.ID)
			if !ok || is == d.Value {
				continue
			}
			if !slices.ContainsFunc(ours, func(s resctrl.Schemata) bool {
				v, ok := s.Get(line.Resource, d.ID)
				return ok && v == is
			}) {
				return true
			}
		}
	}
	return false
}

// hostGroups are Groups without an agent, for the tasks of some leases. It is opened at
// first use.
type hostGroups struct {
	root   string
	tree   *cgroup.Tree
	leases []*Lease

	opened  bool
	resctrl *resctrl.Tree
	err     error
	cgroups []*cgroup.Group
	tasks   map[string]*groupTask
	// failed is why other tasks cannot be moved, and stuck the groups that they are in.
	failed map[string]error
	stuck  map[string]bool
}

// groupTask is one that was moved.
type groupTask struct {
	watch  *resctrl.Watch
	lister resctrl.Lister
}

// claimPatience is how long another process may have resctrl: the agent's claim goes with it.
const claimPatience = time.Second

func (g *hostGroups) open() {
	if g.opened {
		return
	}
	g.opened = true
	m, err := resctrl.FS{Root: g.root}.Mounted()
	if err != nil {
		g.err = err
		return
	}
	if g.resctrl, g.err = m.Open(); g.err != nil {
		return
	}
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		g.err = g.resctrl.Claim()
		if errors.Is(g.err, resctrl.ErrThisProcess) {
			g.err = nil // what monitors the tasks here finds them wherever they are moved
		}
		if !errors.Is(g.err, resctrl.ErrInUse) || time.Since(start) > claimPatience {
			break
		}
	}
	if g.err == nil && g.resctrl.Info().CLOSIDs() == 0 {
		g.err = fmt.Errorf("resctrl: nothing can be allocated on this host: %w", errors.ErrUnsupported)
	}
}

func (g *hostGroups) close() {
	for _, c := range g.cgroups {
		_ = c.Close() // read only
	}
	if g.resctrl != nil {
		_ = g.resctrl.Close() // read only
	}
}

// Info is as Groups says.
func (g *hostGroups) Info() *resctrl.Info {
	if g.open(); g.err != nil {
		return nil
	}
	return g.resctrl.Info()
}

// Err is as Groups says.
func (g *hostGroups) Err() error { g.open(); return g.err }

// Control is as Groups says; tasks are those of the leases that still run, less those that
// cannot be moved.
func (g *hostGroups) Control() (groups []resctrl.ControlGroup, tasks map[string]string, err error) {
	if g.open(); g.err != nil {
		return nil, nil, g.err
	}
	if groups, err = g.resctrl.ControlGroups(); err != nil {
		return nil, nil, err
	}
	names, err := g.resctrl.Groups(nil)
	if err != nil {
		return nil, nil, err
	}
	g.tasks, tasks = map[string]*groupTask{}, map[string]string{}
	g.failed, g.stuck = map[string]error{}, map[string]bool{}
	for _, l := range g.leases {
		if l.Resctrl == nil || l.Resctrl.Kind != resctrl.MoveTask {
			continue
		}
		t, err := g.watch(l.Cgroups, names)
		if err != nil {
			g.failed[l.Resctrl.Task], g.stuck[l.Resctrl.Group] = err, true
			continue
		}
		if t != nil {
			g.tasks[l.Resctrl.Task], tasks[l.Resctrl.Task] = t, t.watch.Name().Control
		}
	}
	return groups, tasks, nil
}

// watch finds the threads of a task; nil if all its cgroups are gone.
func (g *hostGroups) watch(paths []string, names []resctrl.Name) (*groupTask, error) {
	opened := len(g.cgroups) // those that close closes
	for _, path := range paths {
		c, err := g.tree.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		g.cgroups = append(g.cgroups, c)
	}
	cgroups := slices.Clone(g.cgroups[opened:])
	if len(cgroups) == 0 {
		return nil, nil
	}
	lister := func(buf []int) ([]int, error) {
		for _, c := range cgroups {
			list, err := c.ThreadsBelow(buf)
			if errors.Is(err, cgroup.ErrGone) {
				continue
			}
			if err != nil {
				return buf, err
			}
			buf = list
		}
		return buf, nil
	}
	w, err := g.resctrl.Watch(paths, names, lister)
	if err != nil {
		return nil, err
	}
	return &groupTask{w, lister}, nil
}

// errNoTask is of a task that is not in the list of who has the groups.
var errNoTask = errors.New("the task is not known")

// move moves a task.
func (g *hostGroups) move(task, to string) error {
	t := g.tasks[task]
	if t == nil {
		return errNoTask
	}
	if err := t.watch.Move(to, t.lister); err != nil {
		return err
	}
	// Those that were being forked.
	_, err := t.watch.Follow(t.lister, false)
	return err
}

// Do is as Groups says.
func (g *hostGroups) Do(c resctrl.Change) (resctrl.Schemata, error) {
	if g.open(); g.err != nil {
		return nil, g.err
	}
	if c.Kind == resctrl.MoveTask {
		return nil, g.move(c.Task, c.Group)
	}
	return g.resctrl.Do(c)
}

// Undo is as Groups says.
func (g *hostGroups) Undo(c resctrl.Change) error {
	if g.open(); g.err != nil {
		return g.err
	}
	if c.Kind == resctrl.MoveTask {
		return g.move(c.Task, c.From)
	}
	err := g.resctrl.Undo(c)
	if c.Kind == resctrl.CreateGroup && g.stuck[c.Group] && errors.Is(err, syscall.EBUSY) {
		// The kernel moves whoever is in it to the default group.
		return g.resctrl.Remove(resctrl.Name{Control: c.Group})
	}
	return err
}
