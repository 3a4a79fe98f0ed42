package vhdx

import (
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"

	"lunless/smbstore/block"
)

const (
	// metaPageSize is what one data sector of the log carries.
	metaPageSize  = logSector
	metaPageWords = metaPageSize / 8
	// defaultCachePages keeps 16 MiB of metadata: all of the BAT of a disk of 64 TiB
	// in blocks of 32 MiB.
	defaultCachePages = 4096
	// minCachePages is more than any one request needs at a time.
	minCachePages = 64
	// maxHops bounds a walk without the lock, whose chain may change under it.
	maxHops = 32
)

// errMetaFull: a change would put more pages into the next commit than one log
// sequence takes; a flush makes room.
var errMetaFull = errors.New("log sequence is full")

// metaPage is 4 KiB of the file's metadata: of the BAT, of a sector bitmap block,
// of the metadata region or of a region table. Its words are the file's
// little-endian 64-bit numbers. A page that is no longer needed serves another
// place in the file; seq changes before and after.
type metaPage struct {
	seq    atomic.Uint64
	off    atomic.Int64 // place in the file; -1 while it changes
	next   atomic.Pointer[metaPage]
	used   atomic.Bool                   // since the eviction hand last came by
	dirty  bool                          // has changes the log lacks; under metaCache.mu
	pinned int                           // commits that carry it to its place; under metaCache.mu
	words  *[metaPageWords]atomic.Uint64 // apart, so that it fills its memory and has nothing for the collector to look at
}

// metaCache keeps pages of the file's metadata, by their place: read when first
// needed, given up when there are too many. Memory is that of the pages, whatever
// the size of the disk. Words are read without a lock and changed under mu by
// edits, each of which is part of one commit as a whole. It knows nothing of the
// log: changes gather as dirty pages until take hands them over.
//
// Who reads a word holds what keeps it from changing, or can do with either
// value: a block's lock for the block's BAT entry and sector bitmap.
type metaCache struct {
	f       block.File
	buckets []atomic.Pointer[metaPage] // chains by hash of the place
	shift   uint
	// open counts the pages whose changes are not in the file, those of the commit
	// under way among them.
	open atomic.Int64

	mu    sync.Mutex // guards all below, and changes of pages and chains
	pages []*metaPage
	keep  int // pages kept, unless more are dirty or pinned
	limit int // pages in one commit
	hand  int // eviction goes round pages
	dirty []*metaPage
	freed []room             // what the dirty pages no longer refer to
	loads int64              // pages read from the file
	raw   [metaPageSize]byte // of the page being read

	images []byte // of the pages of the commit under way; one runs at a time
}

func newMetaCache(f block.File, keep, limit int) *metaCache {
	if keep == 0 {
		keep = defaultCachePages
	}
	keep = max(keep, minCachePages)
	n := bits.Len(uint(keep - 1))
	return &metaCache{f: f, buckets: make([]atomic.Pointer[metaPage], 1<<n), shift: uint(64 - n), keep: keep, limit: limit}
}

// bucket is the chain a page is in.
func (c *metaCache) bucket(page int64) *atomic.Pointer[metaPage] {
	return &c.buckets[uint64(page/metaPageSize)*0x9e3779b97f4a7c15>>c.shift]
}

// word returns the 64-bit number at a file offset, which is a multiple of 8. It
// allocates nothing and takes no lock once the page is in memory.
func (c *metaCache) word(off int64) (uint64, error) {
	if v, ok := c.peek(off); ok {
		return v, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	pg, err := c.load(off &^ (metaPageSize - 1))
	if err != nil {
		return 0, err
	}
	return pg.words[off%metaPageSize/8].Load(), nil
}

// peek is word for a page in memory; ok is false if it is not there.
func (c *metaCache) peek(off int64) (v uint64, ok bool) {
	page := off &^ (metaPageSize - 1)
	pg := c.bucket(page).Load()
	for hops := 0; pg != nil && hops < maxHops; hops++ {
		seq := pg.seq.Load()
		if pg.off.Load() != page {
			pg = pg.next.Load()
			continue
		}
		v = pg.words[off%metaPageSize/8].Load()
		if pg.seq.Load() != seq {
			break
		}
		if !pg.used.Load() {
			pg.used.Store(true)
		}
		return v, true
	}
	return 0, false
}

// find returns the page at a place, nil if it is not in memory; under mu.
func (c *metaCache) find(page int64) *metaPage {
	pg := c.bucket(page).Load()
	for pg != nil && pg.off.Load() != page {
		pg = pg.next.Load()
	}
	return pg
}

// load returns a page, reading it if need be; under mu.
func (c *metaCache) load(page int64) (*metaPage, error) {
	if pg := c.find(page); pg != nil {
		pg.used.Store(true)
		return pg, nil
	}
	if err := readFull(c.f, c.raw[:], page); err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	c.loads++
	pg := c.spare()
	c.fill(pg, page, c.raw[:])
	return pg, nil
}

// fill makes a page that is in no chain the one at a place; under mu.
func (c *metaCache) fill(pg *metaPage, page int64, raw []byte) {
	for i := range pg.words {
		pg.words[i].Store(le.Uint64(raw[i*8:]))
	}
	pg.used.Store(true)
	pg.off.Store(page)
	pg.seq.Add(1)
	b := c.bucket(page)
	pg.next.Store(b.Load())
	b.Store(pg)
}

// spare returns a page in no chain: a new one, or a clean one that has not been
// used lately; under mu.
func (c *metaCache) spare() *metaPage {
	for range 2 * len(c.pages) {
		if len(c.pages) < c.keep {
			break
		}
		c.hand %= len(c.pages)
		pg := c.pages[c.hand]
		c.hand++
		if pg.dirty || pg.pinned > 0 || pg.used.Swap(false) {
			continue
		}
		c.unlink(pg)
		return pg
	}
	pg := &metaPage{words: new([metaPageWords]atomic.Uint64)}
	pg.seq.Store(1)
	pg.off.Store(-1)
	c.pages = append(c.pages, pg)
	return pg
}

// unlink takes a page out of its chain; under mu. Who walks the chain without
// the lock sees from seq that the page went.
func (c *metaCache) unlink(pg *metaPage) {
	page := pg.off.Load()
	if page < 0 {
		return
	}
	pg.seq.Add(1)
	pg.off.Store(-1)
	at := c.bucket(page)
	for q := at.Load(); q != pg; q = at.Load() {
		at = &q.next
	}
	at.Store(pg.next.Load())
}

// forget drops what is kept of [off, off+n), which no longer is metadata. Its
// pages are clean, and no commit carries them.
func (c *metaCache) forget(off, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, pg := range c.pages {
		if at := pg.off.Load(); at >= off && at < off+n && !pg.dirty && pg.pinned == 0 {
			c.unlink(pg)
			pg.used.Store(false)
		}
	}
}

// metaEdit changes pages under the cache's lock. All that it changes reaches
// stable storage in one log sequence, with the other changes since the last
// commit: whole, or not at all.
type metaEdit struct{ c *metaCache }

// edit calls do with the cache locked. pages is how many pages do may change at
// most; errMetaFull tells that a flush is due first, and that do was not called.
// do first gets hold of all it will change, by own, and changes it only once that
// went well.
func (c *metaCache) edit(pages int, do func(e metaEdit) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.dirty) > 0 && len(c.dirty)+pages > c.limit {
		return errMetaFull
	}
	return do(metaEdit{c})
}

// own makes the pages that [off, off+n) touches part of the next commit.
func (e metaEdit) own(off, n int64) error {
	for page := off &^ (metaPageSize - 1); page < off+n; page += metaPageSize {
		pg, err := e.c.load(page)
		if err != nil {
			return err
		}
		e.c.mark(pg)
	}
	return nil
}

// mark adds a page to the next commit; under mu.
func (c *metaCache) mark(pg *metaPage) {
	if !pg.dirty {
		pg.dirty = true
		c.open.Add(1)
		c.dirty = append(c.dirty, pg)
	}
}

// read returns the number at off, of any page.
func (e metaEdit) read(off int64) (uint64, error) {
	pg, err := e.c.load(off &^ (metaPageSize - 1))
	if err != nil {
		return 0, err
	}
	return pg.words[off%metaPageSize/8].Load(), nil
}

// setIfOwned is set for a page that needs no change if it is not owned.
func (e metaEdit) setIfOwned(off int64, v uint64) {
	if pg := e.c.find(off &^ (metaPageSize - 1)); pg != nil && pg.dirty {
		pg.words[off%metaPageSize/8].Store(v)
	}
}

// word returns the number at off, of a page that is owned.
func (e metaEdit) word(off int64) uint64 { return e.at(off).Load() }

// set changes the number at off, of a page that is owned.
func (e metaEdit) set(off int64, v uint64) { e.at(off).Store(v) }

func (e metaEdit) at(off int64) *atomic.Uint64 {
	return &e.c.find(off &^ (metaPageSize - 1)).words[off%metaPageSize/8]
}

// write changes bytes at any offset, of pages that are owned.
func (e metaEdit) write(off int64, p []byte) {
	var b [8]byte
	for len(p) > 0 {
		w := e.at(off &^ 7)
		le.PutUint64(b[:], w.Load())
		n := copy(b[off%8:], p)
		w.Store(le.Uint64(b[:]))
		off, p = off+int64(n), p[n:]
	}
}

// put makes raw, 4 KiB, the whole page at off, a multiple of 4 KiB, without
// reading what was there.
func (e metaEdit) put(off int64, raw []byte) {
	pg := e.c.find(off)
	if pg == nil {
		pg = e.c.spare()
		e.c.fill(pg, off, raw)
	} else {
		for i := range pg.words {
			pg.words[i].Store(le.Uint64(raw[i*8:]))
		}
	}
	e.c.mark(pg)
}

// free gives back room that nothing refers to once the edit is stable.
func (e metaEdit) free(r room) {
	if r.n != 0 {
		e.c.freed = append(e.c.freed, r)
	}
}

// metaBatch is what one commit brings to stable storage.
type metaBatch struct {
	pages   []*metaPage
	updates []update // their images
	freed   []room
}

// take hands over the changes so far. The pages stay in memory until release, and
// their images hold until the next take.
func (c *metaCache) take() metaBatch {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := metaBatch{pages: c.dirty, freed: c.freed}
	c.dirty, c.freed = nil, nil
	if n := len(t.pages) * metaPageSize; n > cap(c.images) {
		c.images = make([]byte, n)
	}
	images := c.images[:cap(c.images)]
	for _, pg := range t.pages {
		img := images[:metaPageSize:metaPageSize]
		images = images[metaPageSize:]
		for i := range pg.words {
			le.PutUint64(img[i*8:], pg.words[i].Load())
		}
		pg.dirty = false
		pg.pinned++
		t.updates = append(t.updates, update{Offset: pg.off.Load(), Data: img})
	}
	return t
}

// release ends a batch: its pages are in their places in the file.
func (c *metaCache) release(t metaBatch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, pg := range t.pages {
		pg.pinned--
	}
	c.open.Add(-int64(len(t.pages)))
}
