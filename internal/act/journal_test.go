package act

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/hosttest"
	"github.com/owca-project/owca/internal/resctrl"
)

var journalNow = time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC)

func openTestJournal(t testing.TB, dir string) *Journal {
	t.Helper()
	j, told, err := OpenJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(told) > 0 {
		t.Errorf("told %q", told)
	}
	return j
}

// quotaChange is one of a cgroup's cpu.max.
func quotaChange(path, old, to string) Change {
	return Change{
		Target: Target{Cgroup: path, Knob: cgroup.CPUMax}, ID: "1 2", For: owca.TaskID(path),
		Kind: owca.CPUQuota, Owner: "static", Reason: "rule 1", Old: old, New: to,
	}
}

// crash ends the use of a journal as the end of its process does.
func (j *Journal) crash() {
	if j.file != nil {
		_ = j.file.Close()
	}
	_ = j.lock.Close()
}

func take(t testing.TB, j *Journal, changes ...Change) {
	t.Helper()
	if err := j.Take(journalNow, changes); err != nil {
		t.Fatal(err)
	}
}

func TestJournalKeepsFirst(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "var", "owca")
	j := openTestJournal(t, dir)
	take(t, j, quotaChange("/a", "max 100000", "50000 100000"), quotaChange("/b", "max 100000", "1000 100000"))
	take(t, j, quotaChange("/a", "50000 100000", "20000 100000"))
	j.End(Target{Cgroup: "/b", Knob: cgroup.CPUMax}, EndForeign)
	j.Effect(Target{Cgroup: "/a", Knob: cgroup.CPUMax}, "20000 50000")
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	j.crash()

	j = openTestJournal(t, dir)
	want := quotaChange("/a", "50000 100000", "20000 50000")
	if diff := cmp.Diff([]*Lease{{Seq: 1, Change: want, First: "max 100000", Since: journalNow, Last: journalNow}}, j.Leases()); diff != "" {
		t.Error(diff)
	}
	take(t, j, quotaChange("/c", "max 100000", "1000 100000"))
	if l := j.Lease(Target{Cgroup: "/c", Knob: cgroup.CPUMax}); l.Seq != 3 {
		t.Errorf("after 1 and 2 comes %d", l.Seq)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]fs.FileMode{".": 0o700 | fs.ModeDir, journalFile: 0o600, lockFile: 0o600} {
		st, err := os.Stat(filepath.Join(dir, name))
		if err != nil || st.Mode() != mode {
			t.Errorf("%s: %v, %v; want %v", name, st.Mode(), err, mode)
		}
	}
}

func TestJournalWithoutLeasesIsRemoved(t *testing.T) {
	dir := t.TempDir()
	j := openTestJournal(t, dir)
	take(t, j, quotaChange("/a", "max 100000", "50000 100000"))
	j.End(quotaChange("/a", "", "").Target, EndReleased)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, journalFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestJournalDrop(t *testing.T) {
	dir := t.TempDir()
	j := openTestJournal(t, dir)
	group := Target{Group: "owca-gold"}
	set := func(kind resctrl.ChangeKind, s resctrl.Schemata) Change {
		return Change{Target: group, Kind: owca.RDTGroup, Resctrl: &resctrl.Change{Kind: kind, Group: group.Group, New: s}}
	}
	take(t, j, quotaChange("/a", "max 100000", "50000 100000"))
	take(t, j, quotaChange("/a", "50000 100000", "20000 100000"), quotaChange("/b", "max 100000", "50000 100000"),
		set(resctrl.CreateGroup, nil), set(resctrl.SetSchemata, testMask(0xf)))
	for _, l := range j.Leases() {
		j.Drop(l.Target)
		j.Drop(Target{Cgroup: "/unknown"})
	}
	want := []*Lease{
		{Seq: 1, Change: quotaChange("/a", "max 100000", "50000 100000"), First: "max 100000", Since: journalNow, Last: journalNow},
		{Seq: 3, Change: set(resctrl.CreateGroup, nil), Since: journalNow, Last: journalNow}, // only that it was set is taken back
	}
	if diff := cmp.Diff(want, j.Leases()); diff != "" {
		t.Error(diff)
	}
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	j.crash()
	j = openTestJournal(t, dir)
	defer j.Close()
	if diff := cmp.Diff(want, j.Leases()); diff != "" {
		t.Error(diff)
	}
}

func testMask(v uint64) resctrl.Schemata {
	return resctrl.Schemata{{Resource: "L3", Kind: resctrl.Mask, Domains: []resctrl.DomainValue{{ID: 0, Value: v}, {ID: 1, Value: v}}}}
}

func TestJournalMergesResctrl(t *testing.T) {
	j := openTestJournal(t, t.TempDir())
	defer j.Close()
	resctrlChange := func(target Target, c resctrl.Change) Change {
		return Change{Target: target, Kind: owca.RDTGroup, Resctrl: &c}
	}
	gold, ours, task := Target{Group: "gold"}, Target{Group: "owca-a"}, Target{Task: "t"}
	zero := testMask(1)
	zero[0].Domains = zero[0].Domains[:1]
	take(t, j,
		resctrlChange(gold, resctrl.Change{Kind: resctrl.SetSchemata, Group: "gold", Old: testMask(0xff), New: testMask(0xf)}),
		resctrlChange(ours, resctrl.Change{Kind: resctrl.CreateGroup, Group: "owca-a"}),
		resctrlChange(task, resctrl.Change{Kind: resctrl.MoveTask, Group: "gold", Task: "t"}),
	)
	given := resctrl.Change{Kind: resctrl.SetSchemata, Group: "gold", Old: testMask(0xf), New: zero}
	take(t, j,
		resctrlChange(gold, given),
		resctrlChange(ours, resctrl.Change{Kind: resctrl.SetSchemata, Group: "owca-a", New: testMask(3)}),
		resctrlChange(task, resctrl.Change{Kind: resctrl.MoveTask, Group: "owca-a", Task: "t", From: "gold"}),
		resctrlChange(Target{Group: "owca-old"}, resctrl.Change{Kind: resctrl.RemoveGroup, Group: "owca-old"}),
	)
	merged := testMask(0xf)
	merged[0].Domains[0].Value = 1
	for target, want := range map[Target]*resctrl.Change{
		gold: {Kind: resctrl.SetSchemata, Group: "gold", Old: testMask(0xff), New: merged},
		ours: {Kind: resctrl.CreateGroup, Group: "owca-a", New: testMask(3)},
		task: {Kind: resctrl.MoveTask, Group: "owca-a", Task: "t"},
	} {
		if diff := cmp.Diff(want, j.Lease(target).Resctrl); diff != "" {
			t.Errorf("%+v: %s", target, diff)
		}
	}
	if diff := cmp.Diff(testMask(0xf), j.Lease(gold).Before.New); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(testMask(0xf), given.Old); diff != "" {
		t.Errorf("the change that was given is another now: %s", diff)
	}
	if n := len(j.Leases()); n != 3 {
		t.Errorf("%d leases: to remove a group takes none", n)
	}
}

func TestJournalOfAnotherCgroupByThePath(t *testing.T) {
	j := openTestJournal(t, t.TempDir())
	defer j.Close()
	c := quotaChange("/a", "max 100000", "50000 100000")
	take(t, j, c)
	c.ID, c.Old = "3 4", "30000 100000"
	take(t, j, c)
	if l := j.Lease(c.Target); l.First != c.Old || l.Seq != 2 || len(j.Leases()) != 1 {
		t.Errorf("%+v", l)
	}
}

func TestJournalReleaseWithoutLease(t *testing.T) {
	j := openTestJournal(t, t.TempDir())
	defer j.Close()
	release := quotaChange("/b", "1 1", "2 2")
	release.Release = true
	if err := j.Take(journalNow, []Change{quotaChange("/a", "1 1", "2 2"), release}); err == nil {
		t.Error("no error")
	}
	if l := j.Leases(); len(l) > 0 {
		t.Errorf("leased: %v", l)
	}
}

func TestJournalNames(t *testing.T) {
	dir := t.TempDir()
	j := openTestJournal(t, dir)
	for i, name := range []string{"/a\xff\xfeb", "/\x00\x00ÿ", "/ü\ufffd\u2028\"\n", "/\xc3", "/\x00é"} {
		c := quotaChange(name, "max 100000", "50000 100000")
		c.Reason, c.Owner = name, name
		c.Cgroups = []string{name}
		if i == 1 {
			c.Target = Target{Task: owca.TaskID(name)}
			c.Resctrl = &resctrl.Change{Kind: resctrl.MoveTask, Task: name, Group: name, From: name}
		}
		take(t, j, c)
	}
	want := j.Leases()
	j.crash()
	j = openTestJournal(t, dir)
	defer j.Close()
	if diff := cmp.Diff(want, j.Leases()); diff != "" {
		t.Error(diff)
	}
}

// TestJournalModel does anything, compares with a model of what is leased, and cuts off
// what was written at every byte.
func TestJournalModel(t *testing.T) {
	for seed := range uint64(fewerInVM(8)) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { journalModel(t, rand.New(rand.NewPCG(seed, 5))) })
	}
}

// leaseModel is the leases at one time.
type leaseModel map[Target]Lease

func (j *Journal) model() leaseModel {
	m := leaseModel{}
	for t, l := range j.leases {
		m[t] = *l
	}
	return m
}

func journalModel(t *testing.T, random *rand.Rand) {
	dir := t.TempDir()
	file := filepath.Join(dir, journalFile)
	j := openTestJournal(t, dir)
	defer func() { j.crash() }()
	var (
		model   = leaseModel{}
		taken   []Change           // of the last Take
		before  leaseModel         // it
		history = []leaseModel{{}} // since the last write
		seq     uint64
	)
	path := func() string { return fmt.Sprintf("/%c", 'a'+random.IntN(6)) }
	for range 150 {
		var size int64
		if st, err := os.Stat(file); err == nil {
			size = st.Size()
		}
		wrote := false
		switch random.IntN(10) {
		default:
			taken, before = nil, maps.Clone(model)
			for _, i := range random.Perm(6)[:1+random.IntN(5)] {
				p := fmt.Sprintf("/%c", 'a'+i)
				old := "max 100000"
				if l, ok := model[Target{Cgroup: p}]; ok {
					old = l.New
				}
				taken = append(taken, quotaChange(p, old, fmt.Sprintf("%d 100000", 1000+random.IntN(9000))))
			}
			for _, c := range taken {
				l, ok := model[c.Target]
				if !ok {
					seq++
					l = Lease{Seq: seq, First: c.Old, Since: journalNow}
				}
				l.Change, l.Last = c, journalNow
				model[c.Target] = l
			}
			take(t, j, taken...)
			wrote = true
		case 5:
			if i := random.IntN(len(taken) + 1); i < len(taken) {
				target := taken[i].Target
				j.Drop(target)
				if _, ok := model[target]; ok {
					delete(model, target)
					if l, ok := before[target]; ok {
						model[target] = l
					}
				}
				taken = slices.Delete(taken, i, i+1)
			}
		case 6:
			target := Target{Cgroup: path()}
			j.End(target, EndReleased)
			delete(model, target)
		case 7:
			target := Target{Cgroup: path()}
			j.Effect(target, "4711 100000")
			if l, ok := model[target]; ok && l.New != "4711 100000" {
				l.New = "4711 100000"
				model[target] = l
				wrote = true
			}
		case 8:
			if err := j.Sync(); err != nil {
				t.Fatal(err)
			}
			wrote = true
		case 9:
			j.crash()
			wrote = true
			// Anything from what is on disk to what was written last may be there.
			j = openTestJournal(t, dir)
			data, err := os.ReadFile(file)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			checkCut(t, data, int64(len(data)), history)
			model, taken, seq = j.model(), nil, j.seq
			history = []leaseModel{model}
		}
		if diff := cmp.Diff(model, j.model()); diff != "" {
			t.Fatal(diff)
		}
		history = append(history, maps.Clone(model))
		if !wrote {
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			continue // nothing was to be written so far
		}
		if int64(len(data)) > size {
			checkCut(t, data, size, history)
		}
		history = history[len(history)-1:]
	}
}

// checkCut reads what data is up to each byte from size on: each lease is as it was
// at one time of the history.
func checkCut(t *testing.T, data []byte, size int64, history []leaseModel) {
	t.Helper()
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	header := bytes.IndexByte(data, '\n') + 1
	for cut := max(size, 1); cut <= int64(len(data)); cut++ {
		// Within a line only the end of what is before it matters, which is read at that line's end.
		text := data[:cut]
		if start := bytes.LastIndexByte(text, '\n') + 1; start > header && start < int(cut) {
			text = slices.Concat(data[:header], data[start:cut])
		}
		s, err := parseJournal(text, boot)
		if err != nil || s.damaged > 0 || (s.cut > 0) != (data[cut-1] != '\n') {
			t.Fatalf("%q: %+v, %v", text, s, err)
		}
		if s.cut > 0 {
			if len(s.leases) > 0 {
				t.Fatalf("%q: what was cut off is leased", text)
			}
			continue
		}
		got := leaseModel{}
		for _, l := range s.leases {
			got[l.Target] = *l
		}
		if size == 0 {
			// A file is made with all its leases before it has the name.
			continue
		}
		for _, target := range slices.Concat(slices.Collect(maps.Keys(got)), slices.Collect(maps.Keys(history[0]))) {
			is, ok := got[target]
			if !slices.ContainsFunc(history, func(m leaseModel) bool {
				was, leased := m[target]
				return ok == leased && cmp.Equal(is, was)
			}) {
				t.Fatalf("cut off at %d of %d: %v: %+v was never leased", cut, len(data), target, is)
			}
		}
	}
}

func TestJournalFlippedBits(t *testing.T) {
	dir := t.TempDir()
	j := openTestJournal(t, dir)
	for i := range 4 {
		take(t, j, quotaChange(fmt.Sprintf("/%d", i), "max 100000", "50000 100000"))
	}
	want := j.model()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, journalFile))
	if err != nil {
		t.Fatal(err)
	}
	for i := range data {
		flipped := bytes.Clone(data)
		flipped[i] ^= 1 << (i % 8)
		s, err := parseJournal(flipped, j.boot)
		if err != nil {
			t.Fatalf("byte %d: %v", i, err)
		}
		if s.damaged == 0 && s.cut == 0 {
			t.Errorf("byte %d: nobody noticed", i)
		}
		if len(s.leases) < len(want)-2 || i < bytes.IndexByte(data, '\n') && len(s.leases) != len(want) {
			t.Errorf("byte %d: %d leases are left of %d", i, len(s.leases), len(want))
		}
		for _, l := range s.leases {
			if diff := cmp.Diff(want[l.Target], *l); diff != "" {
				t.Errorf("byte %d: %s", i, diff)
			}
		}
	}
}

func TestJournalDamagedIsKept(t *testing.T) {
	dir := t.TempDir()
	j := openTestJournal(t, dir)
	for _, p := range []string{"/a", "/b", "/c"} {
		take(t, j, quotaChange(p, "max 100000", "50000 100000"))
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, journalFile)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data = bytes.Replace(data, []byte(`"/b"`), []byte(`"/x"`), 1)
	data = append(data, `12345678 {"Lease":`...)
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	j, told, err := OpenJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(told, "\n"); len(told) != 3 || !strings.Contains(text, "line") || !strings.Contains(text, "the first one is 3") || !strings.Contains(text, "cut off") {
		t.Errorf("told %q", told)
	}
	if n := len(j.Leases()); n != 2 {
		t.Errorf("%d leases", n)
	}
	take(t, j, quotaChange("/d", "max 100000", "50000 100000"))
	j.crash()
	j = openTestJournal(t, dir)
	defer j.Close()
	if n := len(j.Leases()); n != 3 {
		t.Errorf("%d leases", n)
	}
	if kept, err := os.ReadFile(filepath.Join(dir, journalDamaged)); err != nil || !bytes.Equal(kept, data) {
		t.Errorf("%q, %v", kept, err)
	}
}

func TestJournalOfAnotherBoot(t *testing.T) {
	dir := t.TempDir()
	c := quotaChange("/a", "max 100000", "50000 100000")
	l := Lease{Seq: 7, Change: c, First: c.Old}
	data, err := appendRecord(journalHeader("another"), "another", &record{Lease: &l})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, journalFile)
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	leases, _, told, err := ReadJournal(dir)
	if err != nil || len(leases) != 0 || len(told) != 1 || !strings.Contains(told[0], "1 leases of an earlier boot are void") {
		t.Errorf("%v, %q, %v", leases, told, err)
	}
	// Without its first line, it can still not be taken for one of this boot.
	damaged := bytes.Replace(data, []byte(journalMagic), []byte("nonsense"), 1)
	s, err := parseJournal(damaged, "this")
	if err != nil || len(s.leases) != 0 || s.damaged != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	// It is no trouble that an agent would have to warn of.
	j, told, err := OpenJournal(dir)
	if err != nil || len(told) > 0 || j.void != 1 {
		t.Fatalf("%q, %v", told, err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestJournalOfALaterVersion(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, journalFile)
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	later := func(boot string) []byte {
		line := bytes.Replace(journalHeader(boot), []byte(" 1 "), []byte(" 2 "), 1)
		line = line[:bytes.LastIndexByte(line, ' ')+1]
		return fmt.Appendf(line, "%08x\nwhatever it has\n", recordSum("", line))
	}
	if s, err := parseJournal(later("another"), boot); err != nil || len(s.leases) > 0 || s.damaged > 0 {
		t.Errorf("of another boot: %+v, %v", s, err)
	}
	data := later(boot)
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err = OpenJournal(dir)
	if !errors.Is(err, ErrNewer) || !strings.Contains(fmt.Sprint(err), "owca restore") {
		t.Error(err)
	}
	if _, _, _, err := ReadJournal(dir); !errors.Is(err, ErrNewer) {
		t.Error(err)
	}
	if _, _, err := Restore(t.Context(), "/", dir); !errors.Is(err, ErrNewer) {
		t.Error(err)
	}
	if is, err := os.ReadFile(file); err != nil || !bytes.Equal(is, data) {
		t.Errorf("%q, %v", is, err)
	}
}

func TestJournalCompacts(t *testing.T) {
	dir := t.TempDir()
	j := openTestJournal(t, dir)
	size := int64(0)
	for i := range 3000 {
		c := quotaChange(fmt.Sprintf("/%d", i%3), "max 100000", "50000 100000")
		if i%7 == 0 {
			j.End(c.Target, EndForeign)
		}
		j.Effect(c.Target, fmt.Sprintf("%d 100000", i))
		if i%10 == 0 {
			take(t, j, c)
		}
		if err := j.Sync(); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(filepath.Join(dir, journalFile))
		if err != nil {
			t.Fatal(err)
		}
		size = max(size, st.Size())
	}
	if size > 300<<10 {
		t.Errorf("it grew to %d bytes", size)
	}
	want := j.model()
	j.crash()
	j = openTestJournal(t, dir)
	defer j.Close()
	if diff := cmp.Diff(want, j.model()); diff != "" {
		t.Error(diff)
	}
}

// TestJournalIsRemovedMeanwhile: what a guardian could not find would be lost.
func TestJournalIsRemovedMeanwhile(t *testing.T) {
	dir := t.TempDir()
	j := openTestJournal(t, dir)
	take(t, j, quotaChange("/a", "max 100000", "50000 100000"))
	if err := os.Remove(filepath.Join(dir, journalFile)); err != nil {
		t.Fatal(err)
	}
	take(t, j, quotaChange("/b", "max 100000", "50000 100000"))
	j.crash()
	j = openTestJournal(t, dir)
	defer j.Close()
	if n := len(j.Leases()); n != 2 {
		t.Errorf("%d leases", n)
	}
}

func TestJournalSteadyState(t *testing.T) {
	j := openTestJournal(t, t.TempDir())
	defer j.Close()
	c := quotaChange("/a", "max 100000", "50000 100000")
	take(t, j, c)
	if n := testing.AllocsPerRun(100, func() {
		if j.Lease(c.Target) == nil || j.Sync() != nil {
			t.Error("no lease")
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestJournalIsReadMeanwhile: what a reader sees is always whole.
func TestJournalIsReadMeanwhile(t *testing.T) {
	dir := t.TempDir()
	j := openTestJournal(t, dir)
	defer j.Close()
	take(t, j, quotaChange("/0", "max 100000", "1 100000"))
	done := make(chan error, 1)
	stop := make(chan struct{})
	go func() {
		last := -1
		for {
			leases, holder, told, err := ReadJournal(dir)
			switch {
			case err != nil || len(told) > 0 || len(leases) == 0 || holder.PID != os.Getpid():
				done <- fmt.Errorf("%d leases, %+v, told %q: %w", len(leases), holder, told, err)
				return
			case len(leases) < last:
				done <- fmt.Errorf("%d leases after %d", len(leases), last)
				return
			}
			last = len(leases)
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
		}
	}()
	for i := range 1500 {
		j.Effect(Target{Cgroup: "/0"}, fmt.Sprint(i))
		if i%20 == 0 {
			take(t, j, quotaChange(fmt.Sprintf("/%d", i), "max 100000", "1 100000"))
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestLockNamesItsHolder(t *testing.T) {
	dir := t.TempDir()
	end := startHolder(t, dir)
	_, holder, _, err := ReadJournal(dir)
	if err != nil || holder.PID <= 0 || time.Since(holder.Since).Abs() > time.Hour || holder.Elsewhere || holder.Restoring {
		t.Errorf("%+v, %v", holder, err)
	}

	_, _, err = OpenJournal(dir)
	if !errors.Is(err, ErrHeld) {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprintf("process %d (", holder.PID), filepath.Base(os.Args[0]), "since 20", dir} {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%q does not say %q", err, text)
		}
	}
	// A content that tells nothing, and one from elsewhere.
	lock := filepath.Join(dir, lockFile)
	for content, text := range map[string]string{
		"":                                      "a process that cannot be told",
		"agent x y z":                           "a process that cannot be told",
		"agent -1 - - -":                        "a process that cannot be told",
		"agent 0 - 2026-01-0":                   "a process that cannot be told",
		"agent 12 pid:[1] 2026-01-02T03:04:05Z": "process 12 of another PID namespace (a container?), since 2026-01-02T03:04:05Z",
	} {
		if err := os.WriteFile(lock, []byte(content), 0); err != nil {
			t.Fatal(err)
		}
		if _, _, err := OpenJournal(dir); !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", content, err)
		}
	}

	end()
	if _, holder, _, err := ReadJournal(dir); err != nil || holder != (Holder{}) || holder.String() != "nobody" {
		t.Errorf("%+v, %v", holder, err)
	}
	j := openTestJournal(t, dir)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// startHolder starts a process that has the journal until it is told to end.
func startHolder(t *testing.T, dir string) (end func()) {
	t.Helper()
	cmd := child(t, "hold", dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		_ = in.Close() // it ends with it
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(end)
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return end
}

// childHold holds the journal in args[0] until its input ends.
func childHold(args []string) error {
	j, _, err := OpenJournal(args[0])
	if err != nil {
		return err
	}
	fmt.Println("held")
	_, _ = io.Copy(io.Discard, os.Stdin) // until it ends
	return j.Close()
}

func TestStateDir(t *testing.T) {
	hosttest.Need(t, "root")
	base := t.TempDir()
	file := filepath.Join(base, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open, theirs := filepath.Join(base, "open"), filepath.Join(base, "theirs")
	group, ours := filepath.Join(base, "group"), filepath.Join(base, "ours")
	for _, dir := range []string{open, theirs, group, ours} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chmod(open, 0o1777), os.Chown(theirs, 4711, 4711),
		os.Chown(group, 0, 4711), os.Chmod(group, 0o770), os.Chown(ours, 0, os.Getegid()), os.Chmod(ours, 0o770)); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		dir  string
		is   error
		text string
	}{
		{file, syscall.ENOTDIR, "set state_dir to a directory"},
		{filepath.Join(file, "below"), syscall.ENOTDIR, "set state_dir to a directory"},
		{"/proc/owca", fs.ErrNotExist, "/proc/owca"},
		{open, fs.ErrPermission, "chmod o-w"},
		{theirs, fs.ErrPermission, "user 4711"},
		{group, fs.ErrPermission, "group 4711 may write there"},
	} {
		if _, _, err := OpenJournal(test.dir); !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: %v", test.dir, err)
		}
	}
	if err := openTestJournal(t, ours).Close(); err != nil {
		t.Error(err)
	}
	if outcomes, told, err := Restore(t.Context(), "/", filepath.Join(base, "none")); err != nil || outcomes != nil || told != nil {
		t.Errorf("%v, %q, %v", outcomes, told, err)
	}
	if _, err := os.Stat(filepath.Join(base, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("restore makes the directory: %v", err)
	}
	if leases, holder, _, err := ReadJournal(filepath.Join(base, "none")); err != nil || leases != nil || holder.PID != 0 {
		t.Errorf("%v, %v, %v", leases, holder, err)
	}
}

// TestJournalFullDisk is in mount namespaces of its own.
func TestJournalFullDisk(t *testing.T) {
	hosttest.Need(t, "root")
	cmd := child(t, "full", t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if err := cmd.Run(); err != nil {
		t.Error(err)
	}
}

// childFullDisk fills a small file system, and makes it read-only.
func childFullDisk(args []string) error {
	dir := args[0]
	if err := syscall.Mount("owca-test", dir, "tmpfs", 0, "size=64k,mode=700"); err != nil {
		return err
	}
	j, _, err := OpenJournal(dir)
	if err != nil {
		return err
	}
	a, b := quotaChange("/owca-test-none", "max 100000", "50000 100000"), quotaChange("/b", "max 100000", "50000 100000")
	if err := j.Take(journalNow, []Change{a}); err != nil {
		return err
	}
	fill, err := os.Create(filepath.Join(dir, "fill"))
	if err != nil {
		return err
	}
	if _, err := fill.Write(make([]byte, 1<<20)); !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("a full disk: %w", err)
	}
	// What was there may have room in its block for some more.
	var full error
	changes := []Change{b}
	for full == nil {
		b.Reason += strings.Repeat("x", 1000)
		changes = append(changes, b)
		if full = j.Take(journalNow, changes); full == nil && len(b.Reason) > 1<<20 {
			return errors.New("the disk is never full")
		}
	}
	if !errors.Is(full, syscall.ENOSPC) || !strings.Contains(full.Error(), "free some") {
		return fmt.Errorf("no room: %w", full)
	}
	before := j.model()
	if err := j.Take(journalNow, []Change{quotaChange("/c", "1 1", strings.Repeat("x", 9000))}); !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("no room: %w", err)
	}
	if diff := cmp.Diff(before, j.model()); diff != "" {
		return errors.New(diff)
	}
	if err := j.Sync(); !errors.Is(err, syscall.ENOSPC) { // it does not work again
		return fmt.Errorf("sync of nothing: %w", err)
	}
	j.Effect(a.Target, strings.Repeat("9", 9000))
	if err := j.Sync(); !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("sync: %w", err)
	}
	if err := j.Sync(); !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("another sync: %w", err)
	}
	if err := fill.Truncate(0); err != nil {
		return err
	}
	if err := j.Sync(); err != nil {
		return err
	}
	before = j.model()
	j.crash()
	if j, _, err = OpenJournal(dir); err != nil {
		return err
	}
	if diff := cmp.Diff(before, j.model()); diff != "" {
		return errors.New(diff)
	}
	j.End(b.Target, EndReleased)
	if err := j.Sync(); err != nil {
		return err
	}
	j.crash()

	// Full again: there is an agent, and restore works.
	if _, err := fill.WriteAt(make([]byte, 1<<20), 0); !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("a full disk: %w", err)
	}
	if j, _, err = OpenJournal(dir); err != nil {
		return err
	}
	if err := j.Take(journalNow, []Change{b}); !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("no room: %w", err)
	}
	j.crash()
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err == nil {
		return errors.New("it can be made read-only while it is written to")
	}
	if err := fill.Close(); err != nil {
		return err
	}
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		return err
	}
	if _, _, err := OpenJournal(dir); !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), "set state_dir") {
		return fmt.Errorf("read-only: %w", err)
	}
	for range 2 {
		outcomes, told, err := Restore(context.Background(), "/", dir)
		if err != nil || len(outcomes) != 1 || outcomes[0].How != EndGone || !strings.Contains(strings.Join(told, "\n"), "read-only") {
			return fmt.Errorf("restore: %v, %q, %w", outcomes, told, err)
		}
	}
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT, ""); err != nil {
		return err
	}
	outcomes, told, err := Restore(context.Background(), "/", dir)
	if err != nil || len(outcomes) != 1 || len(told) > 0 {
		return fmt.Errorf("restore: %v, %q, %w", outcomes, told, err)
	}
	return syscall.Unmount(dir, 0)
}

func FuzzJournal(f *testing.F) {
	const boot = "boot"
	header := journalHeader(boot)
	f.Add(header)
	f.Add([]byte("owca-leases 2 boot v9 00000000\n"))
	lease := Lease{Seq: 3, Change: quotaChange("/a\xff", "max 100000", "50000 100000"), First: "max 100000"}
	line, err := appendRecord(header, boot, &record{Lease: &lease})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(line)
	f.Add(line[:len(line)-5])
	group := Lease{Seq: 9, Change: Change{Target: Target{Group: "gold"}, Resctrl: &resctrl.Change{Kind: resctrl.SetSchemata, Group: "gold", New: testMask(3)}}}
	if line, err = appendRecord(line, boot, &record{Lease: &group}); err != nil {
		f.Fatal(err)
	}
	if line, err = appendRecord(line, boot, &record{Seq: 3, End: EndGone}); err != nil {
		f.Fatal(err)
	}
	f.Add(line)
	f.Add(bytes.Replace(line, []byte("gold"), []byte("lead"), 1))
	f.Add([]byte("\n" + `{"Lease":{"Seq":1,"Resctrl":{"New":[]}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseJournal(data, boot)
		if err != nil {
			if !errors.Is(err, ErrNewer) {
				t.Error(err)
			}
			return
		}
		checkJournalState(t, s, boot)
		// With sums that are right, the records are what is parsed.
		var signed []byte
		for i, text := range bytes.Split(data, []byte("\n")) {
			if i == 0 {
				signed = append(signed, header...)
				continue
			}
			signed = fmt.Appendf(signed, "%08x %s\n", recordSum(boot, text), text)
		}
		if s, err = parseJournal(signed, boot); err != nil {
			t.Fatal(err)
		}
		checkJournalState(t, s, boot)
	})
}

// checkJournalState: leases are valid and of one target each, and the same when they
// were written down and read again.
func checkJournalState(t *testing.T, s *journalState, boot string) {
	t.Helper()
	targets := map[Target]bool{}
	again := journalHeader(boot)
	for _, l := range s.sorted() {
		if targets[l.Target] || !l.valid() || l.Seq > s.seq {
			t.Errorf("%+v", l)
		}
		targets[l.Target] = true
		var err error
		if again, err = appendRecord(again, boot, &record{Lease: l}); err != nil {
			t.Fatal(err)
		}
	}
	s2, err := parseJournal(again, boot)
	if err != nil || s2.damaged > 0 || s2.cut > 0 {
		t.Fatalf("%+v, %v", s2, err)
	}
	// A list without elements in a journal that was not written by appendRecord is left out.
	if diff := cmp.Diff(s.leases, s2.leases, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
}

// FuzzLeaseJSON: what is written by hand is what json.Marshal would write, whatever fields a
// lease has.
func FuzzLeaseJSON(f *testing.F) {
	for i, s := range []string{"", "/kubepods/a", "a<b>&c", "\"\\\n", "é\u2028", "\xff", "~ \x7f"} {
		f.Add(s, uint64(i), int64(i)*1e9+int64(i), i%2 == 0)
	}
	f.Fuzz(func(t *testing.T, s string, n uint64, at int64, yes bool) {
		var l Lease
		var fill func(v reflect.Value)
		fill = func(v reflect.Value) {
			switch {
			case v.Type() == reflect.TypeFor[time.Time]():
				v.Set(reflect.ValueOf(time.Unix(0, at).In(time.FixedZone("", int(n%86400)/60*60))))
			case v.Type() == reflect.TypeFor[cgroup.Knob]():
				v.SetUint(n % uint64(cgroup.NumKnobs))
			case v.Kind() == reflect.Struct:
				for i := range v.NumField() {
					fill(v.Field(i))
				}
			case v.Kind() == reflect.String:
				v.SetString(s)
			case v.Kind() == reflect.Bool:
				v.SetBool(yes)
			case v.Kind() == reflect.Uint64:
				v.SetUint(n)
			}
		}
		if fill(reflect.ValueOf(&l).Elem()); !l.isLimit() {
			return
		}
		want, err := json.Marshal(&l)
		got, err2 := l.appendJSON(nil)
		if diff := cmp.Diff(string(want), string(got)); err != nil || err2 != nil || diff != "" {
			t.Errorf("%v, %v: %s", err, err2, diff)
		}
	})
}

func FuzzJournalNames(f *testing.F) {
	f.Add("/a\x00\xff")
	f.Add("\x00ÿ\x00\x00")
	f.Fuzz(func(t *testing.T, s string) {
		if got := unescape(escape(s)); got != s {
			t.Errorf("%q is %q", s, got)
		}
	})
}
