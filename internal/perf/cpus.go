package perf

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// onlineCPUs reads which CPUs are online. It is not [runtime.NumCPU], which
// tells those that this process may run on.
func (f FS) onlineCPUs() ([]int, error) {
	return f.cpuList("sys/devices/system/cpu/online")
}

// cpuList reads a file that lists CPUs.
func (f FS) cpuList(name string) ([]int, error) {
	data, err := os.ReadFile(f.path(name))
	if err != nil {
		return nil, err
	}
	cpus, err := parseCPUs(strings.TrimSpace(string(data)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.path(name), err)
	}
	return cpus, nil
}

func (f FS) path(name string) string {
	if f.Root == "" {
		return "/" + name
	}
	return filepath.Join(f.Root, name)
}

// parseCPUs parses a list as the kernel prints it (%*pbl): "0-3,8,10-11", ""
// for none, in ascending order.
func parseCPUs(s string) ([]int, error) {
	if s == "" {
		return nil, nil
	}
	var cpus []int
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		lo, err := strconv.ParseUint(first, 10, 16)
		hi := lo
		if err == nil && isRange {
			hi, err = strconv.ParseUint(last, 10, 16)
		}
		if err != nil || hi < lo || len(cpus) > 0 && int(lo) <= cpus[len(cpus)-1] {
			return nil, fmt.Errorf("%q is not a list of cpus as \"0-3,8\"", s)
		}
		for cpu := lo; cpu <= hi; cpu++ {
			cpus = append(cpus, int(cpu))
		}
	}
	return cpus, nil
}
