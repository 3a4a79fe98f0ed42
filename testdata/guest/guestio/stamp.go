package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	stampBlock   = 4096
	stampWriters = 4
	stampBlocks  = 256 // a writer's
)

// stamp writes blocks that carry their number, a sequence and a checksum, past
// the page cache, and reads each again now and then: what was acknowledged last
// must be there, whatever happened to the server meanwhile. Any error counts but
// two: Linux 6.1 gives ECONNABORTED or EAGAIN to a program whose request it is
// sending when the connection is reset. The file is as good as before then, and what
// was not acknowledged is asked for again; how often is told. There is no fsync: the
// share has on stable storage what it acknowledges, and the kernel gives an fsync
// that meets a lost connection back as an error.
//
// It ends early when there is a file of this name with ".stop" behind it.
func stamp(path string, until time.Time) (string, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_DIRECT, 0o644)
	if err != nil {
		return "", err
	}
	defer f.Close()
	// The lock is one more thing that has to outlive the server.
	l := unix.Flock_t{Type: unix.F_WRLCK, Start: 1 << 40, Len: 1}
	if err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &l); err != nil {
		return "", fmt.Errorf("lock: %w", err)
	}
	var stop atomic.Bool
	go func() { // ends with the program
		for ; !stop.Load(); time.Sleep(time.Second / 2) {
			_, err := os.Stat(path + ".stop")
			stop.Store(err == nil)
		}
	}()
	var g errgroup.Group
	counts, aborted := make([]int, stampWriters), make([]int, stampWriters)
	stalls := make([]time.Duration, stampWriters)
	for w := range stampWriters {
		g.Go(func() error {
			s := &stamper{f: f, stop: &stop, first: int64(w * stampBlocks), buf: aligned(stampBlock)}
			err := s.run(until, uint64(w))
			counts[w], stalls[w], aborted[w] = s.writes, s.stall, s.aborted
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return "", err
	}
	total, again, stall := 0, 0, time.Duration(0)
	for w := range counts {
		total, again, stall = total+counts[w], again+aborted[w], max(stall, stalls[w])
	}
	return fmt.Sprintf("%d writes, longest stall %v, %d asked for again", total, stall.Round(time.Millisecond), again), nil
}

// aligned is memory that O_DIRECT takes.
func aligned(n int) []byte {
	b := make([]byte, 2*n)
	skip := n - int(uintptr(unsafe.Pointer(&b[0]))%uintptr(n))
	return b[skip : skip+n : skip+n]
}

type stamper struct {
	f       *os.File
	stop    *atomic.Bool
	first   int64
	seq     [stampBlocks]uint64 // acknowledged last; 0: never written
	buf     []byte
	writes  int
	aborted int // requests that were asked for again
	stall   time.Duration
}

func (s *stamper) run(until time.Time, seed uint64) error {
	rnd := rand.New(rand.NewPCG(seed, 1))
	for time.Now().Before(until) && !s.stop.Load() {
		i := rnd.IntN(stampBlocks)
		began := time.Now()
		op := s.write
		if rnd.IntN(3) == 0 {
			op = s.verify
		}
		err := op(i)
		for try := 0; (errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.EAGAIN)) && try < 20; try++ {
			s.aborted++
			err = op(i)
		}
		if err != nil {
			return err
		}
		s.stall = max(s.stall, time.Since(began))
	}
	for i := range s.seq {
		if err := s.verify(i); err != nil {
			return fmt.Errorf("at the end: %w", err)
		}
	}
	return nil
}

func (s *stamper) write(i int) error {
	lba := s.first + int64(i)
	le := binary.LittleEndian
	le.PutUint64(s.buf, uint64(lba))
	le.PutUint64(s.buf[8:], s.seq[i]+1)
	for j := 16; j < stampBlock-4; j += 8 {
		le.PutUint32(s.buf[j:], uint32(lba)*2654435761+uint32(s.seq[i])+uint32(j))
	}
	le.PutUint32(s.buf[stampBlock-4:], crc32.ChecksumIEEE(s.buf[:stampBlock-4]))
	if _, err := s.f.WriteAt(s.buf, lba*stampBlock); err != nil {
		return err
	}
	s.seq[i]++
	s.writes++
	return nil
}

func (s *stamper) verify(i int) error {
	if s.seq[i] == 0 {
		return nil
	}
	lba := s.first + int64(i)
	if _, err := s.f.ReadAt(s.buf, lba*stampBlock); err != nil {
		return err
	}
	le := binary.LittleEndian
	switch {
	case le.Uint32(s.buf[stampBlock-4:]) != crc32.ChecksumIEEE(s.buf[:stampBlock-4]):
		return fmt.Errorf("block %d is torn", lba)
	case le.Uint64(s.buf) != uint64(lba):
		return fmt.Errorf("block %d holds block %d", lba, le.Uint64(s.buf))
	case le.Uint64(s.buf[8:]) != s.seq[i]:
		return errors.Join(fmt.Errorf("block %d has sequence %d, acknowledged was %d", lba, le.Uint64(s.buf[8:]), s.seq[i]))
	}
	return nil
}
