package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func (c *checker) kernel() []finding {
	const name = "kernel"
	release, err := c.read("proc/sys/kernel/osrelease")
	if err != nil {
		return failed(name, err, "")
	}
	return one(name, yes, "Linux "+release, "")
}

func (c *checker) cpus() []finding {
	const name = "cpus"
	t, err := c.proc.Topology()
	if len(t.CPUs) == 0 {
		err = cmp.Or(err, errors.New("/sys/devices/system/cpu/online names no cpu"))
		return failed(name, c.missing(err), "")
	}
	var text []string
	add := func(n int, one, more string) {
		switch {
		case n == 1:
			text = append(text, "1 "+one)
		case n > 1:
			text = append(text, strconv.Itoa(n)+" "+more)
		}
	}
	add(t.Sockets, "socket", "sockets")
	add(t.Cores, "core", "cores")
	add(len(t.CPUs), "cpu", "cpus")
	for _, cache := range t.Caches {
		if cache.Level == 3 {
			text = append(text, cache.Name()+" "+string(appendBytes(nil, float64(cache.Bytes))))
		}
	}
	detail := strings.Join(text, ", ")
	if model, err := c.proc.CPUModel(); err == nil {
		detail = model + ": " + detail
	}
	if err != nil {
		return one(name, yes, fmt.Sprintf("%s; not all is known: %v", detail, err), "")
	}
	return one(name, yes, detail, "")
}

func (c *checker) numa() []finding {
	const name = "numa"
	online, err := c.read("sys/devices/system/node/online")
	if err != nil {
		return failed(name, err, "")
	}
	return one(name, yes, "nodes online: "+online, "")
}

func (c *checker) user() []finding {
	uid := os.Geteuid()
	detail := fmt.Sprintf("uid %d", uid)
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		detail += " (" + u.Username + ")"
	}
	if uid == 0 {
		return one("user", yes, detail, "measuring needs no root: owca run refuses to run as root without --root")
	}
	return one("user", yes, detail, "")
}

// wanted are the capabilities that the agent can make use of. Those of later
// versions are here, because it is now that a unit file is written.
var wanted = []struct {
	bit    int
	name   string
	use    string
	orElse int // a capability that includes it, 0 = none
}{
	{unix.CAP_PERFMON, "CAP_PERFMON", "performance counters of other users' tasks", unix.CAP_SYS_ADMIN},
	{unix.CAP_BPF, "CAP_BPF", "counting many tasks with few open files", unix.CAP_SYS_ADMIN},
	{unix.CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE", "writing limits of cgroups, and resctrl", 0},
	{unix.CAP_SETUID, "CAP_SETUID", "putting other users' tasks into resctrl groups", 0},
	{unix.CAP_SYS_RESOURCE, "CAP_SYS_RESOURCE", "opening more files than the hard limit", 0},
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "mounting resctrl (resctrl_mount: true); nothing else of the agent needs it", 0},
}

func (c *checker) capabilities() []finding {
	held, err := c.self.Capabilities()
	var list []finding
	for _, w := range wanted {
		f := finding{Name: w.name, Outcome: yes, Detail: "for " + w.use}
		switch {
		case err != nil:
			f.Outcome, f.Detail = couldNotTell, err.Error()
		case held.Has(w.bit):
		case w.orElse != 0 && held.Has(w.orElse):
			f.Detail += "; CAP_SYS_ADMIN, which this user has, includes it"
		default:
			f.Outcome = notSupported
			f.Detail = "this user lacks it; " + f.Detail
			if w.bit != unix.CAP_SYS_ADMIN {
				f.Advice = "AmbientCapabilities=" + w.name + " in the unit, if that is wanted"
			}
		}
		list = append(list, f)
	}
	return list
}

// filesPerCgroup is how many files measuring a cgroup keeps open at most, on a
// hybrid host: cpuacct.usage, cpuacct.stat, cpu.stat, two of memory, two of
// blkio, pids.current, and three of pressure.
const filesPerCgroup = 11

func (c *checker) fileLimit() []finding {
	const name = "open files"
	var limit unix.Rlimit // of a Go program: the soft limit is already raised
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return failed(name, err, "")
	}
	detail := "any number"
	if limit.Max != unix.RLIM_INFINITY {
		detail = strconv.FormatUint(limit.Max, 10) + " (the hard limit; the agent raises the soft one to it)"
	}
	tree, err := c.tree()
	if err != nil {
		return one(name, yes, detail, "") // the probes of cgroups tell
	}
	const many = 1000
	cgroups := tree.KeepFiles / filesPerCgroup
	detail += fmt.Sprintf("; enough for %d cgroups, with up to %d each; of more, some are measured more slowly", cgroups, filesPerCgroup)
	if cgroups >= many {
		return one(name, yes, detail, "")
	}
	return one(name, yes, detail, fmt.Sprintf("LimitNOFILE=%d in the unit is enough for %d cgroups", 2*filesPerCgroup*many, many))
}
