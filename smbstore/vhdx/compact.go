package vhdx

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"lunless/smbstore/block"
)

// CompactOptions say how to compact.
type CompactOptions struct{}

// CompactResult tells what Compact did, also where it ended early.
type CompactResult struct {
	BytesBefore int64 `json:"bytes_before"` // size of the file
	BytesAfter  int64 `json:"bytes_after"`
	Zeroed      int64 `json:"zeroed"` // blocks that gave their room back
	Moved       int64 `json:"moved"`  // blocks that moved towards the file's beginning
}

// maxMoves is how many blocks are picked at a time to be moved: 1 MiB of memory.
const maxMoves = 1 << 15

// Compact makes the file smaller while requests go on: blocks that hold nothing
// but zeroes, or that were trimmed, give their room back, and those at the file's
// end move to what is free before them. progress, which may be nil, is told of
// bytes done of a total that is an estimate.
//
// What the disk holds stays the same, DataWriteGuid with it. ctx may end it at any
// time; what has been done by then stays done. A power cut at any time leaves a
// valid disk. A fixed disk of which some blocks are zero gives ErrFixed.
func (d *Disk) Compact(ctx context.Context, _ CompactOptions, progress func(done, total int64)) (CompactResult, error) {
	if d.im.params.LeaveAllocated && !d.im.params.HasParent {
		return d.compactFixed(ctx)
	}
	end, err := d.maintain(ctx, false)
	if err != nil {
		return CompactResult{}, err
	}
	defer end()
	c := compaction{d: d, ctx: ctx, progress: progress, buf: make([]byte, mib)}
	c.res.BytesBefore = d.space.fileSize.Load()
	err = c.run()
	if err == nil || ctx.Err() != nil && !d.failed.Load() {
		err = errors.Join(err, d.cut())
	}
	c.res.BytesAfter = d.space.fileSize.Load()
	if err != nil {
		return c.res, fmt.Errorf("compact disk: %w", err)
	}
	return c.res, nil
}

// compactFixed refuses if there is anything that could be given back.
func (d *Disk) compactFixed(ctx context.Context) (CompactResult, error) {
	if err := d.check(ctx, 0, 0); err != nil {
		return CompactResult{}, err
	}
	size := d.space.fileSize.Load()
	res := CompactResult{BytesBefore: size, BytesAfter: size}
	for off := int64(0); off < d.Size(); off += d.blockSize {
		at, err := d.firstData(ctx, off, min(d.blockSize, d.Size()-off), true)
		if err != nil {
			return res, err
		}
		if at < 0 {
			return res, fmt.Errorf("compact disk: block at disk offset %d is zero, but: %w", off, ErrFixed)
		}
	}
	return res, nil
}

// compaction is a Compact under way.
type compaction struct {
	d           *Disk
	ctx         context.Context
	progress    func(done, total int64)
	done, total int64
	res         CompactResult
	idle        bool // blocks that were not relied upon have lost their room
	buf         []byte
}

func (c *compaction) run() error {
	d := c.d
	if err := d.rescan(c.ctx); err != nil {
		return err
	}
	c.total = d.space.inUse()
	if err := d.eachRoom(c.giveBack); err != nil {
		return err
	}
	if d.im.params.HasParent {
		if err := c.giveBackBitmaps(); err != nil {
			return err
		}
	}
	if c.idle { // what they pointed to is free if nobody else has it
		if err := d.rescan(c.ctx); err != nil {
			return err
		}
	}
	if err := d.flush(c.ctx); err != nil {
		return err
	}
	c.total = c.done + d.space.freeBelow(d.space.inUse())
	for {
		more, err := c.moveSome()
		if err != nil || !more {
			return err
		}
	}
}

func (c *compaction) step(n int64) {
	c.done += n
	c.total = max(c.total, c.done)
	if c.progress != nil {
		c.progress(c.done, c.total)
	}
}

// giveBack looks at one entry of the BAT that holds room.
func (c *compaction) giveBack(i int64, e batEntry, _, n int64) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	defer c.step(n)
	d := c.d
	if i%(d.ratio+1) == d.ratio {
		return nil
	}
	blk := i - i/(d.ratio+1)
	if !e.relied() {
		return c.dropIdle(blk)
	}
	if state, err := c.without(blk, e); err != nil || state < 0 { // most blocks end here, with their first sectors
		return err
	}
	w, stop := d.watchRange(blk*d.blockSize, d.blockSize)
	defer stop()
	state, err := c.without(blk, e)
	if err != nil || state < 0 {
		return err
	}
	l := &d.stripes[blk%stripes]
	l.Lock()
	defer l.Unlock()
	if now, err := d.lookup(blk); err != nil || now != e || w.changed() {
		return err
	}
	c.res.Zeroed++
	return d.setEntry(c.ctx, blk, makeEntry(state, 0), room{e.offset(), d.blockSize})
}

// dropIdle takes the room from a block whose content is not relied upon.
func (c *compaction) dropIdle(blk int64) error {
	d := c.d
	l := &d.stripes[blk%stripes]
	l.Lock()
	defer l.Unlock()
	e, err := d.lookup(blk)
	if err != nil || e.relied() || !e.reserves() {
		return err
	}
	c.idle = true
	c.res.Zeroed++
	return d.setEntry(c.ctx, blk, makeEntry(e.state(), 0), room{})
}

// without returns the state in which a block reads the same without room, or -1
// if there is none.
func (c *compaction) without(blk int64, e batEntry) (state int, err error) {
	d := c.d
	length := min(d.blockSize, d.Size()-blk*d.blockSize)
	if e.state() == statePresent {
		at, err := d.firstData(c.ctx, blk*d.blockSize, length, true)
		if err != nil || at >= 0 {
			return -1, err
		}
		return stateZero, nil
	}
	return c.withoutPartial(blk, length)
}

// moveSome moves the blocks that lie last, and tells whether there may be more.
func (c *compaction) moveSome() (more bool, err error) {
	d := c.d
	if err := d.flush(c.ctx); err != nil {
		return false, err
	}
	list, err := c.last()
	if err != nil {
		return false, err
	}
	moved := false
	for _, p := range list {
		if err := c.ctx.Err(); err != nil {
			return false, err
		}
		to, ok := d.space.allocBelow(p.n, p.off)
		if !ok {
			return false, nil // what lies last stays: the file gets no shorter
		}
		ok, err := c.move(p, to)
		if err != nil {
			return false, err
		}
		if moved = true; ok {
			c.res.Moved++
		}
		c.step(p.n)
	}
	return moved, nil
}

// placed is something that lies in the file: the block of a BAT entry, or the BAT.
type placed struct {
	i      int64 // entry; -1 for the BAT itself
	off, n int64
}

// last returns what lies last in the file and can move, last first, up to
// maxMoves of it. What lies before something that cannot move is left out.
func (c *compaction) last() ([]placed, error) {
	d := c.d
	floor, list := int64(0), []placed{}
	for _, s := range d.geo.Load().spans {
		if s.off == d.geo.Load().bat {
			list = append(list, placed{-1, s.off, s.n})
		} else {
			floor = max(floor, s.off+s.n)
		}
	}
	prune := func() {
		slices.SortFunc(list, func(a, b placed) int { return cmp.Compare(b.off, a.off) })
		list = list[:min(len(list), maxMoves)]
	}
	err := d.eachRoom(func(i int64, e batEntry, _, n int64) error {
		if !e.relied() || e.offset() < floor {
			return nil
		}
		if list = append(list, placed{i, e.offset(), n}); len(list) == 2*maxMoves {
			prune()
		}
		return c.ctx.Err()
	})
	prune()
	return list, err
}

// move takes what lies at p to room that is free, and tells whether it came to
// that: a request may have changed where it is.
func (c *compaction) move(p placed, to int64) (bool, error) {
	d := c.d
	switch {
	case p.i < 0:
		if err := d.zeroFile(to, p.n, true); err != nil {
			d.space.release(room{to, p.n})
			return false, err
		}
		err := d.moveBAT(c.ctx, room{to, p.n}, d.Size(), nil)
		return err == nil, err
	case p.i%(d.ratio+1) == d.ratio:
		return c.moveBitmap(p, to)
	}
	ok, err := c.moveBlock(p, to)
	if !ok {
		d.space.release(room{to, p.n})
	}
	return ok, err
}

// moveBlock copies a payload block while requests go on, and then, with requests
// for it held, what they have changed. Its old room is free once it is stable
// that the block is elsewhere.
func (c *compaction) moveBlock(p placed, to int64) (bool, error) {
	d, blk := c.d, p.i-p.i/(c.d.ratio+1)
	w, stop := d.watchRange(blk*d.blockSize, d.blockSize)
	defer stop()
	if err := c.copy(p.off, to, p.n); err != nil {
		return false, err
	}
	l := &d.stripes[blk%stripes]
	l.Lock()
	defer l.Unlock()
	e, err := d.lookup(blk)
	if err != nil || !e.relied() || e.offset() != p.off {
		return false, err
	}
	err = w.take(func(off, n int64) error {
		in := off - blk*d.blockSize
		return c.copy(p.off+in, to+in, n)
	})
	if err != nil {
		return false, err
	}
	err = d.setEntry(c.ctx, blk, makeEntry(e.state(), to), room{p.off, p.n})
	return err == nil, err
}

// copy copies within the file; holes stay holes.
func (c *compaction) copy(from, to, n int64) error {
	d, done := c.d, from
	err := dataRuns(d.own, from, n, func(at, n int64) error {
		if err := d.zeroFile(to+done-from, at-done, true); err != nil {
			return err
		}
		done = at + n
		return c.copyData(at, to+at-from, n)
	})
	if err != nil {
		return err
	}
	return d.zeroFile(to+done-from, from+n-done, true)
}

func (c *compaction) copyData(from, to, n int64) error {
	d := c.d
	if rc, ok := d.own.(block.RangeCopier); ok {
		switch done, err := rc.CopyFrom(d.own, from, to, n); {
		case err == nil:
			from, to, n = from+done, to+done, n-done
		case !isUnsupported(err):
			return fmt.Errorf("copy %d bytes within the file from %#x to %#x: %w", n, from, to, err)
		}
	}
	for n > 0 {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		p := c.buf[:min(n, int64(len(c.buf)))]
		if err := readFull(d.own, p, from); err != nil {
			return err
		}
		if err := d.writeFile(p, to); err != nil {
			return err
		}
		k := int64(len(p))
		from, to, n = from+k, to+k, n-k
	}
	return nil
}
