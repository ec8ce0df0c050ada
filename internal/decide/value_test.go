package decide

import (
	"math"
	"strconv"
	"strings"
	"testing"
)

func TestBytes(t *testing.T) {
	valid := map[string]Bytes{
		"0": {}, "4096": {N: 4096}, "512M": {N: 512e6}, "2Gi": {N: 2 << 30}, "1Ti": {N: 1 << 40}, "3k": {N: 3000}, "3Ki": {N: 3072},
		"max": {Max: true}, "7T": {N: 7e12}, "9223372036854775807": {N: math.MaxInt64},
	}
	for text, want := range valid {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err != nil || b != want {
			t.Errorf("%s: %+v, error %v, want %+v", text, b, err, want)
		}
	}
	for _, text := range []string{"", "M", "-1", "1.5G", "1KiB", "1 M", "1MM", "1iK", "1K", "Max", "9223372036854775808", "99999999T", "0x10"} {
		if err := new(Bytes).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

// Operations are no bytes: "2Gi" of them is a mistake.
func TestOperations(t *testing.T) {
	for text, want := range map[string]Operations{"200": {N: 200}, "10k": {N: 10000}, "max": {Max: true}} {
		var o Operations
		if err := o.UnmarshalText([]byte(text)); err != nil || o != want {
			t.Errorf("%s: %+v, error %v, want %+v", text, o, err, want)
		}
	}
	for _, text := range []string{"", "2Gi", "1Ki", "1.5", "-1", "Max"} {
		if err := new(Operations).UnmarshalText([]byte(text)); err == nil || strings.Contains(err.Error(), "bytes") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestSwitch(t *testing.T) {
	for text, want := range map[string]Switch{"true": true, "False": false, "1": true, "0": false, "on": true, "1.0": true} {
		w := !want
		if err := w.UnmarshalText([]byte(text)); err != nil || w != want {
			t.Errorf("%s: %v, error %v", text, w, err)
		}
	}
	for _, text := range []string{"", "2", "0.5", "yess"} {
		if err := new(Switch).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

// What is printed means the same when it is read, and a suffix is nothing but a factor.
func FuzzBytes(f *testing.F) {
	for _, seed := range []string{"1", "512M", "2Gi", "max", "18446744073709551616", "i", "9Ti"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err != nil {
			return
		}
		if b.Max && b.N != 0 {
			t.Errorf("%q: %+v", text, b)
		}
		printed, err := b.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var again Bytes
		if err := again.UnmarshalText(printed); err != nil || again != b {
			t.Errorf("%q is %s, which is %+v, error %v", text, printed, again, err)
		}
		if number := strings.TrimRight(text, "kKMGTi"); !b.Max {
			n, err := strconv.ParseUint(number, 10, 64)
			if err != nil || n > b.N || n != 0 && b.N%n != 0 {
				t.Errorf("%q is %d", text, b.N)
			}
		}
	})
}

func FuzzList(f *testing.F) {
	for _, seed := range []string{"0-3,8", "1", "", ",", "3-1", "0-0", "1-2-3", "65535"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		err := checkList(text)
		if err == nil && (strings.Trim(text, "0123456789,-") != "" || strings.ContainsAny(text[:1]+text[len(text)-1:], ",-")) {
			t.Errorf("%q is taken", text)
		}
		if _, numeric := strconv.ParseUint(text, 10, 16); numeric == nil && err != nil {
			t.Errorf("%q: %v", text, err)
		}
	})
}
