package vhdx

import (
	"fmt"
	"math/bits"

	"lunless/smbstore/block"
)

// CreateOptions describe a new disk. Zero fields take the defaults.
type CreateOptions struct {
	Size               int64 // virtual size: 1 MiB to 64 TiB, a multiple of the logical sector
	BlockSize          int64 // 1 MiB to 256 MiB, a power of two; default 32 MiB, with a parent 2 MiB
	LogicalSectorSize  int   // 512 (default) or 4096
	PhysicalSectorSize int   // 512 or 4096 (default)
	Fixed              bool  // all blocks get room at once
	ID                 GUID  // virtual disk ID; default random, or that of a *Disk that is the parent
	// Parent makes a differencing disk, with this as its parent locator.
	Parent *ParentLink
	// ParentDevice is the parent. Size and sector sizes that are not given are the
	// parent's, and so is virtual disk metadata that this package does not know. The
	// Disk owns it once Create succeeded. Without it a differencing disk is opened
	// Bare.
	ParentDevice block.Device
}

const (
	creatorName = "Lunless"
	logSize     = 1 * mib
	logStart    = 1 * mib
	metaStart   = 2 * mib
	metaSize    = 1 * mib
	batStart    = 3 * mib
)

// inherit takes from the parent what was not given.
func (o *CreateOptions) inherit() error {
	if o.Parent == nil {
		if o.ParentDevice != nil {
			return fmt.Errorf("a parent without a link to it: %w", ErrBadOptions)
		}
		return nil
	}
	if o.Fixed {
		return fmt.Errorf("a differencing disk cannot be fixed: %w", ErrBadOptions)
	}
	if o.BlockSize == 0 {
		o.BlockSize = 2 * mib
	}
	if o.ParentDevice == nil {
		return nil
	}
	g := o.ParentDevice.Geometry()
	if o.Size == 0 {
		o.Size = o.ParentDevice.Size()
	}
	if o.LogicalSectorSize == 0 {
		o.LogicalSectorSize = g.LogicalSectorSize
	}
	if o.PhysicalSectorSize == 0 {
		o.PhysicalSectorSize = g.PhysicalSectorSize
	}
	if o.LogicalSectorSize != g.LogicalSectorSize {
		return fmt.Errorf("logical sector size is %d, that of the parent %d: %w: %w",
			o.LogicalSectorSize, g.LogicalSectorSize, ErrWrongParent, ErrBadOptions)
	}
	if p := diskOf(o.ParentDevice); p != nil && o.ID == (GUID{}) {
		o.ID = p.im.params.ID // MS-VHDX 2.6.1.2: IsVirtualDisk
	}
	return nil
}

func (o CreateOptions) params() (params, error) {
	if err := o.inherit(); err != nil {
		return params{}, err
	}
	if o.BlockSize == 0 {
		o.BlockSize = 32 * mib
	}
	if o.LogicalSectorSize == 0 {
		o.LogicalSectorSize = 512
	}
	if o.PhysicalSectorSize == 0 {
		o.PhysicalSectorSize = 4096
	}
	if o.ID == (GUID{}) {
		o.ID = newGUID()
	}
	p := params{
		BlockSize: uint32(o.BlockSize), LeaveAllocated: o.Fixed, HasParent: o.Parent != nil, VirtualSize: uint64(o.Size), ID: o.ID,
		LogicalSectorSize: uint32(o.LogicalSectorSize), PhysicalSectorSize: uint32(o.PhysicalSectorSize),
	}
	bad := func(format string, args ...any) (params, error) {
		return p, fmt.Errorf(format+": %w", append(args, ErrBadOptions)...)
	}
	switch {
	case o.BlockSize < minBlockSize || o.BlockSize > maxBlockSize || bits.OnesCount64(uint64(o.BlockSize)) != 1:
		return bad("block size %d is not a power of two from 1 MiB to 256 MiB", o.BlockSize)
	case o.LogicalSectorSize != 512 && o.LogicalSectorSize != 4096:
		return bad("logical sector size %d is neither 512 nor 4096", o.LogicalSectorSize)
	case o.PhysicalSectorSize != 512 && o.PhysicalSectorSize != 4096:
		return bad("physical sector size %d is neither 512 nor 4096", o.PhysicalSectorSize)
	case o.Size < mib || o.Size > maxVirtualSize:
		return bad("size %d is not from 1 MiB to 64 TiB", o.Size)
	case o.Size%int64(o.LogicalSectorSize) != 0:
		return bad("size %d is not a multiple of the %d-byte sector", o.Size, o.LogicalSectorSize)
	}
	return p, nil
}

// Create makes a disk in f, whose content is lost, makes it stable and opens it
// for writing. The file begins as a VHDX file only once all else is in place.
// Errors: ErrBadOptions, and what f returned.
func Create(f block.File, opts CreateOptions) (*Disk, error) {
	p, err := opts.params()
	if err != nil {
		return nil, err
	}
	meta, err := opts.metadata(&p)
	if err != nil {
		return nil, err
	}
	if err := format(f, &p, meta); err != nil {
		return nil, fmt.Errorf("create disk image: %w", err)
	}
	return Open(f, OpenOptions{Parent: opts.ParentDevice, Bare: opts.Parent != nil && opts.ParentDevice == nil})
}

// metadata is what goes to the start of the metadata region.
func (o CreateOptions) metadata(p *params) ([]byte, error) {
	if o.Parent == nil {
		return p.encodeMetadata(nil, nil)
	}
	if o.Parent.Linkage2 != (GUID{}) { // MS-VHDX 2.6.2.6.3
		return nil, fmt.Errorf("parent_linkage2 in a new disk: %w", ErrBadOptions)
	}
	locator, err := (&parentLocator{Link: *o.Parent}).encode()
	if err != nil {
		return nil, err
	}
	var more []itemContent
	if d := diskOf(o.ParentDevice); d != nil {
		if more, err = d.virtualDiskItems(); err != nil {
			return nil, err
		}
	}
	return p.encodeMetadata(locator, more)
}

// diskOf finds the disk in a device that may be wrapped, nil if there is none.
func diskOf(dev block.Device) *Disk {
	for dev != nil {
		switch d := dev.(type) {
		case *Disk:
			return d
		case interface{ Unwrap() block.Device }:
			dev = d.Unwrap()
		default:
			return nil
		}
	}
	return nil
}

// virtualDiskItems returns the items of the virtual disk that are not known: a
// child has them too (MS-VHDX 2.6.1.2).
func (d *Disk) virtualDiskItems() ([]itemContent, error) {
	d.linkMu.Lock()
	defer d.linkMu.Unlock()
	var out []itemContent
	for _, it := range d.im.items.Items {
		if _, known := knownItems[it.ID]; known && it.Flags&flagIsUser == 0 || it.Flags&flagIsVirtualDisk == 0 {
			continue
		}
		data := make([]byte, it.Length)
		if err := readFull(d.f, data, int64(d.im.metadata.Offset)+int64(it.Offset)); err != nil {
			return nil, err
		}
		out = append(out, itemContent{it.ID, it.Flags, data})
	}
	return out, nil
}

func format(f block.File, p *params, meta []byte) error {
	batSize := roundUp(p.batEntries()*8, mib)
	payload := batStart + batSize
	size := payload
	if p.LeaveAllocated {
		size += p.blocks() * int64(p.BlockSize)
	}
	for _, s := range []int64{0, size} { // all of it reads as zeroes
		if err := f.Truncate(s); err != nil {
			return err
		}
	}
	if p.LeaveAllocated {
		if err := writeFixedBAT(f, p, payload); err != nil {
			return err
		}
	}
	if _, err := f.WriteAt(meta, metaStart); err != nil {
		return err
	}
	if err := writeSection(f, batSize); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	id := make([]byte, 4096)
	encodeFileID(id, creatorName)
	if _, err := f.WriteAt(id, fileIDOffset); err != nil {
		return err
	}
	return f.Sync()
}

// writeSection writes headers and region tables.
func writeSection(f block.File, batSize int64) error {
	t := regionTable{[]region{
		{guidBAT, batStart, uint32(batSize), true},
		{guidMetadata, metaStart, metaSize, true},
	}}
	table := make([]byte, regionTableSize)
	t.encode(table)
	h := header{FileWriteGUID: newGUID(), DataWriteGUID: newGUID(), Version: 1, LogLength: logSize, LogOffset: logStart}
	head := make([]byte, headerSize)
	for i := range 2 {
		h.Sequence++
		h.encode(head)
		if _, err := f.WriteAt(head, headerOffsets[i]); err != nil {
			return err
		}
		if _, err := f.WriteAt(table, regionTableOffsets[i]); err != nil {
			return err
		}
	}
	return nil
}

// writeFixedBAT gives every block its place, one after the other from payload on.
func writeFixedBAT(f block.File, p *params, payload int64) error {
	ratio := p.chunkRatio()
	buf := make([]byte, 0, mib)
	at := int64(batStart)
	for i, blk := int64(0), int64(0); i < p.batEntries(); i++ {
		e := batEntry(0) // a sector bitmap's
		if i%(ratio+1) != ratio {
			e = makeEntry(statePresent, payload+blk*int64(p.BlockSize))
			blk++
		}
		buf = le.AppendUint64(buf, uint64(e))
		if len(buf) == cap(buf) || i == p.batEntries()-1 {
			if _, err := f.WriteAt(buf, at); err != nil {
				return err
			}
			at, buf = at+int64(len(buf)), buf[:0]
		}
	}
	return nil
}
