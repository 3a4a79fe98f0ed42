package smb2

// CancelRequest asks to give up the request its header names by MessageID or AsyncID; nothing answers it (MS-SMB2 2.2.30).
type CancelRequest struct{}

// Size of header and body.
func (*CancelRequest) Size() int { return HeaderSize + emptySize }

// Encode writes the body.
func (*CancelRequest) Encode(msg []byte) { encodeEmpty(msg) }

// Decode reads the body.
func (*CancelRequest) Decode(msg []byte) error { return decodeEmpty(msg, "CANCEL request") }
