package resctrl

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Kind is what the values of a resource are.
type Kind uint8

// The kinds of resources.
const (
	Mask      Kind = iota // capacity bit mask of a cache, hexadecimal in schemata
	Bandwidth             // of memory, decimal
)

// Unit is what bandwidth is given in.
type Unit uint8

// The units of bandwidth.
const (
	Steps   Unit = iota // of the hardware's own kind, as AMD's 1/8 GB/s
	Percent             // of what a core can do
	MBps                // of a monitoring group: mounted with mba_MBps
)

// Resource is one that can be allocated: a directory of info/ and a line of
// schemata.
type Resource struct {
	Name    string // "L3", "L2", "MB", "SMBA"; with CDP "L3CODE" and "L3DATA"
	Kind    Kind
	CLOSIDs int   // num_closids
	Domains []int // ids as they are in schemata, sorted

	// Of a Mask.
	Bits      uint64 // cbm_mask: all that there are
	MinBits   int    // min_cbm_bits; may be 0
	Shareable uint64 // shareable_bits: those that other agents (I/O, GPU) use, too
	Sparse    bool   // sparse_masks: gaps are allowed

	// Of a Bandwidth.
	Unit         Unit
	Min          uint64 // min_bandwidth; of MBps 0, whatever the file says
	Granularity  uint64 // bandwidth_gran: others are rounded up to a multiple; of MBps 1
	Max          uint64 // no limit: 100 of Percent, 4294967295 of MBps; 0 = not known, of Steps
	Linear       bool   // delay_linear
	ThrottleMode string // thread_throttle_mode: "max", "per-thread"; "" where there is none
}

// Monitoring is what one monitoring resource tells: a directory *_MON of info/.
type Monitoring struct {
	Name   string   // "L3_MON"
	RMIDs  int      // num_rmids, those of control groups included; 0 where it is not told
	Events []string // mon_features, less those that only say that an event can be configured
	// MaxThreshold is max_threshold_occupancy, bytes: below it a freed RMID can be
	// used again.
	MaxThreshold uint64
	// AssignMode is how MBM counters get to groups where there are fewer than RMIDs
	// (mbm_assign_mode, since 6.18): "default", "mbm_event"; "" where there is none.
	AssignMode string
	// Counters is num_mbm_cntrs by domain, in "default" mode, too; nil where there is none.
	Counters map[int]int
}

// Info is what a mount of resctrl can do.
type Info struct {
	Resources  []Resource // sorted by name
	Monitoring []Monitoring
	Options    []string // of the mount: "cdp", "cdpl2", "mba_MBps", "debug"
}

// ReadInfo reads info/ and the schemata of the default group below dir, where
// resctrl is mounted with these options. What it does not know of, as files of
// later kernels, it leaves out, and directories that are neither of masks nor of
// bandwidth nor of monitoring. A file that is not there says nothing; without
// num_closids there is no such resource, though, and that is an error. The error is
// an [Error] if a file could not be read; otherwise it names the file and the text in
// it that is not what the kernel writes.
func ReadInfo(dir string, options []string) (*Info, error) {
	in := &Info{Options: options}
	entries, err := os.ReadDir(filepath.Join(dir, "info"))
	if err != nil {
		return nil, infoError("open", "info", err)
	}
	for _, e := range entries { // sorted by name
		if !e.IsDir() {
			continue
		}
		files := infoFiles{dir: dir, name: e.Name()}
		if strings.HasSuffix(e.Name(), "_MON") {
			m, err := files.monitoring()
			if err != nil {
				return nil, err
			}
			in.Monitoring = append(in.Monitoring, m)
			continue
		}
		r, ok, err := files.resource()
		if err != nil {
			return nil, err
		}
		if ok {
			in.Resources = append(in.Resources, r)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "schemata"))
	switch {
	case errors.Is(err, fs.ErrNotExist): // nothing can be allocated
	case err != nil:
		return nil, infoError("read", "schemata", err)
	}
	if err := in.setDomains(string(text)); err != nil {
		return nil, fmt.Errorf("resctrl: schemata: %w", err)
	}
	return in, nil
}

// setDomains takes the domains from the default group's schemata, and with them
// the unit of bandwidth, which no file names.
func (in *Info) setDomains(text string) error {
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) == "" {
			continue
		}
		name, values, ok := strings.Cut(line, ":")
		if !ok {
			return fmt.Errorf("line %.80q: missing ':'", line)
		}
		r := in.Resource(strings.TrimSpace(name))
		if r == nil {
			continue
		}
		var highest uint64
		for item := range strings.SplitSeq(strings.TrimSpace(values), ";") {
			if item == "" {
				continue
			}
			v, err := parseDomainValue(item, r.Kind)
			if err != nil {
				return fmt.Errorf("line %.80q: %w", line, err)
			}
			r.Domains = append(r.Domains, v.ID)
			highest = max(highest, v.Value)
		}
		slices.Sort(r.Domains)
		if len(slices.Compact(r.Domains)) != len(r.Domains) {
			return fmt.Errorf("line %.80q: a domain twice", line)
		}
		if r.Kind == Bandwidth {
			r.setUnit(highest, slices.Contains(in.Options, "mba_MBps"))
		}
	}
	return nil
}

// setUnit decides by what the files say. Percent is what Intel and MPAM have: the
// delay is linear, and nobody has more than 100 (rounded up: 105 in steps of 7).
// Anything else is a number of steps. The highest of those no file tells: the default
// group has it, but only until somebody lowers it.
func (r *Resource) setUnit(highest uint64, mbps bool) {
	switch {
	case mbps && r.Name == "MB":
		r.Unit, r.Min, r.Granularity, r.Max = MBps, 0, 1, noLimitMBps
	case r.Linear && r.Min <= 100 && highest <= r.roundUp(100):
		r.Unit, r.Max = Percent, 100
	}
}

// noLimitMBps is MBA_MAX_MBPS.
const noLimitMBps = math.MaxUint32

// withDomains returns the Info with the domains of these schemata, which are the
// default group's: itself if they are the same.
func (in *Info) withDomains(s Schemata) *Info {
	other := in
	for _, l := range s {
		i := slices.IndexFunc(in.Resources, func(r Resource) bool { return r.Name == l.Resource })
		same := func(id int, v DomainValue) bool { return id == v.ID }
		if i < 0 || slices.EqualFunc(in.Resources[i].Domains, l.Domains, same) {
			continue
		}
		if other == in {
			changed := *in
			changed.Resources = slices.Clone(in.Resources)
			other = &changed
		}
		ids := make([]int, len(l.Domains))
		for j, v := range l.Domains {
			ids[j] = v.ID
		}
		other.Resources[i].Domains = ids
	}
	return other
}

// infoFiles are those of one directory below info/.
type infoFiles struct{ dir, name string }

func (f infoFiles) resource() (r Resource, ok bool, err error) {
	r.Name = f.name
	mask, err := f.exist("cbm_mask")
	if err != nil {
		return r, false, err
	}
	bandwidth, err := f.exist("bandwidth_gran", "min_bandwidth")
	if err != nil || !mask && !bandwidth {
		return r, false, err
	}
	closids, err := f.uint("num_closids", 10)
	if err != nil {
		return r, false, err
	}
	if closids == 0 {
		return r, false, fmt.Errorf("resctrl: %s: missing, or 0", f.path("num_closids"))
	}
	r.CLOSIDs = int(closids)
	if mask {
		err = f.mask(&r)
	} else {
		err = f.bandwidth(&r)
	}
	return r, err == nil, err
}

func (f infoFiles) mask(r *Resource) (err error) {
	r.Kind = Mask
	if r.Bits, err = f.uint("cbm_mask", 16); err != nil {
		return err
	}
	if r.Bits == 0 {
		return f.malformed("cbm_mask", "0", "a mask of some bits")
	}
	least, err := f.uint("min_cbm_bits", 10)
	if err != nil {
		return err
	}
	r.MinBits = int(least)
	if r.Shareable, err = f.uint("shareable_bits", 16); err != nil {
		return err
	}
	sparse, err := f.uint("sparse_masks", 10)
	r.Sparse = sparse != 0
	return err
}

func (f infoFiles) bandwidth(r *Resource) (err error) {
	r.Kind = Bandwidth
	if r.Min, err = f.uint("min_bandwidth", 10); err != nil {
		return err
	}
	if r.Granularity, err = f.uint("bandwidth_gran", 10); err != nil {
		return err
	}
	r.Granularity = max(1, r.Granularity)
	linear, err := f.uint("delay_linear", 10)
	if err != nil {
		return err
	}
	r.Linear = linear != 0
	r.ThrottleMode, _, err = f.read("thread_throttle_mode")
	return err
}

func (f infoFiles) monitoring() (Monitoring, error) {
	m := Monitoring{Name: f.name}
	rmids, err := f.uint("num_rmids", 10)
	if err != nil {
		return m, err
	}
	m.RMIDs = int(rmids)
	features, _, err := f.read("mon_features")
	if err != nil {
		return m, err
	}
	for _, event := range strings.Fields(features) {
		if !strings.HasSuffix(event, "_config") {
			m.Events = append(m.Events, event)
		}
	}
	if m.MaxThreshold, err = f.uint("max_threshold_occupancy", 10); err != nil {
		return m, err
	}
	modes, ok, err := f.read("mbm_assign_mode")
	if err != nil {
		return m, err
	}
	if ok {
		if m.AssignMode, ok = parseAssignMode(modes); !ok {
			return m, f.malformed("mbm_assign_mode", modes, "a list of modes, one of them in brackets")
		}
	}
	counters, ok, err := f.read("num_mbm_cntrs")
	if err != nil || !ok {
		return m, err
	}
	if m.Counters, ok = parseCounters(counters); !ok {
		return m, f.malformed("num_mbm_cntrs", counters, "a list as 0=32;1=32")
	}
	return m, nil
}

// parseAssignMode returns the mode that is in effect, the one in brackets:
//
//	[mbm_event]
//	default
func parseAssignMode(text string) (mode string, ok bool) {
	for _, word := range strings.Fields(text) {
		name, opened := strings.CutPrefix(word, "[")
		name, closed := strings.CutSuffix(name, "]")
		switch {
		case name == "" || strings.ContainsAny(name, "[]") || opened != closed || opened && ok:
			return "", false
		case opened:
			mode, ok = name, true
		}
	}
	return mode, ok
}

// parseCounters parses the counters by domain: "0=32;1=32".
func parseCounters(text string) (map[int]int, bool) {
	counters := make(map[int]int)
	for item := range strings.SplitSeq(text, ";") {
		v, err := parseDomainValue(item, Bandwidth)
		if _, twice := counters[v.ID]; err != nil || twice || v.Value > math.MaxInt32 {
			return nil, false
		}
		counters[v.ID] = int(v.Value)
	}
	return counters, true
}

// exist says whether one of the files is there.
func (f infoFiles) exist(files ...string) (bool, error) {
	for _, file := range files {
		_, err := os.Lstat(filepath.Join(f.dir, f.path(file)))
		switch {
		case err == nil:
			return true, nil
		case !errors.Is(err, fs.ErrNotExist):
			return false, infoError("stat", f.path(file), err)
		}
	}
	return false, nil
}

// read reads one file, less blanks at its ends; ok is false if it is not there.
func (f infoFiles) read(file string) (text string, ok bool, err error) {
	b, err := os.ReadFile(filepath.Join(f.dir, f.path(file)))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", false, nil
	case err != nil:
		return "", false, infoError("read", f.path(file), err)
	}
	return strings.TrimSpace(string(b)), true, nil
}

// uint reads a number; 0 if there is no such file.
func (f infoFiles) uint(file string, base int) (uint64, error) {
	text, ok, err := f.read(file)
	if err != nil || !ok {
		return 0, err
	}
	if base == 16 {
		if n, err := strconv.ParseUint(text, 16, 64); err == nil {
			return n, nil
		}
		return 0, f.malformed(file, text, "a hexadecimal number of at most 64 bits")
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, f.malformed(file, text, "a decimal number of at most 32 bits")
	}
	return n, nil
}

func (f infoFiles) path(file string) string { return "info/" + f.name + "/" + file }

func (f infoFiles) malformed(file, text, want string) error {
	return fmt.Errorf("resctrl: %s: %.80q is not %s", f.path(file), text, want)
}

// infoError strips what os adds to the errno.
func infoError(op, path string, err error) error {
	if e := (*fs.PathError)(nil); errors.As(err, &e) {
		err = e.Err
	}
	return &Error{Op: op, Path: path, Err: err}
}

// Resource returns the one of this name, nil if there is none.
func (in *Info) Resource(name string) *Resource {
	for i := range in.Resources {
		if in.Resources[i].Name == name {
			return &in.Resources[i]
		}
	}
	return nil
}

// CLOSIDs is how many control groups there can be, the default group included:
// the minimum over the resources; 0 if nothing can be allocated.
func (in *Info) CLOSIDs() int {
	n := 0
	for i := range in.Resources {
		if c := in.Resources[i].CLOSIDs; n == 0 || c < n {
			n = c
		}
	}
	return n
}

// RMIDs is how many groups can be monitored, control groups included: the minimum
// over what is monitored; 0 if nothing is.
func (in *Info) RMIDs() int {
	n := 0
	for i := range in.Monitoring {
		if c := in.Monitoring[i].RMIDs; c > 0 && (n == 0 || c < n) {
			n = c
		}
	}
	return n
}

// Has says whether an event ("llc_occupancy", "mbm_total_bytes",
// "mbm_local_bytes") can be monitored.
func (in *Info) Has(event string) bool {
	for i := range in.Monitoring {
		if slices.Contains(in.Monitoring[i].Events, event) {
			return true
		}
	}
	return false
}
