package proc

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// seeds adds the content of a file of all captured hosts.
func seeds(f *testing.F, name string) {
	for _, host := range []string{"epyc", "two-socket", "two-socket-offline", "arm64"} {
		content := get(f, fixture(f, host), name)
		f.Add([]byte(content), len(content)/2)
	}
}

// cut returns the first n bytes of b, for any n.
func cut(b []byte, n int) []byte {
	return b[:uint(n)%uint(len(b)+1)]
}

// missingOrSame checks that a, found in a part of a file, is absent or what is
// found in the whole.
func missingOrSame(t *testing.T, what string, a, whole Count) {
	t.Helper()
	if a.OK && a != whole {
		t.Errorf("%s is %+v in a part and %+v in the whole", what, a, whole)
	}
	if !a.OK && a.N != 0 {
		t.Errorf("%s is absent and %d", what, a.N)
	}
}

// plain finds a number between a key and a unit, slowly.
func plain(b []byte, key, unit string, factor uint64) Count {
	for line := range strings.Lines(string(b)) {
		value, ok := strings.CutPrefix(line, key)
		if !ok || !strings.HasSuffix(line, "\n") {
			continue
		}
		value, ok = strings.CutSuffix(value, unit)
		n, err := strconv.ParseUint(strings.TrimLeft(value, " \t"), 10, 64)
		return Count{n * factor, ok && err == nil}
	}
	return Count{}
}

func FuzzCPUTimes(f *testing.F) {
	seeds(f, "/proc/stat")
	f.Add([]byte("cpu0 1 2 3 4\ncpu0 1 2 3 4\n"), 3)
	f.Add([]byte("cpu0 18446744073709551615 2 3 4\n"), 3)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		whole, done, err := parseCPUTimes(b, nil)
		if err != nil {
			if len(whole) > 0 {
				t.Fatalf("%+v and %v", whole, err)
			}
			return
		}
		for i := 1; i < len(whole); i++ {
			if whole[i].CPU <= whole[i-1].CPU {
				t.Errorf("not in ascending order: %+v", whole)
			}
		}
		part, partDone, err := parseCPUTimes(cut(b, n), nil)
		if err != nil || len(part) > len(whole) || !slices.Equal(part, whole[:len(part)]) {
			t.Errorf("part %+v, %v; whole %+v", part, err, whole)
		}
		if partDone && (!done || len(part) != len(whole)) {
			t.Errorf("done after %+v of %+v", part, whole)
		}
	})
}

func FuzzMeminfo(f *testing.F) {
	seeds(f, "/proc/meminfo")
	f.Add([]byte("MemTotal: 18446744073709551615 kB\n"), 3)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		whole, err := parseMeminfo(b)
		if err != nil {
			if whole != (Memory{}) {
				t.Errorf("%+v and %v", whole, err)
			}
			return
		}
		part, err := parseMeminfo(cut(b, n))
		if err != nil {
			t.Fatal(err)
		}
		missingOrSame(t, "MemTotal", part.Total, whole.Total)
		missingOrSame(t, "MemFree", part.Free, whole.Free)
		missingOrSame(t, "MemAvailable", part.Available, whole.Available)
		missingOrSame(t, "Buffers", part.Buffers, whole.Buffers)
		missingOrSame(t, "Cached", part.Cached, whole.Cached)
		missingOrSame(t, "Slab", part.Slab, whole.Slab)
		if whole.Slab != plain(b, "Slab:", " kB\n", 1024) {
			t.Errorf("Slab is %+v", whole.Slab)
		}
	})
}

func FuzzNodeMeminfo(f *testing.F) {
	seeds(f, "/sys/devices/system/node/node0/meminfo")
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		free, used, err := parseNodeMeminfo(b)
		if err != nil {
			return
		}
		partFree, partUsed, err := parseNodeMeminfo(cut(b, n))
		if err != nil {
			t.Fatal(err)
		}
		missingOrSame(t, "MemFree", partFree, free)
		missingOrSame(t, "MemUsed", partUsed, used)
	})
}

func FuzzVMStat(f *testing.F) {
	seeds(f, "/proc/vmstat")
	f.Add([]byte("pgfault 1\npgfault 2\n"), 10)
	keys := []string{"pgfault", "nr_free_pages", "swap_ra", "x"}
	index := map[string]int{}
	for i, key := range keys {
		index[key] = i
	}
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		whole := make([]Count, len(keys))
		if err := parseVMStat(b, index, whole); err != nil {
			if slices.ContainsFunc(whole, func(c Count) bool { return c.OK }) {
				t.Errorf("%+v and %v", whole, err)
			}
			return
		}
		part := make([]Count, len(keys))
		if err := parseVMStat(cut(b, n), index, part); err != nil {
			t.Fatal(err)
		}
		for i, key := range keys {
			missingOrSame(t, key, part[i], whole[i])
			if want := plain(b, key+" ", "\n", 1); whole[i] != want {
				t.Errorf("%s is %+v, want %+v", key, whole[i], want)
			}
		}
	})
}

func FuzzPressure(f *testing.F) {
	seeds(f, "/proc/pressure/memory")
	f.Add([]byte("full avg10=0.00 total=7\nsome total=9\n"), 27)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		whole, err := parsePressure(b)
		if err != nil {
			return
		}
		part, err := parsePressure(cut(b, n))
		if err != nil {
			t.Fatal(err)
		}
		missingOrSame(t, "some", part.Some, whole.Some)
		missingOrSame(t, "full", part.Full, whole.Full)
	})
}

// FuzzLoad compares with strconv.
func FuzzLoad(f *testing.F) {
	seeds(f, "/proc/loadavg")
	f.Add([]byte("123.45 0.07 99.00 1/5000 4194303\n"), 0)
	f.Fuzz(func(t *testing.T, b []byte, _ int) {
		l, err := parseLoad(b)
		if err != nil || !l.OK {
			if l != (Load{}) {
				t.Errorf("%+v and %v", l, err)
			}
			return
		}
		fields := bytes.Fields(b)
		for i, got := range []float64{l.One, l.Five, l.Fifteen} {
			if want, err := strconv.ParseFloat(string(fields[i]), 64); err != nil || got != want {
				t.Errorf("%q is %v, %v", fields[i], got, err)
			}
		}
	})
}

func FuzzCPUInfo(f *testing.F) {
	seeds(f, "/proc/cpuinfo")
	f.Add([]byte("processor\t: 1\ncpu MHz\t\t: 2596.144\ncpu MHz\t\t: 2596.144\n"), 30)
	f.Add([]byte("processor\t: 1\ncpu MHz\t\t: Unknown\n"), 30)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		if model := parseCPUModel(b); strings.ContainsAny(model, "\n") {
			t.Errorf("model %q", model)
		}
		whole, err := parseCPUMHz(b, nil)
		if err != nil {
			if len(whole) > 0 {
				t.Errorf("%+v and %v", whole, err)
			}
			return
		}
		for i, q := range whole {
			if q.Hertz == 0 || i > 0 && q.CPU <= whole[i-1].CPU {
				t.Errorf("%+v", whole)
			}
		}
		part, err := parseCPUMHz(cut(b, n), nil)
		if err != nil || len(part) > len(whole) || !slices.Equal(part, whole[:len(part)]) {
			t.Errorf("part %+v, %v; whole %+v", part, err, whole)
		}
	})
}

// FuzzList turns what was parsed into text and back.
func FuzzList(f *testing.F) {
	for _, s := range []string{"0-3,5\n", "\n", "", "0", "7,3", "1-0", "0-65535", "0-65536", "0,0", "4294967296", "0-18446744073709551615"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ids, err := parseList(b)
		if err != nil {
			return
		}
		var text []byte
		for i, id := range ids {
			if id < 0 || id >= maxID || i > 0 && id <= ids[i-1] {
				t.Fatalf("%q is %v", b, ids)
			}
			if i > 0 {
				text = append(text, ',')
			}
			text = strconv.AppendInt(text, int64(id), 10)
		}
		again, err := parseList(append(text, '\n'))
		if err != nil || !slices.Equal(again, ids) {
			t.Errorf("%q is %v, then %v, %v", b, ids, again, err)
		}
	})
}

func FuzzCgroups(f *testing.F) {
	seeds(f, "/proc/self/cgroup")
	f.Add([]byte("3:cpu,cpuacct:/a:b/c d\n0::/x (deleted)\n"), 20)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		whole, err := parseCgroups(b)
		if err != nil {
			return
		}
		var text []byte
		for _, c := range whole {
			if !strings.HasPrefix(c.Path, "/") || strings.Contains(c.Path, "\n") {
				t.Errorf("path %q", c.Path)
			}
			text = fmt.Appendf(text, "1:%s:%s\n", strings.Join(c.Controllers, ","), c.Path)
		}
		same := func(a, b Cgroup) bool { return a.Path == b.Path && slices.Equal(a.Controllers, b.Controllers) }
		again, err := parseCgroups(text)
		if err != nil || !slices.EqualFunc(again, whole, same) {
			t.Errorf("%+v is %+v, %v", whole, again, err)
		}
		part, err := parseCgroups(cut(b, n))
		if err != nil || len(part) > len(whole) || !slices.EqualFunc(part, whole[:len(part)], same) {
			t.Errorf("part %+v, %v; whole %+v", part, err, whole)
		}
	})
}

// FuzzFlags makes the line of a process with any name.
func FuzzFlags(f *testing.F) {
	f.Add("kthreadd", uint64(2129984), []byte("2 (kthreadd) S 0 0 0 0 -1 2129984 0 0\n"))
	f.Add(") R 1 2 3 4 5 6 7", uint64(4194304), []byte("1 (x) R 1 2 3 4 5 x 7 8\n"))
	f.Fuzz(func(t *testing.T, comm string, flags uint64, b []byte) {
		got, err := parseFlags(fmt.Appendf(nil, "12 (%s) S 0 0 0 0 -1 %d 0 0 0 0\n", comm, flags))
		if got != flags || err != nil {
			t.Errorf("%d, %v, want %d", got, err, flags)
		}
		if n, err := parseFlags(b); err != nil && n != 0 {
			t.Errorf("%d and %v", n, err)
		}
	})
}

// FuzzNumbers covers the files of single numbers.
func FuzzNumbers(f *testing.F) {
	f.Add([]byte("1830212 42113 7\n"), uint64(1), uint64(2))
	f.Add([]byte("CapEff:\t000001fffeffffff\n"), uint64(0), ^uint64(0))
	f.Fuzz(func(t *testing.T, b []byte, x, y uint64) {
		line := fmt.Appendf(nil, "%d %d 7\n", x, y)
		if n, err := parseRunDelay(line); n != y || err != nil {
			t.Errorf("schedstat %q: %d, %v", line, n, err)
		}
		if n, err := parseResident(line); n != y || err != nil {
			t.Errorf("statm %q: %d, %v", line, n, err)
		}
		if c, err := parseCapabilities(fmt.Appendf(nil, "Name:\tx\nCapEff:\t%016x\n", x)); uint64(c) != x || err != nil {
			t.Errorf("capabilities %x: %x, %v", x, uint64(c), err)
		}
		for _, parse := range []func([]byte) (uint64, error){parseRunDelay, parseResident} {
			if n, err := parse(b); err != nil && n != 0 {
				t.Errorf("%d and %v", n, err)
			}
		}
		n, rest, ok := cutUint(b)
		digits := strings.TrimLeft(string(b[:len(b)-len(rest)]), " \t")
		if want, err := strconv.ParseUint(digits, 10, 64); ok && (err != nil || n != want) {
			t.Errorf("%q is %d, then %q", b, n, rest)
		}
	})
}

func FuzzDirents(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x18\x00\x0a7\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := countDirents(b)
		if err == nil && n > uint64(len(b)/21) {
			t.Errorf("%d entries in %d bytes", n, len(b))
		}
		if twice, errTwice := countDirents(append(bytes.Clone(b), b...)); err == nil && (twice != 2*n || errTwice != nil) {
			t.Errorf("%d, twice that is %d, %v", n, twice, errTwice)
		}
	})
}
