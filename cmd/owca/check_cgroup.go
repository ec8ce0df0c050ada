package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/owca-project/owca/internal/cgroup"
)

// controllers are what the measurements of a task come from. v2 counts the cpu
// time of a cgroup without any controller.
var controllers = []struct{ name, v1, v2, tells string }{
	{"cpu time", "cpuacct", "", "usage"},
	{"cpu limits", "cpu", "cpu", "quota, weight, throttling"},
	{"memory", "memory", "memory", "usage, limits, faults, OOM kills"},
	{"io", "blkio", "io", "bytes and operations"},
	{"pids", "pids", "pids", "processes and threads"},
	{"cpuset", "cpuset", "cpuset", "allowed cpus and NUMA nodes"},
}

func (c *checker) tree() (*cgroup.Tree, error) {
	tree, err := cgroup.FS{Root: c.root}.Tree()
	if errors.Is(err, errors.ErrUnsupported) {
		err = c.missing(err)
	}
	return tree, err
}

const mountCgroup2 = "mount -t cgroup2 none /sys/fs/cgroup (beside v1 hierarchies: /sys/fs/cgroup/unified); with systemd, boot with systemd.unified_cgroup_hierarchy=1"

// cgroups are the hierarchies, and which controllers the cgroups of tasks have.
func (c *checker) cgroups() []finding {
	tree, err := c.tree()
	if err != nil {
		list := failed("version", err, "mount one: "+mountCgroup2)
		for _, ctl := range controllers {
			list = append(list, finding{Name: ctl.name, Outcome: list[0].Outcome, Detail: "no hierarchy is known"})
		}
		return list
	}
	list := one("version", yes, tree.Version().String(), "")
	v2 := finding{Name: "v2 hierarchy", Outcome: notSupported, Detail: "not mounted"}
	v1 := finding{Name: "v1 hierarchies", Outcome: notSupported, Detail: "not mounted"}
	var text []string
	for _, h := range tree.Controllers() {
		if h.Version == cgroup.V2 {
			v2.Outcome = yes
			v2.Detail = fmt.Sprintf("%s with %s", h.Dir, cmp.Or(strings.Join(h.Controllers, " "), "no controller"))
			continue
		}
		text = append(text, h.Dir)
		if names := strings.Join(h.Controllers, ","); strings.TrimPrefix(names, "name=") != filepath.Base(h.Dir) {
			text = append(text, "("+names+")")
		}
	}
	if len(text) > 0 {
		v1.Outcome, v1.Detail = yes, strings.Join(text, " ")
	}
	list = append(list, v2, v1)
	for _, ctl := range controllers {
		f := c.controller(tree, ctl.v1, ctl.v2)
		f.Name = ctl.name
		if f.Outcome == yes {
			f.Detail = ctl.tells + ", from " + f.Detail
		}
		list = append(list, f)
	}
	return list
}

// controller says whether the cgroups below the top have what a controller
// tells. Like the agent it prefers v1, where the processes then are.
func (c *checker) controller(tree *cgroup.Tree, v1, v2 string) finding {
	unified := tree.Unified()
	switch {
	case v1 == "blkio" && tree.V1(v1) != "":
		return countsIO(tree.V1(v1))
	case tree.V1(v1) != "":
		return finding{Outcome: yes, Detail: tree.V1(v1)}
	case unified != "" && v2 == "":
		return finding{Outcome: yes, Detail: unified}
	case unified != "" && slices.ContainsFunc(tree.Controllers(), func(h cgroup.Hierarchy) bool {
		return h.Version == cgroup.V2 && slices.Contains(h.Controllers, v2)
	}):
		name := filepath.Join(unified, "cgroup.subtree_control")
		b, err := os.ReadFile(name)
		switch {
		case err != nil:
			return failed("", err, "")[0]
		case !slices.Contains(strings.Fields(string(b)), v2):
			return finding{
				Outcome: notSupported, Detail: "the kernel has it, but it is not enabled for the cgroups in " + unified,
				Advice: fmt.Sprintf("echo +%s > %s; with systemd, one of its …Accounting= settings does that", v2, name),
			}
		}
		return finding{Outcome: yes, Detail: unified}
	}
	f := finding{Outcome: notSupported, Detail: "no hierarchy has this controller"}
	switch known, enabled, err := c.compiledIn(v1); {
	case err != nil: // then there is no advice
	case !known:
		f.Detail += ", and this kernel does not know it"
	case !enabled:
		f.Detail += ": it is disabled"
		f.Advice = "boot with cgroup_enable=" + v1
	default:
		f.Advice = "mount -t cgroup -o " + v1 + " none DIR, or " + mountCgroup2
	}
	return f
}

// countsIO says whether the blkio hierarchy in dir counts: the top cgroup's file
// has lines only of disks whose throttle policy is on, which since Linux 6.10
// setting a limit does.
func countsIO(dir string) finding {
	name := filepath.Join(dir, "blkio.throttle.io_service_bytes")
	b, err := os.ReadFile(name)
	switch {
	case err != nil:
		return failed("", err, "")[0]
	case !strings.Contains(string(b), " Read "):
		return finding{
			Outcome: notSupported, Detail: "cgroup v1 does not count the I/O of any disk: " + name + " has no line of one",
			Advice: "since Linux 6.10 it counts once a limit is set on the disk, in any cgroup's blkio.throttle.read_bps_device; cgroup v2 always counts",
		}
	}
	return finding{Outcome: yes, Detail: dir}
}

// compiledIn looks a controller up in /proc/cgroups:
//
//	#subsys_name	hierarchy	num_cgroups	enabled
//	memory	4	17	1
func (c *checker) compiledIn(v1 string) (known, enabled bool, err error) {
	text, err := c.read("proc/cgroups")
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 4 && f[0] == v1 {
			return true, f[3] == "1", nil
		}
	}
	return false, false, err
}

const bootPSI = "boot with psi=1; the kernel needs CONFIG_PSI (Linux 4.20)"

func (c *checker) hostPressure() []finding {
	const name = "pressure of the host"
	for _, resource := range []string{"cpu", "memory", "io"} {
		if _, err := c.read("proc/pressure/" + resource); err != nil {
			f := failed(name, err, "")
			if f[0].Outcome == notSupported {
				f[0].Advice = bootPSI
			}
			return f
		}
	}
	return one(name, yes, c.path("proc/pressure"), "")
}

func (c *checker) cgroupPressure() []finding {
	const name = "pressure of cgroups"
	tree, err := c.tree()
	if err != nil {
		return failed(name, err, "")
	}
	dir := tree.Unified()
	if dir == "" {
		return one(name, notSupported, "no v2 hierarchy is mounted", mountCgroup2)
	}
	// Kernels differ in whether the top cgroup has the file.
	below, err := filepath.Glob(filepath.Join(escapeGlob(dir), "*", "cpu.pressure"))
	if err != nil {
		return failed(name, err, "")
	}
	var last error
	for _, file := range append(below, filepath.Join(dir, "cpu.pressure")) {
		b, err := os.ReadFile(file)
		switch {
		case err == nil && strings.HasPrefix(string(b), "some "):
			return one(name, yes, dir, "")
		case err == nil:
			last = fmt.Errorf("%s: %.80q makes no sense", file, b)
		default:
			last = err
		}
	}
	f := failed(name, last, "")
	if f[0].Outcome == notSupported {
		f[0].Advice = bootPSI
	}
	return f
}

// escapeGlob makes a pattern that matches the path only.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

func (c *checker) runQueue() []finding {
	const name = "run-queue wait"
	s, err := c.proc.OpenSchedstat()
	if err != nil {
		f := failed(name, c.missing(err), "")
		if f[0].Outcome == notSupported {
			f[0].Advice = "a kernel with CONFIG_SCHED_INFO; before Linux 5.14 boot with delayacct"
		}
		return f
	}
	if err := s.Close(); err != nil {
		return failed(name, err, "")
	}
	return one(name, yes, c.path("proc/TID/schedstat"), "")
}
