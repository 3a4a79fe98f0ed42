package powerfs

import (
	"context"

	"lunless/shares/fs"
	"lunless/smbstore/block"
)

// link is what a name leads to; the zero value is no name.
type link struct {
	name string
	node *node
}

// step is the change of one name.
type step struct {
	folder  *node
	key     string // folded name
	was, is link
}

// nameOp is a change of names that gets through as a whole.
type nameOp struct {
	steps   []step
	folders map[*node]bool // of the steps, that have not been flushed since
}

// begin adds an operation without steps. The lock is held, as in all that follows.
func (f *FS) begin() *nameOp {
	op := &nameOp{folders: map[*node]bool{}}
	f.ops = append(f.ops, op)
	return op
}

// set changes what a name leads to.
func (op *nameOp) set(folder *node, name string, is link) {
	key := fs.FoldName(name)
	s := step{folder: folder, key: key, is: is}
	if e := folder.entries[key]; e != nil {
		s.was = link{e.name, e.node}
	}
	op.steps = append(op.steps, s)
	op.folders[folder] = true
}

// add gives e, which is nowhere, a place.
func (op *nameOp) add(e *entry, folder *node, name string) {
	op.set(folder, name, link{name, e.node})
	e.folder, e.name = folder, name
	folder.entries[fs.FoldName(name)] = e
	e.node.links++
}

// remove takes e away.
func (op *nameOp) remove(e *entry) {
	op.set(e.folder, e.name, link{})
	delete(e.folder.entries, fs.FoldName(e.name))
	if e.node.folders == nil {
		e.node.folders = map[*node]bool{}
	}
	e.node.folders[e.folder] = true
	e.folder = nil
	e.node.links--
}

// merge makes one step of two of the same name.
func (op *nameOp) merge() {
	var out []step
	for _, s := range op.steps {
		merged := false
		for i := range out {
			if out[i].folder == s.folder && out[i].key == s.key {
				out[i].is, merged = s.is, true
			}
		}
		if !merged {
			out = append(out, s)
		}
	}
	op.steps = out
}

// place of an open file that is to lose or change its name.
func (f *file) named() (*entry, error) {
	switch {
	case f.closed.Load():
		return nil, fs.ErrClosed
	case f.entry == nil:
		return nil, fs.ErrPermission // the root
	case f.entry.folder == nil:
		return nil, fs.ErrNotExist
	}
	return f.entry, nil
}

func (f *FS) own(of fs.File) (*file, error) {
	for {
		switch g := of.(type) {
		case *file:
			if g.fs != f {
				return nil, fs.ErrInvalid
			}
			return g, nil
		case fs.Wrapper:
			of = g.Unwrap()
		default:
			return nil, fs.ErrInvalid
		}
	}
}

// Remove implements fs.FS.
func (f *FS) Remove(ctx context.Context, of fs.File) error {
	g, err := f.own(of)
	if err != nil {
		return err
	}
	return f.change(ctx, block.OpWrite, func() error {
		e, err := g.named()
		if err != nil {
			return err
		}
		if len(e.node.entries) > 0 {
			return fs.ErrNotEmpty
		}
		f.begin().remove(e)
		return nil
	})
}

// target finds where a name is to be, and what is there.
func (f *FS) target(name string) (folder *node, base string, taken *entry, err error) {
	folder, base, err = f.place(name)
	if err == nil && base == "" {
		err = fs.ErrExist
	}
	if err != nil {
		return nil, "", nil, err
	}
	return folder, base, folder.entries[fs.FoldName(base)], nil
}

// Rename implements fs.FS.
func (f *FS) Rename(ctx context.Context, of fs.File, newName string, replace bool) error {
	g, err := f.own(of)
	if err != nil {
		return err
	}
	return f.change(ctx, block.OpWrite, func() error {
		e, err := g.named()
		if err != nil {
			return err
		}
		folder, base, taken, err := f.target(newName)
		switch {
		case err != nil:
			return err
		case taken == e && e.name == base:
			return nil
		case taken != nil && taken != e && (!replace || e.node.dir || taken.node.dir):
			return fs.ErrExist
		case taken != e && e.node.holds(folder):
			return fs.ErrBadName
		}
		op := f.begin()
		op.remove(e)
		if taken != nil && taken != e {
			op.remove(taken)
		}
		op.add(e, folder, base)
		op.merge()
		return nil
	})
}

// holds says whether folder is n or lies below it.
func (n *node) holds(folder *node) bool {
	if n == folder {
		return true
	}
	for _, e := range n.entries {
		if e.node.dir && e.node.holds(folder) {
			return true
		}
	}
	return false
}

// Link implements fs.FS.
func (f *FS) Link(ctx context.Context, of fs.File, newName string, replace bool) error {
	g, err := f.own(of)
	if err != nil {
		return err
	}
	return f.change(ctx, block.OpWrite, func() error {
		if g.closed.Load() {
			return fs.ErrClosed
		}
		if g.node.dir {
			return fs.ErrIsDir
		}
		if g.node.links == 0 {
			return fs.ErrNotExist
		}
		folder, base, taken, err := f.target(newName)
		switch {
		case err != nil:
			return err
		case taken != nil && (!replace || taken.node.dir):
			return fs.ErrExist
		}
		op := f.begin()
		switch {
		case taken != nil && taken.node == g.node: // the name stays, in another case perhaps
			op.remove(taken)
			op.add(taken, folder, base)
		case taken != nil:
			op.remove(taken)
			fallthrough
		default:
			op.add(&entry{node: g.node}, folder, base)
		}
		op.merge()
		return nil
	})
}

// SyncParent implements fs.FS.
func (f *FS) SyncParent(ctx context.Context, of fs.File) error {
	g, err := f.own(of)
	if err != nil {
		return err
	}
	return f.change(ctx, block.OpFlush, func() error {
		if g.closed.Load() {
			return fs.ErrClosed
		}
		for folder := range g.node.folders {
			f.flush(folder)
		}
		g.node.folders = nil
		for _, folder := range f.foldersOf(g) {
			f.flush(folder)
		}
		return nil
	})
}

// foldersOf are the folder that the file is in and those above, up to the root.
func (f *FS) foldersOf(g *file) (list []*node) {
	list = append(list, f.root)
	if g.entry == nil {
		return list
	}
	for folder := g.entry.folder; folder != nil && folder != f.root; {
		list = append(list, folder)
		up := f.entryOf(folder)
		if up == nil {
			break
		}
		folder = up.folder
	}
	return list
}

// entryOf is the name of a folder, or nil if it has none any more.
func (f *FS) entryOf(folder *node) *entry {
	var find func(n *node) *entry
	find = func(n *node) *entry {
		for _, e := range n.entries {
			if e.node == folder {
				return e
			}
			if e.node.dir {
				if found := find(e.node); found != nil {
					return found
				}
			}
		}
		return nil
	}
	return find(f.root)
}

// path is the name of an entry from the root.
func (f *FS) path(e *entry) (string, error) {
	if e.folder == nil {
		return "", fs.ErrNotExist
	}
	path := e.name
	for folder := e.folder; folder != f.root; {
		up := f.entryOf(folder)
		if up == nil {
			return "", fs.ErrNotExist
		}
		path, folder = up.name+"/"+path, up.folder
	}
	return path, nil
}
