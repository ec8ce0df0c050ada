package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/owca-project/owca/internal/act"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/config"
	"github.com/owca-project/owca/internal/resctrl"
)

type leasesCommand struct {
	StateDir string `placeholder:"DIR" help:"state_dir of the agent (default: $STATE_DIRECTORY, or /var/lib/owca)."`
	Config   string `short:"c" placeholder:"FILE" help:"Configuration file of the agent, for its state_dir."`
	JSON     bool   `help:"Print a JSON object: state_dir, holder, leases."`
	HostRoot string `default:"/" placeholder:"DIR" help:"Where the root of the host is mounted, as in a container (default: /)."`
}

// Help is what --help says beyond the flags.
func (*leasesCommand) Help() string {
	return `A lease is a limit that owca changed and will give back. Its state:
  held     the host has the value that owca set
  changed  somebody else changed it since, and that stays; an agent that has seen it holds it no more, and sets it again
           when its allocator decides another value
  gone     the cgroup or the group of resctrl does not exist any more, or the task has no threads
  unknown  it could not be read`
}

// The states of a lease on the host.
const (
	leaseHeld    = "held"
	leaseChanged = "changed"
	leaseGone    = "gone"
	leaseUnknown = "unknown"
)

func (c *leasesCommand) Run(io stdio) error {
	dir, err := stateDirFor(c.StateDir, c.Config)
	if err != nil {
		return err
	}
	leases, holder, told, err := act.ReadJournal(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist): // then nobody ever changed anything
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: only the agent's user and root can read the journal", err)
	case err != nil:
		return err
	}
	for _, t := range told {
		fmt.Fprintf(io.err, "owca: %s\n", t)
	}
	host := leaseReader{root: c.HostRoot}
	defer host.close()
	states := make([]leaseState, len(leases))
	for i := range leases {
		states[i] = host.state(&leases[i])
	}
	now := time.Now()
	text := appendLeases(nil, dir, holder, leases, states, now)
	if c.JSON {
		if text, err = indentJSON(newLeasesJSON(dir, holder, leases, states, now)); err != nil {
			return err
		}
	}
	if _, err := io.out.Write(text); err != nil {
		return fmt.Errorf("writing the leases: %w", err)
	}
	return nil
}

// stateDirFor is where the journal is that a command is about: as named, or as a
// configuration says. One that is named is there, or somebody mistyped it.
func stateDirFor(named, file string) (string, error) {
	switch {
	case named != "" && file != "":
		return "", &exitError{exitUsage, errors.New("--state-dir and --config both tell the state_dir: expected one of them")}
	case named != "":
		if _, err := os.Stat(named); errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("there is no state_dir %s: no agent that changes anything was started with it", named)
		}
	case file != "":
		data, err := config.ReadFile(file)
		if err != nil {
			return "", err
		}
		c, err := decode(data, file, nil, nil, nil, func(config.Problem) {})
		if err != nil {
			return "", err
		}
		r, ok := c.Runner.(*allocationRunner)
		if !ok {
			return "", fmt.Errorf("%s: its runner has no allocator, and so no state_dir: expected !AllocationRunner", file)
		}
		named = r.StateDir
	}
	return stateDir(named), nil
}

// leaseState is what the host says of a lease.
type leaseState struct {
	state  string
	value  string // now; "" if gone, or not known
	detail string // why it is not known
}

// leaseReader compares leases with the host.
type leaseReader struct {
	root      string
	tree      *cgroup.Tree
	treeErr   error
	groups    *resctrl.Tree
	groupsErr error
}

func (r *leaseReader) close() {
	if r.groups != nil {
		_ = r.groups.Close() // it was only read
	}
}

func (r *leaseReader) cgroups() (*cgroup.Tree, error) {
	if r.tree == nil && r.treeErr == nil {
		r.tree, r.treeErr = cgroup.FS{Root: r.root}.Tree()
	}
	return r.tree, r.treeErr
}

func (r *leaseReader) resctrl() (*resctrl.Tree, error) {
	if r.groups == nil && r.groupsErr == nil {
		var mount resctrl.Mount
		if mount, r.groupsErr = (resctrl.FS{Root: r.root}).Mounted(); r.groupsErr == nil {
			r.groups, r.groupsErr = mount.Open()
		}
	}
	return r.groups, r.groupsErr
}

func (r *leaseReader) state(l *act.Lease) leaseState {
	s := r.compare(l)
	if l.Yielded && s.state == leaseHeld {
		s.state = leaseChanged // somebody else has set the same since
	}
	return s
}

func (r *leaseReader) compare(l *act.Lease) leaseState {
	switch {
	case l.Cgroup == "" && l.Task != "":
		return r.move(l)
	case l.Cgroup == "":
		return r.group(l)
	}
	tree, err := r.cgroups()
	if err != nil {
		return leaseState{state: leaseUnknown, detail: err.Error()}
	}
	control, err := tree.Control(l.Cgroup)
	if err != nil {
		return unread(err)
	}
	defer control.Close()
	value, err := control.Get(l.Knob)
	switch {
	case errors.Is(err, errors.ErrUnsupported): // the controller, or its directory, was taken away
		return leaseState{state: leaseGone}
	case err != nil:
		return unread(err)
	case control.ID(l.Knob) != l.ID:
		return leaseState{state: leaseGone}
	case l.Knob.Equal(value, l.New):
		return leaseState{state: leaseHeld, value: value}
	}
	return leaseState{state: leaseChanged, value: value}
}

// group looks at the schemata of a control group: those that are leased.
func (r *leaseReader) group(l *act.Lease) leaseState {
	groups, err := r.resctrl()
	if err != nil {
		return unread(err)
	}
	now, err := groups.Schemata(l.Group)
	if err != nil {
		return unread(err)
	}
	if l.Resctrl == nil {
		return leaseState{state: leaseHeld}
	}
	is, same := leased(l.Resctrl.New, now)
	if !same {
		return leaseState{state: leaseChanged, value: is.String()}
	}
	return leaseState{state: leaseHeld, value: is.String()}
}

// leased returns what a group has now of what was set, and whether it is the same. Domains
// that are offline are nobody's.
func leased(set, now resctrl.Schemata) (is resctrl.Schemata, same bool) {
	same = true
	for _, line := range set {
		var domains []resctrl.DomainValue
		for _, d := range line.Domains {
			if v, ok := now.Get(line.Resource, d.ID); ok {
				domains = append(domains, resctrl.DomainValue{ID: d.ID, Value: v})
				same = same && v == d.Value
			}
		}
		if domains != nil {
			is = append(is, resctrl.Line{Resource: line.Resource, Kind: line.Kind, Domains: domains})
		}
	}
	return is, same
}

// move looks where the threads of a task are. The agent moves new ones in its next tick, so
// that one that is in its group tells enough.
func (r *leaseReader) move(l *act.Lease) leaseState {
	if l.Resctrl == nil {
		return leaseState{state: leaseUnknown, detail: "the journal does not tell the group"}
	}
	group := resctrl.Name{Control: l.Resctrl.Group}
	groups, err := r.resctrl()
	if err != nil {
		return unread(err)
	}
	tree, err := r.cgroups()
	if err != nil {
		return leaseState{state: leaseUnknown, detail: err.Error()}
	}
	var threads []int
	for _, path := range l.Cgroups {
		g, err := tree.Open(path)
		if errors.Is(err, cgroup.ErrGone) {
			continue
		}
		if err != nil {
			return unread(err)
		}
		below, err := g.ThreadsBelow(nil)
		_ = g.Close()
		if err != nil && !errors.Is(err, cgroup.ErrGone) {
			return unread(err)
		}
		threads = append(threads, below...)
	}
	if len(threads) == 0 {
		return leaseState{state: leaseGone}
	}
	inside, err := groups.Threads(group, nil)
	if err != nil && !errors.Is(err, resctrl.ErrGone) {
		return unread(err)
	}
	for _, tid := range threads {
		if slices.Contains(inside, tid) {
			return leaseState{state: leaseHeld, value: group.String()}
		}
	}
	if err != nil {
		return leaseState{state: leaseGone}
	}
	is, err := groups.Locate(threads[0])
	if err != nil {
		return leaseState{state: leaseChanged, detail: err.Error()} // they are not in it, at least
	}
	return leaseState{state: leaseChanged, value: resctrl.Name{Control: is.Control}.String()}
}

func unread(err error) leaseState {
	if errors.Is(err, cgroup.ErrGone) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, resctrl.ErrNotMounted) || errors.Is(err, resctrl.ErrGone) {
		return leaseState{state: leaseGone}
	}
	return leaseState{state: leaseUnknown, detail: err.Error()}
}

func appendLeases(b []byte, dir string, holder act.Holder, leases []act.Lease, states []leaseState, now time.Time) []byte {
	if len(leases) > 0 {
		b = append(appendLeaseTable(b, leases, states, now), '\n')
	}
	count := 0
	for i := range leases {
		if !leases[i].Yielded {
			count++
		}
	}
	switch {
	case count == 0 && holder.PID == 0:
		return fmt.Appendf(b, "owca holds no limit, and no agent runs with the state_dir %s\n", appendClean(nil, dir))
	case count == 0:
		return fmt.Appendf(b, "owca (pid %d) holds no limit (%s)\n", holder.PID, appendClean(nil, dir))
	}
	b = fmt.Appendf(b, "%s in %s, ", countOf(count, "lease"), appendClean(nil, dir))
	if holder.PID == 0 {
		return append(b, "held by nobody: the agent that made them has ended; owca restore gives them back\n"...)
	}
	return fmt.Appendf(b, "held by process %d since %s\n", holder.PID, holder.Since.Format(time.DateTime))
}

func appendLeaseTable(b []byte, leases []act.Lease, states []leaseState, now time.Time) []byte {
	lines := [][]string{{"TASK", "KIND", "WHERE", "OLD", "NEW", "AGE", "STATE", "OWNER", "REASON"}}
	for i := range leases {
		l := &leases[i]
		before, wanted := l.First, l.New
		if l.Cgroup != "" {
			before, wanted = limitText(l.Knob, before), limitText(l.Knob, wanted)
		} else if before == "" && wanted == "" && l.Resctrl != nil {
			wanted = l.Resctrl.String()
		}
		state := states[i].state
		if value := states[i].value; state == leaseChanged && l.Cgroup != "" {
			state += " to " + limitText(l.Knob, value)
		} else if state == leaseChanged && value != "" {
			state += " to " + value
		}
		lines = append(lines, []string{
			string(l.For), string(l.Kind), whereText(&l.Change), before, wanted, ageText(now.Sub(l.Since)), state, l.Owner, l.Reason,
		})
	}
	return appendAligned(b, lines)
}

// leasesJSON are leases as JSON. Its keys, and the states, don't change.
type leasesJSON struct {
	StateDir string      `json:"state_dir"`
	Holder   *holderJSON `json:"holder"` // null: nobody
	Leases   []leaseJSON `json:"leases"`
}

type holderJSON struct {
	PID   int       `json:"pid"`
	Since time.Time `json:"since"`
}

type leaseJSON struct {
	limitJSON           // old is what will be restored
	Since     time.Time `json:"since"`
	Age       float64   `json:"age_seconds"`
	State     string    `json:"state"`
	Value     *string   `json:"value"` // now; null: gone, or not known
	Detail    string    `json:"detail,omitempty"`
}

func newLeasesJSON(dir string, holder act.Holder, leases []act.Lease, states []leaseState, now time.Time) leasesJSON {
	j := leasesJSON{StateDir: dir, Leases: []leaseJSON{}}
	if holder.PID != 0 {
		j.Holder = &holderJSON{holder.PID, holder.Since}
	}
	for i := range leases {
		l := &leases[i]
		entry := leaseJSON{
			limitJSON: newLimitJSON(&l.Change), Since: l.Since, Age: now.Sub(l.Since).Seconds(),
			State: states[i].state, Detail: states[i].detail,
		}
		entry.Old = l.First
		if s := states[i]; (l.Cgroup != "" || s.value != "") && (s.state == leaseHeld || s.state == leaseChanged) {
			entry.Value = &s.value
		}
		j.Leases = append(j.Leases, entry)
	}
	return j
}

type restoreCommand struct {
	StateDir string `placeholder:"DIR" help:"state_dir of the agent (default: $STATE_DIRECTORY, or /var/lib/owca)."`
	Config   string `short:"c" placeholder:"FILE" help:"Configuration file of the agent, for its state_dir."`
	JSON     bool   `help:"Print a JSON array of what became of each lease."`
	HostRoot string `default:"/" placeholder:"DIR" help:"Where the root of the host is mounted, as in a container (default: /)."`
}

// Help is what --help says beyond the flags.
func (*restoreCommand) Help() string {
	return `Undoes what an agent that was killed has left, from its journal. What somebody else changed since stays as it is. While an
agent runs, its leases are its own: nothing is done then.

Exit code 0 if nothing is left to restore; 1 otherwise, or if a lease is lost because the journal was damaged.`
}

func (c *restoreCommand) Run(ctx context.Context, io stdio) error {
	dir, err := stateDirFor(c.StateDir, c.Config)
	if err != nil {
		return err
	}
	outcomes, told, err := act.Restore(ctx, c.HostRoot, dir)
	for _, t := range told {
		fmt.Fprintf(io.err, "owca: %s\n", t)
	}
	if err != nil && !errors.Is(err, act.ErrLost) {
		return fmt.Errorf("%w%s", err, restoreHint(err))
	}
	text := appendOutcomes(nil, outcomes)
	if len(outcomes) == 0 && err == nil {
		text = fmt.Appendf(nil, "nothing to restore (%s)\n", appendClean(nil, dir))
	}
	if c.JSON {
		var jsonErr error
		if text, jsonErr = indentJSON(newOutcomesJSON(outcomes)); jsonErr != nil {
			return jsonErr
		}
	}
	if _, err := io.out.Write(text); err != nil {
		return fmt.Errorf("writing what was restored: %w", err)
	}
	left := 0
	for i := range outcomes {
		if outcomes[i].Err != nil {
			left++
		}
	}
	if left > 0 {
		still := fmt.Errorf("%d of %d could not be restored and are still in the journal; owca restore tries them again", left, len(outcomes))
		if err == nil {
			return still
		}
		return fmt.Errorf("%w; %w", err, still)
	}
	return err
}

// restoreHint says what to do so that a journal can be restored, unless the error does.
func restoreHint(err error) string {
	var kernel *fs.PathError
	if owner, ok := errors.AsType[*act.OwnerError](err); ok {
		return fmt.Sprintf(": restore as that user: setpriv --reuid=%d --regid=%d --clear-groups --inh-caps=+dac_override,+setuid --ambient-caps=+dac_override,+setuid owca restore --state-dir %s (as root), or start the agent",
			owner.UID, owner.GID, owner.Dir)
	}
	switch {
	case errors.Is(err, act.ErrHeld):
		return ", which restores"
	case errors.As(err, &kernel) && errors.Is(kernel, fs.ErrPermission):
		return ": restoring needs root, or the agent's user with CAP_DAC_OVERRIDE"
	}
	return ""
}

// appendOutcomes appends a line for each lease.
func appendOutcomes(b []byte, outcomes []act.Outcome) []byte {
	for i := range outcomes {
		o := &outcomes[i]
		l := &o.Lease
		b = appendClean(b, string(l.For)+": "+string(l.Kind)+": "+whereText(&l.Change)+": ")
		switch {
		case o.Err != nil:
			b = appendClean(append(b, "not restored: "...), o.Err.Error())
		case o.How == act.EndForeign:
			b = append(b, "left alone: somebody else has changed it"...)
		case o.How == act.EndGone:
			b = append(b, "gone"...)
		case l.Cgroup == "":
			b = append(b, o.How...)
		default:
			b = appendClean(append(append(b, o.How...), ' '), limitText(l.Knob, l.First)+" (owca set "+limitText(l.Knob, l.New)+")")
		}
		b = append(b, '\n')
	}
	return b
}

// outcomeJSON is an outcome as JSON. Its keys don't change.
type outcomeJSON struct {
	limitJSON
	Outcome string `json:"outcome"` // "restored", "foreign", "gone"; "failed"
	Error   string `json:"error,omitempty"`
}

func newOutcomesJSON(outcomes []act.Outcome) []outcomeJSON {
	list := []outcomeJSON{}
	for i := range outcomes {
		o := &outcomes[i]
		j := outcomeJSON{limitJSON: newLimitJSON(&o.Change), Outcome: string(o.How)}
		j.Old = o.First
		if o.Err != nil {
			j.Outcome, j.Error = "failed", o.Err.Error()
		}
		list = append(list, j)
	}
	return list
}

// guardianWord is the first argument of the guardian process. It is no command for
// people.
const guardianWord = "guardian"

// guardianCommand is how the guardian is started, whose working directory is another one.
func guardianCommand(root, dir string) ([]string, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if root, err = filepath.Abs(root); err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	return []string{exe, guardianWord, root, dir}, nil
}

// guard is the guardian process, with the agent's end of its pipe as standard input.
func guard(args []string, io stdio) int {
	if len(args) != 2 {
		fmt.Fprintln(io.err, "owca: guardian ROOT STATE_DIR: owca run starts this process, to restore what the agent changed if it is killed")
		return exitUsage
	}
	outcomes, err := act.Guard(context.Background(), os.Stdin, args[0], args[1])
	code := exitOK
	for i := range outcomes {
		if outcomes[i].Err != nil {
			code = exitFailed
		}
	}
	switch {
	case errors.Is(err, act.ErrHeld): // by the next agent, which restores
		return exitOK
	case errors.Is(err, act.ErrLost):
		fmt.Fprintf(io.err, "owca guardian: the agent is gone, and not all could be restored: %v\n", err)
		code = exitFailed
	case err != nil:
		fmt.Fprintf(io.err, "owca guardian: the agent is gone, but nothing was restored: %v\n", err)
		return exitFailed
	}
	if len(outcomes) > 0 {
		text := appendOutcomes(nil, outcomes)
		fmt.Fprintf(io.err, "owca guardian: the agent is gone; %s:\n%s", countOf(len(outcomes), "limit"), text)
	}
	return code
}
