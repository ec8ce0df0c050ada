package config_test

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	yaml "go.yaml.in/yaml/v3"

	"github.com/owca-project/owca/internal/config"
)

// FuzzDecode: it ends, without panic; a problem has a position within the file;
// what decodes, decodes to the same again, is taken over as a whole, and has
// the same fingerprints with its keys in another order and in another format.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		original, "", "runner: !Everything\n", "runner: !Everything {any: &a [*a]}",
		"runner: !Everything\n  any: {<<: [{a: 1}, {a: 2, b: &b x}], c: *b}\n  structs: {x: {a: 1}}\n  duration: 5\n",
		"runner: !MeasurementRunner\n  node: &n !MesosNode\n  interval: 1e-3\n  action_delay: .nan\n",
		"runner: !DetectionRunner\n  node: !MesosNode {token: !Env TEXT}\n  detector: !NOPAnomalyDetector\n  metrics_storage: &m !FilterStorage\n" +
			"    storages: [&k !KafkaStorage {topic: x}, *k]\n    named: {a: {storage: !LogStorage}}\n  anomalies_storage: *m\n",
		"runner: !AllocationRunner\n  node: !StaticNode {tasks: [{name: a, cgroup: /a}]}\n  ssl: !SSL\n  allocation_configuration: {cpu_quota_period: 1_000}\n",
		"runner: !Everything {int: 0o17, uint64: 0xff, float: -.inf, string: 2020-01-01, list: [[1], []], text: 1.50}\n",
		"a: *b\n", "a: [\n\t- b", "--- a\n--- b\n", "\xff", "{}}", "runner: !!python/object:os.system {}\n", "? [a]\n: b\n<<: c\n",
	} {
		f.Add([]byte(s))
	}
	r := registry()
	f.Fuzz(func(t *testing.T, data []byte) {
		var first, second file
		o := config.Options{File: "f", Env: testEnv}
		instances, err := r.Decode(data, o, &first)
		again, err2 := r.Decode(data, o, &second)
		if err != nil {
			var all config.Errors
			if !errors.As(err, &all) || len(all) == 0 {
				t.Fatalf("%#v", err)
			}
			// YAML counts U+0085, U+2028 and U+2029 as line breaks, too.
			lines := 1 + bytes.Count(data, []byte("\n")) + bytes.Count(data, []byte("\r")) +
				bytes.Count(data, []byte("\u0085")) + bytes.Count(data, []byte("\u2028")) + bytes.Count(data, []byte("\u2029"))
			for _, p := range all {
				if p.Line < 1 || p.Line > lines || p.Column < 1 || p.What == "" || p.File != "f" {
					t.Errorf("%#v in %d lines", p, lines)
				}
			}
			if err2 == nil || err2.Error() != err.Error() {
				t.Errorf("%v\nthen\n%v", err, err2)
			}
			return
		}
		if err2 != nil {
			t.Fatal(err2)
		}
		exporter := cmp.Exporter(func(reflect.Type) bool { return true })
		ignore := cmp.FilterPath(func(p cmp.Path) bool {
			return p.Last().String() == ".id" || p.Last().String() == ".Filter"
		}, cmp.Ignore())
		if diff := cmp.Diff(first, second, exporter, ignore); diff != "" {
			t.Error(diff)
		}
		if len(instances) == 0 || instances[len(instances)-1].Value != any(first.Runner) {
			t.Fatalf("the last of %d instances is not the runner", len(instances))
		}
		for i, in := range instances {
			if in.Line < 1 || in.Fingerprint != again[i].Fingerprint || in.Path != again[i].Path {
				t.Errorf("%v, then %v", in, again[i])
			}
		}
		var third file
		o.Previous = instances
		again, err = r.Decode(data, o, &third)
		if err != nil || third.Runner != first.Runner {
			t.Fatalf("not taken over: %v", err)
		}
		for i, in := range again {
			if !in.Reused || in.Value != instances[i].Value {
				t.Errorf("%s is new", in.Path)
			}
		}

		// A format of its own, and everything in reverse order.
		var doc yaml.Node
		if err := yaml.Unmarshal(data, &doc); err != nil {
			t.Fatal(err)
		}
		root, ok := reversed(&doc)
		if !ok {
			return
		}
		text, err := yaml.Marshal(root)
		if err != nil {
			return // the encoder refuses some of what the decoder takes
		}
		var fourth file
		o.Previous = nil
		again, err = r.Decode(text, o, &fourth)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if !slices.Equal(sums(instances), sums(again)) {
			t.Errorf("other fingerprints:\n%s", text)
		}
	})
}

func sums(instances []*config.Instance) []string {
	var out []string
	for _, in := range instances {
		out = append(out, in.Tag+string(in.Fingerprint[:]))
	}
	slices.Sort(out)
	return out
}

// reversed returns n without comments and with the keys of its mappings in
// reverse order; false if there are anchors, which must come before their
// aliases, or scalars that the encoder may change.
func reversed(n *yaml.Node) (*yaml.Node, bool) {
	out := &yaml.Node{Kind: n.Kind, Tag: n.Tag, Value: n.Value, Style: n.Style &^ (yaml.FlowStyle | yaml.LiteralStyle | yaml.FoldedStyle)}
	if n.Anchor != "" || n.Kind == yaml.AliasNode || n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		return nil, false
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		out.Style = yaml.DoubleQuotedStyle
	}
	for _, c := range n.Content {
		c, ok := reversed(c)
		if !ok {
			return nil, false
		}
		out.Content = append(out.Content, c)
	}
	if n.Kind == yaml.MappingNode {
		slices.Reverse(out.Content)
		for i := 0; i+1 < len(out.Content); i += 2 {
			out.Content[i], out.Content[i+1] = out.Content[i+1], out.Content[i]
		}
	}
	return out, true
}
