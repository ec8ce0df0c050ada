package act

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
)

// The limits of the CPU controller, kernel/sched/core.c.
const (
	minQuota  = 1000    // µs: min_bw_quota_period_us
	maxPeriod = 1000000 // µs: max_bw_quota_period_us
	minShares = 2       // MIN_SHARES
	maxShares = 1 << 18 // MAX_SHARES
)

// unchanged is by how much a quota or shares may differ from what was decided before
// without being written.
const unchanged = owca.LeastChange

// knobsOf are those in which a kind is kept: the first that the cgroup has.
func knobsOf(kind owca.AllocationKind) []cgroup.Knob {
	switch kind {
	case owca.CPUQuota:
		return []cgroup.Knob{cgroup.CPUMax}
	case owca.CPUShares:
		return []cgroup.Knob{cgroup.CPUSharesV1, cgroup.CPUWeightV2}
	case owca.CPUBurst:
		return []cgroup.Knob{cgroup.CPUMaxBurst}
	case owca.CPUIdle:
		return []cgroup.Knob{cgroup.CPUIdleFlag}
	case owca.CPUSetCPUs:
		return []cgroup.Knob{cgroup.CPUSetCPUList}
	case owca.CPUSetMems:
		return []cgroup.Knob{cgroup.CPUSetMemList}
	case owca.MemoryHigh:
		return []cgroup.Knob{cgroup.MemoryHighLimit}
	case owca.MemoryLow:
		return []cgroup.Knob{cgroup.MemoryLowLimit}
	case owca.IOWeight:
		return []cgroup.Knob{cgroup.IOWeightDefault}
	case owca.IOMax:
		return []cgroup.Knob{cgroup.IOMaxLimits}
	}
	return nil
}

// Knobs are those that an allocation of a kind depends on and may change, for [State] to
// have them of the task's cgroups. Of the cgroups above it takes CPUMax for cpu_quota, and
// the list of the same name for cpuset_cpus and cpuset_mems.
func Knobs(kind owca.AllocationKind) []cgroup.Knob {
	switch kind {
	case owca.CPUQuota, owca.CPUBurst:
		// The weights divide it among containers; there is no more burst than quota.
		return []cgroup.Knob{cgroup.CPUMax, cgroup.CPUMaxBurst, cgroup.CPUSharesV1, cgroup.CPUWeightV2}
	case owca.CPUShares, owca.CPUIdle:
		// A cgroup that is idle has no weight of its own.
		return []cgroup.Knob{cgroup.CPUSharesV1, cgroup.CPUWeightV2, cgroup.CPUIdleFlag}
	}
	return knobsOf(kind)
}

// Current returns the allocation that a knob's value is, of one cgroup, in the units of
// [owca.AllocationKind]; false if it is none. Of a burst see [CurrentBurst].
func Current(u Units, cpus int, k cgroup.Knob, value string) (owca.AllocationKind, owca.Allocation, bool) {
	number := func(kind owca.AllocationKind, n float64) (owca.AllocationKind, owca.Allocation, bool) {
		return kind, owca.Allocation{Number: n}, true
	}
	switch k {
	case cgroup.CPUMax:
		m, ok := parseCPUMax(value)
		switch {
		case !ok || cpus <= 0 && !m.unlimited:
			return "", owca.Allocation{}, false
		case m.unlimited:
			return number(owca.CPUQuota, 1)
		}
		return number(owca.CPUQuota, m.cpus()/float64(cpus))
	case cgroup.CPUSharesV1, cgroup.CPUWeightV2:
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil || u.SharesUnit <= 0 {
			return "", owca.Allocation{}, false
		}
		if k == cgroup.CPUWeightV2 {
			n = cgroup.Shares(n)
		}
		return number(owca.CPUShares, float64(n)/float64(u.SharesUnit))
	case cgroup.CPUIdleFlag, cgroup.IOWeightDefault:
		n, err := strconv.ParseUint(value, 10, 31)
		if err != nil {
			return "", owca.Allocation{}, false
		}
		if k == cgroup.CPUIdleFlag {
			return number(owca.CPUIdle, float64(n))
		}
		return number(owca.IOWeight, float64(n))
	case cgroup.CPUSetCPUList:
		return owca.CPUSetCPUs, owca.Allocation{Text: value}, true
	case cgroup.CPUSetMemList:
		return owca.CPUSetMems, owca.Allocation{Text: value}, true
	case cgroup.MemoryHighLimit, cgroup.MemoryLowLimit:
		kind := owca.MemoryHigh
		if k == cgroup.MemoryLowLimit {
			kind = owca.MemoryLow
		}
		if value == noLimit {
			return kind, owca.Allocation{Text: noLimit}, true
		}
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return "", owca.Allocation{}, false
		}
		return number(kind, float64(n))
	case cgroup.IOMaxLimits:
		limits, ok := parseIOLimits(value)
		return owca.IOMax, owca.Allocation{IO: limits}, ok
	}
	return "", owca.Allocation{}, false
}

// CurrentBurst returns the cpu_burst of one cgroup that has these values of CPUMax, for the
// period, and of CPUMaxBurst; false if it is none.
func CurrentBurst(cpus int, cpuMax, burst string) (owca.Allocation, bool) {
	m, ok := parseCPUMax(cpuMax)
	n, err := strconv.ParseUint(burst, 10, 64)
	if !ok || err != nil || cpus <= 0 {
		return owca.Allocation{}, false
	}
	return owca.Allocation{Number: float64(n) / float64(m.period) / float64(cpus)}, true
}

// noLimit is what a file says that has none.
const noLimit = "max"

// validate returns what no host would take.
func (p *planner) validate() error {
	var errs []error
	for i := range p.entries {
		e := &p.entries[i]
		if reason := p.invalid(e); reason != "" {
			e.invalid = true
			errs = append(errs, &Invalid{Task: e.Task, Kind: e.Kind, Reason: reason})
		}
	}
	errs = append(errs, p.mixedQoS()...)
	return errors.Join(errs...)
}

func (p *planner) invalid(e *entry) string {
	if !slices.Contains(owca.AllocationKinds, e.Kind) {
		return "there is no such kind of allocation"
	}
	if e.Release {
		return "" // of a task that has gone: its leases went with it
	}
	if e.task == nil {
		return "there is no such task"
	}
	a := &e.Allocation
	if reason := foreignFields(e.Kind, a); reason != "" {
		return reason
	}
	n := a.Number
	switch e.Kind {
	case owca.CPUQuota, owca.CPUShares:
		return outside(n, 0, math.MaxFloat64)
	case owca.CPUBurst:
		return outside(n, 0, 1)
	case owca.CPUIdle:
		if n != 0 && n != 1 {
			return fmt.Sprintf("%v is neither 0 nor 1", n)
		}
	case owca.CPUSetCPUs, owca.CPUSetMems:
		set, err := parseSet(a.Text)
		if err != nil {
			return err.Error()
		}
		if len(set) == 0 {
			return "the list is empty"
		}
	case owca.MemoryHigh, owca.MemoryLow:
		if a.Text == "" {
			return outside(n, 0, math.MaxInt64-1<<10) // the next lower float64
		}
		if a.Text != noLimit {
			return fmt.Sprintf("%.40q is not \"max\"", a.Text)
		}
	case owca.IOWeight:
		return outside(n, 1, 10000)
	case owca.IOMax:
		if len(a.IO) == 0 {
			return "no device is named"
		}
		for _, device := range sortedKeys(a.IO) {
			if !isDevice(device) && !strings.HasPrefix(device, "/") {
				return fmt.Sprintf("%.80q is neither a device's numbers, as 8:0, nor its path", device)
			}
		}
	}
	return ""
}

// foreignFields tells what a has that is not of its kind: 0 would be taken for its number
// otherwise.
func foreignFields(kind owca.AllocationKind, a *owca.Allocation) string {
	var number, text, io, rdt bool
	switch kind {
	case owca.CPUSetCPUs, owca.CPUSetMems:
		text = true
	case owca.MemoryHigh, owca.MemoryLow:
		number, text = a.Text == "", true
	case owca.IOMax:
		io = true
	case owca.RDTGroup:
		if rdt = true; a.RDT == nil {
			return "no group is given"
		}
	default:
		number = true
	}
	switch {
	case !number && a.Number != 0:
		return fmt.Sprintf("it takes no number, %v", a.Number)
	case !text && a.Text != "":
		return fmt.Sprintf("it takes no text, %.40q", a.Text)
	case !io && a.IO != nil:
		return "it takes no limits of devices"
	case !rdt && a.RDT != nil:
		return "it takes no group of resctrl"
	}
	return ""
}

func outside(n, low, high float64) string {
	switch {
	case math.IsNaN(n) || math.IsInf(n, 0):
		return fmt.Sprintf("%v is not a finite number", n)
	case n < low:
		return fmt.Sprintf("%v is less than %v", n, low)
	case n > high:
		return fmt.Sprintf("%v is more than %v", n, high)
	}
	return ""
}

// mixedQoS finds cpu_shares of pods of several Kubernetes QoS classes: the kubelet gives
// weights to the classes as a whole, so that those of containers in different ones do not
// compare.
func (p *planner) mixedQoS() []error {
	var (
		first owca.TaskID
		class string
		errs  []error
	)
	for id := range p.Shares {
		if class == "" || id < first {
			first, class = id, p.Shares[id]
		}
	}
	for i := range p.entries {
		e := &p.entries[i]
		if e.Kind != owca.CPUShares || e.Release || e.task == nil || e.task.QoS == "" {
			continue
		}
		if class == "" {
			first, class = e.Task, e.task.QoS
		} else if e.task.QoS != class {
			errs = append(errs, &Invalid{Task: e.Task, Kind: e.Kind, Reason: fmt.Sprintf(
				"it is a %s pod, and task %s a %s one: weights in different QoS classes do not compare", e.task.QoS, first, class)})
		}
	}
	return errs
}

// steady returns the steps that keep what is leased for an entry, if it asks for as good as
// that; otherwise nil.
func (p *planner) steady(e *entry, cgroups []place) []step {
	if e.Kind != owca.CPUQuota && e.Kind != owca.CPUShares || e.Anew || e.exact {
		return nil
	}
	var (
		steps = make([]step, 0, len(cgroups))
		sum   float64
	)
	for _, c := range cgroups {
		t := Target{Cgroup: c.path, Knob: c.knob}
		l := p.lease(t)
		if l == nil || l.Kind != e.Kind || l.For != e.Task || !c.knob.Equal(c.now, l.New) {
			return nil
		}
		_, a, ok := Current(p.Units, p.CPUs, c.knob, l.New)
		if !ok {
			return nil
		}
		sum += a.Number
		steps = append(steps, step{Target: t, entry: e, value: c.now, steady: true})
	}
	wanted := e.Number
	if e.Kind == owca.CPUQuota {
		sum, wanted = min(sum, 1), min(wanted, 1)
	} else {
		sum /= float64(len(cgroups)) // each has all of them
	}
	if math.Abs(sum-wanted) > unchanged {
		return nil
	}
	return steps
}

// desire returns the steps that make an entry true, or refuses it.
func (p *planner) desire(e *entry, cgroups []place) []step {
	steps := make([]step, len(cgroups))
	for i, c := range cgroups {
		steps[i] = step{Target: Target{Cgroup: c.path, Knob: c.knob}, entry: e}
	}
	switch e.Kind {
	case owca.CPUQuota:
		p.desireQuota(e, cgroups, steps)
	case owca.CPUShares:
		shares := math.Round(e.Number * float64(p.SharesUnit))
		for i, c := range cgroups {
			n := uint64(min(max(shares, minShares), maxShares))
			switch {
			case shares < minShares:
				steps[i].note = fmt.Sprintf("raised to the %d shares that are the least", minShares)
			case shares > maxShares:
				steps[i].note = fmt.Sprintf("lowered to the %d shares that are the most", maxShares)
			}
			if c.knob == cgroup.CPUWeightV2 {
				n = cgroup.Weight(n)
			}
			steps[i].value = strconv.FormatUint(n, 10)
		}
	default:
		p.desireOther(e, cgroups, steps)
	}
	return steps
}
