package main

import (
	"cmp"
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
)

// table is the live table on a terminal, a bubbletea model.
type table struct {
	show   *display
	ending <-chan struct{}        // closed when the agent begins to end
	stop   func(interrupted bool) // by Ctrl-C, or by q

	width, height int
	frame         frame
	names         int // width of the widest name so far
	sort          sortKey
	offset        int // rows scrolled away
	help          bool
	stopping      bool

	view  []byte
	cell  []byte
	lines []string // of the log
}

func newTable(d *display, ending <-chan struct{}, stop func(interrupted bool)) *table {
	return &table{show: d, ending: ending, stop: stop, sort: sortCPU}
}

type (
	freshMsg    struct{} // there is something new to show
	stoppingMsg struct{} // the agent is about to end
)

// wait waits for the next thing that does not come from the terminal.
func (t *table) wait() tea.Msg {
	select {
	case <-t.show.stop:
		return tea.QuitMsg{}
	case <-t.show.fresh:
		return freshMsg{}
	}
}

// end waits for the end of the agent to begin.
func (t *table) end() tea.Msg {
	select {
	case <-t.show.stop:
		return tea.QuitMsg{}
	case <-t.ending:
		return stoppingMsg{}
	}
}

// Init is the first thing that bubbletea calls.
func (t *table) Init() tea.Cmd { return tea.Batch(t.wait, t.end) }

// Update takes keys and what wait brings.
func (t *table) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		t.width, t.height = msg.Width, msg.Height
	case freshMsg:
		if t.show.take(&t.frame) {
			t.arrange()
		}
		return t, t.wait
	case stoppingMsg:
		t.stopping = true
	case tea.KeyPressMsg:
		cmd := t.key(msg.String())
		return t, cmd
	}
	return t, nil
}

func (t *table) arrange() {
	sortRows(t.frame.rows, t.sort)
	for i := range t.frame.rows {
		t.names = max(t.names, cleanWidth(t.frame.rows[i].name))
	}
}

func (t *table) key(key string) tea.Cmd {
	sorts := map[string]sortKey{"c": sortCPU, "m": sortMemory, "p": sortWait, "i": sortIO, "n": sortName}
	page := max(1, t.room())
	switch key {
	case "q", "ctrl+c":
		if t.stopping {
			return tea.Quit // gives the terminal back if the end takes long
		}
		t.stopping = true
		go t.stop(key == "ctrl+c")
	case "?", "h":
		t.help = !t.help
	case "esc":
		t.help = false
	case "up", "k":
		t.offset--
	case "down", "j":
		t.offset++
	case "pgup":
		t.offset -= page
	case "pgdown", "space":
		t.offset += page
	case "home", "g":
		t.offset = 0
	case "end", "G":
		t.offset = len(t.frame.rows)
	default:
		if by, ok := sorts[key]; ok {
			t.sort, t.offset = by, 0
			sortRows(t.frame.rows, by)
		}
	}
	t.offset = max(0, min(t.offset, len(t.frame.rows)-page))
	return nil
}

// The lines above the rows: title, use, an empty one or a note, column titles.
const headLines = 4

// logRoom is how many lines of the log are shown.
func (t *table) logRoom() int {
	switch {
	case t.height >= 24:
		return 3
	case t.height >= 10:
		return 1
	}
	return 0
}

// room is how many rows can be shown.
func (t *table) room() int { return max(0, t.height-headLines-t.logRoom()) }

// The styles, as SGR sequences; where there is no colour, bubbletea leaves them
// out.
const (
	plainText = "\x1b[m"
	boldText  = "\x1b[1m"
	faintText = "\x1b[2m"
	headText  = "\x1b[7m"   // reverse
	sortText  = "\x1b[1;4m" // bold and underlined, in the head
	warnText  = "\x1b[33m"
	alarmText = "\x1b[1;31m"
)

// The shares of time lost that are coloured.
const (
	warnShare  = 0.1
	alarmShare = 0.5
)

// View draws the screen.
func (t *table) View() tea.View {
	v := tea.NewView("")
	v.AltScreen = true
	if t.width > 0 {
		v.Content = t.draw()
	}
	return v
}

func (t *table) draw() string {
	b := t.view[:0]
	b = t.appendHead(b)
	if t.help {
		b = t.appendHelp(b)
	} else {
		b = t.appendRows(b)
	}
	b = t.appendLog(b)
	t.view = b
	lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	for i, line := range lines {
		lines[i] = ansi.Truncate(line, t.width, "…")
	}
	return strings.Join(lines[:min(len(lines), t.height)], "\n")
}

func (t *table) appendHead(b []byte) []byte {
	f := &t.frame
	if f.ticks == 0 {
		return append(b, "owca: the first tick has not ended yet\n\n\n\n"...)
	}
	b = append(b, boldText+"owca "...)
	b = appendClean(b, cmp.Or(f.host, "-"))
	b = append(b, plainText+"  "...)
	b = f.appendCounts(b)
	b = fmt.Appendf(b, "  by %s  "+faintText+"? help  q quit"+plainText+"\n", t.sort)
	b = f.appendUse(b)
	b = append(b, '\n')
	switch room := t.room(); {
	case t.stopping:
		b = append(b, boldText+"stopping…"+plainText...)
	case f.ticks == 1:
		b = append(b, "first tick: rates come with the next"...)
	case !t.help && len(f.rows) > room && room > 0:
		b = fmt.Appendf(b, faintText+"%d–%d of %d, arrows scroll"+plainText, t.offset+1, t.offset+room, len(f.rows))
	}
	return append(b, '\n')
}

// fit picks the columns that there is room for, and the width of names.
func (t *table) fit() (shown [len(columns)]bool, name int) {
	const narrow = 20 // what a name gets at least
	shown[0] = true
	used := 0
	for rank := range len(columns) + 1 {
		for i := range columns {
			c := &columns[i]
			if c.rank != rank || c.width == 0 || !c.in(&t.frame) {
				continue
			}
			if used+1+c.width+narrow > t.width {
				return shown, min(t.width-used, max(t.names, narrow))
			}
			used += 1 + c.width
			shown[i] = true
		}
	}
	return shown, min(t.width-used, max(t.names, narrow))
}

func (t *table) appendRows(b []byte) []byte {
	shown, name := t.fit()
	b = append(b, headText...)
	for i := range columns {
		if !shown[i] {
			continue
		}
		c := &columns[i]
		b = appendSeparated(b, i)
		start := len(b)
		b = c.appendCell(b, name, c.title)
		if c.sort == t.sort {
			cell := string(b[start:])
			b = append(b[:start], strings.Replace(cell, c.title, sortText+c.title+plainText+headText, 1)...)
		}
	}
	b = append(b, plainText+"\n"...)

	rows := t.frame.rows
	// Tasks may have ended since the last key.
	first := max(0, min(t.offset, len(rows)-t.room()))
	for i := first; i < min(len(rows), first+t.room()); i++ {
		for j := range columns {
			if shown[j] {
				b = appendSeparated(b, j)
				b = t.appendCell(b, &columns[j], &rows[i], name)
			}
		}
		b = append(b, '\n')
	}
	return b
}

func (t *table) appendCell(b []byte, c *column, r *row, name int) []byte {
	style := ""
	if c.alarm != nil {
		switch share := c.alarm(r); { // absent is neither
		case share >= alarmShare:
			style = alarmText
		case share >= warnShare:
			style = warnText
		}
	}
	b = append(b, style...)
	t.cell = c.text(t.cell[:0], r)
	b = c.appendCell(b, name, string(t.cell))
	if style != "" {
		b = append(b, plainText...)
	}
	return b
}

const helpText = `
c m p i n    sort by cpu, memory, pressure, io, name
↑ ↓ PgUp PgDn Home End    scroll
?    this help
q  Ctrl-C    end owca

CPU        cpus kept busy
IPC        instructions per cycle, where there are performance counters
LLC        last level of cache that the task occupies, where resctrl tells
MEM-BW/s   bytes a second between that cache and memory, as there
THROTTLED  share of its quota periods in which the cpu quota ran out
CPU-WAIT   share of the time in which some thread waited for a cpu (pressure)
MEM        working set: memory without the inactive page cache
MEM-WAIT   share of the time in which some thread waited for memory
IO-WAIT    share of the time in which some thread waited for I/O
FAULTS/s   page faults, minor and major
-          not known here; 'owca check' tells why`

func (t *table) appendHelp(b []byte) []byte {
	lines := strings.Split(strings.TrimPrefix(helpText, "\n"), "\n")
	for _, line := range lines[:min(len(lines), t.room()+1)] {
		b = append(append(b, line...), '\n')
	}
	return b
}

// appendLog fills up the screen so that the log is at its bottom.
func (t *table) appendLog(b []byte) []byte {
	t.lines = t.show.logs.last(t.lines[:0], t.logRoom())
	for range t.height - strings.Count(string(b), "\n") - len(t.lines) {
		b = append(b, '\n')
	}
	for _, line := range t.lines {
		b = append(b, faintText...)
		b = appendClean(b, shortLog(line))
		b = append(b, plainText+"\n"...)
	}
	return b
}
