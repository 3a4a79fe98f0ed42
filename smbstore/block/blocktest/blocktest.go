// Package blocktest is the conformance suite of block.Device: what every
// implementation and wrapper has to do, whatever it lies on.
package blocktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"

	"lunless/smbstore/block"
)

// Fixture is a fresh device under test.
type Fixture struct {
	Dev block.Device
	// Reopen closes the device and opens it again with what is on storage; nil if
	// the device has none.
	Reopen func() block.Device
}

// Factory makes a device of size bytes that reads as zeroes. Sizes are multiples
// of 4096. The suite closes the device.
type Factory func(t testing.TB, size int64) Fixture

// sector is the unit in which a trim may keep or drop content.
const sector = 512

// Run runs the suite.
func Run(t *testing.T, factory Factory) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, factory Factory)
	}{
		{"new device", testNew},
		{"ranges", testRanges},
		{"model", testModel},
		{"concurrent", testConcurrent},
		{"one range concurrently", testSameRange},
		{"persistence", testPersistence},
		{"context", testContext},
		{"closed", testClosed},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, factory) })
	}
}

const testSize = 9<<20 + 4096 // nine blocks of the smallest size and a part of one

func testNew(t *testing.T, factory Factory) {
	f := factory(t, testSize)
	defer closeDev(t, f.Dev)
	if f.Dev.Size() != testSize {
		t.Fatalf("Size %d, want %d", f.Dev.Size(), testSize)
	}
	g := f.Dev.Geometry()
	for _, s := range []int{g.LogicalSectorSize, g.PhysicalSectorSize} {
		if s != 512 && s != 4096 {
			t.Errorf("geometry %+v: sector sizes are 512 or 4096", g)
		}
	}
	expect(t, f.Dev, 0, make([]byte, testSize))
	checkExtents(t, f.Dev, 0, testSize)
}

func testRanges(t *testing.T, factory Factory) {
	f := factory(t, testSize)
	defer closeDev(t, f.Dev)
	ctx := context.Background()
	fill := bytes.Repeat([]byte{0xa5}, testSize)
	must(t, f.Dev.WriteAt(ctx, fill, 0, 0))
	for _, r := range []struct{ off, n int64 }{
		{-1, 1}, {-1, 0}, {math.MinInt64, 1}, {testSize, 1}, {testSize - 1, 2}, {testSize + 1, 0},
		{math.MaxInt64, 1}, {math.MaxInt64, 0}, {1 << 62, 4096}, {0, testSize + 1},
	} {
		buf := make([]byte, r.n)
		wantRange(t, "ReadAt", r.off, r.n, f.Dev.ReadAt(ctx, buf, r.off))
		wantRange(t, "WriteAt", r.off, r.n, f.Dev.WriteAt(ctx, buf, r.off, 0))
		wantRange(t, "WriteAt FUA", r.off, r.n, f.Dev.WriteAt(ctx, buf, r.off, block.FUA))
	}
	for _, r := range []struct{ off, n int64 }{
		{-1, 1}, {testSize, 1}, {testSize - 1, 2}, {1, math.MaxInt64}, {math.MaxInt64, math.MaxInt64},
		{0, -1}, {5, math.MinInt64}, {4096, testSize}, {testSize + 1, 0},
	} {
		wantRange(t, "WriteZeroes", r.off, r.n, f.Dev.WriteZeroes(ctx, r.off, r.n, 0))
		wantRange(t, "Trim", r.off, r.n, f.Dev.Trim(ctx, r.off, r.n))
		wantRange(t, "Extents", r.off, r.n, f.Dev.Extents(ctx, r.off, r.n, func(block.Extent) error { return nil }))
	}
	for _, off := range []int64{0, 1, testSize} { // zero length does nothing
		must(t, f.Dev.ReadAt(ctx, nil, off))
		must(t, f.Dev.WriteAt(ctx, nil, off, block.FUA))
		must(t, f.Dev.WriteZeroes(ctx, off, 0, block.FUA))
		must(t, f.Dev.Trim(ctx, off, 0))
		must(t, f.Dev.Extents(ctx, off, 0, func(e block.Extent) error { return fmt.Errorf("visited %+v", e) }))
	}
	expect(t, f.Dev, 0, fill)
}

func wantRange(t *testing.T, what string, off, n int64, err error) {
	t.Helper()
	if !errors.Is(err, block.ErrOutOfRange) {
		t.Errorf("%s(off %d, length %d) = %v, want ErrOutOfRange", what, off, n, err)
	}
}

// testModel runs random requests and compares with a slice.
func testModel(t *testing.T, factory Factory) {
	f := factory(t, testSize)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	m := &model{dev: f.Dev, want: make([]byte, testSize), rnd: rand.New(rand.NewPCG(seed, 1))}
	for i := range 150 {
		m.step(t)
		if f.Reopen != nil && i%50 == 49 {
			must(t, m.dev.Flush(context.Background()))
			m.dev = f.Reopen()
		}
	}
	expect(t, m.dev, 0, m.want)
	checkExtents(t, m.dev, 0, testSize)
	closeDev(t, m.dev)
}

// model is a device and what it must read as.
type model struct {
	dev  block.Device
	want []byte
	rnd  *rand.Rand
}

func (m *model) step(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	off, n := m.pick()
	var flags block.WriteFlags
	if m.rnd.IntN(8) == 0 {
		flags = block.FUA
	}
	switch k := m.rnd.IntN(10); {
	case k < 4:
		p := make([]byte, n)
		fill(m.rnd, p)
		must(t, m.dev.WriteAt(ctx, p, off, flags))
		copy(m.want[off:], p)
	case k < 6:
		if m.rnd.IntN(2) == 0 {
			flags |= block.NoUnmap
		}
		must(t, m.dev.WriteZeroes(ctx, off, n, flags))
		clear(m.want[off : off+n])
	case k < 7:
		must(t, m.dev.Trim(ctx, off, n))
		m.adopt(t, off, n)
	case k < 8:
		must(t, m.dev.Flush(ctx))
	case k < 9:
		checkExtents(t, m.dev, off, n)
	default:
		expect(t, m.dev, off, m.want[off:off+n])
	}
}

// pick returns a range: any, near a block's border, or whole blocks.
func (m *model) pick() (off, n int64) {
	size := int64(len(m.want))
	switch m.rnd.IntN(4) {
	case 0:
		off = m.rnd.Int64N(size)
		n = m.rnd.Int64N(min(size-off, 3<<20)) + 1
	case 1:
		off = max(0, m.rnd.Int64N(size>>20)<<20-m.rnd.Int64N(1024))
		n = m.rnd.Int64N(min(size-off, 2048)) + 1
	case 2:
		off = m.rnd.Int64N(size>>20) << 20
		n = (m.rnd.Int64N((size-off)>>20) + 1) << 20
	default:
		off = m.rnd.Int64N(size/sector) * sector
		n = min(size-off, (m.rnd.Int64N(64)+1)*sector)
	}
	return off, n
}

// adopt takes over what a trim left after checking that it is allowed: in each
// sector zeroes or the old content, and the old content outside whole sectors.
func (m *model) adopt(t *testing.T, off, n int64) {
	t.Helper()
	got := make([]byte, n)
	must(t, m.dev.ReadAt(context.Background(), got, off))
	for at := int64(0); at < n; {
		c := min(n-at, sector-(off+at)%sector)
		old := m.want[off+at : off+at+c]
		if !block.IsZero(got[at:at+c]) && !bytes.Equal(got[at:at+c], old) {
			t.Fatalf("sector at %d after Trim(%d, %d) is neither zero nor what it was", off+at, off, n)
		}
		copy(old, got[at:])
		at += c
	}
}

// testConcurrent has many writers, each with ranges of its own, some sharing a block.
func testConcurrent(t *testing.T, factory Factory) {
	f := factory(t, testSize)
	defer closeDev(t, f.Dev)
	const workers, slot = 8, 24 << 10
	want := make([]byte, testSize)
	var wg sync.WaitGroup
	errs := make(chan error, workers)
	for w := range workers {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 2))
			errs <- worker(f.Dev, want, rnd, int64(w*slot), workers*slot, slot)
		})
	}
	wg.Wait()
	for range workers {
		must(t, <-errs)
	}
	expect(t, f.Dev, 0, want)
	checkExtents(t, f.Dev, 0, testSize)
}

// worker works in [base+k*stride, +n) for every k.
func worker(dev block.Device, want []byte, rnd *rand.Rand, base, stride, n int64) error {
	ctx := context.Background()
	for i := range 60 {
		off := base + rnd.Int64N(testSize/stride)*stride + rnd.Int64N(n/2)
		p := make([]byte, rnd.Int64N(n/2)+1)
		var err error
		switch {
		case i%5 == 4:
			err = dev.WriteZeroes(ctx, off, int64(len(p)), 0)
		case i%17 == 16:
			err = dev.Flush(ctx)
			p = nil
		default:
			fill(rnd, p)
			err = dev.WriteAt(ctx, p, off, block.WriteFlags(i%7/6)*block.FUA)
		}
		if err != nil {
			return err
		}
		copy(want[off:], p)
		got := make([]byte, len(p))
		if err := dev.ReadAt(ctx, got, off); err != nil {
			return err
		}
		if !bytes.Equal(got, p) {
			return fmt.Errorf("%d bytes at %d read back different", len(p), off)
		}
	}
	return nil
}

// testSameRange has writers of one sector-aligned range: one of them wins whole
// sectors, and nothing around it changes.
func testSameRange(t *testing.T, factory Factory) {
	f := factory(t, testSize)
	defer closeDev(t, f.Dev)
	ctx := context.Background()
	off, n := int64(1<<20-2048), int64(4096) // crosses a block
	var wg sync.WaitGroup
	errs := make(chan error, 8)
	for w := range 8 {
		wg.Go(func() { errs <- f.Dev.WriteAt(ctx, bytes.Repeat([]byte{byte(w + 1)}, int(n)), off, 0) })
	}
	wg.Wait()
	for range 8 {
		must(t, <-errs)
	}
	got := make([]byte, n+2*sector)
	must(t, f.Dev.ReadAt(ctx, got, off-sector))
	for s := 0; s < len(got); s += sector {
		one := bytes.Repeat(got[s:s+1], sector)
		edge := s == 0 || s == len(got)-sector
		if !bytes.Equal(got[s:s+sector], one) || edge != (one[0] == 0) || one[0] > 8 {
			t.Fatalf("sector %d of the contended range holds a mixture or came from nowhere: %x", s/sector, got[s:s+8])
		}
	}
}

func testPersistence(t *testing.T, factory Factory) {
	f := factory(t, testSize)
	if f.Reopen == nil {
		closeDev(t, f.Dev)
		return
	}
	ctx := context.Background()
	want := make([]byte, testSize)
	rnd := rand.New(rand.NewPCG(3, 3))
	dev := f.Dev
	for round := range 3 {
		p := make([]byte, 1<<20+700)
		fill(rnd, p)
		off := int64(round)*(2<<20) + 300
		must(t, dev.WriteAt(ctx, p, off, 0))
		copy(want[off:], p)
		must(t, dev.WriteZeroes(ctx, off+1000, 5000, 0))
		clear(want[off+1000 : off+6000])
		dev = f.Reopen()
		if dev.Size() != testSize {
			t.Fatalf("Size %d after reopen, want %d", dev.Size(), testSize)
		}
		expect(t, dev, 0, want)
	}
	closeDev(t, dev)
}

func testContext(t *testing.T, factory Factory) {
	f := factory(t, testSize)
	defer closeDev(t, f.Dev)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for name, err := range map[string]error{
		"ReadAt":      f.Dev.ReadAt(ctx, make([]byte, 512), 0),
		"WriteAt":     f.Dev.WriteAt(ctx, make([]byte, 512), 0, 0),
		"WriteZeroes": f.Dev.WriteZeroes(ctx, 0, 512, 0),
	} {
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a cancelled context: %v", name, err)
		}
	}
	must(t, f.Dev.WriteAt(context.Background(), []byte{1}, 0, block.FUA)) // and it still works
}

func testClosed(t *testing.T, factory Factory) {
	f := factory(t, testSize)
	ctx := context.Background()
	must(t, f.Dev.Close())
	for name, err := range map[string]error{
		"ReadAt":      f.Dev.ReadAt(ctx, make([]byte, 512), 0),
		"WriteAt":     f.Dev.WriteAt(ctx, make([]byte, 512), 0, 0),
		"WriteZeroes": f.Dev.WriteZeroes(ctx, 0, 512, 0),
		"Flush":       f.Dev.Flush(ctx),
		"Close":       f.Dev.Close(),
	} {
		if !errors.Is(err, block.ErrClosed) {
			t.Errorf("%s after Close = %v, want ErrClosed", name, err)
		}
	}
}

// checkExtents demands consecutive runs that cover the range exactly, neighbours
// of different state, and zeroes where zeroes are claimed.
func checkExtents(t *testing.T, dev block.Device, off, n int64) {
	t.Helper()
	var runs []block.Extent
	must(t, dev.Extents(context.Background(), off, n, func(e block.Extent) error {
		runs = append(runs, e)
		return nil
	}))
	at := off
	for i, e := range runs {
		if e.Offset != at || e.Length <= 0 || (i > 0 && runs[i-1].State == e.State) {
			t.Fatalf("Extents(%d, %d): run %d is %+v after %d", off, n, i, e, at)
		}
		at += e.Length
		if e.State != block.Data {
			expect(t, dev, e.Offset, make([]byte, e.Length))
		}
	}
	if at != off+n {
		t.Fatalf("Extents(%d, %d) end at %d", off, n, at)
	}
	stop := errors.New("enough")
	if err := dev.Extents(context.Background(), off, n, func(block.Extent) error { return stop }); !errors.Is(err, stop) {
		t.Fatalf("Extents did not return the visitor's error but %v", err)
	}
}

func expect(t *testing.T, dev block.Device, off int64, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	fillByte(got, 0xee)
	must(t, dev.ReadAt(context.Background(), got, off))
	if bytes.Equal(got, want) {
		return
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("byte %d (of a read at %d) is %#x, want %#x", off+int64(i), off, got[i], want[i])
		}
	}
}

// ramp is every run of 64 bytes that fill makes, at the byte it begins with. Bytes
// are copied from it, not made one by one, which the race detector makes slow.
var ramp = func() (r [256 + 64]byte) {
	for i := range r {
		r[i] = byte(i)
	}
	return r
}()

func fill(rnd *rand.Rand, p []byte) {
	for len(p) > 0 {
		p = p[copy(p, ramp[byte(rnd.Uint32()):][:64]):]
	}
}

func fillByte(p []byte, b byte) {
	if len(p) == 0 {
		return
	}
	p[0] = b
	for n := 1; n < len(p); n *= 2 {
		copy(p[n:], p[:n])
	}
}

func closeDev(t *testing.T, dev block.Device) {
	t.Helper()
	must(t, dev.Close())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
