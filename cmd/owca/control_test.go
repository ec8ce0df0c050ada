package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/act"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/config"
	"github.com/owca-project/owca/internal/decide"
	"github.com/owca-project/owca/internal/hosttest"
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
		{cgroup.CPUSetCPUList, "", "none of its own"},
		{cgroup.CPUSetCPUList, "0-3", "0-3"},
		{cgroup.MemoryHighLimit, "2147483648", "2Gi"},
		{cgroup.MemoryHighLimit, "max", "no limit"},
		{cgroup.MemoryLowLimit, "max", "max"},
		{cgroup.MemoryLowLimit, "0", "0"},
		{cgroup.IOMaxLimits, "", "no limit"},
		{cgroup.IOMaxLimits, "8:0 rbps=max wbps=52428800 riops=max wiops=max\n8:16 rbps=max wbps=max riops=100 wiops=max\n", "8:0 wbps=50Mi, 8:16 riops=100"},
		{cgroup.IOMaxLimits, "8:0 rbps=1000000 wbps=1024 riops=max wiops=20000\n", "8:0 rbps=1M wbps=1024 wiops=20000"},
		{cgroup.MemoryHighLimit, "1999998976", "1.863Gi"},
		{cgroup.MemoryHighLimit, "9223372036854771712", "8388607Ti"},
		{cgroup.MemoryLowLimit, "10240", "10Ki"},
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

// TestActorHint: what the agent refuses by itself says what to do; the kernel does not.
func TestActorHint(t *testing.T) {
	forged := t.TempDir()
	if err := os.Chmod(forged, 0o777); err != nil {
		t.Fatal(err)
	}
	_, _, err := act.OpenJournal(forged)
	if err == nil || actorHint(err, forged) != "" {
		t.Errorf("%v%s", err, actorHint(err, forged))
	}
	// What act says of these is enough.
	for _, err := range []error{act.ErrNewer, fmt.Errorf("name another one: %w", syscall.EROFS)} {
		if hint := actorHint(err, "/state") + restoreHint(err); hint != "" {
			t.Errorf("%v: %q", err, hint)
		}
	}
	theirs := &act.OwnerError{Dir: "/state", UID: 4711, GID: 42}
	if actor, restore := actorHint(theirs, "/state"), restoreHint(theirs); !strings.Contains(actor, "chown") || !strings.Contains(restore, "--reuid=4711 --regid=42") || strings.Contains(restore, "needs root") {
		t.Errorf("%q, %q", actor, restore)
	}
	if hint := actorHint(&fs.PathError{Op: "write", Path: "/x", Err: syscall.EACCES}, "/state"); !strings.Contains(hint, "CAP_DAC_OVERRIDE") {
		t.Errorf("of a write that is not permitted: %q", hint)
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

// TestDefaultsOfRDT: null is all of it, in an AllocationConfiguration; without one nobody
// touches the default group.
func TestDefaultsOfRDT(t *testing.T) {
	r := newAllocationRunner(nil, nil)
	if o := r.options(); o.DefaultL3 != nil || o.DefaultMB != nil {
		t.Errorf("without a configuration: %v, %v", o.DefaultL3, o.DefaultMB)
	}
	l3 := "L3:0=f"
	r.AllocationConfiguration = newAllocationConfiguration()
	r.AllocationConfiguration.DefaultRDTL3 = &l3
	if o := r.options(); o.DefaultL3 == nil || *o.DefaultL3 != l3 || o.DefaultMB == nil || *o.DefaultMB != "" {
		t.Errorf("%v, %v, want %q and all of it", o.DefaultL3, o.DefaultMB, l3)
	}
}

// TestResctrlLeases: what becomes of leases of resctrl is seen without the agent.
func TestResctrlLeases(t *testing.T) {
	dir := hosttest.Resctrl(t, "/L3")
	c := hosttest.NewCgroup(t, nil, "resctrl-leases")
	p := c.Start("sleep")
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0); err != nil {
			t.Fatal(err)
		}
	}
	threads := func(group string) {
		t.Helper()
		tids, err := os.ReadDir("/proc/" + strconv.Itoa(p.Pid) + "/task")
		if err != nil {
			t.Fatal(err)
		}
		for _, tid := range tids {
			write(group+"/tasks", tid.Name())
		}
	}
	leases := []act.Lease{
		{Change: act.Change{
			Target: act.Target{Group: "owca-lease"}, For: "t", Kind: owca.RDTGroup,
			Resctrl: &resctrl.Change{Kind: resctrl.CreateGroup, Group: "owca-lease"},
		}},
		{Change: act.Change{
			Target: act.Target{Group: "owca-lease"}, For: "t", Kind: owca.RDTGroup,
			Resctrl: &resctrl.Change{Kind: resctrl.SetSchemata, Group: "owca-lease", New: resctrl.Schemata{
				{Resource: "L3", Domains: []resctrl.DomainValue{{ID: 0, Value: 3}, {ID: 99, Value: 1}}},
			}},
		}},
		{Change: act.Change{
			Target: act.Target{Task: "t"}, For: "t", Kind: owca.RDTGroup, Cgroups: []string{c.Path},
			Resctrl: &resctrl.Change{Kind: resctrl.MoveTask, Group: "owca-lease", Task: "t"},
		}},
	}
	check := func(when string, want ...string) {
		t.Helper()
		reader := leaseReader{root: "/"}
		defer reader.close()
		var got []string
		for i := range leases {
			s := reader.state(&leases[i])
			got = append(got, strings.TrimSpace(s.state+" "+s.value+" "+s.detail))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s:\n%s", when, diff)
		}
	}

	check("without the group", "gone", "gone", "gone")
	if err := os.Mkdir(filepath.Join(dir, "owca-lease"), 0o755); err != nil {
		t.Fatal(err)
	}
	write("owca-lease/schemata", "L3:0=3\n")
	threads("owca-lease")
	check("as leased", "held", "held L3:0=3", "held owca-lease")
	write("owca-lease/schemata", "L3:0=f\n")
	check("with other schemata", "held", "changed L3:0=f", "held owca-lease")
	threads("")
	check("moved away", "held", "changed L3:0=f", "changed /")
	p.Kill()
	check("without threads", "held", "changed L3:0=f", "gone")

	text := string(appendLeases(nil, "state", act.Holder{}, leases[2:], []leaseState{{state: leaseChanged, value: "/"}}, time.Now()))
	if !strings.Contains(text, "  changed to /") {
		t.Errorf("%s", text)
	}
}
