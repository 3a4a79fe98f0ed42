package host

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lunless/migrate"
	"lunless/smbstore"
)

// startFilled starts the agent and on it a VM like makeIdle's in a local folder, whose
// disk is full of what has to be copied.
func (h *rig) startFilled() (at smbstore.Location) {
	h.t.Helper()
	image := make([]byte, 4<<20)
	rand.Read(image)
	image[510] = 0 // no boot sector
	file := filepath.Join(h.t.TempDir(), "image.raw")
	h.must(os.WriteFile(file, image, 0o600))
	from, err := smbstore.ParseLocation(file)
	h.must(err)
	s, err := smbstore.OpenPath(h.ctx, h.t.TempDir(), h.options())
	h.must(err)
	defer s.Close()
	home, err := smbstore.ImportHome(h.ctx, s, "web1", smbstore.ImportOptions{Image: from,
		Config: smbstore.Config{CPUs: 1, Memory: 16376 << 10, Firmware: "bios"}})
	h.must(err)
	_, err = home.Resolve(h.ctx, h.cfg.Config.Name)
	h.must(err)
	h.startAgent()
	_, err = h.Start(h.ctx, home.Location().String(), StartRequest{})
	h.must(err)
	return home.Location()
}

// move has the VM moved in the background until reached says yes, and gives where the
// migration stands then and where its end comes.
func (h *rig) move(q MigrateRequest, reached func(Migration) bool) (m Migration, ended chan error) {
	h.t.Helper()
	there := make(chan Migration, 1)
	ended = make(chan error, 1)
	go func() {
		_, err := h.Migrate(h.ctx, "web1", q, func(m Migration) {
			if reached(m) {
				select {
				case there <- m:
				default:
				}
			}
		})
		ended <- err
	}()
	select {
	case m = <-there:
	case err := <-ended:
		h.t.Fatalf("it ended: %v", err)
	}
	return m, ended
}

// Who cancels a migration hears when it is undone, and not before. Were he to hang up,
// the agent would go on.
func TestCancelWaitsForItsEnd(t *testing.T) {
	t.Parallel()
	h := newRig(t, "hv1", nil)
	h.cfg.Staged = true
	at := h.startFilled()
	to := smbstore.Location{Path: t.TempDir()}
	h.tellStage("stop cancelling")
	m, ended := h.move(MigrateRequest{To: to, RateLimit: 64 << 10}, func(m Migration) bool { return m.Copied > 0 })
	type end struct {
		m   Migration
		err error
	}
	cancelled := make(chan end, 1)
	go func() {
		m, err := h.CancelMigration(h.ctx, m.ID, nil)
		cancelled <- end{m, err}
	}()
	_, err := h.out.ReadString('\n')
	h.must(err)
	hasty, hangUp := context.WithCancel(h.ctx)
	if m, err := h.CancelMigration(hasty, m.ID, func(Migration) { hangUp() }); err == nil || m.ID == "" || m.Ended {
		t.Errorf("who hangs up hears %+v, %v", m, err)
	}
	select {
	case e := <-cancelled:
		t.Errorf("heard before it is undone: %+v, %v", e.m, e.err)
	default:
	}
	h.tellStage("go")
	if e := <-cancelled; e.err != nil || !e.m.Ended || !e.m.Undone || e.m.Phase != migrate.Cancelled || !e.m.Source.Equal(at) {
		t.Errorf("undone: %+v, %v", e.m, e.err)
	}
	if exists(to.Path, "web1") {
		t.Error("it is undone, and its copy is there")
	}
	if err := <-ended; !errors.Is(err, migrate.ErrCancelled) {
		t.Errorf("who has moved it hears %v", err)
	}
	if m, err := h.CancelMigration(h.ctx, m.ID, nil); err != nil || !m.Undone {
		t.Errorf("cancelled again: %+v, %v", m, err)
	}
}

// A migration that is cancelled once its VM has moved is not undone, and that is said.
func TestCancelComesTooLate(t *testing.T) {
	t.Parallel()
	h := newRig(t, "hv1", nil)
	h.startFilled()
	late := func(id string, says string) {
		t.Helper()
		m, err := h.CancelMigration(h.ctx, id, nil)
		if !errors.Is(err, migrate.ErrTooLate) || m.Undone || !m.Ended || !strings.Contains(err.Error(), says) {
			t.Errorf("cancelled too late: %+v, %v", m, err)
		}
	}
	m, err := h.Migrate(h.ctx, "web1", MigrateRequest{To: smbstore.Location{Path: t.TempDir()}}, nil)
	h.must(err)
	late(m.ID, "it has ended")
	kept := smbstore.Location{Path: t.TempDir()}
	m, ended := h.move(MigrateRequest{To: kept, Grace: time.Hour}, func(m Migration) bool { return m.Phase == migrate.Keeping })
	late(m.ID, "cannot undo the migration of web1 to "+kept.Join("web1").String())
	if err := <-ended; !errors.Is(err, migrate.ErrTooLate) {
		t.Errorf("who has moved it hears %v", err)
	}
	if v := h.await("web1", Running); !v.Location.Equal(m.Destination) {
		t.Errorf("it runs from %s, want %s", v.Location, m.Destination)
	}
	if _, err := h.CancelMigration(h.ctx, "2b6b1f8e-0c3e-4d55-9a40-6d5b6f3c1e77", nil); !errors.Is(err, ErrNoMigration) {
		t.Errorf("one that never was: %v", err)
	}
}
