package smb2

// ErrorID says what an error context holds (MS-SMB2 2.2.2.1).
type ErrorID uint32

// Error identifiers.
const (
	ErrorIDDefault       ErrorID = 0x00000000
	ErrorIDShareRedirect ErrorID = 0x72645253
)

// ErrorContext is one of the error contexts of SMB 3.1.1 (MS-SMB2 2.2.2.1).
type ErrorContext struct {
	ID   ErrorID
	Data []byte
}

// ErrorResponse is the body of a response whose status is an error, but for the
// exceptions of MS-SMB2 3.3.4.4 (MS-SMB2 2.2.2). SMB 3.1.1 puts error data into
// Contexts, earlier dialects into Data; one of the two is empty.
type ErrorResponse struct {
	Data     []byte
	Contexts []ErrorContext // at most 255
}

const errorFixed = 8

func (r *ErrorResponse) dataLen() int {
	if len(r.Contexts) == 0 {
		return len(r.Data)
	}
	n := 0
	for _, c := range r.Contexts {
		n = Align8(n) + 8 + len(c.Data)
	}
	return n
}

// Size of header and body. The body has one byte of data when there is none.
func (r *ErrorResponse) Size() int { return HeaderSize + errorFixed + max(1, r.dataLen()) }

// Encode writes the body.
func (r *ErrorResponse) Encode(msg []byte) {
	n := r.dataLen()
	w := putBody(msg, 9)
	w.u8(uint8(len(r.Contexts)))
	w.u8(0)
	w.u32(uint32(n))
	start := w.off
	switch {
	case n == 0:
		w.u8(0)
	case len(r.Contexts) == 0:
		w.bytes(r.Data)
	}
	for _, c := range r.Contexts {
		w.padTo(start + Align8(w.off-start))
		w.u32(uint32(len(c.Data)))
		w.u32(uint32(c.ID))
		w.bytes(c.Data)
	}
}

// Decode reads the body.
func (r *ErrorResponse) Decode(msg []byte) error {
	*r = ErrorResponse{}
	d := body(msg, "ERROR response", 9, errorFixed)
	count := int(d.u8())
	d.u8()
	data := d.view("ErrorData", HeaderSize+errorFixed, d.u32())
	if count == 0 || d.err != nil {
		r.Data = data
		return d.err
	}
	c := structure(data, "ERROR response", 0)
	for i := 0; i < count; i++ {
		c.skip(Align8(c.off) - c.off)
		n := c.u32()
		id := ErrorID(c.u32())
		if uint64(n) > uint64(len(data)) {
			c.fail("ErrorDataLength", ErrBounds)
		}
		b := c.take(int(n))
		if c.err != nil {
			return c.err
		}
		r.Contexts = append(r.Contexts, ErrorContext{ID: id, Data: b})
	}
	return nil
}

// SymlinkError is the error data of STATUS_STOPPED_ON_SYMLINK (MS-SMB2 2.2.2.2.1).
type SymlinkError struct {
	UnparsedPathLength uint16 // bytes of UTF-16 of the path that are behind the link
	Relative           bool   // SubstituteName is relative to the link's folder
	SubstituteName     string // where to go
	PrintName          string // what to show
}

const (
	symlinkErrorTag   = 0x4C4D5953
	symlinkReparseTag = 0xA000000C
	symlinkFixed      = 28
)

// Size in bytes.
func (s *SymlinkError) Size() int {
	return symlinkFixed + SizeUTF16(s.SubstituteName) + SizeUTF16(s.PrintName)
}

// Encode writes the structure into b[:Size()].
func (s *SymlinkError) Encode(b []byte) {
	sub, print := SizeUTF16(s.SubstituteName), SizeUTF16(s.PrintName)
	w := writer{msg: b}
	w.u32(uint32(symlinkFixed - 4 + sub + print))
	w.u32(symlinkErrorTag)
	w.u32(symlinkReparseTag)
	w.u16(uint16(12 + sub + print))
	w.u16(s.UnparsedPathLength)
	w.u16(0)
	w.u16(uint16(sub))
	w.u16(uint16(sub))
	w.u16(uint16(print))
	if s.Relative {
		w.u32(1)
	} else {
		w.u32(0)
	}
	w.text(s.SubstituteName)
	w.text(s.PrintName)
}

// Decode reads the structure.
func (s *SymlinkError) Decode(b []byte) error {
	r := structure(b, "symbolic link error", symlinkFixed)
	if n := r.u32(); uint64(n)+4 > uint64(len(b)) {
		r.fail("SymLinkLength", ErrBounds)
	}
	if r.u32() != symlinkErrorTag {
		r.fail("SymLinkErrorTag", ErrValue)
	}
	if r.u32() != symlinkReparseTag {
		r.fail("ReparseTag", ErrValue)
	}
	r.skip(2)
	*s = SymlinkError{UnparsedPathLength: r.u16()}
	subOff, subLen := uint32(r.u16()), uint32(r.u16())
	printOff, printLen := uint32(r.u16()), uint32(r.u16())
	if subLen+printLen > 0xFFFF-12 { // what ReparseDataLength can say
		r.fail("PathBuffer", ErrValue)
	}
	s.Relative = r.u32()&1 != 0
	s.SubstituteName = r.text("SubstituteName", symlinkFixed+subOff, subLen)
	s.PrintName = r.text("PrintName", symlinkFixed+printOff, printLen)
	return r.err
}
