package migrate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"

	"lunless/smbstore"
	"lunless/smbstore/block"
)

// Storage moves the home of a VM that does not run to another storage location
// and returns the running job. Everything the home owns is copied, compared and
// handed over; then the source is removed. What interrupts the job (a failure,
// the end of ctx, the death of the process) leaves the VM in one place, and a
// journal in the destination that Resume goes on from and Cancel undoes by.
func Storage(ctx context.Context, o Options) (*Job, error) {
	m, err := prepare(ctx, &o, KindStorage)
	if err != nil {
		return nil, err
	}
	return start(ctx, m.journal.status(), &o, func(ctx context.Context, j *Job) error {
		defer m.release()
		defer m.ends.close()
		return m.settle(ctx, j, m.run(ctx, j, nil))
	}), nil
}

// migration is a storage migration with both ends open.
type migration struct {
	ends    *ends
	o       *Options
	journal *Journal
	home    *smbstore.Home // the source
	release func()         // lets others in this process have the job
	unclaim func() error   // removes what keeps other processes from it; nil for most (takeUp)
}

// prepare checks what can be checked and claims the destination's folder.
func prepare(ctx context.Context, o *Options, kind Kind) (_ *migration, err error) {
	dst := o.To.Join(o.Source.Base())
	if err := apart(o.Source, dst); err != nil {
		return nil, err
	}
	e, err := openEnds(ctx, o.Source, dst, o.SourceOptions, o.ToOptions)
	if err != nil {
		return nil, err
	}
	m := &migration{ends: e, o: o, release: func() {}}
	defer func() {
		if err != nil {
			m.release()
			err = errors.Join(err, e.close())
		}
	}()
	if m.home, err = smbstore.HomeIn(e.src); err != nil {
		return nil, err
	}
	if _, err := readJournal(e.src); err == nil {
		return nil, fmt.Errorf("%s: %w", o.Source, ErrUnfinished)
	} else if !errors.Is(err, ErrNoJob) {
		return nil, err
	}
	host, err := o.host()
	if err != nil {
		return nil, err
	}
	r, err := m.home.Record()
	if err != nil {
		return nil, err
	}
	if r.State == smbstore.Moved {
		return nil, fmt.Errorf("%s: %w to %s", o.Source, smbstore.ErrMoved, r.MovedTo)
	}
	if r.State != smbstore.Owned || r.Host != host {
		return nil, fmt.Errorf("%s: %w: %s", o.Source, smbstore.ErrNotOwner, r)
	}
	if kind == KindStorage {
		if err := m.idle(); err != nil {
			return nil, err
		}
	}
	now := time.Now().UTC().Round(0)
	m.journal = &Journal{Version: 1, Job: uuid.NewString(), Kind: kind, Phase: Planning, Source: o.Source, Destination: dst,
		VM: m.home.ID(), KeepSource: o.KeepSource, Epoch: r.Epoch, Host: host, PID: os.Getpid(), Process: smbstore.Process(os.Getpid()), Started: now}
	if m.release, err = claim(m.journal.Job); err != nil {
		return nil, err
	}
	if err := e.into.MkdirAll(""); err != nil {
		return nil, err
	}
	err = e.into.Mkdir(e.dstName)
	if errors.Is(err, smbstore.ErrUncertain) {
		if infos, lerr := e.dst.ReadDir(""); lerr == nil && len(infos) == 0 {
			err = nil // an empty folder harms nobody, whoever made it
		}
	}
	if err != nil {
		if _, jerr := readJournal(e.dst); errors.Is(err, smbstore.ErrExist) && jerr == nil {
			return nil, fmt.Errorf("%s: %w", dst, ErrUnfinished)
		}
		return nil, err
	}
	if err := m.journal.write(e.dst); err != nil {
		return nil, errors.Join(smbstore.LeadFull(err), e.into.RemoveAll(e.dstName))
	}
	return m, e.into.SyncDir("")
}

// idle is ErrInUse if one of the VM's disks is open for writing, as far as its
// store can tell.
func (m *migration) idle() error {
	c, err := m.home.Config()
	if err != nil {
		return err
	}
	for _, d := range c.Disks {
		f, err := m.ends.src.OpenFile(d.Path, smbstore.Read|smbstore.DenyWrite)
		switch {
		case err == nil:
			err = f.Close()
		case errors.Is(err, smbstore.ErrSharing):
			return fmt.Errorf("%s: %w (%w)", m.ends.src.Location().Join(d.Path), ErrInUse, err)
		case errors.Is(err, smbstore.ErrNotExist):
			err = nil // it was missing before
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// run does what the journal says is left. live, if not nil, has the disks.
func (m *migration) run(ctx context.Context, j *Job, live *liveDisks) error {
	c := newCopier(m.ends.src, m.ends.dst, m.journal, j)
	switch m.journal.Phase {
	case Planning, Copying, Verifying:
		if err := m.copyAll(ctx, c, live); err != nil {
			return err
		}
		fallthrough
	case Switching:
		if err := m.enter(j, Switching, 0); err != nil {
			return err
		}
		failpoint("before-switch")
		if err := m.handOver(ctx, j, live); err != nil {
			return err
		}
		fallthrough
	case Cleaning:
		// The VM is on the destination: from here on the job can only be finished.
		if err := m.enter(j, Cleaning, 0); err != nil {
			return err
		}
		if err := live.serves(ctx, j); err != nil {
			return err
		}
		j.leave() // it copies no more
		if err := m.keep(ctx, j, live); err != nil {
			return err
		}
		failpoint("before-clean")
		return m.clean(ctx)
	case Cancelling:
		return m.undo(ctx)
	}
	return fmt.Errorf("%w: phase %q", ErrBadJournal, m.journal.Phase)
}

// copyAll plans, copies and verifies.
func (m *migration) copyAll(ctx context.Context, c *copier, live *liveDisks) error {
	j := c.job
	folders, files, err := plan(ctx, m.ends.src)
	if err != nil {
		return err
	}
	keepDone(m.journal.Files, files)
	stale := m.journal.Files
	m.journal.Folders, m.journal.Files = folders, files
	if err := m.dropStale(stale); err != nil {
		return err
	}
	total := m.journal.total()
	if live != nil {
		if err := live.assign(ctx); err != nil {
			return err
		}
		total = live.size()
	}
	failpoint("planned")
	if err := m.enter(j, Copying, total); err != nil {
		return err
	}
	if err := m.copy(ctx, c, live); err != nil {
		return err
	}
	failpoint("copied")
	if live == nil {
		if err := m.unchanged(ctx); err != nil {
			return err // known without reading all of it again
		}
		if err := m.chains(ctx); err != nil {
			return err
		}
	}
	if sabotage(sabotageRemoveEarly) {
		if err := m.removeSource(ctx); err != nil {
			return err
		}
	}
	if err := m.enter(j, Verifying, m.toVerify(live)); err != nil {
		return err
	}
	if live != nil {
		return live.verify(ctx, c)
	}
	err = c.verify(ctx)
	if errors.Is(err, ErrVerify) {
		// Most often it is the source that is another by now.
		if cerr := m.unchanged(ctx); errors.Is(cerr, ErrSourceChanged) {
			return cerr
		}
	}
	return err
}

func (m *migration) copy(ctx context.Context, c *copier, live *liveDisks) error {
	if live != nil {
		return live.copy(ctx, c)
	}
	defer c.pace.govern(ctx, &block.Latency{}, nil, c.job)()
	return c.run(ctx)
}

// toVerify is how much there is to compare, in bytes.
func (m *migration) toVerify(live *liveDisks) int64 {
	var n int64
	for _, f := range m.journal.Files {
		if f.Role == "" {
			n += f.Size
		}
	}
	if live != nil && live.o.Verify {
		for _, d := range live.disks {
			n += d.slot.Size()
		}
	}
	return n
}

// dropStale removes from the destination what an earlier plan brought and the
// source holds no more.
func (m *migration) dropStale(old []*FileState) error {
	for _, f := range old {
		if m.journal.file(f.Name) == nil {
			if err := m.ends.dst.Remove(f.Name); err != nil && !errors.Is(err, smbstore.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// enter journals a phase before anything of it is done.
func (m *migration) enter(j *Job, p Phase, total int64) error {
	m.journal.Phase = p
	if err := m.journal.write(m.ends.dst); err != nil {
		return err
	}
	j.phase(p, total)
	failpoint("entered-" + string(p))
	return nil
}

// settle decides what becomes of a run that failed: a cancelled one is undone,
// any other waits for Resume with its reason in the journal.
func (m *migration) settle(ctx context.Context, j *Job, err error) error {
	if err == nil {
		return nil
	}
	clean := context.WithoutCancel(ctx)
	if errors.Is(context.Cause(ctx), ErrCancelled) {
		j.phase(Cancelling, 0)
		if uerr := m.undo(clean); !errors.Is(uerr, ErrCancelled) {
			m.leave(uerr)
			return errors.Join(uerr, err)
		}
		return ErrCancelled
	}
	if m.journal.Phase == Switching && ctx.Err() == nil {
		// The VM is to be startable at the source again, if it has not moved: the
		// destination, where the job could be cancelled, may be gone for good.
		_ = m.takeBack(clean) // what hinders it is most often what err says
	}
	if errors.Is(err, smbstore.ErrUnreachable) {
		// The server has been waited for: the journal gets only a moment more.
		defer time.AfterFunc(journalPatience, func() { _ = m.ends.close() }).Stop()
	}
	return m.fail(err)
}

// journalPatience is how long a job that lost a server may take to journal that.
const journalPatience = 5 * time.Second

// leave has the journal say that nobody is at the job any more, and why, if it can
// be written: else this process, which may be one that lives on, seems to be.
func (m *migration) leave(why error) {
	m.journal.Error, m.journal.PID, m.journal.Process = why.Error(), 0, ""
	if errors.Is(why, smbstore.ErrUnreachable) {
		defer time.AfterFunc(journalPatience, func() { _ = m.ends.close() }).Stop()
	}
	_ = m.journal.write(m.ends.dst) // who cannot write it has said why
}

// fail leaves the job to Resume and Cancel, with the reason in the journal.
func (m *migration) fail(err error) error {
	err = m.leadFull(err)
	m.journal.Error, m.journal.PID, m.journal.Process = err.Error(), 0, ""
	werr := m.journal.write(m.ends.dst)
	if errors.Is(werr, smbstore.ErrNoSpace) {
		werr = m.writeWithoutRoom()
	}
	first := ""
	if errors.Is(err, smbstore.ErrNoSpace) {
		first = "make room there, then "
		if errors.Is(werr, smbstore.ErrNoSpace) {
			werr = nil // said already; the journal is the last one there was room for
		}
	}
	if errors.Is(err, smbstore.ErrUnreachable) && errors.Is(werr, smbstore.ErrUnreachable) {
		first, werr = "once the server can be reached, ", nil
	}
	to := m.journal.Destination
	next := fmt.Sprintf("%sfinish with `lunless migrate resume %s`", first, to)
	if m.journal.Phase == Cleaning {
		next = "the VM has moved: " + next
	} else {
		next += fmt.Sprintf(", or undo with `lunless migrate cancel %s`", to)
	}
	return errors.Join(fmt.Errorf("%w\n%s", err, next), werr)
}
