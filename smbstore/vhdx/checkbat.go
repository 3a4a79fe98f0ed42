package vhdx

import (
	"fmt"
	"slices"
	"strings"
)

const (
	// maxClashes bounds the places for which both owners are looked up.
	maxClashes = 1000
	// maxOwners of one place are named.
	maxOwners = 4
	// maxLeaks is how many runs of leaked room are findings of their own.
	maxLeaks = 64
)

// batCheck is a walk through the BAT that reports what it finds.
type batCheck struct {
	im      *image
	r       *Report
	u       *usage
	clashes []int64 // file offsets that two blocks hold
	chunk   int64   // being walked
	partial int64   // blocks of the chunk that are partially present
	bitmap  bool    // the chunk has a sector bitmap block
	err     error   // of reading a sector bitmap block
}

// blocks examines the BAT and what it points to.
func (r *Report) blocks(im *image) error {
	c := batCheck{im: im, r: r, u: newUsage(im.fileSize)}
	for _, s := range im.spans {
		if s.off+s.n > roundUp(im.fileSize, mib) {
			r.add(Damage, s.off, "%s ends past the file", s.what)
			continue
		}
		c.u.mark(s.off, s.n)
	}
	err := im.walkRegion(im.f, func(i int64, e batEntry, at int64) error {
		c.visit(i, e, at)
		return c.err
	})
	if err != nil {
		return err
	}
	c.endChunk()
	if err := c.owners(); err != nil {
		return err
	}
	c.fileSize()
	c.leaks()
	return nil
}

// visit takes one entry that is not all zero, in the table's order.
func (c *batCheck) visit(i int64, e batEntry, at int64) {
	p := &c.im.params
	if ratio := p.chunkRatio(); pastEnd(i, ratio, p.blocks(), (p.blocks()+ratio-1)/ratio) {
		c.r.add(Note, at, "BAT entry %d lies past the disk's end, but is not zero: %#x", i, uint64(e))
		return
	}
	if chunk := i / (c.im.params.chunkRatio() + 1); chunk != c.chunk {
		c.endChunk()
		c.chunk = chunk
	}
	if e&reservedBits != 0 {
		c.r.add(Damage, at, "%s: reserved bits are set: %#x", c.im.owner(i), uint64(e))
	}
	if c.im.isBitmap(i) {
		c.visitBitmap(i, e, at)
		return
	}
	switch e.state() {
	case statePartial:
		c.partial++
		if !c.im.params.HasParent {
			c.r.addKind(kindEntry, Damage, at, "%s: partially present (state 7) in a disk without parent", c.im.owner(i))
		}
	case 4, 5:
		c.r.addKind(kindEntry, Damage, at, "%s: state %d, which is reserved", c.im.owner(i), e.state())
		return
	case stateNotPresent, stateZero:
		if e>>20 != 0 {
			c.r.add(Note, at, "%s: holds no room (state %d), but its entry names %#x", c.im.owner(i), e.state(), e.offset())
		}
		return
	}
	if e.reserves() {
		c.place(i, e, at, int64(c.im.params.BlockSize))
	}
}

// visitBitmap takes the entry of a sector bitmap block.
func (c *batCheck) visitBitmap(i int64, e batEntry, at int64) {
	switch {
	case e.state() == stateNotPresent && e>>20 != 0:
		c.r.add(Note, at, "%s: not present, but its entry names %#x", c.im.owner(i), e.offset())
	case e.state() == stateNotPresent:
	case e.state() != statePresent:
		c.r.addKind(kindEntry, Damage, at, "%s: state %d, which is reserved", c.im.owner(i), e.state())
	case !c.im.params.HasParent:
		c.r.addKind(kindEntry, Damage, at, "%s: present in a disk without parent", c.im.owner(i))
	default:
		c.bitmap = true
		if c.partial == 0 {
			c.r.add(Note, at, "%s: present, but no block of its chunk is partially present", c.im.owner(i))
		}
		if c.place(i, e, at, mib) {
			c.pastEnd(i, e)
		}
	}
}

// place checks where a block lies and tells whether that is in the file.
func (c *batCheck) place(i int64, e batEntry, at, n int64) bool {
	relied := e.state() == statePresent || e.state() == statePartial
	if err := checkPlace(c.im.spans, e.offset(), n, c.im.fileSize); err != nil {
		s := Damage
		if !relied {
			s = Note // its content is not relied upon
		}
		c.r.addKind(kindPlace, s, at, "%s: its place %#x %v", c.im.owner(i), e.offset(), err)
		return false
	}
	if relied && !c.im.isBitmap(i) {
		c.r.Allocated++
	}
	if twice := c.u.mark(e.offset(), n); twice >= 0 {
		if len(c.clashes) == maxClashes {
			c.r.addKind(kindOverlap, Damage, at, "%s: its place %#x is another block's as well, from %#x on", c.im.owner(i), e.offset(), twice)
			return true
		}
		c.clashes = append(c.clashes, twice)
	}
	return true
}

// pastEnd looks for bits of sectors past the disk's end, in the last sector
// bitmap block.
func (c *batCheck) pastEnd(i int64, e batEntry) {
	p := &c.im.params
	sectors := int64(p.VirtualSize) / int64(p.LogicalSectorSize)
	first := sectors - c.chunk*(mib*8) // bits of this block that stand for sectors
	if first >= mib*8 {
		return
	}
	from := e.offset() + first/8
	raw := make([]byte, e.offset()+mib-from)
	if c.err = readFull(c.im.f, raw, from); c.err != nil {
		return
	}
	raw[0] &^= 1<<(first%8) - 1
	for k, b := range raw {
		if b != 0 {
			c.r.add(Note, from+int64(k), "%s: bits are set for sectors past the disk's end, the first at disk offset %#x",
				c.im.owner(i), (c.chunk*(mib*8)+first/8*8+int64(k)*8)*int64(p.LogicalSectorSize))
			return
		}
	}
}

// endChunk checks what is known of a chunk once all its entries have been seen.
func (c *batCheck) endChunk() {
	if c.partial > 0 && !c.bitmap && c.im.params.HasParent {
		i := (c.chunk+1)*(c.im.params.chunkRatio()+1) - 1
		c.r.addKind(kindEntry, Damage, int64(c.im.bat.Offset)+i*8,
			"%s: not present, but %d blocks of its chunk are partially present", c.im.owner(i), c.partial)
	}
	c.partial, c.bitmap = 0, false
}

// owners walks the BAT again to name all that share a place.
func (c *batCheck) owners() error {
	if len(c.clashes) == 0 {
		return nil
	}
	slices.Sort(c.clashes)
	c.clashes = slices.Compact(c.clashes)
	type owner struct{ i, at int64 }
	names := make([][]owner, len(c.clashes))
	err := c.im.eachPlace(func(i int64, e batEntry, at, n int64) {
		k, _ := slices.BinarySearch(c.clashes, e.offset())
		for ; k < len(c.clashes) && c.clashes[k] < e.offset()+n; k++ {
			if len(names[k]) < maxOwners {
				names[k] = append(names[k], owner{i, at})
			}
		}
	})
	if err != nil {
		return err
	}
	for k, off := range c.clashes {
		var who []string
		for _, o := range names[k] {
			who = append(who, fmt.Sprintf("%s (entry at %#x)", c.im.owner(o.i), o.at))
		}
		if len(who) > 0 {
			c.r.addKind(kindOverlap, Damage, off, "blocks overlap: %s hold the same place", strings.Join(who, " and "))
		}
	}
	return nil
}

// fileSize checks what a fixed disk demands (MS-VHDX 2.6.2.1).
func (c *batCheck) fileSize() {
	p := &c.im.params
	if !p.LeaveAllocated || p.HasParent {
		return
	}
	missing := p.blocks() - c.r.Allocated
	if missing <= 0 {
		return
	}
	c.r.addKind(kindFixed, Note, int64(c.im.bat.Offset), "fixed disk, but %d of its %d blocks have no room", missing, p.blocks())
	need := c.u.count*mib + missing*int64(p.BlockSize)
	if c.r.tail = need; c.im.fileSize < need {
		c.r.extend = need
		c.r.add(Damage, c.im.fileSize, "file ends here, but a fixed disk's with all its blocks has %d bytes", need)
	}
}

// leaks reports what of the file nothing refers to.
func (c *batCheck) leaks() {
	size := roundUp(c.im.fileSize, mib)
	c.r.Leaked = max(0, size-c.u.count*mib)
	if c.r.Leaked == 0 {
		return
	}
	end := c.u.end()
	c.r.tail = max(c.r.tail, end)
	named := int64(0)
	for _, r := range c.u.runs(end, maxLeaks) {
		c.r.addKind(kindLeak, Note, r.off, "%d bytes within the file are not in use", r.n)
		named += r.n
	}
	if size > end {
		c.r.add(Note, end, "%d bytes at the file's end are not in use", size-end)
		named += size - end
	}
	if named < c.r.Leaked {
		c.r.add(Note, 0, "%d more bytes within the file are not in use", c.r.Leaked-named)
	}
}

// reservedBits of a BAT entry are zero (MS-VHDX 2.5.1).
const reservedBits = 0xffff8

// isBitmap tells whether the BAT's entry i is of a sector bitmap block.
func (im *image) isBitmap(i int64) bool {
	ratio := im.params.chunkRatio()
	return i%(ratio+1) == ratio
}

// owner names what the BAT's entry i is of.
func (im *image) owner(i int64) string {
	ratio := im.params.chunkRatio()
	if im.isBitmap(i) {
		return fmt.Sprintf("sector bitmap block %d", i/(ratio+1))
	}
	blk := i - i/(ratio+1)
	return fmt.Sprintf("payload block %d (disk offset %#x)", blk, blk*int64(im.params.BlockSize))
}

// eachPlace visits the entries, within the disk, of blocks that hold room.
func (im *image) eachPlace(visit func(i int64, e batEntry, at, n int64)) error {
	return im.walkBAT(im.f, func(i int64, e batEntry, at int64) error {
		n := int64(im.params.BlockSize)
		switch {
		case im.isBitmap(i) && (e.state() != statePresent || !im.params.HasParent):
			return nil
		case im.isBitmap(i):
			n = mib
		case !e.reserves():
			return nil
		}
		if checkPlace(im.spans, e.offset(), n, im.fileSize) == nil {
			visit(i, e, at, n)
		}
		return nil
	})
}
