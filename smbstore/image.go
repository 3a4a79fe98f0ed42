package smbstore

import (
	"fmt"
	"strings"

	"lunless/smbstore/block"
	"lunless/smbstore/vhd"
	"lunless/smbstore/vhdx"
)

// imageInfo is what a chain needs to know of one of its images.
type imageInfo struct {
	Format      Format
	VirtualSize int64
	Identity    identity    // what a child knows it by; zero for raw
	Parent      *parentLink // nil: not a differencing disk
}

// identity is what a child knows its parent by, as it lies in the files: a
// VHDX's DataWriteGuid, a VHD's unique ID.
type identity [16]byte

func (f Format) identityText(id identity) string {
	if f == VHD {
		return vhd.ID(id).String()
	}
	return vhdx.GUID(id).String()
}

// parentLink is a differencing disk's word on its parent.
type parentLink struct {
	parentPaths
	Identities []identity // the parent has one of them
	Modified   uint32     // VHD: when its file was last changed, as vhdTime tells it; a hint
}

// admits tells whether an image is the one that the link means, apart from
// where it lies.
func (l *parentLink) admits(child, parent imageInfo) error {
	if parent.Format != child.Format {
		return fmt.Errorf("%w: it is %s, and the parent of a %s is %s too", ErrFormat, parent.Format, child.Format, child.Format)
	}
	var want []string
	for _, id := range l.Identities {
		if id == parent.Identity {
			return nil
		}
		want = append(want, child.Format.identityText(id))
	}
	return fmt.Errorf("%w: its identity is %s, the child names %s", ErrParentChanged,
		child.Format.identityText(parent.Identity), strings.Join(want, " or "))
}

// examine reads what an image says of itself and changes nothing.
func examine(f block.File) (imageInfo, error) {
	format, err := DetectFormat(f)
	if err != nil {
		return imageInfo{}, err
	}
	info := imageInfo{Format: format}
	switch format {
	case VHDX:
		v, err := vhdx.Inspect(f)
		if err != nil {
			return info, err
		}
		info.VirtualSize, info.Identity, info.Parent = v.VirtualSize, identity(v.DataWriteGUID), linkOfVHDX(v.ParentLink)
	case VHD:
		v, err := vhd.Inspect(f)
		if err != nil {
			return info, err
		}
		info.VirtualSize, info.Identity, info.Parent = v.VirtualSize, identity(v.ID), linkOfVHD(v.ParentLink)
	default:
		info.VirtualSize, err = f.Size()
	}
	return info, err
}

func linkOfVHDX(l *vhdx.ParentLink) *parentLink {
	if l == nil {
		return nil
	}
	out := &parentLink{parentPaths: parentPaths{Relative: l.Relative, Volume: l.Volume, Absolute: l.Absolute}, Identities: []identity{identity(l.Linkage)}}
	if l.Linkage2 != (vhdx.GUID{}) {
		out.Identities = append(out.Identities, identity(l.Linkage2))
	}
	return out
}

func linkOfVHD(l *vhd.ParentLink) *parentLink {
	if l == nil {
		return nil
	}
	return &parentLink{parentPaths: parentPaths{Relative: l.Relative, Absolute: l.Absolute, Name: l.Name},
		Identities: []identity{identity(l.ID)}, Modified: l.Time}
}

// imageOptions say how to open one image.
type imageOptions struct {
	readOnly  bool
	parent    block.Device // of a differencing disk; owned by what is opened
	bare      bool         // without its parent
	pages     int          // metadata pages kept; 0 is the format's default
	dataWrite vhdx.GUID    // VHDX: the identity it takes with the first change; zero is a random one
}

// openImage opens a file, which it owns once it succeeded, as a disk of a format.
func openImage(f block.File, format Format, o imageOptions) (block.Device, error) {
	switch format {
	case Raw:
		return block.NewRaw(f, block.RawOptions{ReadOnly: o.readOnly})
	case VHDX:
		return vhdx.Open(f, vhdx.OpenOptions{ReadOnly: o.readOnly, Parent: o.parent, Bare: o.bare, CachePages: o.pages, DataWriteGUID: o.dataWrite})
	case VHD:
		return vhd.Open(f, vhd.OpenOptions{ReadOnly: o.readOnly, Parent: o.parent, Bare: o.bare})
	}
	return nil, fmt.Errorf("%w: %q", ErrFormat, format)
}
