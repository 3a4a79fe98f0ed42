package migrate

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"lunless/smbstore"
	"lunless/smbstore/block"
	"lunless/smbstore/vhdx"
)

// liveDisk is one disk in use.
type liveDisk struct {
	name, dstName string // in the homes
	source        smbstore.DiskInfo
	chain         []smbstore.Location // of its parents at the source, the nearest first
	format        smbstore.Format     // at the destination
	fixed         bool
	keep          bool // the chain is kept: the copy is a differencing disk too
	slot          *block.Slot
	src, dst      block.Device  // src is nil until the mirror is in the slot
	mirrored      block.Device  // dst, as long as the guest does not depend on it
	layer         block.Layered // src's own image, where the chain is kept
	moved         *smbstore.Chain
	mirror        *block.Mirror
}

// Types of disks.
const (
	typeFixed   = "fixed"
	typeDynamic = "dynamic"
)

func newLiveDisks(ctx context.Context, m *migration, o *LiveOptions) (*liveDisks, error) {
	switch {
	case len(o.Disks) == 0:
		return nil, errors.New("a live migration moves disks in use: none was given")
	case o.Type != "" && o.Type != typeFixed && o.Type != typeDynamic:
		return nil, fmt.Errorf("a disk's type is %s or %s, not %q", typeFixed, typeDynamic, o.Type)
	}
	if o.Format != "" {
		if _, err := smbstore.ParseFormat(string(o.Format)); err != nil {
			return nil, err
		}
	}
	c, err := m.home.Config()
	if err != nil {
		return nil, err
	}
	l := &liveDisks{m: m, o: o, guard: newGuard(o)}
	names := map[string]bool{}
	for _, d := range c.Disks {
		names[d.Path] = true
	}
	for _, d := range c.Disks {
		slot := o.Disks[d.Path]
		if slot == nil {
			continue // not in use: copied as a file
		}
		ld := &liveDisk{name: d.Path, slot: slot, format: d.Format}
		if err := ld.plan(ctx, m, o); err != nil {
			return nil, err
		}
		if ld.dstName != ld.name && names[ld.dstName] {
			return nil, fmt.Errorf("%s would become %s, which there is already", ld.name, ld.dstName)
		}
		names[ld.dstName] = true
		l.disks = append(l.disks, ld)
	}
	if slot := o.Disks[c.UEFIVariables]; slot != nil {
		// In use like a disk, but none: it stays what it is.
		l.disks = append(l.disks, &liveDisk{name: c.UEFIVariables, dstName: c.UEFIVariables, slot: slot, format: smbstore.Raw})
	}
	if len(l.disks) != len(o.Disks) {
		return nil, fmt.Errorf("%w: a disk in use is not in the configuration of %s", smbstore.ErrBadConfig, m.o.Source)
	}
	l.watch(&l.latency)
	return l, nil
}

// plan finds out what the disk is, and what it becomes.
func (d *liveDisk) plan(ctx context.Context, m *migration, o *LiveOptions) error {
	if d.format != smbstore.Raw { // else its content says nothing
		images, err := smbstore.InspectChain(ctx, m.ends.src, d.name)
		if err != nil {
			return err
		}
		d.source = images[0].DiskInfo
		for _, i := range images {
			if i.ParentError != "" {
				return fmt.Errorf("%s: %s", d.name, i.ParentError)
			}
		}
		for _, i := range images[1:] {
			d.chain = append(d.chain, i.Location)
		}
	}
	d.keep = len(d.chain) > 0 && !o.Flatten
	if d.keep && o.Format != "" && o.Format != d.format {
		return fmt.Errorf("%s is a differencing %s over %s: a chain is of one format, flatten it to make it %s", d.name, d.format, d.chain[0], o.Format)
	}
	from := d.format
	if o.Format != "" {
		d.format = o.Format
	}
	d.fixed = !d.keep && d.format != smbstore.Raw && (o.Type == typeFixed || o.Type == "" && d.source.Type == typeFixed)
	d.dstName = d.name
	if d.format != from || len(d.chain) > 0 && !d.keep {
		base := strings.TrimSuffix(path.Base(d.name), path.Ext(d.name)) + "." + string(d.format)
		dir := path.Dir(d.name)
		if dir == smbstore.SnapshotsDir {
			dir = smbstore.DisksDir // it is nobody's child any more
		}
		d.dstName = path.Join(dir, base)
	}
	return nil
}

// attach makes a destination disk and puts a mirror into the slot.
func (l *liveDisks) attach(ctx context.Context, d *liveDisk) error {
	if err := l.create(ctx, d); err != nil {
		return err
	}
	if size := d.slot.Size(); d.dst.Size() != size {
		return fmt.Errorf("a %s of %d bytes cannot stand for a disk of %d: %w", d.format, d.dst.Size(), size, block.ErrOutOfRange)
	}
	_, err := d.slot.Swap(func(cur block.Device) (block.Device, error) {
		o := block.MirrorOptions{DestinationZero: !d.keep}
		if d.keep {
			if d.layer = layerOf(cur); d.layer == nil {
				return nil, fmt.Errorf("%T has no layers: %w", cur, block.ErrNotSupported)
			}
			o.Granularity = block.MergeGranularity(cur.Size())
		}
		m, err := block.NewMirror(cur, d.mirrored, o)
		if err != nil {
			return nil, err
		}
		d.src, d.mirror = cur, m
		return m, nil
	})
	return err
}

// create makes the destination's disk: over the copy of its parent where the chain
// is kept.
func (l *liveDisks) create(ctx context.Context, d *liveDisk) error {
	geometry := d.slot.Geometry()
	o := smbstore.CreateDiskOptions{Format: d.format, Size: d.slot.Size(), Geometry: geometry, Fixed: d.fixed}
	if d.source.Format == d.format {
		o.BlockSize = int64(geometry.OptimalIO)
	}
	if d.keep {
		o.Parent = l.m.moved(d.chain[0])
	} else if v, ok := layerOf(d.slot).(*vhdx.Disk); ok && d.format == smbstore.VHDX {
		o.ID = v.Info().ID
	}
	fence, err := l.fence()
	if err != nil {
		return err
	}
	dst, err := smbstore.CreateDisk(ctx, smbstore.Fenced(l.m.ends.dst, fence), d.dstName, o) // for its parents' sake
	if err != nil {
		return err
	}
	if err := dst.Close(); err != nil {
		return err
	}
	d.moved, err = smbstore.OpenChain(ctx, l.m.ends.dst, d.dstName, smbstore.DiskOptions{Format: d.format, DenyWrite: true, Fence: fence})
	if err != nil {
		return err
	}
	d.dst = d.moved.Device()
	to := d.dst
	if sabotage(sabotageMirror) {
		to = &droppingDevice{Device: to}
	}
	d.mirrored = block.NewPatient(to, l.patience())
	if d.keep {
		return l.ownParents(d)
	}
	return nil
}

func (l *liveDisks) patience() time.Duration {
	if l.o.Patience > 0 {
		return l.o.Patience
	}
	return livePatience
}

// fence keeps others from the destination's disks, and this host once it has lost
// the VM there: its record is asked from the switch on.
func (l *liveDisks) fence() (smbstore.Fence, error) {
	if l.o.Fence.Instance != uuid.Nil {
		return l.o.Fence, nil
	}
	host, epoch := l.m.journal.Host, l.m.journal.Epoch+1
	f, err := l.m.home.Fence(host, epoch)
	f.Holds = func() error {
		if !l.switched.Load() {
			return nil
		}
		home, err := smbstore.HomeIn(l.m.ends.dst)
		if err != nil {
			return err
		}
		f, err := home.Fence(host, epoch)
		if err != nil {
			return err
		}
		return f.Holds()
	}
	return f, err
}

// ownParents makes sure that the copy's parents are not the source's own.
func (l *liveDisks) ownParents(d *liveDisk) error {
	for _, at := range d.moved.Images()[1:] {
		if l.m.home.Location().Contains(at) {
			return fmt.Errorf("%w: %s, a parent of %s, is found in the old home alone", ErrParentLeft, at, d.name)
		}
	}
	return nil
}

// moved is where something of the source's lies after the migration: what is not
// in the home stays where it is.
func (m *migration) moved(at smbstore.Location) smbstore.Location {
	home := m.home.Location()
	if !home.Contains(at) || home.Equal(at) {
		return at
	}
	rest := strings.TrimLeft(at.Path[len(home.Path):], "/")
	return m.ends.dst.Location().Join(rest)
}

// layerOf is the image that a device is, or is over; nil if it is none of a chain.
func layerOf(dev block.Device) block.Layered {
	for dev != nil {
		switch d := dev.(type) {
		case block.Layered:
			return d
		case interface{ Unwrap() block.Device }:
			dev = d.Unwrap()
		default:
			return nil
		}
	}
	return nil
}

// droppingDevice is the sabotaged destination: it forgets one write in 64, the first
// among them.
type droppingDevice struct {
	block.Device
	n atomic.Int64
}

func (d *droppingDevice) WriteAt(ctx context.Context, p []byte, off int64, flags block.WriteFlags) error {
	if len(p) < copyChunk && d.n.Add(1)%64 == 1 {
		return nil
	}
	return d.Device.WriteAt(ctx, p, off, flags)
}
