package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/google/go-cmp/cmp"

	"github.com/owca-project/owca/internal/hosttest"
	"github.com/owca-project/owca/internal/proc"
	"github.com/owca-project/owca/internal/resctrl"
)

func maskResource(name string, bits, shareable uint64, domains ...int) resctrlResource {
	return reportResource(&resctrl.Resource{Name: name, CLOSIDs: 16, Domains: domains, Bits: bits, MinBits: 1, Shareable: shareable})
}

// values are those of a resource by domain.
func values(resource string, mask bool, list ...uint64) (out []resctrlValue) {
	for i, v := range list {
		value := resctrlValue{Resource: resource, Domain: i}
		if mask {
			value.Mask = new(hexMask(v))
		} else {
			value.Bandwidth = &v
		}
		out = append(out, value)
	}
	return out
}

func usageOf(domain int, occupancy uint64, total, local float64) resctrlUsage {
	return resctrlUsage{Resource: "L3", Domain: domain, Occupancy: &occupancy, Total: new(uint64(total)), TotalRate: &total, Local: new(uint64(local)), LocalRate: &local}
}

// twoSockets is a report as of a server with two sockets.
func twoSockets() *resctrlReport {
	all := []string{"llc_occupancy", "mbm_total_bytes", "mbm_local_bytes"}
	return &resctrlReport{
		Mount:   resctrlMount{Dir: "/sys/fs/resctrl", Options: []string{}, Ours: true},
		CLOSIDs: &resctrlBudget{3, 8}, RMIDs: &resctrlBudget{5, 64}, Interval: 1,
		Resources: []resctrlResource{
			maskResource("L3", 0x7ff, 0x600, 0, 1),
			reportResource(&resctrl.Resource{
				Name: "MB", Kind: resctrl.Bandwidth, CLOSIDs: 8, Domains: []int{0, 1}, Unit: resctrl.Percent,
				Min: 10, Granularity: 10, Max: 100, Linear: true, ThrottleMode: "max",
			}),
		},
		Monitoring: []resctrlMonitoring{{Name: "L3_MON", RMIDs: 64, Events: all, MaxThreshold: 65536}},
		Groups: []resctrlGroup{
			{
				Name: "/", Mode: new("shareable"), Threads: new(5000), LookedAt: 4096,
				Cgroups:  []cgroupThreads{{"/", 90}, {"/system.slice/containerd.service", 61}, {"/init.scope", 1}},
				Schemata: append(values("L3", true, 0x7ff, 0x7ff), values("MB", false, 100, 100)...),
				Usage:    []resctrlUsage{usageOf(0, 1300<<10, 12e6, 1e6), usageOf(1, 0, 0, 0)},
			},
			{
				Name: "mon_groups/owca-x", Monitor: "owca-kubepods-burstable-pod6f1b-cri-containerd-0123456789abcdef.scope", Ours: true, Threads: new(4), LookedAt: 4,
				Cgroups: []cgroupThreads{{"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod6f1b.slice/cri-containerd-0123456789abcdef.scope", 4}},
				Usage:   []resctrlUsage{usageOf(0, 1<<20, 1e6, 1e6), {Resource: "L3", Domain: 1, Occupancy: new(uint64(5))}},
			},
			{
				Name: "gold", Control: "gold", Mode: new("exclusive"), Threads: new(3), LookedAt: 3, Cgroups: []cgroupThreads{{"/gold\x1b[31m", 3}},
				Schemata: append(values("L3", true, 0x7f0, 0x0f), values("MB", false, 50, 100)...),
				Usage:    []resctrlUsage{usageOf(0, 0, 0, 0), usageOf(1, 0, 0, 0)},
			},
			{
				Name: "owca-batch", Control: "owca-batch", Ours: true, Mode: new("shareable"), Cgroups: []cgroupThreads{},
				Schemata: append(values("L3", true, 0x0f), values("MB", false, 15, 100)...),
			},
			{Name: "owca-batch/mon_groups/p", Control: "owca-batch", Monitor: "p", Threads: new(0), Cgroups: []cgroupThreads{}},
		},
	}
}

func TestResctrlText(t *testing.T) {
	want := `
/sys/fs/resctrl  options: none; mounted by owca
CAN       CLOSIDs  DOMAINS  UNITS
limit L3       16  0-1      11 ways, mask 7ff, at least 1 without gaps, 600 shared with I/O
limit MB        8  0-1      percent, at least 10, in steps of 10, hyperthreads: max
CAN         RMIDs  EVENTS
monitor L3     64  llc_occupancy mbm_total_bytes mbm_local_bytes; an RMID is free again below 64K
3 of 8 CLOSIDs and 5 of 64 RMIDs in use

L3  GROUP
0   /             [▓▓█████████]  7ff  11 of 11 ways
    gold          [▓▓█████····]  7f0  7 of 11 ways
    owca-batch *  [░░·····████]  00f  4 of 11 ways
1   /             [▓▓█████████]  7ff  11 of 11 ways
    gold          [░░·····████]  00f  4 of 11 ways
    owca-batch *  -                -

MB  GROUP
0   /             [██████████]  100%  no limit
    gold          [█████·····]   50%
    owca-batch *  [██········]   15%
1   /             [██████████]  100%  no limit
    gold          [██████████]  100%  no limit
    owca-batch *  [██████████]  100%  no limit

GROUP                           MODE       THREADS  CGROUPS OF THE THREADS
/                               shareable     5000  / 90 and 2 more of 4096
  owca-kubepo…89abcdef.scope *                   4  …slice/cri-containerd-0123456789abcdef.scope 4
gold                            exclusive        3  /gold\x1b[31m 3
owca-batch *                    shareable        -
  p                                              0
* made by owca

USAGE                         OCCUPANCY           TOTAL/s           LOCAL/s
GROUP                               sum     0  1      sum     0  1      sum     0  1
/                                  1.3M  1.3M  0      11M   11M  0     977K  977K  0
  owca-kubep…9abcdef.scope *       1.0M  1.0M  5        -  977K  -        -  977K  -
gold                                  0     0  0        0     0  0        0     0  0
owca-batch *                          -     -  -        -     -  -        -     -  -
  p                                   -     -  -        -     -  -        -     -  -
`
	report := twoSockets()
	got := "\n" + string(report.text(false))
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s\n%s", d, got)
	}
	ascii := string(report.text(true))
	for _, line := range []string{
		"   gold          [--#####....]  7f0  7 of 11",
		"   gold          [%%#####....]  7f0  7 of 11",
	} {
		if strings.Contains(ascii, line) != strings.Contains(line, "%") {
			t.Errorf("%q in\n%s", line, ascii)
		}
	}
	for _, r := range ascii {
		if r > '~' {
			t.Fatalf("%q in\n%s", r, ascii)
		}
	}
}

// TestResctrlCompact: many domains and groups.
func TestResctrlCompact(t *testing.T) {
	const domains, groups = 16, 40
	report := &resctrlReport{
		Mount: resctrlMount{Dir: "/sys/fs/resctrl", Options: []string{"cdp"}}, Interval: 1,
		RMIDs:      &resctrlBudget{groups, 256},
		Monitoring: []resctrlMonitoring{{Name: "L3_MON", Events: []string{"llc_occupancy", "mbm_total_bytes", "mbm_local_bytes"}, AssignMode: new("mbm_event")}},
	}
	var ids []int
	for id := range domains {
		ids = append(ids, id)
	}
	report.Resources = []resctrlResource{
		maskResource("L3", 0xffffffff, 0, ids...),
		reportResource(&resctrl.Resource{Name: "MB", Kind: resctrl.Bandwidth, CLOSIDs: 16, Domains: ids, Min: 1, Granularity: 1, Max: 2048}),
	}
	for i := range groups {
		g := resctrlGroup{Control: strings.Repeat(fmt.Sprintf("group%d-", i), 30), Mode: new("shareable"), Threads: new(1 << 22), LookedAt: 4096}
		for id := range domains {
			mask, bandwidth := uint64(0xf), uint64(2048)
			if id == 7 && i == 3 {
				mask, bandwidth = 0xf0, 1
			}
			g.Schemata = append(g.Schemata, resctrlValue{Resource: "L3", Domain: id, Mask: new(hexMask(mask))}, resctrlValue{Resource: "MB", Domain: id, Bandwidth: &bandwidth})
			g.Usage = append(g.Usage, usageOf(id, uint64(i%2*id%2)<<30, 0, 0))
			g.Cgroups = append(g.Cgroups, cgroupThreads{"/" + strings.Repeat("日本", id*10), 1 << 20})
		}
		report.Groups = append(report.Groups, g)
	}
	for _, ascii := range []bool{false, true} {
		text := string(report.text(ascii))
		for line := range strings.Lines(text) {
			if w := ansi.StringWidth(strings.TrimSuffix(line, "\n")); w > pictureWidth {
				t.Errorf("%d wide: %s", w, line)
			}
		}
		// Domain 7 is drawn apart; the others once.
		for _, want := range []string{"\n0-6,8-15  ", "\n7         "} {
			if n := strings.Count(text, want); n != 2 {
				t.Errorf("%d times %q in\n%s", n, want, text)
			}
		}
		if n := strings.Count(text, "\n"); n > 2*2*groups+groups+groups*(1+domains)/2+20+groups {
			t.Errorf("%d lines", n)
		}
	}
}

func TestResctrlBandwidth(t *testing.T) {
	resource := func(u resctrl.Unit, most uint64) *resctrlResource {
		r := reportResource(&resctrl.Resource{Name: "MB", Kind: resctrl.Bandwidth, Unit: u, Min: 10, Granularity: 10, Max: most})
		return &r
	}
	p := picture{pictureStyle: asciiStyle}
	for _, c := range []struct {
		r     *resctrlResource
		value uint64
		want  string
	}{
		{resource(resctrl.Percent, 100), 100, "[##########]|100%|no limit"},
		{resource(resctrl.Percent, 100), 10, "[#.........]|10%|"},
		{resource(resctrl.Percent, 100), 1, "[#.........]|1%|"},
		{resource(resctrl.Percent, 100), 95, "[##########]|95%|"},
		{resource(resctrl.Steps, 2048), 1024, "[#####.....]|1024|"},
		{resource(resctrl.Steps, 2048), 2048, "[##########]|2048|no limit"},
		{resource(resctrl.Steps, 0), 100, "|100|"},
		{resource(resctrl.MBps, 1<<32-1), 5000, "|5000|"},
		{resource(resctrl.MBps, 1<<32-1), 1<<32 - 1, "[##########]|-|no limit"},
	} {
		if got := strings.Join(p.bandwidth(c.r, c.value), "|"); got != c.want {
			t.Errorf("%s %d: %s, want %s", *c.r.Unit, c.value, got, c.want)
		}
	}
}

func TestResctrlRanges(t *testing.T) {
	for want, ids := range map[string][]int{"-": nil, "0": {0}, "0-1": {0, 1}, "0-2,8,10-11": {0, 1, 2, 8, 10, 11}} {
		if got := ranges(ids); got != want {
			t.Errorf("%v: %s, want %s", ids, got, want)
		}
	}
}

// TestResctrlJSON: the keys, null for what is absent, and that masks survive.
func TestResctrlJSON(t *testing.T) {
	text, err := indentJSON(twoSockets())
	if err != nil {
		t.Fatal(err)
	}
	var document map[string]any
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	var walk func(string, any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for key, value := range v {
				keys[path+key] = true
				walk(path+key+".", value)
			}
		case []any:
			for _, value := range v {
				walk(path, value)
			}
		}
	}
	walk("", document)
	var got []string
	for key := range keys {
		got = append(got, key)
	}
	slices.Sort(got)
	want := strings.Fields(`closids closids.of closids.used
groups groups.cgroups groups.cgroups.path groups.cgroups.threads groups.control groups.mode groups.monitor groups.name groups.ours
groups.schemata groups.schemata.bandwidth groups.schemata.domain groups.schemata.mask groups.schemata.resource
groups.threads groups.threads_looked_at
groups.usage groups.usage.domain groups.usage.local_bytes groups.usage.local_bytes_per_second groups.usage.node
groups.usage.occupancy_bytes groups.usage.resource groups.usage.total_bytes groups.usage.total_bytes_per_second
interval_seconds
monitoring monitoring.assign_mode monitoring.counters_by_domain monitoring.events monitoring.max_threshold_occupancy_bytes monitoring.name monitoring.rmids
mount mount.dir mount.options mount.ours mount.read_only
resources resources.closids resources.domains resources.granularity resources.kind resources.linear resources.mask resources.max resources.min
resources.min_bits resources.name resources.shareable resources.sparse resources.throttle_mode resources.unit resources.ways
rmids rmids.of rmids.used`)
	slices.Sort(want)
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for _, want := range []string{`"mask": "0x7ff"`, `"usage": null`, `"local_bytes_per_second": null`, `"schemata": null`, `"mode": null`, `"threads": null`, `"options": []`, `"bandwidth": 50`} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

func TestResctrlRate(t *testing.T) {
	count := func(n uint64) resctrl.Count { return resctrl.Count{N: n, OK: true} }
	absent := resctrl.Count{}
	for _, c := range []struct {
		before, now resctrl.Count
		seconds     float64
		want        *float64
	}{
		{count(10), count(30), 2, new(10.0)},
		{count(10), count(10), 2, new(0.0)},
		{count(10), count(9), 2, nil},
		{absent, count(9), 2, nil},
		{count(9), absent, 2, nil},
		{count(1), count(2), 0, nil},
	} {
		if d := cmp.Diff(c.want, rate(c.before, c.now, c.seconds)); d != "" {
			t.Errorf("%v: %s", c, d)
		}
	}
}

func TestResctrlCgroups(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"0::/a/b\n", "/a/b"},
		{"3:cpu:/\n1:name=systemd:/x.service\n0::/\n", "/x.service"},
		{"3:cpu:/docker/1\n1:name=systemd:/x.service\n0::/y.service/z\n", "/y.service/z"},
		{"3:cpu:/docker/1\n1:name=systemd:/system.slice/x.service/y\n0::/y.service\n", "/system.slice/x.service/y"},
		{"0::/\n", "/"},
	} {
		root := t.TempDir()
		dir := filepath.Join(root, "proc/7")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup"), []byte(c.text), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := cgroupsOf(proc.FS{Root: root}, []int{7, 8, 7}) // 8 has ended
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]cgroupThreads{{c.want, 2}}, got); d != "" {
			t.Errorf("%q: %s", c.text, d)
		}
	}
}

func TestResctrlLocale(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want bool
	}{
		{nil, false},
		{map[string]string{"LANG": "C"}, false},
		{map[string]string{"LANG": "en_US.UTF-8"}, true},
		{map[string]string{"LANG": "en_US.UTF-8", "LC_ALL": "C"}, false},
		{map[string]string{"LANG": "C", "LC_CTYPE": "C.utf8"}, true},
	} {
		if got := localeUTF8(func(name string) string { return c.env[name] }); got != c.want {
			t.Errorf("%v: %v", c.env, got)
		}
	}
}

func TestResctrlCleanChoose(t *testing.T) {
	all := []resctrl.Name{
		{}, {Monitor: "foreign"}, {Monitor: "owca-a"}, {Control: "gold"}, {Control: "gold", Monitor: "owca-b"},
		{Control: "owca-x"}, {Control: "owca-x", Monitor: "owca-c"}, {Control: "owca-y"}, {Control: "owca-y", Monitor: "foreign"},
	}
	doomed, spared := (&resctrlCleanCommand{}).choose(all)
	if got, want := fmt.Sprint(doomed, spared), "[owca-x/mon_groups/owca-c owca-x gold/mon_groups/owca-b mon_groups/owca-a] [owca-y]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	doomed, spared = (&resctrlCleanCommand{All: true}).choose(all)
	if len(doomed) != len(all)-1 || spared != nil || doomed[0] != all[len(all)-1] {
		t.Error(doomed, spared)
	}
}

// resctrlFixture makes the files of a host with groups, which are empty
// directories, so that they can be removed.
func resctrlFixture(t *testing.T, groups ...string) (root string) {
	t.Helper()
	files := map[string]string{
		"proc/filesystems": "nodev\tresctrl\n", "proc/1/mountinfo": "29 18 0:25 / /sys/fs/resctrl rw,relatime - resctrl resctrl rw\n",
		"sys/fs/resctrl/info/L3_MON/num_rmids": "8\n", "sys/fs/resctrl/info/L3_MON/mon_features": "llc_occupancy\n", "sys/fs/resctrl/tasks": "",
	}
	for _, g := range groups {
		files["sys/fs/resctrl/"+g+"/"] = ""
	}
	return testHost(t, files).root
}

func TestResctrlCleanAsks(t *testing.T) {
	for _, c := range []struct {
		name     string
		command  resctrlCleanCommand
		answer   string
		terminal bool
		claimed  bool // by an agent
		code     int
		left     int // groups
		out      string
	}{
		{"ours", resctrlCleanCommand{}, "", false, false, exitOK, 2, "removed mon_groups/owca-x\n"},
		{"in use", resctrlCleanCommand{}, "", false, true, exitFailed, 3, ""},
		{"in use, all", resctrlCleanCommand{All: true}, "y\n", true, true, exitFailed, 3, ""},
		{"in use, forced", resctrlCleanCommand{Force: true}, "", false, true, exitOK, 2, "removed mon_groups/owca-x\n"},
		{"in use, dry", resctrlCleanCommand{DryRun: true}, "", false, true, exitOK, 3, "would remove mon_groups/owca-x\n"},
		{"dry", resctrlCleanCommand{DryRun: true, All: true}, "", false, false, exitOK, 3, "would remove mon_groups/theirs\nwould remove mon_groups/owca-x\n"},
		{"all, nobody to ask", resctrlCleanCommand{All: true}, "", false, false, exitUsage, 3, ""},
		{"all, no", resctrlCleanCommand{All: true}, "\n", true, false, exitFailed, 3, "mon_groups/theirs\nmon_groups/owca-x\nRemove these 2 groups? [y/N] "},
		{"all, end of file", resctrlCleanCommand{All: true}, "y", true, false, exitFailed, 3, "mon_groups/theirs\nmon_groups/owca-x\nRemove these 2 groups? [y/N] "},
		{"all, yes", resctrlCleanCommand{All: true}, "Yes\n", true, false, exitOK, 1, "mon_groups/theirs\nmon_groups/owca-x\nRemove these 2 groups? [y/N] removed mon_groups/owca-x\nremoved mon_groups/theirs\n"},
		{"all, told", resctrlCleanCommand{All: true, Yes: true}, "", false, false, exitOK, 1, "removed mon_groups/owca-x\nremoved mon_groups/theirs\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.command.HostRoot = resctrlFixture(t, "mon_groups/theirs", "mon_groups/owca-x")
			if c.claimed {
				agent, err := openResctrl(c.command.HostRoot)
				if err != nil {
					t.Fatal(err)
				}
				defer agent.Close()
				if err := agent.Claim(); err != nil {
					t.Fatal(err)
				}
			}
			var out, stderr bytes.Buffer
			err := c.command.clean(stdio{&out, &stderr}, strings.NewReader(c.answer), c.terminal)
			code := exitOK
			if err != nil {
				code = exitFailed
				if coded := (*exitError)(nil); errors.As(err, &coded) {
					code = coded.code
				}
			}
			if code != c.code {
				t.Errorf("exit code %d, want %d: %v", code, c.code, err)
			}
			if refused := errors.Is(err, resctrl.ErrInUse); refused != (c.claimed && code == exitFailed) {
				t.Error(err)
			}
			if d := cmp.Diff(c.out, out.String()); d != "" {
				t.Error(d)
			}
			tree, err := openResctrl(c.command.HostRoot)
			if err != nil {
				t.Fatal(err)
			}
			defer tree.Close()
			if left, err := tree.Groups(nil); err != nil || len(left) != c.left {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

// TestResctrlMonitorOnly: without control the kernel does not list the threads of
// the default group, which is not that it has none.
func TestResctrlMonitorOnly(t *testing.T) {
	root := resctrlFixture(t, "mon_data", "mon_groups/owca-x/mon_data")
	if err := os.WriteFile(filepath.Join(root, "sys/fs/resctrl/mon_groups/owca-x/tasks"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	tree, err := openResctrl(root)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	report, err := readResctrl(tree, proc.FS{Root: root}, 0)
	if report == nil {
		t.Fatal(err)
	}
	if g := report.Groups; len(g) != 2 || g[0].Threads != nil || g[1].Threads == nil || *g[1].Threads != 0 {
		t.Errorf("%+v", g)
	}
	text := string(report.text(true))
	if strings.Contains(text, "CLOSID") || !regexp.MustCompile(`(?m)^/ +-$`).MatchString(text) {
		t.Error(text)
	}
}

// TestResctrlShow is the real thing: three tasks in two groups.
func TestResctrlShow(t *testing.T) {
	dir := hosttest.Resctrl(t, "/L3", "/L3_MON")
	t.Setenv("LC_ALL", "C.UTF-8")
	for _, g := range []string{"gold", "owca-silver", "gold/mon_groups/owca-web", "mon_groups/owca-batch"} {
		if err := os.Mkdir(filepath.Join(dir, g), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0); err != nil {
			t.Fatal(err)
		}
	}
	write("gold/schemata", "L3:0=7f0;1=7f0\n")
	write("owca-silver/schemata", "L3:0=1f\n")
	if _, err := os.Stat(filepath.Join(dir, "info/MB")); err == nil {
		write("owca-silver/schemata", "MB:0=50\n")
	}
	var pids []string
	for _, task := range []struct{ name, group string }{{"web", "gold/mon_groups/owca-web"}, {"db", "gold"}, {"batch", "owca-silver"}} {
		c := hosttest.NewCgroup(t, nil, "resctrl-"+task.name)
		p := c.Start("spin 40s")
		pids = append(pids, strconv.Itoa(p.Pid))
		tids, err := os.ReadDir("/proc/" + strconv.Itoa(p.Pid) + "/task")
		if err != nil {
			t.Fatal(err)
		}
		for _, tid := range tids {
			if control, _, ok := strings.Cut(task.group, "/"); ok {
				write(control+"/tasks", tid.Name())
			}
			write(task.group+"/tasks", tid.Name())
		}
	}
	var out, stderr bytes.Buffer
	if code := execute([]string{"resctrl", "--interval", "500ms"}, &out, &stderr); code != exitOK || stderr.Len() > 0 {
		t.Fatalf("exit code %d: %s", code, &stderr)
	}
	t.Logf("\n%s", &out)
	for _, want := range []string{
		`(?m)^L3 +GROUP`, `(?m) gold +\[[█▓]{7}·{4}\] +7f0 +7 of 11 ways$`, `(?m) owca-silver \* +\[[·░]{6}█{5}\] +01f +5 of 11 ways$`,
		`(?m)^gold +shareable +[1-9]\d* +.*resctrl-db\S* [1-9]`, `(?m)^  owca-web \* +[1-9]\d* +\S*resctrl-web\S* [1-9]`, `(?m)^owca-silver \* +shareable +[1-9]\d* +\S*resctrl-batch\S* [1-9]`,
		`4 of \d+ RMIDs|5 of \d+ RMIDs`, `3 of \d+ CLOSIDs`,
	} {
		if !regexp.MustCompile(want).Match(out.Bytes()) {
			t.Errorf("nothing matches %s", want)
		}
	}

	out.Reset()
	if code := execute([]string{"resctrl", "--json", "--interval=1s"}, &out, &stderr); code != exitOK {
		t.Fatalf("exit code %d: %s", code, &stderr)
	}
	var report resctrlReport
	if err := json.Unmarshal(out.Bytes(), &report); err == nil {
		t.Error("masks are no numbers")
	}
	var document struct {
		Groups []struct {
			Name    string
			Threads int
			Usage   []struct {
				Occupancy *uint64  `json:"occupancy_bytes"`
				TotalRate *float64 `json:"total_bytes_per_second"`
			}
		}
	}
	if err := json.Unmarshal(out.Bytes(), &document); err != nil {
		t.Fatal(err)
	}
	busy := 0
	for _, g := range document.Groups {
		sum := 0.0
		for _, u := range g.Usage {
			if u.Occupancy == nil || u.TotalRate == nil {
				t.Errorf("%s: absent", g.Name)
				continue
			}
			sum += *u.TotalRate
		}
		if g.Name == "gold" || g.Name == "owca-silver" || g.Name == "gold/mon_groups/owca-web" {
			if sum == 0 || g.Threads == 0 {
				t.Errorf("%s: %d threads, %g bytes/s", g.Name, g.Threads, sum)
			}
			busy++
		}
	}
	if busy != 3 {
		t.Errorf("%d of 3 groups in %s", busy, &out)
	}

	// While an agent is running its groups stay.
	agent, err := openResctrl("/")
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Claim(); err != nil {
		t.Fatal(err)
	}
	stderr.Reset()
	if code := execute([]string{"resctrl", "clean"}, &out, &stderr); code != exitFailed || !strings.Contains(stderr.String(), "in use by ") {
		t.Errorf("exit code %d: %s", code, &stderr)
	}
	if err := agent.Close(); err != nil {
		t.Fatal(err)
	}

	out.Reset()
	if code := execute([]string{"resctrl", "clean"}, &out, &stderr); code != exitOK {
		t.Fatalf("exit code %d: %s", code, &stderr)
	}
	t.Logf("\n%s", &out)
	if got, want := out.String(), "removed mon_groups/owca-batch\nremoved gold/mon_groups/owca-web\nremoved owca-silver\n"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if _, err := os.Stat(filepath.Join(dir, "gold")); err != nil {
		t.Error(err)
	}
	out.Reset()
	if code := execute([]string{"resctrl", "clean", "--all", "--yes"}, &out, &stderr); code != exitOK || out.String() != "removed gold\n" {
		t.Errorf("exit code %d: %s%s", code, &out, &stderr)
	}
	for _, pid := range pids {
		if _, err := os.Stat("/proc/" + pid); err != nil {
			t.Error(err)
		}
	}
}

// TestResctrlShowInterval: no bandwidth without a second reading.
func TestResctrlShowInterval(t *testing.T) {
	hosttest.Resctrl(t, "/L3_MON")
	var out, stderr bytes.Buffer
	start := time.Now()
	if code := execute([]string{"resctrl", "--interval=0", "--json"}, &out, &stderr); code != exitOK {
		t.Fatalf("exit code %d after %v: %s", code, time.Since(start), &stderr)
	}
	if bytes.Contains(out.Bytes(), []byte(`_per_second": 0`)) || !bytes.Contains(out.Bytes(), []byte(`"interval_seconds": 0`)) {
		t.Errorf("%s", &out)
	}
}
