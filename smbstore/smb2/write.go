package smb2

// WriteFlags of a WRITE request (MS-SMB2 2.2.21).
type WriteFlags uint32

// Write flags.
const (
	WriteFlagWriteThrough    WriteFlags = 0x00000001 // SMB 2.1 and later
	WriteFlagWriteUnbuffered WriteFlags = 0x00000002 // SMB 3.0.2 and later
)

// WriteRequest carries data (MS-SMB2 2.2.21). Encode takes Length and leaves the
// payload, which follows directly at Size(), to the caller; Data is what Decode
// found.
type WriteRequest struct {
	Length         uint32 // bytes of payload
	Offset         uint64 // into the file, bytes
	FileID         FileID
	Channel        Channel
	RemainingBytes uint32
	Flags          WriteFlags
	ChannelInfo    []byte // at most MaxWriteChannelInfo bytes
	Data           []byte // Decode only: Length bytes
}

// WriteRequestSize is the size of header and fixed part, bytes.
const WriteRequestSize = HeaderSize + writeRequestFixed

const writeRequestFixed = 48

// MaxWriteChannelInfo bounds ChannelInfo, bytes: the payload behind it must begin
// where a 16-bit offset reaches.
const MaxWriteChannelInfo = 0xFFF8 - WriteRequestSize

// Size of header, fixed part and ChannelInfo, without the payload.
func (r *WriteRequest) Size() int { return WriteRequestSize + Align8(len(r.ChannelInfo)) }

// Encode writes everything but the payload. It does not allocate.
func (r *WriteRequest) Encode(msg []byte) {
	w := putBody(msg, 49)
	w.u16(uint16(r.Size()))
	w.u32(r.Length)
	w.u64(r.Offset)
	w.fileID(r.FileID)
	w.u32(uint32(r.Channel))
	w.u32(r.RemainingBytes)
	w.u16(uint16(offsetIf(len(r.ChannelInfo), WriteRequestSize)))
	w.u16(uint16(len(r.ChannelInfo)))
	w.u32(uint32(r.Flags))
	w.bytes(r.ChannelInfo)
	w.padTo(r.Size())
}

// Decode reads the body; Data is the payload. It does not allocate.
func (r *WriteRequest) Decode(msg []byte) error {
	d := body(msg, "WRITE request", 49, writeRequestFixed)
	off := uint32(d.u16())
	*r = WriteRequest{
		Length:         d.u32(),
		Offset:         d.u64(),
		FileID:         d.fileID(),
		Channel:        Channel(d.u32()),
		RemainingBytes: d.u32(),
	}
	infoOff := uint32(d.u16())
	r.ChannelInfo = d.view("WriteChannelInfo", infoOff, uint32(d.u16()))
	if len(r.ChannelInfo) > MaxWriteChannelInfo {
		d.fail("WriteChannelInfo", ErrValue)
	}
	r.Flags = WriteFlags(d.u32())
	r.Data = d.view("Data", off, r.Length)
	return d.err
}

// WriteResponse says how much was written (MS-SMB2 2.2.22).
type WriteResponse struct {
	Count     uint32 // bytes
	Remaining uint32 // reserved
}

const writeResponseFixed = 16

// Size of header and body.
func (*WriteResponse) Size() int { return HeaderSize + writeResponseFixed }

// Encode writes the body. It does not allocate.
func (r *WriteResponse) Encode(msg []byte) {
	w := putBody(msg, 17)
	w.u16(0)
	w.u32(r.Count)
	w.u32(r.Remaining)
	w.u32(0)
}

// Decode reads the body. It does not allocate.
func (r *WriteResponse) Decode(msg []byte) error {
	d := body(msg, "WRITE response", 17, writeResponseFixed)
	d.skip(2)
	*r = WriteResponse{Count: d.u32(), Remaining: d.u32()}
	return d.err
}
