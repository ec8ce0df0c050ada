package proc

import (
	"bytes"
	"strconv"
	"strings"
)

// parseCPUModel returns the model of the first CPU in /proc/cpuinfo, "" if it
// names none. x86:
//
//	processor	: 0
//	model name	: AMD EPYC
//
// arm64:
//
//	processor	: 0
//	CPU implementer	: 0x41
//	CPU architecture: 8
//	CPU variant	: 0x0
//	CPU part	: 0xd08
//	CPU revision	: 3
func parseCPUModel(b []byte) string {
	var midr strings.Builder
	for len(b) > 0 {
		line, rest, ok := cutLine(b)
		if !ok || len(line) == 0 { // the next CPU
			break
		}
		b = rest
		key, value, _ := strings.Cut(string(line), ":")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		switch key {
		case "model name":
			return value
		case "CPU implementer", "CPU variant", "CPU part", "CPU revision":
			if midr.Len() > 0 {
				midr.WriteByte(' ')
			}
			midr.WriteString(strings.TrimPrefix(key, "CPU ") + " " + value)
		}
	}
	return midr.String()
}

// Frequency is how fast one CPU ran when the kernel last looked.
type Frequency struct {
	CPU   int
	Hertz uint64
}

// parseCPUMHz appends the frequencies in /proc/cpuinfo of x86:
//
//	processor	: 0
//	cpu MHz		: 2596.144
//
// A CPU without one ("Unknown") is left out.
func parseCPUMHz(b []byte, freqs []Frequency) ([]Frequency, error) {
	none := freqs
	cpu := -1
	for {
		line, rest, ok := cutLine(b)
		if !ok {
			return freqs, nil
		}
		b = rest
		if number, ok := cutKey(line, "processor"); ok {
			n, tail, ok := cutUint(number)
			if !ok || len(tail) > 0 || n >= maxID || int(n) <= cpu {
				return none, malformed(line)
			}
			cpu = int(n)
		} else if mhz, ok := cutKey(line, "cpu MHz"); ok && string(mhz) != " Unknown" {
			whole, tail, ok := cutUint(mhz)
			if !ok || cpu < 0 || whole > 1e6 || len(tail) != 4 || tail[0] != '.' {
				return none, malformed(line)
			}
			khz, tail, ok := cutUint(tail[1:])
			if !ok || len(tail) > 0 {
				return none, malformed(line)
			}
			if n := len(freqs); n > len(none) && freqs[n-1].CPU == cpu {
				return none, malformed(line)
			}
			if hertz := (whole*1000 + khz) * 1000; hertz > 0 {
				freqs = append(freqs, Frequency{cpu, hertz})
			}
		}
	}
}

// cutKey returns what follows "key\t…:" in a line of /proc/cpuinfo.
func cutKey(line []byte, key string) ([]byte, bool) {
	if len(line) <= len(key) || string(line[:len(key)]) != key {
		return nil, false
	}
	rest := bytes.TrimLeft(line[len(key):], "\t ")
	return bytes.CutPrefix(rest, []byte(":"))
}

// freshCPUFreq says whether kernels of this release answer scaling_cur_freq
// from the last tick's sample. On x86 from Linux 4.15 to 5.18 each read of it
// interrupts its CPU and may sleep for 10 ms (arch_freq_get_on_cpu), where
// /proc/cpuinfo sleeps once for all of them.
func freshCPUFreq(release string) bool {
	major, rest, _ := strings.Cut(release, ".")
	minor := rest
	if i := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		minor = rest[:i]
	}
	x, err1 := strconv.Atoi(major)
	y, err2 := strconv.Atoi(minor)
	return err1 == nil && err2 == nil && (x > 5 || x == 5 && y >= 19)
}
