package resctrl

// FS is the host below Root ("/", or where a container has it mounted).
type FS struct{ Root string }

// Mount is a mounted resctrl.
type Mount struct {
	Dir      string   // with the Root
	Options  []string // those of resctrl: "cdp", "mba_MBps", …
	ReadOnly bool
	// Ours: it was mounted by [FS.Mount], by this process or another. It is told
	// by the source in the list of mounts.
	Ours bool
}

// MountOptions are those of resctrl. The kernel refuses what the host has not.
type MountOptions struct {
	CDP   bool // code and data of L3 apart; halves the number of control groups
	CDPL2 bool
	MBps  bool // bandwidth in MBps, kept by a feedback loop of the kernel
}

// Mounted returns the last mount of resctrl. Errors: [ErrNotMounted];
// errors.ErrUnsupported if the kernel has no resctrl, or found no such hardware.
func (f FS) Mounted() (Mount, error) { panic("B") }

// Mount mounts resctrl at sys/fs/resctrl below Root. The source is "owca", so that
// whoever started next knows whose it is.
func (f FS) Mount(o MountOptions) (Mount, error) { panic("B") }

// Unmount unmounts what Mount mounted; all groups end with it. It refuses when the
// mount is not ours, or when there are groups that are not.
func (f FS) Unmount(m Mount) error { panic("B") }
