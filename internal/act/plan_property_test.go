package act

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
)

// planWorld is a host for Plan: a kernel, tasks in it, and what is leased.
type planWorld struct {
	t       testing.TB
	rng     *rand.Rand
	kernel  *fakeKernel
	units   Units
	tasks   map[owca.TaskID]*TaskState
	ids     []owca.TaskID
	hidden  map[string]bool // cgroups that State has only in LargestBelow
	yielded map[Yield]bool
	leases  map[Target]*Lease
	seq     uint64
	changes int
	refused int
}

func newPlanWorld(t testing.TB, rng *rand.Rand) *planWorld {
	w := &planWorld{t: t, rng: rng, leases: map[Target]*Lease{}, tasks: map[owca.TaskID]*TaskState{}, hidden: map[string]bool{}}
	w.kernel = &fakeKernel{v1: rng.IntN(2) == 0, cpus: []int{1, 2, 4, 64}[rng.IntN(4)], cgroups: map[string]map[cgroup.Knob]string{}}
	w.units = Units{QuotaPeriod: []int{0, 1000, 100000}[rng.IntN(3)], SharesUnit: []int{1000, 1024}[rng.IntN(2)]}
	paths := []string{""}
	for i := range 2 + rng.IntN(12) {
		path := fmt.Sprintf("%s/c%d", paths[rng.IntN(len(paths))], i)
		if strings.Count(path, "/") < 5 {
			paths = append(paths, path)
			w.kernel.make(path)
		}
	}
	paths = paths[1:]
	// Whatever the kernel takes is what was there before.
	for range 4 * len(paths) {
		path, k := paths[rng.IntN(len(paths))], cgroup.Knob(rng.IntN(int(cgroup.NumKnobs)))
		_ = w.kernel.set(path, k, w.value(k))
	}
	free := slices.Clone(paths)
	for i := 0; len(free) > 0 && i < 6; i++ {
		task := &TaskState{}
		for range 1 + rng.IntN(3) {
			if j := rng.IntN(len(free) + 1); j < len(free) {
				task.Cgroups = append(task.Cgroups, free[j])
				free = slices.Delete(free, j, j+1)
			} else if j = rng.IntN(8 * len(paths)); j < len(paths) && !slices.Contains(task.Cgroups, paths[j]) {
				task.Cgroups = append(task.Cgroups, paths[j]) // which another one may have, too
				free = slices.DeleteFunc(free, func(path string) bool { return path == paths[j] })
			}
		}
		id := owca.TaskID(fmt.Sprintf("t%d", i))
		w.tasks[id] = task
		w.ids = append(w.ids, id)
	}
	shown := map[string]bool{}
	for _, task := range w.tasks {
		for _, path := range task.Cgroups {
			shown[path] = true
			for a := range ancestors(path) {
				shown[a] = true
			}
		}
	}
	for _, path := range paths {
		w.hidden[path] = !shown[path]
	}
	return w
}

// value is one that a runtime or an administrator might have set.
func (w *planWorld) value(k cgroup.Knob) string {
	n := func(list ...string) string { return list[w.rng.IntN(len(list))] }
	switch k {
	case cgroup.CPUMax:
		period := []int{1000, 5000, 100000, 250000, 1000000}[w.rng.IntN(5)]
		if w.rng.IntN(3) == 0 {
			return fmt.Sprintf("max %d", period)
		}
		return fmt.Sprintf("%d %d", 1000+w.rng.IntN(w.kernel.cpus*period), period)
	case cgroup.CPUMaxBurst:
		return strconv.Itoa(w.rng.IntN(50000))
	case cgroup.CPUSharesV1:
		return n("2", "512", "1024", "4096", "262144")
	case cgroup.CPUWeightV2:
		return n("1", "79", "100", "10000")
	case cgroup.CPUIdleFlag:
		return n("0", "0", "1")
	case cgroup.CPUSetCPUList:
		return w.list(w.kernel.cpus)
	case cgroup.CPUSetMemList:
		return w.list(2)
	case cgroup.MemoryHighLimit, cgroup.MemoryLowLimit:
		return n("max", "0", "4096", "1073741824")
	case cgroup.IOWeightDefault:
		return n("1", "100", "500")
	}
	return n("", "8:0 rbps=1000 wbps=max riops=max wiops=7", "8:16 rbps=5 wbps=max riops=max wiops=max")
}

func (w *planWorld) list(n int) string {
	var s []string
	for i := range min(n, 6) {
		if w.rng.IntN(2) == 0 {
			s = append(s, strconv.Itoa(i))
		}
	}
	if s == nil {
		return strconv.Itoa(w.rng.IntN(n))
	}
	list, _ := parseSet(strings.Join(s, ","))
	return list.String()
}

func (w *planWorld) state() *State {
	s := &State{
		Units: w.units, CPUs: w.kernel.cpus, CPUList: fmt.Sprintf("0-%d", w.kernel.cpus-1), MemList: "0-1",
		Tasks: w.tasks, Cgroups: map[string]*CgroupState{}, Leases: maps.Clone(w.leases), Yielded: w.yielded,
		Devices: map[string]string{"/dev/sda": "8:0"},
	}
	for path, values := range w.kernel.cgroups {
		if w.hidden[path] {
			continue
		}
		c := &CgroupState{IDs: sameID("id" + path), Values: maps.Clone(values), Errors: map[cgroup.Knob]error{}, V1: w.kernel.v1}
		for k := range cgroup.NumKnobs {
			if _, ok := values[k]; !ok {
				c.Errors[k] = errors.ErrUnsupported
			}
		}
		largest := -1.0
		for _, below := range slices.Sorted(maps.Keys(w.kernel.cgroups)) {
			values := w.kernel.cgroups[below]
			quota, period := bandwidth(values[cgroup.CPUMax])
			if r := float64(quota) / float64(period); w.hidden[below] && strings.HasPrefix(below, path+"/") && quota >= 0 && r > largest {
				largest, c.LargestBelow, c.BelowPath = r, values[cgroup.CPUMax], below
			}
			if w.hidden[below] && strings.HasPrefix(below, path+"/") && w.kernel.v1 {
				c.CPUsBelow = strings.Trim(c.CPUsBelow+","+values[cgroup.CPUSetCPUList], ",")
				c.MemsBelow = strings.Trim(c.MemsBelow+","+values[cgroup.CPUSetMemList], ",")
			}
		}
		s.Cgroups[path] = c
	}
	return s
}

var cgroupKinds = owca.AllocationKinds[:len(owca.AllocationKinds)-1]

func (w *planWorld) wanted() []Wanted {
	var list []Wanted
	for range 1 + w.rng.IntN(6) {
		x := Wanted{Task: w.ids[w.rng.IntN(len(w.ids))], Kind: cgroupKinds[w.rng.IntN(len(cgroupKinds))], Owner: "a"}
		if w.rng.IntN(2) == 0 {
			x.Kind = []owca.AllocationKind{owca.CPUQuota, owca.CPUSetCPUs, owca.CPUBurst}[w.rng.IntN(3)]
		}
		x.Reason = "because"
		switch {
		case w.rng.IntN(4) == 0:
			x.Release = true
		default:
			w.fill(&x)
			x.Anew = w.rng.IntN(4) == 0
		}
		list = append(list, x)
	}
	return list
}

func (w *planWorld) fill(x *Wanted) {
	switch x.Kind {
	case owca.CPUQuota:
		x.Number = []float64{0, 0.0001, 0.01, 0.1, 0.3, 0.5, w.rng.Float64(), 1, 3}[w.rng.IntN(9)]
	case owca.CPUShares:
		x.Number = []float64{0, 0.5, 1, 10, 1e9}[w.rng.IntN(5)]
	case owca.CPUBurst:
		x.Number = w.rng.Float64()
	case owca.CPUIdle:
		x.Number = float64(w.rng.IntN(2))
	case owca.CPUSetCPUs:
		x.Text = w.list(w.kernel.cpus + w.rng.IntN(2))
	case owca.CPUSetMems:
		x.Text = w.list(2)
	case owca.MemoryHigh, owca.MemoryLow:
		if x.Number = float64(w.rng.IntN(1 << 30)); w.rng.IntN(4) == 0 {
			x.Number, x.Text = 0, "max"
		}
	case owca.IOWeight:
		x.Number = float64(1 + w.rng.IntN(10000))
	case owca.IOMax:
		x.IO = map[string]owca.IOLimit{
			[]string{"8:0", "/dev/sda", "8:16", "/dev/none"}[w.rng.IntN(4)]: {ReadBytes: w.rng.Uint64N(3), WriteOperations: w.rng.Uint64N(100)},
		}
	}
}

// disturb has somebody else change some of what was decided, and the units be others.
func (w *planWorld) disturb() {
	if w.rng.IntN(4) == 0 {
		w.units.QuotaPeriod = []int{0, 1000, 20000, 100000}[w.rng.IntN(4)]
	}
	w.yielded = map[Yield]bool{}
	for range w.rng.IntN(3) {
		y := Yield{Task: w.ids[w.rng.IntN(len(w.ids))], Kind: cgroupKinds[w.rng.IntN(len(cgroupKinds))]}
		cgroups := w.tasks[y.Task].Cgroups
		if len(cgroups) == 0 {
			continue
		}
		y.Target = Target{Cgroup: cgroups[w.rng.IntN(len(cgroups))], Knob: knobsOf(y.Kind)[0]}
		if y.Kind == owca.CPUShares && !w.kernel.v1 {
			y.Knob = cgroup.CPUWeightV2
		}
		if w.leases[y.Target] == nil {
			w.yielded[y] = true
		}
	}
}

// run plans, makes the changes one by one, and checks all that is promised of them.
func (w *planWorld) run(wanted []Wanted) error {
	state := w.state()
	planned, err := Plan(state, wanted)
	if err != nil {
		if planned.Changes != nil || planned.Refused != nil {
			return fmt.Errorf("with an error: %v", planned)
		}
		for _, e := range unjoin(err) {
			if i := (*Invalid)(nil); !errors.As(e, &i) {
				return fmt.Errorf("not an Invalid: %w", e)
			}
		}
		return nil
	}
	if diff := cmp.Diff(w.state(), state, cmp.Comparer(errors.Is)); diff != "" {
		return fmt.Errorf("the state has changed: %s", diff)
	}
	if again, _ := Plan(state, wanted); cmp.Diff(planned, again) != "" {
		return fmt.Errorf("not the same another time: %s", cmp.Diff(planned, again))
	}

	before := w.kernel.clone()
	seen := map[Target]bool{}
	for i, c := range planned.Changes {
		if seen[c.Target] {
			return fmt.Errorf("%v twice", c.Target)
		}
		seen[c.Target] = true
		now := w.kernel.cgroups[c.Cgroup][c.Knob]
		if now != c.Old {
			return fmt.Errorf("%v: Old is %q, but it has %q", c.Target, c.Old, now)
		}
		if w.yielded[Yield{c.For, c.Kind, c.Target}] {
			return fmt.Errorf("%v: was yielded to somebody else", c.Target)
		}
		if l := w.leases[c.Target]; !c.Release && c.Knob.Equal(c.Old, c.New) && (l == nil || l.Kind == c.Kind && l.For == c.For) {
			return fmt.Errorf("%v: no change from %q to %q", c.Target, c.Old, c.New)
		}
		if err := w.kernel.set(c.Cgroup, c.Knob, c.New); err != nil {
			return fmt.Errorf("change %d: %w\n%v", i, err, changeTexts(planned.Changes))
		}
		l := w.leases[c.Target]
		switch {
		case c.Release && l == nil:
			return fmt.Errorf("%v: released but not leased", c.Target)
		case c.Release && c.New != l.First:
			return fmt.Errorf("%v: %q is not %q from before", c.Target, c.New, l.First)
		case c.Release:
			delete(w.leases, c.Target)
		case l == nil:
			w.seq++
			w.leases[c.Target] = &Lease{Seq: w.seq, Change: c, First: c.Old}
		default:
			renewed := *l // Plan has seen the other
			renewed.Change = c
			w.leases[c.Target] = &renewed
		}
	}
	w.changes += len(planned.Changes)
	w.refused += len(planned.Refused)

	after := w.kernel.clone()
	for i := len(planned.Changes) - 1; i >= 0; i-- {
		c := planned.Changes[i]
		if err := after.set(c.Cgroup, c.Knob, c.Old); err != nil {
			return fmt.Errorf("undoing change %d: %w\n%v", i, err, changeTexts(planned.Changes))
		}
	}
	if diff := cmp.Diff(before.cgroups, after.cgroups); diff != "" {
		return fmt.Errorf("undone: %s\n%v", diff, changeTexts(planned.Changes))
	}
	if err := w.check(before, wanted, planned); err != nil {
		return fmt.Errorf("%w\n%v\n%v", err, changeTexts(planned.Changes), planned.Refused)
	}

	if w.sharing() {
		// Of two that want the same cgroup, one that was refused may be possible with what the
		// other has changed; it is not taken over for that, see TestPlanSharedCgroup.
		wanted = slices.DeleteFunc(wanted, func(x Wanted) bool {
			return slices.ContainsFunc(planned.Refused, func(r Refusal) bool { return r.Task == x.Task && r.Kind == x.Kind })
		})
	}
	again, err := Plan(w.state(), wanted)
	if slices.ContainsFunc(planned.Changes, func(c Change) bool { return isWeight(c.Knob) || c.Knob == cgroup.CPUIdleFlag }) {
		// What is divided by weights is divided in another way now.
		again.Changes = slices.DeleteFunc(again.Changes, func(c Change) bool { return c.Knob == cgroup.CPUMax || c.Knob == cgroup.CPUMaxBurst })
	}
	if err != nil || len(again.Changes) > 0 {
		return fmt.Errorf("it is not done: %v, %v\nfirst %v", changeTexts(again.Changes), err, changeTexts(planned.Changes))
	}
	return nil
}

// sharing says whether any tasks have the same cgroup.
func (w *planWorld) sharing() bool {
	users := map[string]bool{}
	for _, task := range w.tasks {
		for _, path := range task.Cgroups {
			if users[path] {
				return true
			}
			users[path] = true
		}
	}
	return false
}

func isWeight(k cgroup.Knob) bool { return k == cgroup.CPUSharesV1 || k == cgroup.CPUWeightV2 }

func unjoin(err error) []error {
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		var list []error
		for _, e := range j.Unwrap() {
			list = append(list, unjoin(e)...)
		}
		return list
	}
	return []error{err}
}

func changeTexts(changes []Change) (list []string) {
	for _, c := range changes {
		text := fmt.Sprintf("%s %v: %s → %s", c.Cgroup, c.Knob, c.Old, c.New)
		if c.Release {
			text += " release"
		}
		if c.Note != "" {
			text += " (" + c.Note + ")"
		}
		list = append(list, text)
	}
	return list
}

// check looks whether what is wanted is there, and the rest as it was.
func (w *planWorld) check(before *fakeKernel, wanted []Wanted, planned Planned) error {
	changed := map[Target]*Change{}
	for i := range planned.Changes {
		changed[planned.Changes[i].Target] = &planned.Changes[i]
	}
	for path, values := range w.kernel.cgroups {
		for k, v := range values {
			if isWeight(k) && changed[Target{Cgroup: path, Knob: cgroup.CPUIdleFlag}] != nil {
				continue
			}
			if c := changed[Target{Cgroup: path, Knob: k}]; c == nil && v != before.cgroups[path][k] {
				return fmt.Errorf("%s %v has become %q", path, k, v)
			}
		}
	}
	refused := map[string]string{}
	for _, r := range planned.Refused {
		if r.Reason == "" {
			return errors.New("refused without a reason")
		}
		refused[string(r.Task)+string(r.Kind)] = r.Reason
		if err := w.ownLimitInTheWay(r, wanted); err != nil {
			return err
		}
	}
	for i, x := range wanted {
		later := slices.ContainsFunc(wanted[i+1:], func(o Wanted) bool { return o.Task == x.Task && o.Kind == x.Kind })
		if later || refused[string(x.Task)+string(x.Kind)] != "" {
			continue
		}
		if err := w.checkOne(x, changed); err != nil {
			return fmt.Errorf("%s %s %+v: %w", x.Task, x.Kind, x.Allocation, err)
		}
	}
	return nil
}

// ownLimitInTheWay: what is leased below is never why a quota is refused, unless something
// below that is, or more is wanted of it at the same time.
func (w *planWorld) ownLimitInTheWay(r Refusal, wanted []Wanted) error {
	below, ok := strings.CutPrefix(r.Reason, "the cgroup ")
	below, _, _ = strings.Cut(below, " ")
	l := w.leases[Target{Cgroup: below, Knob: cgroup.CPUMax}]
	if !ok || r.Kind != owca.CPUQuota || l == nil || len(w.yielded) > 0 ||
		slices.ContainsFunc(wanted, func(x Wanted) bool { return slices.Contains(w.tasks[x.Task].Cgroups, below) }) {
		return nil
	}
	for path := range w.kernel.cgroups {
		if strings.HasPrefix(path, below+"/") {
			return nil
		}
	}
	return fmt.Errorf("refused for %v, which is leased: %s", l.Target, r.Reason)
}

func (w *planWorld) checkOne(x Wanted, changed map[Target]*Change) error {
	task := w.tasks[x.Task]
	if task == nil && x.Release {
		return nil
	}
	cgroups := task.Cgroups
	if x.Release {
		for target, l := range w.leases {
			if l.For == x.Task && l.Kind == x.Kind {
				return fmt.Errorf("%v is leased still", target)
			}
		}
		return nil
	}
	var cpus float64
	bounded := false
	for _, path := range cgroups {
		values := w.kernel.cgroups[path]
		expect := ""
		k := knobsOf(x.Kind)[0]
		if x.Kind == owca.CPUShares && !w.kernel.v1 {
			k = cgroup.CPUWeightV2
		}
		if w.yielded[Yield{x.Task, x.Kind, Target{Cgroup: path, Knob: k}}] {
			cpus = math.NaN()
			continue
		}
		if c := changed[Target{Cgroup: path, Knob: k}]; c != nil && (c.For == x.Task || !slices.Contains(w.tasks[c.For].Cgroups, path)) {
			if c.For != x.Task || c.Kind != x.Kind || c.Owner != x.Owner || c.Reason != x.Reason || c.ID != "id"+path {
				return fmt.Errorf("its change is %+v", c)
			}
		}
		bounded = bounded || w.bounded(path)
		switch x.Kind {
		case owca.CPUQuota:
			quota, period := bandwidth(values[k])
			if x.Number >= 1 && quota >= 0 && w.leases[Target{Cgroup: path, Knob: k}] == nil {
				return fmt.Errorf("%s is limited: %s", path, values[k])
			}
			if c := changed[Target{Cgroup: path, Knob: k}]; c != nil && len(cgroups) == 1 && w.bounded(path) != strings.Contains(c.Note, "bounded") &&
				math.Abs(float64(quota)/float64(period)-x.Number*float64(w.kernel.cpus)) > 0.01 && quota >= 0 {
				return fmt.Errorf("%s is noted as %q", path, c.Note)
			}
			if of := int64(w.units.QuotaPeriod); x.Anew && x.Number < 1 && of > 0 && period != of && quota > 1000 {
				return fmt.Errorf("%s has %s, another period than %d", path, values[k], of)
			}
			if cpus += float64(quota) / float64(period); quota < 0 {
				cpus = math.Inf(1)
			}
			for a := range ancestors(path) {
				above, of := bandwidth(w.kernel.cgroups[a][k])
				if c := changed[Target{Cgroup: path, Knob: k}]; c != nil && quota >= 0 && above >= 0 && quota*of > above*period {
					return fmt.Errorf("%s %s is above %s of %s", path, values[k], w.kernel.cgroups[a][k], a)
				}
			}
			continue
		case owca.CPUShares:
			shares := max(2, min(1<<18, x.Number*float64(w.units.SharesUnit)))
			got, err := strconv.ParseFloat(values[k], 64)
			if !w.kernel.v1 {
				shares = 1 + (shares-2)*9999/262142
			}
			if err != nil || math.Abs(got-shares) > 1+0.06*float64(w.units.SharesUnit) {
				return fmt.Errorf("%s has %v of %v", path, got, shares)
			}
			continue
		case owca.CPUBurst:
			quota, period := bandwidth(values[cgroup.CPUMax])
			burst, _ := strconv.ParseFloat(values[k], 64)
			if most := x.Number * float64(w.kernel.cpus) * float64(period); burst > most || len(cgroups) == 1 && quota < 0 && burst < most-1 {
				return fmt.Errorf("%s: a burst of %v", path, burst)
			}
			continue
		case owca.CPUIdle, owca.IOWeight:
			expect = strconv.Itoa(int(x.Number))
		case owca.CPUSetCPUs, owca.CPUSetMems:
			expect = x.Text
		case owca.MemoryHigh, owca.MemoryLow:
			if expect = x.Text; expect == "" {
				expect = strconv.Itoa(int(x.Number))
			}
		case owca.IOMax:
			for name, l := range x.IO {
				if name == "/dev/sda" {
					name = "8:0"
				}
				limits, _ := parseIOLimits(values[k])
				if limits[name] != l {
					return fmt.Errorf("%s: %q", path, values[k])
				}
			}
			continue
		}
		if !k.Equal(values[k], expect) {
			return fmt.Errorf("%s has %q instead of %q", path, values[k], expect)
		}
	}
	if x.Kind == owca.CPUQuota && x.Number < 1-unchanged { // more may be as good as no limit
		want := x.Number * float64(w.kernel.cpus)
		if off := math.Abs(min(cpus, float64(w.kernel.cpus)) - want); off > 0.0501*float64(w.kernel.cpus) && !bounded {
			return fmt.Errorf("only %v cpus", cpus)
		} else if cpus > want+0.0501*float64(w.kernel.cpus)+0.001*float64(len(cgroups)) {
			return fmt.Errorf("%v cpus are more than %v", cpus, want)
		}
	}
	return nil
}

// bounded says whether a cgroup has all that the cgroups above it let it have.
func (w *planWorld) bounded(path string) bool {
	quota, period := bandwidth(w.kernel.cgroups[path][cgroup.CPUMax])
	for a := range ancestors(path) {
		above, of := bandwidth(w.kernel.cgroups[a][cgroup.CPUMax])
		if above >= 0 && float64(quota+1)/float64(period) >= float64(above)/float64(of) {
			return true
		}
	}
	return false
}

// undo gives everything back as restore does: in reverse order, and again what is refused.
// It returns how many stay.
func (w *planWorld) undo() (stuck []*Lease) {
	rest := slices.SortedFunc(maps.Values(w.leases), func(a, b *Lease) int { return int(b.Seq) - int(a.Seq) })
	for range len(rest) + 1 {
		stuck = nil
		for _, l := range rest {
			if w.kernel.set(l.Cgroup, l.Knob, l.First) != nil {
				stuck = append(stuck, l)
			}
		}
		if rest = stuck; len(rest) == 0 {
			break
		}
	}
	return stuck
}

// sequence is some plans one after the other, from any beginning.
func sequence(t testing.TB, seed1, seed2 uint64, more func(w *planWorld) []Wanted) (w *planWorld, stuck int) {
	w = newPlanWorld(t, rand.New(rand.NewPCG(seed1, seed2)))
	first := w.kernel.clone()
	for i := range 1 + w.rng.IntN(8) {
		w.disturb()
		wanted := w.wanted()
		if more != nil {
			wanted = append(wanted, more(w)...)
		}
		if err := w.run(wanted); err != nil {
			t.Fatalf("seed %d %d, plan %d (v1 %v, %d cpus, %+v): wanted %+v: %v", seed1, seed2, i, w.kernel.v1, w.kernel.cpus, w.units, wanted, err)
		}
	}
	left := w.undo()
	for _, l := range left {
		// Lists that have gone a long way can be in each other's way.
		if !w.kernel.v1 || l.Knob != cgroup.CPUSetCPUList && l.Knob != cgroup.CPUSetMemList {
			t.Fatalf("seed %d %d: %+v could not be restored", seed1, seed2, l)
		}
	}
	if diff := cmp.Diff(first.cgroups, w.kernel.cgroups); diff != "" && len(left) == 0 {
		t.Fatalf("seed %d %d: restored: %s", seed1, seed2, diff)
	}
	return w, min(len(left), 1)
}

// TestPlanProperties: whatever is wanted of whatever hierarchy, no change is refused by the
// kernel, all that was not refused is there then, and all of it can be undone.
func TestPlanProperties(t *testing.T) {
	n := fewerInVM(2000)
	if s := os.Getenv("OWCA_PLAN_SEQUENCES"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	first := uint64(1)
	if s := os.Getenv("OWCA_PLAN_SEED"); s != "" {
		first, _ = strconv.ParseUint(s, 10, 64)
	}
	changes, refused, stuck := 0, 0, 0
	for i := range n {
		w, s := sequence(t, first, uint64(i), nil)
		changes, refused, stuck = changes+w.changes, refused+w.refused, stuck+s
	}
	t.Logf("%d sequences: %d changes, %d refused; lists that could not be restored in %d", n, changes, refused, stuck)
	if refused*2 > changes || stuck*200 > n {
		t.Error("too many")
	}
}

// FuzzPlan: whatever is wanted is either made true, refused, or invalid.
func FuzzPlan(f *testing.F) {
	for i, kind := range append(slices.Clone(owca.AllocationKinds), "", "cpu_quotas") {
		for j, number := range []float64{0, 0.5, 1, -1, math.NaN(), math.Inf(1), 1e300, 5e-324, 1 << 63} {
			f.Add(uint64(i*100+j), string(kind), "t0", number, []string{"", "0", "max", "0-4294967295", "3-1", ",", "8:0"}[(i+j)%7], []byte{byte(j)})
		}
	}
	f.Fuzz(func(t *testing.T, seed uint64, kind, task string, number float64, text string, data []byte) {
		sequence(t, 2, seed, func(w *planWorld) []Wanted {
			x := Wanted{Task: owca.TaskID(task), Kind: owca.AllocationKind(kind), Owner: "fuzz"}
			x.Number, x.Text = number, text
			if len(data) > 0 {
				switch data[0] % 4 {
				case 1:
					x.IO = map[string]owca.IOLimit{text: {ReadBytes: binary.LittleEndian.Uint64(append(data, make([]byte, 8)...))}}
					x.Text = ""
				case 2:
					x.RDT = &owca.RDTAllocation{Name: &text, L3: string(data[1:])}
					x.Text = ""
				case 3:
					x.Release = true
				}
			}
			return []Wanted{x}
		})
	})
}
