package perf

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/owca-project/owca/internal/hosttest"
)

// TestReplugged unplugs a CPU and plugs it in again between two looks at the
// list of online CPUs, which is then as before.
func TestReplugged(t *testing.T) {
	hosttest.Need(t, "hotplug")
	eachBackend(t, func(t *testing.T, b Backend) {
		c := openCounter(t, FS{}, b)
		cg := hosttest.NewCgroup(t, nil, "replugged")
		g := add(t, c, cg)
		count := func() []Count {
			p := cg.Start("spin 100ms")
			pinTo(t, p.Pid, 1)
			p.Done()
			p.Kill()
			refresh(t, c)
			return read(t, g)
		}
		before, files := count(), c.Files()
		for _, state := range []string{"0", "1"} {
			if err := os.WriteFile("/sys/devices/system/cpu/cpu1/online", []byte(state), 0); err != nil {
				t.Fatal(err)
			}
		}
		if dir := cg.Dir("cpuset"); dir != "" { // v1's forgets CPUs that go
			cpus, err := os.ReadFile(filepath.Join(filepath.Dir(dir), "cpuset.cpus"))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "cpuset.cpus"), cpus, 0); err != nil {
				t.Fatal(err)
			}
		}
		refresh(t, c)
		between := read(t, g)
		for e := range between {
			if between[e].Value < before[e].Value || between[e].Running < before[e].Running {
				t.Errorf("event %d fell from %+v to %+v", e, before[e], between[e])
			}
		}
		after := count()
		if after[taskClock].Value < between[taskClock].Value+9e7 {
			t.Errorf("task-clock %d became %d: the CPU that came again is not counted", between[taskClock].Value, after[taskClock].Value)
		}
		if after[contextSwitches].Value <= between[contextSwitches].Value {
			t.Errorf("%+v became %+v", between, after)
		}
		if c.Files() != files {
			t.Errorf("%d files became %d", files, c.Files())
		}
	})
}
