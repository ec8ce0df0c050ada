package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/perf"
)

type eventsCommand struct {
	Patterns    []string `arg:"" name:"pattern" optional:"" help:"Only these: glob patterns of names, or events in any syntax that event_names takes."`
	All         bool     `help:"Also those that this host does not support, with the reasons."`
	Tracepoints bool     `help:"Also the tracepoints, thousands on many hosts."`
	NoProbe     bool     `help:"Don't try whether events count; nothing is opened."`
	JSON        bool     `help:"Print a JSON object: \"events\" is an array of all that match, supported or not; \"host\" one as owca check has."`
	HostRoot    string   `default:"/" placeholder:"DIR" help:"Where the root of the host is mounted, as in a container (default: /)."`
}

// Help is what --help says beyond the flags.
func (*eventsCommand) Help() string {
	return `Each event is opened and counts a load of this process that makes nearly everything happen: COUNTS is what came of it.

  yes              it counts
  stayed 0         it can be opened, but counted nothing: it is rare, or this CPU or hypervisor does not count it
  no free counter  others hold all counters of the PMU
  not supported    this host does not have it
  no permission    this user may not; "yes, user mode": only what happens in user mode
  could not tell   something failed
  -                not tried: --no-probe, and tracepoints that are not named in full

An event that is written wrong or unknown, a pattern that matches none and a group that does not fit are errors, exit code 1.
A group that fits, but that others leave too few counters for just now, is told below the table.

Examples:
  owca events                             what this host offers
  owca events 'LLC-*' 'dTLB-*'            some of them
  owca events cycles stall__r0411 r0011   named events, raw ones, too
  owca events 'cpu/event=0xa3,umask=0x14,cmask=20/'
  owca events '{cycles,instructions,cache-misses}'
                                          does this group fit the counters?
  owca events 'sched:*'                   tracepoints
  owca events --json | jq -r '.events[] | select(.counts == "yes") | .name'`
}

// Run fails if a pattern is no event and matches none. What the host lacks is
// an answer, too.
func (c *eventsCommand) Run(io stdio) error {
	if info, err := os.Stat(c.HostRoot); err != nil || !info.IsDir() {
		return &exitError{exitUsage, fmt.Errorf("--host-root %s is not a directory", c.HostRoot)}
	}
	rows, starved, missing, err := c.find(perf.FS{Root: c.HostRoot})
	if err != nil {
		return err
	}
	if missing != nil {
		fmt.Fprintf(io.err, "owca: some events are missing: %v\n", missing)
	}
	if !c.NoProbe {
		probeEvents(perf.FS{Root: c.HostRoot}, rows, io.err)
	}
	host := newChecker(c.HostRoot)
	findings := host.perfParanoid()
	if !c.NoProbe {
		findings = append(findings, host.pmu()...)
		findings = append(findings, host.perfBackends()...)
	}
	findings = append(findings, starvedGroups(starved)...)
	for i := range findings {
		findings[i].Section = "perf"
	}
	var text []byte
	if c.JSON {
		text, err = eventsJSON(rows, findings)
		if err != nil {
			return err
		}
	} else {
		text = append(appendEvents(nil, rows, c.All), '\n')
		text = appendFindings(text, findings)
	}
	if _, err := io.out.Write(text); err != nil {
		return fmt.Errorf("writing the events: %w", err)
	}
	return nil
}

// eventRow is an event of the table.
type eventRow struct {
	perf.Listed
	named   bool // in full, not by a pattern
	verdict perf.Verdict
}

// counts is the column COUNTS.
func (r *eventRow) counts() string {
	switch {
	case r.verdict.Outcome == perf.CouldNotTell && (errors.Is(r.verdict.Err, unix.EACCES) || errors.Is(r.verdict.Err, unix.EPERM)):
		return "no permission"
	case r.verdict.Outcome == "":
		return "-"
	}
	return string(r.verdict.Outcome)
}

// reason is why it does not count, without the name of the event, so that equal
// ones are equal.
func (r *eventRow) reason() string {
	switch {
	case r.verdict.Outcome == perf.StayedZero:
		return "it can be opened, but counted nothing: it is rare, or this CPU or hypervisor does not count it"
	case r.verdict.Err == nil:
		return ""
	}
	return strings.TrimPrefix(r.verdict.Err.Error(), r.Name+": ")
}

// find returns the rows in the order of the patterns, the groups among them
// that nobody schedules now, and what is wrong with a part of the host that
// they may be in.
func (c *eventsCommand) find(fs perf.FS) (rows []eventRow, starved []error, missing, err error) {
	patterns := c.Patterns
	if len(patterns) == 0 {
		patterns = []string{"*"}
	}
	tracepoints := c.Tracepoints || slices.ContainsFunc(patterns, func(p string) bool { return isGlob(p) && strings.Contains(p, ":") })
	listed, missing := fs.Events(tracepoints)
	if len(listed) == 0 && missing != nil {
		return nil, nil, nil, missing
	}
	slices.SortStableFunc(listed, func(a, b perf.Listed) int {
		return cmp.Or(cmp.Compare(slices.Index(perf.Kinds, a.Kind), slices.Index(perf.Kinds, b.Kind)), strings.Compare(a.Name, b.Name))
	})
	var problems []error
	seen := map[string]bool{}
	add := func(r eventRow) {
		if !seen[r.Name] {
			seen[r.Name] = true
			if r.Err != nil {
				r.verdict = unresolved(r.Err)
			}
			rows = append(rows, r)
		}
	}
	for _, pattern := range patterns {
		if !isGlob(pattern) {
			events, hungry, err := c.named(fs, pattern, listed)
			problems = append(problems, err)
			starved = append(starved, hungry...)
			for _, l := range events {
				add(eventRow{Listed: l, named: true})
			}
			continue
		}
		matched := false
		for _, l := range listed {
			if l.Kind == tracepointKind && !c.Tracepoints && !strings.Contains(pattern, ":") {
				continue
			}
			ok, err := matchEvent(pattern, l.Name)
			if err != nil {
				return nil, nil, nil, &exitError{exitUsage, fmt.Errorf("pattern %s: %w", pattern, err)}
			}
			if ok {
				matched = true
				add(eventRow{Listed: l})
			}
		}
		if !matched {
			err := fmt.Errorf("no event of this host matches %s", pattern)
			if strings.Contains(pattern, ":") && missing != nil {
				err = fmt.Errorf("%w: %w", err, missing)
			}
			problems = append(problems, err)
		}
	}
	return rows, starved, missing, errors.Join(problems...)
}

// tracepointKind is that of Listed.
const tracepointKind = "tracepoint"

// isGlob: '[' is in no event, '*' in none but globs; '?' is in parameters of
// sysfs' events, inside slashes.
func isGlob(pattern string) bool {
	return strings.ContainsAny(pattern, "*[") || strings.Contains(pattern, "?") && !strings.Contains(pattern, "/")
}

// matchEvent is path.Match, where a star also stands for slashes.
func matchEvent(pattern, name string) (bool, error) {
	const slash = "\x1f"
	return path.Match(strings.ReplaceAll(pattern, "/", slash), strings.ReplaceAll(name, "/", slash))
}

// named resolves what is written out: one event, or a group, which must fit,
// but may be starved.
func (c *eventsCommand) named(fs perf.FS, text string, listed []perf.Listed) (list []perf.Listed, starved []error, err error) {
	requests, err := perf.ParseRequests([]string{text})
	if err != nil {
		return nil, nil, err
	}
	var problems []error
	for _, request := range requests {
		for _, name := range request.Events {
			event, err := fs.Resolve(name)
			if errors.As(err, new(*perf.RequestError)) {
				problems = append(problems, err)
				continue
			}
			l := perf.Listed{Name: name, Event: event, Err: err}
			i := slices.IndexFunc(listed, func(l perf.Listed) bool { return l.Name == name })
			if i < 0 && event != nil {
				i = slices.IndexFunc(listed, func(l perf.Listed) bool {
					return l.Event != nil && l.Event.Alias == event.Alias && l.PMU == event.PMU && sameEncodings(l.Event, event)
				})
			}
			switch {
			case i >= 0:
				l.Kind, l.PMU, l.Description = listed[i].Kind, listed[i].PMU, listed[i].Description
			case event != nil:
				l.Kind, l.PMU = "pmu", event.PMU
				if slices.Contains(perf.Kinds, event.PMU) {
					l.Kind = event.PMU
				}
			}
			list = append(list, l)
		}
		if request.Group && !c.NoProbe && problems == nil {
			// Without permission nothing is known of the group; the rows tell.
			plan, err := fs.Plan([]perf.Request{request})
			switch {
			case err == nil:
				starved = append(starved, plan.Starved...)
			case !errors.Is(err, os.ErrPermission):
				problems = append(problems, err)
			}
		}
	}
	return list, starved, errors.Join(problems...)
}

// starvedGroups are findings: each event of the group counts when tried alone,
// and whether the group will depends on others.
func starvedGroups(starved []error) []finding {
	var list []finding
	for _, err := range starved {
		list = append(list, one("group", couldNotTell, err.Error(), "")...)
	}
	return list
}

// sameEncodings: a raw event may have the alias of a named one and be another.
func sameEncodings(a, b *perf.Event) bool {
	return slices.EqualFunc(a.Encodings, b.Encodings, func(a, b perf.Encoding) bool {
		return a.Attr == b.Attr && slices.Equal(a.CPUs, b.CPUs)
	})
}

// unresolved is the verdict for what could not be encoded.
func unresolved(err error) perf.Verdict {
	if errors.Is(err, errors.ErrUnsupported) {
		return perf.Verdict{Outcome: perf.NotSupported, Err: err}
	}
	return perf.Verdict{Outcome: perf.CouldNotTell, Err: err}
}

// probeEvents tries the events. Whoever waits at a terminal sees how far it is.
func probeEvents(fs perf.FS, rows []eventRow, stderr io.Writer) {
	var try []*eventRow
	for i := range rows {
		// A tracepoint always counts; to try thousands would patch the kernel
		// thousands of times, and nothing that they trace would happen.
		if r := &rows[i]; r.Event != nil && (r.named || r.Kind != tracepointKind) {
			try = append(try, r)
		}
	}
	const chunk = 16
	start, shown := time.Now(), false
	for done := 0; done < len(try); {
		part := try[done:min(done+chunk, len(try))]
		events := make([]*perf.Event, len(part))
		for i, r := range part {
			events[i] = r.Event
		}
		for i, v := range fs.Probe(events) {
			part[i].verdict = v
		}
		done += len(part)
		if time.Since(start) > time.Second && isTerminal(stderr) {
			shown = true
			fmt.Fprintf(stderr, "\rtried %d of %d events", done, len(try))
		}
	}
	if shown {
		fmt.Fprint(stderr, "\r\x1b[K")
	}
}

// appendEvents appends the table, and what is not in it.
func appendEvents(b []byte, rows []eventRow, all bool) []byte {
	lines := [][]string{{"EVENT", "KIND", "ENCODING", "COUNTS", "DESCRIPTION"}}
	var hidden []*eventRow
	var reasons []*eventRow
	for i := range rows {
		r := &rows[i]
		if r.verdict.Outcome == perf.NotSupported && !all && !r.named {
			hidden = append(hidden, r)
			continue
		}
		counts := r.counts()
		if r.verdict.Outcome == perf.Counts && r.verdict.UserOnly {
			counts += ", user mode"
		}
		lines = append(lines, []string{r.Name, r.kind(), cmp.Or(r.encoding(), "-"), counts, r.Description})
		// The kernel does count its own events: they were not made to happen.
		if own := r.Kind == "software" && r.verdict.Outcome == perf.StayedZero; !own && r.reason() != "" {
			reasons = append(reasons, r)
		}
	}
	if len(lines) > 1 {
		b = appendAligned(b, lines)
	}
	b = appendReasons(b, reasons)
	if len(hidden) > 0 {
		b = fmt.Appendf(separate(b), "%d not supported here: ", len(hidden))
		b = append(appendNames(b, hidden), "; --all lists them\n"...)
	}
	return b
}

// kind is the column KIND: that, or the PMU.
func (r *eventRow) kind() string {
	if r.Kind == "pmu" && r.PMU != "" {
		return r.PMU
	}
	return cmp.Or(r.Kind, "-")
}

func (r *eventRow) encoding() string {
	if r.Event == nil {
		return ""
	}
	var b []string
	for i := range r.Event.Encodings {
		b = append(b, r.Event.Encodings[i].String())
	}
	return strings.Join(b, "; ")
}

// separate appends an empty line between paragraphs.
func separate(b []byte) []byte {
	if len(b) > 0 {
		b = append(b, '\n')
	}
	return b
}

// appendAligned appends columns of text.
func appendAligned(b []byte, lines [][]string) []byte {
	widths := make([]int, len(lines[0]))
	for _, line := range lines {
		for i, cell := range line {
			widths[i] = max(widths[i], cleanWidth(cell))
		}
	}
	for _, line := range lines {
		for i, cell := range line {
			b = appendSpaces(appendClean(b, cell), widths[i]-cleanWidth(cell)+2)
		}
		b = append(trimRight(b), '\n')
	}
	return b
}

// appendReasons appends each reason once, with the events that it is of.
func appendReasons(b []byte, rows []*eventRow) []byte {
	var order []string
	of := map[string][]*eventRow{}
	for _, r := range rows {
		key := ": " + r.counts() + ": " + r.reason()
		if of[key] == nil {
			order = append(order, key)
		}
		of[key] = append(of[key], r)
	}
	for i, key := range order {
		if i == 0 {
			b = separate(b)
		}
		b = appendClean(appendNames(b, of[key]), key)
		b = append(b, '\n')
	}
	return b
}

// appendNames appends the names, or some of many.
func appendNames(b []byte, rows []*eventRow) []byte {
	const most = 6
	for i, r := range rows {
		if i > 0 {
			b = append(b, ", "...)
		}
		if i == most && len(rows) > most+1 {
			return fmt.Appendf(b, "and %d more", len(rows)-most)
		}
		b = appendClean(b, r.Name)
	}
	return b
}

// eventJSON is an event of --json. Its keys and what Counts can be don't
// change; descriptions and reasons are for people. Configurations are strings,
// since numbers of JSON don't hold 64 bits everywhere.
type eventJSON struct {
	Name         string         `json:"name"`
	Alias        string         `json:"alias"` // in the names of metrics; "" if it is not known
	Kind         string         `json:"kind"`
	PMU          string         `json:"pmu"`
	Unit         string         `json:"unit"`
	Scale        float64        `json:"scale"`
	Description  string         `json:"description"`
	Encodings    []encodingJSON `json:"encodings"`
	Counts       string         `json:"counts"`
	UserModeOnly bool           `json:"user_mode_only"`
	Value        *uint64        `json:"value"` // null: not tried, or no counter
	Enabled      *uint64        `json:"enabled_ns"`
	Running      *uint64        `json:"running_ns"`
	Reason       string         `json:"reason"`
}

type encodingJSON struct {
	CPUs          []int  `json:"cpus"` // null: all
	Type          uint32 `json:"type"`
	Config        string `json:"config"`
	Config1       string `json:"config1"`
	Config2       string `json:"config2"`
	ExcludeUser   bool   `json:"exclude_user"`
	ExcludeKernel bool   `json:"exclude_kernel"`
	ExcludeHv     bool   `json:"exclude_hv"`
	ExcludeHost   bool   `json:"exclude_host"`
	ExcludeGuest  bool   `json:"exclude_guest"`
}

func eventsJSON(rows []eventRow, host []finding) ([]byte, error) {
	document := struct {
		Events []eventJSON `json:"events"`
		Host   []finding   `json:"host"`
	}{[]eventJSON{}, host}
	for i := range rows {
		r := &rows[i]
		e := eventJSON{
			Name: r.Name, Kind: r.Kind, PMU: r.PMU, Scale: 1, Description: r.Description, Encodings: []encodingJSON{},
			Counts: r.counts(), UserModeOnly: r.verdict.UserOnly, Reason: r.reason(),
		}
		if r.Event != nil {
			e.Alias, e.Unit, e.Scale = r.Event.Alias, r.Event.Unit, r.Event.Scale
			for i := range r.Event.Encodings {
				e.Encodings = append(e.Encodings, encodeJSON(&r.Event.Encodings[i]))
			}
		}
		if v := &r.verdict; v.Enabled > 0 {
			e.Value, e.Enabled, e.Running = &v.Value, &v.Enabled, &v.Running
		}
		document.Events = append(document.Events, e)
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(document); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func encodeJSON(e *perf.Encoding) encodingJSON {
	hex := func(n uint64) string { return "0x" + strconv.FormatUint(n, 16) }
	has := func(bit uint64) bool { return e.Attr.Bits&bit != 0 }
	return encodingJSON{
		CPUs: e.CPUs, Type: e.Attr.Type,
		Config: hex(e.Attr.Config), Config1: hex(e.Attr.Ext1), Config2: hex(e.Attr.Ext2),
		ExcludeUser: has(unix.PerfBitExcludeUser), ExcludeKernel: has(unix.PerfBitExcludeKernel), ExcludeHv: has(unix.PerfBitExcludeHv),
		ExcludeHost: has(unix.PerfBitExcludeHost), ExcludeGuest: has(unix.PerfBitExcludeGuest),
	}
}
