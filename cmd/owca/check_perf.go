package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

const perfPermission = "give this user CAP_PERFMON, or lower kernel.perf_event_paranoid"

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

// openEvent opens an event of this thread, in user mode only: what nearly
// everybody may.
func openEvent(kind uint32, config uint64) (int, error) {
	attr := unix.PerfEventAttr{
		Type: kind, Config: config, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
		Bits:        unix.PerfBitExcludeKernel | unix.PerfBitExcludeHv,
		Read_format: unix.PERF_FORMAT_TOTAL_TIME_ENABLED | unix.PERF_FORMAT_TOTAL_TIME_RUNNING,
	}
	fd, err := unix.PerfEventOpen(&attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("perf_event_open", err)
	}
	return fd, nil
}

func (c *checker) perfEvent() []finding {
	const name = "perf events"
	fd, err := openEvent(unix.PERF_TYPE_SOFTWARE, unix.PERF_COUNT_SW_TASK_CLOCK)
	if err != nil {
		return failedPerf(name, err)
	}
	if err := unix.Close(fd); err != nil {
		return failed(name, err, "")
	}
	return one(name, yes, "perf_event_open(2) opens a software event of this process", "")
}

func failedPerf(name string, err error) []finding {
	f := failed(name, err, "")
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		f[0].Advice = perfPermission + "; in a container the seccomp profile must allow perf_event_open"
	}
	return f
}

// pmu opens hardware cycles and lets them count: a successful open is no proof.
func (c *checker) pmu() []finding {
	const name = "hardware counters"
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd, err := openEvent(unix.PERF_TYPE_HARDWARE, unix.PERF_COUNT_HW_CPU_CYCLES)
	if err != nil {
		f := failedPerf(name, err)
		// ENODEV, EINVAL: there is a PMU, but not for this event.
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
			f[0].Outcome = notSupported
			f[0].Detail = "no PMU that counts cycles (" + err.Error() + ")"
			f[0].Advice = "in a virtual machine the hypervisor must offer a PMU"
		}
		return f
	}
	defer unix.Close(fd) //nolint:errcheck // read only
	spin()
	var b [24]byte
	n, err := unix.Read(fd, b[:])
	if err == nil && n != len(b) {
		err = fmt.Errorf("read %d bytes of %d", n, len(b))
	}
	if err != nil {
		return failed(name, fmt.Errorf("reading the cycles of this thread: %w", err), "")
	}
	// struct read_format: value, time_enabled, time_running.
	value, running := binary.NativeEndian.Uint64(b[:]), binary.NativeEndian.Uint64(b[16:])
	switch {
	case value > 0:
		return one(name, yes, "cycles are counted", "")
	case running == 0:
		return one(name, couldNotTell, "cycles could be opened, but never got a counter", "others may use all of them: the NMI watchdog (kernel.nmi_watchdog=0), perf, another agent")
	}
	return one(name, notSupported, "cycles can be opened, but stay 0", "in a virtual machine the hypervisor must offer a PMU")
}

// spin keeps this thread busy for some millions of cycles.
func spin() {
	x := uint64(88172645463325252)
	for range 3_000_000 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
	}
	runtime.KeepAlive(x)
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
