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

// SetIntegrityEx is FSCTL_SET_INTEGRITY_INFORMATION_BUFFER_EX (MS-FSCC 2.3.75).
type SetIntegrityEx struct {
	Enable bool
	Keep   bool // KeepIntegrityStateUnchanged: Enable means nothing
	Flags  uint32
}

const setIntegrityExVersion = 1

func (SetIntegrityEx) Size() int { return 16 }

func (i *SetIntegrityEx) Encode(dst []byte) {
	w := writer{b: dst}
	w.boolean(i.Enable)
	w.boolean(i.Keep)
	w.u16(0)
	w.u32(i.Flags)
	w.u8(setIntegrityExVersion)
	w.zero(7)
}

// Decode refuses versions other than 1.
func (i *SetIntegrityEx) Decode(b []byte) error {
	r := reader{b: b}
	i.Enable, i.Keep = r.boolean(), r.boolean()
	r.skip(2)
	i.Flags = r.u32()
	r.check(r.u8() == setIntegrityExVersion)
	r.skip(7)
	return r.done("FSCTL_SET_INTEGRITY_INFORMATION_BUFFER_EX")
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

// NTFSVolumeData is NTFS_VOLUME_DATA_BUFFER (MS-FSCC 2.3.22), the reply to
// FSCTL_GET_NTFS_VOLUME_DATA.
type NTFSVolumeData struct {
	SerialNumber          uint64
	Sectors               uint64
	TotalClusters         uint64
	FreeClusters          uint64
	ReservedClusters      uint64
	BytesPerSector        uint32
	BytesPerCluster       uint32
	BytesPerFileRecord    uint32
	ClustersPerFileRecord uint32
	MftValidLength        uint64 // bytes
	MftStart              uint64 // cluster numbers, as the three below
	Mft2Start             uint64
	MftZoneStart          uint64
	MftZoneEnd            uint64
}

func (NTFSVolumeData) Size() int { return 96 }

func (i *NTFSVolumeData) Encode(dst []byte) {
	w := writer{b: dst}
	for _, v := range [...]uint64{i.SerialNumber, i.Sectors, i.TotalClusters, i.FreeClusters, i.ReservedClusters} {
		w.u64(v)
	}
	for _, v := range [...]uint32{i.BytesPerSector, i.BytesPerCluster, i.BytesPerFileRecord, i.ClustersPerFileRecord} {
		w.u32(v)
	}
	for _, v := range [...]uint64{i.MftValidLength, i.MftStart, i.Mft2Start, i.MftZoneStart, i.MftZoneEnd} {
		w.u64(v)
	}
}

func (i *NTFSVolumeData) Decode(b []byte) error {
	r := reader{b: b}
	*i = NTFSVolumeData{
		r.u64(), r.u64(), r.u64(), r.u64(), r.u64(),
		r.u32(), r.u32(), r.u32(), r.u32(),
		r.u64(), r.u64(), r.u64(), r.u64(), r.u64(),
	}
	return r.done("NTFS_VOLUME_DATA_BUFFER")
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
