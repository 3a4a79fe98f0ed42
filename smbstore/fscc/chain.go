package fscc

import "encoding/binary"

// chain places entries that begin with a NextEntryOffset one after the other
// in a buffer it never grows.
type chain struct {
	buf   []byte
	align int
	last  int // offset of the entry before, if end > 0
	end   int // bytes used, without padding behind the last entry
}

// next returns room for an entry of n bytes, zeroed, its predecessor linked to
// it; nil if it does not fit, and then nothing has changed.
func (c *chain) next(n int) []byte {
	at := 0
	if c.end > 0 {
		at = align(c.end, c.align)
	}
	if at > len(c.buf) || n > len(c.buf)-at {
		return nil
	}
	if c.end > 0 {
		clear(c.buf[c.end:at])
		binary.LittleEndian.PutUint32(c.buf[c.last:], uint32(at-c.last))
	}
	c.last, c.end = at, at+n
	entry := c.buf[at : at+n : at+n]
	clear(entry)
	return entry
}

// eachEntry calls visit with each entry of a chain, which reaches to the next
// one, or to the end of b. Offsets must go forward by at least min bytes and be
// multiples of align, so that a chain of n bytes has at most n/min entries.
func eachEntry(b []byte, minSize, align int, visit func(entry []byte) error) error {
	for {
		if len(b) < minSize {
			return ErrTruncated
		}
		next := uint64(binary.LittleEndian.Uint32(b))
		if next == 0 {
			return visit(b)
		}
		if next < uint64(minSize) || next%uint64(align) != 0 {
			return ErrInvalid
		}
		if next > uint64(len(b)) {
			return ErrTruncated
		}
		if err := visit(b[:next:next]); err != nil {
			return err
		}
		b = b[next:]
	}
}
