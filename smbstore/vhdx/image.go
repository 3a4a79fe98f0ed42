package vhdx

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"lunless/smbstore/block"
)

// image is what the structures of a file say, checked against each other.
type image struct {
	f         block.File // as the log says it is: the overlay while a replay is due
	fileSize  int64
	creator   string
	hdr       header
	slot      int      // of the current header
	slotErrs  [2]error // why a header is not valid
	tableErrs [2]error // why a region table is not valid
	// tableDiffer: both region tables are valid, but not the same.
	tableDiffer bool
	table       *regionTable   // in use
	items       *metadataTable // what the metadata region holds
	seq         *sequence      // to be replayed; nil if none
	params      params
	locator     *parentLocator // nil without parent
	bat         region
	metadata    region
	spans       []span // header section, log and regions, by offset
}

// loadImage reads the structures of f without changing it.
func loadImage(f block.File) (*image, error) {
	size, err := f.Size()
	if err != nil {
		return nil, fmt.Errorf("size of disk image: %w", err)
	}
	if size > maxFileSize {
		return nil, unsupported(0, "file of %d bytes", size)
	}
	im := &image{f: f, fileSize: size}
	id := make([]byte, 1024)
	if n, err := f.ReadAt(id, fileIDOffset); n < len(id) || string(id[:8]) != sigFile {
		if n == len(id) || size < int64(len(id)) {
			return nil, &FormatError{fileIDOffset, "file does not begin with vhdxfile", ErrNotVHDX}
		}
		return nil, fmt.Errorf("read file identifier: %w", err)
	}
	im.creator = decodeCreator(id)
	for _, step := range []func() error{im.loadHeaders, im.loadLog, im.loadRegions, im.loadMetadata} {
		if err := step(); err != nil {
			return im, err
		}
	}
	return im, nil
}

func (im *image) loadHeaders() (err error) {
	var slots [2][]byte
	for i, off := range headerOffsets {
		slots[i] = make([]byte, headerSize)
		if err := readFull(im.f, slots[i], off); err != nil {
			return err
		}
	}
	im.hdr, im.slot, im.slotErrs, err = currentHeader(slots)
	return err
}

func (im *image) loadLog() (err error) {
	if im.seq, err = loadSequence(im.f, &im.hdr, im.fileSize); err != nil || im.seq == nil {
		return err
	}
	if im.f, err = im.seq.overlaid(im.f); err != nil {
		return err
	}
	im.fileSize, err = im.f.Size()
	return err
}

func (im *image) loadRegions() error {
	var table *regionTable
	at := regionTableOffsets[0]
	var raws [2][]byte
	for i, off := range regionTableOffsets {
		raw := make([]byte, regionTableSize)
		if err := readFull(im.f, raw, off); err != nil {
			return err
		}
		t, err := decodeRegionTable(raw, off)
		raws[i], im.tableErrs[i] = raw, err
		if err == nil && table == nil {
			table, at = t, off
		}
	}
	if table == nil {
		return im.tableErrs[0]
	}
	im.table = table
	im.tableDiffer = im.tableErrs == [2]error{} && !bytes.Equal(raws[0], raws[1])
	if err := table.checkKnown(at); err != nil {
		return err
	}
	im.bat, im.metadata = *table.find(guidBAT), *table.find(guidMetadata)
	im.spans = append(table.spans(),
		span{0, sectionEnd, "header section"}, span{int64(im.hdr.LogOffset), int64(im.hdr.LogLength), "log"})
	if err := checkOverlap(im.spans, at); err != nil {
		return err
	}
	for _, r := range []region{im.bat, im.metadata} {
		if int64(r.Offset)+int64(r.Length) > im.fileSize {
			return &FormatError{int64(r.Offset), regionName(r.GUID) + " ends past the file", ErrTruncated}
		}
	}
	return nil
}

func (im *image) loadMetadata() error {
	off := int64(im.metadata.Offset)
	raw := make([]byte, metadataTableSize)
	if err := readFull(im.f, raw, off); err != nil {
		return err
	}
	t, err := decodeMetadataTable(raw, int64(im.metadata.Length), off)
	if err != nil {
		return err
	}
	im.items = t
	im.params, err = t.decodeParams(func(p []byte, at int64) error { return readFull(im.f, p, off+at) }, off)
	if err != nil {
		return err
	}
	if im.params.HasParent {
		if im.locator, err = im.loadLocator(); err != nil {
			return err
		}
	}
	if need := im.params.batEntries() * 8; need > int64(im.bat.Length) {
		return corrupt(int64(im.bat.Offset), "BAT region of %d bytes, disk needs %d", im.bat.Length, need)
	}
	return nil
}

// locatorItem returns the place of the parent locator in the metadata table, -1
// if there is none.
func (t *metadataTable) locatorItem() int {
	return slices.IndexFunc(t.Items, func(it metadataItem) bool {
		return it.ID == guidParentLocator && it.Flags&flagIsUser == 0
	})
}

func (im *image) loadLocator() (*parentLocator, error) {
	off := int64(im.metadata.Offset)
	i := im.items.locatorItem()
	if i < 0 {
		return nil, corrupt(off, "metadata: disk has a parent, but no parent locator")
	}
	it := im.items.Items[i]
	raw := make([]byte, it.Length) // 1 MiB at most
	if err := readFull(im.f, raw, off+int64(it.Offset)); err != nil {
		return nil, err
	}
	return decodeLocator(raw, off+int64(it.Offset))
}

// checkPlace tells why n bytes cannot lie at off beside spans, nil if they can.
func checkPlace(spans []span, off, n, fileSize int64) error {
	if off < sectionEnd || off > fileSize-n {
		return errors.New("lies outside the file")
	}
	// spans are few and sorted; the last that begins before the block's end decides.
	lo, hi := 0, len(spans)
	for lo < hi {
		if mid := (lo + hi) / 2; spans[mid].off < off+n {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if s := spans[lo-1]; s.off+s.n > off { // the header section begins at 0: lo > 0
		return fmt.Errorf("overlaps the %s", s.what)
	}
	return nil
}
