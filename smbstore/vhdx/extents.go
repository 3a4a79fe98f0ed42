package vhdx

import (
	"context"
	"errors"
	"slices"

	"lunless/smbstore/block"
)

// Extents implements block.Device. What no image of the chain has is Unallocated,
// blocks without room are Zero; within blocks the file's holes are Zero where it
// knows them.
func (d *Disk) Extents(ctx context.Context, off, n int64, visit func(block.Extent) error) error {
	return d.walk(ctx, off, n, d.parent, visit)
}

// LayerExtents implements block.Layered: Extents of this image alone.
func (d *Disk) LayerExtents(ctx context.Context, off, n int64, visit func(block.Extent) error) error {
	return d.walk(ctx, off, n, nil, visit)
}

// maxExtentPiece bounds what is gathered under a block's lock.
const maxExtentPiece = 16 * mib

// walk visits extents; below, if not nil, tells of what is not here.
func (d *Disk) walk(ctx context.Context, off, n int64, below block.Device, visit func(block.Extent) error) error {
	if err := d.check(ctx, off, n); err != nil {
		return err
	}
	m := block.NewMerger(visit)
	empty := emptyBlocks{d: d}
	var runs []block.Extent
	for end := off + n; off < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		blk, err := empty.next(off/d.blockSize, (end+d.blockSize-1)/d.blockSize)
		if err != nil {
			return err
		}
		if to := min(end, blk*d.blockSize); to > off {
			if err := belowExtents(ctx, below, off, to-off, m.Add); err != nil {
				return err
			}
			off = to
			continue
		}
		in := off % d.blockSize
		c := min(end-off, d.blockSize-in, maxExtentPiece)
		if runs, err = d.blockExtents(ctx, runs[:0], blk, in, c, below); err != nil {
			return err
		}
		for _, e := range runs {
			if err := m.Add(e); err != nil {
				return err
			}
		}
		off += c
	}
	return m.Flush()
}

// belowExtents visits what a parent says of a range: nothing is below no parent,
// and past a parent's end.
func belowExtents(ctx context.Context, below block.Device, off, n int64, visit func(block.Extent) error) error {
	if below != nil {
		c := max(0, min(n, below.Size()-off))
		if c > 0 {
			if err := below.Extents(ctx, off, c, visit); err != nil {
				return err
			}
		}
		off, n = off+c, n-c
	}
	if n == 0 {
		return nil
	}
	return visit(block.Extent{Offset: off, Length: n, State: block.Unallocated})
}

// blockExtents appends the extents of part of a block, in the disk's offsets.
func (d *Disk) blockExtents(ctx context.Context, runs []block.Extent, blk, in, n int64, below block.Device) ([]block.Extent, error) {
	l := &d.stripes[blk%stripes]
	l.RLock()
	defer l.RUnlock()
	e, err := d.lookup(blk)
	if err != nil {
		return runs, err
	}
	add := func(r block.Extent) error {
		runs = append(runs, r)
		return nil
	}
	at := blk*d.blockSize + in
	switch e.state() {
	case statePresent:
		return runs, d.placeExtents(at, e.offset()+in, n, add)
	case statePartial:
		return runs, d.partialExtents(ctx, blk, in, n, e.offset(), below, add)
	case stateNotPresent:
		return runs, belowExtents(ctx, below, at, n, add)
	}
	return runs, add(block.Extent{Offset: at, Length: n, State: block.Zero})
}

// partialExtents visits the extents of part of a partially present block at place.
func (d *Disk) partialExtents(ctx context.Context, blk, in, n, place int64, below block.Device, visit func(block.Extent) error) error {
	base, err := d.partial(blk)
	if err != nil {
		return err
	}
	for last := d.touched(in, n).to; n > 0; {
		to, here, err := d.run(base, in/d.sector, last)
		if err != nil {
			return err
		}
		c := min(n, to*d.sector-in)
		if at := blk*d.blockSize + in; here {
			err = d.placeExtents(at, place+in, c, visit)
		} else {
			err = belowExtents(ctx, below, at, c, visit)
		}
		if err != nil {
			return err
		}
		in, n = in+c, n-c
	}
	return nil
}

// placeExtents visits the extents of n bytes of the disk from at on, which lie in
// the file from place on.
func (d *Disk) placeExtents(at, place, n int64, visit func(block.Extent) error) error {
	if x, ok := d.f.(block.Extenter); ok {
		begun := false
		err := x.FileExtents(place, n, func(r block.Extent) error {
			begun = true
			r.Offset += at - place
			return visit(r)
		})
		if err == nil || begun || !isUnsupported(err) {
			return err
		}
	}
	return visit(block.Extent{Offset: at, Length: n, State: block.Data})
}

// emptyBlocks finds runs of blocks whose BAT entries are zero without reading the
// BAT where the file has holes.
type emptyBlocks struct {
	d      *Disk
	geo    *geometry // that all below is of
	cached []int64   // pages of the BAT in memory, by offset: the file may lack their content
	asked  bool      // cached is of this walk
	lo, hi int64     // pages of which it is known
	data   bool      // that they have data, or that they have none
}

// next returns the first block of [blk, end) whose entry may be other than zero,
// end if there is none. Entries are read without the blocks' locks: one that
// changes meanwhile belongs to a request that is under way. If the BAT moves
// meanwhile, what was read may be anything.
func (s *emptyBlocks) next(blk, end int64) (int64, error) {
	for {
		if g := s.d.geo.Load(); g != s.geo {
			*s = emptyBlocks{d: s.d, geo: g}
		}
		found, err := s.from(blk, end)
		if s.d.geo.Load() == s.geo {
			return found, err
		}
	}
}

// from is next for a BAT that stays in its place.
func (s *emptyBlocks) from(blk, end int64) (int64, error) {
	d, bat := s.d, s.geo.bat
	for blk < end {
		at := bat + d.batIndex(blk)*8
		w, ok := d.meta.peek(at)
		if !ok {
			page := at &^ (metaPageSize - 1)
			hole, err := s.hole(page, bat+d.batIndex(end-1)*8+8)
			if err != nil {
				return 0, err
			}
			if hole > page {
				blk = max(blk+1, d.blockOf((hole-bat)/8))
				continue
			}
			if w, err = d.meta.word(at); err != nil {
				return 0, err
			}
		}
		if w != 0 {
			return blk, nil
		}
		blk++
	}
	return end, nil
}

// hole returns where the run of pages ends that begins with page and of which
// neither the file nor the cache has anything: page itself if one has.
func (s *emptyBlocks) hole(page, end int64) (int64, error) {
	if page < s.lo || page >= s.hi {
		if err := s.ask(page, end); err != nil {
			return 0, err
		}
	}
	if s.data {
		return page, nil
	}
	return s.hi, nil
}

// ask finds out about page. The cache is asked before the file: what it lacks
// then, the file has.
func (s *emptyBlocks) ask(page, end int64) error {
	if !s.asked {
		s.cached, s.asked = s.d.meta.cached(page, end-page), true
	}
	to := page
	i, here := slices.BinarySearch(s.cached, page)
	if !here {
		limit := roundUp(end, metaPageSize)
		if i < len(s.cached) {
			limit = s.cached[i]
		}
		if s.data { // after data there is more data, as a rule
			limit = page + metaPageSize
		}
		found, err := dataFrom(s.d.f, page, limit)
		if err != nil {
			return err
		}
		to = found &^ (metaPageSize - 1)
	}
	s.lo, s.hi, s.data = page, to, to == page
	if s.data {
		s.hi = page + metaPageSize
	}
	return nil
}

// blockOf is the first block whose entry has index i or more.
func (d *Disk) blockOf(i int64) int64 {
	chunk, in := i/(d.ratio+1), i%(d.ratio+1)
	return chunk*d.ratio + in // a sector bitmap's entry comes before the next chunk's first
}

// dataFrom returns where the first data of a file in [off, end) is, end if there
// is none, off if the file does not know.
func dataFrom(f block.File, off, end int64) (int64, error) {
	x, ok := f.(block.Extenter)
	if !ok {
		return off, nil
	}
	found := end
	err := x.FileExtents(off, end-off, func(e block.Extent) error {
		if e.State != block.Data {
			return nil
		}
		found = e.Offset
		return errStop
	})
	switch {
	case err == nil, errors.Is(err, errStop):
		return found, nil
	case isUnsupported(err):
		return off, nil
	}
	return 0, err
}

var errStop = errors.New("stop")

// cached returns the places of the pages of [off, off+n) in memory, in order.
func (c *metaCache) cached(off, n int64) []int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []int64
	for _, pg := range c.pages {
		if at := pg.off.Load(); at+metaPageSize > off && at < off+n {
			out = append(out, at)
		}
	}
	slices.Sort(out)
	return out
}
