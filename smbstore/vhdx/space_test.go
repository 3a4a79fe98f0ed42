package vhdx

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"lunless/smbstore/block"
)

// TestSpaceModel allocates and releases at random next to a model of one bool a
// megabyte.
func TestSpaceModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	f := block.NewMemFile(4 * mib)
	s := space{f: f, end: 4 * mib, fresh: 4 * mib}
	s.fileSize.Store(4 * mib)
	inUse := []bool{true, true, true, true} // by megabyte
	written := len(inUse)
	var held []room
	fits := func(n int64) int64 { // the lowest place for n megabytes, or the end
		run, last := int64(0), int64(len(inUse))
		for last > 0 && !inUse[last-1] {
			last--
		}
		for m := range last {
			if run++; inUse[m] {
				run = 0
			}
			if run == n {
				return m - n + 1
			}
		}
		return last
	}
	for range 20000 {
		if rnd.IntN(100) < 45 && len(held) > 0 {
			i := rnd.IntN(len(held))
			r := held[i]
			held = slices.Delete(held, i, i+1)
			s.release(r)
			for m := r.off / mib; m < r.end()/mib; m++ {
				inUse[m] = false
			}
			continue
		}
		if len(held) > 200 {
			continue
		}
		n := []int64{1, 1, 2, 2, 2, 32, 7}[rnd.IntN(7)]
		want := fits(n)
		off, zeroed, err := s.alloc(n * mib)
		must(t, err)
		if off != want*mib {
			t.Fatalf("%d MiB at %d MiB, the lowest place is %d MiB", n, off/mib, want)
		}
		if zeroed && want < int64(written) {
			t.Fatalf("room at %d MiB was in use before, but is said to read as zeroes", want)
		}
		if !zeroed && want >= int64(written) {
			t.Fatalf("room at %d MiB was never in use", want)
		}
		for int64(len(inUse)) < want+n {
			inUse = append(inUse, false)
		}
		for m := want; m < want+n; m++ {
			inUse[m] = true
		}
		written = max(written, int(want+n))
		held = append(held, room{off, n * mib})
		if size, _ := f.Size(); size < off+n*mib || size != s.fileSize.Load() {
			t.Fatalf("file has %d bytes, room ends at %d", size, off+n*mib)
		}
	}
	u := newUsage(s.fileSize.Load())
	for m, used := range inUse {
		if used {
			u.mark(int64(m)*mib, mib)
		}
	}
	if end := u.end(); s.end != end || !slices.Equal(s.free, u.runs(end, maxRuns)) {
		t.Errorf("free is %v up to %d, should be %v up to %d", s.free, s.end, u.runs(end, maxRuns), end)
	}
	s.release(held...)
	if s.end != 4*mib || len(s.free) != 0 {
		t.Errorf("all is free, but %v and what lies before %d", s.free, s.end)
	}
}

// TestSpaceReleasedTwice: room that two gave back is given out once.
func TestSpaceReleasedTwice(t *testing.T) {
	s := space{end: 100 * mib}
	for _, r := range []room{{10 * mib, 4 * mib}, {10 * mib, 4 * mib}, {11 * mib, mib}, {8 * mib, 3 * mib}, {13 * mib, 9 * mib}, {99 * mib, 2 * mib}} {
		s.release(r)
	}
	if !slices.Equal(s.free, []room{{10 * mib, 4 * mib}}) || s.end != 100*mib {
		t.Errorf("free is %v, end %d", s.free, s.end)
	}
}

// TestSpaceBounds: what is remembered of free room has a bound, and so has the file.
func TestSpaceBounds(t *testing.T) {
	s := space{f: block.NewMemFile(0), end: 4 * maxRuns * mib}
	for m := int64(1); m < 3*maxRuns; m += 2 {
		s.release(room{m * mib, mib})
	}
	if len(s.free) != maxRuns || s.free[0].off != mib {
		t.Errorf("%d runs from %d on are remembered", len(s.free), s.free[0].off)
	}
	if off, ok := s.allocBelow(mib, 2*mib); !ok || off != mib {
		t.Errorf("below 2 MiB: %d %v", off, ok)
	}
	if off, ok := s.allocBelow(mib, 4*mib-1); ok {
		t.Errorf("below 4 MiB, less one: %d", off)
	}
	s = space{f: block.NewMemFile(0), end: maxFileSize - mib}
	if _, _, err := s.alloc(2 * mib); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
}

// TestSpaceGrows: by steps, and by less where the file system has no room.
func TestSpaceGrows(t *testing.T) {
	full := errors.New("full")
	limit := int64(1 << 50)
	f := block.NewInterceptFile(block.NewMemFile(0), block.FailIf(func(op block.Op) bool {
		return op.Kind == block.OpTruncate && op.Off > limit
	}, full))
	s := space{f: f}
	_, _, err := s.alloc(mib)
	must(t, err)
	if got := s.fileSize.Load(); got != growStep {
		t.Errorf("the first step is %d", got)
	}
	s.end = growStep
	limit = growStep + 3*mib
	_, _, err = s.alloc(2 * mib)
	must(t, err)
	if got := s.fileSize.Load(); got != growStep+2*mib {
		t.Errorf("the file has %d bytes", got)
	}
	if _, _, err = s.alloc(2 * mib); !errors.Is(err, full) || s.used() != growStep+2*mib {
		t.Errorf("%v, in use up to %d", err, s.used())
	}
	limit = 1 << 50
	s.end = 64 << 30
	s.fileSize.Store(s.end)
	_, _, err = s.alloc(mib)
	must(t, err)
	if got := s.fileSize.Load(); got != 65<<30 {
		t.Errorf("a file of 64 GiB grows to %d", got)
	}
}
