//go:build !race

package vhdx

import (
	"bytes"
	"context"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"

	"lunless/smbstore/block"
)

// TestDeepChain: 100 images take bounded memory, and a read asks each of them a
// bounded number of times.
func TestDeepChain(t *testing.T) {
	const layers, pages, size = 100, 81, 64 << 40
	before := heap()
	var asked atomic.Int64
	count := func(_ context.Context, op block.Op) error {
		if op.Kind == block.OpRead {
			asked.Add(1)
		}
		return nil
	}
	d := chain(t, layers, size, pages, func(dev block.Device) block.Device { return block.NewIntercept(dev, count) })
	p := make([]byte, 4096)
	for i := range int64(layers) { // each image tells of itself
		must(t, d.ReadAt(ctx, p, (i+1)*mib))
		if !bytes.Equal(p[:512], bytes.Repeat([]byte{byte(i + 1)}, 512)) || !block.IsZero(p[512:]) {
			t.Fatalf("block %d holds %d", i+1, p[0])
		}
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		asked.Store(0)
		must(t, d.ReadAt(ctx, p, rnd.Int64N(size/4096)*4096))
		if n := asked.Load(); n > layers {
			t.Fatalf("a read of one run asked %d times", n)
		}
	}
	asked.Store(0)
	must(t, d.ReadAt(ctx, p, 40*512)) // eight sectors, each of another image
	if n := asked.Load(); n > 8*layers {
		t.Errorf("a read of eight runs asked %d times", n)
	}
	for i := range int64(8) {
		if p[i*512] != byte(40+i+1) {
			t.Errorf("sector %d holds %d", 40+i, p[i*512])
		}
	}
	for range 100 { // more pages than are kept
		must(t, d.ReadAt(ctx, p, rnd.Int64N(size/4096)*4096))
	}
	if used := heap() - before; used > 64*mib {
		t.Errorf("%d layers of %d pages take %d MiB", layers, pages, used/mib)
	}
	runtime.KeepAlive(d)
}

// TestHugeDisk: random access to 64 TiB takes less than 64 MiB, and a walk over
// the extents of an empty one reads little.
func TestHugeDisk(t *testing.T) {
	const size = 64 << 40
	before := heap()
	d, err := Create(sparse(t, "huge"), CreateOptions{Size: size, BlockSize: mib})
	must(t, err)
	defer func() { must(t, d.Close()) }()
	walk := func() (n int) {
		t.Helper()
		must(t, d.Extents(ctx, 0, size, func(block.Extent) error { n++; return nil }))
		return n
	}
	if n := walk(); n != 1 || d.meta.loads > 2 {
		t.Errorf("an empty disk has %d extents, found by reading %d pages", n, d.meta.loads)
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	p := make([]byte, 4096)
	var data []int64
	for i := range 12000 {
		off := rnd.Int64N(size/mib) * mib
		if i%20 == 0 {
			pattern(p, uint64(i)|1)
			must(t, d.WriteAt(ctx, p, off, 0))
			data = append(data, off)
			continue
		}
		must(t, d.ReadAt(ctx, p, off))
	}
	if n := len(d.meta.pages); n > defaultCachePages+2*d.meta.limit {
		t.Errorf("%d pages are kept", n)
	}
	found := map[int64]bool{}
	loads := d.meta.loads
	must(t, d.Extents(ctx, 0, size, func(e block.Extent) error {
		for at := e.Offset; e.State != block.Unallocated && at < e.Offset+e.Length; at += mib - at%mib {
			found[at-at%mib] = true
		}
		return nil
	}))
	for _, off := range data {
		if !found[off] {
			t.Errorf("extents lack the block at %#x", off)
		}
	}
	if n := d.meta.loads - loads; n > int64(2*len(data)) {
		t.Errorf("a walk over %d blocks read %d pages", len(data), n)
	}
	if used := heap() - before; used > 64*mib {
		t.Errorf("the disk takes %d MiB", used/mib)
	}
	runtime.KeepAlive(d)
}

// TestDeepReadAllocates: a read through parents allocates nothing in the steady state.
func TestDeepReadAllocates(t *testing.T) {
	d := chain(t, 20, 64*mib, 0, nil)
	p := make([]byte, 8192)
	for _, off := range []int64{0, mib, 19 * mib, 50 * mib, mib - 4096} {
		if n := testing.AllocsPerRun(100, func() { must(t, d.ReadAt(ctx, p, off)) }); n != 0 {
			t.Errorf("a read at %d allocates %v times", off, n)
		}
	}
	must(t, d.WriteAt(ctx, p, 0, 0))
	if n := testing.AllocsPerRun(100, func() { must(t, d.WriteAt(ctx, p, 0, 0)) }); n != 0 {
		t.Errorf("a write to sectors that are here allocates %v times", n)
	}
}
