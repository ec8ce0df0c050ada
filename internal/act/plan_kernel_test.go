package act

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/owca-project/owca/internal/cgroup"
)

// fakeKernel is a hierarchy of cgroups that refuses what the kernel does. It is told
// independently of what the plan knows of that.
type fakeKernel struct {
	v1      bool
	cpus    int
	cgroups map[string]map[cgroup.Knob]string
}

var errRefused = errors.New("invalid argument")

func (f *fakeKernel) clone() *fakeKernel {
	c := *f
	c.cgroups = make(map[string]map[cgroup.Knob]string, len(f.cgroups))
	for path, values := range f.cgroups {
		c.cgroups[path] = maps.Clone(values)
	}
	return &c
}

func (f *fakeKernel) make(path string) {
	values := map[cgroup.Knob]string{
		cgroup.CPUMax: "max 100000", cgroup.CPUMaxBurst: "0", cgroup.CPUIdleFlag: "0",
		cgroup.CPUSetCPUList: "", cgroup.CPUSetMemList: "", cgroup.IOWeightDefault: "100", cgroup.IOMaxLimits: "",
	}
	if f.v1 {
		values[cgroup.CPUSharesV1] = "1024"
		values[cgroup.CPUSetCPUList] = fmt.Sprintf("0-%d", f.cpus-1)
		values[cgroup.CPUSetMemList] = "0-1"
	} else {
		values[cgroup.CPUWeightV2] = "100"
		values[cgroup.MemoryHighLimit], values[cgroup.MemoryLowLimit] = "max", "0"
	}
	f.cgroups[path] = values
}

// bandwidth returns quota and period; -1 is no quota.
func bandwidth(value string) (quota, period int64) {
	q, p, _ := strings.Cut(value, " ")
	period, _ = strconv.ParseInt(p, 10, 64)
	if quota = -1; q != "max" {
		quota, _ = strconv.ParseInt(q, 10, 64)
	}
	return quota, period
}

// schedulable is tg_cfs_schedulable_down of cgroup v1, from the root.
func (f *fakeKernel) schedulable() error {
	effective := map[string]int64{"": math.MaxInt64}
	for _, path := range slices.Sorted(maps.Keys(f.cgroups)) {
		parent := effective[path[:strings.LastIndex(path, "/")]]
		quota, period := bandwidth(f.cgroups[path][cgroup.CPUMax])
		ratio := int64(math.MaxInt64)
		if quota >= 0 {
			ratio = quota << 20 / period
		}
		if ratio == math.MaxInt64 {
			ratio = parent
		} else if parent != math.MaxInt64 && ratio > parent {
			return fmt.Errorf("%w: %s has %d of its parent's %d", errRefused, path, ratio, parent)
		}
		effective[path] = ratio
	}
	return nil
}

// members expands a list.
func members(list string) map[int]bool {
	m := map[int]bool{}
	if list == "" {
		return m
	}
	for item := range strings.SplitSeq(list, ",") {
		a, b, ok := strings.Cut(item, "-")
		if !ok {
			b = a
		}
		first, _ := strconv.Atoi(a)
		last, _ := strconv.Atoi(b)
		for i := first; i <= last; i++ {
			m[i] = true
		}
	}
	return m
}

func subset(a, b map[int]bool) bool {
	for m := range a {
		if !b[m] {
			return false
		}
	}
	return true
}

// nested is what cpusets of v1 are: validate_change_legacy.
func (f *fakeKernel) nested(k cgroup.Knob) error {
	for path, values := range f.cgroups {
		parent := f.cgroups[path[:strings.LastIndex(path, "/")]]
		if parent != nil && !subset(members(values[k]), members(parent[k])) {
			return fmt.Errorf("%w: %s has %s, its parent %s", errRefused, path, values[k], parent[k])
		}
	}
	return nil
}

// set writes a knob, or leaves everything as it was.
func (f *fakeKernel) set(path string, k cgroup.Knob, value string) (err error) {
	values := f.cgroups[path]
	old, ok := values[k]
	if !ok {
		return fmt.Errorf("%s has no %v", path, k)
	}
	values[k] = value
	defer func() {
		if err != nil {
			values[k] = old
			err = fmt.Errorf("%s: %v=%q: %w", path, k, value, err)
		}
	}()
	idle := values[cgroup.CPUIdleFlag] == "1"
	n, notNumber := strconv.ParseUint(value, 10, 63)
	switch k {
	case cgroup.CPUMax, cgroup.CPUMaxBurst:
		quota, period := bandwidth(values[cgroup.CPUMax])
		if quota >= 0 && quota < 1000 || period < 1000 || period > 1000000 {
			return errRefused
		}
		burst, err := strconv.ParseInt(values[cgroup.CPUMaxBurst], 10, 64)
		if err != nil || quota >= 0 && burst > quota {
			return fmt.Errorf("%w: burst %d, quota %d", errRefused, burst, quota)
		}
		if f.v1 {
			return f.schedulable()
		}
	case cgroup.CPUSharesV1:
		if idle || notNumber != nil || n < 2 || n > 1<<18 {
			return errRefused
		}
	case cgroup.CPUWeightV2:
		if idle || notNumber != nil || n < 1 || n > 10000 {
			return errRefused
		}
	case cgroup.CPUIdleFlag:
		if notNumber != nil || n > 1 {
			return errRefused
		}
		if value != old {
			weights := map[cgroup.Knob][2]string{cgroup.CPUSharesV1: {"1024", "3"}, cgroup.CPUWeightV2: {"100", "0"}}
			for k, w := range weights {
				if _, ok := values[k]; ok {
					values[k] = w[n]
				}
			}
		}
	case cgroup.CPUSetCPUList, cgroup.CPUSetMemList:
		if f.v1 && value == "" {
			return errors.New("no space left on device")
		}
		for m := range members(value) {
			if k == cgroup.CPUSetCPUList && m >= f.cpus || k == cgroup.CPUSetMemList && m > 1 {
				return errRefused
			}
		}
		if f.v1 {
			return f.nested(k)
		}
	case cgroup.MemoryHighLimit, cgroup.MemoryLowLimit:
		if value != "max" && notNumber != nil {
			return errRefused
		}
	case cgroup.IOWeightDefault:
		if notNumber != nil || n < 1 || n > 10000 {
			return errRefused
		}
	case cgroup.IOMaxLimits:
		for line := range strings.Lines(value) {
			var major, minor int
			var r, w, ri, wi string
			if _, err := fmt.Sscanf(line, "%d:%d rbps=%s wbps=%s riops=%s wiops=%s", &major, &minor, &r, &w, &ri, &wi); err != nil {
				return fmt.Errorf("%w: %q: %v", errRefused, line, err)
			}
		}
	}
	return nil
}
