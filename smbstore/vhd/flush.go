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
	pageEntries = SectorSize / 4   // a page of the table is what a disk writes whole
	maxTableRun = 1 << 20 / 4 / 16 // entries in one write of the table: 64 KiB
)

// changes are what the next flush has to write once the data is stable.
type changes struct {
	mu      sync.Mutex
	pages   map[int64]struct{} // of the table
	maps    []dirtyMap
	waiting atomic.Int64 // maps that no flush has written
	open    atomic.Int64 // pages likewise
}

// dirtyMap is a bitmap, which lies at at, that has bits the file lacks.
type dirtyMap struct {
	m  *sectorMap
	at int64
}

// set changes a table entry, whose block's content is in the file.
func (c *changes) set(entry *atomic.Uint32, blk int64, sector uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	entry.Store(sector)
	if _, there := c.pages[blk/pageEntries]; !there {
		c.pages[blk/pageEntries] = struct{}{}
		c.open.Add(1)
	}
}

// run is a part of the table, or a bitmap, as it was when a flush began.
type run struct {
	off   int64 // in the file
	bytes []byte
}

// taken are the changes a flush has to write.
type taken struct {
	maps  []dirtyMap
	bits  []run // theirs
	table []run
	pages int // that table is of
}

// take hands over the changes so far. What they tell of is in the file, if not
// stable yet.
func (d *Disk) take() taken {
	c := &d.changes
	c.mu.Lock()
	defer c.mu.Unlock()
	t := taken{maps: c.maps, pages: len(c.pages), table: d.takeTable()}
	c.maps = nil
	for _, e := range t.maps {
		e.m.dirty = false
		t.bits = append(t.bits, run{e.at, slices.Clone(e.m.bits)})
	}
	return t
}

// takeTable copies the changed pages of the table, neighbours together. The
// caller holds changes.mu.
func (d *Disk) takeTable() []run {
	c := &d.changes
	pages := make([]int64, 0, len(c.pages))
	for no := range c.pages {
		pages = append(pages, no)
	}
	clear(c.pages)
	slices.Sort(pages)
	var runs []run
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
	return runs
}

// done lets the bitmaps go that are in the file now.
func (c *changes) done(t taken) {
	for _, e := range t.maps {
		e.m.pins.Add(-1)
	}
	c.waiting.Add(-int64(len(t.maps)))
	c.open.Add(-int64(t.pages))
}

// Uncommitted implements block.Committer: room that was given and has not been
// flushed is known to this process alone.
func (d *Disk) Uncommitted() bool { return d.changes.waiting.Load() > 0 || d.changes.open.Load() > 0 }

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
		if errors.Is(err, block.ErrNoSpace) && d.stuck != nil {
			return err
		}
		return d.fail(err)
	}
	d.ended = d.started.Load()
	return nil
}

// fail marks the disk as failed for good.
func (d *Disk) fail(err error) error {
	d.failed.Store(true)
	return fmt.Errorf("%w: %w", block.ErrFailed, err)
}

// commit makes data, new blocks and the footer behind them stable, then what
// refers to them: sector bitmaps and table, in any order, since a new block whose
// bitmap came too late tells what was there before.
//
// What there is no room for is stuck, and comes first the next time.
func (d *Disk) commit() error {
	if t := d.stuck; t != nil {
		d.stuck = nil
		if err := d.bring(*t); err != nil {
			return err
		}
	}
	return d.bring(d.take())
}

func (d *Disk) bring(t taken) error {
	dirty := len(t.bits)+len(t.table) > 0
	if sabotaged("bitmap-early") {
		if err := d.writeRuns(t.bits, "sector bitmap"); err != nil {
			return err
		}
	}
	if !dirty || !sabotaged("table-early") {
		if err := d.f.Sync(); err != nil {
			return fmt.Errorf("flush data: %w", err)
		}
	}
	if !dirty {
		return nil
	}
	var err error
	if !sabotaged("bitmap-skipped") {
		err = d.writeRuns(t.bits, "sector bitmap")
	}
	if err == nil {
		err = d.writeRuns(t.table, "block allocation table")
	}
	if err != nil {
		if errors.Is(err, block.ErrNoSpace) {
			d.stuck = &t
		}
		return err
	}
	if err := d.f.Sync(); err != nil {
		return fmt.Errorf("flush block allocation table: %w", err)
	}
	d.changes.done(t)
	return nil
}

func (d *Disk) writeRuns(runs []run, what string) error {
	for _, r := range runs {
		if err := d.writeFile(r.bytes, r.off); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return nil
}
