package perf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/owca-project/owca/internal/hosttest"
)

// uncoreHost is a host whose memory controllers are made of files.
type uncoreHost struct {
	t    testing.TB
	root string
}

func newUncoreHost(t testing.TB) *uncoreHost {
	h := &uncoreHost{t, t.TempDir()}
	h.put("sys/devices/system/cpu/online", "0-1\n")
	h.put("proc/cpuinfo", "")
	h.put("sys/devices/system/cpu/cpu0/topology/physical_package_id", "0\n")
	h.put("sys/devices/system/cpu/cpu1/topology/physical_package_id", "0\n")
	return h
}

func (h *uncoreHost) put(name, content string) {
	h.t.Helper()
	name = filepath.Join(h.root, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

// pmu makes a controller from lines "file content".
func (h *uncoreHost) pmu(name string, files ...string) {
	h.t.Helper()
	for _, line := range files {
		file, content, _ := strings.Cut(line, " ")
		h.put(devices+"/"+name+"/"+file, content+"\n")
	}
}

// clockIMC are the files of a controller that the running kernel really counts:
// its type is that of the software PMU, and event 0 of that, cpu-clock, makes a
// CAS command each ns. Reads are 64 bytes, writes are 32.
var clockIMC = []string{
	"type 1", "cpumask 0", "format/event config:0-7",
	"events/cas_count_read event=0x00", "events/cas_count_read.scale 6.103515625e-5", "events/cas_count_read.unit MiB",
	"events/cas_count_write event=0x00", "events/cas_count_write.scale 3.0517578125e-5", "events/cas_count_write.unit MiB",
}

func (h *uncoreHost) open() *Uncore {
	h.t.Helper()
	hosttest.Need(h.t, "root")
	u, err := FS{Root: h.root}.OpenUncore()
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := u.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			h.t.Error(err)
		}
	})
	return u
}

func mustRefresh(t testing.TB, u *Uncore) {
	t.Helper()
	if err := u.Refresh(); err != nil {
		t.Fatal(err)
	}
}

func mustReadUncore(t testing.TB, u *Uncore) []SocketBytes {
	t.Helper()
	list, err := u.Read(nil)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// The counters of two controllers are opened, read, scaled and summed: what they
// say is how long they were open.
func TestUncoreCounts(t *testing.T) {
	h := newUncoreHost(t)
	h.pmu("uncore_imc_0", clockIMC...)
	h.pmu("uncore_imc_1", clockIMC...)
	h.pmu("uncore_imc_free_running_0", "type 1", "cpumask 0") // told by the others already
	h.pmu("uncore_cha_0", "type 1", "cpumask 0")
	before := time.Now()
	u := h.open()
	opened := time.Now()
	time.Sleep(50 * time.Millisecond)
	least := time.Since(opened)
	list := mustReadUncore(t, u)
	most := time.Since(before)
	if len(list) != 1 || list[0].Socket != 0 {
		t.Fatalf("%+v", list)
	}
	const controllers, slack = 2, 1.01 // of one clock against the other
	for _, n := range []struct{ bytes, each uint64 }{{list[0].Read, 64}, {list[0].Write, 32}} {
		ns := float64(n.bytes) / float64(n.each*controllers)
		if ns < float64(least)/slack || ns > float64(most)*slack {
			t.Errorf("%d bytes are %.0f ns, open for %v to %v", n.bytes, ns, least, most)
		}
		if n.bytes%n.each != 0 {
			t.Errorf("%d is not a multiple of %d", n.bytes, n.each)
		}
	}
	if n := u.Files(); n != 2*2+1 {
		t.Errorf("%d files", n)
	}
}

func TestUncoreSockets(t *testing.T) {
	hosttest.Need(t, "smp")
	h := newUncoreHost(t)
	h.put("sys/devices/system/cpu/cpu0/topology/physical_package_id", "3\n")
	h.pmu("uncore_imc_0", clockIMC...)
	h.pmu("uncore_imc_0", "cpumask 0-1")
	h.pmu("uncore_imc_1", clockIMC...)
	u := h.open()
	list := mustReadUncore(t, u)
	if len(list) != 2 || list[0].Socket != 0 || list[1].Socket != 3 {
		t.Fatalf("%+v", list)
	}
	if list[1].Read < list[0].Read {
		t.Errorf("socket 3 has two controllers: %+v", list)
	}
	if n := u.Files(); n != 3*2+1 {
		t.Errorf("%d files", n)
	}
}

// The CPU that counts goes offline and another takes over; then the whole socket
// is gone; then it comes back. No total falls, and none is taken for zero.
func TestUncoreHotplug(t *testing.T) {
	hosttest.Need(t, "smp")
	h := newUncoreHost(t)
	h.pmu("uncore_imc_0", clockIMC...)
	u := h.open()
	last := mustReadUncore(t, u)
	grows := func() {
		t.Helper()
		mustRefresh(t, u)
		list := mustReadUncore(t, u)
		if len(list) != 1 || list[0].Read <= last[0].Read || list[0].Write <= last[0].Write {
			t.Fatalf("%+v after %+v", list, last)
		}
		last = list
	}
	grows()

	h.put("sys/devices/system/cpu/online", "1\n")
	h.pmu("uncore_imc_0", "cpumask 1")
	grows()
	if u.counters[0].cpu != 1 || u.Files() != 3 {
		t.Errorf("counts on cpu %d, %d files", u.counters[0].cpu, u.Files())
	}

	// The list of CPUs changes a moment before the choice of the CPU.
	h.put("sys/devices/system/cpu/online", "0-1\n")
	grows()
	h.pmu("uncore_imc_0", "cpumask 0")
	grows()
	if u.counters[0].cpu != 0 {
		t.Errorf("counts on cpu %d", u.counters[0].cpu)
	}

	h.put("sys/devices/system/cpu/online", "\n")
	h.pmu("uncore_imc_0", "cpumask ")
	mustRefresh(t, u)
	if list := mustReadUncore(t, u); len(list) != 0 || u.Files() != 1 {
		t.Errorf("%+v, %d files of a socket that is gone", list, u.Files())
	}
	h.put("sys/devices/system/cpu/online", "0\n")
	h.pmu("uncore_imc_0", "cpumask 0")
	grows()
}

// What cannot be told is an error until it can, and the total goes on then.
func TestUncoreRefreshFails(t *testing.T) {
	for name, disturb := range map[string]func(*uncoreHost){
		"cpumask":        func(h *uncoreHost) { h.pmu("uncore_imc_0", "cpumask none") },
		"socket":         func(h *uncoreHost) { h.put("sys/devices/system/cpu/cpu0/topology/physical_package_id", "-1\n") },
		"cpu not online": func(h *uncoreHost) { h.pmu("uncore_imc_0", "cpumask 0,4095") },
	} {
		t.Run(name, func(t *testing.T) {
			h := newUncoreHost(t)
			h.put("sys/devices/system/cpu/cpu4095/topology/physical_package_id", "0\n")
			h.pmu("uncore_imc_0", clockIMC...)
			u := h.open()
			before := mustReadUncore(t, u)
			disturb(h)
			h.put("sys/devices/system/cpu/online", "0\n")
			for range 2 { // an error stays one
				err := u.Refresh()
				list, readErr := u.Read(nil)
				if err == nil || readErr == nil || len(list) != 0 {
					t.Fatalf("refresh: %v; %+v, %v", err, list, readErr)
				}
				if !strings.Contains(err.Error(), h.root) && !strings.Contains(err.Error(), "uncore_imc_0 on cpu 4095") {
					t.Errorf("says nothing of where: %v", err)
				}
			}
			h.pmu("uncore_imc_0", "cpumask 0")
			h.put("sys/devices/system/cpu/cpu0/topology/physical_package_id", "0\n")
			mustRefresh(t, u)
			if after := mustReadUncore(t, u); len(after) != 1 || after[0].Read <= before[0].Read {
				t.Errorf("%+v after %+v", after, before)
			}
		})
	}
}

// What is opened on the drivers' own spellings. The content of events and format
// is that of arch/x86/events/intel/uncore_snbep.c, uncore_snb.c and amd/uncore.c.
func TestUncoreEncodings(t *testing.T) {
	snbep := []string{"type 25", "cpumask 0", "format/event config:0-7", "format/umask config:8-15", "format/thresh config:24-31"}
	casUnit := func(event string) []string {
		return []string{"events/" + event + ".scale 6.103515625e-5", "events/" + event + ".unit MiB"}
	}
	intel := func(model int) string {
		return fmt.Sprintf("processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: %d\nmodel name\t: x\n\nprocessor\t: 1\nmodel\t\t: 999\n", model)
	}
	for _, tt := range []struct {
		name, pmu string
		files     []string
		cpuinfo   string
		want      string // events of the controller
		err       string // or the error
	}{
		{
			name: "Skylake-SP", pmu: "uncore_imc_3",
			files: slices.Concat(snbep, []string{"events/cas_count_read event=0x04,umask=0x03", "events/cas_count_write event=0x04,umask=0x0c", "events/clockticks event=0x0"}, casUnit("cas_count_read"), casUnit("cas_count_write")),
			want:  "r 19/304 64, w 19/c04 64",
		},
		{
			name: "Sapphire Rapids", pmu: "uncore_imc_0",
			files: slices.Concat(snbep, []string{"events/cas_count_read event=0x05,umask=0xcf", "events/cas_count_write event=0x05,umask=0xf0"}, casUnit("cas_count_read"), casUnit("cas_count_write")),
			want:  "r 19/cf05 64, w 19/f005 64",
		},
		{
			name: "Granite Rapids", pmu: "uncore_imc_11",
			files: slices.Concat(snbep, []string{
				"events/cas_count_read_sch0 event=0x05,umask=0xcf", "events/cas_count_read_sch1 event=0x06,umask=0xcf",
				"events/cas_count_write_sch0 event=0x05,umask=0xf0", "events/cas_count_write_sch1 event=0x06,umask=0xf0",
			}, casUnit("cas_count_read_sch0"), casUnit("cas_count_read_sch1"), casUnit("cas_count_write_sch0"), casUnit("cas_count_write_sch1")),
			want: "r 19/cf05 64, r 19/cf06 64, w 19/f005 64, w 19/f006 64",
		},
		{name: "no events, Broadwell", pmu: "uncore_imc_0", files: snbep, cpuinfo: intel(0x4f), want: "r 19/304 64, w 19/c04 64"},
		{name: "no events, Ice Lake", pmu: "uncore_imc_0", files: snbep, cpuinfo: intel(0x6a), want: "r 19/f04 64, w 19/3004 64"},
		{name: "no events, Emerald Rapids", pmu: "uncore_imc_0", files: snbep, cpuinfo: intel(0xcf), want: "r 19/cf05 64, w 19/f005 64"},
		{name: "no events, Granite Rapids", pmu: "uncore_imc_0", files: snbep, cpuinfo: intel(0xad), want: "r 19/cf05 64, r 19/cf06 64, w 19/f005 64, w 19/f006 64"},
		{name: "no events, unknown", pmu: "uncore_imc_0", files: snbep, cpuinfo: intel(0x1), err: "no event of uncore_imc_0 is known"},
		{name: "no events, another vendor", pmu: "uncore_imc_0", files: snbep, cpuinfo: strings.Replace(intel(0x4f), "GenuineIntel", "CentaurHauls", 1), err: "no event of uncore_imc_0 is known"},
		{
			name: "half of the events", pmu: "uncore_imc_0",
			files: slices.Concat(snbep, []string{"events/cas_count_read event=0x04,umask=0x03"}, casUnit("cas_count_read")), cpuinfo: intel(0x1), err: "no event of uncore_imc_0 is known",
		},
		{
			name: "client", pmu: "uncore_imc",
			files: slices.Concat([]string{"type 10", "cpumask 0", "format/event config:0-7", "events/data_reads event=0x01", "events/data_writes event=0x02"}, casUnit("data_reads"), casUnit("data_writes")),
			want:  "r a/1 64, w a/2 64",
		},
		{
			name: "client, free-running", pmu: "uncore_imc_free_running_1",
			files: slices.Concat(snbep, []string{"events/data_read event=0xff,umask=0x20", "events/data_write event=0xff,umask=0x30", "events/data_total event=0xff,umask=0x10"}, casUnit("data_read"), casUnit("data_write")),
			want:  "r 19/20ff 64, w 19/30ff 64",
		},
		{
			name: "server, free-running", pmu: "uncore_imc_free_running_0",
			files: slices.Concat(snbep, []string{"events/read event=0xff,umask=0x20", "events/write event=0xff,umask=0x21", "events/read.scale 3.814697266e-6", "events/read.unit MiB", "events/write.scale 1", "events/write.unit KiB"}),
			want:  "r 19/20ff 4.000000000393216, w 19/21ff 1024", // the scale before Linux 5.12
		},
		{name: "Zen 4", pmu: "amd_umc_7", files: []string{"type 20", "cpumask 0", "format/event config:0-7", "format/rdwrmask config:8-9"}, want: "r 14/10a 64, w 14/20a 64"},
		{
			name: "scattered", pmu: "uncore_imc_0",
			files: []string{"type 1", "cpumask 0", "format/event config:0-3,60-63", "events/cas_count_read event=0xa5", "events/cas_count_write event=0x5a"},
			want:  "r 1/a000000000000005 64, w 1/500000000000000a 64",
		},

		{name: "no device", pmu: "cpu", files: []string{"type 4"}, err: "no uncore_imc or amd_umc in"},
		{name: "no type", pmu: "amd_umc_0", files: []string{"format/event config:0-7"}, err: "type: no such file"},
		{name: "bad type", pmu: "amd_umc_0", files: []string{"type x"}, err: `type: "x" is not a number`},
		{name: "no format", pmu: "amd_umc_0", files: []string{"type 20", "format/event config:0-7"}, err: "rdwrmask, which is not in format/"},
		{name: "bad format", pmu: "amd_umc_0", files: []string{"type 20", "format/event configx:0-7"}, err: `"configx:0-7" is not bits`},
		{name: "format too wide", pmu: "amd_umc_0", files: []string{"type 20", "format/event config:0-64"}, err: "is not bits"},
		{name: "term too big", pmu: "amd_umc_0", files: []string{"type 20", "format/event config:0-2"}, err: "event: 0xa does not fit"},
		{name: "bad term", pmu: "uncore_imc_0", files: slices.Concat(snbep, []string{"events/cas_count_read event=x", "events/cas_count_write event=1"}), err: `event=x: not a number`},
		{name: "bad scale", pmu: "uncore_imc_0", files: slices.Concat(snbep, []string{"events/cas_count_read event=4", "events/cas_count_read.scale NaN", "events/cas_count_read.unit MiB"}), err: `NaN is not a scale`},
		{name: "bad unit", pmu: "uncore_imc_0", files: slices.Concat(snbep, []string{"events/cas_count_read event=4", "events/cas_count_read.scale 1", "events/cas_count_read.unit Joules"}), err: `"Joules" is not a unit of memory`},
		{name: "no cpuinfo", pmu: "uncore_imc_0", files: snbep, err: "proc/cpuinfo: no such file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newUncoreHost(t)
			h.pmu(tt.pmu, tt.files...)
			switch tt.cpuinfo {
			case "":
				if err := os.Remove(filepath.Join(h.root, "proc/cpuinfo")); err != nil {
					t.Fatal(err)
				}
			default:
				h.put("proc/cpuinfo", tt.cpuinfo)
			}
			controllers, err := FS{Root: h.root}.uncoreControllers()
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("%+v, %v", controllers, err)
				}
				if unsupported := strings.Contains(tt.err, "known") || strings.Contains(tt.err, "no uncore"); errors.Is(err, errors.ErrUnsupported) != unsupported {
					t.Errorf("%v: unsupported: %v", err, !unsupported)
				}
				return
			}
			if err != nil || len(controllers) != 1 || controllers[0].name != tt.pmu {
				t.Fatalf("%+v, %v", controllers, err)
			}
			var got []string
			for _, e := range controllers[0].events {
				got = append(got, fmt.Sprintf("%c %x/%x %v", "rw"[e.direction()], e.attr.Type, e.attr.Config, e.bytes))
			}
			if text := strings.Join(got, ", "); text != tt.want {
				t.Errorf("%s, want %s", text, tt.want)
			}
		})
	}
}

// A sum over some of the controllers would be too small.
func TestUncoreUnlikeControllers(t *testing.T) {
	h := newUncoreHost(t)
	h.pmu("uncore_imc_0", clockIMC...)
	h.pmu("uncore_imc_1", "type 1", "cpumask 0")
	list, err := FS{Root: h.root}.uncoreControllers()
	if err == nil || errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "uncore_imc_1 has none") {
		t.Errorf("%+v, %v", list, err)
	}
}

// On a real host: no controllers, or counters that rise.
func TestUncoreHost(t *testing.T) {
	hosttest.Need(t, "root")
	names, err := os.ReadDir("/" + devices)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	some := slices.ContainsFunc(names, func(e fs.DirEntry) bool {
		return regexp.MustCompile(`^(uncore_imc|amd_umc)`).MatchString(e.Name())
	})
	u, err := FS{}.OpenUncore()
	if !some || err != nil && strings.Contains(err.Error(), "is known to count it on this model") {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%+v, %v", u, err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	first := mustReadUncore(t, u)
	page := make([]byte, 256<<20)
	for i := range page {
		page[i] = byte(i)
	}
	if second := mustReadUncore(t, u); len(first) == 0 || second[0].Write <= first[0].Write {
		t.Errorf("%+v, %+v after 256 MiB", first, second)
	}
}

func TestUncoreLeavesNothingOpen(t *testing.T) {
	h := newUncoreHost(t)
	h.pmu("uncore_imc_0", clockIMC...)
	count := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	before := count()
	u := h.open()
	if n := count(); n != before+u.Files() {
		t.Errorf("%d files, was %d, Files says %d", n, before, u.Files())
	}
	if err := u.Close(); err != nil {
		t.Error(err)
	}
	if list, err := u.Read(nil); len(list) != 0 || !errors.Is(err, fs.ErrClosed) {
		t.Errorf("closed: %+v, %v", list, err)
	}
	h.pmu("uncore_imc_1", clockIMC...)
	h.pmu("uncore_imc_1", "cpumask 0,4095")
	h.put("sys/devices/system/cpu/cpu4095/topology/physical_package_id", "0\n")
	if _, err := (FS{Root: h.root}).OpenUncore(); err == nil || errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("cpu 4095, which may come: %v", err)
	}
	if n := count(); n != before {
		t.Errorf("%d files, was %d", n, before)
	}
}

func TestUncoreReadAllocatesNothing(t *testing.T) {
	h := newUncoreHost(t)
	h.pmu("uncore_imc_0", clockIMC...)
	u := h.open()
	mustRefresh(t, u)
	list := make([]SocketBytes, 0, 4)
	if n := testing.AllocsPerRun(100, func() {
		if err := u.Refresh(); err != nil {
			t.Fatal(err)
		}
		var err error
		if list, err = u.Read(list[:0]); err != nil || len(list) != 1 {
			t.Fatal(list, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A counter that has to share the hardware, as the kernel reports it.
func TestUncoreMultiplexed(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	c := uncoreCounter{fd: int(r.Fd())}
	buf := make([]byte, uncoreReadSize)
	for _, tt := range []struct {
		value, enabled, running uint64
		count                   uint64
		ran                     bool
	}{
		{0, 100, 0, 0, false},
		{10, 200, 100, 20, true}, // half of the time
		{10, 300, 100, 20, true}, // not since
		{20, 500, 200, 50, true}, // a third of 300
		{25, 600, 300, 55, true}, // all of the time
		{20, 700, 400, 55, true}, // never falls
		{35, 800, 500, 65, true},
	} {
		record := binary.NativeEndian.AppendUint64(binary.NativeEndian.AppendUint64(binary.NativeEndian.AppendUint64(nil, tt.value), tt.enabled), tt.running)
		if _, err := w.Write(record); err != nil {
			t.Fatal(err)
		}
		if err := c.read(buf); err != nil || c.count != tt.count || c.ran != tt.ran {
			t.Errorf("%+v: %+v, %v", tt, c, err)
		}
	}
	if _, err := w.Write(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	if err := c.read(buf); err == nil || c.count != 65 {
		t.Errorf("short read: %+v, %v", c, err)
	}
	u := Uncore{
		controllers: []uncoreController{{events: []uncoreEvent{{bytes: 64}}}}, sockets: []*uncoreSocket{{}}, buf: buf,
	}
	u.counters = []uncoreCounter{{fd: int(r.Fd()), socket: u.sockets[0]}}
	waiting := binary.NativeEndian.AppendUint64(make([]byte, 8), 100)
	waiting = append(waiting, make([]byte, 8)...)
	if _, err := w.Write(waiting); err != nil {
		t.Fatal(err)
	}
	if list, err := u.Read(nil); len(list) != 0 || err != nil || u.pending {
		t.Errorf("never ran: %+v, %v", list, err)
	}
	if _, err := w.Write(waiting); err != nil {
		t.Fatal(err)
	}
	if list, err := u.Read(nil); len(list) != 0 || err == nil || !u.pending || !u.counters[0].dead {
		t.Errorf("its time stands still: %+v, %v, %+v", list, err, u.counters[0])
	}
	if _, err := w.Write(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	if list, err := u.Read(nil); len(list) != 0 || err == nil {
		t.Errorf("short read: %+v, %v", list, err)
	}
}

func TestScaleCount(t *testing.T) {
	for _, tt := range []struct{ count, enabled, running uint64 }{
		{0, 5, 3}, {7, 3, 3}, {1 << 62, 3, 2}, {1 << 40, 1 << 60, 1 << 59}, {12345678901234, 98765432109, 12345},
	} {
		want := new(big.Int).Mul(new(big.Int).SetUint64(tt.count), new(big.Int).SetUint64(tt.enabled))
		want.Quo(want, new(big.Int).SetUint64(tt.running))
		if got := scaleCount(tt.count, tt.enabled, tt.running); want.IsUint64() && got != want.Uint64() {
			t.Errorf("%+v: %d, want %d", tt, got, want)
		}
	}
	if got := scaleCount(1<<63, 1<<63, 1); got != 1<<63 {
		t.Errorf("absurd: %d", got)
	}
	if got := scaleCount(5, 1, 2); got != 5 {
		t.Errorf("ran for longer than enabled: %d", got)
	}
}
