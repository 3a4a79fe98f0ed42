package fs

import (
	"context"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"lunless/smbstore/fscc"

	"golang.org/x/sys/unix"
)

// posixFile is an open object of a POSIX store.
type posixFile struct {
	fs       *POSIX
	fd       descriptor
	label    string // the name it was opened by, for messages
	id       FileID
	dir      bool
	pathOnly bool // an O_PATH descriptor: metadata only
	access   Access
	node     *node

	// Flushes of one File go one after the other, because the kernel tells of
	// a lost page only once a descriptor; calls that wait share the next one.
	syncMu   sync.Mutex
	started  atomic.Uint64 // flushes begun
	finished uint64        // number of the last flush that ended; guarded by syncMu
}

var _ File = (*posixFile)(nil)

func (f *posixFile) ID() FileID { return f.id }
func (f *posixFile) Dir() bool  { return f.dir }

func (f *posixFile) fail(op string, err error) error { return fail(op, f.label, err) }

// enter makes the descriptor usable until leave.
func (f *posixFile) enter(ctx context.Context, op string) error {
	if err := ctx.Err(); err != nil {
		return f.fail(op, err)
	}
	if !f.fd.acquire() {
		return f.fail(op, ErrClosed)
	}
	return nil
}

func (f *posixFile) leave() { f.fd.release() }

// Close waits for the calls that are using the file and closes it. Some file
// systems (NFS, FUSE) tell only then that writes were lost, which counts as a
// failed flush.
func (f *posixFile) Close() error {
	if !f.fd.close() {
		return f.fail("close", ErrClosed)
	}
	err := f.poison(f.fd.err)
	f.fs.nodes.close(f.id, f.node)
	return f.fail("close", err)
}

const deleted = " (deleted)" // what the kernel adds to the path of an object without a name

// Name asks the kernel, which follows every rename, of the root too.
func (f *posixFile) Name() (string, error) {
	const op = "name"
	if err := f.enter(context.Background(), op); err != nil {
		return "", err
	}
	defer f.leave()
	if !f.fs.root.acquire() {
		return "", f.fail(op, ErrClosed)
	}
	defer f.fs.root.release()
	name, err := f.name(f.fs.root.fd)
	return name, f.fail(op, err)
}

// name is Name with both descriptors in use.
func (f *posixFile) name(root int) (string, error) {
	name, err := f.path(root)
	if err == nil && strings.HasPrefix(name, depotName+"/") { // being deleted, or a stream
		return "", ErrNotExist
	}
	return name, err
}

// path is where the object is below the root.
func (f *posixFile) path(root int) (string, error) {
	for range maxRaces {
		top, err := os.Readlink(procPath(root))
		if err != nil {
			return "", unwrapErrno(err)
		}
		path, err := os.Readlink(procPath(f.fd.fd))
		if err != nil {
			return "", unwrapErrno(err)
		}
		if path == top {
			return "", nil
		}
		name, inside := strings.CutPrefix(path, strings.TrimSuffix(top, "/")+"/")
		if !inside {
			if now, err := os.Readlink(procPath(root)); err == nil && now != top {
				continue // the root was moved in between
			}
			return "", ErrNotExist // moved out of the share
		}
		bare, marked := strings.CutSuffix(name, deleted)
		switch {
		case !marked || f.isAt(root, name):
			return name, nil
		case f.isAt(root, bare):
			return bare, nil
		}
		return "", ErrNotExist
	}
	return "", errRaces
}

// isAt tells whether the object is what is called name just now.
func (f *posixFile) isAt(root int, name string) bool {
	fd, err := openBeneath(root, name, pathFlags, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	there, errA := statFD(fd)
	here, errB := statFD(f.fd.fd)
	return errA == nil && errB == nil && sameObject(&there, &here)
}

func unwrapErrno(err error) error {
	if e, ok := err.(*os.PathError); ok {
		return e.Err
	}
	return err
}

func (f *posixFile) Stat(ctx context.Context) (Info, error) {
	const op = "stat"
	if err := f.enter(ctx, op); err != nil {
		return Info{}, err
	}
	defer f.leave()
	st, err := statFD(f.fd.fd)
	if err != nil {
		return Info{}, f.fail(op, err)
	}
	attr, err := readStoredAttr(procPath(f.fd.fd), true)
	if err != nil {
		return Info{}, f.fail(op, err)
	}
	info := infoOf(f.id, &st, attr)
	if wish := f.node.wish.Load(); wish > 0 && !f.dir {
		info.AllocationSize = max(dataAllocation(&st, max(wish, info.Size)), wish)
	}
	return info, nil
}

func (p *POSIX) idOf(fd int, st *unix.Statx_t) FileID {
	id := FileID{Volume: p.volume(fd, keyOf(st).dev), Inode: st.Ino}
	if st.Mask&unix.STATX_BTIME != 0 {
		id.Birth = st.Btime.Sec*1e9 + int64(st.Btime.Nsec)
	}
	return id
}

// idAt is idOf for an entry of a folder, which may be where another file system is mounted.
func (p *POSIX) idAt(dir int, name string, st *unix.Statx_t) FileID {
	if _, known := p.volumes.Load(keyOf(st).dev); !known {
		if fd, err := openBeneath(dir, name, pathFlags, 0); err == nil {
			defer unix.Close(fd)
			dir = fd
		}
	}
	return p.idOf(dir, st)
}

// infoOf puts together what the kernel and user.lunless.attr say. A folder has
// one link, as Windows counts, whatever its subfolders add.
func infoOf(id FileID, st *unix.Statx_t, attr storedAttr) Info {
	info := Info{
		ID:             id,
		Size:           int64(st.Size),
		AllocationSize: dataAllocation(st, int64(st.Size)),
		Links:          st.Nlink,
		Attributes:     attr.attributes,
		EASize:         uint32(attr.eaSize),
		Created:        createdTime(st),
		Accessed:       timeOf(st.Atime),
		Written:        timeOf(st.Mtime),
		Changed:        timeOf(st.Ctime),
	}
	if attr.created != 0 {
		info.Created = attr.created.Time()
	}
	if attr.changed != 0 && info.Changed.UnixNano() <= attr.until {
		info.Changed = attr.changed.Time()
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		info.Dir = true
		info.Size, info.AllocationSize = 0, 0
		info.Links = min(info.Links, 1)
		info.Attributes |= fscc.FILE_ATTRIBUTE_DIRECTORY
	}
	return info
}

// dataAllocation is what a file of size bytes takes on disk without the block in
// which the kernel may keep its extended attributes, which counts in st.Blocks.
func dataAllocation(st *unix.Statx_t, size int64) int64 {
	taken, block := int64(st.Blocks)*512, max(int64(st.Blksize), 512)
	if need := (size + block - 1) / block * block; taken == need+block {
		return need
	}
	return taken
}

func timeOf(t unix.StatxTimestamp) time.Time { return time.Unix(t.Sec, int64(t.Nsec)).UTC() }

// createdTime is the birth time, or the earliest time there is where the file
// system keeps none.
func createdTime(st *unix.Statx_t) time.Time {
	if st.Mask&unix.STATX_BTIME != 0 {
		return timeOf(st.Btime)
	}
	m, c := timeOf(st.Mtime), timeOf(st.Ctime)
	if m.Before(c) {
		return m
	}
	return c
}

func filetime(t time.Time) fscc.Filetime { return fscc.FiletimeOf(t) }

// SetTimes sets what POSIX lets set and keeps the other times beside the file.
func (f *posixFile) SetTimes(ctx context.Context, c TimeChange) error {
	const op = "set times"
	if err := f.enter(ctx, op); err != nil {
		return err
	}
	defer f.leave()
	defer f.node.meta.add()
	if c.Accessed != nil || c.Written != nil {
		times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}}
		for i, t := range []*time.Time{c.Accessed, c.Written} {
			if t != nil {
				times[i] = unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
			}
		}
		err := again(func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, procPath(f.fd.fd), times, 0) })
		if err != nil {
			return f.fail(op, err)
		}
	}
	if c.Created != nil {
		if err := f.changeAttr(func(a *storedAttr) { a.created = filetime(*c.Created) }); err != nil {
			return f.fail(op, err)
		}
	}
	if c.Changed != nil {
		return f.fail(op, f.setChanged(*c.Changed))
	}
	return nil
}

// ctimeTick is no less than the granularity of the kernel's change times. What
// changes a file within a tick of a change time that was set does not show.
const ctimeTick = 10 * time.Millisecond

// setChanged keeps t as the change time. Keeping it moves the kernel's, which is
// not known before, but how far at most, unless the caller is held up between.
func (f *posixFile) setChanged(t time.Time) error {
	for range maxRaces {
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now); err != nil {
			return err
		}
		until := now.Nano() + int64(ctimeTick)
		if err := f.changeAttr(func(a *storedAttr) { a.changed, a.until = filetime(t), until }); err != nil {
			return err
		}
		if st, err := statFD(f.fd.fd); err != nil || timeOf(st.Ctime).UnixNano() <= until {
			return err
		}
	}
	return errRaces
}

// SetAttributes keeps the attributes that can be set and leaves the others out.
func (f *posixFile) SetAttributes(ctx context.Context, a Attributes) error {
	const op = "set attributes"
	if err := f.enter(ctx, op); err != nil {
		return err
	}
	defer f.leave()
	defer f.node.meta.add()
	return f.fail(op, f.changeAttr(func(s *storedAttr) { s.attributes, s.changed = a&settable, 0 }))
}

func (f *posixFile) changeAttr(change func(*storedAttr)) error {
	f.node.attrMu.Lock()
	defer f.node.attrMu.Unlock()
	return f.changeAttrLocked(change)
}

func (f *posixFile) changeAttrLocked(change func(*storedAttr)) error {
	a, err := readStoredAttr(procPath(f.fd.fd), true)
	if err != nil {
		return err
	}
	before := a
	change(&a)
	if a == before {
		return nil
	}
	return writeStoredAttr(f.fd.fd, a)
}

func (f *posixFile) SecurityDescriptor(ctx context.Context) ([]byte, error) {
	const op = "read security descriptor"
	if err := f.enter(ctx, op); err != nil {
		return nil, err
	}
	defer f.leave()
	sd, err := readSD(f.fd.fd)
	return sd, f.fail(op, err)
}

// SetSecurityDescriptor gives ErrNoSpace for one the file system has no room for
// (about 4 KiB on ext4 without ea_inode, 64 KiB at most anywhere).
func (f *posixFile) SetSecurityDescriptor(ctx context.Context, sd []byte) error {
	const op = "set security descriptor"
	if err := f.enter(ctx, op); err != nil {
		return err
	}
	defer f.leave()
	defer f.node.meta.add()
	return f.fail(op, writeSD(f.fd.fd, sd))
}
