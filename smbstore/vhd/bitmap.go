package vhd

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"lunless/smbstore/block"
)

// A block's sector bitmap has a bit for each of its sectors, the highest of a
// byte first; a sector whose bit is 0 was never written and reads as zeroes,
// whatever lies in its place. Blocks this package makes have all bits set from
// the start. One with others that is written to gets its missing sectors zeroed
// and its bitmap completed with the next flush, so that it is done once.

// mapStates says of each block whether its bitmap is complete, as far as known:
// two bits a block.
type mapStates []atomic.Uint32

const (
	mapKnown   = 1
	mapPartial = 2 // only with mapKnown
)

func newMapStates(blocks int) mapStates { return make(mapStates, (blocks+15)/16) }

func (m mapStates) get(blk int64) uint32 { return m[blk/16].Load() >> (blk % 16 * 2) & 3 }

// add sets flags of a block; under its lock, which may be shared.
func (m mapStates) add(blk int64, flags uint32) { m[blk/16].Or(flags << (blk % 16 * 2)) }

// setFull says that a block's bitmap is complete; under its lock, held alone.
func (m mapStates) setFull(blk int64) {
	m.add(blk, mapKnown)
	m[blk/16].And(^(mapPartial << (blk % 16 * 2)))
}

// mapBuffers keeps room for reading bitmaps.
var mapBuffers = sync.Pool{New: func() any { return new([]byte) }}

func takeBuffer(n int64) *[]byte {
	b := mapBuffers.Get().(*[]byte)
	if int64(cap(*b)) < n {
		*b = make([]byte, n)
	}
	*b = (*b)[:n]
	return b
}

// complete tells whether all sectors of a block that lies at at have their bits
// set. The caller holds the block's lock.
func (d *Disk) complete(blk, at int64) (bool, error) {
	if s := d.maps.get(blk); s != 0 {
		return s == mapKnown, nil
	}
	missing, err := d.im.missing(blk, at)
	if err != nil {
		return false, err
	}
	if missing > 0 {
		d.maps.add(blk, mapKnown|mapPartial)
		return false, nil
	}
	d.maps.add(blk, mapKnown)
	return true, nil
}

// missing counts the sectors of a block, as far as they belong to the disk, that
// its bitmap leaves out.
func (im *image) missing(blk, at int64) (int64, error) {
	sectors := min(im.blockSize, int64(im.ft.CurrentSize)-blk*im.blockSize) / SectorSize
	buf := takeBuffer((sectors + 7) / 8)
	defer mapBuffers.Put(buf)
	b := *buf
	if err := readFull(im.f, b, at); err != nil {
		return 0, err
	}
	if r := sectors % 8; r != 0 {
		b[len(b)-1] |= 0xff >> r
	}
	n := int64(0)
	for _, c := range b {
		n += int64(8 - bits.OnesCount8(c))
	}
	return n, nil
}

// clearUnset clears those sectors of p, read at in of a block, that its bitmap
// leaves out.
func (d *Disk) clearUnset(p []byte, at, in int64) error {
	first, last := in/SectorSize, (in+int64(len(p))-1)/SectorSize
	buf := takeBuffer(last/8 - first/8 + 1)
	defer mapBuffers.Put(buf)
	if err := readFull(d.f, *buf, at+first/8); err != nil {
		return err
	}
	for s := first; s <= last; s++ {
		if (*buf)[s/8-first/8]&(0x80>>(s%8)) == 0 {
			clear(p[max(0, s*SectorSize-in):min(int64(len(p)), (s+1)*SectorSize-in)])
		}
	}
	return nil
}

// ready returns where a block lies, 0 if it has no room, after completing its
// bitmap. The caller holds the block's lock alone.
func (d *Disk) ready(blk int64) (int64, error) {
	at, err := d.lookup(blk)
	if err != nil || at == 0 {
		return 0, err
	}
	full, err := d.complete(blk, at)
	if err != nil || full {
		return at, err
	}
	return at, d.fillIn(blk, at)
}

// fillIn zeroes the sectors that a block's bitmap leaves out. In the file the
// bits follow once the zeroes are stable: with the next flush.
func (d *Disk) fillIn(blk, at int64) error {
	buf := takeBuffer((d.blockSize/SectorSize + 7) / 8)
	defer mapBuffers.Put(buf)
	if err := readFull(d.f, *buf, at); err != nil {
		return err
	}
	sectors := d.blockSize / SectorSize
	for s := int64(0); s < sectors; {
		from := s
		for s < sectors && (*buf)[s/8]&(0x80>>(s%8)) == 0 {
			s++
		}
		if from == s {
			s++
			continue
		}
		if err := d.zeroFile(at+d.mapSize+from*SectorSize, (s-from)*SectorSize, true); err != nil {
			return err
		}
	}
	if sabotaged("bitmap-early") {
		if err := d.writeMap(at); err != nil {
			return err
		}
	}
	d.changes.addMap(blk)
	d.maps.setFull(blk)
	return nil
}

// writeMap sets all bits of a bitmap.
func (d *Disk) writeMap(at int64) error {
	buf := takeBuffer(d.mapSize)
	defer mapBuffers.Put(buf)
	for i := range *buf {
		(*buf)[i] = 0xff
	}
	return d.writeFile(*buf, at)
}

func (d *Disk) zeroFile(off, n int64, unmap bool) error {
	if err := block.ZeroFile(d.f, off, n, unmap); err != nil {
		return &zeroError{off, n, err}
	}
	return nil
}
