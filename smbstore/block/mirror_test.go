package block_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"lunless/smbstore/block"
)

const mirrorSize = 4<<20 + 512*3

var errBroken = errors.New("broken on purpose")

// filled returns a device with data in parts of it, and the data.
func filled(t testing.TB, seed uint64) (*block.Raw, []byte) {
	t.Helper()
	d := block.NewMem(mirrorSize)
	want := make([]byte, mirrorSize)
	rnd := rand.New(rand.NewPCG(seed, 9))
	for range 40 {
		off := rnd.Int64N(mirrorSize - 40000)
		p := bytes.Repeat([]byte{byte(rnd.IntN(255) + 1)}, int(rnd.Int64N(40000)))
		must(t, d.WriteAt(context.Background(), p, off, 0))
		copy(want[off:], p)
	}
	return d, want
}

// TestMirrorUnderWriters copies while writers write, zero and trim, at sizes
// below and above the granularity, then switches under them. Everything that was
// acknowledged must be on the destination.
func TestMirrorUnderWriters(t *testing.T) {
	for seed := range uint64(12) {
		src, _ := filled(t, seed)
		dstFile := block.NewMemFile(mirrorSize)
		opts := block.MirrorOptions{Granularity: 16 << 10, DestinationZero: seed%2 == 0}
		if !opts.DestinationZero {
			_, err := dstFile.WriteAt(bytes.Repeat([]byte{0xdd}, mirrorSize), 0)
			must(t, err)
		}
		raw, err := block.NewRaw(dstFile, block.RawOptions{})
		must(t, err)
		slow := block.DelayBy(func(op block.Op) time.Duration { return time.Duration(op.Off%5) * 20 * time.Microsecond })
		dst := block.NewIntercept(raw, slow)
		m, err := block.NewMirror(src, dst, opts)
		must(t, err)
		slot := block.NewSlot(m)
		model := make([]byte, mirrorSize) // what the writers' own ranges hold
		must(t, src.ReadAt(context.Background(), model, 0))
		stop := make(chan struct{})
		var wg sync.WaitGroup
		errs := make(chan error, 4)
		for w := range 4 {
			wg.Go(func() { errs <- mirrorWriter(slot, model, seed, w, stop) })
		}
		must(t, m.CopyPass(context.Background(), block.CopyOptions{Parallel: 4, ChunkSize: 64 << 10}))
		time.Sleep(2 * time.Millisecond)
		committed := false
		stall, err := m.Switch(context.Background(), func(context.Context) error { committed = true; return nil })
		must(t, err)
		if !committed || stall <= 0 {
			t.Errorf("switched in %v, committed: %v", stall, committed)
		}
		_, err = slot.Swap(func(block.Device) (block.Device, error) { return dst, nil })
		must(t, err)
		time.Sleep(time.Millisecond)
		close(stop)
		wg.Wait()
		for range 4 {
			must(t, <-errs)
		}
		got := make([]byte, mirrorSize)
		must(t, raw.ReadAt(context.Background(), got, 0))
		for i := range got {
			if got[i] != model[i] {
				t.Fatalf("seed %d: byte %d of the destination is %#x, want %#x", seed, i, got[i], model[i])
			}
		}
	}
}

// mirrorWriter changes runs of 3000 bytes, every fourth of which is its own.
func mirrorWriter(d block.Device, model []byte, seed uint64, w int, stop chan struct{}) error {
	ctx, rnd := context.Background(), rand.New(rand.NewPCG(seed, uint64(w)))
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		run := rnd.IntN(mirrorSize/3000/4)*4 + w
		off := run*3000 + rnd.IntN(1000)
		n := rnd.IntN(2000) + 1
		var err error
		p := make([]byte, n)
		switch rnd.IntN(5) {
		case 0:
			err = d.WriteZeroes(ctx, int64(off), int64(n), 0)
		case 1: // a mirror trims to zeroes; the destination alone, being memory, too
			err = d.Trim(ctx, int64(off), int64(n))
		default:
			p = bytes.Repeat([]byte{byte(rnd.IntN(255) + 1)}, n)
			err = d.WriteAt(ctx, p, int64(off), 0)
		}
		if err != nil {
			return err
		}
		copy(model[off:], p)
		got := make([]byte, n)
		if err := d.ReadAt(ctx, got, int64(off)); err != nil || !bytes.Equal(got, p) {
			return errors.Join(err, errors.New("a write is not read back"))
		}
	}
}

// TestMirrorPartialWrite: a write to part of a granule does not stand for it.
func TestMirrorPartialWrite(t *testing.T) {
	ctx := context.Background()
	src, want := filled(t, 1)
	dst := block.NewMem(mirrorSize)
	m := newMirror(t, src, dst)
	before := m.Remaining()
	must(t, m.WriteAt(ctx, []byte("part"), 70000, 0))
	copy(want[70000:], "part")
	if m.Remaining() != before {
		t.Error("a partial write marked its granule as done")
	}
	whole := bytes.Repeat([]byte{5}, 64<<10)
	must(t, m.WriteAt(ctx, whole, 128<<10, 0))
	copy(want[128<<10:], whole)
	must(t, m.WriteAt(ctx, whole[:1536], mirrorSize-1536, 0)) // the last granule is short
	copy(want[mirrorSize-1536:], whole)
	if got := before - m.Remaining(); got != 2*64<<10 {
		t.Errorf("two whole granules written, %d bytes less remain", got)
	}
	if _, err := m.Switch(ctx, nil); !errors.Is(err, block.ErrNotInSync) {
		t.Errorf("Switch too early = %v", err)
	}
	must(t, m.CopyPass(ctx, block.CopyOptions{}))
	got := make([]byte, mirrorSize)
	must(t, dst.ReadAt(ctx, got, 0))
	if !bytes.Equal(got, want) {
		t.Error("the destination differs after the pass")
	}
}

func TestMirrorSkipsZeroes(t *testing.T) {
	ctx := context.Background()
	src := block.NewMem(1 << 30)
	must(t, src.WriteAt(ctx, []byte{1}, 600<<20, 0))
	var writes atomic.Int64
	dst := block.NewIntercept(block.NewMem(1<<30), func(_ context.Context, op block.Op) error {
		if op.Kind == block.OpWrite || op.Kind == block.OpZero {
			writes.Add(op.Len)
		}
		return nil
	})
	m, err := block.NewMirror(src, dst, block.MirrorOptions{DestinationZero: true})
	must(t, err)
	var last block.CopyProgress
	must(t, m.CopyPass(ctx, block.CopyOptions{Progress: func(p block.CopyProgress) { last = p }}))
	want := block.CopyProgress{Copied: 64 << 10, Skipped: 1<<30 - 64<<10}
	if last != want || writes.Load() != 64<<10 {
		t.Errorf("progress %+v with %d bytes written, want %+v", last, writes.Load(), want)
	}
}

func TestMirrorFailures(t *testing.T) {
	ctx := context.Background()
	broken := func(op block.Op) bool { return op.Kind == block.OpWrite || op.Kind == block.OpZero }
	t.Run("destination fails a mirrored write", func(t *testing.T) {
		src, _ := filled(t, 2)
		m := newMirror(t, src, block.NewIntercept(block.NewMem(mirrorSize), block.FailIf(broken, errBroken)))
		must(t, m.WriteAt(ctx, []byte("kept"), 100, 0))
		if err := m.Err(); !errors.Is(err, block.ErrDetached) || !errors.Is(err, errBroken) {
			t.Errorf("Err = %v", err)
		}
		got := make([]byte, 4)
		must(t, src.ReadAt(ctx, got, 100))
		if string(got) != "kept" {
			t.Error("the source lost the write")
		}
		if err := m.CopyPass(ctx, block.CopyOptions{}); !errors.Is(err, block.ErrDetached) {
			t.Errorf("CopyPass = %v", err)
		}
		if _, err := m.Switch(ctx, nil); !errors.Is(err, block.ErrDetached) {
			t.Errorf("Switch = %v", err)
		}
	})
	t.Run("destination fails in the pass", func(t *testing.T) {
		src, _ := filled(t, 3)
		m := newMirror(t, src, block.NewIntercept(block.NewMem(mirrorSize), block.FailNth(block.OpWrite, 5, errBroken)))
		if err := m.CopyPass(ctx, block.CopyOptions{}); !errors.Is(err, block.ErrDetached) || !errors.Is(err, errBroken) {
			t.Errorf("CopyPass = %v", err)
		}
		must(t, m.WriteAt(ctx, []byte("on"), 0, 0))
	})
	t.Run("destination fails the last flush", func(t *testing.T) {
		src, _ := filled(t, 4)
		m := newMirror(t, src, block.NewIntercept(block.NewMem(mirrorSize), block.FailNth(block.OpFlush, 1, errBroken)))
		must(t, m.CopyPass(ctx, block.CopyOptions{}))
		if _, err := m.Switch(ctx, nil); !errors.Is(err, block.ErrDetached) {
			t.Errorf("Switch = %v", err)
		}
		must(t, m.WriteAt(ctx, []byte("on"), 0, 0))
	})
	t.Run("commit fails", func(t *testing.T) {
		src, _ := filled(t, 5)
		dst := block.NewMem(mirrorSize)
		m := newMirror(t, src, dst)
		must(t, m.CopyPass(ctx, block.CopyOptions{}))
		if _, err := m.Switch(ctx, func(context.Context) error { return errBroken }); !errors.Is(err, errBroken) {
			t.Errorf("Switch = %v", err)
		}
		must(t, m.WriteAt(ctx, []byte("both"), 9, 0))
		for _, d := range []block.Device{src, dst} {
			got := make([]byte, 4)
			must(t, d.ReadAt(ctx, got, 9))
			if string(got) != "both" {
				t.Error("the mirror does not go on after a commit that failed")
			}
		}
	})
	t.Run("detached while the commit runs", func(t *testing.T) {
		src, want := filled(t, 9)
		dst := block.NewMem(mirrorSize)
		m := newMirror(t, src, dst)
		must(t, m.CopyPass(ctx, block.CopyOptions{}))
		_, err := m.Switch(ctx, func(context.Context) error { m.Detach(errBroken); return nil })
		if err != nil || m.Err() != nil {
			t.Fatalf("Switch = %v, Err = %v, though the destination was committed to", err, m.Err())
		}
		must(t, m.WriteAt(ctx, []byte("new"), 0, 0))
		got := make([]byte, mirrorSize)
		must(t, dst.ReadAt(ctx, got, 0))
		if string(got[:3]) != "new" || !bytes.Equal(got[3:], want[3:]) {
			t.Error("the destination is not what the guest has")
		}
		_, err = newMirror(t, src, dst).Switch(ctx, nil)
		if !errors.Is(err, block.ErrNotInSync) {
			t.Error(err)
		}
	})
	t.Run("source fails a write", func(t *testing.T) {
		raw, _ := filled(t, 6)
		m := newMirror(t, block.NewIntercept(raw, block.FailNth(block.OpWrite, 1, errBroken)), block.NewMem(mirrorSize))
		must(t, m.CopyPass(ctx, block.CopyOptions{}))
		if err := m.WriteAt(ctx, bytes.Repeat([]byte{9}, 64<<10), 0, 0); !errors.Is(err, errBroken) {
			t.Errorf("WriteAt = %v", err)
		}
		if _, err := m.Switch(ctx, nil); !errors.Is(err, block.ErrNotInSync) {
			t.Errorf("Switch = %v, though the ends differ", err)
		}
		must(t, m.CopyPass(ctx, block.CopyOptions{}))
		_, err := m.Switch(ctx, nil)
		must(t, err)
		got, want := make([]byte, mirrorSize), make([]byte, mirrorSize)
		must(t, m.ReadAt(ctx, got, 0))
		must(t, raw.ReadAt(ctx, want, 0))
		if !bytes.Equal(got, want) {
			t.Error("the ends differ")
		}
	})
	t.Run("pass cancelled, then resumed", func(t *testing.T) {
		src, want := filled(t, 7)
		dst := block.NewMem(mirrorSize)
		m := newMirror(t, src, dst)
		ctx, cancel := context.WithCancel(ctx)
		err := m.CopyPass(ctx, block.CopyOptions{Parallel: 1, Progress: func(p block.CopyProgress) {
			if p.Copied > 1<<20 {
				cancel()
			}
		}})
		if !errors.Is(err, context.Canceled) || m.Err() != nil {
			t.Fatalf("CopyPass = %v, Err = %v", err, m.Err())
		}
		must(t, m.CopyPass(context.Background(), block.CopyOptions{}))
		got := make([]byte, mirrorSize)
		must(t, dst.ReadAt(context.Background(), got, 0))
		if !bytes.Equal(got, want) {
			t.Error("the destination differs")
		}
	})
}

func TestMirrorRateLimit(t *testing.T) {
	src, _ := filled(t, 8)
	m := newMirror(t, src, block.NewMem(mirrorSize))
	start := time.Now()
	lim := rate.NewLimiter(20<<20, 64<<10) // bytes a second
	must(t, m.CopyPass(context.Background(), block.CopyOptions{Limit: lim}))
	if d := time.Since(start); d < 40*time.Millisecond {
		t.Errorf("some 1.5 MiB at 20 MiB/s took %v", d)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
