package fscc

// File information classes that are only set, and those of pipes (MS-FSCC 2.4).

// AllocationInfo is FILE_ALLOCATION_INFORMATION (MS-FSCC 2.4.4): bytes to reserve.
type AllocationInfo struct{ AllocationSize int64 }

func (AllocationInfo) Size() int { return 8 }

func (i *AllocationInfo) Encode(dst []byte) { w := writer{b: dst}; w.i64(i.AllocationSize) }

// Decode refuses a negative size.
func (i *AllocationInfo) Decode(b []byte) error {
	r := reader{b: b}
	i.AllocationSize = r.size()
	return r.done("FILE_ALLOCATION_INFORMATION")
}

// EndOfFileInfo is FILE_END_OF_FILE_INFORMATION (MS-FSCC 2.4.14), in bytes.
type EndOfFileInfo struct{ EndOfFile int64 }

func (EndOfFileInfo) Size() int { return 8 }

func (i *EndOfFileInfo) Encode(dst []byte) { w := writer{b: dst}; w.i64(i.EndOfFile) }

// Decode refuses a negative size.
func (i *EndOfFileInfo) Decode(b []byte) error {
	r := reader{b: b}
	i.EndOfFile = r.size()
	return r.done("FILE_END_OF_FILE_INFORMATION")
}

// ValidDataLengthInfo is FILE_VALID_DATA_LENGTH_INFORMATION (MS-FSCC 2.4.50), in bytes.
type ValidDataLengthInfo struct{ ValidDataLength int64 }

func (ValidDataLengthInfo) Size() int { return 8 }

func (i *ValidDataLengthInfo) Encode(dst []byte) { w := writer{b: dst}; w.i64(i.ValidDataLength) }

// Decode refuses a negative length.
func (i *ValidDataLengthInfo) Decode(b []byte) error {
	r := reader{b: b}
	i.ValidDataLength = r.size()
	return r.done("FILE_VALID_DATA_LENGTH_INFORMATION")
}

// DispositionInfo is FILE_DISPOSITION_INFORMATION (MS-FSCC 2.4.11).
type DispositionInfo struct{ DeletePending bool }

func (DispositionInfo) Size() int { return 1 }

func (i *DispositionInfo) Encode(dst []byte) { w := writer{b: dst}; w.boolean(i.DeletePending) }

func (i *DispositionInfo) Decode(b []byte) error {
	r := reader{b: b}
	i.DeletePending = r.boolean()
	return r.done("FILE_DISPOSITION_INFORMATION")
}

// Flags of DispositionInfoEx (MS-FSCC 2.4.12).
const (
	FILE_DISPOSITION_DELETE                    = 0x00000001
	FILE_DISPOSITION_POSIX_SEMANTICS           = 0x00000002
	FILE_DISPOSITION_FORCE_IMAGE_SECTION_CHECK = 0x00000004
	FILE_DISPOSITION_ON_CLOSE                  = 0x00000008
	FILE_DISPOSITION_IGNORE_READONLY_ATTRIBUTE = 0x00000010
)

// DispositionInfoEx is FILE_DISPOSITION_INFORMATION_EX (MS-FSCC 2.4.12).
type DispositionInfoEx struct{ Flags uint32 }

func (DispositionInfoEx) Size() int { return 4 }

func (i *DispositionInfoEx) Encode(dst []byte) { w := writer{b: dst}; w.u32(i.Flags) }

func (i *DispositionInfoEx) Decode(b []byte) error {
	r := reader{b: b}
	i.Flags = r.u32()
	return r.done("FILE_DISPOSITION_INFORMATION_EX")
}

// Pipe modes, types and states (MS-FSCC 2.4.37, 2.4.38).
const (
	FILE_PIPE_BYTE_STREAM_MODE = 0
	FILE_PIPE_MESSAGE_MODE     = 1

	FILE_PIPE_QUEUE_OPERATION    = 0
	FILE_PIPE_COMPLETE_OPERATION = 1

	FILE_PIPE_BYTE_STREAM_TYPE = 0
	FILE_PIPE_MESSAGE_TYPE     = 1

	FILE_PIPE_INBOUND     = 0
	FILE_PIPE_OUTBOUND    = 1
	FILE_PIPE_FULL_DUPLEX = 2

	FILE_PIPE_DISCONNECTED_STATE = 1
	FILE_PIPE_LISTENING_STATE    = 2
	FILE_PIPE_CONNECTED_STATE    = 3
	FILE_PIPE_CLOSING_STATE      = 4

	FILE_PIPE_CLIENT_END = 0
	FILE_PIPE_SERVER_END = 1
)

// PipeInfo is FILE_PIPE_INFORMATION (MS-FSCC 2.4.37), both ways.
type PipeInfo struct {
	ReadMode       uint32 // FILE_PIPE_BYTE_STREAM_MODE, FILE_PIPE_MESSAGE_MODE
	CompletionMode uint32 // FILE_PIPE_QUEUE_OPERATION, FILE_PIPE_COMPLETE_OPERATION
}

func (PipeInfo) Size() int { return 8 }

func (i *PipeInfo) Encode(dst []byte) {
	w := writer{b: dst}
	w.u32(i.ReadMode)
	w.u32(i.CompletionMode)
}

// Decode refuses modes that are not defined.
func (i *PipeInfo) Decode(b []byte) error {
	r := reader{b: b}
	*i = PipeInfo{r.u32(), r.u32()}
	r.check(i.ReadMode <= FILE_PIPE_MESSAGE_MODE && i.CompletionMode <= FILE_PIPE_COMPLETE_OPERATION)
	return r.done("FILE_PIPE_INFORMATION")
}

// PipeLocalInfo is FILE_PIPE_LOCAL_INFORMATION (MS-FSCC 2.4.38). Quotas in bytes.
type PipeLocalInfo struct {
	Type                uint32 // FILE_PIPE_BYTE_STREAM_TYPE, FILE_PIPE_MESSAGE_TYPE
	Configuration       uint32 // FILE_PIPE_INBOUND and so on
	MaximumInstances    uint32
	CurrentInstances    uint32
	InboundQuota        uint32
	ReadDataAvailable   uint32
	OutboundQuota       uint32
	WriteQuotaAvailable uint32
	State               uint32 // FILE_PIPE_CONNECTED_STATE and so on
	End                 uint32 // FILE_PIPE_CLIENT_END, FILE_PIPE_SERVER_END
}

func (PipeLocalInfo) Size() int { return 40 }

func (i *PipeLocalInfo) Encode(dst []byte) {
	w := writer{b: dst}
	for _, v := range [...]uint32{i.Type, i.Configuration, i.MaximumInstances, i.CurrentInstances, i.InboundQuota,
		i.ReadDataAvailable, i.OutboundQuota, i.WriteQuotaAvailable, i.State, i.End} {
		w.u32(v)
	}
}

func (i *PipeLocalInfo) Decode(b []byte) error {
	r := reader{b: b}
	*i = PipeLocalInfo{r.u32(), r.u32(), r.u32(), r.u32(), r.u32(), r.u32(), r.u32(), r.u32(), r.u32(), r.u32()}
	return r.done("FILE_PIPE_LOCAL_INFORMATION")
}
