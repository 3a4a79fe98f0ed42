package fs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Options of a POSIX store. The zero value is good.
type Options struct {
	Label       string // of the volume; the root folder's name if empty
	FileMode    uint32 // of new files, before the umask; 0660 if 0
	FolderMode  uint32 // of new folders, before the umask; 0770 if 0
	CachedNames int    // bound on the names kept for look-ups in another case; 1<<20 if 0
}

// POSIX is the FS over a folder of a POSIX file system of Linux (5.6 or later,
// with /proc) that keeps user extended attributes.
//
// No path leaves the root folder, and no symbolic link is followed: one in a path
// gives ErrEscapes, and listings leave links, devices, pipes, sockets and names
// Windows cannot have out. Their names are taken all the same (ErrExist), and a
// folder that holds one is not empty. The root may be moved while it is served.
//
// Alternate data streams live in a folder of the root that clients do not see.
//
// Creation time and attributes live in user.lunless.attr, the security
// descriptor in user.lunless.sd. READONLY does not change the file's mode. The
// time of the last change is the kernel's and cannot be set.
type POSIX struct {
	opts     Options
	root     descriptor // O_PATH
	path     string     // of the root when it was opened, for messages
	rootStat unix.Statx_t
	features features
	volumes  sync.Map // device number -> uint64 volume
	nodes    nodes
	cache    nameCache
	folders  folderFlushes
	locks    [lockStripes]sync.Mutex
	creating atomic.Int64 // calls of Create that have made an object and not finished it
	noCached atomic.Bool  // RWF_NOWAIT is not supported
}

var _ FS = (*POSIX)(nil)

// NewPOSIX serves the folder root. It fails if the file system there keeps no
// user extended attributes.
func NewPOSIX(root string, opts Options) (*POSIX, error) {
	if opts.FileMode == 0 {
		opts.FileMode = 0o660
	}
	if opts.FolderMode == 0 {
		opts.FolderMode = 0o770
	}
	if opts.CachedNames == 0 {
		opts.CachedNames = 1 << 20
	}
	path, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("share root %q: %w", root, err)
	}
	if opts.Label == "" {
		opts.Label = filepath.Base(path)
	}
	fd, err := unix.Open(path, pathFlags|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fail("open share root", root, err)
	}
	p := &POSIX{opts: opts, path: path}
	p.cache.limit = opts.CachedNames
	p.root.init(fd)
	if err := p.probe(fd); err != nil {
		p.root.close()
		return nil, fmt.Errorf("share root %q: %w", path, err)
	}
	if err := sweep(fd); err != nil && err != unix.EACCES && err != unix.EROFS && err != unix.EPERM {
		p.root.close()
		return nil, fmt.Errorf("share root %q: streams of deleted files: %w", path, err)
	}
	return p, nil
}

var errNoXattr = errors.New("the file system keeps no user extended attributes, which hold attributes and " +
	"security descriptors: put the share on ext4, XFS, btrfs or another that does (ext4: mount with user_xattr)")

// probe checks what the store needs and learns what else the file system can do,
// on a nameless file where the root is writable.
func (p *POSIX) probe(fd int) error {
	var err error
	if p.rootStat, err = statFD(fd); err != nil {
		return err
	}
	if _, err := os.Readlink(procPath(fd)); err != nil {
		return fmt.Errorf("/proc is not mounted: %w", err)
	}
	if probe, err := openBeneath(fd, "", unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		if errors.Is(err, unix.ENOSYS) {
			err = fmt.Errorf("openat2: the kernel is too old, Linux 5.6 or later is needed: %w", err)
		}
		return err
	} else {
		unix.Close(probe)
	}
	a, errA := p.scratch(fd)
	if errA != nil { // not writable: look only
		_, err := unix.Getxattr(procPath(fd), xattrAttr, nil)
		if err == unix.EOPNOTSUPP {
			return errNoXattr
		}
		return nil
	}
	defer unix.Close(a)
	if err := unix.Fsetxattr(a, xattrAttr, storedAttr{}.encode(), 0); err != nil {
		if err == unix.EOPNOTSUPP {
			return errNoXattr
		}
		return fmt.Errorf("set a user extended attribute: %w", err)
	}
	p.learn(fd, a)
	return nil
}

// scratch makes a file without a name. Where the file system cannot, the name it
// has for a moment is one that clients are not shown.
func (p *POSIX) scratch(fd int) (int, error) {
	tmp, err := openBeneath(fd, "", unix.O_RDWR|unix.O_TMPFILE, 0o600)
	if err != unix.EOPNOTSUPP && err != unix.EISDIR {
		return tmp, err
	}
	name := hiddenName("probe")
	tmp, err = openBeneath(fd, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err == nil {
		err = unix.Unlinkat(fd, name, 0)
	}
	return tmp, err
}

// hiddenName is one that no client can use and no listing shows.
func hiddenName(what string) string { return ".lunless:" + what + ":" + rand.Text() }

// Close lets go of the root. Files still open keep their data and answer
// ErrClosed to what needs the tree.
func (p *POSIX) Close() error {
	if !p.root.close() {
		return ErrClosed
	}
	return nil
}

// enter makes the root's descriptor usable until leave.
func (p *POSIX) enter(ctx context.Context, op, name string) (root int, err error) {
	if err := ctx.Err(); err != nil {
		return -1, fail(op, name, err)
	}
	if !p.root.acquire() {
		return -1, fail(op, name, ErrClosed)
	}
	return p.root.fd, nil
}

func (p *POSIX) leave() { p.root.release() }

// volume names a file system: the identity it states itself, which survives a
// restart, else its device number.
func (p *POSIX) volume(fd int, dev uint64) uint64 {
	if v, ok := p.volumes.Load(dev); ok {
		return v.(uint64)
	}
	v := dev
	var st unix.Statfs_t
	if again(func() error { return unix.Fstatfs(fd, &st) }) == nil {
		if id := uint64(uint32(st.Fsid.Val[0]))<<32 | uint64(uint32(st.Fsid.Val[1])); id != 0 {
			v = id
		}
	}
	p.volumes.Store(dev, v)
	return v
}

// Volume describes the file system of the root.
func (p *POSIX) Volume(ctx context.Context) (Volume, error) {
	root, err := p.enter(ctx, "volume", p.path)
	if err != nil {
		return Volume{}, err
	}
	defer p.leave()
	var st unix.Statfs_t
	if err := again(func() error { return unix.Fstatfs(root, &st) }); err != nil {
		return Volume{}, fail("volume", p.path, err)
	}
	unit := uint64(st.Frsize)
	if unit == 0 {
		unit = uint64(st.Bsize)
	}
	logical, physical, disk := diskOf(p.rootStat.Dev_major, p.rootStat.Dev_minor)
	v := Volume{
		Serial:         p.volume(root, keyOf(&p.rootStat).dev),
		Label:          p.opts.Label,
		Created:        createdTime(&p.rootStat),
		TotalBytes:     st.Blocks * unit,
		FreeBytes:      st.Bfree * unit,
		AvailBytes:     st.Bavail * unit,
		BytesPerSec:    logical,
		PhysicalSec:    physical,
		Disk:           disk,
		SectorsPerUnit: max(1, uint32(unit)/logical),
		MaxName:        maxComponent,
		Reflink:        p.features.reflink,
		Sparse:         p.features.sparse,
		Streams:        true,
		EAs:            true,
		Unwritten:      p.features.unwritten,
	}
	return v, nil
}
