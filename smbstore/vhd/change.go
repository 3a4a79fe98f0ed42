package vhd

import (
	"context"
	"fmt"

	"lunless/smbstore/block"
)

// change has do change [in, in+n) of a block that lies at at, given where the
// block's data begins in the file. Sectors of the parent that are changed in part
// are copied first; all of them are the block's own afterwards. m is nil if they
// were before. The caller holds the stripe alone.
func (d *Disk) change(ctx context.Context, blk, at int64, m *sectorMap, in, n int64, do func(data int64) error) error {
	data := at + d.mapSize
	if m != nil {
		first, last := in/SectorSize, (in+n-1)/SectorSize
		if in%SectorSize != 0 && !m.has(first) {
			if err := d.copySector(ctx, blk, first, data); err != nil {
				return err
			}
		}
		if (in+n)%SectorSize != 0 && !m.has(last) && (last != first || in%SectorSize == 0) {
			if err := d.copySector(ctx, blk, last, data); err != nil {
				return err
			}
		}
	}
	if err := do(data); err != nil {
		return err
	}
	d.own(blk, at, m, in, n)
	return nil
}

// copySector brings a sector of the parent into a block whose data begins at data.
func (d *Disk) copySector(ctx context.Context, blk, sector, data int64) error {
	buf := takeBuffer(SectorSize)
	defer buffers.Put(buf)
	if err := d.readParent(ctx, *buf, blk*d.blockSize+sector*SectorSize); err != nil {
		return fmt.Errorf("parent: %w", err)
	}
	return d.writeFile(*buf, data+sector*SectorSize)
}

// allocate gives a block room and has do change [in, in+n) of it. The caller
// holds the stripe alone.
func (d *Disk) allocate(ctx context.Context, blk, in, n int64, do func(data int64) error) error {
	at, err := d.alloc()
	if err != nil {
		return fmt.Errorf("make room for block %d: %w", blk, err)
	}
	if err := d.fill(ctx, blk, at, in, n, do); err != nil {
		d.space.release(at)
		return err
	}
	d.changes.set(&d.table[blk], blk, uint32(at/SectorSize))
	return nil
}

func (d *Disk) fill(ctx context.Context, blk, at, in, n int64, do func(data int64) error) error {
	if !d.im.differencing() {
		if err := d.writeMap(at); err != nil {
			return err
		}
		if err := do(at + d.mapSize); err != nil {
			return err
		}
		d.full.set(blk)
		return nil
	}
	sectors := d.im.sectors(blk)
	m := &sectorMap{bits: make([]byte, (sectors+7)/8), unset: sectors}
	return d.change(ctx, blk, at, d.keepMap(blk, m), in, n, do)
}

// writeMap sets all bits of a bitmap.
func (d *Disk) writeMap(at int64) error {
	if sabotaged("bitmap-skipped") {
		return nil
	}
	buf := takeBuffer(d.mapSize)
	defer buffers.Put(buf)
	for i := range *buf {
		(*buf)[i] = 0xff
	}
	return d.writeFile(*buf, at)
}

func (d *Disk) zeroBlock(ctx context.Context, blk, in, n int64, keep bool) error {
	s := &d.stripes[blk%stripes]
	s.Lock()
	defer s.Unlock()
	at, err := d.lookup(blk)
	if err != nil {
		return err
	}
	zero := func(data int64) error { return d.zeroFile(data+in, n, !keep) }
	if at == 0 {
		if !keep {
			isZero, err := d.parentIsZero(ctx, blk*d.blockSize+in, n)
			if isZero || err != nil {
				return err
			}
		}
		return d.allocate(ctx, blk, in, n, zero)
	}
	m, err := d.sectorMap(blk, at)
	if err != nil {
		return err
	}
	return d.change(ctx, blk, at, m, in, n, zero)
}

func (d *Disk) trimBlock(p block.Puncher, blk, in, n int64) error {
	s := &d.stripes[blk%stripes]
	s.Lock()
	defer s.Unlock()
	at, err := d.lookup(blk)
	if err != nil || at == 0 {
		return err
	}
	if err := p.PunchHole(at+d.mapSize+in, n); err != nil && !isUnsupported(err) {
		return fmt.Errorf("trim at file offset %#x: %w", at+d.mapSize+in, err)
	}
	return nil
}

func (d *Disk) zeroFile(off, n int64, unmap bool) error {
	if err := block.ZeroFile(d.f, off, n, unmap); err != nil {
		return &zeroError{off, n, err}
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

// sabotage names a step to leave out, so that tests can show that they would
// notice. Nothing but a test sets it.
var sabotage string

func sabotaged(name string) bool { return sabotage == name }
