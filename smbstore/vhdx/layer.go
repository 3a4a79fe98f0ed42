package vhdx

import (
	"context"
	"errors"
	"fmt"
)

// absent tells whether a block's entry says that its parent has its content.
func (d *Disk) absent(e batEntry) bool {
	return e.state() == stateNotPresent && d.im.params.HasParent
}

// bare tells whether a differencing disk was opened without its parent.
func (d *Disk) bare() bool { return d.im.params.HasParent && d.parent == nil }

// readParent reads what this image lacks. What lies past the parent's end is zero.
func (d *Disk) readParent(ctx context.Context, p []byte, off int64) error {
	if d.parent == nil {
		return fmt.Errorf("%d bytes at %d are in the parent: %w", len(p), off, ErrNoParent)
	}
	n := max(0, min(int64(len(p)), d.parent.Size()-off))
	clear(p[n:])
	if n == 0 {
		return nil
	}
	if err := d.parent.ReadAt(ctx, p[:n], off); err != nil {
		return fmt.Errorf("parent: %w", err)
	}
	return nil
}

// readPartial reads from a partially present block at place: runs of sectors that
// are here from the file, others from the parent.
func (d *Disk) readPartial(ctx context.Context, p []byte, blk, in, place int64) error {
	base, err := d.partial(blk)
	if err != nil {
		return err
	}
	last := d.touched(in, int64(len(p))).to
	for len(p) > 0 {
		to, here, err := d.run(base, in/d.sector, last)
		if err != nil {
			return err
		}
		n := min(int64(len(p)), to*d.sector-in)
		if here {
			err = readFull(d.f, p[:n], place+in)
		} else {
			err = d.readParent(ctx, p[:n], blk*d.blockSize+in)
		}
		if err != nil {
			return err
		}
		p, in = p[n:], in+n
	}
	return nil
}

// overwrite writes to a partially present block at place, if the sectors that it
// does not cover whole are here; done is false if they are not. filled tells that
// all of the block may be here now. The caller holds the block's lock.
func (d *Disk) overwrite(ctx context.Context, p []byte, blk, in, place int64) (done, filled bool, err error) {
	base, err := d.partial(blk)
	if err != nil {
		return false, false, err
	}
	n := int64(len(p))
	for _, edge := range []int64{in, in + n} {
		if edge%d.sector == 0 {
			continue
		}
		s := edge / d.sector
		if has, err := d.has(base, sectorSpan{s, s + 1}); err != nil || !has {
			return false, false, err
		}
	}
	d.noteChange(blk, in, n)
	if sabotaged("bitmap-early") {
		if err := errors.Join(d.setBits(ctx, base, d.touched(in, n)), d.flush(ctx)); err != nil {
			return false, false, err
		}
	}
	if err := d.writeFile(p, place+in); err != nil {
		return false, false, err
	}
	return true, d.ends(blk, in, n), d.setBits(ctx, base, d.touched(in, n))
}

// ends tells whether [in, in+n) reaches the end of a block.
func (d *Disk) ends(blk, in, n int64) bool { return in+n == d.length(blk) }

// length is how much of a block belongs to the disk.
func (d *Disk) length(blk int64) int64 { return min(d.blockSize, d.Size()-blk*d.blockSize) }

// fillEdges brings what the sectors at the ends of [in, in+n) hold outside of it
// from the parent to place, a block's room; base is of the block's bitmap, 0 if
// none of its sectors is here. The caller holds the block's lock alone.
func (d *Disk) fillEdges(ctx context.Context, blk, in, n, place, base int64) error {
	s := d.touched(in, n)
	for _, edge := range []struct{ sector, from, to int64 }{
		{s.from, s.from * d.sector, in}, {s.to - 1, in + n, s.to * d.sector},
	} {
		if edge.from == edge.to {
			continue
		}
		if base != 0 {
			if has, err := d.has(base, sectorSpan{edge.sector, edge.sector + 1}); has || err != nil {
				if err != nil {
					return err
				}
				continue
			}
		}
		b := make([]byte, edge.to-edge.from)
		if err := d.readParent(ctx, b, blk*d.blockSize+edge.from); err != nil {
			return err
		}
		if err := d.writeFile(b, place+edge.from); err != nil {
			return err
		}
	}
	return nil
}

// complete makes a partially present block fully present if all its sectors are
// here. The caller holds the block's lock alone.
func (d *Disk) complete(ctx context.Context, blk int64, e batEntry) error {
	base, err := d.partial(blk)
	if err != nil {
		return err
	}
	if all, err := d.has(base, d.touched(0, d.length(blk))); !all || err != nil {
		return err
	}
	return d.setEntry(ctx, blk, makeEntry(statePresent, e.offset()), room{})
}

// put writes p, or n zeroes if p is nil, to a block that is absent or partially
// present, and whole sectors with what the parent has round it. The caller holds
// the block's lock alone.
func (d *Disk) put(ctx context.Context, blk int64, e batEntry, p []byte, in, n int64, unmap bool) error {
	if e.state() != statePartial {
		return d.begins(ctx, blk, p, in, n)
	}
	d.noteChange(blk, 0, d.blockSize) // sectors of which the range is a part, too
	base, err := d.partial(blk)
	if err != nil {
		return err
	}
	if err := d.content(ctx, blk, p, in, n, e.offset(), base, unmap); err != nil {
		return err
	}
	if err := d.setBits(ctx, base, d.touched(in, n)); err != nil || !d.ends(blk, in, n) {
		return err
	}
	return d.complete(ctx, blk, e)
}

// begins is put for an absent block: it becomes partially present, or fully if
// all of it is written.
func (d *Disk) begins(ctx context.Context, blk int64, p []byte, in, n int64) error {
	place, zeroed, err := d.space.alloc(d.blockSize)
	if err != nil {
		return err
	}
	if !zeroed {
		// What lies there is read only once it has been written, but for what is past
		// the disk's end: a Resize may move that.
		err = d.zeroFile(place+d.length(blk), d.blockSize-d.length(blk), true)
	}
	if err == nil && (p != nil || !zeroed) {
		err = d.content(ctx, blk, p, in, n, place, 0, true)
	} else if err == nil {
		err = d.fillEdges(ctx, blk, in, n, place, 0)
	}
	if err == nil {
		if s := d.touched(in, n); s.from == 0 && s.to*d.sector == d.length(blk) {
			err = d.setEntry(ctx, blk, makeEntry(statePresent, place), room{})
		} else {
			err = d.becomePartial(ctx, blk, place, s)
		}
	}
	if err != nil {
		d.space.release(room{place, d.blockSize})
	}
	return err
}

// content writes p, or n zeroes, to a block's room at place, and the edges.
func (d *Disk) content(ctx context.Context, blk int64, p []byte, in, n, place, base int64, unmap bool) error {
	if err := d.fillEdges(ctx, blk, in, n, place, base); err != nil {
		return err
	}
	if p == nil {
		return d.zeroFile(place+in, n, unmap)
	}
	return d.writeFile(p, place+in)
}
