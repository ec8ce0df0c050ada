package componenttest

import (
	"context"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/owca-project/owca"
)

// Node checks what every [owca.Node] promises. For each check open makes one,
// starts it, and has the test's cleanup close it. The function that open returns
// beside it makes one task more run, and returns what ends that task again. There
// may be other tasks, which stay as they are.
func Node(t *testing.T, open func(t *testing.T) (node owca.Node, add func() (remove func()))) {
	t.Run("nothing yet", func(t *testing.T) {
		node, _ := open(t)
		wellFormed(t, tasksOf(t, node))
	})
	t.Run("come and go", func(t *testing.T) {
		node, add := open(t)
		before := tasksOf(t, node)
		known := make(map[owca.TaskID]bool)
		for _, task := range before {
			known[task.ID] = true
		}
		var remove []func()
		for range 20 {
			remove = append(remove, add())
		}
		tasks := until(t, node, len(before)+20)
		for _, task := range before {
			if !slices.ContainsFunc(tasks, func(now owca.Task) bool { return now.ID == task.ID }) {
				t.Errorf("task %q went away when others came", task.ID)
			}
		}
		for i, end := range remove {
			end()
			tasks = until(t, node, len(before)+19-i)
		}
		for _, task := range tasks {
			if !known[task.ID] {
				t.Errorf("task %q is still there", task.ID)
			}
		}
	})
	t.Run("the same as long as nothing changes", func(t *testing.T) {
		node, add := open(t)
		before := len(tasksOf(t, node))
		for range 5 {
			add()
		}
		first := clone(until(t, node, before+5))
		for range 10 {
			equalTasks(t, first, tasksOf(t, node))
		}
	})
	t.Run("what was returned never changes", func(t *testing.T) {
		node, add := open(t)
		before := len(tasksOf(t, node))
		type answer struct{ tasks, copy []owca.Task }
		var answers []answer
		remove := []func(){}
		for round := range 12 {
			if round%3 == 2 {
				remove[0]()
				remove = remove[1:]
			} else {
				remove = append(remove, add())
			}
			tasks := until(t, node, before+len(remove))
			answers = append(answers, answer{tasks, clone(tasks)})
		}
		for _, a := range answers {
			equalTasks(t, a.copy, a.tasks)
		}
	})
	t.Run("order", func(t *testing.T) {
		node, add := open(t)
		before := len(tasksOf(t, node))
		for range 5 {
			add()
		}
		first := clone(until(t, node, before+5))
		add()
		second := until(t, node, before+6)
		// Those that stay keep their order.
		at := -1
		for _, task := range first {
			i := slices.IndexFunc(second, func(now owca.Task) bool { return now.ID == task.ID })
			if i <= at {
				t.Errorf("task %q moved to index %d", task.ID, i)
			}
			at = i
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		node, add := open(t)
		before := len(tasksOf(t, node))
		add()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := node.Tasks(ctx); err == nil {
			t.Error("no error although the context was cancelled")
		}
		add()
		until(t, node, before+2)
	})
}

// tasksOf calls Tasks, which has to succeed and to return valid tasks.
func tasksOf(t *testing.T, node owca.Node) []owca.Task {
	t.Helper()
	tasks, err := node.Tasks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wellFormed(t, tasks)
	return tasks
}

// until waits for a number of tasks.
func until(t *testing.T, node owca.Node, n int) []owca.Task {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		tasks := tasksOf(t, node)
		if len(tasks) == n {
			return tasks
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d tasks, want %d: %v", len(tasks), n, ids(tasks))
		}
		time.Sleep(time.Millisecond)
	}
}

func ids(tasks []owca.Task) []owca.TaskID {
	var list []owca.TaskID
	for _, task := range tasks {
		list = append(list, task.ID)
	}
	return list
}

func wellFormed(t *testing.T, tasks []owca.Task) {
	t.Helper()
	seen := make(map[owca.TaskID]bool)
	cgroups := make(map[string]owca.TaskID)
	for _, task := range tasks {
		if task.ID == "" {
			t.Error("a task without ID")
		}
		if seen[task.ID] {
			t.Errorf("two tasks have the ID %q", task.ID)
		}
		seen[task.ID] = true
		if len(task.Cgroups) == 0 {
			t.Errorf("task %q has no cgroup", task.ID)
		}
		for _, cgroup := range task.Cgroups {
			if !strings.HasPrefix(cgroup, "/") || path.Clean(cgroup) != cgroup {
				t.Errorf("task %q: %q is no clean cgroup path", task.ID, cgroup)
			}
			if other, ok := cgroups[cgroup]; ok {
				t.Errorf("cgroup %q belongs to the tasks %q and %q", cgroup, other, task.ID)
			}
			cgroups[cgroup] = task.ID
		}
		for name := range task.Labels {
			if owca.SanitizeLabelName(name) != name {
				t.Errorf("task %q: label name %q is not valid", task.ID, name)
			}
		}
	}
}

func clone(tasks []owca.Task) []owca.Task {
	list := slices.Clone(tasks)
	for i := range list {
		list[i].Cgroups = slices.Clone(list[i].Cgroups)
		list[i].Labels = maps.Clone(list[i].Labels)
		list[i].Resources = maps.Clone(list[i].Resources)
	}
	return list
}

func equalTasks(t *testing.T, want, got []owca.Task) {
	t.Helper()
	if !slices.EqualFunc(want, got, func(a, b owca.Task) bool {
		return a.ID == b.ID && a.Name == b.Name && slices.Equal(a.Cgroups, b.Cgroups) &&
			maps.Equal(a.Labels, b.Labels) && maps.Equal(a.Resources, b.Resources)
	}) {
		t.Errorf("the tasks changed\nfrom %+v\nto   %+v", want, got)
	}
}
