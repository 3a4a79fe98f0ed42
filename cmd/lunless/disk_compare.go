package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"lunless/smbstore"
)

func diskCompare() *cobra.Command {
	c := &cobra.Command{Use: "compare A B", Short: "Tell whether two disks have the same content", Args: takes(2),
		Long: `Compares what two virtual disks hold, whatever their formats and wherever they
are. What neither has data for is not read. If one is larger, the rest of it must
be zero. The first difference ends it; its offset is printed. Nothing is changed.

different_bytes of --json counts all differences only with --all; without, those
within 1 MiB of the first.

Exit status: 0 identical, 1 different or failed.`,
		Example: `  lunless disk compare image.raw smb://hv@fs1/vms/d.vhdx
  lunless disk compare old.vhd new.vhdx --strict
  lunless disk compare a.vhdx b.vhdx --all --json`}
	var o smbstore.CompareDisksOptions
	c.Flags().BoolVar(&o.Strict, "strict", false, "disks of different virtual sizes are different")
	c.Flags().BoolVar(&o.All, "all", false, "go on after the first difference and count all bytes that differ")
	c.Flags().IntVar(&o.Parallel, "parallel", 0, "requests in flight (default 16)")
	store := storeFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if o.Parallel < 0 || o.Parallel > 256 {
			return usageError{fmt.Errorf("--parallel %d: want 1 to 256", o.Parallel)}
		}
		o.AOptions, o.BOptions = *store, *store
		for i, to := range []*smbstore.Location{&o.A, &o.B} {
			l, err := smbstore.ParseLocation(args[i])
			if err != nil {
				return usageError{err}
			}
			if l.IsRoot() {
				return usageError{fmt.Errorf("%s is a folder, a disk's file is wanted", l)}
			}
			*to = l
		}
		found, err := compareWithProgress(c, o)
		if err != nil {
			return err
		}
		err = show(c, found, func(w io.Writer) { writeComparison(w, args[0], args[1], found, o.All) })
		if err == nil && !found.Identical {
			err = errReported
		}
		return err
	}
	return c
}

// compareWithProgress has the bar gone before anything is printed.
func compareWithProgress(c *cobra.Command, o smbstore.CompareDisksOptions) (smbstore.DiskComparison, error) {
	bar := newProgress("comparing "+o.A.Base(), size)
	defer bar.done()
	o.Progress = func(p smbstore.CompareProgress) { bar.set(p.Done, p.Total) }
	return smbstore.CompareDisks(c.Context(), o)
}

func writeComparison(w io.Writer, a, b string, found smbstore.DiskComparison, all bool) {
	if found.Identical {
		fmt.Fprintf(w, "%s and %s are identical: %s compared, %s without data\n", a, b, size(found.Compared), size(found.Skipped))
		return
	}
	fmt.Fprintf(w, "%s and %s differ: first at offset %d (%#x)", a, b, *found.FirstDifference, *found.FirstDifference)
	if all {
		fmt.Fprintf(w, ", %d bytes in all", found.DifferentBytes)
	}
	fmt.Fprintln(w)
}
