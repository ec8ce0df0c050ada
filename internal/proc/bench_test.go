package proc

import (
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkHost reads this host; "floor" is the same preads and nothing else.
func BenchmarkHost(b *testing.B) {
	h := FS{}.NewHost(DefaultVMStat)
	defer h.Close()
	var s HostStat
	b.Run("Read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := h.Read(&s); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Read/floor", func(b *testing.B) {
		if err := h.Read(&s); err != nil {
			b.Fatal(err)
		}
		buf := make([]byte, 16<<10)
		files := []*file{&h.stat, &h.meminfo, &h.vmstat, &h.loadavg, &h.cpuPressure, &h.memoryPressure, &h.ioPressure}
		for b.Loop() {
			for _, f := range files {
				if f.state != opened {
					continue
				}
				for n := 0; ; {
					m, err := unix.Pread(f.fd, buf[n:], int64(n))
					if err != nil {
						b.Fatal(err)
					}
					if n += m; m == 0 || f.whole {
						break
					}
				}
			}
		}
	})
	b.Run("ReadSlow", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := h.ReadSlow(&s); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkHost256(b *testing.B) {
	h := machine(b, 256).NewHost(DefaultVMStat)
	defer h.Close()
	var s HostStat
	b.ReportAllocs()
	for b.Loop() {
		if err := h.Read(&s); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTopology(b *testing.B) {
	for b.Loop() {
		if _, err := (FS{}).Topology(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRunDelay(b *testing.B) {
	s, err := FS{}.OpenSchedstat()
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	tid := unix.Getpid()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.RunDelay(tid); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSelf(b *testing.B) {
	s := FS{}.NewSelf()
	defer s.Close()
	var r SelfStat
	for _, way := range []string{"stat", "entries"} {
		b.Run(way, func(b *testing.B) {
			s.dirent = way == "entries"
			b.ReportAllocs()
			for b.Loop() {
				if err := s.Read(&r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
