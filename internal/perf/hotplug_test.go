package perf

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

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

// TestCPUWithoutRoom: the files of a CPU that comes are not taken from those that
// are kept for others.
func TestCPUWithoutRoom(t *testing.T) {
	hosttest.Need(t, "root", "smp")
	root, plug := onlineFile(t)
	plug("0")
	c := openCounter(t, root, Descriptors)
	const cgroups = 3
	var groups []Cgroup
	for _, name := range [cgroups]string{"one", "two", "three"} {
		groups = append(groups, add(t, c, hosttest.NewCgroup(t, nil, name)))
	}
	open, files := filesOpen(t)-1, c.Files()
	plug("0-1")
	lower := limitFiles(t)
	const sentinels = 2
	limit := open + fileReserve + sentinels + 2*softwareCount
	lower(limit)
	for range 3 {
		var limited *LimitError
		if err := c.Refresh(); !errors.As(err, &limited) || *limited != (LimitError{Need: softwareCount, Open: limit - fileReserve, Limit: limit}) {
			t.Errorf("a CPU for whose %d files there is no room: %v", cgroups*softwareCount, err)
		}
		if now := filesOpen(t) - 1; now != limit-fileReserve || c.Files() != files+now-open {
			t.Errorf("%d files are open of %d, Files %d after %d", now, limit, c.Files(), files)
		}
		without := 0
		for _, g := range groups {
			if err := g.Read(make([]Count, softwareCount)); err != nil {
				without++
				if !errors.As(err, &limited) || errors.Is(err, ErrLost) {
					t.Errorf("Read where there is no room: %v", err)
				}
			}
		}
		if without != 1 {
			t.Errorf("%d of %d cgroups are not counted on the CPU that came", without, cgroups)
		}
	}
	lower(0)
	refresh(t, c)
	for _, g := range groups {
		read(t, g)
	}
	if want := files + sentinels + cgroups*softwareCount; c.Files() != want {
		t.Errorf("Files %d, want %d", c.Files(), want)
	}
}

// TestLostCount: what could not be read when a CPU went is told, and that no
// later Read will do better; a new beginning does.
func TestLostCount(t *testing.T) {
	hosttest.Need(t, "smp")
	eachBackend(t, func(t *testing.T, b Backend) {
		root, plug := onlineFile(t)
		plug("0-1")
		c := openCounter(t, root, b)
		cg, other := hosttest.NewCgroup(t, nil, "lost"), hosttest.NewCgroup(t, nil, "other")
		g, intact := add(t, c, cg), add(t, c, other)
		cg.Start("spin 30ms").Done()
		other.Start("spin 30ms").Done()
		refresh(t, c)
		read(t, g)
		before := read(t, intact)
		switch g := g.(type) {
		case *descriptorCgroup: // a sibling that reads as nothing
			null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(null)
			if err := unix.Dup3(null, int(g.slot(1)[contextSwitches]), unix.O_CLOEXEC); err != nil {
				t.Fatal(err)
			}
		case *bpfCgroup: // as the program says it
			g.counter.row(g.slot.slot, 1).at(rowFailed).Store(1 << contextSwitches)
		}
		for _, online := range []string{"0", "0-1", "0-1"} {
			plug(online)
			refresh(t, c)
			if err := g.Read(make([]Count, softwareCount)); !errors.Is(err, ErrLost) {
				t.Errorf("CPUs %s: %v, want that a count is lost", online, err)
			}
			if n := read(t, intact); n[taskClock].Value == 0 || n[taskClock].Value < before[taskClock].Value {
				t.Errorf("CPUs %s: %+v of another cgroup, before %+v", online, n, before)
			}
		}
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
		refresh(t, c)
		g = add(t, c, cg)
		cg.Start("spin 30ms").Done()
		refresh(t, c)
		if n := read(t, g); n[taskClock].Value == 0 {
			t.Errorf("%+v when it was added again", n)
		}
	})
}
