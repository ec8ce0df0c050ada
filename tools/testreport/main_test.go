package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// run feeds the report with what go test really writes for a module of files.
func run(t *testing.T, required string, ran bool, files map[string]string) (string, bool) {
	t.Helper()
	dir := t.TempDir()
	files["go.mod"] = "module m\n"
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "test", "-json", "./...")
	cmd.Dir = dir
	in, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	var out strings.Builder
	r := report{out: &out, required: strings.Split(required, ","), ran: ran, packages: map[string]*results{}}
	if err := r.read(bytes.NewReader(in)); err != nil {
		t.Fatal(err)
	}
	ok := r.finish()
	return out.String(), ok
}

func test(body string) string {
	return "package m\nimport (\"testing\"; \"os\")\nvar _ = os.Exit\n" + body
}

func TestReport(t *testing.T) {
	const (
		pass = "func TestPass(t *testing.T) { t.Log(\"quiet\"); t.Run(\"sub\", func(t *testing.T) {}) }\n"
		skip = "func TestSkip(t *testing.T) { t.Skip(\"needs root: not root\") }\n"
		fail = "func TestFail(t *testing.T) { t.Run(\"sub\", func(t *testing.T) { t.Error(\"loud\") }) }\n"
	)
	for _, tt := range []struct {
		name, required string
		ran            bool
		files          map[string]string
		ok             bool
		want, not      []string // regular expressions
	}{
		{
			name: "pass and skip", ok: true, required: "promtool",
			files: map[string]string{"m_test.go": test(pass + skip), "a/a.go": "package a\n"},
			want:  []string{`(?m)^pass +m +.*s  1 passed, 0 failed, 1 skipped$`, `m\.TestSkip: .*needs root: not root`, `(?m)^1 passed, 0 failed, 1 skipped\n\z`},
			not:   []string{"quiet", "FAIL", "m/a"},
		},
		{
			name: "required skip", required: "hybrid,root",
			files: map[string]string{"m_test.go": test(pass + skip)},
			want:  []string{`FAIL: m\.TestSkip was skipped, but OWCA_TEST_REQUIRE names root`},
		},
		{
			name:  "fail",
			files: map[string]string{"m_test.go": test(pass + fail), "a/a_test.go": test(pass)},
			want:  []string{"loud", "FAIL: m failed", `(?m)^pass +m/a `, `(?m)^2 passed, 1 failed, 0 skipped\n\z`},
			not:   []string{"quiet"},
		},
		{
			name:  "exit within a test",
			files: map[string]string{"m_test.go": test("func TestExit(t *testing.T) { os.Exit(3) }\n")},
			want:  []string{"FAIL: m failed", `0 passed, 1 failed`},
		},
		{
			name:  "panic",
			files: map[string]string{"m_test.go": test("func TestPanic(t *testing.T) { panic(\"boom\") }\n")},
			want:  []string{"panic: boom", "FAIL: m failed", `0 passed, 1 failed`},
		},
		{
			name:  "does not build",
			files: map[string]string{"m_test.go": test("func TestX(t *testing.T) { undefinedName() }\n")},
			want:  []string{"undefined: undefinedName", "FAIL: m failed", `0 passed, 1 failed`},
		},
		{
			name: "nothing ran", ran: true,
			files: map[string]string{"m_test.go": test(skip)},
			want:  []string{"FAIL: m ran no test"},
		},
		{
			name:  "no tests",
			files: map[string]string{"m.go": "package m\n"},
			want:  []string{"FAIL: no tests"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, ok := run(t, tt.required, tt.ran, tt.files)
			if ok != tt.ok {
				t.Errorf("ok is %v", ok)
			}
			for _, want := range tt.want {
				if !regexp.MustCompile(want).MatchString(out) {
					t.Errorf("no match for %s", want)
				}
			}
			for _, not := range tt.not {
				if regexp.MustCompile(not).MatchString(out) {
					t.Errorf("match for %s", not)
				}
			}
			if t.Failed() {
				t.Logf("%s", out)
			}
		})
	}
}

// A stream that breaks off, as when a VM dies, is a failure.
func TestUnfinished(t *testing.T) {
	var out strings.Builder
	r := report{out: &out, packages: map[string]*results{}}
	in := `{"Action":"run","Package":"m","Test":"TestX"}
{"Action":"output","Package":"m","Test":"TestX","Output":"half a line"}
`
	if err := r.read(strings.NewReader(in)); err != nil {
		t.Fatal(err)
	}
	if r.finish() || !strings.Contains(out.String(), "half a line") || !strings.Contains(out.String(), "m did not finish") {
		t.Error(out.String())
	}
}
