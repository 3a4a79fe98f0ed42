package vhdx

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"lunless/smbstore/block"
)

// unit is what a content model tells apart.
const unit = 4096

// content is what a disk should hold: the number that fills a unit, for each that
// is not zero.
type content map[int64]uint64

// write fills n units from unit at on with tags of their own.
func (c content) write(t testing.TB, d *Disk, at, n int64, tag uint64) {
	t.Helper()
	p := make([]byte, n*unit)
	for i := range n {
		pattern(p[i*unit:(i+1)*unit], tag+uint64(i))
		c[at+i] = tag + uint64(i)
	}
	must(t, d.WriteAt(ctx, p, at*unit, 0))
}

// cut forgets what lies past a size.
func (c content) cut(size int64) {
	for u := range c {
		if u*unit >= size {
			delete(c, u)
		}
	}
}

// verify reads all of the disk.
func (c content) verify(d *Disk) error {
	buf, one := make([]byte, mib), make([]byte, unit)
	for off := int64(0); off < d.Size(); off += mib {
		p := buf[:min(mib, d.Size()-off)]
		if err := d.ReadAt(context.Background(), p, off); err != nil {
			return err
		}
		for i := int64(0); i < int64(len(p)); i += unit {
			got, want := p[i:min(i+unit, int64(len(p)))], c[(off+i)/unit]
			if pattern(one, want); string(got) != string(one[:len(got)]) {
				return fmt.Errorf("disk offset %#x holds %d, want %d", off+i, le.Uint64(got), want)
			}
		}
	}
	return nil
}

// reopen closes a disk, checks the file and opens it again.
func reopen(t testing.TB, d *Disk, f *block.MemFile) *Disk {
	t.Helper()
	must(t, d.Close())
	clean(t, f)
	d, err := Open(noClose{f}, OpenOptions{})
	must(t, err)
	return d
}

// clean demands that a file checks clean, with nothing to say but where it has
// room.
func clean(t testing.TB, f *block.MemFile) {
	t.Helper()
	r, err := Check(f)
	must(t, err)
	for _, x := range r.Findings {
		if x.Severity == Damage || !strings.Contains(x.What, "are not in use") {
			t.Fatalf("check:%s", list(r.Findings))
		}
	}
}

// resizeLikeModel resizes and demands the outcome that the content implies.
func resizeLikeModel(t testing.TB, d *Disk, c content, size int64) {
	t.Helper()
	first := int64(-1)
	for u := range c {
		if u*unit >= size && (first < 0 || u*unit < first) {
			first = u * unit
		}
	}
	old := d.Size()
	err := d.Resize(ctx, size)
	var tail *TailInUseError
	switch {
	case first < 0 && err != nil:
		t.Fatalf("resize from %d to %d: %v", old, size, err)
	case first >= 0 && (!errors.As(err, &tail) || !errors.Is(err, ErrTailInUse) || tail.Offset != first):
		t.Fatalf("resize from %d to %d with data at %d: %v", old, size, first, err)
	case first >= 0 && d.Size() != old, first < 0 && d.Size() != size:
		t.Fatalf("resize from %d to %d: %v, and the size is %d", old, size, err, d.Size())
	}
}

// TestResizeMovesBAT grows disks past what their BAT region holds.
func TestResizeMovesBAT(t *testing.T) {
	for _, fixed := range []bool{false, true} {
		f := block.NewMemFile(0)
		d, err := Create(noClose{f}, CreateOptions{Size: 100 * mib, BlockSize: mib, Fixed: fixed})
		must(t, err)
		c := content{}
		c.write(t, d, 0, 3, 1)
		c.write(t, d, 99*256, 3, 10)
		size := int64(200)<<30 + 512 // 1.6 MiB of BAT
		must(t, d.Resize(ctx, size))
		if d.Size() != size || d.Info().VirtualSize != size {
			t.Fatalf("size %d", d.Size())
		}
		last := size - size%unit - unit
		read := func() {
			t.Helper()
			one, got := make([]byte, unit), make([]byte, unit)
			for u, tag := range c {
				must(t, d.ReadAt(ctx, got, u*unit))
				if pattern(one, tag); string(got) != string(one) {
					t.Errorf("fixed %v: unit %d holds %d", fixed, u, le.Uint64(got))
				}
			}
		}
		c.write(t, d, last/unit, 1, 77)
		if !fixed { // the BAT's old place serves as a block's
			if e, err := d.lookup(last / mib); err != nil || e.offset() != batStart {
				t.Errorf("the old BAT's room is not used again: %#x %v", e.offset(), err)
			}
		}
		c.write(t, d, 150*mib/unit, 1, 78)
		read()
		d = reopen(t, d, f)
		read()
		if im, err := loadImage(f); err != nil || im.bat.Offset == batStart || im.bat.Length != 2*mib {
			t.Errorf("BAT at %d: %v", im.bat.Offset, err)
		}
		if fixed { // to look for data in it page by page takes a file in memory long
			must(t, d.Close())
			continue
		}
		// And back: the tail is what was written.
		var tail *TailInUseError
		if err := d.Resize(ctx, 100*mib); !errors.As(err, &tail) || tail.Offset != 150*mib {
			t.Error(err)
		}
		for u := range c {
			if u*unit >= 100*mib {
				must(t, d.WriteZeroes(ctx, u*unit, unit, 0))
			}
		}
		c.cut(100 * mib)
		must(t, d.Resize(ctx, 100*mib))
		read()
		d = reopen(t, d, f)
		read()
		must(t, d.Close())
		if size, _ := f.Size(); size > 110*mib {
			t.Errorf("fixed %v: the file has %d bytes", fixed, size)
		}
		clean(t, f)
	}
}

// TestResizeRefused: sizes that Create refuses, and what cannot be changed.
func TestResizeRefused(t *testing.T) {
	f := small(t, true)
	d, err := Open(noClose{f}, OpenOptions{})
	must(t, err)
	for _, size := range []int64{0, -mib, mib - 512, 64<<40 + 512, 8*mib + 1, 1<<63 - 512} {
		if err := d.Resize(ctx, size); !errors.Is(err, ErrBadOptions) {
			t.Errorf("%d: %v", size, err)
		}
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	if err := d.Resize(done, 16*mib); !errors.Is(err, context.Canceled) || d.Size() != 8*mib {
		t.Errorf("%v, size %d", err, d.Size())
	}
	must(t, d.Resize(ctx, 8*mib))
	must(t, d.Close())
	if err := d.Resize(ctx, 16*mib); !errors.Is(err, block.ErrClosed) {
		t.Error(err)
	}
	d, err = Open(noClose{f}, OpenOptions{ReadOnly: true})
	must(t, err)
	if err := d.Resize(ctx, 16*mib); !errors.Is(err, block.ErrReadOnly) {
		t.Error(err)
	}
}

// TestResizeGUIDs: a new size is a change of what the user sees (MS-VHDX 2.2.2).
func TestResizeGUIDs(t *testing.T) {
	f := small(t, true)
	was, err := Inspect(f)
	must(t, err)
	d, err := Open(noClose{f}, OpenOptions{})
	must(t, err)
	must(t, d.Resize(ctx, 9*mib))
	must(t, d.Close())
	is, err := Inspect(f)
	must(t, err)
	if is.DataWriteGUID == was.DataWriteGUID || is.FileWriteGUID == was.FileWriteGUID || is.VirtualSize != 9*mib || is.ID != was.ID {
		t.Errorf("%+v, was %+v", is, was)
	}
}

// TestGrowShowsNothing: what lay past the disk's end in its file does not come to
// light.
func TestGrowShowsNothing(t *testing.T) {
	f := block.NewMemFile(0)
	d, err := Create(noClose{f}, CreateOptions{Size: 3*mib + unit, BlockSize: mib})
	must(t, err)
	c := content{}
	c.write(t, d, 0, 1, 1)
	c.write(t, d, 3*mib/unit, 1, 2)
	must(t, d.Close())
	put(t, f, 5*mib+unit, []byte("past the end, in the last block"))
	putEntry(t, f, 4, makeEntry(statePresent, 4*mib))
	putEntry(t, f, 100000, makeEntry(stateUnmapped, 4*mib))
	d, err = Open(noClose{f}, OpenOptions{})
	must(t, err)
	must(t, d.Resize(ctx, 8*mib))
	must(t, c.verify(d))
	d = reopen(t, d, f)
	must(t, c.verify(d))
	must(t, d.Close())
}

// TestShrinkNamesPartitions: a disk whose guest has a GPT.
func TestShrinkNamesPartitions(t *testing.T) {
	for _, sector := range []int64{512, 4096} {
		f := block.NewMemFile(0)
		size := int64(64 * mib)
		d, err := Create(noClose{f}, CreateOptions{Size: size, BlockSize: mib, LogicalSectorSize: int(sector)})
		must(t, err)
		const count, each = 128, 128
		table := size/sector - 1 - count*each/sector
		hdr := make([]byte, sector)
		copy(hdr, "EFI PART")
		le.PutUint64(hdr[72:], uint64(table))
		le.PutUint32(hdr[80:], count)
		le.PutUint32(hdr[84:], each)
		entries := make([]byte, count*each)
		for i, last := range []int64{5*mib/sector - 1, 20*mib/sector - 1, 9} {
			copy(entries[i*each:], "a type, not nil.")
			le.PutUint64(entries[i*each+40:], uint64(last))
		}
		must(t, d.WriteAt(ctx, hdr, size-sector, 0))
		must(t, d.WriteAt(ctx, entries, table*sector, 0))
		for _, to := range []int64{10 * mib, 32 * mib} {
			var tail *TailInUseError
			err = d.Resize(ctx, to)
			if !errors.As(err, &tail) || tail.PartitionsEnd != 20*mib || tail.Offset != table*sector/unit*unit {
				t.Errorf("to %d: %v", to, err)
			}
		}
		// Nonsense in the header is not followed.
		for _, spoil := range []func(){
			func() { le.PutUint64(hdr[72:], 1<<63) }, func() { le.PutUint64(hdr[72:], uint64(size/sector)-2) },
			func() { le.PutUint32(hdr[80:], 1<<31) }, func() { le.PutUint32(hdr[84:], 0) },
		} {
			spoil()
			must(t, d.WriteAt(ctx, hdr, size-sector, 0))
			var tail *TailInUseError
			if err = d.Resize(ctx, 10*mib); !errors.As(err, &tail) || tail.PartitionsEnd != 0 {
				t.Error(err)
			}
		}
		must(t, d.Close())
	}
}

// TestShrinkAgainstWriter: of a write to the tail and a Resize that cuts it, one
// comes first, whether the block has room or not.
func TestShrinkAgainstWriter(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for _, fixed := range []bool{false, true} {
		f := block.NewMemFile(0)
		d, err := Create(noClose{f}, CreateOptions{Size: 8 * mib, BlockSize: mib, Fixed: fixed})
		must(t, err)
		for range 150 {
			off := 4*mib + rnd.Int64N(4*mib)/512*512
			wrote := make(chan error, 1)
			go func() { wrote <- d.WriteAt(ctx, []byte{1}, off, 0) }()
			cut := d.Resize(ctx, 4*mib)
			written := <-wrote
			switch {
			case cut == nil && errors.Is(written, block.ErrOutOfRange) && d.Size() == 4*mib:
				must(t, d.Resize(ctx, 8*mib))
			case errors.Is(cut, ErrTailInUse) && written == nil && d.Size() == 8*mib:
				got := []byte{0}
				must(t, d.ReadAt(ctx, got, off))
				if got[0] != 1 {
					t.Fatal("the write is gone")
				}
			default:
				t.Fatalf("resize: %v; write at %d: %v; size %d", cut, off, written, d.Size())
			}
			must(t, d.WriteZeroes(ctx, off, 1, 0))
		}
		must(t, content{}.verify(d))
		d = reopen(t, d, f)
		must(t, d.Close())
	}
}

// onExtents calls do, once, when the file is asked for its holes.
type onExtents struct {
	*block.MemFile
	do func()
}

func (f *onExtents) Close() error { return nil }

func (f *onExtents) FileExtents(off, n int64, visit func(block.Extent) error) error {
	if do := f.do; do != nil {
		f.do = nil
		do()
	}
	return f.MemFile.FileExtents(off, n, visit)
}

// farther is a size for which the BAT of a small disk in blocks of 1 MiB moves.
const farther = 200 << 30

// TestExtentsWhileBATMoves: a walk that began at the old BAT, whose room is a
// block's meanwhile, misses nothing.
func TestExtentsWhileBATMoves(t *testing.T) {
	f := &onExtents{MemFile: block.NewMemFile(0)}
	d, err := Create(f, CreateOptions{Size: 8 * mib, BlockSize: mib})
	must(t, err)
	must(t, d.WriteAt(ctx, []byte("data"), 5*mib, 0))
	must(t, d.Close())
	d, err = Open(f, OpenOptions{}) // with an empty cache
	must(t, err)
	f.do = func() {
		must(t, d.Resize(ctx, farther))
		must(t, d.WriteAt(ctx, []byte("x"), mib+mib/2, 0))
		if e, err := d.lookup(1); err != nil || e.offset() != batStart {
			t.Fatalf("block 1 lies at %#x, want the old BAT's place (%v)", e.offset(), err)
		}
	}
	found := false
	must(t, d.Extents(ctx, 0, 8*mib, func(e block.Extent) error {
		found = found || e.State == block.Data && e.Offset <= 5*mib && e.Offset+e.Length > 5*mib
		return nil
	}))
	if !found || f.do != nil {
		t.Error("a block with data is not told of")
	}
	must(t, d.Close())
}

// TestMoveBATBack: what was read late of a BAT's old place does not count when
// the BAT comes back to it.
func TestMoveBATBack(t *testing.T) {
	f := block.NewMemFile(0)
	d, err := Create(noClose{f}, CreateOptions{Size: 8 * mib, BlockSize: mib})
	must(t, err)
	must(t, d.WriteAt(ctx, []byte("gone"), 0, 0))
	must(t, d.WriteAt(ctx, []byte("kept"), 7*mib, 0))
	must(t, d.Resize(ctx, farther))
	_, err = d.meta.word(batStart)
	must(t, err)
	must(t, d.Trim(ctx, 0, mib)) // room for the BAT
	_, err = d.Compact(ctx, CompactOptions{}, nil)
	must(t, err)
	if at := d.geo.Load().bat; at != batStart {
		t.Fatalf("the BAT lies at %#x, want %#x", at, batStart)
	}
	if e, err := d.lookup(0); err != nil || e.reserves() {
		t.Errorf("entry of the trimmed block: %#x, %v", uint64(e), err)
	}
	must(t, d.Close())
	clean(t, f)
}
