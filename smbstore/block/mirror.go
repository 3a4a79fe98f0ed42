package block

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Errors of a Mirror's job side; a guest never sees them.
var (
	// ErrDetached: the destination failed and was dropped; the source serves on.
	ErrDetached = errors.New("mirror destination is detached")
	// ErrNotInSync: part of the source has not reached the destination yet.
	ErrNotInSync = errors.New("mirror destination is not in sync")
	// ErrSwitched: the mirror has switched to its destination already.
	ErrSwitched = errors.New("mirror has switched already")
)

// MirrorOptions describe a mirror.
type MirrorOptions struct {
	// Granularity in bytes of what has been copied; a power of two, 0 takes 1 MiB.
	Granularity int64
	// DestinationZero: the destination is new and reads as zeroes, so zeroes need
	// no copying.
	DestinationZero bool
	// InSync: the destination holds the source's content already.
	InSync bool
}

// Mirror is a Device over a source and a destination of the same size. Every
// write goes to both and returns when both are done; reads are served by the
// source. CopyPass brings over what was there before. Switch makes the
// destination the device.
//
// Requests for overlapping ranges, the copy pass's among them, run one after the
// other, so that both ends see one order. Trim goes to both as WriteZeroes:
// what a trim leaves may differ from device to device, and the ends must not.
//
// A failure of the destination detaches it, once and for good, and fails no
// request. A failed write to the source is returned, and the range it touched
// counts as not copied.
//
// All methods may be called concurrently. Lock order: gate, range lock, mu.
type Mirror struct {
	src, dst Device
	gate     sync.RWMutex // read-held through every request; held by Switch
	ranges   RangeLock
	todo     *Bitmap // what the destination still lacks; changes under the range's lock
	torn     *Bitmap // of it, where a write left the ends different; likewise
	dstZero  atomic.Bool
	redo     atomic.Int64 // writes that left the ends different
	state    atomic.Int32
	mu       sync.Mutex
	cause    error // why the destination was detached
}

const (
	mirrorBoth     = iota // writes go to both
	mirrorDetached        // source alone
	mirrorSwitched        // destination alone; changes under gate
)

// NewMirror returns a mirror. It closes neither device but in Close.
func NewMirror(src, dst Device, opts MirrorOptions) (*Mirror, error) {
	if src.Size() != dst.Size() {
		return nil, fmt.Errorf("mirror a device of %d bytes to one of %d: %w", src.Size(), dst.Size(), ErrOutOfRange)
	}
	if opts.Granularity == 0 {
		opts.Granularity = 1 << 20
	}
	todo, err := NewBitmap(src.Size(), opts.Granularity)
	if err != nil {
		return nil, err
	}
	torn, err := NewBitmap(src.Size(), opts.Granularity)
	if err != nil {
		return nil, err
	}
	if !opts.InSync {
		todo.Set(0, src.Size())
	}
	m := &Mirror{src: src, dst: dst, todo: todo, torn: torn}
	m.dstZero.Store(opts.DestinationZero)
	return m, nil
}

// Size implements Device.
func (m *Mirror) Size() int64 { return m.src.Size() }

// Geometry implements Device: the source's, which the guest has seen.
func (m *Mirror) Geometry() Geometry { return m.src.Geometry() }

// Remaining is how many bytes the destination still lacks, rounded up to granules.
func (m *Mirror) Remaining() int64 { return m.todo.Count() * m.todo.Granularity() }

// Err is nil, or ErrDetached with the destination's failure.
func (m *Mirror) Err() error {
	if m.state.Load() != mirrorDetached {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return fmt.Errorf("%w: %w", ErrDetached, m.cause)
}

// Detach drops the destination with the given cause; the source serves on.
// After Switch it does nothing.
func (m *Mirror) Detach(cause error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state.CompareAndSwap(mirrorBoth, mirrorDetached) {
		m.cause = cause
	}
}

// ReadAt implements Device.
func (m *Mirror) ReadAt(ctx context.Context, p []byte, off int64) error {
	m.gate.RLock()
	defer m.gate.RUnlock()
	return m.reader().ReadAt(ctx, p, off)
}

// Extents implements Device. visit must not use the Mirror.
func (m *Mirror) Extents(ctx context.Context, off, n int64, visit func(Extent) error) error {
	m.gate.RLock()
	defer m.gate.RUnlock()
	return m.reader().Extents(ctx, off, n, visit)
}

// WriteAt implements Device.
func (m *Mirror) WriteAt(ctx context.Context, p []byte, off int64, flags WriteFlags) error {
	return m.both(ctx, off, int64(len(p)), func(d Device) error { return d.WriteAt(ctx, p, off, flags) })
}

// WriteZeroes implements Device.
func (m *Mirror) WriteZeroes(ctx context.Context, off, n int64, flags WriteFlags) error {
	return m.both(ctx, off, n, func(d Device) error { return d.WriteZeroes(ctx, off, n, flags) })
}

// Trim implements Device.
func (m *Mirror) Trim(ctx context.Context, off, n int64) error { return m.WriteZeroes(ctx, off, n, 0) }

// Uncommitted implements Committer: of the device that a later process would find
// the content in.
func (m *Mirror) Uncommitted() bool {
	m.gate.RLock()
	defer m.gate.RUnlock()
	return Uncommitted(m.reader())
}

// Flush implements Device: both ends are flushed.
func (m *Mirror) Flush(ctx context.Context) error {
	m.gate.RLock()
	defer m.gate.RUnlock()
	if m.state.Load() != mirrorBoth {
		return m.reader().Flush(ctx)
	}
	err, _ := m.onBoth(ctx, func(d Device) error { return d.Flush(ctx) })
	return err
}

// Close closes both devices, or the destination alone after Switch: the source
// is then its owner's. A destination's failure is not an error while the source
// is the device.
func (m *Mirror) Close() error {
	m.gate.Lock()
	defer m.gate.Unlock()
	if m.state.Load() == mirrorSwitched {
		return m.dst.Close()
	}
	err := m.src.Close()
	if dstErr := m.dst.Close(); dstErr != nil {
		m.Detach(dstErr)
	}
	return err
}

// Switch makes the destination the device: it waits for the requests in flight,
// holds new ones back, flushes the destination and calls commit (which may be
// nil), say to change the record of who owns what. Only if all of that succeeds
// is the destination in use when Switch returns; else the mirror goes on as
// before. stall is how long requests were held back. After it the source gets
// no request and belongs to its owner.
func (m *Mirror) Switch(ctx context.Context, commit func(ctx context.Context) error) (stall time.Duration, err error) {
	start := time.Now()
	m.gate.Lock()
	defer m.gate.Unlock()
	switch m.state.Load() {
	case mirrorSwitched:
		return time.Since(start), ErrSwitched
	case mirrorDetached:
		return time.Since(start), m.Err()
	}
	if left := m.todo.Count(); left > 0 {
		return time.Since(start), fmt.Errorf("%d granules left: %w", left, ErrNotInSync)
	}
	if err := m.dst.Flush(ctx); err != nil {
		m.Detach(fmt.Errorf("flush destination: %w", err))
		return time.Since(start), m.Err()
	}
	if err := m.Err(); err != nil {
		return time.Since(start), err
	}
	if commit != nil {
		if err := commit(ctx); err != nil {
			return time.Since(start), err
		}
	}
	// The destination has everything and was committed to: a Detach that came
	// meanwhile is too late.
	m.state.Store(mirrorSwitched)
	return time.Since(start), nil
}

func (m *Mirror) reader() Device {
	if m.state.Load() == mirrorSwitched {
		return m.dst
	}
	return m.src
}

// both runs one change of [off, off+n) on both ends under the range's lock.
func (m *Mirror) both(ctx context.Context, off, n int64, op func(Device) error) error {
	m.gate.RLock()
	defer m.gate.RUnlock()
	if m.state.Load() != mirrorBoth {
		return op(m.reader())
	}
	if err := CheckRange(m.src.Size(), off, n); err != nil || n == 0 {
		return err
	}
	hold, err := m.ranges.Lock(ctx, off, n)
	if err != nil {
		return err
	}
	defer m.ranges.Unlock(hold)
	srcErr, gaveUp := m.onBoth(ctx, op)
	if srcErr != nil || gaveUp {
		// The ends may differ here now, and the destination may hold what the source lacks.
		m.dstZero.Store(false)
		m.redo.Add(1)
		m.torn.Set(off, n)
		m.todo.Set(off, n)
		return srcErr
	}
	m.todo.ClearCovered(off, n)
	return nil
}

// onBoth runs op on both ends at once and returns the source's error. A
// destination that failed is detached; gaveUp tells that it only stopped because
// the caller's context ended.
func (m *Mirror) onBoth(ctx context.Context, op func(Device) error) (srcErr error, gaveUp bool) {
	done := make(chan error, 1)
	go func() { done <- op(m.dst) }()
	srcErr = op(m.src)
	if err := <-done; err != nil {
		if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			return srcErr, true
		}
		m.Detach(err)
	}
	return srcErr, false
}
