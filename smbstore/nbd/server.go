package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

var (
	// ErrPlain: a listener off this machine needs TLS.
	ErrPlain = errors.New("off a unix socket exports are served over TLS only")
	// ErrServerClosed: the server was shut down.
	ErrServerClosed = errors.New("nbd server is shut down")
)

// Options describe a server.
type Options struct {
	// TLS is of connections off unix sockets, which have to begin with STARTTLS.
	// Whom it lets pass may use every export: it should demand certificates of
	// clients. On a unix socket, whose file says who may connect, there is none.
	TLS *tls.Config
	// AllowPlain serves without TLS on any listener: whoever can connect can read
	// and write.
	AllowPlain bool
	// Log may be nil.
	Log    *slog.Logger
	Limits Limits
}

// Limits bound what clients can make a server keep. A zero field takes the default.
type Limits struct {
	Connections int // default 1024
	Handshakes  int // of those, in negotiation; default 64
	InFlight    int // requests of a connection; default 128
	// ConnMemory is what the data of a connection's requests may take without asking
	// for shared memory; default 1 MiB. A connection may always have one request, of
	// up to 32 MiB.
	ConnMemory int64
	// Memory is what all connections share beyond that, none of them more than a
	// quarter; default 64 MiB.
	Memory int64
	// Handshake is how long a negotiation may take; default 30 s.
	Handshake time.Duration
}

func (l *Limits) fill() {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&l.Connections, 1024)
	def(&l.Handshakes, 64)
	def(&l.InFlight, 128)
	if l.ConnMemory <= 0 {
		l.ConnMemory = 1 << 20
	}
	if l.Memory <= 0 {
		l.Memory = 64 << 20
	}
	if l.Handshake <= 0 {
		l.Handshake = 30 * time.Second
	}
}

// Server serves exports. All methods may be called concurrently.
type Server struct {
	opts    Options
	buffers bufferPool
	memory  budget
	monitor monitor

	mu         sync.Mutex
	exports    map[string]*Export        // guarded by mu
	conns      map[*conn]struct{}        // guarded by mu
	listeners  map[net.Listener]struct{} // guarded by mu
	handshakes int                       // guarded by mu
	stopping   bool                      // guarded by mu
	wg         sync.WaitGroup            // connections; added to under mu, unless stopping
}

// NewServer returns a server without exports.
func NewServer(o Options) *Server {
	o.Limits.fill()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{opts: o, exports: map[string]*Export{}, conns: map[*conn]struct{}{}, listeners: map[net.Listener]struct{}{}}
	s.memory.left.Store(o.Limits.Memory)
	s.monitor.wake = make(chan struct{}, 1)
	return s
}

// Add offers an export. Errors: ErrExists, ErrBadExport, ErrServerClosed.
func (s *Server) Add(o ExportOptions) (*Export, error) {
	e, err := newExport(o)
	if err != nil {
		return nil, err
	}
	e.log.to, e.log.every = s.opts.Log, tallyEvery
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return nil, ErrServerClosed
	}
	if s.exports[o.Name] != nil {
		return nil, fmt.Errorf("%w: %q", ErrExists, o.Name)
	}
	s.exports[o.Name] = e
	return e, nil
}

// Remove takes an export back: nobody can connect to it any more, its clients'
// requests that are at the device are finished and answered, and its connections
// closed. If ctx ends first the rest is cancelled. When Remove returns, nothing
// uses the export's device. Errors: ErrUnknown, ctx's.
func (s *Server) Remove(ctx context.Context, name string) error {
	s.mu.Lock()
	e := s.exports[name]
	delete(s.exports, name)
	s.mu.Unlock()
	if e == nil {
		return fmt.Errorf("remove %q: %w", name, ErrUnknown)
	}
	e.mu.Lock()
	e.closed = true
	conns := make([]*conn, 0, len(e.conns))
	for c := range e.conns {
		conns = append(conns, c)
	}
	e.mu.Unlock()
	return stopAll(ctx, conns)
}

// List returns the exports, ordered by name.
func (s *Server) List() []*Export {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*Export, 0, len(s.exports))
	for _, e := range s.exports {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b *Export) int { return strings.Compare(a.opts.Name, b.opts.Name) })
	return all
}

// find returns the export that a client's name means: "" is the only export there
// is, if none has that name.
func (s *Server) find(name string) *Export {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.exports[name]; e != nil || name != "" || len(s.exports) != 1 {
		return e
	}
	for _, e := range s.exports {
		return e
	}
	return nil
}

// Serve serves on l, which it closes, until ctx ends or the server is shut down.
// The end of ctx cancels every request of l's connections; for an orderly end call
// Shutdown first. When Serve returns, nothing of l's connections uses a device.
// Returns nil after ctx or Shutdown ended it. Errors: ErrPlain, the listener's.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	defer l.Close()
	local := l.Addr().Network() == "unix"
	if !local && s.opts.TLS == nil && !s.opts.AllowPlain {
		return fmt.Errorf("serve on %v: %w", l.Addr(), ErrPlain)
	}
	s.mu.Lock()
	if s.stopping {
		s.mu.Unlock()
		return ErrServerClosed
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	s.monitor.start()
	defer s.monitor.stop()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
	}()
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()

	var own sync.WaitGroup
	err := s.accept(ctx, l, func(nc net.Conn) {
		c := s.admit(ctx, nc, !local && s.opts.TLS != nil)
		if c == nil {
			nc.Close()
			return
		}
		own.Go(func() {
			defer s.dismiss(c)
			c.run()
		})
	})
	if err != nil {
		cancel()
	}
	own.Wait() // Shutdown ends the connections, or ctx does
	cancel()
	return err
}

// accept hands connections to take until the listener is closed.
func (s *Server) accept(ctx context.Context, l net.Listener, take func(net.Conn)) error {
	var pause time.Duration
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			take(nc)
			continue
		case ctx.Err() != nil || s.isStopping():
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept on %v: %w", l.Addr(), err)
		}
		// Out of descriptors or memory, as a rule: others will give some back.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		s.opts.Log.Warn("cannot accept an NBD connection", "listener", l.Addr().String(), "error", err, "retry_in", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Server) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

// admit makes a connection of nc, nil if there are too many.
func (s *Server) admit(ctx context.Context, nc net.Conn, forceTLS bool) *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return nil
	}
	if len(s.conns) >= s.opts.Limits.Connections || s.handshakes >= s.opts.Limits.Handshakes {
		s.opts.Log.Warn("refused an NBD connection: too many", "connections", len(s.conns), "in_negotiation", s.handshakes)
		return nil
	}
	c := newConn(ctx, s, nc, forceTLS)
	s.conns[c] = struct{}{}
	s.handshakes++
	s.wg.Add(1)
	return c
}

// negotiated takes note that a connection has left negotiation.
func (s *Server) negotiated() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handshakes--
}

func (s *Server) dismiss(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	s.wg.Done()
}

// Shutdown stops in order: nobody can connect any more, requests that have
// arrived are finished and answered, then connections are closed. Requests that
// wait for a held export are dropped without an answer. If ctx ends first, the
// rest is cancelled. When Shutdown returns nothing uses a device. Errors: ctx's.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.stopping = true
	for l := range s.listeners {
		l.Close()
	}
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	err := stopAll(ctx, conns)
	s.wg.Wait()
	return err
}

// stopAll ends connections in order, and by force when ctx ends.
func stopAll(ctx context.Context, conns []*conn) error {
	for _, c := range conns {
		c.stop()
	}
	var err error
	for _, c := range conns {
		select {
		case <-c.done:
			continue
		default:
		}
		select {
		case <-c.done:
		case <-ctx.Done():
			err = ctx.Err()
			c.abort()
			<-c.done
		}
	}
	return err
}
