package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/perf"
)

func (c *checker) perfParanoid() []finding {
	const name = "perf_event_paranoid"
	n, err := c.proc.PerfEventParanoid()
	if err != nil {
		return failed(name, c.missing(err), "")
	}
	detail := strconv.Itoa(n) + ": "
	switch {
	case n < 0:
		detail += "nothing is kept from anybody"
	case n == 0:
		detail += "raw tracepoints are for CAP_PERFMON only"
	case n == 1:
		detail += "events of whole cpus and cgroups are for CAP_PERFMON only"
	case n == 2:
		detail += "events of whole cpus and cgroups, and in the kernel, are for CAP_PERFMON only"
	default:
		detail += "every event is for CAP_PERFMON only (of Debian and Ubuntu)"
	}
	caps, err := c.self.Capabilities()
	switch held := caps.Has(unix.CAP_PERFMON) || caps.Has(unix.CAP_SYS_ADMIN); {
	case n <= 0:
		return one(name, yes, detail, "")
	case err == nil && held:
		return one(name, yes, detail+", which this user has", "")
	}
	return one(name, yes, detail, "performance counters of tasks need CAP_PERFMON, or kernel.perf_event_paranoid=0")
}

// perfEvent counts a software event of this process, which nearly everybody may.
func (c *checker) perfEvent() []finding {
	const name = "perf events"
	if v := c.tryEvent("task-clock"); v.Outcome != perf.Counts {
		return failedEvent(name, "task-clock", v)
	}
	return one(name, yes, "perf_event_open(2) opens a software event of this process", "")
}

// tryEvent lets an event count this process.
func (c *checker) tryEvent(name string) perf.Verdict {
	host := perf.FS{Root: c.root}
	event, err := host.Resolve(name)
	if err != nil {
		return unresolved(err)
	}
	return host.Probe([]*perf.Event{event})[0]
}

// failedEvent is the finding for an event that does not count.
func failedEvent(name, event string, v perf.Verdict) []finding {
	switch v.Outcome {
	case perf.StayedZero:
		return one(name, notSupported, event+" can be opened, but stays 0", "")
	case perf.NotSupported:
		return one(name, notSupported, v.Err.Error(), "")
	}
	return one(name, couldNotTell, v.Err.Error(), "")
}

// pmu lets hardware cycles count: a successful open is no proof.
func (c *checker) pmu() []finding {
	const name = "hardware counters"
	v := c.tryEvent("cycles")
	if v.Outcome != perf.Counts {
		f := failedEvent(name, "cycles", v)
		switch v.Outcome {
		case perf.StayedZero, perf.NotSupported:
			f[0].Advice = "in a virtual machine the hypervisor must offer a PMU"
		case perf.NeverRan:
			f[0].Advice = "others may use all of them: the NMI watchdog (kernel.nmi_watchdog=0), perf, another agent"
		}
		return f
	}
	detail := "cycles are counted"
	if v.UserOnly {
		detail += " in user mode, which is all that this user may"
	}
	rooms, err := perf.FS{Root: c.root}.Room()
	if err != nil {
		return one(name, yes, detail+"; how many events fit a group is not known: "+err.Error(), "")
	}
	return one(name, yes, detail+roomText(rooms), "")
}

// roomText says how many events go into a group.
func roomText(rooms []perf.Room) string {
	var b strings.Builder
	for _, r := range rooms {
		fmt.Fprintf(&b, "; a group holds up to %d hardware events", r.Fit)
		if r.CPUs != nil {
			fmt.Fprintf(&b, " on cpus %s", perf.FormatCPUs(r.CPUs))
		}
		if r.Free < r.Fit {
			fmt.Fprintf(&b, ", of which others leave counters for %d just now", r.Free)
		}
	}
	return b.String()
}

// perfBackends opens each backend with a software event and adds the root
// cgroup, as it will be done with those of tasks.
func (c *checker) perfBackends() []finding {
	var list []finding
	for _, b := range perf.Backends {
		name := "perf_backend " + string(b)
		if err := c.tryBackend(b); err != nil {
			f := failed(name, err, "")
			f[0].Detail, _, _ = strings.Cut(f[0].Detail, "\n") // one line for each cpu
			list = append(list, f...)
			continue
		}
		detail := "a descriptor for each task, cpu and event"
		if b == perf.BPF {
			detail = "a program that shares the counters of each cpu out, whatever the number of tasks"
		}
		list = append(list, one(name, yes, "counts tasks with "+detail, "")...)
	}
	return list
}

func (c *checker) tryBackend(b perf.Backend) (err error) {
	host := perf.FS{Root: c.root}
	event, err := host.Resolve("task-clock")
	if err != nil {
		return err
	}
	tree, err := c.tree()
	if err != nil {
		return err
	}
	dir := cmp.Or(tree.V1("perf_event"), tree.Unified())
	if dir == "" {
		return fmt.Errorf("neither the perf_event controller of v1 nor v2 is mounted: %w", errors.ErrUnsupported)
	}
	counter, err := host.Open(&perf.Plan{Groups: [][]*perf.Event{{event}}}, b)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, counter.Close()) }()
	group, err := counter.Add(dir)
	if err != nil {
		return err
	}
	var counts [1]perf.Count
	if err := counter.Refresh(); err != nil {
		return err
	}
	return group.Read(counts[:]) // the value proves nothing: that of the root cgroup may be 0
}

// bpf loads the smallest program of the kind that counts tasks: one for a perf
// event, which returns 0.
func (c *checker) bpf() []finding {
	const name = "bpf"
	const (
		mov64 = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K
		exit  = unix.BPF_JMP | unix.BPF_EXIT
	)
	program := [2][8]byte{{mov64}, {exit}} // struct bpf_insn: code, registers, offset, immediate
	license := [...]byte{'A', 'p', 'a', 'c', 'h', 'e', '-', '2', '.', '0', 0}
	// The beginning of union bpf_attr for BPF_PROG_LOAD (include/uapi/linux/bpf.h),
	// on 64 bits, with pointers as such: they follow a stack that moves.
	attr := struct {
		kind, count    uint32
		insns, license unsafe.Pointer
	}{unix.BPF_PROG_TYPE_PERF_EVENT, uint32(len(program)), unsafe.Pointer(&program), unsafe.Pointer(&license)}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(&attr)
	if errno != 0 {
		f := failed(name, os.NewSyscallError("bpf", errno), "")
		switch errno {
		case unix.EPERM, unix.EACCES:
			f[0].Advice = "give this user CAP_BPF and CAP_PERFMON; in a container the seccomp profile must allow bpf"
		case unix.EINVAL:
			f[0].Outcome, f[0].Detail = notSupported, "the kernel has no programs for perf events (CONFIG_BPF_EVENTS)"
		}
		return f
	}
	if err := unix.Close(int(fd)); err != nil {
		return failed(name, err, "")
	}
	return one(name, yes, "a program for perf events can be loaded", "")
}

func (c *checker) btf() []finding {
	const name = "btf"
	info, err := os.Stat(c.path("sys/kernel/btf/vmlinux"))
	if err != nil {
		if f := failed(name, c.missing(err), ""); f[0].Outcome == couldNotTell {
			return f
		}
		return one(name, notSupported, "the kernel was built without type information", "a kernel with CONFIG_DEBUG_INFO_BTF=y")
	}
	return one(name, yes, fmt.Sprintf("%s, %s", c.path("sys/kernel/btf/vmlinux"), appendBytes(nil, float64(info.Size()))), "")
}
