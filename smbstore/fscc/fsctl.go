package fscc

// File system control codes (MS-FSCC 2.3).
const (
	FSCTL_DFS_GET_REFERRALS                   = 0x00060194 // MS-SMB2 2.2.31
	FSCTL_DFS_GET_REFERRALS_EX                = 0x000601B0 // MS-SMB2 2.2.31
	FSCTL_IS_PATHNAME_VALID                   = 0x0009002C
	FSCTL_GET_COMPRESSION                     = 0x0009003C
	FSCTL_QUERY_FAT_BPB                       = 0x00090058
	FSCTL_FILESYSTEM_GET_STATISTICS           = 0x00090060
	FSCTL_GET_NTFS_VOLUME_DATA                = 0x00090064
	FSCTL_GET_RETRIEVAL_POINTERS              = 0x00090073
	FSCTL_FIND_FILES_BY_SID                   = 0x0009008F
	FSCTL_SET_OBJECT_ID                       = 0x00090098
	FSCTL_GET_OBJECT_ID                       = 0x0009009C
	FSCTL_DELETE_OBJECT_ID                    = 0x000900A0
	FSCTL_SET_REPARSE_POINT                   = 0x000900A4
	FSCTL_GET_REPARSE_POINT                   = 0x000900A8
	FSCTL_DELETE_REPARSE_POINT                = 0x000900AC
	FSCTL_SET_OBJECT_ID_EXTENDED              = 0x000900BC
	FSCTL_CREATE_OR_GET_OBJECT_ID             = 0x000900C0
	FSCTL_SET_SPARSE                          = 0x000900C4
	FSCTL_SET_ENCRYPTION                      = 0x000900D7
	FSCTL_READ_FILE_USN_DATA                  = 0x000900EB
	FSCTL_WRITE_USN_CLOSE_RECORD              = 0x000900EF
	FSCTL_MARK_HANDLE                         = 0x000900FC
	FSCTL_SIS_COPYFILE                        = 0x00090100
	FSCTL_RECALL_FILE                         = 0x00090117
	FSCTL_QUERY_SPARING_INFO                  = 0x00090138
	FSCTL_QUERY_ON_DISK_VOLUME_INFO           = 0x0009013C
	FSCTL_SET_ZERO_ON_DEALLOCATION            = 0x00090194
	FSCTL_GET_INTEGRITY_INFORMATION           = 0x0009027C
	FSCTL_QUERY_FILE_REGIONS                  = 0x00090284
	FSCTL_GET_REFS_VOLUME_DATA                = 0x000902D8
	FSCTL_SET_INTEGRITY_INFORMATION_EX        = 0x00090380
	FSCTL_GET_RETRIEVAL_POINTERS_AND_REFCOUNT = 0x000903D3
	FSCTL_GET_RETRIEVAL_POINTER_COUNT         = 0x0009042B
	FSCTL_REFS_STREAM_SNAPSHOT_MANAGEMENT     = 0x00090440
	FSCTL_QUERY_ALLOCATED_RANGES              = 0x000940CF
	FSCTL_OFFLOAD_READ                        = 0x00094264
	FSCTL_SET_ZERO_DATA                       = 0x000980C8
	FSCTL_SET_DEFECT_MANAGEMENT               = 0x00098134
	FSCTL_FILE_LEVEL_TRIM                     = 0x00098208
	FSCTL_OFFLOAD_WRITE                       = 0x00098268
	FSCTL_DUPLICATE_EXTENTS_TO_FILE           = 0x00098344
	FSCTL_DUPLICATE_EXTENTS_TO_FILE_EX        = 0x000983E8
	FSCTL_SET_COMPRESSION                     = 0x0009C040
	FSCTL_SET_INTEGRITY_INFORMATION           = 0x0009C280
	FSCTL_PIPE_WAIT                           = 0x00110018
	FSCTL_PIPE_PEEK                           = 0x0011400C
	FSCTL_PIPE_TRANSCEIVE                     = 0x0011C017
	FSCTL_LMR_SET_LINK_TRACKING_INFORMATION   = 0x001400EC
)

// ByteRange is a range of a file in bytes: FILE_ALLOCATED_RANGE_BUFFER (MS-FSCC
// 2.3.51, 2.3.52), both ways, and FILE_LEVEL_TRIM_RANGE (2.3.13.1).
type ByteRange struct {
	Offset int64
	Length int64
}

const byteRangeSize = 16

func (ByteRange) Size() int { return byteRangeSize }

func (i *ByteRange) Encode(dst []byte) { i.put(&writer{b: dst}) }

func (i *ByteRange) put(w *writer) {
	w.i64(i.Offset)
	w.i64(i.Length)
}

// Decode refuses negative numbers and an end past the largest file.
func (i *ByteRange) Decode(b []byte) error {
	r := reader{b: b}
	i.get(&r)
	return r.done("FILE_ALLOCATED_RANGE_BUFFER")
}

func (i *ByteRange) get(r *reader) {
	*i = ByteRange{r.size(), r.size()}
	r.check(i.Length <= 1<<63-1-i.Offset)
}

// DecodeRanges reads the reply to FSCTL_QUERY_ALLOCATED_RANGES (MS-FSCC 2.3.52).
func DecodeRanges(b []byte) ([]ByteRange, error) {
	r := reader{b: b}
	r.check(len(b)%byteRangeSize == 0)
	list := make([]ByteRange, len(b)/byteRangeSize)
	for i := range list {
		list[i].get(&r)
	}
	return list, r.done("list of FILE_ALLOCATED_RANGE_BUFFER")
}

// ZeroData is FILE_ZERO_DATA_INFORMATION (MS-FSCC 2.3.85): zero [Offset, Beyond).
type ZeroData struct {
	Offset int64
	Beyond int64
}

func (ZeroData) Size() int { return 16 }

func (i *ZeroData) Encode(dst []byte) {
	w := writer{b: dst}
	w.i64(i.Offset)
	w.i64(i.Beyond)
}

// Decode refuses negative numbers and an end before the start.
func (i *ZeroData) Decode(b []byte) error {
	r := reader{b: b}
	*i = ZeroData{r.size(), r.size()}
	r.check(i.Offset <= i.Beyond)
	return r.done("FILE_ZERO_DATA_INFORMATION")
}

// SetSparse is FILE_SET_SPARSE_BUFFER (MS-FSCC 2.3.83). An empty buffer means true.
type SetSparse struct{ Sparse bool }

func (SetSparse) Size() int { return 1 }

func (i *SetSparse) Encode(dst []byte) { w := writer{b: dst}; w.boolean(i.Sparse) }

func (i *SetSparse) Decode(b []byte) error {
	i.Sparse = len(b) == 0 || b[0] != 0
	return nil
}

// Trim is FILE_LEVEL_TRIM (MS-FSCC 2.3.13).
type Trim struct {
	Key    uint32 // ignored by servers
	Ranges []ByteRange
}

// MaxTrimRanges bounds what Trim.Decode allocates: more than any client sends.
const MaxTrimRanges = 4096

func (i *Trim) Size() int { return 8 + byteRangeSize*len(i.Ranges) }

func (i *Trim) Encode(dst []byte) {
	w := writer{b: dst}
	w.u32(i.Key)
	w.u32(uint32(len(i.Ranges)))
	for n := range i.Ranges {
		i.Ranges[n].put(&w)
	}
}

// Decode refuses more than MaxTrimRanges ranges.
func (i *Trim) Decode(b []byte) error {
	r := reader{b: b}
	*i = Trim{Key: r.u32()}
	n := r.u32()
	r.check(n <= MaxTrimRanges)
	if r.err == nil && uint64(n)*byteRangeSize > uint64(len(b)) {
		r.err = ErrTruncated
	}
	if r.err == nil {
		i.Ranges = make([]ByteRange, n)
		for k := range i.Ranges {
			i.Ranges[k].get(&r)
		}
	}
	return r.done("FILE_LEVEL_TRIM")
}

// TrimReply is FILE_LEVEL_TRIM_OUTPUT (MS-FSCC 2.3.14): ranges handled.
type TrimReply struct{ RangesProcessed uint32 }

func (TrimReply) Size() int { return 4 }

func (i *TrimReply) Encode(dst []byte) { w := writer{b: dst}; w.u32(i.RangesProcessed) }

func (i *TrimReply) Decode(b []byte) error {
	r := reader{b: b}
	i.RangesProcessed = r.u32()
	return r.done("FILE_LEVEL_TRIM_OUTPUT")
}

// DUPLICATE_EXTENTS_DATA_EX_SOURCE_ATOMIC asks for all of the copy or none (MS-FSCC 2.3.9.2).
const DUPLICATE_EXTENTS_DATA_EX_SOURCE_ATOMIC = 0x00000001

// DuplicateExtents is SMB2_DUPLICATE_EXTENTS_DATA (MS-FSCC 2.3.7.2). Bytes.
type DuplicateExtents struct {
	SourceFileID [16]byte // SMB2_FILEID of the source's open
	SourceOffset int64
	TargetOffset int64
	ByteCount    int64
}

func (DuplicateExtents) Size() int { return 40 }

func (i *DuplicateExtents) Encode(dst []byte) { i.put(&writer{b: dst}) }

func (i *DuplicateExtents) put(w *writer) {
	w.bytes(i.SourceFileID[:])
	w.i64(i.SourceOffset)
	w.i64(i.TargetOffset)
	w.i64(i.ByteCount)
}

// Decode refuses negative numbers and ranges past the largest file.
func (i *DuplicateExtents) Decode(b []byte) error {
	r := reader{b: b}
	i.get(&r)
	return r.done("SMB2_DUPLICATE_EXTENTS_DATA")
}

func (i *DuplicateExtents) get(r *reader) {
	*i = DuplicateExtents{r.guid(), r.size(), r.size(), r.size()}
	r.check(i.ByteCount <= 1<<63-1-max(i.SourceOffset, i.TargetOffset))
}

// DuplicateExtentsEx is SMB2_DUPLICATE_EXTENTS_DATA_EX (MS-FSCC 2.3.9.2).
type DuplicateExtentsEx struct {
	DuplicateExtents
	Flags uint32
}

const duplicateExtentsExSize = 0x38

// DuplicateExtentsExStructureSize is the structure's first field (MS-FSCC
// 2.3.9.2), although its fields are 0x38 bytes long.
const DuplicateExtentsExStructureSize = 0x30

func (DuplicateExtentsEx) Size() int { return duplicateExtentsExSize }

func (i *DuplicateExtentsEx) Encode(dst []byte) {
	w := writer{b: dst}
	w.u64(DuplicateExtentsExStructureSize)
	i.put(&w)
	w.u32(i.Flags)
	w.u32(0)
}

// Decode refuses a StructureSize other than DuplicateExtentsExStructureSize.
func (i *DuplicateExtentsEx) Decode(b []byte) error {
	r := reader{b: b}
	r.check(r.u64() == DuplicateExtentsExStructureSize)
	i.get(&r)
	i.Flags = r.u32()
	r.skip(4)
	return r.done("SMB2_DUPLICATE_EXTENTS_DATA_EX")
}
