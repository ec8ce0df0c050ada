package act

import (
	"context"
	"os"
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
