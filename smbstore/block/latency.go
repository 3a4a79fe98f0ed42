package block

import (
	"sync/atomic"
	"time"
)

// Latency measures how long requests take, as whoever makes them sees it. The
// zero value is ready. All methods may be called concurrently; measuring takes no
// lock and allocates nothing.
type Latency struct {
	inFlight            atomic.Int64
	count, sum, worst   atomic.Int64 // since the last Take; ns
	worstEver, measured atomic.Int64
}

// LatencyWindow is what was measured between two calls of Take.
type LatencyWindow struct {
	Count       int64         // requests that ended
	InFlight    int64         // requests under way now
	Mean, Worst time.Duration // of those that ended
}

// latencyBase is what times are counted from.
var latencyBase = time.Now()

// begin may be called on nil, as end.
func (l *Latency) begin() (*Latency, time.Duration) {
	if l == nil {
		return nil, 0
	}
	l.inFlight.Add(1)
	return l, time.Since(latencyBase)
}

func (l *Latency) end(start time.Duration) {
	if l == nil {
		return
	}
	took := int64(time.Since(latencyBase) - start)
	l.inFlight.Add(-1)
	l.sum.Add(took)
	l.count.Add(1)
	l.measured.Add(1)
	raise(&l.worst, took)
	raise(&l.worstEver, took)
}

// raise makes v at least n.
func raise(v *atomic.Int64, n int64) {
	for old := v.Load(); n > old && !v.CompareAndSwap(old, n); old = v.Load() {
	}
}

// Take returns what was measured since the last Take.
func (l *Latency) Take() LatencyWindow {
	w := LatencyWindow{Count: l.count.Swap(0), InFlight: l.inFlight.Load(), Worst: time.Duration(l.worst.Swap(0))}
	if sum := l.sum.Swap(0); w.Count > 0 {
		w.Mean = time.Duration(sum / w.Count)
	}
	return w
}

// Worst is the longest request since ever.
func (l *Latency) Worst() time.Duration { return time.Duration(l.worstEver.Load()) }

// Measured is how many requests have ended since ever.
func (l *Latency) Measured() int64 { return l.measured.Load() }
