package main

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// stats counts requests since the last reset, and keeps the longest of each kind.
// One in flight counts with what it has taken so far.
type stats struct {
	con   *console
	mu    sync.Mutex
	since time.Time
	wrong int64
	fails int64
	kinds map[string]*kindStats
	open  map[*request]bool
}

type kindStats struct {
	n       int64
	longest time.Duration
	at      request
}

type request struct {
	kind  string
	disk  int
	seq   uint64
	began time.Time
	beat  uint64
}

func newStats(con *console) *stats {
	s := &stats{con: con, open: map[*request]bool{}}
	s.reset()
	return s
}

func (s *stats) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since, s.wrong, s.fails = time.Now(), 0, 0
	s.kinds = map[string]*kindStats{}
	for _, k := range kindNames {
		s.kinds[k] = &kindStats{}
	}
	s.con.late.Store(0)
}

var kindNames = []string{"write", "read", "flush", "zero", "trim"}

// errors counts what was found wrong.
func (s *stats) errors(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong += n
}

// begin notes a request; what it returns notes its end.
func (s *stats) begin(kind string, disk int, seq uint64) func(error) {
	r := &request{kind: kind, disk: disk, seq: seq, began: time.Now(), beat: s.con.beats.Load()}
	s.mu.Lock()
	s.open[r] = true
	s.mu.Unlock()
	return func(err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, r)
		s.kinds[kind].n++
		if err != nil {
			s.fails++
		}
		s.longer(r)
	}
}

// longer counts no more of a request than lies behind the reset.
func (s *stats) longer(r *request) {
	from := r.began
	if from.Before(s.since) {
		from = s.since
	}
	k := s.kinds[r.kind]
	if t := time.Since(from); t > k.longest {
		k.longest, k.at = t, *r
	}
}

func (s *stats) line() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for r := range s.open {
		s.longer(r)
	}
	var b strings.Builder
	worst := &kindStats{}
	fmt.Fprintf(&b, "STATS ms=%d errors=%d ioerrs=%d", time.Since(s.since).Milliseconds(), s.wrong, s.fails)
	for _, name := range kindNames {
		k := s.kinds[name]
		fmt.Fprintf(&b, " %s=%d %s_ms=%.1f", name, k.n, name, ms(k.longest))
		if k.longest > worst.longest {
			worst = k
		}
	}
	fmt.Fprintf(&b, " stall_ms=%.1f stall_op=%s stall_disk=%d stall_seq=%d stall_hb=%d hb=%d late_ms=%.1f", ms(worst.longest), worst.at.kind,
		worst.at.disk, worst.at.seq, worst.at.beat, s.con.beats.Load(), ms(time.Duration(s.con.late.Load())))
	return b.String()
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
