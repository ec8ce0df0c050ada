package proc

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Topology is how the CPUs that are online are arranged.
type Topology struct {
	// CPUs online, in ascending order.
	CPUs []CPU
	// Sockets and Cores with CPUs online; 0 if the kernel does not know.
	Sockets, Cores int
	// Nodes are the NUMA nodes online, ascending; nil on a kernel without NUMA.
	Nodes []int
	// Caches that the first CPU sees.
	Caches []Cache
}

// CPU is one hardware thread and where it is; -1 is not known.
type CPU struct {
	ID     int
	Socket int
	// Core is the lowest online CPU of the threads that share the core: the
	// kernel's own core ids repeat in every socket, on x86 before Linux 5.3 in
	// every die, and on arm64 with a device tree in every cluster.
	Core int
	Node int
}

// Cache is one cache of a CPU.
type Cache struct {
	Level int
	Type  string // "Data", "Instruction", "Unified"
	Bytes uint64
}

// Name returns what people call the cache: "L1d", "L1i", "L2", "L3".
func (c Cache) Name() string {
	name := "L" + strconv.Itoa(c.Level)
	switch c.Type {
	case "Data":
		name += "d"
	case "Instruction":
		name += "i"
	}
	return name
}

// Topology reads /sys/devices/system/cpu and /sys/devices/system/node. Errors
// of its parts are joined; the rest is valid. CPUs that come or go meanwhile
// are an error, too: ask again.
func (fs FS) Topology() (Topology, error) {
	var t Topology
	online, err := fs.list("/sys/devices/system/cpu/online")
	if err != nil {
		return t, err
	}
	var errs []error
	note := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}

	t.CPUs = make([]CPU, len(online))
	index := make(map[int]int, len(online)) // CPU to its place
	for i, id := range online {
		index[id] = i
		t.CPUs[i] = CPU{id, -1, -1, -1}
	}
	note(fs.readCores(&t))

	t.Nodes, err = fs.list("/sys/devices/system/node/online")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		note(err)
	}
	for _, node := range t.Nodes {
		cpus, err := fs.list(fmt.Sprintf("/sys/devices/system/node/node%d/cpulist", node))
		note(err)
		for _, cpu := range cpus {
			if i, ok := index[cpu]; ok {
				t.CPUs[i].Node = node
			}
		}
	}

	if len(online) > 0 {
		t.Caches, err = fs.caches(online[0])
		note(err)
	}
	return t, errors.Join(errs...)
}

// readCores fills in sockets and cores. Their numbers stay 0 unless every CPU
// says where it is: a part of them would be a wrong count.
func (fs FS) readCores(t *Topology) error {
	sockets, cores := make(map[int]struct{}), make(map[int]struct{})
	sockless, coreless := 0, 0
	var errs []error
	for i := range t.CPUs {
		cpu := &t.CPUs[i]
		dir := fmt.Sprintf("/sys/devices/system/cpu/cpu%d/topology/", cpu.ID)
		// -1 is the kernel's word for not known.
		socket, err := fs.number(dir + "physical_package_id")
		switch {
		case err == nil && socket >= 0:
			cpu.Socket = socket
			sockets[socket] = struct{}{}
		default:
			sockless++
			errs = append(errs, err)
		}
		siblings, err := fs.list(dir + "thread_siblings_list")
		switch {
		case err == nil && len(siblings) > 0:
			cpu.Core = siblings[0]
			cores[cpu.Core] = struct{}{}
		default:
			coreless++
			errs = append(errs, err)
		}
	}
	if sockless == 0 {
		t.Sockets = len(sockets)
	}
	if coreless == 0 {
		t.Cores = len(cores)
	}
	err := errors.Join(errs...)
	if sockless == len(t.CPUs) && coreless == len(t.CPUs) && onlyNotExist(errs) {
		return nil // this kernel tells no CPU's place
	}
	return err
}

func onlyNotExist(errs []error) bool {
	for _, err := range errs {
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return false
		}
	}
	return true
}

// caches reads the caches of one CPU. Where the kernel does not know them or
// their sizes, they are left out.
func (fs FS) caches(cpu int) ([]Cache, error) {
	var list []Cache
	for i := 0; ; i++ {
		dir := fmt.Sprintf("/sys/devices/system/cpu/cpu%d/cache/index%d/", cpu, i)
		level, err := fs.number(dir + "level")
		if errors.Is(err, os.ErrNotExist) {
			return list, nil
		} else if err != nil {
			return list, err
		}
		kind, err := fs.text(dir + "type")
		if err != nil {
			return list, err
		}
		size, err := fs.text(dir + "size")
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return list, err
		}
		// "32768K": always in KiB (size_show in drivers/base/cacheinfo.c).
		kib, err := strconv.ParseUint(strings.TrimSuffix(size, "K"), 10, 50)
		if err != nil || !strings.HasSuffix(size, "K") {
			return list, fmt.Errorf("%s: malformed size %.80q", fs.path(dir+"size"), size)
		}
		list = append(list, Cache{level, kind, kib << 10})
	}
}

func (fs FS) list(name string) ([]int, error) {
	b, err := os.ReadFile(fs.path(name))
	if err != nil {
		return nil, err
	}
	ids, err := parseList(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", fs.path(name), err)
	}
	return ids, nil
}
