package proc

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/owca-project/owca/internal/hosttest"
)

func TestTopologyCaptured(t *testing.T) {
	l1 := []Cache{{1, "Data", 32 << 10}, {1, "Instruction", 32 << 10}}
	for name, want := range map[string]Topology{
		"epyc": {
			CPUs: []CPU{{0, 0, 0, 0}, {1, 0, 1, 0}}, Sockets: 1, Cores: 2, Nodes: []int{0},
			Caches: append(l1[:2:2], Cache{2, "Unified", 1 << 20}, Cache{3, "Unified", 32 << 20}),
		},
		"two-socket": {
			CPUs:    []CPU{{0, 0, 0, 0}, {1, 0, 0, 0}, {2, 0, 2, 0}, {3, 0, 2, 0}, {4, 1, 4, 1}, {5, 1, 4, 1}, {6, 1, 6, 1}, {7, 1, 6, 1}},
			Sockets: 2, Cores: 4, Nodes: []int{0, 1},
			Caches: append(l1[:2:2], Cache{2, "Unified", 4 << 20}, Cache{3, "Unified", 16 << 20}),
		},
		"two-socket-offline": {
			CPUs:    []CPU{{0, 0, 0, 0}, {1, 0, 0, 0}, {2, 0, 2, 0}, {4, 1, 4, 1}, {5, 1, 4, 1}, {7, 1, 7, 1}},
			Sockets: 2, Cores: 4, Nodes: []int{0, 1},
			Caches: append(l1[:2:2], Cache{2, "Unified", 4 << 20}, Cache{3, "Unified", 16 << 20}),
		},
		"arm64": {
			CPUs: []CPU{{0, 0, 0, 0}, {1, 0, 1, 0}, {2, 0, 2, 0}, {3, 0, 3, 0}}, Sockets: 1, Cores: 4, Nodes: []int{0},
		},
	} {
		fs := fixture(t, name)
		got, err := fs.Topology()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
		// The kernel's own ids agree with the siblings.
		ids := map[string]bool{}
		for _, cpu := range got.CPUs {
			id := ""
			for _, file := range []string{"physical_package_id", "die_id", "cluster_id", "core_id"} {
				n, err := fs.text(fmt.Sprintf("/sys/devices/system/cpu/cpu%d/topology/%s", cpu.ID, file))
				if err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Fatal(err)
				}
				id += n + "/"
			}
			ids[id] = true
		}
		if len(ids) != got.Cores {
			t.Errorf("%s: %d cores by siblings, by ids %v", name, got.Cores, ids)
		}
	}
}

func TestTopologyLarge(t *testing.T) {
	got, err := machine(t, 256).Topology()
	if err != nil {
		t.Fatal(err)
	}
	if len(got.CPUs) != 256 || got.Sockets != 2 || got.Cores != 128 || len(got.Nodes) != 2 {
		t.Errorf("%d cpus, %d sockets, %d cores, nodes %v", len(got.CPUs), got.Sockets, got.Cores, got.Nodes)
	}
	if want := (CPU{ID: 200, Socket: 1, Core: 72, Node: 1}); got.CPUs[200] != want {
		t.Errorf("%+v, want %+v", got.CPUs[200], want)
	}
}

// cpus makes a host with nothing but these CPUs: socket and siblings of each.
func cpus(t *testing.T, online string, each ...[2]string) FS {
	fs := FS{t.TempDir()}
	put(t, fs, "/sys/devices/system/cpu/online", online+"\n")
	for i, c := range each {
		dir := fmt.Sprintf("/sys/devices/system/cpu/cpu%d/topology/", i)
		put(t, fs, dir+"physical_package_id", c[0]+"\n")
		put(t, fs, dir+"thread_siblings_list", c[1]+"\n")
	}
	return fs
}

func TestTopologyOdd(t *testing.T) {
	// Two cores of two threads and four of one, no NUMA, no caches.
	hybrid := cpus(t, "0-7", [2]string{"0", "0-1"}, [2]string{"0", "0-1"}, [2]string{"0", "2-3"}, [2]string{"0", "2-3"},
		[2]string{"0", "4"}, [2]string{"0", "5"}, [2]string{"0", "6"}, [2]string{"0", "7"})
	got, err := hybrid.Topology()
	if err != nil || got.Sockets != 1 || got.Cores != 6 || got.Nodes != nil || got.Caches != nil || got.CPUs[3] != (CPU{3, 0, 2, -1}) {
		t.Errorf("hybrid: %+v, %v", got, err)
	}

	// An architecture that does not number its sockets.
	got, err = cpus(t, "0-1", [2]string{"-1", "0"}, [2]string{"-1", "1"}).Topology()
	if err != nil || got.Sockets != 0 || got.Cores != 2 || got.CPUs[1].Socket != -1 {
		t.Errorf("no sockets: %+v, %v", got, err)
	}

	// A kernel that knows nothing of topology.
	got, err = cpus(t, "0-1").Topology()
	if err != nil || got.Sockets != 0 || got.Cores != 0 || len(got.CPUs) != 2 {
		t.Errorf("no topology: %+v, %v", got, err)
	}

	// A CPU that went away meanwhile: no number is better than a wrong one.
	got, err = cpus(t, "0-1", [2]string{"0", "0"}).Topology()
	if !errors.Is(err, os.ErrNotExist) || got.Sockets != 0 || got.Cores != 0 {
		t.Errorf("one is missing: %+v, %v", got, err)
	}

	for file, content := range map[string]string{
		"/sys/devices/system/cpu/online":                             "0-\n",
		"/sys/devices/system/cpu/cpu1/topology/package_id":           "",
		"/sys/devices/system/cpu/cpu0/topology/thread_siblings_list": "zero\n",
		"/sys/devices/system/node/online":                            "none\n",
		"/sys/devices/system/cpu/cpu0/cache/index2/size":             "4096\n",
		"/sys/devices/system/cpu/cpu0/cache/index0/level":            "one\n",
	} {
		fs := fixture(t, "two-socket")
		put(t, fs, file, content)
		_, err := fs.Topology()
		if bad := content != ""; bad != (err != nil) || bad && !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", file, err)
		}
	}

	if _, err := (FS{t.TempDir()}).Topology(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without sysfs: %v", err)
	}
}

func TestCacheName(t *testing.T) {
	for c, want := range map[Cache]string{
		{1, "Data", 1}: "L1d", {1, "Instruction", 1}: "L1i", {2, "Unified", 1}: "L2", {3, "Unified", 1}: "L3",
	} {
		if got := c.Name(); got != want {
			t.Errorf("%+v is %s, want %s", c, got, want)
		}
	}
}

// This host, as lscpu sees it.
func TestTopologyLive(t *testing.T) {
	hosttest.Need(t, "lscpu")
	out, err := exec.Command("lscpu", "--parse=CPU,CORE,SOCKET").Output()
	if err != nil {
		t.Fatal(err)
	}
	n, cores, sockets := 0, map[string]bool{}, map[string]bool{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Split(strings.TrimSpace(line), ",")
		if _, err := strconv.Atoi(fields[0]); err != nil || len(fields) != 3 {
			continue
		}
		n++
		cores[fields[1]] = true
		sockets[fields[2]] = true
	}
	got, err := FS{}.Topology()
	if err != nil {
		t.Fatal(err)
	}
	if len(got.CPUs) != n || got.Cores != len(cores) || got.Sockets != len(sockets) {
		t.Errorf("%+v; lscpu: %d cpus, %d cores, %d sockets", got, n, len(cores), len(sockets))
	}
}
