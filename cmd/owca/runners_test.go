package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/hosttest"
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
		if got := r.loop(func(any) string { return "" }).Platform.NoDRAM; got != (backend == "none") {
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
		r := &measuring{EventNames: tc.named}
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

// TestResctrlRequiredControlOnly: where nothing can be monitored a start that must fails, and
// another one says so.
func TestResctrlRequiredControlOnly(t *testing.T) {
	hosttest.Resctrl(t, "/!L3_MON")
	var log bytes.Buffer
	old := slog.Default()
	defer slog.SetDefault(old)
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	r := newMeasurementRunner(measure.Open("/"))
	must := true
	r.RDTEnabled = &must
	if err := r.startResctrl(); err == nil || !strings.Contains(err.Error(), "rdt_enabled: true, but: ") || !strings.Contains(err.Error(), "RMIDs") {
		t.Error(err)
	}
	r.RDTEnabled = nil
	if err := r.startResctrl(); err != nil || r.resctrl == nil {
		t.Error(err)
	}
	if text := log.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "level=INFO") || !strings.Contains(text, "RMIDs") {
		t.Errorf("logged: %s", text)
	}
}

// TestResctrlRequiredInUse: of two agents the second one does not start if it must monitor.
func TestResctrlRequiredInUse(t *testing.T) {
	hosttest.Resctrl(t, "/L3_MON")
	first := measure.Open("/")
	plan, err := first.PlanResctrl(measure.ResctrlOptions{})
	if err != nil {
		t.Fatal(err)
	}
	tasks := first.NewTasks(measure.TaskOptions{}, func(owca.Task) *owca.Labels { return nil })
	defer tasks.Close()
	tasks.SetResctrl(plan)
	if _, err := tasks.Read(time.Now(), time.Now(), nil); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "owca.yaml")
	text := "runner: !MeasurementRunner\n  node: !StaticNode {tasks: [/]}\n  metrics_storage: []\n  rdt_enabled: true\n"
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"run", "--root", "-c", config}, {"run", "--root", "--once", "-c", config}} {
		out, err := exec.Command("owca", args...).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != exitFailed || !strings.Contains(string(out), "only one agent of a host can monitor") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
}

// TestResctrlMountUndoneAtOnce: SIGTERM right after resctrl was mounted, while the agent is
// still starting, leaves no mount behind.
func TestResctrlMountUndoneAtOnce(t *testing.T) {
	dir := hosttest.Resctrl(t, "/L3_MON")
	if os.Getenv("OWCA_TEST_VM") == "" {
		t.Skip("unmounts resctrl, which is for a machine of its own")
	}
	options := ""
	mounts := func() (text string) {
		data, err := os.ReadFile("/proc/mounts")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			if f := strings.Fields(line); f[2] == "resctrl" {
				text = f[3]
			}
		}
		return text
	}
	for o := range strings.SplitSeq(mounts(), ",") {
		if o == "cdp" || o == "cdpl2" || o == "mba_MBps" || o == "debug" {
			options = strings.TrimPrefix(options+","+o, ",")
		}
	}
	if err := syscall.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	defer func() { // for the other tests
		if err := syscall.Mount("resctrl", dir, "resctrl", 0, options); err != nil {
			t.Error(err)
		}
	}()
	config := filepath.Join(t.TempDir(), "owca.yaml")
	text := "runner: !MeasurementRunner\n  node: !StaticNode {tasks: [/]}\n  metrics_storage: []\n  resctrl_mount: true\n  rdt_enabled: true\n"
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		var out bytes.Buffer
		cmd := exec.Command("owca", "run", "--root", "-c", config)
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(time.Minute); mounts() == "" && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v\n%s", err, &out)
		}
		if mounts() != "" {
			t.Errorf("resctrl stays mounted\n%s", &out)
			if err := syscall.Unmount(dir, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
}
