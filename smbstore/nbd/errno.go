package nbd

import (
	"errors"
	"fmt"
	"syscall"

	"lunless/smbstore/block"
)

// Errno is an error as the protocol tells it to a client.
type Errno uint32

// The protocol's error values.
const (
	EPERM     Errno = 1
	EIO       Errno = 5
	ENOMEM    Errno = 12
	EINVAL    Errno = 22
	ENOSPC    Errno = 28
	EOVERFLOW Errno = 75
	ENOTSUP   Errno = 95
	ESHUTDOWN Errno = 108
)

func (e Errno) String() string {
	switch e {
	case 0:
		return "success"
	case EPERM:
		return "operation not permitted"
	case EIO:
		return "input/output error"
	case ENOMEM:
		return "cannot allocate memory"
	case EINVAL:
		return "invalid argument"
	case ENOSPC:
		return "no space left on device"
	case EOVERFLOW:
		return "value too large"
	case ENOTSUP:
		return "operation not supported"
	case ESHUTDOWN:
		return "server is shutting down"
	}
	return fmt.Sprintf("error %d", uint32(e))
}

// errnoOf is what a client is told of a device's error. classify may be nil, and
// returns 0 for what it does not know.
func errnoOf(err error, cmd command, classify func(error) Errno) Errno {
	if classify != nil {
		if e := classify(err); e != 0 {
			return e
		}
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return ENOSPC
	case errors.Is(err, block.ErrReadOnly):
		return EPERM
	case errors.Is(err, block.ErrOutOfRange):
		return beyond(cmd)
	}
	return EIO
}

// beyond is the error of a request that reaches past the end of the export.
func beyond(cmd command) Errno {
	if cmd == cmdWrite || cmd == cmdWriteZeroes {
		return ENOSPC
	}
	return EINVAL
}
