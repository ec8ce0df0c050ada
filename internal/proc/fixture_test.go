package proc

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// fixture unpacks a host captured in testdata: after a comment, each file
// begins with "-- path --".
func fixture(t testing.TB, name string) FS {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".txtar"))
	if err != nil {
		t.Fatal(err)
	}
	fs := FS{t.TempDir()}
	header := regexp.MustCompile(`(?m)^-- (\S+) --\n`)
	at := header.FindAllSubmatchIndex(b, -1)
	for i, m := range at {
		end := len(b)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		put(t, fs, "/"+string(b[m[2]:m[3]]), string(b[m[1]:end]))
	}
	return fs
}

// put writes a file of a fixture, in place if it is there already, as what is
// open stays open.
func put(t testing.TB, fs FS, name, content string) {
	t.Helper()
	path := fs.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, fs FS, name string) string {
	t.Helper()
	b, err := os.ReadFile(fs.path(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func drop(t testing.TB, fs FS, name string) {
	t.Helper()
	if err := os.RemoveAll(fs.path(name)); err != nil {
		t.Fatal(err)
	}
}

// machine makes a host of two sockets with two threads a core, the second
// threads numbered after all first ones as on x86, two NUMA nodes, cpufreq, and
// the interrupts of a large machine. cpus is a multiple of four.
func machine(t testing.TB, cpus int) FS {
	cores := cpus / 2
	fs := FS{t.TempDir()}
	var stat, info strings.Builder
	stat.WriteString("cpu  1 1 1 1 1 1 1 1 1 1\n")
	for i := range cpus {
		fmt.Fprintf(&stat, "cpu%d %d 20 300 987654321 5 60 7 8000 9 10\n", i, 1000000000+i)
		fmt.Fprintf(&info, "processor\t: %d\nmodel name\t: Large\ncpu MHz\t\t: %d.125\nflags\t\t: %s\n\n", i, 2000+i, strings.Repeat("avx512 ", 200))
		core := i % cores
		dir := fmt.Sprintf("/sys/devices/system/cpu/cpu%d/", i)
		put(t, fs, dir+"topology/physical_package_id", fmt.Sprintln(core/(cores/2)))
		put(t, fs, dir+"topology/thread_siblings_list", fmt.Sprintf("%d,%d\n", core, core+cores))
		put(t, fs, dir+"cpufreq/scaling_cur_freq", fmt.Sprintln(2000000+i))
	}
	fmt.Fprintf(&stat, "intr 1%s\nctxt 1\n", strings.Repeat(" 0", 20000))
	put(t, fs, "/proc/stat", stat.String())
	put(t, fs, "/proc/cpuinfo", info.String())
	put(t, fs, "/proc/meminfo", "MemTotal:       1056789012 kB\nMemFree:        100 kB\nMemAvailable:    700 kB\nBuffers: 1 kB\nCached: 2 kB\nSwapCached: 77 kB\nSlab: 3 kB\n")
	put(t, fs, "/proc/vmstat", "nr_free_pages 25\npgfault 12\npgmajfault 3\n")
	put(t, fs, "/proc/loadavg", "123.45 0.07 99.00 1/5000 4194303\n")
	put(t, fs, "/proc/sys/kernel/osrelease", "6.8.0-31-generic\n")
	put(t, fs, "/sys/devices/system/cpu/online", fmt.Sprintf("0-%d\n", cpus-1))
	put(t, fs, "/sys/devices/system/node/online", "0-1\n")
	for n := range 2 {
		dir := fmt.Sprintf("/sys/devices/system/node/node%d/", n)
		put(t, fs, dir+"cpulist", fmt.Sprintf("%d-%d,%d-%d\n", n*cores/2, (n+1)*cores/2-1, cores+n*cores/2, cores+(n+1)*cores/2-1))
		put(t, fs, dir+"meminfo", fmt.Sprintf("Node %d MemTotal: 1000 kB\nNode %d MemFree: %d kB\nNode %d MemUsed: %d kB\n", n, n, 900-n, n, 100+n))
	}
	return fs
}
