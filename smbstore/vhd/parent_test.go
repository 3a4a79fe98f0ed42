package vhd

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"lunless/smbstore/block"
	"lunless/smbstore/block/blocktest"
)

// link is a parent's, as good as any.
func link() *ParentLink {
	return &ParentLink{ID: ID{1, 2, 3}, Time: 77, Name: "parent.vhd", Relative: `.\parent.vhd`, Absolute: `d:\disks\parent.vhd`}
}

// base is a parent of size bytes with data in places.
func base(t testing.TB, size int64, seed uint64) (block.Device, []byte) {
	t.Helper()
	dev, content := block.NewMem(size), make([]byte, size)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range 60 {
		off := rnd.Int64N(size)
		p := content[off:min(size, off+rnd.Int64N(100<<10))]
		for i := range p {
			p[i] = byte(rnd.Uint32())
		}
		must(t, dev.WriteAt(ctx, p, off, 0))
	}
	return dev, content
}

// child makes a differencing disk in f over dev.
func child(t testing.TB, f block.File, dev block.Device, blockSize int64) *Disk {
	t.Helper()
	d, err := Create(f, CreateOptions{BlockSize: blockSize, Parent: link(), ParentDevice: dev})
	must(t, err)
	return d
}

// keep is a device that outlives what it lies under.
type keep struct{ block.Device }

func (keep) Close() error { return nil }

// TestConformanceDifferencing runs the suite on children of parents that read as
// zeroes: none of its data is the child's, and all of it lies in gaps of bitmaps.
func TestConformanceDifferencing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		parent func(t testing.TB, size int64) block.Device
	}{
		{"over zeroes", func(t testing.TB, size int64) block.Device { return block.NewMem(size) }},
		{"over written zeroes", func(t testing.TB, size int64) block.Device {
			dev := block.NewMem(size)
			must(t, dev.WriteAt(ctx, make([]byte, size), 0, 0))
			return dev
		}},
		{"over less", func(t testing.TB, size int64) block.Device { return block.NewMem(size/2 + 700) }},
		{"over a dynamic disk", func(t testing.TB, size int64) block.Device {
			d, err := Create(block.NewMemFile(0), CreateOptions{Size: size, BlockSize: 512 << 10})
			must(t, err)
			must(t, d.WriteZeroes(ctx, 0, size/2, block.NoUnmap))
			return d
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			blocktest.Run(t, func(t testing.TB, size int64) blocktest.Fixture {
				f := noClose{block.NewMemFile(0)}
				parent := keep{c.parent(t, size)}
				d, err := Create(f, CreateOptions{Size: size, BlockSize: 512 << 10, Parent: link(), ParentDevice: parent})
				must(t, err)
				return blocktest.Fixture{Dev: d, Reopen: func() block.Device {
					must(t, d.Close())
					mustBeClean(t, f)
					d, err = Open(f, OpenOptions{Parent: parent})
					must(t, err)
					return d
				}}
			})
		})
	}
}

// chainTest is a chain of disks, the leaf written at random, and what it reads as.
type chainTest struct {
	t     *testing.T
	rnd   *rand.Rand
	files []noClose
	root  block.Device
	leaf  *Disk
	want  []byte
}

// open opens the whole chain.
func (c *chainTest) open() {
	c.t.Helper()
	dev := block.Device(keep{c.root})
	for i, f := range c.files {
		d, err := Open(f, OpenOptions{Parent: dev, ReadOnly: i < len(c.files)-1})
		must(c.t, err)
		dev, c.leaf = d, d
	}
}

func (c *chainTest) step() {
	size := int64(len(c.want))
	off := c.rnd.Int64N(size)
	n := min(size-off, 1+c.rnd.Int64N(1<<c.rnd.IntN(22)))
	if c.rnd.IntN(3) == 0 {
		off, n = off/SectorSize*SectorSize, max(1, n/SectorSize)*SectorSize
		n = min(n, size-off)
	}
	switch c.rnd.IntN(8) {
	case 0:
		must(c.t, c.leaf.WriteZeroes(ctx, off, n, block.WriteFlags(c.rnd.IntN(2))*block.NoUnmap))
		clear(c.want[off : off+n])
	case 1:
		old := bytes.Clone(c.want[off : off+n])
		must(c.t, c.leaf.Trim(ctx, off, n))
		must(c.t, c.leaf.ReadAt(ctx, c.want[off:off+n], off))
		for i := range old { // a sector at a time is the suite's to check
			if got := c.want[off+int64(i)]; got != 0 && got != old[i] {
				c.t.Fatalf("byte %d after a trim is neither zero nor what it was", off+int64(i))
			}
		}
	default:
		p := bytes.Repeat([]byte{byte(c.rnd.Uint32())}, int(n))
		must(c.t, c.leaf.WriteAt(ctx, p, off, block.WriteFlags(c.rnd.IntN(9)/8)*block.FUA))
		copy(c.want[off:], p)
	}
}

// TestChainModel writes at random to the leaf of a growing chain and compares
// with a slice; extents tell of zeroes only where there are.
func TestChainModel(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	const size = 5<<20 + 3*SectorSize
	root, content := base(t, size, seed)
	c := &chainTest{t: t, rnd: rand.New(rand.NewPCG(seed, 2)), root: root, want: content}
	for range 6 {
		f := noClose{block.NewMemFile(0)}
		must(t, child(t, f, keep{root}, 512<<10).Close())
		c.files = append(c.files, f)
		c.open()
		for range 40 {
			c.step()
		}
		must(t, c.leaf.Close())
		mustBeClean(t, f)
		c.open()
		got := make([]byte, size)
		must(t, c.leaf.ReadAt(ctx, got, 0))
		if !bytes.Equal(got, c.want) {
			t.Fatal("content differs")
		}
		at := int64(0)
		must(t, c.leaf.Extents(ctx, 0, size, func(e block.Extent) error {
			if e.Offset != at || e.State != block.Data && !block.IsZero(c.want[at:at+e.Length]) {
				t.Errorf("extent %+v after %d", e, at)
			}
			at += e.Length
			return nil
		}))
		if at != size {
			t.Errorf("extents end at %d", at)
		}
		must(t, c.leaf.Close())
	}
	check, _ := base(t, size, seed)
	got, want := make([]byte, size), make([]byte, size)
	must(t, root.ReadAt(ctx, got, 0))
	must(t, check.ReadAt(ctx, want, 0))
	if !bytes.Equal(got, want) {
		t.Error("a child wrote to its parent")
	}
}

// TestLayer: a layer tells what is its own, by sectors, and alone reads that only.
func TestLayer(t *testing.T) {
	const size = 4 << 20
	root, content := base(t, size, 5)
	f := noClose{block.NewMemFile(0)}
	d := child(t, f, keep{root}, 0)
	for _, w := range []struct{ off, n int64 }{{1000, 100}, {2<<20 - 512, 1024}, {3 << 20, 512}} {
		must(t, d.WriteAt(ctx, bytes.Repeat([]byte{9}, int(w.n)), w.off, 0))
	}
	must(t, d.WriteZeroes(ctx, 3<<20+4096, 4096, 0))
	must(t, d.Close())
	want := [][2]int64{{512, 1024}, {2<<20 - 512, 1024}, {3 << 20, 512}, {3<<20 + 4096, 4096}}
	for _, o := range []OpenOptions{{Parent: keep{root}}, {Bare: true}, {Parent: keep{root}, ReadOnly: true}} {
		d, err := Open(f, o)
		must(t, err)
		var got [][2]int64
		must(t, d.LayerExtents(ctx, 0, size, func(e block.Extent) error {
			if n := len(got); n > 0 && got[n-1][0]+got[n-1][1] == e.Offset && e.State != block.Unallocated {
				got[n-1][1] += e.Length
			} else if e.State != block.Unallocated {
				got = append(got, [2]int64{e.Offset, e.Length})
			}
			return nil
		}))
		if !slices.Equal(got, want) {
			t.Errorf("own extents %v, want %v", got, want)
		}
		must(t, d.Close())
	}
	bare, err := Open(f, OpenOptions{Bare: true})
	must(t, err)
	p := make([]byte, 1024)
	if err := bare.ReadAt(ctx, p, 4096); !errors.Is(err, ErrNoParent) {
		t.Errorf("reading what is the parent's: %v", err)
	}
	must(t, bare.ReadAt(ctx, p, 2<<20-512))
	must(t, bare.ReadAt(ctx, p[:512], 512))
	copy(content[1000:1100], bytes.Repeat([]byte{9}, 100))
	if !bytes.Equal(p[:512], content[512:1024]) {
		t.Error("a sector written in part lacks the parent's rest")
	}
	if err := bare.WriteAt(ctx, p, 0, 0); !errors.Is(err, block.ErrReadOnly) {
		t.Errorf("writing without a parent: %v", err)
	}
	must(t, bare.Relink(ctx, *moved(1)))
	must(t, bare.Close())
	bare, err = Open(f, OpenOptions{Bare: true, ReadOnly: true})
	must(t, err)
	if p := bare.ParentLink(); *p != *moved(1) {
		t.Errorf("link %+v", p)
	}
	if err := bare.Relink(ctx, *link()); !errors.Is(err, block.ErrReadOnly) {
		t.Errorf("relinking what is only read: %v", err)
	}
	must(t, bare.Close())
}
