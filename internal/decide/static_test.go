package decide

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/componenttest"
)

// noFile is for allocators without a file.
func noFile(string, []byte) ([]Rule, error) { panic("there is no file") }

// linesOf is a parser for tests: a line is a rule for a task, "task quota"; "bad" is an error.
func linesOf(name string, text []byte) ([]Rule, error) {
	var rules []Rule
	for line := range strings.Lines(string(text)) {
		task, quota, _ := strings.Cut(strings.TrimSpace(line), " ")
		var q float64
		if _, err := fmt.Sscan(quota, &q); err != nil {
			return nil, fmt.Errorf("%s: %q is no rule", name, line)
		}
		rules = append(rules, Rule{TaskID: &task, Allocations: RuleAllocations{CPUQuota: &q}})
	}
	return rules, nil
}

func quota(q float64) RuleAllocations { return RuleAllocations{CPUQuota: &q} }

func snapshotOf(tasks ...owca.Task) *owca.Snapshot {
	s := &owca.Snapshot{Time: time.Now(), Platform: &owca.Platform{CPUs: 2}}
	for _, task := range tasks {
		s.Tasks = append(s.Tasks, owca.TaskData{Task: task})
	}
	return s
}

// decided is what an allocator decides, as "task kind value (reason)" for comparison.
func decided(t *testing.T, a owca.Allocator, s *owca.Snapshot) map[string]string {
	t.Helper()
	d, err := a.Allocate(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return asText(d)
}

func asText(d owca.Decision) map[string]string {
	list := make(map[string]string)
	for id, kinds := range d.Allocations {
		for kind, a := range kinds {
			value := fmt.Sprint(a.Number)
			switch {
			case a.Release:
				value = "release"
			case a.Text != "":
				value = a.Text
			case a.IO != nil:
				value = fmt.Sprint(a.IO)
			case a.RDT != nil:
				value = a.RDT.L3 + " " + a.RDT.MB
				if a.RDT.Name != nil {
					value = *a.RDT.Name + " " + value
				}
			}
			list[string(id)+" "+string(kind)] = value + " (" + a.Reason + ")"
		}
	}
	return list
}

func equal(t *testing.T, what string, want, got map[string]string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: -want +got:\n%s", what, diff)
	}
}

func TestConformance(t *testing.T) {
	name, idle := "group", Switch(true)
	rules := []Rule{
		{Allocations: RuleAllocations{CPUShares: new(1.5), CPUSetCPUs: new("0-3")}},
		{Labels: map[string]string{"type": "best"}, Allocations: RuleAllocations{
			CPUQuota: new(0.2), CPUBurst: new(0.0), CPUIdle: &idle, IOWeight: new(10.0), MemoryHigh: &Bytes{Max: true}, MemoryLow: &Bytes{N: 1 << 20},
			CPUSetMems: new("0"), IOMax: map[string]RuleIO{"8:0": {ReadBytes: &Bytes{N: 1 << 20}}}, RDT: &RuleRDT{Name: &name, L3: "L3:0=f"},
		}},
		{TaskID: new("task-03"), Allocations: quota(0.7)},
	}
	for _, match := range []string{"all", "any"} {
		t.Run("Static, "+match, func(t *testing.T) {
			componenttest.Allocator(t, func(*testing.T) owca.Allocator {
				s := NewStatic(noFile)
				s.Rules, s.Match = rules, match
				return s
			})
		})
	}
	t.Run("Static, no rules", func(t *testing.T) {
		componenttest.Allocator(t, func(*testing.T) owca.Allocator { return NewStatic(noFile) })
	})
	t.Run("Example", func(t *testing.T) {
		componenttest.Allocator(t, func(*testing.T) owca.Allocator { return NewExample() })
	})
	t.Run("NOP", func(t *testing.T) {
		componenttest.Allocator(t, func(*testing.T) owca.Allocator { return NewNOP() })
	})
}

func TestStaticMatch(t *testing.T) {
	web := owca.Task{ID: "web", Labels: map[string]string{"app": "website", "tier": "front"}}
	batch := owca.Task{ID: "batch", Labels: map[string]string{"app": "batch"}}
	bare := owca.Task{ID: "bare"}
	tests := []struct {
		name  string
		rule  Rule
		match string
		want  string // tasks
	}{
		{"all tasks", Rule{}, "all", "web batch bare"},
		{"id", Rule{TaskID: new("batch")}, "all", "batch"},
		{"id before labels", Rule{TaskID: new("batch"), Labels: map[string]string{"app": "web"}}, "all", "batch"},
		{"no such id", Rule{TaskID: new("bat")}, "all", ""},
		{"anchored at the start only", Rule{Labels: map[string]string{"app": "web"}}, "all", "web"},
		{"anchored at the start", Rule{Labels: map[string]string{"app": "site"}}, "all", ""},
		{"alternatives are anchored, too", Rule{Labels: map[string]string{"app": "x|site"}}, "all", ""},
		{"end", Rule{Labels: map[string]string{"app": "web$"}}, "all", ""},
		{"all labels", Rule{Labels: map[string]string{"app": "web", "tier": "back"}}, "all", ""},
		{"all labels match", Rule{Labels: map[string]string{"app": "web", "tier": ".*"}}, "all", "web"},
		{"any label", Rule{Labels: map[string]string{"app": "web|batch", "tier": "back"}}, "any", "web batch"},
		{"no label", Rule{Labels: map[string]string{"app": "x", "tier": "back"}}, "any", ""},
		{"the rule's own", Rule{Match: new("any"), Labels: map[string]string{"app": "web|batch", "tier": "back"}}, "all", "web batch"},
		{"the rule's own, all", Rule{Match: new("all"), Labels: map[string]string{"app": "web|batch", "tier": "front"}}, "any", "web"},
		{"an absent label is not empty", Rule{Labels: map[string]string{"tier": ".*"}}, "all", "web"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := NewStatic(noFile)
			test.rule.Allocations = quota(0.5)
			s.Rules, s.Match = []Rule{test.rule}, test.match
			d, err := s.Allocate(t.Context(), snapshotOf(web, batch, bare))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, id := range []owca.TaskID{"web", "batch", "bare"} {
				if _, ok := d.Allocations[id]; ok {
					got = append(got, string(id))
				}
			}
			if got := strings.Join(got, " "); got != test.want {
				t.Errorf("matches %q, want %q", got, test.want)
			}
		})
	}
}

func TestStaticOverride(t *testing.T) {
	s := NewStatic(noFile)
	s.Rules = []Rule{
		{Allocations: RuleAllocations{CPUQuota: new(0.9), CPUShares: new(1.0)}},
		{Labels: map[string]string{"app": "web", "b": "x"}, Match: new("any"), Allocations: RuleAllocations{CPUShares: new(2.0), MemoryHigh: &Bytes{N: 4096}}},
		{TaskID: new("a"), Allocations: RuleAllocations{CPUQuota: new(0.1), RDT: &RuleRDT{L3: "L3:0=f"}, IOMax: map[string]RuleIO{"8:0": {WriteBytes: &Bytes{N: 7}}}}},
	}
	web := owca.Task{ID: "a", Labels: map[string]string{"app": "web"}}
	equal(t, "overridden by kind", map[string]string{
		"a cpu_quota":   "0.1 (rule 3 (task a))",
		"a cpu_shares":  "2 (rule 2 (labels app=web or b=x))",
		"a memory_high": "4096 (rule 2 (labels app=web or b=x))",
		"a rdt":         "L3:0=f  (rule 3 (task a))",
		"a io_max":      "map[8:0:{0 7 0 0}] (rule 3 (task a))",
		"b cpu_quota":   "0.9 (rule 1 (all tasks))",
		"b cpu_shares":  "1 (rule 1 (all tasks))",
	}, decided(t, s, snapshotOf(web, owca.Task{ID: "b"})))

	// A label that changed takes away what it gave.
	web.Labels = map[string]string{"app": "other"}
	equal(t, "label changed", map[string]string{
		"a cpu_quota":   "0.1 (rule 3 (task a))",
		"a cpu_shares":  "1 (rule 1 (all tasks))",
		"a memory_high": "release (no rule gives it any more)",
		"a rdt":         "L3:0=f  (rule 3 (task a))",
		"a io_max":      "map[8:0:{0 7 0 0}] (rule 3 (task a))",
	}, decided(t, s, snapshotOf(web)))
}

// The map that was returned is the same as long as nothing changed, and never changes itself.
func TestStaticSteady(t *testing.T) {
	s := NewStatic(noFile)
	s.Rules = []Rule{{Labels: map[string]string{"app": "web"}, Allocations: quota(0.5)}}
	snapshot := snapshotOf()
	for i := range 1000 {
		snapshot.Tasks = append(snapshot.Tasks, owca.TaskData{Task: owca.Task{
			ID: owca.TaskID(fmt.Sprint(i)), Labels: map[string]string{"app": "web", "other": fmt.Sprint(i)},
		}})
	}
	first, err := s.Allocate(t.Context(), snapshot)
	if err != nil || len(first.Allocations) != 1000 {
		t.Fatalf("%d tasks, error %v", len(first.Allocations), err)
	}
	if n := testing.AllocsPerRun(10, func() {
		if d, _ := s.Allocate(t.Context(), snapshot); len(d.Allocations) != 1000 {
			t.Error("not the same")
		}
	}); n != 0 {
		t.Errorf("%v allocations in a tick without changes", n)
	}
	snapshot.Tasks = snapshot.Tasks[:10]
	second, _ := s.Allocate(t.Context(), snapshot)
	if len(second.Allocations) != 10 || len(first.Allocations) != 1000 {
		t.Errorf("%d tasks after %d", len(second.Allocations), len(first.Allocations))
	}
}

func BenchmarkStatic(b *testing.B) {
	s := NewStatic(noFile)
	s.Rules = []Rule{{Labels: map[string]string{"app": "web", "tier": ".*"}, Allocations: quota(0.5)}}
	snapshot := snapshotOf()
	for i := range 1000 {
		snapshot.Tasks = append(snapshot.Tasks, owca.TaskData{Task: owca.Task{
			ID: owca.TaskID(fmt.Sprint(i)), Labels: map[string]string{"app": "web", "tier": "front", "other": fmt.Sprint(i)},
		}})
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Allocate(b.Context(), snapshot); err != nil {
			b.Fatal(err)
		}
	}
}

func TestStaticFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "rules.yaml")
	write := func(text string) {
		t.Helper()
		// As an editor does it, and half-written on purpose where text is.
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := NewStatic(linesOf)
	s.Config, s.Rules = &name, []Rule{{TaskID: new("a"), Allocations: quota(0.9)}}
	host := snapshotOf(owca.Task{ID: "a"}, owca.Task{ID: "b"})
	inline := map[string]string{"a cpu_quota": "0.9 (rule 1 (task a))"}
	fails := func(what string) {
		t.Helper()
		before := asText(owca.Decision{Allocations: s.answer})
		d, err := s.Allocate(t.Context(), host)
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "stay as they were") {
			t.Errorf("%s: error %v", what, err)
		}
		equal(t, what, before, asText(d))
		d, again := s.Allocate(t.Context(), host)
		if again == nil || again.Error() != err.Error() {
			t.Errorf("%s, again: %v, and before %v", what, again, err)
		}
		equal(t, what+", again", before, asText(d))
	}

	equal(t, "missing", inline, decided(t, s, host))
	equal(t, "still missing", inline, decided(t, s, host))
	write("a 0.2\nb 0.3\n")
	both := map[string]string{
		"a cpu_quota": "0.2 (rules.yaml: rule 1 (task a))",
		"b cpu_quota": "0.3 (rules.yaml: rule 2 (task b))",
	}
	equal(t, "after the others", both, decided(t, s, host))
	write("a 0.2\nb")
	fails("half-written")
	write("a nonsense\n")
	fails("malformed otherwise")
	write("a 0.2\nb 0.3\n")
	equal(t, "as before", both, decided(t, s, host))
	// The same size within the granularity of timestamps.
	for i := range 20 {
		write(fmt.Sprintf("a 0.%02d\n", i+10))
		want := fmt.Sprintf("%v (rules.yaml: rule 1 (task a))", float64(i+10)/100)
		equal(t, "changed", map[string]string{"a cpu_quota": want, "b cpu_quota": "release (no rule gives it any more)"}, decided(t, s, host))
	}
	if err := os.WriteFile(name+".new", []byte("b 0.4\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
	equal(t, "replaced", map[string]string{
		"a cpu_quota": "0.9 (rule 1 (task a))", "b cpu_quota": "0.4 (rules.yaml: rule 1 (task b))",
	}, decided(t, s, host))
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	inline["b cpu_quota"] = "release (no rule gives it any more)"
	equal(t, "removed", inline, decided(t, s, host))
	// A directory instead, and the file again.
	if err := os.Mkdir(name, 0o700); err != nil {
		t.Fatal(err)
	}
	fails("a directory")
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	write("b 0.4\n")
	decided(t, s, host)
	write("a -1\n")
	fails("out of range")
}

// An allocator that has never seen good rules does not start: it would give back what its
// predecessor made of them. One that was asked all the same does not say that there were any.
func TestStaticStart(t *testing.T) {
	name := filepath.Join(t.TempDir(), "rules.yaml")
	fresh := func() *Static {
		s := NewStatic(linesOf)
		s.Config, s.Rules = &name, []Rule{{TaskID: new("a"), Allocations: quota(0.9)}}
		return s
	}
	if err := fresh().Start(t.Context()); err != nil {
		t.Errorf("without the file: %v", err)
	}
	if err := os.WriteFile(name, []byte("a nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := fresh()
	if err := s.Start(t.Context()); err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "as they were") {
		t.Errorf("with a file that has an error: %v", err)
	}
	d, err := s.Allocate(t.Context(), snapshotOf(owca.Task{ID: "a"}))
	if err == nil || strings.Contains(err.Error(), "as they were") {
		t.Errorf("the error is now %v", err)
	}
	equal(t, "the others hold", map[string]string{"a cpu_quota": "0.9 (rule 1 (task a))"}, asText(d))
	if d, err := s.Allocate(t.Context(), snapshotOf()); err == nil || d.Allocations == nil {
		t.Errorf("without tasks: %v, %v: nil would be no answer", d.Allocations, err)
	}
	if err := os.WriteFile(name, []byte("a 0.2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := fresh().Start(t.Context()); err != nil {
		t.Error(err)
	}
	equal(t, "mended", map[string]string{"a cpu_quota": "0.2 (rules.yaml: rule 1 (task a))"}, decided(t, s, snapshotOf(owca.Task{ID: "a"})))
}

// A file that did not change for a while costs one stat per tick.
func TestStaticFileIsNotReadAgain(t *testing.T) {
	name := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(name, []byte("a 0.2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	parsed := 0
	s := NewStatic(func(name string, text []byte) ([]Rule, error) {
		parsed++
		return linesOf(name, text)
	})
	s.Config = &name
	now := time.Now()
	for i := range 10 {
		if err := s.reread(now.Add(time.Duration(i) * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if s.file.recent || parsed != 1 {
		t.Errorf("parsed %d times, recent = %v", parsed, s.file.recent)
	}
	// Only a change of the inode's time is seen by stat.
	if err := os.Chmod(name, 0o400); err != nil {
		t.Fatal(err)
	}
	if err := s.reread(now.Add(time.Minute)); err != nil || parsed != 1 {
		t.Errorf("parsed %d times, error %v", parsed, err)
	}
}

func TestValidate(t *testing.T) {
	tests := []struct {
		name  string
		rule  RuleAllocations
		field string // "" = valid
	}{
		{"quota", quota(1), ""},
		{"unlimited", quota(7), ""},
		{"negative", quota(-0.1), "cpu_quota"},
		{"NaN", quota(math.NaN()), "cpu_quota"},
		{"infinite", quota(math.Inf(1)), "cpu_quota"},
		{"shares", RuleAllocations{CPUShares: new(math.NaN())}, "cpu_shares"},
		{"burst", RuleAllocations{CPUBurst: new(math.Inf(-1))}, "cpu_burst"},
		{"burst beyond the host", RuleAllocations{CPUBurst: new(2.0)}, "cpu_burst"},
		{"no devices", RuleAllocations{IOMax: map[string]RuleIO{}}, "io_max"},
		{"weight", RuleAllocations{IOWeight: new(0.0)}, "io_weight"},
		{"weight too large", RuleAllocations{IOWeight: new(10001.0)}, "io_weight"},
		{"list", RuleAllocations{CPUSetCPUs: new("0-3,8"), CPUSetMems: new("0")}, ""},
		{"no list", RuleAllocations{CPUSetCPUs: new("0-")}, "cpuset_cpus"},
		{"upside down", RuleAllocations{CPUSetCPUs: new("3-0")}, "cpuset_cpus"},
		{"empty list", RuleAllocations{CPUSetMems: new("")}, "cpuset_mems"},
		{"not a list", RuleAllocations{CPUSetMems: new("all")}, "cpuset_mems"},
		{"device", RuleAllocations{IOMax: map[string]RuleIO{"8:0": {}, "/dev/sda": {}}}, ""},
		{"no device", RuleAllocations{IOMax: map[string]RuleIO{"sda": {}}}, "io_max"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			check(t, test.rule.Validate(), test.field)
			_, err := (&Rule{Allocations: test.rule}).compile("all", "rule 1")
			if (err != nil) != (test.field != "") {
				t.Errorf("compile: %v", err)
			}
		})
	}
	for _, test := range []struct {
		limits RuleIO
		field  string
	}{
		{RuleIO{}, ""},
		{RuleIO{ReadBytes: &Bytes{N: 1}, WriteBytes: &Bytes{Max: true}, ReadOperations: &Operations{Max: true}, WriteOperations: &Operations{N: 1}}, ""},
		{RuleIO{ReadBytes: &Bytes{}}, "rbps"},
		{RuleIO{WriteBytes: &Bytes{}}, "wbps"},
		{RuleIO{ReadOperations: &Operations{}}, "riops"},
		{RuleIO{WriteOperations: &Operations{}}, "wiops"},
	} {
		check(t, test.limits.Validate(), test.field)
		_, err := (&Rule{Allocations: RuleAllocations{IOMax: map[string]RuleIO{"8:0": test.limits}}}).compile("all", "rule 1")
		if (err != nil) != (test.field != "") {
			t.Errorf("%+v: compile: %v", test.limits, err)
		}
	}
	rdt := []struct {
		name  string
		rule  RuleRDT
		field string
	}{
		{"masks", RuleRDT{L3: "L3:0=ff;1=0f", MB: "MB:0=50;1=100"}, ""},
		{"one's own group", RuleRDT{}, ""},
		{"default group", RuleRDT{Name: new("")}, ""},
		{"CDP", RuleRDT{L3: "L3CODE:0=ff\nL3DATA:0=f0"}, ""},
		{"no prefix", RuleRDT{L3: "0=ff"}, "l3"},
		{"no mask", RuleRDT{L3: "L3:0=xyz"}, "l3"},
		{"no number", RuleRDT{MB: "MB:0=ff"}, "mb"},
		{"the other's", RuleRDT{MB: "L3:0=ff"}, "mb"},
		{"a path", RuleRDT{Name: new("../x")}, "name"},
		{"above", RuleRDT{Name: new("..")}, "name"},
	}
	for _, test := range rdt {
		t.Run(test.name, func(t *testing.T) {
			check(t, test.rule.Validate(), test.field)
			_, err := (&Rule{Allocations: RuleAllocations{RDT: &test.rule}}).compile("all", "rule 1")
			if (err != nil) != (test.field != "") {
				t.Errorf("compile: %v", err)
			}
		})
	}
	t.Run("example", func(t *testing.T) {
		check(t, NewExample().Validate(), "")
		check(t, (&Example{}).Validate(), "best_effort")
	})
	for _, rule := range []Rule{{Labels: map[string]string{"a": "("}}, {Match: new("some")}} {
		s := NewStatic(noFile)
		s.Rules = []Rule{rule}
		if _, err := s.Allocate(t.Context(), snapshotOf()); err == nil || !strings.HasPrefix(err.Error(), "rule 1: ") {
			t.Errorf("%+v: error %v", rule, err)
		}
	}
}

func check(t *testing.T, err error, field string) {
	t.Helper()
	var of interface{ Field() string }
	switch {
	case field == "":
		if err != nil {
			t.Error(err)
		}
	case !errors.As(err, &of):
		t.Errorf("error %v, want one of %s", err, field)
	case of.Field() != field:
		t.Errorf("%v: the error is of %s, want %s", err, of.Field(), field)
	}
}

func TestReasonIsBounded(t *testing.T) {
	s := NewStatic(noFile)
	long := strings.Repeat("ä", 4000)
	s.Rules = []Rule{{Labels: map[string]string{"a": long}, Allocations: quota(0.5)}}
	d, err := s.Allocate(t.Context(), snapshotOf(owca.Task{ID: "x", Labels: map[string]string{"a": long}}))
	if got := d.Allocations["x"][owca.CPUQuota].Reason; err != nil || len(got) > 300 || !strings.Contains(got, "ä…") {
		t.Errorf("reason of %d bytes: %s, error %v", len(got), got, err)
	}
}
