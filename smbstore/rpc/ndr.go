package rpc

import (
	"encoding/binary"
	"unicode/utf16"
)

// MaxStub bounds the parameters of one call, in bytes: what a server assembles
// from fragments and what either side encodes.
const MaxStub = 1 << 20

// maxString bounds a string, in UTF-16 code units with its terminator.
const maxString = 32 << 10

// Decoder reads NDR (C706 chapter 14), little-endian, and remembers the first
// failure: ErrTruncated, ErrInvalid or ErrTooLong.
type Decoder struct {
	b   []byte
	off int
	err error
}

// NewDecoder returns a Decoder of b, which starts aligned.
func NewDecoder(b []byte) *Decoder { return &Decoder{b: b} }

// Err is the first failure, or nil.
func (d *Decoder) Err() error { return d.err }

// Fail makes err the failure, unless there is one already.
func (d *Decoder) Fail(err error) {
	if d.err == nil {
		d.err = err
	}
}

// Check fails with ErrInvalid unless ok.
func (d *Decoder) Check(ok bool) {
	if !ok {
		d.Fail(ErrInvalid)
	}
}

// Len is the number of bytes left.
func (d *Decoder) Len() int { return len(d.b) - d.off }

// Align skips to a multiple of n bytes.
func (d *Decoder) Align(n int) {
	if rest := d.off % n; rest != 0 {
		d.Bytes(n - rest)
	}
}

// Bytes returns the next n bytes, a view.
func (d *Decoder) Bytes(n int) []byte {
	if d.err != nil {
		return nil
	}
	if n < 0 || n > len(d.b)-d.off {
		d.err = ErrTruncated
		return nil
	}
	p := d.b[d.off : d.off+n : d.off+n]
	d.off += n
	return p
}

// U8 reads an octet.
func (d *Decoder) U8() uint8 {
	if p := d.Bytes(1); p != nil {
		return p[0]
	}
	return 0
}

// U16 reads an aligned 16-bit number.
func (d *Decoder) U16() uint16 {
	d.Align(2)
	if p := d.Bytes(2); p != nil {
		return binary.LittleEndian.Uint16(p)
	}
	return 0
}

// U32 reads an aligned 32-bit number.
func (d *Decoder) U32() uint32 {
	d.Align(4)
	if p := d.Bytes(4); p != nil {
		return binary.LittleEndian.Uint32(p)
	}
	return 0
}

// Pointer reads a referent ID and reports whether it points to anything; what
// it points to follows the structure it stands in.
func (d *Decoder) Pointer() bool { return d.U32() != 0 }

// Count reads the number of elements of a conformant array whose elements take
// at least size bytes each. It never returns more than are there.
func (d *Decoder) Count(size int) int {
	n := d.U32()
	if d.err == nil && uint64(n)*uint64(size) > uint64(d.Len()) {
		d.err = ErrTruncated
	}
	if d.err != nil {
		return 0
	}
	return int(n)
}

// WString reads a conformant and varying string of UTF-16 with its terminator
// (C706 14.3.4.2).
func (d *Decoder) WString() string {
	maxCount, offset, count := d.U32(), d.U32(), d.U32()
	d.Check(offset == 0 && count <= maxCount && count > 0)
	if count > maxString {
		d.Fail(ErrTooLong)
	}
	if d.err != nil {
		return ""
	}
	p := d.Bytes(2 * int(count))
	if d.err != nil {
		return ""
	}
	units := make([]uint16, count)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(p[2*i:])
	}
	for i, u := range units {
		if (u == 0) != (i == len(units)-1) {
			d.Fail(ErrInvalid)
			return ""
		}
	}
	return string(utf16.Decode(units[:count-1]))
}

// UniqueWString reads a unique pointer at top level with the string behind it;
// "" for a null pointer.
func (d *Decoder) UniqueWString() string {
	if d.Pointer() {
		return d.WString()
	}
	return ""
}

// Done is the failure; bytes that are left are no failure, as NDR allows padding.
func (d *Decoder) Done() error { return d.err }

// Encoder writes NDR, little-endian. It fails with ErrTooLong past its bound
// and writes nothing from then on.
type Encoder struct {
	b       []byte
	limit   int
	err     error
	nextRef uint32
}

// NewEncoder returns an Encoder of at most limit bytes.
func NewEncoder(limit int) *Encoder { return &Encoder{limit: limit} }

// Bytes returns what was written and the failure.
func (e *Encoder) Bytes() ([]byte, error) { return e.b, e.err }

// Len is the number of bytes written.
func (e *Encoder) Len() int { return len(e.b) }

func (e *Encoder) grow(n int) []byte {
	if e.err == nil && n > e.limit-len(e.b) {
		e.err = ErrTooLong
	}
	if e.err != nil {
		return nil
	}
	at := len(e.b)
	e.b = append(e.b, make([]byte, n)...)
	return e.b[at:]
}

// Align pads with zeroes to a multiple of n bytes.
func (e *Encoder) Align(n int) {
	if rest := len(e.b) % n; rest != 0 {
		e.grow(n - rest)
	}
}

// Raw writes p as it is.
func (e *Encoder) Raw(p []byte) { copy(e.grow(len(p)), p) }

// U8 writes an octet.
func (e *Encoder) U8(v uint8) {
	if p := e.grow(1); p != nil {
		p[0] = v
	}
}

// U16 writes an aligned 16-bit number.
func (e *Encoder) U16(v uint16) {
	e.Align(2)
	if p := e.grow(2); p != nil {
		binary.LittleEndian.PutUint16(p, v)
	}
}

// U32 writes an aligned 32-bit number.
func (e *Encoder) U32(v uint32) {
	e.Align(4)
	if p := e.grow(4); p != nil {
		binary.LittleEndian.PutUint32(p, v)
	}
}

// Pointer writes a referent ID: a fresh one, or 0 for a null pointer.
func (e *Encoder) Pointer(present bool) {
	if !present {
		e.U32(0)
		return
	}
	e.nextRef++
	e.U32(0x00020000 + 4*(e.nextRef-1))
}

// WString writes a conformant and varying string with its terminator.
func (e *Encoder) WString(s string) {
	units := utf16.Encode([]rune(s))
	if len(units) >= maxString {
		e.err = ErrTooLong
		return
	}
	n := uint32(len(units) + 1)
	e.U32(n)
	e.U32(0)
	e.U32(n)
	p := e.grow(2 * int(n))
	if p == nil {
		return
	}
	for i, u := range units {
		binary.LittleEndian.PutUint16(p[2*i:], u)
	}
}

// UniqueWString writes a unique pointer at top level and the string behind it;
// a null pointer for "".
func (e *Encoder) UniqueWString(s string) {
	e.Pointer(s != "")
	if s != "" {
		e.WString(s)
	}
}
