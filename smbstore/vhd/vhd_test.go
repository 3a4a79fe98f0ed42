package vhd

import (
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
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
			d, err := Open(memory(t, b))
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

// TestPeer reads what qemu-img wrote.
func TestPeer(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Fatal("qemu-img is missing: install the package qemu-utils")
	}
	for _, kind := range []string{"fixed", "dynamic"} {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			raw, img := filepath.Join(dir, "a.raw"), filepath.Join(dir, "a.vhd")
			want := make([]byte, 9<<20+512*3)
			for _, at := range []int{0, 2<<20 - 300, 5 << 20, len(want) - 700} {
				copy(want[at:], bytes.Repeat([]byte{byte(at>>9) | 1}, 700))
			}
			must(t, os.WriteFile(raw, want, 0o600))
			out, err := exec.Command("qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", "force_size=on,subformat="+kind, raw, img).CombinedOutput()
			if err != nil {
				t.Fatalf("qemu-img: %v\n%s", err, out)
			}
			f, err := block.OpenLocal(img, os.O_RDONLY, 0)
			must(t, err)
			d, err := Open(f)
			must(t, err)
			defer d.Close()
			if d.Info().Type != kind || d.Size() != int64(len(want)) {
				t.Fatalf("info %+v, want %s of %d bytes", d.Info(), kind, len(want))
			}
			got := make([]byte, len(want))
			must(t, d.ReadAt(ctx, got, 0))
			if !bytes.Equal(got, want) {
				t.Error("content differs")
			}
			must(t, d.ReadAt(ctx, got[:1000], 2<<20-500))
			if !bytes.Equal(got[:1000], want[2<<20-500:][:1000]) {
				t.Error("content across blocks differs")
			}
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
	d, err := Open(memory(t, dynamic(func(*footer, *header) {})))
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
		{"differencing", func(f *footer, h *header) { f.Type = typeDifferencing }, ErrDifferencing},
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
			_, err := Open(memory(t, dynamic(c.change)))
			if !errors.Is(err, c.want) {
				t.Errorf("Open = %v, want %v", err, c.want)
			}
		})
	}
	for n, content := range [][]byte{{}, make([]byte, 511), make([]byte, 4096)} {
		if _, err := Open(memory(t, content)); !errors.Is(err, ErrNotVHD) {
			t.Errorf("file %d: Open = %v, want ErrNotVHD", n, err)
		}
	}
}

// FuzzOpen: a mutated image gives an error or a disk that can be read; what
// parses re-encodes to what parses to the same.
func FuzzOpen(f *testing.F) {
	f.Add(dynamic(func(*footer, *header) {}), uint16(60), byte(2))
	f.Add(dynamic(func(f *footer, _ *header) { f.CurrentSize = 4096 }), uint16(0), byte(0))
	f.Fuzz(func(t *testing.T, b []byte, at uint16, with byte) {
		if len(b) >= 1536 {
			b = bytes.Clone(b)
			b[int(at)%1536] ^= with
			be.PutUint32(b[64:], sum(b[:512], 64))
			be.PutUint32(b[512+36:], sum(b[512:1536], 36))
			copy(b[len(b)-footerSize:], b[:footerSize])
		}
		d, err := Open(memory(t, b))
		if err != nil {
			return
		}
		p := make([]byte, min(d.Size(), 10000))
		_ = d.ReadAt(ctx, p, 0)
		_ = d.ReadAt(ctx, p, d.Size()-int64(len(p)))
		_ = d.Extents(ctx, 0, min(d.Size(), 1<<30), func(block.Extent) error { return nil })
		ft, err := findFooter(d.f, d.fileSize)
		must(t, err)
		again := make([]byte, footerSize)
		ft.encode(again)
		if back, err := decodeFooter(again, 0); err != nil || back != ft {
			t.Fatalf("footer %+v comes back as %+v: %v", ft, back, err)
		}
	})
}
