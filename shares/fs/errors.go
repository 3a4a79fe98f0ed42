package fs

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"
)

// opError says which operation failed on which object. It unwraps to a sentinel
// of this package (if one fits) and to the kernel's error number.
type opError struct {
	op, name string
	kind     error // sentinel, or nil
	cause    error // unix.Errno or a wrapped error, or nil
}

func (e *opError) Error() string {
	s := e.op + " " + strconv.Quote(e.name)
	if e.kind != nil {
		s += ": " + e.kind.Error()
	}
	if e.cause != nil {
		s += ": " + e.cause.Error()
	}
	return s
}

func (e *opError) Unwrap() []error {
	var errs []error
	if e.kind != nil {
		errs = append(errs, e.kind)
	}
	if e.cause != nil {
		errs = append(errs, e.cause)
	}
	return errs
}

// fail wraps err with what was being done, or returns nil for nil. Error
// numbers of the kernel get their sentinel here and nowhere else.
func fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	var already *opError
	if errors.As(err, &already) {
		return err
	}
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return &opError{op: op, name: name, kind: err}
	}
	return &opError{op: op, name: name, kind: sentinel(errno), cause: err}
}

// failPath is fail for look-ups below the root, where crossing a symbolic link
// (ELOOP) or the root (EXDEV) has a meaning of its own.
func failPath(op, name string, err error) error {
	if err == unix.ELOOP || err == unix.EXDEV {
		return &opError{op: op, name: name, kind: ErrEscapes, cause: err}
	}
	return fail(op, name, err)
}

// sentinel returns the error of this package an error number stands for, or nil
// (EIO, EMFILE, ENOMEM: callers test those as they are).
func sentinel(errno unix.Errno) error {
	switch errno {
	case unix.ENOENT, unix.ESTALE:
		return ErrNotExist
	case unix.EEXIST:
		return ErrExist
	case unix.ENOTDIR:
		return ErrNotDir
	case unix.EISDIR:
		return ErrIsDir
	case unix.ENOTEMPTY:
		return ErrNotEmpty
	case unix.ENAMETOOLONG:
		return ErrNameTooLong
	case unix.ELOOP:
		return ErrEscapes
	case unix.EILSEQ:
		return ErrBadName
	case unix.ENOSPC, unix.EDQUOT, unix.E2BIG, unix.ERANGE, unix.EMLINK:
		return ErrNoSpace
	case unix.EROFS:
		return ErrReadOnlyFS
	// EBADF: the descriptor was opened without the access the call needs; a
	// closed one cannot be meant, descriptors are counted.
	case unix.EACCES, unix.EPERM, unix.EBADF, unix.ETXTBSY, unix.EBUSY:
		return ErrPermission
	case unix.EOPNOTSUPP, unix.ENOSYS, unix.EXDEV, unix.ENOTTY:
		return ErrNotSupported
	case unix.EINVAL, unix.EOVERFLOW, unix.EFBIG: // a size beyond what the file system takes (MS-FSA 2.1.5.4)
		return ErrInvalid
	}
	return nil
}

// again runs f until a signal no longer interrupts it.
func again(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}
