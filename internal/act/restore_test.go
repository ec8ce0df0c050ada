package act

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/hosttest"
	"github.com/owca-project/owca/internal/resctrl"
)

// agentStub leases and sets like an agent, and crashes.
type agentStub struct {
	t    *testing.T
	dir  string
	tree *cgroup.Tree
	*Journal
}

func newAgentStub(t *testing.T) *agentStub {
	t.Helper()
	tree, err := cgroup.FS{Root: "/"}.Tree()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	return &agentStub{t, dir, tree, openTestJournal(t, dir)}
}

func (a *agentStub) lease(group *hosttest.Cgroup, k cgroup.Knob, value string) {
	a.t.Helper()
	if err := leaseAndSet(a.Journal, a.tree, group.Path, k, value); err != nil {
		a.t.Fatal(err)
	}
}

// set is a write without a lease, as somebody else's.
func (a *agentStub) set(group *hosttest.Cgroup, k cgroup.Knob, value string) {
	a.t.Helper()
	c, err := a.tree.Control(group.Path)
	if err != nil {
		a.t.Fatal(err)
	}
	defer c.Close()
	if err := c.Set(k, value); err != nil {
		a.t.Fatal(err)
	}
}

// restore crashes the agent and restores; it returns how each lease ended, by Seq.
func (a *agentStub) restore() (ends []End) {
	a.t.Helper()
	a.crash()
	outcomes, told, err := Restore(a.t.Context(), "/", a.dir)
	if err != nil || len(told) > 0 {
		a.t.Fatalf("told %q, %v", told, err)
	}
	slices.SortFunc(outcomes, func(x, y Outcome) int { return bySeq(&x.Lease, &y.Lease) })
	for _, o := range outcomes {
		if o.Err != nil {
			a.t.Errorf("lease %d: %v", o.Seq, o.Err)
		}
		ends = append(ends, o.How)
	}
	return ends
}

func wantEnds(t *testing.T, got []End, want ...End) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// needKnob skips the test where a cgroup has no such file.
func needKnob(t *testing.T, group *hosttest.Cgroup, k cgroup.Knob) string {
	t.Helper()
	tree, err := cgroup.FS{Root: "/"}.Tree()
	if err != nil {
		t.Fatal(err)
	}
	c, err := tree.Control(group.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	value, err := c.Get(k)
	if errors.Is(err, errors.ErrUnsupported) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func weightKnob(t *testing.T, group *hosttest.Cgroup) cgroup.Knob {
	t.Helper()
	if needKnob(t, group, cgroup.CPUWeightV2) != "" {
		return cgroup.CPUWeightV2
	}
	return cgroup.CPUSharesV1
}

func TestRestore(t *testing.T) {
	one, two := hosttest.NewCgroup(t, nil, "one"), hosttest.NewCgroup(t, nil, "two")
	weight := weightKnob(t, one)
	first := [...]string{getKnob(t, one.Path, cgroup.CPUMax), getKnob(t, one.Path, weight), getKnob(t, two.Path, cgroup.CPUMax)}
	a := newAgentStub(t)
	a.lease(one, cgroup.CPUMax, "50000 100000")
	a.lease(one, weight, "77")
	a.lease(two, cgroup.CPUMax, "40000 100000")
	a.lease(one, cgroup.CPUMax, "10000 50000") // renewed
	wantEnds(t, a.restore(), EndRestored, EndRestored, EndRestored)
	is := [...]string{getKnob(t, one.Path, cgroup.CPUMax), getKnob(t, one.Path, weight), getKnob(t, two.Path, cgroup.CPUMax)}
	// The period of no limit may be any.
	if !cgroup.CPUMax.Equal(is[0], first[0]) || is[1] != first[1] || !cgroup.CPUMax.Equal(is[2], first[2]) {
		t.Errorf("%q, before %q", is, first)
	}
	wantEnds(t, a.restore()) // nothing is left
}

func TestRestoreLeavesForeignValues(t *testing.T) {
	group := hosttest.NewCgroup(t, nil, "foreign")
	weight := weightKnob(t, group)
	a := newAgentStub(t)
	a.lease(group, cgroup.CPUMax, "50000 100000")
	a.lease(group, weight, "77")
	a.set(group, cgroup.CPUMax, "30000 100000")
	a.set(group, weight, needKnob(t, hosttest.NewCgroup(t, nil, "fresh"), weight)) // to what it was
	wantEnds(t, a.restore(), EndForeign, EndRestored)
	if is := getKnob(t, group.Path, cgroup.CPUMax); is != "30000 100000" {
		t.Errorf("cpu.max %s", is)
	}
}

// TestRestoreBrokenOff: the agent died between the lease and the end of the write.
func TestRestoreBrokenOff(t *testing.T) {
	for _, test := range []struct {
		name, first, old, to, found string
		end                         End
	}{
		{"before the first write", "max 100000", "", "50000 200000", "max 100000", EndRestored},
		{"before a later write", "80000 100000", "50000 100000", "20000 100000", "50000 100000", EndRestored},
		{"after it", "80000 100000", "50000 100000", "20000 100000", "20000 100000", EndRestored},
		{"neither", "80000 100000", "50000 100000", "20000 100000", "30000 100000", EndForeign},
	} {
		t.Run(test.name, func(t *testing.T) {
			group := hosttest.NewCgroup(t, nil, "broken-off")
			a := newAgentStub(t)
			a.set(group, cgroup.CPUMax, test.first)
			if test.old != "" {
				a.lease(group, cgroup.CPUMax, test.old)
			}
			a.lease(group, cgroup.CPUMax, test.to)
			a.set(group, cgroup.CPUMax, test.found)
			wantEnds(t, a.restore(), test.end)
			want := test.first
			if test.end == EndForeign {
				want = test.found
			}
			if is := getKnob(t, group.Path, cgroup.CPUMax); is != want {
				t.Errorf("cpu.max %s, want %s", is, want)
			}
		})
	}
	t.Run("between the files of v1", func(t *testing.T) {
		group := hosttest.NewCgroup(t, nil, "between")
		dir := group.Dir("cpu")
		if dir == "" {
			hosttest.Need(t, "cgroup1") // v2 has one file
		}
		a := newAgentStub(t)
		a.set(group, cgroup.CPUMax, "80000 100000")
		a.lease(group, cgroup.CPUMax, "20000 50000")
		if err := os.WriteFile(filepath.Join(dir, "cpu.cfs_period_us"), []byte("100000"), 0); err != nil {
			t.Fatal(err)
		}
		wantEnds(t, a.restore(), EndRestored)
		if is := getKnob(t, group.Path, cgroup.CPUMax); is != "80000 100000" {
			t.Errorf("cpu.max %s", is)
		}
	})
}

func TestRestoreGoneCgroups(t *testing.T) {
	removed, anew := hosttest.NewCgroup(t, nil, "removed"), hosttest.NewCgroup(t, nil, "anew")
	a := newAgentStub(t)
	a.lease(removed, cgroup.CPUMax, "50000 100000")
	a.lease(anew, cgroup.CPUMax, "50000 100000")
	removed.Remove()
	anew.Remove()
	anew = hosttest.NewCgroup(t, nil, "anew")
	a.set(anew, cgroup.CPUMax, "50000 100000") // the same as ours, by somebody else
	wantEnds(t, a.restore(), EndGone, EndGone)
	if is := getKnob(t, anew.Path, cgroup.CPUMax); is != "50000 100000" {
		t.Errorf("cpu.max %s", is)
	}
}

// TestRestoreParents: v1 refuses a child above its parent, so that the order of the leases is
// not always one in which they can be undone.
func TestRestoreParents(t *testing.T) {
	for _, parentFirst := range []bool{false, true} {
		t.Run(fmt.Sprint(parentFirst), func(t *testing.T) {
			parent := hosttest.NewCgroup(t, nil, "parent")
			if dir := parent.Dir("unified"); dir != "" && !parent.Has("cpu", "cpu.shares") {
				if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+cpu"), 0); err != nil {
					t.Fatal(err)
				}
			}
			child := hosttest.NewCgroup(t, parent, "child")
			a := newAgentStub(t)
			a.set(parent, cgroup.CPUMax, "60000 100000")
			a.set(child, cgroup.CPUMax, "60000 100000")
			if parentFirst {
				a.lease(parent, cgroup.CPUMax, "80000 100000")
			}
			a.lease(child, cgroup.CPUMax, "40000 100000")
			if !parentFirst {
				a.lease(parent, cgroup.CPUMax, "80000 100000")
			}
			a.lease(child, cgroup.CPUMax, "30000 100000")
			a.lease(parent, cgroup.CPUMax, "30000 100000")
			wantEnds(t, a.restore(), EndRestored, EndRestored)
			for _, g := range []*hosttest.Cgroup{parent, child} {
				if is := getKnob(t, g.Path, cgroup.CPUMax); is != "60000 100000" {
					t.Errorf("%s: cpu.max %s", g.Path, is)
				}
			}
		})
	}
}

// TestRestoreRefused: what the kernel refuses stays leased, and is told.
func TestRestoreRefused(t *testing.T) {
	hosttest.Need(t, "root")
	parent := hosttest.NewCgroup(t, nil, "parent")
	if !parent.Has("cpu", "cpu.shares") {
		hosttest.Need(t, "cgroup1") // v2 has children above their parents
	}
	child := hosttest.NewCgroup(t, parent, "child")
	other := hosttest.NewCgroup(t, nil, "other")
	a := newAgentStub(t)
	a.lease(other, cgroup.CPUMax, "50000 100000")
	a.set(child, cgroup.CPUMax, "60000 100000")
	a.lease(child, cgroup.CPUMax, "40000 100000")
	a.set(parent, cgroup.CPUMax, "50000 100000") // somebody else's
	a.crash()
	outcomes, _, err := Restore(t.Context(), "/", a.dir)
	if err != nil || len(outcomes) != 2 || outcomes[0].How != EndRestored || outcomes[1].How != "" || !errors.Is(outcomes[1].Err, syscall.EINVAL) {
		t.Fatalf("%+v, %v", outcomes, err)
	}
	for _, text := range []string{child.Path, "60000 100000"} {
		if !strings.Contains(outcomes[1].Err.Error(), text) {
			t.Errorf("%q does not say %q", outcomes[1].Err, text)
		}
	}
	leases, _, _, err := ReadJournal(a.dir)
	if err != nil || len(leases) != 1 || leases[0].Cgroup != child.Path {
		t.Fatalf("%v, %v", leases, err)
	}
	a.set(parent, cgroup.CPUMax, "max 100000")
	wantEnds(t, a.restore(), EndRestored)
}

func TestRestoreIdle(t *testing.T) {
	group := hosttest.NewCgroup(t, nil, "idle")
	if needKnob(t, group, cgroup.CPUIdleFlag) == "" {
		t.Skip("the kernel has no cpu.idle (Linux 5.15)")
	}
	weight := weightKnob(t, group)
	fresh := getKnob(t, group.Path, weight)
	for _, weightFirst := range []bool{true, false} {
		a := newAgentStub(t)
		a.set(group, weight, "55")
		c := Change{Target: Target{Cgroup: group.Path, Knob: weight}, Old: "55", New: fresh}
		if control, err := a.tree.Control(group.Path); err != nil {
			t.Fatal(err)
		} else {
			c.ID = control.ID(weight)
		}
		// As the plan has it: what cpu.idle makes of the weight is leased with it.
		if weightFirst {
			take(t, a.Journal, c)
		}
		a.lease(group, cgroup.CPUIdleFlag, "1")
		if !weightFirst {
			take(t, a.Journal, c)
		}
		wantEnds(t, a.restore(), EndRestored, EndRestored)
		if is := getKnob(t, group.Path, weight); is != "55" {
			t.Errorf("weight %s", is)
		}
	}
}

func TestRestoreIsInterrupted(t *testing.T) {
	group := hosttest.NewCgroup(t, nil, "interrupted")
	a := newAgentStub(t)
	a.lease(group, cgroup.CPUMax, "50000 100000")
	a.crash()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	outcomes, _, err := Restore(ctx, "/", a.dir)
	if err != nil || len(outcomes) != 1 || !errors.Is(outcomes[0].Err, context.Canceled) {
		t.Errorf("%+v, %v", outcomes, err)
	}
	wantEnds(t, a.restore(), EndRestored)
}

// TestRestoreWithoutMount: with resctrl unmounted, all groups are gone.
func TestRestoreWithoutMount(t *testing.T) {
	for _, filesystems := range []string{"nodev\tproc\n", "nodev\tresctrl\n"} {
		root := t.TempDir()
		if err := errors.Join(
			os.MkdirAll(filepath.Join(root, "proc/1"), 0o755),
			os.WriteFile(filepath.Join(root, "proc/filesystems"), []byte(filesystems), 0o644),
			os.WriteFile(filepath.Join(root, "proc/1/mountinfo"), nil, 0o644),
		); err != nil {
			t.Fatal(err)
		}
		leases := []*Lease{
			{Seq: 1, Change: Change{Target: Target{Group: "owca-a"}, Resctrl: &resctrl.Change{Kind: resctrl.CreateGroup, Group: "owca-a"}}},
			{Seq: 2, Change: Change{Target: Target{Task: "t"}, Resctrl: &resctrl.Change{Kind: resctrl.MoveTask, Task: "t", Group: "owca-a"}}},
		}
		var ends []End
		newRestorer(nil, &hostGroups{root: root, leases: leases}).undoAll(t.Context(), leases, func(_ *Lease, how End, err error) {
			if err != nil {
				t.Error(err)
			}
			ends = append(ends, how)
		})
		wantEnds(t, ends, EndGone, EndGone)
	}
}

// resctrlStub is an agent's way with resctrl.
func (a *agentStub) resctrl(groups *hostGroups, target Target, c resctrl.Change, cgroups ...string) {
	a.t.Helper()
	take(a.t, a.Journal, Change{Target: target, Kind: owca.RDTGroup, Resctrl: &c, Cgroups: cgroups})
	if c.Kind == resctrl.MoveTask {
		groups.leases = append(groups.leases, a.Lease(target))
		if _, _, err := groups.Control(); err != nil {
			a.t.Fatal(err)
		}
	}
	if _, err := groups.Do(c); err != nil {
		a.t.Fatal(err)
	}
}

func TestRestoreResctrl(t *testing.T) {
	mount := hosttest.Resctrl(t, "/L3")
	group := hosttest.NewCgroup(t, nil, "resctrl")
	load := group.Start("threads 20")
	load.Done()
	a := newAgentStub(t)
	open := func() *hostGroups { return &hostGroups{root: "/", tree: a.tree} }
	groups := open()
	first, _, err := groups.Control()
	if err != nil {
		t.Fatal(err)
	}
	var l3, narrow resctrl.Schemata
	for _, l := range first[0].Schemata {
		if l.Resource == "L3" {
			l3 = resctrl.Schemata{l}
			few := slices.Clone(l.Domains)
			for i := range few {
				few[i].Value = 0xf
			}
			narrow = resctrl.Schemata{{Resource: l.Resource, Kind: l.Kind, Domains: few}}
		}
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(mount, name))
		if err != nil {
			return err.Error()
		}
		return string(b)
	}
	before := read("schemata")
	if err := os.Mkdir(filepath.Join(mount, "theirs"), 0o755); err != nil {
		t.Fatal(err)
	}
	theirs := read("theirs/schemata")

	task := Target{Task: "t"}
	a.resctrl(groups, Target{}, resctrl.Change{Kind: resctrl.SetSchemata, Old: l3, New: narrow})
	a.resctrl(groups, Target{Group: "theirs"}, resctrl.Change{Kind: resctrl.SetSchemata, Group: "theirs", Old: l3, New: narrow})
	a.resctrl(groups, Target{Group: "owca-a"}, resctrl.Change{Kind: resctrl.CreateGroup, Group: "owca-a"})
	a.resctrl(groups, Target{Group: "owca-a"}, resctrl.Change{Kind: resctrl.SetSchemata, Group: "owca-a", New: narrow})
	a.resctrl(groups, task, resctrl.Change{Kind: resctrl.MoveTask, Task: "t", Group: "owca-a"}, group.Path)
	if !slices.Contains(strings.Fields(read("owca-a/tasks")), strconv.Itoa(load.Pid)) {
		t.Fatal("the task was not moved")
	}
	// Leased, but the agent dies before it is done: another group, and another mask.
	wide := resctrl.Schemata{{Resource: narrow[0].Resource, Kind: narrow[0].Kind, Domains: slices.Clone(narrow[0].Domains)}}
	for i := range wide[0].Domains {
		wide[0].Domains[i].Value = l3[0].Domains[i].Value >> 1
	}
	take(t, a.Journal,
		Change{Target: Target{}, Kind: owca.RDTGroup, Resctrl: &resctrl.Change{Kind: resctrl.SetSchemata, Old: narrow, New: wide}},
		Change{Target: task, Kind: owca.RDTGroup, Resctrl: &resctrl.Change{Kind: resctrl.MoveTask, Task: "t", Group: "theirs", From: "owca-a"}, Cgroups: []string{group.Path}})
	groups.close()

	// Another process has resctrl: nothing is undone, all stays leased.
	busy := child(t, "claim")
	in, err := busy.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := busy.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	a.crash()
	outcomes, _, err := Restore(t.Context(), "/", a.dir)
	if err != nil || len(outcomes) != 4 {
		t.Fatalf("%+v, %v", outcomes, err)
	}
	for _, o := range outcomes {
		if !errors.Is(o.Err, resctrl.ErrInUse) {
			t.Errorf("lease %d: %v", o.Seq, o.Err)
		}
	}
	if err := errors.Join(in.Close(), busy.Wait()); err != nil {
		t.Fatal(err)
	}

	wantEnds(t, a.restore(), EndRestored, EndRestored, EndRestored, EndRestored)
	if is := read("schemata"); is != before {
		t.Errorf("schemata %s, before %s", is, before)
	}
	if is := read("theirs/schemata"); is != theirs {
		t.Errorf("theirs/schemata %s, before %s", is, theirs)
	}
	if _, err := os.Stat(filepath.Join(mount, "owca-a")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the group that was made: %v", err)
	}
	for _, tid := range strings.Fields(read("theirs/tasks")) {
		t.Errorf("thread %s is in another's group", tid)
	}
}

// childClaim has resctrl until its standard input ends.
func childClaim([]string) error {
	g := &hostGroups{root: "/"}
	defer g.close()
	if err := g.Err(); err != nil {
		return err
	}
	fmt.Print("1")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// TestRestoreResctrlForeign: what somebody else changed or removed since stays so.
func TestRestoreResctrlForeign(t *testing.T) {
	mount := hosttest.Resctrl(t, "/L3")
	group := hosttest.NewCgroup(t, nil, "resctrl")
	load := group.Start("sleep")
	a := newAgentStub(t)
	groups := &hostGroups{root: "/", tree: a.tree}
	first, _, err := groups.Control()
	if err != nil {
		t.Fatal(err)
	}
	line := first[0].Schemata[slices.IndexFunc(first[0].Schemata, func(l resctrl.Line) bool { return l.Kind == resctrl.Mask })]
	values := func(v uint64) resctrl.Schemata {
		d := slices.Clone(line.Domains)
		for i := range d {
			d[i].Value = v
		}
		return resctrl.Schemata{{Resource: line.Resource, Kind: line.Kind, Domains: d}}
	}
	for _, name := range []string{"theirs", "removed", "moved-to"} {
		if err := os.Mkdir(filepath.Join(mount, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	old := resctrl.Schemata{line}
	for _, name := range []string{"theirs", "removed"} {
		a.resctrl(groups, Target{Group: name}, resctrl.Change{Kind: resctrl.SetSchemata, Group: name, Old: old, New: values(0xf)})
	}
	a.resctrl(groups, Target{Task: "t"}, resctrl.Change{Kind: resctrl.MoveTask, Task: "t", Group: "theirs"}, group.Path)
	a.resctrl(groups, Target{Task: "gone"}, resctrl.Change{Kind: resctrl.MoveTask, Task: "t", Group: "theirs"}, "/owca-test-none")

	foreign := fmt.Sprintf("%s:%d=3\n", line.Resource, line.Domains[0].ID)
	if err := errors.Join(
		os.WriteFile(filepath.Join(mount, "theirs/schemata"), []byte(foreign), 0),
		syscall.Rmdir(filepath.Join(mount, "removed")),
	); err != nil {
		t.Fatal(err)
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", load.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, tid := range threads {
		if err := os.WriteFile(filepath.Join(mount, "moved-to/tasks"), []byte(tid.Name()), 0); err != nil {
			t.Fatal(err)
		}
	}
	groups.close()
	wantEnds(t, a.restore(), EndForeign, EndGone, EndForeign, EndForeign)

	b, err := os.ReadFile(filepath.Join(mount, "theirs/schemata"))
	if err != nil {
		t.Fatal(err)
	}
	is, err := groupsInfo(t, a.tree).Parse(string(b))
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range line.Domains {
		want := d.Value // restored
		if i == 0 {
			want = 3
		}
		if v, ok := is.Get(line.Resource, d.ID); !ok || v != want {
			t.Errorf("%s:%d=%x, want %x", line.Resource, d.ID, v, want)
		}
	}
	if b, err := os.ReadFile(filepath.Join(mount, "moved-to/tasks")); err != nil || !slices.Contains(strings.Fields(string(b)), strconv.Itoa(load.Pid)) {
		t.Errorf("tasks %s, %v", b, err)
	}
}

func groupsInfo(t *testing.T, tree *cgroup.Tree) *resctrl.Info {
	t.Helper()
	g := &hostGroups{root: "/", tree: tree}
	defer g.close()
	if _, _, err := g.Control(); err != nil {
		t.Fatal(err)
	}
	return g.Info()
}

// BenchmarkJournalTake is 1000 leases written down and on disk, and 1000 that end.
// TestRestoreClosesCgroups: those of a task that cannot be watched are closed with the others.
func TestRestoreClosesCgroups(t *testing.T) {
	hosttest.Need(t, "root")
	tree, err := cgroup.FS{}.Tree()
	if err != nil {
		t.Fatal(err)
	}
	g := &hostGroups{root: "/", tree: tree}
	c := hosttest.NewCgroup(t, nil, "act-closed")
	if _, err := g.watch([]string{c.Path, "no path"}, nil); err == nil {
		t.Fatal("a path that is none")
	}
	if len(g.cgroups) != 1 {
		t.Errorf("%d cgroups will be closed", len(g.cgroups))
	}
	g.close()
}

func BenchmarkJournalTake(b *testing.B) {
	j := openTestJournal(b, b.TempDir())
	defer j.Close()
	changes := make([]Change, 1000)
	for i := range changes {
		changes[i] = quotaChange(fmt.Sprintf("/kubepods/burstable/pod%d/container", i), "max 100000", "50000 100000")
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := j.Take(time.Now(), changes); err != nil {
			b.Fatal(err)
		}
		for i := range changes {
			j.End(changes[i].Target, EndReleased)
		}
		if err := j.Sync(); err != nil {
			b.Fatal(err)
		}
	}
}

// V1's kernel may still compare with a cgroup below that has just been removed.
func TestRestoreBesideARemoval(t *testing.T) {
	parent := hosttest.NewCgroup(t, nil, "parent")
	a := newAgentStub(t)
	if a.tree.V1("cpu") == "" {
		hosttest.Need(t, "cgroup1") // v2 takes any quota
	}
	a.set(parent, cgroup.CPUMax, "50000 100000")
	a.lease(parent, cgroup.CPUMax, "90000 100000")
	child := hosttest.NewCgroup(t, parent, "child")
	a.set(child, cgroup.CPUMax, "80000 100000")
	removed := make(chan struct{})
	time.AfterFunc(3*removalPace/2, func() { defer close(removed); child.Remove() })
	wantEnds(t, a.restore(), EndRestored)
	<-removed
	if is := getKnob(t, parent.Path, cgroup.CPUMax); is != "50000 100000" {
		t.Error(is)
	}
}

// A disk that is gone takes its limits along, and not those of the others.
func TestRestoreWithoutADisk(t *testing.T) {
	c := hosttest.NewCgroup(t, nil, "disk")
	device := modelDevice()
	if device == "" {
		t.Skip("no disk")
	}
	if _, ok := listIOMax(t, c); !ok {
		t.Skip("no limits of disks")
	}
	line := func(device, rbps string) string { return device + " rbps=" + rbps + " wbps=max riops=max wiops=max" }
	a := newAgentStub(t)
	a.set(c, cgroup.IOMaxLimits, line(device, "5000000"))
	a.lease(c, cgroup.IOMaxLimits, line(device, "1000000"))
	first := line(device, "5000000") + "\n" + line("511:1048575", "7000000")
	for _, l := range a.Leases() {
		l.First = first
		if err := a.record(record{Lease: l}); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Sync(); err != nil {
		t.Fatal(err)
	}
	wantEnds(t, a.restore(), EndRestored)
	if is := getKnob(t, c.Path, cgroup.IOMaxLimits); is != line(device, "5000000") {
		t.Error(is)
	}
}

func listIOMax(t *testing.T, c *hosttest.Cgroup) (value string, ok bool) {
	t.Helper()
	tree, err := cgroup.FS{Root: "/"}.Tree()
	if err != nil {
		t.Fatal(err)
	}
	control, err := tree.Control(c.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	value, err = control.Get(cgroup.IOMaxLimits)
	return value, err == nil
}

// V1: a cpuset that moved in several steps, with one below it, has to come back in one.
func TestRestoreMovedCpusets(t *testing.T) {
	hosttest.Need(t, "smp")
	parent := hosttest.NewCgroup(t, nil, "parent")
	child := hosttest.NewCgroup(t, parent, "child")
	a := newAgentStub(t)
	if a.tree.V1("cpuset") == "" {
		hosttest.Need(t, "cgroup1") // v2 takes any list
	}
	a.set(child, cgroup.CPUSetCPUList, "0")
	a.set(parent, cgroup.CPUSetCPUList, "0")
	for _, list := range []string{"0-1", "1"} {
		order := []*hosttest.Cgroup{parent, child}
		if list == "1" {
			slices.Reverse(order)
		}
		for _, c := range order {
			a.lease(c, cgroup.CPUSetCPUList, list)
		}
	}
	wantEnds(t, a.restore(), EndRestored, EndRestored)
	for _, c := range []*hosttest.Cgroup{parent, child} {
		if is := getKnob(t, c.Path, cgroup.CPUSetCPUList); is != "0" {
			t.Error(is)
		}
	}
}
