package discover

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hierarchy is a mounted cgroup hierarchy.
type hierarchy struct {
	dir     string // mount point, without a "/" at the end
	unified bool   // cgroup v2
	kernfs  bool   // really cgroupfs: the link count of a directory is 2 + its sub-directories
}

// mounts are the cgroup hierarchies of the host. A cgroup is named by its path
// ("" is the root) and a hierarchy by its index. Not for concurrent use: paths
// and contents share two buffers, so that a look at the host allocates nothing.
type mounts struct {
	list []hierarchy
	path []byte
	buf  []byte
	stat unix.Statx_t
}

// maxHierarchies is the width of node.in. The kernel has at most 16
// controllers, each in one hierarchy, and v2; the rest is for named ones.
const maxHierarchies = 64

func openMounts(dirs []string) (*mounts, error) {
	if len(dirs) == 0 {
		return nil, fmt.Errorf("no cgroup hierarchy is mounted: %w", errors.ErrUnsupported)
	}
	if len(dirs) > maxHierarchies {
		return nil, fmt.Errorf("%d cgroup hierarchies are mounted, more than the %d that are supported", len(dirs), maxHierarchies)
	}
	m := &mounts{path: make([]byte, 0, unix.PathMax), buf: make([]byte, 32<<10)}
	var failed []error
	readable := false
	for _, dir := range dirs {
		h := hierarchy{dir: strings.TrimRight(dir, "/")}
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			failed = append(failed, &fs.PathError{Op: "statfs", Path: dir, Err: err})
		} else {
			readable = true
			h.unified = st.Type == unix.CGROUP2_SUPER_MAGIC
			h.kernfs = h.unified || st.Type == unix.CGROUP_SUPER_MAGIC
		}
		if _, err := os.Stat(dir + "/cgroup.controllers"); err == nil {
			h.unified = true
		}
		m.list = append(m.list, h)
	}
	if !readable {
		return nil, errors.Join(failed...)
	}
	return m, nil
}

// fits reports whether the kernel can be asked for the cgroup by its path:
// longer ones exist, but no open(2) reaches them.
func (m *mounts) fits(path string) bool {
	for i := range m.list {
		if len(m.list[i].dir)+len(path)+len("/cgroup.events\x00") > unix.PathMax {
			return false
		}
	}
	return true
}

// name puts the path of a cgroup, or of a file of it, into m.path, for a system
// call that takes a NUL-terminated one: os and unix would allocate it twice.
func (m *mounts) name(h int, path, file string) {
	m.path = append(m.path[:0], m.list[h].dir...)
	m.path = append(m.path, path...)
	if file != "" {
		m.path = append(m.path, '/')
		m.path = append(m.path, file...)
	}
	m.path = append(m.path, 0)
}

// cwd is ignored by the system calls that take it, as the path is absolute.
var cwd = unix.AT_FDCWD // a variable: as a constant it is no uintptr

// open is openat(2) of a cgroup (file "") or of a file of it.
func (m *mounts) open(h int, path, file string, flags int) (fd int, err error) {
	m.name(h, path, file)
	return openat(m.path, flags)
}

// openat takes an absolute path that ends with a NUL.
func openat(path []byte, flags int) (fd int, err error) {
	for {
		r, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(cwd), uintptr(unsafe.Pointer(&path[0])),
			uintptr(flags|unix.O_CLOEXEC|unix.O_NOFOLLOW), 0, 0, 0)
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR:
		default:
			return -1, errno
		}
	}
}

// childless reports whether the kernel tells, without the directory being
// read, that nothing is below the cgroup: cgroupfs keeps the link count at 2 +
// sub-directories (kernfs_refresh_inode). Reading one formats the names of some
// 60 files, and most have no children. An error is one of statx(2); before
// kernel 4.11 that is ENOSYS.
func (m *mounts) childless(h int, path string) (bool, error) {
	if !m.list[h].kernfs {
		return false, nil
	}
	m.name(h, path, "")
	_, _, errno := unix.Syscall6(unix.SYS_STATX, uintptr(cwd), uintptr(unsafe.Pointer(&m.path[0])),
		unix.AT_SYMLINK_NOFOLLOW, unix.STATX_NLINK, uintptr(unsafe.Pointer(&m.stat)), 0)
	if errno != 0 {
		return false, errno
	}
	return m.stat.Mask&unix.STATX_NLINK != 0 && m.stat.Nlink == 2, nil
}

func read(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// gone reports whether the cgroup is no longer there, as the errors of opening
// and of reading an open file of a removed one tell.
func gone(err error) bool {
	return err == unix.ENOENT || err == unix.ENODEV || err == unix.ENOTDIR
}

// exists looks for the cgroup in one hierarchy.
func (m *mounts) exists(h int, path string) (bool, error) {
	fd, err := m.open(h, path, "", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		if gone(err) {
			err = nil
		}
		return false, err
	}
	return true, unix.Close(fd)
}

// subdirs calls each with the names of the cgroups right below path. The name
// is valid during the call only, which must not use m.
func (m *mounts) subdirs(h int, path string, each func(name []byte)) error {
	if none, err := m.childless(h, path); none || err != nil && gone(err) {
		return err
	}
	fd, err := m.open(h, path, "", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for {
		n, err := unix.ReadDirent(fd, m.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return err
		}
		for b := m.buf[:n]; ; {
			name, typ, rest, ok := dirent(b)
			if !ok {
				break
			}
			b = rest
			if string(name) == "." || string(name) == ".." {
				continue
			}
			if typ == unix.DT_UNKNOWN {
				var st unix.Stat_t
				if unix.Fstatat(fd, string(name), &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
					typ = unix.DT_DIR
				}
			}
			if typ == unix.DT_DIR {
				each(name)
			}
		}
	}
}

// dirent takes the first struct linux_dirent64 (getdents64(2)) off b:
//
//	u64 d_ino; s64 d_off; u16 d_reclen; u8 d_type; char d_name[]
func dirent(b []byte) (name []byte, typ byte, rest []byte, ok bool) {
	const header = 8 + 8 + 2 + 1
	if len(b) < header {
		return nil, 0, nil, false
	}
	size := int(binary.NativeEndian.Uint16(b[16:]))
	if size < header || size > len(b) {
		return nil, 0, nil, false
	}
	name = b[header:size]
	if i := bytes.IndexByte(name, 0); i >= 0 {
		name = name[:i]
	}
	return name, b[18], b[size:], true
}

// populated reads cgroup.events of a v2 cgroup: whether a process lives in it
// or below it.
func (m *mounts) populated(h int, path string) (bool, error) {
	fd, err := m.open(h, path, "cgroup.events", unix.O_RDONLY)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	n, err := read(fd, m.buf)
	if err != nil {
		return false, err
	}
	yes, ok := parsePopulated(m.buf[:n])
	if !ok {
		return false, fmt.Errorf("no populated line in cgroup.events of %q", path)
	}
	return yes, nil
}

// parsePopulated finds the populated line of cgroup.events (kernel 4.2):
//
//	populated 1
//	frozen 0
func parsePopulated(b []byte) (yes, ok bool) {
	for len(b) > 0 {
		line := b
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			line, b = b[:i], b[i+1:]
		} else {
			b = nil
		}
		if value, found := bytes.CutPrefix(line, []byte("populated ")); found {
			switch string(value) {
			case "1":
				return true, true
			case "0":
				return false, true
			}
			return false, false
		}
	}
	return false, false
}

// processes reads cgroup.procs until counts accepts a pid, and reports whether
// it did. The pid is 0 for a process of another pid namespace.
func (m *mounts) processes(h int, path string, counts func(pid int) bool) (bool, error) {
	fd, err := m.open(h, path, "cgroup.procs", unix.O_RDONLY)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	var s pidScanner
	for {
		// Small, because the first pid mostly decides; what is behind it stays unread.
		n, err := read(fd, m.buf[:4096])
		if err != nil || n <= 0 {
			return false, err
		}
		for b := m.buf[:n]; ; {
			pid, rest, ok := s.next(b)
			if !ok {
				break
			}
			if counts(pid) {
				return true, nil
			}
			b = rest
		}
	}
}

// pidScanner takes the numbers off cgroup.procs, one a line, whose text may
// come in pieces that end anywhere. A line that is no number is left out.
type pidScanner struct {
	pid    int
	digits bool
	bad    bool
}

func (s *pidScanner) next(b []byte) (pid int, rest []byte, ok bool) {
	for i, c := range b {
		switch {
		case c == '\n':
			pid, ok = s.pid, s.digits && !s.bad
			*s = pidScanner{}
			if ok {
				return pid, b[i+1:], true
			}
		case c >= '0' && c <= '9' && s.pid <= 1<<24:
			s.pid, s.digits = s.pid*10+int(c-'0'), true
		default:
			s.bad = true
		}
	}
	return 0, nil, false
}
