package smb2

// LogoffRequest ends a session (MS-SMB2 2.2.7).
type LogoffRequest struct{}

// Size of header and body.
func (*LogoffRequest) Size() int { return HeaderSize + emptySize }

// Encode writes the body.
func (*LogoffRequest) Encode(msg []byte) { encodeEmpty(msg) }

// Decode reads the body.
func (*LogoffRequest) Decode(msg []byte) error { return decodeEmpty(msg, "LOGOFF request") }

// LogoffResponse answers LOGOFF (MS-SMB2 2.2.8).
type LogoffResponse struct{}

// Size of header and body.
func (*LogoffResponse) Size() int { return HeaderSize + emptySize }

// Encode writes the body.
func (*LogoffResponse) Encode(msg []byte) { encodeEmpty(msg) }

// Decode reads the body.
func (*LogoffResponse) Decode(msg []byte) error { return decodeEmpty(msg, "LOGOFF response") }
