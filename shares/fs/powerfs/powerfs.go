// Package powerfs is an fs.FS in memory that knows what of it is on stable
// storage. A Cut makes the share as a loss of power at that moment may leave it:
// what was flushed, and of all else whatever the disk had come to, in any order.
//
// It promises less than the file systems servers run on, so that a server that
// gets by with it gets by with all of them:
//
//   - Data that was written since the file's last Sync is there, or not, or torn at
//     512 bytes, each write for itself; so is the file's size.
//   - Attributes, times and the security descriptor are those of the last Sync or any
//     they have been given since, each for itself.
//   - Sync of a file says nothing about its name. A name that was made, changed or
//     taken away since its folder was flushed (SyncParent, or Sync of the folder) is
//     there or not. A rename from folder to folder is on stable storage when both are;
//     until then it has happened as a whole or not at all, as journals have it.
//   - Changes of different names get through in any order; of one name, and of a
//     folder and what was put into it or taken out of it, in theirs.
package powerfs

import (
	"context"
	"strings"
	"sync"
	"time"

	"lunless/shares/fs"
	"lunless/smbstore/block"
	"lunless/smbstore/fscc"
)

// FS is the store. All methods may be called concurrently.
type FS struct {
	supply *block.PowerSupply // its lock is held while anything changes, outside of mu

	mu     sync.Mutex // guards the tree, and what is known of its nodes
	root   *node
	inodes uint64
	ops    []*nameOp // not on stable storage, in order
	closed bool
}

var _ fs.FS = (*FS)(nil)

// node is a file or folder.
type node struct {
	id   fs.FileID
	dir  bool
	data *block.PowerCut // of a file

	live   meta
	stable meta
	since  []meta // what it has been made since the last Sync

	entries map[string]*entry // of a folder, by folded name
	kept    map[string]link   // of a folder: entries on stable storage
	mark    []byte            // on stable storage from the beginning
	links   int
	folders map[*node]bool // that SyncParent has to flush besides the one the file is in
}

// meta is what a node has besides data.
type meta struct {
	attributes                          fs.Attributes
	created, accessed, written, changed time.Time
	allocation                          int64
	sd                                  []byte // never changed in place
}

// entry is a name. Files that were opened by it follow it through renames.
type entry struct {
	folder *node // nil once removed
	name   string
	node   *node
}

const volume = 0x706f776572

// New makes an empty share.
func New() *FS {
	f := &FS{supply: block.NewPowerSupply()}
	f.root = f.newNode(true)
	f.root.stable = f.root.live
	return f
}

// newNode is called with the lock held, or before anybody has f.
func (f *FS) newNode(dir bool) *node {
	f.inodes++
	now := time.Now()
	n := &node{
		id: fs.FileID{Volume: volume, Inode: f.inodes, Birth: int64(f.inodes)}, dir: dir,
		live: meta{created: now, accessed: now, written: now, changed: now},
	}
	n.stable = meta{created: now, accessed: now, written: now, changed: now}
	if dir {
		n.entries, n.kept = map[string]*entry{}, map[string]link{}
	}
	return n
}

// Watch has watch called before every change and flush, with no lock held, so that
// it may Cut there. Set it before use; nil ends it.
func (f *FS) Watch(watch func(block.OpKind)) { f.supply.Watch(watch) }

// change makes a change of names or metadata in one step.
func (f *FS) change(ctx context.Context, kind block.OpKind, do func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return f.supply.Do(kind, func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.closed {
			return fs.ErrClosed
		}
		return do()
	})
}

// look runs what changes nothing.
func (f *FS) look(ctx context.Context, do func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return fs.ErrClosed
	}
	return do()
}

// Close implements fs.FS.
func (f *FS) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return fs.ErrClosed
	}
	f.closed = true
	return nil
}

// place finds the folder in which name stands or is to stand.
func (f *FS) place(name string) (folder *node, base string, err error) {
	if err := fs.CheckName(name); err != nil {
		return nil, "", err
	}
	folder = f.root
	for {
		component, rest, more := strings.Cut(name, "/")
		if !more {
			return folder, component, nil
		}
		e := folder.entries[fs.FoldName(component)]
		switch {
		case e == nil:
			return nil, "", fs.ErrPathNotExist
		case !e.node.dir:
			return nil, "", fs.ErrNotDir
		}
		folder, name = e.node, rest
	}
}

// Open implements fs.FS.
func (f *FS) Open(ctx context.Context, name string, access fs.Access) (fs.File, error) {
	var out *file
	err := f.look(ctx, func() error {
		folder, base, err := f.place(name)
		if err != nil {
			return err
		}
		if base == "" {
			out = &file{fs: f, node: f.root}
			return nil
		}
		e := folder.entries[fs.FoldName(base)]
		if e == nil {
			return fs.ErrNotExist
		}
		out = f.file(e, access)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (f *FS) file(e *entry, access fs.Access) *file {
	if e.node.dir {
		access = 0
	}
	return &file{fs: f, node: e.node, entry: e, access: access}
}

const settable = fscc.FILE_ATTRIBUTE_READONLY | fscc.FILE_ATTRIBUTE_HIDDEN | fscc.FILE_ATTRIBUTE_SYSTEM |
	fscc.FILE_ATTRIBUTE_ARCHIVE | fscc.FILE_ATTRIBUTE_NOT_CONTENT_INDEXED | fscc.FILE_ATTRIBUTE_TEMPORARY |
	fscc.FILE_ATTRIBUTE_OFFLINE | fscc.FILE_ATTRIBUTE_SPARSE_FILE

// Create implements fs.FS.
func (f *FS) Create(ctx context.Context, name string, opts fs.CreateOptions) (fs.File, error) {
	if opts.AllocationSize < 0 {
		return nil, fs.ErrInvalid
	}
	var data *block.PowerCut
	if !opts.Dir {
		data = f.supply.Plug(block.NewMemFile(0))
	}
	var out *file
	err := f.change(ctx, block.OpWrite, func() error {
		folder, base, err := f.place(name)
		switch {
		case err != nil:
			return err
		case base == "", folder.entries[fs.FoldName(base)] != nil:
			return fs.ErrExist
		}
		n := f.newNode(opts.Dir)
		n.data = data
		n.live.attributes, n.live.sd = opts.Attributes&settable, opts.SecurityDescriptor
		if !opts.Dir {
			n.live.allocation, n.mark = opts.AllocationSize, opts.Mark
		}
		if n.mark != nil { // so is all it is made with
			n.stable = n.live
		}
		n.changed()
		op := f.begin()
		e := &entry{node: n}
		op.add(e, folder, base)
		out = f.file(e, opts.Access)
		return nil
	})
	if err != nil {
		if data != nil {
			f.supply.Unplug(data)
		}
		return nil, err
	}
	return out, nil
}

// changed notes what the node's metadata has become.
func (n *node) changed() {
	n.live.changed = time.Now()
	n.since = append(n.since, n.live)
}

// Volume implements fs.FS.
func (f *FS) Volume(ctx context.Context) (fs.Volume, error) {
	const size = 1 << 40
	var created time.Time
	err := f.look(ctx, func() error { created = f.root.live.created; return nil })
	return fs.Volume{
		Serial: volume, Label: "power", Created: created, TotalBytes: size, FreeBytes: size, AvailBytes: size,
		BytesPerSec: 512, PhysicalSec: 512, SectorsPerUnit: 8, MaxName: 255, Sparse: true,
	}, err
}
