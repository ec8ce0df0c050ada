package measure

import (
	"github.com/owca-project/owca/internal/cgroup"
)

// counters are the fields that only grow while a cgroup lives.
var counters = [...]cgroup.Field{
	cgroup.CPUUsage, cgroup.CPUUser, cgroup.CPUSystem,
	cgroup.CPUPeriods, cgroup.CPUThrottledPeriods, cgroup.CPUThrottledTime, cgroup.CPUBursts, cgroup.CPUBurstTime,
	cgroup.PageFaults, cgroup.MajorFaults, cgroup.Refaults, cgroup.OOMKills,
	cgroup.IOReadBytes, cgroup.IOWriteBytes, cgroup.IOReads, cgroup.IOWrites,
	cgroup.CPUPressureSome, cgroup.CPUPressureFull, cgroup.MemoryPressureSome, cgroup.MemoryPressureFull,
	cgroup.IOPressureSome, cgroup.IOPressureFull,
}

// sum is the cgroups of one task taken together.
type sum struct {
	cgroup.Stat
	// limit is Σ quota/period in cores, +Inf without a limit.
	limit     float64
	haveLimit bool
}

// add computes s from the members of k that were read, and from what those
// that are gone had counted.
func (s *sum) add(k *taskState) {
	s.Reset()
	s.limit, s.haveLimit = 0, true
	members := 0
	for _, m := range k.members {
		if !m.ok {
			continue
		}
		members++
		s.Add(&m.stat)
		for i, f := range counters {
			if n, ok := m.stat.Get(f); ok {
				m.counted[i] = n
			}
		}
		limit, ok := cpuLimit(&m.stat)
		s.limit += limit
		s.haveLimit = s.haveLimit && ok
	}
	if s.haveLimit = s.haveLimit && members > 0; members == 0 {
		return
	}
	if k.carries {
		for i, f := range counters {
			if n, ok := s.Get(f); ok {
				s.Set(f, n+k.carried[i])
			}
		}
	}
}

// carry keeps what m counted, whose cgroup is gone or not listed. Its stat may
// be empty: a failed read has cleared it.
func (k *taskState) carry(m *member) {
	for i, n := range m.counted {
		if n != 0 {
			k.carried[i] += n
			k.carries = true
		}
	}
	k.counts.carry(m.counts)
}

// uncarry takes back what carry kept of m, which is listed again.
func (k *taskState) uncarry(m *member) {
	for i, n := range m.counted {
		k.carried[i] -= n
	}
	k.counts.uncarry(m.counts)
}

func cpuLimit(s *cgroup.Stat) (cores float64, ok bool) {
	quota, ok := s.Get(cgroup.CPUQuota)
	if !ok {
		return 0, false
	}
	if quota == cgroup.Max {
		return inf, true
	}
	period, ok := s.Get(cgroup.CPUPeriod)
	if !ok || period == 0 {
		return 0, false
	}
	return float64(quota) / float64(period), true
}
