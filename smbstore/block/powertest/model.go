package powertest

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
)

const (
	sectorSize = 512 // what a cut leaves whole
	laneSize   = 8   // a version fills lanes; no write is finer
	lanes      = sectorSize / laneSize
)

// version is what a lane may hold: the number that fills it, 0 for zeroes.
type version struct {
	tag  uint64
	trim bool // by a trim: it may as well hold what it did before
}

// versions are what a cut may leave of a lane, oldest first; the last is what it
// reads as now.
type versions []version

// settle drops what a flush has made impossible.
func (v versions) settle() versions {
	last := len(v) - 1
	for last > 0 && v[last].trim {
		last--
	}
	if rest := v[last:]; len(rest) <= 2 {
		return rest
	}
	return versions{v[last], v[len(v)-1]}
}

func (v versions) allow(tag uint64) bool {
	return slices.ContainsFunc(v, func(w version) bool { return w.tag == tag })
}

// cell is a sector's versions: of all of it while no write was finer, else of
// each lane.
type cell struct {
	all    versions
	each   *[lanes]versions
	queued bool // in model.unsettled
}

// check holds a sector's content against what it may be.
func (c *cell) check(got []byte) error {
	for i := range lanes {
		may := c.all
		if c.each != nil {
			may = c.each[i]
		}
		tag := binary.LittleEndian.Uint64(got[i*laneSize:])
		if !may.allow(tag) {
			return fmt.Errorf("holds %d at byte %d, may hold %v", tag, i*laneSize, may)
		}
		if c.each == nil && tag != binary.LittleEndian.Uint64(got) {
			return fmt.Errorf("holds %d at byte %d, but %d at the beginning", tag, i*laneSize, binary.LittleEndian.Uint64(got))
		}
	}
	return nil
}

// adopt makes a sector's content the only one it may have.
func (c *cell) adopt(got []byte) {
	if c.each == nil {
		c.all = versions{{tag: binary.LittleEndian.Uint64(got)}}
		return
	}
	for i := range lanes {
		c.each[i] = versions{{tag: binary.LittleEndian.Uint64(got[i*laneSize:])}}
	}
}

// model is what a disk promises.
type model struct {
	mu        sync.Mutex
	blockSize int64
	blocks    map[int64][]*cell // by block number; nil for a sector that was never written
	unsettled []int64           // sectors written since their owner's last flush
	next      uint64            // tag
	sizes     []int64           // that the disk may have, oldest first
	links     []uint64          // that it may have to its parent
}

func newModel(blockSize, size int64) *model {
	return &model{blockSize: blockSize, blocks: map[int64][]*cell{}, sizes: []int64{size}, links: []uint64{0}}
}

// at returns the place of a sector's cell.
func (m *model) at(sector int64) **cell {
	per := m.blockSize / sectorSize
	cells := m.blocks[sector/per]
	if cells == nil {
		cells = make([]*cell, per)
		m.blocks[sector/per] = cells
	}
	return &cells[sector%per]
}

// tag returns a number nobody has written yet.
func (m *model) tag() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.next++
	return m.next
}

// begin tells of a write, or a trim, that is about to be made. Ranges are whole lanes.
func (m *model) begin(off, n int64, tag uint64, trim bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for end := off + n; off < end; {
		next := min(end, (off/sectorSize+1)*sectorSize)
		p := m.at(off / sectorSize)
		if *p != nil || tag != 0 { // else it is zero and stays so
			m.add(p, off, next, version{tag, trim})
		}
		off = next
	}
}

func (m *model) add(p **cell, off, end int64, v version) {
	c := *p
	if c == nil {
		c = &cell{all: versions{{}}}
		*p = c
	}
	if !c.queued {
		c.queued = true
		m.unsettled = append(m.unsettled, off/sectorSize)
	}
	if c.each == nil && end-off == sectorSize {
		c.all = append(c.all, v)
		return
	}
	if c.each == nil {
		c.each = new([lanes]versions)
		for i := range lanes {
			c.each[i] = slices.Clone(c.all)
		}
	}
	for i := off % sectorSize / laneSize; i < lanes && off < end; i++ {
		c.each[i] = append(c.each[i], v)
		off += laneSize
	}
}

// stable drops what a flush has made impossible, for the sectors that owns picks.
func (m *model) stable(owns func(sector int64) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unsettled = slices.DeleteFunc(m.unsettled, func(s int64) bool {
		if !owns(s) {
			return false
		}
		c := *m.at(s)
		c.queued = false
		if c.each == nil {
			c.all = c.all.settle()
			return true
		}
		for i := range lanes {
			c.each[i] = c.each[i].settle()
		}
		return true
	})
}

// stableRange is stable for whole lanes: a write with FUA.
func (m *model) stableRange(off, n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for end := off + n; off < end; {
		next := min(end, (off/sectorSize+1)*sectorSize)
		c := *m.at(off / sectorSize)
		switch first := off % sectorSize / laneSize; {
		case c.each != nil:
			for i := first; i < first+(next-off)/laneSize; i++ {
				c.each[i] = c.each[i].settle()
			}
		default: // never written in parts, nor now
			c.all = c.all.settle()
		}
		off = next
	}
}

// settled drops what never happens any more once a change of one value is stable.
func settled[T any](mu *sync.Mutex, may *[]T) {
	mu.Lock()
	defer mu.Unlock()
	*may = (*may)[len(*may)-1:]
}

// may adds to what one value may be.
func may[T any](mu *sync.Mutex, of *[]T, v T) {
	mu.Lock()
	defer mu.Unlock()
	*of = append(*of, v)
}

// unmay takes back what was added last: it did not happen.
func unmay[T any](mu *sync.Mutex, of *[]T) {
	mu.Lock()
	defer mu.Unlock()
	*of = (*of)[:len(*of)-1]
}

// forget is cutOff for those who do not hold the lock.
func (m *model) forget(off int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cutOff(off)
}

// reads holds what was just read against the model, at a time when nobody writes there.
func (m *model) reads(p []byte, off int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for ; len(p) > 0; p, off = p[sectorSize:], off+sectorSize {
		c := *m.at(off / sectorSize)
		now := &cell{all: versions{{}}}
		if c != nil {
			now = c.now()
		}
		if err := now.check(p[:sectorSize]); err != nil {
			return fmt.Errorf("sector %d reads wrong: %w", off/sectorSize, err)
		}
	}
	return nil
}

// now returns what the sector may read as while the power is on.
func (c *cell) now() *cell {
	out := &cell{all: c.all.settle()}
	if c.each != nil {
		out.each = new([lanes]versions)
		for i := range lanes {
			out.each[i] = c.each[i].settle()
		}
	}
	return out
}

// cutOff makes everything from off on zero and stable: it is no more.
func (m *model) cutOff(off int64) {
	for blk, cells := range m.blocks {
		for i, c := range cells {
			if s := blk*int64(len(cells)) + int64(i); c != nil && s*sectorSize >= off {
				*c = cell{all: versions{{}}, queued: c.queued}
			}
		}
	}
}
