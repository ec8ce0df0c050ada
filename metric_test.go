package owca_test

import (
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/owca-project/owca"
)

func TestValueAppend(t *testing.T) {
	tests := []struct {
		value owca.Value
		scale owca.Scale
		want  string
	}{
		{owca.Int(0), owca.One, "0"},
		{owca.Int(0), owca.Nano, "0"},
		{owca.Int(0), 3, "0"},
		{owca.Int(7), 3, "7000"},
		{owca.Int(1), owca.Nano, "0.000000001"},
		{owca.Int(100), owca.Nano, "0.0000001"},
		{owca.Int(999_999_999), owca.Nano, "0.999999999"},
		{owca.Int(1_000_000_000), owca.Nano, "1"},
		{owca.Int(1_234_000_567_891), owca.Nano, "1234.000567891"},
		{owca.Int(1_500_000_000), owca.Nano, "1.5"},
		{owca.Int(50), owca.Centi, "0.5"},
		{owca.Int(12345), owca.Centi, "123.45"},
		{owca.Int(120), owca.Centi, "1.2"},
		{owca.Int(math.MaxUint64), owca.One, "18446744073709551615"},
		{owca.Int(math.MaxUint64), owca.Nano, "18446744073.709551615"},
		{owca.Int(math.MaxUint64), -20, "0.18446744073709551615"},
		{owca.Int(math.MaxUint64), -25, "0.0000018446744073709551615"},
		{owca.Float(0), owca.One, "0"},
		{owca.Float(0.1), owca.Nano, "0.1"}, // floats are in base units
		{owca.Float(-3), owca.One, "-3"},
		{owca.Float(1e15), owca.One, "1e+15"},
		{owca.Float(1e15 - 1), owca.One, "999999999999999"},
		{owca.Float(math.Inf(1)), owca.One, "+Inf"},
		{owca.Float(math.Inf(-1)), owca.One, "-Inf"},
		{owca.Float(math.NaN()), owca.One, "NaN"},
		{owca.Float(5e-324), owca.One, "5e-324"},
	}
	for _, tt := range tests {
		if got := string(tt.value.Append([]byte("x "), tt.scale)); got != "x "+tt.want {
			t.Errorf("%v at scale %d: %q, want %q", tt.value, tt.scale, got, tt.want)
		}
	}
}

func TestValueAppendAllocatesNothing(t *testing.T) {
	b := make([]byte, 0, 64)
	values := []owca.Value{owca.Int(0), owca.Int(3), owca.Int(math.MaxUint64), owca.Float(0.1), owca.Float(math.Inf(1))}
	if n := testing.AllocsPerRun(100, func() {
		for _, v := range values {
			for _, scale := range []owca.Scale{owca.One, owca.Centi, owca.Nano} {
				b = v.Append(b[:0], scale)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// An integer's text is exactly n × 10^scale, in the shortest form; both its text
// and Value.Float are the nearest float64 where that is what the value fits.
func FuzzValueInt(f *testing.F) {
	for _, n := range []uint64{0, 1, 10, 99, 1e9, 1e9 + 1, 1<<53 + 1, math.MaxUint64} {
		for _, scale := range []int8{0, -2, -3, -6, -9, 4, -19, -20, -30} {
			f.Add(n, scale)
		}
	}
	f.Fuzz(func(t *testing.T, n uint64, scale int8) {
		if scale < -60 || scale > 60 {
			t.Skip("no unit is worth that")
		}
		text := string(owca.Int(n).Append(nil, owca.Scale(scale)))
		got, ok := new(big.Rat).SetString(text)
		if !ok {
			t.Fatalf("%q is not a number", text)
		}
		want := new(big.Rat).SetInt(new(big.Int).SetUint64(n))
		ten := new(big.Rat).SetInt64(10)
		for range max(scale, -scale) {
			if scale > 0 {
				want.Mul(want, ten)
			} else {
				want.Quo(want, ten)
			}
		}
		if got.Cmp(want) != 0 {
			t.Errorf("%d at scale %d: %q", n, scale, text)
		}
		if strings.Trim(text, "0123456789.") != "" || text[0] == '.' || len(text) > 1 && text[0] == '0' && text[1] != '.' ||
			strings.Contains(text, ".") && strings.TrimRight(text, "0.") != text {
			t.Errorf("%q is not the shortest form", text)
		}
		if scale <= 0 && scale >= int8(owca.Nano) && n < 1<<53 {
			nearest, _ := want.Float64()
			if f := owca.Int(n).Float(owca.Scale(scale)); f != nearest {
				t.Errorf("%d at scale %d: Float %v, nearest %v", n, scale, f, nearest)
			}
		}
	})
}

// A float's text reads back as the same float, and is what strconv says but
// for whole numbers, which are written without an exponent.
func FuzzValueFloat(f *testing.F) {
	for _, v := range []float64{0, 1, -1, 0.1, 1e15, -1e15, 1 << 62, 1 << 63, -1 << 63, math.MaxFloat64, 5e-324, math.Inf(1), math.Inf(-1), math.NaN()} {
		f.Add(math.Float64bits(v))
	}
	f.Fuzz(func(t *testing.T, bits uint64) {
		v := math.Float64frombits(bits)
		text := string(owca.Float(v).Append(nil, owca.Nano))
		got, err := strconv.ParseFloat(text, 64)
		if err != nil || got != v && !(math.IsNaN(got) && math.IsNaN(v)) {
			t.Errorf("%v: %q reads back as %v, %v", v, text, got, err)
		}
		whole := v == math.Trunc(v) && math.Abs(v) < 1e15
		if want := strconv.FormatFloat(v, 'g', -1, 64); !whole && text != want {
			t.Errorf("%v: %q, want %q", v, text, want)
		}
		if whole && strings.ContainsAny(text, "e.") {
			t.Errorf("%v: %q", v, text)
		}
	})
}

func TestNewLabels(t *testing.T) {
	l := owca.NewLabels(
		map[string]string{"b": "1", "a.x": "dot", "a-x": "dash", "c": "first"},
		map[string]string{"c": "second", "bad": "\xff\xfe!", "9": "digit", "": "empty", "__x": "reserved"},
	)
	want := []owca.Label{
		{Name: "_", Value: "empty"}, {Name: "_9", Value: "digit"}, {Name: "_x", Value: "reserved"},
		{Name: "a_x", Value: "dot"}, {Name: "b", Value: "1"}, {Name: "bad", Value: "\uFFFD!"}, {Name: "c", Value: "second"},
	}
	if diff := cmp.Diff(want, l.All()); diff != "" {
		t.Error(diff)
	}
	if got, want := l.Text(), `_="empty",_9="digit",_x="reserved",a_x="dot",b="1",bad="`+"\uFFFD"+`!",c="second"`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if v, ok := l.Get("c"); v != "second" || !ok {
		t.Errorf("c = %q, %v", v, ok)
	}
	if v, ok := l.Get("cc"); ok {
		t.Errorf("cc = %q", v)
	}
}

func TestNoLabels(t *testing.T) {
	for _, l := range []*owca.Labels{nil, owca.NewLabels(), owca.NewLabels(nil, map[string]string{})} {
		if l.Len() != 0 || len(l.All()) != 0 || l.Text() != "" {
			t.Errorf("%d labels, %v, %q", l.Len(), l.All(), l.Text())
		}
		if _, ok := l.Get(""); ok {
			t.Error("has a label")
		}
		if got := string(l.AppendText(nil, "a", "b")); got != `a="b"` {
			t.Error(got)
		}
	}
}

// NewLabels makes valid labels of anything, and Text says the same as All.
func FuzzLabels(f *testing.F) {
	f.Add("a", "1", "b", "2", "c", "3")
	f.Add("a.b", "x\ny", "a-b", `"\`, "__name__", "\xff")
	f.Add("", "", "9", "\x00", "ż", "🐢")
	f.Add("b", "1", "d", "2", "b", "3")
	f.Add("b", "1", "d", "2", "a", "3")
	f.Fuzz(func(t *testing.T, n1, v1, n2, v2, extraName, extraValue string) {
		l := owca.NewLabels(map[string]string{n1: v1, n2: v2})
		var names []string
		for _, p := range l.All() {
			names = append(names, p.Name)
			if !utf8.ValidString(p.Value) {
				t.Errorf("%q is not UTF-8", p.Value)
			}
			if v, ok := l.Get(p.Name); !ok || v != p.Value {
				t.Errorf("Get(%q) = %q, %v", p.Name, v, ok)
			}
		}
		if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
			t.Errorf("names %q are not sorted and unique", names)
		}
		if diff := cmp.Diff(pairs(l.All()), parse(t, l.Text())); diff != "" {
			t.Errorf("%s: %s", l.Text(), diff)
		}

		// One more label is the same as having had it from the start.
		name := owca.SanitizeLabelName(extraName)
		if utf8.ValidString(extraValue) {
			all := pairs(l.All())
			all[name] = extraValue
			if got, want := string(l.AppendText([]byte("# "), name, extraValue)), "# "+owca.NewLabels(all).Text(); got != want {
				t.Errorf("AppendText(%q, %q) to %s: %s", name, extraValue, l.Text(), got)
			}
		}
	})
}

func pairs(labels []owca.Label) map[string]string {
	m := make(map[string]string)
	for _, l := range labels {
		m[l.Name] = l.Value
	}
	return m
}

// parse reads the labels of the Prometheus text format.
func parse(t *testing.T, text string) map[string]string {
	t.Helper()
	labels := make(map[string]string)
	for text != "" {
		name, rest, ok := strings.Cut(text, `="`)
		if !ok || !validName(name) {
			t.Fatalf("%q is not a label", text)
		}
		var value strings.Builder
		i := 0
		for ; i < len(rest) && rest[i] != '"'; i++ {
			c := rest[i]
			if c == '\n' {
				t.Fatalf("a bare newline in %q", text)
			}
			if c == '\\' {
				i++
				replaced, ok := map[byte]byte{'n': '\n', '\\': '\\', '"': '"'}[rest[i]]
				if !ok {
					t.Fatalf("\\%c in %q", rest[i], text)
				}
				c = replaced
			}
			value.WriteByte(c)
		}
		if i == len(rest) {
			t.Fatalf("no closing quote in %q", text)
		}
		if _, twice := labels[name]; twice {
			t.Fatalf("%s twice in %q", name, text)
		}
		labels[name] = value.String()
		text = rest[i+1:]
		if text != "" {
			if text, ok = strings.CutPrefix(text, ","); !ok || text == "" {
				t.Fatalf("no comma before %q", text)
			}
		}
	}
	return labels
}

func validName(name string) bool {
	for i, c := range []byte(name) {
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != "" && !strings.HasPrefix(name, "__")
}

func FuzzSanitizeLabelName(f *testing.F) {
	for _, name := range []string{"", "a", "a.b/c-d", "9", "__name__", "___", "0__", "żółw", "\xff", "_a", "é_"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		got := owca.SanitizeLabelName(name)
		if !validName(got) {
			t.Errorf("%q becomes %q, which is not valid", name, got)
		}
		if again := owca.SanitizeLabelName(got); again != got {
			t.Errorf("%q becomes %q becomes %q", name, got, again)
		}
		if validName(name) && got != name {
			t.Errorf("%q is valid, but becomes %q", name, got)
		}
	})
}

func TestMetricString(t *testing.T) {
	labels := owca.NewLabels(map[string]string{"b": "x\n", "d": "y"})
	m := owca.Metric{Desc: owca.PlatformCPUUsage, Labels: labels, Label: "3", Value: owca.Int(150)}
	if got, want := m.String(), `owca_platform_cpu_usage_seconds_total{b="x\n",cpu="3",d="y"} 1.5`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	m = owca.Metric{Desc: owca.AgentUp, Value: owca.Int(1)}
	if got, want := m.String(), `owca_up{} 1`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func BenchmarkValueAppend(b *testing.B) {
	buf := make([]byte, 0, 64)
	for _, v := range []struct {
		name  string
		value owca.Value
		scale owca.Scale
	}{
		{"nano", owca.Int(123_456_789_012_345), owca.Nano},
		{"micro", owca.Int(123_456_789_012), owca.Micro},
		{"int", owca.Int(123_456_789_012), owca.One},
		{"whole", owca.Float(1 << 30), owca.One},
		{"ratio", owca.Float(0.123456789), owca.One},
	} {
		b.Run(v.name, func(b *testing.B) {
			for b.Loop() {
				buf = v.value.Append(buf[:0], v.scale)
			}
		})
	}
}

func BenchmarkLabels(b *testing.B) {
	set := make(map[string]string)
	for i := range 12 {
		set[fmt.Sprintf("label_%d", i)] = strings.Repeat("v", 12)
	}
	l := owca.NewLabels(set)
	b.Run("NewLabels", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			owca.NewLabels(maps.Clone(set))
		}
	})
	buf := make([]byte, 0, 1024)
	b.Run("AppendText", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			buf = l.AppendText(buf[:0], "label_5_", "3")
		}
	})
}
