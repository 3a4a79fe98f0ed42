package smb2

// EchoRequest asks whether the server is there (MS-SMB2 2.2.28).
type EchoRequest struct{}

// Size of header and body.
func (*EchoRequest) Size() int { return HeaderSize + emptySize }

// Encode writes the body.
func (*EchoRequest) Encode(msg []byte) { encodeEmpty(msg) }

// Decode reads the body.
func (*EchoRequest) Decode(msg []byte) error { return decodeEmpty(msg, "ECHO request") }

// EchoResponse answers ECHO (MS-SMB2 2.2.29).
type EchoResponse struct{}

// Size of header and body.
func (*EchoResponse) Size() int { return HeaderSize + emptySize }

// Encode writes the body.
func (*EchoResponse) Encode(msg []byte) { encodeEmpty(msg) }

// Decode reads the body.
func (*EchoResponse) Decode(msg []byte) error { return decodeEmpty(msg, "ECHO response") }
