// Package vhd reads and writes virtual hard disks of version 1, fixed, dynamic
// and differencing, as a block.Device over a block.File. It finds no parents:
// they are given to Open. The format is Microsoft's "Virtual Hard Disk Image
// Format Specification" 1.0 (2006); "Hard Disk Footer Format" and the like are
// its headings.
//
// The format has no log. What keeps a disk whole is order: a block's data and a
// new footer behind it are stable before the table refers to it, the data of a
// sector before its bit is set, and one of the two footers, at the file's end and
// its copy at the start, is valid and points to what is valid at any time.
package vhd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"lunless/smbstore/block"
)

// Errors of opening. A FormatError wraps one of them.
var (
	// ErrNotVHD: the file has no valid footer, neither at its end nor at its start.
	ErrNotVHD = errors.New("not a VHD file")
	// ErrCorrupt: a structure contradicts the format or the file.
	ErrCorrupt = errors.New("disk image is damaged")
	// ErrUnsupported: a version, type or size this package does not know.
	ErrUnsupported = errors.New("feature is not supported")
	// ErrNoParent: a differencing disk was opened without its parent, or read
	// where it would have to tell.
	ErrNoParent = errors.New("differencing disk without its parent")
)

// ErrBadOptions: a disk as described cannot be created.
var ErrBadOptions = errors.New("no such disk can be made")

// FormatError says what is wrong and where.
type FormatError struct {
	Offset int64  // in the file, bytes
	What   string // structure and cause
	Err    error  // one of the sentinels above
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("%s (file offset %#x): %v", e.What, e.Offset, e.Err)
}

// Unwrap returns the sentinel.
func (e *FormatError) Unwrap() error { return e.Err }

func corrupt(off int64, format string, args ...any) error {
	return &FormatError{off, fmt.Sprintf(format, args...), ErrCorrupt}
}

func unsupported(off int64, format string, args ...any) error {
	return &FormatError{off, fmt.Sprintf(format, args...), ErrUnsupported}
}

// SectorSize is that of every VHD, in bytes.
const SectorSize = 512

// Sizes in bytes, and disk types.
const (
	footerSize = 512
	headerSize = 1024

	typeFixed        = 2
	typeDynamic      = 3
	typeDifferencing = 4

	maxSize      = 64 << 40
	maxBlockSize = 256 << 20
	// maxEntries bounds the table in memory to 16 MiB: 2 TiB, which is what entries
	// of 32 bits reach, in the smallest blocks that Hyper-V makes, of 512 KiB.
	maxEntries = 1 << 22
)

var be = binary.BigEndian

// ID is a disk's unique ID, as its bytes are in the file.
type ID [16]byte

// String has the bytes in their order, as other tools print them.
func (u ID) String() string {
	return fmt.Sprintf("%X-%X-%X-%X-%X", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// MarshalText implements encoding.TextMarshaler.
func (u ID) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// footer is "Hard Disk Footer Format"; what nothing depends on is left out.
type footer struct {
	DataOffset   uint64 // of the dynamic header
	OriginalSize uint64
	CurrentSize  uint64
	Time         uint32 // of creation: seconds since 2000
	Creator      [4]byte
	Geometry     uint32 // cylinders<<16 | heads<<8 | sectors per track
	Type         uint32
	ID           ID
}

// sum is the checksum of both structures: the ones' complement of the bytes'
// sum, the checksum at [at, at+4) left out.
func sum(b []byte, at int) uint32 {
	var s uint32
	for i, c := range b {
		if i < at || i >= at+4 {
			s += uint32(c)
		}
	}
	return ^s
}

func (f *footer) encode(dst []byte) {
	dst = dst[:footerSize]
	clear(dst)
	copy(dst, "conectix")
	be.PutUint32(dst[8:], 2) // features: the reserved bit that is always set
	be.PutUint32(dst[12:], 0x10000)
	be.PutUint64(dst[16:], f.DataOffset)
	be.PutUint32(dst[24:], f.Time)
	copy(dst[28:], f.Creator[:])
	be.PutUint32(dst[32:], 0x10000) // version of the creator
	copy(dst[36:], "Wi2k")          // host: this or "Mac "
	be.PutUint64(dst[40:], f.OriginalSize)
	be.PutUint64(dst[48:], f.CurrentSize)
	be.PutUint32(dst[56:], f.Geometry)
	be.PutUint32(dst[60:], f.Type)
	copy(dst[68:], f.ID[:])
	be.PutUint32(dst[64:], sum(dst, 64))
}

// decodeFooter checks a footer that lies at off in a file.
func decodeFooter(b []byte, off int64) (footer, error) {
	var f footer
	switch {
	case len(b) < footerSize || string(b[:8]) != "conectix":
		return f, &FormatError{off, "no footer", ErrNotVHD}
	case be.Uint32(b[64:]) != sum(b[:footerSize], 64):
		return f, corrupt(off, "footer: wrong checksum")
	case be.Uint32(b[12:])>>16 != 1:
		return f, unsupported(off, "footer: version %#x", be.Uint32(b[12:]))
	}
	f = footer{
		DataOffset: be.Uint64(b[16:]), OriginalSize: be.Uint64(b[40:]), CurrentSize: be.Uint64(b[48:]), Time: be.Uint32(b[24:]),
		Creator: [4]byte(b[28:32]), Geometry: be.Uint32(b[56:]), Type: be.Uint32(b[60:]), ID: ID(b[68:84]),
	}
	switch {
	case f.Type != typeFixed && f.Type != typeDynamic && f.Type != typeDifferencing:
		return f, unsupported(off, "footer: disk type %d", f.Type)
	case f.CurrentSize == 0 || f.CurrentSize > maxSize || f.CurrentSize%SectorSize != 0:
		return f, corrupt(off, "footer: size %d", f.CurrentSize)
	case f.Type != typeFixed && (f.DataOffset > 1<<62 || f.DataOffset < footerSize):
		return f, corrupt(off, "footer: dynamic header at %#x", f.DataOffset)
	}
	return f, nil
}

// setDataOffset changes an encoded footer.
func setDataOffset(b []byte, off int64) {
	be.PutUint64(b[16:], uint64(off))
	be.PutUint32(b[64:], sum(b[:footerSize], 64))
}

// header is "Dynamic Disk Header Format"; parent.go has what it says of a parent.
type header struct {
	TableOffset uint64
	Entries     uint32
	BlockSize   uint32
}

func (h *header) encode(dst []byte) {
	dst = dst[:headerSize]
	clear(dst)
	copy(dst, "cxsparse")
	be.PutUint64(dst[8:], 1<<64-1)
	be.PutUint64(dst[16:], h.TableOffset)
	be.PutUint32(dst[24:], 0x10000)
	be.PutUint32(dst[28:], h.Entries)
	be.PutUint32(dst[32:], h.BlockSize)
	be.PutUint32(dst[36:], sum(dst, 36))
}

// decodeHeader checks the dynamic header of a disk of size bytes in a file of
// fileSize; it lies at off.
func decodeHeader(b []byte, off, size, fileSize int64) (header, error) {
	bad := func(format string, args ...any) (header, error) {
		return header{}, corrupt(off, "dynamic header: "+format, args...)
	}
	switch {
	case len(b) < headerSize || string(b[:8]) != "cxsparse":
		return bad("no signature")
	case be.Uint32(b[36:]) != sum(b[:headerSize], 36):
		return bad("wrong checksum")
	case be.Uint32(b[24:])>>16 != 1:
		return header{}, unsupported(off, "dynamic header: version %#x", be.Uint32(b[24:]))
	}
	h := header{TableOffset: be.Uint64(b[16:]), Entries: be.Uint32(b[28:]), BlockSize: be.Uint32(b[32:])}
	switch {
	case h.BlockSize < SectorSize || h.BlockSize&(h.BlockSize-1) != 0:
		return bad("block size %d", h.BlockSize)
	case h.BlockSize > maxBlockSize:
		return header{}, unsupported(off, "dynamic header: block size %d", h.BlockSize)
	}
	need := (uint64(size) + uint64(h.BlockSize) - 1) / uint64(h.BlockSize)
	switch {
	case need > maxEntries:
		return header{}, unsupported(off, "dynamic header: %d blocks", need)
	case need > uint64(h.Entries):
		return bad("%d table entries for %d blocks", h.Entries, need)
	case h.TableOffset > uint64(fileSize) || need*4 > uint64(fileSize)-h.TableOffset:
		return bad("table at %#x ends past the file", h.TableOffset)
	}
	return h, nil
}

func readFull(f io.ReaderAt, p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return corrupt(off, "file ends within %d bytes to be read", len(p))
	}
	return fmt.Errorf("read %d bytes at file offset %#x: %w", len(p), off, err)
}

func roundUp(v, unit int64) int64 { return (v + unit - 1) / unit * unit }

func isUnsupported(err error) bool { return errors.Is(err, block.ErrNotSupported) }
