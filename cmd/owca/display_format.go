package main

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"
)

// column is one column of the table.
type column struct {
	title string
	width int  // the widest that text makes; 0: the name, as wide as there is room
	left  bool // text; numbers are to the right
	rank  int  // those with the highest go first where there is no room
	sort  sortKey
	text  func([]byte, *row) []byte
	// perf, rdt: shown if there are performance counters, or resctrl tells something.
	perf, rdt bool
	// alarm is the share of time lost that colours the cell; nil: none.
	alarm func(*row) float64
}

// columns are in the order in which they are shown.
var columns = [...]column{
	{title: "NAME", left: true, sort: sortName, text: func(b []byte, r *row) []byte { return appendClean(b, r.name) }},
	{title: "KIND", width: 9, left: true, rank: 4, text: func(b []byte, r *row) []byte { return appendClean(b, cmp.Or(r.kind, "-")) }},
	{title: "CPU", width: 6, rank: 1, sort: sortCPU, text: func(b []byte, r *row) []byte { return appendCores(b, r.value[valueCPU]) }},
	{title: "IPC", width: 5, rank: 7, perf: true, text: func(b []byte, r *row) []byte { return appendCores(b, r.value[valueIPC]) }},
	{title: "LLC", width: 5, rank: 7, rdt: true, text: func(b []byte, r *row) []byte { return appendBytes(b, r.value[valueLLC]) }},
	{title: "MEM-BW/s", width: 8, rank: 7, rdt: true, text: func(b []byte, r *row) []byte { return appendBytes(b, r.value[valueBandwidth]) }},
	shareColumn("THROTTLED", 8, 0, valueThrottled),
	shareColumn("CPU-WAIT", 3, sortWait, valueCPUWait),
	{title: "MEM", width: 6, rank: 2, sort: sortMemory, text: func(b []byte, r *row) []byte { return appendBytes(b, r.memory()) }},
	{title: "MEM-LIMIT", width: 9, rank: 11, text: func(b []byte, r *row) []byte { return appendBytes(b, r.value[valueMemoryLimit]) }},
	shareColumn("MEM-WAIT", 5, sortWait, valueMemoryWait),
	shareColumn("IO-WAIT", 6, sortWait, valueIOWait),
	{title: "READ/s", width: 6, rank: 9, sort: sortIO, text: func(b []byte, r *row) []byte { return appendBytes(b, r.value[valueRead]) }},
	{title: "WRITE/s", width: 7, rank: 10, sort: sortIO, text: func(b []byte, r *row) []byte { return appendBytes(b, r.value[valueWrite]) }},
	{title: "FAULTS/s", width: 8, rank: 12, text: func(b []byte, r *row) []byte { return appendCount(b, r.faults()) }},
	{title: "PIDS", width: 5, rank: 13, text: func(b []byte, r *row) []byte { return appendCount(b, r.value[valuePIDs]) }},
}

// in says whether the column is shown of a frame.
func (c *column) in(f *frame) bool { return (!c.perf || f.perf) && (!c.rdt || f.rdt) }

func shareColumn(title string, rank int, sort sortKey, value int) column {
	return column{
		title: title, width: len(title), rank: rank, sort: sort,
		text:  func(b []byte, r *row) []byte { return appendShare(b, r.value[value]) },
		alarm: func(r *row) float64 { return r.value[value] },
	}
}

// sortKey is what rows are sorted by.
type sortKey int

const (
	sortNone sortKey = iota
	sortCPU
	sortMemory
	sortWait
	sortIO
	sortName
)

func (k sortKey) String() string {
	return [...]string{"none", "cpu", "memory", "pressure", "io", "name"}[k]
}

func (k sortKey) of(r *row) float64 {
	switch k {
	case sortCPU:
		return r.value[valueCPU]
	case sortMemory:
		return r.memory()
	case sortWait:
		return r.wait()
	case sortIO:
		return r.io()
	}
	return 0
}

// sortRows puts the greatest first and what is absent last; equal ones by name.
func sortRows(rows []row, key sortKey) {
	slices.SortStableFunc(rows, func(a, b row) int {
		x, y := key.of(&a), key.of(&b)
		// cmp takes NaN for less than any number.
		if c := cmp.Compare(y, x); c != 0 {
			return c
		}
		return strings.Compare(a.name, b.name)
	})
}

// appendText appends the frame as plain text: the platform, then a line for
// each task, by cpu. Sorts the rows.
func (f *frame) appendText(b []byte) []byte {
	sortRows(f.rows, sortCPU)
	b = f.time.AppendFormat(b, time.RFC3339)
	b = append(b, ' ')
	b = appendClean(b, cmp.Or(f.host, "-"))
	b = append(b, "  "...)
	b = f.appendCounts(b)
	b = append(b, "  "...)
	b = f.appendUse(b)
	b = append(b, '\n')
	if len(f.rows) == 0 {
		return b
	}
	width := len("NAME")
	for i := range f.rows {
		width = max(width, cleanWidth(f.rows[i].name))
	}
	width = min(width, maxNameText)
	for i := range columns {
		if !columns[i].in(f) {
			continue
		}
		b = appendSeparated(b, i)
		b = columns[i].appendCell(b, width, columns[i].title)
	}
	b = append(trimRight(b), '\n')
	var cell []byte
	for i := range f.rows {
		for j := range columns {
			if !columns[j].in(f) {
				continue
			}
			b = appendSeparated(b, j)
			cell = columns[j].text(cell[:0], &f.rows[i])
			b = columns[j].appendCell(b, width, string(cell))
		}
		b = append(trimRight(b), '\n')
	}
	return b
}

// maxNameText is the width of names in text, where no terminal sets one.
const maxNameText = 64

func appendSeparated(b []byte, i int) []byte {
	if i > 0 {
		b = append(b, ' ')
	}
	return b
}

func trimRight(b []byte) []byte {
	for len(b) > 0 && b[len(b)-1] == ' ' {
		b = b[:len(b)-1]
	}
	return b
}

// appendCell appends text in the width of the column. Too long a text is cut at
// its end, a path at its beginning.
func (c *column) appendCell(b []byte, name int, text string) []byte {
	width := c.width
	if width == 0 {
		width = name
	}
	w := textWidth(text)
	if w > width && c.left {
		if text[0] == '/' && width > 1 {
			// It says how much to take away; a wide character may go in whole.
			text = ansi.TruncateLeft(text, w-width+1, "…")
		} else {
			text = ansi.Truncate(text, width, "…")
		}
		w = textWidth(text)
	}
	pad := max(0, width-w)
	if c.left {
		return appendSpaces(append(b, text...), pad)
	}
	return append(appendSpaces(b, pad), text...)
}

func appendSpaces(b []byte, n int) []byte {
	for range n {
		b = append(b, ' ')
	}
	return b
}

// appendCounts appends "12 tasks  tick 3.2ms".
func (f *frame) appendCounts(b []byte) []byte {
	b = strconv.AppendInt(b, int64(len(f.rows)), 10)
	if len(f.rows) == 1 {
		b = append(b, " task  tick "...)
	} else {
		b = append(b, " tasks  tick "...)
	}
	return append(b, shorten(f.took).String()...)
}

// shorten rounds to three digits.
func shorten(d time.Duration) time.Duration {
	for unit := time.Duration(1); ; unit *= 10 {
		if d < 1000*unit {
			return d.Round(unit)
		}
	}
}

// appendUse appends "cpu 1.23 of 2  memory 3.2G of 7.8G  waiting: cpu 12% memory 0.0% io 0.3%".
func (f *frame) appendUse(b []byte) []byte {
	b = append(b, "cpu "...)
	b = appendCores(b, f.value[hostCPU])
	b = append(b, " of "...)
	if f.cpus > 0 {
		b = strconv.AppendInt(b, int64(f.cpus), 10)
	} else {
		b = append(b, '-')
	}
	b = append(b, "  memory "...)
	b = appendBytes(b, f.memoryUsed())
	b = append(b, " of "...)
	b = appendBytes(b, f.value[hostMemoryTotal])
	b = append(b, "  waiting: cpu "...)
	b = appendShare(b, f.value[hostCPUWait])
	b = append(b, " memory "...)
	b = appendShare(b, f.value[hostMemoryWait])
	b = append(b, " io "...)
	return appendShare(b, f.value[hostIOWait])
}

// The formats of numbers; "-" is absent, which is not zero.

// appendCores: "0.02", "12.34", "123.4", "1234".
func appendCores(b []byte, v float64) []byte {
	switch {
	case math.IsNaN(v):
		return append(b, '-')
	case v < 99.995:
		return strconv.AppendFloat(b, v, 'f', 2, 64)
	case v < 999.95:
		return strconv.AppendFloat(b, v, 'f', 1, 64)
	}
	return strconv.AppendFloat(b, v, 'f', 0, 64)
}

// appendShare: "0.0%", "12.3%", "100%".
func appendShare(b []byte, v float64) []byte {
	v *= 100
	switch {
	case math.IsNaN(v):
		return append(b, '-')
	case v < 99.95:
		b = strconv.AppendFloat(b, v, 'f', 1, 64)
	default:
		b = strconv.AppendFloat(b, v, 'f', 0, 64)
	}
	return append(b, '%')
}

// appendBytes: "0", "512", "1.5K", "37M", "1023G"; +Inf is a limit that is not set.
func appendBytes(b []byte, v float64) []byte {
	if math.IsInf(v, 1) {
		return append(b, "none"...)
	}
	return appendScaled(b, v, 1024, "KMGTPE")
}

// appendCount: "0.5", "17", "1.5k", "37M".
func appendCount(b []byte, v float64) []byte {
	if math.IsInf(v, 1) {
		return append(b, "none"...)
	}
	return appendScaled(b, v, 1000, "kMGTPE")
}

func appendScaled(b []byte, v, base float64, units string) []byte {
	if math.IsNaN(v) {
		return append(b, '-')
	}
	unit := -1
	for v >= base-0.5 && unit+1 < len(units) {
		v /= base
		unit++
	}
	digits := 0
	if v < 9.95 && v != math.Trunc(v) || v < 9.95 && unit >= 0 {
		digits = 1
	}
	b = strconv.AppendFloat(b, v, 'f', digits, 64)
	if unit >= 0 {
		b = append(b, units[unit])
	}
	return b
}

// maxClean bounds what is looked at of a text that can be of any length.
const maxClean = 512

// appendClean appends anybody's text so that it can do nothing to a terminal
// and is always one line: what does not print (escape sequences, newlines,
// changes of the writing direction, invisible characters) becomes what Go
// writes for it in a string, "\x1b", "\n", "\u202e".
func appendClean(b []byte, s string) []byte {
	s = s[:min(len(s), maxClean)]
	for i := 0; i < len(s); {
		r, size := rune(s[i]), 1
		if r >= utf8.RuneSelf {
			r, size = utf8.DecodeRuneInString(s[i:])
		}
		switch {
		case r == utf8.RuneError && size == 1:
			const hex = "0123456789abcdef"
			b = append(b, '\\', 'x', hex[s[i]>>4], hex[s[i]&15])
		case unicode.IsPrint(r):
			b = append(b, s[i:i+size]...)
		default:
			quoted := strconv.QuoteRune(r)
			b = append(b, quoted[1:len(quoted)-1]...)
		}
		i += size
	}
	return b
}

// cleanWidth is the width of a text after appendClean.
func cleanWidth(s string) int {
	if s = s[:min(len(s), maxClean)]; isPlain(s) {
		return len(s)
	}
	return ansi.StringWidth(string(appendClean(nil, s)))
}

// textWidth is the width of a clean text; most are ASCII, for which that is
// known at once.
func textWidth(s string) int {
	if isPlain(s) {
		return len(s)
	}
	return ansi.StringWidth(s)
}

func isPlain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
