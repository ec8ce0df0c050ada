package measure

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/hosttest"
	"github.com/owca-project/owca/internal/resctrl"
)

// controlReal makes m control by the real resctrl, and returns what controls.
func controlReal(t testing.TB, m *Tasks, list ...owca.Task) *Control {
	t.Helper()
	r, err := m.host.PlanResctrl(ResctrlOptions{Control: true})
	if err != nil {
		t.Fatal(err)
	}
	m.SetResctrl(r)
	read(t, m, list...)
	return m.Control()
}

// isIn checks that the kernel has all threads of a cgroup in a control group.
func isIn(t testing.TB, dir, group string, c *hosttest.Cgroup) {
	t.Helper()
	g, err := Open("/").Cgroups.Open(c.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	want, err := g.ThreadsBelow(nil)
	if err != nil {
		t.Fatal(err)
	}
	got := ids(t, filepath.Join(dir, group, "tasks"))
	for _, tid := range want {
		if !slices.Contains(got, tid) {
			t.Errorf("thread %d of %s is not in group %q, which has %v", tid, c.Path, group, got)
		}
	}
	if len(want) == 0 {
		t.Errorf("%s has no thread", c.Path)
	}
}

// isOut checks that it has none of them there.
func isOut(t testing.TB, dir, group string, pids ...int) {
	t.Helper()
	got := ids(t, filepath.Join(dir, group, "tasks"))
	for _, pid := range pids {
		if slices.Contains(got, pid) {
			t.Errorf("process %d is in group %q", pid, group)
		}
	}
}

// fulls is a tick with a full pass over all tasks.
func fulls(t testing.TB, m *Tasks, list ...owca.Task) []owca.TaskData {
	t.Helper()
	for _, k := range m.order {
		k.watch.full = time.Time{}
	}
	return read(t, m, list...)
}

// createReal makes a control group, in as many ticks as it takes for an RMID.
func createReal(t testing.TB, m *Tasks, c *Control, group string, list ...owca.Task) (ticks int) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; ticks++ {
		_, err := c.Do(resctrl.Change{Kind: resctrl.CreateGroup, Group: group})
		if err == nil {
			return ticks
		}
		if !errors.Is(err, resctrl.ErrNoRMID) || time.Now().After(end) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond) // of the limbo
		read(t, m, list...)
	}
}

// TestControlResctrl: tasks share a group and keep what they counted; threads that come
// later come into it, and those that are no task's leave it.
func TestControlResctrl(t *testing.T) {
	dir := hosttest.Resctrl(t, "/L3", "/MB", "/L3_MON")
	log := testLog(t)
	m := newTasks(t, everything)
	c := controlReal(t, m)
	var list []owca.Task
	var cgroups []*hosttest.Cgroup
	for i := range 3 {
		g := hosttest.NewCgroup(t, nil, fmt.Sprint("control", i))
		g.Start("threads 3").Done()
		cgroups, list = append(cgroups, g), append(list, task(g))
	}
	read(t, m, list...)
	before := value(t, read(t, m, list...)[0], owca.TaskMemoryBandwidth)

	const gold, silver = "owca-test-gold", "owca-test-silver"
	createReal(t, m, c, gold, list...)
	createReal(t, m, c, silver, list...)
	want, err := c.Info().Parse("L3:0=f\nMB:0=50")
	if err != nil {
		t.Fatal(err)
	}
	set := resctrl.Change{Kind: resctrl.SetSchemata, Group: gold, New: want}
	if set.Old, err = c.Schemata(gold); err != nil {
		t.Fatal(err)
	}
	effect, err := c.Do(set)
	if err != nil {
		t.Fatal(err)
	}
	if v, _ := effect.Get("L3", 0); v != 0xf {
		t.Errorf("in effect: %v", effect)
	}
	do(t, c, resctrl.MoveTask, gold, list[0].ID)
	do(t, c, resctrl.MoveTask, gold, list[1].ID)
	do(t, c, resctrl.MoveTask, silver, list[2].ID)
	for i, group := range []string{gold, gold, silver} {
		isIn(t, dir, group, cgroups[i])
		isWhere(t, c, list[i].ID, group)
	}
	groups, where, err := c.Control()
	if err != nil || len(groups) != 3 || where[string(list[1].ID)] != gold {
		t.Errorf("%+v, %v, %v", groups, where, err)
	}
	if after := value(t, read(t, m, list...)[0], owca.TaskMemoryBandwidth); after < before {
		t.Errorf("the total fell from %v to %v", before, after)
	}
	inStates(t, m, "monitored 3")

	// One is born there, another one comes from elsewhere.
	cgroups[0].Start("threads 2").Done()
	late := cgroups[2].Start("threads 2")
	late.Done()
	read(t, m, list...)
	read(t, m, list...)
	isIn(t, dir, gold, cgroups[0])
	isIn(t, dir, silver, cgroups[2])

	// From one task to another, and to none.
	p := cgroups[0].Start("threads 2")
	p.Done()
	read(t, m, list...)
	cgroups[2].Add(p.Pid)
	fulls(t, m, list...)
	fulls(t, m, list...)
	isIn(t, dir, silver, cgroups[2])
	other := hosttest.NewCgroup(t, nil, "elsewhere")
	other.Add(p.Pid)
	for range 10 { // one full pass in eight looks for strangers of few threads
		fulls(t, m, list...)
	}
	isOut(t, dir, silver, p.Pid)

	// Somebody removes the group of two.
	for _, file := range []string{filepath.Join(dir, gold)} {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		fulls(t, m, list...)
	}
	isWhere(t, c, list[0].ID, "")
	isWhere(t, c, list[1].ID, "")
	if _, err := c.Schemata(gold); !errors.Is(err, resctrl.ErrGone) {
		t.Error(err)
	}
	inStates(t, m, "monitored 3")

	if err := c.Undo(resctrl.Change{Kind: resctrl.MoveTask, Group: silver, From: gold, Task: string(list[2].ID)}); err != nil {
		t.Error(err)
	}
	isWhere(t, c, list[2].ID, "")
	for _, group := range []string{silver, gold} {
		if err := c.Undo(resctrl.Change{Kind: resctrl.CreateGroup, Group: group}); err != nil {
			t.Error(err)
		}
	}
	if groups, _, err = c.Control(); err != nil || len(groups) != 1 {
		t.Errorf("%+v, %v", groups, err)
	}
	read(t, m, list...)
	inStates(t, m, "monitored 3")
	logged(t, log, "level=ERROR", 0)
	logged(t, log, "level=WARN", 1) // the monitoring groups that went with gold
}

// TestControlResctrlKernel: whatever a host can control, with monitoring or without.
func TestControlResctrlKernel(t *testing.T) {
	dir := hosttest.Resctrl(t)
	m := newTasks(t, everything)
	c := controlReal(t, m)
	var list []owca.Task
	var cgroups []*hosttest.Cgroup
	for i := range 3 {
		g := hosttest.NewCgroup(t, nil, fmt.Sprint("kernel", i))
		g.Start("threads 3").Done()
		cgroups, list = append(cgroups, g), append(list, task(g))
	}
	for range 2 {
		read(t, m, list...)
	}
	if m.RDT().CLOSIDs == 0 {
		if err := c.Err(); !errors.Is(err, errors.ErrUnsupported) || c.Info() != nil {
			t.Error(err)
		}
		return
	}
	const gold = "owca-test-gold"
	createReal(t, m, c, gold, list...)
	set := resctrl.Change{Kind: resctrl.SetSchemata, Group: gold}
	for _, r := range c.Info().Resources {
		if r.Kind == resctrl.Mask && len(set.New) == 0 {
			low := uint64(1)<<max(r.MinBits, 2) - 1
			set.New = resctrl.Schemata{{Resource: r.Name, Kind: r.Kind, Domains: []resctrl.DomainValue{{ID: r.Domains[0], Value: low}}}}
		}
	}
	if len(set.New) > 0 {
		effect, err := c.Do(set)
		if err != nil {
			t.Fatal(err)
		}
		now, err := c.Schemata(gold)
		if err != nil || now.String() != effect.String() {
			t.Errorf("%v, afterwards %v, %v", effect, now, err)
		}
	}
	do(t, c, resctrl.MoveTask, gold, list[0].ID)
	do(t, c, resctrl.MoveTask, gold, list[1].ID)
	isIn(t, dir, gold, cgroups[0])
	isIn(t, dir, gold, cgroups[1])
	// It is the task that is in the group, not its threads of now.
	cgroups[0].Start("threads 2").Done()
	q := cgroups[1].Start("threads 4")
	q.Done()
	read(t, m, list...)
	read(t, m, list...)
	isIn(t, dir, gold, cgroups[0])
	isIn(t, dir, gold, cgroups[1])

	// Between two tasks of the group it stays there, and does not in a third cgroup.
	cgroups[0].Add(q.Pid)
	for range 3 {
		fulls(t, m, list...)
	}
	isIn(t, dir, gold, cgroups[0])
	cgroups[2].Add(q.Pid)
	for range 10 {
		fulls(t, m, list...)
	}
	isOut(t, dir, gold, q.Pid)
	isIn(t, dir, "", cgroups[2])
	monitors := m.RDT().RMIDs > 0
	for _, d := range read(t, m, list...) {
		hasResctrl(t, d, monitors && m.RDT().CacheMonitoring)
	}

	// Who only looks sees the same, and leaves it.
	look := newTasks(t, everything)
	r, err := look.host.PlanResctrl(ResctrlOptions{Control: true, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	look.SetResctrl(r)
	read(t, look, list...)
	if groups, where, err := look.Control().Control(); err != nil || len(groups) != 2 || where[string(list[0].ID)] != gold || where[string(list[2].ID)] != "" {
		t.Errorf("%+v, %v, %v", groups, where, err)
	}
	if _, err := look.Control().Do(resctrl.Change{Kind: resctrl.CreateGroup, Group: "owca-test-look"}); !errors.Is(err, syscall.EROFS) {
		t.Error(err)
	}
	before := ours(t, dir)
	look.Close()
	if after := ours(t, dir); !slices.Equal(before, after) {
		t.Errorf("groups %v, before it looked %v", after, before)
	}

	// Another agent adopts what this one leaves as it is.
	if err := m.monitoring.tree.Close(); err != nil {
		t.Fatal(err)
	}
	m.host.claimed, m.monitoring = false, nil // killed
	second := newTasks(t, everything)
	c = controlReal(t, second, list...)
	if after := ours(t, dir); !slices.Equal(before, after) {
		t.Errorf("groups %v, of the agent before %v", after, before)
	}
	isWhere(t, c, list[0].ID, gold)
	isWhere(t, c, list[2].ID, "")
	cgroups[0].Start("threads 2").Done()
	read(t, second, list...)
	read(t, second, list...)
	isIn(t, dir, gold, cgroups[0])

	for i := range 2 {
		if err := c.Undo(resctrl.Change{Kind: resctrl.MoveTask, Group: gold, Task: string(list[i].ID)}); err != nil {
			t.Error(err)
		}
		isIn(t, dir, "", cgroups[i])
	}
	if err := c.Undo(resctrl.Change{Kind: resctrl.CreateGroup, Group: gold}); err != nil {
		t.Error(err)
	}
	second.SetResctrl(nil)
	if left := ours(t, dir); left != nil {
		t.Errorf("left: %v", left)
	}
}

// TestControlResctrlFewKernel: control groups are made although tasks have all RMIDs.
func TestControlResctrlFewKernel(t *testing.T) {
	dir := hosttest.Resctrl(t, "-few", "/L3", "/L3_MON")
	log := testLog(t)
	m := newTasks(t, everything)
	c := controlReal(t, m)
	rmids := m.RDT().RMIDs
	list := steady(t, "few-control", rmids+2)
	for end := time.Now().Add(time.Minute); len(ours(t, dir)) < rmids-2 && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		read(t, m, list...) // the limbo of other tests
	}
	n := m.RDT().CLOSIDs - 1
	for i := range n {
		group := fmt.Sprint("owca-test-few", i)
		t.Log(group, "after", createReal(t, m, c, group, list...), "ticks")
		do(t, c, resctrl.MoveTask, group, list[i].ID)
		isWhere(t, c, list[i].ID, group)
		if left := ids(t, filepath.Join(dir, group, "tasks")); len(left) == 0 {
			t.Errorf("nothing is in %s", group)
		}
	}
	if _, err := c.Do(resctrl.Change{Kind: resctrl.CreateGroup, Group: "owca-test-more"}); !errors.Is(err, resctrl.ErrNoCLOSID) {
		t.Error(err)
	}
	for i := range n {
		group := fmt.Sprint("owca-test-few", i)
		if err := c.Undo(resctrl.Change{Kind: resctrl.MoveTask, Group: group, Task: string(list[i].ID)}); err != nil {
			t.Error(err)
		}
		if err := c.Undo(resctrl.Change{Kind: resctrl.CreateGroup, Group: group}); err != nil {
			t.Error(err)
		}
	}
	logged(t, log, "level=ERROR", 0)
}

// TestControlResctrlForeign: a task that somebody else moves to the default group stays
// there, and is told to be there, until it is moved again; that the kernel moved it there,
// with a group that was removed and is made again, does not count.
func TestControlResctrlForeign(t *testing.T) {
	dir := hosttest.Resctrl(t, "/L3")
	m := newTasks(t, everything)
	c := controlReal(t, m)
	g := hosttest.NewCgroup(t, nil, "foreign")
	g.Start("threads 3").Done()
	of := task(g)
	read(t, m, of)
	const gold = "owca-test-gold"
	createReal(t, m, c, gold, of)
	do(t, c, resctrl.MoveTask, gold, of.ID)
	fulls(t, m, of)
	isIn(t, dir, gold, g)

	for _, tid := range ids(t, filepath.Join(dir, gold, "tasks")) {
		if err := os.WriteFile(filepath.Join(dir, "tasks"), []byte(fmt.Sprint(tid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		fulls(t, m, of)
		isWhere(t, c, of.ID, "")
		isIn(t, dir, "", g)
	}

	do(t, c, resctrl.MoveTask, gold, of.ID)
	fulls(t, m, of)
	if err := os.Remove(filepath.Join(dir, gold)); err != nil {
		t.Fatal(err)
	}
	createReal(t, m, c, gold, of)
	do(t, c, resctrl.MoveTask, gold, of.ID)
	for range 2 {
		fulls(t, m, of)
		isWhere(t, c, of.ID, gold)
		isIn(t, dir, gold, g)
	}
	do(t, c, resctrl.MoveTask, "", of.ID)
	if err := c.Undo(resctrl.Change{Kind: resctrl.CreateGroup, Group: gold}); err != nil {
		t.Error(err)
	}
}
