package smb2

// TreeDisconnectRequest ends a tree connect (MS-SMB2 2.2.11).
type TreeDisconnectRequest struct{}

// Size of header and body.
func (*TreeDisconnectRequest) Size() int { return HeaderSize + emptySize }

// Encode writes the body.
func (*TreeDisconnectRequest) Encode(msg []byte) { encodeEmpty(msg) }

// Decode reads the body.
func (*TreeDisconnectRequest) Decode(msg []byte) error {
	return decodeEmpty(msg, "TREE_DISCONNECT request")
}

// TreeDisconnectResponse answers TREE_DISCONNECT (MS-SMB2 2.2.12).
type TreeDisconnectResponse struct{}

// Size of header and body.
func (*TreeDisconnectResponse) Size() int { return HeaderSize + emptySize }

// Encode writes the body.
func (*TreeDisconnectResponse) Encode(msg []byte) { encodeEmpty(msg) }

// Decode reads the body.
func (*TreeDisconnectResponse) Decode(msg []byte) error {
	return decodeEmpty(msg, "TREE_DISCONNECT response")
}
