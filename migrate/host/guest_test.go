package host

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lunless/smbstore"
	"lunless/smbstore/storetest"
	guest "lunless/testdata/guest/vm"
)

// A guest starts from a share, writes, and stops; what it wrote is on its disks. Its
// agent and its server are killed and started again while it works: it sees a stall,
// and no error.
func TestGuestOutlivesAgentAndServer(t *testing.T) {
	t.Parallel()
	server := storetest.StartLunless(t)
	h := newRig(t, "hv1", server)
	at := h.makeGuest("web1", server.Location(""))
	home, err := smbstore.OpenHome(h.ctx, at, h.options())
	h.must(err)
	h.must(home.UpdateConfig(func(c *smbstore.Config) error {
		c.StoragePatience = 2
		return nil
	}))
	h.must(home.Close())
	h.startAgent()
	v, err := h.Start(h.ctx, at.String(), StartRequest{})
	h.must(err)
	if v.State != Running || v.Epoch != 3 || len(v.Disks) != 2 {
		t.Errorf("started: %+v", v)
	}
	if _, err := h.Start(h.ctx, "web1", StartRequest{}); !errors.Is(err, ErrRunning) {
		t.Errorf("started again: %v", err)
	}
	c := h.console("web1")
	defer c.Close()
	h.flushes(c, 3)
	for range 2 {
		server.Kill()
		server.Start(t)
		h.flushes(c, 2)
		h.kill()
		h.startAgent()
		again := h.await("web1", Running)
		if again.PID != v.PID || again.Epoch != v.Epoch+1 {
			t.Errorf("after a restart of the agent: process %d in epoch %d, before %d in %d", again.PID, again.Epoch, v.PID, v.Epoch)
		}
		v = again
		h.reattach(c, "web1")
		h.flushes(c, 3)
	}
	h.signal(15)
	server.Kill()
	h.startAgent()
	for v := h.await("web1", InDoubt); !strings.Contains(v.Reason, "127.0.0.1"); v = h.await("web1", InDoubt) {
		time.Sleep(20 * time.Millisecond) // it has not been refused yet
	}
	server.Start(t)
	h.await("web1", Running)
	h.reattach(c, "web1")
	h.flushes(c, 3)

	// Longer than its patience, the guest is paused.
	server.Pause()
	if v := h.await("web1", Paused); !strings.Contains(v.Reason, "has not answered for 2s") {
		t.Errorf("its server is silent: %s", v.Reason)
	}
	server.Continue()
	h.await("web1", Running)
	h.flushes(c, 3)
	if found, err := c.Verify(h.ctx); err != nil || found.Blocks == 0 {
		t.Errorf("verified: %+v, %v\n%s", found, err, c.Tail(20))
	}
	if err := c.Err(); err != nil {
		t.Errorf("%v\n%s", err, c.Tail(20))
	}
	h.must(c.Quit(h.ctx))
	h.await("web1", Stopped)
	checkDisks(t, h, c, at)
}

// checkDisks verifies from outside what the guest said it had flushed.
func checkDisks(t *testing.T, h *rig, c *guest.Console, home smbstore.Location) {
	t.Helper()
	disks := []smbstore.Location{home.Join("Virtual Hard Disks/disk0.vhdx"), home.Join("Virtual Hard Disks/disk1.vhdx")}
	if report, err := guest.Check(h.ctx, c.Records(), h.options(), disks...); err != nil {
		t.Errorf("%v\n%+v", err, report)
	}
}

// A second agent is refused, with the data folder and with the name alone.
func TestSecondAgentRefused(t *testing.T) {
	h := newRig(t, "hv1", nil)
	h.startAgent()
	other := newRig(t, "hv2", nil)
	other.cfg.Config.Name = h.cfg.Config.Name
	for name, cfg := range map[string]Config{"folder": {Data: h.Data, Name: "hv9-" + h.cfg.Config.Name}, "name": other.cfg.Config} {
		ctx, cancel := context.WithCancel(h.ctx)
		cancel()
		if err := Run(ctx, cfg, func(string) {}); !errors.Is(err, ErrAgentRunning) {
			t.Errorf("another with the same %s: %v", name, err)
		}
	}
	if _, err := (Client{Data: other.Data}).Host(h.ctx); !errors.Is(err, ErrNoAgent) {
		t.Errorf("a folder without an agent: %v", err)
	}
	if _, err := h.Show(h.ctx, "nobody"); !errors.Is(err, ErrNoVM) || !strings.Contains(err.Error(), "vm list") {
		t.Errorf("a VM that is not there: %v", err)
	}
}

// Another host takes the VM by an administrator's word: it runs there, and the
// first host's guest is ended, without a write of it arriving.
func TestTakenByAnotherHost(t *testing.T) {
	t.Parallel()
	server := storetest.StartLunless(t)
	hv1, hv2 := newRig(t, "hv1", server), newRig(t, "hv2", server)
	at := hv1.makeGuest("web1", server.Location(""))
	hv1.startAgent()
	hv2.startAgent()
	_, err := hv1.Start(hv1.ctx, at.String(), StartRequest{})
	hv1.must(err)
	c := hv1.console("web1")
	defer c.Close()
	hv1.flushes(c, 3)
	if _, err := hv2.Start(hv2.ctx, at.String(), StartRequest{}); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), hv1.cfg.Config.Name) {
		t.Fatalf("without the word: %v", err)
	}
	_, err = hv2.Start(hv2.ctx, at.String(), StartRequest{TakeOver: true})
	hv2.must(err)
	if v := hv1.await("web1", Lost); !strings.Contains(v.Reason, hv2.cfg.Config.Name) {
		t.Errorf("the first host says %q", v.Reason)
	}
	conn, err := hv2.Console(hv2.ctx, "web1")
	hv2.must(err)
	c.Attach(conn)
	if ready, err := c.Await(hv2.ctx); err != nil || ready.Boots != 2 {
		t.Errorf("on the other host: %+v, %v\n%s", ready, err, c.Tail(20))
	}
	hv2.must(c.Quit(hv2.ctx))
	hv2.await("web1", Stopped)
	checkDisks(t, hv2, c, at)
}

// A guest that was saved goes on where it was, also on another host, and once only.
func TestSavedGuestGoesOn(t *testing.T) {
	t.Parallel()
	h := newRig(t, "hv1", nil)
	at := h.makeGuest("web1", smbstore.Location{Path: t.TempDir()})
	h.startAgent()
	_, err := h.Start(h.ctx, at.String(), StartRequest{})
	h.must(err)
	c := h.console("web1")
	defer c.Close()
	for range 2 {
		h.flushes(c, 2)
		v, err := h.Save(h.ctx, "web1")
		h.must(err)
		if v.State != SavedOff {
			t.Errorf("saved: %+v", v)
		}
		h.kill()
		h.startAgent()
		if v, err := h.Show(h.ctx, "web1"); err != nil || v.State != SavedOff {
			t.Errorf("after a restart of the agent: %+v, %v", v, err)
		}
		_, err = h.Start(h.ctx, "web1", StartRequest{})
		h.must(err)
		h.reattach(c, "web1")
		h.flushes(c, 2)
	}
	if _, err := c.Verify(h.ctx); err != nil {
		t.Errorf("%v\n%s", err, c.Tail(20))
	}
	left, err := filepath.Glob(filepath.Join(at.Path, "*", "*.state"))
	if err != nil || len(left) != 0 {
		t.Errorf("states that are used up: %v, %v", left, err)
	}
	_, err = h.Stop(h.ctx, "web1", StopRequest{Force: true})
	h.must(err)
	checkDisks(t, h, c, at)
}
