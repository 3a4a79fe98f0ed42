package migrate

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"lunless/smbstore"
	"lunless/smbstore/block"
)

// LiveOptions describe a live storage migration.
type LiveOptions struct {
	Options
	// Disks are the VM's disks in use, by their paths in the home. What uses a
	// disk goes through its Slot, before and after. The device in the Slot at the
	// start is closed once the VM runs from its copy.
	Disks map[string]*block.Slot
	// Format converts the disks in use on the way: Raw or VHDX; "" keeps each
	// one's. A VHDX is made anew either way, dynamic.
	Format smbstore.Format
}

// LiveStorage moves the home of a VM whose disks are in use in this process and
// returns the running job. From the start every write goes to both sides; one
// pass copies the rest; then, with all disks held still, the ownership records
// are switched and the slots get the destination's devices. The source is
// removed once the destination has answered. Whatever fails before the switch
// leaves the VM on its source and removes the destination.
func LiveStorage(ctx context.Context, o LiveOptions) (*Job, error) {
	m, err := prepare(ctx, &o.Options, KindLiveStorage)
	if err != nil {
		return nil, err
	}
	live, err := newLiveDisks(m, &o)
	if err != nil {
		return nil, errors.Join(err, m.ends.into.RemoveAll(m.ends.dstName), m.ends.close())
	}
	return start(ctx, m.journal.status(), &o.Options, func(ctx context.Context, j *Job) error {
		err := m.run(ctx, j, live)
		if !live.switched {
			return live.abandon(ctx, m.leadFull(err))
		}
		// The destination serves the VM from now on: its store stays open.
		j.keep(m.ends.close)
		if err != nil {
			return m.fail(err)
		}
		return nil
	}), nil
}

// liveDisks are the disks a live migration mirrors. It is used by the job's
// goroutine alone. A nil one stands for an offline migration.
type liveDisks struct {
	m        *migration
	o        *LiveOptions
	disks    []*liveDisk
	switched bool
}

type liveDisk struct {
	name, dstName string // in the homes
	format        smbstore.Format
	slot          *block.Slot
	src, dst      block.Device // src is nil until the mirror is in the slot
	mirror        *block.Mirror
}

func newLiveDisks(m *migration, o *LiveOptions) (*liveDisks, error) {
	if len(o.Disks) == 0 {
		return nil, errors.New("a live migration moves disks in use: none was given")
	}
	if o.Format != "" && o.Format != smbstore.Raw && o.Format != smbstore.VHDX {
		return nil, fmt.Errorf("convert to %q: %w", o.Format, smbstore.ErrFormat)
	}
	c, err := m.home.Config()
	if err != nil {
		return nil, err
	}
	l := &liveDisks{m: m, o: o}
	for _, d := range c.Disks {
		slot := o.Disks[d.Path]
		if slot == nil {
			continue // not in use: copied as a file
		}
		ld := &liveDisk{name: d.Path, dstName: d.Path, slot: slot, format: d.Format}
		if o.Format != "" && o.Format != d.Format {
			ld.format = o.Format
			ld.dstName = strings.TrimSuffix(d.Path, path.Ext(d.Path)) + "." + string(o.Format)
		}
		if ld.format == smbstore.VHD {
			return nil, fmt.Errorf("%s: a VHD in use moves as %s or %s", d.Path, smbstore.VHDX, smbstore.Raw)
		}
		l.disks = append(l.disks, ld)
	}
	if len(l.disks) != len(o.Disks) {
		return nil, fmt.Errorf("%w: a disk in use is not in the configuration of %s", smbstore.ErrBadConfig, m.o.Source)
	}
	return l, nil
}

// copy mirrors every disk, copies the home's other files, and then what the
// disks held before.
func (l *liveDisks) copy(ctx context.Context, c *copier) error {
	for _, d := range l.m.journal.Folders {
		if err := l.m.ends.dst.MkdirAll(d); err != nil {
			return err
		}
	}
	var total int64
	for _, d := range l.disks {
		if err := l.attach(ctx, d); err != nil {
			return fmt.Errorf("mirror %s: %w", d.name, err)
		}
		total += d.mirror.Size()
		failpoint("mirrored")
	}
	if err := c.run(ctx, l.isLive); err != nil {
		return err
	}
	if err := l.rename(); err != nil {
		return err
	}
	c.job.phase(Copying, total)
	var done, copied, skipped int64 // of the disks before
	for _, d := range l.disks {
		var last block.CopyProgress
		err := d.mirror.CopyPass(ctx, block.CopyOptions{Parallel: c.parallel, Limit: c.limit, Progress: func(p block.CopyProgress) {
			last = p
			c.job.set(done+max(d.mirror.Size()-p.Remaining, 0), copied+p.Copied, skipped+p.Skipped+p.Zeroed)
			failpoint("live-copied")
		}})
		if err != nil {
			return l.failure(fmt.Errorf("copy %s: %w", d.name, err))
		}
		done, copied, skipped = done+d.mirror.Size(), copied+last.Copied, skipped+last.Skipped+last.Zeroed
	}
	return nil
}

// failure gives a destination that was dropped its own error.
func (l *liveDisks) failure(err error) error {
	if errors.Is(err, block.ErrDetached) {
		return fmt.Errorf("%w: %w", ErrDestination, err)
	}
	return err
}

func (l *liveDisks) isLive(name string) bool {
	for _, d := range l.disks {
		if d.name == name {
			return true
		}
	}
	return false
}

// attach makes a destination disk and puts a mirror into the slot.
func (l *liveDisks) attach(ctx context.Context, d *liveDisk) error {
	size := d.slot.Size()
	opts := smbstore.CreateDiskOptions{Format: d.format, Size: size, Geometry: d.slot.Geometry()}
	dst, err := smbstore.CreateDisk(ctx, l.m.ends.dst, d.dstName, opts)
	if err != nil {
		return err
	}
	if dst.Size() != size {
		return errors.Join(fmt.Errorf("a %s of %d bytes cannot stand for a disk of %d: %w", d.format, dst.Size(), size, block.ErrOutOfRange), dst.Close())
	}
	d.dst = dst
	if sabotage(sabotageMirror) {
		d.dst = &droppingDevice{Device: dst}
	}
	_, err = d.slot.Swap(func(cur block.Device) (block.Device, error) {
		m, err := block.NewMirror(cur, d.dst, block.MirrorOptions{DestinationZero: true})
		if err != nil {
			return nil, err
		}
		d.src, d.mirror = cur, m
		return m, nil
	})
	return err
}

// rename writes the paths of converted disks into the destination's configuration.
func (l *liveDisks) rename() error {
	home, err := smbstore.HomeIn(l.m.ends.dst)
	if err != nil {
		return err
	}
	return home.UpdateConfig(func(c *smbstore.Config) error {
		for i := range c.Disks {
			for _, d := range l.disks {
				if c.Disks[i].Path == d.name {
					c.Disks[i].Path, c.Disks[i].Format = d.dstName, d.format
				}
			}
		}
		return nil
	})
}

// verify compares the files; the disks the mirror keeps alike.
func (l *liveDisks) verify(ctx context.Context, c *copier) error {
	for _, f := range c.journal.Files {
		if l.isLive(f.Name) || f.Name == l.m.home.ConfigName() {
			f.Verified = true
		}
	}
	for _, d := range l.disks {
		if err := d.mirror.Err(); err != nil {
			return l.failure(err)
		}
	}
	return c.verify(ctx)
}

// handOver holds every disk still, has commit switch the records, and gives the
// slots the destination's devices. If the outcome stays unknown when ctx ends,
// the disks fail from then on: nobody may write until the record is settled.
func (l *liveDisks) handOver(ctx context.Context, commit func(context.Context) error) (stall time.Duration, err error) {
	start := time.Now()
	var hold func(i int) error
	hold = func(i int) error {
		if i == len(l.disks) {
			if err := l.agree(ctx); err != nil {
				return err
			}
			failpoint("held")
			return commit(ctx)
		}
		d := l.disks[i]
		_, err := d.slot.Swap(func(cur block.Device) (block.Device, error) {
			err := hold(i + 1)
			switch {
			case errors.Is(err, ErrInDoubt):
				l.switched = true // there is no way back to the source
				return inDoubt{d.dst}, nil
			case err != nil:
				return nil, err
			}
			return d.dst, nil
		})
		if err == nil && l.switched {
			return ErrInDoubt
		}
		return err
	}
	err = hold(0)
	if err == nil {
		l.switched = true
	}
	return time.Since(start), err
}

// agree makes sure that the destination has everything, durably.
func (l *liveDisks) agree(ctx context.Context) error {
	for _, d := range l.disks {
		if err := d.mirror.Err(); err != nil {
			return l.failure(err)
		}
		if n := d.mirror.Remaining(); n > 0 {
			return fmt.Errorf("%s: %d bytes left: %w", d.name, n, block.ErrNotInSync)
		}
		if err := d.dst.Flush(ctx); err != nil {
			return fmt.Errorf("%s: %w: %w", d.name, ErrDestination, err)
		}
	}
	return nil
}

// serves has every slot answer from the destination, and closes the source's
// devices.
func (l *liveDisks) serves(ctx context.Context) error {
	if l == nil {
		return nil
	}
	for _, d := range l.disks {
		p := make([]byte, min(d.slot.Size(), 4096))
		if err := d.slot.ReadAt(ctx, p, 0); err != nil {
			return fmt.Errorf("the destination does not serve %s: %w", d.dstName, err)
		}
		if err := d.slot.Flush(ctx); err != nil {
			return fmt.Errorf("the destination does not serve %s: %w", d.dstName, err)
		}
	}
	for _, d := range l.disks {
		if d.src == nil {
			continue
		}
		if err := d.src.Close(); err != nil {
			return fmt.Errorf("close the source's %s: %w", d.name, err)
		}
		d.src = nil
	}
	return nil
}

// abandon puts the source's devices back into the slots and removes the
// destination.
func (l *liveDisks) abandon(ctx context.Context, cause error) error {
	if errors.Is(cause, smbstore.ErrNoSpace) {
		cause = fmt.Errorf("%w\nthe VM goes on at %s: make room, then start again", cause, l.m.o.Source)
	}
	errs := []error{cause}
	if errors.Is(context.Cause(ctx), ErrCancelled) {
		errs = append(errs, ErrCancelled)
	}
	ctx = context.WithoutCancel(ctx)
	for _, d := range l.disks {
		if d.src != nil {
			_, err := d.slot.Swap(func(block.Device) (block.Device, error) { return d.src, nil })
			errs = append(errs, err)
		}
		if d.dst != nil {
			_ = d.dst.Close() // it goes away
		}
	}
	err := l.m.undo(ctx)
	if !errors.Is(err, ErrCancelled) {
		errs = append(errs, fmt.Errorf("the VM goes on at %s; what was copied to %s could not be removed: %w",
			l.m.o.Source, l.m.journal.Destination, err))
	}
	return errors.Join(append(errs, l.m.ends.close())...)
}

// inDoubt is a disk nobody may use until the ownership record is settled.
type inDoubt struct{ block.Device }

func (inDoubt) ReadAt(context.Context, []byte, int64) error { return ErrInDoubt }
func (inDoubt) WriteAt(context.Context, []byte, int64, block.WriteFlags) error {
	return ErrInDoubt
}
func (inDoubt) WriteZeroes(context.Context, int64, int64, block.WriteFlags) error { return ErrInDoubt }
func (inDoubt) Trim(context.Context, int64, int64) error                          { return ErrInDoubt }
func (inDoubt) Flush(context.Context) error                                       { return ErrInDoubt }

// droppingDevice is the sabotaged destination: it forgets one write in 64.
type droppingDevice struct {
	block.Device
	n atomic.Int64
}

func (d *droppingDevice) WriteAt(ctx context.Context, p []byte, off int64, flags block.WriteFlags) error {
	if len(p) < copyChunk && d.n.Add(1)%64 == 0 {
		return nil
	}
	return d.Device.WriteAt(ctx, p, off, flags)
}
