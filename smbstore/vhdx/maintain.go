package vhdx

import (
	"context"
	"fmt"
	"sync/atomic"

	"lunless/smbstore/block"
)

// maintain begins what changes the layout of a live disk: one at a time, others
// wait for it. end must be called. data tells that what the disk's user sees
// changes too.
func (d *Disk) maintain(ctx context.Context, data bool) (end func(), err error) {
	if err := d.check(ctx, 0, 0); err != nil {
		return nil, err
	}
	switch {
	case d.ro:
		return nil, block.ErrReadOnly
	case d.im.params.HasParent && d.parent == nil:
		return nil, ErrNoParent
	}
	select {
	case d.busy <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	end = func() { <-d.busy }
	if err := d.beginLayout(data); err != nil {
		end()
		return nil, err
	}
	return end, nil
}

// beginLayout is begin, but for a change of the file's layout alone the headers
// get a new FileWriteGuid and keep DataWriteGuid (MS-VHDX 2.2.2).
func (d *Disk) beginLayout(data bool) error {
	switch {
	case d.failed.Load():
		return block.ErrFailed
	case data && d.bare():
		return block.ErrReadOnly
	case data && !d.begun.Load():
		return d.begin()
	}
	d.flushMu.Lock()
	defer d.flushMu.Unlock()
	if d.closed.Load() {
		return block.ErrClosed
	}
	if d.hdr.changed() {
		return nil
	}
	if err := d.hdr.update(func(*header) {}); err != nil {
		return d.fail(err)
	}
	return nil
}

// watchParts is how finely a watch knows what has changed.
const watchParts = 1024

// watch notes which parts of a range of the disk requests have changed since it
// was set. Requests note a change before they make it, with the block's lock held.
type watch struct {
	off, end int64
	unit     int64
	parts    [(watchParts + 63) / 64]atomic.Uint64
}

// watchRange sets the disk's watch and returns once every later change of the
// range is noted; stop takes it off again. The caller has begun maintenance and
// holds no block's lock.
func (d *Disk) watchRange(off, n int64) (w *watch, stop func()) {
	w = &watch{off: off, end: off + n, unit: max(1, (n+watchParts-1)/watchParts)}
	d.watch.Store(w)
	first, last := off/d.blockSize, (off+n-1)/d.blockSize
	for i := range min(last-first+1, stripes) {
		d.drain((first + i) % stripes) // who has not seen the watch is done then
	}
	return w, func() { d.watch.Store(nil) }
}

// drain waits until no request that is under way holds a stripe's lock.
func (d *Disk) drain(stripe int64) {
	l := &d.stripes[stripe]
	l.Lock()
	defer l.Unlock()
}

// noteChange tells the watch, if there is one, that [in, in+n) of a block is about
// to change. The caller holds the block's lock.
func (d *Disk) noteChange(blk, in, n int64) {
	if w := d.watch.Load(); w != nil {
		w.note(blk*d.blockSize+in, n)
	}
}

func (w *watch) note(off, n int64) {
	from, to := max(off, w.off), min(off+n, w.end)
	if from >= to {
		return
	}
	for k := (from - w.off) / w.unit; k <= (to-1-w.off)/w.unit; k++ {
		w.parts[k/64].Or(1 << (k % 64))
	}
}

// take calls visit for the parts that have changed since the last take.
func (w *watch) take(visit func(off, n int64) error) error {
	for k := range int64(watchParts) {
		bit := uint64(1) << (k % 64)
		if w.parts[k/64].Load()&bit == 0 {
			continue
		}
		w.parts[k/64].And(^bit)
		off := w.off + k*w.unit
		if err := visit(off, min(w.unit, w.end-off)); err != nil {
			return err
		}
	}
	return nil
}

// changed tells whether anything has changed.
func (w *watch) changed() bool {
	for i := range w.parts {
		if w.parts[i].Load() != 0 {
			return true
		}
	}
	return false
}

// rescan finds out anew what of the file is in use, requests going on meanwhile.
// Two blocks in one place are an error.
func (d *Disk) rescan(ctx context.Context) error {
	spans := d.geo.Load().spans
	u := newUsage(d.space.fileSize.Load())
	for _, s := range spans {
		u.mark(s.off, min(s.n, max(0, roundUp(d.space.fileSize.Load(), mib)-s.off)))
	}
	d.space.record()
	defer d.space.recorded(nil)
	d.quiesce()() // who got room before it was recorded has said so in the BAT
	if err := d.flush(ctx); err != nil {
		return err
	}
	idle := false // blocks whose content is not relied upon hold room
	walk := func(relied bool) error {
		return d.eachRoom(func(i int64, e batEntry, at, n int64) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if !e.relied() {
				if idle = true; !relied && checkPlace(spans, e.offset(), n, d.space.fileSize.Load()) == nil {
					u.mark(e.offset(), n)
				}
				return nil
			}
			if !relied {
				return nil
			}
			if err := checkPlace(spans, e.offset(), n, d.space.fileSize.Load()); err != nil {
				return corrupt(at, "BAT entry %d: block at %#x %v", i, e.offset(), err)
			}
			if u.mark(e.offset(), n) >= 0 {
				return corrupt(at, "BAT entry %d: block at %#x belongs to another as well", i, e.offset())
			}
			return nil
		})
	}
	err := walk(true)
	if err == nil && idle {
		err = walk(false)
	}
	if err != nil {
		return fmt.Errorf("examine block allocation table: %w", err)
	}
	d.space.recorded(u)
	return nil
}

// relied tells whether the content of what the entry points to matters.
func (e batEntry) relied() bool { return e.state() == statePresent || e.state() == statePartial }

// eachRoom visits the blocks that hold room, as the file's BAT has them: what
// waits for a flush is not in it.
func (d *Disk) eachRoom(visit func(i int64, e batEntry, at, n int64) error) error {
	g, p := d.geo.Load(), d.im.params
	p.VirtualSize = uint64(g.size)
	return walkEntries(d.own, g.bat, p.batEntries(), func(i int64, e batEntry, at int64) error {
		n := d.blockSize
		if i%(d.ratio+1) == d.ratio {
			if n = mib; e.state() != statePresent {
				return nil
			}
		} else if !e.reserves() {
			return nil
		}
		return visit(i, e, at, n)
	})
}
