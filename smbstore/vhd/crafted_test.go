//go:build !race

package vhd

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
const maxCost = 64 << 20

// cost returns what fn allocates.
func cost(fn func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// vast makes the front of a dynamic or differencing disk, with a footer at the
// end of a file of fileSize bytes. Its table is at 1536 and reads as zeroes.
func vast(fileSize int64, change func(f *footer, h *header)) func(testing.TB) *block.MemFile {
	return func(t testing.TB) *block.MemFile {
		f, h := footer{DataOffset: 512, CurrentSize: 1 << 40, Type: typeDynamic}, header{TableOffset: 1536, Entries: 1<<32 - 1, BlockSize: 2 << 20}
		change(&f, &h)
		b := make([]byte, 1536)
		f.encode(b)
		h.encode(b[512:])
		file := memory(t, b)
		must(t, file.Truncate(fileSize))
		_, err := file.WriteAt(b[:footerSize], fileSize-footerSize)
		must(t, err)
		return file
	}
}

// located makes a differencing disk whose first parent locator is as given.
func located(l locator, data []byte) func(testing.TB) *block.MemFile {
	return func(t testing.TB) *block.MemFile {
		file := vast(1<<30, func(f *footer, h *header) { f.Type, f.ID, f.CurrentSize = typeDifferencing, ID{1}, 2<<20 })(t)
		b := make([]byte, headerSize)
		must(t, readFull(file, b, 512))
		copy(b[parentIDAt:], bytes.Repeat([]byte{1}, 1)) // itself
		copy(b[parentNameAt:], bytes.Repeat([]byte{0xd8}, 512))
		l.encode(b[locatorsAt:])
		be.PutUint32(b[36:], sum(b, 36))
		for _, w := range []struct {
			b  []byte
			at int64
		}{{b, 512}, {data, 1 << 20}, {bytes.Repeat([]byte{0xff}, 512), 1536}} {
			_, err := file.WriteAt(w.b, w.at)
			must(t, err)
		}
		return file
	}
}

// crafted are images made to cost much, or to lead somewhere. at is the file
// offset that the error names. One without an error opens: for reading, or with
// writable also for writing.
var crafted = []struct {
	name     string
	make     func(t testing.TB) *block.MemFile
	want     error
	at       int64
	writable bool
}{
	{"largest table", vast(1<<41, func(f *footer, h *header) { f.CurrentSize = maxEntries << 21 }), nil, 0, false},
	{"larger table", vast(1<<41, func(f *footer, h *header) { f.CurrentSize = maxEntries<<21 + 512 }), ErrUnsupported, 512, false},
	{"2^32-1 entries", vast(1<<41, func(f *footer, h *header) { f.CurrentSize, h.BlockSize = (1<<32-1)*512, 512 }), ErrUnsupported, 512, false},
	{"64 TiB in the largest blocks", vast(1<<41, func(f *footer, h *header) { f.CurrentSize, h.BlockSize = 64<<40, maxBlockSize }), nil, 0, false},
	{"larger blocks", vast(1<<41, func(f *footer, h *header) { h.BlockSize = 1 << 31 }), ErrUnsupported, 512, false},
	{"fewer entries than blocks", vast(1<<41, func(f *footer, h *header) { h.Entries = 1 }), ErrCorrupt, 512, false},
	{"size of 2^63", vast(1<<30, func(f *footer, h *header) { f.CurrentSize = 1 << 63 }), ErrCorrupt, 1<<30 - footerSize, false},
	{"table at 2^62", vast(1<<30, func(f *footer, h *header) { h.TableOffset = 1 << 62 }), ErrCorrupt, 512, false},
	{"table at 2^64-1", vast(1<<30, func(f *footer, h *header) { h.TableOffset = 1<<64 - 1 }), ErrCorrupt, 512, false},
	{"header in the copy of the footer", vast(1<<30, func(f *footer, h *header) { f.DataOffset = 0 }), ErrCorrupt, 1<<30 - footerSize, false},
	{"header in the footer", vast(1<<30, func(f *footer, h *header) { f.DataOffset = 1<<30 - footerSize }), ErrCorrupt, 1<<30 - footerSize, false},
	{"header at 2^62", vast(1<<30, func(f *footer, h *header) { f.DataOffset = 1 << 62 }), ErrCorrupt, 1 << 62, false},
	{"table over the header", vast(1<<30, func(f *footer, h *header) { h.TableOffset, f.CurrentSize = 1024, 2<<20 }), nil, 0, false},
	{"file of 2^63-1 bytes", func(t testing.TB) *block.MemFile {
		f := vast(1<<30, func(f *footer, h *header) { f.CurrentSize = 2 << 20 })(t)
		must(t, f.Truncate(math.MaxInt64))
		return f
	}, nil, 0, false},
	{"all blocks in one place", func(t testing.TB) *block.MemFile {
		f := vast(1<<30, func(f *footer, h *header) { f.CurrentSize = 100 << 21 })(t)
		_, err := f.WriteAt(bytes.Repeat([]byte{0, 0, 0x80, 0}, 128), 1536)
		must(t, err)
		return f
	}, nil, 0, false},
	{"blocks without end", func(t testing.TB) *block.MemFile {
		f := vast(1<<30, func(f *footer, h *header) { f.CurrentSize = 100 << 21 })(t)
		_, err := f.WriteAt(bytes.Repeat([]byte{0xff, 0xff, 0xff, 0xfe}, 128), 1536)
		must(t, err)
		return f
	}, nil, 0, false},
	{"its own parent, name of half surrogates", located(locator{}, nil), nil, 0, true},
	{"locator of 4 GiB", located(locator{codeRelative, 1<<32 - 1, 1<<32 - 1, 1 << 20}, nil), nil, 0, true},
	{"locator at 2^64-1", located(locator{codeAbsolute, 512, 512, 1<<64 - 1}, nil), nil, 0, true},
	{"locator in the header", located(locator{codeRelative, 512, 512, 600}, nil), nil, 0, false},
	{"locator of garbage", located(locator{codeRelative, 512, 511, 1 << 20}, bytes.Repeat([]byte{0, 0xdc, 0, 0xd8}, 128)), nil, 0, true},
}

// TestCraftedImages: an image that lies costs bounded memory, and gets an error
// that names where. What opens can be read, or tells so with the place.
func TestCraftedImages(t *testing.T) {
	for _, c := range crafted {
		t.Run(c.name, func(t *testing.T) {
			f := c.make(t)
			named := func(what string, err error) {
				t.Helper()
				var fe *FormatError
				if err != nil && !errors.As(err, &fe) && !errors.Is(err, ErrNoParent) {
					t.Errorf("%s = %v, which names no file offset", what, err)
				}
			}
			var parent block.Device
			if in, err := Inspect(noClose{f}); err == nil && in.Type == "differencing" {
				parent = block.NewMem(2 << 20)
			}
			steps := []struct {
				name string
				do   func()
			}{
				{"Check", func() {
					r, err := Check(noClose{f})
					must(t, err)
					if c.want != nil && r.Clean() {
						t.Error("Check finds nothing")
					}
				}},
				{"Open for reading", func() {
					d, err := Open(noClose{f}, OpenOptions{ReadOnly: true, Bare: true})
					var fe *FormatError
					if !errors.Is(err, c.want) || err != nil && (!errors.As(err, &fe) || fe.Offset != c.at) {
						t.Errorf("Open = %v, want %v that names file offset %#x", err, c.want, c.at)
					}
					if err != nil {
						return
					}
					for _, off := range []int64{0, d.Size() / 2, d.Size() - 512} {
						named("ReadAt", d.ReadAt(ctx, make([]byte, 512), off))
					}
				}},
				{"Open for writing", func() {
					d, err := Open(noClose{f.Snapshot()}, OpenOptions{Parent: parent})
					named("Open for writing", err)
					if (err == nil) != c.writable {
						t.Errorf("Open for writing = %v", err)
					}
					if err == nil {
						must(t, d.Close())
					}
				}},
			}
			for _, s := range steps {
				if got := cost(s.do); got > maxCost {
					t.Errorf("%s allocates %d bytes", s.name, got)
				}
			}
		})
	}
}
