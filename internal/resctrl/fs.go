package resctrl

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// FS is the host below Root ("/", or where a container has it mounted).
type FS struct{ Root string }

// Mount is a mounted resctrl.
type Mount struct {
	Dir      string   // with the Root
	Options  []string // those of resctrl: "cdp", "mba_MBps", …
	ReadOnly bool
	// Ours: it was mounted by [FS.Mount], by this process or another. It is told
	// by the source in the list of mounts.
	Ours bool
}

// MountOptions are those of resctrl. The kernel refuses what the host has not.
type MountOptions struct {
	CDP   bool // code and data of L3 apart; halves the number of control groups
	CDPL2 bool
	MBps  bool // bandwidth in MBps, kept by a feedback loop of the kernel
}

// mountSource is the source of a mount that is ours.
const mountSource = "owca"

// String is the options as mount(8) takes them.
func (o MountOptions) String() string {
	var list []string
	if o.CDP {
		list = append(list, "cdp")
	}
	if o.CDPL2 {
		list = append(list, "cdpl2")
	}
	if o.MBps {
		list = append(list, "mba_MBps")
	}
	return strings.Join(list, ",")
}

func (f FS) path(name string) string { return filepath.Join(cmp.Or(f.Root, "/"), name) }

// mountPoint is where the kernel makes a directory for resctrl (sysfs).
func (f FS) mountPoint() string { return f.path("sys/fs/resctrl") }

// Mounted returns the mount of resctrl at sys/fs/resctrl below Root, or else the last
// one elsewhere. Bind mounts of one of its groups are none. Errors: [ErrNotMounted];
// errors.ErrUnsupported if the kernel has no resctrl, or found no such hardware.
func (f FS) Mounted() (Mount, error) {
	list, err := f.mounts()
	if err != nil {
		return Mount{}, err
	}
	if m, ok := lastAt(list, f.mountPoint()); ok {
		return m, nil
	}
	return list[len(list)-1], nil
}

// mounts returns all mounts of resctrl, in the order in which they were made: one at
// least, or [ErrNotMounted].
func (f FS) mounts() ([]Mount, error) {
	if err := f.supported(); err != nil {
		return nil, err
	}
	// In a container the host's mounts are those of its first process.
	name := f.path("proc/self/mountinfo")
	if f.path("") != "/" {
		name = f.path("proc/1/mountinfo")
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("resctrl: whether it is mounted: %w", notTold(err))
	}
	list := parseMounts(text)
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: mount -t resctrl resctrl %s", ErrNotMounted, f.mountPoint())
	}
	for i := range list {
		list[i].Dir = f.path(list[i].Dir)
	}
	return list, nil
}

// lastAt returns the mount that covers those at the same place.
func lastAt(list []Mount, dir string) (Mount, bool) {
	for _, m := range slices.Backward(list) {
		if m.Dir == dir {
			return m, true
		}
	}
	return Mount{}, false
}

// supported returns errors.ErrUnsupported if the kernel did not register resctrl,
// which it does where it finds the hardware.
func (f FS) supported() error {
	name := f.path("proc/filesystems")
	text, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("resctrl: whether the kernel has it: %w", notTold(err))
	}
	if !slices.Contains(strings.Fields(string(text)), "resctrl") {
		return fmt.Errorf("resctrl: %w: not in %s: no such hardware, or a kernel without CONFIG_X86_CPU_RESCTRL or CONFIG_ARM64_MPAM",
			errors.ErrUnsupported, name)
	}
	return nil
}

// notTold hides what a failure is, so that a file of /proc that must be there and is
// not isn't taken for an answer about resctrl.
func notTold(err error) error { return errors.New(err.Error()) }

// genericOptions are those that every superblock can have (show_sb_opts in
// fs/proc_namespace.c, and what a security module adds).
var genericOptions = [...]string{"rw", "ro", "sync", "dirsync", "mand", "lazytime", "seclabel"}

// parseMounts returns the mounts of all of resctrl in the text of a mountinfo file;
// those of a part of it have another root than "/". Optional fields end with "-":
//
//	29 18 0:25 / /sys/fs/resctrl rw,relatime shared:7 - resctrl resctrl rw,cdp,debug
//	30 22 0:25 /gold /tmp/x rw,relatime - resctrl resctrl rw,cdp,debug
func parseMounts(text []byte) (list []Mount) {
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), " ")
		if len(f) < 10 || f[3] != "/" {
			continue
		}
		dash := slices.Index(f[6:], "-")
		if dash < 0 {
			continue
		}
		super := f[6+dash+1:]
		if len(super) < 3 || super[0] != "resctrl" {
			continue
		}
		options := strings.Split(super[2], ",")
		m := Mount{
			Dir:      unescapeMount(f[4]),
			ReadOnly: slices.Contains(strings.Split(f[5], ","), "ro") || slices.Contains(options, "ro"),
			Ours:     super[1] == mountSource,
		}
		for _, option := range options {
			if option != "" && !slices.Contains(genericOptions[:], option) {
				m.Options = append(m.Options, option)
			}
		}
		list = append(list, m)
	}
	return list
}

// unescapeMount undoes the kernel's mangle_path: three octal digits for white space,
// "\" and "#".
func unescapeMount(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && s[i+1] <= '3' && octal(s[i+1]) && octal(s[i+2]) && octal(s[i+3]) {
			b = append(b, (s[i+1]-'0')<<6|(s[i+2]-'0')<<3|(s[i+3]-'0'))
			i += 3
			continue
		}
		b = append(b, s[i])
	}
	return string(b)
}

func octal(c byte) bool { return '0' <= c && c <= '7' }

// Mount mounts resctrl at sys/fs/resctrl below Root. The source is "owca", so that
// whoever started next knows whose it is. Errors: errors.ErrUnsupported (the kernel
// has no resctrl, or the host has not what an option is for), unix.EBUSY (it is mounted,
// if not here then where this process cannot see it), fs.ErrPermission.
func (f FS) Mount(o MountOptions) (Mount, error) {
	if err := f.supported(); err != nil {
		return Mount{}, err
	}
	dir := f.mountPoint()
	err := unix.Mount(mountSource, dir, "resctrl", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RELATIME, o.String())
	if err == nil {
		return f.Mounted()
	}
	switch errno, _ := errors.AsType[unix.Errno](err); errno {
	case unix.EBUSY:
		// rdt_get_tree: there is one superblock.
		err = fmt.Errorf("%w: it is mounted already and can be only once: here, in another mount namespace, or detached by umount -l with files open", err)
	case unix.EINVAL:
		err = fmt.Errorf("%w: this host has not what an option is for: %w", errors.ErrUnsupported, err)
	case unix.EPERM:
		err = fmt.Errorf("%w: it takes CAP_SYS_ADMIN; or have it mounted at boot (/etc/fstab)", err)
	}
	return Mount{}, &Error{Op: "mount", Path: dir, Value: o.String(), Err: err}
}

// Unmount unmounts what Mount mounted; all groups end with it, unless it is mounted
// elsewhere, too. It refuses when the mount is not ours, or when there are groups that
// are not (fs.ErrPermission). [ErrGone] if it is not mounted there any more; unix.EBUSY
// as long as somebody has files of it open.
func (f FS) Unmount(m Mount) error {
	refuse := func(err error) error { return &Error{Op: "umount", Path: m.Dir, Err: err} }
	list, err := f.mounts()
	now, there := lastAt(list, m.Dir)
	switch {
	case errors.Is(err, ErrNotMounted):
		return refuse(fmt.Errorf("%w: %w", ErrGone, err))
	case err != nil:
		return err
	case !there:
		return refuse(fmt.Errorf("%w: resctrl is mounted at %s now", ErrGone, printable(list[len(list)-1].Dir)))
	case !m.Ours || !now.Ours:
		return refuse(fmt.Errorf("%w: it was not mounted by owca", fs.ErrPermission))
	}
	root, err := openDir(unix.AT_FDCWD, m.Dir)
	if err != nil {
		return refuse(err)
	}
	groups, err := listGroups(root, nil)
	_ = unix.Close(root)
	if err != nil {
		return refuse(err)
	}
	for _, n := range groups {
		if n != (Name{}) && !n.Ours() {
			return refuse(fmt.Errorf("%w: group %s was not made by owca and would end", fs.ErrPermission, n))
		}
	}
	if err := unix.Unmount(m.Dir, unix.UMOUNT_NOFOLLOW); err != nil {
		switch errno, _ := errors.AsType[unix.Errno](err); errno {
		case unix.EBUSY:
			err = fmt.Errorf("%w: a process has files of it open, or works below it", err)
		case unix.EPERM:
			err = fmt.Errorf("%w: it takes CAP_SYS_ADMIN", err)
		}
		return refuse(err)
	}
	return nil
}
