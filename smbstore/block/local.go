package block

import (
	"errors"
	"fmt"
	"os"
)

// Local is a File over an *os.File, and a Puncher, Extenter and RangeCopier
// where the operating system has the calls for it. All methods may be called
// concurrently.
type Local struct {
	*os.File
}

// NewLocal adapts an open file, which it owns from then on.
func NewLocal(f *os.File) *Local { return &Local{File: f} }

// OpenLocal opens a file as os.OpenFile does.
func OpenLocal(path string, flag int, perm os.FileMode) (*Local, error) {
	f, err := os.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	return &Local{File: f}, nil
}

// Size implements File. For a block special file it is where the device ends.
func (l *Local) Size() (int64, error) {
	fi, err := l.Stat()
	if err != nil {
		return 0, err
	}
	if !fi.Mode().IsRegular() && fi.Mode()&os.ModeDevice == 0 {
		return 0, fmt.Errorf("%s is neither a file nor a block device", l.Name())
	}
	if fi.Mode()&os.ModeDevice != 0 {
		return l.Seek(0, 2)
	}
	return fi.Size(), nil
}

// CopyFrom implements RangeCopier between two Local files. It stops short at the
// end of src, and returns ErrNotSupported before it has copied anything where
// the file systems cannot do it.
func (l *Local) CopyFrom(src File, srcOff, dstOff, n int64) (int64, error) {
	s, ok := src.(*Local)
	if !ok {
		return 0, ErrNotSupported
	}
	var done int64
	for done < n {
		c, err := l.copyRange(s, srcOff+done, dstOff+done, n-done)
		if err != nil {
			if done > 0 && errors.Is(err, ErrNotSupported) {
				return done, nil
			}
			return done, err
		}
		if c == 0 {
			break
		}
		done += c
	}
	return done, nil
}
