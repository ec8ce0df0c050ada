package cgroup

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// ThreadsBelow is like Threads, with those of the cgroups below: a service or
// container that was delegated its cgroup keeps its processes there.
func (g *Group) ThreadsBelow(buf []int) ([]int, error) {
	return g.ids(buf, "tasks\x00", "cgroup.threads\x00", true)
}

// maxDepth is how far below a cgroup its processes are looked for. A v2
// hierarchy may be made deeper (cgroup.max.depth); no runtime does.
const maxDepth = 32

// idsBelow appends the ids of the cgroups below the one whose directory this
// is. One that vanishes meanwhile is left out, as its processes are.
func (t *Tree) idsBelow(buf []int, dir int, name string, depth int) ([]int, fault) {
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return buf, faultOf(err)
	}
	// kernfs counts the subdirectories in the links (kernfs_refresh_inode), so
	// a leaf, which is the common case, is not listed.
	if st.Nlink == 2 || depth == maxDepth {
		return buf, 0
	}
	children, f := t.subdirs(dir)
	if f != 0 {
		return buf, f
	}
	for _, child := range children {
		fd, errno := t.openat(dir, child, unix.O_PATH|unix.O_DIRECTORY)
		if errno == unix.ENOENT {
			continue
		}
		if errno != 0 {
			return buf, fault(errno)
		}
		before := len(buf)
		if buf, f = t.idsOf(buf, fd, name); f == 0 {
			buf, f = t.idsBelow(buf, fd, name, depth+1)
		}
		_ = unix.Close(fd)
		switch {
		case f == missing || f.isGone():
			buf = buf[:before]
		case f != 0:
			return buf, f
		}
	}
	return buf, 0
}

// subdirs returns the NUL-terminated names of the directories in one.
func (t *Tree) subdirs(dir int) (names [][]byte, f fault) {
	fd, errno := t.openat(dir, []byte(".\x00"), unix.O_RDONLY|unix.O_DIRECTORY)
	if errno != 0 {
		return nil, fault(errno)
	}
	defer unix.Close(fd) //nolint:errcheck // read only
	for {
		n, err := unix.Getdents(fd, t.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, faultOf(err)
		}
		if n == 0 {
			return names, 0
		}
		names = appendSubdirs(names, t.buf[:n])
	}
}

// appendSubdirs parses struct linux_dirent64 (getdents64(2)): d_ino and d_off
// of 8 bytes, d_reclen of 2, d_type of 1, the name and its NUL.
func appendSubdirs(names [][]byte, b []byte) [][]byte {
	const header = 19
	for len(b) > header {
		length := int(binary.NativeEndian.Uint16(b[16:]))
		if length <= header || length > len(b) {
			return names
		}
		name := b[header:length]
		if i := bytes.IndexByte(name, 0); i >= 0 {
			name = name[:i+1]
			if b[18] == unix.DT_DIR && string(name) != ".\x00" && string(name) != "..\x00" {
				names = append(names, bytes.Clone(name))
			}
		}
		b = b[length:]
	}
	return names
}
