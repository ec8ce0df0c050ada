package perf

import (
	"iter"
	"strings"

	"golang.org/x/sys/unix"
)

// swCgroupSwitches is PERF_COUNT_SW_CGROUP_SWITCHES, which x/sys/unix lacks.
const swCgroupSwitches = 11

// A generic event has the same name on all hosts.
type generic struct {
	name    string   // perf's, as perf list prints it first
	others  []string // that perf also knows
	config  uint64
	help    string
	inNanos bool // counts ns
}

// hardwareEvents are enum perf_hw_id of include/uapi/linux/perf_event.h, with
// the names of event_symbols_hw of tools/perf/util/parse-events.c.
var hardwareEvents = []generic{
	{name: "cycles", others: []string{"cpu-cycles"}, config: unix.PERF_COUNT_HW_CPU_CYCLES, help: "CPU cycles; more or fewer a second as the frequency changes."},
	{name: "instructions", config: unix.PERF_COUNT_HW_INSTRUCTIONS, help: "Instructions retired."},
	{name: "cache-references", config: unix.PERF_COUNT_HW_CACHE_REFERENCES, help: "Accesses to a cache, on most CPUs the last level."},
	{name: "cache-misses", config: unix.PERF_COUNT_HW_CACHE_MISSES, help: "Misses of a cache, on most CPUs the last level."},
	{name: "branches", others: []string{"branch-instructions"}, config: unix.PERF_COUNT_HW_BRANCH_INSTRUCTIONS, help: "Branch instructions retired."},
	{name: "branch-misses", config: unix.PERF_COUNT_HW_BRANCH_MISSES, help: "Branches that were predicted wrong."},
	{name: "bus-cycles", config: unix.PERF_COUNT_HW_BUS_CYCLES, help: "Cycles of the bus, at a fixed rate on some CPUs."},
	{name: "stalled-cycles-frontend", others: []string{"idle-cycles-frontend"}, config: unix.PERF_COUNT_HW_STALLED_CYCLES_FRONTEND, help: "Cycles in which no instructions were delivered."},
	{name: "stalled-cycles-backend", others: []string{"idle-cycles-backend"}, config: unix.PERF_COUNT_HW_STALLED_CYCLES_BACKEND, help: "Cycles in which instructions waited for resources or data."},
	{name: "ref-cycles", config: unix.PERF_COUNT_HW_REF_CPU_CYCLES, help: "Cycles at a fixed rate, while not halted."},
}

// softwareEvents are enum perf_sw_ids, but for those that count nothing by
// themselves (see uncounted).
var softwareEvents = []generic{
	{name: "cpu-clock", config: unix.PERF_COUNT_SW_CPU_CLOCK, inNanos: true, help: "Time on CPUs, by their clocks."},
	{name: "task-clock", config: unix.PERF_COUNT_SW_TASK_CLOCK, inNanos: true, help: "Time on CPUs, by the clocks of the tasks."},
	{name: "page-faults", others: []string{"faults"}, config: unix.PERF_COUNT_SW_PAGE_FAULTS, help: "Page faults, minor and major."},
	{name: "context-switches", others: []string{"cs"}, config: unix.PERF_COUNT_SW_CONTEXT_SWITCHES, help: "Switches from a thread to another one."},
	{name: "cpu-migrations", others: []string{"migrations"}, config: unix.PERF_COUNT_SW_CPU_MIGRATIONS, help: "Threads that moved to another CPU."},
	{name: "minor-faults", config: unix.PERF_COUNT_SW_PAGE_FAULTS_MIN, help: "Page faults that needed no I/O."},
	{name: "major-faults", config: unix.PERF_COUNT_SW_PAGE_FAULTS_MAJ, help: "Page faults that waited for I/O."},
	{name: "alignment-faults", config: unix.PERF_COUNT_SW_ALIGNMENT_FAULTS, help: "Unaligned accesses that the kernel had to handle; none on x86."},
	{name: "emulation-faults", config: unix.PERF_COUNT_SW_EMULATION_FAULTS, help: "Instructions that the kernel had to emulate; none on x86."},
	{name: "cgroup-switches", config: swCgroupSwitches, help: "Switches to a thread of another cgroup (Linux 5.13)."},
}

// uncounted says why an event that perf has is none here, "" if it has not.
func uncounted(folded string) string {
	switch folded {
	case "dummy", "bpf-output":
		return "it counts nothing, perf uses it to collect records"
	case "duration-time", "user-time", "system-time":
		return "it is perf's own clock"
	}
	return ""
}

// isClock says whether it is an event of the kernel's that ignores the exclude
// bits: a timer measures it (cpu_clock_event_start, task_clock_event_start of
// kernel/events/core.c). The others ask perf_exclude_event (kernel/events/core.c).
func isClock(a *unix.PerfEventAttr) bool {
	return a.Type == unix.PERF_TYPE_SOFTWARE && (a.Config == unix.PERF_COUNT_SW_CPU_CLOCK || a.Config == unix.PERF_COUNT_SW_TASK_CLOCK)
}

// fold makes perf's spelling of generic names, the original's and that of its
// successor, which named the original's events as their metrics, the same.
func fold(name string) string {
	switch folded := strings.ReplaceAll(strings.ToLower(name), "_", "-"); folded {
	case "task-instructions", "task-cycles", "task-cache-references", "task-cache-misses":
		return folded[len("task-"):]
	case "task-stalled-mem-loads":
		return "stalls-mem-load"
	default:
		return folded
	}
}

// findGeneric returns the event that has the folded name, or nil.
func findGeneric(list []generic, folded string) *generic {
	for i := range list {
		e := &list[i]
		if e.name == folded {
			return e
		}
		for _, other := range e.others {
			if other == folded {
				return e
			}
		}
	}
	return nil
}

// isGeneric says whether all hosts know the name, whether or not they can
// count it.
func isGeneric(name string) bool {
	folded := fold(name)
	_, isCache := findCache(folded)
	return isCache || folded == fold(stallsName) || uncounted(folded) != "" ||
		findGeneric(hardwareEvents, folded) != nil || findGeneric(softwareEvents, folded) != nil
}

// Caches, operations and results of PERF_TYPE_HW_CACHE, each in the order of
// its enum, with the names of tools/perf/util/evsel.c (evsel__hw_cache…). The
// first one is in the name that perf list prints; without a result that is the
// second of an operation.
var (
	cacheNames = [][]string{
		{"L1-dcache", "l1-d", "l1d", "L1-data"},
		{"L1-icache", "l1-i", "l1i", "L1-instruction"},
		{"LLC", "L2"},
		{"dTLB", "d-tlb", "Data-TLB"},
		{"iTLB", "i-tlb", "Instruction-TLB"},
		{"branch", "branches", "bpu", "btb", "bpc"},
		{"node"},
	}
	cacheOps = [][]string{
		{"load", "loads", "read"},
		{"store", "stores", "write"},
		{"prefetch", "prefetches", "speculative-read", "speculative-load"},
	}
	cacheResults = [][]string{
		{"refs", "Reference", "ops", "access"},
		{"misses", "miss"},
	}
)

const (
	opRead = iota
	opWrite
	opPrefetch
	refs = 0
)

// cacheHas says which operations there are of a cache (evsel__hw_cache_stat).
func cacheHas(cache, op int) bool {
	switch cacheNames[cache][0] {
	case "L1-icache":
		return op != opWrite
	case "iTLB", "branch":
		return op == opRead
	}
	return true
}

// cacheEvent is what PERF_TYPE_HW_CACHE counts.
type cacheEvent struct{ cache, op, result int }

func (e cacheEvent) config() uint64 { return uint64(e.cache | e.op<<8 | e.result<<16) }

// String is the name that perf list prints.
func (e cacheEvent) String() string {
	if e.result == refs {
		return cacheNames[e.cache][0] + "-" + cacheOps[e.op][1]
	}
	return cacheNames[e.cache][0] + "-" + cacheOps[e.op][0] + "-" + cacheResults[e.result][0]
}

// cacheEvents are all that there are.
func cacheEvents() iter.Seq[cacheEvent] {
	return func(yield func(cacheEvent) bool) {
		for cache := range cacheNames {
			for op := range cacheOps {
				for result := range cacheResults {
					if cacheHas(cache, op) && !yield(cacheEvent{cache, op, result}) {
						return
					}
				}
			}
		}
	}
}

// findCache parses "cache[-operation][-result]", the latter two in any order
// and by default a reading access; ok also if the cache has no such operation.
func findCache(folded string) (e cacheEvent, ok bool) {
	e = cacheEvent{op: -1, result: -1}
	var rest string
	if e.cache, rest = cutWord(folded, cacheNames); e.cache < 0 {
		return e, false
	}
	for rest != "" {
		op, afterOp := -1, ""
		if e.op < 0 {
			op, afterOp = cutWord(rest, cacheOps)
		}
		if op >= 0 {
			e.op, rest = op, afterOp
			continue
		}
		if e.result >= 0 {
			return e, false
		}
		if e.result, rest = cutWord(rest, cacheResults); e.result < 0 {
			return e, false
		}
	}
	e.op, e.result = max(e.op, opRead), max(e.result, refs)
	return e, true
}

// cutWord finds the longest of the words that s begins with, up to a hyphen or
// its end. It returns the index of its list, -1 if there is none, and what
// follows.
func cutWord(s string, lists [][]string) (index int, rest string) {
	index = -1
	longest := 0
	for i, words := range lists {
		for _, w := range words {
			after, ok := strings.CutPrefix(s, strings.ToLower(w))
			if ok && len(w) > longest && (after == "" || after[0] == '-' && len(after) > 1) {
				index, longest = i, len(w)
				rest = strings.TrimPrefix(after, "-")
			}
		}
	}
	return index, rest
}

// genericNames are the names that all hosts know, as perf prints them.
func genericNames() []string {
	names := []string{stallsName}
	for _, list := range [][]generic{hardwareEvents, softwareEvents} {
		for _, e := range list {
			names = append(append(names, e.name), e.others...)
		}
	}
	for e := range cacheEvents() {
		names = append(names, e.String())
	}
	return names
}
