package smb2

// OutputOffset is where the output of a QUERY_DIRECTORY, QUERY_INFO or
// CHANGE_NOTIFY response begins that we send, bytes from the header. A handler
// may build it there: Encode does not move what is in place already.
const OutputOffset = HeaderSize + outputFixed

const outputFixed = 8

func encodeOutput(msg, output []byte) {
	w := putBody(msg, 9)
	w.u16(uint16(offsetIf(len(output), OutputOffset)))
	w.u32(uint32(len(output)))
	w.bytes(output)
}

func decodeOutput(msg []byte, what string) ([]byte, error) {
	d := body(msg, what, 9, outputFixed)
	off := uint32(d.u16())
	output := d.view("OutputBuffer", off, d.u32())
	return output, d.err
}

// QueryDirectoryFlags (MS-SMB2 2.2.33).
type QueryDirectoryFlags uint8

// Flags of QUERY_DIRECTORY.
const (
	QueryDirectoryRestartScans      QueryDirectoryFlags = 0x01
	QueryDirectoryReturnSingleEntry QueryDirectoryFlags = 0x02
	QueryDirectoryIndexSpecified    QueryDirectoryFlags = 0x04
	QueryDirectoryReopen            QueryDirectoryFlags = 0x10
)

// QueryDirectoryRequest asks for a folder's entries (MS-SMB2 2.2.33).
type QueryDirectoryRequest struct {
	FileInformationClass uint8 // MS-FSCC 2.4
	Flags                QueryDirectoryFlags
	FileIndex            uint32
	FileID               FileID
	FileName             string // the pattern
	OutputBufferLength   uint32 // bytes
}

const queryDirectoryFixed = 32

// Size of header and body.
func (r *QueryDirectoryRequest) Size() int {
	return HeaderSize + queryDirectoryFixed + SizeUTF16(r.FileName)
}

// Encode writes the body.
func (r *QueryDirectoryRequest) Encode(msg []byte) {
	n := SizeUTF16(r.FileName)
	w := putBody(msg, 33)
	w.u8(r.FileInformationClass)
	w.u8(uint8(r.Flags))
	w.u32(r.FileIndex)
	w.fileID(r.FileID)
	w.u16(uint16(offsetIf(n, HeaderSize+queryDirectoryFixed)))
	w.u16(uint16(n))
	w.u32(r.OutputBufferLength)
	w.text(r.FileName)
}

// Decode reads the body.
func (r *QueryDirectoryRequest) Decode(msg []byte) error {
	d := body(msg, "QUERY_DIRECTORY request", 33, queryDirectoryFixed)
	*r = QueryDirectoryRequest{
		FileInformationClass: d.u8(),
		Flags:                QueryDirectoryFlags(d.u8()),
		FileIndex:            d.u32(),
		FileID:               d.fileID(),
	}
	off := uint32(d.u16())
	r.FileName = d.text("FileName", off, uint32(d.u16()))
	r.OutputBufferLength = d.u32()
	return d.err
}

// QueryDirectoryResponse carries entries (MS-SMB2 2.2.34).
type QueryDirectoryResponse struct {
	Output []byte // a list of the class asked for (MS-FSCC 2.4)
}

// Size of header and body.
func (r *QueryDirectoryResponse) Size() int { return OutputOffset + len(r.Output) }

// Encode writes the body.
func (r *QueryDirectoryResponse) Encode(msg []byte) { encodeOutput(msg, r.Output) }

// Decode reads the body.
func (r *QueryDirectoryResponse) Decode(msg []byte) (err error) {
	r.Output, err = decodeOutput(msg, "QUERY_DIRECTORY response")
	return err
}
