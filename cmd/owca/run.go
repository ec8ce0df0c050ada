package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/owca-project/owca/examples"
	"github.com/owca-project/owca/internal/act"
	"github.com/owca-project/owca/internal/config"
	"github.com/owca-project/owca/internal/measure"
	"github.com/owca-project/owca/internal/run"
)

type runCommand struct {
	Config   string   `short:"c" placeholder:"FILE" help:"Configuration file. Without one: every task of this host to a Prometheus endpoint on 127.0.0.1:9179 (see examples/automatic.yaml)."`
	Log      []string `short:"l" aliases:"log-level" sep:"none" placeholder:"[COMPONENT:]LEVEL" help:"Log level: trace, debug, info, warning, error or critical; of one component, if named. Repeatable."`
	Register []string `short:"r" sep:"none" placeholder:"PLUGIN" help:"Load a component from outside. Repeatable."`
	Root     bool     `short:"0" help:"Run although this is root."`
	Once     bool     `help:"Run one tick and exit. Rates need two ticks, so there are none. What an allocator changed is restored at once, unless on_exit: keep."`
	HostRoot string   `default:"/" placeholder:"DIR" help:"Where the root of the host is mounted, as in a container (default: /)."`
	Output   string   `default:"auto" enum:"auto,table,lines,none" help:"What to show of the tasks on stdout: a live table, plain lines, or nothing. auto: the table on a terminal; otherwise lines without --config, nothing with it."`
	Version  bool     `short:"v" help:"Print the version and exit."`
}

func (c *runCommand) Run(ctx context.Context, io stdio) error {
	if c.Version {
		return versionCommand{}.Run(io)
	}
	if len(c.Register) > 0 {
		return &exitError{exitFailed, fmt.Errorf("--register %s: components from outside are not part of this version", strings.Join(c.Register, ", "))}
	}
	levels, err := logLevelsOf(nil, c.Log)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	if os.Geteuid() == 0 && !c.Root {
		return &exitError{exitUsage, errors.New(refuseRoot)}
	}
	if info, err := os.Stat(c.HostRoot); err != nil || !info.IsDir() {
		return &exitError{exitUsage, fmt.Errorf("--host-root %s is not a directory", c.HostRoot)}
	}

	if os.Getenv("GOGC") == "" {
		// A tick allocates next to nothing, so that collections are rare
		// whatever this is; what it decides is how large the heap stays after
		// the burst of a start or of new tasks.
		debug.SetGCPercent(40)
	}
	// Slices grew while the first ticks filled them; what they grew out of goes
	// back to the kernel now and not at some later collection.
	time.AfterFunc(5*time.Second, debug.FreeOSMemory)
	show := newDisplay(c.Output, c.Config == "", io)
	logs := newLogHandler(show.logWriter(io.err), levels)
	slog.SetDefault(slog.New(logs))

	host := measure.Open(c.HostRoot)
	a := &agent{host: host, actor: act.New(c.HostRoot), path: c.Config, flags: c.Log, logs: logs}
	a.loop = run.New(host, a.actor, run.Build(buildInfo()), show.observe)
	// Before the start, which may mount resctrl.
	ctx, stopped := context.WithCancelCause(ctx)
	defer stopped(nil)
	reload := a.obey(ctx, stopped, c.Once)
	runner, err := a.start(ctx)
	if err == nil {
		defer a.close()
	}
	switch {
	case ctx.Err() != nil: // whatever a start says that was broken off
		return c.ended(ctx)
	case err != nil:
		return err
	}

	if c.Once {
		a.taken = true
		runner.Interval = max(runner.Interval, unhurried)
		err := a.loop.Once(ctx, runner)
		if ctx.Err() != nil {
			return errors.Join(c.ended(ctx), show.close())
		}
		if err != nil {
			return errors.Join(fmt.Errorf("not everything worked in this tick: %w", err), show.close())
		}
		return show.close()
	}
	go a.reloads(ctx, reload)
	go a.watch(ctx)
	if err := show.open(ctx, func(interrupted bool) {
		if interrupted {
			stopped(errInterrupted)
		}
		stopped(errors.New("stopped by q"))
	}); err != nil {
		return err
	}
	slog.Info("owca runs", "component", "run", "version", buildInfo().Version, "interval", runner.Interval, "config", a.source())
	a.taken = true
	a.loop.Run(ctx, runner)
	if err := show.close(); err != nil {
		return err
	}
	return c.ended(ctx)
}

// unhurried is the least interval of a single tick: no other waits for its detectors
// and allocators to answer.
const unhurried = 10 * time.Second

// ended is the result of an agent that was told to end. One that was to run one tick has
// not.
func (c *runCommand) ended(ctx context.Context) error {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errInterrupted):
		return &exitError{exitInterrupted, nil}
	case c.Once:
		return cause
	}
	return nil
}

const refuseRoot = `refusing to run as root: it is not needed.
Run it as an ordinary user; measuring cgroups needs no capability. For more the user needs, by a systemd unit's
AmbientCapabilities= or from the container runtime:
  CAP_PERFMON       performance counters
  CAP_BPF           performance counters of many tasks at little cost
  CAP_DAC_OVERRIDE  cache and memory bandwidth monitoring: make resctrl groups
  CAP_SETUID        and put other users' tasks into them
  CAP_SYS_NICE      with an allocator: a nice value that keeps a busy host from starving the agent
With an allocator, CAP_DAC_OVERRIDE is also what setting limits of cgroups needs.
To run as root all the same, say --root (-0)`

var errInterrupted = errors.New("interrupted")

// obey ends the agent on SIGINT and SIGTERM, a second one at once. SIGHUP comes out of
// the result; without a configuration to reload, and in one tick, it means that the terminal has gone.
func (a *agent) obey(ctx context.Context, stop context.CancelCauseFunc, once bool) (reload chan os.Signal) {
	end, hup := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	if a.path == "" || once {
		signal.Notify(end, syscall.SIGHUP)
	} else {
		signal.Notify(hup, syscall.SIGHUP)
	}
	go func() {
		defer signal.Stop(end)
		select {
		case <-ctx.Done():
		case s := <-end:
			if s == syscall.SIGINT {
				stop(errInterrupted)
			}
			stop(fmt.Errorf("stopped by %v", s))
		}
	}()
	return hup
}

// reloads reloads the configuration on each SIGHUP. A reload that takes long does not
// keep other signals waiting.
func (a *agent) reloads(ctx context.Context, reload chan os.Signal) {
	defer signal.Stop(reload)
	for {
		select {
		case <-ctx.Done():
			return
		case <-reload:
			a.reload(ctx, "SIGHUP")
		}
	}
}

// source is where the configuration comes from, for messages.
func (a *agent) source() string {
	if a.path == "" {
		return "automatic"
	}
	return a.path
}

// read reads the configuration. Later changes of its file are those after this.
func (a *agent) read() (data []byte, name string, err error) {
	if a.path == "" {
		return examples.Automatic, "automatic.yaml", nil
	}
	a.stamp = stampOf(a.path)
	data, err = config.ReadFile(a.path)
	return data, a.path, err
}

// namesOf gives each component a name of its own: its tag, numbered where there are
// several. Those that previous has keep the name that they had, as their
// state and what they own go by it.
func namesOf(parts []*config.Instance, previous map[any]string) map[any]string {
	names := make(map[any]string, len(parts))
	taken := make(map[string]bool, len(parts))
	for _, p := range parts {
		if name, ok := previous[p.Value]; ok && !taken[name] {
			names[p.Value] = name
			taken[name] = true
		}
	}
	for _, p := range parts {
		if _, ok := names[p.Value]; ok {
			continue
		}
		name := p.Tag
		for n := 2; taken[name]; n++ {
			name = fmt.Sprintf("%s-%d", p.Tag, n)
		}
		names[p.Value] = name
		taken[name] = true
	}
	return names
}
