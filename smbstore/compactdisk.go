package smbstore

import (
	"context"
	"errors"
	"fmt"

	"lunless/smbstore/block"
	"lunless/smbstore/vhd"
	"lunless/smbstore/vhdx"
)

// CompactOptions steer CompactDisk.
type CompactOptions struct {
	Convert  ConvertOptions        // VHD: of the copy
	Progress func(ConvertProgress) // may be nil
}

// CompactResult says what a compaction gave back, in bytes.
type CompactResult struct {
	Before int64 `json:"before"` // file size
	After  int64 `json:"after"`
}

// CompactDisk makes a dynamic or differencing disk's file as small as what it
// holds allows: blocks that are zero are given up, and the file is closed up. The
// disk's content and identity stay, so that it may have children. A VHDX is
// changed in place; a VHD gets a new image, which takes its place when it is whole.
func CompactDisk(ctx context.Context, s Store, name string, o CompactOptions) (CompactResult, error) {
	layers, devs, err := openChanged(ctx, s, name, true)
	if err != nil {
		return CompactResult{}, err
	}
	at := layers[0].at
	var r CompactResult
	if r.Before, err = layers[0].file.Size(); err != nil {
		return r, errors.Join(err, devs[0].Close())
	}
	if err := compact(ctx, layers, devs, o); err != nil {
		return r, opError("compact", at, LeadFull(err))
	}
	st, err := s.Stat(name)
	r.After = st.Size
	return r, err
}

// compact closes the stack.
func compact(ctx context.Context, layers []*layerFile, devs []block.Device, o CompactOptions) error {
	switch d := devs[0].(type) {
	case *vhdx.Disk:
		_, err := d.Compact(ctx, vhdx.CompactOptions{}, func(done, total int64) {
			if o.Progress != nil {
				o.Progress(ConvertProgress{Total: total, Done: done})
			}
		})
		return errors.Join(err, d.Close())
	case *vhd.Disk:
		if d.Info().Type == "fixed" {
			return errors.Join(fmt.Errorf("%w: a fixed disk has its full size", block.ErrNotSupported), d.Close())
		}
		return remakeDisk(ctx, layers, devs, 0, o.Convert, o.Progress)
	}
	return errors.Join(fmt.Errorf("%w: a raw disk has its full size; `lunless disk convert` copies it without its zeroes", block.ErrNotSupported), devs[0].Close())
}

// RepairDisk mends what of an image's damage can be mended without guessing, and
// returns what it found, what it mended, and what it left alone.
func RepairDisk(ctx context.Context, s Store, name string) (Format, vhdx.Report, error) {
	if err := ctx.Err(); err != nil {
		return "", vhdx.Report{}, err
	}
	f, err := s.OpenFile(name, ReadWrite|DenyWrite)
	if err != nil {
		return "", vhdx.Report{}, err
	}
	format, err := DetectFormat(f)
	var report vhdx.Report
	switch {
	case err != nil:
	case format == VHDX:
		report, err = vhdx.Repair(f)
	case format == VHD:
		var r vhd.Report
		r, err = vhd.Repair(f)
		report = reportOfVHD(r)
	}
	return format, report, errors.Join(opError("repair disk", s.Location().Join(name), err), f.Close())
}
