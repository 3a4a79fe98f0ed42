package smbstore

import (
	"context"
	"errors"

	"lunless/smbstore/block"
	"lunless/smbstore/vhd"
	"lunless/smbstore/vhdx"
)

// DiskInfo says what a disk image is. Sizes are bytes.
type DiskInfo struct {
	Format             Format  `json:"format"`
	Type               string  `json:"type"` // "fixed" or "dynamic"
	VirtualSize        int64   `json:"virtual_size"`
	BlockSize          int64   `json:"block_size"` // 0: the format has none
	LogicalSectorSize  int     `json:"logical_sector_size"`
	PhysicalSectorSize int     `json:"physical_sector_size"`
	ID                 string  `json:"id"`     // of the virtual disk, "" for raw
	Parent             *string `json:"parent"` // of a differencing disk
	FileSize           int64   `json:"file_size"`
	LogInUse           bool    `json:"log_in_use,omitempty"` // VHDX: open now, or not closed in order
}

// InspectDisk reads what an image says of itself and changes nothing.
func InspectDisk(ctx context.Context, s Store, name string) (DiskInfo, error) {
	f, err := s.OpenFile(name, Read)
	if err != nil {
		return DiskInfo{}, err
	}
	info, err := inspect(ctx, f)
	return info, errors.Join(opError("inspect disk", s.Location().Join(name), err), f.Close())
}

func inspect(ctx context.Context, f File) (DiskInfo, error) {
	if err := ctx.Err(); err != nil {
		return DiskInfo{}, err
	}
	size, err := f.Size()
	if err != nil {
		return DiskInfo{}, err
	}
	format, err := DetectFormat(f)
	if err != nil {
		return DiskInfo{}, err
	}
	info := DiskInfo{Format: format, FileSize: size}
	switch format {
	case VHDX:
		v, err := vhdx.Inspect(f)
		if err != nil {
			return DiskInfo{}, err
		}
		info.Type, info.VirtualSize, info.BlockSize = v.Type, v.VirtualSize, v.BlockSize
		info.LogicalSectorSize, info.PhysicalSectorSize = v.LogicalSectorSize, v.PhysicalSectorSize
		info.ID, info.LogInUse = v.ID.String(), v.LogInUse
	case VHD:
		v, err := vhd.Inspect(f)
		if err != nil {
			return DiskInfo{}, err
		}
		info.Type, info.VirtualSize, info.BlockSize, info.ID = v.Type, v.VirtualSize, v.BlockSize, v.ID.String()
		info.LogicalSectorSize, info.PhysicalSectorSize = 512, 512
	default:
		g := block.Geometry{LogicalSectorSize: 512, PhysicalSectorSize: 512}
		info.Type, info.VirtualSize = "fixed", size
		info.LogicalSectorSize, info.PhysicalSectorSize = g.LogicalSectorSize, g.PhysicalSectorSize
	}
	return info, nil
}

// CheckDisk examines an image without changing it. A raw image has no structure
// to be damaged: its check says so. Errors are failures to read; damage is in
// the report.
func CheckDisk(ctx context.Context, s Store, name string) (Format, vhdx.Report, error) {
	f, err := s.OpenFile(name, Read)
	if err != nil {
		return "", vhdx.Report{}, err
	}
	format, report, err := check(ctx, f)
	return format, report, errors.Join(opError("check disk", s.Location().Join(name), err), f.Close())
}

func check(ctx context.Context, f File) (Format, vhdx.Report, error) {
	if err := ctx.Err(); err != nil {
		return "", vhdx.Report{}, err
	}
	format, err := DetectFormat(f)
	if err != nil {
		return "", vhdx.Report{}, err
	}
	switch format {
	case VHDX:
		r, err := vhdx.Check(f)
		return format, r, err
	case VHD:
		r, err := vhd.Check(f)
		return format, reportOfVHD(r), err
	}
	return format, vhdx.Report{}, nil
}

// reportOfVHD is a VHD's report in the shape of a VHDX's.
func reportOfVHD(r vhd.Report) vhdx.Report {
	out := vhdx.Report{More: r.More, Allocated: r.Allocated, Leaked: r.Leaked, Info: vhdx.Info{
		Type: r.Info.Type, VirtualSize: r.Info.VirtualSize, BlockSize: r.Info.BlockSize, FileSize: r.Info.FileSize,
		LogicalSectorSize: vhd.SectorSize, PhysicalSectorSize: vhd.SectorSize, Creator: r.Info.Creator}}
	for _, f := range r.Findings {
		out.Findings = append(out.Findings, vhdx.Finding{Severity: vhdx.Severity(f.Severity), Offset: f.Offset, What: f.What})
	}
	return out
}
