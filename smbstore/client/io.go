package client

import (
	"context"
	"fmt"
	"io"
	"sync"

	"lunless/smbstore/smb2"
)

// Transfers of more than chunkSize bytes are cut into requests of that size, of
// which up to maxDepth are outstanding at a time.
const (
	chunkSize = 1 << 20
	maxDepth  = 16
)

// ReadAt is ReadAtContext without a context.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	return f.ReadAtContext(context.Background(), p, off)
}

// ReadAtContext reads as io.ReaderAt does: fewer bytes than asked for only with
// io.EOF, unwrapped, at the end of the file. Where nothing is encrypted the data
// goes from the socket to p.
func (f *File) ReadAtContext(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) < 0 {
		return 0, &StatusError{Command: smb2.CommandRead, Name: f.name, Status: smb2.StatusInvalidParameter}
	}
	if len(p) > chunkSize {
		return f.transfer(ctx, p, off, false, 0)
	}
	n := 0
	for n < len(p) {
		m, err := f.readOnce(ctx, p[n:], off+int64(n))
		if n += m; err != nil {
			return n, err
		}
		if m == 0 {
			return n, io.EOF
		}
	}
	return n, nil
}

// readOnce reads with one request what it can; 0 bytes are the end of the file.
func (f *File) readOnce(ctx context.Context, p []byte, off int64) (int, error) {
	var v verdict
	for {
		h, err := f.live(ctx)
		if err != nil {
			return 0, err
		}
		k, err := f.startRead(ctx, h, p, off, v.replay)
		if err == nil {
			err = k.wait(ctx)
		}
		status := smb2.Status(0)
		if err == nil {
			n, s := k.n, k.resp.Status
			k.free()
			switch s {
			case smb2.StatusSuccess:
				return n, nil
			case smb2.StatusEndOfFile:
				return 0, nil
			}
			status = s
		}
		if err := v.again(ctx, f, h, smb2.CommandRead, err, status); err != nil {
			return 0, err
		}
	}
}

// startRead sends a READ of the beginning of p. Errors are those of the connection.
func (f *File) startRead(ctx context.Context, h *handle, p []byte, off int64, replay bool) (*call, error) {
	c, err := h.link.s.channel(ctx)
	if err != nil {
		return nil, err
	}
	k := newCall(smb2.CommandRead)
	f.tree.client.prepare(k, c, h.link, replay)
	p = p[:min(len(p), c.neg.maxRead)]
	k.dst = p
	if err := c.reserve(ctx, k, chargeFor(len(p))); err != nil {
		return nil, err
	}
	k.dst = p[:min(len(p), k.room())]
	k.read = smb2.ReadRequest{Padding: smb2.ReadResponseSize, Length: uint32(len(k.dst)), Offset: uint64(off), FileID: h.id}
	c.send(ctx, k, &k.read, nil)
	return k, nil
}

// WriteAt is WriteAtContext without a context.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	return f.WriteAtContext(context.Background(), p, off)
}

// WriteAtContext writes as io.WriterAt does. Where nothing is encrypted the data
// goes from p to the socket.
func (f *File) WriteAtContext(ctx context.Context, p []byte, off int64) (int, error) {
	return f.writeAt(ctx, p, off, 0)
}

// WriteThroughAt is WriteAtContext with the data on stable storage when it
// returns (SMB 2.1; MS-SMB2 2.2.21).
func (f *File) WriteThroughAt(ctx context.Context, p []byte, off int64) (int, error) {
	if f.tree.client.cur.Load().neg.dialect < smb2.Dialect210 {
		return 0, fmt.Errorf("write-through: %w", ErrNotSupported)
	}
	return f.writeAt(ctx, p, off, smb2.WriteFlagWriteThrough)
}

func (f *File) writeAt(ctx context.Context, p []byte, off int64, flags smb2.WriteFlags) (int, error) {
	if off < 0 || off+int64(len(p)) < 0 {
		return 0, &StatusError{Command: smb2.CommandWrite, Name: f.name, Status: smb2.StatusInvalidParameter}
	}
	if len(p) > chunkSize {
		return f.transfer(ctx, p, off, true, flags)
	}
	n := 0
	for n < len(p) {
		m, err := f.writeOnce(ctx, p[n:], off+int64(n), flags)
		if n += m; err != nil {
			return n, err
		}
	}
	return n, nil
}

// writeOnce writes with one request what it can, at least a byte.
func (f *File) writeOnce(ctx context.Context, p []byte, off int64, flags smb2.WriteFlags) (int, error) {
	var v verdict
	for {
		h, err := f.live(ctx)
		if err != nil {
			return 0, err
		}
		k, err := f.startWrite(ctx, h, p, off, flags, v.replay)
		if err == nil {
			err = k.wait(ctx)
		}
		status := smb2.Status(0)
		if err == nil {
			if status = k.resp.Status; status == smb2.StatusSuccess {
				return k.written()
			}
			k.free()
		}
		if err := v.again(ctx, f, h, smb2.CommandWrite, err, status); err != nil {
			return 0, err
		}
	}
}

// written takes the count from a WRITE response, and frees the call.
func (k *call) written() (int, error) {
	defer k.free()
	if err := k.back.Decode(k.body); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if k.back.Count == 0 || k.back.Count > k.write.Length {
		return 0, protocolError("WRITE of %d bytes wrote %d", k.write.Length, k.back.Count)
	}
	return int(k.back.Count), nil
}

// startWrite sends a WRITE of the beginning of p.
func (f *File) startWrite(ctx context.Context, h *handle, p []byte, off int64, flags smb2.WriteFlags, replay bool) (*call, error) {
	c, err := h.link.s.channel(ctx)
	if err != nil {
		return nil, err
	}
	k := newCall(smb2.CommandWrite)
	k.patient = true
	f.tree.client.prepare(k, c, h.link, replay)
	p = p[:min(len(p), c.neg.maxWrite)]
	if err := c.reserve(ctx, k, chargeFor(len(p))); err != nil {
		return nil, err
	}
	p = p[:min(len(p), k.room())]
	k.write = smb2.WriteRequest{Length: uint32(len(p)), Offset: uint64(off), FileID: h.id, Flags: flags}
	c.send(ctx, k, &k.write, p)
	return k, nil
}

// piece is one request of a large transfer.
type piece struct {
	k   *call
	err error
	off int // into the caller's memory, bytes
	n   int // bytes asked for
}

type pieces struct{ list [maxDepth]piece }

var piecePool = sync.Pool{New: func() any { return new(pieces) }}

// transfer reads or writes much: requests are kept in flight back to back, and
// what fails of them goes through the patient path of one request each.
func (f *File) transfer(ctx context.Context, p []byte, off int64, write bool, flags smb2.WriteFlags) (int, error) {
	ring := piecePool.Get().(*pieces)
	defer func() {
		*ring = pieces{}
		piecePool.Put(ring)
	}()
	sent, done, head, flying := 0, 0, 0, 0
	var fail error
	for done < len(p) || flying > 0 {
		for fail == nil && sent < len(p) && flying < f.tree.client.cfg.Depth {
			x := &ring.list[(head+flying)%maxDepth]
			*x = f.launch(ctx, p[sent:min(sent+chunkSize, len(p))], off+int64(sent), write, flags)
			x.off = sent
			sent += x.n
			flying++
		}
		if flying == 0 {
			break
		}
		x := ring.list[head]
		head, flying = (head+1)%maxDepth, flying-1
		n, err := f.land(ctx, x, p[x.off:x.off+x.n], off+int64(x.off), write, flags)
		if fail == nil {
			done += n
			if fail = err; err == nil && n < x.n {
				fail = io.EOF
			}
		}
	}
	return done, fail
}

// launch starts one request of a transfer.
func (f *File) launch(ctx context.Context, p []byte, off int64, write bool, flags smb2.WriteFlags) (x piece) {
	x.n = len(p)
	h, err := f.live(ctx)
	if err != nil {
		x.err = err
		return x
	}
	if write {
		x.k, x.err = f.startWrite(ctx, h, p, off, flags, false)
	} else {
		x.k, x.err = f.startRead(ctx, h, p, off, false)
	}
	if x.err == nil && write {
		x.n = int(x.k.write.Length)
	} else if x.err == nil {
		x.n = len(x.k.dst)
	}
	return x
}

// land waits for one request of a transfer. Fewer bytes than asked for without an
// error are the end of the file.
func (f *File) land(ctx context.Context, x piece, p []byte, off int64, write bool, flags smb2.WriteFlags) (int, error) {
	n, err := 0, x.err
	if err == nil {
		err = x.k.wait(ctx)
	}
	if err == nil {
		switch status := x.k.resp.Status; {
		case status == smb2.StatusSuccess && write:
			if n, err = x.k.written(); err != nil {
				return 0, err
			}
		case status == smb2.StatusSuccess:
			n = x.k.n
			x.k.free()
			if n == 0 {
				return 0, nil
			}
		default:
			x.k.free()
		}
	} else if !isLost(err) {
		return 0, err
	}
	for n < x.n {
		var m int
		if write {
			m, err = f.writeOnce(ctx, p[n:], off+int64(n), flags)
		} else {
			m, err = f.readOnce(ctx, p[n:], off+int64(n))
		}
		if n += m; err != nil || m == 0 {
			return n, err
		}
	}
	return n, nil
}

// Flush puts on stable storage what was acknowledged before (MS-SMB2 3.2.4.11).
func (f *File) Flush(ctx context.Context) error {
	_, _, err := f.do(ctx, request{command: smb2.CommandFlush, charge: 1, patient: true,
		build: func(id smb2.FileID, _ int) message { return &smb2.FlushRequest{FileID: id} }})
	return err
}
