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
	defaultsDone bool
	next         time.Duration // when to look at the leases again
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
		g.NoResctrl = fmt.Errorf("resctrl is not in use: %w", errors.ErrUnsupported)
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
	g.Resctrl, g.Groups, g.Others = info, groups, map[string]int{}
	// What was changed since Observe is not ours any more.
	for i := range groups {
		l := g.leases[Target{Group: groups[i].Name}]
		if l != nil && l.Resctrl != nil && foreignSchemata(groups[i].Schemata, l.Resctrl.New, l.Resctrl.New) {
			g.yieldGroup(l)
		}
	}
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
	case err != nil || c.Resctrl.Kind != resctrl.SetSchemata:
		return err
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

// setDefaults gives the default group of resctrl what the configuration says.
func (a *Actor) setDefaults() {
	if a.journal == nil || a.options.DryRun {
		return
	}
	t := Target{}
	if a.options.DefaultL3 == nil && a.options.DefaultMB == nil {
		a.rdt.defaultsDone = true
		if l := a.leases[t]; l != nil && l.Owner == ownOwner {
			_ = a.restoreWhere(EndReleased, func(l *Lease) bool { return l.Target == t }) // logged
		}
		return
	}
	info := a.groups.Info()
	named := func(s *string) bool { return s != nil && *s != "" }
	switch {
	case info == nil && !named(a.options.DefaultL3) && !named(a.options.DefaultMB):
		return // all of what the host does not have, or not yet
	case info == nil:
		a.report("rdt defaults", a.groups.Err(), "the default group of resctrl cannot be set")
		return
	}
	err := a.leaseDefaults(info, t)
	a.report("rdt defaults", err, "the default group of resctrl cannot be set")
	// What does not fit the hardware is not tried each tick.
	a.rdt.defaultsDone = true
}

func (a *Actor) leaseDefaults(info *resctrl.Info, t Target) error {
	groups, _, err := a.groups.Control()
	if err != nil {
		return err
	}
	var want resctrl.Schemata
	for resource, text := range map[string]*string{"L3": a.options.DefaultL3, "MB": a.options.DefaultMB} {
		if text == nil {
			continue
		}
		s, err := defaultsOf(info, resource, *text)
		if err != nil {
			return err
		}
		want = want.Overlay(s)
	}
	if len(want) == 0 {
		return nil
	}
	changes, err := info.Plan(groups, []resctrl.Allocation{{Task: ownOwner, Schemata: want}}, map[string]int{})
	if err != nil {
		return err
	}
	for i := range changes {
		if changes[i].Kind != resctrl.SetSchemata {
			continue // groups that nobody uses are not ours to remove here
		}
		c := Change{
			Target: t, Kind: owca.RDTGroup, Owner: ownOwner, Reason: "defaults of the configuration",
			Old: changes[i].Old.String(), New: changes[i].New.String(), Resctrl: &changes[i],
		}
		var report Report
		a.makeBatch(time.Now(), []Change{c}, &report)
		a.logChanges(report.Changes)
		for _, f := range report.Failed {
			return f.Err
		}
	}
	return nil
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
		a.endGroup(l, EndForeign)
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
