package cgroup

import (
	"encoding/json"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestKnobText(t *testing.T) {
	for k := range NumKnobs {
		b, err := json.Marshal(map[Knob]Knob{k: k})
		if want := `{"` + k.String() + `":"` + k.String() + `"}`; err != nil || string(b) != want {
			t.Errorf("knob %d: %s, %v, want %s", uint8(k), b, err, want)
		}
		var back map[Knob]Knob
		if err := json.Unmarshal(b, &back); err != nil || back[k] != k || len(back) != 1 {
			t.Errorf("%s: %v, %v", b, back, err)
		}
	}
	if _, err := NumKnobs.MarshalText(); err == nil || NumKnobs.String() != "knob 11" {
		t.Errorf("%s: %v", NumKnobs, err)
	}
	var k Knob
	if err := k.UnmarshalText([]byte("cpu.cfs_quota_us")); err == nil {
		t.Error("a file of v1 is no knob")
	}
}

// canonicalTests are values and their canonical form, "!" if they have none.
var canonicalTests = []struct {
	knob       Knob
	value, can string
}{
	{CPUMax, "max 100000", "max 100000"},
	{CPUMax, "050000 0100000", "50000 100000"},
	{CPUMax, "50000", "!"},
	{CPUMax, "max", "!"},
	{CPUMax, "max ", "!"},
	{CPUMax, "-1 100000", "!"},
	{CPUMax, "1 2 3", "!"},
	{CPUMax, "18446744073709551615 100000", "!"},
	{CPUMaxBurst, "0", "0"},
	{CPUMaxBurst, "max", "!"},
	{CPUMaxBurst, "", "!"},
	{CPUSharesV1, "0", "2"},
	{CPUSharesV1, "1", "2"},
	{CPUSharesV1, "1024", "1024"},
	{CPUSharesV1, "1000000", "262144"},
	{CPUWeightV2, "0", "0"},
	{CPUWeightV2, "10000", "10000"},
	{CPUWeightV2, "1e3", "!"},
	{CPUIdleFlag, "0", "0"},
	{CPUIdleFlag, "1", "1"},
	{CPUIdleFlag, "2", "!"},
	{CPUSetCPUList, "", ""},
	{CPUSetCPUList, "0-3,8", "0-3,8"},
	{CPUSetCPUList, "8,3,0-2,1-2", "0-3,8"},
	{CPUSetCPUList, "0,1", "0-1"},
	{CPUSetCPUList, "8191", "8191"},
	{CPUSetCPUList, "8192", "!"},
	{CPUSetCPUList, "0,", "!"},
	{CPUSetCPUList, ",0", "!"},
	{CPUSetCPUList, ",", "!"},
	{CPUSetCPUList, "3-1", "!"},
	{CPUSetCPUList, "0-31:1/2", "!"},
	{CPUSetCPUList, "0\n", "!"},
	{CPUSetMemList, "1,0", "0-1"},
	{MemoryHighLimit, "max", "max"},
	{MemoryHighLimit, "0", "0"},
	{MemoryHighLimit, "1G", "!"},
	{MemoryHighLimit, "-1", "!"},
	{MemoryLowLimit, "9223372036854775807", "max"},
	{MemoryLowLimit, "18446744073709551615", "max"},
	{IOWeightDefault, "100", "100"},
	{IOWeightDefault, "default 100", "!"},
	{IOMaxLimits, "", ""},
	{IOMaxLimits, "8:0 rbps=1 wbps=max riops=2 wiops=max", "8:0 rbps=1 wbps=max riops=2 wiops=max"},
	{IOMaxLimits, "8:16 wiops=7\n8:0 riops=4294967295 wbps=5", "8:0 rbps=max wbps=5 riops=max wiops=max\n8:16 rbps=max wbps=max riops=max wiops=7"},
	{IOMaxLimits, "8:0 rbps=max wbps=max riops=max wiops=max", ""},
	{IOMaxLimits, "8:0", ""},
	{IOMaxLimits, "8:0 rbps=0", "!"},
	{IOMaxLimits, "8:0 rbps=1 rbps=2", "!"},
	{IOMaxLimits, "8:0 rbps=1\n8:0 wbps=2", "!"},
	{IOMaxLimits, "8:0 rbps=1\n", "!"},
	{IOMaxLimits, "8 rbps=1", "!"},
	{IOMaxLimits, "/dev/sda rbps=1", "!"},
	{IOMaxLimits, "4096:0 rbps=1", "!"},
	{NumKnobs, "1", "!"},
}

func TestKnobCanonical(t *testing.T) {
	for _, test := range canonicalTests {
		can, ok := test.knob.canonical(test.value)
		if !ok {
			can = "!"
		}
		if can != test.can {
			t.Errorf("%s %q: %q, want %q", test.knob, test.value, can, test.can)
		}
	}
	page := os.Getpagesize()
	if can, ok := MemoryLowLimit.canonical(strconv.Itoa(3*page + 1)); !ok || can != strconv.Itoa(3*page) {
		t.Errorf("three pages and a byte: %q", can)
	}
}

func TestKnobParse(t *testing.T) {
	for _, test := range []struct {
		knob  Knob
		v1    bool
		files []string
		want  string // "!": refused
	}{
		{CPUMax, true, []string{"-1\n", "100000\n"}, "max 100000"},
		{CPUMax, true, []string{"5000\n", "10000\n"}, "5000 10000"},
		{CPUMax, true, []string{"5000\n", "10000"}, "!"},
		{CPUMax, true, []string{"max\n", "10000\n"}, "max 10000"},
		{CPUMax, false, []string{"max 100000\n"}, "max 100000"},
		{CPUMax, false, []string{"-1 100000\n"}, "!"},
		{CPUSetCPUList, false, []string{"\n"}, ""},
		{CPUSetCPUList, false, []string{""}, "!"},
		{CPUWeightV2, false, []string{"100"}, "!"}, // cut off
		{IOWeightDefault, false, []string{"default 100\n8:0 50\n"}, "100"},
		{IOWeightDefault, true, []string{"500\n"}, "500"},
		{IOWeightDefault, false, []string{"8:0 50\n"}, "!"},
		{IOWeightDefault, false, []string{""}, "!"},
		{IOMaxLimits, false, []string{""}, ""},
		{IOMaxLimits, false, []string{"8:16 rbps=2097152 wbps=max riops=max wiops=120\n"}, "8:16 rbps=2097152 wbps=max riops=max wiops=120"},
		{IOMaxLimits, false, []string{"8:16 rbps=20971"}, "!"},
		{IOMaxLimits, true, []string{"", "", "", ""}, ""},
		{IOMaxLimits, true, []string{"8:16 5\n8:0 6\n", "8:16 7\n", "", "8:16 8\n"}, "8:0 rbps=6 wbps=max riops=max wiops=max\n8:16 rbps=5 wbps=7 riops=max wiops=8"},
		{IOMaxLimits, true, []string{"8:16 5", "", "", ""}, "!"},
		{IOMaxLimits, true, []string{"8:16\n", "", "", ""}, "!"},
	} {
		value, ok := test.knob.parse([]byte(strings.Join(test.files, "\x00")+"\x00"), test.v1)
		if !ok {
			value = "!"
		}
		if value != test.want {
			t.Errorf("%s %q: %q, want %q", test.knob, test.files, value, test.want)
		}
	}
}

func TestKnobEqual(t *testing.T) {
	page := os.Getpagesize()
	for _, test := range []struct {
		knob Knob
		a, b string
		want bool
	}{
		{CPUMax, "max 100000", "max 50000", false},
		{CPUMax, "50000 100000", "25000 50000", false},
		{CPUSharesV1, "0", "2", true},
		{CPUWeightV2, "99", "100", false},
		{CPUSetCPUList, "0,1,2", "2,0-1", true},
		{CPUSetCPUList, "0-2", "0-3", false},
		{MemoryHighLimit, strconv.Itoa(page), strconv.Itoa(2*page - 1), true},
		{MemoryHighLimit, strconv.Itoa(page), strconv.Itoa(2 * page), false},
		{MemoryHighLimit, "max", "9223372036854771712", true},
		{IOMaxLimits, "8:0 rbps=1\n9:0 wbps=2", "9:0 wbps=2 rbps=max\n8:0 rbps=1", true},
		{IOMaxLimits, "8:0 rbps=1", "8:0 rbps=2", false},
		{CPUMaxBurst, "nonsense", "nonsense", true},
		{CPUMaxBurst, "nonsense", "0", false},
		{NumKnobs, "1", "2", false},
	} {
		if got := test.knob.Equal(test.a, test.b); got != test.want || test.knob.Equal(test.b, test.a) != got {
			t.Errorf("%s: %q and %q: %v", test.knob, test.a, test.b, got)
		}
	}
}

func TestKnobMixes(t *testing.T) {
	for _, test := range []struct {
		knob  Knob
		value string
		of    []string
		want  bool
	}{
		{CPUMax, "50000 50000", []string{"50000 100000", "25000 50000"}, true},
		{CPUMax, "25000 100000", []string{"50000 100000", "25000 50000"}, true},
		{CPUMax, "max 100000", []string{"50000 100000", "25000 50000"}, false},
		{CPUMax, "max 77777", []string{"max 100000", "25000 50000"}, true},
		{CPUMax, "25000 77777", []string{"max 100000", "25000 50000"}, false},
		{CPUMax, "30000 50000", []string{"50000 100000", "25000 50000"}, false},
		{CPUMax, "nonsense", []string{"50000 100000"}, false},
		{CPUWeightV2, "100", []string{"200", "100"}, true},
		{CPUWeightV2, "150", []string{"200", "100"}, false},
		{CPUWeightV2, "100", nil, false},
		{IOMaxLimits, "", []string{"", "8:0 rbps=1"}, true},
		{IOMaxLimits, "8:0 rbps=1", []string{"", "8:0 rbps=1 wbps=2\n9:0 riops=3"}, true}, // v1 was so far
		{IOMaxLimits, "9:0 riops=3", []string{"", "8:0 rbps=1 wbps=2\n9:0 riops=3"}, true},
		{IOMaxLimits, "9:0 riops=4", []string{"", "8:0 rbps=1 wbps=2\n9:0 riops=3"}, false},
		{IOMaxLimits, "9:1 riops=3", []string{"", "8:0 rbps=1 wbps=2\n9:0 riops=3"}, false},
		{IOMaxLimits, "", []string{"8:0 rbps=1", "8:0 rbps=2"}, false},
		{IOMaxLimits, "", nil, false},
	} {
		if got := test.knob.Mixes(test.value, test.of...); got != test.want {
			t.Errorf("%s: %q of %q: %v", test.knob, test.value, test.of, got)
		}
	}
}

func TestShares(t *testing.T) {
	for _, test := range [][2]uint64{{0, 1}, {1, 1}, {2, 1}, {1024, 39}, {2598, 100}, {262144, 10000}, {1 << 40, 10000}} {
		if got := Weight(test[0]); got != test[1] {
			t.Errorf("Weight(%d) = %d, want %d", test[0], got, test[1])
		}
	}
	last := uint64(0)
	for w := uint64(1); w <= 10000; w++ {
		s := Shares(w)
		if Weight(s) != w || s <= last || s > 2 && Weight(s-1) == w {
			t.Fatalf("Shares(%d) = %d, Weight of that %d, of one less %d", w, s, Weight(s), Weight(s-1))
		}
		last = s
	}
	if Shares(0) != 2 || Shares(1<<40) != 262144 {
		t.Errorf("out of range: %d, %d", Shares(0), Shares(1<<40))
	}
}

func FuzzKnobValue(f *testing.F) {
	for _, test := range canonicalTests {
		f.Add(uint8(test.knob), test.value)
	}
	f.Fuzz(func(t *testing.T, knob uint8, value string) {
		k := Knob(knob)
		can, ok := k.canonical(value)
		if !ok {
			return
		}
		if again, ok := k.canonical(can); !ok || again != can {
			t.Errorf("%s %q: %q, and that is %q (%v)", k, value, can, again, ok)
		}
		if !k.Equal(value, can) || !k.Mixes(value, can) || !k.Mixes(can, value) {
			t.Errorf("%s %q is not %q", k, value, can)
		}
		if strings.ContainsAny(can, "\x00\r\t") {
			t.Errorf("%s %q: %q", k, value, can)
		}
	})
}

func FuzzKnobEqual(f *testing.F) {
	f.Add(uint8(CPUMax), "max 1000", "50 1000", "max 2000")
	f.Add(uint8(CPUSetCPUList), "0-3", "3,2,1,0", "0-1,2-3")
	f.Add(uint8(CPUSharesV1), "0", "1", "2")
	f.Add(uint8(MemoryHighLimit), "4096", "4097", "8191")
	f.Add(uint8(IOMaxLimits), "8:0 rbps=1", "8:0 rbps=1 wbps=max", "8:0 rbps=1\n8:1")
	f.Add(uint8(IOMaxLimits), "8:0 rbps=1", "", "8:0 rbps=1\n8:1 riops=4")
	f.Add(uint8(CPUIdleFlag), "x", "x", "1")
	f.Fuzz(func(t *testing.T, knob uint8, a, b, c string) {
		k := Knob(knob)
		if !k.Equal(a, a) || k.Equal(a, b) != k.Equal(b, a) {
			t.Errorf("%s %q %q: not reflexive, or not symmetric", k, a, b)
		}
		if k.Equal(a, b) && k.Equal(b, c) && !k.Equal(a, c) {
			t.Errorf("%s %q %q %q: not transitive", k, a, b, c)
		}
		of := []string{a, b, c}
		for _, v := range of {
			if !k.Mixes(v, of...) {
				t.Errorf("%s %q is no mix of %q", k, v, of)
			}
		}
		// Which ones, not in which order; and more of them make no less.
		m := k.Mixes(a, b, c)
		if m != k.Mixes(a, c, b) || k.Mixes(a, b) && !m || k.Mixes(a) {
			t.Errorf("%s %q of %q and %q: %v", k, a, b, c, m)
		}
	})
}

func FuzzKnobParse(f *testing.F) {
	f.Add(uint8(CPUMax), true, []byte("-1\n\x00100000\n\x00"))
	f.Add(uint8(CPUMax), false, []byte("max 100000\n\x00"))
	f.Add(uint8(CPUSetMemList), true, []byte("\n\x00"))
	f.Add(uint8(IOWeightDefault), false, []byte("default 100\n8:0 50\n\x00"))
	f.Add(uint8(IOMaxLimits), false, []byte("8:0 rbps=1 wbps=max riops=max wiops=4\n\x00"))
	f.Add(uint8(IOMaxLimits), true, []byte("8:0 1\n\x00\x008:1 7\n\x00\x00"))
	f.Fuzz(func(t *testing.T, knob uint8, v1 bool, text []byte) {
		// As Get makes it.
		text = append(text, 0)
		before := slices.Clone(text)
		k := Knob(knob)
		value, ok := k.parse(text, v1)
		if !slices.Equal(before, text) {
			t.Error("parse wrote to its input")
		}
		if !ok {
			return
		}
		if can, ok := k.canonical(value); !ok || can != value {
			t.Errorf("%s %q: %q is not canonical: %q (%v)", k, text, value, can, ok)
		}
	})
}
