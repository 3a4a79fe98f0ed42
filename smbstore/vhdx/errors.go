package vhdx

import (
	"errors"
	"fmt"
)

// Errors of opening and creating. A FormatError wraps one of them.
var (
	// ErrNotVHDX: the file does not begin as a VHDX file.
	ErrNotVHDX = errors.New("not a VHDX file")
	// ErrCorrupt: a structure contradicts the format or another structure.
	ErrCorrupt = errors.New("disk image is damaged")
	// ErrTruncated: the file is shorter than its log says it was. It is also ErrCorrupt.
	ErrTruncated = fmt.Errorf("file has been truncated: %w", ErrCorrupt)
	// ErrUnsupported: a version, required region, required metadata item or size
	// this package does not know.
	ErrUnsupported = errors.New("feature is not supported")
	// ErrNoParent: a differencing disk needs its parent, which was not given.
	ErrNoParent = errors.New("parent of a differencing disk is needed")
	// ErrWrongParent: the parent given is not one that the disk can have.
	ErrWrongParent = errors.New("parent does not fit")
	// ErrBadOptions: a disk cannot be created as asked.
	ErrBadOptions = errors.New("invalid disk options")
	// ErrFixed: a fixed disk keeps the room of all its blocks; as a dynamic disk it
	// would take less.
	ErrFixed = errors.New("disk is fixed: convert it to a dynamic one to have unused room back")
	// ErrTailInUse: a disk cannot shrink to a size past which it holds data.
	ErrTailInUse = errors.New("what would be cut off is in use")
)

// FormatError says what is wrong and where.
type FormatError struct {
	Offset int64  // in the file, bytes
	What   string // structure and cause
	Err    error  // one of the sentinels above
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("%s (file offset %#x): %v", e.What, e.Offset, e.Err)
}

// Unwrap returns the sentinel.
func (e *FormatError) Unwrap() error { return e.Err }

func corrupt(off int64, format string, args ...any) error {
	return &FormatError{off, fmt.Sprintf(format, args...), ErrCorrupt}
}

func unsupported(off int64, format string, args ...any) error {
	return &FormatError{off, fmt.Sprintf(format, args...), ErrUnsupported}
}
