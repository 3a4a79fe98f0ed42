package vhdx

import (
	"context"
	"errors"
	"fmt"

	"lunless/smbstore/block"
)

// begin tells of the session's first change in the headers (MS-VHDX 2.2.2).
func (d *Disk) begin() error {
	d.flushMu.Lock()
	defer d.flushMu.Unlock()
	if d.begun.Load() {
		return nil
	}
	if d.closed.Load() {
		return block.ErrClosed
	}
	if err := d.hdr.update(func(h *header) { h.DataWriteGUID = d.nextIdentity() }); err != nil {
		if again(err) {
			return err
		}
		return d.fail(err)
	}
	d.begun.Store(true)
	return nil
}

// nextIdentity is the DataWriteGUID of the content that is about to be.
func (d *Disk) nextIdentity() GUID {
	if d.dataWrite != (GUID{}) {
		return d.dataWrite
	}
	return newGUID()
}

// fail marks the disk as failed for good.
func (d *Disk) fail(err error) error {
	d.failed.Store(true)
	return fmt.Errorf("%w: %w", block.ErrFailed, err)
}

// allocate gives a block room and writes p at in of it, zeroes around; p may be
// empty. The caller holds the block's lock alone.
func (d *Disk) allocate(ctx context.Context, blk int64, old batEntry, p []byte, in int64) error {
	off, zeroed, err := d.space.alloc(d.blockSize)
	if err != nil {
		return err
	}
	if err = d.fill(off, zeroed, p, in); err == nil {
		err = d.setEntry(ctx, blk, makeEntry(statePresent, off), d.givenUp(old))
	}
	if err != nil {
		d.space.release(room{off, d.blockSize})
	}
	return err
}

// fill writes a new block's content.
func (d *Disk) fill(off int64, zeroed bool, p []byte, in int64) error {
	if !zeroed {
		tail := in + int64(len(p))
		if err := d.zeroFile(off, in, true); err != nil {
			return err
		}
		if err := d.zeroFile(off+tail, d.blockSize-tail, true); err != nil {
			return err
		}
	}
	if len(p) == 0 {
		return nil
	}
	return d.writeFile(p, off+in)
}

func (d *Disk) zeroFile(off, n int64, unmap bool) error {
	if n == 0 {
		return nil
	}
	if err := block.ZeroFile(d.own, off, n, unmap); err != nil {
		return fmt.Errorf("zero %d bytes at file offset %#x: %w", n, off, err)
	}
	return nil
}

// givenUp is the room an entry's block leaves when the entry changes, if any.
// What an entry that is not present points to may be another's by now: it is not
// used again before the next Open has seen that it is free.
func (d *Disk) givenUp(e batEntry) room {
	if e.state() != statePresent && e.state() != statePartial || checkPlace(d.geo.Load().spans, e.offset(), d.blockSize, d.space.fileSize.Load()) != nil {
		return room{}
	}
	return room{e.offset(), d.blockSize}
}

// whole tells whether [in, in+n) is all of a block that belongs to the disk.
func (d *Disk) whole(blk, in, n int64) bool {
	return in == 0 && n == d.length(blk)
}

func (d *Disk) zeroBlock(ctx context.Context, blk, in, n int64, keep bool) error {
	l := &d.stripes[blk%stripes]
	l.Lock()
	defer l.Unlock()
	e, err := d.lookup(blk)
	if err != nil {
		return err
	}
	d.noteChange(blk, in, n)
	fixed := d.im.params.fixed()
	present, partial := e.state() == statePresent, e.state() == statePartial
	switch {
	case (partial || d.absent(e)) && !keep && d.whole(blk, in, n):
		return d.setEntry(ctx, blk, makeEntry(stateZero, 0), d.givenUp(e))
	case partial || d.absent(e):
		return d.put(ctx, blk, e, nil, in, n, !keep)
	case !present && keep:
		return d.allocate(ctx, blk, e, nil, 0)
	case present && !keep && !fixed && d.whole(blk, in, n):
		return d.setEntry(ctx, blk, makeEntry(stateZero, 0), d.givenUp(e))
	case present:
		return d.zeroFile(e.offset()+in, n, !keep && !fixed)
	case (e.state() == stateUndefined || e.state() == stateUnmapped) && d.whole(blk, in, n):
		// It reads as zeroes here, but another implementation may see otherwise.
		return d.setEntry(ctx, blk, makeEntry(stateZero, 0), d.givenUp(e))
	}
	return nil
}

func (d *Disk) trimBlock(ctx context.Context, blk, in, n int64) error {
	l := &d.stripes[blk%stripes]
	l.Lock()
	defer l.Unlock()
	e, err := d.lookup(blk)
	if err != nil || e.state() != statePresent && e.state() != statePartial || d.im.params.fixed() {
		return err
	}
	if d.whole(blk, in, n) {
		return d.setEntry(ctx, blk, makeEntry(stateUnmapped, 0), d.givenUp(e))
	}
	p, ok := d.own.(block.Puncher)
	if !ok {
		return nil
	}
	d.noteChange(blk, in, n)
	if err := p.PunchHole(e.offset()+in, n); err != nil && !isUnsupported(err) {
		return fmt.Errorf("trim at file offset %#x: %w", e.offset()+in, err)
	}
	return nil
}

// Flush implements block.Device.
func (d *Disk) Flush(ctx context.Context) error {
	if err := d.check(ctx, 0, 0); err != nil || d.ro || sabotaged("flush-swallowed") {
		return err
	}
	return d.flush(ctx)
}

// flush makes stable what was written before the call. Callers that come while
// one is under way share the next.
func (d *Disk) flush(ctx context.Context) error {
	need := d.started.Load() + 1
	d.flushMu.Lock()
	defer d.flushMu.Unlock()
	if d.failed.Load() {
		return block.ErrFailed
	}
	if d.ended >= need {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if d.closed.Load() {
		return block.ErrClosed
	}
	return d.flushLocked()
}

func (d *Disk) flushLocked() error {
	d.started.Add(1)
	if err := d.commit(); err != nil {
		// Who changes the layout relies on a change being there, or the disk failed.
		if again(err) && len(d.busy) == 0 {
			return err
		}
		return d.fail(err)
	}
	d.ended = d.started.Load()
	return nil
}

// again tells whether what failed can be done once more: it had no room for what it
// wrote. A failed flush is never repeated into silence.
func again(err error) bool {
	return errors.Is(err, block.ErrNoSpace) && !errors.Is(err, block.ErrFailed) && !errors.As(err, new(*syncError))
}

// syncError is a flush of the file that failed.
type syncError struct {
	what string
	err  error
}

func (e *syncError) Error() string { return "flush " + e.what + ": " + e.err.Error() }
func (e *syncError) Unwrap() error { return e.err }

// commit brings all changes to stable storage: first those that there was no room
// for the last time.
func (d *Disk) commit() error {
	if d.stuck != nil {
		if err := d.bring(*d.stuck); err != nil {
			return err
		}
		d.stuck = nil
	}
	t := d.meta.take()
	err := d.bring(t)
	if err != nil && again(err) {
		d.stuck = &t
	}
	return err
}

// bring makes data stable, then the metadata that tells of it, in one log
// sequence (MS-VHDX 2.3). If there is no room for all of it, it can be called again:
// the log's last entry stays whole until the next one is, and that has all pages of
// a batch that was written in part.
func (d *Disk) bring(t metaBatch) error {
	flushed, last := d.space.fileSize.Load(), d.space.used()
	// Stable from here on: data and zeroes of the blocks t tells of, the file's
	// size, and the pages that the last commit wrote in their places.
	if !sabotaged("data-after-bat") || len(t.pages) == 0 {
		if err := d.own.Sync(); err != nil {
			return &syncError{"data", err}
		}
	}
	if len(t.updates) > 0 {
		if err := d.commitPages(t.updates, flushed, last); err != nil {
			return err
		}
	}
	d.meta.release(t)
	d.space.release(t.freed...)
	return nil
}

// commitPages takes pages of metadata through the log to their places.
func (d *Disk) commitPages(updates []update, flushed, last int64) error {
	if !sabotaged("log-entry-skipped") {
		if err := d.log.write(updates, flushed, last); err != nil {
			return err
		}
		if !d.inUse {
			// The log held nothing of use, and its first entry is stable: from
			// here on it counts.
			if err := d.hdr.update(func(h *header) { h.LogGUID = d.log.guid }); err != nil {
				return err
			}
			d.inUse = true
		}
	}
	for _, u := range updates {
		if _, err := d.own.WriteAt(u.Data, u.Offset); err != nil {
			return fmt.Errorf("write metadata at %#x: %w", u.Offset, err)
		}
		if off, ok := d.mirror.place(u.Offset); ok {
			if err := d.writeFile(u.Data, off); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close implements block.Device: it flushes, takes the log out of use, cuts
// unused room off the file's end and closes the file, which it does even after
// an error. A parent is closed after it.
func (d *Disk) Close() error {
	if d.closed.Swap(true) {
		return block.ErrClosed
	}
	for i := range d.stripes { // requests under way end; later ones see closed
		d.stripes[i].Lock()
		defer d.stripes[i].Unlock()
	}
	d.flushMu.Lock()
	defer d.flushMu.Unlock()
	var err error
	if !d.ro && !d.failed.Load() && d.hdr.changed() {
		err = d.finish()
	}
	err = errors.Join(err, d.own.Close())
	if d.parent != nil {
		err = errors.Join(err, d.parent.Close())
	}
	return err
}

func (d *Disk) finish() error {
	if sabotaged("header-early") && d.inUse {
		if err := d.hdr.update(func(h *header) { h.LogGUID = GUID{} }); err != nil {
			return err
		}
	}
	if err := d.flushLocked(); err != nil {
		return err
	}
	if err := d.retireLog(); err != nil {
		return err
	}
	if d.im.params.fixed() {
		return nil
	}
	if end := d.space.used(); end < d.space.fileSize.Load() {
		if err := d.own.Truncate(end); err != nil {
			return fmt.Errorf("cut unused room: %w", err)
		}
		return d.own.Sync()
	}
	return nil
}

// sabotage names a step to leave out, so that tests can show that they would
// notice. Nothing but a test sets it.
var sabotage string

func sabotaged(name string) bool { return sabotage == name }
