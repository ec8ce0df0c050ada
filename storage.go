package owca

import "context"

// A Storage takes the metrics of a tick somewhere: a file, a broker, a scrape.
type Storage interface {
	// Store takes metrics in any order; metrics of one Desc need not be
	// adjacent. It must not keep the slice after it returns (Labels and Desc
	// may be kept). Calls never overlap.
	//
	// It may block: the agent calls it beside its loop, through a bounded
	// queue. One that never blocks says so by being a NonBlocking.
	Store(context.Context, []Metric) error
}

// NonBlocking marks a Storage whose Store only copies, so that the agent calls
// it from the tick itself, without a queue and a copy in between.
type NonBlocking interface {
	NonBlocking()
}
