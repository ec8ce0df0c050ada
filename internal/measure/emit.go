package measure

import (
	"math"
	"strconv"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
)

var inf = math.Inf(1)

// fields are those whose value goes out as it is.
var fields = [...]struct {
	field cgroup.Field
	desc  *owca.Desc
}{
	{cgroup.CPUUsage, owca.TaskCPUUsage},
	{cgroup.CPUUser, owca.TaskCPUUser},
	{cgroup.CPUSystem, owca.TaskCPUSystem},
	{cgroup.CPUPeriods, owca.TaskCPUPeriods},
	{cgroup.CPUThrottledPeriods, owca.TaskCPUThrottledPeriods},
	{cgroup.CPUThrottledTime, owca.TaskCPUThrottled},
	{cgroup.CPUBursts, owca.TaskCPUBursts},
	{cgroup.CPUBurstTime, owca.TaskCPUBurst},
	{cgroup.CPUQuota, owca.TaskCPUQuota},
	{cgroup.CPUPeriod, owca.TaskCPUPeriod},
	{cgroup.CPUBurstLimit, owca.TaskCPUBurstLimit},
	{cgroup.CPUShares, owca.TaskCPUShares},
	{cgroup.CPUWeight, owca.TaskCPUWeight},
	{cgroup.CPUIdle, owca.TaskCPUIdle},
	{cgroup.CPUSetCPUs, owca.TaskCPUSetCPUs},
	{cgroup.CPUSetMems, owca.TaskCPUSetMems},
	{cgroup.MemoryUsage, owca.TaskMemoryUsage},
	{cgroup.MemoryAnon, owca.TaskMemoryAnon},
	{cgroup.MemoryFile, owca.TaskMemoryFile},
	{cgroup.MemoryPeak, owca.TaskMemoryPeak},
	{cgroup.MemoryLow, owca.TaskMemoryLow},
	{cgroup.MemoryHigh, owca.TaskMemoryHigh},
	{cgroup.MemoryMax, owca.TaskMemoryMax},
	{cgroup.MemorySoftLimit, owca.TaskMemorySoftLimit},
	{cgroup.PageFaults, owca.TaskMemoryFaults},
	{cgroup.MajorFaults, owca.TaskMemoryMajorFaults},
	{cgroup.Refaults, owca.TaskMemoryRefaults},
	{cgroup.OOMKills, owca.TaskMemoryOOMKills},
	{cgroup.IOReadBytes, owca.TaskIOReadBytes},
	{cgroup.IOWriteBytes, owca.TaskIOWriteBytes},
	{cgroup.IOReads, owca.TaskIOReads},
	{cgroup.IOWrites, owca.TaskIOWrites},
	{cgroup.PIDsCurrent, owca.TaskPIDs},
	{cgroup.PIDsMax, owca.TaskPIDsMax},
	{cgroup.CPUPressureSome, owca.TaskCPUPressureSome},
	{cgroup.CPUPressureFull, owca.TaskCPUPressureFull},
	{cgroup.MemoryPressureSome, owca.TaskMemoryPressureSome},
	{cgroup.MemoryPressureFull, owca.TaskMemoryPressureFull},
	{cgroup.IOPressureSome, owca.TaskIOPressureSome},
	{cgroup.IOPressureFull, owca.TaskIOPressureFull},
}

// rates are Δ field × scale / Δt. Those of slow readings are computed when the
// reading is taken and stay until the next.
type rate struct {
	field cgroup.Field
	scale float64
	desc  *owca.Desc
}

var rates = [...]rate{
	{cgroup.CPUUsage, 1e-9, owca.TaskCPUUsageCores},
	{cgroup.CPUPressureSome, 1e-9, owca.TaskCPUPressureSomeRatio},
	{cgroup.CPUPressureFull, 1e-9, owca.TaskCPUPressureFullRatio},
	{cgroup.MemoryPressureSome, 1e-9, owca.TaskMemoryPressureSomeRatio},
	{cgroup.MemoryPressureFull, 1e-9, owca.TaskMemoryPressureFullRatio},
	{cgroup.IOPressureSome, 1e-9, owca.TaskIOPressureSomeRatio},
	{cgroup.IOPressureFull, 1e-9, owca.TaskIOPressureFullRatio},
	{cgroup.IOReadBytes, 1, owca.TaskIOReadRate},
	{cgroup.IOWriteBytes, 1, owca.TaskIOWriteRate},
}

var statRates = [...]rate{
	{cgroup.PageFaults, 1, owca.TaskMemoryMinorFaultRate}, // less the major ones, see minorFaults
	{cgroup.MajorFaults, 1, owca.TaskMemoryMajorFaultRate},
	{cgroup.Refaults, 1, owca.TaskMemoryRefaultRate},
}

// minorFaults are not counted by the kernel: all less the major ones.
func minorFaults(s *sum) (uint64, bool) {
	all, ok1 := s.Get(cgroup.PageFaults)
	major, ok2 := s.Get(cgroup.MajorFaults)
	return all - major, ok1 && ok2 && all >= major
}

func (t *Tasks) emit(k *taskState, now, listed time.Time) {
	m := k.measurements[:0]
	put := func(d *owca.Desc, v owca.Value) { m = append(m, owca.Reading{Desc: d, Value: v}) }

	s := k.sum
	for i := range fields {
		f := &fields[i]
		switch n, ok := s.Get(f.field); {
		case !ok:
		case n == cgroup.Max:
			put(f.desc, owca.Float(inf))
		default:
			put(f.desc, owca.Int(n))
		}
	}
	if s.haveLimit {
		put(owca.TaskCPULimit, owca.Float(s.limit))
	}
	if n, ok := minorFaults(s); ok {
		put(owca.TaskMemoryMinorFaults, owca.Int(n))
	}
	if usage, ok := s.Get(cgroup.MemoryUsage); ok {
		if inactive, ok := s.Get(cgroup.MemoryInactiveFile); ok {
			// The two are read at different times, so inactive may be more.
			put(owca.TaskMemoryWorkingSet, owca.Int(usage-min(usage, inactive)))
		}
	}
	if s.CPUSet != "" {
		m = append(m, owca.Reading{Desc: owca.TaskCPUSetInfo, Label: s.CPUSet, Value: owca.Int(1)})
	}
	for _, n := range s.NUMA {
		m = append(m, owca.Reading{Desc: owca.TaskMemoryNUMA, Label: t.numaLabel(n.Node), Value: owca.Int(n.Bytes)})
	}
	if k.runQueue.ok {
		put(owca.TaskRunQueueWait, owca.Int(k.runQueue.wait))
		if k.runQueue.haveRatio {
			put(owca.TaskRunQueueWaitRatio, owca.Float(k.runQueue.ratio))
		}
	}

	m = t.derive(m, k)
	m = t.emitCounts(m, k)
	m = k.emitUsage(m)

	if cpus, ok := first(k.Resources, "cpus", "requests_cpu"); ok {
		put(owca.TaskRequestedCPUs, owca.Float(cpus))
	}
	if mem, ok := first(k.Resources, "mem", "requests_memory"); ok {
		put(owca.TaskRequestedMemory, owca.Float(mem))
	}
	for sl := range numSlow {
		if e := &k.slow[sl]; !e.at.IsZero() {
			m = append(m, owca.Reading{Desc: owca.TaskReadingAge, Label: slowNames[sl], Value: owca.Int(uint64(now.Sub(e.at).Milliseconds()))})
		}
	}
	put(owca.TaskCgroups, owca.Int(uint64(k.alive)))
	put(owca.TaskLastSeen, owca.Int(uint64(max(0, listed.UnixMilli()))))
	put(owca.TaskUp, owca.Int(uint64(min(k.alive, 1))))
	k.measurements = m
}

// derive appends what two samples tell.
func (t *Tasks) derive(m owca.Measurements, k *taskState) owca.Measurements {
	if dt := k.at.Sub(k.prevAt).Seconds(); !k.prevAt.IsZero() && dt > 0 {
		for i := range rates {
			r := &rates[i]
			if d, ok := delta(k.sum, k.prev, r.field); ok {
				m = append(m, owca.Reading{Desc: r.desc, Value: owca.Float(float64(d) * r.scale / dt)})
			}
		}
		if periods, ok := delta(k.sum, k.prev, cgroup.CPUPeriods); ok && periods > 0 {
			if throttled, ok := delta(k.sum, k.prev, cgroup.CPUThrottledPeriods); ok {
				m = append(m, owca.Reading{Desc: owca.TaskCPUThrottledRatio, Value: owca.Float(float64(throttled) / float64(periods))})
			}
		}
	}
	if k.slowRead[slowMemoryStat] {
		k.statRates()
	}
	return append(m, k.stat.rates...)
}

// statRates computes the rates of what memory.stat counts, over the time
// between its readings.
func (k *taskState) statRates() {
	p := &k.stat
	p.rates = p.rates[:0]
	var cur [len(statRates)]uint64
	var have [len(statRates)]bool
	for i := range statRates {
		cur[i], have[i] = k.sum.Get(statRates[i].field)
	}
	cur[0], have[0] = minorFaults(k.sum)
	at := k.slow[slowMemoryStat].at
	if dt := at.Sub(p.at).Seconds(); !p.at.IsZero() && dt > 0 {
		for i := range statRates {
			if have[i] && p.have[i] && cur[i] >= p.val[i] {
				p.rates = append(p.rates, owca.Reading{Desc: statRates[i].desc, Value: owca.Float(float64(cur[i]-p.val[i]) / dt)})
			}
		}
	}
	p.val, p.have, p.at = cur, have, at
}

// statPrev is the last reading of memory.stat and the rates since the one before.
type statPrev struct {
	val   [len(statRates)]uint64
	have  [len(statRates)]bool
	at    time.Time
	rates []owca.Reading
}

// delta is absent when either sample is, or when the counter started anew.
func delta(cur, prev *sum, f cgroup.Field) (uint64, bool) {
	c, ok1 := cur.Get(f)
	p, ok2 := prev.Get(f)
	return c - p, ok1 && ok2 && c >= p
}

func first(m map[string]float64, names ...string) (float64, bool) {
	for _, n := range names {
		if v, ok := m[n]; ok {
			return v, true
		}
	}
	return 0, false
}

func (t *Tasks) numaLabel(node int) string {
	for len(t.numa) <= node {
		t.numa = append(t.numa, strconv.Itoa(len(t.numa)))
	}
	return t.numa[node]
}
