package migrate

import (
	"context"
	"errors"
	"fmt"

	"lunless/smbstore"
)

// Resume goes on with the interrupted migration whose destination home is at
// the location: what is copied and durable is not copied again, and a switch
// that was under way is finished. It returns the running job. The Source and To
// of the options are ignored. Errors: ErrNoJob, ErrJobRunning, ErrOtherHost.
//
// A live migration that was interrupted before its switch took its VM down with
// it; it goes on as an offline one, from the start.
func Resume(ctx context.Context, destination smbstore.Location, o Options) (*Job, error) {
	m, err := reopen(ctx, destination, &o, false)
	if err != nil {
		return nil, err
	}
	if err := m.reconcile(ctx); err != nil {
		m.leave(err)
		m.letGo()
		return nil, err
	}
	return start(ctx, m.journal.status(), &o, func(ctx context.Context, j *Job) error {
		defer m.letGo()
		err := m.run(ctx, j, nil)
		if errors.Is(err, ErrCancelled) {
			return err
		}
		return m.settle(ctx, j, err)
	}), nil
}

// Cancel undoes the interrupted migration whose destination home is at the
// location: the VM is the source's again, and the partial copy is removed. It
// needs no room at the destination, and gives what the migration was.
// Errors: ErrNoJob, ErrJobRunning (use the job's Cancel), ErrTooLate.
func Cancel(ctx context.Context, destination smbstore.Location, o Options) (Status, error) {
	m, err := reopen(ctx, destination, &o, true)
	if err != nil {
		return Status{Destination: destination}, err
	}
	defer m.letGo()
	err = ErrTooLate
	if m.journal.Phase != Cleaning {
		err = m.undo(ctx)
	}
	if !errors.Is(err, ErrCancelled) {
		m.leave(err)
		return m.journal.status(), err
	}
	s := m.journal.status()
	s.Phase = Cancelled
	return s, nil
}

// reopen opens both ends of the journal in a destination's home, and makes the
// journal this process's, but for an undo where there is no room for that.
func reopen(ctx context.Context, destination smbstore.Location, o *Options, undo bool) (_ *migration, err error) {
	jl, err := loadJournal(ctx, destination, o.ToOptions)
	if err != nil {
		return nil, err
	}
	host, err := o.host()
	if err != nil {
		return nil, err
	}
	if o.VM != "" && jl.VM != o.VM {
		return nil, fmt.Errorf("%s: %w: the migration there is of the VM %s", destination, ErrNoJob, jl.VM)
	}
	if jl.Host != host {
		return nil, &OtherHostError{Job: jl.Job, Host: jl.Host, Here: host}
	}
	if jl.running() {
		return nil, fmt.Errorf("job %s, process %d: %w", jl.Job, jl.PID, ErrJobRunning)
	}
	release, err := claim(jl.Job)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	// The journal's own location may name a user the caller did not give.
	if destination.User == "" {
		destination.User = jl.Destination.User
	}
	e, err := openEnds(ctx, jl.Source, destination, o.SourceOptions, o.ToOptions)
	if err != nil {
		return nil, err
	}
	m := &migration{ends: e, o: o, journal: jl, release: release}
	if m.home, err = smbstore.HomeIn(e.src); errors.Is(err, smbstore.ErrNotHome) && jl.Phase == Cleaning {
		err = nil // it is gone already
	}
	if err == nil {
		err = m.leadFull(m.takeUp(ctx, undo))
	}
	if err != nil {
		return nil, errors.Join(err, e.close())
	}
	return m, nil
}

func loadJournal(ctx context.Context, destination smbstore.Location, o smbstore.Options) (*Journal, error) {
	s, err := openStore(ctx, destination, o)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	jl, err := readJournal(s)
	if err == nil && !jl.Destination.Equal(destination) {
		err = fmt.Errorf("%s: %w: it is of %s", destination, ErrBadJournal, jl.Destination)
	}
	return jl, err
}

// reconcile brings the journal's phase in line with the source's record, which
// alone tells where the VM is.
func (m *migration) reconcile(ctx context.Context) error {
	jl := m.journal
	if m.home == nil {
		return nil // cleaning, and the source is gone
	}
	r, err := m.home.Record()
	if errors.Is(err, smbstore.ErrNotExist) && jl.Phase == Cleaning {
		return nil
	}
	if err != nil {
		return err
	}
	switch {
	case r.State == smbstore.Moved && r.Job == jl.Job:
		if jl.Phase != Cleaning {
			jl.Phase = Switching
		}
	case r.State == smbstore.Offered && r.Job == jl.Job:
		if jl.Phase != Cancelling {
			jl.Phase = Switching
		}
	case r.State == smbstore.Owned && r.Host == jl.Host:
		if jl.Phase == Cancelling {
			return nil
		}
		if err := m.idle(); err != nil { // a VM that runs in this epoch would write on
			return err
		}
		if jl.Kind == KindLiveStorage {
			jl.Epoch = r.Epoch
			return m.startOver(ctx)
		}
		if r.Epoch != jl.Epoch || jl.Phase == Switching {
			// The VM may have run since: what was compared may differ.
			for _, f := range jl.Files {
				f.Verified = false
			}
		}
		jl.Epoch, jl.Phase = r.Epoch, Copying
	default:
		return fmt.Errorf("%s: %w: %s", jl.Source, smbstore.ErrNotOwner, r)
	}
	return nil
}

// startOver empties the destination but for the journal.
func (m *migration) startOver(ctx context.Context) error {
	if err := m.copyIsOurs(); err != nil {
		return err
	}
	m.evict(ctx, m.ends.dst, m.journal.Epoch+2) // the copy was open in one more than the VM
	infos, err := m.ends.dst.ReadDir("")
	if err != nil {
		return err
	}
	for _, i := range infos {
		if i.Name == JournalName {
			continue
		}
		if err := removeEither(m.ends.dst, i.Name, i.Dir); err != nil {
			return err
		}
	}
	m.journal.Kind, m.journal.Phase, m.journal.Folders, m.journal.Files = KindStorage, Planning, nil, nil
	return m.journal.write(m.ends.dst)
}

// List gives the unfinished migrations whose destinations lie directly below a
// storage location.
func List(ctx context.Context, storage smbstore.Location, o smbstore.Options) ([]Status, error) {
	s, err := openStore(ctx, storage, o)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	infos, err := s.ReadDir("")
	if err != nil {
		return nil, err
	}
	var jobs []Status
	for _, i := range infos {
		if !i.Dir {
			continue
		}
		jl, err := readJournal(smbstore.Sub(s, i.Name))
		if errors.Is(err, ErrNoJob) || errors.Is(err, smbstore.ErrBadName) {
			continue
		}
		if err != nil {
			at := storage.Join(i.Name)
			jobs = append(jobs, Status{Phase: Failed, Destination: at, Error: err.Error(),
				Next: []string{fmt.Sprintf("lunless vm show %s", at)}})
			continue
		}
		jobs = append(jobs, jl.found())
	}
	return jobs, ctx.Err()
}
