package smbstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lunless/smbstore/block"
	"lunless/smbstore/vhd"
	"lunless/smbstore/vhdx"
)

// newLink is what is written into a child of its parent.
type newLink struct {
	paths    parentPaths
	identity identity
	next     identity  // VHDX: one that the parent may have later; zero if none
	modified time.Time // VHD: of the parent's file
}

// linkTo is the link of a child, at a place, to an opened parent.
func linkTo(child Location, parent *layerFile) (newLink, error) {
	l := newLink{paths: pathsTo(child, parent.at), identity: parent.info.Identity}
	if parent.info.Format == VHD {
		st, err := parent.store.Stat(parent.name)
		if err != nil {
			return l, err
		}
		l.modified = st.ModTime
	}
	return l, nil
}

func (l newLink) vhdx() *vhdx.ParentLink {
	return &vhdx.ParentLink{Linkage: vhdx.GUID(l.identity), Linkage2: vhdx.GUID(l.next), Relative: l.paths.Relative, Absolute: l.paths.Absolute}
}

func (l newLink) vhd() *vhd.ParentLink {
	return &vhd.ParentLink{ID: vhd.ID(l.identity), Time: vhdTime(l.modified), Name: l.paths.Name, Relative: l.paths.Relative, Absolute: l.paths.Absolute}
}

// vhdTime is a time as a VHD has it: seconds since 2000.
func vhdTime(t time.Time) uint32 {
	epoch := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	return uint32(max(0, t.Sub(epoch)/time.Second))
}

// relink makes a link the one of an open disk, and returns when it is on stable
// storage.
func relink(ctx context.Context, dev block.Device, l newLink) error {
	switch d := unwrap(dev).(type) {
	case *vhdx.Disk:
		return d.Relink(ctx, *l.vhdx())
	case *vhd.Disk:
		return d.Relink(ctx, *l.vhd())
	}
	return fmt.Errorf("a parent for %T: %w", dev, block.ErrNotSupported)
}

// freshenLink tells a VHDX where its parent lies now, if none of its paths leads
// there. A disk that this fails for is closed.
func freshenLink(ctx context.Context, dev block.Device, child, parent *layerFile) error {
	if parent.by.By != byName || child.info.Format != VHDX {
		return nil
	}
	l, err := linkTo(child.at, parent)
	if err == nil {
		if err = relink(ctx, dev, l); err == nil {
			return nil
		}
	}
	return errors.Join(opError("note the parent's place in", child.at, err), dev.Close())
}

// newParent is an opened chain that is to get a child.
type newParent struct {
	dev  block.Device
	link newLink
}

// close may be called on nil.
func (p *newParent) close() error {
	if p == nil {
		return nil
	}
	return p.dev.Close()
}

// openNewParent opens the parent of a disk to be made, and fills in what the
// options leave to it.
func openNewParent(ctx context.Context, s Store, child Location, o *CreateDiskOptions) (*newParent, error) {
	p, err := openParent(ctx, s, o.Parent, Read|DenyWrite)
	if err != nil {
		return nil, err
	}
	layers, err := walkChain(ctx, p, Read|DenyWrite)
	if err != nil {
		return nil, errors.Join(err, closeLayers(layers))
	}
	fail := func(err error) error { return opError("make a child of", o.Parent, err) }
	link, err := linkTo(child, p)
	if err != nil {
		return nil, errors.Join(fail(err), closeLayers(layers))
	}
	devs, err := openStack(layers, readOnly)
	if err != nil {
		return nil, err
	}
	dev := devs[0]
	switch {
	case p.info.Format == Raw:
		err = fmt.Errorf("%w: a raw disk cannot be a parent: convert it to vhdx", ErrFormat)
	case o.Format != "" && o.Format != p.info.Format:
		err = fmt.Errorf("%w: it is %s, and the child of a %s is %s too", ErrFormat, p.info.Format, p.info.Format, p.info.Format)
	case o.Fixed:
		err = fmt.Errorf("%w: a differencing disk is never fixed", vhdx.ErrBadOptions)
	case o.Size != 0 && o.Size < dev.Size():
		err = fmt.Errorf("%w: the child's %d bytes are less than the parent's %d", vhdx.ErrBadOptions, o.Size, dev.Size())
	case len(layers) == maxDepth:
		err = fmt.Errorf("%w: the chain has %d already", ErrChainDepth, maxDepth)
	}
	if err != nil {
		return nil, errors.Join(fail(err), dev.Close())
	}
	o.Format, o.Geometry = p.info.Format, dev.Geometry()
	if o.Size == 0 {
		o.Size = dev.Size()
	}
	if o.BlockSize == 0 && p.info.Parent != nil || p.info.Format == VHDX && o.BlockSize == 0 {
		o.BlockSize = int64(o.Geometry.OptimalIO)
	}
	return &newParent{dev: dev, link: link}, nil
}
