package vhdx

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"lunless/smbstore/block"
)

// plain hides the optional abilities of a file.
type plain struct{ block.File }

// packed demands that a compacted file holds the blocks that have data and
// nothing else.
func packed(t testing.TB, d *Disk, m content, f *block.MemFile, res CompactResult) {
	t.Helper()
	blocks := map[int64]bool{}
	for u := range m {
		blocks[u*unit/d.blockSize] = true
	}
	want := batStart + mib + int64(len(blocks))*d.blockSize
	if size, _ := f.Size(); size != want || res.BytesAfter != want || res.BytesAfter > res.BytesBefore {
		t.Errorf("the file has %d bytes, should have %d: %+v", size, want, res)
	}
}

// TestCompactLive compacts and resizes while others read and write, liveRounds times.
func TestCompactLive(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for _, bs := range []int64{mib, 4 * mib} {
		mem := block.NewMemFile(0)
		const base = 48 * mib // what the writers use; what lies past it comes and goes
		d, err := Create(noClose{mem}, CreateOptions{Size: base, BlockSize: bs})
		must(t, err)
		var stop atomic.Bool
		var wg sync.WaitGroup
		const writers = 3
		contents := [writers]content{}
		errs := make(chan error, writers)
		for w := range int64(writers) {
			contents[w] = content{}
			wg.Go(func() { errs <- liveWriter(d, &stop, contents[w], seed, w, writers, base) })
		}
		rnd := rand.New(rand.NewPCG(seed, 99))
		for range liveRounds {
			if rnd.IntN(3) == 0 {
				must(t, d.Resize(ctx, base+rnd.Int64N(20*mib)/unit*unit))
				continue
			}
			_, err := d.Compact(ctx, CompactOptions{}, nil)
			must(t, err)
		}
		stop.Store(true)
		wg.Wait()
		for range writers {
			must(t, <-errs)
		}
		all := content{}
		for _, c := range contents {
			for u, tag := range c {
				all[u] = tag
			}
		}
		must(t, all.verify(d))
		d = reopen(t, d, mem)
		must(t, all.verify(d))
		must(t, d.Close())
	}
}

// liveWriter works on every writers-th unit and reads back what it wrote.
func liveWriter(d *Disk, stop *atomic.Bool, c content, seed uint64, w, writers, base int64) error {
	rnd := rand.New(rand.NewPCG(seed, uint64(w)))
	p, got := make([]byte, unit), make([]byte, unit)
	ctx := context.Background()
	for i := uint64(1); !stop.Load(); i++ {
		u := rnd.Int64N(base/unit/writers)*writers + w
		var err error
		switch rnd.IntN(10) {
		case 0, 1, 2, 3:
			c[u] = i<<8 | uint64(w)
			pattern(p, c[u])
			err = d.WriteAt(ctx, p, u*unit, 0)
		case 4, 5, 6: // mostly zeroes, so that blocks become empty
			delete(c, u)
			err = d.WriteZeroes(ctx, u*unit, unit, block.WriteFlags(rnd.IntN(2))*block.NoUnmap)
			for k := range c {
				if err == nil && rnd.IntN(3) > 0 {
					delete(c, k)
					err = d.WriteZeroes(ctx, k*unit, unit, 0)
				}
			}
		case 7:
			err = d.Flush(ctx)
		default:
			if err = d.ReadAt(ctx, got, u*unit); err == nil {
				if pattern(p, c[u]); string(p) != string(got) {
					return fmt.Errorf("unit %d holds %d, want %d", u, le.Uint64(got), c[u])
				}
			}
		}
		if err != nil {
			return fmt.Errorf("writer %d: %w", w, err)
		}
	}
	return nil
}

// TestCompactCancelled ends Compact after some of its work, again and again:
// nothing is lost, and in the end all is done.
func TestCompactCancelled(t *testing.T) {
	mem := block.NewMemFile(0)
	d, err := Create(noClose{mem}, CreateOptions{Size: 64 * mib, BlockSize: mib})
	must(t, err)
	m := content{}
	for blk := range int64(64) {
		m.write(t, d, blk*mib/unit, 3, uint64(blk*10+1))
	}
	for blk := range int64(40) {
		must(t, d.WriteZeroes(ctx, blk*mib, mib, block.NoUnmap*block.WriteFlags(blk%2)))
		for u := range int64(3) {
			delete(m, blk*mib/unit+u)
		}
	}
	cancelled := 0
	for {
		limit, cancel := context.WithCancel(ctx)
		steps := 0
		last := int64(0)
		res, err := d.Compact(limit, CompactOptions{}, func(done, total int64) {
			if done < last || done > total {
				t.Errorf("progress %d of %d after %d", done, total, last)
			}
			last = done
			if steps++; steps == 26+cancelled {
				cancel()
			}
		})
		cancel()
		must(t, m.verify(d))
		if err == nil {
			packed(t, d, m, mem, res)
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if cancelled++; cancelled > 100 {
			t.Fatal("does not come to an end")
		}
	}
	if cancelled == 0 {
		t.Error("was never cancelled")
	}
	must(t, d.Close())
	clean(t, mem)
}

// TestCompactKeepsIdentity: the user sees the same disk (MS-VHDX 2.2.2), and what
// was trimmed but kept its room gives it back.
func TestCompactKeepsIdentity(t *testing.T) {
	f := small(t, true)
	putEntry(t, f, 2, makeEntry(stateUnmapped, 5*mib))
	putEntry(t, f, 4, makeEntry(stateUndefined, 6*mib))
	was, err := Inspect(f)
	must(t, err)
	d, err := Open(noClose{f}, OpenOptions{})
	must(t, err)
	res, err := d.Compact(ctx, CompactOptions{}, nil)
	must(t, err)
	if res != (CompactResult{BytesBefore: smallEnd, BytesAfter: 5 * mib, Zeroed: 2}) {
		t.Errorf("%+v", res)
	}
	must(t, d.Close())
	is, err := Inspect(f)
	must(t, err)
	if is.DataWriteGUID != was.DataWriteGUID || is.FileWriteGUID == was.FileWriteGUID || is.LogInUse {
		t.Errorf("%+v, was %+v", is, was)
	}
	clean(t, f)
}

// TestCompactFixed: refused if there is something to give back.
func TestCompactFixed(t *testing.T) {
	f := fixedSmall(t)
	d, err := Open(noClose{f}, OpenOptions{})
	must(t, err)
	if _, err := d.Compact(ctx, CompactOptions{}, nil); !errors.Is(err, ErrFixed) {
		t.Error(err)
	}
	for blk := range int64(4) {
		must(t, d.WriteAt(ctx, []byte{1}, blk*mib+77, 0))
	}
	res, err := d.Compact(ctx, CompactOptions{}, nil)
	if err != nil || res.BytesBefore != res.BytesAfter {
		t.Errorf("%+v %v", res, err)
	}
	must(t, d.Close())
}

// TestCompactMovesBAT: a BAT that a Resize put at the file's end comes down.
func TestCompactMovesBAT(t *testing.T) {
	f := block.NewMemFile(0)
	d, err := Create(noClose{f}, CreateOptions{Size: 64 * mib, BlockSize: mib})
	must(t, err)
	m := content{}
	for blk := range int64(64) {
		m.write(t, d, blk*mib/unit, 1, uint64(blk+1))
	}
	must(t, d.Resize(ctx, 160<<30))
	if bat := d.geo.Load().bat; bat != 68*mib {
		t.Fatalf("BAT at %#x", bat)
	}
	must(t, d.WriteZeroes(ctx, 0, 60*mib, 0))
	m.cut(0)
	for blk := int64(60); blk < 64; blk++ {
		m[blk*mib/unit] = uint64(blk + 1)
	}
	_, err = d.Compact(ctx, CompactOptions{}, nil)
	must(t, err)
	must(t, d.Close())
	d, err = Open(noClose{f}, OpenOptions{})
	must(t, err)
	must(t, d.Resize(ctx, 64*mib))
	must(t, m.verify(d))
	must(t, d.Close())
	clean(t, f)
	if size, _ := f.Size(); size != (3+2+4)*mib {
		t.Errorf("the file has %d bytes", size)
	}
}
