package smbstore

import (
	"context"

	"lunless/smbstore/block"
)

// unowned is a device whose Close leaves it open.
type unowned struct{ block.Device }

func (unowned) Close() error { return nil }

// front is the first bytes of a device.
type front struct {
	block.Device
	size int64
}

func (f front) Size() int64 { return f.size }

// layerFront is the first bytes of a layer.
type layerFront struct {
	block.Layered
	size int64
}

func (f layerFront) Size() int64 { return f.size }

// padded is a device that reads as zeroes past its end, up to a size.
type padded struct {
	block.Device
	size int64
}

func (p padded) Size() int64 { return p.size }

func (p padded) ReadAt(ctx context.Context, b []byte, off int64) error {
	have := max(0, min(int64(len(b)), p.Device.Size()-off))
	clear(b[have:])
	if have == 0 {
		return nil
	}
	return p.Device.ReadAt(ctx, b[:have], off)
}

func (p padded) Extents(ctx context.Context, off, n int64, visit func(block.Extent) error) error {
	have := max(0, min(n, p.Device.Size()-off))
	m := block.NewMerger(visit)
	if have > 0 {
		if err := p.Device.Extents(ctx, off, have, m.Add); err != nil {
			return err
		}
	}
	if err := m.Add(block.Extent{Offset: off + have, Length: n - have, State: block.Unallocated}); err != nil {
		return err
	}
	return m.Flush()
}
