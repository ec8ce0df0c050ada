package detect

import (
	"context"

	"github.com/owca-project/owca"
)

// NOP finds nothing.
type NOP struct{}

// NewNOP returns one.
func NewNOP() *NOP { return &NOP{} }

// Detect returns nothing.
func (*NOP) Detect(context.Context, *owca.Snapshot) ([]owca.Anomaly, []owca.Metric, error) {
	return nil, nil, nil
}
