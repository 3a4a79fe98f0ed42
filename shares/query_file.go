package shares

import (
	"context"
	"encoding/binary"

	"lunless/shares/fs"
	"lunless/shares/state"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// queryFile answers the file information classes (MS-SMB2 3.3.5.20.1, MS-FSA
// 2.1.5.12).
func (o *open) queryFile(ctx context.Context, class fscc.InfoClass) (answer, error) {
	switch class {
	case fscc.FileAccessInformation:
		return whole(&fscc.AccessInfo{Access: fscc.AccessMask(o.access)})
	case fscc.FilePositionInformation:
		return whole(&fscc.PositionInfo{CurrentByteOffset: o.position.Load()})
	case fscc.FileModeInformation:
		return whole(&fscc.ModeInfo{Mode: o.mode.Load()})
	case fscc.FileAlignmentInformation:
		return whole(&fscc.AlignmentInfo{Requirement: fscc.FILE_BYTE_ALIGNMENT})
	case fscc.FileAlternateNameInformation:
		return o.queryShortName()
	case fscc.FileNormalizedNameInformation:
		return o.queryName()
	}
	if o.access&smb2.FileReadAttributes == 0 && needsReadAttributes(class) {
		return answer{}, smb2.StatusAccessDenied
	}
	info, err := o.stat(ctx)
	if err != nil {
		return answer{}, err
	}
	return o.queryStat(ctx, class, &info)
}

// needsReadAttributes are the classes of MS-SMB2 3.3.5.20.1 that tell attributes or times.
func needsReadAttributes(class fscc.InfoClass) bool {
	switch class {
	case fscc.FileBasicInformation, fscc.FileAllInformation, fscc.FileNetworkOpenInformation,
		fscc.FileAttributeTagInformation, fscc.FilePipeInformation, fscc.FilePipeLocalInformation,
		fscc.FilePipeRemoteInformation:
		return true
	}
	return false
}

// queryStat answers the classes that tell what the file system knows of the file.
func (o *open) queryStat(ctx context.Context, class fscc.InfoClass, info *fs.Info) (answer, error) {
	switch class {
	case fscc.FileBasicInformation:
		b := basicInfo(info)
		return whole(&b)
	case fscc.FileStandardInformation:
		s, err := o.standardInfo(ctx, info)
		return answer{&s, s.Size()}, err
	case fscc.FileEaInformation:
		return whole(&fscc.EaInfo{EaSize: info.EASize})
	case fscc.FileInternalInformation:
		return whole(&fscc.InternalInfo{IndexNumber: info.ID.Inode})
	case fscc.FileAllInformation:
		return o.queryAll(ctx, info)
	case fscc.FileStreamInformation:
		return o.queryStreams(ctx)
	case fscc.FileCompressionInformation:
		return whole(&fscc.CompressionInfo{CompressedFileSize: info.Size})
	case fscc.FileNetworkOpenInformation:
		n := networkOpenInfo(info)
		return whole(&n)
	case fscc.FileAttributeTagInformation:
		return whole(&fscc.AttributeTagInfo{Attributes: attributes(info)})
	case fscc.FileIdInformation:
		if o.session.dialect < smb2.Dialect300 {
			return answer{}, smb2.StatusNotSupported
		}
		id := &fscc.IDInfo{VolumeSerialNumber: info.ID.Volume}
		binary.LittleEndian.PutUint64(id.FileID[:], info.ID.Inode)
		return whole(id)
	}
	return answer{}, unknownClass(class)
}

// unknownClass tells classes of MS-FSCC that are not for this command from those
// that are none (MS-SMB2 3.3.5.20.1, notes 415 and 416: as Windows has them).
func unknownClass(class fscc.InfoClass) error {
	switch class {
	case fscc.FileNameInformation, fscc.FilePipeInformation, fscc.FilePipeLocalInformation,
		fscc.FilePipeRemoteInformation, fscc.FileMailslotQueryInformation, fscc.FileObjectIdInformation,
		fscc.FileQuotaInformation, fscc.FileReparsePointInformation, fscc.FileSfioReserveInformation,
		fscc.FileSfioVolumeInformation, fscc.FileHardLinkInformation, fscc.FileStandardLinkInformation,
		41, 43, 47, 49, 51, 53:
		return smb2.StatusNotSupported
	case 52:
		return smb2.StatusInfoLengthMismatch
	}
	return smb2.StatusInvalidInfoClass
}

// standardInfo counts a file that is going away as one link less (MS-FSA 2.1.5.12.27).
func (o *open) standardInfo(ctx context.Context, info *fs.Info) (fscc.StandardInfo, error) {
	s := fscc.StandardInfo{
		AllocationSize: allocation(info),
		EndOfFile:      info.Size,
		Links:          info.Links,
		Directory:      info.Dir,
	}
	if info.Dir {
		s.Links = 1
	}
	_, err := o.store.Update(ctx, o.fileID, func(r state.Record) (state.Record, state.Effects, error) {
		s.DeletePending = false
		for i := range r.Opens {
			s.DeletePending = s.DeletePending || r.Opens[i].ID == o.stateID() && r.IsDeleting(r.Opens[i].Link)
		}
		return r, state.Effects{}, nil
	})
	if s.DeletePending && s.Links > 0 {
		s.Links--
	}
	return s, err
}

func (o *open) queryAll(ctx context.Context, info *fs.Info) (answer, error) {
	standard, err := o.standardInfo(ctx, info)
	if err != nil {
		return answer{}, err
	}
	name, err := o.wireName()
	if err != nil {
		return answer{}, err
	}
	return answer{&fscc.AllInfo{
		Basic:     basicInfo(info),
		Standard:  standard,
		Internal:  fscc.InternalInfo{IndexNumber: info.ID.Inode},
		Ea:        fscc.EaInfo{EaSize: info.EASize},
		Access:    fscc.AccessInfo{Access: fscc.AccessMask(o.access)},
		Position:  fscc.PositionInfo{CurrentByteOffset: o.position.Load()},
		Mode:      fscc.ModeInfo{Mode: o.mode.Load()},
		Alignment: fscc.AlignmentInfo{Requirement: fscc.FILE_BYTE_ALIGNMENT},
		Name:      fscc.NameInfo{Name: `\` + name},
	}, allInfoLeast}, nil
}

// queryName is FileNormalizedNameInformation: SMB 3.1.1 only (MS-SMB2 3.3.5.20.1).
func (o *open) queryName() (answer, error) {
	if o.session.dialect < smb2.Dialect311 {
		return answer{}, smb2.StatusNotSupported
	}
	name, err := o.wireName()
	if err != nil {
		return answer{}, err
	}
	return answer{&fscc.NameInfo{Name: name}, nameInfoLeast}, nil
}

// queryShortName tells the short name (MS-FSA 2.1.5.12.4).
func (o *open) queryShortName() (answer, error) {
	path, err := o.file.Name()
	if err != nil {
		return answer{}, err
	}
	_, name := splitPath(path, '/')
	if name == "" {
		return answer{}, smb2.StatusObjectNameNotFound // the share's root
	}
	return answer{&fscc.NameInfo{Name: fs.ShortName(name)}, nameInfoLeast}, nil
}

// The least buffers that may be asked with (MS-FSA 2.1.5.12.3, 2.1.5.12.4,
// 2.1.5.12.29, 2.1.5.12.30).
const (
	allInfoLeast    = 104
	nameInfoLeast   = 8
	streamInfoLeast = 32
)

// raw is information that is encoded already.
type raw []byte

func (b raw) Size() int         { return len(b) }
func (b raw) Encode(dst []byte) { copy(dst, b) }
