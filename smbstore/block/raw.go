package block

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
)

// RawOptions describe a raw device.
type RawOptions struct {
	// Size is the virtual size in bytes; 0 takes the file's. The file must be at
	// least as long.
	Size     int64
	ReadOnly bool
	// Geometry that is told to a guest; a zero field means 512-byte logical and
	// 4096-byte physical sectors.
	Geometry Geometry
}

// Raw is a Device whose byte n is byte n of a File. Its size is fixed when it is
// made. All methods may be called concurrently; it holds no lock.
//
// Once a Sync of the file has failed, writes, zeroes, trims and flushes return
// ErrFailed; reads go on.
type Raw struct {
	f      File
	size   int64
	geo    Geometry
	ro     bool
	failed atomic.Bool
	closed atomic.Bool
}

// NewRaw makes a device over f, which it owns from then on.
func NewRaw(f File, opts RawOptions) (*Raw, error) {
	have, err := f.Size()
	if err != nil {
		return nil, fmt.Errorf("size of raw disk: %w", err)
	}
	if opts.Size == 0 {
		opts.Size = have
	}
	if opts.Size < 0 || opts.Size > have {
		return nil, fmt.Errorf("raw disk of %d bytes in a file of %d: %w", opts.Size, have, ErrOutOfRange)
	}
	g := opts.Geometry
	if g.LogicalSectorSize == 0 {
		g.LogicalSectorSize = 512
	}
	if g.PhysicalSectorSize == 0 {
		g.PhysicalSectorSize = 4096
	}
	return &Raw{f: f, size: opts.Size, geo: g, ro: opts.ReadOnly}, nil
}

// Size implements Device.
func (r *Raw) Size() int64 { return r.size }

// CopyRange has the files copy a range from another raw device, at the same place:
// none of it passes through this process. ErrNotSupported, after which part of the
// range may hold what it should, where they cannot.
func (r *Raw) CopyRange(src *Raw, off, n int64) error {
	c, ok := r.f.(RangeCopier)
	switch {
	case r.closed.Load() || src.closed.Load():
		return ErrClosed
	case r.failed.Load():
		return ErrFailed
	case !ok || r.ro:
		return ErrNotSupported
	case off < 0 || n < 0 || n > min(r.size, src.size)-off:
		return ErrOutOfRange
	}
	m, err := c.CopyFrom(src.f, off, off, n)
	if err == nil && m < n {
		err = ErrNotSupported
	}
	return err
}

// Geometry implements Device.
func (r *Raw) Geometry() Geometry { return r.geo }

// ReadAt implements Device.
func (r *Raw) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := r.check(ctx, off, int64(len(p))); err != nil || len(p) == 0 {
		return err
	}
	n, err := r.f.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
}

// WriteAt implements Device.
func (r *Raw) WriteAt(ctx context.Context, p []byte, off int64, flags WriteFlags) error {
	if err := r.checkWrite(ctx, off, int64(len(p))); err != nil || len(p) == 0 {
		return err
	}
	if _, err := r.f.WriteAt(p, off); err != nil {
		return fmt.Errorf("write %d bytes at %d: %w", len(p), off, err)
	}
	return r.syncIf(flags)
}

// WriteZeroes implements Device: a hole where the file can punch one.
func (r *Raw) WriteZeroes(ctx context.Context, off, n int64, flags WriteFlags) error {
	if err := r.checkWrite(ctx, off, n); err != nil || n == 0 {
		return err
	}
	if err := ZeroFile(r.f, off, n, flags&NoUnmap == 0); err != nil {
		return fmt.Errorf("zero %d bytes at %d: %w", n, off, err)
	}
	return r.syncIf(flags)
}

// Trim implements Device: it punches a hole, or does nothing where the file cannot.
func (r *Raw) Trim(ctx context.Context, off, n int64) error {
	if err := r.checkWrite(ctx, off, n); err != nil || n == 0 {
		return err
	}
	p, ok := r.f.(Puncher)
	if !ok {
		return nil
	}
	if err := p.PunchHole(off, n); err != nil && !isUnsupported(err) {
		return fmt.Errorf("trim %d bytes at %d: %w", n, off, err)
	}
	return nil
}

// Flush implements Device.
func (r *Raw) Flush(ctx context.Context) error {
	if r.ro {
		return r.check(ctx, 0, 0)
	}
	if err := r.checkWrite(ctx, 0, 0); err != nil {
		return err
	}
	return r.syncIf(FUA)
}

// Extents implements Device: what the file knows, else one run of Data.
func (r *Raw) Extents(ctx context.Context, off, n int64, visit func(Extent) error) error {
	if err := r.check(ctx, off, n); err != nil || n == 0 {
		return err
	}
	if x, ok := r.f.(Extenter); ok {
		err := x.FileExtents(off, n, visit)
		if err == nil || !isUnsupported(err) {
			return err
		}
	}
	return visit(Extent{Offset: off, Length: n, State: Data})
}

// Close implements Device. A second Close returns ErrClosed.
func (r *Raw) Close() error {
	if r.closed.Swap(true) {
		return ErrClosed
	}
	var err error
	if !r.ro && !r.failed.Load() {
		if err = r.f.Sync(); err != nil {
			err = fmt.Errorf("flush before close: %w", err)
		}
	}
	return errors.Join(err, r.f.Close())
}

func (r *Raw) syncIf(flags WriteFlags) error {
	if flags&FUA == 0 {
		return nil
	}
	if err := r.f.Sync(); err != nil {
		r.failed.Store(true)
		return fmt.Errorf("flush: %w: %w", ErrFailed, err)
	}
	return nil
}

func (r *Raw) check(ctx context.Context, off, n int64) error {
	if r.closed.Load() {
		return ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return CheckRange(r.size, off, n)
}

func (r *Raw) checkWrite(ctx context.Context, off, n int64) error {
	if err := r.check(ctx, off, n); err != nil {
		return err
	}
	if r.ro {
		return ErrReadOnly
	}
	if r.failed.Load() {
		return ErrFailed
	}
	return nil
}

func isUnsupported(err error) bool { return errors.Is(err, ErrNotSupported) }
