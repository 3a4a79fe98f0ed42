package vhdx

import (
	"fmt"
	"sync"
	"sync/atomic"

	"lunless/smbstore/block"
)

// batEntry is MS-VHDX 2.5.1: the state in three bits, the file offset in MiB
// above bit 20.
type batEntry uint64

// Payload block states (MS-VHDX 2.5.1.1).
const (
	stateNotPresent = 0
	stateUndefined  = 1
	stateZero       = 2
	stateUnmapped   = 3
	statePresent    = 6
	statePartial    = 7
)

func makeEntry(state int, off int64) batEntry { return batEntry(uint64(state) | uint64(off)) }

func (e batEntry) state() int    { return int(e & 7) }
func (e batEntry) offset() int64 { return int64(e>>20) << 20 } // may exceed any file; never negative below 2^63: checked by valid

// reserves tells whether the entry keeps room in the file: a block that was
// unmapped may still point to it.
func (e batEntry) reserves() bool {
	switch e.state() {
	case statePresent:
		return true
	case stateUndefined, stateUnmapped:
		return e>>20 != 0
	}
	return false
}

const (
	batPageEntries = logSector / 8 // a page is what one data sector of the log carries
	// maxBATPages bounds the cache to 32 MiB.
	maxBATPages = 8192
	// maxDirtyPages is how many changed pages may wait for a flush: 4 MiB.
	maxDirtyPages = 1024
)

// batPage holds 512 entries. Entries are read without a lock and changed under bat.mu.
type batPage struct {
	entries [batPageEntries]atomic.Uint64
	used    atomic.Bool // since the eviction hand last came by
	dirty   bool        // has changes the log lacks; under bat.mu
	pinned  int         // pages the log has, but perhaps not the BAT; under bat.mu
}

// bat is the block allocation table: pages of the file, read when first needed,
// evicted when there are too many. It knows nothing of the log: changes gather
// as dirty pages until take hands them over.
type bat struct {
	f       block.File
	off     int64 // of the region
	count   int64 // entries in use
	ratio   int64 // payload entries before each sector bitmap entry
	pages   []atomic.Pointer[batPage]
	mu      sync.Mutex // guards what follows, and changes of entries
	loaded  []int64    // page numbers in memory, in no order
	hand    int        // eviction goes round loaded
	dirty   []int64    // page numbers
	freed   []room     // what the dirty pages gave up
	maxKeep int        // pages kept
}

func newBAT(f block.File, off int64, p *params) *bat {
	n := p.batEntries()
	return &bat{
		f: f, off: off, count: n, ratio: p.chunkRatio(), maxKeep: maxBATPages,
		pages: make([]atomic.Pointer[batPage], (n+batPageEntries-1)/batPageEntries),
	}
}

// index is the place of a payload block's entry: one sector bitmap entry follows
// each chunk's (MS-VHDX 2.5).
func (b *bat) index(blk int64) int64 { return blk + blk/b.ratio }

// get returns a payload block's entry. It allocates nothing once the page is in memory.
func (b *bat) get(blk int64) (batEntry, error) {
	i := b.index(blk)
	pg := b.pages[i/batPageEntries].Load()
	if pg == nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		var err error
		if pg, err = b.load(i / batPageEntries); err != nil {
			return 0, err
		}
	}
	if !pg.used.Load() {
		pg.used.Store(true)
	}
	return batEntry(pg.entries[i%batPageEntries].Load()), nil
}

// set changes a payload block's entry; freed is the room the block gives up, if
// any. full tells that a flush is due.
func (b *bat) set(blk int64, e batEntry, freed room) (full bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := b.index(blk)
	pg, err := b.load(i / batPageEntries)
	if err != nil {
		return false, err
	}
	pg.entries[i%batPageEntries].Store(uint64(e))
	if !pg.dirty {
		pg.dirty = true
		b.dirty = append(b.dirty, i/batPageEntries)
	}
	if freed.n != 0 {
		b.freed = append(b.freed, freed)
	}
	return len(b.dirty) >= maxDirtyPages, nil
}

// load returns a page, reading it if need be; under mu.
func (b *bat) load(no int64) (*batPage, error) {
	if pg := b.pages[no].Load(); pg != nil {
		return pg, nil
	}
	var raw [logSector]byte
	if err := readFull(b.f, raw[:], b.off+no*logSector); err != nil {
		return nil, fmt.Errorf("block allocation table: %w", err)
	}
	b.evict()
	pg := &batPage{}
	for i := range pg.entries {
		pg.entries[i].Store(le.Uint64(raw[i*8:]))
	}
	b.pages[no].Store(pg)
	b.loaded = append(b.loaded, no)
	return pg, nil
}

// evict makes room for one page, if there is a clean one; under mu. A reader
// that holds on to the page reads what was true when it looked it up: data
// requests keep their block's lock, so that its entry cannot change meanwhile.
func (b *bat) evict() {
	for range 2 * len(b.loaded) {
		if len(b.loaded) < b.maxKeep {
			return
		}
		b.hand %= len(b.loaded)
		no := b.loaded[b.hand]
		pg := b.pages[no].Load()
		if pg.dirty || pg.pinned > 0 || pg.used.Swap(false) {
			b.hand++
			continue
		}
		b.pages[no].Store(nil)
		last := len(b.loaded) - 1
		b.loaded[b.hand] = b.loaded[last]
		b.loaded = b.loaded[:last]
	}
}

// batch is what one flush brings to stable storage.
type batch struct {
	pages  []int64
	images [][]byte // of the pages
	freed  []room
}

// take hands over the changes so far. The pages stay in memory until release.
func (b *bat) take() batch {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := batch{pages: b.dirty, freed: b.freed}
	b.dirty, b.freed = nil, nil
	for _, no := range t.pages {
		pg := b.pages[no].Load()
		img := make([]byte, logSector)
		for i := range pg.entries {
			le.PutUint64(img[i*8:], pg.entries[i].Load())
		}
		pg.dirty = false
		pg.pinned++
		t.images = append(t.images, img)
	}
	return t
}

// release ends a batch: its pages are in their places in the file.
func (b *bat) release(t batch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, no := range t.pages {
		b.pages[no].Load().pinned--
	}
}

// pageOffset is a page's place in the file.
func (b *bat) pageOffset(no int64) int64 { return b.off + no*logSector }
