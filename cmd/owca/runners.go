package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/measure"
	"github.com/owca-project/owca/internal/perf"
	"github.com/owca-project/owca/internal/proc"
	"github.com/owca-project/owca/internal/resctrl"
	"github.com/owca-project/owca/internal/run"
	"github.com/owca-project/owca/internal/store"
)

// configuration is the top level of a file.
type configuration struct {
	Loggers map[string]string `yaml:"loggers" help:"Log levels by component."`
	Runner  runner            `yaml:"runner" required:"true" help:"What the agent does."`
}

// runner is what can stand at the top of a configuration.
type runner interface {
	// loop returns what the loop is to do; names are those of the components.
	loop(names func(any) string) run.Runner
}

// measurementRunner is the configuration of a loop that only measures.
type measurementRunner struct {
	Node owca.Node `yaml:"node" required:"true" help:"Where tasks are discovered."`
	measuring

	nested bool // in another runner
}

// Start finds out what the host can measure, unless the runner that it is in does.
func (r *measurementRunner) Start(ctx context.Context) error {
	if r.nested {
		return nil
	}
	return r.measuring.Start(ctx)
}

func (r *measurementRunner) loop(names func(any) string) run.Runner {
	return r.measuring.loop(r.Node, names)
}

// measuring is what every runner says of measuring, but for the node.
type measuring struct {
	MetricsStorage  []owca.Storage    `yaml:"metrics_storage" help:"Where metrics go: one storage, or a list."`
	Interval        time.Duration     `yaml:"interval" alias:"action_delay" range:"0..60" help:"Time from the beginning of one tick to that of the next. At least 50 ms; 0, which the original allowed, means 50 ms."`
	ExtraLabels     map[string]string `yaml:"extra_labels" help:"Labels added to every metric. They win over all others."`
	CommonLabels    []string          `yaml:"common_labels" help:"Labels of the host that are added to every metric, of: sockets, cores, cpus, host, owca_version, cpu_model."`
	Derived         bool              `yaml:"enable_derived_metrics" help:"Store rates and ratios, too, which are computed from two ticks."`
	MemoryStat      time.Duration     `yaml:"memory_stat_interval" range:"0..3600" help:"How often memory.stat of each task is read (anon, file, faults, refaults, working set), which costs more than the other files. 0 = never."`
	NUMA            time.Duration     `yaml:"numa_stat_interval" range:"0..3600" help:"How often the memory of each task per NUMA node is read. 0 = never."`
	Limits          time.Duration     `yaml:"limits_interval" range:"0..3600" help:"How often the limits of each task are read (quotas, weights, memory limits, cpusets). 0 = never."`
	RunQueue        time.Duration     `yaml:"run_queue_interval" range:"0..3600" help:"How often the run-queue wait of each task's threads is read. 0 = never."`
	RunQueueThreads int               `yaml:"run_queue_max_threads" range:"1..100000" help:"Tasks with more threads than this have no run-queue wait: reading it costs about 10 µs a thread."`
	PlatformSlow    time.Duration     `yaml:"platform_slow_interval" range:"0.05..3600" help:"How often the costly readings of the platform are taken (cpu frequency, memory of NUMA nodes)."`
	VMStat          []string          `yaml:"vmstat" help:"Keys of /proc/vmstat to store."`

	EventNames  []string `yaml:"event_names" help:"Performance events to count in every task, by the names of the original, of perf or of sysfs; {a,b} is a group counted together. Empty: instructions, cycles, cache_misses, cache_references, stalls_mem_load, as far as the host has them. See docs/events.md; owca events lists names."`
	PerfBackend string   `yaml:"perf_backend" enum:"auto,cgroup,bpf,none" help:"How events are counted: cgroup takes descriptors for each task, CPU and event; bpf two for each CPU, and a program shares out what the CPU counts; auto is cgroup for a few tasks and bpf for many, if the host can; none counts nothing."`

	RDTEnabled          *bool             `yaml:"rdt_enabled" help:"Monitor the cache occupancy and memory bandwidth of tasks by resctrl. null = if the host can; true = do not start if it cannot; false = leave resctrl alone. See docs/resctrl.md."`
	ResctrlMount        bool              `yaml:"resctrl_mount" help:"Mount resctrl at /sys/fs/resctrl if it is not mounted, and unmount it at the end, which needs CAP_SYS_ADMIN."`
	ResctrlMountOptions []string          `yaml:"resctrl_mount_options" enum:"cdp,cdpl2,mba_MBps" help:"Options to mount resctrl with: cdp and cdpl2 allocate code and data apart, in half as many control groups; mba_MBps takes memory bandwidth in MB/s."`
	RDTMonitorFirst     map[string]string `yaml:"rdt_monitor_first" help:"Which tasks are monitored first if there are more than monitoring ids (RMIDs): those whose labels all match these regular expressions, each anchored at the start. After them, and without this, come guaranteed pods, then the others, best-effort ones last; of equal ones those that use more CPU."`

	host     *measure.Host
	counters *measure.Counters // of Start
	resctrl  *measure.Resctrl  // of Start
	first    map[string]*regexp.Regexp
	use      resctrlUse
}

// resctrlUse is what resctrl is for beside monitoring.
type resctrlUse struct {
	control   bool   // groups are made for tasks
	removeAll bool   // that there are, at first
	readOnly  bool   // nothing is written
	requires  string // the field that does, "" = none
}

func newMeasurementRunner(host *measure.Host) *measurementRunner {
	return &measurementRunner{measuring: newMeasuring(host)}
}

func newMeasuring(host *measure.Host) measuring {
	return measuring{
		host:            host,
		PerfBackend:     "auto",
		MetricsStorage:  []owca.Storage{store.NewLog()},
		Interval:        time.Second,
		CommonLabels:    slices.Clone(run.CommonLabels),
		MemoryStat:      10 * time.Second,
		NUMA:            time.Minute,
		Limits:          30 * time.Second,
		RunQueue:        10 * time.Second,
		RunQueueThreads: 1000,
		PlatformSlow:    10 * time.Second,
		VMStat:          slices.Clone(proc.DefaultVMStat),
	}
}

const minInterval = 50 * time.Millisecond

// Validate checks what the struct tags cannot.
func (r *measuring) Validate() error {
	var errs []error
	if r.Interval > 0 && r.Interval < minInterval {
		errs = append(errs, &fieldError{"interval", fmt.Errorf("%v is too short (at least 50ms)", r.Interval)})
	}
	if twice(r.MetricsStorage, map[owca.Storage]bool{}) {
		errs = append(errs, &fieldError{"metrics_storage", errTwice})
	}
	for _, name := range []string{"task_id", "task_name"} {
		if _, ok := r.ExtraLabels[name]; ok {
			errs = append(errs, &fieldError{"extra_labels", fmt.Errorf("%q is what tells tasks apart: choose another name", name)})
		}
	}
	for _, name := range r.CommonLabels {
		if !slices.Contains(run.CommonLabels, name) {
			errs = append(errs, &fieldError{"common_labels", fmt.Errorf("%q is not a common label (one of %v)", name, run.CommonLabels)})
		}
	}
	_, err := perf.ParseRequests(r.events())
	for _, err := range each(err) {
		errs = append(errs, &fieldError{"event_names", err})
	}
	r.first = make(map[string]*regexp.Regexp, len(r.RDTMonitorFirst))
	for _, label := range slices.Sorted(maps.Keys(r.RDTMonitorFirst)) {
		re, err := regexp.Compile("^(?:" + r.RDTMonitorFirst[label] + ")")
		if err != nil {
			errs = append(errs, &fieldError{"rdt_monitor_first", fmt.Errorf("label %s: %q is not a regular expression: %w", label, r.RDTMonitorFirst[label], err)})
		}
		r.first[label] = re
	}
	if len(r.ResctrlMountOptions) > 0 && !r.ResctrlMount {
		errs = append(errs, &fieldError{"resctrl_mount_options", errors.New("without resctrl_mount: true they have no effect: resctrl keeps the options it was mounted with")})
	}
	return errors.Join(errs...)
}

// each returns the errors that were joined into err.
func each(err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

// events are those to count.
func (r *measuring) events() []string {
	if len(r.EventNames) == 0 {
		return perf.DefaultEvents
	}
	return r.EventNames
}

// Start finds out what the host can measure of what is wanted.
func (r *measuring) Start(context.Context) error {
	if err := r.startCounters(); err != nil {
		return err
	}
	return r.startResctrl()
}

// Close gives back what Start got and no loop took over.
//
//nolint:unparam // the interface has the result
func (r *measuring) Close() error {
	r.resctrl.Discard()
	return nil
}

// startResctrl looks for resctrl, and mounts it if it is to. Whatever is missing is
// an error only of rdt_enabled: true.
func (r *measuring) startResctrl() error {
	if r.RDTEnabled != nil && !*r.RDTEnabled {
		return nil
	}
	planned, err := r.host.PlanResctrl(measure.ResctrlOptions{
		Mount: r.ResctrlMount,
		MountOptions: resctrl.MountOptions{
			CDP:   slices.Contains(r.ResctrlMountOptions, "cdp"),
			CDPL2: slices.Contains(r.ResctrlMountOptions, "cdpl2"),
			MBps:  slices.Contains(r.ResctrlMountOptions, "mba_MBps"),
		},
		First: r.first, Control: r.use.control, RemoveAll: r.use.removeAll, ReadOnly: r.use.readOnly,
	})
	switch {
	case err == nil:
	case r.use.requires != "":
		planned.Discard()
		return fmt.Errorf("%s: true, but: %w%s", r.use.requires, err, r.resctrlHint(err))
	case r.RDTEnabled != nil:
		planned.Discard()
		return fmt.Errorf("rdt_enabled: true, but: %w%s", err, r.resctrlHint(err))
	case errors.Is(err, errors.ErrUnsupported) && planned != nil:
		slog.Info("no cache and memory bandwidth monitoring on this host", "component", "measure", "error", err)
	case errors.Is(err, errors.ErrUnsupported):
		slog.Debug("no cache and memory bandwidth monitoring", "component", "measure", "error", err)
	case errors.Is(err, resctrl.ErrInUse):
		// The first tick tells, if it is so then.
	case r.ResctrlMount && !errors.Is(err, syscall.EROFS):
		slog.Warn("resctrl cannot be used as it is configured; the rest is measured", "component", "measure", "error", err)
	}
	r.resctrl = planned
	return nil
}

// resctrlHint says what to do so that resctrl, which is required, can be used, or is not
// required.
func (r *measuring) resctrlHint(err error) string {
	optional := "rdt_enabled: null"
	switch {
	case r.use.requires != "" && r.RDTEnabled == nil:
		optional = r.use.requires + ": false"
	case r.use.requires != "":
		optional += " and " + r.use.requires + ": false"
	}
	switch {
	case errors.Is(err, resctrl.ErrNotMounted):
		return ", or set resctrl_mount: true; with " + optional + " the rest is measured until then"
	case errors.Is(err, resctrl.ErrInUse):
		return "; only one agent of a host can monitor: stop that one; with " + optional + " the rest is measured until it ends"
	case errors.Is(err, fs.ErrPermission):
		return ": making groups needs CAP_DAC_OVERRIDE, moving threads of other users CAP_SETUID, mounting CAP_SYS_ADMIN"
	case errors.Is(err, syscall.EROFS):
		return ": mount it for reading and writing"
	case errors.Is(err, errors.ErrUnsupported):
		return "; with " + optional + " the rest is measured"
	}
	return ""
}

// startCounters finds out what this host counts of the events. What is wrong with the
// events themselves (a name that no host knows, a group that this one has not
// the counters for) is an error of the configuration. Whatever else keeps them
// from being counted is logged, and the rest is measured.
func (r *measuring) startCounters() error {
	if r.PerfBackend == "none" {
		return nil
	}
	log := slog.With("component", "measure")
	requests, err := perf.ParseRequests(r.events())
	if err != nil {
		return fmt.Errorf("event_names: %w", err)
	}
	backend := perf.Backend(r.PerfBackend)
	if r.PerfBackend == "auto" {
		backend = ""
	}
	counters, err := r.host.PlanCounters(requests, backend)
	var wrong *perf.RequestError
	switch {
	case errors.As(err, &wrong):
		var all []string
		for _, err := range each(wrong.Err) {
			all = append(all, err.Error())
		}
		return fmt.Errorf("event_names: %s", strings.Join(all, "; "))
	case errors.Is(err, fs.ErrPermission):
		log.Warn("no performance counters: permission is missing; the rest is measured", "error", err)
		return nil
	case err != nil:
		log.Warn("no performance counters until the next reload: what this host counts could not be found out; the rest is measured", "error", err)
		return nil
	}
	r.counters = counters
	r.tell(log, counters.Omitted(), counters.Starved())
	return nil
}

// tell logs which events are not counted, and which are not for now.
func (r *measuring) tell(log *slog.Logger, omitted []perf.Omission, starved []error) {
	for _, err := range starved {
		log.Warn("a group of performance events has no counters for now", "error", err)
	}
	var names, reasons []string
	for _, o := range omitted {
		if len(r.EventNames) > 0 {
			log.Warn("an event of event_names is not counted on this host", "event", o.Name, "error", o.Err)
			continue
		}
		// Nobody asked for these, so that one line will do.
		names = append(names, o.Name)
		if reason := o.Err.Error(); !slices.Contains(reasons, reason) {
			reasons = append(reasons, reason)
		}
	}
	if names != nil {
		log.Info("some of the default events are not counted on this host", "events", strings.Join(names, " "), "error", strings.Join(reasons, "; "))
	}
}

var errTwice = errors.New("one storage stands in two places, by a YAML alias, and would be written to at once from both; write it down twice, with two files")

// twice says whether a storage is in the list, or inside one of it, that was
// seen before.
func twice(list []owca.Storage, seen map[owca.Storage]bool) bool {
	for _, s := range list {
		if seen[s] {
			return true
		}
		seen[s] = true
		if f, ok := s.(*store.Filter); ok && twice(f.Storages, seen) {
			return true
		}
	}
	return false
}

// fieldError says which field of a component is wrong.
type fieldError struct {
	field string
	err   error
}

func (e *fieldError) Error() string { return e.err.Error() }
func (e *fieldError) Unwrap() error { return e.err }
func (e *fieldError) Field() string { return e.field }

func (r *measuring) loop(node owca.Node, names func(any) string) run.Runner {
	out := run.Runner{
		Node:         node,
		Interval:     max(r.Interval, minInterval),
		CommonLabels: r.CommonLabels,
		ExtraLabels:  r.ExtraLabels,
		Derived:      r.Derived,
		Tasks: measure.TaskOptions{
			MemoryStat: r.MemoryStat, NUMA: r.NUMA, Limits: r.Limits,
			RunQueue: r.RunQueue, RunQueueThreads: r.RunQueueThreads,
		},
		Platform: measure.PlatformOptions{VMStat: r.VMStat, SlowInterval: r.PlatformSlow, NoDRAM: r.PerfBackend == "none"},
		Counters: r.counters,
		Resctrl:  r.resctrl,
	}
	out.Storages = named(r.MetricsStorage, names)
	return out
}

// named are the storages of a list with their names; nil of none.
func named(list []owca.Storage, names func(any) string) []run.Storage {
	var out []run.Storage
	for _, s := range list {
		out = append(out, run.Storage{Name: names(s), Storage: s})
	}
	return out
}
