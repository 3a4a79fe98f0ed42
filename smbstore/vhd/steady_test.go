//go:build !race

package vhd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"lunless/smbstore/block"
)

// TestSteadyStateAllocates: reads, and writes of sectors that are the image's own,
// allocate nothing, whatever the kind of disk.
func TestSteadyStateAllocates(t *testing.T) {
	for kind, o := range map[string]CreateOptions{
		"fixed": {Size: 64 << 20, Fixed: true}, "dynamic": {Size: 64 << 20},
		"differencing": {Parent: link(), ParentDevice: keep{block.NewMem(64 << 20)}},
	} {
		f, err := block.OpenLocal(filepath.Join(t.TempDir(), "a.vhd"), os.O_RDWR|os.O_CREATE, 0o600)
		must(t, err)
		d, err := Create(f, o)
		must(t, err)
		p := make([]byte, 8192)
		must(t, d.WriteAt(ctx, make([]byte, 5<<20), 0, 0)) // of a differencing disk's third block, half
		for name, do := range map[string]func() error{
			"ReadAt":                func() error { return d.ReadAt(ctx, p, 2<<20-4096) }, // of two blocks
			"ReadAt without a room": func() error { return d.ReadAt(ctx, p, 29<<20) },
			"ReadAt of both":        func() error { return d.ReadAt(ctx, p, 5<<20-4096) }, // own sectors and others'
			"WriteAt":               func() error { return d.WriteAt(ctx, p, 4<<20-4096, 0) },
			"WriteAt of some":       func() error { return d.WriteAt(ctx, p, 5<<20-8192, 0) },
		} {
			if n := testing.AllocsPerRun(200, func() { must(t, do()) }); n != 0 {
				t.Errorf("%s: %s allocates %v times", kind, name, n)
			}
		}
		must(t, d.Close())
	}
}

// TestManyBitmaps: more blocks in part written than bitmaps are cached, and more
// than may wait for a flush.
func TestManyBitmaps(t *testing.T) {
	const blockSize, blocks = 4 << 10, 3 * cachedMaps / SectorSize
	f := noClose{block.NewMemFile(0)}
	parent := keep{block.NewMem(blocks * blockSize)}
	must(t, format(f, CreateOptions{Size: blocks * blockSize, BlockSize: blockSize, Parent: link(), ID: ID{5}}))
	d, err := Open(f, OpenOptions{Parent: parent})
	must(t, err)
	order := rand.New(rand.NewPCG(1, 1)).Perm(blocks)
	one := make([]byte, SectorSize)
	for round := range int64(2) {
		for _, blk := range order {
			binary.LittleEndian.PutUint64(one, uint64(blk)+1)
			must(t, d.WriteAt(ctx, one, int64(blk)*blockSize+round*1024, 0))
			if n := d.changes.waiting.Load() * d.mapSize; n > maxDirtyMaps {
				t.Fatalf("%d bytes of bitmaps wait for a flush", n)
			}
		}
		for _, reopen := range []bool{false, true} {
			if reopen {
				must(t, d.Close())
				mustBeClean(t, f)
				d, err = Open(f, OpenOptions{Parent: parent})
				must(t, err)
			}
			got := make([]byte, 3*SectorSize)
			for _, blk := range order {
				must(t, d.ReadAt(ctx, got, int64(blk)*blockSize))
				for i := range int64(3) {
					want := uint64(blk) + 1
					if i == 1 || i > 2*round {
						want = 0
					}
					if v := binary.LittleEndian.Uint64(got[i*SectorSize:]); v != want {
						t.Fatalf("sector %d of block %d holds %d, want %d", i, blk, v, want)
					}
				}
			}
			cached := 0
			for i := range d.stripes {
				cached += len(d.stripes[i].maps)
			}
			if int64(cached)*d.mapSize > cachedMaps+maxDirtyMaps {
				t.Errorf("%d bitmaps are cached", cached)
			}
		}
	}
	must(t, d.Close())
}

// TestNoRoom: on a full file system a write fails and leaves the disk whole; what
// room it took is used by the next.
func TestNoRoom(t *testing.T) {
	full, fail := errors.New("no space left"), false
	var after int
	hook := func(op block.Op) bool {
		if !fail || op.Kind != block.OpWrite {
			return false
		}
		after--
		return after < 0
	}
	for _, parent := range []bool{false, true} {
		mem := noClose{block.NewMemFile(0)}
		o := CreateOptions{Size: 100 << 20}
		if parent {
			dev, _ := base(t, o.Size, 9)
			o.Parent, o.ParentDevice = link(), keep{dev}
		}
		d, err := Create(block.NewInterceptFile(mem, block.FailIf(hook, full)), o)
		must(t, err)
		want := make([]byte, o.Size)
		must(t, d.ReadAt(ctx, want, 0))
		for n := range int64(4) {
			off := n*(4<<20) + 100
			fail, after = true, int(n)
			err := d.WriteAt(ctx, []byte{byte(n + 1)}, off, 0)
			fail = false
			if (err == nil) != (after >= 0) || err != nil && !errors.Is(err, full) {
				t.Fatalf("with %d writes allowed: %v", n, err)
			}
			must(t, d.WriteAt(ctx, []byte{byte(n + 1)}, off, 0))
			want[off] = byte(n + 1)
		}
		must(t, d.Close())
		r, err := Check(mem)
		if err != nil || len(r.Findings) > 0 || r.Allocated != 4 {
			t.Errorf("check: %v %+v", err, r)
		}
		d, err = Open(mem, OpenOptions{Parent: o.ParentDevice})
		must(t, err)
		got := make([]byte, o.Size)
		must(t, d.ReadAt(ctx, got, 0))
		if !bytes.Equal(got, want) {
			t.Error("content differs")
		}
		must(t, d.Close())
	}
}

func BenchmarkRead4K(b *testing.B) {
	for kind, o := range map[string]CreateOptions{
		"fixed": {Size: 256 << 20, Fixed: true}, "dynamic": {Size: 256 << 20},
		"differencing": {Parent: link(), ParentDevice: keep{block.NewMem(256 << 20)}},
	} {
		b.Run(kind, func(b *testing.B) {
			f, err := block.OpenLocal(filepath.Join(b.TempDir(), "a.vhd"), os.O_RDWR|os.O_CREATE, 0o600)
			must(b, err)
			d, err := Create(f, o)
			must(b, err)
			p := bytes.Repeat([]byte{7}, 1<<20)
			for off := int64(0); off < d.Size(); off += int64(len(p)) {
				must(b, d.WriteAt(ctx, p[:len(p)-SectorSize], off, 0)) // leaves bitmaps with gaps
			}
			must(b, d.Flush(ctx))
			rnd := rand.New(rand.NewPCG(1, 1))
			b.SetBytes(4096)
			for b.Loop() {
				must(b, d.ReadAt(ctx, p[:4096], rnd.Int64N(d.Size()/4096)*4096))
			}
			must(b, d.Close())
		})
	}
}
