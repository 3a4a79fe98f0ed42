package vhd

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lunless/smbstore/block"
)

// FuzzFooter: what parses re-encodes to what parses to the same.
func FuzzFooter(f *testing.F) {
	f.Add(windows(f)[:footerSize])
	f.Add(dynamic(func(*footer, *header) {})[:footerSize])
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= footerSize {
			b = bytes.Clone(b)
			be.PutUint32(b[64:], sum(b[:footerSize], 64))
		}
		ft, err := decodeFooter(b, 0)
		if err != nil {
			return
		}
		if s := ft.size(); s <= 0 || s > int64(ft.CurrentSize) {
			t.Fatalf("size %d of %+v", s, ft)
		}
		again := make([]byte, footerSize)
		ft.encode(again)
		if back, err := decodeFooter(again, 0); err != nil || back != ft {
			t.Fatalf("%+v comes back as %+v: %v", ft, back, err)
		}
	})
}

// FuzzHeader: the same of the dynamic header.
func FuzzHeader(f *testing.F) {
	f.Add(windows(f)[512:1536], int64(8192), int64(1<<20))
	f.Add(dynamic(func(*footer, *header) {})[512:1536], int64(8192), int64(8192))
	f.Fuzz(func(t *testing.T, b []byte, size, fileSize int64) {
		if size <= 0 || fileSize <= 0 {
			return
		}
		if len(b) >= headerSize {
			b = bytes.Clone(b)
			be.PutUint32(b[36:], sum(b[:headerSize], 36))
		}
		h, err := decodeHeader(b, 512, size, fileSize)
		if err != nil {
			return
		}
		again := make([]byte, headerSize)
		h.encode(again)
		if back, err := decodeHeader(again, 512, size, fileSize); err != nil || back != h {
			t.Fatalf("%+v comes back as %+v: %v", h, back, err)
		}
	})
}

// FuzzParent: a header and what its locators point to give a link in bounded
// memory; a link that can be written comes back as it was.
func FuzzParent(f *testing.F) {
	for _, l := range []*ParentLink{link(), moved(3), moved(900)} {
		file := noClose{block.NewMemFile(0)}
		must(f, child(f, file, block.NewMem(1<<20), 0).Close())
		d, err := Open(file, OpenOptions{Parent: block.NewMem(1 << 20)})
		must(f, err)
		must(f, d.Relink(ctx, *l))
		size, _ := file.Size()
		b := make([]byte, size)
		must(f, readFull(file, b, 0))
		f.Add(b[headerOffset:])
		must(f, d.Close())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < headerSize {
			return
		}
		file := memory(t, b)
		p, bad := decodeParent(b[:headerSize], 0, file, int64(len(b)))
		if len(bad) > locatorCount {
			t.Fatalf("%d errors of %d locators", len(bad), locatorCount)
		}
		p.URL = ""
		if p.check() != nil || strings.ContainsRune(p.Name+p.Relative+p.Absolute, 0xfffd) {
			return
		}
		p.Name = p.fileName()
		var l linkData
		end := l.place(p, headerSize)
		l.seal()
		again := make([]byte, end)
		copy(again, l.header[:])
		for i, loc := range l.locators {
			copy(again[loc.Offset:], l.data[i])
		}
		back, bad := decodeParent(again[:headerSize], 0, memory(t, again), end)
		if diff := cmp.Diff(p, back); diff != "" || bad != nil {
			t.Fatalf("%v (-want +got):\n%s", bad, diff)
		}
	})
}

// FuzzOpen edits an image and repairs its checksums: it gives an error or a disk
// that serves every request with data or an error; Check and Repair end.
func FuzzOpen(f *testing.F) {
	small := dynamic(func(*footer, *header) {})
	f.Add(small, uint16(60), byte(2), true)
	f.Add(dynamic(func(f *footer, _ *header) { f.CurrentSize = 4096 }), uint16(0), byte(0), false)
	f.Add(small, uint16(2055), byte(1), true)
	f.Add(dynamic(func(f *footer, _ *header) { f.Type = typeDifferencing }), uint16(512+576+3), byte(1), true)
	f.Add(small[:len(small)-1], uint16(0), byte(0), false)
	f.Fuzz(func(t *testing.T, b []byte, at uint16, with byte, tail bool) {
		if len(b) >= 2560 && len(b) < 1<<20 {
			b = bytes.Clone(b)
			b[int(at)%2560] ^= with
			be.PutUint32(b[64:], sum(b[:512], 64))
			be.PutUint32(b[512+36:], sum(b[512:1536], 36))
			if tail {
				copy(b[len(b)-footerSize:], b[:footerSize])
			}
		}
		file := noClose{memory(t, b)}
		if _, err := Check(file); err != nil {
			t.Fatalf("Check: %v", err) // memory does not fail
		}
		for _, o := range []OpenOptions{{ReadOnly: true}, {}, {Bare: true}, {Parent: block.NewMem(6000)}} {
			if d, err := Open(file, o); err == nil {
				exercise(d)
			}
		}
		if _, err := Repair(file); err != nil {
			t.Fatalf("Repair: %v", err)
		}
	})
}

// exercise sends requests whose outcome does not matter.
func exercise(d *Disk) {
	p := make([]byte, min(d.Size(), 10000))
	for _, off := range []int64{0, d.Size() / 2, d.Size() - int64(len(p))} {
		_ = d.ReadAt(ctx, p, off)
		_ = d.WriteAt(ctx, p, off, block.FUA)
		_ = d.WriteZeroes(ctx, off, int64(len(p)), 0)
	}
	_ = d.Trim(ctx, 0, min(d.Size(), 1<<20))
	_ = d.Extents(ctx, 0, min(d.Size(), 1<<20), func(block.Extent) error { return nil })
	_ = d.Relink(ctx, *moved(2))
	_ = d.Flush(ctx)
	_ = d.Close()
}
