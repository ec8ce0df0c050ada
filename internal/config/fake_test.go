package config_test

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/owca-project/owca/internal/config"
)

// Components in the shapes of the original's.

type (
	Runner   interface{ Run() }
	Node     interface{ Tasks() }
	Storage  interface{ Store() }
	Detector interface{ Detect() }
)

type file struct {
	Loggers map[string]string `yaml:"loggers"`
	Runner  Runner            `yaml:"runner" required:"true"`
}

type measurementRunner struct {
	Node           Node              `yaml:"node" required:"true" help:"where the tasks come from"`
	MetricsStorage Storage           `yaml:"metrics_storage"`
	Interval       time.Duration     `yaml:"interval" alias:"action_delay" range:"0.05..60" help:"the time between two ticks"`
	RDT            *bool             `yaml:"rdt_enabled"`
	ExtraLabels    map[string]string `yaml:"extra_labels"`
	EventNames     []string          `yaml:"event_names"`
	Derived        bool              `yaml:"enable_derived_metrics" deprecated:"they are always on"`

	ticks int //nolint:unused // as real components have
}

func (*measurementRunner) Run() {}

type detectionRunner struct {
	measurementRunner
	Detector         Detector `yaml:"detector" required:"true"`
	AnomaliesStorage Storage  `yaml:"anomalies_storage"`
}

type allocationRunner struct {
	measurementRunner
	Configuration *allocationConfiguration `yaml:"allocation_configuration"`
	SSL           ssl                      `yaml:"ssl"`
}

type allocationConfiguration struct {
	Period int    `yaml:"cpu_quota_period" range:"1000..1000000"`
	L3     string `yaml:"default_rdt_l3"`
}

type ssl struct {
	Verify verify `yaml:"server_verify"`
	CA     string `yaml:"ca" format:"path"`
}

// verify is a bool or a path.
type verify struct{ text string }

func (v *verify) UnmarshalText(b []byte) error {
	if string(b) == "never" {
		return errors.New("never is not an option")
	}
	v.text = string(b)
	return nil
}

func (v verify) MarshalText() ([]byte, error) { return []byte(v.text), nil }

type mesosNode struct {
	Endpoint string        `yaml:"mesos_agent_endpoint" format:"url"`
	Verify   verify        `yaml:"ssl_verify"`
	Timeout  time.Duration `yaml:"timeout" range:"1..60"`
	Token    string        `yaml:"token" secret:"true" maxlen:"12"`
}

func (*mesosNode) Tasks() {}

type staticNode struct {
	List []task `yaml:"tasks" required:"true"`
}

func (*staticNode) Tasks() {}

type task struct {
	Name   string            `yaml:"name" required:"true"`
	Cgroup string            `yaml:"cgroup" format:"path"`
	Labels map[string]string `yaml:"labels"`
}

func (t *task) Validate() error {
	if t.Cgroup == "" {
		return fmt.Errorf("the task %s has no cgroup", t.Name)
	}
	return nil
}

type kafkaStorage struct {
	Topic   string         `yaml:"topic" required:"true" example:"owca_metrics"`
	Brokers []string       `yaml:"brokers_ips" format:"ipport" help:"address:port | name:port"`
	Timeout float64        `yaml:"max_timeout_in_seconds" range:"0..5"`
	Extra   map[string]any `yaml:"extra_config"`
}

func (*kafkaStorage) Store() {}

type logStorage struct {
	Filename  *string `yaml:"output_filename" format:"path"`
	Overwrite bool    `yaml:"overwrite"`
}

func (*logStorage) Store() {}

type fieldError struct{ field, text string }

func (e fieldError) Error() string { return e.text }
func (e fieldError) Field() string { return e.field }

func (s *logStorage) Validate() error {
	if !s.Overwrite || s.Filename != nil {
		return nil
	}
	return errors.Join(
		fieldError{"overwrite", "overwriting needs a file"},
		fieldError{"output_filename", "a file is needed to overwrite"},
		errors.New("standard error cannot be overwritten"))
}

type filterStorage struct {
	Storages []Storage            `yaml:"storages"`
	Named    map[string]namedPart `yaml:"named"`
	Filter   []*regexp.Regexp     `yaml:"filter"`
}

type namedPart struct {
	Storage Storage `yaml:"storage"`
}

func (*filterStorage) Store() {}

type nopDetector struct{}

func (*nopDetector) Detect() {}

type exampleDetector struct {
	Skew bool `yaml:"skew"`
	id   int
}

func (*exampleDetector) Detect() {}

type driver string

// everything has a field of every type and with every constraint.
type everything struct {
	String   string            `yaml:"string"`
	Named    driver            `yaml:"named" enum:"systemd,cgroupfs"`
	Bool     bool              `yaml:"bool"`
	Int      int               `yaml:"int"`
	Int8     int8              `yaml:"int8"`
	Uint16   uint16            `yaml:"uint16"`
	Uint64   uint64            `yaml:"uint64"`
	Float    float64           `yaml:"float"`
	Float32  float32           `yaml:"float32"`
	Ratio    float64           `yaml:"ratio" range:"..1"`
	Duration time.Duration     `yaml:"duration"`
	URL      string            `yaml:"url" format:"url"`
	Path     string            `yaml:"path" format:"path"`
	IPPort   string            `yaml:"ipport" format:"ipport"`
	HostPort string            `yaml:"hostport" format:"hostport"`
	Regexp   string            `yaml:"regexp" format:"regexp"`
	Glob     []string          `yaml:"glob" format:"glob"`
	Secret   string            `yaml:"secret" secret:"true" enum:"a,b"`
	Pin      int               `yaml:"pin" secret:"true" range:"0..9999"`
	Text     verify            `yaml:"text"`
	Pointer  *int              `yaml:"pointer"`
	List     [][]int           `yaml:"list"`
	Map      map[driver]uint8  `yaml:"map" range:"1..9"`
	Struct   inner             `yaml:"struct"`
	Structs  map[string]*inner `yaml:"structs"`
	Any      any               `yaml:"any"`
	Storage  Storage           `yaml:"storage"`
	Storages []Storage         `yaml:"storages"`
	Skipped  func()            `yaml:"-"`
}

type inner struct {
	A     int     `yaml:"a" alias:"alpha,one"`
	Inner *inner  `yaml:"inner"`
	Text  *verify `yaml:"text"`
}

func (*everything) Run() {}

func registry() *config.Registry {
	serial := 0
	return config.NewRegistry(
		config.Component{Tag: "MeasurementRunner", Help: "Measures.", New: func() any {
			return &measurementRunner{Interval: time.Second, MetricsStorage: &logStorage{}}
		}},
		config.Component{Tag: "DetectionRunner", Help: "Measures and detects.", New: func() any {
			return &detectionRunner{measurementRunner: measurementRunner{Interval: time.Second, MetricsStorage: &logStorage{}}}
		}},
		config.Component{Tag: "AllocationRunner", Help: "Measures and allocates.", New: func() any {
			return &allocationRunner{measurementRunner: measurementRunner{Interval: time.Second}, SSL: ssl{Verify: verify{"true"}}}
		}},
		config.Component{Tag: "AllocationConfiguration", Help: "Units of allocations.", New: func() any {
			return &allocationConfiguration{Period: 1000}
		}},
		config.Component{Tag: "SSL", Help: "TLS.", New: func() any { return &ssl{Verify: verify{"true"}} }},
		config.Component{Tag: "MesosNode", Help: "Asks a Mesos agent.", New: func() any {
			return &mesosNode{Endpoint: "https://127.0.0.1:5051", Verify: verify{"true"}, Timeout: 5 * time.Second}
		}},
		config.Component{Tag: "StaticNode", Help: "Lists tasks.", New: func() any { return &staticNode{} }},
		config.Component{Tag: "KafkaStorage", Help: "Sends to Kafka.", New: func() any {
			return &kafkaStorage{Brokers: []string{"127.0.0.1:9092"}, Timeout: 0.5}
		}},
		config.Component{Tag: "LogStorage", Help: "Writes lines.", New: func() any { return &logStorage{} }},
		config.Component{Tag: "FilterStorage", Help: "Passes some on.", New: func() any { return &filterStorage{} }},
		config.Component{Tag: "NOPAnomalyDetector", Help: "Does nothing.", New: func() any { return &nopDetector{} }},
		config.Component{Tag: "ExampleDetector", Help: "Makes things up.", New: func() any {
			serial++
			return &exampleDetector{id: serial}
		}},
		config.Component{Tag: "Everything", Help: "Has all types.", New: func() any {
			return &everything{Named: "systemd", Int: 7, Struct: inner{A: 1}, Float: 0.25, Duration: 90 * time.Minute,
				Map: map[driver]uint8{"x": 2}, Glob: []string{"/a*"}, String: "5"}
		}},
	)
}

var testEnv = func(name string) (string, bool) {
	s, ok := map[string]string{
		"TEXT": "some text", "SEVEN": "7", "YES": "yes", "DELAY": "250ms", "EMPTY": "", "LONG": "hunter2hunter2",
		"NULL": "null", "BIG": strconv.Itoa(1 << 40), "FLOAT": "1e3",
	}[name]
	return s, ok
}
