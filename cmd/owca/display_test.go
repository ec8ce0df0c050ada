package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"math"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/owca-project/owca"
)

// testTask has the readings given as pairs of a Desc and a float64 or int.
func testTask(name, kind string, readings ...any) owca.TaskData {
	t := owca.TaskData{Task: owca.Task{ID: owca.TaskID("/" + name), Name: name, Labels: map[string]string{"kind": kind}}}
	// Others are in between, as in what is really measured.
	t.Measurements = append(t.Measurements, owca.Reading{Desc: owca.TaskCPUUsage, Value: owca.Int(12345)})
	t.Measurements = append(t.Measurements, testReadings(readings)...)
	return t
}

func testReadings(pairs []any) owca.Measurements {
	var m owca.Measurements
	for i := 0; i < len(pairs); i += 2 {
		r := owca.Reading{Desc: pairs[i].(*owca.Desc)}
		switch v := pairs[i+1].(type) {
		case float64:
			r.Value = owca.Float(v)
		case int:
			r.Value = owca.Int(uint64(v))
		}
		m = append(m, r)
	}
	return m
}

var testTime = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)

func testSnapshot() *owca.Snapshot {
	return &owca.Snapshot{
		Time: testTime,
		Platform: &owca.Platform{Host: "node7", CPUs: 8, Measurements: testReadings([]any{
			owca.PlatformCPUUsageCores, 3.456,
			owca.PlatformMemoryTotal, 32 << 30,
			owca.PlatformMemoryAvailable, 20 << 30,
			owca.PlatformCPUPressureSomeRatio, 0.1234,
			owca.PlatformIOPressureSomeRatio, 0.0,
		})},
		Tasks: []owca.TaskData{
			testTask("idle.service", "service", owca.TaskMemoryUsage, 3<<20, owca.TaskPIDs, 1),
			testTask("nginx.service", "service",
				owca.TaskCPUUsageCores, 1.5, owca.TaskCPUThrottledRatio, 0.25,
				owca.TaskCPUPressureSomeRatio, 0.6, owca.TaskMemoryPressureSomeRatio, 0.0, owca.TaskIOPressureSomeRatio, 1.0,
				owca.TaskMemoryUsage, 900<<20, owca.TaskMemoryWorkingSet, 700<<20, owca.TaskMemoryMax, 1<<30,
				owca.TaskIOReadRate, 1536.0, owca.TaskIOWriteRate, 12345678.0,
				owca.TaskMemoryMinorFaultRate, 1200.0, owca.TaskMemoryMajorFaultRate, 34.0, owca.TaskPIDs, 17),
			testTask("\x1b[31mred\nalert", "",
				owca.TaskCPUUsageCores, 0.0, owca.TaskMemoryUsage, 0, owca.TaskMemoryMax, math.Inf(1),
				owca.TaskMemoryMinorFaultRate, 1.0),
		},
	}
}

func testFrame(s *owca.Snapshot, ticks uint64) *frame {
	c := capture{ticks: ticks - 1}
	c.ticks++
	f := new(frame)
	c.read(f, s)
	f.took = 3456 * time.Microsecond
	return f
}

func TestText(t *testing.T) {
	want := `
2026-01-02T15:04:05Z node7  3 tasks  tick 3.46ms  cpu 3.46 of 8  memory 12G of 32G  waiting: cpu 12.3% memory - io 0.0%
NAME               KIND         CPU THROTTLED CPU-WAIT    MEM MEM-LIMIT MEM-WAIT IO-WAIT READ/s WRITE/s FAULTS/s  PIDS
nginx.service      service     1.50     25.0%    60.0%   700M      1.0G     0.0%    100%   1.5K     12M     1.2k    17
\x1b[31mred\nalert -           0.00         -        -      0      none        -       -      -       -        -     -
idle.service       service        -         -        -   3.0M         -        -       -      -       -        -     1
`
	got := "\n" + string(testFrame(testSnapshot(), 2).appendText(nil))
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestInstructionsPerCycle: the column is there as soon as one task has counters,
// even if the user gave their raw codes.
func TestInstructionsPerCycle(t *testing.T) {
	s := testSnapshot()
	instructions := *owca.TaskInstructions
	instructions.Original = "instructions__rC000"
	s.Tasks[0].Measurements = append(s.Tasks[0].Measurements, testReadings([]any{&instructions, 7})...)
	s.Tasks[1].Measurements = append(s.Tasks[1].Measurements, testReadings([]any{&instructions, 9000, owca.TaskInstructionsPerCycle, 1.234})...)
	s.Tasks = s.Tasks[:2]
	f := testFrame(s, 2)
	want := `
NAME          KIND         CPU   IPC THROTTLED CPU-WAIT    MEM MEM-LIMIT MEM-WAIT IO-WAIT READ/s WRITE/s FAULTS/s  PIDS
nginx.service service     1.50  1.23     25.0%    60.0%   700M      1.0G     0.0%    100%   1.5K     12M     1.2k    17
idle.service  service        -     -         -        -   3.0M         -        -       -      -       -        -     1
`
	_, got, _ := strings.Cut(string(f.appendText(nil)), "\n")
	if d := cmp.Diff(want, "\n"+got); d != "" {
		t.Error(d)
	}
	if wide := testScreen(testTable(f, 140, 9)); !strings.Contains(wide, "CPU   IPC THROTTLED") || !strings.Contains(wide, "1.50  1.23     25.0%") {
		t.Error(wide)
	}
	if narrow := testScreen(testTable(f, 40, 9)); strings.Contains(narrow, "IPC") {
		t.Error(narrow)
	}
	if d := cmp.Diff(testScreen(testTable(testFrame(testSnapshot(), 2), 140, 9)), testScreen(testTable(f, 140, 9))); d == "" {
		t.Error("the same with and without counters")
	}
}

// TestResctrlColumns: they are there as soon as resctrl tells something of one task.
func TestResctrlColumns(t *testing.T) {
	s := testSnapshot()
	s.Tasks[1].Measurements = append(s.Tasks[1].Measurements, testReadings([]any{owca.TaskLLCOccupancy, 3 << 20, owca.TaskMemoryBandwidthRate, 1.5e9})...)
	s.Tasks = s.Tasks[:2]
	f := testFrame(s, 2)
	want := `
NAME          KIND         CPU   LLC MEM-BW/s THROTTLED CPU-WAIT    MEM MEM-LIMIT MEM-WAIT IO-WAIT READ/s WRITE/s FAULTS/s  PIDS
nginx.service service     1.50  3.0M     1.4G     25.0%    60.0%   700M      1.0G     0.0%    100%   1.5K     12M     1.2k    17
idle.service  service        -     -        -         -        -   3.0M         -        -       -      -       -        -     1
`
	_, got, _ := strings.Cut(string(f.appendText(nil)), "\n")
	if d := cmp.Diff(want, "\n"+got); d != "" {
		t.Error(d)
	}
	if narrow := testScreen(testTable(f, 40, 9)); strings.Contains(narrow, "LLC") {
		t.Error(narrow)
	}
}

func TestTextOfNothing(t *testing.T) {
	f := testFrame(&owca.Snapshot{Time: testTime, Platform: &owca.Platform{}}, 1)
	want := "2026-01-02T15:04:05Z -  0 tasks  tick 3.46ms  cpu - of -  memory - of -  waiting: cpu - memory - io -\n"
	if got := string(f.appendText(nil)); got != want {
		t.Errorf("got %q", got)
	}
}

func TestNumbers(t *testing.T) {
	type format = func([]byte, float64) []byte
	for _, c := range []struct {
		f    format
		v    float64
		want string
	}{
		{appendCores, 0, "0.00"},
		{appendCores, 99.994, "99.99"},
		{appendCores, 99.996, "100.0"},
		{appendCores, 999.96, "1000"},
		{appendCores, absent, "-"},
		{appendShare, 0, "0.0%"},
		{appendShare, 0.9994, "99.9%"},
		{appendShare, 0.9996, "100%"},
		{appendShare, 2, "200%"},
		{appendShare, absent, "-"},
		{appendBytes, 0, "0"},
		{appendBytes, 3.7, "3.7"},
		{appendBytes, 1023, "1023"},
		{appendBytes, 1023.6, "1.0K"},
		{appendBytes, 9.96 * 1024, "10K"},
		{appendBytes, 1 << 60, "1.0E"},
		{appendBytes, math.MaxUint64, "16E"},
		{appendBytes, math.Inf(1), "none"},
		{appendBytes, absent, "-"},
		{appendCount, 1, "1"},
		{appendCount, 0.53, "0.5"},
		{appendCount, 999, "999"},
		{appendCount, 999.7, "1.0k"},
		{appendCount, 123456, "123k"},
		{appendCount, absent, "-"},
	} {
		if got := string(c.f(nil, c.v)); got != c.want {
			t.Errorf("%v: %q, want %q", c.v, got, c.want)
		}
	}
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"nginx.service", "\x1b]0;title\a", "a\nb\tc", "漢字", "\xff\xfe", "\u202egnp.exe", "e\u0301", "\u200b", "\u009b31m", "�"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := string(appendClean(nil, s))
		if !utf8.ValidString(got) {
			t.Fatalf("%q became invalid UTF-8: %q", s, got)
		}
		plain := true
		for _, r := range got {
			if !unicode.IsPrint(r) {
				t.Fatalf("%q became %q, in which %U does not print", s, got, r)
			}
		}
		for _, r := range s {
			plain = plain && unicode.IsPrint(r) && r != utf8.RuneError
		}
		if plain && len(s) <= maxClean && got != s {
			t.Fatalf("%q became %q", s, got)
		}
		if again := string(appendClean(nil, got)); len(got) <= maxClean && again != got {
			t.Fatalf("%q is not clean: %q", got, again)
		}
		if w := cleanWidth(s); w != ansi.StringWidth(got) {
			t.Fatalf("%q: width %d, really %d", got, w, ansi.StringWidth(got))
		}
	})
}

// testTable is a table of this size that shows f.
func testTable(f *frame, width, height int) *table {
	d := newDisplay(modeTable, true, stdio{})
	m := newTable(d, nil, func(bool) {})
	m.Update(tea.WindowSizeMsg{Width: width, Height: height})
	m.frame = *f
	m.arrange()
	return m
}

func testPress(m *table, keys ...rune) {
	for _, k := range keys {
		m.Update(tea.KeyPressMsg{Code: k, Text: string(k)})
	}
}

func testScreen(m *table) string {
	var b strings.Builder
	for line := range strings.Lines(ansi.Strip(m.View().Content)) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return "\n" + b.String()
}

func TestTable(t *testing.T) {
	m := testTable(testFrame(testSnapshot(), 2), 140, 9)
	want := `
owca node7  3 tasks  tick 3.46ms  by cpu  ? help  q quit
cpu 3.46 of 8  memory 12G of 32G  waiting: cpu 12.3% memory - io 0.0%

NAME                 KIND         CPU THROTTLED CPU-WAIT    MEM MEM-LIMIT MEM-WAIT IO-WAIT READ/s WRITE/s FAULTS/s  PIDS
nginx.service        service     1.50     25.0%    60.0%   700M      1.0G     0.0%    100%   1.5K     12M     1.2k    17
\x1b[31mred\nalert   -           0.00         -        -      0      none        -       -      -       -        -     -
idle.service         service        -         -        -   3.0M         -        -       -      -       -        -     1

`
	if d := cmp.Diff(want, testScreen(m)); d != "" {
		t.Error(d)
	}
	if got := m.View().Content; !strings.Contains(got, alarmText+"   60.0%"+plainText) || !strings.Contains(got, warnText+"    25.0%") {
		t.Errorf("no colours for what is lost: %q", got)
	}

	testPress(m, 'm')
	m.Update(tea.WindowSizeMsg{Width: 60, Height: 7})
	want = `
owca node7  3 tasks  tick 3.46ms  by memory  ? help  q quit
cpu 3.46 of 8  memory 12G of 32G  waiting: cpu 12.3% memory…

NAME                 KIND         CPU CPU-WAIT    MEM
nginx.service        service     1.50    60.0%   700M
idle.service         service        -        -   3.0M
\x1b[31mred\nalert   -           0.00        -      0
`
	if d := cmp.Diff(want, testScreen(m)); d != "" {
		t.Error(d)
	}

	m.Update(tea.WindowSizeMsg{Width: 34, Height: 6})
	testPress(m, 'n', 'j', 'j')
	want = `
owca node7  3 tasks  tick 3.46ms …
cpu 3.46 of 8  memory 12G of 32G …
2–3 of 3, arrows scroll
NAME                    CPU    MEM
idle.service              -   3.0M
nginx.service          1.50   700M
`
	if d := cmp.Diff(want, testScreen(m)); d != "" {
		t.Error(d)
	}
}

func TestTableBeforeRates(t *testing.T) {
	m := testTable(new(frame), 80, 24)
	if got := testScreen(m); !strings.Contains(got, "the first tick has not ended yet") {
		t.Error(got)
	}
	m = testTable(testFrame(testSnapshot(), 1), 80, 24)
	if got := testScreen(m); !strings.Contains(got, "first tick: rates come with the next") {
		t.Error(got)
	}
	if m = testTable(testFrame(testSnapshot(), 2), 80, 24); strings.Contains(testScreen(m), "first tick") {
		t.Error(testScreen(m))
	}
}

// TestTableFits draws many sizes: nothing is ever wider or longer than the
// terminal, whatever is in the names.
func TestTableFits(t *testing.T) {
	s := testSnapshot()
	for _, name := range []string{strings.Repeat("漢字", 100), strings.Repeat("\n", 1000), "/" + strings.Repeat("a/漢", 50), ""} {
		s.Tasks = append(s.Tasks, testTask(name, strings.Repeat("字", 10), owca.TaskCPUUsageCores, 1e5))
	}
	for ticks := range uint64(3) {
		f := testFrame(s, ticks)
		for _, width := range []int{0, 1, 2, 3, 5, 8, 13, 19, 20, 21, 27, 28, 40, 79, 80, 81, 120, 250} {
			for _, height := range []int{0, 1, 3, 4, 5, 9, 10, 23, 24, 40} {
				m := testTable(f, width, height)
				m.show.logs.lines = []string{"time=2026-01-02T15:04:05Z level=INFO msg=\"" + strings.Repeat("x", 300) + "\"\n"}
				for _, key := range "?? jjjG" {
					testPress(m, key)
					lines := strings.Split(m.View().Content, "\n")
					if len(lines) > max(height, 1) {
						t.Fatalf("%d×%d, key %q: %d lines", width, height, key, len(lines))
					}
					for _, line := range lines {
						if w := ansi.StringWidth(line); w > width {
							t.Fatalf("%d×%d, key %q: %d wide: %q", width, height, key, w, line)
						}
					}
				}
			}
		}
	}
}

func TestSort(t *testing.T) {
	names := func(f *frame) string {
		var list []string
		for i := range f.rows {
			list = append(list, f.rows[i].name)
		}
		return strings.Join(list, " ")
	}
	f := testFrame(&owca.Snapshot{Platform: &owca.Platform{}, Tasks: []owca.TaskData{
		testTask("d", ""),
		testTask("c", "", owca.TaskCPUUsageCores, 1.0, owca.TaskIOWriteRate, 5.0),
		testTask("b", "", owca.TaskCPUUsageCores, 2.0, owca.TaskMemoryUsage, 1, owca.TaskIOReadRate, 1.0, owca.TaskIOWriteRate, 2.0),
		testTask("a", "", owca.TaskMemoryUsage, 7, owca.TaskMemoryWorkingSet, 0, owca.TaskIOPressureSomeRatio, 0.5, owca.TaskCPUPressureSomeRatio, 0.1),
	}}, 2)
	for _, c := range []struct {
		key  sortKey
		want string
	}{
		{sortCPU, "b c a d"}, {sortMemory, "b a c d"}, {sortWait, "a b c d"}, {sortIO, "c b a d"}, {sortName, "a b c d"},
	} {
		sortRows(f.rows, c.key)
		if got := names(f); got != c.want {
			t.Errorf("by %v: %s, want %s", c.key, got, c.want)
		}
	}
}

func TestObserveKeepsNothing(t *testing.T) {
	d := newDisplay(modeTable, true, stdio{})
	s := testSnapshot()
	d.observe(s)
	for i := range s.Tasks {
		clear(s.Tasks[i].Measurements)
		s.Tasks[i] = owca.TaskData{}
	}
	*s.Platform = owca.Platform{}
	var f frame
	if !d.take(&f) {
		t.Fatal("nothing was observed")
	}
	f.took = 3456 * time.Microsecond
	if d := cmp.Diff(string(testFrame(testSnapshot(), 1).appendText(nil)), string(f.appendText(nil))); d != "" {
		t.Error(d)
	}
	if d.take(&f) {
		t.Error("the same frame twice")
	}
}

func TestObserveAllocatesNothing(t *testing.T) {
	d := newDisplay(modeTable, true, stdio{})
	s := testSnapshot()
	var f frame
	tick := func() {
		d.observe(s)
		d.take(&f)
	}
	tick()
	tick()
	if n := testing.AllocsPerRun(100, tick); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkObserve(b *testing.B) {
	s := testSnapshot()
	for len(s.Tasks) < 1000 {
		s.Tasks = append(s.Tasks, s.Tasks...)
	}
	s.Tasks = s.Tasks[:1000]
	d := newDisplay(modeTable, true, stdio{})
	b.ReportAllocs()
	for b.Loop() {
		d.observe(s)
	}
}

func BenchmarkTable(b *testing.B) {
	s := testSnapshot()
	for i := range 1000 {
		s.Tasks = append(s.Tasks, testTask(fmt.Sprintf("task-%d.service", i*7919%1000), "service", owca.TaskCPUUsageCores, float64(i%10)))
	}
	m := testTable(testFrame(s, 2), 160, 50)
	b.ReportAllocs()
	for b.Loop() {
		m.arrange()
		_ = m.View()
	}
}

// TestLinesPace: the second tick has rates; then a block every 10 s of ticks
// that are not quite on their grid.
func TestLinesPace(t *testing.T) {
	d := newDisplay(modeLines, true, stdio{})
	d.opened = true
	s := testSnapshot()
	var shown []int
	for i := range 30 {
		s.Time = testTime.Add(time.Duration(i)*time.Second + time.Duration(i%3)*time.Millisecond)
		d.observe(s)
		var f frame
		if d.take(&f) {
			shown = append(shown, i)
		}
	}
	if d := cmp.Diff([]int{1, 11, 21}, shown); d != "" {
		t.Error(d)
	}
}

func TestLines(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	d := newDisplay("auto", true, stdio{out: w})
	if d.mode != modeLines {
		t.Fatalf("mode %s on a pipe", d.mode)
	}
	if err := d.open(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	s := testSnapshot()
	d.observe(s)
	d.observe(s)
	got := make([]byte, 4096)
	n, err := r.Read(got)
	if err != nil {
		t.Fatal(err)
	}
	if first, _, _ := strings.Cut(string(got[:n]), "\nnginx.service"); !strings.HasPrefix(first, "2026-01-02T15:04:05Z node7  3 tasks") {
		t.Errorf("%s", got[:n])
	}
	// The reader is gone: the lines end, the program does not.
	r.Close()
	s.Time = s.Time.Add(linesPace)
	d.observe(s)
	<-d.done
	s.Time = s.Time.Add(linesPace)
	d.observe(s)
	if err := d.close(); err != nil {
		t.Error(err)
	}
	w.Close()
}

func TestOnce(t *testing.T) {
	for _, mode := range []string{modeTable, modeLines, modeNone} {
		var out bytes.Buffer
		d := newDisplay(mode, true, stdio{out: &out})
		d.observe(testSnapshot())
		if err := d.close(); err != nil {
			t.Error(err)
		}
		if got := strings.Count(out.String(), "\n"); mode != modeNone && got != 5 || mode == modeNone && got != 0 {
			t.Errorf("%s: %q", mode, out.String())
		}
	}
	d := newDisplay("auto", false, stdio{out: new(bytes.Buffer)})
	if d.mode != modeNone {
		t.Errorf("with a configuration and no terminal: %s", d.mode)
	}
	d.observe(testSnapshot())
	if d.latest.rows != nil {
		t.Error("mode none is not free")
	}
	(*display)(nil).observe(nil)
}

func TestTableNeedsTerminal(t *testing.T) {
	d := newDisplay(modeTable, true, stdio{out: new(bytes.Buffer)})
	if err := d.open(t.Context(), nil); err == nil {
		t.Error("a table into a buffer")
	}
}

func TestTableLog(t *testing.T) {
	for _, terminal := range []bool{true, false} {
		var w bytes.Buffer
		changes := 0
		l := tableLog{w: &w, terminal: terminal, changed: func() { changes++ }}
		log := slog.New(slog.NewTextHandler(&l, nil))
		log.Info("before")
		l.divert()
		for i := range maxTableLog + 3 {
			log.Info("during", "i", i)
		}
		if got := strings.Count(w.String(), "\n"); terminal && got != 1 || !terminal && got != maxTableLog+4 {
			t.Errorf("terminal %v: %d lines went to it while the table was there", terminal, got)
		}
		last := l.last(nil, 2)
		if len(last) != 2 || !strings.Contains(last[1], fmt.Sprint("i=", maxTableLog+2)) || changes != maxTableLog+3 {
			t.Errorf("%d changes, last %q", changes, last)
		}
		l.restore()
		log.Info("after")
		got := w.String()
		if terminal && !strings.Contains(got, "(3 older log lines are lost)") || strings.Count(got, "during") > maxTableLog+3 || !strings.Contains(got, "msg=after") {
			t.Error(got)
		}
	}
	if got := shortLog("time=2026-01-02T15:04:05.123+01:00 level=WARN msg=\"a b\"\n"); got != `15:04:05 level=WARN msg="a b"` {
		t.Error(got)
	}
	if got := shortLog("other\n"); got != "other" {
		t.Error(got)
	}
}

// testTerminal is a pseudo terminal; the test is who looks at it.
type testTerminal struct {
	t           *testing.T
	user, owner *os.File
	mu          sync.Mutex
	seen        []byte
	more        chan struct{}
}

func newTestTerminal(t *testing.T) *testTerminal {
	t.Setenv("TERM", "xterm-256color")
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(user.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 120})
	}
	if err != nil {
		t.Fatal(err)
	}
	owner, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &testTerminal{t: t, user: user, owner: owner, more: make(chan struct{}, 1)}
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := user.Read(b)
			p.mu.Lock()
			p.seen = append(p.seen, b[:n]...)
			p.mu.Unlock()
			select {
			case p.more <- struct{}{}:
			default:
			}
			if err != nil {
				return // EIO: owner is closed
			}
		}
	}()
	t.Cleanup(func() {
		owner.Close()
		user.Close()
	})
	return p
}

// expect waits for text on the screen and forgets what came until then.
func (p *testTerminal) expect(text string) {
	p.t.Helper()
	limit := time.After(time.Minute)
	for {
		p.mu.Lock()
		i := bytes.Index(p.seen, []byte(text))
		if i >= 0 {
			p.seen = p.seen[i+len(text):]
			p.mu.Unlock()
			return
		}
		seen := string(p.seen)
		p.mu.Unlock()
		select {
		case <-p.more:
		case <-limit:
			p.t.Fatalf("%q did not appear; what did: %q", text, seen)
		}
	}
}

func (p *testTerminal) press(keys string) {
	p.t.Helper()
	if _, err := p.user.WriteString(keys); err != nil {
		p.t.Fatal(err)
	}
}

// TestTerminal is the table on a real terminal, from the beginning to the end.
func TestTerminal(t *testing.T) {
	p := newTestTerminal(t)
	d := newDisplay(modeTable, true, stdio{out: p.owner, err: p.owner})
	d.in = p.owner
	log := slog.New(slog.NewTextHandler(d.logWriter(p.owner), nil))
	before, err := term.GetState(int(p.owner.Fd()))
	if err != nil {
		t.Fatal(err)
	}

	interrupted := make(chan struct{})
	if err := d.open(t.Context(), func(bool) { close(interrupted) }); err != nil {
		t.Fatal(err)
	}
	p.expect("\x1b[?1049h") // the alternate screen
	d.observe(testSnapshot())
	p.expect("first tick")
	p.expect("nginx.service")
	p.expect(`\x1b[31mred`)
	d.observe(testSnapshot())
	p.press("m")
	p.expect("memory")
	log.Warn("something to tell")
	p.expect("something to tell")
	p.press("?")
	p.expect("this help")
	if err := unix.IoctlSetWinsize(int(p.user.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 30, Col: 100}); err != nil {
		t.Fatal(err)
	}
	p.press("q")
	<-interrupted
	p.expect("stopping")
	if err := d.close(); err != nil {
		t.Error(err)
	}
	p.expect("\x1b[?1049l")
	p.expect("something to tell") // again, where it stays
	after, err := term.GetState(int(p.owner.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(fmt.Sprint(*before), fmt.Sprint(*after)); d != "" {
		t.Errorf("the modes of the terminal have changed: %s", d)
	}
	log.Info("no table any more")
	p.expect("no table any more")
}

// TestTerminalLost: the agent goes on when its terminal is gone.
func TestTerminalLost(t *testing.T) {
	p := newTestTerminal(t)
	d := newDisplay(modeTable, true, stdio{out: p.owner})
	d.in = p.owner
	var logs bytes.Buffer
	d.logWriter(&logs)
	if err := d.open(t.Context(), func(bool) {}); err != nil {
		t.Fatal(err)
	}
	d.observe(testSnapshot())
	p.expect("nginx.service")
	p.user.Close()
	for range 100 {
		d.observe(testSnapshot())
	}
	if err := d.close(); err != nil {
		t.Error(err)
	}
}
