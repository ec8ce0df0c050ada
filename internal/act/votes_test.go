package act

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/hosttest"
)

// decide is one owner's part of a tick.
func decide(owner string, allocations map[owca.TaskID]owca.Allocations) Decided {
	return Decided{Owner: owner, Allocations: allocations}
}

func release(id owca.TaskID, kind owca.AllocationKind) map[owca.TaskID]owca.Allocations {
	return map[owca.TaskID]owca.Allocations{id: {kind: {Release: true}}}
}

// The last owner in the list holds a limit whatever the others decide, and whether or not it
// answers; what they decided comes up when it gives up.
func TestVotesRank(t *testing.T) {
	r := newRig(t)
	c := hosttest.NewCgroup(t, nil, "votes")
	id := r.task("one", c)
	r.readHost()
	tick := func(decided ...Decided) {
		t.Helper()
		if _, err := r.tryTick(decided...); err != nil {
			t.Fatal(err)
		}
	}
	want := func(n float64) {
		t.Helper()
		r.want(c, cgroup.CPUMax, r.quotaOf(n))
	}
	low, high := decide("low", quota(id, 0.25)), decide("high", quota(id, 0.5))
	tick(low, high)
	want(0.5)
	made := r.actor.Stats().Changes
	for _, decided := range [][]Decided{
		{low, high}, {low, {Owner: "high", Silent: true}}, {low}, {low, decide("high", nil)}, {high}, {low, high},
	} {
		tick(decided...)
	}
	if now := r.actor.Stats().Changes; now != made {
		t.Errorf("%d changes of what has not changed", now-made)
	}
	// What somebody else has set is not fought over, either.
	r.set(c, cgroup.CPUMax, "77000 100000")
	for range 3 {
		tick(low, Decided{Owner: "high", Silent: true})
		tick(low, high)
	}
	r.want(c, cgroup.CPUMax, "77000 100000")
	r.ended(EndForeign, 1)
	tick(low, decide("high", quota(id, 0.75)))
	want(0.75)

	tick(low, decide("high", release(id, owca.CPUQuota)))
	want(0.25)
	tick(low, high)
	want(0.5)
	// It is renewed beneath, and comes up with the end of the other allocator.
	tick(decide("low", quota(id, 0.1)), high)
	r.actor.KeepOwners([]string{"low"})
	tick(Decided{Owner: "low", Silent: true})
	want(0.1)
	// The list turns round.
	tick(decide("low", quota(id, 0.1)), high)
	want(0.5)
	r.actor.KeepOwners([]string{"high", "low"})
	tick(high, decide("low", quota(id, 0.1)))
	want(0.1)
	tick(decide("low", quota(id, 0.1)), high)
	want(0.5)
	tick(decide("low", release(id, owca.CPUQuota)), decide("high", release(id, owca.CPUQuota)))
	r.want(c, cgroup.CPUMax, "77000 100000")
	r.leases(0)
	r.close()
}

// Only what an owner decides of which some is invalid is dropped, even where another one's
// decision is in its way.
func TestVotesInvalid(t *testing.T) {
	r := newRig(t)
	c := hosttest.NewCgroup(t, nil, "votes")
	id := r.task("one", c)
	r.readHost()
	low, high := decide("low", quota(id, 0.25)), decide("high", quota(id, 0.5))
	bad := decide("bad", quota("nobody", 0.5))
	for i := range 5 {
		_, err := r.tryTick(low, bad, high)
		d, ok := errors.AsType[Drop](err)
		if !ok || d.Owner != "bad" || len(r.last.Dropped) != 1 {
			t.Errorf("%v; %+v", err, r.last.Dropped)
		}
		if n := len(r.last.Changes); i == 0 && n != 1 || i > 0 && n > 0 {
			t.Errorf("tick %d: %+v", i, r.last.Changes)
		}
		r.want(c, cgroup.CPUMax, r.quotaOf(0.5))
	}
	// It is invalid beneath another one's, too.
	hidden := decide("low", quota(id, -1))
	hidden.Allocations[id][owca.CPUShares] = owca.Allocation{Number: 2}
	if _, err := r.tryTick(hidden, bad, high); err == nil || len(r.last.Dropped) != 2 || len(r.last.Changes) > 0 {
		t.Errorf("%v; %+v", err, r.last)
	}
	r.close()
}

// What was valid once and is not any more takes nothing new along.
func TestVotesInvalidLater(t *testing.T) {
	r := newRig(t)
	var ids []owca.TaskID
	var cgroups []*hosttest.Cgroup
	for _, name := range []string{"x", "y", "z"} {
		c := hosttest.NewCgroup(t, nil, "votes-"+name)
		ids, cgroups = append(ids, r.task(name, c)), append(cgroups, c)
	}
	r.readHost()
	class := func(i int, name string) { r.tasks[i].Labels = map[string]string{"qos_class": name} }
	class(0, "Burstable")
	class(1, "Burstable")
	shares := owca.Allocations{owca.CPUShares: {Number: 2}}
	r.tick(map[owca.TaskID]owca.Allocations{ids[0]: shares, ids[1]: shares})
	class(1, "Guaranteed")
	for _, s := range r.actor.order {
		r.actor.setPending(s)
	}
	r.tick(quota(ids[2], 0.5))
	r.want(cgroups[2], cgroup.CPUMax, r.quotaOf(0.5))
	r.close()
}

// The journal does not grow with limits that only change.
func TestActorJournalStaysSmall(t *testing.T) {
	r := newRig(t)
	id := r.task("one", hosttest.NewCgroup(t, nil, "act"))
	for i := range 1000 {
		r.tick(quota(id, 0.2+0.6*float64(i&1)))
	}
	st, err := os.Stat(filepath.Join(r.dir, journalFile))
	if err != nil {
		t.Fatal(err)
	}
	if st.Size() > 200<<10 {
		t.Errorf("%d bytes for one lease", st.Size())
	}
	r.close()
}

// A cgroup that is not its task's any more keeps its limit for a while, and loses it then.
func TestActorLeftCgroup(t *testing.T) {
	r := newRig(t)
	a, b := hosttest.NewCgroup(t, nil, "act-a"), hosttest.NewCgroup(t, nil, "act-b")
	id := r.task("pod", a, b)
	r.readHost()
	r.tick(quota(id, 0.5))
	r.leases(2)
	r.tasks[0].Cgroups = []string{a.Path}
	r.tick(nil)
	r.leases(2)
	r.want(b, cgroup.CPUMax, r.quotaOf(0.25))
	r.now += 2 * unlistedPatience
	r.tick(nil)
	r.leases(1)
	r.want(b, cgroup.CPUMax, unlimitedCPU)
	r.want(a, cgroup.CPUMax, r.quotaOf(0.5))

	// Removed meanwhile, or released, it is no lease any more.
	r.tasks[0].Cgroups = []string{a.Path, b.Path}
	r.tick(nil)
	r.tasks[0].Cgroups = []string{a.Path}
	r.tick(nil)
	r.leases(2)
	b.Remove()
	r.tick(nil)
	r.leases(1)
	b = hosttest.NewCgroup(t, nil, "act-b")
	r.tasks[0].Cgroups = []string{a.Path, b.Path}
	r.tick(nil)
	r.tasks[0].Cgroups = []string{a.Path}
	r.tick(nil)
	r.leases(2)
	r.tick(release(id, owca.CPUQuota))
	r.leases(0)
	r.want(b, cgroup.CPUMax, unlimitedCPU)
	r.close()
}

// The same of a task that is not listed: the limit is watched, can be released, and does not
// stay for ever.
func TestActorUnlistedGivesBack(t *testing.T) {
	r := newRig(t)
	a, b := hosttest.NewCgroup(t, nil, "act-a"), hosttest.NewCgroup(t, nil, "act-b")
	ida, idb := r.task("a", a), r.task("b", b)
	r.task("other", hosttest.NewCgroup(t, nil, "act-o"))
	r.tick(quota(ida, 0.5))
	r.tick(quota(idb, 0.5))
	r.tasks = r.tasks[2:]
	r.tick(nil)
	r.tick(release(ida, owca.CPUQuota))
	r.want(a, cgroup.CPUMax, unlimitedCPU)
	r.leases(1)
	r.now += 2 * unlistedPatience
	r.tick(nil)
	r.want(b, cgroup.CPUMax, unlimitedCPU)
	r.leases(0)
	if len(r.actor.standing) > 0 {
		t.Errorf("left: %v", r.actor.standing)
	}
	r.close()
}

// What cannot be given back with its allocator is tried again.
func TestActorKeepOwnersFails(t *testing.T) {
	r := newRig(t)
	a := hosttest.NewCgroup(t, nil, "act")
	if a.Dir("cpu") == "" {
		hosttest.Need(t, "cgroup1") // a child with more is in the way
	}
	id := r.task("one", a)
	r.set(a, cgroup.CPUMax, "20000 100000")
	r.tick(quota(id, 0.5))
	b := hosttest.NewCgroup(t, a, "child")
	r.set(b, cgroup.CPUMax, "90000 100000")
	r.actor.KeepOwners(nil)
	r.leases(1)
	r.set(b, cgroup.CPUMax, unlimitedCPU)
	for range 5 {
		r.now += 5 * time.Minute
		r.tick(nil)
	}
	r.want(a, cgroup.CPUMax, "20000 100000")
	r.leases(0)
	r.close()
}

// A pod of which one cgroup is not there yields as others do.
func TestActorYieldsWithoutOneCgroup(t *testing.T) {
	r := newRig(t)
	a := hosttest.NewCgroup(t, nil, "act")
	id := r.task("one", a)
	r.tasks[0].Cgroups = append(r.tasks[0].Cgroups, a.Path+"-exited")
	r.tasks[0].Resources = map[string]float64{"requests_cpu": 1}
	r.tick(quota(id, 0.5))
	r.set(a, cgroup.CPUMax, "77000 100000")
	for range 5 {
		r.now += 10 * time.Minute
		r.tick(quota(id, 0.5))
	}
	r.want(a, cgroup.CPUMax, "77000 100000")
	r.close()
}

// A container is limited as soon as it is back, however long it was away.
func TestActorBackAfterLong(t *testing.T) {
	r := newRig(t)
	a := hosttest.NewCgroup(t, nil, "act-a")
	id := r.task("one", a)
	r.tick(quota(id, 0.5))
	limited := r.get(a, cgroup.CPUMax)
	for _, name := range []string{"act-a", "act-b"} { // by the same path, and by another one
		a.Remove()
		for range 300 {
			r.now += time.Second
			r.tick(quota(id, 0.5))
		}
		a = hosttest.NewCgroup(t, nil, name)
		r.tasks[0].Cgroups = []string{a.Path}
		r.now += absentRetry
		r.tick(quota(id, 0.5))
		r.want(a, cgroup.CPUMax, limited)
	}
	r.close()
}

// An agent that was killed between journal and write has left the value from before.
func TestActorAdoptsBroken(t *testing.T) {
	r := newRig(t, keep)
	a := hosttest.NewCgroup(t, nil, "act")
	id := r.task("one", a)
	r.tick(quota(id, 0.5))
	c := r.actor.Leases()[0].Change
	c.Old, c.New = c.New, "20000 100000"
	if err := r.actor.journal.Take(time.Now(), []Change{c}); err != nil {
		t.Fatal(err)
	}
	r.crash()
	r.start(keep)
	if _, err := r.tryTick(); err != nil {
		t.Fatal(err)
	}
	r.ended(EndForeign, 0)
	r.leases(1)
	r.actor.SetOptions(r.options())
	r.close()
	r.want(a, cgroup.CPUMax, unlimitedCPU)
}

// What somebody writes while the journal waits for the disk is not overwritten unseen.
func TestActorChangedBetween(t *testing.T) {
	r := newRig(t)
	a := hosttest.NewCgroup(t, nil, "act")
	id := r.task("one", a)
	r.readHost()
	r.actor.Observe(time.Now(), r.tasks)
	r.actor.merge([]Decided{decide("test", quota(id, 0.5))})
	planned, err := r.actor.plan()
	if err != nil {
		t.Fatal(err)
	}
	r.set(a, cgroup.CPUMax, "30000 100000")
	var report Report
	r.actor.make(time.Now(), planned.Changes, &report)
	if len(report.Changes) > 0 || len(report.Failed) != 1 {
		t.Errorf("%+v", report)
	}
	r.want(a, cgroup.CPUMax, "30000 100000")
	r.leases(0)
	r.tick(nil)
	r.want(a, cgroup.CPUMax, r.quotaOf(0.5))
	r.close()
	r.want(a, cgroup.CPUMax, "30000 100000")
}

// A dry run tells of limits that it counts as what there is.
func TestActorDryRunAfterACrash(t *testing.T) {
	r := newRig(t)
	a := hosttest.NewCgroup(t, nil, "act")
	r.tick(quota(r.task("one", a), 0.5))
	r.crash()
	r.actor = New("/")
	log := r.logged()
	if err := r.actor.Start(r.options(dryRun)); err != nil {
		t.Fatal(err)
	}
	told(t, log, "owca restore")
	if err := r.actor.Close(); err != nil {
		t.Error(err)
	}
	r.start()
	r.close()
	r.want(a, cgroup.CPUMax, unlimitedCPU)
}

// Many ends are told in few lines.
func TestActorLogOfMany(t *testing.T) {
	r := newRig(t)
	decided := map[owca.TaskID]owca.Allocations{}
	var cgroups []*hosttest.Cgroup
	for i := range 3 * maxLogged {
		c := hosttest.NewCgroup(t, nil, fmt.Sprint("act-", i))
		cgroups = append(cgroups, c)
		decided[r.task(c.Path, c)] = owca.Allocations{owca.CPUQuota: {Number: 0.5}}
	}
	r.tick(decided)
	log := r.logged()
	for _, c := range cgroups[:2*maxLogged] {
		r.set(c, cgroup.CPUMax, "77000 100000")
	}
	r.tick(nil)
	if n := strings.Count(log.String(), "\n"); n > maxLogged+1 {
		t.Errorf("%d lines of foreign changes", n)
	}
	log.Reset()
	r.close()
	if n := strings.Count(log.String(), "\n"); n > maxLogged+1 {
		t.Errorf("%d lines of the end", n)
	}
}

// What comes up for a task that has just left the list waits for its return.
func TestVotesUnlisted(t *testing.T) {
	r := newRig(t)
	c := hosttest.NewCgroup(t, nil, "votes")
	id := r.task("one", c)
	r.task("two", hosttest.NewCgroup(t, nil, "votes-two"))
	r.readHost()
	tasks := r.tasks
	tick := func(decided ...Decided) {
		t.Helper()
		if _, err := r.tryTick(decided...); err != nil {
			t.Fatal(err)
		}
	}
	tick(decide("low", quota(id, 0.25)), decide("high", quota(id, 0.5)))
	r.tasks = tasks[1:]
	tick(Decided{Owner: "low"}, decide("high", release(id, owca.CPUQuota)))
	r.want(c, cgroup.CPUMax, r.quotaOf(0.5))
	r.tasks = tasks
	tick(Decided{Owner: "low"}, Decided{Owner: "high"})
	r.want(c, cgroup.CPUMax, r.quotaOf(0.25))
	// Who decides anew for it while it is away decides for no task.
	r.tasks = tasks[1:]
	tick()
	if _, err := r.tryTick(decide("low", quota(id, 0.75))); err == nil || len(r.last.Dropped) != 1 {
		t.Errorf("%v; %+v", err, r.last)
	}
	r.close()
}

// An invalid control group is told when it is decided, though another owner's is in its way; and
// one that is invalid only when it comes up is told then, and is no vote any more.
func TestVotesHiddenGroups(t *testing.T) {
	r, g, _ := rdtRig(t)
	low := decide("low", map[owca.TaskID]owca.Allocations{"a": rdt("gold", "L3:0=zzz"), "b": {owca.CPUQuota: {Number: 0.5}}})
	high := decide("high", map[owca.TaskID]owca.Allocations{"a": rdt("gold", "L3:0=f")})
	dropped := func(owner, text string, decided ...Decided) {
		t.Helper()
		_, err := r.tryTick(decided...)
		if len(r.last.Dropped) != 1 || r.last.Dropped[0].Owner != owner || !strings.Contains(err.Error(), text) {
			t.Errorf("%v; %+v", err, r.last.Dropped)
		}
	}
	dropped("low", "zzz", low, high)
	r.leases(2)

	// Without resctrl nobody can tell.
	r.actor.SetGroups(awayGroups{g})
	if _, err := r.tryTick(low, high); err != nil {
		t.Error(err)
	}
	r.leases(3)
	r.actor.SetGroups(g)
	dropped("low", "zzz", Decided{Owner: "low"}, decide("high", release("a", owca.RDTGroup)))
	for range 3 {
		if _, err := r.tryTick(Decided{Owner: "low"}, Decided{Owner: "high"}); err != nil {
			t.Error(err)
		}
	}
	if g.tasks["a"] != "" {
		t.Errorf("tasks are in %v", g.tasks)
	}
	r.leases(1)
	r.close()
}

// That a successor decides nearly the same, and nothing changes, is told once.
func TestVotesNear(t *testing.T) {
	r := newRig(t)
	c := hosttest.NewCgroup(t, nil, "votes")
	id := r.task("one", c)
	r.readHost()
	r.tick(quota(id, 0.2))
	log := r.logged()
	r.tick(quota(id, 0.21))
	if log.Len() > 0 {
		t.Errorf("logged: %s", log)
	}
	r.actor.Succeed("test")
	for range 3 {
		r.tick(quota(id, 0.24))
	}
	told(t, log, "decided=0.24")
	r.want(c, cgroup.CPUMax, r.quotaOf(0.2))
	r.close()
}

// What is invalid beneath another owner's decision is dropped at once, even if that is dropped in
// the same tick for something else; so that it never comes up.
func TestVotesHiddenInvalid(t *testing.T) {
	for _, number := range []float64{-3, math.NaN()} {
		for name, above := range map[string]map[owca.TaskID]owca.Allocations{
			"stays":   {"one": {owca.CPUQuota: {Number: 0.5}}},
			"renewed": {"one": {owca.CPUQuota: {Number: 0.8}}},
			"dropped": {"one": {owca.CPUQuota: {Release: true}}, "nobody": {owca.CPUQuota: {Number: 0.5}}},
		} {
			t.Run(fmt.Sprint(name, number), func(t *testing.T) {
				r := newRig(t)
				c := hosttest.NewCgroup(t, nil, "votes")
				id := r.task("one", c)
				r.readHost()
				tick := func(drops int, decided ...Decided) {
					t.Helper()
					_, err := r.tryTick(decided...)
					if len(r.last.Dropped) != drops || (err == nil) != (drops == 0) {
						t.Errorf("%v; %+v", err, r.last.Dropped)
					}
				}
				tick(0, decide("low", nil), decide("high", quota(id, 0.5)))
				drops := 1
				if name == "dropped" {
					drops++
				}
				for range 3 {
					tick(drops, decide("low", quota(id, number)), decide("high", above))
				}
				if votes := r.actor.standing[decisionKey{id, owca.CPUQuota}].votes; len(votes) != 1 || votes[0].owner != "high" {
					t.Errorf("votes are %+v", votes)
				}
				silent := Decided{Owner: "low", Silent: true}
				tick(0, silent, decide("high", quota(id, 0.7)))
				r.want(c, cgroup.CPUMax, r.quotaOf(0.7))
				tick(0, silent, decide("high", release(id, owca.CPUQuota)))
				r.want(c, cgroup.CPUMax, unlimitedCPU)
				r.leases(0)
				r.close()
			})
		}
	}
}

// A vote that is invalid for good, however it came about, is no reason to plan for ever.
func TestVotesInvalidForGood(t *testing.T) {
	r := newRig(t)
	c := hosttest.NewCgroup(t, nil, "votes")
	id := r.task("one", c)
	r.readHost()
	if _, err := r.tryTick(decide("low", nil), decide("high", quota(id, 0.5))); err != nil {
		t.Fatal(err)
	}
	// It equals nothing, itself neither.
	s := r.actor.standing[decisionKey{id, owca.CPUQuota}]
	s.votes = append(s.votes, vote{owner: "low", allocation: owca.Allocation{Number: math.NaN()}})
	silent := Decided{Owner: "low", Silent: true}
	if _, err := r.tryTick(silent, decide("high", quota(id, 0.7))); err != nil {
		t.Error(err)
	}
	r.want(c, cgroup.CPUMax, r.quotaOf(0.7))
	if _, err := r.tryTick(silent, decide("high", release(id, owca.CPUQuota))); err == nil {
		t.Error("it is valid")
	}
	r.close()
}

// A vote that was accepted is not judged again each time that another one is decided above it:
// what its owner decides else counts.
func TestVotesHiddenOnce(t *testing.T) {
	r, g, cgroups := rdtRig(t)
	r.readHost()
	low := decide("low", map[owca.TaskID]owca.Allocations{"a": rdt("gold", "L3:0=zzz")})
	r.actor.SetGroups(awayGroups{g}) // nobody can tell
	if _, err := r.tryTick(low, decide("high", map[owca.TaskID]owca.Allocations{"a": rdt("gold", "L3:0=f")})); err != nil {
		t.Fatal(err)
	}
	r.actor.SetGroups(g)
	low.Allocations["b"] = owca.Allocations{owca.CPUQuota: {Number: 0.5}}
	if _, err := r.tryTick(low, decide("high", map[owca.TaskID]owca.Allocations{"a": rdt("gold", "L3:0=7")})); err != nil {
		t.Error(err)
	}
	r.want(cgroups[1], cgroup.CPUMax, r.quotaOf(0.5))
	r.close()
}

// What comes up for a task that is not listed is not in effect.
func TestVotesUnlistedNotInEffect(t *testing.T) {
	hosttest.Need(t, "smp")
	r := newRig(t)
	c := hosttest.NewCgroup(t, nil, "votes")
	id := r.task("one", c)
	r.task("two", hosttest.NewCgroup(t, nil, "votes-two"))
	tasks := r.tasks
	cpus := func(list string) map[owca.TaskID]owca.Allocations {
		return map[owca.TaskID]owca.Allocations{id: {owca.CPUSetCPUs: {Text: list}}}
	}
	tick := func(decided ...Decided) {
		t.Helper()
		if _, err := r.tryTick(decided...); err != nil {
			t.Fatal(err)
		}
	}
	log := r.logged()
	tick(decide("low", cpus("1")), decide("high", cpus("0")))
	tick(decide("low", nil), decide("high", cpus("1023"))) // refused
	told(t, log, "a decision is not in effect")
	r.tasks = tasks[1:]
	tick(decide("low", nil), decide("high", release(id, owca.CPUSetCPUs)))
	r.want(c, cgroup.CPUSetCPUList, "0")
	if strings.Contains(log.String(), "in effect now") {
		t.Error(log)
	}
	r.tasks = tasks
	tick()
	r.want(c, cgroup.CPUSetCPUList, "1")
	told(t, log, "a decision is in effect now")
	r.close()
}

// Nothing is told of decisions that are dropped; what others decide beside them is, once.
func TestVotesNearDropped(t *testing.T) {
	r := newRig(t)
	c := hosttest.NewCgroup(t, nil, "votes")
	id := r.task("one", c)
	r.readHost()
	r.tick(quota(id, 0.2))
	r.actor.Succeed("test")
	log := r.logged()
	near, bad := quota(id, 0.24), decide("bad", quota("nobody", 0.5))
	near["nobody"] = owca.Allocations{owca.CPUQuota: {Number: 0.5}}
	for range 3 {
		if _, err := r.tryTick(decide("test", near), bad); err == nil {
			t.Error("a decision for nobody is taken")
		}
	}
	if log.Len() > 0 {
		t.Errorf("logged: %s", log)
	}
	delete(near, "nobody")
	for range 3 {
		if _, err := r.tryTick(decide("test", near), bad); err == nil {
			t.Error("a decision for nobody is taken")
		}
	}
	told(t, log, "differ so little")
	told(t, log, "decided=0.24")
	r.close()
}

// The end of a lease by somebody else is in the journal after the same tick, though nothing is
// decided in it, or nothing stands any more: who restores would overwrite what is not owca's.
func TestActorForeignInJournal(t *testing.T) {
	for _, name := range []string{"listed", "not listed"} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			c := hosttest.NewCgroup(t, nil, "act")
			id := r.task("one", c)
			r.task("two", hosttest.NewCgroup(t, nil, "act-two"))
			r.readHost()
			r.tick(quota(id, 0.5))
			r.tick(quota(id, 0.25))
			first := r.quotaOf(0.5)
			r.set(c, cgroup.CPUMax, first) // to what owca once had
			if name == "not listed" {
				r.tasks = r.tasks[1:]
			}
			if _, err := r.tryTick(); err != nil {
				t.Fatal(err)
			}
			r.ended(EndForeign, 1)
			if n := len(r.actor.order); name == "not listed" && n > 0 {
				t.Errorf("%d decisions stand", n)
			}
			left, _, _, err := ReadJournal(r.dir)
			if err != nil || slices.ContainsFunc(left, func(l Lease) bool { return !l.Yielded }) {
				t.Errorf("the journal has %v, %v", left, err)
			}
			r.crash()
			if outcomes, _, err := Restore(t.Context(), "/", r.dir); err != nil || len(outcomes) > 0 {
				t.Errorf("%+v, %v", outcomes, err)
			}
			r.want(c, cgroup.CPUMax, first)
		})
	}
}

// A reload restores what an earlier agent left while the loop goes on.
func TestActorStartBesideTheLoop(t *testing.T) {
	r := newRig(t)
	c := hosttest.NewCgroup(t, nil, "act")
	r.tick(quota(r.task("one", c), 0.25))
	r.crash()
	r.start(dryRun)
	r.actor.SetOptions(r.options(dryRun))
	actor, tasks := r.actor, r.tasks
	looked, stop, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for first := true; ; first = false {
			actor.Observe(time.Now(), tasks)
			if first {
				close(looked)
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	<-looked
	err := r.actor.Start(r.options())
	close(stop)
	<-done
	if err != nil {
		t.Fatal(err)
	}
	r.want(c, cgroup.CPUMax, unlimitedCPU)
	r.leases(0)
	r.close()
}
