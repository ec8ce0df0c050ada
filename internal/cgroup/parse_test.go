package cgroup

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fields returns what is present.
func fields(s *Stat) map[Field]uint64 {
	m := map[Field]uint64{}
	for f := range NumFields {
		if v, ok := s.Get(f); ok {
			m[f] = v
		}
	}
	return m
}

func TestParse(t *testing.T) {
	page := uint64(os.Getpagesize())
	tests := []struct {
		name  string
		parse parser
		field Field
		in    string
		ok    bool
		want  map[Field]uint64
		nodes []NUMANode
	}{
		{"number", parseNumber, MemoryUsage, "700416\n", true, map[Field]uint64{MemoryUsage: 700416}, nil},
		{"number, largest", parseNumber, MemoryUsage, "18446744073709551615\n", true, map[Field]uint64{MemoryUsage: math.MaxUint64}, nil},
		{"number, too large", parseNumber, MemoryUsage, "18446744073709551616\n", false, nil, nil},
		{"number, negative", parseNumber, MemoryUsage, "-1\n", false, nil, nil},
		{"number, cut off", parseNumber, MemoryUsage, "7004", false, nil, nil},
		{"number, empty", parseNumber, MemoryUsage, "", false, nil, nil},
		{"number, empty line", parseNumber, MemoryUsage, "\n", false, nil, nil},
		{"number, two", parseNumber, MemoryUsage, "1\n2\n", false, nil, nil},
		{"time", parseMicros, CPUPeriod, "100000\n", true, map[Field]uint64{CPUPeriod: 100e6}, nil},
		{"time, too long", parseMicros, CPUPeriod, "18446744073709552\n", false, nil, nil},
		{"limit", parseLimit, MemoryMax, "268435456\n", true, map[Field]uint64{MemoryMax: 256 << 20}, nil},
		{"limit, none", parseLimit, MemoryMax, "max\n", true, map[Field]uint64{MemoryMax: Max}, nil},
		{"limit, none on v1", parseLimit, MemoryMax, "9223372036854771712\n", true, map[Field]uint64{MemoryMax: Max}, nil},
		{"limit, none on v1, 64 KiB pages", parseLimit, MemoryMax, "9223372036854710272\n", true, map[Field]uint64{MemoryMax: Max}, nil},
		{"limit, zero", parseLimit, MemoryLow, "0\n", true, map[Field]uint64{MemoryLow: 0}, nil},
		{"quota", parseQuota1, CPUQuota, "20000\n", true, map[Field]uint64{CPUQuota: 20e6}, nil},
		{"quota, none", parseQuota1, CPUQuota, "-1\n", true, map[Field]uint64{CPUQuota: Max}, nil},
		{"quota, other", parseQuota1, CPUQuota, "-2\n", false, nil, nil},
		{"cpu.max", parseCPUMax, CPUQuota, "20000 100000\n", true, map[Field]uint64{CPUQuota: 20e6, CPUPeriod: 100e6}, nil},
		{"cpu.max, none", parseCPUMax, CPUQuota, "max 100000\n", true, map[Field]uint64{CPUQuota: Max, CPUPeriod: 100e6}, nil},
		{"cpu.max, no period", parseCPUMax, CPUQuota, "max\n", false, map[Field]uint64{CPUQuota: Max}, nil},
		{
			"cpu.stat without the controller", parseCPUStat, 0, "usage_usec 3\nuser_usec 2\nsystem_usec 1\nnice_usec 7\n", true,
			map[Field]uint64{CPUUsage: 3000, CPUUser: 2000, CPUSystem: 1000}, nil,
		},
		{
			"cpu.stat, one bad", parseCPUStat, 0, "usage_usec x\nuser_usec 2\n", false,
			map[Field]uint64{CPUUser: 2000}, nil,
		},
		{
			"cpu.stat, cut off", parseCPUStat, 0, "usage_usec 3\nuser_usec 2", false,
			map[Field]uint64{CPUUsage: 3000}, nil,
		},
		{"cpu.stat, unknown keys alone", parseCPUStat, 0, "a 1\nb 2\n", false, nil, nil},
		{
			"cpu.stat, v1", parseCPUStat1, 0, "nr_periods 74\nnr_throttled 70\nthrottled_time 5\n", true,
			map[Field]uint64{CPUPeriods: 74, CPUThrottledPeriods: 70, CPUThrottledTime: 5}, nil,
		},
		{"cpuacct.stat", parseCPUAcctStat, 0, "user 24\nsystem 1\n", true, map[Field]uint64{CPUUser: 240e6, CPUSystem: 10e6}, nil},
		{"memory.events", parseOOMKills, OOMKills, "low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 1\n", true, map[Field]uint64{OOMKills: 2}, nil},
		{"memory.oom_control", parseOOMKills, OOMKills, "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n", true, map[Field]uint64{OOMKills: 4}, nil},
		{"memory.oom_control, Linux 4.12", parseOOMKills, OOMKills, "oom_kill_disable 0\nunder_oom 0\n", true, nil, nil},
		{
			"memory.stat", parseMemoryStat, 0,
			"anon 1\nfile 2\nkernel 77\ninactive_file 3\nworkingset_refault_anon 4\nworkingset_refault_file 5\npgfault 6\npgmajfault 7\n", true,
			map[Field]uint64{MemoryAnon: 1, MemoryFile: 2, MemoryInactiveFile: 3, Refaults: 9, PageFaults: 6, MajorFaults: 7}, nil,
		},
		{"memory.stat, Linux 5.8", parseMemoryStat, 0, "anon 1\nworkingset_refault 4\n", true, map[Field]uint64{MemoryAnon: 1, Refaults: 4}, nil},
		{
			"memory.stat, cut between the refaults", parseMemoryStat, 0, "anon 1\nworkingset_refault_anon 4\nworkingset_refault_file 50", false,
			map[Field]uint64{MemoryAnon: 1}, nil,
		},
		{
			"memory.stat, half a refault", parseMemoryStat, 0, "anon 1\nworkingset_refault_anon 4\nworkingset_refault_file -\n", false,
			map[Field]uint64{MemoryAnon: 1}, nil,
		},
		{
			"memory.stat, v1", parseMemoryStat1, 0,
			"cache 9\nrss 9\npgfault 9\ntotal_cache 1\ntotal_rss 2\ntotal_rss_huge 8\ntotal_workingset_refault_anon 3\ntotal_workingset_refault_file 4\ntotal_pgfault 5\ntotal_pgmajfault 6\ntotal_inactive_file 7\n", true,
			map[Field]uint64{MemoryFile: 1, MemoryAnon: 2, Refaults: 7, PageFaults: 5, MajorFaults: 6, MemoryInactiveFile: 7}, nil,
		},
		{
			"numa_stat", parseNUMA, 0, "anon N0=1 N1=2\nfile N0=10 N1=20\nshmem N0=10 N1=20\n", true, nil,
			[]NUMANode{{0, 11}, {1, 22}},
		},
		{"numa_stat without file", parseNUMA, 0, "anon N0=1 N1=2\n", false, nil, nil},
		{"numa_stat, garbled", parseNUMA, 0, "anon N0=1 N1=2\nfile N0=1 M1=2\n", false, nil, nil},
		{
			"numa_stat, v1", parseNUMA1, 0, "total=9 N0=9\nhierarchical_total=55 N0=50 N2=5\nhierarchical_file=27 N0=27\n", true, nil,
			[]NUMANode{{0, 50 * page}, {2, 5 * page}},
		},
		{"numa_stat, v1, overflow", parseNUMA1, 0, "hierarchical_total=5 N0=18446744073709551615\n", false, nil, nil},
		{
			"io.stat", parseIOStat, 0,
			"254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6 cost.usage=7\n7:0 rbytes=10 wbytes=20 rios=30 wios=40 dbytes=0 dios=0\n", true,
			map[Field]uint64{IOReadBytes: 11, IOWriteBytes: 22, IOReads: 33, IOWrites: 44}, nil,
		},
		{"io.stat, no I/O", parseIOStat, 0, "", true, map[Field]uint64{IOReadBytes: 0, IOWriteBytes: 0, IOReads: 0, IOWrites: 0}, nil},
		{
			"io.stat, lines joined", parseIOStat, 0, "7:0 7:1 254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n", true,
			map[Field]uint64{IOReadBytes: 1, IOWriteBytes: 2, IOReads: 3, IOWrites: 4}, nil,
		},
		{"io.stat, cut off", parseIOStat, 0, "254:0 rbytes=1 wbytes=2 rios=3 wios=4\n7:0 rbytes=1", false, nil, nil},
		{
			"io.stat, one bad", parseIOStat, 0, "254:0 rbytes=? wbytes=2 rios=3 wios=4\n", false,
			map[Field]uint64{IOWriteBytes: 2, IOReads: 3, IOWrites: 4}, nil,
		},
		{
			"blkio", parseBlkio, IOReadBytes, "254:0 Read 3\n254:0 Write 1\n254:0 Sync 9\n254:0 Total 4\n7:0 Read 5\n7:0 Write 6\nTotal 15\n", true,
			map[Field]uint64{IOReadBytes: 8, IOWriteBytes: 7}, nil,
		},
		{"blkio without devices", parseBlkio, IOReads, "Total 0\n", true, nil, nil},
		{"blkio, cut off", parseBlkio, IOReads, "254:0 Read 3\n254:0 Write 1\n", false, nil, nil},
		{
			"pressure", parsePressure, IOPressureSome,
			"some avg10=0.00 avg60=0.00 avg300=0.00 total=122\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=118\n", true,
			map[Field]uint64{IOPressureSome: 122e3, IOPressureFull: 118e3}, nil,
		},
		{"pressure, Linux 5.12", parsePressure, CPUPressureSome, "some avg10=0.00 avg60=0.00 avg300=0.00 total=122\n", true, map[Field]uint64{CPUPressureSome: 122e3}, nil},
		{"pressure without total", parsePressure, CPUPressureSome, "some avg10=0.00\n", false, nil, nil},
		{"cpus", parseCPUs, CPUSetCPUs, "0-3,8,10-11\n", true, map[Field]uint64{CPUSetCPUs: 7}, nil},
		{"cpus, none", parseCPUs, CPUSetCPUs, "\n", true, map[Field]uint64{CPUSetCPUs: 0}, nil},
		{"cpus, backwards", parseCPUs, CPUSetCPUs, "3-0\n", false, nil, nil},
		{"cpus, twice", parseCPUs, CPUSetCPUs, "0-3,2\n", false, nil, nil},
		{"cpus, comma", parseCPUs, CPUSetCPUs, "0,\n", false, nil, nil},
		{"cpus, huge", parseCPUs, CPUSetCPUs, "0-18446744073709551615\n", false, nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s Stat
			if ok := tt.parse(&s, tt.field, []byte(tt.in)); ok != tt.ok {
				t.Errorf("ok = %v, want %v", ok, tt.ok)
			}
			want := tt.want
			if want == nil {
				want = map[Field]uint64{}
			}
			if d := cmp.Diff(want, fields(&s)); d != "" {
				t.Errorf("fields (-want +got):\n%s", d)
			}
			if !slices.Equal(tt.nodes, s.NUMA) {
				t.Errorf("NUMA = %v, want %v", s.NUMA, tt.nodes)
			}
		})
	}
}

// TestParseCut cuts the real files at every byte: within a line the parser
// must notice, and no number may be half of one.
func TestParseCut(t *testing.T) {
	for _, src := range allSources(t) {
		content, err := os.ReadFile(src.path)
		if err != nil {
			t.Fatal(err)
		}
		var whole Stat
		if !src.parse(&whole, src.field, content) {
			t.Errorf("%s: not parsed", src.path)
		}
		for n := range content {
			if n == 0 || content[n-1] == '\n' {
				continue
			}
			var s Stat
			if src.parse(&s, src.field, content[:n]) {
				t.Errorf("%s cut at %d: parsed as if whole", src.path, n)
			}
			for f, v := range fields(&s) {
				if w, _ := whole.Get(f); v != w {
					t.Errorf("%s cut at %d: field %d is %d, not %d", src.path, n, f, v, w)
				}
			}
			if len(s.NUMA) > 0 {
				t.Errorf("%s cut at %d: NUMA %v", src.path, n, s.NUMA)
			}
		}
	}
}

type fixtureSource struct {
	source
	path string
}

// allSources returns every file that is read of the fixtures' cgroups.
func allSources(t testing.TB) []fixtureSource {
	var list []fixtureSource
	for _, host := range []string{"v1", "v2", "hybrid"} {
		tree := fixture(t, host)
		for _, src := range tree.sources {
			name := strings.TrimRight(string(src.name), "\x00")
			path := filepath.Join(tree.hierarchies[src.hierarchy].Dir, worker, name)
			if _, err := os.Stat(path); err == nil {
				list = append(list, fixtureSource{src, path})
			}
		}
	}
	if len(list) < 40 {
		t.Fatalf("only %d files in the fixtures", len(list))
	}
	return list
}

func TestParseDoesNotAllocate(t *testing.T) {
	for _, src := range allSources(t) {
		content, err := os.ReadFile(src.path)
		if err != nil {
			t.Fatal(err)
		}
		var s Stat
		src.parse(&s, src.field, content)
		if n := testing.AllocsPerRun(100, func() {
			s.Clear(All)
			src.parse(&s, src.field, content)
		}); n != 0 {
			t.Errorf("%s: %v allocations", src.path, n)
		}
	}
}

// An oracle says in a slow and obvious way what a parser should make of a
// file: which fields, and whether all is well.
type oracle func(in string) (map[Field]uint64, bool)

// fuzzParser compares a parser with its oracle, seeded with the fixtures.
func fuzzParser(f *testing.F, parse parser, field Field, want oracle, seeds ...string) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	for _, src := range allSources(f) {
		content, err := os.ReadFile(src.path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var s Stat
		before := string(in)
		ok := parse(&s, field, in)
		if string(in) != before {
			t.Fatal("the input was changed")
		}
		wantFields, wantOK := want(before)
		if ok != wantOK {
			t.Errorf("ok = %v, want %v", ok, wantOK)
		}
		if d := cmp.Diff(wantFields, fields(&s)); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	})
}

// number is strconv's idea of a number times unit.
func number(s string, unit uint64) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > math.MaxUint64/unit || len(s) > 20 {
		return 0, false
	}
	return n * unit, true
}

// one is the oracle of files with a single value.
func one(f Field, unit uint64, special map[string]uint64) oracle {
	return func(in string) (map[Field]uint64, bool) {
		line, ok := strings.CutSuffix(in, "\n")
		if v, is := special[line]; ok && is {
			return map[Field]uint64{f: v}, true
		}
		n, valid := number(line, unit)
		if !ok || !valid {
			return map[Field]uint64{}, false
		}
		return map[Field]uint64{f: n}, true
	}
}

type keyed struct {
	f    Field
	unit uint64
}

// keys is the oracle of files of keys and values. Fields of sums add up.
func keys(known map[string]keyed, sums ...Field) oracle {
	return func(in string) (map[Field]uint64, bool) {
		got := map[Field]uint64{}
		bad := map[Field]bool{}
		ok, some := true, false
		for line := range strings.Lines(in) {
			line, whole := strings.CutSuffix(line, "\n")
			if !whole {
				ok = false
				for _, f := range sums {
					bad[f] = true
				}
				break
			}
			key, value, _ := strings.Cut(line, " ")
			k, is := known[key]
			if !is {
				continue
			}
			n, valid := uint64(0), true
			if k.unit > 0 {
				n, valid = number(value, k.unit)
			}
			if slices.Contains(sums, k.f) {
				if old := got[k.f]; !valid || n > math.MaxUint64-old {
					bad[k.f] = true
				}
				got[k.f] += n
				continue
			}
			some = true
			switch {
			case k.unit == 0: // known and of no use
			case valid:
				got[k.f] = n
			default:
				delete(got, k.f)
				ok = false
			}
		}
		got, fine := without(got, bad)
		return got, fine && ok && some
	}
}

func FuzzParseNumber(f *testing.F) {
	fuzzParser(f, parseNumber, MemoryUsage, one(MemoryUsage, 1, nil), "18446744073709551616\n", "+1\n", "1_0\n", "007\n")
}

func FuzzParseMicros(f *testing.F) {
	fuzzParser(f, parseMicros, CPUPeriod, one(CPUPeriod, 1000, nil), "18446744073709551\n", "18446744073709552\n")
}

func FuzzParseLimit(f *testing.F) {
	plain := one(MemoryMax, 1, map[string]uint64{"max": Max})
	fuzzParser(f, parseLimit, MemoryMax, func(in string) (map[Field]uint64, bool) {
		got, ok := plain(in)
		if got[MemoryMax] >= 1<<62 {
			got[MemoryMax] = Max
		}
		return got, ok
	}, "4611686018427387904\n", "4611686018427387903\n")
}

func FuzzParseQuota1(f *testing.F) {
	fuzzParser(f, parseQuota1, CPUQuota, one(CPUQuota, 1000, map[string]uint64{"-1": Max}), "-1\n")
}

func FuzzParseCPUMax(f *testing.F) {
	fuzzParser(f, parseCPUMax, CPUQuota, func(in string) (map[Field]uint64, bool) {
		if strings.Count(in, "\n") != 1 || !strings.HasSuffix(in, "\n") {
			return map[Field]uint64{}, false
		}
		quota, period, _ := strings.Cut(strings.TrimSuffix(in, "\n"), " ")
		a, ok1 := one(CPUQuota, 1000, map[string]uint64{"max": Max})(quota + "\n")
		b, ok2 := one(CPUPeriod, 1000, nil)(period + "\n")
		for k, v := range b {
			a[k] = v
		}
		return a, ok1 && ok2
	}, "max 100000\n", "1  1\n")
}

func FuzzParseCPUStat(f *testing.F) {
	fuzzParser(f, parseCPUStat, 0, keys(map[string]keyed{
		"usage_usec": {CPUUsage, 1000}, "user_usec": {CPUUser, 1000}, "system_usec": {CPUSystem, 1000},
		"nr_periods": {CPUPeriods, 1}, "nr_throttled": {CPUThrottledPeriods, 1}, "throttled_usec": {CPUThrottledTime, 1000},
		"nr_bursts": {CPUBursts, 1}, "burst_usec": {CPUBurstTime, 1000},
	}))
}

func FuzzParseCPUStat1(f *testing.F) {
	fuzzParser(f, parseCPUStat1, 0, keys(map[string]keyed{
		"nr_periods": {CPUPeriods, 1}, "nr_throttled": {CPUThrottledPeriods, 1}, "throttled_time": {CPUThrottledTime, 1},
		"nr_bursts": {CPUBursts, 1}, "burst_time": {CPUBurstTime, 1},
	}))
}

func FuzzParseCPUAcctStat(f *testing.F) {
	fuzzParser(f, parseCPUAcctStat, 0, keys(map[string]keyed{"user": {CPUUser, 1e7}, "system": {CPUSystem, 1e7}}))
}

func FuzzParseOOMKills(f *testing.F) {
	fuzzParser(f, parseOOMKills, OOMKills, keys(map[string]keyed{"oom_kill": {OOMKills, 1}, "oom": {}, "under_oom": {}}))
}

func FuzzParseMemoryStat(f *testing.F) {
	fuzzParser(f, parseMemoryStat, 0, keys(map[string]keyed{
		"anon": {MemoryAnon, 1}, "file": {MemoryFile, 1}, "inactive_file": {MemoryInactiveFile, 1},
		"pgfault": {PageFaults, 1}, "pgmajfault": {MajorFaults, 1},
		"workingset_refault": {Refaults, 1}, "workingset_refault_anon": {Refaults, 1}, "workingset_refault_file": {Refaults, 1},
	}, Refaults))
}

func FuzzParseMemoryStat1(f *testing.F) {
	fuzzParser(f, parseMemoryStat1, 0, keys(map[string]keyed{
		"total_rss": {MemoryAnon, 1}, "total_cache": {MemoryFile, 1}, "total_inactive_file": {MemoryInactiveFile, 1},
		"total_pgfault": {PageFaults, 1}, "total_pgmajfault": {MajorFaults, 1},
		"total_workingset_refault": {Refaults, 1}, "total_workingset_refault_anon": {Refaults, 1}, "total_workingset_refault_file": {Refaults, 1},
	}, Refaults))
}

func FuzzParseIOStat(f *testing.F) {
	known := map[string]Field{"rbytes": IOReadBytes, "wbytes": IOWriteBytes, "rios": IOReads, "wios": IOWrites}
	fuzzParser(f, parseIOStat, 0, func(in string) (map[Field]uint64, bool) {
		got := map[Field]uint64{IOReadBytes: 0, IOWriteBytes: 0, IOReads: 0, IOWrites: 0}
		device := in == ""
		if in != "" && !strings.HasSuffix(in, "\n") {
			return map[Field]uint64{}, false
		}
		bad := map[Field]bool{}
		for line := range strings.Lines(in) {
			words := strings.Split(strings.TrimSuffix(line, "\n"), " ")
			device = device || strings.Index(words[0], ":") > 0
			for _, word := range words[1:] {
				key, value, _ := strings.Cut(word, "=")
				if field, is := known[key]; is {
					n, valid := number(value, 1)
					bad[field] = bad[field] || !valid || n > math.MaxUint64-got[field]
					got[field] += n
				}
			}
		}
		if !device {
			return map[Field]uint64{}, false
		}
		return without(got, bad)
	}, "", "7:0 7:1 254:0 rbytes=1\n", "rbytes=1\n", "1:1 rbytes\n", "1:1  rbytes=1 \n")
}

func FuzzParseBlkio(f *testing.F) {
	known := map[string]Field{"Read": IOReads, "Write": IOWrites}
	fuzzParser(f, parseBlkio, IOReads, func(in string) (map[Field]uint64, bool) {
		got, bad := map[Field]uint64{}, map[Field]bool{}
		total := false
		for line := range strings.Lines(in) {
			line, whole := strings.CutSuffix(line, "\n")
			device, rest, _ := strings.Cut(line, " ")
			op, value, _ := strings.Cut(rest, " ")
			field, is := known[op]
			switch {
			case !whole:
				return map[Field]uint64{}, false
			case device == "Total":
				total = true
			case is:
				n, valid := number(value, 1)
				bad[field] = bad[field] || !valid || n > math.MaxUint64-got[field]
				got[field] += n
			}
		}
		if !total {
			return map[Field]uint64{}, false
		}
		return without(got, bad)
	}, "Total 0\n", "1:1 Read 5\nTotal 5\n", "1:1 Read 5\n1:1 Read\nTotal 5\n")
}

// without removes the bad fields, and says whether there were none.
func without(got map[Field]uint64, bad map[Field]bool) (map[Field]uint64, bool) {
	ok := true
	for f, b := range bad {
		if b {
			delete(got, f)
			ok = false
		}
	}
	return got, ok
}

func FuzzParsePressure(f *testing.F) {
	fuzzParser(f, parsePressure, MemoryPressureSome, func(in string) (map[Field]uint64, bool) {
		got := map[Field]uint64{}
		known, ok := false, in == "" || strings.HasSuffix(in, "\n")
		for line := range strings.Lines(in) {
			line, whole := strings.CutSuffix(line, "\n")
			words := strings.Split(line, " ")
			field := MemoryPressureSome
			if !whole || words[0] != "some" && words[0] != "full" {
				continue
			}
			if words[0] == "full" {
				field = MemoryPressureFull
			}
			known = true
			value, is := strings.CutPrefix(words[len(words)-1], "total=")
			n, valid := number(value, 1000)
			if !is || !valid || len(words) < 2 {
				delete(got, field)
				ok = false
				continue
			}
			got[field] = n
		}
		return got, known && ok
	}, "some total=1\n", "some\n", "full total=1 \n")
}

func FuzzParseNUMA(f *testing.F) {
	f.Add("anon N0=1 N1=2\nfile N0=10 N1=20\n", false)
	f.Add("hierarchical_total=55 N0=50 N2=5\n", true)
	f.Fuzz(func(t *testing.T, in string, v1 bool) {
		var s Stat
		unit := uint64(1)
		var ok bool
		if v1 {
			unit = uint64(os.Getpagesize())
			ok = parseNUMA1(&s, 0, []byte(in))
		} else {
			ok = parseNUMA(&s, 0, []byte(in))
		}
		if ok != (len(s.NUMA) > 0) && !ok {
			t.Fatalf("ok = %v with %v", ok, s.NUMA)
		}
		// Written as the kernel does, it reads the same.
		if !ok {
			return
		}
		var again Stat
		line := "hierarchical_total=0"
		for _, n := range s.NUMA {
			if n.Bytes%unit != 0 {
				t.Fatalf("%v: not whole pages", n)
			}
			line += " N" + strconv.Itoa(n.Node) + "=" + strconv.FormatUint(n.Bytes/unit, 10)
		}
		line += "\n"
		if v1 {
			ok = parseNUMA1(&again, 0, []byte(line))
		} else {
			ok = parseNUMA(&again, 0, []byte(strings.Replace(line, "hierarchical_total=0", "anon", 1)+"file\n"))
		}
		if !ok || !slices.Equal(s.NUMA, again.NUMA) {
			t.Errorf("%v became %v (%v)", s.NUMA, again.NUMA, ok)
		}
	})
}

func FuzzParseList(f *testing.F) {
	for _, s := range []string{"0-3,8", "", "0", "0,1,2", "5-4", "8191", "8192", "0-8191", "1,,2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		var s Stat
		ok := parseCPUs(&s, CPUSetCPUs, []byte(in+"\n"))
		n, present := s.Get(CPUSetCPUs)
		if ok != present || ok && s.CPUSet != in {
			t.Fatalf("ok = %v, present = %v, CPUSet = %q", ok, present, s.CPUSet)
		}
		var set idSet
		if !set.add([]byte(in)) {
			return
		}
		if !ok || set.len() != n {
			t.Fatalf("%d ids as a set, %d as a list (%v)", set.len(), n, ok)
		}
		var again idSet
		out := set.append(nil)
		if !again.add(out) || again != set {
			t.Errorf("%q became %q", in, out)
		}
	})
}

func FuzzParseIDs(f *testing.F) {
	f.Add("1\n22\n333\n", 3)
	f.Add("0\n7\n", 0)
	f.Add("7", 1)
	f.Add("2147483648\n", 4)
	f.Fuzz(func(t *testing.T, in string, split int) {
		var whole idParser
		ok := whole.parse([]byte(in))
		var want []int
		wantOK := true
		for line := range strings.Lines(in) {
			digits, ended := strings.CutSuffix(line, "\n")
			n, err := strconv.ParseUint(digits, 10, 31)
			if err != nil && digits != "" || digits == "" {
				wantOK = false
				break
			}
			if n > 0 && ended {
				want = append(want, int(n))
			}
		}
		if ok && wantOK && !slices.Equal(whole.ids, want) {
			t.Errorf("%v, want %v", whole.ids, want)
		}
		if ok && !wantOK {
			t.Error("parsed what is no list of ids")
		}
		if split < 0 || split > len(in) {
			return
		}
		var parts idParser
		partsOK := parts.parse([]byte(in[:split])) && parts.parse([]byte(in[split:]))
		if partsOK != ok || ok && (!slices.Equal(parts.ids, whole.ids) || parts.digits != whole.digits) {
			t.Errorf("in two parts: %v %v, at once: %v %v", parts.ids, partsOK, whole.ids, ok)
		}
	})
}
