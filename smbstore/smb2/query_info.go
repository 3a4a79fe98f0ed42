package smb2

// QueryInfoFlags of a FileFullEaInformation query (MS-SMB2 2.2.37).
type QueryInfoFlags uint32

// Flags of QUERY_INFO.
const (
	QueryInfoRestartScan       QueryInfoFlags = 0x00000001
	QueryInfoReturnSingleEntry QueryInfoFlags = 0x00000002
	QueryInfoIndexSpecified    QueryInfoFlags = 0x00000004
)

// QueryInfoRequest asks about a file, its volume, security or quota (MS-SMB2 2.2.37).
type QueryInfoRequest struct {
	InfoType              InfoType
	FileInfoClass         uint8               // MS-FSCC 2.4, 2.5
	OutputBufferLength    uint32              // bytes
	AdditionalInformation SecurityInformation // an EA index for FileFullEaInformation
	Flags                 QueryInfoFlags
	FileID                FileID
	Input                 []byte
}

const queryInfoFixed = 40

// Size of header and body. The body has one byte of buffer without Input.
func (r *QueryInfoRequest) Size() int { return HeaderSize + queryInfoFixed + max(1, len(r.Input)) }

// Encode writes the body.
func (r *QueryInfoRequest) Encode(msg []byte) {
	w := putBody(msg, 41)
	w.u8(uint8(r.InfoType))
	w.u8(r.FileInfoClass)
	w.u32(r.OutputBufferLength)
	w.u16(uint16(offsetIf(len(r.Input), HeaderSize+queryInfoFixed)))
	w.u16(0)
	w.u32(uint32(len(r.Input)))
	w.u32(uint32(r.AdditionalInformation))
	w.u32(uint32(r.Flags))
	w.fileID(r.FileID)
	if len(r.Input) == 0 {
		w.u8(0)
	}
	w.bytes(r.Input)
}

// Decode reads the body.
func (r *QueryInfoRequest) Decode(msg []byte) error {
	d := body(msg, "QUERY_INFO request", 41, queryInfoFixed)
	*r = QueryInfoRequest{InfoType: InfoType(d.u8()), FileInfoClass: d.u8(), OutputBufferLength: d.u32()}
	off := uint32(d.u16())
	d.skip(2)
	r.Input = d.view("InputBuffer", off, d.u32())
	r.AdditionalInformation = SecurityInformation(d.u32())
	r.Flags = QueryInfoFlags(d.u32())
	r.FileID = d.fileID()
	return d.err
}

// QueryInfoResponse carries the information (MS-SMB2 2.2.38).
type QueryInfoResponse struct {
	Output []byte
}

// Size of header and body.
func (r *QueryInfoResponse) Size() int { return OutputOffset + len(r.Output) }

// Encode writes the body.
func (r *QueryInfoResponse) Encode(msg []byte) { encodeOutput(msg, r.Output) }

// Decode reads the body.
func (r *QueryInfoResponse) Decode(msg []byte) (err error) {
	r.Output, err = decodeOutput(msg, "QUERY_INFO response")
	return err
}
