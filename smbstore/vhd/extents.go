package vhd

import (
	"context"

	"lunless/smbstore/block"
)

var _ block.Layered = (*Disk)(nil)

// Extents implements block.Device, for the whole chain: what this image lacks is
// as its parent says, or Unallocated. What is a hole in the file is Zero where the
// file knows.
func (d *Disk) Extents(ctx context.Context, off, n int64, visit func(block.Extent) error) error {
	return d.walk(ctx, off, n, visit, d.parent != nil)
}

// LayerExtents implements block.Layered.
func (d *Disk) LayerExtents(ctx context.Context, off, n int64, visit func(block.Extent) error) error {
	return d.walk(ctx, off, n, visit, false)
}

// walk visits extents; with chain, the parent tells of what this image lacks.
func (d *Disk) walk(ctx context.Context, off, n int64, visit func(block.Extent) error, chain bool) error {
	if err := d.check(ctx, off, n); err != nil || n == 0 {
		return err
	}
	m := block.NewMerger(visit)
	add := m.Add
	if chain {
		add = func(e block.Extent) error {
			if e.State != block.Unallocated {
				return m.Add(e)
			}
			return d.parentExtents(ctx, e.Offset, e.Length, m.Add)
		}
	}
	// Runs of this image alone are joined first: a parent is asked once for many blocks.
	own := block.NewMerger(add)
	var runs []block.Extent
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		c := n
		if !d.fixed {
			c = min(n, d.blockSize-off%d.blockSize)
		}
		var err error
		if runs, err = d.blockExtents(runs[:0], off, c); err != nil {
			return err
		}
		for _, e := range runs {
			if err := own.Add(e); err != nil {
				return err
			}
		}
		off, n = off+c, n-c
	}
	if err := own.Flush(); err != nil {
		return err
	}
	return m.Flush()
}

// parentExtents are those of the parent, and Unallocated past its end.
func (d *Disk) parentExtents(ctx context.Context, off, n int64, visit func(block.Extent) error) error {
	has := max(0, min(n, d.parent.Size()-off))
	if has > 0 {
		if err := d.parent.Extents(ctx, off, has, visit); err != nil {
			return err
		}
	}
	return visit(block.Extent{Offset: off + has, Length: n - has, State: block.Unallocated})
}

// parentIsZero tells whether what this image lacks is known to be zero.
func (d *Disk) parentIsZero(ctx context.Context, off, n int64) (bool, error) {
	if d.parent == nil {
		return true, nil
	}
	zero := true
	err := d.parentExtents(ctx, off, n, func(e block.Extent) error {
		zero = zero && (e.State != block.Data || e.Length == 0)
		return nil
	})
	return zero, err
}

// blockExtents appends the extents of part of a block, or of a fixed disk, in
// the disk's offsets.
func (d *Disk) blockExtents(runs []block.Extent, off, n int64) ([]block.Extent, error) {
	if d.fixed {
		return d.fileExtents(runs, off, off, n)
	}
	blk, in := off/d.blockSize, off%d.blockSize
	s := &d.stripes[blk%stripes]
	s.RLock()
	defer s.RUnlock()
	at, err := d.lookup(blk)
	if err != nil {
		return runs, err
	}
	if at == 0 {
		return append(runs, block.Extent{Offset: off, Length: n, State: block.Unallocated}), nil
	}
	m, err := d.sectorMap(blk, at)
	if err != nil {
		return runs, err
	}
	for n > 0 {
		c, own := n, true
		if m != nil {
			c, own = m.run(in, n)
		}
		if !own {
			runs = append(runs, block.Extent{Offset: off, Length: c, State: block.Unallocated})
		} else if runs, err = d.fileExtents(runs, off, at+d.mapSize+in, c); err != nil {
			return runs, err
		}
		off, in, n = off+c, in+c, n-c
	}
	return runs, nil
}

// fileExtents appends the extents of n bytes at off of the disk that lie at at in
// the file.
func (d *Disk) fileExtents(runs []block.Extent, off, at, n int64) ([]block.Extent, error) {
	if x, ok := d.f.(block.Extenter); ok {
		kept := len(runs)
		err := x.FileExtents(at, n, func(r block.Extent) error {
			r.Offset += off - at
			runs = append(runs, r)
			return nil
		})
		if err == nil || !isUnsupported(err) {
			return runs, err
		}
		runs = runs[:kept]
	}
	return append(runs, block.Extent{Offset: off, Length: n, State: block.Data}), nil
}
