package measure

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/hosttest"
	"github.com/owca-project/owca/internal/proc"
)

// platformHost is a host unpacked from the captured ones of package proc.
type platformHost struct {
	t    testing.TB
	root string
	p    *Platform
	now  time.Time
}

func newPlatformHost(t testing.TB, name string, o PlatformOptions) *platformHost {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "proc", "testdata", name+".txtar"))
	if err != nil {
		t.Fatal(err)
	}
	h := &platformHost{t: t, root: t.TempDir(), now: time.Now()}
	at := regexp.MustCompile(`(?m)^-- (\S+) --\n`).FindAllSubmatchIndex(b, -1)
	for i, m := range at {
		end := len(b)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		h.put("/"+string(b[m[2]:m[3]]), string(b[m[1]:end]))
	}
	h.p = (&Host{Proc: proc.FS{Root: h.root}}).NewPlatform(o)
	t.Cleanup(func() {
		if err := h.p.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func (h *platformHost) put(name, content string) {
	h.t.Helper()
	path := filepath.Join(h.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

func (h *platformHost) drop(name string) {
	h.t.Helper()
	if err := os.RemoveAll(filepath.Join(h.root, name)); err != nil {
		h.t.Fatal(err)
	}
}

// after reads the platform d after the last time.
func (h *platformHost) after(d time.Duration) (*owca.Platform, error) {
	h.now = h.now.Add(d)
	return h.p.Read(h.now)
}

func (h *platformHost) mustAfter(d time.Duration) *owca.Platform {
	h.t.Helper()
	p, err := h.after(d)
	if err != nil {
		h.t.Fatal(err)
	}
	platformUniqueReadings(h.t, p.Measurements)
	return p
}

func platformUniqueReadings(t testing.TB, m owca.Measurements) {
	t.Helper()
	seen := map[string]bool{}
	for _, r := range m {
		key := r.Desc.Name + " " + r.Label
		if seen[key] {
			t.Errorf("%s is there twice", key)
		}
		seen[key] = true
		if (r.Label == "") != (r.Desc.Label == "") {
			t.Errorf("%s has the label %q", r.Desc.Name, r.Label)
		}
	}
}

// platformText is readings as lines, sorted, without those named here.
func platformText(m owca.Measurements, without ...*owca.Desc) string {
	var lines []string
	for _, r := range m {
		if !slices.Contains(without, r.Desc) {
			lines = append(lines, owca.Metric{Desc: r.Desc, Label: r.Label, Value: r.Value}.String())
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestPlatformCaptured(t *testing.T) {
	h := newPlatformHost(t, "two-socket-offline", PlatformOptions{
		VMStat: []string{"nr_free_pages", "no_such_key", "numa_hit", "nr_free_pages"}, SlowInterval: 10 * time.Second,
	})
	p := h.mustAfter(0)
	if got, want := *p, (owca.Platform{
		Host: "twosocket", KernelVersion: "6.12.117", CPUModel: "Intel Xeon (QEMU; RDT emulated in the kernel)",
		Sockets: 2, Cores: 4, CPUs: 6, NUMANodes: 2, Measurements: p.Measurements,
	}); !cmp.Equal(got, want, cmp.AllowUnexported(owca.Value{})) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	want := `owca_platform_cache_bytes{cache="L1d"} 32768
owca_platform_cache_bytes{cache="L1i"} 32768
owca_platform_cache_bytes{cache="L2"} 4194304
owca_platform_cache_bytes{cache="L3"} 16777216
owca_platform_cores{} 4
owca_platform_cpu_pressure_some_seconds_total{} 0.597301
owca_platform_cpu_usage_seconds_total{cpu="0"} 1.36
owca_platform_cpu_usage_seconds_total{cpu="1"} 1.36
owca_platform_cpu_usage_seconds_total{cpu="2"} 0.76
owca_platform_cpu_usage_seconds_total{cpu="4"} 0.58
owca_platform_cpu_usage_seconds_total{cpu="5"} 0.23
owca_platform_cpu_usage_seconds_total{cpu="7"} 0.2
owca_platform_cpus{} 6
owca_platform_io_pressure_full_seconds_total{} 0
owca_platform_io_pressure_some_seconds_total{} 0
owca_platform_load15{} 0
owca_platform_load1{} 0
owca_platform_load5{} 0
owca_platform_memory_available_bytes{} 934600704
owca_platform_memory_pressure_full_seconds_total{} 0
owca_platform_memory_pressure_some_seconds_total{} 0
owca_platform_memory_total_bytes{} 1035939840
owca_platform_memory_usage_bytes{} 21114880
owca_platform_numa_nodes{} 2
owca_platform_reading_age_seconds{reading="cpu_frequency"} 0
owca_platform_reading_age_seconds{reading="numa_memory"} 0
owca_platform_sockets{} 2
owca_platform_vmstat_total{key="nr_free_pages"} 245067
owca_platform_vmstat_total{key="numa_hit"} 32206`
	// Frequencies and memory of nodes: TestHostCaptured of package proc.
	if d := cmp.Diff(want, platformText(p.Measurements, owca.PlatformCPUFrequency, owca.PlatformMemoryNUMAFree, owca.PlatformMemoryNUMAUsed)); d != "" {
		t.Error(d)
	}
	for _, d := range []*owca.Desc{owca.PlatformMemoryNUMAFree, owca.PlatformMemoryNUMAUsed} {
		for _, node := range []string{"0", "1"} {
			if _, ok := p.Measurements.GetLabel(d, node); !ok {
				t.Errorf("no %s of node %s", d.Name, node)
			}
		}
	}
	if v, ok := p.Measurements.GetLabel(owca.PlatformCPUFrequency, "7"); !ok || v.Float(owca.One) < 1e8 || v.Float(owca.One) > 1e10 {
		t.Errorf("frequency %v, %v", v, ok)
	}
}

// platformStat is a /proc/stat with this user time of CPUs 0, 1, …;
// negative: offline.
func platformStat(ticks ...int) string {
	s := "cpu  1 1 1 1 1 1 1 1 0 0\n"
	for cpu, n := range ticks {
		if n >= 0 {
			s += fmt.Sprintf("cpu%d %d 0 0 1000 1000 0 0 0 0 0\n", cpu, n)
		}
	}
	return s + "intr 0\n"
}

func platformPSI(total int) string {
	return fmt.Sprintf("some avg10=0.00 avg60=0.00 avg300=0.00 total=%d\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n", total)
}

func TestPlatformDerived(t *testing.T) {
	h := newPlatformHost(t, "epyc", PlatformOptions{})
	derived := []*owca.Desc{owca.PlatformCPUUsageCores, owca.PlatformCPUPressureSomeRatio, owca.PlatformMemoryPressureSomeRatio, owca.PlatformIOPressureSomeRatio}
	nan := math.NaN()
	for i, step := range []struct {
		what            string
		passed          time.Duration
		stat            string
		cpu, memory, io int // total of pressure
		want            [4]float64
	}{
		{"first", 0, platformStat(100, 200), 1000, 0, 7, [4]float64{nan, nan, nan, nan}},
		{"second", 2 * time.Second, platformStat(250, 300), 501000, 0, 1000007, [4]float64{1.25, 0.25, 0, 0.5}},
		{"io goes backwards", time.Second, platformStat(250, 310), 501000, 10000, 5, [4]float64{0.1, 0, 0.01, nan}},
		{"more than the time passed", time.Second, platformStat(250, 310), 1601000, 10000, 5, [4]float64{0, 1, 0, 0}},
		{"a cpu goes backwards", time.Second, platformStat(300, 309), 1601000, 10000, 5, [4]float64{nan, 0, 0, 0}},
		{"and on", time.Second, platformStat(310, 310), 1601000, 10000, 5, [4]float64{0.11, 0, 0, 0}},
		{"no time passed", 0, platformStat(320, 310), 1601000, 10000, 5, [4]float64{nan, nan, nan, nan}},
		{"a cpu goes", time.Second, platformStat(400, -1), 1601000, 10000, 5, [4]float64{nan, 0, 0, 0}},
		{"the other works", time.Second, platformStat(450, -1), 1601000, 10000, 5, [4]float64{0.5, 0, 0, 0}},
		{"another instead", time.Second, platformStat(-1, 900), 1601000, 10000, 5, [4]float64{nan, 0, 0, 0}},
		{"unreadable", time.Second, "cpu0\n", 1601000, 10000, 5, [4]float64{nan, 0, 0, 0}},
		{"over the gap", time.Second, platformStat(-1, 1000), 1601000, 10000, 5, [4]float64{0.5, 0, 0, 0}},
	} {
		h.put("/proc/stat", step.stat)
		h.put("/proc/pressure/cpu", platformPSI(step.cpu))
		h.put("/proc/pressure/memory", platformPSI(step.memory))
		h.put("/proc/pressure/io", platformPSI(step.io))
		p, err := h.after(step.passed)
		if bad := step.what == "unreadable"; bad != (err != nil) {
			t.Errorf("%s: error %v", step.what, err)
		}
		for j, d := range derived {
			got, ok := p.Measurements.Float(d)
			if ok == math.IsNaN(step.want[j]) || ok && math.Abs(got-step.want[j]) > 1e-9 {
				t.Errorf("%d: %s: %s is %v, %v, want %v", i, step.what, d.Name, got, ok, step.want[j])
			}
		}
	}
}

func TestPlatformSlow(t *testing.T) {
	h := newPlatformHost(t, "two-socket", PlatformOptions{SlowInterval: 5 * time.Second})
	frequency := func(khz int) {
		for cpu := range 8 {
			h.put(fmt.Sprintf("/sys/devices/system/cpu/cpu%d/cpufreq/scaling_cur_freq", cpu), fmt.Sprintln(khz+cpu))
		}
	}
	check := func(passed time.Duration, hertz, age float64) {
		t.Helper()
		p := h.mustAfter(passed)
		got, ok := p.Measurements.GetLabel(owca.PlatformCPUFrequency, "3")
		if !ok || got.Float(owca.One) != hertz {
			t.Errorf("%v, %v, want %v", got, ok, hertz)
		}
		for _, reading := range []string{"cpu_frequency", "numa_memory"} {
			if got, ok := p.Measurements.GetLabel(owca.PlatformReadingAge, reading); !ok || got.Float(owca.Milli) != age {
				t.Errorf("age of %s: %v, %v, want %v", reading, got, ok, age)
			}
		}
	}
	frequency(1000)
	check(0, 1003000, 0)
	frequency(2000)
	check(time.Second, 1003000, 1)
	check(3*time.Second, 1003000, 4)
	check(980*time.Millisecond, 2003000, 0) // the fifth tick, a little early
	frequency(3000)
	check(time.Second, 2003000, 1)
	// A changed set of CPUs is looked at at once.
	stat, err := os.ReadFile(filepath.Join(h.root, "/proc/stat"))
	if err != nil {
		t.Fatal(err)
	}
	h.put("/proc/stat", regexp.MustCompile(`(?m)^cpu7 .*\n`).ReplaceAllString(string(stat), ""))
	check(time.Second, 3003000, 0)
	if _, ok := h.p.result.Measurements.GetLabel(owca.PlatformCPUFrequency, "7"); ok {
		t.Error("cpu 7 is offline and has a frequency")
	}

	// An error stands until the next slow reading, and only its reading is absent.
	h.put("/sys/devices/system/node/node1/meminfo", "Node 1 MemFree: lots\n")
	for _, step := range []struct {
		passed time.Duration
		bad    bool
	}{{time.Second, false}, {4 * time.Second, true}, {time.Second, true}, {4 * time.Second, false}} {
		if step.passed == 4*time.Second && !step.bad {
			h.put("/sys/devices/system/node/node1/meminfo", "Node 1 MemFree: 12 kB\nNode 1 MemUsed: 13 kB\n")
		}
		p, err := h.after(step.passed)
		if (err != nil) != step.bad || err != nil && !strings.Contains(err.Error(), "node1/meminfo") {
			t.Errorf("after %v: %v", step.passed, err)
		}
		if _, ok := p.Measurements.GetLabel(owca.PlatformMemoryNUMAFree, "1"); ok == step.bad {
			t.Errorf("after %v: node 1 present: %v", step.passed, ok)
		}
		if _, ok := p.Measurements.GetLabel(owca.PlatformMemoryNUMAFree, "0"); !ok {
			t.Errorf("after %v: node 0 absent", step.passed)
		}
	}

	h.p.SetOptions(PlatformOptions{SlowInterval: 0})
	for range 2 {
		p := h.mustAfter(time.Hour)
		for _, r := range p.Measurements {
			if r.Desc == owca.PlatformCPUFrequency || r.Desc == owca.PlatformMemoryNUMAFree || r.Desc == owca.PlatformReadingAge {
				t.Errorf("%s though never to be read", r.Desc.Name)
			}
		}
	}
}

func TestPlatformIdentity(t *testing.T) {
	h := newPlatformHost(t, "two-socket", PlatformOptions{})
	h.put("/proc/sys/kernel/hostname", "localhost\n")
	h.drop("/sys/devices/system/cpu/cpu5/topology")
	p, err := h.after(0)
	if !errors.Is(err, fs.ErrNotExist) || p.Host != "localhost" || p.Sockets != 0 || p.Cores != 0 || p.CPUs != 8 {
		t.Errorf("%+v, %v", p, err)
	}
	if _, ok := p.Measurements.Get(owca.PlatformSockets); ok {
		t.Error("sockets though not known")
	}
	// Both are asked for again, not at once.
	h.put("/proc/sys/kernel/hostname", "node7\n")
	h.put("/sys/devices/system/cpu/cpu5/topology/physical_package_id", "1\n")
	h.put("/sys/devices/system/cpu/cpu5/topology/thread_siblings_list", "4-5\n")
	if p, err := h.after(time.Second); err == nil || p.Host != "localhost" {
		t.Errorf("%+v, %v", p, err)
	}
	if p := h.mustAfter(9 * time.Second); p.Host != "node7" || p.Sockets != 2 || p.Cores != 4 {
		t.Errorf("%+v", p)
	}

	// CPUs go.
	h.put("/sys/devices/system/cpu/online", "0-3\n")
	h.put("/proc/stat", platformStat(1, 1, 1, 1))
	if p := h.mustAfter(time.Second); p.CPUs != 4 || p.Sockets != 1 || p.Cores != 2 {
		t.Errorf("%+v", p)
	}
}

func TestPlatformWithout(t *testing.T) {
	// A host that offers little: what is left is measured, without an error.
	h := newPlatformHost(t, "arm64", PlatformOptions{VMStat: proc.DefaultVMStat, SlowInterval: time.Second})
	for _, name := range []string{"/proc/pressure", "/sys/devices/system/node", "/sys/devices/system/cpu/cpu0/cache"} {
		h.drop(name)
	}
	h.put("/proc/meminfo", "MemTotal: 1000 kB\nMemFree: 10 kB\n")
	h.put("/proc/vmstat", "pgfault 12\n")
	h.mustAfter(0)
	p := h.mustAfter(time.Second)
	want := `owca_platform_cores{} 4
owca_platform_cpu_usage_cores{} 0
owca_platform_cpus{} 4
owca_platform_load15{} 0
owca_platform_load1{} 0
owca_platform_load5{} 0
owca_platform_memory_total_bytes{} 1024000
owca_platform_sockets{} 1
owca_platform_vmstat_total{key="pgfault"} 12`
	if d := cmp.Diff(want, platformText(p.Measurements, owca.PlatformCPUUsage)); d != "" {
		t.Error(d)
	}
	if p.NUMANodes != 0 || p.CPUModel != "implementer 0x41 variant 0x0 part 0xd08 revision 3" {
		t.Errorf("%+v", p)
	}

	// Nothing at all: an error, and no numbers.
	nothing := (&Host{Proc: proc.FS{Root: t.TempDir()}}).NewPlatform(PlatformOptions{VMStat: []string{"pgfault"}, SlowInterval: 1})
	for range 2 {
		if p, err := nothing.Read(time.Now()); err == nil || p == nil || len(p.Measurements) > 0 || p.CPUs != 0 {
			t.Errorf("%+v, %v", p, err)
		}
	}
}

func TestPlatformOptionsChange(t *testing.T) {
	h := newPlatformHost(t, "two-socket", PlatformOptions{VMStat: []string{"numa_hit"}})
	keys := func(p *owca.Platform) (keys []string) {
		for _, r := range p.Measurements {
			if r.Desc == owca.PlatformVMStat {
				keys = append(keys, r.Label)
			}
		}
		return keys
	}
	if got := keys(h.mustAfter(0)); !slices.Equal(got, []string{"numa_hit"}) {
		t.Error(got)
	}
	h.p.SetOptions(PlatformOptions{VMStat: []string{"nr_mlock", "nr_free_pages", "nr_mlock"}})
	if got := keys(h.mustAfter(time.Second)); !slices.Equal(got, []string{"nr_mlock", "nr_free_pages"}) {
		t.Error(got)
	}
	h.p.SetOptions(PlatformOptions{})
	if got := keys(h.mustAfter(time.Second)); got != nil {
		t.Error(got)
	}
}

func platformAll() PlatformOptions {
	return PlatformOptions{VMStat: proc.DefaultVMStat, SlowInterval: time.Hour}
}

func TestPlatformLive(t *testing.T) {
	p := Open("/").NewPlatform(platformAll())
	defer p.Close()
	if _, err := p.Read(time.Now()); err != nil {
		t.Fatal(err)
	}
	const spin = 500 * time.Millisecond
	hosttest.NewCgroup(t, nil, "platform").Start("spin " + spin.String()).Done()
	now := time.Now()
	passed := now.Sub(p.busyAt)
	r, err := p.Read(now)
	if err != nil {
		t.Fatal(err)
	}
	platformUniqueReadings(t, r.Measurements)
	cores, ok := r.Measurements.Float(owca.PlatformCPUUsageCores)
	// Half of it: many kernels count by sampling.
	if least := spin.Seconds() / passed.Seconds() / 2; !ok || cores < least {
		t.Errorf("%v, %v cores in use, want %v at least", cores, ok, least)
	}
	if r.CPUs == 0 || r.Host == "" || r.KernelVersion == "" {
		t.Errorf("%+v", r)
	}
}

func TestPlatformAllocates(t *testing.T) {
	p := Open("/").NewPlatform(platformAll())
	defer p.Close()
	now := time.Now()
	read := func() {
		now = now.Add(time.Millisecond)
		if _, err := p.Read(now); err != nil {
			panic(err)
		}
	}
	read()
	read()
	if n := testing.AllocsPerRun(100, read); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPlatform(b *testing.B) {
	p := Open("/").NewPlatform(platformAll())
	defer p.Close()
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(time.Millisecond)
		if _, err := p.Read(now); err != nil {
			b.Fatal(err)
		}
	}
}
