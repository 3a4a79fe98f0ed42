package smbstore

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"lunless/smbstore/block"
)

// powerStore is a flat Store in memory that can lose its power: files as
// block.PowerCut, and of the names' changes since the last SyncDir a part. It
// keeps to share modes, so that a chain's opens are seen to go together.
type powerStore struct {
	supply *block.PowerSupply

	mu      sync.Mutex
	files   map[string]*powerEntry // names as they are
	stable  map[string]*powerEntry // as the last SyncDir left them
	changes []func(names map[string]*powerEntry)
}

// powerEntry is a file with its opens.
type powerEntry struct {
	*block.PowerCut
	opens []Flags
}

func newPowerStore() *powerStore {
	return &powerStore{supply: block.NewPowerSupply(), files: map[string]*powerEntry{}, stable: map[string]*powerEntry{}}
}

// Cut is the store as a loss of power now may leave it.
func (s *powerStore) Cut(rnd *rand.Rand) *powerStore {
	var names map[string]*powerEntry
	images := s.supply.Cut(rnd, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		names = maps.Clone(s.stable)
		for _, change := range s.changes[:rnd.IntN(len(s.changes)+1)] {
			change(names)
		}
	})
	return reborn(names, func(f *block.PowerCut) *block.MemFile { return images[f] })
}

// Copy is the store as it is, with nothing at risk.
func (s *powerStore) Copy() *powerStore {
	s.mu.Lock()
	defer s.mu.Unlock()
	return reborn(s.files, func(f *block.PowerCut) *block.MemFile { return f.Image() })
}

func reborn(names map[string]*powerEntry, image func(*block.PowerCut) *block.MemFile) *powerStore {
	out := newPowerStore()
	for name, e := range names {
		n := &powerEntry{PowerCut: out.supply.Plug(image(e.PowerCut))}
		out.files[name], out.stable[name] = n, n
	}
	return out
}

func (s *powerStore) Location() Location          { return Location{Host: "mem", Share: "vms"} }
func (s *powerStore) DeniesWrite() bool           { return true }
func (s *powerStore) Close() error                { return nil }
func (s *powerStore) Mkdir(string) error          { return errors.ErrUnsupported }
func (s *powerStore) MkdirAll(string) error       { return errors.ErrUnsupported }
func (s *powerStore) RemoveAll(name string) error { return removeAll(s, name) }
func (s *powerStore) fail(name string, e error) error {
	return opError("use", s.Location().Join(name), e)
}

// change makes a change of names.
func (s *powerStore) change(do func(names map[string]*powerEntry)) {
	_ = s.supply.Do(block.OpWrite, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		do(s.files)
		s.changes = append(s.changes, do)
		return nil
	})
}

func (s *powerStore) at(name string) *powerEntry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.files[name]
}

func (s *powerStore) OpenFile(name string, flags Flags) (File, error) {
	e := s.at(name)
	switch {
	case e == nil && flags&Create == 0:
		return nil, s.fail(name, fs.ErrNotExist)
	case e != nil && flags&Exclusive != 0:
		return nil, s.fail(name, fs.ErrExist)
	case e == nil:
		e = &powerEntry{PowerCut: s.supply.Plug(block.NewMemFile(0))}
		s.change(func(names map[string]*powerEntry) { names[name] = e })
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range e.opens {
		if o&DenyWrite != 0 && flags&Write != 0 || flags&DenyWrite != 0 && o&Write != 0 {
			return nil, s.fail(name, ErrSharing)
		}
	}
	e.opens = append(e.opens, flags)
	return &powerFile{powerEntry: e, store: s, name: name, flags: flags}, nil
}

func (s *powerStore) busy(e *powerEntry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(e.opens) > 0 {
		return ErrSharing // as a Windows server has it
	}
	return nil
}

func (s *powerStore) Remove(name string) error {
	e := s.at(name)
	if e == nil {
		return s.fail(name, fs.ErrNotExist)
	}
	if err := s.busy(e); err != nil {
		return s.fail(name, err)
	}
	s.change(func(names map[string]*powerEntry) { delete(names, name) })
	return nil
}

func (s *powerStore) Rename(oldName, newName string) error {
	e := s.at(oldName)
	if e == nil {
		return s.fail(oldName, fs.ErrNotExist)
	}
	err := s.busy(e)
	if to := s.at(newName); err == nil && to != nil {
		err = s.busy(to)
	}
	if err != nil {
		return s.fail(oldName, err)
	}
	s.change(func(names map[string]*powerEntry) {
		delete(names, oldName)
		names[newName] = e
	})
	return nil
}

func (s *powerStore) ReadDir(name string) ([]Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name != "" {
		return nil, s.fail(name, fs.ErrNotExist)
	}
	var infos []Info
	for _, n := range slices.Sorted(maps.Keys(s.files)) {
		infos = append(infos, Info{Name: n})
	}
	return infos, nil
}

func (s *powerStore) Stat(name string) (Info, error) {
	if name == "" {
		return Info{Dir: true}, nil
	}
	e := s.at(name)
	if e == nil {
		return Info{}, s.fail(name, fs.ErrNotExist)
	}
	size, err := e.Size()
	return Info{Name: name, Size: size}, err
}

func (s *powerStore) SyncDir(string) error {
	return s.supply.Do(block.OpFlush, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.stable, s.changes = maps.Clone(s.files), nil
		return nil
	})
}

func (s *powerStore) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(s.files)), " ")
}

// powerFile is one open of a file.
type powerFile struct {
	*powerEntry
	store *powerStore
	name  string
	flags Flags
	once  sync.Once
}

func (f *powerFile) Name() string { return f.name }

func (f *powerFile) WriteAt(p []byte, off int64) (int, error) {
	if f.flags&Write == 0 {
		return 0, f.store.fail(f.name, fs.ErrPermission)
	}
	return f.powerEntry.WriteAt(p, off)
}

func (f *powerFile) Close() error {
	err := fmt.Errorf("close %s twice: %w", f.name, block.ErrClosed)
	f.once.Do(func() {
		f.store.mu.Lock()
		defer f.store.mu.Unlock()
		i := slices.Index(f.opens, f.flags)
		f.opens = slices.Delete(f.opens, i, i+1)
		err = nil
	})
	return err
}

var (
	_ Store          = (*powerStore)(nil)
	_ block.Puncher  = (*powerFile)(nil)
	_ block.Extenter = (*powerFile)(nil)
)
