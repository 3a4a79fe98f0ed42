package fs

import (
	"context"
	"strings"

	"golang.org/x/sys/unix"
)

// place is where an object's name stands: a folder, whose lock may be held, and
// an entry in it.
type place struct {
	dir  int // O_PATH
	key  folderKey
	base string
}

func (pl *place) close() { unix.Close(pl.dir) }

// place opens the folder in which name stands or is to stand.
func (p *POSIX) place(root int, name string) (place, error) {
	parent, base := split(name)
	dir, err := p.openFolder(root, parent)
	if err != nil {
		return place{}, err
	}
	st, err := statFD(dir)
	if err != nil {
		unix.Close(dir)
		return place{}, err
	}
	return place{dir: dir, key: keyOf(&st), base: base}, nil
}

// holds tells whether the entry leads to the object f.
func (pl *place) holds(f *posixFile) bool {
	here, errA := statFD(f.fd.fd)
	there, errB := statAt(pl.dir, pl.base)
	return errA == nil && errB == nil && sameObject(&here, &there)
}

// named runs do with the place of f's present name, whose folder lock is taken
// by lock and which is known to lead to f.
func (p *POSIX) named(root int, f *posixFile, lock func(folderKey) (unlock func()), do func(place) error) error {
	for range maxRaces {
		name, err := f.name(root)
		if err != nil {
			return err
		}
		if name == "" {
			return ErrPermission // the root itself
		}
		at, err := p.place(root, name)
		if err == unix.ENOENT || err == ErrPathNotExist || err == unix.ENOTDIR {
			continue // a folder above was renamed meanwhile
		}
		if err != nil {
			return err
		}
		unlock := lock(at.key)
		if at.holds(f) {
			err = do(at)
			unlock()
			at.close()
			return err
		}
		unlock()
		at.close()
	}
	return ErrNotExist
}

// enterFile is enter for calls about an open object of this store.
func (p *POSIX) enterFile(ctx context.Context, op string, f File) (root int, pf *posixFile, err error) {
	pf, err = p.own(f)
	if err != nil {
		return -1, nil, fail(op, "", err)
	}
	if root, err = p.enter(ctx, op, pf.label); err != nil {
		return -1, nil, err
	}
	if !pf.fd.acquire() {
		p.leave()
		return -1, nil, pf.fail(op, ErrClosed)
	}
	return root, pf, nil
}

func (p *POSIX) leaveFile(f *posixFile) {
	f.leave()
	p.leave()
}

// Remove takes the name away that the object has now, after making sure that it
// still leads to this object and to no other that took its place. The object's
// streams go with its last name. A Stream loses its own name.
func (p *POSIX) Remove(ctx context.Context, f File) error {
	const op = "remove"
	if s := p.ownStream(f); s != nil {
		return p.removeStream(ctx, s)
	}
	root, pf, err := p.enterFile(ctx, op, f)
	if err != nil {
		return err
	}
	defer p.leaveFile(pf)
	lock := func(k folderKey) func() { return p.lockFolder(k).Unlock }
	err = p.named(root, pf, lock, func(at place) error {
		if err := pf.rememberParent(at); err != nil {
			return err
		}
		return p.unlink(at, pf)
	})
	return pf.fail(op, err)
}

func (p *POSIX) unlink(at place, f *posixFile) error {
	flags := 0
	if f.dir {
		flags = unix.AT_REMOVEDIR
	}
	changed := p.changing(at.dir)
	err := p.removeName(at, f, flags)
	if err == unix.EEXIST { // POSIX lets rmdir say so of a folder with entries
		err = unix.ENOTEMPTY
	}
	if err != nil {
		return err
	}
	changed(func(c *folder) { c.remove(at.base) })
	if f.dir {
		if st, err := statFD(f.fd.fd); err == nil {
			p.cache.drop(keyOf(&st))
		}
	}
	f.node.meta.add()
	return nil
}

// Rename moves the object. A folder that would come to lie in itself gives ErrBadName.
func (p *POSIX) Rename(ctx context.Context, f File, newName string, replace bool) error {
	const op = "rename"
	root, pf, err := p.enterFile(ctx, op, f)
	if err != nil {
		return err
	}
	defer p.leaveFile(pf)
	to, err := p.target(root, newName)
	if err != nil {
		return failPath(op, newName, err)
	}
	defer to.close()
	lock := func(k folderKey) func() { return p.lockFolders(k, to.key) }
	err = p.named(root, pf, lock, func(from place) error {
		if err := pf.rememberParent(from); err != nil {
			return err
		}
		return p.rename(root, pf, from, to, replace)
	})
	return fail(op, newName, err)
}

// target is place for a name that an object is to get.
func (p *POSIX) target(root int, name string) (place, error) {
	if err := checkName(name); err != nil {
		return place{}, err
	}
	if name == "" {
		return place{}, ErrExist
	}
	to, err := p.place(root, name)
	if err == unix.ENOENT {
		err = ErrPathNotExist
	}
	return to, err
}

// rename works with both folders locked and from leading to f.
func (p *POSIX) rename(root int, f *posixFile, from, to place, replace bool) error {
	taken, there, err := p.find(to.dir, to.base)
	if err != nil {
		return err
	}
	here, err := statFD(f.fd.fd)
	if err != nil {
		return err
	}
	switch {
	case taken == "":
		return p.move(root, f, from, to, unix.RENAME_NOREPLACE)
	case from.key == to.key && taken == from.base: // the entry itself, perhaps in another case
		if taken == to.base {
			return nil
		}
		return p.move(root, f, from, to, unix.RENAME_NOREPLACE)
	case !replace || f.dir || there.Mode&unix.S_IFMT != unix.S_IFREG:
		return ErrExist
	case sameObject(&here, &there): // another name of this file: the kernel would leave both
		if err := p.unlink(from, f); err != nil {
			return err
		}
		from = place{to.dir, to.key, taken}
	default:
		over := place{to.dir, to.key, taken}
		replace := func() error { return p.move(root, f, from, over, 0) }
		if err := p.replacing(over, &there, replace); err != nil {
			return err
		}
		from = over
	}
	if taken == to.base {
		return nil
	}
	return p.move(root, f, from, to, unix.RENAME_NOREPLACE)
}

// move is renameat2 and what the cache has to know of it.
func (p *POSIX) move(root int, f *posixFile, from, to place, flags uint) error {
	// The folder's stamps are taken for both ends before and after: within one
	// folder the second pair of calls would see the first one's change.
	same := from.key == to.key
	left := p.changing(from.dir)
	came := left
	if !same {
		came = p.changing(to.dir)
	}
	err := again(func() error { return unix.Renameat2(from.dir, from.base, to.dir, to.base, flags) })
	if err == unix.EINVAL && flags != 0 {
		if f.dir && p.within(root, f, to.dir) {
			return ErrBadName
		}
		// The file system lacks RENAME_NOREPLACE. The folder's lock keeps our own
		// calls from taking the name after this look.
		if _, err := statAt(to.dir, to.base); err != unix.ENOENT {
			return ErrExist
		}
		err = again(func() error { return unix.Renameat(from.dir, from.base, to.dir, to.base) })
	}
	if err == unix.ENOENT {
		err = ErrPathNotExist // from was there under the lock: the new folder has been removed
	}
	if err != nil {
		return err
	}
	f.node.meta.add()
	if same {
		left(func(c *folder) { c.remove(from.base); c.add(to.base) })
		return nil
	}
	left(func(c *folder) { c.remove(from.base) })
	came(func(c *folder) { c.add(to.base) })
	return nil
}

// within tells whether the folder dir is f or lies below it.
func (p *POSIX) within(root int, f *posixFile, dir int) bool {
	outer, err := f.name(root)
	if err != nil {
		return false
	}
	probe := posixFile{fs: p}
	probe.fd.fd = dir
	inner, err := probe.name(root)
	return err == nil && strings.HasPrefix(inner+"/", outer+"/")
}

// Link gives a file one more name. With replace the new name takes the place of
// an old one in one step.
func (p *POSIX) Link(ctx context.Context, f File, newName string, replace bool) error {
	const op = "link"
	root, pf, err := p.enterFile(ctx, op, f)
	if err != nil {
		return err
	}
	defer p.leaveFile(pf)
	if pf.dir {
		return pf.fail(op, ErrIsDir)
	}
	to, err := p.target(root, newName)
	if err != nil {
		return failPath(op, newName, err)
	}
	defer to.close()
	if err := pf.rememberParent(to); err != nil {
		return fail(op, newName, err)
	}
	defer p.lockFolder(to.key).Unlock()
	return fail(op, newName, p.link(root, pf, to, replace))
}

func (p *POSIX) link(root int, f *posixFile, to place, replace bool) error {
	taken, there, err := p.find(to.dir, to.base)
	if err != nil {
		return err
	}
	if taken == "" {
		changed := p.changing(to.dir)
		if err := linkFD(f.fd.fd, to); err != nil {
			return err
		}
		f.node.meta.add()
		changed(func(c *folder) { c.add(to.base) })
		return nil
	}
	here, err := statFD(f.fd.fd)
	if err != nil {
		return err
	}
	over := place{to.dir, to.key, taken}
	switch {
	case !replace || there.Mode&unix.S_IFMT != unix.S_IFREG:
		return ErrExist
	case !sameObject(&here, &there):
		hidden := place{to.dir, to.key, hiddenName("link")}
		if err := linkFD(f.fd.fd, hidden); err != nil {
			return err
		}
		replace := func() error { return p.move(root, f, hidden, over, 0) }
		if err := p.replacing(over, &there, replace); err != nil {
			unix.Unlinkat(hidden.dir, hidden.base, 0)
			return err
		}
	}
	if taken == to.base {
		return nil
	}
	return p.move(root, f, over, to, unix.RENAME_NOREPLACE)
}

func linkFD(fd int, to place) error {
	return again(func() error {
		return unix.Linkat(unix.AT_FDCWD, procPath(fd), to.dir, to.base, unix.AT_SYMLINK_FOLLOW)
	})
}
