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

// BenchmarkChange is a tick in which all of 1000 limits change, for the first time (each
// cgroup is found and read, and its files opened) or again. x-floor is how many times what
// any program has to do that takes: open, write and close a file each, and one write and
// fsync of what it has to remember.
func BenchmarkChange(b *testing.B) {
	tasks := manyTasks(b, 1000)
	files := make([]string, len(tasks))
	tree, err := cgroup.FS{}.Tree()
	if err != nil {
		b.Fatal(err)
	}
	for i := range tasks {
		c, err := tree.Control(tasks[i].Cgroups[0])
		if err != nil {
			b.Fatal(err)
		}
		files[i] = c.File(cgroup.CPUMax)
		_ = c.Close()
	}
	log, err := os.Create(filepath.Join(b.TempDir(), "log"))
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	lines := make([]byte, 400*len(tasks)) // about those of leases

	decided := [][]Decided{quotas(tasks, 0.25), quotas(tasks, 0.5)}
	change := func(b *testing.B, a *Actor, decided []Decided) time.Duration {
		start := time.Now()
		if report := mustApply(b, a, tasks, decided); len(report.Changes) != len(tasks) {
			b.Fatalf("%d changes", len(report.Changes))
		}
		return time.Since(start)
	}
	floor := func(b *testing.B, value string) time.Duration {
		if tree.V1("cpu") != "" {
			value, _, _ = strings.Cut(value, " ")
		}
		start := time.Now()
		for _, name := range files {
			bareWrite(b, name, value)
		}
		if _, err := log.WriteAt(lines, 0); err != nil {
			b.Fatal(err)
		}
		if err := log.Sync(); err != nil {
			b.Fatal(err)
		}
		return time.Since(start)
	}
	b.Run("first", func(b *testing.B) {
		var took, bare time.Duration
		for b.Loop() {
			a := benchActor(b)
			took += change(b, a, decided[0])
			bare += floor(b, a.Leases()[0].New) // what is there: the Actor finds its own
			if err := a.Close(); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(took)/float64(bare), "x-floor")
	})
	b.Run("again", func(b *testing.B) {
		a := benchActor(b)
		change(b, a, decided[1])
		var took, bare time.Duration
		for n := 0; b.Loop(); n++ {
			took += change(b, a, decided[n%2])
			bare += floor(b, a.Leases()[0].New)
		}
		b.ReportMetric(float64(took)/float64(bare), "x-floor")
	})
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
