package perf

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// stallsName is the original's name for the cycles in which a core stalls
// because of loads from memory. There is no generic event for it.
const stallsName = "stalls_mem_load"

// A stallEvent is how some CPU models count stalls_mem_load.
type stallEvent struct {
	vendor string   // vendor_id of /proc/cpuinfo; on Arm, CPU implementer
	family uint64   // cpu family; 0 on Arm
	models []uint64 // first and last model of each range, in turn; on Arm, CPU parts
	pmu    string   // of hosts with several core PMUs: the one it is for
	config uint64   // 0 if the model cannot
	event  string   // the manufacturer's name; why it cannot if config is 0
	source string   // where the code is documented
}

const (
	intel = "GenuineIntel"
	amd   = "AuthenticAMD"
	arm   = "0x41"
	// lists has the manufacturers' lists of events in the kernel's tree.
	lists = "tools/perf/pmu-events/arch/"
)

// stallEvents counts for each model cycles, of a hardware thread, in which it
// makes no progress while a load is outstanding. Manufacturers draw the line
// at different points of the pipeline, so that compare hosts of one model.
// Model numbers are those of arch/x86/include/asm/intel-family.h, of
// bsp_init_amd in arch/x86/kernel/cpu/amd.c and arch/arm64/include/asm/cputype.h.
var stallEvents = []stallEvent{
	// Execution stalls while the memory subsystem has an outstanding load.
	{intel, 6, []uint64{0x3c, 0x3c, 0x3f, 0x3f, 0x45, 0x46}, "", 0x060006a3, "CYCLE_ACTIVITY.STALLS_LDM_PENDING", lists + "x86/haswellx/pipeline.json"},
	{intel, 6, []uint64{0x3d, 0x3d, 0x47, 0x47, 0x4f, 0x4f, 0x56, 0x56}, "", 0x060006a3, "CYCLE_ACTIVITY.STALLS_MEM_ANY", lists + "x86/broadwellx/pipeline.json"},
	// Skylake, Kaby and Comet Lake; Skylake-SP, Cascade Lake, Cooper Lake (0x55).
	{intel, 6, []uint64{0x4e, 0x4e, 0x55, 0x55, 0x5e, 0x5e, 0x8e, 0x8e, 0x9e, 0x9e, 0xa5, 0xa6}, "", 0x140014a3, "CYCLE_ACTIVITY.STALLS_MEM_ANY", lists + "x86/skylakex/pipeline.json"},
	// Ice Lake server and client, Rocket Lake, Tiger Lake.
	{intel, 6, []uint64{0x6a, 0x6a, 0x6c, 0x6c, 0x7d, 0x7e, 0xa7, 0xa7}, "", 0x140014a3, "CYCLE_ACTIVITY.STALLS_MEM_ANY", lists + "x86/icelakex/pipeline.json"},
	{intel, 6, []uint64{0x8c, 0x8d}, "", 0x140014a3, "CYCLE_ACTIVITY.STALLS_MEM_ANY", lists + "x86/tigerlake/pipeline.json"},
	// The same under another name; the counter mask makes it one each cycle.
	{intel, 6, []uint64{0x8f, 0x8f}, "", 0x050021a6, "EXE_ACTIVITY.BOUND_ON_LOADS", lists + "x86/sapphirerapids/pipeline.json"},
	{intel, 6, []uint64{0xcf, 0xcf}, "", 0x050021a6, "EXE_ACTIVITY.BOUND_ON_LOADS", lists + "x86/emeraldrapids/pipeline.json"},
	{intel, 6, []uint64{0xad, 0xae}, "", 0x050021a6, "EXE_ACTIVITY.BOUND_ON_LOADS", lists + "x86/graniterapids/pipeline.json"},
	// Unhalted cycles in which the core is stalled by a load that misses L1.
	{intel, 6, []uint64{0xaf, 0xaf}, "", 0x00007f34, "MEM_BOUND_STALLS_LOAD.ALL", lists + "x86/sierraforest/cache.json"},
	// Alder and Raptor Lake have cores of both kinds.
	{intel, 6, []uint64{0x97, 0x97, 0x9a, 0x9a, 0xb7, 0xb7, 0xba, 0xba, 0xbf, 0xbf}, "cpu_core", 0x050021a6, "EXE_ACTIVITY.BOUND_ON_LOADS", lists + "x86/alderlake/pipeline.json"},
	{intel, 6, []uint64{0x97, 0x97, 0x9a, 0x9a, 0xb7, 0xb7, 0xba, 0xba, 0xbf, 0xbf}, "cpu_atom", 0x00000734, "MEM_BOUND_STALLS.LOAD", lists + "x86/alderlake/cache.json"},

	// Zen 2 and 3 have no event for a load that holds up retirement. Cycles
	// without dispatch because the load queue is full are the part of it in
	// which many loads are outstanding.
	{amd, 0x17, []uint64{0x30, 0x4f, 0x60, 0x7f, 0x90, 0x91, 0xa0, 0xaf}, "", 0x02ae, "de_dis_dispatch_token_stalls1.load_queue_token_stall", lists + "x86/amdzen2/other.json"},
	{amd, 0x19, []uint64{0x00, 0x0f, 0x20, 0x5f}, "", 0x02ae, "de_dis_dispatch_token_stalls1.load_queue_rsrc_stall", lists + "x86/amdzen3/other.json"},
	// Cycles without retirement in which the oldest op waits for load data.
	{amd, 0x19, []uint64{0x10, 0x1f, 0x60, 0xaf}, "", 0xa2d6, "ex_no_retire.load_not_complete", lists + "x86/amdzen4/core.json"},
	{amd, 0x1a, []uint64{0x00, 0x2f, 0x40, 0x4f, 0x60, 0x7f}, "", 0xa2d6, "ex_no_retire.load_not_complete", lists + "x86/amdzen5/execution.json"},

	// Cycles in which the back end is stalled and a demand load is in progress
	// in the last cache of the core.
	{arm, 0, []uint64{0xd40, 0xd40}, "", 0x4005, "STALL_BACKEND_MEM", lists + "arm64/arm/neoverse-v1/stall.json"},
	{arm, 0, []uint64{0xd49, 0xd49, 0xd4f, 0xd4f}, "", 0x4005, "STALL_BACKEND_MEM", lists + "arm64/arm/neoverse-n2-v2/stall.json"},
	{arm, 0, []uint64{0xd83, 0xd84}, "", 0x4005, "STALL_BACKEND_MEM", lists + "arm64/arm/neoverse-v3/stall.json"},
	{arm, 0, []uint64{0xd8e, 0xd8e}, "", 0x4005, "STALL_BACKEND_MEM", lists + "arm64/arm/neoverse-n3/stall.json"},
	{arm, 0, []uint64{0xd0c, 0xd0c}, "", 0, "Neoverse N1 counts back-end stalls of all causes together (STALL_BACKEND, 0x24)", lists + "arm64/arm/neoverse-n1/stall.json"},
	{arm, 0, []uint64{0xd07, 0xd08}, "", 0, "Cortex-A57 and A72 have no event for stalls", lists + "arm64/arm/cortex-a57-a72"},
}

func (s *stallEvent) matches(c cpuModel) bool {
	if s.vendor != c.vendor || s.family != c.family {
		return false
	}
	for i := 0; i < len(s.models); i += 2 {
		if c.model >= s.models[i] && c.model <= s.models[i+1] {
			return true
		}
	}
	return false
}

// resolveStalls encodes stalls_mem_load and says which events of the CPU that
// is.
func (h *host) resolveStalls(e *Event) (help string, err error) {
	c, err := h.fs.cpuModel()
	if err != nil {
		return "", err
	}
	e.PMU, e.Alias = h.coreNames(), stallsName
	for i := range stallEvents {
		s := &stallEvents[i]
		if !s.matches(c) {
			continue
		}
		if s.config == 0 {
			return "", fmt.Errorf("%s; %s: %w", s.event, byHand, errors.ErrUnsupported)
		}
		attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_RAW, Config: s.config}
		if help != "" {
			help += ", "
		}
		help += s.event
		if s.pmu == "" || len(h.cores) < 2 {
			// Of a model with two kinds of cores, a virtual machine that has one
			// PMU shows the first, big one.
			e.Encodings, err = h.onCores(attr, func(attr *unix.PerfEventAttr, p *pmu) { attr.Type = p.kind })
			return help, err
		}
		for _, p := range h.cores {
			if p.err != nil {
				return "", p.err
			}
			if p.name == s.pmu {
				attr.Type = p.kind
				e.Encodings = append(e.Encodings, Encoding{CPUs: p.cpus, Attr: attr})
			}
		}
	}
	if len(e.Encodings) == 0 {
		return "", fmt.Errorf("the event for it is not known of %s; %s: %w", c, byHand, errors.ErrUnsupported)
	}
	return help, nil
}

const byHand = "if its manual has one, give its code, as " + stallsName + "__rEEUUCC or cpu/event=0xEE,umask=0xUU,cmask=N,name=" + stallsName + "/"

// cpuModel is what /proc/cpuinfo says that a CPU is.
type cpuModel struct {
	vendor        string
	family, model uint64
}

func (c cpuModel) String() string {
	if strings.HasPrefix(c.vendor, "0x") {
		return fmt.Sprintf("CPU implementer %s part %#x", c.vendor, c.model)
	}
	return fmt.Sprintf("CPU vendor %s family %#x model %#x", c.vendor, c.family, c.model)
}

// cpuModel reads /proc/cpuinfo. The error wraps [errors.ErrUnsupported] if it
// does not tell, or the CPUs are of several models.
func (f FS) cpuModel() (cpuModel, error) {
	data, err := os.ReadFile(f.path("proc/cpuinfo"))
	if err != nil {
		return cpuModel{}, err
	}
	c, err := parseCPUModel(data)
	if err != nil {
		return cpuModel{}, &fileError{f.path("proc/cpuinfo"), err}
	}
	return c, nil
}

// parseCPUModel parses, for each CPU in turn,
//
//	vendor_id	: GenuineIntel
//	cpu family	: 6
//	model		: 85
//
// or, on Arm,
//
//	CPU implementer	: 0x41
//	CPU part	: 0xd0c
func parseCPUModel(cpuinfo []byte) (cpuModel, error) {
	var c cpuModel
	var seen [3]bool
	for line := range bytes.Lines(cpuinfo) {
		key, value, _ := strings.Cut(string(line), ":")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		next := c
		var i int
		var err error
		switch key {
		case "vendor_id", "CPU implementer":
			i, next.vendor = 0, value
		case "cpu family":
			i = 1
			next.family, err = strconv.ParseUint(value, 10, 32)
		case "model", "CPU part":
			i = 2
			next.model, err = strconv.ParseUint(value, 0, 32)
		default:
			continue
		}
		if err != nil {
			return cpuModel{}, fmt.Errorf("%q is not a number", strings.TrimSpace(string(line)))
		}
		if seen[i] && next != c {
			return cpuModel{}, fmt.Errorf("its CPUs are of several models: %w", errors.ErrUnsupported)
		}
		c, seen[i] = next, true
	}
	if !seen[0] || !seen[2] {
		return cpuModel{}, fmt.Errorf("it does not tell the model of the CPUs: %w", errors.ErrUnsupported)
	}
	return c, nil
}
