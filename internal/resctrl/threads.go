package resctrl

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Threads appends the thread ids in a group to buf: in a control group those of its
// monitoring groups, too, as the kernel lists them, unsorted. It looks at every thread of
// the host for it. Where nothing can be allocated it lists none in the default group
// (is_closid_match).
func (t *Tree) Threads(n Name, buf []int) ([]int, error) {
	if err := checkName(n); err != nil {
		return buf, err
	}
	path := below(n, "tasks")
	fd, err := openAt(t.root, path, unix.O_RDONLY)
	if err != nil {
		return buf, refused(opOpen, path, err)
	}
	defer unix.Close(fd) //nolint:errcheck // read only
	start := len(buf)
	var list idList
	for {
		// The kernel makes the list as a whole at the first read of a descriptor
		// (rdtgroup_tasks_show), further ones in sequence return the rest of it.
		k, err := unix.Read(fd, t.buf)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return buf[:start], refused(opRead, path, err)
		case k == 0:
			if buf, err = list.end(buf); err != nil {
				return buf[:start], fmt.Errorf("resctrl: %s: %w", path, err)
			}
			return buf, nil
		}
		if buf, err = list.parse(buf, t.buf[:k]); err != nil {
			return buf[:start], fmt.Errorf("resctrl: %s: %w", path, err)
		}
	}
}

// idList parses a list of thread ids, one a line, that comes in pieces.
type idList struct {
	id     int
	digits int
}

var errIDList = errors.New("not a list of thread ids")

func (l *idList) parse(ids []int, b []byte) ([]int, error) {
	for _, c := range b {
		switch {
		case '0' <= c && c <= '9' && l.digits < 10:
			l.id = l.id*10 + int(c-'0')
			l.digits++
		case c == '\n' && l.digits > 0:
			ids = append(ids, l.id)
			*l = idList{}
		default:
			return ids, fmt.Errorf("%w: %q in it", errIDList, c)
		}
	}
	return ids, nil
}

func (l *idList) end(ids []int) ([]int, error) {
	if l.digits > 0 {
		return ids, fmt.Errorf("%w: it ends within a line", errIDList)
	}
	return ids, nil
}

// maxWrite is the most that resctrl takes at once: atomic_write_len is a page, which
// is never smaller.
const maxWrite = 4096

// maxProblems is how many reasons an error of Add tells.
const maxProblems = 3

// Add moves threads into a group, in as few writes as the kernel takes (several ids
// a write since 6.7). A thread that has ended is skipped. A thread of another user
// is written as euid 0, on a thread of its own, if this process may (CAP_SETUID).
// Into a monitoring group only threads of its control group can be moved: Add moves
// them there before. It returns how many were moved; the error joins the reasons of
// the others, at most a few; it is [ErrGone] alone once the group is gone.
func (t *Tree) Add(n Name, tids []int) (moved int, err error) {
	if err := checkName(n); err != nil {
		return 0, err
	}
	if len(tids) == 0 {
		return 0, nil
	}
	path := below(n, "tasks")
	fd, err := openAt(t.root, path, unix.O_WRONLY)
	if err != nil {
		return 0, refused(opOpen, path, err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing is left to be written
	m := mover{
		tree: t, path: path,
		write: func(b []byte) error {
			if t.euid0 != nil {
				return t.euid0.write(fd, b)
			}
			return writeOnce(fd, b)
		},
		status: t.readStatus,
		inside: func(tids []int) bool { return t.inside(n, tids) },
		become: t.startEUID0,
	}
	if n.Monitor != "" {
		m.control = func(tids []int) error {
			_, err := t.Add(Name{Control: n.Control}, tids)
			return err
		}
	}
	if t.euid0Err != nil && !errors.Is(t.euid0Err, errNoEUID0) {
		t.euid0Err = nil // it may be another time
	}
	if moved, err = m.move(tids); err != nil {
		t.places.at = nil
	} else {
		t.places.moved(n, tids)
	}
	return moved, err
}

// inside says whether the last of these threads that still runs is in a group, as far as
// the kernel tells.
func (t *Tree) inside(n Name, tids []int) bool {
	for _, tid := range slices.Backward(tids) {
		at, err := t.Locate(tid)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return err != nil || at == n
	}
	return true
}

// mover writes thread ids to one tasks file, and does what can be done about those that
// the kernel refuses.
type mover struct {
	tree    *Tree
	path    string
	write   func(b []byte) error   // one write
	status  func() string          // what the kernel said of it, or of another program's
	inside  func(tids []int) bool  // the last that runs was moved
	become  func() bool            // from now on write is that of euid 0
	control func(tids []int) error // moves to the control group; nil if that is where to
}

// enoughDoubts is how many writes of several ids in a row must be EINVAL, without
// a word of which, to be sure that the kernel takes only one; a single one can be
// because another program's command cleared what the kernel said.
const enoughDoubts = 2

// maxDetours is how often one Add moves threads to the control group first: once for
// all of them, and again for what somebody moves away meanwhile.
const maxDetours = 2

func (m *mover) move(tids []int) (moved int, err error) {
	t := m.tree
	var problems problemList
	alone := 0       // ids before it are written one by one
	viaControl := -1 // the last that was moved to the control group, with all behind it
	detours := 0
	for i := 0; i < len(tids); {
		if tids[i] <= 0 { // 0 would be the writer itself
			problems.add(fmt.Errorf("resctrl: %w: thread id %d", fs.ErrInvalid, tids[i]))
			i++
			continue
		}
		chunk, k := appendIDs(t.buf[:0], tids[i:], i < alone || t.commaDoubts >= enoughDoubts)
		err := m.write(chunk)
		if err == nil {
			if k > 1 {
				t.commaDoubts = 0
			}
			moved += k
			i += k
			continue
		}
		if err == unix.ENODEV || err == unix.ENOENT {
			return moved, refused(opWrite, m.path, err)
		}
		said := m.status()
		if k > 1 {
			// Those before the one that failed were moved (rdtgroup_tasks_write), if the
			// text is of this write: another program's may have failed since. So
			// that one is written again, alone.
			at := failedAt(said, tids[i:i+k])
			switch {
			case at >= 0 && m.inside(tids[i:i+at]):
				moved += at
				i += at
				alone = i + 1
			case at < 0 && err == unix.EINVAL:
				t.commaDoubts++
				fallthrough
			default:
				alone = i + k
			}
			continue
		}
		switch {
		case err == unix.ESRCH:
			i++
			continue
		case err == unix.EPERM && m.become():
			continue
		case err == unix.EINVAL && m.control != nil && viaControl < i && detours < maxDetours:
			// In another control group, and so may those behind it be. Why one of them
			// cannot be moved is told when it is refused here again.
			viaControl = i
			detours++
			if err := m.control(tids[i:]); errors.Is(err, ErrGone) {
				return moved, err
			}
			continue
		}
		e := &Error{Op: string(opWrite), Path: m.path, Value: strconv.Itoa(tids[i]), Err: err, Status: oneLine(said)}
		if err == unix.EPERM {
			if t.euid0Err != nil {
				e.Err = fmt.Errorf("%w: %w", err, t.euid0Err)
			}
			// The next one is likely of the same user: don't have all that follow
			// written again and again.
			alone = max(alone, i+2)
		}
		problems.add(e)
		i++
	}
	return moved, problems.join()
}

// appendIDs appends as many ids as go into one write, and returns how many that are.
func appendIDs(b []byte, tids []int, one bool) ([]byte, int) {
	k := 0
	for _, tid := range tids {
		if tid <= 0 || k > 0 && (one || len(b)+len(",2147483647\n") > maxWrite) {
			break
		}
		if k > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(tid), 10)
		k++
	}
	return append(b, '\n'), k
}

// failedAt returns the index of the thread that last_cmd_status names, -1 if it names
// none of these:
//
//	No task 4711
//	Error while processing task 4711
func failedAt(status string, tids []int) int {
	const text = "Error while processing task "
	i := strings.LastIndex(status, text)
	if i < 0 {
		return -1
	}
	id, _, _ := strings.Cut(status[i+len(text):], "\n")
	tid, err := strconv.Atoi(strings.TrimSpace(id))
	if err != nil {
		return -1
	}
	return slices.Index(tids, tid)
}

// startEUID0 starts the writer that may move other users' threads, if there is none and
// it is allowed. It says whether it did.
func (t *Tree) startEUID0() bool {
	if t.euid0 != nil || t.euid0Err != nil {
		return false
	}
	t.euid0, t.euid0Err = startEUID0()
	return t.euid0Err == nil
}

// problemList keeps the first errors and how many there were.
type problemList struct {
	list []error
	n    int
}

func (p *problemList) add(err error) {
	if p.n++; p.n <= maxProblems {
		p.list = append(p.list, err)
	}
}

func (p *problemList) join() error {
	if p.n > maxProblems {
		p.list = append(p.list, fmt.Errorf("resctrl: and %d threads more", p.n-maxProblems))
	}
	return errors.Join(p.list...)
}

// Locate returns the group that a thread is in (/proc/TID/cpu_resctrl_groups, since
// 5.6). fs.ErrNotExist if it has ended; fs.ErrPermission if /proc hides it (hidepid);
// errors.ErrUnsupported where the kernel does not tell; [ErrNotMounted].
func (t *Tree) Locate(tid int) (Name, error) {
	// The ids are those of our own pid namespace, as the kernel takes them in tasks.
	path := "/proc/" + strconv.Itoa(tid) + "/cpu_resctrl_groups"
	fd, err := openAt(unix.AT_FDCWD, path, unix.O_RDONLY)
	if err == unix.ENOENT && lives(tid) {
		if _, statErr := os.Stat("/proc/self/cpu_resctrl_groups"); errors.Is(statErr, fs.ErrNotExist) {
			return Name{}, fmt.Errorf("resctrl: the group of thread %d: %w: the kernel has no /proc/PID/cpu_resctrl_groups", tid, errors.ErrUnsupported)
		}
		err = unix.EPERM
	}
	if err == unix.EPERM || err == unix.EACCES {
		err = fmt.Errorf("%w: %w", err, errHidden)
	}
	if err != nil {
		return Name{}, &Error{Op: string(opOpen), Path: path, Err: err}
	}
	defer unix.Close(fd) //nolint:errcheck // read only
	n, err := pread(fd, t.buf, 0)
	switch {
	case err == unix.ESRCH || err == nil && n == 0:
		return Name{}, &Error{Op: string(opRead), Path: path, Err: fmt.Errorf("%w (the thread has ended)", fs.ErrNotExist)}
	case err != nil:
		return Name{}, &Error{Op: string(opRead), Path: path, Err: err}
	}
	if text := t.buf[:n]; !bytes.Equal(text, t.located) {
		name, err := parseLocation(text)
		if err != nil {
			return Name{}, fmt.Errorf("resctrl: %s: %w", path, err)
		}
		t.located, t.locatedAs = append(t.located[:0], text...), name
	}
	return t.locatedAs, nil
}

// errHidden is why the group of a thread that runs cannot be asked for: with hidepid=1
// opening is EPERM, with hidepid=2 ENOENT (proc_pid_permission).
var errHidden = errors.New("/proc hides the processes of other users (hidepid, ProtectProc): " +
	"give the agent CAP_SYS_PTRACE or the group of the mount option gid=, or mount /proc without hidepid")

// lives says whether there is such a thread, which kill(2) tells of any.
func lives(tid int) bool {
	err := unix.Kill(tid, 0)
	return err == nil || err == unix.EPERM
}

// parseLocation parses cpu_resctrl_groups (proc_resctrl_show):
//
//	res:gold
//	mon:x
//
// The default group is "/"; without a monitoring group there is nothing after "mon:".
// Nothing after "res:" is a kernel on which resctrl is not mounted.
func parseLocation(b []byte) (Name, error) {
	rest, ok := strings.CutPrefix(string(b), "res:")
	control, monitor, ok2 := strings.Cut(rest, "\nmon:")
	monitor, ok3 := strings.CutSuffix(monitor, "\n")
	switch {
	case !ok || !ok2 || !ok3:
		return Name{}, fmt.Errorf("%q does not tell a group", b)
	case control == "" && monitor == "":
		return Name{}, ErrNotMounted
	case control == "":
		return Name{}, fmt.Errorf("%q does not tell a control group", b)
	}
	return Name{Control: strings.TrimPrefix(control, "/"), Monitor: monitor}, nil
}
