package resctrl

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	// followPasses bounds one Follow. Threads and children of threads that are in are
	// born in, so that each pass leaves only those that were being forked meanwhile: a
	// child has its parent's group from the beginning of fork(2) (dup_task_struct), and is
	// listed at its end.
	followPasses = 5
	// forkTime is how long the second pass waits for forks to end, the next ones twice as
	// long each.
	forkTime = time.Millisecond
	// locateFew is up to how many threads are looked at one by one: a file in /proc
	// costs some 10 µs, a tasks file a walk over all threads of the host.
	locateFew = 32
	// lookEvery is in which of the full passes the group is looked at for strangers, if
	// it is not read anyway.
	lookEvery = 8
	// majoritySample is how many threads are enough to tell where most are.
	majoritySample = 64
	// placesAge is how old the list of all groups' threads may be on kernels that do not
	// tell the group of a thread: reading it once does for a round over many tasks.
	placesAge = time.Second
)

// Watch keeps the threads of one task together: in a control group and, as long as
// it is monitored, in a monitoring group of their own in that. One goroutine at a
// time may use it, as the [Tree] that it is of.
type Watch struct {
	tree    *Tree
	name    Name   // where the threads are; without Monitor if that was removed by somebody
	monitor string // what the monitoring group is called, there or not
	group   *Group // nil until the first Read
	epoch   int

	lost bool // somebody removed the monitoring group
	// placed: Move chose the control group, now or before a restart; the task was not
	// found there.
	placed bool
	// from is the control group that it was moved from, where threads may be that were
	// being forked then, for as many Follows as moving says.
	from   string
	moving int

	// Sorted. known are the threads at the last Follow; all of them are in the group
	// but the foreign ones and the refused.
	known, foreign, refused        []int
	list, unknown, in, take, stray []int // of one pass, kept for the next

	looks int // full passes until the next look for strangers

	byGroups bool // the kernel does not tell the group of a thread
}

// Lister appends the thread ids of a task to buf, as they are now: the list of a v1 cgroup
// must be opened each time, for one that stays open is up to a second old. One that has
// just ended may be among them. Those of the task that it leaves out are taken for
// strangers.
type Lister func(buf []int) ([]int, error)

// Watch begins to keep the threads of a task together. paths are the task's cgroups:
// a monitoring group that is named after one of them is adopted wherever it is, with
// what it counted (see [MonitorName]), of several the one with the most threads of
// the task; otherwise the task is where most of its threads are: in the default
// group, or where another program put it. In a control group of ours it is as if
// Move had put it there. Nothing is written; the first Follow moves the threads.
// groups are those of [Tree.Groups], read once for all tasks.
func (t *Tree) Watch(paths []string, groups []Name, threads Lister) (*Watch, error) {
	if len(paths) == 0 {
		return nil, errors.New("resctrl: a task without a cgroup cannot be watched")
	}
	w := &Watch{tree: t, monitor: MonitorName(paths[0])}
	_, err := t.Locate(os.Getpid())
	w.byGroups = errors.Is(err, errors.ErrUnsupported)
	if w.list, err = listed(threads, nil); err != nil {
		return nil, err
	}

	names := make([]string, len(paths))
	for i, p := range paths {
		names[i] = MonitorName(p)
	}
	var candidates []Name
	for _, g := range groups {
		if slices.Contains(names, g.Monitor) {
			candidates = append(candidates, g)
		}
	}
	if len(candidates) > 1 {
		if candidates, err = w.fullest(candidates); err != nil {
			return nil, err
		}
	}
	if len(candidates) > 0 {
		w.name, w.monitor = candidates[0], candidates[0].Monitor
	} else if w.name.Control, err = w.majority(w.list); err != nil {
		return nil, err
	}
	w.placed = strings.HasPrefix(w.name.Control, Prefix)
	return w, nil
}

// fullest returns the group with the most threads of the task; none if all are gone.
func (w *Watch) fullest(groups []Name) (best []Name, err error) {
	most := -1
	for i, g := range groups {
		w.in, err = w.tree.Threads(g, w.in[:0])
		if errors.Is(err, ErrGone) {
			continue // since groups was read
		}
		if err != nil {
			return nil, err
		}
		slices.Sort(w.in)
		if n := len(tidsCommon(nil, w.list, w.in)); n > most {
			most, best = n, groups[i:i+1]
		}
	}
	return best, nil
}

// listed is what threads appends to buf[:0], sorted.
func listed(threads Lister, buf []int) ([]int, error) {
	list, err := threads(buf[:0])
	if err != nil {
		return list, err
	}
	slices.Sort(list)
	list = slices.Compact(list)
	if len(list) > 0 && list[0] <= 0 {
		// task_pid_vnr of a thread that has no id here.
		return list, fmt.Errorf("resctrl: %w: thread id %d: a thread of the task is in a pid namespace that is not below this process's: "+
			"run the agent in the host's (hostPID, --pid=host)", fs.ErrInvalid, list[0])
	}
	return list, nil
}

// MonitorName is the directory of the monitoring group of a task with this cgroup:
// Prefix and the path with "-" for "/", as the original named its, "~" and a hash of the path
// added where that is ambiguous, or longer than a file name may be: of such a path
// the end is kept, where the container's id is. No two paths have the same name, as
// far as 64 bits of SHA-256 tell them apart.
func MonitorName(path string) string {
	const maxName = 255 // NAME_MAX
	body, rooted := strings.CutPrefix(path, "/")
	// A plain name is the path again with "/" for "-"; it has no "~".
	plain := rooted && len(Prefix)+len(body) <= maxName
	name := strings.Map(func(r rune) rune {
		switch {
		case r == '/':
			return '-'
		case r == '-' || r == '~':
			plain = false
			return r
		case r < ' ' || r == 0x7f || r == '\ufffd':
			plain = false
			return '_'
		}
		return r
	}, body)
	if plain {
		return Prefix + name
	}
	sum := sha256.Sum256([]byte(path))
	hash := "~" + hex.EncodeToString(sum[:8])
	if over := len(Prefix) + len(name) + len(hash) - maxName; over > 0 {
		name = strings.ToValidUTF8(name[over:], "")
	}
	return Prefix + name + hash
}

// Orphans returns the monitoring groups of ours that are not kept: those of an agent
// that ran before, for tasks that ended meanwhile. It is right once all tasks are
// watched, with a kept that knows the [Watch.Name] of each.
func Orphans(groups []Name, kept func(Name) bool) []Name {
	var orphans []Name
	for _, n := range groups {
		if n.Monitor != "" && n.Ours() && !kept(n) {
			orphans = append(orphans, n)
		}
	}
	return orphans
}

// Name returns the group that the threads are kept in. It has no Monitor while there is
// none, and when somebody removed it.
func (w *Watch) Name() Name { return w.name }

// Epoch changes whenever the counts began anew: with a new monitoring group. It is 0
// for one that was adopted.
func (w *Watch) Epoch() int { return w.epoch }

// Monitor gives the task a monitoring group, if it has none; the next Follow moves the
// threads there. Errors: those of [Tree.Create]; errors.ErrUnsupported where nothing
// can be monitored.
func (w *Watch) Monitor() error {
	if w.name.Monitor != "" {
		return nil
	}
	if w.tree.info.RMIDs() == 0 {
		return fmt.Errorf("resctrl: monitoring: %w by this host", errors.ErrUnsupported)
	}
	to := Name{Control: w.name.Control, Monitor: w.monitor}
	// One that exists is this task's: of a name like that there is no other.
	if err := w.tree.Create(to); err != nil && !errors.Is(err, fs.ErrExist) {
		if errors.Is(err, ErrGone) {
			w.forget() // the control group is: Follow looks where the threads are
		}
		return err
	}
	w.name, w.lost = to, false
	w.epoch++
	w.forget()
	return nil
}

// Unmonitor removes the monitoring group; the threads stay in the control group. If that
// fails, the group is there and the threads in it.
func (w *Watch) Unmonitor() error {
	w.lost = false
	if w.name.Monitor == "" {
		return nil
	}
	w.tree.places.at = nil
	err := errors.Join(w.closeGroup(), w.tree.Remove(w.name))
	if err != nil {
		return err
	}
	w.name.Monitor = "" // the kernel moves its threads to the control group
	return nil
}

// Move moves the task to another control group, which exists, with its monitoring
// group: its counts go on where the kernel can rename it, and begin anew where not;
// if no RMID is free for that, it is made by a later Follow. A full Follow comes
// first, so that what is moved are the threads of the task as it is now, and no
// others; what that cannot do, but for want of an RMID, is the error, and then nothing
// is moved. The next Follow moves those that were being forked. After an error the
// task is where Name says: as a rule where it was.
func (w *Watch) Move(control string, threads Lister) error {
	w.looks = 0
	if f, err := w.Follow(threads, true); err != nil && (f.Refused > 0 || !errors.Is(err, ErrNoRMID)) {
		return fmt.Errorf("resctrl: %s is not moved to %s: %w", w.name, Name{Control: control}, err)
	}
	err := w.moveTo(control)
	if w.name.Control == control {
		w.placed = true
	}
	return err
}

func (w *Watch) moveTo(control string) error {
	from := w.name.Control
	if control == from {
		return nil
	}
	inside := tidsWithout(nil, tidsWithout(nil, w.known, w.foreign), w.refused)
	err := w.moveMonitor(control)
	if errors.Is(err, ErrGone) && w.name.Control == from && w.gone() {
		err = w.lose() // the monitoring group, not the control group to move to
	}
	if err == nil && w.name.Monitor == "" && w.name.Control == from {
		to := Name{Control: control}
		if err = w.moveThreads(to, inside); err == nil {
			w.name = to
		}
	}
	if w.name.Control == control {
		w.from, w.moving = from, 2
	}
	return err
}

// moveMonitor moves the monitoring group, if there is one, and the threads in it.
func (w *Watch) moveMonitor(control string) error {
	if w.name.Monitor == "" {
		return nil
	}
	to := Name{Control: control, Monitor: w.name.Monitor}
	w.tree.places.at = nil
	err := w.tree.Rename(w.name, to)
	if errors.Is(err, fs.ErrExist) {
		// Left by a move that did not come to its end.
		if err = w.tree.Remove(to); err == nil {
			err = w.tree.Rename(w.name, to)
		}
	}
	if errors.Is(err, errors.ErrUnsupported) {
		return w.replaceMonitor(to)
	}
	if err != nil {
		return err
	}
	w.name = to
	if w.group != nil {
		w.group.Renamed(to)
	}
	return nil
}

// replaceMonitor is moveMonitor where the kernel cannot rename.
func (w *Watch) replaceMonitor(to Name) error {
	tids, err := w.tree.Threads(w.name, nil)
	if err != nil {
		return err
	}
	created := true
	switch err := w.tree.Create(to); {
	case errors.Is(err, ErrNoRMID):
		// What the task may use matters more than that it is counted.
		to.Monitor, created = "", false
	case err != nil && !errors.Is(err, fs.ErrExist):
		return err
	}
	if err := w.moveThreads(to, tids); err != nil {
		if created {
			err = errors.Join(err, w.tree.Remove(to))
		}
		return err
	}
	old := w.name
	w.name = to
	w.tree.places.at = nil
	if created {
		w.epoch++
	}
	w.lost = !created
	if err := errors.Join(w.closeGroup(), w.tree.Remove(old)); err != nil {
		return fmt.Errorf("resctrl: the threads of %s moved to %s, the old group stays: %w", old, to, err)
	}
	return nil
}

// moveThreads moves threads from the group, all or, as far as the kernel allows, none.
func (w *Watch) moveThreads(to Name, tids []int) error {
	if len(tids) == 0 {
		_, err := w.tree.Threads(to, nil) // there is such a group
		return err
	}
	moved, err := w.tree.Add(to, tids)
	if err == nil {
		return nil
	}
	back := 0
	if moved > 0 {
		w.forget() // some may stay there
		var failed error
		back, failed = w.tree.Add(w.name, tids)
		err = errors.Join(err, failed)
	}
	return fmt.Errorf("resctrl: of %d threads %d moved from %s to %s, and %d back: %w",
		len(tids), moved, w.name, to, min(moved, back), err)
}

// gone asks the kernel whether the group is.
func (w *Watch) gone() bool {
	var err error
	w.in, err = w.tree.Threads(w.name, w.in[:0])
	return errors.Is(err, ErrGone)
}

// lose is for a group that does not exist any more. The kernel moved the threads of a
// monitoring group to its control group, those of that to the default group.
func (w *Watch) lose() error {
	if w.name.Monitor != "" {
		w.lost = true
		w.name.Monitor = ""
	}
	w.tree.places.at = nil
	w.forget()
	return w.closeGroup()
}

// forget has the next Follow look at all threads.
func (w *Watch) forget() {
	w.known, w.foreign, w.refused = w.known[:0], w.foreign[:0], w.refused[:0]
}

func (w *Watch) closeGroup() error {
	if w.group == nil {
		return nil
	}
	err := w.group.Close()
	w.group = nil
	return err
}

// Followed is what one Follow did.
type Followed struct {
	Threads int // of the task
	Moved   int // into the group
	// Foreign is how many threads are in another group that somebody else put them
	// in since. They are left there; what the group counts is not all of the task.
	Foreign int
	// Refused is how many threads the kernel does not let be moved, or does not tell
	// the group of: the error of the Follow that tried says why. The next one that is
	// full tries again.
	Refused int
	// Strangers is how many threads were moved out of the group that are the task's
	// no more, or never were. Where tasks share a control group without monitoring, one
	// of them may have gone to another task of it: follow those fully then, lest it run
	// without their limits until their turn.
	Strangers int
	// Stable: a pass found nothing more to move.
	Stable bool
}

// Follow moves the threads of the task that are not in its group there: those that
// were moved into its cgroups from elsewhere. Threads and children of threads in
// the group are born in it. It lists the threads until a pass finds none to move, at
// most a few times. A thread that is being forked while its parent is moved is found
// by the next Follow, which, where it finds threads again, waits some milliseconds
// before each other pass for forks to end. A thread that it knows is not looked at
// again unless full, where the kernel is asked for all: that finds those that
// somebody moved away, those that are foreign no more, a group that was removed, and a
// thread that has the id of one that was known and ended. The pace for that is
// seconds; otherwise Follow is for every tick in which threads may have come: with
// nothing new it costs the listing and a comparison.
//
// Strangers, as a process that left the task's cgroups, go to the default group, or to
// the control group if that is another program's which the task was found in. In a
// monitoring group a full pass finds them: each where the task has many threads,
// otherwise one in eight. In a control group, which tasks share, only those are known
// that were the task's at the last Follow.
//
// A task in a control group that neither Move put it in nor is ours stays there: when
// most threads are, its monitoring group moves to it, and the others do. Single
// ones are Foreign, and so are those in a monitoring group of somebody else, until
// they are back in a control group itself. A thread in the default group is taken, as
// those that come from elsewhere are there, and so is one in a control group of ours
// that the task is not in, however many there are: they come from the cgroup of another
// task. Only when a full pass finds all threads in the default group, most of which were
// in the task's control group before, has somebody moved the task: it stays there.
//
// An error is one of threads, which is returned as it is, or tells what could not be
// done; the rest was done. fs.ErrPermission where /proc hides threads of others (see
// [Tree.Locate]), and fs.ErrInvalid for a thread that has no id in this process's pid
// namespace: they cannot be followed. [ErrGone] if the file system was unmounted.
// Those of [Tree.Create] if a monitoring group that somebody removed cannot be made
// again: the next Follow tries it, unless Unmonitor says otherwise.
func (w *Watch) Follow(threads Lister, full bool) (Followed, error) {
	var f Followed
	var failed error
	restore := true // a removed group is made again once
	wait := time.Duration(0)
	if len(w.known) > 0 {
		wait = forkTime
	}
	for range followPasses {
		var err error
		if w.list, err = listed(threads, w.list); err != nil {
			return f, errors.Join(failed, err)
		}
		f.Threads = len(w.list)

		if w.lost && restore {
			restore = false
			failed = errors.Join(failed, w.restore())
		}
		if !full && slices.Equal(w.list, w.known) {
			f.Stable = true
			break
		}
		again, moved, err := w.pass(full)
		f.Moved += moved
		if len(w.stray) > 0 {
			out, expelling := w.expel(threads)
			f.Strangers += out
			err = errors.Join(err, expelling)
		}
		if errors.Is(err, ErrGone) && restore {
			restore = false
			if err = w.lose(); err == nil {
				err = w.restore()
			}
			again = true
		}
		failed = errors.Join(failed, err)
		if errors.Is(err, ErrGone) {
			break
		}
		if !again {
			// A pass that was given up knows nothing.
			f.Stable = f.Threads == 0 || len(w.known) > 0
			break
		}
		full = false // what was looked at in this pass is known
		if moved > 0 {
			time.Sleep(wait)
			wait *= 2
		}
	}
	if f.Stable && w.moving > 0 {
		w.moving--
	}
	f.Foreign, f.Refused = len(w.foreign), len(w.refused)
	return f, failed
}

// restore makes the monitoring group again and, where its control group is gone too,
// does so where the threads are now.
func (w *Watch) restore() error {
	create := func() error {
		if !w.lost {
			return nil
		}
		return w.Monitor()
	}
	if w.lost {
		if err := create(); !errors.Is(err, ErrGone) {
			return err
		}
	}
	control, err := w.majority(w.list)
	if err != nil {
		return err
	}
	w.name.Control, w.placed, w.moving = control, false, 0
	w.forget()
	return create()
}

// pass looks at the threads in w.list that are not known, at all if full, and moves
// what is not in the group. again: there was something to move, or all is to be
// looked at again. In w.stray it leaves those that seem to be strangers in the group.
func (w *Watch) pass(full bool) (again bool, moved int, err error) {
	w.stray = w.stray[:0]
	if w.name.Monitor == "" && w.name.Control != "" && w.placedHere() {
		w.stray = tidsWithout(w.stray, w.known, w.list)
	}
	look, stayed := false, 0
	if full {
		stayed = countCommon(w.list, w.known) - countCommon(w.list, w.foreign) - countCommon(w.list, w.refused)
		w.unknown = append(w.unknown[:0], w.list...)
		w.foreign, w.refused = w.foreign[:0], w.refused[:0]
		look = w.name.Monitor != "" && (w.looks <= 0 || len(w.unknown) > locateFew)
		if w.looks--; look {
			w.looks = lookEvery - 1
		}
	} else {
		w.unknown = tidsWithout(w.unknown[:0], w.list, w.known)
		w.foreign = tidsCommon(w.foreign[:0], w.foreign, w.list)
		w.refused = tidsCommon(w.refused[:0], w.refused, w.list)
	}
	if look || len(w.unknown) > locateFew {
		if err := w.dropInside(); err != nil {
			w.stray = w.stray[:0]
			w.forget()
			return false, 0, err
		}
	}
	if look {
		w.stray = tidsWithout(w.stray, w.in, w.list)
	}
	w.take = w.take[:0]
	var votes controlVotes
	ended := 0
	locate, err := w.locator(w.unknown)
	if err != nil {
		w.forget()
		return false, 0, err
	}
	for _, tid := range w.unknown {
		at, locating := locate(tid)
		switch {
		case errors.Is(locating, fs.ErrNotExist):
			ended++
			continue
		case locating != nil:
			w.refused = append(w.refused, tid)
			err = locating // one of them tells enough
			continue
		}
		votes.add(at.Control)
		switch w.place(at) {
		case placeForeign:
			w.foreign = append(w.foreign, tid)
		case placeElsewhere:
			w.take = append(w.take, tid)
		}
	}
	home, n := votes.most()
	alive := len(w.list) - ended
	expelled := home == "" && home != w.name.Control && w.placed && n == alive && 2*stayed > alive
	if expelled && w.gone() {
		w.forget()
		return false, 0, errors.Join(err, ErrGone) // it was the kernel
	}
	if home != w.name.Control && 2*n > alive && (foreignControl(home) || home == "" && !w.placed || expelled) {
		w.stray = w.stray[:0] // the next full pass looks for them, there
		w.looks = 0
		movingErr := w.moveTo(home)
		w.forget()
		if movingErr == nil {
			w.placed = false
		}
		return movingErr == nil, 0, errors.Join(err, movingErr)
	}
	if len(w.take) > 0 {
		var adding error
		moved, adding = w.tree.Add(w.name, w.take)
		if errors.Is(adding, ErrGone) {
			w.forget()
			return false, moved, errors.Join(err, adding)
		}
		if adding != nil {
			err = errors.Join(err, adding, w.findRefused())
		}
	}
	slices.Sort(w.foreign)
	slices.Sort(w.refused)
	w.known, w.list = w.list, w.known
	return len(w.take) > 0, moved, err
}

// dropInside leaves those of w.unknown that the kernel does not have in the group.
func (w *Watch) dropInside() (err error) {
	if w.in, err = w.tree.Threads(w.name, w.in[:0]); err != nil {
		return err
	}
	slices.Sort(w.in)
	w.unknown = tidsWithout(w.unknown[:0], w.unknown, w.in)
	return nil
}

// placedHere says whether it was us who put the task into its control group.
func (w *Watch) placedHere() bool {
	return w.placed || !foreignControl(w.name.Control)
}

// expel moves w.stray out of the group and returns how many. They were in the group
// when it was read: those that are the task's by now, being started meanwhile,
// and those that are elsewhere by now, are left where they are.
func (w *Watch) expel(threads Lister) (int, error) {
	var err error
	if w.in, err = listed(threads, w.in); err != nil {
		return 0, err
	}
	w.stray = tidsWithout(w.stray[:0], w.stray, w.in)
	locate, err := w.locator(w.stray)
	if err != nil {
		return 0, err
	}
	w.take = w.take[:0]
	for _, tid := range w.stray {
		at, locating := locate(tid)
		switch {
		case errors.Is(locating, fs.ErrNotExist):
		case locating != nil:
			err = locating // one of them tells enough
		case at == w.name:
			w.take = append(w.take, tid)
		}
	}
	if len(w.take) == 0 {
		return 0, err
	}
	w.looks = 0 // they may have forked
	var to Name
	if !w.placedHere() {
		to.Control = w.name.Control
	}
	out, adding := w.tree.Add(to, w.take)
	if adding != nil {
		err = errors.Join(err, fmt.Errorf("resctrl: %d threads in %s are not of its task, %d of them were moved to %s: %w",
			len(w.take), w.name, out, to, adding))
	}
	return out, err
}

// findRefused is for when Add did not move all: those of w.take that live and are not
// in the group are refused.
func (w *Watch) findRefused() error {
	w.unknown = append(w.unknown[:0], w.take...)
	if len(w.unknown) > locateFew {
		if err := w.dropInside(); err != nil {
			return err
		}
	}
	locate, err := w.locator(w.unknown)
	if err != nil {
		return err
	}
	for _, tid := range w.unknown {
		at, err := locate(tid)
		if errors.Is(err, fs.ErrNotExist) || err == nil && w.place(at) == placeInside {
			continue
		}
		w.refused = append(w.refused, tid)
	}
	return nil
}

// watchPlace is where a thread of the task is.
type watchPlace uint8

const (
	placeInside    watchPlace = iota
	placeForeign              // where somebody else put it: it stays
	placeElsewhere            // it is to be moved
)

func (w *Watch) place(at Name) watchPlace {
	switch {
	case at == w.name:
		return placeInside
	case at.Monitor != "" && !at.Ours():
		if w.name.Monitor == "" && at.Control == w.name.Control {
			return placeInside // nothing is counted here: let them
		}
		return placeForeign
	case at.Monitor != "":
		return placeElsewhere // from another task of ours
	case at.Control == w.name.Control, !foreignControl(at.Control), w.moving > 0 && at.Control == w.from:
		return placeElsewhere
	}
	return placeForeign
}

// foreignControl says whether only another program can have put threads there.
func foreignControl(name string) bool {
	return name != "" && !strings.HasPrefix(name, Prefix)
}

// majority is the control group that most of the threads are in.
func (w *Watch) majority(tids []int) (string, error) {
	sample := tids
	if len(tids) > majoritySample {
		sample = make([]int, majoritySample)
		for i := range sample {
			sample[i] = tids[i*len(tids)/majoritySample]
		}
	}
	var votes controlVotes
	locate, err := w.locator(sample)
	if err != nil {
		return "", err
	}
	for _, tid := range sample {
		at, err := locate(tid)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		votes.add(at.Control)
	}
	home, _ := votes.most()
	return home, nil
}

// locator returns what says where a thread is, fs.ErrNotExist if it ended: the kernel,
// or, before Linux 5.6, the tasks files of all groups, as they were up to placesAge
// ago.
func (w *Watch) locator(tids []int) (func(int) (Name, error), error) {
	if !w.byGroups || len(tids) == 0 {
		return w.tree.Locate, nil
	}
	p := &w.tree.places
	if err := p.update(w.tree, tids); err != nil {
		return nil, err
	}
	return func(tid int) (Name, error) { return p.at[tid], nil }, nil
}

// threadPlaces is where threads are, as the tasks files say. A thread in none of them
// has ended, or is in the default group, whose file is empty where nothing can be
// allocated.
type threadPlaces struct {
	at   map[int]Name // nil after groups changed
	read time.Time
}

// update reads all groups, unless what is known of these threads is new enough.
func (p *threadPlaces) update(t *Tree, tids []int) error {
	unknown := func(tid int) bool { _, ok := p.at[tid]; return !ok }
	if time.Since(p.read) < placesAge && !slices.ContainsFunc(tids, unknown) {
		return nil
	}
	groups, err := t.Groups(nil)
	if err != nil {
		return err
	}
	p.at, p.read = make(map[int]Name), time.Now()
	var in []int
	// The default group and each control group have the threads of their monitoring
	// groups, too, which come after them.
	for _, g := range groups {
		in, err = t.Threads(g, in[:0])
		if err != nil && !errors.Is(err, ErrGone) {
			p.at = nil
			return err
		}
		for _, tid := range in {
			p.at[tid] = g
		}
	}
	for _, tid := range tids {
		if unknown(tid) {
			p.at[tid] = Name{}
		}
	}
	return nil
}

// moved is for threads that were moved to n.
func (p *threadPlaces) moved(n Name, tids []int) {
	if p.at == nil {
		return
	}
	for _, tid := range tids {
		p.at[tid] = n
	}
}

// controlVotes counts threads by control group.
type controlVotes []struct {
	control string
	n       int
}

func (v *controlVotes) add(control string) {
	for i := range *v {
		if (*v)[i].control == control {
			(*v)[i].n++
			return
		}
	}
	*v = append(*v, struct {
		control string
		n       int
	}{control, 1})
}

func (v controlVotes) most() (control string, n int) {
	for _, c := range v {
		if c.n > n {
			control, n = c.control, c.n
		}
	}
	return control, n
}

// tidsWithout appends what is in a and not in b, both sorted, to buf, which may be
// a[:0].
func tidsWithout(buf, a, b []int) []int {
	for _, tid := range a {
		for len(b) > 0 && b[0] < tid {
			b = b[1:]
		}
		if len(b) == 0 || b[0] != tid {
			buf = append(buf, tid)
		}
	}
	return buf
}

// countCommon is how many are in both a and b, sorted.
func countCommon(a, b []int) (n int) {
	for _, tid := range a {
		for len(b) > 0 && b[0] < tid {
			b = b[1:]
		}
		if len(b) > 0 && b[0] == tid {
			n++
		}
	}
	return n
}

// tidsCommon appends what is in both a and b, sorted, to buf, which may be a[:0].
func tidsCommon(buf, a, b []int) []int {
	for _, tid := range a {
		for len(b) > 0 && b[0] < tid {
			b = b[1:]
		}
		if len(b) > 0 && b[0] == tid {
			buf = append(buf, tid)
		}
	}
	return buf
}

// Read is [Group.Read] of the monitoring group; nil without one. Where the group was
// removed by somebody, it is made again by the next Follow, and the error is
// [ErrGone].
func (w *Watch) Read(list []Usage) ([]Usage, error) {
	if w.lost {
		return nil, fmt.Errorf("resctrl: monitoring group %s: %w", w.monitor, ErrGone)
	}
	if w.name.Monitor == "" {
		return nil, nil
	}
	var err error
	if w.group == nil {
		w.group, err = w.tree.Open(w.name)
	}
	if err == nil {
		list, err = w.group.Read(list)
	}
	if errors.Is(err, ErrGone) {
		err = errors.Join(err, w.lose())
	}
	if err != nil {
		return nil, err
	}
	return list, nil
}

// Close closes the files and leaves all groups and threads as they are.
func (w *Watch) Close() error { return w.closeGroup() }
