package cgroup

// A Knob is a limit of a cgroup that can be set. Its value is text in one canonical form
// on all versions, so that what [Control.Get] returns can be compared, kept, and
// given to [Control.Set].
type Knob uint8

// The knobs, with the form of their values.
const (
	// CPUMax is "QUOTA PERIOD" in µs, "max 100000" without a limit: cpu.max; v1
	// cpu.cfs_quota_us and cpu.cfs_period_us.
	CPUMax Knob = iota
	// CPUMaxBurst is µs: cpu.max.burst; v1 cpu.cfs_burst_us. Linux 5.14.
	CPUMaxBurst
	// CPUSharesV1 is v1's cpu.shares, CPUWeightV2 is v2's cpu.weight: a cgroup has one of them.
	CPUSharesV1
	CPUWeightV2
	// CPUIdleFlag is "0" or "1": cpu.idle. Linux 5.15.
	CPUIdleFlag
	// CPUSetCPUList and CPUSetMemList are lists as the kernel writes them, "0-3,8": cpuset.cpus
	// and cpuset.mems as they are set, not as they are in effect; v2: "" is the parent's.
	CPUSetCPUList
	CPUSetMemList
	// MemoryHighLimit and MemoryLowLimit are bytes or "max": v2.
	MemoryHighLimit
	MemoryLowLimit
	// IOWeightDefault is the default weight: io.weight or io.bfq.weight; v1 blkio.bfq.weight or blkio.weight.
	IOWeightDefault
	// IOMaxLimits are lines "MAJ:MIN rbps=N wbps=N riops=N wiops=N" of the devices that have a
	// limit, with "max" for none, sorted by device: io.max; v1 blkio.throttle.*_device.
	IOMaxLimits

	NumKnobs
)

// String returns the name of the v2 file, "cpu.max"; of CPUSharesV1 that of v1.
func (k Knob) String() string { panic("A") }

// MarshalText is String.
func (k Knob) MarshalText() ([]byte, error) { panic("A") }

// UnmarshalText is the inverse of MarshalText.
func (k *Knob) UnmarshalText(text []byte) error { panic("A") }

// Equal says whether two values of a knob mean the same to the kernel: lists as sets,
// memory rounded to pages.
func (k Knob) Equal(a, b string) bool { panic("A") }

// Mixes says whether value is what one can find when a change among these values was broken
// off in the middle: each file, or each device, has what one of them says. Each of
// them alone is such a mix.
func (k Knob) Mixes(value string, of ...string) bool { panic("A") }

// A Control reads and writes the limits of one cgroup. It is used like a [Group]: by one
// goroutine at a time, as the Tree that it is of.
type Control struct {
	tree *Tree
	path string
}

// Control opens a cgroup to change its limits; no file is opened yet. The error wraps
// fs.ErrNotExist if no hierarchy has it.
func (t *Tree) Control(path string) (*Control, error) { panic("A") }

// Path returns the path that the Control was opened by.
func (c *Control) Path() string { return c.path }

// ID tells this cgroup from others that had or will have its path: the inodes of its
// directories, as text. It is the same in other processes, until the next boot.
func (c *Control) ID() string { panic("A") }

// File returns the file of a knob, for messages; the first one where there are two.
func (c *Control) File(k Knob) string { panic("A") }

// Get reads a knob; the file stays open for the next time. Errors, as fs.PathErrors:
// [ErrGone]; errors.ErrUnsupported if there is no such file: the controller is not enabled
// there, or the kernel has not the feature; otherwise the errno.
func (c *Control) Get(k Knob) (string, error) { panic("A") }

// Set writes a knob. All of it takes effect or, with an error, none of it, as far as the kernel
// lets what was written before be put back. It does not wait for memory to be reclaimed. Errors
// as of Get; what the kernel refuses is its errno (EINVAL, EBUSY, ENOSPC, …) in a
// fs.PathError, the value in the message.
func (c *Control) Set(k Knob, value string) error { panic("A") }

// Below calls f for each cgroup below this one, with its path and the knob's value, of those
// that have the knob, until f returns false.
func (c *Control) Below(k Knob, f func(path, value string) bool) error { panic("A") }

// Close closes the files.
func (c *Control) Close() error { panic("A") }

// Shares converts a cpu.weight to the cpu.shares that it stands for, and Weight the other way round, as
// the kernel documents it: weight = 1 + (shares − 2) × 9999 / 262142.
func Shares(weight uint64) uint64 { panic("A") }

// Weight is the inverse of Shares, within 1 to 10000.
func Weight(shares uint64) uint64 { panic("A") }
