package shares

import (
	"context"
	"encoding/binary"
	"errors"
	"math"

	"lunless/shares/fs"
	"lunless/smbstore/smb2"
)

// Limits of one server-side copy (MS-SMB2 3.3.3): ServerSideCopyMaxNumberofChunks,
// ServerSideCopyMaxChunkSize and ServerSideCopyMaxDataSize.
const (
	copyMaxChunks = 256
	copyMaxChunk  = 1 << 20
	copyMaxData   = 16 << 20
)

// requestResumeKey names the open as a source to copy from (MS-SMB2 3.3.5.15.5).
func requestResumeKey(_ context.Context, r *request, req *smb2.IoctlRequest) error {
	const size = 32 // MS-SMB2 3.3.5.15.5: four bytes more than the structure has
	if req.MaxOutputResponse < size {
		return smb2.StatusInvalidParameter
	}
	m := smb2.ResumeKeyResponse{ResumeKey: r.open.resumeKey()}
	b := make([]byte, size)
	m.Encode(b)
	return r.respondIoctl(smb2.StatusSuccess, req, b)
}

func (o *open) resumeKey() (k smb2.ResumeKey) {
	binary.LittleEndian.PutUint64(k[0:], o.id.Persistent)
	binary.LittleEndian.PutUint64(k[8:], o.id.Volatile)
	return k
}

// findResumeKey finds the session's open of a key, or nil.
func (s *session) findResumeKey(k smb2.ResumeKey) *open {
	o := s.findOpen(smb2.FileID{
		Persistent: binary.LittleEndian.Uint64(k[0:]), Volatile: binary.LittleEndian.Uint64(k[8:]),
	})
	if o == nil || o.resumeKey() != k {
		return nil
	}
	return o
}

// copyChunks copies ranges between two opens of the session (MS-SMB2 3.3.5.15.6).
func copyChunks(ctx context.Context, r *request, req *smb2.IoctlRequest) error {
	var in smb2.CopychunkCopy
	var done smb2.CopychunkResponse
	if int(req.MaxOutputResponse) < done.Size() {
		return smb2.StatusInvalidParameter
	}
	if err := in.Decode(req.Input); err != nil {
		return r.refuseCopy(req)
	}
	dst, src := r.open, r.session.findResumeKey(in.SourceKey)
	if src == nil {
		return smb2.StatusObjectNameNotFound
	}
	if src.file == nil || !copyWithinLimits(in.Chunks) {
		return r.refuseCopy(req)
	}
	switch {
	case src.dir || dst.dir:
		return smb2.StatusInvalidDeviceRequest
	case src.access&(smb2.FileReadData|smb2.FileExecute) == 0,
		dst.access&(smb2.FileWriteData|smb2.FileAppendData) == 0,
		dst.access&smb2.FileReadData == 0 && req.CtlCode == smb2.FsctlSrvCopychunk:
		return smb2.StatusAccessDenied
	}
	status := smb2.StatusSuccess
	for i := range in.Chunks {
		if err := copyChunk(ctx, dst, src, &in.Chunks[i]); err != nil {
			status = statusOf(err) // with what was copied (MS-SMB2 3.3.5.15.6.1)
			break
		}
		done.ChunksWritten++
		done.TotalBytesWritten += in.Chunks[i].Length
	}
	if done.ChunksWritten > 0 {
		if err := dst.through(ctx); err != nil {
			return err
		}
	}
	b := make([]byte, done.Size())
	done.Encode(b)
	return r.respondIoctl(status, req, b)
}

// refuseCopy tells the limits (MS-SMB2 3.3.5.15.6.2).
func (r *request) refuseCopy(req *smb2.IoctlRequest) error {
	m := smb2.CopychunkResponse{
		ChunksWritten: copyMaxChunks, ChunkBytesWritten: copyMaxChunk, TotalBytesWritten: copyMaxData,
	}
	b := make([]byte, m.Size())
	m.Encode(b)
	return r.respondIoctl(smb2.StatusInvalidParameter, req, b)
}

func copyWithinLimits(chunks []smb2.CopychunkChunk) bool {
	if len(chunks) > copyMaxChunks {
		return false
	}
	total := 0
	for _, c := range chunks {
		if c.Length == 0 || c.Length > copyMaxChunk ||
			c.TargetOffset > math.MaxInt64-copyMaxChunk || c.SourceOffset > math.MaxInt64-copyMaxChunk {
			return false
		}
		total += int(c.Length)
	}
	return total <= copyMaxData
}

func copyChunk(ctx context.Context, dst, src *open, c *smb2.CopychunkChunk) error {
	n := int64(c.Length)
	if err := src.checkRead(c.SourceOffset, uint64(n)); err != nil {
		return err
	}
	if err := dst.checkWrite(c.TargetOffset, uint64(n)); err != nil {
		return err
	}
	info, err := src.file.Stat(ctx)
	if err != nil {
		return err
	}
	if int64(c.SourceOffset)+n > info.Size {
		return statusInvalidViewSize
	}
	from, to := int64(c.SourceOffset), int64(c.TargetOffset)
	if src.fileID == dst.fileID && from < to+n && to < from+n {
		err = copyOverlapping(dst.file, src.file, from, to, n)
	} else {
		err = copyDisjoint(ctx, dst.file, src.file, from, to, n)
	}
	if err == nil {
		dst.wrote(ctx, to, n)
	}
	return err
}

var errCopiedShort = errors.New("source ended while it was being copied")

func copyDisjoint(ctx context.Context, dst, src fs.File, from, to, n int64) error {
	copied, err := dst.CopyRange(ctx, src, from, to, n)
	if err == nil && copied < n {
		err = errCopiedShort
	}
	return err
}

// copyOverlapping copies within one file what a range copy may not: all is read
// before any is written. n is at most a chunk.
func copyOverlapping(dst, src fs.File, from, to, n int64) error {
	b := make([]byte, n)
	got, err := src.ReadAt(b, from)
	if err != nil {
		return err
	}
	if int64(got) < n {
		return errCopiedShort
	}
	_, err = dst.WriteAt(b, to)
	return err
}
