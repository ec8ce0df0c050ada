package main

import (
	"errors"
	"strings"

	"github.com/owca-project/owca/internal/config"
	"github.com/owca-project/owca/internal/decide"
)

// rulesFile is what a file of rules says.
type rulesFile struct {
	Rules []decide.Rule `yaml:"rules" help:"Rules; later ones win."`
}

// isRules says whether a file is one of rules and no configuration: a list, or a mapping with
// rules and without a runner.
func isRules(text []byte) bool {
	first, rules := true, false
	for line := range strings.Lines(string(text)) {
		trimmed := strings.TrimSpace(line)
		switch {
		case trimmed == "" || trimmed[0] == '#' || trimmed == "---":
			continue
		case first && (trimmed[0] == '-' || trimmed[0] == '['):
			return true
		case strings.HasPrefix(line, "runner:"):
			return false
		case strings.HasPrefix(line, "rules:"):
			rules = true
		}
		first = false
	}
	return rules
}

// parseRules decodes a file of rules: a list, as the original's, or a mapping with the
// field rules. It is as strict as a configuration.
func parseRules(name string, text []byte) ([]decide.Rule, error) {
	const key = "rules:"
	data, at, list := string(text), 0, false
	empty := true
lines:
	for line := range strings.Lines(data) {
		switch trimmed := strings.TrimSpace(line); {
		case trimmed == "" || trimmed[0] == '#':
		case trimmed == "---":
			data = data[:at] + strings.Replace(data[at:], "---", "#--", 1)
		default:
			empty = false
			list = trimmed[0] == '-' || trimmed[0] == '['
			break lines
		}
		at += len(line)
	}
	if empty {
		return nil, nil
	}
	if list {
		// A line of its own before the list: positions are one line off, which is undone below. A
		// list in brackets has to be farther in than the key.
		data = key + "\n" + data[:at] + strings.Replace(data[at:], "[", " [", strings.Count(data[at:at+1], "["))
	}
	var f rulesFile
	_, err := config.NewRegistry().Decode([]byte(data), config.Options{File: name}, &f)
	var problems config.Errors
	if list && errors.As(err, &problems) {
		for i := range problems {
			p := &problems[i]
			p.Line = max(p.Line-1, 1)
			p.Path = strings.Replace(p.Path, "$.rules", "$", 1)
		}
	}
	return f.Rules, err
}
