package nbd

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Latencies are counted in buckets whose bounds are 1/4 of a power of two apart,
// in microseconds.
const (
	subBuckets = 4
	// Buckets is the number of a Histogram's buckets; the last one holds all that
	// took about a minute and more.
	Buckets = 26 * subBuckets
)

// Histogram counts latencies by bucket.
type Histogram [Buckets]uint64

// bucketOf is the bucket of a latency.
func bucketOf(d time.Duration) int {
	us := uint64(max(d, 0) / time.Microsecond)
	if us < subBuckets {
		return int(us)
	}
	exp := bits.Len64(us) - 3 // us>>exp is in [4, 8)
	return min((exp+1)*subBuckets+int(us>>exp)-subBuckets, Buckets-1)
}

// Bound is the latency that everything in bucket i is below.
func Bound(i int) time.Duration {
	if i++; i < subBuckets {
		return time.Duration(i) * time.Microsecond
	}
	exp := i/subBuckets - 1
	return time.Duration(i%subBuckets+subBuckets) << exp * time.Microsecond
}

// Quantile is an upper bound of the latency that the given share of the requests
// (0 to 1) did not exceed; 0 without requests.
func (h *Histogram) Quantile(share float64) time.Duration {
	var total uint64
	for _, n := range h {
		total += n
	}
	if total == 0 {
		return 0
	}
	left := uint64(share * float64(total))
	for i, n := range h {
		if n > left || n > 0 && n == left {
			return Bound(i)
		}
		left -= n
	}
	return Bound(Buckets - 1)
}

// OpStats are the counts of one kind of request, from the export's beginning.
type OpStats struct {
	Requests int64 // that were answered, whatever the answer
	Failed   int64 // of those, that were answered with an error
	Bytes    int64 // that the successful ones were about
	Latency  Histogram
}

// Stats is a snapshot of an export. Latencies and stalls run from a request's
// arrival (its header was read) until its reply is ready to be sent: what a peer
// takes to read the reply is not in them, what a standby takes is.
type Stats struct {
	Connections int
	Held        bool
	InFlight    int           // requests that arrived and are not answered
	Oldest      time.Duration // age of the oldest of them
	// Longest is the longest stall of a request, finished or in flight, since
	// ResetLongest.
	Longest time.Duration

	Read, Write, Flush, Trim, WriteZeroes, Cache, BlockStatus OpStats
}

// counters are what the requests of an export update as they end.
type counters struct {
	longest  atomic.Int64 // ns
	inFlight atomic.Int64
	kinds    [commands]kindCounters
}

type kindCounters struct {
	failed, bytes atomic.Int64
	latency       [Buckets]atomic.Uint64
}

// answered takes note of a request that is about to be answered.
func (c *counters) answered(cmd command, took time.Duration, n int64, failed bool) {
	k := &c.kinds[cmd]
	k.latency[bucketOf(took)].Add(1)
	if failed {
		k.failed.Add(1)
	} else {
		k.bytes.Add(n)
	}
	for {
		most := c.longest.Load()
		if int64(took) <= most || c.longest.CompareAndSwap(most, int64(took)) {
			return
		}
	}
}

func (k *kindCounters) snapshot() OpStats {
	s := OpStats{Failed: k.failed.Load(), Bytes: k.bytes.Load()}
	for i := range k.latency {
		s.Latency[i] = k.latency[i].Load()
		s.Requests += int64(s.Latency[i])
	}
	return s
}

// Stats returns a snapshot. It may be called at any time and holds no request up.
func (e *Export) Stats() Stats {
	c := &e.counters
	s := Stats{
		Held: e.gate.held(), InFlight: int(c.inFlight.Load()), Longest: time.Duration(c.longest.Load()),
		Read: c.kinds[cmdRead].snapshot(), Write: c.kinds[cmdWrite].snapshot(), Flush: c.kinds[cmdFlush].snapshot(),
		Trim: c.kinds[cmdTrim].snapshot(), WriteZeroes: c.kinds[cmdWriteZeroes].snapshot(),
		Cache: c.kinds[cmdCache].snapshot(), BlockStatus: c.kinds[cmdBlockStatus].snapshot(),
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	now, oldest := clock(), int64(0)
	for conn := range e.conns {
		s.Connections++
		if t := conn.oldest(); t != 0 && (oldest == 0 || t < oldest) {
			oldest = t
		}
	}
	if oldest != 0 {
		s.Oldest = max(0, time.Duration(now-oldest))
		s.Longest = max(s.Longest, s.Oldest)
	}
	return s
}

// ResetLongest begins a new measurement of the longest stall. A request in flight
// counts with all of its age.
func (e *Export) ResetLongest() { e.counters.longest.Store(0) }

var clockBase = time.Now()

// clock is monotonic time in nanoseconds, never 0.
func clock() int64 { return int64(time.Since(clockBase)) + 1 }
