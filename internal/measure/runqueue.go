package measure

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/owca-project/owca/internal/cgroup"
	"github.com/owca-project/owca/internal/proc"
)

// runQueue adds up the run-queue wait of the threads of a task. The kernel
// keeps it per thread and forgets it with the thread, so what a thread waited
// between the last reading and its end is lost; what it had waited before the
// agent first saw the task is not counted.
type runQueue struct {
	last map[int]threadWait // by thread id
	pass uint32
	wait uint64 // ns
	ok   bool
	at   time.Time // of the pass

	ratio     float64
	haveRatio bool
}

type threadWait struct {
	wait uint64
	pass uint32
}

// relist is after how many passes the threads are listed anew in any case, for
// one may have been moved away and another one in.
const relist = 6

// sameThreads makes t.threads those of the last pass if the task has as many
// now, which is one of the readings of every tick, where listing them takes
// several times as long as what is read of one. If they all still exist, they
// are the same.
func (t *Tasks) sameThreads(k *taskState) bool {
	q := &k.runQueue
	n, ok := k.sum.Get(cgroup.PIDsCurrent)
	if !ok || n == 0 || n != uint64(len(q.last)) || q.pass%relist == 0 {
		return false
	}
	t.threads = slices.AppendSeq(t.threads[:0], maps.Keys(q.last))
	return true
}

// appendThreads appends the threads of a task to buf.
func (t *Tasks) appendThreads(buf []int, k *taskState) ([]int, error) {
	for _, m := range k.members {
		if !m.ok {
			continue
		}
		var err error
		if t.ofMember, err = m.group.ThreadsBelow(t.ofMember); err != nil {
			if errors.Is(err, cgroup.ErrGone) {
				continue
			}
			return buf, err
		}
		buf = append(buf, t.ofMember...)
	}
	return buf, nil
}

func (t *Tasks) readRunQueue(k *taskState) error {
	q := &k.runQueue
	same := t.sameThreads(k)
	if !same {
		var err error
		if t.threads, err = t.appendThreads(t.threads[:0], k); err != nil {
			*q = runQueue{}
			return err
		}
	}
	if len(t.threads) > t.options.RunQueueThreads {
		*q = runQueue{}
		return nil
	}
	if t.schedstat == nil {
		var err error
		if t.schedstat, err = t.host.Proc.OpenSchedstat(); err != nil {
			t.schedstat = nil
			if errors.Is(err, errors.ErrUnsupported) {
				return nil
			}
			return err
		}
	}
	firstPass := q.last == nil
	if firstPass {
		q.last = make(map[int]threadWait, len(t.threads))
	}
	q.pass++
	before := q.wait
	err := t.addWaits(k, firstPass)
	if errors.Is(err, proc.ErrGone) && same {
		// To read a thread twice adds what it waited in between.
		if t.threads, err = t.appendThreads(t.threads[:0], k); err == nil {
			err = t.addWaits(k, firstPass)
		}
	}
	if err != nil && !errors.Is(err, proc.ErrGone) {
		*q = runQueue{}
		return err
	}
	if len(q.last) > len(t.threads) {
		for tid, w := range q.last {
			if w.pass != q.pass {
				delete(q.last, tid)
			}
		}
	}
	dt := k.at.Sub(q.at)
	if q.haveRatio = !firstPass && dt > 0; q.haveRatio {
		q.ratio = float64(q.wait-before) / float64(dt.Nanoseconds())
	}
	q.ok, q.at = true, k.at
	return nil
}

// addWaits adds what t.threads have waited since the last pass. The error is
// [proc.ErrGone] itself if only threads that have ended were left out.
func (t *Tasks) addWaits(k *taskState, firstPass bool) (gone error) {
	q := &k.runQueue
	for _, tid := range t.threads {
		wait, err := t.schedstat.RunDelay(tid)
		if err != nil {
			if errors.Is(err, proc.ErrGone) {
				gone = err
				continue
			}
			return err
		}
		prev, known := q.last[tid]
		switch {
		case known && wait >= prev.wait:
			q.wait += wait - prev.wait
		case !firstPass && wait <= uint64(k.at.Sub(q.at)):
			// Born since the last pass. One that has waited longer than that was
			// moved in, with a past elsewhere that is none of this task's.
			q.wait += wait
		}
		q.last[tid] = threadWait{wait, q.pass}
	}
	return gone
}
