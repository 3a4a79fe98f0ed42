package vhd

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"lunless/smbstore/block"
)

// TestShortFooter: Virtual PC before 2004 left out the footer's last byte.
func TestShortFooter(t *testing.T) {
	for _, fixed := range []bool{true, false} {
		f := noClose{block.NewMemFile(0)}
		d, err := Create(f, CreateOptions{Size: 5 << 20, Fixed: fixed})
		must(t, err)
		p := bytes.Repeat([]byte{7}, 5000)
		must(t, d.WriteAt(ctx, p, 3<<20, 0))
		must(t, d.Close())
		size, _ := f.Size()
		must(t, f.Truncate(size-1))
		if fixed { // no copy at the start to fall back to
			if in, err := Inspect(f); err != nil || in.VirtualSize != 5<<20 || in.Type != "fixed" {
				t.Errorf("%+v, %v", in, err)
			}
		}
		for _, ro := range []bool{true, false} {
			d, err := Open(f, OpenOptions{ReadOnly: ro})
			must(t, err)
			got := make([]byte, len(p))
			must(t, d.ReadAt(ctx, got, 3<<20))
			if !bytes.Equal(got, p) {
				t.Error("content differs")
			}
			if !ro {
				must(t, d.WriteAt(ctx, p, 0, 0))
			}
			must(t, d.Close())
		}
		r, err := Repair(f)
		if err != nil || !r.Clean() || len(r.Findings) != 0 || len(r.Mended) != map[bool]int{true: 1}[fixed] {
			t.Errorf("fixed %v: repair: %+v, %v", fixed, r, err)
		}
		mustBeClean(t, f)
	}
}

// TestRepair: footers are mended, and nothing else is touched.
func TestRepair(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, f *block.MemFile, size int64)
		mended string
		left   string
	}{
		{"whole", func(*testing.T, *block.MemFile, int64) {}, "", ""},
		{"end lost", func(t *testing.T, f *block.MemFile, size int64) { must(t, f.PunchHole(size-512, 512)) }, "footer at the end", ""},
		{"end cut within", func(t *testing.T, f *block.MemFile, size int64) { must(t, f.Truncate(size-200)) }, "footer at the end", ""},
		{"start lost", func(t *testing.T, f *block.MemFile, size int64) { must(t, f.PunchHole(0, 512)) }, "copy of the footer", ""},
		{"start differs", func(t *testing.T, f *block.MemFile, size int64) { reseal(t, f, 0, footerSize, 64, 24) }, "differ", ""},
		{"entry outside", func(t *testing.T, f *block.MemFile, size int64) {
			_, err := f.WriteAt([]byte{0x7f}, tableOffset+4*9)
			must(t, err)
		}, "", "not touched"},
		{"entry outside, end lost", func(t *testing.T, f *block.MemFile, size int64) {
			_, err := f.WriteAt([]byte{0x7f}, tableOffset+4*9)
			must(t, err)
			must(t, f.PunchHole(size-512, 512))
		}, "", "not touched: with blocks"},
		{"header", func(t *testing.T, f *block.MemFile, size int64) { must(t, f.PunchHole(headerOffset+31, 1)) }, "", "not touched"},
		{"both footers", func(t *testing.T, f *block.MemFile, size int64) {
			_, e1 := f.WriteAt([]byte{1}, 300)
			_, e2 := f.WriteAt([]byte{1}, size-200)
			must(t, errors.Join(e1, e2))
		}, "", "not touched"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := noClose{block.NewMemFile(0)}
			d, err := Create(f, CreateOptions{Size: 40 << 20})
			must(t, err)
			p := bytes.Repeat([]byte{7}, 5000)
			must(t, d.WriteAt(ctx, p, 3<<20, 0))
			must(t, d.Close())
			size, _ := f.Size()
			c.damage(t, f.MemFile, size)
			r, err := Repair(f)
			must(t, err)
			mended, left := "", ""
			for _, x := range r.Mended {
				mended += x.What + "\n"
			}
			for _, x := range r.Left {
				left += x.What + "\n"
			}
			if !strings.Contains(mended, c.mended) || (mended == "") != (c.mended == "") {
				t.Errorf("mended %q, want %q", mended, c.mended)
			}
			if !strings.Contains(left, c.left) || (left == "") != (c.left == "") {
				t.Errorf("left %q, want %q", left, c.left)
			}
			if c.left != "" {
				return
			}
			if now, _ := f.Size(); now != size {
				t.Errorf("file of %d bytes, was %d", now, size)
			}
			mustBeClean(t, f)
			d, err = Open(f, OpenOptions{ReadOnly: true})
			must(t, err)
			got := make([]byte, len(p))
			must(t, d.ReadAt(ctx, got, 3<<20))
			if !bytes.Equal(got, p) {
				t.Error("content differs")
			}
		})
	}
}

// reseal changes a byte of a structure of n bytes whose checksum is at sumAt, and
// makes the checksum right again.
func reseal(t *testing.T, f *block.MemFile, off, n int64, sumAt, at int) {
	t.Helper()
	b := make([]byte, n)
	must(t, readFull(f, b, off))
	b[at]++
	be.PutUint32(b[sumAt:], sum(b, sumAt))
	_, err := f.WriteAt(b, off)
	must(t, err)
}

// TestSelfParent: a disk that names itself as its parent is damaged.
func TestSelfParent(t *testing.T) {
	f := noClose{block.NewMemFile(0)}
	l := link()
	d, err := Create(f, CreateOptions{Size: 1 << 20, ID: l.ID, Parent: l, ParentDevice: block.NewMem(1 << 20)})
	must(t, err)
	must(t, d.Close())
	if r, err := Check(f); err != nil || r.Clean() || !strings.Contains(r.Findings[0].What, "itself") {
		t.Errorf("check: %+v, %v", r.Findings, err)
	}
}
