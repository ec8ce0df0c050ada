package measure

import (
	"errors"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/hosttest"
	"github.com/owca-project/owca/internal/perf"
	"github.com/owca-project/owca/internal/proc"
)

const dramIMC = "/sys/bus/event_source/devices/uncore_imc_0/"

// newDRAMHost is a host with a memory controller that the running kernel counts:
// its PMU is the software one, whose event 0 counts each ns of a CPU. It reads 64
// bytes a ns and writes 32.
func newDRAMHost(t testing.TB) *platformHost {
	hosttest.Need(t, "root")
	h := newPlatformHost(t, "two-socket-offline", PlatformOptions{})
	for name, content := range map[string]string{
		"type": "1", "cpumask": "0", "format/event": "config:0-7",
		"events/cas_count_read": "event=0x00", "events/cas_count_read.scale": "6.103515625e-5", "events/cas_count_read.unit": "MiB",
		"events/cas_count_write": "event=0x00", "events/cas_count_write.scale": "3.0517578125e-5", "events/cas_count_write.unit": "MiB",
	} {
		h.put(dramIMC+name, content+"\n")
	}
	h.put("/sys/devices/system/cpu/cpu0/topology/physical_package_id", "5\n")
	return h
}

func dramReading(t testing.TB, p *owca.Platform, d *owca.Desc) float64 {
	t.Helper()
	v, ok := p.Measurements.GetLabel(d, "5")
	if !ok {
		t.Fatalf("no %s{socket=\"5\"} in\n%s", d.Name, platformText(p.Measurements))
	}
	return v.Float(d.Scale)
}

func TestDRAM(t *testing.T) {
	h := newDRAMHost(t)
	p := h.mustAfter(0)
	read, write := dramReading(t, p, owca.PlatformDRAMRead), dramReading(t, p, owca.PlatformDRAMWrite)
	if text := platformText(p.Measurements); strings.Contains(text, "owca_platform_dram_bytes_per_second") {
		t.Errorf("a rate from one sample:\n%s", text)
	}
	time.Sleep(10 * time.Millisecond)
	p = h.mustAfter(2 * time.Second)
	read, write = dramReading(t, p, owca.PlatformDRAMRead)-read, dramReading(t, p, owca.PlatformDRAMWrite)-write
	if read < 64*9e6 || write < 32*9e6 {
		t.Errorf("%v bytes read, %v written in 10 ms", read, write)
	}
	if got := dramReading(t, p, owca.PlatformDRAMReadRate); got != read/2 {
		t.Errorf("%v bytes read a second, want %v", got, read/2)
	}
	if got := dramReading(t, p, owca.PlatformDRAMWriteRate); got != write/2 {
		t.Errorf("%v bytes written a second, want %v", got, write/2)
	}
	if got := dramReading(t, p, owca.PlatformDRAMRate); got != (read+write)/2 {
		t.Errorf("%v bytes a second, want %v", got, (read+write)/2)
	}

	// A total that could not be read is absent, and so is its rate.
	h.put(dramIMC+"cpumask", "none\n")
	h.put("/sys/devices/system/cpu/online", "0\n")
	p, err := h.after(time.Second)
	if err == nil || strings.Contains(platformText(p.Measurements), "_dram_") {
		t.Errorf("%v\n%s", err, platformText(p.Measurements))
	}
	h.put(dramIMC+"cpumask", "0\n")
	p = h.mustAfter(time.Second)
	dramReading(t, p, owca.PlatformDRAMRead)
	if strings.Contains(platformText(p.Measurements), "owca_platform_dram_bytes_per_second") {
		t.Error("a rate over a gap")
	}

	if n := testing.AllocsPerRun(20, func() {
		h.now = h.now.Add(time.Second)
		var err error
		if h.p.result.Measurements, err = h.p.dram.append(h.p.result.Measurements[:0], h.now); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}

	if err := h.p.Close(); err != nil {
		t.Fatal(err)
	}
	dramReading(t, h.mustAfter(time.Second), owca.PlatformDRAMRead) // open again
}

// A host without such counters is not an error, and not asked again.
func TestDRAMUnsupported(t *testing.T) {
	h := newPlatformHost(t, "two-socket-offline", PlatformOptions{})
	h.mustAfter(0)
	if !errors.Is(h.p.dram.openErr, errors.ErrUnsupported) {
		t.Fatal(h.p.dram.openErr)
	}
	h.put(dramIMC+"type", "broken\n")
	h.mustAfter(time.Hour)
}

// What could not be told stands as an error, and is asked for again.
func TestDRAMCouldNotTell(t *testing.T) {
	h := newDRAMHost(t)
	h.put(dramIMC+"type", "broken\n")
	for range 2 {
		p, err := h.after(time.Second)
		if err == nil || !strings.Contains(err.Error(), "uncore_imc_0/type") || strings.Contains(platformText(p.Measurements), "_dram_") {
			t.Fatalf("%v\n%s", err, platformText(p.Measurements))
		}
	}
	h.put(dramIMC+"type", "1\n")
	dramReading(t, h.mustAfter(platformIdentityPace), owca.PlatformDRAMRead)
}

// A user who may not count is told once, and asked for again.
func TestDRAMPermission(t *testing.T) {
	h := newDRAMHost(t)
	if level, err := (proc.FS{}).PerfEventParanoid(); err != nil || level < 1 {
		t.Skipf("needs kernel.perf_event_paranoid above 0, where not everybody may count: %d, %v", level, err)
	}
	log := testLog(t)
	asNobody(t, func() {
		for range 3 {
			p, err := h.after(platformIdentityPace)
			if err != nil || strings.Contains(platformText(p.Measurements), "_dram_") {
				t.Fatalf("%v\n%s", err, platformText(p.Measurements))
			}
		}
	})
	logged(t, log, "permission is missing", 1)
	logged(t, log, "CAP_PERFMON", 1)
	dramReading(t, h.mustAfter(platformIdentityPace), owca.PlatformDRAMRead)
}

// asNobody calls f, on the only thread that is without capabilities meanwhile.
// Files are still root's to read: those of the test are.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	const keep = ^uintptr(0)
	runtime.LockOSThread() // for good if the way back fails
	setEffective := func(uid uintptr) {
		t.Helper()
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, keep, uid, keep); errno != 0 {
			t.Fatal(errno)
		}
	}
	setEffective(65534)
	defer func() {
		setEffective(0)
		runtime.UnlockOSThread()
	}()
	_, _, _ = syscall.RawSyscall(syscall.SYS_SETFSUID, 0, 0, 0) // returns the one before, never an error
	f()
}

// Who wants no performance counters gets none for DRAM.
func TestDRAMUnwanted(t *testing.T) {
	h := newDRAMHost(t)
	dramReading(t, h.mustAfter(0), owca.PlatformDRAMRead)
	h.p.SetOptions(PlatformOptions{NoDRAM: true})
	if p := h.mustAfter(time.Second); strings.Contains(platformText(p.Measurements), "_dram_") || h.p.dram.uncore != nil {
		t.Errorf("still open: %+v\n%s", h.p.dram.uncore, platformText(p.Measurements))
	}
	h.p.SetOptions(PlatformOptions{})
	dramReading(t, h.mustAfter(time.Second), owca.PlatformDRAMRead)
}

func TestDRAMThisHost(t *testing.T) {
	p := (&Host{Proc: proc.FS{Root: "/"}}).NewPlatform(PlatformOptions{})
	result, err := p.Read(time.Now())
	if err != nil {
		t.Error(err)
	}
	has := strings.Contains(platformText(result.Measurements), "owca_platform_dram_read_bytes_total")
	u, err := perf.FS{}.OpenUncore()
	if err == nil {
		err = u.Close()
	}
	if has != (err == nil) {
		t.Errorf("has DRAM traffic: %v, although: %v", has, err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}
