package run

import "github.com/owca-project/owca"

// route is which parts of the metrics of a tick a storage gets.
type route uint8

const (
	partMeasured route = 1 << iota
	partAllocated
	partFound
)

// reroute makes a queue for each storage of r, or keeps the one it had, and returns the
// queues that r has no use for.
func (l *Loop) reroute(r *Runner) (left []*queue) {
	old := l.queues
	l.queues, l.routes = nil, nil
	add := func(list []Storage, part route) {
	next:
		for _, s := range list {
			for i, q := range l.queues {
				if q.storage == s.Storage {
					l.routes[i] |= part
					continue next
				}
			}
			l.routes = append(l.routes, part)
			for i, q := range old {
				if q != nil && q.storage == s.Storage {
					q.rename(s.Name)
					l.queues = append(l.queues, q)
					old[i] = nil
					continue next
				}
			}
			l.queues = append(l.queues, newQueue(s))
		}
	}
	or := func(list []Storage) []Storage {
		if list == nil {
			return r.Storages
		}
		return list
	}
	add(r.Storages, partMeasured)
	add(or(r.Anomalies), partFound)
	add(or(r.Allocations), partAllocated)
	for _, q := range old {
		if q != nil {
			left = append(left, q)
		}
	}
	return left
}

// batch returns the parts of this tick's metrics that go one way.
func (l *Loop) batch(to route) []owca.Metric {
	switch to {
	case partMeasured:
		return l.metrics[:l.ends[0]]
	case partMeasured | partAllocated:
		return l.metrics[:l.ends[1]]
	case partAllocated:
		return l.metrics[l.ends[0]:l.ends[1]]
	case partAllocated | partFound:
		return l.metrics[l.ends[0]:]
	case partFound:
		return l.metrics[l.ends[1]:]
	case partMeasured | partFound:
		l.apart = append(append(l.apart[:0], l.metrics[:l.ends[0]]...), l.metrics[l.ends[1]:]...)
		return l.apart
	}
	return l.metrics
}
