package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/cilium/ebpf"

	"github.com/owca-project/owca/internal/hosttest"
	"github.com/owca-project/owca/internal/perf"
)

// perfSoak counts in cgroups that come and go, 200 a second, with both backends
// at once, for d, and fails if memory, files or BPF maps grow. It does so in a
// process with a cgroup of its own, so that the kernel's memory for it is known,
// that of maps without a descriptor included.
func perfSoak(ctx context.Context, h *host, d time.Duration) error {
	group, below := h.root+"/counting", h.root+"/churn"
	if err := errors.Join(h.mkdir(group, false), h.mkdir(below, true)); err != nil {
		return err
	}
	in, out, cmd, err := startSelf(func(cmd *exec.Cmd) { cmd.Stdout = os.Stdout }, churnCommand, group, below, d.String())
	if err != nil {
		return err
	}
	if err := h.add(group, cmd.Process.Pid); err != nil {
		return errors.Join(err, in.Close(), out.Close(), cmd.Wait())
	}
	progress("soaking for %v: 200 counted cgroups come and go each second", d)
	// It begins at this line and ends, at the latest, with its stdin.
	if _, err := fmt.Fprintln(in); err != nil {
		return errors.Join(err, in.Close(), out.Close(), cmd.Wait())
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	return errors.Join(cmd.Wait(), in.Close(), out.Close(), ctx.Err())
}

const churnCommand, hopperCommand = "churn", "hopper"

// Each cgroup is there for so many steps.
const (
	churnStep = 5 * time.Millisecond
	churnLife = 40
)

// churnMain is the process that counts.
func churnMain(args []string) error {
	if len(args) != 3 {
		return errors.New("it is started by -perf -soak")
	}
	d, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	if _, err := firstLine(os.Stdin); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	h := &host{hierarchies: hosttest.Hierarchies()}
	c := &perfChurn{host: h, group: args[0], dir: perfHierarchy(h).Dir + args[1]}
	return errors.Join(c.run(ctx, d), c.close())
}

// perfChurn makes one cgroup a step. A process that sleeps, wakes and touches
// memory is moved from each to the next.
type perfChurn struct {
	host   *host
	group  string // of this process
	dir    string // of the cgroups
	hopper *exec.Cmd
	stdin  []*os.File

	counters [2]*counting // as perf.Backends
	live     []*counted
	made     int
	switches [2]uint64 // counted in those that have gone
}

type counted struct {
	dir     string
	cgroups [2]perf.Cgroup
}

func (c *perfChurn) run(ctx context.Context, d time.Duration) error {
	for i, backend := range perf.Backends {
		var err error
		if c.counters[i], err = openCounter(backend); err != nil {
			return fmt.Errorf("%s: %w", backend, err)
		}
	}
	in, out, hopper, err := startSelf(nil, hopperCommand)
	if err != nil {
		return err
	}
	c.hopper, c.stdin = hopper, []*os.File{in, out}
	s := soakSeries{watched: []watchedValue{
		{"rss", "MiB", 0.05, 2}, {"kernel", "KiB", 0.1, 512}, {"open_files", "", 0.02, 12}, {"bpf_maps", "", 0.02, 2},
	}}
	every := min(30*time.Second, d/20)
	begin := time.Now()
	tick := time.NewTicker(churnStep)
	defer tick.Stop()
	for sampled := begin; time.Since(begin) < d; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		// One that is late makes up for it.
		for time.Duration(c.made)*churnStep < time.Since(begin) {
			if err := c.step(); err != nil {
				return err
			}
		}
		if time.Since(sampled) < every {
			continue
		}
		sampled = time.Now()
		if err := c.sample(&s, time.Since(begin)); err != nil {
			return err
		}
	}
	if a, b := float64(c.switches[0]), float64(c.switches[1]); a == 0 || b < 0.99*a || b > 1.01*a {
		return fmt.Errorf("the backends counted %v and %v context switches", a, b)
	}
	return s.verdict()
}

func (c *perfChurn) step() error {
	// The kernel remembers names that are no more, so they are used again.
	g := &counted{dir: fmt.Sprintf("%s/%03d", c.dir, c.made%1000)}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return err
	}
	c.made++
	c.live = append(c.live, g)
	for i := range c.counters {
		var err error
		if g.cgroups[i], err = c.counters[i].counter.Add(g.dir); err != nil {
			return fmt.Errorf("%s: %w", perf.Backends[i], err)
		}
	}
	if err := os.WriteFile(g.dir+"/cgroup.procs", strconv.AppendInt(nil, int64(c.hopper.Process.Pid), 10), 0); err != nil {
		return err
	}
	if len(c.live) <= churnLife {
		return nil
	}
	return c.end()
}

// end ends the oldest. Every other one is removed before it is read for the last
// time.
func (c *perfChurn) end() error {
	g := c.live[0]
	c.live = c.live[1:]
	first := c.made%2 == 0
	if first {
		if err := os.Remove(g.dir); err != nil {
			return err
		}
	}
	for i, n := range c.counters {
		if err := errors.Join(n.counter.Refresh(), g.cgroups[i].Read(n.counts)); err != nil {
			return fmt.Errorf("%s: %w", perf.Backends[i], err)
		}
		c.switches[i] += n.counts[1].Value // as perfEvents
		if err := g.cgroups[i].Close(); err != nil {
			return fmt.Errorf("%s: %w", perf.Backends[i], err)
		}
	}
	if first {
		return nil
	}
	return os.Remove(g.dir)
}

func (c *perfChurn) sample(s *soakSeries, at time.Duration) error {
	rss, err := statusOf(os.Getpid(), "VmRSS")
	if err != nil {
		return err
	}
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	kernel, ok := c.host.kernelMemory(c.group)
	if !ok {
		return errors.New("the kernel does not tell its memory of a cgroup")
	}
	maps, err := heldMaps()
	if err != nil {
		return err
	}
	all, err := allMaps()
	if err != nil {
		return err
	}
	text := fmt.Sprintf("cgroups=%d context_switches=%d,%d all_bpf_maps=%d", c.made, c.switches[0], c.switches[1], all)
	s.add(at, text, []float64{mib(rss), float64(kernel) / 1024, float64(len(files)), float64(maps)})
	return nil
}

// heldMaps is how many BPF maps this process has descriptors of.
func heldMaps() (int, error) {
	files, err := os.ReadDir("/proc/self/fdinfo")
	if err != nil {
		return 0, err
	}
	n := 0
	for _, f := range files {
		b, err := os.ReadFile("/proc/self/fdinfo/" + f.Name())
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // that of files
			return 0, err
		}
		if bytes.Contains(b, []byte("\nmap_id:")) {
			n++
		}
	}
	return n, nil
}

// allMaps is how many there are on the host, those that a process or program
// holds in other ways included, and those of others, too.
func allMaps() (int, error) {
	n := 0
	for id := ebpf.MapID(0); ; n++ {
		next, err := ebpf.MapGetNextID(id)
		if errors.Is(err, fs.ErrNotExist) {
			return n, nil
		}
		if err != nil {
			return 0, err
		}
		id = next
	}
}

func (c *perfChurn) close() error {
	var errs []error
	for _, f := range c.stdin {
		errs = append(errs, f.Close())
	}
	if c.hopper != nil {
		errs = append(errs, c.hopper.Wait())
	}
	for len(c.live) > 0 && c.live[0].cgroups[1] != nil {
		errs = append(errs, c.end())
	}
	for i, n := range c.counters {
		if n != nil {
			if err := n.counter.Close(); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", perf.Backends[i], err))
			}
		}
	}
	return errors.Join(errs...)
}

// hopperMain is the process that is moved: it ends with its stdin.
func hopperMain() error {
	done := make(chan struct{})
	go func() {
		_, _ = firstLine(os.Stdin)
		close(done)
	}()
	page := os.Getpagesize()
	for {
		b, err := syscall.Mmap(-1, 0, 4*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
		if err != nil {
			return err
		}
		for i := 0; i < len(b); i += page {
			b[i] = 1
		}
		if err := syscall.Munmap(b); err != nil {
			return err
		}
		select {
		case <-done:
			return nil
		case <-time.After(200 * time.Microsecond):
		}
	}
}
