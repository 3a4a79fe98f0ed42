package migrate

import (
	"context"
	"slices"
	"sync"
	"time"

	"lunless/smbstore/block"
)

// Bounds of the requests a job has in flight.
const (
	startParallel = 8
	maxParallel   = 32
	leastParallel = 2 // for a slow guest: one reads while the other writes
)

// pacer says when a job's requests may run: none while it is paused, no more at a
// time than it allows, and no faster than the lowest of the job's own limit, what
// the guard of the guest's latency allows, and the job's part of what all jobs
// share. All methods may be called concurrently. It is a block.Pace.
type pacer struct {
	own    *block.Bandwidth // the lower of limit and guarded
	share  *block.Share     // of own
	common *block.Share     // of what all jobs share; nil: nothing is

	mu      sync.Mutex // guards what follows
	limit   int64      // bytes a second, 0: none
	guarded int64      // likewise
	paused  bool
	allowed int // requests at a time
	running int
	waiting []chan struct{}
	moved   int64 // bytes, ever
	full    bool  // all that was allowed ran since the last look
}

// newPacer: parallel fixes the requests in flight, 0 leaves them to govern.
func newPacer(o *Options) *pacer {
	p := &pacer{own: block.NewBandwidth(o.RateLimit), limit: max(o.RateLimit, 0), allowed: startParallel}
	p.share = p.own.Share()
	if o.common != nil {
		p.common = o.common.Share()
	}
	if o.Parallel > 0 {
		p.allowed = min(o.Parallel, maxParallel)
	}
	return p
}

// Begin implements block.Pace.
func (p *pacer) Begin(ctx context.Context, n int64) error {
	if err := p.enter(ctx); err != nil {
		return err
	}
	err := p.share.Wait(ctx, n)
	if err == nil && p.common != nil {
		err = p.common.Wait(ctx, n)
	}
	if err != nil {
		p.End(0)
	}
	return err
}

// enter is Begin of what no limit is for.
func (p *pacer) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p.mu.Lock()
	if !p.paused && p.running < p.allowed && len(p.waiting) == 0 {
		p.running++
		p.full = p.full || p.running == p.allowed
		p.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	p.waiting = append(p.waiting, turn)
	p.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.waiting, turn); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	} else { // let in meanwhile
		p.running--
		p.admit()
	}
	return ctx.Err()
}

// End implements block.Pace.
func (p *pacer) End(moved int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.moved += moved
	p.running--
	p.admit()
}

// admit lets in who may run; the caller holds mu.
func (p *pacer) admit() {
	for !p.paused && p.running < p.allowed && len(p.waiting) > 0 {
		close(p.waiting[0])
		p.waiting = p.waiting[1:]
		p.running++
	}
	p.full = p.full || p.running >= p.allowed
}

// pause keeps requests from beginning, or lets them again.
func (p *pacer) pause(yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = yes
	p.admit()
}

func (p *pacer) setLimit(rate int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit = max(rate, 0)
	p.own.SetRate(lowest(p.limit, p.guarded))
}

func (p *pacer) setGuarded(rate int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.guarded = rate
	p.own.SetRate(lowest(p.limit, p.guarded))
}

func (p *pacer) setAllowed(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.allowed = min(max(n, 1), maxParallel)
	p.admit()
}

// rate is the lowest that holds for the job's requests, 0 for none: what all jobs
// share counts whole.
func (p *pacer) rate() int64 {
	rate := p.own.Rate()
	if p.common != nil {
		rate = lowest(rate, p.common.Rate())
	}
	return rate
}

// lowest of two rates, of which 0 is none.
func lowest(a, b int64) int64 {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// look is what was moved ever, and whether the requests allowed were all in use
// since the last look, without a limit that held them back.
func (p *pacer) look() (moved int64, bound bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	moved, bound = p.moved, p.full && !p.paused && p.own.Rate() == 0
	p.full = p.running >= p.allowed
	return moved, bound
}

// governEvery is how often the pace is looked at: long enough for a mean, short
// enough for a guest not to suffer long.
const governEvery = 100 * time.Millisecond

// govern steers a job's pace until what it returns is called: the requests in
// flight by what more of them bring, the rate by what the guest feels (guard may
// be nil).
func (p *pacer) govern(ctx context.Context, guest *block.Latency, g *guard, j *Job) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(governEvery)
		defer tick.Stop()
		climb := newClimber(p.allowed)
		before, _ := p.look()
		for last := time.Now(); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			now := time.Now()
			moved, bound := p.look()
			w := paceWindow{span: now.Sub(last), moved: moved - before, guest: guest.Take(), bound: bound}
			last, before = now, moved
			slow := false
			w.spare = !j.fixedParallel && climb.allowed > leastParallel
			if g != nil {
				var rate int64
				rate, slow = g.step(w)
				p.setGuarded(rate)
			}
			if !j.fixedParallel {
				p.setAllowed(climb.step(w, slow))
			}
		}
	}()
	return func() {
		cancel()
		<-done
		p.setGuarded(0)
	}
}

// paceWindow is what was seen between two looks.
type paceWindow struct {
	span  time.Duration
	moved int64 // bytes, by the copy
	guest block.LatencyWindow
	bound bool // more requests could have run, had they been allowed
	spare bool // fewer requests can be allowed
}

// climber finds how many requests in flight are worth having: it adds some, and
// takes them back unless they moved more. After either it stays for a while, since
// what is best changes with the load. A guest that is slow halves the requests, down
// to leastParallel.
type climber struct {
	allowed, last int
	sum           int64         // moved in this trial
	span          time.Duration // of this trial
	rate          float64       // of the trial before
	tried         bool          // this trial has more requests than the one before
	rest          int           // windows
}

// A trial is so many windows long, and a rest so many.
const (
	climbTrial = 3
	climbRest  = 30
	climbSlow  = 5    // after a slow window, which may have been one flush
	climbGain  = 1.05 // what makes more requests worth it
)

func newClimber(allowed int) *climber { return &climber{allowed: allowed} }

// step gives the requests to allow from now on.
func (c *climber) step(w paceWindow, slow bool) int {
	if slow {
		c.allowed, c.tried, c.rest = max(min(c.allowed, leastParallel), c.allowed/2), false, climbSlow
		c.sum, c.span, c.rate = 0, 0, 0
		return c.allowed
	}
	if !w.bound {
		c.sum, c.span = 0, 0
		return c.allowed
	}
	if c.rest > 0 {
		c.rest--
		return c.allowed
	}
	c.sum, c.span = c.sum+w.moved, c.span+w.span
	if c.span < climbTrial*governEvery {
		return c.allowed
	}
	rate := float64(c.sum) / c.span.Seconds()
	c.sum, c.span = 0, 0
	if c.tried && rate < c.rate*climbGain {
		c.allowed, c.tried, c.rest, c.rate = max(1, c.allowed-c.last), false, climbRest, 0
		return c.allowed
	}
	c.last = max(1, c.allowed/2)
	c.last = min(c.last, maxParallel-c.allowed)
	c.rate, c.tried = rate, c.last > 0
	c.allowed += c.last
	return c.allowed
}
