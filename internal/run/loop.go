// Package run drives the six steps: one tick after the other on a fixed grid
// of time, whatever fails in them.
package run

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/act"
	"github.com/owca-project/owca/internal/measure"
)

// Runner is what one configuration makes the loop do. Its node and storages
// are compared with those of the next, so their types must be comparable, as
// pointers are. Each storage is there once.
type Runner struct {
	Node     owca.Node
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

	// Detectors and Allocators are called one after the other. Their names are unique and
	// stay those of the same component from one Runner to the next.
	Detectors  []Detector
	Allocators []Allocator
	// Anomalies and Allocations are where those go; nil = to Storages.
	Anomalies   []Storage
	Allocations []Storage
	Act         act.Options // without Allocators everything that was leased is given back
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
	actor   *act.Actor
	build   Build
	observe func(*owca.Snapshot)

	runner   Runner
	queues   []*queue
	tasks    *measure.Tasks
	platform *measure.Platform
	swaps    chan swap

	snapshot owca.Snapshot
	listed   []owca.Task
	listedAt time.Time // by discovery, when it last succeeded
	metrics  []owca.Metric
	labels   labels
	self     self
	stages   [numStages]stage
	log      *slog.Logger
}

// Build says what binary this is.
type Build struct{ Version, Revision, GoVersion string }

// New returns a Loop over a host. actor, which may be nil where no Runner has
// Allocators, is the Loop's to close. observe, which may be nil, is called at the
// end of every tick with what the tick saw.
func New(host *measure.Host, actor *act.Actor, build Build, observe func(*owca.Snapshot)) *Loop {
	l := &Loop{
		host: host, actor: actor, build: build, observe: observe,
		swaps: make(chan swap),
		log:   slog.With("component", "run"),
	}
	l.self.agent = host.NewAgent()
	l.snapshot.Platform = &owca.Platform{}
	return l
}

type swap struct {
	runner Runner
	done   chan []*queue
}

// Swap makes a running loop go on with another Runner, between two ticks, and
// returns when it does. Tasks keep their counters and storages that are in
// both runners keep their queue. Storages that are only in the old one have
// stored what was queued, or failed to within the grace period, and can be
// closed.
func (l *Loop) Swap(ctx context.Context, r Runner) error {
	s := swap{runner: r, done: make(chan []*queue, 1)}
	select {
	case l.swaps <- s:
	case <-ctx.Done():
		return ctx.Err()
	}
	closeAll(<-s.done)
	return nil
}

// grace is how long a storage gets to store what was queued when it is closed.
const grace = 5 * time.Second

// Run ticks until ctx ends. The first tick is at once, the others on a grid of
// r.Interval from it: a tick that takes longer than the interval skips points
// of the grid, which are counted, and never overlaps or shifts the next.
func (l *Loop) Run(ctx context.Context, r Runner) {
	l.adopt(r)
	l.tasks.OpenBeside()
	defer l.close()
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

// Once runs one tick and returns when its metrics are stored, with the errors
// of its stages.
func (l *Loop) Once(ctx context.Context, r Runner) error {
	l.adopt(r)
	l.tick(ctx, time.Now())
	l.close()
	var errs []error
	for i := range l.stages {
		errs = append(errs, l.stages[i].err)
	}
	for _, q := range l.queues {
		errs = append(errs, q.lastError())
	}
	return errors.Join(errs...)
}

// adopt makes r the runner and returns the queues that it no longer needs.
func (l *Loop) adopt(r Runner) (unused []*queue) {
	if l.tasks == nil {
		l.tasks = l.host.NewTasks(r.Tasks, l.taskLabels)
		l.platform = l.host.NewPlatform(r.Platform)
	}
	l.tasks.SetOptions(r.Tasks)
	l.tasks.SetCounters(r.Counters)
	l.tasks.SetResctrl(r.Resctrl)
	l.platform.SetOptions(r.Platform)
	old := l.queues
	l.queues = make([]*queue, 0, len(r.Storages))
next:
	for _, s := range r.Storages {
		for i, q := range old {
			if q != nil && q.storage == s.Storage {
				q.rename(s.Name)
				l.queues = append(l.queues, q)
				old[i] = nil
				continue next
			}
		}
		l.queues = append(l.queues, newQueue(s))
	}
	for _, q := range old {
		if q != nil {
			unused = append(unused, q)
		}
	}
	if l.runner.Node != r.Node {
		l.listed = nil
	}
	l.runner = r
	l.relabel(true)
	return unused
}

func (l *Loop) close() {
	closeAll(l.queues)
	l.tasks.Close()
	if err := errors.Join(l.platform.Close(), l.self.agent.Close()); err != nil {
		l.log.Warn("closing files", "error", err)
	}
}

// tick is the agent's work of one interval. It reads top to bottom as the six
// steps; none of them ends the program.
func (l *Loop) tick(ctx context.Context, now time.Time) {
	l.discover(ctx)
	l.measure(now)
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
}

func (l *Loop) store(ctx context.Context, now time.Time) {
	start := time.Now()
	defer func() { l.stages[stageStore].took = time.Since(start) - l.stages[stageSelf].took }()
	l.flatten(now)
	var errs []error
	for _, q := range l.queues {
		if err := protect(func() error { return q.put(ctx, l.metrics) }); err != nil {
			errs = append(errs, err)
		}
	}
	l.report(stageStore, errors.Join(errs...))
}

// flatten turns the snapshot and the agent's own state into metrics.
func (l *Loop) flatten(now time.Time) {
	ms := now.UnixMilli()
	m := l.metrics[:0]
	m = append(m, owca.Metric{Desc: owca.PlatformInfo, Labels: l.labels.info, Value: owca.Int(1), Time: ms})
	m = l.appendReadings(m, l.snapshot.Platform.Measurements, l.labels.platform, ms)
	for i := range l.snapshot.Tasks {
		t := &l.snapshot.Tasks[i]
		m = l.appendReadings(m, t.Measurements, t.MetricLabels, ms)
	}
	l.metrics = l.appendSelf(m, ms)
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
