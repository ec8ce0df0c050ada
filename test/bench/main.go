// Command bench measures on this host what the agent costs: the CPU time of a
// tick, beside the least that reading the same files can cost, and the memory,
// files and start of the real program. It makes cgroups on every mounted
// hierarchy, each with a sleeping process, and removes them; it needs root.
//
// Each figure is a line "bench NAME VALUE UNIT" on stdout and in a file.
// docs/performance.md says what they mean. With -perf they are only those of
// counting events, with -act only those of deciding and acting. With -soak it
// runs the program under fork and cgroup churn instead, and tells whether what it
// holds grows; with both, it counts in cgroups that come and go.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"syscall"
	"time"
)

func main() {
	// Children are told to die with the thread that made them (Pdeathsig), so
	// this one has to live as long as the process.
	runtime.LockOSThread()
	command := ""
	if len(os.Args) > 1 {
		command = os.Args[1]
	}
	var err error
	switch command {
	case floorCommand:
		err = floorMain()
	case monitorCommand:
		err = monitorMain()
	case pairCommand:
		err = pairMain(os.Args[2])
	case churnCommand:
		err = churnMain(os.Args[2:])
	case hopperCommand:
		err = hopperMain()
	case lateCommand:
		err = lateMain()
	case hogCommand:
		hogMain()
	default:
		command = ""
		err = execute()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: "+command, err)
		os.Exit(1)
	}
}

type options struct {
	output   string
	tasks    int
	rounds   int
	ticks    int
	resident time.Duration
	profile  string
	soak     time.Duration
	perf     bool
	act      bool
}

func execute() (err error) {
	var o options
	flag.StringVar(&o.output, "o", "bench.txt", "write the figures to this file, too")
	flag.IntVar(&o.tasks, "tasks", 2000, "leave out what needs more tasks than this")
	flag.IntVar(&o.rounds, "rounds", 3, "how many times to measure ticks with each number of tasks, in turns")
	flag.IntVar(&o.ticks, "ticks", 40, "ticks to measure in each round, rounded to tens")
	flag.DurationVar(&o.resident, "resident", 40*time.Second, "how long to run the real program; 0: not at all")
	flag.StringVar(&o.profile, "cpuprofile", "", "write a CPU profile of the ticks to this file")
	flag.DurationVar(&o.soak, "soak", 0, "run the real program for this long under churn, and nothing else")
	flag.BoolVar(&o.perf, "perf", false, "only what concerns performance counters; with -soak, cgroups that come and go while they are counted")
	flag.BoolVar(&o.act, "act", false, "only what concerns acting")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	if os.Geteuid() != 0 {
		return errors.New("it makes cgroups of its own, which needs root; run it by sudo")
	}
	logWarnings()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	h, err := newHost()
	if err != nil {
		return err
	}
	defer func() {
		progress("removing the cgroups")
		err = errors.Join(err, h.close())
	}()
	if o.soak > 0 && o.perf {
		return perfSoak(ctx, h, o.soak)
	}
	if o.soak > 0 {
		return soak(ctx, h, o.soak)
	}

	out, err := os.Create(o.output)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	r := &report{w: io.MultiWriter(os.Stdout, out)}
	if err := measureAll(ctx, h, r, &o); err != nil {
		return err
	}
	r.compare(os.Stderr)
	return r.err
}

func logWarnings() {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
}

func measureAll(ctx context.Context, h *host, r *report, o *options) error {
	if o.resident > 0 && !o.perf && !o.act {
		if err := program(ctx, h, r, o); err != nil {
			return fmt.Errorf("the real program: %w", err)
		}
	}
	if o.rounds == 0 {
		return nil
	}
	if o.profile != "" {
		f, err := os.Create(o.profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	if o.act {
		return acting(ctx, h, r, o)
	}
	if !o.perf {
		if err := ticks(ctx, h, r, o); err != nil {
			return err
		}
		if err := acting(ctx, h, r, o); err != nil {
			return err
		}
	}
	return perfBench(ctx, h, r, o)
}

// report is where figures go.
type report struct {
	w    io.Writer
	err  error
	seen map[string]float64
}

func (r *report) put(name string, value float64, unit string) {
	if r.seen == nil {
		r.seen = map[string]float64{}
	}
	r.seen[name] = value
	_, err := fmt.Fprintf(r.w, "bench %s %s %s\n", name, strconv.FormatFloat(value, 'f', precision(value), 64), unit)
	r.err = errors.Join(r.err, err)
}

// precision gives a figure three significant digits.
func precision(v float64) int {
	switch {
	case v == float64(int64(v)), v >= 100:
		return 0
	case v >= 10:
		return 1
	case v >= 1:
		return 2
	}
	return 4
}

// aims are the most that some figures should be.
var aims = []struct {
	name string
	most float64
}{
	{"tick_cpu_over_floor_50", 2},
	{"tick_cpu_over_floor_500", 1.5},
	{"tick_cpu_growth_500_2000", 1.15},
	{"tick_allocs_500", 100},
	{"rss_1000_mib", 40},
	{"start_ms", 100},
	{"act_unchanged_percent_1000", 5},
	{"act_unchanged_leases_percent_1000", 5},
	{"act_changes_over_floor_1000", 2},
	{"perf_bpf_read_us_per_event_50", 0.2},
	{"perf_bpf_read_us_per_event_500", 0.2},
	{"perf_bpf_read_us_per_event_2000", 0.2},
	{"perf_bpf_files_growth", 1},
	{"perf_bpf_switch_growth_500", 1.1},
	{"perf_switch_bpf_over_cgroup_500", 0.5},
}

func (r *report) compare(w io.Writer) {
	for _, a := range aims {
		v, ok := r.seen[a.name]
		if !ok {
			continue
		}
		verdict := "reached"
		if v > a.most {
			verdict = "MISSED"
		}
		fmt.Fprintf(w, "aim %s ≤ %v: %s\n", a.name, a.most, verdict)
	}
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "[%s] %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, args...))
}

// median of values, which it sorts; 0 if there are none.
func median[T cmp.Ordered](values []T) T {
	if len(values) == 0 {
		var none T
		return none
	}
	slices.Sort(values)
	return values[len(values)/2]
}
