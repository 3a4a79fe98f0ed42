package host

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lunless/smbstore"
	"lunless/smbstore/storetest"
)

// makeIdle makes a home, owned by the rig's host, of a VM whose firmware finds nothing
// to boot: it starts in a moment and listens to no power button.
func (h *rig) makeIdle(name string, at smbstore.Location) smbstore.Location {
	h.t.Helper()
	s, err := smbstore.Open(h.ctx, at, h.options())
	h.must(err)
	defer s.Close()
	home, err := smbstore.CreateHomeWith(h.ctx, s, name, smbstore.Config{CPUs: 1, Memory: 16376 << 10, Firmware: "bios"},
		smbstore.NewHome{Disks: []int64{4 << 20}})
	h.must(err)
	_, err = home.Resolve(h.ctx, h.cfg.Config.Name)
	h.must(err)
	return at.Join(name)
}

// startIdle starts the agent and on it a VM of makeIdle in a local folder.
func (h *rig) startIdle() (at smbstore.Location) {
	h.t.Helper()
	storage, err := smbstore.ParseLocation(h.t.TempDir())
	h.must(err)
	at = h.makeIdle("web1", storage)
	h.startAgent()
	_, err = h.Start(h.ctx, at.String(), StartRequest{})
	h.must(err)
	return at
}

// A guest that does not listen to its power button runs on when the time for that is
// over, and can be ended by force while somebody waits for it still.
func TestStopTimesOut(t *testing.T) {
	t.Parallel()
	h := newRig(t, "hv1", nil)
	h.startIdle()
	within := 100 * time.Millisecond
	_, err := h.Stop(h.ctx, "web1", StopRequest{Timeout: within})
	for err != nil && strings.Contains(err.Error(), "QEMU has not answered") && within < time.Minute { // in so little time
		within *= 2
		_, err = h.Stop(h.ctx, "web1", StopRequest{Timeout: within})
	}
	if err == nil || !strings.Contains(err.Error(), "not powered itself off within "+within.String()) || !strings.Contains(err.Error(), "--force") {
		t.Errorf("a guest that does not listen is stopped: %v", err)
	}
	h.await("web1", Running)
	waits := make(chan error, 1)
	go func() {
		_, err := h.Stop(h.ctx, "web1", StopRequest{Timeout: time.Hour})
		waits <- err
	}()
	time.Sleep(200 * time.Millisecond) // most likely it waits by then
	v, err := h.Stop(h.ctx, "web1", StopRequest{Force: true})
	h.must(err)
	if v.State != Stopped || !strings.Contains(v.Reason, "had not flushed is lost") {
		t.Errorf("ended by force: %+v", v)
	}
	if err := <-waits; err != nil && !errors.Is(err, ErrNotRunning) {
		t.Errorf("who waited for the guest hears %v", err)
	}
}

// A QEMU that does not answer holds up nobody for longer than he gave it, and is ended
// by force all the same.
func TestStopSilentQEMU(t *testing.T) {
	t.Parallel()
	h := newRig(t, "hv1", nil)
	h.startIdle()
	v, err := h.Show(h.ctx, "web1")
	h.must(err)
	h.must(syscall.Kill(v.PID, syscall.SIGSTOP))
	ctx, cancel := context.WithTimeout(h.ctx, time.Minute)
	defer cancel()
	if _, err := h.Stop(ctx, "web1", StopRequest{Timeout: 100 * time.Millisecond}); err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "--force") {
		t.Errorf("a QEMU that stands is stopped: %v", err)
	}
	waits := make(chan error, 1)
	go func() {
		_, err := h.Stop(h.ctx, "web1", StopRequest{Timeout: time.Hour})
		waits <- err
	}()
	time.Sleep(200 * time.Millisecond) // most likely it waits by then
	_, err = h.Stop(h.ctx, "web1", StopRequest{Force: true})
	h.must(err)
	if _, err := os.Stat("/proc/" + strconv.Itoa(v.PID)); err == nil {
		t.Error("QEMU is there still")
	}
	<-waits
}

// A guest whose server is silent is ended by force in about the time that its storage
// is given for that, also where it was moved to that server.
func TestForceOnSilentServer(t *testing.T) {
	t.Parallel()
	for _, moved := range []bool{false, true} {
		t.Run(map[bool]string{false: "started", true: "moved"}[moved], func(t *testing.T) {
			t.Parallel()
			s := storetest.StartLunless(t)
			h := newRig(t, "hv1", s)
			at := s.Location("")
			if moved {
				var err error
				at, err = smbstore.ParseLocation(t.TempDir())
				h.must(err)
			}
			home := h.makeIdle("web1", at)
			h.startAgent()
			_, err := h.Start(h.ctx, home.String(), StartRequest{})
			h.must(err)
			if moved {
				_, err = h.Migrate(h.ctx, "web1", MigrateRequest{To: s.Location("")}, nil)
				h.must(err)
			}
			s.Pause()
			start := time.Now()
			v, err := h.Stop(h.ctx, "web1", StopRequest{Force: true, Timeout: time.Minute})
			s.Continue()
			h.must(err)
			if v.State != Stopped || v.PID != 0 {
				t.Errorf("ended by force: %+v", v)
			}
			t.Logf("it took %v", time.Since(start).Round(time.Millisecond))
			if _, err := h.Start(h.ctx, "web1", StartRequest{}); err != nil {
				t.Errorf("started again: %v", err)
			}
		})
	}
}
