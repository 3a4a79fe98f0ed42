package block

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
)

// memPage is the unit a MemFile keeps; a page that was never written takes no
// memory. memChunk pages share a map entry.
const (
	memPage  = 4096
	memChunk = 256
	chunkLen = memPage * memChunk
)

type page = [memPage]byte

// chunk is a run of a file's pages. A file writes only to chunks that bear its
// mark, and in them only to pages it owns: the others are shared with snapshots.
type chunk struct {
	mark  *mark
	pages [memChunk]*page
	owned [memChunk]bool
}

// mark tells files apart; no two have the same one.
type mark struct{ _ byte }

// MemFile is a sparse File in memory, a Puncher and an Extenter, for tests and
// for overlays. Snapshots share its pages until one side writes. All methods may
// be called concurrently.
type MemFile struct {
	mu     sync.RWMutex
	mark   *mark
	chunks map[int64]*chunk // by chunk number; what is absent reads as zeroes
	size   int64
	closed bool
}

// NewMemFile returns a file of size zero bytes.
func NewMemFile(size int64) *MemFile {
	return &MemFile{mark: new(mark), chunks: map[int64]*chunk{}, size: size}
}

// NewMem returns a device of size bytes in memory.
func NewMem(size int64) *Raw {
	return &Raw{f: NewMemFile(size), size: size, geo: Geometry{LogicalSectorSize: 512, PhysicalSectorSize: 4096}}
}

// ReadAt implements io.ReaderAt.
func (m *MemFile) ReadAt(p []byte, off int64) (int, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.check(off); err != nil {
		return 0, err
	}
	if off >= m.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), m.size-off))
	for done := 0; done < n; {
		at := off + int64(done)
		in := at % memPage
		c := min(n-done, int(memPage-in))
		if pg := m.page(at / memPage); pg != nil {
			copy(p[done:done+c], pg[in:])
		} else {
			clear(p[done : done+c])
		}
		done += c
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements io.WriterAt; it extends the file.
func (m *MemFile) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(off); err != nil {
		return 0, err
	}
	if off > 1<<63-1-int64(len(p)) {
		return 0, fmt.Errorf("write at %d: %w", off, ErrOutOfRange)
	}
	m.put(p, off)
	m.size = max(m.size, off+int64(len(p)))
	return len(p), nil
}

// Sync implements File; memory is as stable as this gets.
func (m *MemFile) Sync() error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.check(0)
}

// Truncate implements File.
func (m *MemFile) Truncate(size int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(size); err != nil {
		return err
	}
	if size < m.size {
		m.zero(size, m.size)
	}
	m.size = size
	return nil
}

// Size implements File.
func (m *MemFile) Size() (int64, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.size, m.check(0)
}

// Close implements io.Closer.
func (m *MemFile) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := m.check(0)
	m.closed = true
	return err
}

// PunchHole implements Puncher.
func (m *MemFile) PunchHole(off, n int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(off); err != nil {
		return err
	}
	if off < m.size && n > 0 {
		m.zero(off, off+min(n, m.size-off))
	}
	return nil
}

// FileExtents implements Extenter, in pages.
func (m *MemFile) FileExtents(off, n int64, visit func(Extent) error) error {
	out := NewMerger(visit)
	m.mu.RLock()
	present := m.within(off, off+n)
	m.mu.RUnlock()
	slices.Sort(present)
	for end := off + n; off < end; {
		no := off / chunkLen
		i, found := slices.BinarySearch(present, no)
		next := end // no chunk from here on
		switch {
		case found:
			next = min(end, (off/memPage+1)*memPage)
		case i < len(present):
			next = min(end, present[i]*chunkLen)
		}
		m.mu.RLock()
		err := m.check(off)
		state := Zero
		if found && m.page(off/memPage) != nil {
			state = Data
		}
		m.mu.RUnlock()
		if err == nil {
			err = out.Add(Extent{off, next - off, state})
		}
		if err != nil {
			return err
		}
		off = next
	}
	return out.Flush()
}

// Snapshot returns an open file with this one's content at this moment. It
// costs a map entry a megabyte, no copy.
func (m *MemFile) Snapshot() *MemFile {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mark = new(mark) // what there is belongs to neither
	return &MemFile{size: m.size, mark: new(mark), chunks: maps.Clone(m.chunks)}
}

// Equal tells whether both files have the same size and content. What they share
// as snapshots of each other is not looked at.
func (m *MemFile) Equal(o *MemFile) bool {
	a, b := m.Snapshot(), o.Snapshot()
	if a.size != b.size {
		return false
	}
	for no := range union(a.chunks, b.chunks) {
		if a.chunks[no] == b.chunks[no] {
			continue
		}
		for i := no * memChunk; i < (no+1)*memChunk; i++ {
			if !equalPages(a.page(i), b.page(i)) {
				return false
			}
		}
	}
	return true
}

func union(a, b map[int64]*chunk) map[int64]*chunk {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

func equalPages(a, b *page) bool {
	switch {
	case a == b:
		return true
	case a == nil:
		return IsZero(b[:])
	case b == nil:
		return IsZero(a[:])
	}
	return bytes.Equal(a[:], b[:])
}

// page returns a page for reading, nil if it is all zero.
func (m *MemFile) page(no int64) *page {
	if c := m.chunks[no/memChunk]; c != nil {
		return c.pages[no%memChunk]
	}
	return nil
}

// chunk returns a chunk that may be written.
func (m *MemFile) chunk(no int64) *chunk {
	c := m.chunks[no]
	switch {
	case c == nil:
		c = &chunk{mark: m.mark}
	case c.mark != m.mark:
		c = &chunk{mark: m.mark, pages: c.pages}
	default:
		return c
	}
	m.chunks[no] = c
	return c
}

// own returns a page that may be written.
func (m *MemFile) own(no int64) *page {
	c, i := m.chunk(no/memChunk), no%memChunk
	if !c.owned[i] {
		pg := new(page)
		if old := c.pages[i]; old != nil {
			*pg = *old
		}
		c.pages[i], c.owned[i] = pg, true
	}
	return c.pages[i]
}

// put writes p at off, which may lie past the end of the file.
func (m *MemFile) put(p []byte, off int64) {
	for len(p) > 0 {
		n := copy(m.own(off / memPage)[off%memPage:], p)
		p, off = p[n:], off+int64(n)
	}
}

// zero drops whole chunks and pages of [off, end) and clears the rest.
func (m *MemFile) zero(off, end int64) {
	for _, no := range m.within(off, end) {
		from, to := max(off, no*chunkLen), min(end, (no+1)*chunkLen)
		if to-from == chunkLen {
			delete(m.chunks, no)
			continue
		}
		for from < to {
			next := min(to, (from/memPage+1)*memPage)
			switch i := from / memPage % memChunk; {
			case m.page(from/memPage) == nil:
			case next-from == memPage:
				c := m.chunk(no)
				c.pages[i], c.owned[i] = nil, false
			default:
				clear(m.own(from / memPage)[from%memPage : from%memPage+next-from])
			}
			from = next
		}
	}
}

// within returns the numbers of the chunks that have something in [off, end).
func (m *MemFile) within(off, end int64) []int64 {
	var nos []int64
	if (end-off)/chunkLen > int64(len(m.chunks)) {
		for no := range m.chunks {
			if no*chunkLen < end && (no+1)*chunkLen > off {
				nos = append(nos, no)
			}
		}
		return nos
	}
	for no := off / chunkLen; no*chunkLen < end; no++ {
		if m.chunks[no] != nil {
			nos = append(nos, no)
		}
	}
	return nos
}

func (m *MemFile) check(off int64) error {
	if m.closed {
		return ErrClosed
	}
	if off < 0 {
		return fmt.Errorf("offset %d: %w", off, ErrOutOfRange)
	}
	return nil
}
