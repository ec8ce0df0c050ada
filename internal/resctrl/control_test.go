package resctrl

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// planHost has 11 ways and bandwidth in percent, as many processors with two sockets.
func planHost(closids, rmids int) *Info {
	in := &Info{Resources: []Resource{
		{Name: "L3", Kind: Mask, CLOSIDs: closids + 2, Domains: []int{0, 1}, Bits: 0x7ff, MinBits: 1},
		{
			Name: "MB", Kind: Bandwidth, CLOSIDs: closids, Domains: []int{0, 1},
			Unit: Percent, Min: 10, Granularity: 10, Max: 100, Linear: true,
		},
	}}
	if rmids > 0 {
		in.Monitoring = []Monitoring{{Name: "L3_MON", RMIDs: rmids, Events: []string{"llc_occupancy"}}}
	}
	return in
}

func mustParse(t testing.TB, in *Info, text string) Schemata {
	t.Helper()
	s, err := in.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func changeLines(changes []Change) []string {
	var list []string
	for _, c := range changes {
		list = append(list, c.String())
	}
	return list
}

func TestPlan(t *testing.T) {
	type task struct{ id, group, now, schemata string }
	type group struct {
		name     string
		schemata string // "" = all
		threads  int
		monitors string
	}
	for name, test := range map[string]struct {
		closids, rmids int // 0: 4, 64
		groups         []group
		tasks          []task
		others         map[string]int
		want           []string
		err            []string // parts of the error
		is             error
	}{
		"nothing wanted": {groups: []group{{name: ""}, {name: "gold"}}},
		"a new group, shared": {
			groups: []group{{name: ""}},
			tasks:  []task{{"t1", "gold", "", "L3:0=f"}, {"t2", "gold", "", "MB:1=50"}},
			want: []string{
				"create group owca-gold", "set group owca-gold: L3:0=f; MB:1=50",
				"move task t1: group / → owca-gold", "move task t2: group / → owca-gold",
			},
		},
		"everything is as wanted": {
			groups: []group{{name: ""}, {name: "owca-gold", schemata: "L3:0=f", threads: 2}},
			tasks:  []task{{"t1", "gold", "owca-gold", "L3:0=f"}, {"t2", "", "", ""}},
		},
		"rounded to what it is": {
			groups: []group{{name: ""}, {name: "owca-gold", schemata: "MB:0=20", threads: 2}},
			tasks:  []task{{"t1", "gold", "owca-gold", "MB:0=15"}},
		},
		"rounded": {
			groups: []group{{name: ""}, {name: "owca-gold", threads: 2}},
			tasks:  []task{{"t1", "gold", "owca-gold", "MB:0=15;1=41"}},
			want:   []string{"set group owca-gold: MB:0=100;1=100 → MB:0=20;1=50 (rounded up from MB:0=15, MB:1=41)"},
		},
		"only what changes, numerically": {
			groups: []group{{name: ""}, {name: "owca-gold", schemata: "L3:0=00f;1=0ff", threads: 2}},
			tasks:  []task{{"t1", "gold", "owca-gold", "L3:0=0xf;1=3\nMB:0=100"}},
			want:   []string{"set group owca-gold: L3:1=ff → L3:1=3"},
		},
		"the later one counts": {
			groups: []group{{name: ""}},
			tasks:  []task{{"t1", "", "", "L3:0=f\nMB:0=50"}, {"t2", "", "", "L3:0=ff"}, {"t3", "", "", "L3:0=f;1=1"}},
			want:   []string{"set group /: L3:0=7ff;1=7ff; MB:0=100 → L3:0=f;1=1; MB:0=50"},
		},
		"a group that somebody made is shared, and not removed": {
			groups: []group{{name: ""}, {name: "gold", schemata: "L3:0=3;1=3"}, {name: "silver"}, {name: "owca-gold"}},
			tasks:  []task{{"t1", "gold", "", ""}, {"t2", "", "silver", ""}},
			want:   []string{"move task t1: group / → gold", "move task t2: group silver → /", "remove group owca-gold"},
		},
		"a name with the prefix is the directory": {
			groups: []group{{name: ""}},
			tasks:  []task{{"t1", "owca-gold", "", ""}, {"t2", "gold", "", ""}},
			want: []string{
				"create group owca-gold",
				"move task t1: group / → owca-gold", "move task t2: group / → owca-gold",
			},
		},
		"names that are files of resctrl": {
			groups: []group{{name: ""}},
			tasks:  []task{{"t1", "info", "", ""}, {"t2", "..", "", ""}},
			want: []string{
				"create group owca-info", "create group owca-..",
				"move task t1: group / → owca-info", "move task t2: group / → owca-..",
			},
		},
		"the last one leaves": {
			groups: []group{{name: ""}, {name: "owca-a", threads: 3}, {name: "owca-b", threads: 1}},
			tasks:  []task{{"t1", "b", "owca-a", ""}, {"t2", "b", "owca-b", ""}},
			want:   []string{"move task t1: group owca-a → owca-b", "remove group owca-a"},
		},
		"one leaves, others stay": {
			groups: []group{{name: ""}, {name: "owca-a", threads: 3}},
			tasks:  []task{{"t1", "", "owca-a", ""}},
			others: map[string]int{"owca-a": 1},
			want:   []string{"move task t1: group owca-a → /"},
		},
		"threads of nobody known keep a group": {
			groups: []group{{name: ""}, {name: "owca-a", threads: 3}},
		},
		"monitoring groups of others keep a group": {
			groups: []group{{name: ""}, {name: "owca-a", monitors: "owca-x theirs"}, {name: "owca-b", monitors: "owca-x"}},
			want:   []string{"remove group owca-b"},
		},
		"the group it was in is gone": {
			groups: []group{{name: ""}},
			tasks:  []task{{"t1", "a", "owca-a", "MB:0=10"}, {"t2", "", "owca-b", ""}},
			want:   []string{"create group owca-a", "set group owca-a: MB:0=10", "move task t1: group / → owca-a"},
		},
		"who gives up bits comes first": {
			groups: []group{{name: ""}, {name: "a", schemata: "L3:0=f", threads: 1}, {name: "b", schemata: "L3:0=7f0", threads: 1}},
			tasks:  []task{{"t1", "a", "a", "L3:0=ff"}, {"t2", "b", "b", "L3:0=700"}},
			want:   []string{"set group b: L3:0=7f0 → L3:0=700", "set group a: L3:0=f → L3:0=ff"},
		},
		"out of CLOSIDs": {
			groups: []group{{name: ""}, {name: "owca-a", threads: 1}, {name: "theirs"}},
			tasks:  []task{{"t1", "b", "", ""}, {"t2", "c", "", ""}, {"t3", "c", "", ""}, {"t4", "a", "owca-a", ""}},
			err: []string{
				"3 control groups (/, owca-a, theirs)", "2 new ones (owca-b for task t1, owca-c for task t2)", "1 more",
			},
			is: ErrNoCLOSID,
		},
		"what is empty goes first": {
			groups: []group{{name: ""}, {name: "owca-a"}, {name: "owca-b"}, {name: "theirs"}},
			tasks:  []task{{"t1", "c", "", ""}},
			want: []string{
				"remove group owca-a", "create group owca-c", "move task t1: group / → owca-c", "remove group owca-b",
			},
		},
		"what can be left at once goes first": {
			groups: []group{{name: ""}, {name: "owca-a", threads: 1}, {name: "owca-b", threads: 1}, {name: "theirs"}},
			tasks:  []task{{"t1", "new", "owca-a", ""}, {"t2", "theirs", "owca-b", ""}},
			want: []string{
				"move task t2: group owca-b → theirs", "remove group owca-b",
				"create group owca-new", "move task t1: group owca-a → owca-new", "remove group owca-a",
			},
		},
		"a task waits in the default group": {
			closids: 2,
			groups:  []group{{name: ""}, {name: "owca-a", schemata: "L3:0=f", threads: 1}},
			tasks:   []task{{"t1", "new", "owca-a", "L3:0=f"}, {"t2", "", "owca-a", ""}},
			want: []string{
				"move task t1: group owca-a → /", "move task t2: group owca-a → /", "remove group owca-a",
				"create group owca-new", "set group owca-new: L3:0=f", "move task t1: group / → owca-new",
			},
		},
		"out of RMIDs": {
			rmids:  4,
			groups: []group{{name: "", monitors: "owca-x"}, {name: "owca-a", monitors: "theirs"}},
			tasks:  []task{{"t1", "b", "", ""}},
			err:    []string{"2 control groups, 2 monitoring groups and 1 new control groups (owca-b for task t1) are 1 more"},
			is:     ErrNoRMID,
		},
		"nothing monitored": {
			rmids:  -1,
			groups: []group{{name: ""}},
			tasks:  []task{{"t1", "b", "", ""}},
			want:   []string{"create group owca-b", "move task t1: group / → owca-b"},
		},
		"all problems at once": {
			groups: []group{{name: ""}, {name: "owca-a"}, {name: "owca-b"}},
			tasks: []task{
				{"t1", "a/b", "", ""},
				{"t2", strings.Repeat("x", 251), "", ""},
				{"t3", "a", "", "L3:0=5"},
				{"t4", "b", "", "MB:7=50"},
				{"t5", "a", "", ""},
				{"t5", "b", "", ""},
				{"t6", "a\xff", "", ""},
				{"t7", "a\nb", "", ""},
				{"t8", "c", "", ""},
				{"t9", "d", "", ""},
				{"t10", "e", "", "L3:0=fff"},
			},
			err: []string{
				`task t1: resctrl: invalid argument: "owca-a/b" is no name`, "task t2: resctrl", "longer than 255 bytes", `task t3: group "a": L3:0=5`,
				`task t4: group "b": MB:7=50`, "task t5: it has two allocations", "task t6: resctrl", "not UTF-8",
				`task t7: resctrl: invalid argument: "owca-a\nb"`, "task t10: group", "L3:0=fff", "owca-e for task t10",
			},
			is: ErrNoCLOSID,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if test.closids == 0 {
				test.closids = 4
			}
			if test.rmids == 0 {
				test.rmids = 64
			}
			in := planHost(test.closids, test.rmids)
			var groups []ControlGroup
			for _, g := range test.groups {
				groups = append(groups, ControlGroup{
					Name: g.name, Schemata: in.Default().Overlay(mustParse(t, in, g.schemata)),
					Tasks: g.threads, Monitors: strings.Fields(g.monitors),
				})
			}
			var allocations []Allocation
			for _, a := range test.tasks {
				allocations = append(allocations, Allocation{Task: a.id, Group: a.group, Now: a.now, Schemata: mustParse(t, in, a.schemata)})
			}
			changes, err := in.Plan(groups, allocations, test.others)
			if (err != nil) != (test.err != nil) {
				t.Fatalf("error: %v", err)
			}
			if err != nil && changes != nil {
				t.Errorf("with an error: %q", changes)
			}
			if !errors.Is(err, test.is) {
				t.Errorf("%v is not: %v", err, test.is)
			}
			for _, part := range test.err {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("nothing of %q in:\n%v", part, err)
				}
			}
			if diff := cmp.Diff(test.want, changeLines(changes)); diff != "" {
				t.Errorf("- wanted, + planned:\n%s", diff)
			}
		})
	}
}

func TestPlanWhereNothingCanBeAllocated(t *testing.T) {
	in := &Info{Monitoring: []Monitoring{{Name: "L3_MON", RMIDs: 64}}}
	groups := []ControlGroup{{}}
	if changes, err := in.Plan(groups, []Allocation{{Task: "t"}}, nil); err != nil || changes != nil {
		t.Errorf("the default group: %v, %v", changes, err)
	}
	if _, err := in.Plan(groups, []Allocation{{Task: "t", Group: "gold"}}, nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a new group: %v", err)
	}
	l3 := Schemata{{Resource: "L3", Kind: Mask, Domains: []DomainValue{{0, 1}}}}
	if _, err := in.Plan(groups, []Allocation{{Task: "t", Schemata: l3}}, nil); err == nil || !strings.Contains(err.Error(), "task t: ") {
		t.Errorf("schemata: %v", err)
	}
}

// Domains with gaps, CDP, several levels of caches, bandwidth in steps whose most is not
// known.
func TestPlanOtherResources(t *testing.T) {
	mask := func(name string, domains ...int) Resource {
		return Resource{Name: name, Kind: Mask, CLOSIDs: 8, Domains: domains, Bits: 0xffff, MinBits: 1}
	}
	steps := func(name string) Resource {
		return Resource{Name: name, Kind: Bandwidth, CLOSIDs: 16, Domains: []int{0, 9}, Unit: Steps, Min: 1, Granularity: 1}
	}
	in := &Info{Resources: []Resource{mask("L2", 3, 7, 300), mask("L3CODE", 0, 9), mask("L3DATA", 0, 9), steps("MB"), steps("SMBA")}}
	all := "L2:3=ffff;7=ffff;300=ffff\nL3:0=ffff;9=ffff\nMB:0=2048;9=2048\nSMBA:0=2048;9=2048"
	groups := []ControlGroup{{Schemata: mustParse(t, in, all)}, {Name: "owca-a", Schemata: mustParse(t, in, all), Tasks: 1}}
	changes, err := in.Plan(groups, []Allocation{
		{Task: "t1", Group: "a", Now: "owca-a", Schemata: mustParse(t, in, "L2:300=1\nL3:9=ff\nL3CODE:0=f\nMB:9=3000")},
		{Task: "t2", Group: "b", Schemata: mustParse(t, in, "SMBA:0=7")},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"create group owca-b",
		"set group owca-a: L2:300=ffff; L3CODE:0=ffff;9=ffff; L3DATA:9=ffff; MB:9=2048 → L2:300=1; L3CODE:0=f;9=ff; L3DATA:9=ff; MB:9=3000",
		"set group owca-b: SMBA:0=7",
		"move task t2: group / → owca-b",
	}
	if diff := cmp.Diff(want, changeLines(changes)); diff != "" {
		t.Errorf("- wanted, + planned:\n%s", diff)
	}
}

func TestChangeJSON(t *testing.T) {
	for _, want := range []Change{
		{Kind: CreateGroup, Group: "owca-gold"},
		{
			Kind: SetSchemata,
			Old:  Schemata{{"L3", Mask, []DomainValue{{0, 1<<64 - 1}, {17, 1}}}},
			New:  Schemata{{"L3", Mask, []DomainValue{{0, 1<<63 + 1}, {17, 3}}}, {"MB", Bandwidth, []DomainValue{{3, 20}}}},
			Rounded: []Rounding{
				{"MB", 3, 15, 20},
			},
		},
		{Kind: MoveTask, Task: "a/b", From: "", Group: "gold"},
		{Kind: RemoveGroup, Group: "owca-gold", Old: Schemata{{"MB", Bandwidth, []DomainValue{{0, 100}}}}},
	} {
		b, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got Change
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s\n%s", b, diff)
		}
	}
	if b, err := json.Marshal(Change{Kind: 9}); err == nil {
		t.Errorf("of no kind: %s", b)
	}
	if err := json.Unmarshal([]byte(`{"Kind":"paint"}`), new(Change)); err == nil {
		t.Error("a kind of change is called paint")
	}
}

func TestChangeString(t *testing.T) {
	for want, c := range map[string]Change{
		"create group gold":           {Kind: CreateGroup, Group: "gold"},
		"remove group gold":           {Kind: RemoveGroup, Group: "gold", Old: Schemata{{"MB", Bandwidth, nil}}},
		"move task 7: group / → gold": {Kind: MoveTask, Task: "7", Group: "gold"},
		"set group gold: L3:0=7ff → L3:0=f": {
			Kind: SetSchemata, Group: "gold",
			Old: Schemata{{"L3", Mask, []DomainValue{{0, 0x7ff}}}}, New: Schemata{{"L3", Mask, []DomainValue{{0, 0xf}}}},
		},
		"ChangeKind(9) group /": {Kind: 9},
	} {
		if got := c.String(); got != want {
			t.Errorf("%q, wanted %q", got, want)
		}
	}
}

func TestChangeRestore(t *testing.T) {
	in := planHost(4, 0)
	c := Change{
		Kind: SetSchemata,
		Old:  mustParse(t, in, "L3:0=7ff;1=ff\nMB:0=100"),
		New:  mustParse(t, in, "L3:0=f;1=f\nMB:0=20;1=20"),
	}
	for now, want := range map[string]string{
		"L3:0=f;1=f\nMB:0=20;1=20":    "L3:0=7ff;1=ff; MB:0=100",
		"L3:0=f;1=3\nMB:0=20":         "L3:0=7ff; MB:0=100", // somebody else's 3 stays
		"L3:1=f":                      "L3:1=ff",            // domain 0 went offline
		"L3:0=7ff;1=ff\nMB:0=100;1=1": "",                   // it was undone before
	} {
		if got := c.restore(mustParse(t, in, now)).String(); got != want {
			t.Errorf("%q: %q, wanted %q", now, got, want)
		}
	}
}

func TestSchemataWrites(t *testing.T) {
	line := func(resource string, kind Kind, n int) Line {
		l := Line{Resource: resource, Kind: kind}
		for id := range n {
			l.Domains = append(l.Domains, DomainValue{id * 3, uint64(100 + id)})
		}
		return l
	}
	for _, n := range []int{0, 1, 2, 128, 600, 3000} {
		s := Schemata{line("L3CODE", Mask, n), line("L3DATA", Mask, 2*n), line("MB", Bandwidth, n)}
		var all Schemata
		parts := schemataWrites(s, maxSchemataWrite)
		for _, part := range parts {
			if size := len(part.Append(nil)); size > maxSchemataWrite {
				t.Errorf("%d domains: a write of %d bytes", n, size)
			}
			all = all.Overlay(part)
		}
		if diff := cmp.Diff(Schemata(nil).Overlay(s), all); diff != "" {
			t.Errorf("%d domains: %s", n, diff)
		}
		if n <= 128 && len(parts) != 1 {
			t.Errorf("%d domains: %d writes", n, len(parts))
		}
	}
}

func TestNamingLine(t *testing.T) {
	in := planHost(4, 0)
	now := in.Default()
	for _, test := range []struct{ status, schemata, want string }{
		{"Need at least 2 bits in the mask", "L3:0=1\nMB:0=20", "it is in line L3:0=1"},
		{"MB value 9 out of range [10,100]", "L3:0=1\nMB:0=9", "it is in line MB:0=9"},
		{"Overlaps with exclusive group", "L3:0=1\nMB:0=9", "it is in line L3:0=1"},
		{"Resource group is locked", "L3:0=1\nMB:0=9", ""},
		{"", "L3:0=1\nMB:4=20", "there is no domain MB:4"},
		{"Mask out of range", "L3:0=fff", ""},
	} {
		s := mustParse(t, in, test.schemata)
		refused := &Error{Op: "write", Path: "schemata", Err: unix.EINVAL, Status: test.status, Value: string(s.Append(nil))}
		err := namingLine(refused, s, now)
		if !errors.Is(err, unix.EINVAL) {
			t.Errorf("%v: the errno is lost", err)
		}
		if text := err.Error(); !strings.HasPrefix(text, refused.Error()) || !strings.Contains(text[len(refused.Error()):], test.want) ||
			test.want == "" && text != refused.Error() {
			t.Errorf("%q, wanted %q", text, test.want)
		}
	}
	other := errors.New("other")
	if err := namingLine(other, nil, nil); !errors.Is(err, other) || err.Error() != other.Error() {
		t.Errorf("an error of something else has become: %v", err)
	}
}

// planModel is what the kernel does with changes, told independently of it.
type planModel struct {
	in     *Info
	groups map[string]*modelGroup
	rmids  int // used, those in limbo included
	tasks  map[string]string
}

type modelGroup struct {
	schemata Schemata
	monitors []string
	unknown  int // threads of no task
}

func (m *planModel) list() []ControlGroup {
	var list []ControlGroup
	for _, name := range slices.Sorted(maps.Keys(m.groups)) {
		g := m.groups[name]
		list = append(list, ControlGroup{
			Name: name, Schemata: g.schemata, Monitors: g.monitors,
			Tasks: g.unknown + 3*m.tasksIn(name),
		})
	}
	return list
}

func (m *planModel) tasksIn(group string) (n int) {
	for _, in := range m.tasks {
		if in == group {
			n++
		}
	}
	return n
}

func (m *planModel) do(c Change) error {
	g := m.groups[c.Group]
	if (g == nil) != (c.Kind == CreateGroup) {
		return fmt.Errorf("that there is such a group: %t", g != nil)
	}
	switch c.Kind {
	case CreateGroup:
		if len(m.groups) == m.in.CLOSIDs() {
			return ErrNoCLOSID
		}
		if n := m.in.RMIDs(); n > 0 && m.rmids == n {
			return ErrNoRMID
		}
		m.rmids++
		m.groups[c.Group] = &modelGroup{schemata: m.in.Default()}
	case SetSchemata:
		if len(c.New) == 0 {
			return errors.New("it writes nothing")
		}
		if c.Old != nil && c.Old.Changed(g.schemata) != nil {
			return fmt.Errorf("old: it is %v", g.schemata)
		}
		if c.Old != nil && !schemataEqual(c.New.Changed(c.Old), c.New) {
			return errors.New("it writes what was so before")
		}
		g.schemata = g.schemata.Overlay(c.New)
	case MoveTask:
		if m.tasks[c.Task] != c.From {
			return fmt.Errorf("the task is in %q", m.tasks[c.Task])
		}
		if c.From == c.Group {
			return errors.New("it is there")
		}
		m.tasks[c.Task] = c.Group
	case RemoveGroup:
		if !strings.HasPrefix(c.Group, Prefix) || g.unknown > 0 || m.tasksIn(c.Group) > 0 || slices.Contains(g.monitors, "theirs") {
			return errors.New("it is in use")
		}
		delete(m.groups, c.Group)
	}
	return nil
}

// choices turns the bytes of a fuzz test into choices, each 0 after the end.
type choices []byte

func (c *choices) of(n int) int {
	if len(*c) == 0 {
		return 0
	}
	v := int((*c)[0]) % n
	*c = (*c)[1:]
	return v
}

// FuzzPlan makes up a host, and what is wanted of it, and does what Plan says on a
// model: no step may fail, what was wanted is so then and nothing else has changed, and
// there is nothing more to do. A plan that is refused is impossible.
func FuzzPlan(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{3, 0, 1, 1, 0, 0, 0, 0, 0, 0, 5, 2, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3})
	f.Add([]byte{1, 0, 1, 3, 1, 2, 0, 0, 0, 0, 4, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9})
	f.Add([]byte("\x02\x09\x03\x01\x01\x01\x01\x01\x01\x01\x01\x07abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz0123456789"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := choices(data)
		rmids := 0
		closids := 1 + c.of(5)
		if c.of(2) == 1 {
			rmids = closids + c.of(10)
		}
		in := planHost(closids, rmids)
		schemata := func(valid bool) Schemata {
			var s Schemata
			if c.of(2) == 1 {
				s = append(s, Line{"L3", Mask, []DomainValue{{c.of(2), []uint64{1, 3, 0x7ff, 0xff, 0x7f0, 5}[c.of(6)]}}})
				if v := &s[0].Domains[0].Value; valid && *v == 5 {
					*v = 7
				}
			}
			if c.of(2) == 1 {
				s = append(s, Line{"MB", Bandwidth, []DomainValue{{0, uint64(10 + c.of(91))}, {1, 100}}})
			}
			return s
		}
		effect := func(s Schemata) Schemata {
			s = Schemata(nil).Overlay(s)
			for _, l := range s {
				for i := range l.Domains {
					if l.Kind == Bandwidth {
						l.Domains[i].Value = (l.Domains[i].Value + 9) / 10 * 10
					}
				}
			}
			return s
		}

		m := &planModel{in: in, groups: map[string]*modelGroup{"": {schemata: in.Default()}}, tasks: map[string]string{}, rmids: 1}
		for _, name := range []string{"owca-a", "gold", "owca-b", "owca-gold"} {
			if len(m.groups) < closids && c.of(2) == 1 && (rmids == 0 || m.rmids < rmids) {
				g := &modelGroup{schemata: in.Default().Overlay(effect(schemata(true)))}
				m.rmids++
				if rmids > m.rmids && c.of(3) == 1 {
					g.monitors = []string{[]string{"theirs", "owca-m"}[c.of(2)]}
					m.rmids++
				}
				g.unknown = c.of(4) / 3
				m.groups[name] = g
			}
		}
		before := m.list()

		var (
			allocations []Allocation
			others      = map[string]int{}
			wantGroup   = map[string]string{} // by task
			wantValues  = map[string]Schemata{}
			fail        bool
		)
		for i := range c.of(8) {
			id := fmt.Sprint("t", i)
			m.tasks[id] = before[c.of(len(before))].Name
			if c.of(3) == 2 {
				others[m.tasks[id]]++
				wantGroup[id] = m.tasks[id]
				continue
			}
			// Threads of nobody come only where none of ours leave: the kernel does not
			// tell threads and tasks apart, and Do refuses to remove the group then.
			m.groups[m.tasks[id]].unknown = 0
			a := Allocation{Task: id, Now: m.tasks[id], Schemata: schemata(false)}
			a.Group = []string{"", "a", "b", "gold", "owca-gold", "c", "d", "a/b"}[c.of(8)]
			if a.Now == "" && c.of(4) == 3 {
				a.Now = "owca-removed"
			}
			dir := a.Group
			if dir != "" && m.groups[dir] == nil && !strings.HasPrefix(dir, Prefix) {
				dir = Prefix + dir
			}
			for _, l := range a.Schemata {
				fail = fail || l.Domains[0].Value == 5
			}
			fail = fail || a.Group == "a/b"
			wantGroup[id] = dir
			wantValues[dir] = wantValues[dir].Overlay(effect(a.Schemata))
			allocations = append(allocations, a)
		}
		before = m.list()
		copied := slices.Clone(before)
		for i := range copied {
			copied[i].Schemata = Schemata(nil).Overlay(copied[i].Schemata)
		}

		changes, err := in.Plan(before, allocations, others)
		if diff := cmp.Diff(copied, before); diff != "" {
			t.Fatalf("Plan has changed the groups: %s", diff)
		}
		var created, kept int
		for dir := range wantValues {
			if m.groups[dir] == nil {
				created++
			}
		}
		for _, g := range before {
			_, wanted := wantValues[g.Name]
			if wanted || !strings.HasPrefix(g.Name, Prefix) || others[g.Name] > 0 || m.groups[g.Name].unknown > 0 ||
				slices.Contains(g.Monitors, "theirs") {
				kept++
			}
		}
		noCLOSID := created > 0 && kept+created > closids
		noRMID := created > 0 && rmids > 0 && m.rmids+created > rmids
		if fail || noCLOSID || noRMID {
			if err == nil || changes != nil {
				t.Fatalf("an impossible plan: %q, %v", changes, err)
			}
			if !fail && (errors.Is(err, ErrNoCLOSID) != noCLOSID || !noCLOSID && !errors.Is(err, ErrNoRMID)) {
				t.Fatalf("no CLOSID: %t, no RMID: %t, but %v", noCLOSID, noRMID, err)
			}
			return
		}
		if err != nil {
			t.Fatalf("%v\nof %+v", err, before)
		}
		for i, change := range changes {
			if err := m.do(change); err != nil {
				t.Fatalf("change %d of %q: %v", i, changes, err)
			}
		}
		if diff := cmp.Diff(wantGroup, m.tasks); diff != "" {
			t.Fatalf("%q: tasks are elsewhere: %s", changes, diff)
		}
		for _, g := range before {
			now := m.groups[g.Name]
			if now == nil {
				continue
			}
			if diff := cmp.Diff(g.Schemata.Overlay(wantValues[g.Name]), now.schemata); diff != "" {
				t.Fatalf("%q: group %q: %s", changes, g.Name, diff)
			}
		}
		for dir, want := range wantValues {
			if d := want.Changed(m.groups[dir].schemata); d != nil {
				t.Fatalf("%q: group %q has not: %v", changes, dir, d)
			}
		}
		for i := range allocations {
			allocations[i].Now = m.tasks[allocations[i].Task]
		}
		if again, err := in.Plan(m.list(), allocations, others); err != nil || len(again) > 0 {
			t.Fatalf("%q, and then again %q, %v", changes, again, err)
		}
	})
}

// BenchmarkPlan plans for 1000 tasks in 8 groups.
func BenchmarkPlan(b *testing.B) {
	in := planHost(16, 1200)
	groups := []ControlGroup{{Schemata: in.Default()}}
	var allocations []Allocation
	for i := range 1000 {
		name := fmt.Sprint("group", i%8)
		s := mustParse(b, in, fmt.Sprintf("L3:0=%x;1=%x\nMB:0=50;1=50", 1<<(i%8), 3<<(i%8)))
		if i < 8 {
			groups = append(groups, ControlGroup{Name: Prefix + name, Schemata: in.Default().Overlay(s), Tasks: 5})
		}
		allocations = append(allocations, Allocation{Task: fmt.Sprint("task", i), Group: name, Now: Prefix + name, Schemata: s})
	}
	b.Run("steady", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if changes, err := in.Plan(groups, allocations, nil); err != nil || len(changes) > 0 {
				b.Fatal(changes, err)
			}
		}
	})
	b.Run("new", func(b *testing.B) {
		fresh := slices.Clone(allocations)
		for i := range fresh {
			fresh[i].Now = ""
		}
		b.ReportAllocs()
		for b.Loop() {
			if changes, err := in.Plan(groups[:1], fresh, nil); err != nil || len(changes) != 8+8+1000 {
				b.Fatal(len(changes), err)
			}
		}
	})
}
