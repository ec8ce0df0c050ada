package discover

import (
	"encoding/binary"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestGlob(t *testing.T) {
	for _, test := range []struct {
		pattern, path string
		want          bool
	}{
		{"/a", "/a", true},
		{"/a", "/a/b", false},
		{"/a/*", "/a/b", true},
		{"/a/*", "/a", false},
		{"/a/*", "/a/b/c", false},
		{"/a/**", "/a", true},
		{"/a/**", "/a/b/c", true},
		{"/a/**", "/ab", false},
		{"**", "/", true},
		{"**", "/a/b", true},
		{"/**/c", "/c", true},
		{"**/c", "/a/b/c", true},
		{"**/c", "/a/c/b", false},
		{"/a/**/c/**/e", "/a/c/c/d/e", true},
		{"/a/**/c/**/e", "/a/b/d/e", false},
		{"/a/**/b/c", "/a/b/b/c", true},
		{"/[ab]?.slice", "/bx.slice", true},
		{`/x\x2dy.service`, `/x\x2dy.service`, true},
		{`/x\*`, `/x\2`, true},
		{"/a//b", "/a/b", false},
		{"/ü*", "/übung\n", true},
		{"/", "/a", false},
	} {
		g, err := parseGlob(test.pattern)
		if err != nil {
			t.Errorf("%q: %v", test.pattern, err)
			continue
		}
		if got := g.match(test.path); got != test.want {
			t.Errorf("%q matches %q: %t", test.pattern, test.path, got)
		}
	}
	for _, bad := range []string{"", "a", "/[", "/a**", "/a/[b-/c"} {
		if _, err := parseGlob(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// Against the obvious way to do it, and in bounded time.
func FuzzGlob(f *testing.F) {
	f.Add("/a/**/b", "/a/x/b")
	f.Add("**/[a-c]*/**", "/a/b")
	f.Add(strings.Repeat("/**/a", 20), strings.Repeat("/a", 60)+"/b")
	var try func(g glob, names []string) bool
	try = func(g glob, names []string) bool {
		switch {
		case len(g) == 0:
			return len(names) == 0
		case g[0] == "**":
			return try(g[1:], names) || len(names) > 0 && try(g, names[1:])
		default:
			return len(names) > 0 && matches(g[0], names[0]) && try(g[1:], names[1:])
		}
	}
	f.Fuzz(func(t *testing.T, pattern, cgroup string) {
		g, err := parseGlob(pattern)
		if err != nil {
			return
		}
		cgroup = path.Clean("/" + cgroup)
		got := g.match(cgroup)
		if len(cgroup)+len(pattern) > 40 {
			return
		}
		var names []string
		if cgroup != "/" {
			names = strings.Split(cgroup[1:], "/")
		}
		if want := try(g, names); got != want {
			t.Errorf("%q matches %q: %t", pattern, cgroup, got)
		}
	})
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{
		`a`: `a`, `a\x2db`: `a-b`, `\x2d`: `-`, `\x2`: `\x2`, `\xzz`: `\xzz`, `\\x2d`: `\-`, `a\x2d\x2db`: `a--b`,
	} {
		if got := unescape(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestParsePopulated(t *testing.T) {
	for _, test := range []struct {
		text    string
		yes, ok bool
	}{
		{"populated 1\nfrozen 0\n", true, true},
		{"frozen 0\npopulated 0\n", false, true},
		{"populated 1", true, true},
		{"populated 2\n", false, false},
		{"populated", false, false},
		{"xpopulated 1\n", false, false},
		{"", false, false},
	} {
		if yes, ok := parsePopulated([]byte(test.text)); yes != test.yes || ok != test.ok {
			t.Errorf("%q: %t, %t", test.text, yes, ok)
		}
	}
}

func FuzzPopulated(f *testing.F) {
	f.Add([]byte("populated 1\nfrozen 0\n"))
	f.Add([]byte("\n\npopulated"))
	f.Fuzz(func(t *testing.T, b []byte) {
		yes, ok := parsePopulated(b)
		if yes && !ok {
			t.Error("yes, but not ok")
		}
		var want, found bool
		for _, line := range strings.Split(string(b), "\n") {
			if value, has := strings.CutPrefix(line, "populated "); has {
				want, found = value == "1", value == "1" || value == "0"
				break
			}
		}
		if yes != want || ok != found {
			t.Errorf("%t, %t", yes, ok)
		}
	})
}

// Wherever the text is cut, the pids are the same.
func FuzzPIDs(f *testing.F) {
	f.Add([]byte("1\n23\n456\n"), uint(4))
	f.Add([]byte("12\nx\n-3\n\n9999999999999999999\n7"), uint(1))
	f.Fuzz(func(t *testing.T, b []byte, cut uint) {
		cut %= uint(len(b) + 1)
		read := func(parts ...[]byte) []int {
			var s pidScanner
			var pids []int
			for _, part := range parts {
				for {
					pid, rest, ok := s.next(part)
					if !ok {
						break
					}
					pids, part = append(pids, pid), rest
				}
			}
			return pids
		}
		whole, parts := read(b), read(b[:cut], b[cut:])
		if !slices.Equal(whole, parts) {
			t.Errorf("%v, in parts %v", whole, parts)
		}
		var want []int
		lines := strings.Split(string(b), "\n")
		for _, line := range lines[:len(lines)-1] {
			if pid, err := strconv.Atoi(line); err == nil && line[0] != '-' && line[0] != '+' {
				want = append(want, pid)
			}
		}
		// Numbers that no pid can be are left out at some point beyond 2^24.
		small := func(list []int) []int {
			return slices.DeleteFunc(slices.Clone(list), func(pid int) bool { return pid > 1<<24 })
		}
		if !slices.Equal(small(whole), small(want)) {
			t.Errorf("%v, want %v", whole, want)
		}
	})
}

func FuzzEvents(f *testing.F) {
	one := binary.NativeEndian.AppendUint32(nil, 7)
	one = binary.NativeEndian.AppendUint32(one, 0x40000100)
	one = binary.NativeEndian.AppendUint32(one, 0)
	one = binary.NativeEndian.AppendUint32(one, 16)
	one = append(one, "a name\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"...)
	f.Add(one)
	f.Add(append(slices.Clone(one), one[:20]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		for {
			e, rest, ok := nextEvent(b)
			if !ok {
				return
			}
			if len(rest) > len(b)-16 || strings.Contains(string(e.name), "\x00") {
				t.Fatalf("event %+v, %d of %d bytes left", e, len(rest), len(b))
			}
			b = rest
		}
	})
}

func FuzzDirents(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x18\x00\x04cpu\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for {
			name, _, rest, ok := dirent(b)
			if !ok {
				return
			}
			if len(rest) >= len(b) || strings.Contains(string(name), "\x00") {
				t.Fatalf("%q, %d of %d bytes left", name, len(rest), len(b))
			}
			b = rest
		}
	})
}

func FuzzKernelThread(f *testing.F) {
	f.Add("2 (kthreadd) S 0 0 0 0 -1 2129984 0", uint64(0))
	f.Add("7 (a) S 0) R 1 7 7 0 -1 4194560 0", uint64(1)<<21)
	f.Fuzz(func(t *testing.T, name string, flags uint64) {
		line := fmt.Sprintf("7 (%s) S 1 7 7 0 -1 %d 0 0\n", name, flags)
		kernel, err := isKernelThread([]byte(line))
		if err != nil || kernel != (flags&0x200000 != 0) {
			t.Errorf("%q: %t, %v", line, kernel, err)
		}
		// Anything at all.
		_, _ = isKernelThread([]byte(name))
	})
}

// The time of a match is bounded, whatever the pattern.
func TestGlobTime(t *testing.T) {
	g, err := parseGlob(strings.Repeat("/**/a", 100) + "/c")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan bool)
	go func() { done <- g.match(strings.Repeat("/a", 1500) + "/b") }()
	select {
	case got := <-done:
		if got {
			t.Error("matches")
		}
	case <-time.After(time.Minute):
		t.Fatal("takes for ever")
	}
}
