package shares

import (
	"context"
	"encoding/binary"
	"fmt"

	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// control answers one control code; in is the request's input, its output at most
// req.MaxOutputResponse bytes.
type control func(ctx context.Context, r *request, req *smb2.IoctlRequest) error

// controlsOfConnection need no open: their FileId must be all ones (MS-SMB2 3.3.5.15).
var controlsOfConnection = map[smb2.CtlCode]control{
	smb2.FsctlDFSGetReferrals:           refuse(smb2.StatusFSDriverRequired), // the server has no DFS
	smb2.FsctlDFSGetReferralsEx:         refuse(smb2.StatusFSDriverRequired),
	smb2.FsctlQueryNetworkInterfaceInfo: queryInterfaces,
	smb2.FsctlValidateNegotiateInfo:     validateNegotiateInfo,
	smb2.FsctlPipeWait:                  waitForPipe,
}

// notHere refuses what a server may be asked and this file system has not (MS-FSA 2.1.5.10).
var notHere = refuse(smb2.StatusInvalidDeviceRequest)

// controlsOfFile are those a client may ask of files and folders: what MS-SMB2
// 2.2.31 names and what its note 380 adds. A server does not hand on any other:
// STATUS_NOT_SUPPORTED (MS-SMB2 3.3.5.15, 3.3.5.15.8).
var controlsOfFile = map[smb2.CtlCode]control{
	smb2.FsctlSrvRequestResumeKey:   requestResumeKey,
	smb2.FsctlSrvCopychunk:          copyChunks,
	smb2.FsctlSrvCopychunkWrite:     copyChunks,
	smb2.FsctlSrvEnumerateSnapshots: enumerateSnapshots,
	smb2.FsctlLMRRequestResiliency:  requestResiliency,
	smb2.FsctlSrvReadHash:           refuse(smb2.StatusNotSupported), // no BranchCache (MS-SMB2 3.3.5.15.7)
	smb2.FsctlPipePeek:              notHere,                         // of files (MS-SMB2 notes 385, 389)
	smb2.FsctlPipeTransceive:        notHere,

	fscc.FSCTL_SET_SPARSE:             setSparse,
	fscc.FSCTL_SET_ZERO_DATA:          setZeroData,
	fscc.FSCTL_QUERY_ALLOCATED_RANGES: queryAllocatedRanges,
	fscc.FSCTL_QUERY_FILE_REGIONS:     queryFileRegions,
	fscc.FSCTL_FILE_LEVEL_TRIM:        trim,

	fscc.FSCTL_OFFLOAD_READ:                 offloadRead,
	fscc.FSCTL_OFFLOAD_WRITE:                offloadWrite,
	fscc.FSCTL_DUPLICATE_EXTENTS_TO_FILE:    duplicateExtents,
	fscc.FSCTL_DUPLICATE_EXTENTS_TO_FILE_EX: duplicateExtentsEx,
	fscc.FSCTL_GET_INTEGRITY_INFORMATION:    getIntegrity,
	fscc.FSCTL_SET_INTEGRITY_INFORMATION:    setIntegrity,
	fscc.FSCTL_SET_INTEGRITY_INFORMATION_EX: setIntegrityEx,

	fscc.FSCTL_GET_COMPRESSION:      getCompression,
	fscc.FSCTL_SET_COMPRESSION:      setCompression,
	fscc.FSCTL_GET_NTFS_VOLUME_DATA: getNTFSVolumeData,
	fscc.FSCTL_IS_PATHNAME_VALID:    isPathnameValid,
	fscc.FSCTL_MARK_HANDLE:          markHandle,

	// A file has its object ID from the start and keeps it.
	fscc.FSCTL_CREATE_OR_GET_OBJECT_ID: getObjectID,
	fscc.FSCTL_GET_OBJECT_ID:           getObjectID,
	fscc.FSCTL_SET_OBJECT_ID:           notHere,
	fscc.FSCTL_SET_OBJECT_ID_EXTENDED:  notHere,
	fscc.FSCTL_DELETE_OBJECT_ID:        notHere,

	// No reparse points, encryption, USN journal, quota by SID, defects, UDF, FAT or ReFS.
	fscc.FSCTL_GET_REPARSE_POINT:                   notHere,
	fscc.FSCTL_SET_REPARSE_POINT:                   notHere,
	fscc.FSCTL_DELETE_REPARSE_POINT:                notHere,
	fscc.FSCTL_FILESYSTEM_GET_STATISTICS:           notHere,
	fscc.FSCTL_FIND_FILES_BY_SID:                   notHere,
	fscc.FSCTL_GET_RETRIEVAL_POINTERS:              notHere,
	fscc.FSCTL_GET_RETRIEVAL_POINTERS_AND_REFCOUNT: notHere,
	fscc.FSCTL_GET_RETRIEVAL_POINTER_COUNT:         notHere,
	fscc.FSCTL_REFS_STREAM_SNAPSHOT_MANAGEMENT:     notHere,
	fscc.FSCTL_GET_REFS_VOLUME_DATA:                notHere,
	fscc.FSCTL_LMR_SET_LINK_TRACKING_INFORMATION:   notHere,
	fscc.FSCTL_QUERY_FAT_BPB:                       notHere,
	fscc.FSCTL_QUERY_ON_DISK_VOLUME_INFO:           notHere,
	fscc.FSCTL_QUERY_SPARING_INFO:                  notHere,
	fscc.FSCTL_READ_FILE_USN_DATA:                  notHere,
	fscc.FSCTL_WRITE_USN_CLOSE_RECORD:              notHere,
	fscc.FSCTL_SET_DEFECT_MANAGEMENT:               notHere,
	fscc.FSCTL_SET_ENCRYPTION:                      notHere,
	fscc.FSCTL_SET_ZERO_ON_DEALLOCATION:            notHere,
	fscc.FSCTL_SIS_COPYFILE:                        notHere,

	// Shared virtual disks and storage QoS: MS-SMB2 3.3.5.15, MS-RSVD 3.2.5.6, MS-SQOS 3.2.5.1.
	smb2.FsctlSVHDXSyncTunnel:               notHere,
	smb2.FsctlSVHDXAsyncTunnel:              notHere,
	smb2.FsctlQuerySharedVirtualDiskSupport: notHere,
	smb2.FsctlStorageQoSControl:             notHere,
}

func refuse(status smb2.Status) control {
	return func(context.Context, *request, *smb2.IoctlRequest) error { return status }
}

// handleIoctl answers control codes (MS-SMB2 3.3.5.15).
func handleIoctl(ctx context.Context, r *request) error {
	var req smb2.IoctlRequest
	if err := req.Decode(r.msg); err != nil {
		return err
	}
	err := r.control(ctx, &req)
	if err != nil && !isFatal(err) {
		return fmt.Errorf("control code %#08x: %w", uint32(req.CtlCode), err)
	}
	return err
}

func (r *request) control(ctx context.Context, req *smb2.IoctlRequest) error {
	if req.Flags != smb2.IoctlIsFSCTL {
		return smb2.StatusNotSupported
	}
	if f, ok := controlsOfConnection[req.CtlCode]; ok {
		if r.open != nil {
			return smb2.StatusInvalidParameter
		}
		return f(ctx, r, req)
	}
	if r.open == nil {
		return smb2.StatusFileClosed
	}
	f, ok := controlsOfFile[req.CtlCode]
	switch {
	case !ok:
		return smb2.StatusNotSupported
	case r.open.pipe != nil:
		return pipeControl(ctx, r, req)
	case !r.open.permits(req.CtlCode):
		return smb2.StatusAccessDenied
	}
	return f(ctx, r, req)
}

// needsNoOpen says whether an IOCTL's control code is one of controlsOfConnection:
// any FileId but all ones is a mistake then, and not an open that is closed
// (MS-SMB2 3.3.5.15).
func needsNoOpen(msg []byte) bool {
	_, ok := controlsOfConnection[smb2.CtlCode(binary.LittleEndian.Uint32(msg[smb2.HeaderSize+4:]))]
	return ok
}

// permits says whether the open has the rights that a file system's control code
// asks for in its bits 14 (FILE_READ_ACCESS) and 15 (FILE_WRITE_ACCESS). Most have
// none of them set; then the code's own rules decide.
func (o *open) permits(code smb2.CtlCode) bool {
	const fileSystem, read, write = 0x0009, 1 << 14, 1 << 15
	if code>>16 != fileSystem {
		return true
	}
	return (code&read == 0 || o.access&smb2.FileReadData != 0) && (code&write == 0 || o.access&smb2.FileWriteData != 0)
}

// respondIoctl answers with output. What is larger than the client's buffer is
// the caller's to refuse.
func (r *request) respondIoctl(status smb2.Status, req *smb2.IoctlRequest, output []byte) error {
	return r.respondStatus(status, &smb2.IoctlResponse{CtlCode: req.CtlCode, FileID: req.FileID, Output: output})
}

// encodeIoctl is respondIoctl of a structure: STATUS_INVALID_PARAMETER where it does not fit.
func (r *request) encodeIoctl(req *smb2.IoctlRequest, m encoder) error {
	if m.Size() > int(req.MaxOutputResponse) {
		return smb2.StatusInvalidParameter
	}
	return r.respondIoctl(smb2.StatusSuccess, req, encoded(m))
}

func encoded(m encoder) []byte {
	b := make([]byte, m.Size())
	m.Encode(b)
	return b
}

func validateNegotiateInfo(_ context.Context, r *request, req *smb2.IoctlRequest) error {
	var q smb2.ValidateNegotiateInfoRequest
	if err := q.Decode(req.Input); err != nil {
		return errDisconnect
	}
	m, err := r.conn.validateNegotiate(&q)
	if err != nil {
		return err
	}
	return r.encodeIoctl(req, &m)
}

// enumerateSnapshots says that there are no earlier versions (MS-SMB2 3.3.5.15.1).
func enumerateSnapshots(_ context.Context, r *request, req *smb2.IoctlRequest) error {
	const least = 16
	if req.MaxOutputResponse < least {
		return smb2.StatusInvalidParameter
	}
	m := smb2.NewSnapshotArray(nil)
	return r.encodeIoctl(req, &m)
}

// isPathnameValid is true of every name (MS-FSA 2.1.5.10.18).
func isPathnameValid(_ context.Context, r *request, req *smb2.IoctlRequest) error {
	return r.respondIoctl(smb2.StatusSuccess, req, nil)
}

// markHandle is for SMB 3.1.1 alone, and for files with copies (MS-SMB2 3.3.5.15.19).
func markHandle(_ context.Context, r *request, req *smb2.IoctlRequest) error {
	if r.conn.neg.dialect != smb2.Dialect311 {
		return smb2.StatusNotSupported
	}
	return smb2.StatusInvalidDeviceRequest
}
