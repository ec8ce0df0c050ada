package resctrl

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkRead reads groups as one pass of monitoring does. x-floor is how many times
// as long that takes as a loop over the same files that does nothing but pread.
func BenchmarkRead(b *testing.B) {
	b.Run("60", func(b *testing.B) { benchmarkRead(b, 60) })
	b.Run("1000", func(b *testing.B) { benchmarkRead(b, 1000, "-many") })
}

func benchmarkRead(b *testing.B, n int, features ...string) {
	tree := openHost(b, append(features, "/L3_MON")...)
	// The limit of a virtual machine's first process is low.
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		b.Fatal(err)
	}
	limit.Cur = max(limit.Cur, uint64(n)*2*8+1000)
	limit.Max = max(limit.Max, limit.Cur)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		b.Fatal(err)
	}
	var groups []*Group
	for i := range n {
		name := Name{Monitor: fmt.Sprint("owca-bench-", i)}
		waitForRMID(b, func() error { return tree.Create(name) })
		g, err := tree.Open(name)
		if err != nil {
			b.Fatal(err)
		}
		if !g.kept {
			b.Fatalf("group %d is not kept open", i)
		}
		groups = append(groups, g)
	}
	var list []Usage
	buf := make([]byte, 64)
	floor, ours := time.Duration(0), time.Duration(0)
	b.ReportAllocs()
	for b.Loop() {
		start := time.Now()
		for _, g := range groups {
			for i := range g.domains {
				for _, fd := range g.domains[i].files {
					if _, err := unix.Pread(fd, buf, 0); err != nil {
						b.Fatal(err)
					}
				}
			}
		}
		middle := time.Now()
		if err := tree.Alive(); err != nil {
			b.Fatal(err)
		}
		for _, g := range groups {
			var err error
			if list, err = g.Read(list); err != nil {
				b.Fatal(err)
			}
		}
		floor += middle.Sub(start)
		ours += time.Since(middle)
	}
	b.ReportMetric(float64(ours)/float64(floor), "x-floor")
	b.ReportMetric(float64(ours.Nanoseconds())/float64(b.N)/float64(n), "ns/group")
}
