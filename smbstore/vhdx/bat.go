package vhdx

import "context"

// batEntry is MS-VHDX 2.5.1: the state in three bits, the file offset in MiB
// above bit 20.
type batEntry uint64

// Payload block states (MS-VHDX 2.5.1.1). A sector bitmap block is
// stateNotPresent or statePresent (2.5.1.2).
const (
	stateNotPresent = 0
	stateUndefined  = 1
	stateZero       = 2
	stateUnmapped   = 3
	statePresent    = 6
	statePartial    = 7
)

func makeEntry(state int, off int64) batEntry { return batEntry(uint64(state) | uint64(off)) }

func (e batEntry) state() int    { return int(e & 7) }
func (e batEntry) offset() int64 { return int64(e>>20) << 20 } // may exceed any file; never negative below 2^63: checked by valid

// reserves tells whether the entry keeps room in the file: a block that was
// unmapped may still point to it.
func (e batEntry) reserves() bool {
	switch e.state() {
	case statePresent, statePartial:
		return true
	case stateUndefined, stateUnmapped:
		return e>>20 != 0
	}
	return false
}

// geometry is what a live Resize may change. It is replaced as a whole, while
// all requests are held (quiesce); Size reads it at any time.
type geometry struct {
	size  int64  // of the virtual disk
	bat   int64  // file offset of the BAT
	spans []span // header section, log and regions, by offset
}

// batIndex is the place of a payload block's entry in the BAT: one sector bitmap
// entry follows each chunk's (MS-VHDX 2.5).
func (d *Disk) batIndex(blk int64) int64 { return blk + blk/d.ratio }

// entryOffset is where a payload block's entry lies in the file.
func (d *Disk) entryOffset(blk int64) int64 { return d.geo.Load().bat + d.batIndex(blk)*8 }

// setEntry makes e a payload block's entry, with room to be given back once it
// is stable. The caller holds the block's lock alone.
func (d *Disk) setEntry(ctx context.Context, blk int64, e batEntry, freed room) error {
	d.noteChange(blk, 0, d.blockSize)
	at := d.entryOffset(blk)
	return d.edit(ctx, 1, func(m metaEdit) error {
		if err := m.own(at, 8); err != nil {
			return err
		}
		m.set(at, uint64(e))
		m.free(freed)
		return nil
	})
}

// edit makes the changes of do, to pages pages of metadata at most, one: they are
// part of one commit. It flushes first if they do not fit into the next one. The
// caller may hold locks of blocks.
func (d *Disk) edit(ctx context.Context, pages int, do func(m metaEdit) error) error {
	for {
		err := d.meta.edit(pages, do)
		if err != errMetaFull {
			return err
		}
		if err := d.flush(ctx); err != nil {
			return err
		}
	}
}

// quiesce waits until no request is under way and holds back new ones until
// release is called. Flushes go on: edits made meanwhile are made stable by flush.
// The caller holds no block's lock.
func (d *Disk) quiesce() (release func()) {
	for i := range d.stripes {
		d.stripes[i].Lock()
	}
	return func() {
		for i := range d.stripes {
			d.stripes[i].Unlock()
		}
	}
}
