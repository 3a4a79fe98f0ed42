package migrate

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"lunless/smbstore"
	"lunless/smbstore/block"
)

// LiveOptions describe a live storage migration.
type LiveOptions struct {
	Options
	// Disks are the VM's disks in use, by their paths in the home. What uses a
	// disk goes through its Slot, before and after. What the Slot was over at the
	// start is closed once the VM runs from its copy; see CloseSource.
	Disks map[string]*block.Slot
	// CloseSource, if not nil, closes what a disk lay on at the source: a
	// smbstore.Chain, say. Without it the Slot's first device is closed.
	CloseSource func(path string) error
	// Format converts the disks in use on the way; "" keeps each one's. A disk of a
	// chain has to be flattened for that.
	Format smbstore.Format
	// Type is what VHDX and VHD in use become: "fixed" or "dynamic"; "" keeps each
	// one's. A chain that is kept stays what it is.
	Type string
	// Flatten makes one disk of each chain in use. The images below it come along
	// only if a checkpoint, or another disk, needs them.
	Flatten bool
	// Verify compares each disk with its copy before the switch, under the guest.
	Verify bool
	// Grace is how long the guest shall have run from the destination before the
	// source is removed.
	Grace time.Duration
	// GuardFactor is how many times slower the copy may make the guest's requests,
	// on average, before it gives way: see guard. 0 takes 3, a negative one lets
	// the copy run as it can.
	GuardFactor float64
	// GuardFloor is how slow the guard may make the copy, in bytes a second; 0
	// takes 4 MiB.
	GuardFloor int64
	// Patience is how long the destination may leave a request without an answer
	// before it counts as failed, and the guest goes on without it; 0 takes 10 s.
	// What ToOptions say of lost servers holds for the VM once it runs from there.
	Patience time.Duration
	// Fence, if it is not zero, is what the destination's disks are opened with: of the
	// epoch after the source's, which the switch gives the VM. Its Holds is asked before
	// the switch and after it. Without, the job makes one.
	Fence smbstore.Fence
	// Switched, if not nil, is told where the disks are, once the VM runs from
	// there. It must not wait for the job.
	Switched func(home smbstore.Location, disks []MovedDisk)
}

// MovedDisk is a disk in use at the destination.
type MovedDisk struct {
	Source string // its path in the home at the source
	Path   string // and at the destination
	Format smbstore.Format
	// Chain is what its Slot is over; closing the Slot closes it.
	Chain *smbstore.Chain
}

// LiveStorage moves the home of a VM whose disks are in use in this process and
// returns the running job. What nobody writes to, the parents of differencing
// disks among it, is copied as files. A disk in use is mirrored: every write goes
// to both sides, and one pass copies the rest; the leaf of a chain is mirrored
// into a new leaf over the copy of its parent, once that is there. Then, with all
// disks held still, the ownership records are switched and the slots get the
// destination's devices. The source is removed once the destination has answered,
// and Grace has gone by. Whatever fails before the switch leaves the VM on its
// source and removes the destination.
func LiveStorage(ctx context.Context, o LiveOptions) (*Job, error) {
	m, err := prepare(ctx, &o.Options, KindLiveStorage)
	if err != nil {
		return nil, err
	}
	live, err := newLiveDisks(ctx, m, &o)
	if err != nil {
		defer m.release()
		return nil, errors.Join(err, m.ends.into.RemoveAll(m.ends.dstName), m.ends.close())
	}
	m.journal.Grace = o.Grace
	return start(ctx, m.journal.status(), &o.Options, func(ctx context.Context, j *Job) error {
		defer m.release()
		defer live.watch(nil)
		// A store waits for its server as long as it was told to, which may be for
		// ever: what is cancelled is not to wait that long.
		over := make(chan struct{})
		defer close(over)
		defer context.AfterFunc(ctx, func() {
			select {
			case <-time.After(cancelPatience):
				live.giveUp()
			case <-over:
			}
		})()
		err := m.run(ctx, j, live)
		if !live.switched.Load() {
			return live.abandon(ctx, m.leadFull(err))
		}
		if err == nil {
			m.ends.leaveSource()
		}
		// The destination serves the VM from now on: its store stays open.
		j.keep(m.ends)
		if err != nil {
			return live.failMoved(ctx, err)
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
	latency  block.Latency   // of all the guest's requests
	guard    *guard          // nil: none
	progress *progressWriter // nil before the passes
	switched atomic.Bool     // there is no way back
	runs     bool            // from the destination
	ended    atomic.Bool
}

// cancelPatience is how long a cancelled job may take to undo what it did, and
// failPatience how long one whose destination failed may try to clean up there.
const (
	livePatience   = 10 * time.Second
	cancelPatience = time.Minute
	failPatience   = 10 * time.Second
)

// giveUp ends all that waits for a store of the job, unless the VM is on one.
func (l *liveDisks) giveUp() {
	if !l.switched.Load() && !l.ended.Load() {
		_ = l.m.ends.close() // what it fails at is told by what waits
	}
}

// watch has the slots measure what the guest sees; nil ends it.
func (l *liveDisks) watch(with *block.Latency) {
	for _, d := range l.disks {
		d.slot.Watch(with)
	}
}

// failure gives a destination that was dropped its own error.
func (l *liveDisks) failure(err error) error {
	if errors.Is(err, block.ErrDetached) {
		return fmt.Errorf("%w: %w", ErrDestination, err)
	}
	return err
}

// failMoved ends a job that failed after the switch: the VM is at the destination, or
// in doubt, and keeps what its disks lie on.
func (l *liveDisks) failMoved(ctx context.Context, err error) error {
	if l.runs && errors.Is(context.Cause(ctx), ErrCancelled) && !errors.Is(err, ErrTooLate) {
		err = fmt.Errorf("%w: %w", ErrTooLate, err)
	}
	err = l.m.fail(err)
	if l.runs {
		err = errors.Join(err, l.closeSource())
	}
	return err
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
	defer l.ended.Store(true)
	if errors.Is(cause, ErrDestination) {
		defer time.AfterFunc(failPatience, l.giveUp).Stop()
	}
	for _, d := range l.disks {
		if d.src != nil {
			_, err := d.slot.Swap(func(block.Device) (block.Device, error) { return d.src, nil })
			errs = append(errs, err)
		}
	}
	for _, d := range l.disks {
		if d.dst != nil {
			_ = d.dst.Close() // it goes away
		}
	}
	l.progress.wait() // with the guest on its source, which this may not hold up
	err := l.m.undo(ctx)
	if !errors.Is(err, ErrCancelled) {
		l.m.leave(err)
		errs = append(errs, fmt.Errorf("the VM goes on at %s; %s: %w: %w",
			l.m.o.Source, l.m.journal.Destination, ErrNotUndone, err))
	}
	return errors.Join(append(errs, l.m.ends.close())...)
}
