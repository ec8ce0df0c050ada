package main

import (
	"cmp"
	"strconv"
	"strings"
	"time"

	"github.com/owca-project/owca/internal/act"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/resctrl"
)

// limitText is the value of a knob for people: "0.5 CPUs (50ms of 100ms)".
func limitText(k cgroup.Knob, value string) string {
	number := func(s string) (uint64, bool) {
		n, err := strconv.ParseUint(s, 10, 64)
		return n, err == nil
	}
	switch k {
	case cgroup.CPUMax:
		quota, period, _ := strings.Cut(value, " ")
		p, ok := number(period)
		if !ok || p == 0 {
			return value
		}
		if quota == "max" {
			return "no limit"
		}
		if q, ok := number(quota); ok {
			cpus := strconv.FormatFloat(float64(q)/float64(p), 'g', 3, 64)
			return cpus + " CPUs (" + microseconds(q) + " of " + microseconds(p) + ")"
		}
	case cgroup.CPUMaxBurst:
		if us, ok := number(value); ok {
			return microseconds(us)
		}
	case cgroup.CPUIdleFlag:
		switch value {
		case "0":
			return "off"
		case "1":
			return "on"
		}
	case cgroup.MemoryHighLimit, cgroup.MemoryLowLimit:
		if n, ok := number(value); ok {
			return sizeText(n)
		}
		if value == "max" && k == cgroup.MemoryHighLimit {
			return "no limit"
		}
	case cgroup.CPUSetCPUList, cgroup.CPUSetMemList:
		if value == "" {
			return "none of its own" // v2: as the parent; v1: until it has some no process can be in it
		}
	case cgroup.IOMaxLimits:
		if value == "" {
			return "no limit"
		}
		return ioText(value)
	}
	return value
}

// ioText leaves out what is not limited: "8:0 wbps=50M, 8:16 riops=100".
func ioText(value string) string {
	var devices []string
	for line := range strings.Lines(value) {
		var kept []string
		for i, field := range strings.Fields(line) {
			name, text, _ := strings.Cut(field, "=")
			if n, err := strconv.ParseUint(text, 10, 64); err == nil && strings.HasSuffix(name, "bps") {
				field = name + "=" + sizeText(n)
			}
			if i == 0 || text != "max" {
				kept = append(kept, field)
			}
		}
		devices = append(devices, strings.Join(kept, " "))
	}
	return strings.Join(devices, ", ")
}

// sizeText is a number of bytes as a configuration takes it, where that is short: "50M",
// "2Gi", "1500". Otherwise it is rounded: "1.863Gi".
func sizeText(n uint64) string {
	const short = 10000
	if n < short {
		return strconv.FormatUint(n, 10)
	}
	best, about := "", ""
	for _, units := range []struct {
		base  uint64
		names []string
	}{{1000, []string{"k", "M", "G", "T"}}, {1024, []string{"Ki", "Mi", "Gi", "Ti"}}} {
		unit := uint64(1)
		for _, name := range units.names {
			if unit *= units.base; unit > n {
				break
			}
			if v := float64(n) / float64(unit); v < short {
				about = strconv.FormatFloat(v, 'g', 4, 64) + name
			} else {
				about = strconv.FormatUint(n/unit, 10) + name
			}
			if text := strconv.FormatUint(n/unit, 10) + name; n%unit == 0 && n/unit < short && (best == "" || len(text) < len(best)) {
				best = text
			}
		}
	}
	return cmp.Or(best, about)
}

func microseconds(us uint64) string {
	return (time.Duration(us) * time.Microsecond).String()
}

// changeText is what a change does, for people: "no limit → 0.5 CPUs (50ms of 100ms)".
func changeText(c *act.Change) string {
	from, to := limitTexts(c)
	switch {
	case c.Resctrl != nil && (from == to || from == "" && to == ""):
		return c.Resctrl.String()
	case from == "":
		return to
	}
	return from + " → " + to
}

func limitTexts(c *act.Change) (from, to string) {
	if c.Cgroup == "" {
		return c.Old, c.New
	}
	return limitText(c.Knob, c.Old), limitText(c.Knob, c.New)
}

// whereText is what is changed: "/batch/job-1 cpu.max", without the cgroup if the task
// has its name; "resctrl group gold", "resctrl group of /batch/job-1".
func whereText(c *act.Change) string {
	switch {
	case c.Cgroup != "" && c.Cgroup == string(c.For):
		return c.Knob.String()
	case c.Cgroup != "":
		return c.Cgroup + " " + c.Knob.String()
	case c.Task != "":
		return "resctrl group of " + string(c.Task)
	}
	return "resctrl group " + resctrl.Name{Control: c.Group}.String()
}

// ageText: "12s", "5m", "3h", "2d".
func ageText(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Minute:
		return strconv.Itoa(int(d/time.Second)) + "s"
	case d < time.Hour:
		return strconv.Itoa(int(d/time.Minute)) + "m"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d/time.Hour)) + "h"
	}
	return strconv.Itoa(int(d/(24*time.Hour))) + "d"
}

// limitJSON is a change as JSON. Its keys don't change.
type limitJSON struct {
	Task   string `json:"task"`
	Kind   string `json:"kind"`
	Cgroup string `json:"cgroup,omitempty"` // with knob; or, of resctrl, group and moved
	Knob   string `json:"knob,omitempty"`
	Group  string `json:"group,omitempty"`
	Moved  string `json:"moved,omitempty"`
	Old    string `json:"old"`
	New    string `json:"new"`
	Reason string `json:"reason"`
	Owner  string `json:"owner"`
}

func newLimitJSON(c *act.Change) limitJSON {
	j := limitJSON{
		Task: string(c.For), Kind: string(c.Kind), Cgroup: c.Cgroup,
		Old: c.Old, New: c.New, Reason: c.Reason, Owner: c.Owner,
	}
	if c.Cgroup != "" {
		j.Knob = c.Knob.String()
	} else {
		j.Group, j.Moved = resctrl.Name{Control: c.Group}.String(), string(c.Task)
	}
	return j
}
