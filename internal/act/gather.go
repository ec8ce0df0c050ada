package act

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
)

// hostFacts are what cpu and memory there are to divide.
type hostFacts struct {
	cpus     int // 0: could not be told
	cpuList  string
	memList  string
	next     time.Duration // when to look again
	readOnce bool
}

// hostPace is how often they are looked at: CPUs come and go, but not often.
const hostPace = 10 * time.Second

// openHost makes sure that there are cgroups, and that the facts of the host are known.
func (a *Actor) openHost() error {
	if a.tree == nil {
		tree, err := openTree(a.root)
		if err != nil {
			return err
		}
		a.tree = tree
	}
	a.tree.Writes = !a.options.DryRun
	if h := &a.host; !h.readOnce || a.clock() >= h.next {
		before := h.cpus
		err := h.read(a.root)
		a.report("host", err, "what CPUs and memory this host has could not be read")
		h.readOnce, h.next = true, a.clock()+hostPace
		if before != h.cpus {
			a.forgetAllocations()
			// A quota is a part of all CPUs.
			for _, s := range a.order {
				if before != 0 && !s.adopted && (s.kind == owca.CPUQuota || s.kind == owca.CPUBurst) {
					s.anew = true
					a.setDue(s)
				}
			}
		}
	}
	return nil
}

func (h *hostFacts) read(root string) error {
	list, err := os.ReadFile(filepath.Join(root, "/sys/devices/system/cpu/online"))
	if err != nil {
		return err
	}
	cpus, err := parseSet(string(list))
	if err != nil || len(cpus) == 0 {
		return fmt.Errorf("%s/sys/devices/system/cpu/online: %q is no list", root, list)
	}
	h.cpus, h.cpuList = cpus.size(), strings.TrimSpace(string(list))
	// A kernel without NUMA has no such file, and one node.
	list, err = os.ReadFile(filepath.Join(root, "/sys/devices/system/node/has_memory"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		h.memList = "0"
	case err != nil:
		return err
	default:
		h.memList = strings.TrimSpace(string(list))
	}
	return nil
}

// forgetAllocations has the Allocations of all tasks made anew.
func (a *Actor) forgetAllocations() {
	for _, v := range a.views {
		v.stale = true
	}
}

// A node is a cgroup that is open.
type node struct {
	*cgroup.Control
	used   uint64 // the tick in which it was last asked for
	closed bool
}

// node opens a cgroup; nil if there is none.
func (a *Actor) node(path string) *node {
	n, err := a.openNode(path)
	if err != nil {
		return nil
	}
	return n
}

func (a *Actor) openNode(path string) (*node, error) {
	n := a.nodes[path]
	if n == nil {
		c, err := a.tree.Control(path)
		if err != nil {
			return nil, err
		}
		n = &node{Control: c}
		a.nodes[path] = n
	}
	n.used = a.tick
	return n, nil
}

// closeNode closes a cgroup; watches that look at it open it again.
func (a *Actor) closeNode(path string) {
	if n := a.nodes[path]; n != nil {
		_ = n.Close()
		n.closed = true
		delete(a.nodes, path)
	}
}

// closeUnused closes what only an earlier plan needed.
func (a *Actor) closeUnused() {
	for _, s := range a.order {
		for i := range s.watches {
			if n := s.watches[i].node; n != nil {
				n.used = a.tick
			}
		}
	}
	for path, n := range a.nodes {
		if n.used < a.tick {
			a.closeNode(path)
		}
	}
}

// A gathering is the State in the making.
type gathering struct {
	*Actor
	v1 bool // the CPU controller is v1's
	*State
}

// knobsOfTask are what is to be known of a cgroup of a task to plan a kind. For a quota that is
// the weights only where it is to be divided by them; and the burst, which few have, where we
// set it or the kernel refused the quota.
func (g *gathering) knobsOfTask(w *Wanted, v *view, path string) []cgroup.Knob {
	knobs := Knobs(w.Kind)
	if w.Kind != owca.CPUQuota || len(v.cgroups) > 1 {
		return knobs
	}
	n := slices.Index(knobs, cgroup.CPUMaxBurst)
	if g.looksClosely(w) || g.leases[Target{Cgroup: path, Knob: cgroup.CPUMaxBurst}] != nil {
		n++
	}
	return knobs[:n]
}

// looksClosely says whether to read what is seldom in the way of a decision, and which the
// kernel refuses then.
func (g *gathering) looksClosely(w *Wanted) bool {
	s := g.standing[decisionKey{w.Task, w.Kind}]
	return g.options.DryRun || s != nil && s.lookClosely
}

// gather reads what Plan has to know for what is wanted.
func (a *Actor) gather(wanted []Wanted) *State {
	g := gathering{a, a.tree.V1("cpu") != "", &State{
		Units: a.options.Units,
		CPUs:  a.host.cpus, CPUList: a.host.cpuList, MemList: a.host.memList,
		Tasks:   make(map[owca.TaskID]*TaskState, len(wanted)),
		Cgroups: make(map[string]*CgroupState, len(wanted)+8),
		Leases:  a.leases,
	}}
	var cpusets, shares, rdt bool
	for i := range wanted {
		w := &wanted[i]
		v := a.views[w.Task]
		if v == nil {
			continue // Plan says so
		}
		g.task(w.Task, v)
		cpusets = cpusets || w.Kind == owca.CPUSetCPUs && !w.Release
		shares = shares || w.Kind == owca.CPUShares && !w.Release
		rdt = rdt || w.Kind == owca.RDTGroup
		for _, path := range v.cgroups {
			g.cgroup(path, g.knobsOfTask(w, v, path))
			g.above(path, w.Kind)
		}
		for device := range w.IO {
			g.device(device)
		}
	}
	g.held(wanted)
	for i := range wanted {
		g.below(&wanted[i])
	}
	g.yields()
	if shares {
		g.shares(wanted)
	}
	if cpusets {
		g.exclusive()
	}
	if rdt {
		g.resctrl()
	}
	return g.State
}

// yields lists what somebody else has changed since it was decided.
func (g *gathering) yields() {
	for _, s := range g.asked {
		for i := range s.watches {
			w := &s.watches[i]
			if c := g.Cgroups[w.path]; !w.yielded || c == nil || c.IDs[w.knob] != w.id {
				continue
			}
			if g.Yielded == nil {
				g.Yielded = map[Yield]bool{}
			}
			g.Yielded[Yield{s.task, s.kind, Target{Cgroup: w.path, Knob: w.knob}}] = true
		}
	}
}

// shares lists the classes of pods whose shares stand, and are not among what is wanted.
func (g *gathering) shares(wanted []Wanted) {
	g.Shares = map[owca.TaskID]string{}
	for _, s := range g.order {
		if s.kind != owca.CPUShares || s.view == nil || s.adopted || s.allocation.Release {
			continue
		}
		if class := qosOf(s.view.task); class != "" {
			g.Shares[s.task] = class
		}
	}
	for i := range wanted {
		if wanted[i].Kind == owca.CPUShares {
			delete(g.Shares, wanted[i].Task)
		}
	}
}

func (g *gathering) task(id owca.TaskID, v *view) *TaskState {
	t := g.Tasks[id]
	if t == nil {
		t = &TaskState{Cgroups: v.cgroups, QoS: qosOf(v.task)}
		g.Tasks[id] = t
	}
	return t
}

// cgroup reads knobs of a cgroup, unless they were.
func (g *gathering) cgroup(path string, knobs []cgroup.Knob) {
	c := g.Cgroups[path]
	if c == nil {
		c = &CgroupState{V1: g.v1, Values: make(map[cgroup.Knob]string, 4), Errors: map[cgroup.Knob]error{}}
		g.Cgroups[path] = c
	}
	remade := false
	for i := 0; i < len(knobs); i++ {
		k := knobs[i]
		if c.knows(k) {
			continue
		}
		err := g.knob(c, path, k)
		if errors.Is(err, cgroup.ErrGone) && !remade {
			// It may have been made anew: then what was read before is the old one's.
			remade = true
			g.gone(path)
			knobs = slices.Concat(slices.Collect(maps.Keys(c.Values)), slices.Collect(maps.Keys(c.Errors)), knobs)
			clear(c.Values)
			clear(c.Errors)
			i = -1
			continue
		}
		if err != nil {
			c.Errors[k] = err
		}
	}
}

// knob reads a knob.
func (g *gathering) knob(c *CgroupState, path string, k cgroup.Knob) error {
	t := Target{Cgroup: path, Knob: k}
	if l := g.leases[t]; l != nil && g.trusts(l) {
		c.Values[k], c.IDs[k] = l.New, l.ID
		return nil
	}
	n, err := g.openNode(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", path, cgroup.ErrGone)
	}
	if err != nil {
		return err
	}
	value, err := n.Get(k)
	if err != nil {
		return err
	}
	c.Values[k], c.IDs[k] = value, n.ID(k)
	if k == cgroup.IOWeightDefault {
		c.BFQ = isBFQ(n.File(k))
	}
	// What was changed since Observe is not ours any more.
	if l := g.leases[t]; l != nil && (l.ID != c.IDs[k] || value != l.New && !k.Equal(value, l.New)) {
		g.recheck(l)
	}
	return nil
}

// trusts says whether to take a value that we set for what is there, for the time being: what
// is to be written in its place is only if it is still there.
func (g *gathering) trusts(l *Lease) bool {
	s := g.standing[decisionKey{l.For, l.Kind}]
	if s == nil || g.options.DryRun || s.lookClosely || s.failures > 0 || l.Knob == cgroup.IOMaxLimits {
		return false // limits of io.max end with their disk
	}
	i := slices.IndexFunc(s.watches, func(w watch) bool { return w.lease == l })
	if i < 0 {
		return false
	}
	w := &s.watches[i]
	return w.path == l.Cgroup && w.id == l.ID && !w.broken && !w.waking && !w.yielded && !g.idle(w)
}

// isBFQ says whether a file has weights from 1 to 1000, as bfq's; v1's blkio.weight, of cfq,
// had them from 10 on. Those of io.weight go to 10000.
func isBFQ(file string) bool {
	base := filepath.Base(file)
	return strings.Contains(base, ".bfq.") || strings.HasPrefix(base, "blkio.")
}

func (c *CgroupState) knows(k cgroup.Knob) bool {
	_, ok := c.Values[k]
	return ok || c.Errors[k] != nil
}

// gone looks at all leases of a cgroup again that was removed, maybe from one hierarchy only.
func (a *Actor) gone(path string) {
	a.closeNode(path)
	for _, s := range a.order {
		for i := range s.watches {
			if s.watches[i].path == path {
				a.check(s, &s.watches[i])
			}
		}
	}
}

// recheck looks at a lease that is not as it was a moment ago.
func (a *Actor) recheck(l *Lease) {
	if s := a.standing[decisionKey{l.For, l.Kind}]; s != nil {
		for i := range s.watches {
			if s.watches[i].lease == l {
				a.check(s, &s.watches[i])
			}
		}
	}
}

// above reads what limits a cgroup from above.
func (g *gathering) above(name string, kind owca.AllocationKind) {
	var knobs []cgroup.Knob
	switch kind {
	case owca.CPUQuota, owca.CPUBurst:
		knobs = []cgroup.Knob{cgroup.CPUMax}
	case owca.CPUSetCPUs:
		knobs = []cgroup.Knob{cgroup.CPUSetCPUList}
	case owca.CPUSetMems:
		knobs = []cgroup.Knob{cgroup.CPUSetMemList}
	default:
		return
	}
	for dir := range ancestors(name) {
		g.cgroup(dir, knobs)
	}
}

// below finds out what cgroups of v1 have that are below one that is to get less, and are
// not read anyway: there, no child may have more. It is looked for when it is known to be in
// the way, as few containers have cgroups below them, and the kernel refuses what is not
// possible.
func (g *gathering) below(w *Wanted) {
	if g.views[w.Task] == nil || !g.looksClosely(w) {
		return
	}
	for _, path := range g.Tasks[w.Task].Cgroups {
		c := g.Cgroups[path]
		n := g.node(path)
		if n == nil || !c.V1 {
			continue
		}
		switch w.Kind {
		case owca.CPUQuota:
			g.quotaBelow(n, c)
		case owca.CPUSetCPUs:
			c.CPUsBelow = g.listsBelow(n, cgroup.CPUSetCPUList)
		case owca.CPUSetMems:
			c.MemsBelow = g.listsBelow(n, cgroup.CPUSetMemList)
		}
	}
}

func (g *gathering) quotaBelow(n *node, c *CgroupState) {
	var largest float64
	// What vanishes meanwhile limits nothing.
	_ = n.Below(cgroup.CPUMax, func(path, value string) bool {
		if g.Cgroups[path] != nil {
			return true
		}
		if m, ok := parseCPUMax(value); ok && !m.unlimited && m.cpus() > largest {
			largest, c.LargestBelow, c.BelowPath = m.cpus(), value, path
		}
		return true
	})
}

// listsBelow returns what cgroups below one have of a list, all of them together.
func (g *gathering) listsBelow(n *node, k cgroup.Knob) string {
	var lists []string
	_ = n.Below(k, func(path, value string) bool {
		if g.Cgroups[path] == nil && value != "" && !slices.Contains(lists, value) {
			lists = append(lists, value)
		}
		return true
	})
	return strings.Join(lists, ",")
}

// device finds the number of a block device that is named by its path.
func (g *gathering) device(name string) {
	if !strings.HasPrefix(name, "/") {
		return
	}
	var st syscall.Stat_t
	if syscall.Stat(filepath.Join(g.root, name), &st) != nil || st.Mode&syscall.S_IFMT != syscall.S_IFBLK {
		return
	}
	if g.Devices == nil {
		g.Devices = map[string]string{}
	}
	// new_encode_dev, as the C library has it for 64 bits.
	major := st.Rdev>>8&0xfff | st.Rdev>>32&^0xfff
	minor := st.Rdev&0xff | st.Rdev>>12&^0xff
	g.Devices[name] = fmt.Sprintf("%d:%d", major, minor&0xffffffff)
}

// qosOf returns the class of a pod in lower case: as a label says, or the cgroup's path.
func qosOf(t *owca.TaskData) string {
	for _, label := range [...]string{"app_kubernetes_io__qos_class", "qos_class"} {
		if class := t.Labels[label]; class != "" {
			return strings.ToLower(class)
		}
	}
	for _, path := range t.Cgroups {
		at := strings.Index(path, "kubepods")
		switch {
		case at < 0:
		case strings.Contains(path[at:], "besteffort"):
			return "besteffort"
		case strings.Contains(path[at:], "burstable"):
			return "burstable"
		default:
			return "guaranteed"
		}
	}
	return ""
}

// exclusive finds out which cpus the kubelet's static CPU manager gave to one container
// each: those in the cpuset of a Guaranteed pod's container that are in no other pod's.
// What owca has changed itself counts as it was before.
func (g *gathering) exclusive() {
	type pod struct {
		id   owca.TaskID
		view *view
		own  []string // lists of its containers without a quota
	}
	var pods []pod
	users := map[int]int{} // pods by cpu
	for id, v := range g.views {
		class := qosOf(v.task)
		if class == "" {
			continue
		}
		p := pod{id: id, view: v}
		var all []string
		for _, path := range v.cgroups {
			list, own, err := g.podCPUs(path)
			if errors.Is(err, cgroup.ErrGone) {
				continue // it uses none
			}
			if err != nil {
				g.NoExclusive = fmt.Errorf("of task %s: %w", id, err)
				return
			}
			all = append(all, list)
			if class == "guaranteed" && own {
				p.own = append(p.own, list)
			}
		}
		for cpu := range listed(all) {
			users[cpu]++
		}
		pods = append(pods, p)
	}
	for _, p := range pods {
		var list []string
		for cpu := range listed(p.own) {
			if users[cpu] == 1 {
				list = append(list, strconv.Itoa(cpu))
			}
		}
		if len(list) > 0 {
			g.task(p.id, p.view).Exclusive = strings.Join(list, ",")
		}
	}
}

var exclusiveKnobs = [...]cgroup.Knob{cgroup.CPUSetCPUList, cgroup.CPUMax}

// podCPUs returns the cpus of a pod's container, and whether they may be its own: the kubelet
// gives no quota where it gives cpus. The error is a [cgroup.ErrGone] if there is none.
func (g *gathering) podCPUs(path string) (list string, own bool, err error) {
	g.cgroup(path, exclusiveKnobs[:])
	if list, err = g.before(path, cgroup.CPUSetCPUList); err != nil {
		return "", false, err
	}
	if list == "" {
		if _, known := g.Cgroups[path].Values[cgroup.CPUSetCPUList]; known && g.v1 {
			return "", false, nil // no process can be in it
		}
		list = g.CPUList // v2: no cpuset of its own, or no such controller
	}
	cpus, err := parseSet(list)
	if err != nil {
		return "", false, err
	}
	text, err := g.before(path, cgroup.CPUMax)
	if err != nil {
		return "", false, err
	}
	m, ok := parseCPUMax(text)
	return list, cpus.size() < g.CPUs && (text == "" || ok && m.unlimited), nil
}

// before returns a value as it was before owca changed it; "" if the cgroup has no such knob.
func (g *gathering) before(path string, k cgroup.Knob) (string, error) {
	c := g.Cgroups[path]
	switch err := c.Errors[k]; {
	case errors.Is(err, errors.ErrUnsupported):
		return "", nil
	case err != nil:
		return "", err
	}
	if l := g.leases[Target{Cgroup: path, Knob: k}]; l != nil {
		return l.First, nil
	}
	return c.Values[k], nil
}

// listed yields the members of lists that are valid, each once, in order.
func listed(lists []string) iter.Seq[int] {
	return func(yield func(int) bool) {
		all, _ := parseSet(strings.Join(lists, ",")) // valid, and so all of them
		for _, r := range all {
			for n := r.first; n <= r.last; n++ {
				if !yield(n) {
					return
				}
			}
		}
	}
}
