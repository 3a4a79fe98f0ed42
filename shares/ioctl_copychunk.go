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
	return r.long(ctx, req, func(ctx context.Context) outcome { return copyAll(ctx, dst, src, in.Chunks) })
}

// copyAll copies chunk by chunk. Where it fails it says what was copied (MS-SMB2
// 3.3.5.15.6.1), which is on stable storage too if the open wants that.
func copyAll(ctx context.Context, dst, src *open, chunks []smb2.CopychunkChunk) outcome {
	var result smb2.CopychunkResponse
	var err error
	for i := range chunks {
		var n int64
		n, err = copyChunk(ctx, dst, src, &chunks[i])
		result.TotalBytesWritten += uint32(n)
		if err != nil {
			result.ChunkBytesWritten = uint32(n)
			break
		}
		result.ChunksWritten++
	}
	if result.TotalBytesWritten > 0 {
		err = errors.Join(err, dst.through(ctx))
	}
	return outcome{status: statusOf(err), output: encoded(&result)}
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

// toEnd is the target offset of a chunk that goes to the end of file.
const toEnd = math.MaxUint64

func copyWithinLimits(chunks []smb2.CopychunkChunk) bool {
	if len(chunks) > copyMaxChunks {
		return false
	}
	total := 0
	for _, c := range chunks {
		if c.Length == 0 || c.Length > copyMaxChunk || c.SourceOffset > math.MaxInt64-copyMaxChunk ||
			c.TargetOffset > math.MaxInt64-copyMaxChunk && c.TargetOffset != toEnd {
			return false
		}
		total += int(c.Length)
	}
	return total <= copyMaxData
}

// copyChunk returns how much it has copied, also where it fails.
func copyChunk(ctx context.Context, dst, src *open, c *smb2.CopychunkChunk) (int64, error) {
	from, to, n := int64(c.SourceOffset), int64(c.TargetOffset), int64(c.Length)
	if c.TargetOffset == toEnd {
		info, err := dst.file.Stat(ctx)
		if err != nil {
			return 0, err
		}
		if to = info.Size; to > math.MaxInt64-n {
			return 0, smb2.StatusInvalidParameter
		}
	}
	if err := src.beginRead(ctx, uint64(from), uint64(n)); err != nil {
		return 0, err
	}
	if err := dst.beginWrite(ctx, uint64(to), uint64(n)); err != nil {
		return 0, err
	}
	info, err := src.file.Stat(ctx)
	if err != nil {
		return 0, err
	}
	if from+n > info.Size {
		return 0, statusInvalidViewSize
	}
	if src.fileID == dst.fileID && overlap(from, n, to, n) {
		n, err = copyOverlapping(dst.file, src.file, from, to, n)
	} else {
		n, err = copyBytes(ctx, dst, src.file, from, to, n)
	}
	dst.wrote(ctx, to, n)
	return n, err
}

var errCopiedShort = errors.New("source ended while it was being copied")

// copyBytes copies n bytes, which do not overlap where both are one file, and
// returns how many it has.
func copyBytes(ctx context.Context, dst *open, src fs.File, from, to, n int64) (int64, error) {
	copied := int64(0)
	for copied < n {
		if dst.closed.Load() {
			return copied, smb2.StatusFileClosed
		}
		want := min(n-copied, copyStep)
		m, err := dst.file.CopyRange(ctx, src, from+copied, to+copied, want)
		if copied += m; err != nil {
			return copied, err
		}
		if m < want {
			return copied, errCopiedShort
		}
	}
	return copied, nil
}

// copyStep is how much is copied between two looks at whether the open is still
// there, bytes.
const copyStep = 16 << 20

// copyOverlapping copies within one file what a range copy may not: all is read
// before any is written. n is at most a chunk.
func copyOverlapping(dst, src fs.File, from, to, n int64) (int64, error) {
	b := make([]byte, n)
	got, err := src.ReadAt(b, from)
	if err != nil {
		return 0, err
	}
	if int64(got) < n {
		return 0, errCopiedShort
	}
	got, err = dst.WriteAt(b, to)
	return int64(got), err
}
