// Package store takes the metrics of each tick somewhere: [Log] to a file,
// [Prometheus] to whoever scrapes them, [Filter] some of them to other storages.
// The text they are written in is made by an [Encoder].
package store

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/owca-project/owca"
)

// Format is a form of text that metrics are written in.
type Format uint8

// The formats.
const (
	// Text is the Prometheus text format 0.0.4.
	Text Format = iota
	// OpenMetrics is OpenMetrics 1.0 text. Counters whose name does not end
	// in "_total" are of type unknown there, because the format has no other
	// place for them.
	OpenMetrics
)

// ContentType is the format's media type.
func (f Format) ContentType() string {
	if f == OpenMetrics {
		return "application/openmetrics-text; version=1.0.0; charset=utf-8"
	}
	return "text/plain; version=0.0.4; charset=utf-8"
}

// The values of a storage's field names; see EncoderOptions.OriginalNames.
const (
	prometheusNames = "prometheus"
	originalNames   = "original"
)

// EncoderOptions say what an Encoder writes.
type EncoderOptions struct {
	Format Format
	// OriginalNames writes names and units of the original agent (Desc.Original
	// and Desc.OriginalPerUnit). What it did not have keeps its name and unit.
	OriginalNames bool
	// Timestamps writes the time of each sample.
	Timestamps bool
	// Labels names the only labels to write; nil = all. Series that differ in
	// none of them are duplicates.
	Labels []string
}

// An Encoder writes metrics as text. Families are sorted by name; their series
// by labels, values that are all digits as numbers and before others, and
// series of the same [owca.Labels] by the label of the metric itself.
//
// What comes out is valid whatever goes in. Of metrics that contradict each
// other the first one in the input is written: the agent's own come before
// those of plugins. See [RejectedError].
//
// An Encoder keeps what it learned about descriptors and labels for the next
// batch, so that a batch like the one before costs no allocation and no
// comparison of labels. It is not safe for concurrent use.
type Encoder struct {
	o   EncoderOptions
	buf []byte

	batch    uint64    // number of this Encode
	head     descState // its next is the first of the batch
	descs    map[*owca.Desc]*descState
	active   []*descState // of this batch, in order of first appearance
	byName   []*descState // the same by name
	families []family

	sets   map[*owca.Labels]*labelSet
	sorted []*labelSet // by labels
	merged []*labelSet // the other buffer of sorted
	fresh  []*labelSet // first seen in this batch
	runs   []run
	starts []int32 // first run of each set
	byRank []int32 // runs by set

	ids     []int32 // for each metric, its index in active
	entries []entry // metrics by family, then by labels

	rejected RejectedError
}

// descState is what the encoder derives from a Desc.
type descState struct {
	desc   *owca.Desc
	valid  bool
	key    string // of the family: Descs of one key share one, or conflict
	name   string // in the HELP and TYPE lines
	kind   string // in the TYPE line
	header string
	prefix string // start of a sample: its name
	label  string // Desc.Label unless left out
	scale  owca.Scale
	// perUnit converts floats to the original's unit; so it does integers
	// unless scale expresses it exactly.
	perUnit float64
	exact   bool
	// unsigned: negative values and NaN are invalid.
	unsigned bool

	next   *descState // the one that followed last time
	batch  uint64
	id     int32
	count  int32
	family int32 // -1: rejected
}

// family is the metrics of one name in this batch.
type family struct {
	first      *descState
	start, end int32 // in entries
	lastSet    int32
	lastLabel  string
	several    bool // its metrics have different Descs
	unsorted   bool // labels of a set are out of order
	mixed      bool // sets do not tell series apart: compare their whole text
}

// labelSet is the labels of metrics.
type labelSet struct {
	key   *owca.Labels // as in Metric.Labels
	text  *owca.Labels // what of it is written
	batch uint64
	index int32 // in sorted
	rank  int32 // index of the first set with equal text
}

// run is adjacent metrics with the same labels.
type run struct {
	start, end int32
	set        *labelSet
}

type entry struct {
	metric int32
	set    int32 // in sorted
}

const (
	// bufferSize bounds what is held of the output.
	bufferSize = 64 << 10
	flushSize  = bufferSize - 4<<10
)

// NewEncoder makes an encoder.
func NewEncoder(o EncoderOptions) *Encoder {
	return &Encoder{
		o:     o,
		buf:   make([]byte, 0, bufferSize),
		descs: make(map[*owca.Desc]*descState),
		sets:  make(map[*owca.Labels]*labelSet),
	}
}

// A RejectedError counts the metrics that could not be written without making
// the output invalid. All others were written.
type RejectedError struct {
	Of int // metrics there were in all
	// Invalid metrics have no Desc, a name or a label that Prometheus does not
	// allow, or, in OpenMetrics, are counters that are negative or NaN.
	Invalid int
	// Conflicting metrics have the name of an earlier one of another kind.
	Conflicting int
	// Duplicate metrics have the name and labels of an earlier one.
	Duplicate int
	// Example is one of them and its fault.
	Example string
}

// Error implements error.
func (e *RejectedError) Error() string {
	return fmt.Sprintf("%d of %d metrics are not written: %d invalid, %d conflicting, %d duplicate; one of them: %s",
		e.Invalid+e.Conflicting+e.Duplicate, e.Of, e.Invalid, e.Conflicting, e.Duplicate, e.Example)
}

// Encode writes metrics to w, 64 KiB at a time; now is the time of those that
// have none. The error is that of w, or a [*RejectedError] after everything
// else has been written.
func (e *Encoder) Encode(w io.Writer, metrics []owca.Metric, now time.Time) error {
	if len(metrics) > math.MaxInt32 {
		return fmt.Errorf("%d metrics in one batch are too many to encode", len(metrics))
	}
	e.batch++
	e.rejected = RejectedError{Of: len(metrics)}
	e.scan(metrics)
	e.rank()
	e.group()
	e.place(metrics)
	if err := e.write(w, metrics, now.UnixMilli()); err != nil {
		return err
	}
	if r := &e.rejected; r.Invalid+r.Conflicting+r.Duplicate > 0 {
		r := *r
		return &r
	}
	return nil
}

// scan finds the state of each metric's Desc and labels. Batches follow the
// same order of Descs again and again, and have the same labels many times in
// a row, so that maps are seldom asked.
func (e *Encoder) scan(metrics []owca.Metric) {
	e.active, e.runs = e.active[:0], e.runs[:0]
	e.ids = slices.Grow(e.ids[:0], len(metrics))[:len(metrics)]
	prev := &e.head
	for i := range metrics {
		m := &metrics[i]
		d := prev
		if i == 0 || d.desc != m.Desc {
			d = prev.next
			if d == nil || d.desc != m.Desc {
				d = e.desc(m.Desc)
				prev.next = d
			}
			prev = d
		}
		if d.batch != e.batch {
			d.batch = e.batch
			d.id = int32(len(e.active))
			d.count = 0
			e.active = append(e.active, d)
		}
		d.count++
		e.ids[i] = d.id
		if i == 0 || m.Labels != metrics[i-1].Labels {
			if i > 0 {
				e.runs[len(e.runs)-1].end = int32(i)
			}
			e.runs = append(e.runs, run{start: int32(i), end: int32(len(metrics)), set: e.set(m.Labels)})
		}
	}
	if len(e.descs) > 2*len(e.active) {
		// Forget those that are gone, and who followed whom with them.
		e.head.next = nil
		for key, d := range e.descs {
			d.next = nil
			if d.batch != e.batch {
				delete(e.descs, key)
			}
		}
	}
}

func (e *Encoder) desc(desc *owca.Desc) *descState {
	d := e.descs[desc]
	if d == nil {
		d = newDescState(desc, &e.o)
		e.descs[desc] = d
	}
	return d
}

func newDescState(desc *owca.Desc, o *EncoderOptions) *descState {
	d := &descState{desc: desc}
	if desc == nil {
		return d
	}
	name, unit := desc.Name, desc.Unit
	d.scale, d.perUnit, d.exact = desc.Scale, 1, true
	if o.OriginalNames && desc.Original != "" {
		name = desc.Original
		if desc.OriginalPerUnit != 0 && desc.OriginalPerUnit != 1 {
			unit = ""
			d.perUnit = desc.OriginalPerUnit
			exponent := math.Round(math.Log10(d.perUnit))
			if d.exact = math.Abs(exponent) <= 18 && math.Pow10(int(exponent)) == d.perUnit; d.exact {
				d.scale += owca.Scale(exponent)
			}
		}
	}
	d.key, d.name, d.kind, d.prefix = name, name, desc.Kind.String(), name
	if o.Labels == nil || slices.Contains(o.Labels, desc.Label) {
		d.label = desc.Label
	}
	if o.Format == OpenMetrics {
		// The samples of the counter x are named x_total, which therefore
		// no other family may be named.
		var total bool
		d.key, total = strings.CutSuffix(name, "_total")
		switch {
		case desc.Kind == owca.Counter && total:
			d.name, d.unsigned = d.key, true
		case desc.Kind == owca.Counter:
			d.kind = "unknown"
		}
	}
	d.valid = validName(d.name) && validName(d.prefix) &&
		(d.label == "" || owca.SanitizeLabelName(d.label) == d.label)

	var h strings.Builder
	if desc.Help != "" {
		fmt.Fprintf(&h, "# HELP %s %s\n", d.name, help(desc.Help, o.Format))
	}
	fmt.Fprintf(&h, "# TYPE %s %s\n", d.name, d.kind)
	if o.Format == OpenMetrics && unit != "" && strings.HasSuffix(d.name, "_"+unit) {
		fmt.Fprintf(&h, "# UNIT %s %s\n", d.name, unit)
	}
	d.header = h.String()
	return d
}

// help escapes a HELP text. A carriage return cannot be escaped, and OpenMetrics
// parsers refuse one at the end of a line.
func help(s string, format Format) string {
	s = strings.NewReplacer(`\`, `\\`, "\r", " ", "\n", `\n`).Replace(strings.ToValidUTF8(s, "\uFFFD"))
	if format == OpenMetrics {
		s = strings.ReplaceAll(s, `"`, `\"`)
	}
	return s
}

// validName says whether name is a metric name of the text format 0.0.4.
func validName(name string) bool {
	for i := range len(name) {
		c := name[i]
		if c != '_' && c != ':' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}

func (e *Encoder) set(labels *owca.Labels) *labelSet {
	s := e.sets[labels]
	if s == nil {
		s = &labelSet{key: labels, text: labels}
		if e.o.Labels != nil {
			kept := make(map[string]string)
			for _, l := range labels.All() {
				if slices.Contains(e.o.Labels, l.Name) {
					kept[l.Name] = l.Value
				}
			}
			s.text = owca.NewLabels(kept)
		}
		e.sets[labels] = s
		e.fresh = append(e.fresh, s)
	}
	s.batch = e.batch
	return s
}

// rank brings e.sorted up to date: the sets of this batch by labels. New ones
// are merged into those that were sorted before.
func (e *Encoder) rank() {
	if len(e.fresh) == 0 && len(e.sorted) == len(e.sets) && !slices.ContainsFunc(e.sorted, e.gone) {
		return
	}
	slices.SortFunc(e.fresh, compareSets)
	merged, fresh := e.merged[:0], e.fresh
	for _, s := range e.sorted {
		if e.gone(s) {
			delete(e.sets, s.key)
			continue
		}
		for len(fresh) > 0 && compareSets(fresh[0], s) < 0 {
			merged, fresh = append(merged, fresh[0]), fresh[1:]
		}
		merged = append(merged, s)
	}
	merged = append(merged, fresh...)
	clear(e.sorted)
	clear(e.fresh)
	e.sorted, e.merged, e.fresh = merged, e.sorted, e.fresh[:0]
	for i, s := range e.sorted {
		s.index, s.rank = int32(i), int32(i)
		if i > 0 && s.text.Text() == e.sorted[i-1].text.Text() {
			s.rank = e.sorted[i-1].rank
		}
	}
}

func (e *Encoder) gone(s *labelSet) bool { return s.batch != e.batch }

func compareSets(a, b *labelSet) int {
	x, y := a.text.All(), b.text.All()
	for i := range min(len(x), len(y)) {
		if c := cmp.Compare(x[i].Name, y[i].Name); c != 0 {
			return c
		}
		if c := compareValues(x[i].Value, y[i].Value); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(x), len(y))
}

// compareValues orders values that are all digits as numbers, and before others.
func compareValues(a, b string) int {
	if a == b {
		return 0
	}
	digitsA, digitsB := allDigits(a), allDigits(b)
	switch {
	case digitsA && digitsB:
		x, y := strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
		if c := cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y)); c != 0 {
			return c
		}
	case digitsA:
		return -1
	case digitsB:
		return 1
	}
	return cmp.Compare(a, b)
}

func allDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// group makes the families of this batch out of its Descs.
func (e *Encoder) group() {
	e.byName = append(e.byName[:0], e.active...)
	slices.SortFunc(e.byName, func(a, b *descState) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.id, b.id))
	})
	e.families = e.families[:0]
	at := int32(0)
	var f *family
	for _, d := range e.byName {
		d.family = -1
		if !d.valid {
			continue
		}
		switch {
		case f == nil || f.first.key != d.key:
			e.families = append(e.families, family{first: d, start: at, end: at, lastSet: -1})
			f = &e.families[len(e.families)-1]
		case d.kind != f.first.kind || d.prefix != f.first.prefix:
			continue
		default:
			f.several = true
			f.mixed = f.mixed || d.label != f.first.label
		}
		d.family = int32(len(e.families) - 1)
		at += d.count
	}
	e.entries = slices.Grow(e.entries[:0], int(at))[:at]
}

// place sorts the metrics into entries: counting sorts, first of the runs by
// labels, then of their metrics by family.
func (e *Encoder) place(metrics []owca.Metric) {
	sets := len(e.sorted)
	e.starts = slices.Grow(e.starts[:0], sets+1)[:sets+1]
	clear(e.starts)
	for i := range e.runs {
		e.starts[e.runs[i].set.rank+1]++
	}
	for i := range sets {
		e.starts[i+1] += e.starts[i]
	}
	e.byRank = slices.Grow(e.byRank[:0], len(e.runs))[:len(e.runs)]
	for i := range e.runs {
		next := &e.starts[e.runs[i].set.rank]
		e.byRank[*next] = int32(i)
		*next++
	}
	for _, i := range e.byRank {
		r := &e.runs[i]
		for i := r.start; i < r.end; i++ {
			d := e.active[e.ids[i]]
			if d.family < 0 {
				e.reject(d, &metrics[i])
				continue
			}
			f := &e.families[d.family]
			e.entries[f.end] = entry{metric: i, set: r.set.index}
			f.end++
			if d.label != "" {
				f.check(d.label, metrics[i].Label, r.set)
			}
		}
	}
	clear(e.runs) // they keep labels alive
}

// check finds out whether the order of the entries is that of the series.
func (f *family) check(name, value string, s *labelSet) {
	if f.lastSet == s.rank {
		if !f.unsorted && compareValues(f.lastLabel, value) > 0 {
			f.unsorted = true
		}
	} else {
		f.lastSet = s.rank
		if _, replaced := s.text.Get(name); replaced {
			f.mixed = true
		}
	}
	// What is not UTF-8 is replaced on its way out, and may become equal.
	if !utf8.ValidString(value) {
		f.mixed = true
	}
	f.lastLabel = value
}

func (e *Encoder) reject(d *descState, m *owca.Metric) {
	fault := "its name is used by another kind of metric"
	switch {
	case d.valid:
		e.rejected.Conflicting++
	case d.desc == nil:
		e.rejected.Invalid++
		fault = "it has no Desc"
	default:
		e.rejected.Invalid++
		fault = "its name or the name of its label is not valid"
	}
	e.example(m, fault)
}

func (e *Encoder) example(m *owca.Metric, fault string) {
	if e.rejected.Example != "" {
		return
	}
	if m.Desc == nil {
		e.rejected.Example = fmt.Sprintf("{%s}: %s", m.Labels.Text(), fault)
	} else {
		e.rejected.Example = fmt.Sprintf("%q{%s} %s=%q: %s", m.Desc.Name, m.Labels.Text(), m.Desc.Label, m.Label, fault)
	}
}

func (e *Encoder) write(w io.Writer, metrics []owca.Metric, now int64) error {
	b := e.buf[:0]
	defer func() {
		// One endless label must not make the buffer large for good.
		if cap(b) <= 2*bufferSize {
			e.buf = b[:0]
		}
	}()
	for i := range e.families {
		f := &e.families[i]
		entries := e.entries[f.start:f.end]
		b = append(b, f.first.header...)
		switch {
		case f.mixed:
			entries = e.untangle(entries, metrics)
		case f.unsorted:
			slices.SortStableFunc(entries, func(a, b entry) int {
				return cmp.Or(cmp.Compare(e.sorted[a.set].rank, e.sorted[b.set].rank),
					compareValues(metrics[a.metric].Label, metrics[b.metric].Label))
			})
		}
		last, lastLabel := int32(-1), ""
		for _, at := range entries {
			m, s := &metrics[at.metric], e.sorted[at.set]
			d := f.first
			if f.several {
				d = e.active[e.ids[at.metric]]
			}
			if s.rank == last && !f.mixed && (d.label == "" || m.Label == lastLabel) {
				e.duplicate(m)
				continue
			}
			last, lastLabel = s.rank, m.Label
			if _, integer := m.Value.IsInt(); !integer && d.unsigned && !(m.Value.Float(owca.One) >= 0) {
				e.rejected.Invalid++
				e.example(m, "a counter is neither negative nor NaN")
				continue
			}
			b = append(b, d.prefix...)
			if d.label != "" {
				b = append(b, '{')
				b = s.text.AppendText(b, d.label, m.Label)
				b = append(b, '}', ' ')
			} else if text := s.text.Text(); text != "" {
				b = append(b, '{')
				b = append(b, text...)
				b = append(b, '}', ' ')
			} else {
				b = append(b, ' ')
			}
			b = d.appendValue(b, m.Value)
			if e.o.Timestamps {
				b = appendTime(b, cmp.Or(m.Time, now), e.o.Format)
			}
			b = append(b, '\n')
			if len(b) >= flushSize {
				if _, err := w.Write(b); err != nil {
					return err
				}
				b = b[:0]
			}
		}
	}
	if e.o.Format == OpenMetrics {
		b = append(b, "# EOF\n"...)
	}
	if len(b) > 0 {
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// untangle sorts a family by the text of its labels, and takes duplicates out:
// where a metric's label replaces one of its set or is not UTF-8, or metrics of
// one name have labels of different names, sets do not tell series apart.
func (e *Encoder) untangle(entries []entry, metrics []owca.Metric) []entry {
	text := func(at entry) string {
		m, labels := &metrics[at.metric], e.sorted[at.set].text
		if d := e.active[e.ids[at.metric]]; d.label != "" {
			return string(labels.AppendText(nil, d.label, m.Label))
		}
		return labels.Text()
	}
	texts := make(map[int32]string, len(entries))
	for _, at := range entries {
		texts[at.metric] = text(at)
	}
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(texts[a.metric], texts[b.metric]), cmp.Compare(a.metric, b.metric))
	})
	unique := entries[:0]
	for i, at := range entries {
		if i > 0 && texts[at.metric] == texts[unique[len(unique)-1].metric] {
			e.duplicate(&metrics[at.metric])
			continue
		}
		unique = append(unique, at)
	}
	return unique
}

func (e *Encoder) duplicate(m *owca.Metric) {
	e.rejected.Duplicate++
	e.example(m, "another metric has the same name and labels")
}

func (d *descState) appendValue(b []byte, v owca.Value) []byte {
	if d.perUnit != 1 {
		if _, integer := v.IsInt(); !integer || !d.exact {
			return owca.Float(v.Float(d.desc.Scale)*d.perUnit).Append(b, owca.One)
		}
	}
	return v.Append(b, d.scale)
}

// appendTime appends a time in ms: as it is, or in seconds for OpenMetrics.
func appendTime(b []byte, ms int64, format Format) []byte {
	b = append(b, ' ')
	scale := owca.One
	if format == OpenMetrics {
		scale = owca.Milli
	}
	if ms < 0 {
		b = append(b, '-')
		ms = -ms
	}
	return owca.Int(uint64(ms)).Append(b, scale)
}
