package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// soak runs the real program for d while cgroups and processes come and go, and
// fails if its memory, files or goroutines grow.
func soak(ctx context.Context, h *host, d time.Duration) (err error) {
	dir, err := os.MkdirTemp("", "owca-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	binary := filepath.Join(dir, "owca")
	progress("building owca")
	if err := build(ctx, binary); err != nil {
		return err
	}
	if err := h.grow(ctx, 50); err != nil {
		return err
	}
	a, err := startAgent(ctx, h, binary, dir, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.stop()) }()

	c := &churn{host: h}
	defer func() { err = errors.Join(err, c.close()) }()
	every := min(30*time.Second, d/20)
	progress("soaking for %v: 20 cgroups and some 100 processes come and go each second", d)
	var s soakSeries
	for _, w := range watchedMetrics {
		s.watched = append(s.watched, w.watchedValue)
	}
	begin := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	scraped, sampled := begin, begin
	for time.Since(begin) < d {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if err := c.step(); err != nil {
			return err
		}
		now := time.Now()
		if now.Sub(scraped) < time.Second {
			continue
		}
		scraped = now
		// Uncompressed, because it is read here.
		body, err := a.get(ctx, "/metrics")
		if err != nil {
			return err
		}
		if now.Sub(sampled) < every {
			continue
		}
		sampled = now
		if err := s.addMetrics(now.Sub(begin), body, c.made); err != nil {
			return err
		}
	}
	return s.verdict()
}

// churn makes one cgroup a step, whose processes fork, and removes it two
// seconds later, mostly after they have ended.
type churn struct {
	host *host
	made int
	live []brief
}

type brief struct {
	path string
	pid  int
	born time.Time
}

func (c *churn) step() error {
	path := fmt.Sprintf("%s/churn-%06d", c.host.root, c.made)
	pid, err := c.host.start(path, "/bin/sh", "-c", "for i in 1 2 3 4; do /bin/true; done; sleep 1")
	if err != nil {
		return err
	}
	c.made++
	c.live = append(c.live, brief{path, pid, time.Now()})
	for len(c.live) > 0 && time.Since(c.live[0].born) > 2*time.Second {
		if err := c.end(); err != nil {
			return err
		}
	}
	return nil
}

func (c *churn) end() error {
	b := c.live[0]
	c.live = c.live[1:]
	// The shell leads a process group, which has its children.
	if err := syscall.Kill(-b.pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
		return err
	}
	return errors.Join(end(b.pid), c.host.rmdir(b.path))
}

func (c *churn) close() error {
	var errs []error
	for len(c.live) > 0 {
		errs = append(errs, c.end())
	}
	return errors.Join(errs...)
}

// watchedMetrics are the agent's own metrics that must not grow.
var watchedMetrics = [...]struct {
	watchedValue
	metric string
	per    float64
}{
	{watchedValue{"rss", "MiB", 0.05, 2}, "owca_process_resident_memory_bytes", 1 << 20},
	{watchedValue{"open_files", "", 0.02, 12}, "owca_process_open_files", 1},
	{watchedValue{"goroutines", "", 0.1, 3}, "owca_goroutines", 1},
}

// addMetrics adds what the agent says of itself and prints it.
func (s *soakSeries) addMetrics(at time.Duration, body []byte, made int) error {
	text := fmt.Sprintf("cgroups=%d", made)
	var values []float64
	for _, w := range watchedMetrics {
		v, err := sample(body, w.metric)
		if err != nil {
			return err
		}
		values = append(values, v/w.per)
	}
	for _, m := range []string{"owca_tasks", "owca_ticks_total", "owca_tick_overruns_total", "owca_cgroups_vanished_total"} {
		v, err := sample(body, m)
		if err != nil {
			return err
		}
		text += fmt.Sprintf(" %s=%.0f", m, v)
	}
	s.add(at, text, values)
	return nil
}

// sample finds a metric without labels of its own.
func sample(body []byte, name string) (float64, error) {
	for line := range bytes.Lines(body) {
		if rest, ok := bytes.CutPrefix(line, []byte(name+" ")); ok {
			return strconv.ParseFloat(string(bytes.TrimSpace(rest)), 64)
		}
	}
	return 0, fmt.Errorf("/metrics has no %s", name)
}

// watchedValue is something that must not grow, over the time from the first quarter
// on, by more than both a share of its mean and a number.
type watchedValue struct {
	name, unit    string
	share, number float64
}

// soakSeries is what was seen of some of them.
type soakSeries struct {
	watched []watchedValue
	at      []float64   // seconds
	values  [][]float64 // of each of watched
}

// add takes values, one for each of watched, and prints them.
func (s *soakSeries) add(at time.Duration, text string, values []float64) {
	s.at = append(s.at, at.Seconds())
	line := fmt.Sprintf("soak t=%.0fs %s", at.Seconds(), text)
	if s.values == nil {
		s.values = make([][]float64, len(s.watched))
	}
	for i, w := range s.watched {
		s.values[i] = append(s.values[i], values[i])
		line += fmt.Sprintf(" %s=%.4g%s", w.name, values[i], w.unit)
	}
	fmt.Println(line)
}

func (s *soakSeries) verdict() error {
	from := len(s.at) / 4
	at := s.at[from:]
	if len(at) < 4 {
		return fmt.Errorf("%d samples are too few for a verdict: soak for longer", len(at))
	}
	var errs []error
	for i, w := range s.watched {
		mean, slope := line(at, s.values[i][from:])
		growth := slope * (at[len(at)-1] - at[0])
		verdict := "flat"
		if growth > w.share*mean && growth > w.number {
			verdict = "GROWS"
			errs = append(errs, fmt.Errorf("%s grows", w.name))
		}
		fmt.Printf("soak %s mean=%.4g%s slope=%+.3g%s/h growth=%+.3g%s %s\n", w.name, mean, w.unit, slope*3600, w.unit, growth, w.unit, verdict)
	}
	return errors.Join(errs...)
}

// line is the mean of y and the slope of the line of least squares through it.
func line(x, y []float64) (mean, slope float64) {
	var mx float64
	for i := range x {
		mx += x[i] / float64(len(x))
		mean += y[i] / float64(len(x))
	}
	var xy, xx float64
	for i := range x {
		xy += (x[i] - mx) * (y[i] - mean)
		xx += (x[i] - mx) * (x[i] - mx)
	}
	return mean, xy / xx
}
