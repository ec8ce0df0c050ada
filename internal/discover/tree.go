package discover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"os"
	"path"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// node is a cgroup: one path in all hierarchies that have it.
type node struct {
	parent   *node
	path     string // "" is the root
	children map[string]*node
	in       uint64 // bit set of hierarchies
	id       identity
	watches  []watch // on its directory, at most one a hierarchy
	events   int32   // watch on its cgroup.events; 0 = none
	place    int     // index in tree.nodes

	// live: processes that count are in it; for a unit or container, or below it.
	live bool
	// settled: the watches will tell when live changes.
	settled bool
	below   int   // live nodes strictly below
	found   *node // where a process was seen, if that may be below
	pid     int   // of that process
	visits  uint8
	toScan  bool
	toCheck bool
	removed bool

	// A new cgroup without processes is looked at again, ever less often.
	pollNext time.Time
	pollWait time.Duration

	entry entry // of AutoNode
}

type watch struct {
	wd int32
	h  uint8
}

// deep: what is below the cgroup belongs to it.
func (n *node) deep() bool { return n.id.class == unit || n.id.class == container }

// tree follows the cgroups of a host. Everything happens in update; the kernel
// keeps what happens in between in the inotify queue.
//
// A directory is watched in the first hierarchy that has it. One with children
// that is not part of a task (a slice, /docker, a pod) is watched in all, since
// anything may appear there in any of them; a leaf or a container's inside
// would multiply the watches by the number of controllers for nothing. What no
// watch covers is visited at a pace, each cgroup once per interval.
type tree struct {
	*mounts
	procfs   string
	interval time.Duration
	// enter tells whether a cgroup and what is below it is of interest.
	enter func(path string) bool
	log   *slog.Logger
	self  int
	pid   int // the last that counts was asked for

	root     *node
	nodes    []*node // all but the root, in no order
	watched  map[int32]*node
	inotify  int // -1: none
	budget   int
	limited  bool // the kernel or the budget refused a watch
	warned   map[string]bool
	scans    []*node
	checks   []*node
	polls    []*node
	events   []byte
	stat     []byte  // buffer of readStat
	began    bool    // the first walk is over
	cursor   int     // of the visits, in nodes
	credit   float64 // of visits
	visited  time.Time
	changed  bool // something that tasks are made of
	children []*node
}

func newTree(m *mounts, procfs string, interval time.Duration, enter func(string) bool, log *slog.Logger) *tree {
	t := &tree{
		mounts: m, procfs: procfs, interval: interval, enter: enter, log: log,
		self:    os.Getpid(),
		watched: make(map[int32]*node),
		warned:  make(map[string]bool),
		events:  make([]byte, 64<<10),
		stat:    make([]byte, 1024), // of about 300
		root:    &node{in: allOf(len(m.list))},
		budget:  watchBudget(procfs),
	}
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		fd = -1
		t.warn("cgroups cannot be watched and are looked for at every rescan instead; raise fs.inotify.max_user_instances",
			"error", os.NewSyscallError("inotify_init1", err), "rescan_interval", interval)
	}
	t.inotify = fd
	t.scan(t.root)
	return t
}

// allOf is the set of the first n hierarchies.
func allOf(n int) uint64 { return ^uint64(0) >> (maxHierarchies - n) }

func (t *tree) close() error {
	if t.inotify < 0 {
		return nil
	}
	fd := t.inotify
	t.inotify = -1
	return unix.Close(fd)
}

// warn says a thing once.
func (t *tree) warn(message string, args ...any) {
	if !t.warned[message] {
		t.warned[message] = true
		t.log.Warn(message, args...)
	}
}

// update brings the tree up to date. On an error what is left to do stays
// queued for the next call.
func (t *tree) update(ctx context.Context, now time.Time) error {
	if err := t.readEvents(); err != nil {
		return err
	}
	if t.began {
		t.visit(now)
		t.poll(now)
	}
	for i := 0; len(t.scans) > 0 || len(t.checks) > 0; i++ {
		if i%64 == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		// The tree first: a node is judged by its children.
		if last := len(t.scans) - 1; last >= 0 {
			n := t.scans[last]
			t.scans = t.scans[:last]
			n.toScan = false
			if !n.removed {
				t.scanDir(n)
			}
			continue
		}
		last := len(t.checks) - 1
		n := t.checks[last]
		t.checks = t.checks[:last]
		n.toCheck = false
		if !n.removed {
			t.check(n, now)
		}
	}
	if !t.began {
		t.began, t.visited = true, now
	}
	return nil
}

// scan queues the listing of a directory.
func (t *tree) scan(n *node) {
	if !n.toScan {
		n.toScan = true
		t.scans = append(t.scans, n)
	}
}

// recheck queues the question whether the cgroup has processes.
func (t *tree) recheck(n *node) {
	if n != t.root && n.id.class != inner && !n.toCheck {
		n.toCheck = true
		t.checks = append(t.checks, n)
	}
}

func (t *tree) readEvents() error {
	for t.inotify >= 0 {
		n, err := read(t.inotify, t.events)
		switch {
		case err == unix.EAGAIN:
			return nil
		case err != nil:
			return os.NewSyscallError("read of inotify", err)
		}
		for b := t.events[:n]; ; {
			e, rest, ok := nextEvent(b)
			if !ok {
				break
			}
			t.handle(e)
			b = rest
		}
	}
	return nil
}

func (t *tree) handle(e event) {
	if e.mask&unix.IN_Q_OVERFLOW != 0 {
		t.warn("more cgroup events than fs.inotify.max_queued_events between two looks; all cgroups are read again")
		// What was removed and made again left us with watches on dead inodes.
		for wd := range t.watched {
			t.unwatch(wd)
		}
		t.root.watches = nil
		t.scan(t.root)
		for _, n := range t.nodes {
			n.watches, n.events, n.settled = nil, 0, false
			t.scan(n)
			t.recheck(n)
		}
		return
	}
	n := t.watched[e.wd]
	if n == nil {
		return // of a watch that was removed while this was queued
	}
	if e.wd == n.events {
		if e.mask&unix.IN_IGNORED != 0 {
			delete(t.watched, e.wd)
			n.events = 0
		}
		t.recheck(n)
		return
	}
	h := n.hierarchy(e.wd)
	switch {
	case h < 0:
	case e.mask&unix.IN_IGNORED != 0:
		// The directory has gone by other means than rmdir: unmounted.
		delete(t.watched, e.wd)
		n.dropWatch(h)
		t.scan(n)
	case e.mask&unix.IN_ISDIR == 0:
	case e.mask&(unix.IN_DELETE|unix.IN_MOVED_FROM) != 0:
		if child := n.children[string(e.name)]; child != nil {
			t.lost(child, h)
		}
	case e.mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0:
		first := len(n.children) == 0
		child := t.child(n, e.name)
		if child == nil {
			return
		}
		t.seen(child, h)
		if first {
			t.scan(n) // it may need watching in more hierarchies now
		}
	}
}

func (n *node) hierarchy(wd int32) int {
	for _, w := range n.watches {
		if w.wd == wd {
			return int(w.h)
		}
	}
	return -1
}

// dropWatch forgets the watch, which the caller has removed.
func (n *node) dropWatch(h int) {
	for i, w := range n.watches {
		if int(w.h) == h {
			n.watches = append(n.watches[:i], n.watches[i+1:]...)
			return
		}
	}
}

func (n *node) isWatched(h int) bool {
	for _, w := range n.watches {
		if int(w.h) == h {
			return true
		}
	}
	return false
}

// covered: watches tell of all that happens to the node in the hierarchy. Its
// parent's does too, without which a removal and a new cgroup of the same name
// would leave the node with a watch on what is gone.
func (n *node) covered(h int) bool { return n.isWatched(h) && n.parent.isWatched(h) }

// first is the hierarchy in which the node is watched in any case.
func (n *node) first() int { return bits.TrailingZeros64(n.in) }

func (n *node) has(h int) bool { return h >= 0 && n.in&(1<<h) != 0 }

// child finds or makes a child. It is nil if nobody wants it.
func (t *tree) child(n *node, name []byte) *node {
	if c := n.children[string(name)]; c != nil {
		return c
	}
	p := n.path + "/" + string(name)
	if !t.fits(p) {
		t.warn("a cgroup's path is longer than the kernel can open; it is left out", "parent", n.path)
		return nil
	}
	if !t.enter(p) {
		return nil
	}
	id := identify(p)
	if id.class == helper {
		return nil
	}
	c := &node{parent: n, path: p, id: id, place: len(t.nodes)}
	t.nodes = append(t.nodes, c)
	if n.children == nil {
		n.children = make(map[string]*node)
	}
	n.children[p[len(n.path)+1:]] = c
	// A parent with children is judged differently.
	n.settled = false
	return c
}

// seen notes that the node exists in a hierarchy.
func (t *tree) seen(n *node, h int) {
	if n.in&(1<<h) == 0 {
		n.in |= 1 << h
		n.settled = false
	}
	t.scan(n)
	t.recheck(n)
}

// lost notes that the node no longer exists in a hierarchy, nor what was below.
func (t *tree) lost(n *node, h int) {
	if n.in&(1<<h) == 0 {
		return
	}
	for _, c := range n.children {
		t.lost(c, h)
	}
	n.in &^= 1 << h
	if wd := n.wd(h); wd > 0 {
		t.unwatch(wd)
		n.dropWatch(h)
	}
	if t.list[h].unified && n.events > 0 {
		t.unwatch(n.events)
		n.events = 0
	}
	n.settled = false
	if n == t.root {
		return // visit asks again
	}
	if n.in != 0 {
		t.scan(n) // to be watched in another hierarchy
		t.recheck(n)
		return
	}
	t.setLive(n, false)
	n.removed, n.found = true, nil
	delete(n.parent.children, path.Base(n.path))
	if len(n.parent.children) == 0 {
		t.recheck(n.parent)
	}
	last := t.nodes[len(t.nodes)-1]
	t.nodes[n.place], last.place = last, n.place
	t.nodes = t.nodes[:len(t.nodes)-1]
}

func (n *node) wd(h int) int32 {
	for _, w := range n.watches {
		if int(w.h) == h {
			return w.wd
		}
	}
	return 0
}

func (t *tree) unwatch(wd int32) {
	delete(t.watched, wd)
	// EINVAL: the kernel was faster.
	_, _ = unix.InotifyRmWatch(t.inotify, uint32(wd))
}

// watch adds a watch for the node. 0: none, which is the caller's to make up
// for; err is the file's.
func (t *tree) watch(n *node, file string, mask uint32) (wd int32, err error) {
	if t.inotify < 0 || t.limited {
		return 0, nil
	}
	if len(t.watched) >= t.budget {
		t.limit("more cgroups than half of fs.inotify.max_user_watches; the rest is looked at only at every rescan", nil)
		return 0, nil
	}
	added, err := unix.InotifyAddWatch(t.inotify, file, mask)
	wd = int32(added)
	switch {
	case err == nil:
	case gone(err):
		return 0, err
	case err == unix.ENOSPC || err == unix.ENOMEM:
		t.limit("the kernel refuses more watches; raise fs.inotify.max_user_watches. The rest is looked at only at every rescan", err)
		return 0, nil
	default:
		t.warn("a cgroup cannot be watched; it is looked at only at every rescan", "path", file, "error", err)
		return 0, nil
	}
	// The same inode under two names would be one watch: a hierarchy that is
	// mounted twice, which mounts should not contain. The first keeps it.
	if other := t.watched[wd]; other != nil && other != n {
		return 0, nil
	}
	t.watched[wd] = n
	return wd, nil
}

func (t *tree) limit(message string, err error) {
	t.limited = true
	args := []any{"watches", len(t.watched), "rescan_interval", t.interval}
	if err != nil {
		args = append(args, "error", err)
	}
	t.warn(message, args...)
}

// scanDir lists the node's directory in every hierarchy. The watch comes before
// the listing, so that what appears in between is seen by one of the two.
func (t *tree) scanDir(n *node) {
	before := n.in
	for again := true; again; {
		leaf := len(n.children) == 0 && n != t.root
		for left := before; left != 0; left &= left - 1 {
			h := bits.TrailingZeros64(left)
			if !n.has(h) {
				continue
			}
			if !n.isWatched(h) && (h == n.first() || !leaf && !n.inTask()) {
				wd, err := t.watch(n, t.list[h].dir+n.path, dirMask)
				if err != nil {
					t.lost(n, h)
					continue
				}
				if wd > 0 {
					n.watches = append(n.watches, watch{wd, uint8(h)})
				}
			}
			t.listDir(n, h)
		}
		again = leaf && len(n.children) > 0 && !n.inTask() && !n.removed
	}
}

// inTask: the node's children are part of the same task.
func (n *node) inTask() bool { return n.deep() || n.id.class == inner }

func (t *tree) listDir(n *node, h int) {
	t.children = t.children[:0]
	known := 0
	for _, c := range n.children {
		if c.has(h) {
			known++
		}
	}
	same := 0
	err := t.subdirs(h, n.path, func(name []byte) {
		c := n.children[string(name)]
		if c == nil || !c.has(h) {
			if c = t.child(n, name); c == nil {
				return
			}
			t.seen(c, h)
		} else {
			same++
		}
		t.children = append(t.children, c)
	})
	if err != nil {
		if gone(err) {
			t.lost(n, h)
		} else {
			t.warn("a cgroup directory cannot be read; what is below it may be missing", "path", t.list[h].dir+n.path, "error", err)
		}
		return
	}
	if same == known {
		return
	}
	listed := make(map[*node]bool, len(t.children))
	for _, c := range t.children {
		listed[c] = true
	}
	for _, c := range n.children {
		if c.has(h) && !listed[c] {
			t.lost(c, h)
		}
	}
}

// visit gives every cgroup its turn once per interval: the watches that are
// missing, and the processes where no watch tells of them.
func (t *tree) visit(now time.Time) {
	elapsed := now.Sub(t.visited)
	t.visited = now
	if elapsed <= 0 {
		return
	}
	t.credit += float64(len(t.nodes)+1) * min(1, elapsed.Seconds()/t.interval.Seconds())
	for ; t.credit >= 1; t.credit-- {
		if t.cursor >= len(t.nodes) {
			t.cursor = 0
			t.limited = false // ask again once a round
			if len(t.root.watches) != len(t.list) {
				t.root.in = allOf(len(t.list)) // one may have been mounted again
				t.scan(t.root)
			}
			continue
		}
		n := t.nodes[t.cursor]
		t.cursor++
		n.visits++
		// Hierarchies without a watch are looked at more rarely, if there is
		// one with a watch, and so is whether a process moved away.
		const rarely = 6
		turn := (int(n.visits)+n.place)%rarely == 0
		if !n.covered(n.first()) || turn && bits.OnesCount64(n.in) > len(n.watches) {
			t.scan(n)
		}
		if !n.settled && (turn || !n.live || !exists(n.pid)) {
			t.recheck(n)
		}
	}
}

// exists: as long as the process lives that was seen in a cgroup, it is most
// likely still in it. Asking costs a fiftieth of reading cgroup.procs, for
// which v1 collects and sorts all the pids.
func exists(pid int) bool {
	if pid == 0 {
		return false // in another pid namespace
	}
	_, err := unix.Getpgid(pid)
	return err == nil
}

// poll looks at new cgroups that have no process yet and no watch to tell.
func (t *tree) poll(now time.Time) {
	kept := t.polls[:0]
	for _, n := range t.polls {
		switch {
		case n.removed || n.live || n.settled || n.pollWait > t.interval:
			continue
		case !now.Before(n.pollNext):
			n.pollWait *= 2
			n.pollNext = now.Add(n.pollWait)
			t.recheck(n)
		}
		kept = append(kept, n)
	}
	clear(t.polls[len(kept):])
	t.polls = kept
}

// check finds out whether the node has processes that count.
func (t *tree) check(n *node, now time.Time) {
	v2 := t.unified(n)
	// cgroup.events is about all that is below, too.
	told := v2 >= 0 && (n.deep() || len(n.children) == 0)
	if told && n.events == 0 {
		wd, err := t.watch(n, t.list[v2].dir+n.path+"/cgroup.events", fileMask)
		if err == nil { // else it is gone, and its parent's watch says so
			n.events = wd
		}
	}
	where, found, opaque := t.search(n)
	covered := told && n.events > 0 && n.covered(v2)
	switch {
	case found:
		n.settled = covered && where == v2
	case told:
		n.pid = 0
		populated, err := t.populated(v2, n.path)
		// Somebody is there, but the kernel does not let us see who.
		found = err == nil && populated && opaque
		n.settled = covered && err == nil && (found ||
			// Nobody is, and no process can turn up on the v1 side.
			!populated && n.in == 1<<v2)
	default:
		n.settled = false
	}
	t.setLive(n, found)
	if !found && !n.settled && t.began && n.pollWait == 0 {
		n.pollWait, n.pollNext = 10*time.Millisecond, now
		t.polls = append(t.polls, n)
	}
}

func (t *tree) unified(n *node) int {
	for h := range t.list {
		if t.list[h].unified && n.has(h) {
			return h
		}
	}
	return -1
}

func (t *tree) setLive(n *node, live bool) {
	if n.live == live {
		return
	}
	n.live = live
	t.changed = true
	step := -1
	if live {
		step = 1
	}
	for a := n.parent; a != nil; a = a.parent {
		a.below += step
		if a.below == 0 {
			t.recheck(a) // its own processes count now
		}
	}
}

// search looks for a process that counts, and tells in which hierarchy one is.
// opaque is set if some cgroup would not say.
func (t *tree) search(n *node) (h int, found, opaque bool) {
	if !n.deep() {
		h, found = t.own(n, &opaque)
	} else {
		// Where it was found before, it mostly still is.
		if at := n.found; at != nil && !at.removed {
			h, found = t.own(at, &opaque)
		}
		if !found {
			n.found = nil
			h, found = t.searchBelow(n, n, &opaque)
		}
	}
	if found {
		n.pid = t.pid
	}
	return h, found, opaque
}

func (t *tree) searchBelow(n, at *node, opaque *bool) (int, bool) {
	if h, ok := t.own(at, opaque); ok {
		n.found = at
		return h, true
	}
	for _, c := range at.children {
		if h, ok := t.searchBelow(n, c, opaque); ok {
			return h, true
		}
	}
	return -1, false
}

// own looks for a process in the cgroup itself.
func (t *tree) own(n *node, opaque *bool) (int, bool) {
	for left := n.in; left != 0; left &= left - 1 {
		h := bits.TrailingZeros64(left)
		ok, err := t.processes(h, n.path, t.counts)
		switch {
		case ok:
			return h, true
		case err == nil || gone(err):
		case err == unix.EOPNOTSUPP:
			*opaque = true // a threaded cgroup: cgroups(7), "Thread mode"
		default:
			*opaque = true
			t.warn("cannot see which processes a cgroup has", "path", t.list[h].dir+n.path, "error", err)
		}
	}
	return -1, false
}

// counts reports whether a process makes its cgroup a task: not the agent, and
// no kernel thread.
func (t *tree) counts(pid int) bool {
	t.pid = pid
	if pid == t.self {
		return false
	}
	// Kernel threads have the process group of pid 0, which is 0. So has a
	// process whose group's leader is outside of our pid namespace.
	if pgid, err := unix.Getpgid(pid); err == nil && pgid > 0 || pid == 0 {
		return true
	}
	b, err := t.readStat(pid)
	if err != nil {
		// Gone meanwhile, or hidden from us (hidepid): it was in the cgroup,
		// and if it is gone the next look will tell.
		return true
	}
	kernel, err := isKernelThread(b)
	if err != nil {
		t.warn("cannot tell kernel threads from processes", "pid", pid, "error", err)
	}
	return !kernel
}

// readStat reads /proc/PID/stat. Where init has not called setsid(2), as in
// small images, all processes come here, so it does not allocate either.
func (t *tree) readStat(pid int) ([]byte, error) {
	t.stat = append(t.stat[:0], t.procfs...)
	t.stat = append(t.stat, '/')
	t.stat = strconv.AppendInt(t.stat, int64(pid), 10)
	t.stat = append(t.stat, "/stat\x00"...)
	fd, err := openat(t.stat, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	t.stat = t.stat[:cap(t.stat)]
	n, err := read(fd, t.stat)
	return t.stat[:max(n, 0)], err
}

// isKernelThread reads flags, the ninth field of /proc/PID/stat:
//
//	2 (kthreadd) S 0 0 0 0 -1 2129984 0 …
func isKernelThread(stat []byte) (bool, error) {
	const pfKthread = 0x00200000 // PF_KTHREAD, include/linux/sched.h
	// The name may contain anything, ") " too, but nothing behind it can.
	field := 2
	for value := range bytes.FieldsSeq(stat[bytes.LastIndexByte(stat, ')')+1:]) {
		if field++; field < 9 {
			continue
		}
		flags, err := strconv.ParseUint(string(value), 10, 64)
		if err != nil {
			return false, fmt.Errorf("/proc/PID/stat: flags: %w", err)
		}
		return flags&pfKthread != 0, nil
	}
	return false, errors.New("/proc/PID/stat is cut off")
}
