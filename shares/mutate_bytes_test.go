package shares

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
)

// mutator changes messages at random.
type mutator struct{ *rand.Rand }

// pick is one of list.
func pick[T any](m mutator, list ...T) T { return list[m.IntN(len(list))] }

// bytes are n random ones.
func (m mutator) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(m.Uint32())
	}
	return b
}

// mutate returns b with one to three changes to what lies from lo on; other is
// another message to take pieces from. The result differs from b.
func (m mutator) mutate(b []byte, lo int, other []byte) []byte {
	for {
		out := slices.Clone(b)
		for range pick(m, 1, 1, 1, 1, 2, 2, 3) {
			out = m.change(out, min(lo, len(out)), other)
		}
		if !bytes.Equal(out, b) {
			return out
		}
	}
}

// change makes one change. It keeps b[:lo].
func (m mutator) change(b []byte, lo int, other []byte) []byte {
	n := len(b) - lo
	if n == 0 {
		return append(b, m.bytes(1+m.IntN(64))...)
	}
	switch m.IntN(16) {
	case 0, 1:
		b[lo+m.IntN(n)] ^= 1 << m.IntN(8)
	case 2:
		b[lo+m.IntN(n)] = pick(m, byte(0), 0xff, 0x7f, 0x80)
	case 3, 4, 5, 6, 7:
		m.number(b, lo)
	case 8:
		return b[:lo+m.IntN(n)]
	case 9:
		return append(b, m.bytes(1+m.IntN(pick(m, 8, 64, 4096)))...)
	case 10, 11:
		m.swap(b, lo)
	case 12: // a slice once more, somewhere else
		i, j := m.span(lo, len(b), 256)
		return slices.Insert(b, lo+m.IntN(n), slices.Clone(b[i:j])...)
	case 13: // a slice over another
		i, j := m.span(lo, len(b), 256)
		copy(b[lo+m.IntN(n):], slices.Clone(b[i:j]))
	case 14: // the head of this, the tail of the other
		if at := lo + m.IntN(n); at < len(other) {
			return append(b[:at], other[at:]...)
		}
	case 15: // a slice gone
		i, j := m.span(lo, len(b), 64)
		return slices.Delete(b, i, j)
	}
	return b
}

// span is a random piece of [lo, hi), at most most long.
func (m mutator) span(lo, hi, most int) (from, to int) {
	from = lo + m.IntN(hi-lo)
	return from, from + 1 + m.IntN(min(hi-from, most))
}

// field is where a number of w bytes may lie in b[lo:], most often aligned.
func (m mutator) field(b []byte, lo, w int) int {
	// Most fields are in the first 64 bytes of a body.
	hi := len(b) - w
	if m.IntN(3) > 0 {
		hi = min(hi, lo+64)
	}
	at := lo + m.IntN(hi-lo+1)
	if m.IntN(8) > 0 && at&^(min(w, 4)-1) >= lo {
		at &^= min(w, 4) - 1
	}
	return at
}

// number puts a boundary value somewhere into b[lo:].
func (m mutator) number(b []byte, lo int) {
	w := pick(m, 2, 4, 4, 8)
	if len(b)-lo < w {
		return
	}
	top := uint64(1) << (8*w - 1)
	v := pick(m, 0, 1, 2*top-1, 2*top-2, top, top-1, uint64(len(b)), uint64(len(b)-1), uint64(len(b)+1),
		uint64(len(b)-lo), 7, 8, 64<<10, 64<<10+1, uint64(m.IntN(256)), m.Uint64())
	at := m.field(b, lo, w)
	switch w {
	case 2:
		binary.LittleEndian.PutUint16(b[at:], uint16(v))
	case 4:
		binary.LittleEndian.PutUint32(b[at:], uint32(v))
	case 8:
		binary.LittleEndian.PutUint64(b[at:], v)
	}
}

// swap exchanges two fields of b[lo:], such as an offset and a length.
func (m mutator) swap(b []byte, lo int) {
	w := pick(m, 2, 4)
	if len(b)-lo < 2*w {
		return
	}
	i := m.field(b, lo, w)
	j := i + w
	if m.IntN(2) == 0 || j+w > len(b) {
		j = m.field(b, lo, w)
	}
	x, y := slices.Clone(b[i:i+w]), slices.Clone(b[j:j+w])
	copy(b[i:], y)
	copy(b[j:], x)
}
