package main

import (
	"context"
	"fmt"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/run"
)

// The components of the original that this version decodes and checks but
// cannot run yet. They stand here so that `owca validate` is of use for every
// file written for the original, and so that `owca run` can say what is missing
// instead of "unknown component". Each goes when its implementation comes.

// planned is what all of them share.
type planned struct{ tag string }

func (p planned) notYet() []string {
	return []string{"!" + p.tag + " is not part of this version: owca run will refuse it"}
}

// Start fails, so that none of them can ever seem to work.
func (p planned) Start(context.Context) error {
	return fmt.Errorf("!%s is not part of this version of owca", p.tag)
}

type plannedNode struct{ planned }

//nolint:unparam // the interface has the results
func (p plannedNode) Tasks(ctx context.Context) ([]owca.Task, error) { return nil, p.Start(ctx) }

type plannedStorage struct{ planned }

func (p plannedStorage) Store(ctx context.Context, _ []owca.Metric) error { return p.Start(ctx) }

type plannedDetector struct{ planned }

//nolint:unparam // the interface has the results
func (p plannedDetector) Detect(ctx context.Context, _ *owca.Snapshot) ([]owca.Anomaly, []owca.Metric, error) {
	return nil, nil, p.Start(ctx)
}

type plannedAllocator struct{ planned }

//nolint:unparam // the interface has the results
func (p plannedAllocator) Allocate(ctx context.Context, _ *owca.Snapshot) (owca.Decision, error) {
	return owca.Decision{}, p.Start(ctx)
}

type detectionRunner struct {
	planned `yaml:"-"`
	measurementRunner
	Detector         owca.Detector `yaml:"detector" required:"true" help:"What looks for anomalies."`
	AnomaliesStorage owca.Storage  `yaml:"anomalies_storage" help:"Where anomalies go."`
}

// Start is not that of the measurementRunner.
func (r *detectionRunner) Start(ctx context.Context) error { return r.planned.Start(ctx) }

func (r *detectionRunner) loop(names func(owca.Storage) string) run.Runner {
	return r.measurementRunner.loop(names)
}

type allocationRunner struct {
	planned `yaml:"-"`
	measurementRunner
	Allocator               owca.Allocator           `yaml:"allocator" required:"true" help:"What decides on allocations."`
	AnomaliesStorage        owca.Storage             `yaml:"anomalies_storage" help:"Where anomalies go."`
	AllocationsStorage      owca.Storage             `yaml:"allocations_storage" help:"Where allocations go."`
	RDTMBControlRequired    bool                     `yaml:"rdt_mb_control_required" help:"Fail at start if memory bandwidth cannot be controlled."`
	RDTCacheControlRequired bool                     `yaml:"rdt_cache_control_required" help:"Fail at start if the cache cannot be controlled."`
	AllocationConfiguration *allocationConfiguration `yaml:"allocation_configuration" help:"Units of allocations."`
	RemoveAllResctrlGroups  bool                     `yaml:"remove_all_resctrl_groups" help:"Remove every resctrl group at start."`
}

// Start is not that of the measurementRunner.
func (r *allocationRunner) Start(ctx context.Context) error { return r.planned.Start(ctx) }

func (r *allocationRunner) loop(names func(owca.Storage) string) run.Runner {
	return r.measurementRunner.loop(names)
}

type allocationConfiguration struct {
	CPUQuotaPeriod int     `yaml:"cpu_quota_period" range:"1000..1000000" help:"CPU quota period, in µs."`
	CPUSharesUnit  int     `yaml:"cpu_shares_unit" range:"1000..1000000" help:"cpu.shares of an allocation of 1."`
	DefaultRDTL3   *string `yaml:"default_rdt_l3" help:"L3 schemata of the root group; null = all ways."`
	DefaultRDTMB   *string `yaml:"default_rdt_mb" help:"MB schemata of the root group; null = no limit."`
}

type mesosNode struct {
	plannedNode `yaml:"-"`
	Endpoint    string        `yaml:"mesos_agent_endpoint" format:"url" help:"URL of the Mesos agent."`
	SSLVerify   any           `yaml:"ssl_verify" help:"true, false, or the path of a CA certificate."`
	Timeout     time.Duration `yaml:"timeout" range:"1..60" help:"Of a request."`
}

type kubernetesNode struct {
	plannedNode         `yaml:"-"`
	CgroupDriver        string   `yaml:"cgroup_driver" enum:"systemd,cgroupfs" help:"The kubelet's cgroup driver."`
	KubeletEndpoint     string   `yaml:"kubelet_endpoint" format:"url" help:"URL of the kubelet."`
	ClientPrivateKey    *string  `yaml:"client_private_key" format:"path" help:"Private key of the client certificate."`
	ClientCert          *string  `yaml:"client_cert" format:"path" help:"Client certificate."`
	MonitoredNamespaces []string `yaml:"monitored_namespaces" help:"Namespaces whose pods are tasks."`
}

type kafkaStorage struct {
	plannedStorage `yaml:"-"`
	Topic          string         `yaml:"topic" required:"true" help:"Topic to write to."`
	Brokers        []string       `yaml:"brokers_ips" format:"ipport" help:"Brokers to begin with."`
	Timeout        time.Duration  `yaml:"max_timeout_in_seconds" range:"0..5" help:"How long to wait for a broker."`
	ExtraConfig    map[string]any `yaml:"extra_config" help:"Settings of the Kafka client."`
}

type staticAllocator struct {
	plannedAllocator `yaml:"-"`
	Rules            []any   `yaml:"rules" help:"Rules; later ones win."`
	Config           *string `yaml:"config" format:"path" help:"File with more rules."`
}

type nopAllocator struct {
	plannedAllocator `yaml:"-"`
}

type nopAnomalyDetector struct {
	plannedDetector `yaml:"-"`
}

type exampleDetector struct {
	plannedDetector `yaml:"-"`
	CycleLength     int  `yaml:"cycle_length" range:"1..100000" help:"Ticks of a cycle of made-up contention."`
	Skew            bool `yaml:"skew" help:"Begin the cycle at a point that depends on the time."`
}
