package migrate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"lunless/smbstore"
	"lunless/smbstore/block"
)

// Flushing the destination ahead of the switch leaves little for the flush that
// the guest waits for.
const (
	aheadFlushes = 8
	aheadEnough  = 10 * time.Millisecond
)

// flushAhead flushes the destination's disks until that takes next to no time.
func (l *liveDisks) flushAhead(ctx context.Context) error {
	for range aheadFlushes {
		start := time.Now()
		if err := l.flush(ctx); err != nil {
			return err
		}
		if time.Since(start) < aheadEnough {
			return nil
		}
	}
	return nil // a guest that writes more than that is waited for
}

// flush makes all that the destination has durable; and a source that is to be
// kept, so that it is what the VM was, whatever happens to this process. A source
// that cannot be flushed is no reason to stay on it.
func (l *liveDisks) flush(ctx context.Context) error {
	if sabotage(sabotageFlush) {
		return nil
	}
	var g errgroup.Group
	for _, d := range l.disks {
		if l.o.KeepSource || l.o.Grace > 0 {
			g.Go(func() error {
				_ = block.NewPatient(d.src, l.patience()).Flush(ctx)
				return nil
			})
		}
		g.Go(func() error {
			if err := d.mirrored.Flush(ctx); err != nil {
				return fmt.Errorf("%s: %w: %w", d.name, ErrDestination, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// handOver holds every disk still, has commit switch the records, and gives the
// slots the destination's devices. If the outcome stays unknown when ctx ends,
// the disks fail from then on: nobody may write until the record is settled. So they
// do if the VM is found to be another owner's.
func (l *liveDisks) handOver(ctx context.Context, commit func(context.Context) error) (stall time.Duration, err error) {
	start := time.Now()
	var outcome error // why nobody may write
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
			case errors.Is(err, ErrInDoubt), errors.Is(err, smbstore.ErrTaken):
				outcome = err
				l.switched.Store(true) // there is no way back to the source
				return shut{d.dst, err}, nil
			case err != nil:
				return nil, err
			}
			return d.dst, nil
		})
		return cmp.Or(err, outcome)
	}
	err = hold(0)
	if err == nil {
		l.switched.Store(true)
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
	}
	failpoint("before-flush")
	if err := l.flush(ctx); err != nil {
		return err
	}
	return atSwitch(l)
}

// serves has every disk answer from the destination, and closes the source's
// devices.
func (l *liveDisks) serves(ctx context.Context, j *Job) error {
	if l == nil {
		return nil
	}
	if err := l.answer(ctx); err != nil {
		return err
	}
	j.measured(&l.latency, func(g *GuestLatency) { g.AtSwitch = l.latency.Take().Worst })
	return l.closeSource()
}

// closeSource closes what the disks lay on at the source, once.
func (l *liveDisks) closeSource() error {
	var errs []error
	for _, d := range l.disks {
		if d.src == nil {
			continue
		}
		closeIt := d.src.Close
		if l.o.CloseSource != nil {
			closeIt = func() error { return l.o.CloseSource(d.name) }
		}
		d.src = nil
		if err := closeIt(); err != nil {
			errs = append(errs, fmt.Errorf("close the source's %s: %w", d.name, err))
		}
	}
	return errors.Join(errs...)
}

// answer reads from, and flushes, every disk at the destination.
func (l *liveDisks) answer(ctx context.Context) error {
	for _, d := range l.disks {
		dev := d.slot.Unwrap() // what the guest uses, and none of its requests
		p := make([]byte, min(dev.Size(), 4096))
		err := dev.ReadAt(ctx, p, 0)
		if err == nil {
			err = dev.Flush(ctx)
		}
		if err != nil {
			return fmt.Errorf("the destination does not serve %s: %w", d.dstName, err)
		}
	}
	return nil
}

// movedDisks are the disks at the destination.
func (l *liveDisks) movedDisks() []MovedDisk {
	var all []MovedDisk
	for _, d := range l.disks {
		all = append(all, MovedDisk{Source: d.name, Path: d.dstName, Format: d.format, Chain: d.moved})
	}
	return all
}

// readySwitch is a switch whose records are locked and whose changes are written
// beside them: two renames are left to do.
type readySwitch struct {
	src, dst *smbstore.HeldRecord // nil when released
}

// ready locks both records and prepares their changes. The VM still is the
// source's: nobody may take an offer whose source says that it is owned.
func (m *migration) ready(ctx context.Context) (_ *readySwitch, err error) {
	jl, r := m.journal, &readySwitch{}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.release())
		}
	}()
	to := plainLocation(jl.Destination)
	dst, err := smbstore.HomeIn(m.ends.dst)
	if err != nil {
		return nil, err
	}
	if r.src, err = m.home.HoldRecord(ctx, jl.Job); err != nil {
		return nil, err
	}
	if now := r.src.Record(); sabotage(sabotageEpoch) && now.State == smbstore.Owned {
		jl.Epoch, jl.Host = now.Epoch, now.Host
	}
	var offer smbstore.Record
	err = r.src.Prepare(func(now smbstore.Record) (smbstore.Record, error) {
		var err error
		if offer, err = now.Offer(jl.Host, jl.Epoch, jl.Job, to.String()); err != nil {
			return now, err
		}
		return offer.Move(jl.Job, to)
	})
	if err != nil {
		return nil, err
	}
	if err := m.unchanged(ctx); err != nil {
		return nil, err
	}
	if err := m.offerAt(ctx, dst, offer); err != nil {
		return nil, err
	}
	failpoint("offered-at-destination")
	if r.dst, err = dst.HoldRecord(ctx, jl.Job); err != nil {
		return nil, err
	}
	err = r.dst.Prepare(func(now smbstore.Record) (smbstore.Record, error) { return now.Take(jl.Job, to.String(), jl.Host) })
	return r, err
}

// commit makes the changes, source first: a home that moves becomes moved before
// the new one becomes owned. After an error the source may say either.
func (r *readySwitch) commit() error {
	if _, err := r.src.Commit(); err != nil {
		return err
	}
	failpoint("moved")
	_, err := r.dst.Commit()
	failpoint("taken")
	return err
}

// release gives the locks back; it may be called twice.
func (r *readySwitch) release() error {
	var errs []error
	for _, h := range []**smbstore.HeldRecord{&r.src, &r.dst} {
		if *h == nil {
			continue
		}
		if err := (*h).Release(); err != nil {
			errs = append(errs, err)
			continue // may be tried again
		}
		*h = nil
	}
	return errors.Join(errs...)
}

// handOverLive switches the records while the VM's requests are held back.
func (m *migration) handOverLive(ctx context.Context, j *Job, live *liveDisks) error {
	if err := live.flushAhead(ctx); err != nil {
		return err
	}
	ready, err := m.ready(ctx)
	if err != nil {
		return err
	}
	if err := live.flushAhead(ctx); err != nil {
		return errors.Join(err, ready.release())
	}
	live.latency.Take()
	stall, err := live.handOver(ctx, func(ctx context.Context) error {
		for err := ready.commit(); ; err = m.takenHere(ctx) {
			if err == nil || errors.Is(err, smbstore.ErrTaken) || !m.mayBeMoved(ctx) {
				return err
			}
			// The source may have been given up: nobody may write until that is known.
			select {
			case <-ctx.Done():
				return fmt.Errorf("%w: %w", ErrInDoubt, err)
			case <-time.After(doubtEvery):
			}
		}
	})
	j.stalled(stall)
	if err != nil {
		return errors.Join(err, ready.release())
	}
	live.runs = true
	if live.o.Switched != nil {
		live.o.Switched(m.journal.Destination, live.movedDisks())
	}
	if ready.release() != nil {
		return ready.release()
	}
	return nil
}

// takenHere switches the records, and makes sure that it was for this host that the
// destination was taken: a *smbstore.TakenError if not.
func (m *migration) takenHere(ctx context.Context) error {
	r, err := m.records(ctx)
	if jl := m.journal; err == nil && (r.Host != jl.Host || r.Epoch != jl.Epoch+1) {
		return &smbstore.TakenError{Epoch: jl.Epoch + 1, By: fmt.Errorf("%w: the destination says %s", smbstore.ErrNotOwner, r)}
	}
	return err
}

// shut is a disk nobody may use: until the ownership record is settled, or since the
// VM is another owner's.
type shut struct {
	block.Device
	why error
}

func (s shut) ReadAt(context.Context, []byte, int64) error { return s.why }
func (s shut) WriteAt(context.Context, []byte, int64, block.WriteFlags) error {
	return s.why
}
func (s shut) WriteZeroes(context.Context, int64, int64, block.WriteFlags) error { return s.why }
func (s shut) Trim(context.Context, int64, int64) error                          { return s.why }
func (s shut) Flush(context.Context) error                                       { return s.why }
