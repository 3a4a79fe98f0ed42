package vhdx

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
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

// small returns the image of a disk with data in it, closed in order or not.
func small(t testing.TB, closed bool) *block.MemFile {
	t.Helper()
	f := block.NewMemFile(0)
	d, err := Create(noClose{f}, CreateOptions{Size: 8 * mib, BlockSize: mib})
	must(t, err)
	for i := range int64(3) {
		must(t, d.WriteAt(ctx, bytes.Repeat([]byte{byte(i + 1)}, 5000), i*2*mib+100, 0))
		must(t, d.Flush(ctx))
	}
	if closed {
		must(t, d.Close())
	}
	return f
}

func readAll(t testing.TB, f *block.MemFile, off, n int64) []byte {
	t.Helper()
	b := make([]byte, n)
	must(t, readFull(f, b, off))
	return b
}

func put(t testing.TB, f *block.MemFile, off int64, b []byte) {
	t.Helper()
	_, err := f.WriteAt(b, off)
	must(t, err)
}

// fixTable changes the first region table, makes it valid again and spoils the copy.
func fixTable(t testing.TB, f *block.MemFile, change func(b []byte)) {
	t.Helper()
	b := readAll(t, f, regionTableOffsets[0], regionTableSize)
	change(b)
	le.PutUint32(b[4:], checksum(b))
	put(t, f, regionTableOffsets[0], b)
	put(t, f, regionTableOffsets[1], make([]byte, 16))
}

// fixHeader changes both headers alike but for their sequence numbers.
func fixHeader(t testing.TB, f *block.MemFile, change func(h *header)) {
	t.Helper()
	for _, off := range headerOffsets {
		b := readAll(t, f, off, headerSize)
		h, err := decodeHeader(b, off)
		must(t, err)
		change(&h)
		h.encode(b)
		put(t, f, off, b)
	}
}

// fixMetadata changes the metadata region's first 128 KiB.
func fixMetadata(t testing.TB, f *block.MemFile, change func(b []byte)) {
	t.Helper()
	b := readAll(t, f, metaStart, 128<<10)
	change(b)
	put(t, f, metaStart, b)
}

func addRegion(b []byte, r region) {
	n := le.Uint32(b[8:])
	le.PutUint32(b[8:], n+1)
	e := b[regionHeaderSize+n*regionEntrySize:]
	copy(e, r.GUID[:])
	le.PutUint64(e[16:], r.Offset)
	le.PutUint32(e[24:], r.Length)
	e[28] = map[bool]byte{true: 1}[r.Required]
}

func addItem(b []byte, id GUID, flags uint32) {
	n := le.Uint16(b[10:])
	le.PutUint16(b[10:], n+1)
	e := b[(int(n)+1)*metadataEntrySize:]
	copy(e, id[:])
	le.PutUint32(e[16:], 100<<10)
	le.PutUint32(e[20:], 8)
	le.PutUint32(e[24:], flags)
}

func sameFile(t testing.TB, a, b *block.MemFile) {
	t.Helper()
	na, _ := a.Size()
	nb, _ := b.Size()
	if na != nb || !bytes.Equal(readAll(t, a, 0, na), readAll(t, b, 0, nb)) {
		t.Fatal("the file has been changed")
	}
}

// TestKept: what is optional and not known stays as it is.
func TestKept(t *testing.T) {
	f := small(t, true)
	size, _ := f.Size()
	must(t, f.Truncate(size+3*mib))
	put(t, f, size+mib, []byte("a stranger's region"))
	fixTable(t, f, func(b []byte) { addRegion(b, region{newGUID(), uint64(size + mib), mib, false}) })
	fixMetadata(t, f, func(b []byte) { addItem(b, newGUID(), 0); copy(b[100<<10:], "strange") })
	meta, table := readAll(t, f, metaStart, mib), readAll(t, f, regionTableOffsets[0], regionTableSize)
	d, err := Open(noClose{f}, OpenOptions{})
	must(t, err)
	must(t, d.WriteAt(ctx, bytes.Repeat([]byte{7}, 8*mib), 0, 0))
	must(t, d.Close())
	if !bytes.Equal(meta, readAll(t, f, metaStart, mib)) || !bytes.Equal(table, readAll(t, f, regionTableOffsets[0], regionTableSize)) ||
		string(readAll(t, f, size+mib, 19)) != "a stranger's region" {
		t.Error("unknown items, regions or their content have changed")
	}
}

// TestHeaders: which fields change when (MS-VHDX 2.2.2).
func TestHeaders(t *testing.T) {
	f := small(t, true)
	was, err := Inspect(f)
	must(t, err)
	current := func() header {
		im, err := loadImage(f)
		must(t, err)
		if im.slotErrs != [2]error{} {
			t.Fatalf("invalid headers: %v", im.slotErrs)
		}
		return im.hdr
	}
	first := current()
	d, err := Open(noClose{f}, OpenOptions{})
	must(t, err)
	must(t, d.ReadAt(ctx, make([]byte, 100), 0))
	must(t, d.Flush(ctx))
	if current() != first {
		t.Error("headers changed without a change of the disk")
	}
	must(t, d.WriteAt(ctx, []byte{1}, 0, 0)) // a block that has room
	h := current()
	if h.FileWriteGUID == was.FileWriteGUID || h.DataWriteGUID == was.DataWriteGUID || h.LogGUID != (GUID{}) || h.Sequence != first.Sequence+2 {
		t.Errorf("after the first write: %+v, was %+v", h, first)
	}
	must(t, d.WriteAt(ctx, []byte{1}, 7*mib, 0)) // a new one
	must(t, d.Flush(ctx))
	in := current()
	if in.FileWriteGUID != h.FileWriteGUID || in.DataWriteGUID != h.DataWriteGUID || in.LogGUID == (GUID{}) {
		t.Errorf("after a flush with a new block: %+v, was %+v", in, h)
	}
	must(t, d.Close())
	if last := current(); last.LogGUID != (GUID{}) || last.DataWriteGUID != h.DataWriteGUID {
		t.Errorf("after close: %+v", last)
	}
}

// TestOneHeaderOrTableLost: the other copy serves.
func TestOneHeaderOrTableLost(t *testing.T) {
	for _, off := range []int64{headerOffsets[0], headerOffsets[1], regionTableOffsets[0], regionTableOffsets[1]} {
		f := small(t, true)
		put(t, f, off+1, []byte{0xff})
		d, err := Open(noClose{f}, OpenOptions{})
		must(t, err)
		got := make([]byte, 1)
		must(t, d.ReadAt(ctx, got, 2*mib+100))
		if got[0] != 2 {
			t.Errorf("without %#x: read %d", off, got[0])
		}
		must(t, d.WriteAt(ctx, []byte{1}, 0, 0))
		must(t, d.Close())
	}
}

// TestBATPaging works in more pages than are kept.
func TestBATPaging(t *testing.T) {
	f := block.NewMemFile(0)
	d, err := Create(noClose{f}, CreateOptions{Size: 64 << 40, BlockSize: mib, LogicalSectorSize: 4096})
	must(t, err)
	d.meta.keep = 5
	rnd := rand.New(rand.NewPCG(1, 1))
	want := map[int64]byte{}
	for i := range 400 {
		blk := rnd.Int64N(64 << 20)
		if i%3 == 0 && len(want) > 0 {
			for blk = range want {
				break
			}
		}
		want[blk] = byte(i) | 1
		must(t, d.WriteAt(ctx, []byte{byte(i) | 1}, blk*mib+5, 0))
		if i%7 == 0 {
			must(t, d.Flush(ctx))
		}
	}
	must(t, d.Close())
	d, err = Open(noClose{f}, OpenOptions{})
	must(t, err)
	d.meta.keep = 5
	for blk, b := range want {
		got := make([]byte, 1)
		must(t, d.ReadAt(ctx, got, blk*mib+5))
		if got[0] != b {
			t.Errorf("block %d holds %d, want %d", blk, got[0], b)
		}
	}
	if n := len(d.meta.pages); n > 5 {
		t.Errorf("%d pages are kept", n)
	}
	must(t, d.Close())
	if r, err := Check(f); err != nil || !r.Clean() || r.Allocated != int64(len(want)) {
		t.Errorf("check: %v %+v", err, r)
	}
}

// TestSpaceReused: room that was given up serves again, without what was in it.
func TestSpaceReused(t *testing.T) {
	f := block.NewMemFile(0)
	d, err := Create(noClose{f}, CreateOptions{Size: 64 * mib, BlockSize: mib})
	must(t, err)
	full := bytes.Repeat([]byte{0xee}, mib)
	for round := range int64(20) {
		blk := round * 3 % 64
		must(t, d.WriteAt(ctx, full, blk*mib, 0))
		must(t, d.Flush(ctx))
		must(t, d.Trim(ctx, blk*mib, mib))
		must(t, d.Flush(ctx))
		must(t, d.WriteAt(ctx, []byte{1}, (blk+1)*mib, 0))
		got := make([]byte, mib)
		must(t, d.ReadAt(ctx, got, (blk+1)*mib))
		if got[0] != 1 || !block.IsZero(got[1:]) {
			t.Fatal("a reused block shows what was in it")
		}
		must(t, d.WriteZeroes(ctx, (blk+1)*mib, mib, 0))
		must(t, d.Flush(ctx))
	}
	must(t, d.Close())
	if size, _ := f.Size(); size > 8*mib {
		t.Errorf("the file has %d bytes for nothing", size)
	}
}

// TestFailsForGood: after a failed flush the disk stays failed, and what was
// flushed before is there when it is opened again.
func TestFailsForGood(t *testing.T) {
	broken := errors.New("broken on purpose")
	for nth := range int64(6) {
		mem := small(t, true)
		f := block.NewInterceptFile(noClose{mem}, block.FailNth(block.OpFlush, nth+1, broken))
		d, err := Open(f, OpenOptions{})
		must(t, err)
		err = d.WriteAt(ctx, bytes.Repeat([]byte{8}, 4096), 7*mib, 0)
		if err == nil {
			err = d.Flush(ctx)
		}
		if !errors.Is(err, broken) || !errors.Is(err, block.ErrFailed) {
			t.Fatalf("sync %d failed, but: %v", nth+1, err)
		}
		for name, err := range map[string]error{"WriteAt": d.WriteAt(ctx, []byte{1}, 0, 0), "Flush": d.Flush(ctx), "Trim": d.Trim(ctx, 0, 1)} {
			if !errors.Is(err, block.ErrFailed) {
				t.Errorf("%s after a failed flush = %v", name, err)
			}
		}
		must(t, d.Close())
		d, err = Open(noClose{mem}, OpenOptions{})
		must(t, err)
		got := make([]byte, 1)
		must(t, d.ReadAt(ctx, got, 2*mib+100))
		if got[0] != 2 {
			t.Error("flushed data is gone")
		}
		must(t, d.Close())
	}
}

func TestCreateRefused(t *testing.T) {
	for _, o := range []CreateOptions{
		{}, {Size: mib - 512}, {Size: mib + 1}, {Size: 64<<40 + 512}, {Size: -mib}, {Size: 1<<63 - 512},
		{Size: mib + 512, LogicalSectorSize: 4096}, {Size: mib, LogicalSectorSize: 1024}, {Size: mib, PhysicalSectorSize: 8192},
		{Size: mib, BlockSize: 3 * mib}, {Size: mib, BlockSize: 512 << 10}, {Size: mib, BlockSize: 512 * mib}, {Size: mib, BlockSize: -mib},
	} {
		if _, err := Create(block.NewMemFile(0), o); !errors.Is(err, ErrBadOptions) {
			t.Errorf("Create(%+v) = %v", o, err)
		}
	}
}
