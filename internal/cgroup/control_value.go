package cgroup

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"os"
	"slices"
	"strconv"
	"strings"
)

// A Knob is a limit of a cgroup that can be set. Its value is text in one canonical form on
// all versions, so that what [Control.Get] returns can be compared, kept, and given to
// [Control.Set].
type Knob uint8

// The knobs, with the form of their values.
const (
	// CPUMax is "QUOTA PERIOD" in µs, "max 100000" without a limit: cpu.max; v1
	// cpu.cfs_quota_us and cpu.cfs_period_us.
	CPUMax Knob = iota
	// CPUMaxBurst is µs: cpu.max.burst; v1 cpu.cfs_burst_us. Linux 5.14.
	CPUMaxBurst
	// CPUSharesV1 is v1's cpu.shares, CPUWeightV2 v2's cpu.weight: a cgroup has one of them.
	CPUSharesV1
	CPUWeightV2
	// CPUIdleFlag is "0" or "1": cpu.idle. Linux 5.15.
	CPUIdleFlag
	// CPUSetCPUList and CPUSetMemList are lists as the kernel writes them, "0-3,8":
	// cpuset.cpus and cpuset.mems as they are set, not as they are in effect; v2: "" is the
	// parent's.
	CPUSetCPUList
	CPUSetMemList
	// MemoryHighLimit and MemoryLowLimit are bytes or "max": v2.
	MemoryHighLimit
	MemoryLowLimit
	// IOWeightDefault is the default weight: io.weight (1 to 10000) or, where that is not,
	// io.bfq.weight (1 to 1000); v1 blkio.bfq.weight (the same) or blkio.weight (10 to 1000,
	// Linux 4).
	IOWeightDefault
	// IOMaxLimits are lines "MAJ:MIN rbps=N wbps=N riops=N wiops=N" of the devices that have
	// a limit, with "max" for none, sorted by device, the last without a newline: io.max; v1
	// blkio.throttle.*_device.
	IOMaxLimits

	NumKnobs
)

var knobNames = [NumKnobs]string{
	"cpu.max", "cpu.max.burst", "cpu.shares", "cpu.weight", "cpu.idle", "cpuset.cpus", "cpuset.mems",
	"memory.high", "memory.low", "io.weight", "io.max",
}

// String returns the name of the v2 file, "cpu.max"; of CPUSharesV1 that of v1.
func (k Knob) String() string {
	if k < NumKnobs {
		return knobNames[k]
	}
	return fmt.Sprintf("knob %d", uint8(k))
}

// MarshalText is String.
func (k Knob) MarshalText() ([]byte, error) {
	if k >= NumKnobs {
		return nil, fmt.Errorf("there is no cgroup %s", k)
	}
	return []byte(knobNames[k]), nil
}

// UnmarshalText is the inverse of MarshalText.
func (k *Knob) UnmarshalText(text []byte) error {
	i := slices.Index(knobNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("%q is no limit of a cgroup that owca knows", text)
	}
	*k = Knob(i)
	return nil
}

// Equal says whether two values of a knob mean the same to the kernel: lists as sets,
// memory rounded down to pages, shares within their range.
func (k Knob) Equal(a, b string) bool {
	if a == b {
		return true
	}
	a, ok1 := k.canonical(a)
	b, ok2 := k.canonical(b)
	return ok1 && ok2 && a == b
}

// Mixes says whether value is what one can find when a change among these values was broken
// off in the middle: each file, or each limit of a device, has what one of them says. Each
// of them alone is such a mix.
func (k Knob) Mixes(value string, of ...string) bool {
	for _, v := range of {
		if k.Equal(value, v) {
			return true
		}
	}
	switch k {
	case CPUMax:
		return mixesBandwidth(value, of)
	case IOMaxLimits:
		return mixesDevices(value, of)
	}
	return false
}

// parse parses the files of a knob, each ended by a NUL, into the canonical form. They are
// as strict as the kernel writes them, but for zeroes in front.
func (k Knob) parse(text []byte, v1 bool) (string, bool) {
	first, rest, _ := cutByte(text, 0)
	switch k {
	case IOMaxLimits:
		return parseIOMax(text, v1)
	case IOWeightDefault:
		return parseIOWeight(first)
	}
	line, ok := single(first)
	if !ok {
		return "", false
	}
	if k == CPUMax && v1 {
		second, _, _ := cutByte(rest, 0)
		period, ok := single(second)
		if !ok {
			return "", false
		}
		if string(line) == "-1" {
			line = []byte("max")
		}
		return k.canonical(string(line) + " " + string(period))
	}
	return k.canonical(string(line))
}

// canonical returns the canonical form of a value, and whether it is one.
func (k Knob) canonical(value string) (string, bool) {
	switch k {
	case CPUMax:
		b, ok := parseBandwidth(value)
		return b.String(), ok
	case CPUMaxBurst, CPUWeightV2, IOWeightDefault:
		return canonicalNumber(value, 0, math.MaxUint64)
	case CPUSharesV1:
		// The kernel clamps: MIN_SHARES, MAX_SHARES (kernel/sched/sched.h).
		return canonicalNumber(value, 2, 1<<18)
	case CPUIdleFlag:
		return value, value == "0" || value == "1"
	case CPUSetCPUList, CPUSetMemList:
		return canonicalList(value)
	case MemoryHighLimit, MemoryLowLimit:
		return canonicalMemory(value)
	case IOMaxLimits:
		list, ok := parseDevices(value)
		return devicesString(list), ok
	}
	return "", false
}

// canonicalNumber is strict but for zeroes in front, and clamps.
func canonicalNumber(value string, lo, hi uint64) (string, bool) {
	n, ok := parseUint([]byte(value))
	return strconv.FormatUint(min(max(n, lo), hi), 10), ok
}

// canonicalMemory rounds down to pages, as page_counter_memparse does; PAGE_COUNTER_MAX is
// no limit.
func canonicalMemory(value string) (string, bool) {
	if value == "max" {
		return value, true
	}
	n, ok := parseUint([]byte(value))
	page := uint64(os.Getpagesize())
	if n /= page; n >= math.MaxInt64/page {
		return "max", ok
	}
	return strconv.FormatUint(n*page, 10), ok
}

// canonicalList allows for any order, and for overlaps.
func canonicalList(value string) (string, bool) {
	var set idSet
	for list := value; list != ""; {
		var word string
		var more bool
		word, list, more = strings.Cut(list, ",")
		if word == "" || more && list == "" || !set.add([]byte(word)) {
			return "", false
		}
	}
	return string(set.append(nil)), true
}

// parseIOWeight parses io.weight and io.bfq.weight, of which the lines of single devices
// are left alone:
//
//	default 100
//	8:0 50
//
// or v1's blkio.bfq.weight, "100".
func parseIOWeight(b []byte) (string, bool) {
	line, _, ok := cutByte(b, '\n')
	if n, found := bytes.CutPrefix(line, []byte("default ")); found {
		line = n
	}
	value, isNumber := IOWeightDefault.canonical(string(line))
	return value, ok && isNumber
}

// bandwidth is a value of CPUMax, in µs; without a limit the quota is Max.
type bandwidth struct{ quota, period uint64 }

func parseBandwidth(value string) (b bandwidth, ok bool) {
	quota, period, found := strings.Cut(value, " ")
	b.period, ok = parseUint([]byte(period))
	if !found || !ok {
		return bandwidth{}, false
	}
	if quota == "max" {
		b.quota = Max
		return b, true
	}
	b.quota, ok = parseUint([]byte(quota))
	return b, ok && b.quota != Max
}

func (b bandwidth) String() string {
	period := strconv.FormatUint(b.period, 10)
	if b.quota == Max {
		return "max " + period
	}
	return strconv.FormatUint(b.quota, 10) + " " + period
}

// quota1 is the quota as v1 wants it.
func (b bandwidth) quota1() string {
	if b.quota == Max {
		return "-1"
	}
	return strconv.FormatUint(b.quota, 10)
}

// productLess says whether a×b < c×d.
func productLess(a, b, c, d uint64) bool {
	hi1, lo1 := bits.Mul64(a, b)
	hi2, lo2 := bits.Mul64(c, d)
	return hi1 < hi2 || hi1 == hi2 && lo1 < lo2
}

// mixesBandwidth: quota and period are two files on v1. Without a quota the period does
// not matter.
func mixesBandwidth(value string, of []string) bool {
	v, ok := parseBandwidth(value)
	quota, period := false, v.quota == Max
	for _, o := range of {
		if b, ok := parseBandwidth(o); ok {
			quota = quota || b.quota == v.quota
			period = period || b.period == v.period
		}
	}
	return ok && quota && period
}

// deviceLimits are those of a device, in the order of limitKeys; Max is none.
type deviceLimits struct {
	device device
	limits [4]uint64
}

// device is its numbers; the kernel has 12 bits for major ones and 20 for minor ones.
type device struct{ major, minor uint32 }

var limitKeys = [4]string{"rbps", "wbps", "riops", "wiops"}

// maxLimit is what the kernel takes for none (block/blk-throttle.c): operations are 32 bits.
func maxLimit(i int) uint64 {
	if i < 2 {
		return math.MaxUint64
	}
	return math.MaxUint32
}

func (d deviceLimits) none() bool { return d.limits == [4]uint64{Max, Max, Max, Max} }

func (d deviceLimits) String() string {
	b := d.device.append(nil)
	for i, n := range d.limits {
		b = append(append(append(b, ' '), limitKeys[i]...), '=')
		if n == Max {
			b = append(b, "max"...)
		} else {
			b = strconv.AppendUint(b, n, 10)
		}
	}
	return string(b)
}

// line1 is one limit as v1 wants it; 0 removes it.
func (d deviceLimits) line1(i int) string {
	n := d.limits[i]
	if n == Max {
		n = 0
	}
	return string(strconv.AppendUint(append(d.device.append(nil), ' '), n, 10))
}

func (d device) append(b []byte) []byte {
	b = append(strconv.AppendUint(b, uint64(d.major), 10), ':')
	return strconv.AppendUint(b, uint64(d.minor), 10)
}

func (d device) compare(e device) int {
	return cmp.Or(cmp.Compare(d.major, e.major), cmp.Compare(d.minor, e.minor))
}

func parseDevice(s string) (device, bool) {
	major, minor, _ := strings.Cut(s, ":")
	a, ok1 := parseUint([]byte(major))
	b, ok2 := parseUint([]byte(minor))
	return device{uint32(a), uint32(b)}, ok1 && ok2 && a < 1<<12 && b < 1<<20
}

// limitsOf returns the limits of a device, which are none if the list doesn't have it.
func limitsOf(list []deviceLimits, d device) deviceLimits {
	for _, l := range list {
		if l.device == d {
			return l
		}
	}
	return deviceLimits{d, [4]uint64{Max, Max, Max, Max}}
}

// setLimit sets a limit of a device.
func setLimit(list []deviceLimits, d device, i int, n uint64) []deviceLimits {
	if n >= maxLimit(i) {
		n = Max
	}
	for j := range list {
		if list[j].device == d {
			list[j].limits[i] = n
			return list
		}
	}
	l := limitsOf(nil, d)
	l.limits[i] = n
	return append(list, l)
}

// parseDevices parses lines of io.max (block/blk-throttle.c tg_prfill_limit). Limits that a
// line doesn't have are none. A device has one line, and each limit is above 0.
func parseDevices(value string) (list []deviceLimits, ok bool) {
	if value == "" {
		return nil, true
	}
	for line := range strings.SplitSeq(value, "\n") {
		words := strings.Split(line, " ")
		d, ok := parseDevice(words[0])
		if !ok || slices.ContainsFunc(list, func(l deviceLimits) bool { return l.device == d }) {
			return nil, false
		}
		list = append(list, limitsOf(nil, d))
		seen := [4]bool{}
		for _, word := range words[1:] {
			key, text, _ := strings.Cut(word, "=")
			i := slices.Index(limitKeys[:], key)
			n, ok := uint64(Max), text == "max"
			if !ok {
				n, ok = parseUint([]byte(text))
			}
			if i < 0 || seen[i] || !ok || n == 0 {
				return nil, false
			}
			seen[i] = true
			list = setLimit(list, d, i, n)
		}
	}
	return list, true
}

// devicesString is the canonical form.
func devicesString(list []deviceLimits) string {
	slices.SortFunc(list, func(a, b deviceLimits) int { return a.device.compare(b.device) })
	var lines []string
	for _, d := range list {
		if !d.none() {
			lines = append(lines, d.String())
		}
	}
	return strings.Join(lines, "\n")
}

// parseIOMax parses io.max, or v1's four files in the order of limitKeys
// (tg_prfill_conf_u64), which have what has a limit:
//
//	8:0 1048576
func parseIOMax(text []byte, v1 bool) (string, bool) {
	if !v1 {
		file, _, _ := cutByte(text, 0)
		value, ended := strings.CutSuffix(string(file), "\n")
		list, ok := parseDevices(value)
		return devicesString(list), ok && (ended || value == "")
	}
	var list []deviceLimits
	for i := range limitKeys {
		var file []byte
		file, text, _ = cutByte(text, 0)
		l := lines{rest: file}
		for l.next() {
			d, ok1 := parseDevice(string(l.key))
			n, ok2 := parseUint(l.value)
			if !ok1 || !ok2 {
				return "", false
			}
			if n > 0 {
				list = setLimit(list, d, i, n)
			}
		}
		if l.cut {
			return "", false
		}
	}
	return devicesString(list), true
}

// mixesDevices: a device is one write, on v1 each of its limits.
func mixesDevices(value string, of []string) bool {
	have, ok := parseDevices(value)
	var lists [][]deviceLimits
	for _, o := range of {
		if list, ok := parseDevices(o); ok {
			lists = append(lists, list)
		}
	}
	if !ok || len(lists) == 0 {
		return false
	}
	from := func(d deviceLimits) bool {
		for i, n := range d.limits {
			has := func(l []deviceLimits) bool { return limitsOf(l, d.device).limits[i] == n }
			if !slices.ContainsFunc(lists, has) {
				return false
			}
		}
		return true
	}
	for _, d := range have {
		if !from(d) {
			return false
		}
	}
	for _, list := range lists {
		for _, d := range list {
			if !from(limitsOf(have, d.device)) {
				return false
			}
		}
	}
	return true
}

// Shares converts a cpu.weight to the cpu.shares that it stands for, as runtimes convert
// them: weight = 1 + (shares − 2) × 9999 / 262142, rounded down. It returns the least of those
// that do, so that Weight(Shares(w)) is w.
func Shares(weight uint64) uint64 {
	weight = min(max(weight, 1), 10000)
	return 2 + ((weight-1)*262142+9998)/9999
}

// Weight is the inverse of Shares, within 1 to 10000.
func Weight(shares uint64) uint64 {
	shares = min(max(shares, 2), 1<<18)
	return 1 + (shares-2)*9999/262142
}
