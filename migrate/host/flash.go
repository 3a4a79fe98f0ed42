package host

import (
	"bytes"
	"context"
	"time"

	"lunless/smbstore/block"
)

// flash is the guest's flash memory with its UEFI variables. Firmware programs it a
// byte at a time, each of which arrives as a write of a sector, waits for each, and
// never asks for a flush; and it is not told of an error. So each change is in the file
// when it is answered, unless the file fails, and a moment later on stable storage; and
// what failed is tried again until it is there.
type flash struct {
	*block.Slot
	// trouble is told when changes do not reach the file, and, with nil, when they do again.
	trouble func(error)
	changed chan struct{} // has a value when keep has something to do

	turn     chan struct{} // holds a value while somebody uses what follows
	content  []byte        // as the guest has it
	from, to int64         // what of it the file may lack
	unsynced bool          // the file has changes that were not flushed
	failing  bool          // trouble was told
}

const (
	flashCalm  = 200 * time.Millisecond // after a change, until it is flushed with those that followed
	flashRetry = time.Second
)

// newFlash reads what the file holds.
func newFlash(ctx context.Context, on *block.Slot, trouble func(error)) (*flash, error) {
	f := &flash{Slot: on, trouble: trouble, turn: make(chan struct{}, 1), changed: make(chan struct{}, 1), content: make([]byte, on.Size())}
	return f, on.ReadAt(ctx, f.content, 0)
}

// take waits for its turn.
func (f *flash) take(ctx context.Context) (give func(), err error) {
	select {
	case f.turn <- struct{}{}:
		return func() { <-f.turn }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// snapshot is what the guest's flash memory holds.
func (f *flash) snapshot(ctx context.Context) ([]byte, error) {
	give, err := f.take(ctx)
	if err != nil {
		return nil, err
	}
	defer give()
	return bytes.Clone(f.content), nil
}

// ReadAt implements block.Device.
func (f *flash) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := block.CheckRange(int64(len(f.content)), off, int64(len(p))); err != nil {
		return err
	}
	give, err := f.take(ctx)
	if err != nil {
		return err
	}
	defer give()
	copy(p, f.content[off:])
	return nil
}

// WriteAt implements block.Device.
func (f *flash) WriteAt(ctx context.Context, p []byte, off int64, flags block.WriteFlags) error {
	n := int64(len(p))
	if err := block.CheckRange(int64(len(f.content)), off, n); err != nil {
		return err
	}
	give, err := f.take(ctx)
	if err != nil {
		return err
	}
	defer give()
	if now := f.content[off : off+n]; !bytes.Equal(now, p) {
		copy(now, p)
		if f.from == f.to {
			f.from, f.to = off, off+n
		}
		f.from, f.to = min(f.from, off), max(f.to, off+n)
	}
	err = f.store(ctx)
	if err == nil && flags&block.FUA != 0 {
		err = f.flush(ctx)
	}
	return err
}

// store brings the file up to date.
func (f *flash) store(ctx context.Context) error {
	if f.from == f.to || sabotage(sabotageFlash) {
		return nil
	}
	err := f.Slot.WriteAt(ctx, f.content[f.from:f.to], f.from, 0)
	if err == nil {
		f.from, f.to, f.unsynced = 0, 0, true
	}
	f.tell(err)
	select {
	case f.changed <- struct{}{}:
	default:
	}
	return err
}

// flush has the file on stable storage.
func (f *flash) flush(ctx context.Context) error {
	err := f.store(ctx)
	if err == nil && f.unsynced {
		err = f.Slot.Flush(ctx)
		f.unsynced = err != nil
		f.tell(err)
	}
	return err
}

func (f *flash) tell(err error) {
	if failing := err != nil; failing != f.failing {
		f.failing = failing
		f.trouble(err)
	}
}

// WriteZeroes implements block.Device.
func (f *flash) WriteZeroes(ctx context.Context, off, n int64, flags block.WriteFlags) error {
	if err := block.CheckRange(int64(len(f.content)), off, n); err != nil {
		return err
	}
	return f.WriteAt(ctx, make([]byte, n), off, flags)
}

// Trim implements block.Device: what flash memory holds is not given up.
func (f *flash) Trim(_ context.Context, off, n int64) error {
	return block.CheckRange(int64(len(f.content)), off, n)
}

// Flush implements block.Device.
func (f *flash) Flush(ctx context.Context) error {
	give, err := f.take(ctx)
	if err != nil {
		return err
	}
	defer give()
	return f.flush(ctx)
}

// keep flushes changes and tries again what failed, until ctx ends.
func (f *flash) keep(ctx context.Context) {
	for {
		select {
		case <-f.changed:
		case <-ctx.Done():
			return
		}
		for wait := flashCalm; ; wait = flashRetry {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
			if f.Flush(ctx) == nil {
				break
			}
		}
	}
}
