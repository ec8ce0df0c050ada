package act

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/hosttest"
)

// What a task with processes has in effect comes back, also where v2 does not take its list
// from before, which was empty: by a release, and at the end.
func TestActorCPUSetOfProcesses(t *testing.T) {
	for kind, k := range map[owca.AllocationKind]cgroup.Knob{owca.CPUSetCPUs: cgroup.CPUSetCPUList, owca.CPUSetMems: cgroup.CPUSetMemList} {
		r := newRig(t)
		c := hosttest.NewCgroup(t, nil, "act-"+string(kind[len("cpuset_"):]))
		id := r.task(string(kind), c)
		c.Start("sleep")
		file := filepath.Join(c.Dir("unified"), k.String()+".effective")
		if dir := c.Dir("cpuset"); dir != "" {
			file = filepath.Join(dir, k.String())
		}
		effective := func() string {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
		before := effective()
		decided := map[owca.TaskID]owca.Allocations{id: {kind: {Text: "0"}}}
		for _, give := range []func(){
			func() { r.tick(release(id, kind)) },
			func() { r.close() },
		} {
			r.tick(decided)
			if got := effective(); got != "0\n" {
				t.Errorf("%s is %q", kind, got)
			}
			give()
			if got := effective(); got != before {
				t.Errorf("%s was %q and is %q", kind, before, got)
			}
		}
	}
}
