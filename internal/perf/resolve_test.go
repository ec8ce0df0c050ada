package perf

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// hostFiles are the files that a host is resolved by: their names below Root
// without what all of them share, and their content.
type hostFiles struct {
	pmus    map[string]string // "cpu/type"
	cpuinfo string
}

func intelFormat(p string) map[string]string {
	return map[string]string{
		p + "/format/event": "config:0-7", p + "/format/umask": "config:8-15", p + "/format/edge": "config:18",
		p + "/format/any": "config:21", p + "/format/inv": "config:23", p + "/format/cmask": "config:24-31",
		p + "/format/offcore_rsp": "config1:0-63", p + "/format/ldlat": "config1:0-15", p + "/format/frontend": "config1:0-23",
		p + "/events/cpu-cycles": "event=0x3c", p + "/events/instructions": "event=0xc0",
		p + "/events/cache-misses": "event=0x2e,umask=0x41", p + "/events/ref-cycles": "event=0x00,umask=0x03",
	}
}

func merged(list ...map[string]string) map[string]string {
	all := map[string]string{}
	for _, m := range list {
		maps.Copy(all, m)
	}
	return all
}

func x86CPU(vendor string, family, model int) string {
	one := fmt.Sprintf("vendor_id\t: %s\ncpu family\t: %d\nmodel\t\t: %d\nmodel name\t: a CPU @ 2.00GHz\n\n", vendor, family, model)
	return "processor\t: 0\n" + one + "processor\t: 1\n" + one
}

func armCPU(part string) string {
	return "processor\t: 0\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x3\nCPU part\t: " + part + "\nCPU revision\t: 1\n\n"
}

var kernelPMUs = map[string]string{
	"software/type": "1", "tracepoint/type": "2", "breakpoint/type": "5",
	"uprobe/type": "7", "uprobe/format/retprobe": "config:0", "uprobe/format/ref_ctr_offset": "config:32-63",
}

var hosts = map[string]hostFiles{
	"skylake-sp": {
		pmus: merged(kernelPMUs, intelFormat("cpu"), map[string]string{
			"cpu/type": "4", "cpu/events/mem-loads": "event=0xcd,umask=0x1,ldlat=3", "cpu/events/mem-some": "event=0xcd,umask=0x1,ldlat=?",
			"cpu/events/topdown-fetch-bubbles": "event=0x9c,umask=0x1", "cpu/events/topdown-fetch-bubbles.scale": "2",
			"cpu/events/broken": "event=0x1,nothing=2", "cpu/events/MiXed": "event=0x5", "cpu/events/read": "event=0x6",
			"msr/type": "9", "msr/format/event": "config:0-63", "msr/events/tsc": "event=0x00", "msr/events/twice": "event=0x01",
			"other/type": "16", "other/format/event": "config:0-63", "other/events/twice": "event=0x01",
			"power/type": "10", "power/cpumask": "0", "power/format/event": "config:0-7", "power/events/energy-pkg": "event=0x02",
			"power/events/energy-pkg.unit": "Joules", "power/events/energy-pkg.scale": "2.3283064365386962890625e-10",
			"uncore_imc_0/type": "14", "uncore_imc_0/cpumask": "0", "uncore_imc_0/format/event": "config:0-7", "uncore_imc_0/events/cas_count_read": "event=0x04",
		}),
		cpuinfo: x86CPU(intel, 6, 0x55),
	},
	"sapphire-rapids": {
		pmus: merged(kernelPMUs, intelFormat("cpu"), map[string]string{"cpu/type": "4",
			"cpu/events/slots": "event=0x00,umask=0x4", "cpu/events/topdown-retiring": "event=0x00,umask=0x80"}),
		cpuinfo: x86CPU(intel, 6, 0x8f),
	},
	"alder-lake": {
		pmus: merged(kernelPMUs, intelFormat("cpu_core"), intelFormat("cpu_atom"), map[string]string{
			"cpu_core/type": "4", "cpu_core/cpus": "0-3", "cpu_atom/type": "10", "cpu_atom/cpus": "4-5",
			"cpu_core/events/mem-stores": "event=0xcd,umask=0x2", "cpu_atom/events/mem-stores": "event=0xd0,umask=0x6",
			"cpu_core/events/slots": "event=0x00,umask=0x4"}),
		cpuinfo: x86CPU(intel, 6, 0x97),
	},
	"zen4": {
		pmus: merged(kernelPMUs, map[string]string{
			"cpu/type": "4", "cpu/format/event": "config:0-7,32-35", "cpu/format/umask": "config:8-15", "cpu/format/edge": "config:18",
			"cpu/format/inv": "config:23", "cpu/format/cmask": "config:24-31", "cpu/events/stalled-cycles-frontend": "event=0x0a9",
			"amd_umc_0/type": "12", "amd_umc_0/cpumask": "0", "amd_umc_0/events/umc_cas_cmd.rd": "event=0x0a,rdwrmask=0x1"}),
		cpuinfo: x86CPU(amd, 25, 0x11),
	},
	"neoverse-n1": {
		pmus: merged(kernelPMUs, map[string]string{
			"armv8_pmuv3_0/type": "8", "armv8_pmuv3_0/cpus": "0-3", "armv8_pmuv3_0/format/event": "config:0-15", "armv8_pmuv3_0/format/long": "config1:0",
			"armv8_pmuv3_0/events/cpu_cycles": "event=0x0011", "armv8_pmuv3_0/events/stall_backend": "event=0x0024",
			"arm_cmn_0/type": "9", "arm_cmn_0/cpumask": "0", "arm_cmn_0/events/dtc_cycles": "type=0x3"}),
		cpuinfo: armCPU("0xd0c"),
	},
	"big-little": {
		pmus: merged(kernelPMUs, map[string]string{
			"armv8_cortex_a53/type": "8", "armv8_cortex_a53/cpus": "0-3", "armv8_cortex_a53/format/event": "config:0-15",
			"armv8_cortex_a72/type": "9", "armv8_cortex_a72/cpus": "4-5", "armv8_cortex_a72/format/event": "config:0-15"}),
		cpuinfo: armCPU("0xd03") + armCPU("0xd08"),
	},
	"graviton4":  {pmus: map[string]string{"armv8_pmuv3_0/type": "8", "armv8_pmuv3_0/cpus": "0-3"}, cpuinfo: armCPU("0xd4f")},
	"no-pmu":     {pmus: kernelPMUs, cpuinfo: x86CPU(amd, 25, 1)},
	"tiger-lake": {pmus: map[string]string{"cpu/type": "4"}, cpuinfo: x86CPU(intel, 6, 0x8c)},
	"old":        {pmus: map[string]string{"cpu/type": "4"}, cpuinfo: x86CPU(intel, 6, 0x2c)},
}

// newHost makes the files of a host, and below sys/devices/system/cpu what
// perf wants there.
func newHost(t testing.TB, name string) FS {
	t.Helper()
	root := t.TempDir()
	h, ok := hosts[name]
	if !ok {
		t.Fatal("no host", name)
	}
	for file, text := range h.pmus {
		writeFile(t, filepath.Join(root, devices, file), text+"\n")
	}
	writeFile(t, filepath.Join(root, "proc/cpuinfo"), h.cpuinfo)
	if err := os.MkdirAll(filepath.Join(root, "sys/devices/system"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/sys/devices/system/cpu", filepath.Join(root, "sys/devices/system/cpu")); err != nil {
		t.Fatal(err)
	}
	return FS{Root: root}
}

func newHosts(t testing.TB) map[string]FS {
	made := map[string]FS{}
	for name := range hosts {
		made[name] = newHost(t, name)
	}
	return made
}

func writeFile(t testing.TB, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func attr(kind uint32, config uint64) unix.PerfEventAttr {
	return unix.PerfEventAttr{Type: kind, Config: config}
}

func all(a unix.PerfEventAttr) []Encoding { return []Encoding{{Attr: a}} }

func TestResolve(t *testing.T) {
	const (
		hw     = unix.PERF_TYPE_HARDWARE
		sw     = unix.PERF_TYPE_SOFTWARE
		hc     = unix.PERF_TYPE_HW_CACHE
		raw    = unix.PERF_TYPE_RAW
		user   = unix.PerfBitExcludeKernel | unix.PerfBitExcludeHv
		aKind  = 10
		bigger = 9
	)
	bits := func(a unix.PerfEventAttr, b uint64) unix.PerfEventAttr { a.Bits = b; return a }
	ext1 := func(a unix.PerfEventAttr, v uint64) unix.PerfEventAttr { a.Ext1 = v; return a }
	core, atom := []int{0, 1, 2, 3}, []int{4, 5}
	made := newHosts(t)
	for _, test := range []struct {
		host, name, alias, pmu string
		encodings              []Encoding
	}{
		{"skylake-sp", "cycles", "cycles", "hardware", all(attr(hw, 0))},
		{"skylake-sp", "CPU_Cycles", "cycles", "hardware", all(attr(hw, 0))},
		{"skylake-sp", " cpu-cycles ", "cycles", "hardware", all(attr(hw, 0))},
		{"skylake-sp", "cache-misses:u", "cache_misses_u", "hardware", all(bits(attr(hw, 3), user))},
		{"skylake-sp", "cache_misses:ukh", "cache_misses", "hardware", all(attr(hw, 3))},
		{"skylake-sp", "cache_misses:hu", "cache_misses_uh", "hardware", all(bits(attr(hw, 3), unix.PerfBitExcludeKernel))},
		{"skylake-sp", "cycles:kG", "cycles_k_guest", "hardware", all(bits(attr(hw, 0), unix.PerfBitExcludeUser|unix.PerfBitExcludeHv|unix.PerfBitExcludeHost))},
		{"skylake-sp", "cycles:H", "cycles_host", "hardware", all(bits(attr(hw, 0), unix.PerfBitExcludeGuest))},
		{"skylake-sp", "cycles:GH", "cycles", "hardware", all(attr(hw, 0))},
		{"skylake-sp", "idle_cycles_backend", "stalled_cycles_backend", "hardware", all(attr(hw, 8))},
		{"skylake-sp", "branches", "branches", "hardware", all(attr(hw, 4))},
		{"skylake-sp", "LLC-load-misses", "llc_load_misses", "cache", all(attr(hc, 0x10002))},
		{"skylake-sp", "llc_misses", "llc_load_misses", "cache", all(attr(hc, 0x10002))},
		{"skylake-sp", "L1-dcache-speculative-load-misses", "l1_dcache_prefetch_misses", "cache", all(attr(hc, 0x10200))},
		{"skylake-sp", "cs", "context_switches", "software", all(attr(sw, 3))},
		{"skylake-sp", "cgroup-switches", "cgroup_switches", "software", all(attr(sw, 11))},
		{"skylake-sp", "stalls_mem_load", "stalls_mem_load", "cpu", all(attr(raw, 0x140014a3))},
		{"skylake-sp", "stalls-mem-load:u", "stalls_mem_load_u", "cpu", all(bits(attr(raw, 0x140014a3), user))},
		{"skylake-sp", "r01A3", "r1a3", "cpu", all(attr(raw, 0x1a3))},
		{"skylake-sp", "r0x1a3:u", "r1a3_u", "cpu", all(bits(attr(raw, 0x1a3), user))},
		{"skylake-sp", "some_name__rA314", "some_name", "cpu", all(attr(raw, 0x14a3))},
		{"skylake-sp", "some_name__ra31414", "some_name", "cpu", all(attr(raw, 0x140014a3))},
		{"skylake-sp", "offcore__rB701003F803C00", "offcore", "cpu", all(ext1(attr(raw, 0x1b7), 0x003f803c00))},
		{"skylake-sp", "offcore__rB70100103F803C00", "offcore", "cpu", all(ext1(attr(raw, 0x1b7), 0x103f803c00))},
		{"skylake-sp", "cpu/event=0xa3,umask=0x14,cmask=20/", "cpu_event_0xa3_umask_0x14_cmask_0x14", "cpu", all(attr(4, 0x140014a3))},
		{"skylake-sp", "cpu/cmask=0x14,umask=20,inv=0,event=163/u", "cpu_event_0xa3_umask_0x14_cmask_0x14_u", "cpu", all(bits(attr(4, 0x140014a3), user))},
		{"skylake-sp", "cpu/event=0xa3,edge,name=Some.Name:x/k", "Some_Name_x", "cpu", all(bits(attr(4, 0x400a3), unix.PerfBitExcludeUser|unix.PerfBitExcludeHv))},
		{"skylake-sp", "cpu/event=1,name='a,b'/", "a_b", "cpu", all(attr(4, 1))},
		{"skylake-sp", "cycles/name=x/u", "x", "hardware", all(bits(attr(hw, 0), user))},
		{"skylake-sp", "r1a3/name=x/", "x", "cpu", all(attr(raw, 0x1a3))},
		{"skylake-sp", "cpu/config=0x1a3,config1=2/", "cpu_config_0x1a3_config1_0x2", "cpu", all(ext1(attr(4, 0x1a3), 2))},
		{"skylake-sp", "cpu/r1a3/", "cpu_r1a3", "cpu", all(attr(4, 0x1a3))},
		{"skylake-sp", "cpu/read/", "read", "cpu", all(attr(4, 6))}, // not raw 0xead
		{"skylake-sp", "cpu/cache-misses/", "cache_misses", "cpu", all(attr(4, 0x412e))},
		{"skylake-sp", "cpu/cpu-cycles/", "cycles", "cpu", all(attr(4, 0x3c))},
		{"skylake-sp", "cpu/cycles/", "cycles", "cpu", all(attr(hw, 0))},
		{"skylake-sp", "cpu/cache-misses,umask=0x10/", "cpu_umask_0x10_cache_misses", "cpu", all(attr(4, 0x512e))},
		{"skylake-sp", "mem-loads", "mem_loads", "cpu", all(ext1(attr(4, 0x1cd), 3))},
		{"skylake-sp", "cpu/mem-loads/", "mem_loads", "cpu", all(ext1(attr(4, 0x1cd), 3))},
		{"skylake-sp", "cpu/mem-some,ldlat=7/", "cpu_ldlat_0x7_mem_some", "cpu", all(ext1(attr(4, 0x1cd), 7))},
		{"skylake-sp", "MiXed", "mixed", "cpu", all(attr(4, 5))},
		{"skylake-sp", "tsc", "msr_tsc", "msr", all(attr(9, 0))},
		{"skylake-sp", "msr/tsc/", "msr_tsc", "msr", all(attr(9, 0))},
		{"sapphire-rapids", "stalls_mem_load", "stalls_mem_load", "cpu", all(attr(raw, 0x50021a6))},
		{"sapphire-rapids", "topdown-retiring", "topdown_retiring", "cpu", all(attr(4, 0x8000))},
		{"tiger-lake", "stalls_mem_load", "stalls_mem_load", "cpu", all(attr(raw, 0x140014a3))},
		{"alder-lake", "cycles", "cycles", "hardware", []Encoding{{atom, attr(hw, aKind<<32)}, {core, attr(hw, 4<<32)}}},
		{"alder-lake", "LLC-loads:u", "llc_loads_u", "cache", []Encoding{{atom, bits(attr(hc, aKind<<32|2), user)}, {core, bits(attr(hc, 4<<32|2), user)}}},
		{"alder-lake", "page-faults", "page_faults", "software", all(attr(sw, 2))},
		{"alder-lake", "r1a3", "r1a3", "cpu_atom,cpu_core", []Encoding{{atom, attr(aKind, 0x1a3)}, {core, attr(4, 0x1a3)}}},
		{"alder-lake", "x__rA301", "x", "cpu_atom,cpu_core", []Encoding{{atom, attr(aKind, 0x1a3)}, {core, attr(4, 0x1a3)}}},
		{"alder-lake", "mem-stores", "mem_stores", "cpu_atom,cpu_core", []Encoding{{atom, attr(aKind, 0x6d0)}, {core, attr(4, 0x2cd)}}},
		{"alder-lake", "slots", "slots", "cpu_core", []Encoding{{core, attr(4, 0x400)}}},
		{"alder-lake", "cpu_core/cycles/", "cpu_core_cycles", "cpu_core", []Encoding{{core, attr(hw, 4<<32)}}},
		{"alder-lake", "cpu_atom/cpu-cycles/", "cpu_atom_cycles", "cpu_atom", []Encoding{{atom, attr(aKind, 0x3c)}}},
		{"alder-lake", "cpu_atom/event=0x34,umask=7/", "cpu_atom_event_0x34_umask_0x7", "cpu_atom", []Encoding{{atom, attr(aKind, 0x734)}}},
		{"alder-lake", "stalls_mem_load", "stalls_mem_load", "cpu_atom,cpu_core", []Encoding{{core, attr(4, 0x50021a6)}, {atom, attr(aKind, 0x734)}}},
		{"zen4", "stalls_mem_load", "stalls_mem_load", "cpu", all(attr(raw, 0xa2d6))},
		{"zen4", "cpu/event=0x1a0,umask=0x1e/", "cpu_event_0x1a0_umask_0x1e", "cpu", all(attr(4, 0x100001ea0))},
		{"neoverse-n1", "cycles", "cycles", "hardware", all(attr(hw, 0))},
		{"neoverse-n1", "stall_backend", "stall_backend", "armv8_pmuv3_0", all(attr(8, 0x24))},
		{"neoverse-n1", "cpu_cycles", "cycles", "hardware", all(attr(hw, 0))},
		{"neoverse-n1", "armv8_pmuv3_0/cpu_cycles/", "cycles", "armv8_pmuv3_0", all(attr(8, 0x11))},
		{"neoverse-n1", "armv8_pmuv3_0/event=0x24,long/", "armv8_pmuv3_0_event_0x24_long", "armv8_pmuv3_0", all(ext1(attr(8, 0x24), 1))},
		{"neoverse-n1", "r24", "r24", "armv8_pmuv3_0", all(attr(raw, 0x24))},
		{"graviton4", "stalls_mem_load", "stalls_mem_load", "armv8_pmuv3_0", all(attr(raw, 0x4005))},
		{"big-little", "cycles", "cycles", "hardware", []Encoding{{core, attr(hw, 0)}, {atom, attr(hw, 0)}}},
		{"big-little", "r11", "r11", "armv8_cortex_a53,armv8_cortex_a72", []Encoding{{core, attr(8, 0x11)}, {atom, attr(bigger, 0x11)}}},
		{"no-pmu", "cycles", "cycles", "hardware", all(attr(hw, 0))},
		{"no-pmu", "task-clock", "task_clock", "software", all(attr(sw, 1))},
		{"no-pmu", "r1", "r1", "cpu", all(attr(raw, 1))},
	} {
		t.Run(test.host+" "+test.name, func(t *testing.T) {
			e, err := made[test.host].Resolve(test.name)
			if err != nil {
				t.Fatal(err)
			}
			if e.Name != strings.TrimSpace(test.name) || e.Alias != test.alias || e.PMU != test.pmu {
				t.Errorf("name %q, alias %q, PMU %q", e.Name, e.Alias, e.PMU)
			}
			if diff := cmp.Diff(test.encodings, e.Encodings); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestResolveUnit(t *testing.T) {
	f := newHost(t, "skylake-sp")
	for _, test := range []struct {
		name, unit string
		scale      float64
	}{
		{"cycles", "", 1},
		{"task-clock", "ns", 1},
		{"cpu_clock:ukh", "ns", 1},
		{"topdown-fetch-bubbles", "", 2},
		{"cpu/topdown-fetch-bubbles/", "", 2},
		{"cpu/event=1/", "", 1},
		{"msr/tsc/", "", 1},
	} {
		e, err := f.Resolve(test.name)
		if err != nil || e.Unit != test.unit || e.Scale != test.scale {
			t.Errorf("%s: %+v, %v", test.name, e, err)
		}
	}
}

func TestResolveErrors(t *testing.T) {
	const unsupported, unknown, files, other = "unsupported", "unknown", "files", "other"
	made := newHosts(t)
	for _, test := range []struct{ host, name, kind, want string }{
		{"skylake-sp", "cache-missses", unknown, `did you mean "cache-misses"`},
		{"skylake-sp", "cyclse", unknown, `did you mean "cycles"`},
		{"skylake-sp", "mem-laods", unknown, `did you mean "mem-loads"`},
		{"skylake-sp", "zebra", unknown, "zebra: there is no such event"},
		{"skylake-sp", "LLC-lode-misses", unknown, `did you mean "LLC-load-misses"`},
		{"skylake-sp", "L1-icache-stores", unknown, "no event for stores of L1-icache"},
		{"skylake-sp", "mixed", unknown, `did you mean "MiXed"`},
		{"skylake-sp", "name__rXY", unknown, "__rEEUU[CC]"},
		{"skylake-sp", "cpu/evnt=1/", unknown, `cpu has no event or term "evnt"; terms are any cmask edge event`},
		{"skylake-sp", "cpu/mem-load/", unknown, `did you mean "mem-loads"`},
		{"skylake-sp", "cpu/event=0x100/", other, "cpu/event=0x100/: event: 0x100 does not fit in its bits, of which there are 8"},
		{"skylake-sp", "cpu/event=1,edge=2/", other, "edge: 0x2 does not fit"},
		{"skylake-sp", "cpu/mem-some/", other, "ldlat=N must be given"},
		{"skylake-sp", "mem-some", other, "ldlat=N must be given"},
		{"skylake-sp", "cpu/mem-loads,cache-misses/", other, "mem-loads and cache-misses are two events"},
		{"skylake-sp", "broken", files, "the event in sysfs has the term nothing"},
		{"skylake-sp", "cpu/name=x/", other, "event terms are missing"},
		{"skylake-sp", "cpu/topdown-fetch-bubbles.scale/", unknown, "no event or term"},
		{"skylake-sp", "twice", other, "msr and other have it"},
		{"skylake-sp", "cpu_core/event=1/", unsupported, "this host has no PMU cpu_core"},
		{"skylake-sp", "energy-pkg", unsupported, "power counts for a whole socket"},
		{"skylake-sp", "power/energy-pkg/", unsupported, "not for a cgroup"},
		{"skylake-sp", "cas_count_read", unsupported, "uncore_imc_0 counts for a whole socket"},
		{"skylake-sp", "dummy", unsupported, "counts nothing"},
		{"skylake-sp", "sched:sched_switch", unsupported, "tracefs is not mounted"},
		{"skylake-sp", "task-clock:u", other, `task-clock:u: the kernel counts the clocks in all modes, whatever the modifiers are: leave "u" out`},
		{"skylake-sp", "cpu_clock:k", other, `leave "k" out`},
		{"skylake-sp", "cpu-clock:G", other, `leave "G" out`},
		{"skylake-sp", "task-clock/name=x/u", other, `leave "u" out`},
		{"skylake-sp", "software/config=1/h", other, `leave "h" out`},
		{"skylake-sp", "cycles:z", other, "there are u k h G H"},
		{"skylake-sp", "x__rA3140", other, "5 digits after __r"},
		{"alder-lake", "cpu/event=1/", unsupported, "PMU cpu_atom,cpu_core, not cpu"},
		{"no-pmu", "cpu/event=1/", unsupported, "nor another one of its CPUs"},
		{"neoverse-n1", "stalls_mem_load", unsupported, "Neoverse N1 counts back-end stalls of all causes together"},
		{"big-little", "stalls_mem_load", unsupported, "CPUs are of several models"},
		{"old", "stalls_mem_load", unsupported, "not known of CPU vendor GenuineIntel family 0x6 model 0x2c; if its manual has one, give its code, as stalls_mem_load__rEEUUCC"},
	} {
		_, err := made[test.host].Resolve(test.name)
		if mistake := errors.As(err, new(*RequestError)); mistake == (test.kind == unsupported || test.kind == files) {
			t.Errorf("%s on %s: %v is a RequestError: %v", test.name, test.host, err, mistake)
		}
		kind := other
		var u *UnknownError
		switch {
		case errors.As(err, &u):
			kind = unknown
		case errors.Is(err, errors.ErrUnsupported):
			kind = unsupported
		case isFileError(err):
			kind = files
		}
		if err == nil || kind != test.kind || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s on %s: %s error %v, want %s %q", test.name, test.host, kind, err, test.kind, test.want)
		}
		if strings.Contains(fmt.Sprint(err), "no such file") {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// A file that cannot be parsed or read is an error of its own kind: nothing is
// concluded from it.
func TestResolveBrokenSysfs(t *testing.T) {
	for _, test := range []struct{ file, text, name, want string }{
		{"cpu/type", "four", "cycles", `"four" is not a number`},
		{"cpu/cpus", "0-", "cycles", `is not a list of cpus`},
		{"cpu/format/event", "config:", "cpu/event=1/", "is not bits of config"},
		{"cpu/format/event", "config9:0-7", "cpu/event=1/", "is not bits of config"},
		{"cpu/format/event", "config:0-64", "cpu/event=1/", "is not bits of config"},
		{"cpu/events/odd", "event=x", "odd", "not a number as 20 or 0x14"},
		{"cpu/events/mem-loads.scale", "much", "mem-loads", `"much" is not a number`},
	} {
		f := newHost(t, "skylake-sp")
		writeFile(t, filepath.Join(f.Root, devices, test.file), test.text+"\n")
		_, err := f.Resolve(test.name)
		if err == nil || !strings.Contains(err.Error(), test.want) || errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", test.file, err)
		}
	}
}

// A device that cannot be made out is no reason to do without events of others,
// except those that all core PMUs count, if it is one.
func TestResolveBrokenPMU(t *testing.T) {
	const (
		core = "cycles LLC-loads r1a3 mem-loads cpu/event=1/ stalls_mem_load"
		all  = "page-faults msr/tsc/ " + core + " other/event=1/ twice"
	)
	for _, test := range []struct{ file, text, fail string }{
		{"other/type", "nine", "other/event=1/ twice"},
		{"other/cpus", "nine", "cycles LLC-loads r1a3 stalls_mem_load other/event=1/ twice"}, // it may be one of several
		{"cpu/type", "", core},
	} {
		f := newHost(t, "skylake-sp")
		if test.file == "other/type" {
			writeFile(t, filepath.Join(f.Root, devices, "acpi/type"), "nine\n")
			writeFile(t, filepath.Join(f.Root, devices, "acpi/events/mem-loads"), "event=1\n") // the core's is meant
		}
		if err := os.Remove(filepath.Join(f.Root, devices, "msr/events/twice")); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(f.Root, devices, test.file), test.text+"\n")
		var failed []string
		for name := range strings.FieldsSeq(all) {
			_, err := f.Resolve(name)
			if err == nil {
				continue
			}
			if failed = append(failed, name); !isFileError(err) || errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), test.file) {
				t.Errorf("%s: %s: %v", test.file, name, err)
			}
		}
		if got := strings.Join(failed, " "); got != test.fail {
			t.Errorf("%s: %s fail, want %s", test.file, got, test.fail)
		}
	}
}

// The kinds of CPUs that are all offline have an empty list, which is not that
// of all CPUs.
func TestResolveOfflineKind(t *testing.T) {
	f := newHost(t, "alder-lake")
	writeFile(t, filepath.Join(f.Root, devices, "cpu_atom/cpus"), "\n")
	core := []int{0, 1, 2, 3}
	online, err := f.onlineCPUs()
	if err != nil {
		t.Fatal(err)
	}
	known := slices.Compact(slices.Sorted(slices.Values(slices.Concat(core, online))))
	for name, want := range map[string]unix.PerfEventAttr{
		"cycles": attr(unix.PERF_TYPE_HARDWARE, 4<<32), "LLC-loads": attr(unix.PERF_TYPE_HW_CACHE, 4<<32|2), "r1a3": attr(4, 0x1a3),
		"mem-stores": attr(4, 0x2cd), "stalls_mem_load": attr(4, 0x50021a6), "cpu_core/cycles/": attr(unix.PERF_TYPE_HARDWARE, 4<<32),
	} {
		e, err := f.Resolve(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff([]Encoding{{core, want}}, e.Encodings); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if !slices.Equal(e.Known, known) {
			t.Errorf("%s: known %v, want %v", name, e.Known, known)
		}
	}
	for _, name := range []string{"cpu_atom/event=0x34/", "cpu_atom/cycles/"} {
		if _, err := f.Resolve(name); !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "no CPU of cpu_atom is online") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if e, err := f.Resolve("page-faults"); err != nil || e.Known != nil || e.Encodings[0].CPUs != nil {
		t.Errorf("%+v, %v", e, err)
	}
}

// A CPU of which nothing is known is not one that does not count the event.
func TestOpenGroupUnknownCPU(t *testing.T) {
	first := softwareEvent("task-clock", unix.PERF_COUNT_SW_TASK_CLOCK)
	first.Encodings[0].Attr.Bits = unix.PerfBitExcludeKernel | unix.PerfBitExcludeHv
	elsewhere := softwareEvent("elsewhere", unix.PERF_COUNT_SW_TASK_CLOCK)
	elsewhere.Encodings[0].CPUs = []int{1023}
	files := openEvents(t)
	events, fds := []*Event{first, elsewhere}, make([]int32, 2)
	for _, test := range []struct {
		known  []int
		failed int
	}{{nil, -1}, {[]int{0, 1023}, -1}, {[]int{1, 1023}, 1}} {
		elsewhere.Known = test.known
		failed, err := openGroup(fds, events, 0, 0, 0, 0) // this thread, on CPU 0
		if failed != test.failed || (err != nil) != (failed >= 0) || err != nil && !strings.Contains(err.Error(), "CPU 0 came online after it was found out how CPUs count elsewhere") {
			t.Errorf("known %v: failed %d, %v", test.known, failed, err)
		}
		if err == nil {
			if fds[0] < 0 || fds[1] >= 0 {
				t.Errorf("known %v: %v", test.known, fds)
			}
			if err := closeGroup(fds); err != nil {
				t.Error(err)
			}
		}
	}
	if n := openEvents(t); n != files {
		t.Errorf("%d events open before, %d after", files, n)
	}
}

func TestTracepoints(t *testing.T) {
	for _, dir := range []string{"sys/kernel/tracing/events", "sys/kernel/debug/tracing/events"} {
		f := newHost(t, "zen4")
		writeFile(t, filepath.Join(f.Root, dir, "sched/sched_switch/id"), "316\n")
		writeFile(t, filepath.Join(f.Root, dir, "sched/enable"), "0\n")
		writeFile(t, filepath.Join(f.Root, dir, "enable"), "0\n")
		writeFile(t, filepath.Join(f.Root, dir, "ftrace/function/format"), "\n")
		e, err := f.Resolve("sched:sched_switch:u")
		if err != nil || e.Alias != "sched_sched_switch_u" || e.PMU != "tracepoint" || e.Encodings[0].Attr.Type != unix.PERF_TYPE_TRACEPOINT || e.Encodings[0].Attr.Config != 316 {
			t.Errorf("%+v, %v", e, err)
		}
		for name, want := range map[string]string{"sched:sched_swich": "sched:sched_switch", "shced:sched_switch": "sched:sched_switch", "zebra:zebra": ""} {
			_, err := f.Resolve(name)
			var unknown *UnknownError
			if !errors.As(err, &unknown) || unknown.Nearest != want || unknown.Name != name {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := f.Resolve("ftrace:function"); !errors.Is(err, errors.ErrUnsupported) {
			t.Error(err)
		}
		list, err := f.Events(true)
		if err != nil {
			t.Error(err)
		}
		if last := list[len(list)-1]; last.Name != "sched:sched_switch" || last.Kind != "tracepoint" || last.Err != nil {
			t.Errorf("%+v", last)
		}
	}
}

func TestEvents(t *testing.T) {
	for name := range hosts {
		f := newHost(t, name)
		list, err := f.Events(true)
		if !errors.Is(err, errors.ErrUnsupported) { // no tracefs
			t.Errorf("%s: %v", name, err)
		}
		kinds := map[string]int{}
		seen := map[string]bool{}
		for _, l := range list {
			kinds[l.Kind]++
			if seen[l.Name] || (l.Event == nil) != (l.Err != nil) || !slices.Contains(Kinds, l.Kind) {
				t.Errorf("%s: %+v", name, l)
			}
			seen[l.Name] = true
			e, err := f.Resolve(l.Name)
			if diff := cmp.Diff(l.Event, e); diff != "" || fmt.Sprint(err) != fmt.Sprint(l.Err) {
				t.Errorf("%s: %s: %v, %s", name, l.Name, err, diff)
			}
			if l.Err == nil && (l.PMU != e.PMU || l.Kind == "hardware" && l.Description == "") {
				t.Errorf("%s: %+v", name, l)
			}
		}
		if kinds["original"] != 5 || kinds["hardware"] != 6 || kinds["cache"] != 32 || kinds["software"] != 10 {
			t.Errorf("%s: %v", name, kinds)
		}
	}
}

// What this host offers resolves, or is not supported.
func TestEventsHere(t *testing.T) {
	list, err := FS{}.Events(false)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		if l.Err != nil && !errors.Is(l.Err, errors.ErrUnsupported) && !strings.Contains(l.Err.Error(), "must be given") {
			t.Errorf("%s: %v", l.Name, l.Err)
		}
	}
}

// All spellings of an event have one alias, and other events another one.
func TestAliases(t *testing.T) {
	f := newHost(t, "skylake-sp")
	byAlias := map[string]unix.PerfEventAttr{}
	for _, name := range genericNames() {
		for _, spelling := range []string{name, strings.ReplaceAll(name, "-", "_"), strings.ToUpper(name)} {
			e, err := f.Resolve(spelling)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Trim(e.Alias, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
				t.Errorf("%s: alias %q", spelling, e.Alias)
			}
			a := e.Encodings[0].Attr
			if before, ok := byAlias[e.Alias]; ok && before != a {
				t.Errorf("%s: alias %q is also that of %+v", spelling, e.Alias, before)
			}
			byAlias[e.Alias] = a
		}
	}
	byAttr := map[unix.PerfEventAttr]string{}
	for alias, a := range byAlias {
		if other, ok := byAttr[a]; ok {
			t.Errorf("%s and %s are one event", alias, other)
		}
		byAttr[a] = alias
	}
	for _, name := range DefaultEvents {
		if e, err := f.Resolve(name); err != nil || e.Alias != name {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
}
