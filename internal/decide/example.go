package decide

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"time"

	"github.com/owca-project/owca"
)

// Example keeps a host from being overloaded by its best-effort tasks: while more than Above of
// its CPU time is used, each of them may use half as much as before; once the host is quiet
// again they get it back step by step. Additive increase and multiplicative decrease is
// how TCP finds its share: it yields at once, and comes back carefully.
//
// It is here to be read, as an example of how an allocator is written:
//
//   - Its exported fields are its configuration, and constructing it does nothing else.
//   - It takes what it needs from the [owca.Snapshot], and keeps of it what it needs next time:
//     here the CPU time used, because a rate needs two samples.
//   - A reading that is missing is not zero: without one it decides nothing, and what it
//     decided before stays.
//   - It returns what it wants, by task. How that is written, whether it is in effect already,
//     which container of a pod gets how much of it, and undoing it when the agent ends are
//     not its business.
type Example struct {
	BestEffort map[string]string `yaml:"best_effort" format:"regexp" help:"Which tasks may be limited: regular expressions, anchored at the start, by label; all must match."`
	Above      float64           `yaml:"above" range:"0.01..1" help:"Part of the host's CPU time from which on they are limited."`
	Least      float64           `yaml:"least" range:"0.001..1" help:"Part of the host that each of them keeps."`
	// More than owca.LeastChange.
	Step float64 `yaml:"step" range:"0.06..1" help:"What each of them gets back per tick, as a part of the host."`

	match []labelMatch
	quota float64 // of each best-effort task; 1 = no limit

	used float64 // CPU time of the host, in seconds, at
	at   time.Time
}

// NewExample returns one that limits tasks with the label type="best_efforts" on a host that is
// used to more than 80 %.
func NewExample() *Example {
	return &Example{BestEffort: map[string]string{"type": "best_efforts"}, Above: 0.8, Least: 0.1, Step: 0.1, quota: 1}
}

// Validate refuses what would limit every task.
func (e *Example) Validate() error {
	if len(e.BestEffort) == 0 {
		return &fieldError{"best_effort", errors.New("no label: every task would be limited")}
	}
	return nil
}

// Allocate returns the quota of each best-effort task, or releases it.
func (e *Example) Allocate(_ context.Context, s *owca.Snapshot) (owca.Decision, error) {
	if e.match == nil {
		for _, name := range slices.Sorted(maps.Keys(e.BestEffort)) {
			re, err := regexp.Compile("^(?:" + e.BestEffort[name] + ")")
			if err != nil {
				return owca.Decision{}, fmt.Errorf("label %s: %w", name, err)
			}
			e.match = append(e.match, labelMatch{name, re})
		}
	}
	usage, ok := e.usage(s)
	if !ok {
		return owca.Decision{}, nil
	}
	if usage > e.Above {
		// What would leave less than a change to the least goes there at once.
		if e.quota /= 2; e.quota <= e.Least+owca.LeastChange {
			e.quota = e.Least
		}
	} else if e.quota += e.Step; e.quota > 1-1e-9 { // ten steps of 0.1 are less than 1
		e.quota = 1
	}
	give := owca.Allocation{
		Number: e.quota,
		Reason: fmt.Sprintf("the host uses %.0f %% of its CPU time, the limit is %.0f %%", 100*usage, 100*e.Above),
	}
	if e.quota == 1 {
		give = owca.Allocation{Release: true, Reason: "the host has CPU time to spare"}
	}
	rule := compiled{labels: e.match}
	wanted := make(map[owca.TaskID]owca.Allocations)
	for i := range s.Tasks {
		if t := &s.Tasks[i].Task; rule.matches(t) {
			wanted[t.ID] = owca.Allocations{owca.CPUQuota: give}
		}
	}
	return owca.Decision{Allocations: wanted}, nil
}

// usage returns the part of all CPU time that was used since the last call: 0 to 1.
func (e *Example) usage(s *owca.Snapshot) (part float64, ok bool) {
	if s.Platform == nil || s.Platform.CPUs <= 0 {
		return 0, false
	}
	var used float64
	for i := range s.Platform.Measurements {
		if r := &s.Platform.Measurements[i]; r.Desc == owca.PlatformCPUUsage {
			used += r.Value.Float(r.Desc.Scale)
			ok = true
		}
	}
	if !ok || math.IsNaN(used) || math.IsInf(used, 0) {
		return 0, false
	}
	before, since := e.used, s.Time.Sub(e.at).Seconds()
	first := e.at.IsZero()
	e.used, e.at = used, s.Time
	// Used CPU time goes back when a CPU goes offline, and the time when it is set.
	if first || since <= 0 || used < before {
		return 0, false
	}
	return min((used-before)/(since*float64(s.Platform.CPUs)), 1), true
}
