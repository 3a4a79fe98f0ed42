package block

import (
	"context"
	"sync"
)

// RangeLock gives exclusive use of byte ranges, first come first served: a range
// waits for every earlier one that overlaps it, held or waiting. The zero value
// is ready. All methods may be called concurrently.
type RangeLock struct {
	mu    sync.Mutex // guards all below
	queue []*RangeHold
	free  []*RangeHold
}

// RangeHold is one range held; give it to Unlock once.
type RangeHold struct {
	off, end int64
	blockers int // earlier overlapping entries still in the queue
	ready    chan struct{}
}

// Lock waits until [off, off+n) is the caller's, or until ctx ends.
func (l *RangeLock) Lock(ctx context.Context, off, n int64) (*RangeHold, error) {
	l.mu.Lock()
	h := l.take()
	h.off, h.end, h.blockers = off, off+n, 0
	for _, q := range l.queue {
		if q.overlaps(h) {
			h.blockers++
		}
	}
	l.queue = append(l.queue, h)
	wait := h.blockers > 0
	l.mu.Unlock()
	if !wait {
		return h, nil
	}
	select {
	case <-h.ready:
		return h, nil
	case <-ctx.Done():
		l.abandon(h)
		return nil, ctx.Err()
	}
}

// Unlock gives the range up.
func (l *RangeLock) Unlock(h *RangeHold) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove(h)
	l.free = append(l.free, h)
}

// abandon takes a waiter out; ready may have fired meanwhile.
func (l *RangeLock) abandon(h *RangeHold) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove(h)
	select {
	case <-h.ready:
	default:
	}
	l.free = append(l.free, h)
}

func (l *RangeLock) take() *RangeHold {
	if n := len(l.free); n > 0 {
		h := l.free[n-1]
		l.free = l.free[:n-1]
		return h
	}
	return &RangeHold{ready: make(chan struct{}, 1)}
}

func (l *RangeLock) remove(h *RangeHold) {
	at := 0
	for l.queue[at] != h {
		at++
	}
	l.queue = append(l.queue[:at], l.queue[at+1:]...)
	for _, q := range l.queue[at:] { // the later ones
		if q.overlaps(h) {
			if q.blockers--; q.blockers == 0 {
				q.ready <- struct{}{}
			}
		}
	}
}

func (h *RangeHold) overlaps(o *RangeHold) bool { return h.off < o.end && o.off < h.end }
