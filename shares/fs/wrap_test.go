package fs_test

import (
	"errors"
	"testing"

	"lunless/shares/fs"
)

func TestReadOnly(t *testing.T) {
	p := newPOSIX(t)
	mustClose(t)(p.Create(ctx, "dir", fs.CreateOptions{Dir: true}))
	f, err := p.Create(ctx, "dir/file", fs.CreateOptions{Access: readWrite})
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte("data"), 0)
	must(t, err)

	view := fs.ReadOnly(p)
	for _, name := range []string{"new", "dir/file", "none/file"} {
		if _, err := view.Create(ctx, name, fs.CreateOptions{}); !errors.Is(err, fs.ErrReadOnlyFS) {
			t.Errorf("create: %v", err)
		}
		if _, err := view.Open(ctx, name, readWrite); !errors.Is(err, fs.ErrReadOnlyFS) {
			t.Errorf("open: %v", err)
		}
	}
	g, err := view.Open(ctx, "DIR/file", fs.ReadData)
	must(t, err)
	defer g.Close()
	_, write := g.WriteAt([]byte("x"), 0)
	_, copied := g.CopyRange(ctx, f, 0, 0, 1)
	for i, err := range []error{
		write, copied, g.Truncate(ctx, 0), g.SetAllocation(ctx, 0), g.Zero(ctx, 0, 1), g.SetTimes(ctx, fs.TimeChange{}),
		g.SetAttributes(ctx, 2), g.SetSecurityDescriptor(ctx, nil), view.Remove(ctx, g),
		view.Rename(ctx, g, "x", true), view.Link(ctx, g, "x", true),
	} {
		if !errors.Is(err, fs.ErrReadOnlyFS) {
			t.Errorf("call %d: %v", i, err)
		}
	}
	b := make([]byte, 10)
	if n, err := g.ReadAt(b, 0); string(b[:n]) != "data" || err != nil {
		t.Errorf("%q, %v", b[:n], err)
	}
	must(t, g.Sync(ctx))
	must(t, view.SyncParent(ctx, g))
	if n, err := f.CopyRange(ctx, g, 0, 4, 4); n != 4 || err != nil {
		t.Errorf("copy out of a view: %d, %v", n, err)
	}
	if n := count(t, view, "dir", nil); n != 1 {
		t.Errorf("%d entries", n)
	}
}

func TestFault(t *testing.T) {
	store := fs.NewFault(newPOSIX(t))
	f, err := store.Create(ctx, "f", fs.CreateOptions{Access: readWrite})
	must(t, err)
	defer f.Close()
	boom := errors.New("boom")
	for _, c := range []struct {
		op   fs.Op
		call func() error
	}{
		{fs.OpOpen, func() error { _, err := store.Open(ctx, "f", 0); return err }},
		{fs.OpCreate, func() error { _, err := store.Create(ctx, "g", fs.CreateOptions{}); return err }},
		{fs.OpRename, func() error { return store.Rename(ctx, f, "g", false) }},
		{fs.OpLink, func() error { return store.Link(ctx, f, "g", false) }},
		{fs.OpRemove, func() error { return store.Remove(ctx, f) }},
		{fs.OpSyncParent, func() error { return store.SyncParent(ctx, f) }},
		{fs.OpVolume, func() error { _, err := store.Volume(ctx); return err }},
		{fs.OpName, func() error { _, err := f.Name(); return err }},
		{fs.OpStat, func() error { _, err := f.Stat(ctx); return err }},
		{fs.OpRead, func() error { _, err := f.ReadAt(nil, 0); return err }},
		{fs.OpReadCached, func() error { _, err := f.ReadAtCached(nil, 0); return err }},
		{fs.OpWrite, func() error { _, err := f.WriteAt([]byte("lost"), 0); return err }},
		{fs.OpSync, func() error { return f.Sync(ctx) }},
		{fs.OpTruncate, func() error { return f.Truncate(ctx, 9) }},
		{fs.OpSetAllocation, func() error { return f.SetAllocation(ctx, 9) }},
		{fs.OpZero, func() error { return f.Zero(ctx, 0, 9) }},
		{fs.OpAllocated, func() error { return f.Allocated(ctx, 0, 9, nil) }},
		{fs.OpCopyRange, func() error { _, err := f.CopyRange(ctx, f, 0, 0, 0); return err }},
		{fs.OpSetTimes, func() error { return f.SetTimes(ctx, fs.TimeChange{}) }},
		{fs.OpSetAttributes, func() error { return f.SetAttributes(ctx, 0) }},
		{fs.OpSecurityDescriptor, func() error { _, err := f.SecurityDescriptor(ctx); return err }},
		{fs.OpSetSecurityDescriptor, func() error { return f.SetSecurityDescriptor(ctx, nil) }},
		{fs.OpReadDir, func() error { _, err := f.ReadDir(ctx); return err }},
	} {
		asked := 0
		store.Set(func(op fs.Op, _ string) error {
			if op != c.op {
				return nil
			}
			asked++
			return boom
		})
		if err := c.call(); err != boom || asked != 1 {
			t.Errorf("%s: %v, asked %d times", c.op, err, asked)
		}
	}
	store.Set(func(op fs.Op, name string) error {
		if op == fs.OpWrite && name == "f" {
			return fs.ErrPretend
		}
		return nil
	})
	if n, err := f.WriteAt([]byte("lost"), 0); n != 4 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	store.Set(nil)
	if info, err := f.Stat(ctx); err != nil || info.Size != 0 {
		t.Errorf("%+v, %v", info, err)
	}
}
