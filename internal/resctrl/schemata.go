package resctrl

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"
)

// Schemata is what a control group may use: lines of a schemata file, sorted by
// resource, none twice. That order matters to the kernel once: with mba_MBps it
// takes MB over at once, even when it refuses a later line, so MB comes after the
// caches.
type Schemata []Line

// Line is one resource in some or all of its domains.
type Line struct {
	Resource string
	Kind     Kind
	Domains  []DomainValue // sorted by id, none twice
}

// DomainValue is the mask or the bandwidth in one domain.
type DomainValue struct {
	ID    int
	Value uint64
}

// Parse reads schemata: the kernel's own text, with its padding and in any order,
// or a user's, "L3:0=ff;1=0x1f" or several lines. "L3" stands for both of L3CODE and
// L3DATA where those are what the host has, and the same for L2. The error joins
// one problem a line, each with the line and the part of it that is wrong; nothing is
// checked against the host but that it has the resource. A line that reads
// "uninitialized", which the kernel shows while a group is being pseudo-locked, has
// no values. That the kernel takes 4096 bytes at a time is the writer's business.
func (in *Info) Parse(text string) (Schemata, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	var (
		s    = make(Schemata, 0, strings.Count(text, ":")+1)
		all  = make([]DomainValue, 0, strings.Count(text, "="))
		errs []error
	)
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		start := len(all)
		name, resources, err := in.lineResources(line)
		if err == nil {
			values := line[len(name)+1:]
			if len(resources[0].Domains) == 0 && strings.TrimSpace(values) == "" {
				continue // so the kernel shows a resource whose domains are all offline
			}
			all, err = parseValues(all, values, resources[0].Kind)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("schemata %.200q: %w", line, err))
			continue
		}
		values := all[start:len(all):len(all)]
		if len(values) == 0 {
			continue
		}
		for i := range resources {
			r := &resources[i]
			if i > 0 {
				values = slices.Clone(values)
			}
			if s, err = s.add(Line{r.Name, r.Kind, values}); err != nil {
				errs = append(errs, fmt.Errorf("schemata %.200q: %w", line, err))
				break
			}
		}
	}
	if errs != nil {
		return nil, errors.Join(errs...)
	}
	if len(s) == 0 {
		return nil, nil
	}
	return s, nil
}

// lineResources finds what a line is about: one resource, or both halves of a
// cache whose code and data are apart. name is what stands before the colon.
func (in *Info) lineResources(line string) (name string, of []Resource, err error) {
	name, _, ok := strings.Cut(line, ":")
	if !ok {
		return "", nil, errors.New("missing ':' after the name of a resource")
	}
	trimmed := strings.TrimSpace(name)
	i, found := slices.BinarySearchFunc(in.Resources, trimmed, func(r Resource, name string) int {
		return cmp.Compare(r.Name, name)
	})
	if found {
		return name, in.Resources[i : i+1], nil
	}
	// L3CODE and L3DATA are neighbours, as sorted by name.
	if i+1 < len(in.Resources) && in.Resources[i].Name == trimmed+"CODE" && in.Resources[i+1].Name == trimmed+"DATA" {
		return name, in.Resources[i : i+2], nil
	}
	return name, nil, in.unknownResource(trimmed)
}

// parseValues parses "0=ff;1=1f" and sorts it; a ';' at the end is the kernel's
// custom, too.
func parseValues(list []DomainValue, text string, kind Kind) ([]DomainValue, error) {
	text = strings.TrimSuffix(strings.TrimSpace(text), ";")
	switch text {
	case "":
		return list, errors.New("no value")
	case "uninitialized":
		return list, nil
	}
	start := len(list)
	for item := range strings.SplitSeq(text, ";") {
		v, err := parseDomainValue(item, kind)
		if err != nil {
			return list[:start], err
		}
		list = append(list, v)
	}
	added := list[start:]
	slices.SortFunc(added, func(a, b DomainValue) int { return cmp.Compare(a.ID, b.ID) })
	for i := 1; i < len(added); i++ {
		if added[i].ID == added[i-1].ID {
			return list[:start], fmt.Errorf("domain %d twice", added[i].ID)
		}
	}
	return list, nil
}

// parseDomainValue parses "0=ff", with blanks around each part: the kernel pads
// bandwidth, "0= 20".
func parseDomainValue(item string, kind Kind) (v DomainValue, err error) {
	id, value, ok := strings.Cut(item, "=")
	if !ok {
		return v, fmt.Errorf("%.40q: missing '='", item)
	}
	id, value = strings.TrimSpace(id), strings.TrimSpace(value)
	n, err := strconv.ParseUint(id, 10, 31)
	if err != nil {
		return v, fmt.Errorf("%.40q: %.40q is not the number of a domain", item, id)
	}
	v.ID = int(n)
	if value == "" {
		return v, fmt.Errorf("domain %d: no value", v.ID)
	}
	if kind == Mask {
		digits := value
		if len(digits) > 2 && (digits[:2] == "0x" || digits[:2] == "0X") {
			digits = digits[2:]
		}
		v.Value, err = strconv.ParseUint(digits, 16, 64)
	} else {
		v.Value, err = strconv.ParseUint(value, 10, 64)
	}
	switch {
	case errors.Is(err, strconv.ErrRange):
		return v, fmt.Errorf("domain %d: %.40q is longer than 64 bits", v.ID, value)
	case err != nil && kind == Mask:
		return v, fmt.Errorf("domain %d: %.40q is not a hexadecimal mask", v.ID, value)
	case err != nil:
		return v, fmt.Errorf("domain %d: %.40q is not a decimal number", v.ID, value)
	}
	return v, nil
}

// unknownResource tells what there is instead, the nearest name first.
func (in *Info) unknownResource(name string) error {
	if cache, ok := strings.CutSuffix(name, "CODE"); ok || strings.HasSuffix(name, "DATA") {
		if !ok {
			cache = strings.TrimSuffix(name, "DATA")
		}
		if in.Resource(cache) != nil {
			option := "cdp"
			if cache == "L2" {
				option = "cdpl2"
			}
			return fmt.Errorf("unknown resource %q: this host has %s for code and data together, because resctrl is mounted without the option %s", name, cache, option)
		}
	}
	if len(in.Resources) == 0 {
		return fmt.Errorf("unknown resource %.40q: this host can allocate none", name)
	}
	names := make([]string, 0, len(in.Resources))
	for i := range in.Resources {
		names = append(names, in.Resources[i].Name)
	}
	upper := strings.ToUpper(name[:min(len(name), 40)])
	distance := func(to string) int { return editDistance(upper, strings.ToUpper(to)) }
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(distance(a), distance(b)) })
	return fmt.Errorf("unknown resource %.40q: this host has %s", name, strings.Join(names, ", "))
}

// editDistance is Levenshtein's.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// add adds the values of a line, which must be sorted, to s.
func (s Schemata) add(l Line) (Schemata, error) {
	i, found := s.search(l.Resource)
	if !found {
		return slices.Insert(s, i, l), nil
	}
	for _, v := range l.Domains {
		at, twice := s[i].search(v.ID)
		if twice {
			return s, fmt.Errorf("%s domain %d twice", l.Resource, v.ID)
		}
		s[i].Domains = slices.Insert(s[i].Domains, at, v)
	}
	return s, nil
}

func (s Schemata) search(resource string) (int, bool) {
	return slices.BinarySearchFunc(s, resource, func(l Line, name string) int { return cmp.Compare(l.Resource, name) })
}

func (l *Line) search(domain int) (int, bool) {
	return slices.BinarySearchFunc(l.Domains, domain, func(v DomainValue, id int) int { return cmp.Compare(v.ID, id) })
}

// Rounding is a value that the kernel will change.
type Rounding struct {
	Resource       string
	Domain         int
	Wanted, Effect uint64
}

// Check validates schemata against this host as the kernel would: known resources
// and domains, none twice; masks within the width, with enough bits, without gaps
// unless they may have some; bandwidth not below the minimum or above the maximum.
// It returns what will be in effect, which differs where bandwidth is rounded up.
// The error joins all problems, each with line, domain, value, and what would do.
//
// What the kernel says depends on more than that: masks that exclusive or
// pseudo-locked groups hold, a maximum that is not known ([Resource].Max), a domain
// that went offline or came since [ReadInfo].
func (in *Info) Check(s Schemata) (effect Schemata, rounded []Rounding, err error) {
	var errs []error
	for _, l := range s {
		r := in.Resource(l.Resource)
		if r == nil {
			errs = append(errs, in.unknownResource(l.Resource))
			continue
		}
		for _, v := range l.Domains {
			value, err := r.check(v)
			if err == nil {
				effect, err = effect.add(Line{r.Name, r.Kind, []DomainValue{{v.ID, value}}})
			}
			switch {
			case err != nil:
				errs = append(errs, fmt.Errorf("%s:%d=%s: %w", r.Name, v.ID, r.Kind.format(v.Value), err))
			case value != v.Value:
				rounded = append(rounded, Rounding{r.Name, v.ID, v.Value, value})
			}
		}
	}
	if errs != nil {
		return nil, nil, errors.Join(errs...)
	}
	return effect, rounded, nil
}

// check returns what v will be in effect.
func (r *Resource) check(v DomainValue) (uint64, error) {
	if _, ok := slices.BinarySearch(r.Domains, v.ID); !ok {
		return 0, fmt.Errorf("no such domain, or it is offline: there are %s", joinDomains(r.Domains))
	}
	if r.Kind == Mask {
		return v.Value, r.checkMask(v.Value)
	}
	switch {
	case v.Value < r.Min:
		return 0, fmt.Errorf("at least %d", r.Min)
	case r.Max != 0 && v.Value > r.Max:
		return 0, fmt.Errorf("at most %d", r.Max)
	case v.Value > math.MaxUint32: // kstrtou32, whatever the maximum is
		return 0, fmt.Errorf("at most %d", uint32(math.MaxUint32))
	}
	return r.roundUp(v.Value), nil
}

// roundUp mirrors bw_validate of fs/resctrl/ctrlmondata.c, which counts the steps from
// zero, not from the minimum, and does not look at the maximum again.
func (r *Resource) roundUp(bandwidth uint64) uint64 {
	step := max(1, r.Granularity)
	return (bandwidth + step - 1) / step * step
}

// checkMask mirrors cbm_validate of fs/resctrl/ctrlmondata.c, which looks for the
// minimum of bits in the lowest run of a sparse mask only.
func (r *Resource) checkMask(mask uint64) error {
	first := bits.TrailingZeros64(mask)
	run := bits.TrailingZeros64(^(mask >> first)) // of ones; the shift by 64 leaves none
	switch {
	case mask&^r.Bits != 0:
		return fmt.Errorf("at most %x", r.Bits)
	case !r.Sparse && mask>>first>>run != 0:
		return fmt.Errorf("one run of bits without gaps: %s", r.withoutGaps(mask))
	case run < r.MinBits && run == bits.OnesCount64(mask):
		return fmt.Errorf("at least %d %s: %x", r.MinBits, plural(r.MinBits, "bit"), r.widen(mask))
	case run < r.MinBits:
		return fmt.Errorf("at least %d bits side by side in the lowest run: %x", r.MinBits, r.widen(mask))
	}
	return nil
}

// withoutGaps names masks like this one in one run: its longest run, if that is
// enough, and all from its first bit to its last.
func (r *Resource) withoutGaps(mask uint64) string {
	var longest, length = uint64(0), 0
	for rest := mask; rest != 0; {
		first := bits.TrailingZeros64(rest)
		n := bits.TrailingZeros64(^(rest >> first))
		run := lowBits(n) << first
		if n >= length {
			longest, length = run, n
		}
		rest &^= run
	}
	first := bits.TrailingZeros64(mask)
	filled := lowBits(bits.Len64(mask)-first) << first
	if length < r.MinBits {
		return fmt.Sprintf("%x", filled)
	}
	return fmt.Sprintf("%x or %x", longest, filled)
}

// widen adds bits to the lowest run until they are enough: above it, below it
// where there are no more above.
func (r *Resource) widen(mask uint64) uint64 {
	first := bits.TrailingZeros64(mask)
	if mask == 0 {
		first = bits.TrailingZeros64(r.Bits)
	}
	first = min(first, max(0, bits.Len64(r.Bits)-r.MinBits))
	return (mask | lowBits(r.MinBits)<<first) & r.Bits
}

func lowBits(n int) uint64 { return 1<<n - 1 }

func plural(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

func joinDomains(ids []int) string {
	if len(ids) == 0 {
		return "none"
	}
	var b []byte
	for i, id := range ids {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = strconv.AppendInt(b, int64(id), 10)
	}
	return string(b)
}

// Default is what the kernel gives a new group where no other is exclusive: all
// bits, and no limit of bandwidth. A resource whose maximum is not known is left out.
func (in *Info) Default() Schemata {
	var s Schemata
	for i := range in.Resources {
		r := &in.Resources[i]
		value := r.Max
		if r.Kind == Mask {
			value = r.Bits
		}
		if value == 0 || len(r.Domains) == 0 {
			continue
		}
		l := Line{r.Name, r.Kind, make([]DomainValue, len(r.Domains))}
		for j, id := range r.Domains {
			l.Domains[j] = DomainValue{id, value}
		}
		s = append(s, l)
	}
	return s
}

// Get returns one value.
func (s Schemata) Get(resource string, domain int) (uint64, bool) {
	i, ok := s.search(resource)
	if !ok {
		return 0, false
	}
	j, ok := s[i].search(domain)
	if !ok {
		return 0, false
	}
	return s[i].Domains[j].Value, true
}

// Append appends s as it is written to a schemata file, one line a resource,
// each with its newline; masks in hexadecimal.
func (s Schemata) Append(b []byte) []byte { return s.append(b, "\n", "\n") }

// String is Append, lines separated by "; " less the newlines: for messages.
func (s Schemata) String() string { return string(s.append(nil, "; ", "")) }

func (s Schemata) append(b []byte, between, end string) []byte {
	for i, l := range s {
		if i > 0 {
			b = append(b, between...)
		}
		b = append(append(b, l.Resource...), ':')
		for j, v := range l.Domains {
			if j > 0 {
				b = append(b, ';')
			}
			b = append(strconv.AppendInt(b, int64(v.ID), 10), '=')
			b = strconv.AppendUint(b, v.Value, l.Kind.base())
		}
	}
	if len(s) > 0 {
		b = append(b, end...)
	}
	return b
}

func (k Kind) base() int {
	if k == Mask {
		return 16
	}
	return 10
}

func (k Kind) format(value uint64) string { return strconv.FormatUint(value, k.base()) }

// Overlay returns s with the values of o in place of its own, and those that it
// has not added. Neither is changed.
func (s Schemata) Overlay(o Schemata) Schemata {
	merged := make(Schemata, 0, len(s)+len(o))
	for len(s) > 0 || len(o) > 0 {
		switch {
		case len(o) == 0 || len(s) > 0 && s[0].Resource < o[0].Resource:
			merged = append(merged, s[0].clone())
			s = s[1:]
		case len(s) == 0 || o[0].Resource < s[0].Resource:
			merged = append(merged, o[0].clone())
			o = o[1:]
		default:
			merged = append(merged, s[0].overlay(&o[0]))
			s, o = s[1:], o[1:]
		}
	}
	return merged
}

func (l *Line) clone() Line { return Line{l.Resource, l.Kind, slices.Clone(l.Domains)} }

func (l *Line) overlay(o *Line) Line {
	merged := l.clone()
	for _, v := range o.Domains {
		if i, ok := merged.search(v.ID); ok {
			merged.Domains[i] = v
		} else {
			merged.Domains = slices.Insert(merged.Domains, i, v)
		}
	}
	return merged
}

// Changed returns the values of s that differ from those of old, or that old has
// not; nil if there are none.
func (s Schemata) Changed(old Schemata) Schemata {
	var changed Schemata
	for _, l := range s {
		c := Line{Resource: l.Resource, Kind: l.Kind}
		for _, v := range l.Domains {
			if was, ok := old.Get(l.Resource, v.ID); !ok || was != v.Value {
				c.Domains = append(c.Domains, v)
			}
		}
		if len(c.Domains) > 0 {
			changed = append(changed, c)
		}
	}
	return changed
}
