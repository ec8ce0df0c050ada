package act

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/resctrl"
)

// fakeResctrl is resctrl with tasks in it, as the kernel has it.
type fakeResctrl struct {
	info     *resctrl.Info
	groups   map[string]resctrl.Schemata
	monitors map[string][]string
	tasks    map[string]string
}

func (f *fakeResctrl) Info() *resctrl.Info { return f.info }
func (f *fakeResctrl) Err() error          { return nil }

func (f *fakeResctrl) Control() (groups []resctrl.ControlGroup, tasks map[string]string, err error) {
	for _, dir := range slices.Sorted(maps.Keys(f.groups)) {
		groups = append(groups, resctrl.ControlGroup{Name: dir, Schemata: f.groups[dir], Tasks: f.users(dir), Monitors: f.monitors[dir]})
	}
	return groups, maps.Clone(f.tasks), nil
}

func (f *fakeResctrl) users(dir string) (n int) {
	for _, in := range f.tasks {
		if in == dir {
			n++
		}
	}
	return n
}

func (f *fakeResctrl) clone() *fakeResctrl {
	return &fakeResctrl{info: f.info, groups: maps.Clone(f.groups), monitors: f.monitors, tasks: maps.Clone(f.tasks)}
}

var errResctrlRefused = errors.New("refused")

// Do is stricter than the kernel: what a change says of before has to be so.
func (f *fakeResctrl) Do(c resctrl.Change) (resctrl.Schemata, error) {
	now, exists := f.groups[c.Group]
	rmids := len(f.groups)
	for _, m := range f.monitors {
		rmids += len(m)
	}
	switch {
	case c.Kind == resctrl.CreateGroup && exists:
		return nil, fs.ErrExist
	case c.Kind == resctrl.CreateGroup && len(f.groups) >= f.info.CLOSIDs():
		return nil, fmt.Errorf("no CLOSID: %w", errResctrlRefused)
	case c.Kind == resctrl.CreateGroup && f.info.RMIDs() > 0 && rmids >= f.info.RMIDs():
		return nil, fmt.Errorf("no RMID: %w", errResctrlRefused)
	case c.Kind == resctrl.CreateGroup:
		f.groups[c.Group] = f.info.Default()
	case !exists:
		return nil, fs.ErrNotExist
	case c.Kind == resctrl.SetSchemata:
		if c.Old != nil && foreignSchemata(now, c.Old) {
			return nil, fmt.Errorf("it was not %v but %v: %w", c.Old, now, errResctrlRefused)
		}
		f.groups[c.Group] = now.Overlay(c.New)
	case c.Kind == resctrl.MoveTask:
		if f.tasks[c.Task] != c.From {
			return nil, fmt.Errorf("task %s is in %q: %w", c.Task, f.tasks[c.Task], errResctrlRefused)
		}
		f.tasks[c.Task] = c.Group
	case c.Group == "" || f.users(c.Group) > 0 || !strings.HasPrefix(c.Group, resctrl.Prefix):
		return nil, fmt.Errorf("%q is in use: %w", c.Group, errResctrlRefused)
	default:
		delete(f.groups, c.Group)
	}
	return f.groups[c.Group], nil
}

func (f *fakeResctrl) Undo(c resctrl.Change) error {
	now, exists := f.groups[c.Group]
	switch {
	case c.Kind == resctrl.MoveTask:
		if f.tasks[c.Task] == c.Group || !exists {
			f.tasks[c.Task] = c.From
		}
	case !exists, c.Kind == resctrl.RemoveGroup:
	case c.Kind == resctrl.CreateGroup:
		_, err := f.Do(resctrl.Change{Kind: resctrl.RemoveGroup, Group: c.Group})
		return err
	default:
		for _, line := range c.Old {
			for _, d := range line.Domains {
				is, _ := now.Get(line.Resource, d.ID)
				if made, ok := c.New.Get(line.Resource, d.ID); ok && is == made {
					one := resctrl.Line{Resource: line.Resource, Kind: line.Kind, Domains: []resctrl.DomainValue{d}}
					now = now.Overlay(resctrl.Schemata{one})
				}
			}
		}
		f.groups[c.Group] = now
	}
	return nil
}

// rdtWorld is a host for Plan with resctrl, and what is leased.
type rdtWorld struct {
	rng     *rand.Rand
	host    *fakeResctrl
	first   *fakeResctrl
	tasks   map[owca.TaskID]*TaskState
	ids     []owca.TaskID
	owners  map[owca.TaskID]string // of decisions that stand
	leases  map[Target]*Lease
	seq     uint64
	changes int
	refused int
	invalid int
}

// rdtInfo is one of the shapes that there are: with caches, bandwidth or both, with CDP.
func rdtInfo(rng *rand.Rand) *resctrl.Info {
	closids := 2 + rng.IntN(4)
	cache := func(name string) resctrl.Resource {
		return resctrl.Resource{Name: name, Kind: resctrl.Mask, CLOSIDs: closids, Domains: []int{0, 1}, Bits: 0x7ff, MinBits: 1}
	}
	mb := resctrl.Resource{
		Name: "MB", Kind: resctrl.Bandwidth, CLOSIDs: 8, Domains: []int{0, 1},
		Unit: resctrl.Percent, Min: 10, Granularity: 10, Max: 100, Linear: true,
	}
	in := &resctrl.Info{Resources: [][]resctrl.Resource{
		{cache("L3"), mb}, {cache("L3CODE"), cache("L3DATA"), mb}, {cache("L3")}, {mb}, {cache("L3CODE"), cache("L3DATA")},
	}[rng.IntN(5)]}
	if rng.IntN(3) == 0 {
		in.Monitoring = []resctrl.Monitoring{{Name: "L3_MON", RMIDs: 4 + rng.IntN(4)}}
	}
	return in
}

func newRDTWorld(rng *rand.Rand) *rdtWorld {
	w := &rdtWorld{rng: rng, tasks: map[owca.TaskID]*TaskState{}, owners: map[owca.TaskID]string{}, leases: map[Target]*Lease{}}
	f := &fakeResctrl{info: rdtInfo(rng), groups: map[string]resctrl.Schemata{}, tasks: map[string]string{}, monitors: map[string][]string{}}
	f.groups[""] = f.info.Default()
	places := []string{""}
	if rng.IntN(2) == 0 {
		f.groups["theirs"] = f.info.Default()
		places = append(places, "", "theirs")
		if s, err := f.info.Parse("L3:0=f"); err == nil {
			f.groups["theirs"] = f.groups["theirs"].Overlay(s)
		}
	}
	if rng.IntN(4) == 0 {
		f.monitors[""] = []string{"owca-m"}
	}
	for i := range 1 + rng.IntN(4) {
		id := owca.TaskID(fmt.Sprintf("t%d", i))
		// Two of the same name need groups by their whole paths.
		w.tasks[id] = &TaskState{Cgroups: []string{fmt.Sprintf("/p%d/c%d", i, i/2*rng.IntN(2))}}
		w.ids = append(w.ids, id)
		f.tasks[string(id)] = places[rng.IntN(len(places))]
	}
	for i := range rng.IntN(3) {
		f.tasks[fmt.Sprintf("other%d", i)] = places[rng.IntN(len(places))]
	}
	w.host, w.first = f, f.clone()
	return w
}

func (w *rdtWorld) state() *State {
	s := &State{Tasks: map[owca.TaskID]*TaskState{}, Resctrl: w.host.info, Others: map[string]int{}, Leases: w.leases}
	groups, tasks, _ := w.host.Control()
	s.Groups = groups
	for id, dir := range tasks {
		if t := w.tasks[owca.TaskID(id)]; t != nil {
			known := *t
			known.Control, known.Decided = dir, w.owners[owca.TaskID(id)] != ""
			s.Tasks[owca.TaskID(id)] = &known
		} else {
			s.Others[dir]++
		}
	}
	return s
}

func (w *rdtWorld) wanted() (list []Wanted) {
	pick := func(of ...string) string { return of[w.rng.IntN(len(of))] }
	for _, i := range w.rng.Perm(len(w.ids))[:1+w.rng.IntN(len(w.ids))] {
		id := w.ids[i]
		if w.rng.IntN(4) == 0 {
			list = append(list, w.release(id))
			continue
		}
		x := wantedRDT(id, pick("own", "", "gold", "silver", "theirs", "owca-gold"),
			pick("", "", "L3:0=f", "L3:0=3;1=70", "L3:1=1", "L3:0=7ff;1=7ff"), pick("", "", "MB:0=50", "MB:0=25;1=100"))
		x.Owner = pick("a", "a", "b")
		list = append(list, x)
	}
	return list
}

// release is that of a decision that stands, by whoever made the lease.
func (w *rdtWorld) release(id owca.TaskID) Wanted {
	x := wantedRelease(id, owca.RDTGroup)
	x.Owner = cmp.Or(w.owners[id], "a")
	if l := w.leases[Target{Task: id}]; l != nil {
		x.Owner = l.Owner
	}
	return x
}

// do makes a change under a lease.
func (w *rdtWorld) do(c *Change) error {
	if !isRelease(*c) && c.Resctrl.Kind != resctrl.RemoveGroup {
		if l := w.leases[c.Target]; l == nil {
			w.seq++
			w.leases[c.Target] = &Lease{Seq: w.seq, Change: *c, First: c.Old}
		} else {
			renewed := *l
			renewed.renew(time.Time{}, c, false)
			w.leases[c.Target] = &renewed
		}
	}
	switch {
	case c.Undo:
		if err := w.host.Undo(*c.Resctrl); err != nil {
			return err
		}
	case c.Resctrl.Kind == resctrl.MoveTask && c.Resctrl.From == c.Resctrl.Group:
	default:
		if _, err := w.host.Do(*c.Resctrl); err != nil {
			return fmt.Errorf("%v: %w", c.Resctrl, err)
		}
	}
	if isRelease(*c) {
		if w.leases[c.Target] == nil {
			return fmt.Errorf("%v is released but not leased", c.Target)
		}
		delete(w.leases, c.Target)
	}
	return nil
}

func (w *rdtWorld) clone() *rdtWorld {
	c := *w
	c.host, c.leases, c.owners = w.host.clone(), maps.Clone(w.leases), maps.Clone(w.owners)
	return &c
}

// undone says what is not as it was at first once all leases are undone.
func (w *rdtWorld) undone() error {
	c := w.clone()
	var failed error
	newRestorer(nil, c.host).undoAll(context.Background(), slices.Collect(maps.Values(c.leases)), func(l *Lease, how End, err error) {
		if err != nil || how == EndForeign {
			failed = errors.Join(failed, fmt.Errorf("%v: %s, %w", l.Resctrl, how, err))
		}
	})
	return errors.Join(failed, c.isFirst())
}

func (w *rdtWorld) isFirst() error {
	texts := func(f *fakeResctrl) map[string]string {
		m := map[string]string{}
		for dir, s := range f.groups {
			m[dir] = s.String()
		}
		return m
	}
	if diff := gocmp.Diff(texts(w.first), texts(w.host)) + gocmp.Diff(w.first.tasks, w.host.tasks); diff != "" {
		return fmt.Errorf("not as it was at first: %s", diff)
	}
	return nil
}

// run plans, makes the changes one by one, and checks all that is promised of them.
func (w *rdtWorld) run(wanted []Wanted) error {
	planned, err := Plan(w.state(), wanted)
	if err != nil {
		w.invalid++
		for _, e := range unjoin(err) {
			if i := (*Invalid)(nil); !errors.As(e, &i) || !strings.Contains(i.Reason, "CLOSID") {
				return fmt.Errorf("not an Invalid for CLOSIDs: %w", e)
			}
		}
		return nil
	}
	texts := strings.Join(rdtTexts(planned.Changes), "\n")
	for i := range planned.Changes {
		if err := w.do(&planned.Changes[i]); err != nil {
			return fmt.Errorf("change %d: %w\n%s", i, err, texts)
		}
		if err := w.undone(); err != nil {
			return fmt.Errorf("undone after change %d: %w\n%s", i, err, texts)
		}
	}
	w.changes, w.refused = w.changes+len(planned.Changes), w.refused+len(planned.Refused)
	if err := w.check(wanted, planned.Refused); err != nil {
		return fmt.Errorf("%w\n%s", err, texts)
	}
	again, err := Plan(w.state(), wanted)
	if err != nil || len(planned.Refused) == 0 && len(again.Changes) > 0 {
		return fmt.Errorf("it is not done: %v %w\nfirst %s", rdtTexts(again.Changes), err, texts)
	}
	return nil
}

// check looks whether what was wanted is there.
func (w *rdtWorld) check(wanted []Wanted, refused []Refusal) error {
	want := map[string]resctrl.Schemata{}
	for _, x := range wanted {
		if slices.ContainsFunc(refused, func(r Refusal) bool { return r.Task == x.Task }) {
			continue
		}
		dir := w.host.tasks[string(x.Task)]
		if x.Release {
			if delete(w.owners, x.Task); w.leases[Target{Task: x.Task}] != nil || dir != w.first.tasks[string(x.Task)] {
				return fmt.Errorf("task %s is in %q after its release", x.Task, dir)
			}
			continue
		}
		w.owners[x.Task] = x.Owner
		switch name := x.RDT.Name; {
		case name == nil:
			if !strings.HasPrefix(dir, "owca-") || w.host.users(dir) > 1 {
				return fmt.Errorf("task %s is in %q, with %d tasks", x.Task, dir, w.host.users(dir))
			}
		case *name != dir && "owca-"+*name != dir:
			return fmt.Errorf("task %s is in %q instead of %q", x.Task, dir, *name)
		}
		for _, text := range []string{x.RDT.L3, x.RDT.MB} {
			s, err := w.host.info.Parse(text)
			if err != nil {
				return err
			}
			s, _, _ = w.host.info.Check(s)
			want[dir] = want[dir].Overlay(s)
		}
	}
	for dir, s := range want {
		if foreignSchemata(w.host.groups[dir], s) {
			return fmt.Errorf("group %q has %v instead of %v", dir, w.host.groups[dir], s)
		}
	}
	return nil
}

// TestPlanRDTProperties: whatever groups are wanted on whatever host, every change is
// possible, all that was not refused is there then, and at any moment all of it can be
// undone; releases in any order leave what there was at first.
func TestPlanRDTProperties(t *testing.T) {
	n, seed := fewerInVM(2000), uint64(3)
	if s := os.Getenv("OWCA_PLAN_SEQUENCES"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	if s := os.Getenv("OWCA_PLAN_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	changes, refused, invalid := 0, 0, 0
	for i := range n {
		w := newRDTWorld(rand.New(rand.NewPCG(seed, uint64(i))))
		var log []string
		try := func(wanted []Wanted) {
			log = append(log, fmt.Sprintf("%v; %v", wantedRDTTexts(wanted), w.host.tasks))
			if err := w.run(wanted); err != nil {
				t.Fatalf("seed %d %d (%+v):\n%s\n%v", seed, i, w.host.info, strings.Join(log, "\n"), err)
			}
		}
		for range 1 + w.rng.IntN(6) {
			try(w.wanted())
		}
		if w.rng.IntN(4) == 0 {
			var all []Wanted
			for _, id := range w.ids {
				all = append(all, w.release(id))
			}
			try(all)
		} else {
			for _, j := range w.rng.Perm(len(w.ids)) {
				try([]Wanted{w.release(w.ids[j])})
			}
		}
		if err := w.isFirst(); err != nil || len(w.leases) > 0 {
			t.Fatalf("seed %d %d: all released: %v, leases %v\n%s", seed, i, err, w.leases, strings.Join(log, "\n"))
		}
		changes, refused, invalid = changes+w.changes, refused+w.refused, invalid+w.invalid
	}
	t.Logf("%d sequences: %d changes, %d refused, %d plans invalid", n, changes, refused, invalid)
	if refused > changes || invalid*3 > n {
		t.Error("too many")
	}
}

func wantedRDTTexts(wanted []Wanted) (list []string) {
	for _, x := range wanted {
		text := string(x.Task) + " by " + x.Owner + ": release"
		if !x.Release {
			name := "own"
			if x.RDT.Name != nil {
				name = strconv.Quote(*x.RDT.Name)
			}
			text = fmt.Sprintf("%s by %s: %s %s %s", x.Task, x.Owner, name, x.RDT.L3, x.RDT.MB)
		}
		list = append(list, text)
	}
	return list
}
