package perf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// openDescriptors counts with the kernel's own cgroup events
// (PERF_FLAG_PID_CGROUP), which exist for one CPU each.
//
// It costs a file for each cgroup, CPU and event, one for the cgroup's
// directory and two for each CPU. A Read is one read(2) for each CPU and group
// of events, and an interrupt of that CPU if the cgroup runs there just then
// (perf_event_read, kernel/events/core.c): counts of running threads need no
// Refresh. Every switch between cgroups that are counted reprograms the CPU's
// counters, which costs the more the more cgroups and events there are.
func (f FS) openDescriptors(p *Plan) (_ Counter, err error) {
	d := &descriptors{groups: p.Groups, events: p.Events(), others: -1}
	if len(d.events) == 0 {
		return nil, errors.New("the plan has no events")
	}
	longest := 0
	for _, g := range p.Groups {
		longest = max(longest, len(g))
	}
	d.buf = make([]byte, (groupHeader+longest)*8)
	if d.watch, err = f.watchCPUs(); err != nil {
		return nil, err
	}
	if err := d.follow(); err != nil {
		d.watch.close()
		return nil, err
	}
	if len(d.slots) == 0 {
		d.watch.close()
		return nil, fmt.Errorf("%s: none of these CPUs is online", d.watch.name)
	}
	return d, nil
}

type descriptors struct {
	groups  [][]*Event
	events  []*Event // of all groups
	watch   *cpuWatch
	slots   []slot // every CPU that was ever online
	cgroups map[*descriptorCgroup]struct{}
	pending bool  // a cgroup may be closed on a CPU that is online
	missing error // why, as of the last Refresh
	files   int   // of cgroups
	others  int   // open files that are not of cgroups, −1 = to be counted
	buf     []byte
	closed  bool
}

// A slot is the place of a CPU in descriptorCgroup.fds.
type slot struct {
	cpu    int
	online bool
	// groups are the indices in events of those that this CPU counts, its
	// leader first.
	groups [][]int
	files  int // sum of their lengths
}

type descriptorCgroup struct {
	d   *descriptors
	dir int // its directory, to open it on CPUs that come
	// fds has len(events) descriptors for each slot, −1 where there is none.
	fds  []int32
	open []bool // slots that count, or have nothing to count
	// base is what CPUs counted that are offline now.
	base []Count
	err  error // wraps ErrLost
}

// follow takes over what happened to the CPUs.
func (d *descriptors) follow() error {
	left, came, err := d.watch.refresh()
	for _, cpu := range left {
		i := d.slotOf(cpu)
		d.slots[i].online = false
		for g := range d.cgroups {
			err = errors.Join(err, g.leave(i))
		}
	}
	for _, cpu := range came {
		i := d.slotOf(cpu)
		if i < 0 {
			i = len(d.slots)
			d.slots = append(d.slots, d.newSlot(cpu))
		}
		d.slots[i].online, d.pending = true, true
	}
	return err
}

func (d *descriptors) slotOf(cpu int) int {
	return slices.IndexFunc(d.slots, func(s slot) bool { return s.cpu == cpu })
}

func (d *descriptors) newSlot(cpu int) slot {
	s := slot{cpu: cpu}
	first := 0
	for _, events := range d.groups {
		var here []int
		for i, e := range events {
			if e.indexOn(cpu) >= 0 {
				here = append(here, first+i)
			}
		}
		if here != nil {
			s.groups = append(s.groups, here)
			s.files += len(here)
		}
		first += len(events)
	}
	return s
}

func (d *descriptors) Add(dir string) (Cgroup, error) {
	if d.closed {
		return nil, fmt.Errorf("perf counter: %w", os.ErrClosed)
	}
	g, err := d.add(dir)
	if errors.Is(err, unix.ENODEV) {
		// A CPU went offline since the last Refresh.
		if err := d.Refresh(); err != nil {
			return nil, err
		}
		g, err = d.add(dir)
	}
	if err != nil {
		return nil, err
	}
	return g, nil
}

func (d *descriptors) add(dir string) (*descriptorCgroup, error) {
	g := &descriptorCgroup{d: d, base: make([]Count, len(d.events))}
	if err := d.room(1 + g.need()); err != nil {
		return nil, fmt.Errorf("counting %s: %w", dir, err)
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
		return nil, fmt.Errorf("counting %s: %w", dir, explain(err, false))
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	d.files++
	g.dir = fd
	if err = g.follow(); err == nil && !g.exists() {
		err = fs.ErrNotExist // follow passes over what is gone
	}
	if err != nil {
		_ = g.release()
		return nil, fmt.Errorf("counting %s: %w", dir, err)
	}
	if d.cgroups == nil {
		d.cgroups = map[*descriptorCgroup]struct{}{}
	}
	d.cgroups[g] = struct{}{}
	return g, nil
}

// room says whether so many files may be opened.
func (d *descriptors) room(need int) error {
	open, err := d.openFiles()
	if err != nil {
		return nil //nolint:nilerr // without /proc EMFILE will tell
	}
	if limit := fileLimit(); open+need+fileReserve > limit {
		return &LimitError{Need: need, Open: open, Limit: limit}
	}
	return nil
}

// openFiles counts the files that this process has open. Linux 6.2 tells in a
// stat of /proc/self/fd (proc_fd_getattr); before it they are listed, which
// grows with their number, so that this is done once after each Refresh.
func (d *descriptors) openFiles() (int, error) {
	const dir = "/proc/self/fd"
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err == nil && st.Size > 0 {
		return int(st.Size), nil
	}
	if d.others < 0 {
		f, err := os.Open(dir)
		if err != nil {
			return 0, err
		}
		defer f.Close() //nolint:errcheck // read only
		names, err := f.Readdirnames(-1)
		if err != nil {
			return 0, err
		}
		d.others = len(names) - 1 - d.files // without dir itself
	}
	return d.others + d.files, nil
}

func (d *descriptors) Refresh() error {
	if d.closed {
		return fmt.Errorf("perf counter: %w", os.ErrClosed)
	}
	d.others = -1
	err := d.follow()
	if !d.pending {
		return err
	}
	d.pending, d.missing = false, nil
	for g := range d.cgroups {
		var failed error
		if need := g.need(); need > 0 {
			failed = d.room(need)
		}
		if failed == nil {
			failed = g.follow()
		}
		if failed != nil {
			d.pending, d.missing = true, failed // those of the others are alike
		}
	}
	return errors.Join(err, d.missing)
}

func (d *descriptors) Files() int {
	if d.closed {
		return 0
	}
	return d.files + d.watch.files()
}

func (d *descriptors) Close() error {
	if d.closed {
		return nil
	}
	var failed []error
	for g := range d.cgroups {
		failed = append(failed, g.Close())
	}
	d.watch.close()
	d.closed = true
	return errors.Join(failed...)
}

// need returns how many files follow would open.
func (g *descriptorCgroup) need() (files int) {
	for i, s := range g.d.slots {
		if s.online && (i >= len(g.open) || !g.open[i]) {
			files += s.files
		}
	}
	return files
}

// follow opens the cgroup on the CPUs that are online and on which it is not
// open yet.
func (g *descriptorCgroup) follow() error {
	d := g.d
	for len(g.open) < len(d.slots) {
		g.open = append(g.open, false)
		for range d.events {
			g.fds = append(g.fds, -1)
		}
	}
	for i := range d.slots {
		if g.open[i] || !d.slots[i].online {
			continue
		}
		if err := g.come(i); err != nil {
			return err
		}
		g.open[i] = true
	}
	return nil
}

// come opens the cgroup on a CPU. One that was removed has nothing to count
// there, which is no error.
func (g *descriptorCgroup) come(i int) error {
	d, cpu := g.d, g.d.slots[i].cpu
	first := 0
	for _, events := range d.groups {
		fds := g.slot(i)[first : first+len(events)]
		failed, err := openGroup(fds, events, unix.PerfBitDisabled, g.dir, cpu, unix.PERF_FLAG_PID_CGROUP)
		if err == nil {
			for _, fd := range fds {
				if fd >= 0 {
					d.files++
				}
			}
			if failed = leaderOf(fds); failed >= 0 {
				err = enableGroup(int(fds[failed]))
			}
		}
		if err != nil {
			d.files -= openIn(g.slot(i))
			_ = closeGroup(g.slot(i))
			switch {
			case errors.Is(err, unix.ENOENT) && !g.exists():
				return nil
			case errors.Is(err, unix.EBADF), errors.Is(err, unix.ENOENT) && opens(events[failed], cpu):
				// css_tryget_online_from_dir, kernel/cgroup/cgroup.c
				return errors.New("not a cgroup of the hierarchy that perf_event belongs to: the one of its own on v1, otherwise that of v2")
			}
			return fmt.Errorf("%s on CPU %d: %w", events[failed].Name, cpu, err)
		}
		first += len(events)
	}
	return nil
}

// exists says whether the cgroup has not been removed.
func (g *descriptorCgroup) exists() bool {
	return unix.Faccessat(g.dir, "cgroup.procs", unix.F_OK, 0) != unix.ENOENT
}

// opens says whether the event can be opened without a cgroup.
func opens(e *Event, cpu int) bool {
	var fds [1]int32
	_, err := openGroup(fds[:], []*Event{e}, unix.PerfBitDisabled, -1, cpu, 0)
	_ = closeGroup(fds[:])
	return err == nil
}

// leave closes the cgroup on a CPU that went offline and keeps what it counted
// there. The kernel has dissolved its groups: each event is read for itself.
func (g *descriptorCgroup) leave(i int) error {
	if i >= len(g.open) {
		return nil
	}
	fds := g.slot(i)
	for _, events := range g.d.slots[i].groups {
		for nth, e := range events {
			if fds[e] < 0 {
				continue
			}
			n, err := unix.Read(int(fds[e]), g.d.buf)
			if err == nil {
				err = addEvent(&g.base[e], nth == 0, g.d.buf[:max(n, 0)])
			}
			if err != nil {
				g.err = fmt.Errorf("%s on CPU %d, which went offline: %w: %w", g.d.events[e].Name, g.d.slots[i].cpu, ErrLost, err)
			}
		}
	}
	g.d.files -= openIn(fds)
	g.open[i] = false
	return closeGroup(fds)
}

func (g *descriptorCgroup) slot(i int) []int32 {
	n := len(g.d.events)
	return g.fds[i*n : (i+1)*n]
}

func (g *descriptorCgroup) Read(counts []Count) error {
	d := g.d
	switch {
	case g.closed():
		return fmt.Errorf("perf cgroup: %w", os.ErrClosed)
	case len(counts) != len(d.events):
		return fmt.Errorf("room for %d counts of %d events", len(counts), len(d.events))
	case g.err != nil:
		return g.err
	}
	copy(counts, g.base)
	for i := range d.slots {
		s := &d.slots[i]
		if !s.online {
			continue
		}
		if i >= len(g.open) || !g.open[i] {
			if d.missing == nil {
				return fmt.Errorf("not counted on CPU %d yet, which came online", s.cpu)
			}
			return fmt.Errorf("not counted on CPU %d, which came online: %w", s.cpu, d.missing)
		}
		fds := g.slot(i)
		for _, events := range s.groups {
			fd := fds[events[0]]
			if fd < 0 {
				break // removed before this CPU came
			}
			n, err := unix.Read(int(fd), d.buf)
			if err == nil {
				err = addGroup(counts, events, d.buf[:max(n, 0)])
			}
			if err != nil {
				return fmt.Errorf("reading %s on CPU %d: %w", d.events[events[0]].Name, s.cpu, err)
			}
		}
	}
	return nil
}

func (g *descriptorCgroup) closed() bool { return g.dir < 0 }

func (g *descriptorCgroup) Close() error {
	if g.closed() {
		return nil
	}
	delete(g.d.cgroups, g)
	return g.release()
}

func (g *descriptorCgroup) release() error {
	g.d.files -= openIn(g.fds) + 1
	err := closeGroup(g.fds)
	if e := unix.Close(g.dir); err == nil && e != nil {
		err = os.NewSyscallError("close", e)
	}
	g.dir, g.fds, g.open = -1, nil, nil
	return err
}

// openIn counts the descriptors that are open.
func openIn(fds []int32) (n int) {
	for _, fd := range fds {
		if fd >= 0 {
			n++
		}
	}
	return n
}

// leaderOf returns which of a group's descriptors leads, −1 if the CPU counts
// none of it.
func leaderOf(fds []int32) int {
	return slices.IndexFunc(fds, func(fd int32) bool { return fd >= 0 })
}

// groupHeader is the number of words before the values of struct read_format:
// nr, time_enabled, time_running.
const groupHeader = 3

// addGroup adds what a read of a group's leader gave to counts[i] for each i
// of events. A pinned group that lost its counters gives 0 bytes, and one that
// its CPU left behind when it went offline has fewer values.
func addGroup(counts []Count, events []int, b []byte) error {
	if len(b) == 0 {
		return errors.New("nothing could be read: the event has lost its counter")
	}
	if want := (groupHeader + len(events)) * 8; len(b) != want {
		return fmt.Errorf("%d bytes instead of %d: the CPU went offline", len(b), want)
	}
	if nr := word(b, 0); nr != uint64(len(events)) {
		return fmt.Errorf("%d values of %d", nr, len(events))
	}
	enabled, running := word(b, 1), word(b, 2)
	for i, e := range events {
		counts[e].add(word(b, groupHeader+i), enabled, running)
	}
	return nil
}

// addEvent adds what a read of one event gave: of a leader, with however many
// siblings, or of a sibling.
func addEvent(c *Count, leader bool, b []byte) error {
	switch {
	case leader && len(b) >= (groupHeader+1)*8:
		c.add(word(b, groupHeader), word(b, 1), word(b, 2))
	case !leader && len(b) == 3*8:
		c.add(word(b, 0), word(b, 1), word(b, 2))
	default:
		return fmt.Errorf("%d bytes", len(b))
	}
	return nil
}

func word(b []byte, i int) uint64 { return binary.NativeEndian.Uint64(b[i*8:]) }

func (c *Count) add(value, enabled, running uint64) {
	c.Value += value
	c.Enabled += enabled
	c.Running += running
}
