package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/componenttest"
)

var testTime = time.UnixMilli(1700000000123)

func encode(t *testing.T, o EncoderOptions, metrics []owca.Metric) (string, *RejectedError) {
	t.Helper()
	var b bytes.Buffer
	err := NewEncoder(o).Encode(&b, metrics, testTime)
	var rejected *RejectedError
	if err != nil && !errors.As(err, &rejected) {
		t.Fatal(err)
	}
	return b.String(), rejected
}

// families parses text and checks what the parsers don't: that every family
// has its HELP and TYPE, and that no series occurs twice.
func families(t testing.TB, text []byte, format Format) []*dto.MetricFamily {
	t.Helper()
	kind := expfmt.FmtText
	if format == OpenMetrics {
		kind = expfmt.FmtOpenMetrics_1_0_0
		if !bytes.HasSuffix(text, []byte("# EOF\n")) {
			t.Fatalf("no # EOF at the end: %q", text[max(0, len(text)-100):])
		}
	}
	decoder := expfmt.NewDecoder(bytes.NewReader(text), kind)
	var list []*dto.MetricFamily
	for {
		f := &dto.MetricFamily{}
		err := decoder.Decode(f)
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatalf("%v in\n%.3000s", err, text)
		}
		list = append(list, f)
	}
}

// samples is what the text says, in the terms of the conformance suite.
func samples(t testing.TB, text []byte, format Format) componenttest.Samples {
	t.Helper()
	s := make(componenttest.Samples)
	for _, f := range families(t, text, format) {
		for _, m := range f.GetMetric() {
			name, value := f.GetName(), m.GetGauge().GetValue()
			switch {
			case m.Counter != nil:
				value = m.GetCounter().GetValue()
				if format == OpenMetrics && !strings.HasSuffix(name, "_total") {
					name += "_total"
				}
			case m.Untyped != nil:
				value = m.GetUntyped().GetValue()
			}
			labels := make(map[string]string)
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			series := componenttest.Series(name, labels)
			if _, twice := s[series]; twice {
				t.Errorf("%s occurs twice", series)
			}
			s[series] = value
		}
	}
	return s
}

// a few metrics in a bad order, of all forms.
func few() []owca.Metric {
	task := func(id string) *owca.Labels {
		return owca.NewLabels(map[string]string{"task_id": id, "host": "n\"1\n"})
	}
	ten, nine, text := task("10"), task("9"), task("web")
	return []owca.Metric{
		{Desc: owca.TaskMemoryNUMA, Labels: ten, Label: "10", Value: owca.Int(8192)},
		{Desc: owca.TaskCPUUsage, Labels: text, Value: owca.Int(1_234_000_567_891), Time: 1600000000001},
		{Desc: owca.TaskCPUUsage, Labels: ten, Value: owca.Int(2_000_000_000)},
		{Desc: owca.AgentUp, Value: owca.Int(1)},
		{Desc: owca.TaskMemoryNUMA, Labels: ten, Label: "9", Value: owca.Int(4096)},
		{Desc: owca.TaskCPUUsage, Labels: nine, Value: owca.Int(7)},
		{Desc: owca.PlatformCPUUsage, Label: "0", Value: owca.Int(150)},
		{Desc: owca.TaskCPULimit, Labels: nine, Value: owca.Float(math.Inf(1))},
	}
}

func TestEncodeText(t *testing.T) {
	got, rejected := encode(t, EncoderOptions{}, few())
	want := `# HELP owca_platform_cpu_usage_seconds_total Time each CPU was not idle: user, nice, system, irq, softirq, steal.
# TYPE owca_platform_cpu_usage_seconds_total counter
owca_platform_cpu_usage_seconds_total{cpu="0"} 1.5
# HELP owca_task_cpu_limit_cores CPU quota over period; +Inf = no limit. Summed over its cgroups.
# TYPE owca_task_cpu_limit_cores gauge
owca_task_cpu_limit_cores{host="n\"1\n",task_id="9"} +Inf
# HELP owca_task_cpu_usage_seconds_total CPU time the task used.
# TYPE owca_task_cpu_usage_seconds_total counter
owca_task_cpu_usage_seconds_total{host="n\"1\n",task_id="9"} 0.000000007
owca_task_cpu_usage_seconds_total{host="n\"1\n",task_id="10"} 2
owca_task_cpu_usage_seconds_total{host="n\"1\n",task_id="web"} 1234.000567891
# HELP owca_task_memory_numa_bytes Memory of the task on each NUMA node.
# TYPE owca_task_memory_numa_bytes gauge
owca_task_memory_numa_bytes{host="n\"1\n",numa_node="9",task_id="10"} 4096
owca_task_memory_numa_bytes{host="n\"1\n",numa_node="10",task_id="10"} 8192
# HELP owca_up 1 while the agent runs.
# TYPE owca_up gauge
owca_up 1
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if rejected != nil {
		t.Error(rejected)
	}
}

func TestEncodeOpenMetrics(t *testing.T) {
	metrics := append(few(), owca.Metric{
		Desc:   &owca.Desc{Name: "plugin_events", Kind: owca.Counter, Help: "With \"quotes\", a \\ and\na newline.\r"},
		Labels: owca.NewLabels(map[string]string{"a": "b"}), Value: owca.Int(3), Time: -5,
	})
	got, rejected := encode(t, EncoderOptions{Format: OpenMetrics, Timestamps: true}, metrics)
	want := `# HELP owca_platform_cpu_usage_seconds Time each CPU was not idle: user, nice, system, irq, softirq, steal.
# TYPE owca_platform_cpu_usage_seconds counter
# UNIT owca_platform_cpu_usage_seconds seconds
owca_platform_cpu_usage_seconds_total{cpu="0"} 1.5 1700000000.123
# HELP owca_task_cpu_limit_cores CPU quota over period; +Inf = no limit. Summed over its cgroups.
# TYPE owca_task_cpu_limit_cores gauge
# UNIT owca_task_cpu_limit_cores cores
owca_task_cpu_limit_cores{host="n\"1\n",task_id="9"} +Inf 1700000000.123
# HELP owca_task_cpu_usage_seconds CPU time the task used.
# TYPE owca_task_cpu_usage_seconds counter
# UNIT owca_task_cpu_usage_seconds seconds
owca_task_cpu_usage_seconds_total{host="n\"1\n",task_id="9"} 0.000000007 1700000000.123
owca_task_cpu_usage_seconds_total{host="n\"1\n",task_id="10"} 2 1700000000.123
owca_task_cpu_usage_seconds_total{host="n\"1\n",task_id="web"} 1234.000567891 1600000000.001
# HELP owca_task_memory_numa_bytes Memory of the task on each NUMA node.
# TYPE owca_task_memory_numa_bytes gauge
# UNIT owca_task_memory_numa_bytes bytes
owca_task_memory_numa_bytes{host="n\"1\n",numa_node="9",task_id="10"} 4096 1700000000.123
owca_task_memory_numa_bytes{host="n\"1\n",numa_node="10",task_id="10"} 8192 1700000000.123
# HELP owca_up 1 while the agent runs.
# TYPE owca_up gauge
owca_up 1 1700000000.123
# HELP plugin_events With \"quotes\", a \\ and\na newline. 
# TYPE plugin_events unknown
plugin_events{a="b"} 3 -0.005
# EOF
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if rejected != nil {
		t.Error(rejected)
	}
	if n := len(families(t, []byte(got), OpenMetrics)); n != 6 {
		t.Errorf("%d families, want 6", n)
	}
}

func TestEncodeOriginal(t *testing.T) {
	page := uint64(1 / owca.TaskMemoryNUMA.OriginalPerUnit)
	metrics := append(few(),
		owca.Metric{Desc: owca.TaskMemoryNUMA, Label: "0", Value: owca.Int(3 * page)},
		owca.Metric{Desc: owca.TaskCPUUsage, Value: owca.Int(math.MaxUint64)},
		owca.Metric{Desc: owca.PlatformCPUUsage, Label: "1", Value: owca.Float(0.25)},
	)
	got, rejected := encode(t, EncoderOptions{OriginalNames: true, Timestamps: true, Labels: []string{"task_id", "cpu", "numa_node"}}, metrics)
	for _, line := range []string{
		`cpu_usage_per_task 18446744073709551615 1700000000123`, // no digit is lost
		`cpu_usage_per_task{task_id="9"} 7 1700000000123`,
		`cpu_usage_per_task{task_id="10"} 2000000000 1700000000123`,
		`cpu_usage_per_task{task_id="web"} 1234000567891 1600000000001`,
		`cpu_usage_per_cpu{cpu="0"} 150 1700000000123`,
		`cpu_usage_per_cpu{cpu="1"} 25 1700000000123`,
		`task_mem_numa_pages{numa_node="0"} 3 1700000000123`,
		`owca_task_cpu_limit_cores{task_id="9"} +Inf 1700000000123`, // the original had none
		`owca_up 1 1700000000123`,
	} {
		if !strings.Contains(got, line+"\n") {
			t.Errorf("no line %s in\n%s", line, got)
		}
	}
	if rejected != nil {
		t.Error(rejected)
	}
	families(t, []byte(got), Text)
}

// What becomes equal without the other labels is one series.
func TestEncodeFiltersLabels(t *testing.T) {
	metrics := few()[1:3]
	got, rejected := encode(t, EncoderOptions{Labels: []string{}}, metrics)
	if want := "owca_task_cpu_usage_seconds_total 1234.000567891\n"; !strings.HasSuffix(got, want) || strings.Contains(got, "{") {
		t.Errorf("%s, want the end to be %s", got, want)
	}
	if rejected == nil || rejected.Duplicate != 1 {
		t.Errorf("rejected: %v", rejected)
	}
}

func TestCompareValues(t *testing.T) {
	// Each is less than the next.
	values := []string{
		"0", "00", "01", "1", "2", "9", "10", "18446744073709551616", "99999999999999999999999", "", "-1", "1.5", "1a", "a", "b", "é",
	}
	for i, a := range values {
		for j, b := range values {
			if got, want := compareValues(a, b), cmpInt(i, j); got != want {
				t.Errorf("compare(%q, %q) = %d, want %d", a, b, got, want)
			}
		}
	}
}

func cmpInt(i, j int) int {
	switch {
	case i < j:
		return -1
	case i > j:
		return 1
	}
	return 0
}

func TestEncodeRejects(t *testing.T) {
	labels := owca.NewLabels(map[string]string{"task_id": "1"})
	twin := owca.NewLabels(map[string]string{"task_id": "1"})
	cpu3 := owca.NewLabels(map[string]string{"task_id": "1", "cpu": "3"})
	cpu4 := owca.NewLabels(map[string]string{"task_id": "1", "cpu": "4"})
	gauge := &owca.Desc{Name: "x"}
	gauge2 := &owca.Desc{Name: "x", Help: "Other."}
	counter := &owca.Desc{Name: "x", Kind: owca.Counter}
	counterTotal := &owca.Desc{Name: "x_total", Kind: owca.Counter}
	gaugeTotal := &owca.Desc{Name: "x_total"}
	perCPU := &owca.Desc{Name: "x", Label: "cpu"}
	one, two := owca.Int(1), owca.Int(2)
	tests := []struct {
		name    string
		format  Format
		metrics []owca.Metric
		want    string // samples
		reject  RejectedError
	}{
		{name: "same labels", metrics: []owca.Metric{{Desc: gauge, Labels: labels, Value: one}, {Desc: gauge, Labels: labels, Value: two}},
			want: `x{task_id="1"} 1`, reject: RejectedError{Duplicate: 1}},
		{name: "equal labels", metrics: []owca.Metric{{Desc: gauge, Labels: twin, Value: one}, {Desc: gauge, Labels: labels, Value: two}, {Desc: gauge, Labels: twin, Value: two}},
			want: `x{task_id="1"} 1`, reject: RejectedError{Duplicate: 2}},
		{name: "nil and empty labels", metrics: []owca.Metric{{Desc: gauge, Value: one}, {Desc: gauge, Labels: owca.NewLabels(), Value: two}},
			want: `x 1`, reject: RejectedError{Duplicate: 1}},
		{name: "two Descs", metrics: []owca.Metric{{Desc: gauge, Labels: cpu3, Value: one}, {Desc: gauge2, Labels: labels, Value: two}, {Desc: gauge2, Labels: cpu3, Value: two}},
			want: "x{cpu=\"3\",task_id=\"1\"} 1\nx{task_id=\"1\"} 2", reject: RejectedError{Duplicate: 1}},
		{name: "same label", metrics: []owca.Metric{{Desc: perCPU, Labels: labels, Label: "5", Value: one}, {Desc: perCPU, Labels: labels, Label: "4", Value: one}, {Desc: perCPU, Labels: labels, Label: "5", Value: two}},
			want: "x{cpu=\"4\",task_id=\"1\"} 1\nx{cpu=\"5\",task_id=\"1\"} 1", reject: RejectedError{Duplicate: 1}},
		{name: "replaced label", metrics: []owca.Metric{{Desc: perCPU, Labels: cpu3, Label: "5", Value: one}, {Desc: perCPU, Labels: cpu4, Label: "5", Value: two}},
			want: `x{cpu="5",task_id="1"} 1`, reject: RejectedError{Duplicate: 1}},
		{name: "not UTF-8", metrics: []owca.Metric{{Desc: perCPU, Label: "\xfe", Value: one}, {Desc: perCPU, Label: "\uFFFD", Value: two}, {Desc: perCPU, Label: "\xff", Value: two}},
			want: "x{cpu=\"\uFFFD\"} 1", reject: RejectedError{Duplicate: 2}},
		{name: "label or labels", metrics: []owca.Metric{{Desc: perCPU, Labels: labels, Label: "3", Value: one}, {Desc: gauge, Labels: cpu3, Value: two}, {Desc: gauge, Labels: labels, Value: two}},
			want: "x{cpu=\"3\",task_id=\"1\"} 1\nx{task_id=\"1\"} 2", reject: RejectedError{Duplicate: 1}},
		{name: "kinds", metrics: []owca.Metric{{Desc: counter, Value: one}, {Desc: gauge, Labels: labels, Value: two}},
			want: "x 1", reject: RejectedError{Conflicting: 1}},
		{name: "stray Label", metrics: []owca.Metric{{Desc: gauge, Label: "a", Value: one}, {Desc: gauge, Label: "b", Value: two}},
			want: "x 1", reject: RejectedError{Duplicate: 1}},
		{name: "x and x_total are two", metrics: []owca.Metric{{Desc: gauge, Value: one}, {Desc: counterTotal, Value: two}},
			want: "x 1\nx_total 2"},
		{name: "x and x_total are one", format: OpenMetrics, metrics: []owca.Metric{{Desc: gauge, Value: one}, {Desc: counterTotal, Value: two}},
			want: "x 1", reject: RejectedError{Conflicting: 1}},
		{name: "two x_total", format: OpenMetrics, metrics: []owca.Metric{{Desc: counterTotal, Value: one}, {Desc: gaugeTotal, Labels: labels, Value: two}},
			want: "x_total 1", reject: RejectedError{Conflicting: 1}},
		{name: "counters in OpenMetrics", format: OpenMetrics, metrics: []owca.Metric{{Desc: counterTotal, Labels: labels, Value: owca.Float(math.NaN())}, {Desc: counterTotal, Labels: cpu3, Value: owca.Float(-1)}, {Desc: counterTotal, Value: owca.Float(0)}},
			want: "x_total 0", reject: RejectedError{Invalid: 2}},
		{name: "invalid", metrics: []owca.Metric{{Value: one}, {Desc: &owca.Desc{Name: "a b"}}, {Desc: &owca.Desc{Name: ""}}, {Desc: &owca.Desc{Name: "9"}}, {Desc: &owca.Desc{Name: "a", Label: "__name__"}}, {Desc: gauge, Value: one}},
			want: "x 1", reject: RejectedError{Invalid: 5}},
		{name: "nothing but _total", format: OpenMetrics, metrics: []owca.Metric{{Desc: &owca.Desc{Name: "_total", Kind: owca.Counter}}, {Desc: gauge, Value: one}},
			want: "x 1", reject: RejectedError{Invalid: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text, rejected := encode(t, EncoderOptions{Format: tt.format}, tt.metrics)
			var lines []string
			for line := range strings.Lines(text) {
				if !strings.HasPrefix(line, "#") {
					lines = append(lines, strings.TrimSpace(line))
				}
			}
			if diff := cmp.Diff(tt.want, strings.Join(lines, "\n")); diff != "" {
				t.Error(diff)
			}
			if rejected == nil {
				rejected = &RejectedError{}
			} else if rejected.Example == "" || rejected.Of != len(tt.metrics) || !strings.Contains(rejected.Error(), rejected.Example) {
				t.Errorf("unhelpful: %v", rejected)
			}
			got := RejectedError{Invalid: rejected.Invalid, Conflicting: rejected.Conflicting, Duplicate: rejected.Duplicate}
			if got != tt.reject {
				t.Errorf("%v, want %+v", rejected, tt.reject)
			}
			samples(t, []byte(text), tt.format)
		})
	}
}

// What an encoder remembers makes no difference.
func TestEncodeSequence(t *testing.T) {
	full := batch(20)
	reversed := slices.Clone(full)
	slices.Reverse(reversed)
	doubled := slices.Concat(full[:100], full[:100])
	foreign := []owca.Metric{
		{Desc: &owca.Desc{Name: "owca_task_up", Kind: owca.Counter}, Value: owca.Int(1)},
		{Desc: &owca.Desc{Name: "a", Label: "x"}, Label: "2", Value: owca.Int(1)},
		{Desc: &owca.Desc{Name: "a", Label: "y"}, Label: "1", Value: owca.Int(1)},
	}
	batches := [][]owca.Metric{full, full[300:600], nil, full, reversed, doubled, full[:1], slices.Concat(foreign, full), slices.Concat(full, foreign), batch(40), full}
	for _, o := range []EncoderOptions{{}, {Format: OpenMetrics}, {OriginalNames: true, Labels: []string{"task_id", "x"}}} {
		e := NewEncoder(o)
		for i, metrics := range batches {
			var got bytes.Buffer
			err := e.Encode(&got, metrics, testTime)
			want, rejected := encode(t, o, metrics)
			if got.String() != want {
				t.Fatalf("batch %d, %+v: differs from a new encoder's", i, o)
			}
			var again *RejectedError
			if errors.As(err, &again); (again == nil) != (rejected == nil) || again != nil && *again != *rejected {
				t.Errorf("batch %d: %v, a new encoder says %v", i, again, rejected)
			}
		}
		// Nor does it remember what is gone.
		if err := e.Encode(io.Discard, full[:1], testTime); err != nil {
			t.Fatal(err)
		}
		if len(e.sets) != 1 || len(e.sorted) != 1 || len(e.descs) > 2 {
			t.Errorf("one metric, but %d sets, %d sorted, %d Descs", len(e.sets), len(e.sorted), len(e.descs))
		}
	}
}

func TestEncodeAllocatesNothing(t *testing.T) {
	metrics := batch(100)
	shuffledLabels := slices.Clone(metrics)
	slices.SortStableFunc(shuffledLabels, func(a, b owca.Metric) int { return strings.Compare(a.Desc.Name, b.Desc.Name) })
	for name, metrics := range map[string][]owca.Metric{"by task": metrics, "by name": shuffledLabels} {
		for _, o := range []EncoderOptions{{}, {Format: OpenMetrics}, {OriginalNames: true, Timestamps: true, Labels: []string{"task_id", "numa_node", "reading", "cpuset"}}} {
			e := NewEncoder(o)
			if n := testing.AllocsPerRun(10, func() {
				if err := e.Encode(io.Discard, metrics, testTime); err != nil {
					t.Fatal(err)
				}
			}); n != 0 {
				t.Errorf("%s, %+v: %v allocations", name, o, n)
			}
		}
	}
}

// chunks fails after some bytes, and knows the largest write.
type chunks struct{ left, largest int }

func (c *chunks) Write(b []byte) (int, error) {
	c.largest = max(c.largest, len(b))
	if c.left -= len(b); c.left < 0 {
		return 0, io.ErrShortWrite
	}
	return len(b), nil
}

func TestEncodeStreams(t *testing.T) {
	metrics := batch(200)
	e := NewEncoder(EncoderOptions{})
	w := &chunks{left: math.MaxInt}
	if err := e.Encode(w, metrics, testTime); err != nil {
		t.Fatal(err)
	}
	if w.largest > bufferSize {
		t.Errorf("%d bytes in one write", w.largest)
	}
	if err := e.Encode(&chunks{left: 200_000}, metrics, testTime); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("%v", err)
	}
	// A label of a megabyte passes, but the buffer for it does not stay.
	huge := []owca.Metric{{Desc: owca.TaskUp, Labels: owca.NewLabels(map[string]string{"a": strings.Repeat("x", 1<<20)})}}
	for range 2 {
		if err := e.Encode(io.Discard, huge, testTime); err != nil {
			t.Fatal(err)
		}
		if cap(e.buf) > 2*bufferSize {
			t.Errorf("the buffer keeps %d bytes", cap(e.buf))
		}
	}
	want, _ := encode(t, EncoderOptions{}, metrics)
	var got bytes.Buffer
	if err := e.Encode(&got, metrics, testTime); err != nil || got.String() != want {
		t.Errorf("after a failed write: %v", err)
	}
}

// Every metric of the catalogue, in every form, is what the parsers accept.
func TestEncodeCatalogue(t *testing.T) {
	for _, o := range []EncoderOptions{
		{}, {Format: OpenMetrics}, {OriginalNames: true}, {OriginalNames: true, Format: OpenMetrics},
	} {
		metrics := everything()
		if o.Format == OpenMetrics {
			metrics = metrics[:len(metrics)/2] // the first series of each: the parser is slow
		}
		text, rejected := encode(t, o, metrics)
		if rejected != nil {
			t.Errorf("%+v: %v", o, rejected)
		}
		got := samples(t, []byte(text), o.Format)
		if len(got) != len(metrics) {
			t.Errorf("%+v: %d samples of %d metrics", o, len(got), len(metrics))
		}
	}
}

// everything is two series of each metric of the catalogue.
func everything() []owca.Metric {
	var metrics []owca.Metric
	for j := range 2 {
		for i, d := range owca.Catalogue() {
			m := owca.Metric{Desc: d, Labels: owca.NewLabels(map[string]string{"task_id": fmt.Sprint(j)}), Value: owca.Int(uint64(i + j))}
			if d.Label != "" {
				m.Label = "0"
			}
			metrics = append(metrics, m)
		}
	}
	return metrics
}

// Whatever names, labels and values come in, the output parses, and says what
// went in, but for what was rejected.
func FuzzEncodeText(f *testing.F) {
	fuzzEncode(f, EncoderOptions{}, EncoderOptions{OriginalNames: true, Labels: []string{"l"}})
}

// A target of its own, because the parser is a thousand times slower.
func FuzzEncodeOpenMetrics(f *testing.F) {
	fuzzEncode(f, EncoderOptions{Format: OpenMetrics, Timestamps: true})
}

func fuzzEncode(f *testing.F, options ...EncoderOptions) {
	for _, value := range componenttest.HostileValues() {
		if len(value) < 1000 {
			f.Add("x", "help", "label", value, value, uint64(1), int8(-9), true)
		}
	}
	f.Add("x_total", "a\\b\n\"c\"\r", "cpu", "0", "1", math.Float64bits(math.NaN()), int8(0), false)
	f.Add("a b", "", "a b", "0", "0", uint64(0), int8(0), true)
	f.Add("owca_up", "", "", "", "", uint64(0), int8(3), true)
	f.Add("_total", "\xff", "le", "", "", uint64(0), int8(3), true)
	f.Fuzz(func(t *testing.T, name, help, label, value1, value2 string, bits uint64, scale int8, counter bool) {
		if scale < -30 || scale > 30 {
			t.Skip("no unit is worth that")
		}
		desc := &owca.Desc{Name: name, Help: help, Label: label, Scale: owca.Scale(scale), Unit: "seconds", Original: "original"}
		if counter {
			desc.Kind = owca.Counter
		}
		labels := owca.NewLabels(map[string]string{"l": value1, label: value2, value1: value2})
		plain := &owca.Desc{Name: name, Kind: desc.Kind}
		metrics := []owca.Metric{
			{Desc: owca.AgentUp, Value: owca.Int(1)},
			{Desc: desc, Labels: labels, Label: value1, Value: owca.Int(bits)},
			{Desc: desc, Labels: labels, Label: value2, Value: owca.Float(math.Float64frombits(bits))},
			{Desc: desc, Label: value2, Value: owca.Int(bits)},
			{Desc: plain, Labels: labels, Value: owca.Int(bits)},
			{Desc: plain, Value: owca.Int(bits)},
		}
		for _, o := range options {
			text, rejected := encode(t, o, metrics)
			got := samples(t, []byte(text), o.Format)
			if rejected == nil {
				rejected = &RejectedError{}
			}
			if n := len(got) + rejected.Invalid + rejected.Conflicting + rejected.Duplicate; n != len(metrics) {
				t.Fatalf("%d samples, of %d metrics, and %v\n%s", len(got), len(metrics), rejected, text)
			}
			if got["owca_up"] != 1 {
				t.Errorf("the agent's own metric is lost:\n%s", text)
			}
			if o.OriginalNames || rejected.Invalid+rejected.Conflicting > 0 || name == "owca_up" {
				continue
			}
			want := make(map[string]string)
			for _, l := range labels.All() {
				want[l.Name] = l.Value
			}
			if label != "" {
				want[label] = string([]rune(value1))
			}
			nearest := scaled(bits, int(scale))
			if v, ok := got[componenttest.Series(name, want)]; !ok || v != nearest {
				t.Errorf("%v, %v; want %v\n%s", v, ok, nearest, text)
			}
		}
	})
}

// scaled returns the float64 nearest to n × 10^scale.
func scaled(n uint64, scale int) float64 {
	r := new(big.Rat).SetInt(new(big.Int).SetUint64(n))
	factor := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(scale, -scale))), nil))
	if scale < 0 {
		r.Quo(r, factor)
	} else {
		r.Mul(r, factor)
	}
	f, _ := r.Float64()
	return f
}
