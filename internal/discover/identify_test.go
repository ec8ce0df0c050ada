package discover

import (
	pathpkg "path"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

const (
	hexA = "3f2a9c0e5b7d41c8a6f0e1d2c3b4a5968778695a4b3c2d1e0f9e8d7c6b5a4938"
	hexB = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	uid  = "0b5f1c9e-3c3a-4d0e-9a55-1f0d6f3a7c11"
	uidU = "0b5f1c9e_3c3a_4d0e_9a55_1f0d6f3a7c11"
	uidS = "7d1f9a90f7a5ee2ba2d1ae0a9d5a1d5c" // static pod
)

var classes = map[class]string{plain: "plain", unit: "unit", container: "container", pod: "pod", inner: "inner", helper: "helper"}

func TestIdentify(t *testing.T) {
	tests := []struct {
		path  string
		class class
		want  string // name, then labels
	}{
		// systemd
		{"/init.scope", unit, "init.scope kind=scope unit=init.scope"},
		{"/system.slice", plain, "/system.slice kind=cgroup slice=system.slice"},
		{"/system.slice/nginx.service", unit, "nginx.service kind=service slice=system.slice unit=nginx.service"},
		{"/system.slice/nginx.service/worker", inner, ""},
		{`/system.slice/system-serial\x2dgetty.slice/serial-getty@ttyS0.service`, unit, `serial-getty@ttyS0.service kind=service slice=system-serial\x2dgetty.slice unit=serial-getty@ttyS0.service`},
		{`/system.slice/dev-disk\x2dby.swap`, unit, `dev-disk-by.swap kind=swap slice=system.slice unit=dev-disk\x2dby.swap`},
		{"/system.slice/mnt-data.mount", unit, "mnt-data.mount kind=mount slice=system.slice unit=mnt-data.mount"},
		{"/system.slice/dbus.socket", unit, "dbus.socket kind=socket slice=system.slice unit=dbus.socket"},
		{"/user.slice/user-1000.slice", plain, "/user.slice/user-1000.slice kind=cgroup slice=user-1000.slice user=1000"},
		{"/user.slice/user-1000.slice/session-3.scope", unit, "session-3.scope kind=scope slice=user-1000.slice unit=session-3.scope user=1000"},
		{"/user.slice/user-1000.slice/user@1000.service", plain, "/user.slice/user-1000.slice/user@1000.service kind=cgroup user=1000"},
		{"/user.slice/user-1000.slice/user@1000.service/init.scope", unit, "init.scope kind=scope unit=init.scope user=1000"},
		{"/user.slice/user-1000.slice/user@1000.service/dbus.service", unit, "dbus.service kind=service unit=dbus.service user=1000"},
		{`/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal.slice/vte-spawn-1.scope`, unit, "vte-spawn-1.scope kind=scope slice=app-org.gnome.Terminal.slice unit=vte-spawn-1.scope user=1000"},
		{"/user.slice/user-1000.slice/user@1000.service/app.slice/x.service/tab", inner, ""},
		{"/machine.slice/systemd-nspawn@debian.service/payload", inner, ""},
		{"/qemu.slice/100.scope", unit, "100.scope kind=scope slice=qemu.slice unit=100.scope"},

		// Docker
		{"/docker", plain, "/docker kind=cgroup"},
		{"/docker/" + hexA, container, "3f2a9c0e5b7d kind=container container_id=" + hexA + " container_runtime=docker"},
		{"/docker/buildkit/ab12", plain, "/docker/buildkit/ab12 kind=cgroup"},
		{"/mygroup/" + hexA, container, "3f2a9c0e5b7d kind=container container_id=" + hexA},
		{"/ecs/" + uidS + "/" + hexA, container, "3f2a9c0e5b7d kind=container container_id=" + hexA},
		{"/system.slice/docker-" + hexA + ".scope", container, "3f2a9c0e5b7d kind=container container_id=" + hexA + " container_runtime=docker slice=system.slice unit=docker-" + hexA + ".scope"},
		{"/user.slice/user-1000.slice/user@1000.service/user.slice/docker-" + hexA + ".scope", container, "3f2a9c0e5b7d kind=container container_id=" + hexA + " container_runtime=docker slice=user.slice unit=docker-" + hexA + ".scope user=1000"},
		{"/docker/" + hexA + "/docker/" + hexB, container, "0123456789ab kind=container container_id=" + hexB + " container_runtime=docker"},
		{"/docker/" + hexA + "/init", inner, ""},
		{"/docker/" + hexA + "/system.slice/cron.service", inner, ""},
		{"/docker/" + strings.ToUpper(hexA), plain, "/docker/" + strings.ToUpper(hexA) + " kind=cgroup"},
		{"/docker/" + hexA[1:], plain, "/docker/" + hexA[1:] + " kind=cgroup"},

		// containerd
		{"/k8s.io/t1", container, "t1 kind=container container_name=t1 container_runtime=containerd"},
		{"/default/redis", container, "redis kind=container container_name=redis container_runtime=containerd"},
		{"/default/" + hexA, container, "3f2a9c0e5b7d kind=container container_id=" + hexA + " container_runtime=containerd"},
		{"/system.slice/nerdctl-" + hexA + ".scope", container, "3f2a9c0e5b7d kind=container container_id=" + hexA + " container_runtime=containerd slice=system.slice unit=nerdctl-" + hexA + ".scope"},
		{"/system.slice/containerd.service/kubepods-burstable-pod" + uidU + ".slice:cri-containerd:" + hexA, container, "3f2a9c0e5b7d kind=container container_id=" + hexA + " container_runtime=containerd pod_uid=" + uid + " qos_class=burstable slice=system.slice"},

		// Kubernetes, cgroupfs driver
		{"/kubepods", plain, "/kubepods kind=cgroup"},
		{"/kubepods/burstable", plain, "/kubepods/burstable kind=cgroup"},
		{"/kubepods/pod" + uid, pod, uid + " kind=pod pod_uid=" + uid + " qos_class=guaranteed"},
		{"/kubepods/burstable/pod" + uid, pod, uid + " kind=pod pod_uid=" + uid + " qos_class=burstable"},
		{"/kubepods/besteffort/pod" + uidS, pod, uidS + " kind=pod pod_uid=" + uidS + " qos_class=besteffort"},
		{"/kubepods/pod" + uid + "/" + hexA, container, "3f2a9c0e5b7d kind=container container_id=" + hexA + " pod_uid=" + uid + " qos_class=guaranteed"},
		{"/kubepods/burstable/pod" + uid + "/" + hexA + "/child", inner, ""},
		{"/kubepods/burstable/pod" + uid + "/crio-" + hexA, container, "3f2a9c0e5b7d kind=container container_id=" + hexA + " container_runtime=cri-o pod_uid=" + uid + " qos_class=burstable"},
		{"/kubepods/burstable/pod" + uid + "/crio-conmon-" + hexA, helper, ""},
		{"/kubepods/burstable/pod" + uid + "/kata_sandbox", container, "kata_sandbox kind=container container_name=kata_sandbox pod_uid=" + uid + " qos_class=burstable"},
		{"/kubelet/kubepods/besteffort/pod" + uid + "/" + hexA, container, "3f2a9c0e5b7d kind=container container_id=" + hexA + " pod_uid=" + uid + " qos_class=besteffort"},
		{"/docker/" + hexB + "/kubelet/kubepods/burstable/pod" + uid, pod, uid + " kind=pod pod_uid=" + uid + " qos_class=burstable"},
		{"/docker/" + hexB + "/kubelet/kubepods/burstable/pod" + uid + "/" + hexA, container, "3f2a9c0e5b7d kind=container container_id=" + hexA + " pod_uid=" + uid + " qos_class=burstable"},
		{"/elsewhere/pod" + uid, plain, "/elsewhere/pod" + uid + " kind=cgroup"},

		// Kubernetes, systemd driver
		{"/kubepods.slice/kubepods-burstable.slice", plain, "/kubepods.slice/kubepods-burstable.slice kind=cgroup slice=kubepods-burstable.slice"},
		{"/kubepods.slice/kubepods-pod" + uidU + ".slice", pod, uid + " kind=pod pod_uid=" + uid + " qos_class=guaranteed slice=kubepods-pod" + uidU + ".slice"},
		{"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + uidS + ".slice", pod, uidS + " kind=pod pod_uid=" + uidS + " qos_class=burstable slice=kubepods-burstable-pod" + uidS + ".slice"},
		{"/kubepods.slice/kubepods-pod" + uidU + ".slice/cri-containerd-" + hexA + ".scope", container, "3f2a9c0e5b7d kind=container container_id=" + hexA + " container_runtime=containerd pod_uid=" + uid + " qos_class=guaranteed slice=kubepods-pod" + uidU + ".slice unit=cri-containerd-" + hexA + ".scope"},
		{"/kubepods.slice/kubepods-pod" + uidU + ".slice/crio-" + hexA + ".scope/container", inner, ""},
		{"/kubepods.slice/kubepods-pod" + uidU + ".slice/crio-conmon-" + hexA + ".scope", helper, ""},
		{"/kubepods.slice/kubepods-pod" + uidU + ".slice/crio-conmon-" + hexA + ".scope/x", helper, ""},
		{"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod" + uidU + ".slice", pod, uid + " kind=pod pod_uid=" + uid + " qos_class=besteffort slice=kubelet-kubepods-besteffort-pod" + uidU + ".slice"},
		{"/system.slice/docker-" + hexB + ".scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod" + uidU + ".slice/cri-containerd-" + hexA + ".scope", container, "3f2a9c0e5b7d kind=container container_id=" + hexA + " container_runtime=containerd pod_uid=" + uid + " qos_class=guaranteed slice=kubelet-kubepods-pod" + uidU + ".slice unit=cri-containerd-" + hexA + ".scope"},

		// podman
		{"/machine.slice/libpod-" + hexA + ".scope", container, "3f2a9c0e5b7d kind=container container_id=" + hexA + " container_runtime=podman slice=machine.slice unit=libpod-" + hexA + ".scope"},
		{"/machine.slice/libpod-" + hexA + ".scope/container", inner, ""},
		{"/machine.slice/libpod-conmon-" + hexA + ".scope", helper, ""},
		{"/machine.slice/machine-libpod_pod_" + hexB + ".slice", pod, "0123456789ab kind=pod container_runtime=podman pod_uid=" + hexB + " slice=machine-libpod_pod_" + hexB + ".slice"},
		{"/machine.slice/machine-libpod_pod_" + hexB + ".slice/libpod-" + hexA + ".scope", container, "3f2a9c0e5b7d kind=container container_id=" + hexA + " container_runtime=podman pod_uid=" + hexB + " slice=machine-libpod_pod_" + hexB + ".slice unit=libpod-" + hexA + ".scope"},
		{"/libpod_parent/" + hexB + "/libpod-" + hexA, container, "3f2a9c0e5b7d kind=container container_id=" + hexA + " container_runtime=podman pod_uid=" + hexB},
		{"/libpod_parent/libpod-" + hexA, container, "3f2a9c0e5b7d kind=container container_id=" + hexA + " container_runtime=podman"},
		{"/libpod_parent/conmon", helper, ""},
		{"/system.slice/web.service/libpod-payload-" + hexA, container, "3f2a9c0e5b7d kind=container container_id=" + hexA + " container_runtime=podman slice=system.slice"},
		{"/system.slice/web.service/supervisor", inner, ""},

		// Mesos
		{"/mesos/" + uid, container, uid + " kind=container container_id=" + uid + " container_runtime=mesos"},
		{"/mesos/my-task.1", container, "my-task.1 kind=container container_name=my-task.1 container_runtime=mesos"},
		{"/mesos/" + uid + "/mesos/" + uid, container, uid + " kind=container container_id=" + uid + " container_runtime=mesos"},
		{"/mesos/" + uid + "/leaf", inner, ""},
		{"/docker/" + hexA + "/mesos/" + uid, inner, ""},

		// LXC, machines
		{"/lxc.payload.web", container, "web kind=container container_name=web container_runtime=lxc"},
		{"/lxc.payload.web/system.slice/nginx.service", inner, ""},
		{"/lxc.payload.web/docker/" + hexA, container, "3f2a9c0e5b7d kind=container container_id=" + hexA + " container_runtime=docker"},
		{"/lxc.monitor.web", helper, ""},
		{"/lxc.payload/web", container, "web kind=container container_name=web container_runtime=lxc"},
		{"/lxc/101/ns", inner, ""},
		{"/machine.slice/machine-debian.scope", container, "debian kind=container container_name=debian container_runtime=nspawn slice=machine.slice unit=machine-debian.scope"},
		{"/machine.slice/systemd-nspawn@debian.service", container, "debian kind=container container_name=debian container_runtime=nspawn slice=machine.slice unit=systemd-nspawn@debian.service"},
		{`/machine.slice/machine-qemu\x2d1\x2dvm1.scope`, container, `vm1 kind=vm container_name=vm1 container_runtime=libvirt slice=machine.slice unit=machine-qemu\x2d1\x2dvm1.scope`},
		{`/machine.slice/machine-qemu\x2d1\x2dvm1.scope/libvirt/vcpu0`, inner, ""},
		{`/machine.slice/machine-lxc\x2d2312\x2dweb.scope`, container, `web kind=container container_name=web container_runtime=libvirt slice=machine.slice unit=machine-lxc\x2d2312\x2dweb.scope`},

		// others
		{"/supervisor/" + hexA[:32], plain, "/supervisor/" + hexA[:32] + " kind=cgroup"},
		{"/batch/job-" + hexA, plain, "/batch/job-" + hexA + " kind=cgroup"},
		{"/a b\n\"c\"/ü", plain, "/a b\n\"c\"/ü kind=cgroup"},
		{"/\xff", plain, "/\xff kind=cgroup"},
		{"/.service", plain, "/.service kind=cgroup"},
	}
	for _, test := range tests {
		id := identify(test.path)
		if id.class != test.class {
			t.Errorf("%q is %s, want %s", test.path, classes[id.class], classes[test.class])
			continue
		}
		if id.class == inner || id.class == helper {
			continue
		}
		name, rest, _ := strings.Cut(test.want, " kind=")
		want := make(map[string]string)
		for _, label := range strings.Split("kind="+rest, " ") {
			name, value, _ := strings.Cut(label, "=")
			want[name] = value
		}
		if diff := cmp.Diff(want, id.labels()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", test.path, diff)
		}
		if id.name != name {
			t.Errorf("%q has the name %q, want %q", test.path, id.name, name)
		}
	}
}

func TestIdentifyOuter(t *testing.T) {
	for _, test := range []struct{ path, outer string }{
		{"/system.slice/nginx.service", ""},
		{"/system.slice/nginx.service/a/b", "/system.slice/nginx.service"},
		{"/docker/" + hexA + "/system.slice/x.service", "/docker/" + hexA},
		{"/docker/" + hexA + "/docker/" + hexB, "/docker/" + hexA},
		{"/docker/" + hexA + "/docker/" + hexB + "/init", "/docker/" + hexA + "/docker/" + hexB},
		{"/docker/" + hexB + "/kubelet/kubepods/pod" + uid + "/" + hexA, "/docker/" + hexB},
		{"/kubepods/pod" + uid + "/" + hexA, ""},
	} {
		if got := identify(test.path).outer; got != test.outer {
			t.Errorf("%q is inside %q, want %q", test.path, got, test.outer)
		}
	}
}

func FuzzIdentify(f *testing.F) {
	for _, seed := range []string{
		"", "/", "/init.scope", "/docker/" + hexA, "/docker/" + hexA + "/kubelet/kubepods/burstable/pod" + uid + "/" + hexB,
		"/kubepods.slice/kubepods-pod" + uidU + ".slice/crio-" + hexA + ".scope", "/mesos/a/mesos/b", "/lxc.payload.x/y",
		`/machine.slice/machine-qemu\x2d1\xff.scope`, "/\xff\xfe.service", "/x.slice:y:" + hexA, "/default/a",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		path = pathpkg.Clean("/" + path)
		id := identify(path)
		for name, value := range id.labels() {
			if value == "" || !utf8.ValidString(value) {
				t.Errorf("label %s has the value %q", name, value)
			}
		}
		if strings.Trim(id.containerID, "0123456789abcdef-") != "" {
			t.Errorf("container id %q", id.containerID)
		}
		if id.outer != "" {
			if !strings.HasPrefix(path, id.outer+"/") {
				t.Errorf("inside %q, which is not around it", id.outer)
			}
			if around := identify(id.outer); around.class != unit && around.class != container {
				t.Errorf("inside %q, which is %s", id.outer, classes[around.class])
			}
		}
		switch id.class {
		case inner:
			if id.outer == "" {
				t.Error("inside nothing")
			}
		case unit, container, pod:
			if id.kind == "" || id.name == "" {
				t.Errorf("kind %q, name %q", id.kind, id.name)
			}
			if id.class == container && id.containerID == "" && id.containerName == "" {
				t.Error("a container without id and name")
			}
		}
	})
}
