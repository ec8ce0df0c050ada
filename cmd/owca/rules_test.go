package main

import (
	"strings"
	"testing"
)

// TestParseRules: both shapes of a file of rules, and where it is wrong.
func TestParseRules(t *testing.T) {
	for _, tc := range []struct {
		text  string
		rules int
		wrong string
	}{
		{"", 0, ""},
		{"# nothing yet\n", 0, ""},
		{"- allocations: {cpu_quota: 0.5}\n- task_id: /a\n  allocations: {cpu_shares: 1}\n", 2, ""},
		{"# first\n---\n- allocations: {cpu_quota: 0.5}\n", 1, ""},
		{"[{allocations: {cpu_quota: 0.5}}]\n", 1, ""},
		{"[\n{allocations: {cpu_quota: 0.5}},\n]\n", 1, ""},
		{"rules:\n  - allocations: {cpu_quota: 0.5}\n", 1, ""},
		{"---\nrules: [{allocations: {cpu_quota: 0.5}}]\n", 1, ""},
		{"- allocations: {cpu_quota: 0.5}\n- allocations: {cpu_qouta: 1}\n", 0, `r.yaml:2:17: $[1].allocations.cpu_qouta: unknown field "cpu_qouta" (did you mean "cpu_quota"?)`},
		{"- allocations: {cpu_quota: -1}\n", 0, `r.yaml:1:28: $[0].allocations.cpu_quota: `},
		{"- {}\n", 0, `r.yaml:1:3: $[0].allocations: missing field`},
		{"rule: []\n", 0, `did you mean "rules"?`},
		{"- [\n", 0, "r.yaml:"},
		{"- labels: {a: '('}\n  allocations: {cpu_quota: 1}\n", 0, "r.yaml:1:15: $[0].labels.a"},
		{"text\n", 0, "r.yaml:1:1"},
	} {
		rules, err := parseRules("r.yaml", []byte(tc.text))
		if (err != nil) != (tc.wrong != "") || err != nil && !strings.Contains(err.Error(), tc.wrong) || len(rules) != tc.rules {
			t.Errorf("%q: %d rules, %v; want %d, %q", tc.text, len(rules), err, tc.rules, tc.wrong)
		}
	}
}

// TestIsRules: a list somewhere in a configuration does not make it one of rules. Whatever
// the allocator takes is one.
func TestIsRules(t *testing.T) {
	for text, want := range map[string]bool{
		"":                                   true,
		"# nothing\n":                        true,
		"---\n# nothing\n":                   true,
		"- allocations: {cpu_quota: 1}\n":    true,
		"\ufeff- allocations: {cpu_idle: 1}": true,
		"--- # comment\n[]\n":                true,
		"---\n# a list\n[]\n":                true,
		"rules: []\n":                        true,
		"{rules: [{allocations: {cpu_quota: 1}}]}":          true,
		"'rules':\n- allocations: {cpu_quota: 1}\n":         true,
		"\"rules\": []\n":                                   true,
		"rules:\n- {task_id: 'runner:', allocations: {}}\n": true,
		"runner: !AllocationRunner\n":                       false,
		"{rules: [], runner: !X {}}":                        false,
		"loggers:\n  - rules:\nrunner: !X\n":                false,
		"rules: []\nrunner: !X\n":                           false,
		"loggers:\n- a\n":                                   false,
		"text\n":                                            false,
		"- [\n":                                             false, // whatever it is, its syntax is wrong
	} {
		if got := isRules([]byte(text)); got != want {
			t.Errorf("%q: %v", text, got)
		}
		if _, err := parseRules("r.yaml", []byte(text)); (err == nil) != want {
			t.Errorf("%q is rules: %v, and %v", text, want, err)
		}
	}
}
