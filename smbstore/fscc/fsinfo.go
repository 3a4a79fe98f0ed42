package fscc

// File system information classes (MS-FSCC 2.5). FileFsLabelInformation is
// local only and has no codec: servers refuse it.

// FsVolumeInfo is FILE_FS_VOLUME_INFORMATION (MS-FSCC 2.5.9). A reply that does
// not fit is cut, with the label's length that of the whole.
type FsVolumeInfo struct {
	CreationTime    Filetime
	SerialNumber    uint32
	SupportsObjects bool
	Label           string // at most 32 characters are sent
}

// FsVolumeInfoFixedSize is the least buffer a query needs.
const FsVolumeInfoFixedSize = 18

// maxVolumeLabel is the longest label in bytes of UTF-16 (MS-FSCC 2.5.9).
const maxVolumeLabel = 64

func (i *FsVolumeInfo) label() []byte {
	b := EncodeUTF16(i.Label)
	return b[:min(len(b), maxVolumeLabel)]
}

func (i *FsVolumeInfo) Size() int { return FsVolumeInfoFixedSize + len(i.label()) }

func (i *FsVolumeInfo) Encode(dst []byte) {
	w := writer{b: dst}
	label := i.label()
	w.filetime(i.CreationTime)
	w.u32(i.SerialNumber)
	w.u32(uint32(len(label)))
	w.boolean(i.SupportsObjects)
	w.u8(0)
	w.bytes(label)
}

func (i *FsVolumeInfo) Decode(b []byte) error {
	r := reader{b: b}
	i.CreationTime = r.filetime()
	i.SerialNumber = r.u32()
	n := r.u32()
	i.SupportsObjects = r.boolean()
	r.skip(1)
	r.check(n <= maxVolumeLabel)
	i.Label = r.name(n)
	return r.done("FILE_FS_VOLUME_INFORMATION")
}

// FsSizeInfo is FILE_FS_SIZE_INFORMATION (MS-FSCC 2.5.8).
type FsSizeInfo struct {
	TotalUnits     int64 // allocation units
	AvailableUnits int64
	SectorsPerUnit uint32
	BytesPerSector uint32
}

func (FsSizeInfo) Size() int { return 24 }

func (i *FsSizeInfo) Encode(dst []byte) {
	w := writer{b: dst}
	w.i64(i.TotalUnits)
	w.i64(i.AvailableUnits)
	w.u32(i.SectorsPerUnit)
	w.u32(i.BytesPerSector)
}

func (i *FsSizeInfo) Decode(b []byte) error {
	r := reader{b: b}
	*i = FsSizeInfo{r.size(), r.size(), r.u32(), r.u32()}
	return r.done("FILE_FS_SIZE_INFORMATION")
}

// FsFullSizeInfo is FILE_FS_FULL_SIZE_INFORMATION (MS-FSCC 2.5.4).
type FsFullSizeInfo struct {
	TotalUnits           int64 // allocation units
	CallerAvailableUnits int64 // free for this user
	ActualAvailableUnits int64 // free
	SectorsPerUnit       uint32
	BytesPerSector       uint32
}

func (FsFullSizeInfo) Size() int { return 32 }

func (i *FsFullSizeInfo) Encode(dst []byte) {
	w := writer{b: dst}
	w.i64(i.TotalUnits)
	w.i64(i.CallerAvailableUnits)
	w.i64(i.ActualAvailableUnits)
	w.u32(i.SectorsPerUnit)
	w.u32(i.BytesPerSector)
}

func (i *FsFullSizeInfo) Decode(b []byte) error {
	r := reader{b: b}
	*i = FsFullSizeInfo{r.size(), r.size(), r.size(), r.u32(), r.u32()}
	return r.done("FILE_FS_FULL_SIZE_INFORMATION")
}

// Device types and characteristics (MS-FSCC 2.5.10).
const (
	FILE_DEVICE_CD_ROM = 0x00000002
	FILE_DEVICE_DISK   = 0x00000007

	FILE_REMOVABLE_MEDIA    = 0x00000001
	FILE_READ_ONLY_DEVICE   = 0x00000002
	FILE_FLOPPY_DISKETTE    = 0x00000004
	FILE_WRITE_ONCE_MEDIA   = 0x00000008
	FILE_REMOTE_DEVICE      = 0x00000010
	FILE_DEVICE_IS_MOUNTED  = 0x00000020
	FILE_VIRTUAL_VOLUME     = 0x00000040
	FILE_DEVICE_SECURE_OPEN = 0x00000100
)

// FsDeviceInfo is FILE_FS_DEVICE_INFORMATION (MS-FSCC 2.5.10).
type FsDeviceInfo struct {
	DeviceType      uint32
	Characteristics uint32
}

func (FsDeviceInfo) Size() int { return 8 }

func (i *FsDeviceInfo) Encode(dst []byte) {
	w := writer{b: dst}
	w.u32(i.DeviceType)
	w.u32(i.Characteristics)
}

func (i *FsDeviceInfo) Decode(b []byte) error {
	r := reader{b: b}
	*i = FsDeviceInfo{r.u32(), r.u32()}
	return r.done("FILE_FS_DEVICE_INFORMATION")
}

// Attributes of a file system (MS-FSCC 2.5.1).
const (
	FILE_CASE_SENSITIVE_SEARCH        = 0x00000001
	FILE_CASE_PRESERVED_NAMES         = 0x00000002
	FILE_UNICODE_ON_DISK              = 0x00000004
	FILE_PERSISTENT_ACLS              = 0x00000008
	FILE_FILE_COMPRESSION             = 0x00000010
	FILE_VOLUME_QUOTAS                = 0x00000020
	FILE_SUPPORTS_SPARSE_FILES        = 0x00000040
	FILE_SUPPORTS_REPARSE_POINTS      = 0x00000080
	FILE_SUPPORTS_REMOTE_STORAGE      = 0x00000100
	FILE_RETURNS_CLEANUP_RESULT_INFO  = 0x00000200
	FILE_SUPPORTS_POSIX_UNLINK_RENAME = 0x00000400
	FILE_VOLUME_IS_COMPRESSED         = 0x00008000
	FILE_SUPPORTS_OBJECT_IDS          = 0x00010000
	FILE_SUPPORTS_ENCRYPTION          = 0x00020000
	FILE_NAMED_STREAMS                = 0x00040000
	FILE_READ_ONLY_VOLUME             = 0x00080000
	FILE_SEQUENTIAL_WRITE_ONCE        = 0x00100000
	FILE_SUPPORTS_TRANSACTIONS        = 0x00200000
	FILE_SUPPORTS_HARD_LINKS          = 0x00400000
	FILE_SUPPORTS_EXTENDED_ATTRIBUTES = 0x00800000
	FILE_SUPPORTS_OPEN_BY_FILE_ID     = 0x01000000
	FILE_SUPPORTS_USN_JOURNAL         = 0x02000000
	FILE_SUPPORT_INTEGRITY_STREAMS    = 0x04000000
	FILE_SUPPORTS_BLOCK_REFCOUNTING   = 0x08000000
	FILE_SUPPORTS_SPARSE_VDL          = 0x10000000
)

// FsAttributeInfo is FILE_FS_ATTRIBUTE_INFORMATION (MS-FSCC 2.5.1). A reply that
// does not fit is cut, with the name's length that of the whole.
type FsAttributeInfo struct {
	Attributes         uint32 // FILE_CASE_PRESERVED_NAMES and so on
	MaxComponentLength int32  // in characters
	FileSystemName     string // not empty
}

// FsAttributeInfoFixedSize is the least buffer a query needs.
const FsAttributeInfoFixedSize = 12

func (i *FsAttributeInfo) Size() int { return FsAttributeInfoFixedSize + UTF16Len(i.FileSystemName) }

func (i *FsAttributeInfo) Encode(dst []byte) {
	w := writer{b: dst}
	w.u32(i.Attributes)
	w.u32(uint32(i.MaxComponentLength))
	w.u32(uint32(UTF16Len(i.FileSystemName)))
	w.name(i.FileSystemName)
}

func (i *FsAttributeInfo) Decode(b []byte) error {
	r := reader{b: b}
	*i = FsAttributeInfo{Attributes: r.u32(), MaxComponentLength: int32(r.u32())}
	i.FileSystemName = r.name(r.u32())
	r.check(i.MaxComponentLength >= 0)
	return r.done("FILE_FS_ATTRIBUTE_INFORMATION")
}

// Flags of FsControlInfo (MS-FSCC 2.5.2).
const (
	FILE_VC_QUOTA_TRACK            = 0x00000001
	FILE_VC_QUOTA_ENFORCE          = 0x00000002
	FILE_VC_CONTENT_INDEX_DISABLED = 0x00000008
	FILE_VC_LOG_QUOTA_THRESHOLD    = 0x00000010
	FILE_VC_LOG_QUOTA_LIMIT        = 0x00000020
	FILE_VC_LOG_VOLUME_THRESHOLD   = 0x00000040
	FILE_VC_LOG_VOLUME_LIMIT       = 0x00000080
	FILE_VC_QUOTAS_INCOMPLETE      = 0x00000100
	FILE_VC_QUOTAS_REBUILDING      = 0x00000200
)

// FsControlInfo is FILE_FS_CONTROL_INFORMATION (MS-FSCC 2.5.2), both ways. Bytes;
// quotas of all ones are no limit.
type FsControlInfo struct {
	FreeSpaceStartFiltering int64
	FreeSpaceThreshold      int64
	FreeSpaceStopFiltering  int64
	DefaultQuotaThreshold   uint64
	DefaultQuotaLimit       uint64
	Flags                   uint32
}

func (FsControlInfo) Size() int { return 48 }

func (i *FsControlInfo) Encode(dst []byte) {
	w := writer{b: dst}
	w.i64(i.FreeSpaceStartFiltering)
	w.i64(i.FreeSpaceThreshold)
	w.i64(i.FreeSpaceStopFiltering)
	w.u64(i.DefaultQuotaThreshold)
	w.u64(i.DefaultQuotaLimit)
	w.u32(i.Flags)
	w.u32(0)
}

func (i *FsControlInfo) Decode(b []byte) error {
	r := reader{b: b}
	*i = FsControlInfo{r.i64(), r.i64(), r.i64(), r.u64(), r.u64(), r.u32()}
	r.skip(4)
	return r.done("FILE_FS_CONTROL_INFORMATION")
}

// FsObjectIDInfo is FILE_FS_OBJECTID_INFORMATION (MS-FSCC 2.5.6).
type FsObjectIDInfo struct {
	ObjectID     GUID
	ExtendedInfo [48]byte
}

func (FsObjectIDInfo) Size() int { return 64 }

func (i *FsObjectIDInfo) Encode(dst []byte) {
	w := writer{b: dst}
	w.bytes(i.ObjectID[:])
	w.bytes(i.ExtendedInfo[:])
}

func (i *FsObjectIDInfo) Decode(b []byte) error {
	r := reader{b: b}
	i.ObjectID = r.guid()
	copy(i.ExtendedInfo[:], r.take(48))
	return r.done("FILE_FS_OBJECTID_INFORMATION")
}

// Flags and offsets of FsSectorSizeInfo (MS-FSCC 2.5.7).
const (
	SSINFO_FLAGS_ALIGNED_DEVICE              = 0x00000001
	SSINFO_FLAGS_PARTITION_ALIGNED_ON_DEVICE = 0x00000002
	SSINFO_FLAGS_NO_SEEK_PENALTY             = 0x00000004
	SSINFO_FLAGS_TRIM_ENABLED                = 0x00000008

	SSINFO_OFFSET_UNKNOWN = 0xFFFFFFFF
)

// FsSectorSizeInfo is FILE_FS_SECTOR_SIZE_INFORMATION (MS-FSCC 2.5.7). Sizes in bytes.
type FsSectorSizeInfo struct {
	Logical                uint32
	PhysicalForAtomicity   uint32
	PhysicalForPerformance uint32
	EffectiveForAtomicity  uint32
	Flags                  uint32
	SectorAlignment        uint32
	PartitionAlignment     uint32
}

func (FsSectorSizeInfo) Size() int { return 28 }

func (i *FsSectorSizeInfo) Encode(dst []byte) {
	w := writer{b: dst}
	for _, v := range [...]uint32{i.Logical, i.PhysicalForAtomicity, i.PhysicalForPerformance,
		i.EffectiveForAtomicity, i.Flags, i.SectorAlignment, i.PartitionAlignment} {
		w.u32(v)
	}
}

func (i *FsSectorSizeInfo) Decode(b []byte) error {
	r := reader{b: b}
	*i = FsSectorSizeInfo{r.u32(), r.u32(), r.u32(), r.u32(), r.u32(), r.u32(), r.u32()}
	return r.done("FILE_FS_SECTOR_SIZE_INFORMATION")
}
