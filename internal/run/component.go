package run

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/owca-project/owca"
)

// component is a detector or an allocator. Each call has a goroutine of its own, so that
// one that does not return keeps nobody waiting.
type component struct {
	name string
	of   any // the owca.Detector or owca.Allocator
	call func(context.Context, *owca.Snapshot) outcome

	busy   bool         // an earlier call has not returned
	done   chan outcome // has room for one
	view   *view        // what the call was given
	took   time.Duration
	called bool // took is known

	failed                     bool // since it was asked last
	errors, overruns, rejected uint64
}

// outcome is what a call returned.
type outcome struct {
	anomalies   []owca.Anomaly
	metrics     []owca.Metric
	allocations map[owca.TaskID]owca.Allocations
	took        time.Duration
	err         error
}

// errEnded: the agent was told to end while the component was asked.
var errEnded = errors.New("the agent ends")

func newDetector(d Detector) *component {
	return &component{name: d.Name, of: d.Detector, done: make(chan outcome, 1), call: func(ctx context.Context, s *owca.Snapshot) (o outcome) {
		o.anomalies, o.metrics, o.err = d.Detect(ctx, s)
		return o
	}}
}

func newAllocator(a Allocator) *component {
	return &component{name: a.Name, of: a.Allocator, done: make(chan outcome, 1), call: func(ctx context.Context, s *owca.Snapshot) outcome {
		d, err := a.Allocate(ctx, s)
		return outcome{anomalies: d.Anomalies, metrics: d.Metrics, allocations: d.Allocations, err: err}
	}}
}

// ask calls the component and waits for it until a point in time at most. What it returns
// later is dropped; until it has returned it is not called again. With an error there is
// no outcome, unless that has the error, too: it has allocations that hold nevertheless.
func (c *component) ask(ctx context.Context, v *view, until time.Time) (outcome, error) {
	c.failed = false
	if !c.returned() {
		c.overruns++
		return outcome{}, c.late()
	}
	within, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	c.busy, c.view = true, v
	go func() {
		start := time.Now()
		o := outcome{err: errors.New("it ended its goroutine")} // by runtime.Goexit
		defer func() {
			o.took = time.Since(start)
			c.done <- o
		}()
		if err := protect(func() error { o = c.call(within, &v.Snapshot); return nil }); err != nil {
			o = outcome{err: err}
		}
	}()
	select {
	case o := <-c.done:
		return c.result(ctx, within, o)
	case <-within.Done():
	}
	select {
	case o := <-c.done: // on a busy host both may be there by the time that this runs
		return c.result(ctx, within, o)
	default:
	}
	if ctx.Err() != nil {
		return outcome{}, errEnded
	}
	c.overruns++
	return outcome{}, c.late()
}

// result ends a call that returned.
func (c *component) result(ctx, within context.Context, o outcome) (outcome, error) {
	c.end(o)
	switch {
	case o.err == nil:
		return o, nil
	case ctx.Err() != nil:
		return outcome{}, errEnded
	case within.Err() != nil && errors.Is(o.err, context.DeadlineExceeded):
		c.overruns++
		return outcome{}, c.late()
	}
	c.fail()
	err := fmt.Errorf("%s: %w", c.name, o.err)
	if o.allocations == nil {
		return outcome{}, err
	}
	return o, err
}

// fail counts a tick in which something of it was wrong, once.
func (c *component) fail() {
	if !c.failed {
		c.failed = true
		c.errors++
	}
}

func (c *component) end(o outcome) {
	c.busy, c.view, c.took, c.called = false, nil, o.took, true
}

// late is the same error as long as it is late, which is told once, whether it has returned by
// now or not.
func (c *component) late() error {
	return fmt.Errorf("%s has run past the end of its tick; it is never called while an earlier call is under way", c.name)
}

// returned says whether no call is under way. The result of one that has returned since
// is of an earlier tick, and is dropped.
func (c *component) returned() bool {
	if c.busy {
		select {
		case o := <-c.done:
			c.end(o)
		default:
		}
	}
	return !c.busy
}

// wait waits until no call is under way, or until ctx ends.
func (c *component) wait(ctx context.Context) error {
	if !c.busy {
		return nil
	}
	select {
	case <-c.done:
		c.busy = false
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s has not returned", c.name)
	}
}

// view is a copy of a snapshot for the components of one tick. What measuring reuses is
// copied; what is never changed once it is made, as labels, is shared.
type view struct {
	owca.Snapshot
	platform owca.Platform
	readings []owca.Reading // of the platform, then of each task
}

func (v *view) fill(s *owca.Snapshot) {
	v.platform = *s.Platform
	v.Snapshot = owca.Snapshot{Time: s.Time, Platform: &v.platform, Tasks: append(v.Tasks[:0], s.Tasks...)}
	clear(v.Tasks[len(v.Tasks):cap(v.Tasks)]) // keeps nothing of tasks that are gone
	n := len(s.Platform.Measurements)
	for i := range s.Tasks {
		n += len(s.Tasks[i].Measurements)
	}
	if cap(v.readings) < n {
		v.readings = make([]owca.Reading, 0, n+n/8)
	}
	v.readings = v.readings[:0]
	v.platform.Measurements = v.copy(s.Platform.Measurements)
	for i := range v.Tasks {
		v.Tasks[i].Measurements = v.copy(s.Tasks[i].Measurements)
	}
}

// copy appends to readings, which have the room. What it returns has no room for more,
// so that appending to it overwrites nobody's.
func (v *view) copy(m owca.Measurements) owca.Measurements {
	start := len(v.readings)
	v.readings = append(v.readings, m...)
	return owca.Measurements(v.readings[start:len(v.readings):len(v.readings)])
}

// present returns what the components of this tick are given: one copy for all of them.
func (l *Loop) present() *view {
	if l.presented {
		return l.view
	}
	for _, c := range l.components {
		if !c.returned() && c.view == l.view {
			l.view = nil // it is that component's now
			break
		}
	}
	if l.view == nil {
		l.view = &view{}
	}
	l.view.fill(&l.snapshot)
	l.presented = true
	return l.view
}

// turns share out the time that a tick has for its components.
type turns struct {
	end   time.Time
	share time.Duration
	left  int // to be asked
}

// newTurns returns those of n components, the first of which is asked now, in a tick that
// began earlier. Together they may take nine tenths of the interval from the beginning of
// the tick, as the tick needs little after them, and at least half an interval from now.
// Half of that is shared out beforehand, so that one that takes too long leaves some to
// those after it.
func newTurns(began, now time.Time, interval time.Duration, n int) turns {
	end := began.Add(interval * 9 / 10)
	if least := now.Add(interval / 2); end.Before(least) {
		end = least
	}
	return turns{end: end, share: end.Sub(now) / time.Duration(2*max(n, 1)), left: n}
}

// next is when the component whose turn it is has to have returned.
func (t *turns) next() time.Time {
	t.left--
	return t.end.Add(-time.Duration(t.left) * t.share)
}
