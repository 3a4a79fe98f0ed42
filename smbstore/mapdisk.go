package smbstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"lunless/smbstore/block"
)

// MapDiskOptions choose a part of a disk; the zero value is all of it.
type MapDiskOptions struct {
	Offset int64 // of the virtual disk, bytes
	Length int64 // bytes; 0 or more than there are: up to the disk's end
	// Layer asks a differencing disk's own image alone: what its parents tell is
	// Unallocated, and they are not opened.
	Layer bool
}

// MapDisk calls visit with consecutive extents that cover the part of a virtual
// disk exactly; neighbours differ in state. It reads no data and keeps no
// extents. An error from visit ends the walk and is returned.
// Errors: block.ErrOutOfRange for an offset past the disk's end.
func MapDisk(ctx context.Context, s Store, name string, o MapDiskOptions, visit func(block.Extent) error) error {
	dev, _, err := OpenDisk(ctx, s, name, DiskOptions{ReadOnly: true, NoChain: o.Layer})
	if err != nil {
		return err
	}
	err = mapDevice(ctx, dev, o, visit)
	return errors.Join(opError("map disk", s.Location().Join(name), err), dev.Close())
}

func mapDevice(ctx context.Context, dev block.Device, o MapDiskOptions, visit func(block.Extent) error) error {
	size := dev.Size()
	if o.Length < 0 || o.Offset < 0 || o.Offset > size {
		return fmt.Errorf("offset %d, length %d, virtual size %d: %w", o.Offset, o.Length, size, block.ErrOutOfRange)
	}
	n := size - o.Offset
	if o.Length > 0 {
		n = min(n, o.Length)
	}
	m := block.NewMerger(visit) // a file's own extents may come in pieces
	err := dev.Extents(ctx, o.Offset, n, func(e block.Extent) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return m.Add(e)
	})
	if err != nil {
		return err
	}
	return m.Flush()
}

// extentStream is a device's extents up to an end, asked for in order: where a
// device is shorter, it has zeroes. Not for concurrent use.
type extentStream struct {
	size int64 // of what the device itself tells
	end  int64
	next func() (block.Extent, error, bool)
	stop func() // to be called at last
	cur  block.Extent
}

func newExtentStream(ctx context.Context, dev block.Device, end int64) *extentStream {
	s := &extentStream{size: min(dev.Size(), end), end: end}
	s.next, s.stop = iter.Pull2(extents(ctx, dev, s.size))
	return s
}

// at gives the extent that covers an offset below the end, from there on.
// Offsets must not fall.
func (s *extentStream) at(off int64) (block.Extent, error) {
	if off >= s.size {
		return block.Extent{Offset: off, Length: s.end - off, State: block.Zero}, nil
	}
	for s.cur.Offset+s.cur.Length <= off {
		e, err, ok := s.next()
		if err == nil && !ok {
			err = fmt.Errorf("extents end at %d of %d: %w", s.cur.Offset+s.cur.Length, s.size, io.ErrUnexpectedEOF)
		}
		if err != nil {
			return block.Extent{}, err
		}
		s.cur = e
	}
	return block.Extent{Offset: off, Length: s.cur.Offset + s.cur.Length - off, State: s.cur.State}, nil
}

// A stream asks for the extents of a window at a time, so that the first come
// soon. Windows grow while there is no data in them.
const leastWindow, mostWindow = 1 << 30, 1 << 40

// errStopped ends a walk whose user has enough.
var errStopped = errors.New("stopped")

// extents yields the first size bytes' extents, at last perhaps an error.
func extents(ctx context.Context, dev block.Device, size int64) iter.Seq2[block.Extent, error] {
	return func(yield func(block.Extent, error) bool) {
		stopped, data := false, false
		visit := func(e block.Extent) error {
			data = data || e.State == block.Data
			if stopped = !yield(e, nil); stopped {
				return errStopped
			}
			return nil
		}
		window := int64(leastWindow)
		for off := int64(0); off < size; {
			n := min(window, size-off)
			data = false
			if err := mapDevice(ctx, dev, MapDiskOptions{Offset: off, Length: n}, visit); stopped {
				return
			} else if err != nil {
				yield(block.Extent{}, err)
				return
			}
			off += n
			if window = min(2*window, mostWindow); data {
				window = leastWindow
			}
		}
	}
}
