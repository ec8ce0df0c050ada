package perf

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ParseRequests checks the syntax of what a user asks for, without looking at
// the host. Each string is an event or a group of events in braces; the
// modifiers of a group become those of each of its events. The error joins
// what is wrong with each string.
//
// An event is a name of perf's or of the original ("cache-misses",
// "cache_misses", "LLC-load-misses", "page-faults", "stalls_mem_load"), the
// name of an event in sysfs ("mem-loads"), a tracepoint ("sched:sched_switch"),
// a raw code ("r14a3", or the original's "name__rEEUU[CC][config1]"), or terms
// of a PMU ("cpu/event=0xa3,umask=0x14,cmask=20,name=stalls/"). Modifiers
// follow a colon, or the last slash: u k h count in user mode, the kernel, the
// hypervisor; G H in guests, on the host.
func ParseRequests(list []string) ([]Request, error) {
	requests := make([]Request, 0, len(list))
	var errs []error
	for _, text := range list {
		r, err := parseRequest(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("event %q: %w", text, err))
			continue
		}
		requests = append(requests, r)
	}
	return requests, errors.Join(errs...)
}

func parseRequest(text string) (Request, error) {
	text = strings.TrimSpace(text)
	if !strings.HasPrefix(text, "{") {
		events, err := splitList(text)
		if err != nil {
			return Request{}, err
		}
		if len(events) > 1 {
			return Request{}, errors.New("these are several events: write one in each string, or a group in braces, {a,b}")
		}
		_, err = parseSpec(text)
		return Request{Events: events}, err
	}
	end := strings.LastIndexByte(text, '}')
	if end < 0 {
		return Request{}, errors.New("the closing brace of the group is missing")
	}
	var common modifiers
	if rest := text[end+1:]; rest != "" {
		letters, ok := strings.CutPrefix(rest, ":")
		if !ok {
			return Request{}, fmt.Errorf("%q after the group: only modifiers may follow, as \"{a,b}:u\"", rest)
		}
		var err error
		if common, err = parseModifiers(letters); err != nil {
			return Request{}, err
		}
	}
	events, err := splitList(text[1:end])
	if err != nil {
		return Request{}, err
	}
	for i, e := range events {
		s, err := parseSpec(e)
		if err != nil {
			if len(events) == 1 {
				return Request{}, err
			}
			return Request{}, fmt.Errorf("%q: %w", e, err)
		}
		if common != 0 {
			s.modifiers |= common
			events[i] = s.String()
		}
	}
	return Request{Events: events, Group: true}, nil
}

// splitList splits at commas that are not between slashes or quotes.
func splitList(text string) ([]string, error) {
	var list []string
	slash, quote := false, false
	start := 0
	for i := range len(text) {
		switch c := text[i]; {
		case c == '\'':
			quote = !quote
		case quote:
		case c == '/':
			slash = !slash
		case c == ',' && !slash:
			list = append(list, strings.TrimSpace(text[start:i]))
			start = i + 1
		}
	}
	switch {
	case quote:
		return nil, errors.New("a closing quote is missing")
	case slash:
		return nil, errors.New("the slash after the terms is missing: pmu/term=value,.../")
	}
	return append(list, strings.TrimSpace(text[start:])), nil
}

// modifiers are letters that follow an event.
type modifiers uint8

const (
	inUser modifiers = 1 << iota
	inKernel
	inHypervisor
	inGuest
	onHost
)

const (
	modifierLetters = "ukhGH" // in the order of the bits
	// perf's letters, ours included (modifier_event of parse-events.l).
	perfLetters = "ukhpPGHSDIWebRX"
)

func parseModifiers(letters string) (modifiers, error) {
	if letters == "" {
		return 0, errors.New("modifiers are missing after the colon: some of u k h G H")
	}
	var m modifiers
	for _, c := range letters {
		bit := strings.IndexRune(modifierLetters, c)
		if bit < 0 {
			return 0, fmt.Errorf("modifier %q: %s", c, modifierReason(c))
		}
		if m&(1<<bit) != 0 {
			return 0, fmt.Errorf("modifier %q is there twice", c)
		}
		m |= 1 << bit
	}
	return m, nil
}

func modifierReason(c rune) string {
	switch c {
	case 'p', 'P', 'S':
		return "it is for sampling, here events are counted"
	case 'D', 'e':
		return "groups that are pinned or exclusive would take the counters from all others"
	case 'W':
		return "groups here are counted together or not at all"
	case 'b':
		return "perf_backend: bpf does that for all events"
	case 'I':
		return "the idle task belongs to no cgroup but the root"
	}
	return "there are u k h G H"
}

func (m modifiers) String() string {
	var b strings.Builder
	for bit, c := range modifierLetters {
		if m&(1<<bit) != 0 {
			b.WriteRune(c)
		}
	}
	return b.String()
}

// exclude returns the exclude bits of perf_event_attr, as perf sets them
// (get_event_modifier of parse-events.c): a letter excludes the others of its
// kind that are not there. perf excludes guests unless it is told otherwise;
// here a virtual machine is a task as others and its guest counts.
func (m modifiers) exclude() uint64 {
	bits := uint64(0)
	if m&(inUser|inKernel|inHypervisor) != 0 {
		if m&inUser == 0 {
			bits |= unix.PerfBitExcludeUser
		}
		if m&inKernel == 0 {
			bits |= unix.PerfBitExcludeKernel
		}
		if m&inHypervisor == 0 {
			bits |= unix.PerfBitExcludeHv
		}
	}
	if m&(inGuest|onHost) != 0 {
		if m&inGuest == 0 {
			bits |= unix.PerfBitExcludeGuest
		}
		if m&onHost == 0 {
			bits |= unix.PerfBitExcludeHost
		}
	}
	return bits
}

// suffix is what the modifiers add to an alias: nothing if they exclude
// nothing.
func (m modifiers) suffix() string {
	bits := m.exclude()
	s := ""
	if bits&(unix.PerfBitExcludeUser|unix.PerfBitExcludeKernel|unix.PerfBitExcludeHv) != 0 {
		s = "_" + (m & (inUser | inKernel | inHypervisor)).String()
	}
	switch {
	case bits&unix.PerfBitExcludeHost != 0:
		s += "_guest"
	case bits&unix.PerfBitExcludeGuest != 0:
		s += "_host"
	}
	return s
}

// spec is an event as it is written, of one of four forms:
//
//	name             generic, of the original or of sysfs
//	name             raw: rNNN, name__rEEUU[CC][config1]
//	subsystem:name   tracepoint
//	pmu/terms/
type spec struct {
	name      string
	subsystem string
	pmu       string
	terms     []term
	raw       bool
	config    uint64 // raw
	config1   uint64 // raw
	alias     string // what name= or the part before "__r" says
	modifiers modifiers
}

// term is "name" or "name=value" of a PMU's event.
type term struct {
	name  string
	value uint64
	flag  bool // no value is written; it is 1
	param bool // the value is "?": a parameter; only in sysfs
}

// parseSpec parses one event.
func parseSpec(text string) (spec, error) {
	if text == "" {
		return spec{}, errors.New("an event is missing")
	}
	if strings.ContainsAny(text, "{}") {
		return spec{}, errors.New("groups cannot be nested, and begin with their brace")
	}
	if pmu, rest, ok := strings.Cut(text, "/"); ok {
		return parsePMUSpec(pmu, rest)
	}
	parts := strings.Split(text, ":")
	last := parts[len(parts)-1]
	s := spec{name: parts[0]}
	var err error
	switch {
	case len(parts) == 1:
	case len(parts) == 2 && (strings.Trim(last, perfLetters) == "" || isGeneric(s.name) || s.isRaw()):
		s.modifiers, err = parseModifiers(last)
	case len(parts) == 2:
		s.subsystem, s.name = parts[0], parts[1]
	case len(parts) == 3:
		s.subsystem, s.name = parts[0], parts[1]
		s.modifiers, err = parseModifiers(last)
	default:
		err = errors.New("too many colons: name:modifiers, or subsystem:tracepoint:modifiers")
	}
	if err != nil {
		return spec{}, err
	}
	if err := checkName(parts[0]); err != nil {
		return spec{}, err
	}
	if err := checkName(s.name); err != nil {
		return spec{}, err
	}
	if s.subsystem == "" {
		err = s.parseRaw()
	}
	return s, err
}

// checkName makes sure that a name is one element of a path.
func checkName(name string) error {
	if name == "" {
		return errors.New("a name is missing")
	}
	for i, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_':
		case (c == '-' || c == '.') && i > 0:
		case c == '*' || c == '?' || c == '[':
			return fmt.Errorf("%q has a wildcard: name the events one by one", name)
		default:
			return fmt.Errorf("%q is not a name", name)
		}
	}
	return nil
}

const hexDigits = "0123456789abcdefABCDEF"

func (s *spec) isRaw() bool {
	c := *s
	return c.parseRaw() != nil || c.raw
}

// parseRaw recognises perf's rNNN and the original's name__rEEUU[CC], which in
// its successor may be followed by 10 digits of config1.
func (s *spec) parseRaw() error {
	if i := strings.LastIndex(s.name, "__r"); i > 0 {
		digits := s.name[i+len("__r"):]
		if digits == "" || strings.Trim(digits, hexDigits) != "" {
			return nil
		}
		code, config1 := digits, ""
		if len(digits) > 10 {
			code, config1 = digits[:len(digits)-10], digits[len(digits)-10:]
		}
		if len(code) != 4 && len(code) != 6 {
			return fmt.Errorf("%d digits after __r: there are EEUU, 2 of the event and 2 of the umask, EEUUCC with the counter mask, and either with 10 more of config1", len(digits))
		}
		var fields [3]uint64
		for i := range len(code) / 2 {
			fields[i], _ = strconv.ParseUint(code[2*i:2*i+2], 16, 8) // two hexadecimal digits always are
		}
		s.config = fields[0] | fields[1]<<8 | fields[2]<<24
		if config1 != "" {
			s.config1, _ = strconv.ParseUint(config1, 16, 64)
		}
		s.raw, s.alias = true, s.name[:i]
		return nil
	}
	config, ok, err := parseRawCode(s.name)
	s.config, s.raw = config, ok
	return err
}

// parseRawCode parses perf's rNNN; newer versions of perf know r0xNNN too.
func parseRawCode(name string) (config uint64, ok bool, err error) {
	digits, ok := strings.CutPrefix(name, "r")
	if d, is := strings.CutPrefix(digits, "0x"); is {
		digits = d
	}
	if !ok || digits == "" || strings.Trim(digits, hexDigits) != "" {
		return 0, false, nil
	}
	config, err = strconv.ParseUint(digits, 16, 64)
	if err != nil {
		return 0, false, fmt.Errorf("%s has more than 64 bits", name)
	}
	return config, true, nil
}

func parsePMUSpec(pmu, rest string) (spec, error) {
	s := spec{pmu: pmu}
	if err := checkName(pmu); err != nil {
		return spec{}, fmt.Errorf("before the slash: %w", err)
	}
	i := strings.LastIndexByte(rest, '/')
	if i < 0 {
		return spec{}, errors.New("the slash after the terms is missing: pmu/term=value,.../")
	}
	if letters := rest[i+1:]; letters != "" {
		var err error
		if s.modifiers, err = parseModifiers(letters); err != nil {
			return spec{}, err
		}
	}
	if strings.ContainsRune(rest[:i], '/') {
		return spec{}, errors.New("too many slashes: pmu/term=value,.../modifiers")
	}
	list, err := splitList(rest[:i])
	if err != nil {
		return spec{}, err
	}
	for _, text := range list {
		if value, ok := strings.CutPrefix(text, "name="); ok {
			if s.alias != "" {
				return spec{}, errors.New("name= is there twice")
			}
			if s.alias, err = parseAlias(value); err != nil {
				return spec{}, err
			}
			continue
		}
		t, err := parseTerm(text)
		if err != nil {
			return spec{}, err
		}
		if t.param {
			return spec{}, fmt.Errorf("%s=? needs a number", t.name)
		}
		for _, other := range s.terms {
			if other.name == t.name {
				return spec{}, fmt.Errorf("%s is there twice", t.name)
			}
		}
		s.terms = append(s.terms, t)
	}
	if len(s.terms) == 0 && s.alias == "" {
		return spec{}, errors.New("there is nothing between the slashes")
	}
	return s, nil
}

// parseAlias parses the value of name=, which may be in single quotes.
func parseAlias(value string) (string, error) {
	if inner, ok := strings.CutPrefix(value, "'"); ok {
		value, ok = strings.CutSuffix(inner, "'")
		if !ok {
			return "", errors.New("something follows the quoted name")
		}
	}
	if sanitise(value) == "" || strings.ContainsAny(value, "'\n") {
		return "", fmt.Errorf("name=%q has no letter or digit", value)
	}
	return value, nil
}

// parseTerm parses "name", "name=1", "name=0x1" or "name=?".
func parseTerm(text string) (term, error) {
	name, value, ok := strings.Cut(text, "=")
	if why := termReason(name); why != "" {
		return term{}, fmt.Errorf("%s: %s", name, why)
	}
	if err := checkName(name); err != nil {
		return term{}, err
	}
	if !ok {
		return term{name: name, value: 1, flag: true}, nil
	}
	if value == "?" {
		return term{name: name, param: true}, nil
	}
	n, err := parseNumber(value)
	if err != nil {
		return term{}, fmt.Errorf("%s=%s: %w", name, value, err)
	}
	return term{name: name, value: n}, nil
}

// parseNumber parses a number as perf does: decimal, even with leading zeros,
// or hexadecimal with 0x.
func parseNumber(s string) (uint64, error) {
	base, digits := 10, s
	if d, ok := strings.CutPrefix(s, "0x"); ok {
		base, digits = 16, d
	}
	n, err := strconv.ParseUint(digits, base, 64)
	if errors.Is(err, strconv.ErrRange) {
		return 0, errors.New("more than 64 bits")
	}
	if err != nil || digits[0] == '+' {
		return 0, errors.New("not a number as 20 or 0x14")
	}
	return n, nil
}

// termReason says why a term that perf knows on every PMU cannot be used here
// (config_term_names of parse-events.c).
func termReason(name string) string {
	switch name {
	case "period", "freq", "branch_type", "time", "call-graph", "stack-size", "max-stack", "nr",
		"overwrite", "no-overwrite", "aux-output", "aux-action", "aux-sample-size":
		return "it is for sampling, here events are counted"
	case "inherit", "no-inherit":
		return "a cgroup is counted with all its threads"
	case "percore":
		return "counts are of cgroups, not of cores"
	case "metric-id", "ratio-to-prev", "cpu":
		return "it is for perf's own output"
	case "config3", "config4":
		return "only config, config1 and config2 are there"
	}
	if strings.HasPrefix(name, "@") {
		return "it is for the drivers of traces"
	}
	return ""
}

// String writes the event so that parseSpec reads it as the same.
func (s spec) String() string {
	if s.pmu == "" {
		text := s.name
		if s.subsystem != "" {
			text = s.subsystem + ":" + text
		}
		if s.modifiers != 0 {
			text += ":" + s.modifiers.String()
		}
		return text
	}
	var b strings.Builder
	b.WriteString(s.pmu)
	sep := byte('/')
	for _, t := range s.terms {
		b.WriteByte(sep)
		sep = ','
		b.WriteString(t.name)
		if !t.flag {
			fmt.Fprintf(&b, "=%#x", t.value)
		}
	}
	if s.alias != "" {
		b.WriteByte(sep)
		fmt.Fprintf(&b, "name='%s'", s.alias)
	}
	return b.String() + "/" + s.modifiers.String()
}

// sanitise turns all runs of other characters than letters, digits and
// underscores into one underscore, none at the ends.
func sanitise(name string) string {
	b := make([]byte, 0, len(name))
	gap := false
	for _, c := range []byte(name) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' {
			if gap && len(b) > 0 {
				b = append(b, '_')
			}
			b = append(b, c)
			gap = false
			continue
		}
		gap = true
	}
	return string(b)
}

// An UnknownError says that a name is no event.
type UnknownError struct {
	Name    string
	Reason  string
	Nearest string // the known name that is most like it, "" if none is
}

func (e *UnknownError) Error() string {
	s := e.Name + ": " + e.Reason
	if e.Nearest != "" {
		s += fmt.Sprintf(" (did you mean %q?)", e.Nearest)
	}
	return s
}

// nearest returns the name that is most like the wanted one: fewest changed,
// missing, additional or swapped letters, and no more than a third of them.
func nearest(wanted string, names []string) string {
	folded := fold(wanted)
	best, found := len(wanted)/3+1, ""
	var rows [3][]int
	for _, name := range names {
		if d := len(name) - len(wanted); d >= best || -d >= best {
			continue
		}
		if d := distance(folded, fold(name), &rows); d < best {
			best, found = d, name
		}
	}
	return found
}

// distance is the optimal string alignment distance. It uses rows as memory.
func distance(a, b string, rows *[3][]int) int {
	for i := range rows {
		if len(rows[i]) <= len(b) {
			rows[i] = make([]int, len(b)+1)
		}
	}
	before, last, row := rows[0], rows[1], rows[2]
	for j := range len(b) + 1 {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			change := last[j]
			if a[i] != b[j] {
				change++
			}
			row[j+1] = min(change, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
