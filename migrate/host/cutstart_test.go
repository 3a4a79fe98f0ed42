package host

import (
	"strings"
	"syscall"
	"testing"

	"lunless/smbstore"
)

// A VM whose start was cut before there was a QEMU has not crashed.
func TestCutStartIsNoCrash(t *testing.T) {
	t.Parallel()
	h := newRig(t, "hv1", nil)
	h.cfg.Staged = true
	storage, err := smbstore.ParseLocation(h.t.TempDir())
	h.must(err)
	at := h.makeIdle("web1", storage)
	h.startAgent()
	h.tellStage("stop start-noted")
	started := make(chan error, 1)
	go func() {
		_, err := h.Start(h.ctx, at.String(), StartRequest{})
		started <- err
	}()
	_, err = h.out.ReadString('\n')
	h.must(err)
	h.kill()
	if err := <-started; err == nil {
		t.Error("it was started")
	}
	h.startAgent()
	if v := h.await("web1", Stopped); !strings.Contains(v.Reason, "start was cut short") {
		t.Errorf("its start was cut: %+v", v)
	}
	if _, err := h.Stop(h.ctx, "web1", StopRequest{}); err == nil || !strings.Contains(err.Error(), "start was cut short") {
		t.Errorf("stopped: %v", err)
	}
	_, err = h.Start(h.ctx, "web1", StartRequest{})
	h.must(err)
	v := h.await("web1", Running)
	h.kill()
	h.must(syscall.Kill(v.PID, syscall.SIGKILL)) // that is a crash
	h.startAgent()
	h.await("web1", Crashed)
}

// A guest that is ended by force before the agent could take it over has not crashed.
func TestForceOfWhatIsLeft(t *testing.T) {
	t.Parallel()
	h := newRig(t, "hv1", nil)
	h.startIdle()
	v := h.await("web1", Running)
	h.must(syscall.Kill(v.PID, syscall.SIGSTOP)) // its QEMU does not answer
	h.kill()
	h.startAgent()
	h.await("web1", InDoubt)
	v, err := h.Stop(h.ctx, "web1", StopRequest{Force: true})
	if err != nil || v.State != Stopped || v.Reason != byForce {
		t.Errorf("ended by force: %+v, %v", v, err)
	}
}
