package vhd

import (
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"io"
	"os"
	"testing"

	"lunless/smbstore/block"
)

var ctx = context.Background()

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func memory(t testing.TB, content []byte) *block.MemFile {
	t.Helper()
	f := block.NewMemFile(0)
	_, err := f.WriteAt(content, 0)
	must(t, err)
	return f
}

func windows(t testing.TB) []byte {
	t.Helper()
	packed, err := os.Open("../../testdata/disks/hyperv2012r2-dynamic.vhd.bz2")
	must(t, err)
	defer packed.Close()
	b, err := io.ReadAll(bzip2.NewReader(packed))
	must(t, err)
	return b
}

func TestImageFromWindows(t *testing.T) {
	content := windows(t)
	for _, c := range []struct {
		name   string
		damage func(b []byte)
	}{
		{"as it is", func([]byte) {}},
		{"footer lost, its copy used", func(b []byte) { clear(b[len(b)-footerSize:]) }},
		{"copy lost", func(b []byte) { clear(b[:footerSize]) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(content)
			c.damage(b)
			d, err := Open(memory(t, b), OpenOptions{ReadOnly: true})
			must(t, err)
			if in := d.Info(); in.Type != "dynamic" || in.VirtualSize != 136365211648 || in.BlockSize != 2<<20 {
				t.Errorf("info %+v", in)
			}
			var runs []block.Extent
			must(t, d.Extents(ctx, 0, d.Size(), func(e block.Extent) error { runs = append(runs, e); return nil }))
			if len(runs) != 1 || runs[0] != (block.Extent{Length: d.Size(), State: block.Unallocated}) {
				t.Errorf("extents %+v, want one without data", runs)
			}
			p := bytes.Repeat([]byte{1}, 3<<20)
			must(t, d.ReadAt(ctx, p, 1<<20-5))
			if !block.IsZero(p) {
				t.Error("an empty disk reads as something")
			}
			if err := d.WriteAt(ctx, p, 0, 0); !errors.Is(err, block.ErrReadOnly) {
				t.Errorf("WriteAt = %v", err)
			}
			must(t, d.Close())
		})
	}
}

// dynamic returns an image of two 4 KiB blocks, the second with room, whose
// bitmap has every other sector.
func dynamic(change func(f *footer, h *header)) []byte {
	f := footer{DataOffset: 512, CurrentSize: 8192, Type: typeDynamic}
	h := header{TableOffset: 2048, Entries: 2, BlockSize: 4096}
	change(&f, &h)
	b := make([]byte, 2048+512+512+4096+512)
	f.encode(b)
	h.encode(b[512:])
	copy(b[2048:], []byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 5})
	b[2560] = 0xaa
	for i := range 4096 {
		b[3072+i] = 0x11
	}
	f.encode(b[len(b)-footerSize:])
	return b
}

func TestSectorBitmap(t *testing.T) {
	d, err := Open(memory(t, dynamic(func(*footer, *header) {})), OpenOptions{ReadOnly: true})
	must(t, err)
	p := make([]byte, 8192)
	must(t, d.ReadAt(ctx, p, 0))
	for i, c := range p {
		want := byte(0)
		if i >= 4096 && i/512%2 == 0 {
			want = 0x11
		}
		if c != want {
			t.Fatalf("byte %d is %#x, want %#x", i, c, want)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(f *footer, h *header)
		want   error
	}{
		{"differencing without its parent", func(f *footer, h *header) { f.Type = typeDifferencing }, ErrNoParent},
		{"unknown type", func(f *footer, h *header) { f.Type = 7 }, ErrUnsupported},
		{"no size", func(f *footer, h *header) { f.CurrentSize = 0 }, ErrCorrupt},
		{"size of 2^63", func(f *footer, h *header) { f.CurrentSize = 1 << 63 }, ErrCorrupt},
		{"size beyond the table", func(f *footer, h *header) { f.CurrentSize = 1 << 20 }, ErrCorrupt},
		{"size beyond any table", func(f *footer, h *header) { f.CurrentSize, h.BlockSize, h.Entries = 1<<45, 512, 1<<32-1 }, ErrUnsupported},
		{"fixed beyond the file", func(f *footer, h *header) { f.Type, f.CurrentSize = typeFixed, 1<<20 }, ErrCorrupt},
		{"block size", func(f *footer, h *header) { h.BlockSize = 3000 }, ErrCorrupt},
		{"block size 0", func(f *footer, h *header) { h.BlockSize = 0 }, ErrCorrupt},
		{"table beyond the file", func(f *footer, h *header) { h.TableOffset = 1 << 63 }, ErrCorrupt},
		{"header beyond the file", func(f *footer, h *header) { f.DataOffset = 1 << 40 }, ErrCorrupt},
		{"header at 2^63", func(f *footer, h *header) { f.DataOffset = 1 << 63 }, ErrCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Open(memory(t, dynamic(c.change)), OpenOptions{})
			if !errors.Is(err, c.want) {
				t.Errorf("Open = %v, want %v", err, c.want)
			}
		})
	}
	for n, content := range [][]byte{{}, make([]byte, 511), make([]byte, 4096)} {
		if _, err := Open(memory(t, content), OpenOptions{}); !errors.Is(err, ErrNotVHD) {
			t.Errorf("file %d: Open = %v, want ErrNotVHD", n, err)
		}
	}
}

// noClose is a file that outlives its disk.
type noClose struct{ *block.MemFile }

func (noClose) Close() error { return nil }
