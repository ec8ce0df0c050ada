package resctrl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestMounted(t *testing.T) {
	const filesystems = "nodev\tsysfs\nnodev\tresctrl\n\text4\n"
	const mounts = "18 1 0:17 / /sys rw,nosuid - sysfs sysfs rw\n" +
		"29 18 0:25 / /old rw - resctrl owca rw\n" +
		"30 18 0:25 / /sys/fs/resctrl rw - resctrl owca rw\n" +
		"31 18 0:25 / /sys/fs/resctrl ro,nosuid,relatime shared:7 master:2 - resctrl resctrl rw,seclabel,cdp,mba_MBps,debug\n" +
		"32 18 0:25 /gold /sys/fs/resctrl rw - resctrl owca rw\n" +
		"33 22 0:25 /gold /x rw - resctrl owca rw\n" +
		"34 22 0:25 / /y rw - resctrl owca rw\n" +
		"35 1 0:20 / /tmp rw - tmpfs tmpfs rw,cdp\n"
	mounted := func(text string) (Mount, string, error) {
		root := writeFixture(t, map[string]string{"proc/filesystems": filesystems, "proc/1/mountinfo": text})
		m, err := FS{Root: root}.Mounted()
		return m, root, err
	}
	got, root, err := mounted(mounts)
	want := Mount{Dir: filepath.Join(root, "sys/fs/resctrl"), Options: []string{"cdp", "mba_MBps", "debug"}, ReadOnly: true}
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	// Elsewhere the last one counts.
	got, root, err = mounted("29 1 0:25 / /old rw - resctrl resctrl rw\n30 1 0:25 / /a\\040b\\134 rw - resctrl owca rw\n")
	if err != nil || !got.Ours || got.ReadOnly || got.Dir != filepath.Join(root, `a b\`) || got.Options != nil {
		t.Errorf("%+v, %v", got, err)
	}
	if got, _, err = mounted("29 1 0:25 / /a rw - resctrl resctrl ro\n"); err != nil || !got.ReadOnly {
		t.Errorf("%+v, %v", got, err)
	}
	for _, text := range []string{"29 1 0:25 / /a rw resctrl resctrl rw x y\n", "35 1 0:20 / /tmp rw - tmpfs resctrl rw\n", "33 22 0:25 /gold /x rw - resctrl owca rw\n"} {
		_, root, err = mounted(text)
		wantError(t, err, ErrNotMounted, "mount -t resctrl resctrl "+root+"/sys/fs/resctrl")
	}

	root = writeFixture(t, map[string]string{"proc/filesystems": "nodev\tresctrl2\n", "proc/1/mountinfo": mounts})
	_, err = FS{Root: root}.Mounted()
	wantError(t, err, errors.ErrUnsupported)
	_, err = FS{Root: root}.Mount(MountOptions{})
	wantError(t, err, errors.ErrUnsupported)
	err = FS{Root: root}.Unmount(Mount{Dir: root, Ours: true})
	wantError(t, err, errors.ErrUnsupported)

	// Unmounted since: sysfs has the empty directory.
	for _, dir := range []string{t.TempDir(), filepath.Join(root, "absent")} {
		_, err = Mount{Dir: dir}.Open()
		wantError(t, err, ErrGone)
	}

	// No /proc is not an answer.
	for _, files := range []map[string]string{{"x": ""}, {"proc/filesystems": filesystems}} {
		_, err := FS{Root: writeFixture(t, files)}.Mounted()
		if err == nil || errors.Is(err, ErrNotMounted) || errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v: %v", files, err)
		}
	}
}

func FuzzMounts(f *testing.F) {
	for _, dir := range []string{"/sys/fs/resctrl", "/a b", "/a\\040", "/\n\t#", "/\\", "", "-"} {
		f.Add("resctrl", dir, "rw,cdp", "", []byte("29 18 0:25 / /x rw - resctrl x rw"))
	}
	f.Add("owca", "/x", "ro,,mba_MBps", "shared:1 unbindable", []byte("- - - / - - - - - - resctrl"))
	// mangle_path
	escape := strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`, "#", `\043`)
	f.Fuzz(func(t *testing.T, source, dir, options, fields string, before []byte) {
		if strings.ContainsAny(options, " \n") {
			options = ""
		}
		if strings.ContainsAny(fields, "-\n") || strings.TrimSpace(fields) == "" {
			fields = "shared:7"
		}
		line := func(root string) []byte {
			return fmt.Appendf(nil, "\n29 18 0:25 %s %s rw,relatime %s - resctrl %s %s\n", root, escape.Replace(dir), fields, escape.Replace(source), options)
		}
		list := parseMounts(slices.Concat(before, line("/"), []byte("x y z w\n")))
		others := len(parseMounts(before))
		if len(list) != others+1 {
			t.Fatalf("%+v of %q, %d before", list, line("/"), others)
		}
		m := list[others]
		if m.Dir != dir || m.Ours != (source == "owca") {
			t.Errorf("%+v of %q", m, line("/"))
		}
		all := strings.Split(options, ",")
		if m.ReadOnly != slices.Contains(all, "ro") {
			t.Errorf("read-only %t of %q", m.ReadOnly, options)
		}
		for _, o := range m.Options {
			if o == "" || o == "rw" || o == "ro" || !slices.Contains(all, o) {
				t.Errorf("option %q of %q", o, options)
			}
		}
		// A part of it is not it.
		if list := parseMounts(line("/gold")); len(list) > 0 {
			t.Errorf("%+v", list)
		}
	})
}

func TestHostBound(t *testing.T) {
	openHost(t)
	asChild(t, "/proc/self/exe", &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}, "bound")
}

// boundChild has a mount namespace of its own, where resctrl and a group of it are
// mounted in other places, too.
func boundChild([]string) error {
	host := FS{Root: "/"}
	before, err := host.Mounted()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "resctrl-bound-")
	if err != nil {
		return err
	}
	for _, source := range []string{before.Dir + "/info", before.Dir} {
		if err := unix.Mount(source, dir, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return err
		}
		now, err := host.Mounted()
		if err != nil || !cmp.Equal(now, before) {
			return fmt.Errorf("with %s at %s: %+v, %w, want %+v", source, dir, now, err, before)
		}
		// It is looked for where it was.
		if err := host.Unmount(before); !errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("unmounting what is not ours: %w", err)
		}
	}
	// Only there: that will do.
	if err := unix.Unmount(before.Dir, unix.MNT_DETACH); err != nil {
		return err
	}
	if now, err := host.Mounted(); err != nil || now.Dir != dir || !now.ReadOnly || !cmp.Equal(now.Options, before.Options) {
		return fmt.Errorf("only at %s: %+v, %w", dir, now, err)
	}
	if err := host.Unmount(before); !errors.Is(err, ErrGone) || !strings.Contains(err.Error(), dir) {
		return fmt.Errorf("unmounting what is not there: %w", err)
	}
	for range 2 { // the group's and the whole
		if err := unix.Unmount(dir, 0); err != nil {
			return err
		}
	}
	return os.Remove(dir)
}

func TestErrorText(t *testing.T) {
	err := &Error{Op: "rmdir", Path: "a\x1b[2Jb", Err: fs.ErrPermission, Status: "pid \x07"}
	if got, want := err.Error(), `resctrl: rmdir "a\x1b[2Jb": permission denied (the kernel says: "pid \a")`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	err = &Error{Op: "rmdir", Path: "große Gruppe", Err: fs.ErrPermission}
	if got, want := err.Error(), `resctrl: rmdir große Gruppe: permission denied`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
