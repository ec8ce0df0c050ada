package perf

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

//go:embed bpf/count.o
var bpfObject []byte

// bpfObjects are what stays of a loaded bpf/count.c: what has no descriptor here is
// held by a program or a mapping.
type bpfObjects struct {
	counters *ebpf.Map // events: closing it would close them
	counted  *ebpf.Map // id → slot
	index    *ebpf.Map // of chunks
	onFlush  *ebpf.Program
	onSwitch *ebpf.Program // cgroup_switch, for CPUs that come; nil with sched_switch
	tracing  []link.Link   // of sched_switch and moved
	shared   memory        // struct shared
	states   memory        // a struct cpu for each possible CPU
	chunk    *ebpf.MapSpec
}

// load loads the programs, made for the plan's events, and attaches sched_switch.
func (c *bpfCounter) load() (o bpfObjects, err error) {
	defer func() {
		if err != nil {
			_ = o.close()
			o, err = bpfObjects{}, explainLoad(err)
		}
	}()
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(bpfObject))
	if err != nil {
		return o, err
	}
	var leaders, early, follows uint32
	if c.trigger == schedSwitch {
		follows = 1
	}
	i := 0
	for _, g := range c.groups {
		leaders |= 1 << i
		for _, e := range g {
			if e.countsSwitches() {
				early |= 1 << i
			}
			i++
		}
	}
	for name, value := range map[string]uint32{"n_events": uint32(len(c.events)), "n_cpus": uint32(c.nCPU), "leaders": leaders, "early": early, "follows": follows} {
		if err := spec.Variables[name].Set(value); err != nil {
			return o, err
		}
	}
	o.chunk = spec.Maps["chunks"].InnerMap
	o.chunk.ValueSize = uint32(c.rowSize)
	o.chunk.MaxEntries = uint32(c.nCPU * bpfChunk)
	spec.Maps["cpus"].ValueSize = uint32(cpuCounters + sizeCounter*len(c.events))
	spec.Maps["cpus"].MaxEntries = uint32(c.nCPU)
	spec.Maps["leaves"].MaxEntries = uint32(c.nCPU * bpfLeaves)

	if o.counters, err = newEventArray(len(c.events) * c.nCPU); err != nil {
		return o, err
	}
	delete(spec.Maps, "events")
	if c.trigger == cgroupSwitch {
		delete(spec.Programs, string(schedSwitch))
		delete(spec.Programs, "moved") // of use only if it is known who ran first
	} else {
		delete(spec.Programs, string(cgroupSwitch))
	}
	for name, p := range spec.Programs {
		if name == "moved" {
			continue // it reads no counters
		}
		if err := p.Instructions.AssociateMap("events", o.counters); err != nil {
			return o, err
		}
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		return o, err
	}
	defer coll.Close()
	if o.shared, err = mapMemory(coll.Maps["shared"]); err != nil {
		return o, err
	}
	if o.states, err = mapMemory(coll.Maps["cpus"]); err != nil {
		return o, err
	}
	o.counted = coll.DetachMap("counted")
	o.index = coll.DetachMap("chunks")
	o.onFlush = coll.DetachProgram("flush")
	if c.trigger == cgroupSwitch {
		o.onSwitch = coll.DetachProgram(string(c.trigger))
		return o, nil
	}
	sw, err := link.AttachTracing(link.TracingOptions{Program: coll.Programs[string(c.trigger)], AttachType: ebpf.AttachTraceRawTp})
	if err != nil {
		return o, err
	}
	o.tracing = append(o.tracing, sw)
	moved, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: "cgroup_attach_task", Program: coll.Programs["moved"]})
	if err != nil {
		return o, err
	}
	o.tracing = append(o.tracing, moved)
	return o, nil
}

// countsSwitches tells whether the event is one that the kernel counts at a switch
// but after the tracepoint sched_switch (prepare_task_switch,
// kernel/sched/core.c). It does that in the kernel.
func (e *Event) countsSwitches() bool {
	for _, enc := range e.Encodings {
		if enc.Attr.Type == unix.PERF_TYPE_SOFTWARE && enc.Attr.Bits&unix.PerfBitExcludeKernel == 0 &&
			(enc.Attr.Config == unix.PERF_COUNT_SW_CONTEXT_SWITCHES || enc.Attr.Config == swCgroupSwitches) {
			return true
		}
	}
	return false
}

// explainLoad says what to do about an error of loading.
func explainLoad(err error) error {
	var verifier *ebpf.VerifierError
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("bpf: %w: it needs CAP_BPF and CAP_PERFMON (AmbientCapabilities= of the systemd unit), or root; in a container, also a seccomp profile that allows bpf(2)", err)
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("bpf: %w: %w", err, errors.ErrUnsupported)
	case errors.As(err, &verifier):
		// %v is the end of its log.
		return fmt.Errorf("bpf: this kernel does not take the program: %v: %w", verifier, errors.ErrUnsupported)
	}
	if _, btf := os.Stat("/sys/kernel/btf/vmlinux"); errors.Is(btf, os.ErrNotExist) {
		return fmt.Errorf("bpf: the kernel has no BTF (CONFIG_DEBUG_INFO_BTF): %w: %w", err, errors.ErrUnsupported)
	}
	return fmt.Errorf("bpf: %w", err)
}

// newEventArray makes a BPF_MAP_TYPE_PERF_EVENT_ARRAY of any size, which ebpf.NewMap
// allows no more than one entry a CPU.
func newEventArray(n int) (*ebpf.Map, error) {
	attr := struct { // the part of union bpf_attr that BPF_MAP_CREATE uses
		mapType, keySize, valueSize, maxEntries, flags, innerFD, node uint32
		name                                                          [16]byte
	}{mapType: uint32(ebpf.PerfEventArray), keySize: 4, valueSize: 4, maxEntries: uint32(n), name: [16]byte{'e', 'v', 'e', 'n', 't', 's'}}
	const mapCreate = 0
	fd, _, errno := unix.Syscall(unix.SYS_BPF, mapCreate, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return nil, fmt.Errorf("map of %d events: %w", n, errno)
	}
	return ebpf.NewMapFromFD(int(fd))
}

// mapMemory maps an array with BPF_F_MMAPABLE.
func mapMemory(m *ebpf.Map) (memory, error) {
	page := os.Getpagesize()
	size := (int(m.MaxEntries())*int(m.ValueSize()) + page - 1) / page * page
	b, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("bpf: mapping %d bytes of rows: %w", size, err)
	}
	return b, nil
}

// files is how many descriptors are open.
func (o *bpfObjects) files() int {
	n := len(o.tracing)
	for _, open := range []bool{o.counters != nil, o.counted != nil, o.index != nil, o.onFlush != nil, o.onSwitch != nil} {
		if open {
			n++
		}
	}
	return n
}

func (o *bpfObjects) close() error {
	var errs error
	for _, l := range o.tracing {
		errs = errors.Join(errs, l.Close())
	}
	for _, p := range []*ebpf.Program{o.onFlush, o.onSwitch} {
		errs = errors.Join(errs, p.Close())
	}
	for _, m := range []*ebpf.Map{o.counters, o.counted, o.index} {
		errs = errors.Join(errs, m.Close())
	}
	for _, m := range []memory{o.shared, o.states} {
		if m != nil {
			errs = errors.Join(errs, unix.Munmap(m))
		}
	}
	*o = bpfObjects{}
	return errs
}
