package qmp

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// maxQueue bounds the events that wait in one Subscription.
const maxQueue = 1024

// ErrEventsLost: a subscriber was so slow that events were dropped. What they
// told must be asked for; events that follow are whole again.
var ErrEventsLost = errors.New("events were lost")

// Subscription is a queue of events from the moment it was made. Its methods
// may be called from several goroutines; each event goes to one of them.
type Subscription struct {
	client *Client
	wake   chan struct{} // has one token while there may be something to take

	mu     sync.Mutex
	queue  []Event
	lost   int   // events dropped after those in queue; while not 0 all that come are
	closed error // set when nothing comes any more
}

// Subscribe starts to collect events.
func (c *Client) Subscribe() *Subscription {
	s := &Subscription{client: c, wake: make(chan struct{}, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != nil {
		s.closed = c.closed
		return s
	}
	c.subs[s] = struct{}{}
	return s
}

// Close ends the subscription: what waits in it can still be taken.
func (s *Subscription) Close() {
	s.client.mu.Lock()
	delete(s.client.subs, s)
	s.client.mu.Unlock()
	s.end(fmt.Errorf("subscription: %w", ErrClosed))
}

// Next returns the oldest event not taken yet and waits for one if need be.
// Errors: ErrEventsLost (once for each gap), ErrClosed when the connection is
// gone and everything was taken, the context's.
func (s *Subscription) Next(ctx context.Context) (Event, error) {
	for {
		if e, err, ok := s.take(); ok {
			return e, err
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return Event{}, ctx.Err()
		}
	}
}

func (s *Subscription) take() (e Event, err error, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case len(s.queue) > 0:
		e, s.queue = s.queue[0], s.queue[1:]
		ok = true
	case s.lost > 0:
		err = fmt.Errorf("%d %w: the reader was too slow", s.lost, ErrEventsLost)
		s.lost, ok = 0, true
	case s.closed != nil:
		err, ok = s.closed, true
	}
	if len(s.queue) > 0 || s.lost > 0 || s.closed != nil {
		s.poke()
	}
	return e, err, ok
}

func (s *Subscription) put(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost > 0 || len(s.queue) >= maxQueue {
		s.lost++
		return
	}
	s.queue = append(s.queue, e)
	s.poke()
}

func (s *Subscription) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed == nil {
		s.closed = err
	}
	s.poke()
}

func (s *Subscription) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
