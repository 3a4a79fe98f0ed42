//go:build !race

package vhdx

import (
	"bytes"
	"errors"
	"math"
	"runtime"
	"testing"

	"lunless/smbstore/block"
)

// maxCost bounds what opening or checking any image may allocate in all. That is
// more than it holds at once.
const maxCost = 64 * mib

// cost returns what fn allocates.
func cost(fn func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// countedFile counts the bytes that are read.
type countedFile struct {
	noClose
	read *int64
}

func (f countedFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.noClose.ReadAt(p, off)
	*f.read += int64(n)
	return n, err
}

// huge returns an empty disk of 64 TiB, as an image that takes no room.
func huge(t testing.TB, blockSize int64) *block.MemFile {
	t.Helper()
	f := block.NewMemFile(0)
	d, err := Create(noClose{f}, CreateOptions{Size: 64 << 40, BlockSize: blockSize, LogicalSectorSize: 512})
	must(t, err)
	must(t, d.Close())
	return f
}

// withLog makes a log of n bytes at 1 GiB, in use, whose sectors fill writes.
func withLog(t testing.TB, n uint32, fill func(g GUID, log []byte)) *block.MemFile {
	t.Helper()
	f, g := small(t, true), newGUID()
	log := make([]byte, n)
	fill(g, log)
	put(t, f, 1<<30, log)
	fixHeader(t, f, func(h *header) { h.LogGUID, h.LogOffset, h.LogLength = g, 1<<30, n })
	return f
}

// entryAt puts an entry into a log, with the checksum right.
func entryAt(log []byte, at int, e *logEntry) {
	b := make([]byte, e.size())
	e.encode(b)
	copy(log[at:], b)
}

// resum makes the checksum of the entry of n bytes at the log's start right.
func resum(log []byte, n int) {
	le.PutUint32(log[8:], uint32(n))
	le.PutUint32(log[4:], checksum(log[:n]))
}

// crafted are images made to cost much, or to lead somewhere. at is the file
// offset that the error names. One without an error opens.
var crafted = []struct {
	name string
	make func(t testing.TB) *block.MemFile
	want error
	at   int64
}{
	{"64 TiB in blocks of 1 MiB", func(t testing.TB) *block.MemFile { return huge(t, mib) }, nil, 0},
	{"file of 2^47 bytes", func(t testing.TB) *block.MemFile {
		f := huge(t, mib)
		must(t, f.Truncate(maxFileSize))
		return f
	}, nil, 0},
	{"file of 2^63-1 bytes", func(t testing.TB) *block.MemFile {
		f := small(t, true)
		must(t, f.Truncate(math.MaxInt64))
		return f
	}, ErrUnsupported, 0},
	{"log of 4 GiB", func(t testing.TB) *block.MemFile {
		f := small(t, true)
		must(t, f.Truncate(8<<30))
		fixHeader(t, f, func(h *header) { h.LogGUID, h.LogOffset, h.LogLength = newGUID(), 1<<30, 4<<30-mib })
		return f
	}, ErrUnsupported, 1 << 30},
	{"log at 2^63", func(t testing.TB) *block.MemFile {
		f := small(t, true)
		fixHeader(t, f, func(h *header) { h.LogOffset = 1 << 63 })
		return f
	}, ErrCorrupt, headerOffsets[1]},
	{"log past the file, in use", func(t testing.TB) *block.MemFile {
		f := small(t, true)
		fixHeader(t, f, func(h *header) { h.LogGUID, h.LogOffset = newGUID(), 1<<40 })
		return f
	}, ErrTruncated, 1 << 40},
	{"log of entries as long as itself", func(t testing.TB) *block.MemFile {
		return withLog(t, maxReplayLog, func(g GUID, log []byte) {
			for off := 0; off < len(log); off += logSector {
				copy(log[off:], sigEntry)
				le.PutUint32(log[off+8:], uint32(len(log)))
				le.PutUint64(log[off+16:], 1)
				copy(log[off+32:], g[:])
			}
		})
	}, ErrCorrupt, 1 << 30},
	{"log entry with 2^32-1 descriptors", func(t testing.TB) *block.MemFile {
		return withLog(t, mib, func(g GUID, log []byte) {
			entryAt(log, 0, &logEntry{Sequence: 1, LogGUID: g})
			le.PutUint32(log[24:], 1<<32-1)
			resum(log, mib)
		})
	}, ErrCorrupt, 1 << 30},
	{"log full of data", func(t testing.TB) *block.MemFile {
		return withLog(t, maxReplayLog, func(g GUID, log []byte) {
			e := logEntry{Sequence: 1, LogGUID: g, FlushedFileOffset: mib, LastFileOffset: mib}
			page := make([]byte, logSector)
			for at := int64(0); at < maxReplayLog/128*126; at += logSector {
				e.Updates = append(e.Updates, update{Offset: 4*mib + at%(2*mib), Data: page})
			}
			entryAt(log, 0, &e)
		})
	}, nil, 0},
	{"log full of zero descriptors", func(t testing.TB) *block.MemFile {
		return withLog(t, 4*mib, func(g GUID, log []byte) {
			e := logEntry{Sequence: 1, LogGUID: g, FlushedFileOffset: mib, LastFileOffset: mib}
			for i := range int64(100000) {
				e.Updates = append(e.Updates, update{Offset: 4*mib + i*logSector, Zeroes: logSector})
			}
			entryAt(log, 0, &e)
		})
	}, ErrUnsupported, 1 << 30},
	{"log entry that writes at 2^62", func(t testing.TB) *block.MemFile {
		return withLog(t, mib, func(g GUID, log []byte) {
			entryAt(log, 0, &logEntry{Sequence: 1, LogGUID: g, Updates: []update{{Offset: 1 << 62, Data: make([]byte, logSector)}}})
		})
	}, ErrCorrupt, 1 << 30},
	{"log entry that zeroes 2^46 bytes", func(t testing.TB) *block.MemFile {
		return withLog(t, mib, func(g GUID, log []byte) {
			entryAt(log, 0, &logEntry{Sequence: 1, LogGUID: g, Updates: []update{{Offset: 4 << 30, Zeroes: 1 << 46}}})
		})
	}, ErrUnsupported, 1 << 30},
	{"log entry of a file of 2^46 bytes", func(t testing.TB) *block.MemFile {
		return withLog(t, mib, func(g GUID, log []byte) {
			entryAt(log, 0, &logEntry{Sequence: 1, LogGUID: g, FlushedFileOffset: 1 << 46, LastFileOffset: mib})
		})
	}, ErrTruncated, 1 << 30},
	{"log that extends the file to 2^46 bytes", func(t testing.TB) *block.MemFile {
		return withLog(t, mib, func(g GUID, log []byte) {
			entryAt(log, 0, &logEntry{Sequence: 1, LogGUID: g, FlushedFileOffset: mib, LastFileOffset: 1 << 46})
		})
	}, nil, 0},
	{"log that changes a header", func(t testing.TB) *block.MemFile {
		return withLog(t, mib, func(g GUID, log []byte) {
			entryAt(log, 0, &logEntry{Sequence: 1, LogGUID: g, Updates: []update{{Offset: headerOffsets[0], Data: make([]byte, logSector)}}})
		})
	}, ErrCorrupt, 1 << 30},
	{"2047 regions of 4 GiB", func(t testing.TB) *block.MemFile {
		f := small(t, true)
		fixTable(t, f, func(b []byte) {
			for i := range uint64(2045) {
				addRegion(b, region{newGUID(), 1<<40 + i<<32, 4<<30 - mib, false})
			}
		})
		return f
	}, nil, 0},
	{"region at 2^63", func(t testing.TB) *block.MemFile {
		f := small(t, true)
		fixTable(t, f, func(b []byte) { addRegion(b, region{newGUID(), 1 << 63, mib, false}) })
		return f
	}, ErrCorrupt, regionTableOffsets[0] + regionHeaderSize + 2*regionEntrySize},
	{"BAT region of 4 GiB", func(t testing.TB) *block.MemFile {
		f := small(t, true)
		must(t, f.Truncate(8<<30))
		fixTable(t, f, func(b []byte) { moveRegion(b, guidBAT, 1<<30, 4<<30-mib) })
		return f
	}, nil, 0},
	{"metadata region of 4 GiB, its items of 1 MiB", func(t testing.TB) *block.MemFile {
		f := small(t, true)
		must(t, f.Truncate(8<<30))
		put(t, f, 1<<30, readAll(t, f, metaStart, metaSize))
		fixTable(t, f, func(b []byte) { moveRegion(b, guidMetadata, 1<<30, 4<<30-mib) })
		b := readAll(t, f, 1<<30, metadataTableSize)
		for n := le.Uint16(b[10:]); n < maxMetadataItems; n++ {
			addItem(b, newGUID(), 0)
			e := b[(int(n)+1)*metadataEntrySize:]
			le.PutUint32(e[16:], uint32(n)<<20)
			le.PutUint32(e[20:], mib)
		}
		put(t, f, 1<<30, b)
		return f
	}, nil, 0},
	{"metadata item past the region", func(t testing.TB) *block.MemFile {
		f := small(t, true)
		fixMetadata(t, f, func(b []byte) { le.PutUint32(b[32+16:], 1<<32-8) })
		return f
	}, ErrCorrupt, metaStart + 32},
	{"virtual size 2^63", func(t testing.TB) *block.MemFile {
		f := small(t, true)
		fixMetadata(t, f, func(b []byte) { le.PutUint64(b[metadataTableSize+8:], 1<<63) })
		return f
	}, ErrCorrupt, metaStart},
	{"64 TiB with the BAT of 8 MiB", func(t testing.TB) *block.MemFile {
		f := small(t, true)
		fixMetadata(t, f, func(b []byte) { le.PutUint64(b[metadataTableSize+8:], 64<<40) })
		return f
	}, ErrCorrupt, batStart},
	{"block in the BAT", func(t testing.TB) *block.MemFile {
		f := small(t, true)
		put(t, f, batStart+8, le.AppendUint64(nil, uint64(makeEntry(statePresent, batStart))))
		return f
	}, ErrCorrupt, batStart + 8},
	{"all blocks in one place", func(t testing.TB) *block.MemFile {
		f := small(t, true)
		put(t, f, batStart, bytes.Repeat(le.AppendUint64(nil, uint64(makeEntry(statePresent, 5*mib))), 8))
		return f
	}, ErrCorrupt, batStart + 8},
	{"fixed disk, all blocks in one place", func(t testing.TB) *block.MemFile {
		f := fixedSmall(t)
		put(t, f, batStart, bytes.Repeat(readAll(t, f, batStart+8, 8), 4))
		return f
	}, ErrCorrupt, batStart + 8},
	{"all blocks at the end of 2^63", func(t testing.TB) *block.MemFile {
		f := small(t, true)
		put(t, f, batStart, bytes.Repeat([]byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 8))
		return f
	}, ErrCorrupt, batStart},
	{"UTF-16 garbage for a creator", func(t testing.TB) *block.MemFile {
		f := small(t, true)
		put(t, f, 8, bytes.Repeat([]byte{0x00, 0xdc, 0x00, 0xd8}, 128))
		return f
	}, nil, 0},
}

// moveRegion changes where a region lies.
func moveRegion(b []byte, g GUID, off uint64, n uint32) {
	for i := range int(le.Uint32(b[8:])) {
		if e := b[regionHeaderSize+i*regionEntrySize:]; GUID(e[:16]) == g {
			le.PutUint64(e[16:], off)
			le.PutUint32(e[24:], n)
		}
	}
}

// TestCraftedImages: an image that lies costs bounded memory and reading, and
// gets an error that names where.
func TestCraftedImages(t *testing.T) {
	for _, c := range crafted {
		t.Run(c.name, func(t *testing.T) {
			f := c.make(t)
			var read int64
			file := countedFile{noClose{f}, &read}
			outcome := func(err error) {
				t.Helper()
				var fe *FormatError
				switch {
				case !errors.Is(err, c.want):
					t.Errorf("Open = %v, want %v", err, c.want)
				case err != nil && (!errors.As(err, &fe) || fe.Offset != c.at):
					t.Errorf("Open = %v, want it to name file offset %#x", err, c.at)
				}
			}
			steps := []struct {
				name string
				do   func()
			}{
				{"Check", func() {
					r, err := Check(file)
					must(t, err)
					if c.want != nil && r.Clean() {
						t.Error("Check finds nothing")
					}
				}},
				{"Open for writing", func() {
					d, err := Open(countedFile{noClose{f.Snapshot()}, &read}, OpenOptions{})
					outcome(err)
					if err == nil {
						must(t, d.Close())
					}
				}},
				{"Open for reading", func() {
					d, err := Open(file, OpenOptions{ReadOnly: true})
					if err != nil {
						outcome(err)
						return
					}
					p := make([]byte, 9000) // where the BAT lies, reading tells
					for _, off := range []int64{0, min(7*mib, d.Size()/2), d.Size() - 9000} {
						if err := d.ReadAt(ctx, p, off); err != nil && !errors.Is(err, ErrCorrupt) {
							t.Errorf("ReadAt(%d) = %v", off, err)
						}
					}
				}},
			}
			for _, s := range steps {
				if got := cost(s.do); got > maxCost {
					t.Errorf("%s allocates %d bytes", s.name, got)
				}
				if read > 4*maxReplayLog {
					t.Errorf("%s reads %d bytes", s.name, read)
				}
				read = 0
			}
		})
	}
}
