package fs

import (
	"context"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The path of data: nothing here allocates or takes a lock when it succeeds.

// ReadAt is pread until p is full or the file ends.
func (f *posixFile) ReadAt(p []byte, off int64) (int, error) {
	if !f.fd.acquire() {
		return 0, f.fail("read", ErrClosed)
	}
	defer f.leave()
	if err := f.readable("read"); err != nil {
		return 0, err
	}
	n := 0
	for n < len(p) {
		m, err := unix.Pread(f.fd.fd, p[n:], off+int64(n))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return n, f.fail("read", err)
		}
		if m == 0 {
			break
		}
		n += m
	}
	return n, nil
}

// ReadAtCached is preadv2 with RWF_NOWAIT. A descriptor that cannot be read
// gives an error, as ReadAt does.
func (f *posixFile) ReadAtCached(p []byte, off int64) (int, error) {
	if !f.fd.acquire() {
		return 0, f.fail("read", ErrClosed)
	}
	defer f.leave()
	if err := f.readable("read"); err != nil {
		return 0, err
	}
	if f.fs.noCached.Load() {
		return 0, ErrWouldBlock
	}
	n := 0
	for n < len(p) {
		m, err := preadNoWait(f.fd.fd, p[n:], off+int64(n))
		switch err {
		case 0:
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return 0, ErrWouldBlock
		case unix.EOPNOTSUPP, unix.ENOSYS:
			f.fs.noCached.Store(true)
			return 0, ErrWouldBlock
		default:
			return 0, f.fail("read", err)
		}
		if m == 0 {
			break
		}
		n += m
	}
	return n, nil
}

// preadNoWait is preadv2 with one buffer, which is not empty, by way of a vector on the stack.
func preadNoWait(fd int, p []byte, off int64) (int, unix.Errno) {
	iov := unix.Iovec{Base: unsafe.SliceData(p)}
	iov.SetLen(len(p))
	n, _, errno := unix.Syscall6(unix.SYS_PREADV2, uintptr(fd), uintptr(unsafe.Pointer(&iov)), 1,
		uintptr(off), uintptr(uint64(off)>>32), unix.RWF_NOWAIT)
	return int(n), errno
}

// WriteAt is pwrite until all of p is written.
func (f *posixFile) WriteAt(p []byte, off int64) (int, error) {
	if !f.fd.acquire() {
		return 0, f.fail("write", ErrClosed)
	}
	defer f.leave()
	if err := f.writable("write"); err != nil {
		return 0, err
	}
	f.node.watches.touch(off, int64(len(p)))
	n, err := pwriteAll(f.fd.fd, p, off)
	f.node.watches.touch(off, int64(len(p)))
	if err != nil {
		return n, f.fail("write", err)
	}
	return n, nil
}

// readable tells why the data of the file cannot be read.
func (f *posixFile) readable(op string) error {
	switch {
	case f.dir:
		return f.fail(op, ErrIsDir)
	case f.access&ReadData == 0:
		return f.fail(op, ErrPermission)
	}
	return nil
}

// writable tells why the data of the file cannot be changed.
func (f *posixFile) writable(op string) error {
	switch {
	case f.dir:
		return f.fail(op, ErrIsDir)
	case f.node.failed.Load():
		return f.fail(op, ErrFailed)
	case f.access&WriteData == 0:
		return f.fail(op, ErrPermission)
	}
	return nil
}

func pwriteAll(fd int, p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		m, err := unix.Pwrite(fd, p[n:], off+int64(n))
		if err == unix.EINTR {
			continue
		}
		if err == nil && m == 0 {
			err = unix.EIO // a file system that takes nothing and says nothing
		}
		if err != nil {
			return n, err
		}
		n += m
	}
	return n, nil
}

// Sync flushes data and size; and every other metadata if it may have changed
// through this store since the last flush. (The kernel's own times of a file whose data
// alone was written follow later.)
func (f *posixFile) Sync(ctx context.Context) error {
	const op = "flush"
	if err := f.enter(ctx, op); err != nil {
		return err
	}
	defer f.leave()
	want := f.started.Load() + 1 // a flush of this number began after this call
	f.syncMu.Lock()
	defer f.syncMu.Unlock()
	if f.node.failed.Load() {
		return f.fail(op, ErrFailed)
	}
	if f.finished >= want {
		return nil
	}
	number := f.started.Add(1)
	flush := unix.Fdatasync
	upTo, some := f.node.meta.pending()
	if some {
		flush = unix.Fsync
	}
	if err := f.poison(f.flush(flush)); err != nil {
		return f.fail(op, err)
	}
	f.node.meta.done(upTo)
	f.finished = number
	return nil
}

// flush runs fdatasync or fsync on the object. A descriptor that reaches
// metadata only is not good for that; a new one reports what nobody was told of.
func (f *posixFile) flush(sync func(int) error) error {
	fd := f.fd.fd
	if f.pathOnly {
		var err error
		if fd, err = unix.Open(procPath(fd), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
			return err
		}
		defer unix.Close(fd)
	}
	return again(func() error { return sync(fd) })
}
