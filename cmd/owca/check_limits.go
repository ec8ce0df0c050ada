package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/act"
	"github.com/owca-project/owca/internal/cgroup"
)

// limits are the kinds of allocations that this user could make here.
func (c *checker) limits() []finding {
	tree, err := c.tree()
	var list []finding
	for _, kind := range owca.AllocationKinds {
		var f finding
		switch {
		case kind == owca.RDTGroup:
			f = c.limitGroups()
		case err != nil:
			f = failed("", err, "")[0]
		default:
			f = limitKind(tree, kind)
		}
		f.Name = string(kind)
		list = append(list, f)
	}
	return list
}

// limitControllers are, by kind, the controller as v1 and v2 call it, and the knob that
// makes the kind; cgroups have one of two.
var limitControllers = map[owca.AllocationKind]struct {
	v1, v2 string
	knobs  []cgroup.Knob
}{
	owca.CPUQuota:   {"cpu", "cpu", []cgroup.Knob{cgroup.CPUMax}},
	owca.CPUShares:  {"cpu", "cpu", []cgroup.Knob{cgroup.CPUSharesV1, cgroup.CPUWeightV2}},
	owca.CPUBurst:   {"cpu", "cpu", []cgroup.Knob{cgroup.CPUMaxBurst}},
	owca.CPUIdle:    {"cpu", "cpu", []cgroup.Knob{cgroup.CPUIdleFlag}},
	owca.CPUSetCPUs: {"cpuset", "cpuset", []cgroup.Knob{cgroup.CPUSetCPUList}},
	owca.CPUSetMems: {"cpuset", "cpuset", []cgroup.Knob{cgroup.CPUSetMemList}},
	owca.MemoryHigh: {"memory", "memory", []cgroup.Knob{cgroup.MemoryHighLimit}},
	owca.MemoryLow:  {"memory", "memory", []cgroup.Knob{cgroup.MemoryLowLimit}},
	owca.IOWeight:   {"blkio", "io", []cgroup.Knob{cgroup.IOWeightDefault}},
	owca.IOMax:      {"blkio", "io", []cgroup.Knob{cgroup.IOMaxLimits}},
}

// limitKind looks for a cgroup right below the top that can be limited so.
func limitKind(tree *cgroup.Tree, kind owca.AllocationKind) finding {
	of := limitControllers[kind]
	v1, v2 := of.v1, of.v2
	dir := cmp.Or(tree.V1(v1), tree.Unified())
	if dir == "" {
		return finding{Outcome: notSupported, Detail: "no hierarchy has the controller " + v1}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return failed("", err, "")[0]
	}
	cgroups := 0
	for _, e := range entries {
		const enough = 200
		if !e.IsDir() || cgroups == enough {
			continue
		}
		cgroups++
		control, err := tree.Control("/" + e.Name())
		if err != nil {
			continue // removed since
		}
		f, ok := limitOf(control, of.knobs)
		if err := control.Close(); err != nil {
			return failed("", err, "")[0]
		}
		if ok {
			return f
		}
	}
	switch {
	case tree.V1(v1) == "" && tree.Version() == cgroup.Hybrid:
		return finding{Outcome: notSupported, Detail: "no v1 hierarchy has the controller " + v1}
	case cgroups == 0:
		return finding{Outcome: couldNotTell, Detail: "there is no cgroup in " + dir + " to look at"}
	case (kind == owca.MemoryHigh || kind == owca.MemoryLow) && tree.V1(v1) != "":
		return finding{Outcome: notSupported, Detail: "only cgroup v2 has it, and the memory controller here is v1's"}
	case tree.V1(v1) == "":
		return finding{
			Outcome: notSupported, Detail: "no cgroup in " + dir + " has such a limit: " + v2 + " is not enabled for them, or this kernel has it not",
		}
	}
	return finding{Outcome: notSupported, Detail: "no cgroup in " + dir + " has such a limit: this kernel has it not"}
}

// limitOf is not ok if the cgroup has not what it takes.
func limitOf(control *cgroup.Control, knobs []cgroup.Knob) (f finding, ok bool) {
	for _, knob := range knobs {
		_, err := control.Get(knob)
		switch {
		case errors.Is(err, errors.ErrUnsupported) || errors.Is(err, cgroup.ErrGone):
			continue
		case err != nil:
			return failed("", err, "")[0], true
		}
		return writable(control.File(knob), filepath.Base(control.File(knob))), true
	}
	return finding{}, false
}

// limitGroups looks at resctrl.
func (c *checker) limitGroups() finding {
	info, err := allocatable(c.root)
	if err != nil {
		return failed("", err, "")[0]
	}
	var names []string
	for _, r := range info.Resources {
		names = append(names, r.Name)
	}
	if len(names) == 0 {
		return finding{Outcome: notSupported, Detail: "resctrl allocates nothing here"}
	}
	return writable(c.path("sys/fs/resctrl/schemata"), fmt.Sprintf("%s, in up to %d control groups", strings.Join(names, " "), info.CLOSIDs()))
}

// writable says whether this process may write a file, without doing so.
func writable(file, detail string) finding {
	err := unix.Faccessat(unix.AT_FDCWD, file, unix.W_OK, unix.AT_EACCESS)
	switch {
	case err == nil:
		return finding{Outcome: yes, Detail: detail}
	case errors.Is(err, fs.ErrPermission):
		return finding{Outcome: notSupported, Detail: detail + ": this user may not write it", Advice: "CAP_DAC_OVERRIDE, or root"}
	case errors.Is(err, unix.EROFS):
		return finding{Outcome: notSupported, Detail: detail + ": mounted read-only", Advice: "mount it for writing; in a unit, without ProtectControlGroups="}
	}
	return finding{Outcome: couldNotTell, Detail: fmt.Sprintf("%s: %v", file, err)}
}

// journal says whether what is changed could be written down, in the default state_dir.
func (c *checker) journal() []finding {
	const name = "journal"
	dir := stateDir("")
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		parent := dir
		for errors.Is(err, fs.ErrNotExist) && parent != "/" {
			parent = filepath.Dir(parent)
			_, err = os.Stat(parent)
		}
		f := writable(parent, dir+", which would be made")
		if f.Outcome == notSupported {
			f.Detail, f.Advice = dir+" is not there, and this user cannot make it", "StateDirectory=owca in the unit, or a state_dir that it may write"
		}
		f.Name = name
		return []finding{f}
	}
	leases, holder, _, err := act.ReadJournal(dir)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return one(name, couldNotTell, err.Error(), "look as the agent's user, or as root")
	case err != nil:
		return failed(name, err, "")
	case holder.PID != 0:
		return one(name, yes, fmt.Sprintf("%s: process %d sets limits, %d now, since %s", dir, holder.PID, len(leases), holder.Since.Format(time.DateTime)), "")
	case len(leases) > 0:
		return one(name, yes, fmt.Sprintf("%s: %s left by an agent that has ended", dir, countOf(len(leases), "limit")), "owca restore gives them back; so does the next agent")
	}
	f := writable(dir, dir)
	f.Name = name
	return []finding{f}
}
