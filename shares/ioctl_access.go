package shares

import "context"

// beginWrite is what a control code does before it changes n bytes at off, as
// WRITE does: rights, byte-range locks, what others cache. It may wait for others.
func (o *open) beginWrite(_ context.Context, off, n uint64) error {
	return o.checkWrite(off, n)
}

// beginRead is beginWrite for bytes that are only read.
func (o *open) beginRead(_ context.Context, off, n uint64) error {
	return o.checkRead(off, n)
}
