package act

import (
	"testing"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/hosttest"
)

// TestActorParentLowered: a parent's quota is not held up by what is leased below it, which
// has what it was given again when there is room for it.
func TestActorParentLowered(t *testing.T) {
	r := newRig(t)
	parent := hosttest.NewCgroup(t, nil, "act-lowered")
	delegate(t, parent)
	child := hosttest.NewCgroup(t, parent, "child")
	above, below := r.task("above", parent), r.task("below", child)
	r.readHost()

	r.tick(map[owca.TaskID]owca.Allocations{
		above: {owca.CPUQuota: {Number: 0.6}}, below: {owca.CPUQuota: {Number: 0.8}},
	})
	r.want(parent, cgroup.CPUMax, r.quotaOf(0.6))
	r.want(child, cgroup.CPUMax, r.quotaOf(0.6))

	if report := r.tick(quota(above, 0.2)); len(report.Refused)+len(report.Failed) > 0 || len(report.Changes) != 2 || report.Changes[0].Note == "" {
		t.Errorf("%+v", report)
	}
	r.want(parent, cgroup.CPUMax, r.quotaOf(0.2))
	r.want(child, cgroup.CPUMax, r.quotaOf(0.2))
	r.tick(nil)
	r.ended(EndForeign, 0)

	r.tick(quota(above, 0.4))
	r.want(child, cgroup.CPUMax, r.quotaOf(0.4))
	r.tick(map[owca.TaskID]owca.Allocations{above: {owca.CPUQuota: {Release: true}}})
	r.want(parent, cgroup.CPUMax, unlimitedCPU)
	r.want(child, cgroup.CPUMax, r.quotaOf(0.8))

	r.tick(quota(above, 0.1))
	r.want(child, cgroup.CPUMax, r.quotaOf(0.1))
	r.close()
	r.want(parent, cgroup.CPUMax, unlimitedCPU)
	r.want(child, cgroup.CPUMax, unlimitedCPU)
}

// TestActorSharedCgroup: of two tasks with the same cgroup, the one that was refused does not
// take it from the other when it is tried again.
func TestActorSharedCgroup(t *testing.T) {
	r := newRig(t)
	c := hosttest.NewCgroup(t, nil, "act-shared")
	first, last := r.task("a", c), r.task("b", c)
	r.readHost()
	both := map[owca.TaskID]owca.Allocations{first: {owca.CPUQuota: {Number: 0.5}}, last: {owca.CPUQuota: {Number: 0.25}}}
	for range 3 {
		r.tick(both)
		r.want(c, cgroup.CPUMax, r.quotaOf(0.25))
		r.now += 2 * lastRetry
	}
	r.ended(EndForeign, 0)
	// It comes up when there is nothing in its way.
	delete(both, last)
	both[last] = owca.Allocations{owca.CPUQuota: {Release: true}}
	r.tick(both)
	r.now += 2 * lastRetry
	r.tick(nil)
	r.want(c, cgroup.CPUMax, r.quotaOf(0.5))
	r.close()
	r.want(c, cgroup.CPUMax, unlimitedCPU)
}
