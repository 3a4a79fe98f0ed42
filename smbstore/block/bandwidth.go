package block

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Bandwidth is a rate that copies share. Each takes part with a Share, and those
// that want more than there is get equal parts, whatever the size and the number
// of their requests; what one does not use the others get. All methods may be
// called concurrently.
//
// A request is let through once what was let through before it has been paid for
// at the rate, but for a credit of bandwidthCredit: so any request, however
// large, passes some time, and the ones after it wait longer.
type Bandwidth struct {
	mu     sync.Mutex
	rate   int64     // bytes a second; 0: no limit
	paid   time.Time // when all that was let through is paid for
	shares []*Share  // those with requests waiting
	passed int64     // the least a share that waits has got, as far as was needed
	timer  *time.Timer
}

// bandwidthCredit is how much may go at once after a pause, in time at the rate.
const bandwidthCredit = 50 * time.Millisecond

// NewBandwidth returns one of rate bytes a second; 0 is no limit.
func NewBandwidth(rate int64) *Bandwidth { return &Bandwidth{rate: max(rate, 0)} }

// Rate is the limit in bytes a second, 0 for none.
func (b *Bandwidth) Rate() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rate
}

// SetRate changes the limit for what waits already, too.
func (b *Bandwidth) SetRate(rate int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	rate = max(rate, 0)
	now := time.Now()
	switch due := b.paid.Sub(now); {
	case rate == 0:
		b.paid = time.Time{} // nothing is owed, whatever limit comes next
	case due > 0:
		b.paid = now.Add(time.Duration(float64(due) * float64(b.rate) / float64(rate)))
	}
	b.rate = rate
	b.dispatch(now)
}

// Share is one copy's part of a Bandwidth.
type Share struct {
	b       *Bandwidth
	got     int64 // bytes, from a start that is fair to the others
	waiting []*bandwidthWait
}

type bandwidthWait struct {
	n    int64
	pass chan struct{}
}

// Share returns a new part.
func (b *Bandwidth) Share() *Share { return &Share{b: b} }

// Rate is the whole Bandwidth's.
func (s *Share) Rate() int64 { return s.b.Rate() }

// Wait waits for leave to move n bytes, or until ctx ends.
func (s *Share) Wait(ctx context.Context, n int64) error {
	if err := ctx.Err(); err != nil || n <= 0 {
		return err
	}
	b := s.b
	b.mu.Lock()
	if b.rate == 0 && len(b.shares) == 0 {
		b.mu.Unlock()
		return nil
	}
	w := &bandwidthWait{n: n, pass: make(chan struct{})}
	if len(s.waiting) == 0 {
		s.got = max(s.got, b.passed) // nobody saves up for later
		b.shares = append(b.shares, s)
	}
	s.waiting = append(s.waiting, w)
	b.dispatch(time.Now())
	b.mu.Unlock()
	select {
	case <-w.pass:
		return nil
	case <-ctx.Done():
		b.mu.Lock()
		defer b.mu.Unlock()
		s.drop(w)
		return fmt.Errorf("rate limit: %w", ctx.Err())
	}
}

// drop takes a waiter out; it may have been let through meanwhile.
func (s *Share) drop(w *bandwidthWait) {
	for i, o := range s.waiting {
		if o == w {
			s.waiting = append(s.waiting[:i:i], s.waiting[i+1:]...)
			if len(s.waiting) == 0 {
				s.b.remove(s)
			}
			return
		}
	}
}

func (b *Bandwidth) remove(s *Share) {
	for i, o := range b.shares {
		if o == s {
			b.shares = append(b.shares[:i:i], b.shares[i+1:]...)
			return
		}
	}
}

// dispatch lets through what may pass now, and comes back when more may. The
// caller holds mu.
func (b *Bandwidth) dispatch(now time.Time) {
	for len(b.shares) > 0 {
		if b.rate > 0 {
			if wait := b.paid.Sub(now); wait > 0 {
				b.wakeIn(wait)
				return
			}
			if least := now.Add(-bandwidthCredit); b.paid.Before(least) {
				b.paid = least
			}
		}
		s := b.shares[0]
		for _, o := range b.shares[1:] {
			if o.got < s.got {
				s = o
			}
		}
		w := s.waiting[0]
		b.passed = s.got
		s.got += w.n
		if s.waiting = s.waiting[1:]; len(s.waiting) == 0 {
			b.remove(s)
		}
		if b.rate > 0 {
			b.paid = b.paid.Add(time.Duration(float64(w.n) / float64(b.rate) * float64(time.Second)))
		}
		close(w.pass)
	}
}

func (b *Bandwidth) wakeIn(d time.Duration) {
	if b.timer != nil {
		b.timer.Stop()
	}
	b.timer = time.AfterFunc(d, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.dispatch(time.Now())
	})
}
