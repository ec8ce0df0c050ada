package cgroup

import (
	"errors"
	"io/fs"
	"maps"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/hosttest"
)

func TestMain(m *testing.M) { hosttest.Main(m) }

// worker is the cgroup with a load in the fixtures, which were copied from
// kernels 6.12 (v1 and v2, all controllers, two NUMA nodes) and 6.18 (hybrid).
const worker = "/app/worker"

func fixture(t testing.TB, host string) *Tree {
	t.Helper()
	tree, err := FS{Root: filepath.Join("testdata", host)}.Tree()
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// copyFixture returns a root that the test may write to.
func copyFixture(t testing.TB, host string) string {
	t.Helper()
	root := t.TempDir()
	if err := os.CopyFS(root, os.DirFS(filepath.Join("testdata", host))); err != nil {
		t.Fatal(err)
	}
	return root
}

func write(t testing.TB, file, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestTree(t *testing.T) {
	abs := func(host, dir string) string {
		root, err := filepath.Abs(filepath.Join("testdata", host))
		if err != nil {
			t.Fatal(err)
		}
		return filepath.Join(root, "sys/fs/cgroup", dir)
	}
	tests := []struct {
		host    string
		version Version
		unified string
		cpu     string
		dirs    []string
	}{
		{"v1", V1, "", abs("v1", "cpu,cpuacct"), []string{"cpu,cpuacct", "cpuset", "memory", "blkio", "pids", "freezer", "systemd"}},
		{"v2", V2, abs("v2", ""), "", []string{""}},
		{"hybrid", Hybrid, abs("hybrid", "unified"), abs("hybrid", "cpu"), []string{"unified", "cpu", "cpuacct", "cpuset", "memory", "freezer", "blkio", "pids", "systemd"}},
	}
	for _, tt := range tests {
		root, err := filepath.Abs(filepath.Join("testdata", tt.host))
		if err != nil {
			t.Fatal(err)
		}
		tree, err := FS{Root: root}.Tree()
		if err != nil {
			t.Fatal(err)
		}
		if tree.Version() != tt.version {
			t.Errorf("%s: %v", tt.host, tree.Version())
		}
		if tree.Unified() != tt.unified {
			t.Errorf("%s: v2 is at %q, want %q", tt.host, tree.Unified(), tt.unified)
		}
		if tree.V1("cpu") != tt.cpu {
			t.Errorf("%s: v1 cpu is at %q, want %q", tt.host, tree.V1("cpu"), tt.cpu)
		}
		var dirs []string
		for _, d := range tt.dirs {
			dirs = append(dirs, abs(tt.host, d))
		}
		if d := cmp.Diff(dirs, tree.Dirs()); d != "" {
			t.Errorf("%s: directories (-want +got):\n%s", tt.host, d)
		}
	}
	if c := fixture(t, "v2").Controllers()[0].Controllers; !slices.Contains(c, "memory") {
		t.Errorf("v2 controllers: %q", c)
	}
	if h := fixture(t, "v1").Controllers()[0]; !slices.Equal(h.Controllers, []string{"cpu", "cpuacct"}) || h.Version != V1 || h.Root != "/" {
		t.Errorf("first v1 hierarchy: %+v", h)
	}
	if h := fixture(t, "v1"); h.V1("name=systemd") == "" {
		t.Error("no named hierarchy")
	}
}

// TestTreeHost compares with what the kernel and another parser say.
func TestTreeHost(t *testing.T) {
	mounted := hosttest.Hierarchies()
	tree, err := FS{Root: "/"}.Tree()
	if len(mounted) == 0 {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("error %v where there are no cgroups", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range mounted {
		if h.Type == "cgroup2" {
			if tree.Unified() != h.Dir {
				t.Errorf("v2 is at %q, want %q", tree.Unified(), h.Dir)
			}
			continue
		}
		for _, c := range h.Controllers {
			if strings.HasPrefix(c, "name=") || isController1(c) {
				if got := tree.V1(c); got != h.Dir {
					t.Errorf("%s is at %q, want %q", c, got, h.Dir)
				}
			}
		}
	}
	if len(tree.Dirs()) != len(mounted) {
		t.Errorf("%d directories, %d mounts", len(tree.Dirs()), len(mounted))
	}
}

func TestTreeRoot(t *testing.T) {
	const line = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
	mount := func(t *testing.T, root, dir string) {
		write(t, filepath.Join(root, dir, "cgroup.procs"), "")
	}
	t.Run("proc/1", func(t *testing.T) {
		root := t.TempDir()
		mount(t, root, "sys/fs/cgroup/cpu")
		write(t, filepath.Join(root, "proc/1/mountinfo"), line)
		write(t, filepath.Join(root, "proc/self/mountinfo"), "")
		tree, err := FS{Root: root}.Tree()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := tree.V1("cpu"), filepath.Join(root, "sys/fs/cgroup/cpu"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	})
	t.Run("proc/self says where things are here", func(t *testing.T) {
		root := t.TempDir()
		mount(t, root, "elsewhere/cpu")
		write(t, filepath.Join(root, "proc/self/mountinfo"), strings.Replace(line, "/sys/fs/cgroup", root+"/elsewhere", 1))
		tree, err := FS{Root: root + "/"}.Tree()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := tree.V1("cpu"), filepath.Join(root, "elsewhere/cpu"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	})
	for _, host := range []string{"v1", "v2", "hybrid"} {
		t.Run("no proc, "+host, func(t *testing.T) {
			want, err := FS{Root: filepath.Join("testdata", host)}.Tree()
			if err != nil {
				t.Fatal(err)
			}
			root := copyFixture(t, host)
			if err := os.RemoveAll(filepath.Join(root, "proc")); err != nil {
				t.Fatal(err)
			}
			tree, err := FS{Root: root}.Tree()
			if err != nil {
				t.Fatal(err)
			}
			if tree.Version() != want.Version() || len(tree.Dirs()) != len(want.Dirs()) {
				t.Errorf("%v %q, want %v like %q", tree.Version(), tree.Dirs(), want.Version(), want.Dirs())
			}
			for _, c := range []string{"cpu", "cpuacct", "memory", "name=systemd"} {
				if (tree.V1(c) == "") != (want.V1(c) == "") {
					t.Errorf("%s is at %q", c, tree.V1(c))
				}
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		root := t.TempDir()
		write(t, filepath.Join(root, "proc/1/mountinfo"), line)
		if _, err := (FS{Root: root}).Tree(); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("unreadable is not none", func(t *testing.T) {
		root := t.TempDir()
		if err := os.MkdirAll(filepath.Join(root, "proc/1/mountinfo"), 0o755); err != nil {
			t.Fatal(err)
		}
		_, err := FS{Root: root}.Tree()
		if err == nil || errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("escapes", func(t *testing.T) {
		root := t.TempDir()
		mount(t, root, "a b\\c\td\ne")
		write(t, filepath.Join(root, "proc/1/mountinfo"), strings.Replace(line, "/sys/fs/cgroup/cpu", `/a\040b\134c\011d\012e`, 1))
		tree, err := FS{Root: root}.Tree()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := tree.V1("cpu"), filepath.Join(root, "a b\\c\td\ne"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	})
	t.Run("bind mounts", func(t *testing.T) {
		root := t.TempDir()
		mount(t, root, "part/in")
		mount(t, root, "less")
		write(t, filepath.Join(root, "proc/1/mountinfo"), ""+
			"1 0 0:29 /docker/x/y /less rw - cgroup cgroup rw,cpu\n"+
			"2 0 0:29 /docker/x /part rw - cgroup cgroup rw,cpu\n"+
			"3 0 0:29 / /not/visible rw - cgroup cgroup rw,cpu\n")
		write(t, filepath.Join(root, "part/cgroup.procs"), "")
		tree, err := FS{Root: root}.Tree()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := tree.V1("cpu"), filepath.Join(root, "part"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		for name, want := range map[string]bool{"/docker/x": true, "/docker/x/in": true, "/docker/xx": false, "/in": false, "/": false} {
			g, err := tree.Open(name)
			if (err == nil) != want || err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Open(%q): %v", name, err)
			}
			if g != nil {
				_ = g.Close()
			}
		}
	})
	t.Run("the whole is better than what is above the namespace", func(t *testing.T) {
		root := t.TempDir()
		mount(t, root, "host")
		mount(t, root, "own")
		write(t, filepath.Join(root, "proc/1/mountinfo"), ""+
			"1 0 0:29 /../.. /host rw - cgroup2 cgroup2 rw\n"+
			"2 0 0:29 / /own rw - cgroup2 cgroup2 rw\n")
		tree, err := FS{Root: root}.Tree()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := tree.Unified(), filepath.Join(root, "own"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

func TestParseMountinfo(t *testing.T) {
	in := "22 27 0:21 / /proc rw,relatime - proc proc rw\n" +
		"32 31 0:29 / /cpu rw,relatime shared:9 master:2 - cgroup cgroup rw,seclabel,cpu,cpuacct,clone_children\n" +
		"40 31 0:37 /../.. /named rw - cgroup none rw,xattr,release_agent=/x,name=a-b\n" +
		"41 31 0:38 /... /u rw - cgroup2 - rw,nsdelegate\n" +
		"42 31 0:39 /../x /no rw - cgroup2 - rw\n" +
		"43 31 x:39 / /no rw - cgroup2 - rw\n" +
		"garbage\n" +
		"44 31 0:40 / /cut rw - cgroup2"
	want := []mount{
		{dev: unix.Mkdev(0, 29), root: "/", point: "/cpu", version: V1, controllers: []string{"cpu", "cpuacct"}},
		{dev: unix.Mkdev(0, 37), root: "/", above: true, point: "/named", version: V1, controllers: []string{"name=a-b"}},
		{dev: unix.Mkdev(0, 38), root: "/...", point: "/u", version: V2},
		{dev: unix.Mkdev(0, 40), root: "/", point: "/cut", version: V2},
	}
	if d := cmp.Diff(want, parseMountinfo([]byte(in)), cmp.AllowUnexported(mount{})); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func FuzzParseMountinfo(f *testing.F) {
	for _, host := range []string{"v1", "v2", "hybrid"} {
		b, err := os.ReadFile(filepath.Join("testdata", host, "proc/1/mountinfo"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b), "a b")
	}
	f.Add("1 2 0:3 /../.. /x\\040y rw - cgroup none rw,name=x\n", "\\040\n\t#")
	f.Fuzz(func(t *testing.T, in, name string) {
		for _, m := range parseMountinfo([]byte(in)) {
			if !path.IsAbs(m.root) || path.Clean(m.root) != m.root || !path.IsAbs(m.point) || m.version != V1 && m.version != V2 {
				t.Errorf("%+v", m)
			}
			if m.version == V2 && m.controllers != nil {
				t.Errorf("%+v", m)
			}
		}
		// fs/proc_namespace.c mangle
		mangled := strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`, "#", `\043`).Replace(name)
		if got := unescape(mangled); got != name {
			t.Errorf("%q became %q", name, got)
		}
	})
}

func TestOpenPath(t *testing.T) {
	tree := fixture(t, "v2")
	for _, name := range []string{"", "app", "/app/", "/app/../app", "/..", "/../x", "/app//worker", "/./app", "/app\x00", "."} {
		if g, err := tree.Open(name); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("Open(%q): %v, %v", name, g, err)
		}
	}
	for _, name := range []string{"/nothing", "/app/cgroup.procs", "/app/worker/cgroup.procs/x"} {
		if g, err := tree.Open(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open(%q): %v, %v", name, g, err)
		}
	}
	if _, err := tree.Open("/" + strings.Repeat("x", 300)); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("a name too long: %v", err)
	}
	for _, name := range []string{"/", "/app", worker} {
		g, err := tree.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if g.Path() != name {
			t.Errorf("%q is %q", name, g.Path())
		}
		var s Stat
		if err := g.Read(&s, All); err != nil {
			t.Error(err)
		}
		_ = g.Close()
	}
	if n := tree.Files(); n != 0 {
		t.Errorf("%d files still open", n)
	}
}

func TestVersionString(t *testing.T) {
	for v, want := range map[Version]string{V1: "cgroup v1", V2: "cgroup v2", Hybrid: "cgroup v1 and v2 (hybrid)", 9: "cgroup version 9"} {
		if v.String() != want {
			t.Errorf("%q", v)
		}
	}
}

func TestSets(t *testing.T) {
	all := uint64(0)
	for set := CPU; set <= Limits; set <<= 1 {
		if all&set.fields() != 0 {
			t.Errorf("a field is in two sets")
		}
		all |= set.fields()
	}
	if all != 1<<NumFields-1 || All.fields() != all {
		t.Errorf("fields in no set: %b", all)
	}
}

func TestStatAdd(t *testing.T) {
	stat := func(values map[Field]uint64, cpus string, nodes ...NUMANode) *Stat {
		var s Stat
		for f, v := range values {
			s.Set(f, v)
		}
		if cpus != "" && !parseCPUs(&s, CPUSetCPUs, []byte(cpus+"\n")) {
			t.Fatal(cpus)
		}
		if cpus != "" && !parseMems(&s, CPUSetMems, []byte("0\n")) {
			t.Fatal(cpus)
		}
		s.NUMA = nodes
		s.filled = true
		return &s
	}
	a := stat(map[Field]uint64{
		CPUUsage: 1, CPUUser: 5, CPUPeriod: 100, CPUQuota: 10, MemoryMax: 7, CPUIdle: 1, CPUShares: 2,
	}, "0-3", NUMANode{0, 1}, NUMANode{1, 2})
	b := stat(map[Field]uint64{
		CPUUsage: 2, CPUPeriod: 50, CPUQuota: 20, MemoryMax: Max, CPUIdle: 0, CPUShares: math.MaxUint64 - 1,
	}, "2-5,9", NUMANode{1, 4}, NUMANode{3, 8})
	var sum, none Stat
	for range 2 { // the second time over used memory
		sum.Reset()
		sum.Add(&none)
		sum.Add(a)
		if d := cmp.Diff(fields(a), fields(&sum)); d != "" || sum.CPUSet != "0-3" {
			t.Errorf("a alone (-want +got):\n%s%s", d, sum.CPUSet)
		}
		sum.Add(b)
		want := map[Field]uint64{
			CPUUsage: 3, CPUPeriod: 100, CPUQuota: 30, MemoryMax: Max, CPUIdle: 0, CPUShares: Max,
			CPUSetCPUs: 7, CPUSetMems: 1,
		}
		if d := cmp.Diff(want, fields(&sum)); d != "" {
			t.Errorf("sum (-want +got):\n%s", d)
		}
		if sum.CPUSet != "0-5,9" {
			t.Errorf("CPUSet = %q", sum.CPUSet)
		}
		if nodes := []NUMANode{{0, 1}, {1, 6}, {3, 8}}; !slices.Equal(sum.NUMA, nodes) {
			t.Errorf("NUMA = %v", sum.NUMA)
		}
	}
	if n := testing.AllocsPerRun(100, func() {
		sum.Reset()
		sum.Add(a)
		sum.Add(b)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	var failed Stat
	failed.filled = true // read, and nothing was there
	sum.Add(&failed)
	if len(fields(&sum)) != 0 || len(sum.NUMA) != 0 {
		t.Errorf("half a sum: %v %v", fields(&sum), sum.NUMA)
	}
	if d := cmp.Diff(slices.Sorted(maps.Keys(fields(a)))[:3], []Field{CPUUsage, CPUUser, CPUQuota}); d != "" {
		t.Errorf("a changed: %s", d)
	}
}
