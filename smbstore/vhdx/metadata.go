package vhdx

import (
	"fmt"
	"math/bits"
)

const (
	sigMetadata       = "metadata"
	metadataTableSize = 64 << 10
	metadataEntrySize = 32
	maxMetadataItems  = 2047 // MS-VHDX 2.6.1.1
	maxUserItems      = 1024 // MS-VHDX 2.6.1.2
	maxItemLength     = 1 * mib

	flagIsUser        = 1 << 0
	flagIsVirtualDisk = 1 << 1
	flagIsRequired    = 1 << 2

	minBlockSize   = 1 * mib
	maxBlockSize   = 256 * mib
	maxVirtualSize = 64 << 40
)

// metadataItem is an entry of the metadata table (MS-VHDX 2.6.1.2).
type metadataItem struct {
	ID             GUID
	Offset, Length uint32 // within the metadata region
	Flags          uint32
}

// metadataTable is MS-VHDX 2.6.1.
type metadataTable struct {
	Items []metadataItem
}

func (t *metadataTable) encode(dst []byte) {
	dst = dst[:metadataTableSize]
	clear(dst)
	copy(dst, sigMetadata)
	le.PutUint16(dst[10:], uint16(len(t.Items)))
	for i, it := range t.Items {
		e := dst[(i+1)*metadataEntrySize:]
		copy(e, it.ID[:])
		le.PutUint32(e[16:], it.Offset)
		le.PutUint32(e[20:], it.Length)
		le.PutUint32(e[24:], it.Flags)
	}
}

// decodeMetadataTable checks every entry against a region of regionLength bytes
// that begins at off.
func decodeMetadataTable(b []byte, regionLength, off int64) (*metadataTable, error) {
	if len(b) < metadataTableSize || string(b[:8]) != sigMetadata {
		return nil, corrupt(off, "metadata table: no signature")
	}
	count := le.Uint16(b[10:])
	if count > maxMetadataItems {
		return nil, corrupt(off, "metadata table: %d entries", count)
	}
	type key struct {
		id   GUID
		user bool
	}
	t, seen, users := &metadataTable{}, make(map[key]bool, count), 0
	var spans []span
	for i := range int64(count) {
		at := (i + 1) * metadataEntrySize
		e := b[at : at+metadataEntrySize]
		it := metadataItem{Offset: le.Uint32(e[16:]), Length: le.Uint32(e[20:]), Flags: le.Uint32(e[24:]) & 7}
		copy(it.ID[:], e)
		k := key{it.ID, it.Flags&flagIsUser != 0}
		if k.user {
			users++
		}
		switch {
		case seen[k] || users > maxUserItems:
			return nil, corrupt(off+at, "metadata table: item %v twice, or too many user items", it.ID)
		case it.Length == 0 && it.Offset != 0, it.Length > maxItemLength:
			return nil, corrupt(off+at, "metadata table: item %v of length %d at %d", it.ID, it.Length, it.Offset)
		case it.Length > 0 && (it.Offset < metadataTableSize || int64(it.Offset)+int64(it.Length) > regionLength):
			return nil, corrupt(off+at, "metadata table: item %v lies outside the region", it.ID)
		}
		seen[k] = true
		t.Items = append(t.Items, it)
		if it.Length > 0 {
			spans = append(spans, span{off + int64(it.Offset), int64(it.Length), "metadata item " + it.ID.String()})
		}
	}
	return t, checkOverlap(spans, off)
}

// system returns the item of a GUID that is no user's, or nil.
func (t *metadataTable) system(id GUID) *metadataItem {
	for i := range t.Items {
		if it := &t.Items[i]; it.ID == id && it.Flags&flagIsUser == 0 {
			return it
		}
	}
	return nil
}

// params are the known metadata items (MS-VHDX 2.6.2).
type params struct {
	BlockSize          uint32
	LeaveAllocated     bool // fixed
	HasParent          bool
	VirtualSize        uint64
	ID                 GUID
	LogicalSectorSize  uint32
	PhysicalSectorSize uint32
}

// knownItems gives the length of each item; the parent locator's varies.
var knownItems = map[GUID]uint32{
	guidFileParameters: 8, guidVirtualDiskSize: 8, guidVirtualDiskID: 16,
	guidLogicalSectorSize: 4, guidPhysicalSectorSize: 4, guidParentLocator: 0,
}

// encodeMetadata returns table and items, to be written at the region's start:
// with a parent locator if there is one, and with items as they are given.
func (p *params) encodeMetadata(locator []byte, more []itemContent) ([]byte, error) {
	total := metadataTableSize + 4096 + len(locator)
	for _, it := range more {
		total += len(it.data)
	}
	if total > metaSize {
		return nil, fmt.Errorf("metadata of %d bytes: %w", total, ErrBadOptions)
	}
	b := make([]byte, total)
	t := &metadataTable{}
	at := uint32(metadataTableSize)
	addItem := func(id GUID, flags, n uint32) []byte {
		it := metadataItem{id, at, n, flags}
		if n == 0 {
			it.Offset = 0
		}
		t.Items = append(t.Items, it)
		at += n
		return b[at-n : at]
	}
	add := func(id GUID, flags uint32) []byte { return addItem(id, flags|flagIsRequired, knownItems[id]) }
	fp := add(guidFileParameters, 0)
	le.PutUint32(fp, p.BlockSize)
	if p.LeaveAllocated {
		fp[4] |= 1
	}
	if p.HasParent {
		fp[4] |= 2
	}
	le.PutUint64(add(guidVirtualDiskSize, flagIsVirtualDisk), p.VirtualSize)
	copy(add(guidVirtualDiskID, flagIsVirtualDisk), p.ID[:])
	le.PutUint32(add(guidLogicalSectorSize, flagIsVirtualDisk), p.LogicalSectorSize)
	le.PutUint32(add(guidPhysicalSectorSize, flagIsVirtualDisk), p.PhysicalSectorSize)
	if locator != nil {
		copy(addItem(guidParentLocator, flagIsRequired, uint32(len(locator))), locator)
	}
	for _, it := range more {
		copy(addItem(it.ID, it.Flags, uint32(len(it.data))), it.data)
	}
	t.encode(b)
	return b, nil
}

// itemContent is a metadata item to be written.
type itemContent struct {
	ID    GUID
	Flags uint32
	data  []byte
}

// decodeParams reads the known items through read, whose offsets are relative to
// the region, which begins at off in the file.
func (t *metadataTable) decodeParams(read func(p []byte, off int64) error, off int64) (params, error) {
	var p params
	found := map[GUID]bool{}
	for _, it := range t.Items {
		want, known := knownItems[it.ID]
		if it.Flags&flagIsUser != 0 || !known {
			if it.Flags&flagIsRequired != 0 {
				return p, unsupported(off+int64(it.Offset), "metadata: required item %v is not known", it.ID)
			}
			continue
		}
		found[it.ID] = true
		if it.ID == guidParentLocator {
			continue // HasParent decides
		}
		if it.Length != want {
			return p, corrupt(off+int64(it.Offset), "metadata: item %v is %d bytes long", it.ID, it.Length)
		}
		var b [16]byte
		if err := read(b[:want], int64(it.Offset)); err != nil {
			return p, err
		}
		p.set(it.ID, b[:])
	}
	for id := range knownItems {
		if !found[id] && id != guidParentLocator {
			return p, corrupt(off, "metadata: no item %v", id)
		}
	}
	return p, p.check(off)
}

func (p *params) set(id GUID, b []byte) {
	switch id {
	case guidFileParameters:
		p.BlockSize = le.Uint32(b)
		p.LeaveAllocated = b[4]&1 != 0
		p.HasParent = b[4]&2 != 0
	case guidVirtualDiskSize:
		p.VirtualSize = le.Uint64(b)
	case guidVirtualDiskID:
		copy(p.ID[:], b)
	case guidLogicalSectorSize:
		p.LogicalSectorSize = le.Uint32(b)
	case guidPhysicalSectorSize:
		p.PhysicalSectorSize = le.Uint32(b)
	}
}

// check holds the items against MS-VHDX 2.6.2; off is the region's place.
func (p *params) check(off int64) error {
	switch {
	case p.BlockSize < minBlockSize || p.BlockSize > maxBlockSize || bits.OnesCount32(p.BlockSize) != 1:
		return corrupt(off, "metadata: block size %d", p.BlockSize)
	case p.LogicalSectorSize != 512 && p.LogicalSectorSize != 4096:
		return corrupt(off, "metadata: logical sector size %d", p.LogicalSectorSize)
	case p.PhysicalSectorSize != 512 && p.PhysicalSectorSize != 4096:
		return corrupt(off, "metadata: physical sector size %d", p.PhysicalSectorSize)
	case p.VirtualSize == 0 || p.VirtualSize > maxVirtualSize || p.VirtualSize%uint64(p.LogicalSectorSize) != 0:
		return corrupt(off, "metadata: virtual disk size %d", p.VirtualSize)
	}
	return nil
}

// blocks is the number of payload blocks.
func (p *params) blocks() int64 {
	return int64((p.VirtualSize + uint64(p.BlockSize) - 1) / uint64(p.BlockSize))
}

// chunkRatio is the number of payload blocks a sector bitmap block stands for (MS-VHDX 2.4).
func (p *params) chunkRatio() int64 {
	return (1 << 23) * int64(p.LogicalSectorSize) / int64(p.BlockSize)
}

// fixed tells whether blocks keep their room; a parent overrules it (MS-VHDX 2.6.2.1).
func (p *params) fixed() bool { return p.LeaveAllocated && !p.HasParent }

// batEntries is the number of BAT entries (MS-VHDX 2.5): up to the last payload
// block's, or with a parent up to that of the last sector bitmap block.
func (p *params) batEntries() int64 {
	n, ratio := p.blocks(), p.chunkRatio()
	if p.HasParent {
		return (n + ratio - 1) / ratio * (ratio + 1)
	}
	return n + (n-1)/ratio
}
