package act

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
)

// maxBFQWeight is BFQ_MAX_WEIGHT of block/bfq-iosched.h.
const maxBFQWeight = 1000

// desireOther gives each cgroup of a task the same, but for a burst, which they share.
func (p *planner) desireOther(e *entry, cgroups []place, steps []step) {
	var value string
	switch e.Kind {
	case owca.CPUBurst:
		p.desireBurst(e, cgroups, steps)
		return
	case owca.IOMax:
		p.desireIOMax(e, cgroups, steps)
		return
	case owca.CPUSetCPUs, owca.CPUSetMems:
		value = p.desireCPUSet(e)
	case owca.MemoryHigh, owca.MemoryLow:
		if value = e.Text; value == "" {
			value = strconv.FormatUint(uint64(e.Number), 10)
		}
	case owca.CPUIdle, owca.IOWeight:
		n := uint64(math.Round(e.Number))
		for _, c := range cgroups {
			if e.Kind == owca.IOWeight && c.BFQ && n > maxBFQWeight {
				e.refuse("%d is more than the %d that bfq, of which the weight of %s is, has", n, maxBFQWeight, c.path)
				return
			}
		}
		value = strconv.FormatUint(n, 10)
	}
	for i := range steps {
		steps[i].value = value
	}
}

func (p *planner) desireBurst(e *entry, cgroups []place, steps []step) {
	if p.CPUs <= 0 {
		e.refuse("how many cpus are online is not known")
		return
	}
	weights, total := weightsOf(cgroups)
	for i, c := range cgroups {
		m, ok := parseCPUMax(c.Values[cgroup.CPUMax])
		if !ok {
			e.refuse("cpu.max of %s cannot be read: %q", c.path, c.Values[cgroup.CPUMax])
			return
		}
		st := &steps[i]
		st.cpus = e.Number * float64(p.CPUs)
		if len(cgroups) > 1 {
			st.cpus = st.cpus * weights[i] / total
		}
		st.value = burstOf(st.cpus, m.period)
	}
}

// burstOf returns µs.
func burstOf(cpus float64, period uint64) string {
	return strconv.FormatUint(uint64(cpus*float64(period)), 10)
}

// desireCPUSet returns the list as the kernel writes it.
func (p *planner) desireCPUSet(e *entry) string {
	set, _ := parseSet(e.Text) // validated
	online, what := p.CPUList, "cpu"
	if e.Kind == owca.CPUSetMems {
		online, what = p.MemList, "NUMA node"
	}
	if all, err := parseSet(online); err == nil && len(all) > 0 {
		if missing := set.without(all); len(missing) > 0 {
			e.refuse("%s %v is not online: %v are", what, missing, all)
		}
	}
	if e.Kind == owca.CPUSetMems {
		return set.String()
	}
	if p.NoExclusive != nil {
		e.refuse("which cpus Kubernetes' static CPU manager gave away cannot be told: %v", p.NoExclusive)
		return set.String()
	}
	for _, id := range sortedKeys(p.Tasks) {
		exclusive, err := parseSet(p.Tasks[id].Exclusive)
		if err != nil || len(exclusive) == 0 {
			continue
		}
		if id == e.Task {
			e.refuse("Kubernetes' static CPU manager gave cpus %v to this task", exclusive)
		} else if taken := set.and(exclusive); len(taken) > 0 {
			e.refuse("Kubernetes' static CPU manager gave cpu %v to task %s alone", taken, id)
		}
	}
	return set.String()
}

// desireIOMax overlays what was before with the limits of the devices that are named.
func (p *planner) desireIOMax(e *entry, cgroups []place, steps []step) {
	limits := make(map[string]owca.IOLimit, len(e.IO))
	for _, name := range sortedKeys(e.IO) {
		number := name
		if !isDevice(name) {
			var ok bool
			if number, ok = p.Devices[name]; !ok {
				e.refuse("there is no device %s", name)
				return
			}
		}
		if _, twice := limits[number]; twice {
			e.refuse("%s is device %s, which is named twice", name, number)
			return
		}
		limits[number] = e.IO[name]
	}
	for i, c := range cgroups {
		before := c.now
		if l := p.lease(steps[i].Target); l != nil {
			before = l.First
		}
		all, ok := parseIOLimits(before)
		if !ok {
			e.refuse("io.max of %s cannot be read: %.80q", c.path, before)
			return
		}
		maps.Copy(all, limits)
		steps[i].value = formatIOLimits(all)
	}
}

// isDevice says whether it is a device's numbers, as "8:0".
func isDevice(s string) bool {
	_, _, ok := deviceNumbers(s)
	return ok
}

// deviceNumbers takes only how the kernel writes them, so that one device has one name.
func deviceNumbers(s string) (major, minor uint64, ok bool) {
	a, b, ok := strings.Cut(s, ":")
	if !ok {
		return 0, 0, false
	}
	major, err1 := strconv.ParseUint(a, 10, 12)
	minor, err2 := strconv.ParseUint(b, 10, 20)
	if err1 != nil || err2 != nil || a != strconv.FormatUint(major, 10) || b != strconv.FormatUint(minor, 10) {
		return 0, 0, false
	}
	return major, minor, true
}

// parseIOLimits parses the value of [cgroup.IOMaxLimits].
func parseIOLimits(value string) (map[string]owca.IOLimit, bool) {
	limits := make(map[string]owca.IOLimit)
	for line := range strings.Lines(value) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		var l owca.IOLimit
		for _, f := range fields[1:] {
			key, text, _ := strings.Cut(f, "=")
			of := map[string]*uint64{
				"rbps": &l.ReadBytes, "wbps": &l.WriteBytes, "riops": &l.ReadOperations, "wiops": &l.WriteOperations,
			}[key]
			if of == nil || text == noLimit {
				continue
			}
			n, err := strconv.ParseUint(text, 10, 64)
			if err != nil {
				return nil, false
			}
			*of = n
		}
		if !isDevice(fields[0]) {
			return nil, false
		}
		limits[fields[0]] = l
	}
	return limits, true
}

// formatIOLimits is the inverse of parseIOLimits, less devices without a limit.
func formatIOLimits(limits map[string]owca.IOLimit) string {
	devices := slices.SortedFunc(maps.Keys(limits), func(a, b string) int {
		a1, a2, _ := deviceNumbers(a)
		b1, b2, _ := deviceNumbers(b)
		return cmp.Or(cmp.Compare(a1, b1), cmp.Compare(a2, b2))
	})
	var lines []string
	for _, d := range devices {
		l := limits[d]
		if l == (owca.IOLimit{}) {
			continue
		}
		lines = append(lines, fmt.Sprintf("%s rbps=%s wbps=%s riops=%s wiops=%s", d,
			orMax(l.ReadBytes), orMax(l.WriteBytes), orMax(l.ReadOperations), orMax(l.WriteOperations)))
	}
	return strings.Join(lines, "\n")
}

func orMax(n uint64) string {
	if n == 0 {
		return noLimit
	}
	return strconv.FormatUint(n, 10)
}

// set is a list of cpus or nodes: ranges, both ends included, sorted and apart.
type set []setRange

type setRange struct{ first, last int }

// maxMember is beyond NR_CPUS of any kernel.
const maxMember = 1<<16 - 1

// parseSet parses "0-3,8".
func parseSet(text string) (set, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	var s set
	for item := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(item), "-")
		if !isRange {
			last = first
		}
		a, err1 := strconv.ParseUint(first, 10, 32)
		b, err2 := strconv.ParseUint(last, 10, 32)
		switch {
		case err1 != nil || err2 != nil:
			return nil, fmt.Errorf("%.40q is no list as 0-3,8: %.20q", text, item)
		case b < a:
			return nil, fmt.Errorf("%.40q is no list as 0-3,8: %d comes before %d", text, b, a)
		case b > maxMember:
			return nil, fmt.Errorf("%.40q: no host has a number %d", text, b)
		}
		s = append(s, setRange{int(a), int(b)})
	}
	slices.SortFunc(s, func(a, b setRange) int { return cmp.Compare(a.first, b.first) })
	merged := s[:1]
	for _, r := range s[1:] {
		if end := &merged[len(merged)-1]; r.first <= end.last+1 {
			end.last = max(end.last, r.last)
		} else {
			merged = append(merged, r)
		}
	}
	return merged, nil
}

func (s set) String() string {
	var b []byte
	for i, r := range s {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(r.first), 10)
		if r.last > r.first {
			b = strconv.AppendInt(append(b, '-'), int64(r.last), 10)
		}
	}
	return string(b)
}

// size is how many members it has.
func (s set) size() (n int) {
	for _, r := range s {
		n += r.last - r.first + 1
	}
	return n
}

// and returns what is in both.
func (s set) and(o set) set {
	var both set
	for i, j := 0, 0; i < len(s) && j < len(o); {
		if first, last := max(s[i].first, o[j].first), min(s[i].last, o[j].last); first <= last {
			both = append(both, setRange{first, last})
		}
		if s[i].last < o[j].last {
			i++
		} else {
			j++
		}
	}
	return both
}

// without returns what is not in o.
func (s set) without(o set) set {
	var rest set
	for _, r := range s {
		for _, x := range o {
			if x.last < r.first {
				continue
			}
			if x.first > r.last {
				break
			}
			if x.first > r.first {
				rest = append(rest, setRange{r.first, x.first - 1})
			}
			r.first = x.last + 1
		}
		if r.first <= r.last {
			rest = append(rest, r)
		}
	}
	return rest
}

func (s set) within(o set) bool { return len(s.without(o)) == 0 }

// isPodOrAbove says whether a cgroup is a Kubernetes pod's, or of a QoS class, or of all
// pods, by either of the kubelet's drivers. The kubelet sets limits there itself, and
// everything below is bound to them.
func isPodOrAbove(path string) bool {
	parent, base := cutLast(path)
	if name, ok := strings.CutSuffix(base, ".slice"); ok {
		return slices.Contains(strings.Split(name, "-"), "kubepods")
	}
	above, parentBase := cutLast(parent)
	_, aboveBase := cutLast(above)
	isClass := func(name string) bool { return name == "burstable" || name == "besteffort" }
	switch {
	case base == "kubepods":
		return true
	case isClass(base):
		return parentBase == "kubepods"
	case strings.HasPrefix(base, "pod"):
		return parentBase == "kubepods" || isClass(parentBase) && aboveBase == "kubepods"
	}
	return false
}

func cutLast(path string) (parent, base string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
