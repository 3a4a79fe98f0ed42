package vhdx

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"lunless/smbstore/block"
)

// A file system that is full now and then, for the log and all other metadata too,
// fails requests and nothing else: the disk works once there is room again, and a
// loss of power at any time leaves what was flushed. A file that cannot be flushed
// is another matter: that fails the disk for good.
func TestRoomRunsOutForMetadata(t *testing.T) {
	const blocks = 40
	rnd := rand.New(rand.NewPCG(6, 6))
	cut := block.NewPowerCut(block.NewMemFile(0))
	failing, refused := false, 0
	f := block.NewInterceptFile(cut, block.FailIf(func(op block.Op) bool {
		no := failing && (op.Kind == block.OpWrite || op.Kind == block.OpZero || op.Kind == block.OpTruncate) && rnd.IntN(3) > 0
		if no && op.Kind == block.OpWrite && op.Off < 3*mib {
			refused++
		}
		return no
	}, block.ErrNoSpace))
	d, err := Create(f, CreateOptions{Size: blocks * mib, BlockSize: mib})
	must(t, err)
	var want, flushed [blocks]int // what fills a block's first sector; -1: unspecified
	p, one := make([]byte, 4096), make([]byte, 4096)
	holds := func(d *Disk, fills [blocks]int) {
		t.Helper()
		for blk, fill := range fills {
			must(t, d.ReadAt(ctx, p, int64(blk)*mib))
			if pattern(one, uint64(fill)); fill >= 0 && !bytes.Equal(p, one) {
				t.Fatalf("block %d holds %d, want %d", blk, le.Uint64(p), fill)
			}
		}
	}
	for i := range 2000 {
		failing = i/50%2 == 1
		blk, fill := rnd.Int64N(blocks), 0
		switch rnd.IntN(6) {
		case 0:
			err = d.WriteZeroes(ctx, blk*mib, mib, 0)
		case 1, 2:
			if err = d.Flush(ctx); err == nil {
				flushed = want
			}
			fill = want[blk]
		default:
			fill = 1 + rnd.IntN(255)
			pattern(p, uint64(fill))
			err = d.WriteAt(ctx, p, blk*mib, 0)
		}
		if err != nil && (!errors.Is(err, block.ErrNoSpace) || errors.Is(err, block.ErrFailed)) {
			t.Fatal(err)
		}
		if want[blk] != fill || err != nil {
			flushed[blk] = -1 // the new one may be there after a cut, or the old one
		}
		if want[blk] = fill; err != nil {
			want[blk] = -1
		}
		if i%20 == 0 {
			left, err := Open(noClose{cut.Cut(rnd)}, OpenOptions{})
			must(t, err)
			holds(left, flushed)
			must(t, left.Close())
		}
	}
	if refused < 50 {
		t.Errorf("metadata was refused %d times", refused)
	}
	failing = false
	must(t, d.Flush(ctx))
	holds(d, want)
	left := cut.Cut(rnd)
	d, err = Open(noClose{left}, OpenOptions{})
	must(t, err)
	holds(d, want)
	must(t, d.Close())
	if r, err := Check(left); err != nil || !r.Clean() {
		t.Fatalf("%v %+v", err, r.Findings)
	}
}

// A flush of the file that fails is not tried again, whatever it says.
func TestFlushWithoutRoomFails(t *testing.T) {
	failing := false
	f := block.NewInterceptFile(block.NewMemFile(0), block.FailIf(func(op block.Op) bool {
		return failing && op.Kind == block.OpFlush
	}, block.ErrNoSpace))
	d, err := Create(f, CreateOptions{Size: 8 * mib, BlockSize: mib})
	must(t, err)
	must(t, d.WriteAt(ctx, []byte("x"), 0, 0))
	failing = true
	if err := d.Flush(ctx); !errors.Is(err, block.ErrFailed) {
		t.Errorf("a flush that failed: %v", err)
	}
	failing = false
	if err := d.Flush(ctx); !errors.Is(err, block.ErrFailed) {
		t.Errorf("the next one: %v", err)
	}
	d.Close() //nolint:errcheck // it has failed
}
