package act

import (
	"strconv"
	"testing"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/hosttest"
)

// A tick in which nothing changes allocates nothing, with leases and without.
func TestUnchangedAllocatesNothing(t *testing.T) {
	const n = 20
	for _, leases := range []int{0, n} {
		r := newRig(t)
		parent := hosttest.NewCgroup(t, nil, "steady"+strconv.Itoa(leases))
		delegate(t, parent)
		decided := map[owca.TaskID]owca.Allocations{}
		for i := range n {
			id := r.task("task"+strconv.Itoa(i), hosttest.NewCgroup(t, parent, strconv.Itoa(i)))
			if i < leases {
				decided[id] = owca.Allocations{owca.CPUQuota: {Number: 0.25}}
			}
		}
		list := []Decided{decide("test", decided)}
		now := time.Now()
		tick := func() {
			r.actor.Observe(now, r.tasks)
			if _, err := r.actor.Apply(now, r.tasks, list); err != nil {
				t.Fatal(err)
			}
		}
		tick()
		r.leases(leases)
		tick() // opens what is read again
		if n := testing.AllocsPerRun(100, tick); n > 0 {
			t.Errorf("%d leases: %v allocations in a tick", leases, n)
		}
		r.close()
	}
}
