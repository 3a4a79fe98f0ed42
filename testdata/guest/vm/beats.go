package vm

import "time"

// Beats are heartbeats as they came over the console.
type Beats struct {
	Count   int           // how many came
	Last    uint64        // the guest's count
	At      time.Time     // of the last one
	Lost    int           // counted by the guest, and never came
	Longest time.Duration // between two that came one after the other
	// LongestFrom is the time of the beat before that gap.
	LongestFrom time.Time
}

func (b *Beats) add(now time.Time, n uint64) {
	if n > b.Last && !b.At.IsZero() {
		b.Lost += int(min(n-b.Last-1, 1<<30))
		if gap := now.Sub(b.At); gap > b.Longest {
			b.Longest, b.LongestFrom = gap, b.At
		}
	}
	b.Count++
	b.Last, b.At = n, now
}

// Beats are the heartbeats since ResetBeats. What has passed since the last one
// counts as a gap. A guest that boots begins again, and the time it was away
// does not count.
func (c *Console) Beats() Beats {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.beats
	if gap := time.Since(b.At); !b.At.IsZero() && gap > b.Longest {
		b.Longest, b.LongestFrom = gap, b.At
	}
	return b
}

// ResetBeats begins a new count.
func (c *Console) ResetBeats() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.beats = Beats{Last: c.beats.Last, At: c.beats.At}
}
