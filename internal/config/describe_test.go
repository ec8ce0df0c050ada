package config_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/owca-project/owca/internal/config"
)

func docs() map[string]config.ComponentDoc {
	out := map[string]config.ComponentDoc{}
	for _, d := range registry().Describe(
		reflect.TypeFor[Runner](), reflect.TypeFor[Node](), reflect.TypeFor[Storage](), reflect.TypeFor[Detector]()) {
		out[d.Tag] = d
	}
	return out
}

func TestDescribe(t *testing.T) {
	got := docs()
	want := config.ComponentDoc{
		Tag: "MeasurementRunner", Help: "Measures.", Implements: []string{"Runner"},
		Fields: []config.FieldDoc{
			{Name: "node", Type: "component (Node)", Required: true, Help: "where the tasks come from"},
			{Name: "metrics_storage", Type: "component (Storage)", Default: "!LogStorage"},
			{
				Name: "interval", Aliases: []string{"action_delay"}, Type: "number of seconds or duration", Default: "1s",
				Range: "0.05..60", Help: "the time between two ticks",
			},
			{Name: "rdt_enabled", Type: "true or false or null", Default: "null"},
			{Name: "extra_labels", Type: "map of names to strings", Default: "{}", MaxLength: 400},
			{Name: "event_names", Type: "list of strings", Default: "[]", MaxLength: 400},
			{Name: "enable_derived_metrics", Type: "true or false", Default: "false", Deprecated: "they are always on"},
		},
		Example: `runner: !MeasurementRunner
  node: !MesosNode
  metrics_storage: !LogStorage
  interval: 1s
`,
	}
	if diff := cmp.Diff(want, got["MeasurementRunner"]); diff != "" {
		t.Error(diff)
	}
	defaults := map[string]string{}
	for _, f := range got["Everything"].Fields {
		defaults[f.Name] = f.Default
	}
	for name, want := range map[string]string{
		"string": `"5"`, "named": "systemd", "int": "7", "float": "0.25", "duration": "1h30m", "secret": "", "map": "{x: 2}",
		"glob": "[/a*]", "struct": "{a: 1}", "any": "null", "storage": "null", "text": `""`, "pointer": "null",
	} {
		if defaults[name] != want {
			t.Errorf("the default of %s is %s, not %s", name, defaults[name], want)
		}
	}
	var names []string
	for _, f := range got["StaticNode"].Fields[0].Fields {
		names = append(names, f.Name)
	}
	if diff := cmp.Diff([]string{"name", "cgroup", "labels"}, names); diff != "" {
		t.Error(diff)
	}
	if got["SSL"].Implements == nil || len(got["SSL"].Implements) != 0 {
		t.Errorf("SSL implements %v", got["SSL"].Implements)
	}
	data, err := json.Marshal(got)
	var back map[string]config.ComponentDoc
	if err == nil {
		err = json.Unmarshal(data, &back)
	}
	if diff := cmp.Diff(got, back); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

// Every example decodes, in the place that it is for.
func TestExamples(t *testing.T) {
	for _, doc := range docs() {
		into := struct {
			Runner   Runner                   `yaml:"runner"`
			Node     Node                     `yaml:"node"`
			Storage  Storage                  `yaml:"storage"`
			Detector Detector                 `yaml:"detector"`
			SSL      *ssl                     `yaml:"ssl"`
			Alloc    *allocationConfiguration `yaml:"allocationconfiguration"`
		}{}
		env := func(string) (string, bool) { return "a", true }
		instances, err := registry().Decode([]byte(doc.Example), config.Options{Env: env}, &into)
		switch {
		case err != nil && doc.Tag == "StaticNode" && strings.HasSuffix(err.Error(), "has no cgroup"):
			// Its Validate asks for more than its tags tell.
		case err != nil:
			t.Errorf("%s\n%v", doc.Example, err)
		case instances[len(instances)-1].Tag != doc.Tag:
			t.Errorf("%s\nis a %s", doc.Example, instances[len(instances)-1].Tag)
		}
	}
}

func TestWriteMarkdown(t *testing.T) {
	var b bytes.Buffer
	all := docs()
	if err := config.WriteMarkdown(&b, []config.ComponentDoc{all["KafkaStorage"], all["NOPAnomalyDetector"]}); err != nil {
		t.Fatal(err)
	}
	const want = "# Components\n\n" +
		"## KafkaStorage\n\n*Storage.* Sends to Kafka.\n\n" +
		"| Field | Type | Default | Description |\n|---|---|---|---|\n" +
		"| `topic` | string | required |  |\n" +
		"| `brokers_ips` | list of strings | `['127.0.0.1:9092']` | Address:port \\| name:port. Format: ipport. |\n" +
		"| `max_timeout_in_seconds` | number | `0.5` | Range `0..5`. |\n" +
		"| `extra_config` | map of names to values | `{}` |  |\n\n" +
		"```yaml\nstorage: !KafkaStorage\n  topic: owca_metrics\n  brokers_ips: ['127.0.0.1:9092']\n  max_timeout_in_seconds: 0.5\n```\n\n" +
		"## NOPAnomalyDetector\n\n*Detector.* Does nothing.\n\nIt has no fields.\n\n" +
		"```yaml\ndetector: !NOPAnomalyDetector\n```\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
	b.Reset()
	if err := config.WriteMarkdown(&b, []config.ComponentDoc{all["StaticNode"], all["Everything"]}); err != nil {
		t.Fatal(err)
	}
	for _, row := range []string{
		"| `tasks[].name` | string | required |  |\n",
		"| `structs.*.a` | whole number | `0` | Also called `alpha`, `one`. |\n",
		"| `struct.a` | whole number | `1` | Also called `alpha`, `one`. |\n",
		"| `secret` | string |  | One of `a`, `b`. Secret: use `!Env`. |\n",
	} {
		if !strings.Contains(b.String(), row) {
			t.Errorf("no %s in\n%s", row, b.String())
		}
	}
}

func TestJSONSchema(t *testing.T) {
	var s map[string]any
	if err := json.Unmarshal(registry().JSONSchema(&file{}), &s); err != nil {
		t.Fatal(err)
	}
	defs := s["$defs"].(map[string]any)
	var refs func(v any)
	refs = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if to, ok := v["$ref"].(string); ok && defs[strings.TrimPrefix(to, "#/$defs/")] == nil {
				t.Errorf("%s leads nowhere", to)
			}
			for _, v := range v {
				refs(v)
			}
		case []any:
			for _, v := range v {
				refs(v)
			}
		}
	}
	refs(s)
	runner := defs["component.MeasurementRunner"].(map[string]any)
	properties := runner["properties"].(map[string]any)
	want := map[string]any{
		"anyOf": []any{
			map[string]any{"anyOf": []any{
				map[string]any{"type": "number", "minimum": 0.05, "maximum": 60.},
				map[string]any{"type": "string"},
			}},
			map[string]any{"type": "null"},
		},
		"default":     "1s",
		"description": "the time between two ticks",
	}
	for _, name := range []string{"interval", "action_delay"} {
		if diff := cmp.Diff(want, properties[name]); diff != "" {
			t.Error(name, diff)
		}
	}
	if got := defs["slot.config_test.Node"].(map[string]any)["anyOf"]; !cmp.Equal(got, []any{
		map[string]any{"$ref": "#/$defs/component.MesosNode"},
		map[string]any{"$ref": "#/$defs/component.StaticNode"},
	}) {
		t.Error(got)
	}
	if got := runner["allOf"]; !cmp.Equal(got, []any{
		map[string]any{"anyOf": []any{map[string]any{"required": []any{"node"}}}},
	}) {
		t.Error(got)
	}
	if got := registry().CustomTags()[:3]; !cmp.Equal(got, []string{"!Env scalar", "!MeasurementRunner mapping", "!MeasurementRunner scalar"}) {
		t.Error(got)
	}
}
