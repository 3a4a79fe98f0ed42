package vhd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"lunless/smbstore/block"
)

const (
	dataAlign   = 4096             // of a new block's data in the file
	pageEntries = SectorSize / 4   // a page of the table is what a disk writes whole
	maxTableRun = 1 << 20 / 4 / 16 // entries in one write of the table: 64 KiB
)

// space hands out room at the file's end.
type space struct {
	fileSize atomic.Int64
	mu       sync.Mutex
	end      int64 // of what is in use, without the footer there
	align    int64 // of data
}

func (s *space) start(im *image) {
	s.end, s.align = im.fileSize-footerSize, dataAlign
	if n := int64(len(im.table)); n*roundUp(im.mapSize+im.blockSize, dataAlign) > maxFile-s.end {
		s.align = SectorSize // a table entry could not tell the last blocks' places
	}
}

// alloc makes room for a block behind the footer, which stays in place, and
// writes another behind the block. The room reads as zeroes. It lies past all
// the file had, so that the loss of any of these writes leaves what there was.
func (d *Disk) alloc() (at int64, err error) {
	s := &d.space
	s.mu.Lock()
	defer s.mu.Unlock()
	at = roundUp(s.end+footerSize+d.mapSize, s.align) - d.mapSize
	end := at + d.mapSize + d.blockSize
	if end > maxFile {
		return 0, unsupported(s.end, "file would exceed %d bytes", int64(maxFile))
	}
	if err := d.im.writeFooter(end); err != nil {
		return 0, err
	}
	s.end = end
	s.fileSize.Store(end + footerSize)
	return at, nil
}

// allocate gives a block room and writes p at in of it; p may be empty. The
// caller holds the block's lock alone. Room of a block whose writing fails is lost.
func (d *Disk) allocate(blk int64, p []byte, in int64) error {
	at, err := d.alloc()
	if err != nil {
		return fmt.Errorf("make room for block %d: %w", blk, err)
	}
	if !sabotaged("bitmap-skipped") {
		if err := d.writeMap(at); err != nil {
			return err
		}
	}
	if len(p) > 0 {
		if err := d.writeFile(p, at+d.mapSize+in); err != nil {
			return err
		}
	}
	d.maps.setFull(blk)
	d.changes.set(&d.table[blk], blk, uint32(at/SectorSize))
	return nil
}

func (d *Disk) zeroBlock(blk, in, n int64, keep bool) error {
	l := &d.stripes[blk%stripes]
	l.Lock()
	defer l.Unlock()
	at, err := d.lookup(blk)
	if err != nil {
		return err
	}
	if at == 0 {
		if keep {
			return d.allocate(blk, nil, 0)
		}
		return nil
	}
	if keep {
		if _, err := d.ready(blk); err != nil {
			return err
		}
	}
	return d.zeroFile(at+d.mapSize+in, n, !keep)
}

func (d *Disk) trimBlock(p block.Puncher, blk, in, n int64) error {
	l := &d.stripes[blk%stripes]
	l.Lock()
	defer l.Unlock()
	at, err := d.lookup(blk)
	if err != nil || at == 0 {
		return err
	}
	if err := p.PunchHole(at+d.mapSize+in, n); err != nil && !isUnsupported(err) {
		return fmt.Errorf("trim at file offset %#x: %w", at+d.mapSize+in, err)
	}
	return nil
}

// zeroError is a failure to zero a range of the file.
type zeroError struct {
	off, n int64
	err    error
}

func (e *zeroError) Error() string {
	return fmt.Sprintf("zero %d bytes at file offset %#x: %v", e.n, e.off, e.err)
}

func (e *zeroError) Unwrap() error { return e.err }

// changes are what the next flush has to write once the data is stable.
type changes struct {
	mu    sync.Mutex
	pages map[int64]struct{} // of the table
	maps  []int64            // blocks whose bitmaps are to be completed
}

// set changes a table entry, whose block's content is in the file.
func (c *changes) set(entry *atomic.Uint32, blk int64, sector uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	entry.Store(sector)
	c.pages[blk/pageEntries] = struct{}{}
}

func (c *changes) addMap(blk int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.maps = append(c.maps, blk)
}

// run is a part of the table as it was when a flush began.
type run struct {
	off   int64 // in the file
	bytes []byte
}

// take hands over the changes so far.
func (d *Disk) take() (runs []run, maps []int64) {
	c := &d.changes
	c.mu.Lock()
	defer c.mu.Unlock()
	pages := make([]int64, 0, len(c.pages))
	for no := range c.pages {
		pages = append(pages, no)
	}
	clear(c.pages)
	slices.Sort(pages)
	next := int64(-1) // entry behind the last run
	for _, no := range pages {
		from, to := no*pageEntries, min((no+1)*pageEntries, int64(len(d.table)))
		if from != next || len(runs[len(runs)-1].bytes) >= maxTableRun*4 {
			runs = append(runs, run{off: d.im.entryOffset(from)})
		}
		r := &runs[len(runs)-1]
		for i := from; i < to; i++ {
			r.bytes = be.AppendUint32(r.bytes, d.table[i].Load())
		}
		next = to
	}
	maps, c.maps = c.maps, nil
	return runs, maps
}

// Flush implements block.Device.
func (d *Disk) Flush(ctx context.Context) error {
	if err := d.check(ctx, 0, 0); err != nil || d.ro {
		return err
	}
	return d.flush(ctx)
}

// flush makes stable what was written before the call. Callers that come while
// one is under way share the next.
func (d *Disk) flush(ctx context.Context) error {
	need := d.started.Load() + 1
	d.flushMu.Lock()
	defer d.flushMu.Unlock()
	if d.failed.Load() {
		return block.ErrFailed
	}
	if d.ended >= need {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if d.closed.Load() {
		return block.ErrClosed
	}
	return d.flushLocked()
}

func (d *Disk) flushLocked() error {
	d.started.Add(1)
	if sabotaged("flush-swallowed") {
		return nil
	}
	if err := d.commit(); err != nil {
		d.failed.Store(true)
		return fmt.Errorf("%w: %w", block.ErrFailed, err)
	}
	d.ended = d.started.Load()
	return nil
}

// commit makes data, new blocks and the footer behind them stable, then what
// refers to them.
func (d *Disk) commit() error {
	runs, maps := d.take()
	dirty := len(runs)+len(maps) > 0
	if !dirty || !sabotaged("table-early") {
		if err := d.f.Sync(); err != nil {
			return fmt.Errorf("flush data: %w", err)
		}
	}
	if !dirty {
		return nil
	}
	for _, blk := range maps {
		if err := d.writeMap(int64(d.table[blk].Load()) * SectorSize); err != nil {
			return fmt.Errorf("sector bitmap of block %d: %w", blk, err)
		}
	}
	for _, r := range runs {
		if err := d.writeFile(r.bytes, r.off); err != nil {
			return fmt.Errorf("block allocation table: %w", err)
		}
	}
	if err := d.f.Sync(); err != nil {
		return fmt.Errorf("flush block allocation table: %w", err)
	}
	return nil
}

// Close implements block.Device: it flushes and closes the file, which it does
// even after an error.
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
	return errors.Join(err, d.f.Close())
}

// sabotage names a step to leave out, so that tests can show that they would
// notice. Nothing but a test sets it.
var sabotage string

func sabotaged(name string) bool { return sabotage == name }
