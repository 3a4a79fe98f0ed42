package fs

import "context"

// What a store may lack is not in File but in the interfaces below, each with a
// function that asks a File for it: ErrNotSupported if it has it not. Wrappers
// hand them on.

// Cloner is a File whose store lets files share blocks.
type Cloner interface {
	// CloneRange makes [dstOff, dstOff+n) of the file have the blocks of src at
	// srcOff, as if they were copied; the end of file grows if it has to. Offsets
	// and n are multiples of the allocation unit, except that n may end at src's
	// end: ErrInvalid, also for ranges of one file that overlap. ErrNotSupported for
	// files on different file systems.
	CloneRange(ctx context.Context, src File, srcOff, dstOff, n int64) error
	// Snapshot returns a file without a name, for reading, that holds at [off,
	// off+n) what this one holds there now, whatever is written to this one later.
	Snapshot(ctx context.Context, off, n int64) (File, error)
}

// CloneRange is Cloner.CloneRange.
func CloneRange(ctx context.Context, dst, src File, srcOff, dstOff, n int64) error {
	if c, ok := dst.(Cloner); ok {
		return c.CloneRange(ctx, src, srcOff, dstOff, n)
	}
	return ErrNotSupported
}

// Snapshot is Cloner.Snapshot.
func Snapshot(ctx context.Context, f File, off, n int64) (File, error) {
	if c, ok := f.(Cloner); ok {
		return c.Snapshot(ctx, off, n)
	}
	return nil, ErrNotSupported
}

// Trimmer is a File that can give its room back, or take it, without its data
// being written.
type Trimmer interface {
	// Trim gives the room of [off, off+n) back to the file system, whatever the
	// file's attributes; it reads as zeroes then. The end of file stays.
	Trim(ctx context.Context, off, n int64) error
	// Reserve takes room for all of [0, size) that has none, the end of file
	// staying where it is: ErrNoSpace.
	Reserve(ctx context.Context, size int64) error
}

// Trim is Trimmer.Trim.
func Trim(ctx context.Context, f File, off, n int64) error {
	if t, ok := f.(Trimmer); ok {
		return t.Trim(ctx, off, n)
	}
	return ErrNotSupported
}

// Reserve is Trimmer.Reserve.
func Reserve(ctx context.Context, f File, size int64) error {
	if t, ok := f.(Trimmer); ok {
		return t.Reserve(ctx, size)
	}
	return ErrNotSupported
}

// Watcher is a File that can tell whether a range of it has been changed.
type Watcher interface {
	// Watch notices changes of [off, off+n) through the store, by whichever File of
	// the object, until Stop: those that begin after it, and those that end after it.
	// A Watch is noticed before the first byte of a change is. ErrInvalid.
	Watch(off, n int64) (*Watch, error)
}

// NewWatch is Watcher.Watch.
func NewWatch(f File, off, n int64) (*Watch, error) {
	if w, ok := f.(Watcher); ok {
		return w.Watch(off, n)
	}
	return nil, ErrNotSupported
}

// Marked is a File that keeps what CreateOptions.Mark said.
type Marked interface {
	Mark(ctx context.Context) ([]byte, error)
}

// Mark is Marked.Mark; nil if the file has none, or cannot.
func Mark(ctx context.Context, f File) ([]byte, error) {
	if m, ok := f.(Marked); ok {
		return m.Mark(ctx)
	}
	return nil, nil
}
