package smbstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// localStore is a folder of this machine.
type localStore struct {
	loc  Location
	opts Options // for the shares that a disk's parents may lie on

	fence Fence
}

func (s *localStore) Location() Location { return s.loc }
func (s *localStore) DeniesWrite() bool  { return true }
func (s *localStore) Close() error       { return nil }

// path checks a name and gives the operating system's.
func (s *localStore) path(name string) (string, error) {
	if name == "" {
		return s.loc.Path, nil
	}
	if err := checkName(name); err != nil {
		return "", err
	}
	return filepath.Join(s.loc.Path, filepath.FromSlash(name)), nil
}

// wrap says what failed on what, with this package's errors.
func (s *localStore) wrap(op, name string, err error) error {
	if err == nil {
		return nil
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		switch errno {
		case syscall.ENOSPC, syscall.EDQUOT:
			err = fmt.Errorf("%w (%v)", ErrNoSpace, errno)
		case syscall.ENOTEMPTY:
			err = ErrNotEmpty
		default:
			err = errno
		}
	}
	return opError(op, s.loc.Join(name), err)
}

func (s *localStore) OpenFile(name string, flags Flags) (File, error) {
	f, err := s.openFile(name, flags)
	if err != nil {
		return s.fence.opened(nil, err, flags, s.loc.Join(name))
	}
	return s.fence.opened(f, nil, flags, s.loc.Join(name))
}

func (s *localStore) openFile(name string, flags Flags) (*localFile, error) {
	p, err := s.path(name)
	if err == nil {
		err = checkFlags(flags)
	}
	if err != nil {
		return nil, s.wrap("open", name, err)
	}
	mode := os.O_RDONLY
	switch flags & ReadWrite {
	case Write:
		mode = os.O_WRONLY
	case ReadWrite:
		mode = os.O_RDWR
	}
	if flags&Create != 0 {
		mode |= os.O_CREATE
	}
	if flags&Exclusive != 0 {
		mode |= os.O_EXCL
	}
	f, err := os.OpenFile(p, mode|unix.O_CLOEXEC, 0o666)
	if err != nil {
		return nil, s.wrap("open", name, err)
	}
	if err := lockLocal(f, flags); err != nil {
		f.Close()
		return nil, s.wrap("open", name, err)
	}
	if st, err := f.Stat(); err == nil && !st.Mode().IsRegular() && st.Mode()&os.ModeDevice == 0 {
		f.Close()
		return nil, s.wrap("open", name, syscall.EISDIR)
	}
	// Truncating comes after the lock: a refused open changes nothing.
	if flags&Truncate != 0 {
		if err := f.Truncate(0); err != nil {
			f.Close()
			return nil, s.wrap("open", name, err)
		}
	}
	return &localFile{store: s, name: name, f: f, behind: flags&WriteBehind != 0}, nil
}

func (s *localStore) Mkdir(name string) error {
	p, err := s.path(name)
	if err == nil {
		err = os.Mkdir(p, 0o777)
	}
	return s.wrap("create folder", name, err)
}

func (s *localStore) MkdirAll(name string) error {
	p, err := s.path(name)
	if err == nil {
		err = os.MkdirAll(p, 0o777)
	}
	return s.wrap("create folder", name, err)
}

func (s *localStore) Remove(name string) error {
	if name == "" {
		return s.wrap("remove", name, ErrIsRoot)
	}
	p, err := s.path(name)
	if err == nil {
		err = os.Remove(p)
	}
	return s.wrap("remove", name, err)
}

func (s *localStore) RemoveAll(name string) error { return removeAll(s, name) }

func (s *localStore) Rename(oldName, newName string) error {
	if oldName == "" || newName == "" {
		return s.wrap("rename", oldName, ErrIsRoot)
	}
	from, err := s.path(oldName)
	if err != nil {
		return s.wrap("rename", oldName, err)
	}
	to, err := s.path(newName)
	if err != nil {
		return s.wrap("rename", oldName, err)
	}
	// rename(2) replaces an empty folder in silence; a store never does.
	if st, err := os.Lstat(to); err == nil && st.IsDir() {
		return s.wrap("rename "+oldName+" to", newName, ErrExist)
	}
	return s.wrap("rename", oldName, os.Rename(from, to))
}

func (s *localStore) ReadDir(name string) ([]Info, error) {
	p, err := s.path(name)
	if err != nil {
		return nil, s.wrap("list", name, err)
	}
	entries, err := os.ReadDir(p)
	if err != nil {
		return nil, s.wrap("list", name, err)
	}
	infos := make([]Info, 0, len(entries))
	for _, e := range entries {
		st, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, s.wrap("list", name, err)
		}
		infos = append(infos, localInfo(st))
	}
	return infos, nil
}

func localInfo(st os.FileInfo) Info {
	i := Info{Name: st.Name(), Dir: st.IsDir(), ModTime: st.ModTime()}
	if !i.Dir {
		i.Size = st.Size()
	}
	return i
}

func (s *localStore) Stat(name string) (Info, error) {
	p, err := s.path(name)
	if err != nil {
		return Info{}, s.wrap("stat", name, err)
	}
	st, err := os.Stat(p)
	if err != nil {
		return Info{}, s.wrap("stat", name, err)
	}
	return localInfo(st), nil
}

func (s *localStore) SyncDir(name string) error {
	p, err := s.path(name)
	if err != nil {
		return s.wrap("sync", name, err)
	}
	d, err := os.Open(p)
	if err != nil {
		return s.wrap("sync", name, err)
	}
	defer d.Close()
	return s.wrap("sync", name, d.Sync())
}

// removeAll is RemoveAll in terms of a store's other methods.
func removeAll(s Store, name string) error {
	if name == "" {
		return opError("remove", s.Location(), ErrIsRoot)
	}
	left := 100_000
	var rm func(name string, depth int) error
	rm = func(name string, depth int) error {
		if depth > 64 {
			return opError("remove", s.Location().Join(name), fmt.Errorf("%w: nested deeper than 64 folders", ErrTooMany))
		}
		infos, err := s.ReadDir(name)
		if err != nil {
			return err
		}
		for _, i := range infos {
			if left--; left < 0 {
				return opError("remove", s.Location().Join(name), ErrTooMany)
			}
			child := name + "/" + i.Name
			if i.Dir {
				err = rm(child, depth+1)
			} else {
				err = s.Remove(child)
			}
			if err != nil && !errors.Is(err, ErrNotExist) {
				return err
			}
		}
		return s.Remove(name)
	}
	st, err := s.Stat(name)
	if err == nil && !st.Dir {
		err = s.Remove(name)
	} else if err == nil {
		err = rm(name, 0)
	}
	if errors.Is(err, ErrNotExist) {
		return nil
	}
	return err
}
