package measure

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/hosttest"
	"github.com/owca-project/owca/internal/resctrl"
)

// BenchmarkResctrlTick is what monitoring adds to ticks of 1000 tasks, each with a
// process that sleeps, at an interval of a second: "pass-over-floor" is reading all
// groups, over a loop that preads the same files; "following-of-tick" is what looking
// for threads to move is of the whole tick where nothing forks, in percent.
func BenchmarkResctrlTick(b *testing.B) {
	const tasks = 1000
	dir := hosttest.Resctrl(b, "/L3_MON", "-many")
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		b.Fatal(err)
	}
	parent := hosttest.NewCgroup(b, nil, "bench")
	if dir := parent.Dir("unified"); dir != "" {
		// As systemd and kubelets do: the number of threads tells whether to look for new ones.
		if err := os.WriteFile(dir+"/cgroup.subtree_control", []byte("+pids"), 0); err != nil {
			b.Fatal(err)
		}
	}
	var list []owca.Task
	for i := range tasks {
		c := hosttest.NewCgroup(b, parent, fmt.Sprint("n", i))
		cmd := exec.Command(sleep, "100000")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		c.Add(cmd.Process.Pid)
		list = append(list, owca.Task{ID: owca.TaskID(c.Path), Cgroups: []string{c.Path}})
	}

	host := Open("/")
	m := host.NewTasks(TaskOptions{
		MemoryStat: 10 * time.Second, NUMA: time.Minute, Limits: 30 * time.Second,
		RunQueue: 10 * time.Second, RunQueueThreads: 1000,
	}, idLabel)
	defer m.Close()
	plan, err := host.PlanResctrl(ResctrlOptions{})
	if err != nil {
		b.Fatal(err)
	}
	m.SetResctrl(plan)
	// Reading happens on this thread, whose CPU time is the measure.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	now := time.Now()
	read := func() {
		if _, err := m.Read(now, now, list); err != nil {
			b.Fatal(err)
		}
		now = now.Add(time.Second)
	}
	for range 12 {
		read() // groups are made, and every slower reading is taken
	}
	if n := m.monitoring.states[stateMonitored]; n != tasks {
		b.Fatalf("%d of %d tasks are monitored", n, tasks)
	}
	floor := openFloor(b, dir)

	var floors, passes []time.Duration
	var following, ticking time.Duration
	for b.Loop() {
		for range 10 { // so that what is done now and then is in it
			floors = append(floors, cpuTime(b, floor))
			passes = append(passes, cpuTime(b, func() {
				for _, k := range m.order {
					m.readUsage(k)
				}
			}))
			// It finds nothing to do when the tick does it once more.
			d := cpuTime(b, func() { m.followAll(now) })
			following += d
			ticking += d + cpuTime(b, read)
		}
	}
	if n := m.monitoring.states[stateMonitored]; n != tasks {
		b.Fatalf("%d of %d tasks are monitored at the end", n, tasks)
	}
	slices.Sort(floors)
	slices.Sort(passes)
	low, pass := floors[len(floors)/2], passes[len(passes)/2]
	b.ReportMetric(float64(low.Microseconds()), "floor-µs")
	b.ReportMetric(float64(pass.Microseconds()), "pass-µs")
	b.ReportMetric(float64(pass)/float64(low), "pass-over-floor")
	b.ReportMetric(float64(ticking.Microseconds())/float64(len(floors)), "tick-µs")
	b.ReportMetric(100*float64(following)/float64(ticking), "following-of-tick-%")
	b.ReportMetric(0, "ns/op")
}

// openFloor opens every file that tells what our groups used; the result preads all
// of them.
func openFloor(b *testing.B, dir string) func() {
	files, err := filepath.Glob(dir + "/mon_groups/" + resctrl.Prefix + "*/mon_data/*/*")
	if err != nil {
		b.Fatal(err)
	}
	var fds []int
	for _, name := range files {
		fd, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		if err != nil {
			b.Fatalf("%s: %v", name, err)
		}
		fds = append(fds, fd)
	}
	b.Cleanup(func() {
		for _, fd := range fds {
			_ = syscall.Close(fd)
		}
	})
	b.ReportMetric(float64(len(fds)), "files")
	buf := make([]byte, 64)
	return func() {
		for i, fd := range fds {
			if n, err := syscall.Pread(fd, buf, 0); err != nil || n == 0 {
				b.Fatalf("%s: %d bytes, %v", files[i], n, err)
			}
		}
	}
}

// cpuTime is what f uses of this thread's CPU time.
func cpuTime(b *testing.B, f func()) time.Duration {
	b.Helper()
	clock := func() time.Duration {
		const thread = 1 // RUSAGE_THREAD
		var ru syscall.Rusage
		if err := syscall.Getrusage(thread, &ru); err != nil {
			b.Fatal(err)
		}
		return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
	}
	start := clock()
	f()
	return clock() - start
}
