package measure

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"math/bits"
	"reflect"
	"slices"
	"strings"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/perf"
)

// Counters are the performance events to count in every task. They never
// change; whoever wants others plans anew.
type Counters struct {
	plan    *perf.Plan
	backend perf.Backend // "" = whichever suits the number of cgroups
	events  []counterEvent
	at      [numInputs]int // index in events, -1: not counted
	open    func(perf.Backend) (perf.Counter, error)
}

// counterEvent is how the counts of one event are told.
type counterEvent struct {
	desc   *owca.Desc
	alias  string
	factor float64 // what one count is, in the Desc's unit; 0: an integer, see its Scale
	// hardware: it may open and yet count nothing.
	hardware bool
}

// The events that derived metrics are computed from.
const (
	inInstructions = iota
	inCycles
	inReferences
	inMisses
	inStalls
	numInputs
)

var inputs = [numInputs]*owca.Desc{
	inInstructions: owca.TaskInstructions,
	inCycles:       owca.TaskCycles,
	inReferences:   owca.TaskCacheReferences,
	inMisses:       owca.TaskCacheMisses,
	inStalls:       owca.TaskMemoryStalls,
}

// PlanCounters finds out what this host counts of the events asked for, for
// which it opens some of them for a moment. backend is "" if the number of
// cgroups shall decide. Errors are those of [perf.FS.Plan]; that an event has
// the name of another metric is a [*perf.RequestError], too.
func (h *Host) PlanCounters(requests []perf.Request, backend perf.Backend) (*Counters, error) {
	f := perf.FS{Root: h.Proc.Root}
	plan, err := f.Plan(requests)
	if err != nil {
		return nil, err
	}
	return newCounters(plan, backend, func(b perf.Backend) (perf.Counter, error) { return f.Open(plan, b) })
}

// Omitted are the events that this host does not count, with the reasons.
func (c *Counters) Omitted() []perf.Omission { return c.plan.Omitted }

// Starved says of which groups others held the counters when they were planned.
func (c *Counters) Starved() []error { return c.plan.Starved }

func newCounters(plan *perf.Plan, backend perf.Backend, open func(perf.Backend) (perf.Counter, error)) (*Counters, error) {
	c := &Counters{plan: plan, backend: backend, open: open}
	for i := range c.at {
		c.at[i] = -1
	}
	taken := map[string]string{} // by name, as any storage writes it
	claim := func(d *owca.Desc, who string) error {
		for _, name := range []string{d.Name, d.Original} {
			// To OpenMetrics x and x_total are one family.
			name = strings.TrimSuffix(name, "_total")
			if other := taken[name]; other != "" && other != who {
				return fmt.Errorf("%s would be stored as %s, which is the name of %s: give it another one, as in cpu/config=…,name=other/ or other__rEEUU", who, name, other)
			}
			if name != "" {
				taken[name] = who
			}
		}
		return nil
	}
	for _, d := range owca.Catalogue() {
		if !slices.Contains(inputs[:], d) {
			_ = claim(d, "the metric "+d.Name) // the catalogue is free of conflicts
		}
	}
	var errs []error
	for _, e := range plan.Events() {
		ce := counterEvent{alias: e.Alias, hardware: e.PMU != "software" && e.PMU != "tracepoint"}
		if i := slices.IndexFunc(inputs[:], func(d *owca.Desc) bool { return d.Original == e.Alias }); i >= 0 {
			if ce.desc = inputs[i]; e.Original != ce.desc.Original {
				d := *ce.desc
				d.Original = originalName(e)
				ce.desc = &d
			}
			c.at[i] = len(c.events)
		} else {
			ce.desc, ce.factor = describe(e)
		}
		errs = append(errs, claim(ce.desc, "the event "+e.Name))
		c.events = append(c.events, ce)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, &perf.RequestError{Err: err}
	}
	return c, nil
}

// originalName is the name of an event's metric in the original, "" if it is
// valid behind our prefix only.
func originalName(e *perf.Event) string {
	if owca.SanitizeLabelName(e.Original) != e.Original {
		return ""
	}
	return e.Original
}

// describe makes the Desc of an event that is not in the catalogue.
func describe(e *perf.Event) (d *owca.Desc, factor float64) {
	d = &owca.Desc{
		Name: "owca_task_" + strings.TrimSuffix(e.Alias, "_total"), Kind: owca.Counter, Original: originalName(e),
		Help:   "Event " + e.Name + ", counted since the agent began to.",
		Source: "perf_event_open(2), " + e.PMU,
	}
	switch {
	case e.Unit == "ns":
		d.Unit, d.Scale, d.OriginalPerUnit = "seconds", owca.Nano, 1e9
		if d.Original == "" {
			d.OriginalPerUnit = 0
		}
	case e.Unit != "":
		d.Unit = strings.ToLower(owca.SanitizeLabelName(e.Unit))
	}
	if e.Scale != 0 && e.Scale != 1 {
		factor, d.Scale = e.Scale*d.Scale.Float(), owca.One
	}
	if d.Unit != "" && !strings.HasSuffix(d.Name, "_"+d.Unit) {
		d.Name += "_" + d.Unit
	}
	d.Name += "_total"
	return d, factor
}

func (e *counterEvent) value(n uint64) owca.Value {
	if e.factor != 0 {
		return owca.Float(float64(n) * e.factor)
	}
	return owca.Int(n)
}

// same says whether the counts of c can go on as those of n.
func (c *Counters) same(n *Counters) bool { return reflect.DeepEqual(c.plan.Groups, n.plan.Groups) }

// counting is Counters at work.
type counting struct {
	*Counters
	counter  perf.Counter // nil: nothing is counted
	using    perf.Backend // of counter
	attempts map[perf.Backend]attempt
	opening  chan opened // of BPF, beside the ticks; nil: it is not being opened
	cgroups  int         // in counter

	crowded bool   // a LimitError
	told    bool   // about it
	room    uint64 // the tick to look again whether there is room

	buf   []perf.Count
	proof []proof // by event
}

// attempt is one to open a backend that failed.
type attempt struct {
	err   error
	retry uint64 // the tick from which to try again
}

// opened is what came of opening a backend.
type opened struct {
	counter perf.Counter
	err     error
}

// proof is whether an event is known to count, and to have had a counter.
type proof struct {
	done  bool
	while uint64 // instructions counted while it stayed 0

	ran          bool   // in some cgroup; or it was warned of
	enabled, was uint64 // ns in all cgroups without a counter: in this tick's readings, in the last's
	waited       int    // ticks in which that grew
}

// doubtful is after how many instructions without a single one of it an event
// of the hardware is suspected not to be counted at all: a second of a CPU.
const doubtful = 1e9

// An event is starved when it was to be counted for so many ticks and ns of
// CPU without ever having a counter. Groups that take turns have theirs within
// milliseconds (perf_event_mux_interval_ms).
const (
	starvedTicks = 10
	starvedTime  = 1e9
)

// fewCgroups is up to how many cgroups descriptors are the better way: they
// need no capability to load programs and take few files, and the kernel adds
// up by itself. With more of them the files grow by CPUs × events each, and so
// does what the kernel does to switch from one task to the next, where a
// program costs the same for any number.
const fewCgroups = 8

// retryTicks is how long to wait after an error that may pass.
const retryTicks = 60

// SetCounters makes t count other events, or with nil none. If they are the
// same ones as before, the counts go on.
func (t *Tasks) SetCounters(n *Counters) {
	c := t.counting
	if n != nil && len(n.events) == 0 {
		n = nil
	}
	if c != nil && n != nil && c.same(n) {
		c.Counters = &Counters{plan: n.plan, backend: n.backend, events: c.events, at: c.at, open: n.open} // the same Descs
		c.attempts, c.told, c.room = map[perf.Backend]attempt{}, false, 0
		if n.backend == perf.Descriptors {
			c.abandon()
		}
		return
	}
	t.stopCounting()
	if n == nil {
		return
	}
	t.counting = &counting{
		Counters: n, attempts: map[perf.Backend]attempt{},
		buf: make([]perf.Count, len(n.events)), proof: make([]proof, len(n.events)),
	}
	for i, e := range n.events {
		t.counting.proof[i].done = !e.hardware || n.at[inInstructions] < 0 || i == n.at[inInstructions]
	}
}

// OpenBeside makes t open what takes long to open beside its Reads and not in
// them, as a loop wants whose ticks are short.
func (t *Tasks) OpenBeside() { t.beside = true }

// Counting returns how events are counted now ("" if they are not), in how many
// cgroups, and with how many open files.
func (t *Tasks) Counting() (backend string, cgroups, files int) {
	c := t.counting
	if c == nil || c.counter == nil {
		return "", 0, 0
	}
	return string(c.using), c.cgroups, c.counter.Files()
}

// stopCounting forgets all counts.
func (t *Tasks) stopCounting() {
	c := t.counting
	if c == nil {
		return
	}
	t.counting = nil
	if c.counter != nil {
		c.closeCounter()
	}
	c.abandon()
	for _, k := range t.known {
		k.counts = taskCounts{}
		for _, m := range k.members {
			m.counts = nil
		}
		for _, m := range k.parked {
			m.counts = nil
		}
	}
}

func (c *counting) closeCounter() {
	if err := c.counter.Close(); err != nil {
		slog.Warn("closing performance counters", "component", "measure", "backend", c.using, "error", err)
	}
	c.counter, c.cgroups = nil, 0
}

// beginCounts makes a tick's counts ready to be read.
func (t *Tasks) beginCounts() error {
	c := t.counting
	if c == nil {
		return nil
	}
	t.choose()
	if c.counter == nil {
		return nil
	}
	if err := c.counter.Refresh(); err != nil && !t.full(err) {
		return fmt.Errorf("performance counters: %w", err)
	}
	return nil
}

// full says whether an error is a lack of files, for more cgroups or for those
// there are on CPUs that came, and sees to it: another backend may need fewer.
func (t *Tasks) full(err error) bool {
	c := t.counting
	if _, limited := errors.AsType[*perf.LimitError](err); !limited {
		return false
	}
	c.crowded = true
	if c.backend == "" && c.using == perf.Descriptors && c.usable(perf.BPF, t.tick) {
		return true // the next tick tries that
	}
	if !c.told {
		c.told = true
		slog.Warn("no more files for performance counters: some tasks have none", "component", "measure", "backend", c.using, "cgroups", c.cgroups, "of", t.members, "error", err)
	}
	return true
}

// wanted are the backends that would do, the better one first.
func (c *counting) wanted(cgroups int) []perf.Backend {
	switch {
	case c.backend != "":
		return []perf.Backend{c.backend}
	case cgroups > fewCgroups || c.crowded || c.using == perf.BPF:
		// Once it is BPF it stays, lest a number of tasks that goes up and
		// down makes it change all the time.
		return []perf.Backend{perf.BPF, perf.Descriptors}
	}
	return []perf.Backend{perf.Descriptors, perf.BPF}
}

// choose opens a backend, or changes to a better one.
func (t *Tasks) choose() {
	c := t.counting
	for _, b := range c.wanted(t.members) {
		if c.counter != nil && c.using == b {
			return
		}
		if !c.usable(b, t.tick) {
			continue
		}
		o, ready := c.begin(b, t.beside)
		if !ready {
			return
		}
		if o.err != nil {
			c.failed(b, o.err, t.tick)
			continue
		}
		delete(c.attempts, b)
		slog.Info("counting performance events", "component", "measure", "backend", b, "events", len(c.events))
		t.change(o.counter, b)
		return
	}
	if c.counter != nil && c.backend != "" && c.using != c.backend {
		// What runs is what the user no longer wants.
		t.change(nil, "")
	}
}

// begin opens a backend. Loading programs takes the kernel some 50 to 100 ms, in
// which the ticks go on with what there is, if they may.
func (c *counting) begin(b perf.Backend, beside bool) (o opened, ready bool) {
	if b != perf.BPF || !beside {
		o.counter, o.err = c.open(b)
		return o, true
	}
	if c.opening == nil {
		c.opening = make(chan opened, 1)
		go func(open func(perf.Backend) (perf.Counter, error), done chan<- opened) {
			counter, err := open(b)
			done <- opened{counter, err}
		}(c.open, c.opening)
	}
	select {
	case o = <-c.opening:
		c.opening = nil
		return o, true
	default:
		return o, false
	}
}

// abandon closes what is still being opened.
func (c *counting) abandon() {
	if c.opening == nil {
		return
	}
	go func(late <-chan opened) {
		if o := <-late; o.err == nil {
			_ = o.counter.Close() // it counted nothing
		}
	}(c.opening)
	c.opening = nil
}

func (c *counting) usable(b perf.Backend, tick uint64) bool {
	a, failed := c.attempts[b]
	return !failed || tick >= a.retry
}

// failed remembers that a backend could not be opened, and logs it once.
func (c *counting) failed(b perf.Backend, err error, tick uint64) {
	before := c.attempts[b].err
	a := attempt{err, tick + retryTicks}
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission) {
		a.retry = math.MaxUint64 // until the next configuration
	}
	c.attempts[b] = a
	if before == nil || before.Error() != err.Error() {
		slog.Warn("performance events cannot be counted in this way", "component", "measure", "backend", b, "error", err)
	}
}

// change goes on counting with another counter, nil for none. The tasks keep
// what was counted; their cgroups are added to it as they are read.
func (t *Tasks) change(counter perf.Counter, b perf.Backend) {
	c := t.counting
	if c.counter != nil {
		if err := c.counter.Refresh(); err != nil {
			slog.Warn("the last performance counts of a backend are not its newest", "component", "measure", "backend", c.using, "error", err)
		}
		for _, k := range t.known {
			for _, m := range k.members {
				m.counts.stop()
			}
		}
		c.closeCounter()
	}
	c.counter, c.using, c.crowded, c.room = counter, b, false, 0
}

// memberCounts are the counts of one cgroup.
type memberCounts struct {
	of     *counting
	cgroup perf.Cgroup // nil: not counted now
	read   bool        // this tick
	events []eventCount
	cpu    uint64 // ns that the cgroup used, at the last reading; 0 = not known

	retry, backoff uint64 // ticks, as of member
}

// eventCount is one event in one cgroup.
type eventCount struct {
	// value is what was counted, extrapolated to the time that the event was
	// to be counted. It is added up from what comes in between two readings,
	// because the share of time that an event gets a counter for changes; from
	// the totals alone a value could fall.
	value uint64
	base  perf.Count // the last reading that is in value

	enabled, running uint64 // ns, from base to the last reading
	cpu              uint64 // memberCounts.cpu when it was last not held
	ran              bool   // at least once
	held             bool   // the last reading could not be added: it did not run
}

// take adds a reading and returns by how much the value grew.
func (e *eventCount) take(c perf.Count) (grew uint64) {
	e.enabled, e.running, e.held = 0, 0, false
	if c.Value < e.base.Value || c.Enabled < e.base.Enabled || c.Running < e.base.Running {
		e.held = true // nothing that counts up does this; wait until it is back
		return 0
	}
	value, enabled, running := c.Value-e.base.Value, c.Enabled-e.base.Enabled, c.Running-e.base.Running
	switch {
	case running == 0 && enabled == 0 && value > 0:
		// Counted in no time that the kernel tells, as has been seen of the root
		// cgroup: there is nothing to extrapolate.
		e.base, e.ran = c, true
		e.value += value
		return value
	case running == 0:
		// Either the cgroup did not run, or it ran without a counter for the
		// event; then what it did is estimated when there is one again.
		e.held = enabled > 0
		return 0
	case enabled > running:
		hi, lo := bits.Mul64(value, enabled)
		lo, carry := bits.Add64(lo, running/2, 0)
		if hi += carry; hi >= running {
			e.held = true // more than 64 bits hold
			return 0
		}
		value, _ = bits.Div64(hi, lo, running)
	}
	e.base, e.enabled, e.running, e.ran = c, enabled, running, true
	e.value += value
	return value
}

// doubt corrects the time that an event was to be counted in a cgroup that did not
// run. When somebody ends counting in a cgroup just while it runs, the kernel goes
// on taking it for running until it next is (perf_cgroup_event_disable leaves
// perf_cgroup_info.active, seen on 6.18), and an event that is opened in between,
// as by an agent that was started again, seems to be without a counter.
func (n *memberCounts) doubt(e *eventCount, c *perf.Count) {
	if n.cpu == 0 || c.Running != e.base.Running || c.Enabled <= e.base.Enabled {
		return
	}
	if n.cpu-e.cpu < (c.Enabled-e.base.Enabled)/4 {
		c.Enabled = e.base.Enabled
	}
}

// take adds a reading of all events.
func (n *memberCounts) take(counts []perf.Count) {
	c := n.of
	for i := range n.events {
		n.doubt(&n.events[i], &counts[i])
	}
	var instructions uint64
	if i := c.at[inInstructions]; i >= 0 {
		instructions = n.events[i].take(counts[i])
	}
	for i := range n.events {
		e, p := &n.events[i], &c.proof[i]
		var grew uint64
		if i != c.at[inInstructions] {
			grew = e.take(counts[i])
		}
		if p.ran = p.ran || e.ran; !p.ran {
			p.enabled += counts[i].Enabled
		}
		if !e.held {
			e.cpu = n.cpu
		}
		switch {
		case p.done:
		case grew > 0:
			p.done = true
		case e.running > 0:
			p.while += instructions
		}
	}
}

// stop ends the counting of a cgroup, with a last reading.
func (n *memberCounts) stop() {
	if n == nil || n.cgroup == nil {
		return
	}
	c := n.of
	// Where that fails, what came after the last tick is lost with the cgroup.
	if n.cgroup.Read(c.buf) == nil {
		n.take(c.buf)
	}
	n.close()
}

// close ends it without a last reading.
func (n *memberCounts) close() {
	if n == nil || n.cgroup == nil {
		return
	}
	_ = n.cgroup.Close() // only read
	n.cgroup, n.read = nil, false
	for i := range n.events {
		n.events[i].base = perf.Count{}
	}
	n.of.cgroups--
	n.of.room = 0
}

// count reads the events of a member, whose cgroup is open.
func (t *Tasks) count(m *member) error {
	c := t.counting
	if c == nil {
		return nil
	}
	if m.counts == nil {
		m.counts = &memberCounts{of: c, events: make([]eventCount, len(c.events))}
	}
	n := m.counts
	steady := n.read // in the last tick, too
	n.read = false
	if c.counter == nil {
		return nil
	}
	if n.cgroup == nil {
		if err := t.addCounts(m); err != nil || n.cgroup == nil {
			return err
		}
	}
	if err := n.cgroup.Read(c.buf); err != nil {
		if t.full(err) {
			return nil
		}
		if errors.Is(err, perf.ErrLost) {
			// What was counted before stays. Where it is lost again and again,
			// the first reading of each time must not end the wait.
			n.close()
			n.wait(t.tick)
		}
		return fmt.Errorf("performance counters: %w", err)
	}
	if steady {
		n.backoff = 0
	}
	n.cpu, _ = m.stat.Get(cgroup.CPUUsage)
	n.take(c.buf)
	n.read = true
	return nil
}

// addCounts begins to count in the cgroup of a member, if there is room.
func (t *Tasks) addCounts(m *member) error {
	c, n := t.counting, m.counts
	if t.tick < n.retry || t.tick < c.room {
		return nil
	}
	dir := m.group.Dir("perf_event")
	if dir == "" {
		// Not in that hierarchy, and may never be.
		n.wait(t.tick)
		return nil
	}
	added, err := c.counter.Add(dir)
	switch {
	case err == nil:
		n.cgroup = added
		c.cgroups++
		used, _ := m.stat.Get(cgroup.CPUUsage)
		for i := range n.events {
			n.events[i].cpu = used
		}
		return nil
	case t.full(err):
		c.room = t.tick + retryTicks
		return nil
	}
	n.wait(t.tick)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has just gone
	}
	return fmt.Errorf("performance counters: %w", err)
}

// wait looks for the cgroup again later and later.
func (n *memberCounts) wait(tick uint64) {
	n.backoff = min(max(1, 2*n.backoff), 16)
	n.retry = tick + n.backoff
}

// taskCounts are the events of the cgroups of one task taken together.
type taskCounts struct {
	sum, prev []eventSum
	// carried is what cgroups counted that are gone, as in taskState.
	carried []uint64
}

// eventSum is one event of one task.
type eventSum struct {
	value            uint64
	enabled, running uint64 // ns, since the tick before
	ok, held         bool
}

// carry keeps what a member has counted whose cgroup is gone or not listed.
func (k *taskCounts) carry(n *memberCounts) {
	if n == nil {
		return
	}
	n.stop()
	if k.carried == nil {
		k.carried = make([]uint64, len(n.events))
	}
	for i := range n.events {
		k.carried[i] += n.events[i].value
	}
}

// uncarry takes back what carry kept of n.
func (k *taskCounts) uncarry(n *memberCounts) {
	if n == nil {
		return
	}
	for i := range n.events {
		k.carried[i] -= n.events[i].value
	}
}

// sumCounts adds up the members of k that were read. Without all of them there
// is no sum.
func (t *Tasks) sumCounts(k *taskState) {
	c := t.counting
	if c == nil {
		return
	}
	s := &k.counts
	if len(s.sum) != len(c.events) {
		s.sum, s.prev = make([]eventSum, len(c.events)), make([]eventSum, len(c.events))
	}
	s.sum, s.prev = s.prev, s.sum
	clear(s.sum)
	counted := func(m *member) bool { return m.ok && m.counts.read }
	if !slices.ContainsFunc(k.members, counted) || slices.ContainsFunc(k.members, func(m *member) bool { return m.ok && !m.counts.read }) {
		return
	}
	for i := range s.sum {
		sum := &s.sum[i]
		sum.ok = true
		if s.carried != nil {
			sum.value = s.carried[i]
		}
		for _, m := range k.members {
			if !m.ok {
				continue
			}
			e := &m.counts.events[i]
			sum.value += e.value
			sum.enabled += e.enabled
			sum.running += e.running
			sum.held = sum.held || e.held
			sum.ok = sum.ok && (e.ran || !e.held)
		}
	}
}

// emitCounts appends the counts of a task and what is derived from them.
func (t *Tasks) emitCounts(m owca.Measurements, k *taskState) owca.Measurements {
	c := t.counting
	if c == nil {
		return m
	}
	put := func(d *owca.Desc, v owca.Value) { m = append(m, owca.Reading{Desc: d, Value: v}) }
	var total, most float64
	scaled := 0
	for i := range c.events {
		s := &k.counts.sum[i]
		if !s.ok {
			continue
		}
		put(c.events[i].desc, c.events[i].value(s.value))
		if s.running > 0 {
			factor := max(1, float64(s.enabled)/float64(s.running))
			total += factor
			most = max(most, factor)
			scaled++
		}
	}
	if scaled > 0 {
		put(owca.TaskPerfScalingAvg, owca.Float(total/float64(scaled)))
		put(owca.TaskPerfScalingMax, owca.Float(most))
	}

	instructions, haveInstructions := c.delta(k, inInstructions)
	cycles, haveCycles := c.delta(k, inCycles)
	if haveInstructions && haveCycles && cycles > 0 {
		put(owca.TaskInstructionsPerCycle, owca.Float(instructions/cycles))
	}
	if haveInstructions && haveCycles && instructions > 0 {
		put(owca.TaskCyclesPerInstruction, owca.Float(cycles/instructions))
	}
	if dt := k.at.Sub(k.prevAt).Seconds(); haveInstructions && dt > 0 {
		put(owca.TaskInstructionRate, owca.Float(instructions/dt))
	}
	misses, haveMisses := c.delta(k, inMisses)
	if references, ok := c.delta(k, inReferences); ok && haveMisses && references > 0 {
		// Where the two are extrapolated apart, misses may come out the greater.
		put(owca.TaskCacheHitRatio, owca.Float(max(0, 1-misses/references)))
	}
	if haveInstructions && instructions > 0 {
		if haveMisses {
			put(owca.TaskCacheMissesPerKiloInstruction, owca.Float(1000*misses/instructions))
		}
		if stalls, ok := c.delta(k, inStalls); ok {
			put(owca.TaskMemoryStallsPerKiloInstruction, owca.Float(1000*stalls/instructions))
		}
	}
	return m
}

// delta is by how much an input grew since the tick before. It is absent when
// either is, and when one was held: then it is of another stretch of time than
// those of the other events.
func (c *counting) delta(k *taskState, input int) (float64, bool) {
	i := c.at[input]
	if i < 0 {
		return 0, false
	}
	s, p := &k.counts.sum[i], &k.counts.prev[i]
	return float64(s.value - p.value), s.ok && p.ok && !s.held && !p.held && s.value >= p.value
}

// checkProof warns of events that should have been counted by now.
func (c *counting) checkProof() {
	var silent, starved []string
	for i := range c.proof {
		p := &c.proof[i]
		if !p.done && p.while > doubtful {
			p.done = true
			silent = append(silent, c.events[i].alias)
		}
		if p.ran {
			continue
		}
		if p.enabled > p.was {
			p.waited++
		}
		if p.waited >= starvedTicks && p.enabled > starvedTime {
			p.ran = true
			starved = append(starved, c.events[i].alias)
		}
		p.enabled, p.was = 0, p.enabled
	}
	if starved != nil {
		slog.Warn("events never had a counter while tasks ran: others hold too many for their group (kernel.nmi_watchdog=0 frees one; perf; another agent), smaller groups may get theirs",
			"component", "measure", "events", strings.Join(starved, " "), "ticks", starvedTicks)
	}
	if silent != nil {
		slog.Warn("events stayed 0 while tasks ran a billion instructions: this cpu, or its hypervisor, may not count them although they can be opened",
			"component", "measure", "events", strings.Join(silent, " "))
	}
}
