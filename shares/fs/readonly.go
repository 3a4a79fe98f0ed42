package fs

import "context"

// ReadOnly is a view of an FS through which nothing changes: what would gives
// ErrReadOnlyFS, and so does opening for WriteData.
func ReadOnly(inner FS) FS { return readOnlyFS{inner} }

type readOnlyFS struct{ FS }

func (r readOnlyFS) Open(ctx context.Context, name string, access Access) (File, error) {
	if access&WriteData != 0 {
		return nil, fail("open", name, ErrReadOnlyFS)
	}
	f, err := r.FS.Open(ctx, name, access)
	if err != nil {
		return nil, err
	}
	return readOnlyFile{f}, nil
}

func (r readOnlyFS) Create(_ context.Context, name string, _ CreateOptions) (File, error) {
	return nil, fail("create", name, ErrReadOnlyFS)
}

func (r readOnlyFS) Rename(_ context.Context, _ File, newName string, _ bool) error {
	return fail("rename", newName, ErrReadOnlyFS)
}

func (r readOnlyFS) Link(_ context.Context, _ File, newName string, _ bool) error {
	return fail("link", newName, ErrReadOnlyFS)
}

func (r readOnlyFS) Remove(_ context.Context, f File) error { return refuse("remove", f) }

type readOnlyFile struct{ File }

func (f readOnlyFile) Unwrap() File { return f.File }

// refuse makes the error of an operation on an open object.
func refuse(op string, f File) error {
	name, _ := f.Name() // an object without a name has none to tell
	return fail(op, name, ErrReadOnlyFS)
}

func (f readOnlyFile) WriteAt([]byte, int64) (int, error) { return 0, refuse("write", f) }

func (f readOnlyFile) Truncate(context.Context, int64) error { return refuse("set size", f) }

func (f readOnlyFile) SetAllocation(context.Context, int64) error {
	return refuse("set allocation", f)
}

func (f readOnlyFile) Zero(context.Context, int64, int64) error { return refuse("zero", f) }

func (f readOnlyFile) CopyRange(context.Context, File, int64, int64, int64) (int64, error) {
	return 0, refuse("copy range", f)
}

func (f readOnlyFile) CloneRange(context.Context, File, int64, int64, int64) error {
	return refuse("clone range", f)
}

func (f readOnlyFile) Mark(ctx context.Context) ([]byte, error) { return Mark(ctx, f.File) }

func (f readOnlyFile) Snapshot(ctx context.Context, off, n int64) (File, error) {
	return Snapshot(ctx, f.File, off, n)
}

func (f readOnlyFile) Trim(context.Context, int64, int64) error { return refuse("trim", f) }

func (f readOnlyFile) Reserve(context.Context, int64) error { return refuse("reserve", f) }

func (f readOnlyFile) Watch(off, n int64) (*Watch, error) { return NewWatch(f.File, off, n) }

func (f readOnlyFile) SetTimes(context.Context, TimeChange) error { return refuse("set times", f) }

func (f readOnlyFile) SetAttributes(context.Context, Attributes) error {
	return refuse("set attributes", f)
}

func (f readOnlyFile) SetSecurityDescriptor(context.Context, []byte) error {
	return refuse("set security descriptor", f)
}
