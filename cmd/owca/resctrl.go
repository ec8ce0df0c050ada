package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/owca-project/owca/internal/proc"
	"github.com/owca-project/owca/internal/resctrl"
)

type resctrlCommand struct {
	Show  resctrlShowCommand  `cmd:"" default:"withargs" help:"Print the groups (the default)."`
	Clean resctrlCleanCommand `cmd:"" help:"Remove the groups that an agent which was killed left behind."`
}

type resctrlShowCommand struct {
	Interval time.Duration `default:"1s" help:"Time between the two readings that bandwidth is computed from; 0: one reading, no bandwidth (default: 1s)."`
	ASCII    bool          `help:"Draw with ASCII characters, as is done without a locale of UTF-8."`
	JSON     bool          `help:"Print a JSON object; units are in the names, null is what could not be read."`
	HostRoot string        `default:"/" placeholder:"DIR" help:"Where the root of the host is mounted, as in a container (default: /)."`
}

// Help is what --help says beyond the flags.
func (*resctrlShowCommand) Help() string {
	return `Caches are drawn with the highest bit of the mask to the left, one group below the other: what stands in one column is
shared. Domains in which all groups have the same are drawn once. Threads and counts of a control group are also those
of its monitoring groups. "of 4096": no more threads were looked at. "-" could not be read, or the host does not tell. "*" marks groups that owca made.

Examples:
  owca resctrl                  what this host can, and what is in use
  owca resctrl --interval 10s   bandwidth over 10 seconds
  owca resctrl --json | jq '.groups[] | {name, threads}'
  owca resctrl clean            remove what an agent that was killed left`
}

// openResctrl opens what is mounted. The error says what to do.
func openResctrl(root string) (*resctrl.Tree, error) {
	if info, err := os.Stat(root); err != nil || !info.IsDir() {
		return nil, &exitError{exitUsage, fmt.Errorf("--host-root %s is not a directory", root)}
	}
	mount, err := resctrl.FS{Root: root}.Mounted()
	switch {
	case errors.Is(err, resctrl.ErrNotMounted):
		return nil, fmt.Errorf("%w, or let the agent do it (resctrl_mount: true)", err)
	case errors.Is(err, errors.ErrUnsupported):
		return nil, fmt.Errorf("no resctrl here: %s; %s", noResctrl, whereResctrl)
	case err != nil:
		return nil, err
	}
	tree, err := mount.Open()
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%w: this user must be able to read %s", err, mount.Dir)
	}
	return tree, err
}

// Run fails if there is no resctrl. What could not be read of it is told, and
// absent.
func (c *resctrlShowCommand) Run(io stdio) error {
	if c.Interval < 0 {
		return &exitError{exitUsage, fmt.Errorf("--interval %v is negative", c.Interval)}
	}
	tree, err := openResctrl(c.HostRoot)
	if err != nil {
		return err
	}
	report, problems := readResctrl(tree, proc.FS{Root: c.HostRoot}, c.Interval)
	problems = errors.Join(problems, tree.Close())
	if report == nil {
		return problems
	}
	if problems != nil {
		fmt.Fprintf(io.err, "owca: some of it is missing: %s\n", strings.ReplaceAll(problems.Error(), "\n", "\n  "))
	}
	text := report.text(c.ASCII || !localeUTF8(os.Getenv))
	if c.JSON {
		if text, err = indentJSON(report); err != nil {
			return err
		}
	}
	if _, err := io.out.Write(text); err != nil {
		return fmt.Errorf("writing the groups: %w", err)
	}
	return nil
}

func indentJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err := encoder.Encode(v)
	return b.Bytes(), err
}

// localeUTF8: setlocale(3)'s order; without any it is the C locale.
func localeUTF8(getenv func(string) string) bool {
	locale := strings.ToLower(cmp.Or(getenv("LC_ALL"), getenv("LC_CTYPE"), getenv("LANG")))
	return strings.Contains(locale, "utf-8") || strings.Contains(locale, "utf8")
}

// resctrlReport is what is shown, and --json. Its keys, and the values of kind,
// unit and mode, don't change.
type resctrlReport struct {
	Mount      resctrlMount        `json:"mount"`
	CLOSIDs    *resctrlBudget      `json:"closids"` // null: nothing can be allocated
	RMIDs      *resctrlBudget      `json:"rmids"`   // null: nothing can be monitored
	Resources  []resctrlResource   `json:"resources"`
	Monitoring []resctrlMonitoring `json:"monitoring"`
	Interval   float64             `json:"interval_seconds"` // 0: no bandwidth
	Groups     []resctrlGroup      `json:"groups"`
}

type resctrlMount struct {
	Dir      string   `json:"dir"`
	Options  []string `json:"options"`
	ReadOnly bool     `json:"read_only"`
	Ours     bool     `json:"ours"` // mounted by owca
}

// resctrlBudget leaves out RMIDs in limbo, which nobody can see.
type resctrlBudget struct {
	Used int `json:"used"`
	Of   int `json:"of"`
}

type resctrlResource struct {
	Name    string `json:"name"`
	Kind    string `json:"kind"` // "mask" or "bandwidth"
	CLOSIDs int    `json:"closids"`
	Domains []int  `json:"domains"`

	// Of a mask, otherwise null.
	Mask      *hexMask `json:"mask"` // all bits
	Ways      *int     `json:"ways"`
	MinBits   *int     `json:"min_bits"`
	Shareable *hexMask `json:"shareable"` // with other agents than CPUs
	Sparse    *bool    `json:"sparse"`

	// Of bandwidth, otherwise null.
	Unit         *string `json:"unit"` // "percent", "MBps" or "steps"
	Min          *uint64 `json:"min"`
	Granularity  *uint64 `json:"granularity"`
	Max          *uint64 `json:"max"` // no limit; null: not known
	Linear       *bool   `json:"linear"`
	ThrottleMode *string `json:"throttle_mode"` // null: the host has none
}

type resctrlMonitoring struct {
	Name         string         `json:"name"`
	RMIDs        int            `json:"rmids"`
	Events       []string       `json:"events"`
	MaxThreshold uint64         `json:"max_threshold_occupancy_bytes"`
	AssignMode   *string        `json:"assign_mode"`        // null: the host has none
	Counters     map[string]int `json:"counters_by_domain"` // null: the host has none
}

type resctrlGroup struct {
	Name    string `json:"name"`    // "/", "gold", "mon_groups/x", "gold/mon_groups/x"
	Control string `json:"control"` // "": the default group
	Monitor string `json:"monitor"` // "": a control group
	Ours    bool   `json:"ours"`
	// Mode of a control group: "shareable", "exclusive", "pseudo-locksetup",
	// "pseudo-locked"; null for others.
	Mode     *string         `json:"mode"`
	Threads  *int            `json:"threads"` // those of its monitoring groups, too
	Cgroups  []cgroupThreads `json:"cgroups"` // most threads first
	LookedAt int             `json:"threads_looked_at"`
	Schemata []resctrlValue  `json:"schemata"` // null: a monitoring group, or nothing can be allocated
	Usage    []resctrlUsage  `json:"usage"`    // null: could not be read, or nothing can be monitored
}

// cgroupThreads is how many threads of a group are in one cgroup: that of v2, or
// the deepest of v1.
type cgroupThreads struct {
	Path    string `json:"path"`
	Threads int    `json:"threads"`
}

// resctrlValue has a mask or a bandwidth.
type resctrlValue struct {
	Resource  string   `json:"resource"`
	Domain    int      `json:"domain"`
	Mask      *hexMask `json:"mask"`
	Bandwidth *uint64  `json:"bandwidth"`
}

type resctrlUsage struct {
	Resource  string   `json:"resource"`
	Domain    int      `json:"domain"`
	Node      *int     `json:"node"` // sub-NUMA; null: all of the domain
	Occupancy *uint64  `json:"occupancy_bytes"`
	Total     *uint64  `json:"total_bytes"`
	Local     *uint64  `json:"local_bytes"`
	TotalRate *float64 `json:"total_bytes_per_second"`
	LocalRate *float64 `json:"local_bytes_per_second"`
}

// hexMask is a string in JSON, whose numbers don't hold 64 bits everywhere.
type hexMask uint64

// MarshalText returns "0x7ff".
func (m hexMask) MarshalText() ([]byte, error) { //nolint:unparam // encoding.TextMarshaler
	return strconv.AppendUint([]byte("0x"), uint64(m), 16), nil
}

// maxThreads bounds the threads of a group whose cgroups are looked up: that is
// a file each.
const maxThreads = 4096

// readResctrl returns nil if it is no use. Errors are of what is absent.
func readResctrl(tree *resctrl.Tree, procfs proc.FS, interval time.Duration) (*resctrlReport, error) {
	mount, info := tree.Mount(), tree.Info()
	names, err := tree.Groups(nil)
	if err != nil {
		return nil, err
	}
	r := &resctrlReport{
		Mount:     resctrlMount{Dir: mount.Dir, Options: append([]string{}, mount.Options...), ReadOnly: mount.ReadOnly, Ours: mount.Ours},
		Resources: []resctrlResource{}, Monitoring: []resctrlMonitoring{}, Groups: []resctrlGroup{},
	}
	controls := 0
	for _, n := range names {
		if n.Monitor == "" {
			controls++
		}
	}
	if n := info.CLOSIDs(); n > 0 {
		r.CLOSIDs = &resctrlBudget{controls, n}
	}
	if n := info.RMIDs(); n > 0 {
		r.RMIDs = &resctrlBudget{len(names), n}
	}
	for i := range info.Resources {
		r.Resources = append(r.Resources, reportResource(&info.Resources[i]))
	}
	for i := range info.Monitoring {
		r.Monitoring = append(r.Monitoring, reportMonitoring(&info.Monitoring[i]))
	}
	rates := interval > 0 && (info.Has("mbm_total_bytes") || info.Has("mbm_local_bytes"))
	usage := &usageReader{tree: tree, first: map[resctrl.Name]usageReading{}}
	if r.RMIDs != nil && rates {
		r.Interval = interval.Seconds()
		usage.readAll(names)
		time.Sleep(interval)
	}
	var problems []error
	for _, n := range names {
		g, err := reportGroup(tree, procfs, n)
		if err == nil && r.RMIDs != nil {
			g.Usage, err = usage.read(n)
		}
		if errors.Is(err, resctrl.ErrGone) && n != (resctrl.Name{}) && tree.Alive() == nil {
			continue // removed since they were listed
		}
		if err != nil {
			problems = append(problems, err)
		}
		r.Groups = append(r.Groups, g)
	}
	return r, errors.Join(problems...)
}

func reportResource(in *resctrl.Resource) resctrlResource {
	r := resctrlResource{Name: in.Name, Kind: "mask", CLOSIDs: in.CLOSIDs, Domains: append([]int{}, in.Domains...)}
	if in.Kind == resctrl.Mask {
		ways := ones(in.Bits)
		r.Mask, r.Ways, r.MinBits = new(hexMask(in.Bits)), &ways, &in.MinBits
		r.Shareable, r.Sparse = new(hexMask(in.Shareable)), &in.Sparse
		return r
	}
	r.Kind = "bandwidth"
	r.Unit, r.Min, r.Granularity, r.Linear = new(unitName(in.Unit)), &in.Min, &in.Granularity, &in.Linear
	if in.Max != 0 {
		r.Max = &in.Max
	}
	if in.ThrottleMode != "" {
		r.ThrottleMode = &in.ThrottleMode
	}
	return r
}

func unitName(u resctrl.Unit) string {
	switch u {
	case resctrl.Percent:
		return "percent"
	case resctrl.MBps:
		return "MBps"
	}
	return "steps"
}

func reportMonitoring(in *resctrl.Monitoring) resctrlMonitoring {
	m := resctrlMonitoring{Name: in.Name, RMIDs: in.RMIDs, Events: append([]string{}, in.Events...), MaxThreshold: in.MaxThreshold}
	if in.AssignMode != "" {
		m.AssignMode = &in.AssignMode
	}
	if in.Counters != nil {
		m.Counters = map[string]int{}
		for id, n := range in.Counters {
			m.Counters[strconv.Itoa(id)] = n
		}
	}
	return m
}

// reportGroup reads all of a group but its usage.
func reportGroup(tree *resctrl.Tree, procfs proc.FS, n resctrl.Name) (resctrlGroup, error) {
	g := resctrlGroup{Name: n.String(), Control: n.Control, Monitor: n.Monitor, Ours: n.Ours(), Cgroups: []cgroupThreads{}}
	var problems []error
	tids, err := tree.Threads(n, nil)
	switch {
	case err != nil:
		problems = append(problems, err)
	case n.Monitor == "" && tree.Info().CLOSIDs() == 0:
		// Where nothing can be allocated the kernel does not list the threads of
		// the default group (is_closid_match).
	default:
		g.Threads = new(len(tids))
		tids = tids[:min(len(tids), maxThreads)]
		g.LookedAt = len(tids)
		if g.Cgroups, err = cgroupsOf(procfs, tids); err != nil {
			problems = append(problems, err)
		}
	}
	if n.Monitor != "" {
		return g, errors.Join(problems...)
	}
	// A host that can only monitor has no modes (rdtgroup_mode_show, since 4.20).
	b, err := os.ReadFile(filepath.Join(tree.Mount().Dir, n.Path(), "mode"))
	if err == nil {
		g.Mode = new(strings.TrimSpace(string(b)))
	} else if !errors.Is(err, fs.ErrNotExist) {
		problems = append(problems, err)
	}
	schemata, err := tree.Schemata(n.Control)
	if err != nil {
		problems = append(problems, err)
	}
	for _, line := range schemata {
		for _, d := range line.Domains {
			v := resctrlValue{Resource: line.Resource, Domain: d.ID}
			if line.Kind == resctrl.Mask {
				v.Mask = new(hexMask(d.Value))
			} else {
				v.Bandwidth = &d.Value
			}
			g.Schemata = append(g.Schemata, v)
		}
	}
	return g, errors.Join(problems...)
}

// cgroupsOf counts the cgroups of threads; those that have ended are in none.
func cgroupsOf(procfs proc.FS, tids []int) ([]cgroupThreads, error) {
	counts := map[string]int{}
	var problem error
	for _, tid := range tids {
		list, err := procfs.Cgroups(tid)
		switch {
		case errors.Is(err, proc.ErrGone):
		case err != nil:
			problem = cmp.Or(problem, err) // of one as good as of all
		default:
			counts[mainCgroup(list)]++
		}
	}
	cgroups := make([]cgroupThreads, 0, len(counts))
	for path, n := range counts {
		cgroups = append(cgroups, cgroupThreads{path, n})
	}
	slices.SortFunc(cgroups, func(a, b cgroupThreads) int {
		return cmp.Or(cmp.Compare(b.Threads, a.Threads), strings.Compare(a.Path, b.Path))
	})
	return cgroups, problem
}

// mainCgroup is the path that tells most of a thread: the deepest one, and v2's
// among equals. On a hybrid host that of v2 may be the root for all.
func mainCgroup(list []proc.Cgroup) string {
	best, depth := "/", 0
	for _, c := range slices.Backward(list) { // v2 is the last line
		if d := strings.Count(strings.TrimRight(c.Path, "/"), "/"); d > depth {
			best, depth = c.Path, d
		}
	}
	return best
}

// usageReader reads groups once or twice.
type usageReader struct {
	tree  *resctrl.Tree
	first map[resctrl.Name]usageReading
}

type usageReading struct {
	at   time.Time
	list []resctrl.Usage
}

// readAll does the first reading. What fails here fails again.
func (u *usageReader) readAll(names []resctrl.Name) {
	for _, n := range names {
		if reading, err := u.readOnce(n); err == nil {
			u.first[n] = reading
		}
	}
}

// readOnce leaves no files open: there may be thousands of groups.
func (u *usageReader) readOnce(n resctrl.Name) (reading usageReading, err error) {
	g, err := u.tree.Open(n)
	if err != nil {
		return reading, err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	reading.list, err = g.Read(nil)
	reading.at = time.Now()
	return reading, err
}

// read returns the usage since the first reading, and in all.
func (u *usageReader) read(n resctrl.Name) ([]resctrlUsage, error) {
	now, err := u.readOnce(n)
	if err != nil {
		return nil, err
	}
	before := u.first[n]
	seconds := now.at.Sub(before.at).Seconds()
	list := []resctrlUsage{}
	for _, d := range now.list {
		usage := resctrlUsage{
			Resource: d.Resource, Domain: d.ID,
			Occupancy: counted(d.Occupancy), Total: counted(d.Total), Local: counted(d.Local),
		}
		if d.Node >= 0 {
			usage.Node = new(d.Node)
		}
		i := slices.IndexFunc(before.list, func(b resctrl.Usage) bool { return b.Domain == d.Domain })
		if i >= 0 {
			usage.TotalRate = rate(before.list[i].Total, d.Total, seconds)
			usage.LocalRate = rate(before.list[i].Local, d.Local, seconds)
		}
		list = append(list, usage)
	}
	return list, nil
}

func counted(c resctrl.Count) *uint64 {
	if !c.OK {
		return nil
	}
	return &c.N
}

// rate is nil where there is none: one of the counts is absent, or the group was
// made anew, or lost a monitoring group, so that the count fell.
func rate(before, now resctrl.Count, seconds float64) *float64 {
	if !before.OK || !now.OK || now.N < before.N || seconds <= 0 {
		return nil
	}
	return new(float64(now.N-before.N) / seconds)
}
