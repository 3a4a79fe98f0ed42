package fscc

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Errors of Decode; each is wrapped with the structure it was found in.
var (
	ErrTruncated = errors.New("structure is cut short")        // STATUS_INFO_LENGTH_MISMATCH
	ErrInvalid   = errors.New("structure holds a wrong value") // STATUS_INVALID_PARAMETER
)

// GUID is a globally unique identifier in its wire form (MS-DTYP 2.3.4.2).
type GUID [16]byte

// reader takes fields off a buffer in order and remembers the first failure.
type reader struct {
	b   []byte
	off int
	err error
}

func (r *reader) take(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n < 0 || n > len(r.b)-r.off {
		r.err = ErrTruncated
		return nil
	}
	p := r.b[r.off : r.off+n : r.off+n]
	r.off += n
	return p
}

func (r *reader) skip(n int) { r.take(n) }

func (r *reader) u8() uint8 {
	if p := r.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (r *reader) boolean() bool { return r.u8() != 0 }

func (r *reader) u16() uint16 {
	if p := r.take(2); p != nil {
		return binary.LittleEndian.Uint16(p)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if p := r.take(4); p != nil {
		return binary.LittleEndian.Uint32(p)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if p := r.take(8); p != nil {
		return binary.LittleEndian.Uint64(p)
	}
	return 0
}

func (r *reader) i64() int64         { return int64(r.u64()) }
func (r *reader) filetime() Filetime { return Filetime(r.u64()) }

// size reads a file size or offset, which is signed on the wire and never negative.
func (r *reader) size() int64 {
	v := r.i64()
	r.check(v >= 0)
	return v
}

func (r *reader) guid() (g GUID) {
	copy(g[:], r.take(16))
	return g
}

// name reads n bytes of UTF-16.
func (r *reader) name(n uint32) string {
	if n%2 != 0 {
		r.check(false)
		return ""
	}
	if uint64(n) > uint64(len(r.b)) {
		r.take(-1)
		return ""
	}
	return DecodeUTF16(r.take(int(n)))
}

func (r *reader) check(ok bool) {
	if !ok && r.err == nil {
		r.err = ErrInvalid
	}
}

// done returns the latched error, with what was being decoded.
func (r *reader) done(what string) error {
	if r.err != nil {
		return fmt.Errorf("fscc: %s of %d bytes: %w", what, len(r.b), r.err)
	}
	return nil
}

// writer puts fields into a buffer in order.
type writer struct {
	b   []byte
	off int
}

func (w *writer) u8(v uint8) {
	w.b[w.off] = v
	w.off++
}

func (w *writer) boolean(v bool) {
	if v {
		w.u8(1)
	} else {
		w.u8(0)
	}
}

func (w *writer) u16(v uint16) {
	binary.LittleEndian.PutUint16(w.b[w.off:], v)
	w.off += 2
}

func (w *writer) u32(v uint32) {
	binary.LittleEndian.PutUint32(w.b[w.off:], v)
	w.off += 4
}

func (w *writer) u64(v uint64) {
	binary.LittleEndian.PutUint64(w.b[w.off:], v)
	w.off += 8
}

func (w *writer) i64(v int64)         { w.u64(uint64(v)) }
func (w *writer) filetime(v Filetime) { w.u64(uint64(v)) }

func (w *writer) bytes(p []byte) {
	if len(p) > len(w.b)-w.off {
		panic("fscc: Encode into less than Size bytes")
	}
	w.off += copy(w.b[w.off:], p)
}

func (w *writer) zero(n int) {
	clear(w.b[w.off : w.off+n])
	w.off += n
}

func (w *writer) name(s string) { w.off += PutUTF16(w.b[w.off:], s) }

func align(n, to int) int { return (n + to - 1) &^ (to - 1) }
