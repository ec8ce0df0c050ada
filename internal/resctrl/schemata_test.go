package resctrl

import (
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/hosttest"
)

// infoFixtures reads each fixture once.
func infoFixtures(t *testing.T) func(name string) *Info {
	read := make(map[string]*Info)
	return func(name string) *Info {
		if read[name] == nil {
			read[name] = readInfoFixture(t, name)
		}
		return read[name]
	}
}

func TestParse(t *testing.T) {
	host := infoFixtures(t)
	for _, c := range []struct{ host, text, want string }{
		{"intel", "", ""},
		{"intel", " \n\n", ""},
		{"intel", "    MB:0=100;1=100\n    L3:0=7ff;1=7ff\n", "L3:0=7ff;1=7ff; MB:0=100;1=100"},
		{"intel", "    MB:0= 20;1=100\n", "MB:0=20;1=100"},
		{"intel", "L3:0=ff;1=0x1f", "L3:0=ff;1=1f"},
		{"intel", "L3:1=0XF;0=00A;", "L3:0=a;1=f"},
		{"intel", "L3 : 1 = f ; 0 = a ;\r\n", "L3:0=a;1=f"},
		{"intel", "L3:1=f\n\nL3:0=7\nMB:1=10", "L3:0=7;1=f; MB:1=10"},
		{"intel", "L3:7=ffffffffffffffff\nMB:2147483647=18446744073709551615", "L3:7=ffffffffffffffff; MB:2147483647=18446744073709551615"},
		{"intel", "L3:uninitialized\nMB:uninitialized\n", ""},
		{"mbps", "    MB:0=4294967295;1=2500\n", "MB:0=4294967295;1=2500"},
		{"cdp", "L3DATA:0=00007;1=007ff\nL3CODE:0=007ff;1=007ff\n", "L3CODE:0=7ff;1=7ff; L3DATA:0=7;1=7ff"},
		{"cdp", "L3:0=f;1=1f", "L3CODE:0=f;1=1f; L3DATA:0=f;1=1f"},
		{"cdp", "L3:0=f\nL3CODE:1=7\nL2:3=1", "L2CODE:3=1; L2DATA:3=1; L3CODE:0=f;1=7; L3DATA:0=f"},
		{"amd", "    SMBA:0=2048;1=  64;3=2048\n", "SMBA:0=2048;1=64;3=2048"},
		{"snc", " LINK:0=400\n   L2:64=1;2=3\n", "L2:2=3;64=1; LINK:0=400"},
	} {
		in := host(c.host)
		s, err := in.Parse(c.text)
		if err != nil || s.String() != c.want || s == nil != (c.want == "") {
			t.Errorf("%s: %q: %q, %v; want %q", c.host, c.text, s, err, c.want)
		}
		again, err := in.Parse(string(s.Append(nil)))
		if diff := cmp.Diff(s, again); err != nil || diff != "" {
			t.Errorf("%s: %q: %v %s", c.host, c.text, err, diff)
		}
	}
}

func TestParseWithoutDomains(t *testing.T) {
	in := &Info{Resources: []Resource{{Name: "L2", Bits: 1, MinBits: 1}, {Name: "L3", Bits: 1, MinBits: 1, Domains: []int{0}}}}
	s, err := in.Parse("    L3:0=1\n    L2:\n")
	if err != nil || s.String() != "L3:0=1" {
		t.Errorf("%v, %v", s, err)
	}
	if s, err := in.Parse("    L3:\n    L2:\n"); err == nil {
		t.Errorf("no value of a resource that has domains: %v", s)
	}
	if s := in.Default(); s.String() != "L3:0=1" {
		t.Errorf("default %v", s)
	}
}

func TestParseErrors(t *testing.T) {
	host := infoFixtures(t)
	for _, c := range []struct{ host, text, want string }{
		{"intel", "L3", `schemata "L3": missing ':' after the name of a resource`},
		{"intel", "L3:", `schemata "L3:": no value`},
		{"intel", "L3:;", `schemata "L3:;": no value`},
		{"intel", "L3:0", `schemata "L3:0": "0": missing '='`},
		{"intel", "L3:0=ff;;1=ff", `"": missing '='`},
		{"intel", "L3:x=ff", `"x=ff": "x" is not the number of a domain`},
		{"intel", "L3:-1=ff", `"-1" is not the number of a domain`},
		{"intel", "L3:+1=ff", `"+1" is not the number of a domain`},
		{"intel", "L3:2147483648=ff", `"2147483648" is not the number of a domain`},
		{"intel", "L3:=ff", `"" is not the number of a domain`},
		{"intel", "L3:0=;1=ff", "domain 0: no value"},
		{"intel", "L3:0=ff;1=f;0=7", "domain 0 twice"},
		{"intel", "L3:0=ff\nL3:1=f;0=7", `schemata "L3:1=f;0=7": L3 domain 0 twice`},
		{"cdp", "L3:0=ff\nL3DATA:0=7", `schemata "L3DATA:0=7": L3DATA domain 0 twice`},
		{"intel", "L3:0=zz", `domain 0: "zz" is not a hexadecimal mask`},
		{"intel", "L3:0=0x", `domain 0: "0x" is not a hexadecimal mask`},
		{"intel", "L3:0=0x0x1", `"0x0x1" is not a hexadecimal mask`},
		{"intel", "L3:0=1_0", `"1_0" is not a hexadecimal mask`},
		{"intel", "L3:0=10000000000000000", `domain 0: "10000000000000000" is longer than 64 bits`},
		{"intel", "MB:0=18446744073709551616", "is longer than 64 bits"},
		{"intel", "MB:1=50%", `domain 1: "50%" is not a decimal number`},
		{"intel", "MB:0=0x10", `"0x10" is not a decimal number`},
		{"intel", "MB:0=1.5", `"1.5" is not a decimal number`},
		{"intel", "MB:0=-1", `"-1" is not a decimal number`},
		{"intel", "l3:0=f", `schemata "l3:0=f": unknown resource "l3": this host has L3, MB`},
		{"intel", "SMBA:0=1", `unknown resource "SMBA": this host has MB, L3`},
		{"snc", "LNK:0=1", "this host has LINK, L2, L3"},
		{"monitoring", "L3:0=f", `unknown resource "L3": this host can allocate none`},
		{"intel", "L3CODE:0=f", "because resctrl is mounted without the option cdp"},
		{"intel", "L3DATA:0=f", "because resctrl is mounted without the option cdp"},
		{"snc", "L2DATA:0=f", "because resctrl is mounted without the option cdpl2"},
		{"intel", "L3:0=zz\nMB:0=10\nMB:1=x", "schemata \"L3:0=zz\": domain 0: \"zz\" is not a hexadecimal mask\nschemata \"MB:1=x\": domain 1: \"x\" is not a decimal number"},
	} {
		s, err := host(c.host).Parse(c.text)
		if err == nil || !strings.Contains(err.Error(), c.want) || s != nil {
			t.Errorf("%s: %q: %v, %v; want %s", c.host, c.text, s, err, c.want)
		}
	}
}

func TestCheck(t *testing.T) {
	host := infoFixtures(t)
	for _, c := range []struct{ host, text, effect, rounded, err string }{
		{"intel", "L3:0=7ff;1=1", "L3:0=7ff;1=1", "", ""},
		{"intel", "MB:0=15;1=20", "MB:0=20;1=20", "MB:0 15→20", ""},
		{"intel", "MB:0=11;1=99\nL3:1=f0", "L3:1=f0; MB:0=20;1=100", "MB:0 11→20, MB:1 99→100", ""},
		{"intel", "MB:0=9;1=101", "", "", "MB:0=9: at least 10\nMB:1=101: at most 100"},
		{"intel", "L3:0=f1;1=0", "", "", "L3:0=f1: one run of bits without gaps: f0 or ff\nL3:1=0: at least 1 bit: 1"},
		{"intel", "L3:0=800;2=f", "", "", "L3:0=800: at most 7ff\nL3:2=f: no such domain, or it is offline: there are 0, 1"},
		{"mbps", "MB:0=0;1=4294967295", "MB:0=0;1=4294967295", "", ""},
		{"mbps", "MB:0=15;1=4294967296", "", "", "MB:1=4294967296: at most 4294967295"},
		{"haswell", "L3:0=1;1=80000", "", "", "L3:0=1: at least 2 bits: 3\nL3:1=80000: at least 2 bits: c0000"},
		{"haswell", "L3:0=0;1=5", "", "", "L3:0=0: at least 2 bits: 3\nL3:1=5: one run of bits without gaps: 7"},
		{"amd", "L3:0=0;3=8001\nMB:0=0;1=4096\nSMBA:0=7", "L3:0=0;3=8001; MB:0=0;1=4096; SMBA:0=7", "", ""},
		{"amd", "MB:0=4294967296\nL3:2=1", "", "", "L3:2=1: no such domain, or it is offline: there are 0, 1, 3\nMB:0=4294967296: at most 4294967295"},
		{"mpam", "MB:2=1;10=33\nL3:17=a5a5a5a5", "L3:17=a5a5a5a5; MB:2=2;10=34", "MB:2 1→2, MB:10 33→34", ""},
		{"mpam", "L3:3=0", "", "", "L3:3=0: at least 1 bit: 1"},
	} {
		in := host(c.host)
		s, err := in.Parse(c.text)
		if err != nil {
			t.Fatal(err)
		}
		effect, rounded, err := in.Check(s)
		var list []string
		for _, r := range rounded {
			list = append(list, fmt.Sprintf("%s:%d %d→%d", r.Resource, r.Domain, r.Wanted, r.Effect))
		}
		got := ""
		if err != nil {
			got = err.Error()
		}
		if effect.String() != c.effect || strings.Join(list, ", ") != c.rounded || got != c.err {
			t.Errorf("%s: %q:\n%s\n%s\n%s", c.host, c.text, effect, list, got)
		}
	}

	// What Parse does not let through.
	in := readInfoFixture(t, "cdp")
	_, _, err := in.Check(Schemata{
		{Resource: "L3", Domains: []DomainValue{{0, 1}}},
		{Resource: "L3CODE", Domains: []DomainValue{{1, 1}, {1, 3}}},
		{Resource: "L3CODE", Domains: []DomainValue{{1, 7}, {-1, 7}}},
	})
	for _, part := range []string{`unknown resource "L3": this host has MB, L3CODE, L3DATA, L2CODE, L2DATA`, "L3CODE:1=3: L3CODE domain 1 twice", "L3CODE:1=7: L3CODE domain 1 twice", "L3CODE:-1=7: no such domain"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v, want %s", err, part)
		}
	}
	if effect, rounded, err := in.Check(nil); effect != nil || rounded != nil || err != nil {
		t.Errorf("nothing: %v, %v, %v", effect, rounded, err)
	}
}

// TestCheckMask: every mask of seven bits, on all kinds of hosts, against what the
// kernel's messages say, spelt out on the binary digits; what is proposed instead is
// allowed.
func TestCheckMask(t *testing.T) {
	hex := regexp.MustCompile(`[0-9a-f]+( or [0-9a-f]+)?$`)
	for _, sparse := range []bool{false, true} {
		for least := range 4 {
			in := &Info{Resources: []Resource{{Name: "L3", Bits: 0x3f, MinBits: least, Sparse: sparse, Domains: []int{5}}}}
			for mask := range uint64(1 << 7) {
				digits := strings.TrimRight(strconv.FormatUint(mask, 2), "0")
				lowest := len(digits) - len(strings.TrimRight(digits, "1"))
				allowed := mask <= 0x3f && lowest >= least && (sparse || !strings.Contains(digits, "0"))
				_, _, err := in.Check(Schemata{{Resource: "L3", Domains: []DomainValue{{5, mask}}}})
				if allowed != (err == nil) {
					t.Errorf("mask %b, at least %d bits, sparse %t: %v", mask, least, sparse, err)
				}
				if err == nil {
					continue
				}
				for proposed := range strings.SplitSeq(hex.FindString(err.Error()), " or ") {
					s, err2 := in.Parse("L3:5=" + proposed)
					if err2 != nil {
						t.Fatalf("%v: %v", err, err2)
					}
					if _, _, err2 := in.Check(s); err2 != nil {
						t.Errorf("%v, but then: %v", err, err2)
					}
				}
			}
		}
	}
	// All 64 bits.
	in := &Info{Resources: []Resource{{Name: "L3", Bits: 1<<64 - 1, MinBits: 1, Domains: []int{0}}}}
	for _, mask := range []uint64{1<<64 - 1, 1 << 63, 1<<63 - 1} {
		if _, _, err := in.Check(Schemata{{Resource: "L3", Domains: []DomainValue{{0, mask}}}}); err != nil {
			t.Error(err)
		}
	}
	_, _, err := in.Check(Schemata{{Resource: "L3", Domains: []DomainValue{{0, 1<<63 | 1}}}})
	if err == nil || !strings.HasSuffix(err.Error(), ": 8000000000000000 or ffffffffffffffff") {
		t.Error(err)
	}
}

func TestDefault(t *testing.T) {
	for host, want := range map[string]string{
		"intel":      "L3:0=7ff;1=7ff; MB:0=100;1=100",
		"mbps":       "L3:0=7ff;1=7ff; MB:0=4294967295;1=4294967295",
		"haswell":    "L3:0=fffff;1=fffff",
		"amd":        "L3:0=ffff;1=ffff;3=ffff",
		"monitoring": "",
	} {
		in := readInfoFixture(t, host)
		s := in.Default()
		if s.String() != want {
			t.Errorf("%s: %s", host, s)
		}
		effect, rounded, err := in.Check(s)
		if diff := cmp.Diff(s, effect); diff != "" || rounded != nil || err != nil {
			t.Errorf("%s: %s %v %v", host, diff, rounded, err)
		}
	}
}

func TestOverlayAndChanged(t *testing.T) {
	in := readInfoFixture(t, "cdp")
	parse := func(text string) Schemata {
		t.Helper()
		s, err := in.Parse(strings.ReplaceAll(text, "; ", "\n"))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, c := range []struct{ s, o, overlay, changed string }{
		{"", "", "", ""},
		{"L3CODE:0=1", "", "L3CODE:0=1", ""},
		{"", "L3CODE:0=1", "L3CODE:0=1", "L3CODE:0=1"},
		{"L3CODE:0=1;1=1", "L3CODE:1=3", "L3CODE:0=1;1=3", "L3CODE:1=3"},
		{"L3CODE:1=1", "L3CODE:0=1;1=1;2=7", "L3CODE:0=1;1=1;2=7", "L3CODE:0=1;2=7"},
		{"L2CODE:0=1; MB:0=10", "L3CODE:0=1; MB:0=20", "L2CODE:0=1; L3CODE:0=1; MB:0=20", "L3CODE:0=1; MB:0=20"},
		{"L2CODE:0=1; MB:0=10", "L2CODE:0=1; MB:0=10", "L2CODE:0=1; MB:0=10", ""},
	} {
		s, o := parse(c.s), parse(c.o)
		merged := s.Overlay(o)
		if merged.String() != c.overlay {
			t.Errorf("%s + %s = %s", s, o, merged)
		}
		changed := o.Changed(s)
		if changed.String() != c.changed || changed == nil != (c.changed == "") {
			t.Errorf("%s - %s = %s", o, s, changed)
		}
		if diff := cmp.Diff(merged, s.Overlay(changed)); diff != "" {
			t.Errorf("%s + %s: %s", s, changed, diff)
		}
		for _, l := range merged {
			for i := range l.Domains {
				l.Domains[i].Value ^= 0xff
			}
		}
		for _, l := range changed {
			l.Domains[0].Value ^= 0xff
		}
		if s.String() != c.s || o.String() != c.o {
			t.Errorf("%s + %s was changed: %s, %s", c.s, c.o, s, o)
		}
	}
	s := parse("L3CODE:0=1;2=7")
	if v, ok := s.Get("L3CODE", 2); v != 7 || !ok {
		t.Error(v, ok)
	}
	if _, ok := s.Get("L3CODE", 1); ok {
		t.Error("a domain that is not there")
	}
	if _, ok := s.Get("L3DATA", 0); ok {
		t.Error("a resource that is not there")
	}
}

func FuzzParse(f *testing.F) {
	hosts := []*Info{readInfoFixture(f, "intel"), readInfoFixture(f, "cdp"), readInfoFixture(f, "snc")}
	f.Add(uint8(0), "    MB:0= 20;1=100\n    L3:0=7ff;1=7ff\n")
	f.Add(uint8(0), "L3:1=0x1f;0=ff;\nMB:0=4294967295")
	f.Add(uint8(1), "L3:0=f;1=1f\nL2:3=1")
	f.Add(uint8(1), "L3DATA:0=007ff\nL3CODE:0=00001\nL3DATA:1=1\n")
	f.Add(uint8(2), " LINK:64=5\nL2:uninitialized")
	f.Add(uint8(2), "L3CODE:0=1\n:\nL3:0=\n")
	f.Fuzz(func(t *testing.T, host uint8, text string) {
		in := hosts[int(host)%len(hosts)]
		s, err := in.Parse(text)
		if err != nil {
			if s != nil {
				t.Errorf("%q: %v and %v", text, s, err)
			}
			return
		}
		values := 0
		for i, l := range s {
			r := in.Resource(l.Resource)
			if r == nil || r.Kind != l.Kind || i > 0 && s[i-1].Resource >= l.Resource || len(l.Domains) == 0 {
				t.Errorf("%q: %+v", text, s)
			}
			for j, v := range l.Domains {
				if v.ID < 0 || j > 0 && l.Domains[j-1].ID >= v.ID {
					t.Errorf("%q: %+v", text, s)
				}
				if got, ok := s.Get(l.Resource, v.ID); !ok || got != v.Value {
					t.Errorf("%q: get %s %d: %d, %t", text, l.Resource, v.ID, got, ok)
				}
			}
			values += len(l.Domains)
		}
		if n := strings.Count(text, "="); values < n || values > 2*n {
			t.Errorf("%q: %d values: %v", text, values, s)
		}
		for _, form := range []string{string(s.Append(nil)), kernelText(s), strings.ReplaceAll(s.String(), "; ", "\n")} {
			again, err := in.Parse(form)
			if diff := cmp.Diff(s, again); err != nil || diff != "" {
				t.Errorf("%q: %q: %v %s", text, form, err, diff)
			}
		}
		if strings.Contains(s.String(), "\n") {
			t.Errorf("%q: %q", text, s)
		}
		if s.Changed(s) != nil || s.Changed(nil).String() != s.String() || s.Overlay(s).String() != s.String() {
			t.Errorf("%q: %v", text, s)
		}
		if effect, _, err := in.Check(s); err == nil {
			if again, rounded, err := in.Check(effect); err != nil || rounded != nil || again.String() != effect.String() {
				t.Errorf("%q: %v is not what is in effect of it: %v %v %v", text, effect, again, rounded, err)
			}
		}
	})
}

// kernelText pads as show_doms does, and turns the order of lines round.
func kernelText(s Schemata) string {
	var b strings.Builder
	for _, l := range slices.Backward(s) {
		fmt.Fprintf(&b, "%8s:", l.Resource)
		for i, v := range l.Domains {
			if i > 0 {
				b.WriteByte(';')
			}
			if l.Kind == Mask {
				fmt.Fprintf(&b, "%d=%0*x", v.ID, 5, v.Value)
			} else {
				fmt.Fprintf(&b, "%d=%*d", v.ID, 5, v.Value)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func BenchmarkParse(b *testing.B) {
	in := readInfoFixture(b, "intel")
	for _, domains := range []int{2, 16} {
		b.Run(fmt.Sprintf("domains=%d", domains), func(b *testing.B) {
			var s Schemata
			for _, r := range in.Resources {
				l := Line{Resource: r.Name, Kind: r.Kind}
				for id := range domains {
					l.Domains = append(l.Domains, DomainValue{id, 50})
				}
				s = append(s, l)
			}
			text := kernelText(s)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := in.Parse(text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestSchemataAllocations: two for all that is parsed, none to look into it, to find
// nothing changed, and to write it into a buffer that is long enough.
func TestSchemataAllocations(t *testing.T) {
	in := readInfoFixture(t, "intel")
	const text = "    MB:0=100;1= 20\n    L3:0=7ff;1=7ff\n"
	var s Schemata
	if n := testing.AllocsPerRun(100, func() { s, _ = in.Parse(text) }); n > 2 {
		t.Errorf("Parse: %v allocations", n)
	}
	buf := make([]byte, 0, 256)
	n := testing.AllocsPerRun(100, func() {
		if v, ok := s.Get("MB", 1); !ok || v != 20 || s.Changed(s) != nil {
			t.Errorf("%v", s)
		}
		buf = s.Append(buf[:0])
	})
	if n > 0 {
		t.Errorf("Get, Changed, Append: %v allocations", n)
	}
}

// TestCheckKernel writes schemata, right and wrong, to a group of its own: what
// Check says of them is what the kernel says, and what is in effect is what Check
// said.
func TestCheckKernel(t *testing.T) {
	dir := hosttest.Resctrl(t)
	in := readKernelInfo(t, dir)
	if in.CLOSIDs() == 0 {
		if s, err := in.Parse("L3:0=1"); err == nil {
			t.Errorf("a host that can allocate nothing: %v", s)
		}
		return
	}
	group := makeControlGroup(t, dir, Prefix+"check-test")
	now := readSchemataFile(t, in, group)
	if diff := cmp.Diff(in.Default(), now); diff != "" {
		t.Errorf("a new group: %s", diff)
	}
	random := rand.New(rand.NewPCG(1, 2))
	accepted, refused := 0, 0
	for range 600 {
		wanted := randomSchemata(in, random)
		effect, _, err := in.Check(wanted)
		kernel := writeSchemataFile(group, string(wanted.Append(nil)))
		if (err == nil) != (kernel == nil) || kernel != nil && !errors.Is(kernel, unix.EINVAL) {
			t.Fatalf("%s: %v, the kernel: %v %s", wanted, err, kernel, lastStatus(t, dir))
		}
		after := readSchemataFile(t, in, group)
		want := now
		if err == nil {
			want = now.Overlay(effect)
			accepted++
		} else {
			refused++
		}
		if diff := cmp.Diff(want, after); diff != "" && (err == nil || !slices.Contains(in.Options, "mba_MBps")) {
			t.Fatalf("%s (%v): %s", wanted, err, diff)
		}
		now = after
	}
	t.Logf("%d accepted, %d refused", accepted, refused)
	if accepted < 100 || refused < 100 {
		t.Errorf("%d accepted, %d refused", accepted, refused)
	}
}

// randomSchemata is right about every other time.
func randomSchemata(in *Info, random *rand.Rand) (s Schemata) {
	wrong := random.IntN(2) == 0
	for len(s) == 0 {
		for i := range in.Resources {
			r := &in.Resources[i]
			l := Line{Resource: r.Name, Kind: r.Kind}
			ids := r.Domains
			if wrong && random.IntN(8) == 0 {
				ids = append(slices.Clone(ids), ids[len(ids)-1]+1+random.IntN(3))
			}
			for _, id := range ids {
				if random.IntN(2) == 0 {
					continue
				}
				l.Domains = append(l.Domains, DomainValue{id, randomValue(r, random, wrong && random.IntN(2) == 0)})
			}
			if len(l.Domains) > 0 && random.IntN(2) == 0 {
				s = append(s, l)
			}
		}
	}
	return s
}

func randomValue(r *Resource, random *rand.Rand, wrong bool) uint64 {
	if r.Kind == Bandwidth {
		if wrong {
			return []uint64{0, 1, r.Min - min(1, r.Min), 101, 255, 1<<32 - 1, 1 << 32, 1 << 63}[random.IntN(8)]
		}
		return r.Min + random.Uint64N(101-r.Min)
	}
	width := bits.Len64(r.Bits)
	if wrong {
		return []uint64{0, 1, 5, r.Bits + 1, 1<<32 | 1, 1 << 63, random.Uint64N(2 * r.Bits), random.Uint64N(r.Bits) + 1}[random.IntN(8)]
	}
	least := max(1, r.MinBits)
	length := least + random.IntN(width-least+1)
	return (1<<length - 1) << random.IntN(width-length+1)
}

// TestParseKernel: texts as users write them, which the kernel takes if Parse and Check
// do, to the same effect.
func TestParseKernel(t *testing.T) {
	dir := hosttest.Resctrl(t)
	in := readKernelInfo(t, dir)
	if in.CLOSIDs() == 0 {
		return // TestCheckKernel has said all of it
	}
	group := makeControlGroup(t, dir, Prefix+"parse-test")
	for i := range in.Resources {
		r := &in.Resources[i]
		good, other := "10", "20"
		if r.Kind == Mask {
			good, other = "0x3", "7"
		}
		for _, c := range []struct {
			text string
			ok   bool
		}{
			{r.Name + ":0=" + good, true},
			{r.Name + ":0=" + good + ";", true},
			{"   " + r.Name + ":0= " + good + "\n" + r.Name + ":1=" + other, true},
			{r.Name + ":0=" + good + ";1=" + other, true},
			{r.Name + " :1=" + other + ";0=" + good, true},
			{r.Name, false},
			{r.Name + ":", false},
			{r.Name + ":0", false},
			{r.Name + ":0=", false},
			{r.Name + ":x=" + good, false},
			{r.Name + ":-1=" + good, false},
			{r.Name + ":0=" + good + ";99=" + good, false},
			{r.Name + ":0=zz", false},
			{r.Name + ":0=1.5", false},
			{r.Name + ":0=-1", false},
			{r.Name + ":0=50%", false},
			{r.Name + ":0=" + good + ",1=" + good, false},
			{r.Name + ":0=fffffffffffffffff", false},
			{strings.ToLower(r.Name) + ":0=" + good, false},
			{r.Name + "X:0=" + good, false},
		} {
			effect, err := in.Parse(c.text)
			if err == nil {
				effect, _, err = in.Check(effect)
			}
			kernel := writeSchemataFile(group, c.text+"\n")
			if (err == nil) != c.ok || (kernel == nil) != c.ok {
				t.Errorf("%q: %v, the kernel: %v %s", c.text, err, kernel, lastStatus(t, dir))
			}
			if c.ok {
				now := readSchemataFile(t, in, group)
				if changed := effect.Changed(now); changed != nil {
					t.Errorf("%q: %s is %s", c.text, changed, now)
				}
			}
		}
		// The software controller stages nothing, and notices no second value.
		twice := r.Name + ":0=" + good + ";0=" + other
		kernel := writeSchemataFile(group, twice+"\n")
		if _, err := in.Parse(twice); err == nil || (kernel == nil) != (r.Unit == MBps) {
			t.Errorf("%q: %v, the kernel: %v", twice, err, kernel)
		}
	}
}

// TestMBpsOrderKernel: MB in MBps is taken over even when a later line is refused;
// Append writes it after the caches.
func TestMBpsOrderKernel(t *testing.T) {
	dir := hosttest.Resctrl(t, "+mba_MBps", "/L3")
	in := readKernelInfo(t, dir)
	group := makeControlGroup(t, dir, Prefix+"order-test")
	before := readSchemataFile(t, in, group)
	s := Schemata{
		{Resource: "L3", Kind: Mask, Domains: []DomainValue{{0, 5}}},
		{Resource: "MB", Kind: Bandwidth, Domains: []DomainValue{{0, 1000}}},
	}
	if err := writeSchemataFile(group, string(s.Append(nil))); !errors.Is(err, unix.EINVAL) {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, readSchemataFile(t, in, group)); diff != "" {
		t.Error(diff)
	}
	slices.Reverse(s)
	if err := writeSchemataFile(group, string(s.Append(nil))); !errors.Is(err, unix.EINVAL) {
		t.Fatal(err)
	}
	if v, ok := readSchemataFile(t, in, group).Get("MB", 0); !ok || v != 1000 {
		t.Errorf("MB before a line that is refused: %d, %t: the order would not matter", v, ok)
	}
}

func writeSchemataFile(group, text string) error {
	f, err := os.OpenFile(filepath.Join(group, "schemata"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

func readSchemataFile(t testing.TB, in *Info, group string) Schemata {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(group, "schemata"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := in.Parse(string(b))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func lastStatus(t testing.TB, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "info/last_cmd_status"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}
