package main

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"github.com/charmbracelet/x/ansi"
)

// pictureWidth is what the text fits in, however many groups and domains there
// are; names are cut.
const pictureWidth = 100

// pictureStyle is what is drawn with.
type pictureStyle struct {
	own, none             string // bits, and the filling of bars
	ownShared, noneShared string // bits that others than CPUs use, too
	ellipsis              string
}

var (
	blockStyle = pictureStyle{"█", "·", "▓", "░", "…"}
	asciiStyle = pictureStyle{"#", ".", "%", "-", "~"}
)

func ones(mask uint64) int { return bits.OnesCount64(mask) }

// text is the report for people.
func (r *resctrlReport) text(ascii bool) []byte {
	p := picture{resctrlReport: r, pictureStyle: blockStyle}
	if ascii {
		p.pictureStyle = asciiStyle
	}
	b := p.appendHead(nil)
	for i := range r.Resources {
		b = p.appendResource(b, &r.Resources[i])
	}
	b = p.appendGroups(b)
	return p.appendUsage(b)
}

type picture struct {
	*resctrlReport
	pictureStyle
}

// appendHead appends what the host can.
func (p *picture) appendHead(b []byte) []byte {
	b = appendClean(b, p.Mount.Dir)
	b = fmt.Appendf(b, "  options: %s", orNone(p.Mount.Options))
	if p.Mount.ReadOnly {
		b = append(b, "; read-only"...)
	}
	if p.Mount.Ours {
		b = append(b, "; mounted by owca"...)
	}
	b = append(b, '\n')
	lines := [][]string{{"CAN", "CLOSIDs", "DOMAINS", "UNITS"}}
	for i := range p.Resources {
		r := &p.Resources[i]
		lines = append(lines, []string{"limit " + r.Name, strconv.Itoa(r.CLOSIDs), ranges(r.Domains), r.units()})
	}
	if len(p.Resources) > 0 {
		b = appendTable(b, lines, 1)
	}
	if p.RMIDs != nil {
		lines = [][]string{{"CAN", "RMIDs", "EVENTS"}}
		for i := range p.Monitoring {
			m := &p.Monitoring[i]
			events := strings.Join(m.Events, " ")
			if m.MaxThreshold > 0 {
				events += "; an RMID is free again below " + bytesText(float64(m.MaxThreshold))
			}
			if m.AssignMode != nil {
				events += "; counters: " + *m.AssignMode
			}
			lines = append(lines, []string{"monitor " + strings.TrimSuffix(m.Name, "_MON"), strconv.Itoa(m.RMIDs), p.cut(events, 80)})
		}
		b = appendTable(b, lines, 1)
	}
	var used []string
	if p.CLOSIDs != nil {
		used = append(used, fmt.Sprintf("%d of %d CLOSIDs", p.CLOSIDs.Used, p.CLOSIDs.Of))
	}
	if p.RMIDs != nil {
		used = append(used, fmt.Sprintf("%d of %d RMIDs", p.RMIDs.Used, p.RMIDs.Of))
	}
	if used != nil {
		b = fmt.Appendf(b, "%s in use\n", strings.Join(used, " and "))
	}
	return b
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return string(appendClean(nil, strings.Join(list, ",")))
}

// units is what the values of a resource mean.
func (r *resctrlResource) units() string {
	if r.Mask != nil {
		text := fmt.Sprintf("%d ways, mask %x, ", *r.Ways, uint64(*r.Mask))
		if *r.Sparse {
			text += fmt.Sprintf("at least %d", *r.MinBits)
		} else {
			text += fmt.Sprintf("at least %d without gaps", *r.MinBits)
		}
		if *r.Shareable != 0 {
			text += fmt.Sprintf(", %x shared with I/O", uint64(*r.Shareable))
		}
		return text
	}
	text := fmt.Sprintf("%s, at least %d, in steps of %d", unitText[*r.Unit], *r.Min, *r.Granularity)
	if *r.Unit == "MBps" {
		text = unitText[*r.Unit] // neither is kept to (the kernel's feedback loop)
	}
	if r.ThrottleMode != nil {
		text += ", hyperthreads: " + *r.ThrottleMode
	}
	return text
}

var unitText = map[string]string{"percent": "percent", "MBps": "MB/s", "steps": "steps of the hardware"}

// ranges is "0-3,8".
func ranges(ids []int) string {
	var b []byte
	for i := 0; i < len(ids); {
		j := i
		for j+1 < len(ids) && ids[j+1] == ids[j]+1 {
			j++
		}
		if b != nil {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(ids[i]), 10)
		if j > i {
			b = append(b, '-')
			b = strconv.AppendInt(b, int64(ids[j]), 10)
		}
		i = j + 1
	}
	if b == nil {
		return "-"
	}
	return string(b)
}

// appendResource draws what the control groups may use of a resource, one below
// the other; domains in which all have the same are drawn once.
func (p *picture) appendResource(b []byte, r *resctrlResource) []byte {
	var controls []*resctrlGroup
	for i := range p.Groups {
		if g := &p.Groups[i]; g.Monitor == "" {
			controls = append(controls, g)
		}
	}
	type drawn struct {
		domains []int
		cells   [][]string
	}
	var pictures []drawn
	for _, domain := range r.Domains {
		cells := make([][]string, len(controls))
		for i, g := range controls {
			cells[i] = p.value(r, g, domain)
		}
		same := slices.IndexFunc(pictures, func(d drawn) bool {
			return slices.EqualFunc(d.cells, cells, slices.Equal[[]string])
		})
		if same >= 0 {
			pictures[same].domains = append(pictures[same].domains, domain)
		} else {
			pictures = append(pictures, drawn{[]int{domain}, cells})
		}
	}
	if pictures == nil {
		return b
	}
	b = append(b, '\n')
	lines := [][]string{{r.Name, "GROUP", "", "", ""}}
	for _, d := range pictures {
		domains := p.cut(ranges(d.domains), 12)
		for i, g := range controls {
			lines = append(lines, append([]string{domains, p.name(g, 24)}, d.cells[i]...))
			domains = ""
		}
	}
	return appendTable(b, lines, 3)
}

// value draws what a group may use in a domain: picture, number, explanation.
func (p *picture) value(r *resctrlResource, g *resctrlGroup, domain int) []string {
	i := slices.IndexFunc(g.Schemata, func(v resctrlValue) bool { return v.Resource == r.Name && v.Domain == domain })
	if i < 0 {
		return []string{"-", "-", ""}
	}
	if v := &g.Schemata[i]; r.Mask != nil && v.Mask != nil {
		mask := uint64(*v.Mask)
		digits := (bits.Len64(uint64(*r.Mask)) + 3) / 4
		return []string{p.ways(r, mask), fmt.Sprintf("%0*x", digits, mask), fmt.Sprintf("%d of %d ways", ones(mask), *r.Ways)}
	} else if v.Bandwidth != nil && r.Unit != nil {
		return p.bandwidth(r, *v.Bandwidth)
	}
	return []string{"-", "-", ""}
}

// ways draws a mask, the highest bit to the left, as hexadecimal reads.
func (p *picture) ways(r *resctrlResource, mask uint64) string {
	var b strings.Builder
	b.WriteByte('[')
	for bit := bits.Len64(uint64(*r.Mask)) - 1; bit >= 0; bit-- {
		own, shared := mask>>bit&1 != 0, uint64(*r.Shareable)>>bit&1 != 0
		switch {
		case own && shared:
			b.WriteString(p.ownShared)
		case own:
			b.WriteString(p.own)
		case shared:
			b.WriteString(p.noneShared)
		default:
			b.WriteString(p.none)
		}
	}
	b.WriteByte(']')
	return b.String()
}

// bandwidth draws a bar where it is known what is all.
func (p *picture) bandwidth(r *resctrlResource, value uint64) []string {
	const cells = 10
	number := strconv.FormatUint(value, 10)
	if *r.Unit == "percent" {
		number += "%"
	}
	unlimited := r.Max != nil && value >= *r.Max
	note := ""
	switch {
	case unlimited:
		note = "no limit"
		if *r.Unit == "MBps" {
			number = "-" // U32_MAX, which says nothing
		}
	case r.Max == nil || *r.Unit == "MBps":
		return []string{"", number, note}
	}
	filled := cells
	if !unlimited {
		filled = int(math.Ceil(float64(value) * cells / float64(*r.Max)))
	}
	return []string{"[" + strings.Repeat(p.own, filled) + strings.Repeat(p.none, cells-filled) + "]", number, note}
}

// appendGroups appends who is in the groups.
func (p *picture) appendGroups(b []byte) []byte {
	if len(p.Groups) == 0 {
		return b
	}
	b = append(b, '\n')
	lines := [][]string{{"GROUP", "MODE", "THREADS", "CGROUPS OF THE THREADS"}}
	const name, mode = 30, 16
	ours := false
	for i := range p.Groups {
		g := &p.Groups[i]
		ours = ours || g.Ours
		cell := []string{p.name(g, name), "", "-", ""}
		if g.Mode != nil {
			cell[1] = p.cut(*g.Mode, mode)
		}
		if g.Threads != nil {
			cell[2] = strconv.Itoa(*g.Threads)
		}
		lines = append(lines, cell)
	}
	widths := tableWidths(lines)
	left := pictureWidth - 2
	for _, w := range widths[:3] {
		left -= w + 2
	}
	for i := range p.Groups {
		lines[i+1][3] = p.cgroups(&p.Groups[i], left)
	}
	b = appendTable(b, lines, 2)
	if ours {
		b = append(b, "* made by owca\n"...)
	}
	return b
}

// cgroups is "/a 12, /b 1 and 3 more", as many as fit; " of 4096" if no more threads
// were looked at.
func (p *picture) cgroups(g *resctrlGroup, width int) string {
	of := ""
	if g.Threads != nil && g.LookedAt < *g.Threads {
		of = fmt.Sprintf(" of %d", g.LookedAt)
	}
	text := ""
	for i, c := range g.Cgroups {
		rest := of
		if left := len(g.Cgroups) - i - 1; left > 0 {
			rest = fmt.Sprintf(" and %d more%s", left, of)
		}
		path, threads := string(appendClean(nil, c.Path)), fmt.Sprintf(" %d", c.Threads)
		if i == 0 {
			text = cutLeft(path, width-len(threads)-len(rest), p.ellipsis) + threads
			continue
		}
		next := text + ", " + path + threads
		if ansi.StringWidth(next+rest) > width {
			return fmt.Sprintf("%s and %d more%s", text, len(g.Cgroups)-i, of)
		}
		text = next
	}
	return text + of
}

// cutLeft cuts a path at its beginning.
func cutLeft(path string, width int, ellipsis string) string {
	if w := ansi.StringWidth(path); w > width {
		return ansi.TruncateLeft(path, w-max(width, 1)+1, ellipsis)
	}
	return path
}

// cut cuts a text at its end.
func (p *picture) cut(s string, width int) string {
	return ansi.Truncate(string(appendClean(nil, s)), width, p.ellipsis)
}

// name is a group's, a monitoring group's indented below its control group's,
// with its middle cut: both ends tell groups apart.
func (p *picture) name(g *resctrlGroup, width int) string {
	text, mark := g.Control, ""
	switch {
	case g.Monitor != "":
		text = "  " + g.Monitor
	case text == "":
		text = "/"
	}
	if g.Ours {
		mark = " *"
		width -= 2
	}
	text = string(appendClean(nil, text))
	if w := ansi.StringWidth(text); w > width {
		half := width / 2
		text = ansi.Truncate(text, half, p.ellipsis) + ansi.TruncateLeft(text, w-(width-half), "")
	}
	return text + mark
}

// appendUsage appends occupancy and bandwidth: a column for each domain where
// there is room, otherwise a line for each domain in which there is something.
func (p *picture) appendUsage(b []byte) []byte {
	var domains []string // as found, which is the order of the kernel's
	for i := range p.Groups {
		for j := range p.Groups[i].Usage {
			if name := p.Groups[i].Usage[j].domain(p.Monitoring); !slices.Contains(domains, name) {
				domains = append(domains, name)
			}
		}
	}
	if domains == nil {
		return b
	}
	kinds := p.usageKinds()
	if kinds == nil {
		return b
	}
	b = append(b, '\n')
	lines := p.usageColumns(kinds, domains)
	width := -2
	numbers := make([]int, 0, len(lines[0]))
	for i, w := range tableWidths(lines) {
		width += w + 2
		if i > 0 {
			numbers = append(numbers, i)
		}
	}
	if width <= pictureWidth {
		return appendTable(b, lines, numbers...)
	}
	return p.appendUsageLines(b, kinds)
}

// usageKind is one of the columns of usage.
type usageKind struct {
	title string
	of    func(*resctrlUsage) float64 // NaN: absent
}

// usageKinds leaves out what the host has not.
func (p *picture) usageKinds() []usageKind {
	has := func(event string) bool {
		return slices.ContainsFunc(p.Monitoring, func(m resctrlMonitoring) bool { return slices.Contains(m.Events, event) })
	}
	var kinds []usageKind
	if has("llc_occupancy") {
		kinds = append(kinds, usageKind{"OCCUPANCY", func(u *resctrlUsage) float64 { return countText(u.Occupancy) }})
	}
	if p.Interval > 0 && has("mbm_total_bytes") {
		kinds = append(kinds, usageKind{"TOTAL/s", func(u *resctrlUsage) float64 { return rateText(u.TotalRate) }})
	}
	if p.Interval > 0 && has("mbm_local_bytes") {
		kinds = append(kinds, usageKind{"LOCAL/s", func(u *resctrlUsage) float64 { return rateText(u.LocalRate) }})
	}
	return kinds
}

func countText(n *uint64) float64 {
	if n == nil {
		return math.NaN()
	}
	return float64(*n)
}

func rateText(n *float64) float64 {
	if n == nil {
		return math.NaN()
	}
	return *n
}

func bytesText(n float64) string { return string(appendBytes(nil, n)) }

// domain is "0", "0/1" for a sub-NUMA node, "L2 0" where there are several
// resources.
func (u *resctrlUsage) domain(resources []resctrlMonitoring) string {
	name := strconv.Itoa(u.Domain)
	if u.Node != nil {
		name += "/" + strconv.Itoa(*u.Node)
	}
	if len(resources) > 1 {
		name = u.Resource + " " + name
	}
	return name
}

// sum is NaN if one of the domains is: less would be wrong. Sub-NUMA nodes are
// part of their domain where that is there, too.
func (p *picture) sum(g *resctrlGroup, kind *usageKind) float64 {
	if len(g.Usage) == 0 {
		return math.NaN()
	}
	total := 0.0
	for i := range g.Usage {
		u := &g.Usage[i]
		if u.Node != nil && slices.ContainsFunc(g.Usage, func(o resctrlUsage) bool {
			return o.Resource == u.Resource && o.Domain == u.Domain && o.Node == nil
		}) {
			continue
		}
		total += kind.of(u)
	}
	return total
}

func (p *picture) usageColumns(kinds []usageKind, domains []string) [][]string {
	titles, heads := []string{"USAGE"}, []string{"GROUP"}
	for i := range kinds {
		if len(domains) > 1 {
			titles, heads = append(titles, kinds[i].title), append(heads, "sum")
		}
		for j, d := range domains {
			title := ""
			if len(domains) == 1 && j == 0 {
				title = kinds[i].title
			}
			titles, heads = append(titles, title), append(heads, d)
		}
	}
	lines := [][]string{titles, heads}
	for i := range p.Groups {
		g := &p.Groups[i]
		cells := []string{p.name(g, 28)}
		for k := range kinds {
			if len(domains) > 1 {
				cells = append(cells, bytesText(p.sum(g, &kinds[k])))
			}
			for _, d := range domains {
				value := math.NaN()
				if j := slices.IndexFunc(g.Usage, func(u resctrlUsage) bool { return u.domain(p.Monitoring) == d }); j >= 0 {
					value = kinds[k].of(&g.Usage[j])
				}
				cells = append(cells, bytesText(value))
			}
		}
		lines = append(lines, cells)
	}
	return lines
}

func (p *picture) appendUsageLines(b []byte, kinds []usageKind) []byte {
	head, numbers := []string{"USAGE OF GROUP", "DOMAIN"}, []int{}
	for i := range kinds {
		head, numbers = append(head, kinds[i].title), append(numbers, 2+i)
	}
	lines := [][]string{head}
	for i := range p.Groups {
		g := &p.Groups[i]
		cells := []string{p.name(g, 40), "sum"}
		for k := range kinds {
			cells = append(cells, bytesText(p.sum(g, &kinds[k])))
		}
		lines = append(lines, cells)
		for j := range g.Usage {
			cells, zero := []string{"", g.Usage[j].domain(p.Monitoring)}, true
			for k := range kinds {
				value := kinds[k].of(&g.Usage[j])
				zero = zero && value == 0
				cells = append(cells, bytesText(value))
			}
			if !zero {
				lines = append(lines, cells)
			}
		}
	}
	return appendTable(b, lines, numbers...)
}

// appendTable appends clean text in columns, those of numbers to the right.
func appendTable(b []byte, lines [][]string, numbers ...int) []byte {
	widths := tableWidths(lines)
	for _, line := range lines {
		for i, cell := range line {
			if i > 0 {
				b = append(b, "  "...)
			}
			pad := widths[i] - ansi.StringWidth(cell)
			if slices.Contains(numbers, i) {
				b = append(appendSpaces(b, pad), cell...)
			} else {
				b = appendSpaces(append(b, cell...), pad)
			}
		}
		b = append(trimRight(b), '\n')
	}
	return b
}

func tableWidths(lines [][]string) []int {
	widths := make([]int, len(lines[0]))
	for _, line := range lines {
		for i, cell := range line {
			widths[i] = max(widths[i], ansi.StringWidth(cell))
		}
	}
	return widths
}
