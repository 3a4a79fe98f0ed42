package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"lunless/smbstore"
	"lunless/smbstore/block"
	"lunless/smbstore/vhd"
	"lunless/smbstore/vhdx"
)

func diskCreate() *cobra.Command {
	c := &cobra.Command{Use: "create LOCATION", Short: "Make an empty disk, or one over a parent", Args: takes(1),
		Long: `Makes a disk that reads as zeroes. The file must not exist.

With --parent it is a differencing disk: it reads as its parent, of the same
format, until it is written to, and holds only what differs. Its size is the
parent's, or more. Once it has a child, a disk is not to be written to any more.`,
		Example: `  lunless disk create smb://hv@fs1/vms/d.vhdx --size 64G --block-size 2M
  lunless disk create smb://hv@fs1/vms/web1.avhdx --parent smb://hv@fs1/vms/gold.vhdx`}
	var size, blockSize byteSize
	c.Flags().Var(&size, "size", "virtual size (required without --parent): 1M to 64T for a VHDX, to 2040G for a VHD")
	c.Flags().Var(&blockSize, "block-size", "unit of allocation: 1M to 256M for a VHDX (default 32M), 512K or 2M for a VHD (default 2M)")
	sector := c.Flags().Int("sector-size", 512, "logical sector size: 512 or, but for a VHD, 4096")
	format := c.Flags().String("format", "vhdx", "vhdx, vhd or raw")
	parent := c.Flags().String("parent", "", "make a differencing disk over the disk at this location")
	fixed := diskTypeFlag(c)
	store := storeFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		o := smbstore.CreateDiskOptions{Size: int64(size), BlockSize: int64(blockSize),
			Geometry: block.Geometry{LogicalSectorSize: *sector, PhysicalSectorSize: 4096}}
		if err := createKind(c, &o, *format, *parent, fixed); err != nil {
			return err
		}
		return withFolder(c.Context(), args[0], store, func(s smbstore.Store, name string) error {
			dev, err := smbstore.CreateDisk(c.Context(), s, name, o)
			if errors.Is(err, vhdx.ErrBadOptions) || errors.Is(err, vhd.ErrBadOptions) {
				return usageError{err}
			} else if err != nil {
				return err
			}
			return dev.Close()
		})
	}
	return c
}

// createKind settles format, type and parent.
func createKind(c *cobra.Command, o *smbstore.CreateDiskOptions, format, parent string, fixed func() (bool, error)) (err error) {
	if o.Format, err = smbstore.ParseFormat(format); err != nil {
		return usageError{err}
	}
	if o.Fixed, err = fixed(); err != nil {
		return err
	}
	if parent != "" {
		if c.Flags().Changed("sector-size") {
			return usageError{fmt.Errorf("--sector-size is the parent's with --parent")}
		}
		if !c.Flags().Changed("format") {
			o.Format = "" // the parent's
		}
		o.Parent, err = diskLocation(parent)
		return err
	}
	switch sector := max(o.Geometry.LogicalSectorSize, 1); {
	case o.Size == 0:
		return usageError{fmt.Errorf("--size is missing")}
	case o.Format == smbstore.Raw && o.Size%int64(sector) != 0:
		return usageError{fmt.Errorf("--size %d is no multiple of the sector size, %d", o.Size, sector)}
	}
	return nil
}

// diskLocation reads the location of a disk's file.
func diskLocation(s string) (smbstore.Location, error) {
	l, err := smbstore.ParseLocation(s)
	if err == nil && l.IsRoot() {
		err = fmt.Errorf("%s is a folder, a disk's file is wanted", l)
	}
	if err != nil {
		return l, usageError{err}
	}
	return l, nil
}
