package decide

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/owca-project/owca"
)

// Rule gives allocations to tasks: to the one with TaskID if there is one, otherwise to those
// whose labels match, otherwise to all.
type Rule struct {
	TaskID *string           `yaml:"task_id" maxlen:"4096" help:"The task that the rule is for."`
	Labels map[string]string `yaml:"labels" format:"regexp" help:"Regular expressions, anchored at the start, by label; ignored with a task_id." example:"{app: web}"`
	Match  *string           `yaml:"match" enum:"all,any" help:"Whether all labels must match, or any; null: as the allocator says."`

	Allocations RuleAllocations `yaml:"allocations" required:"true" help:"What the tasks get."`
}

// RuleAllocations are the values of a rule by kind; nil = the rule says nothing of it.
type RuleAllocations struct {
	CPUQuota   *float64          `yaml:"cpu_quota" range:"0.." help:"Limit of CPU time, as a part of the whole host; 1 = none." example:"0.25"`
	CPUShares  *float64          `yaml:"cpu_shares" range:"0.." help:"Weight under contention, in units of cpu_shares_unit." example:"2"`
	CPUBurst   *float64          `yaml:"cpu_burst" range:"0..1" help:"CPU time beyond the quota that may be saved up, as a part of the whole host in one period." example:"0.1"`
	CPUIdle    *Switch           `yaml:"cpu_idle" help:"Run only when nobody else wants to (SCHED_IDLE)." example:"true"`
	CPUSetCPUs *string           `yaml:"cpuset_cpus" help:"CPUs, as a list." example:"0-3,8"`
	CPUSetMems *string           `yaml:"cpuset_mems" help:"NUMA nodes, as a list." example:"\"0\""`
	MemoryHigh *Bytes            `yaml:"memory_high" help:"Memory from which on the task is throttled and reclaimed from; bytes, 2Gi, max." example:"2Gi"`
	MemoryLow  *Bytes            `yaml:"memory_low" help:"Memory that is not reclaimed as long as others have some; bytes, 2Gi, max." example:"512Mi"`
	IOWeight   *float64          `yaml:"io_weight" range:"1..10000" help:"Weight of disk I/O; 100 is what a cgroup begins with." example:"50"`
	IOMax      map[string]RuleIO `yaml:"io_max" help:"Limits of devices, by number or path." example:"{/dev/sda: {wbps: 50M}}"`
	RDT        *RuleRDT          `yaml:"rdt" help:"Caches and memory bandwidth, by resctrl." example:"{name: batch, l3: 'L3:0=f', mb: 'MB:0=20'}"`
}

// RuleIO are limits of one device; nil or max = none.
type RuleIO struct {
	ReadBytes       *Bytes      `yaml:"rbps" help:"Bytes read per second."`
	WriteBytes      *Bytes      `yaml:"wbps" help:"Bytes written per second."`
	ReadOperations  *Operations `yaml:"riops" help:"Reads per second."`
	WriteOperations *Operations `yaml:"wiops" help:"Writes per second."`
}

// RuleRDT is a control group of resctrl.
type RuleRDT struct {
	Name *string `yaml:"name" help:"Group; null = one of the task's own, \"\" = the default group. Tasks with the same name share it."`
	L3   string  `yaml:"l3" help:"Schemata of the cache." example:"L3:0=ff"`
	MB   string  `yaml:"mb" help:"Schemata of memory bandwidth." example:"MB:0=50"`
}

// fieldError is about one field: package config shows where that is.
type fieldError struct {
	field string
	err   error
}

func (e *fieldError) Error() string { return e.err.Error() }

// Unwrap returns what is wrong.
func (e *fieldError) Unwrap() error { return e.err }

// Field is the name of the field.
func (e *fieldError) Field() string { return e.field }

func badField(field, format string, a ...any) error {
	return &fieldError{field, fmt.Errorf(format, a...)}
}

// Validate says what no host would take. What depends on the host (its CPUs, the form of its
// masks) is found by the plan.
func (r *RuleAllocations) Validate() error {
	var errs []error
	for _, n := range []struct {
		field    string
		value    *float64
		min, max float64
	}{
		{"cpu_quota", r.CPUQuota, 0, math.MaxFloat64},
		{"cpu_shares", r.CPUShares, 0, math.MaxFloat64},
		{"cpu_burst", r.CPUBurst, 0, 1},
		{"io_weight", r.IOWeight, 1, 10000},
	} {
		// Not "outside": NaN is neither.
		if n.value != nil && !(*n.value >= n.min && *n.value <= n.max) {
			errs = append(errs, badField(n.field, "%v is out of range", *n.value))
		}
	}
	for _, l := range []struct {
		field string
		value *string
	}{{"cpuset_cpus", r.CPUSetCPUs}, {"cpuset_mems", r.CPUSetMems}} {
		if l.value != nil {
			if err := checkList(*l.value); err != nil {
				errs = append(errs, badField(l.field, "%q: %v (expected a list as 0-3,8)", *l.value, err))
			}
		}
	}
	if r.IOMax != nil && len(r.IOMax) == 0 {
		errs = append(errs, badField("io_max", `no device (expected one as {"8:0": {wbps: 50M}})`))
	}
	for _, device := range slices.Sorted(maps.Keys(r.IOMax)) {
		if !deviceName.MatchString(device) {
			errs = append(errs, badField("io_max", `%q is no device (expected "8:0" or "/dev/sda")`, device))
		}
	}
	return errors.Join(errs...)
}

// Validate refuses 0, which is no limit of an [owca.IOLimit] and none that the kernel takes.
func (l RuleIO) Validate() error {
	var errs []error
	for _, f := range []struct {
		field string
		zero  bool
	}{
		{"rbps", l.ReadBytes != nil && *l.ReadBytes == Bytes{}},
		{"wbps", l.WriteBytes != nil && *l.WriteBytes == Bytes{}},
		{"riops", l.ReadOperations != nil && *l.ReadOperations == Operations{}},
		{"wiops", l.WriteOperations != nil && *l.WriteOperations == Operations{}},
	} {
		if f.zero {
			errs = append(errs, badField(f.field, "0 cannot be set (expected at least 1, or max for no limit)"))
		}
	}
	return errors.Join(errs...)
}

var deviceName = regexp.MustCompile(`^(\d+:\d+|/[^\s]+)$`)

// Validate checks the form; whether the host has such domains and masks, the plan does.
func (r *RuleRDT) Validate() error {
	var errs []error
	if r.Name != nil && (*r.Name == "." || *r.Name == ".." || strings.ContainsAny(*r.Name, "/\n\x00")) {
		errs = append(errs, badField("name", "%q cannot be the name of a group", *r.Name))
	}
	if r.L3 != "" && !schemataL3.MatchString(r.L3) {
		errs = append(errs, badField("l3", "%q are no schemata (expected L3:0=ff;1=ff)", r.L3))
	}
	if r.MB != "" && !schemataMB.MatchString(r.MB) {
		errs = append(errs, badField("mb", "%q are no schemata (expected MB:0=50;1=50)", r.MB))
	}
	return errors.Join(errs...)
}

// With CDP, code and data have a line each.
var (
	schemataL3 = regexp.MustCompile(`^(\s*L3(CODE|DATA)?:\s*\d+=[0-9a-fA-F]+(;\s*\d+=[0-9a-fA-F]+)*\s*(\n|$))+$`)
	schemataMB = regexp.MustCompile(`^\s*MB:\s*\d+=\s*\d+(;\s*\d+=\s*\d+)*\s*$`)
)

// checkList checks a list of CPUs or nodes in the form of the kernel's
// Documentation/admin-guide/cgroup-v2.rst: "0-4,6,8-10".
func checkList(s string) error {
	if s == "" {
		return errors.New("empty")
	}
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		a, err := strconv.ParseUint(first, 10, 16)
		if err != nil {
			return fmt.Errorf("%q is no number", first)
		}
		if !isRange {
			continue
		}
		b, err := strconv.ParseUint(last, 10, 16)
		if err != nil {
			return fmt.Errorf("%q is no number", last)
		}
		if b < a {
			return fmt.Errorf("%q is upside down", part)
		}
	}
	return nil
}

// allocations returns what a rule gives, each with the reason.
func (r *RuleAllocations) allocations(reason string) owca.Allocations {
	a := make(owca.Allocations)
	number := func(kind owca.AllocationKind, v *float64) {
		if v != nil {
			a[kind] = owca.Allocation{Number: *v, Reason: reason}
		}
	}
	text := func(kind owca.AllocationKind, v *string) {
		if v != nil {
			a[kind] = owca.Allocation{Text: *v, Reason: reason}
		}
	}
	memory := func(kind owca.AllocationKind, v *Bytes) {
		switch {
		case v == nil:
		case v.Max:
			a[kind] = owca.Allocation{Text: "max", Reason: reason}
		default:
			a[kind] = owca.Allocation{Number: float64(v.N), Reason: reason}
		}
	}
	number(owca.CPUQuota, r.CPUQuota)
	number(owca.CPUShares, r.CPUShares)
	number(owca.CPUBurst, r.CPUBurst)
	if r.CPUIdle != nil {
		idle := owca.Allocation{Reason: reason}
		if *r.CPUIdle {
			idle.Number = 1
		}
		a[owca.CPUIdle] = idle
	}
	text(owca.CPUSetCPUs, r.CPUSetCPUs)
	text(owca.CPUSetMems, r.CPUSetMems)
	memory(owca.MemoryHigh, r.MemoryHigh)
	memory(owca.MemoryLow, r.MemoryLow)
	number(owca.IOWeight, r.IOWeight)
	if r.IOMax != nil {
		limits := make(map[string]owca.IOLimit, len(r.IOMax))
		for device, l := range r.IOMax {
			limits[device] = owca.IOLimit{
				ReadBytes: limit(l.ReadBytes), WriteBytes: limit(l.WriteBytes),
				ReadOperations: limit((*Bytes)(l.ReadOperations)), WriteOperations: limit((*Bytes)(l.WriteOperations)),
			}
		}
		a[owca.IOMax] = owca.Allocation{IO: limits, Reason: reason}
	}
	if r.RDT != nil {
		a[owca.RDTGroup] = owca.Allocation{RDT: &owca.RDTAllocation{Name: r.RDT.Name, L3: r.RDT.L3, MB: r.RDT.MB}, Reason: reason}
	}
	return a
}

// limit is that of an [owca.IOLimit].
func limit(b *Bytes) uint64 {
	if b == nil {
		return 0
	}
	return b.N
}

// compiled is a rule that is ready to be matched.
type compiled struct {
	id     *owca.TaskID
	labels []labelMatch // by name; nil = every task
	any    bool
	gives  owca.Allocations
}

type labelMatch struct {
	name   string
	regexp *regexp.Regexp
}

// compile compiles a rule; match is for rules that don't say it themselves, where is "rule 2".
func (r *Rule) compile(match, where string) (compiled, error) {
	if r.Match != nil {
		match = *r.Match
	}
	if match != "all" && match != "any" {
		return compiled{}, fmt.Errorf("%s: match is %q (expected all or any)", where, match)
	}
	c := compiled{any: match == "any"}
	validate := []func() error{r.Allocations.Validate}
	for _, device := range slices.Sorted(maps.Keys(r.Allocations.IOMax)) {
		validate = append(validate, r.Allocations.IOMax[device].Validate)
	}
	if r.Allocations.RDT != nil {
		validate = append(validate, r.Allocations.RDT.Validate)
	}
	for _, validate := range validate {
		if err := validate(); err != nil {
			return c, fmt.Errorf("%s: %w", where, err)
		}
	}
	var who string
	switch {
	case r.TaskID != nil:
		id := owca.TaskID(*r.TaskID)
		c.id, who = &id, "task "+*r.TaskID
	case len(r.Labels) > 0:
		var parts []string
		for _, name := range slices.Sorted(maps.Keys(r.Labels)) {
			// Anchored at the start as Python's re.match: "web" matches "website". The group
			// keeps "a|b" together.
			re, err := regexp.Compile("^(?:" + r.Labels[name] + ")")
			if err != nil {
				return c, fmt.Errorf("%s: label %s: %w", where, name, err)
			}
			c.labels = append(c.labels, labelMatch{name, re})
			parts = append(parts, name+"="+r.Labels[name])
		}
		sep := ", "
		if c.any && len(parts) > 1 {
			sep = " or "
		}
		who = "labels " + strings.Join(parts, sep)
	default:
		who = "all tasks"
	}
	c.gives = r.Allocations.allocations(where + " (" + clip(who) + ")")
	return c, nil
}

// clip bounds what goes into every line of the log, and into the journal.
func clip(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// matches says whether a rule is for a task.
func (c *compiled) matches(t *owca.Task) bool {
	if c.id != nil {
		return t.ID == *c.id
	}
	if c.labels == nil {
		return true
	}
	for i := range c.labels {
		value, ok := t.Labels[c.labels[i].name]
		if matched := ok && c.labels[i].regexp.MatchString(value); matched == c.any {
			return matched
		}
	}
	return !c.any
}
