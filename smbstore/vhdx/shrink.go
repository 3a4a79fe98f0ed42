package vhdx

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"lunless/smbstore/block"
)

// TailInUseError tells why a disk cannot shrink. It is ErrTailInUse.
type TailInUseError struct {
	Size   int64 // asked for, bytes
	Offset int64 // on the virtual disk: the first byte past Size that is not zero, rounded down to 4 KiB
	// PartitionsEnd is where the last of the guest's partitions ends, if the last
	// sector holds the backup header of a GPT; else 0.
	PartitionsEnd int64
}

func (e *TailInUseError) Error() string {
	s := fmt.Sprintf("disk is in use past %d bytes, at disk offset %d", e.Size, e.Offset)
	switch {
	case e.PartitionsEnd == 0:
	case e.PartitionsEnd <= e.Size:
		s += fmt.Sprintf(": the guest's partitions end at %d, but the backup of its GPT is at the disk's end: have the guest remove it", e.PartitionsEnd)
	default:
		s += fmt.Sprintf(": the guest's GPT has its backup at the disk's end, and its partitions end at %d: shrink them in the guest first", e.PartitionsEnd)
	}
	return s + ": " + ErrTailInUse.Error()
}

// Unwrap returns ErrTailInUse.
func (e *TailInUseError) Unwrap() error { return ErrTailInUse }

// watchRounds is how often what changed while the tail was read is read again
// before requests are held for it.
const watchRounds = 3

// shrinkDisk cuts a tail off that reads as zeroes. The size changes first: the
// BAT's entries past the new end mean nothing from then on.
func (d *Disk) shrinkDisk(ctx context.Context, size int64) error {
	if d.im.params.LeaveAllocated { // nobody has looked where its blocks lie
		if err := d.rescan(ctx); err != nil {
			return err
		}
	}
	old := d.Size()
	w, stop := d.watchRange(size, old-size)
	defer stop()
	if err := d.flush(ctx); err != nil {
		return err
	}
	if err := d.tailFree(ctx, size); err != nil {
		return err
	}
	again := func(off, n int64) error { return d.rangeFree(ctx, size, off, n, true) }
	for i := 0; i < watchRounds && w.changed(); i++ {
		if err := w.take(again); err != nil {
			return err
		}
	}
	if err := d.flush(ctx); err != nil {
		return err
	}
	if err := d.switchTail(ctx, w, size); err != nil {
		return err
	}
	if err := d.freePastEnd(ctx, old); err != nil {
		return err
	}
	return d.cut()
}

// switchTail switches to the new size, with requests held, if what has changed in
// the tail since it was read is zero as well.
func (d *Disk) switchTail(ctx context.Context, w *watch, size int64) error {
	defer d.quiesce()()
	if err := w.take(func(off, n int64) error { return d.rangeFree(ctx, size, off, n, false) }); err != nil {
		return err
	}
	return d.switchSize(context.WithoutCancel(ctx), size)
}

// tailFree reads what lies past size, or rather the blocks of it that the file's
// BAT gives room to. Others are told of by the watch.
func (d *Disk) tailFree(ctx context.Context, size int64) error {
	return d.eachRoom(func(i int64, e batEntry, _, _ int64) error {
		blk := i - i/(d.ratio+1)
		if i%(d.ratio+1) == d.ratio || (blk+1)*d.blockSize <= size || !e.relied() {
			return nil
		}
		from := max(size, blk*d.blockSize)
		return d.rangeFree(ctx, size, from, min((blk+1)*d.blockSize, d.Size())-from, true)
	})
}

// rangeFree returns a TailInUseError unless a range reads as zeroes. lock tells
// that the blocks' locks are to be taken.
func (d *Disk) rangeFree(ctx context.Context, size, off, n int64, lock bool) error {
	at, err := d.firstData(ctx, off, n, lock)
	if err != nil || at < 0 {
		return err
	}
	return &TailInUseError{Size: size, Offset: at, PartitionsEnd: d.partitionsEnd(lock)}
}

// firstData returns where a range of the disk's own layer first holds something
// other than zeroes, rounded down to 4 KiB, or -1.
func (d *Disk) firstData(ctx context.Context, off, n int64, lock bool) (int64, error) {
	buf := make([]byte, min(n, mib))
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		blk, in := off/d.blockSize, off%d.blockSize
		c := min(n, int64(len(buf)), d.blockSize-in)
		at, err := d.dataIn(buf[:c], blk, in, lock)
		if err != nil || at >= 0 {
			return at, err
		}
		off, n = off+c, n-c
	}
	return -1, nil
}

// dataIn is firstData for a piece of a block that buf has room for.
func (d *Disk) dataIn(buf []byte, blk, in int64, lock bool) (int64, error) {
	if lock {
		l := &d.stripes[blk%stripes]
		l.RLock()
		defer l.RUnlock()
	}
	e, err := d.lookup(blk)
	if err != nil || !e.relied() {
		return -1, err
	}
	found := int64(-1)
	place := e.offset() + in
	err = dataRuns(d.f, place, int64(len(buf)), func(at, n int64) error {
		p := buf[:n]
		if err := readFull(d.f, p, at); err != nil {
			return err
		}
		for k := int64(0); k < n; k += logSector {
			if !block.IsZero(p[k:min(k+logSector, n)]) {
				found = blk*d.blockSize + in + at - place + k
				return errFound
			}
		}
		return nil
	})
	if errors.Is(err, errFound) {
		err = nil
	}
	return found, err
}

// errFound ends a walk that has what it was after.
var errFound = errors.New("found")

// freePastEnd gives back the room of blocks between the disk's end and the one it
// had, and clears their entries.
func (d *Disk) freePastEnd(ctx context.Context, old int64) error {
	ctx = context.WithoutCancel(ctx) // the disk is cut already
	p := d.sized(old)
	bat, blocks := d.geo.Load().bat, d.blocks()
	return walkEntries(d.own, bat, p.batEntries(), func(i int64, e batEntry, at int64) error {
		if !pastEnd(i, d.ratio, blocks, (blocks+d.ratio-1)/d.ratio) {
			return nil
		}
		return d.edit(ctx, 1, func(m metaEdit) error {
			if err := m.own(at, 8); err != nil {
				return err
			}
			m.set(at, 0)
			m.free(d.givenUp(e))
			return nil
		})
	})
}

// blocks is the number of payload blocks at the disk's present size.
func (d *Disk) blocks() int64 { return (d.Size() + d.blockSize - 1) / d.blockSize }

// cut gives back what of the file's end is not in use, after making stable that
// it is not.
func (d *Disk) cut() error {
	d.flushMu.Lock()
	defer d.flushMu.Unlock()
	switch {
	case d.closed.Load():
		return block.ErrClosed
	case d.failed.Load():
		return block.ErrFailed
	}
	if err := d.flushLocked(); err != nil {
		return err
	}
	if err := d.cutFile(); err != nil {
		return d.fail(err)
	}
	return nil
}

// cutFile is cut without what comes before; under flushMu. The log would have to
// know of the new size first (MS-VHDX 2.3.1.1); qemu looks at its older entries as
// well and takes the file for truncated, so it goes out of use instead.
func (d *Disk) cutFile() error {
	s := &d.space
	s.mu.Lock() // no room is given out meanwhile
	defer s.mu.Unlock()
	if s.end >= s.fileSize.Load() {
		return nil
	}
	if err := d.retireLog(); err != nil {
		return err
	}
	if err := d.own.Truncate(s.end); err != nil {
		return fmt.Errorf("cut file to %d bytes: %w", s.end, err)
	}
	s.fileSize.Store(s.end)
	s.fresh = s.end
	return d.own.Sync()
}

// retireLog takes the log out of use, until the next commit; under flushMu.
func (d *Disk) retireLog() error {
	if !d.inUse {
		return nil
	}
	if err := d.own.Sync(); err != nil { // what the last entry tells of
		return &syncError{"metadata", err}
	}
	if err := d.hdr.update(func(h *header) { h.LogGUID = GUID{} }); err != nil {
		return err
	}
	d.inUse, d.log.guid = false, GUID{}
	return nil
}

// partitionsEnd reads the backup of a GPT in the disk's last sectors (UEFI 5.3):
// where the last partition that it lists ends, bytes; 0 if there is none.
func (d *Disk) partitionsEnd(lock bool) int64 {
	sector, size := int64(d.im.params.LogicalSectorSize), d.Size()
	hdr := make([]byte, sector)
	if d.readRange(hdr, size-sector, lock) != nil || string(hdr[:8]) != "EFI PART" {
		return 0
	}
	first := int64(binary.LittleEndian.Uint64(hdr[72:]))
	count, each := int64(binary.LittleEndian.Uint32(hdr[80:])), int64(binary.LittleEndian.Uint32(hdr[84:]))
	const maxTable = 1 << 20
	if each < 128 || each > 4096 || count <= 0 || count > maxTable/each || first < 0 || first > (size-sector)/sector ||
		first*sector > size-sector-count*each {
		return 0
	}
	table := make([]byte, count*each)
	if d.readRange(table, first*sector, lock) != nil {
		return 0
	}
	end := int64(0)
	for ; len(table) > 0; table = table[each:] {
		if last := binary.LittleEndian.Uint64(table[40:]); !block.IsZero(table[:16]) && last < uint64(size/sector) {
			end = max(end, (int64(last)+1)*sector)
		}
	}
	return end
}

// readRange reads from the disk's own layer, with or without the blocks' locks.
func (d *Disk) readRange(p []byte, off int64, lock bool) error {
	for len(p) > 0 {
		blk, in := off/d.blockSize, off%d.blockSize
		n := min(int64(len(p)), d.blockSize-in)
		if err := d.readOwn(p[:n], blk, in, lock); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

func (d *Disk) readOwn(p []byte, blk, in int64, lock bool) error {
	if lock {
		l := &d.stripes[blk%stripes]
		l.RLock()
		defer l.RUnlock()
	}
	e, err := d.lookup(blk)
	if err != nil {
		return err
	}
	if !e.relied() {
		clear(p)
		return nil
	}
	return readFull(d.f, p, e.offset()+in)
}
