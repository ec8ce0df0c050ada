package owca

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Kind is how a metric behaves.
type Kind uint8

// The kinds of metrics.
const (
	Gauge   Kind = iota // may go up and down
	Counter             // goes up until whatever it counts for starts anew
)

// String returns the kind's name in the Prometheus text format.
func (k Kind) String() string {
	if k == Counter {
		return "counter"
	}
	return "gauge"
}

// Scale is what one step of an integer value is worth in its base unit, as a
// power of ten: the files of the kernel count in ns, µs, or 10 ms (USER_HZ).
type Scale int8

// The scales in use.
const (
	One   Scale = 0
	Centi Scale = -2 // USER_HZ ticks: 1/100 s on every architecture Linux runs owca on
	Milli Scale = -3
	Micro Scale = -6
	Nano  Scale = -9
)

// Float is the factor as a number: 1e-9 for Nano.
func (s Scale) Float() float64 { return math.Pow10(int(s)) }

// Desc describes one metric: what all its series have in common. A Desc is
// compared by its address; it never changes once it is in use.
type Desc struct {
	// Name as in Prometheus: base unit, "_total" for counters.
	Name string
	Kind Kind
	// Unit is the base unit: "seconds", "bytes", "ratio", "cores", … or "" for counts.
	Unit string
	// Scale is what one step of an integer value is worth in Unit.
	Scale Scale
	Help  string
	// Source is where the value comes from: kernel files, or a formula.
	Source string
	// Label names the one label that tells readings of this metric apart
	// beside those of the task or host: "cpu", "numa_node". "" = none.
	Label string
	// Original is the name in the original agent or its successor, "" = none.
	Original string
	// OriginalPerUnit is what one Unit is in the original's unit: 1e9 where
	// it counted nanoseconds. 0 means 1.
	OriginalPerUnit float64
	// Derived: computed from two samples by the formula in Source.
	Derived bool
}

// Value is a number: an unsigned integer, as counters are, or a float.
type Value struct {
	bits  uint64
	float bool
}

// Int makes an integer value.
func Int(n uint64) Value { return Value{bits: n} }

// Float makes a float value.
func Float(f float64) Value { return Value{bits: math.Float64bits(f), float: true} }

// IsInt reports whether v is an integer; n is then its value, in steps of the
// Desc's Scale.
func (v Value) IsInt() (n uint64, ok bool) {
	if v.float {
		return 0, false
	}
	return v.bits, true
}

// Float returns v in base units: an integer is multiplied by scale, a float is
// in base units already.
func (v Value) Float(scale Scale) float64 {
	if v.float {
		return math.Float64frombits(v.bits)
	}
	switch {
	case scale == One:
		return float64(v.bits)
	case scale < 0 && scale >= Nano:
		// Dividing by a power of ten is exact where multiplying by its
		// inverse is not.
		return float64(v.bits) / pow10[-scale]
	}
	return float64(v.bits) * scale.Float()
}

var pow10 = [...]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9}

// Append appends v in base units, in the shortest form that loses nothing:
// integers keep every digit ("1234.000567891" at Nano), floats are as
// strconv's 'g' with "+Inf", "-Inf" and "NaN".
func (v Value) Append(b []byte, scale Scale) []byte {
	if v.float {
		f := math.Float64frombits(v.bits)
		// Most gauges are whole numbers, for which AppendInt is much cheaper.
		if n := int64(f); float64(n) == f && n > -1e15 && n < 1e15 {
			return strconv.AppendInt(b, n, 10)
		}
		return strconv.AppendFloat(b, f, 'g', -1, 64)
	}
	start := len(b)
	b = strconv.AppendUint(b, v.bits, 10)
	if scale >= 0 {
		for ; scale > 0 && v.bits != 0; scale-- {
			b = append(b, '0')
		}
		return b
	}
	// The digits are there; what is left is to move the decimal point.
	frac := -int(scale)
	if missing := frac + 1 - (len(b) - start); missing > 0 {
		for range missing {
			b = append(b, '0')
		}
		copy(b[start+missing:], b[start:])
		for i := range missing {
			b[start+i] = '0'
		}
	}
	point, end := len(b)-frac, len(b)
	for end > point && b[end-1] == '0' {
		end--
	}
	if end == point {
		return b[:point]
	}
	b = append(b[:end], 0)
	copy(b[point+1:], b[point:end])
	b[point] = '.'
	return b
}

// String returns v without a scale, for debugging.
func (v Value) String() string { return string(v.Append(nil, One)) }

// Metric is one sample of one series on its way to a Storage.
type Metric struct {
	Desc   *Desc
	Labels *Labels // nil = none
	Label  string  // value of Desc.Label
	Value  Value
	Time   int64 // Unix milliseconds; 0 = now
}

// Label is one name and value.
type Label struct{ Name, Value string }

// Labels is an immutable set of labels, sorted by name, names unique and valid
// for Prometheus, values valid UTF-8. The nil *Labels is the empty set.
type Labels struct {
	pairs []Label
	text  string
	ends  []int32 // where each pair ends in text, without the comma
}

// NewLabels joins sets of labels; where a name occurs twice the later set
// wins. Names are sanitised ([SanitizeLabelName]); where two names of one set
// become the same one, the lexically last of the originals wins. Invalid UTF-8
// in values becomes U+FFFD.
func NewLabels(sets ...map[string]string) *Labels {
	merged := make(map[string]string)
	for _, set := range sets {
		for _, name := range slices.Sorted(maps.Keys(set)) {
			merged[SanitizeLabelName(name)] = set[name]
		}
	}
	l := &Labels{pairs: make([]Label, 0, len(merged)), ends: make([]int32, 0, len(merged))}
	for name, value := range merged {
		l.pairs = append(l.pairs, Label{name, strings.ToValidUTF8(value, "\uFFFD")})
	}
	slices.SortFunc(l.pairs, func(a, b Label) int { return cmp.Compare(a.Name, b.Name) })
	var text []byte
	for i, p := range l.pairs {
		if i > 0 {
			text = append(text, ',')
		}
		text = AppendLabel(text, p.Name, p.Value)
		l.ends = append(l.ends, int32(len(text)))
	}
	l.text = string(text)
	return l
}

// Len returns the number of labels.
func (l *Labels) Len() int {
	if l == nil {
		return 0
	}
	return len(l.pairs)
}

// All returns the labels, sorted by name. The caller does not change them.
func (l *Labels) All() []Label {
	if l == nil {
		return nil
	}
	return l.pairs
}

// Get returns the value of a label.
func (l *Labels) Get(name string) (string, bool) {
	if l == nil {
		return "", false
	}
	i, ok := slices.BinarySearchFunc(l.pairs, name, func(p Label, n string) int { return cmp.Compare(p.Name, n) })
	if !ok {
		return "", false
	}
	return l.pairs[i].Value, true
}

// Text returns the labels as the Prometheus text format has them between the
// braces: `a="b",c="d\n"`, "" for none. It is computed once per set, because
// every line of every tick needs it.
func (l *Labels) Text() string {
	if l == nil {
		return ""
	}
	return l.text
}

// AppendText appends Text with one more label at its sorted place, replacing
// one of the same name.
func (l *Labels) AppendText(b []byte, name, value string) []byte {
	if l == nil || len(l.pairs) == 0 {
		return AppendLabel(b, name, value)
	}
	i, found := slices.BinarySearchFunc(l.pairs, name, func(p Label, n string) int { return cmp.Compare(p.Name, n) })
	if i > 0 {
		b = append(b, l.text[:l.ends[i-1]]...)
		b = append(b, ',')
	}
	b = AppendLabel(b, name, value)
	if found {
		i++
	}
	if i < len(l.pairs) {
		start := int32(0)
		if i > 0 {
			start = l.ends[i-1] + 1
		}
		b = append(b, ',')
		b = append(b, l.text[start:]...)
	}
	return b
}

// AppendLabel appends name="value", escaped as the Prometheus text format
// wants it: backslash, quote and newline. Invalid UTF-8 becomes U+FFFD.
func AppendLabel(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, '=', '"')
	for i := 0; i < len(value); {
		switch c := value[i]; {
		case c == '\\' || c == '"':
			b = append(b, '\\', c)
			i++
		case c == '\n':
			b = append(b, '\\', 'n')
			i++
		case c < utf8.RuneSelf:
			b = append(b, c)
			i++
		default:
			r, size := utf8.DecodeRuneInString(value[i:])
			b = utf8.AppendRune(b, r)
			i += size
		}
	}
	return append(b, '"')
}

// SanitizeLabelName makes a valid Prometheus label name: what is not a letter,
// digit or underscore becomes "_", a digit at the start gets a "_" before it,
// and the reserved "__" at the start is reduced to one.
func SanitizeLabelName(name string) string {
	valid := name != "" && !strings.HasPrefix(name, "__")
	for i := 0; valid && i < len(name); i++ {
		valid = isLabelByte(name[i]) && (i > 0 || name[i] < '0' || name[i] > '9')
	}
	if valid {
		return name
	}
	b := make([]byte, 0, len(name)+1)
	if name == "" || name[0] >= '0' && name[0] <= '9' {
		b = append(b, '_')
	}
	for _, r := range name {
		if r < utf8.RuneSelf && isLabelByte(byte(r)) {
			b = append(b, byte(r))
		} else {
			b = append(b, '_')
		}
	}
	for len(b) > 1 && b[0] == '_' && b[1] == '_' {
		b = b[1:]
	}
	return string(b)
}

func isLabelByte(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// String renders the metric as a line of the text format, for messages and tests.
func (m Metric) String() string {
	labels := m.Labels.Text()
	if m.Desc.Label != "" {
		labels = string(m.Labels.AppendText(nil, m.Desc.Label, m.Label))
	}
	return fmt.Sprintf("%s{%s} %s", m.Desc.Name, labels, m.Value.Append(nil, m.Desc.Scale))
}
