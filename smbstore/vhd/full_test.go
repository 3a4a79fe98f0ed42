package vhd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"lunless/smbstore/block"
)

// A file system that is full now and then, for the table and the bitmaps too, fails
// requests and nothing else: the disk works once there is room again.
func TestRoomRunsOutForMetadata(t *testing.T) {
	const blocks, blockSize = 20, 2 << 20
	ctx := t.Context()
	rnd := rand.New(rand.NewPCG(6, 6))
	mem := block.NewMemFile(0)
	failing, refused := false, 0
	f := block.NewInterceptFile(noClose{mem}, block.FailIf(func(op block.Op) bool {
		no := failing && (op.Kind == block.OpWrite || op.Kind == block.OpZero || op.Kind == block.OpTruncate) && rnd.IntN(3) > 0
		if no && op.Kind == block.OpWrite && op.Off < 4096 {
			refused++
		}
		return no
	}, block.ErrNoSpace))
	d, err := Create(f, CreateOptions{Size: blocks * blockSize})
	must(t, err)
	var want [blocks]int // what fills a block's first 4 KiB; -1: unspecified
	p := make([]byte, 4096)
	holds := func(d *Disk) {
		t.Helper()
		for blk, fill := range want {
			must(t, d.ReadAt(ctx, p, int64(blk)*blockSize))
			if fill >= 0 && !bytes.Equal(p, bytes.Repeat([]byte{byte(fill)}, len(p))) {
				t.Fatalf("block %d holds %d, want %d", blk, binary.LittleEndian.Uint64(p), fill)
			}
		}
	}
	for i := range 1000 {
		failing = i/50%2 == 1
		blk, fill := rnd.Int64N(blocks), 0
		switch rnd.IntN(4) {
		case 0:
			err = d.WriteZeroes(ctx, blk*blockSize, blockSize, 0)
		case 1:
			err = d.Flush(ctx)
			fill = want[blk]
		default:
			fill = 1 + rnd.IntN(255)
			err = d.WriteAt(ctx, bytes.Repeat([]byte{byte(fill)}, len(p)), blk*blockSize, 0)
		}
		if err != nil && (!errors.Is(err, block.ErrNoSpace) || errors.Is(err, block.ErrFailed)) {
			t.Fatal(err)
		}
		if want[blk] = fill; err != nil {
			want[blk] = -1
		}
	}
	if refused == 0 {
		t.Error("the table was never refused")
	}
	failing = false
	must(t, d.Flush(ctx))
	holds(d)
	must(t, d.Close())
	d, err = Open(noClose{mem}, OpenOptions{})
	must(t, err)
	holds(d)
	must(t, d.Close())
	mustBeClean(t, mem)
}
