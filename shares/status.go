package shares

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"lunless/shares/fs"
	"lunless/shares/services"
	"lunless/shares/state"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// Statuses only this package has a use for (MS-ERREF 2.3.1).
const (
	statusInvalidViewSize smb2.Status = 0xC000001F // a copy begins or ends past the end of its source
	statusEAsNotSupported smb2.Status = 0xC000004F
	statusPipeEmpty       smb2.Status = 0xC00000D9

	statusObjectTypeMismatch smb2.Status = 0xC0000024
	statusDuplicateObjectID  smb2.Status = 0xC000022A
	statusContextMismatch    smb2.Status = 0xC0000719
)

// statuses maps errors to what a client is told, the first that matches.
var statuses = []struct {
	err    error
	status smb2.Status
}{
	{fs.ErrNotExist, smb2.StatusObjectNameNotFound},
	{fs.ErrPathNotExist, smb2.StatusObjectPathNotFound},
	{fs.ErrExist, smb2.StatusObjectNameCollision},
	{fs.ErrNotDir, smb2.StatusObjectPathNotFound}, // in the middle of a path (MS-FSA 2.1.5.1)
	{fs.ErrIsDir, smb2.StatusFileIsADirectory},
	{fs.ErrNotEmpty, smb2.StatusDirectoryNotEmpty},
	{fs.ErrBadName, smb2.StatusObjectNameInvalid},
	{fs.ErrNameTooLong, smb2.StatusObjectNameInvalid},
	{fs.ErrEscapes, smb2.StatusAccessDenied},
	{fs.ErrNoSpace, smb2.StatusDiskFull},
	{fs.ErrEATooLarge, smb2.StatusEATooLarge},
	{fs.ErrReadOnlyFS, smb2.StatusMediaWriteProtected},
	{fs.ErrPermission, smb2.StatusAccessDenied},
	{fs.ErrClosed, smb2.StatusFileClosed},
	{fs.ErrFailed, smb2.StatusIODeviceError},
	{fs.ErrInvalid, smb2.StatusInvalidParameter},

	{state.ErrSharingViolation, smb2.StatusSharingViolation},
	{state.ErrDeletePending, smb2.StatusDeletePending},
	{state.ErrInUse, smb2.StatusAccessDenied},
	{state.ErrUnknownOpen, smb2.StatusFileClosed},
	{state.ErrLockNotGranted, smb2.StatusLockNotGranted},
	{state.ErrRangeNotLocked, smb2.StatusRangeNotLocked},
	{state.ErrLockRange, smb2.StatusInvalidLockRange},
	{state.ErrFailed, smb2.StatusIODeviceError},
	{state.ErrTooManyLocks, smb2.StatusInsufficientResources},

	{state.ErrTooManyOpens, smb2.StatusInsufficientResources},
	{state.ErrTooManyWaiters, smb2.StatusInsufficientResources},
	{state.ErrNotAvailable, smb2.StatusFileNotAvailable},
	{state.ErrForcedClosed, smb2.StatusFileForcedClosed},
	{state.ErrUnknownLease, smb2.StatusObjectNameNotFound},
	{state.ErrNotAccepted, smb2.StatusRequestNotAccepted},
	{state.ErrOplockProtocol, smb2.StatusInvalidOplockProtocol},
	{state.ErrCannotWait, smb2.StatusSharingViolation},
	{state.ErrNotReclaimable, smb2.StatusObjectNameNotFound},
	{state.ErrNotOwner, smb2.StatusAccessDenied},
	{state.ErrBadReclaim, smb2.StatusInvalidParameter},

	{services.ErrNoSuchPipe, smb2.StatusObjectNameNotFound},
	{services.ErrEmpty, statusPipeEmpty},
	{services.ErrBusy, smb2.StatusPipeBusy},
	{services.ErrClosed, smb2.StatusPipeDisconnected},

	{fscc.ErrAccessDenied, smb2.StatusAccessDenied},
	{fscc.ErrTruncated, smb2.StatusInfoLengthMismatch},
	{fscc.ErrInvalid, smb2.StatusInvalidParameter},

	{unix.EMFILE, smb2.StatusInsufficientResources},
	{unix.ENFILE, smb2.StatusInsufficientResources},
	{unix.ENOMEM, smb2.StatusInsufficientResources},

	{context.Canceled, smb2.StatusCancelled},
	{context.DeadlineExceeded, smb2.StatusIOTimeout},
	{fs.ErrNotSupported, smb2.StatusNotSupported},
}

// statusOf is the status of a handler's error: one of its own in the chain
// first, then what the error stands for. It is the only place where errors
// become statuses.
func statusOf(err error) smb2.Status {
	if err == nil {
		return smb2.StatusSuccess
	}
	var s smb2.Status
	if errors.As(err, &s) {
		return s
	}
	var malformed *smb2.DecodeError
	if errors.As(err, &malformed) {
		return smb2.StatusInvalidParameter
	}
	for i := range statuses {
		if errors.Is(err, statuses[i].err) {
			return statuses[i].status
		}
	}
	return smb2.StatusUnexpectedIOError
}
