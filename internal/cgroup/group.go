package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Group is an open cgroup, in every hierarchy that has it.
type Group struct {
	place
	tree   *Tree
	slots  []slot // by source
	files  int    // kept open
	closed bool
}

// A slot is what a Group knows of a source.
type slot struct {
	fd      int32 // -1: not open
	fault   fault // of the last attempt
	skip    uint8 // this many reads before it is looked for again
	backoff uint8 // the next skip is 1<<backoff - 1
}

// maxBackoff bounds the wait for a file that isn't there, a controller that
// has yet to be enabled, to every 32nd read.
const maxBackoff = 5

// A fault is why a file could not be read: an errno, or one of ours. It takes
// two bytes in a slot and becomes an error when somebody asks.
type fault uint16

const (
	gone    fault = 0xff00 + iota // the whole cgroup
	missing                       // not there, or not supported: nothing wrong
	tooLong
	garbled // not what the parser expects
)

func faultOf(err error) fault {
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		return fault(errno)
	}
	return fault(unix.EIO)
}

func (f fault) err() error {
	switch f {
	case gone:
		return ErrGone
	case missing:
		return fs.ErrNotExist
	case tooLong:
		return errTooLong
	case garbled:
		return errors.New("not in the format known to owca")
	}
	return unix.Errno(f)
}

// isMissing says whether an errno means that the kernel doesn't have this:
// no such file; a controller that was disabled or a pressure file that was
// hidden (cgroup.pressure) since it was opened; pressure turned off at boot.
func (f fault) isMissing() bool {
	switch unix.Errno(f) {
	case unix.ENOENT, unix.ENODEV, unix.EOPNOTSUPP:
		return true
	}
	return f == missing
}

// isGone is isMissing for the files that every cgroup has as long as it lives
// (cgroup.threads: since Linux 4.14). On its way out it loses them first, and
// its directory last.
func (f fault) isGone() bool {
	return f == gone || unix.Errno(f) == unix.ENOENT || unix.Errno(f) == unix.ENODEV
}

// Path returns the path that the Group was opened by.
func (g *Group) Path() string { return g.path }

// Dir returns the cgroup's directory in the hierarchy of a v1 controller if
// that is mounted, otherwise in v2's; "" if it is in neither.
func (g *Group) Dir(controller string) string {
	h := g.tree.v1(controller)
	if h < 0 {
		h = g.tree.v2()
	}
	if h < 0 || g.inodes[h] == 0 {
		return ""
	}
	rel, _ := g.tree.hierarchies[h].rel(g.path)
	return g.tree.hierarchies[h].Dir + rel
}

// Files returns how many files the Group keeps open.
func (g *Group) Files() int { return g.files }

// Close closes the Group's files. Closing it again does nothing.
func (g *Group) Close() error {
	for i := range g.slots {
		g.drop(&g.slots[i])
	}
	delete(g.tree.groups, g)
	g.closed = true
	return nil
}

// drop closes a slot's file, if it is open.
func (g *Group) drop(sl *slot) {
	if sl.fd < 0 {
		return
	}
	_ = unix.Close(int(sl.fd))
	sl.fd = -1
	g.files--
	g.tree.files--
}

// Read reads the files of these sets and fills their fields of s: what is not
// there, or could not be read (see Unread), is absent. The one error is that
// the cgroup was removed, which wraps [ErrGone] and leaves all fields of these
// sets absent, or that the Group is closed. In the steady state Read does not
// allocate.
//
// A file that is missing is looked for again, but not at each Read.
func (g *Group) Read(s *Stat, sets Set) error {
	s.Clear(sets)
	s.filled = true
	if g.closed {
		return fmt.Errorf("cgroup %q: %w", g.path, fs.ErrClosed)
	}
	t := g.tree
	t.count()
	for i := range t.sources {
		src := &t.sources[i]
		if src.set&sets == 0 || src.unless >= 0 && g.inodes[src.unless] != 0 {
			continue
		}
		sl := &g.slots[i]
		if sl.skip > 0 {
			sl.skip--
			continue
		}
		sl.fault = g.read(s, src, sl)
		if sl.fault == gone {
			t.closeDirs()
			s.Clear(sets)
			return fmt.Errorf("cgroup %q: %w", g.path, ErrGone)
		}
	}
	t.closeDirs()
	return nil
}

// read reads one file into s.
func (g *Group) read(s *Stat, src *source, sl *slot) fault {
	t := g.tree
	if src.hierarchy == t.blkio && src.set == IO && t.counts(src) == no {
		g.drop(sl)
		return missing // the file would have no line of any disk
	}
	if sl.fd >= 0 {
		b, f := t.pread(int(sl.fd))
		if f != fault(unix.ENODEV) {
			if t.files > t.KeepFiles-t.shortfall {
				g.drop(sl)
			}
			if f != 0 {
				return f
			}
			return t.parsed(s, src, b)
		}
		// The file is gone: with its cgroup, or with its controller. The
		// directory tells.
		g.drop(sl)
	}
	fd, f := g.open(src)
	if f != 0 {
		return g.later(sl, f)
	}
	b, f := t.pread(fd)
	if f.isMissing() || src.set&t.KeepSets == 0 || !t.mayKeep() {
		_ = unix.Close(fd)
	} else {
		sl.fd = int32(fd)
		g.files++
		t.files++
	}
	if f != 0 {
		return g.later(sl, f)
	}
	sl.backoff = 0
	return t.parsed(s, src, b)
}

// later puts off the next attempt.
func (g *Group) later(sl *slot, f fault) fault {
	if f == gone {
		return f
	}
	if e := unix.Errno(f); e == unix.EMFILE || e == unix.ENFILE {
		return f
	}
	sl.skip = 1<<sl.backoff - 1
	sl.backoff = min(sl.backoff+1, maxBackoff)
	if f.isMissing() {
		return missing
	}
	return f
}

func (g *Group) open(src *source) (int, fault) {
	dir, f := g.tree.dir(&g.place, src.hierarchy)
	if f != 0 {
		return -1, f
	}
	fd, errno := g.tree.openSource(dir, src)
	return fd, fault(errno)
}

// openSource opens a source's file in the directory of a cgroup.
func (t *Tree) openSource(dir int, src *source) (int, unix.Errno) {
	fd, errno := t.openat(dir, src.name, unix.O_RDONLY)
	if errno == unix.ENOENT && src.older != nil {
		fd, errno = t.openat(dir, src.older, unix.O_RDONLY)
	}
	return fd, errno
}

func (t *Tree) parsed(s *Stat, src *source, b []byte) fault {
	if !src.parse(s, src.field, b) {
		return garbled
	}
	if src.hierarchy == t.blkio && src.set == IO {
		if _, ok := s.Get(src.field); !ok && t.counting[ioIndex(src)].answer == yes {
			s.Set(src.field, 0)
			s.Set(src.field+1, 0)
		}
	}
	return 0
}

// An ioCount remembers whether a v1 host counts I/O, in bytes or in operations.
type ioCount struct {
	answer answer
	ask    int // how many more times to take no for an answer
}

type answer uint8

const (
	unknown answer = iota
	yes
	no
)

func ioIndex(src *source) int {
	if src.field == IOReads {
		return 1
	}
	return 0
}

// counts says whether v1's blkio counts at all: since Linux 6.10 the throttle
// policy, which does the counting, is off for a disk until somebody sets a limit
// on it. The file of the top cgroup has a line for each disk that it is on for,
// and those of others for some of these, because a cgroup's blkcg_gq is made
// after its parent's (blkg_create). Yes is for ever; no is asked again when each
// Group has had its turn some ten times.
func (t *Tree) counts(src *source) answer {
	c := &t.counting[ioIndex(src)]
	if c.answer == yes {
		return yes
	}
	if c.ask > 0 {
		c.ask--
		return c.answer
	}
	c.answer, c.ask = unknown, 0
	t.path = append(append(t.path[:0], t.hierarchies[t.blkio].Dir...), 0)
	dir, errno := t.openat(unix.AT_FDCWD, t.path, unix.O_PATH|unix.O_DIRECTORY)
	if errno != 0 {
		return unknown
	}
	defer unix.Close(dir) //nolint:errcheck // O_PATH
	fd, errno := t.openSource(dir, src)
	if errno != 0 {
		return unknown
	}
	defer unix.Close(fd) //nolint:errcheck // read only
	b, f := t.pread(fd)
	switch {
	case f != 0:
		return unknown
	case bytes.Contains(b, []byte(" Read ")):
		c.answer = yes
	default:
		c.answer, c.ask = no, 10*len(t.groups)
	}
	return c.answer
}

// Unread returns the sets of which some file is there and yet could not be
// read, or not be understood, when last tried: compare it with the one before
// to report a problem once.
func (g *Group) Unread() Set {
	var sets Set
	for i := range g.slots {
		if f := g.slots[i].fault; f != 0 && f != missing {
			sets |= g.tree.sources[i].set
		}
	}
	return sets
}

// Problems returns what Unread is about as joined [fs.PathError]s, nil if there
// is nothing. A missing file is no problem.
func (g *Group) Problems() error {
	var list []error
	for i := range g.slots {
		f := g.slots[i].fault
		if f == 0 || f == missing {
			continue
		}
		src := &g.tree.sources[i]
		h := &g.tree.hierarchies[src.hierarchy]
		rel, _ := h.rel(g.path)
		name := string(bytes.TrimRight(src.name, "\x00"))
		list = append(list, &fs.PathError{Op: "read", Path: h.Dir + rel + "/" + name, Err: f.err()})
	}
	return errors.Join(list...)
}

// Pids returns the processes of the cgroup itself, without those of the
// cgroups below, in buf, which grows as needed. If it has none in the
// hierarchy that matters most, the others are asked. Processes that our pid
// namespace doesn't show are left out.
func (g *Group) Pids(buf []int) ([]int, error) {
	return g.ids(buf, "cgroup.procs\x00", "cgroup.procs\x00", false)
}

// Threads is like Pids, for the threads.
func (g *Group) Threads(buf []int) ([]int, error) {
	return g.ids(buf, "tasks\x00", "cgroup.threads\x00", false)
}

func (g *Group) ids(buf []int, v1, v2 string, below bool) ([]int, error) {
	buf = buf[:0]
	if g.closed {
		return buf, fmt.Errorf("cgroup %q: %w", g.path, fs.ErrClosed)
	}
	t := g.tree
	defer t.closeDirs()
	var problem fault
	for _, h := range t.list {
		if g.inodes[h] == 0 {
			continue
		}
		name := v1
		if t.hierarchies[h].Version == V2 {
			name = v2
		}
		var f fault
		if buf, f = g.idsIn(buf, h, name, below); f.isGone() {
			return buf[:0], fmt.Errorf("cgroup %q: %w", g.path, ErrGone)
		} else if f != 0 {
			problem = f
			buf = buf[:0]
		} else if len(buf) > 0 {
			return buf, nil
		}
	}
	if problem != 0 {
		return buf, fmt.Errorf("listing cgroup %q: %w", g.path, problem.err())
	}
	return buf, nil
}

func (g *Group) idsIn(buf []int, h int, name string, below bool) ([]int, fault) {
	t := g.tree
	dir, f := t.dir(&g.place, h)
	if f == 0 {
		buf, f = t.idsOf(buf, dir, name)
	}
	if f == 0 && below {
		buf, f = t.idsBelow(buf, dir, name, 0)
	}
	return buf, f
}

// idsOf appends the ids in a file of the cgroup whose directory this is.
func (t *Tree) idsOf(buf []int, dir int, name string) ([]int, fault) {
	t.path = append(t.path[:0], name...)
	fd, errno := t.openat(dir, t.path, unix.O_RDONLY)
	if errno != 0 {
		return buf, fault(errno)
	}
	defer unix.Close(fd) //nolint:errcheck // read only
	// Unlike the others these files are made piece by piece: read on to the
	// end. A piece may end within a number.
	p := idParser{ids: buf}
	for off := int64(0); ; {
		n, err := pread(fd, t.buf, off)
		if err != nil {
			return p.ids, faultOf(err)
		}
		if n == 0 {
			break
		}
		if !p.parse(t.buf[:n]) {
			return p.ids, garbled
		}
		off += int64(n)
	}
	if p.digits {
		return p.ids, garbled
	}
	return p.ids, 0
}

// An idParser parses cgroup.procs, cgroup.threads and tasks, one number a
// line, in pieces. A process of another pid namespace is 0 there.
type idParser struct {
	ids    []int
	n      int
	digits bool
}

func (p *idParser) parse(b []byte) bool {
	for _, c := range b {
		switch {
		case c == '\n' && p.digits:
			if p.n > 0 {
				p.ids = append(p.ids, p.n)
			}
			p.n, p.digits = 0, false
		case '0' <= c && c <= '9' && p.n < 1<<27:
			p.n = p.n*10 + int(c-'0')
			p.digits = true
		default:
			return false
		}
	}
	return true
}

func openat(dir int, name []byte, flags int) (int, unix.Errno) {
	for {
		fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(&name[0])), uintptr(flags), 0, 0, 0)
		if errno == 0 {
			return int(fd), 0
		}
		if errno != unix.EINTR {
			return -1, errno
		}
	}
}

func pread(fd int, b []byte, off int64) (int, error) {
	for {
		n, err := unix.Pread(fd, b, off)
		if err != unix.EINTR {
			return n, err
		}
	}
}
