package main

import (
	"context"
	"fmt"
	"time"

	"github.com/owca-project/owca"
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
