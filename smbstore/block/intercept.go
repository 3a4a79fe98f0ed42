package block

import (
	"context"
	"sync/atomic"
	"time"
)

// OpKind names a kind of request.
type OpKind uint8

// The requests a Hook sees, of devices and of files.
const (
	OpRead OpKind = iota
	OpWrite
	OpZero // WriteZeroes, PunchHole
	OpTrim
	OpFlush // Flush, Sync
	OpExtents
	OpTruncate // Off is the new size
	OpClose
)

// Op is one request about to be done. Offsets and lengths are bytes.
type Op struct {
	Kind     OpKind
	Off, Len int64
	Flags    WriteFlags
}

// Hook is asked before each request, concurrently; an error fails the request
// undone.
type Hook func(ctx context.Context, op Op) error

// FailNth fails the nth request (1 is the first) of a kind, and no other.
func FailNth(kind OpKind, nth int64, err error) Hook {
	var seen atomic.Int64
	return func(_ context.Context, op Op) error {
		if op.Kind == kind && seen.Add(1) == nth {
			return err
		}
		return nil
	}
}

// FailIf fails every request that match picks.
func FailIf(match func(Op) bool, err error) Hook {
	return func(_ context.Context, op Op) error {
		if match(op) {
			return err
		}
		return nil
	}
}

// DelayBy holds each request for what pause returns, or until its context ends.
func DelayBy(pause func(Op) time.Duration) Hook {
	return func(ctx context.Context, op Op) error {
		d := pause(op)
		if d <= 0 {
			return nil
		}
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Intercept is a Device that asks hooks, in order, before each request.
type Intercept struct {
	dev   Device
	hooks []Hook
}

// NewIntercept wraps dev.
func NewIntercept(dev Device, hooks ...Hook) *Intercept { return &Intercept{dev, hooks} }

// Size implements Device.
func (i *Intercept) Size() int64 { return i.dev.Size() }

// Geometry implements Device.
func (i *Intercept) Geometry() Geometry { return i.dev.Geometry() }

// ReadAt implements Device.
func (i *Intercept) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := ask(ctx, i.hooks, Op{OpRead, off, int64(len(p)), 0}); err != nil {
		return err
	}
	return i.dev.ReadAt(ctx, p, off)
}

// WriteAt implements Device.
func (i *Intercept) WriteAt(ctx context.Context, p []byte, off int64, flags WriteFlags) error {
	if err := ask(ctx, i.hooks, Op{OpWrite, off, int64(len(p)), flags}); err != nil {
		return err
	}
	return i.dev.WriteAt(ctx, p, off, flags)
}

// WriteZeroes implements Device.
func (i *Intercept) WriteZeroes(ctx context.Context, off, n int64, flags WriteFlags) error {
	if err := ask(ctx, i.hooks, Op{OpZero, off, n, flags}); err != nil {
		return err
	}
	return i.dev.WriteZeroes(ctx, off, n, flags)
}

// Trim implements Device.
func (i *Intercept) Trim(ctx context.Context, off, n int64) error {
	if err := ask(ctx, i.hooks, Op{OpTrim, off, n, 0}); err != nil {
		return err
	}
	return i.dev.Trim(ctx, off, n)
}

// Flush implements Device.
func (i *Intercept) Flush(ctx context.Context) error {
	if err := ask(ctx, i.hooks, Op{Kind: OpFlush}); err != nil {
		return err
	}
	return i.dev.Flush(ctx)
}

// Extents implements Device.
func (i *Intercept) Extents(ctx context.Context, off, n int64, visit func(Extent) error) error {
	if err := ask(ctx, i.hooks, Op{OpExtents, off, n, 0}); err != nil {
		return err
	}
	return i.dev.Extents(ctx, off, n, visit)
}

// Close implements Device; it closes dev even if a hook fails.
func (i *Intercept) Close() error {
	err := ask(context.Background(), i.hooks, Op{Kind: OpClose})
	if cErr := i.dev.Close(); cErr != nil {
		return cErr
	}
	return err
}

// InterceptFile is a File that asks hooks, in order, before each request. It is
// a Puncher and an Extenter as far as the file is.
type InterceptFile struct {
	f     File
	hooks []Hook
}

// NewInterceptFile wraps f.
func NewInterceptFile(f File, hooks ...Hook) *InterceptFile { return &InterceptFile{f, hooks} }

// ReadAt implements File.
func (i *InterceptFile) ReadAt(p []byte, off int64) (int, error) {
	if err := i.ask(OpRead, off, int64(len(p))); err != nil {
		return 0, err
	}
	return i.f.ReadAt(p, off)
}

// WriteAt implements File.
func (i *InterceptFile) WriteAt(p []byte, off int64) (int, error) {
	if err := i.ask(OpWrite, off, int64(len(p))); err != nil {
		return 0, err
	}
	return i.f.WriteAt(p, off)
}

// Sync implements File.
func (i *InterceptFile) Sync() error {
	if err := i.ask(OpFlush, 0, 0); err != nil {
		return err
	}
	return i.f.Sync()
}

// Truncate implements File.
func (i *InterceptFile) Truncate(size int64) error {
	if err := i.ask(OpTruncate, size, 0); err != nil {
		return err
	}
	return i.f.Truncate(size)
}

// Size implements File.
func (i *InterceptFile) Size() (int64, error) { return i.f.Size() }

// Close implements File; it closes the file even if a hook fails.
func (i *InterceptFile) Close() error {
	err := i.ask(OpClose, 0, 0)
	if cErr := i.f.Close(); cErr != nil {
		return cErr
	}
	return err
}

// PunchHole implements Puncher.
func (i *InterceptFile) PunchHole(off, n int64) error {
	p, ok := i.f.(Puncher)
	if !ok {
		return ErrNotSupported
	}
	if err := i.ask(OpZero, off, n); err != nil {
		return err
	}
	return p.PunchHole(off, n)
}

// FileExtents implements Extenter.
func (i *InterceptFile) FileExtents(off, n int64, visit func(Extent) error) error {
	x, ok := i.f.(Extenter)
	if !ok {
		return ErrNotSupported
	}
	if err := i.ask(OpExtents, off, n); err != nil {
		return err
	}
	return x.FileExtents(off, n, visit)
}

func (i *InterceptFile) ask(kind OpKind, off, n int64) error {
	return ask(context.Background(), i.hooks, Op{Kind: kind, Off: off, Len: n})
}

func ask(ctx context.Context, hooks []Hook, op Op) error {
	for _, h := range hooks {
		if err := h(ctx, op); err != nil {
			return err
		}
	}
	return nil
}
