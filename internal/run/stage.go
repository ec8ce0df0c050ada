package run

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
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
	told    []problem // that were logged, and are not long gone
}

// problem is an error of a stage that was logged.
type problem struct {
	text         string
	told, lastAt time.Time
}

func (s *stage) timed(start time.Time) { s.took = time.Since(start) }

// quiet is how long a stage must go without an error to count as recovered, so
// that one that fails every other tick does not fill the log.
const quiet = time.Minute

// maxProblems is how many problems of a stage are told in the time of quiet: an error with a
// text that is always another one does not fill the log either.
const maxProblems = 4

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
		if s.isNew(err.Error(), now) {
			slog.Error("a stage fails; the agent goes on", "component", component, "error", err)
		}
		s.failing, s.lastAt = true, now
	case s.failing && now.Sub(s.lastAt) >= quiet:
		s.failing, s.told = false, nil
		slog.Info("a stage works again", "component", component)
	}
}

// isNew says whether a problem has to be told: one that was not seen for long, also beside
// another one, but not each time if they come in turns.
func (s *stage) isNew(text string, now time.Time) bool {
	i := slices.IndexFunc(s.told, func(p problem) bool { return p.text == text })
	if i >= 0 {
		s.told[i].lastAt = now
	}
	s.told = slices.DeleteFunc(s.told, func(p problem) bool { return now.Sub(p.lastAt) >= quiet })
	if i >= 0 {
		return false
	}
	recent := 0
	for _, p := range s.told {
		if now.Sub(p.told) < quiet {
			recent++
		}
	}
	if recent >= maxProblems {
		return false
	}
	s.told = append(s.told, problem{text, now, now})
	return true
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
