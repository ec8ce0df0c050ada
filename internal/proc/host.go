package proc

import (
	"errors"
	"fmt"
	"slices"
)

// HostStat is what [Host.Read] and [Host.ReadSlow] find. What is absent is a
// Count that is not OK or an empty slice. All of it belongs to the caller and is
// reused by the next read into it.
type HostStat struct {
	// CPUsChanged counts how often the set of online CPUs was found to differ
	// from that of the read before, the first time included.
	CPUsChanged uint64

	CPUs   []CPUTime // online CPUs in ascending order
	Memory Memory
	VMStat []Count // in the order of the keys given to NewHost
	Load   Load
	// CPUPressure.Full is absent where it is zero: since Linux 5.19 the kernel
	// prints zero because the full pressure of a host's CPUs is not defined.
	CPUPressure    Pressure
	MemoryPressure Pressure
	IOPressure     Pressure

	// By ReadSlow.
	Frequencies []Frequency  // in ascending order of CPUs
	Nodes       []NodeMemory // in ascending order
}

// Host reads the state of the host through files that it keeps open: about ten,
// one for each NUMA node, and one for each CPU whose frequency can be scaled.
type Host struct {
	fs      FS
	keys    map[string]int // of vmstat, to their place in HostStat.VMStat
	vmstats int            // places in HostStat.VMStat

	stat, meminfo, vmstat, loadavg                                file
	cpuPressure, memoryPressure, ioPressure, nodesOnline, cpuinfo file

	cpus        []int
	cpusChanged uint64
	scaling     []numbered // scaling_cur_freq, in ascending order
	scalingOf   uint64     // cpusChanged when scaling was listed
	preferInfo  bool       // /proc/cpuinfo rather than cpufreq
	nodes       []numbered // meminfo of the nodes, in ascending order
	nodesText   []byte     // the list that nodes was made from

	buf  []byte
	errs []error
}

type numbered struct {
	id int
	file
}

// NewHost returns a Host of fs that reads these keys of /proc/vmstat beside
// everything else. Nothing is opened before the first Read.
func (fs FS) NewHost(vmstat []string) *Host {
	h := &Host{fs: fs}
	h.SetVMStat(vmstat)
	must := func(name string) file { return file{path: fs.path(name), whole: true, must: true} }
	h.stat = must("/proc/stat")
	h.meminfo = must("/proc/meminfo")
	h.loadavg = must("/proc/loadavg")
	whole := func(name string) file { return file{path: fs.path(name), whole: true} }
	h.cpuPressure = whole("/proc/pressure/cpu")
	h.memoryPressure = whole("/proc/pressure/memory")
	h.ioPressure = whole("/proc/pressure/io")
	h.nodesOnline = whole("/sys/devices/system/node/online")
	h.vmstat = file{path: fs.path("/proc/vmstat"), must: true}
	h.cpuinfo = file{path: fs.path("/proc/cpuinfo"), must: true}
	return h
}

// SetVMStat makes the next Read look for these keys of /proc/vmstat. A key that
// is repeated is found in its last place only.
func (h *Host) SetVMStat(keys []string) {
	h.keys = make(map[string]int, len(keys))
	for i, key := range keys {
		h.keys[key] = i
	}
	h.vmstats = len(keys)
}

// Close closes the files. A later Read opens them again.
func (h *Host) Close() error {
	for _, f := range []*file{&h.stat, &h.meminfo, &h.vmstat, &h.loadavg, &h.cpuPressure,
		&h.memoryPressure, &h.ioPressure, &h.nodesOnline, &h.cpuinfo} {
		f.close()
	}
	closeAll(h.scaling)
	closeAll(h.nodes)
	return nil
}

func closeAll(files []numbered) {
	for i := range files {
		files[i].close()
	}
}

// Read reads what is cheap into s: everything but what ReadSlow does. Errors of
// single files are joined; the rest of s is valid.
func (h *Host) Read(s *HostStat) error {
	h.errs = h.errs[:0]
	h.readCPUs(s)
	var err error
	s.Memory = Memory{}
	if b := h.read(&h.meminfo); len(b) > 0 {
		s.Memory, err = parseMeminfo(b)
		h.note(&h.meminfo, err)
	}
	s.VMStat = slices.Grow(s.VMStat[:0], h.vmstats)[:h.vmstats]
	clear(s.VMStat)
	if len(h.keys) > 0 {
		if b := h.read(&h.vmstat); len(b) > 0 {
			h.note(&h.vmstat, parseVMStat(b, h.keys, s.VMStat))
		}
	}
	s.Load = Load{}
	if b := h.read(&h.loadavg); len(b) > 0 {
		s.Load, err = parseLoad(b)
		h.note(&h.loadavg, err)
	}
	s.CPUPressure = h.readPressure(&h.cpuPressure)
	if s.CPUPressure.Full.N == 0 {
		s.CPUPressure.Full.OK = false
	}
	s.MemoryPressure = h.readPressure(&h.memoryPressure)
	s.IOPressure = h.readPressure(&h.ioPressure)
	return errors.Join(h.errs...)
}

// ReadSlow reads the frequencies of the CPUs and the memory of the NUMA nodes
// into s, which takes a few µs for each of them, and on hosts without cpufreq
// (virtual machines) some 10 µs for each CPU. It is about the CPUs that the last
// Read found. Errors of single files are joined; the rest of s is valid.
func (h *Host) ReadSlow(s *HostStat) error {
	h.errs = h.errs[:0]
	if h.scalingOf != h.cpusChanged {
		h.listScaling()
	}
	h.readFrequencies(s)
	h.readNodes(s)
	return errors.Join(h.errs...)
}

// read returns the content of f, empty if it is absent; it is valid until the
// next read.
func (h *Host) read(f *file) []byte {
	b, err := f.read(&h.buf)
	if err != nil {
		h.errs = append(h.errs, err)
	}
	return b
}

// note takes down that the content of f could not be parsed.
func (h *Host) note(f *file, err error) {
	if err != nil {
		h.errs = append(h.errs, fmt.Errorf("%s: %w", f.path, err))
	}
}

func (h *Host) readPressure(f *file) Pressure {
	b := h.read(f)
	p, err := parsePressure(b)
	h.note(f, err)
	return p
}

// readCPUs reads /proc/stat as far as it is about single CPUs. The kernel makes
// the whole content for every read, but need not copy the line of interrupts,
// which is by far the longest.
func (h *Host) readCPUs(s *HostStat) {
	s.CPUs = s.CPUs[:0]
	s.CPUsChanged = h.cpusChanged
	if ok, err := h.stat.open(); !ok {
		if err != nil {
			h.errs = append(h.errs, err)
		}
		return
	}
	for {
		if len(h.buf) == 0 {
			grow(&h.buf)
		}
		n, err := pread(h.stat.fd, h.buf, 0)
		if err != nil {
			if err = h.stat.failed("read", err); err != nil {
				h.errs = append(h.errs, err)
			}
			return
		}
		var done bool
		s.CPUs, done, err = parseCPUTimes(h.buf[:n], s.CPUs[:0])
		h.note(&h.stat, err)
		if done || n < len(h.buf) {
			break
		}
		grow(&h.buf)
	}
	if len(s.CPUs) == 0 || slices.EqualFunc(s.CPUs, h.cpus, func(t CPUTime, id int) bool { return t.CPU == id }) {
		return
	}
	h.cpus = h.cpus[:0]
	for _, t := range s.CPUs {
		h.cpus = append(h.cpus, t.CPU)
	}
	h.cpusChanged++
	s.CPUsChanged = h.cpusChanged
}

// listScaling finds out where the frequencies of the CPUs that are online now
// are to be had.
func (h *Host) listScaling() {
	closeAll(h.scaling)
	h.scaling = h.scaling[:0]
	for _, cpu := range h.cpus {
		path := h.fs.path(fmt.Sprintf("/sys/devices/system/cpu/cpu%d/cpufreq/scaling_cur_freq", cpu))
		h.scaling = append(h.scaling, numbered{cpu, file{path: path, whole: true}})
	}
	release, err := h.fs.KernelVersion()
	if err != nil {
		h.errs = append(h.errs, err)
	} else {
		h.scalingOf = h.cpusChanged
	}
	h.preferInfo = !freshCPUFreq(release)
}

func (h *Host) readFrequencies(s *HostStat) {
	s.Frequencies = s.Frequencies[:0]
	if h.preferInfo {
		// Other architectures do not have them there.
		if h.readCPUInfo(s); len(s.Frequencies) > 0 {
			return
		}
	}
	for i := range h.scaling {
		f := &h.scaling[i]
		b := h.read(&f.file)
		line, _, ok := cutLine(b)
		if !ok {
			continue
		}
		khz, tail, ok := cutUint(line)
		if !ok || len(tail) > 0 || khz > 1e9 {
			h.note(&f.file, malformed(line))
			continue
		}
		if khz > 0 { // 0: the driver does not know
			s.Frequencies = append(s.Frequencies, Frequency{f.id, khz * 1000})
		}
	}
	if len(s.Frequencies) == 0 && !h.preferInfo {
		h.readCPUInfo(s)
	}
}

func (h *Host) readCPUInfo(s *HostStat) {
	b := h.read(&h.cpuinfo)
	var err error
	s.Frequencies, err = parseCPUMHz(b, s.Frequencies[:0])
	h.note(&h.cpuinfo, err)
}

func (h *Host) readNodes(s *HostStat) {
	s.Nodes = s.Nodes[:0]
	b := h.read(&h.nodesOnline)
	if !slices.Equal(b, h.nodesText) {
		closeAll(h.nodes)
		h.nodes, h.nodesText = h.nodes[:0], h.nodesText[:0]
		ids, err := parseList(b)
		if err != nil {
			h.note(&h.nodesOnline, err)
			return
		}
		for _, id := range ids {
			path := h.fs.path(fmt.Sprintf("/sys/devices/system/node/node%d/meminfo", id))
			h.nodes = append(h.nodes, numbered{id, file{path: path, whole: true}})
		}
		h.nodesText = append(h.nodesText, b...)
	}
	for i := range h.nodes {
		f := &h.nodes[i]
		b := h.read(&f.file)
		free, used, err := parseNodeMeminfo(b)
		h.note(&f.file, err)
		if free.OK || used.OK {
			s.Nodes = append(s.Nodes, NodeMemory{f.id, free, used})
		}
	}
}
