package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"lunless/smbstore"
	"lunless/smbstore/block"
)

func diskCheck() *cobra.Command {
	c := &cobra.Command{Use: "check LOCATION", Short: "Look for damage in a disk", Args: takes(1),
		Long: `Examines headers, regions, metadata, log and block allocation table, and names
each finding with its offset in the file; of a differencing disk also whether all
parents are there and are what the chain was made of. Nothing is changed.

--repair mends what can be mended without guessing, names it, and says of the
rest why it was left alone. Nobody else may have the disk open.

Exit status: 0 clean, or clean after the repair, 1 damaged.`,
		Example: `  lunless disk check smb://hv@fs1/vms/d.vhdx
  lunless disk check d.vhdx --repair`}
	repair := c.Flags().Bool("repair", false, "mend what can be mended without guessing")
	store := storeFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return withFolder(c.Context(), args[0], store, func(s smbstore.Store, name string) error {
			var mended, left []block.Finding
			if *repair {
				_, r, err := smbstore.RepairDisk(c.Context(), s, name)
				if err != nil {
					return err
				}
				mended, left = r.Mended, r.Left
			}
			format, report, err := smbstore.CheckDisk(c.Context(), s, name)
			if err != nil {
				return err
			}
			report.Mended, report.Left = mended, left
			if report.Findings == nil {
				report.Findings = []block.Finding{} // JSON: [], not null
			}
			if err := show(c, &report, func(w io.Writer) { writeDiskReport(w, args[0], format, &report) }); err != nil {
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

func writeDiskReport(w io.Writer, location string, format smbstore.Format, r *smbstore.DiskReport) {
	for _, f := range r.Mended {
		fmt.Fprintf(w, "%s: mended at offset %#x: %s\n", location, f.Offset, f.What)
	}
	for _, f := range r.Left {
		fmt.Fprintf(w, "%s: left alone at offset %#x: %s\n", location, f.Offset, f.What)
	}
	for _, f := range r.Findings {
		fmt.Fprintf(w, "%s: %s at offset %#x: %s\n", location, f.Severity, f.Offset, f.What)
	}
	if r.More > 0 {
		fmt.Fprintf(w, "%s: and %d more\n", location, r.More)
	}
	if r.ChainError != "" {
		fmt.Fprintf(w, "%s: broken chain: %s\n", location, r.ChainError)
	}
	switch {
	case r.ChainError != "" && r.Report.Clean():
	case !r.Clean():
		fmt.Fprintf(w, "%s: damaged\n", location)
	case format == smbstore.Raw:
		fmt.Fprintf(w, "%s: clean (%s has no structure to check)\n", location, format)
	default:
		fmt.Fprintf(w, "%s: clean, %d blocks allocated, %s unused in the file", location, r.Allocated, size(r.Leaked))
		if n := len(r.Parents); n > 0 {
			fmt.Fprintf(w, ", %d in the chain of parents", n)
		}
		fmt.Fprintln(w)
	}
}
