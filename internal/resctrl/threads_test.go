package resctrl

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/hosttest"
)

func FuzzIDList(f *testing.F) {
	f.Add([]byte("1\n22\n4194304\n"), 3)
	f.Add([]byte(""), 0)
	f.Add([]byte("12"), 1)
	f.Add([]byte("1\n\n"), 1)
	f.Add([]byte("-1\n"), 1)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		parse := func(pieces ...[]byte) (ids []int, err error) {
			var l idList
			for _, p := range pieces {
				if ids, err = l.parse(ids, p); err != nil {
					return nil, err
				}
			}
			return l.end(ids)
		}
		ids, err := parse(b)
		cut = max(0, min(cut, len(b)))
		if again, errAgain := parse(b[:cut], b[cut:]); !slices.Equal(ids, again) && err == nil || (err == nil) != (errAgain == nil) {
			t.Errorf("in pieces %v, %v, as a whole %v, %v", again, errAgain, ids, err)
		}
		if err != nil {
			if !errors.Is(err, errIDList) {
				t.Error(err)
			}
			return
		}
		var text []byte
		for _, id := range ids {
			text = append(strconv.AppendInt(text, int64(id), 10), '\n')
		}
		if len(ids) != bytes.Count(b, []byte("\n")) || len(text) > len(b) {
			t.Errorf("%v of %q", ids, b)
		}
	})
}

func FuzzLocation(f *testing.F) {
	for _, s := range []string{"res:/\nmon:\n", "res:g\nmon:x\n", "res:/\nmon:owca-x\n", "res:\nmon:\n", "res:\nmon:x\n", "", "res:g\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := parseLocation(b)
		if err != nil {
			if n != (Name{}) {
				t.Errorf("%v with %v", n, err)
			}
			return
		}
		control := n.Control
		if control == "" {
			control = "/"
		}
		if again := "res:" + control + "\nmon:" + n.Monitor + "\n"; again != string(b) && "res:/"+again[len("res:"):] != string(b) {
			t.Errorf("%q is %+v", b, n)
		}
	})
}

func TestLocation(t *testing.T) {
	for text, want := range map[string]Name{"res:/\nmon:\n": {}, "res:g\nmon:x\n": {"g", "x"}, "res:/\nmon:x\n": {"", "x"}, "res:g\nmon:\n": {"g", ""}} {
		if n, err := parseLocation([]byte(text)); err != nil || n != want {
			t.Errorf("%q is %+v, %v", text, n, err)
		}
	}
	_, err := parseLocation([]byte("res:\nmon:\n"))
	wantError(t, err, ErrNotMounted)
}

// kernelModel refuses thread ids as rdtgroup_tasks_write does.
type kernelModel struct {
	commas, says bool // since 6.7; since 4.15
	ended        map[int]bool
	foreign      map[int]bool
	elsewhere    map[int]bool // in another control group
	privileged   bool

	// lies is another program's thread that failed since, as the status tells it.
	lies   int
	text   string
	writes int
	group  map[int]bool
}

func (k *kernelModel) write(b []byte) error {
	k.writes++
	if len(b) > maxWrite {
		return unix.E2BIG
	}
	list := strings.Split(strings.TrimSuffix(string(b), "\n"), ",")
	if !k.commas && len(list) > 1 {
		return unix.EINVAL // without a word
	}
	k.text = ""
	for _, s := range list {
		tid, err := strconv.Atoi(s)
		if err != nil {
			k.text = "Task list parsing error pid " + s + "\n"
			return unix.EINVAL
		}
		switch {
		case k.ended[tid]:
			k.text, err = fmt.Sprintf("No task %d\n", tid), unix.ESRCH
		case k.foreign[tid] && !k.privileged:
			k.text, err = fmt.Sprintf("No permission to move task %d\n", tid), unix.EPERM
		case k.elsewhere[tid]:
			k.text, err = "Can't move task to different control group\n", unix.EINVAL
		}
		if err != nil {
			if k.commas {
				k.text += fmt.Sprintf("Error while processing task %d\n", tid)
			}
			return err
		}
		k.group[tid] = true
	}
	return nil
}

func (k *kernelModel) status() string {
	if !k.says {
		return ""
	}
	if k.lies > 0 {
		return fmt.Sprintf("No task %d\nError while processing task %[1]d\n", k.lies)
	}
	return k.text
}

func (k *kernelModel) inside(tids []int) bool {
	return len(tids) == 0 || k.group[tids[len(tids)-1]]
}

// TestMove is on models of kernels that no VM has: whatever threads end, belong to
// others or are elsewhere, all others are moved.
func TestMove(t *testing.T) {
	random := rand.New(rand.NewPCG(4, 2))
	for round := range 400 {
		k := &kernelModel{commas: round%2 == 0, says: round%3 != 0, ended: map[int]bool{}, foreign: map[int]bool{}, elsewhere: map[int]bool{}, group: map[int]bool{}}
		may := round%5 != 0 // become euid 0
		tree := &Tree{buf: make([]byte, 8192)}
		if !may {
			tree.euid0Err = errNoEUID0
		}
		tids := random.Perm(1 + random.IntN(2500))
		if round%7 == 0 {
			k.lies = tids[random.IntN(len(tids))] + 1
		}
		bad := random.Float64() * random.Float64()
		for i, tid := range tids {
			tids[i] = tid + 1
			if random.Float64() > bad {
				continue
			}
			[]map[int]bool{k.ended, k.foreign, k.elsewhere}[random.IntN(3)][tid+1] = true
		}
		want := 0
		for _, tid := range tids {
			if !k.ended[tid] && (may || !k.foreign[tid]) {
				want++
			}
		}
		m := mover{tree: tree, path: "tasks", write: k.write, status: k.status, inside: k.inside,
			become: func() bool {
				changed := may && !k.privileged
				k.privileged = k.privileged || may
				return changed
			},
			control: func(tids []int) error {
				for _, tid := range tids {
					delete(k.elsewhere, tid)
				}
				return nil
			}}
		clean := len(k.ended)+len(k.foreign)+len(k.elsewhere) == 0
		moved, err := m.move(tids)
		if moved != want || len(k.group) != want {
			t.Fatalf("round %d: %d of %d moved, %d are in the group, %d are to be (%v)", round, moved, len(tids), len(k.group), want, err)
		}
		if (err == nil) != (may || len(k.foreign) == 0) {
			t.Fatalf("round %d: %v", round, err)
		}
		if err != nil && !errors.Is(err, fs.ErrPermission) {
			t.Fatal(err)
		}
		if err != nil && strings.Count(err.Error(), "\n") > maxProblems {
			t.Fatalf("%d lines: %v", strings.Count(err.Error(), "\n"), err)
		}
		if clean && k.commas && k.writes > 1+len(tids)/300 {
			t.Errorf("round %d: %d writes for %d threads", round, k.writes, len(tids))
		}
		if !k.commas && k.writes > 2*len(tids)+len(k.elsewhere)+20 {
			t.Errorf("round %d: %d writes for %d threads on an old kernel", round, k.writes, len(tids))
		}
	}
	k := &kernelModel{commas: true, says: true, group: map[int]bool{}}
	m := mover{tree: &Tree{}, write: k.write, status: k.status, inside: k.inside, become: func() bool { return false }}
	moved, err := m.move([]int{0, 1, -1, 2})
	if moved != 2 || !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("%d, %v", moved, err)
	}
}

// TestEUID0Refused: only what stays so is taken for want of the capability.
func TestEUID0Refused(t *testing.T) {
	wantError(t, euid0Refused(unix.EPERM), errNoEUID0)
	for _, errno := range []unix.Errno{unix.EINVAL, unix.EAGAIN, unix.ENOSYS} {
		err := euid0Refused(errno)
		if wantError(t, err, errno, "setresuid"); errors.Is(err, errNoEUID0) || strings.Contains(err.Error(), "CAP_SETUID") {
			t.Error(err)
		}
	}
}

// TestHostHidden is an agent to whom /proc does not show the processes of others.
func TestHostHidden(t *testing.T) {
	tree := openHost(t, "/L3_MON")
	load := hosttest.NewCgroup(t, nil, "resctrl-hidden").Start("threads 3")
	load.Done()
	waitForRMID(t, func() error { return tree.Create(Name{Monitor: MonitorName("/hidden")}) })
	binary := publicBinary(t)
	for _, hidepid := range []string{"1", "2"} {
		asChild(t, binary, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}, "hidepid", binary, hidepid, strconv.Itoa(load.Pid))
	}
}

// hidepidChild has a mount namespace of its own, where it hides processes from an
// ordinary user, who is the agent.
func hidepidChild(args []string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	entries, err := os.ReadDir("/proc/" + args[2] + "/task")
	if err != nil {
		return err
	}
	tids := ""
	for _, e := range entries {
		tids += " " + e.Name()
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, "hidepid="+args[1]); err != nil {
		return err
	}
	agent := exec.Command(args[0])
	agent.Env = append(os.Environ(), childVariable+"=hidden", childVariable+"_ARGS="+tids)
	agent.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}, AmbientCaps: []uintptr{unix.CAP_DAC_OVERRIDE, unix.CAP_SETUID}}
	if out, err := agent.CombinedOutput(); err != nil {
		return fmt.Errorf("hidepid=%s: %w\n%s", args[1], err, out)
	}
	return nil
}

// hiddenChild is the agent; its arguments are threads that it cannot see.
func hiddenChild(args []string) error {
	tree, err := openMounted()
	if err != nil {
		return err
	}
	list := func(buf []int) ([]int, error) {
		for _, a := range args {
			tid, err := strconv.Atoi(a)
			if err != nil {
				return buf, err
			}
			buf = append(buf, tid)
		}
		return buf, nil
	}
	tids, err := list(nil)
	if err != nil {
		return err
	}
	told := func(err error) bool {
		return errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrNotExist) && strings.Contains(err.Error(), "hidepid")
	}
	if at, err := tree.Locate(tids[0]); !told(err) {
		return fmt.Errorf("located in %s: %w", at, err)
	}
	if _, err := tree.Locate(os.Getpid()); err != nil {
		return err
	}
	if _, err := tree.Watch([]string{"/none"}, nil, list); !told(err) {
		return fmt.Errorf("where most threads are: %w", err)
	}
	groups, err := tree.Groups(nil)
	if err != nil {
		return err
	}
	w, err := tree.Watch([]string{"/hidden"}, groups, list)
	if err != nil {
		return err
	}
	for _, full := range []bool{false, true} {
		if f, err := w.Follow(list, full); !told(err) || f.Refused != len(tids) || f.Moved != 0 {
			return fmt.Errorf("followed: %+v, %w", f, err)
		}
	}
	return errors.Join(w.Close(), tree.Close())
}

// gonePid is the id of a process that has ended.
func gonePid(t *testing.T) int {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^$")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

func threadsOf(t *testing.T, pid int) []int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	var tids []int
	for _, e := range entries {
		tid, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		tids = append(tids, tid)
	}
	return tids
}

func TestHostAdd(t *testing.T) {
	tree := openHost(t, "/L3_MON")
	load := hosttest.NewCgroup(t, nil, "resctrl-add").Start("threads 30")
	load.Done()
	tids := threadsOf(t, load.Pid)
	gone := gonePid(t)
	a := Name{Monitor: "owca-a"}
	waitForRMID(t, func() error { return tree.Create(a) })
	check := func(n Name, want []int) {
		t.Helper()
		got, err := tree.Threads(n, []int{-7})
		if err != nil || got[0] != -7 {
			t.Fatalf("%v, %v", got, err)
		}
		got = got[1:]
		listed := n != (Name{}) || tree.Info().CLOSIDs() > 0
		if !listed && len(got) > 0 {
			t.Errorf("%d threads are in %s, where nothing can be allocated", len(got), n)
		}
		for _, tid := range want {
			if listed && !slices.Contains(got, tid) {
				t.Errorf("thread %d is not in %s", tid, n)
			}
			if at, err := tree.Locate(tid); err != nil || at != n {
				t.Errorf("thread %d is in %v, %v, want %v", tid, at, err, n)
			}
		}
		if n != (Name{}) && len(got) != len(want) {
			t.Errorf("%d threads are in %s, want %d", len(got), n, len(want))
		}
	}
	// Those behind one that has ended are moved nevertheless.
	list := slices.Concat(tids[:3], []int{gone}, tids[3:6], []int{gone, gone}, tids[6:], []int{gone})
	if moved, err := tree.Add(a, list); moved != len(tids) || err != nil {
		t.Errorf("%d moved of %d, %v", moved, len(tids), err)
	}
	check(a, tids)
	moved, err := tree.Add(a, []int{gone})
	if moved != 0 || err != nil {
		t.Errorf("%d, %v", moved, err)
	}
	moved, err = tree.Add(Name{}, []int{0, tids[0], -1})
	if moved != 1 {
		t.Errorf("%d moved", moved)
	}
	wantError(t, err, fs.ErrInvalid, "thread id 0", "thread id -1")
	check(Name{}, tids[:1])
	check(a, tids[1:])
	_, err = tree.Locate(gone)
	wantError(t, err, fs.ErrNotExist)

	// As a kernel that takes one a write.
	tree.commaDoubts = enoughDoubts
	if moved, err := tree.Add(a, list); moved != len(tids) || err != nil {
		t.Errorf("one a write: %d moved of %d, %v", moved, len(tids), err)
	}
	tree.commaDoubts = 0
	check(a, tids)

	if tree.Info().CLOSIDs() > 1 {
		// Into a monitoring group of another control group.
		g, gm := Name{Control: "owca-g"}, Name{Control: "owca-g", Monitor: "owca-m"}
		waitForRMID(t, func() error { return tree.Create(g) })
		waitForRMID(t, func() error { return tree.Create(gm) })
		if moved, err := tree.Add(gm, list); moved != len(tids) || err != nil {
			t.Errorf("%d moved of %d, %v", moved, len(tids), err)
		}
		check(gm, tids)
		check(a, nil)
		// A control group's list has those of its monitoring groups.
		if got, err := tree.Threads(g, nil); err != nil || len(got) != len(tids) {
			t.Errorf("%d threads are in %s, %v, want %d", len(got), g, err, len(tids))
		}

		// A rename takes the threads along.
		to := Name{Monitor: "owca-moved"}
		if err := tree.Rename(gm, to); err != nil {
			t.Fatal(err)
		}
		check(to, tids)
		wantError(t, tree.Rename(a, to), fs.ErrExist)
		wantError(t, tree.Rename(gm, a), ErrGone)
		wantError(t, tree.Rename(a, Name{Control: "absent", Monitor: "x"}), ErrGone)
		wantError(t, tree.Rename(g, a), fs.ErrInvalid, "both must be monitoring groups")
		cpus := filepath.Join(tree.Mount().Dir, "mon_groups/owca-a/cpus")
		if err := os.WriteFile(cpus, []byte("1\n"), 0); err != nil {
			t.Fatal(err)
		}
		err := tree.Rename(a, Name{Control: "owca-g", Monitor: "owca-a"})
		wantError(t, err, fs.ErrPermission, "monitors CPUs")
		if errors.Is(err, errors.ErrUnsupported) {
			t.Error(err)
		}
		if err := tree.Remove(to); err != nil {
			t.Fatal(err)
		}
		check(Name{}, tids)
	}
	if err := tree.Remove(a); err != nil {
		t.Fatal(err)
	}
	_, err = tree.Add(a, tids)
	wantError(t, err, ErrGone)
	_, err = tree.Threads(a, nil)
	wantError(t, err, ErrGone)
	if _, err := tree.Add(a, nil); err != nil {
		t.Error(err)
	}
}

// TestHostManyThreads reads a list that is longer than any buffer.
func TestHostManyThreads(t *testing.T) {
	tree := openHost(t, "/L3_MON")
	tree.buf = make([]byte, 100)
	load := hosttest.NewCgroup(t, nil, "resctrl-many").Start("threads 300")
	load.Done()
	tids := threadsOf(t, load.Pid)
	n := Name{Monitor: "owca-many"}
	waitForRMID(t, func() error { return tree.Create(n) })
	if moved, err := tree.Add(n, tids); moved != len(tids) || err != nil {
		t.Fatalf("%d moved of %d, %v", moved, len(tids), err)
	}
	got, err := tree.Threads(n, nil)
	slices.Sort(got)
	slices.Sort(tids)
	if err != nil || !slices.Equal(got, tids) {
		t.Errorf("%d threads, %v, want %d", len(got), err, len(tids))
	}
}

func TestHostUnprivileged(t *testing.T) {
	tree := openHost(t, "/L3_MON")
	control := tree.Info().CLOSIDs() > 1
	mine := hosttest.NewCgroup(t, nil, "resctrl-root").Start("threads 5")
	mine.Done()
	binary := publicBinary(t)
	other := exec.Command(binary)
	other.Env = append(os.Environ(), "OWCA_HOSTTEST_LOAD=sleep")
	other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1001, Gid: 1001}}
	if _, err := other.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = other.Process.Kill()
		_ = other.Wait()
	})
	for _, kind := range []string{"all", "no-setuid", "no-override"} {
		caps := map[string][]uintptr{
			"all":         {unix.CAP_DAC_OVERRIDE, unix.CAP_SETUID},
			"no-setuid":   {unix.CAP_DAC_OVERRIDE},
			"no-override": {unix.CAP_SETUID},
		}[kind]
		asChild(t, binary, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}, AmbientCaps: caps},
			"unprivileged", kind, strconv.FormatBool(control), strconv.Itoa(mine.Pid), strconv.Itoa(other.Process.Pid))
	}
}

// unprivilegedChild is uid 1000 with the capabilities of its first argument.
func unprivilegedChild(args []string) error {
	kind, control := args[0], args[1] == "true"
	tree, err := openMounted()
	if err != nil {
		return err
	}
	n := Name{Monitor: "owca-user"}
	if control {
		n = Name{Control: "owca-user"}
	}
	if kind == "no-override" {
		if err := tree.Create(n); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "mkdir") {
			return fmt.Errorf("created without CAP_DAC_OVERRIDE: %w", err)
		}
		return nil
	}
	for range 600 {
		if err = tree.Create(n); !errors.Is(err, ErrLimbo) {
			break
		}
		unix.Nanosleep(&unix.Timespec{Nsec: 1e8}, nil) //nolint:errcheck // sooner is as well
	}
	if err != nil {
		return err
	}
	tids := []int{os.Getpid()}
	for _, pid := range args[2:] {
		entries, err := os.ReadDir("/proc/" + pid + "/task")
		if err != nil {
			return err
		}
		for _, e := range entries {
			tid, err := strconv.Atoi(e.Name())
			if err != nil {
				return err
			}
			tids = append(tids, tid)
		}
	}
	if control {
		if _, err := tree.SetSchemata(n.Control, nil); err != nil {
			return err
		}
	}
	for range 2 {
		moved, err := tree.Add(n, tids)
		switch {
		case kind == "all" && (err != nil || moved != len(tids)):
			return fmt.Errorf("%d moved of %d: %w", moved, len(tids), err)
		case kind == "no-setuid" && (moved != 1 || !errors.Is(err, fs.ErrPermission) ||
			!strings.Contains(err.Error(), "CAP_SETUID") || !strings.Contains(err.Error(), "No permission to move task") || !strings.Contains(err.Error(), "threads more")):
			return fmt.Errorf("%d moved of %d: %w", moved, len(tids), err)
		}
		got, err := tree.Threads(n, nil)
		if err != nil || len(got) < moved {
			return fmt.Errorf("%d are in the group, %d were moved: %w", len(got), moved, err)
		}
	}
	// One thread is euid 0, not the first, and /proc/self is still ours.
	euid0, others, err := euids()
	if err != nil {
		return err
	}
	want := 0
	if kind == "all" {
		want = 1
	}
	if euid0 != want || others == 0 {
		return fmt.Errorf("%d threads are euid 0, %d are not", euid0, others)
	}
	if dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || dumpable != 1 {
		return fmt.Errorf("dumpable is %d: %w", dumpable, err)
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/environ", &st); err != nil || st.Uid != 1000 {
		return fmt.Errorf("/proc/self/environ is of uid %d: %w", st.Uid, err)
	}
	// Threads that are made now are not euid 0: keep several at once.
	var hold [8]chan struct{}
	ready := make(chan struct{})
	for i := range hold {
		hold[i] = make(chan struct{})
		go func() {
			runtime.LockOSThread()
			ready <- struct{}{}
			<-hold[i]
		}()
		<-ready
	}
	if euid0, others, err = euids(); err != nil || euid0 != want || others < len(hold) {
		return fmt.Errorf("later %d threads are euid 0, %d are not: %w", euid0, others, err)
	}
	for _, c := range hold {
		close(c)
	}
	if err := tree.Remove(n); err != nil {
		return err
	}
	if err := tree.Close(); err != nil {
		return err
	}
	for range 1000 { // the thread ends soon after
		if euid0, _, err = euids(); err != nil || euid0 == 0 {
			return err
		}
		unix.Nanosleep(&unix.Timespec{Nsec: 1e7}, nil) //nolint:errcheck // sooner is as well
	}
	return fmt.Errorf("%d threads are euid 0 after Close", euid0)
}

// euids counts the threads of this process; the first one must not be euid 0.
func euids() (zero, others int, err error) {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return 0, 0, err
	}
	for _, e := range entries {
		b, err := os.ReadFile("/proc/self/task/" + e.Name() + "/status")
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return 0, 0, err
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) < 3 || f[0] != "Uid:" {
				continue
			}
			if f[1] != "1000" {
				return 0, 0, fmt.Errorf("thread %s: %s", e.Name(), line)
			}
			if f[2] != "0" {
				others++
				continue
			}
			zero++
			if e.Name() == strconv.Itoa(os.Getpid()) {
				return 0, 0, errors.New("the first thread is euid 0")
			}
		}
	}
	return zero, others, nil
}
