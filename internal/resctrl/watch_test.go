package resctrl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/hosttest"
)

func TestMonitorName(t *testing.T) {
	for path, want := range map[string]string{
		"/":                "owca-",
		"/mesos/d3f1":      "owca-mesos-d3f1",
		"/a.slice/b.scope": "owca-a.slice-b.scope",
		"/mesos/d3-f1":     "owca-mesos-d3-f1~03585fa1bec7f4c8",
		"/mesos/d3/f1":     "owca-mesos-d3-f1",
	} {
		got := MonitorName(path)
		if cut, _, hashed := strings.Cut(got, "~"); hashed {
			wantCut, _, _ := strings.Cut(want, "~")
			got, want = cut, wantCut
		}
		if got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
	id := strings.Repeat("0123456789abcdef", 4)
	long := MonitorName("/" + strings.Repeat("é/", 100) + id)
	if !strings.Contains(long, id+"~") {
		t.Errorf("a long path does not keep its end: %q", long)
	}
}

func FuzzMonitorName(f *testing.F) {
	f.Add("/a/b", "/a-b")
	f.Add("/a-/b", "/a/-b")
	f.Add("/a\nb", "/a_b")
	f.Add("a", "/a")
	f.Add("/a\xffb", "/a\xfeb")
	f.Add("/"+strings.Repeat("x", 300), "/y"+strings.Repeat("x", 299))
	f.Add("/"+strings.Repeat("\x00", 300), "/~")
	f.Add("/a/b~0123456789abcdef", "/a-b")
	f.Fuzz(func(t *testing.T, a, b string) {
		name := MonitorName(a)
		if (name == MonitorName(b)) != (a == b) {
			t.Errorf("%q and %q are both %q", a, b, name)
		}
		if len(name) > 255 || strings.ContainsFunc(name, func(r rune) bool { return r == '/' || r < ' ' || r == 0x7f || r == '\ufffd' }) {
			t.Errorf("%q is no directory of resctrl", name)
		}
		if !(Name{Monitor: name}).Ours() {
			t.Errorf("%q is not ours", name)
		}
	})
}

func TestOrphans(t *testing.T) {
	groups := []Name{{}, {"", "owca-a"}, {"", "x"}, {"owca-g", ""}, {"owca-g", "owca-b"}, {"owca-g", "owca-a"}}
	got := Orphans(groups, func(n Name) bool { return n == Name{"", "owca-a"} })
	if diff := cmp.Diff([]Name{{"owca-g", "owca-b"}, {"owca-g", "owca-a"}}, got); diff != "" {
		t.Error(diff)
	}
}

func TestTidsSets(t *testing.T) {
	a, b := []int{1, 2, 5, 9}, []int{0, 2, 3, 9, 11}
	if got := tidsWithout(nil, a, b); !slices.Equal(got, []int{1, 5}) {
		t.Errorf("without: %v", got)
	}
	if got := tidsCommon(nil, a, b); !slices.Equal(got, []int{2, 9}) {
		t.Errorf("common: %v", got)
	}
	if got := countCommon(a, b); got != 2 {
		t.Errorf("count: %d", got)
	}
	if got := tidsCommon(a[:0], a, b); !slices.Equal(got, []int{2, 9}) {
		t.Errorf("common in place: %v", got)
	}
}

// watchHost is a mounted resctrl, and what another program does to it.
type watchHost struct {
	*testing.T
	dir  string
	tree *Tree
}

func newWatchHost(t *testing.T, features ...string) *watchHost {
	return &watchHost{T: t, dir: hosttest.Resctrl(t, features...), tree: openHost(t, features...)}
}

func (h *watchHost) mkdir(group string) {
	h.Helper()
	control, monitor, _ := strings.Cut(group, "mon_groups/")
	waitForRMID(h, func() error { return h.tree.Create(Name{control, monitor}) })
}

func (h *watchHost) rmdir(group string) {
	h.Helper()
	if err := os.Remove(filepath.Join(h.dir, group)); err != nil {
		h.Fatal(err)
	}
}

func (h *watchHost) put(group string, tids ...int) {
	h.Helper()
	for _, tid := range tids {
		if err := os.WriteFile(filepath.Join(h.dir, group, "tasks"), []byte(strconv.Itoa(tid)), 0); err != nil {
			h.Fatal(err)
		}
	}
}

// tids reads a list of thread ids, sorted.
func watchTids(t testing.TB, file string) []int {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var list []int
	for _, s := range strings.Fields(string(b)) {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, n)
	}
	slices.Sort(list)
	return list
}

// in wants the kernel to have exactly these threads in a group.
func (h *watchHost) in(n Name, want []int) {
	h.Helper()
	if diff := cmp.Diff(want, watchTids(h, filepath.Join(h.dir, n.Path(), "tasks"))); diff != "" {
		h.Errorf("%s: %s", n, diff)
	}
}

// watchThreads is the list of a cgroup's threads.
func watchThreads(t testing.TB, c *hosttest.Cgroup) string {
	t.Helper()
	dir := c.PerfDir()
	if file := filepath.Join(dir, "tasks"); exists(file) {
		return file
	}
	return filepath.Join(dir, "cgroup.threads")
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// watchStop stops a load that has done its work: blocked ones start threads now and then,
// those of Go's runtime.
func watchStop(t testing.TB, p *hosttest.Process) {
	t.Helper()
	p.Done()
	watchStopPid(t, p.Pid)
}

func watchStopPid(t testing.TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(stats, func(file string) bool {
			stat, err := os.ReadFile(file)
			return err != nil || !strings.Contains(string(stat), ") T ")
		}) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("process %d does not stop", pid)
		}
	}
}

// watchLister lists a cgroup's threads. It opens the list each time: that of a v1 cgroup is
// what it was up to a second ago when it is read again (cgroup_pidlist_start).
func watchLister(t testing.TB, c *hosttest.Cgroup) Lister {
	t.Helper()
	file := watchThreads(t, c)
	text := make([]byte, 1<<16)
	return func(buf []int) ([]int, error) {
		fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return buf, err
		}
		defer unix.Close(fd)
		var ids idList
		for {
			n, err := unix.Read(fd, text)
			if n <= 0 || err != nil {
				return buf, err
			}
			if buf, err = ids.parse(buf, text[:n]); err != nil {
				return buf, err
			}
		}
	}
}

// watch watches a cgroup's task with a monitoring group.
func (h *watchHost) watch(c *hosttest.Cgroup) (*Watch, Lister) {
	h.Helper()
	w, list := h.watchOnly(h.tree, c)
	h.monitor(w)
	return w, list
}

func (h *watchHost) monitor(w *Watch) {
	h.Helper()
	waitForRMID(h, w.Monitor)
}

func (h *watchHost) watchOnly(tree *Tree, c *hosttest.Cgroup) (*Watch, Lister) {
	h.Helper()
	groups, err := tree.Groups(nil)
	if err != nil {
		h.Fatal(err)
	}
	list := watchLister(h, c)
	w, err := tree.Watch([]string{c.Path}, groups, list)
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() {
		if err := w.Close(); err != nil {
			h.Error(err)
		}
	})
	return w, list
}

func (h *watchHost) follow(w *Watch, list Lister, full bool) Followed {
	h.Helper()
	f, err := w.Follow(list, full)
	if err != nil {
		h.Fatal(err)
	}
	return f
}

// bytes are those that the group moved to and from memory so far.
func (h *watchHost) bytes(w *Watch) (sum uint64) {
	h.Helper()
	list, err := w.Read(nil)
	if err != nil {
		h.Fatal(err)
	}
	if len(list) == 0 {
		h.Fatal("no domain")
	}
	for _, u := range list {
		if !u.Total.OK {
			h.Fatalf("%s: absent", w.Name())
		}
		sum += u.Total.N
	}
	return sum
}

func wantFollowed(t testing.TB, got, want Followed) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestWatchFollows(t *testing.T) {
	h := newWatchHost(t, "/L3_MON")
	c := hosttest.NewCgroup(t, nil, "follow")
	first := c.Start("threads 50")
	watchStop(t, first)
	w, list := h.watch(c)
	if want := (Name{Monitor: MonitorName(c.Path)}); w.Name() != want || w.Epoch() != 1 {
		t.Fatalf("%s, epoch %d; want %s", w.Name(), w.Epoch(), want)
	}
	threads := watchTids(t, watchThreads(t, c))
	f := h.follow(w, list, false)
	wantFollowed(t, f, Followed{Threads: len(threads), Moved: len(threads), Stable: true})
	h.in(w.Name(), threads)
	wantFollowed(t, h.follow(w, list, false), Followed{Threads: len(threads), Stable: true})
	wantFollowed(t, h.follow(w, list, true), Followed{Threads: len(threads), Stable: true})

	// One that comes from elsewhere, and one that ends.
	second := c.Start("threads 3")
	watchStop(t, second)
	first.Kill()
	threads = watchTids(t, watchThreads(t, c))
	f = h.follow(w, list, false)
	wantFollowed(t, f, Followed{Threads: len(threads), Moved: len(threads), Stable: true})
	h.in(w.Name(), threads)

	second.Kill()
	wantFollowed(t, h.follow(w, list, true), Followed{Stable: true})
	if err := w.Unmonitor(); err != nil {
		t.Fatal(err)
	}
	if w.Name() != (Name{}) || exists(filepath.Join(h.dir, "mon_groups", MonitorName(c.Path))) {
		t.Errorf("still monitored: %s", w.Name())
	}
}

// Threads that are listed and end before they are moved.
func TestWatchVanished(t *testing.T) {
	h := newWatchHost(t, "/L3_MON")
	c := hosttest.NewCgroup(t, nil, "vanish")
	p := c.Start("threads 40")
	p.Done()
	w, list := h.watch(c)
	f, err := w.Follow(func(buf []int) ([]int, error) {
		buf, err := list(buf)
		p.Kill()
		return buf, err
	}, false)
	if err != nil {
		t.Fatal(err)
	}
	if f.Moved != 0 || f.Foreign != 0 || f.Refused != 0 || !f.Stable {
		t.Errorf("%+v", f)
	}
	gone := errors.New("gone")
	if _, err := w.Follow(func(buf []int) ([]int, error) { return buf, gone }, false); !errors.Is(err, gone) {
		t.Errorf("%v", err)
	}
}

// A thread that is listed before a Follow is in the group after it, so that a tick later
// none is elsewhere that lived then, even if it was being forked; and since children are
// born in the group, soon none comes from elsewhere any more.
func TestWatchForkStorm(t *testing.T) {
	h := newWatchHost(t, "/L3_MON")
	c := hosttest.NewCgroup(t, nil, "storm")
	p := c.Start("forks 8")
	p.Done()
	w, list := h.watch(c)
	calm := 0
	for tick := 0; calm < 2; tick++ {
		if tick == 20 {
			t.Fatal("threads keep coming from elsewhere")
		}
		before := watchTids(t, watchThreads(t, c))
		f := h.follow(w, list, false)
		t.Logf("tick %d: %+v", tick, f)
		if !f.Stable {
			t.Errorf("not stable")
		}
		for _, tid := range before {
			at, err := h.tree.Locate(tid)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if at != w.Name() {
				t.Errorf("tick %d: %d is in %s", tick, tid, at)
			}
		}
		if calm++; f.Moved > 0 {
			calm = 0
		}
		time.Sleep(100 * time.Millisecond)
	}
	// Nothing was overlooked, either.
	if f := h.follow(w, list, true); f.Moved != 0 || f.Threads == 0 {
		t.Errorf("%+v", f)
	}
}

func TestWatchForeignMonitor(t *testing.T) {
	h := newWatchHost(t, "/L3_MON")
	h.mkdir("mon_groups/perf-tool")
	c := hosttest.NewCgroup(t, nil, "foreign")
	p := c.Start("threads 12")
	watchStop(t, p)
	threads := watchTids(t, watchThreads(t, c))
	theirs, ours := threads[:2], threads[2:]

	// Before the first take-over.
	h.put("mon_groups/perf-tool", theirs...)
	w, list := h.watch(c)
	want := Followed{Threads: len(threads), Moved: len(ours), Foreign: 2, Stable: true}
	wantFollowed(t, h.follow(w, list, false), want)
	h.in(Name{Monitor: "perf-tool"}, theirs)
	h.in(w.Name(), ours)
	want.Moved = 0
	wantFollowed(t, h.follow(w, list, false), want)
	wantFollowed(t, h.follow(w, list, true), want)

	// After it: seen when full.
	h.put("mon_groups/perf-tool", ours[0])
	wantFollowed(t, h.follow(w, list, false), want)
	want.Foreign = 3
	wantFollowed(t, h.follow(w, list, true), want)

	// The other tool ends.
	h.rmdir("mon_groups/perf-tool")
	wantFollowed(t, h.follow(w, list, true), Followed{Threads: len(threads), Moved: 3, Stable: true})
	h.in(w.Name(), threads)
}

func TestWatchForeignControl(t *testing.T) {
	h := newWatchHost(t, "/L3_MON", "/MB")
	c := hosttest.NewCgroup(t, nil, "kubelet")
	p := c.Start("spin 300ms")
	w, list := h.watch(c)
	h.follow(w, list, false)
	p.Done()
	before := h.bytes(w)
	if before == 0 {
		t.Fatal("nothing was counted")
	}
	epoch := w.Epoch()
	threads := watchTids(t, watchThreads(t, c))

	h.mkdir("burstable")
	h.put("burstable", threads[0])
	f := h.follow(w, list, true)
	wantFollowed(t, f, Followed{Threads: len(threads), Foreign: 1, Stable: true})
	if w.Name().Control != "" {
		t.Errorf("one thread took the task to %s", w.Name())
	}

	h.put("burstable", threads...)
	f = h.follow(w, list, true)
	if f.Foreign != 0 || !f.Stable {
		t.Errorf("%+v", f)
	}
	if want := (Name{Control: "burstable", Monitor: MonitorName(c.Path)}); w.Name() != want {
		t.Fatalf("%s, want %s", w.Name(), want)
	}
	h.in(w.Name(), watchTids(t, watchThreads(t, c)))
	if after := h.bytes(w); after < before || w.Epoch() != epoch {
		t.Errorf("%d bytes, then %d; epoch %d, then %d", before, after, epoch, w.Epoch())
	}

	// The group is removed with all that is in it: the threads are in the default
	// group then.
	h.rmdir("burstable")
	if _, err := w.Read(nil); !errors.Is(err, ErrGone) {
		t.Errorf("%v", err)
	}
	f = h.follow(w, list, true)
	if want := (Name{Monitor: MonitorName(c.Path)}); w.Name() != want || !f.Stable {
		t.Errorf("%s, want %s: %+v", w.Name(), want, f)
	}
	h.in(w.Name(), watchTids(t, watchThreads(t, c)))
	if w.Epoch() == epoch {
		t.Error("the counts of the new group are those of the old one")
	}
}

func TestWatchGroupRemoved(t *testing.T) {
	h := newWatchHost(t, "/L3_MON")
	c := hosttest.NewCgroup(t, nil, "removed")
	p := c.Start("threads 5")
	watchStop(t, p)
	w, list := h.watch(c)
	h.follow(w, list, false)
	h.bytes(w)
	threads := watchTids(t, watchThreads(t, c))

	for _, seen := range []string{"read", "follow"} {
		epoch, name := w.Epoch(), w.Name()
		h.rmdir(name.Path())
		if seen == "read" {
			for range 2 {
				if list, err := w.Read(nil); !errors.Is(err, ErrGone) || list != nil {
					t.Fatalf("%v, %v", list, err)
				}
			}
			if w.Name() != (Name{}) {
				t.Errorf("%s", w.Name())
			}
		}
		f := h.follow(w, list, seen == "follow")
		wantFollowed(t, f, Followed{Threads: len(threads), Moved: len(threads), Stable: true})
		if w.Epoch() == epoch || w.Name() != name {
			t.Errorf("seen by %s: epoch %d, %s", seen, w.Epoch(), w.Name())
		}
		h.in(w.Name(), threads)
		h.bytes(w)
	}

	// Unmonitor of a group that is gone is done.
	h.rmdir(w.Name().Path())
	if err := w.Unmonitor(); err != nil {
		t.Error(err)
	}
	wantFollowed(t, h.follow(w, list, true), Followed{Threads: len(threads), Stable: true})
	if usage, err := w.Read(nil); usage != nil || err != nil {
		t.Errorf("%v, %v", usage, err)
	}
}

func TestWatchRestart(t *testing.T) {
	h := newWatchHost(t, "/L3_MON")
	c := hosttest.NewCgroup(t, nil, "restart")
	p := c.Start("spin 300ms")
	w, list := h.watch(c)
	h.follow(w, list, false)
	p.Done()
	before, name := h.bytes(w), w.Name()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}

	h.tree = openHost(t)
	w, list = h.watchOnly(h.tree, c)
	if w.Name() != name || w.Epoch() != 0 {
		t.Errorf("%s, epoch %d; want %s", w.Name(), w.Epoch(), name)
	}
	if after := h.bytes(w); after < before {
		t.Errorf("%d bytes, then %d", before, after)
	}
	f := h.follow(w, list, false)
	if f.Moved != 0 || !f.Stable {
		t.Errorf("%+v", f)
	}
	groups, err := h.tree.Groups(nil)
	if err != nil {
		t.Fatal(err)
	}
	if o := Orphans(groups, func(n Name) bool { return n == w.Name() }); len(o) != 0 {
		t.Errorf("orphans %v", o)
	}
	if o := Orphans(groups, func(Name) bool { return false }); !slices.Contains(o, name) {
		t.Errorf("orphans %v", o)
	}
}

func TestWatchMove(t *testing.T) {
	for _, monitored := range []bool{true, false} {
		t.Run(fmt.Sprintf("monitored=%t", monitored), func(t *testing.T) {
			h := newWatchHost(t, "/MB")
			if monitored {
				hosttest.Need(t, "resctrl/L3_MON")
			}
			h.mkdir("owca-gold")
			h.mkdir("silver")
			c := hosttest.NewCgroup(t, nil, "move")
			p := c.Start("spin 100ms")
			w, list := h.watchOnly(h.tree, c)
			var before uint64
			bytes := func() uint64 { return 0 }
			if monitored {
				h.monitor(w)
				bytes = func() uint64 { return h.bytes(w) }
			}
			h.follow(w, list, false)
			p.Done()
			for _, to := range []string{"owca-gold", "silver", ""} {
				before = bytes()
				epoch := w.Epoch()
				if err := w.Move(to, list); err != nil {
					t.Fatal(err)
				}
				want := Name{Control: to}
				if monitored {
					want.Monitor = MonitorName(c.Path)
				}
				if w.Name() != want {
					t.Errorf("%s, want %s", w.Name(), want)
				}
				if f := h.follow(w, list, true); f.Foreign != 0 || !f.Stable {
					t.Errorf("%+v", f)
				}
				for _, tid := range watchTids(t, watchThreads(t, c)) {
					if at, err := h.tree.Locate(tid); err != nil || at != want {
						t.Errorf("%d in %s (%v), want %s", tid, at, err, want)
					}
				}
				if after := bytes(); after < before || w.Epoch() != epoch {
					t.Errorf("%d bytes, then %d; epoch %d, then %d", before, after, epoch, w.Epoch())
				}
				// A process that comes from the default group, and one from a group
				// of ours.
				second := c.Start("sleep")
				second.Done()
				h.put("owca-gold", second.Pid)
				if f := h.follow(w, list, false); f.Moved == 0 && to != "owca-gold" && to != "" {
					t.Errorf("%s: %+v", to, f)
				}
				if at, err := h.tree.Locate(second.Pid); err != nil || at != want {
					t.Errorf("in %s (%v), want %s", at, err, want)
				}
				second.Kill()
			}
			name := w.Name()
			if err := w.Move("nowhere", list); !errors.Is(err, ErrGone) {
				t.Errorf("%v", err)
			}
			if w.Name() != name {
				t.Errorf("in %s, want %s", w.Name(), name)
			}
			if f := h.follow(w, list, true); f.Moved != 0 || !f.Stable {
				t.Errorf("%+v", f)
			}
		})
	}
}

// Somebody moves all threads of a task to the default group: it stays there until the next
// Move. Some of them, or new ones that are there, are taken.
func TestWatchForeignDefault(t *testing.T) {
	for _, monitored := range []bool{true, false} {
		t.Run(fmt.Sprintf("monitored=%t", monitored), func(t *testing.T) {
			h := newWatchHost(t, "/MB")
			if monitored {
				hosttest.Need(t, "resctrl/L3_MON")
			}
			h.mkdir("owca-gold")
			c := hosttest.NewCgroup(t, nil, "foreign")
			first := c.Start("threads 4")
			first.Done()
			w, list := h.watchOnly(h.tree, c)
			if monitored {
				h.monitor(w)
			}
			h.follow(w, list, true)
			isAt := func(group string) {
				t.Helper()
				if w.Name().Control != group {
					t.Errorf("in %s, want it in group %q", w.Name(), group)
				}
				for _, tid := range watchTids(t, watchThreads(t, c)) {
					if at, err := h.tree.Locate(tid); err != nil || at != w.Name() {
						t.Errorf("thread %d in %s (%v), want %s", tid, at, err, w.Name())
					}
				}
			}
			for range 2 {
				if err := w.Move("owca-gold", list); err != nil {
					t.Fatal(err)
				}
				h.follow(w, list, true)
				all := watchTids(t, watchThreads(t, c))
				h.put("", all[:len(all)-1]...)
				h.follow(w, list, true)
				isAt("owca-gold")

				h.put("", watchTids(t, watchThreads(t, c))...)
				h.follow(w, list, true)
				h.follow(w, list, true)
				isAt("")
			}

			// Those of a group that was removed are there, too, and new ones as well.
			if err := w.Move("owca-gold", list); err != nil {
				t.Fatal(err)
			}
			first.Kill()
			p := c.Start("threads 4")
			p.Done()
			h.put("", watchTids(t, watchThreads(t, c))...)
			h.follow(w, list, true)
			isAt("owca-gold")
		})
	}
}

// Threads in the group that are not the task's.
func TestWatchStrangers(t *testing.T) {
	for _, n := range []int{locateFew / 4, locateFew + 1} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			h := newWatchHost(t, "/L3_MON", "/MB")
			h.mkdir("owca-gold")
			h.mkdir("burstable")
			c, elsewhere := hosttest.NewCgroup(t, nil, "mine"), hosttest.NewCgroup(t, nil, "left")
			watchStop(t, c.Start(fmt.Sprint("threads ", n)))
			w, list := h.watch(c)
			h.follow(w, list, true)
			mine := watchTids(t, watchThreads(t, c))

			// A process that left the task's cgroups.
			leave := func() []int {
				p := c.Start("sleep")
				watchStop(t, p)
				h.follow(w, list, false)
				elsewhere.Add(p.Pid)
				t.Cleanup(p.Kill)
				return threadsOf(t, p.Pid)
			}
			at := func(want Name, tids []int) {
				t.Helper()
				for _, tid := range tids {
					if at, err := h.tree.Locate(tid); err != nil || at != want {
						t.Errorf("%d is in %s (%v), want %s", tid, at, err, want)
					}
				}
			}
			strangers := func(want int) {
				t.Helper()
				var sum int
				for range lookEvery {
					f := h.follow(w, list, true)
					if sum += f.Strangers; f.Moved != 0 || !f.Stable {
						t.Errorf("%+v", f)
					}
				}
				if sum != want {
					t.Errorf("%d strangers, want %d", sum, want)
				}
				h.in(w.Name(), mine)
			}
			left := leave()
			strangers(len(left))
			at(Name{}, left)

			// One that is started between two lists is none.
			late := mine[len(mine)-1]
			calls := 0
			f := h.follow(w, func(buf []int) ([]int, error) {
				buf, err := list(buf)
				if calls++; calls == 1 {
					buf = slices.DeleteFunc(buf, func(tid int) bool { return tid == late })
				}
				return buf, err
			}, true)
			if f.Strangers != 0 {
				t.Errorf("%+v", f)
			}
			strangers(0)

			// A move takes none along, and does not leave them what the task may use.
			left = leave()
			if err := w.Move("owca-gold", list); err != nil {
				t.Fatal(err)
			}
			at(Name{}, left)
			h.in(w.Name(), mine)
			left = leave()
			strangers(len(left))
			at(Name{}, left)

			// Without a monitoring group those are known that were followed.
			if err := w.Unmonitor(); err != nil {
				t.Fatal(err)
			}
			h.follow(w, list, true)
			other := hosttest.NewCgroup(t, nil, "other").Start("sleep")
			other.Done()
			h.put("owca-gold", other.Pid)
			left = leave()
			wantFollowed(t, h.follow(w, list, false), Followed{Threads: len(mine), Strangers: len(left), Stable: true})
			at(Name{}, left)
			at(w.Name(), mine)
			at(w.Name(), []int{other.Pid})

			// The control group of another program is where they belong.
			h.monitor(w)
			h.put("burstable", mine...)
			w.placed = false // as if it had always been there
			h.follow(w, list, true)
			if w.Name().Control != "burstable" {
				t.Fatal(w.Name())
			}
			left = leave()
			strangers(len(left))
			at(Name{Control: "burstable"}, left)
		})
	}
}

// A move before anything was followed, and after threads left and came.
func TestWatchMoveFollows(t *testing.T) {
	h := newWatchHost(t, "/MB")
	h.mkdir("owca-gold")
	c, elsewhere := hosttest.NewCgroup(t, nil, "unfollowed"), hosttest.NewCgroup(t, nil, "left")
	p := c.Start("threads 3")
	watchStop(t, p)
	w, list := h.watchOnly(h.tree, c)
	gold := Name{Control: "owca-gold"}
	if err := w.Move("owca-gold", list); err != nil || w.Name() != gold {
		t.Fatalf("%s, %v", w.Name(), err)
	}
	h.in(gold, watchTids(t, watchThreads(t, c)))
	if err := w.Move("", list); err != nil {
		t.Fatal(err)
	}
	h.in(gold, nil)
	second := c.Start("threads 3")
	watchStop(t, second)
	elsewhere.Add(p.Pid)
	if err := w.Move("owca-gold", list); err != nil {
		t.Fatal(err)
	}
	h.in(gold, threadsOf(t, second.Pid))

	broken := errors.New("broken")
	if err := w.Move("", func(buf []int) ([]int, error) { return buf, broken }); !errors.Is(err, broken) || w.Name() != gold {
		t.Errorf("%s, %v", w.Name(), err)
	}
}

// What Move chose is kept after a restart, though another program undoes it.
func TestWatchRestartPlaced(t *testing.T) {
	for _, monitored := range []bool{true, false} {
		t.Run(fmt.Sprintf("monitored=%t", monitored), func(t *testing.T) {
			h := newWatchHost(t, "/MB")
			if monitored {
				hosttest.Need(t, "resctrl/L3_MON")
			}
			h.mkdir("owca-gold")
			c := hosttest.NewCgroup(t, nil, "placed")
			watchStop(t, c.Start("threads 3"))
			w, list := h.watchOnly(h.tree, c)
			if monitored {
				h.monitor(w)
			}
			if err := w.Move("owca-gold", list); err != nil {
				t.Fatal(err)
			}
			name, threads := w.Name(), watchTids(t, watchThreads(t, c))
			for range 2 {
				h.put("", threads[1:]...) // all of them would be the task
				wantFollowed(t, h.follow(w, list, true), Followed{Threads: len(threads), Moved: len(threads) - 1, Stable: true})
				if w.Name() != name {
					t.Fatalf("%s, want %s", w.Name(), name)
				}
				h.in(name, threads)
				w, list = h.watchOnly(openHost(t), c)
			}
		})
	}
}

// A single group of the task's name is adopted without a look at it.
func TestWatchAdoptsGone(t *testing.T) {
	h := newWatchHost(t, "/L3_MON")
	c := hosttest.NewCgroup(t, nil, "gone")
	watchStop(t, c.Start("threads 3"))
	list := watchLister(t, c)
	name := Name{Monitor: MonitorName(c.Path)}
	w, err := h.tree.Watch([]string{c.Path}, []Name{{}, name}, list)
	if err != nil || w.Name() != name {
		t.Fatalf("%v, %v", w, err)
	}
	threads := watchTids(t, watchThreads(t, c))
	// It was removed since groups was read.
	wantFollowed(t, h.follow(w, list, true), Followed{Threads: len(threads), Moved: len(threads), Stable: true})
	if h.in(name, threads); w.Epoch() == 0 {
		t.Error("the counts did not begin anew")
	}
}

// An agent in a pid namespace sees 0 for the threads outside.
func TestWatchOtherPIDNamespace(t *testing.T) {
	h := newWatchHost(t, "/L3_MON")
	c := hosttest.NewCgroup(t, nil, "pidns")
	watchStop(t, c.Start("sleep"))
	outside := func(buf []int) ([]int, error) { return append(buf, 0, 0), nil }
	_, err := h.tree.Watch([]string{c.Path}, nil, outside)
	wantError(t, err, fs.ErrInvalid, "pid namespace")
	w, list := h.watch(c)
	h.follow(w, list, true)
	_, err = w.Follow(outside, false)
	wantError(t, err, fs.ErrInvalid, "pid namespace")
	wantError(t, w.Move("", outside), fs.ErrInvalid, "pid namespace")
}

// Most of many threads are where most of some of them are.
func TestWatchMajority(t *testing.T) {
	w := &Watch{tree: &Tree{}, byGroups: true}
	w.tree.places = threadPlaces{at: map[int]Name{}, read: time.Now().Add(time.Hour)}
	var tids []int
	for tid := 1; tid <= 1000; tid++ {
		tids = append(tids, tid)
		w.tree.places.at[tid] = Name{Control: "few"}
		if tid > 400 {
			w.tree.places.at[tid] = Name{Control: "many", Monitor: fmt.Sprint(tid)}
		}
	}
	for n, want := range map[int]string{0: "", 1: "few", majoritySample: "few", 700: "few", 900: "many", 1000: "many"} {
		if got, err := w.majority(tids[:n]); err != nil || got != want {
			t.Errorf("of %d: %q, %v, want %q", n, got, err, want)
		}
	}
}

// A kernel before 6.4.
func TestWatchMoveWithoutRename(t *testing.T) {
	h := newWatchHost(t, "/L3_MON", "/MB")
	h.mkdir("owca-gold")
	c := hosttest.NewCgroup(t, nil, "replace")
	p := c.Start("threads 8")
	watchStop(t, p)
	w, list := h.watch(c)
	h.follow(w, list, false)
	h.bytes(w)
	epoch, threads := w.Epoch(), watchTids(t, watchThreads(t, c))
	to := Name{Control: "owca-gold", Monitor: MonitorName(c.Path)}
	if h.tree.Info().RMIDs() < 16 { // those of the tests before may be in limbo
		waitForRMID(t, func() error { return h.tree.Create(to) })
	}
	if err := w.replaceMonitor(to); err != nil {
		t.Fatal(err)
	}
	if w.Name() != to || w.Epoch() == epoch {
		t.Errorf("%s, epoch %d", w.Name(), w.Epoch())
	}
	h.in(to, threads)
	h.bytes(w)
	if f := h.follow(w, list, true); f.Moved != 0 || !f.Stable {
		t.Errorf("%+v", f)
	}
	if err := w.replaceMonitor(Name{Control: "nowhere", Monitor: to.Monitor}); !errors.Is(err, ErrGone) {
		t.Errorf("%v", err)
	}
	if w.Name() != to {
		t.Errorf("%s, want %s", w.Name(), to)
	}
	h.in(to, threads)

	// A move that was interrupted left the group where this one goes to.
	h.mkdir("mon_groups/" + to.Monitor)
	if err := w.Move("", list); err != nil {
		t.Error(err)
	}
	h.in(Name{Monitor: to.Monitor}, threads)
}

// A kernel before 5.6 does not tell the group of a thread.
func TestWatchWithoutLocate(t *testing.T) {
	h := newWatchHost(t, "/L3_MON")
	h.mkdir("mon_groups/perf-tool")
	c := hosttest.NewCgroup(t, nil, "old")
	p := c.Start("threads 5")
	watchStop(t, p)
	threads := watchTids(t, watchThreads(t, c))
	h.put("mon_groups/perf-tool", threads[0])
	w, list := h.watch(c)
	w.byGroups = true
	want := Followed{Threads: len(threads), Moved: len(threads) - 1, Foreign: 1, Stable: true}
	wantFollowed(t, h.follow(w, list, false), want)
	h.in(w.Name(), threads[1:])
	want.Moved = 0
	wantFollowed(t, h.follow(w, list, true), want)

	// The groups are read once for a round, and again after what changes them.
	h.tree.places.read = time.Now().Add(time.Hour)
	places := h.tree.places.read
	wantFollowed(t, h.follow(w, list, true), want)
	if h.tree.places.read != places {
		t.Error("all groups were read again")
	}
	h.rmdir("mon_groups/perf-tool")
	h.tree.places.read = time.Time{}
	want.Foreign, want.Moved = 0, 1
	wantFollowed(t, h.follow(w, list, true), want)
	want.Moved = 0
	wantFollowed(t, h.follow(w, list, true), want)
	h.in(w.Name(), threads)
}

func TestWatchNoRMID(t *testing.T) {
	h := newWatchHost(t, "-few", "/MB")
	h.mkdir("owca-gold")
	c := hosttest.NewCgroup(t, nil, "norm")
	p := c.Start("threads 5")
	watchStop(t, p)
	w, list := h.watch(c)
	h.follow(w, list, false)
	threads := watchTids(t, watchThreads(t, c))

	var fill []string
	full := func() {
		for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			name := fmt.Sprintf("mon_groups/fill-%d", len(fill))
			err := h.tree.Create(Name{Monitor: filepath.Base(name)})
			if err == nil {
				fill = append(fill, name)
			} else if errors.Is(err, ErrNoRMID) && !errors.Is(err, ErrLimbo) {
				return
			}
		}
		t.Fatal("RMIDs do not run out")
	}
	full()

	// A rename needs none.
	epoch := w.Epoch()
	if err := w.Move("owca-gold", list); err != nil || w.Epoch() != epoch {
		t.Errorf("%v, epoch %d", err, w.Epoch())
	}
	// Without rename, the task moves and is not counted until one is free.
	if err := w.replaceMonitor(Name{Monitor: MonitorName(c.Path)}); err != nil {
		t.Fatal(err)
	}
	if w.Name() != (Name{}) {
		t.Errorf("%s", w.Name())
	}
	full() // takes that of the old group
	f, err := w.Follow(list, false)
	if !errors.Is(err, ErrNoRMID) || w.Name() != (Name{}) {
		t.Errorf("%v, %s", err, w.Name())
	}
	wantFollowed(t, f, Followed{Threads: len(threads), Stable: true})
	if err := w.Monitor(); !errors.Is(err, ErrNoRMID) {
		t.Errorf("%v", err)
	}
	if err := w.Unmonitor(); err != nil {
		t.Error(err)
	}
	h.follow(w, list, true)

	h.rmdir(fill[0])
	h.monitor(w)
	wantFollowed(t, h.follow(w, list, false), Followed{Threads: len(threads), Moved: len(threads), Stable: true})
	h.in(w.Name(), threads)
}

// An agent that may not move the threads of others.
func TestWatchRefused(t *testing.T) {
	h := newWatchHost(t, "/L3_MON", "/MB")
	h.mkdir("gold")
	c := hosttest.NewCgroup(t, nil, "refused")
	watchStop(t, c.Start("threads 5"))
	user := exec.Command(publicBinary(t))
	user.Env = append(os.Environ(), "OWCA_HOSTTEST_LOAD=sleep")
	if _, err := user.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	user.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	if err := user.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = user.Process.Kill()
		_ = user.Wait()
	})
	watchStopPid(t, user.Process.Pid)
	others := watchTids(t, watchThreads(t, c))
	c.Add(user.Process.Pid)
	w, list := h.watch(c)
	threads := watchTids(t, watchThreads(t, c))
	own := tidsWithout(nil, threads, others)

	// This thread alone is a user's, who may write the files.
	for _, group := range []string{"", w.Name().Path(), "gold"} {
		if err := os.Chmod(filepath.Join(h.dir, group, "tasks"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := os.Chmod(filepath.Join(h.dir, "tasks"), 0o644); err != nil {
			t.Error(err)
		}
	})
	runtime.LockOSThread()
	become := func(uid int) {
		if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); e != 0 {
			t.Fatal(e)
		}
	}
	h.tree.euid0Err = errNoEUID0
	become(1000)
	f, err := w.Follow(list, false)
	again, againErr := w.Follow(list, false)
	full, fullErr := w.Follow(list, true)
	become(0)
	for _, err := range []error{err, fullErr} {
		if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "No permission") {
			t.Errorf("%v", err)
		}
	}
	want := Followed{Threads: len(threads), Moved: len(own), Refused: len(others), Stable: true}
	wantFollowed(t, f, want)
	want.Moved = 0
	wantFollowed(t, full, want)
	wantFollowed(t, again, want)
	if againErr != nil {
		t.Errorf("a thread that was refused is tried again before a full Follow: %v", againErr)
	}
	h.in(w.Name(), own)
	wantFollowed(t, h.follow(w, list, true), Followed{Threads: len(threads), Moved: len(others), Stable: true})
	h.in(w.Name(), threads)

	// A move of which the kernel does but a part is taken back.
	if err := w.Unmonitor(); err != nil {
		t.Fatal(err)
	}
	h.follow(w, list, true)
	become(1000)
	err = w.Move("gold", list)
	become(0)
	runtime.UnlockOSThread()
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), fmt.Sprintf("of %d threads %d moved from / to gold, and %[2]d back", len(threads), len(own))) {
		t.Errorf("%v", err)
	}
	if w.Name() != (Name{}) {
		t.Errorf("%s", w.Name())
	}
	h.in(Name{Control: "gold"}, nil)
	wantFollowed(t, h.follow(w, list, true), Followed{Threads: len(threads), Stable: true})
}

func TestWatchWithoutMonitoring(t *testing.T) {
	h := newWatchHost(t, "/!L3_MON")
	c := hosttest.NewCgroup(t, nil, "control")
	c.Start("sleep").Done()
	w, list := h.watchOnly(h.tree, c)
	if err := w.Monitor(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("%v", err)
	}
	if f := h.follow(w, list, false); f.Moved != 0 || f.Threads == 0 || !f.Stable {
		t.Errorf("%+v", f)
	}
	if usage, err := w.Read(nil); usage != nil || err != nil {
		t.Errorf("%v, %v", usage, err)
	}
}

func TestWatchAllocations(t *testing.T) {
	h := newWatchHost(t, "/L3_MON")
	c := hosttest.NewCgroup(t, nil, "allocs")
	p := c.Start("threads 60")
	watchStop(t, p)
	w, _ := h.watch(c)
	threads := watchTids(t, watchThreads(t, c))
	list := func(buf []int) ([]int, error) { return append(buf, threads...), nil }
	for _, full := range []bool{false, true} {
		follow := func() {
			if f := h.follow(w, list, full); !f.Stable {
				t.Fatalf("%+v", f)
			}
		}
		follow()
		// The path of the tasks file, however many threads there are.
		most := map[bool]float64{false: 0, true: 4}[full]
		if n := testing.AllocsPerRun(20, follow); n > most {
			t.Errorf("full=%t: %v allocations, at most %v", full, n, most)
		}
	}
}

// BenchmarkWatchFollow is about one task of 1000 threads; x-list is how many times as long
// as the bare listing a Follow takes.
func BenchmarkWatchFollow(b *testing.B) {
	tree := openHost(b, "/L3_MON")
	c := hosttest.NewCgroup(b, nil, "bench")
	c.Start("threads 1000").Done()
	list := watchLister(b, c)
	w, err := tree.Watch([]string{c.Path}, nil, list)
	if err != nil {
		b.Fatal(err)
	}
	waitForRMID(b, w.Monitor)
	buf := make([]int, 0, 2000)
	bare := func() {
		if buf, err = list(buf[:0]); err != nil {
			b.Fatal(err)
		}
	}
	for _, full := range []bool{false, true} {
		b.Run(fmt.Sprintf("full=%t", full), func(b *testing.B) {
			if _, err := w.Follow(list, full); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			var listing, following time.Duration
			for b.Loop() {
				t0 := time.Now()
				bare()
				t1 := time.Now()
				if f, err := w.Follow(list, full); err != nil || !f.Stable {
					b.Fatal(f, err)
				}
				listing, following = listing+t1.Sub(t0), following+time.Since(t1)
			}
			b.ReportMetric(float64(following)/float64(listing), "x-list")
			b.ReportMetric(float64(following.Nanoseconds())/float64(b.N), "ns/follow")
		})
	}
}

// BenchmarkWatchFollowFew is a full pass over a task of few threads on a host of many;
// x-tasks is how many times as long as reading the group's tasks file it takes, but
// for the listing.
func BenchmarkWatchFollowFew(b *testing.B) {
	tree := openHost(b, "/L3_MON")
	hosttest.NewCgroup(b, nil, "crowd").Start("threads 3000").Done()
	c := hosttest.NewCgroup(b, nil, "few")
	c.Start("threads 8").Done()
	list := watchLister(b, c)
	w, err := tree.Watch([]string{c.Path}, nil, list)
	if err != nil {
		b.Fatal(err)
	}
	waitForRMID(b, w.Monitor)
	if _, err := w.Follow(list, true); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	var threads []int
	var reading, listing, following time.Duration
	for b.Loop() {
		t0 := time.Now()
		if threads, err = tree.Threads(w.Name(), threads[:0]); err != nil {
			b.Fatal(err)
		}
		t1 := time.Now()
		if threads, err = list(threads[:0]); err != nil {
			b.Fatal(err)
		}
		t2 := time.Now()
		if f, err := w.Follow(list, true); err != nil || !f.Stable {
			b.Fatal(f, err)
		}
		reading, listing, following = reading+t1.Sub(t0), listing+t2.Sub(t1), following+time.Since(t2)
	}
	b.ReportMetric(float64(following-listing)/float64(reading), "x-tasks")
	b.ReportMetric(float64(len(threads)), "threads")
	b.ReportMetric(float64(following.Nanoseconds())/float64(b.N), "ns/follow")
}
