package perf

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/hosttest"
)

// threadTime is the CPU time of this OS thread, in ns: on a busy host the clock
// on the wall says little.
func threadTime(b *testing.B) int64 {
	b.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		b.Fatal(err)
	}
	return ts.Nano()
}

// benchBackends runs f, which does something b.N times for per cgroups and
// events, with cgroups added.
func benchBackends(b *testing.B, cgroups int, f func(b *testing.B, c Counter, groups []Cgroup)) {
	hosttest.Need(b, "root")
	for _, backend := range Backends {
		b.Run(fmt.Sprintf("%s/%d", backend, cgroups), func(b *testing.B) {
			if backend == BPF {
				hosttest.Need(b, "bpf")
			}
			c := openCounter(b, FS{}, backend)
			top := hosttest.NewCgroup(b, nil, "bench")
			var groups []Cgroup
			for i := range cgroups {
				dir := filepath.Join(top.PerfDir(), strconv.Itoa(i))
				if err := os.Mkdir(dir, 0o755); err != nil {
					b.Fatal(err)
				}
				g, err := c.Add(dir)
				if err != nil {
					b.Fatal(err)
				}
				groups = append(groups, g)
			}
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			b.ReportAllocs()
			b.ResetTimer()
			start := threadTime(b)
			f(b, c, groups)
			b.ReportMetric(float64(threadTime(b)-start)/float64(b.N), "cpu-ns/op")
			b.ReportMetric(float64(threadTime(b)-start)/float64(b.N)/float64(max(cgroups, 1))/softwareCount, "cpu-ns/event")
		})
	}
}

// BenchmarkRead reads all cgroups once, with the Refresh before it.
func BenchmarkRead(b *testing.B) {
	for _, n := range []int{1, 50, 500} {
		benchBackends(b, n, func(b *testing.B, c Counter, groups []Cgroup) {
			counts := make([]Count, softwareCount)
			for b.Loop() {
				refresh(b, c)
				for _, g := range groups {
					if err := g.Read(counts); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

func BenchmarkRefresh(b *testing.B) {
	benchBackends(b, 50, func(b *testing.B, c Counter, _ []Cgroup) {
		for b.Loop() {
			refresh(b, c)
		}
	})
}

// BenchmarkAdd adds a cgroup and closes it, beside others.
func BenchmarkAdd(b *testing.B) {
	benchBackends(b, 50, func(b *testing.B, c Counter, _ []Cgroup) {
		cg := hosttest.NewCgroup(b, nil, "add")
		dir := cg.PerfDir()
		for b.Loop() {
			g, err := c.Add(dir)
			if err != nil {
				b.Fatal(err)
			}
			if err := g.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
