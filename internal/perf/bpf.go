package perf

import "errors"

func (f FS) openBPF(*Plan) (Counter, error) { return nil, errors.ErrUnsupported }
