package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"lunless/smbstore"
)

func diskCompact() *cobra.Command {
	c := &cobra.Command{Use: "compact LOCATION", Short: "Give back the room a disk does not need", Args: takes(1),
		Long: `Gives up blocks that hold nothing but zeroes or were trimmed by the guest, and
makes the file as short as the rest allows. Content and identity stay, so that a
disk with children may be compacted as well.

A VHDX is changed in place. Of a VHD a new image is made beside it, which takes
its place in one step when it is whole and on stable storage. Fixed disks and raw
ones have nothing to give back: convert them.`,
		Example: "  lunless disk compact smb://hv@fs1/vms/d.vhdx"}
	store := storeFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return withFolder(c.Context(), args[0], store, func(s smbstore.Store, name string) error {
			r, err := withBar("compacting "+name, func(p func(smbstore.ConvertProgress)) (smbstore.CompactResult, error) {
				return smbstore.CompactDisk(c.Context(), s, name, smbstore.CompactOptions{Progress: p})
			})
			if err != nil {
				return err
			}
			return show(c, r, func(w io.Writer) {
				fmt.Fprintf(w, "%s: file size %s, was %s\n", args[0], size(r.After), size(r.Before))
			})
		})
	}
	return c
}
