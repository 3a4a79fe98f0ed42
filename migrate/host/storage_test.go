package host

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"lunless/migrate"
	"lunless/smbstore"
	"lunless/smbstore/storetest"
)

// The storage of a running VM moves from server to server and to a local folder; the
// guest verifies all it wrote, and the agent's restart finds it where it is.
func TestStorageMovesUnderGuest(t *testing.T) {
	one, two := storetest.StartLunless(t), storetest.StartLunless(t)
	h := newRig(t, "hv1", one)
	at := h.makeGuest("web1", one.Location(""))
	h.startAgent()
	_, err := h.Start(h.ctx, at.String(), StartRequest{})
	h.must(err)
	c := h.console("web1")
	defer c.Close()
	places := []smbstore.Location{two.Location(""), {Path: t.TempDir()}}
	for _, to := range places {
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
		h.kill()
		h.startAgent()
		h.await("web1", Running)
		h.reattach(c, "web1")
	}
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

// An agent that is killed while it moves a VM leaves it at its source, and what was
// copied is removed by the next one; so does a cancelled migration.
func TestAgentKilledWhileItMoves(t *testing.T) {
	server := storetest.StartLunless(t)
	h := newRig(t, "hv1", server)
	at := h.makeGuest("web1", server.Location(""))
	to := smbstore.Location{Path: t.TempDir()}
	h.startAgent()
	_, err := h.Start(h.ctx, at.String(), StartRequest{})
	h.must(err)
	c := h.console("web1")
	defer c.Close()
	for _, how := range []string{"cancel", "kill"} {
		ended := make(chan error, 1)
		started := make(chan Migration, 1)
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
		var m Migration
		select {
		case m = <-started:
		case err := <-ended:
			t.Fatalf("it ended: %v", err)
		}
		if how == "cancel" {
			_, err := h.CancelMigration(h.ctx, m.ID)
			h.must(err)
			if err := <-ended; err == nil {
				t.Error("a migration that was cancelled ended well")
			}
		} else {
			h.kill()
			<-ended
			h.startAgent()
			h.await("web1", Running)
			h.reattach(c, "web1")
		}
		if v, err := h.Show(h.ctx, "web1"); err != nil || !v.Location.Equal(at) {
			t.Errorf("%s: it runs from %s, %v", how, v.Location, err)
		}
		for {
			left, err := os.ReadDir(to.Path)
			h.must(err)
			if len(left) == 0 {
				break
			}
			if h.ctx.Err() != nil {
				t.Fatalf("%s: left over at the destination: %v", how, left)
			}
			time.Sleep(20 * time.Millisecond)
		}
		h.flushes(c, 2)
	}
	if _, err := c.Verify(h.ctx); err != nil {
		t.Errorf("%v\n%s", err, c.Tail(20))
	}
	_, err = h.Migrate(h.ctx, "web1", MigrateRequest{To: to}, nil)
	h.must(err)
	if _, err := os.Stat(filepath.Join(to.Path, "web1", smbstore.DisksDir)); err != nil {
		t.Error(err)
	}
	h.must(c.Quit(h.ctx))
	h.await("web1", Stopped)
	checkDisks(t, h, c, to.Join("web1"))
}
