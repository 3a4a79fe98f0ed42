package smbstore

import "path"

// Sub is a folder of a store as a store of its own, over the same connections.
// Closing it closes nothing.
func Sub(s Store, name string) Store {
	if name == "" {
		return s
	}
	if o, ok := s.(*subStore); ok {
		return &subStore{Store: o.Store, prefix: path.Join(o.prefix, name)}
	}
	return &subStore{Store: s, prefix: name}
}

type subStore struct {
	Store
	prefix string
}

// in leaves names that try to leave the prefix as they are: the store refuses them.
func (s *subStore) in(name string) (string, error) {
	if name == "" {
		return s.prefix, nil
	}
	if err := checkName(name); err != nil {
		return "", err
	}
	return s.prefix + "/" + name, nil
}

func (s *subStore) Location() Location { return s.Store.Location().Join(s.prefix) }
func (s *subStore) Close() error       { return nil }

func (s *subStore) OpenFile(name string, flags Flags) (File, error) {
	p, err := s.in(name)
	if err != nil {
		return nil, opError("open", s.Location(), err)
	}
	return s.Store.OpenFile(p, flags)
}

func (s *subStore) readWhole(name string, limit int64) (b []byte, done bool, err error) {
	w, ok := s.Store.(wholeReader)
	if !ok {
		return nil, false, nil
	}
	p, err := s.in(name)
	if err != nil {
		return nil, true, opError("open", s.Location(), err)
	}
	return w.readWhole(p, limit)
}

// each runs one of the store's methods on a name in the folder.
func (s *subStore) each(op, name string, fn func(string) error) error {
	p, err := s.in(name)
	if err != nil {
		return opError(op, s.Location(), err)
	}
	return fn(p)
}

func (s *subStore) Mkdir(name string) error { return s.each("create folder", name, s.Store.Mkdir) }
func (s *subStore) MkdirAll(name string) error {
	return s.each("create folder", name, s.Store.MkdirAll)
}
func (s *subStore) SyncDir(name string) error { return s.each("sync", name, s.Store.SyncDir) }

func (s *subStore) Remove(name string) error {
	if name == "" {
		return opError("remove", s.Location(), ErrIsRoot)
	}
	return s.each("remove", name, s.Store.Remove)
}

func (s *subStore) RemoveAll(name string) error { return removeAll(s, name) }

func (s *subStore) Rename(oldName, newName string) error {
	if oldName == "" || newName == "" {
		return opError("rename", s.Location(), ErrIsRoot)
	}
	to, err := s.in(newName)
	if err != nil {
		return opError("rename", s.Location().Join(oldName), err)
	}
	return s.each("rename", oldName, func(from string) error { return s.Store.Rename(from, to) })
}

func (s *subStore) ReadDir(name string) ([]Info, error) {
	p, err := s.in(name)
	if err != nil {
		return nil, opError("list", s.Location(), err)
	}
	return s.Store.ReadDir(p)
}

func (s *subStore) Stat(name string) (Info, error) {
	p, err := s.in(name)
	if err != nil {
		return Info{}, opError("stat", s.Location(), err)
	}
	return s.Store.Stat(p)
}
