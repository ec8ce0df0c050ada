package act

import (
	"strconv"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
)

// settleIdle sees to it that the weight of a cgroup that becomes idle comes back: the kernel
// gives it the default one when it is idle no more (sched_group_set_idle of
// kernel/sched/fair.c). So it is given that before, as a lease of its own, which is undone
// after cpu.idle is. There is no other weight to be set while it is idle.
func (p *planner) settleIdle() {
	for _, k := range []cgroup.Knob{cgroup.CPUSharesV1, cgroup.CPUWeightV2} {
		for _, st := range p.sorted(k) {
			idle, _ := p.now(st.Cgroup, cgroup.CPUIdleFlag)
			if flag := p.live(st.Cgroup, cgroup.CPUIdleFlag); flag != nil {
				idle = flag.value
			}
			if idle == "1" && (st.entry.Kind == owca.CPUShares || st.release) {
				st.entry.refuse("%s is idle (cpu.idle): it has no weight of its own", st.Cgroup)
			}
		}
	}
	for _, st := range p.sorted(cgroup.CPUIdleFlag) {
		if st.value == "0" {
			p.wakeWeights(st)
			continue
		}
		if now, _ := p.now(st.Cgroup, cgroup.CPUIdleFlag); now == "1" {
			continue
		}
		flag := p.lease(st.Target)
		was := flag != nil && flag.First == "1"
		for _, k := range []cgroup.Knob{cgroup.CPUSharesV1, cgroup.CPUWeightV2} {
			t := Target{Cgroup: st.Cgroup, Knob: k}
			now, ok := p.now(st.Cgroup, k)
			if !ok || now == defaultWeight(k) && !was || p.yielded(st.entry, t) {
				continue
			}
			weight := &step{Target: t, entry: st.entry, value: defaultWeight(k), note: "what cpu.idle makes of it"}
			if was {
				// It was idle before us, and will have no weight again that could be leased.
				l := p.lease(t)
				if l == nil {
					continue
				}
				weight = &step{Target: t, entry: st.entry, value: l.First, release: true, made: l.made()}
			}
			p.put(weight)
		}
	}
}

// wakeWeights gives a cgroup that is idle no more the weight back that was leased with that.
func (p *planner) wakeWeights(flag *step) {
	for _, k := range []cgroup.Knob{cgroup.CPUSharesV1, cgroup.CPUWeightV2} {
		l := p.lease(Target{Cgroup: flag.Cgroup, Knob: k})
		if l == nil || l.Kind != owca.CPUIdle || p.live(flag.Cgroup, k) != nil {
			continue
		}
		if _, ok := p.now(flag.Cgroup, k); ok {
			p.put(&step{Target: l.Target, entry: flag.entry, value: l.First, release: true})
		}
	}
}

// defaultWeight is that of a new cgroup; "" of other knobs.
func defaultWeight(k cgroup.Knob) string {
	switch k {
	case cgroup.CPUSharesV1:
		return "1024"
	case cgroup.CPUWeightV2:
		return "100"
	}
	return ""
}

// changes are the steps that do something, in such an order that no state in between is one
// that the kernel refuses; so it can be undone step by step, too.
//
// Bursts are lowered before quotas and raised after them; quotas are lowered before others
// are raised, from below, and raised from above; idle is taken from a cgroup before its weight
// changes, and given after that.
func (p *planner) changes() []Change {
	if len(p.steps) == 0 {
		return nil
	}
	list := make([]Change, 0, len(p.steps))
	add := func(k cgroup.Knob, childrenFirst bool, takes func(st *step, now string) bool) {
		steps := p.sorted(k)
		for i := range steps {
			st := steps[i]
			if childrenFirst {
				st = steps[len(steps)-1-i]
			}
			if c, ok := p.change(st); ok && (takes == nil || takes(st, c.Old)) {
				list = append(list, c)
			}
		}
	}
	lowers := func(st *step, now string) bool { return lowersNumber(now, st.value) }
	raises := func(st *step, now string) bool { return !lowersNumber(now, st.value) }
	add(cgroup.CPUMaxBurst, true, lowers)
	add(cgroup.CPUMax, false, isTurn(turnUnlimited))
	add(cgroup.CPUMax, true, isTurn(turnLowered))
	add(cgroup.CPUMax, false, isTurn(turnRaised))
	add(cgroup.CPUMax, false, isTurn(turnLimited))
	add(cgroup.CPUMaxBurst, false, raises)

	add(cgroup.CPUIdleFlag, true, lowers)
	add(cgroup.CPUSharesV1, false, nil)
	add(cgroup.CPUWeightV2, false, nil)
	add(cgroup.CPUIdleFlag, false, raises)

	for _, k := range []cgroup.Knob{cgroup.CPUSetCPUList, cgroup.CPUSetMemList} {
		for _, st := range p.cpusetOrder(k) {
			if c, ok := p.change(st); ok {
				list = append(list, c)
			}
		}
	}
	for _, k := range []cgroup.Knob{cgroup.MemoryHighLimit, cgroup.MemoryLowLimit, cgroup.IOWeightDefault, cgroup.IOMaxLimits} {
		add(k, false, nil)
	}
	return list
}

func lowersNumber(from, to string) bool {
	a, err1 := strconv.ParseUint(from, 10, 64)
	b, err2 := strconv.ParseUint(to, 10, 64)
	return err1 == nil && err2 == nil && b < a
}

// turn is what a change of CPUMax does, in the order of making them. Without a limit, a
// cgroup neither bounds those below it nor is bound itself: so that can go first, and to be
// limited comes when all others have what they will have.
type turn uint8

const (
	turnUnlimited turn = iota
	turnLowered
	turnRaised
	turnLimited
)

func isTurn(t turn) func(st *step, now string) bool {
	return func(st *step, now string) bool {
		from, _ := parseCPUMax(now)
		to, _ := parseCPUMax(st.value)
		switch {
		case to.unlimited:
			return t == turnUnlimited
		case from.unlimited:
			return t == turnLimited
		case to.ratio() < from.ratio():
			return t == turnLowered
		}
		return t == turnRaised
	}
}

// cpuset is a step of a list, with what it was and will be.
type cpuset struct {
	*step
	from, to set
	above    *cpuset // the nearest cgroup above that changes, too
	// early are those right below that have to change before it, late those after it.
	early, late []*cpuset
}

// cpusets returns the steps of a knob, parents first, that change something.
func (p *planner) cpusets(k cgroup.Knob) (list []*cpuset, byPath map[string]*cpuset) {
	byPath = make(map[string]*cpuset)
	for _, st := range p.sorted(k) {
		now, _ := p.now(st.Cgroup, k)
		from, err1 := parseSet(now)
		to, err2 := parseSet(st.value)
		if err1 != nil || err2 != nil {
			st.entry.refuse("%s of %s cannot be read: %.40q", k, st.Cgroup, now)
			continue
		}
		c := &cpuset{step: st, from: from, to: to}
		for a := range ancestors(st.Cgroup) {
			if c.above = byPath[a]; c.above != nil {
				break
			}
		}
		list = append(list, c)
		byPath[st.Cgroup] = c
	}
	return list, byPath
}

// settleCPUSets refuses lists that are not within those of the cgroups above them, and on
// v1 those that are not around those below.
func (p *planner) settleCPUSets() {
	for _, k := range []cgroup.Knob{cgroup.CPUSetCPUList, cgroup.CPUSetMemList} {
		for p.refuseCPUSets(k) {
		}
	}
}

// refuseCPUSets says whether it has refused any.
func (p *planner) refuseCPUSets(k cgroup.Knob) bool {
	list, byPath := p.cpusets(k)
	if len(list) == 0 {
		return false
	}
	will := func(path string) (s set, known bool) {
		if c := byPath[path]; c != nil {
			return c.to, true
		}
		now, ok := p.now(path, k)
		s, err := parseSet(now)
		return s, ok && err == nil
	}
	refused := false
	refuse := func(st *step, format string, args ...any) {
		st.entry.refuse(format, args...)
		refused = true
	}
	for _, c := range list {
		v1 := p.Cgroups[c.Cgroup].V1
		if c.release && !v1 {
			continue
		}
		for a := range ancestors(c.Cgroup) {
			// Without a list a cgroup bounds nothing on v2, and takes none below it on v1.
			above, known := will(a)
			if !known || len(above) == 0 && !v1 || c.to.within(above) {
				continue
			}
			if over := byPath[a]; over == nil && len(above) == 0 {
				refuse(c.step, "the cgroup %s above %s has no list of its own: v1 takes none below it", a, c.Cgroup)
			} else if c.release && over != nil {
				refuse(over.step, "the cgroup %s below %s gets %v back, which is not within %v", c.Cgroup, a, c.to, above)
			} else {
				refuse(c.step, "%v is not within %v, which the cgroup %s above %s has", c.to, above, a, c.Cgroup)
			}
			break
		}
	}
	if refused {
		return true
	}
	for _, path := range sortedKeys(p.Cgroups) {
		if !p.Cgroups[path].V1 {
			continue
		}
		below, _ := will(path)
		for a := range ancestors(path) {
			if over := byPath[a]; over != nil && !below.within(over.to) {
				refuse(over.step, "the cgroup %s below %s has %v, which is not within %v", path, a, below, over.to)
			}
		}
	}
	for _, c := range list {
		g := p.Cgroups[c.Cgroup]
		list := g.CPUsBelow
		if k == cgroup.CPUSetMemList {
			list = g.MemsBelow
		}
		if below, _ := parseSet(list); g.V1 && !below.within(c.to) {
			refuse(c.step, "cgroups below %s have %v, which is not within %v", c.Cgroup, below, c.to)
		}
	}
	if refused {
		return true
	}
	for _, c := range list {
		if c.above != nil && p.Cgroups[c.Cgroup].V1 && !c.from.within(c.above.to) && !c.to.within(c.above.from) {
			victim := c.step
			if c.release {
				victim = c.above.step
			}
			refuse(victim, "%s (%v → %v) and %s below it (%v → %v) cannot change in one step: give the upper one both first",
				c.above.Cgroup, c.above.from, c.above.to, c.Cgroup, c.from, c.to)
		}
	}
	return refused
}

// cpusetOrder has parents before children that grow beyond what these have, and children
// before parents that shrink.
func (p *planner) cpusetOrder(k cgroup.Knob) []*step {
	list, _ := p.cpusets(k)
	for _, c := range list {
		switch {
		case c.above == nil:
		case c.from.within(c.above.to):
			c.above.late = append(c.above.late, c)
		default:
			c.above.early = append(c.above.early, c)
		}
	}
	order := make([]*step, 0, len(list))
	var emit func(c *cpuset)
	emit = func(c *cpuset) {
		for _, e := range c.early {
			emit(e)
		}
		order = append(order, c.step)
		for _, l := range c.late {
			emit(l)
		}
	}
	for _, c := range list {
		if c.above == nil {
			emit(c)
		}
	}
	return order
}
