package perf

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/hosttest"
)

func words(list ...uint64) []byte {
	var b []byte
	for _, w := range list {
		b = binary.NativeEndian.AppendUint64(b, w)
	}
	return b
}

func FuzzAddGroup(f *testing.F) {
	f.Add(2, words(2, 100, 50, 7, 8))
	f.Add(1, words(1, 100, 100, 7))
	f.Add(3, words(1, 100, 100, 7)) // after the CPU went offline
	f.Add(1, words(2, 100, 100, 7))
	f.Add(1, []byte{})
	f.Add(1, []byte("short"))
	f.Fuzz(func(t *testing.T, n int, b []byte) {
		if n < 1 || n > 16 {
			return
		}
		counts, events := make([]Count, 2*n), make([]int, n)
		for i := range events {
			events[i] = 2 * i
		}
		before := Count{1, 2, 3}
		for i := range counts {
			counts[i] = before
		}
		whole := len(b) == (groupHeader+n)*8 && binary.NativeEndian.Uint64(b) == uint64(n)
		if err := addGroup(counts, events, b); (err == nil) != whole {
			t.Fatalf("%d bytes of %d events: %v", len(b), n, err)
		}
		for i, c := range counts {
			want := before
			if whole && i%2 == 0 {
				want.Enabled += binary.NativeEndian.Uint64(b[8:])
				want.Running += binary.NativeEndian.Uint64(b[16:])
				want.Value += binary.NativeEndian.Uint64(b[24+4*i:])
			}
			if c != want {
				t.Errorf("count %d is %+v, want %+v", i, c, want)
			}
		}
	})
}

func TestAddEvent(t *testing.T) {
	for _, tt := range []struct {
		leader bool
		b      []byte
		want   Count
	}{
		{true, words(1, 20, 10, 5), Count{5, 20, 10}},
		{true, words(3, 20, 10, 5, 6, 7), Count{5, 20, 10}},
		{false, words(5, 20, 10), Count{5, 20, 10}},
		{true, words(5, 20, 10), Count{}},
		{false, words(1, 20, 10, 5), Count{}},
		{true, nil, Count{}},
		{false, nil, Count{}},
	} {
		var c Count
		if err := addEvent(&c, tt.leader, tt.b); (err == nil) != (tt.want != Count{}) || c != tt.want {
			t.Errorf("leader %v, %d bytes: %+v, %v", tt.leader, len(tt.b), c, err)
		}
	}
}

// TestOpenErrors is about what callers branch on.
func TestOpenErrors(t *testing.T) {
	for _, tt := range []struct {
		errno       unix.Errno
		unsupported bool
		permission  bool
		text        string
	}{
		{unix.ENOENT, true, false, "no PMU of this host counts it"},
		{unix.EOPNOTSUPP, true, false, "cannot count it"},
		{unix.ENODEV, true, false, "on this CPU"},
		{unix.ENOSYS, true, false, "CONFIG_PERF_EVENTS"},
		{unix.EACCES, false, true, "kernel.perf_event_paranoid is "},
		{unix.EPERM, false, true, "CAP_PERFMON"},
		{unix.EINVAL, false, false, "refuses its encoding"},
		{unix.EBUSY, false, false, "holds the PMU"},
		{unix.E2BIG, false, false, "perf_event_open: "},
	} {
		err := explain(tt.errno, false)
		if !errors.Is(err, tt.errno) || errors.Is(err, errors.ErrUnsupported) != tt.unsupported ||
			errors.Is(err, fs.ErrPermission) != tt.permission || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%d: %v", tt.errno, err)
		}
	}
	if err := explain(unix.EINVAL, true); !strings.Contains(err.Error(), "no counter for it beside the others") {
		t.Error(err)
	}
	for _, errno := range []unix.Errno{unix.EMFILE, unix.ENFILE} {
		var limit *LimitError
		if err := explain(errno, false); !errors.As(err, &limit) || limit.Limit <= 0 || limit.Host != (errno == unix.ENFILE) {
			t.Errorf("%v: %v", errno, err)
		}
	}
}

// TestSomeCPUs counts events that not every CPU has, as on hybrid processors.
func TestSomeCPUs(t *testing.T) {
	hosttest.Need(t, "root", "smp")
	eachBackend(t, func(t *testing.T, b Backend) {
		plan := softwarePlan()
		plan.Groups[0][0].Encodings[0].CPUs = []int{1} // task-clock, which leads elsewhere
		plan.Groups[0][1].Encodings[0].CPUs = []int{0}
		plan.Groups[0][2].Encodings[0].CPUs = []int{}
		attr := plan.Groups[1][0].Encodings[0].Attr
		plan.Groups[1][0].Encodings = []Encoding{{CPUs: []int{0}, Attr: attr}, {CPUs: []int{1}, Attr: attr}}
		c, err := FS{}.Open(plan, b)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		groups := make([]Cgroup, 2)
		for cpu, name := range []string{"zero", "one"} {
			cg := hosttest.NewCgroup(t, nil, name)
			for _, load := range []string{"spin 1h", "switch 100000000"} {
				p := cg.Start(load)
				pinTo(t, p.Pid, cpu)
			}
			groups[cpu] = add(t, c, cg) // what they did before they were pinned is not counted
			for end := cpuTime(t, cg) + 2e8; cpuTime(t, cg) < end; time.Sleep(10 * time.Millisecond) {
			}
		}
		refresh(t, c)
		zero, one := read(t, groups[0]), read(t, groups[1])
		if zero[taskClock] != (Count{}) || one[taskClock].Value < 9e7 {
			t.Errorf("task-clock of CPU 1 only: %+v on CPU 0, %+v on CPU 1", zero[taskClock], one[taskClock])
		}
		if zero[contextSwitches].Value == 0 || one[contextSwitches] != (Count{}) {
			t.Errorf("context switches of CPU 0 only: %+v on CPU 0, %+v on CPU 1", zero[contextSwitches], one[contextSwitches])
		}
		if zero[migrations] != (Count{}) || one[migrations] != (Count{}) {
			t.Errorf("migrations of no CPU: %+v, %+v", zero[migrations], one[migrations])
		}
		if zero[pageFaults].Enabled < 9e7 || one[pageFaults].Enabled < 9e7 {
			t.Errorf("page faults of both: %+v, %+v", zero[pageFaults], one[pageFaults])
		}
	})
}

func TestParseCPUs(t *testing.T) {
	for _, tt := range []struct {
		text string
		want []int
	}{{"", nil}, {"0", []int{0}}, {"0-3,8", []int{0, 1, 2, 3, 8}}, {"1,3-4", []int{1, 3, 4}}} {
		if got, err := parseCPUs(tt.text); err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%q: %v, %v", tt.text, got, err)
		}
	}
	for _, text := range []string{"0-", "-1", "3-1", "1,1", "2,1", "0x1", "0 1", "0,", "99999999999"} {
		if got, err := parseCPUs(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}
