package shares

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

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
	smb2.FsctlQueryNetworkInterfaceInfo: refuse(smb2.StatusInvalidDeviceRequest), // one channel a session
	smb2.FsctlValidateNegotiateInfo:     validateNegotiateInfo,
	smb2.FsctlPipeWait:                  waitForPipe,
}

// controlsOfFile are those of files and folders. What is neither here nor among
// controlsBlocked is not known to this file system: STATUS_INVALID_DEVICE_REQUEST.
var controlsOfFile = map[smb2.CtlCode]control{
	smb2.FsctlSrvRequestResumeKey:      requestResumeKey,
	smb2.FsctlSrvCopychunk:             copyChunks,
	smb2.FsctlSrvCopychunkWrite:        copyChunks,
	smb2.FsctlSrvEnumerateSnapshots:    enumerateSnapshots,
	fscc.FSCTL_SET_SPARSE:              setSparse,
	fscc.FSCTL_SET_ZERO_DATA:           setZeroData,
	fscc.FSCTL_QUERY_ALLOCATED_RANGES:  queryAllocatedRanges,
	fscc.FSCTL_FILE_LEVEL_TRIM:         trim,
	fscc.FSCTL_GET_COMPRESSION:         getCompression,
	fscc.FSCTL_SET_COMPRESSION:         setCompression,
	fscc.FSCTL_IS_PATHNAME_VALID:       isPathnameValid,
	fscc.FSCTL_CREATE_OR_GET_OBJECT_ID: getObjectID,
	fscc.FSCTL_GET_OBJECT_ID:           getObjectID,
}

// controlsBlocked are control codes a server does not hand on to file systems
// (MS-SMB2 3.3.5.15.8, note 397).
var controlsBlocked = map[smb2.CtlCode]bool{
	0x00090000: true, 0x00090004: true, 0x00090008: true, 0x0009000C: true, 0x00090010: true, 0x00090014: true, // oplocks
	0x0009005C: true, 0x00090240: true,
	0x00090074: true, 0x0009003B: true, 0x0009006F: true, 0x00090068: true, 0x00090054: true, // the volume's clusters
	0x000900BB: true, 0x000900E7: true, 0x000900F4: true, 0x000900F8: true, 0x000900B3: true, // USN journal
	0x00110000: true, 0x000901F0: true, 0x000901F4: true, 0x00090230: true, 0x00090234: true,
	0x00090238: true, 0x0009023C: true, 0x00090248: true, 0x0009025C: true,
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
	o := r.open
	switch {
	case o == nil:
		return smb2.StatusFileClosed
	case controlsBlocked[req.CtlCode]:
		return smb2.StatusNotSupported
	case o.pipe != nil:
		return pipeControl(ctx, r, req)
	}
	f, ok := controlsOfFile[req.CtlCode]
	if !ok {
		return smb2.StatusInvalidDeviceRequest
	}
	return f(ctx, r, req)
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
	b := make([]byte, m.Size())
	m.Encode(b)
	return r.respondIoctl(smb2.StatusSuccess, req, b)
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
	m := smb2.NewSnapshotArray(nil)
	return r.encodeIoctl(req, &m)
}

// setSparse lets the file have holes, or fills them (MS-FSA 2.1.5.10.38).
func setSparse(ctx context.Context, r *request, req *smb2.IoctlRequest) error {
	o, in := r.open, fscc.SetSparse{Sparse: true}
	if len(req.Input) > 0 {
		if err := in.Decode(req.Input); err != nil {
			return err
		}
	}
	if o.dir {
		return smb2.StatusInvalidParameter
	}
	if o.access&(smb2.FileWriteData|smb2.FileAppendData|smb2.FileWriteAttributes) == 0 {
		return smb2.StatusAccessDenied
	}
	info, err := o.stat(ctx)
	if err != nil {
		return err
	}
	attrs := info.Attributes &^ fscc.FILE_ATTRIBUTE_SPARSE_FILE
	if in.Sparse {
		attrs |= fscc.FILE_ATTRIBUTE_SPARSE_FILE
	} else if info.Size > info.AllocationSize {
		if err := o.file.SetAllocation(ctx, info.Size); err != nil {
			return err
		}
	}
	if attrs != info.Attributes {
		if err := o.file.SetAttributes(ctx, attrs); err != nil {
			return err
		}
	}
	return r.respondIoctl(smb2.StatusSuccess, req, nil)
}

// setZeroData makes a range read as zeroes (MS-FSA 2.1.5.10.39).
func setZeroData(ctx context.Context, r *request, req *smb2.IoctlRequest) error {
	o := r.open
	var in fscc.ZeroData
	if err := in.Decode(req.Input); err != nil || o.dir {
		return smb2.StatusInvalidParameter
	}
	if o.access&smb2.FileWriteData == 0 {
		return smb2.StatusAccessDenied
	}
	if err := o.zero(ctx, in.Offset, in.Beyond-in.Offset); err != nil {
		return err
	}
	if err := o.through(ctx); err != nil {
		return err
	}
	return r.respondIoctl(smb2.StatusSuccess, req, nil)
}

// zero zeroes what of a range lies in the file, unless another open has it locked.
func (o *open) zero(ctx context.Context, off, n int64) error {
	info, err := o.file.Stat(ctx)
	if err != nil {
		return err
	}
	if n = min(n, info.Size-off); n <= 0 {
		return nil
	}
	if err := o.checkWrite(uint64(off), uint64(n)); err != nil {
		return err
	}
	return o.file.Zero(ctx, off, n)
}

// trim gives back the room of ranges the client needs no more (MS-FSA
// 2.1.5.10.6), in whole pages. They read as zeroes then.
func trim(ctx context.Context, r *request, req *smb2.IoctlRequest) error {
	const page = 4096
	o := r.open
	var in fscc.Trim
	if err := in.Decode(req.Input); err != nil || o.dir || len(in.Ranges) == 0 {
		return smb2.StatusInvalidParameter
	}
	if req.MaxOutputResponse != 0 && int(req.MaxOutputResponse) < (fscc.TrimReply{}).Size() {
		return smb2.StatusInvalidParameter
	}
	if o.access&smb2.FileWriteData == 0 {
		return smb2.StatusAccessDenied
	}
	var done fscc.TrimReply
	for _, t := range in.Ranges {
		from := (t.Offset + page - 1) &^ (page - 1)
		n := (t.Offset+t.Length)&^(page-1) - from
		if t.Offset > math.MaxInt64-page || n <= 0 {
			continue
		}
		if err := o.zero(ctx, from, n); err != nil {
			return err
		}
		done.RangesProcessed++
	}
	if err := o.through(ctx); err != nil {
		return err
	}
	if req.MaxOutputResponse == 0 {
		return r.respondIoctl(smb2.StatusSuccess, req, nil)
	}
	return r.encodeIoctl(req, &done)
}

// queryAllocatedRanges tells where a sparse file has data (MS-FSA 2.1.5.10.22);
// any other has it everywhere.
func queryAllocatedRanges(ctx context.Context, r *request, req *smb2.IoctlRequest) error {
	o := r.open
	var in fscc.ByteRange
	if err := in.Decode(req.Input); err != nil || o.dir {
		return smb2.StatusInvalidParameter
	}
	if o.access&smb2.FileReadData == 0 {
		return smb2.StatusAccessDenied
	}
	info, err := o.stat(ctx)
	if err != nil {
		return err
	}
	n := min(in.Length, info.Size-in.Offset)
	if n <= 0 {
		return r.respondIoctl(smb2.StatusSuccess, req, nil)
	}
	var w rangeWriter
	w.room = int(req.MaxOutputResponse)
	if info.Attributes&fscc.FILE_ATTRIBUTE_SPARSE_FILE == 0 {
		err = w.add(in.Offset, n)
	} else {
		err = o.file.Allocated(ctx, in.Offset, n, w.add)
	}
	switch {
	case err == nil:
		return r.respondIoctl(smb2.StatusSuccess, req, w.b)
	case err != errFull:
		return err
	case len(w.b) == 0:
		return smb2.StatusBufferTooSmall
	}
	return r.respondIoctl(smb2.StatusBufferOverflow, req, w.b)
}

// rangeWriter gathers ranges until room bytes are full.
type rangeWriter struct {
	b    []byte
	room int
}

const errFull = fullError("no room for more ranges")

type fullError string

func (e fullError) Error() string { return string(e) }

func (w *rangeWriter) add(off, n int64) error {
	e := fscc.ByteRange{Offset: off, Length: n}
	at := len(w.b)
	if at+e.Size() > w.room {
		return errFull
	}
	w.b = append(w.b, make([]byte, e.Size())...)
	e.Encode(w.b[at:])
	return nil
}

// getCompression says that nothing is compressed (MS-FSA 2.1.5.10.9).
func getCompression(_ context.Context, r *request, req *smb2.IoctlRequest) error {
	return r.encodeIoctl(req, &fscc.CompressionState{Format: fscc.COMPRESSION_FORMAT_NONE})
}

// setCompression takes no more than what is (MS-FSA 2.1.5.10.30).
func setCompression(_ context.Context, r *request, req *smb2.IoctlRequest) error {
	var in fscc.CompressionState
	if err := in.Decode(req.Input); err != nil {
		return smb2.StatusInvalidParameter
	}
	if r.open.access&smb2.FileWriteData == 0 {
		return smb2.StatusAccessDenied
	}
	if in.Format != fscc.COMPRESSION_FORMAT_NONE {
		return smb2.StatusNotSupported
	}
	return r.respondIoctl(smb2.StatusSuccess, req, nil)
}

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

// isPathnameValid is true of every name (MS-FSA 2.1.5.10.18).
func isPathnameValid(_ context.Context, r *request, req *smb2.IoctlRequest) error {
	return r.respondIoctl(smb2.StatusSuccess, req, nil)
}
