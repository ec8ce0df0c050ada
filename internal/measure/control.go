package measure

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/resctrl"
)

// Control changes what the tasks may use of caches and memory bandwidth: the control
// groups of resctrl. It is of one [Tasks], and used in the same goroutine after its Read,
// in that tick: what was unmounted since is noticed by the next Read.
//
// A task that is moved is kept where it is: in every tick in which it may have new
// threads these are moved to its group, too, whether it is monitored or not.
type Control struct{ tasks *Tasks }

// Control returns what it takes to allocate by resctrl; nil if resctrl is not in use, or
// not for that (see [ResctrlOptions].Control).
func (t *Tasks) Control() *Control {
	c := t.monitoring
	if c == nil || !c.options.Control {
		return nil
	}
	if c.control == nil {
		c.control = &Control{t}
	}
	return c.control
}

// Info returns what can be allocated, in the domains that are online; nil if nothing can be
// now.
func (c *Control) Info() *resctrl.Info {
	if c.Err() != nil {
		return nil
	}
	return c.tasks.monitoring.tree.Info()
}

// Err says why Info is nil: errors.ErrUnsupported, [resctrl.ErrNotMounted],
// [resctrl.ErrInUse], syscall.EROFS, and what else kept resctrl from being opened.
func (c *Control) Err() error {
	m := c.tasks.monitoring
	switch {
	case m == nil:
		return fmt.Errorf("%w: it is not in use any more", resctrl.ErrGone)
	case m.tree == nil && m.missing != nil:
		return m.missing
	case m.tree == nil:
		return fmt.Errorf("%w: not looked for yet", resctrl.ErrNotMounted)
	case m.tree.Info().CLOSIDs() == 0:
		return fmt.Errorf("resctrl: %w by this host: it has nothing to allocate", errors.ErrUnsupported)
	case m.mount.ReadOnly && !m.options.ReadOnly:
		return fmt.Errorf("%s is mounted read only: %w", m.mount.Dir, syscall.EROFS)
	}
	return nil
}

// Control returns all control groups, the default one first, and the directory of that of
// each task, by its id; a task without a cgroup now is in none. Of monitoring groups
// ([resctrl.ControlGroup].Monitors) there are only those of other programs: the agent's make
// room for control groups. The kernel looks at all threads of the host for each group.
func (c *Control) Control() (groups []resctrl.ControlGroup, tasks map[string]string, err error) {
	if err := c.Err(); err != nil {
		return nil, nil, err
	}
	t := c.tasks
	if groups, err = t.monitoring.tree.ControlGroups(); err != nil {
		return nil, nil, err
	}
	for i := range groups {
		groups[i].Monitors = slices.DeleteFunc(groups[i].Monitors, func(dir string) bool {
			return resctrl.Name{Monitor: dir}.Ours()
		})
	}
	tasks = make(map[string]string, len(t.order))
	for _, k := range t.order {
		if k.watch.watch == nil {
			t.newWatch(k)
		}
		if dir, ok := c.Where(k.ID); ok {
			tasks[string(k.ID)] = dir
		}
	}
	return groups, tasks, nil
}

// Where returns the directory of the control group of a task as of its last look at its
// threads, at no cost: a removal of the group is seen in the next tick where it is
// monitored, and otherwise, as a move by somebody else, within some ten seconds. ok is
// false of a task that is not watched, as while it has no cgroup.
func (c *Control) Where(task owca.TaskID) (dir string, ok bool) {
	if k := c.tasks.known[task]; k != nil {
		return k.watch.where()
	}
	return "", false
}

func (w *watching) where() (control string, ok bool) {
	if w.same {
		w = &w.inner[0].watch
	}
	if w.watch == nil {
		return "", false
	}
	return w.watch.Name().Control, true
}

// Schemata returns what a control group may use, in one read. [resctrl.ErrGone] if there is
// no such group any more; the errors of Err.
func (c *Control) Schemata(group string) (resctrl.Schemata, error) {
	if err := c.Err(); err != nil {
		return nil, err
	}
	return c.tasks.monitoring.tree.Schemata(group)
}

// Do makes a change; errors are those of [resctrl.Tree.Do], and of [resctrl.Watch.Move] for a
// MoveTask.
//
// MoveTask moves the threads of the task, with its monitoring group and what that
// counted; the threads of a task that is nested in it are not its. It wraps
// [cgroup.ErrGone] where the task has ended, and [resctrl.ErrGone] where one of the
// groups has. CreateGroup for which there is no RMID takes that of the task that is least
// worth monitoring; as the cache lines of its group have to be evicted first, the error
// is [resctrl.ErrNoRMID] all the same, and the group can be made some ticks later: until
// then no task gets an RMID that becomes free. It returns the schemata in effect of a
// SetSchemata.
func (c *Control) Do(change resctrl.Change) (resctrl.Schemata, error) {
	if err := c.writable(); err != nil {
		return nil, err
	}
	t, tree := c.tasks, c.tasks.monitoring.tree
	t.monitoring.fresh = false // the list of groups
	switch change.Kind {
	case resctrl.CreateGroup:
		effect, err := tree.Do(change)
		t.madeControl(change.Group, err)
		return effect, err
	case resctrl.RemoveGroup:
		return nil, c.remove(change.Group, func() error { _, err := tree.Do(change); return err })
	case resctrl.MoveTask:
		return nil, t.moveTask(change.Task, change.Group)
	}
	return tree.Do(change)
}

// Undo undoes a change, as far as the host is still as the change left it (see
// [resctrl.Tree.Undo]): a task that is in the group goes back to the one that it came from,
// or to the default group if that is gone. A task that has ended is no error.
func (c *Control) Undo(change resctrl.Change) error {
	if err := c.writable(); err != nil {
		return err
	}
	t, tree := c.tasks, c.tasks.monitoring.tree
	t.monitoring.fresh = false
	switch change.Kind {
	case resctrl.CreateGroup:
		return c.remove(change.Group, func() error { return tree.Undo(change) })
	case resctrl.MoveTask:
		return c.moveBack(change)
	}
	return tree.Undo(change)
}

func (c *Control) writable() error {
	if err := c.Err(); err != nil {
		return err
	}
	if c.tasks.monitoring.options.ReadOnly {
		return fmt.Errorf("resctrl is only read here: %w", syscall.EROFS)
	}
	return nil
}

// remove removes a control group. What holds it may be threads that were being forked as
// their tasks left; these are looked for.
func (c *Control) remove(group string, try func() error) error {
	t := c.tasks
	err := try()
	if errors.Is(err, syscall.EBUSY) {
		for _, k := range t.order {
			if w := &k.watch; w.watch != nil && w.moved && w.from == group {
				if _, failed := w.watch.Follow(w.threads, false); failed != nil {
					err = errors.Join(err, fmt.Errorf("task %s, which was in it: %w", k.ID, failed))
				}
			}
		}
		if retried := try(); retried == nil || !errors.Is(retried, syscall.EBUSY) {
			err = retried
		}
	}
	if err == nil {
		t.monitoring.budget.counted = 0
		for _, k := range t.order {
			if w := &k.watch; w.watch != nil && w.watch.Name().Control == group {
				w.look() // it has no threads, or they have just come
			}
		}
	}
	return err
}

// moveTask moves one task to a control group that exists.
func (t *Tasks) moveTask(id, group string) error {
	k := t.known[owca.TaskID(id)]
	if k == nil {
		return fmt.Errorf("task %s: %w", id, cgroup.ErrGone)
	}
	w := &k.watch
	if w.same {
		if dir, ok := w.where(); ok && dir == group {
			return nil
		}
		return fmt.Errorf("task %s: its threads are task %s's, which has the same cgroup: %w", id, w.inner[0].ID, fs.ErrInvalid)
	}
	if w.watch == nil {
		w.retry.reset()
		if tried := t.newWatch(k); w.watch == nil && !tried {
			return fmt.Errorf("task %s: %w", id, cgroup.ErrGone)
		}
		if w.watch == nil {
			return fmt.Errorf("task %s: %w", id, w.err)
		}
	}
	from := w.watch.Name().Control
	err := w.watch.Move(group, w.threads)
	if now := w.watch.Name().Control; now != from {
		w.from, w.moved = from, true
	}
	w.again = true // a thread may have been in the middle of being forked
	if err != nil {
		w.look()
		return fmt.Errorf("task %s: %w", id, err)
	}
	return nil
}

func (c *Control) moveBack(change resctrl.Change) error {
	t := c.tasks
	k := t.known[owca.TaskID(change.Task)]
	if k == nil || k.watch.same {
		return nil
	}
	if k.watch.watch == nil {
		t.newWatch(k)
	}
	if dir, ok := c.Where(k.ID); !ok || dir != change.Group {
		return k.watch.err
	}
	err := t.moveTask(change.Task, change.From)
	if errors.Is(err, resctrl.ErrGone) && change.From != "" {
		err = t.moveTask(change.Task, "")
	}
	if errors.Is(err, cgroup.ErrGone) {
		return nil
	}
	return err
}

// controlled says whether the task is in a control group, which its threads are to be
// kept in.
func (w *watching) controlled() bool { return w.watch != nil && w.watch.Name().Control != "" }

// look has the next tick look at all threads.
func (w *watching) look() { w.again, w.full = true, time.Time{} }

// appendOuterThreads is appendThreads of a task, less the threads that are of tasks within it
// or with the same cgroup.
func (t *Tasks) appendOuterThreads(buf []int, k *taskState) ([]int, error) {
	buf, err := t.appendThreads(buf, k)
	if err != nil {
		return buf, err
	}
	var others []int
	for _, inner := range k.watch.inner {
		if others, err = t.appendThreads(others, inner); err != nil {
			return buf, err
		}
	}
	slices.Sort(others)
	return slices.DeleteFunc(buf, func(tid int) bool {
		_, found := slices.BinarySearch(others, tid)
		return found
	}), nil
}
