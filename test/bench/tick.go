package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/discover"
	"github.com/owca-project/owca/internal/measure"
	"github.com/owca-project/owca/internal/run"
	"github.com/owca-project/owca/internal/store"
)

// block is how many ticks make one sample: what is read at a pace of ten ticks
// is read once in it.
const block = 10

// ticks measures the ticks of the agent's loop, in this process.
func ticks(ctx context.Context, h *host, r *report, o *options) (err error) {
	var sizes []int
	for _, n := range []int{50, 500, 2000} {
		if n <= o.tasks {
			sizes = append(sizes, n)
		}
	}
	if len(sizes) == 0 {
		return nil
	}
	if err := h.grow(ctx, sizes[len(sizes)-1]); err != nil {
		return err
	}
	progress("opening the files of the floor")
	var floors []*floor
	defer func() {
		for _, f := range floors {
			err = errors.Join(err, f.close())
		}
	}()
	for from, i := 0, 0; from < sizes[len(sizes)-1]; i++ {
		to := from + 500 // at most 26 files each
		if from == 0 {
			to = sizes[0]
		} else if from == sizes[0] && len(sizes) > 1 {
			to = sizes[1]
		}
		f, err := startFloor(floorTask{Tasks: h.tasks[from:to], Platform: from == 0})
		if err != nil {
			return err
		}
		floors = append(floors, f)
		from = to
	}

	results := make(map[int]*result)
	for round := range o.rounds {
		for _, n := range sizes {
			progress("round %d of %d: ticks with %d tasks", round+1, o.rounds, n)
			if results[n] == nil {
				results[n] = &result{}
			}
			s := &session{host: h, tasks: n, ticks: max(1, (o.ticks+block/2)/block) * block, floors: floors, result: results[n]}
			if err := s.run(ctx); err != nil {
				return fmt.Errorf("%d tasks: %w", n, err)
			}
		}
	}
	ms := func(d time.Duration) float64 { return d.Seconds() * 1000 }
	for _, n := range sizes {
		s := results[n]
		r.put(fmt.Sprintf("tick_cpu_over_floor_%d", n), median(s.ratios), "ratio")
		r.put(fmt.Sprintf("tick_cpu_ms_%d", n), ms(median(s.agent)), "ms")
		r.put(fmt.Sprintf("floor_cpu_ms_%d", n), ms(median(s.floor)), "ms")
		r.put(fmt.Sprintf("tick_allocs_%d", n), median(s.allocs), "count")
		r.put(fmt.Sprintf("tick_metrics_%d", n), float64(s.metrics), "count")
		r.put(fmt.Sprintf("tick_open_files_%d", n), float64(s.files), "count")
	}
	if a, b := results[500], results[2000]; a != nil && b != nil {
		r.put("tick_cpu_growth_500_2000", median(b.agent).Seconds()/4/median(a.agent).Seconds(), "ratio")
		r.put("floor_cpu_growth_500_2000", median(b.floor).Seconds()/4/median(a.floor).Seconds(), "ratio")
	}
	return nil
}

// result is what sessions with one number of tasks found.
type result struct {
	ratios       []float64       // agent over floor, one a block
	agent, floor []time.Duration // CPU time of a tick, one a block
	allocs       []float64       // a tick, one a session
	metrics      int             // a tick
	files        int             // that the agent keeps open
}

// session is one run of the loop. The floor is passed once for each tick, in
// turns before and after it: whoever comes second finds the kernel's data in
// the caches. What the agent used is all CPU time of this process, garbage
// collection and idling included, less that of the session's own work.
type session struct {
	host   *host
	tasks  int
	ticks  int
	floors []*floor
	result *result

	stop    context.CancelFunc
	err     error
	tick    int
	due     [][]byte // by floor, a byte a task: what the last tick read
	storage *scrape

	started  time.Duration // process CPU at the start of the block
	own      time.Duration // CPU of the session's own work in the block
	floorCPU time.Duration // CPU of the floor in the block
	mallocs  uint64        // at the end of warming up
}

// warm is how many ticks are not measured. Buffers grow, and the first readings
// of each task are off their pace.
const warm = 2 * block

func (s *session) run(ctx context.Context) error {
	measured := measure.Open("/")
	if measured.CgroupError != nil {
		return measured.CgroupError
	}
	node := discover.NewAuto(func() ([]string, error) { return measured.Cgroups.Dirs(), nil }, "/proc")
	for _, n := range parts {
		if n <= s.tasks {
			node.Include = append(node.Include, s.host.part(n)+"/*")
		} else {
			node.Exclude = append(node.Exclude, s.host.part(n)+"/**")
		}
	}
	node.Exclude = append(node.Exclude, others)
	node.MaxTasks = 100000

	// As in examples/automatic.yaml, only faster: what a tick reads depends on
	// the ratio of its interval to the paces.
	interval := max(50*time.Millisecond, time.Duration(s.tasks)*200*time.Microsecond)
	node.RescanInterval = 10 * interval
	if err := node.Start(ctx); err != nil {
		return err
	}
	s.storage = &scrape{prometheus: store.NewPrometheus(), encoder: store.NewEncoder(store.EncoderOptions{})}
	runner := run.Runner{
		Node:         &watched{node, s},
		Storages:     []run.Storage{{Name: "PrometheusStorage", Storage: s.storage}},
		Interval:     interval,
		CommonLabels: nil,
		Tasks: measure.TaskOptions{
			MemoryStat: 10 * interval, NUMA: 60 * interval, Limits: 30 * interval,
			RunQueue: 10 * interval, RunQueueThreads: 1000,
		},
		Platform: measure.PlatformOptions{VMStat: []string{
			"pgfault", "pgmajfault", "pswpin", "pswpout", "pgscan_kswapd", "pgscan_direct", "pgsteal_kswapd", "pgsteal_direct",
			"allocstall_normal", "oom_kill", "workingset_refault_anon", "workingset_refault_file", "thp_fault_alloc",
			"numa_hint_faults", "numa_pages_migrated", "pgmigrate_success",
		}, SlowInterval: 10 * interval},
		Derived: true,
	}
	for _, f := range s.floors {
		s.due = append(s.due, make([]byte, f.task.len()))
	}
	runtime.GC()
	ctx, s.stop = context.WithCancel(ctx)
	defer s.stop()
	done := make(chan struct{})
	go func() { // not on this goroutine's own thread, as the agent isn't
		defer close(done)
		run.New(measured, nil, run.Build{Version: "bench"}, func(snapshot *owca.Snapshot) {
			s.result.files = measured.Cgroups.Files()
			s.after(snapshot)
		}).Run(ctx, runner)
	}()
	<-done
	if s.err == nil && s.tick < warm+s.ticks {
		s.err = ctx.Err()
	}
	return errors.Join(s.err, node.Close())
}

// watched tells the session when a tick begins.
type watched struct {
	*discover.AutoNode
	session *session
}

func (w *watched) Tasks(ctx context.Context) ([]owca.Task, error) {
	w.session.before()
	return w.AutoNode.Tasks(ctx)
}

// scrape does what PrometheusStorage and one scrape of it do in each tick, but
// for the network.
type scrape struct {
	prometheus *store.Prometheus
	encoder    *store.Encoder
	metrics    int
}

func (s *scrape) NonBlocking() {}

func (s *scrape) Store(ctx context.Context, metrics []owca.Metric) error {
	s.metrics = len(metrics)
	if err := s.prometheus.Store(ctx, metrics); err != nil {
		return err
	}
	return s.encoder.Encode(io.Discard, metrics, time.Now())
}

// aside runs the session's own work in a tick, whose CPU time is not the agent's.
func (s *session) aside(work func() error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	start := threadCPU()
	if err := work(); err != nil && s.err == nil {
		s.err = err
		s.stop()
	}
	s.own += threadCPU() - start
}

func (s *session) before() {
	s.aside(func() error {
		if s.tick > 0 && s.tick%2 == 1 {
			return s.pass()
		}
		return nil
	})
}

// after is called at the end of each tick.
func (s *session) after(snapshot *owca.Snapshot) {
	s.aside(func() error {
		if s.tick%2 == 0 {
			if err := s.pass(); err != nil {
				return err
			}
		}
		s.tick++
		if err := s.look(snapshot); err != nil {
			return err
		}
		if s.tick < warm || s.tick%block != 0 {
			return nil
		}
		return s.endBlock()
	})
	if s.tick >= warm && s.tick%block == 0 {
		s.started, s.own, s.floorCPU = processCPU(), 0, 0
	}
}

func (s *session) endBlock() error {
	now := processCPU()
	// What this function has used is in now but not yet in own: microseconds.
	if s.tick > warm {
		r := s.result
		agent := now - s.started - s.own
		r.agent = append(r.agent, agent/block)
		r.floor = append(r.floor, s.floorCPU/block)
		r.ratios = append(r.ratios, float64(agent)/float64(s.floorCPU))
	}
	switch s.tick {
	case warm:
		s.mallocs = mallocs()
	case warm + s.ticks:
		s.result.allocs = append(s.result.allocs, float64(mallocs()-s.mallocs)/float64(s.ticks))
		s.result.metrics = s.storage.metrics
		s.stop()
	}
	return nil
}

func mallocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

// pass runs the floors of the session's tasks.
func (s *session) pass() error {
	tasks := 0
	for i, f := range s.floors {
		if tasks >= s.tasks {
			break
		}
		tasks += len(f.task.Tasks)
		if f.task.Platform && s.tick%block == 0 {
			s.due[i][len(f.task.Tasks)] = 1
		}
		took, err := f.pass(s.due[i])
		if err != nil {
			return err
		}
		s.floorCPU += took
		clear(s.due[i])
	}
	return nil
}

// look takes down which of the readings that have a pace a tick has taken.
func (s *session) look(snapshot *owca.Snapshot) error {
	if len(snapshot.Tasks) != s.tasks {
		return fmt.Errorf("tick %d saw %d tasks, not %d", s.tick, len(snapshot.Tasks), s.tasks)
	}
	i := 0
	for f, due := range s.due {
		for j, path := range s.floors[f].task.Tasks {
			if i == s.tasks {
				return nil
			}
			t := &snapshot.Tasks[i]
			if string(t.ID) != path {
				return fmt.Errorf("task %d is %s, not %s", i, t.ID, path)
			}
			for k := range t.Measurements {
				m := &t.Measurements[k]
				if m.Desc != owca.TaskReadingAge {
					continue
				}
				if age, _ := m.Value.IsInt(); age > 0 {
					continue
				}
				for b := range paced {
					if paced[b].name == m.Label {
						due[j] |= 1 << b
					}
				}
			}
			i++
		}
	}
	return nil
}
