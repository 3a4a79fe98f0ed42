package shares

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lunless/smbstore/smb2"
)

const (
	maxTransfer = 8 << 20   // most bytes of one READ, WRITE or transaction
	inlineRead  = 64 << 10  // a longer READ goes to a worker
	batchSize   = 192 << 10 // responses gathered before they are sent
	laneDepth   = 64        // frames waiting for the lane before the reader waits

	// What those may hold who have told us no password.
	maxUnauthSessions = 8  // a connection without an authenticated session
	maxAnonymousOpens = 16 // pipes of an anonymous session
)

// conn is a client's connection (MS-SMB2 3.3.1.7).
//
// Lock order, outermost first: session.setupMu, Server.mu, conn.mu, session.mu, an open's locks
// (open.go), shares/state. share.mu, conn.creditMu, conn.writeMu and
// notices.mu are innermost: nothing is locked while they are held.
type conn struct {
	srv    *Server
	nc     net.Conn
	peer   *clientHost
	log    *slog.Logger
	ctx    context.Context // ends with the connection
	cancel context.CancelCauseFunc
	opened time.Time

	neg negotiated // set by NEGOTIATE on the reader goroutine, before anything else runs

	// The reader goroutine's own.
	in    receiver
	batch reply
	req   request
	job   job

	lane     chan *job      // work for the lane goroutine
	laneDone chan struct{}  // closed when that has ended
	work     chan *job      // work for whichever worker is free
	workers  atomic.Int32   // how many there are
	retire   chan struct{}  // ends a worker that is free
	retired  chan struct{}  // one has ended
	handed   atomic.Uint32  // jobs handed to workers
	seen     uint32         // handed, when Server.watch looked last
	tasks    sync.WaitGroup // the workers
	asyncs   sync.WaitGroup // requests that have gone async
	inFlight budget         // bytes that workers may hold

	mu        sync.Mutex // after Server.mu
	ended     bool
	sessions  map[uint64]*channel // Connection.SessionTable
	gone      [4]*channel         // that ended last, for their keys; see request.signAsStranger
	async     map[uint64]*asyncOp
	active    []*activity // of the lane and the workers
	lastAsync uint64

	last atomic.Pointer[channel] // found last: a hint for findChannel

	creditMu sync.Mutex // guards window
	window   window

	notices notices

	writeMu    sync.Mutex   // serialises writes to nc
	writeSince atomic.Int64 // when the write in progress began, ns; 0 none
	lastUse    atomic.Int64 // when the client was last heard of, ns
	authed     atomic.Bool  // a session has been authenticated
}

func newConn(srv *Server, nc net.Conn, p *clientHost) *conn {
	ctx, cancel := context.WithCancelCause(context.Background())
	c := &conn{
		srv: srv, nc: nc, peer: p, ctx: ctx, cancel: cancel, opened: time.Now(),
		log:      srv.log.With("client", nc.RemoteAddr().String()),
		in:       newReceiver(nc),
		lane:     make(chan *job, laneDepth),
		laneDone: make(chan struct{}),
		work:     make(chan *job),
		retire:   make(chan struct{}),
		retired:  make(chan struct{}, 1),
		inFlight: newBudget(srv),
		sessions: map[uint64]*channel{},
		async:    map[uint64]*asyncOp{},
		window:   newWindow(srv.cfg.Limits.Credits),
	}
	c.batch = reply{flush: c.send, frame: -1}
	c.inFlight.freed.L = &c.inFlight.mu
	c.lastUse.Store(c.opened.UnixNano())
	return c
}

// serve reads and answers until the connection ends, then takes everything down
// that belonged to it.
func (c *conn) serve() {
	go c.runLane()
	err := c.read()
	switch {
	case errors.Is(err, io.EOF):
		// The client has closed its end, perhaps to learn, by our closing ours,
		// when nothing it sent can have an effect any more: it then sends again
		// what was not answered, and a WRITE of before must not land after that.
		c.cancel(err)
	case err != nil:
		c.abort(err) // whoever is writing fails now
	}
	close(c.work) // only the reader hands out work, and workers pass some on to the lane
	c.tasks.Wait()
	close(c.lane)
	<-c.laneDone
	c.teardown(err)
}

// read is the reader goroutine's loop. It returns nil when the server stops.
func (c *conn) read() (err error) {
	defer func() {
		if v := recover(); v != nil {
			c.req.leaveOpen()
			err = c.crashed(v)
		}
	}()
	for {
		if c.in.max == maxUnauth && c.authed.Load() {
			c.in.max = c.srv.cfg.Limits.Transfer + frameMargin
		}
		frame, err := c.in.next()
		if err != nil {
			return err
		}
		if frame != nil {
			if err := c.frame(frame); err != nil {
				c.flush()
				return err
			}
			continue
		}
		c.flush()
		if err := c.in.fill(); err != nil {
			if c.srv.stopping.Load() && !errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		c.lastUse.Store(time.Now().UnixNano())
	}
}

// frame takes one frame: decrypts it, or leaves that to a worker if it is large,
// and decides where it is answered.
func (c *conn) frame(frame []byte) error {
	c.job = job{msg: frame}
	switch smb2.ProtocolID(frame) {
	case smb2.ProtocolSMB2:
	case smb2.ProtocolTransform:
		if len(frame) > smallFrame {
			c.job.raw = true
			return c.toWorker()
		}
		if err := c.unseal(&c.job); err != nil {
			return err
		}
	case smb2.ProtocolSMB1:
		return c.negotiateSMB1(frame)
	default:
		return fatalf("protocol id %08x", smb2.ProtocolID(frame))
	}
	return c.schedule(&c.job)
}

// unseal decrypts a frame in place (MS-SMB2 3.3.5.2.1.1).
func (c *conn) unseal(j *job) error {
	id, err := smb2.TransformSession(j.msg)
	if err != nil {
		return fatalError{err}
	}
	ch := c.findChannel(id)
	if ch == nil || !ch.usable() || ch.session.opener == nil {
		return fatalf("message encrypted for session %x, which has no key", id)
	}
	// Opening uses the bytes behind the frame, where the next may be already.
	var next [smb2.SealTailroom]byte
	tail := j.msg[len(j.msg):min(len(j.msg)+smb2.SealTailroom, cap(j.msg))]
	copy(next[:], tail)
	s := ch.session
	msg, err := s.opener.Open(j.msg)
	copy(tail, next[:])
	if err != nil {
		return fatalf("session %x: %w", id, err)
	}
	if smb2.ProtocolID(msg) != smb2.ProtocolSMB2 {
		return fatalf("protocol id %08x in an encrypted message", smb2.ProtocolID(msg))
	}
	j.msg, j.sealed, j.raw = msg, s, false
	return nil
}

// placeOf says where a frame is answered.
func placeOf(j *job) (place, error) {
	if len(j.msg) < smb2.HeaderSize {
		return 0, fatalf("message of %d bytes", len(j.msg))
	}
	code := binary.LittleEndian.Uint16(j.msg[12:])
	switch {
	case code >= smb2.NumCommands:
		return 0, fatalf("command %#04x", code)
	case binary.LittleEndian.Uint32(j.msg[20:]) != 0:
		return ordered, nil // a compound
	}
	where := commands[code].place
	if where == data {
		long := len(j.msg) > smallFrame
		if smb2.Command(code) == smb2.CommandRead && len(j.msg) >= smb2.HeaderSize+8 {
			long = binary.LittleEndian.Uint32(j.msg[smb2.HeaderSize+4:]) > inlineRead
		}
		if long {
			return onWorker, nil
		}
		return onReader, nil
	}
	return where, nil
}

// schedule answers the reader's frame here, or passes it on.
func (c *conn) schedule(j *job) error {
	where, err := placeOf(j)
	if err != nil {
		return err
	}
	switch where {
	case onReader:
		return c.answer(j)
	case onWorker:
		return c.toWorker()
	}
	cost := int64(len(j.msg))
	if cost <= smallFrame {
		return c.toLane(c.detached(), true)
	}
	if err := c.hold(cost); err != nil {
		return err
	}
	d := c.detached()
	d.cost = cost
	return c.toLane(d, true)
}

// answer works on a frame of a single command on the reader goroutine. If the
// command would have to wait, a worker does it again.
func (c *conn) answer(j *job) error {
	r := &c.req
	r.reset(c, &c.batch)
	if err := r.hdr.Decode(j.msg); err != nil {
		return fatalError{err}
	}
	if err := c.admit(r, j, false); err != nil {
		return err
	}
	r.msg, r.encrypted, r.last, r.related = j.msg, j.sealed != nil, true, r.hdr.IsRelated()
	var ch chain
	if r.related {
		ch.broken = smb2.StatusInvalidParameter // nothing to be related to
	}
	if c.batch.buf == nil {
		c.batch.buf = getBuffer(batchSize + inlineRead)
	}
	c.batch.begin(j.sealed)
	err := c.run(r, &ch)
	if err == errWouldWait {
		c.batch.cancel()
		j.admitted = true
		return c.toWorker()
	}
	if err != nil {
		c.batch.cancel()
		return err
	}
	if err := c.batch.end(); err != nil {
		return err
	}
	if len(c.batch.buf.b) >= batchSize {
		c.flush()
	}
	return nil
}

// flush sends what the reader has gathered, and lets go of the buffer: an idle
// connection needs none.
func (c *conn) flush() {
	if b := c.batch.buf; b != nil {
		c.send(b.b)
		b.release()
		c.batch.buf = nil
	}
}

// send writes finished frames.
func (c *conn) send(frames []byte) {
	if len(frames) > 0 {
		c.write(frames)
	}
}

// write writes finished frames, one write at a time. A failure ends the connection.
func (c *conn) write(frames []byte) error {
	c.writeMu.Lock()
	c.writeSince.Store(time.Now().UnixNano())
	_, err := c.nc.Write(frames)
	c.writeSince.Store(0)
	c.writeMu.Unlock()
	if err != nil {
		c.abort(fmt.Errorf("writing a response: %w", err))
	}
	return err
}

// abort ends the connection at once; serve takes it down.
func (c *conn) abort(err error) {
	c.cancel(err)
	c.nc.Close()
	c.inFlight.close()
}

// crashed turns a panic into the end of the connection it happened on.
func (c *conn) crashed(v any) error {
	c.srv.metrics.panics.Inc()
	c.log.Error("internal error", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	return fatalf("internal error")
}

// findChannel finds the channel by which the connection reaches a session, or nil.
func (c *conn) findChannel(id uint64) *channel {
	if ch := c.last.Load(); ch != nil && ch.session.id == id {
		return ch
	}
	c.mu.Lock()
	ch := c.sessions[id]
	if ch != nil {
		c.last.Store(ch)
	}
	c.mu.Unlock()
	return ch
}

// addChannel enters a new channel; false if the connection has ended or has too
// many, or one to that session.
func (c *conn) addChannel(ch *channel) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	limit := c.srv.cfg.Limits.Sessions
	if !c.authed.Load() {
		limit = min(limit, maxUnauthSessions)
	}
	if c.ended || len(c.sessions) >= limit || c.sessions[ch.session.id] != nil {
		return false
	}
	c.sessions[ch.session.id] = ch
	return true
}

func (c *conn) removeChannel(ch *channel) {
	c.mu.Lock()
	if c.sessions[ch.session.id] == ch {
		delete(c.sessions, ch.session.id)
		if ch.bound.Load() {
			copy(c.gone[1:], c.gone[:])
			c.gone[0] = ch
		}
	}
	c.last.CompareAndSwap(ch, nil)
	c.mu.Unlock()
}

// teardown ends what the connection leaves behind (MS-SMB2 3.3.7.1).
func (c *conn) teardown(err error) {
	why := errConnEnded
	if err == nil {
		why = errServerStops
	}
	c.mu.Lock()
	c.ended = true
	list := slices.Collect(maps.Values(c.sessions))
	c.mu.Unlock()
	c.cancelAsync(why, func(*asyncOp) bool { return true })
	c.asyncs.Wait()
	for _, ch := range list {
		c.removeChannel(ch)
		ch.session.dropChannel(context.Background(), ch, why)
	}
	c.cancel(why)
	c.nc.Close()
	c.in.close()
	c.batch.buf.release()
	c.logEnd(context.Cause(c.ctx))
}
