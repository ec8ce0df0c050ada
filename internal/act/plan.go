package act

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/resctrl"
)

// Wanted is one allocation that shall be in effect, or be released.
type Wanted struct {
	Task  owca.TaskID
	Kind  owca.AllocationKind
	Owner string
	// Anew: the number means another value than when it was leased, as the units or the
	// cpus are others, so that to be within 0.05 of that is not enough.
	Anew bool
	owca.Allocation
}

// State is all that Plan knows of the host: what the kinds that are wanted need, of the
// tasks that they are wanted for.
type State struct {
	Units
	CPUs    int    // online
	CPUList string // the same as a list; "" = not known
	MemList string // NUMA nodes with memory
	// Tasks that exist: those that something is wanted for, and those that have leases on
	// their cgroups.
	Tasks map[owca.TaskID]*TaskState
	// Cgroups by path: those of the tasks, and their ancestors as far as they have limits; for
	// cpu_quota also those below that are leased.
	Cgroups map[string]*CgroupState
	// Leases that are held.
	Leases map[Target]*Lease
	// Yielded are those that somebody else has changed since: they stay as they are, and
	// that is no reason to refuse the rest.
	Yielded map[Yield]bool
	// Shares are the QoS classes of pods of which cpu_shares stand and are not wanted anew.
	Shares map[owca.TaskID]string
	// NoExclusive says why it could not be told which cpus are exclusive; nil: it could.
	NoExclusive error
	// Devices are the numbers, "8:0", of the devices that are named by path; absent: there is none.
	Devices map[string]string

	// Resctrl is nil where nothing can be allocated; NoResctrl says why.
	Resctrl   *resctrl.Info
	NoResctrl error
	Groups    []resctrl.ControlGroup
	Others    map[string]int // tasks per control group that Tasks does not have
}

// Yield is a target that a decision does without.
type Yield struct {
	Task owca.TaskID
	Kind owca.AllocationKind
	Target
}

// TaskState is one task.
type TaskState struct {
	Cgroups []string
	QoS     string // Kubernetes' class, "" = no pod
	// Exclusive are cpus that the kubelet's static CPU manager gave to it alone, as a list.
	Exclusive string
	Control   string // directory of its control group in resctrl
	// Decided: a control group stands for it, though it may have been there anyway.
	Decided bool
}

// CgroupState is one cgroup.
type CgroupState struct {
	IDs    [cgroup.NumKnobs]string // [cgroup.Control.ID], of those that Values has
	Values map[cgroup.Knob]string
	// Errors of the knobs that could not be read; [cgroup.ErrGone] if it is gone.
	Errors map[cgroup.Knob]error
	// LargestBelow is the highest CPUMax, as part of its period, of the cgroups below it
	// that Cgroups has not, "" if none of them has a limit; BelowPath is its path. V1 only.
	LargestBelow, BelowPath string
	// CPUsBelow and MemsBelow are all that the lists of those cgroups have. V1 only.
	CPUsBelow, MemsBelow string
	// V1: the CPU controller is v1's, where a child may not have more quota than its
	// parent; and that of cpusets, where it may not have more cpus.
	V1 bool
	// BFQ: the weight of I/O is that of bfq, 1 to 1000.
	BFQ bool
}

// Planned is the outcome of Plan.
type Planned struct {
	// Changes in the order in which they are to be made.
	Changes []Change
	// Refused is what this host does not allow, as opposed to what is invalid anywhere.
	Refused []Refusal
	// Bounded is what would be more if a cgroup above, or the quota, let it, whether or not
	// that needs a change: to be wanted again when those may have changed. What is leased and
	// was not wanted is among it, where a cgroup above is lowered.
	Bounded []Bounded
}

// Bounded is an allocation that is made only in part.
type Bounded struct {
	Task owca.TaskID
	Kind owca.AllocationKind
}

// Refusal is an allocation that cannot be made here, and why. The others are.
type Refusal struct {
	Task   owca.TaskID
	Kind   owca.AllocationKind
	Reason string
	// Gone: the cgroup was removed, so that there is nothing to tell.
	Gone bool
}

// Invalid is one allocation that no host would take.
type Invalid struct {
	Task   owca.TaskID
	Kind   owca.AllocationKind
	Reason string
}

// Error names the task, the kind and the reason.
func (e *Invalid) Error() string {
	return fmt.Sprintf("task %s: %s: %s", e.Task, e.Kind, e.Reason)
}

// Plan returns the changes that make what is wanted true: only what differs, parents before
// children where a limit is raised and children before parents where it is lowered, so that
// the kernel refuses none of them, nor of their undoing in reverse. It is pure.
//
// Each target is in it once, but for a group of resctrl that is made and then set. Of two
// entries for the same kind of a task, or for the same target with different values, the
// later wins. A release restores what the owner has leased of the kind, and is nothing if
// that is nothing.
//
// The error joins an [Invalid] for each allocation that is invalid anywhere: an unknown task
// or kind, a number that is not finite or out of range, a list that is none, more groups of
// resctrl than CLOSIDs; there are no changes then.
func Plan(s *State, wanted []Wanted) (Planned, error) {
	if len(wanted) == 0 {
		return Planned{}, nil
	}
	p := newPlanner(s, wanted)
	invalid := p.validate()
	rdt, err := p.rdt()
	if err := errors.Join(invalid, err); err != nil {
		return Planned{}, err
	}
	p.settle()
	return Planned{Changes: append(p.changes(), rdt...), Refused: p.refusals(), Bounded: p.bounded()}, nil
}

// planner is the state of one Plan.
type planner struct {
	*State
	entries []entry
	// steps are what is to be done, by what it is done to.
	steps    map[Target]*step
	byKnob   [cgroup.NumKnobs][]*step // the same; see sorted
	unsorted [cgroup.NumKnobs]bool
	// held are our own limits below those that change, by target; see holdBelow.
	held map[Target]*entry
	// shadowing are entries that have a target which an earlier one, or a release, is about.
	shadowing []*entry
	// again: an entry was marked, with which all has to be settled once more.
	again bool
	// leased are the targets by what they are leased for; nil until it is asked for.
	leased map[leaseKey][]*Lease
	// bases are how many tasks' first cgroups have a name, by that; nil as long.
	bases map[string]int
}

// entry is one of those wanted, that no later one overrides.
type entry struct {
	Wanted
	task *TaskState
	// invalid: no host would take it.
	invalid bool
	// refused is why it is; then its steps are void.
	refused string
	gone    bool
	// final: it is refused whatever becomes of the others.
	final bool
	// exact: what is leased for it cannot stay, even if it is near enough.
	exact bool
	// bounded: it gets less than it asks for.
	bounded bool
}

// step is a change before it is known whether it can be made.
type step struct {
	Target
	depth   int
	entry   *entry
	value   string
	note    string
	release bool
	// steady: the value is what is leased, being near enough to what is wanted.
	steady bool

	// made is for whom, if not for the entry. A lease that is put down to another becomes a
	// change even if the value stays.
	made  *madeFor
	renew bool
	// cpus of a burst, of which the value depends on the period.
	cpus float64
}

// madeFor is what a change is put down to.
type madeFor struct {
	task          owca.TaskID
	kind          owca.AllocationKind
	owner, reason string
}

func (e *entry) made() *madeFor { return &madeFor{e.Task, e.Kind, e.Owner, e.Reason} }

func (l *Lease) made() *madeFor { return &madeFor{l.For, l.Kind, l.Owner, l.Reason} }

type leaseKey struct {
	task  owca.TaskID
	kind  owca.AllocationKind
	owner string
}

func newPlanner(s *State, wanted []Wanted) *planner {
	type key struct {
		task owca.TaskID
		kind owca.AllocationKind
	}
	p := &planner{State: s, steps: make(map[Target]*step, len(wanted))}
	last := make(map[key]int, len(wanted))
	for i := range wanted {
		last[key{wanted[i].Task, wanted[i].Kind}] = i
	}
	p.entries = make([]entry, 0, len(last))
	for i := range wanted {
		w := &wanted[i]
		if last[key{w.Task, w.Kind}] == i {
			p.entries = append(p.entries, entry{Wanted: *w, task: s.Tasks[w.Task]})
		}
	}
	return p
}

func (e *entry) refuse(format string, args ...any) {
	if e.refused == "" {
		e.refused = fmt.Sprintf(format, args...)
	}
}

// refusals in the order of what was wanted.
func (p *planner) refusals() []Refusal {
	var list []Refusal
	for i := range p.entries {
		if e := &p.entries[i]; e.refused != "" {
			list = append(list, Refusal{Task: e.Task, Kind: e.Kind, Reason: e.refused, Gone: e.gone})
		}
	}
	return list
}

// bounded has what was wanted in the order of that.
func (p *planner) bounded() []Bounded {
	var list []Bounded
	for i := range p.entries {
		if e := &p.entries[i]; e.bounded && e.refused == "" {
			list = append(list, Bounded{e.Task, e.Kind})
		}
	}
	wanted := len(list)
	for _, e := range p.held {
		if b := (Bounded{e.Task, e.Kind}); e.bounded && e.refused == "" && !slices.Contains(list, b) {
			list = append(list, b)
		}
	}
	slices.SortFunc(list[wanted:], func(a, b Bounded) int { return cmp.Or(cmp.Compare(a.Task, b.Task), cmp.Compare(a.Kind, b.Kind)) })
	return list
}

// lease returns the one that is held of a target, of this very cgroup.
func (p *planner) lease(t Target) *Lease {
	l := p.Leases[t]
	if l == nil || t.Cgroup != "" && (p.Cgroups[t.Cgroup] == nil || l.ID != p.Cgroups[t.Cgroup].IDs[t.Knob]) {
		return nil
	}
	return l
}

// live returns the step of a target that is going to be done.
func (p *planner) live(path string, k cgroup.Knob) *step {
	if st := p.steps[Target{Cgroup: path, Knob: k}]; st != nil && st.entry.refused == "" {
		return st
	}
	return nil
}

// now returns the value that a knob has.
func (p *planner) now(path string, k cgroup.Knob) (string, bool) {
	c := p.Cgroups[path]
	if c == nil {
		return "", false
	}
	v, ok := c.Values[k]
	return v, ok
}

// put adds a step.
func (p *planner) put(st *step) {
	st.depth = depth(st.Cgroup)
	p.steps[st.Target] = st
	p.byKnob[st.Knob] = append(p.byKnob[st.Knob], st)
	p.unsorted[st.Knob] = true
}

// sorted are the live steps of a knob, parents before children, until the next call.
func (p *planner) sorted(k cgroup.Knob) []*step {
	if p.unsorted[k] {
		slices.SortFunc(p.byKnob[k], func(a, b *step) int {
			return cmp.Or(cmp.Compare(a.depth, b.depth), cmp.Compare(a.Cgroup, b.Cgroup))
		})
		p.unsorted[k] = false
	}
	p.byKnob[k] = slices.DeleteFunc(p.byKnob[k], func(st *step) bool { return st.entry.refused != "" || p.steps[st.Target] != st })
	return p.byKnob[k]
}

func depth(path string) int { return strings.Count(path, "/") }

// ancestors yields the paths above a cgroup, the nearest first, without the root.
func ancestors(path string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for {
			i := strings.LastIndexByte(path, '/')
			if i <= 0 {
				return
			}
			if path = path[:i]; !yield(path) {
				return
			}
		}
	}
}

// settle finds out what becomes of each entry. One that turns out to be refused leaves its
// targets to those that it had them instead of: then all is settled again, without it.
func (p *planner) settle() {
	for {
		p.claim()
		p.release()
		p.holdBelow()
		p.settleCPUMax()
		p.settleBurst()
		p.settleIdle()
		p.settleCPUSets()
		for _, e := range p.shadowing {
			if e.refused != "" {
				e.final, p.again = true, true
			}
		}
		if !p.again {
			return
		}
		p.again, p.shadowing = false, nil
		clear(p.steps)
		for k := range p.byKnob {
			p.byKnob[k] = p.byKnob[k][:0]
		}
		for i := range p.entries {
			e := &p.entries[i]
			e.bounded = false
			if !e.final && e.Kind != owca.RDTGroup {
				e.refused, e.gone = "", false
			}
		}
		for _, e := range p.held {
			if e.bounded = false; !e.final {
				e.refused = ""
			}
		}
	}
}

func (p *planner) yielded(e *entry, t Target) bool {
	return len(p.Yielded) > 0 && p.Yielded[Yield{e.Task, e.Kind, t}]
}

// claim finds out what each entry changes, the later ones first: what they want is had.
func (p *planner) claim() {
	for i := len(p.entries) - 1; i >= 0; i-- {
		e := &p.entries[i]
		if e.Release || e.Kind == owca.RDTGroup || e.final {
			continue
		}
		cgroups := p.usable(e)
		if e.refused != "" {
			continue
		}
		steps := p.steady(e, cgroups)
		if steps == nil {
			steps = p.desire(e, cgroups)
		}
		if len(p.Yielded) > 0 {
			steps = slices.DeleteFunc(steps, func(st step) bool { return p.yielded(e, st.Target) })
		}
		for _, st := range steps {
			other := p.steps[st.Target]
			if other == nil {
				continue
			}
			p.shadowing = append(p.shadowing, other.entry)
			if !st.Knob.Equal(other.value, st.value) {
				e.refuse("%s of %s is shared with task %s, which is given %s", st.Knob, st.Cgroup, other.entry.Task, other.value)
			}
		}
		for i := range steps {
			if l := p.ofAnother(e, steps[i].Target); l != nil && !l.Knob.Equal(l.New, steps[i].value) {
				e.refuse("%s of %s is shared with task %s, which was given %s", l.Knob, l.Cgroup, l.For, l.New)
			}
		}
		if e.refused != "" {
			continue
		}
		for j := range steps {
			if p.steps[steps[j].Target] == nil {
				p.put(&steps[j])
			}
		}
	}
}

// ofAnother returns the lease of a target that another task has for the same kind, which is
// not wanted for that now: what stands for it is not taken over by what was refused because
// of it.
func (p *planner) ofAnother(e *entry, t Target) *Lease {
	l := p.lease(t)
	if l == nil || l.For == e.Task || l.Kind != e.Kind || p.Tasks[l.For] == nil ||
		slices.ContainsFunc(p.entries, func(o entry) bool { return o.Task == l.For && o.Kind == l.Kind }) {
		return nil
	}
	return l
}

// usable returns the cgroups of the task in which a kind can be set, with its knob in them.
func (p *planner) usable(e *entry) []place {
	if len(e.task.Cgroups) == 0 {
		e.refuse("the task has no cgroup")
		return nil
	}
	var list []place
	for _, path := range e.task.Cgroups {
		if isPodOrAbove(path) {
			e.refuse("%s is a pod or above one in Kubernetes' hierarchy: limits go on its containers only", path)
			return nil
		}
		c := p.Cgroups[path]
		if c == nil {
			continue // removed
		}
		k, err := c.knob(e.Kind)
		switch {
		case errors.Is(err, cgroup.ErrGone):
			continue
		case errors.Is(err, errors.ErrUnsupported):
			e.refuse("%s has no %s", path, c.lacks(e.Kind))
			return nil
		case err != nil:
			e.refuse("%s of %s cannot be read: %v", k, path, err)
			return nil
		}
		if !slices.ContainsFunc(list, func(a place) bool { return a.path == path }) {
			list = append(list, place{path: path, CgroupState: c, knob: k, now: c.Values[k]})
		}
	}
	if len(list) == 0 {
		e.gone = true
		e.refuse("its cgroup was removed")
	}
	return list
}

// place is where an allocation of a kind goes.
type place struct {
	path string
	*CgroupState
	knob cgroup.Knob
	now  string
}

// knob returns the one of a kind that the cgroup has.
func (c *CgroupState) knob(kind owca.AllocationKind) (cgroup.Knob, error) {
	knobs := knobsOf(kind)
	var first error
	for _, k := range knobs {
		if _, ok := c.Values[k]; ok {
			return k, nil
		}
		// What is wrong with one that is there tells more than that another is not.
		if err := c.Errors[k]; err != nil && (first == nil || errors.Is(first, errors.ErrUnsupported)) {
			first = err
		}
	}
	if first == nil {
		first = errNotRead
	}
	return knobs[len(knobs)-1], first
}

// lacks names the file that it would take for a kind, and says why there may be none.
func (c *CgroupState) lacks(kind owca.AllocationKind) string {
	if kind == owca.MemoryHigh || kind == owca.MemoryLow {
		return knobsOf(kind)[0].String() + ": it takes the memory controller of cgroup v2; v1 has no such limit"
	}
	knobs := knobsOf(kind)
	k := knobs[len(knobs)-1]
	if c.V1 {
		k = knobs[0]
	}
	file := k.String()
	if err, ok := errors.AsType[*fs.PathError](c.Errors[k]); ok {
		_, file = cutLast(err.Path) // v1's name is another one
	}
	return file + ": the controller is not enabled there, or the kernel has not the feature"
}

var errNotRead = errors.New("it was not looked at")

// release undoes what the owners have leased, where nobody wants another value now.
func (p *planner) release() {
	for i := range p.entries {
		e := &p.entries[i]
		if !e.Release || e.Kind == owca.RDTGroup || e.final {
			continue
		}
		for _, l := range p.leases(e) {
			if l.Cgroup == "" || p.lease(l.Target) == nil || p.yielded(e, l.Target) {
				continue
			}
			if other := p.steps[l.Target]; other != nil {
				p.shadowing = append(p.shadowing, other.entry)
				other.renew = true // the lease is its from now on, whether or not the value stays
				continue
			}
			if _, ok := p.now(l.Cgroup, l.Knob); !ok {
				continue
			}
			p.put(&step{Target: l.Target, entry: e, value: l.First, release: true})
		}
	}
}

// leases are those of an entry, in the order of their making.
func (p *planner) leases(e *entry) []*Lease {
	if p.leased == nil {
		p.leased = make(map[leaseKey][]*Lease, len(p.Leases))
		for _, l := range p.Leases {
			k := leaseKey{l.For, l.Kind, l.Owner}
			p.leased[k] = append(p.leased[k], l)
		}
		for _, list := range p.leased {
			slices.SortFunc(list, func(a, b *Lease) int { return cmp.Compare(a.Seq, b.Seq) })
		}
	}
	return p.leased[leaseKey{e.Task, e.Kind, e.Owner}]
}

// change returns the change that a step is; ok is false if there is nothing to do.
func (p *planner) change(st *step) (c Change, ok bool) {
	now, ok := p.now(st.Cgroup, st.Knob)
	if !ok {
		return c, false
	}
	if flag := p.live(st.Cgroup, cgroup.CPUIdleFlag); flag != nil && flag.value == "0" && defaultWeight(st.Knob) != "" {
		if idle, _ := p.now(st.Cgroup, cgroup.CPUIdleFlag); idle == "1" {
			now = defaultWeight(st.Knob) // by then
		}
	}
	if !st.release && !st.renew && st.Knob.Equal(now, st.value) {
		return c, false
	}
	by := st.made
	if by == nil {
		by = st.entry.made()
	}
	c = Change{
		Target: st.Target, For: by.task, Kind: by.kind, Owner: by.owner, Reason: by.reason,
		ID: p.Cgroups[st.Cgroup].IDs[st.Knob], Old: now, New: st.value, Release: st.release, Note: st.note,
	}
	return c, true
}
