package resctrl

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// openAt opens a file below dir, which is a descriptor, again if a signal interrupts.
func openAt(dir int, path string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, path, flags|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func openDir(dir int, path string) (int, error) {
	return openAt(dir, path, unix.O_RDONLY|unix.O_DIRECTORY)
}

func pread(fd int, b []byte, offset int64) (int, error) {
	for {
		n, err := unix.Pread(fd, b, offset)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// writeOnce is one write(2): what the kernel takes as a whole, or not.
func writeOnce(fd int, b []byte) error {
	for {
		n, err := unix.Write(fd, b)
		switch {
		case err == unix.EINTR:
			continue
		case err == nil && n != len(b):
			return fmt.Errorf("only %d of %d bytes were taken", n, len(b))
		}
		return err
	}
}

// operation is the name that an [Error] has for one of the kernel's.
type operation string

const (
	opMkdir  operation = "mkdir"
	opRmdir  operation = "rmdir"
	opRename operation = "rename"
	opOpen   operation = "open"
	opRead   operation = "read"
	opWrite  operation = "write"
	opClaim  operation = "flock"
)

// meaning joins to an errno what it stands for; status is what the kernel said of it.
func meaning(op operation, err error, status string) error {
	join := func(sentinel error) error { return fmt.Errorf("%w (%w)", sentinel, err) }
	switch errno, _ := errors.AsType[unix.Errno](err); errno {
	case unix.ENODEV, // a file that was open when its directory was removed (kernfs)
		unix.ENOENT,
		unix.EBADF: // Tree.Close made it so
		return join(ErrGone)
	case unix.ENOSPC:
		switch {
		case op == opMkdir && strings.Contains(status, "CLOSID"):
			return join(ErrNoCLOSID)
		case op == opMkdir && strings.Contains(status, "RMID"):
			return join(ErrNoRMID)
		}
	case unix.EBUSY:
		if op == opMkdir {
			return join(ErrLimbo) // alloc_rmid; nothing else in mkdir says so
		}
	}
	return err
}

// statusMax is more than the kernel keeps (last_cmd_status_buf is 512 bytes).
const statusMax = 1024

// readStatus returns info/last_cmd_status, "" if that is "ok", or if the kernel has
// none (before 4.15).
func (t *Tree) readStatus() string {
	var b [statusMax]byte
	n, err := pread(t.status, b[:], 0)
	if err != nil {
		return ""
	}
	s := string(b[:n])
	if s == "ok\n" {
		return ""
	}
	return s
}

// oneLine makes a status fit for a message.
func oneLine(status string) string {
	return strings.ReplaceAll(strings.TrimSpace(status), "\n", "; ")
}

// refused makes an Error of an operation that does not touch last_cmd_status, or that
// did not get far enough to.
func refused(op operation, path string, err error) error {
	return &Error{Op: string(op), Path: path, Err: meaning(op, err, "")}
}

// refusedSaying makes an Error with what the kernel said, which is read now. before is
// what stood there already where the operation appends to it.
func (t *Tree) refusedSaying(op operation, path, value, before string, err error) *Error {
	e := &Error{Op: string(op), Path: path, Value: value}
	switch errno, _ := errors.AsType[unix.Errno](err); errno {
	case unix.ENODEV, unix.ENOENT, unix.EROFS, unix.E2BIG, unix.EBADF:
		// The command was never looked at, the text is of another.
	default:
		e.Status = oneLine(strings.TrimPrefix(t.readStatus(), before))
	}
	e.Err = meaning(op, err, e.Status)
	return e
}

// checkName refuses what cannot be a group before the kernel is asked: it takes some
// of these (a rename, newlines) and then cannot be told of them.
func checkName(n Name) error {
	if n.Control != "" {
		if err := checkDirectory(n.Control); err != nil {
			return err
		}
	}
	if n.Monitor != "" {
		return checkDirectory(n.Monitor)
	}
	return nil
}

func checkDirectory(name string) error {
	var why string
	switch {
	case name == "." || name == ".." || name == "info" || name == "mon_data" || name == "mon_groups":
		why = "that is another directory"
	case strings.ContainsAny(name, "/\n\x00"):
		why = `it must not contain "/", newline or NUL`
	case len(name) > unix.NAME_MAX:
		why = fmt.Sprintf("it is longer than %d bytes", unix.NAME_MAX)
	default:
		return nil
	}
	return fmt.Errorf("resctrl: %w: %.300q is no name for a group: %s", fs.ErrInvalid, name, why)
}

// isErrno says whether err is, or wraps, one of these.
func isErrno(err error, list ...unix.Errno) bool {
	errno, ok := errors.AsType[unix.Errno](err)
	return ok && slices.Contains(list, errno)
}
