package vhd

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"lunless/smbstore/block"
)

// stripes is how many locks the blocks share.
const stripes = 256

// Disk is an open virtual disk: a block.Device. All methods may be called
// concurrently.
//
// A request of a dynamic disk holds its block's lock, shared; one that gives a
// block room or completes its sector bitmap holds it alone. Lock order: stripes
// (one at a time; all by Close), flushMu, then changes.mu or space.mu.
type Disk struct {
	im        *image
	f         block.File
	ro        bool
	fixed     bool
	size      int64
	blockSize int64
	mapSize   int64
	table     []atomic.Uint32
	maps      mapStates
	space     space
	changes   changes
	stripes   [stripes]sync.RWMutex
	begun     atomic.Bool // something was written
	closed    atomic.Bool
	failed    atomic.Bool

	flushMu sync.Mutex // held through a flush
	started atomic.Int64
	ended   int64 // flushes done; under flushMu
}

func newDisk(im *image, readOnly bool) *Disk {
	d := &Disk{
		im: im, f: im.f, ro: readOnly, fixed: im.ft.Type == typeFixed, size: int64(im.ft.CurrentSize),
		blockSize: im.blockSize, mapSize: im.mapSize, table: im.table, maps: newMapStates(len(im.table)),
	}
	d.changes.pages = map[int64]struct{}{}
	d.space.fileSize.Store(im.fileSize)
	return d
}

// Size implements block.Device.
func (d *Disk) Size() int64 { return d.size }

// Geometry implements block.Device.
func (d *Disk) Geometry() block.Geometry {
	return block.Geometry{LogicalSectorSize: SectorSize, PhysicalSectorSize: SectorSize, OptimalIO: int(d.blockSize)}
}

// ReadAt implements block.Device. In the steady state it allocates nothing.
func (d *Disk) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := d.check(ctx, off, int64(len(p))); err != nil || len(p) == 0 {
		return err
	}
	if d.fixed {
		return readFull(d.f, p, off)
	}
	for len(p) > 0 {
		blk, in := off/d.blockSize, off%d.blockSize
		n := min(int64(len(p)), d.blockSize-in)
		if err := d.readBlock(p[:n], blk, in); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// readBlock reads part of a block; sectors its bitmap leaves out are zero.
func (d *Disk) readBlock(p []byte, blk, in int64) error {
	l := &d.stripes[blk%stripes]
	l.RLock()
	defer l.RUnlock()
	at, err := d.lookup(blk)
	if err != nil {
		return err
	}
	if at == 0 {
		clear(p)
		return nil
	}
	full, err := d.complete(blk, at)
	if err != nil {
		return err
	}
	if err := readFull(d.f, p, at+d.mapSize+in); err != nil || full {
		return err
	}
	return d.clearUnset(p, at, in)
}

// WriteAt implements block.Device. On blocks that have room it allocates nothing.
func (d *Disk) WriteAt(ctx context.Context, p []byte, off int64, flags block.WriteFlags) error {
	if err := d.checkWrite(ctx, off, int64(len(p))); err != nil || len(p) == 0 {
		return err
	}
	if d.fixed {
		if err := d.writeFile(p, off); err != nil {
			return err
		}
		return d.settle(ctx, flags)
	}
	for len(p) > 0 {
		blk, in := off/d.blockSize, off%d.blockSize
		n := min(int64(len(p)), d.blockSize-in)
		if err := d.writeBlock(p[:n], blk, in); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return d.settle(ctx, flags)
}

func (d *Disk) writeBlock(p []byte, blk, in int64) error {
	l := &d.stripes[blk%stripes]
	done, err := d.writeInPlace(l, p, blk, in)
	if done || err != nil {
		return err
	}
	l.Lock()
	defer l.Unlock()
	at, err := d.ready(blk)
	if err != nil {
		return err
	}
	if at != 0 {
		return d.writeFile(p, at+d.mapSize+in)
	}
	return d.allocate(blk, p, in)
}

// writeInPlace writes to a block that has room and all of its bitmap set; done
// is false if it has not.
func (d *Disk) writeInPlace(l *sync.RWMutex, p []byte, blk, in int64) (done bool, err error) {
	l.RLock()
	defer l.RUnlock()
	at, err := d.lookup(blk)
	if err != nil || at == 0 {
		return false, err
	}
	full, err := d.complete(blk, at)
	if err != nil || !full {
		return false, err
	}
	return true, d.writeFile(p, at+d.mapSize+in)
}

func (d *Disk) writeFile(p []byte, off int64) error {
	if _, err := d.f.WriteAt(p, off); err != nil {
		return fmt.Errorf("write %d bytes at file offset %#x: %w", len(p), off, err)
	}
	return nil
}

// WriteZeroes implements block.Device. A dynamic disk's file gets a hole where
// it can unless NoUnmap is set; the block keeps its place. A fixed disk keeps its room.
func (d *Disk) WriteZeroes(ctx context.Context, off, n int64, flags block.WriteFlags) error {
	if err := d.checkWrite(ctx, off, n); err != nil || n == 0 {
		return err
	}
	if d.fixed {
		if err := d.zeroFile(off, n, false); err != nil {
			return err
		}
		return d.settle(ctx, flags)
	}
	keep := flags&block.NoUnmap != 0
	err := d.eachBlock(ctx, off, n, func(blk, in, n int64) error { return d.zeroBlock(blk, in, n, keep) })
	if err != nil {
		return err
	}
	return d.settle(ctx, flags)
}

// Trim implements block.Device: the range is punched out of a dynamic disk's
// file where it can. Blocks keep their places.
func (d *Disk) Trim(ctx context.Context, off, n int64) error {
	if err := d.checkWrite(ctx, off, n); err != nil || n == 0 || d.fixed {
		return err
	}
	if p, ok := d.f.(block.Puncher); ok {
		return d.eachBlock(ctx, off, n, func(blk, in, n int64) error { return d.trimBlock(p, blk, in, n) })
	}
	return nil
}

// eachBlock splits a change into blocks.
func (d *Disk) eachBlock(ctx context.Context, off, n int64, do func(blk, in, n int64) error) error {
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		blk, in := off/d.blockSize, off%d.blockSize
		c := min(n, d.blockSize-in)
		if err := do(blk, in, c); err != nil {
			return err
		}
		off, n = off+c, n-c
	}
	return nil
}

func (d *Disk) settle(ctx context.Context, flags block.WriteFlags) error {
	if flags&block.FUA != 0 {
		return d.flush(ctx)
	}
	return nil
}

// Extents implements block.Device: blocks without room are Unallocated; what is
// a hole in the file is Zero where it knows.
func (d *Disk) Extents(ctx context.Context, off, n int64, visit func(block.Extent) error) error {
	if err := d.check(ctx, off, n); err != nil || n == 0 {
		return err
	}
	m := block.NewMerger(visit)
	step := d.blockSize
	if d.fixed {
		step = d.size
	}
	var runs []block.Extent
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		c := min(n, step-off%step)
		var err error
		if runs, err = d.blockExtents(runs[:0], off, c); err != nil {
			return err
		}
		for _, e := range runs {
			if err := m.Add(e); err != nil {
				return err
			}
		}
		off, n = off+c, n-c
	}
	return m.Flush()
}

// blockExtents appends the extents of part of a block, or of a fixed disk, in
// the disk's offsets.
func (d *Disk) blockExtents(runs []block.Extent, off, n int64) ([]block.Extent, error) {
	at := off
	if !d.fixed {
		blk := off / d.blockSize
		l := &d.stripes[blk%stripes]
		l.RLock()
		defer l.RUnlock()
		place, err := d.lookup(blk)
		if err != nil {
			return runs, err
		}
		if place == 0 {
			return append(runs, block.Extent{Offset: off, Length: n, State: block.Unallocated}), nil
		}
		at = place + d.mapSize + off%d.blockSize
	}
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

// lookup returns where a block's bitmap lies in the file, 0 if it has no room.
// The caller holds the block's lock.
func (d *Disk) lookup(blk int64) (int64, error) {
	if d.closed.Load() {
		return 0, block.ErrClosed
	}
	e := d.table[blk].Load()
	if e == unused {
		return 0, nil
	}
	at := int64(e) * SectorSize
	if at < footerSize || at > d.space.fileSize.Load()-d.mapSize-d.blockSize {
		return 0, corrupt(d.im.entryOffset(blk), "table entry of block %d: its place %#x lies outside the file", blk, at)
	}
	return at, nil
}

func (d *Disk) check(ctx context.Context, off, n int64) error {
	if d.closed.Load() {
		return block.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return block.CheckRange(d.size, off, n)
}

func (d *Disk) checkWrite(ctx context.Context, off, n int64) error {
	if err := d.check(ctx, off, n); err != nil {
		return err
	}
	if d.ro {
		return block.ErrReadOnly
	}
	if d.failed.Load() {
		return block.ErrFailed
	}
	if n > 0 && !d.begun.Load() {
		d.begun.Store(true)
	}
	return nil
}
