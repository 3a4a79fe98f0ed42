package smbstore

import (
	"context"
	"errors"
	"strings"
	"time"

	"lunless/smbstore/block"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// Limits of one FSCTL_SRV_COPYCHUNK that every server takes (MS-SMB2 3.3.3).
const (
	copyChunkLength = 1 << 20
	copyChunkCount  = 16
)

// rangesRoom is the room for the answer to FSCTL_QUERY_ALLOCATED_RANGES, in
// bytes: 2,048 ranges in one credit.
const rangesRoom = 32 << 10

var (
	_ block.RangeCopier = (*smbFile)(nil)
	_ block.Puncher     = (*smbFile)(nil)
	_ block.Extenter    = (*smbFile)(nil)
)

// CopyFrom has the server copy (FSCTL_SRV_COPYCHUNK): from a file of the same
// store or of its Subs. block.ErrNotSupported for any other, and where the
// server has no such thing.
//
// The bytes never come here, so that they cannot be written again after a lost
// connection: if one is lost before the next Sync, that Sync fails for good.
func (f *smbFile) CopyFrom(src block.File, srcOff, dstOff, n int64) (int64, error) {
	s, ok := src.(*smbFile)
	if !ok || s.store.smbShare != f.store.smbShare || srcOff < 0 || dstOff < 0 || n < 0 {
		return 0, block.ErrNotSupported
	}
	var done int64
	err := f.unlogged(func() error {
		return f.store.control.do(func(c *controlConn) error {
			from, err := c.open(s)
			if err != nil {
				return err
			}
			if err := c.resumeKey(from); err != nil {
				return err
			}
			to, err := c.open(f)
			if err != nil {
				return err
			}
			for done < n {
				m, err := c.copyChunks(from, to, srcOff+done, dstOff+done, n-done)
				done += m
				if err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil && !errors.Is(err, block.ErrNotSupported) {
		err = f.wrap("copy into", err)
	}
	return done, err
}

// PunchHole zeroes a range at the server (FSCTL_SET_ZERO_DATA), which gives back
// its room if it can.
func (f *smbFile) PunchHole(off, n int64) error {
	if off < 0 || n < 0 {
		return f.wrap("punch a hole in", block.ErrOutOfRange)
	}
	err := f.zeroed(off, n, func() error {
		return f.store.control.do(func(c *controlConn) error {
			h, err := c.open(f)
			if err != nil {
				return err
			}
			z := fscc.ZeroData{Offset: off, Beyond: off + n}
			in := make([]byte, z.Size())
			z.Encode(in)
			_, err = c.ioctl(h, fscc.FSCTL_SET_ZERO_DATA, in, 0)
			return err
		})
	})
	if err != nil && !errors.Is(err, block.ErrNotSupported) {
		err = f.wrap("punch a hole in", err)
	}
	if err == nil && f.overfull() {
		err = f.syncOverfull()
	}
	return err
}

// SetSparse has the server leave holes where nothing is written (FSCTL_SET_SPARSE,
// MS-FSCC 2.3.83): without, NTFS fills what lies before a write. It is a hint:
// block.ErrNotSupported where the server has no such thing.
func (f *smbFile) SetSparse() error {
	err := f.store.control.do(func(c *controlConn) error {
		h, err := c.open(f)
		if err != nil {
			return err
		}
		z := fscc.SetSparse{Sparse: true}
		in := make([]byte, z.Size())
		z.Encode(in)
		_, err = c.ioctl(h, fscc.FSCTL_SET_SPARSE, in, 0)
		return err
	})
	if err != nil && !errors.Is(err, block.ErrNotSupported) {
		err = f.wrap("make sparse", err)
	}
	return err
}

// FileExtents asks the server for what is allocated
// (FSCTL_QUERY_ALLOCATED_RANGES); the rest reads as zeroes.
func (f *smbFile) FileExtents(off, n int64, visit func(block.Extent) error) error {
	if off < 0 || n < 0 {
		return f.wrap("map", block.ErrOutOfRange)
	}
	for end := off + n; off < end; {
		ranges, next, err := f.allocated(off, end)
		if err != nil {
			return err
		}
		for _, r := range append(ranges, fscc.ByteRange{Offset: next}) {
			if gap := r.Offset - off; gap > 0 {
				if err := visit(block.Extent{Offset: off, Length: gap, State: block.Zero}); err != nil {
					return err
				}
			}
			if r.Length > 0 {
				if err := visit(block.Extent{Offset: r.Offset, Length: r.Length, State: block.Data}); err != nil {
					return err
				}
			}
			off = r.Offset + r.Length
		}
	}
	return nil
}

// allocated gives the allocated ranges from off, merged and in order, and how
// far the answer reaches.
func (f *smbFile) allocated(off, end int64) (ranges []fscc.ByteRange, next int64, err error) {
	var out []byte
	full := false
	err = f.store.control.do(func(c *controlConn) error {
		h, err := c.open(f)
		if err != nil {
			return err
		}
		q := fscc.ByteRange{Offset: off, Length: end - off}
		in := make([]byte, q.Size())
		q.Encode(in)
		out, err = c.ioctl(h, fscc.FSCTL_QUERY_ALLOCATED_RANGES, in, rangesRoom)
		var r refusal
		if full = errors.As(err, &r) && r.status == smb2.StatusBufferOverflow; full {
			return nil
		}
		return err
	})
	if err != nil {
		if !errors.Is(err, block.ErrNotSupported) {
			err = f.wrap("map", err)
		}
		return nil, 0, err
	}
	list, err := fscc.DecodeRanges(out)
	if err != nil {
		return nil, 0, f.wrap("map", err)
	}
	at := off
	for _, r := range list {
		lo, hi := max(r.Offset, at), min(r.Offset+r.Length, end)
		if lo >= hi {
			continue
		}
		if k := len(ranges) - 1; k >= 0 && ranges[k].Offset+ranges[k].Length == lo {
			ranges[k].Length += hi - lo
		} else {
			ranges = append(ranges, fscc.ByteRange{Offset: lo, Length: hi - lo})
		}
		at = hi
	}
	if full && at > off {
		return ranges, at, nil
	}
	return ranges, end, nil
}

// do runs fn with the connection, on a new one if the old was lost. Every
// control request may be repeated.
func (c *controlConn) do(fn func(*controlConn) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for again := false; ; again = true {
		if err := c.connect(); err != nil {
			return err
		}
		err := fn(c)
		var r refusal
		if errors.As(err, &r) {
			return mapRefusal(r)
		}
		if err == nil || errors.Is(err, block.ErrNotSupported) {
			return err
		}
		c.part()
		if again {
			return block.ErrNotSupported // plain reads and writes have more patience
		}
	}
}

// controlPause is how long after a failure no control connection is tried.
const controlPause = time.Second

func (c *controlConn) connect() error {
	if c.link != nil {
		return nil
	}
	if c.refused || c.store.closed.Load() || time.Now().Before(c.notUntil) {
		return block.ErrNotSupported
	}
	ctx, cancel := context.WithTimeout(c.store.ctx, min(c.store.opts.RequestTimeout, 5*time.Second))
	defer cancel()
	l, err := c.store.dialControl(ctx)
	if err != nil {
		var r refusal
		c.refused = errors.As(err, &r) || errors.Is(err, block.ErrNotSupported)
		c.notUntil = time.Now().Add(controlPause)
		c.store.opts.Logger.Debug("no control connection", "server", c.store.loc.Addr(), "error", err)
		return block.ErrNotSupported
	}
	c.link, c.files = l, map[*smbFile]*controlFile{}
	return nil
}

// part is drop when a request may be under way: it must not be carried out
// after what the caller does next.
func (c *controlConn) part() {
	if c.link != nil {
		endStream(c.link.nc)
	}
	c.drop()
}

func (c *controlConn) drop() {
	if c.link != nil {
		c.link.nc.Close()
		c.link, c.files = nil, nil
	}
}

// close ends the connection; the server closes its handles.
func (c *controlConn) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused = true
	c.drop()
}

// forget closes a file's handle, so that the file can be renamed and removed.
func (c *controlConn) forget(f *smbFile) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.files[f]
	if h == nil {
		return
	}
	delete(c.files, f)
	_, err := c.link.exchange(c.link.build(smb2.CommandClose, &smb2.CloseRequest{FileID: h.id}))
	var r refusal
	if err != nil && !errors.As(err, &r) {
		c.drop()
	}
}

// open gives the file's handle on this connection.
func (c *controlConn) open(f *smbFile) (*controlFile, error) {
	if h := c.files[f]; h != nil {
		return h, nil
	}
	p, err := f.store.full(f.name)
	if err != nil {
		return nil, err
	}
	access := smb2.GenericRead
	if f.flags&Write != 0 {
		access |= smb2.GenericWrite
	}
	res, err := c.link.exchange(c.link.build(smb2.CommandCreate, &smb2.CreateRequest{
		ImpersonationLevel: smb2.ImpersonationImpersonation,
		DesiredAccess:      access,
		ShareAccess:        smb2.FileShareRead | smb2.FileShareWrite | smb2.FileShareDelete,
		CreateDisposition:  smb2.FileOpen,
		Name:               strings.ReplaceAll(p, "/", `\`),
	}))
	if err != nil {
		return nil, err
	}
	var m smb2.CreateResponse
	if err := m.Decode(res.msg); err != nil {
		return nil, err
	}
	h := &controlFile{id: m.FileID}
	c.files[f] = h
	return h, nil
}

func (c *controlConn) ioctl(h *controlFile, code smb2.CtlCode, in []byte, room uint32) ([]byte, error) {
	res, err := c.link.exchange(c.link.build(smb2.CommandIoctl, &smb2.IoctlRequest{
		CtlCode: code, FileID: h.id, Input: in, MaxOutputResponse: room, Flags: smb2.IoctlIsFSCTL,
	}))
	var r refusal
	if err != nil && !(errors.As(err, &r) && r.status == smb2.StatusBufferOverflow) {
		return nil, err
	}
	var m smb2.IoctlResponse
	if derr := m.Decode(res.msg); derr != nil {
		return nil, derr
	}
	return m.Output, err
}

func (c *controlConn) resumeKey(h *controlFile) error {
	if h.hasKey {
		return nil
	}
	out, err := c.ioctl(h, smb2.FsctlSrvRequestResumeKey, nil, 64)
	if err != nil {
		return err
	}
	var k smb2.ResumeKeyResponse
	if err := k.Decode(out); err != nil {
		return err
	}
	h.key, h.hasKey = k.ResumeKey, true
	return nil
}

// copyChunks copies up to 16 MiB with one request.
func (c *controlConn) copyChunks(from, to *controlFile, srcOff, dstOff, n int64) (int64, error) {
	req := smb2.CopychunkCopy{SourceKey: from.key}
	var asked int64
	for asked < n && len(req.Chunks) < copyChunkCount {
		m := min(n-asked, copyChunkLength)
		req.Chunks = append(req.Chunks, smb2.CopychunkChunk{SourceOffset: uint64(srcOff + asked), TargetOffset: uint64(dstOff + asked), Length: uint32(m)})
		asked += m
	}
	in := make([]byte, req.Size())
	req.Encode(in)
	out, err := c.ioctl(to, smb2.FsctlSrvCopychunk, in, 12)
	if err != nil {
		return 0, err
	}
	var res smb2.CopychunkResponse
	if err := res.Decode(out); err != nil {
		return 0, err
	}
	if res.TotalBytesWritten == 0 || int64(res.TotalBytesWritten) > asked {
		return 0, block.ErrNotSupported
	}
	return int64(res.TotalBytesWritten), nil
}

// mapRefusal tells what a server does not offer from what went wrong.
func mapRefusal(r refusal) error {
	switch r.status {
	case smb2.StatusDiskFull:
		return ErrNoSpace
	}
	// Whatever else keeps the server from it, plain reads and writes will tell.
	return block.ErrNotSupported
}
