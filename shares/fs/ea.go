package fs

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"lunless/smbstore/fscc"

	"golang.org/x/sys/unix"
)

// ErrEATooLarge: the extended attributes would not fit what the store keeps of
// them.
var ErrEATooLarge = errors.New("too many extended attributes")

// ExtendedAttributer is a File whose store keeps extended attributes as Windows
// means them (MS-FSA 2.1.1.3). Those of a Stream are those of its file.
type ExtendedAttributer interface {
	// EAs returns them in the order in which they were set first.
	EAs(ctx context.Context) ([]fscc.EaEntry, error)
	// SetEAs adds or replaces those in list, and removes those that have no value
	// there; names fold ASCII case. ErrEATooLarge, and nothing has changed: they take up
	// to 64 KiB less 5 bytes by EASize, and on some file systems less.
	SetEAs(ctx context.Context, list []fscc.EaEntry) error
}

// EAs is ExtendedAttributer.EAs.
func EAs(ctx context.Context, f File) ([]fscc.EaEntry, error) {
	if e, ok := f.(ExtendedAttributer); ok {
		return e.EAs(ctx)
	}
	return nil, ErrNotSupported
}

// SetEAs is ExtendedAttributer.SetEAs.
func SetEAs(ctx context.Context, f File, list []fscc.EaEntry) error {
	if e, ok := f.(ExtendedAttributer); ok {
		return e.SetEAs(ctx, list)
	}
	return ErrNotSupported
}

// maxEAs is the most extended attributes may take (MS-FSA 2.1.5.15.6).
const maxEAs = 64<<10 - 5

// EASize is what extended attributes take, as clients are told: for each five
// bytes, the name and the value.
func EASize(list []fscc.EaEntry) (n int) {
	for i := range list {
		n += 5 + len(list[i].Name) + len(list[i].Value)
	}
	return n
}

// xattrEA holds all extended attributes of an object, a list of FILE_FULL_EA_INFORMATION
// (MS-FSCC 2.4.16). No name of a client's becomes one of the file system's.
const xattrEA = "user.lunless.ea"

// MergeEAs is list with the changes made that SetEAs is asked for.
func MergeEAs(list, changes []fscc.EaEntry) []fscc.EaEntry {
	list = slices.Clone(list)
	for _, c := range changes {
		i := slices.IndexFunc(list, func(e fscc.EaEntry) bool { return SameEA(e.Name, c.Name) })
		switch {
		case i >= 0 && len(c.Value) == 0:
			list = slices.Delete(list, i, i+1)
		case i >= 0:
			list[i] = c
		case len(c.Value) > 0:
			list = append(list, c)
		}
	}
	return list
}

// SameEA says whether two names are those of one extended attribute.
func SameEA(a, b []byte) bool { return bytes.Equal(bytes.ToUpper(a), bytes.ToUpper(b)) }

func encodeEAs(list []fscc.EaEntry) []byte {
	size := 0
	for i := range list {
		size += 8 + len(list[i].Name) + 1 + len(list[i].Value) + 3
	}
	b := make([]byte, size)
	w := fscc.NewEaWriter(b)
	for i := range list {
		w.Add(&list[i])
	}
	return b[:w.Len()]
}

func (f *posixFile) EAs(ctx context.Context) ([]fscc.EaEntry, error) {
	const op = "read extended attributes"
	if err := f.enter(ctx, op); err != nil {
		return nil, err
	}
	defer f.leave()
	list, err := readEAs(f.fd.fd)
	return list, f.fail(op, err)
}

func readEAs(fd int) ([]fscc.EaEntry, error) {
	b, err := readXattr(fd, xattrEA)
	if err != nil || b == nil {
		return nil, err
	}
	return fscc.DecodeEas(b)
}

func (f *posixFile) SetEAs(ctx context.Context, changes []fscc.EaEntry) error {
	const op = "set extended attributes"
	if err := f.enter(ctx, op); err != nil {
		return err
	}
	defer f.leave()
	defer f.node.meta.add()
	f.node.attrMu.Lock()
	defer f.node.attrMu.Unlock()
	return f.fail(op, f.setEAs(changes))
}

// setEAs works with attrMu held. The size is kept with the attributes, where
// listings find it without another look.
func (f *posixFile) setEAs(changes []fscc.EaEntry) error {
	old, err := readEAs(f.fd.fd)
	if err != nil {
		return err
	}
	list := MergeEAs(old, changes)
	size := EASize(list)
	if size > maxEAs {
		return ErrEATooLarge
	}
	path := procPath(f.fd.fd)
	if len(list) > 0 {
		err = unix.Setxattr(path, xattrEA, encodeEAs(list), 0)
	} else if err = unix.Removexattr(path, xattrEA); err == unix.ENODATA {
		err = nil
	}
	switch err {
	case nil:
		return f.changeAttrLocked(func(a *storedAttr) { a.eaSize = uint16(size) })
	case unix.ENOSPC, unix.E2BIG, unix.ERANGE:
		return ErrEATooLarge
	}
	return err
}

func (s *posixStream) EAs(ctx context.Context) ([]fscc.EaEntry, error) { return s.base.EAs(ctx) }

func (s *posixStream) SetEAs(ctx context.Context, list []fscc.EaEntry) error {
	return s.base.SetEAs(ctx, list)
}

func (f *faultFile) EAs(ctx context.Context) ([]fscc.EaEntry, error) {
	if err := f.ask(OpEAs); err != nil {
		return nil, err
	}
	return EAs(ctx, f.inner)
}

func (f *faultFile) SetEAs(ctx context.Context, list []fscc.EaEntry) error {
	if err := f.ask(OpSetEAs); err != nil {
		return err
	}
	return SetEAs(ctx, f.inner, list)
}

func (f readOnlyFile) EAs(ctx context.Context) ([]fscc.EaEntry, error) { return EAs(ctx, f.File) }

func (f readOnlyFile) SetEAs(context.Context, []fscc.EaEntry) error {
	return refuse("set extended attributes", f)
}
