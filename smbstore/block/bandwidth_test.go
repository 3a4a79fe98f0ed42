package block_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lunless/smbstore/block"
)

// TestBandwidth: whoever wants how much, in whatever pieces: the rate is kept, all
// of it is used, and who wants more than there is gets as much as any other. Time
// is the test's own.
func TestBandwidth(t *testing.T) {
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			rate := int64(1<<20) << rnd.IntN(5)
			b := block.NewBandwidth(rate)
			ctx, stop := context.WithCancel(t.Context())
			jobs := 2 + rnd.IntN(5)
			got := make([]atomic.Int64, jobs)
			largest := int64(0)
			var wg sync.WaitGroup
			for i := range jobs {
				share, piece := b.Share(), int64(32<<10)<<rnd.IntN(6)
				largest = max(largest, piece)
				for range 1 + rnd.IntN(8) {
					wg.Go(func() {
						for share.Wait(ctx, piece) == nil {
							got[i].Add(piece)
						}
					})
				}
			}
			const span = 20 * time.Second
			time.Sleep(span)
			synctest.Wait()
			sum, least, most := int64(0), got[0].Load(), int64(0)
			for i := range got {
				n := got[i].Load()
				sum, least, most = sum+n, min(least, n), max(most, n)
			}
			stop()
			wg.Wait()
			want := rate * int64(span/time.Second)
			if slack := rate/10 + largest; sum > want+slack || sum < want-slack {
				t.Errorf("seed %d: %d bytes in %v at %d a second", seed, sum, span, rate)
			}
			if most-least > 2*largest {
				t.Errorf("seed %d: one got %d, another %d, in pieces of %d at most", seed, most, least, largest)
			}
		})
	}
}

// What one does not use the others get, nobody saves up, and who comes later gets
// its part at once.
func TestBandwidthUnused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := block.NewBandwidth(1 << 20)
		ctx, stop := context.WithCancel(t.Context())
		var busy, late atomic.Int64
		var wg sync.WaitGroup
		run := func(s *block.Share, n *atomic.Int64) {
			wg.Go(func() {
				for s.Wait(ctx, 16<<10) == nil {
					n.Add(16 << 10)
				}
			})
		}
		idle := b.Share()
		run(b.Share(), &busy)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := busy.Load(); n < 10<<20-64<<10 {
			t.Errorf("alone it got %d bytes in 10 s", n)
		}
		run(idle, &late)
		before := busy.Load()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if a, b := busy.Load()-before, late.Load(); a-b > 64<<10 || b-a > 64<<10 {
			t.Errorf("%d and %d bytes in the same 10 s", a, b)
		}
		stop()
		wg.Wait()
	})
}

// A new rate holds for what waits already, in both directions; none lets all
// through; a context ends a wait.
func TestBandwidthChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := block.NewBandwidth(1 << 20)
		s := b.Share()
		must(t, s.Wait(t.Context(), 100<<20)) // to be paid for in 100 s
		start := time.Now()
		time.AfterFunc(10*time.Second, func() { b.SetRate(10 << 20) }) // 90 MiB left: 9 s
		must(t, s.Wait(t.Context(), 1))
		if took := time.Since(start); took < 18*time.Second || took > 20*time.Second {
			t.Errorf("waited %v, want 19 s", took)
		}
		must(t, s.Wait(t.Context(), 100<<20))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Wait(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		start = time.Now()
		time.AfterFunc(time.Second, func() { b.SetRate(0) })
		must(t, s.Wait(t.Context(), 1<<40))
		must(t, s.Wait(t.Context(), 1<<40))
		if took := time.Since(start); took > time.Second {
			t.Errorf("without a limit it waited %v", took)
		}
	})
}

// The slot's requests are measured with what held them back, and no others.
func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := block.NewIntercept(block.NewMem(1<<20), block.DelayBy(func(op block.Op) time.Duration {
			return time.Duration(op.Off) * time.Millisecond
		}))
		slot := block.NewSlot(dev)
		var l block.Latency
		p := make([]byte, 1)
		must(t, slot.ReadAt(t.Context(), p, 100)) // not watched
		slot.Watch(&l)
		must(t, slot.WriteAt(t.Context(), p, 10, 0))
		must(t, slot.ReadAt(t.Context(), p, 30))
		want := block.LatencyWindow{Count: 2, Mean: 20 * time.Millisecond, Worst: 30 * time.Millisecond}
		if got := l.Take(); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if n := testing.AllocsPerRun(100, func() { _ = slot.ReadAt(t.Context(), p, 0) }); n > 0 {
			t.Errorf("a measured read allocates %v times", n)
		}
	})
}

// What a Swap holds back counts for as long as it was held.
func TestLatencyHeld(t *testing.T) {
	slot := block.NewSlot(block.NewMem(1 << 20))
	var l block.Latency
	slot.Watch(&l)
	const held = 20 * time.Millisecond
	done := make(chan error, 1)
	_, err := slot.Swap(func(cur block.Device) (block.Device, error) {
		go func() { done <- slot.Flush(t.Context()) }()
		for l.Take().InFlight == 0 {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(held)
		return cur, nil
	})
	must(t, err)
	must(t, <-done)
	if w := l.Take(); w.Count != 1 || w.Worst < held || l.Worst() != w.Worst || l.Measured() != 1 {
		t.Errorf("held back: %+v, worst %v of %d", w, l.Worst(), l.Measured())
	}
}

// What a low limit has let through is not paid for under a later one, if there was
// none in between.
func TestBandwidthForgets(t *testing.T) {
	b := block.NewBandwidth(1 << 10)
	s := b.Share()
	must(t, s.Wait(t.Context(), 1<<30)) // twelve days' worth
	b.SetRate(0)
	must(t, s.Wait(t.Context(), 1<<20))
	b.SetRate(1 << 30)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must(t, s.Wait(ctx, 1<<20))
}
