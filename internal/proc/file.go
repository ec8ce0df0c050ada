package proc

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// file is a file of the kernel that is read again and again. It is opened when
// it is first read, and anew after an error. Descriptors are bare: [os.File]
// would register pressure files with the runtime's poller, where they wake it.
type file struct {
	path string
	fd   int
	// whole: the kernel makes the content in one piece (single_open of
	// fs/seq_file.c, attributes of sysfs), so that a short read is the last one.
	whole bool
	// must: every kernel has this file. If it is not there, proc or sysfs is
	// not mounted where we look.
	must  bool
	state fileState
}

type fileState uint8

const (
	closed fileState = iota
	opened
	absent // not supported by this kernel; not tried again
)

// open opens the file unless it is open; ok is false if it is absent.
func (f *file) open() (ok bool, err error) {
	switch f.state {
	case opened:
		return true, nil
	case absent:
		return false, nil
	}
	for {
		f.fd, err = unix.Open(f.path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return false, f.failed("open", err)
	}
	f.state = opened
	return true, nil
}

// read reads the content into *buf from its start, growing it as needed, and
// returns it: empty if the file is absent.
func (f *file) read(buf *[]byte) ([]byte, error) {
	if ok, err := f.open(); !ok {
		return nil, err
	}
	for n := 0; ; {
		if n == len(*buf) {
			grow(buf)
		}
		m, err := pread(f.fd, (*buf)[n:], int64(n))
		if err != nil {
			return nil, f.failed("read", err)
		}
		n += m
		if m == 0 || f.whole && n < len(*buf) {
			return (*buf)[:n], nil
		}
	}
}

// failed closes the file and says what the error means: nil if the kernel does
// not have this file.
func (f *file) failed(op string, err error) error {
	f.close()
	// EOPNOTSUPP: pressure files when booted with psi=0.
	if !f.must && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP)) {
		f.state = absent
		return nil
	}
	return &os.PathError{Op: op, Path: f.path, Err: err}
}

func (f *file) close() {
	if f.state == opened {
		_ = unix.Close(f.fd) // read only: nothing to lose
	}
	f.state = closed
}

func pread(fd int, b []byte, offset int64) (int, error) {
	for {
		n, err := unix.Pread(fd, b, offset)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// grow doubles a buffer, keeping its content.
func grow(buf *[]byte) {
	*buf = append(*buf, make([]byte, max(len(*buf), 4096))...)
}
