package measure

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/proc"
)

// TaskOptions say at what pace the costly readings of tasks are taken.
// Everything else is read every tick. 0 means never.
type TaskOptions struct {
	MemoryStat time.Duration // memory.stat: 6 to 16 µs a cgroup
	NUMA       time.Duration // memory.numa_stat
	Limits     time.Duration // quotas, weights, limits and cpusets: about ten files
	RunQueue   time.Duration // /proc/TID/schedstat of every thread
	// RunQueueThreads is how many threads a task may have for its run-queue
	// wait to be measured; a task with more has none, because a sum over some
	// of its threads would be wrong.
	RunQueueThreads int
}

// every tick, of each cgroup
const everyTick = cgroup.CPU | cgroup.Memory | cgroup.IO | cgroup.PIDs | cgroup.Pressure

// slow readings have a pace, and an age that the user sees.
type slow int

const (
	slowMemoryStat slow = iota
	slowNUMA
	slowLimits
	slowRunQueue
	numSlow
)

var slowNames = [numSlow]string{"memory_stat", "numa_stat", "limits", "run_queue"}

var slowSets = [numSlow]cgroup.Set{slowMemoryStat: cgroup.MemoryStat, slowNUMA: cgroup.NUMA, slowLimits: cgroup.Limits}

func (o *TaskOptions) pace(s slow) time.Duration {
	return [numSlow]time.Duration{o.MemoryStat, o.NUMA, o.Limits, o.RunQueue}[s]
}

// Tasks measures the tasks of a host, tick after tick. One goroutine at a time
// may use it.
type Tasks struct {
	host    *Host
	options TaskOptions
	labels  func(owca.Task) *owca.Labels

	known map[owca.TaskID]*taskState
	order []*taskState // as the tasks of the last call
	last  []owca.Task
	tick  uint64
	out   []owca.TaskData

	schedstat         *proc.Schedstat
	threads, ofMember []int
	numa              []string // label values, by node number
	vanished          uint64

	counting *counting // nil: no performance counters
	beside   bool      // see OpenBeside
	members  int       // cgroups of all tasks

	monitoring *monitoring // nil: no resctrl
}

// NewTasks returns a Tasks that has not read anything. labels makes the labels
// of a task's metrics; it is called when a task is new or changed.
func (h *Host) NewTasks(o TaskOptions, labels func(owca.Task) *owca.Labels) *Tasks {
	return &Tasks{host: h, options: o, labels: labels, known: make(map[owca.TaskID]*taskState)}
}

// SetOptions changes the paces; counters and rates go on.
func (t *Tasks) SetOptions(o TaskOptions) {
	if o == t.options {
		return
	}
	old := t.options
	t.options = o
	for _, k := range t.order {
		for s := range numSlow {
			switch {
			case o.pace(s) == 0:
				k.forget(s)
			case o.pace(s) != old.pace(s):
				k.slow[s].next = time.Time{}
			}
		}
	}
}

// forget drops what a slow reading told that is no longer taken.
func (k *taskState) forget(s slow) {
	k.slow[s].at = time.Time{}
	for _, m := range k.members {
		m.stat.Clear(slowSets[s])
	}
	switch s {
	case slowMemoryStat:
		k.stat = statPrev{}
	case slowRunQueue:
		k.runQueue = runQueue{}
	}
}

// Relabel makes the labels of every task anew, after what they are made of has
// changed for all of them.
func (t *Tasks) Relabel() {
	for _, k := range t.order {
		k.labels = t.labels(k.Task)
	}
}

// Vanished is how many cgroups were gone when they were to be read.
func (t *Tasks) Vanished() uint64 { return t.vanished }

// taskState is what is kept of one task from tick to tick.
type taskState struct {
	owca.Task
	labels *owca.Labels
	seen   uint64 // the tick it was last listed in

	members []*member
	parked  []*member // see parkedTicks; their counters are in carried
	// carried are the counters of cgroups that the task had and that are
	// gone, so that the sum over a pod's containers does not fall when one ends.
	carried [len(counters)]uint64
	carries bool // some of carried is not zero

	sum, prev  *sum      // of this tick and of the one before
	at, prevAt time.Time // when they were read; zero = never

	slow [numSlow]struct {
		next time.Time // when it is due; zero = at once
		at   time.Time // when it last told something; zero = never
	}
	stat statPrev // of memory.stat

	counts taskCounts // of performance events
	watch  watching   // by resctrl
	usage  taskUsage  // what that told

	slowRead [numSlow]bool // in this tick
	alive    int           // members that were read in it

	runQueue runQueue

	measurements owca.Measurements
}

// member is one cgroup of a task.
type member struct {
	path    string
	group   *cgroup.Group // nil while it does not exist
	stat    cgroup.Stat
	counted [len(counters)]uint64 // the counters of the last stat that had them
	ok      bool                  // read this tick
	counts  *memberCounts         // nil: none yet
	unread  cgroup.Set
	problem error  // why unread could not be read
	parked  uint64 // the tick since which it is not listed
	retry   uint64 // the tick to look for it again
	backoff uint64
}

// Read measures tasks. Tasks that it has met before keep their counters and
// rates, also when their labels or resources changed. The result is in the
// order of tasks and belongs to t, which reuses it in the next call. listed is
// when the tasks were discovered, which is before now if discovery fails.
//
// The error says how many tasks could not be read in full and why the first of
// them could not; the result is valid all the same.
func (t *Tasks) Read(now, listed time.Time, tasks []owca.Task) ([]owca.TaskData, error) {
	t.tick++
	t.sync(tasks)
	t.out = t.out[:0]
	countErr := t.beginCounts()
	var err error
	failed := 0
	for _, k := range t.order {
		if e := t.read(k, now); e != nil {
			if failed++; err == nil {
				err = e
			}
		}
	}
	monitorErr := t.monitor(now, listed)
	for _, k := range t.order {
		t.emit(k, now, listed)
		t.out = append(t.out, owca.TaskData{Task: k.Task, MetricLabels: k.labels, Measurements: k.measurements})
	}
	if t.counting != nil {
		t.counting.checkProof()
	}
	if t.host.Cgroups == nil {
		return t.out, t.host.CgroupError
	}
	if failed > 1 {
		err = fmt.Errorf("%d tasks could not be read in full; the first: %w", failed, err)
	}
	return t.out, errors.Join(err, countErr, monitorErr)
}

// sync brings order in line with tasks. Nodes return the slice of the call
// before when nothing changed, which makes it cheap.
func (t *Tasks) sync(tasks []owca.Task) {
	if len(tasks) == len(t.last) && (len(tasks) == 0 || &tasks[0] == &t.last[0]) {
		return
	}
	t.last = tasks
	if t.monitoring != nil {
		t.monitoring.listed = true
	}
	t.order, t.members = t.order[:0], 0
	for i := range tasks {
		nt := &tasks[i]
		k := t.known[nt.ID]
		switch {
		case k == nil:
			k = &taskState{Task: *nt, labels: t.labels(*nt), sum: new(sum), prev: new(sum)}
			t.known[nt.ID] = k
			k.setMembers(nt.Cgroups, t.tick)
		case k.seen == t.tick:
			continue // listed twice: the first one counts
		default:
			if k.Name != nt.Name || !maps.Equal(k.Labels, nt.Labels) || !maps.Equal(k.Resources, nt.Resources) {
				k.labels = t.labels(*nt)
			}
			if !slices.Equal(k.Cgroups, nt.Cgroups) {
				k.setMembers(nt.Cgroups, t.tick)
			}
			k.Task = *nt
		}
		k.seen = t.tick
		t.order = append(t.order, k)
		t.members += len(k.members)
	}
	if len(t.known) > len(t.order) {
		for id, k := range t.known {
			if k.seen != t.tick {
				t.unwatch(k)
				k.close()
				delete(t.known, id)
			}
		}
	}
}

// Close gives back every open file, and what was made in resctrl.
func (t *Tasks) Close() {
	t.stopMonitoring()
	for _, k := range t.known {
		k.close()
	}
	t.stopCounting()
	clear(t.known)
	t.order, t.last = nil, nil
	if t.schedstat != nil {
		_ = t.schedstat.Close() // a directory that was only read
		t.schedstat = nil
	}
}

func (k *taskState) close() {
	for _, m := range slices.Concat(k.members, k.parked) {
		if m.group != nil {
			_ = m.group.Close() // only read
		}
		m.counts.close()
	}
}

// setMembers keeps the members that stay, with their open files, and carries
// the counters of those that go.
func (k *taskState) setMembers(paths []string, tick uint64) {
	old := slices.Concat(k.members, k.parked)
	listed := len(k.members)
	if k.watch.monitored() || k.watch.controlled() {
		k.watch.again = true // new cgroups, and as many threads perhaps
	}
	k.members, k.parked = make([]*member, 0, len(paths)), nil
	for _, p := range paths {
		if slices.ContainsFunc(k.members, func(m *member) bool { return m.path == p }) {
			continue // a cgroup counts once
		}
		i := slices.IndexFunc(old, func(m *member) bool { return m != nil && m.path == p })
		if i < 0 {
			k.members = append(k.members, &member{path: p})
			continue
		}
		if i >= listed {
			k.uncarry(old[i])
		}
		k.members = append(k.members, old[i])
		old[i] = nil
	}
	for i, m := range old {
		switch {
		case m == nil:
		case i >= listed:
			k.parked = append(k.parked, m)
		case m.group == nil:
			k.gone(m)
		default:
			k.carry(m)
			m.parked = tick
			k.parked = append(k.parked, m)
		}
	}
}

// parkedTicks is how long a cgroup that is no longer listed is remembered.
// Discovery may list it again, as when the processes of a container come back;
// what it counted before must not count twice then.
const parkedTicks = 120

// unpark forgets those that did not come back.
func (k *taskState) unpark(tick uint64) {
	k.parked = slices.DeleteFunc(k.parked, func(m *member) bool {
		old := tick-m.parked > parkedTicks
		if old {
			_ = m.group.Close() // only read
		}
		return old
	})
}

// gone closes a member whose cgroup no longer exists.
func (k *taskState) gone(m *member) {
	if m.group != nil {
		_ = m.group.Close() // only read
		m.group = nil
	}
	k.carry(m)
	m.counted = [len(counters)]uint64{}
	m.counts = nil
	m.stat.Reset()
}

// due says which slow readings to take now, and when they are due again: at
// their pace, after a first time at once. Tasks are spread over the pace, so
// that no tick pays for all of them.
func (k *taskState) due(o *TaskOptions, now time.Time) (due [numSlow]bool, sets cgroup.Set) {
	for s := range numSlow {
		e, pace := &k.slow[s], o.pace(s)
		if pace == 0 || now.Before(e.next) {
			continue
		}
		due[s] = true
		sets |= slowSets[s]
		if e.next.IsZero() {
			e.next = now.Add(pace - k.phase()%pace)
		} else {
			e.next = e.next.Add((now.Sub(e.next)/pace + 1) * pace)
		}
	}
	return due, sets
}

// phase spreads the tasks over a pace, whatever its length. Of two paces, one a
// multiple of the other, a task takes the slower reading in a tick of the faster,
// because what they share, as the directory of the cgroup, is opened once then.
func (k *taskState) phase() time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(k.ID)) // never fails
	return time.Duration(float64(h.Sum32()) / (math.MaxUint32 + 1) * float64(time.Hour))
}

func (t *Tasks) read(k *taskState, now time.Time) error {
	k.unpark(t.tick)
	due, sets := k.due(&t.options, now)
	var failed error
	alive := 0
	for _, m := range k.members {
		m.ok = false
		fresh, err := t.open(m)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = fmt.Errorf("task %s: %w", k.ID, err)
		}
		if m.group == nil {
			continue
		}
		want := everyTick | sets
		if fresh {
			// What the paces hold back is read once at the start, as for a new task.
			for s := range numSlow {
				if t.options.pace(s) != 0 {
					want |= slowSets[s]
				}
			}
		}
		if err := m.group.Read(&m.stat, want); err != nil {
			t.vanished++
			k.gone(m)
			m.retry, m.backoff = t.tick+1, 1
			continue
		}
		if unread := m.group.Unread(); unread != m.unread {
			m.unread, m.problem = unread, nil
			if err := m.group.Problems(); err != nil {
				m.problem = fmt.Errorf("task %s: %w", k.ID, err)
			}
		}
		if m.problem != nil {
			failed = m.problem
		}
		if err := t.count(m); err != nil {
			failed = fmt.Errorf("task %s: %w", k.ID, err)
		}
		m.ok = true
		alive++
	}
	k.prev, k.sum = k.sum, k.prev
	k.prevAt, k.at = k.at, now
	k.sum.add(k)
	t.sumCounts(k)
	if alive == 0 {
		// What was known of cgroups that are gone is not what is.
		for s := range numSlow {
			k.forget(s)
			k.slow[s].next = time.Time{}
		}
	} else if due[slowRunQueue] {
		if err := t.readRunQueue(k); err != nil {
			failed = fmt.Errorf("task %s: %w", k.ID, err)
		}
	}
	for s := range numSlow {
		if due[s] && k.told(s) {
			k.slow[s].at = now
		}
	}
	k.slowRead, k.alive = due, alive
	return failed
}

// told says whether a slow reading, just taken, told something.
func (k *taskState) told(s slow) bool {
	have := func(fields ...cgroup.Field) bool {
		return slices.ContainsFunc(fields, func(f cgroup.Field) bool {
			_, ok := k.sum.Get(f)
			return ok
		})
	}
	switch s {
	case slowMemoryStat:
		return have(cgroup.MemoryAnon, cgroup.MemoryFile, cgroup.PageFaults)
	case slowNUMA:
		return len(k.sum.NUMA) > 0
	case slowLimits:
		return have(cgroup.CPUQuota, cgroup.CPUShares, cgroup.CPUWeight, cgroup.MemoryMax, cgroup.PIDsMax, cgroup.CPUSetCPUs)
	default:
		return k.runQueue.ok
	}
}

// open makes sure that a member whose cgroup exists is open. fresh: just now.
func (t *Tasks) open(m *member) (fresh bool, err error) {
	if m.group != nil || t.host.Cgroups == nil || t.tick < m.retry {
		return false, nil
	}
	m.group, err = t.host.Cgroups.Open(m.path)
	if err != nil {
		// Looked for again later and later, as long as discovery lists it.
		m.backoff = min(max(1, 2*m.backoff), 16)
		m.retry = t.tick + m.backoff
		return false, err
	}
	m.backoff = 0
	return true, nil
}
