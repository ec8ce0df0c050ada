package run

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/owca-project/owca"
)

// queue stands between the loop and a storage that may block. The loop copies
// its metrics into one of a few buffers; when the storage is still busy with
// all of them, the metrics of this tick are dropped and counted.
type queue struct {
	name    string
	storage owca.Storage
	direct  bool // a NonBlocking storage needs no queue

	full, free chan []owca.Metric
	cancel     context.CancelFunc
	done       chan struct{}

	dropped, errors atomic.Uint64

	mu      sync.Mutex
	err     error // of the last Store
	failing bool
}

// depth is how many ticks wait for a storage at most. A storage that needs
// more patience than that spools by itself.
const depth = 2

func newQueue(s Storage) *queue {
	q := &queue{name: s.Name, storage: s.Storage}
	if _, q.direct = s.Storage.(owca.NonBlocking); q.direct {
		return q
	}
	q.full = make(chan []owca.Metric, depth)
	q.free = make(chan []owca.Metric, depth)
	for range depth {
		q.free <- nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	q.cancel = cancel
	q.done = make(chan struct{})
	go q.work(ctx)
	return q
}

// put never blocks. It returns an error only of a direct storage; those of the
// others are reported when they occur.
func (q *queue) put(ctx context.Context, metrics []owca.Metric) error {
	if q.direct {
		err := q.storage.Store(ctx, metrics)
		q.result(err)
		return err
	}
	select {
	case b := <-q.free:
		q.full <- append(b[:0], metrics...)
	default:
		q.dropped.Add(uint64(len(metrics)))
	}
	return nil
}

func (q *queue) work(ctx context.Context) {
	defer close(q.done)
	for b := range q.full {
		err := protect(func() error { return q.storage.Store(ctx, b) })
		q.result(err)
		clear(b) // labels of tasks that are gone must not be kept
		q.free <- b
	}
}

// result counts an error and logs when the storage begins or ceases to fail.
func (q *queue) result(err error) {
	if err != nil {
		q.errors.Add(1)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.err = err
	switch {
	case err != nil && !q.failing:
		q.failing = true
		slog.Error("a storage fails; the agent goes on", "component", "store", "storage", q.name, "error", err)
	case err == nil && q.failing:
		q.failing = false
		slog.Info("a storage works again", "component", "store", "storage", q.name)
	}
}

// rename is for the goroutine of the loop, which alone reads the name without
// the lock.
func (q *queue) rename(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.name = name
}

func (q *queue) lastError() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", q.name, q.err)
}

// close lets the storage finish what was queued, for as long as grace, and
// then cancels it.
func (q *queue) close(grace time.Duration) {
	if q.direct {
		return
	}
	close(q.full)
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-q.done:
	case <-t.C:
		q.cancel()
		select {
		case <-q.done:
		case <-time.After(grace):
			q.result(errors.New("does not return from Store even when cancelled"))
			return
		}
	}
	q.cancel()
}

// closeAll closes queues side by side, so that one that hangs takes nobody
// else's time.
func closeAll(queues []*queue) {
	var wg sync.WaitGroup
	for _, q := range queues {
		wg.Go(func() { q.close(grace) })
	}
	wg.Wait()
}
