package nbd

import (
	"testing"
	"time"
)

// TestHistogram: every latency lies in a bucket whose bounds are around it, and
// buckets are as fine as they are said to be.
func TestHistogram(t *testing.T) {
	for i := 1; i < Buckets; i++ {
		if low, high := Bound(i-1), Bound(i); high <= low || i > 8 && high > low*5/4 {
			t.Errorf("bucket %d ends at %v, the one before at %v", i, high, low)
		}
	}
	for d := time.Duration(0); d < 70*time.Second; d = d*17/16 + 100 {
		i := bucketOf(d)
		if d >= Bound(i) && i < Buckets-1 || i > 0 && d < Bound(i-1) {
			t.Errorf("%v is in bucket %d, which ends at %v", d, i, Bound(i))
		}
	}
	var h Histogram
	if q := h.Quantile(0.5); q != 0 {
		t.Errorf("median of nothing: %v", q)
	}
	for i := range 1000 {
		h[bucketOf(time.Duration(i)*time.Millisecond)]++
	}
	for share, want := range map[float64]time.Duration{0: 0, 0.5: 500 * time.Millisecond, 0.99: 990 * time.Millisecond, 1: 999 * time.Millisecond} {
		if q := h.Quantile(share); q <= want || q > want*5/4+time.Millisecond {
			t.Errorf("quantile %v: %v, want about %v", share, q, want)
		}
	}
}
