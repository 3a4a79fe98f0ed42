package host

import (
	"os"
	"testing"
	"time"

	"lunless/smbstore"
)

// What stands for an operation that was cut goes when the VM is started, also where the
// agent could not see to it itself.
func TestStartClearsNoteOfCutOperation(t *testing.T) {
	t.Parallel()
	h := newRig(t, "hv1", nil)
	at := h.startIdle()
	h.noted(func() {
		h.must(os.Rename(at.Path, at.Path+".away"))
		h.startAgent()
		time.Sleep(500 * time.Millisecond) // it finds no home, most likely, and leaves the note
		h.must(os.Rename(at.Path+".away", at.Path))
	})
	v, err := h.Start(h.ctx, "web1", StartRequest{})
	if err != nil || len(v.Unfinished) != 0 {
		t.Errorf("it was started: %+v, %v", v, err)
	}
	h.kill()
	list, _, err := (&Agent{cfg: h.cfg.Config}).loadKept()
	h.must(err)
	if len(list) != 1 || list[0].Doing != "" || list[0].Starting {
		t.Errorf("kept: %+v", list[0])
	}
}

// What stands for an operation that was cut is void once another host has the VM.
func TestNoteOfCutOperationIsVoid(t *testing.T) {
	t.Parallel()
	h := newRig(t, "hv1", nil)
	at := h.startIdle()
	h.noted(func() {
		home, err := smbstore.OpenHome(h.ctx, at, h.options())
		h.must(err)
		defer home.Close()
		_, err = home.Resolve(h.ctx, "hv2")
		h.must(err)
		h.startAgent()
	})
	for until := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		v, err := h.Show(h.ctx, "web1")
		h.must(err)
		if len(v.Unfinished) == 0 {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("another host has it: %+v", v)
		}
	}
}

// noted ends the VM and the agent, notes an operation that was cut, and has start start
// the agent.
func (h *rig) noted(start func()) {
	h.t.Helper()
	_, err := h.Stop(h.ctx, "web1", StopRequest{Force: true})
	h.must(err)
	h.kill()
	a := &Agent{cfg: h.cfg.Config}
	list, _, err := a.loadKept()
	h.must(err)
	list[0].Doing = "a checkpoint"
	h.must(a.keep(list[0]))
	start()
}
