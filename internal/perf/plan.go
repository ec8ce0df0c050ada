package perf

import "errors"

// Plan resolves requests on this host and forms groups.
func (f FS) Plan([]Request) (*Plan, error) { return nil, errors.ErrUnsupported }
