package block

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// PunchHole implements Puncher. The end of the file stays where it is.
func (l *Local) PunchHole(off, n int64) error {
	if n <= 0 {
		return nil
	}
	return l.control(func(fd int) error {
		return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
}

// FileExtents implements Extenter by SEEK_DATA and SEEK_HOLE. What lies past the
// end of the file is Zero.
func (l *Local) FileExtents(off, n int64, visit func(Extent) error) error {
	m := NewMerger(visit)
	end := off + n
	for off < end {
		data, err := l.seek(off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // no data up to the end of the file
			data, err = end, nil
		}
		if err != nil {
			return err
		}
		data = min(data, end)
		if err := m.Add(Extent{off, data - off, Zero}); err != nil {
			return err
		}
		if off = data; off == end {
			break
		}
		hole, err := l.seek(off, unix.SEEK_HOLE)
		if errors.Is(err, unix.ENXIO) { // the file was cut meanwhile
			hole, err = end, nil
		}
		if err != nil {
			return err
		}
		hole = min(hole, end)
		if err := m.Add(Extent{off, hole - off, Data}); err != nil {
			return err
		}
		off = hole
	}
	return m.Flush()
}

func (l *Local) seek(off int64, whence int) (pos int64, err error) {
	err = l.control(func(fd int) error {
		pos, err = unix.Seek(fd, off, whence)
		return err
	})
	return pos, err
}

func (l *Local) copyRange(src *Local, srcOff, dstOff, n int64) (done int64, err error) {
	err = l.control(func(dst int) error {
		return src.control(func(fd int) error {
			c, err := unix.CopyFileRange(fd, &srcOff, dst, &dstOff, int(min(n, 1<<30)), 0)
			done = int64(c)
			return err
		})
	})
	return done, err
}

// control runs a system call on the descriptor, which stays open meanwhile.
func (l *Local) control(call func(fd int) error) error {
	c, err := l.SyscallConn()
	if err != nil {
		return err
	}
	var callErr error
	err = c.Control(func(fd uintptr) {
		for {
			if callErr = call(int(fd)); !errors.Is(callErr, unix.EINTR) {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	switch {
	case callErr == nil:
		return nil
	case errors.Is(callErr, unix.EOPNOTSUPP), errors.Is(callErr, unix.ENOSYS), errors.Is(callErr, unix.EXDEV):
		return fmt.Errorf("%s: %w: %w", l.Name(), ErrNotSupported, callErr)
	}
	return fmt.Errorf("%s: %w", l.Name(), callErr)
}
