package act

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/hosttest"
)

// rig is an Actor, with a clock of its own, and tasks that a test makes.
type rig struct {
	t     *testing.T
	actor *Actor
	dir   string
	tree  *cgroup.Tree // another one than the Actor's
	tasks []owca.TaskData
	now   time.Duration
	last  Report
}

func newRig(t *testing.T, options ...func(*Options)) *rig {
	t.Helper()
	hosttest.Need(t, "root")
	r := &rig{t: t, dir: filepath.Join(t.TempDir(), "state")}
	var err error
	if r.tree, err = (cgroup.FS{}).Tree(); err != nil {
		t.Fatal(err)
	}
	r.start(options...)
	t.Cleanup(func() {
		if r.actor != nil {
			_ = r.actor.Close() // tests that care have closed it
		}
	})
	return r
}

func (r *rig) options(options ...func(*Options)) Options {
	o := Options{StateDir: r.dir, Units: Units{SharesUnit: 1024}}
	for _, f := range options {
		f(&o)
	}
	return o
}

func keep(o *Options)   { o.Keep = true }
func dryRun(o *Options) { o.DryRun = true }

// start makes a new Actor, as a new process would.
func (r *rig) start(options ...func(*Options)) {
	r.t.Helper()
	r.actor = New("/")
	r.actor.clock = func() time.Duration { return r.now }
	r.actor.weighed = true // the test's process stays as it is
	if err := r.actor.Start(r.options(options...)); err != nil {
		r.t.Fatal(err)
	}
}

// crash leaves the Actor as a kill would: the kernel gives up its lock.
func (r *rig) crash() {
	r.t.Helper()
	r.actor.begin()
	if err := r.actor.journal.lock.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.actor = nil
}

// task makes a task of cgroups.
func (r *rig) task(id string, cgroups ...*hosttest.Cgroup) owca.TaskID {
	t := owca.TaskData{Task: owca.Task{ID: owca.TaskID(id), Name: id}}
	for _, c := range cgroups {
		t.Cgroups = append(t.Cgroups, c.Path)
	}
	r.tasks = append(r.tasks, t)
	return t.ID
}

// tick is one of the loop's; the allocators' decisions are those of one, "test".
func (r *rig) tick(decided map[owca.TaskID]owca.Allocations) Report {
	r.t.Helper()
	report, err := r.tryTick(Decided{Owner: "test", Allocations: decided})
	if err != nil {
		r.t.Fatal(err)
	}
	return report
}

func (r *rig) tryTick(decided ...Decided) (Report, error) {
	r.actor.Observe(time.Now(), r.tasks)
	var err error
	r.last, err = r.actor.Apply(time.Now(), r.tasks, decided)
	return r.last, err
}

func quota(id owca.TaskID, n float64) map[owca.TaskID]owca.Allocations {
	return map[owca.TaskID]owca.Allocations{id: {owca.CPUQuota: {Number: n, Reason: "a test"}}}
}

// delegate has the cgroups below c limits of their own.
func delegate(t *testing.T, c *hosttest.Cgroup) {
	t.Helper()
	dir := c.Dir("unified")
	if dir == "" || c.Dir("cpu") != "" {
		return
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+cpu"), 0); err != nil {
		t.Fatal(err)
	}
}

// want checks the value of a knob.
func (r *rig) want(c *hosttest.Cgroup, k cgroup.Knob, want string) {
	r.t.Helper()
	if got := r.get(c, k); got != want {
		r.t.Errorf("%s of %s is %q, want %q", k, c.Path, got, want)
	}
}

func (r *rig) get(c *hosttest.Cgroup, k cgroup.Knob) string {
	r.t.Helper()
	control, err := r.tree.Control(c.Path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer control.Close()
	got, err := control.Get(k)
	if err != nil {
		r.t.Fatal(err)
	}
	return got
}

// set is what somebody else does.
func (r *rig) set(c *hosttest.Cgroup, k cgroup.Knob, value string) {
	r.t.Helper()
	control, err := r.tree.Control(c.Path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer control.Close()
	if err := control.Set(k, value); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) leases(want int) {
	r.t.Helper()
	if got := r.actor.Leases(); len(got) != want {
		r.t.Errorf("%d leases, want %d", len(got), want)
	}
}

func (r *rig) ended(how End, want uint64) {
	r.t.Helper()
	if got := r.actor.Stats().Ended[how]; got != want {
		r.t.Errorf("%d leases ended as %s, want %d", got, how, want)
	}
}

func (r *rig) close() {
	r.t.Helper()
	if err := r.actor.Close(); err != nil {
		r.t.Error(err)
	}
	if left, _, _, err := ReadJournal(r.dir); err != nil || len(left) > 0 && !r.actor.options.Keep {
		r.t.Errorf("after Close the journal has %v, %v", left, err)
	}
	r.actor = nil
}

// quotaOf is the value of a quota of n hosts in the default period.
func (r *rig) quotaOf(n float64) string {
	return cpuMax{quota: uint64(n * 100000 * float64(r.actor.host.cpus)), period: 100000}.String()
}

const unlimitedCPU = "max 100000"

// readHost has the CPUs known before the first tick.
func (r *rig) readHost() {
	r.t.Helper()
	r.actor.begin()
	if err := r.actor.openHost(); err != nil {
		r.t.Fatal(err)
	}
}

func TestActorSetsAndRestores(t *testing.T) {
	r := newRig(t)
	c := hosttest.NewCgroup(t, nil, "act")
	id := r.task("one", c)
	r.readHost()

	if report := r.tick(quota(id, 0.25)); len(report.Changes) != 1 || len(report.Failed)+len(report.Refused) > 0 {
		t.Fatalf("%+v", report)
	}
	r.want(c, cgroup.CPUMax, r.quotaOf(0.25))
	r.leases(1)
	l := r.actor.Leases()[0]
	if l.First != unlimitedCPU || l.For != id || l.Owner != "test" || l.Reason != "a test" {
		t.Errorf("%+v", l)
	}

	// The same again, and what is not mentioned, is no change.
	for _, decided := range []map[owca.TaskID]owca.Allocations{quota(id, 0.25), nil, quota(id, 0.29)} {
		if report := r.tick(decided); len(report.Changes) > 0 {
			t.Errorf("%v: %+v", decided, report)
		}
	}
	if a, ok := r.tasks[0].Allocations[owca.CPUQuota]; !ok || math.Abs(a.Number-0.25) > 1e-9 || a.Reason != "a test" {
		t.Errorf("%+v", r.tasks[0].Allocations)
	}

	// A second change keeps what was first.
	before := r.tasks[0].Allocations
	r.tick(quota(id, 0.5))
	r.want(c, cgroup.CPUMax, r.quotaOf(0.5))
	if l := r.actor.Leases()[0]; l.First != unlimitedCPU || l.Old != r.quotaOf(0.25) {
		t.Errorf("%+v", l)
	}
	r.tick(nil)
	if now := r.tasks[0].Allocations[owca.CPUQuota].Number; now != 0.5 || before[owca.CPUQuota].Number != 0.25 {
		t.Errorf("allocations are %v, were %v", now, before)
	}

	r.close()
	r.want(c, cgroup.CPUMax, unlimitedCPU)
}

func TestActorRelease(t *testing.T) {
	r := newRig(t)
	c := hosttest.NewCgroup(t, nil, "act")
	r.set(c, cgroup.CPUMax, "70000 50000")
	id := r.task("one", c)
	r.tick(quota(id, 0.1))
	release := map[owca.TaskID]owca.Allocations{id: {owca.CPUQuota: {Release: true}}}

	// Another allocator has nothing to release.
	if _, err := r.tryTick(Decided{Owner: "other", Allocations: release}); err != nil {
		t.Fatal(err)
	}
	r.leases(1)
	r.tick(release)
	r.want(c, cgroup.CPUMax, "70000 50000")
	r.leases(0)
	r.ended(EndReleased, 1)
	if report := r.tick(release); len(report.Changes) > 0 {
		t.Errorf("%+v", report)
	}
	r.tick(nil)
	r.want(c, cgroup.CPUMax, "70000 50000")
	r.close()
}

func TestActorForeignChange(t *testing.T) {
	r := newRig(t)
	c := hosttest.NewCgroup(t, nil, "act")
	id := r.task("one", c)
	r.readHost()
	r.tasks[0].Resources = map[string]float64{"cpus": 1}
	r.tick(quota(id, 0.25))

	r.set(c, cgroup.CPUMax, "90000 100000")
	for range 3 {
		r.tick(quota(id, 0.25)) // is not fought over
	}
	r.want(c, cgroup.CPUMax, "90000 100000")
	r.leases(0)
	r.ended(EndForeign, 1)

	// Another decision takes it again, and gives back what it found.
	r.tick(quota(id, 0.5))
	r.want(c, cgroup.CPUMax, r.quotaOf(0.5))
	r.leases(1)

	// So does the orchestrator's own resize.
	r.set(c, cgroup.CPUMax, "80000 100000")
	r.tick(nil)
	r.want(c, cgroup.CPUMax, "80000 100000")
	r.tasks[0].Resources = map[string]float64{"cpus": 2}
	r.tick(nil)
	r.want(c, cgroup.CPUMax, r.quotaOf(0.5))
	r.close()
	r.want(c, cgroup.CPUMax, "80000 100000")
}

// What was there already is not leased, and not fought over either.
func TestActorInEffectAlready(t *testing.T) {
	r := newRig(t)
	c := hosttest.NewCgroup(t, nil, "act")
	id := r.task("one", c)
	r.readHost()
	r.set(c, cgroup.CPUMax, r.quotaOf(0.25))
	if report := r.tick(quota(id, 0.25)); len(report.Changes) > 0 {
		t.Errorf("%+v", report)
	}
	r.leases(0)
	r.set(c, cgroup.CPUMax, "90000 100000")
	r.tick(quota(id, 0.25))
	r.tick(quota(id, 0.25))
	r.want(c, cgroup.CPUMax, "90000 100000")
	c.Remove()
	c = hosttest.NewCgroup(t, nil, "act")
	r.tick(quota(id, 0.25))
	r.want(c, cgroup.CPUMax, r.quotaOf(0.25))
	r.close()
	r.want(c, cgroup.CPUMax, unlimitedCPU)
}

func TestActorRecreatedCgroup(t *testing.T) {
	r := newRig(t)
	c := hosttest.NewCgroup(t, nil, "act")
	id := r.task("one", c)
	r.readHost()
	r.tick(quota(id, 0.25))
	c.Remove()
	r.tick(nil)
	r.leases(0)
	r.ended(EndGone, 1)
	c = hosttest.NewCgroup(t, nil, "act")
	for range 3 {
		r.now += time.Minute
		r.tick(nil)
	}
	r.want(c, cgroup.CPUMax, r.quotaOf(0.25))

	// At once, between two ticks.
	c.Remove()
	c = hosttest.NewCgroup(t, nil, "act")
	r.tick(nil)
	r.want(c, cgroup.CPUMax, r.quotaOf(0.25))

	// A container restarted with another id: another path of the same task.
	d := hosttest.NewCgroup(t, nil, "act2")
	r.tasks[0].Cgroups = []string{d.Path}
	c.Remove()
	r.tick(nil)
	r.want(d, cgroup.CPUMax, r.quotaOf(0.25))
	r.leases(1)
	r.close()
	r.want(d, cgroup.CPUMax, unlimitedCPU)
}

func TestActorPod(t *testing.T) {
	r := newRig(t)
	pod := hosttest.NewCgroup(t, nil, "act-pod")
	delegate(t, pod)
	one, two := hosttest.NewCgroup(t, pod, "one"), hosttest.NewCgroup(t, pod, "two")
	id := r.task("pod", one, two)
	r.readHost()
	r.tick(quota(id, 0.5))
	r.want(one, cgroup.CPUMax, r.quotaOf(0.25))
	r.want(two, cgroup.CPUMax, r.quotaOf(0.25))
	r.want(pod, cgroup.CPUMax, unlimitedCPU)
	r.tick(nil)
	if got := r.tasks[0].Allocations[owca.CPUQuota].Number; math.Abs(got-0.5) > 1e-9 {
		t.Errorf("the pod has %v", got)
	}
	// One of them is changed by somebody else: the other stays.
	r.set(two, cgroup.CPUMax, unlimitedCPU)
	r.tick(nil)
	r.leases(1)
	r.want(one, cgroup.CPUMax, r.quotaOf(0.25))
	r.want(two, cgroup.CPUMax, unlimitedCPU)
	r.close()
	r.want(one, cgroup.CPUMax, unlimitedCPU)
}

// A quota above that of a cgroup above is bounded by it, and all is as before afterwards.
func TestActorBoundedByParent(t *testing.T) {
	r := newRig(t)
	parent := hosttest.NewCgroup(t, nil, "act-parent")
	delegate(t, parent)
	child := hosttest.NewCgroup(t, parent, "child")
	r.set(parent, cgroup.CPUMax, "20000 100000")
	id := r.task("child", child)
	r.readHost()
	report := r.tick(quota(id, 0.9))
	if len(report.Changes) != 1 || report.Changes[0].Note == "" {
		t.Errorf("%+v", report)
	}
	r.want(child, cgroup.CPUMax, "20000 100000")
	r.want(parent, cgroup.CPUMax, "20000 100000")
	r.close()
	r.want(child, cgroup.CPUMax, unlimitedCPU)
}

func TestActorOwners(t *testing.T) {
	r := newRig(t)
	a, b := hosttest.NewCgroup(t, nil, "act-a"), hosttest.NewCgroup(t, nil, "act-b")
	ida, idb := r.task("a", a), r.task("b", b)
	r.readHost()
	// The later one wins, whoever decided before.
	for range 2 {
		if _, err := r.tryTick(Decided{Owner: "first", Allocations: quota(ida, 0.25)}, Decided{Owner: "second", Allocations: quota(ida, 0.5)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.tryTick(Decided{Owner: "first", Allocations: quota(idb, 0.25)}); err != nil {
		t.Fatal(err)
	}
	r.want(a, cgroup.CPUMax, r.quotaOf(0.5))
	r.want(b, cgroup.CPUMax, r.quotaOf(0.25))
	r.actor.KeepOwners([]string{"second"})
	r.want(a, cgroup.CPUMax, r.quotaOf(0.5))
	r.want(b, cgroup.CPUMax, unlimitedCPU)
	r.tick(nil)
	r.want(b, cgroup.CPUMax, unlimitedCPU)
	// What the first one wants and has already is the second one's from then on.
	if _, err := r.tryTick(Decided{Owner: "third", Allocations: quota(ida, 0.5)}); err != nil {
		t.Fatal(err)
	}
	r.actor.KeepOwners([]string{"third"})
	r.tick(nil)
	r.want(a, cgroup.CPUMax, r.quotaOf(0.5))
	if _, err := r.tryTick(Decided{Owner: "third", Allocations: map[owca.TaskID]owca.Allocations{ida: {owca.CPUQuota: {Release: true}}}}); err != nil {
		t.Fatal(err)
	}
	r.want(a, cgroup.CPUMax, unlimitedCPU)
	r.leases(0)
	r.close()
}

func TestActorInvalid(t *testing.T) {
	r := newRig(t)
	c := hosttest.NewCgroup(t, nil, "act")
	id := r.task("one", c)
	r.readHost()
	r.tick(quota(id, 0.25))
	for _, bad := range []map[owca.TaskID]owca.Allocations{
		quota("nobody", 0.5),
		quota(id, math.NaN()),
		quota(id, math.Inf(1)),
		quota(id, -1),
		{id: {owca.CPUQuota: {Number: 0.5}, "no_such": {Number: 1}}},
		{id: {owca.CPUQuota: {Number: 0.5}, owca.CPUSetCPUs: {Text: "0-"}}},
	} {
		before := r.actor.Stats().Invalid
		_, err := r.tryTick(Decided{Owner: "test", Allocations: bad})
		if e, ok := errors.AsType[*Invalid](err); !ok || e.Reason == "" {
			t.Errorf("%v: %v", bad, err)
		}
		if r.actor.Stats().Invalid == before {
			t.Errorf("%v is not counted", bad)
		}
		r.want(c, cgroup.CPUMax, r.quotaOf(0.25))
	}
	// What stood stands, and is renewed beside something invalid.
	c.Remove()
	c = hosttest.NewCgroup(t, nil, "act")
	if _, err := r.tryTick(Decided{Owner: "test", Allocations: quota("nobody", 0.5)}); err == nil {
		t.Error("a decision for nobody is taken")
	}
	r.want(c, cgroup.CPUMax, r.quotaOf(0.25))
	r.close()
}

func TestActorDryRun(t *testing.T) {
	r := newRig(t, dryRun)
	c := hosttest.NewCgroup(t, nil, "act")
	id := r.task("one", c)
	for range 3 {
		if report := r.tick(quota(id, 0.25)); len(report.Changes) != 1 {
			t.Errorf("%+v", report)
		}
	}
	r.want(c, cgroup.CPUMax, unlimitedCPU)
	if _, err := os.Stat(r.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a dry run has made %s: %v", r.dir, err)
	}

	// In earnest from now on, and back again.
	if err := r.actor.Start(r.options()); err != nil {
		t.Fatal(err)
	}
	r.actor.SetOptions(r.options())
	r.tick(nil)
	r.want(c, cgroup.CPUMax, r.quotaOf(0.25))
	r.actor.SetOptions(r.options(dryRun))
	r.want(c, cgroup.CPUMax, unlimitedCPU)
	if report := r.tick(nil); len(report.Changes) != 1 {
		t.Errorf("%+v", report)
	}
	r.want(c, cgroup.CPUMax, unlimitedCPU)
	r.close()
}

func TestActorUnits(t *testing.T) {
	r := newRig(t)
	c := hosttest.NewCgroup(t, nil, "act")
	id := r.task("one", c)
	r.readHost()
	r.tick(quota(id, 0.25))
	r.actor.SetOptions(r.options(func(o *Options) { o.QuotaPeriod = 50000 }))
	r.tick(nil)
	r.want(c, cgroup.CPUMax, cpuMax{quota: uint64(0.25 * 50000 * float64(r.actor.host.cpus)), period: 50000}.String())
	r.close()
	r.want(c, cgroup.CPUMax, unlimitedCPU)
}

func TestActorAdoptsAfterACrash(t *testing.T) {
	r := newRig(t, keep)
	a, b := hosttest.NewCgroup(t, nil, "act-a"), hosttest.NewCgroup(t, nil, "act-b")
	ida, idb := r.task("a", a), r.task("b", b)
	r.readHost()
	r.tick(quota(ida, 0.25))
	r.tick(quota(idb, 0.25))
	r.crash()

	r.start(keep)
	r.readHost()
	if _, err := r.tryTick(Decided{Owner: "test", Silent: true}); err != nil {
		t.Fatal(err)
	}
	r.leases(2)
	r.want(a, cgroup.CPUMax, r.quotaOf(0.25))
	// The first decision renews them; what it does not mention is given back, but nothing of
	// a task that is not known yet.
	tasks := r.tasks
	r.tasks = tasks[:1]
	r.tick(quota(ida, 0.25))
	r.leases(2)
	r.tasks = tasks
	r.tick(quota(idb, 0.25))
	r.tick(quota(ida, 0.5))
	r.want(a, cgroup.CPUMax, r.quotaOf(0.5))
	r.want(b, cgroup.CPUMax, r.quotaOf(0.25))
	if l := r.actor.journal.Lease(Target{Cgroup: a.Path, Knob: cgroup.CPUMax}); l == nil || l.First != unlimitedCPU {
		t.Errorf("%+v", l)
	}
	// An adopted lease is given up like others.
	r.set(b, cgroup.CPUMax, "90000 100000")
	r.tick(nil)
	r.leases(1)
	r.close() // keeps

	r.start()
	r.want(a, cgroup.CPUMax, unlimitedCPU)
	r.want(b, cgroup.CPUMax, "90000 100000")
	r.close()
}

func TestActorRestoresAfterACrash(t *testing.T) {
	r := newRig(t)
	c := hosttest.NewCgroup(t, nil, "act")
	id := r.task("one", c)
	r.tick(quota(id, 0.25))
	r.crash()
	r.start()
	r.want(c, cgroup.CPUMax, unlimitedCPU)
	r.leases(0)
	r.close()
}

func TestActorOfTwo(t *testing.T) {
	r := newRig(t)
	other := New("/")
	if err := other.Start(r.options()); !errors.Is(err, ErrHeld) {
		t.Errorf("the second one got %v", err)
	}
	// It may look.
	if err := other.Start(r.options(dryRun)); err != nil {
		t.Error(err)
	}
	// The same one may be asked again, but not for another directory.
	if err := r.actor.Start(r.options(keep)); err != nil {
		t.Error(err)
	}
	o := r.options()
	o.StateDir += "2"
	if err := r.actor.Start(o); err == nil || !strings.Contains(err.Error(), "state_dir") {
		t.Errorf("another state_dir: %v", err)
	}
	r.close()
}

// The cpus that the kubelet's static CPU manager gave to a container are not for others,
// nor is that container moved off them.
func TestActorExclusiveCPUs(t *testing.T) {
	hosttest.Need(t, "smp")
	r := newRig(t)
	pool, own := hosttest.NewCgroup(t, nil, "act-pool"), hosttest.NewCgroup(t, nil, "act-own")
	r.set(pool, cgroup.CPUSetCPUList, "0")
	r.set(own, cgroup.CPUSetCPUList, "1")
	idp, ido := r.task("pool", pool), r.task("own", own)
	for i, class := range []string{"burstable", "Guaranteed"} {
		r.tasks[i].Labels = map[string]string{"app_kubernetes_io__qos_class": class}
	}
	cpus := func(id owca.TaskID, list string) map[owca.TaskID]owca.Allocations {
		return map[owca.TaskID]owca.Allocations{id: {owca.CPUSetCPUs: {Text: list}}}
	}
	for _, decided := range []map[owca.TaskID]owca.Allocations{cpus(idp, "0-1"), cpus(ido, "0")} {
		if report := r.tick(decided); len(report.Refused) != 1 || len(report.Changes) > 0 {
			t.Errorf("%v: %+v", decided, report)
		}
	}
	r.want(pool, cgroup.CPUSetCPUList, "0")
	r.want(own, cgroup.CPUSetCPUList, "1")
	// With a quota they are not its own.
	r.set(own, cgroup.CPUMax, "50000 100000")
	r.now += time.Minute
	r.tick(nil)
	r.want(pool, cgroup.CPUSetCPUList, "0-1")
	r.want(own, cgroup.CPUSetCPUList, "0")
	r.close()
	r.want(pool, cgroup.CPUSetCPUList, "0")
	r.want(own, cgroup.CPUSetCPUList, "1")
}

// A task that is not listed for a while keeps its limits; they end with its cgroup.
func TestActorUnlistedTask(t *testing.T) {
	r := newRig(t)
	c := hosttest.NewCgroup(t, nil, "act")
	id := r.task("one", c)
	r.readHost()
	r.tick(quota(id, 0.25))
	tasks := r.tasks
	r.tasks = nil
	r.tick(nil)
	r.want(c, cgroup.CPUMax, r.quotaOf(0.25))
	r.tasks = tasks
	r.tick(nil)
	r.leases(1)
	r.tick(quota(id, 0.5))
	r.want(c, cgroup.CPUMax, r.quotaOf(0.5))
	r.tasks = nil
	c.Remove()
	r.tick(nil)
	r.leases(0)
	if len(r.actor.standing) > 0 || len(r.actor.views) > 0 || r.actor.pending != 0 || r.actor.unlisted != 0 {
		t.Errorf("left of a task that has gone: %v, %v, %d, %d", r.actor.standing, r.actor.views, r.actor.pending, r.actor.unlisted)
	}
	r.close()
}

// The weight that comes back with the end of cpu.idle is again that of its own decision, which
// follows the cgroup when it is made anew.
func TestActorIdleThenShares(t *testing.T) {
	r := newRig(t)
	c := hosttest.NewCgroup(t, nil, "act-idle")
	weight := weightKnob(t, c)
	if needKnob(t, c, cgroup.CPUIdleFlag) == "" {
		t.Skip("no cpu.idle")
	}
	r.set(c, weight, "3000")
	first := r.get(c, weight)
	id := r.task("one", c)
	idle := func(n float64) map[owca.TaskID]owca.Allocations {
		return map[owca.TaskID]owca.Allocations{id: {owca.CPUIdle: {Number: n}}}
	}
	r.tick(idle(1))
	r.tick(idle(0))
	r.want(c, weight, first)
	r.tick(idle(1))
	r.tick(idle(0))
	r.tick(map[owca.TaskID]owca.Allocations{id: {owca.CPUShares: {Number: 2}}})
	r.tick(nil)
	shares := r.get(c, weight)
	if shares == first {
		t.Fatalf("it is still %s", shares)
	}

	c.Remove()
	c = hosttest.NewCgroup(t, nil, "act-idle")
	for range 3 {
		r.tick(nil)
		r.now += time.Minute
	}
	r.want(c, weight, shares)

	// A weight that was refused while it was idle is set as soon as it is not.
	r.tick(idle(1))
	for range 5 {
		r.tick(map[owca.TaskID]owca.Allocations{id: {owca.CPUShares: {Number: 3}}})
		r.now += time.Minute
	}
	r.tick(idle(0))
	r.tick(nil)
	if got := r.get(c, weight); got == shares || got == first {
		t.Errorf("it is %s", got)
	}

	// That it is not idle, as it was not, is no reason to write what somebody else has.
	r.tick(idle(0))
	r.set(c, weight, "4000")
	foreign := r.get(c, weight)
	r.tick(map[owca.TaskID]owca.Allocations{id: {owca.CPUIdle: {Release: true}}})
	r.tick(nil)
	r.want(c, weight, foreign)
	r.close()
	r.want(c, weight, foreign)
}

// Of many values a tick looks at some, and at all of them in a few ticks.
func TestActorManyLeases(t *testing.T) {
	r := newRig(t)
	parent := hosttest.NewCgroup(t, nil, "act-many")
	delegate(t, parent)
	r.readHost()
	n := maxLooked + 20
	cgroups := make([]*hosttest.Cgroup, n)
	decided := map[owca.TaskID]owca.Allocations{}
	for i := range cgroups {
		cgroups[i] = hosttest.NewCgroup(t, parent, fmt.Sprint("c", i))
		maps.Copy(decided, quota(r.task(fmt.Sprint("t", i), cgroups[i]), 0.25))
	}
	r.tick(decided)
	r.leases(n)
	for i, c := range cgroups {
		switch i % 3 {
		case 0:
			r.set(c, cgroup.CPUMax, "90000 100000")
		case 1:
			c.Remove()
			cgroups[i] = hosttest.NewCgroup(t, parent, fmt.Sprint("c", i))
		}
	}
	ticks := (n + maxLooked - 1) / maxLooked
	for range ticks {
		r.tick(decided)
	}
	for i, c := range cgroups {
		want := r.quotaOf(0.25)
		if i%3 == 0 {
			want = "90000 100000"
		}
		r.want(c, cgroup.CPUMax, want)
	}
	r.close()
}

// What somebody else changed has its say in the order, and the others their limits.
func TestActorYieldedOfAPod(t *testing.T) {
	r := newRig(t)
	r.readHost()
	one, two := hosttest.NewCgroup(t, nil, "act-one"), hosttest.NewCgroup(t, nil, "act-two")
	id := r.task("pod", one, two)
	r.tick(quota(id, 0.5))
	r.set(one, cgroup.CPUMax, "90000 100000")
	r.tick(nil)
	two.Remove()
	two = hosttest.NewCgroup(t, nil, "act-two")
	for range 3 {
		r.now += time.Minute
		r.tick(nil)
	}
	r.want(one, cgroup.CPUMax, "90000 100000")
	r.want(two, cgroup.CPUMax, r.quotaOf(0.25))

	// Also if it was only partly in effect.
	two.Remove()
	r.tasks[0].Resources = map[string]float64{"cpus": 1}
	r.tick(quota(id, 0.75))
	r.set(one, cgroup.CPUMax, "90000 100000")
	for range 3 {
		r.tick(nil)
		r.now += time.Minute
	}
	r.want(one, cgroup.CPUMax, "90000 100000")
	r.close()
	r.want(one, cgroup.CPUMax, "90000 100000")
}

// Weights of pods of different classes do not compare, whenever they are decided.
func TestActorMixedQoSLater(t *testing.T) {
	r := newRig(t)
	a, b := r.task("a", hosttest.NewCgroup(t, nil, "act-a")), r.task("b", hosttest.NewCgroup(t, nil, "act-b"))
	for i, class := range []string{"burstable", "besteffort"} {
		r.tasks[i].Labels = map[string]string{"app_kubernetes_io__qos_class": class}
	}
	shares := owca.Allocations{owca.CPUShares: {Number: 2}}
	r.tick(map[owca.TaskID]owca.Allocations{a: shares})
	both := map[owca.TaskID]owca.Allocations{a: shares, b: shares}
	if _, err := r.tryTick(Decided{Owner: "test", Allocations: both}); err == nil || !strings.Contains(err.Error(), "QoS") {
		t.Errorf("error %v", err)
	}
	r.leases(1)
	both[a] = owca.Allocations{owca.CPUShares: {Release: true}}
	r.tick(both)
	r.leases(1)
	r.close()
}

// What a limit above bounds is more when that is.
func TestActorBoundRises(t *testing.T) {
	r := newRig(t)
	parent := hosttest.NewCgroup(t, nil, "act-bound")
	delegate(t, parent)
	c := hosttest.NewCgroup(t, parent, "child")
	r.set(parent, cgroup.CPUMax, "50000 100000")
	id := r.task("one", c)
	r.readHost()
	r.tick(quota(id, 0.5))
	r.want(c, cgroup.CPUMax, "50000 100000")
	r.set(parent, cgroup.CPUMax, unlimitedCPU)
	r.tick(nil)
	r.want(c, cgroup.CPUMax, "50000 100000")
	r.now += hostPace
	r.tick(nil)
	r.want(c, cgroup.CPUMax, r.quotaOf(0.5))
	r.close()
}

// A process that may open few files, and has them all open for what it measures, still acts.
func TestActorFewFiles(t *testing.T) {
	hosttest.Need(t, "root")
	parent := hosttest.NewCgroup(t, nil, "act-files")
	delegate(t, parent)
	args := []string{"files", filepath.Join(t.TempDir(), "state")}
	for i := range 40 {
		args = append(args, hosttest.NewCgroup(t, parent, fmt.Sprint("c", i)).Path)
	}
	if err := child(t, args...).Run(); err != nil {
		t.Fatal(err) // and why is on stderr
	}
}

func childFewFiles(args []string) error {
	limit := syscall.Rlimit{Cur: 64, Max: 64}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	slog.SetDefault(slog.New(slog.DiscardHandler))
	var tasks []owca.TaskData
	decided := [2]map[owca.TaskID]owca.Allocations{{}, {}}
	tree, err := cgroup.FS{}.Tree()
	if err != nil {
		return err
	}
	for _, path := range args[1:] {
		id := owca.TaskID(path)
		tasks = append(tasks, owca.TaskData{Task: owca.Task{ID: id, Cgroups: []string{path}}})
		decided[0][id] = owca.Allocations{owca.CPUQuota: {Number: 0.25}}
		decided[1][id] = owca.Allocations{owca.CPUQuota: {Number: 0.5}}
		if c, err := tree.Control(path); err != nil {
			return err
		} else if _, err := c.Get(cgroup.CPUMax); err != nil {
			return err
		}
	}
	a := New("/")
	a.weighed = true
	if err := a.Start(Options{StateDir: args[0], Units: Units{SharesUnit: 1024}}); err != nil {
		return err
	}
	if a.begin(); a.tree.KeepFiles > 8 {
		return fmt.Errorf("it keeps %d of 64 files open", a.tree.KeepFiles)
	}
	for i := range 4 {
		a.Observe(time.Now(), tasks)
		report, err := a.Apply(time.Now(), tasks, []Decided{{Owner: "test", Allocations: decided[i%2]}})
		if err != nil || len(report.Changes) != len(tasks) || len(report.Failed) > 0 {
			return fmt.Errorf("%d changes, failed %v: %w", len(report.Changes), report.Failed, err)
		}
	}
	return a.Close()
}

// The limits of a disk go with it, and that is nobody's change.
func TestActorDiskGone(t *testing.T) {
	r := newRig(t)
	c := hosttest.NewCgroup(t, nil, "act-disk")
	device := modelDevice()
	if _, ok := listIOMax(t, c); !ok || device == "" {
		t.Skip("no limits of disks")
	}
	id := r.task("one", c)
	limit := owca.Allocation{IO: map[string]owca.IOLimit{device: {WriteBytes: 1 << 20}}}
	r.tick(map[owca.TaskID]owca.Allocations{id: {owca.IOMax: limit}})
	r.leases(1)
	for _, gone := range []bool{true, false} {
		other := "511:1048575" // was there until now
		if !gone {
			other = "0:0"
			r.actor.root = t.TempDir()
			if err := os.MkdirAll(filepath.Join(r.actor.root, "sys/dev/block", other), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		l := r.actor.Leases()[0]
		l.New += "\n" + other + " rbps=5 wbps=max riops=max wiops=max"
		r.actor.standing[decisionKey{id, owca.IOMax}].watches[0].value = l.New
		r.actor.lookAtWatches()
		if got := len(r.actor.Leases()) == 1; got != gone {
			t.Errorf("gone %v: still leased %v", gone, got)
		}
	}
	r.actor.root = "/"
	r.close()
}

// A decision that is refused, and waits, costs nothing.
func TestActorAllocatesNothing(t *testing.T) {
	r := newRig(t)
	id := r.task("one", hosttest.NewCgroup(t, nil, "act"))
	decided := []Decided{decide("test", quota(id, 0.5))}
	decided[0].Allocations[id][owca.CPUSetCPUs] = owca.Allocation{Text: "1023"}
	run := func() {
		r.actor.Observe(time.Now(), r.tasks)
		if _, err := r.actor.Apply(time.Now(), r.tasks, decided); err != nil {
			t.Error(err)
		}
	}
	run()
	if n := r.actor.Stats().Refused; n != 1 || r.actor.pending != 1 {
		t.Errorf("%d refused, %d pending", n, r.actor.pending)
	}
	if n := testing.AllocsPerRun(100, run); n > 0 {
		t.Errorf("%v allocations a tick", n)
	}
	r.close()
}

// Nor does a plan of a dry run that stays as it is. It is told of in each tick.
func TestActorDryRunAllocatesNothing(t *testing.T) {
	r := newRig(t, dryRun)
	decided := []Decided{{Owner: "test", Allocations: map[owca.TaskID]owca.Allocations{}}}
	const tasks = 100
	var cgroups []*hosttest.Cgroup
	for i := range tasks {
		c := hosttest.NewCgroup(t, nil, fmt.Sprint("act-", i))
		cgroups = append(cgroups, c)
		decided[0].Allocations[r.task(c.Path, c)] = owca.Allocations{owca.CPUQuota: {Number: 0.5}}
	}
	run := func() {
		r.actor.Observe(time.Now(), r.tasks)
		report, err := r.actor.Apply(time.Now(), r.tasks, decided)
		if err != nil || len(report.Changes) != tasks {
			t.Errorf("%d changes, %v", len(report.Changes), err)
		}
	}
	run()
	if n := testing.AllocsPerRun(20, run); n > 0 {
		t.Errorf("%v allocations a tick", n)
	}
	// It is made again when tasks change, and after a while.
	r.tasks = r.tasks[1:]
	if report := r.tick(nil); len(report.Changes) != tasks-1 {
		t.Errorf("%d changes of %d tasks", len(report.Changes), tasks-1)
	}
	r.set(cgroups[1], cgroup.CPUMax, r.quotaOf(0.5))
	r.now += hostPace
	if report := r.tick(nil); len(report.Changes) != tasks-2 {
		t.Errorf("%d changes, of which one is in effect", len(report.Changes))
	}
	r.close()
}
