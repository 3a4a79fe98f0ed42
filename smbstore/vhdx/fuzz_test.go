package vhdx

import (
	"bytes"
	"io"
	"reflect"
	"testing"

	"lunless/smbstore/block"
)

// zone is a part of an image, bytes.
type zone struct{ off, n int64 }

// zones are the places an edit of FuzzOpen may reach, without the empty space between.
var zones = []zone{
	{0, 32}, {64 << 10, 96}, {128 << 10, 96}, {192 << 10, 128}, {256 << 10, 128},
	{logStart, 6 * logSector}, {metaStart, 256}, {metaStart + metadataTableSize, 256}, {batStart, 128}, {batStart + 4096*8, 8},
}

// FuzzOpen edits an image and repairs its checksums: it gives an error or a disk
// that serves every request with data or an error, in bounded time and memory.
func FuzzOpen(f *testing.F) {
	images := []*block.MemFile{small(f, true), small(f, false), layeredImage(f, true), layeredImage(f, false)}
	f.Add(byte(0), []byte{})
	f.Add(byte(1), []byte{})
	f.Add(byte(3), []byte{1, 0, 72, 7, 2, 0, 72, 7})
	f.Add(byte(2), []byte{7, 0, 8, 1, 8, 0, 0, 6, 8, 0, 2, 0x50})
	f.Add(byte(3), []byte{5, 0, 24, 3, 5, 0, 68, 1})
	f.Add(byte(4), []byte{})
	f.Add(byte(5), []byte{})
	f.Add(byte(4), []byte{9, 0, 0, 0})
	f.Add(byte(4), []byte{8, 0, 0, 7, 8, 0, 8, 1})
	f.Fuzz(func(t *testing.T, mode byte, edits []byte) {
		file := images[mode&1|mode>>1&2].Snapshot()
		for ; len(edits) >= 4; edits = edits[4:] {
			z := zones[int(edits[0])%len(zones)]
			at := z.off + (int64(edits[1])<<8|int64(edits[2]))%z.n
			put(t, file, at, edits[3:4])
		}
		if mode&2 != 0 {
			repair(t, file)
		}
		if _, err := Check(file); err != nil {
			t.Fatalf("Check: %v", err) // memory does not fail
		}
		opts := []OpenOptions{{ReadOnly: true}, {}}
		if mode&4 != 0 {
			opts = []OpenOptions{{ReadOnly: true, Parent: block.NewMem(9 * mib)}, {Bare: true}, {Parent: block.NewMem(3 * mib)}}
		}
		for _, o := range opts {
			if d, err := Open(noClose{file}, o); err == nil {
				_ = d.LayerExtents(ctx, 0, min(d.Size(), 300*mib), func(block.Extent) error { return nil })
				if d.ParentLink() != nil && !o.ReadOnly {
					_ = d.Relink(ctx, exampleLink)
				}
				exercise(t, d)
			}
		}
	})
}

// layeredImage is small for a differencing disk.
func layeredImage(t testing.TB, closed bool) *block.MemFile {
	t.Helper()
	d, f := differencing(t, 8*mib, mib, 512)
	for i := range int64(3) {
		must(t, d.WriteAt(ctx, bytes.Repeat([]byte{byte(i + 1)}, 5000), i*2*mib+100, 0))
		must(t, d.Flush(ctx))
	}
	if closed {
		must(t, d.Close())
	}
	return f
}

// exercise sends requests whose outcome does not matter.
func exercise(t *testing.T, d *Disk) {
	p := make([]byte, 9000)
	for _, off := range []int64{0, d.Size() / 2, d.Size() - int64(len(p))} {
		if off >= 0 {
			_ = d.ReadAt(ctx, p, off)
			_ = d.WriteAt(ctx, p, off, block.FUA)
			_ = d.WriteZeroes(ctx, off, int64(len(p)), 0)
		}
	}
	_ = d.Trim(ctx, 0, min(d.Size(), 300*mib))
	_ = d.Extents(ctx, 0, min(d.Size(), 300*mib), func(block.Extent) error { return nil })
	_ = d.Flush(ctx)
	_ = d.Close()
}

// repair makes checksums right again, so that edits get past them.
func repair(t *testing.T, f *block.MemFile) {
	fix := func(off, n int64) {
		b := readAll(t, f, off, n)
		le.PutUint32(b[4:], checksum(b))
		put(t, f, off, b)
	}
	for i := range 2 {
		fix(headerOffsets[i], headerSize)
		fix(regionTableOffsets[i], regionTableSize)
	}
	for i := range int64(3) {
		fix(logStart+i*2*logSector, 2*logSector)
	}
}

// FuzzCodecs: what decodes, encodes to what decodes to the same.
func FuzzCodecs(f *testing.F) {
	b := make([]byte, headerSize)
	(&header{Sequence: 3, LogGUID: newGUID(), Version: 1, LogLength: mib, LogOffset: mib}).encode(b)
	f.Add(byte(0), b)
	b = make([]byte, regionTableSize)
	(&regionTable{[]region{{guidBAT, mib, mib, true}, {guidMetadata, 2 * mib, mib, false}}}).encode(b)
	f.Add(byte(1), b[:256])
	p, err := CreateOptions{Size: mib}.params()
	must(f, err)
	meta, err := p.encodeMetadata(nil, nil)
	must(f, err)
	f.Add(byte(2), meta[:512])
	e := logEntry{Sequence: 1<<40 + 5, LogGUID: newGUID(), Updates: []update{
		{Offset: 4 * mib, Data: bytes.Repeat([]byte{7}, logSector)}, {Offset: 5 * mib, Zeroes: 8192}}}
	b = make([]byte, e.size())
	e.encode(b)
	f.Add(byte(3), b)
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		sizes := []int{headerSize, regionTableSize, metadataTableSize, max(1, (len(b)+logSector-1)/logSector) * logSector}
		kind %= 4
		if len(b) > 1<<20 {
			return
		}
		b = append(bytes.Clone(b), make([]byte, max(0, sizes[kind]-len(b)))...)
		if len(b) > 8 && kind != 2 {
			n := min(len(b), sizes[kind])
			le.PutUint32(b[4:], checksum(b[:n]))
		}
		once, again := recode(t, kind, b, nil)
		if once == nil {
			return
		}
		if twice, _ := recode(t, kind, again, again); !reflect.DeepEqual(once, twice) {
			t.Fatalf("%+v\ncomes back as\n%+v", once, twice)
		}
	})
}

// farLogAt is past every place an update may name.
const farLogAt = 1 << 50

// farLog is a file with a log at farLogAt that begins with b.
type farLog struct{ b []byte }

// ReadAt implements io.ReaderAt.
func (f farLog) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off -= farLogAt; off >= 0 && off < int64(len(f.b)) {
		copy(p, f.b[off:])
	}
	return len(p), nil
}

// recode decodes b and encodes the outcome; nil if b does not decode, which is
// fatal if it must.
func recode(t *testing.T, kind byte, b, sure []byte) (value any, encoded []byte) {
	var err error
	switch kind {
	case 0:
		var h header
		if h, err = decodeHeader(b, 0); err == nil {
			value, encoded = h, make([]byte, headerSize)
			h.encode(encoded)
		}
	case 1:
		var r *regionTable
		if r, err = decodeRegionTable(b, 0); err == nil {
			value, encoded = *r, make([]byte, regionTableSize)
			r.encode(encoded)
		}
	case 2:
		var m *metadataTable
		if m, err = decodeMetadataTable(b, mib, 0); err == nil {
			value, encoded = *m, make([]byte, metadataTableSize)
			m.encode(encoded)
		}
	default:
		// In a log of 64 MiB, so that the updates may lie anywhere, at 128 TiB.
		file := io.NewSectionReader(farLog{b}, 0, farLogAt+64*mib)
		var e logEntry
		var p logPlace
		p, err = newRing(file, farLogAt, 64*mib, GUID(b[32:48])).entry(0, func(u update) error {
			if !u.zeroes() {
				data, err := u.data(file, make([]byte, logSector))
				must(t, err)
				u = update{Offset: u.Offset, Data: data}
			}
			e.Updates = append(e.Updates, u)
			return nil
		})
		if err == nil {
			p.entry.Updates = e.Updates
			value, encoded = p.entry, make([]byte, p.entry.size())
			p.entry.encode(encoded)
		}
	}
	if err != nil && sure != nil {
		t.Fatalf("what was encoded does not decode: %v", err)
	}
	return value, encoded
}
