package shares

import (
	"context"

	"lunless/shares/fs"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// queryFilesystem answers the file system information classes (MS-SMB2
// 3.3.5.20.2, MS-FSA 2.1.5.13).
func (r *request) queryFilesystem(ctx context.Context, class fscc.FsInfoClass) (answer, error) {
	switch class {
	case fscc.FileFsDeviceInformation:
		return whole(&fscc.FsDeviceInfo{DeviceType: fscc.FILE_DEVICE_DISK, Characteristics: r.deviceCharacteristics()})
	case fscc.FileFsLabelInformation, fscc.FileFsDriverPathInformation:
		return answer{}, smb2.StatusNotSupported
	case fscc.FileFsControlInformation:
		// As of a volume on which nothing is limited or counted. It does not claim
		// FILE_VOLUME_QUOTAS: everything on disk is the server's own to the kernel.
		const none = ^uint64(0)
		return whole(&fscc.FsControlInfo{DefaultQuotaThreshold: none, DefaultQuotaLimit: none})
	case fscc.FileFsVolumeInformation, fscc.FileFsSizeInformation, fscc.FileFsFullSizeInformation,
		fscc.FileFsObjectIdInformation, fscc.FileFsAttributeInformation, fscc.FileFsSectorSizeInformation:
	default:
		return answer{}, smb2.StatusInvalidInfoClass
	}
	v, err := r.tree.fs.Volume(ctx)
	if err != nil {
		return answer{}, err
	}
	unit := clusterSize(&v)
	switch class {
	case fscc.FileFsVolumeInformation:
		// What looks at volumes by name should find the share's.
		return answer{&fscc.FsVolumeInfo{
			CreationTime: fscc.FiletimeOf(v.Created), SerialNumber: uint32(v.Serial), Label: r.volumeLabel(&v),
		}, volumeInfoLeast}, nil
	case fscc.FileFsObjectIdInformation:
		return whole(&fscc.FsObjectIDInfo{ObjectID: objectID(v.Serial, 0)})
	case fscc.FileFsSizeInformation:
		return whole(&fscc.FsSizeInfo{
			TotalUnits: int64(v.TotalBytes) / unit, AvailableUnits: int64(v.AvailBytes) / unit,
			SectorsPerUnit: v.SectorsPerUnit, BytesPerSector: v.BytesPerSec,
		})
	case fscc.FileFsFullSizeInformation:
		return whole(&fscc.FsFullSizeInfo{
			TotalUnits: int64(v.TotalBytes) / unit, CallerAvailableUnits: int64(v.AvailBytes) / unit,
			ActualAvailableUnits: int64(v.FreeBytes) / unit,
			SectorsPerUnit:       v.SectorsPerUnit, BytesPerSector: v.BytesPerSec,
		})
	case fscc.FileFsAttributeInformation:
		return answer{r.fsAttributes(&v), fsAttributeLeast}, nil
	}
	return whole(sectorSizes(&v))
}

// The least buffers for FileFsVolumeInformation (MS-FSA 2.1.5.13.1) and
// FileFsAttributeInformation, with Windows' padding of the structure.
const (
	volumeInfoLeast  = 24
	fsAttributeLeast = 16
)

func (r *request) deviceCharacteristics() uint32 {
	c := uint32(fscc.FILE_DEVICE_IS_MOUNTED)
	if r.tree.share.ReadOnly {
		c |= fscc.FILE_READ_ONLY_DEVICE
	}
	return c
}

func (r *request) volumeLabel(v *fs.Volume) string {
	if v.Label != "" {
		return v.Label
	}
	return r.tree.share.Name
}

// fsAttributes says what the file system can do. Its name is what programs look
// for that want one with access control lists.
func (r *request) fsAttributes(v *fs.Volume) *fscc.FsAttributeInfo {
	a := uint32(fscc.FILE_CASE_SENSITIVE_SEARCH | fscc.FILE_CASE_PRESERVED_NAMES | fscc.FILE_UNICODE_ON_DISK |
		fscc.FILE_PERSISTENT_ACLS | fscc.FILE_SUPPORTS_OBJECT_IDS | fscc.FILE_SUPPORTS_HARD_LINKS)
	if v.Streams {
		a |= fscc.FILE_NAMED_STREAMS
	}
	if v.EAs {
		a |= fscc.FILE_SUPPORTS_EXTENDED_ATTRIBUTES
	}
	if v.Sparse {
		a |= fscc.FILE_SUPPORTS_SPARSE_FILES
	}
	if v.Reflink {
		a |= fscc.FILE_SUPPORTS_BLOCK_REFCOUNTING
	}
	if v.Sparse && v.Unwritten { // MS-FSCC 2.5.1: no valid data length, what is valid is known by the block
		a |= fscc.FILE_SUPPORTS_SPARSE_VDL
	}
	if r.tree.share.ReadOnly {
		a |= fscc.FILE_READ_ONLY_VOLUME
	}
	return &fscc.FsAttributeInfo{Attributes: a, MaxComponentLength: int32(v.MaxName), FileSystemName: "NTFS"}
}

// sectorSizes are those of the disk below (MS-FSA 2.1.5.13.10).
func sectorSizes(v *fs.Volume) *fscc.FsSectorSizeInfo {
	const page = 4096
	physical := v.PhysicalSec
	if physical < v.BytesPerSec || physical&(physical-1) != 0 {
		physical = v.BytesPerSec
	}
	info := &fscc.FsSectorSizeInfo{
		Logical: v.BytesPerSec, PhysicalForAtomicity: physical, PhysicalForPerformance: physical,
		EffectiveForAtomicity: min(physical, page),
		SectorAlignment:       fscc.SSINFO_OFFSET_UNKNOWN, PartitionAlignment: fscc.SSINFO_OFFSET_UNKNOWN,
	}
	if v.Sparse { // the file system takes back what is trimmed, whatever the disk makes of that
		info.Flags |= fscc.SSINFO_FLAGS_TRIM_ENABLED
	}
	if !v.Disk.Known {
		return info
	}
	info.SectorAlignment = v.Disk.Alignment
	info.PartitionAlignment = uint32(v.Disk.Partition % uint64(physical))
	for _, f := range [...]struct {
		is   bool
		flag uint32
	}{
		{info.SectorAlignment == 0, fscc.SSINFO_FLAGS_ALIGNED_DEVICE},
		{info.SectorAlignment == (physical-info.PartitionAlignment)%physical, fscc.SSINFO_FLAGS_PARTITION_ALIGNED_ON_DEVICE},
		{v.Disk.NoSeekPenalty, fscc.SSINFO_FLAGS_NO_SEEK_PENALTY},
		{v.Disk.Trim, fscc.SSINFO_FLAGS_TRIM_ENABLED},
	} {
		if f.is {
			info.Flags |= f.flag
		}
	}
	return info
}
