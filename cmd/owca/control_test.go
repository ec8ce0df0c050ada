package main

import (
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/act"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/config"
	"github.com/owca-project/owca/internal/decide"
	"github.com/owca-project/owca/internal/resctrl"
)

func TestLimitText(t *testing.T) {
	for _, tc := range []struct {
		knob        cgroup.Knob
		value, want string
	}{
		{cgroup.CPUMax, "max 100000", "no limit"},
		{cgroup.CPUMax, "50000 100000", "0.5 CPUs (50ms of 100ms)"},
		{cgroup.CPUMax, "1234567 100000", "12.3 CPUs (1.234567s of 100ms)"},
		{cgroup.CPUMax, "odd", "odd"},
		{cgroup.CPUMaxBurst, "2500", "2.5ms"},
		{cgroup.CPUSharesV1, "1024", "1024"},
		{cgroup.CPUIdleFlag, "1", "on"},
		{cgroup.CPUSetCPUList, "", "as the parent"},
		{cgroup.CPUSetCPUList, "0-3", "0-3"},
		{cgroup.MemoryHighLimit, "2147483648", "2.0G"},
		{cgroup.MemoryHighLimit, "max", "no limit"},
		{cgroup.MemoryLowLimit, "max", "max"},
		{cgroup.MemoryLowLimit, "0", "0"},
		{cgroup.IOMaxLimits, "", "no limit"},
		{cgroup.IOMaxLimits, "8:0 rbps=max wbps=52428800 riops=max wiops=max\n8:16 rbps=max wbps=max riops=100 wiops=max\n", "8:0 wbps=50M, 8:16 riops=100"},
	} {
		if got := limitText(tc.knob, tc.value); got != tc.want {
			t.Errorf("%v %q: %q, want %q", tc.knob, tc.value, got, tc.want)
		}
	}
}

// TestAppendPlan: a review has everything that was planned, and a hostile name does nothing
// to the terminal.
func TestAppendPlan(t *testing.T) {
	change := func(task, cgroupPath, from, to string) act.Change {
		return act.Change{
			Target: act.Target{Cgroup: cgroupPath, Knob: cgroup.CPUMax}, For: owca.TaskID(task), Kind: owca.CPUQuota,
			Old: from, New: to, Reason: "rule 1", Owner: "StaticAllocator",
		}
	}
	bounded, given := change("b", "/b/2", "max 100000", "50000 100000"), change("a\x1b[2J", "/a", "1000 100000", "max 100000")
	bounded.Note = "bounded by /b"
	given.Release = true
	r := &act.Report{
		Changes: []act.Change{
			bounded, given, change("b", "/b/1", "max 100000", "50000 100000"),
			{
				Target: act.Target{Group: "gold"}, For: "b", Kind: owca.RDTGroup, Owner: "x",
				Resctrl: &resctrl.Change{Kind: resctrl.CreateGroup, Group: "gold"},
			},
		},
		Refused: []act.Refusal{{Task: "c", Kind: owca.CPUIdle, Reason: "no such file"}},
		Failed:  []act.Failure{{Change: change("d", "d", "", ""), Err: errors.New("invalid argument")}},
	}
	const want = `a\x1b[2J
  cpu_quota    /a cpu.max  0.01 CPUs (1ms of 100ms) → no limit
               given back: rule 1, by StaticAllocator

b
  cpu_quota    /b/2 cpu.max  no limit → 0.5 CPUs (50ms of 100ms)
               rule 1, by StaticAllocator; bounded by /b
  cpu_quota    /b/1 cpu.max  no limit → 0.5 CPUs (50ms of 100ms)
               rule 1, by StaticAllocator
  rdt          resctrl group gold  create group gold
               no reason given, by x

refused
  c cpu_idle: no such file

failed
  d cpu.max: invalid argument

4 changes; owca run would make them
`
	if diff := cmp.Diff(want, string(appendPlan(nil, r))); diff != "" {
		t.Error(diff)
	}
	if got := string(appendPlan(nil, &act.Report{})); got != "no changes\n" {
		t.Errorf("%q", got)
	}
}

func TestAgeText(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 59 * time.Second: "59s", time.Minute: "1m", 90 * time.Minute: "1h", 47 * time.Hour: "47h", 50 * time.Hour: "2d",
	} {
		if got := ageText(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

// TestNamesOf: a name stays its component's, as that owns leases by it.
func TestNamesOf(t *testing.T) {
	part := func() *config.Instance {
		return &config.Instance{Tag: "StaticAllocator", Value: decide.NewStatic(nil)}
	}
	a, b, c := part(), part(), part()
	first := namesOf([]*config.Instance{a, b}, nil)
	if first[a.Value] != "StaticAllocator" || first[b.Value] != "StaticAllocator-2" {
		t.Errorf("%v", slices.Sorted(maps.Values(first)))
	}
	second := namesOf([]*config.Instance{c, b}, first)
	if second[b.Value] != "StaticAllocator-2" || second[c.Value] != "StaticAllocator" {
		t.Errorf("b is now %s, and what replaced a is %s", second[b.Value], second[c.Value])
	}
}

// TestAllocatorNames: components without fields may be one and the same value.
func TestAllocatorNames(t *testing.T) {
	nop := decide.NewNOP()
	var names []string
	for _, a := range allocators([]owca.Allocator{nop, nop, nop}, func(any) string { return "NOP" }) {
		names = append(names, a.Name)
	}
	if diff := cmp.Diff([]string{"NOP", "NOP-2", "NOP-3"}, names); diff != "" {
		t.Error(diff)
	}
}
