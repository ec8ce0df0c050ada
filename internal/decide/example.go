package decide

import (
	"context"

	"github.com/owca-project/owca"
)

// Example shows what an allocator can do.
type Example struct{}

// NewExample returns one.
func NewExample() *Example { return &Example{} }

// Allocate returns the allocations of this phase.
func (*Example) Allocate(context.Context, *owca.Snapshot) (owca.Decision, error) { panic("F") }
