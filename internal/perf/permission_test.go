package perf

import (
	"errors"
	"io/fs"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/hosttest"
)

// TestPlanWithoutPermission: a host without a PMU has none for anybody; what it
// does count takes permission all the same.
func TestPlanWithoutPermission(t *testing.T) {
	hosttest.Need(t, "root")
	runtime.LockOSThread()
	// Capabilities are the thread's. What is permitted stays.
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var held, none [2]unix.CapUserData
	if err := unix.Capget(&header, &held[0]); err != nil {
		t.Fatal(err)
	}
	none = held
	none[0].Effective, none[1].Effective = 0, 0
	if err := unix.Capset(&header, &none[0]); err != nil {
		t.Fatal(err)
	}
	plan := func(name string) (*Plan, error) { return FS{}.Plan([]Request{{Events: []string{name}}}) }
	pmu := probePMU()
	cycles, err := plan("cycles")
	_, softErr := plan("page-faults")
	if err := unix.Capset(&header, &held[0]); err != nil {
		t.Fatal(err) // and the thread stays locked
	}
	runtime.UnlockOSThread()

	if softErr == nil {
		t.Skip("kernel.perf_event_paranoid lets everybody count")
	}
	if !errors.Is(softErr, fs.ErrPermission) {
		t.Errorf("page-faults: %v", softErr)
	}
	switch has := probePMU(); {
	case errors.Is(pmu, fs.ErrPermission), has == nil:
		if !errors.Is(err, fs.ErrPermission) {
			t.Errorf("cycles: %v; may look for a PMU: %v", err, pmu)
		}
	case !errors.Is(pmu, errors.ErrUnsupported) || !errors.Is(has, errors.ErrUnsupported):
		t.Errorf("is there a PMU? Without capabilities: %v; with them: %v", pmu, has)
	case err != nil || len(cycles.Omitted) != 1 || !errors.Is(cycles.Omitted[0].Err, errors.ErrUnsupported):
		t.Errorf("cycles without a PMU: %+v, %v", cycles, err)
	}
}

func TestNamesOfTheOriginal(t *testing.T) {
	for name, want := range map[string][2]string{
		"instructions":                {"instructions", "instructions"},
		"task_instructions":           {"instructions", "instructions"},
		"task_cycles":                 {"cycles", "cycles"},
		"task_cycles:u":               {"cycles_u", "cycles_u"},
		"task_cache_misses":           {"cache_misses", "cache_misses"},
		"task_cache_references":       {"cache_references", "cache_references"},
		"task-clock":                  {"task_clock", "task_clock"},
		"stalls__r1100":               {"stalls", "stalls__r1100"},
		"stalls_mem_load__r14A3":      {"stalls_mem_load", "stalls_mem_load__r14A3"},
		"x__r14A3140000000001":        {"x", "x__r14A3140000000001"},
		"r14a3":                       {"r14a3", "r14a3"},
		"task_cycles/name=Ticks/":     {"Ticks", "Ticks"},
		"r14a3/name=stalls_mem_load/": {"stalls_mem_load", "stalls_mem_load"},
	} {
		e, err := FS{}.Resolve(name)
		if err != nil {
			t.Error(err)
			continue
		}
		if got := [2]string{e.Alias, e.Original}; got != want {
			t.Errorf("%s: alias and original name are %q, want %q", name, got, want)
		}
	}
	one, oneErr := FS{}.Resolve("stalls_mem_load")
	other, otherErr := FS{}.Resolve("task_stalled_mem_loads")
	switch {
	case oneErr == nil && otherErr == nil:
		if one.Alias != other.Alias || one.Encodings[0].Attr != other.Encodings[0].Attr {
			t.Errorf("%+v is another event than %+v", other, one)
		}
	case !errors.Is(oneErr, errors.ErrUnsupported) || !errors.Is(otherErr, errors.ErrUnsupported):
		t.Errorf("%v; %v", oneErr, otherErr)
	}
}
