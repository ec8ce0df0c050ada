package act

import "slices"

// Preview has a dry run plan as an agent that holds these leases would: what the first
// decision of an owner does not mention, and all of an owner that [Actor.KeepOwners] does not
// name, is given back. They are only read, and are not looked at: leave out those that the
// host does not have any more. What has [Lease.Yielded] stays as it is unless another value is
// decided. It is called once, after KeepOwners and before the first tick of an Actor that has no
// journal.
func (a *Actor) Preview(leases []Lease) {
	for i := range leases {
		if l := &leases[i]; l.Yielded {
			a.yielded = append(a.yielded, l)
		} else {
			a.adopt(l)
		}
	}
	// Who watches nothing of a cgroup never finds it changed.
	for _, s := range a.order {
		for i := range s.watches {
			s.watches[i] = watch{lease: s.watches[i].lease}
		}
	}
	a.KeepOwners(a.owners)
}

// leaveYielded takes out of a plan what an agent leaves to somebody else.
func (a *Actor) leaveYielded(changes []Change, report *Report) []Change {
	return slices.DeleteFunc(changes, func(c Change) bool {
		leave := !c.Release && slices.ContainsFunc(a.yielded, func(y *Lease) bool {
			return y.Target == c.Target && y.ID == c.ID && y.Owner == c.Owner && y.New == c.New
		})
		if leave {
			report.Refused = append(report.Refused, Refusal{Task: c.For, Kind: c.Kind,
				Reason: c.name() + " was changed by somebody else since it was set, and stays"})
		}
		return leave
	})
}
