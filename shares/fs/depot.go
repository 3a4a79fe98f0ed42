package fs

import (
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Alternate data streams are files of a folder in the share's root that no client can name
// and no listing shows:
//
//	.lunless:streams/<FileID>/<name of the stream>
//	.lunless:streams/:dead/<FileID>
//
// FileID is that of the object the streams belong to, so that they follow it
// through renames without being touched, and a copy of the object made beside the server
// does not take them along. user.lunless.streams on the object says that there may be such a
// folder: nothing else is asked about objects without streams.
//
// An object with streams is deleted by moving it to :dead, which takes its name
// away in one step; then its streams go, then it goes itself. What a crash leaves in
// :dead is swept when the share is served again. Streams of an object that a
// local process deletes stay; nothing leads to them any more.
const (
	depotName   = ".lunless:streams"
	deadName    = ":dead"
	xattrMarker = "user.lunless.streams"
	streamMode  = 0o600
	depotMode   = 0o700
	maxStreams  = 4096 // of one object
)

// streamLocks serialize what is done with the streams of one object, whatever
// stores of this process serve it. They are taken with folder locks held, never before those.
var (
	streamLocks [64]sync.Mutex
	streamSeed  = maphash.MakeSeed()
)

func streamLock(id FileID) *sync.Mutex {
	return &streamLocks[maphash.Comparable(streamSeed, id)%uint64(len(streamLocks))]
}

func (id FileID) depotKey() string {
	return fmt.Sprintf("%016x-%016x-%016x", id.Volume, id.Inode, uint64(id.Birth))
}

// depotPath is where the object's streams are, below the root.
func (f *posixFile) depotPath() string { return depotName + "/" + f.id.depotKey() }

// marked says whether the object at path may have streams.
func marked(path string) (bool, error) {
	_, err := unix.Getxattr(path, xattrMarker, nil)
	switch err {
	case nil:
		return true, nil
	case unix.ENODATA, unix.EOPNOTSUPP, unix.ENOENT:
		return false, nil
	}
	return false, err
}

// streamsDir opens the folder with the object's streams; ErrNotExist if it has none.
func (f *posixFile) streamsDir(root int) (int, error) {
	has, err := marked(procPath(f.fd.fd))
	if err != nil {
		return -1, err
	}
	if !has {
		return -1, ErrNotExist
	}
	dir, err := openBeneath(root, f.depotPath(), pathFlags|unix.O_DIRECTORY, 0)
	if err == unix.ENOENT {
		err = ErrNotExist
	}
	return dir, err
}

// makeStreamsDir is streamsDir that makes what is not there. What is found of an object
// without a mark is what a predecessor with its ID has left.
func (f *posixFile) makeStreamsDir(root int) (int, error) {
	has, err := marked(procPath(f.fd.fd))
	if err != nil {
		return -1, err
	}
	if st, err := statFD(f.fd.fd); err == nil && st.Nlink == 0 {
		return -1, ErrNotExist
	}
	if !has {
		if err := dropStreams(root, f.id.depotKey()); err != nil {
			return -1, err
		}
	}
	depot, err := makeFolder(root, depotName)
	if err != nil {
		return -1, err
	}
	defer unix.Close(depot)
	dir, err := makeFolder(depot, f.id.depotKey())
	if err != nil || has {
		return dir, err
	}
	if err := unix.Setxattr(procPath(f.fd.fd), xattrMarker, []byte{1}, 0); err != nil {
		unix.Close(dir)
		return -1, err
	}
	f.node.meta.add()
	return dir, nil
}

func makeFolder(dir int, name string) (int, error) {
	if err := again(func() error { return unix.Mkdirat(dir, name, depotMode) }); err != nil && err != unix.EEXIST {
		return -1, err
	}
	return openBeneath(dir, name, pathFlags|unix.O_DIRECTORY, 0)
}

// storedStreams are the names in a folder of streams.
func storedStreams(dir int) (list []string, err error) {
	fd, err := openBeneath(dir, "", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	entries := dirents{fd: fd}
	for {
		name, _, err := entries.next()
		if err != nil || name == "" {
			return list, err
		}
		list = append(list, name)
	}
}

// findStream is the stored name of the stream called name in any case, or "".
func findStream(dir int, name string) (string, error) {
	stored := storedStreamName(name)
	if _, err := statAt(dir, stored); err != unix.ENOENT && err != unix.ENAMETOOLONG {
		return stored, err
	}
	names, err := storedStreams(dir)
	if err != nil {
		return "", err
	}
	for _, n := range names {
		if fold(streamNameOf(n)) == fold(name) {
			return n, nil
		}
	}
	return "", nil
}

func sortStreams(list []StreamInfo) {
	slices.SortFunc(list, func(a, b StreamInfo) int { return cmp.Compare(fold(a.Name), fold(b.Name)) })
}

// dropStreams deletes the streams kept under a key.
func dropStreams(root int, key string) error {
	dir, err := openBeneath(root, depotName+"/"+key, pathFlags|unix.O_DIRECTORY, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	names, err := storedStreams(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := unix.Unlinkat(dir, n, 0); err != nil && err != unix.ENOENT {
			return err
		}
	}
	depot, err := openBeneath(root, depotName, pathFlags|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(depot)
	return unix.Unlinkat(depot, key, unix.AT_REMOVEDIR)
}

// deadFolder opens the folder of what is being deleted.
func deadFolder(root int) (int, error) {
	depot, err := openBeneath(root, depotName, pathFlags|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(depot)
	return makeFolder(depot, deadName)
}

// removeName takes the name at away from f, and its streams if that was the last one.
func (p *POSIX) removeName(at place, f *posixFile, flags int) error {
	remove := func() error {
		return again(func() error { return unix.Unlinkat(at.dir, at.base, flags) })
	}
	has, err := marked(procPath(f.fd.fd))
	if err != nil {
		return err
	}
	if !has {
		return remove()
	}
	lock := streamLock(f.id)
	lock.Lock()
	defer lock.Unlock()
	st, err := statFD(f.fd.fd)
	if err != nil {
		return err
	}
	if !f.dir && st.Nlink > 1 {
		if err := remove(); err != nil {
			return err
		}
		if st, err := statFD(f.fd.fd); err == nil && st.Nlink == 0 { // the others went meanwhile
			_ = dropStreams(p.root.fd, f.id.depotKey())
		}
		return nil
	}
	return p.bury(at, f, remove)
}

// bury moves an object with streams to where it is deleted from. An object of
// another file system than the root's is deleted where it is.
func (p *POSIX) bury(at place, f *posixFile, remove func() error) error {
	root, key := p.root.fd, f.id.depotKey()
	if f.dir {
		names, err := storedStreams(f.fd.fd)
		if err != nil {
			return err
		}
		if len(names) > 0 {
			return unix.ENOTEMPTY
		}
	}
	dead, err := deadFolder(root)
	if err != nil { // no depot: the mark is all there is
		return remove()
	}
	defer unix.Close(dead)
	if err := again(func() error { return unix.Renameat(at.dir, at.base, dead, key) }); err != nil {
		if err := remove(); err != nil {
			return err
		}
		_ = dropStreams(root, key)
		return nil
	}
	if f.dir {
		if err := unix.Unlinkat(dead, key, unix.AT_REMOVEDIR); err != nil { // a local process was faster
			back := unix.Renameat2(dead, key, at.dir, at.base, unix.RENAME_NOREPLACE)
			return errors.Join(err, back)
		}
		_ = dropStreams(root, key)
		return nil
	}
	// The name is gone. What cannot be deleted now is swept later.
	if dropStreams(root, key) == nil {
		_ = unix.Unlinkat(dead, key, 0)
	}
	return nil
}

// replacing runs move, which replaces the entry over by another file in one step;
// the streams of what was there go if that was its last link.
func (p *POSIX) replacing(over place, there *unix.Statx_t, move func() error) error {
	root := p.root.fd
	has, err := marked(procPath(over.dir) + "/" + over.base)
	if err != nil {
		return err
	}
	if !has || there.Nlink > 1 {
		return move()
	}
	id := p.idAt(over.dir, over.base, there)
	lock := streamLock(id)
	lock.Lock()
	defer lock.Unlock()
	dead, err := deadFolder(root)
	if err != nil {
		return move()
	}
	defer unix.Close(dead)
	key := id.depotKey()
	linked := unix.Linkat(over.dir, over.base, dead, key, 0)
	err = move()
	dropped := err == nil && dropStreams(root, key) == nil
	if linked == nil && (dropped || err != nil) {
		_ = unix.Unlinkat(dead, key, 0)
	}
	return err
}

// sweep deletes what a crash has left half deleted. A file that has another name than the one
// here is not to be deleted: the crash came before it was replaced.
func sweep(root int) error {
	dead, err := openBeneath(root, depotName+"/"+deadName, pathFlags|unix.O_DIRECTORY, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(dead)
	names, err := storedStreams(dead)
	if err != nil {
		return err
	}
	for _, key := range names {
		st, err := statAt(dead, key)
		switch {
		case err != nil:
		case st.Mode&unix.S_IFMT == unix.S_IFDIR:
			if err = unix.Unlinkat(dead, key, unix.AT_REMOVEDIR); err == nil {
				err = dropStreams(root, key)
			}
		case st.Nlink > 1:
			err = unix.Unlinkat(dead, key, 0)
		default:
			if err = dropStreams(root, key); err == nil {
				err = unix.Unlinkat(dead, key, 0)
			}
		}
		if err != nil && err != unix.ENOENT && err != unix.ENOTEMPTY {
			return err
		}
	}
	return nil
}
