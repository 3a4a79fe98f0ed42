package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"time"

	"github.com/google/uuid"

	"lunless/migrate/qemu"
	"lunless/smbstore"
)

// save writes the guest's state into its home and ends it; the next start goes on
// from there. When it fails the guest goes on.
func (v *vm) save(ctx context.Context, _ struct{}) error {
	done, err := v.begin(ctx)
	if err != nil {
		return v.fail("save", err)
	}
	defer done()
	r, err := v.running()
	if err == nil && r.moving.Load() {
		err = fmt.Errorf("%w: a migration: wait for it, or cancel it", ErrBusy)
	}
	if err != nil {
		return v.fail("save", err)
	}
	did, err := v.doing("a save")
	if err != nil {
		return v.fail("save", err)
	}
	defer did()
	state := fmt.Sprintf("%s/%s-%s.state", smbstore.MachinesDir, v.kept.ID, uuid.NewString()[:8])
	if err := announce(r.at().home, state); err != nil {
		return v.fail("save", err)
	}
	v.set(Saving, "")
	saved, err := r.writeState(ctx, state)
	if err == nil {
		failpoint("save-written")
		err = r.commit(func(c *smbstore.Config) error {
			c.Saved = saved
			settled(c, state)
			return nil
		}, func(c *smbstore.Config) bool { return c.Saved != nil && c.Saved.Path == state })
	}
	if errors.Is(err, errUnsettled) {
		return v.fail("save", err) // were it to run, it might be put back to its state later
	}
	if err != nil {
		return v.fail("save", errors.Join(err, r.goOn(state)))
	}
	failpoint("save-committed")
	r.end(ending{state: SavedOff})
	select {
	case <-r.stopped:
		return nil
	case <-ctx.Done():
		return v.fail("save", context.Cause(ctx))
	}
}

// writeState saves the guest into a new file of its home. The guest stands then,
// and its disks are flushed, whatever it wrote last.
func (r *run) writeState(ctx context.Context, name string) (*smbstore.SavedState, error) {
	m := r.machine.Load()
	f, err := r.at().home.Store().OpenFile(name, smbstore.ReadWrite|smbstore.Create|smbstore.Exclusive)
	if err != nil {
		return nil, err
	}
	w := bufio.NewWriterSize(io.NewOffsetWriter(f, 0), 1<<20)
	s, err := m.Save(ctx, w, qemu.SaveOptions{})
	if err == nil {
		err = errors.Join(w.Flush(), f.Sync())
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if err := r.at().home.Store().SyncDir(path.Dir(name)); err != nil {
		return nil, err
	}
	for _, d := range r.disks {
		_, c := d.now()
		if err := c.Disk().Flush(ctx); err != nil {
			return nil, err
		}
	}
	if r.flash != nil {
		if err := r.flash.Flush(ctx); err != nil {
			return nil, err
		}
	}
	c := m.Config()
	return &smbstore.SavedState{Path: name, Machine: c.Digest(), Size: s.Stored, Taken: time.Now().UTC().Round(time.Second)}, nil
}

// goOn lets a guest run again that was saved, and discards what was announced.
func (r *run) goOn(files ...string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), time.Minute)
	defer cancel()
	m := r.machine.Load()
	err := discard(r.at().home, files...)
	switch s, serr := m.Status(ctx); {
	case serr != nil:
		return errors.Join(err, serr)
	case s != qemu.StateRunning:
		err = errors.Join(err, m.Cont(ctx))
	}
	r.v.set(Running, "")
	return err
}

// errUnsettled: whether the configuration was changed is left to the next agent, or start.
var errUnsettled = errors.New("whether its configuration was changed is not known")

// commit changes the configuration, and says for certain whether it was changed: as
// long as its server does not answer, it is asked again.
func (r *run) commit(change func(*smbstore.Config) error, is func(*smbstore.Config) bool) error {
	return changeConfig(r.ctx, r.at().home, change, is, func(err error) {
		r.v.set(Paused, fmt.Sprintf("%v: %v", errUnsettled, err))
	})
}

// changeConfig changes a configuration, and asks again and again whether it did as long
// as that is not known; waiting is told of it. When ctx ends meanwhile: errUnsettled.
func changeConfig(ctx context.Context, home *smbstore.Home, change func(*smbstore.Config) error, is func(*smbstore.Config) bool, waiting func(error)) error {
	failed := home.UpdateConfig(change)
	for failed != nil {
		c, err := home.Config()
		switch {
		case err == nil && is(&c):
			return nil
		case err == nil, errors.Is(err, smbstore.ErrBadConfig), errors.Is(err, smbstore.ErrNotExist):
			return failed
		}
		if ctx.Err() == nil {
			waiting(err)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", errUnsettled, errors.Join(failed, err))
		}
	}
	return nil
}

// resume gives a QEMU that waits for it the guest's saved state. The state is used
// up before the guest runs: a second time it would not fit the disks any more.
func (r *run) resume(ctx context.Context, m *qemu.Machine, saved *smbstore.SavedState) error {
	f, err := r.at().home.Store().OpenFile(saved.Path, smbstore.Read)
	if err != nil {
		return err
	}
	err = m.Restore(ctx, bufio.NewReaderSize(io.NewSectionReader(f, 0, saved.Size), 1<<20))
	failpoint("state-restored")
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("%w (`lunless vm start --discard-state` boots without the saved state)", err)
	}
	return r.dropState()
}

// dropState takes the saved state out of the configuration, and removes it if no
// checkpoint has it.
func (r *run) dropState() error {
	var path string
	kept := false
	err := r.at().home.UpdateConfig(func(c *smbstore.Config) error {
		if c.Saved == nil {
			return nil
		}
		path, c.Saved = c.Saved.Path, nil
		if kept = hasState(c, path); !kept {
			c.Unfinished = append(c.Unfinished, path)
		}
		return nil
	})
	failpoint("state-dropped")
	if err != nil || path == "" || kept {
		return err
	}
	if err := discard(r.at().home, path); err != nil {
		r.v.a.log.Warn("a saved state that is used up was not removed", "vm", r.v.name(), "file", path, "error", err)
	}
	return nil
}

// hasState tells whether a checkpoint has a state.
func hasState(c *smbstore.Config, path string) bool {
	for _, k := range c.Checkpoints {
		if k.Saved != nil && k.Saved.Path == path {
			return true
		}
	}
	return false
}
