package fscc

// File information classes of fixed size (MS-FSCC 2.4).

// BasicInfo is FILE_BASIC_INFORMATION (MS-FSCC 2.4.7), both ways. In a set
// request the times may be FiletimeUnchanged, FiletimeFreeze or FiletimeThaw,
// and Attributes 0 leaves the attributes.
type BasicInfo struct {
	CreationTime   Filetime
	LastAccessTime Filetime
	LastWriteTime  Filetime
	ChangeTime     Filetime
	Attributes     uint32
}

func (BasicInfo) Size() int { return 40 }

func (i *BasicInfo) Encode(dst []byte) { i.put(&writer{b: dst}) }

func (i *BasicInfo) put(w *writer) {
	w.filetime(i.CreationTime)
	w.filetime(i.LastAccessTime)
	w.filetime(i.LastWriteTime)
	w.filetime(i.ChangeTime)
	w.u32(i.Attributes)
	w.u32(0)
}

// Decode also refuses times below -2.
func (i *BasicInfo) Decode(b []byte) error {
	r := reader{b: b}
	i.get(&r)
	return r.done("FILE_BASIC_INFORMATION")
}

func (i *BasicInfo) get(r *reader) {
	*i = BasicInfo{r.filetime(), r.filetime(), r.filetime(), r.filetime(), r.u32()}
	r.skip(4)
	r.check(i.CreationTime.ValidToSet() && i.LastAccessTime.ValidToSet() &&
		i.LastWriteTime.ValidToSet() && i.ChangeTime.ValidToSet())
}

// StandardInfo is FILE_STANDARD_INFORMATION (MS-FSCC 2.4.47). Sizes in bytes.
type StandardInfo struct {
	AllocationSize int64
	EndOfFile      int64
	Links          uint32
	DeletePending  bool
	Directory      bool
}

func (StandardInfo) Size() int { return 24 }

func (i *StandardInfo) Encode(dst []byte) { i.put(&writer{b: dst}) }

func (i *StandardInfo) put(w *writer) {
	w.i64(i.AllocationSize)
	w.i64(i.EndOfFile)
	w.u32(i.Links)
	w.boolean(i.DeletePending)
	w.boolean(i.Directory)
	w.u16(0)
}

func (i *StandardInfo) Decode(b []byte) error {
	r := reader{b: b}
	i.get(&r)
	return r.done("FILE_STANDARD_INFORMATION")
}

func (i *StandardInfo) get(r *reader) {
	*i = StandardInfo{r.size(), r.size(), r.u32(), r.boolean(), r.boolean()}
	r.skip(2)
}

// InternalInfo is FILE_INTERNAL_INFORMATION (MS-FSCC 2.4.27): the 64-bit file ID.
type InternalInfo struct{ IndexNumber uint64 }

func (InternalInfo) Size() int { return 8 }

func (i *InternalInfo) Encode(dst []byte) { w := writer{b: dst}; w.u64(i.IndexNumber) }

func (i *InternalInfo) Decode(b []byte) error {
	r := reader{b: b}
	i.IndexNumber = r.u64()
	return r.done("FILE_INTERNAL_INFORMATION")
}

// EaInfo is FILE_EA_INFORMATION (MS-FSCC 2.4.13): bytes of extended attributes.
type EaInfo struct{ EaSize uint32 }

func (EaInfo) Size() int { return 4 }

func (i *EaInfo) Encode(dst []byte) { w := writer{b: dst}; w.u32(i.EaSize) }

func (i *EaInfo) Decode(b []byte) error {
	r := reader{b: b}
	i.EaSize = r.u32()
	return r.done("FILE_EA_INFORMATION")
}

// AccessInfo is FILE_ACCESS_INFORMATION (MS-FSCC 2.4.1): what the open was granted.
type AccessInfo struct{ Access AccessMask }

func (AccessInfo) Size() int { return 4 }

func (i *AccessInfo) Encode(dst []byte) { w := writer{b: dst}; w.u32(uint32(i.Access)) }

func (i *AccessInfo) Decode(b []byte) error {
	r := reader{b: b}
	i.Access = AccessMask(r.u32())
	return r.done("FILE_ACCESS_INFORMATION")
}

// PositionInfo is FILE_POSITION_INFORMATION (MS-FSCC 2.4.40), both ways.
type PositionInfo struct{ CurrentByteOffset int64 }

func (PositionInfo) Size() int { return 8 }

func (i *PositionInfo) Encode(dst []byte) { w := writer{b: dst}; w.i64(i.CurrentByteOffset) }

// Decode refuses a negative offset.
func (i *PositionInfo) Decode(b []byte) error {
	r := reader{b: b}
	i.CurrentByteOffset = r.size()
	return r.done("FILE_POSITION_INFORMATION")
}

// ModeInfo is FILE_MODE_INFORMATION (MS-FSCC 2.4.31), both ways: FILE_WRITE_THROUGH and so on.
type ModeInfo struct{ Mode uint32 }

func (ModeInfo) Size() int { return 4 }

func (i *ModeInfo) Encode(dst []byte) { w := writer{b: dst}; w.u32(i.Mode) }

func (i *ModeInfo) Decode(b []byte) error {
	r := reader{b: b}
	i.Mode = r.u32()
	return r.done("FILE_MODE_INFORMATION")
}

// AlignmentInfo is FILE_ALIGNMENT_INFORMATION (MS-FSCC 2.4.3): FILE_BYTE_ALIGNMENT and so on.
type AlignmentInfo struct{ Requirement uint32 }

func (AlignmentInfo) Size() int { return 4 }

func (i *AlignmentInfo) Encode(dst []byte) { w := writer{b: dst}; w.u32(i.Requirement) }

func (i *AlignmentInfo) Decode(b []byte) error {
	r := reader{b: b}
	i.Requirement = r.u32()
	return r.done("FILE_ALIGNMENT_INFORMATION")
}

// NetworkOpenInfo is FILE_NETWORK_OPEN_INFORMATION (MS-FSCC 2.4.34).
type NetworkOpenInfo struct {
	CreationTime   Filetime
	LastAccessTime Filetime
	LastWriteTime  Filetime
	ChangeTime     Filetime
	AllocationSize int64
	EndOfFile      int64
	Attributes     uint32
}

func (NetworkOpenInfo) Size() int { return 56 }

func (i *NetworkOpenInfo) Encode(dst []byte) {
	w := writer{b: dst}
	w.filetime(i.CreationTime)
	w.filetime(i.LastAccessTime)
	w.filetime(i.LastWriteTime)
	w.filetime(i.ChangeTime)
	w.i64(i.AllocationSize)
	w.i64(i.EndOfFile)
	w.u32(i.Attributes)
	w.u32(0)
}

func (i *NetworkOpenInfo) Decode(b []byte) error {
	r := reader{b: b}
	*i = NetworkOpenInfo{r.filetime(), r.filetime(), r.filetime(), r.filetime(), r.size(), r.size(), r.u32()}
	r.skip(4)
	return r.done("FILE_NETWORK_OPEN_INFORMATION")
}

// AttributeTagInfo is FILE_ATTRIBUTE_TAG_INFORMATION (MS-FSCC 2.4.6).
type AttributeTagInfo struct {
	Attributes uint32
	ReparseTag uint32 // 0 unless FILE_ATTRIBUTE_REPARSE_POINT is set
}

func (AttributeTagInfo) Size() int { return 8 }

func (i *AttributeTagInfo) Encode(dst []byte) {
	w := writer{b: dst}
	w.u32(i.Attributes)
	w.u32(i.ReparseTag)
}

func (i *AttributeTagInfo) Decode(b []byte) error {
	r := reader{b: b}
	*i = AttributeTagInfo{r.u32(), r.u32()}
	return r.done("FILE_ATTRIBUTE_TAG_INFORMATION")
}

// CompressionInfo is FILE_COMPRESSION_INFORMATION (MS-FSCC 2.4.9).
type CompressionInfo struct {
	CompressedFileSize int64
	Format             uint16 // COMPRESSION_FORMAT_NONE and so on
	UnitShift          uint8
	ChunkShift         uint8
	ClusterShift       uint8
}

func (CompressionInfo) Size() int { return 16 }

func (i *CompressionInfo) Encode(dst []byte) {
	w := writer{b: dst}
	w.i64(i.CompressedFileSize)
	w.u16(i.Format)
	w.u8(i.UnitShift)
	w.u8(i.ChunkShift)
	w.u8(i.ClusterShift)
	w.zero(3)
}

func (i *CompressionInfo) Decode(b []byte) error {
	r := reader{b: b}
	*i = CompressionInfo{r.size(), r.u16(), r.u8(), r.u8(), r.u8()}
	r.skip(3)
	return r.done("FILE_COMPRESSION_INFORMATION")
}

// IDInfo is FILE_ID_INFORMATION (MS-FSCC 2.4.26).
type IDInfo struct {
	VolumeSerialNumber uint64
	FileID             [16]byte // the 64-bit ID, little-endian, zero-extended (MS-FSCC 2.1.10)
}

func (IDInfo) Size() int { return 24 }

func (i *IDInfo) Encode(dst []byte) {
	w := writer{b: dst}
	w.u64(i.VolumeSerialNumber)
	w.bytes(i.FileID[:])
}

func (i *IDInfo) Decode(b []byte) error {
	r := reader{b: b}
	*i = IDInfo{r.u64(), r.guid()}
	return r.done("FILE_ID_INFORMATION")
}
