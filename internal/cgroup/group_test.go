package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func open(t testing.TB, tree *Tree, name string) *Group {
	t.Helper()
	g, err := tree.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	return g
}

func read(t testing.TB, g *Group, sets Set) *Stat {
	t.Helper()
	var s Stat
	if err := g.Read(&s, sets); err != nil {
		t.Fatal(err)
	}
	return &s
}

// present fails the test unless f is, and returns it.
func present(t testing.TB, s *Stat, f Field) uint64 {
	t.Helper()
	v, ok := s.Get(f)
	if !ok {
		t.Fatalf("field %d is absent", f)
	}
	return v
}

// TestReadFixtures lists all fields of each kind of host: one that is not
// listed must be absent.
func TestReadFixtures(t *testing.T) {
	page := uint64(os.Getpagesize())
	tests := map[string]struct {
		fields map[Field]uint64
		nodes  []NUMANode
		cpus   string
		kept   int
		pids   []int
	}{
		"v1": {
			fields: map[Field]uint64{
				CPUUsage: 1420696154, CPUUser: 1.21e9, CPUSystem: 0.2e9, CPUPeriods: 74, CPUThrottledPeriods: 70,
				CPUThrottledTime: 5597587282, CPUBursts: 1, CPUBurstTime: 5e6,
				MemoryUsage: 4636672, MemoryPeak: 5980160, OOMKills: 0,
				MemoryAnon: 106496, MemoryFile: 4194304, MemoryInactiveFile: 0, PageFaults: 489, MajorFaults: 0, Refaults: 0,
				IOReadBytes: 4325376, IOWriteBytes: 0, IOReads: 33, IOWrites: 0, PIDsCurrent: 2,
				CPUQuota: 20e6, CPUPeriod: 100e6, CPUBurstLimit: 5e6, CPUShares: 512, CPUIdle: 0,
				MemoryMax: 256 << 20, MemorySoftLimit: Max, PIDsMax: 50, CPUSetCPUs: 2, CPUSetMems: 2,
			},
			nodes: []NUMANode{{0, 13 * page}, {1, 1037 * page}},
			cpus:  "1-2",
			kept:  3 + 2 + 2 + 1,
			pids:  []int{142, 180},
		},
		"v2": {
			fields: map[Field]uint64{
				CPUUsage: 1273745e3, CPUUser: 1105859e3, CPUSystem: 167886e3, CPUPeriods: 66, CPUThrottledPeriods: 63,
				CPUThrottledTime: 5021432e3, CPUBursts: 1, CPUBurstTime: 5e6,
				MemoryUsage: 4657152, MemoryPeak: 5984256, OOMKills: 0,
				MemoryAnon: 106496, MemoryFile: 4194304, MemoryInactiveFile: 0, PageFaults: 490, MajorFaults: 0, Refaults: 0,
				IOReadBytes: 4325376, IOWriteBytes: 0, IOReads: 33, IOWrites: 0, PIDsCurrent: 2,
				CPUPressureSome: 4252662e3, CPUPressureFull: 4252662e3, MemoryPressureSome: 0, MemoryPressureFull: 0,
				IOPressureSome: 3149e3, IOPressureFull: 3149e3,
				CPUQuota: 20e6, CPUPeriod: 100e6, CPUBurstLimit: 5e6, CPUWeight: 50, CPUIdle: 0,
				MemoryLow: 16 << 20, MemoryHigh: 200 << 20, MemoryMax: 256 << 20, PIDsMax: 50, CPUSetCPUs: 2, CPUSetMems: 2,
			},
			nodes: []NUMANode{{0, 57344}, {1, 49152 + 4194304}},
			cpus:  "1-2",
			kept:  1 + 2 + 1 + 1 + 3,
			pids:  []int{108, 143},
		},
		"hybrid": {
			// No I/O: the kernel doesn't count it there.
			fields: map[Field]uint64{
				CPUUsage: 211063770, CPUUser: 0.21e9, CPUSystem: 0, CPUPeriods: 12, CPUThrottledPeriods: 10,
				CPUThrottledTime: 620871230, CPUBursts: 0, CPUBurstTime: 0,
				MemoryUsage: 180224, MemoryPeak: 278528, OOMKills: 0,
				MemoryAnon: 106496, MemoryFile: 0, MemoryInactiveFile: 0, PageFaults: 77, MajorFaults: 0, Refaults: 0,
				PIDsCurrent: 1, CPUPressureSome: 522596e3, CPUPressureFull: 522596e3,
				MemoryPressureSome: 0, MemoryPressureFull: 0, IOPressureSome: 0, IOPressureFull: 0,
				CPUQuota: 20e6, CPUPeriod: 100e6, CPUBurstLimit: 0, CPUShares: 512, CPUIdle: 0,
				MemoryMax: 256 << 20, MemorySoftLimit: Max, PIDsMax: 50, CPUSetCPUs: 2, CPUSetMems: 1,
			},
			nodes: []NUMANode{{0, 26 * page}},
			cpus:  "0-1",
			kept:  3 + 2 + 1 + 3, // I/O is not counted there
			pids:  []int{906},
		},
	}
	for host, tt := range tests {
		for _, keep := range []int{1000, 5, 0} {
			t.Run(fmt.Sprintf("%s, keeping %d", host, keep), func(t *testing.T) {
				tree := fixture(t, host)
				tree.KeepFiles = keep
				g := open(t, tree, worker)
				for range 3 {
					s := read(t, g, All)
					if d := cmp.Diff(tt.fields, fields(s)); d != "" {
						t.Errorf("(-want +got):\n%s", d)
					}
					if !slices.Equal(tt.nodes, s.NUMA) {
						t.Errorf("NUMA = %v", s.NUMA)
					}
					if s.CPUSet != tt.cpus {
						t.Errorf("CPUSet = %q", s.CPUSet)
					}
				}
				if want := min(tt.kept, keep); g.Files() != want || tree.Files() != want {
					t.Errorf("keeps %d files (tree: %d), want %d", g.Files(), tree.Files(), want)
				}
				if err := g.Problems(); err != nil || g.Unread() != 0 {
					t.Errorf("%b %v", g.Unread(), err)
				}
				for _, list := range []func([]int) ([]int, error){g.Pids, g.Threads} {
					if ids, err := list(nil); err != nil || !slices.Equal(ids, tt.pids) {
						t.Errorf("%v, %v; want %v", ids, err, tt.pids)
					}
				}
				if err := g.Close(); err != nil || g.Files() != 0 || tree.Files() != 0 {
					t.Errorf("closed: %v, %d, %d", err, g.Files(), tree.Files())
				}
			})
		}
	}
}

// TestReadSets: other sets' fields stay as they are.
func TestReadSets(t *testing.T) {
	g := open(t, fixture(t, "v2"), worker)
	var s Stat
	for set := CPU; set <= Limits; set <<= 1 {
		s.Reset()
		s.Set(CPUUsage, 42)
		s.Set(PIDsCurrent, 43)
		if err := g.Read(&s, set); err != nil {
			t.Fatal(err)
		}
		want := set.fields() &^ (1<<CPUShares | 1<<MemorySoftLimit)
		if s.present != want|1<<CPUUsage|1<<PIDsCurrent {
			t.Errorf("set %b: fields %b, want %b", set, s.present, want)
		}
		if u, _ := s.Get(CPUUsage); (u == 42) != (set != CPU) {
			t.Errorf("set %b: usage %d", set, u)
		}
		if (len(s.NUMA) > 0) != (set == NUMA) || (s.CPUSet != "") != (set == Limits) {
			t.Errorf("set %b: %v %q", set, s.NUMA, s.CPUSet)
		}
	}
}

// TestReadHybridFallback: a cgroup that v1's controllers don't have, as
// systemd leaves them without accounting, has its CPU time on the v2 side.
func TestReadHybridFallback(t *testing.T) {
	root := copyFixture(t, "hybrid")
	if err := os.RemoveAll(filepath.Join(root, "sys/fs/cgroup/cpuacct", worker)); err != nil {
		t.Fatal(err)
	}
	tree, err := FS{Root: root}.Tree()
	if err != nil {
		t.Fatal(err)
	}
	s := read(t, open(t, tree, worker), CPU)
	if u := present(t, s, CPUUsage); u != 211268e3 {
		t.Errorf("usage %d", u)
	}
	if p := present(t, s, CPUPeriods); p != 12 {
		t.Errorf("periods %d", p)
	}
}

// TestReadBlkio: whether there was no I/O or nobody counts is told by the top.
func TestReadBlkio(t *testing.T) {
	root := copyFixture(t, "hybrid")
	const device = "7:0 Read 0\n7:0 Write 0\n7:0 Total 0\nTotal 0\n"
	blkio := filepath.Join(root, "sys/fs/cgroup/blkio")
	write(t, filepath.Join(blkio, "blkio.throttle.io_serviced_recursive"), device)
	tree, err := FS{Root: root}.Tree()
	if err != nil {
		t.Fatal(err)
	}
	g := open(t, tree, worker)
	s := read(t, g, IO)
	if d := cmp.Diff(map[Field]uint64{IOReads: 0, IOWrites: 0}, fields(s)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if g.Files() != 1 {
		t.Errorf("%d files are open, not the one that counts", g.Files())
	}
	// No is not for ever.
	write(t, filepath.Join(blkio, "blkio.throttle.io_service_bytes_recursive"), device)
	for range 12 {
		s = read(t, g, IO)
	}
	if len(fields(s)) != 4 {
		t.Errorf("after 12 reads: %v", fields(s))
	}
	// Older kernels have no recursive files.
	for _, name := range []string{"service_bytes", "serviced"} {
		old := filepath.Join(blkio, worker, "blkio.throttle.io_"+name)
		if err := os.Remove(old + "_recursive"); err != nil {
			t.Fatal(err)
		}
		write(t, old, "7:0 Read 7\n7:0 Write 8\n7:0 Total 15\nTotal 15\n")
	}
	s = read(t, open(t, tree, worker), IO)
	want := map[Field]uint64{IOReads: 7, IOWrites: 8, IOReadBytes: 7, IOWriteBytes: 8}
	if d := cmp.Diff(want, fields(s)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestReadMissing(t *testing.T) {
	root := copyFixture(t, "v2")
	dir := filepath.Join(root, "sys/fs/cgroup", worker)
	for _, f := range []string{"memory.current", "cpu.max"} {
		if err := os.Rename(filepath.Join(dir, f), filepath.Join(dir, f+".away")); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := FS{Root: root}.Tree()
	if err != nil {
		t.Fatal(err)
	}
	g := open(t, tree, worker)
	for range 100 {
		s := read(t, g, All)
		for _, f := range []Field{MemoryUsage, CPUQuota, CPUPeriod} {
			if _, ok := s.Get(f); ok {
				t.Fatalf("field %d is present", f)
			}
		}
		present(t, s, CPUUsage)
		present(t, s, MemoryPeak)
		if g.Unread() != 0 || g.Problems() != nil {
			t.Fatalf("a missing file is no problem: %v", g.Problems())
		}
	}
	for _, f := range []string{"memory.current", "cpu.max"} {
		if err := os.Rename(filepath.Join(dir, f+".away"), filepath.Join(dir, f)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 34 {
		s := read(t, g, All)
		_, usage := s.Get(MemoryUsage)
		_, quota := s.Get(CPUQuota)
		if usage && quota {
			return
		}
		if i == 33 {
			t.Error("not found after 34 reads")
		}
	}
}

// TestReadLater: a v1 cgroup is made one hierarchy at a time.
func TestReadLater(t *testing.T) {
	root := copyFixture(t, "v1")
	cpu := filepath.Join(root, "sys/fs/cgroup/cpu,cpuacct", worker)
	if err := os.Rename(cpu, cpu+".away"); err != nil {
		t.Fatal(err)
	}
	tree, err := FS{Root: root}.Tree()
	if err != nil {
		t.Fatal(err)
	}
	g := open(t, tree, worker)
	s := read(t, g, All)
	present(t, s, MemoryUsage)
	if _, ok := s.Get(CPUUsage); ok {
		t.Error("usage is present")
	}
	if err := os.Rename(cpu+".away", cpu); err != nil {
		t.Fatal(err)
	}
	read(t, g, CPU)
	present(t, read(t, g, CPU), CPUUsage)
}

func TestReadProblems(t *testing.T) {
	root := copyFixture(t, "v2")
	dir := filepath.Join(root, "sys/fs/cgroup", worker)
	tree, err := FS{Root: root}.Tree()
	if err != nil {
		t.Fatal(err)
	}
	g := open(t, tree, worker)
	read(t, g, All)

	// More than the buffer, with keys of the future.
	stat, err := os.ReadFile(filepath.Join(dir, "memory.stat"))
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("a_key_of_the_future 12345\n", 8000) + string(stat)
	write(t, filepath.Join(dir, "memory.stat"), long)
	if v := present(t, read(t, g, MemoryStat), PageFaults); v != 490 {
		t.Errorf("%d page faults", v)
	}
	if g.Problems() != nil {
		t.Error(g.Problems())
	}

	write(t, filepath.Join(dir, "memory.stat"), strings.Repeat(long, 8))
	write(t, filepath.Join(dir, "cpu.stat"), "\x00\xff\x00")
	write(t, filepath.Join(dir, "pids.current"), "")
	if err := os.Remove(filepath.Join(dir, "io.stat")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "io.stat"), 0o755); err != nil { // EISDIR
		t.Fatal(err)
	}
	again := open(t, tree, worker)
	for range 3 {
		s := read(t, again, All)
		for _, f := range []Field{PageFaults, MemoryAnon, CPUUsage, PIDsCurrent, IOReads} {
			if _, ok := s.Get(f); ok {
				t.Errorf("field %d is present", f)
			}
		}
		present(t, s, MemoryUsage)
		if want := MemoryStat | CPU | PIDs | IO; again.Unread() != want {
			t.Errorf("unread %b, want %b", again.Unread(), want)
		}
	}
	problems := again.Problems()
	if !errors.Is(problems, errTooLong) || !errors.Is(problems, unix.EISDIR) {
		t.Error(problems)
	}
	for _, name := range []string{"memory.stat", "cpu.stat", "pids.current", "io.stat"} {
		if !strings.Contains(problems.Error(), filepath.Join(dir, name)) {
			t.Errorf("%s is not in: %v", name, problems)
		}
	}
	write(t, filepath.Join(dir, "cpu.stat"), "usage_usec 5\n")
	if v := present(t, read(t, again, CPU), CPUUsage); v != 5000 || again.Unread()&CPU != 0 {
		t.Errorf("repaired: %d, %b", v, again.Unread())
	}
}

func TestReadGone(t *testing.T) {
	for _, host := range []string{"v1", "v2", "hybrid"} {
		t.Run(host, func(t *testing.T) {
			root := copyFixture(t, host)
			tree, err := FS{Root: root}.Tree()
			if err != nil {
				t.Fatal(err)
			}
			g := open(t, tree, worker)
			read(t, g, All)
			for _, d := range tree.Dirs() {
				if err := os.Rename(d+worker, d+worker+".away"); err != nil {
					t.Fatal(err)
				}
				// The same name, another directory.
				if err := os.Mkdir(d+worker, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			var s Stat
			s.Set(CPUUsage, 1)
			s.Set(CPUQuota, 1)
			if err := g.Read(&s, Limits); !errors.Is(err, ErrGone) {
				t.Errorf("error %v", err)
			}
			if _, ok := s.Get(CPUQuota); ok {
				t.Error("a limit of a cgroup that is gone")
			}
			present(t, &s, CPUUsage)
			if _, err := g.Pids(nil); !errors.Is(err, ErrGone) {
				t.Errorf("Pids: %v", err)
			}
		})
	}
}

func TestClosed(t *testing.T) {
	g := open(t, fixture(t, "v2"), worker)
	read(t, g, All)
	for range 2 {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}
	var s Stat
	if err := g.Read(&s, All); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Read: %v", err)
	}
	if _, err := g.Threads(nil); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Threads: %v", err)
	}
	if g.Files() != 0 {
		t.Errorf("%d files", g.Files())
	}
}

// TestNewlineInName: the kernel refuses such names of cgroups since 3.16, so
// this is a copy.
func TestNewlineInName(t *testing.T) {
	root := copyFixture(t, "v2")
	const name = "/app/a \"b\"\n'c'\\漢"
	dir := filepath.Join(root, "sys/fs/cgroup")
	if err := os.Rename(dir+worker, dir+name); err != nil {
		t.Fatal(err)
	}
	tree, err := FS{Root: root}.Tree()
	if err != nil {
		t.Fatal(err)
	}
	present(t, read(t, open(t, tree, name), CPU), CPUUsage)
}

// TestDescriptorsRunOut: values stay right, and the kept files come back when
// descriptors are free again.
func TestDescriptorsRunOut(t *testing.T) {
	tree := fixture(t, "hybrid")
	var groups []*Group
	for range 10 {
		groups = append(groups, open(t, tree, worker))
	}
	want := fields(read(t, groups[0], All))
	for _, g := range groups[1:6] {
		read(t, g, All)
	}
	before := tree.Files()

	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	// Fill the gaps, so that what the groups give up is what there is.
	highest := 0
	for _, g := range groups {
		for _, sl := range g.slots {
			highest = max(highest, int(sl.fd))
		}
	}
	for last := -1; last < highest; {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		last, highest = fd, max(highest, fd)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(highest) + 1, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	restore := func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Fatal(err)
		}
	}
	defer restore()
	for range 3 {
		for i, g := range groups {
			if d := cmp.Diff(want, fields(read(t, g, All))); d != "" {
				t.Fatalf("group %d (-want +got):\n%s", i, d)
			}
			if g.Problems() != nil {
				t.Fatal(g.Problems())
			}
		}
	}
	if tree.Files() > before {
		t.Errorf("%d files, %d before", tree.Files(), before)
	}
	restore()
	for range 3 * 64 * 12 {
		for _, g := range groups {
			read(t, g, CPU|Memory|Pressure)
		}
		if tree.Files() == 10*8 {
			break
		}
	}
	read(t, groups[0], All)
	if tree.Files() < 10*8 {
		t.Errorf("%d files, long after", tree.Files())
	}

	// With nothing to give up it is a problem that goes away.
	for _, g := range groups[1:] {
		_ = g.Close()
	}
	tree.KeepFiles = 0
	read(t, groups[0], All)
	if tree.Files() != 0 {
		t.Fatalf("keeps %d files, with none allowed", tree.Files())
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	s := read(t, groups[0], All)
	restore()
	if len(fields(s)) != 0 || !errors.Is(groups[0].Problems(), unix.EMFILE) {
		t.Errorf("without descriptors: %v %v", fields(s), groups[0].Problems())
	}
	if d := cmp.Diff(want, fields(read(t, groups[0], All))); d != "" {
		t.Errorf("with them again (-want +got):\n%s", d)
	}
}
