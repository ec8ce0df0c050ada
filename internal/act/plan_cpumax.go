package act

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
)

// cpuMax is the value of [cgroup.CPUMax].
type cpuMax struct {
	quota, period uint64 // µs
	unlimited     bool
}

func parseCPUMax(value string) (m cpuMax, ok bool) {
	quota, period, ok := strings.Cut(value, " ")
	if !ok {
		return m, false
	}
	var err error
	if m.unlimited = quota == noLimit; !m.unlimited {
		if m.quota, err = strconv.ParseUint(quota, 10, 44); err != nil {
			return m, false
		}
	}
	if m.period, err = strconv.ParseUint(period, 10, 20); err != nil || m.period == 0 {
		return cpuMax{}, false
	}
	return m, true
}

func (m cpuMax) String() string {
	if m.unlimited {
		return noLimit + " " + strconv.FormatUint(m.period, 10)
	}
	return strconv.FormatUint(m.quota, 10) + " " + strconv.FormatUint(m.period, 10)
}

// cpus is how many it is the time of.
func (m cpuMax) cpus() float64 { return float64(m.quota) / float64(m.period) }

// ratio is what the kernel compares those of parent and child by: to_ratio of
// kernel/sched/core.c, RUNTIME_INF if there is no limit.
func (m cpuMax) ratio() uint64 {
	if m.unlimited {
		return math.MaxUint64
	}
	return m.quota << 20 / max(1, m.period)
}

// above says whether m allows more than o does, to the last bit.
func (m cpuMax) above(o cpuMax) bool {
	if m.unlimited || o.unlimited {
		return m.unlimited && !o.unlimited
	}
	h1, l1 := bits.Mul64(m.quota, o.period)
	h2, l2 := bits.Mul64(o.quota, m.period)
	return h1 > h2 || h1 == h2 && l1 > l2
}

// within returns the most that m's period can have of o, which has a limit; of a longer
// one if that were less than the kernel takes.
func (m cpuMax) within(o cpuMax) cpuMax {
	of := func(period uint64) uint64 { return o.quota * period / o.period }
	b := cpuMax{quota: of(m.period), period: m.period}
	if b.quota < minQuota {
		// The least period that has it, rounded up.
		b.period = min(maxPeriod, (minQuota*o.period+o.quota-1)/max(1, o.quota))
		b.quota = max(minQuota, of(b.period))
	}
	return b
}

// quotaOf returns the limit to cpus, in a period of so many µs: a longer one where it would
// have to be raised to be as much as the kernel takes.
func quotaOf(cpus float64, period uint64) (m cpuMax, note string) {
	period = min(max(period, minQuota), maxPeriod)
	if quota := cpus * float64(period); quota >= minQuota {
		return cpuMax{quota: uint64(quota), period: period}, ""
	}
	longer := minQuota / cpus // +Inf of 0
	if longer > maxPeriod {
		return cpuMax{quota: minQuota, period: maxPeriod}, fmt.Sprintf("raised to the %d µs in a period of %d µs that are the least", minQuota, maxPeriod)
	}
	m.period = min(uint64(math.Ceil(longer)), maxPeriod)
	m.quota = max(uint64(cpus*float64(m.period)), minQuota)
	return m, fmt.Sprintf("period lengthened from %d to %d µs, so that the quota is not below %d µs", period, m.period, minQuota)
}

// desireQuota divides a quota among containers by their weights.
func (p *planner) desireQuota(e *entry, cgroups []place, steps []step) {
	weights, total := weightsOf(cgroups)
	for i, c := range cgroups {
		now, ok := parseCPUMax(c.now)
		if !ok {
			e.refuse("cpu.max of %s cannot be read: %q", c.path, c.now)
			return
		}
		st := &steps[i]
		period := now.period
		if l := p.lease(st.Target); l != nil {
			// That which we have made of it may be a longer one.
			if first, ok := parseCPUMax(l.First); ok {
				period = first.period
			}
		}
		if p.QuotaPeriod > 0 {
			period = uint64(p.QuotaPeriod)
		}
		switch {
		case e.Number >= 1 && now.unlimited:
			st.value = c.now // there is no limit, whatever its period
			continue
		case e.Number >= 1:
			st.value = cpuMax{unlimited: true, period: min(max(period, minQuota), maxPeriod)}.String()
			continue
		case p.CPUs <= 0:
			e.refuse("how many cpus are online is not known")
			return
		}
		cpus := e.Number * float64(p.CPUs)
		if len(cgroups) > 1 {
			cpus = cpus * weights[i] / total
		}
		m, note := quotaOf(cpus, period)
		if len(cgroups) > 1 {
			st.note = fmt.Sprintf("its part of %v cpus by weight, of %d containers", round3(e.Number*float64(p.CPUs)), len(cgroups))
		}
		st.add(note)
		st.value = m.String()
	}
}

// weightsOf are the weights against each other: all the same if one is not known.
func weightsOf(cgroups []place) (weights []float64, total float64) {
	weights = make([]float64, len(cgroups))
	for i, c := range cgroups {
		text, ok := c.Values[cgroup.CPUSharesV1]
		if !ok {
			text = c.Values[cgroup.CPUWeightV2]
		}
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			for j := range weights {
				weights[j] = 1
			}
			return weights, float64(len(weights))
		}
		weights[i] = float64(max(n, 1)) // 0 is a cgroup that is idle
		total += weights[i]
	}
	return weights, total
}

func round3(f float64) float64 { return math.Round(f*1000) / 1000 }

// add adds a note.
func (st *step) add(note string) {
	if st.note != "" && note != "" {
		st.note += "; "
	}
	st.note += note
}

// settleCPUMax keeps quotas within those of the cgroups above them, and refuses those that
// are less than one below has where the kernel would, until no refusal changes another.
func (p *planner) settleCPUMax() {
	steps := p.sorted(cgroup.CPUMax)
	for len(steps) > 0 {
		limits := p.boundCPUMax(steps)
		if !p.refuseCPUMax(limits) {
			for _, st := range steps {
				l := limits[st.Cgroup]
				if l == nil || l.by == "" {
					continue
				}
				if st.entry.bounded = true; st.steady {
					// What is leased is not what it comes to: it is divided anew.
					st.entry.exact, p.again = true, true
				}
				if st.value != l.value {
					st.value = l.value
					st.add("bounded to that of " + l.by)
				}
			}
			return
		}
		steps = p.sorted(cgroup.CPUMax)
	}
}

// holdBelow adds steps that keep what is leased below a quota that changes, so that it is
// bounded with that: on v1 it would be in the way otherwise, and on v2 not what it says.
func (p *planner) holdBelow() {
	if len(p.sorted(cgroup.CPUMax)) == 0 {
		return
	}
	for t, l := range p.Leases {
		if t.Knob != cgroup.CPUMax || t.Cgroup == "" || p.steps[t] != nil || p.lease(t) == nil {
			continue
		}
		if now, ok := p.now(t.Cgroup, t.Knob); !ok || !t.Knob.Equal(now, l.New) {
			continue // somebody else's by now
		}
		for a := range ancestors(t.Cgroup) {
			if p.live(a, cgroup.CPUMax) == nil {
				continue
			}
			e := p.held[t]
			if e == nil {
				e = &entry{Wanted: Wanted{Task: l.For, Kind: l.Kind, Owner: l.Owner, Allocation: owca.Allocation{Reason: l.Reason}}}
				if p.held == nil {
					p.held = make(map[Target]*entry)
				}
				p.held[t] = e
			}
			if !e.final {
				p.put(&step{Target: t, entry: e, value: l.New})
			}
			break
		}
	}
}

// settled is what a step comes to.
type settled struct {
	*step
	cpuMax
	value string
	by    string // the cgroup above that bounds it
}

// limit returns what a cgroup will have; ok is false if nothing is known of it.
func (p *planner) limit(path string, limits map[string]*settled) (m cpuMax, ok bool) {
	if l := limits[path]; l != nil {
		return l.cpuMax, true
	}
	now, _ := p.now(path, cgroup.CPUMax)
	return parseCPUMax(now)
}

// boundCPUMax bounds each step, parents first.
func (p *planner) boundCPUMax(steps []*step) map[string]*settled {
	limits := make(map[string]*settled, len(steps))
	for _, st := range steps {
		m, ok := parseCPUMax(st.value)
		if !ok {
			continue // a value from before that is none: the kernel's business
		}
		l := &settled{step: st, cpuMax: m, value: st.value}
		limits[st.Cgroup] = l
		if m.unlimited || st.release {
			continue
		}
		for a := range ancestors(st.Cgroup) {
			if above, ok := p.limit(a, limits); ok && !above.unlimited && l.above(above) {
				l.cpuMax, l.by = l.within(above), a
			}
		}
		if l.by != "" {
			l.value = l.String()
		}
	}
	return limits
}

// refuseCPUMax refuses what v1 would: a limit that is less than one below. It says whether
// it has refused any.
func (p *planner) refuseCPUMax(limits map[string]*settled) bool {
	type below struct {
		path  string
		value string
		ratio uint64
		with  *settled
	}
	worst := make(map[string]below)
	for path, c := range p.Cgroups {
		m, ok := p.limit(path, limits)
		if !c.V1 || !ok || m.unlimited {
			continue
		}
		b := below{path: path, value: m.String(), ratio: m.ratio(), with: limits[path]}
		for a := range ancestors(path) {
			if above, ok := p.limit(a, limits); !ok || above.ratio() >= b.ratio {
				continue
			}
			if w, ok := worst[a]; !ok || w.ratio < b.ratio || w.ratio == b.ratio && w.path > b.path {
				worst[a] = b
			}
		}
	}
	refused := false
	refuse := func(st *step, format string, args ...any) {
		st.entry.refuse(format, args...)
		refused = true
	}
	for _, path := range sortedKeys(worst) {
		b := worst[path]
		switch l := limits[path]; {
		case l != nil && (b.with == nil || p.allows(path, b.ratio)):
			refuse(l.step, "the cgroup %s below %s has %s, which is more than %s", b.path, path, b.value, l.value)
		case b.with != nil:
			// Only of a release: everything else is bounded.
			refuse(b.with.step, "%s had %s before, which is more than %s has now", b.path, b.value, path)
		}
	}
	for _, path := range sortedKeys(limits) {
		l, c := limits[path], p.Cgroups[path]
		m, ok := parseCPUMax(c.LargestBelow)
		if !c.V1 || !ok || m.unlimited || p.Cgroups[c.BelowPath] != nil || m.ratio() <= l.ratio() {
			continue
		}
		refuse(l.step, "the cgroup %s below %s has %s, which is more than %s", c.BelowPath, path, m, l.value)
	}
	return refused
}

// allows says whether what a cgroup has now is enough for one below.
func (p *planner) allows(path string, ratio uint64) bool {
	m, ok := p.limit(path, nil)
	return ok && m.ratio() >= ratio
}

// settleBurst keeps bursts within the quotas: the kernel takes no larger one, nor a quota
// that is smaller than the burst. A burst that the quota has pushed down comes back with it.
func (p *planner) settleBurst() {
	for _, path := range p.burstPaths() {
		t := Target{Cgroup: path, Knob: cgroup.CPUMaxBurst}
		now, ok := p.now(path, cgroup.CPUMaxBurst)
		if !ok {
			continue // before Linux 5.14
		}
		st, quota, l := p.live(path, cgroup.CPUMaxBurst), p.live(path, cgroup.CPUMax), p.lease(t)
		text, _ := p.now(path, cgroup.CPUMax)
		if quota != nil {
			text = quota.value
		}
		m, ok := parseCPUMax(text)
		if !ok {
			continue
		}
		most := m.quota
		if m.unlimited {
			most = math.MaxUint64
		}
		if st != nil && !st.release {
			st.value = burstOf(st.cpus, m.period)
		}
		// What it would be if there were no limit.
		base, pushed := now, l != nil && l.Kind == owca.CPUQuota
		switch {
		case st != nil:
			base = st.value
		case pushed:
			base = l.First
		}
		n, err := strconv.ParseUint(base, 10, 64)
		if err != nil {
			continue
		}
		value := strconv.FormatUint(min(n, most), 10)
		switch {
		case st != nil && n <= most:
			continue
		case st != nil && !st.release:
			st.value, st.entry.bounded = value, true
			st.add("bounded to the quota")
		case st != nil:
			// What was before does not fit under a quota that is held: it is the quota now
			// that keeps it down.
			q := p.Leases[Target{Cgroup: path, Knob: cgroup.CPUMax}]
			if quota == nil && q == nil {
				st.entry.refuse("%s had a burst of %s µs before, which is more than its quota of %d µs now", path, base, most)
				continue
			}
			st.value, st.release, st.renew, st.note = value, false, true, "no more than the quota"
			if quota != nil {
				st.made = quota.entry.made()
			} else {
				st.made = q.made()
			}
		case quota != nil && value != now && p.yielded(quota.entry, t):
			if lowersNumber(now, value) {
				quota.entry.refuse("%s has a burst of %s µs, which somebody else set: more than a quota of %d µs", path, now, most)
				quota.entry.final, p.again = true, true // others may be bounded by it
			}
		case quota != nil && pushed && n <= most:
			p.put(&step{Target: t, entry: quota.entry, value: base, release: true})
		case quota != nil && value != now:
			st := &step{Target: t, entry: quota.entry, value: value, note: "no more than the quota"}
			if l != nil && !pushed {
				st.made = l.made() // it stays what was decided, as far as that goes
			}
			p.put(st)
		}
	}
}

// burstPaths are the cgroups whose quota or burst changes.
func (p *planner) burstPaths() []string {
	var paths []string
	for _, k := range []cgroup.Knob{cgroup.CPUMax, cgroup.CPUMaxBurst} {
		for _, st := range p.sorted(k) {
			paths = append(paths, st.Cgroup)
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}
