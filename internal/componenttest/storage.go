// Package componenttest checks that components keep the promises of the
// interfaces they implement: one suite for each interface, which every
// implementation runs.
package componenttest

import (
	"context"
	"fmt"
	"maps"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/owca-project/owca"
)

// Samples are what a storage published: values in base units, by [Series].
type Samples map[string]float64

// Series is the key of a series in Samples.
func Series(name string, labels map[string]string) string {
	var b strings.Builder
	b.WriteString(name)
	for _, label := range slices.Sorted(maps.Keys(labels)) {
		fmt.Fprintf(&b, " %s=%q", label, labels[label])
	}
	return b.String()
}

// Storage checks what every [owca.Storage] promises. For each check open makes
// one, starts it, and has the test's cleanup close it. The function that open
// returns beside it reads back what the last Store published, by means of the
// storage's own technology, and fails the test if that is not well-formed; nil
// if nothing can be read back.
//
// A storage writes names and labels as they are ("names: original" and the like
// are not for this test).
func Storage(t *testing.T, open func(t *testing.T) (owca.Storage, func() Samples)) {
	checks := []struct {
		name    string
		batches [][]owca.Metric // stored one after the other, each read back
	}{
		{"one", [][]owca.Metric{plain(1)}},
		{"empty", [][]owca.Metric{nil, {}, plain(3), nil, plain(3)}},
		{"hostile labels", [][]owca.Metric{hostileLabels()}},
		{"values", [][]owca.Metric{values()}},
		{"scales", [][]owca.Metric{scales()}},
		{"shrinks and grows", [][]owca.Metric{plain(100), plain(2), plain(500), plain(1)}},
		{"labels come and go", [][]owca.Metric{plain(10)[:50], plain(10)[50:], plain(10)}},
		{"big", [][]owca.Metric{plain(2000)}},
	}
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			s, read := open(t)
			for i, batch := range c.batches {
				want := expected(batch)
				if err := s.Store(t.Context(), batch); err != nil {
					t.Fatalf("batch %d: %v", i, err)
				}
				same(t, read, want)
			}
		})
	}

	t.Run("any order", func(t *testing.T) {
		s, read := open(t)
		batch := plain(50)
		want := expected(batch)
		// A fixed seed: the same orders each time.
		random := rand.New(rand.NewPCG(1, 2))
		for range 5 {
			random.Shuffle(len(batch), func(i, j int) { batch[i], batch[j] = batch[j], batch[i] })
			if err := s.Store(t.Context(), batch); err != nil {
				t.Fatal(err)
			}
			same(t, read, want)
		}
	})

	t.Run("does not keep the slice", func(t *testing.T) {
		s, read := open(t)
		batch := plain(50)
		want := expected(batch)
		if err := s.Store(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		for i := range batch {
			batch[i] = owca.Metric{Desc: owca.AgentUp, Value: owca.Int(666)}
		}
		same(t, read, want)
	})

	t.Run("cancelled", func(t *testing.T) {
		s, read := open(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		batch := plain(500)
		if err := s.Store(ctx, batch); err == nil {
			// Then it has done all of it.
			same(t, read, expected(batch))
		}
		batch = plain(3)
		if err := s.Store(t.Context(), batch); err != nil {
			t.Fatalf("after a cancelled Store: %v", err)
		}
		same(t, read, expected(batch))
	})

	t.Run("contradictions", func(t *testing.T) {
		s, read := open(t)
		good := plain(20)
		bad := contradictions()
		want := expected(good)
		for i, batch := range [][]owca.Metric{slices.Concat(good, bad), good, good} {
			// What is wrong with some metrics may be an error, also when
			// it is noticed late, but does not keep the others away.
			if err := s.Store(t.Context(), batch); err != nil && i == 2 {
				t.Fatalf("after a bad batch and a good one: %v", err)
			}
			if read == nil {
				continue
			}
			got := read()
			for series, value := range want {
				if v, ok := got[series]; !ok || v != value {
					t.Errorf("%s = %v, %v; want %v", series, v, ok, value)
				}
			}
		}
	})
}

func same(t *testing.T, read func() Samples, want Samples) {
	t.Helper()
	if read == nil {
		return
	}
	got := read()
	wrong := 0
	report := func(format string, args ...any) {
		t.Helper()
		if wrong++; wrong <= 10 {
			t.Errorf(format, args...)
		}
	}
	for series, w := range want {
		g, ok := got[series]
		switch {
		case !ok:
			report("%.200s is missing", series)
		case g != w && !(math.IsNaN(g) && math.IsNaN(w)):
			report("%.200s = %v, want %v", series, g, w)
		}
	}
	for series := range got {
		if _, ok := want[series]; !ok {
			report("%.200s was never stored", series)
		}
	}
	if wrong > 10 {
		t.Errorf("and %d more", wrong-10)
	}
}

// expected is computed without the code that storages use to do the same.
func expected(metrics []owca.Metric) Samples {
	s := make(Samples)
	for _, m := range metrics {
		labels := make(map[string]string)
		for _, l := range m.Labels.All() {
			labels[l.Name] = l.Value
		}
		if m.Desc.Label != "" {
			labels[m.Desc.Label] = string([]rune(m.Label))
		}
		s[Series(m.Desc.Name, labels)] = base(m)
	}
	return s
}

// base is the float64 nearest to a value in base units.
func base(m owca.Metric) float64 {
	n, ok := m.Value.IsInt()
	if !ok {
		return m.Value.Float(owca.One)
	}
	ten := big.NewInt(10)
	scale := int64(m.Desc.Scale)
	r := new(big.Rat).SetInt(new(big.Int).SetUint64(n))
	if scale < 0 {
		r.Quo(r, new(big.Rat).SetInt(ten.Exp(ten, big.NewInt(-scale), nil)))
	} else {
		r.Mul(r, new(big.Rat).SetInt(ten.Exp(ten, big.NewInt(scale), nil)))
	}
	f, _ := r.Float64()
	return f
}

// plain are metrics as the agent makes them: of tasks, five each, one of which
// has a label of its own.
func plain(tasks int) []owca.Metric {
	var metrics []owca.Metric
	for i := range tasks {
		labels := owca.NewLabels(map[string]string{
			"task_id": fmt.Sprintf("task-%d", i*7919%tasks), "host": "node-1", "n": fmt.Sprint(i),
		})
		metrics = append(metrics,
			owca.Metric{Desc: owca.TaskCPUUsage, Labels: labels, Value: owca.Int(uint64(i) * 1_000_000_007)},
			owca.Metric{Desc: owca.TaskMemoryUsage, Labels: labels, Value: owca.Int(uint64(i) << 20)},
			owca.Metric{Desc: owca.TaskMemoryNUMA, Labels: labels, Label: "1", Value: owca.Int(uint64(i))},
			owca.Metric{Desc: owca.TaskMemoryNUMA, Labels: labels, Label: "0", Value: owca.Int(uint64(2 * i))},
			owca.Metric{Desc: owca.TaskCPUPressureSomeRatio, Labels: labels, Value: owca.Float(1 / float64(i+1))},
		)
	}
	return append(metrics,
		owca.Metric{Desc: owca.AgentUp, Value: owca.Int(1)},
		owca.Metric{Desc: owca.PlatformLoad1, Labels: owca.NewLabels(), Value: owca.Float(0.25)})
}

// HostileValues are label values that anybody may give to a task.
func HostileValues() []string {
	return []string{
		"", " ", `"`, `\`, `\"`, `\\`, `\n`, "\n", "\r\n", "\t", "\x00", "a\nb\"c\\d",
		"\xff\xfe", "a\xc3", "\xed\xa0\x80", "\uFFFD", "żółw 🐢", "\u202e\u2028", "{}", `",x="`, "} 1\n# EOF\n",
		"# HELP x y", "+Inf", "007", "7", strings.Repeat("x", 100_000), strings.Repeat("\"\n", 10_000),
	}
}

func hostileLabels() []owca.Metric {
	var metrics []owca.Metric
	for i, value := range HostileValues() {
		labels := owca.NewLabels(map[string]string{
			"value": value, "id": fmt.Sprint(i), "__name__": "x", "le": value, "ż" + value[:min(len(value), 20)]: "name",
		})
		metrics = append(metrics,
			owca.Metric{Desc: owca.TaskUp, Labels: labels, Value: owca.Int(uint64(i))},
			owca.Metric{Desc: owca.TaskCPUSetInfo, Labels: labels, Label: value, Value: owca.Int(uint64(i))})
	}
	return metrics
}

func values() []owca.Metric {
	var metrics []owca.Metric
	for i, f := range []float64{
		0, 1, -1, 0.1, 1.0 / 3, 1e-320, 5e-324, math.MaxFloat64, -math.MaxFloat64, 1e15, 1e15 + 2, 123456789012345680,
		math.Inf(1), math.Inf(-1), math.NaN(), math.Pi, 1 << 53, 1<<53 + 2,
	} {
		labels := owca.NewLabels(map[string]string{"i": fmt.Sprint(i)})
		metrics = append(metrics, owca.Metric{Desc: owca.TaskCPULimit, Labels: labels, Value: owca.Float(f)})
	}
	return metrics
}

func scales() []owca.Metric {
	var metrics []owca.Metric
	for _, desc := range []*owca.Desc{
		owca.TaskCPUUsage, owca.TaskCPUPressureSome, owca.TaskLastSeen, owca.PlatformCPUUsage, owca.TaskMemoryFaults,
	} {
		for i, n := range []uint64{0, 1, 9, 10, 99, 100, 12345, 999_999_999, 1_000_000_000, 1_000_000_001, 1 << 53, math.MaxUint64} {
			m := owca.Metric{Desc: desc, Labels: owca.NewLabels(map[string]string{"i": fmt.Sprint(i)}), Value: owca.Int(n)}
			if desc.Label != "" {
				m.Label = "0"
			}
			metrics = append(metrics, m)
		}
	}
	return metrics
}

// contradictions are metrics that a careless plugin may come with. None of
// them is a series of plain.
func contradictions() []owca.Metric {
	labels := owca.NewLabels(map[string]string{"plugin": "careless", "cpu": "3"})
	other := owca.NewLabels(map[string]string{"plugin": "careless", "cpu": "4"})
	gauge := &owca.Desc{Name: "plugin_value", Help: "One."}
	again := &owca.Desc{Name: "plugin_value", Help: "Two\nlines \\ of \"help\" \xff.", Label: "cpu"}
	return []owca.Metric{
		{Labels: labels, Value: owca.Int(1)},
		{Desc: &owca.Desc{}, Labels: labels, Value: owca.Int(1)},
		{Desc: &owca.Desc{Name: "9 lives"}, Labels: labels, Value: owca.Int(1)},
		{Desc: &owca.Desc{Name: "a\n# EOF\nb"}, Labels: labels, Value: owca.Int(1)},
		{Desc: &owca.Desc{Name: "żółw"}, Labels: labels, Value: owca.Int(1)},
		{Desc: &owca.Desc{Name: "plugin_label", Label: `x="",y`}, Labels: labels, Label: "z", Value: owca.Int(1)},
		{Desc: &owca.Desc{Name: owca.TaskCPUUsage.Name, Kind: owca.Gauge}, Labels: labels, Value: owca.Int(1)},
		{Desc: &owca.Desc{Name: owca.TaskCPUUsage.Name, Kind: owca.Counter}, Labels: labels, Value: owca.Float(math.NaN())},
		{Desc: gauge, Labels: labels, Value: owca.Int(1)},
		{Desc: gauge, Labels: labels, Value: owca.Int(2)},
		{Desc: again, Labels: labels, Label: "3", Value: owca.Int(3)},
		{Desc: again, Labels: other, Label: "3", Value: owca.Int(4)},
		{Desc: again, Labels: other, Label: "5", Value: owca.Int(5)},
		{Desc: again, Labels: nil, Label: "5", Value: owca.Int(6)},
		{Desc: owca.AgentUp, Value: owca.Int(7)},
	}
}
