package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/hosttest"
)

func TestCgroupsCaptured(t *testing.T) {
	got, err := fixture(t, "epyc").SelfCgroups()
	want := []Cgroup{
		{[]string{"name=systemd"}, "/"}, {[]string{"pids"}, "/"}, {[]string{"blkio"}, "/"}, {[]string{"freezer"}, "/"},
		{[]string{"devices"}, "/"}, {[]string{"memory"}, "/docker/0f1e2d3c4b5a69788796a5b4c3d2e1f0"},
		{[]string{"cpuset"}, "/"}, {[]string{"cpuacct"}, "/"}, {[]string{"cpu"}, "/"}, {nil, "/"},
	}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Error(d, err)
	}
}

func TestParseCgroups(t *testing.T) {
	got, err := parseCgroups([]byte("3:cpu,cpuacct:/a:b/c d\"\\é (deleted)\n0::/../x\n1:name=x:/cut"))
	want := []Cgroup{{[]string{"cpu", "cpuacct"}, `/a:b/c d"\é (deleted)`}, {nil, "/../x"}}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Error(d, err)
	}
	for _, bad := range []string{"\n", "x::/\n", "0:/\n", "0::\n", "0::relative\n", "0\n"} {
		if got, err := parseCgroups([]byte(bad)); err == nil {
			t.Errorf("%q is %+v", bad, got)
		}
	}
}

func TestCgroupsLive(t *testing.T) {
	c := hosttest.NewCgroup(t, nil, "proc cgroups: a\\b")
	p := c.Start("sleep")
	list, err := FS{}.Cgroups(p.Pid)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, g := range list {
		if strings.HasSuffix(g.Path, c.Path) {
			found++
		}
	}
	if want := len(hosttest.Hierarchies()); found != want {
		t.Errorf("in %d hierarchies, want %d: %+v", found, want, list)
	}
	if kernel, err := (FS{}).IsKernelThread(p.Pid); kernel || err != nil {
		t.Errorf("our process is a kernel thread: %v, %v", kernel, err)
	}
	p.Kill()
	if _, err := (FS{}).Cgroups(p.Pid); !errors.Is(err, ErrGone) {
		t.Errorf("gone: %v", err)
	}
	if _, err := (FS{}).IsKernelThread(p.Pid); !errors.Is(err, ErrGone) {
		t.Errorf("gone: %v", err)
	}
}

func TestIsKernelThread(t *testing.T) {
	fs := fixture(t, "epyc")
	put(t, fs, "/proc/7/stat", "7 (cat) R 2020 2013 2013 0 -1 4194304 75 0 0 0 0 0\n")
	put(t, fs, "/proc/8/stat", "8 (kworker/0:0-ev) I 2 0 0 0 -1 69238880 0 0 0 0 0 0\n")
	put(t, fs, "/proc/9/stat", "9 (kworker) S 2 0 0\n)) R 2020 2013 2013 0 -1 4194304 75 0 0 0 0 0\n")
	for pid, want := range map[int]bool{7: false, 8: true, 9: false} {
		if got, err := fs.IsKernelThread(pid); got != want || err != nil {
			t.Errorf("%d: %v, %v", pid, got, err)
		}
	}
	for _, bad := range []string{"", "1 (x", "1 (x) R 1 2 3\n", "1 (x) R 1 2 3 4 -1 flags 7 8\n"} {
		if _, err := parseFlags([]byte(bad)); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
	if comm, err := os.ReadFile("/proc/2/comm"); err == nil && string(comm) == "kthreadd\n" {
		if got, err := (FS{}).IsKernelThread(2); !got || err != nil {
			t.Errorf("kthreadd: %v, %v", got, err)
		}
	}
}

func TestRunDelay(t *testing.T) {
	s, err := FS{}.OpenSchedstat()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()

	// Two that spin on the same CPU wait for each other.
	var allowed, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		t.Fatal(err)
	}
	for cpu := range maxID {
		if allowed.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	c := hosttest.NewCgroup(t, nil, "proc-delay")
	spinners := []*hosttest.Process{c.Start("spin 300ms"), c.Start("spin 300ms")}
	for _, p := range spinners {
		for _, tid := range threads(t, p.Pid) {
			if err := unix.SchedSetaffinity(tid, &one); err != nil && !errors.Is(err, unix.ESRCH) {
				t.Fatal(err)
			}
		}
	}
	total := uint64(0)
	for _, p := range spinners {
		p.Done()
		for _, tid := range threads(t, p.Pid) {
			wait, err := s.RunDelay(tid)
			if err != nil && !errors.Is(err, ErrGone) {
				t.Fatal(err)
			}
			total += wait
		}
	}
	if total < 10e6 {
		t.Errorf("waited %d ns", total)
	}

	p := spinners[0]
	p.Kill()
	if n, err := s.RunDelay(p.Pid); !errors.Is(err, ErrGone) || n != 0 {
		t.Errorf("gone: %d, %v", n, err)
	}
	gone, live := p.Pid, spinners[1].Pid
	if n := testing.AllocsPerRun(100, func() {
		if _, err := s.RunDelay(live); err != nil {
			panic(err)
		}
		if _, err := s.RunDelay(gone); !errors.Is(err, ErrGone) {
			panic(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func threads(t *testing.T, pid int) []int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	var tids []int
	for _, e := range entries {
		var tid int
		if _, err := fmt.Sscan(e.Name(), &tid); err != nil {
			t.Fatal(err)
		}
		tids = append(tids, tid)
	}
	return tids
}

func TestOpenSchedstat(t *testing.T) {
	fs := fixture(t, "arm64")
	put(t, fs, "/proc/12/schedstat", "1830212 42113 7\n")
	put(t, fs, "/proc/13/schedstat", "no numbers\n")
	s, err := fs.OpenSchedstat()
	if err != nil {
		t.Fatal(err)
	}
	if n, err := s.RunDelay(12); n != 42113 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := s.RunDelay(13); err == nil || !strings.Contains(err.Error(), "/proc/13/schedstat") {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := s.RunDelay(14); !errors.Is(err, ErrGone) {
		t.Errorf("%d, %v", n, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if n, err := s.RunDelay(12); !errors.Is(err, unix.EBADF) {
		t.Errorf("closed: %d, %v", n, err)
	}

	put(t, fs, "/proc/self/schedstat", "0 0 0\n")
	if _, err := fs.OpenSchedstat(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("not counted: %v", err)
	}
	drop(t, fs, "/proc/self/schedstat")
	if _, err := fs.OpenSchedstat(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("no file: %v", err)
	}
	if _, err := (FS{t.TempDir()}).OpenSchedstat(); err == nil || errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("no proc: %v", err)
	}
}

func TestSelf(t *testing.T) {
	s := FS{}.NewSelf()
	defer s.Close()
	var r SelfStat
	if err := s.Read(&r); err != nil {
		t.Fatal(err)
	}
	// All of what we hold is resident: at least this much, then.
	held := bytes.Repeat([]byte{1}, 64<<20)
	before := r
	if err := s.Read(&r); err != nil {
		t.Fatal(err)
	}
	if r.Resident.N < uint64(len(held)) || !r.Resident.OK {
		t.Errorf("resident %+v with %d bytes held, %+v before", r.Resident, len(held), before.Resident)
	}
	held[0] = 2
	for r.CPU.N == before.CPU.N {
		if err := s.Read(&r); err != nil {
			t.Fatal(err)
		}
	}
	if r.CPU.N < before.CPU.N || !before.CPU.OK {
		t.Errorf("cpu went from %+v to %+v", before.CPU, r.CPU)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if want := (Count{limit.Cur, true}); limit.Cur != unix.RLIM_INFINITY && r.FilesMax != want {
		t.Errorf("file limit %+v, want %+v", r.FilesMax, want)
	}

	// Both ways of counting files see each one that is opened: more entries
	// than one call returns, too.
	for _, dirent := range []bool{false, true} {
		s.dirent = dirent
		if err := s.Read(&r); err != nil {
			t.Fatal(err)
		}
		before := r.Files.N
		var files []*os.File
		for range 500 {
			f, err := os.Open("/dev/null")
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
		}
		if err := s.Read(&r); err != nil {
			t.Fatal(err)
		}
		if r.Files != known(before+500) {
			t.Errorf("by entries %v: %d files and 500 more are %+v", dirent, before, r.Files)
		}
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		if want := uint64(len(entries) - 1); r.Files.N != want {
			t.Errorf("by entries %v: %d files, ls finds %d", dirent, r.Files.N, want)
		}
		if n := testing.AllocsPerRun(20, func() {
			if err := s.Read(&r); err != nil {
				panic(err)
			}
		}); n != 0 {
			t.Errorf("by entries %v: %v allocations", dirent, n)
		}
		for _, f := range files {
			_ = f.Close()
		}
	}

	nowhere := FS{t.TempDir()}.NewSelf()
	if err := nowhere.Read(&r); !errors.Is(err, os.ErrNotExist) || r.Resident.OK || r.Files.OK || !r.CPU.OK {
		t.Errorf("without proc: %+v, %v", r, err)
	}
}

func TestIdentity(t *testing.T) {
	for name, want := range map[string][3]string{
		"epyc":       {"AMD EPYC", "6.18.44", "epyc"},
		"two-socket": {"Intel Xeon (QEMU; RDT emulated in the kernel)", "6.12.117", "twosocket"},
		"arm64":      {"implementer 0x41 variant 0x0 part 0xd08 revision 3", "6.1.0-56-arm64", "arm"},
	} {
		fs := fixture(t, name)
		model, err1 := fs.CPUModel()
		kernel, err2 := fs.KernelVersion()
		host, err3 := fs.Hostname()
		if got := [3]string{model, kernel, host}; got != want || errors.Join(err1, err2, err3) != nil {
			t.Errorf("%s: %q, want %q, %v", name, got, want, errors.Join(err1, err2, err3))
		}
	}
	fs := FS{t.TempDir()}
	put(t, fs, "/proc/cpuinfo", "vendor_id       : IBM/S390\n# processors    : 2\n\nmodel name : not the first\n")
	if _, err := fs.CPUModel(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("no model: %v", err)
	}
	if _, err := fs.Hostname(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no host name: %v", err)
	}
	if got, err := (FS{}).Hostname(); err != nil || got != hostname(t) {
		t.Errorf("%q, %v", got, err)
	}
}

func hostname(t *testing.T) string {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	return unix.ByteSliceToString(u.Nodename[:])
}

func TestPerfEventParanoid(t *testing.T) {
	if n, err := fixture(t, "arm64").PerfEventParanoid(); n != -1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	fs := FS{t.TempDir()}
	if _, err := fs.PerfEventParanoid(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("none: %v", err)
	}
	put(t, fs, "/proc/sys/kernel/perf_event_paranoid", "two\n")
	if _, err := fs.PerfEventParanoid(); err == nil || errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("malformed: %v", err)
	}
}

func TestCapabilities(t *testing.T) {
	c, err := fixture(t, "epyc").Capabilities()
	if c != 0x1fffeffffff || err != nil || !c.Has(unix.CAP_SYS_ADMIN) || c.Has(unix.CAP_SYS_RESOURCE) || !c.Has(unix.CAP_CHECKPOINT_RESTORE) {
		t.Errorf("%x, %v", uint64(c), err)
	}
	if got := Capabilities(1<<unix.CAP_PERFMON | 1<<unix.CAP_CHOWN | 1<<63).String(); got != "cap_chown,cap_perfmon,cap_63" {
		t.Error(got)
	}
	if got := capabilityName(unix.CAP_LAST_CAP); got != "cap_checkpoint_restore" {
		t.Errorf("the last one is %s", got)
	}
	for _, bad := range []string{"", "CapEff:\t12\n", "CapEff:\tzzzzzzzzzzzzzzzz\n", "CapEff:\t000001ffffffffff"} {
		if c, err := parseCapabilities([]byte(bad)); err == nil {
			t.Errorf("%q is %x", bad, uint64(c))
		}
	}

	// Against capget(2).
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	want := Capabilities(uint64(data[1].Effective)<<32 | uint64(data[0].Effective))
	if got, err := (FS{}).Capabilities(); got != want || err != nil {
		t.Errorf("%v, %v; capget: %v", got, err, want)
	}
}
