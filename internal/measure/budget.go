package measure

import (
	"cmp"
	"errors"
	"io/fs"
	"log/slog"
	"math"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/resctrl"
)

// How RMIDs are shared among more tasks than there are of them. How many there are
// is learned from what the kernel refuses: groups of other programs have some, too.
const (
	// takeTurns: one of so many groups goes round among the tasks that have none.
	takeTurns = 8
	// dwell is for how many ticks a task has a group that goes round.
	dwell = 10
	// clearly is how many times more CPU a task must use than another one, for
	// patience ticks on end, to get its group.
	clearly  = 1.5
	patience = 5
	// trifle is a difference in cores that is none.
	trifle = 0.01
	// limbo is for how many ticks RMIDs may wait for their cache lines to be
	// evicted before that is a lack of them.
	limbo = 10
	// leave: every control group has an RMID, too, so that as many are left free as
	// control groups can be made still, by whomever, but at most one of so many.
	// Those that wait for their cache lines count as free: without that, how long
	// they do would have to be known.
	leave = 8
	// recount is after how many ticks groups are counted again, if there is need.
	recount = 10
)

// budget is who gets an RMID.
type budget struct {
	retry   backoff // after a refusal
	since   uint64  // the tick of the first refusal; 0 = there is enough
	short   bool    // it was told
	limbo   bool    // the last refusal was for RMIDs that will be free
	ranked  bool    // the claims' ranks are of these options
	better  int     // ticks that best was clearly worth more
	best    *taskState
	waiting []*taskState // of this tick
	held    []*taskState

	counted uint64 // the tick in which groups were counted; 0 = never
	groups  int    // then, and since then ours; each has an RMID
	spare   int    // RMIDs to leave free

	// control are the control groups that wait for an RMID: what becomes free is theirs.
	control map[string]controlClaim
}

// controlClaim is what is known of a control group that could not be made, in ticks.
type controlClaim struct {
	since, last uint64 // the first and the last attempt
	freed       uint64 // when a task gave its RMID for it; 0 = none has
}

// patient is how many ticks after its last attempt an RMID is kept for a control group.
const patient = 60

// claim is what a task has to say for itself.
type claim struct {
	rank   int // the lower, the better
	rankOf *owca.Labels
	cpu    float64 // cores, averaged over the last ticks
	known  bool    // cpu is

	since    uint64 // the tick since which it has a group, or waits for one
	had      uint64 // the tick it last had one
	turn     bool   // it is one of those that take turns
	reserved bool   // the next group is to be this one's
}

// freed is for a group that was removed: the next tick tries to make one.
func (b *budget) freed(tick uint64) {
	b.groups--
	if b.since > 0 {
		b.retry = backoff{tick: tick + 1}
	}
}

// refuse notes that the kernel has no RMID.
func (c *monitoring) refuse(tick uint64, err error) {
	b := &c.budget
	c.refused++
	if b.since == 0 {
		b.since = max(1, tick)
	}
	most := uint64(32) // others may give some back at any time
	if b.limbo = errors.Is(err, resctrl.ErrLimbo); b.limbo {
		most = 4
	}
	b.retry.failed(tick, most)
}

// share gives tasks monitoring groups: all of them as long as there are RMIDs,
// otherwise the most valuable ones, and in turns the others.
func (t *Tasks) share() {
	c := t.monitoring
	b := &c.budget
	if !b.ranked {
		for _, k := range t.order {
			k.watch.claim.rankOf = nil
		}
		b.ranked = true
	}
	b.waiting = b.waiting[:0]
	for _, k := range t.order {
		w := &k.watch
		if w.watch == nil {
			continue
		}
		t.average(k)
		if !w.monitored() && !w.overlap && (!w.again || c.keeps(w)) && k.alive > 0 && w.retry.due(t.tick) {
			b.waiting = append(b.waiting, k)
		}
	}
	if len(b.waiting) == 0 {
		if b.since > 0 {
			t.enough()
		}
		return
	}
	for _, k := range t.order {
		c.rank(k)
	}
	slices.SortFunc(b.waiting, func(x, y *taskState) int {
		if x.watch.claim.reserved != y.watch.claim.reserved {
			if x.watch.claim.reserved {
				return -1
			}
			return 1
		}
		return compareWorth(x, y)
	})
	if b.retry.due(t.tick) {
		t.grant()
	}
	b.waiting = slices.DeleteFunc(b.waiting, func(k *taskState) bool { return k.watch.monitored() || k.watch.err != nil })
	if len(b.waiting) == 0 || b.since == 0 || len(b.control) > 0 {
		return
	}
	b.held = b.held[:0]
	for _, k := range t.order {
		if k.watch.monitored() {
			b.held = append(b.held, k)
		}
	}
	if !b.short && t.tick-b.since >= limbo {
		b.short = true
		slog.Warn("there are fewer monitoring ids (RMIDs) than tasks: the most valuable tasks are monitored, the others in turns",
			"component", "measure", "monitored", len(b.held), "waiting", len(b.waiting), "rmids", c.rdt.RMIDs, "left_for_control_groups", b.spare)
	}
	t.exchange()
}

// enough ends the sharing.
func (t *Tasks) enough() {
	b := &t.monitoring.budget
	for _, k := range t.order {
		k.watch.claim.turn, k.watch.claim.reserved = false, false
	}
	if b.short {
		slog.Info("there are monitoring ids (RMIDs) for all tasks again", "component", "measure")
	}
	b.since, b.short, b.limbo, b.better, b.best = 0, false, false, 0, nil
	b.retry.reset()
}

// countGroups finds out how many RMIDs are taken, now and then.
func (t *Tasks) countGroups() error {
	c := t.monitoring
	b := &c.budget
	if b.counted > 0 && t.tick-b.counted < recount {
		return nil
	}
	if err := c.listGroups(); err != nil {
		return err
	}
	controls := 0
	for _, n := range c.groups {
		if n.Monitor == "" {
			controls++
		}
	}
	b.counted, b.groups = t.tick, len(c.groups)
	b.spare = max(0, min(c.rdt.CLOSIDs-controls, c.rdt.RMIDs/leave))
	return nil
}

// grant makes groups for those who wait, until the kernel refuses one or the rest is
// left for control groups.
func (t *Tasks) grant() {
	c := t.monitoring
	b := &c.budget
	for group, of := range b.control {
		if t.tick-of.last > patient {
			delete(b.control, group) // nobody wants it any more
		}
	}
	if len(b.control) > 0 {
		c.refuse(t.tick, resctrl.ErrNoRMID)
		return
	}
	if err := t.countGroups(); err != nil {
		c.errors++
		if c.failure == nil {
			c.failure = err
		}
		b.retry.failed(t.tick, 16)
		return
	}
	for _, k := range b.waiting {
		w := &k.watch
		if b.spare > 0 && b.groups+b.spare >= c.rdt.RMIDs {
			c.refuse(t.tick, resctrl.ErrNoRMID)
			return
		}
		switch err := w.watch.Monitor(); {
		case err == nil:
			w.err, w.followed, w.full = nil, false, time.Time{}
			w.again, w.havePids = true, false
			w.claim.since, w.claim.reserved = t.tick, false
			b.groups++
			b.limbo = false
			b.retry.reset()
		case errors.Is(err, resctrl.ErrNoRMID):
			c.refuse(t.tick, err)
			return
		case errors.Is(err, resctrl.ErrGone):
			w.again = true // the control group is gone: Follow finds where the threads are
		default:
			w.failed(c, k, t.tick, err)
			if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
				// As it will be for the others.
				for _, o := range b.waiting {
					if o.watch.err == nil && !o.watch.monitored() {
						o.watch.err = err
						o.watch.retry = w.retry
					}
				}
				return
			}
		}
		if c.late() {
			return
		}
	}
}

// exchange takes the group of one task for another one that it is clearly worth more
// for, or whose turn it is. The RMID is free when its cache lines are evicted.
func (t *Tasks) exchange() {
	b := &t.monitoring.budget
	slices.SortFunc(b.held, func(x, y *taskState) int { return compareWorth(y, x) }) // the least first
	turns, reserved := 0, 0
	for _, k := range b.held {
		if k.watch.claim.turn {
			turns++
		}
	}
	for _, k := range b.waiting {
		cl := &k.watch.claim
		if cl.reserved && t.tick-cl.since > 3*dwell && !b.limbo {
			// Somebody else took it. As long as some are in limbo, it may be among them, and
			// with another one taken for it there would be fewer and fewer groups.
			cl.reserved, cl.turn = false, false
		}
		if cl.reserved {
			reserved++
			if cl.turn {
				turns++
			}
		}
	}
	// Those on their way are part of what is shared.
	share := 0
	if n := len(b.held) + reserved; n >= 4 {
		share = max(1, n/takeTurns)
	}
	for _, k := range b.held {
		if cl := &k.watch.claim; turns < share && !cl.turn {
			cl.turn, cl.since = true, t.tick
			turns++
		}
	}
	for _, k := range slices.Backward(b.held) {
		if cl := &k.watch.claim; turns > share && cl.turn {
			cl.turn = false
			turns--
		}
	}
	if reserved >= max(1, share) || reserved == 0 && b.limbo {
		return // what is in limbo comes first
	}

	// The least valuable one that has its group for good, and the most valuable one
	// that has not.
	var keep, best *taskState
	for _, k := range b.held {
		switch {
		case !k.watch.claim.turn:
			keep = cmp.Or(keep, k)
		case best == nil || compareWorth(k, best) < 0:
			best = k
		}
	}
	for _, k := range b.waiting {
		if !k.watch.claim.reserved && (best == nil || compareWorth(k, best) < 0) {
			best = k
		}
	}
	if best != b.best || keep == nil || best == nil || !clearlyWorthMore(best, keep) {
		b.better = 0
	} else {
		b.better++
	}
	b.best = best
	if b.better >= patience {
		b.better = 0
		if best.watch.monitored() {
			best.watch.claim.turn, keep.watch.claim.turn = false, true
			keep.watch.claim.since = t.tick
			return
		}
		t.give(keep, best, false)
		return
	}

	// The one that had its turn, and the one that waited longest.
	var over, next *taskState
	for _, k := range b.held {
		cl := &k.watch.claim
		if cl.turn && t.tick-cl.since >= dwell && (over == nil || cl.since < over.watch.claim.since) {
			over = k
		}
	}
	for _, k := range b.waiting {
		if cl := &k.watch.claim; !cl.reserved && (next == nil || cl.had < next.watch.claim.had) {
			next = k
		}
	}
	if over != nil && next != nil {
		t.give(over, next, true)
	}
}

// give removes the group of one task for another one.
func (t *Tasks) give(from, to *taskState, turn bool) {
	c, w := t.monitoring, &from.watch
	if err := w.watch.Unmonitor(); err != nil {
		c.fail(from, err)
		return
	}
	w.followed, w.foreign, w.again = false, false, false
	w.claim.turn, w.claim.had, w.claim.since = false, t.tick, t.tick
	to.watch.claim.reserved, to.watch.claim.turn, to.watch.claim.since = true, turn, t.tick
	c.budget.retry = backoff{tick: t.tick + 1}
	c.budget.groups--
}

// madeControl is told how the making of a control group ended. Where that was for want of
// an RMID the task gives up its own that is least worth monitoring.
func (t *Tasks) madeControl(group string, err error) {
	c := t.monitoring
	b := &c.budget
	of, waits := b.control[group]
	if !errors.Is(err, resctrl.ErrNoRMID) {
		if err == nil {
			b.counted = 0
		}
		if delete(b.control, group); waits && len(b.control) == 0 {
			b.retry.reset()
		}
		return
	}
	c.refuse(t.tick, err)
	if !waits {
		of.since = t.tick
	}
	of.last = t.tick
	// In limbo is what was given up for it, or something else: one of them is enough.
	wait := of.freed > 0 && t.tick-of.freed < dwell
	if errors.Is(err, resctrl.ErrLimbo) {
		wait = of.freed > 0 || t.tick-of.since < limbo
	}
	if !wait && t.giveUp(group) {
		of.freed = t.tick
	}
	if b.control == nil {
		b.control = make(map[string]controlClaim)
	}
	b.control[group] = of
}

// giveUp removes the monitoring group of the task that is least worth it.
func (t *Tasks) giveUp(group string) bool {
	c := t.monitoring
	var least *taskState
	for _, k := range t.order {
		if !k.watch.monitored() {
			continue
		}
		if c.rank(k); least == nil || compareWorth(k, least) > 0 {
			least = k
		}
	}
	if least == nil {
		return false
	}
	w := &least.watch
	if err := w.watch.Unmonitor(); err != nil {
		c.fail(least, err)
		return false
	}
	slog.Info("a task is not monitored for now: its monitoring id (RMID) is for a control group", "component", "measure", "task", least.ID, "group", group)
	w.followed, w.foreign, w.again = false, false, false
	w.claim.turn, w.claim.had, w.claim.since = false, t.tick, t.tick
	c.budget.groups--
	return true
}

// average keeps what CPU a task uses.
func (t *Tasks) average(k *taskState) {
	d, ok := delta(k.sum, k.prev, cgroup.CPUUsage)
	dt := k.at.Sub(k.prevAt)
	if !ok || k.prevAt.IsZero() || dt <= 0 {
		return
	}
	cores := float64(d) / float64(dt)
	if cl := &k.watch.claim; cl.known {
		cl.cpu += (cores - cl.cpu) / 5
	} else {
		cl.cpu, cl.known = cores, true
	}
}

// compareWorth puts the task first that it is worth more to monitor.
func compareWorth(x, y *taskState) int {
	a, b := &x.watch.claim, &y.watch.claim
	return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(b.cpu, a.cpu), strings.Compare(string(x.ID), string(y.ID)))
}

func clearlyWorthMore(x, y *taskState) bool {
	a, b := &x.watch.claim, &y.watch.claim
	return a.rank < b.rank || a.rank == b.rank && a.cpu > clearly*b.cpu && a.cpu-b.cpu > trifle
}

// rank puts tasks that the user named first, then those with guaranteed resources;
// those that take what is left are last.
func (c *monitoring) rank(k *taskState) {
	cl := &k.watch.claim
	if cl.rankOf == k.labels && k.labels != nil {
		return
	}
	cl.rankOf, cl.rank = k.labels, rankOf(k.Labels)
	if len(c.options.First) == 0 {
		return
	}
	for name, re := range c.options.First {
		if value, ok := k.Labels[name]; !ok || !re.MatchString(value) {
			return
		}
	}
	cl.rank = math.MinInt
}

// rankOf is the rank by the labels of discovery (qos_class), of the original's
// Kubernetes node, and of the examples for its allocator (type).
func rankOf(labels map[string]string) int {
	qos, ok := labels["qos_class"]
	if !ok {
		qos = labels["app_kubernetes_io__qos_class"]
	}
	switch qos = strings.ToLower(qos); {
	case qos == "guaranteed":
		return -1
	case qos == "besteffort", strings.HasPrefix(labels["type"], "best_effort"):
		return 1
	}
	return 0
}
