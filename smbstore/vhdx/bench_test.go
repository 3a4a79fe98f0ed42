package vhdx

import (
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

func BenchmarkRandomRead4K(b *testing.B) {
	const size = 256 * mib
	d := benchDisk(b, size, 32*mib)
	must(b, d.WriteAt(ctx, make([]byte, size), 0, 0))
	b.ReportAllocs()
	b.SetBytes(4096)
	b.RunParallel(func(pb *testing.PB) {
		p, rnd := make([]byte, 4096), rand.New(rand.NewPCG(1, 2))
		for pb.Next() {
			must(b, d.ReadAt(ctx, p, rnd.Int64N(size/4096)*4096))
		}
	})
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
