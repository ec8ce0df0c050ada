package perf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// As in bpf/count.c.
const (
	bpfMaxEvents    = 32
	bpfMaxAncestors = 12
	bpfMaxLevels    = 128
	bpfChunk        = 128 // slots
	bpfChunks       = 64
	bpfLeaves       = 1024 // of a CPU
	bpfFlushed      = 1    // what flush returns

	// struct cpu
	cpuControl  = 0
	cpuLost     = 16
	cpuCounters = 32
	sizeCounter = 72 // last, delta and rest
	lastEnabled = 8

	// struct row
	rowSeq    = 0
	rowFailed = 8
	rowCounts = 16
	sizeCount = 24 // value, enabled, running
)

// bpfCounter counts with counters of whole CPUs. A program that is run at each
// switch to a task of another cgroup, and by Refresh, adds what they gained to the rows of
// the running task's cgroup and its ancestors; Read sums a cgroup's rows up, in
// memory that is shared with the program, without a system call.
//
// A cgroup has a slot, which is a row for each CPU and an entry in the map
// counted. What is kept of a leaf's slots for each CPU is good for a generation.
type bpfCounter struct {
	bpfObjects
	fs      FS
	groups  [][]*Event
	events  []*Event
	nCPU    int // possible CPUs: the highest number and 1
	rowSize int
	trigger bpfTrigger

	watch   *cpuWatch
	cpus    []*bpfCPU // that are or were online
	missing error     // why a CPU that came is not counted on yet

	chunks   []memory // of bpfChunk slots
	ids      map[uint64]*bpfSlot
	closed   []*bpfSlot // that lost their last Cgroup since the last Refresh
	free     []uint32
	used     uint32 // slots that were given out, ever
	device   uint64 // where cgroups of perf_event are
	lost     uint64
	scratch  []uint64
	run      testRunAttr
	finished bool
}

// bpfSlot is one id's.
type bpfSlot struct {
	id     uint64
	slot   uint32
	refs   int  // Cgroups
	closed bool // one of bpfCounter.closed
}

// bpfCPU is a CPU that is or was online.
type bpfCPU struct {
	nr      int
	state   memory // struct cpu
	epoch   uint32 // how often its counters changed
	online  bool
	open    bool // it has its counters
	trigger int  // the descriptor of its cgroup-switches event, −1 for none
}

// memory is shared with the program, which is why it is read and written
// atomically.
type memory []byte

func (m memory) at(offset int) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&m[offset]))
}

// openBPF needs Linux 5.12 (atomic instructions that fetch; 5.18 on arm64) with
// BTF and CONFIG_CGROUP_PERF, and CAP_BPF and CAP_PERFMON. Add and Refresh
// interrupt every CPU for about a microsecond; a switch to another cgroup costs
// reading the counters.
//
// What a CPU gained is of the cgroup whose task ran there. Where that was more than
// one since it was read last, it is split by time, as an estimate: when a task was
// moved to another cgroup while it ran, and after a switch that the kernel did not
// run the program at, as a 6.18 was seen to do now and then (6.1 and 6.12 were not).
func (f FS) openBPF(p *Plan) (Counter, error) {
	c, err := f.openBPFOn(p, schedSwitch)
	if errors.Is(err, errors.ErrUnsupported) {
		if second, secondErr := f.openBPFOn(p, cgroupSwitch); secondErr == nil {
			return second, nil
		}
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// A bpfTrigger is what runs the program.
type bpfTrigger string

// The names of the programs.
const (
	// schedSwitch is run at each switch of tasks and looks whether it is one of
	// cgroups.
	schedSwitch bpfTrigger = "sched_switch"
	// cgroupSwitch is run by the cgroup-switches event (5.13). It is second
	// choice because bpf_overflow_handler (kernel/events/core.c) leaves out a run
	// if bpf_prog_active is set, as it is while a task is preempted in a system
	// call on a map.
	cgroupSwitch bpfTrigger = "cgroup_switch"
)

func (f FS) openBPFOn(p *Plan, trigger bpfTrigger) (_ *bpfCounter, err error) {
	events := p.Events()
	switch n := len(events); {
	case n == 0:
		return nil, errors.New("no events to count")
	case n > bpfMaxEvents:
		return nil, fmt.Errorf("%d events, but perf_backend bpf counts at most %d: name fewer, or use perf_backend: cgroup", n, bpfMaxEvents)
	}
	nCPU, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, err
	}
	c := &bpfCounter{
		fs:      f,
		groups:  p.Groups,
		events:  events,
		nCPU:    nCPU,
		rowSize: rowCounts + sizeCount*len(events),
		trigger: trigger,
		ids:     make(map[uint64]*bpfSlot),
		scratch: make([]uint64, 3*len(events)),
	}
	defer func() {
		if err != nil {
			_ = c.Close()
		}
	}()
	if err := cgroupPerf(); err != nil {
		return nil, err
	}
	if c.watch, err = f.watchCPUs(); err != nil {
		return nil, err
	}
	if _, _, err := c.watch.refresh(); err != nil {
		return nil, err
	}
	if c.bpfObjects, err = c.load(); err != nil {
		return nil, err
	}
	c.come(c.watch.cpus)
	if err := c.openCPUs(); err != nil {
		return nil, err
	}
	return c, nil
}

// cgroupPerf finds out whether the kernel has CONFIG_CGROUP_PERF: if it has, what
// is no cgroup is a bad file to it, and otherwise the flag is an invalid argument.
func cgroupPerf() error {
	dir, err := os.Open("/proc/self")
	if err != nil {
		return err
	}
	defer dir.Close()
	fd, err := openEvent(unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_DUMMY}, int(dir.Fd()), 0, -1, unix.PERF_FLAG_PID_CGROUP)
	switch {
	case err == nil:
		_ = unix.Close(fd)
		return errors.New("the kernel takes /proc/self for a cgroup")
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("the kernel does not count in cgroups (CONFIG_CGROUP_PERF): %w", errors.ErrUnsupported)
	case errors.Is(err, unix.EBADF):
		return nil
	}
	return err
}

// openTrigger opens a CPU's cgroup-switches event, of which every one is a sample.
func openTrigger(cpu int) (int, error) {
	return openEvent(unix.PerfEventAttr{
		Type:   unix.PERF_TYPE_SOFTWARE,
		Config: swCgroupSwitches,
		Sample: 1,
	}, -1, cpu, -1, 0)
}

// Refresh runs the program once on every CPU.
func (c *bpfCounter) Refresh() error {
	if c.finished {
		return fs.ErrClosed
	}
	err := c.followCPUs()
	if len(c.closed) > 0 {
		for _, s := range c.closed {
			err = errors.Join(err, c.forget(s))
		}
		c.bump()
	}
	flushErr := c.flushAll()
	if flushErr == nil {
		c.release()
	}
	return errors.Join(err, flushErr, c.checkLost())
}

// forget takes an id from the program, unless it was added again meanwhile.
func (c *bpfCounter) forget(s *bpfSlot) error {
	if s.refs > 0 || c.ids[s.id] != s {
		return nil // or it was forgotten before a flush that failed
	}
	if err := c.counted.Delete(s.id); err != nil {
		return fmt.Errorf("bpf: cgroup id %d: %w", s.id, err)
	}
	delete(c.ids, s.id)
	return nil
}

// release makes the slots of forgotten ids free. All CPUs have been flushed since
// the program lost them and the generation changed, so no run of it that knows
// them is left: it cannot be preempted.
func (c *bpfCounter) release() {
	c.closed = slices.DeleteFunc(c.closed, func(s *bpfSlot) bool {
		if c.ids[s.id] == s {
			s.closed = s.refs == 0
			return !s.closed
		}
		for cpu := range c.nCPU {
			row := c.row(s.slot, cpu)
			for i := 0; i < c.rowSize; i += 8 {
				row.at(i).Store(0)
			}
		}
		c.free = append(c.free, s.slot)
		return true
	})
}

// bump makes the program look up again what it knows of leaves.
func (c *bpfCounter) bump() {
	(*atomic.Uint32)(unsafe.Pointer(&c.shared[0])).Add(1)
}

// checkLost reports tasks that the program could not attribute.
func (c *bpfCounter) checkLost() error {
	var lost uint64
	for _, cpu := range c.cpus {
		lost += cpu.state.at(cpuLost).Load()
	}
	if lost == c.lost {
		return nil
	}
	n := lost - c.lost
	c.lost = lost
	return fmt.Errorf("bpf: %d times a task was in a cgroup more than %d levels deep and not counted in those near the root", n, bpfMaxLevels)
}

// followCPUs starts to count on CPUs that came online and ends it on those that
// went. What those counted stays.
func (c *bpfCounter) followCPUs() error {
	left, came, err := c.watch.refresh()
	for _, nr := range left {
		cpu := c.cpu(nr)
		cpu.online = false
		// What it counted until now, if it is still there.
		if flushErr := c.flush(cpu); flushErr != nil && !errors.Is(flushErr, unix.ENXIO) {
			err = errors.Join(err, flushErr)
		}
		c.closeCPU(cpu)
	}
	c.come(came)
	if len(left)+len(came) > 0 || c.missing != nil {
		err = errors.Join(err, c.openCPUs())
	}
	return err
}

// come notes CPUs that are online now.
func (c *bpfCounter) come(cpus []int) {
	for _, nr := range cpus {
		cpu := c.cpu(nr)
		if cpu == nil {
			size := cpuCounters + sizeCounter*len(c.events)
			cpu = &bpfCPU{nr: nr, state: c.states[nr*size:][:size], trigger: -1}
			c.cpus = append(c.cpus, cpu)
		}
		cpu.online = true
	}
}

// cpu returns one that was online before, otherwise nil.
func (c *bpfCounter) cpu(nr int) *bpfCPU {
	i := slices.IndexFunc(c.cpus, func(cpu *bpfCPU) bool { return cpu.nr == nr })
	if i < 0 {
		return nil
	}
	return c.cpus[i]
}

// openCPUs opens the counters of the CPUs that have none.
func (c *bpfCounter) openCPUs() error {
	c.missing = nil
	for _, cpu := range c.cpus {
		if !cpu.online || cpu.open {
			continue
		}
		if err := c.openCPU(cpu); err != nil {
			c.missing = errors.Join(c.missing, fmt.Errorf("CPU %d: %w", cpu.nr, err))
		}
	}
	return c.missing
}

// openCPU opens the counters of a CPU and leaves them to the map of events, which
// keeps them open without descriptors.
func (c *bpfCounter) openCPU(cpu *bpfCPU) (err error) {
	fds := make([]int32, 0, len(c.events))
	defer func() {
		err = errors.Join(err, closeGroup(fds))
		if err != nil {
			c.closeCPU(cpu)
		}
	}()
	mask := uint32(0)
	for _, group := range c.groups {
		opened := fds[len(fds):][:len(group)]
		if failed, err := openGroup(opened, group, unix.PerfBitDisabled, -1, cpu.nr, 0); err != nil {
			return fmt.Errorf("%s: %w", group[failed].Name, err)
		}
		fds = fds[:len(fds)+len(group)]
		// Not before all are open: a sibling that comes to a group that counts
		// already may not be started (seen on 6.18 below task-clock).
		if leader := leaderOf(opened); leader >= 0 {
			if err := enableGroup(int(opened[leader])); err != nil {
				return err
			}
		}
	}
	for i, fd := range fds {
		if fd < 0 {
			continue // no counter for it here
		}
		if err := c.counters.Put(c.key(i, cpu), uint32(fd)); err != nil {
			return fmt.Errorf("bpf: %s: %w", c.events[i].Name, err)
		}
		mask |= 1 << i
	}
	c.control(cpu, mask)
	if c.trigger == cgroupSwitch {
		if cpu.trigger, err = openTrigger(cpu.nr); err != nil {
			return fmt.Errorf("cgroup-switches event: %w", err)
		}
		if err := unix.IoctlSetInt(cpu.trigger, unix.PERF_EVENT_IOC_SET_BPF, c.onSwitch.FD()); err != nil {
			return fmt.Errorf("attaching the program to the cgroup-switches event: %w", err)
		}
	}
	cpu.open = true
	// From here on it counts.
	return c.flush(cpu)
}

// closeCPU ends counting on a CPU.
func (c *bpfCounter) closeCPU(cpu *bpfCPU) {
	cpu.open = false
	c.control(cpu, 0)
	if cpu.trigger >= 0 {
		_ = unix.Close(cpu.trigger)
		cpu.trigger = -1
	}
	for i := range c.events {
		_ = c.counters.Delete(c.key(i, cpu)) // ENOENT where it has none
	}
}

// control tells the program about new counters, whose numbers begin anew.
func (c *bpfCounter) control(cpu *bpfCPU, mask uint32) {
	cpu.epoch++
	cpu.state.at(cpuControl).Store(uint64(cpu.epoch)<<32 | uint64(mask))
}

func (c *bpfCounter) key(event int, cpu *bpfCPU) uint32 {
	return uint32(event*c.nCPU + cpu.nr)
}

// flushAll flushes the CPUs that are counted on.
func (c *bpfCounter) flushAll() error {
	var errs error
	for _, cpu := range c.cpus {
		if !cpu.open {
			continue
		}
		// ENXIO: gone, which the next Refresh will see.
		if err := c.flush(cpu); err != nil && !errors.Is(err, unix.ENXIO) {
			errs = errors.Join(errs, err)
		}
	}
	return errs
}

// testRunAttr is the part of union bpf_attr that BPF_PROG_TEST_RUN uses.
type testRunAttr struct {
	progFD, retval                          uint32
	dataSizeIn, dataSizeOut                 uint32
	dataIn, dataOut                         uint64
	repeat, duration, ctxSizeIn, ctxSizeOut uint32
	ctxIn, ctxOut                           uint64
	flags, cpu, batchSize, _                uint32
}

// flush runs the program on a CPU; ENXIO says that it is offline. ebpf.Program.Run
// is the same with allocations.
func (c *bpfCounter) flush(cpu *bpfCPU) error {
	const progTestRun, onCPU = 10, 1 // BPF_PROG_TEST_RUN, BPF_F_TEST_RUN_ON_CPU
	for range 100 {
		c.run = testRunAttr{progFD: uint32(c.onFlush.FD()), flags: onCPU, cpu: uint32(cpu.nr)}
		_, _, errno := unix.Syscall(unix.SYS_BPF, progTestRun, uintptr(unsafe.Pointer(&c.run)), unsafe.Sizeof(c.run))
		switch {
		case errno == unix.EINTR, errno == unix.EAGAIN:
		case errno != 0:
			return fmt.Errorf("bpf: running the program on CPU %d: %w", cpu.nr, errno)
		case c.run.retval == bpfFlushed:
			return nil
		}
	}
	return fmt.Errorf("bpf: the kernel does not run the program on CPU %d", cpu.nr)
}

// Add interrupts every CPU, so that what its tasks did before is not counted.
func (c *bpfCounter) Add(dir string) (Cgroup, error) {
	if c.finished {
		return nil, fs.ErrClosed
	}
	id, err := c.identify(dir)
	if err != nil {
		return nil, err
	}
	g := &bpfCgroup{counter: c, dir: dir}
	if s := c.ids[id]; s != nil {
		// It is counted already, or still: from now on for this one too.
		if err := c.flushAll(); err != nil {
			return nil, err
		}
		g.slot = s
		g.base = make([]Count, len(c.events))
		if err := g.sum(g.base); err != nil {
			return nil, err
		}
		s.refs++
		return g, nil
	}
	slot, err := c.allocate()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	err = c.flushAll()
	if err == nil {
		if err = c.counted.Put(id, slot); err != nil {
			err = fmt.Errorf("bpf: %s: %w", dir, err)
		}
	}
	if err != nil {
		c.free = append(c.free, slot)
		return nil, err
	}
	c.bump()
	g.slot = &bpfSlot{id: id, slot: slot, refs: 1}
	c.ids[id] = g.slot
	return g, nil
}

// identify returns the id of a cgroup of perf_event's hierarchy: its directory's
// inode number. Since 5.5 it is the id in the kernel (kernfs_ino, on 64 bits).
func (c *bpfCounter) identify(dir string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	if st.Dev == c.device {
		return st.Ino, nil
	}
	// In another hierarchy it would be some other cgroup's. The kernel tells by
	// opening an event.
	f, err := os.Open(dir)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	fd, err := openEvent(unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_DUMMY}, int(f.Fd()), c.watch.cpus[0], -1, unix.PERF_FLAG_PID_CGROUP)
	switch {
	case errors.Is(err, unix.EBADF), errors.Is(err, unix.ENOENT):
		if _, gone := os.Stat(dir); gone != nil {
			return 0, gone
		}
		return 0, fmt.Errorf("%s is not a cgroup of the hierarchy that perf_event belongs to", dir)
	case err != nil:
		return 0, fmt.Errorf("%s: %w", dir, err)
	}
	_ = unix.Close(fd)
	c.device = st.Dev
	return st.Ino, nil
}

// allocate returns a slot whose rows are zero.
func (c *bpfCounter) allocate() (uint32, error) {
	if n := len(c.free); n > 0 {
		slot := c.free[n-1]
		c.free = c.free[:n-1]
		return slot, nil
	}
	if c.used == bpfChunk*bpfChunks {
		return 0, fmt.Errorf("perf_backend bpf counts in at most %d cgroups", bpfChunk*bpfChunks)
	}
	if int(c.used) == bpfChunk*len(c.chunks) {
		if err := c.grow(); err != nil {
			return 0, err
		}
	}
	c.used++
	return c.used - 1, nil
}

// grow adds a chunk. The map of chunks and the mapping hold it.
func (c *bpfCounter) grow() error {
	m, err := ebpf.NewMap(c.chunk)
	if err != nil {
		return fmt.Errorf("bpf: rows for %d more cgroups: %w", bpfChunk, err)
	}
	defer m.Close()
	chunk, err := mapMemory(m)
	if err != nil {
		return err
	}
	if err := c.index.Put(uint32(len(c.chunks)), m); err != nil {
		_ = unix.Munmap(chunk)
		return fmt.Errorf("bpf: rows for %d more cgroups: %w", bpfChunk, err)
	}
	c.chunks = append(c.chunks, chunk)
	return nil
}

func (c *bpfCounter) row(slot uint32, cpu int) memory {
	i := (cpu*bpfChunk + int(slot%bpfChunk)) * c.rowSize
	return c.chunks[slot/bpfChunk][i : i+c.rowSize]
}

func (c *bpfCounter) Files() int {
	if c.finished {
		return 0
	}
	n := c.files() + c.watch.files()
	for _, cpu := range c.cpus {
		if cpu.trigger >= 0 {
			n++
		}
	}
	return n
}

func (c *bpfCounter) Close() error {
	if c.finished {
		return nil
	}
	c.finished = true
	for _, cpu := range c.cpus {
		c.closeCPU(cpu)
	}
	var errs error
	for _, chunk := range c.chunks {
		errs = errors.Join(errs, unix.Munmap(chunk))
	}
	c.chunks = nil
	if c.watch != nil {
		c.watch.close()
	}
	return errors.Join(errs, c.close())
}

// bpfCgroup is a cgroup that a bpfCounter counts.
type bpfCgroup struct {
	counter *bpfCounter
	dir     string
	slot    *bpfSlot
	base    []Count // what the slot had when this was added; nil = 0
	closed  bool
}

// Read costs some ns for each event and CPU, and no system call.
func (g *bpfCgroup) Read(counts []Count) error {
	c := g.counter
	switch {
	case g.closed || c.finished:
		return fmt.Errorf("%s: %w", g.dir, fs.ErrClosed)
	case len(counts) != len(c.events):
		return fmt.Errorf("%s: %d counts for %d events", g.dir, len(counts), len(c.events))
	case c.missing != nil:
		return fmt.Errorf("%s: %w", g.dir, c.missing)
	}
	if err := g.sum(counts); err != nil {
		return err
	}
	for i, b := range g.base {
		counts[i].Value -= b.Value
		counts[i].Enabled -= b.Enabled
		counts[i].Running -= b.Running
	}
	return nil
}

// sum adds up the rows.
func (g *bpfCgroup) sum(counts []Count) error {
	c := g.counter
	clear(counts)
	for _, cpu := range c.cpus {
		row := c.row(g.slot.slot, cpu.nr)
		if failed := row.at(rowFailed).Load(); failed != 0 {
			return g.failure(failed, cpu)
		}
		if row.at(rowSeq).Load() == 0 {
			continue // never ran here
		}
		if !row.copyTo(c.scratch) {
			return fmt.Errorf("%s: CPU %d is writing its counts all the time", g.dir, cpu.nr)
		}
		for i := range counts {
			s := c.scratch[3*i:][:3]
			counts[i].Value += s[0]
			counts[i].Enabled += s[1]
			counts[i].Running += s[2]
		}
	}
	return nil
}

func (g *bpfCgroup) failure(failed uint64, cpu *bpfCPU) error {
	if failed>>bpfMaxEvents != 0 {
		return fmt.Errorf("%s: a task is in, or below, more than %d counted cgroups: its counts are incomplete", g.dir, bpfMaxAncestors)
	}
	i := 0
	for failed>>i&1 == 0 {
		i++
	}
	return fmt.Errorf("%s: CPU %d could not read %s: %w", g.dir, cpu.nr, g.counter.events[i].Name, ErrLost)
}

// copyTo copies a row's counts as they were at one time; false if they kept
// changing. Its CPU writes for some ns with interrupts off, and a virtual one can
// be stopped meanwhile: then it takes until the hypervisor goes on with it.
func (m memory) copyTo(words []uint64) bool {
	const tries = 1 << 20
	for range tries {
		seq := m.at(rowSeq).Load()
		if seq&1 != 0 {
			continue
		}
		for i := range words {
			words[i] = m.at(rowCounts + 8*i).Load()
		}
		if m.at(rowSeq).Load() == seq {
			return true
		}
	}
	return false
}

// Close leaves the slot to the next Refresh: the program may be using it.
func (g *bpfCgroup) Close() error {
	c := g.counter
	if g.closed || c.finished {
		return nil
	}
	g.closed = true
	if g.slot.refs--; g.slot.refs == 0 && !g.slot.closed {
		g.slot.closed = true
		c.closed = append(c.closed, g.slot)
	}
	return nil
}
