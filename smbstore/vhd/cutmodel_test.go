package vhd

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"

	"lunless/smbstore/block"
)

// versions are what a sector may hold, oldest first; the last is what it reads
// as now. A version is the number that fills the sector, 0 for zeroes.
type versions struct {
	may  []uint64
	trim bool // the last is a trim: zero, or what was before
}

// cutModel is what a disk promises.
type cutModel struct {
	mu       sync.Mutex
	blocks   map[int64]*blockModel // by block number
	next     uint64
	parent   block.Device   // nil of a dynamic disk
	gaps     map[int64]bool // blocks that have every other sector from the start: zeroes
	verified int
}

// cutParent is what the differencing disks lie on: two sectors of three hold a
// number of their own. It ends within the last block but one that is used.
var cutParent = sync.OnceValue(func() block.Device {
	dev := block.NewMem(640*cutBlock + 5*cutSector)
	one := make([]byte, cutSector)
	for _, blk := range cutBlocks {
		for s := blk * (cutBlock / cutSector); s < (blk+1)*(cutBlock/cutSector) && s < dev.Size()/cutSector; s++ {
			if s%3 == 0 {
				continue
			}
			pattern(one, parentTag|uint64(s))
			if err := dev.WriteAt(context.Background(), one, s*cutSector, 0); err != nil {
				panic(err)
			}
		}
	}
	return keep{dev}
})

const parentTag = 1 << 60

// base is what a sector holds that was never written.
func (m *cutModel) base(s int64) uint64 {
	switch {
	case m.parent == nil || s >= m.parent.Size()/cutSector || s%3 == 0:
		return 0
	case m.gaps[s/(cutBlock/cutSector)] && s%2 == 0:
		return 0
	}
	return parentTag | uint64(s)
}

// blockModel has a block's sectors; nil for one that was never written.
type blockModel [cutBlock / cutSector]*versions

// sector returns the place of a sector's versions.
func (m *cutModel) sector(s int64) **versions {
	blk := s / (cutBlock / cutSector)
	if m.blocks[blk] == nil {
		m.blocks[blk] = &blockModel{}
	}
	return &m.blocks[blk][s%(cutBlock/cutSector)]
}

func (m *cutModel) begin(off, n int64, tag uint64, trim bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for s := off / cutSector; s < (off+n)/cutSector; s++ {
		v := m.sector(s)
		if *v == nil {
			base := m.base(s)
			if tag == 0 && base == 0 {
				continue
			}
			*v = &versions{may: []uint64{base}}
		}
		(*v).may = append((*v).may, tag)
		(*v).trim = trim
	}
}

// stable drops what a flush has made impossible, for the sectors that owns picks.
func (m *cutModel) stable(owns func(sector int64) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for blk, sectors := range m.blocks {
		for i, v := range sectors {
			if v != nil && owns(blk*(cutBlock/cutSector)+int64(i)) {
				v.settle()
			}
		}
	}
}

func (v *versions) settle() {
	if v.trim {
		return // zero or anything before it, since that may have been zero or a trim itself
	}
	v.may = v.may[len(v.may)-1:]
}

// tag returns a number nobody has written yet.
func (m *cutModel) tag() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.next++
	return m.next
}

// pattern fills p with copies of tag.
func pattern(p []byte, tag uint64) {
	be.PutUint64(p, tag)
	for n := 8; n < len(p); n *= 2 {
		copy(p[n:], p[:n])
	}
}

// verify opens an image and holds it against the model. adopt makes the model
// that of the image.
func (m *cutModel) verify(f *block.MemFile, adopt bool) error {
	if r, err := Check(f); err != nil || !r.Clean() {
		return fmt.Errorf("check before opening: %v %+v", err, r.Findings)
	}
	if m.verified++; m.verified%4 == 0 { // sometimes: it costs as much again
		ro, err := Open(noClose{f}, OpenOptions{ReadOnly: true, Parent: m.parent})
		if err != nil {
			return fmt.Errorf("open read-only: %w", err)
		}
		if err := m.compare(ro, false); err != nil {
			return fmt.Errorf("read-only: %w", err)
		}
	}
	d, err := Open(noClose{f}, OpenOptions{Parent: m.parent})
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if err := m.compare(d, adopt); err != nil {
		return err
	}
	if err := d.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	if r, err := Check(f); err != nil || !r.Clean() || footerNotes(r) {
		return fmt.Errorf("check after opening: %v %+v", err, r.Findings)
	}
	return nil
}

func (m *cutModel) compare(d *Disk, adopt bool) error {
	buf, one := make([]byte, cutBlock), make([]byte, cutSector)
	for _, blk := range cutBlocks {
		n := min(cutBlock, cutSize-blk*cutBlock)
		if err := d.ReadAt(context.Background(), buf[:n], blk*cutBlock); err != nil {
			return fmt.Errorf("read block %d: %w", blk, err)
		}
		sectors := m.blocks[blk]
		for i := range n / cutSector {
			v, got := (*versions)(nil), buf[i*cutSector:(i+1)*cutSector]
			if sectors != nil {
				v = sectors[i]
			}
			if v == nil {
				base := m.base(blk*(cutBlock/cutSector) + i)
				if base == 0 {
					continue
				}
				v = &versions{may: []uint64{base}}
			}
			tag := be.Uint64(got)
			pattern(one, tag)
			if !bytes.Equal(got, one) || !slices.Contains(v.may, tag) {
				return fmt.Errorf("sector %d of block %d: holds %d, may hold %v", i, blk, tag, v.may)
			}
			if adopt {
				v.may, v.trim = []uint64{tag}, false
			}
			clear(got)
		}
		if !block.IsZero(buf[:n]) {
			return fmt.Errorf("block %d holds something where nothing was written", blk)
		}
	}
	return nil
}
