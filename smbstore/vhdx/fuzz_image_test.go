package vhdx

import (
	"bytes"
	"testing"

	"lunless/smbstore/block"
	"lunless/smbstore/block/blocktest"
)

// base returns a parent with data in it.
func base(t testing.TB) block.Device {
	t.Helper()
	d := block.NewMem(8 * mib)
	must(t, d.WriteAt(ctx, bytes.Repeat([]byte{0xba}, 60<<10), mib-30<<10, 0))
	return d
}

// smallChild returns a differencing disk of 8 blocks with a parent like base.
func smallChild(t testing.TB, closed bool) *block.MemFile {
	t.Helper()
	f := block.NewMemFile(0)
	d, err := Create(noClose{f}, CreateOptions{BlockSize: mib, Parent: &ParentLink{Linkage: GUID{1}, Relative: `.\base.vhdx`}, ParentDevice: base(t)})
	must(t, err)
	for i := range int64(3) {
		must(t, d.WriteAt(ctx, bytes.Repeat([]byte{byte(i + 1)}, 5000), i*2*mib+100, 0))
		must(t, d.Flush(ctx))
	}
	must(t, d.WriteZeroes(ctx, mib, mib, 0))
	if closed {
		must(t, d.Close())
	}
	return f
}

// childZones are besides zones what is a child's: the locator, the entry of the
// sector bitmap block, that block.
var childZones = []zone{
	{metaStart + metadataTableSize, 400}, {batStart + 4096*8, 8}, {4 * mib, 64}, {5 * mib, 64}, {6 * mib, 64},
}

// FuzzImage edits an image of any kind, opens it, has a script of requests work
// on it, closes, checks, repairs and opens it again. What opened and said it had
// written, flushed and closed must then be there.
func FuzzImage(f *testing.F) {
	images := []*block.MemFile{small(f, true), small(f, false), fixedSmall(f), smallChild(f, true), smallChild(f, false)}
	all := append(zones[:len(zones):len(zones)], childZones...)
	work := []byte{0x00, 1, 0x21, 2, 0x42, 3, 0x07, 0, 0x23, 0, 0x83, 0, 0x44, 0, 0xf8, 9, 0x06, 200, 0x05, 0, 0x0f, 0}
	for kind := range images {
		f.Add(byte(kind), []byte{}, work)
		f.Add(byte(kind), []byte{1, 0, 72, 7, 2, 0, 72, 7, 8, 0, 2, 0x50}, work)
		f.Add(byte(kind|0x80), []byte{5, 0, 24, 3, 7, 0, 0, 0, 11, 0, 0, 0xff}, work)
	}
	f.Fuzz(func(t *testing.T, kind byte, edits, work []byte) {
		which := int(kind&0x7f) % len(images)
		if len(edits) > 400 || len(work) > 400 {
			return
		}
		file := images[which].Snapshot()
		for ; len(edits) >= 4; edits = edits[4:] {
			z := all[int(edits[0])%len(all)]
			put(t, file, z.off+(int64(edits[1])<<8|int64(edits[2]))%z.n, edits[3:4])
		}
		if kind&0x80 != 0 {
			repair(t, file)
		}
		options := func(ro bool) OpenOptions {
			o := OpenOptions{ReadOnly: ro}
			if in, err := Inspect(file); err == nil && in.Type == "differencing" {
				o.Parent = base(t)
			}
			return o
		}
		mustCheck := func() {
			if _, err := Check(file); err != nil {
				t.Fatalf("Check: %v", err) // memory does not fail
			}
		}
		mustCheck()
		if d, err := Open(noClose{file.Snapshot()}, options(true)); err == nil {
			exercise(t, d)
		}
		if d, err := Open(noClose{file}, OpenOptions{Bare: true}); err == nil {
			exercise(t, d)
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
		mustCheck()
		verify("repaired")
	})
}
