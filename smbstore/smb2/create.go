package smb2

// CreateRequest opens or creates a file, folder or pipe (MS-SMB2 2.2.13).
type CreateRequest struct {
	SecurityFlags        uint8 // reserved
	RequestedOplockLevel OplockLevel
	ImpersonationLevel   ImpersonationLevel
	SmbCreateFlags       uint64 // reserved
	DesiredAccess        AccessMask
	FileAttributes       uint32 // MS-FSCC 2.6
	ShareAccess          ShareAccess
	CreateDisposition    CreateDisposition
	CreateOptions        CreateOptions
	Name                 string // relative to the share, '\' between components
	Contexts             []CreateContext
}

const createRequestFixed = 56

// Size of header and body. The body has one byte of buffer when there is neither
// name nor context.
func (r *CreateRequest) Size() int {
	n := HeaderSize + createRequestFixed + SizeUTF16(r.Name)
	if len(r.Contexts) > 0 {
		n = Align8(n) + createContextsSize(r.Contexts)
	}
	return max(n, HeaderSize+createRequestFixed+1)
}

// Encode writes the body.
func (r *CreateRequest) Encode(msg []byte) {
	const nameOff = HeaderSize + createRequestFixed
	name := SizeUTF16(r.Name)
	contexts := createContextsSize(r.Contexts)
	w := putBody(msg, 57)
	w.u8(r.SecurityFlags)
	w.u8(uint8(r.RequestedOplockLevel))
	w.u32(uint32(r.ImpersonationLevel))
	w.u64(r.SmbCreateFlags)
	w.u64(0)
	w.u32(uint32(r.DesiredAccess))
	w.u32(r.FileAttributes)
	w.u32(uint32(r.ShareAccess))
	w.u32(uint32(r.CreateDisposition))
	w.u32(uint32(r.CreateOptions))
	w.u16(nameOff)
	w.u16(uint16(name))
	w.u32(uint32(offsetIf(contexts, Align8(nameOff+name))))
	w.u32(uint32(contexts))
	w.text(r.Name)
	if contexts > 0 {
		w.padTo(Align8(w.off))
		w.createContexts(r.Contexts)
	} else if name == 0 {
		w.u8(0)
	}
}

// Decode reads the body.
func (r *CreateRequest) Decode(msg []byte) error {
	d := body(msg, "CREATE request", 57, createRequestFixed)
	*r = CreateRequest{
		SecurityFlags:        d.u8(),
		RequestedOplockLevel: OplockLevel(d.u8()),
		ImpersonationLevel:   ImpersonationLevel(d.u32()),
		SmbCreateFlags:       d.u64(),
	}
	d.skip(8)
	r.DesiredAccess = AccessMask(d.u32())
	r.FileAttributes = d.u32()
	r.ShareAccess = ShareAccess(d.u32())
	r.CreateDisposition = CreateDisposition(d.u32())
	r.CreateOptions = CreateOptions(d.u32())
	nameOff := uint32(d.u16())
	r.Name = d.text("Name", nameOff, uint32(d.u16()))
	off := d.u32()
	r.Contexts = d.createContexts(off, d.u32())
	return d.err
}

// CreateFlags of a CREATE response, SMB 3.x (MS-SMB2 2.2.14).
type CreateFlags uint8

// CreateFlagReparsePoint says that the last component is a reparse point.
const CreateFlagReparsePoint CreateFlags = 0x01

// CreateResponse describes what was opened (MS-SMB2 2.2.14).
type CreateResponse struct {
	OplockLevel    OplockLevel
	Flags          CreateFlags
	CreateAction   CreateAction
	CreationTime   Filetime
	LastAccessTime Filetime
	LastWriteTime  Filetime
	ChangeTime     Filetime
	AllocationSize uint64
	EndOfFile      uint64
	FileAttributes uint32
	FileID         FileID
	Contexts       []CreateContext
}

const createResponseFixed = 88

// Size of header and body.
func (r *CreateResponse) Size() int {
	return HeaderSize + createResponseFixed + createContextsSize(r.Contexts)
}

// Encode writes the body.
func (r *CreateResponse) Encode(msg []byte) {
	contexts := createContextsSize(r.Contexts)
	w := putBody(msg, 89)
	w.u8(uint8(r.OplockLevel))
	w.u8(uint8(r.Flags))
	w.u32(uint32(r.CreateAction))
	w.u64(uint64(r.CreationTime))
	w.u64(uint64(r.LastAccessTime))
	w.u64(uint64(r.LastWriteTime))
	w.u64(uint64(r.ChangeTime))
	w.u64(r.AllocationSize)
	w.u64(r.EndOfFile)
	w.u32(r.FileAttributes)
	w.u32(0)
	w.fileID(r.FileID)
	w.u32(uint32(offsetIf(contexts, HeaderSize+createResponseFixed)))
	w.u32(uint32(contexts))
	w.createContexts(r.Contexts)
}

// Decode reads the body.
func (r *CreateResponse) Decode(msg []byte) error {
	d := body(msg, "CREATE response", 89, createResponseFixed)
	*r = CreateResponse{
		OplockLevel:    OplockLevel(d.u8()),
		Flags:          CreateFlags(d.u8()),
		CreateAction:   CreateAction(d.u32()),
		CreationTime:   Filetime(d.u64()),
		LastAccessTime: Filetime(d.u64()),
		LastWriteTime:  Filetime(d.u64()),
		ChangeTime:     Filetime(d.u64()),
		AllocationSize: d.u64(),
		EndOfFile:      d.u64(),
		FileAttributes: d.u32(),
	}
	d.skip(4)
	r.FileID = d.fileID()
	off := d.u32()
	r.Contexts = d.createContexts(off, d.u32())
	return d.err
}
