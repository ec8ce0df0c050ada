package run

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/hosttest"
	"github.com/owca-project/owca/internal/measure"
)

// TestResctrlAllocations: what tasks have by their groups is told of each of them, and
// given back at the end.
func TestResctrlAllocations(t *testing.T) {
	dir := hosttest.Resctrl(t, "/L3", "/MB")
	var tasks []owca.Task
	for _, name := range []string{"a", "b", "c"} {
		c := hosttest.NewCgroup(t, nil, "rdt-"+name)
		c.Start("sleep")
		tasks = append(tasks, owca.Task{ID: owca.TaskID(name), Cgroups: []string{c.Path}})
	}
	s := &direct{}
	r := runner(nodeFunc(func(context.Context) ([]owca.Task, error) { return tasks, nil }), time.Minute, s)
	r.CommonLabels = nil
	r.Act = acts(t)
	gold := "gold"
	rdt := func(group *string, l3, mb string) owca.Allocations {
		return owca.Allocations{owca.RDTGroup: {RDT: &owca.RDTAllocation{Name: group, L3: l3, MB: mb}}}
	}
	decision := owca.Decision{Allocations: map[owca.TaskID]owca.Allocations{
		"a": rdt(&gold, "L3:0=3", ""), "b": rdt(&gold, "L3:0=3", ""), "c": rdt(nil, "", "MB:0=50"),
	}}
	r.Allocators = []Allocator{allocator("A", func(context.Context, *owca.Snapshot) (owca.Decision, error) { return decision, nil })}
	planned, err := measure.Open("/").PlanResctrl(measure.ResctrlOptions{Control: true})
	if err != nil {
		t.Fatal(err)
	}
	r.Resctrl = planned
	l := startActor(t, r.Act)
	l.adopt(r)
	closed := false
	defer func() {
		if !closed {
			_ = l.close()
		}
	}()
	before := groupsIn(t, dir)
	for range 2 {
		l.tick(t.Context(), time.Now())
		if err := l.stages[stageAct].err; err != nil {
			t.Fatal(err)
		}
		for _, f := range l.acting.report.Failed {
			t.Errorf("%s of %s failed: %v", f.Kind, f.For, f.Err)
		}
		for _, f := range l.acting.report.Refused {
			t.Errorf("%s of %s is refused: %s", f.Kind, f.Task, f.Reason)
		}
		var got []string
		for _, line := range grep(s.last(), "owca_allocation_rdt_") {
			if strings.Contains(line, `domain_id="0"`) {
				name, labels, _ := strings.Cut(line, "{")
				group, _ := attribute(labels, "group_name")
				task, _ := attribute(labels, "task")
				if container, _ := attribute(labels, "container_name"); !strings.HasSuffix(container, "-rdt-"+task) {
					t.Errorf("the container is %q: %s", container, line)
				}
				if !strings.HasSuffix(group, "-gold") {
					group = "own"
				}
				got = append(got, strings.TrimPrefix(name, "owca_allocation_rdt_")+" "+task+" "+group+line[strings.LastIndexByte(line, ' '):])
			}
		}
		if len(got) != 9 {
			t.Fatalf("of domain 0 there is %q", got)
		}
		want := []string{
			"l3_cache_ways a owca-gold 2", "l3_mask a owca-gold 3", "memory_bandwidth a owca-gold 100",
			"l3_cache_ways b owca-gold 2", "l3_mask b owca-gold 3", "memory_bandwidth b owca-gold 100",
			got[6], got[7], "memory_bandwidth c own 50",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("of domain 0 there is:\n%s", diff)
		}
	}
	closed = true
	if err := l.close(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(before, groupsIn(t, dir)); diff != "" {
		t.Errorf("groups that are left, or gone:\n%s", diff)
	}
}

// groupsIn returns the directories of resctrl, info included.
func groupsIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// attribute returns the value of a label, which has nothing to escape.
func attribute(labels, name string) (string, bool) {
	_, rest, ok := strings.Cut(labels, name+`="`)
	value, _, _ := strings.Cut(rest, `"`)
	return value, ok
}
