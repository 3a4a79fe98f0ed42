package smb2

// SetInfoRequest changes a file, its volume, security or quota (MS-SMB2 2.2.39).
type SetInfoRequest struct {
	InfoType              InfoType
	FileInfoClass         uint8 // MS-FSCC 2.4, 2.5
	AdditionalInformation SecurityInformation
	FileID                FileID
	Buffer                []byte
}

const setInfoFixed = 32

// Size of header and body.
func (r *SetInfoRequest) Size() int { return HeaderSize + setInfoFixed + len(r.Buffer) }

// Encode writes the body.
func (r *SetInfoRequest) Encode(msg []byte) {
	w := putBody(msg, 33)
	w.u8(uint8(r.InfoType))
	w.u8(r.FileInfoClass)
	w.u32(uint32(len(r.Buffer)))
	w.u16(HeaderSize + setInfoFixed)
	w.u16(0)
	w.u32(uint32(r.AdditionalInformation))
	w.fileID(r.FileID)
	w.bytes(r.Buffer)
}

// Decode reads the body.
func (r *SetInfoRequest) Decode(msg []byte) error {
	d := body(msg, "SET_INFO request", 33, setInfoFixed)
	*r = SetInfoRequest{InfoType: InfoType(d.u8()), FileInfoClass: d.u8()}
	n := d.u32()
	r.Buffer = d.view("Buffer", uint32(d.u16()), n)
	d.skip(2)
	r.AdditionalInformation = SecurityInformation(d.u32())
	r.FileID = d.fileID()
	return d.err
}

const setInfoResponseFixed = 2

// SetInfoResponse answers SET_INFO (MS-SMB2 2.2.40).
type SetInfoResponse struct{}

// Size of header and body.
func (*SetInfoResponse) Size() int { return HeaderSize + setInfoResponseFixed }

// Encode writes the body.
func (*SetInfoResponse) Encode(msg []byte) { putBody(msg, 2) }

// Decode reads the body.
func (*SetInfoResponse) Decode(msg []byte) error {
	d := body(msg, "SET_INFO response", 2, setInfoResponseFixed)
	return d.err
}
