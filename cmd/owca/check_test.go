package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/hosttest"
)

// testHost makes a host of files; a name that ends in "/" is a directory.
func testHost(t *testing.T, files map[string]string) *checker {
	t.Helper()
	root := t.TempDir()
	write := func(name, content string) {
		path := filepath.Join(root, name)
		dir := filepath.Dir(path)
		if strings.HasSuffix(name, "/") {
			dir = path
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if dir != path {
			if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("proc/version", "Linux\n")
	write("sys/kernel/", "")
	for name, content := range files {
		write(name, content)
	}
	return newChecker(root)
}

// brief is the outcome of findings, with their names where there are several.
func brief(list []finding) string {
	var b []string
	for _, f := range list {
		b = append(b, f.Name+": "+string(f.Outcome))
	}
	return strings.Join(b, "\n")
}

const cpuinfoRDT = "processor\t: 0\nmodel name\t: Xeon\nflags\t\t: fpu rdt_a cat_l3 mba cqm_occup_llc cqm_mbm_total\n"

func TestCheckResctrl(t *testing.T) {
	mounted := func(more map[string]string) map[string]string {
		files := map[string]string{
			"proc/filesystems":                  "nodev\tsysfs\nnodev\tresctrl\n\text4\n",
			"proc/1/mountinfo":                  "17 1 0:16 / /proc rw - proc proc rw\n29 1 0:25 / /mnt/res\\040ctrl rw - resctrl resctrl rw\n",
			"proc/cpuinfo":                      cpuinfoRDT,
			"mnt/res ctrl/info/last_cmd_status": "ok\n",
		}
		for name, content := range more {
			files[name] = content
		}
		return files
	}
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"no hardware", map[string]string{"proc/filesystems": "nodev\tsysfs\n", "proc/cpuinfo": "flags\t: fpu\n"}, `
resctrl: not supported
L3 cache allocation: not supported
L3 code and data apart: not supported
L2 cache allocation: not supported
memory bandwidth allocation: not supported
cache occupancy: not supported
memory bandwidth: not supported
local memory bandwidth: not supported`},
		{"not mounted", map[string]string{"proc/filesystems": "nodev\tresctrl\n", "proc/1/mountinfo": "\n", "proc/cpuinfo": cpuinfoRDT}, `
resctrl: could not tell
L3 cache allocation: could not tell
L3 code and data apart: not supported
L2 cache allocation: not supported
memory bandwidth allocation: could not tell
cache occupancy: could not tell
memory bandwidth: could not tell
local memory bandwidth: not supported`},
		{"not mounted, arm64", map[string]string{"proc/filesystems": "nodev\tresctrl\n", "proc/1/mountinfo": "\n", "proc/cpuinfo": "CPU part\t: 0xd0c\n"}, `
resctrl: could not tell
L3 cache allocation: could not tell
L3 code and data apart: could not tell
L2 cache allocation: could not tell
memory bandwidth allocation: could not tell
cache occupancy: could not tell
memory bandwidth: could not tell
local memory bandwidth: could not tell`},
		{"mounted", mounted(map[string]string{
			"mnt/res ctrl/info/L3/num_closids": "16\n", "mnt/res ctrl/info/L3/cbm_mask": "7ff\n", "mnt/res ctrl/info/L3/min_cbm_bits": "1\n",
			"mnt/res ctrl/info/L3_MON/num_rmids": "64\n", "mnt/res ctrl/info/L3_MON/mon_features": "llc_occupancy\nmbm_total_bytes\n",
		}), `
resctrl: yes
L3 cache allocation: yes
L3 code and data apart: not supported
L2 cache allocation: not supported
memory bandwidth allocation: not supported
cache occupancy: yes
memory bandwidth: yes
local memory bandwidth: not supported
making groups: yes
moving tasks: yes
free CLOSIDs: yes
free RMIDs: yes`},
		{"a file that must be there is missing", mounted(map[string]string{
			"mnt/res ctrl/info/L3/num_closids": "8\n", "mnt/res ctrl/info/L3_MON/num_rmids": "64\n",
		}), `
resctrl: yes
L3 cache allocation: could not tell
L3 code and data apart: not supported
L2 cache allocation: not supported
memory bandwidth allocation: not supported
cache occupancy: could not tell
memory bandwidth: could not tell
local memory bandwidth: could not tell
making groups: yes
moving tasks: yes
free CLOSIDs: not supported
free RMIDs: yes`},
		{"a file that cannot be read", mounted(map[string]string{
			"mnt/res ctrl/info/L3/cbm_mask": "none\n", "mnt/res ctrl/info/L3/num_closids": "8\n", "mnt/res ctrl/info/L3_MON/num_rmids": "64\n",
		}), `
resctrl: could not tell
L3 cache allocation: could not tell
L3 code and data apart: could not tell
L2 cache allocation: could not tell
memory bandwidth allocation: could not tell
cache occupancy: could not tell
memory bandwidth: could not tell
local memory bandwidth: could not tell`},
		{"read-only, without a free RMID", mounted(map[string]string{
			"proc/1/mountinfo":                      "29 1 0:25 / /mnt/res\\040ctrl ro,relatime - resctrl owca rw,mba_MBps\n",
			"mnt/res ctrl/info/L3_MON/num_rmids":    "1\n",
			"mnt/res ctrl/info/L3_MON/mon_features": "llc_occupancy\nmbm_total_bytes\nmbm_local_bytes\n",
		}), `
resctrl: yes
L3 cache allocation: not supported
L3 code and data apart: not supported
L2 cache allocation: not supported
memory bandwidth allocation: not supported
cache occupancy: yes
memory bandwidth: yes
local memory bandwidth: yes
making groups: not supported
moving tasks: not supported
free CLOSIDs: not supported
free RMIDs: yes`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if os.Geteuid() != 0 {
				c.want = strings.ReplaceAll(c.want, "moving tasks: yes", "moving tasks: not supported")
			}
			if d := cmp.Diff(c.want, "\n"+brief(testHost(t, c.files).resctrl())); d != "" {
				t.Error(d)
			}
		})
	}
	list := testHost(t, mounted(map[string]string{
		"mnt/res ctrl/info/L3/num_closids": "16\n", "mnt/res ctrl/info/L3/cbm_mask": "7ff\n", "mnt/res ctrl/info/L3/min_cbm_bits": "1\n",
	})).resctrl()
	if got, want := list[1].Detail, "num_closids 16, cbm_mask 7ff, min_cbm_bits 1"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestCheckCgroups(t *testing.T) {
	for _, c := range []struct {
		name   string
		files  map[string]string
		want   string
		advice string // of the memory controller
	}{
		{"v2", map[string]string{
			"sys/fs/cgroup/cgroup.controllers":     "cpuset cpu io memory pids\n",
			"sys/fs/cgroup/cgroup.subtree_control": "cpu pids\n",
		}, `
version: yes
v2 hierarchy: yes
v1 hierarchies: not supported
cpu time: yes
cpu limits: yes
memory: not supported
io: not supported
pids: yes
cpuset: not supported`, "echo +memory > "},
		{"v1", map[string]string{
			"proc/cgroups":                                        "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t2\t1\t1\nmemory\t0\t1\t0\npids\t0\t1\t1\n",
			"sys/fs/cgroup/cpu,cpuacct/cgroup.procs":              "1\n",
			"sys/fs/cgroup/blkio/cgroup.procs":                    "1\n",
			"sys/fs/cgroup/systemd/cgroup.procs":                  "1\n",
			"sys/fs/cgroup/blkio/blkio.throttle.io_service_bytes": "8:0 Read 4096\nTotal 4096\n",
		}, `
version: yes
v2 hierarchy: not supported
v1 hierarchies: yes
cpu time: yes
cpu limits: yes
memory: not supported
io: yes
pids: not supported
cpuset: not supported`, "boot with cgroup_enable=memory"},
		{"v1 without throttle limits", map[string]string{
			"proc/cgroups":                                        "memory\t0\t1\t0\n",
			"sys/fs/cgroup/blkio/cgroup.procs":                    "1\n",
			"sys/fs/cgroup/blkio/blkio.throttle.io_service_bytes": "Total 0\n",
		}, `
version: yes
v2 hierarchy: not supported
v1 hierarchies: yes
cpu time: not supported
cpu limits: not supported
memory: not supported
io: not supported
pids: not supported
cpuset: not supported`, "boot with cgroup_enable=memory"},
		{"none", nil, `
version: not supported
cpu time: not supported
cpu limits: not supported
memory: not supported
io: not supported
pids: not supported
cpuset: not supported`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			list := testHost(t, c.files).cgroups()
			if d := cmp.Diff(c.want, "\n"+brief(list)); d != "" {
				t.Error(d)
			}
			for _, f := range list {
				if f.Name == "memory" && !strings.HasPrefix(f.Advice, c.advice) {
					t.Errorf("advice for memory: %q", f.Advice)
				}
			}
		})
	}
}

func TestCheckFiles(t *testing.T) {
	type probe = func(*checker) []finding
	for _, c := range []struct {
		name   string
		probe  probe
		files  map[string]string
		want   outcome
		detail string
	}{
		{"kernel", (*checker).kernel, map[string]string{"proc/sys/kernel/osrelease": "6.1.0\n"}, yes, "Linux 6.1.0"},
		{"no NUMA", (*checker).numa, nil, notSupported, ""},
		{"NUMA", (*checker).numa, map[string]string{"sys/devices/system/node/online": "0-3\n"}, yes, "nodes online: 0-3"},
		{"no PSI", (*checker).hostPressure, nil, notSupported, ""},
		{"PSI", (*checker).hostPressure, map[string]string{"proc/pressure/cpu": "", "proc/pressure/memory": "", "proc/pressure/io": ""}, yes, ""},
		{"v2 without PSI", (*checker).cgroupPressure, map[string]string{"sys/fs/cgroup/cgroup.controllers": "cpu\n"}, notSupported, ""},
		{"v2 with PSI", (*checker).cgroupPressure, map[string]string{
			"sys/fs/cgroup/cgroup.controllers": "cpu\n", "sys/fs/cgroup/a.slice/cpu.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"}, yes, ""},
		{"v2 with odd PSI", (*checker).cgroupPressure, map[string]string{
			"sys/fs/cgroup/cgroup.controllers": "cpu\n", "sys/fs/cgroup/cpu.pressure": "huh\n"}, couldNotTell, ""},
		{"v1 only", (*checker).cgroupPressure, map[string]string{"sys/fs/cgroup/cpu/cgroup.procs": "1\n"}, notSupported, "no v2 hierarchy is mounted"},
		{"no BTF", (*checker).btf, nil, notSupported, ""},
		{"BTF", (*checker).btf, map[string]string{"sys/kernel/btf/vmlinux": "\x9f\xeb"}, yes, ""},
		{"schedstat off", (*checker).runQueue, map[string]string{"proc/self/schedstat": "0 0 0\n"}, notSupported, ""},
		{"no schedstat", (*checker).runQueue, map[string]string{"proc/self/stat": "1\n"}, notSupported, ""},
		{"schedstat", (*checker).runQueue, map[string]string{"proc/self/schedstat": "1 2 3\n"}, yes, ""},
		{"no perf", (*checker).perfParanoid, nil, notSupported, ""},
		{"paranoid", (*checker).perfParanoid, map[string]string{"proc/sys/kernel/perf_event_paranoid": "-1\n"}, yes, "-1: nothing is kept from anybody"},
		{"paranoid nonsense", (*checker).perfParanoid, map[string]string{"proc/sys/kernel/perf_event_paranoid": "x\n"}, couldNotTell, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			list := c.probe(testHost(t, c.files))
			if len(list) != 1 || list[0].Outcome != c.want || c.detail != "" && list[0].Detail != c.detail {
				t.Errorf("%+v, want %s %q", list, c.want, c.detail)
			}
			if list[0].Outcome != yes && list[0].Detail == "" {
				t.Error("no reason is given")
			}
		})
	}
}

// TestCheckWrongRoot: where there is no /proc, nothing is "not supported".
func TestCheckWrongRoot(t *testing.T) {
	c := newChecker(t.TempDir())
	for name, probe := range map[string]func() []finding{
		"kernel": c.kernel, "cpus": c.cpus, "numa": c.numa, "cgroups": c.cgroups, "hostPressure": c.hostPressure,
		"cgroupPressure": c.cgroupPressure, "runQueue": c.runQueue, "perfParanoid": c.perfParanoid, "btf": c.btf, "resctrl": c.resctrl,
	} {
		for _, f := range probe() {
			if f.Outcome != couldNotTell {
				t.Errorf("%s: %+v", name, f)
			}
		}
	}
}

func TestFailed(t *testing.T) {
	for _, c := range []struct {
		err  error
		want outcome
	}{
		{unix.EPERM, couldNotTell}, {unix.EACCES, couldNotTell}, {unix.EIO, couldNotTell}, {errors.New("x"), couldNotTell},
		{unix.ENOENT, notSupported}, {unix.ENOSYS, notSupported}, {unix.EOPNOTSUPP, notSupported},
		{&fs.PathError{Op: "open", Path: "x", Err: unix.ENOENT}, notSupported},
	} {
		if got := failed("x", os.NewSyscallError("call", c.err), "")[0].Outcome; got != c.want {
			t.Errorf("%v: %s, want %s", c.err, got, c.want)
		}
	}
}

// TestCheckHere compares with what this host is otherwise known to have.
func TestCheckHere(t *testing.T) {
	found := map[string]outcome{}
	for _, f := range newChecker("/").all() {
		switch f.Outcome {
		case yes, notSupported, couldNotTell:
		default:
			t.Errorf("outcome %q", f.Outcome)
		}
		key := f.Section + "/" + f.Name
		if _, twice := found[key]; twice || f.Section == "" || f.Name == "" || f.Detail == "" {
			t.Errorf("%+v", f)
		}
		found[key] = f.Outcome
	}
	is := func(name string, want bool) {
		t.Helper()
		o := found[name]
		if want != (o == yes) {
			t.Errorf("%s: %q", name, o)
		}
	}
	is("host/kernel", true)
	is("host/cpus", true)
	is("agent/open files", true)
	hierarchies := hosttest.Hierarchies()
	v1, v2 := 0, 0
	for _, h := range hierarchies {
		if h.Type == "cgroup2" {
			v2++
		} else {
			v1++
		}
	}
	is("cgroups/version", v1+v2 > 0)
	if v1+v2 > 0 {
		is("cgroups/v1 hierarchies", v1 > 0)
		is("cgroups/v2 hierarchy", v2 > 0)
	}
	_, err := os.ReadFile("/proc/pressure/cpu")
	is("waiting/pressure of the host", err == nil)
	_, err = os.Stat("/sys/kernel/btf/vmlinux")
	is("bpf/btf", err == nil)
	if os.Geteuid() == 0 {
		_, err = os.Stat("/sys/fs/resctrl/schemata")
		is("resctrl/resctrl", err == nil)
	}
}

func TestCheckOutput(t *testing.T) {
	list := []finding{
		{"a", "kernel", yes, "Linux 6", ""},
		{"a", "numa", notSupported, "none\x1b[31m", ""},
		{"b", "bpf", couldNotTell, "EPERM", "give this user CAP_BPF"},
	}
	want := `
a
  kernel  yes             Linux 6
  numa    not supported   none\x1b[31m

b
  bpf     could not tell  EPERM
          → give this user CAP_BPF
`
	if d := cmp.Diff(want, "\n"+string(appendFindings(nil, list))); d != "" {
		t.Error(d)
	}

	var out bytes.Buffer
	if err := (&checkCommand{JSON: true, HostRoot: "/"}).Run(stdio{out: &out}); err != nil {
		t.Fatal(err)
	}
	var objects []map[string]string // every key a string
	if err := json.Unmarshal(out.Bytes(), &objects); err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		for _, key := range []string{"section", "name", "outcome", "detail", "advice"} {
			if _, ok := o[key]; !ok || len(o) != 5 {
				t.Fatalf("keys of %v", o)
			}
		}
	}

	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	if err := (&checkCommand{HostRoot: "/"}).Run(stdio{out: full}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("into a full disk: %v", err)
	}
	var usage *exitError
	if err := (&checkCommand{HostRoot: "/does/not/exist"}).Run(stdio{}); !errors.As(err, &usage) || usage.code != exitUsage {
		t.Errorf("with a wrong root: %v", err)
	}
}
