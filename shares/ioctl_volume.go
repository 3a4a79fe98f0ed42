package shares

import (
	"context"
	"encoding/binary"

	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// getCompression says that nothing is compressed (MS-FSA 2.1.5.10.9, MS-HVRS C0008).
func getCompression(_ context.Context, r *request, req *smb2.IoctlRequest) error {
	return r.encodeIoctl(req, &fscc.CompressionState{Format: fscc.COMPRESSION_FORMAT_NONE})
}

// setCompression takes no more than what is (MS-FSA 2.1.5.10.30).
func setCompression(_ context.Context, r *request, req *smb2.IoctlRequest) error {
	var in fscc.CompressionState
	if err := in.Decode(req.Input); err != nil {
		return smb2.StatusInvalidParameter
	}
	if in.Format != fscc.COMPRESSION_FORMAT_NONE {
		return smb2.StatusNotSupported
	}
	return r.respondIoctl(smb2.StatusSuccess, req, nil)
}

// getIntegrity says that no file has checksums, and how large an allocation unit
// is (MS-FSA 2.1.5.10.10): what clones blocks asks for that first. Shares without
// block cloning have none of it, as NTFS.
func getIntegrity(ctx context.Context, r *request, req *smb2.IoctlRequest) error {
	vol, err := r.tree.fs.Volume(ctx)
	if err != nil {
		return err
	}
	if !vol.Reflink {
		return smb2.StatusInvalidDeviceRequest
	}
	return r.encodeIoctl(req, &fscc.GetIntegrity{Algorithm: fscc.CHECKSUM_TYPE_NONE, ClusterSize: uint32(clusterSize(&vol))})
}

// setIntegrity takes no more than what is (MS-FSA 2.1.5.10.33).
func setIntegrity(ctx context.Context, r *request, req *smb2.IoctlRequest) error {
	var in fscc.SetIntegrity
	if err := in.Decode(req.Input); err != nil {
		return smb2.StatusInvalidParameter
	}
	return r.keepIntegrity(ctx, req, in.Algorithm != fscc.CHECKSUM_TYPE_NONE && in.Algorithm != fscc.CHECKSUM_TYPE_UNCHANGED, in.Flags)
}

// setIntegrityEx is setIntegrity with a wider structure (MS-FSA 2.1.5.10.34).
func setIntegrityEx(ctx context.Context, r *request, req *smb2.IoctlRequest) error {
	var in fscc.SetIntegrityEx
	if err := in.Decode(req.Input); err != nil {
		return smb2.StatusInvalidParameter
	}
	return r.keepIntegrity(ctx, req, in.Enable && !in.Keep, in.Flags)
}

// keepIntegrity refuses checksums, and flags that only mean something with them.
func (r *request) keepIntegrity(ctx context.Context, req *smb2.IoctlRequest, enable bool, flags uint32) error {
	vol, err := r.tree.fs.Volume(ctx)
	switch {
	case err != nil:
		return err
	case !vol.Reflink || enable:
		return smb2.StatusInvalidDeviceRequest
	case flags != 0:
		return smb2.StatusInvalidParameter
	case r.tree.share.ReadOnly:
		return smb2.StatusMediaWriteProtected
	}
	return r.respondIoctl(smb2.StatusSuccess, req, nil)
}

// getNTFSVolumeData tells what there is to the volume besides NTFS's own tables,
// which it has not (MS-FSA 2.1.5.10.11).
func getNTFSVolumeData(ctx context.Context, r *request, req *smb2.IoctlRequest) error {
	vol, err := r.tree.fs.Volume(ctx)
	if err != nil {
		return err
	}
	unit := uint64(clusterSize(&vol))
	m := &fscc.NTFSVolumeData{
		SerialNumber: vol.Serial, Sectors: vol.TotalBytes / uint64(max(vol.BytesPerSec, 1)),
		TotalClusters: vol.TotalBytes / unit, FreeClusters: vol.FreeBytes / unit,
		BytesPerSector: vol.BytesPerSec, BytesPerCluster: uint32(unit), BytesPerFileRecord: fileRecord,
	}
	if int(req.MaxOutputResponse) < m.Size() {
		return smb2.StatusBufferTooSmall
	}
	return r.encodeIoctl(req, m)
}

// fileRecord is the size of a file record that NTFS has on most volumes, bytes.
const fileRecord = 1024

// getObjectID tells the file's object ID (MS-FSA 2.1.5.10.1, 2.1.5.10.13). Each
// file has one from the start, which stays as long as the file: it is made of
// what the file system knows the file by.
func getObjectID(_ context.Context, r *request, req *smb2.IoctlRequest) error {
	id := r.open.fileID
	object := objectID(id.Volume, id.Inode)
	return r.encodeIoctl(req, &fscc.ObjectIDBuffer{
		ObjectID: object, BirthVolumeID: objectID(id.Volume, 0), BirthObjectID: object,
	})
}

func objectID(volume, inode uint64) (g fscc.GUID) {
	binary.LittleEndian.PutUint64(g[0:], volume)
	binary.LittleEndian.PutUint64(g[8:], inode)
	return g
}
