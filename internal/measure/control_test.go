package measure

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/hosttest"
	"github.com/owca-project/owca/internal/resctrl"
)

func (f *fakeResctrl) RemoveAll() error {
	clear(f.groups)
	clear(f.control)
	return f.stuck
}

func (f *fakeResctrl) ControlGroups() ([]resctrl.ControlGroup, error) {
	list := []resctrl.ControlGroup{{}}
	for c := range f.control {
		list = append(list, resctrl.ControlGroup{Name: c})
	}
	for i := range list {
		for n := range f.groups {
			if n.Control == list[i].Name {
				list[i].Monitors = append(list[i].Monitors, n.Monitor)
			}
		}
	}
	return list, nil
}

func (f *fakeResctrl) Schemata(group string) (resctrl.Schemata, error) {
	if _, ok := f.control[group]; !ok && group != "" {
		return nil, fmt.Errorf("%s: %w", group, resctrl.ErrGone)
	}
	return f.Info().Default(), nil
}

func (f *fakeResctrl) Do(c resctrl.Change) (resctrl.Schemata, error) {
	switch c.Kind {
	case resctrl.CreateGroup:
		n := resctrl.Name{Control: c.Group}
		if f.rmids > 0 {
			if err := f.create(n); err != nil {
				return nil, err
			}
			delete(f.groups, n)
		}
		if f.control == nil {
			f.control = map[string]int{}
		}
		f.control[c.Group] = 0
	case resctrl.RemoveGroup:
		if f.forking > 0 {
			f.forking--
			return nil, syscall.EBUSY
		}
		delete(f.control, c.Group)
	default:
		return c.New, nil
	}
	return nil, nil
}

func (f *fakeResctrl) Undo(c resctrl.Change) error {
	if c.Kind == resctrl.CreateGroup {
		c.Kind = resctrl.RemoveGroup
		_, err := f.Do(c)
		return err
	}
	return nil
}

func (w *fakeWatch) Move(control string, _ resctrl.Lister) error {
	if _, ok := w.of.control[control]; !ok && control != "" {
		return fmt.Errorf("%s: %w", control, resctrl.ErrGone)
	}
	if g := w.of.groups[w.name]; g != nil {
		delete(w.of.groups, w.name)
		w.of.groups[resctrl.Name{Control: control, Monitor: w.name.Monitor}] = g
	}
	w.name.Control = control
	return nil
}

func do(t testing.TB, c *Control, kind resctrl.ChangeKind, group string, task owca.TaskID) {
	t.Helper()
	if _, err := c.Do(resctrl.Change{Kind: kind, Group: group, Task: string(task)}); err != nil {
		t.Fatal(err)
	}
}

func isWhere(t testing.TB, c *Control, task owca.TaskID, want string) {
	t.Helper()
	if got, ok := c.Where(task); got != want || !ok {
		t.Errorf("task %s is in %q (known: %v), want %q", task, got, ok, want)
	}
}

// steady starts n tasks that sleep.
func steady(t testing.TB, name string, n int) (list []owca.Task) {
	t.Helper()
	for i := range n {
		c := hosttest.NewCgroup(t, nil, fmt.Sprint(name, i))
		c.Start("sleep").Done()
		list = append(list, task(c))
	}
	return list
}

// TestControlAbsent: what Control says where there is nothing to control.
func TestControlAbsent(t *testing.T) {
	m := newTasks(t, everything)
	if m.Control() != nil {
		t.Error("control without resctrl")
	}
	f := newFakeResctrl(8)
	f.mounted = false
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{}))
	if m.Control() != nil {
		t.Error("control that nobody asked for")
	}
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{Control: true}))
	c := m.Control()
	if err := c.Err(); !errors.Is(err, resctrl.ErrNotMounted) || c.Info() != nil {
		t.Error(err)
	}
	read(t, m)
	if err := c.Err(); !errors.Is(err, resctrl.ErrNotMounted) {
		t.Error(err)
	}
	f.mounted, f.readOnly = true, true
	for range 4 {
		read(t, m)
	}
	if err := c.Err(); !errors.Is(err, syscall.EROFS) {
		t.Error(err)
	}
	if _, err := c.Do(resctrl.Change{Kind: resctrl.CreateGroup, Group: "owca-a"}); !errors.Is(err, syscall.EROFS) {
		t.Error(err)
	}
	m.SetResctrl(nil)
	if _, _, err := c.Control(); !errors.Is(err, resctrl.ErrGone) {
		t.Error(err)
	}
}

// TestControlMoves: tasks keep what they counted, groups that are left from before are not
// touched, and what is gone is told as that.
func TestControlMoves(t *testing.T) {
	log := testLog(t)
	list := steady(t, "moves", 2)
	a, b := list[0].ID, list[1].ID
	m := newTasks(t, everything)
	f := newFakeResctrl(16)
	f.control = map[string]int{"owca-left": 0, "owca-used": 3}
	f.groups[resctrl.Name{Monitor: "pqos"}] = &fakeGroup{}
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{Control: true}))
	read(t, m, list...)
	c := m.Control()
	if len(f.control) != 2 {
		t.Errorf("control groups %v", f.control)
	}
	logged(t, log, "have threads in them and stay", 0)
	f.of(string(a)).usage = []resctrl.Usage{l3(0, -1, 1, 1000, 600)}
	read(t, m, list...)
	do(t, c, resctrl.CreateGroup, "owca-gold", "")
	do(t, c, resctrl.MoveTask, "owca-gold", a)
	groups, where, err := c.Control()
	if err != nil || where[string(a)] != "owca-gold" || where[string(b)] != "" || len(where) != 2 {
		t.Errorf("%v, %v", where, err)
	}
	for _, g := range groups {
		if g.Name == "" && !slices.Equal(g.Monitors, []string{"pqos"}) || g.Name != "" && len(g.Monitors) > 0 {
			t.Errorf("%+v", g)
		}
	}
	counts(t, read(t, m, list...)[0], owca.TaskMemoryBandwidth, 1000)
	if _, err := c.Schemata("owca-gold"); err != nil {
		t.Error(err)
	}
	if _, err := c.Schemata("owca-none"); !errors.Is(err, resctrl.ErrGone) {
		t.Error(err)
	}

	if _, err := c.Do(resctrl.Change{Kind: resctrl.MoveTask, Group: "owca-gold", Task: "none"}); !errors.Is(err, cgroup.ErrGone) {
		t.Error(err)
	}
	if _, err := c.Do(resctrl.Change{Kind: resctrl.MoveTask, Group: "owca-none", Task: string(b)}); !errors.Is(err, resctrl.ErrGone) {
		t.Error(err)
	}
	// Who is elsewhere by now is not brought back, nor one who has ended.
	for _, change := range []resctrl.Change{{Group: "owca-used", Task: string(a)}, {Group: "owca-gold", Task: "none"}} {
		change.Kind = resctrl.MoveTask
		if err := c.Undo(change); err != nil {
			t.Error(err)
		}
	}
	isWhere(t, c, a, "owca-gold")
	// The group that it came from is gone.
	if err := c.Undo(resctrl.Change{Kind: resctrl.MoveTask, Task: string(a), Group: "owca-gold", From: "owca-gone"}); err != nil {
		t.Error(err)
	}
	isWhere(t, c, a, "")
	// A thread was being forked as the task left.
	f.forking = 1
	follows := f.follows
	if err := c.Undo(resctrl.Change{Kind: resctrl.CreateGroup, Group: "owca-gold"}); err != nil {
		t.Error(err)
	}
	if f.follows != follows+1 {
		t.Errorf("%d tasks were looked at", f.follows-follows)
	}
	f.forking = 5
	if _, err := c.Do(resctrl.Change{Kind: resctrl.RemoveGroup, Group: "owca-used"}); !errors.Is(err, syscall.EBUSY) {
		t.Error(err)
	}
}

// TestControlRMIDs: a control group gets the RMID of the task that is least worth it, and
// no task gets it instead.
func TestControlRMIDs(t *testing.T) {
	log := testLog(t)
	list := steady(t, "rmids", 5)
	list[0].Labels = map[string]string{"qos_class": "besteffort"}
	list[1].Labels = map[string]string{"qos_class": "guaranteed"}
	m := newTasks(t, everything)
	f := newFakeResctrl(6)
	f.limbo = 5
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{Control: true}))
	for range 3 {
		read(t, m, list...)
	}
	inStates(t, m, "monitored 5")
	c := m.Control()
	create := resctrl.Change{Kind: resctrl.CreateGroup, Group: "owca-gold"}
	if _, err := c.Do(create); !errors.Is(err, resctrl.ErrNoRMID) || errors.Is(err, resctrl.ErrLimbo) {
		t.Fatal(err)
	}
	tries := 0
	for {
		read(t, m, list...)
		inStates(t, m, "monitored 4, waiting 1")
		tries++
		if _, err := c.Do(create); err == nil {
			break
		} else if !errors.Is(err, resctrl.ErrLimbo) || tries > 10 {
			t.Fatal(tries, err)
		}
	}
	if tries < 2 || f.of(string(list[0].ID)) != nil {
		t.Errorf("after %d tries: %v", tries, f.groups)
	}
	for range 30 {
		read(t, m, list...)
	}
	inStates(t, m, "monitored 4, waiting 1")
	logged(t, log, "is for a control group", 1)

	// Nobody tries any more: it is a task's again.
	if _, err := c.Do(resctrl.Change{Kind: resctrl.CreateGroup, Group: "owca-silver"}); !errors.Is(err, resctrl.ErrNoRMID) {
		t.Fatal(err)
	}
	read(t, m, list...)
	inStates(t, m, "monitored 3, waiting 2")
	for range patient + 80 {
		read(t, m, list...)
	}
	inStates(t, m, "monitored 4, waiting 1")
}

// TestControlOnly: where nothing is monitored, tasks in a control group are followed, and
// no others.
func TestControlOnly(t *testing.T) {
	list := steady(t, "only", 3)
	m := newTasks(t, everything)
	f := newFakeResctrl(0)
	r, err := m.host.planResctrl(f, ResctrlOptions{})
	if !errors.Is(err, errors.ErrUnsupported) || r == nil || r.RDT() == nil || r.RDT().CLOSIDs != 16 {
		t.Fatal(r, err)
	}
	m.SetResctrl(r)
	read(t, m, list...)
	f.inUse = resctrl.ErrInUse
	if _, err := m.host.planResctrl(f, ResctrlOptions{Control: true}); !errors.Is(err, resctrl.ErrInUse) {
		t.Fatal(err)
	}
	f.inUse = nil
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{Control: true}))
	c := m.Control()
	read(t, m, list...)
	if err := c.Err(); err != nil || !m.host.claimed {
		t.Fatal(err, m.host.claimed)
	}
	do(t, c, resctrl.CreateGroup, "owca-gold", "")
	do(t, c, resctrl.MoveTask, "owca-gold", list[0].ID)
	if f.follows != 0 {
		t.Errorf("%d follows of tasks in the default group", f.follows)
	}
	read(t, m, list...)
	if f.follows != 1 {
		t.Errorf("%d follows", f.follows)
	}
	do(t, c, resctrl.MoveTask, "owca-gold", list[1].ID)
	for range 3 {
		read(t, m, list...)
	}
	full := func() {
		for _, k := range m.order {
			k.watch.full = time.Time{}
		}
		f.fulls = 0
		read(t, m, list...)
	}
	if full(); f.fulls != 2 {
		t.Errorf("%d full passes", f.fulls)
	}
	// What one expels may be the other's.
	f.strangers = map[string]int{"owca-gold": 1}
	m.order[0].watch.full = time.Time{}
	read(t, m, list...)
	f.strangers, f.fulls = nil, 0
	read(t, m, list...)
	if f.fulls == 0 {
		t.Error("the other task in the group was not looked at")
	}
	missing(t, read(t, m, list...)[0], owca.TaskLLCOccupancy)

	// The same agent, without control again.
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{}))
	f.follows = 0
	read(t, m, list...)
	if m.Control() != nil || m.host.claimed || f.follows != 0 {
		t.Error("control goes on", m.host.claimed, f.follows)
	}
}

// TestControlRemoveAll: at the start, once, and as long as there is one with a claim.
func TestControlRemoveAll(t *testing.T) {
	log := testLog(t)
	list := steady(t, "all", 1)
	m := newTasks(t, everything)
	f := newFakeResctrl(8)
	f.control = map[string]int{"gold": 3}
	f.groups[resctrl.Name{Control: "gold", Monitor: "pqos"}] = &fakeGroup{}
	o := ResctrlOptions{Control: true, RemoveAll: true}
	m.SetResctrl(fakePlan(t, f, o))
	read(t, m, list...)
	if len(f.control) != 0 || len(f.groups) != 1 {
		t.Errorf("left: %v, %v", f.control, f.groups)
	}
	logged(t, log, "removed all resctrl groups", 1)
	f.control["silver"] = 0
	m.SetResctrl(fakePlan(t, f, o))
	read(t, m, list...)
	if len(f.control) != 1 {
		t.Error("again by a new configuration")
	}
}

// TestControlKeepsMount: what owca mounted stays as long as it holds control groups.
func TestControlKeepsMount(t *testing.T) {
	for _, left := range []bool{false, true} {
		m := newTasks(t, everything)
		f := newFakeResctrl(8)
		f.mounted = false
		m.SetResctrl(fakePlan(t, f, ResctrlOptions{Control: true, Mount: true}))
		read(t, m)
		do(t, m.Control(), resctrl.CreateGroup, "owca-gold", "")
		if !left {
			do(t, m.Control(), resctrl.RemoveGroup, "owca-gold", "")
		}
		m.SetResctrl(nil)
		if f.mounted != left {
			t.Errorf("mounted: %v, with a group left: %v", f.mounted, left)
		}
	}
}

// TestControlNested: of nested cgroups each thread is in the group of the innermost task.
func TestControlNested(t *testing.T) {
	outer := hosttest.NewCgroup(t, nil, "outer")
	p := outer.Start("threads 2")
	p.Done()
	inner := hosttest.NewCgroup(t, outer, "inner")
	q := inner.Start("threads 3")
	q.Done()
	twin := task(inner)
	twin.ID = "twin"
	list := []owca.Task{task(outer), task(inner), twin}
	m := newTasks(t, everything)
	f := newFakeResctrl(8)
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{Control: true}))
	read(t, m, list...)
	inStates(t, m, "monitored 1, overlap 2")
	c := m.Control()
	threads, err := m.order[0].watch.threads(nil)
	if err != nil || !slices.Contains(threads, p.Pid) || slices.Contains(threads, q.Pid) {
		t.Errorf("threads %v of the outer task, %v; want %d and not %d", threads, err, p.Pid, q.Pid)
	}
	do(t, c, resctrl.CreateGroup, "owca-gold", "")
	do(t, c, resctrl.MoveTask, "owca-gold", list[0].ID)
	read(t, m, list...)
	inStates(t, m, "monitored 1, overlap 2")
	isWhere(t, c, list[0].ID, "owca-gold")
	isWhere(t, c, list[1].ID, "")
	isWhere(t, c, "twin", "")
	if _, err := c.Do(resctrl.Change{Kind: resctrl.MoveTask, Group: "owca-gold", Task: "twin"}); err == nil {
		t.Error("a task moved whose threads are another's")
	}
	do(t, c, resctrl.MoveTask, "", "twin")
	if n := len(f.groups); n != 1 {
		t.Errorf("%d monitoring groups", n)
	}
}
