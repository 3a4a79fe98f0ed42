package powerfs

import (
	"context"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"lunless/shares/fs"
	"lunless/smbstore/block"
	"lunless/smbstore/fscc"
)

// file is an open file or folder.
type file struct {
	fs     *FS
	node   *node
	entry  *entry // nil: the root
	access fs.Access
	closed atomic.Bool
}

var _ fs.File = (*file)(nil)

func (f *file) ID() fs.FileID { return f.node.id }
func (f *file) Dir() bool     { return f.node.dir }

func (f *file) Close() error {
	if f.closed.Swap(true) {
		return fs.ErrClosed
	}
	return nil
}

// Mark implements fs.Marked.
func (f *file) Mark(context.Context) ([]byte, error) {
	if f.closed.Load() {
		return nil, fs.ErrClosed
	}
	return f.node.mark, nil
}

func (f *file) Name() (name string, err error) {
	err = f.fs.look(context.Background(), func() error {
		switch {
		case f.closed.Load():
			return fs.ErrClosed
		case f.entry == nil:
			return nil
		}
		name, err = f.fs.path(f.entry)
		return err
	})
	return name, err
}

func (n *node) info() fs.Info {
	i := fs.Info{
		ID: n.id, Dir: n.dir, Attributes: n.live.attributes, Links: uint32(n.links),
		Created: n.live.created, Accessed: n.live.accessed, Written: n.live.written, Changed: n.live.changed,
	}
	if n.dir {
		i.Links, i.Attributes = 1, i.Attributes|fscc.FILE_ATTRIBUTE_DIRECTORY
		return i
	}
	i.Size, _ = n.data.Size()
	i.AllocationSize = max((i.Size+4095)&^4095, n.live.allocation)
	return i
}

func (f *file) Stat(ctx context.Context) (info fs.Info, err error) {
	err = f.fs.look(ctx, func() error {
		if f.closed.Load() {
			return fs.ErrClosed
		}
		info = f.node.info()
		return nil
	})
	return info, err
}

// may says why the data cannot be reached.
func (f *file) may(access fs.Access, off, n int64) error {
	switch {
	case f.closed.Load():
		return fs.ErrClosed
	case f.node.dir:
		return fs.ErrIsDir
	case f.access&access == 0:
		return fs.ErrPermission
	case off < 0 || n < 0 || off > math.MaxInt64-n:
		return fs.ErrInvalid
	}
	return nil
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if err := f.may(fs.ReadData, off, int64(len(p))); err != nil {
		return 0, err
	}
	n, err := f.node.data.ReadAt(p, off)
	if err == io.EOF {
		err = nil
	}
	return n, err
}

func (f *file) ReadAtCached(p []byte, off int64) (int, error) { return f.ReadAt(p, off) }

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	if err := f.may(fs.WriteData, off, int64(len(p))); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := f.node.data.WriteAt(p, off)
	f.wrote()
	return n, err
}

func (f *file) wrote() {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	f.node.live.written = time.Now()
	f.node.live.changed = f.node.live.written
}

func (f *file) Sync(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if f.closed.Load() {
		return fs.ErrClosed
	}
	if f.node.data != nil {
		if err := f.node.data.Sync(); err != nil {
			return err
		}
	}
	return f.fs.change(ctx, block.OpFlush, func() error {
		f.node.stable, f.node.since = f.node.live, nil
		if f.node.dir {
			f.fs.flush(f.node)
		}
		return nil
	})
}

func (f *file) Truncate(ctx context.Context, size int64) error {
	return f.resize(ctx, size, 0)
}

func (f *file) resize(ctx context.Context, size, allocation int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := f.may(fs.WriteData, size, 0); err != nil {
		return err
	}
	if err := f.node.data.Truncate(size); err != nil {
		return err
	}
	f.fs.mu.Lock()
	f.node.live.allocation = allocation
	f.fs.mu.Unlock()
	f.wrote()
	return nil
}

func (f *file) SetAllocation(ctx context.Context, size int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := f.may(fs.WriteData, size, 0); err != nil {
		return err
	}
	now, err := f.node.data.Size()
	if err != nil {
		return err
	}
	if size <= now {
		return f.resize(ctx, size, 0)
	}
	return f.fs.change(ctx, block.OpWrite, func() error {
		f.node.live.allocation = size
		f.node.changed()
		return nil
	})
}

func (f *file) Zero(ctx context.Context, off, n int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := f.may(fs.WriteData, off, n); err != nil {
		return err
	}
	size, err := f.node.data.Size()
	if n = min(n, size-off); err != nil || n <= 0 {
		return err
	}
	defer f.wrote()
	return f.node.data.PunchHole(off, n)
}

func (f *file) Allocated(ctx context.Context, off, n int64, visit func(off, n int64) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := f.may(fs.ReadData, off, n); err != nil {
		return err
	}
	size, err := f.node.data.Size()
	if n = min(n, size-off); err != nil || n <= 0 {
		return err
	}
	return f.node.data.FileExtents(off, n, func(e block.Extent) error {
		if e.State != block.Data {
			return nil
		}
		from, to := max(e.Offset, off), min(e.Offset+e.Length, off+n)
		if from >= to {
			return nil
		}
		return visit(from, to-from)
	})
}

var errOverlap = errors.New("ranges overlap")

func (f *file) CopyRange(ctx context.Context, from fs.File, srcOff, dstOff, n int64) (int64, error) {
	if err := f.may(fs.WriteData, dstOff, n); err != nil {
		return 0, err
	}
	src, err := f.fs.own(from)
	if err != nil {
		return 0, err
	}
	if err := src.may(fs.ReadData, srcOff, n); err != nil {
		return 0, err
	}
	if src.node == f.node && srcOff < dstOff+n && dstOff < srcOff+n {
		return 0, errOverlap
	}
	var done int64
	p := make([]byte, min(n, 1<<20))
	for done < n {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		m, err := src.ReadAt(p[:min(int64(len(p)), n-done)], srcOff+done)
		if err != nil || m == 0 {
			return done, err
		}
		if _, err := f.WriteAt(slices.Clone(p[:m]), dstOff+done); err != nil {
			return done, err
		}
		done += int64(m)
	}
	return done, ctx.Err()
}

// set changes the metadata of a file that is open.
func (f *file) set(ctx context.Context, do func(*meta) error) error {
	return f.fs.change(ctx, block.OpWrite, func() error {
		if f.closed.Load() {
			return fs.ErrClosed
		}
		if err := do(&f.node.live); err != nil {
			return err
		}
		f.node.changed()
		return nil
	})
}

func (f *file) SetTimes(ctx context.Context, c fs.TimeChange) error {
	return f.set(ctx, func(m *meta) error {
		for _, t := range []struct {
			to *time.Time
			by *time.Time
		}{{&m.created, c.Created}, {&m.accessed, c.Accessed}, {&m.written, c.Written}} {
			if t.by != nil {
				*t.to = *t.by
			}
		}
		return nil
	})
}

func (f *file) SetAttributes(ctx context.Context, a fs.Attributes) error {
	return f.set(ctx, func(m *meta) error { m.attributes = a & settable; return nil })
}

func (f *file) SecurityDescriptor(ctx context.Context) (sd []byte, err error) {
	err = f.fs.look(ctx, func() error {
		if f.closed.Load() {
			return fs.ErrClosed
		}
		sd = slices.Clone(f.node.live.sd)
		return nil
	})
	return sd, err
}

func (f *file) SetSecurityDescriptor(ctx context.Context, sd []byte) error {
	if len(sd) > 64<<10 {
		return fs.ErrNoSpace
	}
	return f.set(ctx, func(m *meta) error { m.sd = slices.Clone(sd); return nil })
}

// listing is what was in a folder when it was opened; what has gone since is left out.
type listing struct {
	fs      *FS
	entries []*entry
	folder  *node
	closed  bool
}

func (f *file) ReadDir(ctx context.Context) (fs.DirReader, error) {
	l := &listing{fs: f.fs, folder: f.node}
	err := f.fs.look(ctx, func() error {
		switch {
		case f.closed.Load():
			return fs.ErrClosed
		case !f.node.dir:
			return fs.ErrNotDir
		}
		for _, e := range f.node.entries {
			l.entries = append(l.entries, e)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(l.entries, func(a, b *entry) int { return strings.Compare(a.name, b.name) })
	return l, nil
}

func (l *listing) Next(match func(name string) bool) (out fs.DirEntry, err error) {
	if l.closed {
		return fs.DirEntry{}, fs.ErrClosed
	}
	for len(l.entries) > 0 {
		e := l.entries[0]
		l.entries = l.entries[1:]
		here := false
		err := l.fs.look(context.Background(), func() error {
			if here = e.folder == l.folder; here {
				out = fs.DirEntry{Name: e.name, Info: e.node.info()}
			}
			return nil
		})
		if err != nil {
			return fs.DirEntry{}, err
		}
		if here && (match == nil || match(out.Name)) {
			return out, nil
		}
	}
	return fs.DirEntry{}, io.EOF
}

func (l *listing) Close() error {
	if l.closed {
		return fs.ErrClosed
	}
	l.closed = true
	return nil
}
