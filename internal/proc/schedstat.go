package proc

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Schedstat reads /proc/TID/schedstat of many threads without allocating.
type Schedstat struct {
	proc int // directory
	path []byte
	buf  [96]byte // three numbers of at most 20 digits
}

// OpenSchedstat opens /proc for reading the schedstat of threads. A kernel
// without this file, or one that does not count, is an [errors.ErrUnsupported].
func (fs FS) OpenSchedstat() (*Schedstat, error) {
	own := fs.path("/proc/self/schedstat")
	b, err := os.ReadFile(own)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			if _, err := os.Stat(fs.path("/proc/self")); err != nil {
				return nil, err // proc is not mounted there
			}
			err = fmt.Errorf("run queue wait: %w by this kernel (%v)", errors.ErrUnsupported, err)
		}
		return nil, err
	}
	// "0 0 0" is what kernels before 5.14 print when they have the file but do
	// not count (sched_info_on); we ourselves have certainly run.
	if n, _, ok := cutUint(b); ok && n == 0 {
		return nil, fmt.Errorf("run queue wait: %w: %s shows that this kernel does not count it (boot with delayacct)", errors.ErrUnsupported, own)
	}
	fd, err := unix.Open(fs.path("/proc"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: fs.path("/proc"), Err: err}
	}
	return &Schedstat{proc: fd}, nil
}

// Close closes /proc.
func (s *Schedstat) Close() error {
	fd := s.proc
	s.proc = -1
	return unix.Close(fd)
}

// RunDelay returns how long a thread, since it was started, was ready to run
// and waited for a CPU, in ns. The error is ErrGone itself for a thread that
// does not exist any more: on a busy host that is common.
func (s *Schedstat) RunDelay(tid int) (uint64, error) {
	s.path = strconv.AppendInt(s.path[:0], int64(tid), 10)
	s.path = append(s.path, "/schedstat\x00"...)
	fd, errno := openat(s.proc, s.path)
	if errno != 0 {
		return 0, s.failed("open", errno)
	}
	n, err := pread(fd, s.buf[:], 0)
	_ = unix.Close(fd) // read only: nothing to lose
	if err != nil {
		return 0, s.failed("read", err)
	}
	wait, err := parseRunDelay(s.buf[:n])
	if err != nil {
		return 0, fmt.Errorf("%s: %w", s.name(), err)
	}
	return wait, nil
}

func (s *Schedstat) failed(op string, err error) error {
	if err == unix.ENOENT || err == unix.ESRCH {
		return ErrGone
	}
	return &os.PathError{Op: op, Path: s.name(), Err: err}
}

func (s *Schedstat) name() string { return "/proc/" + string(s.path[:len(s.path)-1]) }

// openat opens a path that ends in a zero byte. unix.Openat would copy it to
// the heap for every thread of every tick.
func openat(dir int, path []byte) (int, unix.Errno) {
	for {
		fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(unsafe.SliceData(path))),
			unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
		if errno != unix.EINTR {
			return int(fd), errno
		}
	}
}

// parseRunDelay parses the second of the three fields of /proc/TID/schedstat
// (Documentation/scheduler/sched-stats.rst): ns on a CPU, ns waiting for one,
// times it was put on one.
//
//	1830212 42113 7
func parseRunDelay(b []byte) (uint64, error) {
	line, _, ok := cutLine(b)
	if !ok {
		return 0, malformed(b)
	}
	_, rest, ok := cutUint(line)
	if !ok {
		return 0, malformed(line)
	}
	wait, rest, ok := cutUint(rest)
	if !ok || len(rest) == 0 || rest[0] != ' ' {
		return 0, malformed(line)
	}
	return wait, nil
}
