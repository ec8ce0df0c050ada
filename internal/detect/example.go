package detect

import (
	"context"

	"github.com/owca-project/owca"
)

// Example makes up contention.
type Example struct{}

// NewExample returns one.
func NewExample() *Example { return &Example{} }

// Detect returns the anomalies of this phase.
func (*Example) Detect(context.Context, *owca.Snapshot) ([]owca.Anomaly, []owca.Metric, error) {
	panic("F")
}
