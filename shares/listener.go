package shares

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// Serve accepts connections from l until ctx ends, which shuts nothing down but
// this listener, or until Shutdown, after which it returns ErrServerClosed. It
// closes l.
func (srv *Server) Serve(ctx context.Context, l net.Listener) error {
	defer l.Close()
	srv.mu.Lock()
	if srv.stopping.Load() {
		srv.mu.Unlock()
		return ErrServerClosed
	}
	srv.listeners[l] = struct{}{}
	srv.wg.Add(1)
	srv.mu.Unlock()
	defer srv.wg.Done()
	defer func() {
		srv.mu.Lock()
		delete(srv.listeners, l)
		srv.mu.Unlock()
	}()

	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	srv.watchOnce.Do(func() { go srv.watch() })

	var backoff time.Duration
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			backoff = 0
			srv.accept(nc)
		case srv.stopping.Load():
			return ErrServerClosed
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accepting on %v: %w", l.Addr(), err)
		default: // out of descriptors, most likely: wait for some
			backoff = min(max(2*backoff, 5*time.Millisecond), time.Second)
			srv.log.Error("cannot accept a connection", "err", err, "retry", backoff)
			select {
			case <-time.After(backoff):
			case <-ctx.Done():
			case <-srv.stop:
			}
		}
	}
}

// accept starts a connection, or turns it away where there are too many.
func (srv *Server) accept(nc net.Conn) {
	srv.mu.Lock()
	p := srv.peerOf(peerAddr(nc))
	why := p.admits()
	if len(srv.conns) >= srv.cfg.Limits.Connections {
		why = "too many"
	}
	if srv.stopping.Load() || why != "" {
		srv.forgetPeers()
		srv.mu.Unlock()
		srv.metrics.refused.Inc()
		srv.log.Warn("connection refused", "client", nc.RemoteAddr().String(), "reason", why)
		nc.Close()
		return
	}
	c := newConn(srv, nc, p)
	srv.conns[c] = struct{}{}
	p.conns++
	p.unauth++
	srv.connCount.Add(1)
	srv.wg.Add(1)
	srv.mu.Unlock()
	if tcp, ok := nc.(*net.TCPConn); ok {
		tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 6})
	}
	srv.metrics.conns.Inc()
	c.log.Info("connected")
	go func() {
		defer srv.wg.Done()
		c.serve()
		srv.mu.Lock()
		delete(srv.conns, c)
		p.leave(c.authed.Load())
		srv.mu.Unlock()
		srv.connCount.Add(-1)
		srv.metrics.conns.Dec()
	}()
}

// watch cuts connections that take too long: to authenticate, to take a response
// off our hands, or to do anything at all while nothing is open.
func (srv *Server) watch() {
	l := srv.cfg.Limits
	period := max(min(l.Login, l.Idle, l.Write)/4, 10*time.Millisecond)
	tick := time.NewTicker(period)
	defer tick.Stop()
	for range tick.C {
		srv.mu.Lock()
		if srv.stopping.Load() && len(srv.conns) == 0 {
			srv.mu.Unlock()
			return
		}
		list := make([]*conn, 0, len(srv.conns))
		for c := range srv.conns {
			list = append(list, c)
		}
		srv.mu.Unlock()
		now := time.Now()
		for _, c := range list {
			if err := c.overdue(now); err != nil {
				c.abort(err)
			}
			c.retireIdle()
		}
	}
}

var (
	errLoginTimeout = errors.New("did not authenticate in time")
	errWriteTimeout = errors.New("does not take its responses")
	errIdleTimeout  = errors.New("idle, and nothing open")
)

// overdue says why the connection has to be cut, if it has.
func (c *conn) overdue(now time.Time) error {
	l := &c.srv.cfg.Limits
	since := func(ns int64) time.Duration { return now.Sub(time.Unix(0, ns)) }
	if ns := c.writeSince.Load(); ns != 0 && since(ns) > l.Write {
		return errWriteTimeout
	}
	if !c.authed.Load() && now.Sub(c.opened) > l.Login {
		return errLoginTimeout
	}
	if since(c.lastUse.Load()) > l.Idle && !c.hasOpens() {
		return errIdleTimeout
	}
	return nil
}

// hasOpens reports whether any session of the connection has something open.
func (c *conn) hasOpens() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range c.sessions {
		if ch.session.countOpens() > 0 {
			return true
		}
	}
	return len(c.async) > 0
}
