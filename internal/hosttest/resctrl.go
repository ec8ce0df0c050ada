package hosttest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

const resctrlDir = "/sys/fs/resctrl"

// metResctrl answers for "resctrl", and for what follows it: "/L3" (info/L3 is
// there), "/!L3" (it is not), "+mba_MBps" (an option of the mount), "-few" (at
// most 16 RMIDs), "-many" (at least 1024).
func metResctrl(feature string) error {
	if os.Geteuid() != 0 {
		return errors.New("not running as root")
	}
	options, err := resctrlOptions()
	if err != nil {
		return err
	}
	name, absent := strings.CutPrefix(feature, "/!")
	if !absent {
		name = strings.TrimPrefix(feature, "/")
	}
	switch {
	case feature == "":
		return nil
	case strings.HasPrefix(feature, "/"):
		_, err := os.Stat(filepath.Join(resctrlDir, "info", name))
		if absent == (err == nil) {
			return fmt.Errorf("info/%s: there is one: %t", name, err == nil)
		}
		return nil
	case strings.HasPrefix(feature, "+"):
		if !slices.Contains(options, feature[1:]) {
			return fmt.Errorf("mounted with %q", options)
		}
		return nil
	}
	b, err := os.ReadFile(filepath.Join(resctrlDir, "info/L3_MON/num_rmids"))
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return err
	}
	if feature == "-few" && n > 16 || feature == "-many" && n < 1024 || feature != "-few" && feature != "-many" {
		return fmt.Errorf("%d RMIDs", n)
	}
	return nil
}

func resctrlOptions() ([]string, error) {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 3 && f[1] == resctrlDir && f[2] == "resctrl" {
			return strings.Split(f[3], ","), nil
		}
	}
	return nil, errors.New("resctrl is not mounted at " + resctrlDir)
}

// Resctrl needs a mounted resctrl with all features named (see Need: the part
// after "resctrl") and returns where it is. Groups that the test makes are removed
// at its end, and the default group's schemata are what they were.
func Resctrl(t testing.TB, features ...string) string {
	t.Helper()
	Need(t, "resctrl")
	for _, f := range features {
		Need(t, "resctrl"+f)
	}
	before := resctrlGroups(t)
	schemata, err := os.ReadFile(filepath.Join(resctrlDir, "schemata"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, dir := range slices.Backward(resctrlGroups(t)) {
			if !slices.Contains(before, dir) {
				if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Errorf("leaving %s behind: %v", dir, err)
				}
			}
		}
		if len(schemata) > 0 {
			if err := os.WriteFile(filepath.Join(resctrlDir, "schemata"), schemata, 0); err != nil {
				t.Error(err)
			}
		}
	})
	return resctrlDir
}

// resctrlGroups lists control groups, each before its monitoring groups.
func resctrlGroups(t testing.TB) []string {
	t.Helper()
	below := func(dir string) (list []string) {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.IsDir() {
				list = append(list, filepath.Join(dir, e.Name()))
			}
		}
		return list
	}
	list := below(filepath.Join(resctrlDir, "mon_groups"))
	for _, dir := range below(resctrlDir) {
		switch filepath.Base(dir) {
		case "info", "mon_data", "mon_groups":
			continue
		}
		list = append(append(list, dir), below(filepath.Join(dir, "mon_groups"))...)
	}
	return list
}
