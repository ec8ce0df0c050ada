package discover

import (
	"strings"
)

// class says what a cgroup is to discovery.
type class uint8

const (
	plain     class = iota // a task if it holds processes itself and nothing below it does
	unit                   // systemd unit: a task, with all that is below it
	container              // the same, and recognised inside other tasks too
	pod                    // its containers are one task
	inner                  // part of the task around it
	helper                 // a runtime's monitor: not a task, and not part of one
)

// identity is what a cgroup's path tells about it. Texts are as in the path.
type identity struct {
	class class
	// outer is the path of the unit or container around this cgroup, "" if
	// there is none.
	outer string
	// part: of the container around it, which orchestrators treat as one task.
	part bool

	kind          string
	name          string // for people, escapes resolved
	unit          string
	slice         string
	user          string
	containerID   string
	containerName string
	runtime       string
	podUID        string
	qos           string
}

// identify recognises a clean path ("/a/b"; "" and "/" are the root) by its
// components from the top, as each means something only below its parents.
func identify(path string) identity {
	var w walker
	for start := 1; start < len(path); {
		end := len(path)
		if i := strings.IndexByte(path[start:], '/'); i >= 0 {
			end = start + i
		}
		w.enter(path[:end], path[start:end])
		start = end + 1
	}
	if w.id.class == plain && w.id.kind == "" {
		w.id.kind = "cgroup"
		w.id.name = path
	}
	return w.id
}

// walker is what the components so far say about the next one.
type walker struct {
	id    identity // of the path so far
	path  string
	depth int // components below the root or the innermost container
	last  [2]string
}

func (w *walker) enter(path, name string) {
	parent, parentPath := w.id, w.path
	w.path = path
	w.depth++
	if parent.class == helper {
		return
	}
	next := identity{
		outer: parent.outer, slice: parent.slice, user: parent.user,
		podUID: parent.podUID, qos: parent.qos,
	}
	inside := false
	switch parent.class {
	case unit, container:
		next.outer, inside = parentPath, true
	case inner:
		inside = true
	}
	if inside {
		// A pod's container is in no further pod unless one begins below it.
		next.podUID, next.qos = "", ""
	}
	if parent.class == container {
		next.slice = ""
	}

	switch {
	case w.pod(&next, name, parent.class):
	case w.container(&next, name, parent):
	case parent.class == pod:
		// Whatever a runtime makes here is one of the pod's: kata, gVisor.
		next.class, next.kind, next.containerName = container, "container", name
	case inside:
		next.class = inner
		if strings.HasSuffix(name, ".slice") {
			next.slice = name // of the containers that may come below
		}
	default:
		systemd(&next, name)
	}
	if next.class == container || next.class == pod {
		if next.name == "" {
			next.name = next.containerName
		}
		if next.name == "" && next.class == container {
			next.name = short(next.containerID)
		}
		w.depth = 0
	}
	w.id = next
	w.last[0], w.last[1] = w.last[1], name
}

// systemd recognises units and slices (systemd.unit(5), systemd.slice(5)).
//
//	/init.scope
//	/system.slice/nginx.service
//	/system.slice/system-serial\x2dgetty.slice/serial-getty@ttyS0.service
//	/system.slice/mnt-data.mount                                           (a FUSE server)
//	/user.slice/user-1000.slice/session-3.scope
//	/user.slice/user-1000.slice/user@1000.service/app.slice/app-foo.service
//	/user.slice/user-1000.slice/user@1000.service/init.scope
func systemd(id *identity, name string) {
	i := strings.LastIndexByte(name, '.')
	if i <= 0 {
		return
	}
	base, suffix := name[:i], name[i+1:]
	switch suffix {
	case "slice":
		id.slice = name
		if uid, ok := strings.CutPrefix(base, "user-"); ok && isDigits(uid) {
			id.user = uid
		}
	case "service", "scope", "socket", "mount", "swap":
		if uid, ok := strings.CutPrefix(base, "user@"); ok && suffix == "service" {
			// The user's manager: what it runs are units of its own.
			id.user, id.slice = uid, ""
			return
		}
		id.class, id.kind, id.unit, id.name = unit, suffix, name, unescape(name)
	}
}

// pod recognises the directory of a pod.
//
//	/kubepods/burstable/pod0b5f1c9e-3c3a-4d0e-9a55-1f0d6f3a7c11                        kubelet, cgroupfs driver
//	/kubepods/pod7d1f9a90f7a5ee2ba2d1ae0a9d5a1d5c                                      static pod, guaranteed
//	/kubelet/kubepods/besteffort/pod<uid>                                              kind
//	/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid, "_">.slice    kubelet, systemd driver
//	/kubelet.slice/kubelet-kubepods.slice/…/kubelet-kubepods-besteffort-pod<uid>.slice kind
//	/machine.slice/machine-libpod_pod_<64hex>.slice                                    podman
//	/libpod_parent/<64hex>                                                             podman, cgroupfs
func (w *walker) pod(id *identity, name string, parent class) bool {
	if parent == pod {
		return false
	}
	if base, ok := strings.CutSuffix(name, ".slice"); ok {
		uid, qos, ok := kubernetesSlice(base)
		if ok {
			id.podUID, id.qos, id.slice = uid, qos, name
			id.class, id.kind, id.name = pod, "pod", uid
			return true
		}
		if i := strings.Index(base, "libpod_pod_"); i >= 0 && isContainerID(base[i+len("libpod_pod_"):]) {
			id.podUID, id.slice, id.runtime = base[i+len("libpod_pod_"):], name, "podman"
			id.class, id.kind, id.name = pod, "pod", short(id.podUID)
			return true
		}
		return false
	}
	if w.last[1] == "libpod_parent" && isContainerID(name) {
		id.podUID, id.runtime = name, "podman"
		id.class, id.kind, id.name = pod, "pod", short(name)
		return true
	}
	uid, ok := strings.CutPrefix(name, "pod")
	if !ok || uid == "" {
		return false
	}
	qos := "guaranteed"
	top := w.last[1]
	if top == "burstable" || top == "besteffort" {
		qos, top = top, w.last[0]
	}
	if top != "kubepods" {
		return false
	}
	id.podUID, id.qos = uid, qos
	id.class, id.kind, id.name = pod, "pod", uid
	return true
}

// kubernetesSlice takes "kubepods-burstable-pod<uid>" apart, with what slices
// above kubepods put before it.
func kubernetesSlice(base string) (uid, qos string, ok bool) {
	i := strings.Index(base, "kubepods-")
	if i < 0 || i > 0 && base[i-1] != '-' {
		return "", "", false
	}
	rest := base[i+len("kubepods-"):]
	qos = "guaranteed"
	for _, class := range []string{"burstable", "besteffort"} {
		if r, found := strings.CutPrefix(rest, class+"-"); found {
			rest, qos = r, class
			break
		}
	}
	uid, ok = strings.CutPrefix(rest, "pod")
	if !ok || uid == "" {
		return "", "", false
	}
	return strings.ReplaceAll(uid, "_", "-"), qos, true
}

// container recognises containers, virtual machines, and their runtimes'
// helpers.
func (w *walker) container(id *identity, name string, parent identity) bool {
	if w.byID(id, name, parent) || w.lxc(id, name) || w.mesos(id, name) || machine(id, name) {
		return true
	}
	// The namespaces that containerd's own tools and the kubelet use; in others
	// only an id of 64 digits tells a container from any other cgroup.
	//
	//	/k8s.io/t1
	//	/default/redis            ctr run
	if w.depth == 2 && id.outer == "" && (w.last[1] == "k8s.io" || w.last[1] == "default") {
		id.class, id.kind, id.runtime, id.containerName = container, "container", "containerd", name
		return true
	}
	return false
}

// runtimes by the prefix that they put before the id.
var runtimes = [...]struct{ prefix, runtime string }{
	{"docker", "docker"},
	{"cri-containerd", "containerd"},
	{"nerdctl", "containerd"},
	{"crio", "cri-o"},
	{"libpod", "podman"},
	{"libpod-payload", "podman"},
}

// byID recognises names that end in an id of 64 hexadecimal digits.
//
//	/docker/<64hex>                                          docker, cgroupfs driver
//	/mygroup/<64hex>                                         docker --cgroup-parent; containerd's /<namespace>/<id>
//	/system.slice/docker-<64hex>.scope                       docker, systemd driver
//	…/kubepods-pod<uid>.slice/cri-containerd-<64hex>.scope   containerd (CRI)
//	…/kubepods-pod<uid>.slice/crio-<64hex>.scope             CRI-O; crio-conmon-<64hex>.scope is its monitor
//	/kubepods/pod<uid>/crio-<64hex>                          CRI-O, cgroupfs driver
//	/machine.slice/libpod-<64hex>.scope                      podman; libpod-conmon-<64hex>.scope is its monitor
//	/libpod_parent/libpod-<64hex>                            podman, cgroupfs
//	/system.slice/web.service/libpod-payload-<64hex>         podman --cgroups=split
//	/user.slice/user-1000.slice/user@1000.service/user.slice/nerdctl-<64hex>.scope
//	/system.slice/containerd.service/kubepods-burstable-pod<uid>.slice:cri-containerd:<64hex>
//	                                                         kubelet with systemd, containerd without
//	/libpod_parent/conmon                                    its monitors
func (w *walker) byID(id *identity, name string, parent identity) bool {
	if name == "conmon" && w.last[1] == "libpod_parent" {
		id.class = helper
		return true
	}
	base, scope := strings.CutSuffix(name, ".scope")
	if len(base) < containerIDLen || !isContainerID(base[len(base)-containerIDLen:]) {
		return false
	}
	prefix, hex := base[:len(base)-containerIDLen], base[len(base)-containerIDLen:]
	runtime := ""
	switch {
	case prefix == "" && !scope:
		switch {
		case w.last[1] == "docker":
			runtime = "docker"
		case parent.class == pod:
			runtime = parent.runtime
		case w.depth == 2 && (w.last[1] == "k8s.io" || w.last[1] == "default"):
			runtime = "containerd"
		}
	case strings.HasSuffix(prefix, ":"):
		slice, tool, ok := strings.Cut(prefix[:len(prefix)-1], ":")
		if !ok {
			return false
		}
		runtime = runtimeOf(tool)
		if base, ok := strings.CutSuffix(slice, ".slice"); ok {
			if uid, qos, ok := kubernetesSlice(base); ok {
				id.podUID, id.qos = uid, qos
			}
		}
	case strings.HasSuffix(prefix, "conmon-"):
		id.class = helper
		return true
	case strings.HasSuffix(prefix, "-"):
		runtime = runtimeOf(prefix[:len(prefix)-1])
		if runtime == "" && !scope {
			return false // somebody's checksum
		}
	default:
		return false
	}
	id.class, id.kind, id.runtime, id.containerID = container, "container", runtime, hex
	if scope {
		id.unit = name
	}
	return true
}

func runtimeOf(prefix string) string {
	for _, r := range runtimes {
		if r.prefix == prefix {
			return r.runtime
		}
	}
	return ""
}

// lxc recognises the cgroups of LXC and what builds on it.
//
//	/lxc.payload.web      LXC 4, LXD, incus; lxc.monitor.web is its monitor
//	/lxc.payload/web      LXC 3
//	/lxc/101/ns           Proxmox, LXC 2
//	/lxc.pivot            LXC's own
func (w *walker) lxc(id *identity, name string) bool {
	switch {
	case name == "lxc.pivot", strings.HasPrefix(name, "lxc.monitor"):
		id.class = helper
		return true
	case strings.HasPrefix(name, "lxc.payload.") && len(name) > len("lxc.payload."):
		id.containerName = name[len("lxc.payload."):]
	case w.last[1] == "lxc.payload", w.last[1] == "lxc" && w.depth == 2:
		id.containerName = name
	default:
		return false
	}
	id.class, id.kind, id.runtime = container, "container", "lxc"
	return true
}

// mesos recognises the containers of the Mesos containerizer, where nested
// ones are the tasks of a task group whose executor is around them.
//
//	/mesos/0d6cf5a7-3b2a-4b7d-8a55-5f8d9d3f2f10
//	/mesos/<uuid>/mesos/<uuid>
//	/mesos/<uuid>/leaf             cgroup v2: the container's own processes
func (w *walker) mesos(id *identity, name string) bool {
	if w.last[1] != "mesos" || w.depth != 2 {
		return false
	}
	if id.outer != "" {
		if !isMesos(id.outer) {
			return false
		}
		id.part = true
	}
	id.class, id.kind, id.runtime = container, "container", "mesos"
	if isUUID(name) {
		id.containerID = name
	} else {
		id.containerName = name
	}
	return true
}

// isMesos: /mesos/<id>, /mesos/<id>/mesos/<id>, …
func isMesos(path string) bool {
	for path != "" {
		rest, ok := strings.CutPrefix(path, "/mesos/")
		if !ok {
			return false
		}
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			path = rest[i:]
		} else {
			path = ""
		}
	}
	return true
}

// machine recognises what systemd-machined has registered.
//
//	/machine.slice/machine-debian.scope                      systemd-nspawn
//	/machine.slice/systemd-nspawn@debian.service             machinectl start
//	/machine.slice/machine-qemu\x2d1\x2dvm1.scope            libvirt, with libvirt/vcpu0, … below
//	/machine.slice/machine-lxc\x2d2312\x2dweb.scope          libvirt's LXC
func machine(id *identity, name string) bool {
	if s, ok := strings.CutPrefix(name, "systemd-nspawn@"); ok {
		if s, ok = strings.CutSuffix(s, ".service"); ok && s != "" {
			id.class, id.kind, id.runtime = container, "container", "nspawn"
			id.unit, id.containerName = name, unescape(s)
			return true
		}
		return false
	}
	s, ok := strings.CutPrefix(name, "machine-")
	if !ok {
		return false
	}
	if s, ok = strings.CutSuffix(s, ".scope"); !ok || s == "" {
		return false
	}
	s = unescape(s)
	id.class, id.kind, id.runtime = container, "container", "nspawn"
	id.unit, id.containerName = name, s
	for _, driver := range []string{"qemu", "lxc"} {
		rest, ok := strings.CutPrefix(s, driver+"-")
		if !ok {
			continue
		}
		if n, guest, ok := strings.Cut(rest, "-"); ok && isDigits(n) && guest != "" {
			id.runtime, id.containerName = "libvirt", guest
			if driver == "qemu" {
				id.kind = "vm"
			}
		}
	}
	return true
}

const containerIDLen = 64

func isContainerID(s string) bool {
	if len(s) != containerIDLen {
		return false
	}
	for i := range len(s) {
		if !isHex(s[i]) {
			return false
		}
	}
	return true
}

func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch i {
		case 8, 13, 18, 23:
			if s[i] != '-' {
				return false
			}
		default:
			if !isHex(s[i]) {
				return false
			}
		}
	}
	return true
}

func isHex(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' }

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// short is the form of an id that people know from docker ps.
func short(id string) string {
	if isContainerID(id) {
		return id[:12]
	}
	return id
}

// unescape resolves the \xNN of systemd-escape(1). A "-" that stands for "/"
// stays: most units were not made from a path.
func unescape(s string) string {
	if !strings.Contains(s, `\x`) {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && s[i+1] == 'x' && isHex(s[i+2]) && isHex(s[i+3]) {
			b = append(b, nibble(s[i+2])<<4|nibble(s[i+3]))
			i += 3
			continue
		}
		b = append(b, s[i])
	}
	return string(b)
}

func nibble(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 10
	}
	return c - '0'
}

// labels are the Prometheus labels of the package comment, parent excepted.
func (id *identity) labels() map[string]string {
	m := make(map[string]string, 8)
	for _, l := range [...]struct{ name, value string }{
		{"kind", id.kind},
		{"unit", id.unit},
		{"slice", id.slice},
		{"user", id.user},
		{"container_id", id.containerID},
		{"container_runtime", id.runtime},
		{"container_name", id.containerName},
		{"pod_uid", id.podUID},
		{"qos_class", id.qos},
	} {
		if l.value != "" {
			m[l.name] = strings.ToValidUTF8(l.value, "\uFFFD")
		}
	}
	return m
}
