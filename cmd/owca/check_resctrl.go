package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/resctrl"
)

// features of resctrl: the flags of /proc/cpuinfo that stand for them (x86), and
// the directory in info (Documentation/arch/x86/resctrl.rst).
var features = []struct {
	name  string
	flags []string // all of them
	dirs  []string // any of them: with CDP, L3 is split
	event string   // of a monitoring resource
	with  string   // a mount option that it needs
}{
	{name: "L3 cache allocation", flags: []string{"cat_l3"}, dirs: []string{"L3", "L3CODE"}},
	{name: "L3 code and data apart", flags: []string{"cat_l3", "cdp_l3"}, dirs: []string{"L3CODE"}, with: "cdp"},
	{name: "L2 cache allocation", flags: []string{"cat_l2"}, dirs: []string{"L2", "L2CODE"}},
	{name: "memory bandwidth allocation", flags: []string{"mba"}, dirs: []string{"MB"}},
	{name: "cache occupancy", flags: []string{"cqm_occup_llc"}, dirs: []string{"L3_MON"}, event: "llc_occupancy"},
	{name: "memory bandwidth", flags: []string{"cqm_mbm_total"}, dirs: []string{"L3_MON"}, event: "mbm_total_bytes"},
	{name: "local memory bandwidth", flags: []string{"cqm_mbm_local"}, dirs: []string{"L3_MON"}, event: "mbm_local_bytes"},
}

const (
	howToMount   = "mount -t resctrl resctrl /sys/fs/resctrl, or resctrl_mount: true in the configuration of an agent that may (CAP_SYS_ADMIN)"
	noResctrl    = "not in /proc/filesystems: no such hardware, or a kernel without CONFIG_X86_CPU_RESCTRL (arm64: CONFIG_ARM64_MPAM)"
	whereResctrl = "virtual machines have none; on Intel from Broadwell and AMD from Rome see the kernel parameter rdt="
)

// resctrl is what the hardware can tell and limit of caches and memory
// bandwidth. Only a mounted resctrl tells for sure.
func (c *checker) resctrl() []finding {
	list, mount, info := c.resctrlMount()
	flags, flagsErr := c.cpuFlags()
	for i := range features {
		ft := &features[i]
		f := finding{Name: ft.name}
		missing := slices.ContainsFunc(ft.flags, func(flag string) bool { return !slices.Contains(flags, flag) })
		switch {
		case info != nil:
			f.Outcome, f.Detail = c.feature(i, mount, info)
			if f.Outcome == notSupported && ft.with != "" && flagsErr == nil && flags != nil && !missing {
				f.Detail, f.Advice = "not mounted with the option "+ft.with, "if that is wanted, umount, which ends all groups, and mount with -o "+ft.with
			}
		case mount.Dir != "":
			f.Outcome, f.Detail = couldNotTell, list[0].Detail
		case list[0].Outcome == notSupported:
			f.Outcome, f.Detail = notSupported, "needs resctrl"
			if flagsErr == nil && flags != nil && !missing {
				f.Detail += ", though the cpu has the feature: " + strings.Join(ft.flags, " ")
			}
		case flagsErr != nil:
			f.Outcome, f.Detail = couldNotTell, flagsErr.Error()
		case flags == nil:
			f.Outcome, f.Detail = couldNotTell, "resctrl is not mounted"
		case missing:
			f.Outcome, f.Detail = notSupported, "/proc/cpuinfo does not have the flag "+strings.Join(ft.flags, " ")
		default:
			f.Outcome, f.Detail = couldNotTell, "resctrl is not mounted; the cpu has the flag "+strings.Join(ft.flags, " ")
		}
		list = append(list, f)
	}
	if info == nil {
		return list
	}
	list = append(list, c.resctrlRights(mount)...)
	return append(list, c.resctrlBudget(mount, info)...)
}

// resctrlMount says whether the kernel has resctrl, where it is mounted, and what
// it can do; nil if that is not known. The first finding is about the mount.
func (c *checker) resctrlMount() ([]finding, resctrl.Mount, *resctrl.Info) {
	const name = "resctrl"
	mount, err := resctrl.FS{Root: c.root}.Mounted()
	switch {
	case errors.Is(err, resctrl.ErrNotMounted):
		return one(name, couldNotTell, "the kernel has it, but it is not mounted", howToMount), mount, nil
	case errors.Is(err, errors.ErrUnsupported):
		return one(name, notSupported, noResctrl, whereResctrl), mount, nil
	case err != nil:
		return failed(name, opaque(c.missing(err)), ""), mount, nil
	}
	info, err := resctrl.ReadInfo(mount.Dir, mount.Options)
	if err != nil {
		return failed(name, opaque(err), "the user of the agent must be able to read "+mount.Dir), mount, nil
	}
	detail := mount.Dir
	if len(mount.Options) > 0 {
		detail += " with " + strings.Join(mount.Options, ",")
	}
	if mount.ReadOnly {
		return one(name, yes, detail+", read-only", "mount -o remount,rw "+mount.Dir), mount, info
	}
	return one(name, yes, detail, ""), mount, info
}

// opaque hides what err is, so that a file that must be there is not taken for
// an answer where it is missing.
func opaque(err error) error { return errors.New(err.Error()) }

// cpuFlags returns the flags of the first cpu; nil where cpuinfo has none, as
// on arm64 for what resctrl is about.
func (c *checker) cpuFlags() ([]string, error) {
	text, err := c.read("proc/cpuinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "flags" {
			return strings.Fields(value), nil
		}
	}
	return nil, nil
}

// feature looks for it in a mounted resctrl.
func (c *checker) feature(i int, mount resctrl.Mount, info *resctrl.Info) (outcome, string) {
	ft := &features[i]
	for _, name := range ft.dirs {
		if ft.event == "" {
			if r := info.Resource(name); r != nil {
				return yes, describeResource(r)
			}
		} else if j := slices.IndexFunc(info.Monitoring, func(m resctrl.Monitoring) bool { return m.Name == name }); j >= 0 {
			m := &info.Monitoring[j]
			if slices.Contains(m.Events, ft.event) {
				return yes, describeMonitoring(m)
			}
			if len(m.Events) > 0 {
				continue
			}
		}
		// What is not known although its directory is there is not missing.
		dir := filepath.Join(mount.Dir, "info", name)
		if _, err := os.Stat(dir); err == nil {
			return couldNotTell, dir + " lacks the files that say what it can do"
		} else if !errors.Is(err, fs.ErrNotExist) {
			return couldNotTell, err.Error()
		}
	}
	return notSupported, "not in " + filepath.Join(mount.Dir, "info")
}

// describeResource names the files of info/ as they are there.
func describeResource(r *resctrl.Resource) string {
	if r.Kind == resctrl.Mask {
		text := fmt.Sprintf("num_closids %d, cbm_mask %x, min_cbm_bits %d", r.CLOSIDs, r.Bits, r.MinBits)
		if r.Shareable != 0 {
			text += fmt.Sprintf(", shareable_bits %x", r.Shareable)
		}
		if r.Sparse {
			text += ", sparse_masks"
		}
		return text
	}
	text := fmt.Sprintf("num_closids %d", r.CLOSIDs)
	switch r.Unit {
	case resctrl.MBps:
		text += ", in MB/s"
	case resctrl.Percent:
		text += fmt.Sprintf(", min_bandwidth %d, bandwidth_gran %d, in percent", r.Min, r.Granularity)
	default:
		text += fmt.Sprintf(", min_bandwidth %d, bandwidth_gran %d, in steps of the hardware", r.Min, r.Granularity)
	}
	if r.ThrottleMode != "" {
		text += ", thread_throttle_mode " + r.ThrottleMode
	}
	return text
}

func describeMonitoring(m *resctrl.Monitoring) string {
	text := fmt.Sprintf("num_rmids %d", m.RMIDs)
	if m.AssignMode != "" {
		text += ", mbm_assign_mode " + m.AssignMode
	}
	if len(m.Counters) > 0 {
		least := math.MaxInt
		for _, n := range m.Counters {
			least = min(least, n)
		}
		text += fmt.Sprintf(", num_mbm_cntrs %d", least)
	}
	return text
}

// resctrlRights says whether this user can make groups, and put tasks of others
// into them: a write to tasks is for euid 0 or the task's own user, whatever the
// capabilities (rdtgroup_move_task).
func (c *checker) resctrlRights(mount resctrl.Mount) []finding {
	const groups, tasks = "making groups", "moving tasks"
	if mount.ReadOnly {
		const detail = "it is mounted read-only"
		return append(one(groups, notSupported, detail, ""), one(tasks, notSupported, detail, "")...)
	}
	var list []finding
	if err := unix.Faccessat(unix.AT_FDCWD, mount.Dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		err = &fs.PathError{Op: "write", Path: mount.Dir, Err: err}
		list = one(groups, notSupported, err.Error(), "AmbientCapabilities=CAP_DAC_OVERRIDE in the unit, if that is wanted")
		if !errors.Is(err, fs.ErrPermission) {
			list[0].Outcome, list[0].Advice = couldNotTell, ""
		}
	} else {
		list = one(groups, yes, "this user may write "+mount.Dir, "")
	}
	held, err := c.self.Capabilities()
	switch {
	case os.Geteuid() == 0:
		return append(list, one(tasks, yes, "of every user: this is root", "")...)
	case err != nil:
		return append(list, failed(tasks, opaque(err), "")...)
	case held.Has(unix.CAP_SETUID):
		return append(list, one(tasks, yes, "of every user: CAP_SETUID lets one thread be root for it", "")...)
	}
	return append(list, one(tasks, notSupported, "only those of this user",
		"AmbientCapabilities=CAP_SETUID in the unit, if that is wanted")...)
}

// resctrlBudget is how many groups more there can be.
func (c *checker) resctrlBudget(mount resctrl.Mount, info *resctrl.Info) (list []finding) {
	const closids, rmids = "free CLOSIDs", "free RMIDs"
	tree, err := mount.Open()
	if err != nil {
		return append(failed(closids, opaque(err), ""), failed(rmids, opaque(err), "")...)
	}
	names, err := tree.Groups(nil)
	if err = errors.Join(err, tree.Close()); err != nil {
		return append(failed(closids, opaque(err), ""), failed(rmids, opaque(err), "")...)
	}
	controls := 0
	for _, n := range names {
		if n.Monitor == "" {
			controls++
		}
	}
	free := func(name, none string, used, of int, advice string) {
		f := finding{Name: name, Outcome: yes, Detail: fmt.Sprintf("%d of %d", max(0, of-used), of)}
		switch {
		case of == 0:
			f.Outcome, f.Detail = notSupported, none
		case used >= of:
			f.Advice = advice
		}
		list = append(list, f)
	}
	free(closids, "nothing can be allocated here", controls, info.CLOSIDs(), "owca resctrl shows who has them; no control group can be added")
	free(rmids, "nothing can be monitored here", len(names), info.RMIDs(), "owca resctrl shows who has them; tasks take turns in what is left")
	return list
}
