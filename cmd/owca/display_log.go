package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// tableLog is where log lines go while there may be a table on the terminal.
type tableLog struct {
	w        io.Writer
	terminal bool   // w is one
	changed  func() // called after each write while diverted

	mu       sync.Mutex
	diverted bool
	lines    []string // while diverted, the newest maxTableLog
	lost     int      // older ones
}

const maxTableLog = 200

// Write takes one or more whole lines, as slog's handlers write them.
func (l *tableLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.diverted {
		return l.w.Write(p)
	}
	for line := range strings.Lines(string(p)) {
		if len(l.lines) == maxTableLog {
			l.lost++
			copy(l.lines, l.lines[1:])
			l.lines = l.lines[:maxTableLog-1]
		}
		l.lines = append(l.lines, line)
	}
	l.changed()
	if l.terminal {
		return len(p), nil
	}
	return l.w.Write(p)
}

// divert begins to keep lines for the table.
func (l *tableLog) divert() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.diverted = true
}

// restore ends it, and writes to the terminal what was kept from it. A line
// that cannot be written is lost, as with any log.
func (l *tableLog) restore() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.diverted && l.terminal {
		if l.lost > 0 {
			_, _ = fmt.Fprintf(l.w, "(%d older log lines are lost)\n", l.lost)
		}
		for _, line := range l.lines {
			_, _ = io.WriteString(l.w, line)
		}
	}
	l.diverted, l.lines, l.lost = false, nil, 0
}

// last appends the newest n lines.
func (l *tableLog) last(list []string, n int) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append(list, l.lines[max(0, len(l.lines)-n):]...)
}

// shortLog is a line of slog's text handler with only the time of day:
//
//	time=2026-01-02T15:04:05.123+01:00 level=WARN msg="…" → 15:04:05 level=WARN msg="…"
func shortLog(line string) string {
	line = strings.TrimSuffix(line, "\n")
	stamp, rest, ok := strings.Cut(strings.TrimPrefix(line, "time="), " ")
	if t, err := time.Parse(time.RFC3339, stamp); ok && err == nil {
		return t.Format(time.TimeOnly) + " " + rest
	}
	return line
}
