package smbstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"lunless/smbstore/block"
	"lunless/smbstore/vhd"
)

// ConvertDiskOptions describe a conversion from file to file.
type ConvertDiskOptions struct {
	Source, Destination               Location
	SourceOptions, DestinationOptions Options
	SourceFormat                      Format // "" is told by content
	Format                            Format // of the destination; "" is told by its name
	Fixed                             bool   // VHD and VHDX: all blocks get room at once
	BlockSize                         int64  // 0 takes the source's if it is of the same format, else the format's default
	SectorSize                        int    // logical, 512 or 4096; 0 takes the source's
	Convert                           ConvertOptions
	Progress                          func(ConvertProgress)
}

// ConvertDisk makes a new image at the destination with the content of the
// source's. It appears under its name whole and durable, or not at all: until
// then it has a name of its own beside it. Errors: ErrExist, ErrFormat.
func ConvertDisk(ctx context.Context, o ConvertDiskOptions) error {
	if o.Format == "" {
		format, err := formatOfName(o.Destination.Base())
		if err != nil {
			return err
		}
		o.Format = format
	}
	from, err := Open(ctx, o.Source.Dir(), o.SourceOptions)
	if err != nil {
		return err
	}
	defer from.Close()
	src, format, err := OpenDisk(ctx, from, o.Source.Base(), DiskOptions{ReadOnly: true, Format: o.SourceFormat})
	if err != nil {
		return err
	}
	defer src.Close()
	g, err := o.geometry(src.Geometry(), format)
	if err != nil {
		return err
	}
	to, err := o.openDestination(ctx, from)
	if err != nil {
		return err
	}
	defer to.Close()
	name := o.Destination.Base()
	free := func() error {
		_, err := to.Stat(name)
		if err == nil {
			return opError("convert to", o.Destination, ErrExist)
		}
		return ignoreMissing(err)
	}
	if err := free(); err != nil {
		return err
	}
	temp := name + buildMark + nonce()
	if err := convertTo(ctx, src, to, temp, g, o); err != nil {
		return err
	}
	err = free() // once more: the copy may have taken hours
	if err == nil {
		err = to.Rename(temp, name)
	}
	if err != nil {
		return errors.Join(err, ignoreMissing(to.Remove(temp)))
	}
	return to.SyncDir("")
}

// openDestination opens the destination's folder: within the source's session where
// that is on the same share, so that the server can copy from one to the other.
func (o ConvertDiskOptions) openDestination(ctx context.Context, from Store) (Store, error) {
	a, b := &o.SourceOptions, &o.DestinationOptions
	if !o.Source.IsLocal() && o.Source.SameServer(o.Destination) && o.Source.User == o.Destination.User &&
		a.Credentials == b.Credentials && a.CredentialsFile == b.CredentialsFile && a.RequireSigning == b.RequireSigning {
		return openNeighbour(ctx, from, o.Destination.Dir())
	}
	return Open(ctx, o.Destination.Dir(), o.DestinationOptions)
}

// geometry is the new disk's, of a source's geometry and format: OptimalIO is its
// block size, 0 for the default. Whoever reads the disk by sectors, as partition
// tables do, finds nothing if their size changes: that takes a word of the caller.
func (o ConvertDiskOptions) geometry(g block.Geometry, source Format) (block.Geometry, error) {
	if source != o.Format {
		g.OptimalIO = 0
	}
	if o.BlockSize != 0 {
		g.OptimalIO = int(o.BlockSize)
	}
	if o.SectorSize != 0 {
		g.LogicalSectorSize = o.SectorSize
	}
	if g.LogicalSectorSize != vhd.SectorSize && o.Format == VHD {
		return g, opError("convert to", o.Destination, fmt.Errorf("%w: a VHD has sectors of %d bytes, %s has %d: take vhdx, or ask for sectors of %[2]d bytes if what uses the disk does not mind",
			vhd.ErrBadOptions, vhd.SectorSize, o.Source, g.LogicalSectorSize))
	}
	return g, nil
}

const (
	localWriters = 1
	// remoteHole is how many zeroes are worth a request of their own on a share.
	remoteHole = 64 << 10
)

// convertTo makes the image under a name of its own, or leaves nothing.
func convertTo(ctx context.Context, src block.Device, to Store, temp string, g block.Geometry, o ConvertDiskOptions) error {
	dst, err := CreateDisk(ctx, to, temp, CreateDiskOptions{Format: o.Format, Size: src.Size(), Fixed: o.Fixed,
		BlockSize: int64(g.OptimalIO), Geometry: g, Flags: WriteBehind})
	if err != nil {
		return err
	}
	o.Convert.DestinationZero = true
	if o.Destination.IsLocal() {
		o.Convert.Writers = cmp.Or(o.Convert.Writers, localWriters)
	} else {
		o.Convert.LeastHole = cmp.Or(o.Convert.LeastHole, remoteHole)
		o.Convert.ServerCopy = !o.Source.IsLocal() && o.Source.SameServer(o.Destination)
	}
	err = Convert(ctx, src, dst, o.Convert, o.Progress)
	if cerr := dst.Close(); err == nil { // else the image goes, whatever closing it says
		err = LeadFull(cerr)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cannot convert %s to %s: %w", o.Source, o.Destination, err), to.Remove(temp))
	}
	return nil
}

// formatOfName tells a format by a file's extension.
func formatOfName(name string) (Format, error) {
	switch strings.ToLower(path.Ext(name)) {
	case ".vhdx", ".avhdx":
		return VHDX, nil
	case ".vhd", ".avhd":
		return VHD, nil
	case ".img", ".raw", ".bin":
		return Raw, nil
	}
	return "", fmt.Errorf("%w: the name %s does not tell it: give raw, vhd or vhdx", ErrFormat, name)
}
