package act

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
)

// Decided is what one allocator decided.
type Decided struct {
	Owner       string
	Allocations map[owca.TaskID]owca.Allocations
	// Silent: it did not answer this time, so that what stands of it stays.
	Silent bool
}

// Report is what one Apply did.
type Report struct {
	// Changes that were made, or would have been with DryRun.
	Changes []Change
	// Failed are those that the kernel refused, with its errors.
	Failed  []Failure
	Refused []Refusal
	// Dropped are the owners of which a decision is invalid; the error of Apply joins them.
	Dropped []Drop
}

// Failure is a change that could not be made.
type Failure struct {
	Change
	Err error
}

// ErrNotStarted is returned for decisions of an Actor without a journal.
var errNotStarted = errors.New("act: not started: limits cannot be leased")

// Apply makes decisions true, along with all that was decided in earlier calls and is not in
// effect, as after a restart of a container. Of owners that decide on the same kind for a
// task the one that is later in the list wins, whenever it did; what the others have decided
// comes up when it releases its own. Nothing is kept of what an owner has decided if some of
// it is invalid (see [Plan]): the error joins a [Drop] for each such owner.
func (a *Actor) Apply(now time.Time, tasks []owca.TaskData, decided []Decided) (Report, error) {
	a.begin()
	a.tick++
	var report Report
	if len(decided) == 0 && len(a.order) == 0 {
		a.observed = false
		a.sync()
		return report, nil
	}
	if err := a.openHost(); err != nil {
		return report, err
	}
	if !a.observed {
		a.look(tasks)
	}
	a.observed = false
	a.merge(decided)
	if len(a.fresh) == 0 && (a.pending == 0 || a.dryPlanHolds()) {
		if a.pending > 0 {
			report.Changes, report.Refused = a.dryRun, a.dryRefused
		}
		a.sync()
		return report, nil
	}
	if a.journal == nil && !a.options.DryRun {
		return report, errNotStarted
	}

	planned, invalid := a.plan()
	report.Dropped = slices.Clone(a.drops)
	for _, r := range planned.Refused {
		a.refuse(&r)
	}
	report.Refused = planned.Refused
	for _, s := range a.asked {
		s.bounded = false
	}
	for _, b := range planned.Bounded {
		if s := a.standing[decisionKey{b.Task, b.Kind}]; s != nil {
			s.bounded = true
			if !s.pending && !s.adopted {
				a.setPending(s)
				s.retry = a.clock() + hostPace
			}
		}
	}
	changes := a.withoutYieldedGroups(planned.Changes)
	if a.options.DryRun {
		if len(a.yielded) > 0 {
			changes = a.leaveYielded(changes, &report)
		}
		report.Changes, a.dryRefused = changes, report.Refused
		a.logDryRun(changes)
		a.dryUntil = a.clock() + hostPace
		return report, invalid
	}
	a.make(now, changes, &report)
	for _, s := range a.asked {
		a.settle(s)
	}
	a.logChanges(report.Changes)
	if len(a.asked) > 0 {
		a.giveBack()
		a.closeUnused()
	}
	a.sync()
	return report, invalid
}

// sameAllocation says whether two decisions mean the same; a numeric change of a quota or
// of shares by 0.05 is none, as the original had it.
func sameAllocation(kind owca.AllocationKind, a, b *owca.Allocation) bool {
	number := a.Number == b.Number ||
		(kind == owca.CPUQuota || kind == owca.CPUShares) && math.Abs(a.Number-b.Number) <= unchanged
	return number && a.Text == b.Text && a.Release == b.Release && maps.Equal(a.IO, b.IO) && sameRDT(a.RDT, b.RDT)
}

func sameRDT(a, b *owca.RDTAllocation) bool {
	if a == nil || b == nil || a == b {
		return a == b
	}
	return a.L3 == b.L3 && a.MB == b.MB && (a.Name == b.Name || a.Name != nil && b.Name != nil && *a.Name == *b.Name)
}

// plan plans what is new together with what is not in effect. If some of the new is invalid,
// nothing of its owner is kept; the error tells.
func (a *Actor) plan() (Planned, error) {
	for now := a.clock(); ; {
		for a.checkHidden() != nil { // each drops one owner, and what that was the last one above
		}
		a.want(now)
		if len(a.wanted) == 0 {
			a.near.tell(a.log)
			a.keepFresh()
			return Planned{}, a.dropped()
		}
		a.state = a.gather(a.wanted)
		planned, err := Plan(a.state, a.wanted)
		if err == nil {
			a.near.tell(a.log)
			a.keepFresh()
			return planned, a.dropped()
		}
		// What was valid once may not be any more: those tasks wait, so that less is wanted
		// the next time.
		if !a.blame(err) && !a.postpone(err) {
			a.asked = a.asked[:0]
			return Planned{}, errors.Join(err, a.dropped())
		}
	}
}

// want lists what is to be planned: what is not in effect and due, then what is new.
func (a *Actor) want(now time.Duration) {
	a.wanted, a.asked = a.wanted[:0], a.asked[:0]
	quota := false // with another one above it, what is bounded may be more
	for k, c := range a.fresh {
		quota = quota || k.kind == owca.CPUQuota && !c.stays
	}
	if a.pending > 0 {
		for _, s := range a.order {
			if c, counted := a.fresh[s.decisionKey]; counted && !c.stays || !s.pending || s.moved || s.view == nil || s.retry > now && !(s.bounded && quota) {
				continue
			}
			a.asked = append(a.asked, s)
			w := Wanted{Task: s.task, Kind: s.kind, Owner: s.owner, Anew: s.anew, Allocation: s.allocation}
			if s.allocation.Release {
				w.Owner = a.leaseOwner(s)
			}
			a.wanted = append(a.wanted, w)
		}
	}
	for _, k := range a.freshKeys() {
		c, s := a.fresh[k], a.standing[k]
		if c.stays || (c.allocation.Release || c.comesUp) && s.view == nil {
			continue // until it is listed
		}
		w := Wanted{Task: k.task, Kind: k.kind, Owner: c.owner, Allocation: c.allocation}
		if c.allocation.Release {
			w.Owner = a.leaseOwner(s)
		}
		a.wanted = append(a.wanted, w)
	}
}

// freshKeys are sorted, so that it is not up to chance who wins.
func (a *Actor) freshKeys() []decisionKey {
	if len(a.fresh) == 0 {
		return nil
	}
	return slices.SortedFunc(maps.Keys(a.fresh), func(x, y decisionKey) int {
		return cmp.Or(cmp.Compare(a.fresh[x].turn, a.fresh[y].turn), cmp.Compare(x.task, y.task), cmp.Compare(x.kind, y.kind))
	})
}

// leaseOwner is who made the leases of a decision: another one than its own owner where
// that wanted what was in effect already.
func (a *Actor) leaseOwner(s *standing) string {
	if l := a.leases[Target{Task: s.task}]; s.kind == owca.RDTGroup && l != nil {
		return l.Owner
	}
	for i := range s.watches {
		if l := s.watches[i].lease; l != nil {
			return l.Owner
		}
	}
	return s.owner
}

// invalids returns the parts of an error of Plan.
func invalids(err error) (list []*Invalid) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			list = append(list, invalids(e)...)
		}
		return list
	}
	if e, ok := errors.AsType[*Invalid](err); ok {
		list = append(list, e)
	}
	return list
}

// postpone has what became invalid wait: of what was wanted, those that the error names,
// or all.
func (a *Actor) postpone(err error) bool {
	if len(a.asked) == 0 {
		return false
	}
	named := map[decisionKey]*Invalid{}
	for _, e := range invalids(err) {
		named[decisionKey{e.Task, e.Kind}] = e
	}
	for _, s := range a.asked {
		s.bounded = false // which would ask again at once
	}
	n := 0
	for _, s := range a.asked {
		if e := named[s.decisionKey]; e != nil {
			a.trouble(s, e.Reason)
			a.backoff(s, lastRetry)
			n++
		}
	}
	if n == 0 {
		for _, s := range a.asked {
			a.trouble(s, err.Error())
			a.backoff(s, lastRetry)
		}
	}
	return true
}

// The pace at which what could not be done is tried again.
const (
	firstRetry = time.Second
	lastRetry  = 5 * time.Minute
	// absentRetry is that at which a container is looked for, which may be back.
	absentRetry = 4 * time.Second
)

func (a *Actor) backoff(s *standing, longest time.Duration) {
	s.retry = a.clock() + min(firstRetry<<min(s.failures, 9), longest)
	s.failures++
}

// trouble notes why a decision is not in effect, and tells when that is another reason.
func (a *Actor) trouble(s *standing, why string) {
	s.troubled = a.tick
	if s.problem == why {
		return
	}
	s.problem = why
	if a.troubles.tick != a.tick {
		a.troubles.tick, a.troubles.told = a.tick, 0
	}
	level := slog.LevelWarn
	switch a.troubles.told++; {
	case a.troubles.told == maxLogged+1:
		a.log.Warn("more decisions are not in effect; log_level debug tells which")
		fallthrough
	case a.troubles.told > maxLogged:
		level = slog.LevelDebug
	}
	a.log.Log(context.Background(), level, "a decision is not in effect; it is tried again", "task", s.task, "kind", s.kind, "owner", s.owner, "why", why)
}

// refuse notes what this host does not allow.
func (a *Actor) refuse(r *Refusal) {
	s := a.standing[decisionKey{r.Task, r.Kind}]
	switch {
	case s == nil:
	case r.Gone:
		s.absent = a.tick
	default:
		if s.problem != r.Reason {
			a.stats.Refused++
		}
		a.trouble(s, r.Reason)
	}
}

// make leases and makes changes, in order.
func (a *Actor) make(now time.Time, changes []Change, report *Report) {
	for len(changes) > 0 {
		// One batch has each target once, so that each step of it can be taken back.
		n := 0
		seen := make(map[Target]struct{}, len(changes))
		for ; n < len(changes); n++ {
			if _, twice := seen[changes[n].Target]; twice {
				break
			}
			seen[changes[n].Target] = struct{}{}
		}
		a.makeBatch(now, changes[:n], report)
		changes = changes[n:]
	}
}

func (a *Actor) makeBatch(now time.Time, batch []Change, report *Report) {
	take := batch
	if slices.ContainsFunc(batch, isRelease) {
		// To give a value back needs no lease: it is among those that are looked for.
		take = slices.DeleteFunc(slices.Clone(batch), isRelease)
	}
	taken := a.journal.Take(now, take)
	if taken != nil {
		a.stats.JournalErrors++
	}
	a.report("journal", taken, "the journal of leases cannot be written: no limit is changed until it can")
	a.dirty = a.dirty || len(take) > 0 && taken == nil // there is history to be compacted some day
	for i := range batch {
		c := &batch[i]
		if taken != nil && !isRelease(*c) {
			a.failed(c, taken, "", report)
			continue
		}
		if err := a.change(c); err != nil {
			if !isRelease(*c) {
				a.unmade(c, err)
			}
			a.failed(c, err, hintOf(err), report)
			continue
		}
		a.stats.Changes++
		if len(a.unset) > 0 {
			a.reportTarget(c, nil, "")
		}
		report.Changes = append(report.Changes, *c)
		if c.Knob == cgroup.CPUIdleFlag && c.Cgroup != "" && c.New == "0" {
			a.wake(c.For)
		}
		if v := a.views[c.For]; v != nil {
			v.stale = true
		}
		if !isRelease(*c) {
			if l := a.journal.Lease(c.Target); l != nil {
				a.leases[c.Target] = l
			}
		} else if l := a.leases[c.Target]; l != nil {
			a.end(l, EndReleased)
		}
	}
}

// unmade finds out what has become of a limit that could not be set. Its lease stays if that
// is of our making, be it but a part of what was to be set.
func (a *Actor) unmade(c *Change, err error) {
	a.dirty = true
	if now, ours := a.leftOf(c, err); ours {
		l := a.journal.Lease(c.Target)
		if a.leases[c.Target] = l; now != "" {
			a.journal.Effect(c.Target, now)
			return
		}
		if a.halves == nil {
			a.halves = map[Target]bool{}
		}
		a.halves[c.Target] = true
		return
	}
	a.journal.Drop(c.Target)
	if a.journal.Lease(c.Target) == nil {
		delete(a.leases, c.Target)
	}
}

// leftOf returns what a change that failed has left, if it has; "" if that cannot be read.
func (a *Actor) leftOf(c *Change, err error) (now string, ours bool) {
	l := a.journal.Lease(c.Target)
	if l == nil || !errors.Is(err, cgroup.ErrHalf) {
		return "", false
	}
	n := a.node(c.Cgroup)
	if n == nil {
		return "", false
	}
	switch now, err = n.Get(c.Knob); {
	case errors.Is(err, cgroup.ErrGone), errors.Is(err, errors.ErrUnsupported):
		return "", false
	case err != nil:
		return "", true
	}
	return now, !c.Knob.Equal(now, c.Old) && l.ours(now)
}

func isRelease(c Change) bool { return c.Release || c.Undo }

// change makes one change, and notes what took effect.
func (a *Actor) change(c *Change) error {
	if c.Cgroup == "" {
		return a.changeGroup(c)
	}
	n, err := a.openNode(c.Cgroup)
	if errors.Is(err, fs.ErrNotExist) || err == nil && n.ID(c.Knob) != c.ID {
		return fmt.Errorf("%s: %w", c.Cgroup, cgroup.ErrGone)
	}
	if err != nil {
		return err
	}
	// Meanwhile the journal has waited for the disk.
	if c.Release {
		if now, err := n.Get(c.Knob); err == nil && !c.Knob.Equal(now, c.Old) {
			return cgroup.ErrChanged
		}
		return setBack(n.Control, c.Knob, c.New)
	}
	value, err := n.Replace(c.Knob, c.Old, c.New)
	if err != nil {
		return err
	}
	if value != "" && value != c.New {
		a.effect(c, value)
	}
	return nil
}

// effect notes what took effect where it is not what was written.
func (a *Actor) effect(c *Change, value string) {
	c.New = value
	a.journal.Effect(c.Target, value)
	a.dirty = true
}

// failed notes a change that could not be made; hint says what to do about that.
func (a *Actor) failed(c *Change, err error, hint string, report *Report) {
	a.stats.Failed++
	report.Failed = append(report.Failed, Failure{*c, err})
	moved := errors.Is(err, cgroup.ErrGone) || errors.Is(err, cgroup.ErrChanged)
	if l := a.leases[c.Target]; l != nil && moved {
		a.recheck(l)
	}
	s := a.standing[decisionKey{c.For, c.Kind}]
	if s == nil {
		// Of another kind than what it was made for.
		a.reportTarget(c, err, "a limit could not be set")
		return
	}
	if moved {
		if errors.Is(err, cgroup.ErrChanged) && s.decided == a.tick {
			s.takeAgain(c.Target)
		}
		s.absent = a.tick // the next tick knows more
		return
	}
	if mayBeInTheWay(c.Knob, err) && !s.lookClosely {
		// The next tick can tell why.
		s.lookClosely, s.troubled = true, a.tick
		return
	}
	why := err.Error()
	if hint != "" {
		why += ": " + hint
	}
	a.trouble(s, why)
}

// takeAgain has a decision of this tick replace what somebody else has set before it, as it
// does where that is known.
func (s *standing) takeAgain(t Target) {
	for i := range s.watches {
		if w := &s.watches[i]; w.path == t.Cgroup && w.knob == t.Knob {
			*w = watch{}
		}
	}
}

// mayBeInTheWay says whether the kernel may have refused a value for the burst or for what
// cgroups below have (tg_set_cfs_bandwidth, on v1 tg_cfs_schedulable_down, kernel/sched/core.c;
// validate_change, cpuset-v1.c).
func mayBeInTheWay(k cgroup.Knob, err error) bool {
	switch k {
	case cgroup.CPUMax:
		return errors.Is(err, syscall.EINVAL)
	case cgroup.CPUSetCPUList, cgroup.CPUSetMemList:
		return errors.Is(err, syscall.EBUSY)
	}
	return false
}

// hintOf says what to do about what the kernel refuses.
func hintOf(err error) string {
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		return ""
	}
	switch errno {
	case syscall.EACCES, syscall.EPERM:
		// Of a value rather than of the file (validate_change, kernel/cgroup/cpuset-v1.c).
		if e, ok := errors.AsType[*fs.PathError](err); ok && errno == syscall.EACCES && e.Err != error(errno) && strings.Contains(e.Path, "/cpuset.") {
			return "a cgroup above it has not all of that (cgroup v1)"
		}
		return "owca needs to run as root, or with CAP_DAC_OVERRIDE"
	case syscall.EROFS:
		return "mount the cgroup hierarchy read-write"
	case syscall.EINVAL, syscall.ERANGE:
		return "a limit of a cgroup above or below may be in the way, or the kernel has other bounds"
	case syscall.EBUSY:
		return "something else uses it, as exclusive cpus"
	case syscall.ENOSPC:
		return "nothing of it would be left, or none is free"
	}
	return ""
}

// settle notes whether a decision is in effect.
func (a *Actor) settle(s *standing) {
	a.watch(s)
	if s.view != nil && !slices.ContainsFunc(s.watches, isYielded) {
		// Even if only a part is in effect: what somebody else changes of that is yielded.
		s.resources = s.view.task.Resources
	}
	if s.view != nil && slices.ContainsFunc(s.view.cgroups, a.absent) {
		s.absent = a.tick // one container of several
		a.setPending(s)
	}
	if s.troubled == a.tick {
		a.backoff(s, lastRetry)
		return
	}
	if s.absent == a.tick {
		a.backoff(s, absentRetry)
		return
	}
	if s.allocation.Release && a.watching(s) {
		// Of cgroups that are not in the list any more, or a task that is not.
		if s.retry = 0; s.kind == owca.RDTGroup {
			a.backoff(s, lastRetry) // to look at resctrl takes long
		}
		return
	}
	if s.problem != "" {
		a.log.Info("a decision is in effect now", "task", s.task, "kind", s.kind, "owner", s.owner)
		s.problem = ""
	}
	if s.pending {
		s.pending = false
		a.pending--
	}
	s.failures, s.retry, s.anew, s.lookClosely = 0, 0, false, false
	if s.allocation.Release {
		a.forget(s)
		return
	}
	if s.bounded {
		// What bounds it may be more one day, and nobody tells.
		a.setPending(s)
		s.retry = a.clock() + hostPace
	}
}

// wake has the weight of a task put into effect again that was idle until now.
func (a *Actor) wake(task owca.TaskID) {
	if other := a.standing[decisionKey{task, owca.CPUShares}]; other != nil && !other.adopted {
		a.setDue(other)
		// What is there now is nobody else's.
		for i := range other.watches {
			other.watches[i].waking = !other.watches[i].yielded
		}
	}
}

// absent says whether a cgroup was not there when the plan was made.
func (a *Actor) absent(path string) bool {
	c := a.state.Cgroups[path]
	if c == nil {
		return false
	}
	for _, err := range c.Errors {
		if errors.Is(err, cgroup.ErrGone) {
			return true
		}
	}
	return false
}

// watch finds out what of a decision is to be looked at from now on.
func (a *Actor) watch(s *standing) {
	if s.view == nil {
		return
	}
	before := s.watches
	s.watches = nil
	for _, path := range s.view.cgroups {
		n := a.nodes[path]
		c := a.state.Cgroups[path]
		if n == nil || c == nil {
			continue
		}
		own := false
		for _, k := range Knobs(s.kind) {
			w := watch{node: n, path: path, id: n.ID(k), knob: k}
			if i := slices.IndexFunc(before, func(b watch) bool {
				return b.yielded && b.path == path && b.id == w.id && b.knob == k
			}); i >= 0 {
				s.watches = append(s.watches, before[i])
				own = true
				continue
			}
			value, readable := c.Values[k]
			if l := a.leases[Target{Cgroup: path, Knob: k}]; l != nil && l.ID == w.id && a.holds(s, l) {
				w.lease, w.value, w.broken = l, l.New, a.halves[l.Target]
			} else if !readable || own || !isOwnKnob(s.kind, k) || s.troubled == a.tick || s.absent == a.tick {
				continue
			} else if w.value = value; l != nil && l.ID == w.id {
				w.value = l.New // of another task with the same cgroup
			}
			own = own || isOwnKnob(s.kind, k)
			s.watches = append(s.watches, w)
		}
	}
	// What is leased of others is given back when they have been away for a while.
	for _, w := range before {
		if w.lease == nil || a.leases[w.lease.Target] != w.lease || slices.ContainsFunc(s.watches, func(n watch) bool { return n.lease == w.lease }) ||
			!a.holds(s, w.lease) {
			continue
		}
		if w.due == 0 {
			w.due = a.clock() + unlistedPatience
		}
		s.watches = append(s.watches, w)
	}
}

// holds says whether a lease is of a decision: of its kind, or of another kind that was
// changed along with it.
func (a *Actor) holds(s *standing, l *Lease) bool {
	return l.For == s.task && (l.Kind == s.kind || a.standing[decisionKey{l.For, l.Kind}] == nil)
}

func isOwnKnob(kind owca.AllocationKind, k cgroup.Knob) bool {
	return slices.Contains(knobsOf(kind), k)
}

// maxLogged bounds the lines of one tick about changes; the others are for debugging.
const maxLogged = 20

func (a *Actor) logChanges(changes []Change) {
	if len(changes) == 0 {
		return
	}
	for i := range changes {
		level := slog.LevelInfo
		if i >= maxLogged {
			level = slog.LevelDebug
		}
		a.logChange(level, "a limit was set", &changes[i])
	}
	if n := len(changes); n > maxLogged {
		a.log.Info("more limits were set", "changes", n-maxLogged)
	}
}

func (a *Actor) logChange(level slog.Level, message string, c *Change) {
	if c.Release && message == "a limit was set" {
		return // its end was told
	}
	attrs := []any{"task", c.For, "kind", c.Kind, "target", c.name(), "old", c.Old, "new", c.New, "owner", c.Owner}
	if c.Reason != "" {
		attrs = append(attrs, "reason", c.Reason)
	}
	if c.Note != "" {
		attrs = append(attrs, "note", c.Note)
	}
	a.log.Log(context.Background(), level, message, attrs...)
}

// dryPlanHolds says whether the plan of a dry run, in which nothing ever comes into effect, is
// to be kept: until something is decided, tasks or their cgroups change, or for a while.
func (a *Actor) dryPlanHolds() bool { return a.options.DryRun && a.clock() < a.dryUntil }

// logDryRun tells the plan when it is another one.
func (a *Actor) logDryRun(changes []Change) {
	same := slices.EqualFunc(changes, a.dryRun, func(x, y Change) bool {
		return x.Target == y.Target && x.Old == y.Old && x.New == y.New && x.Release == y.Release
	})
	if a.dryRun = slices.Clone(changes); same {
		return
	}
	for i := range changes {
		level := slog.LevelInfo
		if i >= maxLogged {
			level = slog.LevelDebug
		}
		a.logChange(level, "dry_run: a limit would be set", &changes[i])
	}
	a.log.Info("dry_run: this is the plan from now on", "changes", len(changes))
}
