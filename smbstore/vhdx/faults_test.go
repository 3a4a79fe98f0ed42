package vhdx

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"lunless/smbstore/block"
)

// TestSharedPlace: an unmapped block whose entry still names a place that is
// another's by now does not give it away.
func TestSharedPlace(t *testing.T) {
	f := small(t, true)
	place := le.Uint64(readAll(t, f, batStart, 8)) &^ 7
	put(t, f, batStart+8, le.AppendUint64(nil, place|stateUnmapped))
	d, err := Open(noClose{f}, OpenOptions{})
	must(t, err)
	for _, blk := range []int64{1, 3, 5} {
		must(t, d.WriteAt(ctx, []byte("mine"), blk*mib, 0))
		must(t, d.Flush(ctx))
	}
	got := make([]byte, 5000)
	must(t, d.ReadAt(ctx, got, 100))
	if !bytes.Equal(got, bytes.Repeat([]byte{1}, 5000)) {
		t.Error("another block was written over")
	}
	must(t, d.Close())
	if r, err := Check(f); err != nil || !r.Clean() {
		t.Errorf("%v %+v", err, r.Findings)
	}
}

// TestRoomRunsOut has writes, holes and growth fail now and then, and at times
// for a while. Such a request fails, and nothing else: no block is lost or
// shared, and the disk works once there is room again.
func TestRoomRunsOut(t *testing.T) {
	const blocks = 40
	rnd := rand.New(rand.NewPCG(5, 5))
	full := errors.New("no room")
	mem := block.NewMemFile(0)
	failing := false
	f := block.NewInterceptFile(noClose{mem}, block.FailIf(func(op block.Op) bool {
		data := op.Off >= 4*mib && (op.Kind == block.OpWrite || op.Kind == block.OpZero)
		return failing && (data || op.Kind == block.OpTruncate) && rnd.IntN(2) == 0
	}, full))
	d, err := Create(f, CreateOptions{Size: blocks * mib, BlockSize: mib})
	must(t, err)
	var want [blocks]int // what fills a block; -1: unspecified
	p := make([]byte, mib)
	for i := range 1500 {
		failing = i/50%2 == 1
		blk := rnd.Int64N(blocks)
		fill := 0
		switch rnd.IntN(4) {
		case 0:
			err = d.WriteZeroes(ctx, blk*mib, mib, 0)
		case 1:
			err = d.Flush(ctx)
			fill = want[blk]
		default:
			fill = 1 + rnd.IntN(255)
			pattern(p, uint64(fill))
			err = d.WriteAt(ctx, p, blk*mib, 0)
		}
		if err != nil && !errors.Is(err, full) {
			t.Fatal(err)
		}
		if want[blk] = fill; err != nil {
			want[blk] = -1
		}
	}
	failing = false
	holds := func(d *Disk) {
		t.Helper()
		one := make([]byte, mib)
		for blk, fill := range want {
			must(t, d.ReadAt(ctx, p, int64(blk)*mib))
			if pattern(one, uint64(fill)); fill >= 0 && !bytes.Equal(p, one) {
				t.Fatalf("block %d holds %d, want %d", blk, le.Uint64(p), fill)
			}
		}
	}
	holds(d)
	must(t, d.Close())
	r, err := Check(mem)
	if err != nil || !r.Clean() {
		t.Fatalf("%v %+v", err, r.Findings)
	}
	if size, _ := mem.Size(); size > (4+blocks+8)*mib {
		t.Errorf("the file has %d MiB for %d blocks", size/mib, blocks)
	}
	d, err = Open(noClose{mem}, OpenOptions{})
	must(t, err)
	holds(d)
	must(t, d.Close())
}

// TestCreateCut cuts power before each change that Create makes: what is left is
// no VHDX file yet, or a whole one.
func TestCreateCut(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	for _, fixed := range []bool{false, true} {
		f := block.NewPowerCut(block.NewMemFile(0))
		whole, none := 0, 0
		look := func() {
			for range 20 {
				image := f.Cut(rnd)
				d, err := Open(noClose{image}, OpenOptions{})
				if errors.Is(err, ErrNotVHDX) {
					none++
					continue
				}
				if err != nil {
					t.Fatalf("fixed %v: open: %v", fixed, err)
				}
				whole++
				got := make([]byte, 3*mib+512)
				must(t, d.ReadAt(ctx, got, 0))
				if !block.IsZero(got) {
					t.Error("a new disk holds something")
				}
				must(t, d.WriteAt(ctx, []byte("x"), 3*mib, 0))
				must(t, d.Close())
				if r, err := Check(image); err != nil || !r.Clean() {
					t.Fatalf("fixed %v: check: %v %+v", fixed, err, r.Findings)
				}
			}
		}
		f.Watch(look)
		_, err := Create(f, CreateOptions{Size: 3*mib + 512, BlockSize: mib, Fixed: fixed})
		must(t, err)
		n := whole
		look()
		if none == 0 || whole != n+20 {
			t.Errorf("fixed %v: %d images were no disk, %d were; after Create %d of 20 were", fixed, none, whole, whole-n)
		}
	}
}

// pattern fills p with copies of tag.
func pattern(p []byte, tag uint64) {
	le.PutUint64(p, tag)
	for n := 8; n < len(p); n *= 2 {
		copy(p[n:], p[:n])
	}
}

// noClose is a file in memory that outlives its disk.
type noClose struct{ *block.MemFile }

func (noClose) Close() error { return nil }
