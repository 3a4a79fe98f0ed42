package vhdx

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"lunless/smbstore/block"
)

// stripes is how many locks the blocks share.
const stripes = 256

// stripe is the lock of some blocks, on a cache line of its own.
type stripe struct {
	sync.RWMutex
	_ [64 - 24]byte
}

// Disk is an open virtual disk: a block.Device. All methods may be called
// concurrently.
//
// A request holds its block's lock, shared; one that gives a block room or takes
// it away holds it alone. Lock order: stripes (one at a time; all, in order, by
// Close and quiesce), bitmapMu, flushMu, then meta.mu, space.mu or hdr.mu (none inside another).
type Disk struct {
	im        *image
	f         block.File // what is read: own, or an overlay of it
	own       block.File // what is written and closed
	ro        bool
	blockSize int64
	sector    int64 // logical sector size
	ratio     int64 // payload blocks a sector bitmap block stands for
	parent    block.Device
	link      atomic.Pointer[parentLocator] // nil without parent
	dataWrite GUID                          // DataWriteGUID to take; zero: a random one
	geo       atomic.Pointer[geometry]
	meta      *metaCache
	space     space
	hdr       headerWriter
	stripes   [stripes]stripe
	linkMu    sync.Mutex  // held to change the parent locator
	bitmapMu  sync.Mutex  // held to give a chunk a sector bitmap block
	begun     atomic.Bool // the headers tell of this session's changes
	closed    atomic.Bool
	busy      chan struct{}         // holds one value while the layout is being changed (maintain)
	watch     atomic.Pointer[watch] // what maintenance wants to know of changes
	failed    atomic.Bool

	flushMu sync.Mutex // held through a flush; guards log, inUse, stuck and mirror
	log     logWriter
	inUse   bool       // the header has the log's GUID
	stuck   *metaBatch // a commit there was no room for
	mirror  *batMirror
	started atomic.Int64
	ended   int64 // flushes done; under flushMu
}

// Size implements block.Device.
func (d *Disk) Size() int64 { return d.geo.Load().size }

// Geometry implements block.Device.
func (d *Disk) Geometry() block.Geometry {
	p := &d.im.params
	return block.Geometry{
		LogicalSectorSize: int(p.LogicalSectorSize), PhysicalSectorSize: int(p.PhysicalSectorSize),
		OptimalIO: int(p.BlockSize),
	}
}

// ReadAt implements block.Device. In the steady state it allocates nothing.
func (d *Disk) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := d.check(ctx, off, int64(len(p))); err != nil {
		return err
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

func (d *Disk) readBlock(ctx context.Context, p []byte, blk, in int64) error {
	l := &d.stripes[blk%stripes]
	l.RLock()
	defer l.RUnlock()
	e, err := d.lookup(blk)
	if err != nil {
		return err
	}
	switch {
	case e.state() == statePresent:
		return readFull(d.f, p, e.offset()+in)
	case e.state() == statePartial:
		return d.readPartial(ctx, p, blk, in, e.offset())
	case d.absent(e):
		return d.readParent(ctx, p, blk*d.blockSize+in)
	}
	clear(p)
	return nil
}

// WriteAt implements block.Device. On blocks that have room it allocates nothing.
func (d *Disk) WriteAt(ctx context.Context, p []byte, off int64, flags block.WriteFlags) error {
	if err := d.checkWrite(ctx, off, int64(len(p))); err != nil || len(p) == 0 {
		return err
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
	l := &d.stripes[blk%stripes]
	done, filled, err := d.writeInPlace(ctx, l, p, blk, in)
	if err != nil || done && !filled {
		return err
	}
	l.Lock()
	defer l.Unlock()
	e, err := d.lookup(blk)
	switch {
	case err != nil:
		return err
	case filled:
		if e.state() == statePartial {
			return d.complete(ctx, blk, e)
		}
		return nil // or somebody has done it since
	case e.state() == statePresent: // somebody was faster
		d.noteChange(blk, in, int64(len(p)))
		return d.writeFile(p, e.offset()+in)
	case e.state() == statePartial || d.absent(e):
		return d.put(ctx, blk, e, p, in, int64(len(p)), false)
	}
	return d.allocate(ctx, blk, e, p, in)
}

// writeInPlace writes to a block that has room; done is false if it has none, or
// if the parent has something of a sector that is written in part. filled is as
// of overwrite.
func (d *Disk) writeInPlace(ctx context.Context, l *stripe, p []byte, blk, in int64) (done, filled bool, err error) {
	l.RLock()
	defer l.RUnlock()
	e, err := d.lookup(blk)
	switch {
	case err != nil:
		return false, false, err
	case e.state() == statePresent:
		d.noteChange(blk, in, int64(len(p)))
		return true, false, d.writeFile(p, e.offset()+in)
	case e.state() == statePartial:
		return d.overwrite(ctx, p, blk, in, e.offset())
	}
	return false, false, nil
}

func (d *Disk) writeFile(p []byte, off int64) error {
	if _, err := d.own.WriteAt(p, off); err != nil {
		return fmt.Errorf("write %d bytes at file offset %#x: %w", len(p), off, err)
	}
	return nil
}

// WriteZeroes implements block.Device. A dynamic disk gives whole blocks back
// unless NoUnmap is set; a fixed one keeps its room.
func (d *Disk) WriteZeroes(ctx context.Context, off, n int64, flags block.WriteFlags) error {
	keep := flags&block.NoUnmap != 0
	err := d.eachBlock(ctx, off, n, func(blk, in, n int64) error { return d.zeroBlock(ctx, blk, in, n, keep) })
	if err != nil || n == 0 {
		return err
	}
	return d.settle(ctx, flags)
}

// Trim implements block.Device: whole blocks of a dynamic disk are unmapped,
// parts of them are punched out of the file where it can.
func (d *Disk) Trim(ctx context.Context, off, n int64) error {
	return d.eachBlock(ctx, off, n, func(blk, in, n int64) error { return d.trimBlock(ctx, blk, in, n) })
}

// eachBlock splits a change into blocks.
func (d *Disk) eachBlock(ctx context.Context, off, n int64, do func(blk, in, n int64) error) error {
	if err := d.checkWrite(ctx, off, n); err != nil {
		return err
	}
	for n > 0 {
		blk, in := off/d.blockSize, off%d.blockSize
		c := min(n, d.blockSize-in)
		if err := do(blk, in, c); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
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

// lookup returns a block's entry, checked against the file. The caller holds the
// block's lock.
func (d *Disk) lookup(blk int64) (batEntry, error) {
	if d.closed.Load() {
		return 0, block.ErrClosed
	}
	g := d.geo.Load()
	if blk*d.blockSize >= g.size { // cut off since the request was checked
		return 0, block.ErrOutOfRange
	}
	at := g.bat + d.batIndex(blk)*8
	w, err := d.meta.word(at)
	if err != nil {
		return 0, err
	}
	e := batEntry(w)
	switch e.state() {
	case stateNotPresent, stateUndefined, stateZero, stateUnmapped:
		return e, nil
	case statePartial:
		if !d.im.params.HasParent {
			break
		}
		fallthrough
	case statePresent:
		err := checkPlace(g.spans, e.offset(), d.blockSize, d.space.fileSize.Load())
		if err == nil {
			return e, nil
		}
		return 0, corrupt(at, "BAT entry of block %d: its place %#x %v", blk, e.offset(), err)
	}
	return 0, corrupt(at, "BAT entry of block %d: state %d", blk, e.state())
}

func (d *Disk) check(ctx context.Context, off, n int64) error {
	if d.closed.Load() {
		return block.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return block.CheckRange(d.Size(), off, n)
}

// checkWrite is check for a change. The first one of a session goes to the
// headers before anything else.
func (d *Disk) checkWrite(ctx context.Context, off, n int64) error {
	if err := d.check(ctx, off, n); err != nil {
		return err
	}
	if d.ro || d.bare() {
		return block.ErrReadOnly
	}
	if d.failed.Load() {
		return block.ErrFailed
	}
	if n == 0 || d.begun.Load() {
		return nil
	}
	return d.begin()
}

// Uncommitted implements block.Committer: room that was given and has not been
// flushed is known to this process alone.
func (d *Disk) Uncommitted() bool { return d.meta.open.Load() > 0 }

func isUnsupported(err error) bool { return errors.Is(err, block.ErrNotSupported) }
