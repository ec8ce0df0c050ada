package cgroup

import (
	"math"
	"math/bits"
	"strconv"
)

// A Field is one number of a cgroup. Times are in nanoseconds whatever the
// file's unit is, sizes in bytes; a limit that is not set is [Max].
type Field uint8

// The fields, by the Set that reads them. Counters start at 0 when the cgroup
// is made; all are hierarchical (they include the cgroups below) unless noted.
const (
	// CPU.
	CPUUsage            Field = iota
	CPUUser                   // v1: in steps of 1/USER_HZ = 10 ms
	CPUSystem                 // v1: in steps of 1/USER_HZ = 10 ms
	CPUPeriods                // quota periods in which it was runnable; of this cgroup alone, like the next four
	CPUThrottledPeriods       // of these, how many ran out of quota
	CPUThrottledTime          // summed over its run queues
	CPUBursts
	CPUBurstTime

	// Memory.
	MemoryUsage
	OOMKills // on v1 of this cgroup alone, Linux 4.13

	// MemoryStat.
	MemoryPeak // Linux 5.19 on v2
	MemoryAnon
	MemoryFile // page cache with shmem
	MemoryInactiveFile
	PageFaults // minor and major
	MajorFaults
	Refaults // pages, anon and file

	// IO. Stacked devices (dm, md, loop) count at each layer, as the kernel
	// shows them.
	IOReadBytes
	IOWriteBytes
	IOReads
	IOWrites

	// PIDs.
	PIDsCurrent

	// Pressure: time stalled ("total"). Linux 5.13 for CPUPressureFull.
	CPUPressureSome
	CPUPressureFull
	MemoryPressureSome
	MemoryPressureFull
	IOPressureSome
	IOPressureFull

	// Limits: what is set on this cgroup; its parents may be tighter.
	CPUQuota  // per CPUPeriod
	CPUPeriod // known without a quota too
	CPUBurstLimit
	CPUShares       // v1
	CPUWeight       // v2; when CPUIdle is 1 it reads 0, or 1 on newer kernels
	CPUIdle         // 1: SCHED_IDLE. Linux 5.15
	MemoryLow       // v2
	MemoryHigh      // v2
	MemoryMax       //
	MemorySoftLimit // v1
	PIDsMax
	CPUSetCPUs // effective cpus, how many
	CPUSetMems // effective NUMA nodes, how many

	NumFields
)

// Max is the value of a limit that is not set: "max", -1, or v1 memory's
// PAGE_COUNTER_MAX.
const Max = math.MaxUint64

// A Set says which files to read: a bit per group of files that one wants at
// the same pace.
type Set uint16

// The sets. CPU time of a Read on a hybrid host with 2 CPUs, Linux 6.18, kernel
// included, in µs (BenchmarkSet): CPU 3.5, Memory 3, IO 2, PIDs 1, Pressure 6,
// and, of files that don't stay open, MemoryStat 16, NUMA 12, Limits 75.
const (
	CPU Set = 1 << iota
	Memory
	MemoryStat
	NUMA
	IO
	PIDs
	Pressure
	Limits

	All = CPU | Memory | MemoryStat | NUMA | IO | PIDs | Pressure | Limits
)

// fieldRange is the bitset of first…last.
func fieldRange(first, last Field) uint64 { return 1<<(last+1) - 1<<first }

// fields is the bitset of what the sets fill.
func (sets Set) fields() uint64 {
	var m uint64
	if sets&CPU != 0 {
		m |= fieldRange(CPUUsage, CPUBurstTime)
	}
	if sets&Memory != 0 {
		m |= fieldRange(MemoryUsage, OOMKills)
	}
	if sets&MemoryStat != 0 {
		m |= fieldRange(MemoryPeak, Refaults)
	}
	if sets&IO != 0 {
		m |= fieldRange(IOReadBytes, IOWrites)
	}
	if sets&PIDs != 0 {
		m |= fieldRange(PIDsCurrent, PIDsCurrent)
	}
	if sets&Pressure != 0 {
		m |= fieldRange(CPUPressureSome, IOPressureFull)
	}
	if sets&Limits != 0 {
		m |= fieldRange(CPUQuota, CPUSetMems)
	}
	return m
}

// A Stat holds what was read of one cgroup, or the sum of several. A field
// that could not be read is absent. The zero Stat is ready for use; a Stat is
// meant to be reused, its NUMA keeps its room. Don't copy one: copies share it.
type Stat struct {
	// NUMA is the anonymous and file memory on each node, in the kernel's
	// order; empty when absent.
	NUMA []NUMANode
	// CPUSet is the effective cpus as a list ("0-3,8"); valid when CPUSetCPUs
	// is present.
	CPUSet string

	values  [NumFields]uint64
	present uint64 // bit per Field
	filled  bool   // by Read, Set or Add; an unfilled Stat is neutral in Add
	mems    string // list of effective nodes, as CPUSet
	// The last lists made into strings: they hardly ever change, so that the
	// next time the bytes are compared and not copied.
	lastCPUs, lastMems string
}

// A NUMANode says how much memory is on one node.
type NUMANode struct {
	Node  int
	Bytes uint64
}

// Get returns a field and whether it is present.
func (s *Stat) Get(f Field) (uint64, bool) {
	if s.present>>f&1 == 0 {
		return 0, false
	}
	return s.values[f], true
}

// Set makes a field present.
func (s *Stat) Set(f Field, v uint64) {
	s.values[f] = v
	s.present |= 1 << f
	s.filled = true
}

func (s *Stat) unset(f Field) { s.present &^= 1 << f }

// Clear makes the fields of these sets absent.
func (s *Stat) Clear(sets Set) {
	s.present &^= sets.fields()
	if sets&NUMA != 0 {
		s.NUMA = s.NUMA[:0]
	}
	if sets&Limits != 0 {
		s.CPUSet, s.mems = "", ""
	}
}

// Reset makes s an empty sum: the next Add copies.
func (s *Stat) Reset() {
	s.Clear(All)
	s.filled = false
}

// Add makes s the sum of s and o, for tasks that have several cgroups beside
// each other. A field stays present only if both have it: half a sum would look
// like a counter that fell. Limits add up and Max stays Max; CPUPeriod is the
// longer one, CPUIdle is 1 if both are, and cpusets are united.
func (s *Stat) Add(o *Stat) {
	if !o.filled {
		return
	}
	if !s.filled {
		s.filled = true
		s.present, s.values = o.present, o.values
		s.NUMA = append(s.NUMA[:0], o.NUMA...)
		s.CPUSet, s.mems = o.CPUSet, o.mems
		return
	}
	s.present &= o.present
	for p := s.present; p != 0; p &= p - 1 {
		f := Field(bits.TrailingZeros64(p))
		a, b := s.values[f], o.values[f]
		switch f {
		case CPUPeriod:
			a = max(a, b)
		case CPUIdle:
			a = min(a, b)
		case CPUSetCPUs:
			s.CPUSet, a = s.unite(f, s.CPUSet, o.CPUSet, &s.lastCPUs, a)
		case CPUSetMems:
			s.mems, a = s.unite(f, s.mems, o.mems, &s.lastMems, a)
		default:
			if sum, carry := bits.Add64(a, b, 0); carry == 0 {
				a = sum
			} else {
				a = Max
			}
		}
		s.values[f] = a
	}
	s.addNUMA(o.NUMA)
}

func (s *Stat) addNUMA(nodes []NUMANode) {
	if len(s.NUMA) == 0 || len(nodes) == 0 {
		s.NUMA = s.NUMA[:0]
		return
	}
	for _, n := range nodes {
		if !s.addNode(n.Node, n.Bytes) {
			s.NUMA = s.NUMA[:0]
			return
		}
	}
}

// addNode adds to a node; it returns false if that is more than 64 bits.
func (s *Stat) addNode(node int, bytes uint64) bool {
	for i := range s.NUMA {
		if s.NUMA[i].Node == node {
			sum, carry := bits.Add64(s.NUMA[i].Bytes, bytes, 0)
			s.NUMA[i].Bytes = sum
			return carry == 0
		}
	}
	s.NUMA = append(s.NUMA, NUMANode{Node: node, Bytes: bytes})
	return true
}

// unite returns the union of two lists and its size n; it makes f absent if it
// can't, which takes more CPUs than Linux supports.
func (s *Stat) unite(f Field, a, b string, last *string, n uint64) (string, uint64) {
	if a == b {
		return a, n
	}
	var set idSet
	if !set.add([]byte(a)) || !set.add([]byte(b)) {
		s.unset(f)
		return "", 0
	}
	var scratch [256]byte
	return intern(set.append(scratch[:0]), last), set.len()
}

// intern returns b as a string: last, if that is the same.
func intern(b []byte, last *string) string {
	if string(b) != *last {
		*last = string(b)
	}
	return *last
}

// An idSet is a set of CPUs or NUMA nodes; 8192 is the largest NR_CPUS (x86
// with MAXSMP).
type idSet [8192 / 64]uint64

// add adds a list, "0-3,8", and says whether it is one.
func (s *idSet) add(list []byte) bool {
	return eachRange(list, func(lo, hi uint64) bool {
		if hi >= uint64(len(s)*64) {
			return false
		}
		for i := lo; i <= hi; i++ {
			s[i/64] |= 1 << (i % 64)
		}
		return true
	})
}

func (s *idSet) len() uint64 {
	n := 0
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return uint64(n)
}

// append appends the set in the kernel's list format ("%*pbl").
func (s *idSet) append(b []byte) []byte {
	for i := 0; i < len(s)*64; i++ {
		if s[i/64]>>(i%64)&1 == 0 {
			continue
		}
		lo := i
		for i+1 < len(s)*64 && s[(i+1)/64]>>((i+1)%64)&1 != 0 {
			i++
		}
		if len(b) > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(lo), 10)
		if i > lo {
			b = append(b, '-')
			b = strconv.AppendInt(b, int64(i), 10)
		}
	}
	return b
}
