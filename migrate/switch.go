package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"lunless/smbstore"
)

// The hand-over changes two records, four times, in this order:
//
//	1  source       owned(host, e)      -> offered(job, to, e)
//	2  destination  (none)              -> offered(job, to, e)
//	3  source       offered             -> moved(to)
//	4  destination  offered             -> owned(host, e+1)
//
// After 1 nobody may open the disks at the source; the job may still take the
// offer back. 3 is the point of no return, and the only step that races with
// taking back: both change the one record under its lock. A crash between any
// two of them leaves a state in which Resume finds which comes next. No state
// has two owners.
//
// A live migration has both records locked and the changes written beside them
// before it holds the guest (liveswitch.go). It makes 2 ahead of 1, which nobody
// can take while the source says owned, and 1 and 3 in one change. Where that
// fails in between it goes on here. It gives the destination's record, which may be
// a later owner's: an administrator may have decided meanwhile.
func (m *migration) records(ctx context.Context) (taken smbstore.Record, err error) {
	jl := m.journal
	to := plainLocation(jl.Destination)
	dst, err := smbstore.HomeIn(m.ends.dst)
	if err != nil {
		return taken, err
	}
	src, err := m.home.Record()
	if err != nil {
		return taken, err
	}
	if sabotage(sabotageEpoch) && src.State == smbstore.Owned {
		jl.Epoch, jl.Host = src.Epoch, src.Host
	}
	if src.State != smbstore.Moved {
		src, err = m.home.Change(ctx, jl.Job, func(r smbstore.Record) (smbstore.Record, error) {
			if r.State == smbstore.Offered && r.Job == jl.Job {
				return r, nil // an earlier run got here
			}
			return r.Offer(jl.Host, jl.Epoch, jl.Job, to.String())
		})
		if err != nil {
			return taken, err
		}
		failpoint("offered")
		if err := m.unchanged(ctx); err != nil {
			return taken, errors.Join(err, m.takeBack(ctx))
		}
		if err := m.offerAt(ctx, dst, src); err != nil {
			return taken, err
		}
		failpoint("offered-at-destination")
		src, err = m.home.Change(ctx, jl.Job, func(r smbstore.Record) (smbstore.Record, error) {
			if r.State == smbstore.Moved && r.MovedTo.Equal(to) {
				return r, nil
			}
			return r.Move(jl.Job, to)
		})
		if err != nil {
			return taken, err
		}
		failpoint("moved")
	}
	if src.State != smbstore.Moved || src.Job != jl.Job {
		return taken, fmt.Errorf("%w: the source says %s", smbstore.ErrNotOwner, src)
	}
	taken, err = dst.Change(ctx, jl.Job, func(r smbstore.Record) (smbstore.Record, error) {
		if r.State == smbstore.Owned && r.Epoch > jl.Epoch {
			return r, nil // taken by an earlier run
		}
		return r.Take(jl.Job, to.String(), jl.Host)
	})
	failpoint("taken")
	return taken, err
}

// offerAt writes the destination's first record: a copy of the source's offer.
func (m *migration) offerAt(ctx context.Context, dst *smbstore.Home, offer smbstore.Record) error {
	_, err := dst.CreateRecord(ctx, m.journal.Job, offer, func(r smbstore.Record) (smbstore.Record, error) {
		if r.State == smbstore.Offered && r.Job == m.journal.Job {
			return offer, nil
		}
		return r, fmt.Errorf("%w: the destination says %s", smbstore.ErrNotOwner, r)
	})
	return err
}

// unchanged makes sure that nobody wrote to the source since it was planned. It
// is asked once nobody may any more. Disks in use have changed, and both sides have
// every write.
func (m *migration) unchanged(ctx context.Context) error {
	_, now, err := plan(ctx, m.ends.src)
	if err != nil {
		return err
	}
	inUse := func(f *FileState) bool { p := m.journal.file(f.Name); return p != nil && p.Role == roleMirrored }
	planned := slices.DeleteFunc(slices.Clone(m.journal.Files), inUse)
	now = slices.DeleteFunc(now, inUse)
	if name := samePlan(planned, now); name != "" {
		return fmt.Errorf("%s, the VM seems to be in use: %w", howChanged(planned, now, name), ErrSourceChanged)
	}
	return nil
}

// howChanged says of a file that differs in two plans how it does.
func howChanged(planned, now []*FileState, name string) string {
	find := func(files []*FileState) *FileState {
		if i := slices.IndexFunc(files, func(f *FileState) bool { return f.Name == name }); i >= 0 {
			return files[i]
		}
		return nil
	}
	old, is := find(planned), find(now)
	switch {
	case old == nil:
		return name + " is new"
	case is == nil:
		return name + " was removed"
	case old.Size != is.Size:
		return fmt.Sprintf("%s had %d bytes and has %d", name, old.Size, is.Size)
	}
	return fmt.Sprintf("%s was written to at %s", name, is.ModTime.Local().Format(time.DateTime))
}

// takeBack ends the offer at the source. The copy is to be made again from what
// the source holds then.
func (m *migration) takeBack(ctx context.Context) error {
	r, err := m.home.Change(ctx, m.journal.Job, func(r smbstore.Record) (smbstore.Record, error) {
		if r.State != smbstore.Offered || r.Job != m.journal.Job {
			return r, nil
		}
		return r.TakeBack(m.journal.Job, m.journal.Host)
	})
	if errors.Is(err, smbstore.ErrNoSpace) {
		// No room for the lock. Only this job could have offered the VM.
		if now, rerr := m.home.Record(); rerr == nil && now.State == smbstore.Owned {
			r, err = now, nil
		}
	}
	if err != nil {
		return err
	}
	if r.State == smbstore.Moved && r.Job == m.journal.Job {
		return ErrTooLate
	}
	m.journal.Phase, m.journal.Epoch = Copying, r.Epoch
	return nil
}

// doubtEvery is how often an unreachable record is asked for again.
const doubtEvery = 200 * time.Millisecond

// handOver switches the records; a live VM's requests are held back meanwhile.
func (m *migration) handOver(ctx context.Context, j *Job, live *liveDisks) error {
	if live == nil {
		_, err := m.records(ctx)
		return err
	}
	return m.handOverLive(ctx, j, live)
}

// mayBeMoved tells whether after a failed switch the source's record may say
// moved. If it says offered, the offer is taken back.
func (m *migration) mayBeMoved(ctx context.Context) bool {
	ctx = context.WithoutCancel(ctx)
	if err := m.takeBack(ctx); err != nil {
		return true // too late, or unknown
	}
	return false
}
