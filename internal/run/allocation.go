package run

import (
	"maps"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/act"
	"github.com/owca-project/owca/internal/measure"
)

// acting is the part of a Loop that changes the host.
type acting struct {
	actor *act.Actor
	on    bool // there are, or were, allocators: the actor is started

	decided []act.Decided // of this tick
	report  act.Report    // of the last tick
	// succeeded are allocators of a new Runner that have the name of another one.
	succeeded []string

	accepted uint64 // allocations that were decided and valid, since the start
	dropped  uint64 // decisions, since the start

	stats act.Stats
	// Of leases; they are made anew when those have changed.
	leases  int
	metrics []owca.Metric
	known   bool
	version uint64 // of the leases that metrics are made from
}

// options makes those of a Runner the actor's. Without allocators, it gives everything
// back; it is not asked at all before there have been some, as it was not started.
func (a *acting) options(r *Runner) {
	if len(r.Allocators) > 0 && a.actor != nil {
		a.on = true
	}
	if !a.on {
		return
	}
	a.actor.SetOptions(r.Act)
	owners := make([]string, len(r.Allocators))
	for i := range r.Allocators {
		owners[i] = r.Allocators[i].Name
	}
	a.actor.KeepOwners(owners)
	for _, name := range a.succeeded {
		a.actor.Succeed(name)
	}
	a.succeeded = a.succeeded[:0]
	a.known = false
}

// observe tells the actor what there is in this tick, and fills in what is allocated.
func (a *acting) observe(now time.Time, control *measure.Control, tasks []owca.TaskData) {
	a.decided = a.decided[:0]
	a.report = act.Report{}
	if control != nil {
		a.actor.SetGroups(control)
	} else {
		a.actor.SetGroups(nil) // not an interface that holds a nil pointer
	}
	a.actor.Observe(now, tasks)
}

// apply makes true what was decided, without that of allocators of which some is invalid.
func (a *acting) apply(now time.Time, tasks []owca.TaskData) (err error) {
	a.report, err = a.actor.Apply(now, tasks, a.decided)
	for i := range a.decided {
		d := &a.decided[i]
		switch {
		case d.Silent:
		case err != nil && (len(a.report.Dropped) == 0 || slices.ContainsFunc(a.report.Dropped, func(o act.Drop) bool { return o.Owner == d.Owner })):
			a.dropped++
		default:
			a.count(d)
		}
	}
	return err
}

func (a *acting) count(d *act.Decided) {
	for _, kinds := range d.Allocations {
		a.accepted += uint64(len(kinds))
	}
}

// lookAtLeases finds out what is leased, and makes its metrics if that has changed.
func (l *Loop) lookAtLeases() {
	a := &l.acting
	if !a.on {
		return
	}
	a.stats = a.actor.Stats()
	version := a.stats.Changes
	for _, n := range a.stats.Ended {
		version += n
	}
	if !a.known || version != a.version {
		a.known, a.version = true, version
		l.describeLeases()
	}
}

// appendAllocations appends the metrics of the leases, and statistics.
func (l *Loop) appendAllocations(m []owca.Metric, ms int64) []owca.Metric {
	a := &l.acting
	if !a.on {
		return m
	}
	put := func(d *owca.Desc, n uint64) {
		m = append(m, owca.Metric{Desc: d, Labels: l.labels.platform, Value: owca.Int(n), Time: ms})
	}
	put(owca.AllocationsDecided, a.accepted)
	put(owca.AllocationErrors, a.dropped)
	if len(l.allocators) > 0 {
		put(owca.AllocationDuration, uint64(l.stages[stageDecide].took))
	}
	start := len(m)
	m = append(m, a.metrics...)
	for i := range m[start:] {
		m[start+i].Time = ms
	}
	return m
}

// appendActing appends what the agent knows of its leases.
func (l *Loop) appendActing(m []owca.Metric, ms int64) []owca.Metric {
	a := &l.acting
	if !a.on {
		return m
	}
	put := func(d *owca.Desc, label string, n uint64) {
		m = append(m, owca.Metric{Desc: d, Labels: l.labels.platform, Label: label, Value: owca.Int(n), Time: ms})
	}
	put(owca.AgentLeases, "", uint64(a.leases))
	for _, how := range [...]act.End{act.EndReleased, act.EndRestored, act.EndForeign, act.EndGone} {
		put(owca.AgentLeaseEnds, string(how), a.stats.Ended[how])
	}
	put(owca.AgentChanges, "", a.stats.Changes)
	put(owca.AgentChangesFailed, "", a.stats.Failed)
	put(owca.AgentAllocationsRefused, "", a.stats.Refused)
	put(owca.AgentJournalErrors, "", a.stats.JournalErrors)
	up := uint64(0)
	if a.stats.Guardian {
		up = 1
	}
	put(owca.AgentGuardianUp, "", up)
	if l.runner.Act.DryRun {
		put(owca.AgentPlannedChanges, "", uint64(len(a.report.Changes)))
	}
	return m
}

// describeLeases makes the metrics of all leases.
func (l *Loop) describeLeases() {
	a := &l.acting
	clear(a.metrics)
	a.metrics = a.metrics[:0]
	leases := a.actor.Leases()
	a.leases = len(leases)
	groups := leasedGroups{tasks: map[owca.TaskID]bool{}, names: map[string]bool{}}
	for _, lease := range leases {
		if lease.Cgroup == "" {
			groups.add(lease)
			continue
		}
		if lease.For == "" {
			continue // the agent's own
		}
		kind, value, ok := a.actor.Current(lease)
		if !ok || kind != lease.Kind {
			continue // a second file of a kind
		}
		l.describe(kind, value, map[string]string{
			"allocation_type": string(kind), "container_name": lease.Cgroup, "task": string(lease.For),
		})
	}
	if control := l.tasks.Control(); control != nil && groups.any {
		l.describeGroups(control, &groups)
	}
}

// describe appends the metrics of one allocation.
func (l *Loop) describe(kind owca.AllocationKind, a owca.Allocation, own map[string]string) {
	put := func(d *owca.Desc, label string, v float64) {
		l.acting.metrics = append(l.acting.metrics, owca.Metric{
			Desc: d, Labels: owca.NewLabels(l.labels.common, own, l.runner.ExtraLabels), Label: label, Value: owca.Float(v),
		})
	}
	number := a.Number
	if a.Text == "max" {
		number = math.Inf(1)
	}
	switch kind {
	case owca.CPUQuota:
		put(owca.AllocationCPUQuota, "", number)
	case owca.CPUShares:
		put(owca.AllocationCPUShares, "", number)
	case owca.CPUBurst:
		put(owca.AllocationCPUBurst, "", number)
	case owca.CPUIdle:
		put(owca.AllocationCPUIdle, "", number)
	case owca.CPUSetCPUs:
		put(owca.AllocationCPUSetCPUs, a.Text, float64(listed(a.Text)))
	case owca.CPUSetMems:
		put(owca.AllocationCPUSetMems, a.Text, float64(listed(a.Text)))
	case owca.MemoryHigh:
		put(owca.AllocationMemoryHigh, "", number)
	case owca.MemoryLow:
		put(owca.AllocationMemoryLow, "", number)
	case owca.IOWeight:
		put(owca.AllocationIOWeight, "", number)
	case owca.IOMax:
		for _, device := range slices.Sorted(maps.Keys(a.IO)) {
			own["device"] = device
			limit := a.IO[device]
			put(owca.AllocationIOMaxBytes, "read", orNone(limit.ReadBytes))
			put(owca.AllocationIOMaxBytes, "write", orNone(limit.WriteBytes))
			put(owca.AllocationIOMaxOperations, "read", orNone(limit.ReadOperations))
			put(owca.AllocationIOMaxOperations, "write", orNone(limit.WriteOperations))
		}
	}
}

// orNone is +Inf for 0, which is no limit.
func orNone(limit uint64) float64 {
	if limit == 0 {
		return math.Inf(1)
	}
	return float64(limit)
}

// listed counts the members of a list as the kernel writes it, "0-3,8".
func listed(list string) (n int) {
	for part := range strings.SplitSeq(list, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err1 := strconv.Atoi(from)
		last, err2 := strconv.Atoi(to)
		if err1 == nil && err2 == nil && first <= last {
			n += last - first + 1
		}
	}
	return n
}

// leasedGroups are the control groups of resctrl that leases are about.
type leasedGroups struct {
	any   bool
	tasks map[owca.TaskID]bool // that were moved, or that a group was made or set for
	names map[string]bool
}

func (g *leasedGroups) add(lease *act.Lease) {
	g.any = true
	if lease.Task != "" {
		g.tasks[lease.Task] = true
		return
	}
	if lease.For != "" {
		g.tasks[lease.For] = true
	}
	if lease.Group != "" { // whatever is not moved is in the default group
		g.names[lease.Group] = true
	}
}

// describeGroups appends what tasks have by the groups that are leased, and by those that
// they were moved to. It asks for these only: a list of all groups takes the kernel a look
// at all threads for each.
func (l *Loop) describeGroups(control *measure.Control, leased *leasedGroups) {
	schemata := once(control.Schemata)
	for i := range l.snapshot.Tasks {
		t := &l.snapshot.Tasks[i]
		group, ok := control.Where(t.ID)
		if !ok || !leased.tasks[t.ID] && !leased.names[group] {
			continue
		}
		lines, err := schemata(group)
		if err != nil {
			continue // is told by who acts, and at the next look it is another group
		}
		own := map[string]string{"allocation_type": string(owca.RDTGroup), "task": string(t.ID), "group_name": group}
		if len(t.Cgroups) > 0 {
			own["container_name"] = t.Cgroups[0]
		}
		for _, line := range lines {
			delete(own, "resource")
			switch line.Resource {
			case "L3", "MB":
			case "L3CODE", "L3DATA":
				own["resource"] = line.Resource
			default:
				continue
			}
			labels := owca.NewLabels(l.labels.common, own, l.runner.ExtraLabels)
			for _, d := range line.Domains {
				put := func(desc *owca.Desc, n uint64) {
					l.acting.metrics = append(l.acting.metrics, owca.Metric{Desc: desc, Labels: labels, Label: strconv.Itoa(d.ID), Value: owca.Int(n)})
				}
				if line.Resource == "MB" {
					put(owca.AllocationMB, d.Value)
				} else {
					put(owca.AllocationL3Ways, uint64(bits.OnesCount64(d.Value)))
					put(owca.AllocationL3Mask, d.Value)
				}
			}
		}
	}
}

// once returns a function that calls f once for each argument.
func once[T any](f func(string) (T, error)) func(string) (T, error) {
	type result struct {
		value T
		err   error
	}
	known := map[string]result{}
	return func(of string) (T, error) {
		r, ok := known[of]
		if !ok {
			r.value, r.err = f(of)
			known[of] = r
		}
		return r.value, r.err
	}
}
