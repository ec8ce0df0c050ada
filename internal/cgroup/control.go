package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Control reads and writes the limits of one cgroup. It is used like a [Group]: by one
// goroutine at a time, as the Tree that it is of.
//
// Some knobs depend on others (kernel/sched/core.c, Linux 6.12 and 6.18), which matters to
// the order in which they are set, and set back:
//   - While cpu.idle is 1 the weight is that of an idle cgroup (cpu.shares reads 3, cpu.weight
//     1 or 0) and can't be set (EINVAL). The one from before is lost: cpu.idle = 0 makes it
//     the default. So the weight is kept before cpu.idle is set, and set again after it is 0.
//   - A quota below the burst is refused (EINVAL), and so is a burst above the quota: the
//     quota first when they are raised, the burst first when they are lowered. Without a
//     quota any burst will do, and the burst outlives the quota.
type Control struct {
	place
	tree   *Tree
	ids    [NumKnobs]string // those that were asked for
	knobs  [NumKnobs]*openKnob
	files  int // kept open
	closed bool
}

// toWrite opens a file of a knob to write it. With O_NONBLOCK memory.high doesn't reclaim
// (memory_high_write, Linux 6.16).
const toWrite = unix.O_RDWR | unix.O_NONBLOCK

// maxKnobFiles is how many files a knob has at most.
const maxKnobFiles = 4

// knobFiles are the files of a knob on a kind of host.
type knobFiles struct {
	hierarchy  int // -1: no such knob on this host
	v1         bool
	controller string   // in v2's cgroup.controllers
	names      [][]byte // NUL-terminated, as older
	older      []byte   // what there is where names[0] is not
	seen       bool     // in some cgroup: the kernel has it
}

// An openKnob is what a Control knows of a knob that was used.
type openKnob struct {
	fds      [maxKnobFiles]int32 // -1: not open
	writable [maxKnobFiles]bool
	older    bool // it has knobFiles.older
	// What was read last, each file ended by a NUL, and the value that it is.
	text  []byte
	value string
}

// planKnobs says which files the knobs are on this host.
func (t *Tree) planKnobs() {
	v2 := t.v2()
	for k := range t.knobs {
		t.knobs[k].hierarchy = -1
	}
	plan := func(k Knob, controller string, v1, v2Names []string) {
		h, names := t.v1(controller), v1
		if h < 0 && controller == "blkio" {
			controller = "io"
		}
		if h < 0 {
			h, names = v2, v2Names
		}
		if h < 0 || len(names) == 0 {
			return
		}
		f := &t.knobs[k]
		f.hierarchy, f.v1, f.controller = h, t.hierarchies[h].Version == V1, controller
		for _, name := range names {
			f.names = append(f.names, []byte(name+"\x00"))
		}
	}
	plan(CPUMax, "cpu", []string{"cpu.cfs_quota_us", "cpu.cfs_period_us"}, []string{"cpu.max"})
	plan(CPUMaxBurst, "cpu", []string{"cpu.cfs_burst_us"}, []string{"cpu.max.burst"})
	plan(CPUSharesV1, "cpu", []string{"cpu.shares"}, nil)
	plan(CPUWeightV2, "cpu", nil, []string{"cpu.weight"})
	plan(CPUIdleFlag, "cpu", []string{"cpu.idle"}, []string{"cpu.idle"})
	plan(CPUSetCPUList, "cpuset", []string{"cpuset.cpus"}, []string{"cpuset.cpus"})
	plan(CPUSetMemList, "cpuset", []string{"cpuset.mems"}, []string{"cpuset.mems"})
	plan(MemoryHighLimit, "memory", nil, []string{"memory.high"})
	plan(MemoryLowLimit, "memory", nil, []string{"memory.low"})
	plan(IOWeightDefault, "blkio", []string{"blkio.bfq.weight"}, []string{"io.weight"})
	plan(IOMaxLimits, "blkio", []string{
		"blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device",
		"blkio.throttle.read_iops_device", "blkio.throttle.write_iops_device",
	}, []string{"io.max"})
	if f := &t.knobs[IOWeightDefault]; f.v1 {
		f.older = []byte("blkio.weight\x00")
	} else {
		f.older = []byte("io.bfq.weight\x00")
	}
}

// Control opens a cgroup to change its limits; no file is opened yet, and of the hierarchies
// only one is looked at. The error wraps fs.ErrNotExist if no hierarchy has it.
func (t *Tree) Control(path string) (*Control, error) {
	at, err := t.find(path, true)
	if err != nil {
		return nil, err
	}
	c := &Control{place: at, tree: t}
	t.controls[c] = struct{}{}
	return c, nil
}

// Path returns the path that the Control was opened by.
func (c *Control) Path() string { return c.path }

// home is the hierarchy that stands for all that the cgroup is in: the first one with limits
// that has it, if any.
func (c *Control) home() int {
	for _, controller := range []string{"cpu", "cpuset", "blkio"} {
		if h := c.tree.v1(controller); h >= 0 && c.inodes[h] != 0 {
			return h
		}
	}
	return slices.IndexFunc(c.inodes, func(inode uint64) bool { return inode != 0 })
}

// ID tells the cgroup that has this limit from others that had or will have its path: the
// inode of its directory in the knob's hierarchy, as text. It is the same in other processes,
// until the next boot. Managers make and remove a cgroup's directories one hierarchy at a
// time, so those of another hierarchy say nothing of this limit. It is "" if there is none
// in the knob's, or that could not be told, as the error of Get says; never after a Get
// without one.
func (c *Control) ID(k Knob) string {
	if k >= NumKnobs || c.tree.knobs[k].hierarchy < 0 {
		return ""
	}
	h := c.tree.knobs[k].hierarchy
	if c.inodes[h] == 0 {
		_, _ = c.dir(h)
		c.tree.closeDirs()
	}
	if c.ids[k] == "" && c.inodes[h] != 0 {
		name := "v2"
		if hier := &c.tree.hierarchies[h]; hier.Version == V1 {
			name = hier.Controllers[0]
		}
		c.ids[k] = name + ":" + strconv.FormatUint(c.inodes[h], 10)
	}
	return c.ids[k]
}

// File returns the file of a knob, for messages; the first one where there are two.
func (c *Control) File(k Knob) string { return c.file(k, 0) }

func (c *Control) file(k Knob, i int) string {
	if k >= NumKnobs {
		return k.String()
	}
	f := &c.tree.knobs[k]
	h, name := f.hierarchy, k.String()
	if h < 0 {
		h = c.home()
	} else {
		b := f.names[i]
		if o := c.knobs[k]; o != nil && o.older {
			b = f.older
		}
		name = string(bytes.TrimRight(b, "\x00"))
	}
	rel, _ := c.tree.hierarchies[h].rel(c.path)
	return c.tree.hierarchies[h].Dir + rel + "/" + name
}

var errNoKnob = fmt.Errorf("no such file: the controller is not enabled there, or the kernel does not have it: %w",
	errors.ErrUnsupported)

// fail makes an error of a fault.
func (c *Control) fail(op string, k Knob, i int, f fault) error {
	err := f.err()
	if f == missing {
		err = errNoKnob
	}
	return &fs.PathError{Op: op, Path: c.file(k, i), Err: err}
}

// dir is Tree.dir. A hierarchy that is looked at for the first time may have a cgroup made
// anew.
func (c *Control) dir(h int) (int, fault) {
	if home := c.home(); c.inodes[h] == 0 && h != home {
		if _, f := c.tree.dir(&c.place, home); f == gone {
			return -1, gone
		}
	}
	return c.tree.dir(&c.place, h)
}

// use returns the knob's files and state.
func (c *Control) use(op string, k Knob) (*knobFiles, *openKnob, error) {
	if c.closed {
		return nil, nil, fmt.Errorf("cgroup %q: %w", c.path, fs.ErrClosed)
	}
	if k >= NumKnobs || c.tree.knobs[k].hierarchy < 0 {
		defer c.tree.closeDirs()
		return nil, nil, c.fail(op, k, 0, c.alive(-1))
	}
	o := c.knobs[k]
	if o == nil {
		o = &openKnob{}
		for i := range o.fds {
			o.fds[i] = -1
		}
		c.knobs[k] = o
	}
	return &c.tree.knobs[k], o, nil
}

// alive returns missing if the cgroup is still there, otherwise gone, or why it can't tell:
// in a hierarchy or, if it was never in that, at home.
func (c *Control) alive(h int) fault {
	if h < 0 || c.inodes[h] == 0 {
		h = c.home()
	}
	dir, f := c.tree.dir(&c.place, h)
	if f == missing {
		return gone
	}
	if f != 0 {
		return f
	}
	// As isGone.
	if err := unix.Faccessat(dir, "cgroup.procs", unix.F_OK, 0); err != nil {
		if f = faultOf(err); f.isGone() {
			return gone
		}
		return f
	}
	return missing
}

// absent tells what it means that a file of a knob is missing: missing, gone, or something
// that is wrong.
func (c *Control) absent(files *knobFiles) fault {
	t := c.tree
	h := files.hierarchy
	f := c.alive(h)
	if f != missing || c.inodes[h] == 0 || !files.seen || c.path == "/" {
		return f
	}
	// A cgroup on its way out loses its controllers' files before all others (kill_css).
	// They go in no other way but that v2's controller is disabled.
	if files.v1 {
		return gone
	}
	dir, f := t.dir(&c.place, h)
	if f != 0 {
		return f
	}
	t.path = append(t.path[:0], "cgroup.controllers\x00"...)
	fd, errno := t.openat(dir, t.path, unix.O_RDONLY)
	if errno != 0 {
		return c.alive(h)
	}
	defer unix.Close(fd) //nolint:errcheck // read only
	b, f := t.pread(fd)
	switch {
	case f.isGone():
		return gone
	case f != 0:
		return f
	case slices.Contains(strings.Fields(string(b)), files.controller):
		return gone
	}
	return missing
}

// Get reads a knob; its files stay open for the next time, within KeepFiles. It does not
// allocate when the value is that of the last time. Errors, as fs.PathErrors: [ErrGone];
// errors.ErrUnsupported if there is no such file, because the controller is not enabled
// there or the kernel does not have the feature; otherwise the errno.
func (c *Control) Get(k Knob) (string, error) {
	files, o, err := c.use("read", k)
	if err != nil {
		return "", err
	}
	t := c.tree
	t.count()
	t.text = t.text[:0]
	for i := range files.names {
		b, f := c.read(files, o, i)
		if f != 0 {
			if f.isMissing() {
				f = c.absent(files)
			}
			t.closeDirs()
			return "", c.fail("read", k, i, f)
		}
		t.text = append(append(t.text, b...), 0)
	}
	t.closeDirs()
	if o.text != nil && bytes.Equal(t.text, o.text) {
		return o.value, nil
	}
	value, ok := k.parse(t.text, files.v1)
	if !ok {
		return "", c.fail("read", k, 0, garbled)
	}
	o.text, o.value = append(o.text[:0], t.text...), value
	return value, nil
}

// read reads a file of a knob into the Tree's buffer.
func (c *Control) read(files *knobFiles, o *openKnob, i int) ([]byte, fault) {
	t := c.tree
	if fd := o.fds[i]; fd >= 0 {
		b, f := t.pread(int(fd))
		if f != fault(unix.ENODEV) {
			if t.files > t.KeepFiles-t.shortfall {
				c.drop(o, i)
			}
			return b, f
		}
		c.drop(o, i)
	}
	flags, writable := unix.O_RDONLY, t.Writes
	if writable {
		flags = toWrite
	}
	fd, f := c.open(files, o, i, flags)
	if writable && (f == fault(unix.EACCES) || f == fault(unix.EPERM) || f == fault(unix.EROFS)) {
		writable = false
		fd, f = c.open(files, o, i, unix.O_RDONLY)
	}
	if f != 0 {
		return nil, f
	}
	b, f := t.pread(fd)
	files.seen = files.seen || f == 0 && files.older == nil // those come and go with bfq
	if f != 0 || !c.keep(o, i, fd, writable) {
		_ = unix.Close(fd)
	}
	return b, f
}

func (c *Control) open(files *knobFiles, o *openKnob, i, flags int) (int, fault) {
	dir, f := c.dir(files.hierarchy)
	if f != 0 {
		return -1, f
	}
	fd, errno := c.tree.openat(dir, files.names[i], flags)
	if files.older != nil {
		if o.older = errno == unix.ENOENT; o.older {
			fd, errno = c.tree.openat(dir, files.older, flags)
			o.older = errno != unix.ENOENT
		}
	}
	return fd, fault(errno)
}

// keep keeps a file open, unless there are too many.
func (c *Control) keep(o *openKnob, i, fd int, writable bool) bool {
	if !c.tree.mayKeep() {
		return false
	}
	o.fds[i], o.writable[i] = int32(fd), writable
	c.files++
	c.tree.files++
	return true
}

// drop closes a file, if it is open.
func (c *Control) drop(o *openKnob, i int) {
	if o.fds[i] < 0 {
		return
	}
	_ = unix.Close(int(o.fds[i]))
	o.fds[i] = -1
	c.files--
	c.tree.files--
}

func (c *Control) dropAll() {
	for _, o := range c.knobs {
		for i := 0; o != nil && i < maxKnobFiles; i++ {
			c.drop(o, i)
		}
	}
}

// Close closes the files. Closing it again does nothing.
func (c *Control) Close() error {
	c.dropAll()
	delete(c.tree.controls, c)
	c.closed = true
	return nil
}

// Set writes a knob. All of it takes effect or, with an error, none of it, unless that wraps
// [ErrHalf]. It does not wait for memory to be reclaimed (since Linux 6.16; before, memory.high
// reclaims until it is met or gives up). Errors as of Get; what the kernel refuses is its errno (EINVAL, EBUSY, ENOSPC, …) in a
// fs.PathError, the value in the message. A value that is not of the knob's form is EINVAL,
// one of a disk that there is not is ENODEV; no more limit for one is no error. A list of v2 that
// is to be "", where there are processes, becomes that of all CPUs or nodes, which means the same.
func (c *Control) Set(k Knob, value string) error {
	files, o, err := c.use("write", k)
	if err != nil {
		return err
	}
	canonical, ok := k.canonical(value)
	if !ok {
		return c.refused(k, 0, value, unix.EINVAL)
	}
	var before string
	if inSteps(k, files) {
		if before, err = c.Get(k); err != nil {
			return err
		}
	}
	return c.set(files, o, k, before, canonical)
}

// ErrHalf is what an error of Set and Replace wraps that wrote a part of a value which takes
// several writes, and could not put that back.
var ErrHalf = errors.New("some of it was written, and could not be put back")

// ErrChanged is what Replace wraps where somebody else was faster.
var ErrChanged = errors.New("somebody else has changed the value meanwhile")

// Replace is Set where a knob still has the value before, or one that means the same; where
// it has not, nothing is written, and the error wraps [ErrChanged]. It returns the value that
// is there now, "" if that could not be told or the kernel refused the new one: what took
// effect, as the kernel rounds some.
// Between the look and the write it is a few µs.
func (c *Control) Replace(k Knob, before, value string) (now string, err error) {
	files, o, err := c.use("write", k)
	if err != nil {
		return "", err
	}
	canonical, ok := k.canonical(value)
	if !ok {
		return "", c.refused(k, 0, value, unix.EINVAL)
	}
	if now, err = c.Get(k); err != nil {
		return "", err
	}
	if !k.Equal(now, before) {
		return now, &fs.PathError{Op: "write", Path: c.file(k, 0), Err: fmt.Errorf("%q, before %q: %w", now, before, ErrChanged)}
	}
	if err := c.set(files, o, k, now, canonical); err != nil {
		return "", err
	}
	if k.exact() {
		return canonical, nil
	}
	now, _ = c.Get(k) // it is set, whatever this says
	return now, nil
}

// exact says whether the kernel keeps a value as it is written, if it takes it.
func (k Knob) exact() bool {
	switch k {
	case CPUMax, CPUMaxBurst, CPUSharesV1, CPUWeightV2, CPUIdleFlag:
		return true
	}
	return false
}

// inSteps says whether a value takes more than one write.
func inSteps(k Knob, files *knobFiles) bool { return k == CPUMax && files.v1 || k == IOMaxLimits }

// set writes a value; before is the one that is there, of those in steps.
func (c *Control) set(files *knobFiles, o *openKnob, k Knob, before, canonical string) error {
	switch {
	case k == CPUMax && files.v1:
		return c.setBandwidth(files, o, before, canonical)
	case k == IOMaxLimits:
		return c.setIOMax(files, o, before, canonical)
	}
	if canonical == "" {
		canonical = "\n" // a write of no bytes is none
	}
	err := c.write(files, o, k, 0, canonical)
	if canonical == "\n" && !files.v1 && errors.Is(err, unix.ENOSPC) {
		// Where there are processes v2 takes no empty list, either (validate_change,
		// kernel/cgroup/cpuset.c). One of all that there may ever be is what the parent has, too,
		// whatever that becomes.
		if all := c.tree.possible(k); all != "" {
			err = c.write(files, o, k, 0, all)
		}
	}
	c.tree.closeDirs()
	return err
}

// possible returns the list of all CPUs or memory nodes that there may ever be; "" if that is
// not known.
func (t *Tree) possible(k Knob) string {
	name := "cpu"
	if k == CPUSetMemList {
		name = "node"
	}
	b, err := os.ReadFile(filepath.Join("/", t.root, "sys/devices/system", name, "possible"))
	if err != nil {
		return "" // what the kernel said stands
	}
	return strings.TrimSpace(string(b))
}

// refused is the error of a write.
func (c *Control) refused(k Knob, i int, text string, err error) error {
	return &fs.PathError{Op: "write", Path: c.file(k, i), Err: fmt.Errorf("%q: %w", text, err)}
}

// write writes a file of a knob, which stays open if it may: a limit that was set is read
// again, and set again.
func (c *Control) write(files *knobFiles, o *openKnob, k Knob, i int, text string) error {
	t := c.tree
	t.text = append(t.text[:0], text...)
	if o.fds[i] >= 0 && o.writable[i] {
		f := pwrite(int(o.fds[i]), t.text)
		if f == 0 {
			return nil
		}
		if f != fault(unix.ENODEV) {
			return c.refused(k, i, text, f.err())
		}
	}
	c.drop(o, i)
	fd, f := c.open(files, o, i, toWrite)
	if f.isMissing() || f == gone {
		return c.fail("write", k, i, c.absent(files))
	}
	if f != 0 {
		return c.fail("write", k, i, f)
	}
	f = pwrite(fd, t.text)
	if !c.keep(o, i, fd, true) {
		_ = unix.Close(fd)
	}
	// ENODEV is of the cgroup, or of a disk that the text names.
	if f == fault(unix.ENODEV) && c.alive(files.hierarchy) == gone {
		f = gone
	}
	if f == gone {
		return c.fail("write", k, i, gone)
	}
	if f != 0 {
		return c.refused(k, i, text, f.err())
	}
	return nil
}

func pwrite(fd int, b []byte) fault {
	for {
		n, err := unix.Pwrite(fd, b, 0)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return faultOf(err)
		case n != len(b):
			return fault(unix.EIO)
		default:
			return 0
		}
	}
}

// A step is one write of several that make a value, and the one that undoes it.
type step struct {
	file       int
	text, undo string
	// removal of a limit, which a disk that is gone does not have any more.
	removal bool
}

// do makes the steps or, with an error, none of them; at is the step that was refused.
func (c *Control) do(files *knobFiles, o *openKnob, k Knob, steps []step) (at int, err error) {
	defer c.tree.closeDirs()
	for i, s := range steps {
		err := c.write(files, o, k, s.file, s.text)
		if err == nil || s.removal && errors.Is(err, unix.ENODEV) {
			continue
		}
		for _, s := range slices.Backward(steps[:i]) {
			if e := c.write(files, o, k, s.file, s.undo); e != nil && !errors.Is(e, ErrGone) {
				err = errors.Join(err, fmt.Errorf("%w: %w", ErrHalf, e))
			}
		}
		return i, err
	}
	return 0, nil
}

// setBandwidth sets v1's quota and period, which are two writes.
func (c *Control) setBandwidth(files *knobFiles, o *openKnob, before, value string) (err error) {
	old, _ := parseBandwidth(before)
	to, _ := parseBandwidth(value)
	for _, way := range bandwidthWays(old, to) {
		var at int
		// What is refused in the last step is the new value, whatever the way.
		if at, err = c.do(files, o, CPUMax, way); at == len(way)-1 || !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	return err
}

// bandwidthWays returns ways from one value to another; a later one is for when the kernel
// refuses what is in between, which it compares with the parent's and the children's, too
// (__cfs_schedulable). In the first way that is no wider than both values.
func bandwidthWays(old, to bandwidth) [][]step {
	const unlimited = "-1"
	q := step{file: 0, text: to.quota1(), undo: old.quota1()}
	p := step{file: 1, text: strconv.FormatUint(to.period, 10), undo: strconv.FormatUint(old.period, 10)}
	switch {
	case old == to:
		return nil
	case old.period == to.period:
		return [][]step{{q}}
	case old.quota == to.quota:
		return [][]step{{p}}
	case old.quota == Max:
		return [][]step{{p, q}}
	case to.quota == Max:
		return [][]step{{q, p}}
	}
	narrow, wide := []step{q, p}, []step{p, q}
	// Which is less, to.quota/old.period or old.quota/to.period?
	if productLess(old.quota, old.period, to.quota, to.period) {
		narrow, wide = wide, narrow
	}
	// The last way is for a cgroup that has no room between its parent and its children: for
	// some µs it may use all that the parent may.
	return [][]step{narrow, wide, {
		{file: 0, text: unlimited, undo: q.undo}, p, {file: 0, text: q.text, undo: unlimited},
	}}
}

// setIOMax writes the limits that differ: one write for a device, on v1 for each of its
// limits.
func (c *Control) setIOMax(files *knobFiles, o *openKnob, before, value string) error {
	old, _ := parseDevices(before)
	to, _ := parseDevices(value)
	var steps []step
	add := func(a, b deviceLimits) {
		if !files.v1 {
			steps = append(steps, step{text: b.String(), undo: a.String(), removal: b.none()})
			return
		}
		for i := range a.limits {
			if a.limits[i] != b.limits[i] {
				none := b.limits[i] == Max
				steps = append(steps, step{file: i, text: b.line1(i), undo: a.line1(i), removal: none})
			}
		}
	}
	for _, a := range old {
		if b := limitsOf(to, a.device); b != a {
			add(a, b)
		}
	}
	for _, b := range to {
		if a := limitsOf(old, b.device); a.none() {
			add(a, b)
		}
	}
	_, err := c.do(files, o, IOMaxLimits, steps)
	return err
}

// Below calls f for each cgroup below this one that has the knob, parents first, with its
// path and the knob's value, until f returns false. One that vanishes meanwhile is left out.
// Errors as of Get, but that there are none is no error.
func (c *Control) Below(k Knob, f func(path, value string) bool) error {
	files, _, err := c.use("read", k)
	if err != nil {
		return err
	}
	_, fl := c.dir(files.hierarchy)
	dir := -1
	if fl == 0 {
		dir, fl = c.tree.openDir(&c.place, files.hierarchy)
	}
	if fl == 0 {
		_, fl = c.tree.knobBelow(k, dir, c.path, f, 0)
		_ = unix.Close(dir)
	}
	defer c.tree.closeDirs()
	if fl.isMissing() || fl == gone {
		if fl = c.alive(files.hierarchy); fl == missing {
			return nil
		}
	}
	if fl != 0 {
		return c.fail("read", k, 0, fl)
	}
	return nil
}

// knobBelow returns whether to go on.
func (t *Tree) knobBelow(k Knob, dir int, path string, f func(path, value string) bool, depth int) (bool, fault) {
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return false, faultOf(err)
	}
	// As in idsBelow.
	if st.Nlink == 2 || depth == maxDepth {
		return true, 0
	}
	children, fl := t.subdirs(dir)
	if fl != 0 {
		return false, fl
	}
	if path == "/" {
		path = ""
	}
	for _, child := range children {
		fd, errno := t.openat(dir, child, unix.O_PATH|unix.O_DIRECTORY)
		if errno == unix.ENOENT {
			continue
		}
		if errno != 0 {
			return false, fault(errno)
		}
		name := path + "/" + string(child[:len(child)-1])
		value, fl := t.knobIn(k, fd)
		more := true
		if fl == 0 {
			more = f(name, value)
		}
		if more && (fl == 0 || fl.isMissing()) {
			more, fl = t.knobBelow(k, fd, name, f, depth+1)
		}
		_ = unix.Close(fd)
		if fl != 0 && !fl.isMissing() {
			return false, fl
		}
		if fl == 0 && !more {
			return false, 0
		}
	}
	return true, 0
}

// knobIn reads a knob of the cgroup whose directory this is.
func (t *Tree) knobIn(k Knob, dir int) (string, fault) {
	files := &t.knobs[k]
	t.text = t.text[:0]
	for _, name := range files.names {
		fd, errno := t.openat(dir, name, unix.O_RDONLY)
		if errno == unix.ENOENT && files.older != nil {
			fd, errno = t.openat(dir, files.older, unix.O_RDONLY)
		}
		if errno != 0 {
			return "", fault(errno)
		}
		b, f := t.pread(fd)
		_ = unix.Close(fd)
		if f != 0 {
			return "", f
		}
		t.text = append(append(t.text, b...), 0)
	}
	value, ok := k.parse(t.text, files.v1)
	if !ok {
		return "", garbled
	}
	return value, 0
}
