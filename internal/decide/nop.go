package decide

import (
	"context"

	"github.com/owca-project/owca"
)

// NOP decides nothing.
type NOP struct{}

// NewNOP returns one.
func NewNOP() *NOP { return &NOP{} }

// Allocate returns nothing.
func (*NOP) Allocate(context.Context, *owca.Snapshot) (owca.Decision, error) {
	return owca.Decision{}, nil
}
