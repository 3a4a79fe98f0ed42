package smbstore

import (
	"context"
	"errors"
	"fmt"
	"io"

	"lunless/smbstore/block"
	"lunless/smbstore/vhd"
	"lunless/smbstore/vhdx"
)

// DiskOptions say how to open a disk.
type DiskOptions struct {
	ReadOnly  bool
	DenyWrite bool   // as the flag of that name
	Format    Format // "" detects it; else another one is ErrFormat
	// NoChain opens a differencing disk without its parents, for reading: what it
	// does not hold itself is Unallocated and cannot be read.
	NoChain bool
	// Fence is the owner's; the zero one is none.
	Fence Fence
}

// OpenDisk opens the disk image of that name as a device that owns the file.
// The format is told by content, unless one is given: Raw takes any file as it is.
//
// A differencing disk is opened with its whole chain. The parents are found by
// what the disks say of them, on the same share or elsewhere; they are opened for
// reading, deny others to write where their stores can, and are closed with the
// device. Parents are not to be written to, by whatever means: their children
// would no longer take them. A VHDX whose parent was found by its file name alone
// is told its new place if the disk is opened for writing (MS-VHDX 2.6.2.6.3).
// Errors: ErrNoParent, ErrParentChanged, ErrChainLoop, ErrChainDepth.
func OpenDisk(ctx context.Context, s Store, name string, o DiskOptions) (_ block.Device, _ Format, err error) {
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	s = Fenced(s, o.Fence)
	flags := ReadWrite
	if o.ReadOnly {
		flags = Read
	}
	if o.DenyWrite {
		flags |= DenyWrite
	}
	leaf, err := openLeaf(s, name, flags, o.Format)
	if err != nil {
		return nil, "", err
	}
	format := leaf.info.Format
	if leaf.info.Parent != nil && o.NoChain {
		devs, err := openStack([]*layerFile{leaf}, func(int) imageOptions { return imageOptions{readOnly: true, bare: true} })
		if err != nil {
			return nil, "", err
		}
		return devs[0], format, nil
	}
	layers, err := walkChain(ctx, leaf, Read|DenyWrite)
	if err != nil {
		return nil, "", errors.Join(err, closeLayers(layers))
	}
	devs, err := openStack(layers, func(i int) imageOptions { return imageOptions{readOnly: o.ReadOnly || i > 0} })
	if err == nil && !o.ReadOnly && len(layers) > 1 {
		err = freshenLink(ctx, devs[0], layers[0], layers[1])
	}
	if err != nil {
		return nil, "", err
	}
	return devs[0], format, nil
}

// openLeaf is openLayer with a format that is asked for.
func openLeaf(s Store, name string, flags Flags, want Format) (*layerFile, error) {
	if want != Raw {
		l, err := openLayer(s, name, flags)
		if err == nil && l.info.Format == Raw && want == "" {
			if says, _ := formatOfName(name); says == VHDX || says == VHD {
				return nil, errors.Join(opError("open disk", l.at, fmt.Errorf(
					"%w: its name says %s, but it does not begin or end as one: `lunless disk check` it and restore it, or ask for the format raw", ErrFormat, says)), l.close())
			}
		}
		if err == nil && want != "" && l.info.Format != want {
			err = errors.Join(opError("open disk", l.at, fmt.Errorf("%w: %s, want %s", ErrFormat, l.info.Format, want)), l.close())
		}
		return l, err
	}
	f, err := s.OpenFile(name, flags)
	if err != nil {
		return nil, err
	}
	return &layerFile{at: s.Location().Join(name), store: s, name: name, file: f, info: imageInfo{Format: Raw}}, nil
}

// CreateDiskOptions describe a new disk.
type CreateDiskOptions struct {
	Format    Format // "" with a Parent: the parent's
	Size      int64  // bytes; VHD and VHDX get it rounded up to what they can have. 0 with a Parent: the parent's
	Fixed     bool   // VHD and VHDX: all blocks get room at once
	BlockSize int64  // 0 takes 32 MiB for a VHDX, 2 MiB for a VHD, or the parent's
	Geometry  block.Geometry
	Flags     Flags    // WriteBehind, DenyWrite
	Parent    Location // makes a differencing disk; its sectors are the parent's
	// ID is a VHDX's virtual disk ID, what a guest knows the disk by, as it lies in
	// the file; zero makes a new one, or takes the parent's.
	ID [16]byte
}

// CreateDisk makes a disk image that must not exist yet, reading as zeroes or as
// its parent, and opens it.
func CreateDisk(ctx context.Context, s Store, name string, o CreateDiskOptions) (block.Device, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var parent *newParent
	if o.Parent != (Location{}) {
		var err error
		if parent, err = openNewParent(ctx, s, s.Location().Join(name), &o); err != nil {
			return nil, err
		}
	}
	f, err := s.OpenFile(name, ReadWrite|Create|Exclusive|o.Flags)
	if err != nil {
		return nil, errors.Join(err, parent.close())
	}
	if x, ok := f.(interface{ SetSparse() error }); ok && !o.Fixed {
		_ = x.SetSparse() // a hint: what keeps the server from it, writes will tell
	}
	dev, err := createImage(f, o, parent)
	if err != nil {
		return nil, errors.Join(opError("create disk", s.Location().Join(name), err), parent.close(), f.Close(), s.Remove(name))
	}
	if o.Fixed {
		if err := reserve(f); err != nil {
			return nil, errors.Join(opError("create disk", s.Location().Join(name), err), dev.Close(), s.Remove(name))
		}
	}
	return dev, nil
}

// reserve takes the room of a fixed disk at once where the file's store can: a
// guest must not find the store full where it has a disk of its own.
func reserve(f File) error {
	r, ok := f.(block.Reserver)
	if !ok {
		return nil
	}
	size, err := f.Size()
	if err == nil {
		err = r.Reserve(size)
	}
	if errors.Is(err, block.ErrNotSupported) {
		return nil
	}
	return err
}

func createImage(f File, o CreateDiskOptions, parent *newParent) (block.Device, error) {
	switch o.Format {
	case Raw:
		if err := f.Truncate(o.Size); err != nil {
			return nil, err
		}
		return block.NewRaw(f, block.RawOptions{Geometry: o.Geometry})
	case VHDX:
		c := vhdx.CreateOptions{
			Size: VHDXSize(o.Size, o.Geometry.LogicalSectorSize), Fixed: o.Fixed, BlockSize: o.BlockSize,
			LogicalSectorSize: o.Geometry.LogicalSectorSize, PhysicalSectorSize: o.Geometry.PhysicalSectorSize, ID: o.ID,
		}
		if parent != nil {
			c.Parent, c.ParentDevice = parent.link.vhdx(), parent.dev
		}
		return vhdx.Create(f, c)
	case VHD:
		if s := o.Geometry.LogicalSectorSize; s > vhd.SectorSize {
			return nil, fmt.Errorf("%w: a VHD has sectors of %d bytes, not %d", vhd.ErrBadOptions, vhd.SectorSize, s)
		}
		c := vhd.CreateOptions{Size: VHDSize(o.Size), Fixed: o.Fixed, BlockSize: o.BlockSize}
		if parent != nil {
			c.Parent, c.ParentDevice = parent.link.vhd(), parent.dev
		}
		return vhd.Create(f, c)
	}
	return nil, fmt.Errorf("%w: %q cannot be created here", ErrFormat, o.Format)
}

// VHDXSize rounds a size up to one that a VHDX can have: whole logical sectors
// (0 is 512 bytes), 1 MiB at least.
func VHDXSize(n int64, sector int) int64 {
	const least = 1 << 20
	if sector == 0 {
		sector = 512
	}
	if r := n % int64(sector); r != 0 {
		n += int64(sector) - r
	}
	return max(n, least)
}

// VHDSize rounds a size up to one that a VHD can have: whole sectors.
func VHDSize(n int64) int64 { return (n + vhd.SectorSize - 1) / vhd.SectorSize * vhd.SectorSize }

// ImportOptions describe an import.
type ImportOptions struct {
	Image        Location // the disk image: raw, VHD or VHDX, told by content
	ImageOptions Options  // open the image's location
	Config       Config   // CPUs, memory, notes; the disk is added to it, and the firmware that boots it unless there is one
	Format       Format   // of the VM's disk: VHDX (default, dynamic) or Raw
	Convert      ConvertOptions
	Progress     func(ConvertProgress)
	// Chosen, if not nil, is told what firmware the VM gets, and why.
	Chosen func(firmware, why string)
}

// ImportHome makes a home below a storage location whose first disk is a copy
// of an image. The home appears whole or not at all.
func ImportHome(ctx context.Context, storage Store, name string, o ImportOptions) (_ *Home, err error) {
	images, err := Open(ctx, o.Image.Dir(), o.ImageOptions)
	if err != nil {
		return nil, err
	}
	defer images.Close()
	src, _, err := OpenDisk(ctx, images, o.Image.Base(), DiskOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer src.Close()
	if o.Format == "" {
		o.Format = VHDX
	}
	look, err := LookBoot(ctx, src)
	if err != nil {
		return nil, opError("import", o.Image, err)
	}
	var why string
	o.Config.Firmware, why = look.ChooseFirmware(o.Config.Firmware)
	if o.Chosen != nil {
		o.Chosen(o.Config.Firmware, why)
	}
	return createHome(ctx, storage, name, o.Config, func(s Store, c *Config) error {
		d := Disk{Path: DisksDir + "/disk0." + string(o.Format), Format: o.Format, Controller: "scsi", Slot: 0}
		dst, err := CreateDisk(ctx, s, d.Path, CreateDiskOptions{Format: o.Format, Size: src.Size(), Geometry: src.Geometry()})
		if err != nil {
			return err
		}
		o.Convert.DestinationZero = true
		err = Convert(ctx, src, dst, o.Convert, o.Progress)
		if cerr := dst.Close(); err == nil {
			err = LeadFull(cerr)
		}
		if err != nil {
			return opError("import", o.Image, err)
		}
		c.Disks = append(c.Disks, d)
		return nil
	})
}

// CreateHomeWithDisk makes a home below a storage location whose first disk is
// an empty dynamic VHDX of size bytes. The home appears whole or not at all.
func CreateHomeWithDisk(ctx context.Context, storage Store, name string, c Config, size int64) (*Home, error) {
	return CreateHomeWith(ctx, storage, name, c, NewHome{Disks: []int64{size}})
}

// NewHome is what a home is made with.
type NewHome struct {
	Disks []int64 // virtual sizes of empty dynamic VHDX, bytes
	// Kernel and Initrd, which may be nil, are copied into the home, and Append goes
	// with them: Config.Kernel.
	Kernel, Initrd io.Reader
	Append         string
}

// maxBootFile bounds a kernel, or an initrd, in a home.
const maxBootFile = 1 << 30

// CreateHomeWith makes a home below a storage location. It appears whole or not
// at all.
func CreateHomeWith(ctx context.Context, storage Store, name string, c Config, with NewHome) (*Home, error) {
	return createHome(ctx, storage, name, c, func(s Store, c *Config) error {
		for i, size := range with.Disks {
			d := Disk{Path: fmt.Sprintf("%s/disk%d.vhdx", DisksDir, i), Format: VHDX, Controller: "scsi", Slot: i}
			dev, err := CreateDisk(ctx, s, d.Path, CreateDiskOptions{Format: VHDX, Size: size})
			if err != nil {
				return err
			}
			c.Disks = append(c.Disks, d)
			if err := dev.Close(); err != nil {
				return err
			}
		}
		if with.Kernel == nil {
			return nil
		}
		c.Kernel = &KernelBoot{Path: MachinesDir + "/kernel", Append: with.Append}
		if err := copyInto(ctx, s, c.Kernel.Path, with.Kernel); err != nil || with.Initrd == nil {
			return err
		}
		c.Kernel.Initrd = MachinesDir + "/initrd"
		return copyInto(ctx, s, c.Kernel.Initrd, with.Initrd)
	})
}

// copyInto makes a file of what is read.
func copyInto(ctx context.Context, s Store, name string, r io.Reader) error {
	f, err := s.OpenFile(name, ReadWrite|Create|Exclusive)
	if err != nil {
		return err
	}
	w := io.NewOffsetWriter(f, 0)
	n, err := io.Copy(w, io.LimitReader(r, maxBootFile+1))
	switch {
	case err == nil && n > maxBootFile:
		err = opError("copy to", s.Location().Join(name), fmt.Errorf("more than %d bytes", int64(maxBootFile)))
	case err == nil:
		err = errors.Join(f.Sync(), ctx.Err())
	}
	return errors.Join(err, f.Close())
}
