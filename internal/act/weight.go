package act

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/proc"
)

const prioProcess = 0 // PRIO_PROCESS, sys/resource.h

// ownNice is the nice value of an agent that has no cgroup of its own: about the same weight as
// that of the cgroup otherwise (sched_prio_to_weight, kernel/sched/core.c).
const ownNice = -6

// raiseOwnWeight sees to it that the agent gets to run on a host whose CPUs are all wanted,
// which is when it is needed: by the weight of its cgroup, if nothing else is in that;
// otherwise, as far as the nice value goes, among the processes that it shares one with.
func (a *Actor) raiseOwnWeight() {
	if a.weighed {
		return
	}
	a.weighed = true
	path, err := a.ownCgroup()
	if err == nil {
		err = a.leaseOwnWeight(path)
	}
	switch {
	case err == nil:
		return
	case !errors.Is(err, errShared):
		a.log.Debug("the weight of the agent's cgroup is as it was", "error", err)
	}
	reniced, err := renice(filepath.Join(a.root, "proc/self/task"), 0, ownNice)
	if a.reniced = a.reniced || reniced; err != nil {
		a.log.Info("the agent runs with the weight of any other process: on a busy host its ticks may be late; "+
			"give it a cgroup of its own (as a systemd service has), or CAP_SYS_NICE", "error", err)
	}
}

// lowerOwnWeight undoes raiseOwnWeight, when nothing is to be decided any more.
func (a *Actor) lowerOwnWeight() {
	k := decisionKey{"", owca.CPUShares}
	if s := a.standing[k]; s != nil {
		_ = a.restoreWhere(EndReleased, func(l *Lease) bool { return l.Owner == ownOwner && l.Kind == k.kind }) // logged
		if a.watching(s) {
			return
		}
		a.forget(s)
		a.weighed = false
	}
	if a.reniced {
		a.reniced, a.weighed = false, false
		if _, err := renice(filepath.Join(a.root, "proc/self/task"), ownNice, 0); err != nil {
			a.log.Info("the nice value of the agent stays lowered", "error", err)
		}
	}
}

var errShared = errors.New("others are in the agent's cgroup")

// ownCgroup returns the cgroup of this process under the CPU controller, if it has it to
// itself.
func (a *Actor) ownCgroup() (string, error) {
	list, err := proc.FS{Root: a.root}.SelfCgroups()
	if err != nil {
		return "", err
	}
	path := cpuCgroup(list, a.tree.V1("cpu") != "")
	if path == "" || path == "/" {
		return "", errShared
	}
	g, err := a.tree.Open(path)
	if err != nil {
		return "", err
	}
	defer g.Close()
	dir := g.Dir("cpu")
	if dir == "" {
		return "", fs.ErrNotExist
	}
	pids, err := g.Pids(nil)
	if err != nil {
		return "", err
	}
	if !slices.Equal(pids, []int{os.Getpid()}) {
		return "", errShared
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	if slices.ContainsFunc(entries, os.DirEntry.IsDir) {
		return "", errShared
	}
	return path, nil
}

// cpuCgroup returns the path of that in the CPU controller's hierarchy of v1, or in v2; "" if
// there is none.
func cpuCgroup(list []proc.Cgroup, v1 bool) string {
	for _, c := range list {
		if v1 && slices.Contains(c.Controllers, "cpu") || !v1 && c.Controllers == nil {
			return c.Path
		}
	}
	return ""
}

// leaseOwnWeight gives the agent four times the usual weight, unless it has more. Not the most that
// there is, 256 times the usual: then the threads of others were seen to wait for each other on one
// CPU for up to 2 s, while another one did idle work (Linux 6.18; the balancer compares loads that
// are multiplied by the weight, kernel/sched/fair.c: cpu_load, task_h_load).
func (a *Actor) leaseOwnWeight(path string) error {
	n, err := a.openNode(path)
	if err != nil {
		return err
	}
	knob, raised := cgroup.CPUSharesV1, 4*1024
	value, err := n.Get(knob)
	if errors.Is(err, errors.ErrUnsupported) {
		knob, raised = cgroup.CPUWeightV2, 4*100
		value, err = n.Get(knob)
	}
	if err != nil {
		return err
	}
	if is, err := strconv.Atoi(value); err != nil || is >= raised {
		return err
	}
	c := Change{
		Target: Target{Cgroup: path, Knob: knob}, Kind: owca.CPUShares, Owner: ownOwner, ID: n.ID(knob),
		Reason: "so that the agent runs when CPUs are short", Old: value, New: strconv.Itoa(raised),
	}
	var report Report
	a.makeBatch(time.Now(), []Change{c}, &report)
	a.logChanges(report.Changes)
	for _, f := range report.Failed {
		return f.Err
	}
	s := a.standingOf(decisionKey{"", owca.CPUShares})
	s.owner, s.adopted = ownOwner, true
	if l := a.leases[c.Target]; l != nil {
		s.watches = []watch{{node: n, path: path, id: l.ID, knob: knob, value: l.New, lease: l}}
	}
	return nil
}

// renice gives all threads of this process another nice value, unless somebody gave it one;
// those to come inherit it. It ends with the process.
func renice(tasks string, from, to int) (done bool, err error) {
	nice, err := syscall.Getpriority(prioProcess, 0)
	if err != nil || 20-nice != from { // the system call returns 20 - nice
		return false, err
	}
	// Threads that were made meanwhile by ones that were not yet reached.
	for range 3 {
		entries, err := os.ReadDir(tasks)
		if err != nil {
			return done, err
		}
		for _, e := range entries {
			tid, err := strconv.Atoi(e.Name())
			if err != nil {
				continue
			}
			if err := syscall.Setpriority(prioProcess, tid, to); err != nil && !errors.Is(err, syscall.ESRCH) {
				return done, err
			}
			done = true
		}
	}
	return true, nil
}
