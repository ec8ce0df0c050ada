package perf

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/bits"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// SocketBytes is what went between a socket and its DRAM since OpenUncore.
type SocketBytes struct {
	Socket      int // physical_package_id
	Read, Write uint64
}

// Uncore counts the bytes that the memory controllers of the host move. One
// goroutine at a time may use it.
type Uncore struct {
	fs          FS
	controllers []uncoreController
	sockets     []*uncoreSocket // in the order of their ids
	counters    []uncoreCounter

	online  *os.File
	seen    []byte // what online said when counters was right
	pending bool   // counters may be wrong although online has not changed
	err     error  // why there are no counters
	buf     []byte
}

// uncoreController is a PMU that counts for whole sockets, on one CPU of each.
type uncoreController struct {
	name   string
	events []uncoreEvent
}

type uncoreEvent struct {
	attr  unix.PerfEventAttr
	bytes float64 // that one count stands for
	write bool
}

type uncoreSocket struct {
	id      int
	retired [2]uint64 // read and written bytes of counters that are closed

	// For Read.
	total    [2]uint64
	counters int   // that are open
	err      error // why the total is not to be used
}

// uncoreCounter is an event of a controller on a CPU.
type uncoreCounter struct {
	controller, event, cpu int
	socket                 *uncoreSocket

	fd                      int
	value, enabled, running uint64 // as read last while it ran
	count                   uint64 // value, scaled for the time it did not run
	seen                    uint64 // enabled, as read last
	ran, dead               bool
}

var (
	uncoreIMC         = regexp.MustCompile(`^uncore_imc(_[0-9]+)?$`)
	uncoreFreeRunning = regexp.MustCompile(`^uncore_imc_free_running(_[0-9]+)?$`)
	uncoreUMC         = regexp.MustCompile(`^amd_umc_[0-9]+$`)
)

// OpenUncore starts to count what goes between each socket and its DRAM:
//
//   - Intel: CAS commands of every channel (uncore_imc_N), or what the
//     free-running counters tell where only those have events;
//   - AMD since Zen 4: CAS commands of every controller (amd_umc_N, Linux 6.7).
//
// The error wraps [errors.ErrUnsupported] if this host has no such counters,
// EPERM or EACCES if this user may not use them. One file is open for each
// controller, socket and event.
func (f FS) OpenUncore() (_ *Uncore, err error) {
	u := &Uncore{fs: f, buf: make([]byte, 4096)}
	if u.controllers, err = f.uncoreControllers(); err != nil {
		return nil, err
	}
	if u.online, err = os.Open(f.path("sys/devices/system/cpu/online")); err != nil {
		return nil, err
	}
	u.pending = true
	if err := u.Refresh(); err != nil {
		return nil, errors.Join(err, u.Close())
	}
	return u, nil
}

// uncoreControllers finds the memory controllers that count bytes.
func (f FS) uncoreControllers() ([]uncoreController, error) {
	names, err := f.names(devices)
	if err != nil {
		return nil, err
	}
	reason := "DRAM traffic: no uncore_imc or amd_umc in " + f.path(devices) + " (virtual machines have none)"
	for _, kind := range []struct {
		names *regexp.Regexp
		// codes are the events of PMUs for which sysfs lists none.
		codes func(FS) ([]uncoreCode, error)
	}{
		{uncoreIMC, FS.uncoreIntelCodes},
		{uncoreFreeRunning, nil},
		{uncoreUMC, func(FS) ([]uncoreCode, error) { return uncoreUMCCodes, nil }},
	} {
		var list []uncoreController
		unknown := ""
		for _, name := range names {
			if !kind.names.MatchString(name) {
				continue
			}
			p, err := f.pmu(name)
			c := uncoreController{name: name}
			if err == nil {
				c.events, err = f.uncoreListed(&p)
			}
			if err == nil && len(c.events) == 0 && kind.codes != nil {
				var codes []uncoreCode
				if codes, err = kind.codes(f); err == nil {
					c.events, err = f.uncoreEncode(&p, codes)
				}
			}
			if err != nil {
				return nil, fmt.Errorf("DRAM traffic: %s: %w", name, err)
			}
			if len(c.events) > 0 {
				list = append(list, c)
			} else {
				unknown = name
				reason = "DRAM traffic: no event of " + name + " is known to count it on this model of CPU"
			}
		}
		switch {
		case len(list) > 0 && unknown != "": // a part of the traffic is not the traffic
			return nil, fmt.Errorf("DRAM traffic: %s has events that count it, %s has none", list[0].name, unknown)
		case len(list) > 0:
			return list, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", reason, errors.ErrUnsupported)
}

// uncoreCode is a CAS command as sysfs spells its event: "event=0x04,umask=0x03".
type uncoreCode struct {
	terms string
	write bool
}

// casBytes is what a CAS command moves: a cache line, as a burst of 8 on DDR4 or
// of 16 on a DDR5 subchannel.
const casBytes = 64

// uncoreUMCCodes: linux tools/perf/pmu-events/arch/x86/amdzen4/memory-controller.json
// (amdzen5 has the same), umc_cas_cmd.rd and .wr; the driver, arch/x86/events/amd/uncore.c,
// lists no events in sysfs.
var uncoreUMCCodes = []uncoreCode{
	{"event=0x0a,rdwrmask=0x1", false},
	{"event=0x0a,rdwrmask=0x2", true},
}

// uncoreIntelCodes are the CAS commands of models whose driver may list no
// events (arch/x86/events/intel/uncore_snbep.c), from
// linux tools/perf/pmu-events/arch/x86/*/uncore-memory.json. What counts CAS
// commands on one generation counts other things on the next, so there is none
// for a model that is not here.
func (f FS) uncoreIntelCodes() ([]uncoreCode, error) {
	model, err := f.uncoreIntelModel()
	if err != nil {
		return nil, err
	}
	switch model {
	// jaketown, ivytown, haswellx, broadwellx, broadwellde, skylakex, cascadelakex:
	// UNC_M_CAS_COUNT.RD, .WR
	case 0x2d, 0x3e, 0x3f, 0x4f, 0x56, 0x55:
		return []uncoreCode{{"event=0x04,umask=0x03", false}, {"event=0x04,umask=0x0c", true}}, nil
	// icelakex, snowridgex: the same name, other bits
	case 0x6a, 0x6c, 0x86:
		return []uncoreCode{{"event=0x04,umask=0x0f", false}, {"event=0x04,umask=0x30", true}}, nil
	// sapphirerapids, emeraldrapids; listed since 2023
	case 0x8f, 0xcf:
		return []uncoreCode{{"event=0x05,umask=0xcf", false}, {"event=0x05,umask=0xf0", true}}, nil
	// graniterapids, sierraforest: UNC_M_CAS_COUNT_SCH0.RD …, one event for each
	// of the two subchannels; listed since 2026
	case 0xad, 0xae, 0xaf:
		return []uncoreCode{
			{"event=0x05,umask=0xcf", false}, {"event=0x06,umask=0xcf", false},
			{"event=0x05,umask=0xf0", true}, {"event=0x06,umask=0xf0", true},
		}, nil
	}
	return nil, nil
}

// uncoreIntelModel reads the model of an Intel CPU of family 6, 0 if it is another.
func (f FS) uncoreIntelModel() (int, error) {
	data, err := os.ReadFile(f.path("proc/cpuinfo"))
	if err != nil {
		return 0, err
	}
	vendor, family, model := "", "", ""
	for line := range strings.Lines(string(data)) {
		key, value, ok := strings.Cut(line, ":")
		if !ok && model != "" {
			break // the next CPU is of the same model
		}
		switch value = strings.TrimSpace(value); strings.TrimSpace(key) {
		case "vendor_id":
			vendor = value
		case "cpu family":
			family = value
		case "model":
			model = value
		}
	}
	if vendor != "GenuineIntel" || family != "6" {
		return 0, nil
	}
	return strconv.Atoi(model)
}

// uncoreNames are the events that the drivers list in sysfs. All of a row are
// counted, a row only if none before it is there.
var uncoreNames = [...]struct{ read, write []string }{
	{[]string{"cas_count_read"}, []string{"cas_count_write"}},                                                          // Xeon E5 to Emerald Rapids
	{[]string{"cas_count_read_sch0", "cas_count_read_sch1"}, []string{"cas_count_write_sch0", "cas_count_write_sch1"}}, // Granite Rapids
	{[]string{"data_reads"}, []string{"data_writes"}},                                                                  // uncore_imc of clients, uncore_snb.c
	{[]string{"data_read"}, []string{"data_write"}},                                                                    // their free-running ones since Tiger Lake
	{[]string{"read"}, []string{"write"}},                                                                              // those of Ice Lake servers
}

// uncoreListed returns the events that sysfs lists for a controller, none if it
// lists none that count bytes.
func (f FS) uncoreListed(p *pmu) ([]uncoreEvent, error) {
	for _, row := range uncoreNames {
		var events []uncoreEvent
		for i, name := range slices.Concat(row.read, row.write) {
			listed, err := f.event(p, name)
			if errors.Is(err, fs.ErrNotExist) {
				events = nil
				break
			}
			if err != nil {
				return nil, err
			}
			e, err := f.uncoreEvent(p, listed.terms)
			if err == nil {
				e.bytes, err = uncoreUnit(listed.scale, listed.unit)
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			e.write = i >= len(row.read)
			events = append(events, e)
		}
		if len(events) > 0 {
			return events, nil
		}
	}
	return nil, nil
}

// uncoreUnit returns how many bytes a count is: 6.103515625e-5 MiB are 64. A CAS
// command that has no unit is a cache line.
func uncoreUnit(scale float64, unit string) (float64, error) {
	if !(scale > 0) || math.IsInf(scale, 1) {
		return 0, fmt.Errorf("%v is not a scale", scale)
	}
	switch strings.ToLower(unit) {
	case "mib":
		return scale * (1 << 20), nil
	case "kib":
		return scale * (1 << 10), nil
	case "bytes", "b":
		return scale, nil
	case "":
		return scale * casBytes, nil
	}
	return 0, fmt.Errorf("%q is not a unit of memory that is known", unit)
}

// uncoreEncode encodes CAS commands for a controller.
func (f FS) uncoreEncode(p *pmu, codes []uncoreCode) ([]uncoreEvent, error) {
	var events []uncoreEvent
	for _, code := range codes {
		terms, err := parseSysfsEvent(code.terms)
		if err != nil {
			return nil, err
		}
		e, err := f.uncoreEvent(p, terms)
		if err != nil {
			return nil, err
		}
		e.bytes, e.write = casBytes, code.write
		events = append(events, e)
	}
	return events, nil
}

func (f FS) uncoreEvent(p *pmu, terms []term) (uncoreEvent, error) {
	e := uncoreEvent{attr: unix.PerfEventAttr{Type: p.kind, Read_format: unix.PERF_FORMAT_TOTAL_TIME_ENABLED | unix.PERF_FORMAT_TOTAL_TIME_RUNNING}}
	h := host{fs: f}
	return e, h.putEvent(p, &e.attr, &sysfsEvent{terms: terms}, nil)
}

// Refresh follows CPUs that come and go. The kernel moves the counters of a
// socket to another CPU of it when the one they are on goes offline; after the
// last one has gone there are no counts of the socket until it comes back, and
// then they go on. After an error Read returns none, until a Refresh succeeds.
func (u *Uncore) Refresh() error {
	n, err := u.online.ReadAt(u.buf, 0)
	if n == 0 {
		u.err, u.pending = fmt.Errorf("%s: %w", u.online.Name(), cmp.Or(err, io.ErrUnexpectedEOF)), true
		return u.err
	}
	changed := !bytes.Equal(u.buf[:n], u.seen)
	if !changed && !u.pending {
		return nil
	}
	u.seen = append(u.seen[:0], u.buf[:n]...)
	u.err = u.place()
	// The CPU that counts is chosen a moment after the list of those that are
	// online has changed: look again next time.
	u.pending = changed || u.err != nil
	return u.err
}

// place opens a counter for each event on each CPU where its controller counts
// now, and closes the others.
func (u *Uncore) place() error {
	keep := make([]bool, len(u.counters))
	var missing []uncoreCounter
	for i, controller := range u.controllers {
		cpus, err := u.fs.cpuList(path.Join(devices, controller.name, "cpumask"))
		if err != nil {
			return err
		}
		for _, cpu := range cpus {
			socket, err := u.socket(cpu)
			if err != nil {
				return err
			}
			for j := range controller.events {
				at := slices.IndexFunc(u.counters, func(c uncoreCounter) bool {
					return c.controller == i && c.event == j && c.cpu == cpu && !c.dead
				})
				if at >= 0 {
					keep[at] = true
				} else {
					missing = append(missing, uncoreCounter{controller: i, event: j, cpu: cpu, socket: socket})
				}
			}
		}
	}
	// Before others are opened, which may need the same hardware counters: a
	// controller has four.
	var errs []error
	kept := u.counters[:0]
	for i := range u.counters {
		if keep[i] {
			kept = append(kept, u.counters[i])
		} else {
			errs = append(errs, u.retire(&u.counters[i]))
		}
	}
	u.counters = kept
	for _, c := range missing {
		controller := &u.controllers[c.controller]
		fd, err := openEvent(controller.events[c.event].attr, -1, c.cpu, -1, 0)
		if errors.Is(err, errors.ErrUnsupported) {
			// The controller is there: its CPU has just gone, perhaps.
			err = errors.New(err.Error())
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("DRAM traffic: %s on cpu %d: %w", controller.name, c.cpu, err))
			break // the others have the same reason
		}
		c.fd = fd
		u.counters = append(u.counters, c)
	}
	return errors.Join(errs...)
}

// socket returns the one that a CPU belongs to.
func (u *Uncore) socket(cpu int) (*uncoreSocket, error) {
	name := fmt.Sprintf("sys/devices/system/cpu/cpu%d/topology/physical_package_id", cpu)
	text, err := u.fs.line(name)
	if err != nil {
		return nil, err
	}
	id, err := strconv.Atoi(text)
	if err != nil || id < 0 {
		return nil, fmt.Errorf("%s: %q is not the number of a socket", u.fs.path(name), text)
	}
	at, found := slices.BinarySearchFunc(u.sockets, id, func(s *uncoreSocket, id int) int { return cmp.Compare(s.id, id) })
	if !found {
		u.sockets = slices.Insert(u.sockets, at, &uncoreSocket{id: id})
	}
	return u.sockets[at], nil
}

// Read appends to list what each socket has moved, in the order of their
// numbers. The numbers of a socket never fall. A socket is not in it if not
// every one of its counters could be read or has counted yet; the error says
// why.
func (u *Uncore) Read(list []SocketBytes) ([]SocketBytes, error) {
	if u.err != nil {
		return list, u.err
	}
	for _, s := range u.sockets {
		s.total, s.counters, s.err = s.retired, 0, nil
	}
	for i := range u.counters {
		c := &u.counters[i]
		s, e := c.socket, u.event(c)
		if err := c.read(u.buf); err != nil {
			s.err = fmt.Errorf("%s on cpu %d: %w", u.controllers[c.controller].name, c.cpu, err)
			u.pending = u.pending || c.dead
		} else if !c.ran && s.err == nil {
			s.err = errUncoreWaits
		}
		s.counters++
		s.total[e.direction()] += c.bytes(e)
	}
	var err error
	for _, s := range u.sockets {
		switch {
		case s.err == nil && s.counters > 0:
			list = append(list, SocketBytes{Socket: s.id, Read: s.total[0], Write: s.total[1]})
		case s.err != nil && !errors.Is(s.err, errUncoreWaits):
			err = errors.Join(err, fmt.Errorf("DRAM traffic of socket %d: %w", s.id, s.err))
		}
	}
	return list, err
}

// errUncoreWaits: others use the hardware counters, and ours have not had their
// turn yet. It is not returned.
var errUncoreWaits = errors.New("no counter has been free")

var errUncoreDead = errors.New("the CPU went offline and came again: the counters are opened anew")

// Files returns how many descriptors are open.
func (u *Uncore) Files() int { return len(u.counters) + 1 }

// Close closes the counters.
func (u *Uncore) Close() error {
	errs := []error{u.online.Close()}
	for i := range u.counters {
		errs = append(errs, unix.Close(u.counters[i].fd))
	}
	u.counters, u.err = nil, fs.ErrClosed
	return errors.Join(errs...)
}

func (u *Uncore) event(c *uncoreCounter) *uncoreEvent {
	return &u.controllers[c.controller].events[c.event]
}

// direction is the index of uncoreSocket.retired.
func (e *uncoreEvent) direction() int {
	if e.write {
		return 1
	}
	return 0
}

// retire closes a counter and keeps what it counted. If it cannot be read any
// more, because its CPU is gone, that is what was read last.
func (u *Uncore) retire(c *uncoreCounter) error {
	_ = c.read(u.buf)
	e := u.event(c)
	c.socket.retired[e.direction()] += c.bytes(e)
	return unix.Close(c.fd)
}

// read brings the count up to date. An uncore PMU has few counters; while
// others have them, ours stands still, and the part of the time that it ran
// stands for the whole.
func (c *uncoreCounter) read(buf []byte) error {
	n, err := unix.Read(c.fd, buf[:uncoreReadSize])
	if err != nil {
		return os.NewSyscallError("read", err)
	}
	if n != uncoreReadSize {
		return fmt.Errorf("read: %d bytes of %d", n, uncoreReadSize)
	}
	value, enabled, running := binary.NativeEndian.Uint64(buf), binary.NativeEndian.Uint64(buf[8:]), binary.NativeEndian.Uint64(buf[16:])
	if enabled == c.seen && c.seen > 0 {
		// Time stands still: all CPUs of the socket went offline and came
		// again, and the kernel has taken the event out of its CPU.
		c.dead = true
		return errUncoreDead
	}
	c.seen = enabled
	if running <= c.running || value < c.value {
		return nil // has not had its turn since
	}
	c.count += scaleCount(value-c.value, enabled-c.enabled, running-c.running)
	c.value, c.enabled, c.running, c.ran = value, enabled, running, true
	return nil
}

// uncoreReadSize: struct read_format with both times, without a group.
const uncoreReadSize = 3 * 8

// scaleCount returns count × enabled / running; running is not 0.
func scaleCount(count, enabled, running uint64) uint64 {
	if enabled <= running {
		return count
	}
	hi, lo := bits.Mul64(count, enabled)
	if hi >= running {
		return count // more than 2⁶⁴ commands: not what happened
	}
	n, _ := bits.Div64(hi, lo, running)
	return n
}

// bytes converts the count; whole factors, as 64, lose nothing.
func (c *uncoreCounter) bytes(e *uncoreEvent) uint64 {
	if n := uint64(e.bytes); float64(n) == e.bytes {
		return c.count * n
	}
	return uint64(float64(c.count) * e.bytes)
}

// scatter puts the bits of value where mask has ones, from the lowest.
func scatter(value, mask uint64) uint64 {
	result := uint64(0)
	for ; mask != 0; mask &= mask - 1 {
		if value&1 != 0 {
			result |= mask & -mask
		}
		value >>= 1
	}
	return result
}
