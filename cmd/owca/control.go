package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/act"
	"github.com/owca-project/owca/internal/measure"
	"github.com/owca-project/owca/internal/resctrl"
	"github.com/owca-project/owca/internal/run"
)

// nesting is what the runners that do more than measure say of measuring: with the fields of
// a MeasurementRunner among their own, as the original's do, or with
// one inside, as its successor's.
type nesting struct {
	Nested *measurementRunner `yaml:"measurement_runner" help:"What is measured, instead of the fields of !MeasurementRunner beside this one."`
	Node   owca.Node          `yaml:"node" example:"!AutoNode" help:"Where tasks are discovered. Required, here or in measurement_runner."`
	measuring
}

func newNesting(host *measure.Host) nesting { return nesting{measuring: newMeasuring(host)} }

// source is where it is said how to measure.
func (n *nesting) source() (*measuring, owca.Node) {
	if n.Nested != nil {
		return &n.Nested.measuring, n.Nested.Node
	}
	return &n.measuring, n.Node
}

func (n *nesting) loop(names func(any) string) run.Runner {
	_, node := n.source()
	return n.measuring.loop(node, names)
}

// Start starts what is measured. What is nested does not start itself: only
// here is known what else it is for.
func (n *nesting) Start(ctx context.Context) error {
	if n.Nested != nil {
		n.measuring = n.Nested.measuring
	}
	return n.measuring.Start(ctx)
}

// validate checks the fields, and the further lists of storages.
func (n *nesting) validate(anomalies, allocations []owca.Storage) error {
	m, _ := n.source()
	var errs []error
	switch {
	case twice(anomalies, map[owca.Storage]bool{}) || twice(distinct(m.MetricsStorage, anomalies), map[owca.Storage]bool{}):
		errs = append(errs, &fieldError{"anomalies_storage", errTwice})
	case twice(allocations, map[owca.Storage]bool{}) || twice(distinct(m.MetricsStorage, anomalies, allocations), map[owca.Storage]bool{}):
		errs = append(errs, &fieldError{"allocations_storage", errTwice})
	}
	if n.Nested == nil {
		if n.Node == nil {
			errs = append(errs, &fieldError{"node", errors.New(`missing field "node": expected a Node, as !AutoNode, here or in measurement_runner`)})
		}
		return errors.Join(append(errs, n.Validate())...)
	}
	n.Nested.nested = true
	errBoth := errors.New("stands beside measurement_runner: write it in there")
	if n.Node != nil {
		errs = append(errs, &fieldError{"node", errBoth})
	}
	here, defaults := reflect.ValueOf(n.measuring), reflect.ValueOf(newMeasuring(nil))
	for i := range here.NumField() {
		f := here.Type().Field(i)
		if f.IsExported() && !reflect.DeepEqual(here.Field(i).Interface(), defaults.Field(i).Interface()) {
			errs = append(errs, &fieldError{f.Tag.Get("yaml"), errBoth})
		}
	}
	return errors.Join(errs...)
}

// errSame is for components that are called at once where one is late.
var errSame = errors.New("one component stands in two places, by a YAML alias, and would be called at once from both; write it down twice")

// same says whether a component with fields is in the lists more than once. Those without may
// be one and the same value in Go.
func same(lists ...[]any) bool {
	seen := map[any]bool{}
	for _, list := range lists {
		for _, c := range list {
			if t := reflect.TypeOf(c); t.Kind() != reflect.Pointer || t.Elem().Size() == 0 {
				continue
			}
			if seen[c] {
				return true
			}
			seen[c] = true
		}
	}
	return false
}

// anys are the elements of a list.
func anys[T any](list []T) []any {
	out := make([]any, len(list))
	for i := range list {
		out[i] = list[i]
	}
	return out
}

// distinct joins lists of storages. One may stand in several lists, which are
// stored together, but not also inside another one, nor in a list twice.
func distinct(lists ...[]owca.Storage) []owca.Storage {
	var all []owca.Storage
	for _, list := range lists {
		for _, s := range list {
			if !slices.Contains(all, s) {
				all = append(all, s)
			}
		}
	}
	return all
}

// detectors are those of a list with their names.
func detectors(list []owca.Detector, names func(any) string) []run.Detector {
	var out []run.Detector
	for i, d := range list {
		out = append(out, run.Detector{Name: unique(names(d), i, func(i int) string { return out[i].Name }), Detector: d})
	}
	return out
}

// allocators are the same.
func allocators(list []owca.Allocator, names func(any) string) []run.Allocator {
	var out []run.Allocator
	for i, a := range list {
		out = append(out, run.Allocator{Name: unique(names(a), i, func(i int) string { return out[i].Name }), Allocator: a})
	}
	return out
}

// unique makes a name differ from those of the n before it: components without
// fields may be one and the same.
func unique(name string, n int, before func(int) string) string {
	taken := make(map[string]bool, n)
	for i := range n {
		taken[before(i)] = true
	}
	candidate := name
	for k := 2; taken[candidate]; k++ {
		candidate = fmt.Sprintf("%s-%d", name, k)
	}
	return candidate
}

// detectionRunner is the configuration of a loop that looks for anomalies, too.
type detectionRunner struct {
	nesting
	Detectors        []owca.Detector `yaml:"detector" required:"true" help:"What looks for anomalies: one detector, or a list, called in this order."`
	AnomaliesStorage []owca.Storage  `yaml:"anomalies_storage" help:"Where anomalies go: one storage, or a list. Without it, where the metrics go."`
}

// Validate checks what the struct tags cannot.
func (r *detectionRunner) Validate() error {
	var errs []error
	if len(r.Detectors) == 0 {
		errs = append(errs, &fieldError{"detector", errors.New("the list is empty: expected a Detector, as !ExampleDetector")})
	}
	if same(anys(r.Detectors)) {
		errs = append(errs, &fieldError{"detector", errSame})
	}
	return errors.Join(append(errs, r.validate(r.AnomaliesStorage, nil))...)
}

func (r *detectionRunner) loop(names func(any) string) run.Runner {
	out := r.nesting.loop(names)
	out.Detectors = detectors(r.Detectors, names)
	out.Anomalies = named(r.AnomaliesStorage, names)
	return out
}

// allocationRunner is the configuration of a loop that sets limits, too.
type allocationRunner struct {
	nesting
	Allocators              []owca.Allocator         `yaml:"allocator" required:"true" help:"What decides on allocations: one allocator, or a list, called in this order; of two that decide on the same, the later wins."`
	Detectors               []owca.Detector          `yaml:"detector" help:"What looks for anomalies before: one detector, or a list."`
	AnomaliesStorage        []owca.Storage           `yaml:"anomalies_storage" help:"Where anomalies go: one storage, or a list. Without it, where the metrics go."`
	AllocationsStorage      []owca.Storage           `yaml:"allocations_storage" help:"Where allocations go: one storage, or a list. Without it, where the metrics go."`
	AllocationConfiguration *allocationConfiguration `yaml:"allocation_configuration" help:"Units of allocations, and the default group of resctrl."`
	RDTMBControlRequired    bool                     `yaml:"rdt_mb_control_required" help:"Do not start where memory bandwidth cannot be allocated."`
	RDTCacheControlRequired bool                     `yaml:"rdt_cache_control_required" help:"Do not start where the L3 cache cannot be allocated."`
	RemoveAllResctrlGroups  bool                     `yaml:"remove_all_resctrl_groups" help:"Remove every group of resctrl at the start, whoever made it."`

	StateDir string `yaml:"state_dir" format:"path" help:"Directory of the journal of what was changed, from which it is undone. Empty: $STATE_DIRECTORY, as systemd sets it by StateDirectory=, or else /var/lib/owca. Cannot be changed while the agent runs."`
	OnExit   string `yaml:"on_exit" enum:"restore,keep" help:"What the end of the agent does to limits that it set: restore gives each the value from before, keep leaves them to the next agent, which takes them over if it has keep, too."`
	DryRun   bool   `yaml:"dry_run" help:"Decide, but change nothing: what would be changed is in the log and in metrics."`
	Guardian bool   `yaml:"guardian" help:"Start a small process beside the agent that restores within a second when the agent is killed. Not with on_exit: keep, nor with dry_run."`

	actor    *act.Actor // nil: nothing is to be touched
	guardian []string   // command of Start
	initial  bool       // the agent starts with it
}

func newAllocationRunner(host *measure.Host, actor *act.Actor) *allocationRunner {
	return &allocationRunner{nesting: newNesting(host), OnExit: "restore", Guardian: true, actor: actor}
}

// allocationConfiguration is how allocations are counted.
type allocationConfiguration struct {
	CPUQuotaPeriod int     `yaml:"cpu_quota_period" range:"1000..1000000" help:"Period of CPU quotas, in µs. Without an AllocationConfiguration each cgroup keeps its own."`
	CPUSharesUnit  int     `yaml:"cpu_shares_unit" range:"1000..1000000" help:"cpu.shares of a cpu_shares of 1."`
	DefaultRDTL3   *string `yaml:"default_rdt_l3" help:"L3 schemata of the default group of resctrl, as \"L3:0=ff;1=ff\"; null = all of it. Without an AllocationConfiguration they stay as they are."`
	DefaultRDTMB   *string `yaml:"default_rdt_mb" help:"MB schemata of the default group of resctrl, as \"MB:0=50;1=50\"; null = all of it. Without an AllocationConfiguration they stay as they are."`
}

const defaultSharesUnit = 1000

func newAllocationConfiguration() *allocationConfiguration {
	return &allocationConfiguration{CPUQuotaPeriod: 1000, CPUSharesUnit: defaultSharesUnit}
}

// Validate checks what the struct tags cannot.
func (r *allocationRunner) Validate() error {
	var errs []error
	if len(r.Allocators) == 0 {
		errs = append(errs, &fieldError{"allocator", errors.New("the list is empty: expected an Allocator, as !StaticAllocator")})
	}
	switch {
	case same(anys(r.Detectors)):
		errs = append(errs, &fieldError{"detector", errSame})
	case same(anys(r.Allocators), anys(r.Detectors)):
		errs = append(errs, &fieldError{"allocator", errSame})
	}
	m, _ := r.source()
	off := m.RDTEnabled != nil && !*m.RDTEnabled
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"rdt_mb_control_required", r.RDTMBControlRequired},
		{"rdt_cache_control_required", r.RDTCacheControlRequired},
		{"remove_all_resctrl_groups", r.RemoveAllResctrlGroups},
	} {
		if off && f.set {
			errs = append(errs, &fieldError{f.name, errors.New("with rdt_enabled: false resctrl is left alone")})
		}
	}
	return errors.Join(append(errs, r.validate(r.AnomaliesStorage, r.AllocationsStorage))...)
}

// reading makes it a runner that writes nothing to the host when it starts.
func (r *allocationRunner) reading() {
	m, _ := r.source()
	m.use.readOnly = true
}

// options are those of the actor.
func (r *allocationRunner) options() act.Options {
	o := act.Options{
		Units:    act.Units{SharesUnit: defaultSharesUnit},
		StateDir: stateDir(r.StateDir), Keep: r.OnExit == "keep", DryRun: r.DryRun,
	}
	if c := r.AllocationConfiguration; c != nil {
		o.Units = act.Units{QuotaPeriod: c.CPUQuotaPeriod, SharesUnit: c.CPUSharesUnit}
		all := ""
		o.DefaultL3, o.DefaultMB = cmp.Or(c.DefaultRDTL3, &all), cmp.Or(c.DefaultRDTMB, &all)
	}
	if r.Guardian && !o.Keep && !o.DryRun && r.actor != nil {
		o.Guardian = r.guardian
	}
	return o
}

// stateDir is where the journal is: as told, where systemd says, or where a
// system has such things.
func stateDir(told string) string {
	if told != "" {
		return told
	}
	if dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); dir != "" {
		return dir
	}
	return "/var/lib/owca"
}

// Start takes hold of what can be changed.
func (r *allocationRunner) Start(ctx context.Context) error {
	m, _ := r.source()
	m.use.control, m.use.removeAll = true, r.RemoveAllResctrlGroups && r.initial
	switch {
	case r.RDTCacheControlRequired:
		m.use.requires = "rdt_cache_control_required"
	case r.RDTMBControlRequired:
		m.use.requires = "rdt_mb_control_required"
	}
	if err := r.nesting.Start(ctx); err != nil {
		return err
	}
	if err := r.required(); err != nil {
		return errors.Join(err, r.Close())
	}
	if r.actor == nil {
		return nil
	}
	var err error
	if r.guardian, err = guardianCommand(r.host.Proc.Root, stateDir(r.StateDir)); err != nil {
		return errors.Join(fmt.Errorf("guardian: %w", err), r.Close())
	}
	o := r.options()
	if err := r.actor.Start(o); err != nil {
		return errors.Join(fmt.Errorf("%w%s", err, actorHint(err, o.StateDir)), r.Close())
	}
	return nil
}

// required is the error that resctrl does not allocate what it must.
func (r *allocationRunner) required() error {
	rdt := r.resctrl.RDT()
	var errs []error
	for _, c := range []struct {
		field    string
		wanted   bool
		resource string
		has      bool
	}{
		{"rdt_mb_control_required", r.RDTMBControlRequired, "memory bandwidth", rdt != nil && rdt.BandwidthControl},
		{"rdt_cache_control_required", r.RDTCacheControlRequired, "the L3 cache", rdt != nil && rdt.CacheControl},
	} {
		if c.wanted && !c.has {
			errs = append(errs, fmt.Errorf("%s: true, but this host cannot allocate %s", c.field, c.resource))
		}
	}
	return errors.Join(errs...)
}

// allocatable is what can be allocated by resctrl.
func allocatable(root string) (*resctrl.Info, error) {
	m, err := resctrl.FS{Root: root}.Mounted()
	if err != nil {
		return nil, err
	}
	return resctrl.ReadInfo(m.Dir, m.Options)
}

// actorHint says what to do so that limits can be set.
func actorHint(err error, dir string) string {
	var kernel *fs.PathError // not what the agent itself refuses, which says what to do
	if _, ok := errors.AsType[*act.OwnerError](err); ok {
		return ": chown it, or set another state_dir"
	}
	switch {
	case errors.Is(err, act.ErrHeld):
		return ", or give this one a state_dir of its own, and other tasks"
	case errors.As(err, &kernel) && errors.Is(kernel, fs.ErrPermission):
		return ": setting limits needs root or CAP_DAC_OVERRIDE, and " + dir + " must be writable: StateDirectory=owca in a unit, or state_dir; dry_run: true changes nothing"
	}
	return ""
}

func (r *allocationRunner) loop(names func(any) string) run.Runner {
	out := r.nesting.loop(names)
	out.Detectors = detectors(r.Detectors, names)
	out.Allocators = allocators(r.Allocators, names)
	out.Anomalies = named(r.AnomaliesStorage, names)
	out.Allocations = named(r.AllocationsStorage, names)
	out.Act = r.options()
	return out
}
