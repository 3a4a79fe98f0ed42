package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"lunless/smbstore/smb2"
)

// Client is a session on a server that is made anew when it is lost.
type Client struct {
	cfg      Config
	ctx      context.Context // done when closed
	cancel   context.CancelFunc
	sequence atomic.Uint32           // of channels (MS-SMB2 3.2.1.3); the low 16 bits count
	cur      atomic.Pointer[session] // the latest; may have ended
	durables atomic.Int32            // open files that a lost session leaves behind
	leases   leaseTable
	// unconfirmed counts connections lost in a row during validateNegotiate.
	unconfirmed atomic.Int32
	breaks      chan breakNotice

	mu       sync.Mutex // guards what follows
	closed   bool
	trees    map[*Tree]struct{}
	attempt  *attempt  // to make a new session, nil if none is under way
	previous uint64    // the session that the next one takes the place of
	lostAt   time.Time // when the server was lost, zero if it is not
	failed   error     // how the last attempt ended, and when
	failedAt time.Time
	turn     int // which address to begin with
}

// attempt is one try to have a session again, shared by who waits for it.
type attempt struct {
	done chan struct{}
	err  error
}

// Dial connects and logs on. ctx bounds that alone. Errors are ErrLogon,
// ErrSecurity, ErrProtocol, those of DialFunc, and *StatusError.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	cl := &Client{cfg: cfg, trees: map[*Tree]struct{}{}, breaks: make(chan breakNotice, maxBreaks)}
	cl.leases.m = map[string]*lease{}
	cl.ctx, cl.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s, err := cl.logOn(ctx)
	if err != nil {
		cl.cancel()
		return nil, err
	}
	cl.cur.Store(s)
	go cl.serveBreaks()
	go s.widen()
	return cl, nil
}

// logOn makes a connection with a session on it, over the first address that
// answers.
func (cl *Client) logOn(ctx context.Context) (*session, error) {
	var errs []error
	for range 1 + len(cl.cfg.Addrs) {
		cl.mu.Lock()
		addr, previous := cl.cfg.address(cl.turn), cl.previous
		cl.mu.Unlock()
		s, err := cl.logOnAt(ctx, addr, previous)
		if err == nil {
			return s, nil
		}
		errs = append(errs, err)
		if errors.Is(err, ErrLogon) || ctx.Err() != nil {
			break
		}
		cl.mu.Lock()
		cl.turn++
		cl.mu.Unlock()
	}
	if len(errs) == 1 {
		return nil, errs[0]
	}
	return nil, errors.Join(errs...)
}

func (cl *Client) logOnAt(ctx context.Context, addr string, previous uint64) (*session, error) {
	c, err := dialConn(ctx, &cl.cfg, addr)
	if err != nil {
		return nil, err
	}
	s, err := cl.newSession(ctx, c, previous)
	if err != nil {
		c.kill(err)
		return nil, err
	}
	cl.mu.Lock()
	cl.previous = s.id
	closed := cl.closed
	cl.mu.Unlock()
	if closed {
		c.kill(ErrClosed)
		return nil, ErrClosed
	}
	return s, nil
}

// session gives a live session, waiting for one to be made.
func (cl *Client) session(ctx context.Context) (*session, error) {
	for {
		s := cl.cur.Load()
		if !s.over.Load() {
			return s, nil
		}
		a, err := cl.join()
		if err != nil {
			return nil, err
		}
		select {
		case <-a.done:
			if a.err != nil {
				return nil, a.err
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// In an outage that has lasted for ReconnectTimeout, operations make one attempt
// each: lastTry bounds it, and those that come within lastTryEvery of it share its
// failure.
const (
	lastTry      = 5 * time.Second
	lastTryEvery = time.Second
)

// join takes part in the attempt to have a session again, or begins one.
func (cl *Client) join() (*attempt, error) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.closed {
		return nil, ErrClosed
	}
	if cl.attempt != nil {
		return cl.attempt, nil
	}
	now := time.Now()
	if cl.lostAt.IsZero() {
		cl.lostAt = now
	}
	deadline := cl.lostAt.Add(cl.cfg.ReconnectTimeout)
	once := !now.Before(deadline)
	if once {
		if now.Sub(cl.failedAt) < lastTryEvery {
			return nil, cl.failed
		}
		deadline = now.Add(lastTry)
	}
	a := &attempt{done: make(chan struct{})}
	cl.attempt = a
	go func() {
		s, err := cl.restore(deadline, once)
		cl.mu.Lock()
		cl.attempt = nil
		if err == nil {
			cl.lostAt = time.Time{}
			cl.cur.Store(s)
			if s.over.Load() {
				cl.lostAt = time.Now()
			}
		} else {
			cl.failed, cl.failedAt = err, time.Now()
		}
		a.err = err
		cl.mu.Unlock()
		close(a.done)
		if err == nil {
			go s.widen()
		}
	}()
	return a, nil
}

// sessionLost is called once for each session that has ended.
func (cl *Client) sessionLost(s *session, err error) {
	cl.mu.Lock()
	current := cl.cur.Load() == s && !cl.closed
	if current && cl.lostAt.IsZero() {
		cl.lostAt = time.Now()
	}
	cl.mu.Unlock()
	if !current {
		return
	}
	cl.cfg.Logger.Info("connection lost", "server", cl.cfg.Addr, "error", err)
	if cl.durables.Load() > 0 { // the server keeps them for a time only
		_, _ = cl.join()
	}
}

// restore makes a new session with the shares and files of the old one, trying
// until the deadline.
func (cl *Client) restore(deadline time.Time, once bool) (*session, error) {
	wait := 10 * time.Millisecond
	for {
		left := time.Until(deadline)
		ctx, cancel := context.WithTimeout(cl.ctx, max(min(left, cl.cfg.RequestTimeout), time.Second))
		s, err := cl.restoreOnce(ctx)
		cancel()
		switch {
		case err == nil:
			cl.cfg.Logger.Info("reconnected", "server", cl.cfg.Addr, "session", s.id)
			return s, nil
		case cl.ctx.Err() != nil:
			return nil, ErrClosed
		case errors.Is(err, ErrLogon):
			return nil, err
		case once || time.Until(deadline) <= wait:
			return nil, fmt.Errorf("%w: %s: %w", ErrUnreachable, cl.cfg.Addr, err)
		}
		cl.cfg.Logger.Debug("cannot reach the server, trying again", "server", cl.cfg.Addr, "error", err)
		select {
		case <-time.After(wait):
		case <-cl.ctx.Done():
			return nil, ErrClosed
		}
		wait = min(wait*2, time.Second)
	}
}

func (cl *Client) restoreOnce(ctx context.Context) (*session, error) {
	s, err := cl.logOn(ctx)
	if err != nil {
		return nil, err
	}
	cl.mu.Lock()
	trees := make([]*Tree, 0, len(cl.trees))
	for t := range cl.trees {
		trees = append(trees, t)
	}
	cl.mu.Unlock()
	for _, t := range trees {
		if err := t.restore(ctx, s); err != nil {
			s.end(err)
			return nil, err
		}
	}
	return s, nil
}

// Granted is what a server agreed to.
type Granted struct {
	Dialect           smb2.Dialect
	Signing           smb2.SigningAlgorithm
	Signed            bool
	Cipher            smb2.Cipher
	Encrypted         bool
	Channels          int  // connections of the session now
	MultiChannel      bool // the server knows of channels
	Leases            bool
	PersistentHandles bool // on shares that are continuously available
	MaxRead, MaxWrite int  // bytes of one request
}

// Granted tells what the server agreed to in the session of now.
func (cl *Client) Granted() Granted {
	s := cl.cur.Load()
	n := s.neg
	return Granted{
		Dialect: n.dialect, Signing: n.signing, Signed: s.sign || s.encrypt, Cipher: n.cipher, Encrypted: s.encrypt,
		Channels: len(s.list()), MultiChannel: n.capabilities&smb2.CapMultiChannel != 0,
		Leases: n.capabilities&smb2.CapLeasing != 0, PersistentHandles: n.capabilities&smb2.CapPersistentHandles != 0,
		MaxRead: n.maxRead, MaxWrite: n.maxWrite,
	}
}

// Close logs off and disconnects. Files still open are closed by the server, also
// the durable ones. What is waiting fails with ErrClosed.
func (cl *Client) Close() error {
	if !cl.shut() {
		return nil
	}
	s := cl.cur.Load()
	if c := s.pick(); c != nil {
		ctx, cancel := context.WithTimeout(context.Background(), min(2*time.Second, cl.cfg.RequestTimeout))
		defer cancel()
		k := newCall(smb2.CommandLogoff)
		c.protect(k, false)
		_, _ = c.exchange(ctx, k, &smb2.LogoffRequest{})
	}
	s.end(ErrClosed)
	return nil
}

// Abandon is Close without a word to the server, which need not answer any more. The
// server keeps durable files until it gives them up.
func (cl *Client) Abandon() {
	if cl.shut() {
		cl.cur.Load().end(ErrClosed)
	}
}

// shut has what waits fail, and nothing begin; false if that was so before.
func (cl *Client) shut() bool {
	cl.mu.Lock()
	was := cl.closed
	cl.closed = true
	cl.mu.Unlock()
	cl.cancel()
	return !was
}

// Disconnect cuts the connections without a word. It is how tests lose a network;
// the next operation reconnects.
func (cl *Client) Disconnect() {
	for _, c := range cl.cur.Load().list() {
		c.kill(errors.New("disconnected"))
	}
}
