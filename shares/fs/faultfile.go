package fs

import "context"

type faultFile struct {
	inner File
	fault *Fault
	name  string
}

var _ Wrapper = (*faultFile)(nil)

func (f *faultFile) Unwrap() File    { return f.inner }
func (f *faultFile) ID() FileID      { return f.inner.ID() }
func (f *faultFile) Dir() bool       { return f.inner.Dir() }
func (f *faultFile) Close() error    { return f.inner.Close() }
func (f *faultFile) ask(op Op) error { return f.fault.ask(op, f.name) }

func (f *faultFile) Name() (string, error) {
	if err := f.ask(OpName); err != nil {
		return "", err
	}
	return f.inner.Name()
}

func (f *faultFile) Stat(ctx context.Context) (Info, error) {
	if err := f.ask(OpStat); err != nil {
		return Info{}, err
	}
	return f.inner.Stat(ctx)
}

func (f *faultFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.ask(OpRead); err != nil {
		return 0, err
	}
	return f.inner.ReadAt(p, off)
}

func (f *faultFile) ReadAtCached(p []byte, off int64) (int, error) {
	if err := f.ask(OpReadCached); err != nil {
		return 0, err
	}
	return f.inner.ReadAtCached(p, off)
}

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	switch err := f.ask(OpWrite); err {
	case nil:
		return f.inner.WriteAt(p, off)
	case ErrPretend:
		return len(p), nil
	default:
		return 0, err
	}
}

// perform does what the hook does not keep from being done.
func (f *faultFile) perform(op Op, do func() error) error {
	switch err := f.ask(op); err {
	case nil:
		return do()
	case ErrPretend:
		return nil
	default:
		return err
	}
}

func (f *faultFile) Sync(ctx context.Context) error {
	tried := false
	err := f.perform(OpSync, func() error { tried = true; return f.inner.Sync(ctx) })
	if own, ok := dataOf(f.inner); ok && err != nil && !tried {
		return own.poison(err) // as if the disk had failed it
	}
	return err
}

func (f *faultFile) Truncate(ctx context.Context, size int64) error {
	return f.perform(OpTruncate, func() error { return f.inner.Truncate(ctx, size) })
}

func (f *faultFile) Zero(ctx context.Context, off, n int64) error {
	return f.perform(OpZero, func() error { return f.inner.Zero(ctx, off, n) })
}

func (f *faultFile) SetAllocation(ctx context.Context, size int64) error {
	if err := f.ask(OpSetAllocation); err != nil {
		return err
	}
	return f.inner.SetAllocation(ctx, size)
}

func (f *faultFile) Allocated(ctx context.Context, off, n int64, visit func(off, n int64) error) error {
	if err := f.ask(OpAllocated); err != nil {
		return err
	}
	return f.inner.Allocated(ctx, off, n, visit)
}

func (f *faultFile) CopyRange(ctx context.Context, src File, srcOff, dstOff, n int64) (int64, error) {
	if err := f.ask(OpCopyRange); err != nil {
		return 0, err
	}
	return f.inner.CopyRange(ctx, src, srcOff, dstOff, n)
}

func (f *faultFile) CloneRange(ctx context.Context, src File, srcOff, dstOff, n int64) error {
	if err := f.ask(OpCloneRange); err != nil {
		return err
	}
	return CloneRange(ctx, f.inner, src, srcOff, dstOff, n)
}

func (f *faultFile) Mark(ctx context.Context) ([]byte, error) { return Mark(ctx, f.inner) }

func (f *faultFile) Snapshot(ctx context.Context, off, n int64) (File, error) {
	if err := f.ask(OpSnapshot); err != nil {
		return nil, err
	}
	return Snapshot(ctx, f.inner, off, n)
}

func (f *faultFile) Trim(ctx context.Context, off, n int64) error {
	if err := f.ask(OpTrim); err != nil {
		return err
	}
	return Trim(ctx, f.inner, off, n)
}

func (f *faultFile) Reserve(ctx context.Context, size int64) error {
	if err := f.ask(OpReserve); err != nil {
		return err
	}
	return Reserve(ctx, f.inner, size)
}

func (f *faultFile) Watch(off, n int64) (*Watch, error) { return NewWatch(f.inner, off, n) }

func (f *faultFile) SetTimes(ctx context.Context, c TimeChange) error {
	if err := f.ask(OpSetTimes); err != nil {
		return err
	}
	return f.inner.SetTimes(ctx, c)
}

func (f *faultFile) SetAttributes(ctx context.Context, a Attributes) error {
	if err := f.ask(OpSetAttributes); err != nil {
		return err
	}
	return f.inner.SetAttributes(ctx, a)
}

func (f *faultFile) SecurityDescriptor(ctx context.Context) ([]byte, error) {
	if err := f.ask(OpSecurityDescriptor); err != nil {
		return nil, err
	}
	return f.inner.SecurityDescriptor(ctx)
}

func (f *faultFile) SetSecurityDescriptor(ctx context.Context, sd []byte) error {
	if err := f.ask(OpSetSecurityDescriptor); err != nil {
		return err
	}
	return f.inner.SetSecurityDescriptor(ctx, sd)
}

func (f *faultFile) ReadDir(ctx context.Context) (DirReader, error) {
	if err := f.ask(OpReadDir); err != nil {
		return nil, err
	}
	r, err := f.inner.ReadDir(ctx)
	if err != nil {
		return nil, err
	}
	return &faultDir{DirReader: r, file: f}, nil
}

type faultDir struct {
	DirReader
	file *faultFile
}

func (d *faultDir) Next(match func(name string) bool) (DirEntry, error) {
	if err := d.file.ask(OpNext); err != nil {
		return DirEntry{}, err
	}
	return d.DirReader.Next(match)
}
