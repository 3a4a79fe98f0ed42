package vhd

import (
	"bytes"
	"errors"
	"testing"

	"lunless/smbstore/block"
	"lunless/smbstore/block/blocktest"
)

// plainFile hides the optional abilities of a file.
type plainFile struct{ block.File }

func mustBeClean(t testing.TB, f block.File) {
	t.Helper()
	r, err := Check(f)
	if err != nil || len(r.Findings) > 0 {
		t.Fatalf("check: %v, findings %+v", err, r.Findings)
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		opts  CreateOptions
		plain bool
	}{
		{"dynamic", CreateOptions{}, false},
		{"dynamic 512K", CreateOptions{BlockSize: 512 << 10}, false},
		{"fixed", CreateOptions{Fixed: true}, false},
		{"file without abilities", CreateOptions{BlockSize: 512 << 10}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			blocktest.Run(t, func(t testing.TB, size int64) blocktest.Fixture {
				var f block.File = noClose{block.NewMemFile(0)}
				if c.plain {
					f = plainFile{f}
				}
				opts := c.opts
				opts.Size = size
				d, err := Create(f, opts)
				must(t, err)
				return blocktest.Fixture{Dev: d, Reopen: func() block.Device {
					must(t, d.Close())
					mustBeClean(t, f)
					d, err = Open(f, OpenOptions{})
					must(t, err)
					return d
				}}
			})
		})
	}
}

// TestConformanceOnSparseBitmaps runs the suite on blocks whose bitmaps leave
// out every other sector, with garbage in their places.
func TestConformanceOnSparseBitmaps(t *testing.T) {
	t.Parallel()
	blocktest.Run(t, func(t testing.TB, size int64) blocktest.Fixture {
		f := noClose{block.NewMemFile(0)}
		d, err := Create(f, CreateOptions{Size: size, BlockSize: 512 << 10})
		must(t, err)
		spoil(t, d, f.MemFile, 0, 1, 3, 5, (size-1)/(512<<10))
		d = reopened(t, f)
		return blocktest.Fixture{Dev: d, Reopen: func() block.Device {
			must(t, d.Close())
			d = reopened(t, f)
			return d
		}}
	})
}

func reopened(t testing.TB, f block.File) *Disk {
	t.Helper()
	d, err := Open(f, OpenOptions{})
	must(t, err)
	return d
}

// spoil gives blocks room with every other bit of the bitmap set, zeroes there,
// and garbage in the sectors without a bit; it closes d.
func spoil(t testing.TB, d *Disk, f *block.MemFile, blocks ...int64) {
	t.Helper()
	for _, blk := range blocks {
		must(t, d.WriteZeroes(ctx, blk*d.blockSize, 512, block.NoUnmap))
		must(t, d.Flush(ctx))
		at := int64(d.table[blk].Load()) * SectorSize
		_, err := f.WriteAt(bytes.Repeat([]byte{0xaa}, int(d.blockSize/SectorSize/8)), at)
		must(t, err)
		for s := int64(1); s < d.blockSize/SectorSize; s += 2 {
			_, err := f.WriteAt(bytes.Repeat([]byte{0xbd}, SectorSize), at+d.mapSize+s*SectorSize)
			must(t, err)
		}
	}
	must(t, d.Close())
}

func TestCreateRefused(t *testing.T) {
	for _, o := range []CreateOptions{
		{}, {Size: 511}, {Size: 1000}, {Size: 2040<<30 + 512}, {Size: -512}, {Size: 1 << 20, BlockSize: 3 << 20},
		{Size: 1 << 20, BlockSize: 256 << 10}, {Size: 1 << 20, BlockSize: 512 << 20}, {Size: 1 << 20, BlockSize: -1},
	} {
		if _, err := Create(block.NewMemFile(0), o); !errors.Is(err, ErrBadOptions) {
			t.Errorf("%+v: %v, want ErrBadOptions", o, err)
		}
	}
}

// TestFootersRestored: opening for writing restores a footer; reading leaves it.
func TestFootersRestored(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(f *block.MemFile, size int64) error
	}{
		{"end", func(f *block.MemFile, size int64) error { return f.PunchHole(size-footerSize, footerSize) }},
		{"end, one byte", func(f *block.MemFile, size int64) error { _, err := f.WriteAt([]byte{1}, size-3); return err }},
		{"end cut off", func(f *block.MemFile, size int64) error { return f.Truncate(size - footerSize) }},
		{"a lost block behind", func(f *block.MemFile, size int64) error { _, err := f.WriteAt(make([]byte, 99999), size+5); return err }},
		{"another disk's", func(f *block.MemFile, size int64) error {
			b := make([]byte, footerSize)
			(&footer{DataOffset: 512, CurrentSize: 5 << 20, Type: typeDynamic, ID: [16]byte{1}}).encode(b)
			_, err := f.WriteAt(b, size+4096)
			return err
		}},
		{"start", func(f *block.MemFile, size int64) error { return f.PunchHole(0, footerSize) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := noClose{block.NewMemFile(0)}
			d, err := Create(f, CreateOptions{Size: 20 << 20})
			must(t, err)
			p := bytes.Repeat([]byte{7}, 5000)
			must(t, d.WriteAt(ctx, p, 3<<20, 0))
			must(t, d.Close())
			size, _ := f.Size()
			must(t, c.damage(f.MemFile, size))
			damaged, _ := f.Size()
			before := make([]byte, damaged)
			must(t, readFull(f, before, 0))
			if r, err := Check(f); err != nil || !r.Clean() || len(r.Findings) == 0 {
				t.Errorf("check: %v %+v, want notes", err, r.Findings)
			}
			for _, ro := range []bool{true, false} {
				d, err := Open(f, OpenOptions{ReadOnly: ro})
				must(t, err)
				if ro {
					after := make([]byte, damaged)
					must(t, readFull(f, after, 0))
					if !bytes.Equal(before, after) {
						t.Error("opening for reading changed the file")
					}
				}
				got := make([]byte, 5000)
				must(t, d.ReadAt(ctx, got, 3<<20))
				if !bytes.Equal(got, p) {
					t.Error("content differs")
				}
				must(t, d.Close())
			}
			mustBeClean(t, f)
			if now, _ := f.Size(); now != size {
				t.Errorf("file of %d bytes, was %d", now, size)
			}
		})
	}
}

// TestCheckFinds names what is wrong with a table.
func TestCheckFinds(t *testing.T) {
	for _, c := range []struct {
		name  string
		entry func(d *Disk) uint32
	}{
		{"outside", func(d *Disk) uint32 { return 1 << 30 }},
		{"the last sector", func(d *Disk) uint32 { return unused - 1 }},
		{"header", func(d *Disk) uint32 { return 1 }},
		{"table", func(d *Disk) uint32 { return 3 }},
		{"another block's", func(d *Disk) uint32 { return d.table[0].Load() }},
		{"part of another's", func(d *Disk) uint32 { return d.table[0].Load() - 1 }},
		{"footer", func(d *Disk) uint32 { return uint32(d.space.end/512) - uint32((d.blockSize+d.mapSize)/512) + 1 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := noClose{block.NewMemFile(0)}
			d, err := Create(f, CreateOptions{Size: 20 << 20})
			must(t, err)
			must(t, d.WriteAt(ctx, []byte{1}, 0, 0))
			must(t, d.WriteAt(ctx, []byte{1}, 3<<20, 0))
			must(t, d.Close())
			b := be.AppendUint32(nil, c.entry(d))
			_, err = f.WriteAt(b, tableOffset+7*4)
			must(t, err)
			r, err := Check(f)
			must(t, err)
			if r.Clean() {
				t.Fatalf("nothing found: %+v", r)
			}
			if _, err := Open(f, OpenOptions{}); !errors.Is(err, ErrCorrupt) {
				t.Errorf("open for writing: %v", err)
			}
			ro, err := Open(f, OpenOptions{ReadOnly: true}) // to rescue the rest
			must(t, err)
			p := make([]byte, 1)
			must(t, ro.ReadAt(ctx, p, 3<<20))
			if p[0] != 1 {
				t.Error("a block in its place cannot be read")
			}
		})
	}
}

// TestFlushesAreShared: many new blocks cost two syncs, one flush without any one.
func TestFlushesAreShared(t *testing.T) {
	syncs := 0
	count := func(op block.Op) bool {
		if op.Kind == block.OpFlush {
			syncs++
		}
		return false
	}
	f := block.NewInterceptFile(block.NewMemFile(0), block.FailIf(count, nil))
	d, err := Create(f, CreateOptions{Size: 1 << 30})
	must(t, err)
	for _, want := range []int{2, 1} {
		for blk := range int64(64) {
			must(t, d.WriteAt(ctx, []byte{1}, blk*d.blockSize, 0))
		}
		syncs = 0
		must(t, d.Flush(ctx))
		if syncs != want {
			t.Errorf("%d syncs, want %d", syncs, want)
		}
	}
	must(t, d.Close())
}

// TestFailedFlush: after one, the disk stays failed.
func TestFailedFlush(t *testing.T) {
	broken := errors.New("broken")
	on := false
	f := block.NewInterceptFile(block.NewMemFile(0), block.FailIf(func(op block.Op) bool { return on && op.Kind == block.OpFlush }, broken))
	d, err := Create(f, CreateOptions{Size: 1 << 30})
	must(t, err)
	must(t, d.WriteAt(ctx, []byte{1}, 0, 0))
	on = true
	if err := d.Flush(ctx); !errors.Is(err, broken) || !errors.Is(err, block.ErrFailed) {
		t.Errorf("Flush = %v", err)
	}
	on = false
	if err := d.WriteAt(ctx, []byte{1}, 0, 0); !errors.Is(err, block.ErrFailed) {
		t.Errorf("WriteAt = %v", err)
	}
	must(t, d.Close())
}
