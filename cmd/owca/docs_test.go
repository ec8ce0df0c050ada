package main

import (
	"bytes"
	"flag"
	"fmt"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/owca-project/owca"
)

var update = flag.Bool("update", false, "write the generated pages of docs/ instead of comparing them")

// TestDocs: the pages of docs/ that are made from the program say what the
// program says. `go test ./cmd/owca -run TestDocs -update` makes them anew.
func TestDocs(t *testing.T) {
	for name, write := range map[string]func(*bytes.Buffer) int{
		"components.md": func(b *bytes.Buffer) int {
			return execute([]string{"components", "--format", "markdown"}, b, b)
		},
		"owca.schema.json": func(b *bytes.Buffer) int { return execute([]string{"schema"}, b, b) },
		"metrics.md":       func(b *bytes.Buffer) int { writeMetrics(b); return exitOK },
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if code := write(&b); code != exitOK {
				t.Fatalf("exit code %d:\n%s", code, &b)
			}
			path := "../../docs/" + name
			if *update {
				if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			got, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(got), b.String()); diff != "" {
				t.Errorf("docs/%s is not current; make generate\n%s", name, diff)
			}
		})
	}
}

const aboutMetrics = `# Metrics

This page is made from the agent's catalogue by ` + "`make generate`" + `. Names and units follow the conventions of
Prometheus: base units (seconds, bytes, cores), counters end in ` + "`_total`" + `.

- A reading that failed, or that this kernel does not offer, is absent. It is never zero.
- "No limit" is ` + "`+Inf`" + `.
- Counters keep every digit the kernel counted.
- Of a task with several cgroups (a pod) counters and sizes are sums, ratios are computed from the sums.
- Metrics marked *derived* need ` + "`enable_derived_metrics: true`" + ` and two ticks; what they are computed from is always there.
- Some readings cost more than the others and have a pace of their own: ` + "`memory_stat_interval`" + `,
  ` + "`numa_stat_interval`, `limits_interval`, `run_queue_interval`, `platform_slow_interval`" + `. Between two of them the
  last one is repeated; ` + "`owca_task_reading_age_seconds` and `owca_platform_reading_age_seconds`" + ` tell how old it is.

Every metric carries the labels of the host that ` + "`common_labels`" + ` names (sockets, cores, cpus, host, owca_version,
cpu_model) and those of ` + "`extra_labels`" + `. Those of a task also carry ` + "`task_id`" + `, ` + "`task_name`" + ` and the labels of its node,
which for AutoNode are:

| Label | Value |
|---|---|
| ` + "`kind`" + ` | service, scope, socket, mount, swap, container, pod, vm; cgroup for any other |
| ` + "`unit`, `slice`, `user`" + ` | systemd unit, innermost slice around it, uid of the user manager or session |
| ` + "`container_id`, `container_name`, `container_runtime`" + ` | as far as the path tells |
| ` + "`pod_uid`, `qos_class`" + ` | of a pod |
| ` + "`parent`" + ` | ` + "`task_id`" + ` of the task whose cgroup this one is nested in. That one's counters include this one's: leave out tasks with a parent when you sum |

Performance events that are not in the list below are stored as ` + "`owca_task_NAME_total`" + `, times as
` + "`owca_task_NAME_seconds_total`" + `; the original's name is NAME, of raw events the whole of NAME__r…. [Performance events](events.md) says what can be counted.

**Original** is the name that a storage with ` + "`names: original`" + ` writes, for consumers made for the original agent, and
its unit where that is another one.
`

// writeMetrics writes docs/metrics.md.
func writeMetrics(b *bytes.Buffer) {
	b.WriteString(aboutMetrics)
	for _, section := range []struct{ title, prefix string }{
		{"Tasks", "owca_task_"}, {"Platform", "owca_platform_"}, {"Anomalies", "owca_anomal"},
		{"Allocations", "owca_allocation"}, {"The agent itself", ""},
	} {
		fmt.Fprintf(b, "\n## %s\n\n| Metric | Kind | What | Source | Original |\n|---|---|---|---|---|\n", section.title)
		for _, d := range owca.Catalogue() {
			in := slices.ContainsFunc([]string{"owca_task_", "owca_platform_", "owca_anomal", "owca_allocation"}, func(prefix string) bool {
				return strings.HasPrefix(d.Name, prefix)
			})
			if section.prefix != "" && !strings.HasPrefix(d.Name, section.prefix) || section.prefix == "" && in {
				continue
			}
			name, kind := "`"+d.Name+"`", d.Kind.String()
			if d.Label != "" {
				name = "`" + d.Name + "{" + d.Label + "}`"
			}
			if d.Derived {
				kind += ", *derived*"
			}
			fmt.Fprintf(b, "| %s | %s | %s | %s | %s |\n", name, kind, cell(d.Help), cell(d.Source), original(d))
		}
	}
}

// original is the original's name, and its unit where that is another.
func original(d *owca.Desc) string {
	if d.Original == "" {
		return ""
	}
	name := "`" + d.Original + "`"
	switch f := d.OriginalPerUnit; {
	case f == 0 || f == 1:
		return name
	case d.Unit == "seconds" && f == 1e9:
		return name + ", ns"
	case d.Unit == "seconds" && f == 100:
		return name + ", 1/100 s"
	case d.Unit == "bytes" && f == 1.0/64:
		return name + ", CAS commands of 64 bytes"
	case d.Unit == "bytes" && f < 1:
		return name + ", pages"
	default:
		exponent := math.Round(math.Log10(f))
		return fmt.Sprintf("%s, 1e%d %s", name, -int(exponent), d.Unit)
	}
}

// cell escapes what would break a table.
func cell(s string) string { return strings.ReplaceAll(s, "|", "\\|") }

// TestLinks: what the pages refer to is there: other pages, examples, headings.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#]*)(#[^)]*)?\)`)
	for _, page := range []string{"README.md", "CONTRIBUTING.md", "docs/getting-started.md", "docs/configuration.md", "docs/detection.md", "docs/allocation.md", "docs/events.md", "docs/operations.md", "docs/performance.md", "docs/metrics.md", "docs/resctrl.md"} {
		data, err := os.ReadFile("../../" + page)
		if err != nil {
			t.Error(err)
			continue
		}
		dir := "../../"
		if i := strings.LastIndexByte(page, '/'); i >= 0 {
			dir += page[:i+1]
		}
		for _, m := range link.FindAllStringSubmatch(string(data), -1) {
			if m[1] == "" || strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(dir + m[1]); err != nil {
				t.Errorf("%s links to %s: %v", page, m[1], err)
			}
		}
	}
}
