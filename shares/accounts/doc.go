// Package accounts keeps a node's local users and groups in one file,
// accounts.json in the data folder: who may log on, and which security
// identifiers (MS-DTYP 2.4.2) they are to security descriptors.
//
// The file holds NT hashes (MS-NLMP 3.3.1) and no passwords, but an NT hash is as
// good as the password to whoever reads it; so the file has mode 0600 and belongs
// in no backup that others can read.
//
// It is replaced in one step, with the new content and the folder on stable storage
// before a change returns; an advisory lock on accounts.lock keeps processes that
// change it apart. Readers take no lock. Fields this version does not know are
// kept.
package accounts

import "errors"

// Errors; those of the file system are wrapped beside them.
var (
	ErrNoUser      = errors.New("no such user")
	ErrNoGroup     = errors.New("no such group")
	ErrNoName      = errors.New("no account has this name or SID")
	ErrExists      = errors.New("an account of this name exists")
	ErrBadName     = errors.New("not a user name: 1 to 64 characters, none of \"/\\[]:;|=,+*?<>@ or control characters, not only dots and spaces")
	ErrBadPassword = errors.New("not a password: it is empty, too long or not UTF-8")
	ErrDisabled    = errors.New("the account is disabled")
	ErrDamaged     = errors.New("the account file is damaged")
	ErrVersion     = errors.New("the account file is of a newer version")
)
