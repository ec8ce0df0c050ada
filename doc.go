// Package owca is the vocabulary of an agent that watches the tasks of one
// host, measures what they use and how they suffer, tells who hurts whom, and
// adjusts limits. It imports the standard library only; everything that
// touches a host, a network or a file lives under internal/.
//
// # The six steps
//
// Every interval the agent runs one tick, which reads like this page:
//
//	discover  Node.Tasks says which tasks run here, and in which cgroups.
//	measure   each task's cgroups, and the platform, are read into a Snapshot.
//	detect    Detector.Detect looks at the Snapshot and names anomalies.
//	decide    Allocator.Allocate looks at the Snapshot and says what to limit.
//	act       the decision becomes changes on the host, each one undone later.
//	store     the Snapshot, as a flat list of Metric, goes to every Storage.
//
// # Three rules about values
//
// A reading that failed is absent, never zero: a [Measurements] simply does
// not contain it. Counters are integers from the kernel's file to the output:
// a [Desc] says what one step of the integer is worth ([Desc.Scale]), and only
// the rendering moves the decimal point. "No limit" is +Inf, so that absent
// keeps meaning "could not be read".
//
// # Who owns what
//
// A Snapshot, the Measurements in it and a []Metric belong to the agent, which
// reuses them: whoever is called with one may read it until the call returns,
// and copies what it wants to keep. [Labels] are immutable and may be kept.
package owca
