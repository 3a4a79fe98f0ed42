package client

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lunless/smbstore/smb2"
)

// session is one authenticated session on the server, over one connection or
// several. It ends with its last connection, and another takes its place.
type session struct {
	client *Client
	id     uint64
	neg    *negotiated // of its first connection
	signer *smb2.Signer
	sealer *smb2.Sealer
	opener *smb2.Opener
	sign   bool
	encrypt,
	single bool // the server binds no further connections; guarded by mu

	mu       sync.Mutex // guards changes of channels
	channels atomic.Pointer[[]*conn]
	turn     atomic.Uint32
	widening bool // guarded by mu
	ending   bool // no connection becomes a channel any more; guarded by mu
	over     atomic.Bool
	lost     chan struct{} // closed when over
}

// add makes a connection a channel of the session. false if either has ended.
func (s *session) add(c *conn, signer *smb2.Signer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over.Load() || s.ending {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead.Load() {
		return false
	}
	c.owner = s
	c.sec.Store(&security{
		owner: s, session: s.id, signer: signer, sealer: s.sealer, opener: s.opener, sign: s.sign, encrypt: s.encrypt,
	})
	list := append(slices.Clone(s.list()), c)
	s.channels.Store(&list)
	return true
}

func (s *session) list() []*conn {
	if p := s.channels.Load(); p != nil {
		return *p
	}
	return nil
}

// drop takes a lost connection out. What it leaves unanswered goes over others
// under a new channel sequence number (MS-SMB2 3.2.7.1), or waits for a new
// session.
func (s *session) drop(c *conn) {
	s.client.sequence.Add(1)
	s.mu.Lock()
	list := slices.DeleteFunc(slices.Clone(s.list()), func(o *conn) bool { return o == c })
	s.channels.Store(&list)
	last := len(list) == 0 && !s.over.Swap(true)
	s.mu.Unlock()
	if last {
		close(s.lost)
		s.client.sessionLost(s, c.err)
	} else if len(list) > 0 {
		go s.widen()
	}
}

// pick chooses the connection for a request, nil if none is alive.
func (s *session) pick() *conn {
	list := s.list()
	if len(list) == 0 {
		return nil
	}
	first := 0
	if len(list) > 1 {
		first = int(s.turn.Add(1)) % len(list)
	}
	for i := range list {
		if c := list[(first+i)%len(list)]; !c.dead.Load() {
			return c
		}
	}
	return nil
}

// channel is pick that waits out the moment between the death of the last
// connection and the end of the session: a *lostError then.
func (s *session) channel(ctx context.Context) (*conn, error) {
	for {
		if c := s.pick(); c != nil {
			return c, nil
		}
		if s.over.Load() {
			return nil, errNoChannel
		}
		select {
		case <-s.lost:
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

var errNoChannel = &lostError{errors.New("the session has ended")}

// end gives up the session. A channel that is being bound meanwhile would outlive
// it.
func (s *session) end(err error) {
	s.mu.Lock()
	s.ending = true
	list := s.list()
	s.mu.Unlock()
	for _, c := range list {
		c.kill(err)
	}
	<-s.lost
}

// widenPause is how long after a failed attempt a channel is tried again.
const widenPause = 2 * time.Second

// widen binds further connections until the session has the channels it should,
// ends, or the server wants no more (MS-SMB2 3.2.5.5).
func (s *session) widen() {
	cfg := &s.client.cfg
	if cfg.Channels < 2 || s.neg.dialect < smb2.Dialect300 || s.neg.capabilities&smb2.CapMultiChannel == 0 {
		return
	}
	s.mu.Lock()
	if s.widening || s.single {
		s.mu.Unlock()
		return
	}
	s.widening = true
	s.mu.Unlock()
	for n := 0; ; n++ {
		s.mu.Lock()
		if len(s.list()) >= cfg.Channels || s.over.Load() || s.single || s.client.ctx.Err() != nil {
			s.widening = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		err := s.bindOne(cfg.address(n + 1))
		if err == nil {
			continue
		}
		if s.client.ctx.Err() != nil {
			continue
		}
		cfg.Logger.Debug("no further channel", "server", cfg.Addr, "error", err)
		if _, refused := StatusOf(err); refused {
			s.mu.Lock()
			s.single = true
			s.mu.Unlock()
			continue
		}
		select {
		case <-s.lost:
		case <-s.client.ctx.Done():
		case <-time.After(widenPause):
		}
	}
}

func (s *session) bindOne(addr string) error {
	ctx, cancel := context.WithTimeout(s.client.ctx, s.client.cfg.RequestTimeout)
	defer cancel()
	c, err := dialConn(ctx, &s.client.cfg, addr)
	if err != nil {
		return err
	}
	if err := s.bind(ctx, c); err != nil {
		c.kill(err)
		return err
	}
	return nil
}

// address is the n-th of the server's addresses, going round.
func (c *Config) address(n int) string {
	n %= 1 + len(c.Addrs)
	if n == 0 {
		return c.Addr
	}
	return c.Addrs[n-1]
}
