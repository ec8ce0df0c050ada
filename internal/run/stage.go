package run

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"
)

// The stages of a tick that can fail on their own.
const (
	stageDiscover = iota
	stageMeasure
	stageDetect
	stageDecide
	stageAct
	stageStore
	stageSelf
	numStages
)

var stageNames = [numStages]string{"discover", "measure", "detect", "decide", "act", "store", "self"}

type stage struct {
	took   time.Duration
	errors uint64
	err    error // of the last tick

	failing bool
	lastAt  time.Time // of the last error
	logged  string    // the error that was logged last
	logAt   time.Time // and when
}

func (s *stage) timed(start time.Time) { s.took = time.Since(start) }

// quiet is how long a stage must go without an error to count as recovered, so
// that one that fails every other tick does not fill the log.
const quiet = time.Minute

// report counts an error and logs when the stage begins or ceases to fail.
func (l *Loop) report(which int, err error) {
	s := &l.stages[which]
	s.err = err
	component := stageNames[which]
	if which == stageSelf {
		component = "run"
	}
	now := time.Now()
	switch {
	case err != nil:
		s.errors++
		// Another problem is told, too, though not if they come in turns.
		if text := err.Error(); !s.failing || text != s.logged && now.Sub(s.logAt) >= quiet {
			slog.Error("a stage fails; the agent goes on", "component", component, "error", err)
			s.logged, s.logAt = text, now
		}
		s.failing, s.lastAt = true, now
	case s.failing && now.Sub(s.lastAt) >= quiet:
		s.failing = false
		slog.Info("a stage works again", "component", component)
	}
}

// protect turns a panic of a component into an error: a tick never dies.
func protect(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return f()
}
