package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	yaml "go.yaml.in/yaml/v3"
)

// Problem is one thing wrong with a file.
type Problem struct {
	File         string
	Line, Column int    // from 1; column in characters
	Path         string // "$.runner.node.timeout"; "" if the file is no YAML
	What         string // what is wrong, and what was expected
}

func (p Problem) Error() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File + ":")
	}
	fmt.Fprintf(&b, "%d:%d: ", p.Line, p.Column)
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.What)
	return b.String()
}

// Errors are all problems of a file, in the order of their positions, at least
// one.
type Errors []Problem

// printed is how many problems Errors.Error lists.
const printed = 100

// Error returns a line for each of the first 100 problems.
func (e Errors) Error() string {
	var b strings.Builder
	for i, p := range e[:min(len(e), printed)] {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(p.Error())
	}
	if n := len(e) - printed; n > 0 {
		fmt.Fprintf(&b, "\n… and %d more problems", n)
	}
	return b.String()
}

// Unwrap lets errors.As find a Problem.
func (e Errors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, p := range e {
		errs[i] = p
	}
	return errs
}

// byPosition sorts problems and drops those that say the same of the same
// place: an alias leads to one node by several paths.
func byPosition(ps []Problem) []Problem {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Path, b.Path), cmp.Compare(a.What, b.What))
	})
	seen := make(map[Problem]bool, len(ps))
	return slices.DeleteFunc(ps, func(p Problem) bool {
		p.Path = ""
		if seen[p] {
			return true
		}
		seen[p] = true
		return false
	})
}

// nodePath is the way to a value, kept as a list and written out only if there
// is a problem: keys may be long and values many.
type nodePath struct {
	parent *nodePath
	name   string
	index  int // of a list's element; -1: name counts
}

func (p *nodePath) key(name string) *nodePath { return &nodePath{parent: p, name: name, index: -1} }
func (p *nodePath) at(index int) *nodePath    { return &nodePath{parent: p, index: index} }

func (p *nodePath) String() string {
	if p.parent == nil {
		return "$"
	}
	switch {
	case p.index >= 0:
		return p.parent.String() + "[" + strconv.Itoa(p.index) + "]"
	case fieldName.MatchString(p.name) && len(p.name) <= clipped:
		return p.parent.String() + "." + p.name
	default:
		return p.parent.String() + "[" + quote(p.name) + "]"
	}
}

// clipped is how many characters of somebody's text a message repeats.
const clipped = 60

// quote returns s in quotes, its end cut off if it is long.
func quote(s string) string {
	n := 0
	for i := range s {
		if n++; n > clipped {
			return strconv.Quote(s[:i]) + "…"
		}
	}
	return strconv.Quote(s)
}

// found describes what a node is, to follow "found".
func found(n *yaml.Node, secret bool) string {
	switch n.Kind {
	case yaml.SequenceNode:
		if isLocal(n.Tag) {
			return "a list tagged " + n.Tag
		}
		return "a list"
	case yaml.MappingNode:
		if isLocal(n.Tag) {
			return "the component " + n.Tag
		}
		return "a mapping"
	}
	what := "the text"
	switch n.Tag {
	case "!!null":
		return "null"
	case envTag:
		return "the text of an environment variable"
	case "!!int", "!!float":
		what = "the number"
	case "!!bool":
		what = "the boolean"
	case "!!str", "!!timestamp":
	default:
		if n.Value == "" {
			return "the component " + n.Tag
		}
		what = "a value tagged " + n.Tag
		secret = true
	}
	switch {
	case secret:
		return strings.Replace(what, "the ", "a ", 1)
	case what == "the text":
		return what + " " + quote(n.Value)
	default:
		return what + " " + strings.Trim(quote(n.Value), `"`)
	}
}

// nearest returns the name that s is probably a typo of, or "".
func nearest(s string, names []string) string {
	best, distance := "", min(max(1, len(s)/3)+1, len(s)) // not another name altogether
	if len(s) > 2*clipped {
		return ""
	}
	fold := func(s string) string { return strings.ReplaceAll(strings.ToLower(s), "-", "_") }
	for _, n := range names {
		if d := editDistance(fold(s), fold(n)); d < distance {
			best, distance = n, d
		}
	}
	return best
}

// editDistance counts insertions, deletions, replacements and swaps of
// neighbours (optimal string alignment).
func editDistance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replace := last[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[j] = min(last[j]+1, row[j-1]+1, replace)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
