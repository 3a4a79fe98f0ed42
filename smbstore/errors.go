package smbstore

import (
	"errors"
	"io/fs"
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
	ErrNoSpace = errors.New("no room on the file system")
	// ErrUncertain: the connection died during an operation that must not be
	// repeated, and what the server holds does not tell whether it was done.
	ErrUncertain = errors.New("the connection was lost and the outcome is uncertain: look at the share before trying again")
	// ErrUnreachable: no connection could be made within the time-out.
	ErrUnreachable = errors.New("server cannot be reached")
	// ErrReplaced: after reconnecting, the name leads to another file than before.
	ErrReplaced = errors.New("the file was replaced while the connection was down")
	// ErrStoreClosed: the store was closed.
	ErrStoreClosed = errors.New("store is closed")
)
