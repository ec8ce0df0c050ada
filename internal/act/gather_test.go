package act

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/hosttest"
)

// newHierarchiesRig is for cgroups whose cpu and cpuset are directories of their own.
func newHierarchiesRig(t *testing.T) (r *rig, c *hosttest.Cgroup) {
	t.Helper()
	r = newRig(t)
	if cpu := r.tree.V1("cpu"); cpu == "" || cpu == r.tree.V1("cpuset") {
		hosttest.Need(t, "cgroup1")
	}
	return r, hosttest.NewCgroup(t, nil, "hierarchies")
}

func removeDir(t *testing.T, dir string) {
	t.Helper()
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
}

func makeDir(t *testing.T, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

// TestDirectoryComesLater: managers make the directories of a cgroup one by one. A lease is of
// one of them, and the others that there are don't matter: not to the Actor, and not to who
// restores.
func TestDirectoryComesLater(t *testing.T) {
	for _, first := range []cgroup.Knob{cgroup.CPUMax, cgroup.CPUSetCPUList} {
		t.Run(first.String(), func(t *testing.T) {
			r, c := newHierarchiesRig(t)
			removeDir(t, c.Dir("cpu"))
			list := r.get(c, cgroup.CPUSetCPUList)
			id := r.task("t", c)
			decided := map[owca.TaskID]owca.Allocations{id: {owca.CPUSetCPUs: {Text: "0"}}}
			if first == cgroup.CPUMax { // decided before there is anything to set it in
				decided = quota(id, 0.5)
			}
			r.tick(decided)
			makeDir(t, c.Dir("cpu"))
			r.now += lastRetry
			r.tick(decided)
			if first == cgroup.CPUMax {
				r.want(c, first, r.quotaOf(0.5))
			} else {
				r.want(c, first, "0")
			}
			r.leases(1)
			r.crash()
			outcomes, _, err := Restore(context.Background(), "/", r.dir)
			if err != nil || len(outcomes) != 1 || outcomes[0].How != EndRestored {
				t.Errorf("%+v, %v", outcomes, err)
			}
			r.want(c, cgroup.CPUSetCPUList, list)
			r.want(c, cgroup.CPUMax, "max 100000")
		})
	}
}

// TestDirectoryGoes: the limits in a cgroup's other directories stay leased.
func TestDirectoryGoes(t *testing.T) {
	r, c := newHierarchiesRig(t)
	list := r.get(c, cgroup.CPUSetCPUList)
	id := r.task("t", c)
	decided := map[owca.TaskID]owca.Allocations{id: {owca.CPUSetCPUs: {Text: "0"}, owca.CPUQuota: {Number: 0.5}}}
	r.tick(decided)
	r.leases(2)
	removeDir(t, c.Dir("cpu"))
	r.now += lastRetry
	r.tick(decided)
	r.leases(1)
	r.ended(EndGone, 1)
	makeDir(t, c.Dir("cpu"))
	r.now += lastRetry
	r.tick(decided)
	r.leases(2)
	r.want(c, cgroup.CPUMax, r.quotaOf(0.5))
	r.close()
	r.want(c, cgroup.CPUSetCPUList, list)
	r.want(c, cgroup.CPUMax, "max 100000")
}

// TestGatherMadeAnew: what was read of a cgroup before it was made anew is not the new one's.
func TestGatherMadeAnew(t *testing.T) {
	r := newRig(t)
	a := r.actor
	parent := hosttest.NewCgroup(t, nil, "anew")
	delegate(t, parent)
	c := hosttest.NewCgroup(t, parent, "c")
	r.set(c, cgroup.CPUMax, "50000 100000")
	a.begin()
	if err := a.openHost(); err != nil {
		t.Fatal(err)
	}
	g := gathering{a, a.tree.V1("cpu") != "", &State{Cgroups: map[string]*CgroupState{}}}
	g.cgroup(c.Path, []cgroup.Knob{cgroup.CPUMax})
	old := g.Cgroups[c.Path].IDs[cgroup.CPUMax]
	c.Remove()
	c = hosttest.NewCgroup(t, parent, "c")
	r.set(c, cgroup.CPUMax, "70000 100000")
	g.cgroup(c.Path, []cgroup.Knob{cgroup.CPUMaxBurst})
	s := g.Cgroups[c.Path]
	if s.Values[cgroup.CPUMax] != "70000 100000" || s.Values[cgroup.CPUMaxBurst] != "0" || s.IDs[cgroup.CPUMax] == old || s.IDs[cgroup.CPUMax] != s.IDs[cgroup.CPUMaxBurst] {
		t.Errorf("before it was %s: %+v", old, s)
	}
}

// A container of which nothing can be read uses no cpu if it is gone, and may use any otherwise.
func TestGatherExclusive(t *testing.T) {
	hosttest.Need(t, "smp")
	for name, way := range map[string]func(*rig, *hosttest.Cgroup){
		"there": func(*rig, *hosttest.Cgroup) {},
		"gone":  func(_ *rig, c *hosttest.Cgroup) { c.Remove() },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			pool, own := hosttest.NewCgroup(t, nil, "act-pool"), hosttest.NewCgroup(t, nil, "act-own")
			other := hosttest.NewCgroup(t, nil, "act-init")
			r.set(pool, cgroup.CPUSetCPUList, "0")
			r.set(other, cgroup.CPUSetCPUList, "0")
			r.set(own, cgroup.CPUSetCPUList, "1")
			id, _ := r.task("pool", pool, other), r.task("own", own)
			for i, class := range []string{"burstable", "Guaranteed"} {
				r.tasks[i].Labels = map[string]string{"app_kubernetes_io__qos_class": class}
			}
			way(r, other)
			report := r.tick(map[owca.TaskID]owca.Allocations{id: {owca.CPUSetCPUs: {Text: "0-1"}}})
			if len(report.Refused) != 1 || !strings.Contains(report.Refused[0].Reason, "to task own alone") {
				t.Errorf("%+v", report)
			}
			r.want(pool, cgroup.CPUSetCPUList, "0")
			r.close()
		})
	}
}

// On v1 no process can be in a container without cpus, which is none that shares those of others.
func TestGatherExclusiveEmpty(t *testing.T) {
	hosttest.Need(t, "smp")
	r := newRig(t)
	if r.tree.V1("cpuset") == "" {
		hosttest.Need(t, "cgroup1") // on v2 it has those of its parent
	}
	pool, own := hosttest.NewCgroup(t, nil, "act-pool"), hosttest.NewCgroup(t, nil, "act-own")
	other := hosttest.NewCgroup(t, nil, "act-init")
	r.set(pool, cgroup.CPUSetCPUList, "0")
	r.set(other, cgroup.CPUSetCPUList, "")
	r.set(own, cgroup.CPUSetCPUList, "1")
	id, _ := r.task("pool", pool, other), r.task("own", own)
	for i, class := range []string{"burstable", "Guaranteed"} {
		r.tasks[i].Labels = map[string]string{"app_kubernetes_io__qos_class": class}
	}
	report := r.tick(map[owca.TaskID]owca.Allocations{id: {owca.CPUSetCPUs: {Text: "0-1"}}})
	if len(report.Refused) != 1 || !strings.Contains(report.Refused[0].Reason, "to task own alone") {
		t.Errorf("%+v", report)
	}
	r.want(pool, cgroup.CPUSetCPUList, "0")
	r.want(other, cgroup.CPUSetCPUList, "")
	r.close()
}

// What could not be read of a pod's container is no reason to take it for one that shares.
func TestGatherExclusiveUnknown(t *testing.T) {
	const all, own = "0-3", "2"
	for _, test := range []struct {
		name      string
		cpus, max any // a value or an error
		exclusive string
		unknown   bool
	}{
		{name: "own", cpus: own, max: unlimitedCPU, exclusive: own},
		{name: "with a quota", cpus: own, max: "100000 100000"},
		{name: "no quota there", cpus: own, max: errors.ErrUnsupported, exclusive: own},
		{name: "all", cpus: all, max: unlimitedCPU},
		{name: "no cpuset there", cpus: errors.ErrUnsupported, max: unlimitedCPU},
		{name: "gone", cpus: cgroup.ErrGone, max: cgroup.ErrGone},
		{name: "cpus unread", cpus: syscall.EIO, max: unlimitedCPU, unknown: true},
		{name: "quota unread", cpus: own, max: syscall.EIO, unknown: true},
		{name: "garbled", cpus: "x", max: unlimitedCPU, unknown: true},
	} {
		c := &CgroupState{Values: map[cgroup.Knob]string{}, Errors: map[cgroup.Knob]error{}}
		for k, is := range map[cgroup.Knob]any{cgroup.CPUSetCPUList: test.cpus, cgroup.CPUMax: test.max} {
			if err, ok := is.(error); ok {
				c.Errors[k] = err
			} else {
				c.Values[k] = is.(string)
			}
		}
		a := New("/")
		task := &owca.TaskData{Task: owca.Task{ID: "t", Labels: map[string]string{"qos_class": "guaranteed"}}}
		a.views["t"] = &view{task: task, cgroups: []string{"/t"}}
		g := gathering{a, false, &State{CPUs: 4, CPUList: all, Tasks: map[owca.TaskID]*TaskState{}, Cgroups: map[string]*CgroupState{"/t": c}}}
		g.exclusive()
		got := ""
		if s := g.Tasks["t"]; s != nil {
			got = s.Exclusive
		}
		if got != test.exclusive || (g.NoExclusive != nil) != test.unknown {
			t.Errorf("%s: %q, %v", test.name, got, g.NoExclusive)
		}
		s := State{CPUs: 4, CPUList: all, NoExclusive: g.NoExclusive, Tasks: map[owca.TaskID]*TaskState{"x": {Cgroups: []string{"/x"}}},
			Cgroups: map[string]*CgroupState{"/x": {Values: map[cgroup.Knob]string{cgroup.CPUSetCPUList: all}}}}
		planned, err := Plan(&s, []Wanted{{Task: "x", Kind: owca.CPUSetCPUs, Allocation: owca.Allocation{Text: "1"}}})
		if err != nil || (len(planned.Refused) > 0) != test.unknown {
			t.Errorf("%s: %+v, %v", test.name, planned, err)
		}
	}
}
