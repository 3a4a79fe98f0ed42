package vhd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"lunless/smbstore/block"
)

// Disk is an open virtual disk: a block.Device. All methods may be called
// concurrently.
//
// A request of a dynamic or differencing disk holds its block's stripe, shared;
// one that gives a block room or sets bits in its sector bitmap holds it alone.
// Lock order: stripes (one at a time; all by Close), flushMu, then one of
// changes.mu, space.mu and a stripe's mu. A parent's locks come after a child's.
type Disk struct {
	im        *image
	f         block.File
	parent    block.Device // nil: what a block lacks is zero, or unknown
	bare      bool         // unknown, and content cannot be changed
	ro        bool
	fixed     bool
	size      int64
	blockSize int64
	mapSize   int64
	table     []atomic.Uint32
	full      fullMaps
	space     space
	changes   changes
	stripes   [stripes]stripe
	link      atomic.Pointer[ParentLink] // nil unless differencing
	begun     atomic.Bool                // something was written
	closed    atomic.Bool
	failed    atomic.Bool

	flushMu sync.Mutex // held through a flush and a Relink
	started atomic.Int64
	ended   int64  // flushes done; under flushMu
	stuck   *taken // changes there was no room for; under flushMu
}

func newDisk(im *image, o OpenOptions) *Disk {
	d := &Disk{
		im: im, f: im.f, parent: o.Parent, bare: o.Bare && im.differencing(), ro: o.ReadOnly,
		fixed: im.ft.Type == typeFixed, size: im.size, blockSize: im.blockSize, mapSize: im.mapSize,
		table: im.table, full: make(fullMaps, (len(im.table)+63)/64),
	}
	d.link.Store(im.parent)
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
		if err := d.readBlock(ctx, p[:n], blk, in); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// readBlock reads part of a block; what it lacks is the parent's.
func (d *Disk) readBlock(ctx context.Context, p []byte, blk, in int64) error {
	s := &d.stripes[blk%stripes]
	s.RLock()
	defer s.RUnlock()
	at, err := d.lookup(blk)
	if err != nil {
		return err
	}
	if at == 0 {
		return d.readParent(ctx, p, blk*d.blockSize+in)
	}
	m, err := d.sectorMap(blk, at)
	if err != nil {
		return err
	}
	for len(p) > 0 {
		n, own := int64(len(p)), true
		if m != nil {
			n, own = m.run(in, n)
		}
		if own {
			err = readFull(d.f, p[:n], at+d.mapSize+in)
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

// readParent reads what this image lacks.
func (d *Disk) readParent(ctx context.Context, p []byte, off int64) error {
	if d.bare {
		return fmt.Errorf("read %d bytes at %d: %w", len(p), off, ErrNoParent)
	}
	has := int64(0)
	if d.parent != nil {
		has = max(0, min(int64(len(p)), d.parent.Size()-off))
	}
	clear(p[has:])
	if has == 0 {
		return nil
	}
	return d.parent.ReadAt(ctx, p[:has], off)
}

// WriteAt implements block.Device. On sectors that are the image's own it
// allocates nothing.
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
		if err := d.writeBlock(ctx, p[:n], blk, in); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return d.settle(ctx, flags)
}

func (d *Disk) writeBlock(ctx context.Context, p []byte, blk, in int64) error {
	s := &d.stripes[blk%stripes]
	done, err := d.writeInPlace(s, p, blk, in)
	if done || err != nil {
		return err
	}
	s.Lock()
	defer s.Unlock()
	at, err := d.lookup(blk)
	if err != nil {
		return err
	}
	write := func(data int64) error { return d.writeFile(p, data+in) }
	if at == 0 {
		return d.allocate(ctx, blk, in, int64(len(p)), write)
	}
	m, err := d.sectorMap(blk, at)
	if err != nil {
		return err
	}
	return d.change(ctx, blk, at, m, in, int64(len(p)), write)
}

// writeInPlace writes to sectors that are the block's own; done is false if they
// are not.
func (d *Disk) writeInPlace(s *stripe, p []byte, blk, in int64) (done bool, err error) {
	s.RLock()
	defer s.RUnlock()
	at, err := d.lookup(blk)
	if err != nil || at == 0 {
		return false, err
	}
	m, err := d.sectorMap(blk, at)
	if err != nil {
		return false, err
	}
	if m != nil {
		if n, own := m.run(in, int64(len(p))); !own || n < int64(len(p)) {
			return false, nil
		}
	}
	return true, d.writeFile(p, at+d.mapSize+in)
}

func (d *Disk) writeFile(p []byte, off int64) error {
	if _, err := d.f.WriteAt(p, off); err != nil {
		return fmt.Errorf("write %d bytes at file offset %#x: %w", len(p), off, err)
	}
	return nil
}

// WriteZeroes implements block.Device. The file gets a hole where it can unless
// NoUnmap is set; blocks keep their places, a fixed disk its room. A differencing
// disk gives room to blocks that its parent has data for.
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
	err := d.eachBlock(ctx, off, n, func(blk, in, n int64) error { return d.zeroBlock(ctx, blk, in, n, keep) })
	if err != nil {
		return err
	}
	return d.settle(ctx, flags)
}

// Trim implements block.Device: the range is punched out of a dynamic or
// differencing disk's file where it can. Blocks keep their places, and sectors
// that are the parent's stay so.
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

// settle ends a change: with a flush if it has to be stable, or if too much waits
// for one.
func (d *Disk) settle(ctx context.Context, flags block.WriteFlags) error {
	if flags&block.FUA != 0 || d.changes.waiting.Load()*d.mapSize > maxDirtyMaps {
		return d.flush(ctx)
	}
	return nil
}

// lookup returns where a block's bitmap lies in the file, 0 if it has no room.
// The caller holds the block's stripe.
func (d *Disk) lookup(blk int64) (int64, error) {
	if d.closed.Load() {
		return 0, block.ErrClosed
	}
	return d.placeOf(blk)
}

func (d *Disk) placeOf(blk int64) (int64, error) {
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
	if d.ro || d.bare {
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

// Close implements block.Device: it flushes and closes the file and the parent,
// which it does even after an error.
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
	if d.begun.Load() && !d.failed.Load() {
		err = d.flushLocked()
	}
	err = errors.Join(err, d.f.Close())
	if d.parent != nil {
		err = errors.Join(err, d.parent.Close())
	}
	return err
}
