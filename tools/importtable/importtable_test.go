// Package importtable checks that the depguard rules of .golangci.yml hold the
// import table of CONTRIBUTING.md: a rule whose glob matches nothing, or whose
// list lets too much through, is otherwise silent.
package importtable

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var linter = flag.String("golangci-lint", "", "path of golangci-lint; make lint builds and passes it")

const own = "github.com/owca-project/owca"

// Importable things, by the short names of the table below.
var imports = map[string]string{
	"std":     "os",
	"slog":    "log/slog",
	"log":     "log",
	"ioutil":  "io/ioutil",
	"testing": "testing",

	"unix":       "golang.org/x/sys/unix",
	"errgroup":   "golang.org/x/sync/errgroup",
	"yaml":       "go.yaml.in/yaml/v3",
	"oldyaml":    "gopkg.in/yaml.v3",
	"kong":       "github.com/alecthomas/kong",
	"ebpf":       "github.com/cilium/ebpf",
	"jrpc2":      "github.com/creachadair/jrpc2",
	"expfmt":     "github.com/prometheus/common/expfmt",
	"cri":        "k8s.io/cri-api/pkg/apis",
	"cmp":        "github.com/google/go-cmp/cmp",
	"testscript": "github.com/rogpeppe/go-internal/testscript",

	"owca":          own,
	"plugin":        own + "/plugin",
	"cgroup":        own + "/internal/cgroup",
	"proc":          own + "/internal/proc",
	"resctrl":       own + "/internal/resctrl",
	"perf":          own + "/internal/perf",
	"config":        own + "/internal/config",
	"discover":      own + "/internal/discover",
	"detect":        own + "/internal/detect",
	"decide":        own + "/internal/decide",
	"store":         own + "/internal/store",
	"measure":       own + "/internal/measure",
	"act":           own + "/internal/act",
	"run":           own + "/internal/run",
	"hosttest":      own + "/internal/hosttest",
	"componenttest": own + "/internal/componenttest",
}

// What a package may import besides std and slog, and what its tests may
// import besides that and testing.
var table = map[string]struct{ code, tests string }{
	".":                 {"", "hosttest cmp testscript"},
	"internal/cgroup":   {"unix cgroup", "hosttest cmp testscript"},
	"internal/proc":     {"unix proc", "hosttest cmp testscript"},
	"internal/resctrl":  {"unix resctrl", "hosttest cmp testscript"},
	"internal/perf":     {"unix perf ebpf", "hosttest cmp testscript"},
	"internal/config":   {"yaml config", "hosttest cmp testscript"},
	"plugin":            {"owca plugin jrpc2", "hosttest componenttest cmp testscript"},
	"internal/discover": {"owca discover unix", "hosttest componenttest cmp testscript"},
	"internal/detect":   {"owca detect", "hosttest componenttest cmp testscript"},
	"internal/decide":   {"owca decide", "hosttest componenttest cmp testscript"},
	"internal/store":    {"owca store unix expfmt", "hosttest componenttest cmp testscript"},
	"internal/measure":  {"owca measure cgroup proc resctrl perf", "hosttest cmp testscript"},
	"internal/act":      {"owca act cgroup proc resctrl perf", "hosttest cmp testscript"},
	"internal/run":      {"owca run measure act", "hosttest cmp testscript"},
	"cmd/owca": {"owca plugin cgroup proc resctrl perf config discover detect decide store measure act run " +
		"unix errgroup yaml kong ebpf jrpc2 expfmt cri", "hosttest componenttest cmp testscript"},

	"internal/hosttest":      {"hosttest testing", ""},
	"internal/componenttest": {"owca componenttest hosttest cmp testing", ""},
	"internal/unlisted":      {"", ""},
}

func TestImportTable(t *testing.T) {
	if *linter == "" {
		t.Skip("needs -golangci-lint: make lint")
	}
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	rules, err := os.ReadFile("../../.golangci.yml")
	if err != nil {
		t.Fatal(err)
	}
	write(".golangci.yml", string(rules))

	// Everything that can be imported is an empty package, so that nothing has
	// to be downloaded or compiled.
	modules := []string{
		"golang.org/x/sys", "golang.org/x/sync", "go.yaml.in/yaml/v3", "gopkg.in/yaml.v3", "github.com/alecthomas/kong",
		"github.com/cilium/ebpf", "github.com/creachadair/jrpc2", "github.com/prometheus/common", "k8s.io/cri-api",
		"github.com/google/go-cmp", "github.com/rogpeppe/go-internal",
	}
	gomod := "module " + own + "\n\ngo 1.26.0\n"
	for i, m := range modules {
		version := "v0.0.0"
		if strings.HasSuffix(m, "v3") {
			version = "v3.0.0"
		}
		gomod += fmt.Sprintf("require %s %s\nreplace %s => ./_modules/%d\n", m, version, m, i)
		write(fmt.Sprintf("_modules/%d/go.mod", i), "module "+m+"\n")
		for _, path := range imports {
			if rest, ok := strings.CutPrefix(path, m); ok {
				write(fmt.Sprintf("_modules/%d%s/p.go", i, rest), "package p\n")
			}
		}
	}
	write("go.mod", gomod)
	for _, path := range imports {
		if rest, ok := strings.CutPrefix(path, own+"/"); ok {
			write(rest+"/p.go", "package p\n")
		}
	}

	// The importers. All but those of the root package are one directory
	// deeper, so that there is no import cycle and the rules are seen to hold
	// for subpackages too.
	names := slices.Sorted(maps.Keys(imports))
	want := map[string]bool{} // "FILE IMPORT": refused
	for pkg, may := range table {
		sub := filepath.Join(pkg, "x")
		if pkg == "." {
			sub = pkg
		}
		code := append(strings.Fields(may.code), "std", "slog")
		tests := append(strings.Fields(may.tests), "testing")
		for _, file := range []string{filepath.Join(sub, "x.go"), filepath.Join(sub, "x_test.go")} {
			isTest := strings.HasSuffix(file, "_test.go")
			text := "package p\n"
			for _, name := range names {
				if pkg == "." && name == "owca" {
					continue // itself
				}
				text += fmt.Sprintf("import _ %q\n", imports[name])
				want[file+" "+imports[name]] = !slices.Contains(code, name) && (!isTest || !slices.Contains(tests, name))
			}
			write(file, text)
		}
	}

	cmd := exec.Command(*linter, "run", "--enable-only=depguard", "--output.json.path=stdout", "--output.text.path=stderr",
		"--show-stats=false", "--issues-exit-code=0", "./...")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off", "GOLANGCI_LINT_CACHE="+t.TempDir())
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("golangci-lint: %v\n%s%s", err, out, &stderr)
	}
	var report struct {
		Issues []struct {
			FromLinter, Text string
			Pos              struct {
				Filename string
			}
		}
	}
	if err := json.NewDecoder(strings.NewReader(string(out))).Decode(&report); err != nil {
		t.Fatalf("%v\n%s%s", err, out, &stderr)
	}
	got := map[string]string{}
	for _, issue := range report.Issues {
		if issue.FromLinter != "depguard" {
			t.Fatalf("%s: %s: %s", issue.Pos.Filename, issue.FromLinter, issue.Text)
		}
		// import 'X' is not allowed from list 'L': reason
		parts := strings.SplitN(issue.Text, "'", 3)
		if len(parts) != 3 {
			t.Fatalf("unexpected message: %s", issue.Text)
		}
		got[issue.Pos.Filename+" "+parts[1]] = parts[2]
	}
	for _, at := range slices.Sorted(maps.Keys(want)) {
		reason, refused := got[at]
		switch {
		case refused && !want[at]:
			t.Errorf("%s: refused:%s", at, reason)
		case !refused && want[at]:
			t.Errorf("%s: not refused", at)
		case refused && strings.Contains(at, own) && !strings.Contains(reason, "': "):
			t.Errorf("%s: refused without a reason:%s", at, reason)
		}
	}
	t.Logf("%d imports, %d refused", len(want), len(got))
}
