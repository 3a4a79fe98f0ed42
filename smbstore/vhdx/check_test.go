package vhdx

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"unicode/utf16"

	"lunless/smbstore/block"
)

// fixedSmall returns the image of a fixed disk of four blocks, closed.
func fixedSmall(t testing.TB) *block.MemFile {
	t.Helper()
	f := block.NewMemFile(0)
	d, err := Create(noClose{f}, CreateOptions{Size: 4 * mib, BlockSize: mib, Fixed: true})
	must(t, err)
	must(t, d.Close())
	return f
}

// putEntry changes the BAT of an image of ours.
func putEntry(t testing.TB, f *block.MemFile, i int64, e batEntry) {
	t.Helper()
	put(t, f, batStart+i*8, le.AppendUint64(nil, uint64(e)))
}

// places are where things lie in the image that small makes: payload blocks 0, 2
// and 4 at 4, 5 and 6 MiB, where it ends.
const smallEnd = 7 * mib

// finding is what a report should hold: a severity, a place, and part of the
// text. Place -1 is any in the metadata region.
type finding struct {
	sev  Severity
	off  int64
	what string
}

func (w finding) in(all []Finding) bool {
	for _, f := range all {
		if f.Severity == w.sev && (f.Offset == w.off || w.off < 0 && f.Offset > metaStart) && strings.Contains(f.What, w.what) {
			return true
		}
	}
	return false
}

func list(all []Finding) string {
	var b strings.Builder
	for _, f := range all {
		fmt.Fprintf(&b, "\n  %v %#x %s", f.Severity, f.Offset, f.What)
	}
	return b.String()
}

// damage is one of the crafted.
type damage struct {
	name   string
	make   func(t testing.TB) *block.MemFile // default: small, closed
	spoil  func(t testing.TB, f *block.MemFile)
	want   []finding
	mended []finding
	left   []finding
	after  []finding // that a repaired disk still has
}

// image returns what is to be spoiled.
func (c *damage) image(t testing.TB) *block.MemFile {
	if c.make == nil {
		return small(t, true)
	}
	return c.make(t)
}

// damages are crafted, with what Check must say of them: all of it, and in
// mended what Repair must do. One that Repair must leave alone has left.
var damages = []damage{
	{
		name:  "nothing",
		spoil: func(t testing.TB, f *block.MemFile) {},
	},
	{
		name:   "header 1",
		spoil:  func(t testing.TB, f *block.MemFile) { put(t, f, headerOffsets[0]+100, []byte{1}) },
		want:   []finding{{Note, headerOffsets[0], "header 1 is not valid (header 2 is used): header: wrong checksum"}},
		mended: []finding{{Note, headerOffsets[0], "header 1"}},
	},
	{
		name:   "header 2",
		spoil:  func(t testing.TB, f *block.MemFile) { put(t, f, headerOffsets[1], []byte("dead")) },
		want:   []finding{{Note, headerOffsets[1], "header 2 is not valid (header 1 is used): header: no signature"}},
		mended: []finding{{Note, headerOffsets[1], "header 2"}},
	},
	{
		name: "both headers",
		spoil: func(t testing.TB, f *block.MemFile) {
			put(t, f, headerOffsets[0]+100, []byte{1})
			put(t, f, headerOffsets[1]+100, []byte{1})
		},
		want: []finding{{Damage, headerOffsets[0], "header 1 is not valid: header: wrong checksum"},
			{Damage, headerOffsets[1], "header 2 is not valid: header: wrong checksum"}},
		left: []finding{{Damage, headerOffsets[0], "restore"}},
	},
	{
		name:   "region table 1",
		spoil:  func(t testing.TB, f *block.MemFile) { put(t, f, regionTableOffsets[0]+100, []byte{1}) },
		want:   []finding{{Damage, regionTableOffsets[0], "region table 1 is not valid: region table: wrong checksum"}},
		mended: []finding{{Damage, regionTableOffsets[0], "region table 1"}},
	},
	{
		name:   "region table 2",
		spoil:  func(t testing.TB, f *block.MemFile) { put(t, f, regionTableOffsets[1], make([]byte, 9000)) },
		want:   []finding{{Damage, regionTableOffsets[1], "region table 2 is not valid: region table: no signature"}},
		mended: []finding{{Damage, regionTableOffsets[1], "region table 2"}},
	},
	{
		name: "both region tables",
		spoil: func(t testing.TB, f *block.MemFile) {
			put(t, f, regionTableOffsets[0]+100, []byte{1})
			put(t, f, regionTableOffsets[1]+100, []byte{1})
		},
		want: []finding{{Damage, regionTableOffsets[0], "region table 1 is not valid"},
			{Damage, regionTableOffsets[1], "region table 2 is not valid"}},
		left: []finding{{Damage, regionTableOffsets[0], "restore"}},
	},
	{
		name: "region tables that differ",
		spoil: func(t testing.TB, f *block.MemFile) {
			b := readAll(t, f, regionTableOffsets[1], regionTableSize)
			addRegion(b, region{guidParentLocator, 64 * mib, mib, false})
			le.PutUint32(b[4:], checksum(b))
			put(t, f, regionTableOffsets[1], b)
		},
		want: []finding{{Damage, regionTableOffsets[1], "differs from region table 1"}},
		left: []finding{{Damage, regionTableOffsets[1], "which of them is right"}},
	},
	{
		name: "log in use without entries",
		spoil: func(t testing.TB, f *block.MemFile) {
			fixHeader(t, f, func(h *header) { h.LogGUID = newGUID() })
		},
		want:   []finding{{Damage, logStart, "without a valid sequence"}},
		mended: []finding{{Damage, logStart, "taken out of use"}},
	},
	{
		name: "log in use with one entry, torn",
		spoil: func(t testing.TB, f *block.MemFile) {
			fixHeader(t, f, func(h *header) { h.LogGUID = GUID{1}; h.FileWriteGUID = GUID{2} })
			e := logEntry{Sequence: 1, LogGUID: GUID{1}}
			b := make([]byte, e.size())
			e.encode(b)
			b[100]++
			put(t, f, logStart+8*logSector, b)
		},
		want: []finding{{Damage, logStart, "without a valid sequence"}},
		left: []finding{{Damage, logStart, "restore"}},
	},
	{
		name: "overlapping blocks",
		spoil: func(t testing.TB, f *block.MemFile) {
			putEntry(t, f, 1, makeEntry(statePresent, 5*mib))
			putEntry(t, f, 7, makeEntry(statePresent, 5*mib))
		},
		want: []finding{{Damage, 5 * mib, fmt.Sprintf(
			"blocks overlap: payload block 1 (disk offset 0x100000) (entry at %#x) and payload block 2 (disk offset 0x200000) (entry at %#x)"+
				" and payload block 7 (disk offset 0x700000) (entry at %#x) hold the same place", batStart+8, batStart+16, batStart+56)}},
		left: []finding{{Damage, 5 * mib, "convert"}},
	},
	{
		name:   "unmapped block over another",
		spoil:  func(t testing.TB, f *block.MemFile) { putEntry(t, f, 1, makeEntry(stateUnmapped, 5*mib)) },
		want:   []finding{{Damage, 5 * mib, fmt.Sprintf("payload block 1 (disk offset 0x100000) (entry at %#x) and payload block 2", batStart+8)}},
		mended: []finding{{Damage, batStart + 8, "payload block 1"}},
	},
	{
		name:  "block past the file",
		spoil: func(t testing.TB, f *block.MemFile) { putEntry(t, f, 5, makeEntry(statePresent, 1<<40)) },
		want:  []finding{{Damage, batStart + 40, "payload block 5 (disk offset 0x500000): its place 0x10000000000 lies outside the file"}},
		left:  []finding{{Damage, batStart + 40, "convert"}},
	},
	{
		name:  "block in the header section",
		spoil: func(t testing.TB, f *block.MemFile) { putEntry(t, f, 5, makeEntry(statePresent, 0)) },
		want:  []finding{{Damage, batStart + 40, "its place 0x0 lies outside the file"}},
		left:  []finding{{Damage, batStart + 40, "convert"}},
	},
	{
		name:  "block over the log",
		spoil: func(t testing.TB, f *block.MemFile) { putEntry(t, f, 5, makeEntry(statePresent, logStart)) },
		want:  []finding{{Damage, batStart + 40, "its place 0x100000 overlaps the log"}},
		left:  []finding{{Damage, batStart + 40, "convert"}},
	},
	{
		name:  "block over the metadata region",
		spoil: func(t testing.TB, f *block.MemFile) { putEntry(t, f, 5, makeEntry(statePresent, metaStart)) },
		want:  []finding{{Damage, batStart + 40, "its place 0x200000 overlaps the metadata region"}},
		left:  []finding{{Damage, batStart + 40, "convert"}},
	},
	{
		name:   "unmapped block past the file",
		spoil:  func(t testing.TB, f *block.MemFile) { putEntry(t, f, 5, makeEntry(stateUnmapped, 1<<40)) },
		want:   []finding{{Note, batStart + 40, "its place 0x10000000000 lies outside the file"}},
		mended: []finding{{Note, batStart + 40, "payload block 5"}},
	},
	{
		name: "blocks without room that name some",
		spoil: func(t testing.TB, f *block.MemFile) {
			putEntry(t, f, 1, makeEntry(stateNotPresent, 5*mib))
			putEntry(t, f, 3, makeEntry(stateZero, 99*mib))
		},
		want: []finding{{Note, batStart + 8, "payload block 1 (disk offset 0x100000): holds no room (state 0), but its entry names 0x500000"},
			{Note, batStart + 24, "payload block 3 (disk offset 0x300000): holds no room (state 2), but its entry names 0x6300000"}},
		mended: []finding{{Note, batStart + 8, "payload block 1"}, {Note, batStart + 24, "payload block 3"}},
	},
	{
		name:  "reserved state",
		spoil: func(t testing.TB, f *block.MemFile) { putEntry(t, f, 1, makeEntry(4, 0)) },
		want:  []finding{{Damage, batStart + 8, "state 4, which is reserved"}},
		left:  []finding{{Damage, batStart + 8, "payload block 1"}},
	},
	{
		name: "partially present without parent",
		spoil: func(t testing.TB, f *block.MemFile) {
			putEntry(t, f, 2, makeEntry(statePartial, 5*mib))
		},
		want: []finding{{Damage, batStart + 16, "payload block 2 (disk offset 0x200000): partially present (state 7) in a disk without parent"}},
		left: []finding{{Damage, batStart + 16, "payload block 2"}},
	},
	{
		name: "reserved bits",
		spoil: func(t testing.TB, f *block.MemFile) {
			putEntry(t, f, 2, makeEntry(statePresent, 5*mib)|0x8000)
		},
		want:   []finding{{Damage, batStart + 16, "payload block 2 (disk offset 0x200000): reserved bits are set: 0x508006"}},
		mended: []finding{{Damage, batStart + 16, "payload block 2"}},
	},
	{
		name: "sector bitmap block without parent",
		make: func(t testing.TB) *block.MemFile { return chunky(t) },
		spoil: func(t testing.TB, f *block.MemFile) {
			putEntry(t, f, 4096, makeEntry(statePresent, 5*mib))
		},
		want: []finding{{Damage, batStart + 4096*8, "sector bitmap block 0: present in a disk without parent"},
			{Note, 5 * mib, "1048576 bytes at the file's end are not in use"}},
		left: []finding{{Damage, batStart + 4096*8, "sector bitmap block 0"}},
	},
	{
		name: "entries past the end",
		spoil: func(t testing.TB, f *block.MemFile) {
			putEntry(t, f, 8, makeEntry(statePresent, 5*mib))
			putEntry(t, f, 100000, makeEntry(stateZero, 0))
		},
		want: []finding{{Note, batStart + 64, "BAT entry 8 lies past the disk's end, but is not zero: 0x500006"},
			{Note, batStart + 800000, "BAT entry 100000 lies past the disk's end, but is not zero: 0x2"}},
		mended: []finding{{Note, batStart + 64, "BAT entry 8"}, {Note, batStart + 800000, "BAT entry 100000"}},
	},
	{
		name: "leaked room",
		spoil: func(t testing.TB, f *block.MemFile) {
			must(t, f.Truncate(smallEnd+3*mib))
			putEntry(t, f, 2, makeEntry(stateZero, 0))
		},
		want: []finding{{Note, 5 * mib, "1048576 bytes within the file are not in use"},
			{Note, smallEnd, "3145728 bytes at the file's end are not in use"}},
		mended: []finding{{Note, smallEnd, "3145728 bytes"}},
		left:   []finding{{Note, 5 * mib, "reused"}},
		after:  []finding{{Note, 5 * mib, "1048576 bytes within the file are not in use"}},
	},
	{
		name: "fixed disk that lacks blocks",
		make: fixedSmall,
		spoil: func(t testing.TB, f *block.MemFile) {
			putEntry(t, f, 3, makeEntry(stateNotPresent, 0))
			must(t, f.Truncate(smallEnd))
		},
		want: []finding{{Note, batStart, "fixed disk, but 1 of its 4 blocks have no room"},
			{Damage, smallEnd, "file ends here, but a fixed disk's with all its blocks has 8388608 bytes"}},
		mended: []finding{{Damage, smallEnd, "extended to 8388608 bytes"}},
		left:   []finding{{Note, batStart, "fixed disk"}},
		after: []finding{{Note, batStart, "fixed disk, but 1 of its 4 blocks have no room"},
			{Note, smallEnd, "1048576 bytes at the file's end are not in use"}},
	},
	{
		name: "unknown region and item",
		spoil: func(t testing.TB, f *block.MemFile) {
			must(t, f.Truncate(smallEnd+mib))
			for _, off := range regionTableOffsets {
				b := readAll(t, f, off, regionTableSize)
				addRegion(b, region{guid(1, 2, 3, 4), smallEnd, mib, false})
				le.PutUint32(b[4:], checksum(b))
				put(t, f, off, b)
			}
			fixMetadata(t, f, func(b []byte) { addItem(b, guid(5, 6, 7, 8), 0) })
		},
		want: []finding{{Note, smallEnd, "region 00000001-0002-0003-0000-000000000004 of 1048576 bytes is not known; it is optional, and kept"},
			{Note, metaStart + 100<<10, "metadata item 00000005-0006-0007-0000-000000000008"}},
		after: []finding{{Note, smallEnd, "is not known"}, {Note, metaStart + 100<<10, "is not known"}},
	},
	{
		name:  "metadata table",
		spoil: func(t testing.TB, f *block.MemFile) { put(t, f, metaStart, []byte("Metadata")) },
		want:  []finding{{Damage, metaStart, "metadata table: no signature"}},
		left:  []finding{{Damage, metaStart, "restore"}},
	},
	{
		name:  "file identifier", // which must never be written over
		spoil: func(t testing.TB, f *block.MemFile) { put(t, f, 0, []byte("vhdx")); put(t, f, 4, []byte("-ile")) },
		want:  []finding{{Damage, 0, "does not begin with vhdxfile"}},
		left:  []finding{{Damage, 0, "restore"}},
	},
	{
		name:  "truncated",
		spoil: func(t testing.TB, f *block.MemFile) { must(t, f.Truncate(smallEnd-mib)) },
		want:  []finding{{Damage, batStart + 32, "payload block 4 (disk offset 0x400000): its place 0x600000 lies outside the file"}},
		left:  []finding{{Damage, batStart + 32, "convert"}},
	},
	{
		name:  "sector bitmap block missing",
		make:  layered,
		spoil: func(t testing.TB, f *block.MemFile) { putEntry(t, f, 4096, 0) },
		want: []finding{{Damage, batStart + 4096*8, "sector bitmap block 0: not present, but 1 blocks of its chunk are partially present"},
			{Note, layerBitmap, "1048576 bytes at the file's end are not in use"}},
		left: []finding{{Damage, batStart + 4096*8, "convert"}},
	},
	{
		name:  "sector bitmap block without need",
		make:  layered,
		spoil: func(t testing.TB, f *block.MemFile) { putEntry(t, f, 0, makeEntry(statePresent, layerBlock)) },
		want:  []finding{{Note, batStart + 4096*8, "sector bitmap block 0: present, but no block of its chunk is partially present"}},
	},
	{
		name:  "bits past the end",
		make:  layered,
		spoil: func(t testing.TB, f *block.MemFile) { put(t, f, layerBitmap+2048+3, []byte{4}) },
		want:  []finding{{Note, layerBitmap + 2048 + 3, "sector bitmap block 0: bits are set for sectors past the disk's end, the first at disk offset 0x803000"}},
	},
	{
		name:  "sector bitmap block past the file",
		make:  layered,
		spoil: func(t testing.TB, f *block.MemFile) { putEntry(t, f, 4096, makeEntry(statePresent, 99*mib)) },
		want: []finding{{Damage, batStart + 4096*8, "sector bitmap block 0: its place 0x6300000 lies outside the file"},
			{Note, layerBitmap, "1048576 bytes at the file's end are not in use"}},
		left: []finding{{Damage, batStart + 4096*8, "convert"}},
	},
	{
		name: "sector bitmap block over a block",
		make: layered,
		spoil: func(t testing.TB, f *block.MemFile) {
			putEntry(t, f, 4096, makeEntry(statePresent, layerBlock))
			must(t, f.Truncate(layerBitmap))
		},
		want: []finding{{Damage, layerBlock, "payload block 0 (disk offset 0x0) (entry at 0x300000) and sector bitmap block 0 (entry at 0x308000) hold the same place"}},
		left: []finding{{Damage, layerBlock, "convert"}},
	},
	{
		name:  "parent locator's type",
		make:  layered,
		spoil: func(t testing.TB, f *block.MemFile) { put(t, f, locatorAt(t, f), []byte{1, 2, 3}) },
		want:  []finding{{Damage, -1, "parent locator: type"}},
		left:  []finding{{Damage, -1, "link the disk to its parent anew"}},
	},
	{
		name:  "parent locator without linkage",
		make:  layered,
		spoil: func(t testing.TB, f *block.MemFile) { spoilKey(t, f, "parent_linkage", "parent_linkagX") },
		want:  []finding{{Damage, -1, "parent locator: no parent_linkage"}, {Note, -1, `parent locator: entry "parent_linkagX" is not known`}},
		left:  []finding{{Damage, -1, "link the disk to its parent anew"}},
	},
	{
		name:  "parent locator without path",
		make:  layered,
		spoil: func(t testing.TB, f *block.MemFile) { spoilKey(t, f, "relative_path", "relative_pXth") },
		want:  []finding{{Damage, -1, "none of relative_path"}, {Note, -1, `entry "relative_pXth" is not known`}},
		left:  []finding{{Damage, -1, "link the disk to its parent anew"}},
	},
	{
		name:  "parent path with the wrong separator",
		make:  layered,
		spoil: func(t testing.TB, f *block.MemFile) { spoilKey(t, f, `p.vhdx`, `p/vhdx`) },
		want:  []finding{{Note, -1, `relative_path "p/vhdx" is not relative with`}},
	},
}

// Where things lie in the image that layered makes.
const (
	layerBlock  = 4 * mib
	layerBitmap = 5 * mib
)

// layered returns the image of a differencing disk of 8 MiB with one block that is
// partially present, closed.
func layered(t testing.TB) *block.MemFile {
	t.Helper()
	d, f := differencing(t, 8*mib, mib, 512)
	must(t, d.WriteAt(ctx, make([]byte, 4096), 4096, 0))
	must(t, d.Close())
	if rawEntry(t, f, 0) != makeEntry(statePartial, layerBlock) || rawEntry(t, f, 4096) != makeEntry(statePresent, layerBitmap) {
		t.Fatalf("entries %#x %#x", rawEntry(t, f, 0), rawEntry(t, f, 4096))
	}
	return f
}

// locatorAt is where a parent locator lies in the file.
func locatorAt(t testing.TB, f *block.MemFile) int64 {
	t.Helper()
	im, err := loadImage(f)
	must(t, err)
	return int64(im.metadata.Offset) + int64(im.items.system(guidParentLocator).Offset)
}

// spoilKey replaces a string in the metadata region by one of the same length.
func spoilKey(t testing.TB, f *block.MemFile, from, to string) {
	t.Helper()
	wide := func(s string) []byte {
		var b []byte
		for _, c := range utf16.Encode([]rune(s)) {
			b = le.AppendUint16(b, c)
		}
		return b
	}
	fixMetadata(t, f, func(b []byte) {
		i := bytes.Index(b, wide(from))
		if i < 0 {
			t.Fatalf("no %q in the metadata", from)
		}
		copy(b[i:], wide(to))
	})
}

// chunky returns the image of a disk with two chunks and a block, closed.
func chunky(t testing.TB) *block.MemFile {
	t.Helper()
	f := block.NewMemFile(0)
	d, err := Create(noClose{f}, CreateOptions{Size: 5000 * mib, BlockSize: mib})
	must(t, err)
	must(t, d.WriteAt(ctx, []byte{1}, 0, 0))
	must(t, d.Close())
	must(t, f.Truncate(6*mib))
	return f
}

func wantFindings(t *testing.T, kind string, got []Finding, want []finding) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d %s, want %d:%s", len(got), kind, len(want), list(got))
		return
	}
	for _, w := range want {
		if !w.in(got) {
			t.Errorf("no %v at %#x of %q in the %s:%s", w.sev, w.off, w.what, kind, list(got))
		}
	}
}
