package block

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Slot is a Device whose backing device can be exchanged while it is in use. It
// is what a guest holds on to while its disk moves: put a Mirror in, later the
// destination. All methods may be called concurrently.
type Slot struct {
	mu    sync.RWMutex // read-held through every request; held to exchange dev
	dev   Device
	watch atomic.Pointer[Latency]
}

// NewSlot returns a Slot over dev.
func NewSlot(dev Device) *Slot { return &Slot{dev: dev} }

// Swap waits until no request is in flight, holds new ones back, and makes what
// replace returns the backing device. If replace fails, the old one stays. The
// new device must be of the same size. stall is how long requests were held
// back. Neither device is closed or flushed.
func (s *Slot) Swap(replace func(cur Device) (Device, error)) (stall time.Duration, err error) {
	start := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	next, err := replace(s.dev)
	if err == nil && next.Size() != s.dev.Size() {
		err = fmt.Errorf("device of %d bytes cannot replace one of %d: %w", next.Size(), s.dev.Size(), ErrOutOfRange)
	}
	if err == nil {
		s.dev = next
	}
	return time.Since(start), err
}

// Watch has l measure the requests that begin from now on, the time they are held
// back in included; nil ends it. One at a time measures: the last one wins.
func (s *Slot) Watch(l *Latency) { s.watch.Store(l) }

// Unwrap returns the backing device of the moment.
func (s *Slot) Unwrap() Device {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.dev
}

// Size implements Device.
func (s *Slot) Size() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.dev.Size()
}

// Geometry implements Device.
func (s *Slot) Geometry() Geometry {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.dev.Geometry()
}

// ReadAt implements Device.
func (s *Slot) ReadAt(ctx context.Context, p []byte, off int64) error {
	l, start := s.watch.Load().begin()
	defer l.end(start)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.dev.ReadAt(ctx, p, off)
}

// WriteAt implements Device.
func (s *Slot) WriteAt(ctx context.Context, p []byte, off int64, flags WriteFlags) error {
	l, start := s.watch.Load().begin()
	defer l.end(start)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.dev.WriteAt(ctx, p, off, flags)
}

// WriteZeroes implements Device.
func (s *Slot) WriteZeroes(ctx context.Context, off, n int64, flags WriteFlags) error {
	l, start := s.watch.Load().begin()
	defer l.end(start)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.dev.WriteZeroes(ctx, off, n, flags)
}

// Trim implements Device.
func (s *Slot) Trim(ctx context.Context, off, n int64) error {
	l, start := s.watch.Load().begin()
	defer l.end(start)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.dev.Trim(ctx, off, n)
}

// Uncommitted implements Committer.
func (s *Slot) Uncommitted() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return Uncommitted(s.dev)
}

// Flush implements Device.
func (s *Slot) Flush(ctx context.Context) error {
	l, start := s.watch.Load().begin()
	defer l.end(start)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.dev.Flush(ctx)
}

// Extents implements Device. visit must not use the Slot: an exchange that waits
// for the walk to end would wait for it, and it for the exchange.
func (s *Slot) Extents(ctx context.Context, off, n int64, visit func(Extent) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.dev.Extents(ctx, off, n, visit)
}

// Close closes the backing device.
func (s *Slot) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dev.Close()
}
