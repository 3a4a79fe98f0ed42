package smbstore

import (
	"errors"
	"time"

	"lunless/smbstore/block"
	"lunless/smbstore/client"
	"lunless/smbstore/smb2"
)

var (
	_ block.RangeCopier = (*smbFile)(nil)
	_ block.Puncher     = (*smbFile)(nil)
	_ block.Extenter    = (*smbFile)(nil)
)

// control runs a control code on the handle. What the server does not offer, or
// refuses for whatever other reason, is block.ErrNotSupported: plain reads and
// writes will tell what is wrong.
func (f *smbFile) control(op string, fn func(h *client.File) error) error {
	err := f.io(op, func(h *client.File) error {
		err := fn(h)
		var refused *client.StatusError
		if errors.As(err, &refused) && refused.Status != smb2.StatusDiskFull || errors.Is(err, client.ErrNotSupported) {
			return block.ErrNotSupported
		}
		return err
	})
	if errors.Is(err, block.ErrNotSupported) {
		return block.ErrNotSupported
	}
	return err
}

// PunchHole zeroes a range at the server (FSCTL_SET_ZERO_DATA), which gives back
// its room if it can.
func (f *smbFile) PunchHole(off, n int64) error {
	if off < 0 || n < 0 {
		return f.wrap("punch a hole in", block.ErrOutOfRange)
	}
	err := f.control("punch a hole in", func(h *client.File) error {
		err := h.Zero(f.store.ctx, off, n)
		if err == nil && n > 0 && !f.stable {
			f.remember(logged{off: off, zero: n})
		}
		return err
	})
	if err == nil {
		err = f.bound()
	}
	return err
}

// SetSparse has the server leave holes where nothing is written (FSCTL_SET_SPARSE,
// MS-FSCC 2.3.83): without, NTFS fills what lies before a write. It is a hint:
// block.ErrNotSupported where the server has no such thing.
func (f *smbFile) SetSparse() error {
	return f.control("make sparse", func(h *client.File) error { return h.SetSparse(f.store.ctx, true) })
}

// FileExtents asks the server for what is allocated
// (FSCTL_QUERY_ALLOCATED_RANGES); the rest reads as zeroes.
func (f *smbFile) FileExtents(off, n int64, visit func(block.Extent) error) error {
	if off < 0 || n < 0 {
		return f.wrap("map", block.ErrOutOfRange)
	}
	for end := off + n; off < end; {
		extents, next, err := f.allocated(off, end)
		if err != nil {
			return err
		}
		for _, e := range extents {
			if err := visit(e); err != nil {
				return err
			}
		}
		off = next
	}
	return nil
}

// allocated gives the extents from off, and how far the answer reaches.
func (f *smbFile) allocated(off, end int64) (list []block.Extent, next int64, err error) {
	err = f.control("map", func(h *client.File) error {
		ranges, upTo, err := h.AllocatedRanges(f.store.ctx, off, end-off)
		if err != nil {
			return err
		}
		list, next = list[:0], off
		gap := func(to int64) {
			if to > next {
				list = append(list, block.Extent{Offset: next, Length: to - next, State: block.Zero})
			}
		}
		for _, r := range ranges {
			gap(r.Offset)
			list = append(list, block.Extent{Offset: r.Offset, Length: r.Length, State: block.Data})
			next = r.Offset + r.Length
		}
		gap(upTo)
		next = upTo
		return nil
	})
	return list, next, err
}

// offloadUnit is what ranges of an offloaded copy are aligned to: the largest
// logical sector there is.
const offloadUnit = 4096

// CopyFrom has the server copy: by a token (FSCTL_OFFLOAD_READ and _WRITE) or in
// chunks (FSCTL_SRV_COPYCHUNK). The source is a file of the same server; of another
// session only tokens serve. block.ErrNotSupported for any other, and where the
// server has no such thing.
//
// The bytes never come here, so that they cannot be written again after a lost
// handle: if it is lost before the next Sync, that Sync fails for good (ErrCopyLost).
func (f *smbFile) CopyFrom(src block.File, srcOff, dstOff, n int64) (int64, error) {
	s, ok := src.(*smbFile)
	if !ok || !s.store.loc.SameServer(f.store.loc) || srcOff < 0 || dstOff < 0 || n < 0 {
		return 0, block.ErrNotSupported
	}
	for try := 0; ; try++ {
		from, err := s.handle()
		if err != nil {
			return 0, s.wrap("copy from", err)
		}
		done, err := f.copyFrom(from, srcOff, dstOff, n)
		if !errors.Is(err, errSourceLost) {
			return done, err
		}
		if try == 3 || s.reopen(from, time.Now().Add(f.store.opts.ReconnectTimeout)) != nil {
			return 0, block.ErrNotSupported
		}
	}
}

// errSourceLost: it is the source's handle that was lost.
var errSourceLost = errors.New("the source's handle was lost")

// handle is the handle of now.
func (f *smbFile) handle() (*client.File, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.closed {
		return nil, block.ErrClosed
	}
	return f.h, nil
}

// copyFrom copies from a handle. It holds the lock of the destination alone.
func (f *smbFile) copyFrom(from *client.File, srcOff, dstOff, n int64) (done int64, err error) {
	err = f.control("copy into", func(to *client.File) (err error) {
		done, err = f.copyRange(to, from, srcOff, dstOff, n)
		var gone *client.HandleLostError
		if errors.As(err, &gone) && gone.Name == from.Name() && from != to {
			return errSourceLost
		}
		if !f.stable && !errors.Is(err, block.ErrNotSupported) {
			// If it is not supported, part of it may have been done; what the caller
			// does instead covers that.
			f.unloggedDone.Add(1)
		}
		return err
	})
	return done, err
}

func (f *smbFile) copyRange(to, from *client.File, srcOff, dstOff, n int64) (done int64, err error) {
	if (srcOff|dstOff)%offloadUnit == 0 && !f.store.noOffload.Load() {
		if done, err = f.offload(to, from, srcOff, dstOff, n/offloadUnit*offloadUnit); err != nil {
			return done, err
		}
	}
	if done == n {
		return done, nil
	}
	m, err := to.CopyChunk(f.store.ctx, from, srcOff+done, dstOff+done, n-done)
	return done + m, err
}

// offload copies by tokens, up to the end of the destination, past which they
// write nothing (MS-FSA 2.1.5.10.21). What a server does not do this way is left to
// be done otherwise, without an error.
func (f *smbFile) offload(to, from *client.File, srcOff, dstOff, n int64) (done int64, err error) {
	ctx := f.store.ctx
	size, err := to.Size(ctx)
	if err != nil {
		return 0, err
	}
	n = min(n, max(0, size-dstOff)/offloadUnit*offloadUnit)
	for done < n {
		token, err := from.OffloadRead(ctx, srcOff+done, n-done)
		for skip := int64(0); err == nil && skip < token.Length; {
			var m int64
			if m, err = to.OffloadWrite(ctx, &token, skip, dstOff+done, token.Length-skip); m == 0 && err == nil {
				return done, nil
			}
			skip, done = skip+m, done+m
		}
		var refused *client.StatusError
		switch {
		case errors.As(err, &refused) && (refused.Status == smb2.StatusOffloadReadFileNotSupported || refused.Status == smb2.StatusOffloadWriteFileNotSupported):
			return done, nil // of this file: it may be sparse
		case errors.Is(err, client.ErrNotSupported):
			f.store.noOffload.Store(true)
			return done, nil
		case errors.As(err, &refused) && refused.Status != smb2.StatusDiskFull:
			return done, nil
		case err != nil:
			return done, err
		case token.Length == 0:
			return done, nil
		}
	}
	return done, nil
}
