package vhdx

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"lunless/smbstore/block"
)

const (
	// A file grows by a sixteenth of its size, from growStep to maxGrowStep: what
	// is not used yet is a hole, and Close cuts it off.
	growStep    = 64 * mib
	maxGrowStep = 1024 * mib
	// maxRuns bounds the free room that is remembered: 1 MiB of memory. What is
	// forgotten is found again when the disk is next opened or compacted.
	maxRuns = 1 << 16
)

// room is a part of the file; offset and length are multiples of 1 MiB. One of
// length 0 is none.
type room struct{ off, n int64 }

func (r room) end() int64 { return r.off + r.n }

// space hands out room in the file for payload blocks, sector bitmap blocks and
// regions. All methods may be called concurrently.
type space struct {
	f        block.File
	fileSize atomic.Int64
	mu       sync.Mutex // guards all below, and changes of the file's size
	end      int64      // nothing in use lies at or past it
	fresh    int64      // what lies at or past it has never been written: reads as zeroes
	free     []room     // below end, by offset; no two overlap or touch
	rec      *recording // nil, unless what is in use is being found out anew
}

// recording is what happens to room while the BAT is read. Room released
// meanwhile is given out again only afterwards.
type recording struct {
	taken, released []room
}

// alloc returns room for n bytes, the lowest that there is; n is a multiple of
// 1 MiB. zeroed tells that it reads as zeroes.
func (s *space) alloc(n int64) (off int64, zeroed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if off, ok := s.take(n, s.end); ok {
		return off, false, nil
	}
	off = s.end
	if off > maxFileSize-n {
		return 0, false, fmt.Errorf("file would exceed %d bytes: %w", int64(maxFileSize), ErrUnsupported)
	}
	if err := s.grow(off + n); err != nil {
		return 0, false, err
	}
	zeroed = off >= s.fresh
	s.end = off + n
	s.fresh = max(s.fresh, s.end)
	s.note(room{off, n})
	return off, zeroed, nil
}

// note records room that is given out; under mu.
func (s *space) note(r room) {
	if s.rec != nil {
		s.rec.taken = append(s.rec.taken, r)
	}
}

// allocBelow is alloc for room that ends at or below limit; ok is false if there
// is none. Its content is undefined.
func (s *space) allocBelow(n, limit int64) (off int64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.take(n, limit)
}

// take cuts n bytes off the first run they fit in below limit; under mu.
func (s *space) take(n, limit int64) (off int64, ok bool) {
	for i, r := range s.free {
		if r.off+n > limit {
			break
		}
		if r.n < n {
			continue
		}
		if r.n == n {
			s.free = slices.Delete(s.free, i, i+1)
		} else {
			s.free[i] = room{r.off + n, r.n - n}
		}
		s.note(room{r.off, n})
		return r.off, true
	}
	return 0, false
}

// grow extends the file to at least need, by a step where there is room; under mu.
func (s *space) grow(need int64) error {
	have := s.fileSize.Load()
	if need <= have {
		return nil
	}
	step := min(max(growStep, roundUp(have/16, mib)), maxGrowStep)
	size := max(need, min(roundUp(have, mib)+step, maxFileSize))
	err := s.f.Truncate(size)
	if err != nil && size > need {
		size = need
		err = s.f.Truncate(size)
	}
	if err != nil {
		return fmt.Errorf("extend file to %d bytes: %w", need, err)
	}
	s.fileSize.Store(size)
	return nil
}

// release gives room back. What referred to it must be gone from stable storage.
func (s *space) release(rooms ...room) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rec != nil {
		s.rec.released = append(s.rec.released, rooms...)
		return
	}
	for _, r := range rooms {
		s.put(r)
	}
}

// put joins r with the runs it touches; under mu. Room that is free already
// stays as it is: to lose some until the next Open is better than to give it
// to two.
func (s *space) put(r room) {
	i, found := slices.BinarySearchFunc(s.free, r.off, func(f room, off int64) int { return cmp.Compare(f.off, off) })
	switch {
	case r.n <= 0 || found || r.end() > s.end:
		return
	case i > 0 && s.free[i-1].end() > r.off, i < len(s.free) && s.free[i].off < r.end():
		return
	}
	from, to := i, i
	if i > 0 && s.free[i-1].end() == r.off {
		from--
		r = room{s.free[from].off, s.free[from].n + r.n}
	}
	if to < len(s.free) && s.free[to].off == r.end() {
		r.n += s.free[to].n
		to++
	}
	if r.end() == s.end { // the last run of all: there is none after it
		s.free, s.end = s.free[:from], r.off
		return
	}
	s.free = slices.Replace(s.free, from, to, r)
	if len(s.free) > maxRuns {
		s.free = s.free[:maxRuns]
	}
}

// used is where the last structure ends.
func (s *space) used() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end
}

// adopt replaces what is known of the file by what u says of it, up to the end
// of the last megabyte in use.
func (s *space) adopt(u *usage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.learn(u)
}

// learn is adopt under mu.
func (s *space) learn(u *usage) {
	s.end = u.end()
	s.free = u.runs(s.end, maxRuns)
}

// record begins a recording.
func (s *space) record() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rec = &recording{}
}

// recorded ends a recording, if there is one. Unless u is nil, what is known of
// the file becomes what u says of it, and what has happened since record.
func (s *space) recorded(u *usage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec := s.rec
	if rec == nil {
		return
	}
	s.rec = nil
	if u != nil {
		for _, r := range rec.taken {
			u.mark(r.off, r.n)
		}
		s.learn(u)
	}
	for _, r := range rec.released {
		s.put(r)
	}
}

// inUse is how much of the file is in use, bytes.
func (s *space) inUse() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.end
	for _, r := range s.free {
		n -= r.n
	}
	return n
}

// freeBelow is how much before limit is free, bytes.
func (s *space) freeBelow(limit int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := int64(0)
	for _, r := range s.free {
		n += max(0, min(r.end(), limit)-r.off)
	}
	return n
}
