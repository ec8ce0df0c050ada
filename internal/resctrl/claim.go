package resctrl

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Claim makes this process the one that makes, fills and removes groups named
// [Prefix], until [Tree.Close] or its end, however it ends. Errors: [ErrInUse] if
// another has claimed it, which is named where /proc/locks tells; [ErrGone]. A second
// Claim of the same tree is no error. Who only reads needs none.
//
// It is a flock(2) of the directory info, not of the root: by the kernel's
// documentation ("Locking between applications") every tool takes that of the root for
// each of its changes, and would wait for ever. As with that one, whoever may read
// resctrl can take it. There is one info a host, whatever the mount namespace or bind
// mount through which it is seen; after umount -l the claim lasts, and so does the
// kernel's refusal to mount resctrl anew, until Close.
func (t *Tree) Claim() error {
	const info = "info"
	if t.claim >= 0 {
		return nil
	}
	fd, err := openDir(t.root, info)
	if err != nil {
		return refused(opOpen, info, err)
	}
	for {
		err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err != unix.EINTR {
			break
		}
	}
	if err == nil {
		t.claim = fd
		return nil
	}
	if err == unix.EWOULDBLOCK {
		err = fmt.Errorf("%w by %w (%w)", ErrInUse, holder(fd), err)
	}
	_ = unix.Close(fd) // read only
	return &Error{Op: string(opClaim), Path: info, Err: err}
}

// unclaim ends a Claim. A child that was forked and did not get to its exec has the
// descriptor, too: closing alone would not do.
func (t *Tree) unclaim() {
	if t.claim >= 0 {
		_ = unix.Flock(t.claim, unix.LOCK_UN) // closing does it as well
		_ = unix.Close(t.claim)
	}
	t.claim = -1
}

// holder names the process that has the lock of a file, for a message; ErrThisProcess if it
// is this one.
func holder(fd int) error {
	unknown := errors.New("a process that cannot be seen from here")
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return unknown
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return unknown
	}
	pid := parseLocks(locks, st.Dev, st.Ino)
	switch {
	case pid == 0:
		return unknown
	case pid == os.Getpid():
		return ErrThisProcess
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if errors.Is(err, os.ErrNotExist) {
		// It has ended; a child that it forked has the descriptor.
		return fmt.Errorf("a child of process %d", pid)
	}
	if err != nil {
		return fmt.Errorf("process %d", pid)
	}
	return fmt.Errorf("process %d (%.64q)", pid, bytes.TrimSpace(name))
}

// parseLocks returns who has the flock of a file in the text of /proc/locks, 0 if
// that has none: the kernel leaves out what other pid namespaces have. Those that
// wait for it have "->" behind the number (lock_get_status in fs/locks.c):
//
//	1: FLOCK  ADVISORY  WRITE 4242 00:1f:5 0 EOF
func parseLocks(text []byte, dev, ino uint64) (pid int) {
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(dev), unix.Minor(dev), ino)
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 6 || f[1] != "FLOCK" || f[5] != file {
			continue
		}
		if n, err := strconv.ParseUint(f[4], 10, 31); err == nil {
			return int(n)
		}
	}
	return 0
}
