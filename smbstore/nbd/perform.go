package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"lunless/smbstore/block"
)

// perform does a request that has passed the gate, and makes its reply. began is
// when that was, 0 for now. false means that nobody is to be answered: the
// connection is at its end.
func (c *conn) perform(r *request, dev block.Device, err error, began int64) bool {
	if began == 0 {
		began = clock()
	}
	if err == nil {
		err = c.execute(r, dev)
	}
	c.exp.gate.leave()
	if err != nil && c.ctx.Err() != nil {
		return false
	}
	var e Errno
	if err != nil {
		e = errnoOf(err, r.cmd, c.exp.opts.Errno)
	}
	c.costs[r.cmd].add(c.finish(r, e, err) - began)
	return true
}

// finish makes a request's reply, and takes note of it. Returns the time.
func (c *conn) finish(r *request, e Errno, err error) int64 {
	if e != 0 {
		c.exp.failed(Failure{Export: c.exp.opts.Name, Peer: c.peer(), Request: r.cmd.String(),
			Offset: r.off, Length: r.n, FUA: r.flags&cmdFlagFUA != 0, Errno: e, Err: err})
	}
	c.answer(r, e)
	now := clock()
	took := now - r.began.Swap(0)
	counters := &c.exp.counters
	if r.cmd < commands {
		counters.answered(r.cmd, time.Duration(took), int64(r.n), e != 0)
	}
	counters.inFlight.Add(-1)
	return now
}

// execute has the device do a request.
func (c *conn) execute(r *request, dev block.Device) error {
	off, n := int64(r.off), int64(r.n)
	var flags block.WriteFlags
	if r.flags&cmdFlagFUA != 0 && !sabotaged("fua-dropped") {
		flags |= block.FUA
	}
	if n == 0 && r.cmd != cmdFlush {
		return nil
	}
	switch r.cmd {
	case cmdRead:
		return dev.ReadAt(c.ctx, r.data, off)
	case cmdWrite:
		return dev.WriteAt(c.ctx, r.data, off, flags)
	case cmdFlush:
		if c.exp.opts.ReadOnly || sabotaged("flush-early") {
			return nil // nothing was written through it
		}
		return dev.Flush(c.ctx)
	case cmdTrim:
		err := dev.Trim(c.ctx, off, n)
		if err == nil && flags&block.FUA != 0 {
			err = dev.Flush(c.ctx)
		}
		return err
	case cmdWriteZeroes:
		if r.flags&cmdFlagNoHole != 0 {
			flags |= block.NoUnmap
		}
		return dev.WriteZeroes(c.ctx, off, n, flags)
	case cmdCache:
		return warm(c.ctx, dev, r.data, off, min(n, maxCache))
	case cmdBlockStatus:
		return r.status(c.ctx, dev)
	}
	return errors.ErrUnsupported // check lets none of these pass
}

// sabotage names a promise to break, so that tests can show that they would
// notice. Nothing but a test sets it.
var sabotage string

func sabotaged(name string) bool { return sabotage == name }

// warm reads a range, so that what lies below has it at hand.
func warm(ctx context.Context, dev block.Device, p []byte, off, n int64) error {
	for n > 0 {
		c := min(n, int64(len(p)))
		if err := dev.ReadAt(ctx, p[:c], off); err != nil {
			return err
		}
		off, n = off+c, n-c
	}
	return nil
}

// errEnough ends a walk over extents.
var errEnough = errors.New("enough extents")

// status fills the request's data with descriptors of base:allocation: as many as
// there is room for, one if that was asked for.
func (r *request) status(ctx context.Context, dev block.Device) error {
	out := r.data[:0]
	var length, state uint32
	add := func() {
		out = binary.BigEndian.AppendUint32(out, length)
		out = binary.BigEndian.AppendUint32(out, state)
		length = 0
	}
	err := dev.Extents(ctx, int64(r.off), int64(r.n), func(e block.Extent) error {
		s := uint32(0)
		if e.State != block.Data { // writing there may need room
			s = stateHole | stateZero
		}
		if length > 0 && s != state {
			add()
			if len(out) == len(r.data) {
				return errEnough
			}
		}
		state = s
		length += uint32(e.Length) // all of them are in a request's 32 bits
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return err
	}
	if length == 0 && len(out) == 0 { // a reply has one at least
		length = r.n
	}
	if length > 0 && len(out) < len(r.data) {
		add()
	}
	r.data = out
	return nil
}

// maxChunks bounds the chunks of one structured reply.
const maxChunks = 16

// holePiece is the unit in which a read's data is looked at for zeroes.
const holePiece = 64 << 10

// answer makes the frames of a request's reply.
func (c *conn) answer(r *request, e Errno) {
	r.frames = r.vectors[:0]
	switch {
	case c.structured && e != 0:
		r.errorChunk(e)
	case c.structured && r.cmd == cmdRead:
		r.readChunks()
	case r.cmd == cmdBlockStatus && e == 0:
		f := r.buf.framed(chunkSize+4, len(r.data))
		putChunk(f, replyFlagDone, replyBlockStatus, r.cookie, 4+len(r.data))
		binary.BigEndian.PutUint32(f[chunkSize:], contextID)
		r.frames = append(r.frames, f)
	default:
		f := r.heads[:simpleSize]
		if r.cmd == cmdRead && e == 0 && r.n > 0 {
			f = r.buf.framed(simpleSize, len(r.data))
		}
		binary.BigEndian.PutUint32(f, magicSimple)
		binary.BigEndian.PutUint32(f[4:], uint32(e))
		binary.BigEndian.PutUint64(f[8:], r.cookie)
		r.frames = append(r.frames, f)
	}
}

// putChunk writes the header of a chunk with n bytes of payload.
func putChunk(b []byte, flags, kind uint16, cookie uint64, n int) {
	binary.BigEndian.PutUint32(b, magicStructured)
	binary.BigEndian.PutUint16(b[4:], flags)
	binary.BigEndian.PutUint16(b[6:], kind)
	binary.BigEndian.PutUint64(b[8:], cookie)
	binary.BigEndian.PutUint32(b[16:], uint32(n))
}

func (r *request) errorChunk(e Errno) {
	text := e.String()
	f := r.heads[:chunkSize+6+len(text)]
	putChunk(f, replyFlagDone, replyError, r.cookie, 6+len(text))
	binary.BigEndian.PutUint32(f[chunkSize:], uint32(e))
	binary.BigEndian.PutUint16(f[chunkSize+4:], uint16(len(text)))
	copy(f[chunkSize+6:], text)
	r.frames = append(r.frames, f)
}

// readChunks makes the reply to a read: data, and holes where all is zero.
func (r *request) readChunks() {
	if len(r.data) == 0 {
		f := r.heads[:chunkSize]
		putChunk(f, replyFlagDone, replyNone, r.cookie, 0)
		r.frames = append(r.frames, f)
		return
	}
	p := r.data
	chunks, from := 0, 0
	zero := r.isHole(0)
	for at := r.pieceEnd(0); at < len(p); at = r.pieceEnd(at) {
		if chunks == maxChunks-2 && zero { // the rest is data
			r.chunk(chunks, from, at, true, false)
			chunks, from, zero = chunks+1, at, false
		}
		if chunks >= maxChunks-2 {
			break
		}
		if z := r.isHole(at); z != zero {
			r.chunk(chunks, from, at, zero, false)
			chunks, from, zero = chunks+1, at, z
		}
	}
	r.chunk(chunks, from, len(p), zero, true)
}

// pieceEnd is where the piece that holds data[at] ends: pieces lie on the
// export's multiples of holePiece.
func (r *request) pieceEnd(at int) int {
	in := int((r.off + uint64(at)) % holePiece)
	return min(len(r.data), at+holePiece-in)
}

// isHole tells whether the piece that begins with data[at] is told as a hole.
func (r *request) isHole(at int) bool {
	return r.flags&cmdFlagDF == 0 && len(r.data) >= 4096 && block.IsZero(r.data[at:r.pieceEnd(at)])
}

// chunk appends the i-th chunk, of data[from:to].
func (r *request) chunk(i, from, to int, hole, last bool) {
	var flags uint16
	if last {
		flags = replyFlagDone
	}
	f := r.heads[i*headroom : i*headroom+chunkSize+12]
	if hole {
		putChunk(f, flags, replyOffsetHole, r.cookie, 12)
		binary.BigEndian.PutUint64(f[chunkSize:], r.off+uint64(from))
		binary.BigEndian.PutUint32(f[chunkSize+8:], uint32(to-from))
		r.frames = append(r.frames, f)
		return
	}
	f = f[:chunkSize+8]
	if from == 0 {
		f = r.buf.framed(chunkSize+8, to)
	}
	putChunk(f, flags, replyOffsetData, r.cookie, 8+to-from)
	binary.BigEndian.PutUint64(f[chunkSize:], r.off+uint64(from))
	r.frames = append(r.frames, f)
	if from > 0 {
		r.frames = append(r.frames, r.data[from:to])
	}
}
