package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"lunless/smbstore"
	"lunless/smbstore/block"
	"lunless/smbstore/vhd"
	"lunless/smbstore/vhdx"
)

func newDisk() *cobra.Command {
	return group("disk", "Make, examine and convert virtual disks",
		`Works on virtual disks at any location. Formats are raw, vhd and vhdx.
A disk's format is told by its content, a new one's by --format or its name.`,
		`  lunless disk create smb://hv@fs1/vms/d.vhdx --size 64G
  lunless disk info d.vhdx --json
  lunless disk check smb://hv@fs1/vms/d.vhdx
  lunless disk convert image.raw smb://hv@fs1/vms/d.vhdx`,
		diskCreate(), diskInfo(), diskCheck(), diskConvert(), diskCompare(), diskMap())
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

func diskCreate() *cobra.Command {
	c := &cobra.Command{Use: "create LOCATION", Short: "Make an empty disk", Args: takes(1),
		Long:    "Makes a disk that reads as zeroes. The file must not exist.",
		Example: "  lunless disk create smb://hv@fs1/vms/d.vhdx --size 64G --block-size 2M"}
	var size, blockSize byteSize
	c.Flags().Var(&size, "size", "virtual size (required): 1M to 64T for a VHDX, to 2040G for a VHD")
	c.Flags().Var(&blockSize, "block-size", "unit of allocation: 1M to 256M for a VHDX (default 32M), 512K or 2M for a VHD (default 2M)")
	sector := c.Flags().Int("sector-size", 512, "logical sector size: 512 or, but for a VHD, 4096")
	format := c.Flags().String("format", "vhdx", "vhdx, vhd or raw")
	fixed := diskTypeFlag(c)
	store := storeFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		f, err := smbstore.ParseFormat(*format)
		if err != nil {
			return usageError{err}
		}
		isFixed, err := fixed()
		if err != nil {
			return err
		}
		if size == 0 {
			return usageError{fmt.Errorf("--size is missing")}
		}
		if f == smbstore.Raw && int64(size)%int64(max(*sector, 1)) != 0 {
			return usageError{fmt.Errorf("--size %d is no multiple of the sector size, %d", size, *sector)}
		}
		return withFolder(c.Context(), args[0], store, func(s smbstore.Store, name string) error {
			dev, err := smbstore.CreateDisk(c.Context(), s, name, smbstore.CreateDiskOptions{Format: f, Size: int64(size),
				Fixed: isFixed, BlockSize: int64(blockSize), Geometry: block.Geometry{LogicalSectorSize: *sector, PhysicalSectorSize: 4096}})
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

func diskInfo() *cobra.Command {
	c := &cobra.Command{Use: "info LOCATION", Short: "Say what a disk is", Args: takes(1),
		Long:    "Reads a disk's structures and changes nothing, not even a log that waits for its replay.",
		Example: "  lunless disk info smb://hv@fs1/vms/d.vhdx --json"}
	store := storeFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return withFolder(c.Context(), args[0], store, func(s smbstore.Store, name string) error {
			info, err := smbstore.InspectDisk(c.Context(), s, name)
			if err != nil {
				return err
			}
			return show(c, info, func(w io.Writer) { writeDiskInfo(w, info) })
		})
	}
	return c
}

func writeDiskInfo(w io.Writer, i smbstore.DiskInfo) {
	fmt.Fprintf(w, "format         %s, %s\nvirtual size   %s (%d bytes)\nfile size      %s\n", i.Format, i.Type, size(i.VirtualSize), i.VirtualSize, size(i.FileSize))
	if i.BlockSize > 0 {
		fmt.Fprintf(w, "block size     %s\n", size(i.BlockSize))
	}
	fmt.Fprintf(w, "sector size    %d logical, %d physical\n", i.LogicalSectorSize, i.PhysicalSectorSize)
	if i.ID != "" {
		fmt.Fprintf(w, "disk id        %s\n", i.ID)
	}
	if i.LogInUse {
		fmt.Fprintln(w, "log            in use: the disk is open, or was not closed in order; opening it replays the log")
	}
}

func diskCheck() *cobra.Command {
	c := &cobra.Command{Use: "check LOCATION", Short: "Look for damage in a disk", Args: takes(1),
		Long: `Examines headers, regions, metadata, log and block allocation table, and names
each finding with its offset in the file. Nothing is changed.

Exit status: 0 clean, 1 damaged.`,
		Example: "  lunless disk check smb://hv@fs1/vms/d.vhdx"}
	repair := c.Flags().Bool("repair", false, "mend what can be mended (not supported yet: refused)")
	store := storeFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if *repair {
			return usageError{fmt.Errorf("--repair is not supported yet: `lunless disk check` tells what is wrong; restore the disk, or convert what can be read")}
		}
		return withFolder(c.Context(), args[0], store, func(s smbstore.Store, name string) error {
			format, report, err := smbstore.CheckDisk(c.Context(), s, name)
			if err != nil {
				return err
			}
			if report.Findings == nil {
				report.Findings = []vhdx.Finding{} // JSON: [], not null
			}
			if err := show(c, report, func(w io.Writer) { writeDiskReport(w, args[0], format, report) }); err != nil {
				return err
			}
			if !report.Clean() {
				return errReported
			}
			return nil
		})
	}
	return c
}

func writeDiskReport(w io.Writer, location string, format smbstore.Format, r vhdx.Report) {
	for _, f := range r.Findings {
		fmt.Fprintf(w, "%s: %s at offset %#x: %s\n", location, f.Severity, f.Offset, f.What)
	}
	if r.More > 0 {
		fmt.Fprintf(w, "%s: and %d more\n", location, r.More)
	}
	switch {
	case !r.Clean():
		fmt.Fprintf(w, "%s: damaged\n", location)
	case format == smbstore.Raw:
		fmt.Fprintf(w, "%s: clean (%s has no structure to check)\n", location, format)
	default:
		fmt.Fprintf(w, "%s: clean, %d blocks allocated, %s unused in the file\n", location, r.Allocated, size(r.Leaked))
	}
}

func diskConvert() *cobra.Command {
	c := &cobra.Command{Use: "convert SOURCE DESTINATION", Short: "Copy a disk into another format", Args: takes(2),
		Long: `Makes a new disk with the content of another. What is unallocated or zero is not
copied. The destination must not exist; it appears under its name only when it
is whole and on stable storage, so an interrupted run leaves none.`,
		Example: `  lunless disk convert image.raw smb://hv@fs1/vms/d.vhdx
  lunless disk convert old.vhd new.vhdx --type fixed
  lunless disk convert d.vhdx d.img --format raw`}
	format := c.Flags().String("format", "", "raw, vhd or vhdx (default by the destination's name)")
	sourceFormat := c.Flags().String("source-format", "", "raw, vhd or vhdx (default by the source's content)")
	fixed := diskTypeFlag(c)
	var blockSize, rate byteSize
	c.Flags().Var(&blockSize, "block-size", "unit of allocation (default 32M for a VHDX, 2M for a VHD)")
	c.Flags().Var(&rate, "rate-limit", "bytes a second (default no limit)")
	parallel := c.Flags().Int("parallel", 0, "requests in flight (default 8)")
	store := storeFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		o := smbstore.ConvertDiskOptions{SourceOptions: *store, DestinationOptions: *store, BlockSize: int64(blockSize),
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
