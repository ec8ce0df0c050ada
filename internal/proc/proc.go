// Package proc reads what the kernel tells in /proc and /sys about the host,
// about threads and about the caller itself.
//
// Every reading has three outcomes. What the kernel does not offer (a kernel
// without pressure stall information, a host without NUMA) is absent, or
// [errors.ErrUnsupported] where it is all that was asked for. What could not be
// told (no permission, content that makes no sense) is absent and an error.
// Neither is ever a zero.
//
// Files that are read again and again stay open: [Host], [Schedstat] and [Self]
// hold descriptors and buffers and allocate nothing once these have grown. They
// are for one goroutine at a time.
package proc

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// FS is a host: the directory that its /proc and /sys are found in, "" or "/"
// for the one we run on.
type FS struct{ Root string }

// A Count is a number that may be absent: the kernel does not report it, or it
// could not be read. N is 0 then.
type Count struct {
	N  uint64
	OK bool
}

// ErrGone says that a process or thread does not exist, or no longer.
var ErrGone = errors.New("no such process")

func (fs FS) path(name string) string { return filepath.Join(fs.Root, name) }

// text returns the content of a small file without white space around it.
func (fs FS) text(name string) (string, error) {
	b, err := os.ReadFile(fs.path(name))
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(b)), nil
}

// number returns the decimal integer that a file consists of.
func (fs FS) number(name string) (int, error) {
	s, err := fs.text(name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", fs.path(name), err)
	}
	return n, nil
}

// KernelVersion returns the kernel's release, as uname -r prints it, from
// /proc/sys/kernel/osrelease.
func (fs FS) KernelVersion() (string, error) { return fs.text("/proc/sys/kernel/osrelease") }

// Hostname returns the host name in the UTS namespace of the caller, from
// /proc/sys/kernel/hostname.
func (fs FS) Hostname() (string, error) { return fs.text("/proc/sys/kernel/hostname") }

// PerfEventParanoid returns /proc/sys/kernel/perf_event_paranoid: what is kept
// from callers without CAP_PERFMON. 2: kernel profiling, 1: also CPU-wide
// events, 0: also raw tracepoints, -1: nothing; Debian and Android know more
// than 2. A kernel without perf events is an [errors.ErrUnsupported].
func (fs FS) PerfEventParanoid() (int, error) {
	n, err := fs.number("/proc/sys/kernel/perf_event_paranoid")
	if errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("perf events: %w by this kernel (%v)", errors.ErrUnsupported, err)
	}
	return n, err
}

// CPUModel returns what /proc/cpuinfo calls the first CPU: its "model name" on
// x86, and on arm64, where the kernel knows only numbers, the fields of MIDR_EL1
// ("implementer 0x41 variant 0x3 part 0xd0c revision 1"). Where neither is found
// the error is an [errors.ErrUnsupported].
func (fs FS) CPUModel() (string, error) {
	f, err := os.Open(fs.path("/proc/cpuinfo"))
	if err != nil {
		return "", err
	}
	defer f.Close()
	// The file is megabytes on large hosts; the first CPU is all we want.
	b, err := io.ReadAll(io.LimitReader(f, 16<<10))
	if err != nil {
		return "", err
	}
	model := parseCPUModel(b)
	if model == "" {
		return "", fmt.Errorf("CPU model: %w: %s names none", errors.ErrUnsupported, f.Name())
	}
	return model, nil
}
