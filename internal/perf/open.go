package perf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Backend is a way to count.
type Backend string

// The backends.
const (
	Descriptors Backend = "cgroup" // one descriptor for each cgroup, CPU and event
	BPF         Backend = "bpf"    // one for each CPU and event, shared out by a program
)

// Backends are all of them.
var Backends = []Backend{Descriptors, BPF}

// Open starts a Counter. The error wraps [errors.ErrUnsupported] if this
// kernel cannot count in this way, EPERM or EACCES if this user may not.
func (f FS) Open(p *Plan, b Backend) (Counter, error) {
	switch b {
	case Descriptors:
		return f.openDescriptors(p)
	case BPF:
		return f.openBPF(p)
	}
	return nil, fmt.Errorf("backend %q: %w", b, errors.ErrUnsupported)
}

// fileReserve is how many files are left to the rest of the process.
const fileReserve = 64

// A LimitError says that counting needs more open files than this process may
// have, less a reserve for the rest of it.
type LimitError struct {
	Need, Open, Limit int // files that are needed more, are open, and may be (RLIMIT_NOFILE)
	// Host: it is the whole host's table of files that is full (fs.file-max),
	// which Open and Limit are of.
	Host bool
}

func (e *LimitError) Error() string {
	if e.Host {
		return fmt.Sprintf("%d more files are needed, %d of at most %d are open on this host: raise fs.file-max", e.Need, e.Open, e.Limit)
	}
	return fmt.Sprintf("%d more files are needed, %d of at most %d are open and %d are kept for others: raise RLIMIT_NOFILE (LimitNOFILE= of the systemd unit), name fewer events, or use perf_backend: bpf", e.Need, e.Open, e.Limit, fileReserve)
}

// ErrLost is in errors of [Cgroup.Read] that will not pass: what the cgroup did
// on a CPU was not counted, or is lost. Closed and added again, it is counted anew.
var ErrLost = errors.New("its count is lost")

// openEvent is perf_event_open(2): attr's Size and PERF_FLAG_FD_CLOEXEC are
// added, everything else is the caller's. pid −1 and a cpu is whatever runs
// there; group is the leader's descriptor, or −1 for an event that leads.
//
// The error is an [*OpenError], or a [*LimitError] instead of EMFILE and ENFILE.
// EINVAL is what the kernel says both of an attr that it refuses and of an
// event that its group has no counter for (validate_group,
// arch/x86/events/core.c, drivers/perf/arm_pmu.c): whoever opens a group tells
// them apart by opening the event alone.
func openEvent(attr unix.PerfEventAttr, pid, cpu, group, flags int) (int, error) {
	attr.Size = uint32(unsafe.Sizeof(attr))
	for {
		fd, err := unix.PerfEventOpen(&attr, pid, cpu, group, flags|unix.PERF_FLAG_FD_CLOEXEC)
		if err == nil {
			return fd, nil
		}
		if err != unix.EINTR { // waiting for an exec of pid to end
			return -1, explain(err, group >= 0)
		}
	}
}

// An OpenError is a refusal of perf_event_open(2) and says what it means and
// what to do. It is its Errno, and [errors.ErrUnsupported] if no PMU here counts
// the event, or not on this CPU; [fs.ErrPermission] for EACCES and EPERM.
type OpenError struct {
	Errno  unix.Errno
	Reason string
}

func (e *OpenError) Error() string { return "perf_event_open: " + e.Errno.Error() + ": " + e.Reason }

// Is takes the place of Unwrap because ENOENT, of an event that no PMU knows, is
// no [fs.ErrNotExist].
func (e *OpenError) Is(target error) bool {
	switch target {
	case errors.ErrUnsupported:
		switch e.Errno {
		case unix.ENOENT, unix.ENODEV, unix.EOPNOTSUPP, unix.ENOSYS:
			return true
		}
	case fs.ErrPermission:
		return e.Errno == unix.EACCES || e.Errno == unix.EPERM
	}
	return target == e.Errno
}

// unsupported makes an error wrap [errors.ErrUnsupported] without saying more.
type unsupported struct{}

func (unsupported) Error() string        { return "" }
func (unsupported) Is(target error) bool { return target == errors.ErrUnsupported }

// explain says what an errno of perf_event_open means and what to do.
func explain(err error, inGroup bool) error {
	errno, ok := err.(unix.Errno) //nolint:errorlint // as the system call returns it
	if !ok {
		return err
	}
	var why string
	switch errno {
	case unix.EACCES, unix.EPERM:
		// perf_allow_cpu, perf_allow_kernel (include/linux/perf_event.h).
		why = paranoid() + ": give this user CAP_PERFMON (before Linux 5.8 CAP_SYS_ADMIN), or set kernel.perf_event_paranoid to 0; in a container the seccomp profile must allow perf_event_open"
	case unix.EMFILE:
		limit := fileLimit()
		return &LimitError{Need: 1, Open: limit, Limit: limit}
	case unix.ENFILE:
		open, limit := fileTable()
		return &LimitError{Need: 1, Open: open, Limit: limit, Host: true}
	case unix.ENOENT:
		why = "no PMU of this host counts it"
	case unix.ENODEV:
		why = "no PMU counts it on this CPU, or the CPU is offline"
	case unix.EOPNOTSUPP:
		why = "the PMU cannot count it in this way"
	case unix.ENOSYS:
		why = "the kernel was built without perf events (CONFIG_PERF_EVENTS), or a seccomp profile hides them"
	case unix.EINVAL:
		why = "the kernel refuses its encoding"
		if inGroup {
			why = "the PMU has no counter for it beside the others of the group"
		}
	case unix.EBUSY:
		why = "somebody holds the PMU for himself"
	case unix.EBADF:
		why = "not the directory of a cgroup"
	default:
		return os.NewSyscallError("perf_event_open", err)
	}
	return &OpenError{Errno: errno, Reason: why}
}

// paranoid tells kernel.perf_event_paranoid, which no namespace changes.
func paranoid() string {
	const name = "kernel.perf_event_paranoid"
	data, err := os.ReadFile("/proc/sys/kernel/perf_event_paranoid")
	if err != nil {
		return name + " is unknown: " + err.Error()
	}
	return name + " is " + strings.TrimSpace(string(data))
}

// fileLimit returns how many files this process may open; Go raises the soft
// limit to the hard one at start.
func fileLimit() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > 1<<30 {
		return 1 << 30 // fs.nr_open is the bound then
	}
	return int(limit.Cur)
}

// fileTable reads file-nr: allocated, 0, fs.file-max. What it does not tell is 0.
func fileTable() (open, limit int) {
	data, err := os.ReadFile("/proc/sys/fs/file-nr")
	if err != nil {
		return 0, 0
	}
	if fields := strings.Fields(string(data)); len(fields) == 3 {
		open, _ = strconv.Atoi(fields[0])
		limit, _ = strconv.Atoi(fields[2])
	}
	return open, limit
}

// The format of reads (struct read_format, include/uapi/linux/perf_event.h). A
// leader's gives its group: nr, time_enabled, time_running and nr values, its
// own first. A sibling's gives itself: value, time_enabled, time_running; with
// PERF_FORMAT_GROUP it would give its leader's, even after its CPU went offline
// and the group was dissolved (perf_read_group, perf_group_detach).
const (
	formatTimes = unix.PERF_FORMAT_TOTAL_TIME_ENABLED | unix.PERF_FORMAT_TOTAL_TIME_RUNNING
	formatGroup = unix.PERF_FORMAT_GROUP | formatTimes
)

// indexOn returns which of the encodings is for a CPU, −1 if the event is not
// counted there.
func (e *Event) indexOn(cpu int) int {
	return slices.IndexFunc(e.Encodings, func(enc Encoding) bool {
		return enc.CPUs == nil || slices.Contains(enc.CPUs, cpu)
	})
}

// openGroup opens events as one group; bits are added to the leader's. fds has
// room for one descriptor for each event and gets −1 for one that the CPU does
// not count; the first that it does count leads. An error is about
// events[failed], and then nothing is open; also a CPU that is not in Known.
func openGroup(fds []int32, events []*Event, bits uint64, pid, cpu, flags int) (failed int, err error) {
	leader := -1
	for i, e := range events {
		fds[i] = -1
		encoding := e.indexOn(cpu)
		if encoding < 0 {
			if e.Known != nil && !slices.Contains(e.Known, cpu) {
				_ = closeGroup(fds[:i])
				return i, fmt.Errorf("CPU %d came online after it was found out how CPUs count %s: restart the agent", cpu, e.Name)
			}
			continue
		}
		attr := e.Encodings[encoding].Attr
		attr.Read_format = formatTimes
		if leader < 0 {
			attr.Read_format = formatGroup
			attr.Bits |= bits
		}
		fd, err := openEvent(attr, pid, cpu, leader, flags)
		if err != nil {
			_ = closeGroup(fds[:i])
			return i, err
		}
		fds[i] = int32(fd)
		if leader < 0 {
			leader = fd
		}
	}
	return -1, nil
}

// enableGroup starts a group that was opened with PerfBitDisabled, so that all
// its events count from the same time on.
func enableGroup(leader int) error {
	return os.NewSyscallError("ioctl PERF_EVENT_IOC_ENABLE", unix.IoctlSetInt(leader, unix.PERF_EVENT_IOC_ENABLE, 0))
}

// closeGroup closes all descriptors that are open, and sets them to −1. The
// siblings go before their leader: without it they would count on alone.
func closeGroup(fds []int32) error {
	var failed error
	for i := len(fds) - 1; i >= 0; i-- {
		if fds[i] < 0 {
			continue
		}
		if err := unix.Close(int(fds[i])); err != nil && failed == nil {
			failed = os.NewSyscallError("close", err)
		}
		fds[i] = -1
	}
	return failed
}
