package vhdx

import (
	"context"
	"fmt"
	"math/bits"
)

// sectorSpan is a run of a block's logical sectors, [from, to).
type sectorSpan struct{ from, to int64 }

// touched are the sectors of a block that [in, in+n) bytes touch.
func (d *Disk) touched(in, n int64) sectorSpan {
	return sectorSpan{in / d.sector, (in + n + d.sector - 1) / d.sector}
}

// bitmapEntry is where the BAT entry of a payload block's sector bitmap block
// lies: after the entries of its chunk (MS-VHDX 2.5).
func (d *Disk) bitmapEntry(blk int64) int64 {
	chunk := blk / d.ratio
	return d.geo.Load().bat + (chunk*(d.ratio+1)+d.ratio)*8
}

// bitmapWords is where the bits of a block's sectors begin in a sector bitmap
// block at off: on a word of their own, as a block has 256 sectors at least.
func (d *Disk) bitmapWords(off, blk int64) int64 {
	return off + blk%d.ratio*(d.blockSize/d.sector/8)
}

// bitmap returns where the bits of a block's sectors begin in the file, 0 if the
// chunk has no sector bitmap block.
func (d *Disk) bitmap(blk int64) (base int64, err error) {
	at := d.bitmapEntry(blk)
	w, err := d.meta.word(at)
	if err != nil {
		return 0, err
	}
	switch e := batEntry(w); e.state() {
	case stateNotPresent:
		return 0, nil
	case statePresent:
		if err := checkPlace(d.geo.Load().spans, e.offset(), mib, d.space.fileSize.Load()); err != nil {
			return 0, corrupt(at, "BAT entry of block %d's sector bitmap: its place %#x %v", blk, e.offset(), err)
		}
		return d.bitmapWords(e.offset(), blk), nil
	default:
		return 0, corrupt(at, "BAT entry of block %d's sector bitmap: state %d", blk, e.state())
	}
}

// partial is bitmap for a partially present block, which must have one.
func (d *Disk) partial(blk int64) (base int64, err error) {
	if base, err = d.bitmap(blk); err == nil && base == 0 {
		err = corrupt(d.bitmapEntry(blk), "BAT entry of block %d: partially present, but without a sector bitmap", blk)
	}
	return base, err
}

// run returns where the run of sectors that begins at s ends, end at most, and
// whether they are in this file.
func (d *Disk) run(base, s, end int64) (to int64, here bool, err error) {
	w, err := d.meta.word(base + s/64*8)
	if err != nil {
		return 0, false, err
	}
	here = w>>(s%64)&1 != 0
	for {
		if here {
			w = ^w
		}
		if w >>= s % 64; w != 0 {
			return min(s+int64(bits.TrailingZeros64(w)), end), here, nil
		}
		if s = (s/64 + 1) * 64; s >= end {
			return end, here, nil
		}
		if w, err = d.meta.word(base + s/64*8); err != nil {
			return 0, false, err
		}
	}
}

// has tells whether all sectors of a span are in this file.
func (d *Disk) has(base int64, s sectorSpan) (bool, error) {
	to, here, err := d.run(base, s.from, s.to)
	return here && to == s.to, err
}

// mask returns the bits of word i of a block's bitmap that belong to the span.
func (s sectorSpan) mask(i int64) uint64 {
	from, to := max(s.from-i*64, 0), min(s.to-i*64, 64)
	if from >= to {
		return 0
	}
	return ^uint64(0) >> (64 - (to - from)) << from
}

// setBits tells of sectors that are in this file from now on. What they hold has
// been written. The caller holds the block's lock, shared or alone.
func (d *Disk) setBits(ctx context.Context, base int64, s sectorSpan) error {
	if all, err := d.has(base, s); all || err != nil {
		return err
	}
	first, last := s.from/64, (s.to-1)/64
	off, n := base+first*8, (last-first+1)*8
	return d.edit(ctx, int(n/metaPageSize+2), func(m metaEdit) error {
		if err := m.own(off, n); err != nil {
			return err
		}
		for i := first; i <= last; i++ {
			m.set(base+i*8, m.word(base+i*8)|s.mask(i))
		}
		return nil
	})
}

// becomePartial makes a block partially present at place, with the sectors of s
// in this file and no others. The caller holds the block's lock alone.
func (d *Disk) becomePartial(ctx context.Context, blk, place int64, s sectorSpan) error {
	base, err := d.ensureBitmap(ctx, blk)
	if err != nil {
		return err
	}
	d.noteChange(blk, 0, d.blockSize)
	at, words := d.entryOffset(blk), d.blockSize/d.sector/64
	return d.edit(ctx, int(words*8/metaPageSize+2), func(m metaEdit) error {
		// A bitmap says anything of a block that was not partially present so far.
		for i := int64(0); i < words; i++ {
			w, err := m.read(base + i*8)
			if err == nil && w != s.mask(i) {
				err = m.own(base+i*8, 8)
			}
			if err != nil {
				return err
			}
		}
		if err := m.own(at, 8); err != nil {
			return err
		}
		for i := int64(0); i < words; i++ {
			m.setIfOwned(base+i*8, s.mask(i))
		}
		m.set(at, uint64(makeEntry(statePartial, place)))
		return nil
	})
}

// ensureBitmap is bitmap, but gives the chunk a sector bitmap block if it has none.
func (d *Disk) ensureBitmap(ctx context.Context, blk int64) (base int64, err error) {
	d.bitmapMu.Lock()
	defer d.bitmapMu.Unlock()
	if base, err = d.bitmap(blk); base != 0 || err != nil {
		return base, err
	}
	off, zeroed, err := d.space.alloc(mib)
	if err != nil {
		return 0, err
	}
	if !zeroed { // there may have been another sector bitmap block
		d.meta.forget(off, mib)
		err = d.zeroFile(off, mib, true)
	}
	if err == nil {
		at := d.bitmapEntry(blk)
		err = d.edit(ctx, 1, func(m metaEdit) error {
			if err := m.own(at, 8); err != nil {
				return err
			}
			m.set(at, uint64(makeEntry(statePresent, off)))
			return nil
		})
	}
	if err != nil {
		d.space.release(room{off, mib})
		return 0, fmt.Errorf("sector bitmap block: %w", err)
	}
	return d.bitmapWords(off, blk), nil
}
