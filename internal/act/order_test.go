package act

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/hosttest"
)

// On v1 a cgroup without cpus, or memory nodes, takes none below it (EACCES); on v2 it bounds
// nothing. One that could not be read bounds nothing that is known.
func TestPlanCPUSetBelowNone(t *testing.T) {
	for _, test := range []struct {
		v1, known, release, refused bool
	}{
		{v1: true, known: true, refused: true},
		{v1: true, known: true, release: true, refused: true},
		{v1: true},
		{known: true},
		{},
	} {
		for kind, k := range map[owca.AllocationKind]cgroup.Knob{owca.CPUSetCPUs: cgroup.CPUSetCPUList, owca.CPUSetMems: cgroup.CPUSetMemList} {
			t.Run(fmt.Sprintf("%+v/%s", test, kind), func(t *testing.T) {
				s := &State{
					CPUs: 2, CPUList: "0-1", MemList: "0",
					Tasks: map[owca.TaskID]*TaskState{"t": {Cgroups: []string{"/a/b"}}},
					Cgroups: map[string]*CgroupState{
						"/a":   {V1: test.v1, Values: map[cgroup.Knob]string{}},
						"/a/b": {V1: test.v1, Values: map[cgroup.Knob]string{k: ""}},
					},
				}
				if test.known {
					s.Cgroups["/a"].Values[k] = ""
				}
				w := Wanted{Task: "t", Kind: kind, Owner: "o", Allocation: owca.Allocation{Text: "0"}}
				if test.release {
					target := Target{Cgroup: "/a/b", Knob: k}
					s.Leases = map[Target]*Lease{target: {Change: Change{Target: target, For: "t", Kind: kind, Owner: "o"}, First: "0"}}
					w.Allocation = owca.Allocation{Release: true}
				}
				planned, err := Plan(s, []Wanted{w})
				if err != nil {
					t.Fatal(err)
				}
				if !test.refused {
					if len(planned.Refused) > 0 || len(planned.Changes) != 1 {
						t.Errorf("%+v", planned)
					}
					return
				}
				if len(planned.Changes) > 0 || len(planned.Refused) != 1 || !strings.Contains(planned.Refused[0].Reason, "/a above /a/b has no list") {
					t.Errorf("%+v", planned)
				}
			})
		}
	}
}

// As above on a host; and what the kernel says, should it come to that, is not put down to
// missing rights.
func TestActorCPUSetBelowNone(t *testing.T) {
	r := newRig(t)
	if r.tree.V1("cpuset") == "" {
		hosttest.Need(t, "cgroup1")
	}
	parent := hosttest.NewCgroup(t, nil, "act-none")
	c := hosttest.NewCgroup(t, parent, "child")
	id := r.task("one", c)
	r.set(c, cgroup.CPUSetCPUList, "")
	r.set(parent, cgroup.CPUSetCPUList, "")
	log := r.logged()
	decided := map[owca.TaskID]owca.Allocations{id: {owca.CPUSetCPUs: {Text: "0"}}}
	r.tick(decided)
	told(t, log, parent.Path+" above "+c.Path+" has no list")
	if n := r.actor.Stats(); n.Failed != 0 || n.Refused != 1 {
		t.Errorf("%+v", n)
	}
	control, err := r.tree.Control(c.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	err = control.Set(cgroup.CPUSetCPUList, "0")
	if hint := hintOf(err); !errors.Is(err, syscall.EACCES) || strings.Contains(hint, "root") || !strings.Contains(hint, "cgroup above") {
		t.Errorf("%v: %s", err, hint)
	}
	// Of a file that may not be opened the rights are missing.
	if hint := hintOf(fmt.Errorf("back: %w", &fs.PathError{Op: "write", Path: "/sys/fs/cgroup/a/cpuset.cpus", Err: syscall.EACCES})); !strings.Contains(hint, "root") {
		t.Error(hint)
	}
	r.set(parent, cgroup.CPUSetCPUList, "0")
	r.now += 10 * time.Minute
	r.tick(decided)
	r.want(c, cgroup.CPUSetCPUList, "0")
	r.close()
	r.want(c, cgroup.CPUSetCPUList, "")
}
