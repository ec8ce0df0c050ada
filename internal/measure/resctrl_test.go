package measure

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/hosttest"
	"github.com/owca-project/owca/internal/resctrl"
)

// monitorReal makes m monitor by the real resctrl.
func monitorReal(t testing.TB, m *Tasks, o ResctrlOptions) {
	t.Helper()
	r, err := m.host.PlanResctrl(o)
	if r == nil || err != nil && !errors.Is(err, errors.ErrUnsupported) {
		t.Fatal(err)
	}
	m.SetResctrl(r)
}

// ids reads a tasks file.
func ids(t testing.TB, file string) (list []int) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range strings.Fields(string(data)) {
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, n)
	}
	slices.Sort(list)
	return list
}

func monitorDir(dir string, c *hosttest.Cgroup) string {
	return filepath.Join(dir, "mon_groups", resctrl.MonitorName(c.Path))
}

// inGroup checks that the kernel has all threads of a cgroup in its group.
func inGroup(t testing.TB, dir string, c *hosttest.Cgroup) {
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
	slices.Sort(want)
	if got := ids(t, monitorDir(dir, c)+"/tasks"); !slices.Equal(got, want) {
		t.Errorf("threads %v are in the group of %s, %v in its cgroup", got, c.Path, want)
	}
}

// ours are the groups in the file system that owca made.
func ours(t testing.TB, dir string) []string {
	t.Helper()
	var list []string
	for _, pattern := range []string{"owca-*", "mon_groups/owca-*", "*/mon_groups/owca-*"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, found...)
	}
	return list
}

// TestResctrl: three tasks, with what the kernel says of each, and nothing left.
func TestResctrl(t *testing.T) {
	dir := hosttest.Resctrl(t, "/L3_MON")
	m := newTasks(t, everything)
	if err := os.Mkdir(dir+"/mon_groups/owca-left", 0o755); err != nil {
		t.Fatal(err)
	}
	monitorReal(t, m, ResctrlOptions{})
	var list []owca.Task
	var cgroups []*hosttest.Cgroup
	for i, load := range []string{"sleep", "threads 30", "touch 16"} {
		c := hosttest.NewCgroup(t, nil, fmt.Sprint("resctrl", i))
		c.Start(load).Done()
		cgroups = append(cgroups, c)
		list = append(list, task(c))
	}
	var data []owca.TaskData
	for range 3 {
		data = read(t, m, list...)
	}
	if len(ours(t, dir)) != len(list) {
		t.Errorf("groups %v", ours(t, dir))
	}
	for i, d := range data {
		inGroup(t, dir, cgroups[i])
		rdt := m.RDT()
		for _, desc := range []*owca.Desc{owca.TaskLLCOccupancy, owca.TaskMemoryBandwidth, owca.TaskMemoryBandwidthLocal} {
			has := rdt.CacheMonitoring
			file := "llc_occupancy"
			switch desc {
			case owca.TaskMemoryBandwidth:
				has, file = m.monitoring.tree.Info().Has("mbm_total_bytes"), "mbm_total_bytes"
			case owca.TaskMemoryBandwidthLocal:
				has, file = m.monitoring.tree.Info().Has("mbm_local_bytes"), "mbm_local_bytes"
			}
			v, ok := d.Measurements.Float(desc)
			if ok != has {
				t.Errorf("%s of %s is there: %v, the host has it: %v", desc.Name, d.ID, ok, has)
			}
			if !ok {
				continue
			}
			files, err := filepath.Glob(monitorDir(dir, cgroups[i]) + "/mon_data/mon_L3_*/" + file)
			if err != nil || len(files) == 0 {
				t.Fatal(files, err)
			}
			var sum float64
			for _, f := range files {
				sum += float64(ids(t, f)[0])
			}
			if desc.Kind == owca.Counter && v > sum {
				t.Errorf("%s of %s is %v, and afterwards the kernel has %v", desc.Name, d.ID, v, sum)
			}
		}
	}
	inStates(t, m, "monitored 3")
	m.SetResctrl(nil)
	if left := ours(t, dir); left != nil {
		t.Errorf("left: %v", left)
	}
}

// TestResctrlAdoption: an agent that was killed left its groups; the next one goes on
// with what they counted.
func TestResctrlAdoption(t *testing.T) {
	dir := hosttest.Resctrl(t, "/L3_MON")
	c := hosttest.NewCgroup(t, nil, "adopted")
	c.Start("touch 16").Done()
	first := newTasks(t, everything)
	monitorReal(t, first, ResctrlOptions{})
	read(t, first, task(c))
	before := value(t, read(t, first, task(c))[0], owca.TaskMemoryBandwidth)
	if err := first.monitoring.tree.Close(); err != nil {
		t.Fatal(err)
	}
	first.monitoring = nil // killed

	var st1, st2 syscall.Stat_t
	if err := syscall.Stat(monitorDir(dir, c), &st1); err != nil {
		t.Fatal(err)
	}
	second := newTasks(t, everything)
	monitorReal(t, second, ResctrlOptions{})
	if got := value(t, read(t, second, task(c))[0], owca.TaskMemoryBandwidth); got < before {
		t.Errorf("%v, the agent before had %v", got, before)
	}
	if err := syscall.Stat(monitorDir(dir, c), &st2); err != nil || st1.Ino != st2.Ino {
		t.Errorf("the group was made anew: %v", err)
	}
	second.Close()
	if left := ours(t, dir); left != nil {
		t.Errorf("left: %v", left)
	}
}

// TestResctrlForeign: a thread in somebody else's monitoring group is left there.
func TestResctrlForeign(t *testing.T) {
	dir := hosttest.Resctrl(t, "/L3_MON")
	log := testLog(t)
	c := hosttest.NewCgroup(t, nil, "foreign")
	p := c.Start("threads 3")
	p.Done()
	m := newTasks(t, everything)
	monitorReal(t, m, ResctrlOptions{})
	read(t, m, task(c))
	other := dir + "/mon_groups/pqos-7"
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other+"/tasks", []byte(strconv.Itoa(p.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	full := func() owca.TaskData {
		m.order[0].watch.full = time.Time{}
		read(t, m, task(c))
		return read(t, m, task(c))[0]
	}
	missing(t, full(), owca.TaskLLCOccupancy, owca.TaskMemoryBandwidth)
	inStates(t, m, "foreign 1")
	if got := ids(t, other+"/tasks"); !slices.Equal(got, []int{p.Pid}) {
		t.Errorf("%v in the group of somebody else", got)
	}
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	hasResctrl(t, full(), m.RDT().CacheMonitoring)
	inGroup(t, dir, c)
	logged(t, log, "monitoring groups of its own", 1)

	// And somebody removes ours.
	if err := os.Remove(monitorDir(dir, c)); err != nil {
		t.Fatal(err)
	}
	before, _ := m.order[0].measurements.Float(owca.TaskMemoryBandwidth)
	missing(t, read(t, m, task(c))[0], owca.TaskLLCOccupancy)
	inGroup(t, dir, c)
	if after := value(t, read(t, m, task(c))[0], owca.TaskMemoryBandwidth); after < before {
		t.Errorf("the total fell from %v to %v", before, after)
	}
}

// TestResctrlForkStorm: every thread of a task that forks all the time is in its group
// after two ticks.
func TestResctrlForkStorm(t *testing.T) {
	dir := hosttest.Resctrl(t, "/L3_MON")
	c := hosttest.NewCgroup(t, nil, "storm")
	c.Start("forks 8").Done()
	m := newTasks(t, everything)
	monitorReal(t, m, ResctrlOptions{})
	read(t, m, task(c))
	// Of these all are in after the next tick; one that is being forked meanwhile by a
	// thread outside is in no list yet.
	list, err := m.order[0].watch.threads(nil)
	if err != nil || len(list) < 8 {
		t.Fatal(list, err)
	}
	read(t, m, task(c))
	inside := ids(t, monitorDir(dir, c)+"/tasks")
	for _, tid := range list {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", tid)); err == nil && !slices.Contains(inside, tid) {
			t.Errorf("thread %d of the task is not in its group", tid)
		}
	}
	inStates(t, m, "monitored 1")
}

// TestResctrlFew: more tasks than RMIDs.
func TestResctrlFew(t *testing.T) {
	dir := hosttest.Resctrl(t, "-few", "/L3_MON")
	log := testLog(t)
	m := newTasks(t, everything)
	monitorReal(t, m, ResctrlOptions{})
	n := m.monitoringRMIDs(t) + 3
	var list []owca.Task
	for i := range n {
		c := hosttest.NewCgroup(t, nil, fmt.Sprint("few", i))
		c.Start("sleep")
		tk := task(c)
		if i == n-1 {
			tk.Labels = map[string]string{"qos_class": "guaranteed"}
		}
		list = append(list, tk)
	}
	had := make([]int, n)
	ticks := 0
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); ticks++ {
		for i, d := range read(t, m, list...) {
			if _, ok := d.Measurements.Get(owca.TaskLLCOccupancy); ok {
				had[i]++
			}
		}
		if !slices.Contains(had, 0) && ticks > 50 {
			break
		}
		time.Sleep(50 * time.Millisecond) // of the limbo
	}
	t.Log(ticks, "ticks; monitored:", had)
	if slices.Contains(had, 0) || had[n-1] < ticks-5 {
		t.Errorf("of %d ticks the tasks were monitored in %v", ticks, had)
	}
	logged(t, log, "fewer monitoring ids (RMIDs) than tasks", 1)
	logged(t, log, "level=ERROR", 0)
	m.SetResctrl(nil)
	if left := ours(t, dir); left != nil {
		t.Errorf("left: %v", left)
	}
}

// monitoringRMIDs is what the host has.
func (t *Tasks) monitoringRMIDs(tb testing.TB) int {
	tb.Helper()
	read(tb, t)
	if t.RDT() == nil {
		tb.Fatal("resctrl is not in use")
	}
	return t.RDT().RMIDs
}

// TestResctrlControlOnly: a host that cannot monitor.
func TestResctrlControlOnly(t *testing.T) {
	dir := hosttest.Resctrl(t, "/!L3_MON")
	c := hosttest.NewCgroup(t, nil, "control-only")
	c.Start("sleep").Done()
	m := newTasks(t, everything)
	monitorReal(t, m, ResctrlOptions{})
	missing(t, read(t, m, task(c))[0], owca.TaskLLCOccupancy, owca.TaskMemoryBandwidth)
	if r := m.RDT(); r == nil || r.RMIDs != 0 || r.CacheMonitoring || r.BandwidthMonitoring || r.CLOSIDs == 0 {
		t.Errorf("%+v", r)
	}
	if left := ours(t, dir); left != nil {
		t.Errorf("made: %v", left)
	}
}

// TestResctrlRemount: unmounted and mounted again while it is in use, then unmounted
// by us, who mounted it.
func TestResctrlRemount(t *testing.T) {
	dir := hosttest.Resctrl(t, "/L3_MON")
	if os.Getenv("OWCA_TEST_VM") == "" {
		t.Skip("unmounts resctrl, which is for a machine of its own")
	}
	log := testLog(t)
	c := hosttest.NewCgroup(t, nil, "remount")
	c.Start("touch 16").Done()
	m := newTasks(t, everything)
	monitorReal(t, m, ResctrlOptions{})
	read(t, m, task(c))
	before := value(t, read(t, m, task(c))[0], owca.TaskMemoryBandwidth)
	options := ""
	for _, o := range m.monitoring.mount.Options {
		if o == "cdp" || o == "cdpl2" || o == "mba_MBps" || o == "debug" {
			options = strings.TrimPrefix(options+","+o, ",")
		}
	}
	mount := func() {
		t.Helper()
		if err := syscall.Mount("resctrl", dir, "resctrl", 0, options); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	missing(t, read(t, m, task(c))[0], owca.TaskMemoryBandwidth)
	if m.RDT() != nil {
		t.Error("resctrl is in use although it is not mounted")
	}
	mount()
	var d owca.TaskData
	for range 20 {
		d = read(t, m, task(c))[0]
	}
	if after := value(t, d, owca.TaskMemoryBandwidth); after < before {
		t.Errorf("the total fell from %v to %v", before, after)
	}
	inGroup(t, dir, c)
	logged(t, log, "resctrl was unmounted", 1)
	logged(t, log, "resctrl is in use", 2)
	m.SetResctrl(nil)

	// Now it is ours.
	if err := syscall.Unmount(dir, 0); err != nil {
		t.Fatalf("something is open still: %v", err)
	}
	defer mount() // for the other tests
	monitorReal(t, m, ResctrlOptions{Mount: true})
	read(t, m, task(c))
	inStates(t, m, "monitored 1")
	m.Close()
	if mounted, err := os.ReadDir(dir); err != nil || len(mounted) > 0 {
		t.Errorf("still mounted: %v, %v", mounted, err)
	}
}

// TestResctrlAllocates: a steady tick costs no memory, but for the path of the one
// stat(2) that asks whether resctrl is still mounted.
func TestResctrlAllocates(t *testing.T) {
	hosttest.Resctrl(t, "/L3_MON")
	var list []owca.Task
	for i := range 10 {
		c := hosttest.NewCgroup(t, nil, fmt.Sprint("steady", i))
		c.Start("sleep").Done()
		list = append(list, task(c))
	}
	m := newTasks(t, TaskOptions{})
	monitorReal(t, m, ResctrlOptions{})
	now := time.Now()
	tick := func() {
		now = now.Add(time.Microsecond)
		if _, err := m.Read(now, now, list); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		tick()
	}
	inStates(t, m, "monitored 10")
	if n := testing.AllocsPerRun(50, tick); n > 1 {
		t.Errorf("a tick allocates %v times", n)
	}
}

// TestResctrlLimbo: an RMID whose cache lines are not evicted for long costs one task
// its group, not one after the other.
func TestResctrlLimbo(t *testing.T) {
	dir := hosttest.Resctrl(t, "-few", "/L3_MON")
	const decay = "/sys/module/rdt_emul/parameters/decay"
	before, err := os.ReadFile(decay)
	if err != nil {
		t.Skip("only an emulated cache can be told to keep its lines: ", err)
	}
	set := func(value string) {
		if err := os.WriteFile(decay, []byte(value), 0); err != nil {
			t.Error(err)
		}
	}
	m := newTasks(t, everything)
	monitorReal(t, m, ResctrlOptions{})
	n := m.monitoringRMIDs(t)
	var list []owca.Task
	for i := range n + 2 {
		c := hosttest.NewCgroup(t, nil, fmt.Sprint("limbo", i))
		c.Start("touch 1").Done()
		list = append(list, task(c))
	}
	read(t, m, list...)
	held := n - 1 - m.monitoring.budget.spare
	for end := time.Now().Add(time.Minute); len(ours(t, dir)) < held && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond) // of the limbo of other tests
		read(t, m, list...)
	}
	if got := len(ours(t, dir)); got != held {
		t.Errorf("%d groups of %d RMIDs, want %d", got, n, held)
	}
	set("0")
	defer set(strings.TrimSpace(string(before)))
	inLimbo := 0
	end := time.Now().Add(time.Minute) // for a machine that has other things to do
	for tick := 0; tick < 150 || inLimbo < 10 && time.Now().Before(end); tick++ {
		read(t, m, list...)
		if m.monitoring.budget.limbo {
			inLimbo++
		}
		if got := len(ours(t, dir)); got < held-1 {
			t.Fatalf("tick %d: %d groups are left of %d", tick, got, held)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if inLimbo < 10 {
		t.Errorf("an RMID was in limbo in %d ticks: the test shows nothing", inLimbo)
	}
}

// TestResctrlSecondAgent: it leaves the groups of the first one alone, and begins when
// that ends.
func TestResctrlSecondAgent(t *testing.T) {
	dir := hosttest.Resctrl(t, "/L3_MON")
	log := testLog(t)
	a, b := hosttest.NewCgroup(t, nil, "first"), hosttest.NewCgroup(t, nil, "second")
	a.Start("sleep").Done()
	b.Start("sleep").Done()
	first, second := newTasks(t, everything), newTasks(t, everything)
	monitorReal(t, first, ResctrlOptions{})
	read(t, first, task(a))
	plan, err := second.host.PlanResctrl(ResctrlOptions{})
	if plan == nil || !errors.Is(err, resctrl.ErrInUse) {
		t.Fatal(err)
	}
	second.SetResctrl(plan)
	for range 5 {
		missing(t, read(t, second, task(b))[0], owca.TaskLLCOccupancy)
	}
	if got := ours(t, dir); !slices.Equal(got, []string{monitorDir(dir, a)}) {
		t.Errorf("groups %v", got)
	}
	logged(t, log, "until the process ends that uses resctrl", 1)
	// Whoever plans for the first one is not told that it is in use.
	if _, err := first.host.PlanResctrl(ResctrlOptions{}); err != nil {
		t.Error(err)
	}
	first.Close()
	for range 10 {
		read(t, second, task(b))
	}
	if got := ours(t, dir); !slices.Equal(got, []string{monitorDir(dir, b)}) {
		t.Errorf("groups %v", got)
	}
}
