package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/hosttest"
)

func control(t testing.TB, tree *Tree, path string) *Control {
	t.Helper()
	c, err := tree.Control(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func get(t testing.TB, c *Control, k Knob) string {
	t.Helper()
	v, err := c.Get(k)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func set(t testing.TB, c *Control, k Knob, value string) {
	t.Helper()
	if err := c.Set(k, value); err != nil {
		t.Fatal(err)
	}
	if got := get(t, c, k); !k.Equal(got, value) {
		t.Fatalf("%s was set to %q and is %q", k, value, got)
	}
}

// delegate enables controllers below a cgroup, which v2 does not by itself.
func delegate(t testing.TB, c *hosttest.Cgroup, controllers string) {
	t.Helper()
	if c.Has("unified", "cpu.max") {
		write(t, filepath.Join(c.Dir("unified"), "cgroup.subtree_control"), controllers)
	}
}

// knobTest is values to set one after the other, and the files then.
type knobTest struct {
	knob       Knob
	controller string   // v1; "" = there is none
	v1         []string // its files
	v2         string
	values     []knobValue
}

// knobValue is the content of the files without their last newline; "" = value.
type knobValue struct {
	value string
	v1    []string
	v2    string
}

func knobTests(disk string) []knobTest {
	list := []knobTest{
		{CPUMax, "cpu", []string{"cpu.cfs_quota_us", "cpu.cfs_period_us"}, "cpu.max", []knobValue{
			{value: "50000 100000", v1: []string{"50000", "100000"}},
			{value: "20000 50000", v1: []string{"20000", "50000"}},
			{value: "300000 200000", v1: []string{"300000", "200000"}},
			{value: "1000 1000000", v1: []string{"1000", "1000000"}},
			{value: "max 1000000", v1: []string{"-1", "1000000"}},
			{value: "max 1000", v1: []string{"-1", "1000"}},
			{value: "77777 99999", v1: []string{"77777", "99999"}},
			{value: "max 100000", v1: []string{"-1", "100000"}},
		}},
		{CPUMaxBurst, "cpu", []string{"cpu.cfs_burst_us"}, "cpu.max.burst", []knobValue{{value: "0"}}},
		{CPUSharesV1, "cpu", []string{"cpu.shares"}, "", []knobValue{
			{value: "2048"}, {value: "1", v1: []string{"2"}}, {value: "1024"},
		}},
		{CPUWeightV2, "", nil, "cpu.weight", []knobValue{{value: "1"}, {value: "777"}, {value: "10000"}, {value: "100"}}},
		{CPUIdleFlag, "cpu", []string{"cpu.idle"}, "cpu.idle", []knobValue{{value: "1"}, {value: "0"}}},
		{CPUSetCPUList, "cpuset", []string{"cpuset.cpus"}, "cpuset.cpus", []knobValue{
			{value: "0"}, {value: "1,0", v1: []string{"0-1"}, v2: "0-1"}, {value: "1"}, {value: "", v1: []string{""}},
		}},
		{CPUSetMemList, "cpuset", []string{"cpuset.mems"}, "cpuset.mems", []knobValue{{value: "0"}, {value: "", v1: []string{""}}}},
		{MemoryHighLimit, "", nil, "memory.high", []knobValue{
			{value: "104857600"}, {value: "104861695", v2: "104857600"}, {value: "max"}, {value: "0"}, {value: "9223372036854775807", v2: "max"},
		}},
		{MemoryLowLimit, "", nil, "memory.low", []knobValue{{value: "max"}, {value: "4096"}, {value: "0"}}},
		{IOWeightDefault, "blkio", []string{"blkio.bfq.weight"}, "io.weight", []knobValue{
			{value: "200", v2: "default 200"}, {value: "100", v2: "default 100"},
		}},
	}
	if disk == "" {
		return list
	}
	line := disk + " rbps=1000000 wbps=max riops=max wiops=200"
	other := disk + " rbps=max wbps=5000000 riops=30 wiops=200"
	return append(list, knobTest{IOMaxLimits, "blkio", []string{
		"blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device", "blkio.throttle.read_iops_device", "blkio.throttle.write_iops_device",
	}, "io.max", []knobValue{
		{value: line, v1: []string{disk + " 1000000", "", "", disk + " 200"}},
		{value: other, v1: []string{"", disk + " 5000000", disk + " 30", disk + " 200"}},
		{value: disk + " wiops=200\n", v1: nil}, // malformed, see the test
		{value: "", v1: []string{"", "", "", ""}},
	}})
}

// testDisk returns a disk that limits may be set on: where others use the host, none.
func testDisk(t testing.TB, tree *Tree) string {
	t.Helper()
	if tree.Version() == Hybrid {
		return ""
	}
	b, err := os.ReadFile("/sys/block/loop0/dev")
	if err != nil {
		t.Log("no disk to limit: ", err)
	}
	return strings.TrimSpace(string(b))
}

// TestHostKnobs sets every knob that there is, and finds the value in the kernel's files.
func TestHostKnobs(t *testing.T) {
	tree := hostTree(t)
	var did []string
	for _, test := range knobTests(testDisk(t, tree)) {
		cg := hosttest.NewCgroup(t, nil, "knob-"+test.knob.String())
		c := control(t, tree, cg.Path)
		dir, names, v1 := cg.Dir("unified"), []string{test.v2}, false
		if test.controller != "" && cg.Dir(test.controller) != "" {
			dir, names, v1 = cg.Dir(test.controller), test.v1, true
		} else if test.controller == "" && tree.V1("cpu") != "" {
			names[0] = "" // v2 only
		}
		if _, err := os.Stat(filepath.Join(dir, names[0])); names[0] == "" || err != nil {
			value, err := c.Get(test.knob)
			if !errors.Is(err, errors.ErrUnsupported) || value != "" {
				t.Errorf("%s is not there: %q, %v", test.knob, value, err)
			}
			if e := c.Set(test.knob, test.values[0].value); !errors.Is(e, errors.ErrUnsupported) || errors.Is(e, ErrGone) {
				t.Errorf("%s is not there: %v", test.knob, e)
			}
			continue
		}
		did = append(did, test.knob.String())
		if want := filepath.Join(dir, names[0]); c.File(test.knob) != want {
			t.Errorf("%s: file %q, want %q", test.knob, c.File(test.knob), want)
		}
		first := get(t, c, test.knob)
		for _, v := range append(test.values, knobValue{value: first}) {
			want := []string{v.value}
			if v1 && v.v1 != nil {
				want = v.v1
			} else if !v1 && v.v2 != "" {
				want = []string{v.v2}
			}
			err := c.Set(test.knob, v.value)
			if strings.HasSuffix(v.value, "\n") {
				if !errors.Is(err, unix.EINVAL) {
					t.Errorf("%s: %q is malformed: %v", test.knob, v.value, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", test.knob, err)
				continue
			}
			if got := get(t, c, test.knob); !test.knob.Equal(got, v.value) {
				t.Errorf("%s was set to %q and is %q", test.knob, v.value, got)
			}
			for i, name := range names {
				b, err := os.ReadFile(filepath.Join(dir, name))
				if i < len(want) && v.value != first && (err != nil || strings.TrimSuffix(string(b), "\n") != want[i]) {
					t.Errorf("%s = %q: %s is %q, %v, want %q", test.knob, v.value, name, b, err, want[i])
				}
			}
			// What somebody else writes is seen.
			if v.value != first && len(names) == 1 && v.v2 == "" && test.knob != IOMaxLimits {
				write(t, filepath.Join(dir, names[0]), first+"\n")
				if got := get(t, c, test.knob); got != first {
					t.Errorf("%s was made %q by somebody else: %q", test.knob, first, got)
				}
			}
		}
		if get(t, c, test.knob) != first {
			t.Errorf("%s was %q and is %q", test.knob, first, get(t, c, test.knob))
		}
		for _, value := range []string{"nonsense", "-5", "1\n2", " "} {
			if err := c.Set(test.knob, value); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), strconv.Quote(value)) {
				t.Errorf("%s: %q: %v", test.knob, value, err)
			}
		}
		n := tree.Files()
		if want := len(names); n != want || tree.KeepFiles < want {
			t.Errorf("%s: %d files are open, want %d", test.knob, n, want)
		}
		if err := errors.Join(c.Close(), c.Close()); err != nil || tree.Files() != 0 {
			t.Errorf("%s: closed, %d files are open: %v", test.knob, tree.Files(), err)
		}
		if _, err := c.Get(test.knob); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("closed: %v", err)
		}
	}
	t.Log("tried: ", did)
	if tree.Version() == V2 && len(did) < 9 || len(did) < 5 {
		t.Errorf("only %s", did)
	}
	c := control(t, tree, hosttest.NewCgroup(t, nil, "unknown").Path)
	if _, err := c.Get(NumKnobs); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	if err := c.Set(NumKnobs, "1"); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
}

// TestBandwidthWays: all ways end at the new value, and the first one is nowhere wider than
// both the old and the new one.
func TestBandwidthWays(t *testing.T) {
	wider := func(a, b bandwidth) bool {
		return b.quota != Max && (a.quota == Max || productLess(b.quota, a.period, a.quota, b.period))
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	pick := func() bandwidth {
		if rnd.IntN(4) == 0 {
			return bandwidth{Max, 1000 * (1 + rnd.Uint64N(3))}
		}
		return bandwidth{1000 * (1 + rnd.Uint64N(1<<(1+rnd.IntN(20)))), 1000 * (1 + rnd.Uint64N(1<<(1+rnd.IntN(10))))}
	}
	write := func(b *bandwidth, file int, text string) {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			n = Max
		}
		if file == 0 {
			b.quota = n
		} else {
			b.period = n
		}
	}
	for range 20_000 {
		old, to := pick(), pick()
		ways := bandwidthWays(old, to)
		if (ways == nil) != (old == to) {
			t.Fatalf("%v → %v: %v", old, to, ways)
		}
		for i, way := range ways {
			b := old
			for _, s := range way {
				before := b
				write(&b, s.file, s.text)
				if i == 0 && wider(b, old) && wider(b, to) {
					t.Fatalf("%v → %v: %v in between", old, to, b)
				}
				undone := b
				if write(&undone, s.file, s.undo); undone != before {
					t.Fatalf("%v → %v: %v, not %v, after undoing %v", old, to, undone, before, s)
				}
			}
			if b != to {
				t.Fatalf("%v → %v: %v gives %v", old, to, way, b)
			}
		}
	}
}

// TestHostBandwidth changes quota and period together, between a parent and a child that leave
// it little room.
func TestHostBandwidth(t *testing.T) {
	tree := hostTree(t)
	top := hosttest.NewCgroup(t, nil, "bandwidth")
	delegate(t, top, "+cpu")
	middle := hosttest.NewCgroup(t, top, "middle")
	delegate(t, middle, "+cpu")
	leaf := hosttest.NewCgroup(t, middle, "leaf")
	if _, err := control(t, tree, leaf.Path).Get(CPUMax); errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	parent, c, child := control(t, tree, top.Path), control(t, tree, middle.Path), control(t, tree, leaf.Path)
	v1 := tree.V1("cpu") != ""
	// In thousandths, so that the kernel's rounding (to_ratio, 20 bits) decides nothing.
	periods := []uint64{20_000, 40_000, 50_000, 100_000, 250_000, 1_000_000}
	value := func(period, thousandths uint64) string {
		return bandwidth{period * thousandths / 1000, period}.String()
	}
	rnd := rand.New(rand.NewPCG(5, 2026))
	refused := 0
	for range 200 {
		// From nothing: the parent's limit first.
		set(t, c, CPUMax, "max 100000")
		set(t, child, CPUMax, "max 100000")
		hi := 300 + rnd.Uint64N(200)
		lo := 100 + rnd.Uint64N(hi-100+1)
		set(t, parent, CPUMax, value(100_000, hi))
		set(t, c, CPUMax, value(100_000, hi))
		set(t, child, CPUMax, value(50_000, lo))
		if rnd.IntN(4) == 0 {
			set(t, child, CPUMax, "max 50000") // as wide as the parent's
			lo = 100
		}
		for range 10 {
			before := get(t, c, CPUMax)
			r := lo - 5 + rnd.Uint64N(hi-lo+11)
			v := value(periods[rnd.IntN(len(periods))], r)
			err := c.Set(CPUMax, v)
			after := get(t, c, CPUMax)
			if bad := v1 && (r < lo || r > hi) && !(r < lo && get(t, child, CPUMax)[:3] == "max"); bad {
				if refused++; !errors.Is(err, unix.EINVAL) || after != before || errors.Is(err, ErrGone) {
					t.Fatalf("%q → %q with %d‰ above and %d‰ below: %q, %v; want EINVAL", before, v, hi, lo, after, err)
				}
			} else if err != nil || after != v {
				t.Fatalf("%q → %q with %d‰ above and %d‰ below: %q, %v", before, v, hi, lo, after, err)
			}
		}
	}
	if v1 && refused == 0 {
		t.Error("the kernel refused nothing")
	}
	set(t, c, CPUMax, "max 100000") // under a limited parent
	if err := parent.Set(CPUMax, "500 100000"); !errors.Is(err, unix.EINVAL) {
		t.Errorf("less than 1 ms: %v", err)
	}
	if err := parent.Set(CPUMax, "500000 1000001"); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a period of more than 1 s: %v", err)
	}
}

// TestHostKnobsDepend is what the comment of Control says.
func TestHostKnobsDepend(t *testing.T) {
	tree := hostTree(t)
	c := control(t, tree, hosttest.NewCgroup(t, nil, "depend").Path)
	weight := CPUWeightV2
	if _, err := c.Get(weight); err != nil {
		weight = CPUSharesV1
	}
	usual := get(t, c, weight)
	if _, err := c.Get(CPUIdleFlag); err == nil {
		set(t, c, weight, "777")
		set(t, c, CPUIdleFlag, "1")
		if v := get(t, c, weight); v != "0" && v != "1" && v != "3" {
			t.Errorf("an idle cgroup has the weight %s", v)
		}
		if err := c.Set(weight, "777"); !errors.Is(err, unix.EINVAL) {
			t.Errorf("the weight of an idle cgroup: %v", err)
		}
		set(t, c, CPUIdleFlag, "0")
		if v := get(t, c, weight); v != usual {
			t.Errorf("the weight is %s after cpu.idle, and %s in a new cgroup", v, usual)
		}
	}
	if _, err := c.Get(CPUMaxBurst); err == nil {
		set(t, c, CPUMax, "50000 100000")
		if err := c.Set(CPUMaxBurst, "50001"); !errors.Is(err, unix.EINVAL) {
			t.Errorf("more burst than quota: %v", err)
		}
		set(t, c, CPUMaxBurst, "20000")
		for _, v := range []string{"10000 100000", "10000 20000"} {
			if err := c.Set(CPUMax, v); !errors.Is(err, unix.EINVAL) || get(t, c, CPUMax) != "50000 100000" {
				t.Errorf("less quota than burst: %v, %q", err, get(t, c, CPUMax))
			}
		}
		set(t, c, CPUMax, "max 100000")
		if v := get(t, c, CPUMaxBurst); v != "20000" {
			t.Errorf("without a quota the burst is %s", v)
		}
	}
}

func TestHostKnobErrnos(t *testing.T) {
	tree := hostTree(t)
	top := hosttest.NewCgroup(t, nil, "errnos")
	delegate(t, top, "+cpu +cpuset")
	c := control(t, tree, top.Path)
	below := hosttest.NewCgroup(t, top, "below")
	child := control(t, tree, below.Path)
	below.Start("sleep")
	refused := func(c *Control, k Knob, value string, errno unix.Errno) {
		t.Helper()
		before, err := c.Get(k)
		if err != nil {
			t.Logf("not tried: %v", err)
			return
		}
		e := c.Set(k, value)
		var at *fs.PathError
		if !errors.Is(e, errno) || !errors.As(e, &at) || at.Path == "" || errors.Is(e, ErrGone) {
			t.Errorf("%s = %q: %v, want %v", k, value, e, errno)
		}
		if after := get(t, c, k); after != before {
			t.Errorf("%s = %q was refused, and changed %q to %q", k, value, before, after)
		}
	}
	refused(c, CPUMax, "999 100000", unix.EINVAL)
	refused(c, CPUWeightV2, "0", unix.ERANGE)
	refused(c, CPUWeightV2, "10001", unix.ERANGE)
	if tree.V1("cpuset") != "" {
		refused(child, CPUSetCPUList, "", unix.ENOSPC) // it has tasks
		refused(child, CPUSetMemList, "", unix.ENOSPC)
		set(t, child, CPUSetCPUList, "0")
		refused(c, CPUSetCPUList, "1", unix.EBUSY) // the child's are not below
		set(t, c, CPUSetCPUList, "0")
		refused(child, CPUSetCPUList, "1", unix.EACCES) // not of the parent
	} else {
		// It has tasks, too, and gets what means the same.
		for k, name := range map[Knob]string{CPUSetCPUList: "cpu", CPUSetMemList: "node"} {
			possible, err := os.ReadFile("/sys/devices/system/" + name + "/possible")
			if err != nil {
				t.Logf("not tried: %v", err) // a kernel without NUMA
				continue
			}
			effective := filepath.Join(below.Dir("unified"), k.String()+".effective")
			before, err := os.ReadFile(effective)
			if err != nil {
				t.Fatal(err)
			}
			set(t, child, k, "0")
			if err := child.Set(k, ""); err != nil {
				t.Error(err)
			}
			after, err := os.ReadFile(effective)
			if v := get(t, child, k); v != strings.TrimSpace(string(possible)) || !bytes.Equal(after, before) {
				t.Errorf("%s is %q, in effect %q, before %q: %v", k, v, after, before, err)
			}
		}
	}
	if _, err := child.Get(CPUSetCPUList); err == nil {
		e := child.Set(CPUSetCPUList, "8191")
		if !errors.Is(e, unix.EINVAL) && !errors.Is(e, unix.ERANGE) && !errors.Is(e, unix.EACCES) {
			t.Errorf("a CPU that there is not: %v", e)
		}
	}
	if disk := testDisk(t, tree); disk != "" {
		c := control(t, tree, hosttest.NewCgroup(t, nil, "disks").Path)
		set(t, c, IOMaxLimits, disk+" rbps=1000000")
		// The second disk is not there: the first has its limit back.
		refused(c, IOMaxLimits, disk+" wbps=7000000\n4000:1 rbps=5", unix.ENODEV)
		set(t, c, IOMaxLimits, "")
	}
}

// inThread runs f in a thread that ends with it, so that it may change what it is.
func inThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlock
		f()
	}()
	<-done
}

func TestHostKnobsReadOnly(t *testing.T) {
	tree := hostTree(t)
	cg := hosttest.NewCgroup(t, nil, "readonly")
	before := get(t, control(t, tree, cg.Path), CPUMax)
	check := func(t *testing.T, tree *Tree, path string, want error) {
		for _, tree.Writes = range []bool{false, true} {
			c, err := tree.Control(path)
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { c.Close() })
			if v, err := c.Get(CPUMax); err != nil || v != before {
				t.Errorf("Get: %q, %v", v, err)
			}
			if err := c.Set(CPUMax, "20000 50000"); !errors.Is(err, want) || errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("Set: %v, want %v", err, want)
			}
		}
	}
	t.Run("permission", func(t *testing.T) {
		for _, name := range []string{"cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us", "unified/cpu.max"} {
			hierarchy, name := filepath.Split(name)
			if hierarchy = filepath.Clean(hierarchy); cg.Has(hierarchy, name) {
				if err := os.Chmod(filepath.Join(cg.Dir(hierarchy), name), 0o444); err != nil {
					t.Fatal(err)
				}
			}
		}
		inThread(func() {
			// CAP_DAC_OVERRIDE is what lets root write all the same.
			header, none := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, [2]unix.CapUserData{}
			if err := unix.Capset(&header, &none[0]); err != nil {
				t.Error(err)
				return
			}
			check(t, tree, cg.Path, unix.EACCES)
		})
	})
	t.Run("mount", func(t *testing.T) {
		to := t.TempDir()
		h := Hierarchy{Dir: to, Version: V2, Root: "/"}
		from := cg.Dir("unified")
		if tree.V1("cpu") != "" {
			h.Version, h.Controllers, from = V1, []string{"cpu"}, cg.Dir("cpu")
		}
		inThread(func() {
			err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
			if err == nil {
				err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
			}
			if err == nil {
				err = unix.Mount(from, to, "", unix.MS_BIND, "")
			}
			if err == nil {
				err = unix.Mount("", to, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
			}
			if err != nil {
				t.Error(err)
				return
			}
			check(t, newTree([]Hierarchy{h}), "/", unix.EROFS)
		})
	})
	if after := get(t, control(t, tree, cg.Path), CPUMax); after != before {
		t.Errorf("%q became %q", before, after)
	}
}

func TestHostKnobsGone(t *testing.T) {
	tree := hostTree(t)
	if _, err := tree.Control("/owca-test-none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is none: %v", err)
	}
	if _, err := tree.Control("/a/../b"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("no path: %v", err)
	}
	ids := map[string]bool{}
	for _, keep := range []int{tree.KeepFiles, 0} {
		tree.KeepFiles = keep
		cg := hosttest.NewCgroup(t, nil, "knobs-gone")
		c := control(t, tree, cg.Path)
		set(t, c, CPUMax, "50000 100000")
		get(t, c, CPUIdleFlag)
		if again := control(t, hostTree(t), cg.Path).ID(CPUMax); again != c.ID(CPUMax) || again == "" || ids[again] {
			t.Errorf("ID %q, for another tree %q; before there were %v", c.ID(CPUMax), again, ids)
		}
		ids[c.ID(CPUMax)] = true
		check := func(when string) {
			t.Helper()
			for k := range NumKnobs {
				if v, err := c.Get(k); !errors.Is(err, ErrGone) || errors.Is(err, errors.ErrUnsupported) || v != "" {
					t.Errorf("keeping %d, %s: %s: %q, %v", keep, when, k, v, err)
				}
				value := strings.TrimPrefix(CPUMax.String(), k.String()) // some value
				if value == "" {
					value = "20000 100000"
				} else if k == CPUIdleFlag {
					value = "1"
				} else if value = "2"; k == IOMaxLimits {
					value = "7:0 rbps=5"
				}
				if err := c.Set(k, value); !errors.Is(err, ErrGone) {
					t.Errorf("keeping %d, %s: %s: %v", keep, when, k, err)
				}
				if err := c.Below(k, func(string, string) bool { return true }); !errors.Is(err, ErrGone) {
					t.Errorf("keeping %d, %s: below: %s: %v", keep, when, k, err)
				}
			}
		}
		cg.Remove()
		check("removed")
		again := hosttest.NewCgroup(t, nil, "knobs-gone")
		check("made again")
		if v := get(t, control(t, tree, again.Path), CPUMax); v != "max 100000" {
			t.Errorf("the new one was written to: %q", v)
		}
		again.Remove()
	}
}

// TestHostKnobsChurn uses cgroups while they come and go: each time they are there, or gone,
// and never without a limit that the host has.
func TestHostKnobsChurn(t *testing.T) {
	tree := hostTree(t)
	top := hosttest.NewCgroup(t, nil, "knobs-churn")
	delegate(t, top, "+cpu")
	first := control(t, tree, hosttest.NewCgroup(t, top, "first").Path)
	get(t, first, CPUMax)
	dir := filepath.Dir(filepath.Dir(first.File(CPUMax)))
	name := func(i int) string { return "c" + strconv.Itoa(i%5) }
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			_ = os.Mkdir(filepath.Join(dir, name(i)), 0o755)
			_ = os.Remove(filepath.Join(dir, name(i+2)))
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
	used, vanished := 0, 0
	deadline := time.Now().Add(20 * time.Second)
	for i := 0; (used < 2000 || vanished < 50) && time.Now().Before(deadline); i++ {
		c, err := tree.Control(top.Path + "/" + name(i))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		for j := 0; err == nil && j < 20; j++ {
			used++
			if _, err = c.Get(CPUMax); err == nil {
				err = c.Set(CPUMax, fmt.Sprintf("%d %d", 20000+10*j, 50000+j%2))
			}
			if err == nil {
				err = c.Below(CPUMax, func(string, string) bool { return true })
			}
		}
		if errors.Is(err, ErrGone) {
			vanished++
		} else if err != nil {
			t.Fatal(err)
		}
		if err := control(t, tree, top.Path).Below(CPUMax, func(string, string) bool { return true }); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	}
	end()
	t.Logf("used %d times, %d vanished", used, vanished)
	if used == 0 || vanished == 0 {
		t.Error("nothing was tried")
	}
	_ = first.Close()
	if n := openFiles(t, top.Path); n != 0 || tree.Files() != 0 {
		t.Errorf("%d descriptors are left, %d files", n, tree.Files())
	}
}

func TestHostKnobsBelow(t *testing.T) {
	tree := hostTree(t)
	top := hosttest.NewCgroup(t, nil, "knobs-below")
	c := control(t, tree, top.Path)
	below := func(k Knob, limit int) (list []string) {
		t.Helper()
		if err := c.Below(k, func(path, value string) bool {
			list = append(list, strings.TrimPrefix(path, top.Path)+" "+value)
			return len(list) < limit
		}); err != nil {
			t.Fatal(err)
		}
		return list
	}
	if list := below(CPUMax, 100); list != nil {
		t.Errorf("of a leaf: %q", list)
	}
	delegate(t, top, "+cpu")
	a, b := hosttest.NewCgroup(t, top, "a"), hosttest.NewCgroup(t, top, "b")
	delegate(t, a, "+cpu")
	x := hosttest.NewCgroup(t, a, "x")
	y := hosttest.NewCgroup(t, b, "y") // on v2 without cpu
	set(t, control(t, tree, a.Path), CPUMax, "40000 50000")
	set(t, control(t, tree, x.Path), CPUMax, "20000 50000")
	list := below(CPUMax, 100)
	if slices.Index(list, "/a 40000 50000") > slices.Index(list, "/a/x 20000 50000") {
		t.Errorf("children before parents: %q", list)
	}
	slices.Sort(list)
	want := []string{"/a 40000 50000", "/a/x 20000 50000", "/b max 100000"}
	if y.Has("cpu", "cpu.cfs_quota_us") || y.Has("unified", "cpu.max") {
		want = append(want, "/b/y max 100000")
	}
	if !slices.Equal(list, want) {
		t.Errorf("%q, want %q", list, want)
	}
	for n := 1; n < len(want); n++ {
		if list := below(CPUMax, n); len(list) != n {
			t.Errorf("%d were enough: %q", n, list)
		}
	}
	if tree.V1("memory") != "" {
		if err := c.Below(MemoryHighLimit, func(string, string) bool { return true }); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("v1 has no memory.high: %v", err)
		}
	}
	if n := openFiles(t, top.Path); n != tree.Files() {
		t.Errorf("%d descriptors, %d files", n, tree.Files())
	}
}

// openFiles counts descriptors whose target contains part of a path.
func openFiles(t testing.TB, part string) (n int) {
	t.Helper()
	links, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if to, err := os.Readlink("/proc/self/fd/" + l.Name()); err == nil && strings.Contains(to, part) {
			n++
		}
	}
	return n
}

// TestHostKnobsFiles: with few files, with none, and when there is no descriptor left.
func TestHostKnobsFiles(t *testing.T) {
	tree := hostTree(t)
	top := hosttest.NewCgroup(t, nil, "knobs-files")
	delegate(t, top, "+cpu")
	var controls []*Control
	for i := range 6 {
		c := control(t, tree, hosttest.NewCgroup(t, top, strconv.Itoa(i)).Path)
		controls = append(controls, c)
	}
	round := 0
	check := func(most int) {
		t.Helper()
		for i, c := range controls {
			round++
			v := fmt.Sprintf("%d 100000", 10000+100*round+i)
			set(t, c, CPUMax, v)
			for range 3 {
				if got := get(t, c, CPUMax); got != v {
					t.Fatalf("control %d: %q, want %q", i, got, v)
				}
			}
		}
		if n := tree.Files(); n > most || n != openFiles(t, top.Path) {
			t.Errorf("%d files are kept and %d open, want %d at most", n, openFiles(t, top.Path), most)
		}
	}
	for _, keep := range []int{0, 1, 5, 1000, 3, 0} {
		tree.KeepFiles = keep
		check(keep)
	}
	tree.KeepFiles = 1000
	check(1000)
	all := tree.Files()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	restore := func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Fatal(err)
		}
	}
	defer restore()
	newer := control(t, tree, hosttest.NewCgroup(t, top, "newer").Path)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	// The limit is on numbers, so that closing others does not help.
	_, err := newer.Get(CPUMax)
	restore()
	if !errors.Is(err, unix.EMFILE) || tree.Files() != 0 {
		t.Errorf("without descriptors: %v, %d files are kept", err, tree.Files())
	}
	for range 64 * 2 * (all + 1) {
		check(1000)
		if tree.Files() == all {
			break
		}
	}
	if tree.Files() != all {
		t.Errorf("with descriptors again %d files are kept, %d before", tree.Files(), all)
	}
}

// TestHostMemoryHigh sets it below the usage.
func TestHostMemoryHigh(t *testing.T) {
	tree := hostTree(t)
	cg := hosttest.NewCgroup(t, nil, "high")
	c := control(t, tree, cg.Path)
	if _, err := c.Get(MemoryHighLimit); errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	cg.Start("touch 16").Done()
	set(t, c, MemoryHighLimit, "8388608")
	set(t, c, MemoryHighLimit, "4194304")
	set(t, c, MemoryHighLimit, "max")
}

// TestKnobAlternatives are files that this kernel may not have, in a copy of such a hierarchy.
func TestKnobAlternatives(t *testing.T) {
	for _, test := range []struct {
		version       Version
		name, content string
	}{
		{V2, "io.weight", "default 100\n8:0 50\n"},
		{V2, "io.bfq.weight", "default 100\n"},
		{V1, "blkio.bfq.weight", "100\n"},
		{V1, "blkio.weight", "100\n"},
	} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "a", "cgroup.procs"), "")
		tree := newTree([]Hierarchy{{Dir: dir, Version: test.version, Controllers: []string{"blkio"}, Root: "/"}})
		c := control(t, tree, "/a")
		if _, err := c.Get(IOWeightDefault); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: %v", test.name, err)
		}
		file := filepath.Join(dir, "a", test.name)
		write(t, file, test.content)
		if v, err := c.Get(IOWeightDefault); err != nil || v != "100" {
			t.Errorf("%s: %q, %v", test.name, v, err)
		}
		if c.File(IOWeightDefault) != file {
			t.Errorf("%s, want %s", c.File(IOWeightDefault), file)
		}
		if err := c.Set(IOWeightDefault, "200"); err != nil {
			t.Error(err)
		}
		if b, err := os.ReadFile(file); err != nil || !strings.HasPrefix(string(b), "200") {
			t.Errorf("%s: %q, %v", test.name, b, err)
		}
	}
}

// TestKnobElsewhere: a cgroup that is not, or not yet, in the hierarchy of the limit.
func TestKnobElsewhere(t *testing.T) {
	dir := t.TempDir()
	name, cpu := filepath.Join(dir, "systemd"), filepath.Join(dir, "cpu")
	write(t, filepath.Join(name, "a", "cgroup.procs"), "")
	write(t, filepath.Join(cpu, "cgroup.procs"), "")
	tree := newTree([]Hierarchy{
		{Dir: name, Version: V1, Controllers: []string{"name=systemd"}, Root: "/"},
		{Dir: cpu, Version: V1, Controllers: []string{"cpu"}, Root: "/"},
	})
	c := control(t, tree, "/a")
	if id := c.ID(CPUSharesV1); id != "" {
		t.Errorf("ID %q of a limit that it does not have", id)
	}
	below := func() error { return c.Below(CPUSharesV1, func(string, string) bool { return true }) }
	if _, err := c.Get(CPUSharesV1); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	if err := c.Set(CPUSharesV1, "2"); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	if err := below(); err != nil {
		t.Error(err)
	}
	write(t, filepath.Join(cpu, "a", "cgroup.procs"), "")
	write(t, filepath.Join(cpu, "a", "cpu.shares"), "1024\n")
	id := c.ID(CPUSharesV1)
	if v := get(t, c, CPUSharesV1); v != "1024" || !strings.HasPrefix(id, "cpu:") || control(t, tree, "/a").ID(CPUSharesV1) != id {
		t.Errorf("%s, and the ID is %q", v, id)
	}
	if err := os.RemoveAll(filepath.Join(cpu, "a")); err != nil {
		t.Fatal(err)
	}
	if err := below(); !errors.Is(err, ErrGone) {
		t.Error(err)
	}
	// The file outlives its name here, as it does not in a cgroup.
	c.dropAll()
	if _, err := c.Get(CPUSharesV1); !errors.Is(err, ErrGone) {
		t.Error(err)
	}
	if err := os.RemoveAll(filepath.Join(name, "a")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(CPUMax); !errors.Is(err, ErrGone) {
		t.Error(err)
	}
}

// TestKnobGarbled: what the kernel doesn't write is an error, not a value.
func TestKnobGarbled(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a", "cgroup.procs"), "")
	c := control(t, newTree([]Hierarchy{{Dir: dir, Version: V2, Root: "/"}}), "/a")
	for k := range NumKnobs {
		if k == CPUSharesV1 {
			continue
		}
		write(t, filepath.Join(dir, "a", k.String()), "?\n")
		if v, err := c.Get(k); err == nil || v != "" || errors.Is(err, errors.ErrUnsupported) || errors.Is(err, ErrGone) {
			t.Errorf("%s: %q, %v", k, v, err)
		}
	}
}

func TestHostGetDoesNotAllocate(t *testing.T) {
	tree := hostTree(t)
	c := control(t, tree, hosttest.NewCgroup(t, nil, "knobs-allocations").Path)
	for _, keep := range []int{tree.KeepFiles, 0} {
		tree.KeepFiles = keep
		for k := range NumKnobs {
			if _, err := c.Get(k); err != nil {
				continue
			}
			if n := testing.AllocsPerRun(50, func() { get(t, c, k) }); n != 0 {
				t.Errorf("%s, keeping %d files: %v allocations", k, keep, n)
			}
		}
	}
}

// BenchmarkKnobs compares Get and Set with the bare open, read or write, and close of the same
// files, in turns.
func BenchmarkKnobs(b *testing.B) {
	tree := hostTree(b)
	cg := hosttest.NewCgroup(b, nil, "knobs-bench")
	c := control(b, tree, cg.Path)
	weight := CPUSharesV1
	if tree.V1("cpu") == "" {
		weight = CPUWeightV2
	}
	file := c.File(weight)
	values := [2]string{"200", "300"}
	bare := func(flags int, f func(fd int) error) {
		fd, err := unix.Open(file, flags|unix.O_CLOEXEC, 0)
		if err == nil {
			err = errors.Join(f(fd), unix.Close(fd))
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	buf := make([]byte, 4096)
	for _, kept := range []bool{true, false} {
		b.Run(map[bool]string{true: "kept", false: "notkept"}[kept], func(b *testing.B) {
			if tree.KeepFiles = 100; !kept {
				tree.KeepFiles = 0
			}
			runtime.LockOSThread() // CPU time of this thread
			defer runtime.UnlockOSThread()
			var times [4]int64
			const turn = 50
			for b.Loop() {
				for i, f := range []func(i int){
					func(int) { bare(unix.O_RDONLY, func(fd int) error { _, err := unix.Read(fd, buf); return err }) },
					func(int) { get(b, c, weight) },
					func(i int) {
						bare(unix.O_WRONLY, func(fd int) error { _, err := unix.Write(fd, []byte(values[i%2])); return err })
					},
					func(i int) {
						if err := c.Set(weight, values[i%2]); err != nil {
							b.Fatal(err)
						}
					},
				} {
					start := threadTime(b)
					for j := range turn {
						f(j)
					}
					times[i] += (threadTime(b) - start).Nanoseconds()
				}
			}
			n := int64(b.N * turn)
			b.ReportMetric(float64(times[0]/n), "ns/bare-get")
			b.ReportMetric(float64(times[1]/n), "ns/get")
			b.ReportMetric(float64(times[2]/n), "ns/bare-set")
			b.ReportMetric(float64(times[3]/n), "ns/set")
			b.ReportMetric(float64(times[3])/float64(times[2]), "set/bare")
		})
	}
}

// TestHostReplace: nothing is written over what somebody else wrote.
func TestHostReplace(t *testing.T) {
	tree := hostTree(t)
	tree.Writes = true
	cg := hosttest.NewCgroup(t, nil, "replace")
	c, other := control(t, tree, cg.Path), control(t, hostTree(t), cg.Path)
	before := get(t, c, CPUMax)
	if now, err := c.Replace(CPUMax, before, "050000 100000"); err != nil || now != "50000 100000" || get(t, other, CPUMax) != now {
		t.Errorf("%q, %v", now, err)
	}
	set(t, other, CPUMax, "30000 100000")
	if now, err := c.Replace(CPUMax, "50000 100000", "60000 100000"); !errors.Is(err, ErrChanged) || now != "30000 100000" || get(t, other, CPUMax) != now {
		t.Errorf("%q, %v", now, err)
	}
	// Too little for the kernel: what was there stays.
	if now, err := c.Replace(CPUMax, "30000 100000", "1 100000"); !errors.Is(err, unix.EINVAL) || now != "" || get(t, other, CPUMax) != "30000 100000" {
		t.Errorf("%q, %q, %v", now, get(t, other, CPUMax), err)
	}
	if _, err := c.Replace(CPUMax, "30000 100000", "a lot"); !errors.Is(err, unix.EINVAL) {
		t.Error(err)
	}
	for k := range NumKnobs {
		value, err := c.Get(k)
		if errors.Is(err, errors.ErrUnsupported) {
			continue
		}
		if now, err := c.Replace(k, value, value); err != nil || now != value {
			t.Errorf("%s: %q became %q, %v", k, value, now, err)
		}
	}
	// The kernel computes with another unit, and rounds.
	for _, k := range []Knob{CPUMax, CPUMaxBurst, CPUSharesV1, CPUWeightV2} {
		if _, err := c.Get(k); errors.Is(err, errors.ErrUnsupported) {
			continue
		}
		for n := uint64(1003); n <= 10000; n += 149 {
			value := strconv.FormatUint(n, 10)
			switch k {
			case CPUMax:
				value += " 100003"
			case CPUMaxBurst:
				value = strconv.FormatUint(n/10, 10)
			}
			if now, err := c.Replace(k, get(t, other, k), value); err != nil || now != value || get(t, other, k) != value {
				t.Errorf("%s: %q became %q, %v", k, value, now, err)
			}
		}
	}
	cg.Remove()
	if _, err := c.Replace(CPUMax, before, before); !errors.Is(err, ErrGone) {
		t.Error(err)
	}
}

// TestWrites: a file is opened once, to be read and written.
func TestWrites(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a", "cpu.max")
	write(t, filepath.Join(dir, "a", "cgroup.procs"), "")
	write(t, file, "max 100000\n")
	for _, writes := range []bool{false, true} {
		tree := newTree([]Hierarchy{{Dir: dir, Version: V2, Root: "/"}})
		tree.Writes = writes
		c := control(t, tree, "/a")
		get(t, c, CPUMax)
		if c.knobs[CPUMax].writable[0] != writes {
			t.Errorf("opened to be written: %t", !writes)
		}
	}
}

// What could not be put back is told. The file is one that cannot grow: it takes the first
// device's new limits, but neither the second's nor, longer ones, those that were there.
func TestReplaceNotPutBack(t *testing.T) {
	fd, err := unix.MemfdCreate("io.max", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte("8:0 wiops=1\n8:16 wiops=0000000001\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_GROW); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a", "cgroup.procs"), "")
	if err := os.Symlink(fmt.Sprint("/proc/self/fd/", fd), filepath.Join(dir, "a", "io.max")); err != nil {
		t.Fatal(err)
	}
	c := control(t, newTree([]Hierarchy{{Dir: dir, Version: V2, Root: "/"}}), "/a")
	const wanted = "8:0 rbps=1 wbps=1 riops=1 wiops=1"
	_, err = c.Replace(IOMaxLimits, get(t, c, IOMaxLimits), wanted)
	if !errors.Is(err, unix.EPERM) || !errors.Is(err, ErrHalf) {
		t.Fatal(err)
	}
	if now := get(t, c, IOMaxLimits); now != wanted {
		t.Errorf("there is %q", now)
	}
}
