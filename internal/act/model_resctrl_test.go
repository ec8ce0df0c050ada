package act

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/hosttest"
	"github.com/owca-project/owca/internal/resctrl"
)

// modelGroups are hostGroups that can be observed.
type modelGroups struct{ *hostGroups }

func (g modelGroups) Schemata(group string) (resctrl.Schemata, error) {
	if g.open(); g.err != nil {
		return nil, g.err
	}
	return g.resctrl.Schemata(group)
}

func (g modelGroups) Where(task owca.TaskID) (dir string, ok bool) {
	_, tasks, err := g.Control()
	dir, ok = tasks[string(task)]
	return dir, ok && err == nil
}

// modelRDT is a host with three tasks, of which the model knows what there is without an agent: the
// default group with all tasks and its first schemata, and the groups of others.
type modelRDT struct {
	t      testing.TB
	random *rand.Rand
	root   string // of resctrl
	base   string // schemata of the default group
	others []string
	dir    string
	tree   *cgroup.Tree
	tasks  []owca.TaskData
	pids   []int
	actor  *Actor
	groups *hostGroups
	now    time.Time
	log    []string
	// made counts changes, by what they were.
	made map[resctrl.ChangeKind]int
}

func (m *modelRDT) note(format string, a ...any) { m.log = append(m.log, fmt.Sprintf(format, a...)) }

func (m *modelRDT) fatalf(format string, a ...any) {
	m.t.Helper()
	m.t.Fatalf("%s\n  %s", fmt.Sprintf(format, a...), strings.Join(m.log, "\n  "))
}

func (m *modelRDT) read(name string) string {
	m.t.Helper()
	b, err := os.ReadFile(filepath.Join(m.root, name))
	if err != nil {
		m.fatalf("%v", err)
	}
	return string(b)
}

// controls are the directories of all control groups but the default one.
func (m *modelRDT) controls() []string {
	m.t.Helper()
	entries, err := os.ReadDir(m.root)
	if err != nil {
		m.fatalf("%v", err)
	}
	var list []string
	for _, e := range entries {
		if e.IsDir() && !slices.Contains([]string{"info", "mon_groups", "mon_data"}, e.Name()) {
			list = append(list, e.Name())
		}
	}
	return list
}

func (m *modelRDT) start(keep bool) {
	m.t.Helper()
	m.note("start, keep %v", keep)
	m.groups = &hostGroups{root: "/", tree: m.tree}
	for _, t := range m.tasks {
		m.groups.leases = append(m.groups.leases, &Lease{Change: Change{
			Cgroups: t.Cgroups, Resctrl: &resctrl.Change{Kind: resctrl.MoveTask, Task: string(t.ID)},
		}})
	}
	m.actor = New("/")
	o := Options{Units: Units{SharesUnit: 1000}, StateDir: m.dir, Keep: keep}
	if m.random.IntN(2) == 0 {
		o.DefaultL3 = new([]string{"", "L3:0=1f0"}[m.random.IntN(2)])
		m.note("  default %q", *o.DefaultL3)
	}
	if strings.Contains(m.base, "MB:") && m.random.IntN(3) == 0 {
		o.DefaultMB = new("MB:0=60")
		m.note("  default %q", *o.DefaultMB)
	}
	if err := m.actor.Start(o); err != nil {
		m.fatalf("Start: %v", err)
	}
	if !keep {
		m.checkBase("after a start")
	}
}

// end ends the agent in one of the ways that there are.
func (m *modelRDT) end(keep bool) {
	m.t.Helper()
	how := m.random.IntN(3)
	m.note("end, way %d", how)
	if how > 0 {
		if err := modelCrash(m.actor); err != nil {
			m.fatalf("%v", err)
		}
		m.groups.close()
		if how == 1 {
			m.restore()
		}
		return
	}
	if err := m.actor.Close(); err != nil {
		m.fatalf("Close: %v", err)
	}
	m.groups.close()
	if !keep {
		m.checkBase("after an end")
	}
}

// sameButL3 returns schemata with the first value of L3 of others.
func sameButL3(s, of string) string {
	line := regexp.MustCompile(`L3:0=[0-9a-f]+`)
	return line.ReplaceAllString(s, line.FindString(of))
}

func (m *modelRDT) restore() {
	m.t.Helper()
	outcomes, told, err := Restore(m.t.Context(), "/", m.dir)
	if err != nil || len(told) > 0 {
		m.fatalf("Restore: told %q, error %v", told, err)
	}
	for _, o := range outcomes {
		m.note("  restored %q %q: %s %v", o.Group, o.Task, o.How, o.Err)
	}
	m.checkBase("after a restore")
}

func (m *modelRDT) checkBase(when string) {
	m.t.Helper()
	if got := m.controls(); !slices.Equal(got, m.others) {
		m.fatalf("%s: the control groups are %q, want %q", when, got, m.others)
	}
	if got := m.read("schemata"); got != m.base {
		m.fatalf("%s: the default group has\n%s, want\n%s", when, got, m.base)
	}
	in := strings.Fields(m.read("tasks"))
	for _, pid := range m.pids {
		if !slices.Contains(in, fmt.Sprint(pid)) {
			m.fatalf("%s: task %d is not in the default group", when, pid)
		}
	}
}

func (m *modelRDT) tick() {
	m.t.Helper()
	m.now = m.now.Add(time.Minute)
	names := []*string{nil, new(""), new("owca-gold"), new("owca-batch")}
	decided := make(map[owca.TaskID]owca.Allocations)
	for i := range m.tasks {
		if m.random.IntN(2) == 0 {
			continue
		}
		a := owca.Allocation{Release: true}
		if m.random.IntN(4) > 0 {
			rdt := &owca.RDTAllocation{Name: names[m.random.IntN(len(names))]}
			if m.random.IntN(3) > 0 {
				rdt.L3 = "L3:0=" + []string{"f", "ff", "3f0", "7f0"}[m.random.IntN(4)]
			}
			if strings.Contains(m.base, "MB:") && m.random.IntN(3) == 0 {
				rdt.MB = "MB:0=" + []string{"10", "50", "100"}[m.random.IntN(3)]
			}
			a = owca.Allocation{RDT: rdt}
			name := "of its own"
			if rdt.Name != nil {
				name = *rdt.Name
			}
			m.note("decide %s %q %s %s", m.tasks[i].ID, name, rdt.L3, rdt.MB)
		} else {
			m.note("decide %s release", m.tasks[i].ID)
		}
		decided[m.tasks[i].ID] = owca.Allocations{owca.RDTGroup: a}
	}
	m.actor.SetGroups(modelGroups{m.groups})
	m.actor.rdt.next = 0
	m.actor.Observe(m.now, m.tasks)
	report, err := m.actor.Apply(m.now, m.tasks, []Decided{{Owner: "first", Allocations: decided}})
	for _, c := range report.Changes {
		m.note("  changed %q %q: %q → %q", c.Group, c.Task, c.Old, c.New)
		if c.Resctrl != nil {
			m.made[c.Resctrl.Kind]++
		}
	}
	for _, f := range report.Failed {
		m.note("  failed %q %q: %v", f.Group, f.Task, f.Err)
	}
	for _, r := range report.Refused {
		m.note("  refused %s: %s", r.Task, r.Reason)
	}
	// Two tasks may want different things of one group, which is no host's business.
	if err != nil {
		m.note("  invalid: %v", err)
	}
	for _, name := range m.others {
		if !slices.Contains(m.controls(), name) {
			m.fatalf("the group %q of somebody else is gone", name)
		}
	}
}

// schemata writes those of a group, as somebody else, and returns what is in effect then.
func (m *modelRDT) schemata(group string) string {
	m.t.Helper()
	// None of them is what the agent sets, so that it can be told from that.
	text := "L3:0=" + []string{"7", "1f", "3c", "1ff"}[m.random.IntN(4)]
	m.note("foreign %q %s", group, text)
	if err := os.WriteFile(filepath.Join(m.root, group, "schemata"), []byte(text+"\n"), 0); err != nil {
		m.fatalf("%v", err)
	}
	return m.read(filepath.Join(group, "schemata"))
}

// foreign does what others do to resctrl.
func (m *modelRDT) foreign() {
	m.t.Helper()
	if m.random.IntN(2) == 0 {
		if m.random.IntN(2) == 0 {
			// Of the other values there may be one that is the agent's.
			m.base = sameButL3(m.base, m.schemata(""))
			return
		}
		if controls := m.controls(); len(controls) > 0 {
			m.schemata(controls[m.random.IntN(len(controls))])
			return
		}
	}
	if m.random.IntN(2) == 0 && len(m.others) == 0 {
		m.note("foreign mkdir theirs")
		if err := os.Mkdir(filepath.Join(m.root, "theirs"), 0o755); err != nil {
			m.note("  %v", err) // no CLOSID is left
			return
		}
		m.others = []string{"theirs"}
		return
	}
	controls := m.controls()
	if len(controls) == 0 {
		return
	}
	name := controls[m.random.IntN(len(controls))]
	m.note("foreign rmdir %s", name)
	if err := os.Remove(filepath.Join(m.root, name)); err != nil {
		m.fatalf("%v", err)
	}
	if slices.Contains(m.others, name) {
		m.others = nil
	}
}

// TestModelResctrl is TestModel for control groups: however an agent ends, its groups are gone,
// those of others are there, and all tasks are where they were.
func TestModelResctrl(t *testing.T) {
	root := hosttest.Resctrl(t, "/L3")
	tree, err := cgroup.FS{Root: "/"}.Tree()
	if err != nil {
		t.Fatal(err)
	}
	m := &modelRDT{t: t, root: root, tree: tree, now: time.Now(), made: make(map[resctrl.ChangeKind]int)}
	for i := range 3 {
		c := hosttest.NewCgroup(t, nil, fmt.Sprintf("rdt%d", i))
		m.pids = append(m.pids, c.Start("sleep").Pid)
		m.tasks = append(m.tasks, owca.TaskData{Task: owca.Task{ID: owca.TaskID(fmt.Sprint("task", i)), Cgroups: []string{c.Path}}})
	}
	m.base, m.others = m.read("schemata"), m.controls()
	initial := m.base
	t.Cleanup(func() {
		if err := os.WriteFile(filepath.Join(root, "schemata"), []byte(regexp.MustCompile("L3:0=[0-9a-f]+").FindString(initial)+"\n"), 0); err != nil {
			t.Error(err)
		}
	})
	// Not fewer in a VM: there is no other place where it is played.
	sequences, operations := max(20, modelCount(t, 200)/10), 0
	for seed := range sequences {
		m.random, m.log = rand.New(rand.NewPCG(uint64(seed), 11)), []string{fmt.Sprintf("seed %d", seed)}
		m.dir = modelStateDir(t)
		keep := false
		m.start(keep)
		for range 12 {
			operations++
			switch n := m.random.IntN(10); {
			case n < 7:
				m.tick()
			case n < 8:
				m.foreign()
			default:
				m.end(keep)
				keep = m.random.IntN(2) == 0
				m.start(keep)
			}
		}
		m.actor.SetOptions(Options{Units: Units{SharesUnit: 1000}, StateDir: m.dir})
		m.actor.SetGroups(modelGroups{m.groups})
		m.end(false)
		m.restore()
	}
	for _, kind := range []resctrl.ChangeKind{resctrl.CreateGroup, resctrl.SetSchemata, resctrl.MoveTask} {
		if m.made[kind] == 0 {
			t.Errorf("no change of kind %d was made", kind)
		}
	}
	t.Logf("%d sequences, %d operations, changes by kind: %v", sequences, operations, m.made)
}
