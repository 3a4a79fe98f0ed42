package smbstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"lunless/smbstore/block"
	"lunless/smbstore/vhdx"
)

// Chain is a VM's disk in use, whose layers can be merged while a guest reads and
// writes. Each image is behind a Slot, so that a layer can be exchanged below the
// one that reads it.
//
// Disk may be used concurrently with everything else here. Merges run one at a
// time. Only chains of VHDX can be merged: a VHD has no log.
type Chain struct {
	store Store
	disk  *block.Slot

	images atomic.Pointer[[]Location] // where layers lie

	mu     sync.Mutex // held through a merge and Close
	layers []*chainLayer
	closed bool
}

// chainLayer is one image of a Chain.
type chainLayer struct {
	*layerFile
	dev      block.Device // the format's own; its parent is the next layer's slot, not owned
	slot     *block.Slot  // what the layer above reads; the guest's for the leaf
	writable bool
	next     identity // of a writable parent: what its first change makes its identity
}

// OpenChain opens a disk with all its parents, as OpenDisk does for writing.
func OpenChain(ctx context.Context, s Store, name string, o DiskOptions) (*Chain, error) {
	if o.ReadOnly || o.NoChain {
		return nil, opError("open disk", s.Location().Join(name), fmt.Errorf("a chain in use is open for writing, with its parents: %w", block.ErrNotSupported))
	}
	s = Fenced(s, o.Fence)
	flags := ReadWrite
	if o.DenyWrite {
		flags |= DenyWrite
	}
	leaf, err := openLeaf(s, name, flags, o.Format)
	if err != nil {
		return nil, err
	}
	files, err := walkChain(ctx, leaf, Read|DenyWrite)
	if err != nil {
		return nil, errors.Join(err, closeLayers(files))
	}
	c := &Chain{store: s, layers: make([]*chainLayer, len(files))}
	for i := len(files) - 1; i >= 0; i-- {
		l := &chainLayer{layerFile: files[i], writable: i == 0}
		if err := c.openDevice(l, i, imageOptions{readOnly: i > 0}); err != nil {
			for _, done := range c.layers[i+1:] {
				err = errors.Join(err, done.close())
			}
			return nil, errors.Join(err, closeLayers(files[:i+1]))
		}
		c.layers[i] = l
	}
	c.disk = c.layers[0].slot
	c.have(c.layers)
	return c, nil
}

// have exchanges the layers.
func (c *Chain) have(layers []*chainLayer) {
	var all []Location
	for _, l := range layers {
		all = append(all, l.at)
	}
	c.layers = layers
	c.images.Store(&all)
}

// openDevice makes a layer's device over the one below it.
func (c *Chain) openDevice(l *chainLayer, i int, o imageOptions) (err error) {
	if i+1 < len(c.layers) {
		o.parent = unowned{c.layers[i+1].slot}
	}
	o.pages = cachePages(len(c.layers))
	if l.dev, err = openImage(l.file, l.info.Format, o); err != nil {
		return openError(l.at, err)
	}
	if l.slot == nil {
		l.slot = block.NewSlot(l.dev)
	}
	return nil
}

// close closes the layer's device and its file with it.
func (l *chainLayer) close() error {
	err := l.dev.Close()
	if l.owned {
		err = errors.Join(err, l.store.Close())
	}
	return err
}

// Disk is what the guest uses. It stays the same through merges.
func (c *Chain) Disk() *block.Slot { return c.disk }

// Device is the chain as a device that closes all its images.
func (c *Chain) Device() block.Device { return chainDevice{c.disk, c} }

type chainDevice struct {
	*block.Slot
	chain *Chain
}

// Close closes the chain.
func (d chainDevice) Close() error { return d.chain.Close() }

// Images are where the chain's images lie, the leaf first. It does not wait for a merge.
func (c *Chain) Images() []Location { return slices.Clone(*c.images.Load()) }

// Close flushes and closes all images.
func (c *Chain) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return block.ErrClosed
	}
	c.closed = true
	var errs []error
	for _, l := range c.layers {
		errs = append(errs, l.close())
	}
	return errors.Join(errs...)
}

// layer is what whoever uses the layer sees of it: less than all, if a smaller one
// was merged into it that it could not become as small as.
func (l *chainLayer) layer() block.Layered {
	dev, size := l.dev.(block.Layered), l.slot.Size()
	if dev.Size() == size {
		return dev
	}
	return layerFront{dev, size}
}

// identity is what a child knows the layer by now.
func (l *chainLayer) identity() identity {
	if d, ok := l.dev.(*vhdx.Disk); ok {
		return identity(d.Info().DataWriteGUID)
	}
	return l.info.Identity
}

// link writes into image i that image j is its parent.
func (c *Chain) link(ctx context.Context, i, j int, next identity) error {
	child, parent := c.layers[i], c.layers[j]
	if !child.writable {
		if err := c.reopen(ctx, i, child.info.Identity); err != nil {
			return err
		}
	}
	link, err := linkTo(child.at, parent.layerFile)
	if err != nil {
		return err
	}
	link.identity = parent.identity()
	if link.next = next; next == link.identity {
		link.next = identity{}
	}
	return relink(ctx, child.dev, link)
}

// errImageLost: an image of a disk in use is closed, and cannot be opened again.
var errImageLost = errors.New("an image of the disk cannot be opened any more")

// reopen exchanges an image's device, which was for reading, for one for writing,
// with the identity it has or is to have. While requests are held back the file is
// closed and opened again, because readers deny writers. If that fails, it is opened
// for reading again; if that fails too, the error is errImageLost.
func (c *Chain) reopen(ctx context.Context, i int, id identity) error {
	l := c.layers[i]
	var failed error
	_, err := l.slot.Swap(func(block.Device) (block.Device, error) {
		_ = l.dev.Close() // was only read, and is closed whatever it says
		failed = c.openAgain(l, i, ReadWrite|DenyWrite, imageOptions{dataWrite: vhdx.GUID(id)})
		if failed == nil {
			l.writable = true
			return l.dev, nil
		}
		if err := c.openAgain(l, i, Read|DenyWrite, imageOptions{readOnly: true}); err != nil {
			return nil, opError("open again", l.at, fmt.Errorf("%w: %w", errImageLost, err))
		}
		return l.dev, nil
	})
	return errors.Join(failed, err)
}

// onlyRead has the images below the leaf open for reading again, so that others can
// read them too.
func (c *Chain) onlyRead() error {
	for i, l := range c.layers {
		if i == 0 || !l.writable {
			continue
		}
		size := l.slot.Size()
		_, err := l.slot.Swap(func(block.Device) (block.Device, error) {
			l.info.Identity = l.identity()
			l.writable = false
			closed := l.dev.Close() // what was written is flushed already
			err := c.openAgain(l, i, Read|DenyWrite, imageOptions{readOnly: true})
			if err == nil {
				return l.sized(size), nil
			}
			if err := c.openAgain(l, i, ReadWrite|DenyWrite, imageOptions{dataWrite: vhdx.GUID(l.info.Identity)}); err != nil {
				return nil, opError("open again", l.at, fmt.Errorf("%w: %w", errImageLost, errors.Join(err, closed)))
			}
			l.writable, l.next = true, l.info.Identity
			return l.sized(size), nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// sized is the layer's device as large as the layer above has it.
func (l *chainLayer) sized(size int64) block.Device {
	if size != l.dev.Size() {
		return front{l.dev, size}
	}
	return l.dev
}

func (c *Chain) openAgain(l *chainLayer, i int, flags Flags, o imageOptions) error {
	f, err := l.store.OpenFile(l.name, flags)
	if err != nil {
		return err
	}
	old := l.file
	l.file = f
	if err := c.openDevice(l, i, o); err != nil {
		l.file = old
		return errors.Join(err, f.Close())
	}
	return nil
}

// removeAt takes a file away, wherever it lies.
func removeAt(ctx context.Context, s Store, at Location) error {
	folder, err := openNeighbour(ctx, s, at.Dir())
	if err != nil {
		return err
	}
	defer folder.Close()
	if err := folder.Remove(at.Base()); err != nil {
		return err
	}
	return folder.SyncDir("")
}

// sabotage names a step to do wrong, so that tests can show that they would
// notice. Nothing but a test sets it.
var sabotage string

func sabotaged(name string) bool { return sabotage == name }
