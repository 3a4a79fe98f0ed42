package fs

import (
	"errors"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	beneath   = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS
	statMask  = unix.STATX_BASIC_STATS | unix.STATX_BTIME
	maxRaces  = 16 // how often a look-up starts again because names changed under it
	pathFlags = unix.O_PATH | unix.O_CLOEXEC
)

var errRaces = errors.New("names keep changing")

// openBeneath opens a path below the folder dir ("" for itself) that never
// leaves it and meets no symbolic link.
func openBeneath(dir int, path string, flags int, mode uint32) (int, error) {
	if path == "" {
		path = "."
	}
	how := unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC, Mode: uint64(mode), Resolve: beneath}
	for try := 0; ; try++ {
		fd, err := unix.Openat2(dir, path, &how)
		// EAGAIN: a rename somewhere kept the kernel from being sure of "beneath".
		// EXDEV: the object was beneath when it was found and has been moved away
		// since; the next look tells where that leaves the name.
		if (err == unix.EINTR || err == unix.EAGAIN || err == unix.EXDEV) && try < 128 {
			continue
		}
		return fd, err
	}
}

func statFD(fd int) (unix.Statx_t, error) {
	var st unix.Statx_t
	err := again(func() error { return unix.Statx(fd, "", unix.AT_EMPTY_PATH, statMask, &st) })
	return st, err
}

func statAt(dir int, name string) (unix.Statx_t, error) {
	var st unix.Statx_t
	err := again(func() error { return unix.Statx(dir, name, unix.AT_SYMLINK_NOFOLLOW, statMask, &st) })
	return st, err
}

func keyOf(st *unix.Statx_t) folderKey {
	return folderKey{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}
}

func stampOf(st *unix.Statx_t) stamp { return stamp{st.Mtime, st.Ctime, st.Btime} }

func sameObject(a, b *unix.Statx_t) bool {
	return keyOf(a) == keyOf(b) && a.Btime == b.Btime
}

// Folder locks. A folder's lock is held while a name in it is looked up in the
// cache, made, changed or taken away, so that names equal but for case are
// decided about one after the other. Locks are striped: two folders may share
// one. Lock order: by stripe; nothing else is locked under two of them but
// nameCache.mu and nodes.mu.
const lockStripes = 256

func (k folderKey) stripe() int {
	h := (k.dev*0x9E3779B97F4A7C15 ^ k.ino) * 0x9E3779B97F4A7C15
	return int(h >> 56)
}

func (p *POSIX) lockFolder(k folderKey) *sync.Mutex {
	m := &p.locks[k.stripe()]
	m.Lock()
	return m
}

// lockFolders locks two folders, which may be one.
func (p *POSIX) lockFolders(a, b folderKey) (unlock func()) {
	i, j := a.stripe(), b.stripe()
	if i > j {
		i, j = j, i
	}
	p.locks[i].Lock()
	if i != j {
		p.locks[j].Lock()
	}
	return func() {
		if i != j {
			p.locks[j].Unlock()
		}
		p.locks[i].Unlock()
	}
}

// openFolder returns an O_PATH descriptor of the folder called name in any case.
func (p *POSIX) openFolder(root int, name string) (int, error) {
	fd, err := openBeneath(root, name, pathFlags|unix.O_DIRECTORY, 0)
	if err != unix.ENOENT || name == "" {
		return fd, err
	}
	dir, err := openBeneath(root, "", pathFlags|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, err
	}
	for rest, more := name, true; more; {
		var component string
		component, rest, more = strings.Cut(rest, "/")
		next, err := p.openIn(dir, component, pathFlags|unix.O_DIRECTORY)
		unix.Close(dir)
		if err != nil {
			if err == unix.ENOENT {
				err = ErrPathNotExist
			}
			return -1, err
		}
		dir = next
	}
	return dir, nil
}

// openIn opens the entry of the folder dir called name in any case.
func (p *POSIX) openIn(dir int, name string, flags int) (int, error) {
	for range maxRaces {
		fd, err := openBeneath(dir, name, flags, 0)
		if err != unix.ENOENT {
			return fd, err
		}
		st, err := statFD(dir)
		if err != nil {
			return -1, err
		}
		lock := p.lockFolder(keyOf(&st))
		stored, _, err := p.find(dir, name)
		lock.Unlock()
		if err != nil {
			return -1, err
		}
		if stored == "" {
			return -1, unix.ENOENT
		}
		if fd, err = openBeneath(dir, stored, flags, 0); err != unix.ENOENT {
			return fd, err
		}
	}
	return -1, errRaces
}

// find looks name up in a folder whose lock is held, without regard to case:
// the stored name and what it names, or "". The exact spelling goes first, then
// the one that sorts first.
func (p *POSIX) find(dir int, name string) (string, unix.Statx_t, error) {
	for range maxRaces {
		st, err := statAt(dir, name)
		if err != unix.ENOENT {
			return name, st, err
		}
		f, fresh, err := p.folder(dir)
		if err != nil {
			return "", st, err
		}
		first, more := f.find(fold(name))
		if first == "" && mayBeComputed(name) {
			first = f.findShort(name)
		}
		if first == "" {
			if fresh || f.settled || time.Now().Before(f.until) {
				return "", st, nil
			}
			p.cache.drop(f.key)
			continue
		}
		for _, n := range more {
			first = min(first, n)
		}
		if st, err = statAt(dir, first); err != unix.ENOENT {
			return first, st, err
		}
		p.cache.drop(f.key) // its stamps hid a change
	}
	return "", unix.Statx_t{}, errRaces
}

// folder returns the names of the folder dir, whose lock is held: fresh if they
// were read in this call.
func (p *POSIX) folder(dir int) (f *folder, fresh bool, err error) {
	st, err := statFD(dir)
	if err != nil {
		return nil, false, err
	}
	key := keyOf(&st)
	old := p.cache.get(key)
	if old != nil && old.stamp == stampOf(&st) {
		return old, false, nil
	}
	f, err = readFolder(dir)
	if err != nil {
		return nil, false, err
	}
	p.cache.put(f)
	return f, true, nil
}

// readFolder reads all names of a folder.
func readFolder(dir int) (*folder, error) {
	fd, err := openBeneath(dir, "", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	st, err := statFD(fd)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	f := &folder{key: keyOf(&st), stamp: stampOf(&st), names: make(map[string]string)}
	f.settled = start.Sub(timeOf(st.Ctime)) >= settle // not Mtime: anyone may set that
	entries := dirents{fd: fd}
	for {
		name, _, err := entries.next()
		if err != nil {
			return nil, err
		}
		if name == "" {
			break
		}
		f.add(name)
	}
	f.cost = time.Since(start)
	return f, nil
}

// changing notes the names of a folder, whose lock is held, ahead of a change;
// the function it returns says that it has been made: the folder is to be flushed,
// and the cache takes the change over. Without valid names in the cache nothing is kept.
func (p *POSIX) changing(dir int) (done func(change func(*folder))) {
	st, err := statFD(dir)
	if err != nil {
		return func(func(*folder)) { p.folders.changedAny() }
	}
	key := keyOf(&st)
	f := p.cache.get(key)
	if f == nil || f.stamp != stampOf(&st) {
		return func(func(*folder)) { p.folders.changed(key); p.cache.drop(key) }
	}
	return func(change func(*folder)) {
		p.folders.changed(key)
		after, err := statFD(dir)
		if err != nil {
			p.cache.drop(key)
			return
		}
		change(f)
		f.followed(stampOf(&after), time.Now())
		p.cache.put(f)
	}
}
