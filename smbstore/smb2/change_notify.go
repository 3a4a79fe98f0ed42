package smb2

// ChangeNotifyFlags (MS-SMB2 2.2.35).
type ChangeNotifyFlags uint16

// ChangeNotifyWatchTree watches everything below the folder.
const ChangeNotifyWatchTree ChangeNotifyFlags = 0x0001

// CompletionFilter are the changes to wait for (MS-SMB2 2.2.35).
type CompletionFilter uint32

// Changes to wait for.
const (
	NotifyChangeFileName    CompletionFilter = 0x00000001
	NotifyChangeDirName     CompletionFilter = 0x00000002
	NotifyChangeAttributes  CompletionFilter = 0x00000004
	NotifyChangeSize        CompletionFilter = 0x00000008
	NotifyChangeLastWrite   CompletionFilter = 0x00000010
	NotifyChangeLastAccess  CompletionFilter = 0x00000020
	NotifyChangeCreation    CompletionFilter = 0x00000040
	NotifyChangeEA          CompletionFilter = 0x00000080
	NotifyChangeSecurity    CompletionFilter = 0x00000100
	NotifyChangeStreamName  CompletionFilter = 0x00000200
	NotifyChangeStreamSize  CompletionFilter = 0x00000400
	NotifyChangeStreamWrite CompletionFilter = 0x00000800
)

// ChangeNotifyRequest waits for changes in a folder (MS-SMB2 2.2.35).
type ChangeNotifyRequest struct {
	Flags              ChangeNotifyFlags
	OutputBufferLength uint32 // bytes
	FileID             FileID
	CompletionFilter   CompletionFilter
}

const changeNotifyFixed = 32

// Size of header and body.
func (*ChangeNotifyRequest) Size() int { return HeaderSize + changeNotifyFixed }

// Encode writes the body.
func (r *ChangeNotifyRequest) Encode(msg []byte) {
	w := putBody(msg, 32)
	w.u16(uint16(r.Flags))
	w.u32(r.OutputBufferLength)
	w.fileID(r.FileID)
	w.u32(uint32(r.CompletionFilter))
	w.u32(0)
}

// Decode reads the body.
func (r *ChangeNotifyRequest) Decode(msg []byte) error {
	d := body(msg, "CHANGE_NOTIFY request", 32, changeNotifyFixed)
	*r = ChangeNotifyRequest{
		Flags:              ChangeNotifyFlags(d.u16()),
		OutputBufferLength: d.u32(),
		FileID:             d.fileID(),
		CompletionFilter:   CompletionFilter(d.u32()),
	}
	return d.err
}

// ChangeNotifyResponse carries changes (MS-SMB2 2.2.36).
type ChangeNotifyResponse struct {
	Output []byte // a list of FILE_NOTIFY_INFORMATION (MS-FSCC 2.7.1)
}

// Size of header and body.
func (r *ChangeNotifyResponse) Size() int { return OutputOffset + len(r.Output) }

// Encode writes the body.
func (r *ChangeNotifyResponse) Encode(msg []byte) { encodeOutput(msg, r.Output) }

// Decode reads the body.
func (r *ChangeNotifyResponse) Decode(msg []byte) (err error) {
	r.Output, err = decodeOutput(msg, "CHANGE_NOTIFY response")
	return err
}
