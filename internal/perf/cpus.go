package perf

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// onlineCPUs reads which CPUs are online. It is not [runtime.NumCPU], which
// tells those that this process may run on.
func (f FS) onlineCPUs() ([]int, error) {
	return f.cpuList("sys/devices/system/cpu/online")
}

// cpuList reads a file that lists CPUs.
func (f FS) cpuList(name string) ([]int, error) {
	data, err := os.ReadFile(f.path(name))
	if err != nil {
		return nil, err
	}
	cpus, err := parseCPUs(strings.TrimSpace(string(data)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.path(name), err)
	}
	return cpus, nil
}

func (f FS) path(name string) string {
	if f.Root == "" {
		return "/" + name
	}
	return filepath.Join(f.Root, name)
}

// parseCPUs parses a list as the kernel prints it (%*pbl): "0-3,8,10-11", ""
// for none, in ascending order.
func parseCPUs(s string) ([]int, error) {
	if s == "" {
		return nil, nil
	}
	var cpus []int
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		lo, err := strconv.ParseUint(first, 10, 16)
		hi := lo
		if err == nil && isRange {
			hi, err = strconv.ParseUint(last, 10, 16)
		}
		if err != nil || hi < lo || len(cpus) > 0 && int(lo) <= cpus[len(cpus)-1] {
			return nil, fmt.Errorf("%q is not a list of cpus as \"0-3,8\"", s)
		}
		for cpu := lo; cpu <= hi; cpu++ {
			cpus = append(cpus, int(cpu))
		}
	}
	return cpus, nil
}

// A cpuWatch follows CPUs that come and go. Its file stays open: while nothing
// changes, a refresh is one pread and a read for each CPU, and allocates nothing.
//
// When a CPU goes offline the kernel takes the events of whole CPUs and cgroups
// out of it, dissolving their groups, and does not put them back when it comes
// again (perf_event_exit_cpu_context, kernel/events/core.c): they stay readable
// and count no more. The list of online CPUs alone does not show that if it is
// the same again at the next look, so that every CPU has a sentinel: a group of
// two events that never count, disabled so that reading it disturbs nobody.
type cpuWatch struct {
	name      string
	file      *os.File
	sentinel  []*Event
	cpus      []int      // online, ascending, as of the last refresh
	sentinels [][2]int32 // of each of cpus
	last, buf []byte     // what the file said
	settled   bool       // cpus are those of last
}

// watchCPUs begins with no CPU: all of them come at the first refresh.
func (f FS) watchCPUs() (*cpuWatch, error) {
	file, err := os.Open(f.path("sys/devices/system/cpu/online"))
	if err != nil {
		return nil, err
	}
	never := &Event{Name: "dummy", Encodings: []Encoding{{Attr: unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_DUMMY}}}}
	return &cpuWatch{
		name: file.Name(), file: file, sentinel: []*Event{never, never},
		buf: make([]byte, 4096), // a page, as sysfs has at most
	}, nil
}

// refresh looks for changes: CPUs that went offline since the last time and
// those that came, both for one that went and came again. After an error,
// what it returns has happened nevertheless; the rest is found the next time.
func (w *cpuWatch) refresh() (left, came []int, err error) {
	n, err := unix.Pread(int(w.file.Fd()), w.buf, 0)
	if err != nil {
		return nil, nil, &os.PathError{Op: "pread", Path: w.name, Err: err}
	}
	now := w.cpus
	if line := bytes.TrimSpace(w.buf[:n]); !w.settled || !bytes.Equal(line, w.last) {
		cpus, err := parseCPUs(string(line))
		if err == nil && len(cpus) == 0 {
			err = errors.New("no CPU is online")
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", w.name, err)
		}
		now = cpus
		w.last = append(w.last[:0], line...)
	}
	for i := 0; i < len(w.cpus); {
		cpu := w.cpus[i]
		if _, online := slices.BinarySearch(now, cpu); online && w.watched(i) {
			i++
			continue
		}
		left = append(left, cpu)
		_ = closeGroup(w.sentinels[i][:])
		w.cpus = slices.Delete(slices.Clone(w.cpus), i, i+1) // now may be w.cpus
		w.sentinels = slices.Delete(w.sentinels, i, i+1)
	}
	w.settled = true
	if len(now) == len(w.cpus) {
		return left, nil, nil
	}
	var failed []error
	for _, cpu := range now {
		i, known := slices.BinarySearch(w.cpus, cpu)
		if known {
			continue
		}
		var s [2]int32
		if _, err := openGroup(s[:], w.sentinel, unix.PerfBitDisabled, -1, cpu, 0); err != nil {
			w.settled = false
			if !errors.Is(err, unix.ENODEV) { // offline again
				failed = append(failed, fmt.Errorf("CPU %d: %w", cpu, err))
			}
			continue
		}
		w.cpus = slices.Insert(slices.Clone(w.cpus), i, cpu)
		w.sentinels = slices.Insert(w.sentinels, i, s)
		came = append(came, cpu)
	}
	return left, came, errors.Join(failed...)
}

// watched says whether the i-th CPU has been online all the time.
func (w *cpuWatch) watched(i int) bool {
	n, err := unix.Read(int(w.sentinels[i][0]), w.buf)
	return err == nil && n == (groupHeader+len(w.sentinel))*8
}

// files returns how many descriptors are open.
func (w *cpuWatch) files() int { return 1 + len(w.sentinel)*len(w.sentinels) }

func (w *cpuWatch) close() {
	for i := range w.sentinels {
		_ = closeGroup(w.sentinels[i][:])
	}
	w.cpus, w.sentinels = nil, nil
	_ = w.file.Close()
}
