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

// Mounted returns the last mount of resctrl. Errors: [ErrNotMounted];
// errors.ErrUnsupported if the kernel has no resctrl, or found no such hardware.
func (f FS) Mounted() (Mount, error) {
	if err := f.supported(); err != nil {
		return Mount{}, err
	}
	// In a container the host's mounts are those of its first process.
	name := f.path("proc/self/mounts")
	if f.path("") != "/" {
		name = f.path("proc/1/mounts")
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return Mount{}, fmt.Errorf("resctrl: whether it is mounted: %w", notTold(err))
	}
	m, ok := parseMounts(text)
	if !ok {
		return Mount{}, fmt.Errorf("%w: mount -t resctrl resctrl %s", ErrNotMounted, f.mountPoint())
	}
	m.Dir = f.path(m.Dir)
	return m, nil
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

// genericOptions are those of /proc/mounts that every file system can have
// (show_mnt_opts and show_sb_opts in fs/proc_namespace.c).
var genericOptions = [...]string{"rw", "ro", "sync", "dirsync", "mand", "lazytime", "nosuid", "nodev", "noexec",
	"noatime", "nodiratime", "relatime", "nosymfollow", "seclabel", "idmapped"}

// parseMounts returns the last mount of resctrl in the text of a mounts file:
//
//	resctrl /sys/fs/resctrl resctrl rw,relatime,cdp,debug 0 0
func parseMounts(text []byte) (m Mount, ok bool) {
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), " ")
		if len(f) < 4 || f[2] != "resctrl" {
			continue
		}
		m, ok = Mount{Dir: unescapeMount(f[1]), Ours: f[0] == mountSource}, true
		for option := range strings.SplitSeq(f[3], ",") {
			if option == "ro" {
				m.ReadOnly = true
			}
			if option != "" && !slices.Contains(genericOptions[:], option) {
				m.Options = append(m.Options, option)
			}
		}
	}
	return m, ok
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

// Unmount unmounts what Mount mounted; all groups end with it. It refuses when the
// mount is not ours, or when there are groups that are not (fs.ErrPermission).
// [ErrGone] if it is not mounted any more; unix.EBUSY as long as somebody has files of it
// open.
func (f FS) Unmount(m Mount) error {
	refuse := func(err error) error { return &Error{Op: "umount", Path: m.Dir, Err: err} }
	now, err := f.Mounted()
	switch {
	case errors.Is(err, ErrNotMounted):
		return refuse(fmt.Errorf("%w: %w", ErrGone, err))
	case err != nil:
		return err
	case now.Dir != m.Dir:
		return refuse(fmt.Errorf("%w: resctrl is mounted at %s now", ErrGone, now.Dir))
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
