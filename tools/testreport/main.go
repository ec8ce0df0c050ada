// Testreport reads the output of go test -json and prints what a person needs
// of it: one line per package, everything about a failure, every skipped test
// with its reason, and the counts.
//
//	go test -json ./... | testreport [-ran]
//
// It exits 1 if a test, a package or a build failed; if a test was skipped for
// the lack of something that OWCA_TEST_REQUIRE names; and, with -ran, if a
// package ran no test.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
)

func main() {
	ran := flag.Bool("ran", false, "fail if a package ran no test")
	flag.Parse()
	r := report{
		out:      os.Stdout,
		required: strings.FieldsFunc(os.Getenv("OWCA_TEST_REQUIRE"), func(r rune) bool { return r == ',' }),
		ran:      *ran,
		packages: map[string]*results{},
	}
	if err := r.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
	if !r.finish() {
		os.Exit(1)
	}
}

// event is a line of go test -json (go doc test2json).
type event struct {
	Action     string
	Package    string
	ImportPath string // of build-output
	Test       string
	Elapsed    float64
	Output     string
}

// results are those of one package, until it ends.
type results struct {
	output map[string][]string // by test; "" is the package itself
	order  []string
	state  map[string]string // test: pass, fail or skip
	parent map[string]bool   // tests with subtests, which are not counted
}

type report struct {
	out      io.Writer
	required []string
	ran      bool

	packages              map[string]*results
	passed, failed, skips int
	skipped               []string
	problems              []string
}

func (r *report) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil || e.Action == "" {
				// What go itself says, outside of any test.
				fmt.Fprint(r.out, string(line))
			} else {
				r.event(e)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *report) event(e event) {
	if e.Action == "build-output" {
		fmt.Fprint(r.out, e.Output)
		return
	}
	if e.Package == "" {
		return
	}
	p := r.packages[e.Package]
	if p == nil {
		p = &results{output: map[string][]string{}, state: map[string]string{}, parent: map[string]bool{}}
		r.packages[e.Package] = p
	}
	switch e.Action {
	case "run":
		p.order = append(p.order, e.Test)
		if i := strings.LastIndexByte(e.Test, '/'); i > 0 {
			p.parent[e.Test[:i]] = true
		}
	case "output":
		p.output[e.Test] = append(p.output[e.Test], e.Output)
	case "pass", "fail", "skip":
		if e.Test != "" {
			p.state[e.Test] = e.Action
			if e.Action == "pass" {
				delete(p.output, e.Test)
			}
			return
		}
		r.end(e, p)
		delete(r.packages, e.Package)
	}
}

var need = regexp.MustCompile(`\bneeds ([^\s:]+)`)

// end prints a package's line, after all about its failures.
func (r *report) end(e event, p *results) {
	var passed, skipped, failed int
	for _, test := range p.order {
		state := p.state[test]
		switch state {
		case "skip":
			skipped++
			reason := skipReason(p.output[test])
			r.skipped = append(r.skipped, fmt.Sprintf("%s.%s: %s", e.Package, test, reason))
			for _, m := range need.FindAllStringSubmatch(reason, -1) {
				if slices.Contains(r.required, m[1]) {
					r.problems = append(r.problems, fmt.Sprintf("%s.%s was skipped, but OWCA_TEST_REQUIRE names %s", e.Package, test, m[1]))
				}
			}
		case "pass":
			if !p.parent[test] {
				passed++
			}
		default: // failed, or never ended: the process died
			if !p.parent[test] {
				failed++
			}
			fmt.Fprint(r.out, strings.Join(p.output[test], ""))
		}
	}
	if e.Action == "fail" {
		fmt.Fprint(r.out, strings.Join(p.output[""], ""))
		failed = max(failed, 1) // TestMain, a build, a panic between tests
		r.problems = append(r.problems, e.Package+" failed")
	}
	r.passed += passed
	r.failed += failed
	r.skips += skipped
	if r.ran && passed+failed == 0 {
		r.problems = append(r.problems, e.Package+" ran no test")
	}
	if len(p.order) > 0 || e.Action == "fail" {
		elapsed := "" // cached, or from somewhere without a clock
		if e.Elapsed > 0 {
			elapsed = fmt.Sprintf("%.1fs", e.Elapsed)
		}
		fmt.Fprintf(r.out, "%-4s  %-50s %8s  %d passed, %d failed, %d skipped\n",
			e.Action, e.Package, elapsed, passed, failed, skipped)
	}
}

// skipReason is what the test logged last before it was skipped.
func skipReason(output []string) string {
	reason := "no reason given"
	for _, line := range output {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "=== ") || strings.HasPrefix(line, "--- ") {
			continue
		}
		reason = line
	}
	return reason
}

// finish prints the summary; false means failure.
func (r *report) finish() bool {
	for _, name := range slices.Sorted(maps.Keys(r.packages)) {
		p := r.packages[name]
		for _, test := range slices.Sorted(maps.Keys(p.output)) {
			fmt.Fprint(r.out, strings.Join(p.output[test], ""))
		}
		r.failed++
		r.problems = append(r.problems, name+" did not finish")
	}
	if len(r.skipped) > 0 {
		fmt.Fprintln(r.out, "skipped:")
		for _, s := range r.skipped {
			fmt.Fprintln(r.out, "  "+s)
		}
	}
	if r.passed+r.failed+r.skips == 0 {
		r.problems = append(r.problems, "no tests")
	}
	for _, p := range r.problems {
		fmt.Fprintln(r.out, "FAIL:", p)
	}
	fmt.Fprintf(r.out, "%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skips)
	return len(r.problems) == 0
}
