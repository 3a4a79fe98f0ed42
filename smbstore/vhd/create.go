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
	Size      int64 // virtual size: a multiple of 512 up to 2040 GiB; of a differencing disk by default the parent's
	BlockSize int64 // not fixed: 512 KiB to 256 MiB, a power of two; default 2 MiB. Hyper-V makes 512 KiB and 2 MiB
	Fixed     bool  // all room at once
	ID        ID    // default random
	// Parent makes a differencing disk. It goes with ParentDevice, which Create owns
	// once it succeeded, as Open.
	Parent       *ParentLink
	ParentDevice block.Device
}

const (
	creator          = "lnls"
	maxCreate        = 2040 << 30 // Hyper-V's limit
	minBlockSize     = 512 << 10
	defaultBlockSize = 2 << 20

	headerOffset = footerSize
	tableOffset  = headerOffset + headerSize
)

func (o CreateOptions) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf(format+": %w", append(args, ErrBadOptions)...)
	}
	switch {
	case (o.Parent == nil) != (o.ParentDevice == nil):
		return bad("a parent takes a link and a device")
	case o.Parent != nil && o.Fixed:
		return bad("a fixed disk has no parent")
	case o.Size < SectorSize || o.Size > maxCreate:
		return bad("size %d is not from 512 bytes to 2040 GiB", o.Size)
	case o.Size%SectorSize != 0:
		return bad("size %d is not a multiple of 512 bytes", o.Size)
	case !o.Fixed && (o.BlockSize < minBlockSize || o.BlockSize > maxBlockSize || bits.OnesCount64(uint64(o.BlockSize)) != 1):
		return bad("block size %d is not a power of two from 512 KiB to 256 MiB", o.BlockSize)
	}
	if o.Parent != nil {
		return o.Parent.check()
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
	if o.Size == 0 && o.ParentDevice != nil {
		o.Size = o.ParentDevice.Size()
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.ID == (ID{}) {
		if _, err := rand.Read(o.ID[:]); err != nil {
			return nil, err
		}
		o.ID[6], o.ID[8] = o.ID[6]&0x0f|0x40, o.ID[8]&0x3f|0x80 // RFC 9562: version 4
	}
	if err := format(f, o); err != nil {
		return nil, fmt.Errorf("create disk image: %w", err)
	}
	return Open(f, OpenOptions{Parent: o.ParentDevice})
}

// format writes an empty disk.
func format(f block.File, o CreateOptions) error {
	ft := footer{
		DataOffset: 1<<64 - 1, OriginalSize: uint64(o.Size), CurrentSize: uint64(o.Size), Creator: [4]byte([]byte(creator)),
		Time: Time(time.Now()), Geometry: geometry(o.Size), Type: typeFixed, ID: o.ID,
	}
	places := []int64{o.Size}
	var l linkData
	if !o.Fixed {
		entries := (o.Size + o.BlockSize - 1) / o.BlockSize
		ft.Type, ft.DataOffset = typeDynamic, headerOffset
		h := header{TableOffset: tableOffset, Entries: uint32(entries), BlockSize: uint32(o.BlockSize)}
		h.encode(l.header[:])
		end := tableOffset + roundUp(entries*4, SectorSize)
		if o.Parent != nil {
			ft.Type = typeDifferencing
			end = l.place(o.Parent, end)
		}
		places = []int64{end, 0}
	}
	for _, size := range []int64{0, places[0] + footerSize} { // all of it reads as zeroes
		if err := f.Truncate(size); err != nil {
			return err
		}
	}
	if !o.Fixed {
		if err := l.format(f, o); err != nil {
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

// place puts a parent into the header, its locators' data from at on, and returns
// where they end.
func (l *linkData) place(p *ParentLink, at int64) int64 {
	setParent(l.header[:], p)
	l.locators, l.data = p.data()
	return l.lay(at)
}

// format writes the dynamic header, the locators' data and an empty table.
func (l *linkData) format(f block.File, o CreateOptions) error {
	l.seal()
	if _, err := f.WriteAt(l.header[:], headerOffset); err != nil {
		return err
	}
	for i, loc := range l.locators {
		if _, err := f.WriteAt(l.data[i], int64(loc.Offset)); err != nil {
			return err
		}
	}
	end := tableOffset + roundUp((o.Size+o.BlockSize-1)/o.BlockSize*4, SectorSize)
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

// Time is a time as the format has it: seconds since 2000, of what 32 bits tell.
func Time(t time.Time) uint32 {
	s := t.Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)) / time.Second
	return uint32(max(0, min(s, 1<<32-1)))
}
