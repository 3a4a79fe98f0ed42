package smbstore

import (
	"context"
	"errors"

	"lunless/smbstore/block"
	"lunless/smbstore/vhd"
	"lunless/smbstore/vhdx"
)

// ErrTailInUse: a disk cannot shrink to a size, because it holds data past it. The
// error is a *vhdx.TailInUseError, whatever the format.
var ErrTailInUse = vhdx.ErrTailInUse

// ResizeOptions describe a change of a disk's virtual size.
type ResizeOptions struct {
	Size     int64 // bytes
	Force    bool  // even if other disks have it as their parent
	Convert  ConvertOptions
	Progress func(ConvertProgress) // VHD: of the copy; may be nil
}

// ResizeDisk changes a disk's virtual size: up, reading as zeroes, or down where
// there is no data behind the new end (ErrTailInUse, with the first offset that is in
// use). A VHDX and a raw disk are changed in place; a VHD gets a new image, which
// takes its place when it is whole. Returns the size it has then: sizes are rounded
// up as in CreateDisk. Errors: *ChildrenError.
func ResizeDisk(ctx context.Context, s Store, name string, o ResizeOptions) (int64, error) {
	layers, devs, err := openChanged(ctx, s, name, o.Force)
	if err != nil {
		return 0, err
	}
	size, err := resize(ctx, layers, devs, o)
	return size, opError("resize", layers[0].at, LeadFull(err))
}

// resize closes the stack.
func resize(ctx context.Context, layers []*layerFile, devs []block.Device, o ResizeOptions) (int64, error) {
	switch d := devs[0].(type) {
	case *vhdx.Disk:
		size := VHDXSize(o.Size, d.Geometry().LogicalSectorSize)
		err := d.Resize(ctx, size)
		return size, errors.Join(err, d.Close())
	case *vhd.Disk:
		size := VHDSize(o.Size)
		if err := tailFree(ctx, d, size); err != nil {
			return 0, errors.Join(err, d.Close())
		}
		return size, remakeDisk(ctx, layers, devs, size, o.Convert, o.Progress)
	}
	err := tailFree(ctx, devs[0], o.Size)
	if err == nil {
		err = layers[0].file.Truncate(o.Size)
	}
	return o.Size, errors.Join(err, devs[0].Close())
}

// tailFree is a *vhdx.TailInUseError if a device has data from an offset on.
func tailFree(ctx context.Context, dev block.Device, from int64) error {
	if from >= dev.Size() {
		return nil
	}
	buf := make([]byte, 1<<20)
	return dev.Extents(ctx, from, dev.Size()-from, func(e block.Extent) error {
		if e.State != block.Data {
			return nil
		}
		for off, end := e.Offset, e.Offset+e.Length; off < end; off += int64(len(buf)) {
			p := buf[:min(int64(len(buf)), end-off)]
			if err := dev.ReadAt(ctx, p, off); err != nil {
				return err
			}
			for i, b := range p {
				if b != 0 {
					at := off + int64(i)
					return &vhdx.TailInUseError{Size: from, Offset: max(from, at-at%4096)}
				}
			}
		}
		return nil
	})
}

// openChanged opens a disk whose size or layout is to change: for writing, and
// alone. Unless force is set, a disk with children is refused.
func openChanged(ctx context.Context, s Store, name string, force bool) ([]*layerFile, []block.Device, error) {
	leaf, err := openLayer(s, name, ReadWrite|DenyWrite)
	if err != nil {
		return nil, nil, err
	}
	if !force && leaf.info.Format != Raw {
		if err := refuseChildren(ctx, leaf); err != nil {
			return nil, nil, errors.Join(err, leaf.close())
		}
	}
	layers, err := walkChain(ctx, leaf, Read|DenyWrite)
	if err != nil {
		return nil, nil, errors.Join(err, closeLayers(layers))
	}
	devs, err := openStack(layers, func(i int) imageOptions {
		// A VHD is only read: another image takes its place.
		return imageOptions{readOnly: i > 0 || layers[i].info.Format == VHD}
	})
	return layers, devs, err
}
