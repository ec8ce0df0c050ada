package act

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/hosttest"
)

// The model of the actor is one sentence: a limit is what somebody else wrote last, except
// for as long as it is leased. So each knob of each cgroup has a base, which is the value that the
// cgroup began with or the last foreign one; and once an agent has ended, in whatever
// way, every knob holds its base. Random sequences of decisions, foreign writes, vanishing
// and recreated cgroups, ends, crashes and restarts are played on real cgroups against that.
//
// While it runs, two more things are checked after each tick: a foreign value stays until its
// allocator decides another one, and what was decided is in effect where nothing is in its way.

// modelDir makes the directories of one cgroup, in the hierarchies that have limits.
type modelDirs []string

func newModelDirs(t testing.TB, parent *hosttest.Cgroup) modelDirs {
	var dirs modelDirs
	for _, controller := range []string{"cpu", "cpuset", "memory", "blkio", "unified"} {
		dir := parent.Dir(controller)
		if dir == "" || slices.Contains(dirs, dir) {
			continue
		}
		dirs = append(dirs, dir)
		if controller == "unified" {
			modelEnable(t, dir)
		}
	}
	return dirs
}

// modelEnable hands all controllers there are to the children of a v2 cgroup, which is the test's.
func modelEnable(t testing.TB, dir string) {
	t.Helper()
	available, err := os.ReadFile(dir + "/cgroup.controllers")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range strings.Fields(string(available)) {
		if err := os.WriteFile(dir+"/cgroup.subtree_control", []byte("+"+c), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// modelGroup is a cgroup that may or may not exist.
type modelGroup struct {
	path    string
	dirs    []string
	inner   bool // its parent is a task's cgroup, too
	control *cgroup.Control
	base    map[cgroup.Knob]string
	// yielded: somebody else changed it since it was decided, until another value is.
	yielded map[cgroup.Knob]bool
}

type modelTask struct {
	id        owca.TaskID
	owner     string
	groups    []*modelGroup
	flat      bool // none of its cgroups is below another's
	listed    bool
	resources map[string]float64
	// resized: the orchestrator gave it other resources than those at the time of its leases, so
	// that a foreign change may be the orchestrator's.
	resized  bool
	standing map[owca.AllocationKind]owca.Allocation
	// waking: cpu.idle was decided on in this tick; its weight comes back in the next.
	waking bool
	// doubt: something was in the way of the decision.
	doubt map[owca.AllocationKind]bool
}

type model struct {
	t       testing.TB
	random  *rand.Rand
	tree    *cgroup.Tree // not the actor's
	cpus    int
	device  string // "" = none
	dir     string
	options Options
	actor   *Actor
	now     time.Time     // jumps as clocks do
	elapsed time.Duration // passes by an hour a tick, so that what failed is tried again
	groups  []*modelGroup
	tasks   []*modelTask
	unique  int // of foreign values
	ops     int
	refused int // bases that the kernel refuses now
	log     []string
}

func (m *model) note(format string, a ...any) {
	m.log = append(m.log, fmt.Sprintf(format, a...))
}

func (m *model) fatalf(format string, a ...any) {
	m.t.Helper()
	const most = 100
	m.t.Fatalf("%s\nafter %d operations, the last ones:\n  %s", fmt.Sprintf(format, a...), m.ops,
		strings.Join(m.log[max(0, len(m.log)-most):], "\n  "))
}

// modelDevice is a disk whose limits can be set, a loop device where there is no other, as in
// the VMs; "" = there is none.
func modelDevice() string {
	names, _ := filepath.Glob("/sys/block/*/dev")
	names = slices.DeleteFunc(names, func(name string) bool { return strings.Contains(name, "/loop") || strings.Contains(name, "/ram") })
	for _, name := range append(names, "/sys/block/loop0/dev") {
		if b, err := os.ReadFile(name); err == nil {
			return strings.TrimSpace(string(b))
		}
	}
	return ""
}

func (m *model) addGroup(dirs modelDirs, name string, inner bool) *modelGroup {
	g := &modelGroup{inner: inner}
	for _, dir := range dirs {
		g.dirs = append(g.dirs, dir+"/"+name)
	}
	for _, h := range hosttest.Hierarchies() {
		if rest, ok := strings.CutPrefix(g.dirs[0], h.Dir+"/"); ok && len(rest)+1 > len(g.path) {
			g.path = "/" + rest
		}
	}
	m.groups = append(m.groups, g)
	return g
}

// mkdir makes one directory of a cgroup.
func (m *model) mkdir(dir string) {
	m.t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		m.fatalf("%v", err)
	}
	// V1 only: v2's is the parent's when it is empty.
	if _, err := os.Stat(dir + "/cpuset.memory_migrate"); err != nil {
		return
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		b, err := os.ReadFile(filepath.Dir(dir) + "/" + file)
		if err == nil {
			err = os.WriteFile(dir+"/"+file, b, 0)
		}
		if err != nil {
			m.fatalf("%v", err)
		}
	}
}

// create makes a cgroup as a container runtime does: with some limits of its own.
func (m *model) create(g *modelGroup) {
	m.t.Helper()
	for _, dir := range g.dirs {
		m.mkdir(dir)
	}
	c, err := m.tree.Control(g.path)
	if err != nil {
		m.fatalf("%v", err)
	}
	g.control, g.base, g.yielded = c, make(map[cgroup.Knob]string), make(map[cgroup.Knob]bool)
	for k := range cgroup.NumKnobs {
		if m.random.IntN(2) == 0 {
			if value := m.foreignValue(g, k); value != "" {
				_ = c.Set(k, value) // what is refused is not the base
			}
		}
	}
	g.base = m.values(g)
	m.note("create %s %v", g.path, g.base)
}

// remove removes a cgroup, with those below it.
func (m *model) remove(g *modelGroup) {
	m.t.Helper()
	for _, below := range m.groups {
		if below != g && below.control != nil && strings.HasPrefix(below.path, g.path+"/") {
			m.remove(below)
		}
	}
	for _, dir := range g.dirs {
		if err := os.Remove(dir); err != nil {
			m.fatalf("%v", err)
		}
	}
	if err := g.control.Close(); err != nil {
		m.fatalf("%v", err)
	}
	g.control = nil
	m.note("remove %s", g.path)
}

// remake removes the directory that a cgroup of several hierarchies has in one of them, and
// makes it again, as managers do that make them when they need them.
func (m *model) remake(g *modelGroup) {
	m.t.Helper()
	if len(g.dirs) < 2 || slices.ContainsFunc(m.groups, func(below *modelGroup) bool {
		return below.control != nil && strings.HasPrefix(below.path, g.path+"/")
	}) {
		return
	}
	dir := g.dirs[m.random.IntN(len(g.dirs))]
	m.note("remake %s", dir)
	var inDir []cgroup.Knob
	for k := range m.values(g) {
		if strings.HasPrefix(g.control.File(k), dir+"/") {
			inDir = append(inDir, k)
			delete(g.yielded, k)
		}
	}
	for _, t := range m.tasks {
		for kind := range t.standing {
			if slices.Contains(t.groups, g) {
				t.doubt[kind] = true
			}
		}
	}
	if err := os.Remove(dir); err != nil {
		m.fatalf("%v", err)
	}
	m.reopen(g)
	if m.random.IntN(2) == 0 {
		m.tick(nil, func() {})
	}
	m.mkdir(dir)
	m.reopen(g)
	now := m.values(g)
	for _, k := range inDir {
		g.base[k] = now[k]
	}
}

func (m *model) reopen(g *modelGroup) {
	m.t.Helper()
	if err := g.control.Close(); err != nil {
		m.fatalf("%v", err)
	}
	var err error
	if g.control, err = m.tree.Control(g.path); err != nil {
		m.fatalf("%v", err)
	}
}

// values reads all knobs that a cgroup has.
func (m *model) values(g *modelGroup) map[cgroup.Knob]string {
	m.t.Helper()
	values := make(map[cgroup.Knob]string)
	for k := range cgroup.NumKnobs {
		value, err := g.control.Get(k)
		switch {
		case err == nil:
			values[k] = value
		case !errors.Is(err, errors.ErrUnsupported):
			m.fatalf("%v", err)
		}
	}
	return values
}

// foreignValue is one that the agent never writes, where there are enough of them.
func (m *model) foreignValue(g *modelGroup, k cgroup.Knob) string {
	m.unique++
	n := m.unique
	pick := func(of ...string) string { return of[m.random.IntN(len(of))] }
	switch k {
	case cgroup.CPUMax:
		return fmt.Sprintf("%d %s", 20001+2*n, pick("100000", "50000"))
	case cgroup.CPUMaxBurst:
		return fmt.Sprint(101 + 2*n)
	case cgroup.CPUSharesV1:
		return fmt.Sprint(3001 + 2*n)
	case cgroup.CPUWeightV2:
		return fmt.Sprint(1001 + 2*(n%4000))
	case cgroup.CPUIdleFlag:
		if m.random.IntN(4) > 0 {
			return ""
		}
		return pick("0", "1")
	case cgroup.CPUSetCPUList:
		return pick("0", strconv.Itoa(m.cpus-1), "0-"+strconv.Itoa(m.cpus-1))
	case cgroup.MemoryHighLimit, cgroup.MemoryLowLimit:
		return fmt.Sprint((1000 + n) * os.Getpagesize())
	case cgroup.IOWeightDefault:
		return fmt.Sprint(501 + n%400)
	case cgroup.IOMaxLimits:
		if m.device == "" {
			return ""
		}
		return fmt.Sprintf("%s rbps=%d wbps=max riops=max wiops=max", m.device, 2000001+n)
	}
	return "" // CPUSetMemList: a host may have one node only
}

// decision is a random allocation of a kind.
func (m *model) decision(kind owca.AllocationKind) owca.Allocation {
	n := float64(1 + m.random.IntN(9))
	a := owca.Allocation{Reason: fmt.Sprintf("decision %d", m.ops)}
	switch kind {
	case owca.CPUQuota:
		a.Number = n / 8 // 1.125 is no limit
	case owca.CPUShares:
		a.Number = n / 4
	case owca.CPUBurst:
		a.Number = n / 1000
	case owca.CPUIdle:
		a.Number = float64(m.random.IntN(2))
	case owca.CPUSetCPUs:
		a.Text = []string{"0", strconv.Itoa(m.cpus - 1), "0-" + strconv.Itoa(m.cpus-1)}[m.random.IntN(3)]
	case owca.CPUSetMems:
		a.Text = "0"
	case owca.MemoryHigh, owca.MemoryLow:
		a.Number = n * (1 << 20)
		if m.random.IntN(8) == 0 {
			a = owca.Allocation{Text: "max"}
		}
	case owca.IOWeight:
		a.Number = 10 * n
	case owca.IOMax:
		device := m.device
		if device == "" {
			device = "8:0"
		}
		a.IO = map[string]owca.IOLimit{device: {WriteBytes: uint64(n) << 20}}
	}
	return a
}

func modelSame(a, b owca.Allocation) bool {
	return a.Release == b.Release && a.Number == b.Number && a.Text == b.Text && maps.Equal(a.IO, b.IO)
}

func (m *model) data() []owca.TaskData {
	var tasks []owca.TaskData
	for _, t := range m.tasks {
		if !t.listed {
			continue
		}
		task := owca.TaskData{Task: owca.Task{ID: t.id, Resources: t.resources}}
		for _, g := range t.groups {
			task.Cgroups = append(task.Cgroups, g.path)
		}
		tasks = append(tasks, task)
	}
	return tasks
}

// tick is one of the loop's; between runs where detectors and allocators would.
func (m *model) tick(decided map[*modelTask]owca.Allocations, between func()) {
	m.t.Helper()
	m.now = m.now.Add(time.Duration(m.random.IntN(60)-10) * time.Second)
	m.elapsed += time.Hour
	tasks := m.data()
	m.actor.SetGroups(nil)
	m.actor.Observe(m.now, tasks)
	between()
	byOwner := make(map[string]map[owca.TaskID]owca.Allocations)
	for t, allocations := range decided {
		if byOwner[t.owner] == nil {
			byOwner[t.owner] = make(map[owca.TaskID]owca.Allocations)
		}
		byOwner[t.owner][t.id] = allocations
	}
	var list []Decided
	for _, owner := range slices.Sorted(maps.Keys(byOwner)) {
		list = append(list, Decided{Owner: owner, Allocations: byOwner[owner]})
	}
	report, err := m.actor.Apply(m.now, tasks, list)
	if err != nil {
		m.fatalf("Apply: %v", err)
	}
	for _, t := range m.tasks {
		_, t.waking = decided[t][owca.CPUIdle]
	}
	for t, allocations := range decided {
		for kind, a := range allocations {
			if before, ok := t.standing[kind]; !ok || !modelSame(before, a) {
				for _, g := range t.groups {
					for _, k := range knobsOf(kind) {
						delete(g.yielded, k)
					}
				}
				delete(t.doubt, kind)
			}
			t.standing[kind] = a
		}
	}
	for _, c := range report.Changes {
		m.note("  changed %s %s: %q → %q (release %v) %s", c.Cgroup, c.Knob, c.Old, c.New, c.Release, c.Note)
	}
	doubt := func(id owca.TaskID, kind owca.AllocationKind) {
		for _, t := range m.tasks {
			if t.id == id {
				t.doubt[kind] = true
			}
		}
	}
	for _, f := range report.Failed {
		m.note("  failed %s %s: %v", f.Cgroup, f.Knob, f.Err)
		doubt(f.For, f.Kind)
	}
	for _, r := range report.Refused {
		m.note("  refused %s %s: %s", r.Task, r.Kind, r.Reason)
		doubt(r.Task, r.Kind)
	}
	m.checkForeign()
	m.checkEffects()
	m.checkWatches()
}

// checkWatches checks that no limit is left to itself.
func (m *model) checkWatches() {
	m.t.Helper()
	for _, l := range m.actor.journal.Leases() {
		if !slices.ContainsFunc(m.actor.order, func(s *standing) bool {
			return slices.ContainsFunc(s.watches, func(w watch) bool { return w.lease == l })
		}) {
			m.fatalf("nobody watches the lease of %s %s, of task %s, %s", l.Cgroup, l.Knob, l.For, l.Kind)
		}
	}
}

// checkForeign checks that nothing is fought over.
func (m *model) checkForeign() {
	m.t.Helper()
	for _, g := range m.groups {
		if g.control == nil {
			continue
		}
		values := m.values(g)
		for k := range g.yielded {
			if values[cgroup.CPUIdleFlag] == "1" && (k == cgroup.CPUSharesV1 || k == cgroup.CPUWeightV2) {
				continue // no weight is to be seen
			}
			if !k.Equal(values[k], g.base[k]) {
				m.fatalf("%s %s: somebody else's %q became %q", g.path, k, g.base[k], values[k])
			}
		}
	}
}

// checkEffects checks that decisions are in effect.
func (m *model) checkEffects() {
	m.t.Helper()
	for _, t := range m.tasks {
		if !t.listed || !t.flat {
			continue
		}
		for kind, a := range t.standing {
			if a.Release || t.doubt[kind] || kind == owca.CPUShares && t.waking || slices.ContainsFunc(t.groups, func(g *modelGroup) bool {
				return g.control == nil || slices.ContainsFunc(knobsOf(kind), func(k cgroup.Knob) bool { return g.yielded[k] })
			}) {
				continue
			}
			got, ok := m.effect(t, kind)
			if !ok {
				m.fatalf("task %s: %s was neither refused nor did it fail, but there is no such limit", t.id, kind)
			}
			if got.Text == "skip" {
				continue
			}
			// A quota has whole µs, and one step of v2's weights is 26 of v1's.
			tolerance := 0.001
			if kind == owca.CPUShares {
				tolerance = 0.03
			}
			want := a.Number
			if kind == owca.CPUQuota {
				want = min(want, 1)
			}
			if math.Abs(got.Number-want) > tolerance || kind == owca.CPUSetCPUs && !cgroup.CPUSetCPUList.Equal(got.Text, a.Text) {
				m.fatalf("task %s: %s is %v %q, decided was %v %q", t.id, kind, got.Number, got.Text, a.Number, a.Text)
			}
		}
	}
}

// effect is what a task really has of a kind; Text "skip" if that is not compared.
func (m *model) effect(t *modelTask, kind owca.AllocationKind) (owca.Allocation, bool) {
	switch kind {
	case owca.CPUQuota, owca.CPUShares, owca.CPUIdle, owca.CPUSetCPUs:
	default:
		return owca.Allocation{Text: "skip"}, true
	}
	var sum owca.Allocation
	for i, g := range t.groups {
		values := m.values(g)
		if kind == owca.CPUShares && values[cgroup.CPUIdleFlag] == "1" {
			return owca.Allocation{Text: "skip"}, true // an idle cgroup has no weight
		}
		found := false
		for _, k := range knobsOf(kind) {
			value, ok := values[k]
			if !ok {
				continue
			}
			_, a, ok := Current(m.options.Units, m.cpus, k, value)
			if !ok {
				continue
			}
			found = true
			switch {
			case kind == owca.CPUQuota && i > 0 && value[:3] != noLimit:
				sum.Number += a.Number
			case kind == owca.CPUShares && i > 0:
				// Each container has the task's.
			default:
				sum = a
			}
		}
		if !found {
			return sum, false
		}
	}
	return sum, true
}

// foreign writes as somebody else.
func (m *model) foreign() {
	m.t.Helper()
	g := m.groups[m.random.IntN(len(m.groups))]
	k := cgroup.Knob(m.random.IntN(int(cgroup.NumKnobs)))
	value := m.foreignValue(g, k)
	// Somebody else's cpu.idle loses the weight that was leased, and nobody can say what it
	// should be then.
	if g.control == nil || value == "" || k == cgroup.CPUIdleFlag {
		return
	}
	before := m.values(g)
	if now, ok := before[k]; !ok || k.Equal(now, value) {
		return
	}
	if err := g.control.Set(k, value); err != nil {
		m.note("foreign %s %s: %v", g.path, k, err)
		return
	}
	m.note("foreign %s %s: %q → %q", g.path, k, before[k], value)
	// One file may change others: cpu.idle does cpu.shares.
	for changed, now := range m.values(g) {
		if changed.Equal(before[changed], now) {
			continue
		}
		g.base[changed] = now
		for _, t := range m.tasks {
			for kind := range t.standing {
				switch {
				case !slices.Contains(t.groups, g) || !slices.Contains(knobsOf(kind), changed):
				case t.resized || changed != k || !m.leased(g, k):
					t.doubt[kind] = true
				default:
					g.yielded[k] = true
				}
			}
		}
	}
	// Where there are few values, the foreign one may be what the agent wrote some time
	// ago: a crash before the next tick leaves no way to tell.
	if k == cgroup.CPUSetCPUList {
		m.tick(nil, func() {})
	}
}

// leased says whether there is anything that somebody else can end: not before a cgroup that
// was made anew has been seen.
func (m *model) leased(g *modelGroup, k cgroup.Knob) bool {
	l := m.actor.journal.Lease(Target{Cgroup: g.path, Knob: k})
	return l != nil && l.ID == g.control.ID(k)
}

func (m *model) randomDecisions() map[*modelTask]owca.Allocations {
	decided := make(map[*modelTask]owca.Allocations)
	for _, t := range m.tasks {
		if !t.listed || m.random.IntN(2) == 0 {
			continue
		}
		decided[t] = make(owca.Allocations)
		for range 1 + m.random.IntN(3) {
			kind := owca.AllocationKinds[m.random.IntN(len(owca.AllocationKinds))]
			switch {
			case kind == owca.RDTGroup:
				continue
			case m.random.IntN(4) == 0:
				decided[t][kind] = owca.Allocation{Release: true}
			default:
				decided[t][kind] = m.decision(kind)
			}
			m.note("decide %s %s %+v", t.id, kind, decided[t][kind])
		}
	}
	return decided
}

// invalid decides what no host would take: nothing of it may be applied.
func (m *model) invalid() {
	m.t.Helper()
	id := m.tasks[m.random.IntN(len(m.tasks))].id
	bad := []map[owca.TaskID]owca.Allocations{
		{id: {owca.CPUQuota: {Number: math.NaN()}}},
		{id: {owca.CPUQuota: {Number: math.Inf(1)}}},
		{id: {owca.CPUShares: {Number: -1}, owca.CPUQuota: {Number: 0.5}}},
		{id: {"cpu_colour": {Number: 1}}},
		{"nobody": {owca.CPUQuota: {Number: 0.5}}, id: {owca.CPUQuota: {Number: 0.5}}},
		{id: {owca.CPUSetCPUs: {Text: "0-"}}},
	}[m.random.IntN(6)]
	m.note("invalid %+v", bad)
	tasks := m.data()
	m.elapsed += time.Hour
	m.actor.Observe(m.now, tasks)
	if _, err := m.actor.Apply(m.now, tasks, []Decided{{Owner: "first", Allocations: bad}}); err == nil {
		m.fatalf("an invalid decision was taken: %+v", bad)
	}
	m.checkForeign()
	m.checkEffects()
}

func (m *model) start() {
	m.t.Helper()
	m.note("start, keep %v", m.options.Keep)
	m.actor = New("/")
	m.actor.clock = func() time.Duration { return m.elapsed }
	m.actor.weighed = true // the test's process stays as it is
	if err := m.actor.Start(m.options); err != nil {
		m.fatalf("Start: %v", err)
	}
	// What was decided is forgotten, and what was yielded with it.
	for _, t := range m.tasks {
		t.resized = false
		t.standing, t.doubt = make(map[owca.AllocationKind]owca.Allocation), make(map[owca.AllocationKind]bool)
	}
	for _, g := range m.groups {
		clear(g.yielded)
	}
	if !m.options.Keep {
		m.checkBase("after a start")
	}
}

// checkBase checks that all is as if there had been no agent.
func (m *model) checkBase(when string) {
	m.t.Helper()
	for _, g := range m.groups {
		if g.control == nil {
			continue
		}
		for k, now := range m.values(g) {
			if k.Equal(now, g.base[k]) {
				continue
			}
			// Somebody else may have made it impossible: a parent that has less now, or a new child
			// that has more. The lease is held until it is possible again.
			if err := g.control.Set(k, g.base[k]); err != nil && !errors.Is(err, cgroup.ErrGone) {
				m.refused++
				m.note("%s: %s %s stays %q: %v", when, g.path, k, now, err)
				continue
			}
			// V1 compares with a child that was removed until RCU has done with it
			// (walk_tg_tree), so that what was refused a moment ago may be possible now.
			if k == cgroup.CPUMax && m.inJournal(g, k) {
				m.refused++
				m.note("%s: %s %s stayed %q for a moment", when, g.path, k, now)
				continue
			}
			m.fatalf("%s: %s %s is %q, want %q", when, g.path, k, now, g.base[k])
		}
	}
}

// inJournal says whether a limit is still to be given back.
func (m *model) inJournal(g *modelGroup, k cgroup.Knob) bool {
	m.t.Helper()
	leases, _, _, err := ReadJournal(m.dir)
	if err != nil {
		m.fatalf("%v", err)
	}
	return slices.ContainsFunc(leases, func(l Lease) bool { return l.Target == Target{Cgroup: g.path, Knob: k} })
}

// crash is the end of an agent that could do nothing more, as by SIGKILL.
func (m *model) crash() {
	m.t.Helper()
	m.note("crash")
	if err := modelCrash(m.actor); err != nil {
		m.fatalf("%v", err)
	}
}

// modelCrash does what the kernel does for a process that was killed: it closes its files, and the
// lock goes with them.
func modelCrash(a *Actor) error {
	a.begin()
	for path := range a.nodes {
		a.closeNode(path)
	}
	var err error
	if a.journal.file != nil {
		err = a.journal.file.Close()
	}
	return errors.Join(err, a.journal.lock.Close())
}

// restore is owca restore.
func (m *model) restore() {
	m.t.Helper()
	outcomes, told, err := Restore(m.t.Context(), "/", m.dir)
	if err != nil || len(told) > 0 {
		m.fatalf("Restore: told %q, error %v", told, err)
	}
	for _, o := range outcomes {
		m.note("  restored %s %s: %s %v", o.Cgroup, o.Knob, o.How, o.Err)
	}
	m.checkBase("after a restore")
}

func (m *model) end() {
	m.t.Helper()
	switch m.random.IntN(3) {
	case 0:
		m.note("close")
		err := m.actor.Close()
		if !m.options.Keep {
			m.checkBase("after an end")
		}
		if err != nil && m.refused == 0 {
			m.fatalf("Close: %v", err)
		}
	case 1:
		m.crash()
		m.restore()
	default:
		m.crash()
	}
}

// play plays one sequence.
func (m *model) play(length int) {
	m.t.Helper()
	m.start()
	for range length {
		m.ops++
		switch n := m.random.IntN(100); {
		case n < 40:
			m.tick(m.randomDecisions(), func() {})
		case n < 60:
			m.foreign()
		case n < 66:
			m.tick(nil, func() {})
		case n < 72:
			// Between plan and write, or as near as a test gets to it from outside.
			g := m.groups[m.random.IntN(len(m.groups))]
			m.tick(m.randomDecisions(), func() {
				if g.control != nil && m.random.IntN(2) == 0 {
					m.remove(g)
				}
			})
		case n < 84:
			g := m.groups[m.random.IntN(len(m.groups))]
			switch {
			case g.control != nil && n < 74:
				m.remake(g)
			case g.control != nil && n < 78:
				m.remove(g)
			case g.control == nil && !(g.inner && m.groups[slices.Index(m.groups, g)-1].control == nil):
				m.create(g)
			}
		case n < 87:
			t := m.tasks[m.random.IntN(len(m.tasks))]
			t.listed = !t.listed
			m.note("listed %s %v", t.id, t.listed)
			// Whether a task that comes back has what was decided is not the model's.
			for kind := range t.standing {
				t.doubt[kind] = true
			}
		case n < 90:
			t := m.tasks[m.random.IntN(len(m.tasks))]
			t.resources, t.resized = map[string]float64{"cpus": float64(m.ops)}, true
			m.note("resize %s", t.id)
			for _, g := range t.groups {
				clear(g.yielded)
			}
			for kind := range t.standing {
				t.doubt[kind] = true
			}
		case n < 94:
			m.invalid()
		default:
			m.end()
			m.options.Keep = m.random.IntN(3) == 0
			m.start()
		}
	}
	m.options.Keep = false
	m.actor.SetOptions(m.options)
	m.end()
	m.restore()
	leases, _, told, err := ReadJournal(m.dir)
	if err != nil || len(told) > 0 || len(leases) > 0 && m.refused == 0 {
		m.fatalf("leases after the end: %v, told %q, error %v", leases, told, err)
	}
}

func newModel(t testing.TB, parent *hosttest.Cgroup, dirs modelDirs, seed uint64) *model {
	tree, err := cgroup.FS{Root: "/"}.Tree()
	if err != nil {
		t.Fatal(err)
	}
	m := &model{
		t: t, random: rand.New(rand.NewPCG(seed, 5)), tree: tree, cpus: modelCPUs(t), device: modelDevice(),
		dir: modelStateDir(t), now: time.Now(),
	}
	m.options = Options{Units: Units{SharesUnit: 1000}, StateDir: m.dir}
	if m.random.IntN(2) == 0 {
		m.options.QuotaPeriod = 100000
	}
	name := func(s string) string { return fmt.Sprintf("%s-%d", s, seed) }
	one, two := m.addGroup(dirs, name("one"), false), m.addGroup(dirs, name("two"), false)
	left, right := m.addGroup(dirs, name("left"), false), m.addGroup(dirs, name("right"), false)
	outer := m.addGroup(dirs, name("outer"), false)
	inner := m.addGroup(dirs, name("outer")+"/inner", true)
	for _, t := range []modelTask{
		{id: "one", owner: "first", groups: []*modelGroup{one}, flat: true},
		{id: "two", owner: "second", groups: []*modelGroup{two}, flat: true},
		{id: "pod", owner: "first", groups: []*modelGroup{left, right}, flat: true},
		{id: "outer", owner: "second", groups: []*modelGroup{outer}},
		{id: "inner", owner: "first", groups: []*modelGroup{inner}},
	} {
		t.listed = true
		m.tasks = append(m.tasks, &t)
	}
	for _, g := range m.groups {
		m.create(g)
		if g == outer {
			for _, dir := range g.dirs {
				if _, err := os.Stat(dir + "/cgroup.subtree_control"); err == nil {
					modelEnable(t, dir)
				}
			}
		}
	}
	return m
}

// modelStateDir is in memory where it can be: thousands of fsyncs are not what is tested.
func modelStateDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "owca-model-") //nolint:usetesting // not where TMPDIR is
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "state")
}

func modelCPUs(t testing.TB) int {
	t.Helper()
	var host hostFacts
	if err := host.read("/"); err != nil {
		t.Fatal(err)
	}
	return host.cpus
}

// close removes the cgroups; what is left by a test that failed goes with their parent.
func (m *model) close() {
	for _, g := range slices.Backward(m.groups) {
		if g.control != nil {
			m.remove(g)
		}
	}
}

func modelCount(t testing.TB, standard int) int {
	t.Helper()
	text := os.Getenv("OWCA_MODEL_SEQUENCES")
	if text == "" {
		return fewerInVM(standard)
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("OWCA_MODEL_SEQUENCES: %v", err)
	}
	return n
}

// TestModel plays OWCA_MODEL_SEQUENCES sequences; OWCA_MODEL_SEED is the first one's seed.
func TestModel(t *testing.T) {
	parent := hosttest.NewCgroup(t, nil, "model")
	dirs := newModelDirs(t, parent)
	first := uint64(1)
	if text := os.Getenv("OWCA_MODEL_SEED"); text != "" {
		var err error
		if first, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	sequences, operations, refused := modelCount(t, 200), 0, 0
	for i := range sequences {
		seed := first + uint64(i)
		ok := t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			m := newModel(t, parent, dirs, seed)
			m.play(40)
			operations += m.ops
			refused += m.refused
			m.close()
		})
		if !ok {
			t.Fatalf("OWCA_MODEL_SEED=%d OWCA_MODEL_SEQUENCES=1 repeats it", seed)
		}
	}
	t.Logf("%d sequences, %d operations; %d times the kernel refused to have a value back, as somebody else had changed the cgroups around it", sequences, operations, refused)
}

const modelKillVariable = "OWCA_ACT_MODEL_KILL"

// TestModelKill kills agents with SIGKILL in the middle of what they do, which is anywhere in
// a plan, a journal record, or a change of two files. What they leave is restored to the base.
func TestModelKill(t *testing.T) {
	if args := os.Getenv(modelKillVariable); args != "" {
		modelKilled(t, strings.Fields(args))
		return
	}
	parent := hosttest.NewCgroup(t, nil, "kill")
	dirs := newModelDirs(t, parent)
	random := rand.New(rand.NewPCG(7, 7))
	rounds, leases := modelCount(t, 200)/10, 0
	for i := range rounds {
		m := newModel(t, parent, dirs, uint64(i))
		args := []string{strconv.Itoa(i), m.dir}
		for _, g := range m.groups {
			args = append(args, g.path)
		}
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(exe, "-test.run=^TestModelKill$")
		cmd.Env = append(os.Environ(), modelKillVariable+"="+strings.Join(args, " "))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		_, err = bufio.NewReader(out).ReadString('\n')
		time.Sleep(time.Duration(random.Int64N(int64(20 * time.Millisecond))))
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if err != nil {
			t.Fatalf("the agent did not begin: %v", err)
		}
		left, holder, _, err := ReadJournal(m.dir)
		if err != nil || holder.PID != 0 {
			t.Fatalf("after the kill: held by %v, error %v", holder, err)
		}
		leases += len(left)
		if i%2 == 0 {
			outcomes, told, err := Restore(t.Context(), "/", m.dir)
			if err != nil {
				t.Fatalf("Restore: told %q, error %v", told, err)
			}
			for _, o := range outcomes {
				if o.Err != nil || o.How != EndRestored {
					t.Errorf("round %d: %s %s: %s, error %v", i, o.Cgroup, o.Knob, o.How, o.Err)
				}
			}
			m.checkBase("after a kill and a restore")
		} else {
			m.start()
			if err := m.actor.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
		if m.refused > 0 {
			t.Errorf("round %d: %d values cannot be set back", i, m.refused)
		}
		m.close()
	}
	t.Logf("%d agents killed, with %d leases", rounds, leases)
}

// modelKilled is an agent that decides and changes until it is killed.
func modelKilled(t *testing.T, args []string) {
	seed, err := strconv.ParseUint(args[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	m := &model{t: t, random: rand.New(rand.NewPCG(seed, 9)), cpus: modelCPUs(t), device: modelDevice(), dir: args[1]}
	paths := args[2:]
	for i, p := range paths {
		task := &modelTask{id: owca.TaskID(fmt.Sprint(i)), owner: "first", listed: true, groups: []*modelGroup{{path: p}}}
		if i == 2 { // a pod
			task.groups = append(task.groups, &modelGroup{path: paths[3]})
		}
		if i != 3 {
			m.tasks = append(m.tasks, task)
		}
	}
	a := New("/")
	if err := a.Start(Options{Units: Units{SharesUnit: 1000}, StateDir: m.dir}); err != nil {
		t.Fatal(err)
	}
	tasks := m.data()
	for began := time.Now(); time.Since(began) < time.Minute; m.ops++ {
		allocations := make(map[owca.TaskID]owca.Allocations)
		for task, decided := range m.randomDecisions() {
			allocations[task.id] = decided
		}
		m.log = nil
		now := time.Now()
		a.Observe(now, tasks)
		if _, err := a.Apply(now, tasks, []Decided{{Owner: "first", Allocations: allocations}}); err != nil {
			t.Fatal(err)
		}
		if m.ops == 0 {
			if _, err := os.Stdout.WriteString("leased\n"); err != nil {
				t.Fatal(err)
			}
		}
	}
}
