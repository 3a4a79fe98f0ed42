package block_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lunless/smbstore/block"
)

// TestBitmapModel compares a bitmap with a slice of flags.
func TestBitmapModel(t *testing.T) {
	const g = 4096
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 5))
		size := rnd.Int64N(400*g) + 1
		b, err := block.NewBitmap(size, g)
		must(t, err)
		want := make([]bool, (size+g-1)/g)
		for range 200 {
			off := rnd.Int64N(size)
			n := rnd.Int64N(size-off) + 1
			op := rnd.IntN(3)
			for i := range want {
				lo, hi := int64(i)*g, min(size, int64(i+1)*g)
				touched := lo < off+n && off < hi
				switch {
				case op == 0 && touched:
					want[i] = true
				case op == 1 && touched, op == 2 && off <= lo && hi <= off+n:
					want[i] = false
				}
			}
			switch op {
			case 0:
				b.Set(off, n)
			case 1:
				b.Clear(off, n)
			default:
				b.ClearCovered(off, n)
			}
			got, count := make([]bool, len(want)), int64(0)
			for at := int64(0); ; {
				off, n, ok := b.Next(at, size)
				if !ok {
					break
				}
				if off%g != 0 || n <= 0 || off < at {
					t.Fatalf("seed %d: Next(%d) = %d, %d", seed, at, off, n)
				}
				for i := off / g; i < (off+n+g-1)/g; i++ {
					got[i] = true
					count++
				}
				at = off + n
			}
			for i := range want {
				if got[i] != want[i] || b.Test(int64(i)*g, 1) != want[i] {
					t.Fatalf("seed %d: granule %d is %v, want %v", seed, i, got[i], want[i])
				}
			}
			if count != b.Count() {
				t.Fatalf("seed %d: Count %d, want %d", seed, b.Count(), count)
			}
		}
	}
}

func TestBitmapBounds(t *testing.T) {
	b, err := block.NewBitmap(64<<40, 1<<20)
	must(t, err)
	b.Set(64<<40-1, 1)
	if off, n, ok := b.Next(0, 1<<62); !ok || off != 64<<40-1<<20 || n != 1<<20 {
		t.Errorf("Next = %d, %d, %v", off, n, ok)
	}
	b.Set(-5, 10)
	b.Set(1<<50, 1<<62)
	if b.Count() != 1 {
		t.Errorf("ranges outside count: %d", b.Count())
	}
	for _, c := range [][2]int64{{1 << 62, 512}, {-1, 512}, {100, 0}, {100, 3}, {100, -4}} {
		if _, err := block.NewBitmap(c[0], c[1]); err == nil {
			t.Errorf("NewBitmap(%d, %d) succeeded", c[0], c[1])
		}
	}
}

func TestBitmapConcurrent(t *testing.T) {
	b, err := block.NewBitmap(1<<20, 1) // neighbours share words
	must(t, err)
	var wg sync.WaitGroup
	for w := range int64(8) {
		wg.Go(func() {
			for i := w; i < 1<<16; i += 8 {
				b.Set(i, 1)
				if i%3 == 0 {
					b.Clear(i, 1)
				}
			}
		})
	}
	wg.Wait()
	if want := int64(1<<16 - (1<<16+2)/3); b.Count() != want {
		t.Errorf("Count %d, want %d", b.Count(), want)
	}
}

func TestRangeLock(t *testing.T) {
	var l block.RangeLock
	var owners [64]atomic.Int32
	var wg sync.WaitGroup
	for w := range uint64(8) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(w, 1))
			for range 500 {
				off := rnd.IntN(60)
				n := rnd.IntN(64-off) + 1
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rnd.IntN(200)+1)*time.Microsecond)
				h, err := l.Lock(ctx, int64(off), int64(n))
				cancel()
				if err != nil {
					continue
				}
				for i := off; i < off+n; i++ {
					if owners[i].Add(1) != 1 {
						t.Error("two owners of one byte")
					}
				}
				for i := off; i < off+n; i++ {
					owners[i].Add(-1)
				}
				l.Unlock(h)
			}
		})
	}
	wg.Wait()
	h, err := l.Lock(context.Background(), 0, 64) // nothing is left behind
	must(t, err)
	l.Unlock(h)
}

// TestRawFailsForGood: after a failed sync nothing is promised any more.
func TestRawFailsForGood(t *testing.T) {
	ctx := context.Background()
	f := block.NewInterceptFile(block.NewMemFile(8192), block.FailNth(block.OpFlush, 1, errBroken))
	r, err := block.NewRaw(f, block.RawOptions{})
	must(t, err)
	must(t, r.WriteAt(ctx, []byte{1}, 0, 0))
	if err := r.Flush(ctx); !errors.Is(err, errBroken) || !errors.Is(err, block.ErrFailed) {
		t.Errorf("Flush = %v", err)
	}
	for name, err := range map[string]error{
		"Flush": r.Flush(ctx), "WriteAt": r.WriteAt(ctx, []byte{1}, 0, 0), "WriteZeroes": r.WriteZeroes(ctx, 0, 1, 0), "Trim": r.Trim(ctx, 0, 1),
	} {
		if !errors.Is(err, block.ErrFailed) {
			t.Errorf("%s after a failed flush = %v", name, err)
		}
	}
	must(t, r.ReadAt(ctx, make([]byte, 1), 0))
	must(t, r.Close())
}

func TestRawReadOnly(t *testing.T) {
	ctx := context.Background()
	r, err := block.NewRaw(block.NewMemFile(8192), block.RawOptions{ReadOnly: true})
	must(t, err)
	for name, err := range map[string]error{
		"WriteAt": r.WriteAt(ctx, []byte{1}, 0, 0), "WriteZeroes": r.WriteZeroes(ctx, 0, 1, 0), "Trim": r.Trim(ctx, 0, 1),
	} {
		if !errors.Is(err, block.ErrReadOnly) {
			t.Errorf("%s = %v", name, err)
		}
	}
	must(t, r.Flush(ctx))
	if _, err := block.NewRaw(block.NewMemFile(512), block.RawOptions{Size: 1024}); !errors.Is(err, block.ErrOutOfRange) {
		t.Errorf("a device beyond its file: %v", err)
	}
}

func TestLocalCopy(t *testing.T) {
	dir := t.TempDir()
	open := func(name string) *block.Local {
		f, err := block.OpenLocal(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
		must(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	a, b := open("a"), open("b")
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
	_, err := a.WriteAt(want, 0)
	must(t, err)
	n, err := b.CopyFrom(a, 1000, 5000, 1<<20) // more than there is
	if err != nil || n != int64(len(want)-1000) {
		t.Fatalf("CopyFrom = %d, %v", n, err)
	}
	got := make([]byte, n)
	_, err = b.ReadAt(got, 5000)
	must(t, err)
	if !bytes.Equal(got, want[1000:]) {
		t.Error("the copy differs")
	}
	if _, err := b.CopyFrom(block.NewMemFile(5), 0, 0, 5); !errors.Is(err, block.ErrNotSupported) {
		t.Errorf("CopyFrom another kind of file = %v", err)
	}
}
