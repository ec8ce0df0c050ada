package cgroup

import (
	"bytes"
	"math"
	"math/bits"
	"os"
)

// A parser puts what one file says into s and returns false when the file
// holds nothing that it knows, or a known key whose value it can't read: such
// a field stays absent. Unknown keys are ignored: kernels add some in every
// release. A parser of a file with a single value, or a pair of them, fills f,
// or f and f+1; others know their fields.
//
// Every line that the kernel writes ends in a newline; a last line without one
// is cut off, and its number might be too.
type parser func(s *Stat, f Field, b []byte) bool

// lines goes through a file of "key value" lines.
type lines struct {
	rest       []byte
	key, value []byte
	cut        bool // there was a last line without its newline
}

func (l *lines) next() bool {
	i := bytes.IndexByte(l.rest, '\n')
	if i < 0 {
		l.cut = len(l.rest) > 0
		return false
	}
	l.key, l.value, _ = cutByte(l.rest[:i], ' ')
	l.rest = l.rest[i+1:]
	return true
}

// cutByte returns what is before and after the first sep. (bytes.Cut wants a
// slice, and takes longer.)
func cutByte(b []byte, sep byte) (before, after []byte, found bool) {
	i := bytes.IndexByte(b, sep)
	if i < 0 {
		return b, nil, false
	}
	return b[:i], b[i+1:], true
}

// parseUint is strict: digits only, at least one, at most 64 bits.
func parseUint(b []byte) (uint64, bool) {
	if len(b) == 0 || len(b) > 20 {
		return 0, false
	}
	var n uint64
	for _, c := range b {
		c -= '0'
		if c > 9 {
			return 0, false
		}
		hi, lo := bits.Mul64(n, 10)
		sum, carry := bits.Add64(lo, uint64(c), 0)
		if hi|carry != 0 {
			return 0, false
		}
		n = sum
	}
	return n, true
}

// The units of the files, in ns.
const (
	nano  = 1
	micro = 1e3
	tick  = 1e7 // USER_HZ is 100 on every architecture that Go runs on
)

// put sets f to value × unit; if that is no number, f becomes absent.
func (s *Stat) put(f Field, value []byte, unit uint64) bool {
	n, ok := parseUint(value)
	hi, n := bits.Mul64(n, unit)
	if !ok || hi != 0 {
		s.unset(f)
		return false
	}
	s.Set(f, n)
	return true
}

// single returns the only line of a file.
func single(b []byte) ([]byte, bool) {
	n := len(b) - 1
	if n < 0 || bytes.IndexByte(b, '\n') != n {
		return nil, false
	}
	return b[:n], true
}

// parseNumber parses a file with a number, as memory.current:
//
//	700416
func parseNumber(s *Stat, f Field, b []byte) bool {
	line, ok := single(b)
	return ok && s.put(f, line, 1)
}

// parseMicros parses a file with a time in µs, as cpu.cfs_period_us:
//
//	100000
func parseMicros(s *Stat, f Field, b []byte) bool {
	line, ok := single(b)
	return ok && s.put(f, line, micro)
}

// parseLimit parses a file with a limit, as memory.max, memory.limit_in_bytes
// and pids.max:
//
//	9223372036854771712
//
// or "max". v1's memory controller has a number for no limit: PAGE_COUNTER_MAX
// (include/linux/page_counter.h), LONG_MAX rounded down to a page, whose size
// differs between kernels. 4 EiB and more is as good as none.
func parseLimit(s *Stat, f Field, b []byte) bool {
	line, ok := single(b)
	if !ok {
		return false
	}
	if string(line) == "max" {
		s.Set(f, Max)
		return true
	}
	if !s.put(f, line, 1) {
		return false
	}
	if s.values[f] >= 1<<62 {
		s.values[f] = Max
	}
	return true
}

// parseQuota1 parses v1's cpu.cfs_quota_us, a number of µs or:
//
//	-1
func parseQuota1(s *Stat, f Field, b []byte) bool {
	line, ok := single(b)
	if ok && string(line) == "-1" {
		s.Set(f, Max)
		return true
	}
	return ok && s.put(f, line, micro)
}

// parseCPUMax parses v2's cpu.max, quota and period in µs, into f and f+1:
//
//	max 100000
func parseCPUMax(s *Stat, f Field, b []byte) bool {
	line, ok := single(b)
	if !ok {
		return false
	}
	quota, period, _ := cutByte(line, ' ')
	if string(quota) == "max" {
		s.Set(f, Max)
	} else {
		ok = s.put(f, quota, micro)
	}
	return s.put(f+1, period, micro) && ok
}

// parseCPUStat parses v2's cpu.stat (kernel/cgroup/rstat.c cgroup_base_stat_
// cputime_show, kernel/sched/core.c cpu_extra_stat_show). Without the cpu
// controller it has the first lines only.
//
//	usage_usec 256334
//	user_usec 244502
//	system_usec 11832
//	nice_usec 0
//	nr_periods 0
//	nr_throttled 0
//	throttled_usec 0
//	nr_bursts 0
//	burst_usec 0
func parseCPUStat(s *Stat, _ Field, b []byte) bool {
	l := lines{rest: b}
	known, ok := false, true
	for l.next() {
		var f Field
		unit := uint64(1)
		switch string(l.key) {
		case "usage_usec":
			f, unit = CPUUsage, micro
		case "user_usec":
			f, unit = CPUUser, micro
		case "system_usec":
			f, unit = CPUSystem, micro
		case "nr_periods":
			f = CPUPeriods
		case "nr_throttled":
			f = CPUThrottledPeriods
		case "throttled_usec":
			f, unit = CPUThrottledTime, micro
		case "nr_bursts":
			f = CPUBursts
		case "burst_usec":
			f, unit = CPUBurstTime, micro
		default:
			continue
		}
		known = true
		ok = s.put(f, l.value, unit) && ok
	}
	return known && ok && !l.cut
}

// parseCPUStat1 parses v1's cpu.stat (kernel/sched/core.c
// cpu_cfs_stat_show); times are in ns.
//
//	nr_periods 0
//	nr_throttled 0
//	throttled_time 0
//	nr_bursts 0
//	burst_time 0
func parseCPUStat1(s *Stat, _ Field, b []byte) bool {
	l := lines{rest: b}
	known, ok := false, true
	for l.next() {
		var f Field
		switch string(l.key) {
		case "nr_periods":
			f = CPUPeriods
		case "nr_throttled":
			f = CPUThrottledPeriods
		case "throttled_time":
			f = CPUThrottledTime
		case "nr_bursts":
			f = CPUBursts
		case "burst_time":
			f = CPUBurstTime
		default:
			continue
		}
		known = true
		ok = s.put(f, l.value, nano) && ok
	}
	return known && ok && !l.cut
}

// parseCPUAcctStat parses v1's cpuacct.stat (kernel/sched/cpuacct.c
// cpuacct_stats_show), in USER_HZ.
//
//	user 24
//	system 1
func parseCPUAcctStat(s *Stat, _ Field, b []byte) bool {
	l := lines{rest: b}
	known, ok := false, true
	for l.next() {
		var f Field
		switch string(l.key) {
		case "user":
			f = CPUUser
		case "system":
			f = CPUSystem
		default:
			continue
		}
		known = true
		ok = s.put(f, l.value, tick) && ok
	}
	return known && ok && !l.cut
}

// parseOOMKills parses v1's memory.oom_control:
//
//	oom_kill_disable 0
//	under_oom 0
//	oom_kill 0
//
// and v2's memory.events:
//
//	low 0
//	high 0
//	max 0
//	oom 0
//	oom_kill 0
//	oom_group_kill 0
//
// oom_kill is there since Linux 4.13.
func parseOOMKills(s *Stat, f Field, b []byte) bool {
	l := lines{rest: b}
	known, ok := false, true
	for l.next() {
		switch string(l.key) {
		case "oom_kill":
			ok = s.put(f, l.value, 1) && ok
		case "under_oom", "oom":
		default:
			continue
		}
		known = true
	}
	return known && ok && !l.cut
}

// A sum adds up numbers of one file; one bad one spoils it.
type sum struct {
	n    uint64
	seen bool
	bad  bool
}

func (t *sum) add(value []byte) {
	n, ok := parseUint(value)
	total, carry := bits.Add64(t.n, n, 0)
	t.n = total
	t.seen = true
	t.bad = t.bad || !ok || carry != 0
}

// put sets f, if there is anything to set it to.
func (t *sum) put(s *Stat, f Field) bool {
	if t.seen && !t.bad {
		s.Set(f, t.n)
	} else {
		s.unset(f)
	}
	return !t.bad
}

// parseMemoryStat parses v2's memory.stat (mm/memcontrol.c memory_stats), here
// without the forty keys that are of no use to us:
//
//	anon 4096
//	file 110592
//	inactive_file 94208
//	workingset_refault_anon 0
//	workingset_refault_file 5
//	pgfault 244
//	pgmajfault 1
//
// Linux < 5.9 had one workingset_refault.
func parseMemoryStat(s *Stat, _ Field, b []byte) bool {
	return memoryStat(s, b, "", "anon", "file")
}

// parseMemoryStat1 parses v1's memory.stat (mm/memcontrol-v1.c
// memcg1_stat_format): every number comes twice, of this cgroup alone, and
// with those below it as total_*, which is what the others mean:
//
//	cache 110592
//	rss 114688
//	…
//	total_cache 110592
//	total_rss 114688
//	total_workingset_refault_anon 0
//	total_workingset_refault_file 5
//	total_pgfault 244
//	total_pgmajfault 1
//	total_inactive_file 94208
func parseMemoryStat1(s *Stat, _ Field, b []byte) bool {
	return memoryStat(s, b, "total_", "rss", "cache")
}

// memoryStat parses the lines that begin with prefix; anon and file are what
// the version calls anonymous memory and page cache.
func memoryStat(s *Stat, b []byte, prefix, anon, file string) bool {
	l := lines{rest: b}
	known, ok := false, true
	var refaults sum
	for l.next() {
		if len(l.key) < len(prefix) || string(l.key[:len(prefix)]) != prefix {
			continue
		}
		var f Field
		switch string(l.key[len(prefix):]) {
		case anon:
			f = MemoryAnon
		case file:
			f = MemoryFile
		case "inactive_file":
			f = MemoryInactiveFile
		case "pgfault":
			f = PageFaults
		case "pgmajfault":
			f = MajorFaults
		case "workingset_refault_anon", "workingset_refault_file", "workingset_refault":
			refaults.add(l.value)
			continue
		default:
			continue
		}
		known = true
		ok = s.put(f, l.value, 1) && ok
	}
	refaults.bad = refaults.bad || l.cut // the other half may be missing
	return refaults.put(s, Refaults) && known && ok
}

// parseNUMA1 parses v1's memory.numa_stat (mm/memcontrol-v1.c), in pages. Of
// its eight lines we want one:
//
//	total=55 N0=55 N1=0
//	…
//	hierarchical_total=55 N0=55 N1=0
func parseNUMA1(s *Stat, _ Field, b []byte) bool {
	const key = "hierarchical_total="
	l := lines{rest: b}
	known, ok := false, true
	for l.next() {
		if len(l.key) >= len(key) && string(l.key[:len(key)]) == key {
			known = true
			ok = s.putNodes(l.value, uint64(os.Getpagesize())) && ok
		}
	}
	return s.checkNodes(known && ok && !l.cut)
}

// parseNUMA parses v2's memory.numa_stat (mm/memcontrol.c
// memory_numa_stat_show), in bytes. The lines overlap; what v1 calls the total
// is the first two:
//
//	anon N0=114688 N1=0
//	file N0=110592 N1=0
//	kernel_stack N0=16384 N1=0
//	…
func parseNUMA(s *Stat, _ Field, b []byte) bool {
	l := lines{rest: b}
	anon, file, ok := false, false, true
	for l.next() {
		switch string(l.key) {
		case "anon":
			anon = true
		case "file":
			file = true
		default:
			continue
		}
		ok = s.putNodes(l.value, 1) && ok
	}
	return s.checkNodes(anon && file && ok && !l.cut)
}

// putNodes adds "N0=55 N1=0", each times unit.
func (s *Stat) putNodes(b []byte, unit uint64) bool {
	for len(b) > 0 {
		var word []byte
		word, b, _ = cutByte(b, ' ')
		if len(word) == 0 || word[0] != 'N' {
			return false
		}
		node, count, found := cutByte(word[1:], '=')
		id, ok1 := parseUint(node)
		n, ok2 := parseUint(count)
		hi, n := bits.Mul64(n, unit)
		if !found || !ok1 || !ok2 || hi != 0 || id > math.MaxInt32 || !s.addNode(int(id), n) {
			return false
		}
	}
	return true
}

// checkNodes makes NUMA absent unless ok.
func (s *Stat) checkNodes(ok bool) bool {
	if !ok {
		s.NUMA = s.NUMA[:0]
	}
	return ok
}

// parseIOStat parses v2's io.stat (block/blk-cgroup.c
// blkcg_print_one_stat), summed over the devices; an empty one means no I/O.
//
//	254:0 rbytes=1232896 wbytes=0 rios=48 wios=0 dbytes=0 dios=0
//
// Some kernels (5.16 and before) wrote devices without statistics and without
// the end of the line, "7:0 7:1 254:0 rbytes=…": words matter here, not lines.
func parseIOStat(s *Stat, _ Field, b []byte) bool {
	sums := [4]sum{{seen: true}, {seen: true}, {seen: true}, {seen: true}}
	l := lines{rest: b}
	known := len(b) == 0
	for l.next() {
		known = known || bytes.IndexByte(l.key, ':') > 0
		for rest := l.value; len(rest) > 0; {
			var word []byte
			word, rest, _ = cutByte(rest, ' ')
			key, value, _ := cutByte(word, '=')
			switch string(key) {
			case "rbytes":
				sums[0].add(value)
			case "wbytes":
				sums[1].add(value)
			case "rios":
				sums[2].add(value)
			case "wios":
				sums[3].add(value)
			}
		}
	}
	ok := known && !l.cut
	for i := range sums {
		sums[i].bad = sums[i].bad || !known || l.cut
		ok = sums[i].put(s, IOReadBytes+Field(i)) && ok
	}
	return ok
}

// parseBlkio parses v1's blkio.throttle.io_service_bytes_recursive (into f =
// IOReadBytes and f+1) and io_serviced_recursive (IOReads), and their like
// (block/blk-cgroup-rwstat.c), summed over the devices:
//
//	254:0 Read 1232896
//	254:0 Write 0
//	254:0 Sync 1232896
//	254:0 Async 0
//	254:0 Discard 0
//	254:0 Total 1232896
//	Total 1232896
//
// With the last line alone there was no I/O, or it isn't counted: see
// Tree.counts. The fields are absent then.
func parseBlkio(s *Stat, f Field, b []byte) bool {
	var reads, writes sum
	l := lines{rest: b}
	known := false
	for l.next() {
		if string(l.key) == "Total" {
			known = true
			continue
		}
		op, value, _ := cutByte(l.value, ' ')
		switch string(op) {
		case "Read":
			reads.add(value)
		case "Write":
			writes.add(value)
		}
	}
	known = known && !l.cut
	reads.bad = reads.bad || !known
	writes.bad = writes.bad || !known
	ok := reads.put(s, f)
	return writes.put(s, f+1) && ok && known
}

// parsePressure parses *.pressure (kernel/sched/psi.c psi_show), into f and
// f+1; totals are µs.
//
//	some avg10=0.00 avg60=0.00 avg300=0.00 total=122
//	full avg10=0.00 avg60=0.00 avg300=0.00 total=118
//
// Linux < 5.13 has no full line in cpu.pressure.
func parsePressure(s *Stat, f Field, b []byte) bool {
	l := lines{rest: b}
	known, ok := false, true
	for l.next() {
		var line Field
		switch string(l.key) {
		case "some":
			line = f
		case "full":
			line = f + 1
		default:
			continue
		}
		known = true
		// The averages go by unparsed: total is the last word.
		key, value, _ := cutByte(l.value[bytes.LastIndexByte(l.value, ' ')+1:], '=')
		if string(key) != "total" {
			value = nil
		}
		ok = s.put(line, value, micro) && ok
	}
	return known && ok && !l.cut
}

// parseCPUs and parseMems parse lists (lib/vsprintf.c bitmap_list_string), as
// cpuset.cpus.effective, into how many there are, and keep the list:
//
//	0-3,8
func parseCPUs(s *Stat, f Field, b []byte) bool {
	line, ok := single(b)
	if !ok || !s.putList(f, line) {
		s.CPUSet = ""
		return false
	}
	s.CPUSet = intern(line, &s.lastCPUs)
	return true
}

func parseMems(s *Stat, f Field, b []byte) bool {
	line, ok := single(b)
	if !ok || !s.putList(f, line) {
		s.mems = ""
		return false
	}
	s.mems = intern(line, &s.lastMems)
	return true
}

func (s *Stat) putList(f Field, list []byte) bool {
	n := uint64(0)
	if !eachRange(list, func(lo, hi uint64) bool { n += hi - lo + 1; return true }) {
		s.unset(f)
		return false
	}
	s.Set(f, n)
	return true
}

// eachRange calls do for each range of a list in the kernel's format; ids are
// below 2³¹ and go up. It returns false if do does or if it is no such list;
// an empty one is.
func eachRange(list []byte, do func(lo, hi uint64) bool) bool {
	next := uint64(0)
	for len(list) > 0 {
		var word []byte
		i := bytes.IndexByte(list, ',')
		if i < 0 {
			word, list = list, nil
		} else if word, list = list[:i], list[i+1:]; len(list) == 0 {
			return false
		}
		first, last, isRange := cutByte(word, '-')
		lo, ok := parseUint(first)
		hi := lo
		if isRange && ok {
			hi, ok = parseUint(last)
		}
		if !ok || lo < next || hi < lo || hi > math.MaxInt32 || !do(lo, hi) {
			return false
		}
		next = hi + 1
	}
	return true
}
