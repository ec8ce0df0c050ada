package act

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
)

// A decisionKey is what one decision is about.
type decisionKey struct {
	task owca.TaskID
	kind owca.AllocationKind
}

// standing is a decision that is to be in effect until there is another one.
type standing struct {
	decisionKey
	owner      string
	allocation owca.Allocation
	// adopted: of an earlier agent, whose leases are all that is known of it.
	adopted bool
	votes   []vote        // of all owners; that of owner is in effect
	view    *view         // nil: the task is not listed
	expires time.Duration // what is leased of a task that is not listed; 0 = not
	watches []watch
	// resources are those of the task when this was last put into effect.
	resources map[string]float64

	pending bool // not in effect
	anew    bool // to be written even if it is the same number
	bounded bool // it could be more under another limit
	// moved: somebody else moved the task to another control group, where it stays until
	// there is another decision.
	moved bool
	// lookClosely: the kernel refused it, maybe for a burst or what cgroups below have.
	lookClosely bool
	decided     uint64        // the tick in which it became what it is
	retry       time.Duration // not before
	failures    uint
	problem     string // that was told
	troubled    uint64 // the tick in which something was in its way
	absent      uint64 // the tick in which a cgroup was not there
}

// A watch is one cgroup in which a decision is in effect, or was until somebody else
// changed it.
type watch struct {
	node *node // nil: not open yet
	path string
	id   string
	knob cgroup.Knob
	// value is what it read the last time; with a lease it means the same as Lease.New.
	value string
	lease *Lease // nil: the value was there already
	// yielded: somebody else changed it. Nothing is done here any more until the cgroup is
	// made anew, the orchestrator gives the task other resources, or there is another
	// decision.
	yielded bool
	// broken: of an earlier agent, which may have been killed while it wrote.
	broken bool
	// waking: it is a weight that is what the kernel makes it, until it is set again.
	waking bool
	due    time.Duration // to be given back, as the cgroup is not the task's any more; 0 = not
}

// A view is what is known of a task that is listed.
type view struct {
	seen     uint64 // generation
	task     *owca.TaskData
	cgroups  []string
	standing []*standing
	// allocations were made of limits and of leases; stale: these are others now.
	limits      limits
	stale       bool
	allocations owca.Allocations
}

// limits are what was measured of a task.
type limits struct {
	cores, shares, weight          owca.Value
	hasCores, hasShares, hasWeight bool
}

func limitsOf(m owca.Measurements) (l limits) {
	for i := range m {
		switch r := &m[i]; r.Desc {
		case owca.TaskCPULimit:
			l.cores, l.hasCores = r.Value, true
		case owca.TaskCPUShares:
			l.shares, l.hasShares = r.Value, true
		case owca.TaskCPUWeight:
			l.weight, l.hasWeight = r.Value, true
		}
	}
	return l
}

// SetGroups gives it resctrl, as of this tick; nil = there is none.
func (a *Actor) SetGroups(g Groups) {
	a.begin()
	a.groups = g
	if g != nil && !a.rdt.defaultsDone {
		a.setDefaults()
	}
}

// maxLooked is how many values are looked at in a tick: of more than that, each comes in turn,
// all of n within n/maxLooked ticks rounded up, so that a thousand leases cost no more than a
// few percent of a tick. What is to be written is read anyway just before.
const maxLooked = 200

// Observe looks at the leases, before anything is decided: those whose cgroup is gone end,
// and those whose value somebody else changed; see maxLooked. It fills the Allocations of
// tasks.
func (a *Actor) Observe(now time.Time, tasks []owca.TaskData) {
	a.begin()
	a.ended = 0
	if err := a.openHost(); err != nil {
		return // Apply tells
	}
	a.look(tasks)
	a.lookAtWatches()
	a.giveBack()
	for i := 0; i < len(a.order); i++ {
		s := a.order[i]
		if (s.view == nil || s.adopted) && !a.watching(s) && (s.view == nil || !a.comeUp(s)) {
			a.forget(s)
			i--
		}
	}
	a.observeGroups()
	a.guard()
	a.fill(tasks)
	a.observed = true
}

// lookAtWatches looks at the values whose turn it is.
func (a *Actor) lookAtWatches() {
	looked := 0
	for range a.order {
		if a.turn >= len(a.order) {
			a.turn = 0
		}
		s := a.order[a.turn]
		if looked > 0 && looked+len(s.watches) > maxLooked {
			return
		}
		looked += len(s.watches)
		for w := range s.watches {
			a.check(s, &s.watches[w])
		}
		a.turn++
	}
}

// look finds out which tasks there are.
func (a *Actor) look(tasks []owca.TaskData) {
	a.seen++
	a.listed = a.listed[:0]
	for i := range tasks {
		t := &tasks[i]
		v := a.views[t.ID]
		if v == nil {
			v = &view{stale: true}
			a.views[t.ID] = v
			a.rejoin(t.ID, v)
		}
		v.seen, v.task = a.seen, t
		a.listed = append(a.listed, v)
		if !sameStrings(v.cgroups, t.Cgroups) {
			v.cgroups = slices.Clone(t.Cgroups)
			v.stale, a.dryUntil = true, 0
			a.forgetUnset(t.ID)
			for _, s := range v.standing {
				a.setDue(s) // that of containers made anew
			}
		}
		for _, s := range v.standing {
			a.unyield(s, t)
		}
	}
	if a.unlisted > 0 && len(tasks) > 0 {
		for _, s := range a.order { // of an earlier agent
			if s.view == nil && s.task != "" && s.expires == 0 {
				s.expires = a.clock() + unlistedPatience
			}
		}
	}
	if len(a.views) == len(tasks) {
		return
	}
	for id, v := range a.views {
		if v.seen == a.seen {
			continue
		}
		for _, s := range v.standing {
			s.view, s.expires = nil, a.clock()+unlistedPatience
			a.unlisted++
		}
		delete(a.views, id)
		a.forgetUnset(id)
		a.dryUntil = 0
	}
}

// forgetUnset forgets what was told of the limits of a task.
func (a *Actor) forgetUnset(id owca.TaskID) {
	if len(a.unset) > 0 {
		maps.DeleteFunc(a.unset, func(_ Target, u unset) bool { return u.task == id })
	}
}

// sameStrings is slices.Equal; lists of discovery most often are the very same.
func sameStrings(a, b []string) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}

// rejoin gives a task that is listed again what was decided for it.
func (a *Actor) rejoin(id owca.TaskID, v *view) {
	if a.unlisted == 0 {
		return
	}
	for _, s := range a.order {
		if s.view == nil && s.task == id {
			s.view, s.expires = v, 0
			v.standing = append(v.standing, s)
			a.unlisted--
		}
	}
}

func isYielded(w watch) bool { return w.yielded }

// unyield takes a decision up again when the orchestrator has given the task other
// resources: an in-place resize overwrites limits, and means nothing by it.
func (a *Actor) unyield(s *standing, t *owca.TaskData) {
	if s.adopted || !slices.ContainsFunc(s.watches, isYielded) || maps.Equal(s.resources, t.Resources) {
		return
	}
	for i := range s.watches {
		s.watches[i].yielded = false
	}
	a.setPending(s)
}

// unlistedPatience is for how long a limit stays on a cgroup of a task that is not listed any
// more, or on one that is not the task's any more: both may come back, static pods within
// half a minute.
const unlistedPatience = time.Minute

// giveBack restores without a plan what no plan reaches: leases of tasks that are not listed,
// and on cgroups that are not their tasks' any more.
func (a *Actor) giveBack() {
	var (
		due map[*Lease]bool
		of  []*standing
		now = a.clock()
	)
	for _, s := range a.order {
		if s.task == "" || s.retry > now {
			continue
		}
		all := s.view == nil && (s.allocation.Release || s.expires > 0 && now >= s.expires)
		n := len(due)
		for i := range s.watches {
			w := &s.watches[i]
			if w.lease == nil || !all && (w.due == 0 || now < w.due && !s.allocation.Release) {
				continue
			}
			if due == nil {
				due = map[*Lease]bool{}
			}
			due[w.lease] = true
		}
		if all && s.kind == owca.RDTGroup {
			for _, l := range a.leases {
				if l.Cgroup == "" && l.For == s.task && l.Kind == s.kind && (l.Task == s.task || s.adopted) {
					if due == nil {
						due = map[*Lease]bool{}
					}
					due[l] = true
				}
			}
		}
		if len(due) > n || all {
			of = append(of, s)
		}
	}
	if len(of) == 0 {
		return
	}
	_ = a.restoreWhere(EndReleased, func(l *Lease) bool { return due[l] }) // logged
	for _, s := range of {
		switch {
		case slices.ContainsFunc(s.watches, func(w watch) bool { return due[w.lease] }):
			a.backoff(s, lastRetry)
		case s.allocation.Release && !a.watching(s):
			a.forget(s)
		}
	}
}

// check looks at one value.
func (a *Actor) check(s *standing, w *watch) {
	if w.path == "" {
		return
	}
	if w.node == nil || w.node.closed {
		n := a.node(w.path)
		if n == nil {
			a.lost(s, w)
			return
		}
		w.node = n
	}
	value, err := w.node.Get(w.knob)
	switch {
	case errors.Is(err, cgroup.ErrGone), (err == nil || errors.Is(err, errors.ErrUnsupported)) && w.node.ID(w.knob) != w.id:
		a.lost(s, w)
	case err == nil:
		a.compare(s, w, value)
	}
	// Otherwise it could not be told.
}

// compare ends the lease of a value that is another one now.
func (a *Actor) compare(s *standing, w *watch, value string) {
	if value == w.value || w.yielded || w.waking {
		return
	}
	meant := w.value
	if w.lease != nil {
		meant = w.lease.New
	}
	if w.knob.Equal(value, meant) || w.knob == cgroup.IOMaxLimits && w.knob.Equal(value, a.withoutGoneDisks(meant, value)) {
		w.value = value
		return
	}
	if w.broken && w.lease != nil && w.lease.ours(value) {
		// What it has come to is what it is from now on.
		w.value, w.broken = value, false
		delete(a.halves, w.lease.Target)
		a.journal.Effect(w.lease.Target, value)
		a.dirty = true
		return
	}
	if a.idle(w) {
		return
	}
	if w.lease != nil && !a.holds(s, w.lease) {
		// It has become that of another decision, which watches it.
		w.lease, w.value = nil, w.lease.New
		if !isOwnKnob(s.kind, w.knob) {
			*w = watch{}
			return
		}
	}
	w.yielded, w.value = true, value
	if s.view != nil {
		s.view.stale = true
	}
	if w.lease != nil {
		a.end(w.lease, EndForeign)
	}
}

// withoutGoneDisks leaves out of limits those that now has not because there is no such disk any
// more: they went with it.
func (a *Actor) withoutGoneDisks(limits, now string) string {
	lines := slices.DeleteFunc(strings.Split(limits, "\n"), func(line string) bool {
		device, _, _ := strings.Cut(line, " ")
		if strings.Contains("\n"+now, "\n"+device+" ") {
			return false
		}
		_, err := os.Stat(filepath.Join(a.root, "sys/dev/block", device))
		return errors.Is(err, fs.ErrNotExist)
	})
	return strings.Join(lines, "\n")
}

// idle says whether a watch is of a weight that our own cpu.idle hides.
func (a *Actor) idle(w *watch) bool {
	if w.knob != cgroup.CPUSharesV1 && w.knob != cgroup.CPUWeightV2 {
		return false
	}
	l := a.leases[Target{Cgroup: w.path, Knob: cgroup.CPUIdleFlag}]
	return l != nil && l.ID == w.id && l.New == "1"
}

// lost is for a cgroup that was removed, even if there is another one by its name.
func (a *Actor) lost(s *standing, w *watch) {
	if w.node != nil {
		a.closeNode(w.path)
	}
	if w.lease != nil {
		a.end(w.lease, EndGone)
	}
	*w = watch{} // watches nothing, until the next plan
	a.setDue(s)
}

// setDue has a decision put into effect again, at once.
func (a *Actor) setDue(s *standing) {
	if !s.adopted {
		a.setPending(s)
		s.retry, s.failures = 0, 0
	}
}

// watching says whether a decision holds anything.
func (a *Actor) watching(s *standing) bool {
	if s.kind == owca.RDTGroup {
		if s.adopted {
			for _, l := range a.leases {
				if l.For == s.task && l.Kind == s.kind {
					return true
				}
			}
		}
		return a.leases[Target{Task: s.task}] != nil
	}
	return slices.ContainsFunc(s.watches, func(w watch) bool { return w.lease != nil })
}

func (a *Actor) standingOf(k decisionKey) *standing {
	s := a.standing[k]
	if s != nil {
		return s
	}
	s = &standing{decisionKey: k}
	a.standing[k] = s
	a.order = append(a.order, s)
	if v := a.views[k.task]; v != nil {
		s.view = v
		v.standing = append(v.standing, s)
	} else if k.task != "" {
		a.unlisted++
	}
	return s
}

// forget drops a decision.
func (a *Actor) forget(s *standing) {
	a.dryUntil = 0
	delete(a.standing, s.decisionKey)
	a.order = slices.DeleteFunc(a.order, func(o *standing) bool { return o == s })
	if s.pending {
		a.pending--
	}
	if s.view == nil {
		if s.task != "" {
			a.unlisted--
		}
		return
	}
	s.view.standing = slices.DeleteFunc(s.view.standing, func(o *standing) bool { return o == s })
	s.view.stale = true
}

func (a *Actor) setPending(s *standing) {
	a.dryUntil = 0
	if !s.pending {
		s.pending = true
		a.pending++
	}
}

// fill gives tasks their Allocations. A map is made anew when something in it changes, as
// a component may have kept the old one.
func (a *Actor) fill(tasks []owca.TaskData) {
	for i := range tasks {
		t, v := &tasks[i], a.listed[i]
		if l := limitsOf(t.Measurements); v.stale || l != v.limits {
			v.limits, v.stale = l, false
			v.allocations = a.allocationsOf(v)
		}
		t.Allocations = v.allocations
	}
}

// allocationsOf returns what is in effect: cpu_quota and cpu_shares as measured, and all
// that was decided and still is as it was decided.
func (a *Actor) allocationsOf(v *view) owca.Allocations {
	m := owca.Allocations{}
	if l := &v.limits; l.hasCores && a.host.cpus > 0 {
		m[owca.CPUQuota] = owca.Allocation{Number: min(1, l.cores.Float(owca.One)/float64(a.host.cpus))}
	}
	measured := func(k cgroup.Knob, value owca.Value, has bool) {
		if n, ok := value.IsInt(); has && ok {
			if kind, is, ok := Current(a.options.Units, a.host.cpus, k, strconv.FormatUint(n, 10)); ok {
				m[kind] = is
			}
		}
	}
	measured(cgroup.CPUWeightV2, v.limits.weight, v.limits.hasWeight)
	measured(cgroup.CPUSharesV1, v.limits.shares, v.limits.hasShares)
	for _, s := range v.standing {
		if is, ok := a.inEffect(s); ok {
			is.Reason = s.allocation.Reason
			m[s.kind] = is
		}
	}
	if len(m) == 0 {
		return nil
	}
	return m
}

// Current returns what a lease on a cgroup has come to; see the function Current.
func (a *Actor) Current(l *Lease) (owca.AllocationKind, owca.Allocation, bool) {
	return a.current(l.Cgroup, l.Knob, l.New)
}

// current is Current of a value in a cgroup, of which it takes the period for a burst.
func (a *Actor) current(path string, k cgroup.Knob, value string) (owca.AllocationKind, owca.Allocation, bool) {
	if k != cgroup.CPUMaxBurst || path == "" {
		return Current(a.options.Units, a.host.cpus, k, value)
	}
	n, err := a.openNode(path)
	if err != nil {
		return "", owca.Allocation{}, false
	}
	quota, err := n.Get(cgroup.CPUMax)
	if err != nil {
		return "", owca.Allocation{}, false
	}
	is, ok := CurrentBurst(a.host.cpus, quota, value)
	return owca.CPUBurst, is, ok
}

// inEffect returns what a decision has come to, unless that is up to somebody else in one
// of the cgroups.
func (a *Actor) inEffect(s *standing) (is owca.Allocation, ok bool) {
	if s.kind == owca.RDTGroup {
		return a.groupOf(s)
	}
	n := 0
	for i := range s.watches {
		w := &s.watches[i]
		kind, one, ok := a.current(w.path, w.knob, w.value)
		if !ok || w.path == "" || kind != s.kind {
			continue
		}
		if w.yielded || w.waking {
			return is, false
		}
		if n++; n == 1 {
			is = one
		} else if kind == owca.CPUQuota || kind == owca.CPUShares || kind == owca.CPUBurst {
			is.Number += one.Number // of the containers of a pod
		}
	}
	if s.kind == owca.CPUQuota {
		is.Number = min(1, is.Number)
	}
	return is, n > 0 && n == len(s.view.cgroups)
}
