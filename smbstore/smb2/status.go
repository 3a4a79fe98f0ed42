package smb2

import "fmt"

// Status is an NTSTATUS (MS-ERREF 2.3): what a response says came of a
// request. It implements error so that a handler can return it, and
// errors.Is compares it by value. StatusSuccess is a value like any other: a
// nil error, not StatusSuccess, means that nothing went wrong.
type Status uint32

// IsSuccess reports a success or informational code, STATUS_PENDING included.
func (s Status) IsSuccess() bool { return s>>30 < 2 }

// IsWarning reports a warning code, such as STATUS_BUFFER_OVERFLOW: its
// response carries the command's own body, not an ERROR response.
func (s Status) IsWarning() bool { return s>>30 == 2 }

// IsError reports an error code: its response carries an ERROR body, but for
// the exceptions of MS-SMB2 3.3.4.4.
func (s Status) IsError() bool { return s>>30 == 3 }

// String gives the name and the value, "STATUS_ACCESS_DENIED (0xC0000022)";
// for a code without a name here only the value.
func (s Status) String() string {
	if name, ok := statusNames[s]; ok {
		return fmt.Sprintf("STATUS_%s (0x%08X)", name, uint32(s))
	}
	return fmt.Sprintf("NTSTATUS 0x%08X", uint32(s))
}

// Error is String.
func (s Status) Error() string { return s.String() }

// The codes a server or client of a disk share meets (MS-ERREF 2.3.1).
const (
	StatusSuccess                          Status = 0x00000000
	StatusPending                          Status = 0x00000103
	StatusReparse                          Status = 0x00000104
	StatusSomeNotMapped                    Status = 0x00000107
	StatusOplockBreakInProgress            Status = 0x00000108
	StatusNotifyCleanup                    Status = 0x0000010B
	StatusNotifyEnumDir                    Status = 0x0000010C
	StatusGuardPageViolation               Status = 0x80000001
	StatusBufferOverflow                   Status = 0x80000005
	StatusNoMoreFiles                      Status = 0x80000006
	StatusNoMoreEAs                        Status = 0x80000012
	StatusInvalidEAName                    Status = 0x80000013
	StatusEAListInconsistent               Status = 0x80000014
	StatusInvalidEAFlag                    Status = 0x80000015
	StatusNoMoreEntries                    Status = 0x8000001A
	StatusStoppedOnSymlink                 Status = 0x8000002D
	StatusUnsuccessful                     Status = 0xC0000001
	StatusNotImplemented                   Status = 0xC0000002
	StatusInvalidInfoClass                 Status = 0xC0000003
	StatusInfoLengthMismatch               Status = 0xC0000004
	StatusAccessViolation                  Status = 0xC0000005
	StatusInvalidHandle                    Status = 0xC0000008
	StatusInvalidCID                       Status = 0xC000000B
	StatusInvalidParameter                 Status = 0xC000000D
	StatusNoSuchDevice                     Status = 0xC000000E
	StatusNoSuchFile                       Status = 0xC000000F
	StatusInvalidDeviceRequest             Status = 0xC0000010
	StatusEndOfFile                        Status = 0xC0000011
	StatusWrongVolume                      Status = 0xC0000012
	StatusNoMediaInDevice                  Status = 0xC0000013
	StatusMoreProcessingRequired           Status = 0xC0000016
	StatusNoMemory                         Status = 0xC0000017
	StatusAccessDenied                     Status = 0xC0000022
	StatusBufferTooSmall                   Status = 0xC0000023
	StatusObjectTypeMismatch               Status = 0xC0000024
	StatusNotLocked                        Status = 0xC000002A
	StatusDiskCorruptError                 Status = 0xC0000032
	StatusObjectNameInvalid                Status = 0xC0000033
	StatusObjectNameNotFound               Status = 0xC0000034
	StatusObjectNameCollision              Status = 0xC0000035
	StatusObjectPathInvalid                Status = 0xC0000039
	StatusObjectPathNotFound               Status = 0xC000003A
	StatusObjectPathSyntaxBad              Status = 0xC000003B
	StatusDataError                        Status = 0xC000003E
	StatusCRCError                         Status = 0xC000003F
	StatusSharingViolation                 Status = 0xC0000043
	StatusQuotaExceeded                    Status = 0xC0000044
	StatusEATooLarge                       Status = 0xC0000050
	StatusNonexistentEAEntry               Status = 0xC0000051
	StatusNoEAsOnFile                      Status = 0xC0000052
	StatusEACorruptError                   Status = 0xC0000053
	StatusFileLockConflict                 Status = 0xC0000054
	StatusLockNotGranted                   Status = 0xC0000055
	StatusDeletePending                    Status = 0xC0000056
	StatusUnknownRevision                  Status = 0xC0000058
	StatusInvalidOwner                     Status = 0xC000005A
	StatusInvalidPrimaryGroup              Status = 0xC000005B
	StatusNoLogonServers                   Status = 0xC000005E
	StatusNoSuchLogonSession               Status = 0xC000005F
	StatusNoSuchPrivilege                  Status = 0xC0000060
	StatusPrivilegeNotHeld                 Status = 0xC0000061
	StatusUserExists                       Status = 0xC0000063
	StatusNoSuchUser                       Status = 0xC0000064
	StatusNoSuchGroup                      Status = 0xC0000066
	StatusWrongPassword                    Status = 0xC000006A
	StatusLogonFailure                     Status = 0xC000006D
	StatusAccountRestriction               Status = 0xC000006E
	StatusInvalidLogonHours                Status = 0xC000006F
	StatusInvalidWorkstation               Status = 0xC0000070
	StatusPasswordExpired                  Status = 0xC0000071
	StatusAccountDisabled                  Status = 0xC0000072
	StatusNoneMapped                       Status = 0xC0000073
	StatusInvalidACL                       Status = 0xC0000077
	StatusInvalidSID                       Status = 0xC0000078
	StatusInvalidSecurityDescr             Status = 0xC0000079
	StatusRangeNotLocked                   Status = 0xC000007E
	StatusDiskFull                         Status = 0xC000007F
	StatusNotMappedData                    Status = 0xC0000088
	StatusResourceNameNotFound             Status = 0xC000008B
	StatusFileInvalid                      Status = 0xC0000098
	StatusInsufficientResources            Status = 0xC000009A
	StatusMediaWriteProtected              Status = 0xC00000A2
	StatusDeviceNotReady                   Status = 0xC00000A3
	StatusBadImpersonationLevel            Status = 0xC00000A5
	StatusInstanceNotAvailable             Status = 0xC00000AB
	StatusPipeNotAvailable                 Status = 0xC00000AC
	StatusInvalidPipeState                 Status = 0xC00000AD
	StatusPipeBusy                         Status = 0xC00000AE
	StatusPipeDisconnected                 Status = 0xC00000B0
	StatusPipeClosing                      Status = 0xC00000B1
	StatusPipeConnected                    Status = 0xC00000B2
	StatusPipeListening                    Status = 0xC00000B3
	StatusInvalidReadMode                  Status = 0xC00000B4
	StatusIOTimeout                        Status = 0xC00000B5
	StatusFileForcedClosed                 Status = 0xC00000B6
	StatusFileIsADirectory                 Status = 0xC00000BA
	StatusNotSupported                     Status = 0xC00000BB
	StatusRemoteNotListening               Status = 0xC00000BC
	StatusDuplicateName                    Status = 0xC00000BD
	StatusBadNetworkPath                   Status = 0xC00000BE
	StatusNetworkBusy                      Status = 0xC00000BF
	StatusTooManyCommands                  Status = 0xC00000C1
	StatusNetworkNameDeleted               Status = 0xC00000C9
	StatusNetworkAccessDenied              Status = 0xC00000CA
	StatusBadDeviceType                    Status = 0xC00000CB
	StatusBadNetworkName                   Status = 0xC00000CC
	StatusRequestNotAccepted               Status = 0xC00000D0
	StatusNotSameDevice                    Status = 0xC00000D4
	StatusFileRenamed                      Status = 0xC00000D5
	StatusNoSecurityOnObject               Status = 0xC00000D7
	StatusNoSuchDomain                     Status = 0xC00000DF
	StatusOplockNotGranted                 Status = 0xC00000E2
	StatusInvalidOplockProtocol            Status = 0xC00000E3
	StatusInternalError                    Status = 0xC00000E5
	StatusInvalidUserBuffer                Status = 0xC00000E8
	StatusUnexpectedIOError                Status = 0xC00000E9
	StatusInvalidParameter1                Status = 0xC00000EF
	StatusRedirectorNotStarted             Status = 0xC00000FB
	StatusDirectoryNotEmpty                Status = 0xC0000101
	StatusFileCorruptError                 Status = 0xC0000102
	StatusNotADirectory                    Status = 0xC0000103
	StatusNameTooLong                      Status = 0xC0000106
	StatusFilesOpen                        Status = 0xC0000107
	StatusTooManyOpenedFiles               Status = 0xC000011F
	StatusCancelled                        Status = 0xC0000120
	StatusCannotDelete                     Status = 0xC0000121
	StatusInvalidComputerName              Status = 0xC0000122
	StatusFileDeleted                      Status = 0xC0000123
	StatusSpecialAccount                   Status = 0xC0000124
	StatusFileClosed                       Status = 0xC0000128
	StatusTimeDifferenceAtDC               Status = 0xC0000133
	StatusLocalDisconnect                  Status = 0xC000013B
	StatusRemoteDisconnect                 Status = 0xC000013C
	StatusRemoteResources                  Status = 0xC000013D
	StatusLinkFailed                       Status = 0xC000013E
	StatusInvalidAddress                   Status = 0xC0000141
	StatusInvalidLevel                     Status = 0xC0000148
	StatusLogonTypeNotGranted              Status = 0xC000015B
	StatusUnmappableCharacter              Status = 0xC0000162
	StatusDriverInternalError              Status = 0xC0000183
	StatusInvalidDeviceState               Status = 0xC0000184
	StatusIODeviceError                    Status = 0xC0000185
	StatusTrustedRelationshipFailure       Status = 0xC000018D
	StatusNetlogonNotStarted               Status = 0xC0000192
	StatusNologonWorkstationTrustAccount   Status = 0xC0000199
	StatusFSDriverRequired                 Status = 0xC000019C
	StatusInvalidLockRange                 Status = 0xC00001A1
	StatusUserSessionDeleted               Status = 0xC0000203
	StatusConnectionDisconnected           Status = 0xC000020C
	StatusConnectionReset                  Status = 0xC000020D
	StatusClientServerParametersInvalid    Status = 0xC0000223
	StatusPasswordMustChange               Status = 0xC0000224
	StatusNotFound                         Status = 0xC0000225
	StatusFailCheck                        Status = 0xC0000229
	StatusVolumeNotUpgraded                Status = 0xC000029C
	StatusDuplicateObjectid                Status = 0xC000022A
	StatusObjectidExists                   Status = 0xC000022B
	StatusRetry                            Status = 0xC000022D
	StatusAccountLockedOut                 Status = 0xC0000234
	StatusConnectionRefused                Status = 0xC0000236
	StatusGracefulDisconnect               Status = 0xC0000237
	StatusHostUnreachable                  Status = 0xC000023D
	StatusPortUnreachable                  Status = 0xC000023F
	StatusPathNotCovered                   Status = 0xC0000257
	StatusTooManyLinks                     Status = 0xC0000265
	StatusVolumeDismounted                 Status = 0xC000026E
	StatusNotAReparsePoint                 Status = 0xC0000275
	StatusIOReparseTagInvalid              Status = 0xC0000276
	StatusIOReparseTagMismatch             Status = 0xC0000277
	StatusIOReparseDataInvalid             Status = 0xC0000278
	StatusIOReparseTagNotHandled           Status = 0xC0000279
	StatusReparsePointNotResolved          Status = 0xC0000280
	StatusDirectoryIsAReparsePoint         Status = 0xC0000281
	StatusEncryptionFailed                 Status = 0xC000028A
	StatusDecryptionFailed                 Status = 0xC000028B
	StatusObjectidNotFound                 Status = 0xC00002F0
	StatusWrongCredentialHandle            Status = 0xC00002F2
	StatusNetworkSessionExpired            Status = 0xC000035C
	StatusAuthenticationFirewallFailed     Status = 0xC0000413
	StatusRequestOutOfSequence             Status = 0xC000042A
	StatusInvalidToken                     Status = 0xC0000465
	StatusServerUnavailable                Status = 0xC0000466
	StatusFileNotAvailable                 Status = 0xC0000467
	StatusShareUnavailable                 Status = 0xC0000480
	StatusCannotBreakOplock                Status = 0xC0000909
	StatusInvalidSignature                 Status = 0xC000A000
	StatusHashNotSupported                 Status = 0xC000A100
	StatusHashNotPresent                   Status = 0xC000A101
	StatusOffloadReadFltNotSupported       Status = 0xC000A2A1
	StatusOffloadWriteFltNotSupported      Status = 0xC000A2A2
	StatusOffloadReadFileNotSupported      Status = 0xC000A2A3
	StatusOffloadWriteFileNotSupported     Status = 0xC000A2A4
	StatusCtxClientQueryTimeout            Status = 0xC00A0026
	StatusObjectNoLongerExists             Status = 0xC0190021
	StatusSMBNoPreauthIntegrityHashOverlap Status = 0xC05D0000
	StatusSMBBadClusterDialect             Status = 0xC05D0001
)

var statusNames = map[Status]string{
	StatusSuccess:                          "SUCCESS",
	StatusPending:                          "PENDING",
	StatusReparse:                          "REPARSE",
	StatusSomeNotMapped:                    "SOME_NOT_MAPPED",
	StatusOplockBreakInProgress:            "OPLOCK_BREAK_IN_PROGRESS",
	StatusNotifyCleanup:                    "NOTIFY_CLEANUP",
	StatusNotifyEnumDir:                    "NOTIFY_ENUM_DIR",
	StatusGuardPageViolation:               "GUARD_PAGE_VIOLATION",
	StatusBufferOverflow:                   "BUFFER_OVERFLOW",
	StatusNoMoreFiles:                      "NO_MORE_FILES",
	StatusNoMoreEAs:                        "NO_MORE_EAS",
	StatusInvalidEAName:                    "INVALID_EA_NAME",
	StatusEAListInconsistent:               "EA_LIST_INCONSISTENT",
	StatusInvalidEAFlag:                    "INVALID_EA_FLAG",
	StatusNoMoreEntries:                    "NO_MORE_ENTRIES",
	StatusStoppedOnSymlink:                 "STOPPED_ON_SYMLINK",
	StatusUnsuccessful:                     "UNSUCCESSFUL",
	StatusNotImplemented:                   "NOT_IMPLEMENTED",
	StatusInvalidInfoClass:                 "INVALID_INFO_CLASS",
	StatusInfoLengthMismatch:               "INFO_LENGTH_MISMATCH",
	StatusAccessViolation:                  "ACCESS_VIOLATION",
	StatusInvalidHandle:                    "INVALID_HANDLE",
	StatusInvalidCID:                       "INVALID_CID",
	StatusInvalidParameter:                 "INVALID_PARAMETER",
	StatusNoSuchDevice:                     "NO_SUCH_DEVICE",
	StatusNoSuchFile:                       "NO_SUCH_FILE",
	StatusInvalidDeviceRequest:             "INVALID_DEVICE_REQUEST",
	StatusEndOfFile:                        "END_OF_FILE",
	StatusWrongVolume:                      "WRONG_VOLUME",
	StatusNoMediaInDevice:                  "NO_MEDIA_IN_DEVICE",
	StatusMoreProcessingRequired:           "MORE_PROCESSING_REQUIRED",
	StatusNoMemory:                         "NO_MEMORY",
	StatusAccessDenied:                     "ACCESS_DENIED",
	StatusBufferTooSmall:                   "BUFFER_TOO_SMALL",
	StatusObjectTypeMismatch:               "OBJECT_TYPE_MISMATCH",
	StatusNotLocked:                        "NOT_LOCKED",
	StatusDiskCorruptError:                 "DISK_CORRUPT_ERROR",
	StatusObjectNameInvalid:                "OBJECT_NAME_INVALID",
	StatusObjectNameNotFound:               "OBJECT_NAME_NOT_FOUND",
	StatusObjectNameCollision:              "OBJECT_NAME_COLLISION",
	StatusObjectPathInvalid:                "OBJECT_PATH_INVALID",
	StatusObjectPathNotFound:               "OBJECT_PATH_NOT_FOUND",
	StatusObjectPathSyntaxBad:              "OBJECT_PATH_SYNTAX_BAD",
	StatusDataError:                        "DATA_ERROR",
	StatusCRCError:                         "CRC_ERROR",
	StatusSharingViolation:                 "SHARING_VIOLATION",
	StatusQuotaExceeded:                    "QUOTA_EXCEEDED",
	StatusEATooLarge:                       "EA_TOO_LARGE",
	StatusNonexistentEAEntry:               "NONEXISTENT_EA_ENTRY",
	StatusNoEAsOnFile:                      "NO_EAS_ON_FILE",
	StatusEACorruptError:                   "EA_CORRUPT_ERROR",
	StatusFileLockConflict:                 "FILE_LOCK_CONFLICT",
	StatusLockNotGranted:                   "LOCK_NOT_GRANTED",
	StatusDeletePending:                    "DELETE_PENDING",
	StatusUnknownRevision:                  "UNKNOWN_REVISION",
	StatusInvalidOwner:                     "INVALID_OWNER",
	StatusInvalidPrimaryGroup:              "INVALID_PRIMARY_GROUP",
	StatusNoLogonServers:                   "NO_LOGON_SERVERS",
	StatusNoSuchLogonSession:               "NO_SUCH_LOGON_SESSION",
	StatusNoSuchPrivilege:                  "NO_SUCH_PRIVILEGE",
	StatusPrivilegeNotHeld:                 "PRIVILEGE_NOT_HELD",
	StatusUserExists:                       "USER_EXISTS",
	StatusNoSuchUser:                       "NO_SUCH_USER",
	StatusNoSuchGroup:                      "NO_SUCH_GROUP",
	StatusWrongPassword:                    "WRONG_PASSWORD",
	StatusLogonFailure:                     "LOGON_FAILURE",
	StatusAccountRestriction:               "ACCOUNT_RESTRICTION",
	StatusInvalidLogonHours:                "INVALID_LOGON_HOURS",
	StatusInvalidWorkstation:               "INVALID_WORKSTATION",
	StatusPasswordExpired:                  "PASSWORD_EXPIRED",
	StatusAccountDisabled:                  "ACCOUNT_DISABLED",
	StatusNoneMapped:                       "NONE_MAPPED",
	StatusInvalidACL:                       "INVALID_ACL",
	StatusInvalidSID:                       "INVALID_SID",
	StatusInvalidSecurityDescr:             "INVALID_SECURITY_DESCR",
	StatusRangeNotLocked:                   "RANGE_NOT_LOCKED",
	StatusDiskFull:                         "DISK_FULL",
	StatusNotMappedData:                    "NOT_MAPPED_DATA",
	StatusResourceNameNotFound:             "RESOURCE_NAME_NOT_FOUND",
	StatusFileInvalid:                      "FILE_INVALID",
	StatusInsufficientResources:            "INSUFFICIENT_RESOURCES",
	StatusMediaWriteProtected:              "MEDIA_WRITE_PROTECTED",
	StatusDeviceNotReady:                   "DEVICE_NOT_READY",
	StatusBadImpersonationLevel:            "BAD_IMPERSONATION_LEVEL",
	StatusInstanceNotAvailable:             "INSTANCE_NOT_AVAILABLE",
	StatusPipeNotAvailable:                 "PIPE_NOT_AVAILABLE",
	StatusInvalidPipeState:                 "INVALID_PIPE_STATE",
	StatusPipeBusy:                         "PIPE_BUSY",
	StatusPipeDisconnected:                 "PIPE_DISCONNECTED",
	StatusPipeClosing:                      "PIPE_CLOSING",
	StatusPipeConnected:                    "PIPE_CONNECTED",
	StatusPipeListening:                    "PIPE_LISTENING",
	StatusInvalidReadMode:                  "INVALID_READ_MODE",
	StatusIOTimeout:                        "IO_TIMEOUT",
	StatusFileForcedClosed:                 "FILE_FORCED_CLOSED",
	StatusFileIsADirectory:                 "FILE_IS_A_DIRECTORY",
	StatusNotSupported:                     "NOT_SUPPORTED",
	StatusRemoteNotListening:               "REMOTE_NOT_LISTENING",
	StatusDuplicateName:                    "DUPLICATE_NAME",
	StatusBadNetworkPath:                   "BAD_NETWORK_PATH",
	StatusNetworkBusy:                      "NETWORK_BUSY",
	StatusTooManyCommands:                  "TOO_MANY_COMMANDS",
	StatusNetworkNameDeleted:               "NETWORK_NAME_DELETED",
	StatusNetworkAccessDenied:              "NETWORK_ACCESS_DENIED",
	StatusBadDeviceType:                    "BAD_DEVICE_TYPE",
	StatusBadNetworkName:                   "BAD_NETWORK_NAME",
	StatusRequestNotAccepted:               "REQUEST_NOT_ACCEPTED",
	StatusNotSameDevice:                    "NOT_SAME_DEVICE",
	StatusFileRenamed:                      "FILE_RENAMED",
	StatusNoSecurityOnObject:               "NO_SECURITY_ON_OBJECT",
	StatusNoSuchDomain:                     "NO_SUCH_DOMAIN",
	StatusOplockNotGranted:                 "OPLOCK_NOT_GRANTED",
	StatusInvalidOplockProtocol:            "INVALID_OPLOCK_PROTOCOL",
	StatusInternalError:                    "INTERNAL_ERROR",
	StatusInvalidUserBuffer:                "INVALID_USER_BUFFER",
	StatusUnexpectedIOError:                "UNEXPECTED_IO_ERROR",
	StatusInvalidParameter1:                "INVALID_PARAMETER_1",
	StatusRedirectorNotStarted:             "REDIRECTOR_NOT_STARTED",
	StatusDirectoryNotEmpty:                "DIRECTORY_NOT_EMPTY",
	StatusFileCorruptError:                 "FILE_CORRUPT_ERROR",
	StatusNotADirectory:                    "NOT_A_DIRECTORY",
	StatusNameTooLong:                      "NAME_TOO_LONG",
	StatusFilesOpen:                        "FILES_OPEN",
	StatusTooManyOpenedFiles:               "TOO_MANY_OPENED_FILES",
	StatusCancelled:                        "CANCELLED",
	StatusCannotDelete:                     "CANNOT_DELETE",
	StatusInvalidComputerName:              "INVALID_COMPUTER_NAME",
	StatusFileDeleted:                      "FILE_DELETED",
	StatusSpecialAccount:                   "SPECIAL_ACCOUNT",
	StatusFileClosed:                       "FILE_CLOSED",
	StatusTimeDifferenceAtDC:               "TIME_DIFFERENCE_AT_DC",
	StatusLocalDisconnect:                  "LOCAL_DISCONNECT",
	StatusRemoteDisconnect:                 "REMOTE_DISCONNECT",
	StatusRemoteResources:                  "REMOTE_RESOURCES",
	StatusLinkFailed:                       "LINK_FAILED",
	StatusInvalidAddress:                   "INVALID_ADDRESS",
	StatusInvalidLevel:                     "INVALID_LEVEL",
	StatusLogonTypeNotGranted:              "LOGON_TYPE_NOT_GRANTED",
	StatusUnmappableCharacter:              "UNMAPPABLE_CHARACTER",
	StatusDriverInternalError:              "DRIVER_INTERNAL_ERROR",
	StatusInvalidDeviceState:               "INVALID_DEVICE_STATE",
	StatusIODeviceError:                    "IO_DEVICE_ERROR",
	StatusTrustedRelationshipFailure:       "TRUSTED_RELATIONSHIP_FAILURE",
	StatusNetlogonNotStarted:               "NETLOGON_NOT_STARTED",
	StatusNologonWorkstationTrustAccount:   "NOLOGON_WORKSTATION_TRUST_ACCOUNT",
	StatusFSDriverRequired:                 "FS_DRIVER_REQUIRED",
	StatusInvalidLockRange:                 "INVALID_LOCK_RANGE",
	StatusUserSessionDeleted:               "USER_SESSION_DELETED",
	StatusConnectionDisconnected:           "CONNECTION_DISCONNECTED",
	StatusConnectionReset:                  "CONNECTION_RESET",
	StatusClientServerParametersInvalid:    "CLIENT_SERVER_PARAMETERS_INVALID",
	StatusPasswordMustChange:               "PASSWORD_MUST_CHANGE",
	StatusNotFound:                         "NOT_FOUND",
	StatusFailCheck:                        "FAIL_CHECK",
	StatusDuplicateObjectid:                "DUPLICATE_OBJECTID",
	StatusObjectidExists:                   "OBJECTID_EXISTS",
	StatusRetry:                            "RETRY",
	StatusAccountLockedOut:                 "ACCOUNT_LOCKED_OUT",
	StatusConnectionRefused:                "CONNECTION_REFUSED",
	StatusGracefulDisconnect:               "GRACEFUL_DISCONNECT",
	StatusHostUnreachable:                  "HOST_UNREACHABLE",
	StatusPortUnreachable:                  "PORT_UNREACHABLE",
	StatusPathNotCovered:                   "PATH_NOT_COVERED",
	StatusTooManyLinks:                     "TOO_MANY_LINKS",
	StatusVolumeDismounted:                 "VOLUME_DISMOUNTED",
	StatusNotAReparsePoint:                 "NOT_A_REPARSE_POINT",
	StatusIOReparseTagInvalid:              "IO_REPARSE_TAG_INVALID",
	StatusIOReparseTagMismatch:             "IO_REPARSE_TAG_MISMATCH",
	StatusIOReparseDataInvalid:             "IO_REPARSE_DATA_INVALID",
	StatusIOReparseTagNotHandled:           "IO_REPARSE_TAG_NOT_HANDLED",
	StatusVolumeNotUpgraded:                "VOLUME_NOT_UPGRADED",
	StatusReparsePointNotResolved:          "REPARSE_POINT_NOT_RESOLVED",
	StatusDirectoryIsAReparsePoint:         "DIRECTORY_IS_A_REPARSE_POINT",
	StatusEncryptionFailed:                 "ENCRYPTION_FAILED",
	StatusDecryptionFailed:                 "DECRYPTION_FAILED",
	StatusObjectidNotFound:                 "OBJECTID_NOT_FOUND",
	StatusWrongCredentialHandle:            "WRONG_CREDENTIAL_HANDLE",
	StatusNetworkSessionExpired:            "NETWORK_SESSION_EXPIRED",
	StatusAuthenticationFirewallFailed:     "AUTHENTICATION_FIREWALL_FAILED",
	StatusRequestOutOfSequence:             "REQUEST_OUT_OF_SEQUENCE",
	StatusInvalidToken:                     "INVALID_TOKEN",
	StatusServerUnavailable:                "SERVER_UNAVAILABLE",
	StatusFileNotAvailable:                 "FILE_NOT_AVAILABLE",
	StatusShareUnavailable:                 "SHARE_UNAVAILABLE",
	StatusCannotBreakOplock:                "CANNOT_BREAK_OPLOCK",
	StatusInvalidSignature:                 "INVALID_SIGNATURE",
	StatusHashNotSupported:                 "HASH_NOT_SUPPORTED",
	StatusHashNotPresent:                   "HASH_NOT_PRESENT",
	StatusOffloadReadFltNotSupported:       "OFFLOAD_READ_FLT_NOT_SUPPORTED",
	StatusOffloadWriteFltNotSupported:      "OFFLOAD_WRITE_FLT_NOT_SUPPORTED",
	StatusOffloadReadFileNotSupported:      "OFFLOAD_READ_FILE_NOT_SUPPORTED",
	StatusOffloadWriteFileNotSupported:     "OFFLOAD_WRITE_FILE_NOT_SUPPORTED",
	StatusCtxClientQueryTimeout:            "CTX_CLIENT_QUERY_TIMEOUT",
	StatusObjectNoLongerExists:             "OBJECT_NO_LONGER_EXISTS",
	StatusSMBNoPreauthIntegrityHashOverlap: "SMB_NO_PREAUTH_INTEGRITY_HASH_OVERLAP",
	StatusSMBBadClusterDialect:             "SMB_BAD_CLUSTER_DIALECT",
}
