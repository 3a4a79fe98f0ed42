package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"lunless/bench"
	"lunless/smbstore"
)

func benchFill() *cobra.Command {
	c := &cobra.Command{Use: "fill", Short: "Time a fixed pattern of writes into a new disk", Args: takes(0),
		Long: `Makes a disk, writes to it a fixed number of times, each a step behind the last,
flushes, and tells how long that took: what growing a disk costs. The target must
not exist; it is removed in the end.`,
		Example: `  lunless bench fill --target d.vhdx --size 64G --block-size 2M --count 10000 --request 4K --step 2101248 --flush-every 64
  lunless bench fill --target smb://hv@fs1/vms/d.vhdx --size 4G --count 4096 --request 1M`}
	target := c.Flags().String("target", "", "location of the disk (required)")
	format := c.Flags().String("format", "vhdx", "raw, vhd or vhdx")
	fixed := diskTypeFlag(c)
	var f bench.Fill
	var size, blockSize, step byteSize
	request := byteSize(1 << 20)
	c.Flags().Var(&size, "size", "virtual size (required)")
	c.Flags().Var(&blockSize, "block-size", "VHD, VHDX: unit of allocation (default the format's)")
	c.Flags().IntVar(&f.Count, "count", 1024, "writes")
	c.Flags().Var(&request, "request", "bytes of one write")
	c.Flags().Var(&step, "step", "bytes from the start of one write to the next (default --request)")
	c.Flags().IntVar(&f.Depth, "depth", 64, "writes in flight")
	c.Flags().IntVar(&f.FlushEvery, "flush-every", 0, "flush after so many writes, which are waited for first (default at the end alone)")
	keep := c.Flags().Bool("keep", false, "leave the disk")
	store := storeFlags(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		disk := smbstore.CreateDiskOptions{Size: int64(size), BlockSize: int64(blockSize)}
		var err error
		if disk.Fixed, err = fixed(); err != nil {
			return err
		}
		if disk.Format, err = smbstore.ParseFormat(*format); err != nil {
			return usageError{err}
		}
		if *target == "" || size == 0 {
			return usageError{fmt.Errorf("--target and --size are both needed")}
		}
		l, err := smbstore.ParseLocation(*target)
		if err != nil {
			return usageError{err}
		}
		f.Request, f.Step = int(request), int64(step)
		r, err := bench.FillDisk(c.Context(), l, *store, disk, f, *keep)
		if err != nil {
			return err
		}
		return show(c, r, func(w io.Writer) { r.WriteText(w) })
	}
	return c
}
