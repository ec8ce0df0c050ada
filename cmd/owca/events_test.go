package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/hosttest"
	"github.com/owca-project/owca/internal/perf"
)

func TestMatchEvent(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		glob, want    bool
	}{
		{"*", "cycles", true, true},
		{"*", "cpu/cache-misses/", true, true},
		{"cpu/*", "cpu/cache-misses/", true, true},
		{"*misses*", "cpu/cache-misses/", true, true},
		{"LLC-*", "dTLB-loads", true, false},
		{"[cd]*", "dTLB-loads", true, true},
		{"c?cles", "cycles", true, true},
		{"sched:*", "sched:sched_switch", true, true},
		{"cycles", "cycles", false, true},
		{"cpu/event=0xa3,param=?/", "", false, false},
		{"{cycles,instructions}:u", "", false, false},
		{"stalls__r14a314", "", false, false},
	} {
		if got := isGlob(c.pattern); got != c.glob {
			t.Errorf("%s is a glob: %v", c.pattern, got)
		}
		if got, err := matchEvent(c.pattern, c.name); got != c.want || err != nil {
			t.Errorf("%s matches %s: %v, %v", c.pattern, c.name, got, err)
		}
	}
	if _, err := matchEvent("[", "x"); err == nil {
		t.Error("[ is a pattern")
	}
}

// eventRows are one of each kind of verdict.
func eventRows() []eventRow {
	row := func(name, kind string, o perf.Outcome, err error, encodings ...perf.Encoding) eventRow {
		r := eventRow{Listed: perf.Listed{Name: name, Kind: kind, PMU: kind, Description: "about " + name}, verdict: perf.Verdict{Outcome: o, Err: err}}
		if encodings != nil {
			r.Event = &perf.Event{Name: name, Alias: name, PMU: kind, Scale: 1, Encodings: encodings}
		}
		return r
	}
	raw := func(config uint64, cpus ...int) perf.Encoding {
		return perf.Encoding{CPUs: cpus, Attr: unix.PerfEventAttr{Type: unix.PERF_TYPE_RAW, Config: config}}
	}
	unsupported := fmt.Errorf("no PMU: %w", errors.ErrUnsupported)
	rows := []eventRow{
		row("cycles", "hardware", perf.Counts, nil, raw(0x11)),
		row("hybrid", "hardware", perf.StayedZero, nil, raw(1, 0, 1, 2), raw(2, 3)),
		row("mine", "hardware", perf.Counts, nil, raw(0x12)),
		row("full", "hardware", perf.NeverRan, errors.New("others have them all"), raw(0x13)),
		row("denied", "hardware", perf.CouldNotTell, fmt.Errorf("denied: open: %w", unix.EACCES), raw(0x14)),
		row("denied2", "hardware", perf.CouldNotTell, fmt.Errorf("denied2: open: %w", unix.EPERM), raw(0x15)),
		row("broken\x1b[31m", "hardware", perf.CouldNotTell, errors.New("EIO\x1b[0m"), raw(0x16)),
		row("absent1", "cache", perf.NotSupported, unsupported),
		row("absent2", "cache", perf.NotSupported, unsupported),
		row("named", "", perf.NotSupported, unsupported),
		row("sched:x", tracepointKind, "", nil, raw(0x17)),
		row("rare", "software", perf.StayedZero, nil, raw(0x18)),
	}
	rows[2].verdict.UserOnly = true
	rows[9].named = true
	rows[0].verdict.Value, rows[0].verdict.Enabled, rows[0].verdict.Running = 1<<63, 2, 1
	return rows
}

func TestEventsTable(t *testing.T) {
	want := `
EVENT            KIND        ENCODING                                                    COUNTS           DESCRIPTION
cycles           hardware    type 4 config 0x11                                          yes              about cycles
hybrid           hardware    type 4 config 0x1 cpus 0-2; type 4 config 0x2 cpus 3        stayed 0         about hybrid
mine             hardware    type 4 config 0x12                                          yes, user mode   about mine
full             hardware    type 4 config 0x13                                          no free counter  about full
denied           hardware    type 4 config 0x14                                          no permission    about denied
denied2          hardware    type 4 config 0x15                                          no permission    about denied2
broken\x1b[31m   hardware    type 4 config 0x16                                          could not tell   about broken\x1b[31m
named            -           -                                                           not supported    about named
sched:x          tracepoint  type 4 config 0x17                                          -                about sched:x
rare             software    type 4 config 0x18                                          stayed 0         about rare

hybrid: stayed 0: it can be opened, but counted nothing: it is rare, or this CPU or hypervisor does not count it
full: no free counter: others have them all
denied: no permission: open: permission denied
denied2: no permission: open: operation not permitted
broken\x1b[31m: could not tell: EIO\x1b[0m
named: not supported: no PMU: unsupported operation

2 not supported here: absent1, absent2; --all lists them
`
	got := "\n" + string(appendEvents(nil, eventRows(), false))
	// The width of the widest cell is not what this is about.
	squeeze := func(s string) string {
		var lines []string
		for line := range strings.SplitSeq(s, "\n") {
			lines = append(lines, strings.Join(strings.FieldsFunc(line, func(r rune) bool { return r == ' ' }), " "))
		}
		return strings.Join(lines, "\n")
	}
	if d := cmp.Diff(squeeze(want), squeeze(got)); d != "" {
		t.Error(d)
	}
	lines := strings.Split(strings.TrimPrefix(got, "\n"), "\n")[:11]
	column := strings.Index(lines[0], "COUNTS")
	for _, line := range lines {
		if len(line) <= column || line[column-1] != ' ' || line[column] == ' ' {
			t.Errorf("COUNTS is not in column %d: %q", column, line)
		}
	}
	all := string(appendEvents(nil, eventRows(), true))
	if strings.Contains(all, "--all") || !strings.Contains(all, "\nabsent1, absent2, named: not supported: no PMU") {
		t.Error(all)
	}
}

func TestEventsNames(t *testing.T) {
	var rows []*eventRow
	for i := range 9 {
		rows = append(rows, &eventRow{Listed: perf.Listed{Name: fmt.Sprint("e", i)}})
	}
	for _, c := range []struct {
		n    int
		want string
	}{
		{1, "e0"}, {2, "e0, e1"}, {7, "e0, e1, e2, e3, e4, e5, e6"}, {8, "e0, e1, e2, e3, e4, e5, and 2 more"}, {9, "e0, e1, e2, e3, e4, e5, and 3 more"},
	} {
		if got := string(appendNames(nil, rows[:c.n])); got != c.want {
			t.Errorf("%d: %s, want %s", c.n, got, c.want)
		}
	}
}

// TestEventsJSON: the keys, and that 64 bits survive.
func TestEventsJSON(t *testing.T) {
	text, err := eventsJSON(eventRows(), []finding{{"perf", "x", yes, "", ""}})
	if err != nil {
		t.Fatal(err)
	}
	var document map[string][]map[string]any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&document); err != nil {
		t.Fatal(err)
	}
	if len(document) != 2 || len(document["events"]) != len(eventRows()) || len(document["host"]) != 1 {
		t.Fatalf("%s", text)
	}
	want := map[string]any{
		"name": "cycles", "alias": "cycles", "kind": "hardware", "pmu": "hardware", "unit": "", "scale": json.Number("1"), "description": "about cycles",
		"encodings": []any{map[string]any{
			"cpus": nil, "type": json.Number("4"), "config": "0x11", "config1": "0x0", "config2": "0x0",
			"exclude_user": false, "exclude_kernel": false, "exclude_hv": false, "exclude_host": false, "exclude_guest": false,
		}},
		"counts": "yes", "user_mode_only": false, "reason": "",
		"value": json.Number("9223372036854775808"), "enabled_ns": json.Number("2"), "running_ns": json.Number("1"),
	}
	if d := cmp.Diff(want, document["events"][0]); d != "" {
		t.Error(d)
	}
	for _, e := range document["events"] {
		if len(e) != len(want) {
			t.Errorf("keys of %v", e)
		}
	}
	if empty, err := eventsJSON(nil, nil); err != nil || !strings.Contains(string(empty), `"events": []`) {
		t.Errorf("%s, %v", empty, err)
	}
}

// TestEventsFixture: a PMU whose type is that of software really counts, and
// what is odd about others neither hides that nor reaches the terminal.
func TestEventsFixture(t *testing.T) {
	hosttest.Need(t, "root") // others may count in user mode only
	const pmu = "sys/bus/event_source/devices/"
	host := testHost(t, map[string]string{
		"sys/devices/system/cpu/online":       "0\n",
		"proc/sys/kernel/perf_event_paranoid": "2\n",
		"proc/cpuinfo":                        "processor\t: 0\nvendor_id\t: Made\x1b[31m up\ncpu family\t: 1\nmodel\t: 1\n",
		pmu + "fake/type":                     "1\n",
		pmu + "fake/format/number":            "config:0-63\n",
		pmu + "fake/events/clock":             "number=0x1\n",
		pmu + "fake/events/dummy":             "number=0x9\n",
		pmu + "fake/events/refused":           "number=0xffffffff\n",
		pmu + "fake/events/unknown-term":      "frequency=0x1\n",
		pmu + "fake/events/too-big":           "number=0x1ffffffffffffffff\n",
		pmu + "fake/events/garbage":           "\x00\xff\x1b]0;title\x07=\n",
		pmu + "fake/events/empty":             "",
		pmu + "fake/events/evil\x1b[31m\n":    "number=0x1\n",
		pmu + "uncore_imc/type":               "24\n",
		pmu + "uncore_imc/cpumask":            "0\n",
		pmu + "uncore_imc/format/event":       "config:0-7\n",
		pmu + "uncore_imc/events/cas_count":   "event=0x4\n",
	})
	run := func(c *eventsCommand) (string, error) {
		var out, stderr bytes.Buffer
		c.HostRoot = host.root
		err := c.Run(stdio{out: &out, err: &stderr})
		for i, r := range out.Bytes() {
			if r < ' ' && r != '\n' || r == 0x7f {
				t.Errorf("byte %#x in the output: %q", r, out.Bytes()[max(0, i-40):i+1])
				break
			}
		}
		if stderr.Len() > 0 {
			t.Errorf("on stderr: %s", &stderr)
		}
		return out.String(), err
	}
	text, err := run(&eventsCommand{All: true})
	if err != nil {
		t.Fatal(err)
	}
	for name, counts := range map[string]string{
		"task-clock": "yes", "fake/clock/": "yes", "fake/dummy/": "stayed 0", "fake/refused/": "not supported",
		"fake/unknown-term/": "could not tell", "fake/too-big/": "could not tell", "fake/garbage/": "could not tell", "uncore_imc/cas_count/": "not supported",
	} {
		i := strings.Index(text, "\n"+name+" ")
		if i < 0 {
			t.Errorf("no row for %s:\n%s", name, text)
			continue
		}
		if line, _, _ := strings.Cut(text[i+1:], "\n"); !strings.Contains(line, "  "+counts+" ") && !strings.HasSuffix(line, "  "+counts) {
			t.Errorf("%q, want %s", line, counts)
		}
	}

	// No tracefs is mounted below this root.
	var out, stderr bytes.Buffer
	if err := (&eventsCommand{Tracepoints: true, NoProbe: true, HostRoot: host.root}).Run(stdio{out: &out, err: &stderr}); err != nil {
		t.Error(err)
	}
	if !strings.Contains(stderr.String(), "tracefs") || !strings.Contains(out.String(), "\ntask-clock ") {
		t.Errorf("%s\n%s", &stderr, &out)
	}

	text, err = run(&eventsCommand{Patterns: []string{"fake/number=1/", "fake/clock/", "fake/cl*"}, JSON: true})
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Events []struct{ Name, Counts, PMU string }
	}
	if err := json.Unmarshal([]byte(text), &document); err != nil {
		t.Fatal(err)
	}
	if len(document.Events) != 2 {
		t.Fatalf("%+v, want each event once", document.Events)
	}
	for _, e := range document.Events {
		if e.Counts != "yes" || e.PMU != "fake" {
			t.Errorf("%+v", e)
		}
	}

	for _, c := range []struct {
		pattern, want string
	}{
		{"fake/clokc/", "clock"},
		{"fake/number=0x1ffffffffffffffff/", "number"},
		{"task-clok", "task-clock"},
		{"{task-clock,page-falts}", "page-faults"},
		{"{task-clock", "brace"},
		{"nothing*", "no event of this host matches nothing*"},
		{"nothing:*", "tracefs"},
	} {
		if _, err := run(&eventsCommand{Patterns: []string{c.pattern}}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.pattern, err, c.want)
		}
	}
}

func TestEventsOutput(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	if err := (&eventsCommand{HostRoot: "/", NoProbe: true}).Run(stdio{out: full}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("into a full disk: %v", err)
	}
	var usage *exitError
	if err := (&eventsCommand{HostRoot: "/does/not/exist"}).Run(stdio{}); !errors.As(err, &usage) || usage.code != exitUsage {
		t.Errorf("with a wrong root: %v", err)
	}
}

// TestEventsSameName: a code that the user gives the name of a known event is
// described as that only if it is the same.
func TestEventsSameName(t *testing.T) {
	const pmu = "sys/bus/event_source/devices/cpu/"
	host := testHost(t, map[string]string{
		"sys/devices/system/cpu/online":       "0\n",
		"proc/sys/kernel/perf_event_paranoid": "2\n",
		"proc/cpuinfo":                        "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\n",
		pmu + "type":                          "4\n",
		pmu + "format/event":                  "config:0-7\n",
	})
	var out bytes.Buffer
	c := &eventsCommand{Patterns: []string{"stalls_mem_load", "stalls_mem_load__rA31414", "stalls_mem_load__r14A3", "stalls_mem_load__rA31415"}, NoProbe: true, JSON: true, HostRoot: host.root}
	if err := c.Run(stdio{out: &out, err: &out}); err != nil {
		t.Fatal(err)
	}
	var document struct {
		Events []struct{ Name, Kind, Description string }
	}
	if err := json.Unmarshal(out.Bytes(), &document); err != nil {
		t.Fatalf("%v: %s", err, &out)
	}
	for i, original := range []bool{true, true, false, false} {
		if e := document.Events[i]; (e.Kind == "original") != original || (e.Description != "") != original {
			t.Errorf("%+v, original %v", e, original)
		}
	}
}

// TestEventsStarved: all in a group count alone, so that its row is the only
// one that tells.
func TestEventsStarved(t *testing.T) {
	text := string(appendFindings(nil, starvedGroups([]error{errors.New("{cycles,r8} fits, but is not counted")})))
	if !strings.Contains(text, "group") || !strings.Contains(text, "could not tell") || !strings.Contains(text, "{cycles,r8} fits, but is not counted") {
		t.Error(text)
	}
	if list := starvedGroups(nil); len(list) != 0 {
		t.Error(list)
	}
}
