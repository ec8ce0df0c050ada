package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// program measures the real program: its start, and what it holds while it is
// scraped once a second.
func program(ctx context.Context, h *host, r *report, o *options) error {
	dir, err := os.MkdirTemp("", "owca-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	progress("building owca")
	binary := filepath.Join(dir, "owca")
	if err := build(ctx, binary); err != nil {
		return err
	}
	info, err := os.Stat(binary)
	if err != nil {
		return err
	}
	r.put("binary_size_mib", mib(info.Size()), "MiB")

	for _, n := range []int{50, 1000} {
		if n > o.tasks {
			break
		}
		if err := h.grow(ctx, n); err != nil {
			return err
		}
		progress("starting owca with %d tasks, five times", n)
		var took []float64
		for range 5 {
			a, err := startAgent(ctx, h, binary, dir, "")
			if err != nil {
				return err
			}
			took = append(took, a.started.Seconds()*1000)
			if err := a.stop(); err != nil {
				return err
			}
		}
		name := "start_ms"
		if n != 50 {
			name += "_" + strconv.Itoa(n)
		}
		r.put(name, median(took), "ms")
	}
	if o.tasks < 1000 {
		return nil
	}

	progress("running owca with 1000 tasks for %v, scraped each second", o.resident)
	group := h.root + "/agent"
	if err := h.mkdir(group, false); err != nil {
		return err
	}
	a, err := startAgent(ctx, h, binary, dir, group)
	if err != nil {
		return err
	}
	return errors.Join(a.observe(ctx, h, r, o.resident, group), a.stop(), h.rmdir(group))
}

func build(ctx context.Context, binary string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", binary, "github.com/owca-project/owca/cmd/owca")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go build: %w", err)
	}
	return nil
}

// agent is a running owca.
type agent struct {
	cmd     *exec.Cmd
	url     string
	started time.Duration // until it was ready
	stderr  bytes.Buffer
	client  http.Client
	body    []byte // of the last scrape
}

// startAgent starts owca on the tasks of h that exist and waits until it is
// ready: until the metrics of a tick can be scraped. It runs in the cgroup group
// from its beginning, unless that is "".
func startAgent(ctx context.Context, h *host, binary, dir, group string) (*agent, error) {
	address, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "owca.yaml")
	text := fmt.Sprintf(`runner: !MeasurementRunner
  node: !AutoNode
    include: [%q]
    exclude: [%q]
    max_tasks: 100000
  enable_derived_metrics: true
  common_labels: []
  metrics_storage: !PrometheusStorage
    listen: %q
`, h.root+"/**", others, address)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return nil, err
	}
	a := &agent{url: "http://" + address}
	// Compression is asked for as Prometheus does, not undone on the way.
	a.client.Transport = &http.Transport{DisableCompression: true}
	args := []string{binary, "run", "--root", "--log", "warning", "--config", path}
	if group != "" {
		// Through a shell that moves itself first.
		script := ""
		for i := range h.hierarchies {
			script += fmt.Sprintf("echo $$ >%s && ", h.hierarchies[i].Dir+group+"/cgroup.procs")
		}
		args = append([]string{"sh", "-c", script + `exec "$@"`, "sh"}, args...)
	}
	a.cmd = exec.Command(args[0], args[1:]...)
	a.cmd.Stderr = &a.stderr
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	start := time.Now()
	if err := a.cmd.Start(); err != nil {
		return nil, err
	}
	if err := a.ready(ctx, start.Add(30*time.Second)); err != nil {
		return nil, errors.Join(err, a.stop())
	}
	a.started = time.Since(start)
	return a, nil
}

func (a *agent) ready(ctx context.Context, deadline time.Time) error {
	for {
		_, err := a.get(ctx, "/readyz")
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(deadline):
			return fmt.Errorf("owca does not get ready: %w", err)
		}
		time.Sleep(time.Millisecond)
	}
}

func freeAddress(ctx context.Context) (string, error) {
	var c net.ListenConfig
	l, err := c.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// stop ends the program by SIGTERM.
func (a *agent) stop() error {
	a.client.CloseIdleConnections()
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	if err := a.cmd.Wait(); err != nil {
		return fmt.Errorf("owca: %w\n%s", err, a.stderr.Bytes())
	}
	return nil
}

// get returns the body of an answer, valid until the next call.
func (a *agent) get(ctx context.Context, path string, accept ...string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	if len(accept) == 2 {
		request.Header.Set("Accept", accept[0])
		request.Header.Set("Accept-Encoding", accept[1])
	}
	answer, err := a.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	b := bytes.NewBuffer(a.body[:0])
	_, err = io.Copy(b, answer.Body)
	a.body = b.Bytes()
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, answer.Status, bytes.TrimSpace(a.body))
	}
	return a.body, err
}

// scrape scrapes as Prometheus 3 does.
func (a *agent) scrape(ctx context.Context) error {
	_, err := a.get(ctx, "/metrics", "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.4,*/*;q=0.1", "gzip")
	return err
}

// observe looks at the program while it is scraped once a second.
func (a *agent) observe(ctx context.Context, h *host, r *report, d time.Duration, group string) error {
	pid := a.cmd.Process.Pid
	var times []float64
	cpu, begin := time.Duration(0), time.Now()
	var at time.Time
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for time.Since(begin) < d {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
		start := time.Now()
		if err := a.scrape(ctx); err != nil {
			return err
		}
		times = append(times, time.Since(start).Seconds()*1000)
		if len(times) == 5 { // it has settled
			var err error
			if cpu, err = cpuOf(pid); err != nil {
				return err
			}
			at = time.Now()
		}
	}
	used, err := cpuOf(pid)
	if err != nil {
		return err
	}
	elapsed := time.Since(at)
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return err
	}
	resident, err := statusOf(pid, "VmRSS")
	if err != nil {
		return err
	}
	peak, err := statusOf(pid, "VmHWM")
	if err != nil {
		return err
	}
	r.put("rss_1000_mib", mib(resident), "MiB")
	r.put("rss_peak_1000_mib", mib(peak), "MiB")
	r.put("open_files_1000", float64(len(files)), "count")
	if len(times) > 5 {
		r.put("agent_cpu_1000", 100*float64(used-cpu)/float64(elapsed), "percent")
	}
	r.put("scrape_ms_1000", median(times), "ms")
	r.put("scrape_kib_1000", float64(len(a.body))/1024, "KiB")
	if kernel, ok := h.kernelMemory(group); ok {
		r.put("kernel_kib_per_task_1000", float64(kernel)/1024/1000, "KiB")
	}
	return nil
}

// kernelMemory is what the kernel holds on behalf of a cgroup, in bytes: mostly
// open files and their inodes.
func (h *host) kernelMemory(group string) (int64, bool) {
	for i := range h.hierarchies {
		dir := h.hierarchies[i].Dir + group
		if slices.Contains(h.hierarchies[i].Controllers, "memory") {
			b, err := os.ReadFile(dir + "/memory.kmem.usage_in_bytes")
			if err != nil {
				return 0, false
			}
			n, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
			return n, err == nil
		}
		b, err := os.ReadFile(dir + "/memory.stat")
		if err != nil || h.hierarchies[i].Type != "cgroup2" {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if value, ok := strings.CutPrefix(line, "kernel "); ok {
				n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
				return n, err == nil
			}
		}
	}
	return 0, false
}

// cpuOf is the CPU time that a process has used.
func cpuOf(pid int) (time.Duration, error) {
	// The clock of another process (clock_getcpuclockid(3)) has no steps of 10 ms.
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// statusOf returns a line of /proc/PID/status that is in kB, in bytes.
func statusOf(pid int, name string) (int64, error) {
	path := fmt.Sprintf("/proc/%d/status", pid)
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, name)
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }
