package act

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Holder is the agent that has the lock.
type Holder struct {
	// PID is 0 if nobody has the lock, -1 if the process cannot be told, and otherwise as it
	// is where the agent runs: Elsewhere says that this is another PID namespace.
	PID       int
	Elsewhere bool
	Since     time.Time
	// Command is its command line, "" if that cannot be read.
	Command string
	// Restoring: it is no agent, but restores what one left.
	Restoring bool
}

// String names it for people.
func (h Holder) String() string {
	var b strings.Builder
	switch {
	case h.PID == 0:
		return "nobody"
	case h.PID < 0:
		b.WriteString("a process that cannot be told")
	default:
		fmt.Fprintf(&b, "process %d", h.PID)
	}
	switch {
	case h.Elsewhere:
		b.WriteString(" of another PID namespace (a container?)")
	case h.Command != "":
		fmt.Fprintf(&b, " (%s)", h.Command)
	}
	if h.Restoring {
		b.WriteString(", which restores what an agent left")
	}
	if !h.Since.IsZero() {
		fmt.Fprintf(&b, ", since %s", h.Since.Format(time.RFC3339))
	}
	return b.String()
}

// lockRole is what a process has the lock for.
type lockRole string

const (
	asAgent    lockRole = "agent"
	asRestorer lockRole = "restore"
)

const (
	lockFile = "lock"
	// lockGlance is for how long somebody who only looks may have the lock (readHolder).
	lockGlance = 200 * time.Millisecond
	// lockRestore is how long one waits for a guardian that is restoring.
	lockRestore = 5 * time.Second
)

// takeLock takes the flock(2) of the file lock in dir, and writes into it who has it:
//
//	agent 4711 pid:[4026531836] 2026-01-02T15:04:05.999999999Z
//
// What stands there while nobody has the flock is of no account. told is that it could not
// be written.
func takeLock(dir string, role lockRole) (f *os.File, told []string, err error) {
	name := filepath.Join(dir, lockFile)
	f, err = openLock(dir, role)
	if err != nil {
		return nil, nil, stateError(dir, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		err := flock(f, syscall.LOCK_EX)
		if err == nil {
			break
		}
		if err != syscall.EWOULDBLOCK {
			return nil, nil, &fs.PathError{Op: "flock", Path: name, Err: err}
		}
		h := holderIn(f)
		if waited := time.Since(start); waited < lockGlance || h.Restoring && waited < lockRestore {
			continue
		}
		return nil, nil, &heldError{holder: h, dir: dir}
	}
	if err := writeHolder(f, role); err != nil {
		told = append(told, fmt.Sprintf("who acts cannot be written down: %v", stateError(dir, err)))
	}
	return f, told, nil
}

// openLock opens the file, and makes it if need be. A restorer takes one that cannot be
// written, too.
func openLock(dir string, role lockRole) (*os.File, error) {
	name := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if role == asRestorer && (errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)) {
		if read, readErr := os.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW, 0); readErr == nil {
			return read, nil
		}
	}
	return f, err
}

// wasUsed is an fs.ErrNotExist of a directory that no agent has used: an agent makes the lock
// first, and keeps it. Where somebody removed that, there may be a journal.
func wasUsed(dir string) error {
	_, err := os.Lstat(filepath.Join(dir, lockFile))
	if errors.Is(err, fs.ErrNotExist) {
		_, err = os.Lstat(filepath.Join(dir, journalFile))
	}
	if err != nil {
		return stateError(dir, err)
	}
	return nil
}

// heldError is an ErrHeld.
type heldError struct {
	holder Holder
	dir    string
}

func (e *heldError) Error() string {
	return fmt.Sprintf("%v: %v, with state_dir %s: stop it first", ErrHeld, e.holder, e.dir)
}

func (e *heldError) Unwrap() error { return ErrHeld }

func flock(f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		if err != syscall.EINTR {
			return err
		}
	}
}

// lockSize is more than any content: the file is one block and never truncated, so that a
// full disk does not matter to who comes later.
const lockSize = 256

func writeHolder(f *os.File, role lockRole) error {
	text := fmt.Sprintf("%s %d %s %s\n", role, os.Getpid(), pidNamespace(), time.Now().UTC().Format(time.RFC3339Nano))
	b := make([]byte, lockSize)
	for i := range b {
		b[i] = ' '
	}
	b[lockSize-1] = '\n'
	copy(b, text)
	_, err := f.WriteAt(b, 0)
	return err
}

// pidNamespace names that of this process, "-" where /proc does not tell.
func pidNamespace() string {
	name, err := os.Readlink("/proc/self/ns/pid")
	if err != nil || strings.ContainsAny(name, " \n") {
		return "-"
	}
	return name
}

// holderIn reads who has the lock, from the file of somebody who has it not.
func holderIn(f *os.File) Holder {
	unknown := Holder{PID: -1}
	b := make([]byte, lockSize)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return unknown
	}
	line, _, _ := strings.Cut(string(b[:n]), "\n")
	fields := strings.Fields(line)
	if len(fields) != 4 {
		return unknown
	}
	pid, err := strconv.Atoi(fields[1])
	since, timeErr := time.Parse(time.RFC3339Nano, fields[3])
	if err != nil || pid <= 0 || timeErr != nil {
		return unknown
	}
	h := Holder{PID: pid, Since: since, Restoring: fields[0] == string(asRestorer), Elsewhere: fields[2] != pidNamespace()}
	if h.Elsewhere {
		return h
	}
	// It is written by whoever started it: quoted if it is not plain.
	if cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil {
		const most = 120
		command := string(bytes.TrimRight(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '}), " "))
		if len(command) > most {
			command = command[:most] + "…"
		}
		if quoted := strconv.Quote(command); quoted[1:len(quoted)-1] != command {
			command = quoted
		}
		h.Command = command
	}
	return h
}

// readHolder says who has the lock. It is for a moment that nobody can take it.
func readHolder(dir string) (Holder, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return Holder{}, nil
	}
	if err != nil {
		return Holder{}, stateError(dir, err)
	}
	defer f.Close()
	err = flock(f, syscall.LOCK_SH)
	if err == syscall.EWOULDBLOCK {
		return holderIn(f), nil
	}
	if err != nil {
		return Holder{}, &fs.PathError{Op: "flock", Path: f.Name(), Err: err}
	}
	return Holder{}, nil
}

// makeStateDir makes dir, if need be, for its owner alone.
func makeStateDir(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(dir), 0o755); err == nil {
			err = os.Mkdir(dir, 0o700)
		}
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case err != nil:
		return stateError(dir, err)
	}
	if err := syncDir(filepath.Dir(dir)); err != nil {
		return stateError(dir, err)
	}
	return nil
}

// checkStateDir refuses one in which others can write: a lease is what root writes into
// cgroups.
func checkStateDir(dir string) error {
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err != nil {
		return stateError(dir, &fs.PathError{Op: "stat", Path: dir, Err: err})
	}
	switch {
	case st.Mode&syscall.S_IFMT != syscall.S_IFDIR:
		return stateError(dir, &fs.PathError{Op: "stat", Path: dir, Err: syscall.ENOTDIR})
	case st.Mode&0o002 != 0:
		return fmt.Errorf("state_dir %s: %w: everybody may write there, leases could be forged: chmod o-w", dir, fs.ErrPermission)
	case st.Mode&0o020 != 0 && st.Gid != 0 && int(st.Gid) != os.Getegid():
		return fmt.Errorf("state_dir %s: %w: group %d may write there, leases could be forged: chmod g-w", dir, fs.ErrPermission, st.Gid)
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return &OwnerError{dir, st.Uid, st.Gid}
	}
	return nil
}

// OwnerError is that a state_dir belongs to somebody else than root and the caller, who could
// have that do what the caller may.
type OwnerError struct {
	Dir      string
	UID, GID uint32
}

func (e *OwnerError) Error() string {
	return fmt.Sprintf("state_dir %s: %v: it belongs to user %d, who could forge leases", e.Dir, fs.ErrPermission, e.UID)
}

// Unwrap returns fs.ErrPermission.
func (*OwnerError) Unwrap() error { return fs.ErrPermission }

// stateError says what can be done about an error of the file system that dir is on.
func stateError(dir string, err error) error {
	hint := ""
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		hint = "without room for leases nothing is changed: free some, or set another state_dir"
	case errors.Is(err, syscall.EROFS):
		hint = "without leases nothing is changed: set state_dir to a directory that can be written"
	case errors.Is(err, syscall.ENOTDIR):
		hint = "set state_dir to a directory"
	}
	if hint == "" {
		return fmt.Errorf("state_dir %s: %w", dir, err)
	}
	return fmt.Errorf("state_dir %s: %w: %s", dir, err, hint)
}
