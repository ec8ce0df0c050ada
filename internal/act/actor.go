package act

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
)

// Options say how an Actor acts. They may change while it runs, but for StateDir.
type Options struct {
	Units
	StateDir string
	// Keep: at the end values stay as they are, and the next agent adopts the leases;
	// otherwise they are restored then, or by the next agent if this one could not.
	Keep bool
	// DryRun: nothing is written, nor leased.
	DryRun bool
	// Guardian is the command of the guardian process; empty = none.
	Guardian []string
	// DefaultL3 and DefaultMB are schemata of the default group of resctrl; nil = as they
	// are.
	DefaultL3, DefaultMB *string
}

// ownOwner is the owner of leases that are not an allocator's: the agent's own weight,
// and the default group of resctrl.
const ownOwner = "owca"

// Actor acts on one host. One goroutine at a time may use it, but for Start.
type Actor struct {
	root string
	log  *slog.Logger
	// clock is what paces are measured by: a monotonic one, as a step of the wall clock is
	// no reason to hurry or to wait.
	clock func() time.Duration

	// What Start hands over to the goroutine that uses the Actor.
	starting sync.Mutex // one Start at a time; guards dir and open
	dir      string     // of the journal, once one was opened
	open     bool       // it is
	started  atomic.Pointer[started]

	options Options
	// optionsSet: they are those of a caller.
	optionsSet bool
	journal    *Journal // nil: none was needed yet
	guardian   *Guardian
	// guardRetry is when to try to start it again.
	guardRetry time.Duration
	tree       *cgroup.Tree
	host       hostFacts
	nodes      map[string]*node
	groups     Groups
	rdt        groupsState
	weighed    bool // the agent's own weight was raised, or cannot be
	reniced    bool // its nice value was lowered

	views    map[owca.TaskID]*view
	seen     uint64  // the generation of views
	listed   []*view // as the tasks of the last look
	observed bool    // that was in this tick
	standing map[decisionKey]*standing
	order    []*standing // the same, in the order of their making
	pending  int         // how many are not in effect
	unlisted int         // how many are of a task that is not listed
	turn     int         // in order: the next to be looked at
	leases   map[Target]*Lease
	owners   []string // in the order of their ranks
	unheard  bool     // some votes may be

	tick    uint64
	decided []Decided // in this tick
	drops   []Drop
	hidden  []Wanted                  // see checkHidden
	fresh   map[decisionKey]candidate // scratch of Apply, as the next
	wanted  []Wanted
	asked   []*standing
	state   *State // of the last plan
	near    nearDecisions
	dryRun  []Change // the plan that was logged
	// dryRefused is of that plan; yielded is of Preview.
	dryRefused []Refusal
	yielded    []*Lease
	// dryUntil is when that of a dry run is made again if nothing happens.
	dryUntil time.Duration
	told     map[string]string
	unset    map[Target]unset // see reportTarget
	halves   map[Target]bool  // of which a part was written, it could not be read yet how much
	dirty    bool             // the journal has something to write
	// troubles are how many decisions were told this tick not to be in effect.
	troubles struct {
		tick uint64
		told int
	}
	// ended are how many ends of leases were, one after the other.
	ended int
	stats Stats
}

// started is what a Start found.
type started struct {
	options Options
	journal *Journal
	tree    *cgroup.Tree
}

// New returns an Actor of the host below root. It does no I/O.
func New(root string) *Actor {
	began := time.Now()
	return &Actor{
		root:     root,
		log:      slog.With("component", "act"),
		clock:    func() time.Duration { return time.Since(began) },
		nodes:    map[string]*node{},
		views:    map[owca.TaskID]*view{},
		standing: map[decisionKey]*standing{},
		leases:   map[Target]*Lease{},
		fresh:    map[decisionKey]candidate{},
		told:     map[string]string{},
		stats:    Stats{Ended: map[End]uint64{}},
	}
}

// Start takes the journal, and restores or adopts what an earlier agent left. It may be
// called again while the Actor is in use, with other options, to see whether they will do:
// only StateDir may not differ. Errors: those of [OpenJournal], fs.ErrPermission where
// limits cannot be written.
func (a *Actor) Start(o Options) error {
	a.starting.Lock()
	defer a.starting.Unlock()
	if a.open && !o.DryRun && o.StateDir != a.dir {
		return fmt.Errorf("state_dir %s: the leases are in %s: it cannot change while the agent runs, restart it", o.StateDir, a.dir)
	}
	tree, err := openTree(a.root)
	if err != nil {
		return err
	}
	if a.open {
		return nil
	}
	if o.DryRun {
		a.lookAtLeft(o.StateDir)
		a.started.CompareAndSwap(nil, &started{options: o, tree: tree})
		return nil
	}
	if err := writable(tree); err != nil {
		return err
	}
	j, told, err := OpenJournal(o.StateDir)
	if err != nil {
		return err
	}
	for _, line := range told {
		a.log.Warn(line, "state_dir", o.StateDir)
	}
	if j.void > 0 {
		// As after any restart of the host.
		a.log.Info("the leases of an earlier boot are void", "leases", j.void)
	}
	if left := j.Leases(); len(left) > 0 && o.Keep {
		a.log.Info("adopting the leases of an earlier agent", "leases", len(left))
	} else if len(left) > 0 {
		a.log.Info("restoring what an earlier agent left", "leases", len(left))
		outcomes, err := j.restore(context.Background(), a.root)
		if err != nil {
			return errors.Join(err, j.Close())
		}
		ended := 0 // another goroutine may be at the Actor's
		for i := range outcomes {
			o := &outcomes[i]
			a.tellEnd(&ended, &o.Lease, o.How, o.Err)
		}
		if err := j.Sync(); err != nil {
			a.log.Warn("the journal still has leases that were given back; they will be found restored", "error", err)
		}
	}
	a.dir, a.open = o.StateDir, true
	a.started.Store(&started{options: o, journal: j, tree: tree})
	return nil
}

// lookAtLeft tells of what an earlier agent left, which a dry run does not touch.
func (a *Actor) lookAtLeft(dir string) {
	if dir == "" {
		return
	}
	leases, holder, _, err := ReadJournal(dir)
	leases = slices.DeleteFunc(leases, func(l Lease) bool { return l.Yielded })
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		a.log.Warn("dry_run: whether an earlier agent left limits could not be told", "error", err)
	case err == nil && len(leases) > 0 && holder.PID == 0:
		a.log.Warn("dry_run: the limits that an earlier agent left stay, and count as what there is: owca restore gives them back",
			"leases", len(leases), "state_dir", dir)
	}
}

// The files of limits that stay open are at most those of a thousand leases, and a part of
// what this process may open, most of which is for what is measured each tick.
const (
	maxKeptFiles   = 4096
	keptFilesShare = 8
)

func openTree(root string) (*cgroup.Tree, error) {
	tree, err := cgroup.FS{Root: root}.Tree()
	if err != nil {
		return nil, err
	}
	tree.KeepFiles = min(tree.KeepFiles/keptFilesShare, maxKeptFiles)
	return tree, nil
}

// writable says why limits cannot be written, as far as that can be seen without a write.
func writable(tree *cgroup.Tree) error {
	dir := tree.V1("cpu")
	if dir == "" {
		dir = tree.Unified()
	}
	if dir == "" {
		return nil
	}
	name := dir + "/cgroup.procs"
	// fcntl.h, unistd.h
	const atFDCWD, atEffectiveAccess, mayWrite = -100, 0x200, 2
	switch err := syscall.Faccessat(atFDCWD, name, mayWrite, atEffectiveAccess); err {
	case syscall.EACCES, syscall.EPERM:
		return &fs.PathError{Op: "write", Path: name, Err: err}
	case syscall.EROFS:
		return fmt.Errorf("%s is mounted read-only, so that no limit can be set: mount it read-write, or use dry_run: %w", dir, fs.ErrPermission)
	}
	return nil // or could not tell; the write will
}

// begin takes over what Start found.
func (a *Actor) begin() {
	s := a.started.Swap(nil)
	if s == nil {
		return
	}
	if a.tree == nil {
		a.tree = s.tree
	}
	if s.journal != nil {
		a.journal = s.journal
		for _, l := range a.journal.Leases() {
			a.adopt(l)
		}
	}
	if !a.optionsSet {
		a.SetOptions(s.options)
	}
}

// adopt makes a lease of an earlier agent this one's. What it was decided to be is not known,
// so that any decision of the same owner is another one.
func (a *Actor) adopt(l *Lease) {
	a.leases[l.Target] = l
	k := decisionKey{l.For, l.Kind}
	s := a.standing[k]
	if s == nil {
		s = a.standingOf(k)
		s.owner, s.adopted = l.Owner, true
		if s.task != "" {
			s.votes = []vote{{owner: l.Owner, adopted: true, unheard: true}}
			a.unheard = true
		}
	}
	if l.Cgroup != "" {
		s.watches = append(s.watches, watch{path: l.Cgroup, id: l.ID, knob: l.Knob, value: l.New, lease: l, broken: true})
	}
}

// SetOptions makes o those of the next Apply. When they say DryRun from now on, what is
// leased is restored.
func (a *Actor) SetOptions(o Options) {
	a.begin()
	before := a.options
	a.options, a.optionsSet = o, true
	if before.Units != o.Units {
		// The same numbers mean something else.
		for _, s := range a.order {
			if !s.adopted && (s.kind == owca.CPUQuota || s.kind == owca.CPUShares) {
				s.anew = true
				a.setPending(s)
			}
		}
		a.forgetAllocations()
	}
	if o.DryRun && !before.DryRun && len(a.leases) > 0 {
		a.log.Info("dry_run: restoring what is leased", "leases", len(a.leases))
		_ = a.restoreWhere(EndRestored, func(*Lease) bool { return true }) // logged
		a.lowerOwnWeight()
		for _, s := range a.order {
			a.setPending(s)
		}
	}
	if !o.DryRun && a.journal != nil {
		a.raiseOwnWeight()
	}
	a.guard()
	a.rdt.defaultsDone = false
}

// guardPace is how often it is tried to start a guardian that does not start at all.
const guardPace = time.Minute

const noGuardian = "there is no guardian: if the agent is killed, limits stay until it or owca restore runs"

// guard starts the guardian, tells how it is, or dismisses it.
func (a *Actor) guard() {
	wanted := a.journal != nil && !a.options.Keep && !a.options.DryRun && len(a.options.Guardian) > 0
	switch {
	case wanted && a.guardian == nil && a.clock() >= a.guardRetry:
		g, err := StartGuardian(a.options.Guardian)
		a.report("guardian", err, noGuardian)
		if err != nil {
			a.guardRetry = a.clock() + guardPace
			return
		}
		a.guardian = g
	case wanted && a.guardian != nil:
		a.report("guardian", a.guardian.Err(), noGuardian)
	case !wanted && a.guardian != nil:
		delete(a.told, "guardian")
		if err := a.guardian.Dismiss(); err != nil {
			a.log.Warn("dismissing the guardian", "error", err)
		}
		a.guardian = nil
	}
}

// KeepOwners restores the leases, and forgets the decisions, of all owners but these, which
// are in the order of their ranks: the last one's decisions win. Without any, the agent's
// own weight goes back, too.
func (a *Actor) KeepOwners(owners []string) {
	a.begin()
	kept := func(owner string) bool { return owner == ownOwner || slices.Contains(owners, owner) }
	a.owners = slices.Clone(owners)
	for _, s := range a.order {
		s.votes = slices.DeleteFunc(s.votes, func(v vote) bool { return !kept(v.owner) })
		if !kept(s.owner) {
			a.comeUp(s)
		}
	}
	a.elect()
	_ = a.restoreWhere(EndReleased, func(l *Lease) bool { // logged
		if s := a.standing[decisionKey{l.For, l.Kind}]; s != nil {
			return !kept(s.owner)
		}
		return !kept(l.Owner)
	})
	for _, s := range slices.Clone(a.order) {
		switch {
		case kept(s.owner):
		case a.watching(s):
			// It could not be restored.
			a.decide(s, s.owner, owca.Allocation{Release: true, Reason: "its allocator is gone"})
			a.backoff(s, lastRetry)
		default:
			a.forget(s)
		}
	}
	if len(owners) == 0 {
		a.lowerOwnWeight()
	}
	a.sync()
}

// Succeed says that from now on another allocator has the name of owner, as after a reload. What
// the one before it decided, and it does not in its first decision, is given back then.
func (a *Actor) Succeed(owner string) {
	for _, s := range a.order {
		for i := range s.votes {
			if v := &s.votes[i]; v.owner == owner {
				v.unheard, a.unheard = true, true
			}
		}
	}
}

// Leases returns what is held, in the order of its making.
func (a *Actor) Leases() []*Lease {
	a.begin()
	if a.journal == nil {
		return nil
	}
	return a.journal.Leases()
}

// Stats are counted since the start.
type Stats struct {
	Changes, Failed, Refused, Invalid uint64
	Ended                             map[End]uint64
	JournalErrors                     uint64
	Guardian                          bool // it runs
}

// Stats returns them. Ended is the Actor's, and changes as it goes on.
func (a *Actor) Stats() Stats {
	s := a.stats
	s.Guardian = a.guardian != nil && a.guardian.Alive()
	return s
}

// Close restores what is leased, or keeps it, dismisses the guardian and gives up the
// journal. The error joins what could not be restored.
func (a *Actor) Close() error {
	a.begin()
	a.ended = 0
	var problems []error
	if a.journal != nil {
		problems = append(problems, a.restoreWhere(EndRestored, func(l *Lease) bool {
			// The agent's own weight goes with it.
			return !a.options.Keep || l.Owner == ownOwner && l.Kind == owca.CPUShares
		}))
	}
	if a.guardian != nil {
		// What could not be restored now is not tried again by a process that has no more
		// rights than this one had.
		problems = append(problems, a.guardian.Dismiss())
		a.guardian = nil
	}
	if a.journal != nil {
		problems = append(problems, a.journal.Close())
		a.journal = nil
		a.starting.Lock()
		a.open = false
		a.starting.Unlock()
	}
	for path := range a.nodes {
		a.closeNode(path)
	}
	clear(a.leases)
	clear(a.standing)
	a.order, a.pending, a.unlisted = nil, 0, 0
	return errors.Join(problems...)
}

// restoreWhere undoes leases, the last one first. The error joins what could not be
// restored; it is logged.
func (a *Actor) restoreWhere(how End, which func(*Lease) bool) error {
	if a.journal == nil {
		return nil
	}
	list := slices.DeleteFunc(a.journal.Leases(), func(l *Lease) bool { return !which(l) })
	if len(list) == 0 {
		return nil
	}
	var problems []error
	groups := a.groups
	if (groups == nil || groups.Info() == nil) && slices.ContainsFunc(list, func(l *Lease) bool { return l.Cgroup == "" }) {
		// The tasks are not monitored by resctrl: not yet, or not any more.
		own := &hostGroups{root: a.root, tree: a.tree, leases: list}
		defer own.close()
		groups = own
	}
	newRestorer(a.tree, groups).undoAll(context.Background(), list, func(l *Lease, end End, err error) {
		if err != nil {
			a.logEnd(l, "", err)
			problems = append(problems, fmt.Errorf("%s: %w", l.name(), err))
			return
		}
		if end == EndRestored {
			end = how
		}
		a.end(l, end)
	})
	a.sync()
	return errors.Join(problems...)
}

// end notes that a lease has ended: in the journal, in the log, and in what is watched.
func (a *Actor) end(l *Lease, how End) {
	a.logEnd(l, how, nil)
	a.stats.Ended[how]++
	delete(a.leases, l.Target)
	delete(a.halves, l.Target)
	a.journal.End(l.Target, how)
	a.dirty = true
	if v := a.views[l.For]; v != nil {
		v.stale = true
	}
	for _, s := range a.holders(l) {
		for i := range s.watches {
			if w := &s.watches[i]; w.lease == l {
				w.lease = nil
				if !w.yielded {
					*w = watch{}
				}
				if how == EndGone {
					a.setDue(s) // who found it may be another one
				}
			}
		}
	}
}

// holders are the decisions that watch a lease.
func (a *Actor) holders(l *Lease) []*standing {
	if s := a.standing[decisionKey{l.For, l.Kind}]; s != nil {
		return []*standing{s}
	}
	if v := a.views[l.For]; v != nil {
		return v.standing
	}
	return nil
}

// yields says whether a decision still leaves to somebody else what it had a lease of.
func (a *Actor) yields(l *Lease) bool {
	if l.Cgroup == "" {
		s := a.standing[decisionKey{l.For, l.Kind}]
		return s != nil && !s.allocation.Release
	}
	for _, s := range a.holders(l) {
		for i := range s.watches {
			if w := &s.watches[i]; w.yielded && w.path == l.Cgroup && w.knob == l.Knob {
				return true
			}
		}
	}
	return false
}

// sync writes down what has ended.
func (a *Actor) sync() {
	if a.journal == nil {
		return
	}
	if len(a.journal.yielded) > 0 {
		a.journal.forgetYielded(a.yields)
		a.dirty = a.dirty || len(a.journal.pending) > 0
	}
	if !a.dirty {
		return
	}
	a.dirty = false
	err := a.journal.Sync()
	if err != nil {
		a.stats.JournalErrors++
	}
	a.report("journal", err, "the journal of leases cannot be written: no limit is changed until it can")
}

// report logs when something begins or ceases to fail.
func (a *Actor) report(what string, err error, message string) {
	last, failing := a.told[what]
	switch {
	case err == nil && failing:
		delete(a.told, what)
		a.log.Info("works again", "what", what)
	case err != nil && last != err.Error():
		a.told[what] = err.Error()
		a.log.Error(message, "error", err)
	}
}

// unset is a limit of which was told that it could not be set.
type unset struct {
	task owca.TaskID
	why  string
}

// reportTarget is report of a limit that no decision stands for, until its task has other
// cgroups.
func (a *Actor) reportTarget(c *Change, err error, message string) {
	last, failing := a.unset[c.Target]
	switch {
	case err == nil && failing:
		delete(a.unset, c.Target)
		a.log.Info("works again", "what", c.name())
	case err != nil && last.why != err.Error():
		if a.unset == nil {
			a.unset = map[Target]unset{}
		}
		a.unset[c.Target] = unset{c.For, err.Error()}
		a.log.Error(message, "target", c.name(), "error", err)
	}
}

// logEnd tells of the ends of leases, of many at once only of the first.
func (a *Actor) logEnd(l *Lease, how End, err error) { a.tellEnd(&a.ended, l, how, err) }

func (a *Actor) tellEnd(ended *int, l *Lease, how End, err error) {
	debug := false
	if how != EndGone {
		switch *ended++; {
		case *ended == maxLogged+1:
			a.log.Warn("more leases ended, or could not be; log_level debug tells which")
			fallthrough
		case *ended > maxLogged:
			debug = true
		}
	}
	tell := func(level slog.Level, message string, attrs ...any) {
		if debug {
			level = slog.LevelDebug
		}
		a.log.Log(context.Background(), level, message, attrs...)
	}
	attrs := []any{
		"task", l.For, "kind", l.Kind, "target", l.name(), "set", l.New, "before", l.First, "owner", l.Owner,
	}
	switch {
	case err != nil:
		tell(slog.LevelError, "a limit could not be given back; it is still in the journal: the agent tries again, or owca restore once that has ended",
			append(attrs, "error", err)...)
	case how == EndForeign:
		tell(slog.LevelWarn, "somebody else changed a limit: it stays as it is now, until another one is decided", attrs...)
	case how == EndGone:
		a.log.Debug("a limit went with its cgroup", attrs...)
	default:
		tell(slog.LevelInfo, "a limit was given back", append(attrs, "how", string(how))...)
	}
}

// name is for messages: the cgroup with its file, or what it is of resctrl.
func (t *Target) name() string {
	switch {
	case t.Cgroup != "":
		return t.Cgroup + " " + t.Knob.String()
	case t.Task != "":
		return "resctrl task " + string(t.Task)
	case t.Group == "":
		return "resctrl default group"
	}
	return "resctrl group " + t.Group
}
