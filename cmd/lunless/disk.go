package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"lunless/smbstore"
)

func newDisk() *cobra.Command {
	return group("disk", "Make, examine, convert and change virtual disks",
		`Works on virtual disks at any location. Formats are raw, vhd and vhdx. A disk's
format is told by its content, a new one's by --format or its name. Differencing
disks are opened with all their parents.

  lunless disk      Hyper-V's PowerShell    qemu-img
  create            New-VHD                 create
  create --parent   New-VHD -ParentPath     create -b
  info              Get-VHD                 info
  info --chain      Get-VHD (ParentPath)    info --backing-chain
  check             Test-VHD                check
  check --repair                            check -r all
  convert           Convert-VHD             convert
  compare                                   compare
  export                                    (qemu-nbd)
  resize            Resize-VHD              resize
  compact           Optimize-VHD            (convert)
  merge             Merge-VHD               commit
  rebase            Set-VHD -ParentPath     rebase
  map                                       map`,
		`  lunless disk create smb://hv@fs1/vms/d.vhdx --size 64G
  lunless disk create web1.avhdx --parent gold.vhdx
  lunless disk info d.vhdx --json
  lunless disk resize smb://hv@fs1/vms/d.vhdx --size +16G
  lunless disk convert image.raw smb://hv@fs1/vms/d.vhdx`,
		diskCreate(), diskInfo(), diskCheck(), diskConvert(), diskCompare(), diskExport(), diskMap(),
		diskResize(), diskCompact(), diskMerge(), diskRebase())
}

// withFolder opens the folder of a location and calls do with the file's name.
func withFolder(ctx context.Context, location string, o *smbstore.Options, do func(s smbstore.Store, name string) error) (err error) {
	l, err := smbstore.ParseLocation(location)
	if err != nil {
		return usageError{err}
	}
	if l.IsRoot() {
		return usageError{fmt.Errorf("%s is a folder, a disk's file is wanted", l)}
	}
	s, err := smbstore.Open(ctx, l.Dir(), *o)
	if err != nil {
		return err
	}
	defer closing(&err, s)
	return do(s, l.Base())
}

// diskTypeFlag adds --type; the result tells whether it is fixed.
func diskTypeFlag(c *cobra.Command) func() (bool, error) {
	kind := c.Flags().String("type", "dynamic", "dynamic: the file grows as it is written; fixed: it has its full size at once")
	return func() (bool, error) {
		if *kind != "fixed" && *kind != "dynamic" {
			return false, usageError{fmt.Errorf("no disk type %q: there are fixed and dynamic", *kind)}
		}
		return *kind == "fixed", nil
	}
}

func diskConvert() *cobra.Command {
	c := &cobra.Command{Use: "convert SOURCE DESTINATION", Short: "Copy a disk into another format", Args: takes(2),
		Long: `Makes a new disk with the content of another. What is unallocated or zero is not
copied. The destination must not exist; it appears under its name only when it
is whole and on stable storage, so an interrupted run leaves none. A differencing
disk is read with its parents: the new disk has none.

A partition table is read by sectors, so their size stays unless --sector-size
says otherwise. A raw file does not tell it: attach the copy of a disk with
sectors of 4096 bytes as such. A VHD has 512.`,
		Example: `  lunless disk convert image.raw smb://hv@fs1/vms/d.vhdx
  lunless disk convert old.vhd new.vhdx --type fixed
  lunless disk convert d.vhdx d.img --format raw`}
	format := c.Flags().String("format", "", "raw, vhd or vhdx (default by the destination's name)")
	sourceFormat := c.Flags().String("source-format", "", "raw, vhd or vhdx (default by the source's content)")
	fixed := diskTypeFlag(c)
	var blockSize, rate byteSize
	c.Flags().Var(&blockSize, "block-size", "unit of allocation (default the source's if it is of that format, else 32M for a VHDX, 2M for a VHD)")
	sector := c.Flags().Int("sector-size", 0, "logical sector size: 512 or 4096 (default the source's)")
	c.Flags().Var(&rate, "rate-limit", "bytes a second (default no limit)")
	parallel := c.Flags().Int("parallel", 0, "requests in flight (default 8)")
	store := storeFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if *sector != 0 && *sector != 512 && *sector != 4096 {
			return usageError{fmt.Errorf("--sector-size %d: want 512 or 4096", *sector)}
		}
		o := smbstore.ConvertDiskOptions{SourceOptions: *store, DestinationOptions: *store, BlockSize: int64(blockSize), SectorSize: *sector,
			Convert: smbstore.ConvertOptions{Parallel: *parallel, Rate: int64(rate)}}
		var err error
		if o.Fixed, err = fixed(); err != nil {
			return err
		}
		for _, f := range []struct {
			text string
			to   *smbstore.Format
		}{{*format, &o.Format}, {*sourceFormat, &o.SourceFormat}} {
			if f.text != "" {
				if *f.to, err = smbstore.ParseFormat(f.text); err != nil {
					return usageError{err}
				}
			}
		}
		if o.Source, err = smbstore.ParseLocation(args[0]); err != nil {
			return usageError{err}
		}
		if o.Destination, err = smbstore.ParseLocation(args[1]); err != nil {
			return usageError{err}
		}
		bar := newProgress("converting "+o.Source.Base(), size)
		defer bar.done()
		o.Progress = func(p smbstore.ConvertProgress) { bar.set(p.Done, p.Total) }
		return smbstore.ConvertDisk(c.Context(), o)
	}
	return c
}
