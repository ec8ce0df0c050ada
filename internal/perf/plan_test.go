package perf

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/hosttest"
)

// planWith makes a plan of events made by hand, on the CPUs of this host.
func planWith(t *testing.T, events []*Event, requests ...Request) (*Plan, error) {
	t.Helper()
	cpus, err := FS{}.onlineCPUs()
	if err != nil {
		t.Fatal(err)
	}
	p := planner{plan: &Plan{}, cpus: cpus, resolve: func(name string) (*Event, error) {
		for _, e := range events {
			if e.Name == name {
				return e, nil
			}
		}
		if strings.HasPrefix(name, "absent") {
			return nil, fmt.Errorf("no such thing here: %w", errors.ErrUnsupported)
		}
		return nil, &UnknownError{Name: name, Reason: "no such event"}
	}}
	return p.make(requests)
}

func one(name string) Request         { return Request{Events: []string{name}} }
func group(names ...string) Request   { return Request{Events: names, Group: true} }
func rawEvent(n uint64) *Event        { return typedEvent(fmt.Sprintf("raw_%x", n), unix.PERF_TYPE_RAW, n) }
func hardware(s string, n int) *Event { return typedEvent(s, unix.PERF_TYPE_HARDWARE, uint64(n)) }

func typedEvent(name string, kind uint32, config uint64) *Event {
	e := softwareEvent(name, config)
	e.PMU, e.Encodings[0].Attr.Type = "hardware", kind
	return e
}

// layout prints the groups of a plan.
func layout(p *Plan) string {
	var s []string
	for _, g := range p.Groups {
		s = append(s, "{"+names(g)+"}")
	}
	return strings.Join(s, " ")
}

func softwareOfHost() []*Event {
	return append(softwarePlan().Events(),
		softwareEvent("minor-faults", unix.PERF_COUNT_SW_PAGE_FAULTS_MIN),
		softwareEvent("beyond", 1<<20), // no software event has this number
	)
}

func TestPlan(t *testing.T) {
	hosttest.Need(t, "root")
	before := filesOpen(t)
	for _, tt := range []struct {
		requests []Request
		groups   string
		omitted  string
	}{
		{nil, "", ""},
		{[]Request{one("task-clock"), one("page-faults")}, "{task-clock,page-faults}", ""},
		{[]Request{one("task-clock"), one("task-clock")}, "{task-clock}", ""},
		{[]Request{one("page-faults"), group("task-clock", "page-faults"), one("minor-faults")}, "{task-clock,page-faults} {minor-faults}", ""},
		{[]Request{group("task-clock", "page-faults"), group("minor-faults")}, "{task-clock,page-faults} {minor-faults}", ""},
		{[]Request{group("task-clock", "absent", "task-clock"), one("beyond")}, "{task-clock}", "absent beyond"},
		{[]Request{group("absent"), one("absent")}, "", "absent"},
	} {
		p, err := planWith(t, softwareOfHost(), tt.requests...)
		if err != nil {
			t.Errorf("%v: %v", tt.requests, err)
			continue
		}
		var omitted []string
		for _, o := range p.Omitted {
			if omitted = append(omitted, o.Name); !errors.Is(o.Err, errors.ErrUnsupported) || errors.Is(o.Err, fs.ErrNotExist) {
				t.Errorf("%s is omitted because of %v", o.Name, o.Err)
			}
		}
		if layout(p) != tt.groups || strings.Join(omitted, " ") != tt.omitted {
			t.Errorf("%v: groups %s, omitted %s; want %s, %s", tt.requests, layout(p), omitted, tt.groups, tt.omitted)
		}
	}
	if after := filesOpen(t); after != before {
		t.Errorf("%d files open, before %d", after, before)
	}
}

func TestPlanRefuses(t *testing.T) {
	same := softwareEvent("faults", unix.PERF_COUNT_SW_PAGE_FAULTS)
	same.Alias = "page_faults"
	_, err := planWith(t, append(softwareOfHost(), same), one("page-faults"), one("faults"), one("typo"), one("oops"),
		group("task-clock", "minor-faults"), group("task-clock", "cpu-migrations"))
	var unknown *UnknownError
	if !errors.As(err, &unknown) || !errors.As(err, new(*RequestError)) {
		t.Errorf("%v is no RequestError with an UnknownError", err)
	}
	for _, want := range []string{
		"faults: it would be called page_faults, as page-faults is",
		"typo: no such event", "oops: no such event",
		"task-clock: in more than one group",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nwithout %q", err, want)
		}
	}
}

// TestPlanHardware packs the events of the original and whatever the PMU takes
// beside them.
func TestPlanHardware(t *testing.T) {
	hosttest.Need(t, "root", "pmu")
	instructions := hardware("instructions", unix.PERF_COUNT_HW_INSTRUCTIONS)
	cycles := hardware("cycles", unix.PERF_COUNT_HW_CPU_CYCLES)
	clock := softwareEvent("task-clock", unix.PERF_COUNT_SW_TASK_CLOCK)
	events := []*Event{clock, instructions, cycles}
	requests := []Request{one("task-clock"), one("instructions"), one("cycles")}
	p, err := planWith(t, events, requests...)
	if err != nil {
		t.Fatal(err)
	}
	want := "{cycles,instructions} {task-clock}"
	if len(p.Omitted) > 0 { // a PMU that counts cycles only
		want = "{cycles} {task-clock}"
	}
	if layout(p) != want {
		t.Errorf("groups %s, omitted %v, want %s", layout(p), p.Omitted, want)
	}

	// As many as no PMU counts at once: different ones, so that none is shared.
	var all []string
	for i := range 40 {
		e := typedEvent(fmt.Sprintf("cycles%d", i), unix.PERF_TYPE_HARDWARE, unix.PERF_COUNT_HW_INSTRUCTIONS)
		if len(p.Omitted) > 0 {
			e.Encodings[0].Attr.Config = unix.PERF_COUNT_HW_CPU_CYCLES
		}
		events, all = append(events, e), append(all, e.Name)
	}
	before := filesOpen(t)
	_, err = planWith(t, events, group(all...))
	if !errors.As(err, new(*RequestError)) {
		t.Errorf("a group of 40: %v is no RequestError", err)
	}
	if err == nil || !strings.Contains(err.Error(), "40 events, but this PMU counts ") || !strings.Contains(err.Error(), "split the group") {
		t.Fatalf("a group of 40: %v", err)
	}
	t.Log(err)
	var fit int
	_, counts, _ := strings.Cut(err.Error(), "this PMU counts ")
	if _, err := fmt.Sscanf(counts, "%d at once", &fit); err != nil || fit < 1 {
		t.Fatalf("%d fit, %v", fit, err)
	}
	if _, err := planWith(t, events, group(all[:fit]...)); err != nil {
		t.Errorf("%d are said to fit: %v", fit, err)
	}
	if _, err := planWith(t, events, group(all[:fit+1]...)); err == nil {
		t.Errorf("%d fit, too", fit+1)
	}

	requests = requests[:0]
	for _, name := range all {
		requests = append(requests, one(name))
	}
	p, err = planWith(t, events, requests...)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range p.Groups {
		if len(g) > fit {
			t.Errorf("a group of %d where %d fit", len(g), fit)
		}
	}
	if len(p.Events()) != len(all) || len(p.Groups) > (len(all)+fit-1)/fit {
		t.Errorf("%d events in groups %s", len(p.Events()), layout(p))
	}
	if after := filesOpen(t); after != before {
		t.Errorf("%d files open, before %d", after, before)
	}
}

// TestPlanWithoutPMU omits all hardware events, each with its reason.
func TestPlanWithoutPMU(t *testing.T) {
	hosttest.Need(t, "root", "no-pmu")
	p, err := planWith(t, append(softwareOfHost(), hardware("cycles", 0), hardware("instructions", 1), rawEvent(0x11)),
		one("cycles"), group("instructions", "raw_11"), one("page-faults"))
	if err != nil {
		t.Fatal(err)
	}
	if layout(p) != "{page-faults}" || len(p.Omitted) != 3 {
		t.Errorf("groups %s, omitted %v", layout(p), p.Omitted)
	}
	for _, o := range p.Omitted {
		if !errors.Is(o.Err, errors.ErrUnsupported) || !strings.Contains(o.Err.Error(), "no PMU of this host counts it") {
			t.Errorf("%s: %v", o.Name, o.Err)
		}
	}
}

// TestPlanBrokenHost: what the host does wrong costs the events that it is
// about, and is no error of whoever asked; what they did wrong is.
func TestPlanBrokenHost(t *testing.T) {
	hosttest.Need(t, "root")
	f := newHost(t, "skylake-sp")
	writeFile(t, f.path(devices+"/cpu/type"), "four\n")
	writeFile(t, f.path(devices+"/other/format/event"), "config:\n")
	p, err := f.Plan([]Request{one("page-faults"), one("cycles"), group("other/event=1/", "task-clock")})
	if err != nil {
		t.Fatal(err)
	}
	if got := layout(p); got != "{task-clock} {page-faults}" || len(p.Omitted) != 2 || p.Starved != nil {
		t.Errorf("%s, omitted %v, starved %v", got, p.Omitted, p.Starved)
	}
	for _, o := range p.Omitted {
		if !isFileError(o.Err) || !strings.Contains(o.Err.Error(), "sys/bus/event_source/devices/") {
			t.Errorf("%s: %v", o.Name, o.Err)
		}
	}
	for name, want := range map[string]string{
		"msr/evnt=1/": "no event or term", "cpu-clock:u": "leave", "cs,cs": "is not a name", "task_clock": "as task-clock is",
	} {
		if _, err := f.Plan([]Request{one("task-clock"), one(name)}); !errors.As(err, new(*RequestError)) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

// TestPlanLimit: that nothing more can be opened is no error of whoever asked.
func TestPlanLimit(t *testing.T) {
	hosttest.Need(t, "root")
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	low := limit
	low.Cur = 3 // what is open stays so
	e := softwareEvent("page-faults", unix.PERF_COUNT_SW_PAGE_FAULTS)
	p := planner{plan: &Plan{}, cpus: []int{0}, resolve: func(string) (*Event, error) {
		return e, unix.Setrlimit(unix.RLIMIT_NOFILE, &low)
	}}
	_, err := p.make([]Request{one(e.Name)})
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if !errors.As(err, new(*LimitError)) || errors.As(err, new(*RequestError)) {
		t.Errorf("%v", err)
	}
}

func TestOmission(t *testing.T) {
	for errno, omitted := range map[unix.Errno]bool{
		unix.ENOENT: true, unix.ENODEV: true, unix.EOPNOTSUPP: true, unix.EINVAL: true, unix.EBUSY: true,
		unix.EMFILE: false, unix.ENFILE: false, unix.ENOMEM: false, unix.EACCES: false, unix.EPERM: false,
	} {
		err := explain(errno, false)
		why := omission(err)
		if (why != nil) != omitted || omitted && !errors.Is(why, errno) {
			t.Errorf("%v: %v", err, why)
		}
		if unsupported := errors.Is(why, errors.ErrUnsupported); unsupported != (omitted && errno != unix.EBUSY) {
			t.Errorf("%v: unsupported %v", err, unsupported)
		}
	}
}

func TestKinds(t *testing.T) {
	all := softwareEvent("all", 0)
	big := &Event{Encodings: []Encoding{{CPUs: []int{0, 1}}}}
	both := &Event{Encodings: []Encoding{{CPUs: []int{0, 1}}, {CPUs: []int{2, 3}}}}
	for _, tt := range []struct {
		events []*Event
		want   []int
	}{
		{[]*Event{all}, []int{0}},
		{[]*Event{all, big}, []int{0, 2}},
		{[]*Event{both}, []int{0, 2, 5}},
	} {
		if got := kinds([]int{0, 1, 2, 3, 5}, tt.events); !slices.Equal(got, tt.want) {
			t.Errorf("kinds %v, want %v", got, tt.want)
		}
	}
}
