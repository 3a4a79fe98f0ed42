package shares

import (
	"context"
	"encoding/binary"
	"errors"

	"lunless/shares/fs"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// duplicateExtents lets a range of the file share blocks with one of another open
// of the session (MS-SMB2 3.3.5.15.17, MS-FSA 2.1.5.10.4).
func duplicateExtents(ctx context.Context, r *request, req *smb2.IoctlRequest) error {
	var in fscc.DuplicateExtents
	if err := in.Decode(req.Input); err != nil {
		return smb2.StatusInvalidParameter
	}
	return r.clone(ctx, req, &in, false)
}

// duplicateExtentsEx may ask for all or nothing (MS-SMB2 3.3.5.15.18, MS-FSA 2.1.5.10.5).
func duplicateExtentsEx(ctx context.Context, r *request, req *smb2.IoctlRequest) error {
	var in fscc.DuplicateExtentsEx
	if len(req.Input) >= in.Size() && binary.LittleEndian.Uint64(req.Input) != fscc.DuplicateExtentsExStructureSize {
		return smb2.StatusNotSupported
	}
	if err := in.Decode(req.Input); err != nil {
		return smb2.StatusInvalidParameter
	}
	return r.clone(ctx, req, &in.DuplicateExtents, in.Flags&fscc.DUPLICATE_EXTENTS_DATA_EX_SOURCE_ATOMIC != 0)
}

func (r *request) clone(ctx context.Context, req *smb2.IoctlRequest, in *fscc.DuplicateExtents, atomic bool) error {
	vol, err := r.tree.fs.Volume(ctx)
	if err != nil {
		return err
	}
	if !vol.Reflink {
		return smb2.StatusInvalidDeviceRequest
	}
	dst, src := r.open, r.session.findOpen(smb2.FileID{
		Persistent: binary.LittleEndian.Uint64(in.SourceFileID[0:]), Volatile: binary.LittleEndian.Uint64(in.SourceFileID[8:]),
	})
	if src == nil {
		return smb2.StatusInvalidHandle
	}
	unit := clusterSize(&vol)
	const readable = smb2.FileReadData | smb2.FileReadAttributes
	switch {
	case in.SourceOffset%unit != 0, in.TargetOffset%unit != 0, in.ByteCount%unit != 0:
		return smb2.StatusInvalidParameter
	case in.ByteCount == 0:
		return r.respondIoctl(smb2.StatusSuccess, req, nil)
	case dst.dir:
		return smb2.StatusNotSupported
	case src.file == nil || src.dir, src.access&readable != readable, src.fileID.Volume != dst.fileID.Volume:
		return smb2.StatusInvalidParameter
	}
	return r.long(ctx, req, func(ctx context.Context) outcome {
		err := cloneExtents(ctx, dst, src, in, unit, atomic)
		dst.wrote(ctx, in.TargetOffset, in.ByteCount)
		return done(errors.Join(err, dst.through(ctx)))
	})
}

// cloneExtents never moves the end of file: what is cloned to behind it is nowhere
// to be seen.
func cloneExtents(ctx context.Context, dst, src *open, in *fscc.DuplicateExtents, unit int64, atomic bool) error {
	from, err := src.stat(ctx)
	if err != nil {
		return err
	}
	to, err := dst.stat(ctx)
	if err != nil {
		return err
	}
	const sparse = fscc.FILE_ATTRIBUTE_SPARSE_FILE
	switch {
	case in.SourceOffset+in.ByteCount > from.Size, from.Attributes&sparse != 0 && to.Attributes&sparse == 0:
		return smb2.StatusNotSupported
	case src.fileID == dst.fileID && overlap(in.SourceOffset, in.ByteCount, in.TargetOffset, in.ByteCount):
		return smb2.StatusNotSupported
	}
	if err := dst.beginWrite(ctx, uint64(in.TargetOffset), uint64(in.ByteCount)); err != nil {
		return err
	}
	if err := src.beginRead(ctx, uint64(in.SourceOffset), uint64(in.ByteCount)); err != nil {
		return err
	}
	n := min(in.ByteCount, to.Size-in.TargetOffset)
	if n <= 0 {
		return nil
	}
	if !atomic {
		return cloneUpTo(ctx, dst.file, src.file, in.SourceOffset, in.TargetOffset, n, unit)
	}
	before, err := fs.Snapshot(ctx, dst.file, in.TargetOffset, n)
	if err != nil {
		return err
	}
	defer before.Close()
	if err = cloneUpTo(ctx, dst.file, src.file, in.SourceOffset, in.TargetOffset, n, unit); err != nil {
		undo := cloneUpTo(context.WithoutCancel(ctx), dst.file, before, in.TargetOffset, in.TargetOffset, n, unit)
		return errors.Join(err, undo)
	}
	return nil
}

// cloneUpTo clones n bytes. What is left over of whole units, at the target's end,
// is copied: a clone would move the end of file to the unit's.
func cloneUpTo(ctx context.Context, dst, src fs.File, from, to, n, unit int64) error {
	whole := n / unit * unit
	if err := fs.CloneRange(ctx, dst, src, from, to, whole); err != nil || whole == n {
		return err
	}
	copied, err := dst.CopyRange(ctx, src, from+whole, to+whole, n-whole)
	if err == nil && copied < n-whole {
		err = errCopiedShort
	}
	return err
}

// clusterSize is the allocation unit, bytes.
func clusterSize(v *fs.Volume) int64 {
	return int64(max(v.BytesPerSec, 1)) * int64(max(v.SectorsPerUnit, 1))
}
