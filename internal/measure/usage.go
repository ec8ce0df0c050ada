package measure

import (
	"strconv"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/resctrl"
)

// taskUsage is what the monitoring groups of one task have told, the one it has
// and those it had.
type taskUsage struct {
	domains   []domainUsage
	sum, prev usageSum // of this tick and of the one before
}

// usageSum is the host's domains taken together. Without all of them there is no
// sum: a smaller one would be wrong.
type usageSum struct{ occupancy, total, local, remote resctrl.Count }

// domainUsage is one domain. The counters are added up from what comes in
// between two readings, so that they go on when the group is made anew.
type domainUsage struct {
	resctrl.Domain
	label string
	now   resctrl.Usage // the last reading
	read  bool          // in this tick

	total, local, remote uint64
	// The last readings, which are in the counters; 0 when there was none since
	// the group began to count.
	baseTotal, baseLocal uint64
}

// take adds a reading. fresh: the group began to count since the last one, so that
// all of it is new.
func (u *taskUsage) take(list []resctrl.Usage, fresh bool) {
	for i := range u.domains {
		d := &u.domains[i]
		d.read = false
		if fresh {
			d.baseTotal, d.baseLocal = 0, 0
		}
	}
	for i := range list {
		// Other levels, where a host monitors some, are no last level of cache.
		if list[i].Resource == "L3" {
			u.domain(list[i].Domain, i).take(&list[i])
		}
	}
}

// domain returns a domain, which was the hint'th the last time.
func (u *taskUsage) domain(of resctrl.Domain, hint int) *domainUsage {
	if hint < len(u.domains) && u.domains[hint].Domain == of {
		return &u.domains[hint]
	}
	for i := range u.domains {
		if u.domains[i].Domain == of {
			return &u.domains[i]
		}
	}
	label := strconv.Itoa(of.ID)
	if of.Node >= 0 {
		label += "/" + strconv.Itoa(of.Node)
	}
	u.domains = append(u.domains, domainUsage{Domain: of, label: label})
	return &u.domains[len(u.domains)-1]
}

func (d *domainUsage) take(r *resctrl.Usage) {
	d.now, d.read = *r, true
	if r.Total.OK && r.Total.N < d.baseTotal || r.Local.OK && r.Local.N < d.baseLocal {
		// The group was made anew behind our back, or a counter wrapped. How much
		// of this is new is not known; both begin again, lest the remote part,
		// their difference, be made up.
		if r.Total.OK {
			d.baseTotal = r.Total.N
		}
		if r.Local.OK {
			d.baseLocal = r.Local.N
		}
		return
	}
	if r.Total.OK {
		d.total += r.Total.N - d.baseTotal
		d.baseTotal = r.Total.N
	}
	if r.Local.OK {
		d.local += r.Local.N - d.baseLocal
		d.baseLocal = r.Local.N
	}
	if r.Total.OK && r.Local.OK && d.total > d.local {
		// The two are read one after the other, so the difference can fall.
		d.remote = max(d.remote, d.total-d.local)
	}
}

// add makes the sum of this tick from what take got.
func (u *taskUsage) add() {
	u.prev = u.sum
	s := usageSum{
		occupancy: resctrl.Count{OK: true}, total: resctrl.Count{OK: true},
		local: resctrl.Count{OK: true}, remote: resctrl.Count{OK: true},
	}
	read := 0
	for i := range u.domains {
		d := &u.domains[i]
		if d.Node >= 0 {
			continue // a part of another one
		}
		// What a domain counted that is offline now stays in the sum.
		s.total.N += d.total
		s.local.N += d.local
		s.remote.N += d.remote
		if !d.read {
			continue
		}
		read++
		s.occupancy.N += d.now.Occupancy.N
		s.occupancy.OK = s.occupancy.OK && d.now.Occupancy.OK
		s.total.OK = s.total.OK && d.now.Total.OK
		s.local.OK = s.local.OK && d.now.Local.OK
	}
	if s.remote.OK = s.total.OK && s.local.OK; read == 0 {
		s = usageSum{}
	}
	u.sum = s
}

// none is a tick without a reading of the task.
func (u *taskUsage) none() {
	u.prev, u.sum = u.sum, usageSum{}
	for i := range u.domains {
		u.domains[i].read = false
	}
}

// emitUsage appends what resctrl told of a task, and the rates.
func (k *taskState) emitUsage(m owca.Measurements) owca.Measurements {
	u := &k.usage
	put := func(d *owca.Desc, label string, c resctrl.Count, n uint64) {
		if c.OK {
			m = append(m, owca.Reading{Desc: d, Label: label, Value: owca.Int(n)})
		}
	}
	put(owca.TaskLLCOccupancy, "", u.sum.occupancy, u.sum.occupancy.N)
	put(owca.TaskMemoryBandwidth, "", u.sum.total, u.sum.total.N)
	put(owca.TaskMemoryBandwidthLocal, "", u.sum.local, u.sum.local.N)
	put(owca.TaskMemoryBandwidthRemote, "", u.sum.remote, u.sum.remote.N)
	for i := range u.domains {
		d := &u.domains[i]
		if !d.read {
			continue
		}
		put(owca.TaskLLCOccupancyDomain, d.label, d.now.Occupancy, d.now.Occupancy.N)
		put(owca.TaskMemoryBandwidthDomain, d.label, d.now.Total, d.total)
		put(owca.TaskMemoryBandwidthLocalDomain, d.label, d.now.Local, d.local)
		put(owca.TaskMemoryBandwidthRemoteDomain, d.label, resctrl.Count{OK: d.now.Total.OK && d.now.Local.OK}, d.remote)
	}
	if dt := k.at.Sub(k.prevAt).Seconds(); !k.prevAt.IsZero() && dt > 0 {
		rate := func(d *owca.Desc, now, before resctrl.Count) {
			if now.OK && before.OK && now.N >= before.N {
				m = append(m, owca.Reading{Desc: d, Value: owca.Float(float64(now.N-before.N) / dt)})
			}
		}
		rate(owca.TaskMemoryBandwidthRate, u.sum.total, u.prev.total)
		rate(owca.TaskMemoryBandwidthLocalRate, u.sum.local, u.prev.local)
		rate(owca.TaskMemoryBandwidthRemoteRate, u.sum.remote, u.prev.remote)
	}
	return m
}
