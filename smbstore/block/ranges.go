package block

import "fmt"

// CheckRange returns ErrOutOfRange, wrapped with the numbers, unless
// [off, off+n) lies in [0, size). It cannot overflow.
func CheckRange(size, off, n int64) error {
	if off < 0 || n < 0 || off > size || n > size-off {
		return fmt.Errorf("offset %d, length %d, size %d: %w", off, n, size, ErrOutOfRange)
	}
	return nil
}

// Merger joins neighbouring extents of one state before it hands them on, so
// that a walk in blocks meets the contract of Device.Extents. Not for
// concurrent use.
type Merger struct {
	visit func(Extent) error
	cur   Extent
}

// NewMerger returns a Merger that calls visit.
func NewMerger(visit func(Extent) error) *Merger { return &Merger{visit: visit} }

// Add appends an extent that starts where the last one ended. An empty one is ignored.
func (m *Merger) Add(e Extent) error {
	if e.Length == 0 {
		return nil
	}
	if m.cur.Length > 0 && m.cur.State == e.State {
		m.cur.Length += e.Length
		return nil
	}
	err := m.Flush()
	m.cur = e
	return err
}

// Flush hands on what is held; the walk ends with it.
func (m *Merger) Flush() error {
	if m.cur.Length == 0 {
		return nil
	}
	e := m.cur
	m.cur = Extent{}
	return m.visit(e)
}

// zeroBuf is what zeroes are written from; nobody writes to it.
var zeroBuf [1 << 20]byte

// IsZero tells whether every byte of p is zero.
func IsZero(p []byte) bool {
	for len(p) > 0 {
		n := min(len(p), 4096)
		if string(p[:n]) != string(zeroBuf[:n]) {
			return false
		}
		p = p[n:]
	}
	return true
}

// ZeroFile writes zeroes to [off, off+n) of a file: by punching a hole where f
// can and unmap allows it, else by writing them.
func ZeroFile(f File, off, n int64, unmap bool) error {
	if p, ok := f.(Puncher); ok && unmap {
		err := p.PunchHole(off, n)
		if err == nil || !isUnsupported(err) {
			return err
		}
	}
	for n > 0 {
		c := min(n, int64(len(zeroBuf)))
		if _, err := f.WriteAt(zeroBuf[:c], off); err != nil {
			return err
		}
		off, n = off+c, n-c
	}
	return nil
}
