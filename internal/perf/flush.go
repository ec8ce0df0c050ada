//go:build amd64 || arm64

package perf

import "unsafe"

// flush throws n bytes at p, a multiple of 64, out of all caches, so that the
// next use of each line is a miss of the last one, however large that is.
//
//go:noescape
func flush(p unsafe.Pointer, n uintptr)
