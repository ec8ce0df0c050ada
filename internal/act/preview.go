package act

// Preview has a dry run plan as an agent that holds these leases would: what the first
// decision of an owner does not mention, and all of an owner that [Actor.KeepOwners] does not
// name, is given back. They are only read, and are not looked at: leave out those that the
// host does not have any more. It is called once, after KeepOwners and before the first tick
// of an Actor that has no journal.
func (a *Actor) Preview(leases []Lease) {
	for i := range leases {
		a.adopt(&leases[i])
	}
	// Who watches nothing of a cgroup never finds it changed.
	for _, s := range a.order {
		for i := range s.watches {
			s.watches[i] = watch{lease: s.watches[i].lease}
		}
	}
	a.KeepOwners(a.owners)
}
