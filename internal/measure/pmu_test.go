package measure

import (
	"errors"
	"testing"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/hosttest"
	"github.com/owca-project/owca/internal/perf"
)

// TestPMU counts the default events of a known loop on a PMU that counts exactly
// (test/vm/run-arm64): it has two of the five, and two cycles an instruction.
func TestPMU(t *testing.T) {
	hosttest.Need(t, "root", "pmu", "exact", "bpf")
	requests, err := perf.ParseRequests(perf.DefaultEvents)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range perf.Backends {
		t.Run(string(b), func(t *testing.T) {
			c := hosttest.NewCgroup(t, nil, "pmu")
			x := hosttest.StartExact(t, c)
			counters, err := Open("/").PlanCounters(requests, b)
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range counters.Omitted() {
				if !errors.Is(o.Err, errors.ErrUnsupported) {
					t.Errorf("%s: %v", o.Name, o.Err)
				}
			}
			m := newTasks(t, TaskOptions{})
			m.SetCounters(counters)
			now := time.Now()
			tick := func() owca.TaskData {
				now = now.Add(2 * time.Second)
				data, err := m.Read(now, now, []owca.Task{task(c)})
				if err != nil {
					t.Fatal(err)
				}
				return data[0]
			}
			first := tick()
			counts(t, first, owca.TaskInstructions, 0)
			missing(t, first, owca.TaskInstructionsPerCycle, owca.TaskInstructionRate)
			if backend, cgroups, _ := m.Counting(); backend != string(b) || cgroups != 1 {
				t.Errorf("counting by %q in %d cgroups", backend, cgroups)
			}
			var all float64
			for range 3 {
				n := float64(x.Loop(10_000_000))
				d := tick()
				// The kernel's interrupts are the task's, too.
				instructions := value(t, d, owca.TaskInstructions) - all
				all += instructions
				within(t, "instructions", instructions, n, 1.02*n)
				within(t, "cycles", value(t, d, owca.TaskCycles), 1.99*all, 2.01*all)
				within(t, "instructions per cycle", value(t, d, owca.TaskInstructionsPerCycle), 0.499, 0.501)
				within(t, "cycles per instruction", value(t, d, owca.TaskCyclesPerInstruction), 1.99, 2.01)
				within(t, "instruction rate", value(t, d, owca.TaskInstructionRate), instructions/2-1, instructions/2+1)
				within(t, "scaling", value(t, d, owca.TaskPerfScalingMax), 1, 1)
				missing(t, d, owca.TaskCacheReferences, owca.TaskCacheMisses, owca.TaskCacheHitRatio, owca.TaskMemoryStalls, owca.TaskMemoryStallsPerKiloInstruction)
			}
			idle := tick()
			within(t, "instructions when idle", value(t, idle, owca.TaskInstructions), all, all)
			within(t, "instruction rate when idle", value(t, idle, owca.TaskInstructionRate), 0, 0)
			missing(t, idle, owca.TaskInstructionsPerCycle)
		})
	}
}
