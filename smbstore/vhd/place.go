package vhd

import (
	"fmt"
	"slices"
)

// span is room that something other than a block takes.
type span struct {
	off, end int64
	what     string
}

// spans are what the file has besides blocks and the footer at its end, by
// offset. Parent locators outside the file are left out.
func (im *image) spans() []span {
	all := []span{
		{0, footerSize, "copy of the footer"},
		{int64(im.ft.DataOffset), int64(im.ft.DataOffset) + headerSize, "dynamic header"},
		{im.tableOff, im.tableOff + int64(len(im.table))*4, "block allocation table"},
	}
	if im.differencing() {
		for _, l := range locators(im.rawHeader[:]) {
			if n := im.room(&l); n > 0 && l.Offset <= uint64(im.fileSize-n) {
				all = append(all, span{int64(l.Offset), int64(l.Offset) + n, "parent locator " + l.Code})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b span) int { return int(max(-1, min(1, a.off-b.off))) })
	return all
}

// room is how many bytes of the file are a locator's for sure. Others' claims are
// not relied upon: some count them in bytes, some in sectors.
func (im *image) room(l *locator) int64 {
	n := int64(l.Length)
	if string(im.ft.Creator[:]) == creator {
		n = max(n, int64(l.Space)*SectorSize)
	}
	n = roundUp(n, SectorSize)
	if n > im.fileSize {
		return 0
	}
	return n
}

// eachClash calls visit for the spans that overlap an earlier one.
func eachClash(spans []span, visit func(s, earlier span) error) error {
	for i, s := range spans {
		for _, e := range spans[:i] {
			if e.end > s.off {
				if err := visit(s, e); err != nil {
					return err
				}
				break
			}
		}
	}
	return nil
}

// blocksEnd is where blocks have to end: at the footer, or if there is none at
// the file's end.
func (im *image) blocksEnd() int64 {
	if im.tailErr == nil {
		return im.tailOff
	}
	return im.fileSize
}

// usage is how much of a file is in use.
type usage struct {
	end    int64 // of all but the footer there
	blocks int64 // that have room
	leaked int64 // bytes between and behind, alignment left out
}

// eachMisplaced calls visit for every block that cannot lie where the table says.
func (im *image) eachMisplaced(visit func(blk, at int64, why string) error) (u usage, err error) {
	spans, limit, stride := im.spans(), im.blocksEnd(), im.mapSize+im.blockSize
	overlaps := make([]string, len(spans))
	for i, s := range spans {
		overlaps[i] = "overlaps the " + s.what
	}
	for i := range im.table {
		if im.table[i].Load() != unused {
			u.blocks++
		}
	}
	inside := make([]uint64, 0, u.blocks) // sector<<32 | block
	for i := range im.table {
		e := im.table[i].Load()
		if e == unused {
			continue
		}
		at := int64(e) * SectorSize
		why := ""
		if at > limit-stride {
			why = "lies outside the file"
		}
		for i, s := range spans {
			if at < s.end && at+stride > s.off {
				why = overlaps[i]
			}
		}
		if why == "" {
			inside = append(inside, uint64(e)<<32|uint64(i))
			continue
		}
		if err := visit(int64(i), at, why); err != nil {
			return u, err
		}
	}
	slices.Sort(inside)
	for i, v := range inside {
		at := int64(v>>32) * SectorSize
		if i > 0 && int64(inside[i-1]>>32)*SectorSize > at-stride {
			if err := visit(int64(v&(1<<32-1)), at, fmt.Sprintf("shares room with block %d", inside[i-1]&(1<<32-1))); err != nil {
				return u, err
			}
		}
		for len(spans) > 0 && spans[0].off < at {
			u.take(spans[0].off, roundUp(spans[0].end, SectorSize))
			spans = spans[1:]
		}
		u.take(at, at+stride)
	}
	for _, s := range spans {
		u.take(s.off, roundUp(s.end, SectorSize))
	}
	if gap := limit - u.end; gap >= 2*dataAlign {
		u.leaked += gap
	}
	return u, nil
}

// take counts a range in use; they come by offset.
func (u *usage) take(off, end int64) {
	if gap := off - u.end; gap >= 2*dataAlign {
		u.leaked += gap
	}
	u.end = max(u.end, end)
}

// entryOffset is where a block's table entry lies in the file.
func (im *image) entryOffset(blk int64) int64 { return im.tableOff + blk*4 }

// place refuses to write to a disk with overlapping structures or misplaced
// blocks, and returns where what is in use ends.
func (im *image) place() (end int64, err error) {
	spans := im.spans()
	err = eachClash(spans, func(s, e span) error { return corrupt(s.off, "%s overlaps the %s", s.what, e.what) })
	if err != nil {
		return 0, err
	}
	for _, s := range spans {
		if s.end > im.blocksEnd() {
			return 0, corrupt(s.off, "%s overlaps the footer", s.what)
		}
	}
	u, err := im.eachMisplaced(func(blk, at int64, why string) error {
		return corrupt(im.entryOffset(blk), "table entry of block %d: its place %#x %s", blk, at, why)
	})
	return u.end, err
}

// mend makes both footers valid and equal. The one at the end counts. With that
// one missing, what follows end are blocks that never came into use: they go.
func (im *image) mend(end int64) error {
	if im.headErr == nil && im.tailErr == nil && !im.differ && !im.short {
		return nil
	}
	if im.headErr != nil || im.differ {
		if err := im.writeFooter(0); err != nil {
			return err
		}
	}
	if im.tailErr != nil {
		if err := im.f.Truncate(end); err != nil {
			return err
		}
		im.tailOff = end
	}
	if im.tailErr != nil || im.short {
		if err := im.writeFooter(im.tailOff); err != nil {
			return err
		}
		im.fileSize = im.tailOff + footerSize
	}
	if err := im.f.Sync(); err != nil {
		return err
	}
	im.headErr, im.tailErr, im.differ, im.short = nil, nil, false, false
	return nil
}

func (im *image) writeFooter(off int64) error {
	if _, err := im.f.WriteAt(im.raw[:], off); err != nil {
		return fmt.Errorf("write footer at file offset %#x: %w", off, err)
	}
	return nil
}
