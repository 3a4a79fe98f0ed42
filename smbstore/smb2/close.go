package smb2

// CloseFlags of CLOSE (MS-SMB2 2.2.15).
type CloseFlags uint16

// CloseFlagPostqueryAttrib asks for the attributes, or says that they are there.
const CloseFlagPostqueryAttrib CloseFlags = 0x0001

// CloseRequest closes an open (MS-SMB2 2.2.15).
type CloseRequest struct {
	Flags  CloseFlags
	FileID FileID
}

const closeRequestFixed = 24

// Size of header and body.
func (*CloseRequest) Size() int { return HeaderSize + closeRequestFixed }

// Encode writes the body.
func (r *CloseRequest) Encode(msg []byte) {
	w := putBody(msg, 24)
	w.u16(uint16(r.Flags))
	w.u32(0)
	w.fileID(r.FileID)
}

// Decode reads the body.
func (r *CloseRequest) Decode(msg []byte) error {
	d := body(msg, "CLOSE request", 24, closeRequestFixed)
	*r = CloseRequest{Flags: CloseFlags(d.u16())}
	d.skip(4)
	r.FileID = d.fileID()
	return d.err
}

// CloseResponse answers CLOSE; with CloseFlagPostqueryAttrib the rest is set (MS-SMB2 2.2.16).
type CloseResponse struct {
	Flags          CloseFlags
	CreationTime   Filetime
	LastAccessTime Filetime
	LastWriteTime  Filetime
	ChangeTime     Filetime
	AllocationSize uint64
	EndOfFile      uint64
	FileAttributes uint32
}

const closeResponseFixed = 60

// Size of header and body.
func (*CloseResponse) Size() int { return HeaderSize + closeResponseFixed }

// Encode writes the body.
func (r *CloseResponse) Encode(msg []byte) {
	w := putBody(msg, 60)
	w.u16(uint16(r.Flags))
	w.u32(0)
	w.u64(uint64(r.CreationTime))
	w.u64(uint64(r.LastAccessTime))
	w.u64(uint64(r.LastWriteTime))
	w.u64(uint64(r.ChangeTime))
	w.u64(r.AllocationSize)
	w.u64(r.EndOfFile)
	w.u32(r.FileAttributes)
}

// Decode reads the body.
func (r *CloseResponse) Decode(msg []byte) error {
	d := body(msg, "CLOSE response", 60, closeResponseFixed)
	*r = CloseResponse{Flags: CloseFlags(d.u16())}
	d.skip(4)
	r.CreationTime = Filetime(d.u64())
	r.LastAccessTime = Filetime(d.u64())
	r.LastWriteTime = Filetime(d.u64())
	r.ChangeTime = Filetime(d.u64())
	r.AllocationSize = d.u64()
	r.EndOfFile = d.u64()
	r.FileAttributes = d.u32()
	return d.err
}
