package client

import (
	"context"
	"fmt"

	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// Limits of one FSCTL_SRV_COPYCHUNK that every server takes (MS-SMB2 3.3.3).
const (
	copyChunk  = 1 << 20
	copyChunks = 16
)

// CopyChunk has the server copy a range from another file of the same session
// (FSCTL_SRV_COPYCHUNK_WRITE). The source must be open for reading, this file for
// writing. It returns how many bytes were copied; fewer only with an error.
func (f *File) CopyChunk(ctx context.Context, src *File, srcOff, dstOff, n int64) (done int64, err error) {
	if src.tree.client != f.tree.client {
		return 0, fmt.Errorf("copy from another server: %w", ErrNotSupported)
	}
	key, err := src.resumeKey(ctx)
	if err != nil {
		return 0, err
	}
	for renewed := false; done < n; {
		m, err := f.copyChunks(ctx, key, srcOff+done, dstOff+done, n-done)
		done += m
		if status, _ := StatusOf(err); status == smb2.StatusObjectNameNotFound && !renewed {
			renewed = true // the source was reclaimed, and its old key went with its old handle
			if key, err = src.resumeKey(ctx); err == nil {
				continue
			}
		}
		if err != nil {
			return done, err
		}
		renewed = false
	}
	return done, nil
}

func (f *File) resumeKey(ctx context.Context) (key smb2.ResumeKey, err error) {
	out, _, err := f.Ioctl(ctx, smb2.FsctlSrvRequestResumeKey, nil, 64)
	if err != nil {
		return key, err
	}
	var k smb2.ResumeKeyResponse
	if err := k.Decode(out); err != nil {
		return key, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return k.ResumeKey, nil
}

// copyChunks copies up to 16 MiB with one request.
func (f *File) copyChunks(ctx context.Context, key smb2.ResumeKey, srcOff, dstOff, n int64) (int64, error) {
	q := smb2.CopychunkCopy{SourceKey: key}
	var asked int64
	for asked < n && len(q.Chunks) < copyChunks {
		m := min(n-asked, copyChunk)
		q.Chunks = append(q.Chunks, smb2.CopychunkChunk{SourceOffset: uint64(srcOff + asked), TargetOffset: uint64(dstOff + asked), Length: uint32(m)})
		asked += m
	}
	code := smb2.FsctlSrvCopychunkWrite
	if f.opts.Access&(smb2.FileReadData|smb2.GenericRead|smb2.GenericAll) != 0 {
		code = smb2.FsctlSrvCopychunk
	}
	out, _, err := f.Ioctl(ctx, code, encoded(&q), 12)
	if err != nil {
		return 0, err
	}
	var r smb2.CopychunkResponse
	if err := r.Decode(out); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if r.TotalBytesWritten == 0 || int64(r.TotalBytesWritten) > asked {
		return 0, protocolError("a server-side copy of %d bytes copied %d", asked, r.TotalBytesWritten)
	}
	return int64(r.TotalBytesWritten), nil
}

// OffloadToken stands for a range of a file at its server, for a time.
type OffloadToken struct {
	Token  fscc.OffloadToken
	Length int64 // bytes it stands for
	// ZeroBeyond: what follows the range reads as zeroes to the end of the file.
	ZeroBeyond bool
}

// OffloadRead has the server make a token of a range (FSCTL_OFFLOAD_READ), which
// need not be all of it.
func (f *File) OffloadRead(ctx context.Context, off, n int64) (t OffloadToken, err error) {
	in := fscc.OffloadReadInput{FileOffset: uint64(off), CopyLength: uint64(n)}
	out, _, err := f.Ioctl(ctx, fscc.FSCTL_OFFLOAD_READ, encoded(&in), fscc.OffloadReadOutput{}.Size())
	if err != nil {
		return t, err
	}
	var r fscc.OffloadReadOutput
	if err := r.Decode(out); err != nil {
		return t, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if r.TransferLength > uint64(n) {
		return t, protocolError("a token for %d bytes, %d were asked for", r.TransferLength, n)
	}
	t.Token, t.Length = r.Token, int64(r.TransferLength)
	t.ZeroBeyond = r.Flags&fscc.OFFLOAD_READ_FLAG_ALL_ZERO_BEYOND_CURRENT_RANGE != 0
	return t, nil
}

// OffloadWrite has the server write n bytes of what a token stands for, from skip
// bytes into it (FSCTL_OFFLOAD_WRITE). It returns how many were written, which
// need not be all.
func (f *File) OffloadWrite(ctx context.Context, t *OffloadToken, skip, off, n int64) (int64, error) {
	in := fscc.OffloadWriteInput{FileOffset: uint64(off), CopyLength: uint64(n), TransferOffset: uint64(skip), Token: t.Token}
	out, _, err := f.Ioctl(ctx, fscc.FSCTL_OFFLOAD_WRITE, encoded(&in), fscc.OffloadWriteOutput{}.Size())
	if err != nil {
		return 0, err
	}
	var r fscc.OffloadWriteOutput
	if err := r.Decode(out); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if r.LengthWritten > uint64(n) {
		return 0, protocolError("an offloaded write of %d bytes wrote %d", n, r.LengthWritten)
	}
	return int64(r.LengthWritten), nil
}
