package hosttest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// Exact is an arm64 process that executes a known number of instructions in
// user mode, a round at a time. Between rounds it is blocked.
type Exact struct {
	Pid int
	t   testing.TB
	p   *exact
	n   uint64 // of the round that was begun
}

// exactCode is the program:
//
//	for read(0, &n, 8) == 8 {
//		for ; n > 0; n-- {
//		}
//		write(1, &n, 1)
//	}
//
// From the return of one read to that of the next it executes exactRound
// instructions and, for each n, exactStep. It has one page of code and one of
// stack and has touched both before its first round, so that no instruction of
// a round faults and is executed again.
var exactCode = [...]uint32{
	0xd10043ff, //       sub  sp, sp, #16
	0xd28007e8, // next: mov  x8, #63 (read)
	0xd2800000, //       mov  x0, #0
	0x910003e1, //       mov  x1, sp
	0xd2800102, //       mov  x2, #8
	0xd4000001, //       svc  #0
	0xf100201f, //       cmp  x0, #8
	0x54000141, //       b.ne end
	0xf94003e3, //       ldr  x3, [sp]
	0xf1000463, // loop: subs x3, x3, #1
	0x54ffffe1, //       b.ne loop
	0xd2800808, //       mov  x8, #64 (write)
	0xd2800020, //       mov  x0, #1
	0x910003e1, //       mov  x1, sp
	0xd2800022, //       mov  x2, #1
	0xd4000001, //       svc  #0
	0x17fffff1, //       b    next
	0xd2800bc8, // end:  mov  x8, #94 (exit_group)
	0xd2800000, //       mov  x0, #0
	0xd4000001, //       svc  #0
}

const (
	exactRound = 14
	exactStep  = 2
	exactRead  = "63 " // of /proc/PID/syscall
)

// exactFile is exactCode as an executable: the header of an ELF file, that of
// its only segment, and the code (elf(5)).
func exactFile() []byte {
	const base, headers = 0x400000, 64 + 56
	size := uint64(headers + 4*len(exactCode))
	var b bytes.Buffer
	b.WriteString("\x7fELF\x02\x01\x01")
	b.Write(make([]byte, 9))
	for _, v := range []any{
		// e_type ET_EXEC, e_machine EM_AARCH64, e_version, e_entry, e_phoff,
		// e_shoff, e_flags, e_ehsize, e_phentsize, e_phnum, e_sh…
		uint16(2), uint16(183), uint32(1), uint64(base + headers), uint64(64),
		uint64(0), uint32(0), uint16(64), uint16(56), uint16(1), [3]uint16{},
		// p_type PT_LOAD, p_flags R+X, p_offset, p_vaddr, p_paddr, p_filesz,
		// p_memsz, p_align
		uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size,
		size, uint64(0x10000),
		exactCode,
	} {
		_ = binary.Write(&b, binary.LittleEndian, v) // a bytes.Buffer does not fail
	}
	return b.Bytes()
}

// StartExact starts an Exact and moves it into the cgroup while it is blocked:
// none of the instructions before its first round is executed there. It needs
// arm64.
func StartExact(t testing.TB, c *Cgroup) *Exact {
	t.Helper()
	p, err := startExact(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	pid := p.cmd.Process.Pid
	c.Add(pid)
	return &Exact{Pid: pid, t: t, p: p}
}

// Begin starts a round of n > 0 steps and does not wait for its end.
func (x *Exact) Begin(n uint64) {
	x.t.Helper()
	x.n = n
	if err := x.p.begin(n); err != nil {
		x.t.Fatal(err)
	}
}

// End waits until the process is blocked again, on no CPU, and returns how many
// user instructions it executed in this round.
func (x *Exact) End() uint64 {
	x.t.Helper()
	if err := x.p.end(); err != nil {
		x.t.Fatal(err)
	}
	return exactRound + exactStep*x.n
}

// Loop is a whole round.
func (x *Exact) Loop(n uint64) uint64 {
	x.t.Helper()
	x.Begin(n)
	return x.End()
}

// exact is the process of an Exact.
type exact struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out io.ReadCloser
}

// startExact starts the program, which it writes to dir, and waits until it is
// blocked.
func startExact(dir string) (*exact, error) {
	name := filepath.Join(dir, "exact")
	if err := os.WriteFile(name, exactFile(), 0o755); err != nil {
		return nil, err
	}
	p := &exact{cmd: exec.Command(name)}
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if p.out, err = p.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	if err := p.blocked(); err != nil {
		p.kill()
		return nil, err
	}
	return p, nil
}

func (p *exact) begin(n uint64) error {
	_, err := p.in.Write(binary.LittleEndian.AppendUint64(nil, n))
	return err
}

func (p *exact) end() error {
	if _, err := io.ReadFull(p.out, make([]byte, 1)); err != nil {
		return fmt.Errorf("exact loop: %w", err)
	}
	return p.blocked()
}

// blocked waits until the process is in read(2) and off its CPU; the kernel
// says "running" as long as it is not (proc_pid_syscall in fs/proc/base.c).
func (p *exact) blocked() error {
	file := fmt.Sprintf("/proc/%d/syscall", p.cmd.Process.Pid)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Microsecond) {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if strings.HasPrefix(string(b), exactRead) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("exact loop: still not in read(2): %s: %s", file, bytes.TrimSpace(b))
		}
	}
}

func (p *exact) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// metCounting says whether this host meets one of the needs that are about
// counting hardware events and about CPUs that come and go.
func metCounting(need string) error {
	const cycles, instructions = 0, 1 // PERF_COUNT_HW_
	switch need {
	case "pmu":
		return counts(cycles)
	case "no-pmu":
		err := counts(cycles)
		if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENODEV) {
			return nil
		}
		if err == nil {
			return errors.New("cycles are counted")
		}
		return err
	case "no-instructions":
		if err := counts(cycles); err != nil {
			return err
		}
		err := counts(instructions)
		if errors.Is(err, syscall.ENOENT) {
			return nil
		}
		if err == nil {
			return errors.New("instructions are counted")
		}
		return err
	case "exact":
		if runtime.GOARCH != "arm64" {
			return errors.New("this is no arm64 machine")
		}
		if metCounting("smp") == nil {
			return errors.New("there are more CPUs than one")
		}
		return countsExactly(instructions)
	case "smp":
		online, err := os.ReadFile("/sys/devices/system/cpu/online")
		if err == nil && strings.TrimSpace(string(online)) == "0" {
			err = errors.New("there is one CPU")
		}
		return err
	case "hotplug":
		// Never on a machine that somebody else uses.
		if os.Getenv("OWCA_TEST_VM") == "" {
			return errors.New("not in a VM of our own")
		}
		b, err := os.ReadFile("/sys/devices/system/cpu/cpu1/online")
		if err == nil && string(b) != "1\n" {
			err = errors.New("cpu1 is offline")
		}
		return err
	}
	panic(need)
}

// openCounter counts a generic hardware event in a thread (0: this one), in
// user mode, by perf_event_open(2).
func openCounter(config uint64, pid int) (*os.File, error) {
	// PERF_ATTR_SIZE_VER0: type PERF_TYPE_HARDWARE, size, config, sampling,
	// the bits exclude_kernel and exclude_hv, and no more.
	const size, excludeKernel, excludeHypervisor = 64, 1 << 5, 1 << 6
	attr := [size / 8]uint64{0: size << 32, 1: config, 5: excludeKernel | excludeHypervisor}
	const anyCPU, noGroup, closeOnExec = ^uintptr(0), ^uintptr(0), 1 << 3
	fd, _, errno := syscall.Syscall6(syscall.SYS_PERF_EVENT_OPEN, uintptr(unsafe.Pointer(&attr)), uintptr(pid), anyCPU, noGroup, closeOnExec, 0)
	if errno != 0 {
		return nil, os.NewSyscallError("perf_event_open", errno)
	}
	return os.NewFile(fd, "perf event"), nil
}

func readCounter(f *os.File) (uint64, error) {
	b := make([]byte, 8)
	if _, err := f.Read(b); err != nil {
		return 0, err
	}
	return binary.NativeEndian.Uint64(b), nil
}

// counts says whether an event grows as this thread works.
func counts(config uint64) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	f, err := openCounter(config, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	// Events of whole CPUs go before those of threads, and keep their counters
	// for some ms after they were closed if BPF programs read them.
	for start := threadTime(); threadTime()-start < time.Second; {
		if n, err := readCounter(f); err != nil || n > 0 {
			return err
		}
	}
	return errors.New("the event opens, but stays 0")
}

// countsExactly says whether the kernel counts an Exact, by its own event of
// that thread, to the instruction.
func countsExactly(config uint64) error {
	if err := counts(config); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "owca-exact-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	p, err := startExact(dir)
	if err != nil {
		return err
	}
	defer p.kill()
	f, err := openCounter(config, p.cmd.Process.Pid)
	if err != nil {
		return err
	}
	defer f.Close()
	var want uint64
	for _, n := range []uint64{1, 1_000, 1_000_000} {
		if err := errors.Join(p.begin(n), p.end()); err != nil {
			return err
		}
		want += exactRound + exactStep*n
		got, err := readCounter(f)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("%d instructions were counted as %d", want, got)
		}
	}
	return nil
}
