package measure

import (
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/hosttest"
)

func TestMain(m *testing.M) { hosttest.Main(m) }

// everything takes every reading in every tick.
var everything = TaskOptions{MemoryStat: 1, NUMA: 1, Limits: 1, RunQueue: 1, RunQueueThreads: 1000}

func idLabel(t owca.Task) *owca.Labels {
	return owca.NewLabels(t.Labels, map[string]string{"task_id": string(t.ID)})
}

func newTasks(t testing.TB, o TaskOptions) *Tasks {
	t.Helper()
	host := Open("/")
	if host.CgroupError != nil {
		t.Fatal(host.CgroupError)
	}
	tasks := host.NewTasks(o, idLabel)
	t.Cleanup(tasks.Close)
	return tasks
}

// read is one tick of tasks.
func read(t testing.TB, m *Tasks, tasks ...owca.Task) []owca.TaskData {
	t.Helper()
	data, err := m.Read(time.Now(), time.Now(), tasks)
	if err != nil {
		t.Fatal(err)
	}
	if len(data) != len(tasks) {
		t.Fatalf("%d tasks measured, want %d", len(data), len(tasks))
	}
	return data
}

// value returns a reading in base units.
func value(t testing.TB, d owca.TaskData, desc *owca.Desc) float64 {
	t.Helper()
	v, ok := d.Measurements.Float(desc)
	if !ok {
		t.Fatalf("%s of %s is absent", desc.Name, d.ID)
	}
	return v
}

func within(t testing.TB, what string, got, low, high float64) {
	t.Helper()
	if got < low || got > high {
		t.Errorf("%s is %v, want %v to %v", what, got, low, high)
	}
}

func task(c *hosttest.Cgroup) owca.Task {
	return owca.Task{ID: owca.TaskID(c.Path), Cgroups: []string{c.Path}}
}

func TestKnownLoads(t *testing.T) {
	cpu := hosttest.NewCgroup(t, nil, "cpu")
	mem := hosttest.NewCgroup(t, nil, "mem")
	idle := hosttest.NewCgroup(t, nil, "idle")
	m := newTasks(t, everything)
	list := []owca.Task{task(cpu), task(mem), task(idle)}
	before := read(t, m, list...)
	for _, d := range before {
		within(t, string(d.ID)+": cpu usage before anything ran", value(t, d, owca.TaskCPUUsage), 0, 0)
	}
	start := time.Now()
	spin, touch := cpu.Start("spin 1s"), mem.Start("touch 64")
	spin.Done()
	touch.Done()
	after := read(t, m, list...)
	wall := time.Since(start).Seconds()

	// The load is exact to a tick; on top of it is the start of a Go program.
	within(t, "cpu usage of a loop of 1 s", value(t, after[0], owca.TaskCPUUsage), 1, 1.5)
	within(t, "user + system", value(t, after[0], owca.TaskCPUUser)+value(t, after[0], owca.TaskCPUSystem), 0.9, 1.6)
	within(t, "cpu usage in cores × time", value(t, after[0], owca.TaskCPUUsageCores)*wall, 1, 1.7)
	pages := float64(64 << 20 / os.Getpagesize())
	within(t, "minor faults of 64 MiB", value(t, after[1], owca.TaskMemoryMinorFaults), pages, 1.5*pages)
	within(t, "faults = minor + major", value(t, after[1], owca.TaskMemoryFaults),
		value(t, after[1], owca.TaskMemoryMinorFaults)+value(t, after[1], owca.TaskMemoryMajorFaults), math.Inf(1))
	within(t, "memory usage", value(t, after[1], owca.TaskMemoryUsage), 64<<20, 100<<20)
	within(t, "pids", value(t, after[1], owca.TaskPIDs), 1, 20)
	if v, ok := after[1].Measurements.Float(owca.TaskMemoryAnon); ok {
		within(t, "anon", v, 64<<20, 90<<20)
	} else {
		t.Error("anon is absent")
	}
	within(t, "working set", value(t, after[1], owca.TaskMemoryWorkingSet), 64<<20, 100<<20)
	within(t, "idle cpu", value(t, after[2], owca.TaskCPUUsage), 0, 0)
	within(t, "idle cores", value(t, after[2], owca.TaskCPUUsageCores), 0, 0)
}

// write sets a limit by the file of whichever version this host has.
func write(t *testing.T, c *hosttest.Cgroup, v1, file1, value1, file2, value2 string) bool {
	t.Helper()
	switch {
	case c.Has(v1, file1):
		file1 = filepath.Join(c.Dir(v1), file1)
		if err := os.WriteFile(file1, []byte(value1), 0); err != nil {
			t.Fatal(err)
		}
	case c.Has("unified", file2):
		file2 = filepath.Join(c.Dir("unified"), file2)
		if err := os.WriteFile(file2, []byte(value2), 0); err != nil {
			t.Fatal(err)
		}
	default:
		return false
	}
	return true
}

func TestLimits(t *testing.T) {
	c := hosttest.NewCgroup(t, nil, "limits")
	m := newTasks(t, everything)
	d := read(t, m, task(c))[0]
	for _, desc := range []*owca.Desc{owca.TaskCPULimit, owca.TaskCPUQuota, owca.TaskMemoryMax, owca.TaskPIDsMax} {
		if got := value(t, d, desc); !math.IsInf(got, 1) {
			t.Errorf("%s without a limit is %v, want +Inf", desc.Name, got)
		}
	}
	if !write(t, c, "cpu", "cpu.cfs_quota_us", "10000", "cpu.max", "10000 100000") ||
		!write(t, c, "memory", "memory.limit_in_bytes", "67108864", "memory.max", "67108864") ||
		!write(t, c, "pids", "pids.max", "77", "pids.max", "77") {
		t.Fatal("this host has no cpu, memory or pids controller")
	}
	d = read(t, m, task(c))[0]
	for desc, want := range map[*owca.Desc]float64{
		owca.TaskCPULimit: 0.1, owca.TaskCPUQuota: 0.01, owca.TaskCPUPeriod: 0.1,
		owca.TaskMemoryMax: 64 << 20, owca.TaskPIDsMax: 77,
	} {
		if got := value(t, d, desc); got != want {
			t.Errorf("%s is %v, want %v", desc.Name, got, want)
		}
	}
	// A loop that wants more than its quota is throttled.
	c.Start("spin 100ms").Done()
	d = read(t, m, task(c))[0]
	within(t, "throttled ratio", value(t, d, owca.TaskCPUThrottledRatio), 0.3, 1)
	if n := value(t, d, owca.TaskCPUThrottled); n == 0 {
		t.Error("no throttled time")
	}
}

func TestPressureAndRunQueueWait(t *testing.T) {
	c := hosttest.NewCgroup(t, nil, "pressure")
	m := newTasks(t, everything)
	var all []*hosttest.Process
	read(t, m, task(c))
	for range 4 {
		// More threads than cpus is what makes them wait; on a host with more
		// cpus than threads there must be a cpuset or a quota.
		all = append(all, c.Start("spin 700ms"))
	}
	write(t, c, "cpu", "cpu.cfs_quota_us", "100000", "cpu.max", "100000 100000")
	read(t, m, task(c))
	for _, p := range all {
		p.Done()
	}
	d := read(t, m, task(c))[0]
	if c.Has("unified", "cpu.pressure") {
		if n := value(t, d, owca.TaskCPUPressureSome); n == 0 {
			t.Error("four loops on a quota of one cpu, and no cpu pressure")
		}
		within(t, "share of the time under pressure", value(t, d, owca.TaskCPUPressureSomeRatio), 0.1, 1.05)
	} else if v, ok := d.Measurements.Get(owca.TaskCPUPressureSome); ok {
		t.Errorf("cpu pressure is %v on a host that has none per cgroup", v)
	}
	if n := value(t, d, owca.TaskRunQueueWait); n == 0 {
		t.Error("no run-queue wait")
	}
}

func TestSumOverCgroups(t *testing.T) {
	a := hosttest.NewCgroup(t, nil, "a")
	b := hosttest.NewCgroup(t, nil, "b")
	m := newTasks(t, everything)
	pod := owca.Task{ID: "pod", Cgroups: []string{a.Path, b.Path}}
	one := []owca.Task{task(a), task(b), pod}
	read(t, m, one...)
	a.Start("spin 300ms").Done()
	b.Start("spin 200ms").Done()
	d := read(t, m, one...)
	sum := value(t, d[0], owca.TaskCPUUsage) + value(t, d[1], owca.TaskCPUUsage) - 1e-6 // rounding
	within(t, "usage of the pod", value(t, d[2], owca.TaskCPUUsage), sum, sum+0.1)
	within(t, "cgroups", value(t, d[2], owca.TaskCgroups), 2, 2)

	// A container ends: what it used was used.
	b.Remove()
	d = read(t, m, task(a), pod)
	within(t, "usage of the pod after a container ended", value(t, d[1], owca.TaskCPUUsage), sum, sum+0.1)
	within(t, "cgroups", value(t, d[1], owca.TaskCgroups), 1, 1)
	if m.Vanished() == 0 {
		t.Error("the vanished cgroup was not counted")
	}
	// … and discovery notices.
	pod.Cgroups = pod.Cgroups[:1]
	d = read(t, m, task(a), pod)
	within(t, "usage of the pod without the container", value(t, d[1], owca.TaskCPUUsage), sum, sum+0.1)
	within(t, "up", value(t, d[1], owca.TaskUp), 1, 1)

	a.Remove()
	d = read(t, m, pod)
	within(t, "up without any cgroup", value(t, d[0], owca.TaskUp), 0, 0)
	for _, r := range d[0].Measurements {
		switch r.Desc {
		case owca.TaskUp, owca.TaskCgroups, owca.TaskLastSeen:
		default:
			t.Errorf("%s of a task without cgroups is %v, want absent", r.Desc.Name, r.Value)
		}
	}
}

func TestChangedLabelsKeepMeasurements(t *testing.T) {
	c := hosttest.NewCgroup(t, nil, "labels")
	c.Start("spin 100ms").Done()
	m := newTasks(t, everything)
	tk := task(c)
	first := read(t, m, tk)[0]
	usage, labels := value(t, first, owca.TaskCPUUsage), first.MetricLabels
	tk.Labels = map[string]string{"version": "2"}
	tk.Resources = map[string]float64{"cpus": 2, "mem": 1 << 30}
	second := read(t, m, tk)[0]
	if got, _ := second.MetricLabels.Get("version"); got != "2" {
		t.Errorf("labels are %s", second.MetricLabels.Text())
	}
	if second.MetricLabels == labels {
		t.Error("the labels were changed in place")
	}
	within(t, "usage", value(t, second, owca.TaskCPUUsage), usage, usage+0.1)
	value(t, second, owca.TaskCPUUsageCores) // there, because the first sample was kept
	within(t, "requested cpus", value(t, second, owca.TaskRequestedCPUs), 2, 2)
	within(t, "requested memory", value(t, second, owca.TaskRequestedMemory), 1<<30, 1<<30)
}

func TestRecreatedCgroup(t *testing.T) {
	c := hosttest.NewCgroup(t, nil, "again")
	m := newTasks(t, everything)
	tk := task(c)
	read(t, m, tk)
	c.Remove()
	within(t, "up while it is gone", value(t, read(t, m, tk)[0], owca.TaskUp), 0, 0)
	again := hosttest.NewCgroup(t, nil, "again")
	again.Start("spin 100ms").Done()
	for range 3 { // the look for it backs off
		if value(t, read(t, m, tk)[0], owca.TaskUp) == 1 {
			return
		}
	}
	t.Error("a cgroup that was made again under its old path is not measured")
}

func TestPaces(t *testing.T) {
	c := hosttest.NewCgroup(t, nil, "pace")
	m := newTasks(t, TaskOptions{MemoryStat: 10 * time.Second, Limits: 4 * time.Second})
	tasks := []owca.Task{task(c)}
	now := time.Now()
	var stat, limits []int
	for i := range 40 {
		data, err := m.Read(now.Add(time.Duration(i)*time.Second), now.Add(time.Duration(i)*time.Second), tasks)
		if err != nil {
			t.Fatal(err)
		}
		age, ok := data[0].Measurements.GetLabel(owca.TaskReadingAge, "memory_stat")
		if !ok {
			t.Fatalf("tick %d: no age of memory.stat", i)
		}
		value(t, data[0], owca.TaskMemoryAnon) // kept between readings
		if age == owca.Int(0) {
			stat = append(stat, i)
		}
		if age, _ := data[0].Measurements.GetLabel(owca.TaskReadingAge, "limits"); age == owca.Int(0) {
			limits = append(limits, i)
		}
		if _, ok := data[0].Measurements.GetLabel(owca.TaskReadingAge, "numa_stat"); ok {
			t.Fatal("an age of a reading that is never taken")
		}
	}
	for _, tc := range []struct {
		name string
		at   []int
		pace int
	}{{"memory.stat", stat, 10}, {"limits", limits, 4}} {
		if len(tc.at) < 40/tc.pace || tc.at[0] != 0 {
			t.Errorf("%s read in ticks %v", tc.name, tc.at)
		}
		for i := 2; i < len(tc.at); i++ {
			if tc.at[i]-tc.at[i-1] != tc.pace {
				t.Errorf("%s read in ticks %v, want every %d", tc.name, tc.at, tc.pace)
			}
		}
		if first := tc.at[1]; first < 1 || first > tc.pace {
			t.Errorf("%s read for the second time in tick %d", tc.name, first)
		}
	}
}

// TestPacesSpread checks that tasks don't all take their slow readings in the
// same tick.
func TestPacesSpread(t *testing.T) {
	m := (&Host{}).NewTasks(TaskOptions{MemoryStat: 10 * time.Second}, idLabel)
	now := time.Now()
	perTick := make([]int, 10)
	for i := range 1000 {
		k := &taskState{Task: owca.Task{ID: owca.TaskID("task-" + strconv.Itoa(i))}}
		k.due(&m.options, now) // the first reading is at once
		for tick := range perTick {
			if due, _ := k.due(&m.options, now.Add(time.Duration(tick+1)*time.Second)); due[slowMemoryStat] {
				perTick[tick]++
			}
		}
	}
	total := 0
	for tick, n := range perTick {
		total += n
		if n < 50 || n > 150 {
			t.Errorf("%d of 1000 tasks are read in tick %d, want about 100: %v", n, tick, perTick)
		}
	}
	if total != 1000 {
		t.Errorf("%d readings in 10 ticks, want each task once", total)
	}
}

func TestTooManyThreads(t *testing.T) {
	c := hosttest.NewCgroup(t, nil, "threads")
	o := everything
	o.RunQueueThreads = 50
	m := newTasks(t, o)
	c.Start("sleep")
	if _, ok := read(t, m, task(c))[0].Measurements.Get(owca.TaskRunQueueWait); !ok {
		t.Fatal("no run-queue wait of a task with few threads")
	}
	p := c.Start("threads 60")
	p.Done()
	d := read(t, m, task(c))[0]
	if _, ok := d.Measurements.Get(owca.TaskRunQueueWait); ok {
		t.Error("a run-queue wait although only some threads would be in it")
	}
	within(t, "pids", value(t, d, owca.TaskPIDs), 60, 200)
	p.Kill()
	if _, ok := read(t, m, task(c))[0].Measurements.Get(owca.TaskRunQueueWait); !ok {
		t.Error("the run-queue wait does not come back")
	}
}

// TestThreadsReplaced: as many threads as before need not be the same.
func TestThreadsReplaced(t *testing.T) {
	hosttest.Need(t, "sleep")
	c := hosttest.NewCgroup(t, nil, "replaced")
	sleeper := func() *exec.Cmd {
		cmd := exec.Command("sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill() // or it has been
			_ = cmd.Wait()
		})
		c.Add(cmd.Process.Pid)
		return cmd
	}
	m := newTasks(t, everything)
	old := sleeper()
	stays := sleeper().Process.Pid
	for range 3 { // the second and third pass ask only for the threads of the first
		read(t, m, task(c))
	}
	if err := old.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = old.Wait() // killed
	fresh := sleeper().Process.Pid
	read(t, m, task(c))
	got := slices.Sorted(maps.Keys(m.order[0].runQueue.last))
	want := []int{stays, fresh}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("threads %v, want %v", got, want)
	}
}

func TestHostWithoutCgroups(t *testing.T) {
	host := Open(t.TempDir())
	if host.CgroupError == nil {
		t.Fatal("cgroups in an empty directory")
	}
	m := host.NewTasks(everything, idLabel)
	data, err := m.Read(time.Now(), time.Now(), []owca.Task{{ID: "a", Cgroups: []string{"/a"}}})
	if err == nil {
		t.Error("no error")
	}
	if len(data) != 1 || value(t, data[0], owca.TaskUp) != 0 {
		t.Errorf("got %+v", data)
	}
}

func TestListedTwice(t *testing.T) {
	m := newTasks(t, everything)
	data, err := m.Read(time.Now(), time.Now(), []owca.Task{{ID: "a", Name: "first"}, {ID: "a", Name: "second"}})
	if err != nil || len(data) != 1 || data[0].Name != "first" {
		t.Errorf("got %+v, %v: the first one counts", data, err)
	}
}

// TestNoPartialSums: a field that one of a task's cgroups lacks is not the sum
// of the others.
func TestNoPartialSums(t *testing.T) {
	a, b := &member{ok: true}, &member{ok: true}
	a.stat.Set(cgroup.CPUUsage, 1)
	a.stat.Set(cgroup.MemoryUsage, 10)
	b.stat.Set(cgroup.MemoryUsage, 20)
	a.stat.Set(cgroup.CPUQuota, 50)
	a.stat.Set(cgroup.CPUPeriod, 100)
	b.stat.Set(cgroup.CPUQuota, cgroup.Max)
	k := &taskState{members: []*member{a, b}}
	var s sum
	s.add(k)
	if v, ok := s.Get(cgroup.CPUUsage); ok {
		t.Errorf("usage is %d, want absent", v)
	}
	if v, _ := s.Get(cgroup.MemoryUsage); v != 30 {
		t.Errorf("memory is %d, want 30", v)
	}
	if !s.haveLimit || !math.IsInf(s.limit, 1) {
		t.Errorf("limit is %v, %v: one of the two has none", s.limit, s.haveLimit)
	}
	b.ok = false
	s.add(k)
	if v, ok := s.Get(cgroup.CPUUsage); !ok || v != 1 {
		t.Errorf("usage is %d, %v once the other cgroup is gone", v, ok)
	}
	if s.limit != 0.5 {
		t.Errorf("limit is %v, want 0.5", s.limit)
	}
}

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	m := newTasks(t, TaskOptions{MemoryStat: 1, Limits: 1, NUMA: 1})
	var tasks []owca.Task
	for i := range 5 {
		c := hosttest.NewCgroup(t, nil, fmt.Sprint("alloc", i))
		tasks = append(tasks, task(c))
	}
	now := time.Now()
	tick := func() {
		now = now.Add(time.Second)
		if _, err := m.Read(now, now, tasks); err != nil {
			t.Fatal(err)
		}
	}
	tick()
	tick()
	if n := testing.AllocsPerRun(20, tick); n > 0 {
		t.Errorf("%v allocations a tick", n)
	}
}

// TestCgroupComesBack: discovery lists a cgroup no longer, and then again.
func TestCgroupComesBack(t *testing.T) {
	a := hosttest.NewCgroup(t, nil, "a")
	b := hosttest.NewCgroup(t, nil, "b")
	a.Start("spin 100ms").Done()
	b.Start("spin 200ms").Done()
	m := newTasks(t, everything)
	both := func() owca.Task { return owca.Task{ID: "pod", Cgroups: []string{a.Path, b.Path, a.Path}} }
	one := func() owca.Task { return owca.Task{ID: "pod", Cgroups: []string{a.Path}} }
	want := value(t, read(t, m, both())[0], owca.TaskCPUUsage)
	within(t, "usage", want, 0.3, 0.7)
	for range 3 {
		within(t, "usage without b", value(t, read(t, m, one())[0], owca.TaskCPUUsage), want, want+0.05)
		within(t, "usage with b again", value(t, read(t, m, both())[0], owca.TaskCPUUsage), want, want+0.05)
	}
	read(t, m, one())
	b.Remove()
	hosttest.NewCgroup(t, nil, "b").Start("spin 100ms").Done()
	read(t, m, both())
	var got float64
	for range 3 { // the look for the new one backs off
		got = value(t, read(t, m, both())[0], owca.TaskCPUUsage)
	}
	within(t, "usage with another b", got, want+0.1, want+0.35)
}

func TestOptionsChange(t *testing.T) {
	c := hosttest.NewCgroup(t, nil, "options")
	m := newTasks(t, TaskOptions{Limits: time.Second})
	age := func(reading string) bool {
		_, ok := read(t, m, task(c))[0].Measurements.GetLabel(owca.TaskReadingAge, reading)
		return ok
	}
	if age("memory_stat") || !age("limits") {
		t.Error("before: want limits alone")
	}
	m.SetOptions(TaskOptions{MemoryStat: time.Minute})
	d := read(t, m, task(c))[0]
	value(t, d, owca.TaskMemoryAnon)
	if _, ok := d.Measurements.Get(owca.TaskMemoryMax); ok || age("limits") || !age("memory_stat") {
		t.Error("after: want memory.stat alone")
	}
}

func TestLastSeen(t *testing.T) {
	m := newTasks(t, TaskOptions{})
	listed := time.UnixMilli(1234)
	data, err := m.Read(time.Now(), listed, []owca.Task{{ID: "a"}})
	if err != nil {
		t.Fatal(err)
	}
	within(t, "last seen", value(t, data[0], owca.TaskLastSeen), 1.234, 1.234)
}
