package measure

import (
	"errors"
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

func (t *Tasks) readRunQueue(k *taskState) error {
	q := &k.runQueue
	t.threads = t.threads[:0]
	for _, m := range k.members {
		if !m.ok {
			continue
		}
		var err error
		if t.ofMember, err = m.group.ThreadsBelow(t.ofMember); err != nil {
			if errors.Is(err, cgroup.ErrGone) {
				continue
			}
			*q = runQueue{}
			return err
		}
		t.threads = append(t.threads, t.ofMember...)
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
	for _, tid := range t.threads {
		wait, err := t.schedstat.RunDelay(tid)
		if err != nil {
			if errors.Is(err, proc.ErrGone) {
				continue
			}
			*q = runQueue{}
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
