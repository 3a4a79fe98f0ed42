package smb2

// HeaderSize is the size of the SMB2 header, bytes (MS-SMB2 2.2.1).
const HeaderSize = 64

// Protocol identifiers: the first four bytes of what a frame holds, read as
// little-endian (MS-SMB2 2.2.1, 2.2.41, 2.2.42; MS-CIFS 2.2.3.1).
const (
	ProtocolSMB2        uint32 = 0x424D53FE // 0xFE 'S' 'M' 'B'
	ProtocolTransform   uint32 = 0x424D53FD // encrypted
	ProtocolCompression uint32 = 0x424D53FC // compressed
	ProtocolSMB1        uint32 = 0x424D53FF // 0xFF 'S' 'M' 'B'
)

// ProtocolID returns the first four bytes of a frame, 0 if it is shorter.
func ProtocolID(frame []byte) uint32 {
	if len(frame) < 4 {
		return 0
	}
	return le.Uint32(frame)
}

// HeaderFlags is the Flags field of the header (MS-SMB2 2.2.1.2).
type HeaderFlags uint32

// Flags of the header.
const (
	FlagServerToRedir     HeaderFlags = 0x00000001 // a response
	FlagAsyncCommand      HeaderFlags = 0x00000002 // the header has an AsyncID and no TreeID
	FlagRelatedOperations HeaderFlags = 0x00000004
	FlagSigned            HeaderFlags = 0x00000008
	FlagPriorityMask      HeaderFlags = 0x00000070
	FlagDFSOperations     HeaderFlags = 0x10000000
	FlagReplayOperation   HeaderFlags = 0x20000000
)

// Header is the SMB2 packet header, both forms (MS-SMB2 2.2.1.1, 2.2.1.2). Flags
// decide which fields are on the wire: FlagServerToRedir has Status, a request has
// ChannelSequence; FlagAsyncCommand has AsyncID, else ProcessID and TreeID.
type Header struct {
	CreditCharge    uint16
	Status          Status // responses
	ChannelSequence uint16 // requests of SMB 3.x; 0 before
	Command         Command
	Credits         uint16 // requested, or granted
	Flags           HeaderFlags
	NextCommand     uint32 // bytes to the next header of a compound; 0 in the last
	MessageID       uint64
	AsyncID         uint64 // async form
	ProcessID       uint32 // sync form; reserved, clients send 0 or 0xFEFF
	TreeID          uint32 // sync form
	SessionID       uint64
	Signature       [16]byte
}

// IsResponse reports FlagServerToRedir.
func (h *Header) IsResponse() bool { return h.Flags&FlagServerToRedir != 0 }

// IsAsync reports FlagAsyncCommand.
func (h *Header) IsAsync() bool { return h.Flags&FlagAsyncCommand != 0 }

// IsRelated reports FlagRelatedOperations.
func (h *Header) IsRelated() bool { return h.Flags&FlagRelatedOperations != 0 }

// Encode writes the header into msg[:HeaderSize]. It does not allocate.
func (h *Header) Encode(msg []byte) {
	b := msg[:HeaderSize]
	le.PutUint32(b[0:], ProtocolSMB2)
	le.PutUint16(b[4:], HeaderSize)
	le.PutUint16(b[6:], h.CreditCharge)
	if h.IsResponse() {
		le.PutUint32(b[8:], uint32(h.Status))
	} else {
		le.PutUint32(b[8:], uint32(h.ChannelSequence))
	}
	le.PutUint16(b[12:], uint16(h.Command))
	le.PutUint16(b[14:], h.Credits)
	le.PutUint32(b[16:], uint32(h.Flags))
	le.PutUint32(b[20:], h.NextCommand)
	le.PutUint64(b[24:], h.MessageID)
	if h.IsAsync() {
		le.PutUint64(b[32:], h.AsyncID)
	} else {
		le.PutUint32(b[32:], h.ProcessID)
		le.PutUint32(b[36:], h.TreeID)
	}
	le.PutUint64(b[40:], h.SessionID)
	copy(b[48:], h.Signature[:])
}

// Decode reads the header at the start of msg. It checks the length, the
// protocol identifier and the structure size, and does not allocate.
func (h *Header) Decode(msg []byte) error {
	if len(msg) < HeaderSize {
		return &DecodeError{What: "header", Err: ErrTruncated}
	}
	b := msg[:HeaderSize]
	if le.Uint32(b) != ProtocolSMB2 {
		return &DecodeError{What: "header", Err: ErrProtocol}
	}
	if le.Uint16(b[4:]) != HeaderSize {
		return &DecodeError{What: "header", Err: ErrStructureSize}
	}
	*h = Header{
		CreditCharge: le.Uint16(b[6:]),
		Command:      Command(le.Uint16(b[12:])),
		Credits:      le.Uint16(b[14:]),
		Flags:        HeaderFlags(le.Uint32(b[16:])),
		NextCommand:  le.Uint32(b[20:]),
		MessageID:    le.Uint64(b[24:]),
		SessionID:    le.Uint64(b[40:]),
	}
	if h.IsResponse() {
		h.Status = Status(le.Uint32(b[8:]))
	} else {
		h.ChannelSequence = le.Uint16(b[8:])
	}
	if h.IsAsync() {
		h.AsyncID = le.Uint64(b[32:])
	} else {
		h.ProcessID = le.Uint32(b[32:])
		h.TreeID = le.Uint32(b[36:])
	}
	copy(h.Signature[:], b[48:])
	return nil
}
