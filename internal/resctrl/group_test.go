package resctrl

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/owca-project/owca/internal/hosttest"
)

func FuzzCount(f *testing.F) {
	for _, s := range []string{"0\n", "18446744073709551615\n", "18446744073709551616\n", "Unavailable\n", "Unassigned\n", "Error\n", "", "\n", "1", "-1\n", "1\n2\n", "+1\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, ok := parseCount(b)
		text, newline := bytes.CutSuffix(b, []byte("\n"))
		n, err := strconv.ParseUint(string(text), 10, 64)
		want, wantOK := Count{}, false
		switch {
		case !newline:
		case err == nil:
			want, wantOK = Count{N: n, OK: true}, true
		case slices.Contains([]string{"Unavailable", "Unassigned", "Error"}, string(text)):
			wantOK = true
		}
		if ok != wantOK || ok && c != want {
			t.Errorf("%q is %v, %t, want %v, %t", b, c, ok, want, wantOK)
		}
	})
}

func TestDomains(t *testing.T) {
	for _, test := range []struct {
		name string
		id   int
		want Domain
		ok   bool
	}{
		{"mon_L3_00", -1, Domain{"L3", 0, -1}, true},
		{"mon_L3_117", -1, Domain{"L3", 117, -1}, true},
		{"mon_PERF_PKG_01", -1, Domain{"PERF_PKG", 1, -1}, true},
		{"mon_sub_L3_03", 1, Domain{"L3", 1, 3}, true},
		{"mon_L3_00", 1, Domain{}, false},
		{"mon_L3", -1, Domain{}, false},
		{"mon__1", -1, Domain{}, false},
		{"mon_L3_-1", -1, Domain{}, false},
		{"llc_occupancy", -1, Domain{}, false},
	} {
		if got, ok := parseDomain(test.name, test.id); got != test.want || ok != test.ok {
			t.Errorf("%s: %v, %t", test.name, got, ok)
		}
	}
}

// TestReadFixture is of hosts that no VM has: sub-NUMA nodes, an event that is
// missing, a domain with nothing that we read, counters that are not assigned.
func TestReadFixture(t *testing.T) {
	files := map[string]string{
		"info/L3_MON/num_rmids":                            "8\n",
		"info/L3_MON/mon_features":                         "llc_occupancy\nmbm_total_bytes\nmbm_local_bytes\n",
		"info/L3_MON/max_threshold_occupancy":              "0\n",
		"mon_data/mon_L3_10/llc_occupancy":                 "100\n",
		"mon_data/mon_L3_10/mbm_total_bytes":               "Unassigned\n",
		"mon_data/mon_L3_02/llc_occupancy":                 "7\n",
		"mon_data/mon_L3_02/mbm_total_bytes":               "18446744073709551615\n",
		"mon_data/mon_L3_02/mbm_local_bytes":               "Error\n",
		"mon_data/mon_L3_02/mon_sub_L3_05/llc_occupancy":   "5\n",
		"mon_data/mon_L3_02/mon_sub_L3_04/llc_occupancy":   "Unavailable\n",
		"mon_data/mon_L3_02/mon_sub_L3_04/mbm_local_bytes": "4\n",
		"mon_data/mon_PERF_PKG_00/core_energy":             "1.5\n",
	}
	dir := writeFixture(t, files)
	tree, err := Mount{Dir: dir}.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	g, err := tree.Open(Name{})
	if err != nil {
		t.Fatal(err)
	}
	n := func(n uint64) Count { return Count{n, true} }
	want := []Usage{
		{Domain{"L3", 2, -1}, n(7), n(math.MaxUint64), Count{}},
		{Domain{"L3", 2, 4}, Count{}, Count{}, n(4)},
		{Domain{"L3", 2, 5}, n(5), Count{}, Count{}},
		{Domain{"L3", 10, -1}, n(100), Count{}, Count{}},
	}
	for _, limit := range []int{0, 3} {
		tree.KeepFiles = limit
		tree.layout++ // list anew
		got, err := g.Read(nil)
		if err != nil || !cmp.Equal(got, want) {
			t.Errorf("KeepFiles %d: %v, %v", limit, err, cmp.Diff(want, got))
		}
		if kept := tree.files; kept != 8*(1-limit/3) {
			t.Errorf("KeepFiles %d: %d are open", limit, kept)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "mon_data/mon_L3_10/llc_occupancy"), []byte("many\n"), 0); err != nil {
		t.Fatal(err)
	}
	// A word of later kernels costs that count only, and is told once.
	want[3].Occupancy = Count{}
	for range 2 {
		if got, err := g.Read(nil); err != nil || !cmp.Equal(got, want) {
			t.Errorf("%v, %v", err, cmp.Diff(want, got))
		}
	}
	if err := tree.Unknown(); err == nil || err.Error() != `resctrl: mon_data/mon_L3_10/llc_occupancy: "many\n" is no count` {
		t.Error(err)
	}
	for i := range 2 * maxUnknown {
		if err := os.WriteFile(filepath.Join(dir, "mon_data/mon_L3_10/llc_occupancy"), fmt.Appendf(nil, "many%d\n", i%20), 0); err != nil {
			t.Fatal(err)
		}
		if _, err := g.Read(nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.Unknown(); err == nil || strings.Count(err.Error(), "is no count") != maxUnknown-1 {
		t.Errorf("%v, want %d words", err, maxUnknown-1)
	}
	if err := tree.Unknown(); err != nil {
		t.Errorf("told again: %v", err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = g.Read(nil)
	wantError(t, err, ErrGone)
}

// sum adds up what a group used.
func sum(t *testing.T, g *Group) (total, local uint64) {
	t.Helper()
	list, err := g.Read(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range list {
		if !u.Total.OK || !u.Local.OK || !u.Occupancy.OK || u.Resource != "L3" || u.Node != -1 {
			t.Errorf("read %+v", u)
		}
		total += u.Total.N
		local += u.Local.N
	}
	return total, local
}

func TestHostRead(t *testing.T) {
	tree := openHost(t, "/L3_MON")
	n := Name{Monitor: "owca-read"}
	waitForRMID(t, func() error { return tree.Create(n) })
	g, err := tree.Open(n)
	if err != nil {
		t.Fatal(err)
	}
	if total, _ := sum(t, g); total != 0 {
		t.Errorf("%d bytes before anything is in the group", total)
	}
	load := hosttest.NewCgroup(t, nil, "resctrl-read").Start("spin 300ms")
	if _, err := tree.Add(n, threadsOf(t, load.Pid)); err != nil {
		t.Fatal(err)
	}
	load.Done()
	before, local := sum(t, g)
	if before == 0 || local == 0 {
		t.Errorf("%d bytes, %d local", before, local)
	}
	list, err := g.Read(nil)
	if err != nil || len(list) == 0 {
		t.Fatalf("%v, %v", list, err)
	}
	if allocs := testing.AllocsPerRun(50, func() {
		if err := tree.Alive(); err != nil {
			t.Fatal(err)
		}
		if list, err = g.Read(list); err != nil {
			t.Fatal(err)
		}
	}); allocs > 1 { // the path of Alive
		t.Errorf("%v allocations a round", allocs)
	}
	if allocs := testing.AllocsPerRun(50, func() { list, err = g.Read(list) }); allocs > 0 || err != nil {
		t.Errorf("%v allocations a reading, %v", allocs, err)
	}

	// Above the limit the same is read.
	tree.KeepFiles = 1
	second, err := tree.Open(n)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := sum(t, second); got < before || second.kept {
		t.Errorf("%d bytes without open files, %d with; kept %t", got, before, second.kept)
	}
	tree.KeepFiles = 0
	if got, _ := sum(t, second); got < before || !second.kept {
		t.Errorf("%d bytes, kept %t", got, second.kept)
	}

	// The limit is kept when it is lowered, too, and a group that was never kept is
	// recognised by its directory.
	tree.KeepFiles = 1
	if got, _ := sum(t, second); got < before || second.kept {
		t.Errorf("%d bytes, kept %t", got, second.kept)
	}
	never := Name{Monitor: "owca-never"}
	waitForRMID(t, func() error { return tree.Create(never) })
	unkept, err := tree.Open(never)
	if err != nil {
		t.Fatal(err)
	}
	sum(t, unkept)
	if err := tree.Remove(never); err != nil {
		t.Fatal(err)
	}
	waitForRMID(t, func() error { return tree.Create(never) })
	for _, limit := range []int{1, 0, 1} {
		tree.KeepFiles = limit
		_, err = unkept.Read(list)
		wantError(t, err, ErrGone, "another group has its name")
		if unkept.kept {
			t.Errorf("KeepFiles %d: it keeps another group's files", limit)
		}
	}
	tree.KeepFiles = 0
	if err := unkept.Close(); err != nil {
		t.Fatal(err)
	}
	if err := tree.Remove(never); err != nil {
		t.Fatal(err)
	}
	sum(t, g)
	sum(t, second)

	// A rename keeps the counts and what is open.
	to := Name{Monitor: "owca-renamed"}
	if tree.Info().CLOSIDs() > 1 {
		waitForRMID(t, func() error { return tree.Create(Name{Control: "owca-c"}) })
		to.Control = "owca-c"
	}
	if err := tree.Rename(n, to); err != nil {
		t.Fatal(err)
	}
	g.Renamed(to)
	second.Renamed(to)
	if got, _ := sum(t, g); got < before || g.Name() != to {
		t.Errorf("%d bytes after rename, %d before; name %v", got, before, g.Name())
	}
	tree.layout++ // the directory is the same one
	if got, _ := sum(t, g); got < before {
		t.Errorf("%d bytes after rename, %d before", got, before)
	}

	// Another group of the same name is another group.
	if err := tree.Remove(to); err != nil {
		t.Fatal(err)
	}
	_, err = g.Read(list)
	wantError(t, err, ErrGone)
	waitForRMID(t, func() error { return tree.Create(to) })
	_, err = g.Read(list)
	wantError(t, err, ErrGone, "another group has its name")
	tree.KeepFiles = 1
	_, err = second.Read(list)
	wantError(t, err, ErrGone)
	if err := tree.Remove(to); err != nil {
		t.Fatal(err)
	}
	_, err = tree.Open(to)
	wantError(t, err, ErrGone)
	for _, g := range []*Group{g, second} {
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if tree.files != 0 || len(tree.groups) != 0 {
		t.Errorf("%d files, %d groups after Close", tree.files, len(tree.groups))
	}
}

// TestHostUnavailable makes the emulation say what hardware says without a count.
func TestHostUnavailable(t *testing.T) {
	tree := openHost(t, "/L3_MON")
	const knobs = "/sys/module/rdt_emul/parameters/"
	if _, err := os.Stat(knobs); err != nil {
		t.Skip("the hardware cannot be told to have no count: only in the virtual machine")
	}
	n := Name{Monitor: "owca-unavailable"}
	waitForRMID(t, func() error { return tree.Create(n) })
	g, err := tree.Open(n)
	if err != nil {
		t.Fatal(err)
	}
	sum(t, g)
	for _, knob := range []string{"unavail_rmid", "error_rmid"} {
		before, err := os.ReadFile(knobs + knob)
		if err != nil {
			t.Fatal(err)
		}
		found := false
		// Which RMID it has is only told with the option debug.
		for rmid := 0; rmid < tree.Info().RMIDs() && !found; rmid++ {
			if err := os.WriteFile(knobs+knob, []byte(strconv.Itoa(rmid)), 0); err != nil {
				t.Fatal(err)
			}
			list, err := g.Read(nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, u := range list {
				if found = found || !u.Total.OK; !u.Total.OK && u.Total.N != 0 {
					t.Errorf("%s: %+v", knob, u)
				}
			}
		}
		if err := os.WriteFile(knobs+knob, bytes.TrimSpace(before), 0); err != nil {
			t.Fatal(err)
		}
		if !found {
			t.Errorf("%s: never absent", knob)
		}
		sum(t, g)
	}
}

// TestHostOffline takes all CPUs of a domain away.
func TestHostOffline(t *testing.T) {
	tree := openHost(t, "/L3_MON")
	n := Name{Monitor: "owca-offline"}
	waitForRMID(t, func() error { return tree.Create(n) })
	g, err := tree.Open(n)
	if err != nil {
		t.Fatal(err)
	}
	all, err := g.Read(nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 2 || os.Getenv("OWCA_TEST_VM") == "" {
		t.Skip("needs a second domain, and CPUs that are nobody else's: only in the virtual machine")
	}
	last := all[len(all)-1].ID
	files, err := filepath.Glob("/sys/devices/system/cpu/cpu*/cache/index3/id")
	if err != nil {
		t.Fatal(err)
	}
	var cpus []string
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimSpace(string(b)) == strconv.Itoa(last) {
			cpus = append(cpus, filepath.Dir(filepath.Dir(filepath.Dir(file)))+"/online")
		}
	}
	if len(cpus) == 0 {
		t.Fatalf("no CPU has the cache %d", last)
	}
	online := func(text string) {
		for _, cpu := range cpus {
			if err := os.WriteFile(cpu, []byte(text), 0); err != nil && !errors.Is(err, unix.EINVAL) {
				t.Errorf("%s: %v", cpu, err)
			}
		}
	}
	t.Cleanup(func() { online("1") })
	for _, limit := range []int{0, 1} {
		tree.KeepFiles = limit
		tree.layout++
		online("0")
		list, err := g.Read(nil)
		if err != nil || len(list) != len(all)-1 {
			t.Errorf("KeepFiles %d: offline %v, %v", limit, list, err)
		}
		// Info follows the default group's schemata.
		info := tree.Info()
		l3, allocated := info.Resource("L3"), info.CLOSIDs() > 0
		if _, err := tree.Schemata(""); err != nil {
			t.Fatal(err)
		}
		if allocated && l3 != nil && (len(tree.Info().Resource("L3").Domains) != len(l3.Domains)-1 || slices.Contains(tree.Info().Resource("L3").Domains, last)) {
			t.Errorf("domain %d is offline: %+v", last, tree.Info().Resource("L3"))
		}
		if l3 != nil {
			if changes, err := tree.SetDefaults("", ""); err != nil || len(changes) > 0 {
				t.Errorf("defaults of the other domain: %v, %v", changes, err)
			}
		}
		online("1")
		if err := tree.Alive(); err != nil {
			t.Fatal(err)
		}
		if l3 != nil {
			if changes, err := tree.SetDefaults("", ""); err != nil || len(changes) > 0 {
				t.Errorf("defaults of all domains: %v, %v", changes, err)
			}
			if now := tree.Info().Resource("L3"); !cmp.Equal(now, l3) {
				t.Errorf("online again: %+v, want %+v", now, l3)
			}
		}
		// One that goes and comes between two looks is the same to who counts.
		online("0")
		online("1")
		if err := tree.Alive(); err != nil {
			t.Fatal(err)
		}
		list, err = g.Read(nil)
		if err != nil || len(list) != len(all) {
			t.Errorf("KeepFiles %d: online again %v, %v", limit, list, err)
		}
	}
}

func TestHostTooManyFiles(t *testing.T) {
	openHost(t, "/L3_MON")
	asChild(t, "/proc/self/exe", &syscall.SysProcAttr{}, "full")
}

// fullChild has few descriptors.
func fullChild([]string) error {
	tree, err := openMounted()
	if err != nil {
		return err
	}
	fd, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Close(fd); err != nil {
		return err
	}
	const files = 200
	limit := unix.Rlimit{Cur: uint64(fd) + files, Max: uint64(fd) + files}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	var groups []*Group
	for range 80 {
		g, err := tree.Open(Name{})
		if err != nil {
			return fmt.Errorf("group %d: %w", len(groups), err)
		}
		groups = append(groups, g)
	}
	for range 2 {
		for i, g := range groups {
			if list, err := g.Read(nil); err != nil || len(list) == 0 || !list[0].Total.OK {
				return fmt.Errorf("group %d: %+v, %w", i, list, err)
			}
		}
		if tree.files == 0 || tree.files > files-spareFiles {
			return fmt.Errorf("%d files are kept open of %d", tree.files, files)
		}
	}
	return tree.Close()
}

func TestHostDescriptorsTaken(t *testing.T) {
	openHost(t, "/L3_MON")
	asChild(t, "/proc/self/exe", &syscall.SysProcAttr{}, "shed")
}

// shedChild takes all descriptors that the groups left.
func shedChild([]string) error {
	tree, err := openMounted()
	if err != nil {
		return err
	}
	var groups []*Group
	for range 30 {
		g, err := tree.Open(Name{})
		if err != nil {
			return err
		}
		groups = append(groups, g)
	}
	kept := tree.files
	tree.KeepFiles = kept // the next one keeps none
	unkept, err := tree.Open(Name{})
	if err != nil {
		return err
	}
	if unkept.kept {
		return errors.New("more files than KeepFiles")
	}
	var others []int
	for {
		fd, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
		if err == unix.EMFILE {
			break
		}
		if err != nil {
			return err
		}
		if others = append(others, fd); len(others) == 1 {
			limit := unix.Rlimit{Cur: uint64(fd) + 10, Max: uint64(fd) + 10}
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
				return err
			}
		}
	}
	for i, g := range append(groups, unkept) {
		if list, err := g.Read(nil); err != nil || len(list) == 0 || !list[0].Total.OK {
			return fmt.Errorf("group %d: %+v, %w", i, list, err)
		}
	}
	if tree.files > kept-spareFiles {
		return fmt.Errorf("%d files are kept open, before %d", tree.files, kept)
	}
	return tree.Close()
}

// TestReadBackFixture has a schemata file that keeps what follows what was written.
func TestReadBackFixture(t *testing.T) {
	dir := writeFixture(t, map[string]string{
		"info/L3/num_closids": "4\n", "info/L3/cbm_mask": "7ff\n", "info/L3/min_cbm_bits": "1\n",
		"schemata": "L3:0=7ff;1=7ff\n",
	})
	tree, err := Mount{Dir: dir}.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	want := Schemata{{Resource: "L3", Kind: Mask, Domains: []DomainValue{{ID: 0, Value: 0xf}, {ID: 1, Value: 0x3}}}}
	for _, limit := range []int{maxSchemataWrite, 8} {
		effect, err := tree.setInParts("", want, limit)
		wantError(t, err, ErrReadBack)
		if errors.Is(err, fs.ErrNotExist) || effect != nil {
			t.Errorf("limit %d: %v, %v", limit, effect, err)
		}
		b, err := os.ReadFile(filepath.Join(dir, "schemata"))
		last := "L3:0=f;1=3\n"
		if limit == 8 {
			last = "L3:1=3\n" // nothing was put back
		}
		if err != nil || !strings.HasPrefix(string(b), last) {
			t.Errorf("limit %d: there is %q, %v", limit, b, err)
		}
		if err := os.WriteFile(filepath.Join(dir, "schemata"), []byte("L3:0=7ff;1=7ff\n"), 0); err != nil {
			t.Fatal(err)
		}
	}
	changes, err := tree.SetDefaults("L3:0=f;1=3", "")
	if !errors.Is(err, ErrReadBack) || len(changes) != 1 {
		t.Errorf("%v, %v", changes, err)
	}
}
