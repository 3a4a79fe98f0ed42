package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"lunless/smbstore"
)

func diskMerge() *cobra.Command {
	c := &cobra.Command{Use: "merge CHILD", Short: "Copy a differencing disk into its parent", Args: takes(1),
		Long: `Copies what a differencing disk holds into its parent, which then reads as the
disk did, and removes the disk's file. With --into it goes, with all layers
between, into a disk further up. Nobody else may have the chain open.

Disks that were made over the merged one are named by --child: they get the parent
as theirs. The merge is refused while there are others in the folder, or in the
VM's home, which need the disk or its parent as they are; it names them. A parent
that lies in neither, such as a gold image, has to be named by --into.

Interrupted, at any moment, it leaves a chain that opens as before: run it again.
Of a VHD, which has no log, a copy of the parent is changed, and takes its place.`,
		Example: `  lunless disk merge smb://hv@fs1/vms/web1/Snapshots/web1.avhdx
  lunless disk merge middle.avhdx --child leaf.avhdx
  lunless disk merge leaf.avhdx --into gold.vhdx`}
	into := c.Flags().String("into", "", "the disk to merge into, one of its parents (default its own)")
	children := c.Flags().StringArray("child", nil, "a disk over the merged one, which gets its parent (may be repeated)")
	var o smbstore.MergeOptions
	c.Flags().BoolVar(&o.Keep, "keep", false, "leave the merged file where it is")
	c.Flags().BoolVar(&o.Force, "force", false, "even if other disks need what is changed: they cannot be opened any more")
	rate := mergeFlags(c, &o.Convert)
	store := storeFlags(c)
	c.RunE = func(c *cobra.Command, args []string) (err error) {
		o.Convert.Rate = int64(*rate)
		if *into != "" {
			if o.Into, err = diskLocation(*into); err != nil {
				return err
			}
		}
		for _, child := range *children {
			l, err := diskLocation(child)
			if err != nil {
				return err
			}
			o.Children = append(o.Children, l)
		}
		return withFolder(c.Context(), args[0], store, func(s smbstore.Store, name string) error {
			r, err := withBar("merging "+name, func(p func(smbstore.ConvertProgress)) (smbstore.MergeResult, error) {
				o.Progress = p
				return smbstore.MergeDisk(c.Context(), s, name, o)
			})
			if err != nil {
				return err
			}
			return show(c, r, func(w io.Writer) { writeMerge(w, r) })
		})
	}
	return c
}

// mergeFlags adds how fast a copy runs.
func mergeFlags(c *cobra.Command, o *smbstore.ConvertOptions) *byteSize {
	rate := new(byteSize)
	c.Flags().Var(rate, "rate-limit", "bytes a second (default no limit)")
	c.Flags().IntVar(&o.Parallel, "parallel", 0, "requests in flight (default 8)")
	return rate
}

func writeMerge(w io.Writer, r smbstore.MergeResult) {
	fmt.Fprintf(w, "merged into %s: %s copied\n", r.Into, size(r.Copied))
	for _, l := range r.Relinked {
		fmt.Fprintf(w, "%s has a new parent\n", l)
	}
	for _, l := range r.Removed {
		fmt.Fprintf(w, "removed %s\n", l)
	}
}

func diskRebase() *cobra.Command {
	c := &cobra.Command{Use: "rebase CHILD", Short: "Give a differencing disk another parent", Args: takes(1),
		Long: `Gives a differencing disk another parent of the same format. Its content stays:
where the new parent differs from the old one, the disk gets what the old one has.
Interrupted, it leaves a disk that opens as before: run it again.

With --unsafe nothing is copied and the old parent is not looked for: for a parent
that was moved or renamed. It has to be the very disk the child was made for.
With --force as well it may be any: the disk's content is whatever that makes of it.`,
		Example: `  lunless disk rebase web1.avhdx --parent gold-2024.vhdx
  lunless disk rebase web1.avhdx --parent moved/gold.vhdx --unsafe`}
	parent := c.Flags().String("parent", "", "the new parent (required)")
	var o smbstore.RebaseOptions
	c.Flags().BoolVar(&o.Unsafe, "unsafe", false, "change the link alone")
	c.Flags().BoolVar(&o.Force, "force", false, "with --unsafe: even to another disk than it was made for")
	c.Flags().IntVar(&o.Convert.Parallel, "parallel", 0, "requests in flight (default 8)")
	store := storeFlags(c)
	c.RunE = func(c *cobra.Command, args []string) (err error) {
		if *parent == "" {
			return usageError{fmt.Errorf("--parent is missing")}
		}
		if o.Force && !o.Unsafe {
			return usageError{fmt.Errorf("--force is for --unsafe: without, the content is kept whatever the new parent is")}
		}
		if o.Parent, err = diskLocation(*parent); err != nil {
			return err
		}
		return withFolder(c.Context(), args[0], store, func(s smbstore.Store, name string) error {
			r, err := withBar("rebasing "+name, func(p func(smbstore.ConvertProgress)) (smbstore.RebaseResult, error) {
				o.Progress = p
				return smbstore.RebaseDisk(c.Context(), s, name, o)
			})
			if err != nil {
				return err
			}
			return show(c, r, func(w io.Writer) {
				fmt.Fprintf(w, "%s: its parent is %s now, %s copied\n", args[0], r.Parent, size(r.Copied))
			})
		})
	}
	return c
}
