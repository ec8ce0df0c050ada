package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/hosttest"
	"github.com/owca-project/owca/internal/perf"
)

func TestFailedEvent(t *testing.T) {
	for _, c := range []struct {
		v    perf.Verdict
		want outcome
	}{
		{perf.Verdict{Outcome: perf.StayedZero}, notSupported},
		{perf.Verdict{Outcome: perf.NotSupported, Err: errors.ErrUnsupported}, notSupported},
		{perf.Verdict{Outcome: perf.NeverRan, Err: errors.New("busy")}, couldNotTell},
		{perf.Verdict{Outcome: perf.CouldNotTell, Err: unix.EACCES}, couldNotTell},
	} {
		f := failedEvent("row", "cycles", c.v)
		if len(f) != 1 || f[0].Outcome != c.want || f[0].Detail == "" || f[0].Name != "row" {
			t.Errorf("%+v: %+v, want %s", c.v, f, c.want)
		}
	}
}

func TestRoomText(t *testing.T) {
	for _, c := range []struct {
		rooms []perf.Room
		want  string
	}{
		{nil, ""},
		{[]perf.Room{{Fit: 7, Free: 7}}, "; a group holds up to 7 hardware events"},
		{[]perf.Room{{CPUs: []int{0, 1, 2}, Fit: 9, Free: 8}, {CPUs: []int{4}, Fit: 7, Free: 7}},
			"; a group holds up to 9 hardware events on cpus 0-2, of which others leave counters for 8 just now; a group holds up to 7 hardware events on cpus 4"},
	} {
		if got := roomText(c.rooms); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// TestCheckBackends: root can count tasks wherever there is a hierarchy for it,
// and nothing stays open.
func TestCheckBackends(t *testing.T) {
	hosttest.Need(t, "root")
	before := descriptors(t)
	list := newChecker("/").perfBackends()
	if after := descriptors(t); len(after) > len(before) {
		t.Errorf("open before: %s\nafter: %s", before, after)
	}
	if len(list) != len(perf.Backends) {
		t.Fatalf("%+v", list)
	}
	hierarchy := slices.ContainsFunc(hosttest.Hierarchies(), func(h hosttest.Hierarchy) bool {
		return h.Type == "cgroup2" || slices.Contains(h.Controllers, "perf_event")
	})
	for i, f := range list {
		if f.Name != "perf_backend "+string(perf.Backends[i]) || f.Detail == "" {
			t.Errorf("%+v", f)
		}
		if perf.Backends[i] == perf.Descriptors && hierarchy != (f.Outcome == yes) {
			t.Errorf("%+v, with a hierarchy: %v", f, hierarchy)
		}
	}
	t.Run("bpf", func(t *testing.T) {
		hosttest.Need(t, "bpf")
		if f := list[slices.Index(perf.Backends, perf.BPF)]; hierarchy && f.Outcome != yes {
			t.Errorf("%+v", f)
		}
	})
	// Below a root without /proc and cgroups nothing is known.
	for _, f := range newChecker(t.TempDir()).perfBackends() {
		if f.Outcome == yes {
			t.Errorf("on an empty host: %+v", f)
		}
	}
}

// descriptors are what is open of events, programs and maps.
func descriptors(t *testing.T) []string {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, name := range names {
		link, err := os.Readlink("/proc/self/fd/" + name.Name())
		if err == nil && (strings.Contains(link, "perf_event") || strings.Contains(link, "bpf")) {
			list = append(list, fmt.Sprintf("%s: %s", name.Name(), link))
		}
	}
	return list
}
