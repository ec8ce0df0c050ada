package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"slices"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/act"
	"github.com/owca-project/owca/internal/config"
	"github.com/owca-project/owca/internal/measure"
	"github.com/owca-project/owca/internal/run"
)

type planCommand struct {
	Config   string   `short:"c" required:"" placeholder:"FILE" help:"Configuration file."`
	JSON     bool     `help:"Print a JSON object: changes, refused, failed."`
	Log      []string `short:"l" aliases:"log-level" sep:"none" placeholder:"[COMPONENT:]LEVEL" help:"Log level, as of owca run; default warning."`
	HostRoot string   `default:"/" placeholder:"DIR" help:"Where the root of the host is mounted, as in a container (default: /)."`
}

// Help is what --help says beyond the flags.
func (*planCommand) Help() string {
	return `One tick is run: tasks are discovered and measured, allocators are asked, and what they want is compared with what is.
Nothing is written, neither to the host nor to the storages of the configuration, so that it can be run beside an agent. What
the journal in state_dir says that one holds, if this user may read it, is taken as with on_exit: keep: what the allocators'
first decision does not mention is given back, and so is all of those that are not in FILE any more. Not shown are limits of tasks
that are not found any more, which are given back a minute later, and what is set once at the start (default_rdt_l3,
default_rdt_mb, remove_all_resctrl_groups). Rates need two ticks, so allocators that go by them decide as in the first one.
Groups of resctrl are planned, too, where it is mounted.`
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

	report, err := c.plan(ctx, io)
	if ctx.Err() != nil {
		return &exitError{exitInterrupted, nil}
	}
	if report == nil {
		return err
	}
	text := appendPlan(nil, report)
	if c.JSON {
		var jsonErr error
		if text, jsonErr = indentJSON(newPlanJSON(report)); jsonErr != nil {
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

// plan returns the report, nil if no tick was run.
func (c *planCommand) plan(ctx context.Context, io stdio) (*act.Report, error) {
	data, err := config.ReadFile(c.Config)
	if err != nil {
		return nil, err
	}
	host := measure.Open(c.HostRoot)
	cfg, err := decode(data, c.Config, host, nil, nil, func(p config.Problem) { slog.Warn(p.Error(), "component", "config") })
	if err != nil {
		return nil, err
	}
	r, ok := cfg.Runner.(*allocationRunner)
	if !ok {
		return nil, fmt.Errorf("%s: its runner has no allocator, so that it changes nothing: expected !AllocationRunner", c.Config)
	}
	r.reading()
	// Storages would open files and ports that an agent may have.
	parts := slices.DeleteFunc(slices.Clone(cfg.parts), func(p *config.Instance) bool {
		_, isStorage := p.Value.(owca.Storage)
		return isStorage
	})
	if err := startParts(ctx, parts); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Config, err)
	}
	defer closeParts(parts)
	next := cfg.loop()
	next.Act.DryRun, next.Act.Guardian = true, nil
	next.Interval = max(next.Interval, unhurried)
	leases, told, err := c.held(next.Act.StateDir)
	for _, t := range told {
		fmt.Fprintf(io.err, "owca: %s\n", t)
	}
	if err != nil {
		fmt.Fprintf(io.err, "owca: what an agent holds is not known, so that it counts as somebody else's: %v\n", err)
	}
	made, err := run.New(host, act.New(c.HostRoot), run.Build(buildInfo()), nil).Plan(ctx, next, leases)
	return &made, err
}

// held are the leases that the host still has; told is what is odd about the journal.
func (c *planCommand) held(dir string) (leases []act.Lease, told []string, err error) {
	all, _, told, err := act.ReadJournal(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil // no agent ever was
	}
	host := leaseReader{root: c.HostRoot}
	defer host.close()
	for _, l := range all {
		switch s := host.state(&l); {
		case s.state == leaseGone:
			continue
		case s.state != leaseChanged || l.Yielded: // a group is still ours when somebody else has set it
		case l.Cgroup != "":
			l.Yielded = true // an agent will find it so
		case l.Task != "":
			continue
		}
		leases = append(leases, l)
	}
	return leases, told, err
}

// appendPlan appends a plan as a review: by task, what changes and why.
func appendPlan(b []byte, r *act.Report) []byte {
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

func newPlanJSON(r *act.Report) planJSON {
	p := planJSON{Changes: []planChangeJSON{}, Refused: []planRefusalJSON{}, Failed: []planFailureJSON{}}
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
