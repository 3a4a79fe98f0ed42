package fs

import (
	"bytes"
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// dirents reads a folder's entries from its descriptor with getdents64.
type dirents struct {
	fd   int
	buf  []byte // grown on first use
	left []byte // of buf, not parsed yet
}

const (
	direntHeader = 19 // inode 8, offset 8, record length 2, type 1; then the name
	direntBuffer = 32 << 10
)

var errDirent = errors.New("the kernel gave a malformed folder entry")

// next returns the next name and its DT_* type, without '.' and '..'; "" at the end.
func (d *dirents) next() (name string, kind byte, err error) {
	for {
		if len(d.left) == 0 {
			if err := d.fill(); err != nil || len(d.left) == 0 {
				return "", 0, err
			}
		}
		if len(d.left) < direntHeader {
			return "", 0, errDirent
		}
		size := int(binary.NativeEndian.Uint16(d.left[16:]))
		if size < direntHeader || size > len(d.left) {
			return "", 0, errDirent
		}
		record := d.left[:size]
		d.left = d.left[size:]
		raw := record[direntHeader:]
		if i := bytes.IndexByte(raw, 0); i >= 0 {
			raw = raw[:i]
		}
		if binary.NativeEndian.Uint64(record) == 0 || len(raw) == 0 || string(raw) == "." || string(raw) == ".." {
			continue // inode 0: removed
		}
		return string(raw), record[18], nil
	}
}

func (d *dirents) fill() error {
	if d.buf == nil {
		d.buf = make([]byte, direntBuffer)
	}
	var n int
	err := again(func() (err error) {
		n, err = unix.Getdents(d.fd, d.buf)
		return err
	})
	if err == unix.ENOENT { // the folder has been removed
		n, err = 0, nil
	}
	d.left = d.buf[:max(n, 0)]
	return err
}
