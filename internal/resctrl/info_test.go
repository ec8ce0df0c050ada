package resctrl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/hosttest"
)

// infoFixture unpacks testdata/info/NAME.txtar.
func infoFixture(t testing.TB, name string) (dir string, options []string) {
	t.Helper()
	archive, err := txtar.ParseFile(filepath.Join("testdata/info", name+".txtar"))
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	if err := txtar.Write(archive, dir); err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(archive.Comment), "options: ")
	if !ok {
		t.Fatalf("%s: no options", name)
	}
	return dir, strings.Split(strings.TrimSpace(text), ",")
}

func readInfoFixture(t testing.TB, name string) *Info {
	t.Helper()
	in, err := ReadInfo(infoFixture(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func TestReadInfo(t *testing.T) {
	var (
		plain   = []string{"rw", "relatime"}
		sockets = []int{0, 1}
		rdt     = []string{"llc_occupancy", "mbm_total_bytes", "mbm_local_bytes"}
		l3mon   = []Monitoring{{Name: "L3_MON", RMIDs: 64, Events: rdt, MaxThreshold: 262144}}
		mb      = Resource{
			Name: "MB", Kind: Bandwidth, CLOSIDs: 8, Domains: sockets,
			Unit: Percent, Min: 10, Granularity: 10, Max: 100, Linear: true, ThrottleMode: "max",
		}
		mbps = mb
		cdp  = func(name string, bits, shareable uint64, domains ...int) Resource {
			return Resource{Name: name, CLOSIDs: 8, Domains: domains, Bits: bits, MinBits: 1, Shareable: shareable}
		}
		l3      = Resource{Name: "L3", CLOSIDs: 16, Domains: sockets, Bits: 0x7ff, MinBits: 1, Shareable: 0x600}
		amdL3   = Resource{Name: "L3", CLOSIDs: 16, Domains: []int{0, 1, 3}, Bits: 0xffff, Sparse: true}
		amdMB   = Resource{Name: "MB", Kind: Bandwidth, CLOSIDs: 16, Domains: []int{0, 1, 3}, Unit: Steps, Granularity: 1}
		amdSMBA = amdMB
		amdMon  = Monitoring{
			Name: "L3_MON", RMIDs: 4096, Events: rdt, MaxThreshold: 65536,
			AssignMode: "mbm_event", Counters: map[int]int{0: 32, 1: 32, 3: 32},
		}
		bmecMon = amdMon
	)
	mbps.Unit, mbps.Min, mbps.Granularity, mbps.Max = MBps, 0, 1, 4294967295
	amdSMBA.Name = "SMBA"
	bmecMon.AssignMode = "default"

	for _, c := range []struct {
		name           string
		want           Info
		closids, rmids int
	}{
		{"intel", Info{[]Resource{l3, mb}, l3mon, plain}, 8, 64},
		{"cdp", Info{[]Resource{
			cdp("L2CODE", 0xfffff, 0, 0, 1, 2, 3), cdp("L2DATA", 0xfffff, 0, 0, 1, 2, 3),
			cdp("L3CODE", 0x7ff, 0x600, 0, 1), cdp("L3DATA", 0x7ff, 0x600, 0, 1),
			mb,
		}, l3mon, []string{"rw", "relatime", "cdp", "cdpl2", "debug"}}, 8, 64},
		{"mbps", Info{[]Resource{l3, mbps}, l3mon, []string{"rw", "relatime", "mba_MBps"}}, 8, 64},
		{"monitoring", Info{nil, l3mon, plain}, 0, 64},
		{"haswell", Info{[]Resource{
			{Name: "L3", CLOSIDs: 4, Domains: sockets, Bits: 0xfffff, MinBits: 2, Shareable: 0xc0000},
		}, l3mon, plain}, 4, 64},
		{"amd", Info{[]Resource{amdL3, amdMB, amdSMBA}, []Monitoring{amdMon}, plain}, 16, 4096},
		{"bmec", Info{[]Resource{amdL3, amdMB}, []Monitoring{bmecMon}, plain}, 16, 4096},
		{"mpam", Info{
			[]Resource{
				{Name: "L3", CLOSIDs: 64, Domains: []int{3, 17}, Bits: 0xffffffff, MinBits: 1, Shareable: 0xffffffff, Sparse: true},
				{
					Name: "MB", Kind: Bandwidth, CLOSIDs: 64, Domains: []int{2, 10},
					Unit: Percent, Min: 1, Granularity: 2, Max: 100, Linear: true,
				},
			},
			[]Monitoring{
				{Name: "L3_MON", RMIDs: 256, Events: []string{"llc_occupancy"}},
				{Name: "MB_MON", RMIDs: 128, Events: []string{"mbm_total_bytes"}, AssignMode: "mbm_event", Counters: map[int]int{2: 8, 10: 4}},
			},
			plain,
		}, 64, 128},
		{"snc", Info{
			[]Resource{
				{Name: "L2", CLOSIDs: 8, Domains: []int{0, 1, 2, 64, 65, 66}, Bits: 0xffff, MinBits: 1},
				{Name: "L3", CLOSIDs: 15, Domains: sockets, Bits: 0x7fff, MinBits: 1, Shareable: 0x6000, Sparse: true},
				{Name: "LINK", Kind: Bandwidth, CLOSIDs: 15, Domains: sockets, Unit: Steps, Min: 5, Granularity: 5},
			},
			[]Monitoring{
				{Name: "L3_MON", RMIDs: 160, Events: rdt, MaxThreshold: 376832},
				{Name: "PERF_PKG_MON", RMIDs: 320, Events: []string{"core_energy", "activity"}},
			},
			plain,
		}, 8, 160},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := readInfoFixture(t, c.name)
			if diff := cmp.Diff(&c.want, in); diff != "" {
				t.Error(diff)
			}
			if n := in.CLOSIDs(); n != c.closids {
				t.Errorf("%d CLOSIDs, want %d", n, c.closids)
			}
			if n := in.RMIDs(); n != c.rmids {
				t.Errorf("%d RMIDs, want %d", n, c.rmids)
			}
			for _, m := range c.want.Monitoring {
				for _, e := range m.Events {
					if !in.Has(e) {
						t.Errorf("has no %s", e)
					}
				}
			}
			if in.Has("mbm_total_bytes_config") || in.Has("") {
				t.Error("has an event that is none")
			}
			if in.Resource("") != nil || in.Resource("L3_MON") != nil {
				t.Error("a resource that is none")
			}
		})
	}
}

// TestReadInfoMissing: all but num_closids may be missing.
func TestReadInfoMissing(t *testing.T) {
	dir, options := infoFixture(t, "intel")
	for _, file := range []string{
		"info/L3/min_cbm_bits", "info/L3/shareable_bits", "info/L3/sparse_masks",
		"info/MB/min_bandwidth", "info/MB/delay_linear", "info/MB/thread_throttle_mode",
		"info/L3_MON/num_rmids", "info/L3_MON/mon_features", "info/L3_MON/max_threshold_occupancy",
		"schemata",
	} {
		if err := os.Remove(filepath.Join(dir, file)); err != nil {
			t.Fatal(err)
		}
	}
	in, err := ReadInfo(dir, options)
	if err != nil {
		t.Fatal(err)
	}
	want := &Info{
		Resources: []Resource{
			{Name: "L3", CLOSIDs: 16, Bits: 0x7ff},
			{Name: "MB", Kind: Bandwidth, CLOSIDs: 8, Granularity: 10},
		},
		Monitoring: []Monitoring{{Name: "L3_MON"}},
		Options:    options,
	}
	if diff := cmp.Diff(want, in); diff != "" {
		t.Error(diff)
	}
	if in.RMIDs() != 0 {
		t.Errorf("%d RMIDs", in.RMIDs())
	}
}

func TestReadInfoBroken(t *testing.T) {
	for _, c := range []struct{ file, text, want string }{
		{"info/L3/num_closids", "", `info/L3/num_closids: "" is not a decimal number`},
		{"info/L3/num_closids", "0\n", "info/L3/num_closids: missing, or 0"},
		{"info/L3/num_closids", "-1\n", `info/L3/num_closids: "-1" is not a decimal number`},
		{"info/MB/num_closids", "4294967296\n", `info/MB/num_closids: "4294967296" is not a decimal number`},
		{"info/L3/cbm_mask", "7fg\n", `info/L3/cbm_mask: "7fg" is not a hexadecimal number`},
		{"info/L3/cbm_mask", "1ffffffffffffffff\n", "info/L3/cbm_mask"},
		{"info/L3/cbm_mask", "0\n", "info/L3/cbm_mask"},
		{"info/L3/min_cbm_bits", "two\n", `info/L3/min_cbm_bits: "two"`},
		{"info/L3/shareable_bits", "0x600\n", `info/L3/shareable_bits: "0x600"`},
		{"info/L3/sparse_masks", "yes\n", `info/L3/sparse_masks: "yes"`},
		{"info/MB/min_bandwidth", "10%\n", `info/MB/min_bandwidth: "10%"`},
		{"info/MB/bandwidth_gran", "1.5\n", `info/MB/bandwidth_gran: "1.5"`},
		{"info/MB/delay_linear", "\n", `info/MB/delay_linear: ""`},
		{"info/L3_MON/num_rmids", "many\n", `info/L3_MON/num_rmids: "many"`},
		{"info/L3_MON/max_threshold_occupancy", "256K\n", `info/L3_MON/max_threshold_occupancy: "256K"`},
		{"info/L3_MON/mbm_assign_mode", "mbm_event\ndefault\n", `info/L3_MON/mbm_assign_mode: "mbm_event\ndefault"`},
		{"info/L3_MON/num_mbm_cntrs", "0=32;0=32\n", `info/L3_MON/num_mbm_cntrs: "0=32;0=32"`},
		{"schemata", "L3 0=7ff\n", `schemata: line "L3 0=7ff\n": missing ':'`},
		{"schemata", "L3:0=7ff;x=7ff\n", `"x" is not the number of a domain`},
		{"schemata", "L3:0=7ff;0=7ff\n", "a domain twice"},
	} {
		dir, options := infoFixture(t, "intel")
		if err := os.WriteFile(filepath.Join(dir, c.file), []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := ReadInfo(dir, options)
		if err == nil || !strings.HasPrefix(err.Error(), "resctrl: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s = %q: %v, want %q", c.file, c.text, err, c.want)
		}
	}

	// What cannot be read is not absent.
	for _, file := range []string{"info/L3/cbm_mask", "info/L3/sparse_masks", "info/L3_MON/mon_features", "schemata"} {
		dir, options := infoFixture(t, "intel")
		path := filepath.Join(dir, file)
		if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
			t.Fatal(err)
		}
		_, err := ReadInfo(dir, options)
		var e *Error
		if !errors.As(err, &e) || e.Op != "read" || e.Path != file || !errors.Is(err, unix.EISDIR) {
			t.Errorf("%s cannot be read: %v", file, err)
		}
	}
	dir, options := infoFixture(t, "intel")
	if err := os.Remove(filepath.Join(dir, "info/L3/num_closids")); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadInfo(dir, options); err == nil || !strings.Contains(err.Error(), "info/L3/num_closids: missing") {
		t.Errorf("without num_closids: %v", err)
	}
	var e *Error
	if _, err := ReadInfo(t.TempDir(), nil); !errors.Is(err, fs.ErrNotExist) || !errors.As(err, &e) || e.Path != "info" {
		t.Errorf("without info: %v", err)
	}
}

// TestUnit: steps of 7 let a group have 105 percent; what is not linear, or more than
// that, is no percentage; an SMBA is never in MBps.
func TestUnit(t *testing.T) {
	dir, options := infoFixture(t, "intel")
	for _, c := range []struct {
		gran, linear, text string
		mbps               bool
		unit               Unit
		max                uint64
	}{
		{"7", "1", "MB:0=105;1=98", false, Percent, 100},
		{"7", "1", "MB:0=106;1=98", false, Steps, 0},
		{"10", "1", "MB:0=20;1=10", false, Percent, 100},
		{"10", "0", "MB:0=20;1=10", false, Steps, 0},
		{"10", "0", "MB:0=20;1=10", true, MBps, 4294967295},
		{"10", "1", "MB:0=4294967295;1=10", true, MBps, 4294967295},
	} {
		for file, text := range map[string]string{"info/MB/bandwidth_gran": c.gran, "info/MB/delay_linear": c.linear, "schemata": c.text} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		o := options
		if c.mbps {
			o = append(slices.Clone(options), "mba_MBps")
		}
		in, err := ReadInfo(dir, o)
		if err != nil {
			t.Fatal(err)
		}
		if r := in.Resource("MB"); r.Unit != c.unit || r.Max != c.max {
			t.Errorf("%+v: unit %d, at most %d", c, r.Unit, r.Max)
		}
	}
	smba, options := infoFixture(t, "amd")
	in, err := ReadInfo(smba, append(options, "mba_MBps"))
	if err != nil {
		t.Fatal(err)
	}
	if r := in.Resource("SMBA"); r.Unit != Steps {
		t.Errorf("SMBA: unit %d", r.Unit)
	}
}

// TestReadInfoKernel writes what was read as the kernel writes it, and compares that
// with its files; domains are compared with the ids of the caches in sysfs.
func TestReadInfoKernel(t *testing.T) {
	dir := hosttest.Resctrl(t)
	in := readKernelInfo(t, dir)

	said := make(map[string]string)
	for _, r := range in.Resources {
		say := func(file, format string, arg any) {
			said[r.Name+"/"+file] = fmt.Sprintf(format, arg)
		}
		say("num_closids", "%d", r.CLOSIDs)
		if r.Kind == Mask {
			say("cbm_mask", "%x", r.Bits)
			say("min_cbm_bits", "%d", r.MinBits)
			say("shareable_bits", "%x", r.Shareable)
			say("sparse_masks", "%d", btoi(r.Sparse))
		} else {
			if r.Unit != MBps {
				say("min_bandwidth", "%d", r.Min)
				say("bandwidth_gran", "%d", r.Granularity)
			}
			say("delay_linear", "%d", btoi(r.Linear))
			say("thread_throttle_mode", "%s", r.ThrottleMode)
			want := Percent
			if slices.Contains(in.Options, "mba_MBps") {
				want = MBps
			}
			if r.Unit != want {
				t.Errorf("%s: unit %d, want %d", r.Name, r.Unit, want)
			}
		}
		if want := cacheIDs(t, r.Name); !slices.Equal(r.Domains, want) {
			t.Errorf("%s: domains %d, want %d", r.Name, r.Domains, want)
		}
	}
	for _, m := range in.Monitoring {
		said[m.Name+"/num_rmids"] = strconv.Itoa(m.RMIDs)
		said[m.Name+"/mon_features"] = strings.Join(m.Events, "\n")
		said[m.Name+"/max_threshold_occupancy"] = strconv.FormatUint(m.MaxThreshold, 10)
	}
	files, err := filepath.Glob(filepath.Join(dir, "info/*/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		name := strings.TrimPrefix(path, filepath.Join(dir, "info")+"/")
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got, known := said[name]
		switch want := strings.TrimSpace(string(b)); {
		case filepath.Base(name) == "bit_usage",
			slices.Contains(in.Options, "mba_MBps") && (name == "MB/min_bandwidth" || name == "MB/bandwidth_gran"):
		case !known:
			t.Errorf("%s says %q, and nothing was read of it", name, want)
		case got != want:
			t.Errorf("%s says %q, read as %q", name, want, got)
		}
		delete(said, name)
	}
	for name, text := range said {
		t.Errorf("%s: there is no such file, read as %q", name, text)
	}
	if (in.CLOSIDs() > 0) != (len(in.Resources) > 0) || (in.RMIDs() > 0) != in.Has("llc_occupancy") {
		t.Errorf("%d CLOSIDs of %d resources, %d RMIDs", in.CLOSIDs(), len(in.Resources), in.RMIDs())
	}
}

// TestCLOSIDsKernel makes as many control groups as there can be.
func TestCLOSIDsKernel(t *testing.T) {
	dir := hosttest.Resctrl(t)
	in := readKernelInfo(t, dir)
	n := in.CLOSIDs()
	if rmids := in.RMIDs(); rmids > 0 {
		n = min(n, rmids)
	}
	for i := 1; i < n; i++ {
		makeControlGroup(t, dir, fmt.Sprintf("%sinfo-test-%d", Prefix, i))
	}
	err := os.Mkdir(filepath.Join(dir, Prefix+"info-test"), 0o755)
	want := unix.ENOSPC
	if n == 0 {
		want = unix.EPERM
	}
	if !errors.Is(err, want) {
		t.Errorf("another control group: %v, want %v", err, want)
	}
}

func readKernelInfo(t testing.TB, dir string) *Info {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	var options []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); f[1] == dir && f[2] == "resctrl" {
			options = strings.Split(f[3], ",")
		}
	}
	in, err := ReadInfo(dir, options)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// makeControlGroup waits for RMIDs in limbo; hosttest.Resctrl removes the group.
func makeControlGroup(t testing.TB, dir, name string) (path string) {
	t.Helper()
	path = filepath.Join(dir, name)
	deadline := time.Now().Add(time.Minute)
	for {
		err := os.Mkdir(path, 0o755)
		switch {
		case err == nil:
			return path
		case !errors.Is(err, unix.EBUSY) || time.Now().After(deadline):
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// cacheIDs are those of the caches that a resource is about: bandwidth is that of
// the L3.
func cacheIDs(t testing.TB, resource string) (ids []int) {
	t.Helper()
	level := "3"
	if strings.HasPrefix(resource, "L2") {
		level = "2"
	}
	number := func(path string) int {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	levels, err := filepath.Glob("/sys/devices/system/cpu/cpu*/cache/index*/level")
	if err != nil || len(levels) == 0 {
		t.Fatal("no caches in sysfs", err)
	}
	for _, path := range levels {
		if strconv.Itoa(number(path)) == level {
			ids = append(ids, number(filepath.Join(filepath.Dir(path), "id")))
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// FuzzInfo: what is read of a file, written again as the kernel would, reads the same.
func FuzzInfo(f *testing.F) {
	f.Add("[mbm_event]\ndefault\n", "0=32;1=32", "    MB:0= 20;1=100\n    L3:0=7ff;1=7ff\n")
	f.Add("mbm_event\n[default]\n", "10=4;2=8", "L3:17=ffffffff;3=ffffffff\nSMBA:0=2048\n")
	f.Add("[mbm_event]", "0=0", "L3:0=7ff;0=7ff")
	f.Add("[[x]]", "-1=2", "L3:=")
	f.Fuzz(func(t *testing.T, modes, counters, schemata string) {
		if mode, ok := parseAssignMode(modes); ok {
			if !strings.Contains(modes, "["+mode+"]") {
				t.Errorf("%q is not in brackets in %q", mode, modes)
			}
			if again, ok := parseAssignMode("other\n[" + mode + "]\nlast\n"); !ok || again != mode {
				t.Errorf("%q again: %q", mode, again)
			}
		}
		if list, ok := parseCounters(counters); ok {
			if len(list) != strings.Count(counters, "=") {
				t.Errorf("%q: %v", counters, list)
			}
			var b []byte
			for id, n := range list {
				b = fmt.Appendf(b, ";%d=%d", id, n)
			}
			again, ok := parseCounters(string(b[1:]))
			if diff := cmp.Diff(list, again); !ok || diff != "" {
				t.Error(diff)
			}
		}
		in := &Info{Resources: []Resource{{Name: "L3", Bits: 0x7ff}, {Name: "MB", Kind: Bandwidth, Linear: true}}}
		if err := in.setDomains(schemata); err != nil {
			return
		}
		for _, r := range in.Resources {
			if !slices.IsSorted(r.Domains) || len(slices.Compact(slices.Clone(r.Domains))) != len(r.Domains) {
				t.Errorf("%q: domains %d", schemata, r.Domains)
			}
			if r.Unit == Percent && r.Max != 100 || r.Unit == Steps && r.Max != 0 {
				t.Errorf("%q: %+v", schemata, r)
			}
		}
	})
}
