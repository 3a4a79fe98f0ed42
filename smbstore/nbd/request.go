package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

// header is a request as it came.
type header struct {
	flags  uint16
	cmd    command
	cookie uint64
	off    uint64
	n      uint32
}

func parseHeader(b []byte) (header, error) {
	if m := binary.BigEndian.Uint32(b); m != magicRequest {
		return header{}, fmt.Errorf("request with magic number %#x", m)
	}
	return header{
		flags: binary.BigEndian.Uint16(b[4:]), cmd: command(binary.BigEndian.Uint16(b[6:])),
		cookie: binary.BigEndian.Uint64(b[8:]), off: binary.BigEndian.Uint64(b[16:]), n: binary.BigEndian.Uint32(b[24:]),
	}, nil
}

// request is a request under way. A connection reuses those it has.
type request struct {
	header
	next    *request // in the list of free ones, or of replies
	began   atomic.Int64
	buf     *buffer // nil if there is no data, or it lies in the input
	data    []byte  // what is written, or is to be read
	charged int64   // bytes of memory taken
	shared  bool    // from the server's
	frames  [][]byte
	vectors [2 * maxChunks][]byte
	heads   [maxChunks * headroom]byte
}

// take waits until there is room for one more request with n bytes of data, n at
// most maxPayload, and returns it with a buffer if n is not 0.
func (c *conn) take(h header, n int) (*request, error) {
	now := clock()
	var tick *time.Ticker
	for {
		c.mu.Lock()
		r := c.tryTake(n)
		c.short = r == nil
		c.mu.Unlock()
		if r != nil {
			r.header = h
			if n > 0 {
				r.buf = c.srv.buffers.get(n)
				r.data = r.buf.data(n)
			}
			c.exp.counters.inFlight.Add(1)
			r.began.Store(now)
			return r, nil
		}
		c.flush() // what they hold is waited for
		if tick == nil {
			tick = time.NewTicker(hangUpInterval)
			defer tick.Stop()
		}
		select {
		case <-c.room:
		case <-tick.C:
			if c.hungUp() {
				return nil, io.EOF
			}
		case <-c.waiting.Done():
			if err := c.ctx.Err(); err != nil {
				return nil, err
			}
			return nil, errEnd
		}
	}
}

// tryTake is take for one that does not wait; nil if there is no room. The caller
// holds mu.
//
// A connection that has no memory of its own in use gets what it needs, whatever
// others have: so each goes on, one request at a time at worst.
func (c *conn) tryTake(n int) *request {
	limits := &c.srv.opts.Limits
	if c.busy >= limits.InFlight {
		return nil
	}
	var charge int64
	shared := false
	if n > 0 {
		charge = classSize(classOf(n))
		if c.own > 0 && c.own+charge > limits.ConnMemory {
			if shared = c.pooled+charge <= limits.Memory/4 && c.srv.memory.take(charge); !shared {
				return nil
			}
			c.pooled += charge
		} else {
			c.own += charge
		}
	}
	r := c.free
	if r == nil {
		r = &request{}
		c.all = append(c.all, r)
	} else {
		c.free = r.next
	}
	r.next, r.charged, r.shared = nil, charge, shared
	c.busy++
	return r
}

// put puts a list of requests back. The caller holds mu.
func (c *conn) put(r *request) {
	for r != nil {
		next := r.next
		if r.buf != nil {
			c.srv.buffers.put(r.buf)
		}
		if r.shared {
			c.pooled -= r.charged
			c.srv.memory.give(r.charged)
		} else {
			c.own -= r.charged
		}
		clear(r.frames)
		r.buf, r.data, r.frames = nil, nil, nil
		r.next, c.free = c.free, r
		c.busy--
		if c.short {
			c.short = false
			select {
			case c.room <- struct{}{}:
			default:
			}
		}
		r = next
	}
	if c.ended && c.busy == 0 && !c.over {
		c.over = true
		close(c.idle)
	}
}

// discard puts a request back that is not answered.
func (c *conn) discard(r *request) {
	r.began.Store(0)
	c.exp.counters.inFlight.Add(-1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(r)
}

// oldest is when the oldest request in flight arrived, 0 if there is none.
func (c *conn) oldest() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	var oldest int64
	for _, r := range c.all {
		if t := r.began.Load(); t != 0 && (oldest == 0 || t < oldest) {
			oldest = t
		}
	}
	return oldest
}

// cost is what requests of a kind took at the device lately, in nanoseconds. One
// that took long counts little, for it may have been the processor that was away:
// only when several do is it the device.
type cost struct{ average atomic.Int64 }

func (c *cost) add(took int64) {
	a := c.average.Load()
	c.average.Store(a + (min(took, 3*quickCost)-a)/16)
}

// A request is served by the reader itself if it is small and such requests have
// been quick: then handing it over costs more than it could gain.
const (
	quickSize = 32 << 10
	quickCost = int64(50 * time.Microsecond)
)

func (c *conn) isQuick(h *header) bool {
	switch h.cmd {
	case cmdRead:
	case cmdWrite:
		if h.flags&cmdFlagFUA != 0 {
			return false
		}
	default:
		return false
	}
	return h.n <= quickSize && c.costs[h.cmd].average.Load() < quickCost
}

// readRequest reads a request and serves it, or hands it to a worker. relieved
// tells that another goroutine is the reader now.
func (c *conn) readRequest(in *input) (relieved bool, err error) {
	if in.buffered() < requestSize {
		c.flush()
		if err := in.need(requestSize); err != nil {
			return false, err
		}
	}
	h, err := parseHeader(in.next(requestSize))
	if err != nil {
		return false, err
	}
	if h.cmd == cmdDisc {
		return false, errEnd
	}
	if h.cmd == cmdWrite && h.n > maxPayload {
		return false, fmt.Errorf("write of %d bytes, more than the %d it was told", h.n, maxPayload)
	}
	if e := c.check(&h); e != 0 {
		return false, c.reject(in, h, e)
	}
	if c.isQuick(&h) {
		done, relieved, err := c.serveHere(in, h)
		if done || err != nil {
			return relieved, err
		}
	}
	return false, c.handOver(in, h)
}

// serveHere serves a request in the reader; done is false if it would have to
// wait for a held export.
func (c *conn) serveHere(in *input, h header) (done, relieved bool, err error) {
	n := int(h.n)
	if h.cmd == cmdWrite {
		if in.buffered() < n {
			c.flush()
			if err := in.need(n); err != nil {
				return false, false, midway(err)
			}
		}
		n = 0
	}
	r, err := c.take(h, n)
	if err != nil {
		return false, false, err
	}
	dev, gateErr, ok := c.exp.gate.tryEnter()
	if !ok {
		c.discard(r)
		return false, false, nil
	}
	if h.cmd == cmdWrite {
		r.data = in.next(int(h.n))
	}
	turn := c.turn.Load() + 1
	c.turn.Store(turn)
	c.srv.monitor.noteBusy()
	answer := c.perform(r, dev, gateErr, r.began.Load())
	relieved = !c.turn.CompareAndSwap(turn, turn+1)
	if !answer {
		c.discard(r)
		return true, relieved, nil
	}
	c.reply(r, !relieved && in.buffered() >= requestSize)
	return true, relieved, nil
}

// handOver reads what belongs to a request and gives it to a worker.
func (c *conn) handOver(in *input, h header) error {
	r, err := c.take(h, h.memory())
	if err != nil {
		return err
	}
	if h.cmd == cmdWrite {
		if in.buffered() < len(r.data) {
			c.flush()
		}
		if err := in.readFull(r.data); err != nil {
			c.discard(r)
			return midway(err)
		}
	}
	select {
	case c.work <- r:
		return nil
	default:
	}
	c.mu.Lock()
	spawn := c.workers < c.srv.opts.Limits.InFlight
	if spawn {
		c.workers++
	}
	c.mu.Unlock()
	if spawn {
		go c.worker(r)
		return nil
	}
	select {
	case c.work <- r:
		return nil
	case <-c.ctx.Done():
		c.discard(r)
		return c.ctx.Err()
	}
}

// reject answers a request with an error that its header alone deserves.
func (c *conn) reject(in *input, h header, e Errno) error {
	r, err := c.take(h, 0)
	if err != nil {
		return err
	}
	if h.cmd == cmdWrite {
		if in.buffered() < int(h.n) {
			c.flush()
		}
		if err := in.skip(int(h.n)); err != nil {
			c.discard(r)
			return midway(err)
		}
	}
	c.finish(r, e, nil)
	c.reply(r, in.buffered() >= requestSize)
	return nil
}

// midway is the error of a connection that ended within a request.
func midway(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// worker serves requests until the connection ends.
func (c *conn) worker(r *request) {
	for {
		dev, gateErr, ok := c.exp.gate.enter(c.waiting)
		if ok && c.perform(r, dev, gateErr, 0) {
			c.reply(r, false)
		} else {
			c.discard(r)
		}
		if r, ok = <-c.work; !ok {
			return
		}
	}
}

// check tells what is wrong with a request's header, 0 for nothing.
func (c *conn) check(h *header) Errno {
	o := &c.exp.opts
	allowed := uint16(cmdFlagFUA)
	switch h.cmd {
	case cmdRead:
		if c.structured {
			allowed |= cmdFlagDF
		}
	case cmdWriteZeroes:
		allowed |= cmdFlagNoHole
		if o.FastZero {
			allowed |= cmdFlagFastZero
		}
	case cmdBlockStatus:
		allowed |= cmdFlagReqOne
		if !c.allocation || h.n == 0 {
			return EINVAL
		}
	}
	size := uint64(c.exp.size)
	switch {
	case h.cmd >= commands, h.flags&^allowed != 0:
		return EINVAL
	case h.cmd == cmdFlush:
		return 0
	case h.cmd.changes() && o.ReadOnly:
		return EPERM
	case h.off > size, uint64(h.n) > size-h.off:
		return beyond(h.cmd)
	case h.off%uint64(c.align) != 0, int64(h.n)%c.align != 0:
		return EINVAL
	case h.cmd == cmdRead && h.n > maxPayload && c.structured:
		return EOVERFLOW
	case h.cmd == cmdRead && h.n > maxPayload:
		return EINVAL
	case h.cmd == cmdWriteZeroes && h.flags&cmdFlagFastZero != 0 && h.flags&cmdFlagNoHole != 0:
		return ENOTSUP // that is written, byte by byte
	}
	return 0
}

// Memory for what a worker needs beside a payload.
const (
	cachePiece     = 256 << 10
	maxCache       = maxPayload // of one request; the rest is left out
	maxDescriptors = 8 << 10    // of one reply
)

// memory is how much buffer a request needs.
func (h *header) memory() int {
	switch {
	case h.cmd == cmdRead || h.cmd == cmdWrite:
		return int(h.n)
	case h.cmd == cmdCache:
		return int(min(h.n, cachePiece))
	case h.cmd == cmdBlockStatus && h.flags&cmdFlagReqOne != 0:
		return descriptorSize
	case h.cmd == cmdBlockStatus:
		return maxDescriptors * descriptorSize
	}
	return 0
}
