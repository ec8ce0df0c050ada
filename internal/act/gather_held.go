package act

import (
	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
)

// held adds what is leased for others than what is wanted, where that is in the way: quotas
// of cgroups below, and the tasks that have leases on the same cgroups.
func (g *gathering) held(wanted []Wanted) {
	if len(g.leases) == 0 {
		return
	}
	quotas := map[string]bool{}
	for i := range wanted {
		w := &wanted[i]
		v := g.views[w.Task]
		if v == nil {
			continue
		}
		for _, path := range v.cgroups {
			if w.Kind == owca.CPUQuota {
				quotas[path] = true
			}
			for _, k := range knobsOf(w.Kind) {
				l := g.leases[Target{Cgroup: path, Knob: k}]
				if l == nil || l.For == w.Task {
					continue
				}
				if other := g.views[l.For]; other != nil {
					g.task(l.For, other)
				}
			}
		}
	}
	if len(quotas) == 0 {
		return
	}
	var below []string
	for t := range g.leases {
		if t.Knob != cgroup.CPUMax || t.Cgroup == "" {
			continue
		}
		for a := range ancestors(t.Cgroup) {
			if quotas[a] {
				below = append(below, t.Cgroup)
				break
			}
		}
	}
	for _, path := range below { // which may end leases
		g.cgroup(path, heldKnobs[:])
		g.above(path, owca.CPUQuota)
	}
}

// heldKnobs are those that a quota above may push down.
var heldKnobs = [...]cgroup.Knob{cgroup.CPUMax, cgroup.CPUMaxBurst}
