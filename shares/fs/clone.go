package fs

import (
	"context"
	"math"

	"golang.org/x/sys/unix"
)

var (
	_ Cloner  = (*posixFile)(nil)
	_ Trimmer = (*posixFile)(nil)
	_ Watcher = (*posixFile)(nil)
)

// cloneStep is how much the kernel is asked to clone at a time: the context is
// looked at between steps.
const cloneStep = 1 << 30

// CloneRange is FICLONERANGE.
func (f *posixFile) CloneRange(ctx context.Context, src File, srcOff, dstOff, n int64) error {
	const op = "clone range"
	if err := f.enterData(ctx, op, dstOff, n); err != nil {
		return err
	}
	defer f.leaveData(dstOff, n)
	if srcOff < 0 || dstOff < 0 || n < 0 || srcOff > math.MaxInt64-n || dstOff > math.MaxInt64-n {
		return f.fail(op, ErrInvalid)
	}
	from, ok := dataOf(src)
	if !ok {
		return f.fail(op, ErrNotSupported)
	}
	if !from.fd.acquire() {
		return from.fail(op, ErrClosed)
	}
	defer from.leave()
	if err := from.readable(op); err != nil {
		return err
	}
	for n > 0 { // FICLONERANGE of no bytes goes to the end of the source
		if err := ctx.Err(); err != nil {
			return f.fail(op, err)
		}
		m := min(n, cloneStep)
		if err := cloneRange(f.fd.fd, from.fd.fd, srcOff, dstOff, m); err != nil {
			return f.fail(op, err)
		}
		srcOff, dstOff, n = srcOff+m, dstOff+m, n-m
	}
	return nil
}

func cloneRange(dst, src int, srcOff, dstOff, n int64) error {
	return again(func() error {
		return unix.IoctlFileCloneRange(dst, &unix.FileCloneRange{
			Src_fd: int64(src), Src_offset: uint64(srcOff), Src_length: uint64(n), Dest_offset: uint64(dstOff),
		})
	})
}

// Snapshot clones into a file that has no name: its blocks go with the last File
// of it, at the latest when the process ends.
func (f *posixFile) Snapshot(ctx context.Context, off, n int64) (File, error) {
	const op = "snapshot"
	if !f.fs.features.reflink {
		return nil, f.fail(op, ErrNotSupported)
	}
	if err := f.enter(ctx, op); err != nil {
		return nil, err
	}
	defer f.leave()
	if err := f.readable(op); err != nil {
		return nil, err
	}
	root, err := f.fs.enter(ctx, op, f.label)
	if err != nil {
		return nil, err
	}
	defer f.fs.leave()
	fd, err := f.fs.scratch(root)
	if err != nil {
		return nil, f.fail(op, err)
	}
	s, err := f.snapshot(fd, off, n)
	if err != nil {
		unix.Close(fd)
		return nil, f.fail(op, err)
	}
	return s, nil
}

// snapshot fills the nameless file fd and makes a File of it.
func (f *posixFile) snapshot(fd int, off, n int64) (File, error) {
	var vol unix.Statfs_t
	if err := again(func() error { return unix.Fstatfs(f.fd.fd, &vol) }); err != nil {
		return nil, err
	}
	st, err := statFD(f.fd.fd)
	if err != nil {
		return nil, err
	}
	unit, size := int64(vol.Bsize), int64(st.Size)
	if off < 0 || n <= 0 || off > math.MaxInt64-n || off >= size || unit <= 0 {
		return nil, ErrInvalid
	}
	from := off - off%unit
	to := size
	if end := off + n; end < size {
		to = min((end+unit-1)/unit*unit, size)
	}
	if err := cloneRange(fd, f.fd.fd, from, from, to-from); err != nil {
		return nil, err
	}
	if st, err = statFD(fd); err != nil {
		return nil, err
	}
	s := &posixFile{fs: f.fs, label: f.label, id: f.fs.idOf(fd, &st), access: ReadData}
	s.node = f.fs.nodes.open(s.id)
	s.fd.init(fd)
	return s, nil
}

// Trim punches a hole.
func (f *posixFile) Trim(ctx context.Context, off, n int64) error {
	const op = "trim"
	if !f.fs.features.sparse {
		return f.fail(op, ErrNotSupported)
	}
	if err := f.enterData(ctx, op, off, n); err != nil {
		return err
	}
	defer f.leaveData(off, n)
	if off < 0 || n < 0 || off > math.MaxInt64-n {
		return f.fail(op, ErrInvalid)
	}
	return f.fail(op, f.clear(ctx, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n))
}

// Reserve is fallocate over everything, which leaves what is there as it is.
func (f *posixFile) Reserve(ctx context.Context, size int64) error {
	const op = "reserve"
	if err := f.enterData(ctx, op, size, 0); err != nil {
		return err
	}
	defer f.leaveData(size, 0)
	if size < 0 {
		return f.fail(op, ErrInvalid)
	}
	return f.fail(op, preallocate(f.fd.fd, 0, size))
}
