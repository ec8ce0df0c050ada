// Package measure reads what the tasks of a host use and how they suffer, and
// what the host itself does, into the vocabulary of package owca.
//
// The leaves (cgroup, proc, perf) feed raw numbers; this package sums them over the
// cgroups of a task, paces the readings that cost much, and computes rates and
// ratios from two samples. A number that could not be read is absent from the
// result, and so is every number computed from it.
package measure

import (
	"fmt"
	"sync"

	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/proc"
)

// Host is where everything is read from.
type Host struct {
	Proc proc.FS
	// Cgroups is nil on a host without cgroups, and CgroupError says why.
	Cgroups     *cgroup.Tree
	CgroupError error

	// resctrl is held while it is opened and claimed, or closed: this process has one
	// claim for all that look for it.
	resctrl sync.Mutex
	claimed bool
}

// Open looks at the host below root, "/" or where a container has it mounted.
// A host without cgroups is not an error: the platform can still be measured.
func Open(root string) *Host {
	h := &Host{Proc: proc.FS{Root: root}}
	h.Cgroups, h.CgroupError = cgroup.FS{Root: root}.Tree()
	if h.CgroupError != nil {
		h.Cgroups, h.CgroupError = nil, fmt.Errorf("no task can be measured: %w", h.CgroupError)
	}
	return h
}
