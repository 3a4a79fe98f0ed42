package vhdx

import (
	"fmt"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"lunless/smbstore/block"
)

// growStep is by how much a file of small blocks is extended at a time.
const growStep = 64 * mib

// space hands out room in the file for blocks. Offsets and sizes are multiples
// of 1 MiB.
type space struct {
	f         block.File
	blockSize int64
	fileSize  atomic.Int64
	mu        sync.Mutex
	end       int64   // nothing in use lies at or past it
	fresh     int64   // what lies at or past it has never been written: reads as zeroes
	free      []int64 // blocks given up, or found unused
}

// alloc returns room for a block. zeroed tells that it reads as zeroes.
func (s *space) alloc() (off int64, zeroed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.free); n > 0 {
		off = s.free[n-1]
		s.free = s.free[:n-1]
		return off, false, nil
	}
	off = s.end
	if off > maxFileSize-s.blockSize {
		return 0, false, fmt.Errorf("file would exceed %d bytes: %w", int64(maxFileSize), ErrUnsupported)
	}
	if err := s.grow(off + s.blockSize); err != nil {
		return 0, false, err
	}
	s.end = off + s.blockSize
	return off, off >= s.fresh, nil
}

// grow extends the file to at least need, by a large step where there is room.
func (s *space) grow(need int64) error {
	if need <= s.fileSize.Load() {
		return nil
	}
	size := min(need-s.blockSize+max(s.blockSize, growStep), maxFileSize)
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

// release gives blocks back. What referred to them must be gone from stable storage.
func (s *space) release(offs ...int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free = append(s.free, offs...)
}

// used is where the last structure ends.
func (s *space) used() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end
}

// shrink cuts the free blocks at the end of the file off and returns the size
// that is left to it.
func (s *space) shrink() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.Sort(s.free)
	for n := len(s.free); n > 0 && s.free[n-1]+s.blockSize == s.end; n-- {
		s.end = s.free[n-1]
		s.free = s.free[:n-1]
	}
	return s.end
}

// usage is a bitmap of the file's megabytes.
type usage struct {
	words []uint64
	count int64 // bits set
}

func newUsage(fileSize int64) *usage {
	return &usage{words: make([]uint64, (fileSize+64*mib-1)/(64*mib))}
}

// mark sets the megabytes of [off, off+n) and returns the first that was set
// already, or -1. What lies past the file is ignored.
func (u *usage) mark(off, n int64) int64 {
	twice := int64(-1)
	for m := off / mib; m < (off+n)/mib && m/64 < int64(len(u.words)); m++ {
		w, bit := &u.words[m/64], uint64(1)<<(m%64)
		if *w&bit != 0 {
			if twice < 0 {
				twice = m * mib
			}
			continue
		}
		*w |= bit
		u.count++
	}
	return twice
}

// end is where the last marked megabyte ends.
func (u *usage) end() int64 {
	for i := len(u.words) - 1; i >= 0; i-- {
		if w := u.words[i]; w != 0 {
			return (int64(i)*64 + 64 - int64(bits.LeadingZeros64(w))) * mib
		}
	}
	return 0
}

// gaps returns up to limit blocks of size n that fit between marked megabytes
// below end.
func (u *usage) gaps(n, end int64, limit int) []int64 {
	var out []int64
	run := int64(0)
	for m := int64(0); m < end/mib && len(out) < limit; m++ {
		if u.words[m/64]&(1<<(m%64)) != 0 {
			run = 0
			continue
		}
		if run++; run*mib == n {
			out = append(out, (m+1)*mib-n)
			run = 0
		}
	}
	return out
}
