package smbstore

import (
	"errors"
	"fmt"
	"io"

	"lunless/smbstore/block"
)

// Format is a virtual disk's format.
type Format string

// The formats of virtual disks.
const (
	Raw  Format = "raw"
	VHD  Format = "vhd"
	VHDX Format = "vhdx"
)

func (f Format) known() bool { return f == Raw || f == VHD || f == VHDX }

// ErrFormat: a disk is of another format than expected, or of none.
var ErrFormat = errors.New("unexpected disk format")

// ParseFormat reads a format's name.
func ParseFormat(s string) (Format, error) {
	if f := Format(s); f.known() {
		return f, nil
	}
	return "", fmt.Errorf("%w: %q, want raw, vhd or vhdx", ErrFormat, s)
}

// DetectFormat tells a disk's format by its content: the file identifier of a
// VHDX (MS-VHDX 2.2.1), the footer of a VHD at the file's end, or the footer's
// copy at the start of a dynamic one. Everything else is raw.
func DetectFormat(f block.File) (Format, error) {
	size, err := f.Size()
	if err != nil {
		return "", err
	}
	starts := func(off int64, magic string) (bool, error) {
		if off < 0 || off+8 > size {
			return false, nil
		}
		b := make([]byte, 8)
		if _, err := f.ReadAt(b, off); err != nil && err != io.EOF {
			return false, err
		}
		return string(b) == magic, nil
	}
	for _, c := range []struct {
		off    int64
		magic  string
		format Format
	}{
		{0, "vhdxfile", VHDX},
		{0, "conectix", VHD},
		{size - 512, "conectix", VHD},
		{size - 511, "conectix", VHD}, // some writers of old cut the footer's last byte
	} {
		yes, err := starts(c.off, c.magic)
		if err != nil {
			return "", err
		}
		if yes {
			return c.format, nil
		}
	}
	return Raw, nil
}
