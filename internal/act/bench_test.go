package act

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/hosttest"
)

// manyTasks are tasks of one cgroup each, with what is measured of their limits.
func manyTasks(b *testing.B, n int) []owca.TaskData {
	b.Helper()
	parent := hosttest.NewCgroup(b, nil, "bench")
	tasks := make([]owca.TaskData, n)
	for i := range tasks {
		c := hosttest.NewCgroup(b, parent, fmt.Sprintf("t%d", i))
		tasks[i] = owca.TaskData{
			Task: owca.Task{ID: owca.TaskID(fmt.Sprintf("task%d", i)), Cgroups: []string{c.Path}},
			Measurements: owca.Measurements{
				{Desc: owca.TaskCPUUsage, Value: owca.Int(uint64(i))},
				{Desc: owca.TaskCPUShares, Value: owca.Int(1024)},
				{Desc: owca.TaskMemoryUsage, Value: owca.Int(uint64(i))},
				{Desc: owca.TaskCPULimit, Value: owca.Float(0.5)},
			},
		}
	}
	return tasks
}

func benchActor(b *testing.B) *Actor {
	b.Helper()
	hosttest.Need(b, "root")
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil)))
	b.Cleanup(func() { slog.SetDefault(old) })
	a := New("/")
	a.weighed = true
	if err := a.Start(Options{StateDir: filepath.Join(b.TempDir(), "state"), Units: Units{SharesUnit: 1024}}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := a.Close(); err != nil {
			b.Error(err)
		}
	})
	return a
}

func quotas(tasks []owca.TaskData, n float64) []Decided {
	d := map[owca.TaskID]owca.Allocations{}
	for i := range tasks {
		d[tasks[i].ID] = owca.Allocations{owca.CPUQuota: {Number: n}}
	}
	return []Decided{{Owner: "bench", Allocations: d}}
}

func mustApply(b *testing.B, a *Actor, tasks []owca.TaskData, decided []Decided) Report {
	a.Observe(time.Now(), tasks)
	report, err := a.Apply(time.Now(), tasks, decided)
	if err != nil || len(report.Failed)+len(report.Refused) > 0 {
		b.Fatal(err, report.Failed, report.Refused)
	}
	return report
}

// BenchmarkUnchanged is a tick in which an allocator decides what it did before.
func BenchmarkUnchanged(b *testing.B) {
	tasks := manyTasks(b, 1000)
	for _, leases := range []int{0, 1000} {
		b.Run(fmt.Sprintf("leases=%d", leases), func(b *testing.B) {
			a := benchActor(b)
			decided := quotas(tasks[:leases], 0.25)
			for range 1 + len(tasks)/maxLooked { // each value was read once
				mustApply(b, a, tasks, decided)
			}
			b.ReportAllocs()
			for b.Loop() {
				mustApply(b, a, tasks, decided)
			}
			if len(a.Leases()) != leases {
				b.Fatalf("%d leases", len(a.Leases()))
			}
		})
	}
}

// BenchmarkChange is a tick in which all of 1000 limits change; x-floor is how many times
// the bare writes, with one fsync, that takes, and first-x-floor the first application.
func BenchmarkChange(b *testing.B) {
	tasks := manyTasks(b, 1000)
	controls := make([]string, len(tasks))
	tree, err := cgroup.FS{}.Tree()
	if err != nil {
		b.Fatal(err)
	}
	for i := range tasks {
		c, err := tree.Control(tasks[i].Cgroups[0])
		if err != nil {
			b.Fatal(err)
		}
		controls[i] = c.File(cgroup.CPUMax)
		_ = c.Close()
	}
	a := benchActor(b)
	decided := [][]Decided{quotas(tasks, 0.25), quotas(tasks, 0.5)}
	a.begin()
	v1 := a.tree.V1("cpu") != ""
	log, err := os.Create(filepath.Join(b.TempDir(), "log"))
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	line := make([]byte, 400) // about a lease's
	start := time.Now()
	mustApply(b, a, tasks, decided[1])
	first := time.Since(start)

	var floor, took time.Duration
	n := 0
	for b.Loop() {
		start := time.Now()
		if report := mustApply(b, a, tasks, decided[n%2]); len(report.Changes) != len(tasks) {
			b.Fatalf("%d changes", len(report.Changes))
		}
		took += time.Since(start)

		// The value that is there, so that the Actor finds its own.
		value := a.Leases()[0].New
		if v1 {
			value, _, _ = strings.Cut(value, " ")
		}
		start = time.Now()
		for _, name := range controls {
			bareWrite(b, name, value)
		}
		for range controls {
			if _, err := log.Write(line); err != nil {
				b.Fatal(err)
			}
		}
		if err := log.Sync(); err != nil {
			b.Fatal(err)
		}
		floor += time.Since(start)
		n++
	}
	b.ReportMetric(float64(took)/float64(floor), "x-floor")
	b.ReportMetric(float64(first)*float64(n)/float64(floor), "first-x-floor")
}

func bareWrite(b *testing.B, name, value string) {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := f.WriteString(value); err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
}
