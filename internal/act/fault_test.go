package act

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/hosttest"
)

// logged is what the Actor logs from now on.
func (r *rig) logged() *bytes.Buffer {
	var b bytes.Buffer
	r.actor.log = slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelInfo}))
	return &b
}

// told checks that a text was logged once.
func told(t *testing.T, log *bytes.Buffer, text string) {
	t.Helper()
	if n := strings.Count(log.String(), text); n != 1 {
		t.Errorf("%q was logged %d times:\n%s", text, n, log)
	}
}

// mounts are file systems for this test only, one of a few pages and one that is read-only.
// The test must not start goroutines that look at them.
func mounts(t *testing.T) (small, readOnly string) {
	t.Helper()
	hosttest.Need(t, "root")
	runtime.LockOSThread() // for good: the thread, with its mounts, ends with the test
	if err := syscall.Unshare(syscall.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	mount := func(flags uintptr) string {
		dir := t.TempDir()
		if err := syscall.Mount("tmpfs", dir, "tmpfs", flags, "size=64k"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
		return dir
	}
	return mount(0), mount(syscall.MS_RDONLY)
}

// Without a lease on disk nothing is changed, and what is leased can be given back.
func TestFaultJournalDisk(t *testing.T) {
	disk, readOnly := mounts(t)
	for name, fault := range map[string]struct {
		errno       error
		begin, ends func(*Journal) error
	}{
		"full": {
			syscall.ENOSPC,
			func(*Journal) error {
				err := os.WriteFile(filepath.Join(disk, "filler"), make([]byte, 128<<10), 0o600)
				if !errors.Is(err, syscall.ENOSPC) {
					return errors.Join(errors.New("the disk is not full"), err)
				}
				return nil
			},
			func(*Journal) error { return os.Remove(filepath.Join(disk, "filler")) },
		},
		"read-only": {
			syscall.EROFS,
			// The kernel lets no disk become read-only on which files are open, as is the
			// lock: the journal is made anew on another one.
			func(j *Journal) error {
				err := j.file.Close()
				j.dir, j.file, j.stale = readOnly, nil, true
				return err
			},
			func(j *Journal) error { j.dir = filepath.Join(disk, "read-only"); return nil },
		},
	} {
		// No subtest, which would run on another thread.
		r := newRig(t, func(o *Options) { o.StateDir = filepath.Join(disk, name) })
		r.dir = filepath.Join(disk, name)
		a, b := hosttest.NewCgroup(t, nil, "fault-a-"+name), hosttest.NewCgroup(t, nil, "fault-b-"+name)
		ida, idb := r.task("a", a), r.task("b", b)
		r.readHost()
		r.tick(quota(ida, 0.25))
		log := r.logged()

		if err := fault.begin(r.actor.journal); err != nil {
			t.Fatal(name, err)
		}
		decided := map[owca.TaskID]owca.Allocations{
			idb: {owca.CPUQuota: {Number: 0.25, Reason: strings.Repeat("more than is left of a page ", 200)}},
		}
		for range 3 {
			report := r.tick(decided)
			r.want(b, cgroup.CPUMax, unlimitedCPU)
			if len(report.Changes) > 0 {
				t.Errorf("%s: %+v", name, report)
			}
			for _, f := range report.Failed {
				if !errors.Is(f.Err, fault.errno) {
					t.Errorf("%s: %v", name, f.Err)
				}
			}
		}
		if r.actor.Stats().JournalErrors == 0 {
			t.Errorf("%s: no error is counted", name)
		}
		told(t, log, "the journal of leases cannot be written")
		told(t, log, "a decision is not in effect")
		r.tick(map[owca.TaskID]owca.Allocations{ida: {owca.CPUQuota: {Release: true}}})
		r.want(a, cgroup.CPUMax, unlimitedCPU)

		if err := fault.ends(r.actor.journal); err != nil {
			t.Fatal(name, err)
		}
		r.now += time.Minute
		r.tick(nil)
		r.want(b, cgroup.CPUMax, r.quotaOf(0.25))
		told(t, log, "a decision is in effect now")
		r.close()
		r.want(b, cgroup.CPUMax, unlimitedCPU)
	}
}

// A cgroup that vanishes between plan and write is nothing to talk about.
func TestFaultVanishes(t *testing.T) {
	r := newRig(t)
	a, b := hosttest.NewCgroup(t, nil, "fault-a"), hosttest.NewCgroup(t, nil, "fault-b")
	ida, idb := r.task("a", a), r.task("b", b)
	r.readHost()
	log := r.logged()
	r.tick(nil)
	decided := quota(ida, 0.25)
	decided[idb] = quota(idb, 0.25)[idb]
	r.actor.tick++
	r.actor.merge([]Decided{{Owner: "test", Allocations: decided}})
	planned, err := r.actor.plan()
	if err != nil || len(planned.Changes) != 2 {
		t.Fatal(planned, err)
	}
	a.Remove()
	var report Report
	r.actor.make(time.Now(), planned.Changes, &report)
	for _, s := range r.actor.asked {
		r.actor.settle(s)
	}
	if len(report.Failed) != 1 || !errors.Is(report.Failed[0].Err, cgroup.ErrGone) || len(report.Changes) != 1 {
		t.Errorf("%+v", report)
	}
	r.want(b, cgroup.CPUMax, r.quotaOf(0.25))
	r.leases(1)
	for range 3 {
		r.now += time.Minute
		r.tick(decided)
	}
	if text := log.String(); strings.Contains(text, "level=WARN") || strings.Contains(text, "level=ERROR") {
		t.Error(text)
	}
	// It comes back.
	a = hosttest.NewCgroup(t, nil, "fault-a")
	r.now += 10 * time.Minute
	r.tick(decided)
	r.want(a, cgroup.CPUMax, r.quotaOf(0.25))
	r.close()
}

// What the kernel refuses is told once, and tried again less and less often, as long as it
// is the same; other changes are made.
func TestFaultParentLowered(t *testing.T) {
	r := newRig(t)
	if r.tree.V1("cpu") == "" {
		hosttest.Need(t, "cgroup1") // v2 takes a quota above the parent's
	}
	parent := hosttest.NewCgroup(t, nil, "fault-parent")
	child, other := hosttest.NewCgroup(t, parent, "child"), hosttest.NewCgroup(t, nil, "fault-other")
	id, ido := r.task("child", child), r.task("other", other)
	r.readHost()
	log := r.logged()
	r.tick(nil)
	decided := quota(id, 0.5)
	decided[ido] = quota(ido, 0.5)[ido]
	r.actor.tick++
	r.actor.merge([]Decided{{Owner: "test", Allocations: decided}})
	planned, err := r.actor.plan()
	if err != nil {
		t.Fatal(err)
	}
	r.set(parent, cgroup.CPUMax, "5000 100000")
	var report Report
	r.actor.make(time.Now(), planned.Changes, &report)
	for _, s := range r.actor.asked {
		r.actor.settle(s)
	}
	if len(report.Failed) != 1 || !errors.Is(report.Failed[0].Err, syscall.EINVAL) {
		t.Errorf("%+v", report)
	}
	r.want(other, cgroup.CPUMax, r.quotaOf(0.5))
	r.want(child, cgroup.CPUMax, unlimitedCPU)
	r.leases(1)
	// The next time it is known.
	r.now += time.Minute
	r.tick(decided)
	r.want(child, cgroup.CPUMax, "5000 100000")
	if text := log.String(); strings.Contains(text, "level=WARN") || strings.Contains(text, "level=ERROR") {
		t.Error(text)
	}
	r.close()
}

// A cgroup below has more of its own (v1: EINVAL): refused, with the reason.
func TestFaultChildHasMore(t *testing.T) {
	r := newRig(t)
	if r.tree.V1("cpu") == "" {
		hosttest.Need(t, "cgroup1") // v2 takes it
	}
	c := hosttest.NewCgroup(t, nil, "fault-parent")
	child := hosttest.NewCgroup(t, c, "child")
	r.set(child, cgroup.CPUMax, "90000 100000")
	id := r.task("one", c)
	log := r.logged()
	for range 10 {
		r.tick(quota(id, 0.1))
		r.now += time.Second
	}
	r.want(c, cgroup.CPUMax, unlimitedCPU)
	told(t, log, child.Path)
	r.leases(0)
	if n := r.actor.Stats(); n.Failed != 1 || n.Refused != 1 {
		t.Errorf("%+v", n)
	}
	// Once that is out of the way it is in effect.
	r.set(child, cgroup.CPUMax, unlimitedCPU)
	r.now += lastRetry
	r.tick(nil)
	r.leases(1)
	r.close()
	r.want(c, cgroup.CPUMax, unlimitedCPU)
}

// v1 refuses a cpuset without cpus that a cgroup below has (EBUSY).
func TestFaultBusyCpuset(t *testing.T) {
	hosttest.Need(t, "smp")
	r := newRig(t)
	if r.tree.V1("cpuset") == "" {
		hosttest.Need(t, "cgroup1") // v2 takes it
	}
	c := hosttest.NewCgroup(t, nil, "fault-cpuset")
	child := hosttest.NewCgroup(t, c, "child")
	before := r.get(c, cgroup.CPUSetCPUList)
	id := r.task("one", c)
	log := r.logged()
	decided := map[owca.TaskID]owca.Allocations{id: {owca.CPUSetCPUs: {Text: "0"}, owca.CPUShares: {Number: 2}}}
	for range 10 {
		r.tick(decided)
		r.now += time.Second
	}
	r.want(c, cgroup.CPUSetCPUList, before)
	// After the kernel has refused it, the plan knows why.
	told(t, log, "cgroups below "+c.Path+" have "+before)
	if n := r.actor.Stats().Failed; n != 1 {
		t.Errorf("it was tried %d times in 10 s", n)
	}
	r.leases(1) // the shares
	r.set(child, cgroup.CPUSetCPUList, "0")
	// The time of day is nobody's business.
	r.now += time.Minute
	if _, err := r.actor.Apply(time.Now().Add(-24*time.Hour), r.tasks, nil); err != nil {
		t.Fatal(err)
	}
	r.want(c, cgroup.CPUSetCPUList, "0")
	told(t, log, "a decision is in effect now")
	r.close()
	r.want(c, cgroup.CPUSetCPUList, before)
}

// withoutOverride runs f without CAP_DAC_OVERRIDE.
func withoutOverride(t *testing.T, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// capget(2), _LINUX_CAPABILITY_VERSION_3
	type set [3]uint32 // effective, permitted, inheritable
	header := struct {
		version uint32
		pid     int32
	}{version: 0x20080522}
	var caps [2]set
	call := func(nr uintptr, caps *[2]set) {
		if _, _, errno := syscall.RawSyscall(nr, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(caps)), 0); errno != 0 {
			t.Fatal(errno)
		}
	}
	call(syscall.SYS_CAPGET, &caps)
	less := caps
	less[0][0] &^= 1<<1 | 1<<2 // CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
	call(syscall.SYS_CAPSET, &less)
	defer call(syscall.SYS_CAPSET, &caps)
	f()
}

func TestFaultNoPermission(t *testing.T) {
	r := newRig(t)
	c := hosttest.NewCgroup(t, nil, "fault")
	id := r.task("one", c)
	r.readHost()
	control, err := r.tree.Control(c.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	if err := os.Chmod(control.File(cgroup.CPUMax), 0o444); err != nil {
		t.Fatal(err)
	}
	log := r.logged()
	withoutOverride(t, func() {
		for range 3 {
			r.tick(quota(id, 0.25))
		}
	})
	r.want(c, cgroup.CPUMax, unlimitedCPU)
	r.leases(0)
	told(t, log, control.File(cgroup.CPUMax))
	told(t, log, "CAP_DAC_OVERRIDE")
	r.now += time.Minute
	r.tick(nil)
	r.want(c, cgroup.CPUMax, r.quotaOf(0.25))
	// A limit that cannot be given back stays leased, for whoever can.
	dir := r.dir
	withoutOverride(t, func() {
		if err := r.actor.Close(); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("Close: %v", err)
		}
	})
	r.actor = nil
	if left, _, _, err := ReadJournal(dir); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
	r.start()
	r.want(c, cgroup.CPUMax, unlimitedCPU)
	r.close()
}

func TestFaultStartWithoutPermission(t *testing.T) {
	hosttest.Need(t, "root")
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Of this thread only.
	euid := func(uid uintptr) {
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, ^uintptr(0), uid, ^uintptr(0)); errno != 0 {
			t.Fatal(errno)
		}
	}
	dir := t.TempDir()
	euid(65534)
	defer euid(0)
	if err := New("/").Start(Options{StateDir: dir}); !errors.Is(err, fs.ErrPermission) {
		t.Error(err)
	}
}
