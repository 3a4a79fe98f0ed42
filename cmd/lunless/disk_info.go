package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"lunless/smbstore"
)

func diskInfo() *cobra.Command {
	c := &cobra.Command{Use: "info LOCATION", Short: "Say what a disk is", Args: takes(1),
		Long: `Reads a disk's structures and changes nothing, not even a log that waits for its
replay. Of a differencing disk it tells the parent, as the disk names it and where
it is; --chain goes on to the last one, with --json as an array.`,
		Example: `  lunless disk info smb://hv@fs1/vms/d.vhdx --json
  lunless disk info web1.avhdx --chain`}
	chain := c.Flags().Bool("chain", false, "tell of all parents too")
	store := storeFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return withFolder(c.Context(), args[0], store, func(s smbstore.Store, name string) error {
			if *chain {
				images, err := smbstore.InspectChain(c.Context(), s, name)
				if err != nil {
					return err
				}
				return show(c, images, func(w io.Writer) { writeChain(w, images) })
			}
			info, err := smbstore.InspectDisk(c.Context(), s, name)
			if err != nil {
				return err
			}
			return show(c, info, func(w io.Writer) { writeDiskInfo(w, info) })
		})
	}
	return c
}

func writeChain(w io.Writer, images []smbstore.ChainImage) {
	for i, image := range images {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "image          %s\n", image.Location)
		writeDiskInfo(w, image.DiskInfo)
	}
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
	if i.Parent != nil {
		fmt.Fprintf(w, "parent         %s\n", *i.Parent)
	}
	if i.ParentLocation != nil {
		fmt.Fprintf(w, "found at       %s\n", *i.ParentLocation)
	}
	if i.ParentError != "" {
		fmt.Fprintf(w, "not found      %s\n", i.ParentError)
	}
	if i.LogInUse {
		fmt.Fprintln(w, "log            in use: the disk is open, or was not closed in order; opening it replays the log")
	}
}
