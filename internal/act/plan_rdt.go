package act

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/resctrl"
)

// rdtTask is one task of which the control group is decided.
type rdtTask struct {
	*entry
	resctrl.Allocation
	// lease is that of where the task is; nil if it was not moved.
	lease *Lease
	// final is the directory of the group that it comes to.
	final string
}

// rdt plans control groups: a release is to be where the task was before.
func (p *planner) rdt() ([]Change, error) {
	var (
		tasks []*rdtTask
		errs  []error
	)
	for i := range p.entries {
		e := &p.entries[i]
		if e.Kind != owca.RDTGroup || e.task == nil || e.invalid {
			continue
		}
		t := &rdtTask{entry: e, Allocation: resctrl.Allocation{Task: string(e.Task), Now: e.task.Control}}
		t.lease = p.Leases[Target{Task: e.Task}]
		switch {
		case e.Release && p.Resctrl == nil:
			if p.isLeased(e.Task) {
				t.refuse("nothing can be given back: %v", cmp.Or(p.NoResctrl, errors.ErrUnsupported))
			}
		case e.Release:
			if t.lease == nil || t.lease.Owner != e.Owner || t.lease.Resctrl == nil {
				t.lease, t.Group = nil, t.Now // schemata alone may be leased
			} else {
				t.Group = t.lease.Resctrl.From
			}
			if !slices.ContainsFunc(p.Groups, func(g resctrl.ControlGroup) bool { return g.Name == t.Group }) {
				t.Group = "" // where the kernel puts those of a group that is removed
			}
		default:
			if reason := p.allocation(t); reason != "" {
				errs = append(errs, &Invalid{Task: e.Task, Kind: e.Kind, Reason: reason})
			}
		}
		if e.refused == "" {
			tasks = append(tasks, t)
		}
	}
	if errs != nil {
		return nil, errors.Join(errs...)
	}
	if len(tasks) == 0 || p.Resctrl == nil {
		return nil, nil
	}
	steps, tasks, err := p.planGroups(tasks)
	if err != nil {
		return nil, err
	}
	return p.groupChanges(steps, tasks), nil
}

// isLeased says whether anything of resctrl is leased for a task.
func (p *planner) isLeased(task owca.TaskID) bool {
	for t, l := range p.Leases {
		if t.Cgroup == "" && l.For == task {
			return true
		}
	}
	return false
}

// allocation fills in what a task wants. It returns what no host would take, and refuses
// what this one cannot give.
func (p *planner) allocation(t *rdtTask) (invalid string) {
	if p.Resctrl == nil {
		t.refuse("nothing can be allocated: %v", cmp.Or(p.NoResctrl, errors.ErrUnsupported))
		return ""
	}
	for _, path := range t.task.Cgroups {
		if isPodOrAbove(path) {
			t.refuse("%s is a pod or above one in Kubernetes' hierarchy: a task is its containers", path)
			return ""
		}
	}
	a := t.RDT
	for _, part := range []struct {
		text, resource string
		kind           resctrl.Kind
	}{{a.L3, "L3", resctrl.Mask}, {a.MB, "MB", resctrl.Bandwidth}} {
		if strings.TrimSpace(part.text) == "" {
			continue
		}
		if !slices.ContainsFunc(p.Resctrl.Resources, func(r resctrl.Resource) bool {
			return r.Kind == part.kind && strings.HasPrefix(r.Name, part.resource)
		}) {
			t.refuse("this host cannot allocate %s", part.resource)
			return ""
		}
		s, err := p.Resctrl.Parse(part.text)
		if err != nil {
			return err.Error()
		}
		for _, l := range s {
			if l.Kind != part.kind {
				return fmt.Sprintf("%s is no %s", l.Resource, part.resource)
			}
		}
		if _, _, err := p.Resctrl.Check(s); err != nil {
			return err.Error()
		}
		t.Schemata = t.Schemata.Overlay(s)
	}
	if a.Name != nil {
		t.Group = *a.Name
		return ""
	}
	if len(t.task.Cgroups) == 0 {
		t.refuse("the task has no cgroup to name its group after")
		return ""
	}
	t.Group = p.ownGroup(t.task)
	return ""
}

// ownGroup names the group of a task after its first container; after the whole path if
// another task would have the same.
func (p *planner) ownGroup(task *TaskState) string {
	if p.bases == nil {
		p.bases = make(map[string]int, len(p.Tasks))
		for _, t := range p.Tasks {
			if len(t.Cgroups) > 0 {
				_, base := cutLast(t.Cgroups[0])
				p.bases[base]++
			}
		}
	}
	_, base := cutLast(task.Cgroups[0])
	if p.bases[base] > 1 {
		return strings.ReplaceAll(strings.TrimPrefix(task.Cgroups[0], "/"), "/", "-")
	}
	return base
}

// planGroups plans all of them, less as few as have to be refused because others have the
// CLOSIDs or RMIDs.
func (p *planner) planGroups(tasks []*rdtTask) ([]resctrl.Change, []*rdtTask, error) {
	for {
		allocations := make([]resctrl.Allocation, len(tasks))
		others := make(map[string]int, len(p.Others))
		decided := taskSet(tasks)
		for i, t := range tasks {
			allocations[i] = t.Allocation
		}
		for g, n := range p.Others {
			others[g] += n
		}
		// Tasks for which nothing is wanted keep their groups, too.
		for id, t := range p.Tasks {
			if !decided[id] {
				others[t.Control]++
			}
		}
		steps, err := p.Resctrl.Plan(p.Groups, allocations, others)
		if err == nil {
			return steps, tasks, nil
		}
		var errs []error
		kept := make([]*rdtTask, 0, len(tasks))
		for i, t := range tasks {
			_, err := p.Resctrl.Plan(p.Groups, allocations[i:i+1], nil)
			switch {
			case err == nil, errors.Is(err, resctrl.ErrNoCLOSID), errors.Is(err, resctrl.ErrNoRMID):
				kept = append(kept, t) // others may make room for it
			case errors.Is(err, errors.ErrUnsupported):
				t.refuse("%v", err)
			default:
				errs = append(errs, &Invalid{Task: t.entry.Task, Kind: t.Kind, Reason: strings.TrimPrefix(err.Error(), "task "+t.Task+": ")})
			}
		}
		if errs != nil {
			return nil, nil, errors.Join(errs...)
		}
		if len(kept) == len(tasks) {
			// The last one that wants a group made is too many.
			t := kept[p.lastNew(kept)]
			exhausted := errors.Is(err, resctrl.ErrNoCLOSID) || errors.Is(err, resctrl.ErrNoRMID)
			if !exhausted || errors.Is(err, resctrl.ErrNoCLOSID) && p.ourGroups(kept) > p.Resctrl.CLOSIDs() {
				return nil, nil, &Invalid{Task: t.entry.Task, Kind: t.Kind, Reason: err.Error()}
			}
			t.refuse("%v", err)
			kept = slices.DeleteFunc(kept, func(o *rdtTask) bool { return o == t })
		}
		if tasks = kept; len(tasks) == 0 {
			return nil, nil, nil
		}
	}
}

func taskSet(tasks []*rdtTask) map[owca.TaskID]bool {
	ids := make(map[owca.TaskID]bool, len(tasks))
	for _, t := range tasks {
		ids[t.entry.Task] = true
	}
	return ids
}

// exists says whether there is a group that users name so, and returns its directory.
func (p *planner) exists(group string) (dir string, ok bool) {
	for _, dir := range []string{group, ourDirectory(group)} {
		if dir == "" || slices.ContainsFunc(p.Groups, func(g resctrl.ControlGroup) bool { return g.Name == dir }) {
			return dir, true
		}
	}
	return ourDirectory(group), false
}

func ourDirectory(group string) string {
	if group == "" || strings.HasPrefix(group, resctrl.Prefix) {
		return group
	}
	return resctrl.Prefix + group
}

// lastNew returns which of the tasks is the last that wants a group which does not exist;
// the last one if there is none.
func (p *planner) lastNew(tasks []*rdtTask) int {
	for i := len(tasks) - 1; i >= 0; i-- {
		if _, ok := p.exists(tasks[i].Group); !ok {
			return i
		}
	}
	return len(tasks) - 1
}

// ourGroups is how many groups there would be of our making, and the default one, with
// those of others that tasks want.
func (p *planner) ourGroups(tasks []*rdtTask) int {
	dirs := map[string]struct{}{"": {}}
	for _, t := range tasks {
		dir, _ := p.exists(t.Group)
		dirs[dir] = struct{}{}
	}
	decided := taskSet(tasks)
	for id, t := range p.Tasks {
		if !decided[id] && strings.HasPrefix(t.Control, resctrl.Prefix) {
			dirs[t.Control] = struct{}{}
		}
	}
	return len(dirs)
}

// groupChanges are the changes of resctrl as ours.
func (p *planner) groupChanges(steps []resctrl.Change, tasks []*rdtTask) []Change {
	byID := make(map[string]*rdtTask, len(tasks))
	for _, t := range tasks {
		t.final = t.Now
		byID[t.Task] = t
	}
	for _, s := range steps {
		if s.Kind == resctrl.MoveTask {
			byID[s.Task].final = s.Group
		}
	}

	var list []Change
	for i := range steps {
		s := &steps[i]
		c := Change{Kind: owca.RDTGroup, Resctrl: s}
		if s.Kind == resctrl.MoveTask {
			t := byID[s.Task]
			c.Target = Target{Task: t.entry.Task}
			c.by(t.entry)
			c.Old, c.New, c.Cgroups = groupName(s.From), groupName(s.Group), t.task.Cgroups
			// On the way to a group that is made only later it is not given back yet.
			c.Release = t.Release && s.Group == t.final && t.lease != nil
			list = append(list, c)
			continue
		}
		c.Target = Target{Group: s.Group}
		l := p.Leases[c.Target]
		switch s.Kind {
		case resctrl.CreateGroup:
			c.New = "made"
		case resctrl.SetSchemata:
			c.Old, c.New = s.Old.String(), s.New.String()
			if l != nil && l.Resctrl != nil {
				c.New = l.Resctrl.New.Overlay(s.New).String()
			}
			for _, r := range s.Rounded {
				if c.Note != "" {
					c.Note += "; "
				}
				c.Note += fmt.Sprintf("%s:%d rounded up from %d to %d", r.Resource, r.Domain, r.Wanted, r.Effect)
			}
		case resctrl.RemoveGroup:
			c.Old, c.Release = s.Old.String(), l != nil
		}
		switch t := decider(tasks, s); {
		case t != nil:
			c.by(t.entry)
		case l != nil:
			c.For, c.Owner, c.Reason = l.For, l.Owner, l.Reason
		}
		list = append(list, c)
	}

	// A lease of a task that is where it was before ends, too.
	for _, t := range tasks {
		if t.Release && t.lease != nil && !slices.ContainsFunc(list, func(c Change) bool { return c.Release && c.Target == t.lease.Target }) {
			back := *t.lease.Resctrl
			back.From, back.Group = t.final, t.final
			c := Change{
				Target: t.lease.Target, Kind: owca.RDTGroup, Old: groupName(t.final), New: groupName(t.final), Release: true,
				Resctrl: &back, Cgroups: t.task.Cgroups,
			}
			c.by(t.entry)
			list = append(list, c)
		}
	}
	return append(list, p.restoreGroups(list, tasks)...)
}

// decider is the latest task for which a group is changed: one that comes to it, with
// schemata where these are set; of a group that is removed, one that leaves it.
func decider(tasks []*rdtTask, s *resctrl.Change) *rdtTask {
	var found *rdtTask
	for _, t := range tasks {
		switch {
		case s.Kind == resctrl.RemoveGroup:
			if t.Now == s.Group {
				found = t
			}
		case t.final == s.Group && (s.Kind != resctrl.SetSchemata || len(t.Schemata) > 0):
			found = t
		}
	}
	return found
}

func (c *Change) by(e *entry) { c.For, c.Owner, c.Reason = e.Task, e.Owner, e.Reason }

func groupName(dir string) string { return resctrl.Name{Control: dir}.String() }

// restoreGroups gives the schemata back of groups that we did not make, once no task is in
// them that was decided to be.
func (p *planner) restoreGroups(list []Change, tasks []*rdtTask) []Change {
	var restored []Change
	targets := make([]Target, 0, len(p.Leases))
	for t := range p.Leases {
		if t.Cgroup == "" && t.Task == "" {
			targets = append(targets, t)
		}
	}
	slices.SortFunc(targets, func(a, b Target) int { return cmp.Compare(a.Group, b.Group) })
	for _, target := range targets {
		l := p.Leases[target]
		if l.For == "" || l.Resctrl == nil || l.Resctrl.Kind != resctrl.SetSchemata || p.isUsed(target.Group, tasks) ||
			slices.ContainsFunc(list, func(c Change) bool { return c.Target == target }) {
			continue
		}
		c := Change{
			Target: target, For: l.For, Kind: owca.RDTGroup, Owner: l.Owner, Reason: l.Reason,
			Old: l.New, New: l.First, Release: true, Resctrl: l.Resctrl, Undo: true,
		}
		for _, t := range tasks {
			if t.Now == target.Group && (t.Release || t.final != target.Group) {
				c.by(t.entry) // who leaves it
			}
		}
		restored = append(restored, c)
	}
	return restored
}

// isUsed says whether a task stays in a group, or comes to it, for which that was decided.
func (p *planner) isUsed(group string, tasks []*rdtTask) bool {
	for _, t := range tasks {
		if !t.Release && t.final == group {
			return true
		}
	}
	for id, t := range p.Tasks {
		l := p.Leases[Target{Task: id}]
		moved := l != nil && l.Resctrl != nil && l.Resctrl.Group == group
		if (moved || t.Decided && t.Control == group) &&
			!slices.ContainsFunc(tasks, func(o *rdtTask) bool { return o.entry.Task == id }) {
			return true
		}
	}
	return false
}
