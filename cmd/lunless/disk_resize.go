package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/spf13/cobra"

	"lunless/smbstore"
	"lunless/smbstore/vhd"
	"lunless/smbstore/vhdx"
)

// newSize is a flag's value such as 64G, or +16G for so much more.
type newSize struct {
	byteSize
	more bool
}

func (n *newSize) Set(s string) error {
	rest, more := strings.CutPrefix(s, "+")
	n.more = more
	return n.byteSize.Set(rest)
}

func diskResize() *cobra.Command {
	c := &cobra.Command{Use: "resize LOCATION", Short: "Change a disk's virtual size", Args: takes(1),
		Long: `Makes a disk larger, or smaller where it has no data behind its new end: shrink
the partitions in the guest first. What is new reads as zeroes. A disk that others
have as their parent is refused.

A VHDX and a raw disk are changed in place. A VHD has no log: a new image is made
beside it, and takes its place in one step when it is whole and on stable storage.`,
		Example: `  lunless disk resize smb://hv@fs1/vms/d.vhdx --size 128G
  lunless disk resize d.vhdx --size +16G`}
	var to newSize
	c.Flags().Var(&to, "size", "new virtual size, or with a + how much more (required)")
	force := c.Flags().Bool("force", false, "even if other disks have it as their parent: they cannot be opened any more")
	store := storeFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if to.byteSize == 0 {
			return usageError{fmt.Errorf("--size is missing")}
		}
		return withFolder(c.Context(), args[0], store, func(s smbstore.Store, name string) error {
			info, err := smbstore.InspectDisk(c.Context(), s, name)
			if err != nil {
				return err
			}
			o := smbstore.ResizeOptions{Size: int64(to.byteSize), Force: *force}
			if to.more {
				if o.Size > math.MaxInt64-info.VirtualSize {
					return usageError{fmt.Errorf("--size +%d is too much", o.Size)}
				}
				o.Size += info.VirtualSize
			}
			is, err := withBar("resizing "+name, func(p func(smbstore.ConvertProgress)) (int64, error) {
				o.Progress = p
				return smbstore.ResizeDisk(c.Context(), s, name, o)
			})
			if errors.Is(err, vhdx.ErrBadOptions) || errors.Is(err, vhd.ErrBadOptions) {
				return usageError{err}
			} else if err != nil {
				return err
			}
			done := struct {
				Before int64 `json:"before"`
				Size   int64 `json:"virtual_size"`
			}{info.VirtualSize, is}
			return show(c, done, func(w io.Writer) {
				fmt.Fprintf(w, "%s: virtual size %s (%d bytes), was %s\n", args[0], size(is), is, size(info.VirtualSize))
			})
		})
	}
	return c
}

// withBar runs long work with its progress shown, and has the bar gone before
// anything is printed.
func withBar[T any](what string, work func(progress func(smbstore.ConvertProgress)) (T, error)) (T, error) {
	bar := newProgress(what, size)
	defer bar.done()
	return work(func(p smbstore.ConvertProgress) { bar.set(p.Done, p.Total) })
}
