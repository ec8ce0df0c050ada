package act

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/resctrl"
)

// planHost is a host of 4 cpus with two pods, of three containers in all, and a task "sys"
// with a cgroup below it that is nobody's.
func planHost(v1 bool) *State {
	f := &fakeKernel{v1: v1, cpus: 4, cgroups: map[string]map[cgroup.Knob]string{}}
	const pods = "/kubepods/burstable/"
	s := &State{
		Units: Units{SharesUnit: 1000}, CPUs: 4, CPUList: "0-3", MemList: "0-1",
		Tasks: map[owca.TaskID]*TaskState{
			"web":  {Cgroups: []string{pods + "podw/a", pods + "podw/b"}, QoS: "burstable"},
			"db":   {Cgroups: []string{"/kubepods/podd/c"}, QoS: "guaranteed", Exclusive: "3"},
			"sys":  {Cgroups: []string{"/sys/x"}},
			"kube": {Cgroups: []string{pods + "podw"}},
			"gone": {Cgroups: []string{"/gone"}},
			"none": {},
		},
		Cgroups: map[string]*CgroupState{},
		Leases:  map[Target]*Lease{},
		Devices: map[string]string{"/dev/sda": "8:0"},
	}
	for _, path := range []string{pods + "podw/a", pods + "podw/b", "/kubepods/podd/c", "/sys", "/sys/x", pods + "podw"} {
		f.make(path)
		c := &CgroupState{IDs: sameID("id" + path), V1: v1, Values: f.cgroups[path], Errors: map[cgroup.Knob]error{}}
		for k := range cgroup.NumKnobs {
			if _, ok := c.Values[k]; !ok {
				c.Errors[k] = &fs.PathError{Op: "open", Path: path, Err: errors.ErrUnsupported}
			}
		}
		s.Cgroups[path] = c
	}
	return s
}

func wantedNumber(task owca.TaskID, kind owca.AllocationKind, n float64) Wanted {
	return Wanted{Task: task, Kind: kind, Owner: "a", Allocation: owca.Allocation{Number: n}}
}

func wantedText(task owca.TaskID, kind owca.AllocationKind, text string) Wanted {
	return Wanted{Task: task, Kind: kind, Owner: "a", Allocation: owca.Allocation{Text: text}}
}

func wantedRelease(task owca.TaskID, kind owca.AllocationKind) Wanted {
	return Wanted{Task: task, Kind: kind, Owner: "a", Allocation: owca.Allocation{Release: true}}
}

func wantedRDT(task owca.TaskID, name, l3, mb string) Wanted {
	r := &owca.RDTAllocation{L3: l3, MB: mb}
	if name != "own" {
		r.Name = &name
	}
	return Wanted{Task: task, Kind: owca.RDTGroup, Owner: "a", Allocation: owca.Allocation{RDT: r}}
}

func (s *State) set(path string, k cgroup.Knob, value string) { s.Cgroups[path].Values[k] = value }

// sameID is that of all limits of a cgroup.
func sameID(id string) (ids [cgroup.NumKnobs]string) {
	for k := range ids {
		ids[k] = id
	}
	return ids
}

// lend makes a value a lease's.
func (s *State) lend(task owca.TaskID, kind owca.AllocationKind, path string, k cgroup.Knob, first, value string) {
	t := Target{Cgroup: path, Knob: k}
	s.set(path, k, value)
	s.Leases[t] = &Lease{Seq: uint64(len(s.Leases)), First: first, Change: Change{Target: t, For: task, Kind: kind, Owner: "a", ID: "id" + path, Old: first, New: value}}
}

func TestPlanKinds(t *testing.T) {
	const x = "/sys/x"
	quota := func(s *State, path, value string) { s.set(path, cgroup.CPUMax, value) }
	for name, test := range map[string]struct {
		v1, v2  bool // neither: both
		state   func(s *State)
		wanted  []Wanted
		want    []string
		refused []string
	}{
		"nothing":               {wanted: []Wanted{}},
		"quota":                 {wanted: []Wanted{wantedNumber("sys", owca.CPUQuota, 0.25)}, want: []string{"/sys/x cpu.max: max 100000 → 100000 100000"}},
		"quota, already":        {state: func(s *State) { quota(s, x, "100000 100000") }, wanted: []Wanted{wantedNumber("sys", owca.CPUQuota, 0.25)}},
		"quota, its period":     {state: func(s *State) { s.QuotaPeriod = 20000 }, wanted: []Wanted{wantedNumber("sys", owca.CPUQuota, 0.25)}, want: []string{"/sys/x cpu.max: max 100000 → 20000 20000"}},
		"quota, unlimited":      {state: func(s *State) { quota(s, x, "5000 100000") }, wanted: []Wanted{wantedNumber("sys", owca.CPUQuota, 1.5)}, want: []string{"/sys/x cpu.max: 5000 100000 → max 100000"}},
		"quota, unlimited both": {state: func(s *State) { s.QuotaPeriod = 1000 }, wanted: []Wanted{wantedNumber("sys", owca.CPUQuota, 1)}},
		"quota, short period": {
			state: func(s *State) { s.QuotaPeriod = 1000 }, wanted: []Wanted{wantedNumber("sys", owca.CPUQuota, 0.125)},
			want: []string{"/sys/x cpu.max: max 100000 → 1000 2000 (period lengthened from 1000 to 2000 µs, so that the quota is not below 1000 µs)"},
		},
		"quota, 0": {
			wanted: []Wanted{wantedNumber("sys", owca.CPUQuota, 0)},
			want:   []string{"/sys/x cpu.max: max 100000 → 1000 1000000 (raised to the 1000 µs in a period of 1000000 µs that are the least)"},
		},
		"quota of a pod": {
			v1: true, state: func(s *State) { s.set("/kubepods/burstable/podw/a", cgroup.CPUSharesV1, "3072") },
			wanted: []Wanted{wantedNumber("web", owca.CPUQuota, 0.25)},
			want: []string{
				"/kubepods/burstable/podw/a cpu.max: max 100000 → 75000 100000 (its part of 1 cpus by weight, of 2 containers)",
				"/kubepods/burstable/podw/b cpu.max: max 100000 → 25000 100000 (its part of 1 cpus by weight, of 2 containers)",
			},
		},
		"quota, a container gone": {
			state:  func(s *State) { delete(s.Cgroups, "/kubepods/burstable/podw/a") },
			wanted: []Wanted{wantedNumber("web", owca.CPUQuota, 0.25)},
			want:   []string{"/kubepods/burstable/podw/b cpu.max: max 100000 → 100000 100000"},
		},
		"quota bounded": {
			state: func(s *State) { quota(s, "/sys", "50000 100000") }, wanted: []Wanted{wantedNumber("sys", owca.CPUQuota, 0.25)},
			want: []string{"/sys/x cpu.max: max 100000 → 50000 100000 (bounded to that of /sys)"},
		},
		"quota bounded, period lengthened": {
			state:  func(s *State) { quota(s, "/sys", "1000 100000"); s.QuotaPeriod = 1000 },
			wanted: []Wanted{wantedNumber("sys", owca.CPUQuota, 0.25)},
			want:   []string{"/sys/x cpu.max: max 100000 → 1000 100000 (bounded to that of /sys)"},
		},
		"quota, below has more": {
			v1: true, state: func(s *State) { s.Cgroups[x].LargestBelow, s.Cgroups[x].BelowPath = "200000 100000", x+"/deep" },
			wanted:  []Wanted{wantedNumber("sys", owca.CPUQuota, 0.25)},
			refused: []string{"sys cpu_quota: the cgroup /sys/x/deep below /sys/x has 200000 100000, which is more than 100000 100000"},
		},
		"quota within 0.05": {
			state:  func(s *State) { s.lend("sys", owca.CPUQuota, x, cgroup.CPUMax, "max 100000", "100000 100000") },
			wanted: []Wanted{wantedNumber("sys", owca.CPUQuota, 0.29)},
		},
		"quota anew": {
			state: func(s *State) {
				s.QuotaPeriod = 20000
				s.lend("sys", owca.CPUQuota, x, cgroup.CPUMax, "max 100000", "100000 100000")
			},
			wanted: []Wanted{{Task: "sys", Kind: owca.CPUQuota, Owner: "a", Anew: true, Allocation: owca.Allocation{Number: 0.25}}},
			want:   []string{"/sys/x cpu.max: 100000 100000 → 20000 20000"},
		},
		"quota, its own period again": {
			state: func(s *State) {
				s.lend("sys", owca.CPUQuota, x, cgroup.CPUMax, "max 100000", "1000 1000000")
			},
			wanted: []Wanted{wantedNumber("sys", owca.CPUQuota, 0.25)},
			want:   []string{"/sys/x cpu.max: 1000 1000000 → 100000 100000"},
		},
		"release to what cannot be read": {
			state:  func(s *State) { s.lend("sys", owca.CPUQuota, x, cgroup.CPUMax, "much 100000", "100000 100000") },
			wanted: []Wanted{wantedRelease("sys", owca.CPUQuota)},
			want:   []string{"/sys/x cpu.max: 100000 100000 → much 100000 release"},
		},
		"quota yielded": {
			v1: true, state: func(s *State) {
				path := "/kubepods/burstable/podw/a"
				quota(s, path, "30000 100000")
				s.Yielded = map[Yield]bool{{"web", owca.CPUQuota, Target{Cgroup: path, Knob: cgroup.CPUMax}}: true}
			},
			wanted: []Wanted{wantedNumber("web", owca.CPUQuota, 0.25)},
			want:   []string{"/kubepods/burstable/podw/b cpu.max: max 100000 → 50000 100000 (its part of 1 cpus by weight, of 2 containers)"},
		},
		"quota below a burst that was yielded": {
			state: func(s *State) {
				quota(s, x, "50000 100000")
				s.set(x, cgroup.CPUMaxBurst, "30000")
				s.Yielded = map[Yield]bool{{"sys", owca.CPUQuota, Target{Cgroup: x, Knob: cgroup.CPUMaxBurst}}: true}
			},
			wanted:  []Wanted{wantedNumber("sys", owca.CPUQuota, 0.05)},
			refused: []string{"sys cpu_quota: /sys/x has a burst of 30000 µs, which somebody else set: more than a quota of 20000 µs"},
		},
		"weight yielded, then idle": {
			v1: true, state: func(s *State) {
				s.set(x, cgroup.CPUSharesV1, "77")
				s.Yielded = map[Yield]bool{{"sys", owca.CPUShares, Target{Cgroup: x, Knob: cgroup.CPUSharesV1}}: true}
			},
			wanted: []Wanted{wantedNumber("sys", owca.CPUShares, 2), wantedNumber("sys", owca.CPUIdle, 1)},
			want:   []string{"/sys/x cpu.shares: 77 → 1024 (what cpu.idle makes of it)", "/sys/x cpu.idle: 0 → 1"},
		},
		"idle no more, the weight": {
			v1: true, state: func(s *State) {
				s.lend("sys", owca.CPUIdle, x, cgroup.CPUSharesV1, "77", "1024")
				s.lend("sys", owca.CPUIdle, x, cgroup.CPUIdleFlag, "0", "1")
			},
			wanted: []Wanted{wantedNumber("sys", owca.CPUIdle, 0)},
			want:   []string{"/sys/x cpu.idle: 1 → 0", "/sys/x cpu.shares: 1024 → 77 release"},
		},
		"weight of bfq": {
			state: func(s *State) { s.Cgroups[x].BFQ = true }, wanted: []Wanted{wantedNumber("sys", owca.IOWeight, 1000)},
			want: []string{"/sys/x io.weight: 100 → 1000"},
		},
		"weight of bfq, too much": {
			state: func(s *State) { s.Cgroups[x].BFQ = true }, wanted: []Wanted{wantedNumber("sys", owca.IOWeight, 1001)},
			refused: []string{"sys io_weight: 1001 is more than the 1000 that bfq, of which the weight of /sys/x is, has"},
		},
		"shared with one that is refused": {
			// What the later one cannot have is not what the earlier one is denied for.
			state: func(s *State) {
				s.Tasks["sys2"] = &TaskState{Cgroups: []string{x}}
				quota(s, x, "300000 100000")
				s.set(x, cgroup.CPUMaxBurst, "30000")
				s.Yielded = map[Yield]bool{{"sys2", owca.CPUQuota, Target{Cgroup: x, Knob: cgroup.CPUMaxBurst}}: true}
			},
			wanted:  []Wanted{wantedNumber("sys", owca.CPUQuota, 0.25), wantedNumber("sys2", owca.CPUQuota, 0.05)},
			want:    []string{"/sys/x cpu.max: 300000 100000 → 100000 100000"},
			refused: []string{"sys2 cpu_quota: /sys/x has a burst of 30000 µs, which somebody else set: more than a quota of 20000 µs"},
		},
		"release beside one that is refused": {
			state: func(s *State) {
				s.Tasks["sys2"] = &TaskState{Cgroups: []string{x}}
				s.lend("sys", owca.CPUQuota, x, cgroup.CPUMax, "max 100000", "300000 100000")
				s.set(x, cgroup.CPUMaxBurst, "30000")
				s.Yielded = map[Yield]bool{{"sys2", owca.CPUQuota, Target{Cgroup: x, Knob: cgroup.CPUMaxBurst}}: true}
			},
			wanted:  []Wanted{wantedRelease("sys", owca.CPUQuota), wantedNumber("sys2", owca.CPUQuota, 0.05)},
			want:    []string{"/sys/x cpu.max: 300000 100000 → max 100000 release"},
			refused: []string{"sys2 cpu_quota: /sys/x has a burst of 30000 µs, which somebody else set: more than a quota of 20000 µs"},
		},
		"release beside one that wants the same": {
			state: func(s *State) {
				s.Tasks["sys2"] = &TaskState{Cgroups: []string{x}}
				s.lend("sys", owca.CPUQuota, x, cgroup.CPUMax, "max 100000", "100000 100000")
			},
			wanted: []Wanted{wantedRelease("sys", owca.CPUQuota), wantedNumber("sys2", owca.CPUQuota, 0.25)},
			want:   []string{"/sys/x cpu.max: 100000 100000 → 100000 100000"},
		},
		"quota beyond 0.05": {
			state:  func(s *State) { s.lend("sys", owca.CPUQuota, x, cgroup.CPUMax, "max 100000", "100000 100000") },
			wanted: []Wanted{wantedNumber("sys", owca.CPUQuota, 0.31)},
			want:   []string{"/sys/x cpu.max: 100000 100000 → 124000 100000"},
		},
		"quota, made anew": {
			state: func(s *State) {
				s.lend("sys", owca.CPUQuota, x, cgroup.CPUMax, "max 100000", "100000 100000")
				s.Cgroups[x].IDs = sameID("other")
				quota(s, x, "max 100000")
			},
			wanted: []Wanted{wantedNumber("sys", owca.CPUQuota, 0.26)},
			want:   []string{"/sys/x cpu.max: max 100000 → 104000 100000"},
		},
		"quota below the burst": {
			state: func(s *State) { s.set(x, cgroup.CPUMaxBurst, "150000") }, wanted: []Wanted{wantedNumber("sys", owca.CPUQuota, 0.25)},
			want: []string{"/sys/x cpu.max.burst: 150000 → 100000 (no more than the quota)", "/sys/x cpu.max: max 100000 → 100000 100000"},
		},
		"quota released with the burst": {
			state: func(s *State) {
				s.lend("sys", owca.CPUQuota, x, cgroup.CPUMaxBurst, "150000", "100000")
				s.lend("sys", owca.CPUQuota, x, cgroup.CPUMax, "max 100000", "100000 100000")
			},
			wanted: []Wanted{wantedRelease("sys", owca.CPUQuota)},
			want:   []string{"/sys/x cpu.max: 100000 100000 → max 100000 release", "/sys/x cpu.max.burst: 100000 → 150000 release"},
		},
		"release of another's": {
			state: func(s *State) {
				s.lend("sys", owca.CPUQuota, x, cgroup.CPUMax, "max 100000", "100000 100000")
				s.Leases[Target{Cgroup: x, Knob: cgroup.CPUMax}].Owner = "b"
			},
			wanted: []Wanted{wantedRelease("sys", owca.CPUQuota)},
		},
		"release of nothing":    {wanted: []Wanted{wantedRelease("sys", owca.CPUQuota), wantedRelease("nobody", owca.RDTGroup)}},
		"the later of two wins": {wanted: []Wanted{wantedNumber("sys", owca.CPUQuota, 0.5), wantedNumber("sys", owca.CPUQuota, 0.25)}, want: []string{"/sys/x cpu.max: max 100000 → 100000 100000"}},
		"shared with a later task": {
			state:   func(s *State) { s.Tasks["also"] = &TaskState{Cgroups: []string{x}} },
			wanted:  []Wanted{wantedNumber("sys", owca.IOWeight, 50), wantedNumber("also", owca.IOWeight, 60)},
			want:    []string{"/sys/x io.weight: 100 → 60"},
			refused: []string{"sys io_weight: io.weight of /sys/x is shared with task also, which is given 60"},
		},
		"shares v1":         {v1: true, wanted: []Wanted{wantedNumber("sys", owca.CPUShares, 2)}, want: []string{"/sys/x cpu.shares: 1024 → 2000"}},
		"shares v2":         {v2: true, wanted: []Wanted{wantedNumber("sys", owca.CPUShares, 2)}, want: []string{"/sys/x cpu.weight: 100 → 77"}},
		"shares, least":     {v1: true, wanted: []Wanted{wantedNumber("sys", owca.CPUShares, 0)}, want: []string{"/sys/x cpu.shares: 1024 → 2 (raised to the 2 shares that are the least)"}},
		"shares, most":      {v2: true, wanted: []Wanted{wantedNumber("sys", owca.CPUShares, 1e300)}, want: []string{"/sys/x cpu.weight: 100 → 10000 (lowered to the 262144 shares that are the most)"}},
		"shares, unchanged": {v1: true, state: func(s *State) { s.lend("sys", owca.CPUShares, x, cgroup.CPUSharesV1, "1024", "2000") }, wanted: []Wanted{wantedNumber("sys", owca.CPUShares, 2.05)}},
		"shares of an idle one": {
			v1: true, state: func(s *State) { s.set(x, cgroup.CPUIdleFlag, "1") }, wanted: []Wanted{wantedNumber("sys", owca.CPUShares, 2)},
			refused: []string{"sys cpu_shares: /sys/x is idle (cpu.idle): it has no weight of its own"},
		},
		"idle": {
			v2: true, state: func(s *State) { s.set(x, cgroup.CPUWeightV2, "300") }, wanted: []Wanted{wantedNumber("sys", owca.CPUIdle, 1)},
			want: []string{"/sys/x cpu.weight: 300 → 100 (what cpu.idle makes of it)", "/sys/x cpu.idle: 0 → 1"},
		},
		"idle no more": {
			v1: true, state: func(s *State) {
				s.lend("sys", owca.CPUIdle, x, cgroup.CPUSharesV1, "300", "1024")
				s.lend("sys", owca.CPUIdle, x, cgroup.CPUIdleFlag, "0", "1")
			},
			wanted: []Wanted{wantedRelease("sys", owca.CPUIdle)},
			want:   []string{"/sys/x cpu.idle: 1 → 0 release", "/sys/x cpu.shares: 1024 → 300 release"},
		},
		"burst": {
			state: func(s *State) { quota(s, x, "100000 100000") }, wanted: []Wanted{wantedNumber("sys", owca.CPUBurst, 0.125)},
			want: []string{"/sys/x cpu.max.burst: 0 → 50000"},
		},
		"burst bounded": {
			state: func(s *State) { quota(s, x, "10000 100000") }, wanted: []Wanted{wantedNumber("sys", owca.CPUBurst, 0.125)},
			want: []string{"/sys/x cpu.max.burst: 0 → 10000 (bounded to the quota)"},
		},
		"cpus": {v1: true, wanted: []Wanted{wantedText("sys", owca.CPUSetCPUs, "1, 0")}, want: []string{"/sys/x cpuset.cpus: 0-3 → 0-1"}},
		"cpus, from above": {
			v2: true, state: func(s *State) { s.Tasks["all"] = &TaskState{Cgroups: []string{"/sys"}} },
			wanted: []Wanted{wantedText("sys", owca.CPUSetCPUs, "0"), wantedText("all", owca.CPUSetCPUs, "0-1")},
			want:   []string{"/sys cpuset.cpus:  → 0-1", "/sys/x cpuset.cpus:  → 0"},
		},
		"cpus, shrinking": {
			v1: true, state: func(s *State) { s.Tasks["all"] = &TaskState{Cgroups: []string{"/sys"}} },
			wanted: []Wanted{wantedText("all", owca.CPUSetCPUs, "0-1"), wantedText("sys", owca.CPUSetCPUs, "0")},
			want:   []string{"/sys/x cpuset.cpus: 0-3 → 0", "/sys cpuset.cpus: 0-3 → 0-1"},
		},
		"cpus offline":    {wanted: []Wanted{wantedText("sys", owca.CPUSetCPUs, "2-9")}, refused: []string{"sys cpuset_cpus: cpu 4-9 is not online: 0-3 are"}},
		"cpus of another": {wanted: []Wanted{wantedText("sys", owca.CPUSetCPUs, "2-3")}, refused: []string{"sys cpuset_cpus: Kubernetes' static CPU manager gave cpu 3 to task db alone"}},
		"cpus exclusive":  {wanted: []Wanted{wantedText("db", owca.CPUSetCPUs, "2")}, refused: []string{"db cpuset_cpus: Kubernetes' static CPU manager gave cpus 3 to this task"}},
		"cpus not above": {
			state: func(s *State) { s.set("/sys", cgroup.CPUSetCPUList, "0"); s.set(x, cgroup.CPUSetCPUList, "0") }, wanted: []Wanted{wantedText("sys", owca.CPUSetCPUs, "0-1")},
			refused: []string{"sys cpuset_cpus: 0-1 is not within 0, which the cgroup /sys above /sys/x has"},
		},
		"cpus below": {
			v1: true, state: func(s *State) { s.Cgroups[x].CPUsBelow = "0-1,2" }, wanted: []Wanted{wantedText("sys", owca.CPUSetCPUs, "1")},
			refused: []string{"sys cpuset_cpus: cgroups below /sys/x have 0-2, which is not within 1"},
		},
		"cpus, two steps": {
			v1: true, state: func(s *State) {
				s.Tasks["all"] = &TaskState{Cgroups: []string{"/sys"}}
				s.set("/sys", cgroup.CPUSetCPUList, "0")
				s.set(x, cgroup.CPUSetCPUList, "0")
			},
			wanted: []Wanted{wantedText("all", owca.CPUSetCPUs, "1"), wantedText("sys", owca.CPUSetCPUs, "1")},
			refused: []string{
				"all cpuset_cpus: the cgroup /sys/x below /sys has 0, which is not within 1",
				"sys cpuset_cpus: /sys (0 → 1) and /sys/x below it (0 → 1) cannot change in one step: give the upper one both first",
			},
		},
		"mems":         {v1: true, wanted: []Wanted{wantedText("sys", owca.CPUSetMems, "1")}, want: []string{"/sys/x cpuset.mems: 0-1 → 1"}},
		"mems offline": {wanted: []Wanted{wantedText("sys", owca.CPUSetMems, "2")}, refused: []string{"sys cpuset_mems: NUMA node 2 is not online: 0-1 are"}},
		"memory": {
			v2: true, wanted: []Wanted{wantedNumber("sys", owca.MemoryHigh, 1<<30), wantedText("sys", owca.MemoryLow, "max")},
			want: []string{"/sys/x memory.high: max → 1073741824", "/sys/x memory.low: 0 → max"},
		},
		"memory v1": {
			v1: true, wanted: []Wanted{wantedText("sys", owca.MemoryHigh, "max")},
			refused: []string{"sys memory_high: /sys/x has no memory.high: it takes the memory controller of cgroup v2; v1 has no such limit"},
		},
		"a file of v1": {
			state: func(s *State) {
				delete(s.Cgroups[x].Values, cgroup.IOMaxLimits)
				s.Cgroups[x].Errors[cgroup.IOMaxLimits] = &fs.PathError{Op: "read", Path: "/sys/fs/cgroup/blkio/sys/x/blkio.throttle.read_bps_device", Err: errors.ErrUnsupported}
			},
			wanted:  []Wanted{{Task: "sys", Kind: owca.IOMax, Allocation: owca.Allocation{IO: map[string]owca.IOLimit{"8:0": {ReadBytes: 1}}}}},
			refused: []string{"sys io_max: /sys/x has no blkio.throttle.read_bps_device: the controller is not enabled there, or the kernel has not the feature"},
		},
		"io": {
			state: func(s *State) { s.set(x, cgroup.IOMaxLimits, "8:16 rbps=5 wbps=max riops=max wiops=max") },
			wanted: []Wanted{{Task: "sys", Kind: owca.IOMax, Allocation: owca.Allocation{IO: map[string]owca.IOLimit{
				"/dev/sda": {ReadBytes: 7}, "8:16": {},
			}}}},
			want: []string{"/sys/x io.max: 8:16 rbps=5 wbps=max riops=max wiops=max → 8:0 rbps=7 wbps=max riops=max wiops=max"},
		},
		"io, no device": {
			wanted:  []Wanted{{Task: "sys", Kind: owca.IOMax, Allocation: owca.Allocation{IO: map[string]owca.IOLimit{"/dev/no": {}}}}},
			refused: []string{"sys io_max: there is no device /dev/no"},
		},
		"io, a device twice": {
			wanted:  []Wanted{{Task: "sys", Kind: owca.IOMax, Allocation: owca.Allocation{IO: map[string]owca.IOLimit{"/dev/sda": {}, "8:0": {}}}}},
			refused: []string{"sys io_max: 8:0 is device 8:0, which is named twice"},
		},
		"a pod's cgroup": {
			wanted:  []Wanted{wantedNumber("kube", owca.CPUIdle, 1)},
			refused: []string{"kube cpu_idle: /kubepods/burstable/podw is a pod or above one in Kubernetes' hierarchy: limits go on its containers only"},
		},
		"gone":      {wanted: []Wanted{wantedNumber("gone", owca.CPUIdle, 1)}, refused: []string{"gone cpu_idle: its cgroup was removed (gone)"}},
		"no cgroup": {wanted: []Wanted{wantedNumber("none", owca.CPUIdle, 1)}, refused: []string{"none cpu_idle: the task has no cgroup"}},
		"unreadable": {
			state: func(s *State) {
				delete(s.Cgroups[x].Values, cgroup.CPUIdleFlag)
				s.Cgroups[x].Errors[cgroup.CPUIdleFlag] = fs.ErrPermission
			},
			wanted:  []Wanted{wantedNumber("sys", owca.CPUIdle, 1)},
			refused: []string{"sys cpu_idle: cpu.idle of /sys/x cannot be read: permission denied"},
		},
		"cpus not known": {state: func(s *State) { s.CPUs = 0 }, wanted: []Wanted{wantedNumber("sys", owca.CPUQuota, 0.5)}, refused: []string{"sys cpu_quota: how many cpus are online is not known"}},
		"no resctrl": {
			state:   func(s *State) { s.NoResctrl = errors.New("not mounted") },
			wanted:  []Wanted{wantedRDT("sys", "gold", "L3:0=f", "")},
			refused: []string{"sys rdt: nothing can be allocated: not mounted"},
		},
	} {
		for _, v1 := range []bool{true, false} {
			if v1 && test.v2 || !v1 && test.v1 {
				continue
			}
			t.Run(fmt.Sprintf("%s/v1=%v", name, v1), func(t *testing.T) {
				s := planHost(v1)
				if test.state != nil {
					test.state(s)
				}
				planned, err := Plan(s, test.wanted)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(test.want, changeTexts(planned.Changes)); diff != "" {
					t.Errorf("- wanted, + planned:\n%s", diff)
				}
				if diff := cmp.Diff(test.refused, refusalTexts(planned.Refused)); diff != "" {
					t.Errorf("refused: - wanted, + planned:\n%s", diff)
				}
			})
		}
	}
}

func refusalTexts(refused []Refusal) (list []string) {
	for _, r := range refused {
		text := fmt.Sprintf("%s %s: %s", r.Task, r.Kind, r.Reason)
		if r.Gone {
			text += " (gone)"
		}
		list = append(list, text)
	}
	return list
}

func TestPlanInvalid(t *testing.T) {
	s := planHost(true)
	rdtState(s)
	text := func(kind owca.AllocationKind, s string) Wanted { return wantedText("sys", kind, s) }
	number := func(kind owca.AllocationKind, n float64) Wanted { return wantedNumber("sys", kind, n) }
	io := func(device string) Wanted {
		return Wanted{Task: "sys", Kind: owca.IOMax, Allocation: owca.Allocation{IO: map[string]owca.IOLimit{device: {}}}}
	}
	for want, x := range map[string]Wanted{
		"task nobody: cpu_quota: there is no such task":                     wantedNumber("nobody", owca.CPUQuota, 0.5),
		"task sys: cpu_quotas: there is no such kind of allocation":         number("cpu_quotas", 1),
		"cpu_quota: NaN is not a finite number":                             number(owca.CPUQuota, math.NaN()),
		"cpu_quota: +Inf is not a finite number":                            number(owca.CPUQuota, math.Inf(1)),
		"cpu_shares: -1 is less than 0":                                     number(owca.CPUShares, -1),
		"cpu_burst: 1.5 is more than 1":                                     number(owca.CPUBurst, 1.5),
		"cpu_idle: 0.5 is neither 0 nor 1":                                  number(owca.CPUIdle, 0.5),
		"io_weight: 0 is less than 1":                                       number(owca.IOWeight, 0),
		"memory_high: -1 is less than 0":                                    number(owca.MemoryHigh, -1),
		"memory_high: 9.223372036854776e+18 is more than":                   number(owca.MemoryHigh, 1<<63),
		`memory_low: "lots" is not "max"`:                                   text(owca.MemoryLow, "lots"),
		`cpu_quota: it takes no text, "0.5"`:                                text(owca.CPUQuota, "0.5"),
		"cpuset_cpus: it takes no number, 1":                                number(owca.CPUSetCPUs, 1),
		"cpuset_cpus: the list is empty":                                    text(owca.CPUSetCPUs, ""),
		`cpuset_cpus: "0-" is no list as 0-3,8: "0-"`:                       text(owca.CPUSetCPUs, "0-"),
		`cpuset_mems: "3-1" is no list as 0-3,8: 1 comes before 3`:          text(owca.CPUSetMems, "3-1"),
		`cpuset_cpus: "0-4294967295": no host has a number 4294967295`:      text(owca.CPUSetCPUs, "0-4294967295"),
		"io_max: no device is named":                                        {Task: "sys", Kind: owca.IOMax},
		`io_max: "sda" is neither a device's numbers, as 8:0, nor its path`: io("sda"),
		`io_max: "08:0" is neither`:                                         io("08:0"),
		"rdt: no group is given":                                            {Task: "sys", Kind: owca.RDTGroup},
		"cpu_idle: it takes no group of resctrl":                            {Task: "sys", Kind: owca.CPUIdle, Allocation: owca.Allocation{RDT: &owca.RDTAllocation{}}},
		"cpu_idle: it takes no limits of devices":                           {Task: "sys", Kind: owca.CPUIdle, Allocation: owca.Allocation{IO: map[string]owca.IOLimit{}}},
		"task sys: rdt: L3:0=5: one run of bits without gaps":               wantedRDT("sys", "gold", "L3:0=5", ""),
		"rdt: MB:0=5: at least 10":                                          wantedRDT("sys", "gold", "", "MB:0=5"),
		"rdt: MB is no L3":                                                  wantedRDT("sys", "gold", "MB:0=50", ""),
		`rdt: schemata "hello": missing ':'`:                                wantedRDT("sys", "gold", "hello", ""),
		`rdt: resctrl: invalid argument: "owca-a/b" is no name`:             wantedRDT("sys", "a/b", "", ""),
	} {
		planned, err := Plan(s, []Wanted{wantedNumber("web", owca.CPUQuota, 0.5), x})
		var invalid *Invalid
		if !errors.As(err, &invalid) || invalid.Task != x.Task || invalid.Kind != x.Kind || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, wanted: %s", err, want)
		}
		if planned.Changes != nil || planned.Refused != nil {
			t.Errorf("%s: and yet %v", want, planned)
		}
	}

	// All of them at once.
	_, err := Plan(s, []Wanted{number(owca.CPUQuota, -1), wantedRDT("web", "a/b", "", ""), text(owca.CPUSetMems, "x")})
	if n := len(unjoin(err)); n != 3 {
		t.Errorf("%d errors: %v", n, err)
	}
	_, err = Plan(s, []Wanted{wantedNumber("web", owca.CPUShares, 1), wantedNumber("sys", owca.CPUShares, 1), wantedNumber("db", owca.CPUShares, 1)})
	if err == nil || !strings.Contains(err.Error(), "task db: cpu_shares: it is a guaranteed pod, and task web a burstable one") {
		t.Errorf("several QoS classes: %v", err)
	}
	if _, err = Plan(s, []Wanted{wantedNumber("web", owca.CPUShares, 1), wantedRelease("db", owca.CPUShares)}); err != nil {
		t.Errorf("one QoS class: %v", err)
	}
}

// rdtState gives the host two ways of cache and bandwidth, and CLOSIDs for three groups.
func rdtState(s *State) {
	s.Resctrl = &resctrl.Info{Resources: []resctrl.Resource{
		{Name: "L3", Kind: resctrl.Mask, CLOSIDs: 3, Domains: []int{0, 1}, Bits: 0x7ff, MinBits: 1},
		{Name: "MB", Kind: resctrl.Bandwidth, CLOSIDs: 8, Domains: []int{0, 1}, Unit: resctrl.Percent, Min: 10, Granularity: 10, Max: 100, Linear: true},
	}}
	s.group("")
}

func (s *State) group(name string) {
	s.Groups = append(s.Groups, resctrl.ControlGroup{Name: name, Schemata: s.Resctrl.Default()})
}

// did takes what was planned for resctrl as done.
func (s *State) did(changes []Change) {
	for _, c := range changes {
		i := slices.IndexFunc(s.Groups, func(g resctrl.ControlGroup) bool { return g.Name == c.Resctrl.Group })
		switch {
		case c.Undo && c.Resctrl.Kind == resctrl.SetSchemata:
			s.Groups[i].Schemata = s.Groups[i].Schemata.Overlay(c.Resctrl.Old)
		case c.Resctrl.Kind == resctrl.CreateGroup:
			s.group(c.Resctrl.Group)
		case c.Resctrl.Kind == resctrl.SetSchemata:
			s.Groups[i].Schemata = s.Groups[i].Schemata.Overlay(c.Resctrl.New)
		case c.Resctrl.Kind == resctrl.RemoveGroup:
			s.Groups = slices.Delete(s.Groups, i, i+1)
		case c.Resctrl.Kind == resctrl.MoveTask:
			s.Tasks[owca.TaskID(c.Resctrl.Task)].Control = c.Resctrl.Group
			s.Groups[i].Tasks++
			for j := range s.Groups {
				if s.Groups[j].Name == c.Resctrl.From {
					s.Groups[j].Tasks--
				}
			}
		}
		l := s.Leases[c.Target]
		switch {
		case c.Release || c.Resctrl.Kind == resctrl.RemoveGroup:
			delete(s.Leases, c.Target)
		case l == nil:
			s.Leases[c.Target] = &Lease{Seq: uint64(len(s.Leases)), Change: c, First: c.Old}
		default: // as the journal does
			merged := *c.Resctrl
			switch first := l.Resctrl; {
			case first.Kind == resctrl.CreateGroup:
				merged.Kind, merged.Old, merged.New = resctrl.CreateGroup, nil, first.New.Overlay(merged.New)
			case merged.Kind == resctrl.SetSchemata:
				merged.Old, merged.New = merged.Old.Overlay(first.Old), first.New.Overlay(merged.New)
			default:
				merged.From = first.From
			}
			l.Change = c
			l.Resctrl = &merged
		}
	}
}

func rdtTexts(changes []Change) (list []string) {
	for _, c := range changes {
		text := fmt.Sprintf("%v for %s", c.Resctrl, c.For)
		if c.Release {
			text += ", release"
		}
		if c.Undo {
			text += ", undo"
		}
		if c.Note != "" {
			text += ", " + c.Note
		}
		list = append(list, text)
	}
	return list
}

// TestPlanRDT goes from plan to plan, each as if it had been done.
func TestPlanRDT(t *testing.T) {
	s := planHost(true)
	s.Tasks["sys2"] = &TaskState{Cgroups: []string{"/other/x"}}
	rdtState(s)
	s.group("theirs")
	for i, step := range []struct {
		wanted  []Wanted
		want    []string
		refused string
		invalid string
	}{
		{
			wanted: []Wanted{wantedRDT("web", "gold", "L3:0=f", ""), wantedRDT("db", "gold", "", "MB:1=45")},
			want: []string{
				"create group owca-gold for db", "set group owca-gold: L3:0=f; MB:1=50 (rounded up from MB:1=45) for db, MB:1 rounded up from 45 to 50",
				"move task web: group / → owca-gold for web", "move task db: group / → owca-gold for db",
			},
		},
		{wanted: []Wanted{wantedRDT("web", "gold", "L3:0=f", ""), wantedRDT("db", "gold", "", "MB:1=45")}},
		{
			wanted:  []Wanted{wantedRDT("sys", "silver", "", "")},
			refused: "sys rdt: 3 control groups (/, theirs, owca-gold) and 1 new ones (owca-silver for task sys) are 1 more than this host has CLOSIDs",
		},
		{
			wanted:  []Wanted{wantedRDT("sys", "silver", "", ""), wantedRDT("sys2", "bronze", "", "")},
			invalid: "task sys2: rdt: 3 control groups (/, theirs, owca-gold) and 2 new ones (owca-silver for task sys, owca-bronze for task sys2) are 2 more", // even without theirs
		},
		{
			wanted: []Wanted{wantedRDT("sys", "theirs", "L3:1=3", "")},
			want:   []string{"set group theirs: L3:1=7ff → L3:1=3 for sys", "move task sys: group / → theirs for sys"},
		},
		{
			wanted: []Wanted{wantedRelease("web", owca.RDTGroup)},
			want:   []string{"move task web: group owca-gold → / for web, release"},
		},
		{
			wanted: []Wanted{wantedRelease("sys", owca.RDTGroup)},
			want:   []string{"move task sys: group theirs → / for sys, release", "set group theirs: L3:1=7ff → L3:1=3 for sys, release, undo"},
		},
		{
			wanted: []Wanted{wantedRelease("db", owca.RDTGroup)},
			want:   []string{"move task db: group owca-gold → / for db, release", "remove group owca-gold for db, release"},
		},
		{
			// Two containers of one name.
			wanted: []Wanted{wantedRDT("sys", "own", "", "")},
			want:   []string{"create group owca-sys-x for sys", "move task sys: group / → owca-sys-x for sys"},
		},
		{
			wanted: []Wanted{wantedRDT("sys", "", "L3:0=1", "")},
			want:   []string{"set group /: L3:0=7ff → L3:0=1 for sys", "move task sys: group owca-sys-x → / for sys", "remove group owca-sys-x for sys, release"},
		},
		{
			wanted: []Wanted{wantedRelease("sys", owca.RDTGroup)},
			want:   []string{"move task sys: group / → / for sys, release", "set group /: L3:0=7ff → L3:0=1 for sys, release, undo"},
		},
	} {
		planned, err := Plan(s, step.wanted)
		if step.invalid != "" && err != nil && strings.Contains(err.Error(), step.invalid) {
			continue
		}
		if err != nil || step.invalid != "" {
			t.Fatalf("step %d: error %v, want %q", i, err, step.invalid)
		}
		if diff := cmp.Diff(step.want, rdtTexts(planned.Changes)); diff != "" && step.want != nil || step.want == nil && step.refused == "" && diff != "" {
			t.Fatalf("step %d: - wanted, + planned:\n%s", i, diff)
		}
		if refused := strings.Join(refusalTexts(planned.Refused), "; "); !strings.Contains(refused, step.refused) || step.refused == "" && refused != "" {
			t.Errorf("step %d: refused %q", i, refused)
		}
		if step.refused == "" {
			s.did(planned.Changes)
		}
	}
	if len(s.Leases) > 0 {
		t.Errorf("leases are left: %v", slices.Collect(maps.Values(s.Leases)))
	}

	_, err := Plan(s, []Wanted{wantedRDT("web", "a", "", ""), wantedRDT("db", "b", "", ""), wantedRDT("sys", "c", "", "")})
	if invalid := (*Invalid)(nil); !errors.As(err, &invalid) || invalid.Task != "sys" || !strings.Contains(err.Error(), "CLOSIDs") {
		t.Errorf("more groups than CLOSIDs: %v", err)
	}
}

// TestPlanRDTShapes: hosts that can allocate only one of the two, that have CDP, and too few
// RMIDs.
func TestPlanRDTShapes(t *testing.T) {
	for name, test := range map[string]struct {
		shape   func(in *resctrl.Info)
		l3, mb  string
		want    []string
		refused string
	}{
		"no MB": {
			shape: func(in *resctrl.Info) { in.Resources = in.Resources[:1] }, l3: "L3:0=f", mb: "MB:0=50",
			refused: "sys rdt: this host cannot allocate MB",
		},
		"no MB, none asked": {
			shape: func(in *resctrl.Info) { in.Resources = in.Resources[:1] }, l3: "L3:0=f",
			want: []string{"create group owca-g for sys", "set group owca-g: L3:0=f for sys", "move task sys: group / → owca-g for sys"},
		},
		"no L3": {
			shape: func(in *resctrl.Info) { in.Resources = in.Resources[1:] }, l3: "L3:0=f",
			refused: "sys rdt: this host cannot allocate L3",
		},
		"no L3, none asked": {
			shape: func(in *resctrl.Info) { in.Resources = in.Resources[1:] }, mb: "MB:0=20",
			want: []string{"create group owca-g for sys", "set group owca-g: MB:0=20 for sys", "move task sys: group / → owca-g for sys"},
		},
		"CDP": {
			shape: func(in *resctrl.Info) {
				data := in.Resources[0]
				in.Resources[0].Name, data.Name = "L3CODE", "L3DATA"
				in.Resources = slices.Insert(in.Resources, 1, data)
			}, l3: "L3:0=f",
			want: []string{"create group owca-g for sys", "set group owca-g: L3CODE:0=f; L3DATA:0=f for sys", "move task sys: group / → owca-g for sys"},
		},
		"no RMID": {
			shape:   func(in *resctrl.Info) { in.Monitoring = []resctrl.Monitoring{{Name: "L3_MON", RMIDs: 1}} },
			refused: "sys rdt: 1 control groups, 0 monitoring groups and 1 new control groups (owca-g for task sys) are 1 more than this host has RMIDs",
		},
	} {
		s := planHost(true)
		rdtState(s)
		test.shape(s.Resctrl)
		s.Groups[0].Schemata = s.Resctrl.Default()
		planned, err := Plan(s, []Wanted{wantedRDT("sys", "g", test.l3, test.mb)})
		if diff := cmp.Diff(test.want, rdtTexts(planned.Changes)); err != nil || diff != "" {
			t.Errorf("%s: error %v; - wanted, + planned:\n%s", name, err, diff)
		}
		if refused := strings.Join(refusalTexts(planned.Refused), "; "); !strings.HasPrefix(refused, test.refused) || test.refused == "" && refused != "" {
			t.Errorf("%s: refused %q", name, refused)
		}
	}
}

// TestPlanBounded: what is bounded is told each time, changed or not.
func TestPlanBounded(t *testing.T) {
	const x = "/sys/x"
	s := planHost(false)
	s.set("/sys", cgroup.CPUMax, "50000 100000")
	s.set(x, cgroup.CPUMax, "50000 100000")
	wanted := []Wanted{wantedNumber("sys", owca.CPUQuota, 0.25), wantedNumber("sys", owca.CPUBurst, 0.25)}
	check := func(changes int, bounded ...owca.AllocationKind) {
		t.Helper()
		planned, err := Plan(s, wanted)
		var kinds []owca.AllocationKind
		for _, b := range planned.Bounded {
			kinds = append(kinds, b.Kind)
		}
		if diff := cmp.Diff(bounded, kinds); err != nil || len(planned.Changes) != changes || diff != "" {
			t.Errorf("%v, error %v; - wanted, + bounded:\n%s", changeTexts(planned.Changes), err, diff)
		}
	}
	check(1, owca.CPUQuota, owca.CPUBurst)
	s.set(x, cgroup.CPUMaxBurst, "50000")
	check(0, owca.CPUQuota, owca.CPUBurst)
	s.set("/sys", cgroup.CPUMax, "max 100000")
	check(2)
}

// TestPlanMixedQoS: weights are compared with those that stand, too.
func TestPlanMixedQoS(t *testing.T) {
	s := planHost(true)
	s.Shares = map[owca.TaskID]string{"old": "guaranteed"}
	if _, err := Plan(s, []Wanted{wantedNumber("db", owca.CPUShares, 1), wantedNumber("sys", owca.CPUShares, 1)}); err != nil {
		t.Error(err)
	}
	_, err := Plan(s, []Wanted{wantedNumber("web", owca.CPUShares, 1)})
	if want := "task web: cpu_shares: it is a burstable pod, and task old a guaranteed one"; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
}

func TestIsPodOrAbove(t *testing.T) {
	const uid = "0b5f1c9e_3c3a_4d0e_9a55_1f0d6f3a7c11"
	for path, want := range map[string]bool{
		"/kubepods": true, "/kubepods/burstable": true, "/kubepods/besteffort": true, "/kubepods/pod0b5f": true,
		"/kubepods/burstable/pod0b5f": true, "/kubepods/burstable/pod0b5f/0123": false, "/kubepods/pod0b5f/pod": false,
		"/kubelet/kubepods/besteffort/pod7": true,
		"/kubepods.slice":                   true, "/kubepods.slice/kubepods-burstable.slice": true,
		"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + uid + ".slice": true,
		"/kubepods.slice/kubepods-pod" + uid + ".slice":                                    true,
		"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod" + uid + ".slice":      true,
		"/kubepods.slice/kubepods-pod" + uid + ".slice/cri-containerd-0123.scope":          false,
		"/burstable": false, "/podman": false, "/machine.slice/libpod-12.scope": false, "/system.slice": false, "/": false, "": false,
		"/docker/kubepods-x": false,
	} {
		if isPodOrAbove(path) != want {
			t.Errorf("%s: %v", path, !want)
		}
	}
}

func TestCurrent(t *testing.T) {
	u := Units{SharesUnit: 1000}
	for _, test := range []struct {
		knob  cgroup.Knob
		value string
		kind  owca.AllocationKind
		want  owca.Allocation
	}{
		{cgroup.CPUMax, "max 100000", owca.CPUQuota, owca.Allocation{Number: 1}},
		{cgroup.CPUMax, "100000 100000", owca.CPUQuota, owca.Allocation{Number: 0.25}},
		{cgroup.CPUSharesV1, "2000", owca.CPUShares, owca.Allocation{Number: 2}},
		{cgroup.CPUWeightV2, "1", owca.CPUShares, owca.Allocation{Number: 0.002}},
		{cgroup.CPUIdleFlag, "1", owca.CPUIdle, owca.Allocation{Number: 1}},
		{cgroup.CPUSetCPUList, "0-3", owca.CPUSetCPUs, owca.Allocation{Text: "0-3"}},
		{cgroup.CPUSetMemList, "0", owca.CPUSetMems, owca.Allocation{Text: "0"}},
		{cgroup.MemoryHighLimit, "max", owca.MemoryHigh, owca.Allocation{Text: "max"}},
		{cgroup.MemoryLowLimit, "4096", owca.MemoryLow, owca.Allocation{Number: 4096}},
		{cgroup.IOWeightDefault, "50", owca.IOWeight, owca.Allocation{Number: 50}},
		{cgroup.IOMaxLimits, "8:0 rbps=7 wbps=max riops=max wiops=9", owca.IOMax, owca.Allocation{IO: map[string]owca.IOLimit{"8:0": {ReadBytes: 7, WriteOperations: 9}}}},
	} {
		kind, a, ok := Current(u, 4, test.knob, test.value)
		if diff := cmp.Diff(test.want, a); !ok || kind != test.kind || diff != "" {
			t.Errorf("%v %q: %s %v %s", test.knob, test.value, kind, ok, diff)
		}
		if !slices.Contains(Knobs(kind), test.knob) {
			t.Errorf("Knobs(%s) has no %v", kind, test.knob)
		}
	}
	for _, k := range []cgroup.Knob{cgroup.CPUMax, cgroup.CPUSharesV1, cgroup.CPUIdleFlag, cgroup.MemoryHighLimit, cgroup.IOMaxLimits, cgroup.NumKnobs} {
		if _, _, ok := Current(u, 4, k, "nonsense 0"); ok {
			t.Errorf("%d: nonsense", k)
		}
	}
}

func TestCurrentBurst(t *testing.T) {
	for _, test := range []struct {
		cpus          int
		cpuMax, burst string
		want          float64
		ok            bool
	}{
		{4, "50000 100000", "20000", 0.05, true},
		{4, "max 50000", "100000", 0.5, true},
		{0, "max 50000", "100000", 0, false},
		{4, "", "0", 0, false},
		{4, "max 50000", "nonsense", 0, false},
	} {
		if a, ok := CurrentBurst(test.cpus, test.cpuMax, test.burst); ok != test.ok || a.Number != test.want {
			t.Errorf("%+v: %v %v", test, a.Number, ok)
		}
	}
}

// TestPlanLowersAbove: what is leased below a quota that is lowered goes down with it, whether
// or not it was wanted.
func TestPlanLowersAbove(t *testing.T) {
	for _, v1 := range []bool{true, false} {
		for name, test := range map[string]struct {
			state  func(s *State)
			wanted []Wanted
			want   []string
			no     string // why it is refused
			less   []Bounded
		}{
			"leased below": {
				wanted: []Wanted{wantedNumber("all", owca.CPUQuota, 0.1)},
				want: []string{
					"/sys/x cpu.max.burst: 90000 → 40000 (no more than the quota)",
					"/sys/x cpu.max: 120000 100000 → 40000 100000 (bounded to that of /sys)",
					"/sys cpu.max: 120000 100000 → 40000 100000",
				},
				less: []Bounded{{"sys", owca.CPUQuota}},
			},
			"within": {
				state:  func(s *State) { s.lend("sys", owca.CPUQuota, "/sys/x", cgroup.CPUMax, "max 100000", "30000 100000") },
				wanted: []Wanted{wantedNumber("all", owca.CPUQuota, 0.1)},
				want:   []string{"/sys cpu.max: 120000 100000 → 40000 100000"},
			},
			"given back": {
				state: func(s *State) {
					s.lend("all", owca.CPUQuota, "/sys", cgroup.CPUMax, "100000 100000", "120000 100000")
					s.set("/sys/x", cgroup.CPUMaxBurst, "0")
				},
				wanted: []Wanted{wantedRelease("all", owca.CPUQuota)},
				want: []string{
					"/sys/x cpu.max: 120000 100000 → 100000 100000 (bounded to that of /sys)",
					"/sys cpu.max: 120000 100000 → 100000 100000 release",
				},
				less: []Bounded{{"sys", owca.CPUQuota}},
			},
			"somebody else's by now": {
				state: func(s *State) {
					s.Leases[Target{Cgroup: "/sys/x", Knob: cgroup.CPUMax}].New = "50000 100000"
				},
				wanted: []Wanted{wantedNumber("all", owca.CPUQuota, 0.1)},
				want:   []string{"/sys cpu.max: 120000 100000 → 40000 100000"}, // v2
				no:     "the cgroup /sys/x below /sys has 120000 100000, which is more than 40000 100000",
			},
			"a burst below is somebody else's": {
				state: func(s *State) {
					s.Yielded = map[Yield]bool{{"sys", owca.CPUQuota, Target{Cgroup: "/sys/x", Knob: cgroup.CPUMaxBurst}}: true}
				},
				wanted: []Wanted{wantedNumber("all", owca.CPUQuota, 0.1)},
				want:   []string{"/sys cpu.max: 120000 100000 → 40000 100000"}, // v2
				no:     "the cgroup /sys/x below /sys has 120000 100000, which is more than 40000 100000",
			},
		} {
			s := planHost(v1)
			s.Tasks["all"] = &TaskState{Cgroups: []string{"/sys"}}
			s.lend("all", owca.CPUQuota, "/sys", cgroup.CPUMax, "max 100000", "120000 100000")
			s.lend("sys", owca.CPUQuota, "/sys/x", cgroup.CPUMax, "max 100000", "120000 100000")
			s.set("/sys/x", cgroup.CPUMaxBurst, "90000")
			if test.state != nil {
				test.state(s)
			}
			if name == "within" {
				s.set("/sys/x", cgroup.CPUMaxBurst, "0")
			}
			planned, err := Plan(s, test.wanted)
			if err != nil {
				t.Fatal(err)
			}
			want, refused := test.want, ""
			if test.no != "" && v1 {
				want = nil
			}
			if len(planned.Refused) > 0 {
				refused = planned.Refused[0].Reason
			}
			if diff := cmp.Diff(want, changeTexts(planned.Changes)); diff != "" {
				t.Errorf("%s, v1 %v: %s", name, v1, diff)
			}
			if v1 && refused != test.no || !v1 && refused != "" {
				t.Errorf("%s, v1 %v: refused: %q", name, v1, refused)
			}
			if diff := cmp.Diff(test.less, planned.Bounded); diff != "" {
				t.Errorf("%s, v1 %v: bounded: %s", name, v1, diff)
			}
		}
	}
}

// TestPlanSharedCgroup: what one of two tasks with the same cgroup has is not taken over by
// the other alone, which was refused because of it.
func TestPlanSharedCgroup(t *testing.T) {
	const x = "/sys/x"
	for name, test := range map[string]struct {
		state  func(s *State)
		wanted []Wanted
		want   []string
		no     string
	}{
		"at once": {
			wanted: []Wanted{wantedNumber("also", owca.CPUQuota, 0.5), wantedNumber("sys", owca.CPUQuota, 0.25)},
			no:     "cpu.max of /sys/x is shared with task sys, which is given 100000 100000",
		},
		"alone": {
			wanted: []Wanted{wantedNumber("also", owca.CPUQuota, 0.5)},
			no:     "cpu.max of /sys/x is shared with task sys, which was given 100000 100000",
		},
		"the same": {wanted: []Wanted{wantedNumber("also", owca.CPUQuota, 0.25)}},
		"given back": {
			wanted: []Wanted{wantedRelease("sys", owca.CPUQuota), wantedNumber("also", owca.CPUQuota, 0.5)},
			want:   []string{"/sys/x cpu.max: 100000 100000 → 200000 100000"},
		},
		"of one that has gone": {
			state:  func(s *State) { delete(s.Tasks, "sys") },
			wanted: []Wanted{wantedNumber("also", owca.CPUQuota, 0.5)},
			want:   []string{"/sys/x cpu.max: 100000 100000 → 200000 100000"},
		},
		"made anew": {
			state:  func(s *State) { s.Cgroups[x].IDs = sameID("another") },
			wanted: []Wanted{wantedNumber("also", owca.CPUQuota, 0.5)},
			want:   []string{"/sys/x cpu.max: 100000 100000 → 200000 100000"},
		},
	} {
		s := planHost(true)
		s.Tasks["also"] = &TaskState{Cgroups: []string{x}}
		s.lend("sys", owca.CPUQuota, x, cgroup.CPUMax, "max 100000", "100000 100000")
		if test.state != nil {
			test.state(s)
		}
		planned, err := Plan(s, test.wanted)
		if err != nil {
			t.Fatal(err)
		}
		refused := ""
		if len(planned.Refused) > 0 {
			refused = planned.Refused[0].Reason
		}
		if diff := cmp.Diff(test.want, changeTexts(planned.Changes)); diff != "" || refused != test.no {
			t.Errorf("%s: refused %q: %s", name, refused, diff)
		}
	}
}

func FuzzParseSet(f *testing.F) {
	for _, s := range []string{"0-3,8", "", "7", "1,0", "3-1", "0-65535", "0-65536", ",", "0-2,1-5,6"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseSet(text)
		if err != nil {
			return
		}
		again, err := parseSet(s.String())
		if err != nil || !slices.Equal(s, again) {
			t.Fatalf("%q: %v, then %v, %v", text, s, again, err)
		}
		for i, r := range s {
			if r.first > r.last || i > 0 && s[i-1].last+1 >= r.first {
				t.Fatalf("%q: %v", text, s)
			}
		}
		if !s.within(s) || len(s.without(s)) > 0 || !slices.Equal(s.and(s), s) {
			t.Fatalf("%v against itself", s)
		}
	})
}

func TestPlanAllocatesNothing(t *testing.T) {
	s := planHost(true)
	if n := testing.AllocsPerRun(100, func() { _, _ = Plan(s, nil) }); n > 0 {
		t.Errorf("%v allocations for nothing", n)
	}
}

func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := planHost(true)
			var wanted []Wanted
			for i := range n {
				id, path := owca.TaskID(fmt.Sprintf("t%d", i)), fmt.Sprintf("/kubepods/burstable/pod%d/c", i)
				s.Tasks[id] = &TaskState{Cgroups: []string{path}}
				s.Cgroups[path] = s.Cgroups["/sys/x"]
				wanted = append(wanted, wantedNumber(id, owca.CPUQuota, 0.25))
			}
			b.ReportAllocs()
			for b.Loop() {
				if p, err := Plan(s, wanted); err != nil || len(p.Changes) != n {
					b.Fatal(len(p.Changes), err)
				}
			}
		})
	}
}
