package perf

import (
	"errors"
	"fmt"
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

// A LimitError says that counting needs more open files than this process may
// have.
type LimitError struct {
	Need, Open, Limit int // files that are needed more, are open, and may be (RLIMIT_NOFILE)
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("%d more files are needed, %d of at most %d are open: raise RLIMIT_NOFILE (LimitNOFILE= of the systemd unit), name fewer events, or use perf_backend: bpf", e.Need, e.Open, e.Limit)
}
