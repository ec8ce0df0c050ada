package config_test

import (
	"errors"
	"fmt"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/owca-project/owca/internal/config"
)

// original is the example of the original's installation guide.
const original = `runner: !DetectionRunner
  rdt_enabled: true
  node: !MesosNode
    ssl_verify: true
    mesos_agent_endpoint: "https://127.0.0.1:5051"
  action_delay: 1.
  metrics_storage: !KafkaStorage
    brokers_ips: ['10.0.0.1:9092']
    topic: "owca_metrics"
    max_timeout_in_seconds: 5.
  anomalies_storage: !KafkaStorage
    brokers_ips: ['kafka.example:9092']
    topic: "owca_anomalies"
    max_timeout_in_seconds: 5.
  detector: !ExampleDetector
    skew: true
  extra_labels:
    own_ip: "10.0.0.2"
`

func decode(t *testing.T, yaml string) (file, []*config.Instance) {
	t.Helper()
	var f file
	instances, err := registry().Decode([]byte(yaml), config.Options{Env: testEnv}, &f)
	if err != nil {
		t.Fatal(err)
	}
	return f, instances
}

func TestOriginal(t *testing.T) {
	f, instances := decode(t, original)
	want := &detectionRunner{
		measurementRunner: measurementRunner{
			Node: &mesosNode{Endpoint: "https://127.0.0.1:5051", Verify: verify{"true"}, Timeout: 5 * time.Second},
			MetricsStorage: &kafkaStorage{
				Topic: "owca_metrics", Brokers: []string{"10.0.0.1:9092"}, Timeout: 5,
			},
			Interval:    time.Second,
			RDT:         new(true),
			ExtraLabels: map[string]string{"own_ip": "10.0.0.2"},
		},
		Detector: &exampleDetector{Skew: true},
		AnomaliesStorage: &kafkaStorage{
			Topic: "owca_anomalies", Brokers: []string{"kafka.example:9092"}, Timeout: 5,
		},
	}
	if diff := cmp.Diff(want, f.Runner, cmp.AllowUnexported(detectionRunner{}, measurementRunner{}, verify{}),
		cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".id" }, cmp.Ignore()),
		cmp.AllowUnexported(exampleDetector{})); diff != "" {
		t.Error(diff)
	}
	if got, want := describe(instances), []string{
		"3 $.runner.node MesosNode",
		"7 $.runner.metrics_storage KafkaStorage",
		"11 $.runner.anomalies_storage KafkaStorage",
		"15 $.runner.detector ExampleDetector",
		"1 $.runner DetectionRunner",
	}; !slices.Equal(got, want) {
		t.Errorf("instances:\n%s", strings.Join(got, "\n"))
	}
	if instances[4].Value != any(f.Runner) {
		t.Error("the last instance is not the runner")
	}
}

func describe(instances []*config.Instance) []string {
	out := make([]string, len(instances))
	for i, in := range instances {
		out[i] = fmt.Sprintf("%d %s %s", in.Line, in.Path, in.Tag)
	}
	return out
}

func decodeEverything(yaml string) (*everything, error) {
	var f file
	text := "runner: !Everything\n" + yaml
	_, err := registry().Decode([]byte(text), config.Options{Env: testEnv}, &f)
	if err != nil {
		return nil, err
	}
	return f.Runner.(*everything), nil
}

func TestValues(t *testing.T) {
	type e = everything
	for _, tt := range []struct {
		yaml string
		want func(*e) any
		is   any
	}{
		{`string: text`, func(e *e) any { return e.String }, "text"},
		{`string: yes`, func(e *e) any { return e.String }, "yes"},
		{`string: 2020-01-01`, func(e *e) any { return e.String }, "2020-01-01"},
		{`string: !!str 5`, func(e *e) any { return e.String }, "5"},
		{`string: !Env TEXT`, func(e *e) any { return e.String }, "some text"},
		{`string: !Env NULL`, func(e *e) any { return e.String }, "null"},
		{`string: !Env EMPTY`, func(e *e) any { return e.String }, ""},
		{`string: !Env SEVEN`, func(e *e) any { return e.String }, "7"},
		{`string:`, func(e *e) any { return e.String }, "5"}, // the default
		{`string: ~`, func(e *e) any { return e.String }, "5"},
		{`string: "` + strings.Repeat("ü", 400) + `"`, func(e *e) any { return len(e.String) }, 800},
		{`named: cgroupfs`, func(e *e) any { return e.Named }, driver("cgroupfs")},
		{`bool: true`, func(e *e) any { return e.Bool }, true},
		{`bool: on`, func(e *e) any { return e.Bool }, true},
		{`bool: !Env YES`, func(e *e) any { return e.Bool }, true},
		{`int: 0x10`, func(e *e) any { return e.Int }, 16},
		{`int: 0o17`, func(e *e) any { return e.Int }, 15},
		{`int: 1_000`, func(e *e) any { return e.Int }, 1000},
		{`int: 1000.`, func(e *e) any { return e.Int }, 1000},
		{`int: 1e3`, func(e *e) any { return e.Int }, 1000},
		{`int: -5`, func(e *e) any { return e.Int }, -5},
		{`int: !!int "5"`, func(e *e) any { return e.Int }, 5},
		{`int: !Env SEVEN`, func(e *e) any { return e.Int }, 7},
		{`int: !Env FLOAT`, func(e *e) any { return e.Int }, 1000},
		{`int8: -128`, func(e *e) any { return e.Int8 }, int8(-128)},
		{`uint16: 65535`, func(e *e) any { return e.Uint16 }, uint16(65535)},
		{`uint16: 5.`, func(e *e) any { return e.Uint16 }, uint16(5)},
		{`uint16: +5`, func(e *e) any { return e.Uint16 }, uint16(5)},
		{`uint64: 18446744073709551615`, func(e *e) any { return e.Uint64 }, uint64(math.MaxUint64)},
		{`float: 5`, func(e *e) any { return e.Float }, 5.},
		{`float: .5`, func(e *e) any { return e.Float }, .5},
		{`float: -.inf`, func(e *e) any { return e.Float }, math.Inf(-1)},
		{`float: 0x10`, func(e *e) any { return e.Float }, 16.},
		{`float: !Env FLOAT`, func(e *e) any { return e.Float }, 1000.},
		{`float32: 0.5`, func(e *e) any { return e.Float32 }, float32(.5)},
		{`ratio: -7`, func(e *e) any { return e.Ratio }, -7.},
		{`duration: 1.`, func(e *e) any { return e.Duration }, time.Second},
		{`duration: 5`, func(e *e) any { return e.Duration }, 5 * time.Second},
		{`duration: 0.1`, func(e *e) any { return e.Duration }, 100 * time.Millisecond},
		{`duration: 1h30m`, func(e *e) any { return e.Duration }, 90 * time.Minute},
		{`duration: !Env DELAY`, func(e *e) any { return e.Duration }, 250 * time.Millisecond},
		{`duration: !Env SEVEN`, func(e *e) any { return e.Duration }, 7 * time.Second},
		{`url: http://[::1]:80/x`, func(e *e) any { return e.URL }, "http://[::1]:80/x"},
		{`path: /a/..b/c`, func(e *e) any { return e.Path }, "/a/..b/c"},
		{`ipport: "[::1]:80"`, func(e *e) any { return e.IPPort }, "[::1]:80"},
		{`ipport: kafka-1.example:9092`, func(e *e) any { return e.IPPort }, "kafka-1.example:9092"},
		{`hostport: ":0"`, func(e *e) any { return e.HostPort }, ":0"},
		{`regexp: ^a+$`, func(e *e) any { return e.Regexp }, "^a+$"},
		{`glob: ["/a/*", "[a-z]"]`, func(e *e) any { return e.Glob }, []string{"/a/*", "[a-z]"}},
		{`secret: a`, func(e *e) any { return e.Secret }, "a"},
		{`text: true`, func(e *e) any { return e.Text.text }, "true"},
		{`text: 007`, func(e *e) any { return e.Text.text }, "007"},
		{`pointer: 5`, func(e *e) any { return *e.Pointer }, 5},
		{`pointer: null`, func(e *e) any { return e.Pointer }, (*int)(nil)},
		{`list: [[1, 2], [], [3]]`, func(e *e) any { return e.List }, [][]int{{1, 2}, {}, {3}}},
		{`map: {a: 1, b: 9}`, func(e *e) any { return e.Map }, map[driver]uint8{"a": 1, "b": 9}},
		{`map:`, func(e *e) any { return e.Map }, map[driver]uint8{"x": 2}},
		{`struct: {inner: {a: 5}}`, func(e *e) any { return e.Struct }, inner{A: 1, Inner: &inner{A: 5}}},
		{`struct: {}`, func(e *e) any { return e.Struct }, inner{A: 1}},
		{`structs: {x: {one: 2, text: t}, y: }`, func(e *e) any { return e.Structs },
			map[string]*inner{"x": {A: 2, Text: &verify{"t"}}, "y": nil}},
		{`any: {a: [1, 1.5, x, true, null, 2020-01-01, 18446744073709551615, !Env SEVEN], b: {}}`, func(e *e) any { return e.Any },
			map[string]any{
				"a": []any{int64(1), 1.5, "x", true, nil, "2020-01-01", uint64(math.MaxUint64), "7"},
				"b": map[string]any{},
			}},
		{`any: null`, func(e *e) any { return e.Any }, nil},
		{`storage: !LogStorage`, func(e *e) any { return e.Storage }, &logStorage{}},
		{`storage: !LogStorage ~`, func(e *e) any { return e.Storage }, &logStorage{}},
		{`storage: !LogStorage {}`, func(e *e) any { return e.Storage }, &logStorage{}},
		{`storage: ~`, func(e *e) any { return e.Storage }, nil},
		{`storages: !LogStorage`, func(e *e) any { return e.Storages }, []Storage{&logStorage{}}},
		{`storages: [!LogStorage , !KafkaStorage {topic: t}]`, func(e *e) any { return len(e.Storages) }, 2},
		{`storages: []`, func(e *e) any { return e.Storages }, []Storage{}},
		{"struct: &s {a: 3}\n  structs: {x: *s, y: {<<: *s, text: t}, z: {a: 4, <<: *s}}", func(e *e) any { return e.Structs },
			map[string]*inner{"x": {A: 3}, "y": {A: 3, Text: &verify{"t"}}, "z": {A: 4}}},
		// A merged field gives way to an explicit one, under any of its names, and to an earlier merged one.
		{"structs: {x: &x {a: 3}, y: &y {alpha: 4, text: u}, z: {<<: [*x, *y]}, w: {one: 9, <<: [*y]}}", func(e *e) any { return e.Structs },
			map[string]*inner{"x": {A: 3}, "y": {A: 4, Text: &verify{"u"}}, "z": {A: 3, Text: &verify{"u"}}, "w": {A: 9, Text: &verify{"u"}}}},
		{"any: &k key\n  map: {*k : 4}", func(e *e) any { return e.Map }, map[driver]uint8{"key": 4}},
	} {
		e, err := decodeEverything("  " + tt.yaml + "\n")
		if err != nil {
			t.Errorf("%s: %v", tt.yaml, err)
			continue
		}
		if diff := cmp.Diff(tt.is, tt.want(e), cmp.AllowUnexported(verify{})); diff != "" {
			t.Errorf("%s: %s", tt.yaml, diff)
		}
	}
}

func TestProblems(t *testing.T) {
	long := strings.Repeat("x", 401)
	for _, tt := range []struct{ yaml, want string }{
		{"string: 5", "2:11: $.runner.string: expected a string, found the number 5 (put it into quotes)"},
		{"string: true", "2:11: $.runner.string: expected a string, found the boolean true (put it into quotes)"},
		{"string: [a]", "2:11: $.runner.string: expected a string, found a list"},
		{"string: {a: b}", "2:11: $.runner.string: expected a string, found a mapping"},
		{"string: !LogStorage", "2:11: $.runner.string: expected a string, found the component !LogStorage"},
		{"string: " + long, `2:11: $.runner.string: "` + long[:60] + `"… has 401 characters (expected at most 400)`},
		{"string: !Env NOPE", `2:11: $.runner.string: the environment variable "NOPE" is not set`},
		{"string: !Env", `2:11: $.runner.string: expected the name of a variable after !Env, found ""`},
		{"string: !Env [a]", `2:11: $.runner.string: expected the name of a variable after !Env, found a list`},
		{"string: !!python/name:x y", "2:11: $.runner.string: the tag !!python/name:x is not supported (expected a component's, such as !Name, or none)"},
		{"string: !!binary aGk=", "2:11: $.runner.string: the tag !!binary is not supported (expected a component's, such as !Name, or none)"},
		{"struct: !!str {a: 1}", "2:11: $.runner.struct: the tag !!str does not suit what follows it"},
		{"named: cgroupsf", `2:10: $.runner.named: "cgroupsf" is unknown (expected one of: systemd, cgroupfs; did you mean "cgroupfs"?)`},
		{"bool: 1", "2:9: $.runner.bool: expected true or false, found the number 1"},
		{"bool: maybe", `2:9: $.runner.bool: expected true or false, found the text "maybe"`},
		{"int: 1.5", "2:8: $.runner.int: expected a whole number, found the number 1.5"},
		{"int: '5'", `2:8: $.runner.int: expected a whole number, found the text "5"`},
		{"int: 017", "2:8: $.runner.int: 017 begins with 0, which means octal in some versions of YAML only (expected no 0, or 0o)"},
		{"int: 99999999999999999999", "2:8: $.runner.int: 99999999999999999999 is out of range (expected -9223372036854775808..9223372036854775807)"},
		{"int: 1e30", "2:8: $.runner.int: 1e30 is out of range (expected -9223372036854775808..9223372036854775807)"},
		{"int: !Env TEXT", `2:8: $.runner.int: expected a whole number in the environment variable "TEXT"`},
		{"int8: 128", "2:9: $.runner.int8: 128 is out of range (expected -128..127)"},
		{"int8: !Env BIG", "2:9: $.runner.int8: the value of the environment variable BIG is out of range (expected -128..127)"},
		{"uint16: -1", "2:11: $.runner.uint16: -1 is out of range (expected 0..65535)"},
		{"uint16: 65536", "2:11: $.runner.uint16: 65536 is out of range (expected 0..65535)"},
		{"uint16: 65536.", "2:11: $.runner.uint16: 65536. is out of range (expected 0..65535)"},
		{"float: .nan", "2:10: $.runner.float: .nan is no number that fits here"},
		{"float32: 1e300", "2:12: $.runner.float32: 1e300 is no number that fits here"},
		{"float: x", `2:10: $.runner.float: expected a number, found the text "x"`},
		{"ratio: 1.5", "2:10: $.runner.ratio: 1.5 is out of range (expected ..1)"},
		{"ratio: .inf", "2:10: $.runner.ratio: .inf is out of range (expected ..1)"},
		{"ratio: .nan", "2:10: $.runner.ratio: .nan is no number that fits here"},
		{"duration: [1]", "2:13: $.runner.duration: expected a number of seconds or a duration such as 500ms, found a list"},
		{"duration: soon", `2:13: $.runner.duration: expected a number of seconds or a duration such as 500ms, found the text "soon"`},
		{"duration: 1e300", "2:13: $.runner.duration: 1e300 is out of range (expected a number of seconds)"},
		{"duration: .nan", "2:13: $.runner.duration: .nan is out of range (expected a number of seconds)"},
		{"url: ftp://x", `2:8: $.runner.url: "ftp://x" is not valid (expected http:// or https:// and a host)`},
		{"url: https://", `2:8: $.runner.url: "https://" is not valid (expected http:// or https:// and a host)`},
		{"url: ftp://u:pw@x", `2:8: $.runner.url: the value is not valid (expected http:// or https:// and a host)`},
		{"path: a/../b", `2:9: $.runner.path: "a/../b" is not valid (expected a path without "..")`},
		{"ipport: x:0", `2:11: $.runner.ipport: "x:0" is not valid (expected an address or host name, a colon and a port, such as 127.0.0.1:9092)`},
		{"ipport: ':80'", `2:11: $.runner.ipport: ":80" is not valid (expected an address or host name, a colon and a port, such as 127.0.0.1:9092)`},
		{"ipport: '$KAFKA:80'", `2:11: $.runner.ipport: "$KAFKA:80" is not valid (expected an address or host name, a colon and a port, such as 127.0.0.1:9092)`},
		{"hostport: x", `2:13: $.runner.hostport: "x" is not valid (expected an address, a host name or nothing, a colon and a port, such as 127.0.0.1:9179)`},
		{"regexp: (", "2:11: $.runner.regexp: \"(\" is not valid (expected a regular expression; missing closing ): `(`)"},
		{"glob: [ok, '[']", `2:14: $.runner.glob[1]: "[" is not valid (expected a pattern such as /system.slice/*)`},
		{"glob: a", `2:9: $.runner.glob: expected a list of strings, found the text "a"`},
		{"glob: [null]", `2:10: $.runner.glob[0]: expected a string, found null`},
		{"secret: hunter2", "2:11: $.runner.secret: the value is unknown (expected one of: a, b)"},
		{"secret: 12345", "2:11: $.runner.secret: expected a string, found a number (put it into quotes)"},
		{"pin: 12345", "2:8: $.runner.pin: the value is out of range (expected 0..9999)"},
		{"pin: hunter2", "2:8: $.runner.pin: expected a whole number, found a text"},
		{"text: never", `2:9: $.runner.text: "never" is not valid here: never is not an option`},
		{"text: {}", `2:9: $.runner.text: expected a single value, found a mapping`},
		{"map: {a: 10}", "2:12: $.runner.map.a: 10 is out of range (expected 1..9)"},
		{"map: {5: 1}", "2:9: $.runner.map: expected a string as key, found the number 5 (put it into quotes)"},
		{"map: {~: 1}", "2:9: $.runner.map: expected a string as key, found nothing"},
		{"map: {[a]: 1}", "2:9: $.runner.map: expected a string as key, found a list"},
		{"map: {a: 1, b: 2, a: 3}", `2:21: $.runner.map.a: duplicate key "a" (first at line 2)`},
		{"map: {a b: x}", `2:14: $.runner.map["a b"]: expected a whole number, found the text "x"`},
		{"map: {" + long + ": 1}", `2:9: $.runner.map["` + long[:60] + `"…]: the key has 401 characters (expected at most 400)`},
		{"map: [1]", "2:8: $.runner.map: expected a mapping of names to whole numbers, found a list"},
		{"map: {<<: 5}", `2:13: $.runner.map: expected a mapping, or a list of them, after "<<", found a number`},
		{"map: {<<: {a: 1}, <<: {b: 1}}", `2:21: $.runner.map: duplicate key "<<" (merge a list of mappings instead)`},
		{"struct: 5", "2:11: $.runner.struct: expected a mapping of the fields a, inner, text, found the number 5"},
		{"struct: !SSL {}", "2:11: $.runner.struct: expected a mapping of the fields a, inner, text, found the component !SSL"},
		{"struct: {a: 1, one: 2}", `2:18: $.runner.struct.one: "a" and "one" are names of the same field (keep "a")`},
		{"struct: {alpha: 1, one: 2}", `2:22: $.runner.struct.one: "alpha" and "one" are names of the same field (keep "a")`},
		{"struct: {aplha: 1}", `2:12: $.runner.struct.aplha: unknown field "aplha" (did you mean "alpha"?)`},
		{"struct: {zzzzz: 1}", `2:12: $.runner.struct.zzzzz: unknown field "zzzzz" (expected one of: a, inner, text)`},
		{"any: {a: !SSL {}}", "2:12: $.runner.any.a: expected a value without a tag, found the component !SSL"},
		{"any: 010", "2:8: $.runner.any: 010 begins with 0, which means octal in some versions of YAML only (expected no 0, or 0o)"},
		{"storage: !LogStorag", "2:12: $.runner.storage: unknown component !LogStorag (did you mean !LogStorage?): expected a Storage (!KafkaStorage, !LogStorage, !FilterStorage)"},
		{"storage: !Something {}", "2:12: $.runner.storage: unknown component !Something: expected a Storage (!KafkaStorage, !LogStorage, !FilterStorage)"},
		{"storage: !ExampleDetectr", "2:12: $.runner.storage: unknown component !ExampleDetectr (did you mean !ExampleDetector?): expected a Storage (!KafkaStorage, !LogStorage, !FilterStorage)"},
		{"storage: !SSL", "2:12: $.runner.storage: !SSL does not fit here: expected a Storage (!KafkaStorage, !LogStorage, !FilterStorage)"},
		{"storage: LogStorage", `2:12: $.runner.storage: expected a Storage (!KafkaStorage, !LogStorage, !FilterStorage), found the text "LogStorage" (write !LogStorage)`},
		{"storage: {topic: x}", "2:12: $.runner.storage: expected a Storage (!KafkaStorage, !LogStorage, !FilterStorage), found a mapping"},
		{"storage: !Env TEXT", "2:12: $.runner.storage: expected a Storage (!KafkaStorage, !LogStorage, !FilterStorage), found the text of an environment variable"},
		{"storage: !LogStorage foo", "2:12: $.runner.storage: expected the fields of !LogStorage or nothing after it, found a text"},
		{"storage: !LogStorage [foo]", "2:12: $.runner.storage: expected the fields of !LogStorage or nothing after it, found a list"},
		{"storage: !!python/object:x.Y {}", "2:12: $.runner.storage: the tag !!python/object:x.Y is not supported (expected a component's, such as !Name, or none)"},
		{"storage: !KafkaStorage", `2:12: $.runner.storage.topic: missing field "topic": expected a string`},
		{"storage: !KafkaStorage {topic: }", `2:34: $.runner.storage.topic: null in the field "topic": expected a string`},
		{"storage: !LogStorage {output: x}", `2:25: $.runner.storage.output: unknown field "output" (expected one of: output_filename, overwrite)`},
		{"storages: [null]", "2:14: $.runner.storages[0]: expected a Storage (!KafkaStorage, !LogStorage, !FilterStorage), found null"},
		{"storages: text", `2:13: $.runner.storages: expected a Storage (!KafkaStorage, !LogStorage, !FilterStorage), found a text`},
		{"storage: &s !KafkaStorage {topic: 5}\n  storages: [*s, *s]", "2:37: $.runner.storage.topic: expected a string, found the number 5 (put it into quotes)"},
		{"any: &a x\n  int: *a", `3:8: $.runner.int: expected a whole number, found the text "x"`},
		{"struct: &s {a: x}\n  structs: {x: *s}", `2:18: $.runner.struct.a: expected a whole number, found the text "x"`},
		// Validate.
		{"storage: !LogStorage {overwrite: true}", `2:12: $.runner.storage: standard error cannot be overwritten
2:12: $.runner.storage.output_filename: a file is needed to overwrite
2:36: $.runner.storage.overwrite: overwriting needs a file`},
		// Several at once, in the order of the file, whatever the order of the fields.
		{"ratio: 2\n  int: x\n  strnig: y", `2:10: $.runner.ratio: 2 is out of range (expected ..1)
3:8: $.runner.int: expected a whole number, found the text "x"
4:3: $.runner.strnig: unknown field "strnig" (did you mean "string"?)`},
	} {
		_, err := decodeEverything("  " + tt.yaml + "\n")
		if err == nil {
			t.Errorf("%s: no error", tt.yaml)
		} else if err.Error() != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.yaml, err, tt.want)
		}
	}
}

func TestFileProblems(t *testing.T) {
	for _, tt := range []struct{ name, yaml, want string }{
		{"empty", "", "f.yaml:1:1: the file is empty"},
		{"comments", "# nothing\n", "f.yaml:1:1: the file is empty"},
		{"null", "---\n", "f.yaml:1:1: the file is empty"},
		{"list", "- a\n", "f.yaml:1:1: $: expected a mapping of the fields loggers, runner, found a list"},
		{"no runner", "loggers: {a: info}\n", `f.yaml:1:1: $.runner: missing field "runner": expected a Runner (!MeasurementRunner, !DetectionRunner, !AllocationRunner, !Everything)`},
		{"several problems", "runer: !X\nlogers: {}\n", `f.yaml:1:1: $.runer: unknown field "runer" (did you mean "runner"?)
f.yaml:1:1: $.runner: missing field "runner": expected a Runner (!MeasurementRunner, !DetectionRunner, !AllocationRunner, !Everything)
f.yaml:2:1: $.logers: unknown field "logers" (did you mean "loggers"?)`},
		{"duplicate", "runner: !Everything\nrunner: !Everything\n", `f.yaml:2:1: $.runner: duplicate key "runner" (first at line 1)`},
		{"no fields", "runner: !DetectionRunner\n  node: !MesosNode\n  detector: !NOPAnomalyDetector\n    x: 1\n",
			`f.yaml:4:5: $.runner.detector.x: unknown field "x" (there are no fields here)`},
		{"nested validate", "runner: !MeasurementRunner\n  node: !StaticNode\n    tasks:\n    - name: a\n      cgroup: /a\n    - name: b\n",
			"f.yaml:6:7: $.runner.node.tasks[1]: the task b has no cgroup"},
		{"utf-8", "a: b\nc: d\xff\n", "f.yaml:2:5: the byte 0xff is not UTF-8 (expected YAML in UTF-8)"},
		{"utf-16", "\xff\xfea\x00", "f.yaml:1:1: the byte 0xff is not UTF-8 (expected YAML in UTF-8)"},
		{"binary", "\x7fELF\x02\x01", "f.yaml:1:1: the control character U+007F is not allowed (expected YAML in UTF-8)"},
		{"zero", "a: é\x00", "f.yaml:1:5: the control character U+0000 is not allowed (expected YAML in UTF-8)"},
		{"documents", "runner: !Everything\n---\nrunner: !Everything\n", "f.yaml:2:1: a second document begins here (expected one document)"},
		{"rest", "{}}\n", "f.yaml:1:1: not YAML: did not find expected <document start>"},
		{"tab", "runner: !Everything\n\tint: 1\n", "f.yaml:2:2: not YAML: a tab indents this line (expected spaces)"},
		{"tab below", "runner:\n  a: b\n\tc: d\n", "f.yaml:3:2: not YAML: a tab indents this line (expected spaces)"},
		{"bracket", "runner:\n  a: [1,\n  b: 2\nc: d\n", "f.yaml:4:1: not YAML: did not find expected ',' or ']', for the bracket opened at line 2"},
		{"colons", "runner: !Everything\n  int: 1\n  string: a: b\n", "f.yaml:3:3: not YAML: mapping values are not allowed in this context"},
		{"indentation", "runner:\n  a: 1\n b: 2\nc: 3\n", "f.yaml:3:2: not YAML: did not find expected key"},
		{"quote", "a: 'b\nc: d\n", "f.yaml:2:1: not YAML: found unexpected end of stream"},
		{"anchor", "a: 'x *b'\nrunner:\n  - *b\nc: d\n", "f.yaml:3:5: not YAML: no anchor &b stands before the alias *b"},
		{"version", "%YAML 1.2\n---\na: b\n", "f.yaml:3:1: not YAML: a %YAML directive for a version other than 1.1 (leave it out)"},
		{"cycle", "runner: &a\n  x: [1, *a]\n", "f.yaml:2:10: the anchor &a contains itself"},
		{"merge cycle", "runner: &a\n  <<: *a\n", "f.yaml:2:7: the anchor &a contains itself"},
		{"bomb", bomb(), "f.yaml:5:36: more than 100000 values, each alias replaced by what it stands for (expected a configuration)"},
		{"deep", "loggers: " + strings.Repeat("[", 101) + strings.Repeat("]", 101), "f.yaml:1:109: nested more than 100 levels deep"},
		{"deep aliases", deepAliases(), "f.yaml:3:14: nested more than 100 levels deep"},
		{"very deep", strings.Repeat("[", 20000), "f.yaml:1:1: not YAML: exceeded max depth of 10000"},
		{"large", strings.Repeat("# large\n", 10<<20/8), "f.yaml:1:1: the file has 10485760 bytes (expected at most 4194304)"},
		{"many", strings.Repeat("- a\n", 1<<20), "f.yaml:400001:1: more than 100000 values (expected a configuration)"},
		{"many more", strings.Repeat("- a\n", 100_000), "f.yaml:100000:3: more than 100000 values, each alias replaced by what it stands for (expected a configuration)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var f file
			_, err := registry().Decode([]byte(tt.yaml), config.Options{File: "f.yaml"}, &f)
			if err == nil {
				t.Fatal("no error")
			}
			if err.Error() != tt.want {
				t.Errorf("\n got %s\nwant %s", err, tt.want)
			}
			if f.Runner != nil || f.Loggers != nil {
				t.Errorf("changed to %v", f)
			}
		})
	}
}

func bomb() string {
	s := "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c <= 'i'; c++ {
		s += fmt.Sprintf("%c: &%c [*%c%s]\n", c, c, c-1, strings.Repeat(fmt.Sprintf(", *%c", c-1), 9))
	}
	return s
}

func deepAliases() string {
	return "a: &a " + strings.Repeat("[", 60) + strings.Repeat("]", 60) + "\n" +
		"b: &b " + strings.Repeat("[", 30) + "*a" + strings.Repeat("]", 30) + "\n" +
		"c: [[[[[[[[[[*b]]]]]]]]]]\n"
}

func TestErrorsAreProblems(t *testing.T) {
	_, err := decodeEverything("  int: x\n  bool: y\n")
	var all config.Errors
	var one config.Problem
	if !errors.As(err, &all) || !errors.As(err, &one) || len(all) != 2 {
		t.Fatalf("%#v", err)
	}
	if one != all[0] || one.Line != 2 || one.Column != 8 || one.Path != "$.runner.int" {
		t.Errorf("%#v", one)
	}
	many := make(config.Errors, 103)
	if lines := strings.Split(many.Error(), "\n"); len(lines) != 101 || lines[100] != "… and 3 more problems" {
		t.Errorf("%d lines, the last one %q", len(lines), lines[len(lines)-1])
	}
}

func TestSecretsStaySecret(t *testing.T) {
	const yaml = `runner: !MeasurementRunner
  node: !MesosNode
    token: %s
`
	for _, token := range []string{"hunter2hunter2", "[hunter2]", "!hunter2 x", "!Env LONG", "12345.hunter2"} {
		_, err := registry().Decode(fmt.Appendf(nil, yaml, token), config.Options{Env: testEnv}, &file{})
		if err == nil || strings.Contains(strings.ReplaceAll(err.Error(), "!hunter2", ""), "hunter2") {
			t.Errorf("%s: %v", token, err)
		}
	}
}

func TestWarnings(t *testing.T) {
	var got []string
	_, err := registry().Decode([]byte(`runner: !MeasurementRunner
  node: !MesosNode
  enable_derived_metrics: true
`), config.Options{File: "f", Warn: func(p config.Problem) { got = append(got, p.Error()) }}, &file{})
	want := []string{"f:3:3: $.runner.enable_derived_metrics: deprecated: they are always on"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestConcreteComponents(t *testing.T) {
	for _, tt := range []struct {
		yaml   string
		period int
		verify string
	}{
		{"allocation_configuration: !AllocationConfiguration\n", 1000, "true"},
		{"allocation_configuration: !AllocationConfiguration {default_rdt_l3: x}\n", 1000, "true"},
		{"allocation_configuration: {cpu_quota_period: 5000}\n", 5000, "true"},
		{"allocation_configuration: {cpu_quota_period: 5000.}\n  ssl: !SSL {server_verify: /ca.pem}\n", 5000, "/ca.pem"},
		{"allocation_configuration: null\n  ssl: !SSL\n", 0, "true"},
		{"ssl: {server_verify: false}\n", 0, "false"},
	} {
		f, _ := decode(t, "runner: !AllocationRunner\n  node: !MesosNode\n  "+tt.yaml)
		r := f.Runner.(*allocationRunner)
		period := 0
		if r.Configuration != nil {
			period = r.Configuration.Period
		}
		if period != tt.period || r.SSL.Verify.text != tt.verify {
			t.Errorf("%s: %d, %q", tt.yaml, period, r.SSL.Verify.text)
		}
	}
}

func TestAliasIsSameComponent(t *testing.T) {
	f, instances := decode(t, `runner: !DetectionRunner
  node: !MesosNode
  detector: !NOPAnomalyDetector
  metrics_storage: &s !KafkaStorage {topic: a}
  anomalies_storage: *s
`)
	r := f.Runner.(*detectionRunner)
	if r.MetricsStorage != r.AnomaliesStorage {
		t.Error("two storages")
	}
	if got, want := describe(instances), []string{
		"2 $.runner.node MesosNode",
		"3 $.runner.detector NOPAnomalyDetector",
		"4 $.runner.metrics_storage KafkaStorage",
		"1 $.runner DetectionRunner",
	}; !slices.Equal(got, want) {
		t.Errorf("instances:\n%s", strings.Join(got, "\n"))
	}
	// Merged from: the fields, not the component.
	f, _ = decode(t, `runner: !DetectionRunner
  node: !MesosNode
  detector: !NOPAnomalyDetector
  metrics_storage: &s !KafkaStorage {topic: a, brokers_ips: ["x:1"]}
  anomalies_storage: !KafkaStorage {<<: *s, topic: b}
`)
	r = f.Runner.(*detectionRunner)
	if diff := cmp.Diff(&kafkaStorage{Topic: "b", Brokers: []string{"x:1"}, Timeout: .5}, r.AnomaliesStorage); diff != "" {
		t.Error(diff)
	}
	_, err := registry().Decode([]byte(`runner: !DetectionRunner
  node: &n !MesosNode
  detector: *n
`), config.Options{}, &file{})
	if want := "3:13: $.runner.detector: !MesosNode does not fit here: expected a Detector (!NOPAnomalyDetector, !ExampleDetector)"; err == nil || err.Error() != want {
		t.Error(err)
	}
}

func TestDefaultsAreInstances(t *testing.T) {
	f, instances := decode(t, "runner: !MeasurementRunner\n  node: !MesosNode\n")
	if got, want := describe(instances), []string{
		"2 $.runner.node MesosNode",
		"1 $.runner.metrics_storage LogStorage",
		"1 $.runner MeasurementRunner",
	}; !slices.Equal(got, want) {
		t.Errorf("instances:\n%s", strings.Join(got, "\n"))
	}
	if instances[1].Value != any(f.Runner.(*measurementRunner).MetricsStorage) {
		t.Error("not the default in use")
	}
	// In the struct to decode into, too.
	into := struct {
		Storages map[string]Storage `yaml:"storages"`
		List     []namedPart        `yaml:"list"`
	}{map[string]Storage{"b": &logStorage{}, "a": &logStorage{Overwrite: true}}, []namedPart{{Storage: &logStorage{}}}}
	instances, err := registry().Decode([]byte("{}"), config.Options{}, &into)
	if got, want := describe(instances), []string{
		"1 $.storages.a LogStorage",
		"1 $.storages.b LogStorage",
		"1 $.list[0].storage LogStorage",
	}; err != nil || !slices.Equal(got, want) {
		t.Errorf("instances:\n%s\n%v", strings.Join(got, "\n"), err)
	}
	again := into
	if _, err = registry().Decode([]byte("{}"), config.Options{Previous: instances}, &again); err != nil {
		t.Fatal(err)
	}
	if again.Storages["a"] != instances[0].Value || again.List[0].Storage != instances[2].Value {
		t.Error("not reused")
	}
}

func fingerprints(t *testing.T, yaml string) []string {
	t.Helper()
	_, instances := decode(t, yaml)
	var out []string
	for _, in := range instances {
		out = append(out, fmt.Sprintf("%s %x", in.Path, in.Fingerprint))
	}
	slices.Sort(out)
	return out
}

func TestFingerprint(t *testing.T) {
	base := `runner: !DetectionRunner
  node: !MesosNode {timeout: 7, token: some text}
  detector: !ExampleDetector {skew: true}
  interval: 1.5
  extra_labels: {a: x, b: y}
  metrics_storage: !FilterStorage
    storages: [!KafkaStorage {topic: t, extra_config: {a: 1, b: [x]}}]
`
	want := fingerprints(t, base)
	same := `
# a comment
runner: !DetectionRunner
    metrics_storage: !FilterStorage
        storages: !KafkaStorage   # one
            extra_config:
                b:
                - x
                a: 0x1
            topic: 't'
    extra_labels: {"b": "y", <<: {a: x}}
    action_delay: 1500ms
    detector: !ExampleDetector {skew: yes}
    node: !MesosNode {token: !Env TEXT, timeout: !Env SEVEN}
`
	got := fingerprints(t, same)
	// One storage not in a list has no index in its path.
	for i := range got {
		got[i] = strings.Replace(got[i], ".storages ", ".storages[0] ", 1)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, change := range [][2]string{
		{"timeout: 7", "timeout: 8"}, {"some text", "other"}, {"skew: true", "skew: false"}, {"a: x", "a: z"},
		{"a: x", "c: x"}, {"topic: t", "topic: u"}, {"[x]", "[x, x]"}, {"[x]", "x"}, {"a: 1", "a: '1'"}, {"!MesosNode {timeout: 7, token: some text}", "!MesosNode"},
	} {
		changed := fingerprints(t, strings.Replace(base, change[0], change[1], 1))
		equal := func(suffix string) bool {
			is := func(s string) bool { return strings.HasPrefix(s, suffix+" ") }
			return want[slices.IndexFunc(want, is)] == changed[slices.IndexFunc(changed, is)]
		}
		if equal("$.runner") {
			t.Errorf("%q: the runner's fingerprint is as before", change)
		}
		if len(want) != len(changed) {
			t.Errorf("%q: %d components", change, len(changed))
		}
		if !strings.Contains(change[0], "skew") != equal("$.runner.detector") {
			t.Errorf("%q: the detector's fingerprint", change)
		}
	}
}

func TestReuse(t *testing.T) {
	base := `runner: !DetectionRunner
  node: !MesosNode {timeout: 7}
  detector: !ExampleDetector
  metrics_storage: !FilterStorage
    storages: [!LogStorage , !LogStorage ]
    named: {x: {storage: !KafkaStorage {topic: t}}}
  anomalies_storage: !LogStorage
`
	r := registry()
	load := func(yaml string, previous []*config.Instance) (*detectionRunner, []*config.Instance) {
		t.Helper()
		var f file
		instances, err := r.Decode([]byte(yaml), config.Options{Previous: previous}, &f)
		if err != nil {
			t.Fatal(err)
		}
		values := map[any]bool{}
		for _, in := range instances {
			if values[in.Value] {
				t.Errorf("%s is in use twice", in.Path)
			}
			values[in.Value] = true
		}
		return f.Runner.(*detectionRunner), instances
	}
	first, instances := load(base, nil)

	t.Run("nothing changed", func(t *testing.T) {
		again, now := load(strings.ReplaceAll(base, "timeout: 7", "timeout: 7s"), instances)
		if again != first {
			t.Error("a new runner")
		}
		for i, in := range now {
			if !in.Reused || in.Value != instances[i].Value {
				t.Errorf("%s is new", in.Path)
			}
		}
		third, _ := load(base, now) // and once more, from what was reused
		if third != first {
			t.Error("a new runner")
		}
	})
	t.Run("detector changed", func(t *testing.T) {
		again, now := load(strings.Replace(base, "!ExampleDetector", "!ExampleDetector {skew: true}", 1), instances)
		if again == first || again.Detector == first.Detector || !again.Detector.(*exampleDetector).Skew {
			t.Error("not new")
		}
		if again.Node != first.Node || again.MetricsStorage != first.MetricsStorage || again.AnomaliesStorage != first.AnomaliesStorage {
			t.Error("new")
		}
		var fresh []string
		for _, in := range now {
			if !in.Reused {
				fresh = append(fresh, in.Path)
			}
		}
		if want := []string{"$.runner.detector", "$.runner"}; !slices.Equal(fresh, want) {
			t.Errorf("new: %q", fresh)
		}
	})
	t.Run("inner changed", func(t *testing.T) {
		again, _ := load(strings.Replace(base, "topic: t", "topic: u", 1), instances)
		was, is := first.MetricsStorage.(*filterStorage), again.MetricsStorage.(*filterStorage)
		if is == was || is.Named["x"].Storage == was.Named["x"].Storage || is.Storages[0] != was.Storages[0] || is.Storages[1] != was.Storages[1] {
			t.Error("not the storages expected")
		}
		if is.Named["x"].Storage.(*kafkaStorage).Topic != "u" {
			t.Error("the old topic")
		}
		// An entry of a map that is taken over into a new owner.
		again, _ = load(strings.Replace(base, "!LogStorage ,", "", 1), instances)
		is = again.MetricsStorage.(*filterStorage)
		if is == was || is.Named["x"].Storage != was.Named["x"].Storage {
			t.Error("the storage in a map is new")
		}
	})
	t.Run("moved out", func(t *testing.T) {
		// One of three equal storages stays on its own, the filter with its two is gone.
		again, _ := load(`runner: !DetectionRunner
  node: !MesosNode {timeout: 7}
  detector: !ExampleDetector
  metrics_storage: !LogStorage
`, instances)
		if again.MetricsStorage != first.AnomaliesStorage && !slices.Contains(first.MetricsStorage.(*filterStorage).Storages, again.MetricsStorage) {
			t.Error("new")
		}
	})
	t.Run("swapped", func(t *testing.T) {
		// The filter takes its own two, whatever the order.
		again, _ := load(`runner: !DetectionRunner
  node: !MesosNode {timeout: 7}
  detector: !ExampleDetector
  metrics_storage: !LogStorage
  anomalies_storage: !FilterStorage
    named: {x: {storage: !KafkaStorage {topic: t}}}
    storages: [!LogStorage , !LogStorage ]
`, instances)
		if again.AnomaliesStorage != first.MetricsStorage || again.MetricsStorage != first.AnomaliesStorage {
			t.Error("new")
		}
	})
	t.Run("shared", func(t *testing.T) {
		// Two equal ones became one that is shared: the filter that has both cannot be taken over.
		again, _ := load(strings.Replace(base, "[!LogStorage , !LogStorage ]", "[&l !LogStorage , *l]", 1), instances)
		is := again.MetricsStorage.(*filterStorage)
		if is == first.MetricsStorage || is.Storages[0] != is.Storages[1] {
			t.Error("the filter was taken over")
		}
	})
	t.Run("left out", func(t *testing.T) {
		var without []*config.Instance
		for _, in := range instances {
			if in.Tag != "KafkaStorage" {
				without = append(without, in)
			}
		}
		again, _ := load(base, without)
		is, was := again.MetricsStorage.(*filterStorage), first.MetricsStorage.(*filterStorage)
		if is == was || is.Named["x"].Storage == was.Named["x"].Storage || again.Node != first.Node {
			t.Error("not the components expected")
		}
	})
	t.Run("problem", func(t *testing.T) {
		var f file
		if _, err := r.Decode([]byte(base+"  x: 1\n"), config.Options{Previous: instances}, &f); err == nil || f.Runner != nil {
			t.Error(err, f.Runner)
		}
		if first.Node == nil || len(first.MetricsStorage.(*filterStorage).Storages) != 2 {
			t.Error("the running one was changed")
		}
	})
	t.Run("default", func(t *testing.T) {
		const yaml = "runner: !DetectionRunner\n  node: !MesosNode\n  detector: !ExampleDetector\n"
		a, instances := load(yaml, nil)
		b, _ := load(yaml+"  interval: 7\n", instances)
		if a == b || a.MetricsStorage != b.MetricsStorage || a.Node != b.Node {
			t.Error("not the components expected")
		}
	})
}

func TestRegistryPanics(t *testing.T) {
	component := func(v any) func() {
		return func() { config.NewRegistry(config.Component{Tag: "X", New: func() any { return v }}) }
	}
	for _, tt := range []struct {
		want string
		f    func()
	}{
		{`config: two components have the tag "X"`, func() {
			c := config.Component{Tag: "X", New: func() any { return &nopDetector{} }}
			config.NewRegistry(c, c)
		}},
		{`config: "!X" cannot be the tag of a component`, func() { config.NewRegistry(config.Component{Tag: "!X"}) }},
		{`config: "Env" cannot be the tag of a component`, func() { config.NewRegistry(config.Component{Tag: "Env"}) }},
		{`config: New of "X" returns config_test.nopDetector, not a pointer to a struct`, component(nopDetector{})},
		{`config: New of "X" returns <nil>, not a pointer to a struct`, component(nil)},
		{`config: struct { A int }.A: "" is no name for a field (a yaml tag is needed, "-" to leave it out)`, component(&struct{ A int }{})},
		{`: a chan int cannot be configured`, component(&struct {
			A chan int `yaml:"a"`
		}{})},
		{`: a map[int]string cannot be configured`, component(&struct {
			A []map[int]string `yaml:"a"`
		}{})},
		{`.B: the name "a" is taken`, component(&struct {
			A int `yaml:"a"`
			B int `yaml:"b" alias:"a"`
		}{})},
		{`"1..0" is no range such as 0.5..60`, component(&struct {
			A int `yaml:"a" range:"1..0"`
		}{})},
		{`"1" is no range such as 0.5..60`, component(&struct {
			A int `yaml:"a" range:"1"`
		}{})},
		{`.A: a range needs a number or a duration`, component(&struct {
			A string `yaml:"a" range:"1..2"`
		}{})},
		{`.A: an enum needs a string`, component(&struct {
			A int `yaml:"a" enum:"1,2"`
		}{})},
		{`.A: a format needs a string`, component(&struct {
			A int `yaml:"a" format:"url"`
		}{})},
		{`.A: there is no format "uri"`, component(&struct {
			A string `yaml:"a" format:"uri"`
		}{})},
		{`.A: maxlen "x" needs a string and a number`, component(&struct {
			A string `yaml:"a" maxlen:"x"`
		}{})},
		{`.A: secret is "maybe", neither true nor false`, component(&struct {
			A string `yaml:"a" secret:"maybe"`
		}{})},
		{`config: a default of "X" is a *config_test.logStorage, which is not registered`, component(&namedPart{Storage: &logStorage{}})},
		{`config: cannot decode into a config_test.file, only into a pointer to a struct, or to a list of structs`, func() {
			_, _ = registry().Decode(nil, config.Options{}, file{})
		}},
	} {
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.HasSuffix(got, tt.want) {
					t.Errorf("\n got %s\nwant …%s", got, tt.want)
				}
			}()
			tt.f()
		}()
	}
}

func TestEnvIsTheProcess(t *testing.T) {
	t.Setenv("OWCA_TEST_TOPIC", "from here")
	var f file
	_, err := registry().Decode([]byte("runner: !Everything {string: !Env OWCA_TEST_TOPIC}"), config.Options{}, &f)
	if err != nil || f.Runner.(*everything).String != os.Getenv("OWCA_TEST_TOPIC") {
		t.Error(err, f.Runner)
	}
}

func TestRegexpText(t *testing.T) {
	f, _ := decode(t, "runner: !MeasurementRunner\n  node: !MesosNode\n  metrics_storage: !FilterStorage {filter: ['^a+$']}\n")
	filter := f.Runner.(*measurementRunner).MetricsStorage.(*filterStorage).Filter
	if len(filter) != 1 || filter[0].String() != regexp.MustCompile("^a+$").String() {
		t.Error(filter)
	}
}
