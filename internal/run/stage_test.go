package run

import (
	"strconv"
	"testing"
	"time"
)

// TestProblemsAreTold: another problem is told at once, and neither of two that come in turns
// again and again, nor all of those that are always others.
func TestProblemsAreTold(t *testing.T) {
	var s stage
	now := time.Now()
	tell := func(after time.Duration, text string, want bool) {
		t.Helper()
		now = now.Add(after)
		if got := s.isNew(text, now); got != want {
			t.Errorf("%q is new: %v, want %v", text, got, want)
		}
	}
	tell(0, "a", true)
	tell(time.Second, "b", true)
	for range 200 {
		tell(time.Second, "a", false)
		tell(time.Second, "b", false)
	}
	tell(2*quiet, "a", false) // as seldom as the stage runs
	tell(time.Second, "b", true)
	told := 0
	for i := range 600 { // ten minutes
		now = now.Add(time.Second)
		if s.isNew("thread "+strconv.Itoa(i), now) {
			told++
		}
	}
	if told < 9*maxProblems || told > 11*maxProblems {
		t.Errorf("%d of those that are always others are told in ten minutes", told)
	}
	if len(s.told) > 2*maxProblems {
		t.Errorf("%d are remembered", len(s.told))
	}
}
