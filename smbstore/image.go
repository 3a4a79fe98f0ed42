package smbstore

import (
	"fmt"

	"lunless/smbstore/block"
	"lunless/smbstore/vhd"
	"lunless/smbstore/vhdx"
)

// openImage opens a file as a disk of a format.
func openImage(f File, format Format, readOnly bool) (block.Device, error) {
	switch format {
	case Raw:
		return block.NewRaw(f, block.RawOptions{ReadOnly: readOnly})
	case VHDX:
		return vhdx.Open(f, vhdx.OpenOptions{ReadOnly: readOnly})
	case VHD:
		return vhd.Open(f, vhd.OpenOptions{ReadOnly: readOnly})
	}
	return nil, fmt.Errorf("%w: %q", ErrFormat, format)
}
