package smbstore

import (
	"errors"
	"fmt"
	"io/fs"

	"lunless/smbstore/block"
)

// Errors of locations and credentials.
var (
	// ErrBadLocation: the text is no location.
	ErrBadLocation = errors.New("not a location: want smb://[user@]host[:port]/share/path, \\\\host\\share\\path or a local path")
	// ErrPasswordInLocation: a location never holds a password.
	ErrPasswordInLocation = errors.New("a location must not hold a password: set LUNLESS_PASSWORD or use --credentials FILE")
	// ErrNoCredentials: nothing gave a user name or a password.
	ErrNoCredentials = errors.New("no credentials: put the user before the @, and the password into LUNLESS_PASSWORD or a --credentials file")
	// ErrLogon: the server refused user or password.
	ErrLogon = errors.New("the server refused user name or password")
	// ErrNoShare: the server has no share of that name.
	ErrNoShare = errors.New("no such share")
)

// Errors of operations on a store. ErrNotExist, ErrExist and ErrPermission are
// those of io/fs.
var (
	ErrNotExist   = fs.ErrNotExist
	ErrExist      = fs.ErrExist
	ErrPermission = fs.ErrPermission
	// ErrBadName: a name leaves its store, or cannot be a file's name on a share.
	ErrBadName = errors.New("not a valid name on a share")
	// ErrSharing: another open of the file forbids this one.
	ErrSharing = errors.New("sharing violation: the file is in use")
	// ErrNotEmpty: a folder to be removed has entries.
	ErrNotEmpty = errors.New("folder is not empty")
	// ErrIsRoot: the operation is refused on the root of a store.
	ErrIsRoot = errors.New("refused on the root of a store")
	// ErrTooMany: a bounded operation met more entries than its bound.
	ErrTooMany = errors.New("more entries than the operation's bound")
	// ErrNoSpace: the file system behind the store is full.
	ErrNoSpace = block.ErrNoSpace
	// ErrUncertain: the connection died during an operation that must not be
	// repeated, and what the server holds does not tell whether it was done.
	ErrUncertain = errors.New("the connection was lost and the outcome is uncertain: look at the share before trying again")
	// ErrUnreachable: no connection could be made within the time-out.
	ErrUnreachable = errors.New("server cannot be reached")
	// ErrReplaced: after reconnecting, the name leads to another file than before.
	ErrReplaced = errors.New("the file was replaced while the connection was down")
	// ErrCopyLost: the server forgot a file before it was synced, and may have lost
	// what it had copied there itself since the last Sync (block.ErrFailed).
	ErrCopyLost = errors.New("the server lost the file before what it had copied was synced")
	// ErrStoreClosed: the store was closed.
	ErrStoreClosed = errors.New("store is closed")
)

// OpError is what failed on what.
type OpError struct {
	Op  string // "write", "create folder"
	At  Location
	Err error
}

func (e *OpError) Error() string { return fmt.Sprintf("cannot %s %s: %v", e.Op, e.At, e.Err) }
func (e *OpError) Unwrap() error { return e.Err }

// FullError leads with the cause, ErrNoSpace, and where, of an error that came
// through the layers above a store: those say what broke in them, which helps
// nobody who has to make room. All of it can be told with errors.Is still.
type FullError struct {
	At  Location // what could not grow; zero if the error does not say
	Err error
}

func (e *FullError) Error() string {
	if e.At == (Location{}) {
		return ErrNoSpace.Error()
	}
	return fmt.Sprintf("%v at %s", ErrNoSpace, e.At)
}

func (e *FullError) Unwrap() error { return e.Err }

// LeadFull makes an error that wraps ErrNoSpace a *FullError; any other stays.
func LeadFull(err error) error {
	var full *FullError
	if !errors.Is(err, ErrNoSpace) || errors.As(err, &full) {
		return err
	}
	full = &FullError{Err: err}
	// The innermost operation is the store's own.
	for op := (*OpError)(nil); errors.As(err, &op) && errors.Is(op.Err, ErrNoSpace); err = op.Err {
		full.At = op.At
	}
	return full
}
