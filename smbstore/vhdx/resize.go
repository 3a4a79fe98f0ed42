package vhdx

import (
	"context"
	"fmt"
)

// Resize changes the virtual disk's size, by the rules of Create: to 1 MiB to
// 64 TiB, a multiple of the logical sector. Requests go on meanwhile; they are
// held for the switch alone. What a grown disk gains reads as zeroes. A disk
// shrinks only where its tail reads as zeroes or has no room, else the error is a
// TailInUseError; a differencing disk does not shrink.
//
// A power cut leaves a disk of the old size or of the new one. What is on stable
// storage when Resize returns is the new one. Errors: ErrBadOptions,
// ErrTailInUse, ErrUnsupported, and those of every request. After an error other
// than block.ErrFailed the disk goes on as it was.
func (d *Disk) Resize(ctx context.Context, size int64) error {
	p := d.im.params
	if err := checkSize(size, int64(p.LogicalSectorSize)); err != nil {
		return err
	}
	end, err := d.maintain(ctx, size != d.Size())
	if err != nil {
		return err
	}
	defer end()
	old := d.Size()
	switch {
	case size == old:
		return nil
	case size > old:
		err = d.growDisk(ctx, size)
	case p.HasParent:
		return fmt.Errorf("shrink a differencing disk from %d to %d bytes: %w", old, size, ErrUnsupported)
	default:
		err = d.shrinkDisk(ctx, size)
	}
	if err != nil {
		return fmt.Errorf("resize disk from %d to %d bytes: %w", old, size, err)
	}
	return nil
}

// checkSize refuses what cannot be a disk's size.
func checkSize(size, sector int64) error {
	switch {
	case size < mib || size > maxVirtualSize:
		return fmt.Errorf("size %d is not from 1 MiB to 64 TiB: %w", size, ErrBadOptions)
	case size%sector != 0:
		return fmt.Errorf("size %d is not a multiple of the %d-byte sector: %w", size, sector, ErrBadOptions)
	}
	return nil
}

// sized returns the disk's parameters with another size.
func (d *Disk) sized(size int64) params {
	p := d.im.params
	p.VirtualSize = uint64(size)
	return p
}

// growDisk prepares what lies past the disk's end, which no request looks at, and
// then switches to the new size. If it does not come to that, what it has
// prepared is taken back.
func (d *Disk) growDisk(ctx context.Context, size int64) error {
	was, will := d.sized(d.Size()), d.sized(size)
	g := grower{d: d, was: was, will: will, held: min(int64(d.im.bat.Length)/8, will.batEntries())}
	if err := d.flush(ctx); err != nil {
		return err
	}
	if err := d.clearPastEnd(ctx, was.blocks()); err != nil {
		return err
	}
	if err := d.zeroTail(ctx, size); err != nil {
		return err
	}
	if sabotaged("resize-early") {
		if err := d.putSizeAlone(ctx, size); err != nil {
			return err
		}
	}
	to, err := g.region() // before the blocks, lest it lie at the file's end
	if err == nil {
		if err = g.prepare(ctx); err != nil {
			d.space.release(to)
		}
	}
	if err == nil && to.n > 0 {
		err = d.moveBAT(ctx, to, size, func() error { return g.writeNew(ctx, to.off) })
	} else if err == nil {
		err = d.putSizeAlone(ctx, size)
	}
	if err != nil && !d.failed.Load() {
		g.undo(context.WithoutCancel(ctx))
	}
	if err == nil && g.room.n > 0 { // a fixed disk's file ends with its last block
		err = d.cut()
	}
	return err
}

// grower is a growth under way.
type grower struct {
	d         *Disk
	was, will params
	held      int64 // entries of the new BAT that the old region holds
	room      room  // of the new blocks of a fixed disk
}

// prepare gives the new blocks of a fixed disk room, and writes those of the new
// blocks' entries that the BAT region holds.
func (g *grower) prepare(ctx context.Context) error {
	d := g.d
	if g.was.LeaveAllocated && !g.was.HasParent {
		if err := g.allocate(); err != nil {
			return err
		}
	}
	return g.eachNew(func(i int64, e batEntry) error {
		if i >= g.held {
			return nil
		}
		return d.setRaw(ctx, i, e)
	})
}

// allocate gives the new blocks of a fixed disk room.
func (g *grower) allocate() error {
	d := g.d
	n := (g.will.blocks() - g.was.blocks()) * d.blockSize
	if n == 0 {
		return nil
	}
	off, zeroed, err := d.space.alloc(n)
	if err != nil {
		return err
	}
	g.room = room{off, n}
	if !zeroed {
		return d.zeroFile(off, n, true)
	}
	return nil
}

// eachNew visits the BAT entries of the new blocks that are not zero: those of a
// fixed disk have room, and those of a differencing disk whose parent is larger
// than it was hide what the parent has there.
func (g *grower) eachNew(visit func(i int64, e batEntry) error) error {
	first, end := g.was.blocks(), g.will.blocks()
	if g.room.n == 0 {
		if g.d.parent == nil {
			return nil
		}
		end = min(end, (g.d.parent.Size()+g.d.blockSize-1)/g.d.blockSize)
	}
	for blk := first; blk < end; blk++ {
		e := makeEntry(stateZero, 0)
		if g.room.n > 0 {
			e = makeEntry(statePresent, g.room.off+(blk-first)*g.d.blockSize)
		}
		if err := visit(g.d.batIndex(blk), e); err != nil {
			return err
		}
	}
	return nil
}

// region returns room for a BAT that holds the new blocks, none if there is no need.
func (g *grower) region() (room, error) {
	if g.held == g.will.batEntries() {
		return room{}, nil
	}
	n := roundUp(g.will.batEntries()*8, mib)
	off, zeroed, err := g.d.space.alloc(n)
	if err != nil || zeroed {
		return room{off, n}, err
	}
	if err := g.d.zeroFile(off, n, true); err != nil {
		g.d.space.release(room{off, n})
		return room{}, err
	}
	return room{off, n}, nil
}

// writeNew writes the entries that only the new region holds. Nothing refers to
// it yet: no log is needed.
func (g *grower) writeNew(ctx context.Context, bat int64) error {
	buf, at := make([]byte, 0, mib), int64(0)
	flush := func() error {
		if len(buf) == 0 {
			return nil
		}
		err := g.d.writeFile(buf, bat+at)
		buf = buf[:0]
		return err
	}
	err := g.eachNew(func(i int64, e batEntry) error {
		if i < g.held {
			return nil
		}
		if len(buf) > 0 && (at+int64(len(buf)) != i*8 || len(buf) == cap(buf)) {
			if err := flush(); err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		if len(buf) == 0 {
			at = i * 8
		}
		buf = le.AppendUint64(buf, uint64(e))
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// undo takes back what prepare did. What it cannot take back is a leak that the
// next Resize, or Repair, clears.
func (g *grower) undo(ctx context.Context) {
	err := g.eachNew(func(i int64, _ batEntry) error {
		if i >= g.held {
			return nil
		}
		return g.d.setRaw(ctx, i, 0)
	})
	if err == nil {
		err = g.d.flush(ctx)
	}
	if err == nil {
		g.d.space.release(g.room)
	}
}

// setRaw changes an entry past the disk's end, or one that no request can be
// looking at.
func (d *Disk) setRaw(ctx context.Context, i int64, e batEntry) error {
	at := d.geo.Load().bat + i*8
	return d.edit(ctx, 1, func(m metaEdit) error {
		if err := m.own(at, 8); err != nil {
			return err
		}
		m.set(at, uint64(e))
		return nil
	})
}

// clearPastEnd makes the BAT's entries of blocks from blk on zero: an earlier
// Resize may have been cut short, or another implementation have left something.
// No request looks at them.
func (d *Disk) clearPastEnd(ctx context.Context, blk int64) error {
	bat := d.geo.Load().bat
	chunks := (blk + d.ratio - 1) / d.ratio
	return walkEntries(d.own, bat, int64(d.im.bat.Length)/8, func(i int64, e batEntry, at int64) error {
		if !pastEnd(i, d.ratio, blk, chunks) {
			return nil
		}
		return d.setRaw(ctx, i, 0)
	})
}

// pastEnd tells whether entry i of a BAT is of no block of a disk of that many
// payload blocks and chunks.
func pastEnd(i, ratio, blocks, chunks int64) bool {
	chunk, in := i/(ratio+1), i%(ratio+1)
	if in == ratio {
		return chunk >= chunks
	}
	return chunk*ratio+in >= blocks
}

// zeroTail makes what the last block holds past the disk's end, here or in the
// parent, read as zeroes up to a new size.
func (d *Disk) zeroTail(ctx context.Context, to int64) error {
	size := d.Size()
	blk, in := size/d.blockSize, size%d.blockSize
	if in == 0 {
		return nil
	}
	n := min(to, (blk+1)*d.blockSize) - size
	l := &d.stripes[blk%stripes]
	l.Lock()
	defer l.Unlock()
	e, err := d.lookup(blk)
	if err == nil {
		err = ctx.Err()
	}
	switch {
	case err != nil:
		return err
	case e.state() == statePresent:
		return d.zeroFile(e.offset()+in, d.blockSize-in, !d.im.params.LeaveAllocated)
	case e.state() == statePartial:
		base, err := d.partial(blk)
		if err == nil {
			err = d.zeroFile(e.offset()+in, n, true)
		}
		if err != nil {
			return err
		}
		return d.setBits(ctx, base, d.touched(in, n))
	case d.absent(e) && d.parent != nil && d.parent.Size() > size:
		return d.begins(ctx, blk, nil, in, n)
	}
	return nil
}
