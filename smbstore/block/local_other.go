//go:build !linux

package block

// PunchHole implements Puncher: not on this operating system.
func (l *Local) PunchHole(off, n int64) error { return ErrNotSupported }

// FileExtents implements Extenter: not on this operating system.
func (l *Local) FileExtents(off, n int64, visit func(Extent) error) error { return ErrNotSupported }

func (l *Local) copyRange(src *Local, srcOff, dstOff, n int64) (int64, error) {
	return 0, ErrNotSupported
}
