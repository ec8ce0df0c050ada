package discover

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/hosttest"
)

func TestMain(m *testing.M) { hosttest.Main(m) }

// fixture is a host of ordinary directories: hierarchies[0] may be v2.
type fixture struct {
	t      testing.TB
	dir    string
	procfs string
	list   []string // mount points
	v2     bool
}

// newFixture makes one: "unified" is v2, any other name v1.
func newFixture(t testing.TB, hierarchies ...string) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: t.TempDir()}
	f.procfs = filepath.Join(f.dir, "proc")
	f.mkdir(f.procfs)
	for _, h := range hierarchies {
		dir := filepath.Join(f.dir, h)
		f.mkdir(dir)
		if h == "unified" {
			f.write(filepath.Join(dir, "cgroup.controllers"), "cpu\n")
			f.v2 = true
		}
		f.write(filepath.Join(dir, "cgroup.procs"), "1\n")
		f.list = append(f.list, dir)
	}
	return f
}

func (f *fixture) hierarchies() ([]string, error) { return f.list, nil }

func (f *fixture) mkdir(dir string) {
	f.t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) write(file, text string) {
	f.t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

// aPid is one that no process has (kernel.pid_max is at most 2^22) and that
// counts as a process like any other.
const aPid = 5_000_000

// add makes the cgroup in the named hierarchies (none: all), with processes.
func (f *fixture) add(cgroup string, pids []int, in ...string) {
	f.t.Helper()
	for _, dir := range f.list {
		if len(in) > 0 && !slices.Contains(in, filepath.Base(dir)) {
			continue
		}
		f.mkdir(dir + cgroup)
		for p := cgroup; p != "/"; p = filepath.Dir(p) {
			if _, err := os.Stat(dir + p + "/cgroup.procs"); err != nil {
				f.write(dir+p+"/cgroup.procs", "")
			}
		}
	}
	f.set(cgroup, pids, in...)
}

// set gives an existing cgroup processes.
func (f *fixture) set(cgroup string, pids []int, in ...string) {
	f.t.Helper()
	var text strings.Builder
	for _, pid := range pids {
		text.WriteString(strconv.Itoa(pid) + "\n")
	}
	for _, dir := range f.list {
		if len(in) > 0 && !slices.Contains(in, filepath.Base(dir)) {
			continue
		}
		f.write(dir+cgroup+"/cgroup.procs", text.String())
		if filepath.Base(dir) == "unified" {
			for p := cgroup; p != "/"; p = filepath.Dir(p) {
				f.populate(dir + p)
			}
		}
	}
}

// populate writes cgroup.events as the kernel would, if that is a change.
func (f *fixture) populate(dir string) {
	text := "populated 0\nfrozen 0\n"
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Name() == "cgroup.procs" {
			if b, err := os.ReadFile(path); err == nil && len(b) > 0 {
				text = "populated 1\nfrozen 0\n"
			}
		}
		return nil
	})
	if old, err := os.ReadFile(dir + "/cgroup.events"); err != nil || string(old) != text {
		f.write(dir+"/cgroup.events", text)
	}
}

// remove removes the cgroup and what is below, from the leaves up.
func (f *fixture) remove(cgroup string, in ...string) {
	f.t.Helper()
	for _, dir := range f.list {
		if len(in) > 0 && !slices.Contains(in, filepath.Base(dir)) {
			continue
		}
		if err := os.RemoveAll(dir + cgroup); err != nil {
			f.t.Fatal(err)
		}
		if filepath.Base(dir) == "unified" {
			for p := filepath.Dir(cgroup); p != "/"; p = filepath.Dir(p) {
				f.populate(dir + p)
			}
		}
	}
}

// watchLimit sets fs.inotify.max_user_watches of the fixture.
func (f *fixture) watchLimit(n int) {
	f.mkdir(f.procfs + "/sys/fs/inotify")
	f.write(f.procfs+"/sys/fs/inotify/max_user_watches", strconv.Itoa(n)+"\n")
}

// clock is the node's time.
type clock struct{ time time.Time }

func (c *clock) now() time.Time          { return c.time }
func (c *clock) advance(d time.Duration) { c.time = c.time.Add(d) }

// logs collects what a node logs.
type logs struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logs) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}

func logTo(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// auto starts an AutoNode on the fixture, with a clock that stands still.
func (f *fixture) auto(change func(*AutoNode)) (*AutoNode, *clock, *logs) {
	f.t.Helper()
	n := NewAuto(f.hierarchies, f.procfs)
	c, l := &clock{time.Unix(1e9, 0)}, &logs{}
	n.now, n.log = c.now, logTo(l)
	if change != nil {
		change(n)
	}
	start(f.t, n)
	return n, c, l
}

type component interface {
	owca.Node
	owca.Starter
}

func start(t testing.TB, n component) {
	t.Helper()
	if err := n.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	if c, ok := n.(owca.Closer); ok {
		t.Cleanup(func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func tasks(t testing.TB, n owca.Node) []owca.Task {
	t.Helper()
	list, err := n.Tasks(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// want checks the IDs of the tasks, in any order.
func want(t testing.TB, n owca.Node, ids ...string) []owca.Task {
	t.Helper()
	list := tasks(t, n)
	var got []string
	for _, task := range list {
		got = append(got, string(task.ID))
	}
	if !sameTexts(got, ids) {
		t.Errorf("tasks\n%q, want\n%q", got, ids)
	}
	return list
}

func sameTexts(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// eventually is for real cgroups, of which the kernel tells in its own time.
func eventually(t testing.TB, n owca.Node, what string, ok func([]owca.Task) bool) []owca.Task {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		list := tasks(t, n)
		if ok(list) {
			return list
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: never; tasks: %+v", what, list)
		}
		time.Sleep(time.Millisecond)
	}
}

func byID(list []owca.Task, id string) *owca.Task {
	for i := range list {
		if string(list[i].ID) == id {
			return &list[i]
		}
	}
	return nil
}
