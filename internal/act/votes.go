package act

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/resctrl"
)

// A vote is what one owner has decided on a key. Of several that of the last owner in
// their list is in effect; the others come up when it gives up.
type vote struct {
	owner      string
	allocation owca.Allocation
	// adopted: of an earlier agent, so that nobody knows what was decided.
	adopted bool
	// unheard: of an owner that another one has succeeded, which gives up by its first
	// decision what that does not mention.
	unheard bool
}

// candidate is what the votes on a key come to.
type candidate struct {
	votes      []vote
	turn       int // of its owner
	owner      string
	allocation owca.Allocation
	stays      bool // it is in effect, or pending, already
	comesUp    bool // it was decided earlier, beneath another owner's
}

// Drop is an owner of which a decision was invalid.
type Drop struct {
	Owner string
	Err   error // of [Invalid]
}

// Error tells it.
func (d Drop) Error() string { return fmt.Sprintf("what %s decided is dropped: %v", d.Owner, d.Err) }

func (d Drop) Unwrap() error { return d.Err }

// rank has the owners in the order in which they are given. Those that are not keep theirs.
func (a *Actor) rank(decided []Decided) {
	last, others := -1, false
	for i := range decided {
		owner := decided[i].Owner
		at := slices.Index(a.owners, owner)
		if at > last {
			last = at
			continue
		}
		if at < 0 {
			a.owners = append(a.owners, owner)
			last = len(a.owners) - 1
			continue
		}
		others = true
		a.owners = slices.Delete(a.owners, at, at+1) // last becomes its own place
		a.owners = slices.Insert(a.owners, last, owner)
	}
	if others {
		a.elect()
	}
}

// elect is for an order of the owners that has changed.
func (a *Actor) elect() {
	for _, s := range a.order {
		if i := a.top(s.votes); len(s.votes) > 1 && s.votes[i].owner != s.owner {
			a.comeUp(s)
		}
	}
}

// top is the vote that holds; -1 if there is none.
func (a *Actor) top(votes []vote) int {
	best, highest := -1, -1
	for i := range votes {
		if rank := slices.Index(a.owners, votes[i].owner); rank >= highest {
			best, highest = i, rank
		}
	}
	return best
}

// comeUp makes what other owners have decided what stands; ok is false if there is nothing.
func (a *Actor) comeUp(s *standing) (ok bool) {
	s.votes = slices.DeleteFunc(s.votes, func(v vote) bool { return v.adopted })
	i := a.top(s.votes)
	if i < 0 {
		return false
	}
	a.decide(s, s.votes[i].owner, s.votes[i].allocation)
	return true
}

// decide makes an allocation what stands.
func (a *Actor) decide(s *standing, owner string, allocation owca.Allocation) {
	s.owner, s.allocation, s.adopted = owner, allocation, false
	s.retry, s.failures, s.moved, s.decided = 0, 0, false, a.tick
	if s.kind == owca.RDTGroup && allocation.Release {
		a.unyieldGroups(s.task)
	}
	for i := range s.watches {
		s.watches[i].yielded = false
	}
	a.setPending(s)
}

// merge finds out which decisions are not those that stand.
func (a *Actor) merge(decided []Decided) {
	a.decided, a.drops = decided, a.drops[:0]
	a.rank(decided)
	a.count()
}

// nearDecisions are those of a successor that are so near to what stands that it stays.
type nearDecisions struct {
	n         int
	first     decisionKey
	owner     string
	is, asked float64
}

// tell does so in one line, as the successor is most often what somebody has just edited.
func (n *nearDecisions) tell(log *slog.Logger) {
	if n.n > 0 {
		log.Info("decisions differ so little from those in effect that these stay", "decisions", n.n, "least", unchanged,
			"task", n.first.task, "kind", n.first.kind, "owner", n.owner, "in_effect", n.is, "decided", n.asked)
	}
}

// count counts the votes of those whose decisions are not dropped.
func (a *Actor) count() {
	clear(a.fresh)
	a.hidden, a.near = a.hidden[:0], nearDecisions{}
	for i := range a.decided {
		d := &a.decided[i]
		if d.Silent || slices.ContainsFunc(a.drops, func(o Drop) bool { return o.Owner == d.Owner }) {
			continue
		}
		for id, allocations := range d.Allocations {
			for kind, allocation := range allocations {
				a.vote(decisionKey{id, kind}, d.Owner, allocation)
			}
		}
		if a.unheard {
			a.giveUp(d)
		}
	}
	for k, c := range a.fresh {
		s, top := a.standing[k], a.top(c.votes)
		switch {
		case top >= 0:
			v := &c.votes[top]
			c.owner, c.allocation = v.owner, v.allocation
			c.stays = s != nil && s.owner == v.owner && s.adopted == v.adopted && sameAllocation(k.kind, &s.allocation, &v.allocation)
			c.comesUp = !c.stays && s.has(v)
			for i := range c.votes {
				if v := &c.votes[i]; i != top && a.isDecided(k, v) && !s.has(v) {
					a.hidden = append(a.hidden, Wanted{Task: k.task, Kind: k.kind, Owner: v.owner, Allocation: v.allocation})
				}
			}
		case s == nil:
			delete(a.fresh, k)
			continue
		default:
			c.owner = s.owner
			if c.allocation = c.release(); s.allocation.Release {
				c.stays = true
			}
		}
		c.turn = slices.Index(a.owners, c.owner)
		a.fresh[k] = c
	}
}

// isDecided says whether a vote is one of this tick that is not dropped.
func (a *Actor) isDecided(k decisionKey, v *vote) bool {
	return slices.ContainsFunc(a.decided, func(d Decided) bool {
		if d.Silent || d.Owner != v.owner || slices.ContainsFunc(a.drops, func(o Drop) bool { return o.Owner == d.Owner }) {
			return false
		}
		_, ok := d.Allocations[k.task][k.kind]
		return ok
	})
}

// has says whether a vote was counted in an earlier tick.
func (s *standing) has(v *vote) bool {
	return s != nil && slices.ContainsFunc(s.votes, func(o vote) bool {
		return o.owner == v.owner && o.adopted == v.adopted && sameAllocation(s.kind, &o.allocation, &v.allocation)
	})
}

// checkHidden returns what is invalid of votes that another owner's is in the way of, which no
// plan sees.
func (a *Actor) checkHidden() error {
	if len(a.hidden) == 0 {
		return nil
	}
	s := &State{Units: a.options.Units, CPUs: a.host.cpus, CPUList: a.host.cpuList, MemList: a.host.memList, Tasks: map[owca.TaskID]*TaskState{}}
	if a.groups != nil {
		// As if there were no groups yet: what others have is no matter of validity.
		if s.Resctrl = a.groups.Info(); s.Resctrl != nil {
			s.Groups = []resctrl.ControlGroup{{Schemata: s.Resctrl.Default()}}
		}
	}
	for i := range a.hidden {
		if v := a.views[a.hidden[i].Task]; v != nil {
			s.Tasks[a.hidden[i].Task] = &TaskState{Cgroups: v.cgroups}
		}
	}
	for i := range a.hidden {
		// One by one: they are of several owners.
		w := &a.hidden[i]
		p := newPlanner(s, a.hidden[i:i+1])
		err := p.validate()
		if err == nil {
			_, err = p.rdt()
		}
		if err != nil {
			a.drop(w.Owner, invalids(err))
			return err
		}
	}
	return nil
}

// release is for a key on which there are no votes any more.
func (c *candidate) release() owca.Allocation {
	if c.allocation.Release {
		return c.allocation
	}
	return owca.Allocation{Release: true, Reason: "not decided any more"}
}

// vote counts one.
func (a *Actor) vote(k decisionKey, owner string, allocation owca.Allocation) {
	c, counted := a.fresh[k]
	if s := a.standing[k]; !counted && s != nil {
		c.votes = s.votes
	}
	i := slices.IndexFunc(c.votes, func(v vote) bool { return v.owner == owner })
	same := i >= 0 && !c.votes[i].adopted && sameAllocation(k.kind, &c.votes[i].allocation, &allocation)
	if i < 0 && allocation.Release || same && !c.votes[i].unheard {
		return
	}
	if !counted {
		c.votes = slices.Clone(c.votes)
	}
	switch {
	case allocation.Release:
		c.votes, c.allocation = slices.Delete(c.votes, i, i+1), allocation
	case same:
		v := &c.votes[i]
		v.unheard = false
		if v.allocation.Number != allocation.Number {
			if a.near.n++; a.near.n == 1 {
				a.near.first, a.near.owner, a.near.is, a.near.asked = k, owner, v.allocation.Number, allocation.Number
			}
		}
	default:
		if i < 0 {
			i, c.votes = len(c.votes), append(c.votes, vote{})
		}
		c.votes[i] = vote{owner: owner, allocation: allocation}
	}
	a.fresh[k] = c
}

// giveUp takes back what stands of the predecessor of an owner, and that does not decide. On
// tasks that are not listed it could not.
func (a *Actor) giveUp(d *Decided) {
	for _, s := range a.order {
		if s.view == nil || !slices.ContainsFunc(s.votes, func(v vote) bool { return v.owner == d.Owner && v.unheard }) {
			continue
		}
		if _, decided := d.Allocations[s.task][s.kind]; !decided {
			a.vote(s.decisionKey, d.Owner, owca.Allocation{Release: true, Reason: "not decided any more"})
		}
	}
}

// hear finds out whether anything is still to be given up by a successor.
func (a *Actor) hear() {
	a.unheard = slices.ContainsFunc(a.order, func(s *standing) bool {
		return slices.ContainsFunc(s.votes, func(v vote) bool { return v.unheard })
	})
}

// keepFresh makes what is new what stands.
func (a *Actor) keepFresh() {
	for _, k := range a.freshKeys() {
		c := a.fresh[k]
		s := a.standingOf(k)
		if s.votes = c.votes; c.stays {
			continue
		}
		if !c.allocation.Release {
			s.votes = slices.DeleteFunc(s.votes, func(v vote) bool { return v.adopted })
		}
		a.decide(s, c.owner, c.allocation)
		// Without a view it waits until the task is listed again.
		if s.view != nil || c.allocation.Release {
			a.asked = append(a.asked, s)
		}
	}
	clear(a.fresh)
	if a.unheard {
		a.hear()
	}
}

// blame drops the decisions of the last of the owners that an error of Plan names, for good
// those that were made earlier and come up now. It says whether there is less to plan: with
// each true there is an owner more that is dropped, or a vote less.
func (a *Actor) blame(err error) bool {
	list := invalids(err)
	owner, turn := "", -2
	for _, e := range list {
		if c, ok := a.fresh[decisionKey{e.Task, e.Kind}]; ok && !c.stays && c.turn > turn {
			owner, turn = c.owner, c.turn
		}
	}
	if turn == -2 {
		return false
	}
	list = slices.DeleteFunc(list, func(e *Invalid) bool {
		c, ok := a.fresh[decisionKey{e.Task, e.Kind}]
		return !ok || c.stays || c.owner != owner
	})
	less := !slices.ContainsFunc(a.drops, func(d Drop) bool { return d.Owner == owner })
	for _, e := range list {
		if k := (decisionKey{e.Task, e.Kind}); a.fresh[k].comesUp {
			s := a.standing[k]
			s.votes = slices.DeleteFunc(slices.Clone(s.votes), func(v vote) bool { return v.owner == owner })
			less = true
		}
	}
	a.drop(owner, list)
	return less
}

// drop leaves out what an owner has decided.
func (a *Actor) drop(owner string, why []*Invalid) {
	var problems []error
	for _, e := range why {
		problems = append(problems, e)
	}
	a.stats.Invalid += uint64(len(problems))
	if i := slices.IndexFunc(a.drops, func(d Drop) bool { return d.Owner == owner }); i >= 0 {
		a.drops[i].Err = errors.Join(append([]error{a.drops[i].Err}, problems...)...)
	} else {
		a.drops = append(a.drops, Drop{owner, errors.Join(problems...)})
	}
	a.count()
}

// dropped is the error of a plan without what was dropped.
func (a *Actor) dropped() error {
	var problems []error
	for _, d := range a.drops {
		problems = append(problems, d)
	}
	return errors.Join(problems...)
}
