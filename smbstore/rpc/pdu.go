package rpc

import (
	"encoding/binary"
	"fmt"
)

// PDUType tells PDUs apart (C706 12.6.4.1).
type PDUType uint8

// PDU types of the connection-oriented protocol.
const (
	PDURequest          PDUType = 0
	PDUResponse         PDUType = 2
	PDUFault            PDUType = 3
	PDUBind             PDUType = 11
	PDUBindAck          PDUType = 12
	PDUBindNak          PDUType = 13
	PDUAlterContext     PDUType = 14
	PDUAlterContextResp PDUType = 15
	PDUAuth3            PDUType = 16
	PDUShutdown         PDUType = 17
	PDUCancel           PDUType = 18
	PDUOrphaned         PDUType = 19
)

// Flags of a PDU (C706 12.6.3.1).
const (
	FlagFirst         = 0x01
	FlagLast          = 0x02
	FlagPendingCancel = 0x04
	FlagConcMpx       = 0x10
	FlagDidNotExecute = 0x20
	FlagMaybe         = 0x40
	FlagObjectUUID    = 0x80
)

// HeaderSize is the common header's (C706 12.6.3.1).
const HeaderSize = 16

// Bounds of a fragment in bytes: what both sides must take at least (C706
// 12.6.3.6), and the most we take or send.
const (
	MinFragment = 1432
	MaxFragment = 5840
)

// Header is the common header of every PDU.
type Header struct {
	Type       PDUType
	Flags      uint8
	FragLength uint16 // of the PDU, header and authentication included
	AuthLength uint16
	CallID     uint32
}

// littleEndianASCII is the only data representation we speak: integers
// little-endian, characters ASCII, floating point IEEE (C706 14.2.5).
const littleEndianASCII = 0x00000010

// Encode writes the header into dst[:HeaderSize].
func (h *Header) Encode(dst []byte) {
	dst[0], dst[1], dst[2], dst[3] = 5, 0, byte(h.Type), h.Flags
	binary.LittleEndian.PutUint32(dst[4:], littleEndianASCII)
	binary.LittleEndian.PutUint16(dst[8:], h.FragLength)
	binary.LittleEndian.PutUint16(dst[10:], h.AuthLength)
	binary.LittleEndian.PutUint32(dst[12:], h.CallID)
}

// Decode refuses versions other than 5.0 and 5.1, any representation but
// little-endian, a fragment shorter than its header or its authentication, and
// one longer than MaxFragment. b may be longer or shorter than the fragment.
func (h *Header) Decode(b []byte) error {
	if len(b) < HeaderSize {
		return fmt.Errorf("PDU header of %d bytes: %w", len(b), ErrTruncated)
	}
	*h = Header{
		Type: PDUType(b[2]), Flags: b[3],
		FragLength: binary.LittleEndian.Uint16(b[8:]),
		AuthLength: binary.LittleEndian.Uint16(b[10:]),
		CallID:     binary.LittleEndian.Uint32(b[12:]),
	}
	switch {
	case b[0] != 5 || b[1] > 1:
		return fmt.Errorf("PDU of version %d.%d: %w", b[0], b[1], ErrInvalid)
	case b[4] != littleEndianASCII || b[5] != 0:
		return fmt.Errorf("PDU with data representation %#x: %w", b[4:8], ErrInvalid)
	case h.FragLength < HeaderSize || int(h.AuthLength) > int(h.FragLength)-HeaderSize:
		return fmt.Errorf("PDU of %d bytes, %d of them authentication: %w", h.FragLength, h.AuthLength, ErrInvalid)
	case h.FragLength > MaxFragment:
		return fmt.Errorf("PDU of %d bytes: %w", h.FragLength, ErrTooLong)
	}
	return nil
}

// UUID is a UUID in its wire form, the first three fields little-endian.
type UUID [16]byte

// ParseUUID reads 8-4-4-4-12 hexadecimal digits.
func ParseUUID(text string) (u UUID, err error) {
	var a uint32
	var b, c uint16
	var d, e []byte
	if _, err := fmt.Sscanf(text, "%08x-%04x-%04x-%04x-%12x", &a, &b, &c, &d, &e); err != nil ||
		len(text) != 36 || len(d) != 2 || len(e) != 6 {
		return UUID{}, fmt.Errorf("%q is no UUID: %w", text, ErrInvalid)
	}
	binary.LittleEndian.PutUint32(u[0:], a)
	binary.LittleEndian.PutUint16(u[4:], b)
	binary.LittleEndian.PutUint16(u[6:], c)
	copy(u[8:], d)
	copy(u[10:], e)
	return u, nil
}

func mustUUID(text string) UUID {
	u, err := ParseUUID(text)
	if err != nil {
		panic(err)
	}
	return u
}

func (u UUID) String() string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(u[0:]),
		binary.LittleEndian.Uint16(u[4:]), binary.LittleEndian.Uint16(u[6:]), u[8:10], u[10:])
}

// Syntax names an interface or a transfer syntax: p_syntax_id_t (C706 12.6.3.1).
type Syntax struct {
	UUID  UUID
	Major uint16
	Minor uint16
}

// Transfer syntaxes (C706 appendix I, MS-RPCE 2.2.4.12, 2.2.2.14).
var (
	SyntaxNDR   = Syntax{UUID: mustUUID("8a885d04-1ceb-11c9-9fe8-08002b104860"), Major: 2}
	SyntaxNDR64 = Syntax{UUID: mustUUID("71710533-beba-4937-8319-b5dbef9ccc36"), Major: 1}

	// bindTimeFeatures is the prefix of a syntax that asks for features instead (MS-RPCE 3.3.1.5.3).
	bindTimeFeatures = mustUUID("6cb71c2c-9812-4540-0000-000000000000")
)

// isBindTimeFeatures reports whether s is the question for features.
func (s Syntax) isBindTimeFeatures() bool {
	return [8]byte(s.UUID[:8]) == [8]byte(bindTimeFeatures[:8])
}

func (s Syntax) put(e *Encoder) {
	e.Raw(s.UUID[:])
	e.U16(s.Major)
	e.U16(s.Minor)
}

func (s *Syntax) get(d *Decoder) {
	copy(s.UUID[:], d.Bytes(16))
	s.Major, s.Minor = d.U16(), d.U16()
}

// body returns the decoder of what follows the header of a whole PDU, aligned
// as the PDU is, without authentication.
func body(pdu []byte, want ...PDUType) (*Decoder, Header, error) {
	var h Header
	if err := h.Decode(pdu); err != nil {
		return nil, h, err
	}
	if int(h.FragLength) > len(pdu) {
		return nil, h, fmt.Errorf("PDU of %d bytes, %d are there: %w", h.FragLength, len(pdu), ErrTruncated)
	}
	for _, t := range want {
		if h.Type == t {
			return &Decoder{b: pdu[:h.FragLength-h.AuthLength], off: HeaderSize}, h, nil
		}
	}
	return nil, h, fmt.Errorf("PDU of type %d: %w", h.Type, ErrInvalid)
}

// begin returns an encoder with room for a header, finish fills it in.
func begin() *Encoder {
	e := NewEncoder(MaxFragment)
	e.grow(HeaderSize)
	return e
}

func (e *Encoder) finish(t PDUType, flags uint8, call uint32) ([]byte, error) {
	if e.err != nil {
		return nil, e.err
	}
	h := Header{Type: t, Flags: flags, FragLength: uint16(len(e.b)), CallID: call}
	h.Encode(e.b)
	return e.b, nil
}
