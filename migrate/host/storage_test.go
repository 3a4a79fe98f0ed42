package host

import (
	"errors"
	"os"
	"testing"
	"time"

	"lunless/migrate"
	"lunless/smbstore"
	"lunless/smbstore/block"
	"lunless/smbstore/storetest"
)

// The storage of a running VM moves from a continuously available share to another
// server and to a local folder; the guest verifies all it wrote, and the agent's
// restart finds it where it is. A migration that is cancelled, or whose agent is
// killed, leaves the VM at its source, and nothing at the destination.
func TestStorageMovesUnderGuest(t *testing.T) {
	t.Parallel()
	one, two := storetest.StartLunless(t), storetest.StartLunless(t)
	h := newRig(t, "hv1", one)
	from, local := one.Location(""), smbstore.Location{Path: t.TempDir()}
	from.Share = "ca"
	at := h.makeGuest("web1", from)
	h.startAgent()
	_, err := h.Start(h.ctx, at.String(), StartRequest{})
	h.must(err)
	c := h.console("web1")
	defer c.Close()
	cancelled(t, h, local, func(m Migration) {
		m, err := h.CancelMigration(h.ctx, m.ID, nil)
		if err != nil || !m.Ended || !m.Undone || m.Phase != migrate.Cancelled || exists(local.Path, "web1") {
			t.Errorf("cancelled: %+v, %v", m, err)
		}
	})
	cancelled(t, h, local, func(Migration) {
		h.kill()
		h.startAgent()
		h.await("web1", Running)
		h.reattach(c, "web1")
	})
	for _, to := range []smbstore.Location{two.Location(""), local} {
		h.flushes(c, 2)
		m, err := h.Migrate(h.ctx, "web1", MigrateRequest{To: to}, nil)
		if err != nil || m.Phase != migrate.Done {
			t.Fatalf("to %s: %+v, %v", to, m, err)
		}
		t.Logf("to %s: %v in all, writers held for %v", to, time.Since(m.Started).Round(time.Millisecond), m.Stall)
		if _, err := smbstore.OpenHome(h.ctx, at, h.options()); !errors.Is(err, smbstore.ErrNotHome) && !errors.Is(err, smbstore.ErrNotExist) {
			t.Errorf("the old home %s: %v", at, err)
		}
		at = to.Join("web1")
		if v := h.await("web1", Running); !v.Location.Equal(at) {
			t.Errorf("it runs from %s, want %s", v.Location, at)
		}
		h.flushes(c, 2)
	}
	h.kill()
	h.startAgent()
	h.await("web1", Running)
	h.reattach(c, "web1")
	if _, err := c.Verify(h.ctx); err != nil {
		t.Errorf("%v\n%s", err, c.Tail(20))
	}
	h.must(c.Quit(h.ctx))
	h.await("web1", Stopped)
	if err := c.Err(); err != nil {
		t.Errorf("%v\n%s", err, c.Tail(20))
	}
	checkDisks(t, h, c, at)
}

// cancelled moves the VM until something has been copied, has stop end that, and sees
// that the VM is where it was and nothing is left.
func cancelled(t *testing.T, h *rig, to smbstore.Location, stop func(Migration)) {
	t.Helper()
	before, err := h.Show(h.ctx, "web1")
	h.must(err)
	started, ended := make(chan Migration, 1), make(chan error, 1)
	go func() {
		_, err := h.Migrate(h.ctx, "web1", MigrateRequest{To: to, RateLimit: 1 << 20}, func(m Migration) {
			if m.Copied > 0 {
				select {
				case started <- m:
				default:
				}
			}
		})
		ended <- err
	}()
	select {
	case m := <-started:
		stop(m)
	case err := <-ended:
		t.Fatalf("it ended: %v", err)
	}
	if err := <-ended; err == nil {
		t.Error("a migration that was ended ended well")
	}
	if v := h.await("web1", Running); !v.Location.Equal(before.Location) {
		t.Errorf("it runs from %s, want %s", v.Location, before.Location)
	}
	for {
		left, err := os.ReadDir(to.Path)
		h.must(err)
		if len(left) == 0 {
			return
		}
		if h.ctx.Err() != nil {
			t.Fatalf("left over at the destination: %v", left)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// A move takes the slot that the guest's requests come to: were it the last
// destination's own, each move would add a step to every request.
func TestMovesShareOneSlot(t *testing.T) {
	r := &run{v: newVM(&Agent{}, &kept{})}
	d := &disk{}
	served := block.NewSlot(block.NewMem(1 << 20))
	r.device(d, served)
	d.become(smbstore.Disk{Path: "moved"}, nil)
	if d.first() != served {
		t.Error("after a move the guest's slot is another")
	}
	again := block.NewSlot(block.NewMem(1 << 20)) // as after a checkpoint
	if r.device(d, again); d.first() != again {
		t.Error("a disk that is released with another chain has its old slot")
	}
}
