package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"os/signal"
	"slices"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/act"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/config"
	"github.com/owca-project/owca/internal/measure"
	"github.com/owca-project/owca/internal/run"
)

type planCommand struct {
	Config   string   `short:"c" required:"" placeholder:"FILE" help:"Configuration file."`
	JSON     bool     `help:"Print a JSON object: changes, refused, failed, unchanged."`
	Log      []string `short:"l" aliases:"log-level" sep:"none" placeholder:"[COMPONENT:]LEVEL" help:"Log level, as of owca run; default warning."`
	HostRoot string   `default:"/" placeholder:"DIR" help:"Where the root of the host is mounted, as in a container (default: /)."`
}

// Help is what --help says beyond the flags.
func (*planCommand) Help() string {
	return `One tick is run: tasks are discovered and measured, allocators are asked, and what they want is compared with what is.
Nothing is written, neither to the host nor to the storages of the configuration, so that it can be run beside an agent, whose
limits are then what is: the journal in state_dir tells them, if this user may read it. Rates need two ticks, so allocators that go by them decide as in the first one. Groups of resctrl are
planned, too, where it is mounted; what is set once at the start (default_rdt_l3, default_rdt_mb, remove_all_resctrl_groups) is
not.`
}

func (c *planCommand) Run(ctx context.Context, io stdio) error {
	if info, err := os.Stat(c.HostRoot); err != nil || !info.IsDir() {
		return &exitError{exitUsage, fmt.Errorf("--host-root %s is not a directory", c.HostRoot)}
	}
	// What act warns of is in the plan.
	levels, err := logLevelsOf(nil, append([]string{"warning", "act:error"}, c.Log...))
	if err != nil {
		return &exitError{exitUsage, err}
	}
	slog.SetDefault(slog.New(newLogHandler(io.err, levels)))
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()

	report, steady, err := c.plan(ctx)
	if ctx.Err() != nil {
		return &exitError{exitInterrupted, nil}
	}
	if report == nil {
		return err
	}
	text := appendPlan(nil, report, steady)
	if c.JSON {
		var jsonErr error
		if text, jsonErr = indentJSON(newPlanJSON(report, steady)); jsonErr != nil {
			return jsonErr
		}
	}
	if _, writeErr := io.out.Write(text); writeErr != nil {
		return fmt.Errorf("writing the plan: %w", writeErr)
	}
	if err != nil {
		return fmt.Errorf("not everything worked in this tick: %w", err)
	}
	return nil
}

// plan returns the report, nil if no tick was run, and apart from it the changes that an
// agent does not make, because they are too small.
func (c *planCommand) plan(ctx context.Context) (report *act.Report, steady []act.Change, err error) {
	data, err := config.ReadFile(c.Config)
	if err != nil {
		return nil, nil, err
	}
	host := measure.Open(c.HostRoot)
	cfg, err := decode(data, c.Config, host, nil, nil, func(p config.Problem) { slog.Warn(p.Error(), "component", "config") })
	if err != nil {
		return nil, nil, err
	}
	r, ok := cfg.Runner.(*allocationRunner)
	if !ok {
		return nil, nil, fmt.Errorf("%s: its runner has no allocator, so that it changes nothing: expected !AllocationRunner", c.Config)
	}
	r.reading()
	// Storages would open files and ports that an agent may have.
	parts := slices.DeleteFunc(slices.Clone(cfg.parts), func(p *config.Instance) bool {
		_, isStorage := p.Value.(owca.Storage)
		return isStorage
	})
	if err := startParts(ctx, parts); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", c.Config, err)
	}
	defer closeParts(parts)
	next := cfg.loop()
	next.Act.DryRun, next.Act.Guardian = true, nil
	next.Interval = max(next.Interval, unhurried)
	cpus := 0
	loop := run.New(host, act.New(c.HostRoot), run.Build(buildInfo()), func(s *owca.Snapshot) { cpus = s.Platform.CPUs })
	made, err := loop.Plan(ctx, next)
	leases, _, _, journalErr := act.ReadJournal(next.Act.StateDir)
	if journalErr != nil && !errors.Is(journalErr, fs.ErrNotExist) {
		slog.Warn("the journal of what owca holds cannot be read: changes may be shown that are too small for an agent to make",
			"component", "act", "state_dir", next.Act.StateDir, "error", journalErr)
	}
	made.Changes, steady = withoutSteady(made.Changes, leases, next.Act.Units, cpus)
	return &made, steady, err
}

// leastChange is what a cpu_quota or cpu_shares that is held has to change by; see
// docs/allocation.md.
const leastChange = 0.05

// withoutSteady takes out of a plan, which does not know what is leased, the changes of a
// quota or of shares that an agent with these leases would not make.
func withoutSteady(changes []act.Change, leases []act.Lease, units act.Units, cpus int) (made, steady []act.Change) {
	type decision struct {
		task owca.TaskID
		kind owca.AllocationKind
	}
	type sums struct{ held, wanted, cgroups float64 }
	held := make(map[act.Target]*act.Lease, len(leases))
	all := map[decision]*sums{}
	number := func(l *act.Lease, value string) float64 {
		_, a, ok := act.Current(units, cpus, l.Knob, value)
		if !ok {
			return math.NaN() // and so is the sum, which is never small
		}
		return a.Number
	}
	for i := range leases {
		l := &leases[i]
		numeric := l.Kind == owca.CPUQuota && l.Knob == cgroup.CPUMax || l.Kind == owca.CPUShares && l.Knob != cgroup.CPUIdleFlag
		if l.Cgroup == "" || !numeric {
			continue
		}
		held[l.Target] = l
		s := all[decision{l.For, l.Kind}]
		if s == nil {
			s = &sums{}
			all[decision{l.For, l.Kind}] = s
		}
		n := number(l, l.New)
		s.held, s.wanted, s.cgroups = s.held+n, s.wanted+n, s.cgroups+1
	}
	for i := range changes {
		c := &changes[i]
		s := all[decision{c.For, c.Kind}]
		if s == nil {
			continue
		}
		l := held[c.Target]
		if l == nil || c.Release || l.For != c.For || l.Kind != c.Kind || !c.Knob.Equal(c.Old, l.New) || c.ID != l.ID {
			s.wanted = math.NaN()
			continue
		}
		s.wanted += number(l, c.New) - number(l, l.New)
	}
	for _, c := range changes {
		s := all[decision{c.For, c.Kind}]
		if s == nil {
			made = append(made, c)
			continue
		}
		change := math.Abs(s.wanted - s.held) // cgroups of a task share a quota
		if c.Kind == owca.CPUShares {
			change /= s.cgroups // each has all of them
		}
		if change <= leastChange {
			steady = append(steady, c)
		} else {
			made = append(made, c)
		}
	}
	return made, steady
}

// appendPlan appends a plan as a review: by task, what changes and why.
func appendPlan(b []byte, r *act.Report, steady []act.Change) []byte {
	if len(r.Changes) == 0 {
		b = append(b, "no changes\n"...)
	}
	changes := slices.Clone(r.Changes)
	slices.SortStableFunc(changes, func(x, y act.Change) int { return cmp.Compare(x.For, y.For) })
	for i := range changes {
		c := &changes[i]
		if i == 0 || changes[i-1].For != c.For {
			b = separate(b)
			b = append(appendClean(b, string(c.For)), '\n')
		}
		b = append(b, "  "...)
		b = appendSpaces(appendClean(b, string(c.Kind)), kindWidth-len(c.Kind))
		b = append(appendClean(appendClean(b, whereText(c)+"  "), changeText(c)), '\n')
		why := cmp.Or(c.Reason, "no reason given")
		if c.Release {
			why = "given back: " + why
		}
		b = appendClean(appendSpaces(b, 2+kindWidth), why+", by "+cmp.Or(c.Owner, "owca"))
		if c.Note != "" {
			b = appendClean(append(b, "; "...), c.Note)
		}
		b = append(b, '\n')
	}
	if len(steady) > 0 {
		b = fmt.Appendf(b, "\nunchanged, as it is within %v of what is held\n", leastChange)
	}
	for i := range steady {
		c := &steady[i]
		b = append(appendClean(append(b, "  "...), string(c.For)+" "+string(c.Kind)+": "+whereText(c)+"  "+changeText(c)), '\n')
	}
	if len(r.Refused) > 0 {
		b = append(b, "\nrefused\n"...)
	}
	for i := range r.Refused {
		f := &r.Refused[i]
		b = append(appendClean(appendClean(append(b, "  "...), string(f.Task)+" "+string(f.Kind)+": "), f.Reason), '\n')
	}
	if len(r.Failed) > 0 {
		b = append(b, "\nfailed\n"...)
	}
	for i := range r.Failed {
		f := &r.Failed[i]
		b = append(appendClean(appendClean(append(b, "  "...), string(f.For)+" "+whereText(&f.Change)+": "), f.Err.Error()), '\n')
	}
	if n := len(changes); n > 0 {
		b = fmt.Appendf(b, "\n%s; owca run would make %s\n", countOf(n, "change"), map[bool]string{true: "it", false: "them"}[n == 1])
	}
	return b
}

// kindWidth is the column of kinds, the longest of which is cpuset_cpus.
const kindWidth = 13

// countOf: "1 change", "2 changes".
func countOf(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// planJSON is a plan as JSON. Its keys don't change.
type planJSON struct {
	Changes []planChangeJSON  `json:"changes"`
	Refused []planRefusalJSON `json:"refused"`
	Failed  []planFailureJSON `json:"failed"`
	// Unchanged would be changes if they were larger.
	Unchanged []planChangeJSON `json:"unchanged"`
}

type planChangeJSON struct {
	limitJSON
	Release bool   `json:"release"`
	Note    string `json:"note"`
}

type planRefusalJSON struct {
	Task   string `json:"task"`
	Kind   string `json:"kind"`
	Reason string `json:"reason"`
}

type planFailureJSON struct {
	limitJSON
	Error string `json:"error"`
}

func newPlanJSON(r *act.Report, steady []act.Change) planJSON {
	p := planJSON{Changes: []planChangeJSON{}, Refused: []planRefusalJSON{}, Failed: []planFailureJSON{}, Unchanged: []planChangeJSON{}}
	for i := range steady {
		c := &steady[i]
		p.Unchanged = append(p.Unchanged, planChangeJSON{newLimitJSON(c), c.Release, c.Note})
	}
	for i := range r.Changes {
		c := &r.Changes[i]
		p.Changes = append(p.Changes, planChangeJSON{newLimitJSON(c), c.Release, c.Note})
	}
	for i := range r.Refused {
		f := &r.Refused[i]
		p.Refused = append(p.Refused, planRefusalJSON{string(f.Task), string(f.Kind), f.Reason})
	}
	for i := range r.Failed {
		f := &r.Failed[i]
		p.Failed = append(p.Failed, planFailureJSON{newLimitJSON(&f.Change), f.Err.Error()})
	}
	return p
}
