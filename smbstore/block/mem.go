package block

import (
	"fmt"
	"io"
	"sync"
)

// memPage is the unit a MemFile keeps; a page that was never written takes no memory.
const memPage = 4096

type page = [memPage]byte

// MemFile is a sparse File in memory, a Puncher and an Extenter, for tests and
// for overlays. Snapshots share its pages until one side writes. All methods may
// be called concurrently.
type MemFile struct {
	mu     sync.RWMutex
	pages  map[int64]*page // by page number; absent reads as zeroes
	shared map[int64]bool  // pages a snapshot holds too: copied before a write
	size   int64
	closed bool
}

// NewMemFile returns a file of size zero bytes.
func NewMemFile(size int64) *MemFile {
	return &MemFile{pages: map[int64]*page{}, shared: map[int64]bool{}, size: size}
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
		if pg := m.pages[at/memPage]; pg != nil {
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
	for done := 0; done < len(p); {
		at := off + int64(done)
		in := at % memPage
		done += copy(m.own(at / memPage)[in:], p[done:])
	}
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
	for end := off + n; off < end; {
		next := min(end, (off/memPage+1)*memPage)
		m.mu.RLock()
		err := m.check(off)
		state := Data
		if m.pages[off/memPage] == nil {
			state = Zero
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
// costs a map entry a page, no copy.
func (m *MemFile) Snapshot() *MemFile {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &MemFile{size: m.size, pages: make(map[int64]*page, len(m.pages)), shared: make(map[int64]bool, len(m.pages))}
	for no, pg := range m.pages {
		s.pages[no] = pg
		s.shared[no] = true
		m.shared[no] = true
	}
	return s
}

// own returns a page that may be written.
func (m *MemFile) own(no int64) *page {
	pg := m.pages[no]
	switch {
	case pg == nil:
		pg = new(page)
	case m.shared[no]:
		c := *pg
		pg = &c
		delete(m.shared, no)
	default:
		return pg
	}
	m.pages[no] = pg
	return pg
}

// zero drops whole pages of [off, end) and clears the rest.
func (m *MemFile) zero(off, end int64) {
	drop := func(no int64) {
		delete(m.pages, no)
		delete(m.shared, no)
	}
	first, last := (off+memPage-1)/memPage, end/memPage // whole pages [first, last)
	if last-first > int64(len(m.pages)) {
		for no := range m.pages {
			if no >= first && no < last {
				drop(no)
			}
		}
	} else {
		for no := first; no < last; no++ {
			drop(no)
		}
	}
	clearPart := func(from, to int64) {
		if from < to && m.pages[from/memPage] != nil {
			in := from % memPage
			clear(m.own(from / memPage)[in : in+to-from])
		}
	}
	if first > last { // both ends in one page
		clearPart(off, end)
		return
	}
	clearPart(off, first*memPage)
	clearPart(last*memPage, end)
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
