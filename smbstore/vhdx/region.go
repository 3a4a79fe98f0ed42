package vhdx

import (
	"slices"
)

const (
	sigRegion        = "regi"
	maxRegions       = 2047 // MS-VHDX 2.2.3.1
	regionHeaderSize = 16
	regionEntrySize  = 32
	// maxFileSize bounds every offset in a file: the payload of the largest disk
	// and twice the largest BAT, with room to spare.
	maxFileSize = 1 << 47
)

// region is MS-VHDX 2.2.3.2.
type region struct {
	GUID     GUID
	Offset   uint64
	Length   uint32
	Required bool
}

// span is a part of the file that belongs to something.
type span struct {
	off, n int64
	what   string
}

// regionTable is MS-VHDX 2.2.3, regions in the order of the file.
type regionTable struct {
	Regions []region
}

func (t *regionTable) encode(dst []byte) {
	dst = dst[:regionTableSize]
	clear(dst)
	copy(dst, sigRegion)
	le.PutUint32(dst[8:], uint32(len(t.Regions)))
	for i, r := range t.Regions {
		e := dst[regionHeaderSize+i*regionEntrySize:]
		copy(e, r.GUID[:])
		le.PutUint64(e[16:], r.Offset)
		le.PutUint32(e[24:], r.Length)
		if r.Required {
			le.PutUint32(e[28:], 1)
		}
	}
	le.PutUint32(dst[4:], checksum(dst))
}

// decodeRegionTable checks everything but overlap with what lies outside the table.
func decodeRegionTable(b []byte, off int64) (*regionTable, error) {
	if len(b) < regionTableSize || string(b[:4]) != sigRegion {
		return nil, corrupt(off, "region table: no signature")
	}
	b = b[:regionTableSize]
	if le.Uint32(b[4:]) != checksum(b) {
		return nil, corrupt(off, "region table: wrong checksum")
	}
	count := le.Uint32(b[8:])
	if count > maxRegions {
		return nil, corrupt(off, "region table: %d entries", count)
	}
	t := &regionTable{}
	seen := make(map[GUID]bool, count)
	for i := range int64(count) {
		at := regionHeaderSize + i*regionEntrySize
		e := b[at : at+regionEntrySize]
		r := region{Offset: le.Uint64(e[16:]), Length: le.Uint32(e[24:]), Required: le.Uint32(e[28:])&1 != 0}
		copy(r.GUID[:], e)
		switch {
		case seen[r.GUID]:
			return nil, corrupt(off+at, "region table: region %v twice", r.GUID)
		case r.Offset < sectionEnd || r.Offset%mib != 0 || r.Offset > maxFileSize:
			return nil, corrupt(off+at, "region table: region %v at offset %d", r.GUID, r.Offset)
		case r.Length == 0 || r.Length%mib != 0:
			return nil, corrupt(off+at, "region table: region %v is %d bytes long", r.GUID, r.Length)
		}
		seen[r.GUID] = true
		t.Regions = append(t.Regions, r)
	}
	return t, checkOverlap(t.spans(), off)
}

func (t *regionTable) spans() []span {
	var s []span
	for _, r := range t.Regions {
		s = append(s, span{int64(r.Offset), int64(r.Length), regionName(r.GUID)})
	}
	return s
}

// find returns the region of a GUID, or nil.
func (t *regionTable) find(g GUID) *region {
	for i := range t.Regions {
		if t.Regions[i].GUID == g {
			return &t.Regions[i]
		}
	}
	return nil
}

// checkKnown refuses a table with a required region that is not known, or
// without one that is (MS-VHDX 2.2.3).
func (t *regionTable) checkKnown(off int64) error {
	for _, r := range t.Regions {
		if r.Required && r.GUID != guidBAT && r.GUID != guidMetadata {
			return unsupported(off, "region table: required region %v is not known", r.GUID)
		}
	}
	for _, g := range []GUID{guidBAT, guidMetadata} {
		if t.find(g) == nil {
			return corrupt(off, "region table: no %s", regionName(g))
		}
	}
	return nil
}

// checkOverlap sorts spans by offset and refuses two that overlap. off is the
// place of the structure that holds them.
func checkOverlap(s []span, off int64) error {
	slices.SortFunc(s, func(a, b span) int { return cmpInt(a.off, b.off) })
	for i := 1; i < len(s); i++ {
		if s[i-1].off+s[i-1].n > s[i].off {
			return corrupt(off, "%s at %#x overlaps %s at %#x", s[i-1].what, s[i-1].off, s[i].what, s[i].off)
		}
	}
	return nil
}

func cmpInt(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func regionName(g GUID) string {
	switch g {
	case guidBAT:
		return "BAT region"
	case guidMetadata:
		return "metadata region"
	}
	return "region " + g.String()
}
