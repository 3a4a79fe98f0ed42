package shares

import (
	"context"
	"fmt"
	"time"

	"lunless/shares/fs"
	"lunless/shares/state"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// handleSetInfo changes what is known about an open's file (MS-SMB2 3.3.5.21).
func handleSetInfo(ctx context.Context, r *request) error {
	var req smb2.SetInfoRequest
	if err := req.Decode(r.msg); err != nil {
		return err
	}
	o := r.open
	if len(req.Buffer) == 0 {
		return smb2.StatusInvalidParameter
	}
	if o.pipe != nil {
		return r.setPipeInfo(&req)
	}
	return r.waiting(ctx, func(ctx context.Context, _ bool) error { return r.setInfo(ctx, &req) }, giveUp)
}

// setInfo does what SET_INFO says. It returns a *mustWait, with nothing done, as
// long as others have to give up what they cache first.
func (r *request) setInfo(ctx context.Context, req *smb2.SetInfoRequest) error {
	o := r.open
	var err error
	switch req.InfoType {
	case smb2.InfoFile:
		err = r.setFile(ctx, fscc.InfoClass(req.FileInfoClass), req.Buffer)
	case smb2.InfoFilesystem:
		err = o.refuseSetFilesystem(fscc.FsInfoClass(req.FileInfoClass))
	case smb2.InfoSecurity:
		err = o.setSecurity(ctx, fscc.SecurityInformation(req.AdditionalInformation), req.Buffer)
		if err == nil {
			o.modified(ctx, smb2.NotifyChangeSecurity)
		}
	case smb2.InfoQuota:
		err = smb2.StatusNotSupported
	default:
		err = smb2.StatusInvalidParameter
	}
	o.times.wrote() // what has been set may have moved times that are pinned
	if err == nil && o.ca {
		err = o.flush(ctx)
	}
	if err != nil {
		return err
	}
	return r.respond(&smb2.SetInfoResponse{})
}

// setNeeds are the rights that setting a class takes (MS-SMB2 3.3.5.21.1); those
// that are not here can be set on any open.
var setNeeds = map[fscc.InfoClass]smb2.AccessMask{
	fscc.FileBasicInformation:           smb2.FileWriteAttributes,
	fscc.FileRenameInformation:          smb2.Delete,
	fscc.FileDispositionInformation:     smb2.Delete,
	fscc.FileDispositionInformationEx:   smb2.Delete,
	fscc.FileShortNameInformation:       smb2.Delete,
	fscc.FileFullEaInformation:          smb2.FileWriteEA,
	fscc.FileAllocationInformation:      smb2.FileWriteData,
	fscc.FileEndOfFileInformation:       smb2.FileWriteData,
	fscc.FileValidDataLengthInformation: smb2.FileWriteData,
}

func (r *request) setFile(ctx context.Context, class fscc.InfoClass, b []byte) error {
	o := r.open
	if need := setNeeds[class]; need&^o.access != 0 {
		return smb2.StatusAccessDenied
	}
	switch class {
	case fscc.FileBasicInformation:
		return o.setBasic(ctx, b)
	case fscc.FileDispositionInformation:
		var d fscc.DispositionInfo
		if err := d.Decode(b); err != nil {
			return err
		}
		return o.setDelete(ctx, d.DeletePending, false)
	case fscc.FileDispositionInformationEx:
		return o.setDispositionEx(ctx, b)
	case fscc.FileRenameInformation:
		return r.rename(ctx, b)
	case fscc.FileLinkInformation:
		return r.link(ctx, b)
	case fscc.FileEndOfFileInformation:
		var e fscc.EndOfFileInfo
		if err := e.Decode(b); err != nil {
			return err
		}
		return o.resize(ctx, e.EndOfFile)
	case fscc.FileAllocationInformation:
		return o.setAllocation(ctx, b)
	case fscc.FileValidDataLengthInformation:
		return o.setValidLength(ctx, b)
	case fscc.FilePositionInformation:
		var p fscc.PositionInfo
		if err := p.Decode(b); err != nil {
			return err
		}
		o.position.Store(p.CurrentByteOffset)
		return nil
	case fscc.FileModeInformation:
		return o.setMode(b)
	case fscc.FileFullEaInformation:
		return o.setEAs(ctx, b)
	}
	return refuseSet(class)
}

// refuseSet answers for classes that are not set over the wire, or not here
// (MS-SMB2 3.3.5.21.1).
func refuseSet(class fscc.InfoClass) error {
	switch class {
	case fscc.FilePipeInformation, fscc.FileMailslotSetInformation, fscc.FileObjectIdInformation,
		fscc.FileQuotaInformation, fscc.FileReparsePointInformation, fscc.FileShortNameInformation,
		fscc.FileSfioReserveInformation, fscc.FileRenameInformationEx, 30, 41, 42, 43:
		return smb2.StatusNotSupported
	}
	return smb2.StatusInvalidInfoClass
}

// refuseSetFilesystem answers for what is set of a file system (MS-SMB2
// 3.3.5.21.2): a volume's identity is not changed from afar, as on Windows (note
// 423), and there are no quotas to set (MS-FSA 2.1.5.16.6).
func (o *open) refuseSetFilesystem(class fscc.FsInfoClass) error {
	switch class {
	case fscc.FileFsObjectIdInformation:
		return smb2.StatusAccessDenied
	case fscc.FileFsControlInformation:
		if o.access&smb2.FileWriteData == 0 {
			return smb2.StatusAccessDenied
		}
		return smb2.StatusVolumeNotUpgraded
	case fscc.FileFsLabelInformation, fscc.FileFsDriverPathInformation, fscc.FileFsVolumeFlagsInformation:
		return smb2.StatusNotSupported
	}
	return smb2.StatusInvalidInfoClass
}

// setBasic sets times and attributes (MS-FSA 2.1.5.15.2). A time that is set, or
// frozen with -1, is pinned on the open; -2 lets it go.
func (o *open) setBasic(ctx context.Context, b []byte) (err error) {
	var in fscc.BasicInfo
	if err := in.Decode(b); err != nil {
		return err
	}
	switch {
	case in.Attributes&fscc.FILE_ATTRIBUTE_DIRECTORY != 0 && !o.dir,
		in.Attributes&fscc.FILE_ATTRIBUTE_TEMPORARY != 0 && o.dir:
		return smb2.StatusInvalidParameter
	}
	o.settleWrites(ctx) // a write that does not show yet is not frozen away
	defer o.settleWrites(ctx)
	now, err := o.stat(ctx)
	if err != nil {
		return err
	}
	if in.Attributes != 0 {
		settable := fs.Attributes(attributesSettable)
		if name, err := o.file.Name(); err == nil && name == "" {
			settable &^= fscc.FILE_ATTRIBUTE_HIDDEN | fscc.FILE_ATTRIBUTE_SYSTEM
		}
		want := now.Attributes&^settable | fs.Attributes(in.Attributes)&settable
		if want != now.Attributes {
			if err := o.file.SetAttributes(ctx, want); err != nil {
				return err
			}
		}
	}
	defer func() {
		if err == nil {
			o.modified(ctx, basicFilter(&in))
		}
	}()
	var set, pin fs.TimeChange
	set.Created, _ = timeChange(in.CreationTime, now.Created)
	set.Accessed, pin.Accessed = timeChange(in.LastAccessTime, now.Accessed)
	set.Written, pin.Written = timeChange(in.LastWriteTime, now.Written)
	set.Changed, pin.Changed = timeChange(in.ChangeTime, now.Changed)
	o.times.pin(pin)
	if set == (fs.TimeChange{}) {
		return nil
	}
	return o.file.SetTimes(ctx, set)
}

// timeChange is what a time of FileBasicInformation sets, and what it pins.
func timeChange(t fscc.Filetime, now time.Time) (set, pin *time.Time) {
	switch t {
	case fscc.FiletimeUnchanged:
		return nil, nil
	case fscc.FiletimeFreeze:
		return nil, &now
	case fscc.FiletimeThaw:
		return nil, &time.Time{}
	}
	v := t.Time()
	return &v, &v
}

// setDelete marks the file to be deleted with its last open, or takes the mark
// back (MS-FSA 2.1.5.15.3).
func (o *open) setDelete(ctx context.Context, pending, evenReadOnly bool) error {
	if pending {
		info, err := o.file.Stat(ctx)
		if err != nil {
			return err
		}
		if info.Attributes&fscc.FILE_ATTRIBUTE_READONLY != 0 && !evenReadOnly {
			return smb2.StatusCannotDelete
		}
		if name, err := o.file.Name(); err == nil && name == "" && o.stream == nil {
			return smb2.StatusAccessDenied // the share itself
		}
		if o.dir {
			if err := isEmpty(ctx, o.file); err != nil {
				return err
			}
		}
	}
	if pending {
		if err := o.breakHandles(ctx, state.BreakForDelete); err != nil {
			return err
		}
	}
	_, err := o.store.Update(ctx, o.fileID, state.SetDeletePending(o.stateID(), pending))
	if err == nil && pending && o.dir {
		o.watch.doom()
		o.share.srv.notifier.doomed(o.fileID)
	}
	return err
}

func isEmpty(ctx context.Context, f fs.File) error {
	d, err := f.ReadDir(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	if _, err := d.Next(nil); err == nil {
		return fs.ErrNotEmpty
	}
	return nil
}

// setDispositionEx is setDelete with flags (MS-FSA 2.1.5.15.4). Names do not go
// before the last open does, so that POSIX semantics are refused.
func (o *open) setDispositionEx(ctx context.Context, b []byte) error {
	const known = fscc.FILE_DISPOSITION_DELETE | fscc.FILE_DISPOSITION_FORCE_IMAGE_SECTION_CHECK |
		fscc.FILE_DISPOSITION_IGNORE_READONLY_ATTRIBUTE
	var d fscc.DispositionInfoEx
	if err := d.Decode(b); err != nil {
		return err
	}
	if d.Flags&^known != 0 {
		return smb2.StatusNotSupported
	}
	evenReadOnly := d.Flags&fscc.FILE_DISPOSITION_IGNORE_READONLY_ATTRIBUTE != 0 && o.access&smb2.FileWriteAttributes != 0
	return o.setDelete(ctx, d.Flags&fscc.FILE_DISPOSITION_DELETE != 0, evenReadOnly)
}

// resize sets the end of file (MS-FSA 2.1.5.15.5). What it cuts off or adds must
// not be locked by others (2.1.4.10 as for a write).
func (o *open) resize(ctx context.Context, size int64) error {
	if o.dir {
		return smb2.StatusInvalidParameter
	}
	if err := o.breakOthers(ctx, state.BreakForSize); err != nil {
		return err
	}
	info, err := o.file.Stat(ctx)
	if err != nil {
		return err
	}
	from, to := min(size, info.Size), max(size, info.Size)
	if err := o.checkWrite(uint64(from), uint64(to-from)); err != nil {
		return err
	}
	if err := o.file.Truncate(ctx, size); err != nil {
		return err
	}
	o.settleWrites(ctx)
	o.breakLate(ctx)
	o.modified(ctx, smb2.NotifyChangeSize)
	return o.through(ctx)
}

// setAllocation reserves room, or cuts the file, which others must not have locked
// there (MS-FSA 2.1.5.15.1).
func (o *open) setAllocation(ctx context.Context, b []byte) error {
	var a fscc.AllocationInfo
	if err := a.Decode(b); err != nil {
		return err
	}
	if o.dir {
		return smb2.StatusInvalidParameter
	}
	if err := o.breakOthers(ctx, state.BreakForSize); err != nil {
		return err
	}
	info, err := o.file.Stat(ctx)
	if err != nil {
		return err
	}
	if cut := info.Size - a.AllocationSize; cut > 0 { // as resize would
		if err := o.checkWrite(uint64(a.AllocationSize), uint64(cut)); err != nil {
			return err
		}
	}
	if err := o.file.SetAllocation(ctx, a.AllocationSize); err != nil {
		return err
	}
	o.settleWrites(ctx)
	o.breakLate(ctx)
	o.modified(ctx, smb2.NotifyChangeSize)
	return o.through(ctx)
}

// setValidLength only checks (MS-FSA 2.1.5.15.15): bytes that were never written
// read as zeroes here, whatever the length they are valid to.
func (o *open) setValidLength(ctx context.Context, b []byte) error {
	var v fscc.ValidDataLengthInfo
	if err := v.Decode(b); err != nil {
		return err
	}
	if o.session.token.Privileges&fscc.SeManageVolumePrivilege == 0 {
		return smb2.StatusPrivilegeNotHeld
	}
	info, err := o.file.Stat(ctx)
	if err != nil {
		return err
	}
	if o.dir || v.ValidDataLength > info.Size {
		return smb2.StatusInvalidParameter
	}
	return nil
}

// setMode takes the modes an open may change (MS-FSA 2.1.5.15.8). Opens over the
// wire are never synchronous (MS-SMB2 3.3.5.9), so those modes are not theirs.
func (o *open) setMode(b []byte) error {
	const settable = fscc.FILE_WRITE_THROUGH | fscc.FILE_SEQUENTIAL_ONLY
	var m fscc.ModeInfo
	if err := m.Decode(b); err != nil {
		return err
	}
	if m.Mode&^settable != 0 {
		return fmt.Errorf("mode %#x: %w", m.Mode, smb2.StatusInvalidParameter)
	}
	old := o.mode.Load()
	mode := old&^fscc.FILE_SEQUENTIAL_ONLY | m.Mode&fscc.FILE_SEQUENTIAL_ONLY
	if old&fscc.FILE_NO_INTERMEDIATE_BUFFERING == 0 {
		mode = mode&^fscc.FILE_WRITE_THROUGH | m.Mode&fscc.FILE_WRITE_THROUGH
	}
	o.mode.Store(mode)
	return nil
}
