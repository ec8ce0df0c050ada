package act

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/owca-project/owca/internal/resctrl"
)

// ErrHeld is that another agent has the journal; the error names it.
var ErrHeld = errors.New("another owca acts on this host")

// ErrNewer is that the journal was written by a later version, which has to restore it.
var ErrNewer = errors.New("written by a later version of owca")

// Journal is the file of leases below state_dir: append-only, each record with a
// checksum, fsynced in batches, and compacted when most of it is history. A record that
// was cut off by a crash is the end of the journal; one that is corrupt in the middle is
// told and left out, and the file is kept beside as leases.damaged.
//
// It is of one boot: what it says of an earlier one is void, as all cgroups are gone
// with that. So what a process wrote is enough for a crash of that process, fsynced or
// not; fsync is how errors of the disk are heard of before the change is made.
type Journal struct {
	dir, boot string
	lock      *os.File // locked

	// file is nil until the first write; stale says that it has what must not be appended
	// to, damage or what a write left that failed: the next write makes a new one.
	file    *os.File
	size    int64
	stale   bool
	records int   // in it, and pending
	void    int   // leases of an earlier boot, which were found
	lost    error // the ErrLost of what was found

	leases  map[Target]*Lease
	yielded map[Target]*Lease // of which nobody else has to know but people; none have a lease
	seq     uint64
	pending []byte          // records that were not written
	before  []journalBefore // each change of the last Take
	failed  error           // of the last write, until one succeeds
}

// journalBefore is what a target's lease was before a change.
type journalBefore struct {
	target Target
	lease  Lease // Seq 0: none
}

const (
	journalFile    = "leases"
	journalNew     = "leases.new"
	journalDamaged = "leases.damaged"
	// journalSlack is how many records of history are never worth a compaction.
	journalSlack = 256
)

// OpenJournal takes the lock in dir, which is made if need be, and reads what an earlier
// agent left. Errors: ErrHeld, ErrNewer, those of the file system. Damage is no error:
// told says what could not be read. Nor is a full disk, as it may have room when there
// is something to write.
func OpenJournal(dir string) (j *Journal, told []string, err error) {
	return openJournal(dir, asAgent)
}

func openJournal(dir string, role lockRole) (j *Journal, told []string, err error) {
	boot, err := bootID()
	if err != nil {
		return nil, nil, err
	}
	if role == asAgent {
		if err := makeStateDir(dir); err != nil {
			return nil, nil, err
		}
	}
	if err := checkStateDir(dir); err != nil {
		return nil, nil, err
	}
	lock, told, err := takeLock(dir, role)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			_ = lock.Close() // gives up the lock
		}
	}()
	j = &Journal{dir: dir, boot: boot, lock: lock, leases: map[Target]*Lease{}}
	data, err := os.ReadFile(j.path(journalFile))
	if errors.Is(err, fs.ErrNotExist) {
		return j, told, nil
	}
	if err != nil {
		return nil, nil, stateError(dir, err)
	}
	s, err := parseJournal(data, boot)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", j.path(journalFile), err)
	}
	told = append(told, s.tell(j.path(journalFile), true)...)
	j.void, j.lost = s.void, s.lost(boot)
	if s.damaged > 0 {
		if err := j.keepDamaged(); err != nil {
			told = append(told, fmt.Sprintf("%s cannot be kept as %s: %v", j.path(journalFile), journalDamaged, err))
		} else {
			told = append(told, fmt.Sprintf("%s is kept as %s", j.path(journalFile), journalDamaged))
		}
	}
	for _, l := range s.leases {
		if !l.Yielded { // to whom that was decided is not known any more
			j.leases[l.Target] = l
		}
	}
	j.seq = s.seq
	j.stale = true // the first write makes a file with our header, and without history
	return j, told, nil
}

// keepDamaged gives the file, which the next write replaces, a second name.
func (j *Journal) keepDamaged() error {
	if err := os.Remove(j.path(journalDamaged)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Link(j.path(journalFile), j.path(journalDamaged))
}

// ReadJournal reads the leases without the lock, as of now, and who has the lock, with those
// that have [Lease.Yielded]. Those of an earlier boot are left out. A directory that does not
// exist has none.
func ReadJournal(dir string) (leases []Lease, holder Holder, told []string, err error) {
	boot, err := bootID()
	if err != nil {
		return nil, Holder{}, nil, err
	}
	if holder, err = readHolder(dir); err != nil {
		return nil, Holder{}, nil, err
	}
	data, err := os.ReadFile(filepath.Join(dir, journalFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, holder, nil, nil
	}
	if err != nil {
		return nil, holder, nil, stateError(dir, err)
	}
	s, err := parseJournal(data, boot)
	if err != nil {
		return nil, holder, nil, fmt.Errorf("%s: %w", filepath.Join(dir, journalFile), err)
	}
	for _, l := range s.sorted() {
		leases = append(leases, *l)
	}
	// The end that is being written is no damage.
	told = s.tell(filepath.Join(dir, journalFile), holder.PID == 0)
	if s.void > 0 {
		told = append(told, fmt.Sprintf("%s: %d leases of an earlier boot are void", filepath.Join(dir, journalFile), s.void))
	}
	return leases, holder, told, nil
}

func (j *Journal) path(name string) string { return filepath.Join(j.dir, name) }

// Leases returns those that are held, by Seq. The slice is the caller's, the leases are
// not.
func (j *Journal) Leases() []*Lease {
	return slices.SortedFunc(maps.Values(j.leases), bySeq)
}

// Lease returns the one of a target; nil if there is none.
func (j *Journal) Lease(t Target) *Lease { return j.leases[t] }

// Take writes down changes that are about to be made, and returns when they are on disk.
// A change of a target that is leased already renews the lease, which keeps First and
// Seq. A RemoveGroup needs no lease, as it is not undone. With an error nothing is
// leased, and nothing may be changed.
func (j *Journal) Take(now time.Time, changes []Change) error {
	if len(changes) == 0 {
		return nil
	}
	j.before = j.before[:0]
	seq, pending, records := j.seq, len(j.pending), j.records
	err := j.take(now, changes)
	if err == nil && len(j.before) > 0 {
		err = j.flush(true)
	}
	if err != nil {
		for _, b := range slices.Backward(j.before) {
			j.putBack(&b)
		}
		j.before = j.before[:0]
		j.seq, j.pending, j.records = seq, j.pending[:pending], records
	}
	return err
}

func (j *Journal) take(now time.Time, changes []Change) error {
	for i := range changes {
		c := &changes[i]
		if c.Resctrl != nil && c.Resctrl.Kind == resctrl.RemoveGroup {
			continue
		}
		l := j.leases[c.Target]
		if l == nil && (c.Release || c.Undo) {
			return fmt.Errorf("act: %s of task %s is not leased: nothing to give back", c.Kind, c.For)
		}
		again := c.Resctrl != nil && slices.ContainsFunc(j.before, func(b journalBefore) bool { return b.target == c.Target })
		b := journalBefore{target: c.Target}
		if l != nil {
			b.lease = *l
		}
		j.before = append(j.before, b)
		if l != nil && l.ID != c.ID {
			j.End(c.Target, EndGone) // another cgroup by the same path
			l = nil
		}
		if l == nil {
			j.seq++
			l = &Lease{Seq: j.seq, Change: *c, First: c.Old, Since: now, Last: now}
			j.leases[c.Target] = l
		} else {
			l.renew(now, c, again)
		}
		if err := j.record(record{Lease: l}); err != nil {
			return err
		}
	}
	return nil
}

// putBack makes a lease what it was.
func (j *Journal) putBack(b *journalBefore) {
	l := j.leases[b.target]
	switch {
	case b.lease.Seq == 0:
		delete(j.leases, b.target)
	case l == nil:
		lease := b.lease
		j.leases[b.target] = &lease
	default:
		*l = b.lease
	}
}

// renew makes c the change that l was last made for; again: it was made for another one in
// the same batch.
func (l *Lease) renew(now time.Time, c *Change, again bool) {
	first := l.Resctrl
	l.Change, l.Last = *c, now
	if c.Resctrl == nil || first == nil {
		return
	}
	if !again {
		l.Before = first
	}
	// What undoes all of them.
	merged := *c.Resctrl
	switch {
	case c.Undo:
		merged = *first
	case first.Kind == resctrl.CreateGroup:
		merged.Kind, merged.Old = resctrl.CreateGroup, nil
		merged.New = first.New.Overlay(c.Resctrl.New)
	case c.Resctrl.Kind == resctrl.SetSchemata:
		merged.Old = c.Resctrl.Old.Overlay(first.Old)
		merged.New = first.New.Overlay(c.Resctrl.New)
	case c.Resctrl.Kind == resctrl.MoveTask:
		merged.From = first.From
	}
	l.Resctrl = &merged
}

// Drop takes back the last Take of a target whose change was not made: the lease is as
// before, or ends. It is on disk as End says.
func (j *Journal) Drop(t Target) {
	for i, b := range slices.Backward(j.before) {
		if b.target != t {
			continue
		}
		j.before = slices.Delete(j.before, i, i+1)
		l := j.leases[t]
		switch {
		case l == nil: // it has ended since
		case b.lease.Seq == 0:
			j.End(t, endDropped)
		default:
			j.putBack(&b)
			_ = j.record(record{Lease: l}) // as Take could write
		}
		return
	}
}

// Effect writes down what took effect where it is not what was planned.
func (j *Journal) Effect(t Target, value string) {
	l := j.leases[t]
	if l == nil || l.New == value {
		return
	}
	l.New = value
	_ = j.record(record{Lease: l}) // Take could
	// Without it, what took effect would be taken for somebody else's after a crash. An
	// error is told by the Sync to come, for which it stays pending.
	_ = j.flush(false)
}

// End writes down that a lease has ended. It is in the file with the next Take or Sync at the
// latest, which must come soon after an [EndForeign]: of the others, whoever reads a lease that
// has ended finds the old value in place.
func (j *Journal) End(t Target, how End) {
	l := j.leases[t]
	if l == nil {
		return
	}
	delete(j.leases, t)
	if how != EndForeign {
		_ = j.record(record{Seq: l.Seq, End: how}) // a number and a text
		return
	}
	y := l.clone()
	y.Yielded = true
	if j.yielded == nil {
		j.yielded = map[Target]*Lease{}
	}
	j.yielded[t] = &y
	_ = j.record(record{Lease: &y}) // as the lease was
}

// forgetYielded forgets those that do not stand any more, or have a lease again.
func (j *Journal) forgetYielded(stands func(*Lease) bool) {
	for t, y := range j.yielded {
		if j.leases[t] == nil && stands(y) {
			continue
		}
		delete(j.yielded, t)
		_ = j.record(record{Seq: y.Seq, End: EndForeign}) // a number and a text
	}
}

// Sync writes what is pending, without waiting for the disk as no change depends on it, and
// compacts when it is worth it. With an error what is pending is written with the next. If
// there is nothing to write, it is that of the last write, be it of a Take.
func (j *Journal) Sync() error {
	if len(j.pending) > 0 {
		if err := j.flush(false); err != nil {
			return err
		}
	}
	if j.compactable() {
		j.failed = j.rewrite()
	}
	return j.failed
}

// compactable says whether most of the file is history.
func (j *Journal) compactable() bool {
	return !j.stale && j.records > 4*(len(j.leases)+len(j.yielded))+journalSlack
}

// Close writes what is pending and gives up the lock. A journal without leases is removed.
func (j *Journal) Close() error {
	var err error
	if len(j.leases) == 0 {
		if err = os.Remove(j.path(journalFile)); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if err != nil {
			err = stateError(j.dir, err)
		}
	} else if len(j.pending) > 0 {
		// What is not written is ended leases, of which a reader finds the old values.
		err = j.flush(true)
	}
	if j.file != nil {
		err = errors.Join(err, j.file.Close())
		j.file = nil
	}
	return errors.Join(err, j.lock.Close())
}

// record adds one to those that are pending. The error is a knob or kind of change that does
// not exist.
func (j *Journal) record(r record) error {
	b, err := appendRecord(j.pending, j.boot, &r)
	if err == nil {
		j.pending = b
		j.records++
	}
	return err
}

// flush writes what is pending in one write and, if so asked, waits until it is on disk.
// With an error it stays pending, and none of it is in the file.
func (j *Journal) flush(sync bool) error {
	j.failed = j.write(sync)
	return j.failed
}

func (j *Journal) write(sync bool) error {
	if j.file == nil || j.stale || j.unlinked() {
		return j.rewrite()
	}
	n, err := j.file.WriteAt(j.pending, j.size)
	if err == nil && sync {
		if err = syscall.Fdatasync(int(j.file.Fd())); err != nil {
			// The kernel has forgotten what it could not write: asking again would succeed.
			j.stale = true
			err = &fs.PathError{Op: "fdatasync", Path: j.file.Name(), Err: err}
		}
	}
	if err != nil {
		if n > 0 {
			if truncErr := j.file.Truncate(j.size); truncErr != nil {
				j.stale = true
			}
		}
		return stateError(j.dir, err)
	}
	j.size += int64(n)
	j.pending = j.pending[:0]
	return nil
}

// unlinked says whether somebody removed the file, which a guardian could not read then.
func (j *Journal) unlinked() bool {
	var st syscall.Stat_t
	return syscall.Fstat(int(j.file.Fd()), &st) == nil && st.Nlink == 0
}

// rewrite replaces the file by one of the leases alone.
func (j *Journal) rewrite() error {
	leases := slices.AppendSeq(j.Leases(), maps.Values(j.yielded))
	b := journalHeader(j.boot)
	for _, l := range leases {
		var err error
		if b, err = appendRecord(b, j.boot, &record{Lease: l}); err != nil {
			return err
		}
	}
	f, err := j.replace(b)
	if err != nil {
		_ = os.Remove(j.path(journalNew)) // the error says what is wrong
		return stateError(j.dir, err)
	}
	if j.file != nil {
		_ = j.file.Close() // it has no name any more
	}
	j.file, j.size, j.records = f, int64(len(b)), len(leases)
	j.pending = j.pending[:0]
	if err := syncDir(j.dir); err != nil {
		j.stale = true
		return stateError(j.dir, err)
	}
	j.stale = false
	return nil
}

// replace writes a new file, and gives it the name when it is on disk.
func (j *Journal) replace(b []byte) (_ *os.File, err error) {
	f, err := os.OpenFile(j.path(journalNew), os.O_RDWR|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	if _, err := f.Write(b); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	return f, os.Rename(j.path(journalNew), j.path(journalFile))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// bootID tells boots of the kernel apart; containers have their host's.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("which boot this is: %w", err)
	}
	return string(bytes.TrimSpace(b)), nil
}
