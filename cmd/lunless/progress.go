package main

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// progress shows long work: a bar on a terminal, elsewhere a line a second.
// Nothing is shown until set is called. Its methods may be called concurrently.
type progress struct {
	what string
	unit func(int64) string // how an amount is printed
	bars *mpb.Progress      // nil off a terminal

	mu      sync.Mutex
	bar     *mpb.Bar
	started time.Time
	last    time.Time // a line was printed
	told    bool      // rate and left are the work's own
	rate    float64
	left    time.Duration // negative: unknown
}

func newProgress(what string, unit func(int64) string) *progress {
	p := &progress{what: what, unit: unit}
	if term.IsTerminal(int(os.Stderr.Fd())) {
		p.bars = mpb.New(mpb.WithOutput(os.Stderr), mpb.WithWidth(40))
	}
	return p
}

// estimate is set for work that knows how fast it is, in units a second, and how
// long it will take, negative if it does not know.
func (p *progress) estimate(done, total int64, rate float64, left time.Duration) {
	p.mu.Lock()
	p.told, p.rate, p.left = true, rate, left
	p.mu.Unlock()
	p.set(done, total)
}

// set tells how far the work is.
func (p *progress) set(done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.started.IsZero() {
		p.started, p.last = now, now
	}
	if p.bars == nil {
		if now.Sub(p.last) >= time.Second {
			p.last = now
			fmt.Fprintf(os.Stderr, "%s: %s\n", p.what, p.portion(done, total, now.Sub(p.started)))
		}
		return
	}
	if p.bar == nil {
		p.bar = p.bars.AddBar(total, mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.Name(p.what+" ")),
			mpb.AppendDecorators(decor.Any(func(s decor.Statistics) string { return p.portion(s.Current, s.Total, time.Since(p.started)) })))
	}
	p.bar.SetTotal(total, false)
	p.bar.SetCurrent(done)
}

// portion says what is done, how fast, and how long the rest will take at that rate.
func (p *progress) portion(done, total int64, took time.Duration) string {
	if total <= 0 {
		return p.unit(done)
	}
	s := fmt.Sprintf("%d%% of %s", done*100/total, p.unit(total))
	if p.told {
		if took >= time.Second {
			s += fmt.Sprintf(", %s/s", p.unit(int64(p.rate)))
		}
		if p.left >= 0 && took >= time.Second {
			s += fmt.Sprintf(", %v left", p.left.Round(time.Second))
		} else if took >= time.Second {
			s += ", time left unknown"
		}
		return s
	}
	if seconds := took.Seconds(); done > 0 && seconds >= 1 {
		rate := float64(done) / seconds
		left := time.Duration(float64(max(total-done, 0)) / rate * float64(time.Second)).Round(time.Second)
		s += fmt.Sprintf(", %s/s, %v left", p.unit(int64(rate)), left)
	}
	return s
}

// done takes the bar away.
func (p *progress) done() {
	p.mu.Lock()
	if p.bar != nil {
		p.bar.Abort(true)
	}
	p.mu.Unlock()
	if p.bars != nil {
		p.bars.Wait()
	}
}
