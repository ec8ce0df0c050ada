package perf

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseRequests(t *testing.T) {
	for _, test := range []struct {
		text string
		want Request
	}{
		{"cycles", Request{Events: []string{"cycles"}}},
		{" cpu/event=0xa3,umask=0x14/u ", Request{Events: []string{"cpu/event=0xa3,umask=0x14/u"}}},
		{"cpu/event=1,name='a,b'/", Request{Events: []string{"cpu/event=1,name='a,b'/"}}},
		{"sched:sched_switch", Request{Events: []string{"sched:sched_switch"}}},
		{"{cycles}", Request{Events: []string{"cycles"}, Group: true}},
		{"{cycles, instructions}", Request{Events: []string{"cycles", "instructions"}, Group: true}},
		{"{cycles:u,instructions}:k", Request{Events: []string{"cycles:uk", "instructions:k"}, Group: true}},
		{"{cpu/event=163,edge,name=x/,sched:sched_switch:k,a__ra314}:uG", Request{Events: []string{"cpu/event=0xa3,edge,name='x'/uG", "sched:sched_switch:ukG", "a__ra314:uG"}, Group: true}},
	} {
		got, err := ParseRequests([]string{test.text})
		if err != nil {
			t.Errorf("%s: %v", test.text, err)
			continue
		}
		if diff := cmp.Diff([]Request{test.want}, got); diff != "" {
			t.Errorf("%s: %s", test.text, diff)
		}
	}
}

func TestParseRequestsErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "an event is missing",
		"cycles,instructions":            "several events",
		"{cycles,instructions":           "closing brace",
		"{cycles,}":                      "an event is missing",
		"{}":                             "an event is missing",
		"{cycles}u":                      "only modifiers may follow",
		"{cycles}:":                      "modifiers are missing",
		"{cycles}:S":                     "it is for sampling",
		"{cycles,{instructions}}":        "cannot be nested",
		"g:{cycles}":                     "begin with their brace",
		"cycles:p":                       `modifier 'p': it is for sampling`,
		"cycles:upp":                     "it is for sampling",
		"cycles:uu":                      "there twice",
		"cycles:D":                       "pinned",
		"cycles:W":                       "together or not at all",
		"cycles:x":                       "there are u k h G H",
		"r1a3:x":                         "there are u k h G H",
		"cycles:":                        "modifiers are missing",
		"a:b:c:d":                        "too many colons",
		":zebra":                         "a name is missing",
		"sched:*":                        "has a wildcard",
		"../cycles/":                     "before the slash",
		"sched:..":                       "is not a name",
		"a b":                            `"a b" is not a name`,
		"cpu/event=1":                    "the slash after the terms is missing",
		"cpu/event=1/p":                  "it is for sampling",
		"cpu/event=1/:u":                 "there are u k h G H",
		"cpu//":                          "a name is missing",
		"cpu/event=/":                    "not a number",
		"cpu/event=0x/":                  "not a number",
		"cpu/event=+1/":                  "not a number",
		"cpu/event=0x1ffffffffffffffff/": "more than 64 bits",
		"r1ffffffffffffffff":             "more than 64 bits",
		"cpu/event=1,event=2/":           "event is there twice",
		"cpu/event=1,/":                  "a name is missing",
		"cpu/event=1,period=100/":        "period: it is for sampling",
		"cpu/event=1,percore/":           "percore: counts are of cgroups",
		"cpu/event=1,ldlat=?/":           "ldlat=? needs a number",
		"cpu/event=1,name=/":             "no letter or digit",
		"cpu/event=1,name=x,name=y/":     "name= is there twice",
		"cpu/event=1,name='x/":           "a closing quote is missing",
		"cpu/event=1/u/2/":               "too many slashes",
		"x__r12345":                      "5 digits after __r",
		"x__r12345678901234567":          "17 digits after __r",
	} {
		_, err := ParseRequests([]string{"cycles", text, "instructions"})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "event ") {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestParseRequestsReportsAll(t *testing.T) {
	got, err := ParseRequests([]string{"cycles:p", "cycles", "cpu/"})
	if err == nil || strings.Count(err.Error(), "\n") != 1 || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
}

// What is accepted prints as something that reads back as the same, alone and
// in a group, and a group's modifiers are those of its events.
func FuzzParseRequests(f *testing.F) {
	for _, s := range []string{
		"cycles", "cache_misses:u", "{cycles,instructions:k}:u", "cpu/event=0xa3,umask=0x14,cmask=20/", "cpu/edge,event=1,name='x,y'/ukhGH",
		"sched:sched_switch:k", "x__ra31414", "x__rb70100103f803c00", "r1a3", "L1-dcache-load-misses", "{cpu/a=1,b=2/,c}", "cycles/name=x/", "a:b:c", "{a", "'", "u:u",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		requests, err := ParseRequests([]string{text})
		if err != nil {
			return
		}
		r := requests[0]
		if len(requests) != 1 || len(r.Events) == 0 || !r.Group && len(r.Events) != 1 {
			t.Fatalf("%q: %+v", text, requests)
		}
		again, err := ParseRequests([]string{"{" + strings.Join(r.Events, ",") + "}"})
		if err != nil || !slices.Equal(again[0].Events, r.Events) {
			t.Fatalf("%q: %+v, as a group %+v, %v", text, r, again, err)
		}
		user, err := ParseRequests([]string{"{" + strings.Join(r.Events, ",") + "}:u"})
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range r.Events {
			s, err := parseSpec(e)
			if err != nil {
				t.Fatalf("%q: %v", e, err)
			}
			printed := s.String()
			back, err := parseSpec(printed)
			if err != nil {
				t.Fatalf("%q prints as %q: %v", e, printed, err)
			}
			if diff := cmp.Diff(s, back, cmp.AllowUnexported(spec{}, term{})); diff != "" {
				t.Fatalf("%q prints as %q: %s", e, printed, diff)
			}
			s.modifiers |= inUser
			if user[0].Events[i] != s.String() {
				t.Fatalf("%q in {}:u is %q, want %q", e, user[0].Events[i], s.String())
			}
			for _, name := range []string{s.name, s.pmu, s.subsystem} {
				if strings.ContainsAny(name, "/\x00") || strings.HasPrefix(name, ".") {
					t.Fatalf("%q: %q may leave its directory", e, name)
				}
			}
		}
	})
}

func TestNearest(t *testing.T) {
	names := genericNames()
	for wanted, want := range map[string]string{
		"cylces": "cycles", "instructoins": "instructions", "cach_misses": "cache-misses", "LLC-load-mises": "LLC-load-misses",
		"x": "", "": "", "something_else": "", "page_fault": "page-faults", "stall_mem_load": stallsName, "cs": "cs",
	} {
		if got := nearest(wanted, names); got != want {
			t.Errorf("%s: %q, want %q", wanted, got, want)
		}
	}
}
