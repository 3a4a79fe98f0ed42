package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

func wantJSON(c *cobra.Command) bool {
	b, err := c.Flags().GetBool("json")
	return err == nil && b
}

// show prints v as JSON if asked to, else calls text.
func show(c *cobra.Command, v any, text func(w io.Writer)) error {
	if wantJSON(c) {
		enc := json.NewEncoder(c.OutOrStdout())
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	text(c.OutOrStdout())
	return nil
}

// table prints rows in columns; the first is the heading.
func table(w io.Writer, rows [][]string) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		for i, cell := range r {
			if i > 0 {
				fmt.Fprint(tw, "\t")
			}
			fmt.Fprint(tw, cell)
		}
		fmt.Fprintln(tw)
	}
	tw.Flush()
}

// size prints bytes as people read them.
func size(n int64) string {
	const units = "KMGTP"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, u := float64(n)/1024, 0
	for v >= 1024 && u < len(units)-1 {
		v, u = v/1024, u+1
	}
	return fmt.Sprintf("%.4g %ciB", v, units[u])
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
