// Package run drives the six steps: one tick after the other on a fixed grid
// of time, whatever fails in them.
package run

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/act"
	"github.com/owca-project/owca/internal/measure"
)

// Runner is what one configuration makes the loop do. Its components are compared
// with those of the next, so their types must be comparable, as pointers are.
type Runner struct {
	Node owca.Node
	// Storages get what is measured, and the agent's own metrics. Each is there once.
	Storages []Storage
	Interval time.Duration

	// CommonLabels are the names of the host's labels that every metric
	// carries, of [CommonLabels]; ExtraLabels are the user's own and win.
	CommonLabels []string
	ExtraLabels  map[string]string

	Tasks    measure.TaskOptions
	Platform measure.PlatformOptions
	Counters *measure.Counters // nil: no performance counters
	Resctrl  *measure.Resctrl  // nil: neither caches nor memory bandwidth
	// Derived: store what is computed from two samples, too.
	Derived bool

	// Detectors and Allocators are called one after the other. Their names are unique
	// among all of them, and stay those of the same component from one Runner to the next.
	Detectors  []Detector
	Allocators []Allocator
	// Anomalies and Allocations are where those go, with their statistics; what components
	// have for metrics of their own goes along with anomalies. nil = to Storages. A
	// storage that is in several lists gets all in one.
	Anomalies   []Storage
	Allocations []Storage
	// Act is how allocations are made. Once there are no more Allocators, all that was
	// leased is given back.
	Act act.Options
}

// Detector is a detector and the name that its errors and metrics go by.
type Detector struct {
	Name string
	owca.Detector
}

// Allocator is an allocator and its name, which owns what it decides.
type Allocator struct {
	Name string
	owca.Allocator
}

// Storage is a storage and the name that its errors and metrics go by, unique
// among the storages of a Runner.
type Storage struct {
	Name string
	owca.Storage
}

// CommonLabels are the labels that the original put on every metric.
var CommonLabels = []string{"sockets", "cores", "cpus", "host", "owca_version", "cpu_model"}

// Loop runs ticks. Run and Once are for one goroutine; Swap is for others.
type Loop struct {
	host    *measure.Host
	build   Build
	observe func(*owca.Snapshot)

	runner Runner
	queues []*queue
	routes []route // of each queue

	detectors, allocators []*component
	components            []*component // both
	turns                 turns
	view                  *view
	presented             bool // view is of this tick
	found                 found
	acting                acting

	tasks    *measure.Tasks
	platform *measure.Platform
	swaps    chan swap

	snapshot owca.Snapshot
	listed   []owca.Task
	listedAt time.Time // by discovery, when it last succeeded
	looked   error     // of the first part of acting in this tick
	metrics  []owca.Metric
	ends     [2]int        // of what is measured, and of allocations, in metrics
	apart    []owca.Metric // parts that are not adjacent
	labels   labels
	self     self
	stages   [numStages]stage
	log      *slog.Logger
}

// Build says what binary this is.
type Build struct{ Version, Revision, GoVersion string }

// New returns a Loop over a host. actor, which may be nil where no Runner has Allocators,
// has to be started before the first Runner that has; it is the Loop's to use and to
// close. observe, which may be nil, is called at the end of every tick with what the tick
// saw.
func New(host *measure.Host, actor *act.Actor, build Build, observe func(*owca.Snapshot)) *Loop {
	l := &Loop{
		host: host, build: build, observe: observe,
		acting: acting{actor: actor},
		swaps:  make(chan swap),
		log:    slog.With("component", "run"),
	}
	l.self.agent = host.NewAgent()
	l.snapshot.Platform = &owca.Platform{}
	return l
}

type swap struct {
	runner Runner
	done   chan unused
}

// unused is what a Runner does not need of the one before.
type unused struct {
	queues     []*queue
	components []*component
}

// Swap makes a running loop go on with another Runner, between two ticks, and
// returns when it does. Tasks keep their counters, storages that are in both runners
// their queue, and allocators their leases; those of allocators that are only in the old
// one have been given back. Components that are only in the old one can be closed:
// storages have stored what was queued, and the others returned, or failed to in the time
// they get for it.
func (l *Loop) Swap(ctx context.Context, r Runner) error {
	s := swap{runner: r, done: make(chan unused, 1)}
	select {
	case l.swaps <- s:
	case <-ctx.Done():
		return ctx.Err()
	}
	l.retire(<-s.done)
	return nil
}

// grace is how long a storage gets to store what was queued when it is closed, and
// patience how long a detector or allocator gets to return whose context has ended.
const (
	grace    = 5 * time.Second
	patience = time.Second
)

// retire waits for what is not used any more. All of it has the same time.
func (l *Loop) retire(u unused) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var wg sync.WaitGroup
	for _, c := range u.components {
		wg.Go(func() {
			if err := c.wait(ctx); err != nil {
				l.log.Warn("a component does not end; the agent goes on without it", "error", err)
			}
		})
	}
	closeAll(u.queues)
	wg.Wait()
}

// Run ticks until ctx ends. The first tick is at once, the others on a grid of
// r.Interval from it: a tick that takes longer than the interval skips points
// of the grid, which are counted, and never overlaps or shifts the next.
func (l *Loop) Run(ctx context.Context, r Runner) {
	l.adopt(r)
	l.tasks.OpenBeside()
	defer func() { _ = l.close() }() // is logged
	grid := grid{next: time.Now(), interval: r.Interval}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-l.swaps:
			s.done <- l.adopt(s.runner)
			if grid.interval != s.runner.Interval {
				grid.interval = s.runner.Interval
				grid.next = time.Now()
				timer.Reset(0)
			}
		case <-timer.C:
			l.tick(ctx, time.Now())
			l.self.overruns += grid.advance(time.Now())
			timer.Reset(time.Until(grid.next))
		}
	}
}

// Once runs one tick and returns when its metrics are stored and, unless they are to be
// kept, its changes undone, with the errors of its stages.
func (l *Loop) Once(ctx context.Context, r Runner) error {
	l.adopt(r)
	return l.once(ctx)
}

func (l *Loop) once(ctx context.Context) error {
	l.tick(ctx, time.Now())
	report := l.acting.report
	var errs []error
	for i := range l.stages {
		errs = append(errs, l.stages[i].err)
	}
	for i := range report.Failed {
		errs = append(errs, report.Failed[i].Err)
	}
	errs = append(errs, l.close())
	for _, q := range l.queues {
		errs = append(errs, q.lastError())
	}
	return errors.Join(errs...)
}

// Plan runs one tick that changes and stores nothing, and returns what an agent that holds
// these leases would change in its first tick with r, with the errors of its stages; see
// [act.Actor.Preview]. The actor is not started.
func (l *Loop) Plan(ctx context.Context, r Runner, leases []act.Lease) (act.Report, error) {
	r.Storages, r.Anomalies, r.Allocations = nil, nil, nil
	r.Act.DryRun = true
	l.adopt(r)
	l.acting.actor.Preview(leases)
	err := l.once(ctx)
	return l.acting.report, err
}

// adopt makes r the runner and returns what it no longer needs.
func (l *Loop) adopt(r Runner) (left unused) {
	if l.tasks == nil {
		l.tasks = l.host.NewTasks(r.Tasks, l.taskLabels)
		l.platform = l.host.NewPlatform(r.Platform)
	}
	l.tasks.SetOptions(r.Tasks)
	l.tasks.SetCounters(r.Counters)
	l.tasks.SetResctrl(r.Resctrl)
	l.platform.SetOptions(r.Platform)
	left.queues = l.reroute(&r)
	left.components = l.recruit(&r)
	if l.runner.Node != r.Node {
		l.listed = nil
	}
	l.runner = r
	l.relabel(true)
	l.acting.options(&r)
	return left
}

// recruit makes components of the detectors and allocators of r, or keeps those that it
// had, and returns those that r no longer has.
func (l *Loop) recruit(r *Runner) (left []*component) {
	left = l.components
	keep := func(of any, fresh *component) *component {
		for i, c := range left {
			if c.of == of {
				left = slices.Delete(left, i, i+1)
				c.name = fresh.name
				return c
			}
		}
		return fresh
	}
	before := make(map[string]any, len(l.allocators))
	for _, c := range l.allocators {
		before[c.name] = c.of
	}
	l.detectors, l.allocators = nil, nil
	for _, d := range r.Detectors {
		l.detectors = append(l.detectors, keep(d.Detector, newDetector(d)))
	}
	for _, a := range r.Allocators {
		c := keep(a.Allocator, newAllocator(a))
		// Another one of that name does not know what its predecessor decided.
		if of, ok := before[c.name]; ok && of != c.of {
			l.acting.succeeded = append(l.acting.succeeded, c.name)
		}
		l.allocators = append(l.allocators, c)
	}
	l.components = slices.Concat(l.detectors, l.allocators)
	l.view = nil // there may be nobody to give it to any more
	return left
}

// close gives back what is allocated before all else, whatever that waits for. The error,
// which is logged, is what could not be.
func (l *Loop) close() (err error) {
	if l.acting.actor != nil {
		if err = protect(l.acting.actor.Close); err != nil {
			l.log.Error("not everything could be given back", "error", err)
		}
	}
	l.retire(unused{l.queues, l.components})
	l.tasks.Close()
	if err := errors.Join(l.platform.Close(), l.self.agent.Close()); err != nil {
		l.log.Warn("closing files", "error", err)
	}
	return err
}

// tick is the agent's work of one interval. It reads top to bottom as the six
// steps; none of them ends the program.
func (l *Loop) tick(ctx context.Context, now time.Time) {
	l.discover(ctx)
	l.measure(now)
	l.detect(ctx, now)
	l.decide(ctx, now)
	l.act(ctx, now)
	l.store(ctx, now)
	l.self.ticks++
	if l.observe != nil {
		l.observe(&l.snapshot)
	}
}

func (l *Loop) discover(ctx context.Context) {
	defer l.stages[stageDiscover].timed(time.Now())
	ctx, cancel := context.WithTimeout(ctx, max(l.runner.Interval, time.Second))
	defer cancel()
	err := protect(func() error {
		tasks, err := l.runner.Node.Tasks(ctx)
		if err == nil || tasks != nil {
			l.listed, l.listedAt = tasks, time.Now()
		}
		return err
	})
	l.report(stageDiscover, err)
}

func (l *Loop) measure(now time.Time) {
	defer l.stages[stageMeasure].timed(time.Now())
	var platformErr, tasksErr error
	err := protect(func() error {
		var p *owca.Platform
		if p, platformErr = l.platform.Read(now); p != nil {
			l.snapshot.Platform = p
		}
		l.relabel(false)
		l.snapshot.Time = now
		l.snapshot.Tasks, tasksErr = l.tasks.Read(now, l.listedAt, l.listed)
		l.snapshot.Platform.RDT = l.tasks.RDT()
		return nil
	})
	l.report(stageMeasure, errors.Join(err, tasksErr, platformErr))
	l.look(now)
}

// look is how acting begins, before anybody decides: with what is in effect.
func (l *Loop) look(now time.Time) {
	l.found.reset()
	l.presented = false
	if !l.acting.on {
		return
	}
	defer l.stages[stageAct].timed(time.Now())
	l.looked = protect(func() error {
		l.acting.observe(now, l.tasks.Control(), l.snapshot.Tasks)
		return nil
	})
}

func (l *Loop) detect(ctx context.Context, now time.Time) {
	l.turns = newTurns(now, time.Now(), l.runner.Interval, len(l.components))
	l.ask(ctx, stageDetect, l.detectors, now, nil)
}

func (l *Loop) decide(ctx context.Context, now time.Time) {
	l.ask(ctx, stageDecide, l.allocators, now, func(c *component, o outcome, answered bool) {
		l.acting.decided = append(l.acting.decided, act.Decided{Owner: c.name, Allocations: o.allocations, Silent: !answered})
		if !answered {
			l.acting.dropped++
		}
	})
}

// ask calls the components of a stage one after the other and takes what they return.
// with, which may be nil, is told of each whether it answered: one that did may have an
// error beside.
func (l *Loop) ask(ctx context.Context, which int, components []*component, now time.Time, with func(c *component, o outcome, answered bool)) {
	if len(components) == 0 || ctx.Err() != nil {
		return
	}
	defer l.stages[which].timed(time.Now())
	var errs []error
	v := l.present()
	for _, c := range components {
		o, err := c.ask(ctx, v, l.turns.next())
		if errors.Is(err, errEnded) {
			return
		}
		answered := err == nil || o.err != nil
		if err != nil {
			errs = append(errs, err)
		}
		if answered {
			if err := l.take(c, o.anomalies, o.metrics, now.UnixMilli()); err != nil {
				errs = append(errs, err)
			}
		}
		if with != nil {
			with(c, o, answered)
		}
	}
	l.report(which, errors.Join(errs...))
}

func (l *Loop) act(ctx context.Context, now time.Time) {
	if !l.acting.on || ctx.Err() != nil { // at the end nothing is begun
		return
	}
	defer func(start time.Time) { l.stages[stageAct].took += time.Since(start) }(time.Now())
	l.report(stageAct, errors.Join(l.looked, protect(func() error {
		err := l.acting.apply(now, l.snapshot.Tasks)
		for _, d := range l.acting.report.Dropped {
			for _, c := range l.allocators {
				if c.name == d.Owner {
					c.fail()
				}
			}
		}
		l.lookAtLeases()
		return err
	})))
}

func (l *Loop) store(ctx context.Context, now time.Time) {
	start := time.Now()
	defer func() { l.stages[stageStore].took = time.Since(start) - l.stages[stageSelf].took }()
	l.flatten(now)
	var errs []error
	for i, q := range l.queues {
		if err := protect(func() error { return q.put(ctx, l.batch(l.routes[i])) }); err != nil {
			errs = append(errs, err)
		}
	}
	l.report(stageStore, errors.Join(errs...))
}

// flatten turns the snapshot, what was made of it, and the agent's own state into metrics.
// The agent's come before those of components, as a storage takes the first of two of the
// same name.
func (l *Loop) flatten(now time.Time) {
	ms := now.UnixMilli()
	m := l.metrics[:0]
	m = append(m, owca.Metric{Desc: owca.PlatformInfo, Labels: l.labels.info, Value: owca.Int(1), Time: ms})
	m = l.appendReadings(m, l.snapshot.Platform.Measurements, l.labels.platform, ms)
	for i := range l.snapshot.Tasks {
		t := &l.snapshot.Tasks[i]
		m = l.appendReadings(m, t.Measurements, t.MetricLabels, ms)
	}
	m = l.appendSelf(m, ms)
	l.ends[0] = len(m)
	m = l.appendAllocations(m, ms)
	l.ends[1] = len(m)
	l.metrics = l.appendFound(m, ms)
	l.labels.age()
}

func (l *Loop) appendReadings(m []owca.Metric, readings owca.Measurements, labels *owca.Labels, ms int64) []owca.Metric {
	for i := range readings {
		r := &readings[i]
		if r.Desc.Derived && !l.runner.Derived {
			continue
		}
		m = append(m, owca.Metric{Desc: r.Desc, Labels: labels, Label: r.Label, Value: r.Value, Time: ms})
	}
	return m
}

// labels are what metrics carry beside their own.
type labels struct {
	of       platformKey // what they were made from
	common   map[string]string
	platform *owca.Labels
	info     *owca.Labels
	build    *owca.Labels

	// What labels of components become with those of the host, in this tick and the last.
	merged, before map[*owca.Labels]*owca.Labels
}

// platformKey is the part of a platform that is in labels.
type platformKey struct {
	host, kernel, model         string
	sockets, cores, cpus, nodes int
}

// relabel makes the labels anew if the platform changed, as when cpus come and
// go, or if forced to.
func (l *Loop) relabel(force bool) {
	p := l.snapshot.Platform
	key := platformKey{p.Host, p.KernelVersion, p.CPUModel, p.Sockets, p.Cores, p.CPUs, p.NUMANodes}
	if key == l.labels.of && !force {
		return
	}
	common, extra := l.common(p), l.runner.ExtraLabels
	l.labels = labels{
		of: key, common: common,
		platform: owca.NewLabels(common, extra),
		info: owca.NewLabels(common, known(map[string]string{
			"host": p.Host, "kernel": p.KernelVersion, "cpu_model": p.CPUModel,
			"sockets": count(p.Sockets), "cores": count(p.Cores), "cpus": count(p.CPUs), "numa_nodes": count(p.NUMANodes),
		}), extra),
		build: owca.NewLabels(common, map[string]string{
			"version": l.build.Version, "revision": l.build.Revision, "goversion": l.build.GoVersion,
		}, extra),
	}
	l.tasks.Relabel()
	l.acting.known = false // the labels of its metrics are old
}

func (l *Loop) common(p *owca.Platform) map[string]string {
	all := known(map[string]string{
		"host": p.Host, "cpu_model": p.CPUModel, "owca_version": l.build.Version,
		"sockets": count(p.Sockets), "cores": count(p.Cores), "cpus": count(p.CPUs),
	})
	common := make(map[string]string, len(l.runner.CommonLabels))
	for _, name := range l.runner.CommonLabels {
		if v, ok := all[name]; ok {
			common[name] = v
		}
	}
	return common
}

// count is the text of a number that is 0 when it is not known.
func count(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// known drops what is not known: an absent label, not an empty one.
func known(m map[string]string) map[string]string {
	for name, value := range m {
		if value == "" {
			delete(m, name)
		}
	}
	return m
}

// taskLabels are what the metrics of a task carry. As in the original the
// task's own labels win over the common ones, and the user's over all.
func (l *Loop) taskLabels(t owca.Task) *owca.Labels {
	id := map[string]string{"task_id": string(t.ID)}
	if t.Name != "" {
		id["task_name"] = t.Name
	}
	for _, resource := range []string{"cpus", "requests_cpu"} {
		if v, ok := t.Resources[resource]; ok {
			id["initial_task_cpu_assignment"] = strconv.FormatFloat(v, 'g', -1, 64)
			break
		}
	}
	return owca.NewLabels(l.labels.common, t.Labels, id, l.runner.ExtraLabels)
}
