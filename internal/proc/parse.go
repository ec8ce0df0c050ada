package proc

import (
	"bytes"
	"fmt"
	"math"
)

// The parsers share one property: cut a file short anywhere, and what is found
// in the rest is either what is in the whole file, or absent. That is why a
// last line without its newline is not a line.

// cutLine splits b after its first line; ok is false if there is no whole one.
func cutLine(b []byte) (line, rest []byte, ok bool) {
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		return nil, b, false
	}
	return b[:i], b[i+1:], true
}

// cutUint parses a decimal number after any blanks at the start of b.
func cutUint(b []byte) (n uint64, rest []byte, ok bool) {
	i := 0
	for i < len(b) && (b[i] == ' ' || b[i] == '\t') {
		i++
	}
	start := i
	for ; i < len(b) && isDigit(b[i]); i++ {
		digit := uint64(b[i] - '0')
		if n > (math.MaxUint64-digit)/10 {
			return 0, b, false
		}
		n = n*10 + digit
	}
	return n, b[i:], i > start
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// parseKiB parses "   1011660 kB" to bytes.
func parseKiB(b []byte) (uint64, bool) {
	n, rest, ok := cutUint(b)
	if !ok || string(rest) != " kB" || n > math.MaxUint64>>10 {
		return 0, false
	}
	return n << 10, true
}

// maxID bounds the numbers of CPUs and NUMA nodes that we believe: the largest
// kernels are built for 8192 CPUs.
const maxID = 1 << 16

// parseList parses a list of CPUs or nodes as "0-3,5\n" into ascending numbers;
// an empty one is "\n".
func parseList(b []byte) ([]int, error) {
	b = bytes.TrimSuffix(b, []byte("\n"))
	var ids []int
	for rest := b; len(rest) > 0; {
		var item []byte
		item, rest, _ = bytes.Cut(rest, []byte(","))
		first, tail, ok := cutUint(item)
		last := first
		if ok && len(tail) > 0 && tail[0] == '-' {
			last, tail, ok = cutUint(tail[1:])
		}
		if !ok || len(tail) > 0 || last < first || last >= maxID ||
			len(ids) > 0 && int(first) <= ids[len(ids)-1] {
			return nil, fmt.Errorf("malformed list %.80q", b)
		}
		for n := first; n <= last; n++ {
			ids = append(ids, int(n))
		}
	}
	return ids, nil
}

func malformed(line []byte) error { return fmt.Errorf("malformed line %.80q", line) }
