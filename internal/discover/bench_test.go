package discover

import (
	"context"
	"fmt"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/hosttest"
)

// sleepers makes cgroups like services, each with a process, in every hierarchy.
func sleepers(b *testing.B, n int) *hosttest.Cgroup {
	b.Helper()
	parent := hosttest.NewCgroup(b, nil, "bench")
	for i := range n {
		c := hosttest.NewCgroup(b, parent, fmt.Sprint(i, ".service"))
		cmd := exec.Command("sleep", "100000")
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		c.Add(cmd.Process.Pid)
	}
	return parent
}

// cpuTime reports the CPU time of an operation, which on a busy machine says
// more than the time that passed.
func cpuTime(b *testing.B) func() {
	now := func() int64 {
		var ru unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
			b.Fatal(err)
		}
		return ru.Utime.Nano() + ru.Stime.Nano()
	}
	start := now()
	return func() { b.ReportMetric(float64(now()-start)/float64(b.N), "cpu-ns/op") }
}

// BenchmarkAuto has one run of sub-benchmarks per size: the first walk, a call
// in which nothing happens, and one in which one task comes and one goes. The
// clock advances by the default interval of 1 s a call, so that the visits of
// RescanInterval are in. With hierarchies=v1 the v2 hierarchy is left out.
func BenchmarkAuto(b *testing.B) {
	for _, size := range []int{50, 500, 2000} {
		b.Run(fmt.Sprint("tasks=", size), func(b *testing.B) {
			hosttest.Need(b, "root", "sleep")
			parent := sleepers(b, size)
			for _, kind := range []string{"all", "v1", "v2"} {
				b.Run("hierarchies="+kind, func(b *testing.B) { benchmarkAuto(b, parent, kind, size) })
			}
		})
	}
}

func benchmarkAuto(b *testing.B, parent *hosttest.Cgroup, kind string, size int) {
	dirs := func() ([]string, error) {
		list, err := hostDirs()
		var kept []string
		for _, dir := range list {
			v2 := dir+parent.Path == parent.Dir("unified")
			if kind == "all" || v2 == (kind == "v2") {
				kept = append(kept, dir)
			}
		}
		return kept, err
	}
	if list, _ := dirs(); len(list) == 0 {
		b.Skip("no such hierarchy here") // the host is pure v1 or pure v2
	}
	ctx := context.Background()
	c := &clock{time.Now()}
	node := func(b *testing.B) *AutoNode {
		n := NewAuto(dirs, "/proc")
		n.Include = []string{parent.Path + "/**"}
		n.Exclude = outside(b, parent)
		n.MaxTasks = 1 << 20
		n.now = c.now
		if err := n.Start(ctx); err != nil {
			b.Fatal(err)
		}
		return n
	}
	call := func(b *testing.B, n *AutoNode, want int) {
		c.advance(time.Second)
		list, err := n.Tasks(ctx)
		if err != nil || len(list) != want {
			b.Fatalf("%d tasks, want %d: %v", len(list), want, err)
		}
	}
	end := func(b *testing.B, n *AutoNode) {
		if err := n.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("walk", func(b *testing.B) {
		b.ReportAllocs()
		cpu := cpuTime(b) // of start and end
		for b.Loop() {
			n := node(b)
			b.StopTimer()
			call(b, n, size)
			end(b, n)
			b.StartTimer()
		}
		cpu()
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(size), "ns/cgroup")
	})
	b.Run("unchanged", func(b *testing.B) {
		n := node(b)
		b.ReportAllocs()
		cpu := cpuTime(b)
		for b.Loop() {
			call(b, n, size)
		}
		cpu()
		b.ReportMetric(float64(len(n.tree.watched)), "watches")
		end(b, n)
	})
	b.Run("one changes", func(b *testing.B) {
		n := node(b)
		b.ReportAllocs()
		for b.Loop() {
			b.StopTimer()
			made := hosttest.NewCgroup(b, parent, "new.service")
			cmd := exec.Command("sleep", "100000")
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
			made.Add(cmd.Process.Pid)
			b.StartTimer()
			call(b, n, size+1)
			b.StopTimer()
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			made.Remove()
			b.StartTimer()
			call(b, n, size)
		}
		end(b, n)
	})
}
