package host

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lunless/smbstore"
	guest "lunless/testdata/guest/vm"
)

// Checkpoints of a running guest: it goes on from each, and back from one that it is
// put back to, with the disks and the memory it had.
func TestCheckpoints(t *testing.T) {
	t.Parallel()
	h := newRig(t, "hv1", nil)
	at := h.makeGuest("web1", smbstore.Location{Path: t.TempDir()})
	h.startAgent()
	_, err := h.Start(h.ctx, at.String(), StartRequest{})
	h.must(err)
	c := h.console("web1")
	h.flushes(c, 2)
	for _, name := range []string{"a", "b"} {
		v, err := h.Checkpoint(h.ctx, "web1", name)
		h.must(err)
		if v.State != Running || !strings.HasSuffix(v.Disks[0].Path, ".avhdx") {
			t.Errorf("after checkpoint %s: %+v", name, v)
		}
		h.flushes(c, 2)
	}
	if _, err := h.Checkpoint(h.ctx, "web1", "a"); !errors.Is(err, ErrCheckpointTaken) {
		t.Errorf("a second of that name: %v", err)
	}
	h.flushes(c, 2)
	h.kill()
	h.startAgent()
	if v := h.await("web1", Running); len(v.Disks[1].Images) != 3 {
		t.Errorf("after a restart of the agent: %+v", v.Disks)
	}
	h.reattach(c, "web1")
	if _, err := c.Verify(h.ctx); err != nil {
		t.Errorf("%v\n%s", err, c.Tail(20))
	}
	c.Close()

	if _, err := h.Restore(h.ctx, "web1", RestoreRequest{Name: "nothing", Discard: true}); !errors.Is(err, ErrNoCheckpoint) {
		t.Errorf("what is not there: %v", err)
	}
	for _, q := range []RestoreRequest{{Name: "a"}, {Name: "a", Keep: true, Discard: true}} {
		if _, err := h.Restore(h.ctx, "web1", q); !errors.Is(err, ErrWouldLose) || !strings.Contains(err.Error(), `since the checkpoint "b"`) {
			t.Errorf("without a word on what it is now: %v", err)
		}
	}
	v, err := h.Restore(h.ctx, "web1", RestoreRequest{Name: "a", Discard: true})
	h.must(err)
	if v.State != Running || len(v.Disks[0].Images) != 2 {
		t.Errorf("put back: %+v", v)
	}
	c = guest.NewConsole()
	defer c.Close()
	h.reattach(c, "web1")
	h.flushes(c, 2)
	if _, err := c.Verify(h.ctx); err != nil {
		t.Errorf("after it was put back: %v\n%s", err, c.Tail(20))
	}
	to := smbstore.Location{Path: t.TempDir()}
	if _, err := h.Migrate(h.ctx, "web1", MigrateRequest{To: to}, nil); err != nil {
		t.Fatal(err)
	}
	at = to.Join("web1")
	h.flushes(c, 2)
	for _, name := range []string{"b", "a"} {
		_, err := h.RemoveCheckpoint(h.ctx, "web1", RemoveRequest{Name: name})
		h.must(err)
		v, err := h.Merged(h.ctx, "web1", nil)
		h.must(err)
		if v.Merging != nil {
			t.Errorf("%s was removed: %s", name, v.Merging.Waits)
		}
	}
	if l, err := h.Checkpoints(h.ctx, "web1"); err != nil || len(l.Checkpoints) != 0 || l.Current != "" {
		t.Errorf("after all were removed: %+v, %v", l, err)
	}
	left, err := os.ReadDir(filepath.Join(at.Path, smbstore.SnapshotsDir))
	if err != nil || len(left) != 0 {
		t.Errorf("%d images are left, %v: %v", len(left), left, err)
	}
	h.must(c.Quit(h.ctx))
	h.await("web1", Stopped)
	offCheckpoint(t, h)
}

// offCheckpoint makes one of a VM that is off, and puts it back to it.
func offCheckpoint(t *testing.T, h *rig) {
	t.Helper()
	_, err := h.Checkpoint(h.ctx, "web1", "off")
	h.must(err)
	v, err := h.Restore(h.ctx, "web1", RestoreRequest{Name: "off", Keep: true, As: "was"})
	h.must(err)
	if v.State != Stopped {
		t.Errorf("put back: %+v", v)
	}
	l, err := h.Checkpoints(h.ctx, "web1")
	h.must(err)
	if len(l.Checkpoints) != 2 || l.Checkpoints[1].Name != "was" || l.Checkpoints[1].Parent != l.Checkpoints[0].ID || l.Current != l.Checkpoints[0].ID || l.Checkpoints[0].Saved != nil {
		t.Errorf("one checkpoint without a state: %+v", l)
	}
}
