package fs

import (
	"context"
	"errors"
	"sync/atomic"
)

// Op names a method of FS, File or DirReader to a Fault's hook.
type Op string

// The operations a Fault asks its hook about.
const (
	OpOpen                  Op = "open"
	OpCreate                Op = "create"
	OpRename                Op = "rename"
	OpLink                  Op = "link"
	OpRemove                Op = "remove"
	OpSyncParent            Op = "sync parent"
	OpVolume                Op = "volume"
	OpName                  Op = "name"
	OpStat                  Op = "stat"
	OpRead                  Op = "read"
	OpReadCached            Op = "read cached"
	OpWrite                 Op = "write"
	OpSync                  Op = "sync"
	OpTruncate              Op = "truncate"
	OpSetAllocation         Op = "set allocation"
	OpZero                  Op = "zero"
	OpAllocated             Op = "allocated"
	OpCopyRange             Op = "copy range"
	OpCloneRange            Op = "clone range"
	OpSnapshot              Op = "snapshot"
	OpTrim                  Op = "trim"
	OpReserve               Op = "reserve"
	OpSetTimes              Op = "set times"
	OpSetAttributes         Op = "set attributes"
	OpSecurityDescriptor    Op = "security descriptor"
	OpSetSecurityDescriptor Op = "set security descriptor"
	OpReadDir               Op = "read dir"
	OpNext                  Op = "next"
	OpStreams               Op = "streams"
	OpEAs                   Op = "extended attributes"
	OpSetEAs                Op = "set extended attributes"
)

// ErrPretend, returned by a hook, makes the operation report success without having
// been done: a flush that is skipped, a write that is lost. It has that
// meaning for WriteAt, Sync, SyncParent, Zero and Truncate, and is an error elsewhere.
var ErrPretend = errors.New("pretend it was done")

// Hook is called ahead of each operation with the name the object was opened
// (created, is to be renamed) by. Its error becomes the operation's; it may sleep to delay
// it. It is called concurrently.
type Hook func(op Op, name string) error

// Fault is an FS that fails, delays or skips what its hook says. For tests.
type Fault struct {
	inner FS
	hook  atomic.Pointer[Hook]
}

var _ FS = (*Fault)(nil)

// NewFault puts a Fault without a hook before inner.
func NewFault(inner FS) *Fault { return &Fault{inner: inner} }

// Set makes hook the one that later operations ask; nil lets everything pass.
func (t *Fault) Set(hook Hook) {
	if hook == nil {
		t.hook.Store(nil)
		return
	}
	t.hook.Store(&hook)
}

func (t *Fault) ask(op Op, name string) error {
	if h := t.hook.Load(); h != nil {
		return (*h)(op, name)
	}
	return nil
}

func (t *Fault) wrap(f File, name string, err error) (File, error) {
	if err != nil {
		return nil, err
	}
	return &faultFile{inner: f, fault: t, name: name}, nil
}

func (t *Fault) Open(ctx context.Context, name string, access Access) (File, error) {
	if err := t.ask(OpOpen, name); err != nil {
		return nil, err
	}
	f, err := t.inner.Open(ctx, name, access)
	return t.wrap(f, name, err)
}

func (t *Fault) Create(ctx context.Context, name string, opts CreateOptions) (File, error) {
	if err := t.ask(OpCreate, name); err != nil {
		return nil, err
	}
	f, err := t.inner.Create(ctx, name, opts)
	return t.wrap(f, name, err)
}

func (t *Fault) Rename(ctx context.Context, f File, newName string, replace bool) error {
	if err := t.ask(OpRename, newName); err != nil {
		return err
	}
	return t.inner.Rename(ctx, inside(f), newName, replace)
}

func (t *Fault) Link(ctx context.Context, f File, newName string, replace bool) error {
	if err := t.ask(OpLink, newName); err != nil {
		return err
	}
	return t.inner.Link(ctx, inside(f), newName, replace)
}

func (t *Fault) Remove(ctx context.Context, f File) error {
	if err := t.ask(OpRemove, opened(f)); err != nil {
		return err
	}
	return t.inner.Remove(ctx, inside(f))
}

func (t *Fault) SyncParent(ctx context.Context, f File) error {
	switch err := t.ask(OpSyncParent, opened(f)); err {
	case nil:
		return t.inner.SyncParent(ctx, inside(f))
	case ErrPretend:
		return nil
	default:
		return err
	}
}

func (t *Fault) Volume(ctx context.Context) (Volume, error) {
	if err := t.ask(OpVolume, ""); err != nil {
		return Volume{}, err
	}
	return t.inner.Volume(ctx)
}

func (t *Fault) Close() error { return t.inner.Close() }

func inside(f File) File {
	if ff, ok := f.(*faultFile); ok {
		return ff.inner
	}
	return f
}

func opened(f File) string {
	if ff, ok := f.(*faultFile); ok {
		return ff.name
	}
	return ""
}
