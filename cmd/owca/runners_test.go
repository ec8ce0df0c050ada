package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/measure"
	"github.com/owca-project/owca/internal/perf"
	"github.com/owca-project/owca/internal/proc"
)

// TestEventsThatCannotBePlanned: mistakes of the configuration end the start,
// whatever else is wrong leaves the rest to be measured.
func TestEventsThatCannotBePlanned(t *testing.T) {
	old := slog.Default()
	defer slog.SetDefault(old)
	for _, tc := range []struct {
		online, events string
		fails, logged  string
	}{
		{"0\n", "page-fautls", `event_names: page-fautls: `, ""},
		{"0\n", "software/config=2,name=up/", "which is the name of the metric owca_task_up", ""},
		{"none\n", "page-faults", "", "no performance counters until the next reload"},
	} {
		root := t.TempDir()
		for name, content := range map[string]string{
			"sys/devices/system/cpu/online":                       tc.online,
			"sys/bus/event_source/devices/software/type":          "1\n",
			"sys/bus/event_source/devices/software/format/config": "config:0-63\n",
		} {
			path := filepath.Join(root, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		var log bytes.Buffer
		slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
		r := newMeasurementRunner(&measure.Host{Proc: proc.FS{Root: root}})
		r.EventNames = []string{tc.events}
		err := r.Start(context.Background())
		if (err != nil) != (tc.fails != "") || err != nil && !strings.Contains(err.Error(), tc.fails) {
			t.Errorf("%s with CPUs %q: %v, want %q", tc.events, tc.online, err, tc.fails)
		}
		if r.counters != nil {
			t.Errorf("%s with CPUs %q: is counted", tc.events, tc.online)
		}
		if text := log.String(); strings.Count(text, "\n") > 1 || !strings.Contains(text, tc.logged) || (text == "") != (tc.logged == "") {
			t.Errorf("%s with CPUs %q: %q is logged, want %q", tc.events, tc.online, text, tc.logged)
		}
	}
}

// TestPerfBackendNone: then nothing of the host is opened for counting, DRAM
// included.
func TestPerfBackendNone(t *testing.T) {
	for _, backend := range append([]perf.Backend{"auto", "none"}, perf.Backends...) {
		r := newMeasurementRunner(nil)
		r.PerfBackend = string(backend)
		if got := r.loop(func(owca.Storage) string { return "" }).Platform.NoDRAM; got != (backend == "none") {
			t.Errorf("perf_backend: %s: without DRAM traffic: %v", backend, got)
		}
	}
}

// TestTellPlan: events that the user named are told of one by one, the default
// ones in one line.
func TestTellPlan(t *testing.T) {
	omitted := []perf.Omission{{Name: "cycles", Err: errors.ErrUnsupported}, {Name: "instructions", Err: errors.ErrUnsupported}}
	starved := []error{errors.New("{a,b} fits"), errors.New("{c} fits")}
	for _, tc := range []struct {
		named []string
		lines []string
	}{
		{nil, []string{`level=WARN.*"{a,b} fits"`, `level=WARN.*"{c} fits"`, `level=INFO.* events="cycles instructions" error="unsupported operation"$`}},
		{[]string{"cycles", "instructions"}, []string{`level=WARN.*"{a,b} fits"`, `level=WARN.*"{c} fits"`, `level=WARN.* event=cycles `, `level=WARN.* event=instructions `}},
	} {
		var b bytes.Buffer
		r := &measurementRunner{EventNames: tc.named}
		r.tell(slog.New(slog.NewTextHandler(&b, nil)), omitted, starved)
		lines := strings.Split(strings.TrimSpace(b.String()), "\n")
		if len(lines) != len(tc.lines) {
			t.Fatalf("%d lines, want %d:\n%s", len(lines), len(tc.lines), &b)
		}
		for i, want := range tc.lines {
			if !regexp.MustCompile(want).MatchString(lines[i]) {
				t.Errorf("%s\nwant %s", lines[i], want)
			}
		}
	}
}
