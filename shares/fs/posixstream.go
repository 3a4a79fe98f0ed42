package fs

import (
	"context"
	"errors"
	"path"
	"strings"
	"sync/atomic"

	"lunless/smbstore/fscc"

	"golang.org/x/sys/unix"
)

// posixStream is an open alternate data stream: a file of the depot, and the
// object it belongs to.
type posixStream struct {
	*posixFile            // the data
	base       *posixFile // its own, metadata only
	wrote      atomic.Bool
	unsynced   atomic.Bool // made by this open, and not on stable storage for certain
}

var _ Stream = (*posixStream)(nil)

// dataOf is the posixFile that has the bytes of f.
func dataOf(f File) (*posixFile, bool) {
	switch f := unwrap(f).(type) {
	case *posixFile:
		return f, true
	case *posixStream:
		return f.posixFile, true
	}
	return nil, false
}

// ownStream is the posixStream behind f if it is one of p.
func (p *POSIX) ownStream(f File) *posixStream {
	if s, ok := unwrap(f).(*posixStream); ok && s.fs == p {
		return s
	}
	return nil
}

func (s *posixStream) Base() File            { return s.base }
func (s *posixStream) Name() (string, error) { return s.base.Name() }

// StreamName asks the kernel, which follows every rename.
func (s *posixStream) StreamName() (string, error) {
	const op = "name of stream"
	if err := s.enter(context.Background(), op); err != nil {
		return "", err
	}
	defer s.leave()
	if !s.fs.root.acquire() {
		return "", s.fail(op, ErrClosed)
	}
	defer s.fs.root.release()
	name, err := s.streamName(s.fs.root.fd)
	return name, s.fail(op, err)
}

func (s *posixStream) streamName(root int) (string, error) {
	at, err := s.path(root)
	if err != nil {
		return "", err
	}
	dir, file := path.Split(at)
	if dir != s.base.depotPath()+"/" {
		return "", ErrNotExist
	}
	return streamNameOf(file), nil
}

func (s *posixStream) Stat(ctx context.Context) (Info, error) {
	s.touch()
	own, err := s.posixFile.Stat(ctx)
	if err != nil {
		return Info{}, err
	}
	info, err := s.base.Stat(ctx)
	if err != nil {
		return Info{}, err
	}
	const itsOwn = fscc.FILE_ATTRIBUTE_DIRECTORY | fscc.FILE_ATTRIBUTE_SPARSE_FILE
	info.Attributes = info.Attributes&^itsOwn | own.Attributes&fscc.FILE_ATTRIBUTE_SPARSE_FILE
	info.Dir, info.Size, info.AllocationSize = false, own.Size, own.AllocationSize
	return info, nil
}

// touch gives the object the time of what was written to the stream.
func (s *posixStream) touch() {
	if !s.wrote.Load() || !s.wrote.Swap(false) || !s.fd.acquire() {
		return
	}
	defer s.leave()
	if !s.base.fd.acquire() {
		return
	}
	defer s.base.leave()
	if st, err := statFD(s.fd.fd); err == nil {
		times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: st.Mtime.Sec, Nsec: int64(st.Mtime.Nsec)}}
		_ = unix.UtimesNanoAt(unix.AT_FDCWD, procPath(s.base.fd.fd), times, 0) // not worth failing for
	}
}

func (s *posixStream) changed(err error) error {
	if err == nil && !s.wrote.Load() {
		s.wrote.Store(true)
	}
	return err
}

func (s *posixStream) WriteAt(p []byte, off int64) (int, error) {
	n, err := s.posixFile.WriteAt(p, off)
	return n, s.changed(err)
}

func (s *posixStream) Truncate(ctx context.Context, size int64) error {
	return s.changed(s.posixFile.Truncate(ctx, size))
}

func (s *posixStream) SetAllocation(ctx context.Context, size int64) error {
	return s.changed(s.posixFile.SetAllocation(ctx, size))
}

func (s *posixStream) Zero(ctx context.Context, off, n int64) error {
	return s.changed(s.posixFile.Zero(ctx, off, n))
}

func (s *posixStream) CopyRange(ctx context.Context, src File, srcOff, dstOff, n int64) (int64, error) {
	done, err := s.posixFile.CopyRange(ctx, src, srcOff, dstOff, n)
	return done, s.changed(err)
}

// Sync puts the stream's name on stable storage too, if that is new: there is
// nothing else a client could do about it.
func (s *posixStream) Sync(ctx context.Context) error {
	s.touch()
	if err := s.posixFile.Sync(ctx); err != nil || !s.unsynced.Load() {
		return err
	}
	return s.fs.syncStreamParent(ctx, s)
}

func (s *posixStream) SetTimes(ctx context.Context, c TimeChange) error {
	s.touch()
	return s.base.SetTimes(ctx, c)
}

func (s *posixStream) SetAttributes(ctx context.Context, a Attributes) error {
	const sparse = fscc.FILE_ATTRIBUTE_SPARSE_FILE
	now, err := s.base.Stat(ctx)
	if err == nil {
		err = s.base.SetAttributes(ctx, a&^sparse|now.Attributes&sparse)
	}
	if err != nil {
		return err
	}
	return s.posixFile.SetAttributes(ctx, a&sparse)
}

func (s *posixStream) SecurityDescriptor(ctx context.Context) ([]byte, error) {
	return s.base.SecurityDescriptor(ctx)
}

func (s *posixStream) SetSecurityDescriptor(ctx context.Context, sd []byte) error {
	return s.base.SetSecurityDescriptor(ctx, sd)
}

func (s *posixStream) OpenStream(ctx context.Context, name string, access Access) (Stream, error) {
	return s.base.OpenStream(ctx, name, access)
}

func (s *posixStream) CreateStream(ctx context.Context, name string, opts StreamOptions) (Stream, error) {
	return s.base.CreateStream(ctx, name, opts)
}

func (s *posixStream) Streams(ctx context.Context) ([]StreamInfo, error) { return s.base.Streams(ctx) }

func (s *posixStream) Close() error {
	s.touch()
	err := s.posixFile.Close()
	if base := s.base.Close(); err == nil || errors.Is(err, ErrClosed) && base == nil { // it may have become its file
		err = base
	}
	return err
}

// enterStreams makes the object and the root usable, and its streams alone the caller's.
func (f *posixFile) enterStreams(ctx context.Context, op string) (root int, done func(), err error) {
	root, _, err = f.fs.enterFile(ctx, op, f)
	if err != nil {
		return -1, nil, err
	}
	lock := streamLock(f.id)
	lock.Lock()
	return root, func() { lock.Unlock(); f.fs.leaveFile(f) }, nil
}

func (f *posixFile) OpenStream(ctx context.Context, name string, access Access) (Stream, error) {
	const op = "open stream"
	root, done, err := f.enterStreams(ctx, op)
	if err != nil {
		return nil, err
	}
	defer done()
	s, err := f.openStream(root, name, access)
	if err != nil {
		return nil, fail(op, f.label+":"+name, err)
	}
	return s, nil
}

func (f *posixFile) openStream(root int, name string, access Access) (*posixStream, error) {
	if err := CheckStreamName(name); err != nil {
		return nil, err
	}
	dir, err := f.streamsDir(root)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	stored, err := findStream(dir, name)
	if err != nil {
		return nil, err
	}
	if stored == "" {
		return nil, ErrNotExist
	}
	fd, err := openBeneath(dir, stored, pathFlags, 0)
	if err != nil {
		return nil, err
	}
	data, err := f.fs.newFile(fd, f.label+":"+name, access)
	if err != nil {
		return nil, err
	}
	return f.newStream(data)
}

// newStream puts a stream together; it takes data over.
func (f *posixFile) newStream(data *posixFile) (*posixStream, error) {
	fd, err := unix.FcntlInt(uintptr(f.fd.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		data.Close()
		return nil, err
	}
	st, err := statFD(fd)
	if err != nil {
		unix.Close(fd)
		data.Close()
		return nil, err
	}
	return &posixStream{posixFile: data, base: f.fs.wrap(fd, &st, f.label, 0, f.pathOnly)}, nil
}

func (f *posixFile) CreateStream(ctx context.Context, name string, opts StreamOptions) (Stream, error) {
	const op = "create stream"
	root, done, err := f.enterStreams(ctx, op)
	if err != nil {
		return nil, err
	}
	defer done()
	s, err := f.createStream(root, name, opts)
	if err != nil {
		return nil, fail(op, f.label+":"+name, err)
	}
	return s, nil
}

func (f *posixFile) createStream(root int, name string, opts StreamOptions) (*posixStream, error) {
	if err := CheckStreamName(name); err != nil {
		return nil, err
	}
	if opts.AllocationSize < 0 {
		return nil, ErrInvalid
	}
	dir, err := f.makeStreamsDir(root)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	names, err := storedStreams(dir)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if fold(streamNameOf(n)) == fold(name) {
			return nil, ErrExist
		}
	}
	if len(names) >= maxStreams {
		return nil, ErrNoSpace
	}
	stored := storedStreamName(name)
	fd, err := openBeneath(dir, stored, openMode(opts.Access)|unix.O_CREAT|unix.O_EXCL, streamMode)
	if err != nil {
		return nil, err
	}
	with := CreateOptions{Access: opts.Access, AllocationSize: opts.AllocationSize}
	data, err := f.fs.furnish(fd, f.label+":"+name, with)
	if err != nil {
		unix.Unlinkat(dir, stored, 0)
		return nil, err
	}
	s, err := f.newStream(data)
	if err != nil {
		unix.Unlinkat(dir, stored, 0)
		return nil, err
	}
	s.unsynced.Store(true)
	s.wrote.Store(true) // the object has changed
	return s, nil
}

func (f *posixFile) Streams(ctx context.Context) ([]StreamInfo, error) {
	const op = "list streams"
	root, done, err := f.enterStreams(ctx, op)
	if err != nil {
		return nil, err
	}
	defer done()
	list, err := f.streams(root)
	return list, f.fail(op, err)
}

func (f *posixFile) streams(root int) ([]StreamInfo, error) {
	dir, err := f.streamsDir(root)
	if err == ErrNotExist {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	names, err := storedStreams(dir)
	if err != nil {
		return nil, err
	}
	list := make([]StreamInfo, 0, len(names))
	for _, n := range names {
		st, err := statAt(dir, n)
		if err != nil {
			return nil, err
		}
		list = append(list, StreamInfo{streamNameOf(n), int64(st.Size), int64(st.Blocks) * 512})
	}
	sortStreams(list)
	return list, nil
}

func (s *posixStream) RenameStream(ctx context.Context, newName string, replace bool) error {
	const op = "rename stream"
	root, done, err := s.base.enterStreams(ctx, op)
	if err != nil {
		return err
	}
	defer done()
	if !s.fd.acquire() {
		return s.fail(op, ErrClosed)
	}
	if newName == "" {
		err = s.become(ctx, root)
		s.leave()
		if err == nil {
			err = s.posixFile.Close()
		}
	} else {
		err = s.rename(root, newName, replace)
		s.leave()
	}
	return fail(op, s.base.label+":"+newName, err)
}

// maxBecome bounds what is copied from a stream to its file in one call, bytes.
const maxBecome = 64 << 20

// become makes the stream's data its file's. The stream goes when the file has
// the data on stable storage.
func (s *posixStream) become(ctx context.Context, root int) error {
	if s.base.dir {
		return ErrIsDir
	}
	st, err := statFD(s.fd.fd)
	if err != nil {
		return err
	}
	if st.Size > maxBecome {
		return ErrNotSupported
	}
	name, err := s.streamName(root)
	if err != nil {
		return err
	}
	dir, err := s.base.streamsDir(root)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	from, err := s.fs.reopen(s.posixFile, ReadData)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := s.fs.reopen(s.base, WriteData)
	if err != nil {
		return err
	}
	defer to.Close()
	if err := to.Truncate(ctx, 0); err != nil {
		return err
	}
	if _, err := to.CopyRange(ctx, from, 0, 0, int64(st.Size)); err != nil {
		return err
	}
	if err := to.Sync(ctx); err != nil {
		return err
	}
	return again(func() error { return unix.Unlinkat(dir, storedStreamName(name), 0) })
}

// reopen opens the same object for other access.
func (p *POSIX) reopen(f *posixFile, access Access) (*posixFile, error) {
	fd, err := unix.FcntlInt(uintptr(f.fd.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return p.newFile(fd, f.label, access)
}

func (s *posixStream) rename(root int, newName string, replace bool) error {
	if err := CheckStreamName(newName); err != nil {
		return err
	}
	old, err := s.streamName(root)
	if err != nil || fold(old) == fold(newName) {
		return err
	}
	dir, err := s.base.streamsDir(root)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	taken, err := findStream(dir, newName)
	if err != nil {
		return err
	}
	to := storedStreamName(newName)
	if taken != "" {
		if !replace {
			return ErrExist
		}
		to = taken
	}
	s.unsynced.Store(true)
	s.wrote.Store(true)
	return again(func() error { return unix.Renameat(dir, storedStreamName(old), dir, to) })
}

// removeStream takes the stream's name away.
func (p *POSIX) removeStream(ctx context.Context, s *posixStream) error {
	const op = "remove stream"
	root, done, err := s.base.enterStreams(ctx, op)
	if err != nil {
		return err
	}
	defer done()
	if !s.fd.acquire() {
		return s.fail(op, ErrClosed)
	}
	defer s.leave()
	name, err := s.streamName(root)
	if err != nil {
		return s.fail(op, err)
	}
	dir, err := s.base.streamsDir(root)
	if err != nil {
		return s.fail(op, err)
	}
	defer unix.Close(dir)
	s.wrote.Store(true)
	return s.fail(op, again(func() error { return unix.Unlinkat(dir, storedStreamName(name), 0) }))
}

// syncStreamParent flushes all that leads to the stream: the folders of the depot, and
// the mark on its object.
func (p *POSIX) syncStreamParent(ctx context.Context, s *posixStream) error {
	const op = "flush folder of stream"
	root, done, err := s.base.enterStreams(ctx, op)
	if err != nil {
		return err
	}
	defer done()
	if s.node.failed.Load() {
		return s.fail(op, ErrFailed)
	}
	for _, name := range []string{s.base.depotPath(), depotName, ""} {
		dir, err := openBeneath(root, name, pathFlags|unix.O_DIRECTORY, 0)
		if err == unix.ENOENT {
			continue // the object has been removed
		}
		if err != nil {
			return s.fail(op, err)
		}
		err = s.poison(syncFolder(dir))
		unix.Close(dir)
		if err != nil {
			return s.fail(op, err)
		}
	}
	if err := s.poison(s.base.flush(unix.Fsync)); err != nil {
		return s.fail(op, err)
	}
	s.unsynced.Store(false)
	return nil
}

// streamNameOf and storedStreamName turn names of streams and of their files in
// the depot into each other. Only '.' and '..' cannot be what they are.
func storedStreamName(name string) string {
	if name == "." || name == ".." {
		return `\` + name
	}
	return name
}

func streamNameOf(stored string) string { return strings.TrimPrefix(stored, `\`) }
