package vhd

import (
	"errors"

	"lunless/smbstore/block"
)

// Check examines the disk in f without changing it. A footer that is missing or
// old at one end, as a loss of power may leave it, is a note: opening for writing
// mends it. The error is of reading f; what is wrong with the disk is in the
// Report. Memory: 12 bytes for each block of the disk.
func Check(f block.File) (Report, error) {
	var r Report
	im, err := loadImage(f)
	var fe *FormatError
	switch {
	case errors.As(err, &fe):
		r.add(Damage, fe.Offset, "%s: %v", fe.What, fe.Err)
		return r, nil
	case err != nil:
		return r, err
	}
	r.Info = im.info(im.fileSize)
	r.footers(im)
	if im.size < int64(im.ft.CurrentSize) {
		r.add(Note, im.tailOff, "the disk ends where its geometry does, as Virtual PC has it: %d bytes before the current size", int64(im.ft.CurrentSize)-im.size)
	}
	if im.ft.Type == typeFixed {
		if r.Leaked = im.tailOff - int64(im.ft.CurrentSize); r.Leaked > 0 {
			r.add(Note, int64(im.ft.CurrentSize), "%d bytes between the disk and its footer", r.Leaked)
		}
		return r, nil
	}
	r.structures(im)
	return r, r.blocks(im)
}

// footers reports what Open works around.
func (r *Report) footers(im *image) {
	tail := im.fileSize - footerSize
	switch {
	case im.tailErr != nil:
		r.add(Note, tail, "footer at the end is not valid (its copy is used): %v", im.tailErr)
	case im.short:
		r.add(Note, im.tailOff, "footer at the end lacks its last byte, as in images of old")
	}
	if im.headErr != nil {
		r.add(Note, 0, "copy of the footer is not valid (the one at the end is used): %v", im.headErr)
	}
	if im.differ {
		r.add(Note, 0, "the footer and its copy differ (the one at the end is used)")
	}
}

// structures examines header and parent.
func (r *Report) structures(im *image) {
	spans := im.spans()
	_ = eachClash(spans, func(s, e span) error {
		r.add(Damage, s.off, "%s overlaps the %s", s.what, e.what)
		return nil
	})
	for _, s := range spans {
		if s.end > im.blocksEnd() {
			r.add(Damage, s.off, "%s overlaps the footer", s.what)
		}
	}
	if im.tableOff%SectorSize != 0 {
		r.add(Note, im.tableOff, "block allocation table begins inside a sector: the disk is only read")
	}
	for _, err := range im.parentBad {
		var fe *FormatError
		if errors.As(err, &fe) {
			r.add(Damage, fe.Offset, "%s", fe.What)
		} else {
			r.add(Damage, int64(im.ft.DataOffset), "%v", err)
		}
	}
	if im.parent != nil && im.parent.ID == im.ft.ID {
		r.add(Damage, int64(im.ft.DataOffset)+parentIDAt, "the disk names itself as its parent")
	}
}

// blocks examines table and bitmaps.
func (r *Report) blocks(im *image) error {
	bad := make(fullMaps, (len(im.table)+63)/64) // blocks whose bitmaps say nothing
	u, err := im.eachMisplaced(func(blk, at int64, why string) error {
		if r.Full() { // of a table full of nonsense
			r.More++
		} else {
			r.add(Damage, im.entryOffset(blk), "table entry of block %d: its place %#x %s", blk, at, why)
		}
		bad.set(blk)
		return nil
	})
	if err != nil {
		return err
	}
	r.Allocated, r.Leaked = u.blocks, u.leaked
	empty := int64(0)
	for i := range im.table {
		blk, e := int64(i), im.table[i].Load()
		if e == unused || bad.get(blk) {
			continue
		}
		m, err := im.readMap(blk, int64(e)*SectorSize)
		if err != nil {
			return err
		}
		if m.unset > 0 {
			r.partial++
		}
		if m.unset == im.sectors(blk) {
			empty++
		}
	}
	if r.partial > 0 && !im.differencing() {
		r.add(Note, im.tableOff, "%d blocks have sectors that were never written", r.partial)
	}
	if empty > 0 {
		r.add(Note, im.tableOff, "%d blocks have room but not one sector", empty)
	}
	if r.Leaked >= im.mapSize+im.blockSize {
		r.add(Note, 0, "%d bytes of the file are not in use", r.Leaked)
	}
	return nil
}
