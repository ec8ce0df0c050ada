package resctrl

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// errNoEUID0 is why the threads of other users cannot be moved.
var errNoEUID0 = errors.New("moving a thread of another user takes an effective uid of 0, no capability is enough: " +
	"run the agent as root, or with CAP_SETUID (AmbientCapabilities=CAP_SETUID CAP_DAC_OVERRIDE in its unit)")

// euid0Writer writes with an effective uid of 0, which is what resctrl wants of who
// moves other users' threads (rdtgroup_task_write_permission looks at the
// writer's euid, not its capabilities).
//
// One OS thread has that uid, all others of the process keep theirs. It keeps it
// until it ends: going back would clear its effective capabilities
// (cap_emulate_setxuid in security/commoncap.c).
type euid0Writer struct {
	requests chan euid0Write
	results  chan error
}

type euid0Write struct {
	fd int
	b  []byte
}

// startEUID0 starts the thread; the error is errNoEUID0 if this process may not, and
// never will.
func startEUID0() (*euid0Writer, error) {
	w := &euid0Writer{requests: make(chan euid0Write), results: make(chan error)}
	go w.start()
	if err := <-w.results; err != nil {
		return nil, err
	}
	return w, nil
}

func (w *euid0Writer) start() {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		w.run()
		return
	}
	// The first thread's credentials are those that /proc/PID shows, and who owns it;
	// and it cannot end. As long as it is ours another goroutine is not on it.
	locked := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		close(locked)
		w.run()
	}()
	<-locked
	runtime.UnlockOSThread()
}

// run never unlocks its thread, so that it ends with the goroutine.
func (w *euid0Writer) run() {
	if err := becomeEUID0(); err != nil {
		w.results <- err
		return
	}
	w.results <- nil
	for r := range w.requests {
		w.results <- writeOnce(r.fd, r.b)
	}
}

// becomeEUID0 changes the effective uid of the calling OS thread alone, unlike
// unix.Setresuid, which the runtime does on all threads.
func becomeEUID0() error {
	dumpable, _, errno := unix.RawSyscall(unix.SYS_PRCTL, unix.PR_GET_DUMPABLE, 0, 0)
	if errno != 0 {
		dumpable = 0
	}
	const keep = ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, 0, keep); errno != 0 {
		return euid0Refused(errno)
	}
	// A change of credentials makes the whole process not dumpable (commit_creds), and
	// /proc/self root's: the other threads could not read their own files there.
	if dumpable == 1 {
		if _, _, errno := unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1, 0); errno != 0 {
			return fmt.Errorf("moving threads of other users: prctl(PR_SET_DUMPABLE): %w", errno)
		}
	}
	return nil
}

// euid0Refused is why setresuid(2) did not: EPERM is the capability; EINVAL a user
// namespace without a uid 0, EAGAIN the limit of processes before 5.1.
func euid0Refused(errno unix.Errno) error {
	if errno == unix.EPERM {
		return errNoEUID0
	}
	return fmt.Errorf("moving threads of other users: setresuid to an effective uid of 0: %w", errno)
}

func (w *euid0Writer) write(fd int, b []byte) error {
	w.requests <- euid0Write{fd, b}
	return <-w.results
}

func (w *euid0Writer) stop() { close(w.requests) }
