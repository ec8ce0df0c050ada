package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	yaml "go.yaml.in/yaml/v3"
)

// Limits on a file. They are far above what a real one needs and keep the cost
// of a hostile one below 350 MB and one second of CPU time.
const (
	maxSize   = 4 << 20 // bytes
	maxNodes  = 100_000 // values, after each alias is replaced by what it stands for
	maxMarks  = 4 * maxNodes
	maxNested = 100 // levels
)

const emptyFile = "the file is empty"

// parse returns the root of the one document in data, or problems. The tree is
// free of cycles and within the limits.
func parse(data []byte) (*yaml.Node, []Problem) {
	one := func(line, column int, format string, a ...any) []Problem {
		return []Problem{{Line: line, Column: column, What: fmt.Sprintf(format, a...)}}
	}
	if len(data) > maxSize {
		return nil, one(1, 1, "the file has %d bytes (expected at most %d)", len(data), maxSize)
	}
	if i, what := notText(data); what != "" {
		line, column := position(data, i)
		return nil, one(line, column, "%s (expected YAML in UTF-8)", what)
	}
	if i := crowded(data); i >= 0 {
		line, column := position(data, i)
		return nil, one(line, column, "more than %d values (expected a configuration)", maxNodes)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return nil, one(1, 1, emptyFile)
	}
	if err == nil {
		if err = dec.Decode(&second); err == nil {
			return nil, one(second.Line, second.Column, "a second document begins here (expected one document)")
		}
	}
	if !errors.Is(err, io.EOF) {
		return nil, []Problem{syntaxProblem(data, err)}
	}
	root := doc.Content[0]
	if isNull(root) {
		return nil, one(1, 1, emptyFile)
	}
	m := measurer{sizes: map[*yaml.Node]size{}}
	m.measure(root, 1)
	return root, m.problems
}

// notText returns the offset of the first character that YAML does not allow
// and what it is, or "".
func notText(data []byte) (int, string) {
	for i := 0; i < len(data); {
		c := data[i]
		if c >= ' ' && c < 0x7f || c == '\n' || c == '\r' || c == '\t' {
			i++
			continue
		}
		r, n := utf8.DecodeRune(data[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			return i, fmt.Sprintf("the byte 0x%02x is not UTF-8", c)
		case r < 0xa0 && r != 0x85, r == 0xfffe, r == 0xffff:
			return i, fmt.Sprintf("the control character %U is not allowed", r)
		}
		i += n
	}
	return 0, ""
}

// crowded returns the offset at which data has had more than maxMarks
// characters that start values, or -1. The parser takes some 500 bytes for each
// value, comments included, and tells nobody how many there are before it ends.
// Every value but a few has such a character; text has some, too, therefore
// the margin over maxNodes.
func crowded(data []byte) int {
	marks := 0
	for i, c := range data {
		switch c {
		case ',', '[', '{':
			marks++
		case '-', '?', ':':
			// Adjacent to its value only within [] and {}, after a quoted key.
			if i+1 == len(data) || strings.IndexByte(" \t\r\n,[]{}", data[i+1]) >= 0 ||
				c == ':' && i > 0 && (data[i-1] == '"' || data[i-1] == '\'') {
				marks++
			}
		}
		if marks > maxMarks {
			return i
		}
	}
	return -1
}

func position(data []byte, offset int) (line, column int) {
	head := data[:offset]
	return 1 + bytes.Count(head, []byte("\n")), 1 + utf8.RuneCount(head[bytes.LastIndexByte(head, '\n')+1:])
}

type size struct {
	nodes, levels int
	done          bool
}

// measurer finds cycles of anchors, and counts what aliases multiply without
// following them: an anchor stands before its aliases.
type measurer struct {
	sizes    map[*yaml.Node]size // of those with an anchor
	nodes    int
	problems []Problem
}

// measure returns how many nodes and levels n has; level is its own, from 1. It
// stops at the first problem.
func (m *measurer) measure(n *yaml.Node, level int) size {
	fail := func(format string, a ...any) {
		m.problems = append(m.problems, Problem{Line: n.Line, Column: n.Column, What: fmt.Sprintf(format, a...)})
	}
	s := size{nodes: 1, levels: 1, done: true}
	if n.Kind == yaml.AliasNode {
		if s = m.sizes[n.Alias]; !s.done {
			fail("the anchor &%s contains itself", n.Value)
			return s
		}
		m.nodes += s.nodes
	} else {
		m.nodes++
	}
	switch {
	case m.nodes > maxNodes:
		fail("more than %d values, each alias replaced by what it stands for (expected a configuration)", maxNodes)
	case level+s.levels-1 > maxNested:
		fail("nested more than %d levels deep", maxNested)
	}
	if n.Anchor != "" {
		m.sizes[n] = size{}
	}
	for _, c := range n.Content {
		if len(m.problems) > 0 {
			return s
		}
		inner := m.measure(c, level+1)
		s.nodes += inner.nodes
		s.levels = max(s.levels, inner.levels+1)
	}
	if n.Anchor != "" {
		m.sizes[n] = s
	}
	return s
}

var (
	lineOf        = regexp.MustCompile(`^line (\d+): `)
	unknownAnchor = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)
)

// syntaxProblem positions an error of the YAML parser. The parser names the
// line where the innermost open construct begins (one line too early, or none
// if that is the first), so parse again from a reader that shows how far it
// got: what it stumbles over is the last thing that it read.
func syntaxProblem(data []byte, err error) Problem {
	what := strings.TrimPrefix(err.Error(), "yaml: ")
	begins := 0
	if m := lineOf.FindStringSubmatch(what); m != nil {
		begins, _ = strconv.Atoi(m[1]) // digits only
		what = what[len(m[0]):]
	}
	r := &byteReader{data: data}
	dec := yaml.NewDecoder(r)
	for {
		if err := dec.Decode(new(yaml.Node)); err != nil {
			break
		}
	}
	read := bytes.TrimRight(data[:r.n], " \t\r\n")
	line, _ := position(data, len(read))
	text := read[bytes.LastIndexByte(read, '\n')+1:]
	indent := text[:len(text)-len(bytes.TrimLeft(text, " \t"))]
	column := 1 + len(indent)

	if m := unknownAnchor.FindStringSubmatch(what); m != nil {
		// The alias itself, not what was read ahead after it.
		if at := regexp.MustCompile(`(?m)(?:^|[\s,\[{])(\*` + regexp.QuoteMeta(m[1]) + `)(?:[\s,\]}]|$)`).
			FindSubmatchIndex(data); at != nil {
			line, column = position(data, at[2])
		}
		what = fmt.Sprintf("no anchor &%s stands before the alias *%s", m[1], m[1])
	}
	switch {
	case bytes.IndexByte(indent, '\t') >= 0 || strings.Contains(what, "tab character"):
		what = "a tab indents this line (expected spaces)"
	case strings.HasPrefix(what, "did not find expected ','") && begins+1 < line:
		what += fmt.Sprintf(", for the bracket opened at line %d", begins+1)
	case what == "found incompatible YAML document":
		what = "a %YAML directive for a version other than 1.1 (leave it out)"
	}
	return Problem{Line: line, Column: column, What: "not YAML: " + what}
}

// byteReader hands out a byte at a time and knows how many.
type byteReader struct {
	data []byte
	n    int
}

func (r *byteReader) Read(p []byte) (int, error) {
	if r.n == len(r.data) {
		return 0, io.EOF
	}
	n := copy(p[:min(1, len(p))], r.data[r.n:])
	r.n += n
	return n, nil
}
