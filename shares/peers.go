package shares

import (
	"math"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// clientHost is what the server keeps of a client address, so that none takes what all
// need. It stays as long as the address has a connection or an open, or has failed
// to log on not long ago.
type clientHost struct {
	addr netip.Addr // of IPv6 the first 64 bits: a host has as many addresses as it likes
	srv  *Server

	conns  int // guarded by Server.mu
	unauth int // of those, without an authenticated session; guarded by Server.mu

	opens   atomic.Int64 // durable ones without a session among them
	workers atomic.Int64
	logons  guesses
}

// peerAddr is the address that a connection counts for.
func peerAddr(nc net.Conn) netip.Addr {
	a := addrPort(nc.RemoteAddr()).Addr().Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

// peerOf finds or makes the address's entry. Server.mu is held.
func (srv *Server) peerOf(addr netip.Addr) *clientHost {
	p := srv.peers[addr]
	if p == nil {
		p = &clientHost{addr: addr, srv: srv}
		srv.peers[addr] = p
	}
	return p
}

// admits says why the address may not have one more connection, "" if it may.
// Server.mu is held.
func (p *clientHost) admits() string {
	switch l := &p.srv.cfg.Limits; {
	case p.conns >= l.ClientConnections:
		return "too many of this client address"
	case p.unauth >= l.Strangers:
		return "too many of this client address without a log-on"
	}
	return ""
}

// leave counts a connection out, and forgets addresses that nothing is known of.
// Server.mu is held.
func (p *clientHost) leave(authed bool) {
	p.conns--
	if !authed {
		p.unauth--
	}
	p.srv.forgetPeers()
}

// maxQuietPeers is how many addresses without a connection are remembered.
const maxQuietPeers = 4096

// forgetPeers drops what need not be remembered, and of the rest, where it is too
// much, those whose failures are the oldest. Server.mu is held.
func (srv *Server) forgetPeers() {
	now := clock()
	if len(srv.peers) <= len(srv.conns)+maxQuietPeers && now-srv.forgotten < time.Minute {
		return
	}
	srv.forgotten = now
	quiet := 0
	for a, p := range srv.peers {
		switch {
		case p.conns > 0 || p.opens.Load() > 0:
		case p.logons.forgotten(now) || quiet >= maxQuietPeers:
			delete(srv.peers, a)
		default:
			quiet++
		}
	}
}

// Failed log-ons are answered late: the first few of an address at once, each
// further one after twice the time of the one before. One is forgotten every
// guessForgotten.
const (
	guessDelay     = 250 * time.Millisecond
	guessMaxDelay  = 8 * time.Second
	guessForgotten = 30 * time.Second
)

// guesses are the failed log-ons of an address. Those who guess are served one
// after another, however many connections they open, so that the delays add up;
// who would have to wait for longer than a log-on may take is turned away without
// having been heard. No account is ever locked: its user may come from elsewhere.
type guesses struct {
	mu     sync.Mutex // innermost
	failed float64    // not forgotten yet
	at     time.Duration
	next   time.Duration // when the next may be tried
}

// decay forgets what is old.
func (g *guesses) decay(now time.Duration) {
	g.failed = max(0, g.failed-float64(now-g.at)/float64(guessForgotten))
	g.at = now
}

// turn says how long an attempt that comes now has to wait for its turn; false if
// that is longer than most.
func (g *guesses) turn(now, most time.Duration, free int) (time.Duration, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.decay(now)
	over := int(math.Round(g.failed)) - free
	if over < 0 {
		return 0, true
	}
	at := max(now, g.next)
	if at-now > most {
		return 0, false
	}
	g.next = at + min(guessDelay<<min(over, 10), guessMaxDelay)
	return at - now, true
}

// fail notes a failed attempt.
func (g *guesses) fail(now time.Duration) {
	g.mu.Lock()
	g.decay(now)
	g.failed++
	g.mu.Unlock()
}

// forgotten says that nothing of note is left.
func (g *guesses) forgotten(now time.Duration) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.decay(now)
	return g.failed == 0
}

// awaitTurn waits until the connection's client may try to log on, as its address
// has failed too often. It reports false if it may not at all, now.
func (c *conn) awaitTurn() bool {
	free := c.srv.cfg.Limits.Guesses
	if free < 0 {
		return true
	}
	d, ok := c.peer.logons.turn(clock(), c.srv.cfg.Limits.Login, free)
	if !ok || d == 0 {
		return ok
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.ctx.Done():
		return false
	}
}
