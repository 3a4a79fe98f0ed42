package vhd

import (
	"bytes"
	"testing"

	"lunless/smbstore/block"
	"lunless/smbstore/block/blocktest"
)

// parentOf returns a parent with data in it.
func parentOf(t testing.TB) block.Device {
	t.Helper()
	d := block.NewMem(8 << 20)
	must(t, d.WriteAt(ctx, bytes.Repeat([]byte{0xba}, 60<<10), 1<<19-30<<10, 0))
	return d
}

// image makes a disk of 8 MiB with data in three blocks, in a file whose footer
// at the end is gone if torn.
func fuzzImage(t testing.TB, o CreateOptions, torn bool) *block.MemFile {
	t.Helper()
	f := block.NewMemFile(0)
	d, err := Create(noClose{f}, o)
	must(t, err)
	for i := range int64(3) {
		must(t, d.WriteAt(ctx, bytes.Repeat([]byte{byte(i + 1)}, 5000), i*2<<20+100, 0))
		must(t, d.Flush(ctx))
	}
	must(t, d.Close())
	if torn {
		size, err := f.Size()
		must(t, err)
		must(t, f.Truncate(size-footerSize))
	}
	return f
}

// FuzzImage edits an image of any kind, opens it, has a script of requests work
// on it, closes, checks, repairs and opens it again. What opened and said it had
// written, flushed and closed must then be there.
func FuzzImage(f *testing.F) {
	child := func() CreateOptions {
		return CreateOptions{BlockSize: 512 << 10, Parent: &ParentLink{ID: ID{1}, Name: "base.vhd", Relative: `.\base.vhd`}, ParentDevice: parentOf(f)}
	}
	images := []*block.MemFile{
		fuzzImage(f, CreateOptions{Size: 8 << 20, BlockSize: 512 << 10}, false), fuzzImage(f, CreateOptions{Size: 8 << 20}, true),
		fuzzImage(f, CreateOptions{Size: 8<<20 - 512, Fixed: true}, false), fuzzImage(f, child(), false), fuzzImage(f, child(), true),
	}
	work := []byte{0x00, 1, 0x21, 2, 0x42, 3, 0x07, 0, 0x23, 0, 0x83, 0, 0x44, 0, 0xf8, 9, 0x06, 200, 0x05, 0, 0x0f, 0}
	for kind := range images {
		f.Add(byte(kind), []byte{}, work)
		f.Add(byte(kind), []byte{0, 0, 20, 1}, work)
		f.Add(byte(kind|0x80), []byte{1, 0, 35, 16, 2, 0, 3, 16, 2, 0, 0, 0, 4, 1, 70, 3, 3, 0, 9, 0xf0}, work)
	}
	f.Fuzz(func(t *testing.T, kind byte, edits, work []byte) {
		if len(edits) > 400 || len(work) > 400 {
			return
		}
		file := images[int(kind&0x7f)%len(images)].Snapshot()
		size, err := file.Size()
		must(t, err)
		// The copy of the footer, the header, the table, what follows it, the header's locators, the footer.
		zones := []struct{ off, n int64 }{{0, 84}, {512, 80}, {1536, 64}, {2048, 3000}, {512 + 576, 192}, {size - footerSize, 84}}
		edit := func(b byte, at int64) {
			_, err := file.WriteAt([]byte{b}, at)
			must(t, err)
		}
		for ; len(edits) >= 4; edits = edits[4:] {
			z := zones[int(edits[0])%len(zones)]
			edit(edits[3], z.off+(int64(edits[1])<<8|int64(edits[2]))%z.n)
		}
		if kind&0x80 != 0 {
			for _, s := range []struct{ off, n, at int64 }{{0, footerSize, 64}, {512, headerSize, 36}, {size - footerSize, footerSize, 64}} {
				b := make([]byte, s.n)
				must(t, readFull(file, b, s.off))
				be.PutUint32(b[s.at:], sum(b, int(s.at)))
				_, err := file.WriteAt(b, s.off)
				must(t, err)
			}
		}
		options := func(ro bool) OpenOptions {
			o := OpenOptions{ReadOnly: ro}
			if in, err := Inspect(file); err == nil && in.Type == "differencing" {
				o.Parent = parentOf(t)
			}
			return o
		}
		mustCheck := func() {
			if _, err := Check(file); err != nil {
				t.Fatalf("Check: %v", err) // memory does not fail
			}
		}
		mustCheck()
		for _, o := range []OpenOptions{options(true), {Bare: true}} {
			if d, err := Open(noClose{file.Snapshot()}, o); err == nil {
				exercise(d)
			}
		}
		var s blocktest.Script
		d, err := Open(noClose{file}, options(false))
		sound := err == nil
		if sound {
			sound = s.Run(ctx, d, work) == nil
			sound = d.Close() == nil && sound
		}
		verify := func(when string) {
			t.Helper()
			if !sound {
				return
			}
			d, err := Open(noClose{file}, options(true))
			if err != nil {
				t.Fatalf("%s: %v", when, err)
			}
			if err := s.Verify(ctx, d); err != nil {
				t.Fatalf("%s: %v", when, err)
			}
			must(t, d.Close())
		}
		verify("opened again")
		mustCheck()
		if _, err := Repair(noClose{file}); err != nil {
			t.Fatalf("Repair: %v", err)
		}
		verify("repaired")
	})
}
