package decide

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
)

// Bytes is a number of bytes in a configuration: 1048576, "512M", "2Gi", or "max".
type Bytes struct {
	N   uint64
	Max bool // no limit; N is 0
}

// UnmarshalText parses a whole number with, perhaps, one of the suffixes that Kubernetes
// has: k, M, G, T (powers of 1000) and Ki, Mi, Gi, Ti (powers of 1024).
func (b *Bytes) UnmarshalText(text []byte) error {
	s := string(text)
	if s == "max" {
		*b = Bytes{Max: true}
		return nil
	}
	unit := uint64(1)
	number := strings.TrimRight(s, "kKMGTi")
	switch suffix := s[len(number):]; suffix {
	case "":
	case "k", "M", "G", "T":
		for range strings.Index("kMGT", suffix) + 1 {
			unit *= 1000
		}
	case "Ki", "Mi", "Gi", "Ti":
		unit <<= 10 * (strings.Index("KMGT", suffix[:1]) + 1)
	default:
		return fmt.Errorf(`unknown suffix %q (expected k, M, G, T, Ki, Mi, Gi, Ti)`, suffix)
	}
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return fmt.Errorf(`expected a number of bytes as 1048576, "512M" or "2Gi", or "max"`)
	}
	hi, lo := bits.Mul64(n, unit)
	if hi != 0 || lo > math.MaxInt64 {
		return fmt.Errorf(`more than 2⁶³ bytes (expected "max" for no limit)`)
	}
	*b = Bytes{N: lo}
	return nil
}

// MarshalText is the inverse of UnmarshalText.
func (b Bytes) MarshalText() ([]byte, error) {
	if b.Max {
		return []byte("max"), nil
	}
	return strconv.AppendUint(nil, b.N, 10), nil
}

// Operations is a number of operations in a configuration: 1000, "10k", or "max".
type Operations Bytes

// UnmarshalText parses a whole number with, perhaps, one of the suffixes k, M, G, T: powers
// of 1000.
func (o *Operations) UnmarshalText(text []byte) error {
	b := (*Bytes)(o)
	if strings.HasSuffix(string(text), "i") || b.UnmarshalText(text) != nil {
		return fmt.Errorf(`expected a number of operations as 1000 or "10k", or "max"`)
	}
	return nil
}

// MarshalText is the inverse of UnmarshalText.
func (o Operations) MarshalText() ([]byte, error) { return Bytes(o).MarshalText() }

// Switch is on or off in a configuration: true or false, 1 or 0.
type Switch bool

// UnmarshalText parses one.
func (w *Switch) UnmarshalText(text []byte) error {
	switch strings.ToLower(string(text)) {
	case "1", "1.0", "true", "yes", "on":
		*w = true
	case "0", "0.0", "false", "no", "off":
		*w = false
	default:
		return fmt.Errorf("expected true or false, or 1 or 0")
	}
	return nil
}

// MarshalText is the inverse of UnmarshalText.
func (w Switch) MarshalText() ([]byte, error) { return strconv.AppendBool(nil, bool(w)), nil }
