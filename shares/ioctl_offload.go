package shares

import (
	"context"
	"errors"
	"math"
	"time"

	"lunless/shares/fs"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// offloadLeastHole is how long a hole must be, bytes, to be told apart from the
// data behind it by a token of its own.
const offloadLeastHole = 1 << 20

// offloadRead gives out a token that stands for a range of the file (MS-FSA
// 2.1.5.10.20, MS-HVRS C0004).
func offloadRead(ctx context.Context, r *request, req *smb2.IoctlRequest) error {
	var in fscc.OffloadReadInput
	if len(req.Input) < in.Size() || int(req.MaxOutputResponse) < (fscc.OffloadReadOutput{}).Size() {
		return smb2.StatusBufferTooSmall
	}
	if err := in.Decode(req.Input); err != nil {
		return smb2.StatusInvalidParameter
	}
	sector, err := r.offloadSector(ctx, in.FileOffset, in.CopyLength)
	if err != nil {
		return err
	}
	if in.CopyLength == 0 { // MS-FSCC note 39
		return r.encodeIoctl(req, &fscc.OffloadReadOutput{Token: zeroToken()})
	}
	if r.open.dir {
		return smb2.StatusOffloadReadFileNotSupported
	}
	o, srv := r.open, r.conn.srv
	return r.long(ctx, req, func(ctx context.Context) outcome {
		m, err := srv.offloadRead(ctx, o, &in, sector)
		if err != nil {
			return done(err)
		}
		return outcome{output: encoded(m)}
	})
}

// offloadSector checks what both codes want of a range: whole sectors, no
// overflow. It returns the sector's size.
func (r *request) offloadSector(ctx context.Context, off, length uint64, more ...uint64) (int64, error) {
	vol, err := r.tree.fs.Volume(ctx)
	if err != nil {
		return 0, err
	}
	sector := uint64(max(vol.BytesPerSec, 1))
	for _, v := range append(more, off, length) {
		if v%sector != 0 || v > math.MaxInt64 {
			return 0, smb2.StatusInvalidParameter
		}
	}
	if off+length > math.MaxInt64 {
		return 0, smb2.StatusInvalidParameter
	}
	return int64(sector), nil
}

func overlap(a, n, b, m int64) bool { return a < b+m && b < a+n }

func alignUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

func (srv *Server) offloadRead(ctx context.Context, o *open, in *fscc.OffloadReadInput, sector int64) (*fscc.OffloadReadOutput, error) {
	off, want := int64(in.FileOffset), int64(in.CopyLength)
	info, err := o.stat(ctx)
	switch {
	case err != nil:
		return nil, err
	case info.Attributes&fscc.FILE_ATTRIBUTE_SPARSE_FILE != 0:
		return nil, smb2.StatusOffloadReadFileNotSupported
	case info.Size < sector:
		return nil, smb2.StatusInvalidParameter
	case off >= info.Size:
		return nil, smb2.StatusEndOfFile
	}
	if err := o.beginRead(ctx, in.FileOffset, in.CopyLength); err != nil {
		return nil, err
	}
	out := new(fscc.OffloadReadOutput)
	n := min(want, alignUp(info.Size-off, sector), offloadMaxLength)
	l, err := layoutAt(ctx, o.file, off, n, info.Size)
	if err != nil {
		return nil, err
	}
	if hole := l.hole - l.hole%sector; hole >= min(n, offloadLeastHole) {
		out.Token, out.TransferLength = zeroToken(), uint64(hole)
		if !l.data {
			out.Flags = fscc.OFFLOAD_READ_FLAG_ALL_ZERO_BEYOND_CURRENT_RANGE
		}
		return out, nil
	}
	n = min(n, alignUp(l.length, sector))
	t, err := newOffload(ctx, o, off, min(n, info.Size-off), n)
	if err != nil {
		return nil, err
	}
	life := time.Duration(in.TokenTimeToLive) * time.Millisecond
	if life == 0 {
		life = offloadDefaultLife
	}
	if err := srv.offloads.add(t, min(life, offloadMaxLife)); err != nil {
		t.close()
		return nil, err
	}
	if o.closed.Load() { // its share may be gone
		srv.offloads.drop(t)
		return nil, smb2.StatusFileClosed
	}
	out.Token, out.TransferLength = t.token(), uint64(n)
	if !l.more && off+n >= l.end && (off+want > info.Size || off+n < info.Size) {
		out.Flags = fscc.OFFLOAD_READ_FLAG_ALL_ZERO_BEYOND_CURRENT_RANGE
	}
	return out, nil
}

// layout is what a file has from an offset on.
type layout struct {
	hole   int64 // bytes without data at the start, at most what was asked about
	data   bool  // there is data from there on
	length int64 // up to the next long hole behind data, or more than was asked about
	end    int64 // of the data seen, in the file
	more   bool  // there is data behind the end, or may be
}

var errSeen = errors.New("seen enough")

// layoutAt looks at [off, off+n) of a file of size bytes, and on to the next data.
func layoutAt(ctx context.Context, f fs.File, off, n, size int64) (layout, error) {
	l := layout{hole: n, end: off}
	err := f.Allocated(ctx, off, size-off, func(at, m int64) error {
		switch {
		case !l.data:
			l.data = true
			l.hole = min(at-off, n)
		case at-l.end >= offloadLeastHole:
			l.more = true
			return errSeen
		}
		if l.end = at + m; l.end-off >= n {
			l.more = l.end < size
			return errSeen
		}
		return nil
	})
	if err != nil && !errors.Is(err, errSeen) {
		return l, err
	}
	l.length = l.end - off
	if !l.more && size-l.end < offloadLeastHole {
		l.length = size - off
	}
	return l, nil
}

// offloadWrite writes what a token stands for (MS-FSA 2.1.5.10.21, MS-HVRS C0004).
// The end of file stays where it is.
func offloadWrite(ctx context.Context, r *request, req *smb2.IoctlRequest) error {
	var in fscc.OffloadWriteInput
	if len(req.Input) < in.Size() || int(req.MaxOutputResponse) < (fscc.OffloadWriteOutput{}).Size() {
		return smb2.StatusBufferTooSmall
	}
	if err := in.Decode(req.Input); err != nil {
		return smb2.StatusInvalidParameter
	}
	sector, err := r.offloadSector(ctx, in.FileOffset, in.CopyLength, in.TransferOffset)
	if err != nil {
		return err
	}
	if in.CopyLength == 0 {
		return r.encodeIoctl(req, new(fscc.OffloadWriteOutput))
	}
	if r.open.dir {
		return smb2.StatusOffloadWriteFileNotSupported
	}
	o, srv := r.open, r.conn.srv
	return r.long(ctx, req, func(ctx context.Context) outcome {
		n, err := srv.offloadWrite(ctx, o, &in, sector)
		if err = errors.Join(err, o.through(ctx)); err != nil {
			return done(err)
		}
		return outcome{output: encoded(&fscc.OffloadWriteOutput{LengthWritten: uint64(n)})}
	})
}

// offloadWrite returns how much it has written of what was asked for, in whole
// sectors: those that the end of file cuts count whole.
func (srv *Server) offloadWrite(ctx context.Context, o *open, in *fscc.OffloadWriteInput, sector int64) (int64, error) {
	off := int64(in.FileOffset)
	info, err := o.stat(ctx)
	switch {
	case err != nil:
		return 0, err
	case info.Attributes&fscc.FILE_ATTRIBUTE_SPARSE_FILE != 0:
		return 0, smb2.StatusOffloadWriteFileNotSupported
	case info.Size < sector:
		return 0, smb2.StatusInvalidParameter
	case off >= info.Size:
		return 0, smb2.StatusEndOfFile
	}
	n := min(int64(in.CopyLength), alignUp(info.Size-off, sector), offloadMaxLength)
	if in.Token.Type() == fscc.STORAGE_OFFLOAD_TOKEN_TYPE_ZERO_DATA {
		return n, o.offloadZero(ctx, off, min(n, info.Size-off))
	}
	t, err := srv.offloads.take(&in.Token, o.session.token.User)
	if err != nil {
		return 0, err
	}
	defer srv.offloads.release(t)
	skip := int64(in.TransferOffset)
	if skip >= t.length {
		return 0, smb2.StatusInvalidParameter
	}
	n = min(n, t.length-skip)
	if err := o.beginWrite(ctx, in.FileOffset, uint64(n)); err != nil {
		return 0, err
	}
	fits := min(n, info.Size-off)
	data := min(fits, max(t.data-skip, 0))
	if t.src != nil && t.src.fileID == o.fileID && overlap(t.off, t.data, off, fits) {
		return 0, smb2.StatusInvalidToken // it would change what the token stands for
	}
	copied, err := copyBytes(ctx, o, t.file, t.off+skip, off, data)
	o.wrote(ctx, off, copied)
	if err != nil {
		return 0, err
	}
	if !t.unchanged() { // while it was copied: what has been written is worth nothing
		srv.offloads.drop(t)
		return 0, smb2.StatusInvalidToken
	}
	if data < fits {
		if err := o.file.Zero(ctx, off+data, fits-data); err != nil {
			return 0, err
		}
	}
	return n, nil
}

func (o *open) offloadZero(ctx context.Context, off, n int64) error {
	return o.clear(ctx, off, n, o.file.Zero)
}
