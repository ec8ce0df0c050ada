package act

import (
	"errors"
	"time"
)

// ErrHeld: another agent has the journal; the error names it.
var ErrHeld = errors.New("another owca acts on this host")

// ErrNewer: the journal was written by a later version, which has to restore it.
var ErrNewer = errors.New("written by a later version of owca")

// Journal is the file of leases below state_dir: append-only, each record with a checksum, fsynced in batches, and
// compacted when most of it is history. A record that was cut off by a crash is the end of the journal; one that is
// corrupt in the middle is told and left out, and the file is kept beside.
//
// It is of one boot: what it says of an earlier one is void, as all cgroups are gone with that.
type Journal struct{ dir string }

// OpenJournal takes the lock in dir, which is made if need be, and reads what an earlier agent left. Errors: ErrHeld, ErrNewer,
// those of the file system. Damage is no error: told says what could not be read.
func OpenJournal(dir string) (j *Journal, told []string, err error) { panic("C") }

// ReadJournal reads the leases without the lock, as of now, and who has the lock.
func ReadJournal(dir string) (leases []Lease, holder Holder, told []string, err error) { panic("C") }

// Holder is the agent that has the lock.
type Holder struct {
	PID   int // 0: nobody
	Since time.Time
}

// Leases returns those that are held, by Seq. The slice is the caller's, the leases are not.
func (j *Journal) Leases() []*Lease { panic("C") }

// Lease returns the one of a target; nil if there is none.
func (j *Journal) Lease(t Target) *Lease { panic("C") }

// Take writes down changes that are about to be made, and returns when they are on disk. A change of a target that is leased
// already renews the lease, which keeps First. With an error nothing is leased, and nothing may be changed.
func (j *Journal) Take(now time.Time, changes []Change) error { panic("C") }

// Drop takes back the last Take of a target whose change was not made: the lease is as before, or ends.
func (j *Journal) Drop(t Target) { panic("C") }

// Effect writes down what took effect where it is not what was planned.
func (j *Journal) Effect(t Target, value string) { panic("C") }

// End writes down that a lease has ended. It is on disk with the next Take or Sync at the latest: whoever reads a lease
// that has ended finds the old value in place.
func (j *Journal) End(t Target, how End) { panic("C") }

// Sync writes what is pending, and compacts when it is worth it. The error is told once; what is pending is written with the next.
func (j *Journal) Sync() error { panic("C") }

// Close writes what is pending and gives up the lock. A journal without leases is removed.
func (j *Journal) Close() error { panic("C") }
