package host

import (
	"errors"
	"strings"
	"testing"

	"lunless/migrate/qemu"
)

// A guest that people have paused goes on when its VM is started, whether the agent saw
// them do it or found it so. One that runs does not care.
func TestStartOfPausedGuest(t *testing.T) {
	t.Parallel()
	h := newRig(t, "hv1", nil)
	h.startIdle()
	v := h.await("web1", Running)
	for _, found := range []bool{false, true} {
		h.must(h.spare(v.ID, "stop", nil))
		h.await("web1", Paused)
		if found {
			h.kill()
			h.startAgent()
			h.await("web1", Paused)
		}
		if _, err := h.Start(h.ctx, "web1", StartRequest{DiscardState: true}); !errors.Is(err, ErrRunning) {
			t.Errorf("found so %v: its state is discarded: %v", found, err)
		}
		on, err := h.Start(h.ctx, "web1", StartRequest{})
		if err != nil || on.State != Running || on.Reason != "" || on.PID != v.PID {
			t.Errorf("found so %v: it was paused: %+v, %v", found, on, err)
		}
		var s struct{ Status qemu.RunState }
		h.must(h.spare(v.ID, "query-status", &s))
		if s.Status != qemu.StateRunning {
			t.Errorf("found so %v: QEMU says %s", found, s.Status)
		}
	}
	if _, err := h.Start(h.ctx, "web1", StartRequest{}); !errors.Is(err, ErrRunning) {
		t.Errorf("it runs already: %v", err)
	}
}

// startRefused starts a VM whose guest stands for its storage, which is not what it
// waits for.
func (h *rig) startRefused(name, why string) {
	h.t.Helper()
	if _, err := h.Start(h.ctx, name, StartRequest{}); !errors.Is(err, ErrRunning) || !strings.Contains(err.Error(), why) {
		h.t.Errorf("started while it stands: %v: want %q", err, why)
	}
}
