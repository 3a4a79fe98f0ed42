package migrate

import (
	"context"
	"time"

	"lunless/smbstore/block"
)

// guard keeps a copy from making the guest wait. Its law, once every window of
// 100 ms:
//
//	L0     the mean time of the guest's requests before the copy, with the mirror
//	       in place; not known of a guest that makes too few
//	bound  max(factor * L0, L0 + 5 ms), factor being 3 unless set; 20 ms while
//	       L0 is not known
//	L      a running mean of the windows' means, the newest counting half. A window
//	       in which requests waited and none ended counts as long as it was, and none
//	       counts for more than 4 * bound
//
//	L > bound: half the requests in flight, but no fewer than leastParallel, where
//	           their number is not fixed
//	L > 2 * bound, and no fewer requests can be had:
//	           rate = max(floor, 0.7 * rate), from a running mean of what was moved
//	           where there was no limit, and so again after 300 ms at the earliest;
//	           not in a window in which the copy moved nothing either
//	else:      rate = rate + max(4 MiB/s, rate / 16), and none once the copy moves
//	           less than half of what it may for a second: then something else
//	           holds it back
//
// Requests come before the rate, since those beyond the few that keep what is
// slowest busy bring the copy nothing, and stand in the guest's way all the same.
// One flush that takes long is one reason to go slower, not one in every window
// that it lasts; and a disk that holds up guest and copy alike, as one does that
// writes out its cache, is no reason to crawl once it is through. The floor, 4 MiB/s unless set, is kept whatever the guest feels:
// since writes go to both sides, what is left to copy only shrinks, so that a copy
// that goes on ends.
type guard struct {
	factor float64
	floor  int64         // bytes a second
	base   time.Duration // L0; 0: not known
	mean   time.Duration // L; 0: nothing yet
	rate   int64         // bytes a second; 0: no limit
	flow   int64         // what the copy moves, bytes a second
	spare  int           // windows in which less than half of the rate was used
	hold   int           // windows in which the rate does not fall again
}

const (
	guardFactor  = 3
	guardFloor   = 4 << 20
	guardSlack   = 5 * time.Millisecond
	guardUnknown = 20 * time.Millisecond
	guardStep    = 4 << 20
	guardPart    = 16 // of the rate, if that is more than guardStep
	guardHold    = 3
	guardRate    = 2 // times the bound, for the rate
	guardMost    = 4 // times the bound, for a window
	guardDrop    = 0.7
	guardSpare   = int(time.Second / governEvery)

	// What is waited for to know L0: so many requests, but no longer than that, and
	// not for a guest that makes none.
	learnRequests = 64
	learnFor      = 250 * time.Millisecond
	learnIdle     = 30 * time.Millisecond
	learnLeast    = 8
)

func newGuard(o *LiveOptions) *guard {
	if o.GuardFactor < 0 {
		return nil
	}
	g := &guard{factor: o.GuardFactor, floor: o.GuardFloor}
	if g.factor == 0 {
		g.factor = guardFactor
	}
	if g.floor <= 0 {
		g.floor = guardFloor
	}
	return g
}

// learn measures L0. It is called while nothing is copied; g may be nil.
func (g *guard) learn(ctx context.Context, guest *block.Latency) error {
	if g == nil {
		return ctx.Err()
	}
	guest.Take()
	begun, start := guest.Measured(), time.Now()
	for guest.Measured()-begun < learnRequests && time.Since(start) < learnFor {
		if guest.Measured() == begun && time.Since(start) > learnIdle {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	if w := guest.Take(); w.Count >= learnLeast {
		g.base, g.mean = w.Mean, 0
	}
	return ctx.Err()
}

// bound is the mean latency above which the copy gives way.
func (g *guard) bound() time.Duration {
	if g.base == 0 {
		return guardUnknown
	}
	return max(time.Duration(g.factor*float64(g.base)), g.base+guardSlack)
}

// see takes a window into the means.
func (g *guard) see(w paceWindow) {
	most := guardMost * g.bound()
	switch {
	case w.guest.Count > 0 && g.mean == 0:
		g.mean = min(w.guest.Mean, most)
	case w.guest.Count > 0:
		g.mean = (g.mean + min(w.guest.Mean, most)) / 2
	case w.guest.InFlight > 0:
		g.mean = max(g.mean, min(w.span, most))
	default:
		g.mean = 0 // an idle guest waits for nothing
	}
	now := int64(float64(w.moved) / w.span.Seconds())
	switch {
	case g.flow == 0:
		g.flow = now
	case w.moved > 0:
		g.flow += (now - g.flow) / 4
	}
}

// step gives the rate for the next window, 0 for no limit, and whether the guest
// was slow in this one.
func (g *guard) step(w paceWindow) (rate int64, slow bool) {
	g.see(w)
	g.hold = max(0, g.hold-1)
	if g.mean > g.bound() {
		if w.spare || w.moved == 0 || g.hold > 0 || g.mean <= guardRate*g.bound() {
			return g.rate, true
		}
		g.hold = guardHold
		from := g.rate
		if from == 0 {
			from = g.flow
		}
		g.rate, g.spare = max(g.floor, int64(guardDrop*float64(from))), 0
		return g.rate, true
	}
	if g.rate == 0 {
		return 0, false
	}
	if w.moved*2 < int64(float64(g.rate)*w.span.Seconds()) {
		g.spare++
	} else {
		g.spare = 0
	}
	if g.rate += max(guardStep, g.rate/guardPart); g.spare >= guardSpare {
		g.rate, g.spare = 0, 0
	}
	return g.rate, false
}
