//go:build !race

package vhdx

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"lunless/smbstore/block"
)

// TestModel runs random requests on fixed, dynamic and differencing disks, over
// chains whose images differ in size and block size.
func TestModel(t *testing.T) {
	seed := seedOf(t)
	for i := range uint64(24) {
		rnd := rand.New(rand.NewPCG(seed, i))
		m := &modelDisk{t: t, rnd: rnd}
		sector := []int{512, 4096}[rnd.IntN(2)]
		for layer := range 1 + rnd.IntN(4) {
			o := CreateOptions{BlockSize: []int64{1, 1, 2, 256}[rnd.IntN(4)] * mib, LogicalSectorSize: sector}
			o.Fixed = layer == 0 && rnd.IntN(3) == 0 && o.BlockSize < 256*mib
			size := mib + rnd.Int64N(10*mib/4096)*4096
			m.grow(size, o)
			for range 40 {
				must(t, m.step())
			}
			m.same(m.dev)
		}
		must(t, m.dev.Close())
		leaf := len(m.files) - 1
		if r, err := Check(m.files[leaf]); err != nil || !r.Clean() || r.Info.LogInUse {
			t.Fatalf("check: %v %+v", err, r.Findings)
		}
		ro := m.open(leaf, true)
		m.same(ro)
		must(t, ro.Close())
		if t.Failed() {
			t.Fatalf("run %d of seed %d", i, seed)
		}
	}
}

// TestCompactModel fills, empties and compacts disks at random, next to a model.
func TestCompactModel(t *testing.T) {
	seed := rand.Uint64()
	for _, c := range []struct {
		opts  CreateOptions
		plain bool
	}{
		{CreateOptions{BlockSize: mib}, false},
		{CreateOptions{BlockSize: 2 * mib, LogicalSectorSize: 4096}, false},
		{CreateOptions{BlockSize: 4 * mib}, true}, // a file that knows of no holes
	} {
		t.Run(fmt.Sprintf("%dM plain %v seed %d", c.opts.BlockSize/mib, c.plain, seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, uint64(c.opts.BlockSize)))
			mem := block.NewMemFile(0)
			var f block.File = noClose{mem}
			if c.plain {
				f = plain{f}
			}
			c.opts.Size = 40*mib + unit
			d, err := Create(f, c.opts)
			must(t, err)
			m := content{}
			for i := range uint64(40) {
				units := d.Size() / unit
				for k := range uint64(rnd.IntN(12)) {
					at := rnd.Int64N(units)
					m.write(t, d, at, min(units-at, 1+rnd.Int64N(5)), i*1000+k*10+1)
				}
				for range rnd.IntN(8) { // zeroes that keep their room, and such that do not
					from := rnd.Int64N(units) * unit
					n := min(d.Size()-from, rnd.Int64N(6*mib)/unit*unit)
					must(t, d.WriteZeroes(ctx, from, n, block.WriteFlags(rnd.IntN(3)/2)*block.NoUnmap))
					for u := from / unit; u < (from+n)/unit; u++ {
						delete(m, u)
					}
				}
				res, err := d.Compact(ctx, CompactOptions{}, nil)
				must(t, err)
				packed(t, d, m, mem, res)
				must(t, m.verify(d))
				if rnd.IntN(4) == 0 {
					must(t, d.Close())
					clean(t, mem)
					d, err = Open(f, OpenOptions{})
					must(t, err)
					must(t, m.verify(d))
				}
			}
			must(t, d.Close())
			clean(t, mem)
		})
	}
}

// TestResizeModel grows and shrinks disks at random, next to a model.
func TestResizeModel(t *testing.T) {
	seed := rand.Uint64()
	for _, o := range []CreateOptions{
		{BlockSize: mib},
		{BlockSize: 2 * mib, LogicalSectorSize: 4096},
		{BlockSize: 32 * mib},
		{BlockSize: mib, Fixed: true},
		{BlockSize: 4 * mib, Fixed: true},
	} {
		t.Run(fmt.Sprintf("%dM fixed %v seed %d", o.BlockSize/mib, o.Fixed, seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, uint64(o.BlockSize)))
			f := block.NewMemFile(0)
			o.Size = 10 * mib
			d, err := Create(noClose{f}, o)
			must(t, err)
			c := content{}
			for i := range uint64(60) {
				units := d.Size() / unit
				at := rnd.Int64N(units)
				c.write(t, d, at, min(units-at, 1+rnd.Int64N(20)), i*1000+1)
				if rnd.IntN(3) == 0 { // make the tail zero, as a guest does
					from := rnd.Int64N(units) * unit
					must(t, d.WriteZeroes(ctx, from, d.Size()-from, block.WriteFlags(rnd.IntN(2))*block.NoUnmap))
					c.cut(from)
				}
				size := max(mib, rnd.Int64N(40*mib)/unit*unit)
				resizeLikeModel(t, d, c, size)
				if d.Size() > unit*units && rnd.IntN(2) == 0 {
					c.write(t, d, d.Size()/unit-1, 1, i*1000+500)
				}
				must(t, c.verify(d))
				if rnd.IntN(4) == 0 {
					d = reopen(t, d, f)
					must(t, c.verify(d))
				}
			}
			d = reopen(t, d, f)
			must(t, c.verify(d))
			must(t, d.Close())
		})
	}
}
