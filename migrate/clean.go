package migrate

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"github.com/google/uuid"

	"lunless/smbstore"
)

// graceEvery is how often a destination that does not answer at the end of the
// grace is asked again.
const graceEvery = time.Second

// keep waits until the guest has run from the destination for the time of grace,
// and the destination answers at its end.
func (m *migration) keep(ctx context.Context, j *Job, live *liveDisks) error {
	if m.journal.Grace <= 0 || m.journal.KeepSource {
		return nil
	}
	if m.journal.KeptUntil.IsZero() {
		m.journal.KeptUntil = time.Now().UTC().Round(0).Add(m.journal.Grace)
		if err := m.journal.write(m.ends.dst); err != nil {
			return err
		}
	}
	j.phase(Keeping, 0)
	j.update(0, func(s *Status) { s.KeptUntil = m.journal.KeptUntil })
	failpoint("keeping")
	wait := time.Until(m.journal.KeptUntil)
	for {
		select {
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), ErrCancelled) {
				return ErrTooLate
			}
			return ctx.Err()
		case <-time.After(max(wait, 0)):
		}
		if live == nil || live.answer(ctx) == nil {
			j.phase(Cleaning, 0)
			return nil
		}
		wait = graceEvery
	}
}

// clean removes the source, whose record says where the VM went until the last
// moment, and then the journal. It is repeated as a whole after a crash.
func (m *migration) clean(ctx context.Context) error {
	dst, err := smbstore.HomeIn(m.ends.dst)
	if err != nil {
		return err
	}
	r, err := dst.Record()
	if err != nil {
		return err
	}
	if r.State != smbstore.Owned {
		return fmt.Errorf("%w: the destination says %s", smbstore.ErrNotOwner, r)
	}
	if !m.journal.KeepSource {
		if err := m.discard(ctx); err != nil {
			return fmt.Errorf("remove the source: %w", err)
		}
		m.evict(ctx, m.ends.src, r.Epoch+1)
		if err := m.removeSource(ctx); err != nil {
			return fmt.Errorf("remove the source: %w", err)
		}
		failpoint("source-removed")
	}
	m.removeTemps()
	if err := m.ends.dst.Remove(JournalName); err != nil && !errors.Is(err, smbstore.ErrNotExist) {
		return err
	}
	return m.ends.dst.SyncDir("")
}

// discard makes sure, and that it stays so, that the source is nobody's: since the
// VM has moved an administrator may have given it to a host there.
func (m *migration) discard(ctx context.Context) error {
	if m.home == nil {
		return nil // it is gone but for some files
	}
	return m.changeToRemove(ctx, m.home, smbstore.Record.Discard)
}

// discardCopy is discard for the destination of a job that is undone: where the
// source could not be told, an administrator may have decided for the copy.
func (m *migration) discardCopy(ctx context.Context) error {
	dst, err := smbstore.HomeIn(m.ends.dst)
	if errors.Is(err, smbstore.ErrNotHome) {
		return nil
	}
	if err != nil {
		return err
	}
	return m.changeToRemove(ctx, dst, smbstore.Record.DiscardCopy)
}

func (m *migration) changeToRemove(ctx context.Context, home *smbstore.Home, how func(smbstore.Record, string) (smbstore.Record, error)) error {
	discard := func(r smbstore.Record) (smbstore.Record, error) { return how(r, m.journal.Job) }
	_, err := home.Change(ctx, m.journal.Job, discard)
	if errors.Is(err, smbstore.ErrNoSpace) { // which the removal makes
		var r smbstore.Record
		if r, err = home.Record(); err == nil {
			_, err = discard(r)
		}
	}
	if errors.Is(err, smbstore.ErrNotExist) {
		return nil // none was made, or it is gone already: it goes last
	}
	return err
}

// evict has a server close what a process of this VM's that is gone has open still of
// files that are to be removed: it would keep them until it gives up waiting for that
// one. The epoch is above all that the VM was used in. Where it has no effect the
// removal says why it cannot be.
func (m *migration) evict(ctx context.Context, home smbstore.Store, epoch uint64) {
	id, err := uuid.Parse(m.journal.VM)
	if err != nil {
		return
	}
	_, files, err := plan(ctx, home)
	if err != nil {
		return
	}
	var disks []string
	for _, f := range files {
		// Raw disks and UEFI variables have any name: those are not copied as files.
		if p := m.journal.file(f.Name); p == nil || p.Role != "" || smbstore.IsDiskName(f.Name) {
			disks = append(disks, f.Name)
		}
	}
	smbstore.Evict(ctx, home, smbstore.Fence{Instance: id, Epoch: epoch}, disks)
}

// removeTemps removes what cut writes of the journal left: no one but a job writes there.
func (m *migration) removeTemps() {
	infos, err := m.ends.dst.ReadDir("")
	if err != nil {
		return // they are garbage by their names
	}
	for _, i := range infos {
		if !i.Dir && smbstore.IsTemp(i.Name) {
			m.ends.dst.Remove(i.Name) //nolint:errcheck // as above
		}
	}
}

// RemoveEmpty removes the folder of a destination home that a migration was cut
// before, or after, it had anything in it. Anything else stays.
func RemoveEmpty(ctx context.Context, home smbstore.Location, o smbstore.Options) error {
	if home.IsRoot() {
		return nil
	}
	into, err := openStore(ctx, home.Dir(), o)
	if errors.Is(err, smbstore.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer into.Close()
	infos, err := into.ReadDir(home.Base())
	if errors.Is(err, smbstore.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, i := range infos {
		if i.Dir || !smbstore.IsTemp(i.Name) {
			return nil
		}
	}
	for _, i := range infos {
		if err := into.Remove(path.Join(home.Base(), i.Name)); err != nil && !errors.Is(err, smbstore.ErrNotExist) {
			return err
		}
	}
	if err := into.Remove(home.Base()); err != nil && !errors.Is(err, smbstore.ErrNotExist) {
		return err
	}
	return nil
}

// removeSource removes everything of the source's home, its ownership record
// last.
func (m *migration) removeSource(ctx context.Context) error {
	src := m.ends.src
	infos, err := src.ReadDir("")
	if errors.Is(err, smbstore.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, i := range infos {
		if err := ctx.Err(); err != nil {
			return err
		}
		if i.Name == smbstore.MachinesDir {
			continue
		}
		if err := removeEither(src, i.Name, i.Dir); err != nil {
			return err
		}
		failpoint("removed-entry")
	}
	machines, err := src.ReadDir(smbstore.MachinesDir)
	if err != nil && !errors.Is(err, smbstore.ErrNotExist) {
		return err
	}
	for _, records := range []bool{false, true} {
		for _, i := range machines {
			name := path.Join(smbstore.MachinesDir, i.Name)
			if smbstore.IsRecord(name) != records {
				continue
			}
			if err := removeEither(src, name, i.Dir); err != nil {
				return err
			}
		}
	}
	failpoint("removed-record")
	if err := src.RemoveAll(smbstore.MachinesDir); err != nil {
		return err
	}
	if m.ends.above == nil {
		return nil // the home was a share's root
	}
	if err := m.ends.above.RemoveAll(m.ends.srcName); err != nil {
		return err
	}
	return m.ends.above.SyncDir("")
}

func removeEither(s smbstore.Store, name string, dir bool) error {
	if dir {
		return s.RemoveAll(name)
	}
	if err := s.Remove(name); err != nil && !errors.Is(err, smbstore.ErrNotExist) {
		return err
	}
	return nil
}

// copyIsOurs is an error if the destination is somebody's: nobody but an
// administrator makes it so before the source has moved.
func (m *migration) copyIsOurs() error {
	dst, err := smbstore.HomeIn(m.ends.dst)
	if err != nil {
		return nil // there is none yet, or none any more; what else hinders shows soon
	}
	if r, err := dst.Record(); err == nil && r.State == smbstore.Owned {
		return fmt.Errorf("%w: the destination says %s, and stays as it is", smbstore.ErrNotOwner, r)
	}
	return nil
}

// undo gives the VM back to the source and removes what the destination has of
// it, the journal last. It returns ErrCancelled when that is done, ErrTooLate if
// the VM has moved.
func (m *migration) undo(ctx context.Context) error {
	if m.home == nil {
		return ErrTooLate
	}
	r, err := m.home.Record()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInDoubt, err)
	}
	if r.State == smbstore.Moved && r.Job == m.journal.Job {
		return ErrTooLate
	}
	if err := m.copyIsOurs(); err != nil {
		return err
	}
	// The phase is journalled first: a crash from here on finds a job to cancel,
	// not one to go on with.
	m.journal.Phase = Cancelling
	err = m.journal.write(m.ends.dst)
	if errors.Is(err, smbstore.ErrNoSpace) {
		err = m.undoWithoutRoom(ctx, r)
	}
	if err != nil {
		if r.State == smbstore.Offered {
			err = errors.Join(err, m.takeBack(ctx)) // the VM at least, whatever stays there
		}
		return err
	}
	failpoint("cancelling")
	if err := m.takeBack(ctx); err != nil {
		return err
	}
	m.journal.Phase = Cancelling
	if err := m.discardCopy(ctx); err != nil {
		return err
	}
	failpoint("taken-back")
	m.evict(ctx, m.ends.dst, max(r.Epoch, m.journal.Epoch)+2) // the copy was open in one more than the VM
	infos, err := m.ends.dst.ReadDir("")
	if err != nil {
		return err
	}
	for _, i := range infos {
		if i.Name == JournalName || m.unclaim != nil && i.Name == claimName() {
			continue
		}
		if err := removeEither(m.ends.dst, i.Name, i.Dir); err != nil {
			return fmt.Errorf("the VM is where it was; the rest of its copy could not be removed: %w", err)
		}
		failpoint("cancel-removed-entry")
	}
	if err := m.removeDestination(); err != nil {
		return fmt.Errorf("the VM is where it was; the rest of its copy could not be removed: %w", err)
	}
	return errors.Join(ErrCancelled, m.ends.into.SyncDir(""))
}

// removeDestination removes the destination's folder with the journal, which goes before
// what keeps others from the job. Somebody who has found the journal a moment ago may be
// making a file there just now, and removes it.
func (m *migration) removeDestination() error {
	if err := removeEither(m.ends.dst, JournalName, false); err != nil {
		return err
	}
	for until := time.Now().Add(claimWait); ; time.Sleep(20 * time.Millisecond) {
		err := m.ends.into.RemoveAll(m.ends.dstName)
		if !errors.Is(err, smbstore.ErrNotEmpty) || time.Now().After(until) {
			return err
		}
	}
}
