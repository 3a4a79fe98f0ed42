package rpc

import (
	"errors"
	"fmt"
)

// Errors of PDUs and stubs.
var (
	ErrTruncated = errors.New("rpc: data is cut short")
	ErrInvalid   = errors.New("rpc: data holds a wrong value")
	ErrTooLong   = errors.New("rpc: data exceeds its bound")
	ErrProtocol  = errors.New("rpc: protocol error") // the association is over
	ErrRejected  = errors.New("rpc: the server does not offer the interface")
)

// Fault is the status of a fault PDU (C706 appendix E, MS-RPCE 2.2.2.8).
type Fault uint32

// Fault statuses.
const (
	FaultAccessDenied     Fault = 0x00000005
	FaultBadStub          Fault = 0x000006F7 // the request is not what its interface says
	FaultOperationRange   Fault = 0x1C010002 // nca_s_op_rng_error: no such operation
	FaultUnknownInterface Fault = 0x1C010003 // nca_s_unk_if
	FaultProtocol         Fault = 0x1C01000B // nca_s_proto_error
	FaultContextMismatch  Fault = 0x1C00001A // nca_s_fault_context_mismatch: no such handle
	FaultNoMemory         Fault = 0x1C00001B // nca_s_fault_remote_no_memory
)

func (f Fault) Error() string {
	switch f {
	case FaultAccessDenied:
		return "rpc: fault: access denied"
	case FaultBadStub:
		return "rpc: fault: bad stub data"
	case FaultOperationRange:
		return "rpc: fault: operation is not offered"
	case FaultUnknownInterface:
		return "rpc: fault: unknown interface"
	case FaultContextMismatch:
		return "rpc: fault: no such handle"
	}
	return fmt.Sprintf("rpc: fault %#08x", uint32(f))
}

// Status is the return value of an operation: a Windows error code (MS-ERREF
// 2.2) or, of lsarpc, an NTSTATUS (2.3); 0 for success.
type Status uint32

// Statuses (MS-ERREF 2.2, MS-SRVS 2.2.2.9).
const (
	StatusOK           Status = 0
	StatusAccessDenied Status = 5
	StatusNotSupported Status = 50
	StatusInvalidLevel Status = 124
	StatusMoreData     Status = 234
	StatusBufTooSmall  Status = 2123
	StatusNoSuchShare  Status = 2310
)

func (s Status) Error() string {
	switch s {
	case StatusOK:
		return "rpc: success"
	case StatusAccessDenied:
		return "rpc: access denied"
	case StatusInvalidLevel:
		return "rpc: level of information is not offered"
	case StatusMoreData:
		return "rpc: more data is available"
	case StatusNoSuchShare:
		return "rpc: no such share"
	}
	return fmt.Sprintf("rpc: error %d", uint32(s))
}
