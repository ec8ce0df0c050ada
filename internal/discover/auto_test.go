package discover

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/componenttest"
)

var some = []int{aPid}

func TestAutoNodeConformance(t *testing.T) {
	for _, kind := range [][]string{{"unified"}, {"cpu", "memory"}, {"unified", "memory"}} {
		t.Run(strings.Join(kind, "+"), func(t *testing.T) {
			componenttest.Node(t, func(t *testing.T) (owca.Node, func() func()) {
				f := newFixture(t, kind...)
				f.add("/system.slice/old.service", some)
				n, _, _ := f.auto(nil)
				made := 0
				return n, func() func() {
					made++
					p := fmt.Sprintf("/batch/job %d\n", made)
					f.add(p, some)
					return func() { f.remove(p) }
				}
			})
		})
	}
}

func TestAutoNodeKinds(t *testing.T) {
	for _, kind := range [][]string{{"unified"}, {"cpu", "memory"}, {"unified", "memory"}} {
		t.Run(strings.Join(kind, "+"), func(t *testing.T) {
			f := newFixture(t, kind...)
			f.add("/init.scope", []int{1})
			f.add("/system.slice/nginx.service", some)
			f.add("/system.slice/php.service/pool/a", some) // delegated
			f.add("/system.slice/idle.service", nil)
			f.add("/user.slice/user-1000.slice/user@1000.service/init.scope", some)
			f.add("/user.slice/user-1000.slice/user@1000.service/app.slice/app.service", some)
			f.add("/docker/"+hexA, some)
			f.add("/kubepods/burstable/pod"+uid+"/"+hexB, some)
			f.add("/kubepods/burstable/pod"+uid+"/"+strings.Repeat("c", 64), some)
			f.add("/kubepods/burstable/pod"+uid+"/"+strings.Repeat("d", 64), nil)
			f.add("/kubepods/pod"+uidS+"/"+strings.Repeat("e", 64), nil)
			f.add("/lxc.payload.web/system.slice/a.service", some)
			f.add("/lxc.monitor.web", some)
			f.add("/batch", some)
			f.add("/batch/empty", nil)
			f.add("/group/a", some)
			f.add("/group/b", some)
			n, _, _ := f.auto(nil)
			list := want(t, n, "/init.scope", "/system.slice/nginx.service", "/system.slice/php.service",
				"/user.slice/user-1000.slice/user@1000.service/init.scope",
				"/user.slice/user-1000.slice/user@1000.service/app.slice/app.service",
				hexA, uid, "/lxc.payload.web", "/batch", "/group/a", "/group/b")
			if diff := cmp.Diff(&owca.Task{
				ID: uid, Name: uid,
				Cgroups: []string{"/kubepods/burstable/pod" + uid + "/" + hexB, "/kubepods/burstable/pod" + uid + "/" + strings.Repeat("c", 64)},
				Labels:  map[string]string{"kind": "pod", "pod_uid": uid, "qos_class": "burstable"},
			}, byID(list, uid)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAutoNodePerContainer(t *testing.T) {
	f := newFixture(t, "unified")
	f.add("/kubepods/pod"+uid+"/"+hexA, some)
	f.add("/kubepods/pod"+uid+"/"+hexB, some)
	f.add("/mesos/"+uid, some)
	f.add("/mesos/"+uid+"/mesos/inner", some)
	pods, _, _ := f.auto(nil)
	want(t, pods, uid, "/mesos/"+uid) // the same uid twice: the first path has it
	containers, _, _ := f.auto(func(n *AutoNode) { n.Per = "container" })
	list := want(t, containers, hexA, hexB, uid, "/mesos/"+uid+"/mesos/inner")
	if got := byID(list, hexA).Labels["pod_uid"]; got != uid {
		t.Errorf("pod_uid %q", got)
	}
	if got := byID(list, "/mesos/"+uid+"/mesos/inner").Labels["parent"]; got != uid {
		t.Errorf("parent %q", got)
	}
}

// Containers in containers are tasks, and so are those around them.
func TestAutoNodeNested(t *testing.T) {
	f := newFixture(t, "unified", "cpu")
	kind := "/docker/" + hexA
	f.add(kind+"/init.scope", some)
	f.add(kind+"/system.slice/containerd.service", some)
	f.add(kind+"/kubelet/kubepods/burstable/pod"+uid+"/"+hexB, some)
	f.add(kind+"/docker/"+strings.Repeat("b", 64)+"/docker/"+strings.Repeat("c", 64), some)
	f.add("/system.slice/web.service/libpod-payload-"+strings.Repeat("d", 64), some)
	f.add("/lxc.payload.x/docker/"+strings.Repeat("e", 64), some)
	n, _, _ := f.auto(nil)
	deepest := hexA + "/" + strings.Repeat("b", 64) + "/" + strings.Repeat("c", 64)
	list := want(t, n, hexA, hexA+"/"+uid, hexA+"/"+strings.Repeat("b", 64), deepest,
		"/system.slice/web.service", strings.Repeat("d", 64), "/lxc.payload.x", "/lxc.payload.x/docker/"+strings.Repeat("e", 64))
	for id, parent := range map[string]string{
		hexA: "", hexA + "/" + uid: hexA, deepest: hexA + "/" + strings.Repeat("b", 64),
		strings.Repeat("d", 64): "/system.slice/web.service",
	} {
		if got := byID(list, id).Labels["parent"]; got != parent {
			t.Errorf("%s has the parent %q, want %q", id, got, parent)
		}
	}
	// One that starts later, deep inside.
	f.add(kind+"/kubelet/kubepods/pod"+uidS+"/"+strings.Repeat("f", 64), some)
	if list := tasks(t, n); byID(list, hexA+"/"+uidS) == nil {
		t.Error("a pod that started in a container was not found")
	}
}

// A user may call his cgroups what he likes, also before the real one comes.
func TestAutoNodeImpostor(t *testing.T) {
	f := newFixture(t, "unified")
	fake := "/user.slice/user-1000.slice/user@1000.service/a.slice/docker-" + hexA + ".scope"
	f.add(fake, some)
	n, _, _ := f.auto(nil)
	want(t, n, hexA)
	f.add("/zzz/"+hexA, some)
	list := want(t, n, hexA, fake)
	if got := byID(list, hexA).Cgroups[0]; got != "/zzz/"+hexA {
		t.Errorf("the id went to %s", got)
	}
}

func TestAutoNodeFindsUnion(t *testing.T) {
	f := newFixture(t, "unified", "cpu", "memory")
	f.add("/supervisor/1", some, "memory")
	f.add("/both", nil, "unified")
	f.add("/both", some, "cpu")
	n, _, _ := f.auto(nil)
	want(t, n, "/supervisor/1", "/both")
	f.add("/supervisor/2", some, "memory")
	f.add("/supervisor/2", nil, "cpu")
	want(t, n, "/supervisor/1", "/supervisor/2", "/both")
	// Gone in one hierarchy only.
	f.remove("/supervisor/2", "cpu")
	f.remove("/both", "unified")
	want(t, n, "/supervisor/1", "/supervisor/2", "/both")
	f.remove("/both", "cpu")
	want(t, n, "/supervisor/1", "/supervisor/2")
}

func TestAutoNodeNotTasks(t *testing.T) {
	f := newFixture(t, "cpu")
	const kthread = aPid + 1
	f.mkdir(fmt.Sprintf("%s/%d", f.procfs, kthread))
	f.write(fmt.Sprintf("%s/%d/stat", f.procfs, kthread), "5000001 (kworker/0:1 (x) S) I 2 0 0 0 -1 69238880 0 0\n")
	f.mkdir(fmt.Sprintf("%s/%d", f.procfs, aPid+2))
	f.write(fmt.Sprintf("%s/%d/stat", f.procfs, aPid+2), "5000002 (sh) S 1 5000002 5000002 0 -1 4194560 0 0\n")
	f.add("/kthreads", []int{kthread})
	f.add("/system.slice/owca.service", []int{os.Getpid()})
	f.add("/shared", []int{os.Getpid(), kthread, aPid + 2})
	f.add("/elsewhere", []int{0}) // in another pid namespace
	n, c, _ := f.auto(nil)
	want(t, n, "/shared", "/elsewhere")
	f.set("/system.slice/owca.service", []int{os.Getpid(), aPid})
	c.advance(n.RescanInterval)
	want(t, n, "/shared", "/elsewhere", "/system.slice/owca.service")
}

// Cgroup v1 says nothing when processes come and go.
func TestAutoNodeRescan(t *testing.T) {
	f := newFixture(t, "cpu", "memory")
	f.add("/a", some)
	f.add("/b", nil)
	n, c, _ := f.auto(nil)
	want(t, n, "/a")
	f.set("/a", nil)
	f.set("/b", some)
	want(t, n, "/a")
	c.advance(n.RescanInterval)
	want(t, n, "/b")
	f.set("/a", some)
	for range 10 { // spread over calls
		c.advance(n.RescanInterval / 10)
		tasks(t, n)
	}
	want(t, n, "/a", "/b")
}

// A runtime makes the cgroup first and moves the process in later.
func TestAutoNodePollsNewCgroups(t *testing.T) {
	f := newFixture(t, "cpu", "memory")
	n, c, _ := f.auto(func(n *AutoNode) { n.RescanInterval = time.Hour })
	f.add("/a", nil)
	want(t, n)
	for range 3 {
		c.advance(time.Second)
		want(t, n)
	}
	f.set("/a", some)
	c.advance(time.Second)
	want(t, n, "/a")
	if len(n.tree.polls) != 1 {
		t.Fatalf("%d cgroups polled", len(n.tree.polls))
	}
	want(t, n, "/a")
	if len(n.tree.polls) != 0 {
		t.Error("polled although it has processes")
	}
}

func TestAutoNodePollingEnds(t *testing.T) {
	f := newFixture(t, "cpu")
	n, c, _ := f.auto(nil)
	f.add("/a", nil)
	calls := 0
	for want(t, n); len(n.tree.polls) > 0; calls++ {
		if calls > 1000 {
			t.Fatal("polled for ever")
		}
		c.advance(time.Second)
		want(t, n)
	}
	f.set("/a", some)
	for range 11 {
		c.advance(time.Second)
		tasks(t, n)
	}
	want(t, n, "/a")
}

func TestAutoNodeV2Populated(t *testing.T) {
	f := newFixture(t, "unified")
	f.add("/a.service/x", some)
	f.add("/b", nil)
	n, _, _ := f.auto(nil)
	want(t, n, "/a.service")
	f.set("/a.service/x", nil)
	f.set("/b", some)
	want(t, n, "/b") // the clock stands still
	f.set("/b", nil)
	f.set("/a.service/x", some)
	want(t, n, "/a.service")
}

// A plain cgroup is a task as long as none below it is.
func TestAutoNodePlainParent(t *testing.T) {
	for _, kind := range []string{"unified", "cpu"} {
		f := newFixture(t, kind)
		f.add("/a", some)
		n, _, _ := f.auto(nil)
		want(t, n, "/a")
		f.add("/a/b", nil)
		want(t, n, "/a")
		f.add("/a/c", some)
		want(t, n, "/a/c")
		f.remove("/a/c")
		want(t, n, "/a")
		f.set("/a", nil)
		f.add("/a/c", some)
		want(t, n, "/a/c")
		f.remove("/a/c")
		want(t, n)
	}
}

func TestAutoNodeGlobs(t *testing.T) {
	f := newFixture(t, "unified", "cpu")
	f.add("/system.slice/a.service", some)
	f.add("/system.slice/b.service", some)
	f.add("/user.slice/user-1.slice/session-1.scope", some)
	f.add("/kubepods/pod"+uid+"/"+hexA, some)
	f.add("/kubepods/burstable/pod"+uidS+"/"+hexB, some)
	n, _, _ := f.auto(func(n *AutoNode) { n.Exclude = []string{"/user.slice/**", "/*/a.*"} })
	want(t, n, "/system.slice/b.service", uid, uidS)
	if n.tree.root.children["user.slice"] != nil {
		t.Error("what is excluded as a whole is walked")
	}
	n, _, _ = f.auto(func(n *AutoNode) { n.Include = []string{"/kubepods/**/pod*"}; n.Exclude = []string{"**/burstable/*"} })
	want(t, n, uid)
	n, _, _ = f.auto(func(n *AutoNode) { n.Include = []string{"**/*.service"} })
	want(t, n, "/system.slice/a.service", "/system.slice/b.service")
}

func TestAutoNodeMaxTasks(t *testing.T) {
	f := newFixture(t, "unified")
	for _, name := range []string{"/b", "/d", "/f"} {
		f.add(name, some)
	}
	n, _, l := f.auto(func(n *AutoNode) { n.MaxTasks = 3 })
	want(t, n, "/b", "/d", "/f")
	f.add("/a", some)
	f.add("/e", some)
	want(t, n, "/b", "/d", "/f") // those that were there stay
	f.remove("/d")
	want(t, n, "/a", "/b", "/f")
	want(t, n, "/a", "/b", "/f")
	if got := l.count("more tasks than max_tasks; the rest"); got != 1 {
		t.Errorf("warned %d times", got)
	}
	f.remove("/f")
	want(t, n, "/a", "/b", "/e")
	if l.count("no more tasks than max_tasks") != 1 {
		t.Error("the end of it is not reported")
	}
	f.add("/g", some)
	want(t, n, "/a", "/b", "/e")
	if got := l.count("more tasks than max_tasks; the rest"); got != 2 {
		t.Errorf("warned %d times", got)
	}
}

// Watches run out: the rest is found at the next rescan.
func TestAutoNodeWatchLimit(t *testing.T) {
	for _, limit := range []int{0, 2, 6, 10} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			f := newFixture(t, "unified", "cpu")
			f.watchLimit(2 * limit)
			f.add("/docker/"+hexA, some)
			f.add("/a/b/c", some)
			n, c, l := f.auto(nil)
			want(t, n, hexA, "/a/b/c")
			for i := range 10 {
				f.add("/docker/"+hexB, some)
				f.add(fmt.Sprintf("/x/y%d/z", i), some)
				// The same name again, before anybody looked.
				f.remove("/docker/" + hexA)
				f.add("/docker/"+hexA, some)
				c.advance(n.RescanInterval)
				want(t, n, hexA, hexB, "/a/b/c", fmt.Sprintf("/x/y%d/z", i))
				f.remove("/docker/" + hexB)
				f.remove("/x")
				f.set("/docker/"+hexA, nil)
				c.advance(n.RescanInterval)
				tasks(t, n)
				c.advance(n.RescanInterval)
				want(t, n, "/a/b/c")
				f.set("/docker/"+hexA, some)
			}
			if len(n.tree.watched) > limit {
				t.Errorf("%d watches", len(n.tree.watched))
			}
			if got := l.count("half of fs.inotify.max_user_watches"); got != 1 {
				t.Errorf("warned %d times", got)
			}
		})
	}
}

func TestAutoNodeWithoutInotify(t *testing.T) {
	f := newFixture(t, "unified", "cpu")
	f.add("/a", some)
	n, c, _ := f.auto(nil)
	if err := n.tree.close(); err != nil {
		t.Fatal(err)
	}
	n.tree.root.watches, n.tree.watched = nil, map[int32]*node{}
	for _, child := range n.tree.nodes {
		child.watches, child.events, child.settled = nil, 0, false
	}
	f.add("/b/c", some)
	f.remove("/a")
	c.advance(n.RescanInterval)
	want(t, n, "/b/c")
}

// More events than the queue holds: everything is read again.
func TestAutoNodeOverflow(t *testing.T) {
	f := newFixture(t, "unified")
	f.add("/a/1", some)
	f.add("/b/1", some)
	f.add("/c/1", some)
	n, _, l := f.auto(nil)
	b, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	if err != nil {
		t.Fatal(err)
	}
	var limit int
	if _, err := fmt.Sscan(string(b), &limit); err != nil {
		t.Fatal(err)
	}
	dir := f.list[0] + "/a/x"
	for range limit/2 + 10 {
		if err := errors.Join(os.Mkdir(dir, 0o755), os.Remove(dir)); err != nil {
			t.Fatal(err)
		}
	}
	// None of this is in the queue.
	f.add("/a/2", some)
	f.remove("/b/1")
	f.remove("/c/1")
	f.add("/c/1", some)
	want(t, n, "/a/1", "/a/2", "/c/1")
	if l.count("max_queued_events") != 1 {
		t.Error("not reported")
	}
	// The watches are alive.
	f.set("/c/1", nil)
	f.add("/c/2", some)
	want(t, n, "/a/1", "/a/2", "/c/2")
}

// Directories that are made in one go exist before their parent is watched.
func TestAutoNodeDeepAtOnce(t *testing.T) {
	f := newFixture(t, "cpu", "memory")
	n, _, _ := f.auto(nil)
	deep := strings.Repeat("/x", 300)
	f.add(deep, some)
	want(t, n, deep)
	f.remove("/x/x/x")
	want(t, n)
	if len(n.tree.nodes) != 2 || len(n.tree.watched) != 2*3 { // the root, /x and /x/x
		t.Errorf("%d cgroups and %d watches are left", len(n.tree.nodes), len(n.tree.watched))
	}
}

func TestAutoNodeLongPath(t *testing.T) {
	f := newFixture(t, "cpu")
	f.add("/ok", some)
	// Longer than PATH_MAX in the end; made by steps, as only that way it goes.
	root, err := os.OpenRoot(f.list[0])
	if err != nil {
		t.Fatal(err)
	}
	name := strings.Repeat("n", 250)
	for range 20 {
		if err := root.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := root.OpenRoot(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := root.Close(); err != nil {
			t.Fatal(err)
		}
		root = next
	}
	if err := root.Close(); err != nil {
		t.Fatal(err)
	}
	n, _, l := f.auto(nil)
	want(t, n, "/ok")
	if l.count("longer than the kernel can open") != 1 {
		t.Error("not reported")
	}
}

func TestAutoNodeRename(t *testing.T) {
	f := newFixture(t, "cpu")
	f.add("/a/b", some)
	n, _, _ := f.auto(nil)
	want(t, n, "/a/b")
	if err := os.Rename(f.list[0]+"/a", f.list[0]+"/z"); err != nil {
		t.Fatal(err)
	}
	want(t, n, "/z/b")
	f.add("/z/c", some)
	want(t, n, "/z/b", "/z/c")
}

func TestAutoNodeUnmounted(t *testing.T) {
	f := newFixture(t, "cpu", "memory")
	f.add("/a", some)
	f.add("/b", some, "memory")
	n, c, _ := f.auto(nil)
	want(t, n, "/a", "/b")
	if err := os.RemoveAll(f.list[1]); err != nil {
		t.Fatal(err)
	}
	want(t, n, "/a")
	f.add("/c", some)
	c.advance(2 * n.RescanInterval)
	tasks(t, n)
	want(t, n, "/a", "/c")
}

// A walk that is interrupted goes on with the next call.
func TestAutoNodeCancelled(t *testing.T) {
	f := newFixture(t, "cpu")
	n, _, _ := f.auto(nil)
	for i := range 300 {
		f.add(fmt.Sprintf("/a/%d", i), some)
	}
	if _, err := n.Tasks(&countdown{Context: context.Background(), left: 3}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if got := len(tasks(t, n)); got != 300 {
		t.Errorf("%d tasks", got)
	}
}

// countdown is a context that is cancelled after so many looks at it.
type countdown struct {
	context.Context
	left int
}

func (c *countdown) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

func TestAutoNodeUnchanged(t *testing.T) {
	for _, kind := range [][]string{{"unified"}, {"cpu", "memory"}, {"unified", "memory"}} {
		f := newFixture(t, kind...)
		for i := range 50 {
			f.add(fmt.Sprintf("/system.slice/%d.service/inner", i), []int{os.Getppid()})
			f.add(fmt.Sprintf("/empty.slice/%d", i), nil)
		}
		n, c, _ := f.auto(nil)
		ctx := context.Background()
		first := tasks(t, n)
		if allocs := testing.AllocsPerRun(100, func() {
			c.advance(time.Second)
			if _, err := n.Tasks(ctx); err != nil {
				t.Error(err)
			}
		}); allocs != 0 {
			t.Errorf("%v: %v allocations a call", kind, allocs)
		}
		if second := tasks(t, n); &first[0] != &second[0] {
			t.Error("a new slice although nothing changed")
		}
	}
}

// A task that did not change keeps its maps when others do.
func TestAutoNodeKeepsMaps(t *testing.T) {
	f := newFixture(t, "unified")
	f.add("/b", some)
	f.add("/kubepods/pod"+uid+"/"+hexA, some)
	n, _, _ := f.auto(nil)
	before := byID(tasks(t, n), uid)
	f.add("/a", some)
	f.add("/kubepods/pod"+uid+"/"+hexB, some)
	after := byID(tasks(t, n), uid)
	if len(before.Cgroups) != 1 || len(after.Cgroups) != 2 {
		t.Errorf("cgroups %q, then %q", before.Cgroups, after.Cgroups)
	}
	before.Labels["probe"] = "x"
	if after.Labels["probe"] != "x" {
		t.Error("labels were copied")
	}
}

func TestAutoNodeErrors(t *testing.T) {
	bad := errors.New("bad")
	if err := NewAuto(func() ([]string, error) { return nil, bad }, "/proc").Start(t.Context()); !errors.Is(err, bad) {
		t.Error(err)
	}
	if err := NewAuto(func() ([]string, error) { return nil, nil }, "/proc").Start(t.Context()); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	missing := filepath.Join(t.TempDir(), "x")
	if err := NewAuto(func() ([]string, error) { return []string{missing}, nil }, "/proc").Start(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	n := NewAuto(nil, "/proc")
	if _, err := n.Tasks(t.Context()); err == nil {
		t.Error("no error before Start")
	}
	n.Include, n.Exclude = []string{"[", "/a**"}, []string{"x"}
	err := n.Validate()
	var fields []string
	for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
		var field interface{ Field() string }
		if errors.As(err, &field) {
			fields = append(fields, field.Field())
		}
	}
	if !slices.Equal(fields, []string{"include", "exclude"}) {
		t.Errorf("problems of %q, want include and exclude: %v", fields, err)
	}
}
