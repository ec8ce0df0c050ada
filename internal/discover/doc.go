// Package discover finds the tasks of a host. [AutoNode] recognises them in
// the cgroup tree, [StaticNode] takes a list from the configuration.
//
// # Labels
//
// The tasks of an AutoNode carry those of these labels that their path tells:
//
//	kind               service, scope, socket, mount, swap, container, pod, vm; cgroup for any other
//	unit               the systemd unit, as in the path (escapes not resolved)
//	slice              the innermost systemd slice around it
//	user               the uid of the user manager or session it belongs to
//	container_id       64 hexadecimal digits, or a Mesos UUID
//	container_runtime  docker, containerd, cri-o, podman, mesos, lxc, nspawn, libvirt
//	container_name     what the runtime calls it, where the path has a name instead of an id
//	pod_uid            of a Kubernetes pod, with "-" as the API has it; of a podman pod, its id
//	qos_class          guaranteed, burstable, besteffort
//	parent             the ID of the task whose cgroup this one is nested in
//
// # Nesting
//
// Everything below a service, scope or container belongs to it, except
// containers and pods: those are tasks of their own at any depth (kind, docker
// in docker, podman in a unit). The task around them stays one, and the
// kernel's counters of its cgroup include theirs: whoever sums over tasks
// leaves out those with a parent. A user manager (user@1000.service) is no task,
// its services and scopes are.
package discover
