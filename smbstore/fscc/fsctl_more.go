package fscc

// Checksum algorithms and flags of integrity information (MS-FSCC 2.3.20, 2.3.73).
const (
	CHECKSUM_TYPE_NONE      = 0x0000
	CHECKSUM_TYPE_CRC32     = 0x0001
	CHECKSUM_TYPE_CRC64     = 0x0002
	CHECKSUM_TYPE_UNCHANGED = 0xFFFF

	FSCTL_INTEGRITY_FLAG_CHECKSUM_ENFORCEMENT_OFF = 0x00000001
)

// GetIntegrity is FSCTL_GET_INTEGRITY_INFORMATION_BUFFER (MS-FSCC 2.3.20), the reply.
type GetIntegrity struct {
	Algorithm         uint16
	Flags             uint32
	ChecksumChunkSize uint32 // bytes
	ClusterSize       uint32 // bytes
}

func (GetIntegrity) Size() int { return 16 }

func (i *GetIntegrity) Encode(dst []byte) {
	w := writer{b: dst}
	w.u16(i.Algorithm)
	w.u16(0)
	w.u32(i.Flags)
	w.u32(i.ChecksumChunkSize)
	w.u32(i.ClusterSize)
}

func (i *GetIntegrity) Decode(b []byte) error {
	r := reader{b: b}
	i.Algorithm = r.u16()
	r.skip(2)
	i.Flags, i.ChecksumChunkSize, i.ClusterSize = r.u32(), r.u32(), r.u32()
	return r.done("FSCTL_GET_INTEGRITY_INFORMATION_BUFFER")
}

// SetIntegrity is FSCTL_SET_INTEGRITY_INFORMATION_BUFFER (MS-FSCC 2.3.73).
type SetIntegrity struct {
	Algorithm uint16
	Flags     uint32
}

func (SetIntegrity) Size() int { return 8 }

func (i *SetIntegrity) Encode(dst []byte) {
	w := writer{b: dst}
	w.u16(i.Algorithm)
	w.u16(0)
	w.u32(i.Flags)
}

// Decode refuses the reserved algorithms.
func (i *SetIntegrity) Decode(b []byte) error {
	r := reader{b: b}
	i.Algorithm = r.u16()
	r.skip(2)
	i.Flags = r.u32()
	r.check(i.Algorithm <= CHECKSUM_TYPE_CRC64 || i.Algorithm == CHECKSUM_TYPE_UNCHANGED)
	return r.done("FSCTL_SET_INTEGRITY_INFORMATION_BUFFER")
}

// CompressionState is the payload of FSCTL_GET_COMPRESSION and
// FSCTL_SET_COMPRESSION (MS-FSCC 2.3.18, 2.3.67).
type CompressionState struct{ Format uint16 } // COMPRESSION_FORMAT_NONE and so on

func (CompressionState) Size() int { return 2 }

func (i *CompressionState) Encode(dst []byte) { w := writer{b: dst}; w.u16(i.Format) }

// Decode refuses formats that are not defined.
func (i *CompressionState) Decode(b []byte) error {
	r := reader{b: b}
	i.Format = r.u16()
	r.check(i.Format <= COMPRESSION_FORMAT_LZNT1)
	return r.done("compression state")
}

// ObjectIDBuffer is FILE_OBJECTID_BUFFER type 1 (MS-FSCC 2.1.3.1): FSCTL_GET_OBJECT_ID
// and FSCTL_CREATE_OR_GET_OBJECT_ID.
type ObjectIDBuffer struct {
	ObjectID      GUID
	BirthVolumeID GUID
	BirthObjectID GUID
	DomainID      GUID
}

func (ObjectIDBuffer) Size() int { return 64 }

func (i *ObjectIDBuffer) Encode(dst []byte) {
	w := writer{b: dst}
	w.bytes(i.ObjectID[:])
	w.bytes(i.BirthVolumeID[:])
	w.bytes(i.BirthObjectID[:])
	w.bytes(i.DomainID[:])
}

func (i *ObjectIDBuffer) Decode(b []byte) error {
	r := reader{b: b}
	*i = ObjectIDBuffer{r.guid(), r.guid(), r.guid(), r.guid()}
	return r.done("FILE_OBJECTID_BUFFER")
}

// STORAGE_OFFLOAD_TOKEN_TYPE_ZERO_DATA is the well-known token of zeroes (MS-FSCC 2.1.11).
const STORAGE_OFFLOAD_TOKEN_TYPE_ZERO_DATA = 0xFFFF0001

// OffloadToken is STORAGE_OFFLOAD_TOKEN (MS-FSCC 2.1.11) as it stands on the wire, big-endian type first.
type OffloadToken [512]byte

// Type returns the token's type.
func (t *OffloadToken) Type() uint32 {
	return uint32(t[0])<<24 | uint32(t[1])<<16 | uint32(t[2])<<8 | uint32(t[3])
}

// OffloadReadInput is FSCTL_OFFLOAD_READ_INPUT (MS-FSCC 2.3.41).
type OffloadReadInput struct {
	Flags           uint32
	TokenTimeToLive uint32 // ms, 0 the server's choice
	FileOffset      uint64
	CopyLength      uint64 // bytes
}

const offloadReadInputSize = 32

func (OffloadReadInput) Size() int { return offloadReadInputSize }

func (i *OffloadReadInput) Encode(dst []byte) {
	w := writer{b: dst}
	w.u32(offloadReadInputSize)
	w.u32(i.Flags)
	w.u32(i.TokenTimeToLive)
	w.u32(0)
	w.u64(i.FileOffset)
	w.u64(i.CopyLength)
}

// Decode refuses a Size field that is not the structure's.
func (i *OffloadReadInput) Decode(b []byte) error {
	r := reader{b: b}
	r.check(r.u32() == offloadReadInputSize)
	i.Flags, i.TokenTimeToLive = r.u32(), r.u32()
	r.skip(4)
	i.FileOffset, i.CopyLength = r.u64(), r.u64()
	return r.done("FSCTL_OFFLOAD_READ_INPUT")
}

// OFFLOAD_READ_FLAG_ALL_ZERO_BEYOND_CURRENT_RANGE says the rest of the file reads as zeroes (MS-FSCC 2.3.42).
const OFFLOAD_READ_FLAG_ALL_ZERO_BEYOND_CURRENT_RANGE = 0x00000001

// OffloadReadOutput is FSCTL_OFFLOAD_READ_OUTPUT (MS-FSCC 2.3.42).
type OffloadReadOutput struct {
	Flags          uint32
	TransferLength uint64 // bytes the token stands for
	Token          OffloadToken
}

const offloadReadOutputSize = 528

func (OffloadReadOutput) Size() int { return offloadReadOutputSize }

func (i *OffloadReadOutput) Encode(dst []byte) {
	w := writer{b: dst}
	w.u32(offloadReadOutputSize)
	w.u32(i.Flags)
	w.u64(i.TransferLength)
	w.bytes(i.Token[:])
}

// Decode refuses a Size field that is not the structure's.
func (i *OffloadReadOutput) Decode(b []byte) error {
	r := reader{b: b}
	r.check(r.u32() == offloadReadOutputSize)
	i.Flags, i.TransferLength = r.u32(), r.u64()
	copy(i.Token[:], r.take(len(i.Token)))
	return r.done("FSCTL_OFFLOAD_READ_OUTPUT")
}

// OffloadWriteInput is FSCTL_OFFLOAD_WRITE_INPUT (MS-FSCC 2.3.43).
type OffloadWriteInput struct {
	Flags          uint32
	FileOffset     uint64
	CopyLength     uint64 // bytes
	TransferOffset uint64 // from the start of what the token stands for
	Token          OffloadToken
}

const offloadWriteInputSize = 544

func (OffloadWriteInput) Size() int { return offloadWriteInputSize }

func (i *OffloadWriteInput) Encode(dst []byte) {
	w := writer{b: dst}
	w.u32(offloadWriteInputSize)
	w.u32(i.Flags)
	w.u64(i.FileOffset)
	w.u64(i.CopyLength)
	w.u64(i.TransferOffset)
	w.bytes(i.Token[:])
}

// Decode refuses a Size field that is not the structure's.
func (i *OffloadWriteInput) Decode(b []byte) error {
	r := reader{b: b}
	r.check(r.u32() == offloadWriteInputSize)
	i.Flags, i.FileOffset, i.CopyLength, i.TransferOffset = r.u32(), r.u64(), r.u64(), r.u64()
	copy(i.Token[:], r.take(len(i.Token)))
	return r.done("FSCTL_OFFLOAD_WRITE_INPUT")
}

// OffloadWriteOutput is FSCTL_OFFLOAD_WRITE_OUTPUT (MS-FSCC 2.3.44).
type OffloadWriteOutput struct {
	Flags         uint32
	LengthWritten uint64 // bytes
}

const offloadWriteOutputSize = 16

func (OffloadWriteOutput) Size() int { return offloadWriteOutputSize }

func (i *OffloadWriteOutput) Encode(dst []byte) {
	w := writer{b: dst}
	w.u32(offloadWriteOutputSize)
	w.u32(i.Flags)
	w.u64(i.LengthWritten)
}

// Decode refuses a Size field that is not the structure's.
func (i *OffloadWriteOutput) Decode(b []byte) error {
	r := reader{b: b}
	r.check(r.u32() == offloadWriteOutputSize)
	i.Flags, i.LengthWritten = r.u32(), r.u64()
	return r.done("FSCTL_OFFLOAD_WRITE_OUTPUT")
}

// Usages of file regions (MS-FSCC 2.3.55).
const (
	FILE_REGION_USAGE_VALID_CACHED_DATA    = 0x00000001
	FILE_REGION_USAGE_VALID_NONCACHED_DATA = 0x00000002
)

// FileRegion is FILE_REGION_INPUT and FILE_REGION_INFO (MS-FSCC 2.3.55, 2.3.56.1), which are the same.
type FileRegion struct {
	Offset int64
	Length int64
	Usage  uint32
}

const fileRegionSize = 24

func (FileRegion) Size() int { return fileRegionSize }

func (i *FileRegion) Encode(dst []byte) { i.put(&writer{b: dst}) }

func (i *FileRegion) put(w *writer) {
	w.i64(i.Offset)
	w.i64(i.Length)
	w.u32(i.Usage)
	w.u32(0)
}

// Decode refuses negative numbers and an end past the largest file.
func (i *FileRegion) Decode(b []byte) error {
	r := reader{b: b}
	i.get(&r)
	return r.done("FILE_REGION_INPUT")
}

func (i *FileRegion) get(r *reader) {
	*i = FileRegion{r.size(), r.size(), r.u32()}
	r.skip(4)
	r.check(i.Length <= 1<<63-1-i.Offset)
}

// FileRegions is FILE_REGION_OUTPUT (MS-FSCC 2.3.56).
type FileRegions struct {
	Flags   uint32
	Total   uint32 // regions there are; those that fitted are in Regions
	Regions []FileRegion
}

func (i *FileRegions) Size() int { return 16 + fileRegionSize*len(i.Regions) }

func (i *FileRegions) Encode(dst []byte) {
	w := writer{b: dst}
	w.u32(i.Flags)
	w.u32(i.Total)
	w.u32(uint32(len(i.Regions)))
	w.u32(0)
	for n := range i.Regions {
		i.Regions[n].put(&w)
	}
}

func (i *FileRegions) Decode(b []byte) error {
	r := reader{b: b}
	*i = FileRegions{Flags: r.u32(), Total: r.u32()}
	n := r.u32()
	r.skip(4)
	if r.err == nil && uint64(n)*fileRegionSize > uint64(len(b)) {
		r.err = ErrTruncated
	}
	if r.err == nil {
		i.Regions = make([]FileRegion, n)
		for k := range i.Regions {
			i.Regions[k].get(&r)
		}
	}
	return r.done("FILE_REGION_OUTPUT")
}

// PipeWait is the FSCTL_PIPE_WAIT request (MS-FSCC 2.3.49).
type PipeWait struct {
	Timeout          int64 // units of 100 ms; meant only if TimeoutSpecified
	TimeoutSpecified bool
	Name             string // without \pipe\
}

func (i *PipeWait) Size() int { return 14 + UTF16Len(i.Name) }

func (i *PipeWait) Encode(dst []byte) {
	w := writer{b: dst}
	w.i64(i.Timeout)
	w.u32(uint32(UTF16Len(i.Name)))
	w.boolean(i.TimeoutSpecified)
	w.u8(0)
	w.name(i.Name)
}

func (i *PipeWait) Decode(b []byte) error {
	r := reader{b: b}
	i.Timeout = r.i64()
	n := r.u32()
	i.TimeoutSpecified = r.boolean()
	r.skip(1)
	i.Name = r.name(n)
	return r.done("FSCTL_PIPE_WAIT")
}

// PipePeek is the FSCTL_PIPE_PEEK reply (MS-FSCC 2.3.46).
type PipePeek struct {
	State             uint32 // FILE_PIPE_CONNECTED_STATE, FILE_PIPE_CLOSING_STATE
	ReadDataAvailable uint32 // bytes
	Messages          uint32
	MessageLength     uint32 // of the first one
	Data              []byte // a view
}

func (i *PipePeek) Size() int { return 16 + len(i.Data) }

func (i *PipePeek) Encode(dst []byte) {
	w := writer{b: dst}
	w.u32(i.State)
	w.u32(i.ReadDataAvailable)
	w.u32(i.Messages)
	w.u32(i.MessageLength)
	w.bytes(i.Data)
}

func (i *PipePeek) Decode(b []byte) error {
	r := reader{b: b}
	*i = PipePeek{State: r.u32(), ReadDataAvailable: r.u32(), Messages: r.u32(), MessageLength: r.u32()}
	i.Data = r.take(len(b) - r.off)
	return r.done("FSCTL_PIPE_PEEK")
}
