package perf

import (
	"fmt"
	"math/bits"
	"testing"

	"golang.org/x/sys/unix"
)

// A format sets bits within its range alone, takes what fits and nothing else,
// and keeps the value.
func FuzzFormat(f *testing.F) {
	for _, text := range []string{"config:0-7", "config:0-7,32-35", "config1:0-63", "config2:5", "config1:1,6-10,44", "config:7-0", "config3:1", "config", "config:64"} {
		f.Add(text, uint64(0x1a3))
	}
	f.Add("config:0-7,32-35", uint64(1<<12))
	f.Fuzz(func(t *testing.T, text string, value uint64) {
		format, err := parseFormat(text)
		if err != nil {
			return
		}
		// The same, bit by bit.
		written := configs[format.field] + ":"
		for rest := format.mask; rest != 0; rest &= rest - 1 {
			if rest != format.mask {
				written += ","
			}
			written += fmt.Sprint(bits.TrailingZeros64(rest))
		}
		if again, err := parseFormat(written); err != nil || again != format {
			t.Fatalf("%q: %+v, as %q %+v, %v", text, format, written, again, err)
		}
		var attr unix.PerfEventAttr
		err = format.put(&attr, value)
		fits := bits.Len64(value) <= bits.OnesCount64(format.mask)
		if (err == nil) != fits {
			t.Fatalf("%q: put %#x: %v", text, value, err)
		}
		fields := [3]uint64{attr.Config, attr.Ext1, attr.Ext2}
		got := uint64(0)
		for i, bit := 0, format.mask; bit != 0; i, bit = i+1, bit&(bit-1) {
			got |= fields[format.field] >> bits.TrailingZeros64(bit) & 1 << i
		}
		if fits && got != value || !fits && fields != [3]uint64{} {
			t.Fatalf("%q: put %#x: %#x", text, value, fields)
		}
		fields[format.field] &^= format.mask
		if fields != [3]uint64{} {
			t.Fatalf("%q: put %#x sets other bits: %#x", text, value, fields)
		}
	})
}
