package main

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/owca-project/owca/examples"
)

// plannedExamples are those that this version only checks.
var plannedExamples = []string{"kubernetes.yaml", "mesos.yaml", "original.yaml"}

// TestExamples: each example is valid, and the agent can do a tick with it, or
// says that it cannot yet.
func TestExamples(t *testing.T) {
	names, err := fs.Glob(examples.FS, "*.yaml")
	if err != nil || len(names) < 10 {
		t.Fatalf("examples: %v, %v", names, err)
	}
	names = slices.DeleteFunc(names, func(name string) bool { return name == "rules.yaml" })
	onDisk, err := filepath.Glob("../../examples/*")
	if err != nil || len(onDisk) != len(names)+3 {
		t.Errorf("%d files in examples/, %d of them decoded; the others are examples.go, rules.yaml and web-config.yml: %v", len(onDisk), len(names), err)
	}
	t.Setenv("HOSTNAME", "host-1")
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, name)
			data := here(t, dir, name)
			// What they would limit is somebody's, or everybody's.
			if bytes.Contains(data, []byte("!AllocationRunner")) != bytes.Contains(data, []byte("dry_run: true")) {
				t.Fatal("it would change this host")
			}
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			isPlanned := slices.Contains(plannedExamples, name)
			var stdout, stderr bytes.Buffer
			if code := execute([]string{"validate", path}, &stdout, &stderr); code != exitOK || stdout.String() != path+": valid\n" {
				t.Errorf("owca validate: %d\n%s%s", code, &stdout, &stderr)
			}
			if warned := strings.Contains(stderr.String(), "is not part of this version: owca run will refuse it"); warned != isPlanned || !warned && stderr.Len() > 0 {
				t.Errorf("owca validate, of an example that can run %v, prints:\n%s", !isPlanned, &stderr)
			}

			c := exec.Command("owca", "run", "--root="+strconv.FormatBool(os.Geteuid() == 0), "--once", "--config", path)
			out, err := c.CombinedOutput()
			switch code := c.ProcessState.ExitCode(); {
			case isPlanned && (code != exitFailed || !strings.Contains(string(out), "is not part of this version of owca")):
				t.Errorf("owca run: %v\n%s", err, out)
			case !isPlanned && code != exitOK:
				t.Errorf("owca run: %v\n%s", err, out)
			}
		})
	}
}

// here returns an example with its files in dir and a port that is free.
func here(t *testing.T, dir, name string) []byte {
	t.Helper()
	rules, err := fs.ReadFile(examples.FS, "rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "rules.yaml"), rules, 0o600); err != nil {
		t.Fatal(err)
	}
	web, err := os.ReadFile("../../examples/web-config.yml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "web-config.yml"), web, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := makeCert(dir); err != nil {
		t.Fatal(err)
	}
	data, err := fs.ReadFile(examples.FS, name)
	if err != nil {
		t.Fatal(err)
	}
	return []byte(strings.NewReplacer(
		"listen: 127.0.0.1:9179", "listen: 127.0.0.1:0",
		"listen: :9179", "listen: 127.0.0.1:0",
		"dry_run: false", "dry_run: true", "state_dir: /var/lib/owca", "state_dir: "+dir+"/state",
		"/etc/owca/", dir+"/", "/var/log/owca/", dir+"/", "/var/lib/owca/", dir+"/",
		"/var/lib/prometheus/node-exporter/", dir+"/",
	).Replace(string(data)))
}

// TestRulesExample: the file of rules that allocation.yaml names.
func TestRulesExample(t *testing.T) {
	data, err := fs.ReadFile(examples.FS, "rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if rules, err := parseRules("rules.yaml", data); err != nil || len(rules) != 3 {
		t.Errorf("%d rules, %v", len(rules), err)
	}
}

// What runs without a configuration is one of the examples.
func TestAutomaticIsAnExample(t *testing.T) {
	data, err := fs.ReadFile(examples.FS, "automatic.yaml")
	if err != nil || !bytes.Equal(data, examples.Automatic) {
		t.Errorf("automatic.yaml is not examples.Automatic: %v", err)
	}
}
