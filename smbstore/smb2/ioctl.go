package smb2

// IoctlFlags of an IOCTL (MS-SMB2 2.2.31).
type IoctlFlags uint32

// IoctlIsFSCTL says that CtlCode is an FSCTL; servers refuse everything else.
const IoctlIsFSCTL IoctlFlags = 0x00000001

// IoctlRequest asks for a control code (MS-SMB2 2.2.31).
type IoctlRequest struct {
	CtlCode           CtlCode
	FileID            FileID // all ones where the code needs no open
	Input             []byte
	MaxInputResponse  uint32 // bytes
	Output            []byte // no code uses it; a server fails one that is not empty
	MaxOutputResponse uint32 // bytes
	Flags             IoctlFlags
}

const (
	ioctlRequestFixed  = 56
	ioctlResponseFixed = 48
)

// ioctlOffsets places input and output behind a fixed part: either may be empty.
func ioctlOffsets(fixed, input, output int) (inOff, outOff, size int) {
	inOff = HeaderSize + fixed
	size = inOff + input
	if output > 0 {
		outOff = Align8(size)
		size = outOff + output
	}
	return inOff, outOff, size
}

// Size of header and body. The body has one byte of buffer when there is neither
// input nor output.
func (r *IoctlRequest) Size() int {
	_, _, n := ioctlOffsets(ioctlRequestFixed, len(r.Input), len(r.Output))
	return max(n, HeaderSize+ioctlRequestFixed+1)
}

// Encode writes the body.
func (r *IoctlRequest) Encode(msg []byte) {
	in, out, _ := ioctlOffsets(ioctlRequestFixed, len(r.Input), len(r.Output))
	w := putBody(msg, 57)
	w.u16(0)
	w.u32(uint32(r.CtlCode))
	w.fileID(r.FileID)
	w.u32(uint32(offsetIf(len(r.Input), in)))
	w.u32(uint32(len(r.Input)))
	w.u32(r.MaxInputResponse)
	w.u32(uint32(out))
	w.u32(uint32(len(r.Output)))
	w.u32(r.MaxOutputResponse)
	w.u32(uint32(r.Flags))
	w.u32(0)
	w.bytes(r.Input)
	if len(r.Output) > 0 {
		w.padTo(out)
		w.bytes(r.Output)
	}
	w.padTo(HeaderSize + ioctlRequestFixed + 1)
}

// Decode reads the body.
func (r *IoctlRequest) Decode(msg []byte) error {
	d := body(msg, "IOCTL request", 57, ioctlRequestFixed)
	d.skip(2)
	*r = IoctlRequest{CtlCode: CtlCode(d.u32()), FileID: d.fileID()}
	off := d.u32()
	r.Input = d.view("Input", off, d.u32())
	r.MaxInputResponse = d.u32()
	off = d.u32()
	r.Output = d.view("Output", off, d.u32())
	r.MaxOutputResponse = d.u32()
	r.Flags = IoctlFlags(d.u32())
	return d.err
}

// IoctlResponse carries what a control code returned (MS-SMB2 2.2.32). It is the
// body with STATUS_BUFFER_OVERFLOW too, and with STATUS_INVALID_PARAMETER of the
// copy-chunk codes (MS-SMB2 3.3.4.4).
type IoctlResponse struct {
	CtlCode CtlCode
	FileID  FileID
	Input   []byte
	Output  []byte
	Flags   IoctlFlags // reserved
}

// IoctlOutputOffset is where Encode puts Output when there is no Input, bytes:
// data that is there already is not moved.
const IoctlOutputOffset = HeaderSize + ioctlResponseFixed

func (r *IoctlResponse) offsets() (in, out, size int) {
	in, out, size = ioctlOffsets(ioctlResponseFixed, len(r.Input), len(r.Output))
	if out == 0 {
		out = Align8(size) // sent even for no output (MS-SMB2 3.3.5.15)
	}
	return in, out, size
}

// Size of header and body.
func (r *IoctlResponse) Size() int {
	_, _, n := r.offsets()
	return n
}

// Encode writes the body.
func (r *IoctlResponse) Encode(msg []byte) {
	in, out, _ := r.offsets()
	w := putBody(msg, 49)
	w.u16(0)
	w.u32(uint32(r.CtlCode))
	w.fileID(r.FileID)
	w.u32(uint32(in))
	w.u32(uint32(len(r.Input)))
	w.u32(uint32(out))
	w.u32(uint32(len(r.Output)))
	w.u32(uint32(r.Flags))
	w.u32(0)
	w.bytes(r.Input)
	if len(r.Output) > 0 {
		w.padTo(out)
		w.bytes(r.Output)
	}
}

// Decode reads the body.
func (r *IoctlResponse) Decode(msg []byte) error {
	d := body(msg, "IOCTL response", 49, ioctlResponseFixed)
	d.skip(2)
	*r = IoctlResponse{CtlCode: CtlCode(d.u32()), FileID: d.fileID()}
	off := d.u32()
	r.Input = d.view("Input", off, d.u32())
	off = d.u32()
	r.Output = d.view("Output", off, d.u32())
	r.Flags = IoctlFlags(d.u32())
	return d.err
}
