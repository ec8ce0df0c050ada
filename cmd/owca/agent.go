package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/act"
	"github.com/owca-project/owca/internal/config"
	"github.com/owca-project/owca/internal/measure"
	"github.com/owca-project/owca/internal/run"
)

// agent is the running program: the loop and the components that the
// configuration in force is made of.
type agent struct {
	host  *measure.Host
	actor *act.Actor
	path  string   // of the configuration, "" = automatic
	flags []string // --log
	logs  *logHandler
	loop  *run.Loop
	taken bool // the loop has run, and closed the actor

	mu      sync.Mutex // one reload at a time
	inForce *loaded
	stamp   fileStamp // of the file when it was last read
}

// start reads the configuration and starts its components, innermost first.
func (a *agent) start(ctx context.Context) (run.Runner, error) {
	data, name, err := a.read()
	if err != nil {
		return run.Runner{}, err
	}
	c, err := a.decode(data, name, nil)
	if err != nil {
		return run.Runner{}, err
	}
	if r, ok := c.Runner.(*allocationRunner); ok {
		r.initial = true
	}
	if err := startParts(ctx, c.parts); err != nil {
		return run.Runner{}, fmt.Errorf("%s: %w", name, err)
	}
	a.logs.levels.Store(&c.levels)
	a.inForce = c
	return c.loop(), nil
}

// loaded is a configuration that was decoded without a problem.
type loaded struct {
	configuration
	data   []byte             // what it was decoded from
	parts  []*config.Instance // every component, innermost first
	names  map[any]string     // of the components
	levels logLevels
}

// loop is what the configuration makes the loop do, with the storages that are
// among its parts.
func (c *loaded) loop() run.Runner {
	r := c.Runner.loop(func(component any) string { return c.names[component] })
	missing := func(s run.Storage) bool {
		return !slices.ContainsFunc(c.parts, func(p *config.Instance) bool { return p.Value == any(s.Storage) })
	}
	r.Storages = slices.DeleteFunc(r.Storages, missing)
	// What was a list stays one, though it be empty: nil stands for Storages.
	r.Anomalies = slices.DeleteFunc(r.Anomalies, missing)
	r.Allocations = slices.DeleteFunc(r.Allocations, missing)
	return r
}

// decode makes the components of a configuration without starting them; those
// that previous has, unchanged, are taken from there. host may be nil if
// nothing will be started, actor if nothing will be changed.
func decode(data []byte, name string, host *measure.Host, actor *act.Actor, previous *loaded, warn func(config.Problem)) (*loaded, error) {
	c := loaded{data: data}
	if previous == nil {
		previous = &loaded{}
	}
	parts, err := config.NewRegistry(components(host, actor)...).Decode(data, config.Options{
		File: name, Previous: previous.parts, Warn: warn,
	}, &c.configuration)
	c.parts, c.names = parts, namesOf(parts, previous.names)
	return &c, err
}

// notDone is something that a configuration asks for and this version lacks.
type notDone struct {
	line int
	what string
}

func (c *loaded) missing() []notDone {
	var list []notDone
	for _, p := range c.parts {
		if n, ok := p.Value.(interface{ notYet() []string }); ok {
			for _, what := range n.notYet() {
				list = append(list, notDone{p.Line, what})
			}
		}
	}
	return list
}

// decode also sets the log levels and tells what is missing.
func (a *agent) decode(data []byte, name string, previous *loaded) (*loaded, error) {
	c, err := decode(data, name, a.host, a.actor, previous, func(p config.Problem) { slog.Warn(p.Error(), "component", "config") })
	if err != nil {
		return nil, err
	}
	if c.levels, err = logLevelsOf(c.Loggers, a.flags); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for _, m := range c.missing() {
		slog.Warn("the configuration asks for what this version lacks", "component", "config", "file", name, "line", m.line, "what", m.what)
	}
	return c, nil
}

// startParts starts components; if one fails, or ctx ends, those already started are
// closed.
func startParts(ctx context.Context, parts []*config.Instance) error {
	for i, p := range parts {
		if ctx.Err() != nil {
			closeParts(parts[:i])
			return context.Cause(ctx)
		}
		s, ok := p.Value.(owca.Starter)
		if !ok {
			continue
		}
		if err := s.Start(ctx); err != nil {
			closeParts(parts[:i])
			return fmt.Errorf("line %d: %s: %w", p.Line, p.Tag, err)
		}
	}
	return nil
}

// closeParts closes components, outermost first.
func closeParts(parts []*config.Instance) {
	for _, p := range slices.Backward(parts) {
		if c, ok := p.Value.(owca.Closer); ok {
			if err := c.Close(); err != nil {
				slog.Warn("closing a component", "component", "config", "tag", p.Tag, "error", err)
			}
		}
	}
}

func (a *agent) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.taken {
		if err := a.actor.Close(); err != nil {
			slog.Error("giving back what was changed", "component", "act", "error", err)
		}
	}
	if a.inForce != nil {
		closeParts(a.inForce.parts)
	}
}

// without returns the parts of a whose values are not in b.
func without(a, b []*config.Instance) []*config.Instance {
	var list []*config.Instance
	for _, p := range a {
		if !slices.ContainsFunc(b, func(q *config.Instance) bool { return p.Value == q.Value }) {
			list = append(list, p)
		}
	}
	return list
}

// reload reads the configuration again. It is validated and its new components
// are started before the loop takes it over, between two ticks; on any error
// the configuration in force stays. Components that did not change stay as
// they are, with their state.
func (a *agent) reload(ctx context.Context, why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := a.replace(ctx)
	if ctx.Err() != nil {
		return
	}
	a.loop.Reloaded(err == nil)
	if err != nil {
		slog.Error("the configuration was not reloaded; the old one stays in force", "component", "config", "why", why, "file", a.path, "error", err)
		return
	}
	slog.Info("configuration reloaded", "component", "config", "why", why, "file", a.path)
}

func (a *agent) replace(ctx context.Context) error {
	data, name, err := a.read()
	if err != nil {
		return err
	}
	next, err := a.decode(data, name, a.inForce)
	if err != nil {
		return err
	}
	fresh, unused := without(next.parts, a.inForce.parts), without(a.inForce.parts, next.parts)
	err = startParts(ctx, fresh)
	if errors.Is(err, syscall.EADDRINUSE) && len(unused) > 0 {
		// Most likely it is the old one of the same storage that holds the
		// port, so that one has to go first.
		return a.handOver(ctx, data, name)
	}
	if err != nil {
		return err
	}
	return a.swap(ctx, next, fresh, unused)
}

// swap makes the loop go on with next, whose fresh components are started, and
// closes those that it does not use.
func (a *agent) swap(ctx context.Context, next *loaded, fresh, unused []*config.Instance) error {
	if err := a.loop.Swap(ctx, next.loop()); err != nil {
		closeParts(fresh)
		return err
	}
	closeParts(unused)
	a.logs.levels.Store(&next.levels)
	a.inForce = next
	return nil
}

// handOver replaces a configuration whose storages cannot run beside those of
// the one in force. For that moment the loop runs without the storages that
// change; should the new ones fail, the old ones are made and started again.
func (a *agent) handOver(ctx context.Context, data []byte, name string) error {
	next, err := a.decode(data, name, a.inForce)
	if err != nil {
		return err
	}
	old := a.inForce
	fresh, unused := without(next.parts, old.parts), without(old.parts, next.parts)
	storages := slices.DeleteFunc(slices.Clone(unused), func(p *config.Instance) bool {
		_, ok := p.Value.(owca.Storage)
		return !ok
	})
	all := old.parts
	old.parts = without(all, storages)
	if err := a.loop.Swap(ctx, old.loop()); err != nil {
		old.parts = all
		return err
	}
	closeParts(storages)
	if err = startParts(ctx, fresh); err == nil {
		return a.swap(ctx, next, fresh, without(unused, storages))
	}

	back, again := a.decode(old.data, name, old)
	if again == nil {
		fresh := without(back.parts, old.parts)
		if again = startParts(ctx, fresh); again == nil {
			again = a.swap(ctx, back, fresh, nil)
		}
	}
	if again != nil {
		return fmt.Errorf("%w; going back failed, too, so some storages are missing now: %w", err, again)
	}
	return err
}

// watch reloads the configuration when its file changed. It compares what
// stat(2) tells, every second, which also sees a file that was replaced, and
// the changed symbolic link of a mounted ConfigMap.
func (a *agent) watch(ctx context.Context) {
	if a.path == "" {
		return
	}
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			a.mu.Lock()
			now := stampOf(a.path)
			changed := now != a.stamp && now != (fileStamp{})
			a.mu.Unlock()
			if changed {
				a.reload(ctx, "file changed")
			}
		}
	}
}

type fileStamp struct {
	dev, ino uint64
	size     int64
	changed  syscall.Timespec // ctime: also when the mode changed
}

// stampOf is zero while the file is not there, as between two steps of an editor.
func stampOf(path string) fileStamp {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return fileStamp{}
	}
	return fileStamp{st.Dev, st.Ino, st.Size, st.Ctim}
}
