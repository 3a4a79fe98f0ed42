package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"lunless/smbstore"
	"lunless/smbstore/block"
)

func diskMap() *cobra.Command {
	c := &cobra.Command{Use: "map LOCATION", Short: "Say where a disk has data", Args: takes(1),
		Long: `Prints the virtual disk's extents, in bytes: data, zero (reads as zeroes) and
unallocated (never written, reads as zeroes). They are printed as they are found,
with --json as an array. Data is not read, and nothing is changed.

A differencing disk is mapped with its parents; with --layer alone: unallocated
then is what its parents tell.`,
		Example: `  lunless disk map smb://hv@fs1/vms/d.vhdx
  lunless disk map d.vhdx --offset 1G --length 512M --json
  lunless disk map --layer d.avhdx`}
	var offset, length byteSize
	c.Flags().Var(&offset, "offset", "begin there (default 0)")
	c.Flags().Var(&length, "length", "end after so much (default at the disk's end)")
	layer := c.Flags().Bool("layer", false, "a differencing disk's own image alone")
	store := storeFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if c.Flags().Changed("length") && length == 0 {
			return usageError{fmt.Errorf("--length 0 leaves nothing to map")}
		}
		return withFolder(c.Context(), args[0], store, func(s smbstore.Store, name string) error {
			w := newExtentWriter(c.OutOrStdout(), wantJSON(c))
			err := smbstore.MapDisk(c.Context(), s, name, smbstore.MapDiskOptions{Offset: int64(offset), Length: int64(length), Layer: *layer}, w.add)
			if err != nil {
				return errors.Join(err, w.out.Flush())
			}
			return w.end()
		})
	}
	return c
}

var extentStates = map[block.ExtentState]string{block.Data: "data", block.Zero: "zero", block.Unallocated: "unallocated"}

// extentWriter prints extents as they come, as a table or as a JSON array. Of a
// walk that fails, what it found is printed, and the array stays open.
type extentWriter struct {
	out  *bufio.Writer
	json bool
	any  bool // an extent was printed
	line []byte
}

func newExtentWriter(w io.Writer, json bool) *extentWriter {
	return &extentWriter{out: bufio.NewWriterSize(w, 64<<10), json: json}
}

func (w *extentWriter) add(e block.Extent) error {
	b := w.line[:0]
	if w.json {
		if b = append(b, ",\n"...); !w.any {
			b = append(b[:0], "[\n"...)
		}
		b = append(b, `  {"offset":`...)
		b = strconv.AppendInt(b, e.Offset, 10)
		b = append(b, `,"length":`...)
		b = strconv.AppendInt(b, e.Length, 10)
		b = append(b, `,"state":"`...)
		b = append(append(b, extentStates[e.State]...), `"}`...)
	} else {
		if !w.any {
			b = append(b, w.heading()...)
		}
		const column = "%-15d  %-15d  %s\n" // 64 TiB has 14 digits
		b = fmt.Appendf(b, column, e.Offset, e.Length, extentStates[e.State])
	}
	w.any, w.line = true, b
	_, err := w.out.Write(b)
	return err
}

func (w *extentWriter) heading() string {
	return fmt.Sprintf("%-15s  %-15s  %s\n", "OFFSET", "LENGTH", "STATE")
}

// end closes what was printed; a disk without extents has an empty array.
func (w *extentWriter) end() error {
	text := ""
	switch {
	case w.json && w.any:
		text = "\n]\n"
	case w.json:
		text = "[]\n"
	case !w.any:
		text = w.heading()
	}
	_, err := w.out.WriteString(text)
	return errors.Join(err, w.out.Flush())
}
