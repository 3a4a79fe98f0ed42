package smb2

// FlushRequest puts an open's data on stable storage (MS-SMB2 2.2.17).
type FlushRequest struct {
	FileID FileID
}

const flushRequestFixed = 24

// Size of header and body.
func (*FlushRequest) Size() int { return HeaderSize + flushRequestFixed }

// Encode writes the body.
func (r *FlushRequest) Encode(msg []byte) {
	w := putBody(msg, 24)
	w.zero(6)
	w.fileID(r.FileID)
}

// Decode reads the body.
func (r *FlushRequest) Decode(msg []byte) error {
	d := body(msg, "FLUSH request", 24, flushRequestFixed)
	d.skip(6)
	r.FileID = d.fileID()
	return d.err
}

// FlushResponse answers FLUSH (MS-SMB2 2.2.18).
type FlushResponse struct{}

// Size of header and body.
func (*FlushResponse) Size() int { return HeaderSize + emptySize }

// Encode writes the body.
func (*FlushResponse) Encode(msg []byte) { encodeEmpty(msg) }

// Decode reads the body.
func (*FlushResponse) Decode(msg []byte) error { return decodeEmpty(msg, "FLUSH response") }
