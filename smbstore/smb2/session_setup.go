package smb2

// SessionSetupFlags of a SESSION_SETUP request (MS-SMB2 2.2.5).
type SessionSetupFlags uint8

// SessionFlagBinding binds the session of the header to this connection.
const SessionFlagBinding SessionSetupFlags = 0x01

// SessionFlags of a SESSION_SETUP response (MS-SMB2 2.2.6).
type SessionFlags uint16

// Session flags.
const (
	SessionFlagIsGuest     SessionFlags = 0x0001
	SessionFlagIsNull      SessionFlags = 0x0002
	SessionFlagEncryptData SessionFlags = 0x0004
)

// SessionSetupRequest carries an authentication token (MS-SMB2 2.2.5).
type SessionSetupRequest struct {
	Flags             SessionSetupFlags
	SecurityMode      SecurityMode // one byte on the wire
	Capabilities      Capabilities
	Channel           uint32 // reserved
	PreviousSessionID uint64
	SecurityBuffer    []byte // at most 65535 bytes
}

const sessionSetupRequestFixed = 24

// Size of header and body.
func (r *SessionSetupRequest) Size() int {
	return HeaderSize + sessionSetupRequestFixed + len(r.SecurityBuffer)
}

// Encode writes the body.
func (r *SessionSetupRequest) Encode(msg []byte) {
	w := putBody(msg, 25)
	w.u8(uint8(r.Flags))
	w.u8(uint8(r.SecurityMode))
	w.u32(uint32(r.Capabilities))
	w.u32(r.Channel)
	w.u16(HeaderSize + sessionSetupRequestFixed)
	w.u16(uint16(len(r.SecurityBuffer)))
	w.u64(r.PreviousSessionID)
	w.bytes(r.SecurityBuffer)
}

// Decode reads the body.
func (r *SessionSetupRequest) Decode(msg []byte) error {
	d := body(msg, "SESSION_SETUP request", 25, sessionSetupRequestFixed)
	*r = SessionSetupRequest{
		Flags:        SessionSetupFlags(d.u8()),
		SecurityMode: SecurityMode(d.u8()),
		Capabilities: Capabilities(d.u32()),
		Channel:      d.u32(),
	}
	off := uint32(d.u16())
	n := uint32(d.u16())
	r.PreviousSessionID = d.u64()
	r.SecurityBuffer = d.view("SecurityBuffer", off, n)
	return d.err
}

// SessionSetupResponse answers a token (MS-SMB2 2.2.6). It is the body with
// STATUS_MORE_PROCESSING_REQUIRED too.
type SessionSetupResponse struct {
	SessionFlags   SessionFlags
	SecurityBuffer []byte // at most 65535 bytes
}

const sessionSetupResponseFixed = 8

// Size of header and body.
func (r *SessionSetupResponse) Size() int {
	return HeaderSize + sessionSetupResponseFixed + len(r.SecurityBuffer)
}

// Encode writes the body.
func (r *SessionSetupResponse) Encode(msg []byte) {
	w := putBody(msg, 9)
	w.u16(uint16(r.SessionFlags))
	w.u16(HeaderSize + sessionSetupResponseFixed)
	w.u16(uint16(len(r.SecurityBuffer)))
	w.bytes(r.SecurityBuffer)
}

// Decode reads the body.
func (r *SessionSetupResponse) Decode(msg []byte) error {
	d := body(msg, "SESSION_SETUP response", 9, sessionSetupResponseFixed)
	*r = SessionSetupResponse{SessionFlags: SessionFlags(d.u16())}
	off := uint32(d.u16())
	r.SecurityBuffer = d.view("SecurityBuffer", off, uint32(d.u16()))
	return d.err
}
