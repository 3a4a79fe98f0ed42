package fs

import (
	"context"

	"golang.org/x/sys/unix"
)

// maxParents bounds the folders a node remembers; one more is flushed at once.
const maxParents = 8

// parent is a folder with an entry of an object that has been taken away or added
// and may not be on stable storage.
type parent struct {
	key folderKey
	dir int // O_PATH, owned
}

// rememberParent keeps the folder of an entry about to change for SyncParent: once
// it has changed, the object's name leads there no more.
func (f *posixFile) rememberParent(at place) error {
	n := f.node
	n.parentMu.Lock()
	defer n.parentMu.Unlock()
	for _, p := range n.parents {
		if p.key == at.key {
			return nil
		}
	}
	if len(n.parents) == maxParents {
		if err := f.poison(f.fs.folders.flush(n.parents[0].key, n.parents[0].dir)); err != nil {
			return err
		}
		unix.Close(n.parents[0].dir)
		n.parents = append(n.parents[:0], n.parents[1:]...)
	}
	dir, err := unix.FcntlInt(uintptr(at.dir), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	n.parents = append(n.parents, parent{at.key, dir})
	return nil
}

// syncParents flushes the remembered folders. Those that were reported on are forgotten.
func (n *node) syncParents(folders *folderFlushes) (some bool, err error) {
	n.parentMu.Lock()
	defer n.parentMu.Unlock()
	for len(n.parents) > 0 {
		last := n.parents[len(n.parents)-1]
		n.parents = n.parents[:len(n.parents)-1]
		err := folders.flush(last.key, last.dir)
		unix.Close(last.dir)
		if err != nil {
			return true, err
		}
		some = true
	}
	return some, nil
}

// SyncParent flushes the folder the object is in and those above it, and the
// folders it has been in or was given a name in since the last call. It costs
// little where nothing of them has changed through this store. A failure counts as
// one of Sync.
func (p *POSIX) SyncParent(ctx context.Context, f File) error {
	const op = "flush folder of"
	if s := p.ownStream(f); s != nil {
		return p.syncStreamParent(ctx, s)
	}
	root, pf, err := p.enterFile(ctx, op, f)
	if err != nil {
		return err
	}
	defer p.leaveFile(pf)
	if pf.node.failed.Load() {
		return pf.fail(op, ErrFailed)
	}
	now := p.folders.changes.Load() + 1
	if pf.node.named.Load() == now {
		return nil
	}
	some, err := pf.node.syncParents(&p.folders)
	if pf.poison(err) == nil {
		err = p.syncPresentParent(root, pf, some)
	}
	if err == nil {
		pf.node.named.Store(now)
	}
	return pf.fail(op, err)
}

func (p *POSIX) syncPresentParent(root int, f *posixFile, removed bool) error {
	if name, err := f.name(root); err == nil && name == "" {
		return f.poison(p.flushUp(root))
	}
	unlocked := func(folderKey) func() { return func() {} }
	err := p.named(root, f, unlocked, func(at place) error { return f.poison(p.flushUp(at.dir)) })
	if err == ErrNotExist && removed {
		return nil
	}
	return err
}

// poison makes a failed flush the last word on the object.
func (f *posixFile) poison(err error) error {
	if err != nil {
		f.node.failed.Store(true)
	}
	return err
}
