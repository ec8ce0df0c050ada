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
	"time"

	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/hosttest"
)

// children are what asChild runs.
var children = map[string]func(args []string) error{
	"hidepid":      hidepidChild,
	"hidden":       hiddenChild,
	"read-only":    readOnlyChild,
	"bound":        boundChild,
	"claiming":     claimingChild,
	"shed":         shedChild,
	"detached":     detachedChild,
	"full":         fullChild,
	"unprivileged": unprivilegedChild,
}

func TestNames(t *testing.T) {
	long := strings.Repeat("x", 256)
	for _, n := range []Name{
		{Control: "."}, {Control: ".."}, {Control: "a/b"}, {Control: "info"}, {Control: "mon_data"}, {Control: "mon_groups"},
		{Control: "a\nb"}, {Control: "a\x00"}, {Control: long}, {Monitor: ".."}, {Monitor: "a/b"}, {Control: "a", Monitor: long},
	} {
		if err := checkName(n); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v", n, err)
		}
	}
	for _, n := range []Name{{}, {Control: "gold"}, {Monitor: "owca-x y"}, {Control: "-", Monitor: long[:255]}} {
		if err := checkName(n); err != nil {
			t.Error(err)
		}
	}
}

// writeFixture makes files as those of hosts that no VM emulates.
func writeFixture(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestHostGroups(t *testing.T) {
	tree := openHost(t, "/L3_MON")
	names := []Name{{Monitor: "owca-b"}, {Monitor: "foreign"}}
	if tree.Info().CLOSIDs() > 2 {
		names = append(names, Name{Control: "owca-gold"}, Name{Control: "owca-gold", Monitor: "owca-m"}, Name{Control: "A"}, Name{Control: "A", Monitor: "z"})
	}
	for _, n := range names {
		if err := tree.Create(n); err != nil {
			t.Fatal(err)
		}
		wantError(t, tree.Create(n), fs.ErrExist)
	}
	got, err := tree.Groups([]Name{{Control: "kept"}})
	if err != nil || len(got) < 2 || got[0].Control != "kept" || got[1] != (Name{}) {
		t.Fatalf("%v, %v", got, err)
	}
	got = slices.DeleteFunc(got[2:], func(n Name) bool { return !slices.Contains(names, n) })
	want := []Name{{Monitor: "foreign"}, {Monitor: "owca-b"}}
	if len(names) > 2 {
		want = append(want, Name{Control: "A"}, Name{Control: "A", Monitor: "z"}, Name{Control: "owca-gold"}, Name{Control: "owca-gold", Monitor: "owca-m"})
	}
	if !slices.Equal(got, want) {
		t.Errorf("groups %v, want %v", got, want)
	}

	wantError(t, tree.Remove(Name{Monitor: "foreign"}), fs.ErrPermission, "not made by owca")
	wantError(t, tree.Remove(Name{}), fs.ErrPermission)
	wantError(t, tree.Remove(Name{Control: "info"}), fs.ErrInvalid)
	wantError(t, tree.Create(Name{}), fs.ErrExist)
	wantError(t, tree.Create(Name{Control: "absent", Monitor: "m"}), ErrGone)
	if len(names) > 2 {
		if err := tree.Create(Name{Control: "owca-gold", Monitor: "foreign"}); err != nil {
			t.Fatal(err)
		}
		wantError(t, tree.Remove(Name{Control: "owca-gold"}), fs.ErrPermission, "owca-gold/mon_groups/foreign was not made by owca")
		if err := tree.rmdir(Name{Control: "owca-gold", Monitor: "foreign"}); err != nil {
			t.Fatal(err)
		}
		if err := tree.Remove(Name{Control: "owca-gold"}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := tree.Remove(Name{Monitor: "owca-b"}); err != nil {
			t.Fatal(err)
		}
	}
	if os.Getenv("OWCA_TEST_VM") == "" {
		return // there, no group is anybody else's
	}
	if err := tree.RemoveAll(); err != nil {
		t.Fatal(err)
	}
	if got, err := tree.Groups(nil); err != nil || !slices.Equal(got, []Name{{}}) {
		t.Errorf("after RemoveAll %v, %v", got, err)
	}
}

// dirtyStatus leaves a text in last_cmd_status that no error of a later command may
// have.
func dirtyStatus(t *testing.T, tree *Tree) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(tree.Mount().Dir, "tasks"), []byte("stale\n"), 0); !errors.Is(err, unix.EINVAL) {
		t.Fatal(err)
	}
	if s := tree.readStatus(); !strings.Contains(s, "stale") {
		t.Fatalf("status %q", s)
	}
}

func TestHostOutOfCLOSIDs(t *testing.T) {
	tree := openHost(t)
	n := tree.Info().CLOSIDs()
	if n == 0 {
		err := tree.Create(Name{Control: "owca-x"})
		wantError(t, err, errors.ErrUnsupported, "nothing can be allocated")
		return
	}
	before, err := tree.Groups(nil)
	if err != nil {
		t.Fatal(err)
	}
	n -= countControls(before)
	for i := range n {
		waitForRMID(t, func() error { return tree.Create(Name{Control: fmt.Sprint("owca-", i)}) })
	}
	dirtyStatus(t, tree)
	err = tree.Create(Name{Control: "owca-over"})
	wantError(t, err, ErrNoCLOSID, "Out of CLOSIDs", "mkdir owca-over")
	if errors.Is(err, ErrNoRMID) || strings.Contains(err.Error(), "stale") || !errors.Is(err, unix.ENOSPC) {
		t.Error(err)
	}
	// Where the kernel says nothing, the numbers do.
	status := tree.status
	tree.status = -1
	wantError(t, tree.Create(Name{Control: "owca-over"}), ErrNoCLOSID)
	tree.status = status
}

// waitForRMID does again what fails because RMIDs are in limbo.
func waitForRMID(t testing.TB, do func() error) {
	t.Helper()
	err := do()
	for deadline := time.Now().Add(time.Minute); errors.Is(err, ErrLimbo) && time.Now().Before(deadline); err = do() {
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestHostOutOfRMIDs(t *testing.T) {
	tree := openHost(t, "/L3_MON")
	count, err := tree.Groups(nil)
	if err != nil {
		t.Fatal(err)
	}
	n := tree.Info().RMIDs() - len(count)
	create := func(i int) error { return tree.Create(Name{Monitor: fmt.Sprint("owca-", i)}) }
	for i := range n {
		waitForRMID(t, func() error { return create(i) })
	}
	dirtyStatus(t, tree)
	err = create(n)
	wantError(t, err, ErrNoRMID, "Out of RMIDs")
	if errors.Is(err, ErrLimbo) || errors.Is(err, ErrNoCLOSID) || strings.Contains(err.Error(), "stale") {
		t.Error(err)
	}
	if tree.Info().CLOSIDs() > 1 {
		wantError(t, tree.Create(Name{Control: "owca-control"}), ErrNoRMID)
	}
	status := tree.status
	tree.status = -1
	wantError(t, create(n), ErrNoRMID)
	tree.status = status
	// A freed one waits for its cache lines, and is free in the end.
	for i := range n {
		if err := tree.Remove(Name{Monitor: fmt.Sprint("owca-", i)}); err != nil {
			t.Fatal(err)
		}
	}
	limbo := false
	for i := range n {
		waitForRMID(t, func() error {
			err := create(i)
			limbo = limbo || errors.Is(err, ErrLimbo)
			return err
		})
	}
	if !limbo {
		t.Error("no RMID was in limbo")
	}
}

func TestHostNothingToMonitor(t *testing.T) {
	tree := openHost(t, "/!L3_MON")
	wantError(t, tree.Create(Name{Monitor: "owca-x"}), errors.ErrUnsupported)
	_, err := tree.Open(Name{})
	wantError(t, err, errors.ErrUnsupported)
	if got, err := tree.Groups(nil); err != nil || len(got) == 0 || got[0] != (Name{}) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestHostNothingToAllocate(t *testing.T) {
	tree := openHost(t, "/!L3", "/!MB")
	if tree.Info().CLOSIDs() != 0 {
		t.Skip("something else can be allocated")
	}
	if s, err := tree.Schemata(""); s != nil || err != nil {
		t.Errorf("%v, %v", s, err)
	}
}

func TestHostSchemata(t *testing.T) {
	tree := openHost(t, "/MB")
	const group = "owca-s"
	waitForRMID(t, func() error { return tree.Create(Name{Control: group}) })
	before, err := tree.Schemata(group)
	if err != nil || len(before) == 0 {
		t.Fatalf("%v, %v", before, err)
	}
	mb := tree.Info().Resource("MB")
	id := mb.Domains[0]
	line := func(v uint64) Schemata {
		return Schemata{{Resource: "MB", Kind: Bandwidth, Domains: []DomainValue{{ID: id, Value: v}}}}
	}
	effect, err := tree.SetSchemata(group, line(15))
	if err != nil {
		t.Fatal(err)
	}
	want := uint64(20) // rounded up to a multiple of 10
	if mb.Unit == MBps {
		want = 15
	}
	if v, ok := effect.Get("MB", id); !ok || v != want {
		t.Errorf("in effect %v, want %d", effect, want)
	}
	dirtyStatus(t, tree)
	bad := append(line(30), Line{Resource: "MB", Kind: Bandwidth, Domains: []DomainValue{{ID: 77, Value: 50}}})
	_, err = tree.SetSchemata(group, bad)
	wantError(t, err, unix.EINVAL, "write owca-s/schemata", "MB:77=50")
	if strings.Contains(err.Error(), "stale") || strings.Contains(err.Error(), "kernel says: ok") {
		t.Error(err)
	}
	if mb.Unit == Percent {
		_, err = tree.SetSchemata(group, line(1))
		wantError(t, err, unix.EINVAL, "out of range")
	}
	if v, err := tree.Schemata(group); err != nil || v.String() != effect.String() {
		t.Errorf("%v, %v, want %v: all or nothing", v, err, effect)
	}
	if v, err := tree.SetSchemata(group, nil); err != nil || v.String() != effect.String() {
		t.Errorf("%v, %v", v, err)
	}
	// More than a page is refused as a whole.
	var many Schemata
	for range 600 {
		many = append(many, line(30)...)
	}
	_, err = tree.SetSchemata(group, many)
	wantError(t, err, unix.E2BIG)
	if err := tree.Remove(Name{Control: group}); err != nil {
		t.Fatal(err)
	}
	_, err = tree.SetSchemata(group, line(50))
	wantError(t, err, ErrGone)
	_, err = tree.Schemata(group)
	wantError(t, err, ErrGone)
	_, err = tree.Schemata("..")
	wantError(t, err, fs.ErrInvalid)
}

func TestHostReadOnly(t *testing.T) {
	openHost(t)
	asChild(t, "/proc/self/exe", &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}, "read-only")
}

// readOnlyChild has a mount namespace of its own.
func readOnlyChild([]string) error {
	tree, err := openMounted()
	if err != nil {
		return err
	}
	defer tree.Close()
	if tree.Mount().ReadOnly {
		return errors.New("read-only before")
	}
	dir := tree.Mount().Dir
	if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return err
	}
	if m, err := (FS{Root: "/"}).Mounted(); err != nil || !m.ReadOnly {
		return fmt.Errorf("%+v, %w", m, err)
	}
	if err := tree.Alive(); err != nil {
		return fmt.Errorf("not alive when read-only: %w", err)
	}
	_, addErr := tree.Add(Name{}, []int{os.Getpid()})
	_, schemataErr := tree.SetSchemata("", Schemata{{Resource: "MB", Kind: Bandwidth, Domains: []DomainValue{{Value: 100}}}})
	for _, err := range []error{tree.Create(Name{Control: "owca-ro"}), addErr, schemataErr} {
		if !errors.Is(err, unix.EROFS) {
			return fmt.Errorf("read-only, but %w", err)
		}
	}
	if _, err := tree.Threads(Name{}, nil); err != nil {
		return err
	}
	return nil
}

func TestHostDetached(t *testing.T) {
	openHost(t)
	asChild(t, "/proc/self/exe", &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}, "detached")
}

// detachedChild has a mount namespace of its own, where it unmounts what the host keeps.
func detachedChild([]string) error {
	host := FS{Root: "/"}
	tree, err := openMounted()
	if err != nil {
		return err
	}
	if err := tree.Alive(); err != nil {
		return err
	}
	dir := tree.Mount().Dir
	if err := unix.Unmount(dir, 0); err != unix.EBUSY {
		return fmt.Errorf("umount while it is open: %w", err)
	}
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		return err
	}
	if err := tree.Alive(); !errors.Is(err, ErrGone) {
		return fmt.Errorf("alive after umount -l: %w", err)
	}
	if _, err := host.Mounted(); !errors.Is(err, ErrNotMounted) {
		return fmt.Errorf("mounted after umount -l: %w", err)
	}
	// What is detached still works.
	if _, err := tree.Threads(Name{}, nil); err != nil {
		return err
	}
	// There is only one, and the host has it.
	if _, err := host.Mount(MountOptions{}); !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "another mount namespace") {
		return fmt.Errorf("mounting it twice: %w", err)
	}
	if err := host.Unmount(tree.Mount()); !errors.Is(err, ErrGone) {
		return fmt.Errorf("unmounting what is not mounted: %w", err)
	}
	if err := tree.Close(); err != nil {
		return err
	}
	_, groupsErr := tree.Groups(nil)
	_, openErr := tree.Open(Name{})
	_, threadsErr := tree.Threads(Name{}, nil)
	_, addErr := tree.Add(Name{}, []int{os.Getpid()})
	_, schemataErr := tree.Schemata("")
	for i, err := range []error{tree.Alive(), groupsErr, openErr, threadsErr, addErr, schemataErr,
		tree.Create(Name{Control: "owca-x"}), tree.Remove(Name{Monitor: "owca-x"}), tree.Rename(Name{Monitor: "a"}, Name{Monitor: "b"}), tree.RemoveAll()} {
		if !errors.Is(err, ErrGone) {
			return fmt.Errorf("operation %d on a closed tree: %w", i, err)
		}
	}
	return tree.Close()
}

// TestHostRemount unmounts the host's resctrl: only where it is nobody else's.
func TestHostRemount(t *testing.T) {
	hosttest.Resctrl(t)
	if os.Getenv("OWCA_TEST_VM") == "" {
		t.Skip("unmounts resctrl: only in a virtual machine")
	}
	host := FS{Root: "/"}
	original, err := host.Mounted()
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, host.Unmount(original), fs.ErrPermission, "not mounted by owca")
	if err := unix.Unmount(original.Dir, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Unmount(original.Dir, unix.MNT_DETACH)
		if err := unix.Mount("resctrl", original.Dir, "resctrl", 0, strings.Join(original.Options, ",")); err != nil {
			t.Error(err)
		}
	})
	_, err = host.Mounted()
	wantError(t, err, ErrNotMounted, "mount -t resctrl")
	wantError(t, host.Unmount(original), ErrGone)

	options := MountOptions{CDP: slices.Contains(original.Options, "cdp"), MBps: slices.Contains(original.Options, "mba_MBps")}
	m, err := host.Mount(options)
	if err != nil {
		t.Fatal(err)
	}
	got := slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "debug" })
	if want := options.String(); !m.Ours || m.ReadOnly || m.Dir != original.Dir || strings.Join(got, ",") != want {
		t.Errorf("mounted %+v, want options %s", m, want)
	}
	_, err = host.Mount(options)
	wantError(t, err, unix.EBUSY)

	tree, err := m.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	wantError(t, host.Unmount(m), unix.EBUSY, "open")
	group := Name{Control: "foreign"}
	if tree.Info().CLOSIDs() == 0 {
		group = Name{Monitor: "foreign"}
	}
	waitForRMID(t, func() error { return tree.Create(group) })
	if tree.Info().RMIDs() > 0 {
		if g, err := tree.Open(group); err != nil {
			t.Error(err)
		} else if _, err := g.Read(nil); err != nil {
			t.Error(err)
		}
	}
	if err := tree.Close(); err != nil {
		t.Fatal(err)
	}
	wantError(t, host.Unmount(m), fs.ErrPermission, "foreign", "was not made by owca")
	if tree, err = m.Open(); err != nil {
		t.Fatal(err)
	}
	if err := tree.rmdir(group); err != nil {
		t.Fatal(err)
	}
	if err := tree.Close(); err != nil {
		t.Fatal(err)
	}
	if err := host.Unmount(m); err != nil {
		t.Fatal(err)
	}

	// Detached while a tree is open, it cannot be mounted anew before that is closed.
	if m, err = host.Mount(MountOptions{}); err != nil {
		t.Fatal(err)
	}
	if tree, err = m.Open(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(m.Dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	wantError(t, tree.Alive(), ErrGone)
	_, err = host.Mount(MountOptions{})
	wantError(t, err, unix.EBUSY, "umount -l")
	if err := tree.Close(); err != nil {
		t.Fatal(err)
	}
	if m, err = host.Mount(MountOptions{}); err != nil {
		t.Fatal(err)
	}
	if tree.Alive() == nil {
		t.Error("a closed tree is alive")
	}
	if _, err := os.Stat("/sys/fs/resctrl/info/L2"); err != nil {
		if err := host.Unmount(m); err != nil {
			t.Fatal(err)
		}
		_, err = host.Mount(MountOptions{CDPL2: true})
		wantError(t, err, errors.ErrUnsupported, "cdpl2")
	}
}
