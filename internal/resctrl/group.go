package resctrl

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Group reads what a group used; its files are open as long as there are not too
// many.
type Group struct {
	tree *Tree
	name Name

	ino     uint64 // of its directory: a group made anew is another
	layout  int    // of the tree, when the domains were listed
	domains []groupDomain
	kept    bool // the files are open
	closed  bool
}

// groupDomain is a directory of mon_data.
type groupDomain struct {
	Domain
	dir   string            // below the group: "mon_data/mon_L3_00"
	has   [len(events)]bool // the host has the event
	files [len(events)]int
}

// absent is in place of a descriptor that is not open.
const absent = -1

// events are the files of Usage, in its order.
var events = [...]string{"llc_occupancy", "mbm_total_bytes", "mbm_local_bytes"}

// Count is a reading that may be absent: the kernel had none ("Unavailable",
// "Unassigned", "Error", or what [Tree.Unknown] tells), or the host has no such event.
type Count struct {
	N  uint64
	OK bool
}

// Domain is where a cache is shared.
type Domain struct {
	Resource string // "L3"
	ID       int    // of the cache, as in schemata
	// Node is the sub-NUMA node within it (mon_sub_L3_NN), -1 for all of the cache.
	Node int
}

// Usage is what a group used in one domain since it was made: a group and the
// monitoring groups that are in it now.
type Usage struct {
	Domain
	Occupancy Count // llc_occupancy: bytes, now
	Total     Count // mbm_total_bytes
	Local     Count // mbm_local_bytes: from the domain's own memory
}

// Open opens the files of a group's mon_data. [ErrGone] if there is no such group;
// errors.ErrUnsupported if nothing can be monitored.
func (t *Tree) Open(n Name) (*Group, error) {
	if err := checkName(n); err != nil {
		return nil, err
	}
	g := &Group{tree: t, name: n}
	ino, err := g.inode()
	if err != nil {
		return nil, refused(opOpen, n.String(), err)
	}
	g.ino = ino
	if err := g.list(); err != nil {
		return nil, err
	}
	t.groups[g] = struct{}{}
	return g, nil
}

// Name returns the group's name; it follows a [Tree.Rename] through [Group.Renamed].
func (g *Group) Name() Name { return g.name }

// Renamed tells that the group has been renamed; what is open stays open.
func (g *Group) Renamed(n Name) { g.name = n }

// inode returns that of the group's directory; its error is an errno.
func (g *Group) inode() (uint64, error) {
	path := g.name.Path()
	if path == "" {
		path = "."
	}
	var st unix.Stat_t
	if err := unix.Fstatat(g.tree.root, path, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return 0, err
	}
	return st.Ino, nil
}

// list lists the domains anew and opens their files, if they may be kept.
func (g *Group) list() error {
	g.forget()
	g.domains = g.domains[:0]
	// Before they are listed: what changes meanwhile is noticed next time.
	if err := g.tree.countDomains(); err != nil {
		return err
	}
	g.layout = g.tree.layout
	const data = "mon_data"
	entries, err := listDir(g.tree.root, below(g.name, data))
	if err == unix.ENOENT && g.tree.info.RMIDs() == 0 {
		return &Error{Op: string(opOpen), Path: below(g.name, data), Err: fmt.Errorf("%w: nothing can be monitored on this host (%w)", errors.ErrUnsupported, err)}
	}
	if err != nil {
		return refused(opOpen, below(g.name, data), err)
	}
	for _, e := range entries {
		d, ok := parseDomain(e.Name(), -1)
		if !ok || !e.IsDir() {
			continue
		}
		if err := g.listDomain(d, data+"/"+e.Name()); err != nil && err != unix.ENOENT {
			return refused(opOpen, below(g.name, data+"/"+e.Name()), err)
		}
	}
	slices.SortFunc(g.domains, func(a, b groupDomain) int {
		return cmp.Or(strings.Compare(a.Resource, b.Resource), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Node, b.Node))
	})
	if err := g.keep(); err != nil {
		return err
	}
	return g.same()
}

// same looks whether the group is still the one that was opened. Files that are
// open are of that one; those that were opened by its name are if it still is
// afterwards, as no number is used again (kernfs).
func (g *Group) same() error {
	ino, err := g.inode()
	if err != nil {
		g.forget()
		return refused(opRead, g.name.String(), err)
	}
	if ino != g.ino {
		g.forget()
		return &Error{Op: string(opRead), Path: g.name.String(), Err: fmt.Errorf("%w: another group has its name now", ErrGone)}
	}
	return nil
}

// listDomain appends a domain that has one of the events at least, and its nodes. Its
// error is an errno.
func (g *Group) listDomain(d Domain, dir string) error {
	entries, err := listDir(g.tree.root, below(g.name, dir))
	if err != nil {
		return err
	}
	this := groupDomain{Domain: d, dir: dir, files: [len(events)]int{absent, absent, absent}}
	some := false
	for _, entry := range entries {
		if e := slices.Index(events[:], entry.Name()); e >= 0 {
			this.has[e], some = true, true
		}
		node, ok := parseDomain(entry.Name(), d.ID)
		if d.Node >= 0 || !ok || !entry.IsDir() {
			continue
		}
		if err := g.listDomain(node, dir+"/"+entry.Name()); err != nil && err != unix.ENOENT {
			return err
		}
	}
	if some {
		g.domains = append(g.domains, this)
	}
	return nil
}

// parseDomain parses the name of a directory in mon_data, "mon_L3_00", or in that of
// the domain with this id (not -1), "mon_sub_L3_01" (mkdir_mondata_subdir).
func parseDomain(name string, id int) (Domain, bool) {
	prefix := "mon_"
	if id >= 0 {
		prefix = "mon_sub_"
	}
	rest, ok := strings.CutPrefix(name, prefix)
	i := strings.LastIndexByte(rest, '_')
	if !ok || i <= 0 {
		return Domain{}, false
	}
	number, err := strconv.ParseUint(rest[i+1:], 10, 31)
	if err != nil {
		return Domain{}, false
	}
	if id >= 0 {
		return Domain{Resource: rest[:i], ID: id, Node: int(number)}, true
	}
	return Domain{Resource: rest[:i], ID: int(number), Node: -1}, true
}

// keep opens the files of all domains, if there may be so many; otherwise each Read
// opens them.
func (g *Group) keep() error {
	t := g.tree
	need := 0
	for i := range g.domains {
		for _, has := range g.domains[i].has {
			if has {
				need++
			}
		}
	}
	if t.KeepFiles > 0 && t.files+need > t.KeepFiles || t.full >= 0 && t.files+need > t.full {
		return nil
	}
	g.kept = true
	for i := range g.domains {
		d := &g.domains[i]
		for e, has := range d.has {
			if !has {
				continue
			}
			fd, err := g.openEvent(d, e)
			switch {
			case err == unix.EMFILE || err == unix.ENFILE:
				t.giveBack()
				g.forget()
				return nil
			case err != nil:
				g.forget()
				return g.refusedEvent(opOpen, d, e, err)
			}
			d.files[e] = fd
			t.files++
		}
	}
	return nil
}

// spareFiles are left to the rest of the process when the groups have met its limit.
const spareFiles = 64

// giveBack makes the groups close some of their files, as the process has no
// descriptors left. It says whether there were any.
func (t *Tree) giveBack() bool {
	before := t.files
	t.full = max(0, before-max(spareFiles, before/8))
	for g := range t.groups {
		if t.files <= t.full {
			break
		}
		g.forget()
	}
	return t.files < before
}

func eventPath(n Name, d *groupDomain, event int) string {
	return below(n, d.dir) + "/" + events[event]
}

func (g *Group) openEvent(d *groupDomain, event int) (int, error) {
	return openAt(g.tree.root, eventPath(g.name, d, event), unix.O_RDONLY)
}

func (g *Group) refusedEvent(op operation, d *groupDomain, event int, err error) error {
	return refused(op, eventPath(g.name, d, event), err)
}

// forget closes the files.
func (g *Group) forget() {
	for i := range g.domains {
		for e, fd := range g.domains[i].files {
			if fd != absent {
				_ = unix.Close(fd) // read only
				g.domains[i].files[e] = absent
				g.tree.files--
			}
		}
	}
	g.kept = false
}

// Read reads all events of all domains, into list, which it returns; it belongs to
// the caller. The order is the same as long as the domains are. A domain that
// came or went offline is noticed, after the next [Tree.Alive]. What the kernel says in
// place of a count makes that one absent; words that are not known are kept for
// [Tree.Unknown]. [ErrGone] if the group does not exist any more, even if there is another
// one of its name.
func (g *Group) Read(list []Usage) ([]Usage, error) {
	if g.closed || g.tree.root < 0 {
		return list[:0], refused(opRead, g.name.String(), unix.EBADF)
	}
	list, err := g.readOnce(list, g.layout != g.tree.layout || len(g.domains) == 0)
	if isErrno(err, unix.EMFILE, unix.ENFILE) && g.tree.giveBack() {
		list, err = g.readOnce(list, true)
	}
	if isErrno(err, unix.ENODEV, unix.ENOENT) {
		// A domain went offline, or the whole group is gone.
		list, err = g.readOnce(list, true)
	}
	if err != nil {
		return list[:0], err
	}
	return list, nil
}

// readOnce reads each file once, of domains that are listed anew if so asked.
func (g *Group) readOnce(list []Usage, again bool) ([]Usage, error) {
	if g.kept && g.tree.KeepFiles > 0 && g.tree.files > g.tree.KeepFiles {
		g.forget()
	}
	var (
		err    error
		opened = g.kept && !again
	)
	switch {
	case again:
		err = g.list()
	case !g.kept:
		err = g.keep()
	}
	if err == nil {
		list, err = g.read(list[:0])
	}
	if err == nil && !opened {
		err = g.same()
	}
	return list, err
}

func (g *Group) read(list []Usage) ([]Usage, error) {
	for i := range g.domains {
		d := &g.domains[i]
		var counts [len(events)]Count
		for e := range counts {
			c, err := g.readEvent(d, e)
			if err != nil {
				return list[:0], err
			}
			counts[e] = c
		}
		list = append(list, Usage{Domain: d.Domain, Occupancy: counts[0], Total: counts[1], Local: counts[2]})
	}
	return list, nil
}

func (g *Group) readEvent(d *groupDomain, event int) (Count, error) {
	if !d.has[event] {
		return Count{}, nil
	}
	fd := d.files[event]
	if fd == absent {
		var err error
		if fd, err = g.openEvent(d, event); err != nil {
			return Count{}, g.refusedEvent(opOpen, d, event, err)
		}
		defer unix.Close(fd) //nolint:errcheck // read only
	}
	b := g.tree.buf[:64]
	n, err := pread(fd, b, 0)
	if err != nil {
		return Count{}, g.refusedEvent(opRead, d, event, err)
	}
	c, ok := parseCount(b[:n])
	if !ok {
		g.tree.unknown.add(g, d, event, b[:n])
	}
	return c, nil
}

// unknownCounts are texts that stood in place of counts.
type unknownCounts struct {
	seen []string
	errs []error // of those that were not told yet
}

// maxUnknown is how many are kept: the kernel has a handful, and each is of 64 bytes
// at most.
const maxUnknown = 16

func (u *unknownCounts) add(g *Group, d *groupDomain, event int, text []byte) {
	if len(u.seen) == maxUnknown || slices.ContainsFunc(u.seen, func(s string) bool { return s == string(text) }) {
		return
	}
	u.seen = append(u.seen, string(text))
	u.errs = append(u.errs, fmt.Errorf("resctrl: %s: %q is no count", printable(eventPath(g.name, d, event)), text))
}

// Unknown joins an error for each text that a [Group.Read] found in place of a count
// for the first time since the last call, and that neither is one nor what the kernels
// known of say; nil if there is none. The 16 first ones of a tree are told.
func (t *Tree) Unknown() error {
	err := errors.Join(t.unknown.errs...)
	t.unknown.errs = nil
	return err
}

// parseCount parses a file of mon_data: a decimal number and a newline, or the word for
// why there is none (rdtgroup_mondata_show).
func parseCount(b []byte) (c Count, ok bool) {
	if len(b) < 2 || b[len(b)-1] != '\n' {
		return Count{}, false
	}
	b = b[:len(b)-1]
	switch string(b) {
	case "Unavailable", "Unassigned", "Error":
		return Count{}, true
	}
	for _, digit := range b {
		if digit < '0' || digit > '9' || c.N > (math.MaxUint64-uint64(digit-'0'))/10 {
			return Count{}, false
		}
		c.N = c.N*10 + uint64(digit-'0')
	}
	c.OK = true
	return c, true
}

// Close closes the files. The group stays.
func (g *Group) Close() error {
	g.forget()
	g.closed = true
	delete(g.tree.groups, g)
	return nil
}
