package measure

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/hosttest"
	"github.com/owca-project/owca/internal/resctrl"
)

// fakeResctrl is a resctrl with so many RMIDs, one of which every control group has; a
// freed one is in limbo for some attempts.
type fakeResctrl struct {
	rmids, limbo int
	options      []string
	mounted      bool
	ours         bool
	readOnly     bool
	gone         bool
	err          error // of Mount
	inUse        error // of Claim
	stays        error // of Unmount
	stuck        error // of Remove
	unlisted     error // of Groups
	files        int   // that may be kept
	removes      int
	watchSlow    time.Duration
	denied       error // of Monitor
	unmounts     int
	groups       map[resctrl.Name]*fakeGroup
	dirty        []int // attempts until each can be used again
	control      map[string]int
	strangers    map[string]int // that each Follow in a control group finds
	forking      int            // removals of control groups that find a thread in them
	follows      int
	fulls        int
	slow         time.Duration
}

type fakeGroup struct {
	usage   []resctrl.Usage
	foreign int
	unsure  int // passes that find more
	refused int
	empty   bool // of threads with an id here
}

func newFakeResctrl(rmids int) *fakeResctrl {
	return &fakeResctrl{rmids: rmids, mounted: true, groups: map[resctrl.Name]*fakeGroup{}}
}

func (f *fakeResctrl) Mounted() (resctrl.Mount, error) {
	if !f.mounted {
		return resctrl.Mount{}, resctrl.ErrNotMounted
	}
	return resctrl.Mount{Dir: "/sys/fs/fake", Options: f.options, Ours: f.ours, ReadOnly: f.readOnly}, nil
}

func (f *fakeResctrl) Mount(o resctrl.MountOptions) (resctrl.Mount, error) {
	if f.err != nil {
		return resctrl.Mount{}, f.err
	}
	f.mounted, f.ours, f.gone, f.options = true, true, false, nil
	if o.CDP {
		f.options = []string{"cdp"}
	}
	return f.Mounted()
}

func (f *fakeResctrl) Claim() error     { return f.inUse }
func (*fakeResctrl) Unknown() error     { return nil }
func (f *fakeResctrl) limitFiles(n int) { f.files = n }

func (f *fakeResctrl) Unmount(resctrl.Mount) error {
	if f.stays != nil {
		return f.stays
	}
	f.mounted = false
	f.unmounts++
	return nil
}

func (f *fakeResctrl) Open(resctrl.Mount) (resctrlTree, error) { f.gone = false; return f, nil }

func (f *fakeResctrl) Info() *resctrl.Info {
	in := &resctrl.Info{Resources: []resctrl.Resource{{Name: "L3", CLOSIDs: 16, Bits: 0x7ff, MinBits: 1, Domains: []int{0, 1}}}}
	if f.rmids > 0 {
		in.Monitoring = []resctrl.Monitoring{{Name: "L3_MON", RMIDs: f.rmids, Events: []string{"llc_occupancy", "mbm_total_bytes", "mbm_local_bytes"}}}
	}
	return in
}

func (f *fakeResctrl) Alive() error {
	if f.gone {
		return resctrl.ErrGone
	}
	return nil
}

func (f *fakeResctrl) Groups(buf []resctrl.Name) ([]resctrl.Name, error) {
	if f.unlisted != nil {
		return buf, f.unlisted
	}
	buf = append(buf, resctrl.Name{})
	for c := range f.control {
		buf = append(buf, resctrl.Name{Control: c})
	}
	for n := range f.groups {
		buf = append(buf, n)
	}
	return buf, nil
}

func (f *fakeResctrl) Threads(n resctrl.Name, buf []int) ([]int, error) {
	return append(buf, make([]int, f.control[n.Control])...), nil
}

func (f *fakeResctrl) Remove(n resctrl.Name) error {
	f.removes++
	if f.stuck != nil {
		return f.stuck
	}
	if n.Monitor == "" {
		delete(f.control, n.Control)
		return nil
	}
	if f.groups[n] != nil {
		delete(f.groups, n)
		f.dirty = append(f.dirty, f.limbo)
	}
	return nil
}

func (f *fakeResctrl) create(n resctrl.Name) error {
	if f.denied != nil {
		return f.denied
	}
	for i := range f.dirty {
		f.dirty[i]--
	}
	f.dirty = slices.DeleteFunc(f.dirty, func(n int) bool { return n <= 0 })
	switch used := 1 + len(f.control) + len(f.groups); {
	case used >= f.rmids:
		return fmt.Errorf("mkdir: %w", resctrl.ErrNoRMID)
	case used+len(f.dirty) >= f.rmids:
		return fmt.Errorf("mkdir: %w", resctrl.ErrLimbo)
	}
	f.groups[n] = &fakeGroup{}
	return nil
}

func (f *fakeResctrl) Watch(paths []string, groups []resctrl.Name, _ resctrl.Lister) (resctrlWatch, error) {
	time.Sleep(f.watchSlow)
	w := &fakeWatch{of: f, monitor: resctrl.MonitorName(paths[0])}
	for _, n := range groups {
		if n.Monitor == w.monitor {
			w.name = n
		}
	}
	return w, nil
}

func (f *fakeResctrl) Close() error { return nil }

type fakeWatch struct {
	of      *fakeResctrl
	name    resctrl.Name
	monitor string
	epoch   int
	again   bool
}

func (w *fakeWatch) Name() resctrl.Name { return w.name }
func (w *fakeWatch) Epoch() int         { return w.epoch }
func (w *fakeWatch) Close() error       { return nil }

func (w *fakeWatch) Monitor() error {
	to := resctrl.Name{Control: w.name.Control, Monitor: w.monitor}
	if err := w.of.create(to); err != nil {
		return err
	}
	w.name = to
	w.epoch++
	return nil
}

func (w *fakeWatch) Unmonitor() error {
	w.again = false
	if w.name.Monitor == "" {
		return nil
	}
	if err := w.of.Remove(w.name); err != nil {
		return err
	}
	w.name.Monitor = ""
	return nil
}

func (w *fakeWatch) Follow(_ resctrl.Lister, full bool) (resctrl.Followed, error) {
	w.of.follows++
	if full {
		w.of.fulls++
	}
	time.Sleep(w.of.slow)
	if w.again {
		if err := w.Monitor(); err != nil {
			return resctrl.Followed{}, err
		}
		w.again = false
	}
	g := w.of.groups[w.name]
	if g == nil {
		return resctrl.Followed{Threads: 1, Stable: true, Strangers: w.of.strangers[w.name.Control]}, nil
	}
	if g.empty {
		return resctrl.Followed{Stable: true}, nil
	}
	if g.unsure > 0 {
		g.unsure--
		return resctrl.Followed{Threads: 1, Moved: 1}, nil
	}
	return resctrl.Followed{Threads: 1, Foreign: g.foreign, Refused: g.refused, Stable: true}, nil
}

func (w *fakeWatch) Read(list []resctrl.Usage) ([]resctrl.Usage, error) {
	g := w.of.groups[w.name]
	if g == nil {
		w.name.Monitor, w.again = "", true
		return list[:0], resctrl.ErrGone
	}
	return append(list[:0], g.usage...), nil
}

// monitored is what the group of a cgroup has.
func (f *fakeResctrl) of(path string) *fakeGroup {
	return f.groups[resctrl.Name{Monitor: resctrl.MonitorName(path)}]
}

func count(n uint64) resctrl.Count { return resctrl.Count{N: n, OK: true} }

func l3(domain, node int, occupancy, total, local uint64) resctrl.Usage {
	return resctrl.Usage{
		Domain:    resctrl.Domain{Resource: "L3", ID: domain, Node: node},
		Occupancy: count(occupancy), Total: count(total), Local: count(local),
	}
}

func fakePlan(t testing.TB, f *fakeResctrl, o ResctrlOptions) *Resctrl {
	t.Helper()
	r, err := new(Host).planResctrl(f, o)
	if r == nil || err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, resctrl.ErrInUse) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, resctrl.ErrNotMounted) && !errors.Is(err, syscall.EROFS) {
		t.Fatal(err) // the directory is not there, which is of no matter
	}
	return r
}

// TestUsage: whatever a group reads, counters never fall, and sums are of all
// domains or absent.
func TestUsage(t *testing.T) {
	var u taskUsage
	tick := func(fresh bool, list ...resctrl.Usage) usageSum {
		u.take(list, fresh)
		u.add()
		return u.sum
	}
	check := func(what string, got usageSum, occupancy, total, local, remote resctrl.Count) {
		t.Helper()
		if want := (usageSum{occupancy, total, local, remote}); got != want {
			t.Errorf("%s: %+v, want %+v", what, got, want)
		}
	}
	none := resctrl.Count{}
	check("two domains", tick(true, l3(0, -1, 10, 100, 60), l3(1, -1, 5, 40, 40)), count(15), count(140), count(100), count(40))
	check("they grow", tick(false, l3(0, -1, 11, 110, 65), l3(1, -1, 5, 45, 45)), count(16), count(155), count(110), count(45))
	check("one wraps", tick(false, l3(0, -1, 11, 10, 5), l3(1, -1, 5, 45, 45)), count(16), count(155), count(110), count(45))
	check("and goes on", tick(false, l3(0, -1, 11, 30, 15), l3(1, -1, 5, 45, 45)), count(16), count(175), count(120), count(55))
	check("made anew", tick(true, l3(0, -1, 1, 7, 7), l3(1, -1, 1, 0, 0)), count(2), count(182), count(127), count(55))
	// The two of a domain are read one after the other.
	check("local runs ahead", tick(false, l3(0, -1, 1, 7, 12), l3(1, -1, 1, 0, 0)), count(2), count(182), count(132), count(55))
	absent := l3(1, -1, 3, 0, 0)
	absent.Total = none
	sum := tick(false, l3(0, -1, 1, 20, 14), absent)
	if sum.total.OK || sum.remote.OK || !sum.local.OK || !sum.occupancy.OK {
		t.Errorf("with one total absent: %+v", sum)
	}
	check("it is back", tick(false, l3(0, -1, 1, 20, 14), l3(1, -1, 3, 2, 2)), count(4), count(197), count(136), count(61))
	check("a domain is offline", tick(false, l3(0, -1, 1, 20, 14)), count(1), count(197), count(136), count(61))
	check("nothing", tick(false), none, none, none, none)
	// Parts of a cache, and another level, are in no sum.
	check("sub-NUMA", tick(false, l3(0, -1, 1, 20, 14), l3(0, 0, 1, 10, 7), l3(0, 1, 1, 10, 7), resctrl.Usage{Domain: resctrl.Domain{Resource: "L2", Node: -1}, Total: count(1)}),
		count(1), count(197), count(136), count(61))
	var labels []string
	for _, d := range u.domains {
		labels = append(labels, d.label)
	}
	if d := cmp.Diff([]string{"0", "1", "0/0", "0/1"}, labels); d != "" {
		t.Error(d)
	}
}

// FuzzUsage: readings in any order and with any gaps. Counters never fall, nor does
// the remote part; and what is told is no more than what was read.
func FuzzUsage(f *testing.F) {
	f.Add([]byte{1, 10, 5, 1, 20, 9, 1, 3, 3, 2, 7, 7})
	f.Add([]byte{4, 10, 5, 8, 20, 9, 0, 3, 3, 1, 250, 255, 1, 255, 255})
	f.Fuzz(func(t *testing.T, data []byte) {
		var u taskUsage
		var before, read uint64
		var last domainUsage
		for ; len(data) >= 3; data = data[3:] {
			how, total, local := data[0], uint64(data[1]), uint64(data[2])
			r := l3(0, -1, 0, total, local)
			r.Total.OK, r.Local.OK = how&4 == 0, how&8 == 0
			u.take([]resctrl.Usage{r}, how&2 != 0)
			u.add()
			d := u.domains[0]
			if d.total < last.total || d.local < last.local || d.remote < last.remote {
				t.Fatalf("a counter fell: %+v after %+v", d, last)
			}
			if read += total; d.total > read {
				t.Fatalf("%d is more than all that was ever read", d.total)
			}
			if u.sum.total.OK != r.Total.OK || u.sum.total.OK && u.sum.total.N < before {
				t.Fatalf("sum %+v of %+v", u.sum, r)
			}
			if last = d; u.sum.total.OK {
				before = u.sum.total.N
			}
		}
	})
}

func hasResctrl(t testing.TB, d owca.TaskData, want bool) {
	t.Helper()
	if _, ok := d.Measurements.Get(owca.TaskLLCOccupancy); ok != want {
		t.Errorf("%s: the occupancy is there: %v", d.ID, ok)
	}
}

func states(m *Tasks) string {
	var list []string
	for _, r := range m.Monitoring() {
		if n, _ := r.Value.IsInt(); r.Desc == owca.AgentResctrlTasks && n > 0 {
			list = append(list, r.Label+" "+strconv.FormatUint(n, 10))
		}
	}
	return strings.Join(list, ", ")
}

func inStates(t testing.TB, m *Tasks, want string) {
	t.Helper()
	if got := states(m); got != want {
		t.Errorf("tasks are %q, want %q", got, want)
	}
}

func TestMonitoring(t *testing.T) {
	log := testLog(t)
	c := hosttest.NewCgroup(t, nil, "mon")
	m := newTasks(t, everything)
	f := newFakeResctrl(8)
	f.groups[resctrl.Name{Monitor: "owca-orphan"}] = &fakeGroup{}
	f.groups[resctrl.Name{Monitor: "other"}] = &fakeGroup{}
	f.control = map[string]int{"owca-empty": 0, "owca-used": 3, "gold": 0}
	adopted := resctrl.Name{Monitor: resctrl.MonitorName(c.Path)}
	f.groups[adopted] = &fakeGroup{usage: []resctrl.Usage{l3(0, -1, 4096, 1000, 600), l3(1, -1, 100, 10, 10)}}
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{}))
	list := []owca.Task{task(c)}
	d := read(t, m, list...)[0]
	// What an agent that ran before counted goes on; what it left is removed.
	counts(t, d, owca.TaskMemoryBandwidth, 1010)
	counts(t, d, owca.TaskMemoryBandwidthRemote, 400)
	counts(t, d, owca.TaskLLCOccupancy, 4196)
	if v, ok := d.Measurements.GetLabel(owca.TaskLLCOccupancyDomain, "1"); !ok || v != owca.Int(100) {
		t.Errorf("domain 1: %v, %v", v, ok)
	}
	missing(t, d, owca.TaskMemoryBandwidthRate)
	if len(f.groups) != 2 || f.control["gold"] != 0 || len(f.control) != 2 {
		t.Errorf("left: %v, %v", f.groups, f.control)
	}
	logged(t, log, "removed resctrl groups that an earlier agent left", 1)
	logged(t, log, "have threads in them and stay", 1)
	if r := m.RDT(); r == nil || !r.CacheMonitoring || !r.CacheControl || r.CBMMask != 0x7ff || r.BandwidthControl || r.RMIDs != 8 || r.CLOSIDs != 16 {
		t.Errorf("%+v", r)
	}

	f.groups[adopted].usage = []resctrl.Usage{l3(0, -1, 4096, 2000, 600), l3(1, -1, 100, 10, 10)}
	d = read(t, m, list...)[0]
	counts(t, d, owca.TaskMemoryBandwidth, 2010)
	if v, ok := d.Measurements.Float(owca.TaskMemoryBandwidthRate); !ok || v <= 0 {
		t.Errorf("rate %v, %v", v, ok)
	}
	inStates(t, m, "monitored 1")

	// Somebody removes the group: absent for a tick, then it goes on from there.
	delete(f.groups, adopted)
	d = read(t, m, list...)[0]
	hasResctrl(t, d, false)
	f.of(c.Path).usage = []resctrl.Usage{l3(0, -1, 1, 5, 5), l3(1, -1, 1, 0, 0)}
	d = read(t, m, list...)[0]
	counts(t, d, owca.TaskMemoryBandwidth, 2015)
	logged(t, log, "removed by somebody else", 1)

	// Foreign threads: not all of the task is counted.
	f.of(c.Path).foreign = 1
	m.known[list[0].ID].watch.full = time.Time{}
	read(t, m, list...)
	d = read(t, m, list...)[0]
	hasResctrl(t, d, false)
	inStates(t, m, "foreign 1")
	f.of(c.Path).foreign = 0
	m.known[list[0].ID].watch.full = time.Time{}
	read(t, m, list...)
	d = read(t, m, list...)[0]
	counts(t, d, owca.TaskMemoryBandwidth, 2015)
	logged(t, log, "groups of its own", 1)

	// Unmounted, and mounted anew.
	f.gone, f.mounted = true, false
	clear(f.groups)
	for range 3 {
		hasResctrl(t, read(t, m, list...)[0], false)
	}
	if m.RDT() != nil || states(m) != "" {
		t.Error("resctrl is there although it is not mounted")
	}
	f.mounted = true
	for range 5 {
		read(t, m, list...)
	}
	f.of(c.Path).usage = []resctrl.Usage{l3(0, -1, 1, 3, 3), l3(1, -1, 1, 0, 0)}
	counts(t, read(t, m, list...)[0], owca.TaskMemoryBandwidth, 2018)
	logged(t, log, "resctrl was unmounted", 1)

	// The task ends, and then all.
	read(t, m)
	if f.of(c.Path) != nil {
		t.Error("the group of a task that ended stays")
	}
	read(t, m, list...)
	m.SetResctrl(nil)
	if f.of(c.Path) != nil || f.unmounts != 0 || m.Monitoring() != nil {
		t.Error("it is not undone")
	}
}

// TestMonitoringMount: what was mounted by us is unmounted, and only that.
func TestMonitoringMount(t *testing.T) {
	c := hosttest.NewCgroup(t, nil, "mount")
	m := newTasks(t, everything)
	f := newFakeResctrl(8)
	f.mounted = false
	if r, err := new(Host).planResctrl(f, ResctrlOptions{}); !errors.Is(err, resctrl.ErrNotMounted) || r == nil || f.mounted {
		t.Errorf("%v", err)
	}
	r := fakePlan(t, f, ResctrlOptions{Mount: true})
	r.Discard()
	if f.mounted || f.unmounts != 1 {
		t.Error("a plan that nobody takes stays mounted")
	}
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{Mount: true}))
	read(t, m, task(c))
	inStates(t, m, "monitored 1")
	// The same again, then with another option.
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{Mount: true}))
	if f.unmounts != 1 {
		t.Error("unmounted for nothing")
	}
	clear(f.groups)
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{Mount: true, MountOptions: resctrl.MountOptions{CDP: true}}))
	read(t, m, task(c))
	if f.unmounts != 2 || !slices.Equal(f.options, []string{"cdp"}) {
		t.Errorf("%d, %v", f.unmounts, f.options)
	}
	inStates(t, m, "monitored 1")
	m.SetResctrl(nil)
	if f.mounted || f.unmounts != 3 {
		t.Error("stays mounted")
	}
	f.mounted, f.ours = true, false
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{Mount: true}))
	read(t, m, task(c))
	m.SetResctrl(nil)
	if f.unmounts != 3 {
		t.Error("somebody else's was unmounted")
	}
	f.mounted, f.err = false, fs.ErrPermission
	if r, err := new(Host).planResctrl(f, ResctrlOptions{Mount: true}); r == nil || !errors.Is(err, fs.ErrPermission) {
		t.Error(err)
	}
}

// TestMonitoringDenied: what cannot be monitored is told once, and existing groups are
// read.
func TestMonitoringDenied(t *testing.T) {
	log := testLog(t)
	a, b := hosttest.NewCgroup(t, nil, "a"), hosttest.NewCgroup(t, nil, "b")
	m := newTasks(t, everything)
	f := newFakeResctrl(8)
	f.denied = &resctrl.Error{Op: "mkdir", Path: "mon_groups/x", Err: syscall.EROFS}
	f.readOnly = true
	f.groups[resctrl.Name{Monitor: resctrl.MonitorName(b.Path)}] = &fakeGroup{usage: []resctrl.Usage{l3(0, -1, 1, 2, 2)}}
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{}))
	var d []owca.TaskData
	for range 5 {
		d = read(t, m, task(a), task(b))
	}
	hasResctrl(t, d[0], false)
	counts(t, d[1], owca.TaskMemoryBandwidth, 2)
	inStates(t, m, "monitored 1, error 1")
	logged(t, log, "not every task can be monitored", 1)
	if m.monitoring.errors == 0 || m.monitoring.errors > 4 {
		t.Errorf("%d errors", m.monitoring.errors)
	}
}

// TestMonitoringRefused: a task is not measured while threads of it are elsewhere.
func TestMonitoringRefused(t *testing.T) {
	c := hosttest.NewCgroup(t, nil, "refused")
	m := newTasks(t, everything)
	f := newFakeResctrl(8)
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{}))
	read(t, m, task(c))
	f.of(c.Path).usage = []resctrl.Usage{l3(0, -1, 1, 2, 2)}
	f.of(c.Path).refused = 1
	m.known[task(c).ID].watch.again = true
	for range 2 {
		d, err := m.Read(time.Now(), time.Now(), []owca.Task{task(c)})
		if err == nil || !strings.Contains(err.Error(), "1 of 1 threads cannot be moved") {
			t.Error(err)
		}
		if m.tick > 2 {
			hasResctrl(t, d[0], false)
		}
	}
	inStates(t, m, "error 1")
	f.of(c.Path).refused = 0
	for range 3 {
		read(t, m, task(c))
	}
	counts(t, read(t, m, task(c))[0], owca.TaskMemoryBandwidth, 2)
	inStates(t, m, "monitored 1")
}

// TestMonitoringNoThreads: a task that has threads, none of which has an id here, as in
// another pid namespace, uses something; what its group tells is not that.
func TestMonitoringNoThreads(t *testing.T) {
	c := hosttest.NewCgroup(t, nil, "elsewhere")
	c.Start("sleep")
	m := newTasks(t, everything)
	f := newFakeResctrl(8)
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{}))
	now := time.Now()
	read := func() (owca.TaskData, error) {
		d, err := m.Read(now, now, []owca.Task{task(c)})
		now = now.Add(2 * fullPace)
		return d[0], err
	}
	if _, err := read(); err != nil {
		t.Fatal(err)
	}
	g := f.of(c.Path)
	g.usage, g.empty = []resctrl.Usage{l3(0, -1, 0, 0, 0)}, true
	if _, err := read(); err != nil {
		t.Error("it may just be ending: ", err)
	}
	if _, err := read(); err == nil || !strings.Contains(err.Error(), "none with an id here") {
		t.Error(err)
	}
	d, _ := read()
	hasResctrl(t, d, false)
	inStates(t, m, "error 1")
	g.empty = false
	for range 4 {
		d, _ = read()
	}
	hasResctrl(t, d, true)
	inStates(t, m, "monitored 1")
}

// TestMonitoringOverlap: of nested tasks the inner one is monitored, of the same
// cgroup the first.
func TestMonitoringOverlap(t *testing.T) {
	log := testLog(t)
	outer := hosttest.NewCgroup(t, nil, "outer")
	inner := hosttest.NewCgroup(t, outer, "inner")
	m := newTasks(t, everything)
	f := newFakeResctrl(8)
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{}))
	read(t, m, task(outer))
	inStates(t, m, "monitored 1")
	twin := owca.Task{ID: "twin", Cgroups: []string{inner.Path}}
	read(t, m, task(outer), task(inner), twin)
	inStates(t, m, "monitored 1, overlap 2")
	logged(t, log, "the innermost task is monitored", 1)
	if f.of(inner.Path) == nil || f.of(outer.Path) != nil {
		t.Error("not the inner one")
	}
	// Also after it was away for a tick.
	f.gone, f.mounted = true, false
	clear(f.groups)
	read(t, m, task(outer), task(inner), twin)
	f.mounted = true
	for range 5 {
		read(t, m, task(outer), task(inner), twin)
	}
	inStates(t, m, "monitored 1, overlap 2")
	read(t, m, task(outer))
	inStates(t, m, "monitored 1")
	read(t, m, task(outer), task(inner))
	logged(t, log, "the innermost task is monitored", 1)
}

// TestMonitoringWithoutMonitoring: a host that can only control.
func TestMonitoringWithoutMonitoring(t *testing.T) {
	c := hosttest.NewCgroup(t, nil, "control-only")
	m := newTasks(t, everything)
	f := newFakeResctrl(0)
	f.inUse = resctrl.ErrInUse // by somebody who can be beside it
	if r, err := m.host.planResctrl(f, ResctrlOptions{}); r == nil || !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "RMIDs") {
		t.Error(err)
	}
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{}))
	hasResctrl(t, read(t, m, task(c))[0], false)
	if r := m.RDT(); r == nil || r.CacheMonitoring || !r.CacheControl || states(m) != "" {
		t.Errorf("%+v", r)
	}
}

// TestMonitoringPaces: what does not fork is not followed but in full passes; what is
// not done in one tick is done in the next.
func TestMonitoringPaces(t *testing.T) {
	var list []owca.Task
	for i := range 6 {
		c := hosttest.NewCgroup(t, nil, fmt.Sprint("pace", i))
		list = append(list, task(c))
	}
	m := newTasks(t, everything)
	f := newFakeResctrl(100)
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{}))
	now := time.Now()
	tick := func() {
		t.Helper()
		if _, err := m.Read(now, now, list); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Second)
	}
	tick()
	if f.follows != 6 {
		t.Errorf("followed %d times at first", f.follows)
	}
	for range 30 {
		tick()
	}
	if n := f.follows - 6; n != 18 {
		t.Errorf("followed %d times in 30 s, want each of 6 tasks every 10 s", n)
	}
	f.follows = 0
	f.of(list[0].Cgroups[0]).unsure = 3
	m.known[list[0].ID].watch.again = true
	for range 4 {
		tick()
	}
	if f.follows < 4 || f.follows > 7 {
		t.Errorf("an unstable task was followed %d times", f.follows)
	}

	// A tick ends after a while; the next begins where it ended.
	m.OpenBeside()
	f.slow, f.follows = followTime/2, 0
	for _, k := range m.order {
		k.watch.again = true
	}
	tick()
	if f.follows < 1 || f.follows > 4 {
		t.Errorf("%d tasks followed in one tick", f.follows)
	}
	for range 6 {
		tick()
	}
	for _, k := range m.order {
		if k.watch.again {
			t.Errorf("%s was never followed", k.ID)
		}
	}
}

// TestBudget: with fewer RMIDs than tasks the most valuable ones are monitored for
// good, and one goes round among the rest.
func TestBudget(t *testing.T) {
	for _, limbo := range []int{0, 3} {
		t.Run(fmt.Sprint("limbo ", limbo), func(t *testing.T) {
			log := testLog(t)
			var list []owca.Task
			for i := range 8 {
				tk := task(hosttest.NewCgroup(t, nil, fmt.Sprint("budget", i)))
				switch i {
				case 7:
					tk.Labels = map[string]string{"app": "database-1"}
				case 6:
					tk.Labels = map[string]string{"qos_class": "guaranteed"}
				case 0:
					tk.Labels = map[string]string{"app_kubernetes_io__qos_class": "BestEffort"}
				}
				list = append(list, tk)
			}
			m := newTasks(t, everything)
			f := newFakeResctrl(5)
			f.limbo = limbo
			m.SetResctrl(fakePlan(t, f, ResctrlOptions{First: map[string]*regexp.Regexp{"app": regexp.MustCompile("^(?:data)")}}))
			had := make([]int, len(list))
			const ticks = 300
			for range ticks {
				read(t, m, list...)
				for i := range list {
					if f.of(list[i].Cgroups[0]) != nil {
						had[i]++
					}
				}
				if len(f.groups) > 4 {
					t.Fatalf("%d groups", len(f.groups))
				}
			}
			if had[7] < ticks-1 || had[6] < ticks-1 {
				t.Errorf("the most valuable are not always monitored: %v", had)
			}
			for i, n := range had {
				if n < dwell {
					t.Errorf("task %d had no turn: %v", i, had)
				}
			}
			logged(t, log, "fewer monitoring ids (RMIDs) than tasks", 1)
			if m.monitoring.refused == 0 || m.monitoring.errors != 0 {
				t.Errorf("%d refused, %d errors", m.monitoring.refused, m.monitoring.errors)
			}
			// Enough again.
			for range 40 {
				read(t, m, list[:4]...)
			}
			inStates(t, m, "monitored 4")
			logged(t, log, "for all tasks again", 1)
			t.Log(had)
		})
	}
}

// TestBudgetHysteresis: a task gets the group of another when it clearly uses more for
// a while, and not before.
func TestBudgetHysteresis(t *testing.T) {
	var list []owca.Task
	for i := range 3 {
		list = append(list, task(hosttest.NewCgroup(t, nil, fmt.Sprint("hysteresis", i))))
	}
	m := newTasks(t, everything)
	f := newFakeResctrl(3)
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{}))
	set := func(cores ...float64) {
		for i, c := range cores {
			m.known[list[i].ID].watch.claim = claim{cpu: c, known: true, rankOf: m.known[list[i].ID].labels}
		}
	}
	tick := func(n int, cores ...float64) {
		for range n {
			if m.known[list[0].ID] != nil {
				for i, c := range cores {
					m.known[list[i].ID].watch.claim.cpu = c
				}
			}
			read(t, m, list...)
		}
	}
	tick(1)
	set(1, 1, 1)
	tick(40, 1, 1, 1.2) // the idle cgroups bring each down by a fifth
	if f.of(list[2].Cgroups[0]) != nil {
		t.Error("taken for a little more")
	}
	tick(patience-1, 1, 1, 3)
	if f.of(list[2].Cgroups[0]) != nil {
		t.Error("taken too soon")
	}
	tick(4, 1, 1, 3)
	if f.of(list[2].Cgroups[0]) == nil || len(f.groups) != 2 {
		t.Error("not taken")
	}
}

// TestMonitoringAllocates: nothing, when nothing happens.
func TestMonitoringAllocates(t *testing.T) {
	var list []owca.Task
	f := newFakeResctrl(100)
	for i := range 10 {
		list = append(list, task(hosttest.NewCgroup(t, nil, fmt.Sprint("alloc", i))))
	}
	allocations := func(r *Resctrl) float64 {
		m := newTasks(t, TaskOptions{})
		m.SetResctrl(r)
		now := time.Now()
		tick := func() {
			now = now.Add(time.Millisecond)
			if _, err := m.Read(now, now, list); err != nil {
				t.Fatal(err)
			}
			m.Monitoring()
		}
		tick()
		for _, g := range f.groups {
			g.usage = []resctrl.Usage{l3(0, -1, 1, 2, 3), l3(1, -1, 1, 2, 3)}
		}
		for range 10 {
			tick()
		}
		return testing.AllocsPerRun(100, tick)
	}
	before := allocations(nil)
	if with := allocations(fakePlan(t, f, ResctrlOptions{})); with > before {
		t.Errorf("a tick allocates %v times with resctrl, %v without", with, before)
	}
}

func manyTasks(t testing.TB, name string, n int) (list []owca.Task) {
	for i := range n {
		list = append(list, task(hosttest.NewCgroup(t, nil, fmt.Sprint(name, i))))
	}
	return list
}

// TestBudgetLimbo: where what is given back is not free for long, no more than what
// goes round is without a group.
func TestBudgetLimbo(t *testing.T) {
	for _, tc := range []struct{ rmids, tasks, held, share int }{
		{7, 12, 6, 1}, // none is left for control groups
		{16, 20, 13, 1},
		{40, 50, 34, 4},
	} {
		t.Run(strconv.Itoa(tc.rmids), func(t *testing.T) {
			list := manyTasks(t, "limbo", tc.tasks)
			m := newTasks(t, everything)
			f := newFakeResctrl(tc.rmids)
			f.limbo = 1 << 30
			m.SetResctrl(fakePlan(t, f, ResctrlOptions{}))
			read(t, m, list...)
			if len(f.groups) != tc.held {
				t.Errorf("of %d RMIDs tasks have %d, want %d", tc.rmids, len(f.groups), tc.held)
			}
			for tick := range 120 {
				read(t, m, list...)
				if len(f.groups) < tc.held-tc.share {
					t.Fatalf("%d RMIDs, tick %d: %d groups are left of %d", tc.rmids, tick, len(f.groups), tc.held)
				}
			}
			// When they are free at last, all are used again.
			f.dirty, f.limbo = nil, 0
			for range 40 {
				read(t, m, list...)
			}
			if len(f.groups) != tc.held {
				t.Errorf("%d RMIDs, afterwards: %d groups, want %d", tc.rmids, len(f.groups), tc.held)
			}
		})
	}
}

// TestBudgetTaken: an RMID that somebody else took is not waited for.
func TestBudgetTaken(t *testing.T) {
	list := manyTasks(t, "taken", 10)
	m := newTasks(t, everything)
	f := newFakeResctrl(7)
	f.limbo = 5
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{}))
	had := map[owca.TaskID]bool{}
	for tick := range 600 {
		if tick == 50 {
			f.rmids--
		}
		read(t, m, list...)
		for _, k := range m.order {
			if tick > 100 && k.watch.monitored() {
				had[k.ID] = true
			}
		}
	}
	if len(had) != len(list) {
		t.Errorf("after it was taken %d of %d tasks had a turn", len(had), len(list))
	}
}

// TestBudgetRemoved: a task whose group was removed while there are no RMIDs waits for
// one as the others do, and the kernel is not asked for it in every tick.
func TestBudgetRemoved(t *testing.T) {
	list := manyTasks(t, "removed", 6)
	m := newTasks(t, everything)
	f := newFakeResctrl(20)
	f.control = map[string]int{}
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{}))
	read(t, m, list...)
	read(t, m, list...)
	inStates(t, m, "monitored 6")
	delete(f.groups, resctrl.Name{Monitor: resctrl.MonitorName(list[0].Cgroups[0])})
	for i := range 14 {
		f.control[strconv.Itoa(i)] = 1
	}
	before := m.monitoring.refused
	for range 40 {
		read(t, m, list...)
	}
	if got := states(m); !strings.Contains(got, "waiting") || strings.Contains(got, "error") {
		t.Errorf("tasks are %q", got)
	}
	if asked := m.monitoring.refused - before; asked == 0 || asked > 12 {
		t.Errorf("asked for an RMID %d times in 40 ticks", asked)
	}
	clear(f.control)
	for range 40 {
		read(t, m, list...)
	}
	inStates(t, m, "monitored 6")
}

// TestBudgetControlGroups: as many RMIDs are left as control groups can be made, but an
// eighth at most.
func TestBudgetControlGroups(t *testing.T) {
	list := manyTasks(t, "spare", 16)
	m := newTasks(t, everything)
	f := newFakeResctrl(16)
	f.control = map[string]int{}
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{}))
	ticks := func(n int) {
		for range n {
			read(t, m, list...)
		}
	}
	ticks(2)
	if len(f.groups) != 13 {
		t.Errorf("%d groups, want 16 less the default group's and an eighth", len(f.groups))
	}
	f.control["gold"], f.control["silver"] = 1, 1
	ticks(100)
	// What is given back by turns fills up what is left for the next control groups.
	if len(f.groups) > 12 || len(f.groups) < 11 {
		t.Errorf("%d groups with two control groups", len(f.groups))
	}
	clear(f.control)
	ticks(60)
	if len(f.groups) != 13 {
		t.Errorf("%d groups when they are gone", len(f.groups))
	}
	// Where no more control groups can be made nothing is left for them.
	for i := range 15 {
		f.control[strconv.Itoa(i)] = 1
	}
	f.rmids = 40
	f.groups = map[resctrl.Name]*fakeGroup{}
	m2 := newTasks(t, everything)
	m2.SetResctrl(fakePlan(t, f, ResctrlOptions{}))
	read(t, m2, append(manyTasks(t, "more", 14), list...)...)
	if len(f.groups) != 24 {
		t.Errorf("%d groups, want 40 less 16 control groups", len(f.groups))
	}
}

// TestMonitoringOrder: what is new is followed before what is likely to be in place, and
// that is looked at all the same.
func TestMonitoringOrder(t *testing.T) {
	list := manyTasks(t, "order", 12)
	m := newTasks(t, everything)
	f := newFakeResctrl(100)
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{}))
	read(t, m, list[:11]...)
	m.OpenBeside()
	f.slow = followTime
	for _, k := range m.order {
		k.watch.full = time.Unix(1, 0)
	}
	read(t, m, list[:11]...)
	f.fulls = 0
	for _, k := range m.order {
		k.watch.again, k.watch.full = true, time.Unix(1, 0)
	}
	read(t, m, list...)
	if !m.known[list[11].ID].watch.followed {
		t.Error("a new task waits for others")
	}
	if f.fulls != 2 {
		t.Errorf("%d passes were full, want the new one's and one that was due", f.fulls)
	}
	for range 24 {
		read(t, m, list...)
	}
	for _, k := range m.order {
		if k.watch.again || k.watch.full.Year() < 2000 {
			t.Errorf("%s had no turn", k.ID)
		}
	}
}

// TestMonitoringFullPace: a full pass out of turn does not put off the next one.
func TestMonitoringFullPace(t *testing.T) {
	list := manyTasks(t, "pace", 1)
	m := newTasks(t, everything)
	f := newFakeResctrl(8)
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{}))
	read(t, m, list...)
	w := &m.order[0].watch
	before := w.full
	w.err, w.again = errors.New("refused"), true
	f.fulls = 0
	read(t, m, list...)
	if f.fulls != 1 || w.err != nil || !w.full.Equal(before) {
		t.Errorf("%d full passes, then %v; the next is at %v, was at %v", f.fulls, w.err, w.full, before)
	}
}

// TestMonitoringMembers: when the cgroups of a task change its threads are looked for,
// be they as many as before.
func TestMonitoringMembers(t *testing.T) {
	a, b := hosttest.NewCgroup(t, nil, "a"), hosttest.NewCgroup(t, nil, "b")
	m := newTasks(t, everything)
	f := newFakeResctrl(8)
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{}))
	tk := task(a)
	read(t, m, tk)
	read(t, m, tk)
	f.follows = 0
	read(t, m, tk)
	tk.Cgroups = []string{b.Path}
	read(t, m, tk)
	if f.follows != 1 {
		t.Errorf("followed %d times", f.follows)
	}
}

// TestMonitoringStart: beginning to watch many tasks takes several ticks, and nothing is
// removed before all are known.
func TestMonitoringStart(t *testing.T) {
	list := manyTasks(t, "start", 6)
	m := newTasks(t, everything)
	m.OpenBeside()
	f := newFakeResctrl(100)
	f.watchSlow = followTime / 2
	f.groups[resctrl.Name{Monitor: "owca-orphan"}] = &fakeGroup{}
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{}))
	watched := func() (n int) {
		for _, k := range m.order {
			if k.watch.watch != nil {
				n++
			}
		}
		return n
	}
	read(t, m, list...)
	if n := watched(); n < 1 || n > 2 || f.removes > 0 {
		t.Errorf("%d tasks are watched after a tick, %d groups removed", n, f.removes)
	}
	for range 6 {
		read(t, m, list...)
	}
	if n := watched(); n != len(list) || f.removes != 1 {
		t.Errorf("%d tasks are watched, %d groups removed", n, f.removes)
	}
}

// TestMonitoringInUse: of two agents the second one makes nothing until the first ends.
func TestMonitoringInUse(t *testing.T) {
	log := testLog(t)
	list := manyTasks(t, "inuse", 1)
	m := newTasks(t, everything)
	f := newFakeResctrl(8)
	f.inUse = fmt.Errorf("info: %w by process 7", resctrl.ErrInUse)
	plan, err := m.host.planResctrl(f, ResctrlOptions{})
	if plan == nil || !errors.Is(err, resctrl.ErrInUse) {
		t.Fatalf("%v", err)
	}
	orphan := resctrl.Name{Monitor: "owca-of-the-first"}
	f.groups[orphan] = &fakeGroup{}
	m.SetResctrl(plan)
	for range 20 {
		hasResctrl(t, read(t, m, list...)[0], false)
	}
	if len(f.groups) != 1 || f.removes > 0 || m.RDT() != nil {
		t.Errorf("groups %v, %d removed", f.groups, f.removes)
	}
	logged(t, log, "until the process ends that uses resctrl", 1)
	logged(t, log, "by process 7", 1)
	f.inUse = nil
	for range 20 {
		read(t, m, list...)
	}
	inStates(t, m, "monitored 1")
	// Then it is this process that uses it, which hinders no other plan.
	f.inUse = resctrl.ErrInUse
	if _, err := m.host.planResctrl(f, ResctrlOptions{}); errors.Is(err, resctrl.ErrInUse) {
		t.Error(err)
	}
	m.SetResctrl(nil)
	if _, err := m.host.planResctrl(f, ResctrlOptions{}); !errors.Is(err, resctrl.ErrInUse) {
		t.Error("it is claimed still")
	}
}

// TestMonitoringReload: what need not end goes on.
func TestMonitoringReload(t *testing.T) {
	log := testLog(t)
	list := manyTasks(t, "reload", 1)
	m := newTasks(t, everything)
	f := newFakeResctrl(8)
	f.mounted = false
	cdp := resctrl.MountOptions{CDP: true}

	// Mounted for a plan, and never opened.
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{Mount: true}))
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{}))
	if !f.mounted {
		t.Error("unmounted for nothing")
	}
	m.SetResctrl(nil)
	if f.mounted {
		t.Error("stays mounted")
	}
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{Mount: true}))
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{Mount: true, MountOptions: cdp}))
	read(t, m, list...)
	if f.unmounts != 2 || !slices.Equal(f.options, []string{"cdp"}) {
		t.Errorf("%d, %v", f.unmounts, f.options)
	}

	// No longer asked for, it is used until the end.
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{}))
	read(t, m, list...)
	if f.unmounts != 2 || f.removes != 0 {
		t.Errorf("unmounted %d times, %d groups removed", f.unmounts, f.removes)
	}
	m.SetResctrl(nil)
	if f.mounted || f.unmounts != 3 {
		t.Error("stays mounted")
	}

	// Of somebody else, whatever is asked for.
	f.mounted, f.ours, f.options, f.removes = true, false, nil, 0
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{}))
	read(t, m, list...)
	f.of(list[0].Cgroups[0]).usage = []resctrl.Usage{l3(0, -1, 1, 5, 5)}
	read(t, m, list...)
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{Mount: true, MountOptions: cdp}))
	counts(t, read(t, m, list...)[0], owca.TaskMemoryBandwidth, 5)
	if f.removes != 0 || f.unmounts != 3 {
		t.Errorf("unmounted %d times, %d groups removed", f.unmounts, f.removes)
	}
	logged(t, log, "mounted by somebody else", 1)

	// Ours, and another program's groups are in it: the counters go on.
	f.ours, f.stays = true, fs.ErrPermission
	m.monitoring.mount.Ours = true
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{Mount: true, MountOptions: resctrl.MountOptions{MBps: true}}))
	read(t, m, list...)
	f.of(list[0].Cgroups[0]).usage = []resctrl.Usage{l3(0, -1, 1, 2, 2)}
	counts(t, read(t, m, list...)[0], owca.TaskMemoryBandwidth, 7)
	logged(t, log, "mounted by owca, with other options", 1)
	logged(t, log, "mounted by somebody else", 1)
	m.SetResctrl(nil)
	logged(t, log, "mounted by owca and stays so", 1)
}

// TestMonitoringKeepsControl: what we mounted stays as long as there is a control group of
// ours, or if that cannot be told.
func TestMonitoringKeepsControl(t *testing.T) {
	for _, test := range []struct {
		group    string
		unlisted error
		kept     bool
	}{{kept: false}, {group: "theirs"}, {group: "owca-gold", kept: true}, {unlisted: syscall.EMFILE, kept: true}} {
		t.Run(test.group, func(t *testing.T) {
			log := testLog(t)
			m := newTasks(t, everything)
			f := newFakeResctrl(8)
			f.mounted = false
			m.SetResctrl(fakePlan(t, f, ResctrlOptions{Mount: true, Control: true}))
			read(t, m, manyTasks(t, "keeps", 1)...)
			if test.group != "" {
				f.groups[resctrl.Name{Control: test.group}] = &fakeGroup{}
			}
			f.unlisted = test.unlisted
			m.SetResctrl(nil)
			if f.mounted != test.kept {
				t.Errorf("mounted %v, want %v", f.mounted, test.kept)
			}
			told := 0
			if test.unlisted != nil {
				told = 1
			}
			logged(t, log, "cannot be listed", told)
			logged(t, log, "mounted by owca and stays so", map[bool]int{true: 1}[test.kept])
		})
	}
}

// TestMonitoringStuck: a group that cannot be removed is tried again.
func TestMonitoringStuck(t *testing.T) {
	log := testLog(t)
	list := manyTasks(t, "stuck", 2)
	m := newTasks(t, everything)
	f := newFakeResctrl(8)
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{}))
	read(t, m, list...)
	f.stuck = syscall.EBUSY
	for range 20 {
		read(t, m, list[:1]...)
	}
	logged(t, log, "could not all be removed", 1)
	if f.removes > 8 {
		t.Errorf("tried %d times in 20 ticks", f.removes)
	}
	f.stuck = nil
	for range 40 {
		read(t, m, list[:1]...)
	}
	if len(f.groups) != 1 {
		t.Errorf("groups %v", f.groups)
	}
}

// TestResctrlFiles: what resctrl keeps open is taken from what cgroups would, unless
// there is more than they can use.
func TestResctrlFiles(t *testing.T) {
	for _, tc := range []struct{ limit, cgroups, keep, yield int }{
		{1024, 512, 128, 128},
		{20000, 18750, 4687, 4687},
		{100000, 1 << 16, 16384, 0},
		{1 << 20, 1 << 16, 1 << 16, 0},
		{2, 1, 1, 1},
		{0, 0, 1, 0},
	} {
		keep, yield := resctrlFiles(tc.limit, tc.cgroups)
		if keep != tc.keep || yield != tc.yield {
			t.Errorf("of %d files, %d of them for cgroups: %d, and %d less; want %d, %d", tc.limit, tc.cgroups, keep, yield, tc.keep, tc.yield)
		}
	}
	list := manyTasks(t, "files", 1)
	m := newTasks(t, everything)
	f := newFakeResctrl(8)
	m.host.Cgroups.KeepFiles = 1 << 29 // nothing is spare
	m.SetResctrl(fakePlan(t, f, ResctrlOptions{}))
	read(t, m, list...)
	if n := m.host.Cgroups.KeepFiles; f.files != 1<<16 || n != 1<<29-1<<16 {
		t.Errorf("resctrl keeps %d files open, cgroups %d", f.files, n)
	}
	m.SetResctrl(nil)
	if n := m.host.Cgroups.KeepFiles; n != 1<<29 {
		t.Errorf("afterwards cgroups keep %d files open", n)
	}
}
