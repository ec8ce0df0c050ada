package resctrl

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Tree is one mount of resctrl, as long as it lasts. One goroutine at a time may
// use it and its groups.
//
// It holds the mount point open. Until [Tree.Close], umount(8) fails with EBUSY; after
// umount -l everything goes on working on what is detached then, only [Tree.Alive] tells,
// and resctrl cannot be mounted again before Close.
type Tree struct {
	// KeepFiles limits how many files the groups keep open to read them; 0 is no limit
	// but the process's (RLIMIT_NOFILE): when that is met, they give back 64, or one in
	// eight if that is more, and never have as many again. Groups beyond the limit
	// open, read and close each. It may be changed at any time.
	KeepFiles int

	mount Mount
	info  *Info

	root   int // mount point; -1 once closed
	status int // info/last_cmd_status, -1 if there is none
	data   int // mon_data of the default group, -1 if there is none
	claim  int // info, locked; -1 without a Claim
	dev    uint64
	ino    uint64

	// domains is how many directories mon_data had when that was looked at last;
	// layout grows when it changes.
	domains int
	layout  int
	groups  map[*Group]struct{} // open
	files   int                 // that they keep
	full    int                 // what the process's limit leaves them; -1 = not known
	unknown unknownCounts

	buf       []byte // of file contents
	euid0     *euid0Writer
	euid0Err  error // why there is none
	located   []byte
	locatedAs Name
	places    threadPlaces // where the kernel does not tell the group of a thread

	// commaDoubts is how many writes of several thread ids in a row failed as they do
	// where the kernel takes one a write (before 6.7).
	commaDoubts int
}

// Open opens a mount and reads what it can do. [ErrGone] if it was unmounted since.
func (m Mount) Open() (_ *Tree, err error) {
	t := &Tree{mount: m, root: -1, status: -1, data: -1, claim: -1, full: -1, groups: make(map[*Group]struct{}), buf: make([]byte, 64<<10)}
	defer func() {
		if err != nil {
			_ = t.Close()
		}
	}()
	if t.root, err = openDir(unix.AT_FDCWD, m.Dir); err != nil {
		return nil, refused(opOpen, m.Dir, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(t.root, &st); err != nil {
		return nil, refused(opOpen, m.Dir, err)
	}
	t.dev, t.ino = st.Dev, st.Ino
	const info, status, data = "info", "info/last_cmd_status", "mon_data"
	if err := unix.Fstatat(t.root, info, &st, 0); err != nil { // sysfs has the empty directory
		return nil, refused(opOpen, info, err)
	}
	if t.status, err = openAt(t.root, status, unix.O_RDONLY); err != nil && err != unix.ENOENT {
		return nil, refused(opOpen, status, err)
	}
	if t.data, err = openDir(t.root, data); err != nil && err != unix.ENOENT {
		return nil, refused(opOpen, data, err)
	}
	if t.info, err = ReadInfo(m.Dir, m.Options); err != nil {
		return nil, err
	}
	// What was read by its path is of what is open.
	if err := t.Alive(); err != nil {
		return nil, err
	}
	return t, nil
}

// Mount returns what was opened.
func (t *Tree) Mount() Mount { return t.mount }

// Info returns what it can do. It is never changed: when a domain comes or goes, which
// reading the [Tree.Schemata] of the default group notices, and so [Tree.ControlGroups],
// there is another one.
func (t *Tree) Info() *Info { return t.info }

// Alive returns nil if the mount is still the one that was opened, [ErrGone] if it
// was unmounted, or another one is mounted there now. It costs one system call or
// two. Call it before each round of [Group.Read]: it also notices that domains came
// or went.
func (t *Tree) Alive() error {
	if t.root < 0 {
		return fmt.Errorf("resctrl: %s: %w (closed)", t.mount.Dir, ErrGone)
	}
	var st unix.Stat_t
	err := unix.Stat(t.mount.Dir, &st)
	switch {
	case err == unix.ENOENT || err == nil && (st.Dev != t.dev || st.Ino != t.ino):
		// Neither number can be used again while the root is open.
		return fmt.Errorf("resctrl: %s: %w: unmounted, or mounted anew", t.mount.Dir, ErrGone)
	case err != nil:
		return fmt.Errorf("resctrl: whether %s is still mounted: %w", t.mount.Dir, err)
	}
	return t.countDomains()
}

// countDomains notices that there are more or less directories in mon_data. When one
// goes while another comes, each group notices as it reads: its files are gone.
func (t *Tree) countDomains() error {
	if t.data < 0 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(t.data, &st); err != nil {
		return refused(opRead, "mon_data", err)
	}
	// kernfs counts the subdirectories in the links (kernfs_refresh_inode).
	if n := int(st.Nlink); n != t.domains {
		t.domains = n
		t.layout++
	}
	return nil
}

// Close closes all that the tree and its groups have open, without which the file
// system cannot be unmounted. The groups stay. What is called then fails with [ErrGone].
func (t *Tree) Close() error {
	for g := range t.groups {
		g.forget()
	}
	clear(t.groups)
	t.unclaim()
	var first error
	for _, fd := range []*int{&t.data, &t.status, &t.root} {
		if *fd >= 0 {
			if err := unix.Close(*fd); err != nil && first == nil {
				first = fmt.Errorf("resctrl: close %s: %w", t.mount.Dir, err)
			}
		}
		*fd = -1
	}
	if t.euid0 != nil {
		t.euid0.stop()
		t.euid0 = nil
	}
	return first
}

// Groups appends all groups to buf, sorted: the default group first, each control
// group before its monitoring groups.
func (t *Tree) Groups(buf []Name) ([]Name, error) {
	buf, err := listGroups(t.root, buf)
	if err != nil {
		return buf, refused(opRead, ".", err)
	}
	return buf, nil
}

// listGroups is Groups of what is open as root; its error is an errno. A group that
// is removed meanwhile is left out.
func listGroups(root int, buf []Name) ([]Name, error) {
	start := len(buf)
	controls, err := listDirs(root, ".")
	if err != nil {
		return buf, err
	}
	controls = append(controls, "")
	for _, control := range controls {
		if control == "info" || control == "mon_data" || control == "mon_groups" {
			continue
		}
		buf = append(buf, Name{Control: control})
		parent := "mon_groups"
		if control != "" {
			parent = control + "/mon_groups"
		}
		monitors, err := listDirs(root, parent)
		if err != nil && err != unix.ENOENT && err != unix.ENODEV {
			return buf[:start], err
		}
		for _, monitor := range monitors {
			buf = append(buf, Name{Control: control, Monitor: monitor})
		}
	}
	slices.SortFunc(buf[start:], func(a, b Name) int {
		return cmp.Or(strings.Compare(a.Control, b.Control), strings.Compare(a.Monitor, b.Monitor))
	})
	return buf, nil
}

// listDirs lists the directories in one; its error is an errno.
func listDirs(dir int, path string) ([]string, error) {
	entries, err := listDir(dir, path)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, e := range entries {
		if e.IsDir() {
			list = append(list, e.Name())
		}
	}
	return list, nil
}

func listDir(dir int, path string) ([]os.DirEntry, error) {
	fd, err := openDir(dir, path)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	entries, err := f.ReadDir(-1)
	_ = f.Close() // read only
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		return nil, errno
	}
	return entries, err
}

// Create makes a group. Errors: fs.ErrExist, [ErrNoCLOSID], [ErrNoRMID],
// [ErrLimbo], fs.ErrPermission, unix.EROFS; errors.ErrUnsupported where there cannot be
// such a group; [ErrGone] for a monitoring group of a control group that does not exist.
func (t *Tree) Create(n Name) error {
	if err := checkName(n); err != nil {
		return err
	}
	if n == (Name{}) {
		return &Error{Op: string(opMkdir), Path: n.String(), Err: unix.EEXIST}
	}
	// mkdir appends to what last_cmd_status says.
	before := t.readStatus()
	err := unix.Mkdirat(t.root, n.Path(), 0o755)
	if err == nil {
		return nil
	}
	e := t.refusedSaying(opMkdir, n.Path(), "", before, err)
	switch {
	case n.Monitor == "" && err == unix.EPERM && t.info.CLOSIDs() == 0:
		e.Err = fmt.Errorf("%w: nothing can be allocated on this host (%w)", errors.ErrUnsupported, err)
	case n.Monitor != "" && t.info.RMIDs() == 0 && (err == unix.ENOENT || err == unix.EPERM):
		e.Err = fmt.Errorf("%w: nothing can be monitored on this host (%w)", errors.ErrUnsupported, err)
	case err == unix.ENOSPC && !errors.Is(e.Err, ErrNoCLOSID) && !errors.Is(e.Err, ErrNoRMID):
		// No text: the kernel has none, or its buffer is full. The numbers tell.
		sentinel := ErrNoRMID
		if groups, listErr := t.Groups(nil); listErr == nil && n.Monitor == "" && countControls(groups) >= t.info.CLOSIDs() {
			sentinel = ErrNoCLOSID
		}
		e.Err = fmt.Errorf("%w (%w)", sentinel, err)
	}
	return e
}

func countControls(groups []Name) (n int) {
	for _, g := range groups {
		if g.Monitor == "" {
			n++
		}
	}
	return n
}

// Remove removes a group that is ours; fs.ErrPermission if it is not, or if a
// monitoring group in it is not, which would end with it. Its threads go to the default
// group, those of a monitoring group to its control group. A group that does not
// exist is no error.
func (t *Tree) Remove(n Name) error {
	if err := checkName(n); err != nil {
		return err
	}
	foreign := func(which Name) error {
		return &Error{Op: string(opRmdir), Path: n.String(), Err: fmt.Errorf("%w: %s was not made by owca", fs.ErrPermission, printable(which.String()))}
	}
	if !n.Ours() {
		return foreign(n)
	}
	if n.Monitor == "" {
		monitors, err := listDirs(t.root, n.Control+"/mon_groups")
		if err != nil && err != unix.ENOENT {
			return refused(opRead, n.Control+"/mon_groups", err)
		}
		for _, monitor := range monitors {
			if m := (Name{Control: n.Control, Monitor: monitor}); !m.Ours() {
				return foreign(m)
			}
		}
	}
	return t.rmdir(n)
}

func (t *Tree) rmdir(n Name) error {
	if err := unix.Unlinkat(t.root, n.Path(), unix.AT_REMOVEDIR); err != nil && err != unix.ENOENT {
		return refused(opRmdir, n.Path(), err)
	}
	return nil
}

// RemoveAll removes every group, whoever made it. The error joins those of the groups
// that stay.
func (t *Tree) RemoveAll() error {
	groups, err := t.Groups(nil)
	if err != nil {
		return err
	}
	var problems []error
	for _, n := range groups {
		// Those in other control groups go with them.
		if (n.Control == "") != (n.Monitor == "") {
			if err := t.rmdir(n); err != nil {
				problems = append(problems, err)
			}
		}
	}
	return errors.Join(problems...)
}

// Rename moves a monitoring group, with its threads and counts, into another
// control group (Linux 6.5). errors.ErrUnsupported where the kernel cannot; fs.ErrExist;
// [ErrGone] if either group does not exist; fs.ErrPermission if it monitors CPUs.
func (t *Tree) Rename(from, to Name) error {
	for _, n := range []Name{from, to} {
		if err := checkName(n); err != nil {
			return err
		}
		if n.Monitor == "" {
			return fmt.Errorf("resctrl: %w: rename %s to %s: both must be monitoring groups", fs.ErrInvalid, printable(from.String()), printable(to.String()))
		}
	}
	// kernfs takes no flags (kernfs_iop_rename).
	err := unix.Renameat(t.root, from.Path(), t.root, to.Path())
	if err == nil {
		return nil
	}
	e := t.refusedSaying(opRename, from.Path(), to.Path(), "", err)
	// Before 6.5 kernfs says EPERM without asking resctrl, which always has a reason:
	// "Cannot move a MON group that monitors CPUs".
	if err == unix.EPERM && !strings.Contains(e.Status, "MON") {
		e.Status = ""
		e.Err = fmt.Errorf("%w by this kernel, Linux 6.5 and later can (%w)", errors.ErrUnsupported, err)
	}
	return e
}

// read reads a file whole into the tree's buffer, which the result is a part of. Its
// error is an errno.
func (t *Tree) read(path string) ([]byte, error) {
	fd, err := openAt(t.root, path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd) //nolint:errcheck // read only
	n := 0
	for {
		if n == len(t.buf) {
			t.buf = append(t.buf, make([]byte, len(t.buf))...)
		}
		k, err := pread(fd, t.buf[n:], int64(n))
		if err != nil {
			return nil, err
		}
		if k == 0 {
			return t.buf[:n], nil
		}
		n += k
	}
}

// Schemata reads those of a control group; nil where nothing can be allocated. Those
// of the default group have all domains that are online: [Tree.Info] knows them then.
func (t *Tree) Schemata(control string) (Schemata, error) {
	n := Name{Control: control}
	if err := checkName(n); err != nil {
		return nil, err
	}
	path := below(n, "schemata")
	b, err := t.read(path)
	switch {
	case err == unix.ENOENT && t.root >= 0 && t.info.CLOSIDs() == 0:
		return nil, nil
	case err != nil:
		return nil, refused(opRead, path, err)
	}
	s, err := t.info.Parse(string(b))
	if err != nil {
		return nil, fmt.Errorf("resctrl: %s: %w", printable(path), err)
	}
	if control == "" {
		t.info = t.info.withDomains(s)
	}
	return s, nil
}

// SetSchemata writes all lines at once, so that all or none of them take effect,
// and returns what is in effect then; [ErrReadBack] if only that failed. Nothing is
// checked before. Without lines nothing is written.
//
// All or none is not what the kernel does with a bandwidth in MBps (mba_MBps): each
// value counts as soon as it has read it, whatever it refuses behind that. What was
// there before is written back then, all of the bandwidth, but until then the new
// values are in effect; and if that fails, too, the error joins both.
func (t *Tree) SetSchemata(control string, s Schemata) (effect Schemata, err error) {
	if err := checkName(Name{Control: control}); err != nil {
		return nil, err
	}
	if len(s) == 0 {
		return t.Schemata(control)
	}
	// With mba_MBps the kernel keeps a bandwidth as soon as it has read it, whatever it
	// refuses behind that (parse_bw): what was there is written back.
	var old Schemata
	for _, l := range s {
		if r := t.info.Resource(l.Resource); r != nil && r.Unit == MBps {
			before, err := t.Schemata(control)
			if err != nil {
				return nil, err
			}
			for _, l := range before {
				if l.Resource == r.Name {
					old = append(old, l)
				}
			}
		}
	}
	if err := t.writeLines(control, s); err != nil {
		if old != nil && isErrno(err, unix.EINVAL) {
			err = errors.Join(err, t.writeLines(control, old))
		}
		return nil, err
	}
	if effect, err = t.Schemata(control); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrReadBack, err)
	}
	return effect, nil
}

// writeLines is one write.
func (t *Tree) writeLines(control string, s Schemata) error {
	path := below(Name{Control: control}, "schemata")
	fd, err := openAt(t.root, path, unix.O_WRONLY)
	if err != nil {
		return refused(opOpen, path, err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing is left to be written
	text := s.Append(nil)
	if err := writeOnce(fd, text); err != nil {
		return t.refusedSaying(opWrite, path, strings.TrimSuffix(string(text), "\n"), "", err)
	}
	return nil
}

// below returns the path of a file in a group.
func below(n Name, file string) string {
	if n == (Name{}) {
		return file
	}
	return n.Path() + "/" + file
}
