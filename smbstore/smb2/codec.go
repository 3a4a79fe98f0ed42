package smb2

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Why a message or structure did not decode. Every decoding error is a
// *DecodeError that unwraps to one of these.
var (
	ErrTruncated     = errors.New("message ends early")
	ErrProtocol      = errors.New("not an SMB2 message")
	ErrStructureSize = errors.New("structure size is wrong")
	ErrBounds        = errors.New("offset or length leaves the message")
	ErrAlignment     = errors.New("offset is not aligned")
	ErrValue         = errors.New("value is not allowed")
)

// DecodeError says which field of which structure was wrong.
type DecodeError struct {
	What  string // the structure, such as "CREATE request"
	Field string // "" where Err says it all
	Err   error  // one of the sentinels above
}

func (e *DecodeError) Error() string {
	if e.Field == "" {
		return fmt.Sprintf("smb2: %s: %v", e.What, e.Err)
	}
	return fmt.Sprintf("smb2: %s: %s: %v", e.What, e.Field, e.Err)
}

func (e *DecodeError) Unwrap() error { return e.Err }

var le = binary.LittleEndian

// reader walks a message and keeps its first error: decode on, ask once. After
// an error it returns zeroes. It never allocates but for the error.
type reader struct {
	msg  []byte
	off  int
	min  int // where the variable part may begin
	what string
	err  error
}

// body starts at a message's body, after its StructureSize, having checked that
// field and that the fixed part (its bytes, StructureSize included) is there.
// The variable part may begin right behind it.
func body(msg []byte, what string, structureSize uint16, fixed int) reader {
	r := reader{msg: msg, off: HeaderSize + 2, min: HeaderSize + fixed, what: what}
	if len(msg) < HeaderSize+fixed {
		r.fail("", ErrTruncated)
	} else if le.Uint16(msg[HeaderSize:]) != structureSize {
		r.fail("", ErrStructureSize)
	}
	return r
}

// structure starts at the first byte of something that is not a message body.
func structure(b []byte, what string, fixed int) reader {
	r := reader{msg: b, min: fixed, what: what}
	if len(b) < fixed {
		r.fail("", ErrTruncated)
	}
	return r
}

func (r *reader) fail(field string, err error) {
	if r.err == nil {
		r.err = &DecodeError{What: r.what, Field: field, Err: err}
	}
}

// take returns the next n bytes, nil after an error.
func (r *reader) take(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n < 0 || n > len(r.msg)-r.off {
		r.fail("", ErrTruncated)
		return nil
	}
	b := r.msg[r.off : r.off+n : r.off+n]
	r.off += n
	return b
}

func (r *reader) skip(n int) { r.take(n) }

func (r *reader) u8() uint8 {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return le.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return le.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return le.Uint64(b)
	}
	return 0
}

func (r *reader) guid() (g GUID) {
	copy(g[:], r.take(len(g)))
	return g
}

func (r *reader) fileID() FileID {
	return FileID{Persistent: r.u64(), Volatile: r.u64()}
}

// view returns n bytes at off, both counted as the peer gave them: they must lie
// behind the fixed part and within the message. The offset of nothing is ignored.
func (r *reader) view(field string, off, n uint32) []byte {
	if r.err != nil || n == 0 {
		return nil
	}
	if uint64(off) < uint64(r.min) || uint64(off)+uint64(n) > uint64(len(r.msg)) {
		r.fail(field, ErrBounds)
		return nil
	}
	end := int(off) + int(n)
	return r.msg[off:end:end]
}

// text is view for UTF-16LE, as WTF-8.
func (r *reader) text(field string, off, n uint32) string {
	b := r.view(field, off, n)
	if len(b)%2 != 0 {
		r.fail(field, ErrValue)
		return ""
	}
	return DecodeUTF16(b)
}

// writer fills memory front to back. The caller of Encode promised room for
// Size bytes; less is a mistake in the program and panics.
type writer struct {
	msg []byte
	off int
}

// putBody starts a body with its StructureSize.
func putBody(msg []byte, structureSize uint16) writer {
	w := writer{msg: msg, off: HeaderSize}
	w.u16(structureSize)
	return w
}

func (w *writer) u8(v uint8)   { w.msg[w.off] = v; w.off++ }
func (w *writer) u16(v uint16) { le.PutUint16(w.msg[w.off:], v); w.off += 2 }
func (w *writer) u32(v uint32) { le.PutUint32(w.msg[w.off:], v); w.off += 4 }
func (w *writer) u64(v uint64) { le.PutUint64(w.msg[w.off:], v); w.off += 8 }

func (w *writer) guid(g GUID) { w.bytes(g[:]) }

func (w *writer) fileID(id FileID) {
	w.u64(id.Persistent)
	w.u64(id.Volatile)
}

func (w *writer) bytes(b []byte) {
	w.off += copy(w.msg[w.off:w.off+len(b)], b)
}

func (w *writer) text(s string) {
	w.off += EncodeUTF16(w.msg[w.off:], s)
}

// zero writes n zero bytes: the memory may hold an older message.
func (w *writer) zero(n int) {
	clear(w.msg[w.off : w.off+n])
	w.off += n
}

// padTo writes zeroes up to off, counted from the first byte of the memory.
func (w *writer) padTo(off int) {
	if off > w.off {
		w.zero(off - w.off)
	}
}

// offsetIf is the offset to send for n bytes at off: 0 where there are none.
func offsetIf(n, off int) int {
	if n == 0 {
		return 0
	}
	return off
}

// Align8 rounds n up to the alignment of compounds and contexts.
func Align8(n int) int { return (n + 7) &^ 7 }
