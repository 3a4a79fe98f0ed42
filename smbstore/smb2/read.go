package smb2

// ReadFlags of a READ request, SMB 3.0.2 and 3.1.1 (MS-SMB2 2.2.19).
type ReadFlags uint8

// Read flags.
const (
	ReadFlagReadUnbuffered    ReadFlags = 0x01
	ReadFlagRequestCompressed ReadFlags = 0x02
)

// ReadRequest asks for data (MS-SMB2 2.2.19).
type ReadRequest struct {
	Padding        uint8 // where the client would like the data, bytes from the header
	Flags          ReadFlags
	Length         uint32 // bytes
	Offset         uint64 // into the file, bytes
	FileID         FileID
	MinimumCount   uint32 // bytes; fewer fail the request with STATUS_END_OF_FILE
	Channel        Channel
	RemainingBytes uint32
	ChannelInfo    []byte // at most 65535 bytes
}

const readRequestFixed = 48

// Size of header and body. The body has one byte of buffer without ChannelInfo.
func (r *ReadRequest) Size() int { return HeaderSize + readRequestFixed + max(1, len(r.ChannelInfo)) }

// Encode writes the body. It does not allocate.
func (r *ReadRequest) Encode(msg []byte) {
	w := putBody(msg, 49)
	w.u8(r.Padding)
	w.u8(uint8(r.Flags))
	w.u32(r.Length)
	w.u64(r.Offset)
	w.fileID(r.FileID)
	w.u32(r.MinimumCount)
	w.u32(uint32(r.Channel))
	w.u32(r.RemainingBytes)
	w.u16(uint16(offsetIf(len(r.ChannelInfo), HeaderSize+readRequestFixed)))
	w.u16(uint16(len(r.ChannelInfo)))
	if len(r.ChannelInfo) == 0 {
		w.u8(0)
	}
	w.bytes(r.ChannelInfo)
}

// Decode reads the body. It does not allocate.
func (r *ReadRequest) Decode(msg []byte) error {
	d := body(msg, "READ request", 49, readRequestFixed)
	*r = ReadRequest{
		Padding:        d.u8(),
		Flags:          ReadFlags(d.u8()),
		Length:         d.u32(),
		Offset:         d.u64(),
		FileID:         d.fileID(),
		MinimumCount:   d.u32(),
		Channel:        Channel(d.u32()),
		RemainingBytes: d.u32(),
	}
	off := uint32(d.u16())
	r.ChannelInfo = d.view("ReadChannelInfo", off, uint32(d.u16()))
	return d.err
}

// ReadResponseFlags of a READ response, SMB 3.1.1 (MS-SMB2 2.2.20).
type ReadResponseFlags uint32

// ReadResponseRDMATransform says that the data is an SMB2_RDMA_TRANSFORM.
const ReadResponseRDMATransform ReadResponseFlags = 0x00000001

// ReadResponse carries data (MS-SMB2 2.2.20). Encode takes DataLength and leaves
// the payload, which follows directly at Size(), to the caller; Data is what
// Decode found.
type ReadResponse struct {
	DataLength    uint32 // bytes of payload
	DataRemaining uint32
	Flags         ReadResponseFlags
	Data          []byte // Decode only: DataLength bytes
}

// ReadResponseSize is the size of header and fixed part: where the payload
// begins that we send, bytes.
const ReadResponseSize = HeaderSize + readResponseFixed

const readResponseFixed = 16

// Size of header and fixed part, without the payload.
func (*ReadResponse) Size() int { return ReadResponseSize }

// Encode writes the fixed part. It does not allocate.
func (r *ReadResponse) Encode(msg []byte) {
	w := putBody(msg, 17)
	w.u8(ReadResponseSize)
	w.u8(0)
	w.u32(r.DataLength)
	w.u32(r.DataRemaining)
	w.u32(uint32(r.Flags))
}

// Decode reads the body; Data is the payload. It does not allocate.
func (r *ReadResponse) Decode(msg []byte) error {
	d := body(msg, "READ response", 17, readResponseFixed)
	off := uint32(d.u8())
	d.skip(1)
	*r = ReadResponse{DataLength: d.u32(), DataRemaining: d.u32(), Flags: ReadResponseFlags(d.u32())}
	r.Data = d.view("Data", off, r.DataLength)
	return d.err
}
