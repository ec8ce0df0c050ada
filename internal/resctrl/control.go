package resctrl

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// ControlGroup is one that exists, with what it may use.
type ControlGroup struct {
	Name     string // directory; "" = the default group
	Schemata Schemata
	Tasks    int      // threads in it, those of its monitoring groups included
	Monitors []string // directories of its monitoring groups
}

// ControlGroups reads all of them, the default group first. For each of them the
// kernel looks at every thread of the host. A group that is removed meanwhile is
// left out.
func (t *Tree) ControlGroups() ([]ControlGroup, error) {
	names, err := t.Groups(nil)
	if err != nil {
		return nil, err
	}
	var (
		list    []ControlGroup
		threads []int
	)
	for i := 0; i < len(names); {
		control := names[i].Control
		g := ControlGroup{Name: control}
		for ; i < len(names) && names[i].Control == control; i++ {
			if names[i].Monitor != "" {
				g.Monitors = append(g.Monitors, names[i].Monitor)
			}
		}
		if g.Schemata, err = t.Schemata(control); err == nil {
			threads, err = t.Threads(Name{Control: control}, threads[:0])
		}
		if control != "" && errors.Is(err, ErrGone) {
			if err := t.Alive(); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		g.Tasks = len(threads)
		list = append(list, g)
	}
	return list, nil
}

// Allocation is what is wanted for one task.
type Allocation struct {
	Task string // its id, for messages and changes
	// Group is the control group that it shall be in, as users name it: "" is the
	// default group. A group whose directory has that very name is shared, whoever
	// made it; otherwise it is [Prefix] + Group, or Group itself if it begins with
	// Prefix, which is made if it does not exist.
	Group string
	// Now is the directory of the control group that it is in. One that does not exist
	// any more stands for the default group, where the kernel has moved the threads.
	Now string
	// Schemata is what that group shall have; nil or a resource or domain that is not
	// in it stays as it is.
	Schemata Schemata
}

// ChangeKind is what a change does. A plan has them in this order, but for what
// [Info.Plan] says of CLOSIDs.
type ChangeKind uint8

// The kinds of changes.
const (
	CreateGroup ChangeKind = iota
	SetSchemata
	MoveTask
	RemoveGroup // ours, and without a task after the moves; refused while threads are in it
)

var changeKinds = [...]string{CreateGroup: "create", SetSchemata: "set", MoveTask: "move", RemoveGroup: "remove"}

// String is the verb: "create", "set", "move", "remove".
func (k ChangeKind) String() string {
	if int(k) < len(changeKinds) {
		return changeKinds[k]
	}
	return fmt.Sprintf("ChangeKind(%d)", uint8(k))
}

// MarshalText is String, so that what was written down can be read by another
// version. The error is that there is no such kind.
func (k ChangeKind) MarshalText() ([]byte, error) {
	if int(k) < len(changeKinds) {
		return []byte(changeKinds[k]), nil
	}
	return nil, fmt.Errorf("resctrl: no kind of change has number %d", uint8(k))
}

// UnmarshalText is the inverse of MarshalText.
func (k *ChangeKind) UnmarshalText(text []byte) error {
	i := slices.Index(changeKinds[:], string(text))
	if i < 0 {
		return fmt.Errorf("resctrl: no kind of change is called %q", text)
	}
	*k = ChangeKind(i)
	return nil
}

// Change is one step of a plan, with what it takes to undo it. It is plain data, the
// same after a round through JSON.
type Change struct {
	Kind  ChangeKind
	Group string `json:",omitempty"` // directory of the control group; of MoveTask the new one
	Task  string `json:",omitempty"` // of MoveTask
	From  string `json:",omitempty"` // of MoveTask: directory of the old group
	// Old and New are of SetSchemata: only what changes. New is what will be in
	// effect; Old is what was when it was planned, nil of a group that the plan makes.
	// Old is of RemoveGroup, too: all that the group had.
	Old     Schemata   `json:",omitempty"`
	New     Schemata   `json:",omitempty"`
	Rounded []Rounding `json:",omitempty"` // of New
}

// String is a line for a review: `set group gold: L3:0=7ff → L3:0=f`. The default
// group is "/".
func (c Change) String() string {
	group := Name{Control: c.Group}.String()
	switch c.Kind {
	case MoveTask:
		return fmt.Sprintf("move task %s: group %s → %s", c.Task, Name{Control: c.From}, group)
	case SetSchemata:
		var b strings.Builder
		fmt.Fprintf(&b, "set group %s: ", group)
		if len(c.Old) > 0 {
			fmt.Fprintf(&b, "%v → ", c.Old)
		}
		b.WriteString(c.New.String())
		separator := " (rounded up from "
		for _, r := range c.Rounded {
			fmt.Fprintf(&b, "%s%s:%d=%d", separator, r.Resource, r.Domain, r.Wanted)
			separator = ", "
		}
		if len(c.Rounded) > 0 {
			b.WriteByte(')')
		}
		return b.String()
	}
	return fmt.Sprintf("%v group %s", c.Kind, group)
}

// Plan is pure. It returns the changes that make allocations true of groups, which
// are all that exist; tasks that are in no allocation stay where they are, and keep
// their group alive, as do threads of which nothing is known. Schemata of a group
// are written once, with what changed only (of a group that is made, with all that is
// wanted: where others are exclusive it does not begin with all bits); two tasks that
// want different values of one group get those of the later one.
//
// Our groups that no task needs are removed at the end. Where there are not CLOSIDs
// enough for those that are made before, as many of them as it takes are removed
// first: those without threads rather than others, and those whose tasks go to groups
// that exist rather than those from where they have to wait in the default group, with
// what it may use, until their own is made. Such a plan begins with MoveTask and
// RemoveGroup; as after any change that fails, undoing those before it, the last one
// first, brings tasks back to the groups that still exist.
//
// Allocations are validated whole: the error joins all problems (each with
// its task), and there are no changes then: an unknown resource or domain, a value
// that [Info.Check] refuses, a name that cannot be a directory, a task that is in two
// allocations, more groups than CLOSIDs ([ErrNoCLOSID]), and than RMIDs
// ([ErrNoRMID]: as many monitoring groups have to go; those of removed groups are not
// counted on, as they are in limbo for some time). errors.ErrUnsupported where
// nothing can be allocated, so that there are no control groups. others is how many
// tasks that are in no allocation each directory has.
func (in *Info) Plan(groups []ControlGroup, allocations []Allocation, others map[string]int) ([]Change, error) {
	p := newPlanner(in, groups, len(allocations))
	for i := range allocations {
		p.allocate(&allocations[i])
	}
	p.budget(others)
	p.schemata()
	if len(p.problems) > 0 {
		return nil, errors.Join(p.problems...)
	}
	return p.changes(others), nil
}

// planner is the state of one Plan.
type planner struct {
	info     *Info
	groups   []*plannedGroup // those that exist, then new ones
	byDir    map[string]*plannedGroup
	byName   map[string]*plannedGroup // by the name that users gave
	tasks    map[string]struct{}
	moves    []plannedMove
	created  int
	problems []error
}

// plannedGroup is a control group that exists, or will.
type plannedGroup struct {
	ControlGroup
	exists   bool
	wanted   bool     // an allocated task is to be in it
	leaving  int      // how many allocated tasks go
	waiting  int      // how many of these go to a group that does not exist
	first    bool     // it is removed before others are made
	want     Schemata // of all its tasks
	latest   Schemata // of the latest of them
	set      *Change  // nil: want is what it has
	firstFor string   // a new group: the first task that wants it
}

type plannedMove struct {
	task     string
	from, to *plannedGroup
}

func newPlanner(in *Info, groups []ControlGroup, tasks int) *planner {
	p := &planner{
		info:   in,
		byDir:  make(map[string]*plannedGroup, len(groups)+1),
		byName: make(map[string]*plannedGroup, len(groups)+1),
		tasks:  make(map[string]struct{}, tasks),
	}
	for _, g := range groups {
		p.add(&plannedGroup{ControlGroup: g, exists: true})
	}
	if p.byDir[""] == nil {
		p.add(&plannedGroup{exists: true})
	}
	return p
}

func (p *planner) add(g *plannedGroup) {
	p.groups = append(p.groups, g)
	p.byDir[g.Name] = g
}

func (p *planner) problem(a *Allocation, err error) {
	p.problems = append(p.problems, fmt.Errorf("task %s: %w", a.Task, err))
}

// allocate notes what one task wants.
func (p *planner) allocate(a *Allocation) {
	if _, ok := p.tasks[a.Task]; ok {
		p.problem(a, errors.New("it has two allocations: leave one out"))
		return
	}
	p.tasks[a.Task] = struct{}{}

	to := p.byName[a.Group]
	if to == nil {
		dir, err := p.directory(a.Group)
		if err != nil {
			p.problem(a, err)
			return
		}
		if to = p.byDir[dir]; to == nil {
			if p.info.CLOSIDs() == 0 {
				p.problem(a, fmt.Errorf("group %q: nothing can be allocated on this host: %w", a.Group, errors.ErrUnsupported))
				return
			}
			to = &plannedGroup{ControlGroup: ControlGroup{Name: dir}, firstFor: a.Task}
			p.add(to)
			p.created++
		}
		p.byName[a.Group] = to
	}
	to.wanted = true

	// Most often all tasks of a group have the same.
	if len(a.Schemata) > 0 && !schemataEqual(a.Schemata, to.latest) {
		if _, _, err := p.info.Check(a.Schemata); err != nil {
			p.problem(a, fmt.Errorf("group %q: %w", a.Group, err))
		} else {
			to.latest = a.Schemata
			to.want = to.want.Overlay(a.Schemata)
		}
	}

	from := p.byDir[a.Now]
	if from == nil || !from.exists {
		from = p.byDir[""]
	}
	if from != to {
		from.leaving++
		if !to.exists {
			from.waiting++
		}
		p.moves = append(p.moves, plannedMove{a.Task, from, to})
	}
}

// directory returns that of a group as users name it.
func (p *planner) directory(name string) (string, error) {
	if g := p.byDir[name]; name == "" || g != nil && g.exists {
		return name, nil
	}
	dir := name
	if !strings.HasPrefix(dir, Prefix) {
		dir = Prefix + name
	}
	if err := checkDirectory(dir); err != nil {
		return "", err
	}
	if !utf8.ValidString(dir) {
		return "", fmt.Errorf("resctrl: %w: %q is no name for a group: it is not UTF-8", fs.ErrInvalid, name)
	}
	return dir, nil
}

// removable says whether nothing that is known of keeps g alive after the moves.
func (g *plannedGroup) removable(others map[string]int) bool {
	return g.exists && !g.wanted && Name{Control: g.Name}.Ours() && others[g.Name] == 0 &&
		(g.Tasks == 0 || g.leaving > 0) && !slices.ContainsFunc(g.Monitors, isForeignMonitor)
}

func isForeignMonitor(dir string) bool { return !Name{Monitor: dir}.Ours() }

// budget finds out whether there are CLOSIDs and RMIDs for the new groups, and what has
// to be removed before they are made.
func (p *planner) budget(others map[string]int) {
	if p.created == 0 {
		return
	}
	existing, monitors := len(p.groups)-p.created, 0
	for _, g := range p.groups {
		monitors += len(g.Monitors)
	}
	closids := p.info.CLOSIDs()
	if missing := existing + p.created - closids; missing > 0 {
		var list []*plannedGroup
		for _, g := range p.groups {
			if g.removable(others) {
				list = append(list, g)
			}
		}
		if missing > len(list) {
			p.problems = append(p.problems, fmt.Errorf("%d control groups (%s) and %d new ones (%s) are %d more than this host has CLOSIDs: %w: "+
				"let tasks share groups, or remove some",
				existing, p.list(true), p.created, p.list(false), existing+p.created-closids, ErrNoCLOSID))
			return
		}
		slices.SortStableFunc(list, func(a, b *plannedGroup) int {
			return cmp.Or(cmp.Compare(a.waiting, b.waiting), cmp.Compare(a.leaving, b.leaving))
		})
		for _, g := range list[:missing] {
			g.first = true
		}
	}
	if rmids := p.info.RMIDs(); rmids > 0 && existing+monitors+p.created > rmids {
		p.problems = append(p.problems, fmt.Errorf("%d control groups, %d monitoring groups and %d new control groups (%s) are %d more than this host has RMIDs: %w: "+
			"remove monitoring groups",
			existing, monitors, p.created, p.list(false), existing+monitors+p.created-rmids, ErrNoRMID))
	}
}

// list names groups for a message, new ones with who wants them.
func (p *planner) list(exist bool) string {
	var b strings.Builder
	for _, g := range p.groups {
		if g.exists != exist {
			continue
		}
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		b.WriteString(Name{Control: g.Name}.String())
		if !exist {
			fmt.Fprintf(&b, " for task %s", g.firstFor)
		}
	}
	return b.String()
}

// changes puts everything in order.
func (p *planner) changes(others map[string]int) []Change {
	var (
		list  []Change
		moves = p.moves
	)
	if slices.ContainsFunc(p.groups, func(g *plannedGroup) bool { return g.first }) {
		moves = slices.Clone(moves)
		for i, m := range moves {
			if !m.from.first {
				continue
			}
			to := m.to
			if !to.exists {
				to = p.byDir[""]
			}
			list = append(list, Change{Kind: MoveTask, Group: to.Name, Task: m.task, From: m.from.Name})
			moves[i].from = to
		}
		for _, g := range p.groups {
			if g.first {
				list = append(list, g.remove())
			}
		}
	}
	for _, g := range p.groups {
		if !g.exists {
			list = append(list, Change{Kind: CreateGroup, Group: g.Name})
		}
	}

	start := len(list)
	for _, g := range p.groups {
		if g.set != nil {
			list = append(list, *g.set)
		}
	}
	// Bits of an exclusive group can only be had once it has given them up.
	slices.SortStableFunc(list[start:], func(a, b Change) int {
		return cmp.Compare(b.givesUp(), a.givesUp())
	})

	for _, m := range moves {
		if m.from != m.to {
			list = append(list, Change{Kind: MoveTask, Group: m.to.Name, Task: m.task, From: m.from.Name})
		}
	}
	for _, g := range p.groups {
		if !g.first && g.removable(others) {
			list = append(list, g.remove())
		}
	}
	return list
}

func (g *plannedGroup) remove() Change {
	return Change{Kind: RemoveGroup, Group: g.Name, Old: g.Schemata}
}

// schemata finds out what has to be written.
func (p *planner) schemata() {
	for _, g := range p.groups {
		var err error
		if g.set, err = p.info.setting(g.Name, g.Schemata, g.want); err != nil {
			p.problems = append(p.problems, fmt.Errorf("group %s: %w", Name{Control: g.Name}, err))
		}
	}
}

// setting returns the change that gives a group what is wanted; nil if it has it.
func (in *Info) setting(control string, now, want Schemata) (*Change, error) {
	effect, rounded, err := in.Check(want)
	if err != nil {
		return nil, err
	}
	c := Change{Kind: SetSchemata, Group: control, New: effect.Changed(now)}
	if len(c.New) == 0 {
		return nil, nil
	}
	c.Old = c.New.of(now)
	for _, r := range rounded {
		if _, ok := c.New.Get(r.Resource, r.Domain); ok {
			c.Rounded = append(c.Rounded, r)
		}
	}
	return &c, nil
}

// givesUp returns 1 if no mask gets a bit that it did not have.
func (c *Change) givesUp() int {
	for _, l := range c.New {
		for _, d := range l.Domains {
			if old, ok := c.Old.Get(l.Resource, d.ID); l.Kind == Mask && (!ok || d.Value&^old != 0) {
				return 0
			}
		}
	}
	return 1
}

// of returns the values that other has where s has some.
func (s Schemata) of(other Schemata) Schemata {
	return s.valuesWhere(func(resource string, d DomainValue) (uint64, bool) { return other.Get(resource, d.ID) })
}

// valuesWhere returns s with other values, less those that there are none for; nil if
// there are none at all.
func (s Schemata) valuesWhere(value func(resource string, d DomainValue) (uint64, bool)) Schemata {
	var list Schemata
	for _, l := range s {
		var domains []DomainValue
		for _, d := range l.Domains {
			if v, ok := value(l.Resource, d); ok {
				domains = append(domains, DomainValue{ID: d.ID, Value: v})
			}
		}
		if len(domains) > 0 {
			list = append(list, Line{Resource: l.Resource, Kind: l.Kind, Domains: domains})
		}
	}
	return list
}

func schemataEqual(a, b Schemata) bool {
	return slices.EqualFunc(a, b, func(a, b Line) bool {
		return a.Resource == b.Resource && a.Kind == b.Kind && slices.Equal(a.Domains, b.Domains)
	})
}

// errWatchMoves: threads of a task are listed by who knows the task.
var errWatchMoves = errors.New("resctrl: a task is moved by its Watch")

// Do makes a change that is not a MoveTask, which is up to the task's [Watch].
//
// Of SetSchemata it returns what is in effect then for the whole group; with an error,
// too, where it can be read. Values that somebody else wrote since the plan are
// overwritten if they are among New, and kept otherwise. All or nothing takes effect,
// as it is one write; but New longer than the 4096 bytes that the kernel takes (of
// some hundred domains) is written in several, by resource, during which others see
// some of it, and what was written before one that fails is put back. Errors: those
// of [Tree.SetSchemata], with the line; after [ErrReadBack] all of New is in effect.
//
// CreateGroup is no error where the group exists by now. RemoveGroup is [Tree.Remove],
// but refused with unix.EBUSY while threads are in the group; a thread that comes
// between this being looked at and the removal goes to the default group.
func (t *Tree) Do(c Change) (effect Schemata, err error) {
	switch c.Kind {
	case CreateGroup:
		if err := t.Create(Name{Control: c.Group}); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		return nil, nil
	case SetSchemata:
		return t.setInParts(c.Group, c.New, maxSchemataWrite)
	case RemoveGroup:
		return nil, t.removeUnused(c.Group)
	case MoveTask:
		return nil, errWatchMoves
	}
	return nil, fmt.Errorf("resctrl: %v", c.Kind)
}

// removeUnused is Remove of a control group that is refused while threads are in it.
func (t *Tree) removeUnused(control string) error {
	n := Name{Control: control}
	if n.Ours() {
		// The kernel lists those of the group's monitoring groups, too (is_closid_match).
		threads, err := t.Threads(n, nil)
		if err != nil && !errors.Is(err, ErrGone) {
			return err
		}
		if len(threads) > 0 {
			err := fmt.Errorf("%w: %d threads are in it, such as %d", unix.EBUSY, len(threads), threads[0])
			return &Error{Op: string(opRmdir), Path: n.Path(), Err: err}
		}
	}
	return t.Remove(n)
}

// maxSchemataWrite is the kernel's limit of one write (atomic_write_len of
// rdtgroup_kf_single_ops): a page, which is at least this long.
const maxSchemataWrite = 4096

// schemataWrites splits s into what can be written at once each: all of it if that is
// short enough, otherwise resource by resource.
func schemataWrites(s Schemata, limit int) []Schemata {
	if len(s.Append(nil)) <= limit {
		return []Schemata{s}
	}
	var list []Schemata
	for _, l := range s {
		for rest := l.Domains; len(rest) > 0; {
			n := len(rest)
			part := func() Schemata {
				return Schemata{{Resource: l.Resource, Kind: l.Kind, Domains: rest[:n]}}
			}
			for n > 1 && len(part().Append(nil)) > limit {
				n = (n + 1) / 2
			}
			list = append(list, part())
			rest = rest[n:]
		}
	}
	return list
}

// setInParts is SetSchemata of any length, at most limit bytes a write.
func (t *Tree) setInParts(control string, s Schemata, limit int) (Schemata, error) {
	parts := schemataWrites(s, limit)
	var before Schemata
	if len(parts) > 1 {
		var err error
		if before, err = t.Schemata(control); err != nil {
			return nil, err
		}
	}
	for i, part := range parts {
		effect, err := t.SetSchemata(control, part)
		if err == nil || errors.Is(err, ErrReadBack) {
			if i == len(parts)-1 {
				return effect, err
			}
			continue
		}
		problems := []error{nil}
		for _, done := range slices.Backward(parts[:i]) {
			if _, err := t.SetSchemata(control, done.of(before)); err != nil {
				problems = append(problems, fmt.Errorf("putting back what was before: %w", err))
			}
		}
		effect, readErr := t.Schemata(control)
		if readErr != nil {
			effect = nil
		}
		problems[0] = namingLine(err, part, effect)
		return effect, errors.Join(problems...)
	}
	return t.Schemata(control)
}

// namingLine adds to the kernel's refusal of s which of its lines it can only be, as
// far as that can be told: the kernel's text has none of resource, domain and value in
// most cases, and there is none at all of a domain that does not exist.
func namingLine(err error, s, now Schemata) error {
	var e *Error
	if !errors.As(err, &e) || !errors.Is(err, unix.EINVAL) {
		return err
	}
	var absent []string
	for _, l := range s {
		for _, d := range l.Domains {
			if _, ok := now.Get(l.Resource, d.ID); !ok && len(now) > 0 {
				absent = append(absent, fmt.Sprintf("%s:%d", l.Resource, d.ID))
			}
		}
	}
	if len(absent) > 0 {
		return fmt.Errorf("%w: there is no domain %s (now?) in line %s", err, strings.Join(absent, ", "), s)
	}
	suspects := s
	switch {
	case strings.Contains(e.Status, "MB value"), strings.Contains(e.Status, "andwidth"):
		suspects = s.ofKind(Bandwidth)
	case strings.Contains(e.Status, "ask"), strings.Contains(e.Status, "verlaps"):
		suspects = s.ofKind(Mask)
	}
	if len(suspects) == 0 || len(suspects) == len(s) {
		return err // it has all of them
	}
	return fmt.Errorf("%w: it is in line %s", err, suspects)
}

func (s Schemata) ofKind(k Kind) Schemata {
	var list Schemata
	for _, l := range s {
		if l.Kind == k {
			list = append(list, l)
		}
	}
	return list
}

// Undo undoes a change that was made, as far as the host is still as the change left
// it: of SetSchemata the values that are still those of New, so that what somebody
// changed since stays; of CreateGroup the group, if it is ours and nothing is in it
// (unix.EBUSY otherwise). RemoveGroup is not undone: nothing was in the group, and a
// task that goes back where it was before such a plan is in the default group then.
// A group that does not exist is no error, nor is a second time.
func (t *Tree) Undo(c Change) error {
	switch c.Kind {
	case CreateGroup:
		return t.removeUnused(c.Group)
	case SetSchemata:
		now, err := t.Schemata(c.Group)
		if errors.Is(err, ErrGone) {
			return t.Alive()
		}
		if err != nil {
			return err
		}
		restore := c.restore(now)
		if len(restore) == 0 {
			return nil
		}
		_, err = t.setInParts(c.Group, restore, maxSchemataWrite)
		return err
	case RemoveGroup:
		return nil
	case MoveTask:
		return errWatchMoves
	}
	return fmt.Errorf("resctrl: %v", c.Kind)
}

// restore returns the old values of those that are still the new ones.
func (c *Change) restore(now Schemata) Schemata {
	return c.Old.valuesWhere(func(resource string, d DomainValue) (uint64, bool) {
		is, ok := now.Get(resource, d.ID)
		made, set := c.New.Get(resource, d.ID)
		return d.Value, ok && set && is == made && is != d.Value
	})
}

// SetDefaults writes what the default group shall have of L3 and MB ("" = all of it,
// where the host has that resource), as the original did at its start: first L3, then
// MB, one write each, and none where nothing changes. Both are text as
// [Info.Parse] takes it and are checked before anything is written. The changes
// are those that were made, also with an error.
func (t *Tree) SetDefaults(l3, mb string) (changes []Change, err error) {
	now, err := t.Schemata("") // and the domains that there are now
	if err != nil {
		return nil, err
	}
	wantL3, errL3 := t.info.defaultsOf("L3", l3)
	wantMB, errMB := t.info.defaultsOf("MB", mb)
	if err := errors.Join(errL3, errMB); err != nil {
		return nil, err
	}
	for _, want := range []Schemata{wantL3, wantMB} {
		c, err := t.info.setting("", now, want)
		if err != nil {
			return changes, err
		}
		if c == nil {
			continue
		}
		_, err = t.Do(*c)
		if err == nil || errors.Is(err, ErrReadBack) {
			changes = append(changes, *c)
		}
		if err != nil {
			return changes, err
		}
	}
	return changes, nil
}

// defaultsOf returns the valid schemata that text asks for of one resource, or of the
// two that it is with CDP.
func (in *Info) defaultsOf(resource, text string) (Schemata, error) {
	is := func(l Line) bool {
		return l.Resource == resource || l.Resource == resource+"CODE" || l.Resource == resource+"DATA"
	}
	if text == "" {
		return slices.DeleteFunc(in.Default(), func(l Line) bool { return !is(l) }), nil
	}
	want, err := in.Parse(text)
	if err == nil {
		if i := slices.IndexFunc(want, func(l Line) bool { return !is(l) }); i >= 0 {
			err = fmt.Errorf("%q is of %s", text, want[i].Resource)
		} else {
			_, _, err = in.Check(want)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("default of %s: %w", resource, err)
	}
	return want, nil
}
