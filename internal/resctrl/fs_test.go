package resctrl

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMounted(t *testing.T) {
	const filesystems = "nodev\tsysfs\nnodev\tresctrl\n\text4\n"
	const mounts = "sysfs /sys sysfs rw,nosuid 0 0\n" +
		"resctrl /old resctrl rw 0 0\n" +
		"resctrl /sys/fs/resctrl resctrl ro,nosuid,relatime,cdp,mba_MBps,debug 0 0\n" +
		"tmpfs /tmp tmpfs rw,cdp 0 0\n"
	root := writeFixture(t, map[string]string{"proc/filesystems": filesystems, "proc/1/mounts": mounts})
	got, err := FS{Root: root}.Mounted()
	want := Mount{Dir: filepath.Join(root, "sys/fs/resctrl"), Options: []string{"cdp", "mba_MBps", "debug"}, ReadOnly: true}
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}

	root = writeFixture(t, map[string]string{"proc/filesystems": filesystems, "proc/1/mounts": "owca /a\\040b\\134 resctrl rw 0 0\n"})
	if got, err := (FS{Root: root}).Mounted(); err != nil || !got.Ours || got.ReadOnly || got.Dir != filepath.Join(root, `a b\`) || got.Options != nil {
		t.Errorf("%+v, %v", got, err)
	}

	root = writeFixture(t, map[string]string{"proc/filesystems": filesystems, "proc/1/mounts": "tmpfs /tmp tmpfs rw 0 0\n"})
	_, err = FS{Root: root}.Mounted()
	wantError(t, err, ErrNotMounted, "mount -t resctrl resctrl "+root+"/sys/fs/resctrl")

	root = writeFixture(t, map[string]string{"proc/filesystems": "nodev\tresctrl2\n", "proc/1/mounts": mounts})
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
	for _, dir := range []string{"/sys/fs/resctrl", "/a b", "/a\\040", "/\n\t#", "/\\", ""} {
		f.Add("resctrl", dir, "rw,cdp")
	}
	f.Add("owca", "/x", "ro,,mba_MBps")
	// mangle_path
	escape := strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`, "#", `\043`)
	f.Fuzz(func(t *testing.T, source, dir, options string) {
		if strings.ContainsAny(options, " \n") {
			options = ""
		}
		text := fmt.Appendf(nil, "a b tmpfs rw 0 0\nresctrl\n%s %s resctrl %s 0 0\n", escape.Replace(source), escape.Replace(dir), options)
		m, ok := parseMounts(text)
		if !ok || m.Dir != dir || m.Ours != (source == "owca") {
			t.Fatalf("%+v, %t of %q", m, ok, text)
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
		// The last one counts, whatever stands before and behind.
		again := bytes.Join([][]byte{text, []byte("resctrl /last resctrl rw 0 0"), []byte("x y z w 0 0")}, []byte("\n"))
		if m, ok := parseMounts(again); !ok || m.Dir != "/last" || m.Ours {
			t.Errorf("%+v, %t", m, ok)
		}
	})
}
