package main

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const page = 4096

// ram is memory whose pages carry their number, a version and a checksum.
type ram struct {
	con   *console
	mu    sync.Mutex
	mem   []byte
	fresh []uint32 // version that each page must have
}

func newRAM(n int64, con *console) (*ram, error) {
	mem, err := unix.Mmap(-1, 0, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("%d bytes of RAM: %w", n, err)
	}
	r := &ram{con: con, mem: mem, fresh: make([]uint32, n/page)}
	for i := range r.fresh {
		r.put(i)
	}
	return r, nil
}

func (r *ram) put(i int) {
	p := r.mem[i*page : (i+1)*page]
	le := binary.LittleEndian
	r.fresh[i]++
	le.PutUint64(p, uint64(i))
	le.PutUint32(p[8:], r.fresh[i])
	for off := 12; off < page-4; off += 64 {
		le.PutUint32(p[off:], r.fresh[i]*2654435761+uint32(off))
	}
	le.PutUint32(p[page-4:], crc32.Checksum(p[:page-4], castagnoli))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (r *ram) check(i int) error {
	p := r.mem[i*page : (i+1)*page]
	le := binary.LittleEndian
	if le.Uint64(p) != uint64(i) || le.Uint32(p[8:]) != r.fresh[i] || le.Uint32(p[page-4:]) != crc32.Checksum(p[:page-4], castagnoli) {
		return fmt.Errorf("RAM page %d: holds page %d version %d, must be version %d, or is damaged", i, le.Uint64(p), le.Uint32(p[8:]), r.fresh[i])
	}
	return nil
}

// work rewrites random pages, perSecond of them, each verified before.
func (r *ram) work(perSecond int64) {
	const every = 20 * time.Millisecond
	for due := 0.0; perSecond > 0; due += float64(perSecond) * every.Seconds() {
		time.Sleep(every)
		for ; due >= 1; due-- {
			i := rand.IntN(len(r.fresh))
			r.mu.Lock()
			if err := r.check(i); err != nil {
				r.con.Say("BAD %v", err)
			}
			r.put(i)
			r.mu.Unlock()
		}
	}
}

func (r *ram) verify(bad func(error)) (pages int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.fresh {
		if err := r.check(i); err != nil {
			bad(err)
		}
	}
	return len(r.fresh)
}
