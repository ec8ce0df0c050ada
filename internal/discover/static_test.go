package discover

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/componenttest"
)

func (f *fixture) static(change func(*StaticNode)) (*StaticNode, *logs) {
	f.t.Helper()
	n, l := NewStatic(f.hierarchies), &logs{}
	n.log = logTo(l)
	change(n)
	start(f.t, n)
	return n, l
}

func TestStaticNodeConformance(t *testing.T) {
	t.Run("directory", func(t *testing.T) {
		componenttest.Node(t, func(t *testing.T) (owca.Node, func() func()) {
			f := newFixture(t, "cpu", "memory")
			f.add("/batch", nil)
			n, _ := f.static(func(n *StaticNode) { n.Directory = "/batch" })
			made := 0
			return n, func() func() {
				made++
				p := fmt.Sprintf("/batch/job\n%d", made)
				f.add(p, nil)
				return func() { f.remove(p) }
			}
		})
	})
	t.Run("tasks", func(t *testing.T) {
		componenttest.Node(t, func(t *testing.T) (owca.Node, func() func()) {
			f := newFixture(t, "cpu", "memory")
			f.add("/always", some)
			n, _ := f.static(func(n *StaticNode) {
				n.RequirePIDs = true
				n.Names = []string{"always"}
				for i := range 20 {
					n.Names = append(n.Names, fmt.Sprint("t", i+1))
				}
			})
			made := 0
			return n, func() func() {
				made++
				p := fmt.Sprint("/t", made)
				f.add(p, some)
				return func() { f.set(p, nil) }
			}
		})
	})
}

// As written in the configuration, so is the ID.
func TestStaticNode(t *testing.T) {
	f := newFixture(t, "unified", "cpu")
	f.add("/a", nil)
	f.add("/b/c", nil, "cpu")
	n, l := f.static(func(n *StaticNode) {
		n.Names = []string{"b/c", "/a", "gone", "/"}
		n.DefaultLabels = map[string]string{"env": "test", "app.kind": "x"}
		n.DefaultResources = map[string]float64{"cpus": 2}
		n.TasksLabels = map[string]map[string]string{"/b/c": {"env": "c"}, "typo": {"x": "y"}}
	})
	got := tasks(t, n)
	want := []owca.Task{
		{ID: "b/c", Name: "b/c", Cgroups: []string{"/b/c"}, Labels: map[string]string{"env": "c", "app_kind": "x"}, Resources: map[string]float64{"cpus": 2}},
		{ID: "/a", Name: "/a", Cgroups: []string{"/a"}, Labels: map[string]string{"env": "test", "app_kind": "x"}, Resources: map[string]float64{"cpus": 2}},
		{ID: "/", Name: "/", Cgroups: []string{"/"}, Labels: map[string]string{"env": "test", "app_kind": "x"}, Resources: map[string]float64{"cpus": 2}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for range 3 {
		tasks(t, n)
	}
	if got := l.count("does not exist in any hierarchy"); got != 1 {
		t.Errorf("warned %d times", got)
	}
	if l.count("task=typo") != 1 {
		t.Error("labels for no task are not reported")
	}
	f.add("/gone", nil)
	if got := tasks(t, n); byID(got, "gone") == nil || l.count("exists now") != 1 {
		t.Errorf("%+v", got)
	}
	f.remove("/gone")
	tasks(t, n)
	if got := l.count("does not exist in any hierarchy"); got != 2 {
		t.Errorf("warned %d times", got)
	}
}

func TestStaticNodeRequirePIDs(t *testing.T) {
	for _, kind := range [][]string{{"unified"}, {"cpu", "memory"}, {"unified", "memory"}} {
		f := newFixture(t, kind...)
		f.add("/full", some)
		f.add("/below/x/y", some)
		f.add("/empty/x", nil)
		n, _ := f.static(func(n *StaticNode) {
			n.RequirePIDs = true
			n.Names = []string{"/full", "/below", "/empty", "/missing"}
		})
		want(t, n, "/full", "/below")
		f.set("/empty/x", some)
		f.set("/full", nil)
		want(t, n, "/below", "/empty")
	}
}

func TestStaticNodeDirectory(t *testing.T) {
	f := newFixture(t, "unified", "cpu")
	n, l := f.static(func(n *StaticNode) {
		n.Names = []string{"/jobs/z"}
		n.Directory = "jobs/"
		n.TasksLabels = map[string]map[string]string{"jobs/a": {"team": "x"}}
	})
	want(t, n)
	if l.count("directory is in no cgroup hierarchy") != 1 {
		t.Error("a missing directory is not reported")
	}
	f.add("/jobs/b", nil, "cpu")
	f.add("/jobs/a/below", nil)
	list := want(t, n, "jobs/b", "jobs/a")
	if list[0].ID != "jobs/a" || list[0].Labels["team"] != "x" || list[1].Cgroups[0] != "/jobs/b" {
		t.Errorf("%+v", list)
	}
	f.add("/jobs/z", nil)
	if list := want(t, n, "/jobs/z", "jobs/a", "jobs/b"); list[0].ID != "/jobs/z" {
		t.Errorf("%+v", list)
	}
	f.remove("/jobs/a")
	want(t, n, "/jobs/z", "jobs/b")
	f.add("/jobs/a", nil)
	want(t, n, "/jobs/z", "jobs/a", "jobs/b")
	f.remove("/jobs")
	want(t, n)
	want(t, n)
	if got := l.count("directory is in no cgroup hierarchy"); got != 2 {
		t.Errorf("warned %d times", got)
	}
}

func TestStaticNodeUnchanged(t *testing.T) {
	f := newFixture(t, "unified", "cpu")
	for i := range 10 {
		f.add(fmt.Sprintf("/jobs/%d", i), some)
		f.add(fmt.Sprintf("/t%d", i), some)
	}
	n, _ := f.static(func(n *StaticNode) {
		n.Directory = "/jobs"
		n.RequirePIDs = true
		for i := range 11 { // the last is missing
			n.Names = append(n.Names, fmt.Sprint("t", i))
		}
	})
	first := tasks(t, n)
	if len(first) != 20 {
		t.Fatalf("%d tasks", len(first))
	}
	ctx := context.Background()
	if allocs := testing.AllocsPerRun(100, func() {
		if _, err := n.Tasks(ctx); err != nil {
			t.Error(err)
		}
	}); allocs != 0 {
		t.Errorf("%v allocations a call", allocs)
	}
	if second := tasks(t, n); &first[0] != &second[0] {
		t.Error("a new slice although nothing changed")
	}
}

// What a call that was cancelled has seen is not lost.
func TestStaticNodeCancelled(t *testing.T) {
	f := newFixture(t, "cpu")
	n, _ := f.static(func(n *StaticNode) {
		for i := range 200 {
			n.Names = append(n.Names, fmt.Sprint("t", i))
		}
	})
	want(t, n)
	f.add("/t0", nil)
	if _, err := n.Tasks(&countdown{Context: context.Background(), left: 2}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	want(t, n, "t0")
}

func TestStaticNodeValidate(t *testing.T) {
	for _, test := range []struct {
		node StaticNode
		want string // in the error; "" = valid
	}{
		{StaticNode{}, "no cgroup is named, and no directory"},
		{StaticNode{Names: []string{"a", "b"}}, ""},
		{StaticNode{Directory: "x"}, ""},
		{StaticNode{Names: []string{"a", "/a/"}}, `"a" and "/a/" are the same cgroup`},
		{StaticNode{Names: []string{"../etc"}}, `has an element ".."`},
		{StaticNode{Names: []string{"a/../../b"}}, `has an element ".."`},
		{StaticNode{Names: []string{"a..b"}}, ""},
		{StaticNode{Names: []string{""}}, "is empty"},
		{StaticNode{Names: []string{"a\x00b"}}, "NUL"},
		{StaticNode{Directory: "/x/.."}, `the path "/x/.."`},
	} {
		err := test.node.Validate()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q %q: %v, want %q", test.node.Names, test.node.Directory, err, test.want)
		}
	}
	bad := errors.New("bad")
	n := NewStatic(func() ([]string, error) { return nil, bad })
	if _, err := n.Tasks(t.Context()); err == nil {
		t.Error("no error before Start")
	}
	if err := n.Start(t.Context()); err == nil {
		t.Error("started without tasks")
	}
	n.Names = []string{"a"}
	if err := n.Start(t.Context()); !errors.Is(err, bad) {
		t.Error(err)
	}
}

// A directory that may not be read is a problem, not an empty directory.
func TestStaticNodeUnreadable(t *testing.T) {
	if os.Geteuid() == 0 {
		// Root may read everything: a symbolic link loop instead.
		f := newFixture(t, "cpu")
		if err := os.Symlink("loop", f.list[0]+"/loop"); err != nil {
			t.Fatal(err)
		}
		n, l := f.static(func(n *StaticNode) { n.Directory = "/loop/x" })
		want(t, n)
		if l.count("cannot be read") != 1 {
			t.Error("not reported")
		}
		return
	}
	f := newFixture(t, "cpu")
	f.add("/d/a", nil)
	if err := os.Chmod(f.list[0]+"/d", 0); err != nil {
		t.Fatal(err)
	}
	n, l := f.static(func(n *StaticNode) { n.Directory = "/d" })
	want(t, n)
	if l.count("cannot be read") != 1 {
		t.Error("not reported")
	}
}
