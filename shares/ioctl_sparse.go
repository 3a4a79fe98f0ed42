package shares

import (
	"context"
	"errors"
	"math"

	"lunless/shares/fs"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// done answers with STATUS_SUCCESS and nothing, or with the error.
func done(err error) outcome { return outcome{err: err} }

// setSparse lets the file have holes, or fills them (MS-FSA 2.1.5.10.38). The
// attribute is what a client sets here, never what the backing file is.
func setSparse(ctx context.Context, r *request, req *smb2.IoctlRequest) error {
	o, in := r.open, fscc.SetSparse{Sparse: true}
	if len(req.Input) > 0 {
		if err := in.Decode(req.Input); err != nil {
			return err
		}
	}
	switch {
	case o.dir:
		return smb2.StatusInvalidParameter
	case r.tree.share.ReadOnly:
		return smb2.StatusMediaWriteProtected
	case o.access&(smb2.FileWriteData|smb2.FileAppendData|smb2.FileWriteAttributes) == 0:
		return smb2.StatusAccessDenied
	}
	return r.long(ctx, req, func(ctx context.Context) outcome { return done(o.setSparse(ctx, in.Sparse)) })
}

func (o *open) setSparse(ctx context.Context, sparse bool) error {
	info, err := o.stat(ctx)
	if err != nil {
		return err
	}
	attrs := info.Attributes &^ fscc.FILE_ATTRIBUTE_SPARSE_FILE
	if sparse {
		attrs |= fscc.FILE_ATTRIBUTE_SPARSE_FILE
	} else if o.access&(smb2.FileWriteData|smb2.FileAppendData) != 0 {
		err := fs.Reserve(ctx, o.file, info.Size)
		if err != nil && !errors.Is(err, fs.ErrNotSupported) {
			return err
		}
	}
	if attrs != info.Attributes {
		if err := o.file.SetAttributes(ctx, attrs); err != nil {
			return err
		}
		o.modified(ctx, smb2.NotifyChangeAttributes)
	}
	return o.through(ctx)
}

// setZeroData makes a range read as zeroes (MS-FSA 2.1.5.10.39).
func setZeroData(ctx context.Context, r *request, req *smb2.IoctlRequest) error {
	o := r.open
	var in fscc.ZeroData
	if err := in.Decode(req.Input); err != nil || o.dir {
		return smb2.StatusInvalidParameter
	}
	return r.long(ctx, req, func(ctx context.Context) outcome {
		err := o.clear(ctx, in.Offset, in.Beyond-in.Offset, o.file.Zero)
		return done(errors.Join(err, o.through(ctx)))
	})
}

// clearStep is how much of a range is zeroed or given back between two looks at
// whether the open is still there (MS-FSA 2.1.5.10.39 goes by gigabytes too).
const clearStep = 1 << 30

// clear lets do, which zeroes, have what of a range lies in the file, unless
// another open has it locked.
func (o *open) clear(ctx context.Context, off, n int64, do func(ctx context.Context, off, n int64) error) error {
	info, err := o.file.Stat(ctx)
	if err != nil {
		return err
	}
	if n = min(n, info.Size-off); n <= 0 {
		return nil
	}
	if err := o.beginWrite(ctx, uint64(off), uint64(n)); err != nil {
		return err
	}
	for n > 0 {
		if o.closed.Load() {
			return smb2.StatusFileClosed
		}
		m := min(n, clearStep)
		if err := do(ctx, off, m); err != nil {
			return err
		}
		o.wrote(ctx, off, m)
		off, n = off+m, n-m
	}
	return nil
}

// trim gives back the room of ranges the client needs no more, in whole pages
// (MS-SMB2 3.3.5.15.14, MS-FSA 2.1.5.10.6). They read as zeroes then.
func trim(ctx context.Context, r *request, req *smb2.IoctlRequest) error {
	o := r.open
	var in fscc.Trim
	if err := in.Decode(req.Input); err != nil || o.dir || len(in.Ranges) == 0 || in.Key != 0 {
		return smb2.StatusInvalidParameter
	}
	reply := req.MaxOutputResponse != 0
	if reply && int(req.MaxOutputResponse) < (fscc.TrimReply{}).Size() {
		return smb2.StatusInvalidParameter
	}
	return r.long(ctx, req, func(ctx context.Context) outcome {
		var result fscc.TrimReply
		for _, t := range in.Ranges {
			off, n := wholePages(t)
			if n <= 0 {
				continue
			}
			err := o.clear(ctx, off, n, func(ctx context.Context, off, n int64) error { return fs.Trim(ctx, o.file, off, n) })
			if errors.Is(err, fs.ErrNotSupported) {
				err = smb2.StatusInvalidDeviceRequest
			}
			if err != nil {
				return done(err)
			}
			result.RangesProcessed++
		}
		if err := o.through(ctx); err != nil || !reply {
			return done(err)
		}
		return outcome{output: encoded(&result)}
	})
}

// wholePages is what of a range is whole pages; n <= 0 if none.
func wholePages(t fscc.ByteRange) (off, n int64) {
	const page = 4096
	if t.Offset > math.MaxInt64-page {
		return 0, 0
	}
	off = (t.Offset + page - 1) &^ (page - 1)
	return off, (t.Offset+t.Length)&^(page-1) - off
}

// queryAllocatedRanges tells where a sparse file has data (MS-FSA 2.1.5.10.22);
// any other has it everywhere.
func queryAllocatedRanges(ctx context.Context, r *request, req *smb2.IoctlRequest) error {
	o := r.open
	var in fscc.ByteRange
	if err := in.Decode(req.Input); err != nil || o.dir {
		return smb2.StatusInvalidParameter
	}
	return r.long(ctx, req, func(ctx context.Context) outcome {
		w := rangeWriter{room: int(req.MaxOutputResponse)}
		info, err := o.stat(ctx)
		if n := min(in.Length, info.Size-in.Offset); err == nil && n > 0 {
			if info.Attributes&fscc.FILE_ATTRIBUTE_SPARSE_FILE == 0 {
				err = w.add(in.Offset, n)
			} else {
				err = o.file.Allocated(ctx, in.Offset, n, w.add)
			}
		}
		switch {
		case err == nil:
			return outcome{output: w.b}
		case err != errFull:
			return done(err)
		case len(w.b) == 0:
			return done(smb2.StatusBufferTooSmall)
		}
		return outcome{status: smb2.StatusBufferOverflow, output: w.b}
	})
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
	if len(w.b)+e.Size() > w.room {
		return errFull
	}
	w.b = append(w.b, encoded(&e)...)
	return nil
}
