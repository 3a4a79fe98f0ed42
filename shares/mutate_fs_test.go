package shares

import (
	"context"

	sharefs "lunless/shares/fs"
)

// smallFiles lets no request take more than fileRoom on disk: sizes in mutated
// messages must not fill the disk of whoever runs the test. Files may be larger,
// as long as they are sparse.
type smallFiles struct{ sharefs.FS }

type smallFile struct{ sharefs.File }

func (s smallFiles) Open(ctx context.Context, name string, access sharefs.Access) (sharefs.File, error) {
	f, err := s.FS.Open(ctx, name, access)
	if err != nil {
		return nil, err
	}
	return smallFile{f}, nil
}

func (s smallFiles) Create(ctx context.Context, name string, opts sharefs.CreateOptions) (sharefs.File, error) {
	if opts.AllocationSize > fileRoom {
		return nil, sharefs.ErrNoSpace
	}
	f, err := s.FS.Create(ctx, name, opts)
	if err != nil {
		return nil, err
	}
	return smallFile{f}, nil
}

func (f smallFile) Unwrap() sharefs.File { return f.File }

func (f smallFile) SetAllocation(ctx context.Context, size int64) error {
	if size > fileRoom {
		return sharefs.ErrNoSpace
	}
	return f.File.SetAllocation(ctx, size)
}

func (f smallFile) Zero(ctx context.Context, off, n int64) error {
	if n > fileRoom {
		return sharefs.ErrNoSpace
	}
	return f.File.Zero(ctx, off, n)
}
