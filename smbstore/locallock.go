package smbstore

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// denyByte is the place of the lock that readers who deny writing share. No
// file is that long, and no other program locks there.
const denyByte = 1 << 62

// lockLocal turns the share mode into advisory locks. Writers share the file's
// flock, and one that denies writing has it alone. Readers that deny writing
// share a lock on denyByte, and have none of the flock but for a moment, to see
// that there is no writer. Each side takes its own lock before it looks for the
// other's: at most both fail, never does neither.
func lockLocal(f *os.File, flags Flags) error {
	var err error
	switch {
	case flags&(Write|DenyWrite) == DenyWrite:
		err = denyLocal(f)
	case flags&Write == 0:
		return nil
	case flags&DenyWrite != 0:
		err = flockNow(f, unix.LOCK_EX)
	default:
		err = flockNow(f, unix.LOCK_SH)
	}
	if err == nil && flags&Write != 0 {
		err = seeDenied(f)
	}
	if errors.Is(err, unix.ENOLCK) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EINVAL) {
		return nil // a file system without locks cannot deny
	}
	return err
}

func flockNow(f *os.File, how int) error {
	err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrSharing
	}
	return err
}

func denyLocal(f *os.File) error {
	lock := unix.Flock_t{Type: unix.F_RDLCK, Whence: io.SeekStart, Start: denyByte, Len: 1}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
		return err
	}
	for try := 0; ; try++ {
		err := flockNow(f, unix.LOCK_EX)
		if err == nil {
			return unix.Flock(int(f.Fd()), unix.LOCK_UN)
		}
		if !errors.Is(err, ErrSharing) || try == 10 {
			return err
		}
		time.Sleep(5 * time.Millisecond) // another reader may be looking
	}
}

// seeDenied tells a writer that a reader denies it.
func seeDenied(f *os.File) error {
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: denyByte, Len: 1}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		return err
	}
	if lock.Type != unix.F_UNLCK {
		return ErrSharing
	}
	return nil
}
