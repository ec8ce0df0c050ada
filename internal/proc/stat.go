package proc

import "bytes"

// CPUTime is what one CPU did since it was first brought up.
type CPUTime struct {
	CPU int
	// Busy is the time it was not idle, in ticks of USER_HZ (1/100 s).
	Busy uint64
}

// parseCPUTimes appends the CPUs of /proc/stat to cpus. done is false if the
// lines about CPUs may go on after b. Sample (Documentation/filesystems/proc.rst):
//
//	cpu  16699 0 7139 215036 1100 0 107 45 0 0
//	cpu0 7569 0 3263 109153 45 0 21 18 0 0
//	cpu1 9130 0 3876 105883 1054 0 86 27 0 0
//	intr 589073 0 0 …
//
// Columns: user nice system idle iowait irq softirq steal guest guest_nice;
// guest is part of user, guest_nice of nice.
func parseCPUTimes(b []byte, cpus []CPUTime) (_ []CPUTime, done bool, err error) {
	none := cpus
	for {
		line, rest, ok := cutLine(b)
		if !ok {
			// Whatever comes after the CPUs is known by its first letters.
			return cpus, len(b) >= 3 && string(b[:3]) != "cpu", nil
		}
		b = rest
		columns, ok := bytes.CutPrefix(line, []byte("cpu"))
		if !ok {
			return cpus, true, nil
		}
		if len(columns) > 0 && columns[0] == ' ' {
			continue // the sum
		}
		id, columns, ok := cutUint(columns)
		if !ok || id >= maxID || len(cpus) > len(none) && int(id) <= cpus[len(cpus)-1].CPU {
			return none, true, malformed(line)
		}
		t := CPUTime{CPU: int(id)}
		column := 0
		for ; column < 8 && len(columns) > 0; column++ {
			var n uint64
			if n, columns, ok = cutUint(columns); !ok {
				return none, true, malformed(line)
			}
			if idle := column == 3 || column == 4; idle {
				continue
			}
			if t.Busy += n; t.Busy < n {
				return none, true, malformed(line)
			}
		}
		if column < 4 {
			return none, true, malformed(line)
		}
		cpus = append(cpus, t)
	}
}
