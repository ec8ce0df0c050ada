package proc

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/hosttest"
)

func read(t *testing.T, h *Host, s *HostStat) {
	t.Helper()
	if err := errors.Join(h.Read(s), h.ReadSlow(s)); err != nil {
		t.Fatal(err)
	}
}

func known(n uint64) Count { return Count{n, true} }

func TestHostCaptured(t *testing.T) {
	h := fixture(t, "two-socket-offline").NewHost([]string{"numa_hit", "no_such_key", "nr_free_pages"})
	defer h.Close()
	var s HostStat
	read(t, h, &s)
	want := HostStat{
		CPUsChanged: 1,
		CPUs:        []CPUTime{{0, 136}, {1, 136}, {2, 76}, {4, 58}, {5, 23}, {7, 20}},
		Memory: Memory{
			Total: known(1011660 << 10), Free: known(980268 << 10), Available: known(912696 << 10),
			Buffers: known(0), Cached: known(1956 << 10), Slab: known(8816 << 10),
		},
		VMStat:         []Count{known(32206), {}, known(245067)},
		Load:           Load{0, 0, 0, true},
		CPUPressure:    Pressure{Some: known(597301)}, // full is not defined
		MemoryPressure: Pressure{known(0), known(0)},
		IOPressure:     Pressure{known(0), known(0)},
	}
	frequencies, nodes := s.Frequencies, s.Nodes
	s.Frequencies, s.Nodes = nil, nil
	if d := cmp.Diff(want, s); d != "" {
		t.Error(d)
	}
	// No cpufreq there: /proc/cpuinfo.
	var cpus []int
	for _, f := range frequencies {
		if f.Hertz < 1e8 || f.Hertz > 1e10 {
			t.Errorf("frequency %+v", f)
		}
		cpus = append(cpus, f.CPU)
	}
	if d := cmp.Diff([]int{0, 1, 2, 4, 5, 7}, cpus); d != "" {
		t.Error(d)
	}
	if len(nodes) != 2 || nodes[0].Node != 0 || nodes[1].Node != 1 {
		t.Fatalf("nodes %+v", nodes)
	}
	total := nodes[0].Free.N + nodes[0].Used.N + nodes[1].Free.N + nodes[1].Used.N
	if total != 1011660<<10 {
		t.Errorf("the nodes have %d bytes together", total)
	}
}

func TestHostWithout(t *testing.T) {
	// What a kernel need not have is absent without an error.
	fs := fixture(t, "arm64")
	drop(t, fs, "/proc/pressure")
	drop(t, fs, "/sys/devices/system/node")
	put(t, fs, "/proc/meminfo", "MemTotal: 1000 kB\nMemFree: 10 kB\n")
	h := fs.NewHost(nil)
	defer h.Close()
	var s HostStat
	read(t, h, &s)
	if s.CPUPressure != (Pressure{}) || s.IOPressure != (Pressure{}) || s.MemoryPressure != (Pressure{}) {
		t.Errorf("pressure %+v", s)
	}
	if len(s.Nodes) != 0 || len(s.Frequencies) != 0 || len(s.VMStat) != 0 {
		t.Errorf("%+v", s)
	}
	if d := cmp.Diff(Memory{Total: known(1000 << 10), Free: known(10 << 10)}, s.Memory); d != "" {
		t.Error(d)
	}
	if len(s.CPUs) != 4 {
		t.Errorf("cpus %+v", s.CPUs)
	}
}

func TestHostErrors(t *testing.T) {
	// What every kernel has and cannot be read is an error, and only that is
	// absent; it comes back when it can be read.
	fs := fixture(t, "epyc")
	h := fs.NewHost([]string{"pgfault"})
	defer h.Close()
	good := map[string]string{}
	for _, name := range []string{"/proc/stat", "/proc/meminfo", "/proc/vmstat", "/proc/loadavg", "/proc/pressure/memory"} {
		good[name] = get(t, fs, name)
	}
	var want, s HostStat
	read(t, h, &want)
	for name, bad := range map[string]string{
		"/proc/stat":            "cpu0 a b c d\n",
		"/proc/meminfo":         "MemTotal: 12 MB\n",
		"/proc/vmstat":          "pgfault -1\n",
		"/proc/loadavg":         "1 2 3\n",
		"/proc/pressure/memory": "some total=99999999999999999999\n",
	} {
		put(t, fs, name, bad)
		err := h.Read(&s)
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error %v", name, err)
		}
		absent := map[string]bool{
			"/proc/stat": len(s.CPUs) > 0, "/proc/meminfo": s.Memory != (Memory{}), "/proc/vmstat": s.VMStat[0].OK,
			"/proc/loadavg": s.Load.OK, "/proc/pressure/memory": s.MemoryPressure != (Pressure{}),
		}
		for other, present := range absent {
			if present == (other == name) {
				t.Errorf("%s is bad, %s present: %v", name, other, present)
			}
		}
		put(t, fs, name, good[name])
		read(t, h, &s)
		if d := cmp.Diff(want, s); d != "" {
			t.Errorf("%s, again: %s", name, d)
		}
	}

	nowhere := FS{t.TempDir()}.NewHost([]string{"pgfault"})
	err := errors.Join(nowhere.Read(&s), nowhere.ReadSlow(&s))
	if !errors.Is(err, os.ErrNotExist) || len(s.CPUs) != 0 || s.Memory.Total.OK || s.VMStat[0].OK {
		t.Errorf("without proc: %+v, %v", s, err)
	}
	for _, name := range []string{"stat", "meminfo", "vmstat", "loadavg"} {
		if !strings.Contains(err.Error(), "/proc/"+name) {
			t.Errorf("%s is not in %v", name, err)
		}
	}
}

func TestHostCPUsComeAndGo(t *testing.T) {
	fs := machine(t, 256)
	h := fs.NewHost(nil)
	defer h.Close()
	var s HostStat
	read(t, h, &s)
	read(t, h, &s)
	if s.CPUsChanged != 1 || len(s.CPUs) != 256 || len(s.Frequencies) != 256 || len(s.Nodes) != 2 {
		t.Fatalf("changed %d, %d cpus, %d frequencies, %d nodes", s.CPUsChanged, len(s.CPUs), len(s.Frequencies), len(s.Nodes))
	}
	if got, want := s.CPUs[255], (CPUTime{255, 1000000255 + 20 + 300 + 60 + 7 + 8000}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got, want := s.Frequencies[255], (Frequency{255, 2000255000}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if d := cmp.Diff(NodeMemory{1, known(899 << 10), known(101 << 10)}, s.Nodes[1]); d != "" {
		t.Error(d)
	}
	// The line of interrupts, which is 40 KB, is not read.
	if len(h.buf) >= 32<<10 {
		t.Errorf("%d bytes were wanted of /proc/stat", len(h.buf))
	}

	all := get(t, fs, "/proc/stat")
	put(t, fs, "/proc/stat", strings.Join(strings.SplitAfter(all, "\n")[:200], "")+"intr 0\n")
	read(t, h, &s)
	if s.CPUsChanged != 2 || len(s.CPUs) != 199 || len(s.Frequencies) != 199 {
		t.Errorf("changed %d, %d cpus, %d frequencies", s.CPUsChanged, len(s.CPUs), len(s.Frequencies))
	}
	put(t, fs, "/proc/stat", all)
	read(t, h, &s)
	if s.CPUsChanged != 3 || len(s.CPUs) != 256 || len(s.Frequencies) != 256 {
		t.Errorf("changed %d, %d cpus, %d frequencies", s.CPUsChanged, len(s.CPUs), len(s.Frequencies))
	}

	put(t, fs, "/sys/devices/system/node/online", "1\n")
	read(t, h, &s)
	if len(s.Nodes) != 1 || s.Nodes[0].Node != 1 {
		t.Errorf("nodes %+v", s.Nodes)
	}
}

func TestFrequencySource(t *testing.T) {
	for release, fromCPUFreq := range map[string]bool{
		"6.8.0-31-generic": true, "5.19.0": true, "10.0-rc1+": true,
		"5.15.0-91-generic": false, "4.18.0-513.el8.x86_64": false, "weird": false,
	} {
		fs := machine(t, 8)
		put(t, fs, "/proc/sys/kernel/osrelease", release+"\n")
		h := fs.NewHost(nil)
		var s HostStat
		read(t, h, &s)
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		// cpufreq says 2000003 kHz, cpuinfo 2003.125 MHz.
		if got := s.Frequencies[3].Hertz == 2000003000; got != fromCPUFreq || len(s.Frequencies) != 8 {
			t.Errorf("%s: %+v of %d, from cpufreq: %v", release, s.Frequencies[3], len(s.Frequencies), fromCPUFreq)
		}
	}

	// A driver that does not know, a cpu without one, and one that fails.
	fs := machine(t, 8)
	put(t, fs, "/sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq", "0\n")
	drop(t, fs, "/sys/devices/system/cpu/cpu2/cpufreq")
	put(t, fs, "/sys/devices/system/cpu/cpu4/cpufreq/scaling_cur_freq", "<unknown>\n")
	h := fs.NewHost(nil)
	defer h.Close()
	var s HostStat
	err := errors.Join(h.Read(&s), h.ReadSlow(&s))
	if err == nil || !strings.Contains(err.Error(), "cpu4") || strings.Contains(err.Error(), "cpu2/") {
		t.Errorf("error %v", err)
	}
	if len(s.Frequencies) != 5 || s.Frequencies[1].CPU != 3 {
		t.Errorf("%d frequencies, second %+v", len(s.Frequencies), s.Frequencies[1])
	}
}

func TestHostAllocates(t *testing.T) {
	for name, fs := range map[string]FS{"this host": {}, "256 cpus": machine(t, 256)} {
		t.Run(name, func(t *testing.T) {
			h := fs.NewHost(DefaultVMStat)
			defer h.Close()
			var s HostStat
			read(t, h, &s)
			if n := testing.AllocsPerRun(20, func() {
				if err := errors.Join(h.Read(&s), h.ReadSlow(&s)); err != nil {
					panic(err)
				}
			}); n != 0 {
				t.Errorf("%v allocations", n)
			}
		})
	}
}

func TestHostLive(t *testing.T) {
	h := FS{}.NewHost(DefaultVMStat)
	defer h.Close()
	var before, after HostStat
	if err := errors.Join(h.Read(&before), h.ReadSlow(&before)); err != nil {
		t.Fatal(err)
	}
	const spin = 300 * time.Millisecond
	c := hosttest.NewCgroup(t, nil, "proc")
	c.Start("spin " + spin.String()).Done()
	read(t, h, &after)

	if len(before.CPUs) == 0 || before.CPUsChanged != after.CPUsChanged {
		t.Fatalf("cpus before %+v, after %+v", before.CPUs, after.CPUs)
	}
	busy := uint64(0)
	for i := range after.CPUs {
		if after.CPUs[i].Busy < before.CPUs[i].Busy {
			t.Errorf("cpu %d went from %d to %d ticks", i, before.CPUs[i].Busy, after.CPUs[i].Busy)
		}
		busy += after.CPUs[i].Busy - before.CPUs[i].Busy
	}
	// Half of it: many kernels count by sampling.
	if want := uint64(spin/(10*time.Millisecond)) / 2; busy < want {
		t.Errorf("%d ticks busy, want %d at least", busy, want)
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		t.Fatal(err)
	}
	if got := after.Memory.Total; got != known(info.Totalram*uint64(info.Unit)) {
		t.Errorf("memory %+v, sysinfo %d", got, info.Totalram)
	}
	if i := 0; !after.VMStat[i].OK || after.VMStat[i].N <= before.VMStat[i].N {
		t.Errorf("%s went from %+v to %+v", DefaultVMStat[i], before.VMStat[i], after.VMStat[i])
	}
	for i, count := range after.VMStat {
		present := strings.Contains("\n"+get(t, FS{}, "/proc/vmstat"), "\n"+DefaultVMStat[i]+" ")
		if count.OK != present {
			t.Errorf("%s is in the file: %v, found: %+v", DefaultVMStat[i], present, count)
		}
	}
	if !after.Load.OK {
		t.Error("no load")
	}
}

func TestHostPressure(t *testing.T) {
	hosttest.Need(t, "pressure")
	h := FS{}.NewHost(nil)
	defer h.Close()
	var s HostStat
	read(t, h, &s)
	if !s.CPUPressure.Some.OK || !s.MemoryPressure.Some.OK || !s.MemoryPressure.Full.OK || !s.IOPressure.Full.OK {
		t.Errorf("%+v %+v %+v", s.CPUPressure, s.MemoryPressure, s.IOPressure)
	}
}

// Hosts are closed and used again, and leave no descriptor behind.
func TestHostClose(t *testing.T) {
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	h := machine(t, 32).NewHost(DefaultVMStat)
	var s HostStat
	before := count()
	for range 3 {
		read(t, h, &s)
		if count() < before+32 {
			t.Error("files are not kept open")
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		if n := count(); n != before {
			t.Errorf("%d descriptors, %d before", n, before)
		}
	}
}

// A descriptor that fails is opened anew, once it can be.
func TestFileReopens(t *testing.T) {
	fs := FS{t.TempDir()}
	put(t, fs, "/a", "one\n")
	f := file{path: fs.path("/a"), whole: true}
	defer f.close()
	var buf []byte
	if b, err := f.read(&buf); string(b) != "one\n" || err != nil {
		t.Fatalf("%q, %v", b, err)
	}
	// What reading a removed sysfs file does: the descriptor fails.
	if err := syscall.Dup3(openDir(t, fs), f.fd, 0); err != nil {
		t.Fatal(err)
	}
	if b, err := f.read(&buf); len(b) > 0 || !errors.Is(err, unix.EISDIR) {
		t.Fatalf("%q, %v", b, err)
	}
	if b, err := f.read(&buf); string(b) != "one\n" || err != nil {
		t.Fatalf("%q, %v", b, err)
	}
}

func openDir(t *testing.T, fs FS) int {
	d, err := os.Open(fs.Root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return int(d.Fd())
}

func TestFileOfAnySize(t *testing.T) {
	fs := FS{t.TempDir()}
	for _, size := range []int{0, 1, 4095, 4096, 4097, 8192, 100000} {
		for _, whole := range []bool{true, false} {
			content := strings.Repeat("x", size)
			put(t, fs, "/a", content)
			f := file{path: fs.path("/a"), whole: whole}
			var buf []byte
			b, err := f.read(&buf)
			f.close()
			if string(b) != content || err != nil {
				t.Errorf("%d bytes, whole %v: got %d, %v", size, whole, len(b), err)
			}
		}
	}
}
