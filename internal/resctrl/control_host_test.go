package resctrl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/hosttest"
)

// controlHost is a kernel with resctrl, and tasks of several threads on it.
type controlHost struct {
	*testing.T
	dir   string
	tree  *Tree
	tasks map[string]int // pid by id
}

func newControlHost(t *testing.T, features ...string) *controlHost {
	t.Helper()
	h := &controlHost{T: t, dir: hosttest.Resctrl(t, features...), tasks: make(map[string]int)}
	m, err := FS{Root: "/"}.Mounted()
	if err != nil {
		t.Fatal(err)
	}
	if h.tree, err = m.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.tree.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// start starts tasks, in the default group as everything else.
func (h *controlHost) start(ids ...string) {
	h.Helper()
	for _, id := range ids {
		p := hosttest.NewCgroup(h, nil, "control-"+id).Start("threads 3")
		p.Done()
		h.tasks[id] = p.Pid
	}
}

// move moves a task, with the threads that the Go runtime makes meanwhile.
func (h *controlHost) move(id, group string) error {
	h.Helper()
	for before := []int(nil); ; {
		list := h.threads(id)
		if slices.Equal(list, before) {
			return nil
		}
		if _, err := h.tree.Add(Name{Control: group}, list); err != nil {
			return err
		}
		before = list
	}
}

func (h *controlHost) threads(id string) []int {
	h.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", h.tasks[id]))
	if err != nil {
		h.Fatal(err)
	}
	var list []int
	for _, e := range entries {
		tid, err := strconv.Atoi(e.Name())
		if err != nil {
			h.Fatal(err)
		}
		list = append(list, tid)
	}
	return list
}

// group returns the control group that all threads of a task are in.
func (h *controlHost) group(id string) string {
	h.Helper()
	var groups []string
	for _, tid := range h.threads(id) {
		n, err := h.tree.Locate(tid)
		if err != nil {
			h.Fatal(err)
		}
		groups = append(groups, n.Control)
	}
	if groups = slices.Compact(groups); len(groups) != 1 {
		h.Fatalf("task %s is in groups %q", id, groups)
	}
	return groups[0]
}

func (h *controlHost) parse(text string) Schemata {
	h.Helper()
	return mustParse(h, h.tree.Info(), text)
}

// wants is an allocation of a task that is where it is.
func (h *controlHost) wants(id, group, schemata string) Allocation {
	h.Helper()
	return Allocation{Task: id, Group: group, Now: h.group(id), Schemata: h.parse(schemata)}
}

func (h *controlHost) groups() []ControlGroup {
	h.Helper()
	groups, err := h.tree.ControlGroups()
	if err != nil {
		h.Fatal(err)
	}
	return groups
}

func (h *controlHost) plan(allocations ...Allocation) []Change {
	h.Helper()
	changes, err := h.tree.Info().Plan(h.groups(), allocations, nil)
	if err != nil {
		h.Fatal(err)
	}
	return changes
}

// try does one change, after RMIDs that other tests freed are out of limbo.
func (h *controlHost) try(c Change) (effect Schemata, err error) {
	h.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if c.Kind == MoveTask {
			err = h.move(c.Task, c.Group)
		} else {
			effect, err = h.tree.Do(c)
		}
		if !errors.Is(err, ErrNoRMID) || time.Now().After(end) {
			return effect, err
		}
	}
}

func (h *controlHost) apply(changes []Change) {
	h.Helper()
	for _, c := range changes {
		effect, err := h.try(c)
		if err != nil {
			h.Fatalf("%v: %v", c, err)
		}
		if missing := c.New.Changed(effect); missing != nil {
			h.Errorf("%v: %v is not so, but %v", c, missing, effect)
		}
	}
}

// undo undoes changes, the last one first.
func (h *controlHost) undo(changes []Change) {
	h.Helper()
	for _, c := range slices.Backward(changes) {
		var err error
		if c.Kind == MoveTask {
			err = h.move(c.Task, c.From)
		} else {
			err = h.tree.Undo(c)
		}
		if err != nil {
			h.Errorf("undo %v: %v", c, err)
		}
	}
}

func (h *controlHost) schemata(group string) Schemata {
	h.Helper()
	s, err := h.tree.Schemata(group)
	if err != nil {
		h.Fatal(err)
	}
	return s
}

// write is another tool.
func (h *controlHost) write(file, text string) {
	h.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, file), []byte(text), 0); err != nil {
		status, _ := os.ReadFile(filepath.Join(h.dir, "info/last_cmd_status"))
		h.Fatalf("%q: %v (%s)", text, err, status)
	}
}

func (h *controlHost) mkdir(group string) {
	h.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		err := os.Mkdir(filepath.Join(h.dir, group), 0o755)
		if err == nil {
			return
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			h.Fatal(err)
		}
	}
}

// some returns values that a group does not begin with: half of each resource in its
// first domain.
func (in *Info) some() Schemata {
	var s Schemata
	for _, r := range in.Resources {
		v := r.Bits & (r.Bits >> 2)
		if r.Kind == Bandwidth {
			v = 50
		}
		s = append(s, Line{r.Name, r.Kind, []DomainValue{{r.Domains[0], v}}})
	}
	return s
}

// Whatever the host has: its resources are set in a group, tasks share it, and nothing
// is left of it after the undo.
func TestControlKernel(t *testing.T) {
	h := newControlHost(t)
	h.start("a", "b")
	in := h.tree.Info()
	if in.CLOSIDs() == 0 {
		if _, err := in.Plan(h.groups(), []Allocation{h.wants("a", "gold", "")}, nil); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("a group where nothing can be allocated: %v", err)
		}
		if _, err := h.tree.Do(Change{Kind: CreateGroup, Group: "owca-gold"}); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("making it all the same: %v", err)
		}
		if changes, err := h.tree.SetDefaults("", ""); err != nil || changes != nil {
			t.Errorf("defaults of nothing: %v, %v", changes, err)
		}
		return
	}
	before := h.groups()
	allocations := func() []Allocation {
		list := []Allocation{h.wants("a", "gold", ""), h.wants("b", "gold", "")}
		list[0].Schemata = in.some()
		return list
	}
	changes := h.plan(allocations()...)
	if len(changes) != 4 {
		t.Fatalf("%v", changes)
	}
	h.apply(changes)
	for id := range h.tasks {
		if group := h.group(id); group != "owca-gold" {
			t.Errorf("task %s is in %q", id, group)
		}
	}
	if d := in.some().Changed(h.schemata("owca-gold")); d != nil {
		t.Errorf("not in effect: %v", d)
	}
	if again := h.plan(allocations()...); again != nil {
		t.Errorf("a second time: %v", again)
	}
	// The threads are those of the monitoring groups, too.
	if len(in.Monitoring) > 0 {
		if err := h.tree.Create(Name{"owca-gold", "owca-m"}); err != nil {
			t.Fatal(err)
		}
		if _, err := h.tree.Add(Name{"owca-gold", "owca-m"}, h.threads("a")); err != nil {
			t.Fatal(err)
		}
	}
	groups := h.groups()
	i := slices.IndexFunc(groups, func(g ControlGroup) bool { return g.Name == "owca-gold" })
	if want := len(h.threads("a")) + len(h.threads("b")); i < 0 || groups[i].Tasks != want {
		t.Errorf("wanted %d threads in owca-gold: %+v", want, groups)
	}
	if len(in.Monitoring) > 0 && !slices.Equal(groups[i].Monitors, []string{"owca-m"}) {
		t.Errorf("monitoring groups %q", groups[i].Monitors)
	}
	if _, err := h.tree.Do(Change{Kind: RemoveGroup, Group: "owca-gold"}); !errors.Is(err, unix.EBUSY) {
		t.Errorf("removing it with threads in it: %v", err)
	}
	if err := h.tree.Undo(changes[0]); !errors.Is(err, unix.EBUSY) {
		t.Errorf("undoing it with threads in it: %v", err)
	}
	h.undo(changes)
	withoutCounts := func(groups []ControlGroup) []ControlGroup {
		groups = slices.Clone(groups)
		for i := range groups {
			groups[i].Tasks = 0 // there is more on a host than these tasks
		}
		return groups
	}
	if diff := cmp.Diff(withoutCounts(before), withoutCounts(h.groups())); diff != "" {
		t.Errorf("after the undo: %s", diff)
	}
	for _, c := range changes {
		if c.Kind == MoveTask {
			continue
		}
		if err := h.tree.Undo(c); err != nil {
			t.Errorf("undoing %v again: %v", c, err)
		}
	}
	for _, move := range []error{h.tree.Undo(Change{Kind: MoveTask}), second(h.tree.Do(Change{Kind: MoveTask}))} {
		if move == nil {
			t.Error("a task has been moved without its threads")
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestControlForeignGroup(t *testing.T) {
	h := newControlHost(t, "/L3", "/MB")
	h.start("a", "b")
	h.mkdir("gold")
	h.write("gold/schemata", "L3:0=f\n")
	had := h.schemata("gold")

	// Shared under its own name, with the schemata it has.
	changes := h.plan(h.wants("a", "gold", ""), h.wants("b", "silver", "MB:1=30"))
	h.apply(changes)
	if h.group("a") != "gold" || h.group("b") != "owca-silver" || !schemataEqual(h.schemata("gold"), had) {
		t.Errorf("%v: a is in %q, b in %q", changes, h.group("a"), h.group("b"))
	}
	// The other way round: ours is removed, theirs is not.
	changes = h.plan(h.wants("a", "", ""), h.wants("b", "gold", "L3:0=3"))
	h.apply(changes)
	if h.group("a") != "" || h.group("b") != "gold" {
		t.Errorf("%v: a is in %q, b in %q", changes, h.group("a"), h.group("b"))
	}
	if _, err := os.Stat(filepath.Join(h.dir, "owca-silver")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("owca-silver, which is empty: %v", err)
	}
	if v, _ := h.schemata("gold").Get("L3", 0); v != 3 {
		t.Errorf("L3:0=%x in gold, wanted 3", v)
	}
	h.apply(h.plan(h.wants("b", "", "")))
	if _, err := h.tree.Do(Change{Kind: RemoveGroup, Group: "gold"}); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("removing somebody else's group: %v", err)
	}
	if _, err := os.Stat(filepath.Join(h.dir, "gold")); err != nil {
		t.Error(err)
	}
}

// Where every CLOSID is in use nothing is changed, but a group that gets free in the
// same plan can be had.
func TestControlOutOfCLOSIDs(t *testing.T) {
	h := newControlHost(t, "-few", "/L3")
	h.start("a", "b")
	n := h.tree.Info().CLOSIDs()
	for i := range n - 2 {
		h.mkdir(fmt.Sprint("theirs", i))
	}
	h.apply(h.plan(h.wants("a", "old", "L3:0=f")))

	before := h.groups()
	changes, err := h.tree.Info().Plan(before, []Allocation{h.wants("a", "old", "L3:0=7"), h.wants("b", "new", "L3:0=f")}, nil)
	if !errors.Is(err, ErrNoCLOSID) || changes != nil {
		t.Errorf("%v, %v", changes, err)
	}
	if _, err := h.try(Change{Kind: CreateGroup, Group: "owca-new"}); !errors.Is(err, ErrNoCLOSID) {
		t.Errorf("making one more than there are: %v", err)
	}
	if diff := cmp.Diff(before, h.groups(), cmp.FilterPath(func(p cmp.Path) bool { return p.String() == "Tasks" }, cmp.Ignore())); diff != "" {
		t.Error(diff)
	}

	// Threads that the plan knows nothing of keep the old group, and the task that was to
	// leave it for a new one comes back.
	h.apply([]Change{{Kind: MoveTask, Task: "b", Group: "owca-old"}})
	changes = h.plan(h.wants("a", "new", "L3:0=3"))
	h.apply(changes[:1])
	if _, err := h.tree.Do(changes[1]); h.group("a") != "" || !errors.Is(err, unix.EBUSY) {
		t.Errorf("%v: a is in %q, %v", changes, h.group("a"), err)
	}
	h.undo(changes[:1])
	if h.group("a") != "owca-old" {
		t.Errorf("after the undo a is in %q", h.group("a"))
	}

	changes = h.plan(h.wants("a", "new", "L3:0=3"), h.wants("b", "new", ""))
	if changes[0].Kind != MoveTask || changes[0].Group != "" || changes[2].Kind != RemoveGroup {
		t.Errorf("%v", changes)
	}
	h.apply(changes)
	if h.group("a") != "owca-new" || h.group("b") != "owca-new" {
		t.Errorf("%v: a is in %q, b in %q", changes, h.group("a"), h.group("b"))
	}
}

// Another tool writes between the plan and what is done.
func TestControlForeignSchemata(t *testing.T) {
	h := newControlHost(t, "/L3", "/MB", "/!L3CODE")
	h.start("a")
	h.apply(h.plan(h.wants("a", "gold", "L3:0=ff;1=ff\nMB:0=50;1=50")))
	changes := h.plan(h.wants("a", "gold", "L3:0=f;1=f"))
	h.write("owca-gold/schemata", "L3:0=3\nMB:1=70\n")
	h.apply(changes)
	if got, want := h.schemata("owca-gold"), h.parse("L3:0=f;1=f\nMB:0=50;1=70"); want.Changed(got) != nil {
		t.Errorf("%v, wanted %v", got, want)
	}
	// And before the undo.
	h.write("owca-gold/schemata", "L3:0=1\n")
	h.undo(changes)
	h.undo(changes)
	if got, want := h.schemata("owca-gold"), h.parse("L3:0=1;1=ff\nMB:0=50;1=70"); want.Changed(got) != nil {
		t.Errorf("after the undo %v, wanted %v", got, want)
	}
}

func TestControlGroupRemoved(t *testing.T) {
	h := newControlHost(t, "/L3")
	h.start("a")
	h.apply(h.plan(h.wants("a", "gold", "L3:0=f")))
	changes := h.plan(h.wants("a", "gold", "L3:0=3"))
	if err := os.Remove(filepath.Join(h.dir, "owca-gold")); err != nil {
		t.Fatal(err)
	}
	if _, err := h.tree.Do(changes[0]); !errors.Is(err, ErrGone) {
		t.Errorf("%v: %v", changes[0], err)
	}
	for _, c := range []Change{{Kind: CreateGroup, Group: "owca-gold"}, changes[0], {Kind: RemoveGroup, Group: "owca-gold"}} {
		if err := h.tree.Undo(c); err != nil {
			t.Errorf("undo %v: %v", c, err)
		}
	}
	if _, err := h.tree.Do(Change{Kind: RemoveGroup, Group: "owca-gold"}); err != nil {
		t.Error(err)
	}
	// Who noted where the task was before does not know yet.
	a := h.wants("a", "gold", "L3:0=3")
	a.Now = "owca-gold"
	h.apply(h.plan(a))
	if v, _ := h.schemata("owca-gold").Get(h.parse("L3:0=3")[0].Resource, 0); h.group("a") != "owca-gold" || v != 3 {
		t.Errorf("a is in %q, which has %v", h.group("a"), h.schemata("owca-gold"))
	}
}

// What an exclusive group has cannot be had: the kernel's text is in the error, and
// nothing of the write takes effect.
func TestControlExclusive(t *testing.T) {
	h := newControlHost(t, "/L3", "/MB", "/!L3CODE")
	h.start("a")
	h.write("schemata", "L3:0=7f0;1=7f0\n")
	h.mkdir("theirs")
	h.write("theirs/schemata", "L3:0=f;1=f\n")
	h.write("theirs/mode", "exclusive\n")

	changes := h.plan(h.wants("a", "gold", "L3:0=1f\nMB:0=20"))
	h.apply(changes[:1])
	had := h.schemata("owca-gold")
	if v, _ := had.Get("L3", 0); v != 0x7f0 {
		t.Errorf("a new group begins with %v", had)
	}
	effect, err := h.tree.Do(changes[1])
	if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "Overlaps with exclusive group") ||
		!strings.Contains(err.Error(), "it is in line L3:0=1f") {
		t.Errorf("%v", err)
	}
	if !schemataEqual(effect, had) || !schemataEqual(h.schemata("owca-gold"), had) {
		t.Errorf("there was %v, now %v is said, and there is %v", had, effect, h.schemata("owca-gold"))
	}
	// All, as a new group has it where no other is exclusive, is wanted, but not so.
	all := h.plan(h.wants("a", "silver", "L3:0=7ff"))
	h.apply(all[:1])
	if _, err := h.tree.Do(all[1]); all[1].Kind != SetSchemata || !errors.Is(err, unix.EINVAL) {
		t.Errorf("%v: %v", all[1], err)
	}
	if _, err := h.tree.SetDefaults("", ""); !errors.Is(err, unix.EINVAL) {
		t.Errorf("all of it for the default group: %v", err)
	}
}

// A write that is too long for the kernel is split; what was written before the part
// that fails is put back.
func TestControlSplitWrite(t *testing.T) {
	h := newControlHost(t, "/L3", "/MB", "/!L3CODE")
	h.mkdir("owca-gold")
	const limit = 10 // one domain each
	effect, err := h.tree.setInParts("owca-gold", h.parse("L3:0=f;1=ff\nMB:0=50;1=60"), limit)
	if got := h.schemata("owca-gold"); err != nil || !schemataEqual(got, effect) || h.parse("L3:0=f;1=ff\nMB:0=50;1=60").Changed(got) != nil {
		t.Errorf("%v, %v; there is %v", effect, err, got)
	}
	_, err = h.tree.setInParts("owca-gold", h.parse("L3:0=3;1=1\nMB:0=20;7=60"), limit)
	if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "no domain MB:7") {
		t.Errorf("%v", err)
	}
	if got := h.schemata("owca-gold"); !schemataEqual(got, effect) {
		t.Errorf("it was %v, now %v", effect, got)
	}

	// The limit is the kernel's: longer by the zeros.
	for _, size := range []int{maxSchemataWrite, maxSchemataWrite + 1} {
		text := "L3:0=" + strings.Repeat("0", size-len("L3:0=f\n")) + "f\n"
		err := os.WriteFile(filepath.Join(h.dir, "owca-gold/schemata"), []byte(text), 0)
		if errors.Is(err, unix.E2BIG) != (size > maxSchemataWrite) {
			t.Errorf("a write of %d bytes: %v", size, err)
		}
	}
}

func TestControlCDP(t *testing.T) {
	h := newControlHost(t, "/L3CODE")
	h.start("a")
	h.apply(h.plan(h.wants("a", "gold", "L3:0=f\nL3DATA:1=3")))
	if got, want := h.schemata("owca-gold"), h.parse("L3CODE:0=f\nL3DATA:0=f;1=3"); want.Changed(got) != nil {
		t.Errorf("%v, wanted %v", got, want)
	}
	changes, err := h.tree.SetDefaults("L3:0=ff", "")
	if err != nil || len(changes) != 1 || h.parse("L3CODE:0=ff\nL3DATA:0=ff").Changed(h.schemata("")) != nil {
		t.Errorf("%v, %v: %v", changes, err, h.schemata(""))
	}
	h.undo(changes)
	if d := h.tree.Info().Default().Changed(h.schemata("")); d != nil {
		t.Errorf("after the undo: %v", d)
	}
}

func TestControlMBps(t *testing.T) {
	h := newControlHost(t, "/MB", "+mba_MBps")
	h.start("a")
	changes := h.plan(h.wants("a", "gold", "MB:0=1515"))
	h.apply(changes)
	if v, _ := h.schemata("owca-gold").Get("MB", 0); v != 1515 || changes[1].Rounded != nil {
		t.Errorf("%v: MB:0=%d", changes, v)
	}
	changes, err := h.tree.SetDefaults("", "MB:0=3000;1=4000")
	if err != nil || len(changes) != 1 {
		t.Errorf("%v, %v", changes, err)
	}
	if changes, err := h.tree.SetDefaults("", ""); err != nil || len(changes) != 1 {
		t.Errorf("back to no limit: %v, %v", changes, err)
	}
	if d := h.tree.Info().Default().Changed(h.schemata("")); d != nil {
		t.Errorf("after that: %v", d)
	}
}

// A mask with a gap is taken where the host takes it, and refused before where not.
func TestControlSparseKernel(t *testing.T) {
	h := newControlHost(t, "/L3")
	h.start("a")
	changes, err := h.tree.Info().Plan(h.groups(), []Allocation{h.wants("a", "gold", "L3:0=3c3")}, nil)
	if sparse := h.tree.Info().Resource(h.parse("L3:0=3")[0].Resource).Sparse; sparse != (err == nil) {
		t.Fatalf("gaps: %t, but %v", sparse, err)
	}
	if err == nil {
		h.apply(changes)
	}
}

func TestSetDefaultsKernel(t *testing.T) {
	h := newControlHost(t, "/MB", "/!L3CODE")
	in := h.tree.Info()
	if changes, err := h.tree.SetDefaults("", ""); err != nil || changes != nil {
		t.Errorf("as it is: %v, %v", changes, err)
	}
	for text, l3 := range map[string]bool{"MB:0=50": true, "L3:0=5\nL3:9=f": true, "L3:0": true, "L3:0=f": false, "MB:7=50": false} {
		var err error
		if l3 {
			_, err = h.tree.SetDefaults(text, "MB:0=50")
		} else {
			_, err = h.tree.SetDefaults("", text)
		}
		want := "default of MB"
		if l3 {
			want = "default of L3"
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if d := in.Default().Changed(h.schemata("")); d != nil {
		t.Fatalf("written all the same: %v", d)
	}
	if in.Resource("L3") == nil {
		if _, err := h.tree.SetDefaults("L3:0=f", ""); err == nil {
			t.Error("L3 where there is none")
		}
	} else {
		changes, err := h.tree.SetDefaults("L3:0=f;1=ff", "MB:0=50")
		if err != nil || len(changes) != 2 || h.parse("L3:0=f;1=ff\nMB:0=50").Changed(h.schemata("")) != nil {
			t.Errorf("%v, %v: %v", changes, err, h.schemata(""))
		}
		if again, err := h.tree.SetDefaults("L3:0=f;1=ff", "MB:0=50"); err != nil || again != nil {
			t.Errorf("again: %v, %v", again, err)
		}
		h.undo(changes)
	}
	changes, err := h.tree.SetDefaults("", "MB:1=20")
	if err != nil || len(changes) != 1 {
		t.Errorf("%v, %v", changes, err)
	}
	h.undo(changes)
	if d := in.Default().Changed(h.schemata("")); d != nil {
		t.Errorf("after the undo: %v", d)
	}
}

func TestSetDefaultsWithoutMBKernel(t *testing.T) {
	h := newControlHost(t, "/L3", "/!MB")
	if _, err := h.tree.SetDefaults("", "MB:0=50"); err == nil {
		t.Error("MB where there is none")
	}
	changes, err := h.tree.SetDefaults("L3:0=f", "")
	if err != nil || len(changes) != 1 {
		t.Errorf("%v, %v", changes, err)
	}
	h.undo(changes)
}

// remove_all_resctrl_groups on a host that is full.
func TestControlRemoveAll(t *testing.T) {
	h := newControlHost(t, "/L3", "/L3_MON")
	h.start("a")
	for i := range h.tree.Info().CLOSIDs() - 1 {
		name := []string{"theirs", Prefix}[i%2] + strconv.Itoa(i)
		h.mkdir(name)
		if i < 3 {
			h.mkdir(Name{name, "theirs"}.Path())
		}
	}
	h.mkdir("mon_groups/theirs")
	h.apply([]Change{{Kind: MoveTask, Task: "a", Group: "theirs0"}})
	if err := h.tree.RemoveAll(); err != nil {
		t.Fatal(err)
	}
	if groups := h.groups(); len(groups) != 1 || groups[0].Monitors != nil || h.group("a") != "" {
		t.Errorf("a is in %q, there are %+v", h.group("a"), groups)
	}
}
