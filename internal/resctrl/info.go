package resctrl

// Kind is what the values of a resource are.
type Kind uint8

// The kinds of resources.
const (
	Mask      Kind = iota // capacity bit mask of a cache, hexadecimal in schemata
	Bandwidth             // of memory, decimal
)

// Unit is what bandwidth is given in.
type Unit uint8

// The units of bandwidth.
const (
	Steps   Unit = iota // of the hardware's own kind, as AMD's 1/8 GB/s
	Percent             // of what a core can do
	MBps                // of a monitoring group: mounted with mba_MBps
)

// Resource is one that can be allocated: a directory of info/ and a line of
// schemata.
type Resource struct {
	Name    string // "L3", "L2", "MB", "SMBA"; with CDP "L3CODE" and "L3DATA"
	Kind    Kind
	CLOSIDs int   // num_closids
	Domains []int // ids as they are in schemata, sorted

	// Of a Mask.
	Bits      uint64 // cbm_mask: all that there are
	MinBits   int    // min_cbm_bits; may be 0
	Shareable uint64 // shareable_bits: those that other agents (I/O, GPU) use, too
	Sparse    bool   // sparse_masks: gaps are allowed

	// Of a Bandwidth.
	Unit         Unit
	Min          uint64 // min_bandwidth
	Granularity  uint64 // bandwidth_gran: others are rounded up to a multiple; at least 1
	Max          uint64 // no limit; 0 = not known
	Linear       bool   // delay_linear
	ThrottleMode string // thread_throttle_mode: "max", "per-thread"; "" where there is none
}

// Monitoring is what one monitoring resource tells: a directory *_MON of info/.
type Monitoring struct {
	Name   string // "L3_MON"
	RMIDs  int    // num_rmids, those of control groups included
	Events []string
	// MaxThreshold is max_threshold_occupancy, bytes: below it a freed RMID can be
	// used again.
	MaxThreshold uint64
	// AssignMode is how MBM counters get to groups where there are fewer than RMIDs
	// (mbm_assign_mode, since 6.18): "default", "mbm_event"; "" where there is none.
	AssignMode string
	// Counters is num_mbm_cntrs by domain; nil where there is none.
	Counters map[int]int
}

// Info is what a mount of resctrl can do.
type Info struct {
	Resources  []Resource // sorted by name
	Monitoring []Monitoring
	Options    []string // of the mount: "cdp", "cdpl2", "mba_MBps", "debug"
}

// ReadInfo reads info/ and the schemata of the default group below dir, where
// resctrl is mounted with these options. What it does not know of, as files of
// later kernels, it leaves out.
func ReadInfo(dir string, options []string) (*Info, error) { panic("A") }

// Resource returns the one of this name, nil if there is none.
func (in *Info) Resource(name string) *Resource { panic("A") }

// CLOSIDs is how many control groups there can be, the default group included:
// the minimum over the resources; 0 if nothing can be allocated.
func (in *Info) CLOSIDs() int { panic("A") }

// RMIDs is how many groups can be monitored, control groups included; 0 if
// nothing can be monitored.
func (in *Info) RMIDs() int { panic("A") }

// Has says whether an event ("llc_occupancy", "mbm_total_bytes",
// "mbm_local_bytes") can be monitored.
func (in *Info) Has(event string) bool { panic("A") }
