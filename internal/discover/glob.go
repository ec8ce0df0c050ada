package discover

import (
	"fmt"
	"path"
	"strings"
)

// glob matches cgroup paths: path.Match for each component, and ** for any
// number of components, none included. A backslash is an ordinary character,
// because the names of systemd units are full of them.
type glob []string

func parseGlob(pattern string) (glob, error) {
	if !strings.HasPrefix(pattern, "/") && !strings.HasPrefix(pattern, "**") {
		return nil, fmt.Errorf("pattern %q is not a path: begin it with / or **", pattern)
	}
	g := strings.Split(strings.Trim(strings.ReplaceAll(pattern, `\`, `\\`), "/"), "/")
	for i, p := range g {
		if p == "**" {
			continue
		}
		if strings.Contains(p, "**") {
			return nil, fmt.Errorf("pattern %q: ** stands for whole components, not for a part of one", pattern)
		}
		if _, err := path.Match(p, ""); err != nil {
			return nil, fmt.Errorf("pattern %q, component %d: %w", pattern, i+1, err)
		}
	}
	return g, nil
}

func parseGlobs(field string, patterns []string) ([]glob, error) {
	var list []glob
	for _, p := range patterns {
		g, err := parseGlob(p)
		if err != nil {
			return nil, fieldError{field, err}
		}
		list = append(list, g)
	}
	return list, nil
}

// match tells whether the pattern matches a clean path. It goes back only to
// the last **, which is enough, so the time is patterns × components at worst.
func (g glob) match(cgroup string) bool {
	rest := strings.TrimPrefix(cgroup, "/")
	more := rest != ""
	p, star, back := 0, -1, ""
	for more {
		name, after, found := strings.Cut(rest, "/")
		switch {
		case p < len(g) && g[p] == "**":
			star, back = p, rest
			p++
			continue
		case p < len(g) && matches(g[p], name):
			p++
		case star >= 0:
			// Let the last ** take one component more.
			_, after, found = strings.Cut(back, "/")
			p, back = star+1, after
		default:
			return false
		}
		rest, more = after, found
	}
	for p < len(g) && g[p] == "**" {
		p++
	}
	return p == len(g)
}

func matches(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return ok && err == nil // parseGlob has seen the pattern
}

// whole tells that a path that matches does so with all that is below it.
func (g glob) whole() bool { return g[len(g)-1] == "**" }

func anyMatch(list []glob, cgroup string) bool {
	for _, g := range list {
		if g.match(cgroup) {
			return true
		}
	}
	return false
}

// fieldError is a problem of one field of the configuration.
type fieldError struct {
	field string
	err   error
}

func (e fieldError) Error() string { return e.err.Error() }
func (e fieldError) Unwrap() error { return e.err }

// Field is the name of the field in the configuration file.
func (e fieldError) Field() string { return e.field }
