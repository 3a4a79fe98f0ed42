package smbstore

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"lunless/smbstore/block"
	"lunless/smbstore/vhdx"
)

// MergeLiveOptions describe a live merge.
type MergeLiveOptions struct {
	Convert  ConvertOptions
	Progress func(ConvertProgress) // may be nil
	// Commit is called when an image is merged, with the place of the one that is in
	// its stead from then on: it writes that down where the next start of the VM looks
	// for it. It may be nil. The leaf's is called with the guest held back; if it
	// fails, so does the merge, and the old leaf stays. If it fails for another image,
	// that is merged, and its file stays.
	Commit func(ctx context.Context, into Location) error
	// Children are differencing disks of the merged image beside the one in the chain:
	// nobody has them open, and they get its parent.
	Children []Location
	Force    bool // even if other disks need what is changed
}

// Merge copies the i-th image, 0 being the leaf, into its parent, and removes it
// from the chain and from its store. The guest goes on meanwhile, but for the
// moments in which images are exchanged.
//
// At every moment the images can be opened as a chain by the one that is the leaf,
// and hold all that was flushed: the old leaf up to Commit, the new one after it.
// From Commit on the old leaf cannot be opened as a disk, so that nobody takes it
// for the VM's disk.
func (c *Chain) Merge(ctx context.Context, i int, o MergeLiveOptions) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return block.ErrClosed
	}
	if i < 0 || i+1 >= len(c.layers) {
		return fmt.Errorf("image %d of %d has no parent: %w", i, len(c.layers), block.ErrOutOfRange)
	}
	child, parent := c.layers[i], c.layers[i+1]
	if child.info.Format != VHDX {
		return opError("merge", child.at, fmt.Errorf("%w: a %s has no log: merge it while the VM is off", block.ErrNotSupported, child.info.Format))
	}
	var err error
	if i == 0 && len(o.Children) > 0 {
		err = fmt.Errorf("%s is the leaf, and has children: %w", child.at, ErrHasChildren)
	} else if !o.Force {
		err = c.refuse(ctx, i, o.Children)
	}
	if err == nil {
		err = c.prepare(ctx, i)
	}
	if err == nil && i == 0 {
		err = c.mergeLeaf(ctx, o)
	} else if err == nil {
		err = c.mergeMiddle(ctx, i, o)
	}
	if rerr := c.onlyRead(); rerr != nil {
		err = errors.Join(err, rerr)
	}
	if err != nil {
		state := "the disk is in use as before"
		if errors.Is(err, errImageLost) {
			state = "what the guest flushed is safe, but it cannot go on: stop the VM, and start it when all images can be opened again"
		}
		return &MergeError{child.at, parent.at, state, LeadFull(err)}
	}
	if i > 0 && o.Commit != nil {
		if err := o.Commit(ctx, parent.at); err != nil {
			return &MergeError{child.at, parent.at, "it is merged and the disk in use, and its file stays", errors.Join(err, child.close())}
		}
	}
	// Only the file is left over, and nothing needs it.
	if err := errors.Join(child.close(), removeAt(ctx, c.store, child.at)); err != nil {
		return &MergeError{child.at, parent.at, "it is merged and the disk in use, only its file is left over: remove that", err}
	}
	return nil
}

// refuse is a *ChildrenError if disks outside the chain, but for children, need what
// a merge changes.
func (c *Chain) refuse(ctx context.Context, i int, children []Location) error {
	child, parent := c.layers[i], c.layers[i+1]
	search, err := searchChildren(ctx, c.store, child.at, parent.at)
	if err != nil {
		return err
	}
	defer search.close()
	var own []*layerFile
	for _, l := range c.layers {
		own = append(own, l.layerFile)
	}
	for _, f := range search.found {
		if slices.ContainsFunc(children, f.at.Equal) {
			own = append(own, f)
		}
	}
	return errors.Join(search.refuse(ctx, parent.layerFile, own...), search.refuse(ctx, child.layerFile, own...))
}

// prepare announces the parent's coming identity in the child and makes the
// parent writable.
func (c *Chain) prepare(ctx context.Context, i int) error {
	child, parent := c.layers[i], c.layers[i+1]
	if !parent.writable { // else by an earlier merge
		parent.next = identity(uuid.New())
	}
	if err := c.link(ctx, i, i+1, parent.next); err != nil {
		return err
	}
	if !parent.writable {
		if err := c.reopen(ctx, i+1, parent.next); err != nil {
			return err
		}
	}
	disk := parent.dev.(*vhdx.Disk)
	if disk.Size() >= child.slot.Size() {
		return nil
	}
	return disk.Resize(ctx, child.slot.Size())
}

// mergeMiddle merges a layer that nobody writes to.
func (c *Chain) mergeMiddle(ctx context.Context, i int, o MergeLiveOptions) error {
	child, parent := c.layers[i], c.layers[i+1]
	size := child.slot.Size()
	if _, err := copyLayer(ctx, child.layer(), parent.dev, o.Convert, o.Progress); err != nil {
		return err
	}
	if err := fitParent(ctx, parent.dev.(*vhdx.Disk), size); err != nil {
		return err
	}
	if err := parent.dev.Flush(ctx); err != nil {
		return err
	}
	if sabotaged("merge-removed-early") {
		if err := removeAt(ctx, c.store, child.at); err != nil {
			return err
		}
	}
	if err := c.link(ctx, i-1, i+1, identity{}); err != nil {
		return err
	}
	for _, at := range o.Children {
		if err := c.adopt(ctx, at, i); err != nil {
			return err
		}
	}
	_, err := child.slot.Swap(func(block.Device) (block.Device, error) {
		if parent.dev.Size() == size {
			return parent.dev, nil
		}
		return front{parent.dev, size}, nil
	})
	if err != nil {
		return err
	}
	parent.slot = child.slot // what the layer above holds
	c.have(append(c.layers[:i:i], c.layers[i+1:]...))
	return nil
}

// adopt gives a disk over image i, which nobody has open, the parent of that.
func (c *Chain) adopt(ctx context.Context, at Location, i int) error {
	l, err := openParent(ctx, c.store, at, ReadWrite|DenyWrite)
	if err != nil {
		return err
	}
	child, parent := c.layers[i], c.layers[i+1]
	link, err := linkTo(at, parent.layerFile)
	link.identity = parent.identity()
	was := child.info
	was.Identity = child.identity()
	switch {
	case err != nil:
	case l.info.Parent == nil:
		err = fmt.Errorf("%w: it is no differencing disk", ErrNoParent)
	case slices.Contains(l.info.Parent.Identities, link.identity): // an earlier run did it
		return l.close()
	default:
		err = l.info.Parent.admits(l.info, was)
	}
	if err != nil {
		return errors.Join(opError("give a new parent to", at, err), l.close())
	}
	dev, err := openImage(l.file, VHDX, imageOptions{parent: unowned{child.slot}})
	if err != nil {
		return errors.Join(openError(at, err), l.close())
	}
	err = relink(ctx, dev, link)
	if err = errors.Join(err, dev.Close()); l.owned {
		err = errors.Join(err, l.store.Close())
	}
	return err
}

// mergeLeaf merges the image that the guest writes to: what it writes goes to
// both, until the parent has all and takes its place.
func (c *Chain) mergeLeaf(ctx context.Context, o MergeLiveOptions) error {
	leaf, parent := c.layers[0], c.layers[1]
	layer := leaf.layer()
	size := layer.Size()
	var target block.Device = parent.dev
	if target.Size() != size {
		target = front{target, size}
	}
	mirror, err := block.NewMirror(layer, target, block.MirrorOptions{Granularity: block.MergeGranularity(size)})
	if err != nil {
		return err
	}
	if _, err := c.disk.Swap(func(block.Device) (block.Device, error) { return mirror, nil }); err != nil {
		return err
	}
	_, err = mergePass(ctx, mirror, layer, o.Convert, o.Progress)
	if err == nil {
		_, err = mirror.Switch(ctx, func(ctx context.Context) error { return c.retire(ctx, leaf, parent, o) })
	}
	if err != nil {
		mirror.Detach(err)
		_, serr := c.disk.Swap(func(block.Device) (block.Device, error) { return layer, nil })
		return errors.Join(err, serr)
	}
	_, err = c.disk.Swap(func(block.Device) (block.Device, error) { return target, nil })
	parent.slot = c.disk
	c.have(c.layers[1:])
	return err
}

// retire has the parent be the leaf for whoever opens the disk next. It runs with
// the guest held back and the parent flushed.
func (c *Chain) retire(ctx context.Context, leaf, parent *chainLayer, o MergeLiveOptions) error {
	if err := fitParent(ctx, parent.dev.(*vhdx.Disk), leaf.slot.Size()); err != nil {
		return err
	}
	if err := parent.dev.Flush(ctx); err != nil {
		return err
	}
	if o.Commit != nil {
		if err := o.Commit(ctx, parent.at); err != nil {
			return err
		}
	}
	// The parent changes from here on, and its identity, which this session has
	// chosen, does not: the old leaf must not be taken for its child any more.
	link, err := linkTo(leaf.at, parent.layerFile)
	if err == nil {
		link.identity = identity(uuid.New())
		err = relink(ctx, leaf.dev, link)
	}
	if err != nil && o.Commit != nil {
		return nil // committed to: the file goes soon, and its name is nowhere any more
	}
	return err
}
