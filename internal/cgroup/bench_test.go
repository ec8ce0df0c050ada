package cgroup

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/hosttest"
)

// tickSets is what one reads at every tick.
const tickSets = CPU | Memory | IO | PIDs | Pressure

// BenchmarkRead compares a Read of what is read at every tick with the floor:
// a loop of bare preads of the same files, in the same run, in turns.
func BenchmarkRead(b *testing.B) {
	tree := hostTree(b)
	c := hosttest.NewCgroup(b, nil, "read")
	c.Start("sleep")
	g := open(b, tree, c.Path)
	var s Stat
	if err := g.Read(&s, tickSets); err != nil {
		b.Fatal(err)
	}
	var fds []int
	for i := range g.slots {
		if fd := g.slots[i].fd; fd >= 0 {
			fds = append(fds, int(fd))
		}
	}
	buf := make([]byte, len(tree.buf))
	// CPU time of this thread: on a busy host the clock on the wall says little.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var floor, reads time.Duration
	const turn = 100
	b.ReportAllocs()
	for b.Loop() {
		start := threadTime(b)
		for range turn {
			for _, fd := range fds {
				if _, err := pread(fd, buf, 0); err != nil {
					b.Fatal(err)
				}
			}
		}
		middle := threadTime(b)
		for range turn {
			if err := g.Read(&s, tickSets); err != nil {
				b.Fatal(err)
			}
		}
		floor += middle - start
		reads += threadTime(b) - middle
	}
	b.ReportMetric(float64(reads)/float64(floor), "read/floor")
	b.ReportMetric(float64(reads.Nanoseconds())/float64(b.N*turn), "ns/read")
	b.ReportMetric(float64(len(fds)), "files")
}

func threadTime(b *testing.B) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// BenchmarkSet is the cost of each set.
func BenchmarkSet(b *testing.B) {
	tree := hostTree(b)
	c := hosttest.NewCgroup(b, nil, "set")
	c.Start("sleep")
	for name, set := range map[string]Set{
		"CPU": CPU, "Memory": Memory, "MemoryStat": MemoryStat, "NUMA": NUMA,
		"IO": IO, "PIDs": PIDs, "Pressure": Pressure, "Limits": Limits,
	} {
		b.Run(name, func(b *testing.B) {
			g := open(b, tree, c.Path)
			var s Stat
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			start := threadTime(b)
			b.ReportAllocs()
			for b.Loop() {
				if err := g.Read(&s, set); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((threadTime(b)-start).Nanoseconds())/float64(b.N), "cpu-ns/read")
		})
	}
}

// BenchmarkNotKept is a tick without a descriptor to keep.
func BenchmarkNotKept(b *testing.B) {
	tree := hostTree(b)
	tree.KeepFiles = 0
	c := hosttest.NewCgroup(b, nil, "notkept")
	c.Start("sleep")
	g := open(b, tree, c.Path)
	var s Stat
	b.ReportAllocs()
	for b.Loop() {
		if err := g.Read(&s, tickSets); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkThreads(b *testing.B) {
	tree := hostTree(b)
	c := hosttest.NewCgroup(b, nil, "ids")
	c.Start("sleep")
	g := open(b, tree, c.Path)
	var ids []int
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if ids, err = g.Threads(ids); err != nil {
			b.Fatal(err)
		}
	}
}

// TestReadDoesNotAllocate: on all kinds of hosts, kept files or not, with
// missing ones and with unreadable ones.
func TestReadDoesNotAllocate(t *testing.T) {
	for _, host := range []string{"v1", "v2", "hybrid"} {
		for _, keep := range []int{1000, 5, 0} {
			for _, name := range []string{worker, "/app"} {
				tree := fixture(t, host)
				tree.KeepFiles = keep
				g := open(t, tree, name)
				var s, sum Stat
				tick := func() {
					if err := g.Read(&s, All); err != nil {
						t.Fatal(err)
					}
					sum.Reset()
					sum.Add(&s)
					sum.Add(&s)
				}
				tick()
				if n := testing.AllocsPerRun(70, tick); n != 0 {
					t.Errorf("%s %s, keeping %d: %v allocations", host, name, keep, n)
				}
			}
		}
	}
}
