package discover

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/componenttest"
	"github.com/owca-project/owca/internal/hosttest"
)

// hostDirs are the hierarchies of this host, v2 first.
func hostDirs() ([]string, error) {
	var dirs []string
	for _, h := range hosttest.Hierarchies() {
		if h.Type == "cgroup2" {
			dirs = slices.Insert(dirs, 0, h.Dir)
		} else {
			dirs = append(dirs, h.Dir)
		}
	}
	return dirs, nil
}

// onHost starts an AutoNode that looks at what is below the test's own cgroup.
func onHost(t testing.TB, parent *hosttest.Cgroup) *AutoNode {
	t.Helper()
	n := NewAuto(hostDirs, "/proc")
	n.Include = []string{parent.Path + "/**"}
	n.RescanInterval = 100 * time.Millisecond
	start(t, n)
	return n
}

func TestHostConformance(t *testing.T) {
	hosttest.Need(t, "root")
	componenttest.Node(t, func(t *testing.T) (owca.Node, func() func()) {
		parent := hosttest.NewCgroup(t, nil, "node")
		made := 0
		return onHost(t, parent), func() func() {
			made++
			c := hosttest.NewCgroup(t, parent, fmt.Sprintf("job %d", made))
			p := c.Start("sleep")
			return func() { p.Kill(); c.Remove() }
		}
	})
}

func TestHostStaticConformance(t *testing.T) {
	hosttest.Need(t, "root")
	componenttest.Node(t, func(t *testing.T) (owca.Node, func() func()) {
		parent := hosttest.NewCgroup(t, nil, "static")
		n := NewStatic(hostDirs)
		n.Directory = parent.Path
		n.RequirePIDs = true
		start(t, n)
		made := 0
		return n, func() func() {
			made++
			c := hosttest.NewCgroup(t, parent, fmt.Sprintf("job %d", made))
			p := c.Start("sleep")
			return func() { p.Kill(); c.Remove() }
		}
	})
}

// The names that people and programs give to cgroups. The kernel refuses only
// newlines (cgroup_mkdir) and slashes.
func TestHostNames(t *testing.T) {
	hosttest.Need(t, "root")
	parent := hosttest.NewCgroup(t, nil, "names")
	n := onHost(t, parent)
	var paths []string
	for _, name := range []string{"with space", `"quoted'`, `back\slash`, "übung-猫", "\xff\xfe", "tab\tbell\a", "{a=\"b\"}", strings.Repeat("n", 200), "**"} {
		c := hosttest.NewCgroup(t, parent, name)
		c.Start("sleep")
		paths = append(paths, c.Path)
	}
	list := eventually(t, n, "all names", func(list []owca.Task) bool { return len(list) == len(paths) })
	for _, p := range paths {
		task := byID(list, p)
		if task == nil {
			t.Errorf("%q was not found", p)
			continue
		}
		if task.Cgroups[0] != p {
			t.Errorf("%q has the cgroup %q", p, task.Cgroups[0])
		}
	}
}

// A cgroup that is in one hierarchy only, whichever it is.
func TestHostOneHierarchy(t *testing.T) {
	hosttest.Need(t, "root")
	parent := hosttest.NewCgroup(t, nil, "one")
	n := onHost(t, parent)
	sleeper := parent.Start("sleep") // in parent wherever it is not moved on
	eventually(t, n, "the parent", func(list []owca.Task) bool { return len(list) == 1 && byID(list, parent.Path) != nil })
	for _, h := range hosttest.Hierarchies() {
		name := parent.Path + "/" + strings.ReplaceAll(strings.TrimPrefix(h.Dir, "/"), "/", "-")
		dir := h.Dir + name
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if slices.Contains(h.Controllers, "cpuset") {
			for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
				b, err := os.ReadFile(h.Dir + parent.Path + "/" + file)
				if err == nil {
					err = os.WriteFile(dir+"/"+file, b, 0)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		move(t, sleeper.Pid, dir)
		eventually(t, n, name, func(list []owca.Task) bool { return len(list) == 1 && byID(list, name) != nil })
		move(t, sleeper.Pid, h.Dir+parent.Path)
		eventually(t, n, "the parent again", func(list []owca.Task) bool { return len(list) == 1 && byID(list, parent.Path) != nil })
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
	}
}

func move(t testing.TB, pid int, dir string) {
	t.Helper()
	if err := os.WriteFile(dir+"/cgroup.procs", []byte(strconv.Itoa(pid)), 0); err != nil {
		t.Fatal(err)
	}
}

// Processes that end without their cgroup being removed, and a container whose
// processes are in cgroups of its own.
func TestHostPopulation(t *testing.T) {
	hosttest.Need(t, "root")
	parent := hosttest.NewCgroup(t, nil, "population")
	n := onHost(t, parent)
	pod := hosttest.NewCgroup(t, hosttest.NewCgroup(t, parent, "kubepods"), "pod"+uid)
	a := hosttest.NewCgroup(t, pod, hexA)
	b := hosttest.NewCgroup(t, pod, hexB)
	deep := hosttest.NewCgroup(t, hosttest.NewCgroup(t, b, "init"), "worker")
	cgroups := func(paths ...string) func([]owca.Task) bool {
		return func(list []owca.Task) bool {
			if len(paths) == 0 {
				return len(list) == 0
			}
			return len(list) == 1 && list[0].ID == uid && slices.Equal(list[0].Cgroups, paths)
		}
	}
	eventually(t, n, "nothing", cgroups())
	p := a.Start("sleep")
	eventually(t, n, "one container", cgroups(a.Path))
	q := deep.Start("sleep")
	eventually(t, n, "two containers", cgroups(b.Path, a.Path))
	p.Kill()
	eventually(t, n, "the other container", cgroups(b.Path))
	q.Kill()
	eventually(t, n, "nothing again", cgroups())
}

// Cgroups come and go faster than anybody looks, also between a listing and
// the look at what was listed.
func TestHostChurn(t *testing.T) {
	hosttest.Need(t, "root")
	parent := hosttest.NewCgroup(t, nil, "churn")
	keep := hosttest.NewCgroup(t, parent, "keep")
	keep.Start("sleep")
	n := onHost(t, parent)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	dirs, _ := hostDirs()
	for worker := range 4 {
		wg.Go(func() {
			for i := range 50 {
				for _, dir := range dirs {
					p := fmt.Sprintf("%s%s/w%d-%d", dir, parent.Path, worker, i%7)
					for _, d := range []string{p, p + "/a", p + "/a/b"} {
						if err := os.Mkdir(d, 0o755); err != nil {
							t.Error(err)
						}
					}
				}
				for _, dir := range dirs {
					p := fmt.Sprintf("%s%s/w%d-%d", dir, parent.Path, worker, i%7)
					for _, d := range []string{p + "/a/b", p + "/a", p} {
						if err := os.Remove(d); err != nil {
							t.Error(err)
						}
					}
				}
			}
		})
	}
	go func() { wg.Wait(); close(stop) }()
	calls := 0
	for running := true; running; calls++ {
		select {
		case <-stop:
			running = false
		default:
		}
		if list := tasks(t, n); len(list) != 1 || string(list[0].ID) != keep.Path {
			t.Fatalf("call %d: %+v", calls, list)
		}
	}
	t.Logf("%d calls", calls)
	tasks(t, n)
	if own := n.tree.root.children[parent.Path[1:]]; len(own.children) != 1 {
		t.Errorf("%d cgroups are left", len(own.children))
	}
	for wd, node := range n.tree.watched {
		if node.removed {
			t.Errorf("watch %d of %s is left", wd, node.path)
		}
	}
}

// A call in which nothing happens allocates nothing, whether or not it is the
// turn of some cgroups to be looked at.
func TestHostUnchanged(t *testing.T) {
	hosttest.Need(t, "root")
	parent := hosttest.NewCgroup(t, nil, "unchanged")
	for i := range 20 {
		c := hosttest.NewCgroup(t, parent, fmt.Sprint(i, ".service"))
		hosttest.NewCgroup(t, c, "inner").Start("sleep")
	}
	n := NewAuto(hostDirs, "/proc")
	n.Include = []string{parent.Path + "/**"}
	n.Exclude = outside(t, parent)
	c := &clock{time.Now()}
	n.now = c.now
	start(t, n)
	if got := len(tasks(t, n)); got != 20 {
		t.Fatalf("%d tasks", got)
	}
	ctx := context.Background()
	if allocs := testing.AllocsPerRun(200, func() {
		c.advance(n.RescanInterval / 3)
		if _, err := n.Tasks(ctx); err != nil {
			t.Error(err)
		}
	}); allocs != 0 {
		t.Errorf("%v allocations a call", allocs)
	}
}

// outside are patterns for what else is on the host, so that its coming and
// going is nothing to the test.
func outside(t testing.TB, parent *hosttest.Cgroup) []string {
	var list []string
	for _, h := range hosttest.Hierarchies() {
		entries, err := os.ReadDir(h.Dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.IsDir() && "/"+e.Name() != parent.Path {
				list = append(list, "/"+strings.NewReplacer("[", "?", "*", "?").Replace(e.Name())+"/**")
			}
		}
	}
	return list
}

// What counts relies on kernel threads having the process group 0.
func TestHostKernelThread(t *testing.T) {
	b, err := os.ReadFile("/proc/2/stat")
	if err != nil || !bytes.Contains(b, []byte("(kthreadd)")) {
		t.Skip("pid 2 is not the kernel's: in a pid namespace")
	}
	tr := &tree{procfs: "/proc", self: os.Getpid(), stat: make([]byte, 1024)}
	if tr.counts(2) {
		t.Error("kthreadd counts")
	}
	if !tr.counts(os.Getppid()) {
		t.Error("a process does not count")
	}
	if tr.counts(os.Getpid()) {
		t.Error("the agent counts")
	}
}

// Somebody without any rights sees the same tasks.
func TestHostUnprivileged(t *testing.T) {
	if node := os.Getenv("OWCA_DISCOVER_UNPRIVILEGED"); node != "" {
		n := NewAuto(hostDirs, "/proc")
		n.Include = []string{node + "/**"}
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		want(t, n, node+"/a.service")
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		return
	}
	hosttest.Need(t, "root")
	if root, err := os.Stat("/"); err != nil || root.Mode()&0o001 == 0 {
		t.Skip("other users cannot reach anything here: the root directory is closed to them, as in the virtual machines")
	}
	parent := hosttest.NewCgroup(t, nil, "unprivileged")
	hosttest.NewCgroup(t, parent, "a.service").Start("sleep")
	// A copy of the test binary where the other user can reach it.
	dir, err := os.MkdirTemp("/tmp", "owca-test-") //nolint:usetesting // the parents of t.TempDir are 0700
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "x"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, "x"), "-test.run=^TestHostUnprivileged$", "-test.v")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "OWCA_DISCOVER_UNPRIVILEGED="+parent.Path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestHostUnprivileged")) {
		t.Errorf("%v\n%s", err, out)
	}
}

// The kernel's side of what tree relies on.
func TestHostInotify(t *testing.T) {
	hosttest.Need(t, "root")
	parent := hosttest.NewCgroup(t, nil, "inotify")
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 4096)
	expect := func(what string, mask uint32) {
		t.Helper()
		deadline := time.Now().Add(30 * time.Second)
		for {
			n, err := read(fd, buf)
			if err == nil {
				for b := buf[:n]; ; {
					e, rest, ok := nextEvent(b)
					if !ok {
						break
					}
					if e.mask&mask != 0 {
						return
					}
					b = rest
				}
			} else if err != unix.EAGAIN {
				t.Fatal(err)
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: no event", what)
			}
			time.Sleep(time.Millisecond)
		}
	}
	for _, h := range hosttest.Hierarchies() {
		dir := h.Dir + parent.Path
		if _, err := unix.InotifyAddWatch(fd, dir, dirMask); err != nil {
			t.Fatal(err)
		}
		links := func() int {
			var st unix.Stat_t
			if err := unix.Stat(dir, &st); err != nil {
				t.Fatal(err)
			}
			return int(st.Nlink)
		}
		if links() != 2 {
			t.Errorf("%s: %d links without a child", h.Dir, links())
		}
		if err := os.Mkdir(dir+"/x", 0o755); err != nil {
			t.Fatal(err)
		}
		expect(h.Dir+": mkdir", unix.IN_CREATE)
		if links() != 3 {
			t.Errorf("%s: %d links with a child", h.Dir, links())
		}
		if err := os.Remove(dir + "/x"); err != nil {
			t.Fatal(err)
		}
		expect(h.Dir+": rmdir", unix.IN_DELETE)
	}
}
