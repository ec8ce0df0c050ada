package main

import (
	"path/filepath"
	"time"

	"github.com/owca-project/owca/internal/act"
	"github.com/owca-project/owca/internal/config"
	"github.com/owca-project/owca/internal/decide"
	"github.com/owca-project/owca/internal/detect"
	"github.com/owca-project/owca/internal/discover"
	"github.com/owca-project/owca/internal/measure"
	"github.com/owca-project/owca/internal/store"
)

// components is the one list of everything that can stand behind a tag in a
// configuration. `owca components`, `owca schema` and docs/components.md are
// made from it. host may be nil where nothing will be started; without actor nothing
// of the host will be changed.
func components(host *measure.Host, actor *act.Actor) []config.Component {
	hierarchies := func() ([]string, error) { return hierarchies(host) }
	return []config.Component{
		{Tag: "MeasurementRunner", Help: "Measures the tasks of this host and stores the metrics.",
			New: func() any { return newMeasurementRunner(host) }},
		{Tag: "DetectionRunner", Help: "Measures, and looks for anomalies.",
			New: func() any { return &detectionRunner{nesting: newNesting(host)} }},
		{Tag: "AllocationRunner", Help: "Measures, and sets limits, which are undone at the end. See docs/allocation.md.",
			New: func() any { return newAllocationRunner(host, actor) }},
		{Tag: "AllocationConfiguration", Help: "Units and defaults of allocations.",
			New: func() any { return newAllocationConfiguration() }},

		{Tag: "AutoNode", Help: "Finds every task of this host in its cgroups: services, containers, pods, plain cgroups.",
			New: func() any { return discover.NewAuto(hierarchies, procfs(host)) }},
		{Tag: "StaticNode", Help: "Tasks named by their cgroups.",
			New: func() any { return discover.NewStatic(hierarchies) }},
		{Tag: "MesosNode", Help: "Tasks of a Mesos agent.",
			New: func() any {
				return &mesosNode{plannedNode: plannedNode{planned{"MesosNode"}}, Endpoint: "https://127.0.0.1:5051", SSLVerify: true, Timeout: 5 * time.Second}
			}},
		{Tag: "KubernetesNode", Help: "Pods of a kubelet.",
			New: func() any {
				return &kubernetesNode{plannedNode: plannedNode{planned{"KubernetesNode"}}, CgroupDriver: "cgroupfs", KubeletEndpoint: "https://127.0.0.1:10250", MonitoredNamespaces: []string{"default"}}
			}},

		{Tag: "LogStorage", Help: "Writes metrics to a file or to stderr, in the Prometheus text format.",
			New: func() any { return store.NewLog() }},
		{Tag: "PrometheusStorage", Help: "Offers the metrics of the last tick to Prometheus over HTTP.",
			New: func() any { return store.NewPrometheus() }},
		{Tag: "FilterStorage", Help: "Passes on some of the metrics to other storages.",
			New: func() any { return store.NewFilter() }},
		{Tag: "KafkaStorage", Help: "Sends metrics to Kafka.",
			New: func() any {
				return &kafkaStorage{plannedStorage: plannedStorage{planned{"KafkaStorage"}}, Brokers: []string{"127.0.0.1:9092"}, Timeout: 500 * time.Millisecond}
			}},

		{Tag: "NOPAnomalyDetector", Help: "Finds nothing.",
			New: func() any { return detect.NewNOP() }},
		{Tag: "ExampleDetector", Help: "Makes up contention in fixed phases, to try out what takes anomalies. See docs/detection.md.",
			New: func() any { return detect.NewExample() }},
		{Tag: "NOPAllocator", Help: "Changes nothing.",
			New: func() any { return decide.NewNOP() }},
		{Tag: "StaticAllocator", Help: "Applies fixed rules. See docs/allocation.md.",
			New: func() any { return decide.NewStatic(parseRules) }},
		{Tag: "ExampleAllocator", Help: "Holds best-effort tasks back while the host is busy; an example of how an allocator is written.",
			New: func() any { return decide.NewExample() }},
	}
}

// procfs is where /proc of the host is.
func procfs(host *measure.Host) string {
	if host == nil {
		return ""
	}
	return filepath.Join(host.Proc.Root, "proc")
}

// hierarchies are where the cgroups of the host are mounted, v2 first.
func hierarchies(host *measure.Host) ([]string, error) {
	if host.CgroupError != nil {
		return nil, host.CgroupError
	}
	return host.Cgroups.Dirs(), nil
}
