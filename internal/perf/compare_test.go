package perf

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/hosttest"
)

// attrs are what the comparison with perf is about: the fields of an encoding
// that tell the kernel what to count and where.
type attrs struct {
	Type                     uint32
	Config, Config1, Config2 uint64
	Exclude                  string
}

func ours(t *testing.T, f FS, event string) []attrs {
	t.Helper()
	e, err := f.Resolve(event)
	if err != nil {
		t.Fatal(err)
	}
	var list []attrs
	for _, enc := range e.Encodings {
		a := attrs{Type: enc.Attr.Type, Config: enc.Attr.Config, Config1: enc.Attr.Ext1, Config2: enc.Attr.Ext2}
		for _, bit := range []struct {
			mask uint64
			name string
		}{
			{unix.PerfBitExcludeUser, "user "}, {unix.PerfBitExcludeKernel, "kernel "}, {unix.PerfBitExcludeHv, "hv "},
			{unix.PerfBitExcludeHost, "host "}, {unix.PerfBitExcludeGuest, "guest "},
		} {
			if enc.Attr.Bits&bit.mask != 0 {
				a.Exclude += bit.name
			}
		}
		list = append(list, a)
	}
	return sorted(list)
}

// perfs runs perf and returns the attrs that it prints, of each kind of CPU.
// It prints them even where the kernel does not take them. Its environment
// makes it read the sysfs of f and, so that its own lists of events stay out
// of it, take the CPU for one that nobody knows, or for cpuid.
func perfs(t *testing.T, f FS, cpuid, event string) []attrs {
	t.Helper()
	out, _ := runPerf(t, event, "SYSFS_PATH="+f.path("sys"), "PERF_CPUID="+cmp.Or(cpuid, "GenuineIntel-6-0-0"))
	list, err := parsePerf(out, strings.Contains(event, "H") || strings.Contains(event, "G"))
	if err != nil || len(list) == 0 {
		t.Fatalf("perf stat -e %s: %v\n%s", event, err, out)
	}
	return sorted(list)
}

// runPerf returns what perf stat prints, and whether it succeeded. It runs in
// a mount namespace of its own if it can: perf mounts tracefs when it wants to
// know a tracepoint.
func runPerf(t *testing.T, event string, env ...string) (out string, ok bool) {
	t.Helper()
	command := func() *exec.Cmd {
		c := exec.Command("perf", "stat", "-vv", "-e", event, "true")
		c.Env = append(append(os.Environ(), "LC_ALL=C"), env...)
		return c
	}
	c := command()
	c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	b, err := c.CombinedOutput()
	if errors.Is(err, fs.ErrPermission) { // then perf may not mount either
		b, err = command().CombinedOutput()
	}
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Error(err)
	}
	return string(b), err == nil
}

// parsePerf parses what perf stat -vv prints: for each event that it opens
//
//	perf_event_attr:
//	  type                             4
//	  config                           0x1a3
//	  exclude_kernel                   1
//	  { bp_addr, config1 }             0x2
//	------------------------------------------------------------
//
// without what is zero. It excludes guests by itself unless G or H is written.
func parsePerf(out string, guests bool) ([]attrs, error) {
	var list []attrs
	in := false
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0:
			continue
		case fields[0] == "perf_event_attr:":
			list, in = append(list, attrs{}), true
			continue
		case strings.HasPrefix(fields[0], "---"):
			in = false
		}
		if !in || len(fields) < 2 {
			continue
		}
		a := &list[len(list)-1]
		name, value := strings.Join(fields[:len(fields)-1], " "), fields[len(fields)-1]
		n, err := strconv.ParseUint(value, 0, 64)
		switch name {
		case "type":
			a.Type = uint32(n)
		case "config":
			a.Config = n
		case "{ bp_addr, config1 }":
			a.Config1 = n
		case "{ bp_len, config2 }":
			a.Config2 = n
		case "exclude_user", "exclude_kernel", "exclude_hv", "exclude_host", "exclude_guest":
			if name != "exclude_guest" || guests {
				a.Exclude += strings.TrimPrefix(name, "exclude_") + " "
			}
		default:
			continue
		}
		if err != nil {
			return nil, err
		}
	}
	return list, nil
}

// sorted also removes repetitions: perf tries an event that was refused again
// with another one of its defaults.
func sorted(list []attrs) []attrs {
	slices.SortFunc(list, func(a, b attrs) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Config, b.Config), cmp.Compare(a.Config1, b.Config1))
	})
	return slices.Compact(list)
}

func compare(t *testing.T, f FS, events ...string) {
	t.Helper()
	for _, event := range events {
		if diff := gocmp.Diff(perfs(t, f, "", event), ours(t, f, event)); diff != "" {
			t.Errorf("%s: perf -, owca +\n%s", event, diff)
		}
	}
}

// allSpellings are all names of hardware, software and cache events that perf
// takes, but for those of events that differ in the case alone.
func allSpellings() []string {
	var names []string
	for _, list := range [][]generic{hardwareEvents, softwareEvents} {
		for _, g := range list {
			names = append(append(names, g.name), g.others...)
		}
	}
	for cache, words := range cacheNames {
		for _, word := range words {
			if word == "branches" {
				continue // perf reads it as the hardware event even in "branches-load"
			}
			names = append(names, word)
			for op, opWords := range cacheOps {
				if !cacheHas(cache, op) {
					continue
				}
				for _, opWord := range opWords {
					names = append(names, word+"-"+opWord)
				}
				names = append(names, word+"-"+opWords[0]+"-"+cacheResults[0][op%4], word+"-"+opWords[0]+"-"+cacheResults[1][op%2])
			}
			for result, resultWords := range cacheResults {
				if name := word + "-" + resultWords[result]; findGeneric(hardwareEvents, name) == nil {
					names = append(names, name)
				}
			}
		}
	}
	return names
}

func TestLikePerfGeneric(t *testing.T) {
	hosttest.Need(t, "root", "perf") // others may count user mode alone, which perf then does
	compare(t, newHost(t, "skylake-sp"), allSpellings()...)
	compare(t, newHost(t, "no-pmu"), "cycles", "LLC-load-misses", "task-clock", "r1a3")
}

func TestLikePerfModifiers(t *testing.T) {
	hosttest.Need(t, "root", "perf")
	f := newHost(t, "skylake-sp")
	var events []string
	for m := modifiers(1); m < 1<<len(modifierLetters); m++ {
		events = append(events, "cycles:"+m.String())
	}
	compare(t, f, append(events, "cpu/event=0xa3/u", "r1a3:kh", "context-switches:u", "L1-dcache-load-misses:k", "cpu/cache-misses/ukG")...)
	// In groups they add up.
	for _, group := range []string{"{cycles:u,instructions}:k", "{cycles,cpu/event=1/u}:h", "{cycles:G,LLC-loads}:uH"} {
		requests, err := ParseRequests([]string{group})
		if err != nil {
			t.Fatal(err)
		}
		var want []attrs
		for _, e := range requests[0].Events {
			want = append(want, ours(t, f, e)...)
		}
		// perf opens no more of a group when its leader is refused, and prints
		// no more: lead with a software event, which is always there.
		led := strings.Replace(group, "{", "{task-clock,", 1)
		got := slices.DeleteFunc(perfs(t, f, "", led), func(a attrs) bool { return a.Type == unix.PERF_TYPE_SOFTWARE })
		if diff := gocmp.Diff(got, sorted(want)); diff != "" {
			t.Errorf("%s: perf -, owca +\n%s", group, diff)
		}
	}
}

func TestLikePerfTerms(t *testing.T) {
	hosttest.Need(t, "root", "perf")
	compare(t, newHost(t, "skylake-sp"),
		"cpu/event=0xa3,umask=0x14,cmask=20/", "cpu/cmask=255,event=255,inv,edge=1,any=0/", "cpu/event=010/", "cpu/edge/",
		"cpu/config=1,config1=2,config2=3/", "cpu/config=1,event=0x10,ldlat=5,config2=0xffffffffffffffff/",
		"cpu/offcore_rsp=0xfedcba9876543210,event=0xb7/", "cpu/event=1,name=a.b_c/", "cpu/event=1,name='a,b'/u", "cycles/name=x/u",
		"cpu/r1a3/", "cpu/r1a3,umask=0x10/", "r1a3", "rffffffffffffffff", "r0",
		"cpu/cache-misses/", "cpu/cache-misses,umask=0x10/", "cpu/mem-loads/", "mem-loads", "cpu/mem-some,ldlat=7/", "cpu/ldlat=7,mem-some/",
		"topdown-fetch-bubbles", "cpu/MiXed/", "msr/tsc/", "msr/event=0x10/", "uprobe/retprobe,ref_ctr_offset=0x10/",
	)
	compare(t, newHost(t, "sapphire-rapids"), "topdown-retiring", "cpu/slots/", "cpu/event=0xa6,umask=0x21,cmask=5/")
	compare(t, newHost(t, "zen4"), "cpu/event=0x1a0,umask=0x1e/", "cpu/event=0xfff/", "cpu/stalled-cycles-frontend/")
	compare(t, newHost(t, "neoverse-n1"), "armv8_pmuv3_0/event=0x24,long/", "armv8_pmuv3_0/stall_backend/", "armv8_pmuv3_0/long/")
}

func TestLikePerfHybrid(t *testing.T) {
	hosttest.Need(t, "root", "perf")
	f := newHost(t, "alder-lake")
	var names []string // without modifiers of cache events: perf 6.1 loses them on such hosts
	for _, g := range hardwareEvents {
		names = append(names, g.name)
	}
	for e := range cacheEvents() {
		names = append(names, e.String())
	}
	compare(t, f, append(names, "cycles:u", "r1a3:k", "page-faults", "cpu_core/event=0xa3,umask=0x14/", "cpu_atom/event=0x34,umask=7/u",
		"cpu_core/cpu-cycles/", "cpu_atom/cycles/", "cpu_core/LLC-load-misses/", "cpu_core/mem-stores/", "cpu_atom/mem-stores/", "cpu_core/r1a3/")...)
}

// What perf refuses, we refuse.
func TestLikePerfErrors(t *testing.T) {
	hosttest.Need(t, "root", "perf")
	f := newHost(t, "skylake-sp")
	for _, event := range []string{
		"zebra", "cpu/zebra/", "cpu/event=0x100/", "cpu/edge=2/", "cpu/mem-some/", "zebra/event=1/", "L1-icache-stores", "iTLB-prefetches",
		"cycles:uu", "cycles:x", "cpu/event=1", "cpu/event=0x/", "sched:zebra", "broken",
	} {
		if out, ok := runPerf(t, event, "SYSFS_PATH="+f.path("sys"), "PERF_CPUID=GenuineIntel-6-0-0"); ok {
			t.Errorf("perf takes %s:\n%s", event, out)
		}
		if e, err := f.Resolve(event); err == nil {
			t.Errorf("%s: %+v", event, e)
		}
	}
}

// The tracepoints of the running kernel, with tracefs in a mount namespace of
// the test's own if nobody has mounted it.
func TestLikePerfTracepoints(t *testing.T) {
	hosttest.Need(t, "root", "perf")
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the namespace ends with the thread
		if err := privateTracefs(); err != nil {
			t.Errorf("mounting tracefs: %v", err)
			return
		}
		f := FS{}
		for _, event := range []string{"sched:sched_switch", "sched:sched_process_fork:u", "syscalls:sys_enter_write", "irq:irq_handler_entry:k"} {
			e, err := f.Resolve(event)
			if err != nil {
				t.Error(err)
				continue
			}
			out, ok := runPerf(t, event)
			if !ok {
				t.Error(out)
				continue
			}
			list, err := parsePerf(out, false)
			want := attrs{Type: unix.PERF_TYPE_TRACEPOINT, Config: e.Encodings[0].Attr.Config}
			switch {
			case strings.HasSuffix(event, ":u"):
				want.Exclude = "kernel hv "
			case strings.HasSuffix(event, ":k"):
				want.Exclude = "user hv "
			}
			if err != nil || len(list) == 0 || list[0] != want {
				t.Errorf("%s: perf %+v, %v, owca %+v", event, list, err, want)
			}
		}
		var unknown *UnknownError
		if _, err := f.Resolve("sched:sched_swich"); !errors.As(err, &unknown) || unknown.Nearest != "sched:sched_switch" {
			t.Error(err)
		}
		list, err := f.Events(true)
		n := 0
		for _, l := range list {
			if l.Kind == "tracepoint" {
				n++
				if l.Err != nil {
					t.Error(l.Err)
				}
			}
		}
		if err != nil || n < 100 {
			t.Errorf("%d tracepoints, %v", n, err)
		}
	}()
	<-done
}

func privateTracefs() error {
	if _, err := (FS{}).tracepoints(); err == nil {
		return nil
	}
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return unix.Mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, "")
}

// The codes of stalls_mem_load are those that perf's own lists have for the
// manufacturer's name, of the models that Debian 12's perf knows.
func TestLikePerfStalls(t *testing.T) {
	hosttest.Need(t, "root", "perf")
	f := newHost(t, "skylake-sp")
	hybrid := newHost(t, "alder-lake")
	compared := 0
	for i := range stallEvents {
		s := &stallEvents[i]
		if s.vendor == arm || s.vendor == amd && s.config == 0xa2d6 || strings.Contains(s.source, "/sierraforest/") ||
			strings.Contains(s.source, "/emeraldrapids/") || strings.Contains(s.source, "/graniterapids/") {
			continue // newer, or of another architecture
		}
		for _, model := range s.models {
			id := fmt.Sprintf("%s-%d-%X-7", s.vendor, s.family, model)
			kind, on := uint32(unix.PERF_TYPE_RAW), f
			if s.pmu != "" {
				on = hybrid
			}
			if s.pmu == "cpu_atom" {
				kind = 10
			}
			name := strings.ToLower(s.event)
			if want, got := (attrs{Type: kind, Config: s.config}), perfs(t, on, id, name); len(got) != 1 || got[0] != want {
				t.Errorf("%s %s: perf %+v, owca %+v", id, name, got, want)
			}
			compared++
		}
	}
	if compared < 20 {
		t.Errorf("%d models compared", compared)
	}
}
