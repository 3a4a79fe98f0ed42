package smbstore

import (
	"context"
	"errors"
	"fmt"

	"lunless/smbstore/block"
	"lunless/smbstore/vhd"
)

// A VHD has no log: what changes more than its blocks is done on a new image
// beside it, which takes its place in one step.

// remade is a new image that is to take a VHD's place.
type remade struct {
	store Store
	name  string // of the disk
	temp  string
	dev   *vhd.Disk
}

// remake makes an image of another size, 0 being the old one's, with the content,
// the kind and the identity of a VHD, whose stack is devs.
func remake(ctx context.Context, l *layerFile, devs []block.Device, size int64, o ConvertOptions, progress func(ConvertProgress)) (_ *remade, err error) {
	old, ok := unwrap(devs[0]).(*vhd.Disk)
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrFormat, l.info.Format)
	}
	info := old.Info()
	if size == 0 {
		size = old.Size()
	}
	c := vhd.CreateOptions{Size: VHDSize(size), Fixed: info.Type == "fixed", BlockSize: info.BlockSize, ID: info.ID, Parent: info.ParentLink}
	if c.Parent != nil {
		c.ParentDevice = unowned{devs[1]}
	}
	r := &remade{store: l.store, name: l.name, temp: l.name + buildMark + nonce()}
	f, err := r.store.OpenFile(r.temp, ReadWrite|Create|Exclusive)
	if err != nil {
		return nil, err
	}
	if r.dev, err = vhd.Create(f, c); err != nil {
		return nil, errors.Join(err, f.Close(), r.store.Remove(r.temp))
	}
	if err := r.fill(ctx, old, c.Parent != nil, o, progress); err != nil {
		return nil, errors.Join(err, r.drop())
	}
	return r, nil
}

// fill copies what both sizes have.
func (r *remade) fill(ctx context.Context, old *vhd.Disk, differencing bool, o ConvertOptions, progress func(ConvertProgress)) error {
	n := min(old.Size(), r.dev.Size())
	if !differencing {
		o.DestinationZero = true
		return Convert(ctx, front{old, n}, r.dev, o, progress)
	}
	_, err := copyLayer(ctx, layerFront{old, n}, r.dev, o, progress)
	return err
}

// drop gives the new image up.
func (r *remade) drop() error {
	_ = r.dev.Close() // it goes, whatever closing it says
	return r.store.Remove(r.temp)
}

// finish puts the new image, which has been closed, in the disk's place.
func (r *remade) finish() error {
	if err := r.store.Rename(r.temp, r.name); err != nil {
		return errors.Join(err, ignoreMissing(r.store.Remove(r.temp)))
	}
	return r.store.SyncDir(dirOf(r.name))
}

// remakeDisk gives the VHD of that name, opened for reading with its chain, a
// new image of another size in its place.
func remakeDisk(ctx context.Context, layers []*layerFile, devs []block.Device, size int64, o ConvertOptions, progress func(ConvertProgress)) error {
	l := layers[0]
	r, err := remake(ctx, l, devs, size, o, progress)
	if cerr := devs[0].Close(); err == nil && cerr != nil {
		err = errors.Join(cerr, r.drop())
		return err
	}
	if err != nil {
		return err
	}
	if err := r.dev.Close(); err != nil {
		return errors.Join(err, r.store.Remove(r.temp))
	}
	return r.finish()
}

// intoCopy merges a VHD into a copy of its parent, which then takes the parent's
// place.
func (m *merge) intoCopy(ctx context.Context, child Location) error {
	layers, devs, err := m.open(ctx, child, []Flags{Read | DenyWrite}, readOnly)
	if err != nil {
		return err
	}
	r, err := remake(ctx, layers[1], devs[1:], devs[0].Size(), ConvertOptions{Parallel: m.o.Convert.Parallel, Rate: m.o.Convert.Rate}, nil)
	if err != nil {
		return errors.Join(err, devs[0].Close())
	}
	// The parent's store is closed with its file.
	folder, err := openNeighbour(ctx, m.s, layers[1].at.Dir())
	if err != nil {
		return errors.Join(err, r.drop(), devs[0].Close())
	}
	defer folder.Close()
	err = m.copy(ctx, unwrap(devs[0]), r.dev)
	err = errors.Join(err, r.dev.Close())
	if err != nil {
		return errors.Join(err, r.store.Remove(r.temp), devs[0].Close())
	}
	// Nobody must have the parent open when it is replaced.
	if err := devs[0].Close(); err != nil {
		return errors.Join(err, folder.Remove(r.temp))
	}
	r.store = folder
	return r.finish()
}
