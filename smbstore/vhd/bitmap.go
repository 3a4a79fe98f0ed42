package vhd

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// A block's sector bitmap has a bit for each of its sectors, the highest of a
// byte first. A sector whose bit is 0 is the parent's, whatever lies in its
// place; without a parent it was never written and reads as zeroes. Blocks of
// dynamic disks that this package makes have all bits set from the start.

const (
	// stripes is how many locks, and parts of the cache of bitmaps, the blocks share.
	stripes = 256
	// cachedMaps is how many bytes of bitmaps are kept in memory, besides those that
	// wait for a flush: of 8,192 blocks of 2 MiB.
	cachedMaps = 4 << 20
	// maxDirtyMaps is how many bytes of bitmaps may wait for a flush.
	maxDirtyMaps = 4 << 20
)

// stripe is the lock of every 256th block, and their bitmaps as far as cached.
type stripe struct {
	sync.RWMutex
	mu   sync.Mutex // guards maps; taken with the stripe held, even shared
	maps map[int64]*sectorMap
}

// sectorMap is a block's sector bitmap. Its bits are read with the stripe held,
// and set with the stripe held alone and changes.mu.
type sectorMap struct {
	bits  []byte
	unset int64        // sectors of the disk that are not the block's own
	pins  atomic.Int32 // a flush that is due, and one under way: it must stay in memory
	dirty bool         // has bits the file lacks and no flush has taken; under changes.mu
}

func (m *sectorMap) has(sector int64) bool { return m.bits[sector/8]&(0x80>>(sector%8)) != 0 }

// run returns how many of the n bytes from in on are alike, and whether they are
// the block's own.
func (m *sectorMap) run(in, n int64) (int64, bool) {
	s, end := in/SectorSize, (in+n+SectorSize-1)/SectorSize
	own := m.has(s)
	same := byte(0)
	if own {
		same = 0xff
	}
	for s < end && m.has(s) == own {
		if s%8 == 0 && m.bits[s/8] == same {
			s += 8
		} else {
			s++
		}
	}
	return min(n, s*SectorSize-in), own
}

// set sets the bits of sectors [from, to) and tells whether any was new.
func (m *sectorMap) set(from, to int64) bool {
	before := m.unset
	for ; from < to; from++ {
		if !m.has(from) {
			m.bits[from/8] |= 0x80 >> (from % 8)
			m.unset--
		}
	}
	return m.unset != before
}

// fullMaps says which blocks are known to have all sectors of their own: a bit each.
type fullMaps []atomic.Uint64

func (m fullMaps) get(blk int64) bool { return m[blk/64].Load()&(1<<(blk%64)) != 0 }
func (m fullMaps) set(blk int64)      { m[blk/64].Or(1 << (blk % 64)) }

// sectors is how many sectors of a block belong to the disk.
func (im *image) sectors(blk int64) int64 {
	return min(im.blockSize, im.size-blk*im.blockSize) / SectorSize
}

// readMap reads the bitmap of a block that lies at at.
func (im *image) readMap(blk, at int64) (*sectorMap, error) {
	n := im.sectors(blk)
	m := &sectorMap{bits: make([]byte, (n+7)/8)}
	if err := readFull(im.f, m.bits, at); err != nil {
		return nil, err
	}
	m.count(n)
	return m, nil
}

// count finds out how many of the first n sectors have no bit.
func (m *sectorMap) count(n int64) {
	m.unset = n
	for i, c := range m.bits {
		if int64(i) == n/8 {
			c &= ^byte(0xff >> (n % 8))
		}
		m.unset -= int64(bits.OnesCount8(c))
	}
}

// sectorMap returns the bitmap of a block that lies at at, nil if all sectors are
// its own. The caller holds the stripe.
func (d *Disk) sectorMap(blk, at int64) (*sectorMap, error) {
	if d.full.get(blk) {
		return nil, nil
	}
	s := &d.stripes[blk%stripes]
	s.mu.Lock()
	m := s.maps[blk]
	s.mu.Unlock()
	if m != nil {
		return m, nil
	}
	m, err := d.im.readMap(blk, at)
	if err != nil {
		return nil, err
	}
	if m.unset == 0 {
		d.full.set(blk)
		return nil, nil
	}
	return d.keepMap(blk, m), nil
}

// keepMap puts a bitmap into the cache, or returns the one that another reader
// has put there. The caller holds the stripe.
func (d *Disk) keepMap(blk int64, m *sectorMap) *sectorMap {
	s := &d.stripes[blk%stripes]
	s.mu.Lock()
	defer s.mu.Unlock()
	if have := s.maps[blk]; have != nil {
		return have
	}
	if s.maps == nil {
		s.maps = map[int64]*sectorMap{}
	}
	if int64(len(s.maps)) >= max(1, cachedMaps/stripes/d.mapSize) {
		for other, o := range s.maps { // whichever comes first
			if o.pins.Load() == 0 { // it gets pins only with the stripe held alone
				delete(s.maps, other)
				break
			}
		}
	}
	s.maps[blk] = m
	return m
}

// own makes the sectors of [in, in+n) the block's own, whose data is in the file.
// The file learns it with the next flush. The caller holds the stripe alone.
func (d *Disk) own(blk, at int64, m *sectorMap, in, n int64) {
	if m == nil {
		return
	}
	c := &d.changes
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.set(in/SectorSize, (in+n+SectorSize-1)/SectorSize) && !m.dirty {
		m.dirty = true
		m.pins.Add(1)
		c.maps = append(c.maps, dirtyMap{m, at})
		c.waiting.Add(1)
	}
	if m.unset == 0 {
		d.full.set(blk)
	}
}

// buffers keeps room for bitmaps, sectors of parents and zeroes around.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

func takeBuffer(n int64) *[]byte {
	b := buffers.Get().(*[]byte)
	if int64(cap(*b)) < n {
		*b = make([]byte, n)
	}
	*b = (*b)[:n]
	return b
}
