package qemu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// SaveOptions says how a VM is saved.
type SaveOptions struct {
	// Resume lets the guest run again once its state is saved, if it ran before.
	Resume bool
	// Progress, if set, is called now and then with the bytes read from QEMU.
	Progress func(int64)
}

// Saved is what was saved.
type Saved struct {
	Raw    int64         // bytes of QEMU's stream
	Stored int64         // bytes written
	Paused time.Duration // how long the guest stood; with Resume until it ran again
}

const (
	migrationFD    = "lunless-migration" // the name QEMU keeps the descriptor by until it uses it
	migrationPause = 5 * time.Millisecond
	recoverTime    = 30 * time.Second // for putting the guest back after a failure
	unlimited      = 0
)

// ErrMigration: QEMU could not write or read the state; it says why.
var ErrMigration = errors.New("QEMU's migration failed")

// Save pauses the guest and writes its state (not its disks) to w. Without
// o.Resume the guest then stands, in StatePostMigrate, for Quit or Cont.
// When it fails, because w does or ctx ends, the guest goes on as before. w must not
// block for ever: nothing can end a Write under way.
//
// A guest that stood before cannot be saved twice without Cont between.
func (m *Machine) Save(ctx context.Context, w io.Writer, o SaveOptions) (Saved, error) {
	var s Saved
	release, err := m.claim(ctx)
	if err != nil {
		return s, err
	}
	defer release()
	before, err := m.Status(ctx)
	if err != nil {
		return s, err
	}
	switch before {
	case StateRunning, StatePaused, StatePrelaunch, StateIOError:
	default:
		return s, fmt.Errorf("VM %q cannot be saved: it is in state %s", m.config.Name, before)
	}
	stood := time.Now()
	err = m.save(ctx, w, o, before, &s)
	if err == nil || before == StateRunning {
		err = errors.Join(err, m.settle(ctx, before == StateRunning && (err != nil || o.Resume)))
	}
	s.Paused = time.Since(stood)
	if err != nil {
		return s, fmt.Errorf("saving VM %q: %w", m.config.Name, err)
	}
	return s, nil
}

// claim keeps Save, Restore and migrations from meeting.
func (m *Machine) claim(ctx context.Context) (release func(), err error) {
	select {
	case m.migrating <- struct{}{}:
		return func() { <-m.migrating }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("VM %q: waiting for another migration to end: %w", m.config.Name, ctx.Err())
	}
}

// afterwards is a context for what must be done when the caller's has ended.
func afterwards(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), recoverTime)
}

// settle waits until QEMU has done what it does after a migration, and lets the
// guest run if it shall.
func (m *Machine) settle(ctx context.Context, run bool) error {
	ctx, cancel := afterwards(ctx)
	defer cancel()
	if err := m.leave(ctx, StateFinish); err != nil || !run {
		return err
	}
	return m.Cont(ctx)
}

// leave waits until the guest is no longer in a state that passes.
func (m *Machine) leave(ctx context.Context, passing RunState) error {
	for {
		now, err := m.Status(ctx)
		if err != nil || now != passing {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("VM %q is still in state %s: %w", m.config.Name, now, ctx.Err())
		case <-time.After(migrationPause):
		}
	}
}

func (m *Machine) save(ctx context.Context, w io.Writer, o SaveOptions, before RunState, s *Saved) error {
	if before == StateRunning {
		if err := m.Stop(ctx); err != nil {
			return err
		}
	}
	if err := m.Execute(ctx, "migrate-set-parameters", object{"max-bandwidth": unlimited}, nil); err != nil {
		return err
	}
	conn, err := m.openMigration(ctx, "migrate")
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	err = m.pack(ctx, conn, w, o, s)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return errors.Join(err, m.cancelMigration(ctx, conn))
}

// openMigration gives QEMU one end of a connection and starts its migration over
// it, out (migrate) or in (migrate-incoming).
func (m *Machine) openMigration(ctx context.Context, command string) (*net.UnixConn, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	err = m.qmp.ExecuteFile(ctx, theirs, "getfd", object{"fdname": migrationFD}, nil)
	if err == nil {
		err = m.Execute(ctx, command, object{"uri": "fd:" + migrationFD}, nil)
	}
	if err != nil {
		ours.Close()
		return nil, err
	}
	return ours, nil
}

// pack reads QEMU's stream to its end and writes the container.
func (m *Machine) pack(ctx context.Context, conn *net.UnixConn, w io.Writer, o SaveOptions, s *Saved) error {
	out, err := newStateWriter(w, m.stateInfo())
	if err != nil {
		return err
	}
	defer out.zstd.Close()
	defer func() { s.Raw, s.Stored = out.raw, out.stored }()
	buf := make([]byte, chunkSize)
	for {
		n, err := io.ReadFull(conn, buf)
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return err
		}
		if n > 0 {
			if err := out.chunk(buf[:n]); err != nil {
				return err
			}
		}
		if o.Progress != nil {
			o.Progress(out.raw)
		}
		if last {
			break
		}
	}
	// QEMU has hung up: it is done, or it failed.
	if err := m.migrationEnd(ctx); err != nil {
		return err
	}
	return out.end()
}

// MigrationInfo is how far a migration is.
type MigrationInfo struct {
	Status   string        `json:"status"` // "" when there was none
	Error    string        `json:"error-desc"`
	Downtime time.Duration `json:"-"` // how long the guest stood, when it is completed
	Total    time.Duration `json:"-"`
	RAM      struct {
		Transferred int64 `json:"transferred"`
		Remaining   int64 `json:"remaining"`
		Total       int64 `json:"total"`
		DirtyRate   int64 `json:"dirty-pages-rate"` // pages a second
		Rounds      int   `json:"dirty-sync-count"`
	} `json:"ram"`
	DowntimeMS int64 `json:"downtime"`
	TotalMS    int64 `json:"total-time"`
}

// Migration tells about the VM's last migration, which a Save and a Restore are,
// too.
func (m *Machine) Migration(ctx context.Context) (MigrationInfo, error) {
	var i MigrationInfo
	err := m.Execute(ctx, "query-migrate", nil, &i)
	i.Downtime, i.Total = time.Duration(i.DowntimeMS)*time.Millisecond, time.Duration(i.TotalMS)*time.Millisecond
	return i, err
}

// migrationEnd waits for the end of a migration: nil when it was completed.
func (m *Machine) migrationEnd(ctx context.Context) error {
	for {
		i, err := m.Migration(ctx)
		if err != nil {
			return err
		}
		switch i.Status {
		case "completed":
			return nil
		case "failed", "cancelled", "none", "":
			return fmt.Errorf("%w: %s", ErrMigration, cmp.Or(i.Error, i.Status, "there is none"))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("migration is %s: %w", i.Status, ctx.Err())
		case <-time.After(migrationPause):
		}
	}
}

// cancelMigration ends a migration out that failed on our side.
func (m *Machine) cancelMigration(ctx context.Context, conn *net.UnixConn) error {
	ctx, cancel := afterwards(ctx)
	defer cancel()
	conn.Close()
	if err := m.Execute(ctx, "migrate_cancel", nil, nil); err != nil {
		return err
	}
	if err := m.migrationEnd(ctx); err != nil && !errors.Is(err, ErrMigration) {
		return err
	}
	return nil
}

// Restore gives a VM that was started with Incoming the state that Save wrote. The
// guest then stands, for Cont. A state that is damaged, or of another VM, is
// refused before the guest runs, and no damaged piece reaches QEMU; QEMU is ended
// whenever Restore fails. Errors: ErrNotState, ErrStateDamaged, ErrStateOfOther,
// ErrMigration, the reader's.
func (m *Machine) Restore(ctx context.Context, r io.Reader) error {
	release, err := m.claim(ctx)
	if err != nil {
		return err
	}
	defer release()
	err = m.restore(ctx, r)
	if err == nil {
		return nil
	}
	ending, cancel := afterwards(ctx)
	defer cancel()
	if killErr := m.Kill(ending); killErr != nil {
		err = errors.Join(err, killErr)
	} else if errors.Is(err, ErrMigration) {
		err = fmt.Errorf("%w: %s", err, m.exit.Log)
	}
	return fmt.Errorf("restoring VM %q: %w", m.config.Name, err)
}

func (m *Machine) restore(ctx context.Context, r io.Reader) error {
	in, info, err := newStateReader(r)
	if err != nil {
		return err
	}
	defer in.zstd.Close()
	if err := info.fits(&m.config); err != nil {
		return err
	}
	conn, err := m.openMigration(ctx, "migrate-incoming")
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	for {
		piece, err := in.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if _, err := conn.Write(piece); err != nil {
			return errors.Join(ctx.Err(), fmt.Errorf("%w: %w", ErrMigration, err))
		}
	}
	if err := conn.CloseWrite(); err != nil {
		return errors.Join(ctx.Err(), err)
	}
	if err := m.migrationEnd(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrMigration, err)
	}
	return m.leave(ctx, StateInMigrate)
}
