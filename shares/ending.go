package shares

import (
	"context"
	"sync"
)

// ending holds the sessions that are being taken down. A client that has lost its
// connections may log on anew before what it had under way has ended; until then
// its handles cannot be given back, nor its share modes be free.
type ending struct {
	mu sync.Mutex
	m  map[uint64]chan struct{}
}

// begin enters a session; done takes it out. Only the first of several counts.
func (e *ending) begin(id uint64) (done func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.m[id] != nil {
		return func() {}
	}
	if e.m == nil {
		e.m = map[uint64]chan struct{}{}
	}
	gone := make(chan struct{})
	e.m[id] = gone
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.m, id)
		close(gone)
	}
}

// wait returns when a session has been taken down, if that is under way.
func (e *ending) wait(ctx context.Context, id uint64) {
	e.mu.Lock()
	gone := e.m[id]
	e.mu.Unlock()
	if gone == nil {
		return
	}
	select {
	case <-gone:
	case <-ctx.Done():
	}
}
