package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/act"
	"github.com/owca-project/owca/internal/measure"
	"github.com/owca-project/owca/internal/run"
	"github.com/owca-project/owca/internal/store"
)

const (
	lateCommand = "late"
	hogCommand  = "hog"
)

// actTasks is how many tasks there are while acting is measured.
const actTasks = 1000

// acting measures what deciding and acting cost: in ticks that change nothing, as a part
// of them; of changes, beside the least that they can cost; and how late ticks are on a
// host that is busy, with and without the weight that the agent gives itself.
func acting(ctx context.Context, h *host, r *report, o *options) (err error) {
	switch {
	case o.tasks >= actTasks:
	case o.act:
		return fmt.Errorf("acting is measured with %d tasks: -tasks %d leaves that out", actTasks, o.tasks)
	default:
		return nil
	}
	if err := h.grow(ctx, actTasks); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "owca-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for _, leases := range []bool{false, true} {
		if err := unchanged(ctx, h, r, o, filepath.Join(dir, "state"), leases); err != nil {
			return fmt.Errorf("ticks without a change: %w", err)
		}
	}
	if err := changes(ctx, h, r, o, dir); err != nil {
		return fmt.Errorf("changes: %w", err)
	}
	if err := busy(ctx, h, r, dir); err != nil {
		return fmt.Errorf("a busy host: %w", err)
	}
	return nil
}

// steady is an allocator that always decides the same.
type steady struct{ decision owca.Decision }

func (s *steady) Allocate(context.Context, *owca.Snapshot) (owca.Decision, error) {
	return s.decision, nil
}

// fixed is a node whose tasks are always the same.
type fixed struct{ tasks []owca.Task }

func newFixed(paths []string) *fixed {
	f := &fixed{}
	for _, path := range paths {
		f.tasks = append(f.tasks, owca.Task{ID: owca.TaskID(path), Name: filepath.Base(path), Cgroups: []string{path}})
	}
	return f
}

func (f *fixed) Tasks(context.Context) ([]owca.Task, error) { return f.tasks, nil }

// stages adds up what the stages of ticks took, as the agent tells it.
type stages struct {
	scrape
	ticks   int
	of      map[string]time.Duration // since the last block
	percent map[string][]float64     // of the whole tick, a value a block
	leases  uint64
	errors  uint64
	stop    func()
	last    int // ticks there shall be
}

func (s *stages) Store(ctx context.Context, metrics []owca.Metric) error {
	for i := range metrics {
		switch m := &metrics[i]; m.Desc {
		case owca.AgentDuration:
			ns, _ := m.Value.IsInt()
			s.of[m.Label] += time.Duration(ns)
		case owca.AgentLeases:
			s.leases, _ = m.Value.IsInt()
		case owca.AgentErrors:
			if m.Label == "act" {
				s.errors, _ = m.Value.IsInt()
			}
		}
	}
	s.ticks++
	if s.ticks%block == 0 {
		if s.ticks > warm {
			whole := time.Duration(0)
			for _, took := range s.of {
				whole += took
			}
			for stage, took := range s.of {
				s.percent[stage] = append(s.percent[stage], 100*took.Seconds()/whole.Seconds())
			}
		}
		clear(s.of)
	}
	err := s.scrape.Store(ctx, metrics)
	if s.ticks == s.last {
		s.stop()
	}
	return err
}

// quotas are a decision on the CPU quota of each task.
func quotas(paths []string, quota float64) map[owca.TaskID]owca.Allocations {
	all := make(map[owca.TaskID]owca.Allocations, len(paths))
	for _, path := range paths {
		all[owca.TaskID(path)] = owca.Allocations{owca.CPUQuota: {Number: quota, Reason: "bench"}}
	}
	return all
}

// unchanged runs ticks in which each task has a limit, that is decided again and again,
// or none.
func unchanged(ctx context.Context, h *host, r *report, o *options, state string, leases bool) error {
	progress("ticks with %d tasks that change nothing, leases: %v", actTasks, leases)
	measured := measure.Open("/")
	if measured.CgroupError != nil {
		return measured.CgroupError
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s := &stages{
		scrape: scrape{prometheus: store.NewPrometheus(), encoder: store.NewEncoder(store.EncoderOptions{})},
		of:     map[string]time.Duration{}, percent: map[string][]float64{},
		stop: stop, last: warm + max(1, o.ticks*o.rounds/block)*block,
	}
	const interval = 200 * time.Millisecond
	runner := run.Runner{
		Node:     newFixed(h.tasks[:actTasks]),
		Storages: []run.Storage{{Name: "PrometheusStorage", Storage: s}},
		Interval: interval,
		Tasks: measure.TaskOptions{
			MemoryStat: 10 * interval, NUMA: 60 * interval, Limits: 30 * interval,
			RunQueue: 10 * interval, RunQueueThreads: 1000,
		},
		Platform: measure.PlatformOptions{SlowInterval: 10 * interval},
		Derived:  true,
		Act:      act.Options{StateDir: state, Units: act.Units{SharesUnit: 1000}},
	}
	allocator := &steady{}
	want, name := uint64(0), "act_unchanged"
	if leases {
		allocator.decision.Allocations = quotas(h.tasks[:actTasks], 0.5)
		want, name = actTasks, "act_unchanged_leases"
	}
	runner.Allocators = []run.Allocator{{Name: "steady", Allocator: allocator}}
	actor := act.New("/")
	if err := actor.Start(runner.Act); err != nil {
		return err
	}
	runtime.GC()
	run.New(measured, actor, run.Build{Version: "bench"}, nil).Run(ctx, runner)
	switch {
	case s.ticks < s.last:
		return ctx.Err()
	case s.leases < want || s.leases > want+1: // one may be of the agent's own weight
		return fmt.Errorf("there are %d leases, not %d", s.leases, want)
	case s.errors > 0:
		return fmt.Errorf("%d errors of acting", s.errors)
	}
	r.put(fmt.Sprintf("%s_percent_%d", name, actTasks), median(s.percent["act"]), "percent")
	if !leases {
		// An allocator that does nothing takes what it takes to hand it the snapshot.
		r.put(fmt.Sprintf("snapshot_percent_%d", actTasks), median(s.percent["decide"]), "percent")
	}
	return nil
}

// changes makes a change in each task by an actor, and by nothing but writing to the file
// of each, with one fsync of as much as a journal needs, in turns.
func changes(ctx context.Context, h *host, r *report, o *options, dir string) error {
	progress("%d changes", actTasks)
	paths := h.tasks[:actTasks]
	names, text, err := quotaFiles(h, paths)
	if err != nil {
		return err
	}
	journal, err := os.Create(filepath.Join(dir, "floor"))
	if err != nil {
		return err
	}
	defer journal.Close()
	bare := func(quota int) (time.Duration, error) {
		start := time.Now()
		value := fmt.Appendf(nil, text, quota)
		for _, name := range names {
			f, err := os.OpenFile(name, os.O_WRONLY, 0)
			if err != nil {
				return 0, err
			}
			_, err = f.Write(value)
			if err := errors.Join(err, f.Close()); err != nil {
				return 0, err
			}
		}
		if _, err := journal.Write(make([]byte, 200*len(names))); err != nil {
			return 0, err
		}
		if err := journal.Sync(); err != nil {
			return 0, err
		}
		return time.Since(start), nil
	}

	options := act.Options{StateDir: filepath.Join(dir, "changes"), Units: act.Units{SharesUnit: 1000}}
	actor := act.New("/")
	if err := actor.Start(options); err != nil {
		return err
	}
	actor.SetOptions(options)
	var tasks []owca.TaskData
	for _, t := range newFixed(paths).tasks {
		tasks = append(tasks, owca.TaskData{Task: t})
	}
	apply := func(quota float64) (time.Duration, error) {
		decided := []act.Decided{{Owner: "bench", Allocations: quotas(paths, quota)}}
		now := time.Now()
		actor.Observe(now, tasks)
		start := time.Now()
		report, err := actor.Apply(now, tasks, decided)
		took := time.Since(start)
		if err == nil && len(report.Changes) != actTasks {
			err = fmt.Errorf("%d changes were made, %d failed and %d were refused", len(report.Changes), len(report.Failed), len(report.Refused))
		}
		return took, err
	}
	measureAll := func() (ratios []float64, took []time.Duration, err error) {
		// The first decision makes the leases; what is measured changes them.
		if _, err := apply(0.75); err != nil {
			return nil, nil, err
		}
		for range max(5, 3*o.rounds) {
			var mine, least time.Duration
			for _, quota := range []float64{0.25, 0.75} {
				if ctx.Err() != nil {
					return nil, nil, ctx.Err()
				}
				d, err := apply(quota)
				if err != nil {
					return nil, nil, err
				}
				mine += d
			}
			// The value that the actor left comes last, so that it finds it.
			host := float64(runtime.NumCPU()) * 100000
			for _, quota := range []int{int(0.25 * host), int(0.75 * host)} {
				d, err := bare(quota)
				if err != nil {
					return nil, nil, err
				}
				least += d
			}
			ratios = append(ratios, mine.Seconds()/least.Seconds())
			took = append(took, mine/2)
		}
		return ratios, took, nil
	}
	ratios, took, err := measureAll()
	if err := errors.Join(err, actor.Close()); err != nil {
		return err
	}
	r.put(fmt.Sprintf("act_changes_over_floor_%d", actTasks), median(ratios), "ratio")
	r.put(fmt.Sprintf("act_changes_ms_%d", actTasks), median(took).Seconds()*1000, "ms")
	return nil
}

// quotaFiles are the files of the tasks' CPU quota, and what is written to them.
func quotaFiles(h *host, paths []string) (names []string, text string, err error) {
	for i := range h.hierarchies {
		hierarchy := &h.hierarchies[i]
		file, text := "/cpu.max", "%d 100000"
		if slices.Contains(hierarchy.Controllers, "cpu") {
			file, text = "/cpu.cfs_quota_us", "%d"
		}
		if _, err := os.Stat(hierarchy.Dir + paths[0] + file); err != nil {
			continue
		}
		for _, path := range paths {
			names = append(names, hierarchy.Dir+path+file)
		}
		return names, text, nil
	}
	return nil, "", errors.New("no cgroup has a CPU quota")
}

const (
	hogsPerCPU   = 8
	lateTicks    = 50
	lateInterval = 100 * time.Millisecond
)

// lateTask is what a late process gets on its stdin.
type lateTask struct {
	Tasks []string
	State string // "" = do not act, so that the weight stays as it is
}

// busy runs hogs on each CPU, each in a cgroup of its own, beside an agent in a cgroup of
// its own, and tells how late its ticks begin.
func busy(ctx context.Context, h *host, r *report, dir string) (err error) {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	crowd := h.root + "/busy"
	if err := h.mkdir(crowd, true); err != nil {
		return err
	}
	var paths []string
	var pids []int
	defer func() {
		for _, pid := range pids {
			err = errors.Join(err, end(pid))
		}
		for _, path := range append(paths, crowd) {
			err = errors.Join(err, h.rmdir(path))
		}
	}()
	progress("%d hogs on each CPU", hogsPerCPU)
	for i := range hogsPerCPU * runtime.NumCPU() {
		path := fmt.Sprintf("%s/hog-%d", crowd, i)
		pid, err := h.start(path, exe, hogCommand)
		if err != nil {
			return err
		}
		paths, pids = append(paths, path), append(pids, pid)
	}
	agent := crowd + "/agent"
	if err := h.mkdir(agent, false); err != nil {
		return err
	}
	paths = append(paths, agent)
	late := map[bool][]time.Duration{}
	for range 2 {
		for _, raise := range []bool{false, true} {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			task := lateTask{Tasks: h.tasks[:parts[0]]}
			if raise {
				task.State = filepath.Join(dir, "late")
			}
			list, err := lateness(h, agent, &task)
			if err != nil {
				return err
			}
			late[raise] = append(late[raise], list...)
		}
	}
	for _, raise := range []bool{false, true} {
		name := "plain"
		if raise {
			name = "raised"
		}
		r.put("busy_late_ms_p50_"+name, median(late[raise]).Seconds()*1000, "ms")
		r.put("busy_late_ms_max_"+name, slices.Max(late[raise]).Seconds()*1000, "ms")
	}
	return nil
}

// lateness runs ticks in a process in a cgroup of its own.
func lateness(h *host, cgroup string, task *lateTask) (late []time.Duration, err error) {
	in, out, cmd, err := startSelf(nil, lateCommand)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.Close(), out.Close(), cmd.Wait()) }()
	if err := h.add(cgroup, cmd.Process.Pid); err != nil {
		return nil, err
	}
	line, err := json.Marshal(task)
	if err != nil {
		return nil, err
	}
	if _, err := in.Write(append(line, '\n')); err != nil {
		return nil, err
	}
	for s := bufio.NewScanner(out); s.Scan(); {
		ns, err := strconv.ParseInt(s.Text(), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("a process in %s says %q", cgroup, s.Text())
		}
		late = append(late, time.Duration(ns))
	}
	if len(late) == 0 {
		return nil, fmt.Errorf("a process in %s says nothing", cgroup)
	}
	return late, nil
}

// late is a node that takes down when ticks begin.
type late struct {
	fixed
	at   []time.Time
	stop func()
}

func (l *late) Tasks(ctx context.Context) ([]owca.Task, error) {
	if l.at = append(l.at, time.Now()); len(l.at) == lateTicks {
		l.stop()
	}
	return l.fixed.Tasks(ctx)
}

// lateMain runs ticks and prints for each point of their grid after the first how many ns
// after it the next tick began.
func lateMain() error {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM) // ends with its stdin, or by itself
	logWarnings()
	line, err := firstLine(os.Stdin)
	if err != nil {
		return err
	}
	var task lateTask
	if err := json.Unmarshal(line, &task); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	node := &late{fixed: *newFixed(task.Tasks), stop: stop}
	runner := run.Runner{Node: node, Interval: lateInterval}
	var actor *act.Actor
	if task.State != "" {
		actor = act.New("/")
		runner.Act = act.Options{StateDir: task.State, Units: act.Units{SharesUnit: 1000}}
		runner.Allocators = []run.Allocator{{Name: "none", Allocator: &steady{}}}
		if err := actor.Start(runner.Act); err != nil {
			return err
		}
	}
	run.New(measure.Open("/"), actor, run.Build{}, nil).Run(ctx, runner)
	var b strings.Builder
	next := 1
	for point := node.at[0].Add(lateInterval); next < len(node.at); point = point.Add(lateInterval) {
		for next < len(node.at) && node.at[next].Before(point) {
			next++
		}
		if next < len(node.at) {
			fmt.Fprintln(&b, node.at[next].Sub(point).Nanoseconds())
		}
	}
	_, err = os.Stdout.WriteString(b.String())
	return err
}

// hogMain keeps a CPU busy until it is killed.
func hogMain() {
	runtime.GOMAXPROCS(1)
	for n := uint64(1); n != 0; n += 2 { // never 0: it is odd
	}
}
