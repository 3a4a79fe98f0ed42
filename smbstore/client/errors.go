package client

import (
	"errors"
	"fmt"
	"io/fs"

	"lunless/smbstore/smb2"
)

// Errors of connecting.
var (
	// ErrLogon: the server refused user or password.
	ErrLogon = errors.New("the server refused the log-on")
	// ErrUnreachable: no connection could be made within the time-out.
	ErrUnreachable = errors.New("server cannot be reached")
	// ErrSecurity is wrapped by every error about a server, or somebody on the way to
	// it, that does not sign, encrypt or negotiate as agreed.
	ErrSecurity = errors.New("the connection is not secure")
	// ErrProtocol is wrapped by every error about a message that is malformed or
	// does not belong where it came. It ends the connection.
	ErrProtocol = errors.New("the server breaks the protocol")
)

// Errors of operations.
var (
	// ErrClosed: the Client, Tree or File was closed.
	ErrClosed = errors.New("closed")
	// ErrNotSupported: the dialect, the server or the share has no such thing.
	ErrNotSupported = errors.New("not supported by the server")
	// ErrConnectionLost: the connection died during an operation that must not be
	// sent again unasked; what became of it is not known.
	ErrConnectionLost = errors.New("connection lost")
	// ErrHandleLost is what every *HandleLostError is.
	ErrHandleLost = errors.New("the handle was lost with its connection")
)

// StatusError is the server's refusal of a request. It unwraps to the status,
// an smb2.Status, and matches fs.ErrNotExist, fs.ErrExist and fs.ErrPermission.
type StatusError struct {
	Command smb2.Command
	Name    string // path on the share, "" where there is none
	Status  smb2.Status
}

func (e *StatusError) Error() string {
	if e.Name == "" {
		return fmt.Sprintf("%v: %v", e.Command, e.Status)
	}
	return fmt.Sprintf("%v %s: %v", e.Command, e.Name, e.Status)
}

// Unwrap gives the status.
func (e *StatusError) Unwrap() error { return e.Status }

// Is matches the errors of io/fs and ErrNotSupported.
func (e *StatusError) Is(target error) bool {
	switch target {
	case fs.ErrNotExist:
		return e.Status == smb2.StatusObjectNameNotFound || e.Status == smb2.StatusObjectPathNotFound || e.Status == smb2.StatusNoSuchFile
	case fs.ErrExist:
		return e.Status == smb2.StatusObjectNameCollision
	case fs.ErrPermission:
		return e.Status == smb2.StatusAccessDenied || e.Status == smb2.StatusNetworkAccessDenied
	case ErrNotSupported:
		return e.Status == smb2.StatusNotSupported || e.Status == smb2.StatusInvalidDeviceRequest || e.Status == smb2.StatusNotImplemented ||
			e.Status == smb2.StatusOffloadReadFileNotSupported || e.Status == smb2.StatusOffloadWriteFileNotSupported ||
			e.Status == smb2.StatusOffloadReadFltNotSupported || e.Status == smb2.StatusOffloadWriteFltNotSupported
	}
	return false
}

// HandleLostError says that a file's handle did not outlive its connection, or was
// taken away by the server. The File is of no more use.
type HandleLostError struct {
	Name   string
	Status smb2.Status // the server's answer to the attempt to reclaim it; 0 if the handle was never durable
	Err    error       // what else kept it from being reclaimed, or nil
}

func (e *HandleLostError) Error() string {
	switch {
	case e.Err != nil:
		return fmt.Sprintf("%s: %v: %v", e.Name, ErrHandleLost, e.Err)
	case e.Status != 0:
		return fmt.Sprintf("%s: %v: the server says %v", e.Name, ErrHandleLost, e.Status)
	}
	return fmt.Sprintf("%s: %v", e.Name, ErrHandleLost)
}

// Is matches ErrHandleLost.
func (e *HandleLostError) Is(target error) bool { return target == ErrHandleLost }

// Unwrap gives the cause, or the status.
func (e *HandleLostError) Unwrap() error {
	if e.Err == nil && e.Status != 0 {
		return e.Status
	}
	return e.Err
}

// lostError is how a request fails whose connection has died; it matches
// ErrConnectionLost.
type lostError struct{ cause error }

func (e *lostError) Error() string        { return fmt.Sprintf("%v: %v", ErrConnectionLost, e.cause) }
func (e *lostError) Unwrap() error        { return e.cause }
func (e *lostError) Is(target error) bool { return target == ErrConnectionLost }

func isLost(err error) bool {
	_, ok := err.(*lostError)
	return ok
}

// StatusOf digs the status out of an error: 0, false if there is none in it.
func StatusOf(err error) (smb2.Status, bool) {
	var s smb2.Status
	if errors.As(err, &s) {
		return s, true
	}
	return 0, false
}

// protocolError is ErrProtocol with what is wrong.
func protocolError(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, a...))
}
