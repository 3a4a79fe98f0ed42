package smbstore

import (
	"context"
	"errors"
	"fmt"

	"lunless/smbstore/block"
	"lunless/smbstore/vhd"
	"lunless/smbstore/vhdx"
)

// DiskInfo says what a disk image is. Sizes are bytes.
type DiskInfo struct {
	Format             Format  `json:"format"`
	Type               string  `json:"type"` // "fixed", "dynamic" or "differencing"
	VirtualSize        int64   `json:"virtual_size"`
	BlockSize          int64   `json:"block_size"` // 0: the format has none
	LogicalSectorSize  int     `json:"logical_sector_size"`
	PhysicalSectorSize int     `json:"physical_sector_size"`
	ID                 string  `json:"id"`     // of the virtual disk, "" for raw
	Parent             *string `json:"parent"` // of a differencing disk: its path as the disk has it
	FileSize           int64   `json:"file_size"`
	LogInUse           bool    `json:"log_in_use,omitempty"` // VHDX: open now, or not closed in order
	// Where the parent was found, or why it was not.
	ParentLocation *Location `json:"parent_location,omitempty"`
	ParentError    string    `json:"parent_error,omitempty"`
}

// InspectDisk reads what an image says of itself, and sees whether its parent is
// there. It changes nothing.
func InspectDisk(ctx context.Context, s Store, name string) (DiskInfo, error) {
	chain, err := inspectChain(ctx, s, name, 2)
	if err != nil {
		return DiskInfo{}, err
	}
	return chain[0].DiskInfo, nil
}

// ChainImage is one image of a chain.
type ChainImage struct {
	Location Location `json:"location"`
	DiskInfo
}

// InspectChain is InspectDisk for a disk and all its parents, the disk first. A
// chain that is broken ends with an image that has a ParentError.
func InspectChain(ctx context.Context, s Store, name string) ([]ChainImage, error) {
	return inspectChain(ctx, s, name, maxDepth)
}

// inspectChain looks at no more than depth images.
func inspectChain(ctx context.Context, s Store, name string, depth int) (chain []ChainImage, err error) {
	f, err := s.OpenFile(name, Read)
	if err != nil {
		return nil, err
	}
	layers := []*layerFile{{at: s.Location().Join(name), store: s, name: name, file: f}}
	defer func() { err = errors.Join(err, closeLayers(layers)) }()
	for {
		l := layers[len(layers)-1]
		info, err := inspect(ctx, l.file)
		if err == nil {
			l.info, err = examine(l.file)
		}
		if err != nil {
			return nil, opError("inspect disk", l.at, err)
		}
		chain = append(chain, ChainImage{l.at, info})
		if l.info.Parent == nil || len(chain) == depth {
			return chain, nil
		}
		last := &chain[len(chain)-1]
		stored := l.info.Parent.asStored()
		last.Parent = &stored
		next, err := nextLayer(ctx, layers, Read)
		if err != nil {
			last.ParentError = err.Error()
			return chain, ctx.Err()
		}
		last.ParentLocation = &next.at
		layers = append(layers, next)
	}
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

// DiskReport is what a check of an image found.
type DiskReport struct {
	vhdx.Report
	// Parents are where the chain's other images lie, as far as it holds.
	Parents []Location `json:"parents,omitempty"`
	// ChainError is why the chain cannot be opened, "" if it can.
	ChainError string `json:"chain_error,omitempty"`
}

// Clean tells whether there is no damage, and no broken chain.
func (r *DiskReport) Clean() bool { return r.ChainError == "" && r.Report.Clean() }

// CheckDisk examines an image, and whether its parents are there and are what its
// chain was made of. It changes nothing. A raw image has no structure to be
// damaged: its check says so. Errors are failures to read; damage is in the report.
func CheckDisk(ctx context.Context, s Store, name string) (Format, DiskReport, error) {
	f, err := s.OpenFile(name, Read)
	if err != nil {
		return "", DiskReport{}, err
	}
	var r DiskReport
	format, report, err := check(ctx, f)
	r.Report = report
	if format == Raw && IsDiskName(name) {
		r.Findings = append(r.Findings, block.Finding{Severity: block.Damage,
			What: "neither a VHDX nor a VHD, as its name says it is: what tells the format is gone, or it is a raw disk"})
	}
	err = errors.Join(opError("check disk", s.Location().Join(name), err), f.Close())
	if err == nil && format != Raw && report.Clean() {
		err = r.chain(ctx, s, name)
	}
	return format, r, err
}

// vhdParentTime is where a VHD has the time of its parent: in the dynamic header,
// which follows the footer's copy.
const vhdParentTime = 512 + 56

// chain examines the links.
func (r *DiskReport) chain(ctx context.Context, s Store, name string) error {
	leaf, err := openLayer(s, name, Read)
	if err != nil {
		return err
	}
	layers, err := walkChain(ctx, leaf, Read)
	if err != nil {
		r.ChainError = err.Error()
	}
	for _, l := range layers[1:] {
		r.Parents = append(r.Parents, l.at)
	}
	if len(layers) > 1 && leaf.info.Format == VHD {
		st, serr := layers[1].store.Stat(layers[1].name)
		if serr == nil && vhdTime(st.ModTime) != leaf.info.Parent.Modified {
			r.Findings = append(r.Findings, block.Finding{Severity: block.Note, Offset: vhdParentTime,
				What: fmt.Sprintf("dynamic header: the parent's file was last changed at another time than is noted: a copy, or %s was written to", layers[1].at)})
		}
	}
	return errors.Join(ctx.Err(), closeLayers(layers))
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
	return vhdx.Report{CheckReport: r.CheckReport, Info: vhdx.Info{
		Type: r.Info.Type, VirtualSize: r.Info.VirtualSize, BlockSize: r.Info.BlockSize, FileSize: r.Info.FileSize,
		LogicalSectorSize: vhd.SectorSize, PhysicalSectorSize: vhd.SectorSize, Creator: r.Info.Creator}}
}
