package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// conn is one client. One goroutine at a time is its reader: it takes requests
// off the socket, serves small ones itself and hands the others to workers. Any
// goroutine that has a reply may become the writer for the time that there are
// replies to send. No lock is held while a peer is waited for.
type conn struct {
	srv      *Server
	raw      net.Conn        // the socket
	nc       net.Conn        // the socket, or TLS on it
	ctx      context.Context // ends when the connection has to go at once
	cancel   context.CancelFunc
	waiting  context.Context // ends when nothing is to wait any more: stop, or ctx
	noWait   context.CancelFunc
	forceTLS bool

	// Set by negotiation, before the first request.
	exp        *Export
	structured bool
	allocation bool  // base:allocation was selected
	align      int64 // what offsets and lengths are multiples of

	result   chan error    // how the reader ended
	turn     atomic.Uint64 // odd while the reader serves a request itself
	seen     uint64        // monitor's: turn when it last looked
	reading  *input        // monitor's, once it knows the connection: the reader's
	stopping atomic.Bool
	parted   atomic.Bool // the client said good-bye: what it had asked for is done
	work     chan *request
	room     chan struct{} // capacity 1: a request was put back while the reader waited
	silent   chan struct{} // closed when the reader has ended
	idle     chan struct{} // closed when the reader has ended and no request is left
	done     chan struct{} // closed when nothing of the connection is left

	costs [commands]cost

	mu      sync.Mutex
	all     []*request // guarded by mu; they are reused
	free    *request   // guarded by mu
	busy    int        // guarded by mu: requests taken and not put back
	short   bool       // guarded by mu: the reader waits for room
	ended   bool       // guarded by mu: the reader takes no more requests
	workers int        // guarded by mu
	own     int64      // guarded by mu: bytes of ConnMemory in use, or one larger request
	pooled  int64      // guarded by mu: bytes of the server's memory in use
	head    *request   // guarded by mu: replies to send
	tail    *request   // guarded by mu
	queued  int        // guarded by mu: replies in that list
	writing bool       // guarded by mu: somebody is the writer
	broken  bool       // guarded by mu: the socket cannot be written to
	over    bool       // guarded by mu: idle is closed

	out  [][]byte    // the writer's
	bufs net.Buffers // the writer's
}

func newConn(ctx context.Context, s *Server, nc net.Conn, forceTLS bool) *conn {
	c := &conn{srv: s, raw: nc, nc: nc, forceTLS: forceTLS, align: 1, work: make(chan *request),
		room: make(chan struct{}, 1), result: make(chan error, 1), silent: make(chan struct{}), idle: make(chan struct{}), done: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(ctx)
	c.waiting, c.noWait = context.WithCancel(c.ctx)
	return c
}

// run serves the client until it goes away, misbehaves, or is stopped.
func (c *conn) run() {
	defer close(c.done)
	defer func() { c.nc.Close() }() // TLS says good-bye
	defer c.cancel()
	stop := context.AfterFunc(c.ctx, func() { c.raw.Close() })
	defer stop()

	in, err := c.negotiate()
	c.srv.negotiated()
	if err != nil {
		c.complain(err)
	}
	if err == nil && in != nil {
		c.transmit(in)
	}
}

// complain logs how a connection ended, unless that is nobody's fault.
func (c *conn) complain(err error) {
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || c.stopping.Load() || c.ctx.Err() != nil {
		return
	}
	c.srv.opts.Log.Warn("an NBD client was disconnected", "export", c.exportName(), "client", c.peer(), "error", err)
}

func (c *conn) exportName() string {
	if c.exp == nil {
		return ""
	}
	return c.exp.opts.Name
}

func (c *conn) peer() string {
	if s := processOf(c.raw); s != "" {
		return s
	}
	if a := c.raw.RemoteAddr(); a != nil {
		return a.String()
	}
	return ""
}

// stop ends the connection in order: nothing more is read, what has arrived is
// finished and answered, but for what waits for a held export: that is dropped.
func (c *conn) stop() {
	c.stopping.Store(true)
	c.noWait()
	_ = c.raw.SetReadDeadline(time.Unix(1, 0)) // a closed socket is at its end anyway
}

// abort ends the connection by force.
func (c *conn) abort() { c.cancel() }

// transmit serves requests until the connection is at its end and none is left.
func (c *conn) transmit(in *input) {
	e := c.exp
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return
	}
	before := make([]*conn, 0, len(e.conns))
	for o := range e.conns {
		before = append(before, o)
	}
	e.conns[c] = struct{}{}
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		delete(e.conns, c)
		e.mu.Unlock()
	}()

	if !c.outlive(before) {
		return
	}
	c.reading = in
	c.srv.monitor.add(c)
	go c.read(in)
	err := <-c.result
	close(c.silent)
	c.srv.monitor.remove(c)
	if err != nil {
		c.complain(err)
		c.cancel() // of no use any more to a client that is gone
	}
	c.mu.Lock()
	c.ended = true
	c.put(nil)
	c.mu.Unlock()
	<-c.idle
	close(c.work)
}

// outlive waits until the requests of clients that are gone have left the
// device; false if this one is at its end before. A client that lost its
// connection makes another and repeats what was not answered; a request of the old
// connection that reached the device after the new one's would bring back old data.
func (c *conn) outlive(before []*conn) bool {
	tick := time.NewTicker(hangUpInterval)
	defer tick.Stop()
	for _, o := range before {
		if !o.gone() || sabotaged("orphans") {
			continue
		}
		read := o.silent // what it sent last may be a good-bye, not read yet
		for waiting := true; waiting; {
			select {
			case <-o.done:
				waiting = false
			case <-read:
				read = nil
			case <-c.waiting.Done():
				return false
			case <-tick.C:
				if c.hungUp() {
					return false
				}
			}
			if !o.parted.Load() {
				o.abort()
			}
		}
	}
	return true
}

// hangUpInterval is how often a client that is not being read from is looked
// after: has it gone away?
const hangUpInterval = 100 * time.Millisecond

// gone tells whether the connection is of no use to its client any more, but may
// have requests left.
func (c *conn) gone() bool {
	select {
	case <-c.done:
		return false
	default:
	}
	return c.ctx.Err() != nil || c.hungUp()
}

func (c *conn) hungUp() bool { return hungUp(c.raw) }

// read is the reader: one at a time, but not always the same goroutine. It
// tells result how the connection ended, nil for in order.
func (c *conn) read(in *input) {
	for {
		relieved, err := c.readRequest(in)
		if relieved {
			return
		}
		if err != nil {
			c.flush()
			if err == errEnd {
				c.parted.Store(true)
			}
			if err == errEnd || c.stopping.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
				err = nil
			}
			c.result <- err
			return
		}
	}
}

// errEnd: the connection ends in order.
var errEnd = errors.New("end of connection")

// relieve makes another goroutine the reader, if the one that has the given turn
// still serves that request.
func (c *conn) relieve(turn uint64) {
	if c.turn.CompareAndSwap(turn, turn+1) {
		c.reading = c.reading.copy()
		go c.read(c.reading)
	}
}

// reply queues a request's reply and, unless more are about to come, sends it.
func (c *conn) reply(r *request, more bool) {
	c.mu.Lock()
	if c.tail == nil {
		c.head = r
	} else {
		c.tail.next = r
	}
	c.tail = r
	c.queued++
	if c.writing || more && c.queued < maxBatch {
		c.mu.Unlock()
		return
	}
	c.writing = true
	c.mu.Unlock()
	c.write()
}

// flush sends the replies there are.
func (c *conn) flush() {
	c.mu.Lock()
	if c.writing || c.head == nil {
		c.mu.Unlock()
		return
	}
	c.writing = true
	c.mu.Unlock()
	c.write()
}

// maxBatch is how many replies are gathered for one system call.
const maxBatch = 8

// write is the writer: it sends replies until there are none.
func (c *conn) write() {
	var sent *request
	for {
		c.mu.Lock()
		c.put(sent)
		r, broken := c.head, c.broken
		if r == nil {
			c.writing = false
			c.mu.Unlock()
			return
		}
		c.head, c.tail, c.queued = nil, nil, 0
		c.mu.Unlock()
		if sent = r; !broken {
			c.send(r)
		}
	}
}

// maxVectors bounds what is given to one writev.
const maxVectors = 256

// send sends a list of replies.
func (c *conn) send(r *request) {
	for r != nil {
		out := c.out[:0]
		for ; r != nil && len(out)+len(r.frames) <= maxVectors; r = r.next {
			out = append(out, r.frames...)
		}
		var err error
		if c.out = out; len(out) == 1 {
			_, err = c.nc.Write(out[0])
		} else {
			c.bufs = out
			_, err = c.bufs.WriteTo(c.nc)
		}
		if err != nil {
			c.mu.Lock()
			c.broken = true
			c.mu.Unlock()
			return // the reader finds the end, or a good-bye before it
		}
	}
}

// starttls puts TLS under the connection.
func (c *conn) starttls(ctx context.Context) error {
	t := tls.Server(c.raw, c.srv.opts.TLS)
	if err := t.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	c.nc = t
	return nil
}
