package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/hosttest"
	"github.com/owca-project/owca/internal/perf"
)

// perfEvents are counted in every measurement: events that every host has.
var perfEvents = []string{"task-clock", "context-switches", "page-faults", "cpu-migrations"}

// perfSizes are the numbers of cgroups that are counted. That of the first is
// for the cost of a switch alone, which needs a cgroup for either end.
var perfSizes = []int{2, 50, 500, 2000}

// perfBench measures what counting costs with each backend: the reader, and
// those that are counted.
func perfBench(ctx context.Context, h *host, r *report, o *options) error {
	var sizes []int
	for _, n := range perfSizes {
		if n <= o.tasks {
			sizes = append(sizes, n)
		}
	}
	if len(sizes) < 2 {
		return nil
	}
	if err := h.grow(ctx, sizes[len(sizes)-1]); err != nil {
		return err
	}
	for _, name := range otherCounters() {
		progress("WARNING: process %s has performance events or a BPF program open: switches seem to cost more without counting, and counting less, than they do", name)
	}
	p := &perfRun{host: h, hierarchy: perfHierarchy(h), readers: map[perfConfig]*readCosts{}, refused: map[perfConfig]string{}}
	if err := p.readAll(ctx, sizes[1:], o.rounds); err != nil {
		return err
	}
	if err := p.switchAll(ctx, sizes, 3*o.rounds); err != nil {
		return err
	}
	p.put(r, sizes)
	return nil
}

// otherCounters lists processes that may be counting already.
func otherCounters() []string {
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return nil
	}
	var names []string
	for _, link := range links {
		// A process or file that is gone is none.
		target, err := os.Readlink(link)
		if err != nil || target != "anon_inode:[perf_event]" && target != "anon_inode:bpf-prog" && target != "anon_inode:bpf_link" {
			continue
		}
		pid := strings.Split(link, "/")[2]
		comm, err := os.ReadFile("/proc/" + pid + "/comm")
		name := pid + " (" + strings.TrimSpace(string(comm)) + ")"
		if err == nil && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// perfHierarchy is the hierarchy whose cgroups perf events are of.
func perfHierarchy(h *host) *hosttest.Hierarchy {
	for i := range h.hierarchies {
		if slices.Contains(h.hierarchies[i].Controllers, "perf_event") {
			return &h.hierarchies[i]
		}
	}
	for i := range h.hierarchies {
		if h.hierarchies[i].Type == "cgroup2" {
			return &h.hierarchies[i]
		}
	}
	return nil
}

type perfConfig struct {
	backend perf.Backend
	cgroups int
	// together: switches are between processes of one cgroup.
	together bool
}

func (c perfConfig) String() string { return fmt.Sprintf("%s with %d cgroups", c.backend, c.cgroups) }

// perfRun is what has been measured.
type perfRun struct {
	host      *host
	hierarchy *hosttest.Hierarchy
	readers   map[perfConfig]*readCosts
	refused   map[perfConfig]string // why a backend does not count so many

	base     []float64                     // ns a switch without counting
	switches map[perfConfig]*switchSamples // with it
}

// readCosts are what the reader of so many cgroups pays, one a round.
type readCosts struct {
	files, events        int
	setup, setupCPU, rss []float64 // ms, ms, KiB
	read                 []float64 // CPU µs of a Refresh and a Read of each
}

func (p *perfRun) readAll(ctx context.Context, sizes []int, rounds int) error {
	for round := range rounds {
		for _, n := range sizes {
			for _, backend := range perf.Backends {
				if err := ctx.Err(); err != nil {
					return err
				}
				progress("round %d of %d: counting in %d cgroups by %s", round+1, rounds, n, backend)
				if err := p.read(perfConfig{backend: backend, cgroups: n}); err != nil {
					return fmt.Errorf("%s, %d cgroups: %w", backend, n, err)
				}
			}
		}
	}
	return nil
}

func (p *perfRun) read(c perfConfig) (err error) {
	m, err := p.monitor(c, p.dirs(p.host.tasks[:c.cgroups]))
	if m == nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	costs := p.readers[c]
	if costs == nil {
		costs = &readCosts{}
		p.readers[c] = costs
	}
	costs.files, costs.events = m.state.Files, m.state.Events
	costs.setup = append(costs.setup, m.state.Setup.Seconds()*1e3)
	costs.setupCPU = append(costs.setupCPU, m.state.SetupCPU.Seconds()*1e3)
	costs.rss = append(costs.rss, float64(m.state.Resident)/1024)
	const samples = 10
	for i := range samples + 1 {
		answer, err := m.ask("read", max(2, 5000/c.cgroups))
		if err != nil {
			return err
		}
		if i > 0 { // the first one fills caches
			costs.read = append(costs.read, answer.CPU.Seconds()*1e6)
		}
	}
	return nil
}

func (p *perfRun) dirs(paths []string) []string {
	var dirs []string
	for _, path := range paths {
		dirs = append(dirs, p.hierarchy.Dir+path)
	}
	return dirs
}

// monitor starts a process that counts. It is nil if the backend refuses, which
// is noted once, or with an error.
func (p *perfRun) monitor(c perfConfig, dirs []string) (*monitor, error) {
	if p.refused[c] != "" {
		return nil, nil
	}
	m, err := startMonitor(monitorTask{Backend: c.backend, Dirs: dirs})
	if err != nil {
		return nil, err
	}
	switch {
	case m.state.Error == "":
		return m, nil
	case !m.state.Refused:
		return nil, errors.Join(errors.New(m.state.Error), m.close())
	}
	p.refused[c] = m.state.Error
	progress("%s: REFUSED: %s", c, m.state.Error)
	return nil, m.close()
}

func (p *perfRun) put(r *report, sizes []int) {
	for _, n := range sizes {
		for _, backend := range perf.Backends {
			c := perfConfig{backend: backend, cgroups: n}
			name := func(what string) string { return fmt.Sprintf("perf_%s_%s_%d", backend, what, n) }
			if p.refused[c] != "" {
				r.put(name("refused"), 1, "count")
			}
			if s := p.readers[c]; s != nil {
				r.put(name("files"), float64(s.files), "count")
				r.put(name("setup_ms"), median(s.setup), "ms")
				r.put(name("setup_cpu_ms"), median(s.setupCPU), "ms")
				r.put(name("rss_kib"), median(s.rss), "KiB")
				read := median(s.read)
				r.put(name("read_us"), read, "us")
				r.put(name("read_us_per_event"), read/float64(n*s.events), "us")
			}
		}
	}
	if bpf, more := p.readers[perfConfig{backend: perf.BPF, cgroups: 50}], p.readers[perfConfig{backend: perf.BPF, cgroups: sizes[len(sizes)-1]}]; bpf != nil && more != nil {
		r.put("perf_bpf_files_growth", float64(more.files)/float64(bpf.files), "ratio")
	}
	p.putSwitches(r, sizes)
}

// A monitor is a process that counts in cgroups. It is one of its own so that
// its memory and CPU time are those of the counting.
type monitor struct {
	cmd   *exec.Cmd
	in    *os.File
	out   *bufio.Reader
	close func() error
	state monitorState
}

const monitorCommand = "monitor"

type monitorTask struct {
	Backend perf.Backend
	Dirs    []string
}

// monitorState is its first answer.
type monitorState struct {
	Error           string
	Refused         bool // the error is that there is no room for so many, or no such backend
	Files, Events   int
	Setup, SetupCPU time.Duration
	Resident        int64 // growth, bytes
}

// monitorAnswer is the answer to a line "read N" or "counts N".
type monitorAnswer struct {
	Error  string
	CPU    time.Duration // of one reading of everything, on average
	Counts []perf.Count  // of the Nth cgroup
}

func startMonitor(task monitorTask) (*monitor, error) {
	in, out, cmd, err := startSelf(nil, monitorCommand)
	if err != nil {
		return nil, err
	}
	m := &monitor{cmd: cmd, in: in, out: bufio.NewReader(out)}
	m.close = func() error { return errors.Join(in.Close(), out.Close(), cmd.Wait()) }
	if err := json.NewEncoder(in).Encode(task); err != nil {
		return nil, errors.Join(err, m.close())
	}
	if err := m.answer(&m.state); err != nil {
		return nil, errors.Join(err, m.close())
	}
	return m, nil
}

func (m *monitor) answer(v any) error {
	line, err := m.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("a counting process has ended: %w", err)
	}
	return json.Unmarshal(line, v)
}

func (m *monitor) ask(what string, n int) (*monitorAnswer, error) {
	if _, err := fmt.Fprintln(m.in, what, n); err != nil {
		return nil, err
	}
	var a monitorAnswer
	if err := m.answer(&a); err != nil {
		return nil, err
	}
	if a.Error != "" {
		return nil, errors.New(a.Error)
	}
	return &a, nil
}

// counting is a Counter with its cgroups.
type counting struct {
	events  int
	counter perf.Counter
	cgroups []perf.Cgroup
	counts  []perf.Count
}

// openCounter opens a Counter of perfEvents.
func openCounter(backend perf.Backend) (*counting, error) {
	requests, err := perf.ParseRequests(perfEvents)
	if err != nil {
		return nil, err
	}
	plan, err := perf.FS{}.Plan(requests)
	if err != nil {
		return nil, err
	}
	events := len(plan.Events())
	if events != len(perfEvents) {
		return nil, fmt.Errorf("this host does not count all of %v: %+v", perfEvents, plan.Omitted)
	}
	counter, err := perf.FS{}.Open(plan, backend)
	if err != nil {
		return nil, err
	}
	return &counting{events: events, counter: counter, counts: make([]perf.Count, events)}, nil
}

func (c *counting) readAll() error {
	if err := c.counter.Refresh(); err != nil {
		return err
	}
	for _, g := range c.cgroups {
		if err := g.Read(c.counts); err != nil {
			return err
		}
	}
	return nil
}

// monitorMain is the process of a monitor.
func monitorMain() error {
	in := bufio.NewReader(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	var task monitorTask
	if err := json.Unmarshal(line, &task); err != nil {
		return err
	}
	var state monitorState
	c, err := monitorSetup(&task, &state)
	if err != nil {
		var limit *perf.LimitError
		state.Error, state.Refused = err.Error(), errors.As(err, &limit) || errors.Is(err, errors.ErrUnsupported)
	}
	if encodeErr := out.Encode(state); encodeErr != nil || err != nil {
		return encodeErr
	}
	for {
		line, err := in.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return c.counter.Close()
		}
		if err != nil {
			return err
		}
		what, number, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.Atoi(number)
		if err != nil {
			return err
		}
		var a monitorAnswer
		switch what {
		case "read":
			start := processCPU()
			for range n {
				if err := c.readAll(); err != nil {
					a.Error = err.Error()
				}
			}
			a.CPU = (processCPU() - start) / time.Duration(n)
		case "counts":
			if err := errors.Join(c.counter.Refresh(), c.cgroups[n].Read(c.counts)); err != nil {
				a.Error = err.Error()
			}
			a.Counts = c.counts
		}
		if err := out.Encode(a); err != nil {
			return err
		}
	}
}

func monitorSetup(task *monitorTask, state *monitorState) (*counting, error) {
	debug.FreeOSMemory()
	before, err := statusOf(os.Getpid(), "VmRSS")
	if err != nil {
		return nil, err
	}
	start, startCPU := time.Now(), processCPU()
	c, err := openCounter(task.Backend)
	if err != nil {
		return nil, err
	}
	for _, dir := range task.Dirs {
		g, err := c.counter.Add(dir)
		if err != nil {
			return nil, fmt.Errorf("after %d of %d cgroups: %w", len(c.cgroups), len(task.Dirs), err)
		}
		c.cgroups = append(c.cgroups, g)
	}
	if err := c.readAll(); err != nil {
		return nil, err
	}
	state.Setup, state.SetupCPU = time.Since(start), processCPU()-startCPU
	state.Files, state.Events = c.counter.Files(), c.events
	debug.FreeOSMemory() // as the agent does after its start
	after, err := statusOf(os.Getpid(), "VmRSS")
	state.Resident = after - before
	return c, err
}

// switchSamples are of a perfConfig, one a round.
type switchSamples struct {
	extra []float64 // ns a switch, more than without counting just before and after
	ratio []float64 // to that
}

// switchAll measures how much counting slows down switches between two cgroups
// that are counted, beside others that are too.
func (p *perfRun) switchAll(ctx context.Context, sizes []int, rounds int) (err error) {
	pair, err := startPair(p.host)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pair.close()) }()
	p.switches = map[perfConfig]*switchSamples{}
	var configs []perfConfig
	for _, n := range sizes {
		for _, backend := range perf.Backends {
			configs = append(configs, perfConfig{backend: backend, cgroups: n})
		}
	}
	for _, backend := range perf.Backends {
		configs = append(configs, perfConfig{backend: backend, cgroups: 2, together: true})
	}
	for round := range rounds {
		progress("round %d of %d: switching between cgroups", round+1, rounds)
		before, err := pair.switchCost()
		if err != nil {
			return err
		}
		for i := range configs {
			if err := ctx.Err(); err != nil {
				return err
			}
			c := configs[(i+round)%len(configs)]
			if c.together {
				if before, err = pair.together(true); err != nil {
					return err
				}
			}
			counted, err := p.switchCost(c, pair)
			if err != nil {
				return fmt.Errorf("%s: %w", c, err)
			}
			if counted == 0 {
				continue
			}
			after, err := pair.switchCost()
			if err != nil {
				return err
			}
			s := p.switches[c]
			if s == nil {
				s = &switchSamples{}
				p.switches[c] = s
			}
			without := (before + after) / 2
			s.extra = append(s.extra, counted-without)
			s.ratio = append(s.ratio, counted/without)
			if c.together {
				if after, err = pair.together(false); err != nil {
					return err
				}
			}
			p.base = append(p.base, after)
			before = after
		}
	}
	return nil
}

// switchCost measures with one perfConfig; 0 if it is refused.
func (p *perfRun) switchCost(c perfConfig, pair *pair) (ns float64, err error) {
	dirs := p.dirs(append(slices.Clone(pair.groups[:]), p.host.tasks[:c.cgroups-2]...))
	m, err := p.monitor(c, dirs)
	if m == nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	if ns, err = pair.switchCost(); err != nil {
		return 0, err
	}
	for i := range pair.groups {
		if i > 0 && c.together {
			break
		}
		a, err := m.ask("counts", i)
		if err != nil {
			return 0, err
		}
		// As perfEvents are: each round trip is one switch out of either.
		if n := a.Counts[1].Value; n < pairBatch*pairBatches || a.Counts[0].Value == 0 {
			return 0, fmt.Errorf("%s had %d context switches, not %d or more, in %d ns", dirs[i], n, pairBatch*pairBatches, a.Counts[0].Value)
		}
	}
	return ns, nil
}

func (p *perfRun) putSwitches(r *report, sizes []int) {
	if len(p.base) == 0 {
		return
	}
	r.put("perf_switch_ns", median(p.base), "ns")
	r.put("perf_switch_iqr_ns", spread(p.base), "ns")
	extra := map[perfConfig]float64{}
	for _, n := range sizes {
		for _, backend := range perf.Backends {
			c := perfConfig{backend: backend, cgroups: n}
			s := p.switches[c]
			if s == nil {
				continue
			}
			extra[c] = median(s.extra)
			r.put(fmt.Sprintf("perf_%s_switch_extra_ns_%d", backend, n), extra[c], "ns")
			r.put(fmt.Sprintf("perf_%s_switch_extra_iqr_ns_%d", backend, n), spread(s.extra), "ns")
			r.put(fmt.Sprintf("perf_%s_switch_ratio_%d", backend, n), median(s.ratio), "ratio")
		}
	}
	for _, backend := range perf.Backends {
		if s := p.switches[perfConfig{backend: backend, cgroups: 2, together: true}]; s != nil {
			r.put(fmt.Sprintf("perf_%s_switch_within_extra_ns", backend), median(s.extra), "ns")
			r.put(fmt.Sprintf("perf_%s_switch_within_extra_iqr_ns", backend), spread(s.extra), "ns")
		}
	}
	few, many := extra[perfConfig{backend: perf.BPF, cgroups: 2}], extra[perfConfig{backend: perf.BPF, cgroups: 500}]
	if few > 0 && many > 0 {
		r.put("perf_bpf_switch_growth_500", many/few, "ratio")
	}
	if descriptors := extra[perfConfig{backend: perf.Descriptors, cgroups: 500}]; descriptors > 0 && many > 0 {
		r.put("perf_switch_bpf_over_cgroup_500", many/descriptors, "ratio")
	}
}

// spread is the interquartile range of values, which it sorts.
func spread(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)*3/4] - values[len(values)/4]
}

// pair are two processes in a cgroup each, on the same CPU, that pass a byte
// back and forth, as those of perf bench sched pipe do: every write is followed
// by a switch to the other's cgroup.
type pair struct {
	host   *host
	groups [2]string
	cmds   [2]*exec.Cmd
	in     *os.File
	out    *bufio.Reader
	files  []*os.File
}

const pairCommand = "pair"

// A measurement is of so many batches of round trips.
const (
	pairBatch   = 10000
	pairBatches = 7
)

func startPair(h *host) (_ *pair, err error) {
	p := &pair{host: h, groups: [2]string{h.root + "/ping", h.root + "/pong"}}
	var ends [2][2]*os.File // that a process reads from and writes to
	for i := range ends {
		if ends[1-i][0], ends[i][1], err = blockingPipe(); err != nil {
			return nil, err
		}
	}
	for i, group := range p.groups {
		if err = h.mkdir(group, false); err != nil {
			break
		}
		if err = p.start(i, ends[i][:]); err != nil {
			break
		}
		if err = h.add(group, p.cmds[i].Process.Pid); err != nil {
			break
		}
	}
	// The processes have theirs, and end when the other one has.
	for _, files := range ends {
		err = errors.Join(err, files[0].Close(), files[1].Close())
	}
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *pair) start(i int, ends []*os.File) error {
	in, out, cmd, err := startSelf(func(cmd *exec.Cmd) {
		cmd.ExtraFiles = ends
		cmd.Env = append(os.Environ(), "GOGC=off", "GODEBUG=asyncpreemptoff=1")
	}, pairCommand, strconv.Itoa(i))
	if err != nil {
		return err
	}
	p.cmds[i] = cmd
	p.files = append(p.files, in, out)
	if i == 0 {
		p.in, p.out = in, bufio.NewReader(out)
	}
	return nil
}

// switchCost is the CPU time from one switch to the next, in ns: half of what
// the two use for a round trip. The clock does not run while others have the CPU.
func (p *pair) switchCost() (float64, error) {
	var samples []float64
	for range pairBatches {
		before, err := p.cpu()
		if err != nil {
			return 0, err
		}
		if _, err := fmt.Fprintln(p.in, pairBatch); err != nil {
			return 0, err
		}
		if _, err := p.out.ReadString('\n'); err != nil {
			return 0, fmt.Errorf("a switching process has ended: %w", err)
		}
		after, err := p.cpu()
		if err != nil {
			return 0, err
		}
		samples = append(samples, float64((after-before).Nanoseconds())/(2*pairBatch))
	}
	return median(samples), nil
}

func (p *pair) cpu() (sum time.Duration, err error) {
	for _, cmd := range p.cmds {
		t, err := cpuOf(cmd.Process.Pid)
		if err != nil {
			return 0, err
		}
		sum += t
	}
	return sum, nil
}

// together moves both into one cgroup, or apart again, and measures then.
func (p *pair) together(yes bool) (float64, error) {
	group := p.groups[1]
	if yes {
		group = p.groups[0]
	}
	if err := p.host.add(group, p.cmds[1].Process.Pid); err != nil {
		return 0, err
	}
	return p.switchCost()
}

func (p *pair) close() error {
	var errs []error
	for _, f := range p.files {
		errs = append(errs, f.Close())
	}
	for i, cmd := range p.cmds {
		if cmd != nil {
			errs = append(errs, cmd.Wait()) // ends with its pipes
		}
		errs = append(errs, p.host.rmdir(p.groups[i]))
	}
	return errors.Join(errs...)
}

// pairMain is a process of a pair: the first one runs as many round trips as a
// line of its stdin says and answers with a line. Descriptor 3 is where it reads
// from, 4 where it writes to.
func pairMain(number string) error {
	// On this thread, which never goes through Go's scheduler in between.
	cpus, err := allowedCPUs()
	if err != nil {
		return err
	}
	var one unix.CPUSet
	one.Set(cpus[len(cpus)-1])
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return err
	}
	var b [1]byte
	if number != "0" {
		for { // until the other one has ended
			n, err := rawTransfer(unix.SYS_READ, 3, &b)
			if err != nil || n == 0 {
				return err
			}
			if _, err := rawTransfer(unix.SYS_WRITE, 4, &b); err != nil {
				return err
			}
		}
	}
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			return err
		}
		for range n {
			if _, err := rawTransfer(unix.SYS_WRITE, 4, &b); err != nil {
				return err
			}
			if _, err := rawTransfer(unix.SYS_READ, 3, &b); err != nil {
				return err
			}
		}
		if _, err := fmt.Println(n); err != nil {
			return err
		}
	}
}

func allowedCPUs() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, err
	}
	var cpus []int
	for cpu := range len(set) * 64 {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return cpus, nil
}

// rawTransfer reads or writes a byte without telling Go's scheduler.
func rawTransfer(call, fd uintptr, b *[1]byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall(call, fd, uintptr(unsafe.Pointer(b)), 1)
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}
