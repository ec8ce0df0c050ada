package measure

import (
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/perf"
	"github.com/owca-project/owca/internal/proc"
)

// PlatformOptions say what of the platform is measured.
type PlatformOptions struct {
	VMStat []string // keys of /proc/vmstat; those that the kernel lacks are absent
	// SlowInterval is the pace of the costly readings: the frequencies of CPUs
	// and the memory of NUMA nodes, which are repeated in between. 0 = never.
	SlowInterval time.Duration
	// NoDRAM: traffic with DRAM, which takes performance counters, is not.
	NoDRAM bool
}

// Platform measures the host, tick after tick. One goroutine at a time may use
// it.
type Platform struct {
	fs      proc.FS
	options PlatformOptions

	host   *proc.Host
	stat   proc.HostStat
	slowAt time.Time // of the last slow reading, successful or not
	// slowErr and identityErr stand until the reading they come from is
	// repeated, so that they don't look as if they came and went.
	slowErr, identityErr error

	dram dram

	topology    proc.Topology
	topologyErr error
	topologyOf  uint64 // stat.CPUsChanged that topology was read for
	caches      []owca.Reading
	identified  time.Time

	busy         []uint64 // of stat.CPUs, at the last reading of /proc/stat
	busyAt       time.Time
	busyOf       uint64 // stat.CPUsChanged then
	pressureLast [len(platformPressures)]platformTotal

	cpuLabels, nodeLabels []string // by number

	result owca.Platform
}

// NewPlatform returns a Platform of the host. Nothing is opened before the
// first Read.
func (h *Host) NewPlatform(o PlatformOptions) *Platform {
	p := &Platform{fs: h.Proc, dram: dram{fs: perf.FS{Root: h.Proc.Root}}}
	p.host = p.fs.NewHost(nil)
	p.SetOptions(o)
	return p
}

// SetOptions makes the next Read measure what o says.
func (p *Platform) SetOptions(o PlatformOptions) {
	o.VMStat = platformUnique(o.VMStat)
	p.host.SetVMStat(o.VMStat)
	if o.SlowInterval == 0 {
		p.stat.Frequencies, p.stat.Nodes, p.slowErr = nil, nil, nil
	}
	p.options = o
}

// platformUnique returns keys without repetitions, which would become one
// series twice.
func platformUnique(keys []string) []string {
	var unique []string
	for _, key := range keys {
		if !slices.Contains(unique, key) {
			unique = append(unique, key)
		}
	}
	return unique
}

// Close closes the files. A later Read opens them again.
func (p *Platform) Close() error { return errors.Join(p.host.Close(), p.dram.close()) }

// platformIdentityPace is how often the host is asked anew for its name, which changes
// while it boots, and for what of its topology and model could not be told.
const platformIdentityPace = 10 * time.Second

// Read measures the platform. now is the time of the tick, with a monotonic
// reading. The result is valid, without what could not be read, even with an
// error, and until the next Read, which reuses it.
func (p *Platform) Read(now time.Time) (*owca.Platform, error) {
	err := p.host.Read(&p.stat)
	changed := p.stat.CPUsChanged != p.topologyOf
	if changed || p.identified.IsZero() || platformDue(now, p.identified, platformIdentityPace) {
		p.identify(now, changed)
	}
	if pace := p.options.SlowInterval; pace > 0 && (changed || p.slowAt.IsZero() || platformDue(now, p.slowAt, pace)) {
		p.slowAt = now
		p.slowErr = p.host.ReadSlow(&p.stat)
	}

	m := p.result.Measurements[:0]
	m = p.appendTopology(m)
	m = p.appendCPUs(m, now)
	m = p.appendMemory(m)
	m = p.appendPressure(m, now)
	if load := &p.stat.Load; load.OK {
		m = append(m,
			owca.Reading{Desc: owca.PlatformLoad1, Value: owca.Float(load.One)},
			owca.Reading{Desc: owca.PlatformLoad5, Value: owca.Float(load.Five)},
			owca.Reading{Desc: owca.PlatformLoad15, Value: owca.Float(load.Fifteen)})
	}
	for i, key := range p.options.VMStat {
		m = platformAppend(m, owca.PlatformVMStat, key, p.stat.VMStat[i])
	}
	m = p.appendSlow(m, now)
	var dramErr error
	if p.options.NoDRAM {
		dramErr = p.dram.close()
	} else {
		m, dramErr = p.dram.append(m, now)
	}
	p.result.Measurements = m

	if err != nil || p.slowErr != nil || p.identityErr != nil || dramErr != nil {
		err = errors.Join(err, p.identityErr, p.slowErr, dramErr)
	}
	return &p.result, err
}

// platformDue says whether what was read at last is to be read again now. A
// tick that is a little early on its grid does not wait for the next one.
func platformDue(now, last time.Time, pace time.Duration) bool {
	return now.Sub(last) >= pace-pace/100
}

// identify reads what the host is: its name always, the rest unless it is
// known, the topology if the CPUs changed.
func (p *Platform) identify(now time.Time, changed bool) {
	p.identified = now
	r := &p.result
	var errHost, errKernel, errModel error
	if name, err := p.fs.Hostname(); err == nil {
		r.Host = name
	} else {
		errHost = err // the name of before still stands
	}
	if r.KernelVersion == "" {
		r.KernelVersion, errKernel = p.fs.KernelVersion()
	}
	if r.CPUModel == "" {
		if r.CPUModel, errModel = p.fs.CPUModel(); errors.Is(errModel, errors.ErrUnsupported) {
			errModel = nil
		}
	}
	if t := &p.topology; changed || len(t.CPUs) == 0 || p.topologyErr != nil {
		*t, p.topologyErr = p.fs.Topology()
		p.topologyOf = p.stat.CPUsChanged
		r.Sockets, r.Cores, r.CPUs, r.NUMANodes = t.Sockets, t.Cores, len(t.CPUs), len(t.Nodes)
		p.caches = p.caches[:0]
		for _, c := range t.Caches {
			p.caches = append(p.caches, owca.Reading{Desc: owca.PlatformCache, Label: c.Name(), Value: owca.Int(c.Bytes)})
		}
	}
	p.identityErr = errors.Join(errHost, errKernel, errModel, p.topologyErr)
}

func (p *Platform) appendTopology(m owca.Measurements) owca.Measurements {
	for _, n := range [...]struct {
		desc *owca.Desc
		n    int
	}{
		{owca.PlatformSockets, p.result.Sockets},
		{owca.PlatformCores, p.result.Cores},
		{owca.PlatformCPUs, p.result.CPUs},
		{owca.PlatformNUMANodes, p.result.NUMANodes},
	} {
		if n.n > 0 {
			m = append(m, owca.Reading{Desc: n.desc, Value: owca.Int(uint64(n.n))})
		}
	}
	return append(m, p.caches...)
}

func (p *Platform) appendCPUs(m owca.Measurements, now time.Time) owca.Measurements {
	cpus := p.stat.CPUs
	if len(cpus) == 0 {
		return m
	}
	valid := p.busyOf == p.stat.CPUsChanged && len(p.busy) == len(cpus)
	p.busy = slices.Grow(p.busy[:0], len(cpus))[:len(cpus)]
	ticks := uint64(0)
	for i, cpu := range cpus {
		m = append(m, owca.Reading{Desc: owca.PlatformCPUUsage, Label: platformLabel(&p.cpuLabels, cpu.CPU), Value: owca.Int(cpu.Busy)})
		if valid && cpu.Busy >= p.busy[i] {
			ticks += cpu.Busy - p.busy[i]
		} else {
			valid = false
		}
		p.busy[i] = cpu.Busy
	}
	passed := now.Sub(p.busyAt).Seconds()
	p.busyAt, p.busyOf = now, p.stat.CPUsChanged
	if valid && passed > 0 {
		cores := owca.Int(ticks).Float(owca.PlatformCPUUsage.Scale) / passed
		m = append(m, owca.Reading{Desc: owca.PlatformCPUUsageCores, Value: owca.Float(cores)})
	}
	return m
}

func (p *Platform) appendMemory(m owca.Measurements) owca.Measurements {
	mem := &p.stat.Memory
	m = platformAppend(m, owca.PlatformMemoryTotal, "", mem.Total)
	m = platformAppend(m, owca.PlatformMemoryAvailable, "", mem.Available)
	return platformAppend(m, owca.PlatformMemoryUsage, "", platformMemoryUsage(mem))
}

// platformMemoryUsage is absent if a part of it is.
func platformMemoryUsage(m *proc.Memory) proc.Count {
	left := m.Total
	for _, part := range [...]proc.Count{m.Free, m.Buffers, m.Cached, m.Slab} {
		// The kernel counts the parts one after the other.
		if !left.OK || !part.OK || part.N > left.N {
			return proc.Count{}
		}
		left.N -= part.N
	}
	return left
}

// platformPressures are the resources, in the order of appendPressure.
var platformPressures = [...]struct{ some, full, ratio *owca.Desc }{
	{owca.PlatformCPUPressureSome, owca.PlatformCPUPressureFull, owca.PlatformCPUPressureSomeRatio},
	{owca.PlatformMemoryPressureSome, owca.PlatformMemoryPressureFull, owca.PlatformMemoryPressureSomeRatio},
	{owca.PlatformIOPressureSome, owca.PlatformIOPressureFull, owca.PlatformIOPressureSomeRatio},
}

func (p *Platform) appendPressure(m owca.Measurements, now time.Time) owca.Measurements {
	for i, pressure := range [len(platformPressures)]*proc.Pressure{&p.stat.CPUPressure, &p.stat.MemoryPressure, &p.stat.IOPressure} {
		desc := &platformPressures[i]
		m = platformAppend(m, desc.some, "", pressure.Some)
		m = platformAppend(m, desc.full, "", pressure.Full)
		if ratio, ok := p.pressureLast[i].share(pressure.Some, desc.some.Scale, now); ok {
			m = append(m, owca.Reading{Desc: desc.ratio, Value: owca.Float(ratio)})
		}
	}
	return m
}

// platformTotal is a total of time as it was read last.
type platformTotal struct {
	proc.Count
	at time.Time
}

// share returns by what share of the time since the last reading the total has
// grown, and keeps the new one. There is none at first, nor of a total that went
// backwards, nor with a reading missing.
func (t *platformTotal) share(total proc.Count, scale owca.Scale, now time.Time) (float64, bool) {
	last := *t
	*t = platformTotal{total, now}
	passed := now.Sub(last.at).Seconds()
	if !last.OK || !total.OK || total.N < last.N || passed <= 0 {
		return 0, false
	}
	// The file is read a little after now, sometimes later than others.
	return min(owca.Int(total.N-last.N).Float(scale)/passed, 1), true
}

func (p *Platform) appendSlow(m owca.Measurements, now time.Time) owca.Measurements {
	age := owca.Int(uint64(max(now.Sub(p.slowAt), 0).Milliseconds()))
	for _, f := range p.stat.Frequencies {
		m = append(m, owca.Reading{Desc: owca.PlatformCPUFrequency, Label: platformLabel(&p.cpuLabels, f.CPU), Value: owca.Int(f.Hertz)})
	}
	if len(p.stat.Frequencies) > 0 {
		m = append(m, owca.Reading{Desc: owca.PlatformReadingAge, Label: "cpu_frequency", Value: age})
	}
	for _, n := range p.stat.Nodes {
		label := platformLabel(&p.nodeLabels, n.Node)
		m = platformAppend(m, owca.PlatformMemoryNUMAFree, label, n.Free)
		m = platformAppend(m, owca.PlatformMemoryNUMAUsed, label, n.Used)
	}
	if len(p.stat.Nodes) > 0 {
		m = append(m, owca.Reading{Desc: owca.PlatformReadingAge, Label: "numa_memory", Value: age})
	}
	return m
}

func platformAppend(m owca.Measurements, d *owca.Desc, label string, c proc.Count) owca.Measurements {
	if !c.OK {
		return m
	}
	return append(m, owca.Reading{Desc: d, Label: label, Value: owca.Int(c.N)})
}

// platformLabel returns n as a string, made once.
func platformLabel(labels *[]string, n int) string {
	for len(*labels) <= n {
		*labels = append(*labels, strconv.Itoa(len(*labels)))
	}
	return (*labels)[n]
}
