package host

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"lunless/smbstore"
	"lunless/smbstore/block"
)

// powerTree is a home's store in memory that can lose its power: of its files what was
// not synced, and of its folders' names what came after their last SyncDir, in part. It
// keeps to share modes, and removes nothing that is open.
type powerTree struct {
	supply *block.PowerSupply

	mu   sync.Mutex
	dirs map[string]*powerDir
}

// powerDir is a folder: its names now, at its last SyncDir, and the changes since.
type powerDir struct {
	files, stable map[string]*powerEntry
	changes       []func(names map[string]*powerEntry)
}

type powerEntry struct {
	*block.PowerCut
	opens []smbstore.Flags
}

func newPowerTree() *powerTree {
	return &powerTree{supply: block.NewPowerSupply(), dirs: map[string]*powerDir{}}
}

func (s *powerTree) add(dir string, names map[string]*powerEntry) {
	s.dirs[dir] = &powerDir{files: maps.Clone(names), stable: names}
}

// loadPowerTree is a folder of this machine with all of it stable.
func loadPowerTree(root string) (*powerTree, error) {
	s := newPowerTree()
	return s, filepath.WalkDir(root, func(at string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, at)
		if err != nil {
			return err
		}
		if e.IsDir() {
			s.add(strings.TrimPrefix(filepath.ToSlash(name), "."), map[string]*powerEntry{})
			return nil
		}
		b, err := os.ReadFile(at)
		if err != nil {
			return err
		}
		f := block.NewMemFile(0)
		if _, err := f.WriteAt(b, 0); err != nil {
			return err
		}
		dir, base := split(filepath.ToSlash(name))
		entry := &powerEntry{PowerCut: s.supply.Plug(f)}
		s.dirs[dir].files[base], s.dirs[dir].stable[base] = entry, entry
		return nil
	})
}

// cut is the store as a loss of power now may leave it.
func (s *powerTree) cut(rnd *rand.Rand) *powerTree {
	left := map[string]map[string]*powerEntry{}
	images := s.supply.Cut(rnd, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, name := range slices.Sorted(maps.Keys(s.dirs)) {
			d := s.dirs[name]
			left[name] = maps.Clone(d.stable)
			for _, change := range d.changes[:rnd.IntN(len(d.changes)+1)] {
				change(left[name])
			}
		}
	})
	out := newPowerTree()
	for dir, names := range left {
		reborn := map[string]*powerEntry{}
		for name, e := range names {
			reborn[name] = &powerEntry{PowerCut: out.supply.Plug(images[e.PowerCut])}
		}
		out.add(dir, reborn)
	}
	return out
}

// split is a name's folder and its last part.
func split(name string) (dir, base string) {
	dir, base = path.Split(name)
	return strings.TrimSuffix(dir, "/"), base
}

func (s *powerTree) Location() smbstore.Location {
	return smbstore.Location{Host: "mem", Share: "vms", Path: "vm"}
}
func (s *powerTree) DeniesWrite() bool      { return true }
func (s *powerTree) Close() error           { return nil }
func (s *powerTree) Mkdir(string) error     { return errors.ErrUnsupported }
func (s *powerTree) MkdirAll(string) error  { return errors.ErrUnsupported }
func (s *powerTree) RemoveAll(string) error { return errors.ErrUnsupported }

// change makes a change of a folder's names.
func (s *powerTree) change(dir string, do func(names map[string]*powerEntry)) {
	_ = s.supply.Do(block.OpWrite, func() error { // which has no error
		s.mu.Lock()
		defer s.mu.Unlock()
		do(s.dirs[dir].files)
		s.dirs[dir].changes = append(s.dirs[dir].changes, do)
		return nil
	})
}

func (s *powerTree) at(name string) *powerEntry {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir, base := split(name)
	if d := s.dirs[dir]; d != nil {
		return d.files[base]
	}
	return nil
}

func (s *powerTree) OpenFile(name string, flags smbstore.Flags) (smbstore.File, error) {
	e := s.at(name)
	dir, base := split(name)
	switch {
	case e == nil && flags&smbstore.Create == 0:
		return nil, fmt.Errorf("open %s: %w", name, fs.ErrNotExist)
	case e != nil && flags&smbstore.Exclusive != 0:
		return nil, fmt.Errorf("open %s: %w", name, fs.ErrExist)
	case e == nil:
		e = &powerEntry{PowerCut: s.supply.Plug(block.NewMemFile(0))}
		s.change(dir, func(names map[string]*powerEntry) { names[base] = e })
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range e.opens {
		if o&smbstore.DenyWrite != 0 && flags&smbstore.Write != 0 || flags&smbstore.DenyWrite != 0 && o&smbstore.Write != 0 {
			return nil, fmt.Errorf("open %s: %w", name, smbstore.ErrSharing)
		}
	}
	e.opens = append(e.opens, flags)
	return &powerFile{powerEntry: e, tree: s, name: name, flags: flags}, nil
}

func (s *powerTree) Remove(name string) error {
	e := s.at(name)
	if e == nil {
		return fmt.Errorf("remove %s: %w", name, fs.ErrNotExist)
	}
	s.mu.Lock()
	busy := len(e.opens) > 0
	s.mu.Unlock()
	if busy {
		return fmt.Errorf("remove %s: %w", name, smbstore.ErrSharing)
	}
	dir, base := split(name)
	s.change(dir, func(names map[string]*powerEntry) { delete(names, base) })
	return nil
}

// Rename knows of files within a folder.
func (s *powerTree) Rename(oldName, newName string) error {
	e := s.at(oldName)
	dir, from := split(oldName)
	to, base := split(newName)
	if e == nil || dir != to {
		return fmt.Errorf("rename %s: %w", oldName, fs.ErrNotExist)
	}
	s.change(dir, func(names map[string]*powerEntry) {
		delete(names, from)
		names[base] = e
	})
	return nil
}

func (s *powerTree) ReadDir(name string) (infos []smbstore.Info, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.dirs[name]
	if d == nil {
		return nil, fmt.Errorf("list %s: %w", name, fs.ErrNotExist)
	}
	for _, n := range slices.Sorted(maps.Keys(d.files)) {
		infos = append(infos, smbstore.Info{Name: n})
	}
	for dir := range s.dirs {
		if up, base := split(dir); up == name && dir != "" {
			infos = append(infos, smbstore.Info{Name: base, Dir: true})
		}
	}
	return infos, nil
}

func (s *powerTree) Stat(name string) (smbstore.Info, error) {
	s.mu.Lock()
	folder := s.dirs[name] != nil
	s.mu.Unlock()
	if folder {
		return smbstore.Info{Name: path.Base(name), Dir: true}, nil
	}
	e := s.at(name)
	if e == nil {
		return smbstore.Info{}, fmt.Errorf("stat %s: %w", name, fs.ErrNotExist)
	}
	size, err := e.Size()
	return smbstore.Info{Name: path.Base(name), Size: size}, err
}

func (s *powerTree) SyncDir(name string) error {
	return s.supply.Do(block.OpFlush, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		d := s.dirs[name]
		if d == nil {
			return fmt.Errorf("sync %s: %w", name, fs.ErrNotExist)
		}
		d.stable, d.changes = maps.Clone(d.files), nil
		return nil
	})
}

// powerFile is one open of a file.
type powerFile struct {
	*powerEntry
	tree  *powerTree
	name  string
	flags smbstore.Flags
	once  sync.Once
}

func (f *powerFile) Name() string { return f.name }

func (f *powerFile) WriteAt(p []byte, off int64) (int, error) {
	if f.flags&smbstore.Write == 0 {
		return 0, fmt.Errorf("write %s: %w", f.name, fs.ErrPermission)
	}
	return f.powerEntry.WriteAt(p, off)
}

func (f *powerFile) Close() error {
	err := fmt.Errorf("close %s twice: %w", f.name, block.ErrClosed)
	f.once.Do(func() {
		f.tree.mu.Lock()
		defer f.tree.mu.Unlock()
		i := slices.Index(f.opens, f.flags)
		f.opens = slices.Delete(f.opens, i, i+1)
		err = nil
	})
	return err
}

var _ smbstore.Store = (*powerTree)(nil)
