package smbstore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"lunless/smbstore/block"
)

// localFile is a file of this machine. A Sync that failed fails every later
// one: the kernel drops pages it could not write, and would report success.
type localFile struct {
	store  *localStore
	name   string
	f      *os.File
	failed atomic.Bool

	behind  bool         // WriteBehind
	written atomic.Int64 // bytes, if behind
}

var (
	_ File              = (*localFile)(nil)
	_ block.Puncher     = (*localFile)(nil)
	_ block.Extenter    = (*localFile)(nil)
	_ block.Reserver    = (*localFile)(nil)
	_ block.RangeCopier = (*localFile)(nil)
)

func (f *localFile) Name() string { return f.name }

func (f *localFile) wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, os.ErrClosed) {
		err = block.ErrClosed
	}
	return f.store.wrap(op, f.name, err)
}

// ReadAt is io.ReaderAt: io.EOF, unwrapped, at the end of the file.
func (f *localFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.f.ReadAt(p, off)
	if err == io.EOF {
		return n, io.EOF
	}
	return n, f.wrap("read", err)
}

func (f *localFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.f.WriteAt(p, off)
	if f.behind {
		f.startWriteback(int64(n))
	}
	return n, f.wrap("write", err)
}

// writebackStep is after how many bytes written the kernel is asked to begin with
// what is dirty: large enough for the disk to find long runs.
const writebackStep = 32 << 20

// startWriteback takes note of n bytes written. It makes nothing stable; an error
// shows at the Sync.
func (f *localFile) startWriteback(n int64) {
	if total := f.written.Add(n); total/writebackStep != (total-n)/writebackStep {
		_ = unix.SyncFileRange(int(f.f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
}

func (f *localFile) Sync() error {
	if f.failed.Load() {
		return f.wrap("sync", block.ErrFailed)
	}
	if err := f.f.Sync(); err != nil {
		if !errors.Is(err, os.ErrClosed) {
			f.failed.Store(true)
		}
		return f.wrap("sync", err)
	}
	return nil
}

func (f *localFile) Truncate(size int64) error { return f.wrap("truncate", f.f.Truncate(size)) }

// Size is the end of the file, a block device's size included.
func (f *localFile) Size() (int64, error) {
	st, err := f.f.Stat()
	if err != nil {
		return 0, f.wrap("stat", err)
	}
	if st.Mode()&os.ModeDevice != 0 {
		n, err := f.f.Seek(0, io.SeekEnd)
		return n, f.wrap("stat", err)
	}
	return st.Size(), nil
}

func (f *localFile) Close() error { return f.wrap("close", f.f.Close()) }

func unsupported(err error) bool {
	return errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) ||
		errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EINVAL)
}

// PunchHole gives back the room of a range: block.ErrNotSupported where the
// file system has no holes.
func (f *localFile) PunchHole(off, n int64) error {
	if n <= 0 {
		return nil
	}
	err := unix.Fallocate(int(f.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	if unsupported(err) {
		err = block.ErrNotSupported
	}
	return f.wrap("punch a hole in", err)
}

// Reserve is fallocate over what has no room: block.ErrNotSupported where the file
// system cannot. The file's size and what it holds stay as they are. It asks for
// room first: a reservation that fails half way keeps what it got.
func (f *localFile) Reserve(size int64) error {
	if size <= 0 {
		return nil
	}
	fd := int(f.f.Fd())
	var vol unix.Statfs_t
	var st unix.Stat_t
	err := errors.Join(unix.Fstatfs(fd, &vol), unix.Fstat(fd, &st))
	if need := size - st.Blocks*512; err == nil && need > 0 && uint64(need)/uint64(vol.Frsize) >= vol.Bavail {
		err = unix.ENOSPC
	}
	for err == nil {
		if err = unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, size); !errors.Is(err, unix.EINTR) {
			break
		}
		err = nil
	}
	if unsupported(err) {
		err = block.ErrNotSupported
	}
	return f.wrap("reserve room for", err)
}

// FileExtents walks data and holes as SEEK_DATA and SEEK_HOLE tell them.
func (f *localFile) FileExtents(off, n int64, visit func(block.Extent) error) error {
	size, err := f.Size()
	if err != nil {
		return err
	}
	if off < 0 || n < 0 || off > size || n > size-off {
		return f.wrap("map", fmt.Errorf("%w: [%d, +%d) of %d", block.ErrOutOfRange, off, n, size))
	}
	fd, end := int(f.f.Fd()), off+n
	for off < end {
		data, err := unix.Seek(fd, off, unix.SEEK_DATA)
		switch {
		case errors.Is(err, syscall.ENXIO):
			data = end
		case err != nil:
			return visit(block.Extent{Offset: off, Length: end - off, State: block.Data})
		}
		data = min(data, end)
		if data > off {
			if err := visit(block.Extent{Offset: off, Length: data - off, State: block.Zero}); err != nil {
				return err
			}
		}
		if off = data; off >= end {
			return nil
		}
		hole, err := unix.Seek(fd, off, unix.SEEK_HOLE)
		if err != nil || hole <= off {
			hole = end
		}
		hole = min(hole, end)
		if err := visit(block.Extent{Offset: off, Length: hole - off, State: block.Data}); err != nil {
			return err
		}
		off = hole
	}
	return nil
}

// CopyFrom copies inside the kernel (copy_file_range).
func (f *localFile) CopyFrom(src block.File, srcOff, dstOff, n int64) (int64, error) {
	s, ok := src.(*localFile)
	if !ok {
		return 0, block.ErrNotSupported
	}
	var done int64
	for done < n {
		so, do := srcOff+done, dstOff+done
		m, err := unix.CopyFileRange(int(s.f.Fd()), &so, int(f.f.Fd()), &do, int(min(n-done, 64<<20)), 0)
		if err != nil {
			if done == 0 && unsupported(err) {
				return 0, block.ErrNotSupported
			}
			return done, f.wrap("copy into", err)
		}
		if m == 0 {
			// The source ends here, or the file system gave up: the caller's own
			// copy will tell.
			return done, block.ErrNotSupported
		}
		done += int64(m)
	}
	return done, nil
}
