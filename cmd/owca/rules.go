package main

import (
	"slices"

	"github.com/owca-project/owca/internal/config"
	"github.com/owca-project/owca/internal/decide"
)

// rulesFile is what a file of rules says that is not a list of them.
type rulesFile struct {
	Rules []decide.Rule `yaml:"rules" help:"Rules; later ones win."`
}

// isRules says whether a file is one of rules and no configuration: a list, or a mapping with
// rules and without a runner. An empty one is one without rules.
func isRules(text []byte) bool {
	s := config.ShapeOf(text)
	return s.Empty || s.List || slices.Contains(s.Keys, "rules") && !slices.Contains(s.Keys, "runner")
}

// parseRules decodes a file of rules: a list, as the original's, or a mapping with the
// field rules. It is as strict as a configuration.
func parseRules(name string, text []byte) ([]decide.Rule, error) {
	var f rulesFile
	var into any = &f
	switch s := config.ShapeOf(text); {
	case s.Empty:
		return nil, nil
	case s.List:
		into = &f.Rules
	}
	_, err := config.NewRegistry().Decode(text, config.Options{File: name}, into)
	return f.Rules, err
}
