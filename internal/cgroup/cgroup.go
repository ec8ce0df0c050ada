// Package cgroup reads what the kernel says about cgroups, and sets their limits:
// of version 1, of version 2, and of hybrid hosts, which have both.
//
// [FS.Tree] finds out where the hierarchies are mounted and which of them has
// which controller. [Tree.Open] opens a cgroup by its path, the one that
// /proc/PID/cgroup shows, in all hierarchies that have it, and [Group.Read]
// fills a [Stat]: the same fields in the same units on all kinds of hosts,
// each from the best file there is. What a host does not have is absent.
//
//	tree, err := cgroup.FS{Root: "/"}.Tree()
//	…
//	group, err := tree.Open("/system.slice/nginx.service")
//	…
//	defer group.Close()
//	var s cgroup.Stat
//	for range time.Tick(time.Second) {
//		if err := group.Read(&s, cgroup.CPU|cgroup.Memory); err != nil {
//			return err // wraps ErrGone
//		}
//		usage, ok := s.Get(cgroup.CPUUsage)
//		…
//	}
//
// [Tree.Control] opens a cgroup to change its limits, each of which is a [Knob].
//
// A Tree, its Groups and its Controls share buffers: use them from one goroutine
// at a time.
package cgroup

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A Version is how a host uses cgroups.
type Version uint8

// The versions.
const (
	V1     Version = 1 + iota
	V2             // one hierarchy for all
	Hybrid         // v1 hierarchies and a v2 one, whatever their controllers
)

// String returns "cgroup v1", "cgroup v2" or "cgroup v1 and v2 (hybrid)".
func (v Version) String() string {
	switch v {
	case V1:
		return "cgroup v1"
	case V2:
		return "cgroup v2"
	case Hybrid:
		return "cgroup v1 and v2 (hybrid)"
	}
	return fmt.Sprintf("cgroup version %d", uint8(v))
}

// A Hierarchy is one mounted hierarchy.
type Hierarchy struct {
	Dir     string
	Version Version // V1 or V2
	// Controllers in the kernel's order; for v1 with its name ("name=systemd"),
	// for v2 those that are not bound to a v1 hierarchy. Pressure and, on v2,
	// perf_event are no controllers and always there.
	Controllers []string
	// Root is the cgroup that Dir shows, as in /proc/PID/cgroup: "/" but for
	// bind mounts of part of a hierarchy, as containers have them.
	Root string
}

// rel returns the path of a cgroup below Dir ("" or "/…"), if it is there.
func (h *Hierarchy) rel(path string) (string, bool) {
	if h.Root == "/" {
		return strings.TrimSuffix(path, "/"), true
	}
	rest, ok := strings.CutPrefix(path, h.Root)
	return rest, ok && (rest == "" || rest[0] == '/')
}

// FS is the file system of a host.
type FS struct {
	Root string // "/" (also if empty), or where the host's root is mounted, as "/host"
}

// Tree looks for the mounted hierarchies: in mountinfo, of this process, or
// if Root is not "/" of the host's first one; where that can't be read, in
// Root/sys/fs/cgroup. The error wraps [errors.ErrUnsupported] if there are
// none.
func (f FS) Tree() (*Tree, error) {
	list, err := f.hierarchies()
	if err != nil {
		return nil, err
	}
	t := newTree(list)
	t.root = f.Root
	return t, nil
}

func (f FS) hierarchies() ([]Hierarchy, error) {
	root, err := filepath.Abs(cmp.Or(f.Root, "/"))
	if err != nil {
		return nil, err
	}
	files := []string{"proc/self/mountinfo"}
	if root != "/" {
		// Ours has other mount points than the host's.
		files = []string{"proc/1/mountinfo", "proc/self/mountinfo"}
	}
	var problem error
	for _, name := range files {
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				problem = errors.Join(problem, err)
			}
			continue
		}
		if list := mounted(root, parseMountinfo(b)); len(list) > 0 {
			return list, nil
		}
	}
	dir := filepath.Join(root, "sys", "fs", "cgroup")
	list, err := look(dir)
	if err != nil {
		problem = errors.Join(problem, err)
	}
	switch {
	case len(list) > 0:
		return list, nil
	case problem != nil:
		return nil, fmt.Errorf("looking for cgroup hierarchies: %w", problem)
	}
	return nil, fmt.Errorf("no cgroup hierarchy is mounted; %s is the usual place: %w", dir, errors.ErrUnsupported)
}

// mounted picks for each hierarchy its best visible mount: v2 first, then v1
// in the order of mounting.
func mounted(root string, mounts []mount) []Hierarchy {
	best := map[uint64]mount{}
	var devs []uint64
	for _, m := range mounts {
		// /proc/self/mountinfo says where things are here, Root included.
		if root != "/" && !strings.HasPrefix(m.point, root+"/") {
			m.point = filepath.Join(root, m.point)
		}
		if !visible(m.point, m.dev) {
			continue
		}
		old, ok := best[m.dev]
		if !ok {
			devs = append(devs, m.dev)
		}
		if !ok || m.rank() < old.rank() {
			best[m.dev] = m
		}
	}
	var v2, v1 []Hierarchy
	for _, dev := range devs {
		m := best[dev]
		h := Hierarchy{Dir: m.point, Version: m.version, Controllers: m.controllers, Root: m.root}
		if m.version == V1 {
			v1 = append(v1, h)
			continue
		}
		h.Controllers = controllers(m.point)
		v2 = append(v2, h)
	}
	return append(v2, v1...)
}

// visible says whether dir is where a cgroup file system of this device can
// be seen, and has not been mounted over. A copy of one, which has no device,
// will do.
func visible(dir string, dev uint64) bool {
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return false
	}
	if uint64(st.Dev) == dev { //nolint:unconvert // 32 bits on some architectures
		return true
	}
	var sfs unix.Statfs_t
	if unix.Statfs(dir, &sfs) != nil || sfs.Type == unix.CGROUP_SUPER_MAGIC || sfs.Type == unix.CGROUP2_SUPER_MAGIC {
		return false
	}
	return exists(filepath.Join(dir, "cgroup.procs"))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// controllers reads v2's cgroup.controllers; none if it can't.
func controllers(dir string) []string {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return nil
	}
	return strings.Fields(string(b))
}

// look finds hierarchies by what their directories look like.
func look(dir string) ([]Hierarchy, error) {
	at := func(dir string) (Hierarchy, bool) {
		switch {
		case exists(filepath.Join(dir, "cgroup.controllers")):
			return Hierarchy{Dir: dir, Version: V2, Controllers: controllers(dir), Root: "/"}, true
		case exists(filepath.Join(dir, "cgroup.procs")):
			// v1 mount points are named after their controllers.
			list := strings.Split(filepath.Base(dir), ",")
			if !slices.ContainsFunc(list, isController1) {
				list = []string{"name=" + filepath.Base(dir)}
			}
			return Hierarchy{Dir: dir, Version: V1, Controllers: list, Root: "/"}, true
		}
		return Hierarchy{}, false
	}
	if h, ok := at(dir); ok {
		return []Hierarchy{h}, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	var v2, v1 []Hierarchy
	for _, e := range entries {
		// Symbolic links are second names: cpu → cpu,cpuacct.
		if !e.IsDir() {
			continue
		}
		switch h, ok := at(filepath.Join(dir, e.Name())); {
		case ok && h.Version == V2:
			v2 = append(v2, h)
		case ok:
			v1 = append(v1, h)
		}
	}
	return append(v2, v1...), nil
}

// A mount is a line of mountinfo about cgroups.
type mount struct {
	dev         uint64
	root        string // the cgroup that the mount point shows
	above       bool   // root was "/..", or further up
	point       string
	version     Version
	controllers []string // of v1, from the super block's options
}

// rank is low for the mount to prefer among those of one hierarchy: the whole
// of it, then what shows the most.
func (m *mount) rank() int {
	switch {
	case m.above:
		return 1
	case m.root == "/":
		return 0
	}
	return 1 + len(m.root)
}

// parseMountinfo parses /proc/PID/mountinfo (fs/proc_namespace.c
// show_mountinfo) and keeps the mounts of cgroup file systems:
//
//	32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu
//	36 31 0:30 /docker/0b1 /mnt/a\040b rw,relatime - cgroup2 cgroup2 rw,nsdelegate
//
// Lines that it can't make sense of are left out.
//
// The second path, the root, is seen from the reader's cgroup namespace: a
// mount that shows more than the namespace has "/..", once per level. Those
// are whole hierarchies, or the most that there is to see: it becomes "/", and
// the paths of its cgroups are those below the mount point.
func parseMountinfo(b []byte) []mount {
	var list []mount
	for line := range bytes.Lines(b) {
		before, after, ok := strings.Cut(strings.TrimSuffix(string(line), "\n"), " - ")
		if !ok {
			continue
		}
		f := strings.Split(before, " ")
		fsType, rest, _ := strings.Cut(after, " ")
		if len(f) < 6 || fsType != "cgroup" && fsType != "cgroup2" {
			continue
		}
		var major, minor uint32
		if n, err := fmt.Sscanf(f[2], "%d:%d", &major, &minor); err != nil || n != 2 {
			continue
		}
		m := mount{dev: unix.Mkdev(major, minor), root: unescape(f[3]), point: unescape(f[4]), version: V2}
		if m.above = isAbove(m.root); m.above {
			m.root = "/"
		}
		// Clean leaves ".." only at the start of relative paths.
		if !path.IsAbs(m.root) || path.Clean(m.root) != m.root || !path.IsAbs(m.point) {
			continue
		}
		if fsType == "cgroup" {
			m.version = V1
			_, options, _ := strings.Cut(rest, " ")
			for option := range strings.SplitSeq(options, ",") {
				if strings.HasPrefix(option, "name=") || isController1(option) {
					m.controllers = append(m.controllers, option)
				}
			}
		}
		list = append(list, m)
	}
	return list
}

// isAbove says whether a root is "/..", "/../.." and so on.
func isAbove(root string) bool {
	elements := strings.Split(strings.TrimPrefix(root, "/"), "/")
	return !slices.ContainsFunc(elements, func(e string) bool { return e != ".." })
}

// isController1 tells the controllers from the other mount options of v1.
func isController1(option string) bool {
	switch option {
	case "cpuset", "cpu", "cpuacct", "blkio", "memory", "devices", "freezer", "net_cls", "perf_event",
		"net_prio", "hugetlb", "pids", "rdma", "misc", "dmem", "debug":
		return true
	}
	return false
}

// unescape undoes mangle_path: \040 and the like for space, tab, newline and
// backslash.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && octal(s[i+1]) && s[i+1] < '4' && octal(s[i+2]) && octal(s[i+3]) {
			b = append(b, (s[i+1]-'0')<<6|(s[i+2]-'0')<<3|(s[i+3]-'0'))
			i += 3
			continue
		}
		b = append(b, s[i])
	}
	return string(b)
}

func octal(c byte) bool { return '0' <= c && c <= '7' }
