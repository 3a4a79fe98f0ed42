package fs_test

import (
	"errors"
	"testing"

	"lunless/shares/fs"
)

// A Watch sees each change of its range, whoever makes it, and none beside it.
func TestWatch(t *testing.T) {
	p := newPOSIX(t)
	f, err := p.Create(ctx, "f", fs.CreateOptions{Access: readWrite})
	must(t, err)
	defer f.Close()
	g, err := p.Open(ctx, "f", readWrite)
	must(t, err)
	defer g.Close()
	const off, n, size = 1 << 20, 64 << 10, 4 << 20
	must(t, f.Truncate(ctx, size))
	at := func(off, n int64) func() error {
		return func() error { _, err := g.WriteAt(make([]byte, n), off); return err }
	}
	for _, tt := range []struct {
		name string
		do   func() error
		want bool
	}{
		{"write before", at(0, off), false},
		{"write behind", at(off+n, 10), false},
		{"write of nothing", at(off, 0), false},
		{"write of the first byte", at(off-9, 10), true},
		{"write of the last byte", at(off+n-1, 10), true},
		{"write over all", at(0, 2<<20), true},
		{"zero", func() error { return g.Zero(ctx, off, 1) }, true},
		{"zero beside", func() error { return g.Zero(ctx, off+n, size) }, false},
		{"trim", func() error { return fs.Trim(ctx, g, off, 4096) }, true},
		{"copy in", func() error { _, err := g.CopyRange(ctx, f, 0, off, 10); return err }, true},
		{"copy out", func() error { _, err := g.CopyRange(ctx, f, off, 0, 10); return err }, false},
		{"cut", func() error { return g.Truncate(ctx, off+1) }, true},
		{"grow", func() error { return g.Truncate(ctx, 2*size) }, false},
		{"cut behind", func() error { return g.Truncate(ctx, size) }, false},
		{"cut by allocation", func() error { return g.SetAllocation(ctx, off) }, true},
		{"reserve", func() error { return fs.Reserve(ctx, g, size) }, false},
		{"read", func() error { _, err := g.ReadAt(make([]byte, 10), off); return err }, false},
	} {
		must(t, f.Truncate(ctx, size))
		w, err := fs.NewWatch(f, off, n)
		must(t, err)
		must(t, tt.do())
		if got := w.Changed(); got != tt.want {
			t.Errorf("%s: changed %v, want %v", tt.name, got, tt.want)
		}
		w.Stop()
		must(t, at(off, 1)())
		if got := w.Changed(); got != tt.want {
			t.Errorf("%s: changed %v after it was stopped", tt.name, got)
		}
	}
	for _, r := range [][2]int64{{-1, 1}, {0, 0}, {0, -1}, {1<<63 - 1, 1}} {
		if _, err := fs.NewWatch(f, r[0], r[1]); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("watch %v: %v", r, err)
		}
	}
}

// Trim gives back room whatever the attributes; Reserve takes it.
func TestTrimAndReserve(t *testing.T) {
	p := newPOSIX(t)
	f, err := p.Create(ctx, "f", fs.CreateOptions{Access: readWrite})
	must(t, err)
	defer f.Close()
	taken := func() int64 {
		t.Helper()
		must(t, f.Sync(ctx))
		info, err := f.Stat(ctx)
		must(t, err)
		return info.AllocationSize
	}
	const size = 4 << 20
	data := make([]byte, size)
	for i := range data {
		data[i] = 1
	}
	_, err = f.WriteAt(data, 0)
	must(t, err)
	must(t, fs.Trim(ctx, f, size/2, 2*size))
	if n := taken(); n > size/2+64<<10 {
		t.Errorf("%d bytes taken after half was trimmed", n)
	}
	must(t, fs.Reserve(ctx, f, size))
	if n := taken(); n < size {
		t.Errorf("%d bytes taken of %d reserved", n, size)
	}
	info, err := f.Stat(ctx)
	must(t, err)
	b := make([]byte, size+1)
	if n, err := f.ReadAt(b, 0); n != size || err != nil || info.Size != size || b[size/2-1] != 1 || b[size/2] != 0 || b[size-1] != 0 {
		t.Errorf("%d bytes of %d, %v", n, info.Size, err)
	}
	if err := fs.Reserve(ctx, f, 1<<60); !errors.Is(err, fs.ErrNoSpace) {
		t.Errorf("reserve an exbibyte: %v", err)
	}
	if err := fs.Trim(ctx, f, -1, 1); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("trim from -1: %v", err)
	}
}

// What stands before a File hands on what that can do, or refuses it.
func TestOptionalThroughWrappers(t *testing.T) {
	p := newPOSIX(t)
	f, err := p.Create(ctx, "f", fs.CreateOptions{Access: readWrite})
	must(t, err)
	_, err = f.WriteAt(make([]byte, 64<<10), 0)
	must(t, err)
	must(t, f.Close())

	view, err := fs.ReadOnly(p).Open(ctx, "f", fs.ReadData)
	must(t, err)
	defer view.Close()
	for i, err := range []error{fs.Trim(ctx, view, 0, 4096), fs.Reserve(ctx, view, 4096), fs.CloneRange(ctx, view, view, 0, 0, 4096)} {
		if !errors.Is(err, fs.ErrReadOnlyFS) {
			t.Errorf("call %d: %v", i, err)
		}
	}
	w, err := fs.NewWatch(view, 0, 4096)
	must(t, err)
	w.Stop()

	fault := fs.NewFault(p)
	g, err := fault.Open(ctx, "f", readWrite)
	must(t, err)
	defer g.Close()
	must(t, fs.Trim(ctx, g, 0, 4096))
	must(t, fs.Reserve(ctx, g, 4096))
	errHook := errors.New("hook")
	fault.Set(func(fs.Op, string) error { return errHook })
	_, snapshot := fs.Snapshot(ctx, g, 0, 4096)
	for i, err := range []error{fs.Trim(ctx, g, 0, 4096), fs.Reserve(ctx, g, 4096), fs.CloneRange(ctx, g, g, 0, 0, 4096), snapshot} {
		if !errors.Is(err, errHook) {
			t.Errorf("call %d: %v", i, err)
		}
	}
	_, snapshot = fs.Snapshot(ctx, plain{g}, 0, 1)
	_, watch := fs.NewWatch(plain{g}, 0, 1)
	for i, err := range []error{snapshot, watch, fs.Trim(ctx, plain{g}, 0, 1), fs.Reserve(ctx, plain{g}, 1), fs.CloneRange(ctx, plain{g}, g, 0, 0, 1)} {
		if !errors.Is(err, fs.ErrNotSupported) {
			t.Errorf("File that has nothing, call %d: %v", i, err)
		}
	}
}

type plain struct{ fs.File }
