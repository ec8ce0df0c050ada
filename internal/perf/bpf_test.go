package perf

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/owca-project/owca/internal/hosttest"
)

// TestBPFLayout: bpf.go and count.c mean the same.
func TestBPFLayout(t *testing.T) {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(bpfObject))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what string
		got  uint32
		want int
	}{
		{"struct cpu", spec.Maps["cpus"].ValueSize, cpuCounters + bpfMaxEvents*sizeCounter},
		{"struct row", spec.Maps["chunks"].InnerMap.ValueSize, rowCounts + bpfMaxEvents*sizeCount},
		{"struct leaf", spec.Maps["leaves"].ValueSize, 16 + 4*bpfMaxAncestors},
		{"ids", spec.Maps["counted"].MaxEntries, bpfChunk * bpfChunks},
		{"chunks", spec.Maps["chunks"].MaxEntries, bpfChunks},
	} {
		if int(c.got) != c.want {
			t.Errorf("%s: %d in count.c, %d in bpf.go", c.what, c.got, c.want)
		}
	}
}

func openTestBPF(t *testing.T, plan *Plan, trigger bpfTrigger) *bpfCounter {
	t.Helper()
	hosttest.Need(t, "root", "bpf")
	c, err := FS{}.openBPFOn(plan, trigger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// TestBPFTriggers: either way of noticing a switch counts a known load: all of its
// page faults and only a little more than its time.
func TestBPFTriggers(t *testing.T) {
	for _, trigger := range []bpfTrigger{schedSwitch, cgroupSwitch} {
		t.Run(string(trigger), func(t *testing.T) {
			c := openTestBPF(t, softwarePlan(), trigger)
			cg := hosttest.NewCgroup(t, nil, "trigger")
			g := add(t, c, cg)
			cg.Start("touch 16").Done()
			refresh(t, c)
			if n, least := read(t, g)[pageFaults].Value, uint64(16<<20/os.Getpagesize()); n < least {
				t.Errorf("%d page faults of at least %d", n, least)
			}
		})
	}
}

// TestBPFMostEvents: as many events as there may be are loaded; one more is
// refused.
func TestBPFMostEvents(t *testing.T) {
	plan := &Plan{}
	for i := range bpfMaxEvents {
		e := *softwarePlan().Events()[pageFaults]
		e.Alias = fmt.Sprintf("e%d", i)
		plan.Groups = append(plan.Groups, []*Event{&e})
	}
	for _, trigger := range []bpfTrigger{schedSwitch, cgroupSwitch} {
		c := openTestBPF(t, plan, trigger)
		cg := hosttest.NewCgroup(t, nil, "most-"+string(trigger))
		g := add(t, c, cg)
		cg.Start("touch 1").Done()
		refresh(t, c)
		counts := make([]Count, bpfMaxEvents)
		if err := g.Read(counts); err != nil {
			t.Fatal(err)
		}
		for i, n := range counts {
			if n.Value < 256*4096/uint64(os.Getpagesize()) {
				t.Errorf("event %d: %+v", i, n)
			}
		}
	}
	plan.Groups = append(plan.Groups, plan.Groups[0])
	if c, err := (FS{}).openBPF(plan); err == nil {
		t.Errorf("%d events were accepted", len(plan.Events()))
		_ = c.Close()
	}
}

// TestBPFSlots: more cgroups than a chunk has slots, each of which is used again
// with nothing in it, but not before the program has lost it.
func TestBPFSlots(t *testing.T) {
	n := bpfChunk + 10
	c := openTestBPF(t, softwarePlan(), schedSwitch)
	parent := hosttest.NewCgroup(t, nil, "slots")
	var dirs []string
	for i := range n {
		dir := fmt.Sprintf("%s/%d", parent.PerfDir(), i)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, dir)
	}
	files := filesOpen(t)
	for round := range 3 {
		var groups []Cgroup
		for _, dir := range dirs {
			g, err := c.Add(dir)
			if err != nil {
				t.Fatal(err)
			}
			if counts := read(t, g); counts[taskClock] != (Count{}) {
				t.Fatalf("round %d: %s begins at %+v", round, dir, counts)
			}
			groups = append(groups, g)
			// As if it had run; nothing does.
			row := c.row(g.(*bpfCgroup).slot.slot, 0)
			row.at(rowSeq).Store(2)
			row.at(rowCounts).Store(uint64(round) + 1)
		}
		for _, g := range groups {
			if err := g.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if len(c.free) != 0 {
			t.Fatalf("%d slots are free before a Refresh", len(c.free))
		}
		refresh(t, c)
		if len(c.free) != n || len(c.ids) != 0 || len(c.closed) != 0 || len(c.chunks) != 2 {
			t.Fatalf("%d slots free, %d ids, %d closed, %d chunks", len(c.free), len(c.ids), len(c.closed), len(c.chunks))
		}
	}
	if now := filesOpen(t); now != files {
		t.Errorf("%d files are open after %d", now, files)
	}
	var id uint64
	var slot uint32
	if c.counted.Iterate().Next(&id, &slot) {
		t.Errorf("the program still knows cgroup %d", id)
	}
}

// TestBPFAncestors: a cgroup that is added after one below it has run gets its
// counts from then on; one too many in a line is an error of its Read, not of the
// others'.
func TestBPFAncestors(t *testing.T) {
	c := openTestBPF(t, softwarePlan(), schedSwitch)
	line := []*hosttest.Cgroup{hosttest.NewCgroup(t, nil, "line")}
	for i := range bpfMaxAncestors {
		line = append(line, hosttest.NewCgroup(t, line[i], "below"))
	}
	leaf := line[bpfMaxAncestors]
	groups := make([]Cgroup, len(line))
	least := uint64(4 << 20 / os.Getpagesize())
	for i := bpfMaxAncestors; i >= 0; i-- {
		groups[i] = add(t, c, line[i])
		leaf.Start("touch 4").Done()
		refresh(t, c)
		if i == 0 {
			break
		}
		for j := i; j <= bpfMaxAncestors; j++ {
			if n := read(t, groups[j])[pageFaults].Value; n < least*uint64(j-i+1) {
				t.Errorf("level %d, added before %d loads: %d page faults", j, j-i+1, n)
			}
		}
	}
	counts := make([]Count, softwareCount)
	if err := groups[0].Read(counts); err == nil {
		t.Errorf("a line of %d counted cgroups: the top one has %+v", len(line), counts)
	}
	read(t, groups[1])
}
