package resctrl

// Group reads what a group used; its files are open as long as there are not too
// many.
type Group struct {
	tree *Tree
	name Name
}

// Count is a reading that may be absent: the kernel had none ("Unavailable",
// "Unassigned", "Error"), or the host has no such event.
type Count struct {
	N  uint64
	OK bool
}

// Domain is where a cache is shared.
type Domain struct {
	Resource string // "L3"
	ID       int    // of the cache, as in schemata
	// Node is the sub-NUMA node within it (mon_sub_L3_NN), -1 for all of the cache.
	Node int
}

// Usage is what a group used in one domain since it was made: a group and the
// monitoring groups that are in it now.
type Usage struct {
	Domain
	Occupancy Count // llc_occupancy: bytes, now
	Total     Count // mbm_total_bytes
	Local     Count // mbm_local_bytes: from the domain's own memory
}

// Open opens the files of a group's mon_data.
func (t *Tree) Open(n Name) (*Group, error) { panic("B") }

// Name returns the group's name; it follows a [Tree.Rename] through [Group.Renamed].
func (g *Group) Name() Name { return g.name }

// Renamed tells that the group has been renamed; what is open stays open.
func (g *Group) Renamed(n Name) { g.name = n }

// Read reads all events of all domains, into list, which it returns; it belongs to
// the caller. The order is the same as long as the domains are. A domain that
// came or went offline is noticed. [ErrGone] if the group does not exist any more.
func (g *Group) Read(list []Usage) ([]Usage, error) { panic("B") }

// Close closes the files. The group stays.
func (g *Group) Close() error { panic("B") }
