package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrGone is what Read and the like wrap when the cgroup has been removed,
// even if there is a new one by its name: close the Group.
var ErrGone = errors.New("the cgroup was removed")

// errTooLong is for a file longer than maxBuffer.
var errTooLong = errors.New("longer than 1 MiB")

const maxBuffer = 1 << 20

// A Tree is the cgroup hierarchies of a host, and how to read and limit them.
type Tree struct {
	// KeepSets are the sets whose files stay open from one Read to the next;
	// change it before the first Open. Kept ones cost a pread each time (1 µs
	// and the kernel's own work), others 6 µs more; but each open file of a
	// cgroup costs the kernel about 4.5 KiB (a seq_file and its buffer), too
	// much for files read every so many seconds. The default is CPU, Memory,
	// IO, PIDs and Pressure.
	KeepSets Set
	// KeepFiles is how many files may stay open between reads, in all Groups
	// and Controls. Beyond it, files are opened for each read: correct, and
	// slower. The same happens when the kernel has none left (EMFILE, ENFILE).
	// The default is what this process may open less a sixteenth, or less 1024
	// if that is more, or half of it if that is little; at most 65536.
	KeepFiles int
	// Writes: files of Controls are opened to be written, too, where that is permitted, by
	// a Get already: for those who are going to Set what they Get. Default is false.
	Writes bool

	root        string
	hierarchies []Hierarchy
	sources     []source
	list        []int // hierarchies in the order in which Pids looks at them
	blkio       int   // hierarchy of v1's blkio, -1: none
	counting    [2]ioCount

	knobs     [NumKnobs]knobFiles
	groups    map[*Group]struct{} // the open ones
	controls  map[*Control]struct{}
	files     int  // kept open
	shortfall int  // how much less than KeepFiles there turned out to be
	reads     uint // so far, of Groups and Controls

	// Scratch space of one Read.
	buf  []byte  // content of a file
	text []byte  // of the files of a knob, or what is written to one
	path []byte  // NUL-terminated
	dirs []int32 // open directories by hierarchy, -1: not open
	st   unix.Stat_t
}

func newTree(list []Hierarchy) *Tree {
	t := &Tree{
		KeepSets:    CPU | Memory | IO | PIDs | Pressure,
		KeepFiles:   256,
		hierarchies: list,
		blkio:       -1,
		groups:      map[*Group]struct{}{},
		controls:    map[*Control]struct{}{},
		buf:         make([]byte, 8<<10),
		dirs:        make([]int32, len(list)),
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		reserve := min(max(1024, limit.Cur/16), limit.Cur/2)
		t.KeepFiles = int(min(limit.Cur-reserve, 1<<16))
	}
	for i := range t.dirs {
		t.dirs[i] = -1
	}
	// Where a controller that does the accounting is, the processes are too;
	// the v2 side of a hybrid host may have empty cgroups of the same name.
	for _, c := range []string{"cpu", "cpuacct", "memory", "pids", "cpuset", "blkio"} {
		if i := t.v1(c); i >= 0 && !slices.Contains(t.list, i) {
			t.list = append(t.list, i)
		}
	}
	for i := range list {
		if !slices.Contains(t.list, i) {
			t.list = append(t.list, i)
		}
	}
	t.plan()
	t.planKnobs()
	return t
}

// Version says what kind of host this is.
func (t *Tree) Version() Version {
	v1, v2 := false, false
	for i := range t.hierarchies {
		v1 = v1 || t.hierarchies[i].Version == V1
		v2 = v2 || t.hierarchies[i].Version == V2
	}
	switch {
	case v1 && v2:
		return Hybrid
	case v2:
		return V2
	}
	return V1
}

// Unified returns the directory of the v2 hierarchy, "" if there is none.
func (t *Tree) Unified() string {
	if i := t.v2(); i >= 0 {
		return t.hierarchies[i].Dir
	}
	return ""
}

// V1 returns the directory of the v1 hierarchy with this controller, or name
// ("name=systemd"); "" if there is none.
func (t *Tree) V1(controller string) string {
	if i := t.v1(controller); i >= 0 {
		return t.hierarchies[i].Dir
	}
	return ""
}

// Dirs returns the directories of all hierarchies, v2 first.
func (t *Tree) Dirs() []string {
	dirs := make([]string, len(t.hierarchies))
	for i := range dirs {
		dirs[i] = t.hierarchies[i].Dir
	}
	return dirs
}

// Controllers returns the hierarchies, v2 first, with their controllers.
func (t *Tree) Controllers() []Hierarchy { return slices.Clone(t.hierarchies) }

// Files returns how many files all Groups and Controls keep open.
func (t *Tree) Files() int { return t.files }

func (t *Tree) v2() int {
	return slices.IndexFunc(t.hierarchies, func(h Hierarchy) bool { return h.Version == V2 })
}

func (t *Tree) v1(controller string) int {
	return slices.IndexFunc(t.hierarchies, func(h Hierarchy) bool {
		return h.Version == V1 && slices.Contains(h.Controllers, controller)
	})
}

// Open opens the cgroup of this path, as /proc/PID/cgroup has it: "/", or
// "/a/b" without "." and "..". The error wraps [fs.ErrNotExist] if no hierarchy
// has it. No file is opened before the first Read.
func (t *Tree) Open(name string) (*Group, error) {
	at, err := t.find(name, false)
	if err != nil {
		return nil, err
	}
	g := &Group{tree: t, place: at, slots: make([]slot, len(t.sources))}
	for i := range g.slots {
		g.slots[i].fd = -1
	}
	t.groups[g] = struct{}{}
	return g, nil
}

// A place is a cgroup: its path, and which directories it means.
type place struct {
	path   string
	inodes []uint64 // of its directory, by hierarchy; 0: not there
}

// find looks for a cgroup in all hierarchies, or until one has it.
func (t *Tree) find(name string, one bool) (place, error) {
	if !strings.HasPrefix(name, "/") || path.Clean(name) != name || strings.ContainsRune(name, 0) {
		return place{}, fmt.Errorf("%q is not the path of a cgroup: %w", name, fs.ErrInvalid)
	}
	at := place{path: name, inodes: make([]uint64, len(t.hierarchies))}
	found := false
	var problem error
	for _, i := range t.list { // those with limits first
		if one && found {
			break
		}
		h := &t.hierarchies[i]
		rel, ok := h.rel(name)
		if !ok {
			continue
		}
		var st unix.Stat_t
		err := unix.Stat(h.Dir+rel, &st)
		switch {
		case err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR:
			at.inodes[i] = st.Ino
			found = true
		case err == nil || err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ENODEV:
		default:
			problem = errors.Join(problem, &fs.PathError{Op: "stat", Path: h.Dir + rel, Err: err})
		}
	}
	if !found {
		if problem == nil {
			problem = fs.ErrNotExist
		}
		return place{}, fmt.Errorf("cgroup %q: %w", name, problem)
	}
	return at, nil
}

// A source is one file of each cgroup.
type source struct {
	set       Set
	hierarchy int
	name      []byte // NUL-terminated, as the next
	older     []byte // what older kernels have instead, if anything
	parse     parser
	field     Field
	// unless is a hierarchy that makes this source superfluous for a cgroup
	// that is in it; -1: none.
	unless int
}

// plan says which files to read, on this host.
func (t *Tree) plan() {
	v2 := t.v2()
	add := func(set Set, hierarchy int, name string, field Field, parse parser) *source {
		t.sources = append(t.sources, source{
			set: set, hierarchy: hierarchy, name: []byte(name + "\x00"), parse: parse, field: field, unless: -1,
		})
		return &t.sources[len(t.sources)-1]
	}

	cpu, acct := t.v1("cpu"), t.v1("cpuacct")
	if acct >= 0 {
		// There is cpuacct.usage_all, but its user and system times don't add
		// up to the usage: they are counted in ticks. cpuacct.stat has them
		// scaled to the usage (cputime_adjust, Linux 5.16), and one line for
		// all CPUs and not one for each. What is left is its unit of 10 ms.
		add(CPU, acct, "cpuacct.usage", CPUUsage, parseNumber)
		add(CPU, acct, "cpuacct.stat", CPUUser, parseCPUAcctStat)
	}
	if v2 >= 0 {
		// usage_usec and its parts are there without the cpu controller; on
		// hybrid hosts for cgroups, as of systemd, that cpuacct doesn't have.
		add(CPU, v2, "cpu.stat", CPUUsage, parseCPUStat).unless = acct
	}
	if cpu >= 0 {
		add(CPU, cpu, "cpu.stat", CPUPeriods, parseCPUStat1)
		add(Limits, cpu, "cpu.cfs_quota_us", CPUQuota, parseQuota1)
		add(Limits, cpu, "cpu.cfs_period_us", CPUPeriod, parseMicros)
		add(Limits, cpu, "cpu.cfs_burst_us", CPUBurstLimit, parseMicros)
		add(Limits, cpu, "cpu.shares", CPUShares, parseNumber)
		add(Limits, cpu, "cpu.idle", CPUIdle, parseNumber)
	} else if v2 >= 0 {
		add(Limits, v2, "cpu.max", CPUQuota, parseCPUMax)
		add(Limits, v2, "cpu.max.burst", CPUBurstLimit, parseMicros)
		add(Limits, v2, "cpu.weight", CPUWeight, parseNumber)
		add(Limits, v2, "cpu.idle", CPUIdle, parseNumber)
	}

	if memory := t.v1("memory"); memory >= 0 {
		add(Memory, memory, "memory.usage_in_bytes", MemoryUsage, parseNumber)
		add(Memory, memory, "memory.oom_control", OOMKills, parseOOMKills)
		add(MemoryStat, memory, "memory.stat", MemoryAnon, parseMemoryStat1)
		add(MemoryStat, memory, "memory.max_usage_in_bytes", MemoryPeak, parseNumber)
		add(NUMA, memory, "memory.numa_stat", 0, parseNUMA1)
		add(Limits, memory, "memory.limit_in_bytes", MemoryMax, parseLimit)
		add(Limits, memory, "memory.soft_limit_in_bytes", MemorySoftLimit, parseLimit)
	} else if v2 >= 0 {
		add(Memory, v2, "memory.current", MemoryUsage, parseNumber)
		add(Memory, v2, "memory.events", OOMKills, parseOOMKills)
		add(MemoryStat, v2, "memory.stat", MemoryAnon, parseMemoryStat)
		add(MemoryStat, v2, "memory.peak", MemoryPeak, parseNumber)
		add(NUMA, v2, "memory.numa_stat", 0, parseNUMA)
		add(Limits, v2, "memory.low", MemoryLow, parseLimit)
		add(Limits, v2, "memory.high", MemoryHigh, parseLimit)
		add(Limits, v2, "memory.max", MemoryMax, parseLimit)
	}

	if t.blkio = t.v1("blkio"); t.blkio >= 0 {
		bytes := add(IO, t.blkio, "blkio.throttle.io_service_bytes_recursive", IOReadBytes, parseBlkio)
		bytes.older = []byte("blkio.throttle.io_service_bytes\x00")
		ops := add(IO, t.blkio, "blkio.throttle.io_serviced_recursive", IOReads, parseBlkio)
		ops.older = []byte("blkio.throttle.io_serviced\x00")
	} else if v2 >= 0 {
		add(IO, v2, "io.stat", IOReadBytes, parseIOStat)
	}

	pids := t.v1("pids")
	if pids < 0 {
		pids = v2
	}
	if pids >= 0 {
		add(PIDs, pids, "pids.current", PIDsCurrent, parseNumber)
		add(Limits, pids, "pids.max", PIDsMax, parseLimit)
	}

	if cpuset := t.v1("cpuset"); cpuset >= 0 {
		add(Limits, cpuset, "cpuset.effective_cpus", CPUSetCPUs, parseCPUs)
		add(Limits, cpuset, "cpuset.effective_mems", CPUSetMems, parseMems)
	} else if v2 >= 0 {
		add(Limits, v2, "cpuset.cpus.effective", CPUSetCPUs, parseCPUs)
		add(Limits, v2, "cpuset.mems.effective", CPUSetMems, parseMems)
	}

	if v2 >= 0 {
		add(Pressure, v2, "cpu.pressure", CPUPressureSome, parsePressure)
		add(Pressure, v2, "memory.pressure", MemoryPressureSome, parsePressure)
		add(Pressure, v2, "io.pressure", IOPressureSome, parsePressure)
	}
}

// openat opens a file; the NUL-terminated path spares unix.Openat's copy on
// the heap. When there are no descriptors left, it takes one from a Group that
// keeps some.
func (t *Tree) openat(dir int, name []byte, flags int) (int, unix.Errno) {
	for {
		fd, errno := openat(dir, name, flags|unix.O_CLOEXEC)
		if errno != unix.EMFILE && errno != unix.ENFILE || !t.shed() {
			return fd, errno
		}
	}
}

// shed closes the kept files of some Group or Control, and remembers to keep less.
func (t *Tree) shed() bool {
	for c := range t.controls {
		if c.files == 0 {
			continue
		}
		c.dropAll()
		t.shortfall = max(t.KeepFiles-t.files, 0)
		return true
	}
	for g := range t.groups {
		if g.files == 0 {
			continue
		}
		for i := range g.slots {
			g.drop(&g.slots[i])
		}
		t.shortfall = max(t.KeepFiles-t.files, 0)
		return true
	}
	return false
}

// count counts reads: descriptors may have become free again, try, slowly.
func (t *Tree) count() {
	if t.reads++; t.reads%64 == 0 && t.shortfall > 0 {
		t.shortfall--
	}
}

// may keep another file open?
func (t *Tree) mayKeep() bool { return t.files < t.KeepFiles-t.shortfall }

// dir is openDir until closeDirs.
func (t *Tree) dir(p *place, h int) (int, fault) {
	if fd := t.dirs[h]; fd >= 0 {
		return int(fd), 0
	}
	fd, f := t.openDir(p, h)
	t.dirs[h] = int32(fd)
	return fd, f
}

// openDir opens the directory of a cgroup in a hierarchy. The error, with -1, is
// gone, missing, or something else that is wrong.
func (t *Tree) openDir(p *place, h int) (int, fault) {
	rel, ok := t.hierarchies[h].rel(p.path)
	if !ok {
		return -1, missing
	}
	t.path = append(append(append(t.path[:0], t.hierarchies[h].Dir...), rel...), 0)
	fd, errno := t.openat(unix.AT_FDCWD, t.path, unix.O_PATH|unix.O_DIRECTORY)
	if errno == unix.ENOENT || errno == unix.ENOTDIR || errno == unix.ENODEV {
		if p.inodes[h] != 0 {
			return -1, gone
		}
		return -1, missing
	}
	if errno != 0 {
		return -1, fault(errno)
	}
	if err := unix.Fstat(fd, &t.st); err != nil {
		_ = unix.Close(fd)
		return -1, faultOf(err)
	}
	// The inode number is the cgroup's id, never used again: a different one
	// is a new cgroup by the name of the old.
	if old := p.inodes[h]; old != 0 && old != t.st.Ino {
		_ = unix.Close(fd)
		return -1, gone
	}
	p.inodes[h] = t.st.Ino
	return fd, 0
}

func (t *Tree) closeDirs() {
	for i, fd := range t.dirs {
		if fd >= 0 {
			_ = unix.Close(int(fd))
			t.dirs[i] = -1
		}
	}
}

// pread reads a whole file into the buffer, which grows as needed.
func (t *Tree) pread(fd int) ([]byte, fault) {
	for {
		n, err := pread(fd, t.buf, 0)
		if err != nil {
			return nil, faultOf(err)
		}
		// cgroupfs makes the content in one go and copies as much as there is
		// room for: room left means the end, and reading on where the buffer
		// ended would join two different contents.
		if n < len(t.buf) {
			return t.buf[:n], 0
		}
		if len(t.buf) >= maxBuffer {
			return nil, tooLong
		}
		t.buf = make([]byte, 2*len(t.buf))
	}
}
