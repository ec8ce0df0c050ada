package perf

import "errors"

// ParseRequests checks the syntax of what a user asks for, without looking at
// the host.
func ParseRequests([]string) ([]Request, error) { return nil, errors.ErrUnsupported }

// Resolve encodes an event for this host. The error is an [*UnknownError] if
// there is no such event, and wraps [errors.ErrUnsupported] if this host does
// not have it.
func (f FS) Resolve(string) (*Event, error) { return nil, errors.ErrUnsupported }

// An UnknownError says that a name is no event.
type UnknownError struct {
	Name    string
	Reason  string
	Nearest string // the known name that is most like it, "" if none is
}

func (e *UnknownError) Error() string { return e.Name + ": " + e.Reason }
