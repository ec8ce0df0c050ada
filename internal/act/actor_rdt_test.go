package act

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/hosttest"
	"github.com/owca-project/owca/internal/resctrl"
)

// memoryGroups are Groups of a host that there is not: 4 CLOSIDs, L3 of 8 bits and MB, one
// domain. What it costs, and what the kernel makes of it, is for the tests on resctrl.
type memoryGroups struct {
	info     resctrl.Info
	schemata map[string]resctrl.Schemata
	tasks    map[string]string
	refuse   error // what Do says
	done     []string
}

func newMemoryGroups(tasks ...owca.TaskID) *memoryGroups {
	g := &memoryGroups{
		info: resctrl.Info{Resources: []resctrl.Resource{
			{Name: "L3", Kind: resctrl.Mask, CLOSIDs: 4, Domains: []int{0}, Bits: 0xff, MinBits: 1},
			{Name: "MB", Kind: resctrl.Bandwidth, CLOSIDs: 4, Domains: []int{0}, Unit: resctrl.Percent, Min: 10, Granularity: 10, Max: 100},
		}},
		tasks: map[string]string{},
	}
	g.schemata = map[string]resctrl.Schemata{"": g.info.Default()}
	for _, id := range tasks {
		g.tasks[string(id)] = ""
	}
	return g
}

func (g *memoryGroups) Info() *resctrl.Info { return &g.info }
func (g *memoryGroups) Err() error          { return nil }

func (g *memoryGroups) Control() (list []resctrl.ControlGroup, tasks map[string]string, err error) {
	for _, name := range slices.Sorted(maps.Keys(g.schemata)) {
		c := resctrl.ControlGroup{Name: name, Schemata: g.schemata[name]}
		for _, dir := range g.tasks {
			if dir == name {
				c.Tasks++
			}
		}
		list = append(list, c)
	}
	return list, maps.Clone(g.tasks), nil
}

func (g *memoryGroups) Do(c resctrl.Change) (resctrl.Schemata, error) {
	if g.refuse != nil {
		return nil, g.refuse
	}
	g.done = append(g.done, c.String())
	switch _, exists := g.schemata[c.Group]; {
	case c.Kind == resctrl.CreateGroup:
		g.schemata[c.Group] = g.info.Default()
	case !exists:
		return nil, resctrl.ErrGone
	case c.Kind == resctrl.SetSchemata:
		g.schemata[c.Group] = g.schemata[c.Group].Overlay(c.New)
		return g.schemata[c.Group], nil
	case c.Kind == resctrl.MoveTask:
		g.tasks[c.Task] = c.Group
	case c.Kind == resctrl.RemoveGroup:
		return nil, g.remove(c.Group)
	}
	return nil, nil
}

func (g *memoryGroups) remove(group string) error {
	for task, dir := range g.tasks {
		if dir == group {
			return fmt.Errorf("task %s: %w", task, syscall.EBUSY)
		}
	}
	delete(g.schemata, group)
	return nil
}

func (g *memoryGroups) Undo(c resctrl.Change) error {
	switch c.Kind {
	case resctrl.CreateGroup:
		return g.remove(c.Group)
	case resctrl.SetSchemata:
		now := g.schemata[c.Group]
		theirs := ofSame(c.New, now).Changed(c.New) // as Tree.Undo
		g.schemata[c.Group] = now.Overlay(c.Old).Overlay(theirs)
	case resctrl.MoveTask:
		if g.tasks[c.Task] != c.Group {
			return nil // as measure's Control.Undo
		}
		if _, ok := g.schemata[c.From]; !ok {
			c.From = ""
		}
		g.tasks[c.Task] = c.From
	}
	return nil
}

func (g *memoryGroups) Schemata(group string) (resctrl.Schemata, error) {
	if s, ok := g.schemata[group]; ok {
		return s, nil
	}
	return nil, resctrl.ErrGone
}

func (g *memoryGroups) Where(task owca.TaskID) (string, bool) {
	dir, ok := g.tasks[string(task)]
	return dir, ok
}

func rdt(name, l3 string) owca.Allocations {
	return owca.Allocations{owca.RDTGroup: {RDT: &owca.RDTAllocation{Name: &name, L3: l3}}}
}

func rdtRig(t *testing.T, options ...func(*Options)) (r *rig, g *memoryGroups, cgroups []*hosttest.Cgroup) {
	t.Helper()
	r = newRig(t, options...)
	for _, id := range []string{"a", "b", "c"} {
		c := hosttest.NewCgroup(t, nil, "rdt-"+id)
		cgroups = append(cgroups, c)
		r.task(id, c)
	}
	g = newMemoryGroups("a", "b", "c")
	r.actor.SetGroups(g)
	return r, g, cgroups
}

func (g *memoryGroups) want(t *testing.T, tasks map[string]string, schemata map[string]string) {
	t.Helper()
	if !maps.Equal(g.tasks, tasks) {
		t.Errorf("tasks are in %v, want %v", g.tasks, tasks)
	}
	got := map[string]string{}
	for name, s := range g.schemata {
		got[name] = s.String()
	}
	if !maps.Equal(got, schemata) {
		t.Errorf("groups are %v, want %v", got, schemata)
	}
}

const allRDT = "L3:0=ff; MB:0=100"

func TestActorGroups(t *testing.T) {
	r, g, _ := rdtRig(t)
	gold := resctrl.Prefix + "gold"
	r.tick(map[owca.TaskID]owca.Allocations{"a": rdt("gold", "L3:0=f"), "b": rdt("gold", "L3:0=f")})
	g.want(t, map[string]string{"a": gold, "b": gold, "c": ""}, map[string]string{"": allRDT, gold: "L3:0=f; MB:0=100"})
	before := len(g.done)
	r.tick(map[owca.TaskID]owca.Allocations{"a": rdt("gold", "L3:0=f"), "b": rdt("gold", "L3:0=f")})
	if len(g.done) != before {
		t.Errorf("done again: %v", g.done[before:])
	}
	if is := r.tasks[1].Allocations[owca.RDTGroup].RDT; is == nil || *is.Name != "gold" || is.L3 != "L3:0=f" {
		t.Errorf("%+v", is)
	}
	r.tick(map[owca.TaskID]owca.Allocations{"c": rdt("silver", "L3:0=3"), "a": rdt("gold", "L3:0=7")})
	silver := resctrl.Prefix + "silver"
	g.want(t, map[string]string{"a": gold, "b": gold, "c": silver},
		map[string]string{"": allRDT, gold: "L3:0=7; MB:0=100", silver: "L3:0=3; MB:0=100"})

	// One of two gives its group back; the other keeps it.
	r.tick(map[owca.TaskID]owca.Allocations{"b": {owca.RDTGroup: {Release: true}}})
	g.want(t, map[string]string{"a": gold, "b": "", "c": silver},
		map[string]string{"": allRDT, gold: "L3:0=7; MB:0=100", silver: "L3:0=3; MB:0=100"})
	r.tick(map[owca.TaskID]owca.Allocations{"c": {owca.RDTGroup: {Release: true}}})
	g.want(t, map[string]string{"a": gold, "b": "", "c": ""}, map[string]string{"": allRDT, gold: "L3:0=7; MB:0=100"})
	r.close()
	g.want(t, map[string]string{"a": "", "b": "", "c": ""}, map[string]string{"": allRDT})
}

func TestActorGroupForeign(t *testing.T) {
	r, g, _ := rdtRig(t)
	r.tick(map[owca.TaskID]owca.Allocations{"a": rdt("gold", "L3:0=f"), "b": rdt("silver", "L3:0=3")})
	gold := resctrl.Prefix + "gold"

	// Somebody moves a task: it stays there.
	g.tasks["b"] = ""
	// Somebody removes a group: it is made again.
	g.tasks["a"] = ""
	delete(g.schemata, gold)
	r.now += rdtPace
	r.tick(nil)
	r.now += time.Minute
	r.tick(nil)
	if g.tasks["b"] != "" {
		t.Errorf("b is in %q", g.tasks["b"])
	}
	if s := g.schemata[gold].String(); s != "L3:0=f; MB:0=100" {
		t.Errorf("gold has %s", s)
	}
	// Somebody changes schemata: they stay.
	g.schemata[gold] = g.schemata[gold].Overlay(resctrl.Schemata{{Resource: "L3", Domains: []resctrl.DomainValue{{ID: 0, Value: 0x3f}}}})
	r.now += rdtPace
	for range 2 {
		r.tick(map[owca.TaskID]owca.Allocations{"a": rdt("gold", "L3:0=f")})
	}
	if s := g.schemata[gold].String(); s != "L3:0=3f; MB:0=100" {
		t.Errorf("gold has %s", s)
	}
	r.ended(EndForeign, 2)
	// Not for another task that joins either, nor for the same one in a new group.
	r.tick(map[owca.TaskID]owca.Allocations{"b": rdt("gold", "L3:0=f")})
	if s := g.schemata[gold].String(); s != "L3:0=3f; MB:0=100" || g.tasks["b"] != gold {
		t.Errorf("gold has %s, b is in %q", s, g.tasks["b"])
	}
	// Until other ones are decided.
	r.tick(map[owca.TaskID]owca.Allocations{"b": rdt("gold", "L3:0=7")})
	if s := g.schemata[gold].String(); s != "L3:0=7; MB:0=100" {
		t.Errorf("gold has %s", s)
	}
	// Nobody is in it at the end, so that it goes.
	r.close()
	g.want(t, map[string]string{"a": "", "b": "", "c": ""}, map[string]string{"": allRDT})
}

// awayGroups are resctrl that is not looked for yet, or not in use any more.
type awayGroups struct{ *memoryGroups }

func (awayGroups) Info() *resctrl.Info { return nil }
func (awayGroups) Err() error          { return resctrl.ErrNotMounted }

// A release while resctrl cannot be used is made when it can be again, of schemata alone, too.
func TestActorReleaseWhileAway(t *testing.T) {
	for _, way := range []string{"moved", "schemata"} {
		t.Run(way, func(t *testing.T) {
			r, g, _ := rdtRig(t)
			first := map[string]string{"": allRDT}
			name := "gold"
			if way == "schemata" {
				name = "theirs"
				g.schemata[name], g.tasks["a"] = g.info.Default(), name
				first[name] = allRDT
			}
			before := maps.Clone(g.tasks)
			r.tick(map[owca.TaskID]owca.Allocations{"a": rdt(name, "L3:0=f")})
			r.leases(map[string]int{"moved": 2, "schemata": 1}[way])

			r.actor.SetGroups(awayGroups{g})
			log := r.logged()
			released := map[owca.TaskID]owca.Allocations{"a": {owca.RDTGroup: {Release: true}}}
			if report := r.tick(released); len(report.Refused) != 1 || !strings.Contains(report.Refused[0].Reason, resctrl.ErrNotMounted.Error()) {
				t.Errorf("refused %+v", report.Refused)
			}
			for range 3 {
				r.now += lastRetry
				r.tick(released)
			}
			told(t, log, "nothing can be given back")
			// One that has nothing to give back has no trouble.
			if report := r.tick(map[owca.TaskID]owca.Allocations{"b": rdt("silver", "")}); len(report.Refused) != 1 {
				t.Errorf("refused %+v", report.Refused)
			}
			if report := r.tick(map[owca.TaskID]owca.Allocations{"b": {owca.RDTGroup: {Release: true}}}); len(report.Refused) > 0 {
				t.Errorf("refused %+v", report.Refused)
			}
			r.actor.SetGroups(g)
			r.now += lastRetry
			r.tick(released)
			g.want(t, before, first)
			r.leases(0)
			if n := len(r.actor.standing); n > 0 {
				t.Errorf("%d decisions stand", n)
			}
			r.close()
		})
	}
}

// A release of which a lease is left is not forgotten: it is made again, at a distance.
func TestActorGroupReleaseLeft(t *testing.T) {
	r, g, _ := rdtRig(t)
	r.tick(map[owca.TaskID]owca.Allocations{"a": rdt("gold", "L3:0=f")})
	s := r.actor.standing[decisionKey{"a", owca.RDTGroup}]
	s.allocation = owca.Allocation{Release: true}
	r.actor.settle(s)
	if r.actor.standing[s.decisionKey] != s || s.retry <= r.actor.clock() {
		t.Fatalf("forgotten, or tried again at once: %+v", s)
	}
	r.actor.setPending(s)
	r.now += lastRetry
	r.tick(nil)
	g.want(t, map[string]string{"a": "", "b": "", "c": ""}, map[string]string{"": allRDT})
	r.leases(0)
	r.close()
}

// A move that was leased anew and not made is undone from where the task is.
func TestRestoreHalfMove(t *testing.T) {
	for _, at := range []string{"owca-g1", "owca-g2", ""} {
		g := newMemoryGroups("a")
		g.schemata["theirs"], g.tasks["a"] = g.info.Default(), at
		if at != "" {
			g.schemata["owca-g1"] = g.info.Default()
		}
		if at == "owca-g2" {
			g.schemata[at] = g.info.Default()
		}
		l := &Lease{Change: Change{Target: Target{Task: "a"}, Kind: owca.RDTGroup, For: "a",
			Resctrl: &resctrl.Change{Kind: resctrl.MoveTask, Task: "a", Group: "owca-g2", From: "theirs"}},
			Before: &resctrl.Change{Kind: resctrl.MoveTask, Task: "a", Group: "owca-g1"}}
		newRestorer(nil, g).undoAll(t.Context(), []*Lease{l}, func(_ *Lease, how End, err error) {
			if how != EndRestored || err != nil || g.tasks["a"] != "theirs" {
				t.Errorf("from %q: %s, %v, in %q", at, how, err, g.tasks["a"])
			}
		})
	}
}

// Control groups are given back by the kernel's resctrl where the agent does not use it
// (yet), and, as its monitoring has the claim, beside that.
func TestActorResctrlAway(t *testing.T) {
	mount := hosttest.Resctrl(t, "/L3")
	for _, way := range []string{"none", "away", "claimed", "left"} {
		t.Run(way, func(t *testing.T) {
			r := newRig(t)
			c := hosttest.NewCgroup(t, nil, "away")
			p := c.Start("sleep")
			p.Done()
			r.task("a", c)
			groups := &hostGroups{root: "/", tree: r.tree, leases: []*Lease{{Change: Change{
				Cgroups: []string{c.Path}, Resctrl: &resctrl.Change{Kind: resctrl.MoveTask, Task: "a"},
			}}}}
			r.actor.SetGroups(groups)
			r.tick(map[owca.TaskID]owca.Allocations{"a": rdt("gold", "L3:0=f")})
			isIn := func(group string, want bool) {
				t.Helper()
				b, err := os.ReadFile(filepath.Join(mount, group, "tasks"))
				if err != nil && want {
					t.Fatal(err)
				}
				if got := slices.Contains(strings.Fields(string(b)), fmt.Sprint(p.Pid)); got != want {
					t.Errorf("in group %q: %v, want %v", group, got, want)
				}
			}
			isIn(resctrl.Prefix+"gold", true)
			if way == "claimed" {
				defer groups.close()
			} else {
				groups.close()
			}
			if r.actor.SetGroups(nil); way == "away" {
				r.actor.SetGroups(awayGroups{newMemoryGroups()})
			}
			if way == "left" {
				// Without resctrl nobody would keep its new threads in the group.
				r.tick(nil)
			} else {
				r.actor.KeepOwners(nil)
			}
			r.leases(0)
			isIn("", true)
			if _, err := os.Stat(filepath.Join(mount, resctrl.Prefix+"gold")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the group: %v", err)
			}
			r.close()
		})
	}
}

// A task of which the threads cannot be listed does not keep the others' leases.
func TestRestoreResctrlStuck(t *testing.T) {
	mount := hosttest.Resctrl(t, "/L3")
	a := newAgentStub(t)
	groups := &hostGroups{root: "/", tree: a.tree}
	var pids []int
	for _, id := range []string{"a", "b"} {
		c := hosttest.NewCgroup(t, nil, "stuck-"+id)
		p := c.Start("sleep")
		p.Done()
		pids = append(pids, p.Pid)
		group := resctrl.Prefix + id
		a.resctrl(groups, Target{Group: group}, resctrl.Change{Kind: resctrl.CreateGroup, Group: group})
		a.resctrl(groups, Target{Task: owca.TaskID(id)}, resctrl.Change{Kind: resctrl.MoveTask, Task: id, Group: group}, c.Path)
	}
	groups.close()
	leases := a.Leases()
	for _, l := range leases {
		if l.Task == "a" {
			l.Cgroups = append(l.Cgroups, "/"+strings.Repeat("x", 300)) // ENAMETOOLONG
		}
	}
	own := &hostGroups{root: "/", tree: a.tree, leases: leases}
	defer own.close()
	var ends []End
	newRestorer(a.tree, own).undoAll(t.Context(), leases, func(l *Lease, how End, err error) {
		if err != nil {
			t.Errorf("%+v: %v", l.Target, err)
		}
		ends = append(ends, how)
	})
	wantEnds(t, ends, EndRestored, EndRestored, EndRestored, EndRestored)
	b, err := os.ReadFile(filepath.Join(mount, "tasks"))
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if !slices.Contains(strings.Fields(string(b)), fmt.Sprint(pid)) {
			t.Errorf("process %d is not in the default group", pid)
		}
	}
	for _, l := range leases {
		if _, err := os.Stat(filepath.Join(mount, resctrl.Prefix+l.Resctrl.Task)); l.Task != "" && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("group of %s: %v", l.Task, err)
		}
	}
}

// A task that ends takes its leases along, and the group that was made for it goes.
func TestActorGroupUnused(t *testing.T) {
	r, g, cgroups := rdtRig(t)
	r.tick(map[owca.TaskID]owca.Allocations{"a": rdt("gold", "L3:0=f")})
	r.tasks = r.tasks[1:]
	cgroups[0].Remove()
	delete(g.tasks, "a")
	for range 3 {
		r.now += rdtPace
		r.tick(nil)
	}
	g.want(t, map[string]string{"b": "", "c": ""}, map[string]string{"": allRDT})
	r.leases(0)
	r.close()
}

func TestActorGroupRefused(t *testing.T) {
	r, g, _ := rdtRig(t)
	log := r.logged()
	g.refuse = &resctrl.Error{Op: "mkdir", Path: "x", Err: syscall.ENOSPC}
	for range 5 {
		r.tick(map[owca.TaskID]owca.Allocations{"a": rdt("gold", "L3:0=f")})
		r.now += 100 * time.Millisecond
	}
	told(t, log, "a decision is not in effect")
	r.leases(0)
	g.refuse = nil
	r.now += time.Minute
	r.tick(nil)
	if g.tasks["a"] != resctrl.Prefix+"gold" {
		t.Errorf("a is in %q", g.tasks["a"])
	}
	// More groups than there are CLOSIDs.
	_, err := r.tryTick(Decided{Owner: "test", Allocations: map[owca.TaskID]owca.Allocations{
		"a": rdt("one", "L3:0=f"), "b": rdt("two", "L3:0=f"), "c": rdt("three", "L3:0=f"),
	}})
	if err != nil {
		t.Error(err)
	}
	_, err = r.tryTick(Decided{Owner: "test", Allocations: map[owca.TaskID]owca.Allocations{"a": rdt("four", "L3:0=1ff")}})
	if e, ok := errors.AsType[*Invalid](err); !ok || e.Task != "a" {
		t.Error(err)
	}
	r.close()
	g.want(t, map[string]string{"a": "", "b": "", "c": ""}, map[string]string{"": allRDT})
}

func TestActorGroupDefaults(t *testing.T) {
	l3, mb := "L3:0=7f", ""
	r, g, _ := rdtRig(t, func(o *Options) { o.DefaultL3, o.DefaultMB = &l3, &mb })
	g.want(t, map[string]string{"a": "", "b": "", "c": ""}, map[string]string{"": "L3:0=7f; MB:0=100"})
	r.actor.SetGroups(g)
	r.tick(nil)
	r.leases(1)
	r.actor.KeepOwners(nil)
	r.leases(1)
	r.actor.SetOptions(r.options())
	r.actor.SetGroups(g)
	g.want(t, map[string]string{"a": "", "b": "", "c": ""}, map[string]string{"": allRDT})
	r.leases(0)
	r.close()
}

// What was decided of the default group is above the defaults of the configuration, which
// are what comes back.
func TestActorGroupDefaultsBelow(t *testing.T) {
	l3, mb, less, wrong := "L3:0=3f", "MB:0=50", "L3:0=1f", "L3:0=fff"
	defaults := func(l3, mb *string) func(*Options) {
		return func(o *Options) { o.DefaultL3, o.DefaultMB = l3, mb }
	}
	r, g, cgroups := rdtRig(t, defaults(&l3, &mb))
	is := func(when, want string) {
		t.Helper()
		if got := g.schemata[""].String(); got != want {
			t.Errorf("%s: the default group has %s, want %s", when, got, want)
		}
	}
	reload := func(l3, mb *string) {
		r.actor.SetOptions(r.options(defaults(l3, mb)))
		r.actor.SetGroups(g)
	}
	release := owca.Allocations{owca.RDTGroup: {Release: true}}
	is("at the start", "L3:0=3f; MB:0=50")
	r.tick(map[owca.TaskID]owca.Allocations{"a": rdt("", "L3:0=1")})
	is("decided", "L3:0=1; MB:0=50")
	r.tick(map[owca.TaskID]owca.Allocations{"a": release})
	is("released", "L3:0=3f; MB:0=50")
	r.leases(1)

	// The same, then others by a reload.
	r.tick(map[owca.TaskID]owca.Allocations{"a": rdt("", "L3:0=3"), "b": rdt("", "")})
	done := len(g.done)
	if reload(&l3, &mb); len(g.done) != done {
		t.Errorf("a reload of the same did %v", g.done[done:])
	}
	reload(&less, nil)
	is("without a default of MB", "L3:0=3; MB:0=100")
	r.tick(map[owca.TaskID]owca.Allocations{"a": rdt("gold", "L3:0=7"), "b": release})
	is("left", "L3:0=1f; MB:0=100")

	// No default any more, and none until what was decided goes.
	r.tick(map[owca.TaskID]owca.Allocations{"b": rdt("", "L3:0=3")})
	reload(nil, nil)
	is("without defaults", "L3:0=3; MB:0=100")
	reload(&less, &mb)
	is("with defaults anew", "L3:0=3; MB:0=50")

	// Its task ends.
	r.tasks = slices.Delete(r.tasks, 1, 2)
	cgroups[1].Remove()
	delete(g.tasks, "b")
	for range 3 {
		r.now += time.Minute
		r.actor.SetGroups(g)
		r.tick(nil)
	}
	is("the task has ended", "L3:0=1f; MB:0=50")

	// Somebody else's stays, by a reload of the same, too.
	g.schemata[""] = g.schemata[""].Overlay(resctrl.Schemata{{Resource: "L3", Domains: []resctrl.DomainValue{{ID: 0, Value: 0xf}}}})
	reload(&less, &mb)
	is("foreign", "L3:0=f; MB:0=100")
	r.ended(EndForeign, 1)
	reload(&l3, &mb)
	is("others than what was foreign", "L3:0=3f; MB:0=50")

	// What cannot be set now is tried again.
	g.refuse = syscall.EBUSY
	reload(&less, &mb)
	g.refuse = nil
	r.tick(nil)
	is("refused", "L3:0=3f; MB:0=50")
	r.now += defaultsPace
	r.tick(nil)
	r.actor.SetGroups(g)
	is("tried again", "L3:0=1f; MB:0=50")
	// What does not fit leaves what there is.
	reload(&wrong, &mb)
	is("wrong", "L3:0=1f; MB:0=50")
	r.close()
	g.want(t, map[string]string{"a": "", "c": ""}, map[string]string{"": "L3:0=f; MB:0=100"})
}

// halfGroups make changes, and fail then: of schemata only the first resource is set.
type halfGroups struct{ *memoryGroups }

func (g halfGroups) Do(c resctrl.Change) (effect resctrl.Schemata, err error) {
	switch c.Kind {
	case resctrl.MoveTask:
		_, err = g.memoryGroups.Do(c)
		return nil, errors.Join(err, syscall.EACCES)
	case resctrl.SetSchemata:
		c.New = c.New[:1]
		effect, err = g.memoryGroups.Do(c)
		return effect, errors.Join(err, syscall.EINVAL)
	}
	return g.memoryGroups.Do(c)
}

// What is made in spite of an error is leased.
func TestActorGroupHalf(t *testing.T) {
	r, g, _ := rdtRig(t)
	r.actor.SetGroups(halfGroups{g})
	g.schemata["theirs"] = g.info.Default()
	a := owca.Allocations{owca.RDTGroup: {RDT: &owca.RDTAllocation{Name: new("theirs"), L3: "L3:0=f", MB: "MB:0=50"}}}
	r.tick(map[owca.TaskID]owca.Allocations{"a": a})
	g.want(t, map[string]string{"a": "theirs", "b": "", "c": ""}, map[string]string{"": allRDT, "theirs": "L3:0=f; MB:0=100"})
	r.leases(2)
	// It is tried again, and what was set is not taken for somebody else's.
	r.actor.SetGroups(g)
	r.now += time.Minute
	r.tick(nil)
	g.want(t, map[string]string{"a": "theirs", "b": "", "c": ""}, map[string]string{"": allRDT, "theirs": "L3:0=f; MB:0=50"})
	r.ended(EndForeign, 0)
	r.close()
	g.want(t, map[string]string{"a": "", "b": "", "c": ""}, map[string]string{"": allRDT, "theirs": allRDT})
}
