package fs

import (
	"context"
	"math"
	"sync"

	"lunless/smbstore/fscc"

	"golang.org/x/sys/unix"
)

// Long work is cut into steps, between which the context is looked at.
const (
	zeroStep  = 4 << 30   // where the kernel only changes its maps
	writeStep = 256 << 10 // where zeroes are written or bytes copied by hand
	copyStep  = 16 << 20  // where the kernel copies
)

func (f *posixFile) Truncate(ctx context.Context, size int64) error {
	const op = "set size"
	if err := f.enterData(ctx, op, size, math.MaxInt64); err != nil {
		return err
	}
	defer f.leaveData(size, math.MaxInt64)
	return f.fail(op, f.truncate(size))
}

func (f *posixFile) truncate(size int64) error {
	if size < 0 {
		return ErrInvalid
	}
	f.node.sizeMu.Lock()
	defer f.node.sizeMu.Unlock()
	f.node.wish.Store(0)
	return again(func() error { return unix.Ftruncate(f.fd.fd, size) })
}

// SetAllocation on a file system that cannot reserve room succeeds: the size is
// what Stat reports while the file is open, and nothing more.
func (f *posixFile) SetAllocation(ctx context.Context, size int64) error {
	const op = "set allocation"
	if err := f.enterData(ctx, op, size, math.MaxInt64); err != nil {
		return err
	}
	defer f.leaveData(size, math.MaxInt64)
	if size < 0 {
		return f.fail(op, ErrInvalid)
	}
	st, err := statFD(f.fd.fd)
	if err != nil {
		return f.fail(op, err)
	}
	// Cutting also gives back what was reserved past the end.
	if size < int64(st.Size) {
		return f.fail(op, f.truncate(size))
	}
	from := int64(0)
	if attr, err := readStoredAttr(procPath(f.fd.fd), true); err != nil {
		return f.fail(op, err)
	} else if attr.attributes&fscc.FILE_ATTRIBUTE_SPARSE_FILE != 0 {
		from = int64(st.Size) // its holes stay
	}
	if err := preallocate(f.fd.fd, from, size); err != nil {
		return f.fail(op, err)
	}
	f.node.wish.Store(size)
	return nil
}

// preallocate reserves room for what of [end, size) has none; without support for
// that it does nothing. It asks for room first: a
// reservation that fails half way keeps what it got (ext4), which is all there is.
func preallocate(fd int, end, size int64) error {
	if size <= end {
		return nil
	}
	if err := hasRoom(fd, end, size); err != nil {
		return err
	}
	err := again(func() error { return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, end, size-end) })
	if err == unix.EOPNOTSUPP || err == unix.ENOSYS {
		return nil
	}
	return err
}

// hasRoom says whether the volume can take a file from end, or from what it takes
// already, to size: ENOSPC.
func hasRoom(fd int, end, size int64) error {
	var vol unix.Statfs_t
	var st unix.Stat_t
	if err := again(func() error { return unix.Fstatfs(fd, &vol) }); err != nil {
		return err
	}
	if err := again(func() error { return unix.Fstat(fd, &st) }); err != nil {
		return err
	}
	need := size - max(end, st.Blocks*512)
	if need > 0 && uint64(need)/uint64(vol.Frsize) >= vol.Bavail {
		return unix.ENOSPC
	}
	return nil
}

// Zero punches holes in files that carry the SPARSE_FILE attribute and keeps the
// room that others have; holes in them stay holes. Where the file system can do neither it writes zeroes.
func (f *posixFile) Zero(ctx context.Context, off, n int64) error {
	const op = "zero"
	if err := f.enterData(ctx, op, off, n); err != nil {
		return err
	}
	defer f.leaveData(off, n)
	if off < 0 || n < 0 || off > math.MaxInt64-n {
		return f.fail(op, ErrInvalid)
	}
	attr, err := readStoredAttr(procPath(f.fd.fd), true)
	if err != nil {
		return f.fail(op, err)
	}
	mode := uint32(unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE)
	if attr.attributes&fscc.FILE_ATTRIBUTE_SPARSE_FILE != 0 {
		mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	}
	return f.fail(op, f.clear(ctx, mode, off, n))
}

// clear makes what the file has of [off, off+n) read as zeroes by fallocate with
// mode, or by writing them where the file system does not know the mode.
func (f *posixFile) clear(ctx context.Context, mode uint32, off, n int64) error {
	step := int64(zeroStep)
	for end := off + n; off < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		m, err := f.zeroStep(mode, off, min(end-off, step))
		if err == unix.EOPNOTSUPP && mode != 0 {
			mode, step = 0, writeStep
			continue
		}
		if err != nil {
			return err
		}
		if m == 0 { // the file ends here
			return nil
		}
		off += m
	}
	return nil
}

// zeroStep zeroes what there is of [off, off+n); mode 0 writes. It returns what
// it has dealt with, 0 at the end of file, which cannot move meanwhile.
func (f *posixFile) zeroStep(mode uint32, off, n int64) (int64, error) {
	f.node.sizeMu.RLock()
	defer f.node.sizeMu.RUnlock()
	st, err := statFD(f.fd.fd)
	if err != nil {
		return 0, err
	}
	n = min(n, int64(st.Size)-off)
	if n <= 0 {
		return 0, nil
	}
	if mode != 0 {
		skip, n, err := f.dataRun(off, n)
		if err != nil || skip > 0 {
			return skip, err
		}
		return n, again(func() error { return unix.Fallocate(f.fd.fd, mode, off, n) })
	}
	m, err := pwriteAll(f.fd.fd, zeroes[:n], off)
	return int64(m), err
}

// dataRun tells how much of [off, off+n) is a hole at its start, or else how
// much of it is data. Holes are zero already, and ZERO_RANGE would reserve room
// for them: a client could fill the volume without writing a byte.
func (f *posixFile) dataRun(off, n int64) (hole, data int64, err error) {
	start, err := unix.Seek(f.fd.fd, off, unix.SEEK_DATA)
	switch {
	case err == unix.ENXIO:
		return n, 0, nil
	case err == unix.EINVAL: // the file system cannot tell
		return 0, n, nil
	case err != nil:
		return 0, 0, err
	case start > off:
		return min(start-off, n), 0, nil
	}
	stop, err := unix.Seek(f.fd.fd, off, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, err
	}
	return 0, min(max(stop-off, 1), n), nil
}

var zeroes [writeStep]byte

// Allocated goes by SEEK_DATA and SEEK_HOLE.
func (f *posixFile) Allocated(ctx context.Context, off, n int64, visit func(off, n int64) error) error {
	const op = "allocated ranges"
	if err := f.enter(ctx, op); err != nil {
		return err
	}
	defer f.leave()
	switch {
	case f.dir:
		return f.fail(op, ErrIsDir)
	case f.pathOnly:
		return f.fail(op, ErrPermission)
	case off < 0 || n < 0 || off > math.MaxInt64-n:
		return f.fail(op, ErrInvalid)
	}
	for end := off + n; off < end; {
		if err := ctx.Err(); err != nil {
			return f.fail(op, err)
		}
		start, err := unix.Seek(f.fd.fd, off, unix.SEEK_DATA)
		if err == unix.ENXIO || err == nil && start >= end { // no more data
			return nil
		}
		if err != nil {
			return f.fail(op, err)
		}
		stop, err := unix.Seek(f.fd.fd, start, unix.SEEK_HOLE)
		if err == unix.ENXIO { // cut off meanwhile
			return nil
		}
		if err != nil {
			return f.fail(op, err)
		}
		stop = min(stop, end)
		if stop <= start { // punched meanwhile
			off = start
			continue
		}
		if err := visit(start, stop-start); err != nil {
			return err
		}
		off = stop
	}
	return nil
}

// CopyRange uses copy_file_range between files of this package, else a buffer.
func (f *posixFile) CopyRange(ctx context.Context, src File, srcOff, dstOff, n int64) (int64, error) {
	const op = "copy range"
	if err := f.enterData(ctx, op, dstOff, n); err != nil {
		return 0, err
	}
	defer f.leaveData(dstOff, n)
	if srcOff < 0 || dstOff < 0 || n < 0 || srcOff > math.MaxInt64-n || dstOff > math.MaxInt64-n {
		return 0, f.fail(op, ErrInvalid)
	}
	from, ok := dataOf(src)
	if !ok {
		done, err := f.copyBuffered(ctx, src, srcOff, dstOff, n)
		return done, f.fail(op, err)
	}
	if !from.fd.acquire() {
		return 0, from.fail(op, ErrClosed)
	}
	defer from.leave()
	if err := from.readable(op); err != nil {
		return 0, err
	}
	done, err := f.copyInKernel(ctx, from, srcOff, dstOff, n)
	switch err {
	case unix.EXDEV, unix.EINVAL, unix.ENOSYS, unix.EOPNOTSUPP:
		var m int64
		m, err = f.copyBuffered(ctx, from, srcOff+done, dstOff+done, n-done)
		done += m
	}
	return done, f.fail(op, err)
}

func (f *posixFile) copyInKernel(ctx context.Context, from *posixFile, srcOff, dstOff, n int64) (done int64, err error) {
	for done < n {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		r, w := srcOff+done, dstOff+done
		m, err := unix.CopyFileRange(from.fd.fd, &r, f.fd.fd, &w, int(min(n-done, copyStep)), 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return done, err
		}
		if m == 0 {
			break
		}
		done += int64(m)
	}
	return done, nil
}

var copyBuffers = sync.Pool{New: func() any { return new([writeStep]byte) }}

func (f *posixFile) copyBuffered(ctx context.Context, src File, srcOff, dstOff, n int64) (done int64, err error) {
	buf := copyBuffers.Get().(*[writeStep]byte)
	defer copyBuffers.Put(buf)
	for done < n {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		p := buf[:min(n-done, writeStep)]
		m, err := src.ReadAt(p, srcOff+done)
		if err != nil {
			return done, err
		}
		if m == 0 {
			break
		}
		w, err := pwriteAll(f.fd.fd, p[:m], dstOff+done)
		done += int64(w)
		if err != nil {
			return done, err
		}
	}
	return done, nil
}
