package act

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/resctrl"
)

// groupsState is what is known of resctrl between ticks.
type groupsState struct {
	defaultsDone  bool
	defaultsRetry time.Duration // when to try again what failed; 0: nothing
	used          bool          // there were Groups in the last tick
	next          time.Duration // when to look at the leases again
	// yielded are groups of which somebody else changed schemata that were decided: these.
	// They are not set again until others are decided, or the group is made anew.
	yielded map[string]groupYield
}

type groupYield struct {
	task     owca.TaskID
	schemata resctrl.Schemata
}

// rdtPace is how often leases of resctrl are looked at: reading schemata takes the mutex
// that all of resctrl has.
const rdtPace = 10 * time.Second

// defaultsPace is how often it is tried to set the default group.
const defaultsPace = time.Minute

// groupReader is what Groups may do besides, so that leases can be looked at without the
// listing of all threads that Control is.
type groupReader interface {
	// Schemata returns those of a control group; resctrl.ErrGone if it does not exist.
	Schemata(group string) (resctrl.Schemata, error)
	// Where returns the directory of the control group that a task is in.
	Where(task owca.TaskID) (dir string, ok bool)
}

// resctrl adds what a plan of control groups has to know.
func (g *gathering) resctrl() {
	if g.groups == nil {
		g.NoResctrl = fmt.Errorf("%w: resctrl is not in use (owca check says why; rdt_enabled: false leaves it alone)", errors.ErrUnsupported)
		return
	}
	info := g.groups.Info()
	if info == nil {
		g.NoResctrl = g.groups.Err()
		return
	}
	groups, tasks, err := g.groups.Control()
	if err != nil {
		g.NoResctrl = err
		return
	}
	if g.yieldForeign(groups) {
		if groups, tasks, err = g.groups.Control(); err != nil {
			g.NoResctrl = err
			return
		}
	}
	g.Resctrl, g.Groups, g.Others = info, groups, map[string]int{}
	// Those that were moved keep the schemata of their group.
	for t := range g.leases {
		if v := g.views[t.Task]; v != nil {
			g.task(t.Task, v)
		}
	}
	for _, d := range g.order {
		if d.kind == owca.RDTGroup && !d.allocation.Release && d.view != nil {
			g.task(d.task, d.view).Decided = true
		}
	}
	for id, dir := range tasks {
		if t := g.Tasks[owca.TaskID(id)]; t != nil {
			t.Control = dir
		} else {
			g.Others[dir]++
		}
	}
}

// changeGroup makes or undoes a change of resctrl.
func (a *Actor) changeGroup(c *Change) error {
	if a.groups == nil {
		return fmt.Errorf("resctrl is not in use any more: %w", errors.ErrUnsupported)
	}
	if c.Undo {
		return a.groups.Undo(*c.Resctrl)
	}
	if c.Resctrl.Kind == resctrl.MoveTask && c.Resctrl.From == c.Resctrl.Group {
		return nil // it is there already
	}
	effect, err := a.groups.Do(*c.Resctrl)
	switch {
	case errors.Is(err, resctrl.ErrReadBack):
		return nil // it is made
	case err != nil && !a.madeInSpite(c, effect, err):
		return err
	case c.Resctrl.Kind != resctrl.SetSchemata:
		return nil
	}
	// What is in effect is of the whole group; the change is of some of it.
	if l := a.journal.Lease(c.Target); l != nil && l.Resctrl != nil && !c.Release {
		if is := ofSame(l.Resctrl.New, effect); is.String() != l.Resctrl.New.String() {
			made := *l.Resctrl
			made.New = is
			l.Resctrl = &made // Undo compares with it
			a.effect(c, is.String())
		}
	}
	return nil
}

// madeInSpite says whether a change is made in spite of an error, all or a part of it, so that
// its lease has to stay: a task was moved, but not all that goes along was done; or some
// schemata were refused after others had been set, and these could not be put back.
func (a *Actor) madeInSpite(c *Change, effect resctrl.Schemata, err error) bool {
	switch c.Resctrl.Kind {
	case resctrl.MoveTask:
		reader, ok := a.groups.(groupReader)
		if !ok {
			return false
		}
		if dir, ok := reader.Where(owca.TaskID(c.Resctrl.Task)); !ok || dir != c.Resctrl.Group {
			return false
		}
		a.log.Warn("a task was moved to another control group, but something is left to do", "task", c.For, "group", groupName(c.Resctrl.Group), "error", err)
		return true
	case resctrl.SetSchemata:
		is := ofSame(c.Resctrl.New, effect)
		if len(is.Changed(c.Resctrl.Old)) == 0 {
			return false
		}
		if s := a.standing[decisionKey{c.For, c.Kind}]; s != nil {
			a.trouble(s, err.Error())
		} else {
			a.reportTarget(c, err, "only a part of a limit could be set")
		}
		return true
	}
	return false
}

// ofSame returns the values that now has of what is in s.
func ofSame(s, now resctrl.Schemata) resctrl.Schemata {
	var list resctrl.Schemata
	for _, line := range s {
		var domains []resctrl.DomainValue
		for _, d := range line.Domains {
			if v, ok := now.Get(line.Resource, d.ID); ok {
				domains = append(domains, resctrl.DomainValue{ID: d.ID, Value: v})
			}
		}
		if len(domains) > 0 {
			list = append(list, resctrl.Line{Resource: line.Resource, Kind: line.Kind, Domains: domains})
		}
	}
	return list
}

// leaveGroups gives back what is leased of resctrl, as it is not used any more: nobody would
// keep new threads in their groups.
func (a *Actor) leaveGroups() {
	if a.journal == nil {
		return
	}
	_ = a.restoreWhere(EndReleased, func(l *Lease) bool { return l.Cgroup == "" }) // logged
	clear(a.rdt.yielded)
	for _, s := range a.order {
		if s.kind == owca.RDTGroup && !s.adopted {
			a.setPending(s)
		}
	}
	a.rdt.defaultsDone = false
}

// setDefaults gives the default group of resctrl what the configuration says, but for what
// was decided to be in it besides.
func (a *Actor) setDefaults() {
	if a.journal == nil || a.options.DryRun {
		return
	}
	l := a.leases[Target{}]
	if l != nil && l.Owner != ownOwner {
		if s := a.standing[decisionKey{l.For, l.Kind}]; s != nil && s.adopted {
			return // what was decided is not known yet
		}
	}
	info := a.groups.Info()
	none := a.options.DefaultL3 == nil && a.options.DefaultMB == nil
	named := func(s *string) bool { return s != nil && *s != "" }
	switch {
	case none && (l == nil || info == nil && l.Owner == ownOwner):
		a.rdt.defaultsDone = true
		_ = a.restoreWhere(EndReleased, func(o *Lease) bool { return o == l }) // logged
		return
	case info == nil && (none || named(a.options.DefaultL3) || named(a.options.DefaultMB)):
		a.report("rdt defaults", a.groups.Err(), "the default group of resctrl cannot be set")
		return
	case info == nil:
		return // all of what the host does not have, or not yet
	}
	err := a.leaseDefaults(info)
	a.report("rdt defaults", err, "the default group of resctrl cannot be set")
	a.rdt.defaultsDone, a.rdt.defaultsRetry = true, 0
	if err != nil {
		a.rdt.defaultsRetry = a.clock() + defaultsPace
	}
}

func (a *Actor) leaseDefaults(info *resctrl.Info) error {
	want, err := a.defaults(info)
	if err != nil {
		return err
	}
	decided, by := a.decidedDefaults(info)
	want = want.Overlay(decided)
	if len(want) == 0 {
		if l := a.leases[Target{}]; l != nil && l.Owner == ownOwner {
			return a.restoreWhere(EndReleased, func(o *Lease) bool { return o == l })
		}
		return nil
	}
	groups, _, err := a.groups.Control()
	if err != nil {
		return err
	}
	if a.yieldForeign(groups) {
		if groups, _, err = a.groups.Control(); err != nil {
			return err
		}
	}
	set, err := a.setDefaultGroup(info, groups, want)
	if err != nil || set == nil {
		return err
	}
	c := a.defaultChange(set)
	if by != nil {
		c.For, c.Owner, c.Reason = by.task, by.owner, by.allocation.Reason
	}
	var report Report
	a.makeBatch(time.Now(), a.withoutYieldedGroups([]Change{c}), &report)
	a.logChanges(report.Changes)
	for _, f := range report.Failed {
		return f.Err
	}
	return nil
}

// defaultChange is a change of the default group for the sake of the configuration.
func (a *Actor) defaultChange(set *resctrl.Change) Change {
	is := set.New
	if l := a.leases[Target{}]; l != nil && l.Resctrl != nil {
		is = l.Resctrl.New.Overlay(is) // with what stays leased
	}
	return Change{
		Kind: owca.RDTGroup, Owner: ownOwner, Reason: "defaults of the configuration",
		Old: set.Old.String(), New: is.String(), Resctrl: set,
	}
}

// setDefaultGroup returns the change that gives the default group what is wanted, and what is
// leased besides its first values again; nil if that is what it has.
func (a *Actor) setDefaultGroup(info *resctrl.Info, groups []resctrl.ControlGroup, want resctrl.Schemata) (*resctrl.Change, error) {
	if l := a.leases[Target{}]; l != nil && l.Resctrl != nil {
		want = ofSame(leasedNow(l, groups), l.Resctrl.Old).Overlay(want)
	}
	changes, err := info.Plan(groups, []resctrl.Allocation{{Task: ownOwner, Schemata: want}}, nil)
	if err != nil {
		return nil, err
	}
	for i := range changes {
		// Groups that nobody uses are not ours to remove here.
		if changes[i].Kind == resctrl.SetSchemata {
			return &changes[i], nil
		}
	}
	return nil, nil
}

// leasedNow is what a group has of what is leased of its schemata, in domains that are online.
func leasedNow(l *Lease, groups []resctrl.ControlGroup) resctrl.Schemata {
	for i := range groups {
		if groups[i].Name == l.Group {
			return ofSame(l.Resctrl.New, groups[i].Schemata)
		}
	}
	return nil
}

// defaults are what the configuration says of the default group; nil if nothing.
func (a *Actor) defaults(info *resctrl.Info) (resctrl.Schemata, error) {
	var want resctrl.Schemata
	for _, part := range []struct {
		resource string
		text     *string
	}{{"L3", a.options.DefaultL3}, {"MB", a.options.DefaultMB}} {
		if part.text == nil {
			continue
		}
		s, err := defaultsOf(info, part.resource, *part.text)
		if err != nil {
			return nil, err
		}
		want = want.Overlay(s)
	}
	return want, nil
}

// decidedDefaults is what was decided for tasks in the default group and is in effect, and
// the last decision that says something of it.
func (a *Actor) decidedDefaults(info *resctrl.Info) (decided resctrl.Schemata, by *standing) {
	for _, s := range a.order {
		rdt := s.allocation.RDT
		if s.kind != owca.RDTGroup || s.adopted || s.pending || s.allocation.Release || rdt == nil || rdt.Name == nil || *rdt.Name != "" {
			continue
		}
		for _, text := range []string{rdt.L3, rdt.MB} {
			// What this host does not take was refused.
			if part, err := info.Parse(text); err == nil && len(part) > 0 {
				decided, by = decided.Overlay(part), s
			}
		}
	}
	return decided, by
}

// backToDefaults has what was decided of the default group give way to the defaults of the
// configuration rather than to what there was before them.
func (a *Actor) backToDefaults(changes []Change) []Change {
	for i := range changes {
		c := &changes[i]
		l := a.leases[Target{}]
		if c.Target != (Target{}) || !c.Undo || l == nil {
			continue
		}
		want, err := a.defaults(a.state.Resctrl)
		if err != nil || len(want) == 0 {
			continue // it was told
		}
		set, err := a.setDefaultGroup(a.state.Resctrl, a.state.Groups, want)
		if err != nil {
			continue
		}
		if set == nil {
			// They are what was decided: only the lease is another's.
			is := leasedNow(l, a.state.Groups)
			set = &resctrl.Change{Kind: resctrl.SetSchemata, Old: is, New: is}
		}
		*c = a.defaultChange(set)
	}
	return changes
}

// defaultsOf parses what one resource of the default group shall have; "" is all of it.
func defaultsOf(info *resctrl.Info, resource, text string) (resctrl.Schemata, error) {
	if text != "" {
		return info.Parse(text)
	}
	return slices.DeleteFunc(info.Default(), func(l resctrl.Line) bool { return !strings.HasPrefix(l.Resource, resource) }), nil
}

// observeGroups looks at the leases of resctrl now and then: what is gone, or was changed
// by somebody else, is not ours any more.
func (a *Actor) observeGroups() {
	switch {
	case a.groups != nil:
		a.rdt.used = true
	case a.rdt.used:
		a.rdt.used = false
		a.leaveGroups()
	}
	if at := a.rdt.defaultsRetry; at > 0 && a.clock() >= at {
		a.rdt.defaultsDone, a.rdt.defaultsRetry = false, 0
	}
	reader, ok := a.groups.(groupReader)
	if !ok || a.journal == nil || a.clock() < a.rdt.next {
		return
	}
	a.rdt.next = a.clock() + rdtPace
	for _, l := range slices.Collect(maps.Values(a.leases)) {
		if l.Cgroup != "" || l.Resctrl == nil {
			continue
		}
		if l.Resctrl.Kind == resctrl.MoveTask {
			a.observeMove(l, reader)
			continue
		}
		now, err := reader.Schemata(l.Group)
		switch {
		case errors.Is(err, resctrl.ErrGone):
			a.endGroup(l, EndGone)
		case err == nil && foreignSchemata(now, l.Resctrl.New, l.Resctrl.New):
			a.yieldGroup(l)
		}
	}
	unused := a.unusedGroups()
	_ = a.restoreWhere(EndReleased, func(l *Lease) bool { return slices.Contains(unused, l) }) // logged
	if slices.ContainsFunc(unused, func(l *Lease) bool { return l.Group == "" }) {
		a.rdt.defaultsDone = false
		a.setDefaults()
	}
}

// unusedGroups are leases of groups whose tasks have all gone.
func (a *Actor) unusedGroups() (list []*Lease) {
	used := map[string]bool{}
	for _, l := range a.leases {
		if l.Task != "" && l.Resctrl != nil {
			used[l.Resctrl.Group] = true
		}
	}
	for _, l := range a.leases {
		if l.Cgroup == "" && l.Task == "" && l.Owner != ownOwner && !used[l.Group] && a.standing[decisionKey{l.For, l.Kind}] == nil {
			list = append(list, l)
		}
	}
	return list
}

// yieldForeign yields the groups whose schemata somebody else has changed, as they are just
// before they are to be set. It says whether there was one.
func (a *Actor) yieldForeign(groups []resctrl.ControlGroup) (found bool) {
	for i := range groups {
		l := a.leases[Target{Group: groups[i].Name}]
		if l != nil && l.Resctrl != nil && foreignSchemata(groups[i].Schemata, l.Resctrl.New, l.Resctrl.New) {
			a.yieldGroup(l)
			found = true
		}
	}
	return found
}

// yieldGroup leaves the schemata of a group to somebody else. That the group is of our making,
// and goes when it is not needed, does not change.
func (a *Actor) yieldGroup(l *Lease) {
	if _, ok := a.rdt.yielded[l.Group]; ok {
		return
	}
	if a.rdt.yielded == nil {
		a.rdt.yielded = map[string]groupYield{}
	}
	a.rdt.yielded[l.Group] = groupYield{l.For, l.Resctrl.New}
	for _, s := range a.order {
		if s.kind == owca.RDTGroup && s.view != nil {
			s.view.stale = true
		}
	}
	if l.Resctrl.Kind != resctrl.CreateGroup {
		// Of the same schemata, what they did not change goes back.
		_ = a.restoreWhere(EndForeign, func(o *Lease) bool { return o == l }) // logged
		return
	}
	a.logEnd(l, EndForeign, nil)
	a.stats.Ended[EndForeign]++
}

// unyieldGroups: what was decided for a task is not any more.
func (a *Actor) unyieldGroups(task owca.TaskID) {
	maps.DeleteFunc(a.rdt.yielded, func(_ string, y groupYield) bool { return y.task == task })
}

// withoutYieldedGroups leaves out schemata which somebody else has changed since just these
// were decided.
func (a *Actor) withoutYieldedGroups(changes []Change) []Change {
	changes = a.backToDefaults(changes)
	if len(a.rdt.yielded) == 0 {
		return changes
	}
	return slices.DeleteFunc(changes, func(c Change) bool {
		if c.Cgroup != "" || c.Resctrl == nil || c.Resctrl.Kind == resctrl.MoveTask {
			return false
		}
		y, ok := a.rdt.yielded[c.Group]
		if !ok {
			return false
		}
		if c.Resctrl.Kind == resctrl.SetSchemata && !c.Undo && valuesWithin(c.Resctrl.New, y.schemata) {
			return true
		}
		delete(a.rdt.yielded, c.Group)
		return false
	})
}

// valuesWithin says whether all values of s are those of of.
func valuesWithin(s, of resctrl.Schemata) bool {
	return len(ofSame(s, of)) == len(s) && ofSame(s, of).String() == s.String()
}

func (a *Actor) observeMove(l *Lease, reader groupReader) {
	dir, ok := reader.Where(owca.TaskID(l.Resctrl.Task))
	switch {
	case ok && dir == "" && a.vanished(l.Resctrl.Group, reader):
		a.endGroup(l, EndGone)
	case ok && dir != l.Resctrl.Group:
		a.endGroup(l, EndForeign)
		if s := a.standing[decisionKey{l.For, l.Kind}]; s != nil {
			s.moved = true
		}
	case !ok && a.views[l.Task] == nil:
		for _, path := range l.Cgroups {
			if c, err := a.tree.Control(path); err == nil {
				_ = c.Close()
				return
			}
		}
		a.endGroup(l, EndGone)
	}
}

// vanished says whether a group was removed, so that the kernel has moved its threads.
func (a *Actor) vanished(group string, reader groupReader) bool {
	_, err := reader.Schemata(group)
	return errors.Is(err, resctrl.ErrGone)
}

// endGroup ends a lease of resctrl. A group that is gone is made again; what somebody else
// changed is left alone until another decision.
func (a *Actor) endGroup(l *Lease, how End) {
	a.end(l, how)
	if how != EndGone {
		return
	}
	delete(a.rdt.yielded, l.Group)
	for _, s := range a.order {
		if s.kind == owca.RDTGroup && !s.adopted {
			a.setPending(s)
		}
	}
}

// groupOf returns the control group that a task was given, and what that may use.
func (a *Actor) groupOf(s *standing) (is owca.Allocation, ok bool) {
	l := a.leases[Target{Task: s.task}]
	if s.adopted || s.pending || l == nil && s.allocation.RDT == nil {
		return is, false
	}
	rdt := *s.allocation.RDT
	group := ""
	if l != nil {
		group = l.Resctrl.Group
	}
	if rdt.Name == nil {
		rdt.Name = &group
	}
	if _, ok := a.rdt.yielded[group]; ok {
		return is, false
	}
	if g := a.leases[Target{Group: group}]; g != nil && g.Resctrl != nil {
		rdt.L3, rdt.MB = resourceText(g.Resctrl.New, "L3", rdt.L3), resourceText(g.Resctrl.New, "MB", rdt.MB)
	}
	return owca.Allocation{RDT: &rdt}, true
}

// resourceText returns the line of a resource, as it is in effect; asked where there is
// none.
func resourceText(s resctrl.Schemata, resource, asked string) string {
	var of resctrl.Schemata
	for _, l := range s {
		if strings.HasPrefix(l.Resource, resource) {
			of = append(of, l)
		}
	}
	if len(of) == 0 {
		return asked
	}
	return of.String()
}
