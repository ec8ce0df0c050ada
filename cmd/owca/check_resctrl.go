package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// features of resctrl: the flags of /proc/cpuinfo that stand for them (x86),
// the directory in info, and what of it tells the size of the feature
// (Documentation/arch/x86/resctrl.rst).
var features = []struct {
	name   string
	flags  []string // all of them
	dirs   []string // any of them: with CDP, L3 is split
	files  []string
	events []string // of mon_features; any of them
	with   string   // a mount option that it needs
}{
	{name: "L3 cache allocation", flags: []string{"cat_l3"}, dirs: []string{"L3", "L3CODE"}, files: []string{"num_closids", "cbm_mask", "min_cbm_bits"}},
	{name: "L3 code and data apart", flags: []string{"cat_l3", "cdp_l3"}, dirs: []string{"L3CODE"}, files: []string{"num_closids"}, with: "cdp"},
	{name: "memory bandwidth allocation", flags: []string{"mba"}, dirs: []string{"MB"}, files: []string{"num_closids", "min_bandwidth", "bandwidth_gran"}},
	{name: "cache occupancy", flags: []string{"cqm_occup_llc"}, dirs: []string{"L3_MON"}, files: []string{"num_rmids"}, events: []string{"llc_occupancy"}},
	{name: "memory bandwidth", flags: []string{"cqm_mbm_total"}, dirs: []string{"L3_MON"}, files: []string{"num_rmids"}, events: []string{"mbm_total_bytes"}},
	{name: "local memory bandwidth", flags: []string{"cqm_mbm_local"}, dirs: []string{"L3_MON"}, files: []string{"num_rmids"}, events: []string{"mbm_local_bytes"}},
}

const mountResctrl = "mount -t resctrl resctrl /sys/fs/resctrl (rw, for the user of the agent)"

// resctrl is what the hardware can tell and limit of caches and memory
// bandwidth. Only a mounted resctrl tells for sure.
func (c *checker) resctrl() []finding {
	list, dir := c.resctrlMount()
	flags, flagsErr := c.cpuFlags()
	for i := range features {
		ft := &features[i]
		f := finding{Name: ft.name}
		missing := slices.ContainsFunc(ft.flags, func(flag string) bool { return !slices.Contains(flags, flag) })
		switch {
		case dir != "":
			f = c.feature(i, dir)
			if f.Outcome == notSupported && ft.with != "" && flagsErr == nil && !missing {
				f.Detail, f.Advice = "not mounted with the option "+ft.with, "if that is wanted, umount, which ends all groups, and mount with -o "+ft.with
			}
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
		f.Name = ft.name
		list = append(list, f)
	}
	return list
}

// resctrlMount says whether the kernel has resctrl, and where it is mounted.
func (c *checker) resctrlMount() (list []finding, dir string) {
	const name = "resctrl"
	known, err := c.read("proc/filesystems")
	if err != nil {
		return failed(name, opaque(err), ""), ""
	}
	if !slices.Contains(strings.Fields(known), "resctrl") {
		return one(name, notSupported, "not in /proc/filesystems: no such hardware, or a kernel without CONFIG_X86_CPU_RESCTRL",
			"virtual machines have none; on Intel from Broadwell and AMD from Rome see the kernel parameter rdt="), ""
	}
	dir, err = c.mountOf("resctrl")
	switch {
	case err != nil:
		return failed(name, opaque(err), ""), ""
	case dir == "":
		return one(name, couldNotTell, "the kernel has it, but it is not mounted", mountResctrl), ""
	}
	return one(name, yes, dir, ""), dir
}

// opaque hides what err is, so that a file that must be there is not taken for
// an answer where it is missing.
func opaque(err error) error { return errors.New(err.Error()) }

// mountOf returns where a file system of this type is mounted last, "" if it
// is not. In a container the host's mounts are those of its first process.
func (c *checker) mountOf(fsType string) (string, error) {
	name := "proc/self/mounts"
	if filepath.Clean(c.root) != "/" {
		name = "proc/1/mounts"
	}
	text, err := c.read(name)
	if err != nil {
		return "", err
	}
	dir := ""
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) >= 3 && f[2] == fsType {
			dir = c.path(unescapeMount(f[1]))
		}
	}
	return dir, nil
}

// unescapeMount undoes the kernel's mangle_path.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#").Replace(s)
}

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

// feature looks into info of a mounted resctrl.
func (c *checker) feature(i int, mount string) finding {
	ft := &features[i]
	for _, name := range ft.dirs {
		dir := filepath.Join(mount, "info", name)
		_, err := os.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return failed("", err, "the user of the agent must be able to read "+mount)[0]
		}
		if len(ft.events) > 0 {
			b, err := os.ReadFile(filepath.Join(dir, "mon_features"))
			if err != nil {
				return failed("", opaque(err), "")[0]
			}
			if have := strings.Fields(string(b)); !slices.ContainsFunc(ft.events, func(e string) bool { return slices.Contains(have, e) }) {
				continue
			}
		}
		var detail []string
		for _, file := range ft.files {
			b, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				return failed("", opaque(err), "")[0]
			}
			detail = append(detail, file+" "+strings.TrimSpace(string(b)))
		}
		return finding{Outcome: yes, Detail: strings.Join(detail, ", ")}
	}
	// The mount itself is there, or all would seem to be missing.
	if _, err := os.Stat(filepath.Join(mount, "info")); err != nil {
		return finding{Outcome: couldNotTell, Detail: err.Error()}
	}
	return finding{Outcome: notSupported, Detail: "not in " + filepath.Join(mount, "info")}
}
