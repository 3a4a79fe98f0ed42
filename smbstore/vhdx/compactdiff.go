package vhdx

import (
	"context"

	"lunless/smbstore/block"
)

// withoutPartial is without for a partially present block: one of whose sectors
// none is here can be absent, one that reads as zeroes can be zero.
func (c *compaction) withoutPartial(blk, length int64) (state int, err error) {
	d := c.d
	base, err := d.partial(blk)
	if err != nil {
		return -1, err
	}
	s := d.touched(0, length)
	if to, here, err := d.run(base, s.from, s.to); err != nil {
		return -1, err
	} else if !here && to == s.to {
		return stateNotPresent, nil
	}
	for in := int64(0); in < length; in += int64(len(c.buf)) {
		p := c.buf[:min(int64(len(c.buf)), length-in)]
		if err := d.readBlock(c.ctx, p, blk, in); err != nil {
			return -1, err
		}
		if !block.IsZero(p) {
			return -1, nil
		}
	}
	return stateZero, nil
}

// giveBackBitmaps gives back the sector bitmap blocks of chunks of which no block
// is partially present any more.
func (c *compaction) giveBackBitmaps() error {
	d := c.d
	if err := d.flush(c.ctx); err != nil {
		return err
	}
	var needless []int64
	chunk, partial := int64(-1), false
	err := d.eachRoom(func(i int64, e batEntry, _, _ int64) error {
		if k := i / (d.ratio + 1); k != chunk {
			chunk, partial = k, false
		}
		if i%(d.ratio+1) == d.ratio && !partial {
			needless = append(needless, chunk)
		}
		partial = partial || e.state() == statePartial
		return c.ctx.Err()
	})
	for _, chunk := range needless {
		if err == nil {
			err = c.giveBackBitmap(chunk)
		}
	}
	return err
}

// giveBackBitmap gives back a chunk's sector bitmap block if it still is needless.
func (c *compaction) giveBackBitmap(chunk int64) error {
	d := c.d
	defer d.quiesce()()
	if err := d.flush(c.ctx); err != nil { // no page of it is part of a later commit
		return err
	}
	bat, first := d.geo.Load().bat, chunk*(d.ratio+1)
	for i := range d.ratio {
		if w, err := d.meta.word(bat + (first+i)*8); err != nil || batEntry(w).state() == statePartial {
			return err
		}
	}
	at := bat + (first+d.ratio)*8
	w, err := d.meta.word(at)
	if err != nil || batEntry(w).state() != statePresent {
		return err
	}
	r := room{batEntry(w).offset(), mib}
	d.meta.forget(r.off, r.n)
	c.res.Zeroed++
	return d.setWord(c.ctx, at, 0, r)
}

// moveBitmap moves a sector bitmap block. It is metadata: requests are held.
func (c *compaction) moveBitmap(p placed, to int64) (bool, error) {
	d := c.d
	defer d.quiesce()()
	at := d.geo.Load().bat + p.i*8
	err := d.flush(c.ctx) // no page of it is part of a later commit
	var w uint64
	if err == nil {
		w, err = d.meta.word(at)
	}
	e := batEntry(w)
	if err == nil && e.state() == statePresent && e.offset() == p.off {
		d.meta.forget(p.off, p.n)
		d.meta.forget(to, p.n)
		if err = c.copy(p.off, to, p.n); err == nil {
			err = d.setWord(c.ctx, at, makeEntry(statePresent, to), room{p.off, p.n})
		}
		if err == nil {
			return true, nil
		}
	}
	d.space.release(room{to, p.n})
	return false, err
}

// setWord changes a BAT entry by its place in the file.
func (d *Disk) setWord(ctx context.Context, at int64, e batEntry, freed room) error {
	return d.edit(ctx, 1, func(m metaEdit) error {
		if err := m.own(at, 8); err != nil {
			return err
		}
		m.set(at, uint64(e))
		m.free(freed)
		return nil
	})
}
