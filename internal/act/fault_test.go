package act

import (
	"bytes"
	"errors"
	"fmt"
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
		for _, of := range []error{syscall.ENOSPC, syscall.EROFS} {
			if hint := hintOf(of); strings.Contains(log.String(), hint) {
				t.Errorf("%s: what to do about a cgroup's %v is told of the journal's", name, of)
			}
		}
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
	s := r.actor.standing[decisionKey{id, owca.CPUQuota}]
	if !s.lookClosely {
		t.Error("it does not look for what is in the way")
	}
	// Once that is out of the way it is in effect.
	r.set(child, cgroup.CPUMax, unlimitedCPU)
	r.now += lastRetry
	r.tick(nil)
	r.leases(1)
	if s.lookClosely {
		t.Error("it goes on to look")
	}
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

// withoutFiles runs f without a file descriptor left.
func withoutFiles(t *testing.T, f func()) {
	t.Helper()
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}

// A limit that could not be set, nor looked at, for want of file descriptors is not leased, and is
// set later.
func TestFaultNoFiles(t *testing.T) {
	r := newRig(t)
	c, other := hosttest.NewCgroup(t, nil, "fault"), hosttest.NewCgroup(t, nil, "fault-other")
	id, ido := r.task("one", c), r.task("other", other)
	r.readHost()
	r.actor.tree.KeepFiles = 0
	r.tick(quota(ido, 0.5)) // the journal is open
	r.actor.tick++
	r.actor.merge([]Decided{decide("test", quota(id, 0.25))})
	planned, err := r.actor.plan()
	if err != nil {
		t.Fatal(err)
	}
	var report Report
	withoutFiles(t, func() { r.actor.make(time.Now(), planned.Changes, &report) })
	for _, s := range r.actor.asked {
		r.actor.settle(s)
	}
	r.actor.sync()
	if len(report.Failed) != 1 || !errors.Is(report.Failed[0].Err, syscall.EMFILE) {
		t.Errorf("%+v", report)
	}
	r.leases(1)
	r.want(c, cgroup.CPUMax, unlimitedCPU)
	r.tick(nil)
	r.now += lastRetry
	r.tick(nil)
	r.want(c, cgroup.CPUMax, r.quotaOf(0.25))
	r.leases(2)
	r.ended(EndForeign, 0)
	r.close()
	r.want(c, cgroup.CPUMax, unlimitedCPU)
}

// A new decision takes what somebody else has set since it was looked at last, as it takes what is
// known to be somebody else's.
func TestFaultDecidedOverForeign(t *testing.T) {
	r := newRig(t)
	c := hosttest.NewCgroup(t, nil, "fault")
	id := r.task("one", c)
	r.readHost()
	r.tick(quota(id, 0.5))
	const foreign = "10000 100000"
	r.actor.Observe(time.Now(), r.tasks)
	r.set(c, cgroup.CPUMax, foreign)
	report, err := r.actor.Apply(time.Now(), r.tasks, []Decided{decide("test", quota(id, 0.7))})
	if err != nil || len(report.Failed) != 1 || !errors.Is(report.Failed[0].Err, cgroup.ErrChanged) {
		t.Errorf("%+v, %v", report, err)
	}
	r.want(c, cgroup.CPUMax, foreign)
	r.ended(EndForeign, 1)
	r.now += absentRetry
	for range 3 {
		r.tick(quota(id, 0.7))
	}
	r.want(c, cgroup.CPUMax, r.quotaOf(0.7))
	if l := r.actor.Leases(); len(l) != 1 || l[0].First != foreign {
		t.Errorf("%+v", l)
	}
	// Only once: from now on it yields.
	r.set(c, cgroup.CPUMax, foreign)
	for range 3 {
		r.now += lastRetry
		r.tick(quota(id, 0.7))
	}
	r.want(c, cgroup.CPUMax, foreign)
	r.ended(EndForeign, 2)
	r.close()
	r.want(c, cgroup.CPUMax, foreign)
}

// What was decided earlier takes nothing that somebody else has set since.
func TestFaultBoundedOverForeign(t *testing.T) {
	r := newRig(t)
	parent := hosttest.NewCgroup(t, nil, "fault-parent")
	delegate(t, parent)
	c := hosttest.NewCgroup(t, parent, "child")
	id := r.task("one", c)
	r.readHost()
	r.set(parent, cgroup.CPUMax, "20000 100000")
	r.tick(quota(id, 0.5))
	r.want(c, cgroup.CPUMax, "20000 100000")
	r.set(parent, cgroup.CPUMax, "30000 100000")
	r.now += hostPace
	r.actor.Observe(time.Now(), r.tasks)
	r.set(c, cgroup.CPUMax, "10000 100000")
	report, err := r.actor.Apply(time.Now(), r.tasks, nil)
	if err != nil || len(report.Failed) != 1 || !errors.Is(report.Failed[0].Err, cgroup.ErrChanged) {
		t.Errorf("%+v, %v", report, err)
	}
	for range 3 {
		r.now += lastRetry
		r.tick(quota(id, 0.5))
	}
	r.want(c, cgroup.CPUMax, "10000 100000")
	r.ended(EndForeign, 1)
	r.close()
	r.want(c, cgroup.CPUMax, "10000 100000")
}

// A burst that somebody has set is in the way of a lower quota (EINVAL); once that is known, it is
// as much as the quota, and comes back with it.
func TestFaultBurst(t *testing.T) {
	r := newRig(t)
	c := hosttest.NewCgroup(t, nil, "fault")
	id := r.task("one", c)
	r.readHost()
	const first, burst = "400000 100000", "100000"
	r.set(c, cgroup.CPUMax, first)
	r.set(c, cgroup.CPUMaxBurst, burst)
	decided := quota(id, 0.5/float64(r.actor.host.cpus))
	log := r.logged()
	report := r.tick(decided)
	if len(report.Changes) > 0 || len(report.Failed) != 1 || !errors.Is(report.Failed[0].Err, syscall.EINVAL) {
		t.Errorf("%+v", report)
	}
	r.want(c, cgroup.CPUMax, first)
	r.leases(0)
	r.now += firstRetry
	report = r.tick(decided)
	if len(report.Changes) != 2 || len(report.Failed)+len(report.Refused) > 0 {
		t.Errorf("%+v", report)
	}
	r.want(c, cgroup.CPUMax, "50000 100000")
	r.want(c, cgroup.CPUMaxBurst, "50000")
	r.leases(2)
	for range 3 {
		r.now += lastRetry
		if report := r.tick(decided); len(report.Changes) > 0 {
			t.Errorf("%+v", report)
		}
	}
	if n := r.actor.Stats().Failed; n != 1 {
		t.Errorf("%d failures", n)
	}
	if strings.Contains(log.String(), "level=WARN") {
		t.Error(log)
	}
	r.close()
	r.want(c, cgroup.CPUMax, first)
	r.want(c, cgroup.CPUMaxBurst, burst)
}

// What is left of a change that was half made is a lease, if anything of it is owca's.
func TestFaultHalfMade(t *testing.T) {
	const old, wanted = unlimitedCPU, "25000 50000"
	half := fmt.Errorf("writing: %w", cgroup.ErrHalf)
	for name, test := range map[string]struct {
		left string // "": the cgroup is gone
		err  error
		ours bool
	}{
		"a part":           {"25000 100000", half, true},
		"all":              {wanted, half, true},
		"nothing":          {old, half, false},
		"somebody else's":  {"70000 70000", half, false},
		"none was written": {"25000 100000", syscall.EINVAL, false},
		"gone":             {"", half, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			cg := hosttest.NewCgroup(t, nil, "fault")
			r.task("one", cg)
			r.tick(nil)
			r.readHost()
			n, err := r.actor.openNode(cg.Path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := n.Get(cgroup.CPUMax); err != nil {
				t.Fatal(err)
			}
			c := Change{
				Target: Target{Cgroup: cg.Path, Knob: cgroup.CPUMax}, ID: n.ID(cgroup.CPUMax), For: "one",
				Kind: owca.CPUQuota, Owner: "test", Old: old, New: wanted,
			}
			if err := r.actor.journal.Take(time.Now(), []Change{c}); err != nil {
				t.Fatal(err)
			}
			if test.left != "" {
				r.set(cg, cgroup.CPUMax, test.left)
			} else {
				cg.Remove()
			}
			r.actor.unmade(&c, test.err)
			r.actor.sync()
			left, _, _, err := ReadJournal(r.dir)
			if err != nil {
				t.Fatal(err)
			}
			if held := r.actor.leases[c.Target] != nil; held != test.ours || len(left) > 0 != test.ours {
				t.Fatalf("leased: %v, in the journal: %v", held, left)
			}
			if test.ours && (left[0].New != test.left || left[0].First != old) {
				t.Errorf("%+v", left[0])
			}
			r.close()
			if test.ours {
				r.want(cg, cgroup.CPUMax, old)
			} else if test.left != "" {
				r.want(cg, cgroup.CPUMax, test.left)
			}
		})
	}
}

// Where it cannot be read how much of a change was made, it is what the next look finds.
func TestFaultHalfMadeUnread(t *testing.T) {
	for _, made := range []bool{false, true} {
		r := newRig(t)
		cg := hosttest.NewCgroup(t, nil, fmt.Sprint("fault-", made))
		id := r.task("one", cg)
		r.readHost()
		r.actor.tree.KeepFiles = 0
		r.tick(quota(id, 0.5))
		r.actor.Observe(time.Now(), r.tasks)
		r.actor.tick++
		r.actor.merge([]Decided{decide("test", quota(id, 0.25))})
		planned, err := r.actor.plan()
		if err != nil || len(planned.Changes) != 1 {
			t.Fatal(planned, err)
		}
		c := &planned.Changes[0]
		if err := r.actor.journal.Take(time.Now(), planned.Changes); err != nil {
			t.Fatal(err)
		}
		left := c.Old
		if made {
			left = c.New
			r.set(cg, cgroup.CPUMax, left)
		}
		withoutFiles(t, func() { r.actor.unmade(c, cgroup.ErrHalf) })
		for _, s := range r.actor.asked {
			r.actor.trouble(s, "half made")
			r.actor.settle(s)
		}
		r.tick(nil)
		r.ended(EndForeign, 0)
		if l := r.actor.Leases(); len(l) != 1 || l[0].New != left || l[0].First != unlimitedCPU {
			t.Errorf("made %v: %+v", made, l)
		}
		r.now += lastRetry
		r.tick(nil)
		r.want(cg, cgroup.CPUMax, r.quotaOf(0.25))
		r.ended(EndForeign, 0)
		r.close()
		r.want(cg, cgroup.CPUMax, unlimitedCPU)
	}
}

// A limit that no decision stands for is told once as not set, and once as set; and is forgotten
// with its task, or its task's cgroups.
func TestFaultUnsetIsToldOnce(t *testing.T) {
	r := newRig(t)
	a, b := hosttest.NewCgroup(t, nil, "fault-a"), hosttest.NewCgroup(t, nil, "fault-b")
	id := r.task("one", a, b)
	r.task("other", hosttest.NewCgroup(t, nil, "fault-other"))
	r.readHost()
	r.tick(nil)
	log := r.logged()
	set := func(value string, fails bool) {
		t.Helper()
		n, err := r.actor.openNode(a.Path)
		if err != nil {
			t.Fatal(err)
		}
		now, err := n.Get(cgroup.CPUMax)
		if err != nil {
			t.Fatal(err)
		}
		c := Change{
			Target: Target{Cgroup: a.Path, Knob: cgroup.CPUMax}, ID: n.ID(cgroup.CPUMax), For: id,
			Kind: owca.CPUBurst, Owner: "test", Old: now, New: value,
		}
		var report Report
		r.actor.make(time.Now(), []Change{c}, &report)
		if len(report.Failed) > 0 != fails {
			t.Errorf("%s: %+v", value, report)
		}
	}
	const invalid, message = "1 100000", "a limit could not be set"
	for range 3 {
		set(invalid, true)
	}
	told(t, log, message)
	set("50000 100000", false)
	set("60000 100000", false)
	told(t, log, "works again")
	tasks, cgroups := r.tasks, r.tasks[0].Cgroups
	for name, way := range map[string]func(){
		"its cgroups": func() { r.tasks[0].Cgroups = cgroups[:1] },
		"it":          func() { r.tasks = tasks[1:] },
	} {
		log.Reset()
		set(invalid, true)
		told(t, log, message)
		way()
		r.tick(nil)
		if n := len(r.actor.unset); n > 0 {
			t.Errorf("%s: %d are kept", name, n)
		}
		r.tasks = tasks
		r.tasks[0].Cgroups = cgroups
		r.tick(nil)
	}
	r.close()
}
