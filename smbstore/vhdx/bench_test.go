package vhdx

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"lunless/smbstore/block"
)

// benchDisk is a dynamic disk in a local file.
func benchDisk(tb testing.TB, size, blockSize int64) *Disk {
	tb.Helper()
	f, err := block.OpenLocal(filepath.Join(tb.TempDir(), "bench.vhdx"), os.O_RDWR|os.O_CREATE, 0o600)
	must(tb, err)
	d, err := Create(f, CreateOptions{Size: size, BlockSize: blockSize})
	must(tb, err)
	tb.Cleanup(func() { must(tb, d.Close()) })
	return d
}

// TestSteadyStateAllocates: reads and writes of blocks that have room allocate nothing.
func TestSteadyStateAllocates(t *testing.T) {
	d := benchDisk(t, 64*mib, mib)
	p := make([]byte, 8192)
	must(t, d.WriteAt(ctx, make([]byte, 4*mib), 0, 0))
	for name, do := range map[string]func() error{
		"ReadAt":                func() error { return d.ReadAt(ctx, p, mib-4096) }, // of two blocks
		"ReadAt without a room": func() error { return d.ReadAt(ctx, p, 9*mib) },
		"WriteAt":               func() error { return d.WriteAt(ctx, p, 2*mib-4096, 0) },
	} {
		if n := testing.AllocsPerRun(200, func() { must(t, do()) }); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

// benchDevices are devices of size bytes, all of them data: a raw file, to compare
// with, a dynamic disk, and a differencing disk every other 4 KiB of which are its
// parent's.
func benchDevices(b *testing.B, size int64) map[string]block.Device {
	b.Helper()
	f, err := block.OpenLocal(filepath.Join(b.TempDir(), "raw"), os.O_RDWR|os.O_CREATE, 0o600)
	must(b, err)
	must(b, f.Truncate(size))
	raw, err := block.NewRaw(f, block.RawOptions{})
	must(b, err)
	dynamic := benchDisk(b, size, 32*mib)
	parent, err := Create(sparse(b, "parent"), CreateOptions{Size: size})
	must(b, err)
	must(b, parent.WriteAt(ctx, bytes.Repeat([]byte{2}, int(size)), 0, 0))
	child, err := Create(sparse(b, "child"), CreateOptions{Parent: &ParentLink{Relative: "parent"}, ParentDevice: parent})
	must(b, err)
	b.Cleanup(func() { must(b, raw.Close()); must(b, child.Close()) })
	devs := map[string]block.Device{"raw": raw, "dynamic": dynamic, "differencing": child}
	for name, d := range devs {
		if name != "differencing" {
			must(b, d.WriteAt(ctx, bytes.Repeat([]byte{1}, int(size)), 0, 0))
			continue
		}
		for off := int64(0); off < size; off += 8192 {
			must(b, d.WriteAt(ctx, make([]byte, 4096), off, 0))
		}
	}
	return devs
}

func benchRandom4K(b *testing.B, do func(d block.Device, p []byte, off int64) error) {
	const size = 256 * mib
	devs := benchDevices(b, size)
	for _, name := range []string{"raw", "dynamic", "differencing"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(4096)
			b.RunParallel(func(pb *testing.PB) {
				p, rnd := make([]byte, 4096), rand.New(rand.NewPCG(1, 2))
				for pb.Next() {
					must(b, do(devs[name], p, rnd.Int64N(size/8192)*8192))
				}
			})
		})
	}
}

func BenchmarkReadAt(b *testing.B) {
	benchRandom4K(b, func(d block.Device, p []byte, off int64) error { return d.ReadAt(ctx, p, off) })
}

func BenchmarkWriteAt(b *testing.B) {
	benchRandom4K(b, func(d block.Device, p []byte, off int64) error { return d.WriteAt(ctx, p, off, 0) })
}

func BenchmarkReadAtParent(b *testing.B) {
	benchRandom4K(b, func(d block.Device, p []byte, off int64) error { return d.ReadAt(ctx, p, off+4096) })
}

func BenchmarkAllocatingWrite4K(b *testing.B) {
	const blocks = 1 << 20
	d := benchDisk(b, blocks*mib, mib)
	p := make([]byte, 4096)
	b.ReportAllocs()
	b.SetBytes(4096)
	for i := range b.N {
		must(b, d.WriteAt(ctx, p, int64(i)*7919%blocks*mib, 0))
		if i%64 == 63 {
			must(b, d.Flush(ctx))
		}
	}
}

func BenchmarkSequentialGrowth1M(b *testing.B) {
	const size = 4 << 40
	d := benchDisk(b, size, 32*mib)
	p := make([]byte, mib)
	p[5] = 1
	b.ReportAllocs()
	b.SetBytes(mib)
	for i := range b.N {
		must(b, d.WriteAt(ctx, p, int64(i)*mib%(2<<30), 0)) // 2 GiB, then over again
	}
}
