package nbd

import (
	"sync"
	"sync/atomic"
	"time"
)

// A connection's reader serves small requests itself: handing each to another
// goroutine would cost more than the request. monitor sees to it that a request
// that takes longer than thought does not hold up those behind it: it has another
// goroutine read on.
//
// It runs only while readers do so; else it sleeps and costs nothing.
type monitor struct {
	asleep atomic.Bool
	wake   chan struct{} // of capacity 1

	mu    sync.Mutex
	users int           // guarded by mu: Serves under way
	quit  chan struct{} // guarded by mu: closed to end the goroutine
	conns []*conn       // guarded by mu
}

// patience is how long a reader may be at one request: between one and two of these.
const patience = 4 * time.Millisecond

func (m *monitor) start() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.users++; m.users == 1 {
		m.quit = make(chan struct{})
		go m.run(m.quit)
	}
}

func (m *monitor) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.users--; m.users == 0 {
		close(m.quit)
	}
}

func (m *monitor) add(c *conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conns = append(m.conns, c)
}

func (m *monitor) remove(c *conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, o := range m.conns {
		if o == c {
			last := len(m.conns) - 1
			m.conns[i], m.conns[last] = m.conns[last], nil
			m.conns = m.conns[:last]
			return
		}
	}
}

// noteBusy is called by a reader that serves a request itself.
func (m *monitor) noteBusy() {
	if m.asleep.Load() {
		select {
		case m.wake <- struct{}{}:
		default:
		}
	}
}

func (m *monitor) run(quit chan struct{}) {
	tick := time.NewTicker(patience)
	defer tick.Stop()
	for {
		if !m.look() {
			tick.Stop()
			m.asleep.Store(true)
			if m.look() { // a reader began before it could see that this sleeps
				m.asleep.Store(false)
			} else {
				select {
				case <-m.wake:
				case <-quit:
					return
				}
				m.asleep.Store(false)
			}
			tick.Reset(patience)
		}
		select {
		case <-tick.C:
		case <-quit:
			return
		}
	}
}

// look has readers relieved that are at the request they were at the last time,
// and tells whether any reader served a request since.
func (m *monitor) look() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	any := false
	for _, c := range m.conns {
		turn := c.turn.Load()
		if turn == c.seen {
			if turn&1 != 0 {
				c.relieve(turn)
			}
			continue
		}
		c.seen, any = turn, true
	}
	return any
}
