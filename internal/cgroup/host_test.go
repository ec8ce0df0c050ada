package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/hosttest"
)

// These tests run on cgroups of their own, on whatever kind of host this is;
// CI runs them on v1 and on v2 in virtual machines.

func hostTree(t testing.TB) *Tree {
	t.Helper()
	hosttest.Need(t, "root")
	tree, err := FS{Root: "/"}.Tree()
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// eventually tries until ok: the kernel folds memory.stat in batches and
// every two seconds (FLUSH_TIME).
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain for ", what)
		}
	}
}

// cpuTime is what the scheduler charged to all threads of a process, from
// /proc/PID/task/TID/schedstat.
func cpuTime(t testing.TB, pid int) uint64 {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("threads of %d: %q, %v", pid, files, err)
	}
	total := uint64(0)
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(b), " ")
		ns, err := strconv.ParseUint(first, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		total += ns
	}
	return total
}

func TestHostCPU(t *testing.T) {
	tree := hostTree(t)
	parent := hosttest.NewCgroup(t, nil, "cpu")
	c := hosttest.NewCgroup(t, parent, "nested")
	g, above := open(t, tree, c.Path), open(t, tree, parent.Path)
	if u := present(t, read(t, g, CPU), CPUUsage); u != 0 {
		t.Errorf("a new cgroup used %d ns", u)
	}
	p := c.Start("spin 1s")
	p.Done()
	s := read(t, g, CPU)
	usage := present(t, s, CPUUsage)
	// The process started outside, so that it has more than its cgroup.
	if spent := cpuTime(t, p.Pid); usage < 1e9 || usage > spent+1e6 {
		t.Errorf("usage %d ns, of 1 s and %d ns in all", usage, spent)
	}
	// Two roundings, to 10 ms on v1.
	if sum := present(t, s, CPUUser) + present(t, s, CPUSystem); sum+20e6 < usage || sum > usage+20e6 {
		t.Errorf("user and system %d ns, usage %d ns", sum, usage)
	}
	if u := present(t, read(t, above, CPU), CPUUsage); u < usage {
		t.Errorf("the parent's usage is %d, less than %d", u, usage)
	}
	if pids, err := above.Pids(nil); err != nil || len(pids) != 0 {
		t.Errorf("the parent's own processes: %v, %v", pids, err)
	}
	if pids, err := g.Pids(nil); err != nil || !slices.Equal(pids, []int{p.Pid}) {
		t.Errorf("processes %v, %v; want %d", pids, err, p.Pid)
	}
	if c.Has("pids", "pids.current") || c.Has("unified", "pids.current") {
		ids, err := g.Threads(nil)
		if err != nil {
			t.Fatal(err)
		}
		if n := present(t, read(t, g, PIDs), PIDsCurrent); n != uint64(len(ids)) {
			t.Errorf("pids.current %d, threads %v", n, ids)
		}
	}
}

func TestHostThrottled(t *testing.T) {
	tree := hostTree(t)
	c := hosttest.NewCgroup(t, nil, "throttled")
	switch {
	case c.Has("cpu", "cpu.cfs_quota_us"):
		write(t, filepath.Join(c.Dir("cpu"), "cpu.cfs_quota_us"), "5000")
	case c.Has("unified", "cpu.max"):
		write(t, filepath.Join(c.Dir("unified"), "cpu.max"), "5000 100000")
	default:
		t.Skip("no cpu controller with quotas")
	}
	g := open(t, tree, c.Path)
	c.Start("spin 60ms").Done()
	s := read(t, g, CPU)
	// In any period in which the busy host gives it 5 % of a CPU.
	if n := present(t, s, CPUThrottledPeriods); n == 0 || n > present(t, s, CPUPeriods) {
		t.Errorf("throttled in %d of %d periods", n, present(t, s, CPUPeriods))
	}
	if present(t, s, CPUThrottledTime) == 0 {
		t.Error("throttled for no time")
	}
}

func TestHostMemory(t *testing.T) {
	tree := hostTree(t)
	c := hosttest.NewCgroup(t, nil, "memory")
	if !c.Has("memory", "memory.stat") && !c.Has("unified", "memory.stat") {
		t.Skip("no memory controller")
	}
	g := open(t, tree, c.Path)
	before := read(t, g, Memory|MemoryStat)
	const size = 64 << 20
	faults := uint64(size / os.Getpagesize())
	c.Start("touch 64").Done()
	var s *Stat
	eventually(t, "64 MiB in memory.stat", func() bool {
		s = read(t, g, Memory|MemoryStat|NUMA)
		return present(t, s, MemoryAnon) >= size && present(t, s, PageFaults)-present(t, before, PageFaults) >= faults
	})
	// The rest is what the Go runtime did meanwhile, and the race detector.
	const slack = 16 << 20
	if n := present(t, s, MemoryAnon); n > size+slack {
		t.Errorf("%d bytes of anonymous memory", n)
	}
	if n := present(t, s, PageFaults) - present(t, before, PageFaults); n > faults+faults/2 {
		t.Errorf("%d page faults, want %d", n, faults)
	}
	usage := present(t, s, MemoryUsage)
	if usage < size || usage > size+4*slack {
		t.Errorf("usage %d", usage)
	}
	if peak, ok := s.Get(MemoryPeak); ok && peak < usage {
		t.Errorf("peak %d below usage %d", peak, usage)
	}
	if n := present(t, s, OOMKills); n != 0 {
		t.Errorf("%d OOM kills", n)
	}
	onNodes := uint64(0)
	for _, n := range s.NUMA {
		onNodes += n.Bytes
	}
	// Some pages are yet in per-CPU batches, on no LRU list.
	if onNodes < size-slack || onNodes > size+4*slack {
		t.Errorf("on nodes: %v", s.NUMA)
	}
}

func TestHostOOM(t *testing.T) {
	tree := hostTree(t)
	c := hosttest.NewCgroup(t, nil, "oom")
	switch {
	case c.Has("memory", "memory.limit_in_bytes"):
		write(t, filepath.Join(c.Dir("memory"), "memory.limit_in_bytes"), "33554432")
		if c.Has("memory", "memory.memsw.limit_in_bytes") {
			write(t, filepath.Join(c.Dir("memory"), "memory.memsw.limit_in_bytes"), "33554432")
		}
	case c.Has("unified", "memory.max"):
		write(t, filepath.Join(c.Dir("unified"), "memory.max"), "33554432")
		if c.Has("unified", "memory.swap.max") {
			write(t, filepath.Join(c.Dir("unified"), "memory.swap.max"), "0")
		}
	default:
		t.Skip("no memory controller")
	}
	g := open(t, tree, c.Path)
	c.Start("touch 256")
	eventually(t, "an OOM kill", func() bool { return present(t, read(t, g, Memory), OOMKills) == 1 })
}

func TestHostLimits(t *testing.T) {
	tree := hostTree(t)
	c := hosttest.NewCgroup(t, nil, "limits")
	g := open(t, tree, c.Path)

	limits := []struct {
		hierarchy, file, content string
		want                     map[Field]uint64
	}{
		{"cpu", "cpu.cfs_period_us", "50000", map[Field]uint64{CPUPeriod: 50e6}},
		{"cpu", "cpu.cfs_quota_us", "25000", map[Field]uint64{CPUQuota: 25e6}},
		{"cpu", "cpu.cfs_burst_us", "5000", map[Field]uint64{CPUBurstLimit: 5e6}},
		{"cpu", "cpu.cfs_quota_us", "-1", map[Field]uint64{CPUQuota: Max}},
		{"cpu", "cpu.shares", "300", map[Field]uint64{CPUShares: 300}},
		{"cpu", "cpu.idle", "1", map[Field]uint64{CPUIdle: 1}},
		{"memory", "memory.limit_in_bytes", "104857600", map[Field]uint64{MemoryMax: 100 << 20}},
		{"memory", "memory.limit_in_bytes", "-1", map[Field]uint64{MemoryMax: Max}},
		{"memory", "memory.soft_limit_in_bytes", "52428800", map[Field]uint64{MemorySoftLimit: 50 << 20}},
		{"memory", "memory.soft_limit_in_bytes", "-1", map[Field]uint64{MemorySoftLimit: Max}},
		{"pids", "pids.max", "77", map[Field]uint64{PIDsMax: 77}},
		{"pids", "pids.max", "max", map[Field]uint64{PIDsMax: Max}},
		{"cpuset", "cpuset.cpus", "0", map[Field]uint64{CPUSetCPUs: 1}},
		{"unified", "cpu.max", "25000 50000", map[Field]uint64{CPUQuota: 25e6, CPUPeriod: 50e6}},
		{"unified", "cpu.max.burst", "5000", map[Field]uint64{CPUBurstLimit: 5e6}},
		{"unified", "cpu.max", "max", map[Field]uint64{CPUQuota: Max, CPUPeriod: 50e6}},
		{"unified", "cpu.weight", "300", map[Field]uint64{CPUWeight: 300}},
		{"unified", "cpu.idle", "1", map[Field]uint64{CPUIdle: 1}},
		{"unified", "memory.low", "10485760", map[Field]uint64{MemoryLow: 10 << 20}},
		{"unified", "memory.low", "max", map[Field]uint64{MemoryLow: Max}},
		{"unified", "memory.high", "83886080", map[Field]uint64{MemoryHigh: 80 << 20}},
		{"unified", "memory.max", "104857600", map[Field]uint64{MemoryMax: 100 << 20}},
		{"unified", "memory.max", "max", map[Field]uint64{MemoryMax: Max}},
		{"unified", "pids.max", "77", map[Field]uint64{PIDsMax: 77}},
		{"unified", "cpuset.cpus", "0", map[Field]uint64{CPUSetCPUs: 1}},
	}
	tried := 0
	for _, l := range limits {
		if !c.Has(l.hierarchy, l.file) {
			continue
		}
		err := os.WriteFile(filepath.Join(c.Dir(l.hierarchy), l.file), []byte(l.content), 0)
		if l.file == "memory.soft_limit_in_bytes" && !reads(t, filepath.Join(c.Dir(l.hierarchy), l.file), l.content) {
			continue // deprecated: kernels refuse it or take it to no effect
		}
		if err != nil {
			t.Error(err)
			continue
		}
		tried++
		s := read(t, g, Limits)
		for f, want := range l.want {
			if got, ok := s.Get(f); !ok || got != want {
				t.Errorf("%s = %q: field %d is %d (%v), want %d", l.file, l.content, f, got, ok, want)
			}
		}
		if l.file == "cpuset.cpus" && s.CPUSet != "0" {
			t.Errorf("CPUSet = %q", s.CPUSet)
		}
	}
	if tried < 5 && tree.Version() != Hybrid {
		t.Errorf("only %d limits were there to try", tried)
	}
	if g.Files() != 0 {
		t.Errorf("%d files stay open for the limits", g.Files())
	}
}

// reads says whether a file holds what was written to it.
func reads(t testing.TB, file, content string) bool {
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return content == "-1" || string(b) == content+"\n"
}

func TestHostPressure(t *testing.T) {
	hosttest.Need(t, "pressure")
	tree := hostTree(t)
	if tree.Unified() == "" {
		t.Skip("no v2 hierarchy")
	}
	c := hosttest.NewCgroup(t, nil, "pressure")
	if !c.Has("unified", "cpu.pressure") {
		t.Skip("no cpu.pressure")
	}
	g := open(t, tree, c.Path)
	if v := present(t, read(t, g, Pressure), CPUPressureSome); v != 0 {
		t.Errorf("a new cgroup waited %d ns", v)
	}
	// More threads than CPUs: some wait.
	for range 2 * nprocs(t) {
		c.Start("spin 300ms")
	}
	eventually(t, "cpu pressure", func() bool { return present(t, read(t, g, Pressure), CPUPressureSome) > 10e6 })

	// Hidden files give ENODEV, as a removed cgroup does.
	if !c.Has("unified", "cgroup.pressure") {
		return
	}
	toggle := filepath.Join(c.Dir("unified"), "cgroup.pressure")
	write(t, toggle, "0")
	s := read(t, g, All)
	for f := CPUPressureSome; f <= IOPressureFull; f++ {
		if v, ok := s.Get(f); ok {
			t.Errorf("hidden: field %d is %d", f, v)
		}
	}
	present(t, s, CPUUsage)
	if g.Problems() != nil {
		t.Error(g.Problems())
	}
	write(t, toggle, "1")
	for range 3 {
		s = read(t, g, All)
	}
	present(t, s, CPUPressureSome)
}

func nprocs(t testing.TB) int {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), "\ncpu")
}

func TestHostGone(t *testing.T) {
	tree := hostTree(t)
	for _, sets := range []Set{All, CPU, Limits} {
		for _, keep := range []int{tree.KeepFiles, 0} {
			tree.KeepFiles = keep
			c := hosttest.NewCgroup(t, nil, "gone")
			g := open(t, tree, c.Path)
			var s Stat
			if err := g.Read(&s, sets); err != nil {
				t.Fatal(err)
			}
			c.Remove()
			if err := g.Read(&s, sets); !errors.Is(err, ErrGone) {
				t.Errorf("sets %b, keeping %d: %v", sets, keep, err)
			}
			if len(fields(&s)) != 0 {
				t.Errorf("sets %b: %v", sets, fields(&s))
			}
			if _, err := tree.Open(c.Path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("opened again: %v", err)
			}
			// Another cgroup of that name is not this one.
			again := hosttest.NewCgroup(t, nil, "gone")
			if again.Path != c.Path {
				t.Fatalf("%q and %q", again.Path, c.Path)
			}
			if err := g.Read(&s, sets); !errors.Is(err, ErrGone) {
				t.Errorf("sets %b, keeping %d, made again: %v", sets, keep, err)
			}
			if _, err := g.Pids(nil); !errors.Is(err, ErrGone) {
				t.Errorf("Pids: %v", err)
			}
			_ = g.Close()
			read(t, open(t, tree, again.Path), sets)
			again.Remove()
		}
	}
}

// TestHostChurn opens and reads cgroups while they come and go.
func TestHostChurn(t *testing.T) {
	tree := hostTree(t)
	parent := hosttest.NewCgroup(t, nil, "churn")
	name := func(i int) string { return "c" + strconv.Itoa(i%5) }
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			for _, d := range tree.Dirs() {
				_ = os.Mkdir(d+parent.Path+"/"+name(i), 0o755)
			}
			for _, d := range tree.Dirs() {
				_ = os.Remove(d + parent.Path + "/" + name(i+2))
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	end := sync.OnceFunc(func() {
		close(stop)
		<-done
	})
	t.Cleanup(end)
	groups := map[string]*Group{}
	var s Stat
	reads, vanished := 0, 0
	deadline := time.Now().Add(20 * time.Second)
	for i := 0; (reads < 2000 || vanished < 50) && time.Now().Before(deadline); i++ {
		path := parent.Path + "/" + name(i)
		g := groups[path]
		if g == nil {
			var err error
			if g, err = tree.Open(path); errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				t.Fatal(err)
			}
			groups[path] = g
		}
		switch err := g.Read(&s, All); {
		case err == nil:
			reads++
			if p := g.Problems(); p != nil {
				t.Fatal(p)
			}
			_, err = g.Pids(nil)
			if err != nil && !errors.Is(err, ErrGone) {
				t.Fatal(err)
			}
		case errors.Is(err, ErrGone):
			vanished++
			_ = g.Close()
			delete(groups, path)
		default:
			t.Fatal(err)
		}
	}
	end()
	if reads == 0 || vanished == 0 {
		t.Errorf("%d reads, %d vanished", reads, vanished)
	}
	for _, g := range groups {
		_ = g.Close()
	}
	if tree.Files() != 0 {
		t.Errorf("%d files left open", tree.Files())
	}
	links, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if to, err := os.Readlink("/proc/self/fd/" + l.Name()); err == nil && strings.Contains(to, parent.Path) {
			t.Errorf("descriptor %s is left: %s", l.Name(), to)
		}
	}
}

func TestHostNames(t *testing.T) {
	tree := hostTree(t)
	for _, name := range []string{"a b", "tab\t", `back\slash`, `"quotes" 'and'`, "żółw 🐢", "\xff\xfe", "%s", "..x", "…"} {
		c := hosttest.NewCgroup(t, nil, name)
		g, err := tree.Open(c.Path)
		if err != nil {
			t.Error(err)
			continue
		}
		if _, ok := read(t, g, CPU).Get(CPUUsage); !ok {
			t.Errorf("%q: no usage", name)
		}
		_ = g.Close()
	}
	dir := hosttest.Hierarchies()[0].Dir
	if err := os.Mkdir(filepath.Join(dir, "owca-test-new\nline"), 0o755); !errors.Is(err, unix.EINVAL) {
		_ = os.Remove(filepath.Join(dir, "owca-test-new\nline"))
		t.Errorf("a newline: %v, and so far nobody allowed that", err)
	}
}

func TestHostThreads(t *testing.T) {
	tree := hostTree(t)
	c := hosttest.NewCgroup(t, nil, "threads")
	g := open(t, tree, c.Path)
	const n = 5000
	p := c.Start("threads " + strconv.Itoa(n))
	p.Done()
	ids, err := g.Threads(nil)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(ids)
	if len(ids) < n || len(ids) > n+50 || len(slices.Compact(slices.Clone(ids))) != len(ids) {
		t.Errorf("%d threads, %d of them different", len(ids), len(slices.Compact(slices.Clone(ids))))
	}
	for _, id := range ids {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d/task/%d", p.Pid, id)); err != nil {
			t.Fatalf("%d is no thread of the load: %v", id, err)
		}
	}
	room := &ids[0]
	if ids, err = g.Threads(ids); err != nil || len(ids) < n || &ids[0] != room {
		t.Errorf("again: %d threads, %v; the buffer was not used", len(ids), err)
	}
	if ids, err = g.Pids(ids); err != nil || !slices.Equal(ids, []int{p.Pid}) {
		t.Errorf("processes %v, %v; want %d", ids, err, p.Pid)
	}
	if allocs := testing.AllocsPerRun(3, func() { ids, _ = g.Threads(ids[:0]) }); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// TestHostPartly: on v1 a cgroup need not be in every hierarchy.
func TestHostPartly(t *testing.T) {
	tree := hostTree(t)
	memory, acct := tree.V1("memory"), tree.V1("cpuacct")
	if memory == "" || acct == "" {
		t.Skip("no v1 memory and cpuacct controllers")
	}
	name := fmt.Sprintf("/owca-test-%d-partly", os.Getpid())
	mkdir := func(dir string) {
		if err := os.Mkdir(dir+name, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(dir + name) })
	}
	mkdir(memory)
	g := open(t, tree, name)
	s := read(t, g, All)
	present(t, s, MemoryUsage)
	if _, ok := s.Get(CPUUsage); ok {
		t.Error("CPU usage without cpuacct")
	}
	mkdir(acct)
	read(t, g, All)
	s = read(t, g, All)
	present(t, s, MemoryUsage)
	present(t, s, CPUUsage)
}

// TestHostIO reads a disk of its own, a loop device.
func TestHostIO(t *testing.T) {
	tree := hostTree(t)
	if tree.Version() == Hybrid {
		t.Skip("setting a limit on a disk of a host that others use is no good")
	}
	hosttest.Need(t, "sh", "dd")
	disk, major, minor := loopDevice(t, 4<<20)
	c := hosttest.NewCgroup(t, nil, "io")
	g := open(t, tree, c.Path)
	s := read(t, g, IO)
	switch {
	case c.Has("blkio", "blkio.throttle.read_bps_device"):
		write(t, filepath.Join(c.Dir("blkio"), "blkio.throttle.read_bps_device"), fmt.Sprintf("%d:%d 1000000000", major, minor))
	case c.Has("unified", "io.stat"):
		if v := present(t, s, IOReadBytes); v != 0 {
			t.Errorf("a new cgroup read %d bytes", v)
		}
	default:
		t.Skip("no io controller")
	}
	cmd := exec.Command("sh", "-c", "read go; exec dd if="+disk+" of=/dev/null bs=64k count=32")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.Add(cmd.Process.Pid)
	if _, err := in.Write([]byte("go\n")); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	// On v1 the first answer was that the kernel does not count, and it is only
	// asked again after some reads.
	for range 200 {
		s = read(t, g, IO)
		if _, ok := s.Get(IOReadBytes); ok {
			break
		}
	}
	// Read-ahead may go on to the end of the disk.
	if v := present(t, s, IOReadBytes); v < 2<<20 || v > 4<<20 {
		t.Errorf("%d bytes read", v)
	}
	if v := present(t, s, IOReads); v == 0 || v > 1024 {
		t.Errorf("%d reads", v)
	}
	if a, b := present(t, s, IOWriteBytes), present(t, s, IOWrites); a != 0 || b != 0 {
		t.Errorf("%d bytes written in %d", a, b)
	}
}

func loopDevice(t *testing.T, size int64) (path string, major, minor uint32) {
	const loopCtlGetFree, loopSetFd, loopClrFd = 0x4c82, 0x4c00, 0x4c01 // linux/loop.h
	control, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip("no loop devices: ", err)
	}
	defer unix.Close(control)
	n, err := unix.IoctlRetInt(control, loopCtlGetFree)
	if err != nil {
		t.Skip("no loop devices: ", err)
	}
	path = "/dev/loop" + strconv.Itoa(n)
	file := filepath.Join(t.TempDir(), "disk")
	write(t, file, "")
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	back, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	loop, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip("no loop devices: ", err)
	}
	if err := unix.IoctlSetInt(loop, loopSetFd, int(back.Fd())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.IoctlSetInt(loop, loopClrFd, 0); err != nil {
			t.Error(err)
		}
		_ = unix.Close(loop)
	})
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return path, unix.Major(st.Rdev), unix.Minor(st.Rdev)
}
