package vhd

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"math/bits"
	"time"

	"lunless/smbstore/block"
)

// CreateOptions describe a new disk. Zero fields take the defaults.
type CreateOptions struct {
	Size      int64    // virtual size: a multiple of 512 up to 2040 GiB
	BlockSize int64    // dynamic: 512 KiB to 256 MiB, a power of two; default 2 MiB. Hyper-V makes 512 KiB and 2 MiB
	Fixed     bool     // all room at once
	ID        [16]byte // default random
}

const (
	creator          = "lnls"
	maxCreate        = 2040 << 30 // Hyper-V's limit
	minBlockSize     = 512 << 10
	maxBlockSize     = 256 << 20
	defaultBlockSize = 2 << 20

	headerOffset = footerSize
	tableOffset  = headerOffset + headerSize
)

func (o CreateOptions) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf(format+": %w", append(args, ErrBadOptions)...)
	}
	switch {
	case o.Size < SectorSize || o.Size > maxCreate:
		return bad("size %d is not from 512 bytes to 2040 GiB", o.Size)
	case o.Size%SectorSize != 0:
		return bad("size %d is not a multiple of 512 bytes", o.Size)
	case !o.Fixed && (o.BlockSize < minBlockSize || o.BlockSize > maxBlockSize || bits.OnesCount64(uint64(o.BlockSize)) != 1):
		return bad("block size %d is not a power of two from 512 KiB to 256 MiB", o.BlockSize)
	}
	return nil
}

// Create makes a disk in f, whose content is lost, makes it stable and opens it
// for writing. The file becomes a VHD only once all else is in place. Errors:
// ErrBadOptions, and what f returned.
func Create(f block.File, o CreateOptions) (*Disk, error) {
	if o.BlockSize == 0 {
		o.BlockSize = defaultBlockSize
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.ID == ([16]byte{}) {
		if _, err := rand.Read(o.ID[:]); err != nil {
			return nil, err
		}
		o.ID[6], o.ID[8] = o.ID[6]&0x0f|0x40, o.ID[8]&0x3f|0x80 // RFC 9562: version 4
	}
	if err := format(f, o); err != nil {
		return nil, fmt.Errorf("create disk image: %w", err)
	}
	return Open(f, OpenOptions{})
}

// format writes an empty disk.
func format(f block.File, o CreateOptions) error {
	ft := footer{
		DataOffset: 1<<64 - 1, CurrentSize: uint64(o.Size), Creator: [4]byte([]byte(creator)),
		Time: uint32(time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)) / time.Second), Geometry: geometry(o.Size), Type: typeFixed, ID: o.ID,
	}
	places := []int64{o.Size}
	if !o.Fixed {
		entries := (o.Size + o.BlockSize - 1) / o.BlockSize
		ft.Type, ft.DataOffset = typeDynamic, headerOffset
		places = []int64{tableOffset + roundUp(entries*4, SectorSize), 0}
	}
	for _, size := range []int64{0, places[0] + footerSize} { // all of it reads as zeroes
		if err := f.Truncate(size); err != nil {
			return err
		}
	}
	if !o.Fixed {
		if err := formatTable(f, o, places[0]); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	b := make([]byte, footerSize)
	ft.encode(b)
	for _, at := range places {
		if _, err := f.WriteAt(b, at); err != nil {
			return err
		}
	}
	return f.Sync()
}

// formatTable writes the dynamic header and an empty table that ends at end.
func formatTable(f block.File, o CreateOptions, end int64) error {
	h := header{TableOffset: tableOffset, Entries: uint32((o.Size + o.BlockSize - 1) / o.BlockSize), BlockSize: uint32(o.BlockSize)}
	b := make([]byte, headerSize)
	h.encode(b)
	if _, err := f.WriteAt(b, headerOffset); err != nil {
		return err
	}
	ones := bytes.Repeat([]byte{0xff}, int(min(end-tableOffset, 1<<20)))
	for at := int64(tableOffset); at < end; {
		n := min(int64(len(ones)), end-at)
		if _, err := f.WriteAt(ones[:n], at); err != nil {
			return err
		}
		at += n
	}
	return nil
}

// maxGeometry is the largest geometry there is. Where it stands, every reader
// goes by CurrentSize.
const maxGeometry = 65535<<16 | 16<<8 | 255

// geometry returns cylinders, heads and sectors per track by the rule of "CHS
// Calculation". It rounds down: readers of old that go by the geometry would
// lose the disk's end. So a size that it does not meet exactly gets the largest.
func geometry(size int64) uint32 {
	total := min(size/SectorSize, 65535*16*255)
	c, h, s := chs(total)
	if c*h*s*SectorSize != size {
		return maxGeometry
	}
	return uint32(c<<16 | h<<8 | s)
}

// chs is the calculation itself, on at most 65535*16*255 sectors.
func chs(total int64) (cylinders, heads, sectors int64) {
	tracks := int64(0)
	if total >= 65535*16*63 {
		sectors, heads, tracks = 255, 16, total/255
		return tracks / heads, heads, sectors
	}
	sectors, tracks = 17, total/17
	heads = max(4, (tracks+1023)/1024)
	if tracks >= heads*1024 || heads > 16 {
		sectors, heads, tracks = 31, 16, total/31
	}
	if tracks >= heads*1024 {
		sectors, heads, tracks = 63, 16, total/63
	}
	return tracks / heads, heads, sectors
}
