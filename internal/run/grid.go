package run

import "time"

// grid is the points of time at which ticks begin. It uses the monotonic
// clock, so that setting the host's time moves nothing.
type grid struct {
	next     time.Time
	interval time.Duration
}

// advance moves to the first point after now and returns how many points were
// passed over because the tick that began at the last one was still running.
func (g *grid) advance(now time.Time) (missed uint64) {
	g.next = g.next.Add(g.interval)
	if late := now.Sub(g.next); late >= 0 {
		n := late/g.interval + 1
		g.next = g.next.Add(n * g.interval)
		missed = uint64(n)
	}
	return missed
}
