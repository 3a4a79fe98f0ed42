package migrate

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lunless/smbstore/block"
)

// A guest whose requests take longer the faster is copied: the guard finds a rate
// at which they do not take longer than allowed, most of the time; it never goes
// below its floor, so that the copy ends; and it lets go once the guest is idle.
func TestGuard(t *testing.T) {
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		o := &LiveOptions{}
		if rnd.IntN(2) == 0 {
			o.GuardFactor, o.GuardFloor = 1.5+3*rnd.Float64(), int64(1+rnd.IntN(16))<<20
		}
		g := newGuard(o)
		g.base = time.Duration(100+rnd.IntN(5000)) * time.Microsecond
		capacity := float64(int64(50+rnd.IntN(950)) << 20) // what the copy can move a second
		hurt := float64(g.bound()-g.base) / (capacity * (0.1 + rnd.Float64()))
		rate, slowed, after := 0.0, 0, 0
		left := 100 * capacity
		windows := 0
		for ; left > 0; windows++ {
			speed := capacity
			if rate > 0 {
				speed = min(speed, rate)
			}
			moved := speed * governEvery.Seconds()
			left -= moved
			w := paceWindow{span: governEvery, moved: int64(moved)}
			w.guest = block.LatencyWindow{Count: 100, Mean: g.base + time.Duration(hurt*speed*(0.9+0.2*rnd.Float64()))}
			r, slow := g.step(w)
			if rate = float64(r); r != 0 && r < g.floor {
				t.Fatalf("seed %d: a rate of %d below the floor of %d", seed, r, g.floor)
			}
			if windows > 100 {
				after++
				if w.guest.Mean > guardRate*g.bound()*5/4 {
					slowed++
				}
			}
			if slow && r == 0 && g.mean > guardRate*g.bound() {
				t.Fatalf("seed %d: slow, and no limit", seed)
			}
			if windows > 1_000_000 {
				t.Fatalf("seed %d: the copy does not end", seed)
			}
		}
		// It tries for more again and again: a quarter of the time may be too much.
		if slowed*4 > after {
			t.Errorf("seed %d: slow in %d of %d windows", seed, slowed, after)
		}
		if least := 100 * capacity / float64(max(windows, 1)) / governEvery.Seconds(); least < float64(min(g.floor, int64(capacity)))*0.9 {
			t.Errorf("seed %d: %.0f bytes a second", seed, least)
		}
		for range 200 { // idle
			rate2, slow := g.step(paceWindow{span: governEvery, moved: 1 << 20})
			if rate = float64(rate2); slow {
				t.Fatalf("seed %d: an idle guest is slow", seed)
			}
		}
		if rate != 0 {
			t.Errorf("seed %d: a limit of %.0f for an idle guest", seed, rate)
		}
	}
}

// A guest none of whose requests end is slow, whatever its latency was.
func TestGuardStuck(t *testing.T) {
	g := newGuard(&LiveOptions{})
	stuck := paceWindow{span: governEvery, moved: 50 << 20, guest: block.LatencyWindow{InFlight: 1}}
	stuck.spare = true
	for range 5 { // requests first
		if rate, slow := g.step(stuck); !slow || rate != 0 {
			t.Fatalf("a rate of %d while requests can be taken away, slow: %v", rate, slow)
		}
	}
	stuck.spare = false
	for i := range 60 {
		rate, slow := g.step(stuck)
		if !slow || rate < g.floor {
			t.Fatalf("window %d: %d, %v", i, rate, slow)
		}
	}
	if g.rate != g.floor {
		t.Errorf("ends at %d, want the floor", g.rate)
	}
	if newGuard(&LiveOptions{GuardFactor: -1}) != nil {
		t.Error("switched off it is there")
	}
}

// A disk that holds up the guest and the copy alike for a while does not have the copy
// crawl afterwards.
func TestGuardAfterStall(t *testing.T) {
	g := newGuard(&LiveOptions{})
	g.base = 600 * time.Microsecond
	quick := paceWindow{span: governEvery, moved: 24 << 20, guest: block.LatencyWindow{Count: 70, Mean: 3 * time.Millisecond}}
	for range 20 {
		if rate, slow := g.step(quick); rate != 0 || slow {
			t.Fatalf("%d, %v for a quick guest", rate, slow)
		}
	}
	for range 8 {
		if rate, slow := g.step(paceWindow{span: governEvery, guest: block.LatencyWindow{InFlight: 4}}); rate != 0 || !slow {
			t.Fatalf("%d, %v while nothing moves", rate, slow)
		}
	}
	g.step(paceWindow{span: governEvery, moved: 3 << 20, guest: block.LatencyWindow{Count: 177, Mean: 11 * time.Millisecond}})
	for i := range 20 {
		if rate, _ := g.step(quick); rate != 0 && rate < 100<<20 {
			t.Fatalf("window %d after the stall: %d MiB/s", i, rate>>20)
		}
	}
}

// The climber finds about as many requests as bring something, and halves them for
// a slow guest.
func TestClimber(t *testing.T) {
	for best := 1; best <= maxParallel; best *= 2 {
		c := newClimber(startParallel)
		n, sum := startParallel, 0
		for i := range 1000 {
			moved := int64(min(n, best)) << 20
			if n = c.step(paceWindow{span: governEvery, moved: moved, bound: true}, false); n < 1 || n > maxParallel {
				t.Fatalf("%d requests", n)
			}
			if i >= 500 {
				sum += n
			}
		}
		if mean := sum / 500; mean < min(best, startParallel) || mean > max(2*best, 2*startParallel) {
			t.Errorf("%d requests on average, where %d bring the most", mean, best)
		}
	}
	c := newClimber(startParallel)
	if n := c.step(paceWindow{}, true); n != startParallel/2 {
		t.Errorf("%d requests for a slow guest", n)
	}
	for range 10 {
		c.step(paceWindow{}, true)
	}
	if c.allowed != leastParallel {
		t.Errorf("%d requests for a guest that stays slow", c.allowed)
	}
}

// A paused job begins nothing, goes on with what it had allowed, and its rate is
// the lower of the two.
func TestPacer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(&Options{Parallel: 3})
		ctx, stop := context.WithCancel(t.Context())
		var running, most, done atomic.Int64
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				for p.Begin(ctx, 1<<20) == nil {
					most.Store(max(most.Load(), running.Add(1)))
					time.Sleep(10 * time.Millisecond)
					running.Add(-1)
					done.Add(1)
					p.End(1 << 20)
				}
			})
		}
		within := func(d time.Duration) int64 {
			before := done.Load()
			time.Sleep(d)
			synctest.Wait()
			return done.Load() - before
		}
		if n := within(time.Second); n < 290 || n > 303 || most.Load() != 3 {
			t.Errorf("%d requests, %d at a time", n, most.Load())
		}
		p.pause(true)
		time.Sleep(20 * time.Millisecond)
		if n := within(time.Minute); n != 0 || running.Load() != 0 {
			t.Errorf("%d requests while paused", n)
		}
		p.pause(false)
		p.setLimit(50 << 20)
		p.setGuarded(10 << 20)
		if n := within(10 * time.Second); n < 97 || n > 103 {
			t.Errorf("%d MiB in 10 s at 10 MiB/s", n)
		}
		p.setGuarded(0)
		if n := within(10 * time.Second); n < 490 || n > 505 {
			t.Errorf("%d MiB in 10 s at 50 MiB/s", n)
		}
		p.setLimit(0)
		p.setAllowed(1)
		time.Sleep(time.Second)
		if n := within(time.Second); n < 97 || n > 101 {
			t.Errorf("%d requests, one at a time", n)
		}
		stop()
		wg.Wait()
		if p.running != 0 || len(p.waiting) != 0 {
			t.Errorf("%d running, %d waiting in the end", p.running, len(p.waiting))
		}
	})
}

// The remaining time is told when it can be: not at once, not while the job stands
// or is paused; and it knows of what a guest adds.
func TestRemaining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &Job{pace: newPacer(&Options{})}
		j.phase(Copying, 1000<<20)
		tell := func(what string, want time.Duration) {
			t.Helper()
			got := j.Status().Remaining
			if want == Unknown && got != want || want != Unknown && (got < want*9/10 || got > want*11/10) {
				t.Errorf("%s: %v, want %v", what, got, want)
			}
		}
		tell("at the start", Unknown)
		j.hole(400<<20, true)
		tell("after a hole", Unknown)
		for range 100 { // 10 MiB/s for 10 s
			time.Sleep(100 * time.Millisecond)
			j.advance(1<<20, 0)
		}
		tell("at a steady rate", 50*time.Second)
		j.passed(0, 0, 100<<20) // a guest's writes are to be copied again
		tell("with more to do", 60*time.Second)
		j.Pause()
		tell("paused", Unknown)
		j.Unpause()
		tell("just now", Unknown)
		for range 20 {
			time.Sleep(100 * time.Millisecond)
			j.passed(1<<20, 0, -2<<20) // the guest brings as much itself
		}
		tell("with the guest's help", 28*time.Second)
		time.Sleep(time.Minute)
		tell("when nothing moves", Unknown)
		if s := j.Status(); s.Left != 560<<20 {
			t.Errorf("%d MiB left", s.Left>>20)
		}
	})
}

// Jobs beyond the limit wait in their order, and go when another leaves or gives up.
func TestManagerTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewManager(2, 0)
		var order []int
		var leaves []func()
		var mu sync.Mutex
		ask := func(i int, ctx context.Context) {
			go func() {
				leave, err := m.turn(ctx)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					order, leaves = append(order, i), append(leaves, leave)
				}
			}()
			synctest.Wait()
		}
		ctx, cancel := context.WithCancel(t.Context())
		for i := range 5 {
			if i == 2 {
				ask(i, ctx)
			} else {
				ask(i, t.Context())
			}
		}
		if len(order) != 2 {
			t.Fatalf("%v run", order)
		}
		cancel()
		synctest.Wait()
		leaves[0]()
		leaves[0]() // twice is once
		synctest.Wait()
		if len(order) != 3 || order[2] != 3 {
			t.Fatalf("%v ran", order)
		}
		m.SetLimit(3)
		synctest.Wait()
		if len(order) != 4 || order[3] != 4 || m.running != 3 {
			t.Fatalf("%v ran, %d run", order, m.running)
		}
	})
}
