package shares

import (
	"testing"

	"lunless/shares/fs"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// What an open must have been granted for each class: MS-SMB2 3.3.5.20.1,
// 3.3.5.20.3, 3.3.5.21.1, 3.3.5.21.2, 3.3.5.21.3.
func TestInformationNeedsAccess(t *testing.T) {
	srv := startServer(t, nil)
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	c.existing("file", 0, 0)
	const all = smb2.AccessMask(fscc.FILE_ALL_ACCESS)
	for _, q := range []struct {
		class fscc.InfoClass
		needs smb2.AccessMask // 0: none
	}{
		{fscc.FileBasicInformation, smb2.FileReadAttributes}, {fscc.FileAllInformation, smb2.FileReadAttributes},
		{fscc.FileNetworkOpenInformation, smb2.FileReadAttributes}, {fscc.FileAttributeTagInformation, smb2.FileReadAttributes},
		{fscc.FileStandardInformation, 0}, {fscc.FileInternalInformation, 0}, {fscc.FileEaInformation, 0}, {fscc.FileAccessInformation, 0},
		{fscc.FilePositionInformation, 0}, {fscc.FileModeInformation, 0}, {fscc.FileAlignmentInformation, 0}, {fscc.FileStreamInformation, 0},
		{fscc.FileIdInformation, 0}, {fscc.FileNormalizedNameInformation, 0}, {fscc.FileAlternateNameInformation, 0}, {fscc.FileCompressionInformation, 0},
	} {
		id := c.open("file", all&^smb2.FileReadAttributes, 0)
		_, st := c.queryInfo(&smb2.QueryInfoRequest{InfoType: smb2.InfoFile, FileInfoClass: uint8(q.class), FileID: id, OutputBufferLength: 4096})
		if (st == smb2.StatusAccessDenied) != (q.needs != 0) || q.needs == 0 && st != 0 {
			t.Errorf("query class %d without FILE_READ_ATTRIBUTES: %v", q.class, st)
		}
		c.closeFile(id)
	}
	for _, s := range []struct {
		class fscc.InfoClass
		m     encoder
		needs smb2.AccessMask
	}{
		{fscc.FileBasicInformation, &fscc.BasicInfo{}, smb2.FileWriteAttributes},
		{fscc.FileRenameInformation, &fscc.RenameInfo{Name: "other"}, smb2.Delete},
		{fscc.FileDispositionInformation, &fscc.DispositionInfo{DeletePending: true}, smb2.Delete},
		{fscc.FileShortNameInformation, &fscc.NameInfo{Name: "SHORT"}, smb2.Delete},
		{fscc.FileAllocationInformation, &fscc.AllocationInfo{}, smb2.FileWriteData},
		{fscc.FileEndOfFileInformation, &fscc.EndOfFileInfo{}, smb2.FileWriteData},
		{fscc.FileValidDataLengthInformation, &fscc.ValidDataLengthInfo{}, smb2.FileWriteData},
		{fscc.FileFullEaInformation, raw(make([]byte, 16)), smb2.FileWriteEA},
	} {
		id := c.open("file", all&^s.needs, 0)
		if st := c.setInfo(id, s.class, s.m); st != smb2.StatusAccessDenied {
			t.Errorf("set class %d without %#x: %v", s.class, uint32(s.needs), st)
		}
		c.closeFile(id)
	}
	for _, tt := range []struct {
		info       fscc.SecurityInformation
		query, set smb2.AccessMask
	}{
		{fscc.OWNER_SECURITY_INFORMATION, smb2.ReadControl, smb2.WriteOwner}, {fscc.GROUP_SECURITY_INFORMATION, smb2.ReadControl, smb2.WriteOwner},
		{fscc.DACL_SECURITY_INFORMATION, smb2.ReadControl, smb2.WriteDAC}, {fscc.LABEL_SECURITY_INFORMATION, smb2.ReadControl, smb2.WriteOwner},
		{fscc.ATTRIBUTE_SECURITY_INFORMATION, smb2.ReadControl, smb2.WriteDAC},
		{fscc.SACL_SECURITY_INFORMATION, 0, 0}, {fscc.BACKUP_SECURITY_INFORMATION, 0, 0}, // what only a privilege gives is missing anyway
	} {
		id := c.open("file", all&^tt.query, 0)
		if _, st := c.queryInfo(&smb2.QueryInfoRequest{InfoType: smb2.InfoSecurity, AdditionalInformation: smb2.SecurityInformation(tt.info), FileID: id,
			OutputBufferLength: 4096}); st != smb2.StatusAccessDenied {
			t.Errorf("query security %#x: %v", uint32(tt.info), st)
		}
		c.closeFile(id)
		id = c.open("file", all&^tt.set, 0)
		if st := c.setSecurity(id, tt.info, marshal(t, &fscc.SecurityDescriptor{Owner: fscc.SIDUsers, Group: fscc.SIDUsers})); st != smb2.StatusAccessDenied {
			t.Errorf("set security %#x: %v", uint32(tt.info), st)
		}
		c.closeFile(id)
	}
	id, blind := c.open("file", all, 0), c.open("file", all&^smb2.FileWriteData, 0)
	for _, tt := range []struct {
		class fscc.FsInfoClass
		id    smb2.FileID
		want  smb2.Status
	}{
		{fscc.FileFsControlInformation, blind, smb2.StatusAccessDenied}, {fscc.FileFsControlInformation, id, smb2.StatusVolumeNotUpgraded},
		{fscc.FileFsObjectIdInformation, id, smb2.StatusAccessDenied}, {fscc.FileFsLabelInformation, id, smb2.StatusNotSupported},
		{fscc.FileFsSizeInformation, id, smb2.StatusInvalidInfoClass}, {99, id, smb2.StatusInvalidInfoClass},
	} {
		st := c.call(smb2.CommandSetInfo, &smb2.SetInfoRequest{InfoType: smb2.InfoFilesystem, FileInfoClass: uint8(tt.class), FileID: tt.id,
			Buffer: make([]byte, 48)}, nil).hdr.Status
		if st != tt.want {
			t.Errorf("set file system class %d: %v, want %v", tt.class, st, tt.want)
		}
	}
}

// A buffer that is too small is answered with an error context without data on
// 3.1.1, and with nothing before (MS-SMB2 3.3.5.20.1).
func TestTooSmallForInformation(t *testing.T) {
	srv := startServer(t, nil)
	for d, want := range map[smb2.Dialect]int{smb2.Dialect302: 0, smb2.Dialect311: 1} {
		c := loginRaw(t, srv.addr, d, "vms")
		id := c.create("file")
		for _, typ := range []smb2.InfoType{smb2.InfoFile, smb2.InfoFilesystem} {
			a := c.call(smb2.CommandQueryInfo, &smb2.QueryInfoRequest{InfoType: typ, FileInfoClass: 5, FileID: id, OutputBufferLength: 1}, nil)
			var e smb2.ErrorResponse
			if err := e.Decode(a.msg); err != nil || a.hdr.Status != smb2.StatusInfoLengthMismatch || len(e.Contexts) != want || len(e.Data) != 0 {
				t.Errorf("%v, type %d: %v, %+v, %v", d, typ, a.hdr.Status, e, err)
			}
		}
	}
}

// Alignment and kind of the disk below: MS-FSA 2.1.5.13.10.
func TestSectorSizes(t *testing.T) {
	const aligned, partition, noSeek, trim = fscc.SSINFO_FLAGS_ALIGNED_DEVICE, fscc.SSINFO_FLAGS_PARTITION_ALIGNED_ON_DEVICE,
		fscc.SSINFO_FLAGS_NO_SEEK_PENALTY, fscc.SSINFO_FLAGS_TRIM_ENABLED
	for _, tt := range []struct {
		logical, physical uint32
		disk              fs.Disk
		want              [7]uint32
	}{
		{512, 4096, fs.Disk{Known: true, NoSeekPenalty: true, Trim: true}, [7]uint32{512, 4096, 4096, 4096, aligned | partition | noSeek | trim, 0, 0}},
		{512, 4096, fs.Disk{Known: true, Partition: 63 * 512}, [7]uint32{512, 4096, 4096, 4096, aligned, 0, 3584}},
		{512, 4096, fs.Disk{Known: true, Alignment: 512, Partition: 63 * 512}, [7]uint32{512, 4096, 4096, 4096, partition, 512, 3584}},
		{512, 4096, fs.Disk{Known: true, Partition: 1 << 20}, [7]uint32{512, 4096, 4096, 4096, aligned | partition, 0, 0}},
		{4096, 16384, fs.Disk{Known: true}, [7]uint32{4096, 16384, 16384, 4096, aligned | partition, 0, 0}},
		{512, 3000, fs.Disk{}, [7]uint32{512, 512, 512, 512, 0, fscc.SSINFO_OFFSET_UNKNOWN, fscc.SSINFO_OFFSET_UNKNOWN}},
	} {
		i := sectorSizes(&fs.Volume{BytesPerSec: tt.logical, PhysicalSec: tt.physical, Disk: tt.disk})
		got := [7]uint32{i.Logical, i.PhysicalForAtomicity, i.PhysicalForPerformance, i.EffectiveForAtomicity, i.Flags, i.SectorAlignment, i.PartitionAlignment}
		if got != tt.want {
			t.Errorf("%+v:\n got %+v\nwant %+v", tt.disk, got, tt.want)
		}
	}
}
