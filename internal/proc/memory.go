package proc

import "bytes"

// Memory is /proc/meminfo, in bytes.
type Memory struct {
	Total     Count
	Free      Count
	Available Count // Linux 3.14
	Buffers   Count
	Cached    Count
	Slab      Count
}

// parseMeminfo parses /proc/meminfo:
//
//	MemTotal:        1011660 kB
//	MemFree:          980268 kB
//	MemAvailable:     912696 kB
func parseMeminfo(b []byte) (Memory, error) {
	var m Memory
	for missing := 6; missing > 0; {
		line, rest, ok := cutLine(b)
		if !ok {
			break
		}
		b = rest
		key, value, _ := bytes.Cut(line, []byte(":"))
		var field *Count
		switch string(key) {
		case "MemTotal":
			field = &m.Total
		case "MemFree":
			field = &m.Free
		case "MemAvailable":
			field = &m.Available
		case "Buffers":
			field = &m.Buffers
		case "Cached":
			field = &m.Cached
		case "Slab":
			field = &m.Slab
		}
		if field == nil || field.OK {
			continue
		}
		if field.N, field.OK = parseKiB(value); !field.OK {
			return Memory{}, malformed(line)
		}
		missing--
	}
	return m, nil
}

// NodeMemory is the memory of one NUMA node, in bytes.
type NodeMemory struct {
	Node       int
	Free, Used Count
}

// parseNodeMeminfo parses /sys/devices/system/node/nodeN/meminfo:
//
//	Node 0 MemTotal:         505544 kB
//	Node 0 MemFree:          489804 kB
//	Node 0 MemUsed:           15740 kB
func parseNodeMeminfo(b []byte) (free, used Count, err error) {
	for !free.OK || !used.OK {
		line, rest, ok := cutLine(b)
		if !ok {
			break
		}
		b = rest
		key, value, _ := bytes.Cut(line, []byte(":"))
		var field *Count
		switch {
		case bytes.HasSuffix(key, []byte(" MemFree")):
			field = &free
		case bytes.HasSuffix(key, []byte(" MemUsed")):
			field = &used
		}
		if field == nil || field.OK {
			continue
		}
		if field.N, field.OK = parseKiB(value); !field.OK {
			return Count{}, Count{}, malformed(line)
		}
	}
	return free, used, nil
}

// DefaultVMStat are the keys of /proc/vmstat that tell of memory pressure,
// swapping, and what NUMA balancing and huge pages cost. A kernel may lack some.
var DefaultVMStat = []string{
	"pgfault", "pgmajfault", "pswpin", "pswpout",
	"pgscan_kswapd", "pgscan_direct", "pgsteal_kswapd", "pgsteal_direct", "allocstall_normal", "oom_kill",
	"numa_hint_faults", "numa_pages_migrated", "pgmigrate_success", "thp_fault_alloc",
	"workingset_refault_anon", "workingset_refault_file",
}

// parseVMStat puts the counters of /proc/vmstat whose keys are in index at
// their places in values; what is not in the file becomes absent.
//
//	nr_free_pages 245067
//	pgfault 21041
func parseVMStat(b []byte, index map[string]int, values []Count) error {
	clear(values)
	for missing := len(index); missing > 0; {
		line, rest, ok := cutLine(b)
		if !ok {
			break
		}
		b = rest
		key, value, _ := bytes.Cut(line, []byte(" "))
		i, ok := index[string(key)]
		if !ok || values[i].OK {
			continue
		}
		n, tail, ok := cutUint(value)
		if !ok || len(tail) > 0 {
			clear(values)
			return malformed(line)
		}
		values[i] = Count{n, true}
		missing--
	}
	return nil
}
