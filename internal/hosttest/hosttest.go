// Package hosttest is what tests need of a real host: leave to use it, cgroups
// of their own on every mounted hierarchy, and processes in them whose load is
// known. Only tests import it.
package hosttest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Need skips the test unless this host has everything named. When the
// environment variable OWCA_TEST_REQUIRE (a comma-separated list) names a need
// that the host does not meet, the test fails instead: that is how CI makes
// sure that what it installed is really used.
//
// Needs: root; bpf (root, and a kernel with BTF); cgroup1 and cgroup2 (pure
// hosts), hybrid; pressure; pmu (hardware cycles are counted), no-pmu, no-instructions (only cycles are),
// exact (see Exact), smp, hotplug (CPU 1 may be unplugged); resctrl (mounted at
// /sys/fs/resctrl, and root), with a feature of it behind: resctrl/L3_MON, resctrl/!MB,
// resctrl+mba_MBps, resctrl-few, resctrl-many (see metResctrl); or the name of a program
// that must be in PATH, as "promtool".
func Need(t testing.TB, needs ...string) {
	t.Helper()
	required := strings.Split(os.Getenv("OWCA_TEST_REQUIRE"), ",")
	for _, need := range needs {
		err := met(need)
		switch {
		case err == nil:
		case slices.Contains(required, need):
			t.Fatalf("OWCA_TEST_REQUIRE names %s, but: %v", need, err)
		default:
			t.Skipf("needs %s: %v", need, err)
		}
	}
}

func met(need string) error {
	if feature, ok := strings.CutPrefix(need, "resctrl"); ok {
		return metResctrl(feature)
	}
	switch need {
	case "root":
		if os.Geteuid() != 0 {
			return errors.New("not running as root")
		}
		return nil
	case "cgroup1", "cgroup2", "hybrid":
		if got := hostKind(); got != need {
			return fmt.Errorf("this host's cgroups are %q", got)
		}
		return nil
	case "pressure":
		_, err := os.ReadFile("/proc/pressure/cpu")
		return err
	case "bpf":
		if os.Geteuid() != 0 {
			return errors.New("not running as root")
		}
		_, err := os.Stat("/sys/kernel/btf/vmlinux")
		return err
	case "pmu", "no-pmu", "no-instructions", "exact", "smp", "hotplug":
		return metCounting(need)
	default:
		_, err := exec.LookPath(need)
		return err
	}
}

func hostKind() string {
	dirs := Hierarchies()
	v2 := 0
	for _, d := range dirs {
		if d.Type == "cgroup2" {
			v2++
		}
	}
	switch {
	case len(dirs) == 0:
		return "none"
	case v2 == len(dirs):
		return "cgroup2"
	case v2 == 0:
		return "cgroup1"
	default:
		return "hybrid"
	}
}

// A Hierarchy is a mounted cgroup hierarchy.
type Hierarchy struct {
	Dir  string // mount point
	Type string // "cgroup" or "cgroup2"
	// Controllers of a v1 hierarchy, with "name=…" for named ones.
	Controllers []string
}

// Hierarchies reads /proc/self/mounts.
func Hierarchies() []Hierarchy {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil
	}
	defer f.Close()
	var list []Hierarchy
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) < 4 || fields[2] != "cgroup" && fields[2] != "cgroup2" {
			continue
		}
		h := Hierarchy{Dir: fields[1], Type: fields[2]}
		if h.Type == "cgroup" {
			h.Controllers = strings.Split(fields[3], ",")
		}
		list = append(list, h)
	}
	return list
}

// Cgroup is a cgroup of the test's own, present in every hierarchy.
type Cgroup struct {
	Path string // "/owca-test-…", as in /proc/PID/cgroup
	t    testing.TB
	dirs []string
}

// NewCgroup makes a cgroup whose name contains name, in every hierarchy,
// below parent (nil: the root). The test's end kills what is still in it and
// removes it with all that was made below it. It needs root.
func NewCgroup(t testing.TB, parent *Cgroup, name string) *Cgroup {
	t.Helper()
	Need(t, "root")
	hierarchies := Hierarchies()
	if len(hierarchies) == 0 {
		t.Fatal("no cgroup hierarchy is mounted")
	}
	base := fmt.Sprintf("/owca-test-%d-%s", os.Getpid(), name)
	if parent != nil {
		base = parent.Path + "/" + name
	}
	c := &Cgroup{Path: base, t: t}
	for _, h := range hierarchies {
		dir := h.Dir + base
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		c.dirs = append(c.dirs, dir)
		t.Cleanup(func() { remove(t, dir) })
		if h.Type == "cgroup" && slices.Contains(h.Controllers, "cpuset") {
			inheritCpuset(dir)
		}
	}
	return c
}

// inheritCpuset gives a new v1 cpuset its parent's cpus and nodes: until both
// are set, no process can be moved in.
func inheritCpuset(dir string) {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		if b, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file)); err == nil {
			_ = os.WriteFile(filepath.Join(dir, file), b, 0)
		}
	}
}

// remove removes a cgroup directory of ours and those below it, killing the
// processes in them, which the test has started.
func remove(t testing.TB, dir string) {
	deadline := time.Now().Add(10 * time.Second)
	for {
		var last error
		var dirs []string
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, d := range slices.Backward(dirs) {
			if b, err := os.ReadFile(filepath.Join(d, "cgroup.procs")); err == nil {
				for _, pid := range strings.Fields(string(b)) {
					if n, err := strconv.Atoi(pid); err == nil && n != os.Getpid() {
						_ = syscall.Kill(n, syscall.SIGKILL)
					}
				}
			}
			if err := os.Remove(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
				last = err
			}
		}
		if last == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("leaving a cgroup behind: %v", last)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Dir returns the cgroup's directory in the hierarchy of a v1 controller, or
// of v2 for "unified"; "" if that is not mounted.
func (c *Cgroup) Dir(controller string) string {
	for i, h := range Hierarchies() {
		if controller == "unified" && h.Type == "cgroup2" || slices.Contains(h.Controllers, controller) {
			return c.dirs[i]
		}
	}
	return ""
}

// Stolen is how long, in steps of 10 ms, all CPUs did what perf's clocks count
// for the running thread and the scheduler does not: interrupts, and giving way
// to another guest.
func Stolen(t testing.TB) time.Duration {
	t.Helper()
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	var user, nice, system, idle, iowait, irq, softirq, steal int64
	if _, err := fmt.Sscanf(string(data), "cpu %d %d %d %d %d %d %d %d", &user, &nice, &system, &idle, &iowait, &irq, &softirq, &steal); err != nil {
		t.Fatal(err)
	}
	return time.Duration(irq+softirq+steal) * time.Second / 100 // USER_HZ
}

// PerfDir returns the cgroup's directory in the hierarchy that perf_event
// belongs to: its own if it is mounted, otherwise v2.
func (c *Cgroup) PerfDir() string {
	if dir := c.Dir("perf_event"); dir != "" {
		return dir
	}
	return c.Dir("unified")
}

// Has says whether the cgroup has a file of this name in the controller's
// hierarchy.
func (c *Cgroup) Has(controller, file string) bool {
	dir := c.Dir(controller)
	if dir == "" {
		return false
	}
	_, err := os.Stat(filepath.Join(dir, file))
	return err == nil
}

// Add moves a process into the cgroup, in every hierarchy.
func (c *Cgroup) Add(pid int) {
	c.t.Helper()
	for _, dir := range c.dirs {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			c.t.Fatal(err)
		}
	}
}

// Remove removes the cgroup before the test ends; what runs in it is killed.
func (c *Cgroup) Remove() {
	c.t.Helper()
	for _, dir := range c.dirs {
		remove(c.t, dir)
	}
}

// A Process is a load in a cgroup.
type Process struct {
	Pid int
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	end sync.Once
}

const loadVariable = "OWCA_HOSTTEST_LOAD"

// Main is for TestMain of a package that uses Start: the loads are run by the
// test binary itself, started again.
func Main(m *testing.M) {
	RunLoad()
	os.Exit(m.Run())
}

// RunLoad is for a TestMain that has more to do than Main: it does not return if
// this process is a load.
func RunLoad() {
	load := os.Getenv(loadVariable)
	if load == "" {
		return
	}
	if err := run(strings.Fields(load)); err != nil {
		fmt.Fprintln(os.Stderr, "hosttest load:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Start starts a load inside the cgroup; none of its work is done outside.
// When Start returns the load has been told to begin. The loads:
//
//	sleep            nothing until killed
//	spin 1.5s        one thread uses that much CPU time, then waits
//	switch 1000      one thread sleeps that many times, then waits
//	touch 64         touches that many MiB of anonymous memory, then waits
//	threads 100      keeps that many OS threads blocked until killed
//	forks 8          that many chains of processes, each of which forks the next
//	                 and ends, until killed
//
// See Process.Done.
func (c *Cgroup) Start(load string) *Process {
	c.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	p := &Process{t: c.t, cmd: exec.Command(exe, "-test.run=^$")}
	p.cmd.Env = append(os.Environ(), loadVariable+"="+load)
	p.cmd.Stderr = os.Stderr
	p.in, err = p.cmd.StdinPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(p.Kill)
	p.Pid = p.cmd.Process.Pid
	p.Done() // it has started, and waits
	// Threads are stopped to be moved: Go's own wake up now and then, and what
	// one that moves while it runs did outside would be counted inside.
	p.signal(syscall.SIGSTOP)
	p.waitState("T")
	c.Add(p.Pid)
	p.signal(syscall.SIGCONT)
	if _, err := io.WriteString(p.in, "go\n"); err != nil {
		c.t.Fatal(err)
	}
	return p
}

// WaitBlocked waits until all threads of the process sleep.
func (p *Process) WaitBlocked() {
	p.t.Helper()
	p.waitState("S")
}

func (p *Process) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
}

// waitState waits until all threads are in a state of /proc/PID/stat.
func (p *Process) waitState(want string) {
	p.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.Pid))
		if err != nil {
			p.t.Fatal(err)
		}
		if len(stats) > 0 && !slices.ContainsFunc(stats, func(name string) bool {
			stat, err := os.ReadFile(name)
			_, state, _ := strings.Cut(string(stat), ") ")
			return err != nil || !strings.HasPrefix(state, want)
		}) {
			return
		}
	}
	p.t.Fatalf("process %d does not come to state %s", p.Pid, want)
}

// Done waits until the load has done its work. The process still lives.
func (p *Process) Done() {
	p.t.Helper()
	if _, err := p.out.ReadString('\n'); err != nil {
		p.t.Fatalf("load: %v", err)
	}
}

// Kill kills the process and waits until it is gone.
func (p *Process) Kill() {
	p.end.Do(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	})
}
