package host

import (
	"fmt"
	"testing"

	"lunless/smbstore/storetest"
)

// What a host that died had open of a VM's images, those that its disks grow from
// too, keeps the host's next agent from nothing on a continuously available share,
// where the server keeps it for the dead: the VM gets a checkpoint, is put back to
// one and loses one at once.
func TestDeadHostsImages(t *testing.T) {
	t.Parallel()
	server := storetest.StartLunless(t)
	h := newRig(t, "hv1", server)
	storage := server.Location("")
	storage.Share = "ca"
	at := h.makeIdle("web1", storage).String()
	h.startAgent()
	for _, name := range []string{"a", "b"} {
		_, err := h.Checkpoint(h.ctx, at, name)
		h.must(err)
	}
	for _, c := range []struct {
		name string
		do   func() error
	}{
		{"checkpoint", func() error { _, err := h.Checkpoint(h.ctx, at, "c"); return err }},
		{"restore", func() error { _, err := h.Restore(h.ctx, at, RestoreRequest{Name: "b", Discard: true}); return err }},
		{"remove", func() error {
			if _, err := h.RemoveCheckpoint(h.ctx, at, RemoveRequest{Name: "a"}); err != nil {
				return err
			}
			v, err := h.Merged(h.ctx, at, nil)
			if err == nil && v.Merging != nil {
				err = fmt.Errorf("not merged: %s", v.Merging.Waits)
			}
			return err
		}},
	} {
		v, err := h.Start(h.ctx, at, StartRequest{})
		h.must(err)
		h.kill()
		killProcess(v.PID)
		h.startAgent()
		h.await("web1", Crashed)
		if err := c.do(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
