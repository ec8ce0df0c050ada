package store

import (
	"bytes"
	"fmt"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/owca-project/owca"
)

// batch makes what the agent makes of tasks: about 60 metrics a task, with the
// labels of a Kubernetes pod, task by task.
func batch(tasks int) []owca.Metric {
	var descs []*owca.Desc
	for _, d := range owca.Catalogue() {
		if len(d.Name) > 10 && d.Name[:10] == "owca_task_" {
			descs = append(descs, d)
		}
	}
	common := map[string]string{
		"host": "node-0123.example.net", "cpu_model": "Intel(R) Xeon(R) Gold 6248 CPU @ 2.50GHz",
		"cores": "40", "cpus": "80", "sockets": "2", "owca_version": "1.0.0",
	}
	metrics := make([]owca.Metric, 0, tasks*70)
	for task := range tasks {
		labels := owca.NewLabels(common, map[string]string{
			"app": "shop-frontend", "namespace": "production", "kind": "pod",
			"pod":     fmt.Sprintf("shop-frontend-6c8d5b9f7d-%05d", task),
			"task_id": fmt.Sprintf("8f6a2c1e-3b5d-4e7f-9a0b-%012d", task*7919%tasks),
		})
		for i, d := range descs {
			n := 1
			if d == owca.TaskMemoryNUMA {
				n = 2
			}
			for node := range n {
				m := owca.Metric{Desc: d, Labels: labels}
				if d.Label != "" {
					m.Label = fmt.Sprint(node)
				}
				switch {
				case d.Unit == "ratio":
					m.Value = owca.Float(float64(task%97) / 97)
				case d.Kind == owca.Counter:
					m.Value = owca.Int(uint64(task*1000003+i) * 98765432)
				default:
					m.Value = owca.Int(uint64(task*4096 + i*12345678))
				}
				metrics = append(metrics, m)
			}
		}
	}
	return metrics
}

// BenchmarkEncode prints, beside the whole, what one metric costs, and how many
// times the floor that is: copying the same bytes into the same buffer.
func BenchmarkEncode(b *testing.B) {
	for _, tasks := range []int{50, 500, 1000, 2000} {
		for _, format := range []Format{Text, OpenMetrics} {
			b.Run(fmt.Sprintf("tasks=%d/format=%d", tasks, format), func(b *testing.B) {
				metrics := batch(tasks)
				e := NewEncoder(EncoderOptions{Format: format})
				now := time.Unix(1700000000, 0)
				var lines lineCounter
				if err := e.Encode(&lines, metrics, now); err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(lines.bytes))
				b.ReportAllocs()
				b.ResetTimer()
				start := cpuTime(b)
				for range b.N {
					if err := e.Encode(io.Discard, metrics, now); err != nil {
						b.Fatal(err)
					}
				}
				perMetric := float64(cpuTime(b)-start) / float64(b.N) / float64(len(metrics))
				b.StopTimer()
				floor := copyFloor(b, len(metrics), lines.bytes/len(metrics))
				b.ReportMetric(perMetric, "cpu-ns/metric")
				b.ReportMetric(floor, "floor-cpu-ns/metric")
				b.ReportMetric(perMetric/floor, "x-floor")
				b.ReportMetric(float64(lines.bytes)/float64(len(metrics)), "B/metric")
			})
		}
	}
}

// cpuTime is the CPU time of this process, which a busy host does not change as
// it does the time that passes.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// copyFloor returns the ns of CPU that it takes to copy one of n lines of a size, from
// as many sources as there are tasks.
func copyFloor(b *testing.B, n, size int) float64 {
	b.Helper()
	sources := make([][]byte, max(1, n/65))
	for i := range sources {
		sources[i] = bytes.Repeat([]byte("x"), size)
	}
	buf := make([]byte, 0, bufferSize)
	start := cpuTime(b)
	for range b.N {
		for i := range n {
			if buf = append(buf, sources[i%len(sources)]...); len(buf) >= flushSize {
				buf = buf[:0]
			}
		}
	}
	return float64(cpuTime(b)-start) / float64(b.N) / float64(n)
}

type lineCounter struct{ bytes int }

func (c *lineCounter) Write(b []byte) (int, error) {
	c.bytes += len(b)
	return len(b), nil
}
