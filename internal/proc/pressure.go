package proc

import "bytes"

// Pressure is the stall time of the whole host since boot, in µs.
type Pressure struct {
	Some Count // at least one task waited
	Full Count // all tasks that had work waited
}

// parsePressure parses a file of /proc/pressure (Linux 4.20,
// Documentation/accounting/psi.rst):
//
//	some avg10=0.06 avg60=0.68 avg300=0.98 total=56396186
//	full avg10=0.00 avg60=0.00 avg300=0.00 total=0
func parsePressure(b []byte) (Pressure, error) {
	var p Pressure
	for {
		line, rest, ok := cutLine(b)
		if !ok {
			return p, nil
		}
		b = rest
		var field *Count
		switch {
		case bytes.HasPrefix(line, []byte("some ")):
			field = &p.Some
		case bytes.HasPrefix(line, []byte("full ")):
			field = &p.Full
		}
		if field == nil || field.OK {
			continue
		}
		_, total, _ := bytes.Cut(line, []byte(" total="))
		n, tail, ok := cutUint(total)
		if !ok || len(tail) > 0 {
			return Pressure{}, malformed(line)
		}
		*field = Count{n, true}
	}
}

// Load is the number of tasks that ran, could run, or slept uninterruptibly,
// averaged over 1, 5 and 15 minutes.
type Load struct {
	One, Five, Fifteen float64
	OK                 bool
}

// parseLoad parses /proc/loadavg:
//
//	0.20 0.18 0.12 1/80 11206
func parseLoad(b []byte) (Load, error) {
	line, _, ok := cutLine(b)
	if !ok {
		return Load{}, nil
	}
	var avg [3]float64
	rest := line
	for i := range avg {
		whole, tail, ok := cutUint(rest)
		// Always two digits (fs/proc/loadavg.c); dividing integers gives the
		// float that is nearest to what is printed.
		if !ok || whole > 1<<32 || len(tail) < 4 || tail[0] != '.' || !isDigit(tail[1]) || !isDigit(tail[2]) || tail[3] != ' ' {
			return Load{}, malformed(line)
		}
		avg[i] = float64(whole*100+uint64(tail[1]-'0')*10+uint64(tail[2]-'0')) / 100
		rest = tail[3:]
	}
	return Load{avg[0], avg[1], avg[2], true}, nil
}
