package owca

import "context"

// TaskID identifies a task on its host for as long as it lives: an
// orchestrator's id (Mesos task id, pod uid) or, without one, the cgroup path.
type TaskID string

// Task is a unit of work that an orchestrator, a container runtime or systemd
// started, or that somebody put into a cgroup.
type Task struct {
	ID TaskID
	// Name is for people: a unit, a container's or a pod's name. Not unique.
	Name string
	// Cgroups are paths below the root of the cgroup hierarchies, each
	// beginning with "/", the same under every controller. A pod has one for
	// each container. Counters of several are summed.
	Cgroups []string
	// Labels as the orchestrator gave them, names already sanitised for
	// Prometheus. Values are anybody's text.
	Labels map[string]string
	// Resources are what was requested or granted, by the names of the
	// orchestrator: "cpus", "mem", "requests_cpu", "limits_memory", … in
	// cores and bytes.
	Resources map[string]float64
}

// Node discovers the tasks of one host.
type Node interface {
	// Tasks returns the tasks that run now, in an order that is stable from
	// call to call. The caller only reads them; the next call may return the
	// same slice and maps, but never changes ones it returned before.
	//
	// An error means that the tasks are not known this time; the caller keeps
	// what it knew. Partial knowledge is tasks and an error together.
	Tasks(context.Context) ([]Task, error)
}

// A Starter does its I/O (opening files, sockets, watches) in Start, so that
// constructing it from a configuration touches nothing. Any component may be
// one. Start is called once, before the first use.
type Starter interface {
	Start(context.Context) error
}

// A Closer is a component that holds something to give back. Any component may
// be one. Close is called once, after the last use, and only after Start.
type Closer interface {
	Close() error
}
